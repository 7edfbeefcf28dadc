//! Who may ask how much. Each asker has an allowance per kind of question; beyond it a question is
//! answered `overloaded` before it is read, so that a flood costs its sender and nobody else.
//!
//! The rule is the generic cell rate algorithm (ITU-T I.371, virtual scheduling). Written here and
//! not taken from a crate, since the number of remembered askers must have a bound while those
//! that are remembered go on being served.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use serde::Deserialize;

/// Askers of one kind that are remembered at once, at 24 bytes each. An asker is forgotten when its
/// allowance is whole again, so this many must have asked within the last seconds to fill it.
pub const ASKERS_MAX: usize = 262_144;
/// Between two looks for askers that can be forgotten, when the memory is full: a look visits all.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Shortest time to wait that a refused asker is told. A reply is on its way for about as long.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// What an asker is told for whom there is no room.
const RETRY_STRANGER: Duration = Duration::from_secs(1);

/// How much one asker may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// For ever, each second.
    pub per_s: u32,
    /// At once, after a rest.
    pub burst: u32,
}

impl Rate {
    /// A rate.
    #[must_use]
    pub const fn new(per_s: u32, burst: u32) -> Self {
        Self { per_s, burst }
    }
}

/// `[limits]` of `central.toml`: what one asker may ask of one replica. Beyond it is answered
/// `overloaded`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Starts of one driver. A person starts one session; a fleet under one id starts its hundred
    /// at once (`sessions_per_driver` ends there) and repeats some.
    pub driver_starts: Rate,
    /// Stops of one driver, counted apart: no flood of anything else may keep a driver from
    /// stopping.
    pub driver_stops: Rate,
    /// Questions of one driver. An app asks for its status once a second; a walk through all
    /// pages of a large listing is some hundred in a row.
    pub driver_reads: Rate,
    /// Anything from one operator. Tools walk through listings and act on each row.
    pub operator: Rate,
    /// `evt` of one charge point; one counts once, and once more for each 16 KiB. An agent has one
    /// under way and a handful of records a minute; one that drains days of records sends them
    /// 256 at a time, which count four as they usually are and nine where they are twice as large.
    /// The burst alone is 256,000 records, or 114,000 large ones; what is beyond it comes at
    /// 1.6 MB/s.
    pub charge_point_evts: Rate,
    /// `sync` of one charge point: one a minute and one after each reconnect.
    pub charge_point_syncs: Rate,
    /// Heartbeats of one charge point: one in five seconds and one after each change. Those beyond
    /// are passed over; the next one says the same.
    pub charge_point_heartbeats: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            driver_starts: Rate::new(20, 200),
            driver_stops: Rate::new(20, 200),
            driver_reads: Rate::new(50, 500),
            operator: Rate::new(200, 2_000),
            charge_point_evts: Rate::new(100, 4_000),
            charge_point_syncs: Rate::new(2, 20),
            charge_point_heartbeats: Rate::new(10, 50),
        }
    }
}

impl Limits {
    /// With their keys, to be checked and documented.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, Rate); 7] {
        [
            ("limits.driver_starts", self.driver_starts),
            ("limits.driver_stops", self.driver_stops),
            ("limits.driver_reads", self.driver_reads),
            ("limits.operator", self.operator),
            ("limits.charge_point_evts", self.charge_point_evts),
            ("limits.charge_point_syncs", self.charge_point_syncs),
            (
                "limits.charge_point_heartbeats",
                self.charge_point_heartbeats,
            ),
        ]
    }
}

/// Why a question is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This asker has used its allowance up; so long until this question would be let in.
    TooMany(Duration),
    /// Too many askers at once: there is no room to remember this one.
    NoRoom,
}

impl Refusal {
    /// How long to wait.
    #[must_use]
    pub fn retry_after(self) -> Duration {
        match self {
            Self::TooMany(wait) => wait.max(RETRY_MIN),
            Self::NoRoom => RETRY_STRANGER,
        }
    }

    /// For metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooMany(_) => "rate",
            Self::NoRoom => "askers",
        }
    }
}

/// The allowances of all askers of one kind.
#[derive(Debug)]
pub struct Gate {
    each: Duration,
    burst: u32,
    askers_max: usize,
    /// When each asker's allowance is whole again. By a keyed hash, so that the memory does not
    /// depend on what askers are called; two with the same share an allowance.
    whole_at: HashMap<u64, Instant>,
    hasher: RandomState,
    swept_at: Option<Instant>,
}

