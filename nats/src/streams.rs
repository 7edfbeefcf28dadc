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
    /// What it is for.
    pub description: &'static str,
}

/// The ledger: every decision, in order, for ever.
pub const LEDGER: StreamDef = StreamDef {
    name: "EV_LEDGER",
    subjects: &[subjects::LEDGER],
    bytes_max: 64 * 1024 * 1024 * 1024,
    message_bytes_max: 1024 * 1024,
    description: "ledger: every decision of central, in order",
};

/// Receipts and adjustments, one subject a session.
pub const CDR: StreamDef = StreamDef {
    name: "EV_CDR",
    subjects: &[subjects::CDR_ALL],
    bytes_max: 64 * 1024 * 1024 * 1024,
    message_bytes_max: 64 * 1024,
    description: "receipts (one subject a session) and adjustments to them",
};

/// The bucket that holds snapshots of central's state.
pub const SNAPSHOT_BUCKET: &str = "EV_SNAPSHOTS";

/// Snapshots that are kept; the newest is used, an older one when that cannot be read.
pub const SNAPSHOTS_KEPT: usize = 3;
