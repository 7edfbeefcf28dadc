//! Attempts to connect that take long. A server that has more handshakes to do than it can gives
//! none of them up before those who ask do, and then all of that was work for nothing: whoever comes
//! back as after any failure keeps it so for ever. Those who were let wait stay away for longer each
//! time, so that there are fewer at once and the others get through.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::Rng;

/// An attempt that took so long met a crowd, or nobody at all: a handshake takes milliseconds.
const LONG: Duration = Duration::from_secs(3);
/// Of several servers one may be frozen: the next is tried as after any failure.
const LONG_USUAL: u32 = 1;
/// First pause after more of them, doubled with each.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Longest one: a crowd of ten thousand is then a few hundred attempts a second.
const PAUSE_MAX: Duration = Duration::from_secs(32);

/// How the last attempts went.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the attempt under way began, or will.
    tried_at: Option<Instant>,
    long: u32,
}

impl Crowd {
    /// An attempt is over, and did not succeed if it was the last thing that happened. Returns how
    /// long to wait on its account.
    pub fn failed(&self, now: Instant) -> Duration {
        let mut state = self.lock();
        if let Some(tried_at) = state.tried_at.take() {
            let was_long = now.saturating_duration_since(tried_at) >= LONG;
            state.long = if was_long { state.long + 1 } else { 0 };
        }
        match state.long.checked_sub(LONG_USUAL + 1) {
            None => Duration::ZERO,
            Some(more) => (PAUSE_MIN * 2_u32.pow(more.min(10)))
                .min(PAUSE_MAX)
                .mul_f64(rand::rng().random_range(0.5..1.0)),
        }
    }

    /// The next attempt begins then.
    pub fn tries(&self, at: Instant) {
        self.lock().tried_at = Some(at);
    }

    /// There is a connection.
    pub fn up(&self) {
        *self.lock() = State::default();
    }

    /// Whether the attempt under way has taken long already, or the last one had.
    pub fn is_there(&self, now: Instant) -> bool {
        let state = self.lock();
        let takes_long = |at: Instant| now.saturating_duration_since(at) >= LONG;
        state.long > 0 || state.tried_at.is_some_and(takes_long)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_let_wait_stays_away_for_longer_each_time_until_it_gets_through() {
        let (crowd, mut now) = (Crowd::default(), Instant::now());
        assert_eq!(crowd.failed(now), Duration::ZERO, "nothing was tried");
        let mut longest = Duration::ZERO;
        for n in 0..20 {
            crowd.tries(now);
            now += Duration::from_secs(5);
            assert!(crowd.is_there(now));
            let pause = crowd.failed(now);
            assert_eq!(pause.is_zero(), n < LONG_USUAL, "{n}: {pause:?}");
            assert!(pause <= PAUSE_MAX, "{n}: {pause:?}");
            longest = longest.max(pause);
        }
        assert!(longest >= PAUSE_MAX / 2);
        crowd.up();
        assert!(!crowd.is_there(now));
        assert_eq!(crowd.failed(now), Duration::ZERO);
    }

    #[test]
    fn a_server_that_refuses_at_once_is_tried_as_ever() {
        let (crowd, mut now) = (Crowd::default(), Instant::now());
        for _ in 0..20 {
            crowd.tries(now);
            now += Duration::from_millis(1);
            assert!(!crowd.is_there(now));
            assert_eq!(crowd.failed(now), Duration::ZERO);
        }
    }
}
