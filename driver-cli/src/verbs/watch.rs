//! `watch`

use std::{
    io::{self, IsTerminal},
    ops::ControlFlow,
};

use ev_contract::ids::SessionId;

use super::{
    Ctx,
    wait::{left_running, listing_of},
};
use crate::{
    args::SessionArg,
    desk::Desk,
    doc::EventDoc,
    exit::Exit,
    failure::Failure,
    follow::{Followed, Patience, follow},
    render::{progress::Progress, table},
    watch::News,
};

pub(super) async fn watch(ctx: &Ctx, args: SessionArg) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    let session = match args.session {
        Some(text) => ctx.query(desk.resolve(&text)).await?,
        None => ctx.query(desk.only_open_session()).await?.session_id,
    };
    if ctx.output.is_json() {
        let mut show = |news: &News| match EventDoc::news(news) {
            Some(doc) => ctx.output.document(&doc),
            None => Ok(()),
        };
        let view = see_it_through(ctx, &desk, session, &mut show).await?;
        ctx.output.document(&EventDoc::ended(&view))?;
        return Ok(Exit::Ok);
    }
    let tariff = ctx
        .query(async {
            let (view, _) = desk.session(session).await?;
            Ok(listing_of(&desk, view.cp_id.as_str()).await)
        })
        .await?
        .map(|cp| cp.tariff);
    // The redrawn line needs a terminal, and whoever reads a pipe reads stdout.
    let watched = io::stdout().is_terminal() && ctx.output.stderr_is_terminal();
    let mut progress = if watched {
        Progress::new(ctx.output, tariff)
    } else {
        Progress::lines(ctx.output, tariff)
    };
    let mut show = |news: &News| progress.show(news);
    let view = see_it_through(ctx, &desk, session, &mut show).await?;
    progress.clear();
    ctx.output.text(&table::session(&view))?;
    ctx.output.message(&format!(
        "  its receipt: {}",
        desk.invocation().line(&format!("receipt {session}"))
    ));
    Ok(Exit::Ok)
}

async fn see_it_through(
    ctx: &Ctx,
    desk: &Desk,
    session: SessionId,
    show: &mut impl FnMut(&News) -> Result<(), Failure>,
) -> Result<ev_contract::v1::SessionView, Failure> {
    let driver = ctx.driver()?;
    let mut unwritten = None;
    let followed = ctx
        .unless_interrupted(
            follow(
                desk,
                &driver,
                session,
                Patience::FirstAnswer,
                |news| match show(news) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(failure) => {
                        unwritten = Some(failure);
                        ControlFlow::Break(())
                    }
                },
            ),
            || left_running(desk, session),
        )
        .await?;
    match followed {
        Followed::Ended(view) => Ok(*view),
        Followed::Enough => Err(unwritten.unwrap_or(Failure::BrokenPipe)),
    }
}
