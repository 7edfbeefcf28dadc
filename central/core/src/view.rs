//! Answers to questions, from the applied state. The shell sees to it that the state is fresh.

use std::sync::Arc;

use ev_contract::{
    connector::{ConnectorState, Service},
    ids::{ConnectorId, CpId, DriverId, Epoch, RequestId, SiteId},
    time::UnixMs,
    units::{MilliWatt, Mwh},
    v1::{
        ChargePointListing, ChargePointView, ConnectorBeat, ConnectorListing, ConnectorView,
        CpEnrolment, DriverUpdate, OtherAgentView, Reach, ScheduledTariff, ScopedTariff,
        SessionView, Status, Tariff, TariffScope, UpdateType,
    },
};

use crate::{
    insight,
    keys::Asker,
    model::{Answer, ChargePoint, Connector, Place, Session, Stage},
    pricing,
    state::{Entry, State},
};

/// What is kept of a charge point's last heartbeat. There is one for each of them, so that it is small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// The spool's epoch.
    pub epoch: Epoch,
    /// The agent's version.
    pub version: Arc<str>,
    /// Its clock less central's, where it knows.
    pub clock_offset_ms: Option<i64>,
    /// Records that wait.
    pub spool_depth: u64,
    /// What is wrong, as codes.
    pub health: Box<[String]>,
    /// The first end among what it connects with.
    pub access_expires_at: Option<UnixMs>,
    /// By number.
    pub connectors: Box<[ConnectorBeat]>,
}

/// What a replica has heard of charge points. Not in the ledger: each replica hears for itself.
pub trait Heard {
    /// Whether a charge point can be reached.
    fn reach(&self, cp: &CpId) -> Reach;
    /// Its last heartbeat, and when it came by central's clock.
    fn last(&self, cp: &CpId) -> Option<(&Beat, UnixMs)>;
    /// When it was last heard of.
    fn heard_at(&self, cp: &CpId) -> Option<UnixMs> {
        self.last(cp).map(|(_, at)| at)
    }
    /// When an agent was last heard that is not obeyed as this charge point.
    fn other_at(&self, _cp: &CpId) -> Option<UnixMs> {
        None
    }
    /// Since when its reach is what it is; while it is out of reach, when it was last heard.
    fn since(&self, cp: &CpId) -> Option<UnixMs> {
        let _ = cp;
        None
    }
    /// From when to when it was last out of reach before it came back.
    fn cut(&self, cp: &CpId) -> Option<(UnixMs, UnixMs)> {
        let _ = cp;
        None
    }
}

/// A session for its driver or an operator.
#[must_use]
pub fn session(entry: &Entry<Arc<Session>>, heard: &dyn Heard, now: UnixMs) -> SessionView {
    let s = &entry.value;
    let meter = s.meter();
    let receipt = match &s.stage {
        Stage::Ended { receipt } => Some(receipt),
        Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. } | Stage::Standing { .. } => {
            None
        }
    };
    let energy_ended_at = match &s.stage {
        Stage::Standing {
            energy_ended_at, ..
        } => Some(*energy_ended_at),
        Stage::Ended { receipt } => receipt.energy_ended_at,
        Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. } => None,
    };
    let end = match &s.stage {
        Stage::Standing { reason, .. } => Some(reason.clone()),
        Stage::Ended { receipt } => Some(receipt.end.clone()),
        Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. } => None,
    };
    let live = live(s, heard);
    let energy = live.as_ref().map_or_else(|| s.energy(), |l| l.energy);
    SessionView {
        session_id: s.id,
        driver_id: s.driver.clone(),
        cp_id: s.cp.clone(),
        connector: s.connector,
        site_id: s.site.clone(),
        time_zone: s.time_zone.to_string(),
        state: s.phase(),
        status: s.status(),
        origin: s.origin,
        stopping: s.stop.is_some() && !s.is_ended(),
        reachable: heard.reach(&s.cp) != Reach::Offline,
        energy_mwh: energy,
        cost: pricing::cost_so_far(s, energy, now),
        currency: s.tariff.terms.currency,
        standing_costs_from: pricing::standing_costs_from(s),
        tariff_id: s.tariff.tariff_id.clone(),
        tariff_version: s.tariff.version,
        limits: s.limits,
        accepted_at: s.accepted_at,
        started_at: meter
            .map(|m| m.started_at)
            .or_else(|| receipt.and_then(|r| r.started_at)),
        energy_ended_at,
        ended_at: receipt.map(|r| r.ended_at),
        last_value_at: live
            .as_ref()
            .map(|l| l.at)
            .or_else(|| meter.map(|m| m.last_at)),
        power_mw: match &live {
            Some(live) => live.power,
            None => meter.and_then(|m| m.power),
        },
        soc_pct: meter.and_then(|m| m.soc_pct),
        reason: end.as_ref().map(|e| e.word().to_owned()),
        end,
        receipt: receipt.map(|r| r.number.clone()),
        waits: None,
        pos: entry.pos,
    }
}

