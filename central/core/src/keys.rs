//! What a ledger record can read and write, and the version of each.

use std::fmt;

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, OperatorId, RequestId, SessionId, TariffId},
    v1::TariffScope,
};
use uuid::Uuid;

/// The id of a ledger record, drawn by the shell; also the version of every key that it wrote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub Uuid);

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Who asks: request ids are each asker's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asker {
    /// A driver.
    Driver(DriverId),
    /// An operator.
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A connector: its open sessions, its receipt counter, what was last reported of it.
    Connector(CpId, ConnectorId),
    /// A session.
    Session(SessionId),
    /// The adjustments to an ended session, which itself never changes.
    Adjustments(SessionId),
    /// A driver: open sessions that count, block.
    Driver(DriverId),
    /// A request and its answer.
    Request(Asker, RequestId),
    /// A charge point as it presented itself.
    ChargePoint(CpId),
    /// A position in a spool. Kept for ever.
    Spool(CpId, Epoch),
    /// The newest version of a tariff.
    Tariff(TariffId),
    /// Which tariff applies in a scope.
    TariffScope(TariffScope),
    /// What was announced of a charge point's credential.
    Enrolment(CpId),
    /// Up to when requests may have been forgotten.
    Horizon,
}
