//! Every subject of the contract, built and parsed here and nowhere else.

use std::fmt;

use crate::{
    ids::{AuditId, CpId, DriverId, OperatorId, ReplicaId, SessionId},
    v1::AuditKind,
};

/// What every subject begins with.
pub const PREFIX: &str = "ev.v1";
/// The queue group in which the central replicas share requests.
pub const QUEUE_CENTRAL: &str = "central";
/// Central's subscription for drivers' requests.
pub const DRIVER_REQUESTS: &str = "ev.v1.driver.*.*";
/// Central's subscription for operators' requests.
pub const OPERATOR_REQUESTS: &str = "ev.v1.op.*.*";
/// Central's subscription for spool records.
pub const CP_EVENTS: &str = "ev.v1.cp.*.evt";
/// Central's subscription for `sync`.
pub const CP_SYNCS: &str = "ev.v1.cp.*.sync";
/// Every replica's subscription for heartbeats.
pub const CP_HEARTBEATS: &str = "ev.v1.cp.*.hb";
/// Commands to charge points.
pub const CP_COMMANDS: &str = "ev.v1.cp.*.cmd.*";
/// Live values of charge points, for drivers.
pub const CP_LIVE_VALUES: &str = "ev.v1.cp.*.live.*.*";
/// Updates of sessions, for drivers.
pub const WATCH: &str = "ev.v1.watch.*.*";
/// Central's subscription for what it is told of credentials.
pub const ENROLMENTS: &str = "ev.v1.enrol.*.*";
/// Entries of the audit about credentials.
pub const AUDIT_ENROLMENTS: &str = "ev.v1.audit.enrol.*";
/// The ledger's only subject.
pub const LEDGER: &str = "ev.v1.ledger";
/// All subjects of the CDR stream.
pub const CDR_ALL: &str = "ev.v1.cdr.>";
/// Receipts alone.
pub const CDR_RECEIPTS: &str = "ev.v1.cdr.*";
/// Adjustments alone.
pub const CDR_ADJUSTMENTS: &str = "ev.v1.cdr.*.*";
/// All subjects of what replicas saw of uptime.
pub const UPTIME_ALL: &str = "ev.v1.uptime.*";
/// All subjects of the audit.
pub const AUDIT_ALL: &str = "ev.v1.audit.>";
/// In the subject of an audit entry, in place of a name that is none.
pub const AUDIT_NOBODY: &str = "_";

/// A subject of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A driver asks.
    Driver { driver: DriverId, verb: String },
    /// Updates of a session for its driver.
    Watch {
        driver: DriverId,
        session: SessionId,
    },
    /// An operator asks.
    Operator { operator: OperatorId, verb: String },
    /// Whoever gives out credentials tells central.
    Enrolment { by: OperatorId, verb: String },
    /// A command to a charge point.
    Command { cp: CpId, verb: String },
    /// A charge point presents itself.
    Sync { cp: CpId },
    /// Spool records of a charge point.
    Event { cp: CpId },
    /// A charge point's heartbeat.
    Heartbeat { cp: CpId },
    /// Live values for the driver of a session.
    Live {
        cp: CpId,
        driver: DriverId,
        session: SessionId,
    },
    /// The ledger.
    Ledger,
    /// A receipt (`adjustment` none) or the n-th adjustment to it.
    Cdr {
        session: SessionId,
        adjustment: Option<u32>,
    },
    /// An entry of the audit, by who acted.
    Audit { kind: AuditKind, name: String },
    /// What a replica saw of uptime.
    Uptime { replica: ReplicaId },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver { driver, verb } => write!(f, "{PREFIX}.driver.{driver}.{verb}"),
            Self::Watch { driver, session } => write!(f, "{PREFIX}.watch.{driver}.{session}"),
            Self::Operator { operator, verb } => write!(f, "{PREFIX}.op.{operator}.{verb}"),
            Self::Enrolment { by, verb } => write!(f, "{PREFIX}.enrol.{by}.{verb}"),
            Self::Command { cp, verb } => write!(f, "{PREFIX}.cp.{cp}.cmd.{verb}"),
            Self::Sync { cp } => write!(f, "{PREFIX}.cp.{cp}.sync"),
            Self::Event { cp } => write!(f, "{PREFIX}.cp.{cp}.evt"),
            Self::Heartbeat { cp } => write!(f, "{PREFIX}.cp.{cp}.hb"),
            Self::Live {
                cp,
                driver,
                session,
            } => write!(f, "{PREFIX}.cp.{cp}.live.{driver}.{session}"),
            Self::Ledger => f.write_str(LEDGER),
            Self::Cdr {
                session,
                adjustment: None,
            } => write!(f, "{PREFIX}.cdr.{session}"),
            Self::Cdr {
                session,
                adjustment: Some(n),
            } => write!(f, "{PREFIX}.cdr.{session}.{n}"),
            Self::Audit { kind, name } => write!(f, "{PREFIX}.audit.{kind}.{name}"),
            Self::Uptime { replica } => write!(f, "{PREFIX}.uptime.{replica}"),
        }
    }
}

