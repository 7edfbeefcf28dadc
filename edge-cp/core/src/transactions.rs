//! What the hardware says of its own transactions, and what that means to sessions.
//!
//! A device transaction is known by its origin key. A session has at most one; one without a
//! session waits on its connector until it is claimed, becomes a session of its own once it
//! delivers energy, or ends without a trace. An end is always the hardware's word: of the
//! transaction, of a later one on the same connector, or of a list without it.

use std::cmp::Ordering;

use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::{ConnectorId, SessionId},
    time::UnixMs,
    units::Mwh,
    v1::{EdgeFact, EndCode, EndReason, EndSource, Limits, Origin, Reading},
};
use serde::{Deserialize, Serialize};

use crate::{
    charge_point::{Cx, Desk, End, end_session},
    clock::{Moment, Stamp},
    connector::{Connector, is_news},
    hardware::{
        DeviceTx, HwAnswer, HwCommand, HwPhase, HwReading, HwVerdict, OriginKey, RunningTx,
        StartNumber,
    },
    limits::{
        ANOMALIES_MAX, CHECKPOINT_MS, CLAIM_SLACK_MS, FRESH_TX_MS, GONE_GRACE_MS, QUARTER_MS,
        START_WAIT_MS, UNCLAIMED_MAX, UNCLAIMED_WAIT_MS, UNPLUG_GRACE_MS,
    },
    meter::{Meter, Observed},
    session::{
        Deadline, Doubt, EarlyEnd, Held, Over, Retry, Run, Session, Stage, Starting, Stopping,
    },
};

/// A device transaction as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxRow {
    /// Its key.
    pub origin: OriginKey,
    /// Counts transactions, so that the oldest can be dropped.
    pub n: u64,
    /// The device's name for it.
    pub device_tx: DeviceTx,
    /// Where.
    pub connector: ConnectorId,
    /// The start that caused it.
    pub start_number: Option<StartNumber>,
    /// Whose it is.
    pub session_id: Option<SessionId>,
    /// The register at its start.
    pub start: Reading,
    /// When it began, as the device said.
    pub began: Moment,
    /// It is over.
    pub ended: bool,
    /// Meter epoch and register at its end.
    pub end_register: Option<(u32, Mwh)>,
    /// When it ended, as the device said: tells a repeated end from that of a later transaction of
    /// the same name.
    pub end_wall: Option<UnixMs>,
}

/// A device transaction without a session.
#[derive(Debug, Clone)]
pub struct Unclaimed {
    pub(crate) origin: OriginKey,
    pub(crate) device_tx: DeviceTx,
    pub(crate) start_number: Option<StartNumber>,
    pub(crate) meter: Meter,
    began: Moment,
    since_mono_ms: u64,
    /// It comes from the start of a session that has ended: it is stopped at once.
    stop: bool,
    retry: Retry,
    gone: Option<Deadline>,
    over: Option<(EndReason, UnixMs)>,
    end_wall: Option<UnixMs>,
}

impl Unclaimed {
    /// One that waits in the store.
    #[must_use]
    pub fn of(row: &TxRow, mono_ms: u64) -> Self {
        Self {
            origin: row.origin.clone(),
            device_tx: row.device_tx.clone(),
            start_number: row.start_number,
            meter: match row.began.mono_ms() {
                Some(_) => Meter::new(row.start.clone()),
                None => Meter::before_boot(row.start.clone()),
            },
            began: row.began,
            since_mono_ms: mono_ms,
            stop: row.start_number.is_some(),
            retry: Retry::default(),
            gone: None,
            over: None,
            end_wall: None,
        }
    }

    fn claimable(&self) -> bool {
        !self.stop && self.gone.is_none() && self.over.is_none()
    }
}

/// A transaction has begun.
pub(crate) struct Begun {
    pub(crate) at: UnixMs,
    pub(crate) device_tx: DeviceTx,
    pub(crate) origin: OriginKey,
    pub(crate) start_number: Option<StartNumber>,
    pub(crate) reading: HwReading,
}

/// A car was plugged in or out.
pub(crate) fn plug(c: &mut Connector, d: &mut Desk, cx: &mut Cx, at: UnixMs, plugged: bool) {
    if !is_news(&mut c.plug_mono_ms, cx.stamp.mono_of(at)) || c.row.plugged == plugged {
        return;
    }
    c.row.plugged = plugged;
    if !plugged {
        c.row.ended_since_plug = false;
    }
    let Some(session) = &mut c.session else {
        return;
    };
    match (&mut session.stage, plugged) {
        // The start and the end of an idle time follow with the time.
        (Stage::AwaitingPlug { .. } | Stage::Idle { .. }, _) => {}
        (Stage::Starting(_), true) | (Stage::Stopping(_), _) => {}
        // What was before the start says nothing about it.
        (Stage::Starting(s), false) => {
            if s.sent_at.ms_after(&cx.stamp, at) <= 0 {
                let reason = EndReason::new(EndCode::EvUnplugged, EndSource::Vehicle);
                begin_stop(c, d, cx, reason);
            }
        }
        (Stage::Running(run), false) => {
            let before = run.began.ms_after(&cx.stamp, at) > 0;
            if run.doubt.is_none() && !before {
                let until = Deadline::after(&cx.stamp, UNPLUG_GRACE_MS);
                run.doubt = Some(Doubt::Unplugged(until));
                c.touched = true;
            }
        }
        (Stage::Running(run), true) => match run.doubt {
            Some(Doubt::Unplugged(_)) => {
                run.doubt = None;
                c.touched = true;
            }
            Some(Doubt::Unlisted(_) | Doubt::Replaced(_)) | None => {}
        },
    }
}

/// A device transaction has begun; a known one is a repeat.
pub(crate) fn started(c: &mut Connector, d: &mut Desk, cx: &mut Cx, begun: Begun) {
    if d.txs.contains_key(&begun.origin) {
        return;
    }
    observe(c, d, cx, begun.reading.clone());
    let start = cx.reading(begun.reading);
    let began_mono = cx.stamp.mono_of(begun.at);
    let row = TxRow {
        origin: begun.origin,
        n: 0,
        device_tx: begun.device_tx,
        connector: c.id(),
        start_number: begun.start_number,
        session_id: None,
        start,
        began: Moment::of(&cx.stamp, begun.at),
        ended: false,
        end_register: None,
        end_wall: None,
    };
    match owner(c.session.as_ref(), &row, begun.at, &cx.stamp) {
        Owner::Session => begin_run(c, d, cx, row),
        Owner::Successor => {
            let until = Deadline::after(&cx.stamp, GONE_GRACE_MS);
            if let Some(session) = &mut c.session {
                match &mut session.stage {
                    Stage::Running(run) => run.doubt = Some(Doubt::Replaced(until)),
                    Stage::Stopping(s) => {
                        if let Some(run) = &mut s.run {
                            run.doubt = Some(Doubt::Replaced(until));
                        }
                        s.gone.get_or_insert(until);
                    }
                    Stage::AwaitingPlug { .. } | Stage::Starting(_) | Stage::Idle { .. } => {}
                }
                c.touched = true;
            }
            keep_unclaimed(c, d, cx, row);
        }
        Owner::Nobody => keep_unclaimed(c, d, cx, row),
    }
    take_early_ends(c, d, cx);
    // It may have begun, and ended, before the device's last list of what runs.
    if let Some((mono, running)) = d.listed.clone().filter(|(mono, _)| *mono > began_mono) {
        let list = Listed {
            mono_ms: mono,
            began_mono_ms: d.began_mono_ms,
            running: &running,
            booted: None,
        };
        reconcile(c, cx, list);
    }
}

