//! What reports are made of: pages of the streams of receipts and of uptime.

use serde::{Deserialize, Serialize};

use super::{Adjustment, Receipt, central};
use crate::{
    ids::{ConnectorId, CpId, ReplicaId, SiteId},
    time::UnixMs,
    wire::Tag,
    wire_enum,
};

/// `receipt_ls`: a page of the receipts or of the adjustments of all sessions, in the order in which
/// they were kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptsRequest {
    /// `receipt_ls`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Adjustments in place of receipts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adjustments: bool,
    /// Only what was kept after this one: `last_seq` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Without `after`, begins with what was kept from this time on, by the server's clock. A
    /// receipt is kept after its session has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_from: Option<UnixMs>,
    /// Only sessions that ended from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<UnixMs>,
    /// Only sessions that ended before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
    /// Only of this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_id: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`ReceiptsRequest`]. The filters are of receipts: a page of adjustments has all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptsReply {
    /// `receipt_ls.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// As they were kept.
    #[serde(default)]
    pub receipts: Vec<Receipt>,
    /// As they were kept.
    #[serde(default)]
    pub adjustments: Vec<Adjustment>,
    /// Up to here the page has looked: `after` for the next.
    pub last_seq: u64,
    /// Whether there are more to look at.
    #[serde(default)]
    pub more: bool,
    /// Sessions that have ended and match, and whose receipt or adjustment this replica does not
    /// know to be kept yet: they may be missing from the pages. Zero: whatever had ended when this
    /// was asked is there.
    #[serde(default)]
    pub not_kept: u64,
    /// Messages that were looked at and are neither: somebody must look.
    #[serde(default)]
    pub strange: u64,
    /// Central's time.
    pub ts: UnixMs,
}

wire_enum! {
    /// What a connector was worth to drivers in a minute, as a replica of central saw it.
    pub enum Availability {
        /// In reach and in order: free or in use.
        Up = "up",
        /// The operator has taken it out of service.
        Planned = "planned",
        /// Its charge point is out of reach.
        Offline = "offline",
        /// It has a fault that keeps it from charging.
        Faulted = "faulted",
        /// Its hardware does not answer the controller.
        ChargerOffline = "charger_offline",
        /// Nothing can be said.
        Unknown = "unknown",
    }
}

/// A connector that is otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UptimeChange {
    /// The charge point.
    pub cp: CpId,
    /// Its site.
    pub site: SiteId,
    /// Which connector.
    #[serde(rename = "c")]
    pub connector: ConnectorId,
    /// What it is from here on.
    #[serde(rename = "is")]
    pub availability: Availability,
}

/// What one replica saw in some minutes in a row: an entry of the stream `EV_UPTIME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UptimeRecord {
    /// `uptime.record`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// Which replica.
    pub replica: ReplicaId,
    /// Drawn when the replica began. With `n` it names the entry: two with the same are one.
    pub run: String,
    /// Counted from 1 in each run. After a gap nothing is known until the next full one.
    pub n: u64,
    /// The first minute, counted from 1970 in UTC.
    pub from: u32,
    /// The minute after the last: in all of these the replica has listened.
    pub until: u32,
    /// Nothing before it counts: every connector of which anything is known is in it or in those
    /// after it with the same minutes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Connectors that are otherwise from the first minute on than in the entry before; the others
    /// are as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<UptimeChange>,
}

/// `uptime`: a page of what replicas saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UptimeRequest {
    /// `uptime`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Only what was kept after this one: `last_seq` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Without `after`, begins with what was kept from this time on, by the server's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_from: Option<UnixMs>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`UptimeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UptimeReply {
    /// `uptime.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// As they were kept.
    pub records: Vec<UptimeRecord>,
    /// Up to here the page has looked: `after` for the next.
    pub last_seq: u64,
    /// Whether there are more to look at.
    #[serde(default)]
    pub more: bool,
    /// Central's time.
    pub ts: UnixMs,
}
