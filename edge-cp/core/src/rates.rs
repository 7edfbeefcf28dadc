//! How often a charge point says what nobody asked it for. What it costs by the day stands in
//! `ops/docs/sizing.md`.

use ev_contract::limits::{HEARTBEAT_MS_MAX, HEARTBEAT_S};

/// What kind of line leads to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Line {
    /// Bytes cost nothing.
    #[default]
    Ordinary,
    /// Bytes cost money: a SIM of 100 MB a month.
    Metered,
}

/// How often what is said, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Between two heartbeats, unless the state of a connector changes.
    pub heartbeat_s: u32,
    /// Between two live values, while somebody watches.
    pub live_s: u32,
    /// Between two looks whether somebody watches. The first live value comes so late at most.
    pub look_s: u32,
    /// Between two syncs.
    pub sync_s: u32,
    /// How long checkpoints may wait for others, to be sent together. 0: not at all.
    pub records_s: u32,
    /// Between two pings of the connection. A dead line is noticed after three.
    pub ping_s: u32,
}

/// A rate as a configuration names it, and within which bounds it may lie.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Its name.
    pub key: &'static str,
    /// Its least and its largest number.
    pub within: (u32, u32),
}

/// As seldom as central believes.
const HEARTBEAT_S_MAX: u32 = {
    let s = HEARTBEAT_MS_MAX / 1_000;
    assert!(s <= u32::MAX as u64);
    s as u32
};
/// A driver who watches looks again after that.
const LIVE_S_MAX: u32 = 60;
/// Who begins to watch waits for live values as long.
const LOOK_S_MAX: u32 = 300;
/// A cheap quartz is off by a third of a second after an hour.
const SYNC_S_MAX: u32 = 3_600;
/// What central knows of a session is as old at most. A bill is made from all of it.
const RECORDS_S_MAX: u32 = 900;
/// Networks of mobile operators forget a connection that is silent for some minutes.
const PING_S_MAX: u32 = 120;

impl Rates {
    /// Of an ordinary line.
    pub const ORDINARY: Self = Self {
        heartbeat_s: HEARTBEAT_S,
        live_s: 1,
        look_s: 5,
        sync_s: 60,
        records_s: 0,
        ping_s: 5,
    };

    /// Of a metered one.
    pub const METERED: Self = Self {
        heartbeat_s: HEARTBEAT_S_MAX,
        live_s: 10,
        look_s: 60,
        sync_s: 900,
        records_s: 300,
        ping_s: 60,
    };

    /// Of a line, unless somebody says otherwise.
    #[must_use]
    pub const fn of(line: Line) -> Self {
        match line {
            Line::Ordinary => Self::ORDINARY,
            Line::Metered => Self::METERED,
        }
    }

    /// Each by its name, with its bounds.
    pub fn each(&mut self) -> [(Bounds, &mut u32); 6] {
        let bounds = |key, least, most| Bounds {
            key,
            within: (least, most),
        };
        [
            (
                bounds("heartbeat_s", HEARTBEAT_S, HEARTBEAT_S_MAX),
                &mut self.heartbeat_s,
            ),
            (bounds("live_s", 1, LIVE_S_MAX), &mut self.live_s),
            (bounds("look_s", 5, LOOK_S_MAX), &mut self.look_s),
            (bounds("sync_s", 60, SYNC_S_MAX), &mut self.sync_s),
            (bounds("records_s", 0, RECORDS_S_MAX), &mut self.records_s),
            (bounds("ping_s", 5, PING_S_MAX), &mut self.ping_s),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_unless_somebody_says_otherwise_is_within_the_bounds() {
        for mut rates in [Rates::ORDINARY, Rates::METERED] {
            for (Bounds { key, within }, number) in rates.each() {
                assert!((within.0..=within.1).contains(number), "{key}");
            }
        }
    }
}
