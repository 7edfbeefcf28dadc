//! What the page says while something cannot be reached, and that it catches up by itself.

use anyhow::{Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::Look;

use crate::{END, SESSION, Stage, start};

#[tokio::test(flavor = "multi_thread")]
async fn central_is_killed_and_comes_back_while_somebody_watches() -> Result<()> {
    let mut stage = Stage::set(Look::DESK).await?;
    let session = stage.charging().await?;
    let before = stage.alice.wait_energy(&session, 1_000).await?;
    stage.site.centrals[0].kill9()?;
    stage
        .page
        .says("#link", "central cannot be reached")
        .await?;
    // What goes on meanwhile: the car charges, and the page still shows its session.
    stage.page.says(SESSION, "charging").await?;
    stage.site.central_again(0).await?;
    stage.page.says_no_more("cannot be reached").await?;
    let more = before.energy_mwh.0 + 1_000;
    stage.alice.wait_energy(&session, more).await?;
    stage.page.press("button", END).await?;
    stage.page.says(SESSION, "completed").await?;
    ensure!(stage.session().await? == session);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cabinet_is_cut_off_and_comes_back_while_somebody_watches() -> Result<()> {
    let mut stage = Stage::set(Look::DESK).await?;
    let session = stage.charging().await?;
    let before = stage.alice.wait_energy(&session, 1_000).await?;
    stage.site.uplink.cut().await;
    stage
        .page
        .says(".session", "the charge point cannot be reached")
        .await?;
    // An end is taken all the same, and shown as pending until the cabinet has confirmed.
    stage.page.press("button", END).await?;
    stage.alice.wait_phase(&session, Phase::Stopping).await?;
    stage
        .page
        .says(".session", "the stop waits until the charge point confirms")
        .await?;
    stage.site.uplink.heal().await?;
    let ended = stage.alice.wait_ended(&session).await?;
    ensure!(ended.energy_mwh > before.energy_mwh, "{ended:?}");
    stage.page.says(SESSION, "completed").await?;
    stage.page.says_no_more("cannot be reached").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_outlives_the_server_that_serves_it() -> Result<()> {
    let mut stage = Stage::set(Look::DESK).await?;
    let session = stage.charging().await?;
    stage.web.process.kill9()?;
    stage
        .page
        .says("#lost", "own server cannot be reached")
        .await?;
    stage.web.process.restart()?;
    stage.web.wait_shows("itself", |_| true).await?;
    stage.page.says_no_more("cannot be reached").await?;
    stage.page.press("button", END).await?;
    stage.page.says(SESSION, "completed").await?;
    ensure!(stage.session().await? == session);
    stage.site.ctl(&["unplug", "CP-001"]).await?;
    stage.page.one("button", &start("CP-001")).await?;
    Ok(())
}