impl Gate {
    /// A gate at which nobody has asked yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self::with_askers_max(rate, ASKERS_MAX)
    }

    /// A gate that lets one in each so long, and so many at once after a rest.
    #[must_use]
    pub fn every(each: Duration, burst: u32) -> Self {
        Self {
            each,
            burst: burst.max(1),
            askers_max: ASKERS_MAX,
            whole_at: HashMap::new(),
            hasher: RandomState::new(),
            swept_at: None,
        }
    }

    fn with_askers_max(rate: Rate, askers_max: usize) -> Self {
        Self {
            askers_max,
            ..Self::every(Duration::from_secs(1) / rate.per_s.max(1), rate.burst)
        }
    }

    /// Another rate. What was asked already counts on, at most as much as the new one allows at once.
    pub fn limit(&mut self, rate: Rate) {
        self.each = Duration::from_secs(1) / rate.per_s.max(1);
        self.burst = rate.burst.max(1);
        let latest = Instant::now() + self.each * self.burst;
        for whole_at in self.whole_at.values_mut() {
            *whole_at = latest.min(*whole_at);
        }
    }

    /// Whether a question may come in. One that counts more than the whole burst counts as the
    /// whole burst: it must be possible at all.
    ///
    /// # Errors
    /// [`Refusal`] when not; it then costs nothing.
    pub fn admit(&mut self, asker: &impl Hash, count: u32, now: Instant) -> Result<(), Refusal> {
        let key = self.hasher.hash_one(asker);
        let known = self.whole_at.get(&key).copied();
        if known.is_none() && !self.has_room(now) {
            return Err(Refusal::NoRoom);
        }
        let used_until = known.unwrap_or(now).max(now) + self.each * count.clamp(1, self.burst);
        let latest = now + self.each * self.burst;
        if used_until > latest {
            return Err(Refusal::TooMany(used_until - latest));
        }
        self.whole_at.insert(key, used_until);
        Ok(())
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.whole_at.len() < self.askers_max {
            return true;
        }
        if self.swept_at.is_none_or(|at| now - at >= SWEEP_EVERY) {
            self.swept_at = Some(now);
            self.whole_at.retain(|_, whole_at| *whole_at > now);
        }
        self.whole_at.len() < self.askers_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::new(10, 5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn let_in(gate: &mut Gate, asker: &str, asked: u32, now: Instant) -> usize {
        (0..asked)
            .filter(|_| gate.admit(&asker, 1, now).is_ok())
            .count()
    }

    #[test]
    fn another_rate_counts_from_now_on_for_all() {
        let (mut gate, now) = (Gate::new(RATE), Instant::now());
        assert_eq!(let_in(&mut gate, "alice", 100, now), 5);
        gate.limit(Rate::new(1, 2));
        assert_eq!(
            let_in(&mut gate, "alice", 100, now),
            1,
            "half a second was used"
        );
        gate.limit(Rate::new(1, 1));
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(let_in(&mut gate, "alice", 100, later), 1);
        assert_eq!(let_in(&mut gate, "bob", 100, later), 1);
        gate.limit(Rate::new(1_000, 1_000));
        assert!(let_in(&mut gate, "bob", 2_000, later) >= 999);
    }

    #[test]
    fn a_burst_passes_and_what_is_beyond_waits_as_long_as_it_is_told() {
        let (mut gate, now) = (Gate::new(RATE), Instant::now());
        assert_eq!(let_in(&mut gate, "alice", 100, now), 5);
        assert_eq!(gate.admit(&"alice", 1, now), Err(Refusal::TooMany(ms(100))));
        assert!(gate.admit(&"alice", 1, now + ms(99)).is_err());
        assert!(gate.admit(&"alice", 1, now + ms(100)).is_ok());
        assert!(gate.admit(&"alice", 1, now + ms(100)).is_err());
    }

    #[test]
    fn a_flood_gets_its_rate_and_no_more_and_leaves_others_alone() {
        let (mut gate, start) = (Gate::new(RATE), Instant::now());
        let mut flooder = 0;
        let mut other = 0;
        for tick in 0..10_000 {
            let now = start + ms(tick);
            flooder += let_in(&mut gate, "mallory", 5, now);
            if tick % 200 == 0 {
                other += let_in(&mut gate, "alice", 1, now);
            }
        }
        assert_eq!(flooder, 5 + 99, "the burst, then ten a second");
        assert_eq!(other, 50, "all of hers");
    }

    #[test]
    fn a_refused_question_costs_nothing() {
        let (mut gate, now) = (Gate::new(RATE), Instant::now());
        let_in(&mut gate, "alice", 1_000, now);
        assert_eq!(let_in(&mut gate, "alice", 1_000, now + ms(500)), 5);
    }

    #[test]
    fn what_is_large_counts_more_and_is_possible_however_large() {
        let (mut gate, now) = (Gate::new(RATE), Instant::now());
        assert!(gate.admit(&"CP-001", 1_000, now).is_ok());
        assert_eq!(
            gate.admit(&"CP-001", 2, now),
            Err(Refusal::TooMany(ms(200)))
        );
        assert!(gate.admit(&"CP-001", 1_000, now + ms(500)).is_ok());
    }

    #[test]
    fn the_number_of_remembered_askers_has_a_bound_and_those_are_served_on() {
        let (mut gate, now) = (Gate::with_askers_max(RATE, 100), Instant::now());
        for n in 0..100 {
            assert!(gate.admit(&n, 1, now).is_ok());
        }
        for n in 100..10_000 {
            assert_eq!(gate.admit(&n, 1, now), Err(Refusal::NoRoom));
        }
        assert_eq!(gate.whole_at.len(), 100);
        assert!(gate.admit(&7, 1, now).is_ok());
        // Their allowances are whole again, so that nothing is lost by forgetting them.
        for n in 100..200 {
            assert!(gate.admit(&n, 1, now + ms(1_000)).is_ok());
        }
        assert_eq!(gate.whole_at.len(), 100);
    }

    #[test]
    fn nobody_is_told_to_come_back_at_once() {
        assert_eq!(Refusal::TooMany(ms(1)).retry_after(), RETRY_MIN);
        assert_eq!(Refusal::TooMany(ms(900)).retry_after(), ms(900));
        assert_eq!(Refusal::NoRoom.retry_after(), RETRY_STRANGER);
    }
}
