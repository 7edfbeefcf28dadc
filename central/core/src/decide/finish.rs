//! The end of a session, and what comes after it.

use std::sync::Arc;

use ev_contract::{
    time::UnixMs,
    units::{Amount, Mwh},
    v1::{Adjustment, EndReason, Flag, Status},
    wire::Tag,
};

use super::{Ctx, metering::Capability};
use crate::{
    frame::Write,
    model::{Adjustments, Bill, Metering, Session, Stage},
    pricing::{self, Ending},
    tx::Tx,
};

pub(super) struct Ended {
    /// Whether it delivered.
    pub completed: bool,
    pub reason: EndReason,
    pub energy_ended_at: Option<UnixMs>,
    pub ended_at: UnixMs,
    /// How long it stood, as the charge point measured it.
    pub stood_s: Option<u32>,
}

/// Ends an open session: writes its receipt and frees connector and driver. The only place where a
/// session becomes ended.
pub(super) fn finish(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, mut session: Session, ended: Ended) {
    let can = Capability::of(&session, tx.charge_point(&session.cp).as_deref());
    let (meter, ended_by) = match session.stage {
        Stage::Energy { meter, .. } => (Some(meter), None),
        Stage::Standing { meter, reason, .. } => (Some(meter), Some(reason)),
        Stage::Ordered | Stage::Taken { .. } => (None, None),
        Stage::Ended { .. } => return,
    };
    let mut connector = tx.connector_to_change(&session.cp, session.connector);
    connector.receipts += 1;
    connector.open.remove(&session.id);
    let number = format!(
        "{}-{}-{:06}",
        session.cp, session.connector, connector.receipts
    );
    if let Some(id) = session.driver.clone()
        && session.counts
    {
        let mut driver = tx.driver(&id).unwrap_or_default();
        driver.open.remove(&session.id);
        tx.put(Write::Driver(id, driver));
    }
    let started_at = meter.as_ref().map(|m| m.started_at);
    let energy = meter.as_ref().map_or(Mwh(0), Metering::energy);
    // What delivered nothing took no time from another, which may be told later and have begun before.
    if energy > Mwh(0) {
        connector.busy_until = connector
            .busy_until
            .max(can.soonest(session.flows_from, energy));
    }
    // Times come from different clocks; a receipt never ends before it began.
    let energy_ended_at =
        started_at.map(|from| ended.energy_ended_at.unwrap_or(ended.ended_at).max(from));
    let ended_at = ended
        .ended_at
        .max(energy_ended_at.unwrap_or(session.accepted_at));
    let after_s = energy_ended_at.map_or(0, |energy_ended_at| {
        let by_clock = pricing::seconds_between(energy_ended_at, ended_at);
        let most = pricing::seconds_between(session.accepted_at, ended_at.max(ctx.now.wall));
        match ended.stood_s {
            Some(stood_s) => stood_s.min(most),
            // Nobody measured it, and the clock that dated its beginning or its end was not sure.
            None if session.flags.contains(&Flag::ClockUnsure) => 0,
            None => by_clock,
        }
    });
    let received_at = ctx.now.wall;
    let terms = &session.tariff.terms;
    // What ended energy says whether the car stood for the fee, not what ended the session.
    let idle_s = meter.as_ref().map_or(0, |meter| {
        let after = ended_by.as_ref().map(|reason| (after_s, reason));
        pricing::stood_s(terms, meter, after)
    });
    let (meters, periods) = meter.map_or_else(Default::default, |m| (m.spans, m.periods));
    let bill = pricing::bill(
        terms,
        Ending {
            number,
            operator: Arc::clone(&ctx.settings.operator_name),
            status: if ended.completed {
                Status::Completed
            } else {
                Status::Failed
            },
            reason: ended.reason,
            started_at,
            energy_ended_at,
            ended_at,
            idle_s,
            received_at,
            meters,
            periods,
        },
    );
    session.stage = Stage::Ended {
        receipt: Box::new(bill),
    };
    tx.put(Write::Connector(
        session.cp.clone(),
        session.connector,
        Arc::new(connector),
    ));
    tx.put(Write::Session(Arc::new(session)));
}

/// What an adjustment adds.
pub(super) struct Correction<'a> {
    pub by: &'a str,
    pub reason: String,
    pub energy_mwh: i64,
    pub amount: Amount,
}

/// The total of a receipt with what was corrected since.
pub(super) fn total_after(bill: &Bill, adjustments: &Adjustments) -> Amount {
    adjustments.list.last().map_or(bill.total, |a| a.total)
}

/// The energy of a receipt with what was corrected since.
pub(super) fn energy_after(bill: &Bill, adjustments: &Adjustments) -> Mwh {
    let added: i64 = adjustments.list.iter().map(|a| a.energy_mwh).sum();
    Mwh(bill.energy_mwh.0.saturating_add_signed(added))
}

/// Appends an adjustment; the receipt before it stays.
pub(super) fn adjust(
    ctx: Ctx<'_>,
    session: &Session,
    bill: &Bill,
    adjustments: &mut Adjustments,
    correction: Correction<'_>,
) {
    let amount = correction.amount.owed(session.tariff.terms.currency);
    let total = total_after(bill, adjustments);
    let n = u32::try_from(adjustments.list.len())
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    adjustments.list.push(Adjustment {
        tag: Tag::new(),
        number: format!("{}-A{n}", bill.number),
        session_id: session.id,
        n,
        by: correction.by.to_owned(),
        reason: correction.reason,
        at: ctx.now.wall,
        energy_mwh: correction.energy_mwh,
        amount,
        currency: session.tariff.terms.currency,
        total: Amount(total.0 + amount.0),
    });
}

/// Energy as a signed number, for adjustments.
pub(super) fn signed(energy: Mwh) -> i64 {
    i64::try_from(energy.0).unwrap_or(i64::MAX)
}
