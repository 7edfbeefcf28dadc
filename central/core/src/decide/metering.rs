//! From readings to energy. A register that falls or jumps is flagged and not billed.

use std::collections::BTreeSet;

use ev_contract::{
    connector::Phase,
    time::UnixMs,
    units::Mwh,
    v1::{Flag, MeterSpan, Origin, Period, Reading, TimeQuality},
};

use crate::model::{ChargePoint, Metering, Pause, Session};

/// What a connector can physically deliver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capability {
    milliwatt_max: u64,
}

impl Capability {
    /// Meters are read a little late and count in steps: so much energy more is no anomaly.
    const SLACK_MWH: u64 = 100_000;
    /// So much time is added to what lies between two readings: an agent may have learned the time
    /// of the one from a replica that is ahead and of the other from one that is behind.
    /// Each may be off by a quarter of a minute.
    const SLACK_MS: u64 = 30_000;

    /// Of the connector of a session; without limit when it is no longer there.
    pub fn of(session: &Session, cp: Option<&ChargePoint>) -> Self {
        let milliwatt_max = cp
            .and_then(|cp| cp.connector(session.connector))
            .map_or(u64::MAX, |spec| spec.power_max().0);
        Self { milliwatt_max }
    }

    /// The most energy between two instants: a tenth more than nominal, and some slack.
    fn most(self, from: UnixMs, to: UnixMs) -> u64 {
        let ms = u64::try_from(to.ms_since(from)).unwrap_or(0) + Self::SLACK_MS;
        let nominal = u128::from(self.milliwatt_max) * u128::from(ms) / 3_600_000;
        u64::try_from(nominal + nominal / 10)
            .unwrap_or(u64::MAX)
            .saturating_add(Self::SLACK_MWH)
    }

    /// The most energy of a whole session by now, whatever its readings say of their times. The slack
    /// is there once, and not for a session whose connector has yet to deliver what was billed before.
    fn most_of_session(self, flows_from: UnixMs, now: UnixMs) -> u64 {
        let ahead_ms = u64::try_from(flows_from.ms_since(now)).unwrap_or(0);
        if ahead_ms > Self::SLACK_MS {
            0
        } else {
            self.most(flows_from, now)
        }
    }

    /// When it can have delivered so much, at the soonest.
    pub fn soonest(self, from: UnixMs, energy: Mwh) -> UnixMs {
        let ms = u128::from(energy.0) * 3_600_000 * 10 / 11 / u128::from(self.milliwatt_max.max(1));
        from.plus_ms(i64::try_from(ms).unwrap_or(i64::MAX))
    }
}

/// When what a charge point says of a session can have been: not after central takes it in, and not
/// before central opened the session. Where it began at the charge point, not long before its agent was
/// last heard. What a charge point claims beyond that is its clock's error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Believable {
    from: UnixMs,
    until: UnixMs,
    flows_from: UnixMs,
}

impl Believable {
    /// Of a session, by word that is taken in now.
    pub fn of(session: &Session, now: UnixMs) -> Self {
        let from = match session.origin {
            Origin::App | Origin::Operator => session.accepted_at,
            Origin::Local | Origin::Free | Origin::Unknown | Origin::Unrecognised
                if session.flags.contains(&Flag::ClockUnsure) =>
            {
                UnixMs(i64::MIN)
            }
            Origin::Local | Origin::Free | Origin::Unknown | Origin::Unrecognised => {
                session.flows_from.min(now)
            }
        };
        Self {
            from,
            until: now,
            flows_from: session.flows_from,
        }
    }

    /// Whether a session can have had so much energy by now.
    pub fn is_energy(self, energy: Mwh, can: Capability) -> bool {
        energy.0 <= can.most_of_session(self.flows_from, self.until)
    }

    /// The nearest time to a claimed one that can be.
    pub fn nearest(self, claimed: UnixMs) -> UnixMs {
        self.past(claimed).max(self.from)
    }

    /// A claimed time, but not a later one than now: how far the clock went back can still be seen.
    pub fn past(self, claimed: UnixMs) -> UnixMs {
        claimed.min(self.until)
    }
}

/// Flags a session of which something was written under an unsure clock.
pub(super) fn note_clock(flags: &mut BTreeSet<Flag>, quality: TimeQuality) {
    if quality == TimeQuality::Unsure {
        flags.insert(Flag::ClockUnsure);
    }
}

