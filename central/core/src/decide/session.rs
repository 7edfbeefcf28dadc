//! Starting and stopping.

use std::{collections::BTreeSet, sync::Arc};

use ev_contract::{
    codes::Code,
    connector::{FaultEffect, Phase},
    ids::{ConnectorId, CpId, DriverId, SessionId},
    v1::{EndCode, EndReason, EndSource, Flag, LimitsRequest, Origin, Reach, Tariff, TariffScope},
};

use super::{
    Ctx,
    finish::{self, Ended},
    request::{Ask, Refusal, SeenPrice},
};
use crate::{
    frame::{Kind, Write},
    keys::Asker,
    model::{Answer, ChargePoint, Connector, Session, Stage, StopOrder},
    pricing::{self, LimitProblem},
    tx::Tx,
};

pub(super) struct Start<'a> {
    pub driver: &'a DriverId,
    pub origin: Origin,
    pub cp: &'a CpId,
    pub connector: Option<i64>,
    pub limits: &'a LimitsRequest,
    pub seen: Option<&'a SeenPrice>,
    pub reach: Reach,
    pub json: bool,
}

/// A charge point that has presented itself. One that was enrolled and has not is as good as
/// offline, however long ago that was.
pub(super) fn presented(tx: &mut Tx<'_, '_>, cp: &CpId) -> Result<Arc<ChargePoint>, Refusal> {
    if let Some(present) = tx.charge_point(cp) {
        return Ok(present);
    }
    let code = match tx.enrolment(cp) {
        Some(_) => Code::ChargePointOffline,
        None => Code::UnknownChargePoint,
    };
    Err(Refusal::new(code, cp.as_str()))
}

/// One whose credentials are void cannot be reached, whatever was last heard of it.
fn not_revoked(tx: &mut Tx<'_, '_>, cp: &CpId) -> Result<(), Refusal> {
    // Looked at first, so that starts elsewhere do not rest on it.
    let revoked = tx.base().enrolment(cp).is_some_and(|e| e.value.revoked);
    if revoked && tx.enrolment(cp).is_some_and(|e| e.revoked) {
        return Err(Refusal::new(Code::ChargePointOffline, cp.as_str()));
    }
    Ok(())
}

/// Finds the connector that is meant.
pub(super) fn connector_of(
    cp: &CpId,
    present: &ChargePoint,
    named: Option<i64>,
) -> Result<ConnectorId, Refusal> {
    match named {
        Some(number) => u16::try_from(number)
            .ok()
            .map(ConnectorId)
            .filter(|id| present.connector(*id).is_some())
            .ok_or_else(|| Refusal::new(Code::UnknownConnector, format!("{cp}/{number}"))),
        None => match &*present.connectors {
            [only] => Ok(only.connector),
            _ => Err(Refusal::new(Code::ConnectorRequired, cp.as_str())),
        },
    }
}

/// The tariff that applies at a charge point now: its own, its site's, the default. Each scope that was
/// looked at stands in what the record expects, with all that is scheduled there.
pub(super) fn tariff_at(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    cp: &CpId,
    present: &ChargePoint,
) -> Result<Arc<Tariff>, Refusal> {
    let mut set = |scope| {
        let tariffs = tx.tariff_scope(&scope)?;
        tariffs.at(ctx.now.wall).map(Arc::clone)
    };
    set(TariffScope::ChargePoint(cp.clone()))
        .or_else(|| set(TariffScope::Site(present.site.clone())))
        .or_else(|| set(TariffScope::Default))
        .or_else(pricing::free_tariff)
        .ok_or_else(|| Refusal::new(Code::TariffNotFound, cp.as_str()))
}

