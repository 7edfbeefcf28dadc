//! What central is told of credentials, by whoever gives them out.

use serde::{Deserialize, Serialize};

use super::central;
use crate::{time::UnixMs, wire::Tag};

/// `charge_point`: charge points were enrolled, or their credentials revoked. It is safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// `enrol`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// When it was done, by the clock of whoever did it. Of two about one charge point the later
    /// holds, in whatever order they come.
    pub at: UnixMs,
    /// Whose.
    pub charge_points: Vec<String>,
    /// They are void; else good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    /// The site where they stand. Left out, it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_id: Option<String>,
    /// The site's IANA time zone. Left out, it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The most power of each, in kilowatts. Left out, it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_kw: Option<u32>,
}

/// Answer to [`EnrolRequest`], when the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReply {
    /// `enrol.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// Who asked.
    pub to: String,
    /// Central's time.
    pub ts: UnixMs,
}
