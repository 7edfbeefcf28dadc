//! What an entry says: who asked, for what, and what they were told.

use async_nats::Message;
use central_core::{
    decide::{Act, Wish},
    keys::Asker,
};
use ev_contract::{
    codes::Code,
    ids::{AuditId, CpId, ReplicaId, SessionId},
    subjects::Subject,
    time::UnixMs,
    v1::{
        AuditEntry, AuditKind, AuditOutcome, AuditReply, CpLsReply, ErrorReply, EventsReply,
        OpReply, ReceiptsReply, SessionLsReply, Status, TariffLsReply, UptimeReply,
    },
    wire::Tag,
};
use uuid::Uuid;

use crate::{
    border::{Asked, Query, Question},
    door::token::Token,
};

/// What nats-server says of the sender, in JSON, where a service import has `share: true`. Whoever
/// is in central's own account can write it too: it is kept, and nothing is decided by it.
const REQUEST_INFO: &str = "Nats-Request-Info";
/// Longest such header that is read; with a user's JWT in it, it has one or two kilobytes.
const REQUEST_INFO_BYTES_MAX: usize = 16 * 1024;
/// So much is kept of a subject: the longest of the contract has 170.
const SUBJECT_CHARS_MAX: usize = 200;

/// What an asker was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What came of it.
    pub outcome: AuditOutcome,
    /// Why not.
    pub code: Option<Code>,
    /// The session that the answer names.
    pub session: Option<SessionId>,
    /// What was done, in words.
    pub words: Option<String>,
}

impl Ending {
    /// That, and no more.
    #[must_use]
    pub const fn new(outcome: AuditOutcome, code: Option<Code>) -> Self {
        Self {
            outcome,
            code,
            session: None,
            words: None,
        }
    }
}

/// An answer to an operator says by itself what goes into the audit.
pub trait Told {
    /// What it tells.
    fn told(&self) -> Ending;
}

impl Told for ErrorReply {
    fn told(&self) -> Ending {
        Ending::new(outcome(self.status), Some(self.error.code))
    }
}

impl Told for OpReply {
    fn told(&self) -> Ending {
        let code = self.error.as_ref().map(|error| error.code);
        Ending {
            session: self.session_id,
            words: self.detail.clone(),
            ..Ending::new(outcome(self.status), code)
        }
    }
}

macro_rules! told_what_they_asked {
    ($($name:ty),+) => { $(impl Told for $name {
        fn told(&self) -> Ending { Ending::new(AuditOutcome::Accepted, None) }
    })+ };
}
told_what_they_asked!(
    CpLsReply,
    SessionLsReply,
    TariffLsReply,
    AuditReply,
    EventsReply,
    ReceiptsReply,
    UptimeReply
);

const fn outcome(status: Status) -> AuditOutcome {
    match status {
        Status::Denied | Status::Failed => AuditOutcome::Denied,
        Status::Unknown | Status::Unrecognised => AuditOutcome::Unknown,
        Status::Accepted | Status::InProgress | Status::Completed => AuditOutcome::Accepted,
    }
}

/// An entry as far as a message shows it. The outcome follows.
#[must_use]
pub fn draft(kind: AuditKind, message: &Message) -> AuditEntry {
    let (name, verb) = match Subject::parse(&message.subject) {
        Some(Subject::Driver { driver, verb }) => (Some(driver.to_string()), verb),
        Some(Subject::Operator { operator, verb }) => (Some(operator.to_string()), verb),
        Some(Subject::Enrolment { by, verb }) => (Some(by.to_string()), verb),
        Some(Subject::Sync { cp }) => (Some(cp.to_string()), "sync".to_owned()),
        Some(Subject::Event { cp }) => (Some(cp.to_string()), "evt".to_owned()),
        Some(Subject::Heartbeat { cp }) => (Some(cp.to_string()), "hb".to_owned()),
        Some(_) | None => (None, "unknown".to_owned()),
    };
    AuditEntry {
        name,
        subject: Some(shortened(&message.subject)),
        credential: credential(message),
        ..blank(kind, verb)
    }
}

/// What a question is about.
pub fn describe(draft: &mut AuditEntry, asked: &Asked) {
    draft.request_id.clone_from(&asked.request_id);
    match &asked.question {
        Err(_) => {}
        Ok(Question::Request(_, wish)) => describe_wish(draft, wish),
        Ok(Question::Query(_, query)) => describe_query(draft, query),
        Ok(Question::Audit(_, page)) => draft.detail = page.filter(),
        Ok(Question::Uptime(..)) => {}
    }
}

fn describe_wish(draft: &mut AuditEntry, wish: &Wish) {
    match wish {
        Wish::Start {
            driver,
            cp,
            connector,
            ..
        } => {
            if draft.kind != AuditKind::Driver {
                draft.driver_id = Some(driver.to_string());
            }
            place(draft, cp, *connector);
        }
        Wish::Stop { session } => draft.session_id = Some(session.to_string()),
        Wish::End {
            session, write_off, ..
        } => {
            draft.session_id = Some(session.to_string());
            draft.detail = write_off.then(|| "write-off".to_owned());
        }
        Wish::Adjust {
            session, amount, ..
        } => {
            draft.session_id = Some(session.to_string());
            draft.detail = Some(format!("amount {amount}"));
        }
        Wish::Service { cp, connector, .. } => place(draft, cp, *connector),
        Wish::Site {
            cp,
            site,
            time_zone,
        } => {
            place(draft, cp, None);
            draft.detail = Some(match time_zone {
                Some(zone) => format!("site {site} ({zone})"),
                None => format!("site {site}"),
            });
        }
        Wish::Act {
            cp,
            connector,
            act: Act::Unlock | Act::Reset,
        } => place(draft, cp, *connector),
        Wish::Block { driver, .. } | Wish::Unblock { driver } => {
            draft.driver_id = Some(driver.to_string());
        }
        Wish::SetTariff {
            tariff,
            scope,
            from,
            ..
        } => {
            draft.tariff_id = Some(tariff.to_string());
            draft.detail = Some(match from {
                Some(from) => format!("{scope} from {} ms", from.0),
                None => scope.to_string(),
            });
        }
        Wish::RemoveTariff {
            scope,
            scheduled_only,
        } => {
            let only = if *scheduled_only {
                " scheduled only"
            } else {
                ""
            };
            draft.detail = Some(format!("{scope}{only}"));
        }
    }
}

