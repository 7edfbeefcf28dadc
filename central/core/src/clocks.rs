//! Whether this replica's clock is right, as far as other clocks show. Two kinds of them do: that of
//! nats-server, which is asked, and those of other replicas, whose frames say when they were made.
//! Agents have their time from central: they are no witnesses.
//!
//! A replica whose clock is off refuses what is good, tells agents a wrong time and writes wrong times
//! into receipts. So it answers nothing. No decision and no rule of the ledger rests on any of this.

use std::collections::{BTreeMap, VecDeque};

use ev_contract::{
    ids::ReplicaId,
    limits::CLOCK_TOLERANCE_MS,
    time::{Now, UnixMs},
};

/// How far two clocks may be apart and still agree. What drivers' clocks are forgiven, replicas'
/// are too: they keep time by NTP, which is within milliseconds.
pub const CLOCK_OFF_MS_MAX: i64 = CLOCK_TOLERANCE_MS;

/// An answer of nats-server that took longer says too little of its time.
const ROUND_TRIP_MS_MAX: u64 = 2_000;
/// How far this host's two clocks drift apart: 200 ppm, twice what a cheap quartz does.
const DRIFT_DIVISOR: u64 = 5_000;
/// The newest frames of a replica that count: one of them may have been appended again and again
/// for minutes before it landed, so that the freshest of three shows its clock.
const FRAMES_KEPT: usize = 3;
/// A replica of which nothing landed for so long is no witness. A hub without any traffic still has
/// the server.
const HEARD_MS_MAX: u64 = 5 * 60 * 1_000;
/// Other replicas that are remembered: more than ever run over one ledger. Who was heard longest ago
/// is forgotten.
const OTHERS_MAX: usize = 32;

/// What was seen of other clocks.
#[derive(Debug, Clone, Default)]
pub struct Clocks {
    server: Option<Server>,
    others: BTreeMap<ReplicaId, Other>,
}

/// Bounds of the server's wall time less this process's monotonic time.
#[derive(Debug, Clone, Copy)]
struct Server {
    low_ms: i64,
    high_ms: i64,
    mono_ms: u64,
}

#[derive(Debug, Clone, Default)]
struct Other {
    /// Its wall time less the server's, less the time from making the frame to its landing.
    ahead_ms: VecDeque<i64>,
    mono_ms: u64,
}

/// What other clocks say of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Nobody was heard.
    Unheard,
    /// It goes with most, or with half of all and the server among them.
    Right,
    /// It does not.
    Off {
        /// How far it is ahead of the server's; below zero when it is behind.
        ahead_ms: i64,
        /// Clocks that go with it, itself among them.
        agree: usize,
        /// Of so many.
        of: usize,
    },
}

impl Clocks {
    /// The server answered with its time to a question that left at `sent_mono_ms`.
    pub fn server_said(&mut self, at: UnixMs, sent_mono_ms: u64, now_mono_ms: u64) {
        if now_mono_ms.saturating_sub(sent_mono_ms) > ROUND_TRIP_MS_MAX {
            return;
        }
        self.server = Some(Server {
            low_ms: at.0.saturating_sub(signed(now_mono_ms)),
            high_ms: at.0.saturating_sub(signed(sent_mono_ms)),
            mono_ms: now_mono_ms,
        });
    }

    /// A frame of another replica, made at `at` by its clock, landed at `landed_at` by the server's.
    pub fn frame_landed(&mut self, by: &ReplicaId, at: UnixMs, landed_at: UnixMs, mono_ms: u64) {
        if !self.others.contains_key(by) && self.others.len() >= OTHERS_MAX {
            let oldest = self.others.iter().min_by_key(|(_, other)| other.mono_ms);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.others.remove(&oldest);
            }
        }
        let other = self.others.entry(by.clone()).or_default();
        other.mono_ms = mono_ms;
        other.ahead_ms.push_back(at.ms_since(landed_at));
        if other.ahead_ms.len() > FRAMES_KEPT {
            other.ahead_ms.pop_front();
        }
    }

    /// How far this host's clock is ahead of the server's, as far as is certain; none while the server
    /// was not heard.
    #[must_use]
    pub fn ahead_of_server_ms(&self, now: Now) -> Option<i64> {
        let server = self.server?;
        let drift = signed(now.mono_ms.saturating_sub(server.mono_ms) / DRIFT_DIVISOR);
        let own = own_ms(now);
        let above = own.saturating_sub(server.high_ms.saturating_add(drift));
        let below = own.saturating_sub(server.low_ms.saturating_sub(drift));
        Some(if above > 0 {
            above
        } else if below < 0 {
            below
        } else {
            0
        })
    }

    /// What other clocks say of this host's. Whatever the two of them show, a clock with which most
    /// go is right; where it is one half against the other, the one with the server.
    #[must_use]
    pub fn judge(&self, now: Now) -> Judged {
        let Some(ahead_ms) = self.ahead_of_server_ms(now) else {
            return Judged::Unheard;
        };
        let with_server = goes_with(ahead_ms);
        let others = self
            .others
            .values()
            .filter(|other| now.mono_ms.saturating_sub(other.mono_ms) <= HEARD_MS_MAX)
            .filter(|other| other.ahead_ms.len() == FRAMES_KEPT)
            .filter_map(|other| other.ahead_ms.iter().max());
        let (mut agree, mut of) = (1 + usize::from(with_server), 2);
        for theirs in others {
            of += 1;
            agree += usize::from(goes_with(ahead_ms.saturating_sub(*theirs)));
        }
        if 2 * agree > of || (2 * agree == of && with_server) {
            Judged::Right
        } else {
            Judged::Off {
                ahead_ms,
                agree,
                of,
            }
        }
    }
}