/// Since when the energy of a reading at `at` may have flowed: since the last one. Where the clock
/// is unsure or was set back, time does not tell how much can have flowed, and a reading that is
/// passed over by mistake is energy lost: a day's worth is believed then. Readings are a minute
/// apart, so that no more lies between two of them unless records are missing.
pub(super) fn flowed_since(
    last_at: UnixMs,
    flags: &BTreeSet<Flag>,
    reading: &Reading,
    at: UnixMs,
) -> UnixMs {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let went_back_ms = u64::try_from(last_at.ms_since(at)).unwrap_or(0);
    // The last reading's time may be the wrong one: a clock is corrected at any moment.
    let unsure = reading.quality == TimeQuality::Unsure || flags.contains(&Flag::ClockUnsure);
    if unsure || went_back_ms > Capability::SLACK_MS {
        at.max(last_at).plus_ms(-DAY_MS)
    } else {
        last_at
    }
}

/// Begins metering.
pub(super) fn begin(
    flags: &mut BTreeSet<Flag>,
    reading: &Reading,
    device_tx: &str,
    phase: Phase,
    believable: Believable,
) -> Metering {
    note_clock(flags, reading.quality);
    let at = believable.nearest(reading.at);
    Metering {
        started_at: at,
        device_tx: device_tx.to_owned(),
        spans: vec![MeterSpan {
            meter_id: reading.meter_id.clone(),
            meter_epoch: reading.meter_epoch,
            from_mwh: reading.register_mwh,
            to_mwh: reading.register_mwh,
        }],
        last_at: at,
        power: reading.power_mw,
        soc_pct: reading.soc_pct,
        periods: vec![Period {
            at,
            phase,
            register_mwh: reading.register_mwh,
        }],
        stood_ms: 0,
        pause: None,
    }
}

/// A car that draws more in a pause has none: what a battery's heating and a meter's steps make stays
/// below.
const PAUSE_MWH_MAX: u64 = 10_000;
/// Readings further apart say nothing of what was between them: a cabinet without power, one that
/// was switched off. There is one at each quarter hour at least.
const PAUSE_GAP_MS_MAX: i64 = 20 * 60 * 1000;

/// Follows the pauses of a car, from one reading to the next. `before` is the time of the last one.
fn pause(
    meter: &mut Metering,
    reading: &Reading,
    before: UnixMs,
    phase: Phase,
    sure: bool,
    patience_ms: i64,
) {
    let at = meter.last_at;
    if let Some(pause) = meter.pause {
        let unbroken = sure
            && at.ms_since(before) <= PAUSE_GAP_MS_MAX
            && (pause.register_mwh.0..=pause.register_mwh.0.saturating_add(PAUSE_MWH_MAX))
                .contains(&reading.register_mwh.0);
        if !unbroken {
            // What came after the reading before is not known, or was no pause.
            meter.last_at = before;
            meter.end_pause(patience_ms);
            meter.last_at = at;
        } else if phase != Phase::SuspendedEv {
            meter.end_pause(patience_ms);
        }
    }
    if meter.pause.is_none() && sure && phase == Phase::SuspendedEv {
        meter.pause = Some(Pause {
            since: at,
            register_mwh: reading.register_mwh,
        });
    }
}

/// What a reading means for the meter's last span.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The span goes on to the reading.
    Rises,
    /// The register went over its end, which it reached, and another span goes on at zero.
    OverEnd(Mwh, MeterSpan),
    /// The meter was reset or replaced: another span.
    Another(MeterSpan),
    /// It cannot be; flagged and not used.
    Anomaly(Flag),
}

