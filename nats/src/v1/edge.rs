//! What a charge point sends: `sync`, spool records (`evt`), heartbeats.

use serde::{Deserialize, Serialize};

use super::{EndReason, Origin};
use crate::{
    codes::Problem,
    connector::{ConnectorState, Fault, Phase, Service},
    ids::{BootId, ConnectorId, CpId, DriverId, Epoch, SessionId},
    limits::{
        CONNECTOR_MA_MAX, CONNECTOR_MILLIWATT_MAX, CONNECTOR_PHASES_MAX, CONNECTOR_VOLTS_MAX,
        HEARTBEAT_S,
    },
    time::UnixMs,
    units::{MilliAmp, MilliWatt, Mwh},
    wire::{DecodeError, EncodeError, Tag},
    wire_enum,
};

wire_enum! {
    /// How far a time can be trusted.
    pub enum TimeQuality {
        /// Learned from central by round trip, kept on the monotonic clock.
        Synced = "synced",
        /// The host's own clock; central has not been heard since boot.
        Unsure = "unsure",
    }
}

/// A reading of a cumulative register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When the meter was read.
    pub at: UnixMs,
    /// How far `at` can be trusted.
    pub quality: TimeQuality,
    /// The register.
    pub register_mwh: Mwh,
    /// The meter's serial number.
    pub meter_id: String,
    /// Counts the meter's resets: a lower register in a new epoch is a reset, in the same one an
    /// anomaly.
    pub meter_epoch: u32,
    /// Power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<MilliWatt>,
    /// Current per phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub current_ma: Vec<MilliAmp>,
    /// State of charge in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soc_pct: Option<u8>,
    /// What a signing meter signed, kept verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub signed: Option<Vec<u8>>,
}

/// One spool record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRecord {
    /// Counted from 1 in each epoch, without gaps.
    pub seq: u64,
    /// When it happened.
    pub at: UnixMs,
    /// How far `at` can be trusted.
    pub quality: TimeQuality,
    /// What happened.
    pub fact: EdgeFact,
}

impl EdgeRecord {
    /// For [`EvtRequest::records`]: a map with field names. (`rmpv::ext::to_value` would make an
    /// array, which breaks when a field is added.)
    ///
    /// # Errors
    /// Only for a value that the format cannot hold, which no record has.
    pub fn to_value(&self) -> Result<rmpv::Value, EncodeError> {
        let bytes = rmp_serde::to_vec_named(self).map_err(|e| EncodeError(e.to_string()))?;
        rmp_serde::from_slice(&bytes).map_err(|e| EncodeError(e.to_string()))
    }

    /// Reads one of [`EvtRequest::records`].
    ///
    /// # Errors
    /// [`DecodeError`] for a value that is no record, one of an unknown kind among them.
    pub fn from_value(value: rmpv::Value) -> Result<Self, DecodeError> {
        if !value.is_map() {
            return Err(DecodeError("a record is a map".into()));
        }
        rmpv::ext::from_value(value).map_err(|e| DecodeError(e.to_string()))
    }
}

