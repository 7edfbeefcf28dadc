//! What operators change.

use std::sync::Arc;

use ev_contract::{
    codes::Code,
    connector::Service,
    ids::{ConnectorId, CpId, DriverId, SessionId, SiteId, TariffId},
    time::UnixMs,
    units::Amount,
    v1::{Tariff, TariffScope, TariffTerms},
};
use rust_decimal::Decimal;

use super::{
    Ctx, enrolment,
    finish::{self, Correction},
    request::{Act, Refusal},
    session::{connector_of, presented},
};
use crate::{
    frame::{Kind, Write},
    keys::Asker,
    model::{Answer, ChargePoint, ScopeTariffs, Stage},
    pricing,
    tx::Tx,
};

fn done(detail: impl Into<String>) -> (Kind, Answer) {
    (
        Kind::Operated,
        Answer::Done {
            session: None,
            detail: detail.into(),
        },
    )
}

pub(super) fn adjust(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    asker: &Asker,
    id: SessionId,
    amount: Amount,
    reason: &str,
) -> Result<(Kind, Answer), Refusal> {
    if reason.trim().is_empty() {
        return Err(Refusal::new(Code::ReasonRequired, "an adjustment"));
    }
    let Some(session) = tx.session(id) else {
        return Err(Refusal::new(Code::SessionNotFound, id.to_string()));
    };
    let Stage::Ended { receipt } = &session.stage else {
        return Err(Refusal::new(Code::SessionOpen, id.to_string()).with(id));
    };
    let mut adjustments = Arc::unwrap_or_clone(tx.adjustments(id).unwrap_or_default());
    let total = finish::total_after(receipt, &adjustments);
    let currency = session.tariff.terms.currency;
    if amount.0.is_zero() {
        return Err(Refusal::new(Code::AmountInvalid, amount.to_string()));
    }
    if !amount.is_payable(currency) {
        return Err(Refusal::new(
            Code::AmountInvalid,
            format!(
                "{amount}, and {currency} has {} decimals",
                currency.decimals()
            ),
        ));
    }
    if total.0 + amount.0 < Decimal::ZERO {
        return Err(Refusal::new(
            Code::AmountInvalid,
            format!("{amount} with a total of {total}"),
        ));
    }
    finish::adjust(
        ctx,
        &session,
        receipt,
        &mut adjustments,
        Correction {
            by: asker.as_str(),
            reason: reason.to_owned(),
            energy_mwh: 0,
            amount,
        },
    );
    let detail = format!(
        "the total is {} {currency}",
        finish::total_after(receipt, &adjustments),
    );
    tx.put(Write::Adjustments(id, Arc::new(adjustments)));
    Ok((
        Kind::Operated,
        Answer::Done {
            session: Some(id),
            detail,
        },
    ))
}

/// The connectors that are meant: one, or all.
fn connectors_of(
    cp: &CpId,
    present: &ChargePoint,
    named: Option<i64>,
) -> Result<Vec<ConnectorId>, Refusal> {
    match named {
        Some(_) => connector_of(cp, present, named).map(|id| vec![id]),
        None => Ok(present.connectors.iter().map(|c| c.connector).collect()),
    }
}

pub(super) fn service(
    tx: &mut Tx<'_, '_>,
    cp: &CpId,
    named: Option<i64>,
    serve: bool,
) -> Result<(Kind, Answer), Refusal> {
    let wanted = if serve { Service::In } else { Service::Out };
    let Some(present) = tx.charge_point(cp) else {
        return service_from_the_first(tx, cp, named, serve);
    };
    for id in connectors_of(cp, &present, named)? {
        let mut connector = tx.connector_to_change(cp, id);
        if connector.service != wanted {
            connector.service = wanted;
            connector.service_revision += 1;
            tx.put(Write::Connector(cp.clone(), id, Arc::new(connector)));
        }
    }
    Ok(done(if serve {
        format!("{cp} is in service")
    } else {
        format!("{cp} is out of service; a running session goes on to its end")
    }))
}

/// Of a charge point that was enrolled and has not presented itself yet: nobody knows which
/// connectors it has, so that all are meant or none.
fn service_from_the_first(
    tx: &mut Tx<'_, '_>,
    cp: &CpId,
    named: Option<i64>,
    serve: bool,
) -> Result<(Kind, Answer), Refusal> {
    let Some(mut enrolment) = tx.enrolment(cp) else {
        return Err(Refusal::new(Code::UnknownChargePoint, cp.as_str()));
    };
    if let Some(number) = named {
        return Err(Refusal::new(
            Code::UnknownConnector,
            format!("{cp}/{number}"),
        ));
    }
    if enrolment.out_of_service == serve {
        enrolment.out_of_service = !serve;
        tx.put(Write::Enrolment(cp.clone(), enrolment));
    }
    Ok(done(if serve {
        format!("{cp} is in service as soon as it connects")
    } else {
        format!("{cp} is out of service, also when it connects")
    }))
}

/// Says where a charge point stands.
pub(super) fn site(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    cp: &CpId,
    site: &SiteId,
    time_zone: Option<&str>,
) -> Result<(Kind, Answer), Refusal> {
    let known = tx.enrolment(cp);
    if known.is_none() && tx.charge_point(cp).is_none() {
        return Err(Refusal::new(Code::UnknownChargePoint, cp.as_str()));
    }
    let before = known.unwrap_or_default();
    let mut enrolment = before.clone();
    // It holds whatever the clock of whoever said it before.
    let said_at = before.place.as_ref().map_or(UnixMs(0), |place| place.at);
    let at = ctx.now.wall.max(said_at);
    enrolment::put_in_place(
        &mut enrolment,
        at,
        Some(site),
        time_zone.map(Arc::from).as_ref(),
    );
    let zone = enrolment
        .place
        .as_ref()
        .map(|place| Arc::clone(&place.time_zone));
    enrolment::write(tx, cp, enrolment);
    Ok(done(format!(
        "{cp} stands at {site} ({}); sessions that have begun keep their site",
        zone.as_deref().unwrap_or_default()
    )))
}