pub(super) fn start(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    ask: &Ask,
    start: &Start<'_>,
) -> Result<(Kind, Answer), Refusal> {
    let cp = start.cp;
    let present = presented(tx, cp)?;
    let id = connector_of(cp, &present, start.connector)?;
    let mut driver = tx.driver(start.driver).unwrap_or_default();
    if driver.blocked.is_some() {
        return Err(Refusal::new(Code::DriverBlocked, start.driver.as_str()));
    }
    match start.reach {
        Reach::Offline => return Err(Refusal::new(Code::ChargePointOffline, cp.as_str())),
        Reach::Online | Reach::Unknown | Reach::Unrecognised => {}
    }
    not_revoked(tx, cp)?;
    let mut connector = tx.connector_to_change(cp, id);
    free_for(tx, &connector, start).map_err(|(code, session)| Refusal {
        session,
        ..Refusal::new(code, format!("{cp}/{id}"))
    })?;
    if driver.open.len() >= ctx.settings.sessions_per_driver {
        let refusal = Refusal::new(Code::LimitReached, start.driver.as_str());
        return Err(match driver.open.first() {
            Some(session) => refusal.with(*session),
            None => refusal,
        });
    }
    let tariff = tariff_at(tx, ctx, cp, &present)?;
    as_seen(&tariff, start)?;
    let limits = pricing::limits(start.limits, &tariff.terms).map_err(|problem| match problem {
        LimitProblem::Invalid(what) => Refusal::new(Code::LimitInvalid, what),
        LimitProblem::BelowFee(what) => Refusal::new(Code::LimitBelowFee, what),
        LimitProblem::Currency(what) => Refusal::new(Code::CurrencyMismatch, what),
    })?;

    let now = ctx.now.wall;
    let session = Session {
        id: ctx.session,
        origin: start.origin,
        driver: Some(start.driver.clone()),
        request: Some((ask.asker.clone(), ask.request.clone())),
        token: None,
        cp: cp.clone(),
        connector: id,
        site: present.site.clone(),
        time_zone: Arc::clone(&present.time_zone),
        epoch: present.epoch.clone(),
        idle_s_max: pricing::idle_s_max(&tariff.terms),
        tariff,
        limits,
        accepted_at: now,
        learned_at: now,
        flows_from: now.max(connector.busy_until),
        start_by: now.plus_ms(ctx.settings.start_deadline_ms),
        plug_wait_s: ctx.settings.plug_wait_s,
        stage: Stage::Ordered,
        stop: None,
        counts: true,
        flags: BTreeSet::new(),
        json: start.json,
    };
    connector.open.insert(session.id);
    driver.open.insert(session.id);
    tx.put(Write::Connector(cp.clone(), id, Arc::new(connector)));
    tx.put(Write::Driver(start.driver.clone(), driver));
    let answer = Answer::Started {
        session: session.id,
        cp: cp.clone(),
        connector: id,
    };
    tx.put(Write::Session(Arc::new(session)));
    Ok((Kind::Started, answer))
}

/// Nobody pays another price than the one that was seen.
fn as_seen(tariff: &Arc<Tariff>, start: &Start<'_>) -> Result<(), Refusal> {
    let Some(seen) = start.seen else {
        return Ok(());
    };
    if (&seen.tariff, seen.version) == (&tariff.tariff_id, tariff.version) {
        return Ok(());
    }
    let what = format!(
        "{} version {} at {}, not {} version {}",
        tariff.tariff_id, tariff.version, start.cp, seen.tariff, seen.version
    );
    Err(Refusal {
        tariff: Some(Arc::clone(tariff)),
        ..Refusal::new(Code::PriceChanged, what)
    })
}

/// Whether a connector can take a session of this driver; else why not, and which own one is there.
fn free_for(
    tx: &mut Tx<'_, '_>,
    connector: &Connector,
    start: &Start<'_>,
) -> Result<(), (Code, Option<SessionId>)> {
    for id in &connector.open {
        if tx
            .session(*id)
            .is_some_and(|s| s.driver.as_ref() == Some(start.driver))
        {
            return Err((Code::OccupiedByYou, Some(*id)));
        }
    }
    if !connector.open.is_empty() {
        return Err((Code::Occupied, None));
    }
    if !connector.serves() {
        return Err((Code::OutOfService, None));
    }
    if let Some(reported) = &connector.reported {
        if !reported.charger_online {
            return Err((Code::ChargerOffline, None));
        }
        if let Some(fault) = &reported.fault {
            match fault.effect {
                FaultEffect::Warning => {}
                FaultEffect::Suspends | FaultEffect::Ended | FaultEffect::Unrecognised => {
                    return Err((Code::Faulted, None));
                }
            }
        }
    }
    Ok(())
}

