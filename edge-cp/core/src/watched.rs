//! Whether somebody watches a session, and so when its live values are sent. The server knows who
//! listens: now and then one value is sent that asks, and where nobody listens the server says so.

use std::collections::BTreeMap;

use ev_contract::ids::SessionId;

use crate::rates::Rates;

/// How long the server has to say that nobody listens. A round trip over a mobile network takes up
/// to a second; what comes later is believed as well.
pub const LOOK_WAIT_MS: u64 = 2_000;

/// A live value that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Of which session.
    pub session: SessionId,
    /// It asks whether somebody listens.
    pub asks: bool,
}

/// What is known of who watches.
#[derive(Debug)]
pub struct Watched {
    live_ms: u64,
    look_ms: u64,
    sessions: BTreeMap<SessionId, One>,
}

#[derive(Debug, Clone, Copy)]
struct One {
    is_watched: bool,
    live_mono_ms: u64,
    look_mono_ms: u64,
}

impl Watched {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(rates: &Rates) -> Self {
        Self {
            live_ms: u64::from(rates.live_s) * 1_000,
            look_ms: u64::from(rates.look_s) * 1_000,
            sessions: BTreeMap::new(),
        }
    }

    /// Another connection: what is known is of before.
    pub fn clear(&mut self) {
        self.sessions.clear();
    }

    /// These sessions have live values. Of a new one nothing is known, so it is looked at once.
    pub fn keep(&mut self, open: impl IntoIterator<Item = SessionId>) {
        let known = std::mem::take(&mut self.sessions);
        let new = One {
            is_watched: false,
            live_mono_ms: 0,
            look_mono_ms: 0,
        };
        self.sessions = open
            .into_iter()
            .map(|id| (id, known.get(&id).copied().unwrap_or(new)))
            .collect();
    }

    /// Whether somebody watches a session, as far as it is known.
    #[must_use]
    pub fn is_watched(&self, session: SessionId) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|one| one.is_watched)
    }

    /// When the next value is due, by the monotonic clock.
    #[must_use]
    pub fn due_mono_ms(&self) -> Option<u64> {
        self.sessions.values().map(One::due_mono_ms).min()
    }

    /// The values that are due. They count as sent from here on.
    pub fn take(&mut self, mono_ms: u64) -> Vec<Due> {
        let mut due = Vec::new();
        for (session, one) in &mut self.sessions {
            if one.due_mono_ms() > mono_ms {
                continue;
            }
            let asks = one.look_mono_ms <= mono_ms;
            if asks {
                one.look_mono_ms = mono_ms + self.look_ms;
            }
            one.live_mono_ms = mono_ms + self.live_ms;
            due.push(Due {
                session: *session,
                asks,
            });
        }
        due
    }

    /// What came of a value that asked: the server said that nobody listens, or nothing.
    pub fn told(&mut self, session: SessionId, is_watched: bool) {
        if let Some(one) = self.sessions.get_mut(&session) {
            one.is_watched = is_watched;
        }
    }
}

impl One {
    fn due_mono_ms(&self) -> u64 {
        if self.is_watched {
            self.live_mono_ms.min(self.look_mono_ms)
        } else {
            self.look_mono_ms
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u32) -> SessionId {
        format!("0190a0b0-1111-7222-8333-{n:012}").parse().unwrap()
    }

    /// Values sent in an hour of the monotonic clock, and how many of them asked; somebody listens
    /// from `from` to `until`.
    fn hour(rates: &Rates, from: u64, until: u64) -> (u64, u64, Option<u64>) {
        let mut watched = Watched::new(rates);
        let (mut sent, mut asked, mut first_heard) = (0, 0, None);
        let mut answers: Vec<(u64, bool)> = Vec::new();
        for now in (0..3_600_000).step_by(100) {
            watched.keep([session(1)]);
            while answers.first().is_some_and(|(at, _)| *at <= now) {
                watched.told(session(1), answers.remove(0).1);
            }
            for due in watched.take(now) {
                let listens = (from..until).contains(&now);
                sent += 1;
                if listens {
                    first_heard.get_or_insert(now);
                }
                if due.asks {
                    asked += 1;
                    // The server says at once that nobody listens; else the wait ends.
                    let after = if listens { LOOK_WAIT_MS } else { 100 };
                    answers.push((now + after, listens));
                }
            }
        }
        (sent, asked, first_heard)
    }

    #[test]
    fn values_nobody_listens_to_are_sent_as_seldom_as_it_is_looked() {
        for rates in [Rates::ORDINARY, Rates::METERED] {
            let (sent, asked, _) = hour(&rates, 0, 0);
            assert_eq!(sent, u64::from(3_600 / rates.look_s));
            assert_eq!(asked, sent);
        }
    }

    #[test]
    fn who_listens_hears_them_after_one_look_and_for_as_long_as_they_listen() {
        for rates in [Rates::ORDINARY, Rates::METERED] {
            let (from, until) = (1_000_000, 2_000_000);
            let (sent, _, first_heard) = hour(&rates, from, until);
            assert!(first_heard.unwrap() - from <= u64::from(rates.look_s) * 1_000);
            let streamed = (until - from) / 1_000 / u64::from(rates.live_s);
            let looked = u64::from(3_600 / rates.look_s);
            assert!(sent >= streamed * 9 / 10, "{sent} of {streamed}");
            assert!(sent <= streamed + 2 * looked, "{sent} of {streamed}");
        }
    }

    #[test]
    fn each_session_is_looked_at_by_itself_and_anew_over_another_connection() {
        let mut watched = Watched::new(&Rates::METERED);
        watched.keep([session(1), session(2)]);
        assert_eq!(watched.take(0).len(), 2);
        watched.told(session(1), true);
        watched.told(session(2), false);
        let only_one = watched.take(10_000);
        assert_eq!(only_one.len(), 1);
        assert_eq!(only_one[0].session, session(1));
        assert!(!only_one[0].asks);
        assert_eq!(watched.due_mono_ms(), Some(20_000));
        watched.keep([session(2)]);
        assert_eq!(watched.due_mono_ms(), Some(60_000));
        // An answer about one that has ended.
        watched.told(session(1), true);
        watched.clear();
        watched.keep([session(2)]);
        assert_eq!(watched.due_mono_ms(), Some(0));
    }
}
