//! The state of a connector. Derived, never stored: one pure function from the facts.

use serde::{Deserialize, Serialize};

use crate::wire_enum;

wire_enum! {
    /// What a connector is, for people.
    pub enum ConnectorState {
        /// Free: plug in or start.
        Available = "available",
        /// A car is plugged in, no session.
        Plugged = "plugged",
        /// A session has begun, no energy yet.
        Preparing = "preparing",
        /// Energy flows.
        Charging = "charging",
        /// The car has paused.
        SuspendedEv = "suspended_ev",
        /// The charge point has paused.
        SuspendedEvse = "suspended_evse",
        /// Energy has ended, the car is still plugged in.
        Finishing = "finishing",
        /// Held for somebody.
        Reserved = "reserved",
        /// Out of service.
        Unavailable = "unavailable",
        /// The hardware is broken.
        Faulted = "faulted",
        /// The charge point cannot be reached (only as seen from central).
        Offline = "offline",
        /// Central has just started and has not heard yet (only as seen from central).
        Unknown = "unknown",
    }
}

wire_enum! {
    /// How far a session is.
    pub enum Phase {
        /// Accepted; waits for the charge point, the plug or the car.
        Preparing = "preparing",
        /// Energy flows.
        Charging = "charging",
        /// The car has paused.
        SuspendedEv = "suspended_ev",
        /// The charge point has paused: a limit, a fault that will pass.
        SuspendedEvse = "suspended_evse",
        /// A stop is accepted and under way.
        Stopping = "stopping",
        /// Energy has ended, the plug is still in, the idle fee may run.
        Idle = "idle",
        /// Ended as it should.
        Completed = "completed",
        /// Ended without ever delivering what was asked.
        Failed = "failed",
    }
}

impl Phase {
    /// Whether the session has ended for good.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

wire_enum! {
    /// Whether a connector serves drivers.
    pub enum Service {
        /// It does.
        In = "in",
        /// It does not.
        Out = "out",
        /// It will not once the running session has ended.
        OutAfterSession = "out_after_session",
    }
}

wire_enum! {
    /// What a fault does, as the hardware driver says. Nobody infers it.
    pub enum FaultEffect {
        /// Charging goes on.
        Warning = "warning",
        /// Charging pauses until the fault clears.
        Suspends = "suspends",
        /// The device has ended its transaction.
        Ended = "ended",
    }
}

/// A fault on a connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What it does.
    pub effect: FaultEffect,
    /// The device's own word for it.
    pub raw: String,
}

/// Everything that the state follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectorFacts<'a> {
    /// A car is plugged in.
    pub plugged: bool,
    /// Does it serve drivers?
    pub service: Service,
    /// A fault that has not cleared.
    pub fault: Option<&'a Fault>,
    /// Held for somebody.
    pub reserved: bool,
    /// The phase of the open session on it, if there is one.
    pub session: Option<Phase>,
    /// A session has ended here since the car was plugged in.
    pub ended_since_plug: bool,
}

/// The one rule. An open session speaks first (its car is there, whatever else), then what keeps
/// others away, then the plug.
#[must_use]
pub fn connector_state(facts: &ConnectorFacts<'_>) -> ConnectorState {
    if let Some(phase) = facts.session {
        return match phase {
            Phase::Preparing | Phase::Unrecognised => ConnectorState::Preparing,
            Phase::Charging => ConnectorState::Charging,
            Phase::SuspendedEv => ConnectorState::SuspendedEv,
            Phase::SuspendedEvse => ConnectorState::SuspendedEvse,
            Phase::Stopping | Phase::Idle | Phase::Completed | Phase::Failed => {
                ConnectorState::Finishing
            }
        };
    }
    if facts
        .fault
        .is_some_and(|f| f.effect != FaultEffect::Warning)
    {
        return ConnectorState::Faulted;
    }
    match facts.service {
        Service::Out | Service::OutAfterSession => return ConnectorState::Unavailable,
        Service::In | Service::Unrecognised => {}
    }
    if facts.plugged {
        if facts.ended_since_plug {
            ConnectorState::Finishing
        } else {
            ConnectorState::Plugged
        }
    } else if facts.reserved {
        ConnectorState::Reserved
    } else {
        ConnectorState::Available
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_from_the_facts() {
        let free = ConnectorFacts {
            plugged: false,
            service: Service::In,
            fault: None,
            reserved: false,
            session: None,
            ended_since_plug: false,
        };
        let fault = |effect| Fault {
            effect,
            raw: "x".into(),
        };
        let (warning, ended) = (fault(FaultEffect::Warning), fault(FaultEffect::Ended));
        let table = [
            (free, ConnectorState::Available),
            (
                ConnectorFacts {
                    plugged: true,
                    ..free
                },
                ConnectorState::Plugged,
            ),
            (
                ConnectorFacts {
                    plugged: true,
                    ended_since_plug: true,
                    ..free
                },
                ConnectorState::Finishing,
            ),
            (
                ConnectorFacts {
                    reserved: true,
                    ..free
                },
                ConnectorState::Reserved,
            ),
            (
                ConnectorFacts {
                    service: Service::Out,
                    ..free
                },
                ConnectorState::Unavailable,
            ),
            (
                ConnectorFacts {
                    fault: Some(&warning),
                    ..free
                },
                ConnectorState::Available,
            ),
            (
                ConnectorFacts {
                    fault: Some(&ended),
                    service: Service::Out,
                    ..free
                },
                ConnectorState::Faulted,
            ),
            (
                ConnectorFacts {
                    plugged: true,
                    session: Some(Phase::Charging),
                    service: Service::OutAfterSession,
                    ..free
                },
                ConnectorState::Charging,
            ),
            (
                ConnectorFacts {
                    plugged: true,
                    session: Some(Phase::Idle),
                    ..free
                },
                ConnectorState::Finishing,
            ),
        ];
        for (facts, state) in table {
            assert_eq!(connector_state(&facts), state, "{facts:?}");
        }
    }
}
