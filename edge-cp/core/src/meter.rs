//! A register over the time of one device transaction.

use ev_contract::{
    units::{MilliWatt, Mwh},
    v1::{Reading, TimeQuality},
};
use serde::{Deserialize, Serialize};

use crate::{limits::JUMP_SLACK_S, mend::Shift};

/// The readings of one transaction that matter: the first, the last, and what earlier meter epochs
/// came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// At the start of energy.
    pub start: Reading,
    /// The latest.
    pub last: Reading,
    /// From where energy counts in the present meter epoch.
    base: Mwh,
    /// Energy of the meter epochs before, and of the register's rounds before.
    carried: Mwh,
    /// The highest register since `base`. What was counted stays counted when the register falls.
    high: Mwh,
    /// The latest reading was taken in this process, so that its time can be compared.
    #[serde(skip)]
    is_timed: bool,
}

/// What a reading is, compared with the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It goes on as it should.
    Plausible,
    /// Another meter epoch: the last reading of the old one.
    Reset(Box<Reading>),
    /// The register went over its end and on at zero: the last reading before that.
    OverEnd(Box<Reading>),
    /// The register fell within one meter epoch: the last reading before that. Until it has risen above
    /// that again, nothing more is counted.
    Fell(Box<Reading>),
    /// It rose by so much, which the connector cannot have delivered in that time.
    Jumped(Mwh),
}

impl Meter {
    /// Begins with the reading at the start of energy.
    #[must_use]
    pub fn new(start: Reading) -> Self {
        Self {
            base: start.register_mwh,
            high: start.register_mwh,
            last: start.clone(),
            start,
            carried: Mwh(0),
            is_timed: true,
        }
    }

    /// Moves what this process dated by the host's own clock; says whether there was any.
    pub(crate) fn shift(&mut self, shift: &Shift) -> bool {
        shift.reading(&mut self.start) | shift.reading(&mut self.last)
    }

    /// Begins anew with a reading from before this process.
    #[must_use]
    pub(crate) fn before_boot(start: Reading) -> Self {
        Self {
            is_timed: false,
            ..Self::new(start)
        }
    }

    /// Takes a later reading. It is kept as it is, whatever it looks like: a broken meter is for
    /// people to judge.
    pub fn observe(&mut self, reading: Reading, power_max: MilliWatt) -> Observed {
        let last = std::mem::replace(&mut self.last, reading);
        let now = &self.last;
        let is_timed = std::mem::replace(&mut self.is_timed, true)
            || (now.quality == TimeQuality::Synced && last.quality == TimeQuality::Synced);
        if now.meter_epoch != last.meter_epoch || now.meter_id != last.meter_id {
            self.carried = self.energy_until(self.high);
            // A reset meter counts from zero; another meter from wherever it stands.
            self.base = if now.meter_id == last.meter_id {
                Mwh(0)
            } else {
                now.register_mwh
            };
            self.high = now.register_mwh;
            return Observed::Reset(Box::new(last));
        }
        let elapsed_ms = u64::try_from(now.at.ms_since(last.at)).unwrap_or(0);
        // How long the agent was away is not known, so neither is what can have flowed meanwhile.
        let most = if is_timed {
            most(power_max, elapsed_ms)
        } else {
            Mwh(u64::MAX)
        };
        if now.register_mwh < last.register_mwh {
            let Some(end) = last.register_mwh.went_over_end(now.register_mwh, most) else {
                return Observed::Fell(Box::new(last));
            };
            (self.base, self.high, self.carried) =
                (Mwh(0), now.register_mwh, self.energy_until(end));
            return Observed::OverEnd(Box::new(last));
        }
        self.high = self.high.max(now.register_mwh);
        let rise = now.register_mwh.saturating_sub(last.register_mwh);
        if rise > most {
            return Observed::Jumped(rise);
        }
        Observed::Plausible
    }

    /// The end of a transaction may be reported after readings that were taken later, when another
    /// one ran: those are not its own.
    pub fn rewind_to(&mut self, end: &Reading) {
        let later = end.at < self.last.at && end.meter_epoch == self.last.meter_epoch;
        if later && (self.base..self.last.register_mwh).contains(&end.register_mwh) {
            self.last = end.clone();
            self.high = end.register_mwh;
        }
    }

    /// Energy so far.
    #[must_use]
    pub const fn energy(&self) -> Mwh {
        self.energy_until(self.high)
    }

