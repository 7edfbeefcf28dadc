//! What operators ask and hear. Subject `op.<operator>.<verb>`.

use serde::{Deserialize, Serialize};

use super::{
    LimitsRequest, RefusedView, RefusesView, ScheduledTariff, SessionView, Status, Tariff,
    TariffRef, TariffScope, TariffTerms, central,
};
use crate::{
    codes::Problem,
    connector::{ConnectorState, Fault, Service},
    ids::{BootId, ConnectorId, CpId, SessionId, SiteId},
    time::UnixMs,
    units::{MilliAmp, MilliWatt, Mwh},
    wire::Tag,
    wire_enum,
};

/// `cp_ls`: charge points as operators see them, all or one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpLsRequest {
    /// `cp_ls`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cp_id: Option<String>,
    /// Only charge points after this id, for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`CpLsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpLsReply {
    /// `cp_ls.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// By id.
    pub charge_points: Vec<ChargePointView>,
    /// Give this as `after` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Central's time.
    pub ts: UnixMs,
}

/// A charge point as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargePointView {
    /// Its id.
    pub cp_id: CpId,
    /// Its site.
    pub site_id: SiteId,
    /// The site's IANA time zone.
    pub time_zone: String,
    /// `online`, `offline` or `unknown`.
    pub link: Reach,
    /// When its last heartbeat came, by central's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_at: Option<UnixMs>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Records that wait in its spool, as of the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool_depth: Option<u64>,
    /// The agent's clock less central's, in milliseconds, as of the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// What the agent complains about, as codes.
    #[serde(default)]
    pub health: Vec<String>,
    /// When it can no longer connect unless something is renewed, as of the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_expires_at: Option<UnixMs>,
    /// The epoch of its spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The start of its agent that is obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// The last agent with this identity that was not obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_agent: Option<OtherAgentView>,
    /// The next spool record that central wants.
    #[serde(default)]
    pub next_record: u64,
    /// Records that could not be used, kept verbatim in the ledger.
    #[serde(default)]
    pub quarantined: u64,
    /// Records that the spool no longer had.
    #[serde(default)]
    pub missing: u64,
    /// What the hardware said that cannot be, as the agent noticed.
    #[serde(default)]
    pub anomalies: u64,
    /// Since when `link` is what it is, as far as the replica that answers has heard: while offline
    /// the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_since: Option<UnixMs>,
    /// When it was last out of reach before it came back: from here …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_from: Option<UnixMs>,
    /// … to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_until: Option<UnixMs>,
    /// Why drivers are refused as things stand; empty when they are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<RefusesView>,
    /// The last starts that were refused here, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedView>,
    /// What applies here.
    pub tariff: Tariff,
    /// What central was told of its credential; none for one that it knows from itself alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<CpEnrolment>,
    /// It will be out of service when it connects for the first time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_service: bool,
    /// By number. Empty for one that has never presented itself.
    pub connectors: Vec<ConnectorView>,
}

/// An agent that presented itself as a charge point while another one was obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherAgentView {
    /// The epoch of its spool. The same as the obeyed one's: it has a copy of the store.
    pub epoch: String,
    /// Its start.
    pub boot: BootId,
    /// When it first presented itself.
    pub since: UnixMs,
    /// When its last heartbeat came, as far as the replica that answers has heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_at: Option<UnixMs>,
    /// Records of such agents that are kept word for word in the ledger and are no part of any session.
    pub kept: u64,
}

wire_enum! {
    /// What became of a charge point's credential.
    pub enum CpEnrolment {
        /// It has one that is good.
        Enrolled = "enrolled",
        /// It was taken back.
        Revoked = "revoked",
    }
}

wire_enum! {
    /// Whether a charge point can be reached.
    pub enum Reach {
        /// Its heartbeats arrive.
        Online = "online",
        /// They do not.
        Offline = "offline",
        /// This replica has just started and has not heard yet.
        Unknown = "unknown",
    }
}

/// A connector as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorView {
    /// Its number.
    pub connector: ConnectorId,
    /// What it is.
    pub state: ConnectorState,
    /// Whether it serves drivers, as the operator wants it.
    pub service: Service,
    /// Whether the charge point has confirmed that.
    pub service_confirmed: bool,
    /// A fault that has not cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Whether the charger hardware answers its controller.
    pub charger_online: bool,
    /// A car is plugged in.
    pub plugged: bool,
    /// The most current that it gives.
    pub max_ma: MilliAmp,
    /// On so many phases.
    pub phases: u8,
    /// The open sessions on it.
    #[serde(default)]
    pub sessions: Vec<SessionId>,
    /// Register as of the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register_mwh: Option<Mwh>,
    /// Power as of the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<MilliWatt>,
}

