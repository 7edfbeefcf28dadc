//! The business: from the state and a question to a record, or to nothing that needs one.
//!
//! To add a reason for refusal: a variant and a row in the contract's `codes.rs`, then the check in
//! the file here that decides that question.

mod enrolment;
mod finish;
mod intake;
mod metering;
mod operate;
mod request;
mod session;
mod sync;
mod upkeep;

use std::sync::Arc;

use bytes::Bytes;
use ev_contract::{
    codes::Code,
    ids::{BootId, Epoch, SessionId},
    limits,
    time::Now,
    v1::{EdgeRecord, Outcome, SyncRequest},
};

pub use enrolment::{Announcement, ENROLMENTS_MAX};
use intake::Share;
pub use request::{Act, Ask, Known, SeenPrice, Wish, known};

use crate::{
    frame::{FRAME_BYTES_MAX, Forget, Kind, Record},
    keys::EventId,
    tx::{Overlay, Tx},
};
use ev_contract::ids::CpId;

/// What an operator of central may choose. All replicas of one ledger should agree, but no promise
/// rests on it: what is decided is in the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who sells the energy, for receipts.
    pub operator_name: Arc<str>,
    /// How long a start command may be on its way to a charge point.
    pub start_deadline_ms: i64,
    /// How long a charge point waits for a plug.
    pub plug_wait_s: u32,
    /// Open sessions that a driver may have.
    pub sessions_per_driver: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            operator_name: "EV Charging".into(),
            start_deadline_ms: limits::REQUEST_LIFE_MS_MAX,
            plug_wait_s: 120,
            sessions_per_driver: 1,
        }
    }
}

/// What a decision gets from outside.
#[derive(Debug, Clone, Copy)]
pub struct Ctx<'s> {
    /// The appender's clocks.
    pub now: Now,
    /// The settings.
    pub settings: &'s Settings,
    /// A fresh id for the record.
    pub event: EventId,
    /// A fresh id for a session, should one begin.
    pub session: SessionId,
}

/// Largest record of an intake: a frame of its own, less what a frame itself takes.
pub const INTAKE_BYTES_MAX: usize = FRAME_BYTES_MAX - 4 * 1024;

/// A question to decide.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A driver or an operator wants something.
    Request(Ask, Wish),
    /// A charge point presents itself.
    Sync(CpId, SyncRequest),
    /// A charge point sends records.
    Intake(Run),
    /// A charge point has answered a command about a session.
    Answered(CommandAnswer),
    /// A session that was stopped, or whose start is over, is out of reach.
    Release(SessionId),
    /// Old things may go.
    Forget(Forget),
    /// Charge points were enrolled or revoked.
    Announce(Announcement),
}

/// A run of spool records.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Whose, by the subject that it came on.
    pub cp: CpId,
    /// Of which spool.
    pub epoch: Epoch,
    /// Which start of its agent sends it.
    pub boot: BootId,
    /// The lowest number that the spool still holds.
    pub first: u64,
    /// The number of the first record here.
    pub from: u64,
    /// The records.
    pub records: Vec<Incoming>,
}

impl Run {
    /// The record with this number, if it is here.
    fn at(&self, seq: u64) -> Option<&Incoming> {
        let index = usize::try_from(seq.checked_sub(self.from)?).ok()?;
        self.records.get(index)
    }
}

/// One record of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// As it came, in MessagePack.
    pub raw: Bytes,
    /// What it says, or why it cannot be read.
    pub record: Result<EdgeRecord, String>,
}

/// Which command about a session was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Its start.
    Start,
    /// Its stop.
    Stop,
}

/// A charge point's answer to a command about a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandAnswer {
    /// Who answered, by the subject that was asked.
    pub cp: CpId,
    /// About which session.
    pub session: SessionId,
    /// To which command.
    pub verb: Verb,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Which start of its agent answered.
    pub boot: BootId,
    /// What became of it.
    pub outcome: Outcome,
    /// Why not.
    pub code: Option<Code>,
    /// In the device's words.
    pub raw: Option<String>,
}

/// What a decision came to.
#[derive(Debug)]
pub struct Decided {
    /// What to append; none when nothing changes.
    pub record: Option<Record>,
    /// Set when the question can be answered although nothing is appended and nothing is known
    /// of it in the state.
    pub unrecorded: Option<Unrecorded>,
    /// Whether it rests on records of the frame that is being filled: if one of those turns out
    /// void, it is decided again.
    pub leaned_on_frame: bool,
}

/// Answers that follow from what never changes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrecorded {
    /// The request may have been decided and forgotten.
    Forgotten,
    /// A charge point that has never presented itself sent records.
    Unpresented,
    /// More charge points than there may be.
    TooMany,
}

/// Decides one question on the state and what the frame that is being filled will write.
#[must_use]
pub fn decide(overlay: &Overlay<'_>, ctx: Ctx<'_>, command: &Command) -> Decided {
    let mut tx = Tx::new(overlay);
    let mut unrecorded = None;
    let kind = match command {
        Command::Request(ask, wish) => match request::decide(&mut tx, ctx, ask, wish) {
            request::Verdict::Record(kind) => kind,
            request::Verdict::Known => Kind::Refused,
            request::Verdict::Forgotten => {
                unrecorded = Some(Unrecorded::Forgotten);
                Kind::Refused
            }
        },
        Command::Sync(cp, sync) => {
            sync::present(&mut tx, ctx, cp, sync);
            intake::presented(&mut tx, cp, sync);
            Kind::Synced
        }
        Command::Intake(run) => return take_in(overlay, ctx, run),
        Command::Answered(answer) => {
            upkeep::answered(&mut tx, ctx, answer);
            Kind::CommandAnswered
        }
        Command::Release(session) => {
            upkeep::release(&mut tx, ctx, *session);
            Kind::Released
        }
        Command::Forget(forget) => {
            tx.forget(forget.clone());
            Kind::Forget
        }
        Command::Announce(announcement) => {
            if enrolment::announce(&mut tx, announcement).is_err() {
                unrecorded = Some(Unrecorded::TooMany);
            }
            Kind::Enrolled
        }
    };
    let leaned_on_frame = tx.leaned_on_frame();
    Decided {
        record: tx.record(ctx.event, kind),
        unrecorded,
        leaned_on_frame,
    }
}

/// Takes in as much of a run as one frame holds. A record that no append can ever carry would stop
/// every replica that meets the run.
fn take_in(overlay: &Overlay<'_>, ctx: Ctx<'_>, run: &Run) -> Decided {
    let mut share = Share::ALL;
    loop {
        let mut tx = Tx::new(overlay);
        let taken = intake::run(&mut tx, ctx, run, share);
        let leaned_on_frame = tx.leaned_on_frame();
        let record = tx.record(ctx.event, Kind::Intake);
        let fits = record.as_ref().is_none_or(|r| {
            debug_assert!(r.encoded_len() <= r.encoded_len_bound(), "{r:?}");
            // Nearly all are far from it, which is seen without writing them.
            r.encoded_len_bound() <= INTAKE_BYTES_MAX || r.encoded_len() <= INTAKE_BYTES_MAX
        });
        match share.less(run.records.len()) {
            Some(less) if !fits => share = less,
            Some(_) | None => {
                return Decided {
                    record,
                    unrecorded: taken.is_err().then_some(Unrecorded::Unpresented),
                    leaned_on_frame,
                };
            }
        }
    }
}
