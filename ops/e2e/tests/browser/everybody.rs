//! For those who use no mouse, see little, have a narrow screen, or a browser without scripts.

use anyhow::{Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::Look;

use crate::{END, SESSION, Stage, is_usable, picture, start};

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_at_any_width_in_light_and_dark_and_for_a_screen_reader() -> Result<()>
{
    let stage = Stage::set(Look::DESK).await?;
    stage.page.one("button", &start("CP-001")).await?;
    is_usable(&stage.page, "before a session").await?;
    let session = stage.charging().await?;
    stage.alice.wait_energy(&session, 100_000).await?;
    is_usable(&stage.page, "while charging").await?;
    stage.page.look(Look::PHONE.dark()).await?;
    picture(&stage.page, "driver-page-phone.png").await?;
    stage.page.press("button", END).await?;
    stage.page.says(SESSION, "completed").await?;
    is_usable(&stage.page, "after a session").await?;
    stage.is_clean(&stage.page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn by_keyboard_alone() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    stage.page.one("button", &start("CP-001")).await?;
    stage.page.tab_to("button", &start("CP-001")).await?;
    stage.page.key("Enter").await?;
    stage.page.one("button", END).await?;
    let session = stage.session().await?;
    stage.alice.wait_phase(&session, Phase::Charging).await?;
    // And who does not look at the screen is told.
    stage.page.says("#said", "CP-001/1: charging").await?;
    stage.page.tab_to("button", END).await?;
    stage.page.key(" ").await?;
    let ended = stage.alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    stage.page.says(SESSION, "completed").await?;
    stage.is_clean(&stage.page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scripts() -> Result<()> {
    let stage = Stage::set(Look::PHONE.without_scripts()).await?;
    stage.page.leave().await?;
    stage.page.press("button", &start("CP-001")).await?;
    stage.page.arrived().await?;
    let session = stage.session().await?;
    stage.alice.wait_phase(&session, Phase::Charging).await?;
    stage.page.reload().await?;
    stage.page.says(SESSION, "charging").await?;
    ensure!(stage.page.overflow().await? <= 0);
    // What was sent is not sent again by loading the page again.
    ensure!(stage.session().await? == session);
    stage.page.leave().await?;
    stage.page.press("button", END).await?;
    stage.page.arrived().await?;
    let ended = stage.alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    stage.page.reload().await?;
    stage.page.says(SESSION, "completed").await?;
    stage.is_clean(&stage.page).await
}
