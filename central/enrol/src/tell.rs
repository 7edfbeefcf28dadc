//! Telling central and its audit what was done to credentials: what is in the outbox, in order,
//! until it is acknowledged.

use std::time::Duration;

use async_nats::jetstream::{self, context::PublishErrorKind, message::PublishMessage};
use ev_client::chain;
use ev_contract::{
    codes::Problem,
    ids::OperatorId,
    subjects::{AUDIT_NOBODY, Subject},
    time::UnixMs,
    v1::{AuditEntry, EnrolReply, EnrolRequest, ErrorReply},
    wire::{self, CENTRAL, Encoding, Tag},
};
use futures::future::join_all;
use tokio::time::timeout;

use crate::{
    outbox::{Kept, Traits},
    push::{PushError, Servers, connect},
    realm::{REGISTRAR_NAME, Realm, RealmError},
    roles::Role,
};

/// How long to try to connect for what can as well be told later.
pub const BRIEF_WAIT: Duration = Duration::from_secs(3);
/// How long an answer may take: an append to the ledger or to the audit.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Questions are asked so often: a change of central's account costs the answers under way.
const ASKED_MAX: usize = 3;
/// Before one is asked again for which central has no time, or is not there.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Entries that are under way at once.
const UNDER_WAY_MAX: usize = 256;
/// The verb.
const CHARGE_POINT: &str = "charge_point";

/// What was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Entries of the audit.
    pub entries: usize,
    /// Charge points of which central has heard.
    pub charge_points: usize,
    /// What central will never take, and why.
    pub refused: Vec<String>,
}

/// Why not everything could be told. What was not is kept.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// The connection.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The keys.
    #[error(transparent)]
    Realm(#[from] RealmError),
    /// Nobody keeps the audit.
    #[error("there is no audit yet: central makes it when it first runs")]
    NoAudit,
    /// An entry was not acknowledged.
    #[error("the audit did not take an entry: {0}")]
    Entry(String),
    /// Nobody answers.
    #[error("no central serves")]
    NoCentral,
    /// No answer came in time.
    #[error("central does not answer within {} s", ANSWER_WAIT.as_secs())]
    Silent,
    /// Central says no, for now.
    #[error("central says: {0}")]
    Busy(String),
    /// An answer is none.
    #[error("central's answer cannot be read: {0}")]
    Unreadable(String),
}

/// Tells what waits.
///
/// # Errors
/// [`TellError`], with the rest still in the outbox.
pub async fn tell(realm: &mut Realm, servers: &Servers, wait: Duration) -> Result<Told, TellError> {
    let mut told = Told::default();
    let kept = realm.outbox().kept().to_vec();
    if kept.is_empty() {
        return Ok(told);
    }
    let credentials = [realm.creds(Role::Registrar, REGISTRAR_NAME)];
    let nats = connect(&credentials, servers, wait).await?;
    let mut first_error = None;
    let mut rest = Vec::new();
    let (entries, announcements): (Vec<Kept>, Vec<Kept>) = kept
        .into_iter()
        .partition(|one| matches!(one, Kept::Audit(_)));
    append(&nats, entries, &mut told, &mut rest, &mut first_error).await;
    for one in announcements {
        let Kept::Announce {
            at,
            charge_points,
            revoked,
            traits,
        } = &one
        else {
            continue;
        };
        // Without an answer to one there is none to the next.
        if first_error
            .as_ref()
            .is_some_and(|e| matches!(e, TellError::NoCentral | TellError::Silent))
        {
            rest.push(one);
            continue;
        }
        match announce(&nats, *at, charge_points, *revoked, traits).await {
            Ok(Ok(())) => told.charge_points += charge_points.len(),
            Ok(Err(never)) => {
                let names = charge_points.join(" ");
                told.refused.push(format!("{}: {names}", never.message));
            }
            Err(error) => {
                rest.push(one);
                // That central is away says more than that its stream is.
                first_error = Some(error);
            }
        }
    }
    realm.outbox().keep(rest)?;
    first_error.map_or(Ok(told), Err)
}

