//! `history`

use super::Ctx;
use crate::{args::HistoryArgs, doc::SessionsDoc, exit::Exit, failure::Failure, render::table};

pub(super) async fn history(ctx: &Ctx, args: HistoryArgs) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    let wanted = usize::try_from(args.rows).unwrap_or(usize::MAX);
    let mut sessions = Vec::new();
    let mut next = match args.before {
        Some(text) => Some(ctx.query(desk.resolve(&text)).await?.to_string()),
        None => None,
    };
    let ts = loop {
        let missing = u32::try_from(wanted - sessions.len()).unwrap_or(u32::MAX);
        let page = ctx.query(desk.history_page(next, Some(missing))).await?;
        let grew = !page.sessions.is_empty();
        sessions.extend(page.sessions);
        next = page.next;
        // A peer may give fewer rows than asked for, and a faulty one none at all.
        if sessions.len() >= wanted || next.is_none() || !grew {
            break page.ts;
        }
    };
    if sessions.len() > wanted {
        sessions.truncate(wanted);
        next = sessions.last().map(|s| s.session_id.to_string());
    }
    let doc = SessionsDoc::new(&sessions, next.clone(), ts);
    if sessions.is_empty() && !ctx.output.is_json() {
        ctx.output.message("you have no sessions");
        return Ok(Exit::Ok);
    }
    ctx.output.data(&doc, || table::sessions(&sessions, None))?;
    if let Some(before) = next {
        ctx.output.message(&format!(
            "older ones: {}",
            desk.invocation()
                .line(&format!("history --before {before}"))
        ));
    }
    Ok(Exit::Ok)
}
