//! What a ledger record can read and write, and the version of each.

use std::fmt;

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, OperatorId, RequestId, SessionId, TariffId},
    v1::TariffScope,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a ledger record, drawn by the shell; also the version of every key that it wrote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Who asks: request ids are each asker's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Asker {
    /// A driver.
    #[serde(rename = "d")]
    Driver(DriverId),
    /// An operator.
    #[serde(rename = "o")]
    Operator(OperatorId),
}

impl Asker {
    /// The id without the kind.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Driver(id) => id.as_str(),
            Self::Operator(id) => id.as_str(),
        }
    }
}

/// A key of the state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// A connector: its open sessions, its receipt counter, what was last reported of it.
    #[serde(rename = "c")]
    Connector(CpId, ConnectorId),
    /// A session.
    #[serde(rename = "s")]
    Session(SessionId),
    /// The adjustments to an ended session, which itself never changes.
    #[serde(rename = "a")]
    Adjustments(SessionId),
    /// A driver: open sessions that count, block.
    #[serde(rename = "d")]
    Driver(DriverId),
    /// A request and its answer.
    #[serde(rename = "r")]
    Request(Asker, RequestId),
    /// A charge point as it presented itself.
    #[serde(rename = "p")]
    ChargePoint(CpId),
    /// A position in a spool. Kept for ever.
    #[serde(rename = "e")]
    Spool(CpId, Epoch),
    /// The newest version of a tariff.
    #[serde(rename = "t")]
    Tariff(TariffId),
    /// Which tariff applies in a scope.
    #[serde(rename = "x")]
    TariffScope(TariffScope),
    /// What was announced of a charge point's credential.
    #[serde(rename = "n")]
    Enrolment(CpId),
    /// Up to when requests may have been forgotten.
    #[serde(rename = "h")]
    Horizon,
}
