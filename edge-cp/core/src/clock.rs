//! Central's time, learned by round trip and kept on the monotonic clock.
//!
//! Cristian's algorithm: the answer was written at some moment of the round trip, so central's
//! time at its arrival is the answer's time plus half of it, give or take that half. The error
//! grows with the drift of a cheap quartz.

use ev_contract::{
    time::{Now, UnixMs},
    v1::TimeQuality,
};

use serde::{Deserialize, Serialize};

use crate::limits::{
    AHEAD_MS_MAX, CLOCK_ERROR_MS_MAX, DRIFT_PPM, STEP_MS, SUSPEND_MS, SYNC_ROUND_TRIP_MS_MAX,
};

/// What is known of central's time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    anchor: Option<Anchor>,
    last: Option<Now>,
    began_mono_ms: Option<i64>,
    /// Wall less monotonic time. Kept as long as it holds, so that one wall time is always the same
    /// moment however the two clocks are read.
    offset: Option<i64>,
    /// Whether the wall clock was set before the last moment.
    was_set: bool,
    /// Set when the host seems to have slept: the monotonic clock may have stood still.
    doubted: bool,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    mono_ms: u64,
    central: UnixMs,
    error_ms: u64,
}

/// One moment, as everything in this crate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The host's clocks.
    pub now: Now,
    /// Central's time as far as known, else the host's.
    pub at: UnixMs,
    /// How far `at` can be trusted.
    pub quality: TimeQuality,
    /// Bound of the error of `at` while it is synced.
    pub error_ms: u64,
    /// Wall less monotonic time.
    offset: i64,
    /// When this process began, by the monotonic clock.
    began_mono_ms: i64,
}

/// A moment of this host, to be compared with what devices date by the host's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// By the wall clock as it was then.
    wall: UnixMs,
    /// By the monotonic clock, unless the agent was started since.
    #[serde(skip)]
    mono_ms: Option<i64>,
}

impl Moment {
    /// What is dated `wall`.
    #[must_use]
    pub fn of(stamp: &Stamp, wall: UnixMs) -> Self {
        Self {
            wall,
            mono_ms: Some(stamp.mono_of(wall)),
        }
    }

    /// One before this process began.
    #[must_use]
    pub const fn before_boot(wall: UnixMs) -> Self {
        Self {
            wall,
            mono_ms: None,
        }
    }

    /// By the monotonic clock, unless the agent was started since.
    #[must_use]
    pub const fn mono_ms(self) -> Option<i64> {
        self.mono_ms
    }

    /// Whether this is what is dated `wall`.
    #[must_use]
    pub fn is(self, wall: UnixMs) -> bool {
        self.wall == wall
    }

    /// How long before this moment was what is dated `wall`; negative for what came after it. The
    /// wall clock may have been set in between: within a process the monotonic one tells, and what
    /// this process has lived through is after all that was before it.
    #[must_use]
    pub fn ms_after(self, stamp: &Stamp, wall: UnixMs) -> i64 {
        match self.mono_ms {
            Some(mono) => mono.saturating_sub(stamp.mono_of(wall)),
            None if stamp.has_lived(wall) => -1,
            None => self.wall.ms_since(wall),
        }
    }
}

/// Whether a deadline by central's clock has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lateness {
    /// Surely not.
    InTime,
    /// Surely.
    Late,
    /// It cannot be told.
    Unsure,
}

impl Stamp {
    /// Judges a deadline with the whole error against whoever is sure of it.
    #[must_use]
    pub fn judge(&self, deadline: UnixMs) -> Lateness {
        if self.quality != TimeQuality::Synced {
            return Lateness::Unsure;
        }
        let error = i64::try_from(self.error_ms).unwrap_or(i64::MAX);
        if self.at.plus_ms(error) <= deadline {
            Lateness::InTime
        } else if self.at.plus_ms(-error) > deadline {
            Lateness::Late
        } else {
            Lateness::Unsure
        }
    }

