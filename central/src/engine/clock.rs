//! Whether this host's clock is right. While it is not, nothing is answered and nothing is decided:
//! all of it carries a time.

use std::time::Instant;

use central_core::{clocks::Judged, state::Applied};
use ev_contract::time::UnixMs;

use super::{Engine, RoundTrip};
use crate::health::Stage;

impl Engine {
    pub(super) fn hear_servers_clock(&mut self, at: UnixMs, round_trip: RoundTrip) {
        let RoundTrip { sent, back } = round_trip;
        self.clocks
            .server_said(at, self.mono_ms(sent), self.mono_ms(back));
    }

    /// Another replica's frame says what time it was there.
    pub(super) fn hear_clock_of(&mut self, applied: &Applied, landed_at: UnixMs) {
        let Some(frame) = &applied.frame else {
            return;
        };
        let live = !matches!(self.stage, Stage::Replaying { .. });
        if live && frame.by != self.config.replica {
            let now_mono_ms = self.mono_ms(Instant::now());
            self.clocks
                .frame_landed(&frame.by, frame.at, landed_at, now_mono_ms);
        }
    }

    pub(super) fn look_at_clock(&mut self) {
        let now = self.now();
        let judged = self.clocks.judge(now);
        let ahead_ms = self.clocks.ahead_of_server_ms(now);
        let is_off = matches!(judged, Judged::Off { .. });
        self.metrics.clock(ahead_ms, is_off);
        let why = match judged {
            Judged::Right => None,
            Judged::Unheard => {
                self.look_at_streams();
                Some("nats-server has not said yet what time it is".to_owned())
            }
            Judged::Off {
                ahead_ms,
                agree,
                of,
            } => Some(format!(
                "the clock of this host is off: it is {} s {} nats-server's, and {agree} of {of} clocks go with it, its own among them",
                ahead_ms.unsigned_abs() / 1_000,
                if ahead_ms < 0 { "behind" } else { "ahead of" },
            )),
        };
        let is_right = why.is_none();
        if is_right == self.clock_is_right && is_right {
            return;
        }
        self.health.send_if_modified(|health| {
            let changed = health.clock_off.is_some() != why.is_some();
            health.clock_off.clone_from(&why);
            changed
        });
        if is_right == self.clock_is_right {
            return;
        }
        self.clock_is_right = is_right;
        self.metrics.ready(is_right && self.stage == Stage::Serving);
        match why {
            Some(why) => tracing::error!("{why}: this replica answers nothing; see the runbook"),
            None => tracing::info!("the clock of this host goes with the others"),
        }
    }
}
