//! A session's way in the log: what was stored about it, under the field `session_id` as in every
//! other program.

use edge_core::effects::{CommandRow, Row};
use ev_contract::{
    codes::Code,
    ids::{CpId, SessionId},
    v1::{EdgeFact, EndReason},
};

/// What a line tells. Readings that come by the minute are left to the ledger.
#[derive(Debug)]
pub enum Step {
    /// A command got its first and only result.
    Answered(SessionId, Box<CommandRow>),
    /// Something happened, under this number of the spool.
    Happened(SessionId, u64, Box<EdgeFact>),
}

/// The steps in what is about to be stored.
pub fn steps(rows: &[Row]) -> Vec<Step> {
    rows.iter()
        .filter_map(|row| match row {
            Row::Command(command) => Some(Step::Answered(
                command.session_id?,
                Box::new(command.clone()),
            )),
            Row::Append(record) if !matches!(record.fact, EdgeFact::Checkpoint { .. }) => {
                Some(Step::Happened(
                    record.fact.session()?,
                    record.seq,
                    Box::new(record.fact.clone()),
                ))
            }
            _ => None,
        })
        .collect()
}

/// Tells of what is stored.
pub fn tell(cp: &CpId, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Answered(session_id, row) => {
                let code = row.code.map(Code::as_str);
                tracing::info!(%session_id, %cp, command_id = %row.command_id,
                    outcome = %row.outcome, code, "command answered");
            }
            Step::Happened(session_id, seq, fact) => happened(cp, session_id, seq, &fact),
        }
    }
}

fn happened(cp: &CpId, session_id: SessionId, seq: u64, fact: &EdgeFact) {
    match fact {
        EdgeFact::Accepted { connector, .. } => {
            tracing::info!(%session_id, %cp, %connector, seq, "session taken");
        }
        EdgeFact::OpenedAtEdge {
            connector, origin, ..
        } => tracing::info!(%session_id, %cp, %connector, %origin, seq, "session opened here"),
        EdgeFact::Started { device_tx, .. } => {
            tracing::info!(%session_id, %cp, device_tx, seq, "energy begins");
        }
        EdgeFact::Phase { phase, .. } => {
            tracing::info!(%session_id, %cp, %phase, seq, "session goes on");
        }
        EdgeFact::EnergyEnded { reason, .. } => {
            let (why, by) = words(reason);
            tracing::info!(%session_id, %cp, why, by, seq, "energy has ended");
        }
        EdgeFact::Ended {
            completed, reason, ..
        } => {
            let (why, by) = words(reason);
            tracing::info!(%session_id, %cp, completed, why, by, seq, "session has ended");
        }
        EdgeFact::Anomaly { what, .. } => {
            tracing::warn!(%session_id, %cp, what, seq, "what cannot be");
        }
        EdgeFact::Checkpoint { .. } | EdgeFact::Connector { .. } | EdgeFact::Booted { .. } => {}
    }
}

fn words(reason: &EndReason) -> (&'static str, &'static str) {
    (reason.code.as_str(), reason.source.as_str())
}