/// An end that came before its start.
#[derive(Debug, Clone)]
pub struct UnmatchedEnd {
    over: Over,
    until: Deadline,
}

/// Looks again whether ends that came first belong to what is known.
fn take_early_ends(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    for unmatched in std::mem::take(&mut c.unmatched) {
        if let Some(over) = try_end(c, d, cx, unmatched.over) {
            c.unmatched.push(UnmatchedEnd {
                over,
                until: unmatched.until,
            });
        }
    }
}

enum Owner {
    /// The session on the connector.
    Session,
    /// Nobody yet; the session's own transaction must be over.
    Successor,
    /// Nobody yet.
    Nobody,
}

fn owner(session: Option<&Session>, row: &TxRow, wall: UnixMs, stamp: &Stamp) -> Owner {
    let asked_for = |number: Option<StartNumber>, sent_at: Moment, early: Option<&EarlyEnd>| {
        let matches = match (row.start_number, number) {
            (Some(theirs), Some(ours)) => theirs == ours,
            (Some(_), None) => false,
            // Where the end of the session's own is here already, this must be the one that ended.
            (None, _) => {
                sent_at.ms_after(stamp, wall) <= CLAIM_SLACK_MS
                    && early.is_none_or(|early| early.is_of(row, stamp))
            }
        };
        if matches {
            Owner::Session
        } else {
            Owner::Nobody
        }
    };
    let Some(session) = session else {
        return Owner::Nobody;
    };
    let run = match &session.stage {
        Stage::AwaitingPlug { .. } => return asked_for(None, session.taken_at, None),
        Stage::Starting(s) => {
            return asked_for(Some(s.start_number), s.sent_at, s.early_end.as_ref());
        }
        Stage::Idle { .. } => return Owner::Nobody,
        Stage::Running(run) => run,
        Stage::Stopping(s) => match &s.run {
            None => return asked_for(s.start_number, s.sent_at, s.early_end.as_ref()),
            Some(run) => run,
        },
    };
    let (theirs, ours) = (&row.start, &run.meter);
    let later = run.began.ms_after(stamp, wall) < 0;
    let beyond = theirs.meter_epoch != ours.last.meter_epoch
        || theirs.register_mwh >= ours.start.register_mwh;
    if later && beyond {
        Owner::Successor
    } else {
        Owner::Nobody
    }
}

/// Energy of the session on the connector begins with this transaction.
fn begin_run(c: &mut Connector, d: &mut Desk, cx: &mut Cx, mut row: TxRow) {
    let Some(mut session) = c.session.take() else {
        return;
    };
    let start_number = session.start_number();
    row.session_id = Some(session.id);
    row.start_number = row.start_number.or(start_number);
    d.record_as_of(
        cx,
        &row.start,
        EdgeFact::Started {
            session_id: session.id,
            device_tx: row.device_tx.0.clone(),
            reading: row.start.clone(),
        },
    );
    let time_limit = session
        .limits
        .time_s
        .map(|s| Deadline::since(&cx.stamp, row.start.at, u64::from(s) * 1_000));
    let run = Run {
        start_number,
        device_tx: row.device_tx.clone(),
        origin: row.origin.clone(),
        began: row.began,
        meter: Meter::new(row.start.clone()),
        phase: Phase::Preparing,
        phase_mono_ms: None,
        time_limit,
        checkpoint_mono_ms: cx.mono_ms() + CHECKPOINT_MS,
        quarter: cx.stamp.at.0.div_euclid(QUARTER_MS),
        doubt: None,
        booted: None,
        held: None,
    };
    let mut early = None;
    session.stage = match session.stage {
        Stage::AwaitingPlug { .. } => Stage::Running(run),
        Stage::Starting(starting) => {
            early = starting.early_end;
            Stage::Running(run)
        }
        Stage::Stopping(mut stopping) => {
            early = stopping.early_end.take();
            stopping.run = Some(run);
            stopping.gone = None;
            stopping.retry.hurry();
            Stage::Stopping(stopping)
        }
        stage @ (Stage::Running(_) | Stage::Idle { .. }) => stage,
    };
    c.session = Some(session);
    c.touched = true;
    let is_of = early.as_ref().is_some_and(|e| e.is_of(&row, &cx.stamp));
    d.put_tx(cx, row);
    if let Some((tx, said, wall)) = c.phase.clone() {
        let started = c.session.as_ref().and_then(Session::run);
        let after_start = started.is_some_and(|r| {
            r.began.ms_after(&cx.stamp, wall) <= 0
                && tx.as_ref().is_none_or(|tx| *tx == r.device_tx)
        });
        if after_start {
            let when = cx.stamp.central_of(wall);
            set_phase(c, d, cx, said, when);
        }
    }
    let Some(early) = early else {
        return;
    };
    // Another transaction's, whose start is not here yet, has to wait for that one.
    if is_of {
        run_over(
            c,
            d,
            cx,
            &early.over.reason,
            early.reading,
            cx.stamp.central_of(early.over.at),
            Some(early.over.at),
        );
    } else if c.unmatched.len() < UNCLAIMED_MAX {
        c.unmatched.push(UnmatchedEnd {
            over: early.over,
            until: early.until,
        });
    }
}

/// The session on the connector is in this phase, if energy may flow in it.
fn set_phase(c: &mut Connector, d: &mut Desk, cx: &mut Cx, phase: HwPhase, at: UnixMs) {
    let Some(session) = &mut c.session else {
        return;
    };
    let session_id = session.id;
    let run = match &mut session.stage {
        Stage::Running(run) => run,
        // A stop is the last phase that is told.
        Stage::AwaitingPlug { .. }
        | Stage::Starting(_)
        | Stage::Stopping(_)
        | Stage::Idle { .. } => return,
    };
    let phase = phase.phase();
    if run.phase == phase {
        return;
    }
    run.phase = phase;
    let fact = EdgeFact::Phase {
        session_id,
        phase,
        reading: Some(run.meter.last.clone()),
    };
    c.touched = true;
    d.record_minor(cx, at, fact);
}

fn keep_unclaimed(c: &mut Connector, d: &mut Desk, cx: &mut Cx, row: TxRow) {
    if c.unclaimed.len() >= UNCLAIMED_MAX {
        // The oldest is settled with what is known of it.
        if let Some(oldest) = c.unclaimed.iter_mut().find(|u| u.over.is_none()) {
            oldest.over = Some((lost_reason(None), cx.stamp.at));
        }
        cx.fx.alarms.push(format!(
            "connector {} has {UNCLAIMED_MAX} device transactions without a session",
            c.id()
        ));
    }
    c.unclaimed.push(Unclaimed::of(&row, cx.mono_ms()));
    d.put_tx(cx, row);
}