fn describe_query(draft: &mut AuditEntry, query: &Query) {
    match query {
        Query::Status(session) => draft.session_id = session.map(|id| id.to_string()),
        Query::Receipt(session) => draft.session_id = Some(session.to_string()),
        Query::CpLs(cp, _) => draft.cp_id = cp.as_ref().map(ToString::to_string),
        Query::SessionLs {
            driver,
            cp,
            session,
            ..
        } => {
            draft.driver_id = driver.as_ref().map(ToString::to_string);
            draft.cp_id = cp.as_ref().map(ToString::to_string);
            draft.session_id = session.map(|id| id.to_string());
        }
        Query::Events { filter, .. } => {
            draft.cp_id = filter.cp.as_ref().map(ToString::to_string);
            draft.session_id = filter.session.map(|id| id.to_string());
        }
        Query::ReceiptLs(page) => {
            draft.detail = page.site.as_ref().map(|site| format!("site {site}"));
        }
        Query::List(_) | Query::History(_) | Query::TariffLs => {}
    }
}

fn place(draft: &mut AuditEntry, cp: &CpId, connector: Option<i64>) {
    draft.cp_id = Some(cp.to_string());
    draft.connector = connector;
}

/// Whether a driver's question can meet another driver's session: then it needs a draft.
#[must_use]
pub fn names_a_session(asked: &Asked) -> bool {
    matches!(
        &asked.question,
        Ok(Question::Request(_, Wish::Stop { .. })
            | Question::Query(Asker::Driver(_), Query::Status(Some(_)) | Query::Receipt(_)))
    )
}

/// A draft with its outcome: an entry.
#[must_use]
pub fn ended(draft: &AuditEntry, replica: &ReplicaId, told: Ending) -> AuditEntry {
    let mut entry = AuditEntry {
        entry_id: new_id(),
        at: crate::engine::wall(),
        replica: replica.clone(),
        outcome: told.outcome,
        code: told.code,
        ..draft.clone()
    };
    // Which version was set, or no longer applies, is known only when it is decided.
    if let (Some(words), Some(detail)) = (told.words, &mut entry.detail)
        && entry.verb.starts_with("tariff")
    {
        detail.push_str(&format!(": {words}"));
    }
    if let Some(session) = told.session {
        entry.session_id = Some(session.to_string());
    }
    entry
}

/// An entry about a connection, of which nothing but the token is known.
#[must_use]
pub fn connection(verb: &str, name: Option<String>, key: Option<&str>) -> AuditEntry {
    AuditEntry {
        name,
        credential: key.filter(|key| is_public_key(key)).map(str::to_owned),
        ..blank(AuditKind::Connection, verb.to_owned())
    }
}

fn blank(kind: AuditKind, verb: String) -> AuditEntry {
    AuditEntry {
        tag: Tag::new(),
        entry_id: new_id(),
        at: UnixMs(0),
        replica: program("central"),
        kind,
        name: None,
        subject: None,
        credential: None,
        verb,
        cp_id: None,
        connector: None,
        session_id: None,
        driver_id: None,
        operator_id: None,
        tariff_id: None,
        key: None,
        request_id: None,
        outcome: AuditOutcome::Unknown,
        code: None,
        repeat: false,
        detail: None,
    }
}

#[expect(clippy::expect_used, reason = "a UUID in text is an id")]
fn new_id() -> AuditId {
    AuditId::new(Uuid::now_v7().to_string()).expect("a UUID is an id")
}

#[expect(clippy::expect_used, reason = "the names stand in this file")]
fn program(name: &'static str) -> ReplicaId {
    ReplicaId::new(name).expect("a program's name is an id")
}

fn shortened(text: &str) -> String {
    text.chars()
        .take(SUBJECT_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// The public key of the sender, as the server says: of the token that it has verified. As `user` it
/// repeats what a client says of itself in CONNECT, where it says something; only without a token is
/// that what it has verified. A user name or a secret in its place is left out.
fn credential(message: &Message) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Info {
        user: Option<String>,
        jwt: Option<String>,
    }
    let info = message.headers.as_ref()?.get(REQUEST_INFO)?.as_str();
    let info = (info.len() <= REQUEST_INFO_BYTES_MAX)
        .then(|| serde_json::from_str::<Info>(info).ok())
        .flatten()?;
    let key = match info.jwt.as_deref() {
        None | Some("") => info.user,
        Some(jwt) => Token::read(jwt).map(|token| token.key),
    };
    key.filter(|key| is_public_key(key))
}

/// A user's public key: 56 of base 32, the first a U.
fn is_public_key(text: &str) -> bool {
    text.len() == 56
        && text.starts_with('U')
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
}