    const fn energy_until(&self, register: Mwh) -> Mwh {
        self.carried
            .saturating_add(register.saturating_sub(self.base))
    }
}

/// The most that can be delivered in so long, with a quarter on top for meters and mains that are
/// above nominal, and some seconds for readings whose times are coarse.
fn most(power_max: MilliWatt, elapsed_ms: u64) -> Mwh {
    let ms = u128::from(elapsed_ms) + u128::from(JUMP_SLACK_S) * 1_000;
    let mwh = u128::from(power_max.0) * ms * 5 / 4 / 3_600_000;
    Mwh(u64::try_from(mwh).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use ev_contract::{time::UnixMs, v1::TimeQuality};

    use super::*;

    const KW11: MilliWatt = MilliWatt(11_000_000);

    fn reading(at: i64, register: u64, meter_epoch: u32) -> Reading {
        Reading {
            at: UnixMs(at),
            quality: TimeQuality::Synced,
            register_mwh: Mwh(register),
            meter_id: "m".into(),
            meter_epoch,
            power_mw: None,
            current_ma: vec![],
            soc_pct: None,
            signed: None,
        }
    }

    #[test]
    fn energy_is_the_difference_of_the_registers() {
        let mut meter = Meter::new(reading(0, 1_000, 1));
        assert_eq!(
            meter.observe(reading(1_000, 4_000, 1), KW11),
            Observed::Plausible
        );
        assert_eq!(meter.energy(), Mwh(3_000));
    }

    #[test]
    fn a_reset_keeps_what_was_delivered_before_and_counts_on_from_zero() {
        let mut meter = Meter::new(reading(0, 1_000, 1));
        meter.observe(reading(1_000, 4_000, 1), KW11);
        let observed = meter.observe(reading(2_000, 500, 2), KW11);
        assert_eq!(
            observed,
            Observed::Reset(Box::new(reading(1_000, 4_000, 1)))
        );
        assert_eq!(meter.energy(), Mwh(3_500));
    }

    #[test]
    fn a_register_that_goes_over_its_end_counts_on() {
        const KWH: u64 = 1_000_000;
        let mut meter = Meter::new(reading(0, 999_998 * KWH, 1));
        let before = reading(600_000, 999_999 * KWH, 1);
        assert_eq!(meter.observe(before.clone(), KW11), Observed::Plausible);
        let after = reading(1_200_000, KWH / 2, 1);
        assert_eq!(
            meter.observe(after, KW11),
            Observed::OverEnd(Box::new(before))
        );
        assert_eq!(meter.energy(), Mwh(2 * KWH + KWH / 2));
        meter.observe(reading(1_800_000, KWH, 1), KW11);
        assert_eq!(meter.energy(), Mwh(3 * KWH));
    }

    #[test]
    fn what_was_counted_before_a_fall_stays_counted() {
        let mut meter = Meter::new(reading(0, 1_000, 1));
        meter.observe(reading(1_000, 4_000, 1), KW11);
        for (at, register, energy) in [
            (2_000, 0, 3_000),
            (3_000, 500, 3_000),
            (4_000, 5_000, 4_000),
        ] {
            meter.observe(reading(at, register, 1), KW11);
            assert_eq!(meter.energy(), Mwh(energy), "at {register}");
        }
        meter.observe(reading(5_000, 0, 1), KW11);
        meter.observe(reading(6_000, 700, 2), KW11);
        assert_eq!(meter.energy(), Mwh(4_700), "reset after a fall");
    }

    #[test]
    fn another_meter_brings_no_energy_of_its_own() {
        let mut meter = Meter::new(reading(0, 1_000, 1));
        let mut other = reading(1_000, 9_000_000, 1);
        other.meter_id = "n".into();
        meter.observe(other, KW11);
        assert_eq!(meter.energy(), Mwh(0));
    }

    #[test]
    fn a_fall_and_a_jump_are_told_and_kept_as_they_are() {
        let mut meter = Meter::new(reading(0, 10_000, 1));
        assert_eq!(
            meter.observe(reading(1_000, 9_000, 1), KW11),
            Observed::Fell(Box::new(reading(0, 10_000, 1)))
        );
        assert_eq!(meter.last.register_mwh, Mwh(9_000));
        assert_eq!(
            meter.observe(reading(2_000, 9_000_000, 1), KW11),
            Observed::Jumped(Mwh(8_991_000))
        );
    }
}
