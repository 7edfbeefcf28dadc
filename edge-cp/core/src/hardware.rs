//! The port to charger hardware: asynchronous and unreliable.
//!
//! Commands are answered separately from the facts that they cause. Facts may be missing,
//! repeated, hours old, in any order, or before the answer. They name the device's own transaction
//! and never a session. Every time is host wall time: a hardware driver translates its device's.

use ev_contract::{
    connector::{Fault, Phase},
    ids::ConnectorId,
    time::UnixMs,
    units::{MilliAmp, MilliWatt, Mwh},
    v1::EndReason,
};
use serde::{Deserialize, Serialize};

/// A number that the agent gives to a start: positive, 31 bits, so that it fits whatever the device
/// keeps it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StartNumber(pub u32);

/// The device's name for its transaction. Devices reuse them, and give 0 or negative ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceTx(pub String);

/// A key that the hardware driver makes, unique for each device transaction for ever: it tells a
/// repeated fact from a reused id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OriginKey(pub String);

/// What the agent wants of the hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HwCommand {
    /// Begin a transaction. Sent again with the same number until something is heard.
    Start {
        /// Where.
        connector: ConnectorId,
        /// The agent's number for it.
        start_number: StartNumber,
        /// The most current, where bounded.
        limit_ma: Option<MilliAmp>,
    },
    /// End a transaction, by whatever of it is known. `Unknown` says that there is no such one.
    Stop {
        /// Where.
        connector: ConnectorId,
        /// The number of the start.
        start_number: Option<StartNumber>,
        /// The device's transaction.
        device_tx: Option<DeviceTx>,
    },
    /// Bound the current; 0 pauses.
    SetLimit {
        /// Where.
        connector: ConnectorId,
        /// The most current.
        max_ma: MilliAmp,
        /// On so many phases.
        phases: Option<u8>,
    },
    /// Release the plug.
    Unlock {
        /// Where.
        connector: ConnectorId,
    },
    /// Serve or do not.
    SetService {
        /// Where.
        connector: ConnectorId,
        /// Serve.
        in_service: bool,
    },
    /// Boot.
    Reset,
}

/// What the hardware says to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HwVerdict {
    /// It will do so.
    Accepted,
    /// It will not.
    Rejected,
    /// It cannot.
    Unsupported,
    /// It does not know what this is about.
    Unknown,
}

/// An answer; it may be missing or come after the facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HwAnswer {
    /// The command, as it was given.
    pub command: HwCommand,
    /// The answer.
    pub verdict: HwVerdict,
    /// The device's own word.
    pub raw: Option<String>,
}

/// A reading of the register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HwReading {
    /// When.
    pub at: UnixMs,
    /// The register.
    pub register_mwh: Mwh,
    /// The meter's serial number.
    pub meter_id: String,
    /// Counts resets of the register.
    pub meter_epoch: u32,
    /// Power.
    pub power_mw: Option<MilliWatt>,
    /// Current per phase.
    pub current_ma: Vec<MilliAmp>,
    /// State of charge.
    pub soc_pct: Option<u8>,
    /// What a signing meter signed.
    pub signed: Option<Vec<u8>>,
}

/// Whether energy flows, as the device says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HwPhase {
    /// It does.
    Charging,
    /// The car has paused.
    SuspendedEv,
    /// The device has paused.
    SuspendedEvse,
}

impl HwPhase {
    /// The session's phase.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::Charging => Phase::Charging,
            Self::SuspendedEv => Phase::SuspendedEv,
            Self::SuspendedEvse => Phase::SuspendedEvse,
        }
    }
}

/// A transaction that the device still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTx {
    /// Where.
    pub connector: ConnectorId,
    /// Its name.
    pub device_tx: DeviceTx,
    /// Its key, where the driver can tell.
    pub origin: Option<OriginKey>,
}

/// What the hardware reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HwFact {
    /// The agent can or cannot talk to the hardware.
    Link {
        /// When.
        at: UnixMs,
        /// It can.
        up: bool,
        /// The transactions that the device has, where it can tell.
        running: Option<Vec<RunningTx>>,
    },
    /// The hardware has booted.
    Booted {
        /// When.
        at: UnixMs,
        /// Its own word.
        raw: Option<String>,
        /// The transactions that it still has, where it can tell.
        running: Option<Vec<RunningTx>>,
    },
    /// A car was plugged in or out.
    Plug {
        /// When.
        at: UnixMs,
        /// Where.
        connector: ConnectorId,
        /// In.
        plugged: bool,
    },
    /// A device transaction has begun, asked for or not.
    TxStarted {
        /// When.
        at: UnixMs,
        /// Where.
        connector: ConnectorId,
        /// Its name.
        device_tx: DeviceTx,
        /// Its key.
        origin: OriginKey,
        /// The start that caused it, where the device says.
        start_number: Option<StartNumber>,
        /// The register at its start.
        reading: HwReading,
    },
    /// The meter was read.
    Reading {
        /// Where.
        connector: ConnectorId,
        /// The reading.
        reading: HwReading,
    },
    /// Energy flows, or pauses.
    Phase {
        /// When.
        at: UnixMs,
        /// Where.
        connector: ConnectorId,
        /// In which transaction, where the device says.
        device_tx: Option<DeviceTx>,
        /// The phase.
        phase: HwPhase,
        /// The register then.
        reading: Option<HwReading>,
    },
    /// A device transaction has ended.
    TxEnded {
        /// When.
        at: UnixMs,
        /// Where.
        connector: ConnectorId,
        /// Its name.
        device_tx: DeviceTx,
        /// Its key, where the driver can tell.
        origin: Option<OriginKey>,
        /// The start that caused it, where the device says.
        start_number: Option<StartNumber>,
        /// Why.
        reason: EndReason,
        /// The register at its end.
        reading: Option<HwReading>,
    },
    /// A fault began or cleared. What it does is the driver's word, never inferred.
    Fault {
        /// When.
        at: UnixMs,
        /// Where.
        connector: ConnectorId,
        /// The fault; none when it has cleared.
        fault: Option<Fault>,
    },
    /// The hardware itself serves or does not.
    Service {
        /// When.
        at: UnixMs,
        /// Where.
        connector: ConnectorId,
        /// It does.
        in_service: bool,
    },
}
