//! Charge points are enrolled and revoked. Central is told by whoever keeps the keys, so that it
//! knows a charge point before that connects.

use std::sync::Arc;

use ev_contract::{
    ids::{CpId, SiteId},
    time::UnixMs,
};

use crate::{
    frame::Write,
    model::{ChargePoint, Enrolment, Place},
    tx::Tx,
};

/// Charge points that can ever be enrolled. None of them leaves the state; a server takes 20,000
/// connections.
pub const ENROLMENTS_MAX: usize = 100_000;

/// What happened to the credentials of charge points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// When, by the clock of whoever keeps the keys.
    pub at: UnixMs,
    /// Whose.
    pub cps: Vec<CpId>,
    /// They are void; else good.
    pub revoked: bool,
    /// Where they stand; as before where it says nothing.
    pub site: Option<SiteId>,
    /// In which time zone; as before where it says nothing.
    pub time_zone: Option<Arc<str>>,
    /// The most power of each, in kilowatts; as before where it says nothing.
    pub max_kw: Option<u32>,
}

/// There are too many.
pub(super) struct TooMany;

/// Takes all of it or none. What is known, or newer, stays as it is.
pub(super) fn announce(tx: &mut Tx<'_, '_>, announced: &Announcement) -> Result<(), TooMany> {
    let base = tx.base();
    let new = announced
        .cps
        .iter()
        .filter(|cp| base.enrolment(cp).is_none());
    if base.enrolments_len() + new.count() > ENROLMENTS_MAX {
        return Err(TooMany);
    }
    for cp in &announced.cps {
        let known = tx.enrolment(cp);
        if known.as_ref().is_some_and(|known| known.at >= announced.at) {
            continue;
        }
        let mut enrolment = Enrolment {
            at: announced.at,
            revoked: announced.revoked,
            ..known.unwrap_or_default()
        };
        enrolment.max_kw = announced.max_kw.or(enrolment.max_kw);
        put_in_place(
            &mut enrolment,
            announced.at,
            announced.site.as_ref(),
            announced.time_zone.as_ref(),
        );
        write(tx, cp, enrolment);
    }
    Ok(())
}

/// Says where a charge point stands, as far as it is said; nothing where that was said later.
pub(super) fn put_in_place(
    enrolment: &mut Enrolment,
    at: UnixMs,
    site: Option<&SiteId>,
    time_zone: Option<&Arc<str>>,
) {
    if site.is_none() && time_zone.is_none() {
        return;
    }
    let Some(before) = enrolment.place.clone().or_else(Place::unassigned) else {
        return;
    };
    if before.at <= at {
        enrolment.place = Some(Place {
            at,
            site: site.cloned().unwrap_or(before.site),
            time_zone: time_zone.cloned().unwrap_or(before.time_zone),
        });
    }
}

/// Writes it, and its place to the charge point that has presented itself: that is where sessions
/// and prices look.
pub(super) fn write(tx: &mut Tx<'_, '_>, cp: &CpId, enrolment: Enrolment) {
    if let Some(place) = &enrolment.place
        && let Some(present) = tx.charge_point(cp)
        && (&present.site, &present.time_zone) != (&place.site, &place.time_zone)
    {
        let placed = ChargePoint {
            site: place.site.clone(),
            time_zone: Arc::clone(&place.time_zone),
            ..ChargePoint::clone(&present)
        };
        tx.put(Write::ChargePoint(cp.clone(), Arc::new(placed)));
    }
    tx.put(Write::Enrolment(cp.clone(), enrolment));
}
