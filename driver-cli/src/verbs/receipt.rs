//! `receipt`

use super::Ctx;
use crate::{doc::ReceiptDoc, exit::Exit, failure::Failure, render::table};

pub(super) async fn receipt(ctx: &Ctx, session: &str) -> Result<Exit, Failure> {
    let desk = ctx.driver_desk().await?;
    let id = ctx.query(desk.resolve(session)).await?;
    let reply = ctx.query(desk.receipt(id)).await?;
    ctx.output
        .data(&ReceiptDoc::from(&reply), || table::receipt(&reply))?;
    Ok(Exit::Ok)
}
