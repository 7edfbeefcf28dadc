//! What the wall shows, as values. No I/O and no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ev_contract::{
    connector::{ConnectorState, Service},
    ids::{CpId, SessionId},
    time::UnixMs,
    v1::{ChargePointView, ConnectorView, EventRow, Reach, SessionView},
};

/// Events that are shown; `driver-cli op events` has those that central remembers.
pub const EVENTS_MAX: usize = 100;

/// Who does not answer, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// Nobody is away.
    #[default]
    Up,
    /// The NATS server is.
    Server(String),
    /// Central is.
    Central(String),
}

/// What the wall shows.
#[derive(Debug, Default)]
pub struct Wall {
    /// The charge points; none before central has told.
    pub charge_points: Option<BTreeMap<CpId, ChargePointView>>,
    /// The open sessions.
    pub sessions: HashMap<SessionId, SessionView>,
    /// What has happened, oldest first.
    pub events: VecDeque<EventRow>,
    /// Who does not answer.
    pub link: Link,
    /// Central's time in its last answer.
    pub ts: Option<UnixMs>,
}

impl Wall {
    /// Takes all charge points.
    pub fn listed(&mut self, views: Vec<ChargePointView>) {
        let views = views.into_iter().map(|view| (view.cp_id.clone(), view));
        self.charge_points = Some(views.collect());
    }

    /// Takes one charge point.
    pub fn looked_at(&mut self, view: ChargePointView) {
        if let Some(known) = &mut self.charge_points {
            known.insert(view.cp_id.clone(), view);
        }
    }

    /// Takes what has happened.
    pub fn happened(&mut self, events: impl IntoIterator<Item = EventRow>) {
        for event in events {
            if !self.events.contains(&event) {
                self.events.push_back(event);
            }
        }
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

/// How a connector stands, as a wall says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A driver can start.
    Available,
    /// A session begins.
    Preparing,
    /// A session is under way.
    Charging,
    /// It has ended, and the car is still there.
    Finishing,
    /// An operator or the charge point has taken it out.
    OutOfService,
    /// It has a fault.
    Faulted,
    /// The charge point cannot be reached.
    Offline,
    /// Central does not know yet.
    Unknown,
}

impl Standing {
    /// Every one of them.
    pub const ALL: [Self; 8] = [
        Self::Available,
        Self::Preparing,
        Self::Charging,
        Self::Finishing,
        Self::OutOfService,
        Self::Faulted,
        Self::Offline,
        Self::Unknown,
    ];

    /// How a connector stands. What an operator must look at comes before what goes on.
    #[must_use]
    pub fn of(cp: &ChargePointView, connector: &ConnectorView) -> Self {
        if cp.link == Reach::Offline {
            return Self::Offline;
        }
        match connector.state {
            ConnectorState::Offline => Self::Offline,
            ConnectorState::Faulted => Self::Faulted,
            _ if !connector.charger_online => Self::Faulted,
            ConnectorState::Unavailable => Self::OutOfService,
            ConnectorState::Preparing => Self::Preparing,
            ConnectorState::Charging
            | ConnectorState::SuspendedEv
            | ConnectorState::SuspendedEvse => Self::Charging,
            ConnectorState::Finishing => Self::Finishing,
            _ if connector.service == Service::Out => Self::OutOfService,
            ConnectorState::Available | ConnectorState::Plugged | ConnectorState::Reserved => {
                Self::Available
            }
            ConnectorState::Unknown | ConnectorState::Unrecognised => Self::Unknown,
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Preparing => "preparing",
            Self::Charging => "charging",
            Self::Finishing => "finishing",
            Self::OutOfService => "out of service",
            Self::Faulted => "faulted",
            Self::Offline => "offline",
            Self::Unknown => "not known yet",
        }
    }

    /// As an attribute.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::OutOfService => "unavailable",
            Self::Unknown => "unknown",
            other => other.words(),
        }
    }
}

/// Whether somebody should look at a charge point: it refuses drivers for another reason than being
/// in use, complains, or has lost records.
#[must_use]
pub fn needs_attention(cp: &ChargePointView) -> bool {
    use ev_contract::codes::Code;
    cp.refuses.iter().any(|r| r.code != Code::Occupied)
        || !cp.health.is_empty()
        || cp.quarantined > 0
        || cp.missing > 0
        || cp.other_agent.is_some()
        || cp
            .connectors
            .iter()
            .any(|c| c.fault.is_some() || !c.charger_online || !c.service_confirmed)
}

#[cfg(test)]
mod tests {
    use ev_contract::codes::Code;
    use ev_contract::v1::{EventKind, RefusesView};

    use super::*;
    use crate::why::tests::cp;

    #[test]
    fn what_must_be_looked_at_comes_before_what_goes_on() {
        let mut view = cp();
        let standing = |view: &ChargePointView| Standing::of(view, &view.connectors[0]);
        assert_eq!(standing(&view), Standing::Available);
        assert!(!needs_attention(&view));
        view.connectors[0].service = Service::Out;
        assert_eq!(standing(&view), Standing::OutOfService);
        view.connectors[0].state = ConnectorState::Charging;
        assert_eq!(standing(&view), Standing::Charging);
        view.connectors[0].charger_online = false;
        assert_eq!(standing(&view), Standing::Faulted);
        assert!(needs_attention(&view));
        view.link = Reach::Offline;
        assert_eq!(standing(&view), Standing::Offline);
    }

    #[test]
    fn who_is_only_in_use_needs_nobody() {
        let mut view = cp();
        let refuses = |code| RefusesView {
            connector: None,
            code,
            since: None,
            session_id: None,
            raw: None,
        };
        view.refuses = vec![refuses(Code::Occupied)];
        assert!(!needs_attention(&view));
        view.refuses.push(refuses(Code::Faulted));
        assert!(needs_attention(&view));
    }

    #[test]
    fn events_are_there_once_and_only_so_many() {
        let event = |at| EventRow {
            at: UnixMs(at),
            kind: EventKind::Offline,
            pos: None,
            cp_id: None,
            connector: None,
            session_id: None,
            driver_id: None,
            operator_id: None,
            code: None,
            detail: None,
        };
        let mut wall = Wall::default();
        wall.happened((0..150).map(event));
        wall.happened([event(149)]);
        assert_eq!(wall.events.len(), EVENTS_MAX);
        assert_eq!(wall.events.front().map(|e| e.at), Some(UnixMs(50)));
    }
}
