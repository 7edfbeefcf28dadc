//! A charge point presents itself.

use std::sync::Arc;

use ev_contract::{
    connector::Service,
    ids::CpId,
    v1::{Boot, SyncRequest},
};

use super::Ctx;
use crate::{
    frame::Write,
    model::{ChargePoint, Enrolment, OtherAgent, Spool},
    tx::Tx,
};

/// Takes what a charge point says of itself. Ends nothing and frees nothing: its word on sessions
/// comes as records and as answers to commands.
///
/// Of several agents with one identity one is obeyed. A restart of its agent replaces it, and so does
/// an agent with a store that was never heard of, as after a new disk. Anything else is a second agent:
/// it is written down and not obeyed.
pub(super) fn present(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, cp: &CpId, sync: &SyncRequest) {
    let before = tx.charge_point(cp);
    let mut boot = sync.boot;
    let mut other = None;
    if let Some(before) = before.as_deref() {
        if !is_obeyed(tx, cp, before, sync) {
            note_other(tx, ctx, cp, before, sync);
            return;
        }
        if before.boot.id == boot.id && before.boot.after == Some(boot.id) {
            // A sync of before the confirmation, that comes late, takes nothing back.
            boot = before.boot;
        }
        other.clone_from(&before.other);
    }
    if before.as_deref().is_none_or(|b| b.epoch != sync.epoch)
        && tx.spool(cp, &sync.epoch).is_none()
    {
        // From here on the store is known: once another has taken its place, it does not return.
        tx.put(Write::Spool(
            cp.clone(),
            sync.epoch.clone(),
            Spool::default(),
        ));
    }
    let present = ChargePoint {
        site: sync.site_id.clone(),
        time_zone: Arc::from(sync.time_zone.as_str()),
        connectors: Arc::from(sync.connectors.as_slice()),
        version: Arc::from(sync.version.as_str()),
        epoch: sync.epoch.clone(),
        boot,
        other,
    };
    if before.is_none() {
        take_over_service(tx, cp, &present);
    }
    if before.as_deref() != Some(&present) {
        tx.put(Write::ChargePoint(cp.clone(), Arc::new(present)));
    }
}

/// Whether who presents itself is the agent that is obeyed, or takes its place.
fn is_obeyed(tx: &mut Tx<'_, '_>, cp: &CpId, before: &ChargePoint, sync: &SyncRequest) -> bool {
    if before.epoch != sync.epoch {
        return tx.spool(cp, &sync.epoch).is_none();
    }
    if before.boot.id == sync.boot.id {
        return true;
    }
    // A store that has yet to write what central has from it was set back.
    let wanted = tx.spool(cp, &sync.epoch).unwrap_or_default().next;
    follows(&before.boot, &sync.boot) && sync.next >= wanted
}

/// Whether a boot is that of the same store after another one: what it says to have followed is
/// that boot, or what that one followed, whose confirmation was lost then.
fn follows(before: &Boot, boot: &Boot) -> bool {
    boot.id == before.id
        || boot.after == Some(before.id)
        || (boot.after == before.after && boot.count > before.count)
}

fn note_other(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    cp: &CpId,
    before: &ChargePoint,
    sync: &SyncRequest,
) {
    let known = before.other.as_deref();
    let same = known.filter(|o| o.epoch == sync.epoch && follows(&o.boot, &sync.boot));
    if same.is_some_and(|o| o.boot.id == sync.boot.id) {
        return;
    }
    let other = OtherAgent {
        epoch: sync.epoch.clone(),
        boot: sync.boot,
        at: same.map_or(ctx.now.wall, |o| o.at),
        next: same.map_or(sync.first, |o| o.next),
        kept: known.map_or(0, |o| o.kept),
    };
    tx.put(Write::ChargePoint(
        cp.clone(),
        Arc::new(ChargePoint {
            other: Some(Box::new(other)),
            ..before.clone()
        }),
    ));
}

/// One that was taken out of service before it was there stays so: on each of its connectors,
/// since that is where service is kept.
fn take_over_service(tx: &mut Tx<'_, '_>, cp: &CpId, present: &ChargePoint) {
    let Some(enrolment) = tx.enrolment(cp).filter(|e| e.out_of_service) else {
        return;
    };
    for spec in present.connectors.iter() {
        let mut connector = tx.connector_to_change(cp, spec.connector);
        if connector.service != Service::Out {
            connector.service = Service::Out;
            connector.service_revision += 1;
            tx.put(Write::Connector(
                cp.clone(),
                spec.connector,
                Arc::new(connector),
            ));
        }
    }
    let enrolment = Enrolment {
        out_of_service: false,
        ..enrolment
    };
    tx.put(Write::Enrolment(cp.clone(), enrolment));
}