/// `cp_enable`, `cp_disable`, `cp_unlock`, `cp_reset`: act on a charge point or a connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpActRequest {
    /// `cp_act`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a start.
    pub expires_at: i64,
    /// Which charge point.
    pub cp_id: String,
    /// Which connector; all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<i64>,
}

/// `cp_site`: say at which site a charge point stands, and so which prices and which time zone
/// apply. Sessions that have begun keep theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpSiteRequest {
    /// `cp_site`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a start.
    pub expires_at: i64,
    /// Which charge point.
    pub cp_id: String,
    /// The site.
    pub site_id: String,
    /// The site's IANA time zone. Left out, it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// `session_ls`: sessions of all drivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLsRequest {
    /// `session_ls`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// Only of this driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<String>,
    /// Only on this charge point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cp_id: Option<String>,
    /// Only this one, ended or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Ended ones too.
    #[serde(default)]
    pub all: bool,
    /// Only sessions older than this one, for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`SessionLsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLsReply {
    /// `session_ls.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// Newest first.
    pub sessions: Vec<SessionView>,
    /// Give this as `before` for the next page; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Central's time.
    pub ts: UnixMs,
}

/// `session_start`: start for a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpStartRequest {
    /// `session_start`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a driver's start.
    pub expires_at: i64,
    /// For whom.
    pub driver_id: String,
    /// Where.
    pub cp_id: String,
    /// Which connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<i64>,
    /// When to end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsRequest>,
    /// The price that was agreed: at another one nothing starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff: Option<TariffRef>,
}

/// `session_end`: end any session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEndRequest {
    /// `session_end`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a stop; with `write_off` as in a start.
    pub expires_at: i64,
    /// Which session.
    pub session_id: String,
    /// Why, in words.
    pub reason: String,
    /// Close it with the last checkpoint although the charge point has not confirmed. The stop
    /// stays in force until it does.
    #[serde(default)]
    pub write_off: bool,
}

/// `session_adjust`: correct the receipt of an ended session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAdjustRequest {
    /// `session_adjust`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a start.
    pub expires_at: i64,
    /// Which session.
    pub session_id: String,
    /// Money to add, as a decimal in text; below zero to give back.
    pub amount: String,
    /// Why, in words.
    pub reason: String,
}

/// `driver_block` and `driver_unblock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverBlockRequest {
    /// `driver_block`, for both verbs
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a start.
    pub expires_at: i64,
    /// Whom. Running sessions go on.
    pub driver_id: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `tariff_set`: a new version of a tariff, from now on, in one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffSetRequest {
    /// `tariff_set`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a start.
    pub expires_at: i64,
    /// Its name; central counts the versions.
    pub tariff_id: String,
    /// Where it applies.
    pub scope: TariffScope,
    /// From when, by central's clock; from now on when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// The prices.
    pub terms: TariffTerms,
}

/// `tariff_rm`: take back what was set in one scope. The wider scope applies again; without any,
/// energy is free. Sessions keep what they were accepted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffRmRequest {
    /// `tariff_rm`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// The asker's own id for this wish.
    pub request_id: String,
    /// As in a stop.
    pub expires_at: i64,
    /// Where.
    pub scope: TariffScope,
    /// Only what is scheduled there; what applies now stays.
    #[serde(default)]
    pub scheduled_only: bool,
}

/// `tariff_ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffLsRequest {
    /// `tariff_ls`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
}

/// Answer to [`TariffLsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffLsReply {
    /// `tariff_ls.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// What applies where.
    pub tariffs: Vec<ScopedTariff>,
    /// Central's time.
    pub ts: UnixMs,
}

/// A tariff and where it applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopedTariff {
    /// Where.
    pub scope: TariffScope,
    /// What applies now; none where all is still to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff: Option<Tariff>,
    /// What is still to come, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduled: Vec<ScheduledTariff>,
}

/// Answer to an operator's verb that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpReply {
    /// `op.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// Which request this answers.
    pub request_id: String,
    /// `accepted`, `denied`, or `unknown`: repeat it.
    pub status: Status,
    /// The code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The refusal in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// The session that was started, ended or adjusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// What was done, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The price that applies, where a start was refused because another one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff: Option<Tariff>,
    /// Central's time.
    pub ts: UnixMs,
}
