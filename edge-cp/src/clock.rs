//! The host's clocks. The only place that reads them for the core.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ev_contract::time::{Now, UnixMs};

/// Reads wall and monotonic time.
#[derive(Debug, Clone, Copy)]
pub struct HostClock {
    began: Instant,
}

impl HostClock {
    /// Monotonic time counts from here.
    #[must_use]
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// The moment at which the monotonic clock shows this.
    #[must_use]
    pub fn at(&self, mono_ms: u64) -> tokio::time::Instant {
        (self.began + Duration::from_millis(mono_ms)).into()
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            mono_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall: wall_now(),
        }
    }
}

/// Wall time. A clock before 1970 counts as 1970.
#[must_use]
pub fn wall_now() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