/// A start command has taken the connector: the transaction that waits there is its own.
pub(crate) fn claim(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let Some(index) = c.unclaimed.iter().position(Unclaimed::claimable) else {
        return;
    };
    let waiting = c.unclaimed.remove(index);
    let Some(mut row) = d.txs.get(&waiting.origin).cloned() else {
        return;
    };
    // Asked for as well, since a device that began by itself may give no energy before.
    let start_number = d.draw_start_number(cx);
    row.start_number = Some(start_number);
    cx.fx.hardware.push(HwCommand::Start {
        connector: c.id(),
        start_number,
        limit_ma: c.row.limit.as_ref().map(|l| l.in_force()),
    });
    begin_run(c, d, cx, row);
    if let Some(run) = c.session.as_mut().and_then(Session::live_run_mut) {
        run.start_number = Some(start_number);
        run.meter = waiting.meter;
    }
}

/// The meter was read. What is older than the last reading is passed over: by the monotonic clock
/// within this process, by the register before it.
pub(crate) fn observe(c: &mut Connector, d: &mut Desk, cx: &mut Cx, reading: HwReading) {
    // Until the hardware has said what runs, the register may be that of a later transaction.
    if !d.online() {
        return;
    }
    let mono = cx.stamp.mono_of(reading.at);
    let old = match &c.reading {
        Some((last, last_mono)) => {
            mono < *last_mono
                || (mono == *last_mono
                    && last.meter_epoch == reading.meter_epoch
                    && reading.register_mwh <= last.register_mwh)
        }
        // What was read before this process began is ordered by the register: the clock that dates
        // it may be another one than that of the last reading.
        None => {
            let before = c.session.as_ref().and_then(Session::run);
            before.is_some_and(|run| {
                let last = &run.meter.last;
                !cx.stamp.has_lived(reading.at)
                    && (reading.meter_epoch, reading.register_mwh)
                        < (last.meter_epoch, last.register_mwh)
            })
        }
    };
    if old {
        return;
    }
    let reading = cx.reading(reading);
    c.reading = Some((reading.clone(), mono));
    if let Some(waiting) = c.unclaimed.last_mut().filter(|u| u.over.is_none())
        // Another meter epoch needs records, which begin with its session.
        && reading.meter_epoch == waiting.meter.last.meter_epoch
        && reading.register_mwh >= waiting.meter.last.register_mwh
    {
        waiting.meter.observe(reading.clone(), c.spec.power_max());
    }
    let Some(run) = c.session.as_mut().and_then(Session::live_run_mut) else {
        return;
    };
    match run.doubt {
        Some(Doubt::Replaced(_)) => return,
        Some(Doubt::Unlisted(_) | Doubt::Unplugged(_)) | None => {}
    }
    if reading.meter_epoch == run.meter.last.meter_epoch {
        take_reading(c, d, cx, reading);
        return;
    }
    // A reset also ends transactions, and the end with the old register may be on its way.
    match &mut run.held {
        Some(held) => held.last = reading,
        None => {
            run.held = Some(Held {
                first: reading.clone(),
                last: reading,
                until: Deadline::after(&cx.stamp, GONE_GRACE_MS),
            });
        }
    }
    c.touched = true;
}

/// Takes a reading into the session's meter, and records what is odd about it.
fn take_reading(c: &mut Connector, d: &mut Desk, cx: &mut Cx, reading: Reading) {
    let (connector, power_max) = (c.spec.connector, c.spec.power_max());
    let Some(session) = &mut c.session else {
        return;
    };
    let session_id = session.id;
    let anomalies = session.anomalies;
    let Some(run) = session.live_run_mut() else {
        return;
    };
    let before = run.meter.last.register_mwh;
    let observed = run.meter.observe(reading.clone(), power_max);
    let (what, old) = match observed {
        Observed::Plausible => return,
        Observed::Reset(old) => (
            Some(format!(
                "the register of meter {} began anew at {} mWh after {} mWh",
                reading.meter_id, reading.register_mwh.0, old.register_mwh.0
            )),
            Some(*old),
        ),
        Observed::OverEnd(old) => (None, Some(*old)),
        // What was counted until then is not in a record yet.
        Observed::Fell(old) => (
            Some(format!(
                "the register fell to {} mWh from {} mWh",
                reading.register_mwh.0, old.register_mwh.0
            )),
            Some(*old),
        ),
        Observed::Jumped(by) => (
            Some(format!(
                "the register rose by {} mWh from {} mWh, more than the connector can deliver",
                by.0, before.0
            )),
            None,
        ),
    };
    c.touched = true;
    if anomalies >= ANOMALIES_MAX {
        return;
    }
    session.anomalies += 1;
    let at = reading.at;
    if let Some(old) = old {
        let checkpoint = EdgeFact::Checkpoint {
            session_id,
            reading: old,
        };
        d.record(cx, at, checkpoint);
    }
    d.record(
        cx,
        at,
        EdgeFact::Checkpoint {
            session_id,
            reading,
        },
    );
    if let Some(what) = what {
        let anomaly = EdgeFact::Anomaly {
            connector: Some(connector),
            session_id: Some(session_id),
            what,
        };
        d.record_minor(cx, at, anomaly);
    }
}

/// Energy flows or pauses.
pub(crate) fn phase(
    c: &mut Connector,
    d: &mut Desk,
    cx: &mut Cx,
    at: UnixMs,
    device_tx: Option<&DeviceTx>,
    phase: HwPhase,
) {
    let mono = cx.stamp.mono_of(at);
    let when = cx.stamp.central_of(at);
    if c.phase
        .as_ref()
        .is_none_or(|&(_, _, last)| cx.stamp.mono_of(last) <= mono)
    {
        c.phase = Some((device_tx.cloned(), phase, at));
    }
    let news = c
        .session
        .as_mut()
        .and_then(Session::live_run_mut)
        .is_some_and(|run| {
            device_tx.is_none_or(|tx| *tx == run.device_tx)
                && run.began.ms_after(&cx.stamp, at) <= 0
                && is_news(&mut run.phase_mono_ms, mono)
        });
    if news {
        set_phase(c, d, cx, phase, when);
    }
}

/// A device transaction is over. Its start may still be on the way.
pub(crate) fn ended(c: &mut Connector, d: &mut Desk, cx: &mut Cx, over: Over) {
    let Some(over) = try_end(c, d, cx, over) else {
        return;
    };
    let known = c
        .unmatched
        .iter()
        .any(|u| u.over.device_tx == over.device_tx && u.over.at == over.at);
    if !known && c.unmatched.len() < UNCLAIMED_MAX {
        let until = Deadline::after(&cx.stamp, GONE_GRACE_MS);
        c.unmatched.push(UnmatchedEnd { over, until });
    }
}

