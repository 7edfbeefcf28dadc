//! A charge point presents itself.

use ev_contract::{ids::CpId, v1::SyncRequest};

use crate::{frame::Write, model::ChargePoint, tx::Tx};

/// Takes what a charge point says of itself. Ends nothing and frees nothing: its word on sessions
/// comes as records and as answers to commands.
pub(super) fn present(tx: &mut Tx<'_, '_>, cp: &CpId, sync: &SyncRequest) {
    let present = ChargePoint {
        site: sync.site_id.clone(),
        time_zone: sync.time_zone.clone(),
        connectors: sync.connectors.clone(),
        version: sync.version.clone(),
        epoch: sync.epoch.clone(),
        sim_speed: sync.sim_speed,
    };
    if tx.charge_point(cp).as_ref() != Some(&present) {
        tx.put(Write::ChargePoint(cp.clone(), present));
    }
}
