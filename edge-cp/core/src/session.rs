//! A session at its charge point, and the stages that it goes through.

use ev_contract::{
    connector::Phase,
    ids::{ConnectorId, DriverId, SessionId},
    time::UnixMs,
    v1::{EndReason, Limits, Origin, Reading, TimeQuality},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Moment, Stamp},
    hardware::{DeviceTx, HwReading, OriginKey, StartNumber},
    limits::{CHECKPOINT_MS, HW_RETRY_MS_MAX, HW_RETRY_MS_MIN, TIME_MARK_MS_MIN, TIME_MARK_PART},
    mend::Shift,
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
    pub taken_at: Moment,
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
    pub sent_at: Moment,
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
    pub began: Moment,
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
    pub sent_at: Moment,
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

/// A span of time that survives a restart. What is kept is how much of it is used up, never an end
/// by the wall clock: after a start of the agent that clock may show anything.
///
/// In a process the monotonic clock decides. Of the time in which no process ran, the wall clock is
/// believed when it says that some has passed; when it says none, it was set back, and the part counts
/// that is written down at once ([`TIME_MARK_PART`]), so that starts in a row come to an end: a driver
/// who set a limit pays for no more than it, and may get a twentieth less. As soon as central's time
/// is known, a span whose beginning is known by it as well is exact again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    span_ms: u64,
    /// When it began, by central's clock, where that is known.
    began: Option<UnixMs>,
    /// What was measured of it when it was last written down.
    measured_ms: u64,
    /// What may have passed besides, while no process ran.
    unmeasured_ms: u64,
    /// When it was last written down, by the host's wall clock.
    wall: UnixMs,
    /// The same by the monotonic clock.
    #[serde(skip)]
    marked_mono_ms: u64,
    /// A process before this one began it, and central's time has not been known since.
    #[serde(skip)]
    inherited: bool,
}

impl Deadline {
    /// So long after this moment.
    #[must_use]
    pub fn after(stamp: &Stamp, span_ms: u64) -> Self {
        Self {
            span_ms,
            began: (stamp.quality == TimeQuality::Synced).then_some(stamp.at),
            measured_ms: 0,
            unmeasured_ms: 0,
            wall: stamp.now.wall,
            marked_mono_ms: stamp.now.mono_ms,
            inherited: false,
        }
    }

    /// So long after an earlier moment of this process by central's clock as far as known. What was
    /// before the process counts as measured only where central's time is known.
    #[must_use]
    pub fn since(stamp: &Stamp, from: UnixMs, span_ms: u64) -> Self {
        let mut deadline = Self::after(stamp, span_ms);
        let used_ms = u64::try_from(stamp.at.ms_since(from)).unwrap_or(0);
        if deadline.began.is_some() {
            deadline.began = Some(from.min(stamp.at));
            deadline.measured_ms = used_ms;
        } else {
            deadline.measured_ms = used_ms.min(stamp.lived_ms());
            deadline.unmeasured_ms = used_ms - deadline.measured_ms;
        }
        deadline
    }

    /// What was measured of it.
    #[must_use]
    pub const fn measured_ms(&self, stamp: &Stamp) -> u64 {
        let since_mark = stamp.now.mono_ms.saturating_sub(self.marked_mono_ms);
        self.measured_ms.saturating_add(since_mark)
    }

    /// Whether it has passed.
    #[must_use]
    pub const fn passed(&self, stamp: &Stamp) -> bool {
        let used_ms = self.measured_ms(stamp).saturating_add(self.unmeasured_ms);
        used_ms >= self.span_ms
    }

    /// All of it again: while nothing could be heard, nothing was waited for.
    pub fn restart(&mut self, stamp: &Stamp) {
        *self = Self::after(stamp, self.span_ms);
    }

    /// After a restart: the monotonic clock is another one.
    pub fn rearm(&mut self, stamp: &Stamp) {
        let away_ms = u64::try_from(stamp.now.wall.ms_since(self.wall)).unwrap_or(0);
        let away_ms = if away_ms == 0 {
            self.mark_ms().min(CHECKPOINT_MS)
        } else {
            away_ms
        };
        self.unmeasured_ms = self.unmeasured_ms.saturating_add(away_ms).min(self.span_ms);
        self.wall = stamp.now.wall;
        self.marked_mono_ms = stamp.now.mono_ms;
        self.inherited = true;
    }

