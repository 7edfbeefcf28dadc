//! Words and views that several messages share.

use serde::{Deserialize, Serialize};

use super::WaitView;
use crate::{
    codes::Code,
    connector::Phase,
    ids::{ConnectorId, CpId, DriverId, SessionId, SiteId, TariffId},
    time::UnixMs,
    units::{Amount, Currency, MilliWatt, Mwh},
    wire_enum,
};

wire_enum! {
    /// How a session began.
    pub enum Origin {
        /// A driver asked central.
        App = "app",
        /// An operator asked central.
        Operator = "operator",
        /// Somebody started it at the charge point.
        Local = "local",
        /// The charge point gives energy away.
        Free = "free",
        /// The charge point found it running and cannot say.
        Unknown = "unknown",
    }
}

wire_enum! {
    /// Why a session ended.
    pub enum EndCode {
        /// The driver stopped it.
        Driver = "driver",
        /// An operator stopped it.
        Operator = "operator",
        /// Somebody stopped it at the charge point.
        Local = "local",
        /// The driver was no longer allowed to charge.
        Deauthorised = "deauthorised",
        /// The car was unplugged.
        EvUnplugged = "ev_unplugged",
        /// The car took no more.
        EvStopped = "ev_stopped",
        /// The energy limit was reached.
        EnergyLimit = "energy_limit",
        /// The time limit was reached.
        TimeLimit = "time_limit",
        /// The cost limit was reached.
        CostLimit = "cost_limit",
        /// No car was plugged in in time.
        PlugTimeout = "plug_timeout",
        /// The power went out.
        PowerLoss = "power_loss",
        /// The charger booted.
        Reboot = "reboot",
        /// The charger was reset.
        Reset = "reset",
        /// The connector was unlocked.
        Unlock = "unlock",
        /// The emergency stop was pressed.
        Emergency = "emergency",
        /// A fault ended it.
        Fault = "fault",
        /// A local session had the connector.
        OccupiedLocally = "occupied_locally",
        /// The charge point refused the start; `refused` says with which code.
        Refused = "refused",
        /// An operator wrote it off while the charge point could not be reached.
        WrittenOff = "written_off",
        /// Anything else; `raw` has the device's word.
        Other = "other",
    }
}

wire_enum! {
    /// Who ended a session.
    pub enum EndSource {
        /// The driver.
        Driver = "driver",
        /// An operator.
        Operator = "operator",
        /// Central.
        Central = "central",
        /// The agent in the cabinet.
        ChargePoint = "charge_point",
        /// The charger hardware.
        Charger = "charger",
        /// The car.
        Vehicle = "vehicle",
        /// Somebody at the cabinet.
        Technician = "technician",
    }
}

/// Why and by whom a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReason {
    /// Why.
    pub code: EndCode,
    /// By whom.
    pub source: EndSource,
    /// The device's or the operator's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// With which code a start was refused, for [`EndCode::Refused`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Code>,
}

impl EndReason {
    /// A reason without further words.
    #[must_use]
    pub const fn new(code: EndCode, source: EndSource) -> Self {
        Self {
            code,
            source,
            raw: None,
            refused: None,
        }
    }

    /// The one word for people and programs: the refusal's code where there is one.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match (self.code, self.refused) {
            (EndCode::Refused, Some(code)) => code.as_str(),
            (code, _) => code.as_str(),
        }
    }
}

wire_enum! {
    /// How a request or a session stands, for drivers.
    pub enum Status {
        /// Durably accepted; the charge point has not confirmed.
        Accepted = "accepted",
        /// Refused; `reason` and `error` say why.
        Denied = "denied",
        /// Whether it took effect is not known; repeat it with the same request id.
        Unknown = "unknown",
        /// The charge point has taken the session.
        InProgress = "in_progress",
        /// Ended as it should.
        Completed = "completed",
        /// Ended without delivering what was asked.
        Failed = "failed",
    }
}

/// Limits as a driver or operator gives them. Signed, so that a negative one gets its own answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitsRequest {
    /// Energy in watt-hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_wh: Option<i64>,
    /// Time from the start of energy, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_s: Option<i64>,
    /// What the session may cost, taxes included and standing not, as a decimal in text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// The currency of `cost`; the tariff's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// Limits as decided: what the charge point enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Energy, in mWh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_mwh: Option<Mwh>,
    /// Whether `energy_mwh` came from a cost limit, for the end reason.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub energy_from_cost: bool,
    /// Time from the start of energy, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_s: Option<u32>,
    /// The cost limit that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Amount>,
}

/// A session as its driver or an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The one id.
    pub session_id: SessionId,
    /// Whose it is; none for sessions without a driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
    /// Where.
    pub cp_id: CpId,
    /// Which connector.
    pub connector: ConnectorId,
    /// Which site.
    pub site_id: SiteId,
    /// The site's IANA time zone.
    pub time_zone: String,
    /// How far it is.
    pub state: Phase,
    /// The same in the words of updates.
    pub status: Status,
    /// How it began.
    pub origin: Origin,
    /// A stop is accepted and not yet confirmed.
    pub stopping: bool,
    /// Whether the charge point can be reached.
    pub reachable: bool,
    /// Energy so far.
    pub energy_mwh: Mwh,
    /// Cost so far, rounded; final in an ended session.
    pub cost: Amount,
    /// Its currency.
    pub currency: Currency,
    /// From when standing costs, if the car goes on to stand: it has paused or energy has ended. Past
    /// when standing costs by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_costs_from: Option<UnixMs>,
    /// Which tariff, pinned at acceptance.
    pub tariff_id: TariffId,
    /// Which version of it.
    pub tariff_version: u32,
    /// The limits in force.
    #[serde(default)]
    pub limits: Limits,
    /// When central accepted it or learned of it.
    pub accepted_at: UnixMs,
    /// When energy began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    /// When energy ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_ended_at: Option<UnixMs>,
    /// When the session ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
    /// The time of the last value that the ledger has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_value_at: Option<UnixMs>,
    /// Power at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<MilliWatt>,
    /// State of charge at that time, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soc_pct: Option<u8>,
    /// One word: why it ended or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The whole reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EndReason>,
    /// The receipt's number, in an ended session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// What it waits for, while it is open; operators are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitView>,
    /// Ledger position of its last change.
    pub pos: u64,
}
