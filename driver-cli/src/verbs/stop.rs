//! `stop`

use ev_contract::v1::DriverUpdate;

use super::{
    Ctx,
    start::place_of,
    wait::{Until, wait},
};
use crate::{
    args::{StopArgs, StopWait},
    command::Command,
    desk::{Desk, wall_now},
    doc::ActionDoc,
    exit::Exit,
    failure::Failure,
    render::table,
};

pub(super) async fn stop(ctx: &Ctx, args: StopArgs) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    let wish = match &args.session {
        Some(text) => Command::stop(ctx.query(desk.resolve(text)).await?.to_string()),
        None => which_one(ctx, &desk, &args).await?,
    };
    let named = args.repeat.request_id.as_ref();
    let update: DriverUpdate = ctx.carry_out(&desk, &wish, None, named).await?;
    let until = match args.wait {
        StopWait::Accepted => None,
        StopWait::Stopped => Some(Until::Stopped),
        StopWait::Ended => Some(Until::Ended),
    };
    if let (Some(until), Some(session)) = (until, update.session_id) {
        let view = wait(ctx, &desk, session, until, None).await?;
        // A session that is stopped before energy flowed has failed; the stop has not.
        let doc = ActionDoc {
            error: None,
            ..ActionDoc::outcome(&update, &view)
        };
        ctx.output.data(&doc, || table::session(&view))?;
        return Ok(Exit::Ok);
    }
    ctx.output.data(&ActionDoc::answer(&update), || {
        let session = match &wish {
            Command::Stop(request) => request.session_id.as_str(),
            _ => "",
        };
        format!(
            "{}  the stop of session {session}  on {}",
            update.status,
            place_of(&update)
        )
    })?;
    Ok(Exit::Ok)
}

/// Without a session on the line: the stored request that is repeated, else a stop that was never
/// answered (its session may have ended since), else the only open session.
async fn which_one(ctx: &Ctx, desk: &Desk, args: &StopArgs) -> Result<Command, Failure> {
    let is_stop = |command: &Command| matches!(command, Command::Stop(_));
    let stored = match &args.repeat.request_id {
        Some(id) => desk
            .journal()
            .entries()
            .into_iter()
            .map(|entry| entry.command)
            .find(|command| is_stop(command) && command.stamp().0 == id.as_str()),
        None => desk.journal().unanswered(wall_now(), is_stop),
    };
    match (stored, &args.repeat.request_id) {
        (Some(command), _) => Ok(command),
        // The only open session may be another one than it was then.
        (None, Some(id)) if desk.journal().knows(id)? => Err(Failure::usage(
            format!("which session request {id} stops is no longer written down"),
            "name the session too, or leave --request-id out",
        )),
        (None, _) => {
            let only = ctx.query(desk.only_open_session()).await?;
            Ok(Command::stop(only.session_id.to_string()))
        }
    }
}
