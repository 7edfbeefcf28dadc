//! `serve` and `op serve`: pages for browsers.

use std::net::SocketAddr;

use axum::Router;
use serde::Serialize;
use tokio::task::JoinSet;

use super::Ctx;
use crate::{
    args::ServeArgs,
    exit::Exit,
    failure::Failure,
    identity::Who,
    web::{
        driver,
        feed::Feed,
        guard::Names,
        server::{self, Shell},
        wall,
    },
};

/// Where a page is.
#[derive(Debug, Serialize)]
struct ServedDoc {
    url: String,
    who: String,
}

pub(super) async fn driver(ctx: &Ctx, port: u16, args: ServeArgs) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    let driver = ctx.driver()?;
    let feed = Feed::default();
    let mut tasks = JoinSet::new();
    let hub = driver::hub::start(desk.clone(), driver, feed.clone(), &mut tasks);
    let who = desk.who().clone();
    let routes = driver::routes::routes(driver::routes::Page {
        hub,
        feed: feed.clone(),
        desk,
    });
    serve(ctx, port, args, &who, feed, routes, tasks).await
}

pub(super) async fn wall(ctx: &Ctx, port: u16, args: ServeArgs) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    let feed = Feed::default();
    let mut tasks = JoinSet::new();
    let hub = wall::hub::start(desk.clone(), feed.clone(), &mut tasks);
    let who = desk.who().clone();
    let routes = wall::routes::routes(wall::routes::Page {
        hub,
        feed: feed.clone(),
        desk,
    });
    serve(ctx, port, args, &who, feed, routes, tasks).await
}

async fn serve(
    ctx: &Ctx,
    port: u16,
    args: ServeArgs,
    who: &Who,
    feed: Feed,
    routes: Router,
    mut tasks: JoinSet<()>,
) -> Result<Exit, Failure> {
    let listener = server::listen(SocketAddr::new(args.listen, port)).await?;
    let addr = listener.local_addr().map_err(|source| Failure::File {
        doing: "see where the page is".to_owned(),
        hint: "start it again".to_owned(),
        source,
    })?;
    let routes = Shell::new(feed.clone(), Names::new(addr, &args.names)).around(routes);
    if !addr.ip().is_loopback() {
        ctx.output.message(&format!(
            "warning: whoever reaches {addr} acts as {} {}: there is no password, and nothing is \
             encrypted; put a proxy in front that has both, or leave --listen out",
            who.role(),
            who.id()
        ));
    }
    let doc = ServedDoc {
        url: if addr.ip().is_loopback() && addr.is_ipv4() {
            format!("http://localhost:{}", addr.port())
        } else {
            format!("http://{addr}")
        },
        who: who.id().to_owned(),
    };
    ctx.output.data(&doc, || {
        format!("{}  the page of {} {}", doc.url, who.role(), doc.who)
    })?;
    let mut broken = false;
    let stop = async {
        tokio::select! {
            () = ctx.told_to_stop() => {}
            // The hub ends with us; before us only in a panic.
            _ = tasks.join_next() => broken = true,
        }
    };
    server::serve(listener, routes, feed, stop).await;
    if broken {
        return Err(Failure::Other {
            message: "what keeps the page up to date has failed".to_owned(),
            hint: "start it again; this is a defect of this program".to_owned(),
        });
    }
    Ok(Exit::Ok)
}
