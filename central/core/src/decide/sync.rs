//! A charge point presents itself.

use std::sync::Arc;

use ev_contract::{connector::Service, ids::CpId, v1::SyncRequest};

use crate::{
    frame::Write,
    model::{ChargePoint, Enrolment},
    tx::Tx,
};

/// Takes what a charge point says of itself. Ends nothing and frees nothing: its word on sessions
/// comes as records and as answers to commands.
pub(super) fn present(tx: &mut Tx<'_, '_>, cp: &CpId, sync: &SyncRequest) {
    let present = ChargePoint {
        site: sync.site_id.clone(),
        time_zone: Arc::from(sync.time_zone.as_str()),
        connectors: Arc::from(sync.connectors.as_slice()),
        version: Arc::from(sync.version.as_str()),
        epoch: sync.epoch.clone(),
    };
    let before = tx.charge_point(cp);
    if before.is_none() {
        take_over_service(tx, cp, &present);
    }
    if before.as_deref() != Some(&present) {
        tx.put(Write::ChargePoint(cp.clone(), Arc::new(present)));
    }
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
