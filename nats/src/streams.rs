//! What is kept in JetStream, as data. Shells turn these into calls.

use crate::subjects;

/// One stream. All are stored in files, with the server syncing each write (`sync_interval: always`
/// in the shipped configuration), and refuse new messages when full rather than drop old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamDef {
    /// Its name.
    pub name: &'static str,
    /// The subjects that it stores.
    pub subjects: &'static [&'static str],
    /// Its size limit in bytes. An alarm goes off well before.
    pub bytes_max: i64,
    /// The largest message in bytes.
    pub message_bytes_max: i32,
    /// Whether the server refuses to remove single messages, whoever asks.
    pub append_only: bool,
    /// For how long the server knows a `Nats-Msg-Id` again, in seconds; nothing but entries of the
    /// audit about credentials has one.
    pub duplicates_s: u64,
    /// Whether the server packs what is old. Full blocks of it are compressed (S2) and read as before.
    pub compressed: bool,
    /// What it is for.
    pub description: &'static str,
}

/// The ledger: every decision, in order, for ever.
pub const LEDGER: StreamDef = StreamDef {
    name: "EV_LEDGER",
    subjects: &[subjects::LEDGER],
    bytes_max: 64 * 1024 * 1024 * 1024,
    message_bytes_max: 1024 * 1024,
    append_only: false,
    // A repeated frame must not be swallowed: it is judged by its position like any other. The
    // server insists on a window; without message ids it is never used.
    duplicates_s: 1,
    // What is left of a record is ids without a pattern.
    compressed: false,
    description: "ledger: every decision of central, in order",
};

/// In the ledger stream's metadata: a random id of an operator's decision to go on although something is
/// lost, with a backup or from nothing.
pub const GIVEN_UP: &str = "ev_given_up";

/// Receipts and adjustments, one subject a session.
pub const CDR: StreamDef = StreamDef {
    name: "EV_CDR",
    subjects: &[subjects::CDR_ALL],
    bytes_max: 64 * 1024 * 1024 * 1024,
    message_bytes_max: 64 * 1024,
    append_only: false,
    duplicates_s: 1,
    // Names and words that all receipts repeat: a fifth is left.
    compressed: true,
    description: "receipts (one subject a session) and adjustments to them",
};

/// Who did what, when, and what came of it. An entry has 300 to 600 bytes: some 30 million fit, ten
/// years of an operator's verb every ten seconds.
pub const AUDIT: StreamDef = StreamDef {
    name: "EV_AUDIT",
    subjects: &[subjects::AUDIT_ALL],
    bytes_max: 16 * 1024 * 1024 * 1024,
    message_bytes_max: 8 * 1024,
    append_only: true,
    // What waits beside the keys is brought by the next command or the next day's.
    duplicates_s: 24 * 3_600,
    compressed: false,
    description: "audit: who did what, when, and what came of it",
};

/// What each replica of central saw of connectors, in minutes. A fleet of 10,000 charge points with two
/// connectors each, seen by three replicas, writes some 5 MB a day (a full account a day of each
/// replica, and what changes): nine years fit.
pub const UPTIME: StreamDef = StreamDef {
    name: "EV_UPTIME",
    subjects: &[subjects::UPTIME_ALL],
    bytes_max: 16 * 1024 * 1024 * 1024,
    message_bytes_max: 256 * 1024,
    append_only: true,
    duplicates_s: 1,
    compressed: false,
    description: "what each replica of central saw of connectors, for uptime",
};

/// The bucket that holds snapshots of central's state.
pub const SNAPSHOT_BUCKET: &str = "EV_SNAPSHOTS";

/// The stream behind it.
pub const SNAPSHOTS: &str = "OBJ_EV_SNAPSHOTS";

/// Snapshots that are kept; the newest is used, an older one when that cannot be read.
pub const SNAPSHOTS_KEPT: usize = 3;
