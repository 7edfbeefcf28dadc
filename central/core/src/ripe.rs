//! What is due: what may leave the state, and what no longer counts. Chosen here from a state and a
//! clock; decided and written like anything else.

use ev_contract::{
    ids::{CpId, SessionId},
    limits::CLOCK_TOLERANCE_MS,
    time::UnixMs,
};

use crate::{
    frame::Forget,
    model::{Answer, Horizon, Session, Stage},
    state::State,
};

/// Ended sessions that leave the state in one record.
pub const FORGET_SESSIONS_MAX: usize = 1_000;

/// For how long things stay in the state, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Refusals, after their requests have expired.
    pub refusals_ms: i64,
    /// Other answers, after their requests have expired; at least as long as refusals.
    pub answers_ms: i64,
    /// Sessions, after they have ended.
    pub sessions_ms: i64,
}

/// What may leave the state at `now`; none when nothing may. `copied` tells whether all that is to
/// be in the CDR stream of a session is there.
pub fn to_forget(
    state: &State,
    keep: Keep,
    now: UnixMs,
    copied: impl Fn(SessionId) -> bool,
) -> Option<Forget> {
    let horizon = Horizon {
        until: now.plus_ms(-keep.refusals_ms),
    };
    let others_until = now.plus_ms(-keep.answers_ms);
    let sessions_until = now.plus_ms(-keep.sessions_ms);
    let old_requests = state.requests().any(|request| {
        let until = match request.answer {
            Answer::Refused { .. } => horizon.until,
            Answer::Started { .. } | Answer::Stopping { .. } | Answer::Done { .. } => others_until,
        };
        request.expires_at <= until
    });
    let sessions: Vec<_> = state
        .sessions_oldest_first()
        .filter(|s| match &s.stage {
            Stage::Ended { receipt } => receipt.received_at <= sessions_until && copied(s.id),
            Stage::Ordered
            | Stage::Taken { .. }
            | Stage::Energy { .. }
            | Stage::Standing { .. } => false,
        })
        .filter(|s| {
            // Its stop stands: the record of it is needed.
            state
                .connector_at(&s.cp, s.connector)
                .is_none_or(|c| !c.value.standing_stops.contains(&s.id))
        })
        .take(FORGET_SESSIONS_MAX)
        .map(|s| s.id)
        .collect();
    (old_requests || !sessions.is_empty()).then(|| Forget {
        horizon,
        others_until,
        before: state.basis().seq,
        sessions,
    })
}

/// After a start's deadline, when no charge point takes it any more, by the clock of whichever
/// replica it learned the time from: two replicas that answer are so far apart at most.
const START_OVER_MS: i64 = 2 * CLOCK_TOLERANCE_MS;

/// Whether a charge point refuses the start of a session by now, if it has not taken it.
#[must_use]
pub fn start_is_over(session: &Session, now: UnixMs) -> bool {
    matches!(session.stage, Stage::Ordered) && now.ms_since(session.start_by) > START_OVER_MS
}

/// Sessions that no longer count against their drivers, since their charge points cannot say what
/// became of them: those that were never taken, once their start is over, and those that were stopped
/// longer than `after_ms` ago. `silent_ms` is for how long a charge point has been out of reach; none
/// while it is in reach, or while that is not known.
pub fn to_release(
    state: &State,
    after_ms: i64,
    now: UnixMs,
    silent_ms: impl Fn(&CpId) -> Option<i64>,
) -> Vec<SessionId> {
    state
        .open_sessions()
        .map(|entry| &entry.value)
        .filter(|s| s.counts)
        .filter(|s| {
            let stopped_long_ago = s
                .stop
                .as_ref()
                .is_some_and(|stop| now.ms_since(stop.at) > after_ms);
            if !stopped_long_ago && !start_is_over(s, now) {
                return false;
            }
            // Under another epoch the charge point never says anything about it.
            let replaced = state
                .charge_point(&s.cp)
                .is_some_and(|cp| cp.value.epoch != s.epoch);
            replaced
                || silent_ms(&s.cp).is_some_and(|silent| start_is_over(s, now) || silent > after_ms)
        })
        .map(|s| s.id)
        .collect()
}
