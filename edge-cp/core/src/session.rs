//! A session at its charge point, and the stages that it goes through.

use ev_contract::{
    connector::Phase,
    ids::{ConnectorId, DriverId, SessionId},
    time::UnixMs,
    v1::{EndReason, Limits, Origin, Reading},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Stamp,
    hardware::{DeviceTx, HwReading, OriginKey, StartNumber},
    limits::{HW_RETRY_MS_MAX, HW_RETRY_MS_MIN},
    meter::Meter,
    spool::backoff_ms,
};

/// A session that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The one id.
    pub id: SessionId,
    /// How it began.
    pub origin: Origin,
    /// For whom.
    pub driver_id: Option<DriverId>,
    /// When to end by itself.
    pub limits: Limits,
    /// How long it stands after energy has ended.
    pub idle_s_max: u32,
    /// When it was taken.
    pub taken_at: UnixMs,
    /// How far it is.
    pub stage: Stage,
    /// Anomalies recorded of it so far.
    pub anomalies: u8,
}

/// How far a session is. Each stage owns what only it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a connector, and boxes would hide its transitions"
)]
pub enum Stage {
    /// No start has been sent to the hardware: waits for a plug.
    AwaitingPlug {
        /// Until when.
        until: Deadline,
    },
    /// A start was sent, no transaction has begun.
    Starting(Starting),
    /// A device transaction runs.
    Running(Run),
    /// A stop is asked for and not confirmed by the hardware.
    Stopping(Stopping),
    /// Energy has ended, the session stands.
    Idle {
        /// What was delivered.
        run: Run,
        /// Why energy ended, and why the session will have ended.
        reason: EndReason,
        /// How long it stands.
        until: Deadline,
    },
}

/// A start that the hardware has been asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starting {
    /// The agent's number for it.
    pub start_number: StartNumber,
    /// When it was first sent.
    pub sent_at: UnixMs,
    /// When it is given up.
    pub give_up: Deadline,
    /// Repeats of the command.
    #[serde(skip)]
    pub retry: Retry,
    /// Several copies may be under way, so that the refusal of one says nothing of the others.
    pub uncertain: bool,
    /// The register that stood when it was first sent.
    pub before: Option<Reading>,
    /// The end of its transaction came before the transaction's start.
    pub early_end: Option<EarlyEnd>,
}

/// An end whose start has not arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyEnd {
    /// As the device said it.
    pub over: Over,
    /// The last register, in central's time.
    pub reading: Option<Reading>,
    /// When, by central's clock.
    pub at: UnixMs,
    /// How long the start may still be on its way.
    pub until: Deadline,
}

/// A device transaction is over, as the device says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// When, by the host's wall clock.
    pub at: UnixMs,
    /// The device's name for it.
    pub device_tx: DeviceTx,
    /// Its key, if the device gives one with the end.
    pub origin: Option<OriginKey>,
    /// The start that caused it, if the device says so.
    pub start_number: Option<StartNumber>,
    /// Why.
    pub reason: EndReason,
    /// The last register.
    pub reading: Option<HwReading>,
}

/// A device transaction of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The start that caused it, if it was one.
    pub start_number: Option<StartNumber>,
    /// The device's name for it.
    pub device_tx: DeviceTx,
    /// Its key.
    pub origin: OriginKey,
    /// When it began, as the device said.
    pub start_wall: UnixMs,
    /// The same by the monotonic clock, unless the agent was started since.
    #[serde(skip)]
    pub start_mono_ms: Option<i64>,
    /// Its register.
    pub meter: Meter,
    /// What the device says of the energy.
    pub phase: Phase,
    /// When the device said so, by the monotonic clock.
    #[serde(skip)]
    pub phase_mono_ms: Option<i64>,
    /// When time is up.
    pub time_limit: Option<Deadline>,
    /// The next checkpoint by the minute.
    #[serde(skip)]
    pub checkpoint_mono_ms: u64,
    /// The quarter hour of the last checkpoint.
    pub quarter: i64,
    /// The hardware says, or lets suppose, that it is gone.
    pub doubt: Option<Doubt>,
    /// The charger has booted since it began, and this was its word.
    pub booted: Option<String>,
    /// Readings of another meter epoch that wait for the end of the transaction.
    pub held: Option<Held>,
}