pub(super) fn act(
    tx: &mut Tx<'_, '_>,
    cp: &CpId,
    named: Option<i64>,
    act: Act,
) -> Result<(Kind, Answer), Refusal> {
    let present = presented(tx, cp)?;
    Ok(done(match act {
        Act::Unlock => format!("unlock {cp}/{}", connector_of(cp, &present, named)?),
        Act::Reset => format!("reset {cp}"),
    }))
}

pub(super) fn block(
    tx: &mut Tx<'_, '_>,
    id: &DriverId,
    reason: Option<&String>,
) -> Result<(Kind, Answer), Refusal> {
    let mut driver = tx.driver(id).unwrap_or_default();
    if reason.is_some_and(|r| r.trim().is_empty()) {
        return Err(Refusal::new(Code::ReasonRequired, "blocking a driver"));
    }
    if driver.blocked.as_ref() != reason {
        driver.blocked = reason.cloned();
        tx.put(Write::Driver(id.clone(), driver));
    }
    Ok(done(if reason.is_some() {
        format!("{id} is blocked; a running session goes on")
    } else {
        format!("{id} is not blocked")
    }))
}

/// How far ahead a tariff may be scheduled: five years. Further is a slip of the keyboard.
const SCHEDULE_AHEAD_MS_MAX: i64 = 5 * 366 * 24 * 3_600_000;

pub(super) fn set_tariff(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    id: &TariffId,
    scope: &TariffScope,
    from: Option<UnixMs>,
    terms: &TariffTerms,
) -> Result<(Kind, Answer), Refusal> {
    let invalid = |why: String| Refusal::new(Code::TariffInvalid, why);
    let now = ctx.now.wall;
    pricing::check_terms(terms).map_err(invalid)?;
    if let TariffScope::ChargePoint(cp) = scope
        && tx.charge_point(cp).is_none()
        && tx.enrolment(cp).is_none()
    {
        return Err(Refusal::new(Code::UnknownChargePoint, cp.as_str()));
    }
    if from.is_some_and(|from| from <= now) {
        return Err(invalid(
            "from lies in the past: leave it out for from now on".into(),
        ));
    }
    if from.is_some_and(|from| from.ms_since(now) > SCHEDULE_AHEAD_MS_MAX) {
        return Err(invalid("from lies more than five years ahead".into()));
    }
    let version = tx.tariff(id).map_or(1, |tariff| tariff.version + 1);
    let tariff = Arc::new(Tariff {
        tariff_id: id.clone(),
        version,
        terms: terms.clone(),
    });
    let mut tariffs = tx
        .tariff_scope(scope)
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    tx.put(Write::Tariff(Arc::clone(&tariff)));
    let mut detail = format!("{id} version {version}");
    match from {
        None => {
            tariffs.set(now, Some(tariff));
            if let Some((_, next)) = tariffs.to_come(now).first() {
                detail.push_str(&format!(
                    " until {} version {} that is scheduled",
                    next.tariff_id, next.version
                ));
            }
        }
        Some(from) => {
            tariffs.settle(now.plus_ms(-SETTLED_MS));
            tariffs.schedule(from, tariff);
            if tariffs.scheduled.len() > ScopeTariffs::SCHEDULED_MAX {
                return Err(invalid(format!(
                    "{} versions are scheduled there already: `op tariff rm --scheduled` takes them back",
                    ScopeTariffs::SCHEDULED_MAX
                )));
            }
            detail.push_str(", scheduled");
        }
    }
    tx.put(Write::TariffScope(scope.clone(), Arc::new(tariffs)));
    Ok(done(detail))
}

/// A version whose time came so long ago is what applies on every replica, however its clock goes: one
/// that is further off is not ready.
const SETTLED_MS: i64 = 3_600_000;

pub(super) fn remove_tariff(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    scope: &TariffScope,
    scheduled_only: bool,
) -> Result<(Kind, Answer), Refusal> {
    let now = ctx.now.wall;
    let mut tariffs = tx
        .tariff_scope(scope)
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default();
    let (applied, to_come) = (tariffs.at(now).cloned(), tariffs.to_come(now).len());
    let nothing = to_come == 0 && (scheduled_only || applied.is_none());
    if nothing {
        return Err(Refusal::new(
            Code::TariffNotFound,
            format!(
                "{} for {scope}",
                if scheduled_only { "scheduled" } else { "set" }
            ),
        ));
    }
    let mut words = Vec::new();
    if scheduled_only {
        tariffs.set(now, applied);
    } else {
        words.extend(applied.map(|tariff| {
            format!(
                "{} version {} no longer applies for {scope}",
                tariff.tariff_id, tariff.version
            )
        }));
        tariffs.set(now, None);
    }
    if to_come > 0 {
        words.push(format!("{to_come} scheduled for {scope} taken back"));
    }
    tariffs.scheduled.clear();
    tx.put(Write::TariffScope(scope.clone(), Arc::new(tariffs)));
    Ok(done(words.join("; ")))
}
