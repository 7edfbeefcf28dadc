//! How much memory questions may hold until they are answered, by kind. One kind that has used its
//! share up is refused; the others do not notice.

use std::sync::Arc;

use central_core::decide::Incoming;
use ev_contract::limits::{EVT_BYTES_MAX, EVT_RECORDS_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a question holds beside its own bytes: its place in queues, its decision, its reply.
pub const QUESTION_BYTES: usize = 1_024;
/// Drivers' requests: 16,384 small ones, a second or two of work.
const DRIVERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Operators' requests: few people, and a flood of drivers must leave them theirs.
const OPERATORS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Runs of spool records as they lie in memory. Some 20,000 small ones, or 400 full ones of typical
/// records.
const RECORDS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Syncs: 8,192 charge points that come back in the same moment.
const SYNCS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Heartbeats that wait for the engine: what 8,192 charge points send in five seconds.
const HEARTBEATS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Outgoing messages that wait for the connection: 40,000 replies of usual size.
pub const OUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Memory that is given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    _permit: OwnedSemaphorePermit,
}

/// So many bytes and no more.
#[derive(Debug, Clone)]
pub struct Share {
    left: Arc<Semaphore>,
}

impl Share {
    /// A share of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            left: Arc::new(Semaphore::new(bytes)),
        }
    }

    /// Takes some of it; none when less is left.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> Option<Held> {
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.left).try_acquire_many_owned(bytes).ok()?;
        Some(Held { _permit: permit })
    }
}

/// The shares of what comes in.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Drivers' requests.
    pub drivers: Share,
    /// Operators' requests.
    pub operators: Share,
    /// Runs of spool records.
    pub records: Share,
    /// Syncs.
    pub syncs: Share,
    /// Heartbeats.
    pub heartbeats: Share,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            drivers: Share::new(DRIVERS_BYTES_MAX),
            operators: Share::new(OPERATORS_BYTES_MAX),
            records: Share::new(RECORDS_BYTES_MAX),
            syncs: Share::new(SYNCS_BYTES_MAX),
            heartbeats: Share::new(HEARTBEATS_BYTES_MAX),
        }
    }
}

/// Questions that all shares together let wait.
pub const QUESTIONS_MAX: usize =
    (DRIVERS_BYTES_MAX + OPERATORS_BYTES_MAX + RECORDS_BYTES_MAX + SYNCS_BYTES_MAX)
        / QUESTION_BYTES;
/// Heartbeats that wait.
pub const HEARTBEATS_MAX: usize = HEARTBEATS_BYTES_MAX / QUESTION_BYTES;

// The largest run must be possible, or its charge point would never get it out.
const _: () = assert!(
    RECORDS_BYTES_MAX
        > QUESTION_BYTES + 2 * EVT_BYTES_MAX + EVT_RECORDS_MAX * size_of::<Incoming>(),
    "a run fits into an idle central"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_given_back_when_what_it_was_for_is_gone() {
        let share = Share::new(1_000);
        let first = share.hold(600);
        assert!(first.is_some());
        assert!(share.hold(600).is_none());
        assert!(share.hold(400).is_some());
        drop(first);
        assert!(share.hold(1_000).is_some());
        assert!(share.hold(1_001).is_none());
    }
}