/// What happened at a charge point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EdgeFact {
    /// A start command was taken.
    Accepted {
        /// The session.
        session_id: SessionId,
        /// On which connector.
        connector: ConnectorId,
    },
    /// A session began here without central.
    OpenedAtEdge {
        /// Drawn by the agent.
        session_id: SessionId,
        /// On which connector.
        connector: ConnectorId,
        /// How it began.
        origin: Origin,
        /// For whom, as the charge point says: kept for operators, believed by nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        driver_id: Option<DriverId>,
        /// What was shown to the reader.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
    /// Energy begins.
    Started {
        /// The session.
        session_id: SessionId,
        /// The device's own transaction.
        device_tx: String,
        /// The register at the start.
        reading: Reading,
    },
    /// The session is in another phase.
    Phase {
        /// The session.
        session_id: SessionId,
        /// Which.
        phase: Phase,
        /// The register at the change, once energy has begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reading: Option<Reading>,
    },
    /// A reading each minute and quarter hour: what is known when no more comes.
    Checkpoint {
        /// The session.
        session_id: SessionId,
        /// The reading.
        reading: Reading,
    },
    /// Energy has ended; the session may go on standing (phase `idle`).
    EnergyEnded {
        /// The session.
        session_id: SessionId,
        /// The register at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reading: Option<Reading>,
        /// Why energy ended; also why the session will have ended.
        reason: EndReason,
    },
    /// The session has ended.
    Ended {
        /// The session.
        session_id: SessionId,
        /// Whether it delivered: `completed`, or `failed` when energy never began.
        completed: bool,
        /// Why.
        reason: EndReason,
        /// The register at the end of energy, once energy has begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reading: Option<Reading>,
        /// How long it has stood since energy ended, in whole seconds: what was measured of it. Time
        /// in which nobody measured and that no known time bounds is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stood_s: Option<u32>,
    },
    /// What a connector is, whenever that changes and once after each boot.
    Connector {
        /// Which.
        connector: ConnectorId,
        /// A car is plugged in.
        plugged: bool,
        /// Whether it serves drivers.
        service: Service,
        /// The operator's revision that `service` obeys.
        service_revision: u64,
        /// A fault that has not cleared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
        /// Whether the charger hardware answers the agent.
        charger_online: bool,
        /// A session has ended here since the car was plugged in.
        ended_since_plug: bool,
    },
    /// The charger hardware has booted.
    Booted {
        /// Its own words, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raw: Option<String>,
    },
    /// The hardware said what cannot be: shown to operators.
    Anomaly {
        /// Which connector, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connector: Option<ConnectorId>,
        /// Which session, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_id: Option<SessionId>,
        /// In words.
        what: String,
    },
}

impl EdgeFact {
    /// The session that it is about, if it is about one.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Accepted { session_id, .. }
            | Self::OpenedAtEdge { session_id, .. }
            | Self::Started { session_id, .. }
            | Self::Phase { session_id, .. }
            | Self::Checkpoint { session_id, .. }
            | Self::EnergyEnded { session_id, .. }
            | Self::Ended { session_id, .. } => Some(*session_id),
            Self::Anomaly { session_id, .. } => *session_id,
            Self::Connector { .. } | Self::Booted { .. } => None,
        }
    }

    /// The reading that it has, if it has one.
    #[must_use]
    pub const fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Started { reading, .. } | Self::Checkpoint { reading, .. } => Some(reading),
            Self::Phase { reading, .. }
            | Self::EnergyEnded { reading, .. }
            | Self::Ended { reading, .. } => reading.as_ref(),
            Self::Accepted { .. }
            | Self::OpenedAtEdge { .. }
            | Self::Connector { .. }
            | Self::Booted { .. }
            | Self::Anomaly { .. } => None,
        }
    }

    /// The same, to be changed.
    pub const fn reading_mut(&mut self) -> Option<&mut Reading> {
        match self {
            Self::Started { reading, .. } | Self::Checkpoint { reading, .. } => Some(reading),
            Self::Phase { reading, .. }
            | Self::EnergyEnded { reading, .. }
            | Self::Ended { reading, .. } => reading.as_mut(),
            Self::Accepted { .. }
            | Self::OpenedAtEdge { .. }
            | Self::Connector { .. }
            | Self::Booted { .. }
            | Self::Anomaly { .. } => None,
        }
    }

    /// Its name, as it stands in `kind`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::OpenedAtEdge { .. } => "opened_at_edge",
            Self::Started { .. } => "started",
            Self::Phase { .. } => "phase",
            Self::Checkpoint { .. } => "checkpoint",
            Self::EnergyEnded { .. } => "energy_ended",
            Self::Ended { .. } => "ended",
            Self::Connector { .. } => "connector",
            Self::Booted { .. } => "booted",
            Self::Anomaly { .. } => "anomaly",
        }
    }
}

/// A run of spool records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvtRequest {
    /// `evt`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// `central`
    pub to: String,
    /// The spool's epoch.
    pub epoch: Epoch,
    /// Which start of the agent sends them.
    pub boot: BootId,
    /// The lowest number that the spool still holds.
    pub first: u64,
    /// The number of the first record in `records`; the others follow without gaps.
    pub from: u64,
    /// [`EdgeRecord`]s, each read by itself ([`EdgeRecord::from_value`]): one that cannot be read
    /// does not spoil the others.
    pub records: Vec<rmpv::Value>,
}

