//! When the driver's page asks central for what. No I/O, and the time is given.

use std::time::{Duration, Instant};

use crate::web::task::AWAY_EVERY;

/// Between two listings while somebody looks: central tells drivers nothing of charge points by
/// itself. A page of 200 costs central a read of its state.
pub const LIST_EVERY: Duration = Duration::from_secs(2);

/// A listing of many pages is asked for more rarely: it takes at most a tenth of the time.
const LIST_SHARE: u32 = 10;

/// Between two listings while nobody looks.
const LIST_EVERY_UNSEEN: Duration = Duration::from_secs(60);

/// Between two questions for open sessions, in case an update was lost.
const SESSIONS_EVERY: Duration = Duration::from_secs(15);

/// When to ask for what.
#[derive(Debug)]
pub struct Due {
    list: Instant,
    listed: Instant,
    /// Between two listings while somebody looks and nothing happens.
    list_every: Duration,
    sessions: Instant,
    history: bool,
}

/// What to ask for beside the open sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The charge points.
    pub list: bool,
    /// The newest of the ended sessions.
    pub history: bool,
}

impl Due {
    /// Nothing is known, or all of it is of before.
    #[must_use]
    pub const fn everything(now: Instant) -> Self {
        Self {
            list: now,
            listed: now,
            list_every: LIST_EVERY,
            sessions: now,
            history: true,
        }
    }

    /// Whether something must be asked for.
    #[must_use]
    pub fn is_now(&self, now: Instant) -> bool {
        self.history || self.sessions <= now || self.list <= now
    }

    /// Something has happened.
    pub const fn soon(&mut self, now: Instant) {
        self.list = now;
        self.sessions = now;
    }

    /// A charge point is in another state.
    pub const fn list(&mut self, now: Instant) {
        self.list = now;
    }

    /// A session has ended.
    pub const fn history(&mut self) {
        self.history = true;
    }

    /// Somebody looks: what is shown is not of long ago.
    pub fn seen(&mut self) {
        self.list = self.list.min(self.listed + self.list_every);
    }

    /// It is asked for. What becomes due from now on stays due.
    pub fn begin(&mut self, now: Instant) -> Plan {
        let plan = Plan {
            list: self.list <= now,
            history: std::mem::take(&mut self.history),
        };
        self.sessions = now + SESSIONS_EVERY;
        if plan.list {
            self.list = now + LIST_EVERY_UNSEEN;
        }
        plan
    }

    /// A listing has come, which took so long.
    pub fn listed(&mut self, now: Instant, took: Duration) {
        self.listed = now;
        self.list_every = LIST_EVERY.max(took * LIST_SHARE);
    }

    /// Nobody has answered. The ended sessions are asked for when somebody does: by themselves they
    /// would be asked for without a pause.
    pub fn failed(&mut self, now: Instant) {
        self.list = now + AWAY_EVERY;
        self.sessions = now + AWAY_EVERY;
        self.history = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn begun() -> (Due, Instant) {
        let now = Instant::now();
        let mut due = Due::everything(now);
        assert!(due.is_now(now));
        let all = Plan {
            list: true,
            history: true,
        };
        assert_eq!(due.begin(now), all);
        assert!(!due.is_now(now));
        (due, now)
    }

    #[test]
    fn what_becomes_due_while_it_is_asked_for_stays_due() {
        let (mut due, now) = begun();
        due.history();
        due.soon(now);
        due.listed(now, TICK);
        assert!(due.is_now(now));
        let plan = due.begin(now);
        assert!(plan.list && plan.history);
    }

    #[test]
    fn a_listing_takes_a_tenth_of_the_time_however_often_somebody_looks() {
        let (mut due, now) = begun();
        let took = Duration::from_secs(1);
        due.listed(now, took);
        due.seen();
        assert!(!due.is_now(now + took * LIST_SHARE - TICK));
        due.seen();
        assert!(due.is_now(now + took * LIST_SHARE));
        due.listed(now, TICK);
        due.seen();
        assert!(due.is_now(now + LIST_EVERY) && !due.is_now(now + LIST_EVERY - TICK));
    }

    #[test]
    fn unseen_it_asks_for_sessions_and_rarely_for_all() {
        let (mut due, now) = begun();
        due.listed(now, TICK);
        assert!(!due.is_now(now + SESSIONS_EVERY - TICK));
        assert!(!due.begin(now + SESSIONS_EVERY).list);
        assert!(due.begin(now + LIST_EVERY_UNSEEN).list);
    }

    #[test]
    fn while_nobody_answers_it_asks_with_a_pause() {
        let (mut due, now) = begun();
        due.history();
        due.failed(now);
        assert!(!due.is_now(now + AWAY_EVERY - TICK));
        assert!(due.is_now(now + AWAY_EVERY));
    }
}
