//! What operators ask to understand their fleet: what happened, why drivers are refused, what a
//! session waits for.

use serde::{Deserialize, Serialize};

use super::central;
use crate::{
    codes::Code,
    ids::{ConnectorId, CpId, DriverId, SessionId},
    time::UnixMs,
    wire::Tag,
    wire_enum,
};

/// Why drivers are refused at a charge point as things stand, whatever they ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusesView {
    /// On which connector; on all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<ConnectorId>,
    /// With which code.
    pub code: Code,
    /// Since when, where this replica has seen it begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// The session that has the connector, for `occupied`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The device's own word for a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// A start that was refused at a charge point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedView {
    /// When.
    pub at: UnixMs,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
    /// With which code.
    pub code: Code,
}

wire_enum! {
    /// What an open session waits for.
    pub enum Awaited {
        /// That the charge point takes the start.
        Start = "start",
        /// A car that is plugged in, or begins to draw.
        Car = "car",
        /// The session's end by the car, the driver or a limit: it charges.
        End = "end",
        /// That the charge point confirms the stop.
        Stop = "stop",
        /// That the car is unplugged, after energy has ended.
        Unplug = "unplug",
    }
}

/// What an open session waits for, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitView {
    /// For what.
    #[serde(rename = "for")]
    pub awaited: Awaited,
    /// Since when.
    pub since: UnixMs,
    /// When its charge point was last heard, by central's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<UnixMs>,
    /// How often this replica has sent the command in vain.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// Why the charge point has not done it, by its last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

wire_enum! {
    /// What happened.
    pub enum EventKind {
        /// A session was accepted.
        Accepted = "accepted",
        /// A session began at the charge point.
        Opened = "opened",
        /// The charge point has taken the session.
        Taken = "taken",
        /// Energy began.
        Started = "started",
        /// The session is in another phase.
        Phase = "phase",
        /// A stop was accepted.
        Stopping = "stopping",
        /// Energy has ended; the session stands.
        EnergyEnded = "energy_ended",
        /// The session has ended.
        Ended = "ended",
        /// A receipt was adjusted.
        Adjusted = "adjusted",
        /// A request was refused.
        Refused = "refused",
        /// An operator changed something.
        Operated = "operated",
        /// A charge point presented itself otherwise than before.
        Presented = "presented",
        /// A connector was put into service or taken out.
        Service = "service",
        /// A connector has a fault.
        Fault = "fault",
        /// A connector's fault has cleared.
        Cleared = "cleared",
        /// The charger hardware no longer answers its controller.
        ChargerLost = "charger_lost",
        /// It answers again.
        ChargerBack = "charger_back",
        /// A record could not be used; it is kept.
        Quarantined = "quarantined",
        /// Records are missing from a spool.
        Missing = "missing",
        /// The hardware said what cannot be.
        Anomaly = "anomaly",
        /// A charge point's credential was made good.
        Enrolled = "enrolled",
        /// A charge point's credential was taken back.
        Revoked = "revoked",
        /// A charge point is out of reach.
        Offline = "offline",
        /// A charge point is in reach again.
        Online = "online",
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// When it was written to the ledger; reach by the clock of the replica that noticed.
    pub at: UnixMs,
    /// What.
    pub kind: EventKind,
    /// Ledger position; none of reach, which each replica notices by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<u64>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cp_id: Option<CpId>,
    /// On which connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<ConnectorId>,
    /// Which session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Whose, or who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
    /// Which operator asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_id: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// More of it, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// `events`: what happened, oldest first, as far back as the replica that answers remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// `events`
    #[serde(rename = "type", default)]
    pub tag: Tag<Self>,
    /// `central`
    #[serde(default = "central")]
    pub to: String,
    /// `next` of the page before: only what was written to the ledger after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only what happened from this time on. With `after` it bounds reach alone, which replicas
    /// notice at different times: overlap, and pass over what you have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// Only at this charge point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cp_id: Option<String>,
    /// Only of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// At most so many from the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// Answer to [`EventsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReply {
    /// `events.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The operator.
    pub to: String,
    /// Oldest first.
    pub events: Vec<EventRow>,
    /// Give this as `after` for what comes next.
    pub next: String,
    /// Whether there is more already.
    #[serde(default)]
    pub more: bool,
    /// From when on the replica remembers: of what was before, it says nothing.
    pub remembers_from: UnixMs,
    /// From when on it has listened to charge points: reach before that is not known.
    pub listens_from: UnixMs,
    /// Central's time.
    pub ts: UnixMs,
}
