//! What is due: what may leave the state, and what no longer counts. Chosen here from a state and a
//! clock; decided and written like anything else.

use ev_contract::{
    ids::{CpId, SessionId},
    time::UnixMs,
};

use crate::{
    frame::Forget,
    model::{Answer, Horizon, Stage},
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
            Stage::Ended { receipt } => receipt.ended_at <= sessions_until && copied(s.id),
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

/// Sessions that were stopped longer than `after_ms` ago at charge points which are `silent`: they
/// no longer count against their drivers.
pub fn to_release(
    state: &State,
    after_ms: i64,
    now: UnixMs,
    silent: impl Fn(&CpId) -> bool,
) -> Vec<SessionId> {
    state
        .open_sessions()
        .map(|entry| &entry.value)
        .filter(|s| s.counts)
        .filter(|s| {
            s.stop
                .as_ref()
                .is_some_and(|stop| now.ms_since(stop.at) > after_ms)
        })
        .filter(|s| silent(&s.cp))
        .map(|s| s.id)
        .collect()
}
