//! `list`

use super::Ctx;
use crate::{doc::ListDoc, exit::Exit, failure::Failure, render::table};

pub(super) async fn list(ctx: &Ctx) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    let (listing, ts) = ctx.query(desk.list()).await?;
    if listing.is_empty() {
        ctx.output.message(
            "there is no charge point: none is enrolled, and none has presented itself to central",
        );
        if !ctx.output.is_json() {
            return Ok(Exit::Ok);
        }
    }
    ctx.output.data(&ListDoc::new(&listing, ts), || {
        table::charge_points(&listing)
    })?;
    Ok(Exit::Ok)
}
