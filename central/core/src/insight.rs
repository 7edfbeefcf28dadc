//! What operators want to understand: why drivers are refused at a charge point, what a session waits
//! for, what a connector is worth to drivers. Derived from the applied state; nothing is decided by it.

use ev_contract::{
    codes::Code,
    connector::{Fault, FaultEffect},
    ids::{ConnectorId, CpId},
    v1::{Availability, Awaited, Reach, RefusesView, WaitView},
};

use crate::{
    model::{ChargePoint, Connector, Session, Stage},
    state::State,
    view::Heard,
};

/// Whether a fault keeps drivers out: as a start is decided.
#[must_use]
pub fn keeps_out(fault: &Fault) -> bool {
    match fault.effect {
        FaultEffect::Warning => false,
        FaultEffect::Suspends | FaultEffect::Ended | FaultEffect::Unrecognised => true,
    }
}

/// Why any driver's start is refused at a charge point as things stand, in the order in which a
/// start is decided. What the agent says of itself comes last: it refuses what central accepts.
#[must_use]
pub fn refuses(
    state: &State,
    id: &CpId,
    cp: Option<&ChargePoint>,
    heard: &dyn Heard,
) -> Vec<RefusesView> {
    let plain = |connector, code, since| RefusesView {
        connector,
        code,
        since,
        session_id: None,
        raw: None,
    };
    let revoked = state.enrolment(id).filter(|e| e.value.revoked);
    let away = match heard.reach(id) {
        Reach::Offline => true,
        Reach::Online | Reach::Unknown | Reach::Unrecognised => false,
    };
    let mut all = Vec::new();
    if let Some(enrolment) = revoked {
        let since = Some(enrolment.value.at);
        all.push(plain(None, Code::ChargePointOffline, since));
    } else if cp.is_none() || away {
        all.push(plain(None, Code::ChargePointOffline, heard.since(id)));
    }
    for spec in cp.into_iter().flat_map(|cp| cp.connectors.iter()) {
        let there = state.connector_at(id, spec.connector);
        let Some(connector) = there.map(|e| &e.value) else {
            continue;
        };
        let here = Some(spec.connector);
        if let Some(session) = connector.open.iter().find_map(|id| state.session(*id)) {
            all.push(RefusesView {
                session_id: Some(session.value.id),
                ..plain(here, Code::Occupied, Some(session.value.accepted_at))
            });
        }
        if !connector.serves() {
            all.push(plain(here, Code::OutOfService, None));
        }
        if let Some(reported) = &connector.reported {
            if !reported.charger_online {
                all.push(plain(here, Code::ChargerOffline, None));
            }
            if let Some(fault) = reported.fault.as_deref().filter(|f| keeps_out(f)) {
                all.push(RefusesView {
                    raw: Some(fault.raw.clone()),
                    ..plain(here, Code::Faulted, None)
                });
            }
        }
    }
    if let Some((heartbeat, _)) = heard.last(id).filter(|_| !away) {
        for code in [Code::StorageFailed, Code::ClockUnsure] {
            if heartbeat.health.iter().any(|word| word == code.as_str()) {
                all.push(plain(None, code, None));
            }
        }
    }
    all
}

/// What an open session waits for; nothing once it has ended.
#[must_use]
pub fn waits(session: &Session, heard: &dyn Heard) -> Option<WaitView> {
    let stop = session.stop.as_ref().map(|stop| stop.at);
    let (awaited, since) = match (&session.stage, stop) {
        (Stage::Ended { .. }, _) => return None,
        (
            Stage::Standing {
                energy_ended_at, ..
            },
            _,
        ) => (Awaited::Unplug, *energy_ended_at),
        (Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. }, Some(at)) => {
            (Awaited::Stop, at)
        }
        (Stage::Ordered, None) => (Awaited::Start, session.accepted_at),
        (Stage::Taken { .. }, None) => (Awaited::Car, session.accepted_at),
        (Stage::Energy { meter, .. }, None) => (Awaited::End, meter.started_at),
    };
    Some(WaitView {
        awaited,
        since,
        heard_at: heard.heard_at(&session.cp),
        attempts: 0,
        code: None,
    })
}

/// What a connector is worth to drivers. In use is up.
#[must_use]
pub fn availability(connector: &Connector, reach: Reach) -> Availability {
    let reported = connector.reported.as_ref();
    let fault = reported.and_then(|r| r.fault.as_deref());
    if !connector.serves() && connector.open.is_empty() {
        return Availability::Planned;
    }
    match reach {
        Reach::Unknown | Reach::Unrecognised => return Availability::Unknown,
        Reach::Offline => return Availability::Offline,
        Reach::Online => {}
    }
    if reported.is_some_and(|r| !r.charger_online) {
        Availability::ChargerOffline
    } else if fault.is_some_and(keeps_out) {
        Availability::Faulted
    } else {
        Availability::Up
    }
}

/// Every connector that has presented itself, and what it is worth.
pub fn fleet<'a>(
    state: &'a State,
    heard: &'a dyn Heard,
) -> impl Iterator<Item = (&'a CpId, &'a ChargePoint, ConnectorId, Availability)> + 'a {
    state.charge_points_after(None).flat_map(move |(id, cp)| {
        let revoked = state.enrolment(id).is_some_and(|e| e.value.revoked);
        let reach = heard.reach(id);
        cp.connectors.iter().map(move |spec| {
            let is = match state.connector_at(id, spec.connector) {
                // An operator has taken it back.
                _ if revoked => Availability::Planned,
                Some(entry) => availability(&entry.value, reach),
                None => availability(&Connector::default(), reach),
            };
            (id, cp, spec.connector, is)
        })
    })
}