/// What the last heartbeat says of a charging session. The ledger has a reading a minute; between
/// two of them people see this. Nothing is billed or decided by it.
struct Live {
    energy: Mwh,
    power: Option<MilliWatt>,
    at: UnixMs,
}

fn live(s: &Session, heard: &dyn Heard) -> Option<Live> {
    let Stage::Energy { meter, .. } = &s.stage else {
        return None;
    };
    let (heartbeat, at) = heard.last(&s.cp)?;
    let beat = heartbeat
        .connectors
        .iter()
        .find(|c| c.session_id == Some(s.id))?;
    let last = meter.spans.last()?;
    // A lower register is older than the ledger, or another meter's.
    let more = beat.register_mwh?.0.checked_sub(last.to_mwh.0)?;
    (at > meter.last_at).then(|| Live {
        energy: s.energy().saturating_add(Mwh(more)),
        power: beat.power_mw,
        at,
    })
}

/// News of a session for its driver; none for a session without one.
#[must_use]
pub fn update(entry: &Entry<Arc<Session>>, now: UnixMs) -> Option<DriverUpdate> {
    let s = &entry.value;
    let driver = s.driver.clone()?;
    let reason = match &s.stage {
        Stage::Standing { reason, .. } => Some(reason.word()),
        Stage::Ended { receipt } => Some(receipt.end.word()),
        Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. } => None,
    };
    Some(DriverUpdate {
        kind: UpdateType::Update,
        to: Some(driver.to_string()),
        request_id: request_id(s)?,
        driver_id: driver,
        cp_id: s.cp.to_string(),
        status: s.status(),
        reason: reason.map(str::to_owned),
        session_id: Some(s.id),
        ts: now,
        connector: Some(s.connector),
        error: None,
        tariff: None,
        phase: Some(s.phase()),
        stopping: s.stop.is_some() && !s.is_ended(),
        energy_mwh: Some(s.energy()),
        cost: Some(pricing::cost_so_far(s, s.energy(), now)),
        currency: Some(s.tariff.terms.currency),
        standing_costs_from: pricing::standing_costs_from(s),
        soc_pct: s.meter().and_then(|m| m.soc_pct),
        pos: Some(entry.pos),
        prev: Some(entry.prev),
    })
}

/// The request that began a session; for one that began at the charge point, its own id.
fn request_id(s: &Session) -> Option<RequestId> {
    match &s.request {
        Some((_, request)) => Some(request.clone()),
        None => RequestId::new(s.id.to_string()).ok(),
    }
}

/// The recorded answer to a driver's start or stop.
#[must_use]
pub fn answer(
    state: &State,
    kind: UpdateType,
    driver: &DriverId,
    request: &RequestId,
    answer: &Answer,
    now: UnixMs,
) -> DriverUpdate {
    let mut update = DriverUpdate {
        kind,
        to: Some(driver.to_string()),
        request_id: request.clone(),
        driver_id: driver.clone(),
        cp_id: String::new(),
        status: Status::Accepted,
        reason: None,
        session_id: None,
        ts: now,
        connector: None,
        error: None,
        tariff: None,
        phase: None,
        stopping: kind == UpdateType::StopReply,
        energy_mwh: None,
        cost: None,
        currency: None,
        standing_costs_from: None,
        soc_pct: None,
        pos: None,
        prev: None,
    };
    match answer {
        Answer::Started {
            session,
            cp,
            connector,
        }
        | Answer::Stopping {
            session,
            cp,
            connector,
        } => {
            update.cp_id = cp.to_string();
            update.connector = Some(*connector);
            update.session_id = Some(*session);
            update.pos = state.session(*session).map(|e| e.pos);
        }
        Answer::Done { session, .. } => update.session_id = *session,
        Answer::Refused {
            code,
            what,
            session,
            cp,
            tariff,
        } => {
            update.status = Status::Denied;
            update.tariff = tariff.as_deref().cloned();
            update.stopping = false;
            update.reason = Some(code.as_str().to_owned());
            update.session_id = *session;
            update.cp_id = session
                .and_then(|id| state.session(id))
                .filter(|_| cp.is_empty())
                .map_or_else(|| cp.clone(), |e| e.value.cp.to_string());
            update.error = Some(code.about(what));
        }
    }
    update
}

