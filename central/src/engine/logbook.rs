//! A session's way in the log: one line for each phase, under the same field in every program, so
//! that `session_id` finds them all. Each replica tells of what it wrote itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use central_core::model::{Session, Stage};
use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::{CpId, SessionId},
    v1::CommandReply,
};

/// Lines a second. A line costs as much as a decision: a crowd must not wait for the log. What is
/// left out is counted, and stands in the ledger all the same.
const LINES_A_SECOND: u32 = 100;

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Logbook {
    /// The phase of each open session. Bounded like the sessions of the state.
    phases: BTreeMap<SessionId, Phase>,
    budget: Budget,
}

impl Logbook {
    /// A session was written at `position`; `mine` when by this replica's own frame.
    pub(super) fn written(&mut self, session: &Session, position: u64, mine: bool, now: Instant) {
        let phase = session.phase();
        let before = if session.is_ended() {
            self.phases.remove(&session.id)
        } else {
            self.phases.insert(session.id, phase)
        };
        if before == Some(phase) || !mine || !self.may_tell(now) {
            return;
        }
        let (session_id, cp, connector) = (session.id, &session.cp, session.connector);
        let reason = match &session.stage {
            Stage::Ended { receipt } => Some(&receipt.end),
            Stage::Standing { reason, .. } => Some(reason),
            Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. } => {
                session.stop.as_ref().map(|stop| &stop.reason)
            }
        };
        let (why, by) = (
            reason.map(|reason| reason.code.as_str()),
            reason.map(|reason| reason.source.as_str()),
        );
        tracing::info!(%session_id, %cp, %connector, %phase, why, by, position, "session written");
    }

    /// A command of a session was answered.
    pub(super) fn answered(
        &mut self,
        session_id: SessionId,
        cp: &CpId,
        verb: &str,
        answer: &CommandReply,
        now: Instant,
    ) {
        if self.may_tell(now) {
            let code = answer.code.map(Code::as_str);
            tracing::info!(%session_id, %cp, verb, outcome = %answer.outcome, code, "charge point answered");
        }
    }

    /// A receipt, or an adjustment of one, is in the CDR stream.
    pub(super) fn copied(&mut self, session_id: SessionId, adjustment: Option<u32>, now: Instant) {
        if self.may_tell(now) {
            tracing::info!(%session_id, adjustment, "receipt written");
        }
    }

    /// Whether a line more may be written.
    fn may_tell(&mut self, now: Instant) -> bool {
        if let Some(left_out) = self.budget.turn(now) {
            tracing::warn!(
                left_out,
                "more lines about sessions than the log may take; the ledger has them all"
            );
        }
        self.budget.take()
    }
}

/// So many a second.
#[derive(Debug, Default)]
struct Budget {
    since: Option<Instant>,
    taken: u32,
    left_out: u64,
}

impl Budget {
    /// Begins a new second where it is time; what was left out in the last one.
    fn turn(&mut self, now: Instant) -> Option<u64> {
        if self
            .since
            .is_some_and(|since| now.duration_since(since) < Duration::from_secs(1))
        {
            return None;
        }
        self.since = Some(now);
        self.taken = 0;
        Some(std::mem::take(&mut self.left_out)).filter(|n| *n > 0)
    }

    fn take(&mut self) -> bool {
        if self.taken >= LINES_A_SECOND {
            self.left_out += 1;
            return false;
        }
        self.taken += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_budget_lines_are_counted_and_the_next_second_tells() {
        let mut budget = Budget::default();
        let begin = Instant::now();
        assert_eq!(budget.turn(begin), None);
        let told = (0..LINES_A_SECOND + 7).filter(|_| budget.take()).count();
        assert_eq!(told, LINES_A_SECOND as usize);
        assert_eq!(budget.turn(begin + Duration::from_millis(999)), None);
        assert!(!budget.take());
        assert_eq!(budget.turn(begin + Duration::from_secs(1)), Some(8));
        assert!(budget.take());
        assert_eq!(budget.turn(begin + Duration::from_secs(2)), None);
    }
}
