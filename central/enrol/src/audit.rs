//! What the audit says of an act on credentials.

use ev_contract::{
    codes::Code,
    ids::{AuditId, CpId, DriverId, OperatorId, ReplicaId},
    time::UnixMs,
    v1::{AuditEntry, AuditKind, AuditOutcome},
    wire::Tag,
};
use uuid::Uuid;

use crate::roles::Role;

/// Of free words so much is kept: an error with a path in it.
const DETAIL_CHARS_MAX: usize = 200;

/// What happened to a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolVerb {
    /// The trust of a whole installation was made.
    Init,
    /// Somebody got a credential.
    Enrol,
    /// A credential was taken back.
    Revoke,
    /// A credential was replaced.
    Rotate,
    /// A role's signing key was replaced, and with it all that it signed.
    RotateRole,
    /// The key that signs accounts was replaced.
    RotateSigning,
    /// A server or a client got a certificate.
    Certificate,
    /// Expired credentials were forgotten.
    Forget,
}

impl EnrolVerb {
    /// The word in the audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Enrol => "enrol",
            Self::Revoke => "revoke",
            Self::Rotate => "rotate",
            Self::RotateRole => "rotate_role",
            Self::RotateSigning => "rotate_signing",
            Self::Certificate => "certificate",
            Self::Forget => "forget",
        }
    }
}

/// Whose credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A driver's.
    Driver(DriverId),
    /// An operator's.
    Operator(OperatorId),
    /// A charge point's.
    ChargePoint(CpId),
    /// A part of the installation: a role and a name.
    Part(Role, String),
    /// A role's.
    Role(Role),
    /// Of somebody whose name is none: as it was given.
    Nobody(Role, String),
    /// The whole installation's.
    Installation,
}

impl Whose {
    /// Somebody's in a role.
    #[must_use]
    pub fn of(role: Role, name: &str) -> Self {
        let own = || name.to_owned();
        let whose = match role {
            Role::Driver => DriverId::new(name).map(Self::Driver),
            Role::Operator => OperatorId::new(name).map(Self::Operator),
            Role::ChargePoint => CpId::new(name).map(Self::ChargePoint),
            Role::Central
            | Role::Maintainer
            | Role::Enrol
            | Role::Registrar
            | Role::Doorkeeper
            | Role::Leaf
            | Role::Load => role.check_name(name).map(|()| Self::Part(role, own())),
        };
        whose.unwrap_or_else(|_| Self::Nobody(role, own()))
    }

    fn words(&self) -> Option<String> {
        match self {
            Self::Driver(_) | Self::Operator(_) | Self::ChargePoint(_) | Self::Installation => None,
            Self::Part(role, name) => Some(format!("{role} {name}")),
            Self::Role(role) => Some(role.to_string()),
            Self::Nobody(role, name) => Some(format!("{role} {name:?}")),
        }
    }
}

/// An act on a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Who did it.
    pub by: OperatorId,
    /// What.
    pub verb: EnrolVerb,
    /// Whose credential.
    pub whose: Whose,
    /// The new public key; never the seed.
    pub key: Option<String>,
    /// Why it was refused; none when it was done.
    pub refused: Option<Code>,
    /// More of it, in a few words.
    pub detail: Option<String>,
}

impl Enrolment {
    /// The entry.
    #[must_use]
    pub fn entry(&self, at: UnixMs) -> AuditEntry {
        let words = [self.whose.words(), self.detail.clone()];
        let words: Vec<String> = words.into_iter().flatten().collect();
        let mut entry = AuditEntry {
            tag: Tag::new(),
            entry_id: new_id(),
            at,
            replica: program(),
            kind: AuditKind::Enrol,
            name: Some(self.by.to_string()),
            subject: None,
            credential: None,
            verb: self.verb.as_str().to_owned(),
            cp_id: None,
            connector: None,
            session_id: None,
            driver_id: None,
            operator_id: None,
            tariff_id: None,
            key: self.key.clone().filter(|key| is_public_key(key)),
            request_id: None,
            outcome: match self.refused {
                Some(_) => AuditOutcome::Denied,
                None => AuditOutcome::Accepted,
            },
            code: self.refused,
            repeat: false,
            detail: (!words.is_empty()).then(|| shortened(&words.join(": "))),
        };
        match &self.whose {
            Whose::Driver(id) => entry.driver_id = Some(id.to_string()),
            Whose::Operator(id) => entry.operator_id = Some(id.to_string()),
            Whose::ChargePoint(id) => entry.cp_id = Some(id.to_string()),
            Whose::Part(..) | Whose::Role(_) | Whose::Nobody(..) | Whose::Installation => {}
        }
        entry
    }
}