/// Appends entries. One that is there already, since its acknowledgement was lost, is told by its id.
async fn append(
    nats: &async_nats::Client,
    entries: Vec<Kept>,
    told: &mut Told,
    rest: &mut Vec<Kept>,
    first_error: &mut Option<TellError>,
) {
    let mut js = jetstream::new(nats.clone());
    js.set_timeout(ANSWER_WAIT);
    let mut entries = entries.into_iter();
    loop {
        let some: Vec<Kept> = entries.by_ref().take(UNDER_WAY_MAX).collect();
        if some.is_empty() {
            return;
        }
        let results = join_all(some.iter().map(|one| append_one(&js, one))).await;
        for (one, result) in some.into_iter().zip(results) {
            match result {
                Ok(()) => told.entries += 1,
                Err(error) => {
                    first_error.get_or_insert(error);
                    rest.push(one);
                }
            }
        }
        if first_error.is_some() {
            rest.extend(entries);
            return;
        }
    }
}

async fn append_one(js: &jetstream::Context, one: &Kept) -> Result<(), TellError> {
    let Kept::Audit(entry) = one else {
        return Ok(());
    };
    let failed = |e: &dyn std::error::Error| TellError::Entry(chain(e));
    let bytes = wire::encode(&**entry, Encoding::MsgPack).map_err(|e| failed(&e))?;
    let message = PublishMessage::build()
        .payload(bytes.into())
        .message_id(&entry.entry_id);
    let ack = js.send_publish(subject_of(entry), message).await;
    let acked = match ack {
        Ok(ack) => ack.await,
        Err(error) => Err(error),
    };
    match acked {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == PublishErrorKind::StreamNotFound => Err(TellError::NoAudit),
        Err(error) => Err(failed(&error)),
    }
}

fn subject_of(entry: &AuditEntry) -> String {
    Subject::Audit {
        kind: entry.kind,
        name: entry.name.clone().unwrap_or_else(|| AUDIT_NOBODY.into()),
    }
    .to_string()
}

/// The outer error is for now, the inner one for good.
async fn announce(
    nats: &async_nats::Client,
    at: UnixMs,
    charge_points: &[String],
    revoked: bool,
    traits: &Traits,
) -> Result<Result<(), Problem>, TellError> {
    let unreadable = |e: &dyn std::error::Error| TellError::Unreadable(chain(e));
    let by = OperatorId::new(REGISTRAR_NAME).map_err(|e| unreadable(&e))?;
    let verb = CHARGE_POINT.to_owned();
    let subject = Subject::Enrolment { by, verb }.to_string();
    let request = EnrolRequest {
        tag: Tag::new(),
        to: CENTRAL.to_owned(),
        at,
        charge_points: charge_points.to_vec(),
        revoked,
        site_id: traits.site.as_ref().map(ToString::to_string),
        time_zone: traits.time_zone.clone(),
        max_kw: traits.max_kw,
    };
    let bytes = wire::encode(&request, Encoding::MsgPack).map_err(|e| unreadable(&e))?;
    let mut why = TellError::Silent;
    for _ in 0..ASKED_MAX {
        let asked = nats.request(subject.clone(), bytes.clone().into());
        let answer = match timeout(ANSWER_WAIT, asked).await {
            Err(_) => {
                why = TellError::Silent;
                continue;
            }
            Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                // One that has just begun to serve listens in a moment.
                why = TellError::NoCentral;
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            Ok(Err(error)) => {
                why = TellError::Busy(chain(&error));
                continue;
            }
            Ok(Ok(answer)) => answer,
        };
        if wire::decode::<EnrolReply>(&answer.payload, Encoding::MsgPack).is_ok() {
            return Ok(Ok(()));
        }
        let refusal: ErrorReply = wire::decode(&answer.payload, Encoding::MsgPack)
            .map_err(|e| TellError::Unreadable(e.0))?;
        if !refusal.error.retryable {
            return Ok(Err(refusal.error));
        }
        why = TellError::Busy(refusal.error.message);
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Err(why)
}