/// Judges a reading against the last span, for energy that has flowed since `since`.
pub(super) fn step(
    last: &MeterSpan,
    since: UnixMs,
    reading: &Reading,
    at: UnixMs,
    can: Capability,
) -> Step {
    let most = can.most(since, at);
    let register = reading.register_mwh;
    if reading.meter_id == last.meter_id && reading.meter_epoch == last.meter_epoch {
        return if register < last.to_mwh {
            match last.to_mwh.went_over_end(register, Mwh(most)) {
                Some(end) => Step::OverEnd(
                    end,
                    MeterSpan {
                        from_mwh: Mwh(0),
                        to_mwh: register,
                        ..last.clone()
                    },
                ),
                None => Step::Anomaly(Flag::RegisterFell),
            }
        } else if register.0 - last.to_mwh.0 > most {
            Step::Anomaly(Flag::RegisterJumped)
        } else {
            Step::Rises
        };
    }
    // A reset meter counts from zero; another meter from wherever it stands.
    let from_mwh = if reading.meter_id == last.meter_id {
        Mwh(0)
    } else {
        register
    };
    if register.0 - from_mwh.0 > most {
        return Step::Anomaly(Flag::RegisterJumped);
    }
    Step::Another(MeterSpan {
        meter_id: reading.meter_id.clone(),
        meter_epoch: reading.meter_epoch,
        from_mwh,
        to_mwh: register,
    })
}

/// Whether a new period begins with a reading: another phase, or another quarter hour.
fn period_begins(last: &Period, at: UnixMs, phase: Phase) -> bool {
    /// Time zones differ by whole quarter hours, so that those of UTC are those of every site.
    const QUARTER_MS: i64 = 15 * 60 * 1000;
    last.phase != phase || at.0.div_euclid(QUARTER_MS) != last.at.0.div_euclid(QUARTER_MS)
}

/// Takes a reading.
/// Says why it could not be used, if so: then it is kept aside, for an operator to judge.
pub(super) fn read(
    meter: &mut Metering,
    flags: &mut BTreeSet<Flag>,
    reading: &Reading,
    phase: Phase,
    believable: Believable,
    can: Capability,
    patience_ms: Option<i64>,
) -> Option<Flag> {
    let before = meter.last_at;
    let odd = take(meter, flags, reading, phase, believable, can);
    let sure = reading.quality == TimeQuality::Synced && odd.is_none();
    if let Some(patience_ms) = patience_ms {
        pause(meter, reading, before, phase, sure, patience_ms);
    }
    odd
}

fn take(
    meter: &mut Metering,
    flags: &mut BTreeSet<Flag>,
    reading: &Reading,
    phase: Phase,
    believable: Believable,
    can: Capability,
) -> Option<Flag> {
    note_clock(flags, reading.quality);
    let since = flowed_since(meter.last_at, flags, reading, believable.past(reading.at));
    let mut at = believable.nearest(reading.at);
    if at < meter.last_at {
        flags.insert(Flag::TimeWentBack);
        at = meter.last_at;
    }
    let before = meter.energy();
    let has_room = meter.spans.len() < Metering::SPANS_MAX;
    let last = meter.spans.last_mut()?;
    let step = step(last, since, reading, at, can);
    let added = match &step {
        Step::Rises => reading.register_mwh.saturating_sub(last.to_mwh),
        Step::OverEnd(end, span) => end
            .saturating_sub(last.to_mwh)
            .saturating_add(span.to_mwh.saturating_sub(span.from_mwh)),
        Step::Another(span) => span.to_mwh.saturating_sub(span.from_mwh),
        Step::Anomaly(_) => Mwh(0),
    };
    if added > Mwh(0) && !believable.is_energy(before.saturating_add(added), can) {
        flags.insert(Flag::RegisterJumped);
        return Some(Flag::RegisterJumped);
    }
    match step {
        Step::Rises => last.to_mwh = reading.register_mwh,
        Step::OverEnd(end, span) if has_room => {
            last.to_mwh = end;
            meter.spans.push(span);
        }
        Step::Another(span) if has_room => {
            flags.insert(Flag::MeterReset);
            meter.spans.push(span);
        }
        Step::OverEnd(..) | Step::Another(_) => {
            flags.insert(Flag::MeterReset);
            return Some(Flag::MeterReset);
        }
        Step::Anomaly(flag) => {
            flags.insert(flag);
            return Some(flag);
        }
    }
    meter.last_at = at;
    meter.power = reading.power_mw;
    meter.soc_pct = reading.soc_pct.or(meter.soc_pct);
    if meter.periods.len() < Metering::PERIODS_MAX
        && meter
            .periods
            .last()
            .is_none_or(|last| period_begins(last, at, phase))
    {
        meter.periods.push(Period {
            at,
            phase,
            register_mwh: reading.register_mwh,
        });
    }
    None
}