/// Ends whatever the end belongs to; gives it back when that is nothing.
fn try_end(c: &mut Connector, d: &mut Desk, cx: &mut Cx, over: Over) -> Option<Over> {
    let at = cx.stamp.central_of(over.at);
    let mono = cx.stamp.mono_of(over.at);
    let reading = over.reading.clone().map(|r| cx.reading(r));

    let id = c.id();
    let repeated = d.txs.values().any(|row| {
        row.ended
            && row.connector == id
            && row.device_tx == over.device_tx
            && row.end_wall == Some(over.at)
            && over.origin.as_ref().is_none_or(|o| *o == row.origin)
    });
    if repeated {
        return None;
    }

    let of_session = c.session.as_ref().is_some_and(|session| {
        let run = match &session.stage {
            Stage::Running(run) => Some(run),
            Stage::Stopping(stopping) => stopping.run.as_ref(),
            Stage::AwaitingPlug { .. } | Stage::Starting(_) | Stage::Idle { .. } => None,
        };
        run.and_then(|run| d.txs.get(&run.origin))
            .is_some_and(|row| is_end_of(row, &over, reading.as_ref(), &cx.stamp))
    });
    if of_session {
        if let Some(reading) = &reading
            && c.reading.as_ref().is_none_or(|(_, m)| *m <= mono)
        {
            c.reading = Some((reading.clone(), mono));
        }
        run_over(c, d, cx, &over.reason, reading, at, Some(over.at));
        return None;
    }

    let waiting = c.unclaimed.iter_mut().find(|u| {
        let row = d.txs.get(&u.origin);
        u.over.is_none()
            && row.is_some_and(|row| is_end_of(row, &over, reading.as_ref(), &cx.stamp))
    });
    if let Some(waiting) = waiting {
        if let Some(reading) = reading {
            waiting.meter.rewind_to(&reading);
            waiting.meter.observe(reading, c.spec.power_max());
        }
        waiting.over = Some((over.reason, at));
        waiting.end_wall = Some(over.at);
        return None;
    }

    let ended_before = d.txs.values().find(|row| {
        row.ended
            && row.connector == id
            && match (&over.origin, over.start_number) {
                (Some(origin), _) => *origin == row.origin,
                (None, Some(number)) if row.start_number.is_some() => {
                    row.start_number == Some(number)
                }
                // A name alone may be that of another one.
                (None, _) => false,
            }
    });
    if let Some(mut row) = ended_before.cloned() {
        row.end_wall = Some(over.at);
        tell_late_energy(d, cx, row, reading, at);
        return None;
    }

    let until = Deadline::after(&cx.stamp, GONE_GRACE_MS);
    let early = EarlyEnd {
        over: over.clone(),
        reading,
        until,
    };
    if let Some(session) = &mut c.session {
        let slot = match &mut session.stage {
            Stage::Starting(s) => Some((Some(s.start_number), s.sent_at, &mut s.early_end)),
            Stage::Stopping(s) if s.run.is_none() => {
                Some((s.start_number, s.sent_at, &mut s.early_end))
            }
            Stage::AwaitingPlug { .. }
            | Stage::Running(_)
            | Stage::Stopping(_)
            | Stage::Idle { .. } => None,
        };
        if let Some((number, sent_at, slot)) = slot {
            let ours = match (over.start_number, number) {
                (Some(theirs), Some(ours)) => theirs == ours,
                (Some(_), None) => false,
                (None, _) => sent_at.ms_after(&cx.stamp, over.at) <= 0,
            };
            if ours {
                slot.get_or_insert(early);
                c.touched = true;
                return None;
            }
        }
    }
    Some(over)
}

/// The end of a transaction whose session had to be ended without it: what it delivered beyond is
/// told, and central makes an adjustment of it. A mere repeat tells nothing.
fn tell_late_energy(
    d: &mut Desk,
    cx: &mut Cx,
    mut row: TxRow,
    reading: Option<Reading>,
    at: UnixMs,
) {
    let (Some(session_id), Some(reading), Some((meter_epoch, register))) =
        (row.session_id, reading, row.end_register)
    else {
        return;
    };
    if reading.meter_epoch == meter_epoch && reading.register_mwh > register {
        row.end_register = Some((meter_epoch, reading.register_mwh));
        d.put_tx(cx, row);
        d.record(
            cx,
            at,
            EdgeFact::Checkpoint {
                session_id,
                reading,
            },
        );
    }
}

/// Whether an end is that of a transaction: by key, else by start number, else by name unless it
/// is older than the transaction, since names are reused.
fn is_end_of(row: &TxRow, over: &Over, reading: Option<&Reading>, stamp: &Stamp) -> bool {
    if let Some(theirs) = &over.origin {
        return *theirs == row.origin;
    }
    if let (Some(theirs), Some(ours)) = (over.start_number, row.start_number) {
        return theirs == ours;
    }
    let start = &row.start;
    let same_meter = reading.filter(|r| r.meter_epoch == start.meter_epoch);
    let before = row.began.ms_after(stamp, over.at) > 0;
    // In one meter epoch the register tells what was first, whatever was done to the wall clock.
    let older = match same_meter.map(|r| r.register_mwh.cmp(&start.register_mwh)) {
        Some(Ordering::Less) => true,
        // The one before may have ended as this one began.
        Some(Ordering::Equal) => row.began.is(over.at) || before,
        Some(Ordering::Greater) => false,
        None => before,
    };
    over.device_tx == row.device_tx && !older
}

impl EarlyEnd {
    fn is_of(&self, row: &TxRow, stamp: &Stamp) -> bool {
        is_end_of(row, &self.over, self.reading.as_ref(), stamp)
    }
}

/// The transaction of the session on the connector is over: energy has ended, and the session
/// unless it stands.
fn run_over(
    c: &mut Connector,
    d: &mut Desk,
    cx: &mut Cx,
    device_reason: &EndReason,
    reading: Option<Reading>,
    at: UnixMs,
    end_wall: Option<UnixMs>,
) {
    if let Some(run) = c.session.as_mut().and_then(Session::live_run_mut) {
        let held = run.held.take();
        let same_meter = reading
            .as_ref()
            .is_some_and(|r| r.meter_epoch == run.meter.last.meter_epoch);
        if let (Some(held), false) = (held, same_meter) {
            take_reading(c, d, cx, held.first);
            take_reading(c, d, cx, held.last);
        }
        if let Some(reading) = reading {
            if let Some(run) = c.session.as_mut().and_then(Session::live_run_mut) {
                run.meter.rewind_to(&reading);
            }
            take_reading(c, d, cx, reading);
        }
    }
    let Some(mut session) = c.session.take() else {
        return;
    };
    let (run, reason) = match session.stage {
        Stage::Running(run) => (run, device_reason.clone()),
        Stage::Stopping(Stopping {
            run: Some(run),
            reason,
            ..
        }) => {
            let raw = reason.raw.or_else(|| device_reason.raw.clone());
            (run, EndReason { raw, ..reason })
        }
        stage @ (Stage::AwaitingPlug { .. }
        | Stage::Starting(_)
        | Stage::Stopping(_)
        | Stage::Idle { .. }) => {
            session.stage = stage;
            c.session = Some(session);
            return;
        }
    };
    if let Some(mut row) = d.txs.get(&run.origin).cloned() {
        row.ended = true;
        row.end_wall = end_wall;
        row.end_register = Some((run.meter.last.meter_epoch, run.meter.last.register_mwh));
        d.put_tx(cx, row);
    }
    let stands = session.idle_s_max > 0
        && c.row.plugged
        && match reason.code {
            EndCode::EvUnplugged | EndCode::Unlock => false,
            EndCode::Driver
            | EndCode::Operator
            | EndCode::Local
            | EndCode::Deauthorised
            | EndCode::EvStopped
            | EndCode::EnergyLimit
            | EndCode::TimeLimit
            | EndCode::CostLimit
            | EndCode::PlugTimeout
            | EndCode::PowerLoss
            | EndCode::Reboot
            | EndCode::Reset
            | EndCode::Emergency
            | EndCode::Fault
            | EndCode::OccupiedLocally
            | EndCode::Refused
            | EndCode::WrittenOff
            | EndCode::Other
            | EndCode::Unrecognised => true,
        };
    if stands {
        d.record(
            cx,
            at,
            EdgeFact::EnergyEnded {
                session_id: session.id,
                reading: Some(run.meter.last.clone()),
                reason: reason.clone(),
            },
        );
        let until = Deadline::since(&cx.stamp, at, u64::from(session.idle_s_max) * 1_000);
        session.stage = Stage::Idle { run, reason, until };
        c.session = Some(session);
        c.touched = true;
    } else {
        let end = End {
            completed: true,
            reason,
            reading: Some(run.meter.last),
            at,
            stood_s: None,
        };
        close(c, d, cx, session.id, end);
    }
}