/// Readings after a reset of the meter. A reset also ends transactions, and the end with the old
/// register may arrive after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The first of the new epoch.
    pub first: Reading,
    /// The latest.
    pub last: Reading,
    /// How long the end is waited for.
    pub until: Deadline,
}

/// Why a transaction may be gone, and how long its end may still be on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// The device listed its transactions without it.
    Unlisted(Deadline),
    /// The plug is out and no end was heard.
    Unplugged(Deadline),
    /// A later transaction has begun on the connector, to which all readings belong from there on.
    Replaced(Deadline),
}

/// A stop that holds until the hardware confirms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Why.
    pub reason: EndReason,
    /// The start that was sent.
    pub start_number: Option<StartNumber>,
    /// When the start was first sent.
    pub sent_at: UnixMs,
    /// Several copies of the start may be under way.
    pub uncertain: bool,
    /// The register that stood when the start was first sent.
    pub before: Option<Reading>,
    /// Its transaction, once it is known.
    pub run: Option<Run>,
    /// Repeats of the command.
    #[serde(skip)]
    pub retry: Retry,
    /// The hardware has no such transaction; its end may still be on the way.
    pub gone: Option<Deadline>,
    /// The end of its transaction came before the transaction's start.
    pub early_end: Option<EarlyEnd>,
}

/// A moment that survives a restart. In a process the monotonic clock decides, so that a step of
/// the wall clock ends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    at: UnixMs,
    span_ms: u64,
    #[serde(skip)]
    mono_ms: u64,
}

impl Deadline {
    /// So long after this moment.
    #[must_use]
    pub fn after(stamp: &Stamp, span_ms: u64) -> Self {
        Self {
            at: stamp.at.plus_ms(i64::try_from(span_ms).unwrap_or(i64::MAX)),
            span_ms,
            mono_ms: stamp.now.mono_ms.saturating_add(span_ms),
        }
    }

    /// So long after an earlier moment by central's clock.
    #[must_use]
    pub fn since(stamp: &Stamp, from: UnixMs, span_ms: u64) -> Self {
        let mut deadline = Self {
            at: from.plus_ms(i64::try_from(span_ms).unwrap_or(i64::MAX)),
            span_ms,
            mono_ms: 0,
        };
        deadline.rearm(stamp);
        deadline
    }

    /// Whether it has passed.
    #[must_use]
    pub const fn passed(&self, stamp: &Stamp) -> bool {
        stamp.now.mono_ms >= self.mono_ms
    }

    /// All of it again: while nothing could be heard, nothing was waited for.
    pub fn restart(&mut self, stamp: &Stamp) {
        *self = Self::after(stamp, self.span_ms);
    }

    /// After a restart: what is left of it by the wall clock, never more than all.
    pub fn rearm(&mut self, stamp: &Stamp) {
        let left = u64::try_from(self.at.ms_since(stamp.at)).unwrap_or(0);
        self.mono_ms = stamp.now.mono_ms.saturating_add(left.min(self.span_ms));
    }
}

/// Repeats of a hardware command with back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retry {
    /// Sent so often.
    pub attempts: u32,
    due_mono_ms: u64,
}

impl Retry {
    /// Whether to send now; if so, the next time is set.
    pub fn due(&mut self, mono_ms: u64, random: u64) -> bool {
        if mono_ms < self.due_mono_ms {
            return false;
        }
        let wait = backoff_ms(HW_RETRY_MS_MIN, HW_RETRY_MS_MAX, self.attempts, random);
        self.attempts += 1;
        self.due_mono_ms = mono_ms + wait;
        true
    }

    /// Send again at once: the hardware is back.
    pub fn hurry(&mut self) {
        self.due_mono_ms = 0;
    }
}

