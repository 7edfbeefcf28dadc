//! Charge points are enrolled and revoked. Central is told by whoever keeps the keys, so that it
//! knows a charge point before that connects.

use ev_contract::{ids::CpId, time::UnixMs};

use crate::{frame::Write, model::Enrolment, tx::Tx};

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
        let enrolment = Enrolment {
            at: announced.at,
            revoked: announced.revoked,
            out_of_service: known.is_some_and(|known| known.out_of_service),
        };
        tx.put(Write::Enrolment(cp.clone(), enrolment));
    }
    Ok(())
}