    /// This moment.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment::of(self, self.now.wall)
    }

    /// A host wall time as central's: so long ago by the host's clock is so long ago by central's.
    #[must_use]
    pub fn central_of(&self, wall: UnixMs) -> UnixMs {
        let ago = signed(self.now.mono_ms).saturating_sub(self.mono_of(wall));
        self.at.plus_ms(-ago)
    }

    /// A host wall time on the monotonic clock, below zero for what was before its start. A step of
    /// the wall clock moves both, so that facts stay in order.
    #[must_use]
    pub fn mono_of(&self, wall: UnixMs) -> i64 {
        wall.0
            .saturating_sub(self.offset)
            .min(signed(self.now.mono_ms))
    }

    /// Whether this process has lived through what is dated `wall`. What is dated before it, or by a
    /// clock that was set back since, it cannot order by time.
    #[must_use]
    pub fn has_lived(&self, wall: UnixMs) -> bool {
        self.mono_of(wall) >= self.began_mono_ms && wall.ms_since(self.now.wall) <= AHEAD_MS_MAX
    }

    /// How long this process has run.
    #[must_use]
    pub fn lived_ms(&self) -> u64 {
        let lived = signed(self.now.mono_ms).saturating_sub(self.began_mono_ms);
        u64::try_from(lived).unwrap_or(0)
    }

    /// What turns a monotonic time into `at`.
    #[must_use]
    pub fn frame_ms(&self) -> i64 {
        self.at.0.saturating_sub(signed(self.now.mono_ms))
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Clock {
    /// The time now. Notices a host that slept.
    pub fn stamp(&mut self, now: Now) -> Stamp {
        if let Some(last) = self.last {
            let mono = signed(now.mono_ms.saturating_sub(last.mono_ms));
            if now.wall.ms_since(last.wall).saturating_sub(mono) > SUSPEND_MS {
                self.doubted = true;
            }
        }
        self.last = Some(now);
        let fresh = now.wall.0.saturating_sub(signed(now.mono_ms));
        let offset = self
            .offset
            .filter(|old| old.abs_diff(fresh) <= STEP_MS)
            .unwrap_or(fresh);
        self.was_set = self.offset.is_some_and(|old| old != offset);
        self.offset = Some(offset);
        let began_mono_ms = *self.began_mono_ms.get_or_insert(signed(now.mono_ms));
        let Some(anchor) = self.anchor else {
            return Stamp {
                now,
                at: UnixMs(signed(now.mono_ms).saturating_add(offset)),
                quality: TimeQuality::Unsure,
                error_ms: 0,
                offset,
                began_mono_ms,
            };
        };
        let (at, error_ms) = anchor.read(now.mono_ms);
        let sure = !self.doubted && error_ms <= CLOCK_ERROR_MS_MAX;
        Stamp {
            now,
            at,
            quality: if sure {
                TimeQuality::Synced
            } else {
                TimeQuality::Unsure
            },
            error_ms,
            offset,
            began_mono_ms,
        }
    }

    /// Learns from an answer that central wrote at `central`, to a question sent at `sent_mono_ms`.
    pub fn learn(&mut self, sent_mono_ms: u64, now: Now, central: UnixMs) {
        let round_trip = now.mono_ms.saturating_sub(sent_mono_ms);
        if round_trip > SYNC_ROUND_TRIP_MS_MAX {
            return;
        }
        let half = round_trip / 2;
        let fresh = Anchor {
            mono_ms: now.mono_ms,
            central: central.plus_ms(signed(half)),
            error_ms: half + 1,
        };
        let keep = !self.doubted
            && self.anchor.is_some_and(|old| {
                let (at, error) = old.read(now.mono_ms);
                let apart = at.ms_since(fresh.central).unsigned_abs();
                error < fresh.error_ms && apart <= error + fresh.error_ms
            });
        if !keep {
            self.anchor = Some(fresh);
        }
        self.doubted = false;
    }

    /// Whether the wall clock was set between the last two stamps.
    #[must_use]
    pub const fn was_set(&self) -> bool {
        self.was_set
    }

    /// Whether the time should be asked for at once.
    #[must_use]
    pub const fn doubted(&self) -> bool {
        self.doubted
    }
}

impl Anchor {
    fn read(self, mono_ms: u64) -> (UnixMs, u64) {
        let age = mono_ms.saturating_sub(self.mono_ms);
        let at = self.central.plus_ms(signed(age));
        (
            at,
            self.error_ms
                .saturating_add(age.saturating_mul(DRIFT_PPM) / 1_000_000),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_ms: u64, wall: i64) -> Now {
        Now {
            mono_ms,
            wall: UnixMs(wall),
        }
    }

    #[test]
    fn without_central_the_host_clock_is_used_and_no_deadline_is_judged() {
        let stamp = Clock::default().stamp(now(5, 77));
        assert_eq!(stamp.at, UnixMs(77));
        assert_eq!(stamp.judge(UnixMs(i64::MAX)), Lateness::Unsure);
    }

    #[test]
    fn half_the_round_trip_is_added_and_bounds_the_error() {
        let mut clock = Clock::default();
        clock.learn(1_000, now(1_100, 0), UnixMs(50_000));
        let stamp = clock.stamp(now(1_200, 100));
        assert_eq!((stamp.at, stamp.error_ms), (UnixMs(50_150), 51));
        assert_eq!(stamp.judge(UnixMs(50_201)), Lateness::InTime);
        assert_eq!(stamp.judge(UnixMs(50_150)), Lateness::Unsure);
        assert_eq!(stamp.judge(UnixMs(50_000)), Lateness::Late);
    }

    #[test]
    fn a_step_of_the_wall_clock_back_changes_nothing() {
        let mut clock = Clock::default();
        clock.stamp(now(900, 7_000_000));
        clock.learn(1_000, now(1_002, 7_000_100), UnixMs(50_000));
        let stamp = clock.stamp(now(2_000, 1_000));
        assert_eq!(stamp.quality, TimeQuality::Synced);
        assert_eq!(stamp.at, UnixMs(50_999));
    }

    #[test]
    fn one_wall_time_is_one_moment_however_the_clocks_are_read() {
        let mut clock = Clock::default();
        clock.learn(0, now(2, 10_002), UnixMs(50_000));
        let moments: Vec<_> = [(100, 10_100), (200, 10_201), (300, 10_299)]
            .map(|(mono, wall)| {
                let stamp = clock.stamp(now(mono, wall));
                (
                    stamp.mono_of(UnixMs(10_050)),
                    stamp.central_of(UnixMs(10_050)),
                )
            })
            .to_vec();
        assert_eq!(moments, vec![(50, UnixMs(50_049)); 3]);
    }

    #[test]
    fn after_a_sleep_the_time_is_unsure_until_it_is_learned_again() {
        let mut clock = Clock::default();
        clock.learn(0, now(2, 1_000), UnixMs(50_000));
        clock.stamp(now(10, 1_010));
        assert_eq!(clock.stamp(now(20, 60_000)).quality, TimeQuality::Unsure);
        assert!(clock.doubted());
        clock.learn(30, now(32, 60_012), UnixMs(110_000));
        assert_eq!(clock.stamp(now(40, 60_020)).quality, TimeQuality::Synced);
    }

    #[test]
    fn a_long_silence_makes_the_time_unsure_and_a_slow_answer_teaches_nothing() {
        let mut clock = Clock::default();
        clock.learn(0, now(6_000, 6_000), UnixMs(50_000));
        assert_eq!(clock.stamp(now(6_000, 6_000)).quality, TimeQuality::Unsure);
        clock.learn(6_000, now(6_002, 6_002), UnixMs(50_000));
        let day = 24 * 3_600_000;
        let stamp = clock.stamp(now(6_002 + day, 6_002 + day as i64));
        assert_eq!(stamp.quality, TimeQuality::Unsure);
        assert_eq!(stamp.at, UnixMs(50_001 + day as i64));
    }

    #[test]
    fn a_worse_answer_does_not_replace_a_better_one_but_a_contradiction_does() {
        let mut clock = Clock::default();
        clock.learn(0, now(2, 2), UnixMs(50_000));
        clock.learn(100, now(1_100, 1_100), UnixMs(50_600));
        assert_eq!(clock.stamp(now(1_100, 1_100)).error_ms, 2);
        clock.learn(1_200, now(1_300, 1_300), UnixMs(90_000));
        assert_eq!(clock.stamp(now(1_300, 1_300)).at, UnixMs(90_050));
    }
}