impl Subject {
    /// Reads a subject; `None` when it is none of the contract's, or an id in it is invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?.strip_prefix('.')?;
        let mut tokens = rest.split('.');
        let mut next = || tokens.next();
        let subject = match (next()?, next(), next(), next(), next(), next()) {
            ("driver", Some(driver), Some(verb), None, ..) => Self::Driver {
                driver: driver.parse().ok()?,
                verb: verb_token(verb)?,
            },
            ("watch", Some(driver), Some(session), None, ..) => Self::Watch {
                driver: driver.parse().ok()?,
                session: session.parse().ok()?,
            },
            ("op", Some(operator), Some(verb), None, ..) => Self::Operator {
                operator: operator.parse().ok()?,
                verb: verb_token(verb)?,
            },
            ("enrol", Some(by), Some(verb), None, ..) => Self::Enrolment {
                by: by.parse().ok()?,
                verb: verb_token(verb)?,
            },
            ("cp", Some(cp), Some("cmd"), Some(verb), None, _) => Self::Command {
                cp: cp.parse().ok()?,
                verb: verb_token(verb)?,
            },
            ("cp", Some(cp), Some("sync"), None, ..) => Self::Sync {
                cp: cp.parse().ok()?,
            },
            ("cp", Some(cp), Some("evt"), None, ..) => Self::Event {
                cp: cp.parse().ok()?,
            },
            ("cp", Some(cp), Some("hb"), None, ..) => Self::Heartbeat {
                cp: cp.parse().ok()?,
            },
            ("cp", Some(cp), Some("live"), Some(driver), Some(session), None) => Self::Live {
                cp: cp.parse().ok()?,
                driver: driver.parse().ok()?,
                session: session.parse().ok()?,
            },
            ("ledger", None, ..) => Self::Ledger,
            ("cdr", Some(session), None, ..) => Self::Cdr {
                session: session.parse().ok()?,
                adjustment: None,
            },
            ("cdr", Some(session), Some(n), None, ..) => Self::Cdr {
                session: session.parse().ok()?,
                adjustment: Some(number_token(n)?),
            },
            ("audit", Some(kind), Some(name), None, ..) => Self::Audit {
                kind: *AuditKind::ALL.iter().find(|k| k.as_str() == kind)?,
                name: AuditId::new(name).ok()?.to_string(),
            },
            ("uptime", Some(replica), None, ..) => Self::Uptime {
                replica: replica.parse().ok()?,
            },
            _ => return None,
        };
        tokens.next().is_none().then_some(subject)
    }

    /// The subscription of a charge point for its own commands.
    #[must_use]
    pub fn commands_of(cp: &CpId) -> String {
        format!("{PREFIX}.cp.{cp}.cmd.*")
    }

    /// Subscription to the updates of all sessions of a driver.
    #[must_use]
    pub fn watch_of(driver: &DriverId) -> String {
        format!("{PREFIX}.watch.{driver}.*")
    }

    /// A driver's subscription for the live values of one session, whatever charge point it is on.
    #[must_use]
    pub fn live_of(driver: &DriverId, session: SessionId) -> String {
        format!("{PREFIX}.cp.*.live.{driver}.{session}")
    }
}

/// Whether a text can be a verb.
#[must_use]
pub fn is_verb(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn verb_token(text: &str) -> Option<String> {
    is_verb(text).then(|| text.to_owned())
}

/// The one spelling of a number: no sign, no leading zero.
fn number_token(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_survives_the_round_trip() {
        let session: SessionId = "0190a0b0-1111-7222-8333-444455556666".parse().unwrap();
        let driver: DriverId = "alice".parse().unwrap();
        let cp: CpId = "CP-001".parse().unwrap();
        let all = [
            Subject::Driver {
                driver: driver.clone(),
                verb: "start".into(),
            },
            Subject::Watch {
                driver: driver.clone(),
                session,
            },
            Subject::Operator {
                operator: "olga".parse().unwrap(),
                verb: "cp_ls".into(),
            },
            Subject::Enrolment {
                by: "registrar".parse().unwrap(),
                verb: "charge_point".into(),
            },
            Subject::Command {
                cp: cp.clone(),
                verb: "stop".into(),
            },
            Subject::Sync { cp: cp.clone() },
            Subject::Event { cp: cp.clone() },
            Subject::Heartbeat { cp: cp.clone() },
            Subject::Live {
                cp,
                driver,
                session,
            },
            Subject::Ledger,
            Subject::Cdr {
                session,
                adjustment: None,
            },
            Subject::Cdr {
                session,
                adjustment: Some(3),
            },
            Subject::Audit {
                kind: AuditKind::Cp,
                name: "CP-001".into(),
            },
            Subject::Audit {
                kind: AuditKind::Driver,
                name: AUDIT_NOBODY.into(),
            },
            Subject::Uptime {
                replica: "central-1".parse().unwrap(),
            },
        ];
        for subject in all {
            assert_eq!(Subject::parse(&subject.to_string()), Some(subject));
        }
    }

    #[test]
    fn what_is_not_of_the_contract_is_no_subject() {
        for text in [
            "",
            "ev.v1",
            "ev.v2.ledger",
            "ev.v1.driver.alice",
            "ev.v1.driver.a*.start",
            "ev.v1.driver.alice.start.more",
            "ev.v1.driver.alice.START",
            "ev.v1.cp.CP-001.live.alice.not-a-session",
            "ev.v1.cp.CP-001.cmd.start.x.y.z",
            "ev.v1.ledger.x",
            "ev.v1.cdr.0190a0b0-1111-7222-8333-444455556666.03",
            "ev.v1.cdr.0190a0b0-1111-7222-8333-444455556666.+3",
            "ev.v1.audit.op",
            "ev.v1.enrol.registrar",
            "ev.v1.enrol.r*.charge_point",
            "ev.v1.enrol.registrar.charge_point.more",
            "ev.v1.audit.unrecognised.olga",
            "ev.v1.audit.op.o*",
            "ev.v1.audit.op.olga.more",
            "ev.v1x.ledger",
        ] {
            assert_eq!(Subject::parse(text), None, "{text} was taken");
        }
    }
}