    /// Once central's time is known: so much more exact.
    pub fn settle(&mut self, stamp: &Stamp) {
        if stamp.quality != TimeQuality::Synced {
            return;
        }
        match self.began {
            Some(began) if self.inherited => {
                self.measured_ms = u64::try_from(stamp.at.ms_since(began)).unwrap_or(0);
                self.unmeasured_ms = 0;
                self.marked_mono_ms = stamp.now.mono_ms;
            }
            Some(_) => {}
            None if self.unmeasured_ms == 0 => {
                let measured = i64::try_from(self.measured_ms(stamp)).unwrap_or(i64::MAX);
                self.began = Some(stamp.at.plus_ms(-measured));
            }
            None => {}
        }
        self.inherited = false;
    }

    /// Whether so much of it was used up since it was last written down that it should be again.
    #[must_use]
    pub fn is_mark_due(&self, stamp: &Stamp) -> bool {
        !self.passed(stamp)
            && stamp.now.mono_ms.saturating_sub(self.marked_mono_ms) >= self.mark_ms()
    }

    /// As it is to be written down.
    pub const fn mark(&mut self, stamp: &Stamp) {
        self.measured_ms = self.measured_ms(stamp);
        self.marked_mono_ms = stamp.now.mono_ms;
        self.wall = stamp.now.wall;
    }

    fn mark_ms(&self) -> u64 {
        (self.span_ms / TIME_MARK_PART).max(TIME_MARK_MS_MIN)
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
        self.each_time(&mut |time| time.rearm(stamp));
        match &mut self.stage {
            Stage::AwaitingPlug { .. } => {}
            Stage::Starting(starting) => {
                starting.uncertain = true;
                if let Some(early) = &mut starting.early_end {
                    early.until.restart(stamp);
                }
            }
            Stage::Running(run) | Stage::Idle { run, .. } => run.rearm(stamp),
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
        }
    }

    /// The times in it that go on while no process runs.
    pub(crate) fn each_time(&mut self, act: &mut impl FnMut(&mut Deadline)) {
        match &mut self.stage {
            Stage::AwaitingPlug { until } | Stage::Idle { until, .. } => act(until),
            Stage::Starting(starting) => act(&mut starting.give_up),
            Stage::Running(run) => {
                if let Some(limit) = &mut run.time_limit {
                    act(limit);
                }
            }
            Stage::Stopping(_) => {}
        }
    }

    /// Moves what this process dated by the host's own clock; says whether there was any.
    pub(crate) fn shift(&mut self, shift: &Shift) -> bool {
        match &mut self.stage {
            Stage::AwaitingPlug { .. } => false,
            Stage::Starting(s) => shift_start(&mut s.before, &mut s.early_end, shift),
            Stage::Running(run) | Stage::Idle { run, .. } => run.shift(shift),
            Stage::Stopping(s) => {
                let start = shift_start(&mut s.before, &mut s.early_end, shift);
                s.run.as_mut().is_some_and(|run| run.shift(shift)) | start
            }
        }
    }
}

fn shift_start(
    before: &mut Option<Reading>,
    early_end: &mut Option<EarlyEnd>,
    shift: &Shift,
) -> bool {
    let before = before.as_mut().is_some_and(|r| shift.reading(r));
    let end = early_end.as_mut().and_then(|early| early.reading.as_mut());
    end.is_some_and(|r| shift.reading(r)) | before
}

impl Run {
    fn rearm(&mut self, stamp: &Stamp) {
        self.checkpoint_mono_ms = stamp.now.mono_ms;
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

    fn shift(&mut self, shift: &Shift) -> bool {
        let meter = self.meter.shift(shift);
        let held = self.held.as_mut();
        held.is_some_and(|held| shift.reading(&mut held.first) | shift.reading(&mut held.last))
            | meter
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
