//! How far something is, on a terminal.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Often enough to be seen moving.
const EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    shows: bool,
    shown_at: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn of(what: String) -> Self {
        Self {
            what,
            shows: std::io::stderr().is_terminal(),
            shown_at: Instant::now(),
            shown: false,
        }
    }

    pub(super) fn at(&mut self, count: u64, unit: &str) {
        if !self.shows || self.shown_at.elapsed() < EVERY {
            return;
        }
        self.shown_at = Instant::now();
        self.shown = true;
        // Who looks away misses nothing.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}: {count} {unit}", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
