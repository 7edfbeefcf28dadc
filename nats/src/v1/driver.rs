//! What drivers ask and hear. Subjects `driver.<driver>.<verb>`, `watch.<driver>.<session>`.

use serde::{Deserialize, Serialize};

use super::{Adjustment, LimitsRequest, Receipt, SessionView, Status, Tariff, TariffRef, central};
use crate::{
    codes::Problem,
    connector::{ConnectorState, Phase},
    ids::{ConnectorId, CpId, DriverId, RequestId, SessionId, SiteId},
    time::UnixMs,
    units::{Amount, Currency, MilliAmp, MilliWatt, Mwh},
    wire::Tag,
    wire_enum,
};

/// Start a session. Ids are texts here and checked by central, so that each gets its own answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// `start`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish; a repeat repeats it.
    pub request_id: String,
    /// Milliseconds since 1970; at most 30 s ahead; the same in every repeat.
    pub expires_at: i64,
    /// Where.
    pub cp_id: String,
    /// Which connector; may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<i64>,
    /// When to end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsRequest>,
    /// The price that the driver has seen: at another one nothing starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff: Option<TariffRef>,
}

/// Stop a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// `stop`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish; a repeat repeats it.
    pub request_id: String,
    /// Milliseconds since 1970; not judged, since a stop is never too late; the same in every repeat.
    pub expires_at: i64,
    /// Which session.
    pub session_id: String,
}

/// The driver's open sessions, or one by id whether open or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// `status`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// One session; all open ones when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// Answer to [`StatusRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// `status.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The driver.
    pub to: String,
    /// Newest first.
    pub sessions: Vec<SessionView>,
    /// Central's time.
    pub ts: UnixMs,
}

/// The charge points, with state and price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// `list`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Only charge points after this id, for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many charge points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`ListRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// `list.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The driver.
    pub to: String,
    /// By id.
    pub charge_points: Vec<ChargePointListing>,
    /// Give this as `after` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Central's time.
    pub ts: UnixMs,
}

/// A charge point as drivers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargePointListing {
    /// Its id.
    pub cp_id: CpId,
    /// Its site.
    pub site_id: SiteId,
    /// The site's IANA time zone.
    pub time_zone: String,
    /// What a session costs here.
    pub tariff: Tariff,
    /// By number.
    pub connectors: Vec<ConnectorListing>,
}

/// A connector as drivers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorListing {
    /// Its number.
    pub connector: ConnectorId,
    /// What it is.
    pub state: ConnectorState,
    /// The most current that it gives.
    pub max_ma: MilliAmp,
    /// On so many phases.
    pub phases: u8,
    /// The asker's own session on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

/// The driver's sessions, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRequest {
    /// `history`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Only sessions older than this one, for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`HistoryRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    /// `history.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The driver.
    pub to: String,
    /// Newest first.
    pub sessions: Vec<SessionView>,
    /// Give this as `before` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Central's time.
    pub ts: UnixMs,
}

/// The receipt of an ended session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRequest {
    /// `receipt`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Which session.
    pub session_id: String,
}

/// Answer to [`ReceiptRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptReply {
    /// `receipt.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The driver.
    pub to: String,
    /// The receipt.
    pub receipt: Receipt,
    /// What was corrected since, in order.
    #[serde(default)]
    pub adjustments: Vec<Adjustment>,
    /// Central's time.
    pub ts: UnixMs,
}

/// Answer to anything that could not be done or read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// `error`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// Who asked.
    pub to: String,
    /// The request's id where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// `denied`, or `unknown` where nothing was decided or nobody can say: then the same request
    /// with the same id finds out.
    pub status: Status,
    /// The code, once more.
    pub reason: String,
    /// Code, message, hint, whether to repeat.
    pub error: Problem,
    /// Central's time.
    pub ts: UnixMs,
}

wire_enum! {
    /// What a [`DriverUpdate`] is.
    #[derive(Default)]
    pub enum UpdateType {
        /// Answer to a start.
        StartReply = "start.reply",
        /// Answer to a stop.
        StopReply = "stop.reply",
        /// News of a session.
        #[default]
        Update = "update",
    }
}

/// Answer to a start or stop, and news of a session while it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverUpdate {
    /// What this is. An older peer's has none: an update.
    #[serde(rename = "type", default)]
    pub kind: UpdateType,
    /// The driver. An older peer's has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Which request this answers, or which began the session.
    pub request_id: RequestId,
    /// The driver.
    pub driver_id: DriverId,
    /// Where. In the refusal of a stop for no session of the driver's, as in that of a start at no
    /// charge point, what the asker named or nothing.
    pub cp_id: String,
    /// How it stands.
    pub status: Status,
    /// One word: a code or an end reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The session. An older peer leaves it out: then nothing can be stopped by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Central's time.
    pub ts: UnixMs,
    /// Which connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<ConnectorId>,
    /// The refusal in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// The price that applies, where the start was refused because another one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff: Option<Tariff>,
    /// How far the session is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// A stop is accepted and not yet confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Energy so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_mwh: Option<Mwh>,
    /// Cost so far, rounded; final in an ended session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Amount>,
    /// Its currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// From when standing costs, if the car goes on to stand. Past when it costs by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_costs_from: Option<UnixMs>,
    /// State of charge in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soc_pct: Option<u8>,
    /// Ledger position of this change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<u64>,
    /// Ledger position of the session's change before: a watcher that has not seen it asks for
    /// the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<u64>,
}

/// Live values, straight from the charge point. Not durable; what counts is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// `live`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The driver.
    pub to: String,
    /// Which session.
    pub session_id: SessionId,
    /// Where.
    pub cp_id: CpId,
    /// Which connector.
    pub connector: ConnectorId,
    /// When, by the charge point's clock.
    pub ts: UnixMs,
    /// How far the session is.
    pub phase: Phase,
    /// Energy of the session so far.
    pub energy_mwh: Mwh,
    /// Power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<MilliWatt>,
    /// State of charge in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soc_pct: Option<u8>,
}
