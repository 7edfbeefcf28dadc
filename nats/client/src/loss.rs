//! Connections that do not last. A server that lets somebody in and closes the connection again at
//! once, for instance since too many are open with the same credential, says nothing about it: who
//! came back as after any loss would come back for ever, several times a second.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::Rng;

use crate::Pauses;

/// A connection that lasts so long was taken. Whatever closes one for a reason does so sooner.
const LASTS: Duration = Duration::from_secs(10);
/// Short ones in a row that no restart of a server explains.
pub const SHORT_ODD: u32 = 3;
/// How many times the longest pause one waits after many short ones.
const PAUSE_FACTOR_MAX: u32 = 4;

/// How the last connections ended.
#[derive(Debug, Default)]
pub struct Losses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    up_at: Option<Instant>,
    short: u32,
}

impl Losses {
    /// A connection was made.
    pub fn up(&self, now: Instant) {
        self.lock().up_at = Some(now);
    }

    /// The connection is gone.
    pub fn lost(&self, now: Instant) {
        let mut state = self.lock();
        if let Some(up_at) = state.up_at.take() {
            let is_short = now.duration_since(up_at) < LASTS;
            state.short = if is_short {
                state.short.saturating_add(1)
            } else {
                0
            };
        }
    }

    /// How many in a row did not last.
    pub fn short(&self) -> u32 {
        self.lock().short
    }

    /// How long to wait on account of that, beside the usual pause.
    pub fn pause(&self, pauses: &Pauses) -> Duration {
        let short = self.short();
        if short < 2 {
            return Duration::ZERO;
        }
        let doubled = pauses.min * 2_u32.pow(short.min(10));
        doubled
            .min(pauses.max * PAUSE_FACTOR_MAX)
            .mul_f64(rand::rng().random_range(0.5..1.0))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_connection_that_does_not_last_and_end_with_one_that_does() {
        let (losses, pauses, mut now) = (Losses::default(), Pauses::default(), Instant::now());
        losses.lost(now);
        assert_eq!(losses.short(), 0, "there was none");
        for n in 1..100 {
            losses.up(now);
            now += Duration::from_secs(1);
            losses.lost(now);
            losses.lost(now);
            assert_eq!(losses.short(), n);
            let pause = losses.pause(&pauses);
            assert_eq!(
                pause.is_zero(),
                n < 2,
                "a restart of a server is no reason to wait"
            );
            assert!(pause <= pauses.max * PAUSE_FACTOR_MAX);
            assert!(
                n < 9 || pause >= pauses.max * PAUSE_FACTOR_MAX / 2,
                "{pause:?}"
            );
        }
        losses.up(now);
        losses.lost(now + LASTS);
        assert_eq!(losses.pause(&pauses), Duration::ZERO);
    }
}