/// The session is over and leaves the connector.
fn close(c: &mut Connector, d: &mut Desk, cx: &mut Cx, session: SessionId, end: End) {
    end_session(c, d, cx, session, end);
    if c.row.plugged {
        c.row.ended_since_plug = true;
    }
    match c.row.service {
        ev_contract::connector::Service::OutAfterSession => {
            c.row.service = ev_contract::connector::Service::Out;
            cx.fx.hardware.push(HwCommand::SetService {
                connector: c.spec.connector,
                in_service: false,
            });
        }
        ev_contract::connector::Service::In
        | ev_contract::connector::Service::Out
        | ev_contract::connector::Service::Unrecognised => {}
    }
}

/// A session that never had energy is over.
fn fail(c: &mut Connector, d: &mut Desk, cx: &mut Cx, reason: EndReason) {
    if let Some(session) = c.session.take() {
        let end = End {
            completed: false,
            reason,
            reading: None,
            at: cx.stamp.at,
            stood_s: None,
        };
        close(c, d, cx, session.id, end);
    }
}

/// Stops the session on the connector. Holds until the hardware confirms; a second one changes
/// nothing. One that the hardware has not heard of ends at once.
pub(crate) fn begin_stop(c: &mut Connector, d: &mut Desk, cx: &mut Cx, reason: EndReason) {
    let Some(mut session) = c.session.take() else {
        return;
    };
    let id = session.id;
    let mut told = None;
    session.stage = match session.stage {
        stage @ Stage::AwaitingPlug { .. } => {
            session.stage = stage;
            c.session = Some(session);
            fail(c, d, cx, reason);
            return;
        }
        Stage::Starting(starting) => {
            told = Some(None);
            Stage::Stopping(Stopping {
                reason,
                start_number: Some(starting.start_number),
                sent_at: starting.sent_at,
                uncertain: starting.uncertain,
                before: starting.before,
                run: None,
                retry: Retry::default(),
                gone: None,
                early_end: starting.early_end,
            })
        }
        Stage::Running(run) => {
            told = Some(Some(run.meter.last.clone()));
            Stage::Stopping(Stopping {
                reason,
                start_number: run.start_number,
                sent_at: run.began,
                uncertain: true,
                before: None,
                gone: match run.doubt {
                    Some(Doubt::Unlisted(until) | Doubt::Replaced(until)) => Some(until),
                    Some(Doubt::Unplugged(_)) | None => None,
                },
                run: Some(run),
                retry: Retry::default(),
                early_end: None,
            })
        }
        stage @ (Stage::Stopping(_) | Stage::Idle { .. }) => stage,
    };
    c.session = Some(session);
    if let Some(reading) = told {
        c.touched = true;
        let at = cx.stamp.at;
        d.record_minor(
            cx,
            at,
            EdgeFact::Phase {
                session_id: id,
                phase: Phase::Stopping,
                reading,
            },
        );
    }
}

/// A session that stands is over.
pub(crate) fn end_idle(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let idle = c.session.as_ref().and_then(|session| match &session.stage {
        Stage::Idle { run, reason, until } => {
            let stood_s = until.measured_ms(&cx.stamp) / 1_000;
            let last = run.meter.last.clone();
            Some((session.id, reason.clone(), last, stood_s))
        }
        Stage::AwaitingPlug { .. }
        | Stage::Starting(_)
        | Stage::Running(_)
        | Stage::Stopping(_) => None,
    });
    let Some((id, reason, last, stood_s)) = idle else {
        return;
    };
    c.session = None;
    let end = End {
        completed: true,
        reason,
        reading: Some(last),
        at: cx.stamp.at,
        stood_s: Some(u32::try_from(stood_s).unwrap_or(u32::MAX)),
    };
    close(c, d, cx, id, end);
}

/// The hardware answered a start or a stop.
pub(crate) fn answered(c: &mut Connector, d: &mut Desk, cx: &mut Cx, answer: &HwAnswer) {
    match &answer.command {
        HwCommand::Start { start_number, .. } => {
            start_answered(c, d, cx, *start_number, answer);
        }
        HwCommand::Stop {
            start_number,
            device_tx,
            ..
        } => match answer.verdict {
            // The end follows as a fact; until then the stop is repeated.
            HwVerdict::Accepted | HwVerdict::Rejected => {}
            HwVerdict::Unsupported => cx.fx.alarms.push(format!(
                "the charger cannot stop connector {}: {:?}",
                c.id(),
                answer.raw
            )),
            HwVerdict::Unknown => unknown_to_hardware(c, cx, *start_number, device_tx.as_ref()),
        },
        HwCommand::SetLimit { .. }
        | HwCommand::Unlock { .. }
        | HwCommand::SetService { .. }
        | HwCommand::Reset => {}
    }
}

fn start_answered(
    c: &mut Connector,
    d: &mut Desk,
    cx: &mut Cx,
    start_number: StartNumber,
    answer: &HwAnswer,
) {
    let code = match answer.verdict {
        HwVerdict::Accepted | HwVerdict::Unknown => return,
        HwVerdict::Rejected => Code::RejectedByCharger,
        HwVerdict::Unsupported => Code::Unsupported,
    };
    let reason = EndReason {
        raw: answer.raw.clone().map(crate::charge_point::clip),
        refused: Some(code),
        ..EndReason::new(EndCode::Refused, EndSource::Charger)
    };
    let Some(session) = &c.session else {
        return;
    };
    match &session.stage {
        Stage::Starting(s) if s.start_number == start_number && s.early_end.is_none() => {
            if s.uncertain {
                begin_stop(c, d, cx, reason);
            } else {
                // The only copy of the command was refused: nothing can have begun.
                fail(c, d, cx, reason);
            }
        }
        Stage::Stopping(s)
            if s.start_number == Some(start_number)
                && s.run.is_none()
                && s.early_end.is_none()
                && !s.uncertain =>
        {
            let reason = s.reason.clone();
            fail(c, d, cx, reason);
        }
        Stage::AwaitingPlug { .. }
        | Stage::Starting(_)
        | Stage::Running(_)
        | Stage::Stopping(_)
        | Stage::Idle { .. } => {}
    }
}

