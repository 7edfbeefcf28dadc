//! `status`

use super::Ctx;
use crate::{
    args::SessionArg,
    doc::SessionsDoc,
    exit::Exit,
    failure::Failure,
    render::{format, table},
    words,
};

pub(super) async fn status(ctx: &Ctx, args: SessionArg) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    if let Some(text) = args.session {
        let id = ctx.query(desk.resolve(&text)).await?;
        let (view, ts) = ctx.query(desk.session(id)).await?;
        let doc = SessionsDoc::new(std::slice::from_ref(&view), None, ts);
        ctx.output.data(&doc, || table::session(&view))?;
        return Ok(Exit::Ok);
    }
    let reply = ctx.query(desk.open_sessions()).await?;
    if !reply.sessions.is_empty() {
        let doc = SessionsDoc::new(&reply.sessions, None, reply.ts);
        ctx.output
            .data(&doc, || table::sessions(&reply.sessions, None))?;
        return Ok(Exit::Ok);
    }
    // Whoever was away wants to know how it ended.
    let last = ctx
        .query(desk.history_page(None, Some(1)))
        .await?
        .sessions
        .into_iter()
        .find(|s| s.state.is_ended());
    let doc = SessionsDoc::new(&[], None, reply.ts).with_last_ended(last.as_ref());
    if ctx.output.is_json() {
        ctx.output.document(&doc)?;
    }
    ctx.output.message("you have no open session");
    if let Some(last) = last {
        ctx.output.message(&format!(
            "the last one, {} on {}/{}, ended at {}: {} ({})",
            last.session_id,
            last.cp_id,
            last.connector,
            format::local(last.ended_at.unwrap_or(last.accepted_at), &last.time_zone),
            format::phase(&last, last.state),
            words::how_it_ended(&last),
        ));
        ctx.output.message(&format!(
            "  its receipt: {}",
            desk.invocation()
                .line(&format!("receipt {}", last.session_id))
        ));
    }
    Ok(Exit::Ok)
}