/// The tariff that applies at a charge point.
#[must_use]
pub fn tariff_at(
    state: &State,
    id: &CpId,
    cp: Option<&ChargePoint>,
    now: UnixMs,
) -> Option<Tariff> {
    [
        Some(TariffScope::ChargePoint(id.clone())),
        place_of(state, id, cp).map(|(site, _)| TariffScope::Site(site)),
        Some(TariffScope::Default),
    ]
    .iter()
    .flatten()
    .find_map(|scope| state.tariff_scope(scope)?.value.at(now))
    .map(Arc::clone)
    .or_else(pricing::free_tariff)
    .map(Arc::unwrap_or_clone)
}

/// Where it stands, also before it has presented itself.
fn place_of(state: &State, id: &CpId, cp: Option<&ChargePoint>) -> Option<(SiteId, Arc<str>)> {
    if let Some(cp) = cp {
        return Some((cp.site.clone(), Arc::clone(&cp.time_zone)));
    }
    let enrolled = state.enrolment(id).and_then(|e| e.value.place.clone());
    let place = enrolled.or_else(Place::unassigned)?;
    Some((place.site, place.time_zone))
}

fn state_of(state: &State, connector: &Connector, reach: Reach) -> ConnectorState {
    match reach {
        Reach::Offline => ConnectorState::Offline,
        Reach::Unknown => ConnectorState::Unknown,
        Reach::Online | Reach::Unrecognised => {
            // Where two overlap, the one that got further is what the connector shows.
            let session = connector
                .open
                .iter()
                .filter_map(|id| state.session(*id))
                .max_by_key(|e| {
                    (
                        !matches!(e.value.stage, Stage::Ordered),
                        e.value.accepted_at,
                    )
                })
                .map(|e| e.value.phase());
            connector.state(session)
        }
    }
}

/// What a connector is.
#[must_use]
pub fn connector_state(state: &State, at: &(CpId, ConnectorId), reach: Reach) -> ConnectorState {
    match state.connector(at) {
        Some(entry) => state_of(state, &entry.value, reach),
        None => state_of(state, &Connector::default(), reach),
    }
}

fn connector_at(state: &State, cp: &CpId, id: ConnectorId) -> Arc<Connector> {
    state
        .connector_at(cp, id)
        .map(|e| Arc::clone(&e.value))
        .unwrap_or_default()
}

/// A charge point as drivers see it.
#[must_use]
pub fn listing(
    state: &State,
    id: &CpId,
    cp: &ChargePoint,
    driver: &DriverId,
    heard: &dyn Heard,
    now: UnixMs,
) -> Option<ChargePointListing> {
    // Whatever was last heard of it: nobody can start there.
    let revoked = state.enrolment(id).is_some_and(|e| e.value.revoked);
    let reach = if revoked {
        Reach::Offline
    } else {
        heard.reach(id)
    };
    Some(ChargePointListing {
        cp_id: id.clone(),
        site_id: cp.site.clone(),
        time_zone: cp.time_zone.to_string(),
        tariff: tariff_at(state, id, Some(cp), now)?,
        connectors: cp
            .connectors
            .iter()
            .map(|spec| {
                let connector = connector_at(state, id, spec.connector);
                ConnectorListing {
                    connector: spec.connector,
                    state: state_of(state, &connector, reach),
                    max_ma: spec.max_ma,
                    phases: spec.phases,
                    session_id: connector.open.iter().copied().find(|id| {
                        state
                            .session(*id)
                            .is_some_and(|e| e.value.driver.as_ref() == Some(driver))
                    }),
                }
            })
            .collect(),
    })
}