/// What central has of a spool. Only this frees the spool: records below `next` are in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvtReply {
    /// `evt.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: String,
    /// Of which epoch this speaks; empty when the request could not be read.
    pub epoch: String,
    /// The next number that central wants; 0 when it says nothing.
    pub next: u64,
    /// Of an agent that is not obeyed (`identity_in_use`): records below this number lie in the
    /// ledger word for word, and need not be sent again. They stay on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<u64>,
    /// Why nothing was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Central's time.
    pub ts: UnixMs,
}

/// A connector as its charge point presents it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorSpec {
    /// Its number.
    pub connector: ConnectorId,
    /// The most current that it gives.
    pub max_ma: MilliAmp,
    /// On so many phases.
    pub phases: u8,
    /// Nominal voltage, phase to neutral.
    #[serde(default = "volts_230")]
    pub volts: u16,
    /// The plug, for instance `type2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plug: Option<String>,
}

fn volts_230() -> u16 {
    230
}

impl ConnectorSpec {
    /// The most power that it can physically deliver.
    #[must_use]
    pub fn power_max(&self) -> MilliWatt {
        MilliWatt(u64::from(self.max_ma.0) * u64::from(self.volts) * u64::from(self.phases))
    }

    /// Whether it is within what is sold. What is beyond is a mistake, or a claim.
    #[must_use]
    pub fn is_sold(&self) -> bool {
        self.max_ma.0 <= CONNECTOR_MA_MAX
            && self.volts <= CONNECTOR_VOLTS_MAX
            && (1..=CONNECTOR_PHASES_MAX).contains(&self.phases)
            && self.power_max().0 <= CONNECTOR_MILLIWATT_MAX
    }
}

/// A start of an agent, and what it follows: by this central tells a restart from a second agent
/// with a copy of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Drawn by the process.
    pub id: BootId,
    /// How many starts the store has seen, this one among them. Counted on the disk before anything is
    /// sent.
    pub count: u64,
    /// The last boot of this store that central has confirmed, as far as the store knows: this one
    /// itself once its `sync` was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<BootId>,
}

/// A charge point presents itself: at boot, after each reconnect, and from time to time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// `sync`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// `central`
    pub to: String,
    /// The charge point; must be the subject's.
    pub cp_id: CpId,
    /// The spool's epoch.
    pub epoch: Epoch,
    /// Which start of the agent this is.
    pub boot: Boot,
    /// By number.
    pub connectors: Vec<ConnectorSpec>,
    /// The agent's version.
    pub version: String,
    /// The lowest number that the spool still holds.
    pub first: u64,
    /// The number that the next record will get.
    pub next: u64,
    /// The sessions that it has open.
    #[serde(default)]
    pub sessions: Vec<SessionId>,
}

/// Answer to [`SyncRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReply {
    /// `sync.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: String,
    /// Of which epoch `next` speaks; empty when the request could not be read.
    pub epoch: String,
    /// The next number that central wants; 0 when it says nothing.
    pub next: u64,
    /// Why it was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Central's time: half the round trip later than it was written.
    pub ts: UnixMs,
}

const fn usual_beat_s() -> u32 {
    HEARTBEAT_S
}

/// I am here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// `hb`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// `central`
    pub to: String,
    /// The charge point; must be the subject's.
    pub cp_id: CpId,
    /// The spool's epoch.
    pub epoch: Epoch,
    /// Which start of the agent speaks. Two by turns mean two agents with one identity.
    pub boot: BootId,
    /// The agent's time.
    pub ts: UnixMs,
    /// Its clock less central's, where it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// Seconds until the next one, give or take a fifth, unless something changes before.
    #[serde(default = "usual_beat_s")]
    pub every_s: u32,
    /// Seconds since the agent began.
    pub uptime_s: u64,
    /// The agent's version.
    pub version: String,
    /// Records that wait.
    pub spool_depth: u64,
    /// What is wrong, as codes.
    #[serde(default)]
    pub health: Vec<String>,
    /// The first end among what it connects with: its credential, its certificate, the authorities
    /// that it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_expires_at: Option<UnixMs>,
    /// By number.
    #[serde(default)]
    pub connectors: Vec<ConnectorBeat>,
}

/// A connector in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorBeat {
    /// Its number.
    pub connector: ConnectorId,
    /// What it is.
    pub state: ConnectorState,
    /// The open session on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register_mwh: Option<Mwh>,
    /// Power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<MilliWatt>,
}
