//! One person at two pages, and at one again.

use anyhow::{Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::{Look, driver_cli};
use ev_testkit::{PATIENCE, wait_for};

use crate::{END, SESSION, Stage, start};

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_make_one_session_and_show_the_same() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    let other = stage.browser.open(&stage.web.url(), Look::DESK).await?;
    let words = start("CP-001");
    // Both are found before either is pressed: afterwards the button is gone.
    let places = (
        stage.page.place("button", &words).await?,
        other.place("button", &words).await?,
    );
    // At the same moment, before either can have heard of the other.
    let (one, two) = tokio::join!(stage.page.press_at(places.0), other.press_at(places.1));
    one.and(two)?;
    for page in [&stage.page, &other] {
        page.one("button", END).await?;
        page.says(SESSION, "charging").await?;
    }
    let session = stage.session().await?;
    let mut watch = driver_cli(&stage.site, "alice")?
        .args(["--driver", "alice", "--json", "watch", &session])
        .spawn()?;
    watch
        .wait_for_log("\"state\":\"charging\"", PATIENCE)
        .await?;
    for page in [&stage.page, &other] {
        page.says(".session .energy", "kWh").await?;
    }
    // What is ended in one has ended in the other, and in the terminal.
    other.press("button", END).await?;
    let ended = stage.alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    for page in [&stage.page, &other] {
        page.says(SESSION, "completed").await?;
        page.none("button", END).await?;
        stage.is_clean(page).await?;
    }
    let status = watch.wait(PATIENCE).await?;
    ensure!(status.success(), "{status}: {}", watch.log());
    ensure!(
        watch.log().contains("\"state\":\"completed\""),
        "{}",
        watch.log()
    );
    ensure!(stage.session().await? == session);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_loaded_again_in_mid_session_shows_that_session() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    let session = stage.charging().await?;
    let first = stage.alice.wait_energy(&session, 100_000).await?;
    stage.page.reload().await?;
    stage.page.one("button", END).await?;
    stage.page.says(SESSION, "charging").await?;
    wait_for("the meter goes on", PATIENCE, async || {
        let view = stage.alice.session(&session).await?;
        ensure!(view.energy_mwh > first.energy_mwh, "{view:?}");
        Ok(())
    })
    .await?;
    stage.page.press("button", END).await?;
    stage.page.says(SESSION, "completed").await?;
    stage.page.reload().await?;
    stage.page.says(SESSION, "completed").await?;
    ensure!(stage.session().await? == session);
    stage.is_clean(&stage.page).await
}