/// The hardware has no such transaction. Its end may be on the way.
fn unknown_to_hardware(
    c: &mut Connector,
    cx: &mut Cx,
    start_number: Option<StartNumber>,
    device_tx: Option<&DeviceTx>,
) {
    let until = Deadline::after(&cx.stamp, GONE_GRACE_MS);
    if let Some(session) = &mut c.session {
        match &mut session.stage {
            Stage::Stopping(s) => {
                let ours = match &s.run {
                    Some(run) => device_tx == Some(&run.device_tx),
                    None => device_tx.is_none() && s.start_number == start_number,
                };
                if ours && s.gone.is_none() {
                    s.gone = Some(until);
                    c.touched = true;
                    return;
                }
            }
            Stage::AwaitingPlug { .. }
            | Stage::Starting(_)
            | Stage::Running(_)
            | Stage::Idle { .. } => {}
        }
    }
    for waiting in &mut c.unclaimed {
        if waiting.stop && waiting.gone.is_none() && device_tx == Some(&waiting.device_tx) {
            waiting.gone = Some(until);
        }
    }
}

/// The hardware's list of its transactions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'a> {
    /// As of when, by the monotonic clock: the wall clock may be set while one runs.
    pub(crate) mono_ms: i64,
    /// Since when the agent runs, by the same clock.
    pub(crate) began_mono_ms: u64,
    pub(crate) running: &'a [RunningTx],
    /// What the hardware said of its own start, if it listed them for that.
    pub(crate) booted: Option<&'a str>,
}

impl Listed<'_> {
    /// Whether the list is surely later than a start. Of one that was before the agent's own start
    /// no clock tells more.
    fn is_after(&self, start_mono_ms: Option<i64>) -> bool {
        let began = i64::try_from(self.began_mono_ms).unwrap_or(i64::MAX);
        self.mono_ms > start_mono_ms.unwrap_or(began)
    }
}

/// The hardware listed its transactions: one that is missing is over.
pub(crate) fn reconcile(c: &mut Connector, cx: &mut Cx, list: Listed<'_>) {
    let Listed {
        running, booted, ..
    } = list;
    let id = c.id();
    let listed = |origin: &OriginKey, device_tx: &DeviceTx| {
        running.iter().any(|r| {
            r.connector == id
                && match &r.origin {
                    Some(theirs) => theirs == origin,
                    None => r.device_tx == *device_tx,
                }
        })
    };
    let until = Deadline::after(&cx.stamp, GONE_GRACE_MS);
    if let Some(session) = &mut c.session {
        match &mut session.stage {
            Stage::AwaitingPlug { .. } | Stage::Starting(_) | Stage::Idle { .. } => {}
            Stage::Running(run) => {
                if let Some(raw) = booted {
                    run.booted = Some(raw.to_owned());
                    c.touched = true;
                }
                let there = listed(&run.origin, &run.device_tx);
                match (&run.doubt, there) {
                    (Some(Doubt::Unlisted(_)), true) => {
                        run.doubt = None;
                        c.touched = true;
                    }
                    (None | Some(Doubt::Unplugged(_)), false)
                        if list.is_after(run.began.mono_ms()) =>
                    {
                        run.doubt = Some(Doubt::Unlisted(until));
                        c.touched = true;
                    }
                    (
                        None | Some(Doubt::Unplugged(_) | Doubt::Unlisted(_) | Doubt::Replaced(_)),
                        _,
                    ) => {}
                }
            }
            Stage::Stopping(s) => {
                if let Some(run) = &s.run
                    && !listed(&run.origin, &run.device_tx)
                    && list.is_after(run.began.mono_ms())
                    && s.gone.is_none()
                {
                    s.gone = Some(until);
                    c.touched = true;
                }
            }
        }
    }
    for waiting in &mut c.unclaimed {
        if !listed(&waiting.origin, &waiting.device_tx)
            && list.is_after(waiting.began.mono_ms())
            && waiting.gone.is_none()
        {
            waiting.gone = Some(until);
        }
    }
}

/// The hardware is back: what waits for it is sent at once. What was said to be gone is asked
/// about again, since its end could not arrive meanwhile.
pub(crate) fn hurry(c: &mut Connector, stamp: &Stamp) {
    for waiting in &mut c.unclaimed {
        waiting.retry.hurry();
        waiting.gone = None;
    }
    for unmatched in &mut c.unmatched {
        unmatched.until.restart(stamp);
    }
    let Some(session) = &mut c.session else {
        return;
    };
    if let Some(held) = session.live_run_mut().and_then(|run| run.held.as_mut()) {
        held.until.restart(stamp);
    }
    match &mut session.stage {
        Stage::Starting(s) => {
            s.retry.hurry();
            if let Some(early) = &mut s.early_end {
                early.until.restart(stamp);
            }
        }
        Stage::Stopping(s) => {
            s.retry.hurry();
            s.gone = None;
            if let Some(early) = &mut s.early_end {
                early.until.restart(stamp);
            }
        }
        Stage::Running(run) => match &mut run.doubt {
            Some(Doubt::Unlisted(_)) => run.doubt = None,
            Some(Doubt::Replaced(until)) => until.restart(stamp),
            Some(Doubt::Unplugged(_)) | None => {}
        },
        Stage::AwaitingPlug { .. } | Stage::Idle { .. } => {}
    }
}

/// Everything that follows from time alone.
pub(crate) fn pass_time(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    c.settle_times(&cx.stamp);
    if let Some(limit) = &mut c.row.limit
        && !limit.fallen_back
        && limit.until.passed(&cx.stamp)
    {
        limit.fallen_back = true;
        cx.fx.hardware.push(HwCommand::SetLimit {
            connector: c.spec.connector,
            max_ma: limit.fallback_ma,
            phases: limit.phases,
        });
    }
    pass_session(c, d, cx);
    pass_unclaimed(c, d, cx);
    pass_unmatched(c, d, cx);
}

/// What is due in a session, decided with its stage borrowed and carried out without.
enum Due {
    Nothing,
    SendStart,
    Fail(EndReason),
    Stop(EndReason),
    Over(EndReason),
    SynthesiseStart,
    Checkpoint,
    ApplyHeld,
    EndIdle,
}

fn pass_session(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    // Each step may make another one due; the stages are few, so this ends.
    for _ in 0..8 {
        match due(c, d, cx) {
            Due::Nothing => return,
            Due::SendStart => send_start(c, d, cx),
            Due::Fail(reason) => fail(c, d, cx, reason),
            Due::Stop(reason) => begin_stop(c, d, cx, reason),
            Due::Over(reason) => {
                let at = cx.stamp.at;
                run_over(c, d, cx, &reason, None, at, None);
            }
            Due::SynthesiseStart => synthesise_start(c, d, cx),
            Due::Checkpoint => checkpoint(c, d, cx),
            Due::ApplyHeld => {
                let held = c
                    .session
                    .as_mut()
                    .and_then(Session::live_run_mut)
                    .and_then(|run| run.held.take());
                if let Some(held) = held {
                    take_reading(c, d, cx, held.first);
                    take_reading(c, d, cx, held.last);
                }
            }
            Due::EndIdle => end_idle(c, d, cx),
        }
    }
}

