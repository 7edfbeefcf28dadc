//! What is logged of a session, so that it can be followed by its id: `session_id`, as in central's log.

use edge_core::effects::Row;
use ev_contract::{
    ids::{CpId, SessionId},
    v1::EdgeFact,
};

/// What a row says of a session; nothing of what comes every minute.
fn told(row: &Row) -> Option<(SessionId, &'static str, String)> {
    let Row::Append(record) = row else {
        return None;
    };
    let (what, detail) = match &record.fact {
        EdgeFact::Accepted { .. } => ("session taken", String::new()),
        EdgeFact::OpenedAtEdge { origin, .. } => ("session began here", origin.to_string()),
        EdgeFact::Started { device_tx, .. } => ("energy began", device_tx.clone()),
        EdgeFact::Phase { phase, .. } => ("session phase", phase.to_string()),
        EdgeFact::EnergyEnded { reason, .. } => ("energy ended", reason.word().to_owned()),
        EdgeFact::Ended { reason, .. } => ("session ended", reason.word().to_owned()),
        EdgeFact::Checkpoint { .. }
        | EdgeFact::Connector { .. }
        | EdgeFact::Booted { .. }
        | EdgeFact::Anomaly { .. } => return None,
    };
    Some((record.fact.session()?, what, detail))
}

/// Says what rows mean to sessions, `stored` once they are on disk.
pub fn tell(cp: &CpId, told: Vec<(SessionId, &'static str, String)>, stored: bool) {
    for (session_id, what, detail) in told {
        tracing::info!(%session_id, %cp, detail, stored, "{what}");
    }
}

/// What is to be said of rows that are about to be stored.
pub fn of(rows: &[Row]) -> Vec<(SessionId, &'static str, String)> {
    rows.iter().filter_map(told).collect()
}