pub(super) fn stop(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    asker: &Asker,
    id: SessionId,
) -> Result<(Kind, Answer), Refusal> {
    let session = tx.session(id).filter(|session| match asker {
        Asker::Driver(driver) => session.driver.as_ref() == Some(driver),
        Asker::Operator(_) => true,
    });
    // A foreign session answers exactly as one that never was.
    let Some(session) = session else {
        return Err(Refusal::new(Code::SessionNotFound, id.to_string()));
    };
    order_stop(
        tx,
        ctx,
        &session,
        EndReason::new(EndCode::Driver, EndSource::Driver),
    )
}

fn order_stop(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    session: &Session,
    reason: EndReason,
) -> Result<(Kind, Answer), Refusal> {
    let answer = Answer::Stopping {
        session: session.id,
        cp: session.cp.clone(),
        connector: session.connector,
    };
    if session.is_ended() {
        return Err(Refusal::new(Code::SessionEnded, session.id.to_string()).with(session.id));
    }
    if session.stop.is_none() {
        let mut session = session.clone();
        session.stop = Some(StopOrder {
            reason,
            at: ctx.now.wall,
        });
        tx.put(Write::Session(Arc::new(session)));
    }
    Ok((Kind::Stopping, answer))
}

pub(super) fn end(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    id: SessionId,
    words: &str,
    write_off: bool,
) -> Result<(Kind, Answer), Refusal> {
    if words.trim().is_empty() {
        return Err(Refusal::new(Code::ReasonRequired, "ending a session"));
    }
    let Some(session) = tx.session(id) else {
        return Err(Refusal::new(Code::SessionNotFound, id.to_string()));
    };
    let reason = |code| EndReason {
        code,
        source: EndSource::Operator,
        raw: Some(words.to_owned()),
        refused: None,
    };
    if !write_off {
        return order_stop(tx, ctx, &session, reason(EndCode::Operator));
    }
    if session.is_ended() {
        return Err(Refusal::new(Code::SessionEnded, id.to_string()).with(id));
    }
    let mut session = Session::clone(&session);
    session.flags.insert(Flag::WrittenOff);
    if session.stop.is_none() {
        session.stop = Some(StopOrder {
            reason: reason(EndCode::Operator),
            at: ctx.now.wall,
        });
    }
    let (cp, place) = (session.cp.clone(), session.connector);
    let energy_ended_at = match &session.stage {
        Stage::Energy { meter, .. } => Some(meter.last_at),
        Stage::Standing {
            energy_ended_at, ..
        } => Some(*energy_ended_at),
        Stage::Ordered | Stage::Taken { .. } | Stage::Ended { .. } => None,
    };
    finish::finish(
        tx,
        ctx,
        session,
        Ended {
            completed: energy_ended_at.is_some(),
            reason: reason(EndCode::WrittenOff),
            energy_ended_at,
            // Standing is not charged for while nobody can say whether the car still stands.
            ended_at: energy_ended_at.unwrap_or(ctx.now.wall),
            stood_s: None,
        },
    );
    let mut connector = tx.connector_to_change(&cp, place);
    connector.standing_stops.insert(id);
    tx.put(Write::Connector(cp, place, Arc::new(connector)));
    Ok((
        Kind::Operated,
        Answer::Done {
            session: Some(id),
            detail: "written off with the last known reading; the stop stands until the charge point confirms".into(),
        },
    ))
}

/// The phases that a charge point may report while a session is open. Anything else is no phase
/// of an open session and changes nothing: an end is never inferred.
pub(super) const fn open_phase(phase: Phase) -> Option<Phase> {
    match phase {
        Phase::Preparing | Phase::Charging | Phase::SuspendedEv | Phase::SuspendedEvse => {
            Some(phase)
        }
        Phase::Stopping | Phase::Idle | Phase::Completed | Phase::Failed | Phase::Unrecognised => {
            None
        }
    }
}