/// A charge point as operators see it; `cp` is none for one that was enrolled and has not
/// presented itself yet.
#[must_use]
pub fn charge_point(
    state: &State,
    id: &CpId,
    cp: Option<&ChargePoint>,
    heard: &dyn Heard,
    now: UnixMs,
) -> Option<ChargePointView> {
    let reach = heard.reach(id);
    let last = heard.last(id);
    let beat = |connector: ConnectorId| -> Option<&ConnectorBeat> {
        last.and_then(|(hb, _)| hb.connectors.iter().find(|c| c.connector == connector))
    };
    let spools: Vec<_> = state.spools_of(id).collect();
    let enrolment = state.enrolment(id).map(|e| &e.value);
    let (site_id, time_zone) = place_of(state, id, cp)?;
    Some(ChargePointView {
        cp_id: id.clone(),
        site_id,
        time_zone: time_zone.to_string(),
        link: reach,
        last_heard_at: last.map(|(_, at)| at),
        version: cp.map(|cp| cp.version.to_string()),
        spool_depth: last.map(|(hb, _)| hb.spool_depth),
        clock_offset_ms: last.and_then(|(hb, _)| hb.clock_offset_ms),
        health: last.map(|(hb, _)| hb.health.to_vec()).unwrap_or_default(),
        access_expires_at: last.and_then(|(hb, _)| hb.access_expires_at),
        epoch: cp.map(|cp| cp.epoch.to_string()),
        boot: cp.map(|cp| cp.boot.id),
        other_agent: cp.and_then(|cp| {
            let other = cp.other.as_deref()?;
            Some(OtherAgentView {
                epoch: other.epoch.to_string(),
                boot: other.boot.id,
                since: other.at,
                last_heard_at: heard.other_at(id),
                kept: other.kept,
            })
        }),
        next_record: spools
            .iter()
            .find(|(epoch, _)| cp.is_some_and(|cp| **epoch == cp.epoch))
            .map_or(1, |(_, spool)| spool.next),
        quarantined: spools.iter().map(|(_, s)| s.quarantined).sum(),
        missing: spools.iter().map(|(_, s)| s.missing).sum(),
        anomalies: spools.iter().map(|(_, s)| s.anomalies).sum(),
        link_since: heard.since(id),
        cut_from: heard.cut(id).map(|(from, _)| from),
        cut_until: heard.cut(id).map(|(_, until)| until),
        refuses: insight::refuses(state, id, cp, heard),
        refused: Vec::new(),
        tariff: tariff_at(state, id, cp, now)?,
        enrolment: enrolment.map(|e| {
            if e.revoked {
                CpEnrolment::Revoked
            } else {
                CpEnrolment::Enrolled
            }
        }),
        out_of_service: enrolment.is_some_and(|e| e.out_of_service),
        connectors: cp
            .into_iter()
            .flat_map(|cp| cp.connectors.iter())
            .map(|spec| {
                let connector = connector_at(state, id, spec.connector);
                let reported = connector.reported.as_ref();
                let beat = beat(spec.connector);
                ConnectorView {
                    connector: spec.connector,
                    state: state_of(state, &connector, reach),
                    service: connector.service,
                    service_confirmed: reported.map_or(
                        connector.service == Service::In && connector.service_revision == 0,
                        |r| r.service_revision >= connector.service_revision,
                    ),
                    fault: reported.and_then(|r| r.fault.as_deref().cloned()),
                    charger_online: reported.is_none_or(|r| r.charger_online),
                    plugged: reported.is_some_and(|r| r.plugged),
                    max_ma: spec.max_ma,
                    phases: spec.phases,
                    sessions: connector.open.iter().copied().collect(),
                    register_mwh: beat.and_then(|b| b.register_mwh),
                    power_mw: beat.and_then(|b| b.power_mw),
                }
            })
            .collect(),
    })
}

/// What applies where, and what is still to come.
#[must_use]
pub fn tariffs(state: &State, now: UnixMs) -> Vec<ScopedTariff> {
    state
        .tariff_scopes()
        .map(|(scope, tariffs)| ScopedTariff {
            scope: scope.clone(),
            tariff: tariffs.at(now).map(|tariff| Tariff::clone(tariff)),
            scheduled: tariffs
                .to_come(now)
                .iter()
                .map(|(from, tariff)| ScheduledTariff {
                    from: *from,
                    tariff: Tariff::clone(tariff),
                })
                .collect(),
        })
        // What was taken back.
        .filter(|at| at.tariff.is_some() || !at.scheduled.is_empty())
        .collect()
}

/// Whether an asker may see a session.
#[must_use]
pub fn may_see(asker: &Asker, session: &Session) -> bool {
    match asker {
        Asker::Driver(driver) => session.driver.as_ref() == Some(driver),
        Asker::Operator(_) => true,
    }
}