const fn goes_with(apart_ms: i64) -> bool {
    apart_ms.saturating_abs() <= CLOCK_OFF_MS_MAX
}

fn own_ms(now: Now) -> i64 {
    now.wall.0.saturating_sub(signed(now.mono_ms))
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: i64 = 1_760_000_000_000;
    const HOUR: i64 = 3_600_000;

    /// A host whose clock is off by so much, `mono_ms` after the begin.
    fn at(mono_ms: u64, off_ms: i64) -> Now {
        Now {
            mono_ms,
            wall: UnixMs(T0 + signed(mono_ms) + off_ms),
        }
    }

    /// Heard by a replica: the server, off by so much, and others, off by so much each.
    fn heard(server_ms: i64, others_ms: &[i64]) -> Clocks {
        let mut clocks = Clocks::default();
        for n in 0..3 {
            let mono = 1_000 * n;
            let server = UnixMs(T0 + signed(mono) + server_ms);
            clocks.server_said(server.plus_ms(-2), mono - mono.min(5), mono);
            for (other, off_ms) in others_ms.iter().enumerate() {
                let by = format!("central-{other}").parse().unwrap();
                let made = UnixMs(T0 + signed(mono) + off_ms);
                clocks.frame_landed(&by, made, server.plus_ms(3), mono);
            }
        }
        clocks
    }

    fn is_right(clocks: &Clocks, off_ms: i64) -> bool {
        clocks.judge(at(2_000, off_ms)) == Judged::Right
    }

    #[test]
    fn a_clock_that_goes_with_most_is_right_and_of_two_halves_the_servers() {
        // Its own, the server's, the others', in hours; whether it is right.
        for (own, server, others, right) in [
            (0, 0, &[][..], true),
            (2, 0, &[], false),
            (-2, 0, &[], false),
            (0, 2, &[], false), // Nobody knows which of the two it is.
            (2, 0, &[0], false),
            (-2, 0, &[0], false),
            (0, 0, &[2], true),
            (0, 2, &[0], true),
            (1, 0, &[2], false), // All three differ.
            (2, 0, &[0, 0], false),
            (0, 2, &[0, 0], true),
            (0, 0, &[2, 2], true),
            (2, 0, &[2, 0], false),
            (0, 2, &[2, 2], false),
            (2, 0, &[2, 2], true), // Three to one.
        ] {
            let others: Vec<i64> = others.iter().map(|hours| hours * HOUR).collect();
            let clocks = heard(server * HOUR, &others);
            assert_eq!(
                is_right(&clocks, own * HOUR),
                right,
                "{own} h, server {server} h, others {others:?}"
            );
        }
    }

    #[test]
    fn seconds_are_forgiven_up_to_the_bound() {
        let clocks = heard(0, &[]);
        for (off_ms, right) in [
            (CLOCK_OFF_MS_MAX, true),
            (-CLOCK_OFF_MS_MAX, true),
            // The server's answer was made at some moment of 5 ms.
            (CLOCK_OFF_MS_MAX + 10, false),
            (-CLOCK_OFF_MS_MAX - 10, false),
        ] {
            assert_eq!(is_right(&clocks, off_ms), right, "{off_ms} ms");
        }
        assert_eq!(clocks.ahead_of_server_ms(at(2_000, 0)), Some(0));
    }

    #[test]
    fn without_the_server_nothing_is_known() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.judge(at(0, 0)), Judged::Unheard);
        // An answer that was minutes on its way says nothing.
        clocks.server_said(UnixMs(T0), 0, 60_000);
        assert_eq!(clocks.judge(at(60_000, 0)), Judged::Unheard);
    }

    #[test]
    fn a_clock_that_is_set_is_seen_at_once_and_one_that_is_set_right_too() {
        let clocks = heard(0, &[0]);
        assert_eq!(clocks.judge(at(10_000, 0)), Judged::Right);
        let judged = clocks.judge(at(10_000, 2 * HOUR));
        let Judged::Off {
            ahead_ms,
            agree: 1,
            of: 3,
        } = judged
        else {
            panic!("{judged:?}");
        };
        assert!((2 * HOUR - 10..=2 * HOUR).contains(&ahead_ms), "{judged:?}");
        assert_eq!(clocks.judge(at(10_001, 0)), Judged::Right);
    }

    #[test]
    fn one_frame_that_was_long_on_its_way_shows_no_wrong_clock() {
        let mut clocks = heard(0, &[0, 0, 0]);
        for other in 0..3 {
            let by = format!("central-{other}").parse().unwrap();
            clocks.frame_landed(&by, UnixMs(T0), UnixMs(T0 + HOUR), 3_000);
        }
        assert!(is_right(&clocks, 0));
    }

    #[test]
    fn who_is_not_heard_any_more_is_no_witness() {
        let mut clocks = heard(0, &[2 * HOUR, 2 * HOUR, 2 * HOUR]);
        assert!(!is_right(&clocks, 0));
        let later = HEARD_MS_MAX + 3_000;
        clocks.server_said(UnixMs(T0 + signed(later)), later, later);
        assert_eq!(clocks.judge(at(later, 0)), Judged::Right);
    }

    #[test]
    fn of_more_replicas_than_there_can_be_the_newest_are_kept() {
        let mut clocks = heard(0, &[]);
        for n in 0..100 {
            let by = format!("central-{n}").parse().unwrap();
            clocks.frame_landed(&by, UnixMs(T0), UnixMs(T0), n);
        }
        assert_eq!(clocks.others.len(), OTHERS_MAX);
        assert!(clocks.others.values().all(|o| o.mono_ms >= 68));
    }
}
