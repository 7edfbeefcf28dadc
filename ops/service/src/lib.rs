//! How a program behaves under systemd. Started by hand, there is nobody to tell and nothing here
//! does anything but logging.

#[cfg(feature = "http")]
pub mod http;
mod places;

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

pub use places::{PlaceError, Places};

/// Exit status for a configuration that cannot be used (`EX_CONFIG` of sysexits.h). The units say
/// that a start which ended so is not tried again.
pub const EXIT_CONFIG: u8 = 78;

/// Longest status line; `systemctl` shows one line.
const STATUS_CHARS_MAX: usize = 160;

/// Who started this program.
#[derive(Debug)]
pub struct Manager {
    watchdog: Option<Duration>,
    is_ready: bool,
    status: String,
    pinged_at: Option<Instant>,
}

impl Manager {
    /// From the environment.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            is_ready: false,
            status: String::new(),
            pinged_at: None,
        }
    }

    /// How the program is. Once `ready` was true the manager takes the program for started; `alive`
    /// says that what must make progress has made some since the last time, and is all that
    /// the watchdog goes by from then on: whoever cannot say so is killed and started anew.
    pub fn tell(&mut self, ready: bool, alive: bool, status: &str) {
        let status: String = status
            .chars()
            .filter(|c| !c.is_control())
            .take(STATUS_CHARS_MAX)
            .collect();
        let mut states = Vec::new();
        if ready && !self.is_ready {
            states.push(NotifyState::Ready);
        }
        if status != self.status {
            states.push(NotifyState::Status(&status));
        }
        // The first ping starts the manager's clock: not before all that a start may wait for, a
        // server that is not there yet or a long ledger, has come.
        let is_started = ready || self.is_ready;
        let pings = alive && is_started && self.ping_is_due();
        if pings {
            states.push(NotifyState::Watchdog);
        }
        if states.is_empty() {
            return;
        }
        if let Err(error) = sd_notify::notify(&states) {
            // Told again next time.
            tracing::warn!(%error, "the service manager cannot be told how this is");
            return;
        }
        self.is_ready |= ready;
        self.status = status;
        if pings {
            self.pinged_at = Some(Instant::now());
        }
    }

    /// Does what changes the configuration of a running program, and lets the manager know when it has
    /// begun and ended: `systemctl reload` waits for that. A program that is not ready yet says nothing,
    /// since the end of it would be taken for readiness.
    pub fn reloads<T>(&self, work: impl FnOnce() -> T) -> T {
        let told = |states: &[NotifyState<'_>]| {
            if !self.is_ready {
                return;
            }
            if let Err(error) = sd_notify::notify(states) {
                tracing::warn!(%error, "the service manager cannot be told of the new configuration");
            }
        };
        let mut begins = vec![NotifyState::Reloading];
        begins.extend(NotifyState::monotonic_usec_now().ok());
        told(&begins);
        let result = work();
        told(&[NotifyState::Ready]);
        result
    }

    /// The program ends because it was told to.
    pub fn stopping(&self) {
        let states = [NotifyState::Stopping, NotifyState::Status("stopping")];
        if let Err(error) = sd_notify::notify(&states) {
            tracing::debug!(%error, "the service manager was not told of the end");
        }
    }

    /// Three times in the time that the manager waits.
    fn ping_is_due(&self) -> bool {
        let Some(watchdog) = self.watchdog else {
            return false;
        };
        self.pinged_at.is_none_or(|at| at.elapsed() >= watchdog / 3)
    }
}

/// Begins logging: with fields to the journal where standard error leads there, else as text.
/// `RUST_LOG` chooses what, or else `filter`.
pub fn log(filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let registry = tracing_subscriber::registry().with(filter);
    if let Some(journal) = journal() {
        registry.with(journal).init();
        return;
    }
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        // A log on a full disk must not take the program with it.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    registry.with(text).init();
}

/// Only where standard error is the journal: a program whose output somebody sent elsewhere writes
/// there.
fn journal() -> Option<tracing_journald::Layer> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let stat = rustix::fs::fstat(std::io::stderr().as_fd()).ok()?;
    if stream != format!("{}:{}", stat.st_dev, stat.st_ino) {
        return None;
    }
    // Fields are called what they are called in the text.
    tracing_journald::layer()
        .ok()
        .map(|layer| layer.with_field_prefix(None))
}
