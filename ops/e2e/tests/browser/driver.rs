//! One person at one page.

use anyhow::{Result, ensure};
use ev_contract::{connector::Phase, v1::EndCode};
use ev_e2e::Look;

use crate::{END, SESSION, Stage, picture, place, start};

/// Enough that the curve and the costs have something to show.
const SOME_MWH: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_the_first_click_until_the_charge_point_is_free_again() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    let Stage {
        page, alice, site, ..
    } = &stage;
    let before = site.register("CP-001").await?;
    let session = stage.charging().await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    alice.wait_energy(&session, SOME_MWH).await?;
    page.says(".session .elapsed", " s").await?;
    page.says(".session .cost", "about").await?;
    picture(page, "driver-page.png").await?;
    page.press("button", END).await?;
    let ended = alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    page.says(SESSION, "completed").await?;
    page.none("button", END).await?;
    site.ctl(&["unplug", "CP-001"]).await?;
    page.says(&place("CP-001"), "free now").await?;
    page.one("button", &start("CP-001")).await?;
    page.says("#history", "stopped by the driver").await?;
    let receipt = alice.receipt(&session).await?.receipt;
    ensure!(receipt.end.code == EndCode::Driver, "{:?}", receipt.end);
    ensure!(receipt.energy_mwh.0 == site.register("CP-001").await? - before);
    ensure!(stage.session().await? == session);
    stage.is_clean(page).await?;

    // The receipt, to look at, to print and to save.
    page.leave().await?;
    page.press("link", "Receipt").await?;
    page.arrived().await?;
    page.says("main", &session).await?;
    page.one("button", "Print").await?;
    let serious = page.axe().await?;
    ensure!(serious.is_empty(), "{serious:#?}");
    for ending in ["json", "txt"] {
        let saved = stage
            .web
            .get(&format!("/receipt/{session}.{ending}"))
            .await?;
        ensure!(
            saved.status == 200 && saved.body.contains(&session),
            "{saved:?}"
        );
    }
    stage.is_clean(page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_ends_the_session_by_itself() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    // A summary has no role of its own: it is opened as by keyboard.
    stage
        .page
        .evaluate("document.querySelector('summary').focus()")
        .await?;
    stage.page.key("Enter").await?;
    stage.page.press("textbox", "energy").await?;
    stage.page.write("0.3").await?;
    stage.page.press("button", &start("CP-001")).await?;
    stage
        .page
        .says(".session", "the energy limit was reached")
        .await?;
    let receipt = stage.alice.receipt(&stage.session().await?).await?.receipt;
    ensure!(
        receipt.end.code == EndCode::EnergyLimit,
        "{:?}",
        receipt.end
    );
    ensure!(receipt.energy_mwh.0 >= 300_000, "{receipt:?}");
    stage.is_clean(&stage.page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn charge_points_are_found_by_text_and_as_favourites_that_are_kept() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    let page = &stage.page;
    page.one("button", &start("CP-001")).await?;
    page.press("searchbox", "filter").await?;
    page.write("002 default").await?;
    page.none("button", &start("CP-001")).await?;
    page.says("#filter-count", "1 of 2").await?;
    page.press("button", "favourite CP-002").await?;
    page.reload().await?;
    page.one("button", &start("CP-001")).await?;
    page.press("checkbox", "favourites only").await?;
    page.none("button", &start("CP-001")).await?;
    page.one("button", &start("CP-002")).await?;
    stage.is_clean(page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_makes_one_session_and_ends_it_once() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    stage.page.press_twice("button", &start("CP-001")).await?;
    stage.page.one("button", END).await?;
    let session = stage.session().await?;
    stage.alice.wait_phase(&session, Phase::Charging).await?;
    stage.page.press_twice("button", END).await?;
    let ended = stage.alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    stage.page.says(SESSION, "completed").await?;
    ensure!(stage.session().await? == session);
    stage.is_clean(&stage.page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_plug_and_says_so() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    stage.site.ctl(&["unplug", "CP-001"]).await?;
    stage.page.press("button", &start("CP-001")).await?;
    stage.page.says(SESSION, "plug in").await?;
    let session = stage.session().await?;
    stage.alice.wait_phase(&session, Phase::Preparing).await?;
    stage.site.ctl(&["plug", "CP-001"]).await?;
    stage.alice.wait_phase(&session, Phase::Charging).await?;
    stage.page.says(SESSION, "charging").await?;
    // Unplugging is how most people end.
    stage.site.ctl(&["unplug", "CP-001"]).await?;
    let ended = stage.alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    stage.page.says(".session", "the car was unplugged").await?;
    stage.page.one("button", &start("CP-001")).await?;
    stage.is_clean(&stage.page).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_drivers_session_is_seen_by_nobody_else() -> Result<()> {
    let stage = Stage::set(Look::DESK).await?;
    let bob = stage.site.driver("bob-the-other").await?;
    let foreign = bob.start("CP-002").await?;
    bob.wait_energy(&foreign, 1_000).await?;
    stage.page.none("button", &start("CP-002")).await?;
    stage.page.one("button", &start("CP-001")).await?;
    let seen = "document.documentElement.outerHTML";
    let seen = stage.page.evaluate(seen).await?.to_string();
    for secret in [foreign.as_str(), "bob-the-other"] {
        ensure!(!seen.contains(secret), "{secret} is in the page");
    }
    ensure!(stage.page.all("button", END).await?.is_empty());
    // Who knows the id all the same learns nothing more and ends nothing.
    for ending in ["", ".json", ".txt"] {
        let path = format!("/receipt/{foreign}{ending}");
        let answer = stage.web.get(&path).await?;
        ensure!(answer.status == 404, "{path}: {answer:?}");
        ensure!(!answer.body.contains("bob-the-other"), "{answer:?}");
    }
    let view = bob.session(&foreign).await?;
    ensure!(view.state == Phase::Charging, "{view:?}");
    ensure!(stage.sessions().await?.is_empty());
    stage.is_clean(&stage.page).await
}
