//! The messages, version 1. A field is added with a default and never renamed; a change that an
//! older peer would misread becomes `v2` beside this module.
//!
//! Every message has the fields `type` and `to`. `to` is `central` or the id of the driver,
//! operator or charge point; a receiver passes over what is not addressed to it. In requests from
//! drivers and operators both may be left out, since the subject already says them; a `type` that
//! is there must be right. Receipts, adjustments, audit entries and what was seen of uptime are kept and
//! not sent to anybody: they have no `to`.

mod audit;
mod command;
mod driver;
mod edge;
mod enrol;
mod insight;
mod operator;
mod receipt;
mod report;
mod session;
mod tariff;

pub use audit::*;
pub use command::*;
pub use driver::*;
pub use edge::*;
pub use enrol::*;
pub use insight::*;
pub use operator::*;
pub use receipt::*;
pub use report::*;
pub use session::*;
pub use tariff::*;

use crate::wire::{CENTRAL, Message};

/// The default addressee.
pub(crate) fn central() -> String {
    CENTRAL.to_owned()
}

/// Names the types on the wire.
macro_rules! types {
    ($($name:ty = $word:literal,)+) => {
        $(impl Message for $name { const TYPE: &'static str = $word; })+

        /// The `type` of every message, but for those of [`DriverUpdate`]: see [`UpdateType::ALL`].
        pub const MESSAGE_TYPES: &[&str] = &[$($word,)+];
    };
}

types! {
    StartRequest = "start",
    StopRequest = "stop",
    StatusRequest = "status",
    StatusReply = "status.reply",
    ListRequest = "list",
    ListReply = "list.reply",
    HistoryRequest = "history",
    HistoryReply = "history.reply",
    ReceiptRequest = "receipt",
    ReceiptReply = "receipt.reply",
    ErrorReply = "error",
    CpLsRequest = "cp_ls",
    CpLsReply = "cp_ls.reply",
    CpActRequest = "cp_act",
    CpSiteRequest = "cp_site",
    SessionLsRequest = "session_ls",
    SessionLsReply = "session_ls.reply",
    OpStartRequest = "session_start",
    SessionEndRequest = "session_end",
    SessionAdjustRequest = "session_adjust",
    DriverBlockRequest = "driver_block",
    TariffSetRequest = "tariff_set",
    TariffRmRequest = "tariff_rm",
    TariffLsRequest = "tariff_ls",
    TariffLsReply = "tariff_ls.reply",
    AuditRequest = "audit",
    AuditReply = "audit.reply",
    EventsRequest = "events",
    EventsReply = "events.reply",
    ReceiptsRequest = "receipt_ls",
    ReceiptsReply = "receipt_ls.reply",
    UptimeRequest = "uptime",
    UptimeReply = "uptime.reply",
    OpReply = "op.reply",
    EnrolRequest = "enrol",
    EnrolReply = "enrol.reply",
    StartCommand = "cmd.start",
    StopCommand = "cmd.stop",
    LimitCommand = "cmd.set_limit",
    UnlockCommand = "cmd.unlock",
    ServiceCommand = "cmd.set_service",
    ResetCommand = "cmd.reset",
    PingCommand = "cmd.ping",
    CommandReply = "cmd.reply",
    SyncRequest = "sync",
    SyncReply = "sync.reply",
    EvtRequest = "evt",
    EvtReply = "evt.reply",
    Heartbeat = "hb",
    Live = "live",
    Receipt = "receipt.record",
    Adjustment = "adjustment.record",
    AuditEntry = "audit.record",
    UptimeRecord = "uptime.record",
}
