//! What central decides by itself.

use std::sync::Arc;

use ev_contract::{
    codes::Code,
    ids::SessionId,
    v1::{EndCode, EndReason, EndSource, Outcome},
};

use super::{
    CommandAnswer, Ctx, Verb,
    finish::{self, Ended},
    intake::confirm_stop,
};
use crate::{
    frame::Write,
    model::{Session, Stage},
    ripe,
    tx::Tx,
};

/// A charge point's answer to a command. It ends a session only where it is the charge point's
/// final word about one that it does not have.
pub(super) fn answered(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, answer: &CommandAnswer) {
    let Some(session) = tx.session(answer.session) else {
        return;
    };
    if session.cp != answer.cp {
        return;
    }
    let ends_something = matches!(
        answer.outcome,
        Outcome::Refused | Outcome::Absent | Outcome::Ended
    );
    // Of two agents with one identity only the one that is obeyed ends something here. What an agent
    // said before it was started anew is asked again.
    if ends_something
        && tx
            .charge_point(&answer.cp)
            .is_none_or(|cp| cp.boot.id != answer.boot)
    {
        return;
    }
    match (answer.verb, answer.outcome) {
        (Verb::Start, Outcome::Refused) => {
            // Under another epoch the charge point cannot know whether it had taken the session.
            let its_word = answer.code != Some(Code::WrongEpoch) && answer.epoch == session.epoch;
            if its_word && matches!(session.stage, Stage::Ordered) {
                let reason = match (&session.stop, answer.code) {
                    (Some(stop), Some(Code::StoppedBeforeStart)) => stop.reason.clone(),
                    _ => EndReason {
                        code: EndCode::Refused,
                        source: EndSource::ChargePoint,
                        raw: answer.raw.clone(),
                        refused: Some(answer.code.unwrap_or(Code::RejectedByCharger)),
                    },
                };
                never_began(tx, ctx, &session, reason);
            }
        }
        (Verb::Stop, Outcome::Absent | Outcome::Ended) if session.is_ended() => {
            confirm_stop(tx, &session.cp, session.connector, session.id);
        }
        (Verb::Stop, Outcome::Absent) => {
            if answer.epoch == session.epoch && matches!(session.stage, Stage::Ordered) {
                let reason = session
                    .stop
                    .as_ref()
                    .map_or(EndReason::new(EndCode::Other, EndSource::Central), |stop| {
                        stop.reason.clone()
                    });
                never_began(tx, ctx, &session, reason);
            }
        }
        // What was taken or ended will be told by records.
        (
            Verb::Start,
            Outcome::Taken
            | Outcome::Ended
            | Outcome::Stopping
            | Outcome::Absent
            | Outcome::Done
            | Outcome::NotYet
            | Outcome::Unrecognised,
        )
        | (
            Verb::Stop,
            Outcome::Taken
            | Outcome::Ended
            | Outcome::Stopping
            | Outcome::Done
            | Outcome::NotYet
            | Outcome::Refused
            | Outcome::Unrecognised,
        ) => {}
    }
}

fn never_began(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, session: &Session, reason: EndReason) {
    finish::finish(
        tx,
        ctx,
        session.clone(),
        Ended {
            completed: false,
            reason,
            energy_ended_at: None,
            ended_at: ctx.now.wall,
            stood_s: None,
        },
    );
}

/// A session whose charge point cannot be reached no longer counts against its driver, if it was
/// stopped or its start is over. It stays open, and does not count again when the charge point is back.
pub(super) fn release(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, id: SessionId) {
    let Some(session) = tx.session(id) else {
        return;
    };
    let may = session.stop.is_some() || ripe::start_is_over(&session, ctx.now.wall);
    if session.is_ended() || !may || !session.counts {
        return;
    }
    let mut session = Session::clone(&session);
    session.counts = false;
    if let Some(driver_id) = session.driver.clone() {
        let mut driver = tx.driver(&driver_id).unwrap_or_default();
        driver.open.remove(&id);
        tx.put(Write::Driver(driver_id, driver));
    }
    tx.put(Write::Session(Arc::new(session)));
}