fn due(c: &mut Connector, d: &Desk, cx: &mut Cx) -> Due {
    let (stamp, random, online) = (cx.stamp, cx.random, d.online());
    let (connector, plugged) = (c.spec.connector, c.row.plugged);
    let Some(session) = &mut c.session else {
        return Due::Nothing;
    };
    let limits = session.limits;
    match &mut session.stage {
        Stage::AwaitingPlug { until } => {
            if plugged && online {
                Due::SendStart
            } else if !until.passed(&stamp) {
                Due::Nothing
            } else if plugged {
                Due::Fail(refused(Code::ChargerOffline))
            } else {
                Due::Fail(EndReason::new(EndCode::PlugTimeout, EndSource::ChargePoint))
            }
        }
        Stage::Starting(s) => {
            if let Some(early) = &s.early_end {
                return if online && early.until.passed(&stamp) {
                    Due::SynthesiseStart
                } else {
                    Due::Nothing
                };
            }
            if s.give_up.passed(&stamp) {
                return Due::Stop(refused(Code::NoAnswer));
            }
            if online && s.retry.due(stamp.now.mono_ms, random) {
                s.uncertain |= s.retry.attempts > 1;
                cx.fx.hardware.push(HwCommand::Start {
                    connector,
                    start_number: s.start_number,
                    limit_ma: c.row.limit.as_ref().map(|l| l.in_force()),
                });
            }
            Due::Nothing
        }
        Stage::Running(run) => {
            let settled = run.held.as_ref().is_some_and(|h| h.until.passed(&stamp));
            if online && settled {
                return Due::ApplyHeld;
            }
            match &run.doubt {
                Some(Doubt::Unlisted(until)) if online && until.passed(&stamp) => {
                    return Due::Over(lost_reason(run.booted.as_deref()));
                }
                Some(Doubt::Unplugged(until)) if until.passed(&stamp) => {
                    let reason = EndReason::new(EndCode::EvUnplugged, EndSource::Vehicle);
                    return Due::Stop(reason);
                }
                Some(Doubt::Replaced(until)) if online && until.passed(&stamp) => {
                    return Due::Over(EndReason {
                        raw: Some("another transaction began".into()),
                        ..EndReason::new(EndCode::Other, EndSource::Charger)
                    });
                }
                Some(Doubt::Unlisted(_) | Doubt::Unplugged(_) | Doubt::Replaced(_)) | None => {}
            }
            let used_up = limits.energy_mwh.is_some_and(|l| run.meter.energy() >= l);
            if used_up {
                let code = if limits.energy_from_cost {
                    EndCode::CostLimit
                } else {
                    EndCode::EnergyLimit
                };
                return Due::Stop(EndReason::new(code, EndSource::ChargePoint));
            }
            if run.time_limit.as_ref().is_some_and(|l| l.passed(&stamp)) {
                let reason = EndReason::new(EndCode::TimeLimit, EndSource::ChargePoint);
                return Due::Stop(reason);
            }
            let quarter = stamp.at.0.div_euclid(QUARTER_MS);
            if stamp.now.mono_ms >= run.checkpoint_mono_ms || quarter > run.quarter {
                return Due::Checkpoint;
            }
            Due::Nothing
        }
        Stage::Stopping(s) => {
            if let Some(early) = s.early_end.as_ref().filter(|_| s.run.is_none()) {
                return if online && early.until.passed(&stamp) {
                    Due::SynthesiseStart
                } else {
                    Due::Nothing
                };
            }
            match (&s.gone, &s.run) {
                (Some(gone), _) if !online || !gone.passed(&stamp) => return Due::Nothing,
                (Some(_), Some(_)) => return Due::Over(s.reason.clone()),
                (Some(_), None) => return Due::Fail(s.reason.clone()),
                (None, _) => {}
            }
            if online && s.retry.due(stamp.now.mono_ms, random) {
                cx.fx.hardware.push(HwCommand::Stop {
                    connector,
                    start_number: s.start_number,
                    device_tx: s.run.as_ref().map(|r| r.device_tx.clone()),
                });
            }
            Due::Nothing
        }
        Stage::Idle { until, .. } => {
            if !plugged || until.passed(&stamp) {
                Due::EndIdle
            } else {
                Due::Nothing
            }
        }
    }
}

fn refused(code: Code) -> EndReason {
    EndReason {
        refused: Some(code),
        ..EndReason::new(EndCode::Refused, EndSource::Charger)
    }
}

/// Why a transaction is gone of which the hardware says nothing more: its boot, if it told one.
fn lost_reason(booted: Option<&str>) -> EndReason {
    let (code, raw) = match booted {
        Some(raw) if raw.to_ascii_lowercase().contains("power") => (EndCode::PowerLoss, raw),
        Some(raw) => (EndCode::Reboot, raw),
        None => (EndCode::Other, "the charger no longer has the transaction"),
    };
    EndReason {
        raw: Some(raw.to_owned()).filter(|r| !r.is_empty()),
        ..EndReason::new(code, EndSource::Charger)
    }
}

fn send_start(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let start_number = d.draw_start_number(cx);
    let before = c.reading.as_ref().map(|(r, _)| r.clone());
    let Some(session) = &mut c.session else {
        return;
    };
    session.stage = Stage::Starting(Starting {
        start_number,
        sent_at: cx.stamp.moment(),
        give_up: Deadline::after(&cx.stamp, START_WAIT_MS),
        retry: Retry::default(),
        uncertain: false,
        before,
        early_end: None,
    });
    c.touched = true;
}

/// The end of a transaction came and its start never did: it began at the register that stood when
/// it was asked for.
fn synthesise_start(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let found = c.session.as_ref().and_then(|session| match &session.stage {
        Stage::Starting(s) => Some((session.id, s.early_end.clone()?, s.before.clone())),
        Stage::Stopping(s) => Some((session.id, s.early_end.clone()?, s.before.clone())),
        Stage::AwaitingPlug { .. } | Stage::Running(_) | Stage::Idle { .. } => None,
    });
    let Some((session_id, early, before)) = found else {
        return;
    };
    let start = match (before, &early.reading) {
        (Some(before), Some(end))
            if before.meter_epoch == end.meter_epoch && before.register_mwh <= end.register_mwh =>
        {
            Some(before)
        }
        (_, Some(end)) => Some(end.clone()),
        (before, None) => before,
    };
    let Some(start) = start else {
        // No register at all is known: nothing can be said of energy.
        fail(c, d, cx, early.over.reason);
        return;
    };
    let at = cx.stamp.at;
    let what = format!(
        "the start of device transaction {:?} was never reported",
        early.over.device_tx.0
    );
    let anomaly = EdgeFact::Anomaly {
        connector: Some(c.spec.connector),
        session_id: Some(session_id),
        what,
    };
    d.record_minor(cx, at, anomaly);
    let unreported = || OriginKey(format!("unreported-{session_id}"));
    let row = TxRow {
        origin: early.over.origin.unwrap_or_else(unreported),
        n: 0,
        device_tx: early.over.device_tx,
        connector: c.spec.connector,
        start_number: early.over.start_number,
        session_id: None,
        // Nothing is known of its start but that it was before its end.
        began: Moment::before_boot(UnixMs(0)),
        start,
        ended: false,
        end_register: None,
        end_wall: None,
    };
    begin_run(c, d, cx, row);
}

