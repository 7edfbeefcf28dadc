//! For how long a session has been in its phase, and whether that is longer than it can be meant.
//! Nothing is decided by it: somebody should look.

use ev_contract::{connector::Phase, time::UnixMs, v1::Flag};

use crate::model::{Session, Stage};

/// On top of what a start may take: the command's deadline, the wait for a plug, the car.
const PREPARING_SLACK_MS: i64 = 2 * MINUTE_MS;
/// A charge point confirms a stop within seconds. One out of reach does so when it is back, and
/// somebody should know which sessions wait for that.
const STOPPING_MS_MAX: i64 = 5 * MINUTE_MS;
/// Above what it takes to fill 100 kWh at 10 A on one phase, and above what a car waits for cheap
/// hours.
const ENERGY_MS_MAX: i64 = 48 * HOUR_MS;
/// On top of the idle time after which the charge point ends the session.
const IDLE_SLACK_MS: i64 = 10 * MINUTE_MS;

const MINUTE_MS: i64 = 60 * 1_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Since when a session has been in its phase; none once it has ended. Where its charge point is not sure
/// of the time, since when central knows of the session at the earliest.
#[must_use]
pub fn since(session: &Session) -> Option<UnixMs> {
    if matches!(session.phase(), Phase::Stopping) {
        return session.stop.as_ref().map(|stop| stop.at);
    }
    let claimed = match &session.stage {
        Stage::Ordered | Stage::Taken { .. } => Some(session.learned_at),
        Stage::Energy { phase, meter } => {
            // A period begins at each change of phase, and at each quarter hour.
            let of_phase = meter.periods.iter().rev().take_while(|p| p.phase == *phase);
            Some(of_phase.last().map_or(meter.started_at, |p| p.at))
        }
        Stage::Standing {
            energy_ended_at, ..
        } => Some(*energy_ended_at),
        Stage::Ended { .. } => None,
    };
    let unsure = session.flags.contains(&Flag::ClockUnsure);
    claimed.map(|at| {
        if unsure {
            at.max(session.learned_at)
        } else {
            at
        }
    })
}

/// How long a session may be in its phase before somebody should look, in milliseconds.
#[must_use]
pub fn bound_ms(session: &Session) -> i64 {
    match session.phase() {
        Phase::Preparing => {
            session.start_by.ms_since(session.accepted_at).max(0)
                + i64::from(session.plug_wait_s) * 1_000
                + PREPARING_SLACK_MS
        }
        Phase::Stopping => STOPPING_MS_MAX,
        Phase::Idle => i64::from(session.idle_s_max) * 1_000 + IDLE_SLACK_MS,
        Phase::Charging
        | Phase::SuspendedEv
        | Phase::SuspendedEvse
        | Phase::Completed
        | Phase::Failed
        | Phase::Unrecognised => ENERGY_MS_MAX,
    }
}