impl Session {
    /// Its phase, as connector state and live values show it.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match &self.stage {
            Stage::AwaitingPlug { .. } | Stage::Starting(_) => Phase::Preparing,
            Stage::Running(run) => run.phase,
            Stage::Stopping(_) => Phase::Stopping,
            Stage::Idle { .. } => Phase::Idle,
        }
    }

    /// Its device transaction, once there is one.
    #[must_use]
    pub const fn run(&self) -> Option<&Run> {
        match &self.stage {
            Stage::AwaitingPlug { .. } | Stage::Starting(_) => None,
            Stage::Running(run) | Stage::Idle { run, .. } => Some(run),
            Stage::Stopping(stopping) => stopping.run.as_ref(),
        }
    }

    /// Its device transaction while energy may flow.
    pub(crate) const fn live_run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.stage {
            Stage::AwaitingPlug { .. } | Stage::Starting(_) | Stage::Idle { .. } => None,
            Stage::Running(run) => Some(run),
            Stage::Stopping(stopping) => stopping.run.as_mut(),
        }
    }

    /// The number of the start that was sent for it.
    #[must_use]
    pub const fn start_number(&self) -> Option<StartNumber> {
        match &self.stage {
            Stage::AwaitingPlug { .. } => None,
            Stage::Starting(starting) => Some(starting.start_number),
            Stage::Running(run) | Stage::Idle { run, .. } => run.start_number,
            Stage::Stopping(stopping) => stopping.start_number,
        }
    }

    /// Whether nothing of it is under way: neither a start, a stop nor an end is waited for.
    pub(crate) const fn is_quiet(&self) -> bool {
        match &self.stage {
            Stage::AwaitingPlug { .. } | Stage::Starting(_) | Stage::Stopping(_) => false,
            Stage::Running(run) => run.doubt.is_none() && run.held.is_none(),
            Stage::Idle { .. } => true,
        }
    }

    /// Whether central opened it.
    #[must_use]
    pub const fn from_central(&self) -> bool {
        match self.origin {
            Origin::App | Origin::Operator | Origin::Unrecognised => true,
            Origin::Local | Origin::Free | Origin::Unknown => false,
        }
    }

    /// After a restart: the monotonic clock is another one.
    pub(crate) fn rearm(&mut self, stamp: &Stamp) {
        match &mut self.stage {
            Stage::AwaitingPlug { until } => until.rearm(stamp),
            Stage::Starting(starting) => {
                starting.give_up.rearm(stamp);
                starting.uncertain = true;
                if let Some(early) = &mut starting.early_end {
                    early.until.restart(stamp);
                }
            }
            Stage::Running(run) => run.rearm(stamp),
            Stage::Stopping(stopping) => {
                stopping.uncertain = true;
                if let Some(run) = &mut stopping.run {
                    run.rearm(stamp);
                }
                if let Some(gone) = &mut stopping.gone {
                    gone.restart(stamp);
                }
                if let Some(early) = &mut stopping.early_end {
                    early.until.restart(stamp);
                }
            }
            Stage::Idle { run, until, .. } => {
                run.rearm(stamp);
                until.rearm(stamp);
            }
        }
    }
}

impl Run {
    fn rearm(&mut self, stamp: &Stamp) {
        self.checkpoint_mono_ms = stamp.now.mono_ms;
        if let Some(limit) = &mut self.time_limit {
            limit.rearm(stamp);
        }
        if let Some(held) = &mut self.held {
            held.until.restart(stamp);
        }
        match &mut self.doubt {
            None => {}
            Some(Doubt::Unlisted(until) | Doubt::Unplugged(until) | Doubt::Replaced(until)) => {
                until.restart(stamp)
            }
        }
    }
}

/// A session as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Which.
    pub id: SessionId,
    /// Where.
    pub connector: ConnectorId,
    /// What is left of it.
    pub state: StoredSession,
}

/// An open session in full; of an ended one, that it has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "it only lives on its way to the disk"
)]
pub enum StoredSession {
    /// It goes on.
    Open(Session),
    /// It has ended.
    Ended {
        /// The number of its last record.
        seq: u64,
    },
}
