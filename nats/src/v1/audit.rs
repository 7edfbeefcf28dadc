//! The audit: what is kept of who did what, and how operators read it.

use serde::{Deserialize, Serialize};

use super::central;
use crate::{
    codes::Code,
    ids::{AuditId, ReplicaId},
    time::UnixMs,
    wire::Tag,
    wire_enum,
};

wire_enum! {
    /// Who acted.
    pub enum AuditKind {
        /// An operator.
        Op = "op",
        /// A driver.
        Driver = "driver",
        /// A charge point.
        Cp = "cp",
        /// Whoever gives out and revokes credentials.
        Enrol = "enrol",
        /// A connection to NATS, or an attempt at one.
        Connection = "connection",
    }
}

wire_enum! {
    /// What came of it.
    pub enum AuditOutcome {
        /// It was done, or was decided and will be.
        Accepted = "accepted",
        /// It was refused.
        Denied = "denied",
        /// Nothing was said about it.
        Unknown = "unknown",
    }
}

/// An entry of the audit. It names what was acted on and copies nothing else of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// `audit.record`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// Drawn by whoever writes it. Two entries with the same are one.
    pub entry_id: AuditId,
    /// When, by the clock of whoever writes it.
    pub at: UnixMs,
    /// Which central has written it, or which program.
    pub replica: ReplicaId,
    /// What kind of somebody acted.
    pub kind: AuditKind,
    /// Who; none where the subject names nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The subject on which it came; the start of it where it is no subject of the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The public key that the server says the sender has shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// What.
    pub verb: String,
    /// On which charge point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cp_id: Option<String>,
    /// On which of its connectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<i64>,
    /// On which session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// On which driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<String>,
    /// On which operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_id: Option<String>,
    /// On which tariff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff_id: Option<String>,
    /// On which public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The request's id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// Why it was refused, or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The request had its answer before, and got it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
    /// More of it, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// `audit`: a page of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRequest {
    /// `audit`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The first entries after this one. Not together with `before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The last entries before this one; without both, the last of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Only entries from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// Only what somebody of this name did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Only this verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`AuditRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReply {
    /// `audit.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// Oldest first.
    pub entries: Vec<AuditRow>,
    /// The page has looked at the entries from this one on: `before` for older ones.
    pub first_seq: u64,
    /// It has looked at them up to this one: `after` for newer ones.
    pub last_seq: u64,
    /// Whether there are more in the direction of the page.
    #[serde(default)]
    pub more: bool,
    /// Central's time.
    pub ts: UnixMs,
}

/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its sequence in the stream.
    pub seq: u64,
    /// The entry.
    pub entry: AuditEntry,
}