fn checkpoint(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let Some(session) = &mut c.session else {
        return;
    };
    let session_id = session.id;
    let Some(run) = session.live_run_mut() else {
        return;
    };
    run.checkpoint_mono_ms = cx.mono_ms() + CHECKPOINT_MS;
    run.quarter = cx.stamp.at.0.div_euclid(QUARTER_MS);
    let reading = run.meter.last.clone();
    c.touched = true;
    let at = cx.stamp.at;
    d.record_minor(
        cx,
        at,
        EdgeFact::Checkpoint {
            session_id,
            reading,
        },
    );
}

/// Ends whose starts never came.
fn pass_unmatched(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let online = d.online();
    let stamp = cx.stamp;
    let (over, waiting): (Vec<_>, _) = std::mem::take(&mut c.unmatched)
        .into_iter()
        .partition(|u| online && u.until.passed(&stamp));
    c.unmatched = waiting;
    for unmatched in over {
        let Over {
            at,
            device_tx,
            reading,
            ..
        } = unmatched.over;
        // Devices repeat their last ends; each is told once.
        let key = (device_tx, at);
        if c.told_unmatched.as_ref() == Some(&key) {
            continue;
        }
        let register = reading.map_or(0, |r| r.register_mwh.0);
        let what = format!(
            "device transaction {:?} ended at {register} mWh without ever having begun",
            key.0.0
        );
        c.told_unmatched = Some(key);
        cx.fx.alarms.push(format!("connector {}: {what}", c.id()));
        let anomaly = EdgeFact::Anomaly {
            connector: Some(c.id()),
            session_id: None,
            what,
        };
        let when = stamp.central_of(at);
        d.record_minor(cx, when, anomaly);
    }
}

fn pass_unclaimed(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    let mut index = 0;
    while index < c.unclaimed.len() {
        let waiting = &mut c.unclaimed[index];
        let gone = waiting.gone.as_ref().is_some_and(|g| g.passed(&cx.stamp));
        if waiting.over.is_none() && gone && d.online() {
            waiting.over = Some((lost_reason(None), cx.stamp.at));
        }
        let delivered = waiting.meter.energy() > Mwh(0);
        if let Some((reason, at)) = waiting.over.clone() {
            if settle(c, d, cx, index, delivered, reason, at) {
                continue;
            }
            index += 1;
            continue;
        }
        if waiting.stop {
            if d.online() && waiting.retry.due(cx.stamp.now.mono_ms, cx.random) {
                cx.fx.hardware.push(HwCommand::Stop {
                    connector: c.spec.connector,
                    start_number: waiting.start_number,
                    device_tx: Some(waiting.device_tx.clone()),
                });
            }
            index += 1;
            continue;
        }
        let waited = cx.mono_ms().saturating_sub(waiting.since_mono_ms) >= UNCLAIMED_WAIT_MS;
        // The end of one that is reported late is likely to be on its way as well.
        let is_fresh = waiting.began.mono_ms().is_some_and(|began| {
            cx.stamp.mono_of(cx.stamp.now.wall).saturating_sub(began) < FRESH_TX_MS
        });
        let due = (d.identity.free_vending && is_fresh) || (delivered && waited);
        if due && c.session.is_none() && promote(c, d, cx, index) {
            continue;
        }
        index += 1;
    }
}

/// A transaction without a session is over: one that delivered energy is told as a session that
/// has already ended. False when no id is left in this input.
fn settle(
    c: &mut Connector,
    d: &mut Desk,
    cx: &mut Cx,
    index: usize,
    delivered: bool,
    reason: EndReason,
    at: UnixMs,
) -> bool {
    let session_id = if delivered {
        match cx.draw_session() {
            Some(id) => Some(id),
            None => return false,
        }
    } else {
        None
    };
    let waiting = c.unclaimed.remove(index);
    if let Some(mut row) = d.txs.get(&waiting.origin).cloned() {
        row.ended = true;
        row.end_wall = waiting.end_wall;
        row.session_id = session_id;
        let last = &waiting.meter.last;
        row.end_register = Some((last.meter_epoch, last.register_mwh));
        d.put_tx(cx, row);
    }
    if let Some(session_id) = session_id {
        open_record(c, d, cx, session_id, &waiting);
        let end = End {
            completed: true,
            reason,
            reading: Some(waiting.meter.last),
            at,
            stood_s: None,
        };
        end_session(c, d, cx, session_id, end);
    }
    true
}

/// A transaction without a session that goes on becomes a session of its own.
fn promote(c: &mut Connector, d: &mut Desk, cx: &mut Cx, index: usize) -> bool {
    let Some(session_id) = cx.draw_session() else {
        return false;
    };
    let waiting = c.unclaimed.remove(index);
    let origin = open_record(c, d, cx, session_id, &waiting);
    if let Some(mut row) = d.txs.get(&waiting.origin).cloned() {
        row.session_id = Some(session_id);
        d.put_tx(cx, row);
    }
    let run = Run {
        start_number: waiting.start_number,
        device_tx: waiting.device_tx,
        origin: waiting.origin,
        phase: Phase::Charging,
        phase_mono_ms: None,
        time_limit: None,
        checkpoint_mono_ms: cx.mono_ms() + CHECKPOINT_MS,
        quarter: cx.stamp.at.0.div_euclid(QUARTER_MS),
        doubt: None,
        booted: None,
        held: None,
        began: waiting.began,
        meter: waiting.meter,
    };
    c.session = Some(Session {
        id: session_id,
        origin,
        driver_id: None,
        limits: Limits::default(),
        idle_s_max: 0,
        taken_at: run.began,
        stage: Stage::Running(run),
        anomalies: 0,
    });
    c.touched = true;
    true
}

fn open_record(
    c: &Connector,
    d: &mut Desk,
    cx: &mut Cx,
    session_id: SessionId,
    waiting: &Unclaimed,
) -> Origin {
    let origin = if d.identity.free_vending {
        Origin::Free
    } else {
        Origin::Unknown
    };
    let start = &waiting.meter.start;
    d.record_as_of(
        cx,
        start,
        EdgeFact::OpenedAtEdge {
            session_id,
            connector: c.spec.connector,
            origin,
            driver_id: None,
            token: None,
        },
    );
    d.record_as_of(
        cx,
        start,
        EdgeFact::Started {
            session_id,
            device_tx: waiting.device_tx.0.clone(),
            reading: start.clone(),
        },
    );
    origin
}

/// Another bound of the current: a period begins, so the register is recorded.
pub(crate) fn limit_changed(c: &mut Connector, d: &mut Desk, cx: &mut Cx) {
    if let Some(Stage::Running(_)) = c.session.as_ref().map(|s| &s.stage) {
        checkpoint(c, d, cx);
    }
}
