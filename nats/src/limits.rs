//! Bounds that two sides must agree on. A bound that concerns one program alone stands there.

/// Largest request from a driver or an operator. A start is about 300 bytes; the rest is room for
/// fields of newer peers.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Largest run of spool records in one `evt`. Half a ledger frame, so that a run whose every
/// record is kept verbatim in quarantine still fits into one frame.
pub const EVT_BYTES_MAX: usize = 256 * 1024;

/// Most records in one `evt`.
pub const EVT_RECORDS_MAX: usize = 256;

/// Largest single spool record. One above it is quarantined.
pub const EDGE_RECORD_BYTES_MAX: usize = 16 * 1024;

/// Largest reply. Under nats-server's `max_payload` of 1 MiB with room for headers.
pub const REPLY_BYTES_MAX: usize = 768 * 1024;

/// Deepest nesting of a payload. The contract itself needs 6.
pub const NESTING_MAX: usize = 32;

/// How far ahead a request's `expires_at` may lie. Longer would make a lost request act when its
/// driver has long gone.
pub const REQUEST_LIFE_MS_MAX: i64 = 30_000;

/// Tolerated difference between a driver's clock and central's before an `expires_at` counts as
/// too far ahead. NTP keeps hosts within milliseconds; phones drift by a second or two.
pub const CLOCK_TOLERANCE_MS: i64 = 5_000;

/// `expires_at` outside of 2000-01-01 to 2200-01-01 is no time that anybody means; such a request
/// is refused from its bytes alone.
pub const EXPIRES_AT_MS_RANGE: std::ops::RangeInclusive<i64> = 946_684_800_000..=7_258_118_400_000;

/// Largest energy limit of a session: 1 MWh, above any vehicle's battery.
pub const LIMIT_ENERGY_WH_MAX: i64 = 1_000_000;

/// Longest time limit of a session: 7 days.
pub const LIMIT_TIME_S_MAX: i64 = 7 * 24 * 3600;

/// Smallest current at which a car charges (IEC 61851-1). Lower limits pause.
pub const CURRENT_MA_MIN: u32 = 6_000;

/// Most current of a connector, all connectors that are sold being below: the Megawatt Charging
/// System (`CharIN`, IEC TS 63379) has 3,000 A.
pub const CONNECTOR_MA_MAX: u32 = 4_000_000;

/// Highest nominal voltage of a connector: the end of low voltage for direct current (Directive
/// 2014/35/EU). The Megawatt Charging System has 1,250 V.
pub const CONNECTOR_VOLTS_MAX: u16 = 1_500;

/// Most phases of a connector.
pub const CONNECTOR_PHASES_MAX: u8 = 3;

/// Most power of a connector, in milliwatts: 4 MW. The Megawatt Charging System has 3,000 A at
/// 1,250 V, which is 3.75 MW.
pub const CONNECTOR_MILLIWATT_MAX: u64 = 4_000_000_000;

/// Between two heartbeats of a charge point that says nothing else of it, before jitter. None beats
/// faster.
pub const HEARTBEAT_MS: u64 = HEARTBEAT_S as u64 * 1_000;

/// The same, as it is announced.
pub const HEARTBEAT_S: u32 = 5;

/// The longest time between two heartbeats that a charge point may announce. More would keep one
/// that is gone "online" for longer than anybody waits at it; at one a minute they have a fifth of
/// a SIM of 100 MB a month.
pub const HEARTBEAT_MS_MAX: u64 = 60_000;

/// Without a heartbeat for so long, a charge point that beats as usual counts as offline.
pub const OFFLINE_AFTER_MS: u64 = offline_after_ms(HEARTBEAT_MS);

/// Without a heartbeat for so long, a charge point that beats so often counts as offline: three were
/// missed. What it announces is believed within bounds.
#[must_use]
pub const fn offline_after_ms(beat_ms: u64) -> u64 {
    3 * believed_beat_ms(beat_ms) + 1_000
}

/// The longest time between two heartbeats of a charge point that announced this one: a fifth more,
/// so that those who began together do not beat together.
#[must_use]
pub const fn longest_beat_ms(beat_ms: u64) -> u64 {
    believed_beat_ms(beat_ms) * 6 / 5
}

/// What is believed of an announced time between two heartbeats.
#[must_use]
pub const fn believed_beat_ms(beat_ms: u64) -> u64 {
    if beat_ms < HEARTBEAT_MS {
        HEARTBEAT_MS
    } else if beat_ms > HEARTBEAT_MS_MAX {
        HEARTBEAT_MS_MAX
    } else {
        beat_ms
    }
}

/// Longest free text (reasons, notes) in bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// Most charge points in one announcement of their enrolment. With the longest ids that is half of
/// what a request may have.
pub const ENROLLED_AT_ONCE_MAX: usize = 100;

/// How far ahead of central's clock an announcement of enrolments may be: two clocks that are off,
/// and no word that nothing later could ever take back.
pub const ENROLLED_AHEAD_MS_MAX: i64 = 3_600_000;

/// Most connectors of one charge point.
pub const CONNECTORS_MAX: usize = 32;

/// The most that a charge point can be enrolled with, in kilowatts: every connector that it can
/// have, each as strong as any that is sold.
pub const ENROLLED_KW_MAX: u32 = 128_000;

/// The site of a charge point to which nobody has assigned one.
pub const SITE_DEFAULT: &str = "default";

/// The time zone of a site of which nobody has said it.
pub const TIME_ZONE_DEFAULT: &str = "UTC";

/// Longest name of a time zone in bytes. The longest of the IANA database has 32.
pub const TIME_ZONE_BYTES_MAX: usize = 64;

/// Rows of one listing unless the asker wants fewer.
pub const PAGE_ROWS_MAX: usize = 200;