#[expect(clippy::expect_used, reason = "a UUID in text is an id")]
fn new_id() -> AuditId {
    AuditId::new(Uuid::now_v7().to_string()).expect("a UUID is an id")
}

#[expect(clippy::expect_used, reason = "the name stands here")]
fn program() -> ReplicaId {
    ReplicaId::new("enrol").expect("a program's name is an id")
}

fn shortened(text: &str) -> String {
    text.chars()
        .take(DETAIL_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A user's, an account's or an operator's public key: 56 of base 32. A seed begins with S.
fn is_public_key(text: &str) -> bool {
    text.len() == 56
        && text.starts_with(['U', 'A', 'O'])
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(verb: EnrolVerb, whose: Whose) -> Enrolment {
        Enrolment {
            by: "root".parse().unwrap(),
            verb,
            whose,
            key: Some(nkeys::KeyPair::new_user().public_key()),
            refused: None,
            detail: None,
        }
    }

    #[test]
    fn an_entry_says_who_did_what_to_whom() {
        let enrolled = act(EnrolVerb::Enrol, Whose::of(Role::Driver, "alice"));
        let entry = enrolled.entry(UnixMs(5));
        assert_eq!((entry.kind, entry.at), (AuditKind::Enrol, UnixMs(5)));
        assert_eq!(entry.name.as_deref(), Some("root"));
        assert_eq!(entry.driver_id.as_deref(), Some("alice"));
        assert_eq!((&entry.key, entry.detail), (&enrolled.key, None));
        assert_eq!(entry.outcome, AuditOutcome::Accepted);
        assert_ne!(enrolled.entry(UnixMs(5)).entry_id, entry.entry_id);
        let cp = act(EnrolVerb::Revoke, Whose::of(Role::ChargePoint, "CP-001"));
        assert_eq!(cp.entry(UnixMs(5)).cp_id.as_deref(), Some("CP-001"));
        let part = act(EnrolVerb::Enrol, Whose::of(Role::Central, "central-a"));
        let detail = part.entry(UnixMs(5)).detail;
        assert_eq!(detail.as_deref(), Some("central central-a"));
    }

    #[test]
    fn a_refused_name_and_a_seed_do_no_harm_there() {
        let refused = Enrolment {
            refused: Some(Code::InvalidId),
            key: Some("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY".into()),
            ..act(
                EnrolVerb::Enrol,
                Whose::of(Role::Driver, &format!("\u{1b}[2J*{}", "x".repeat(9_000))),
            )
        };
        let entry = refused.entry(UnixMs(1));
        assert_eq!(entry.key, None, "no secret gets in by mistake");
        assert_eq!((entry.driver_id, entry.code), (None, Some(Code::InvalidId)));
        let detail = entry.detail.unwrap();
        assert!(
            detail.len() <= 200 && !detail.contains('\u{1b}'),
            "{detail}"
        );
    }

    #[test]
    fn every_verb_can_be_asked_for() {
        for verb in [
            EnrolVerb::Init,
            EnrolVerb::Enrol,
            EnrolVerb::Revoke,
            EnrolVerb::Rotate,
            EnrolVerb::RotateRole,
            EnrolVerb::RotateSigning,
            EnrolVerb::Certificate,
            EnrolVerb::Forget,
        ] {
            assert!(ev_contract::subjects::is_verb(verb.as_str()), "{verb:?}");
        }
    }
}
