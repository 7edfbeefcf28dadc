//! Sessions from start to receipt: one id for everybody.

use anyhow::{Result, ensure};
use ev_contract::{
    codes::Code,
    connector::Phase,
    v1::{EndCode, LimitsRequest, Status},
};
use ev_e2e::{Charger, Layout, Site, StartOptions};
use uuid::Uuid;

use crate::{ended_right, metered, plugged};

crate::with_both_chargers! {
    a_session_has_one_id_from_the_start_to_the_receipt;
    a_stop_right_after_the_start_stops_also_through_another_replica;
    a_second_stop_changes_nothing;
    a_start_waits_for_the_plug;
    a_session_ends_by_itself_at_its_energy_limit;
    unplugging_ends_the_session;
    five_hundred_sessions_in_a_row_on_one_connector;
    who_stops_and_starts_again_at_once_gets_the_next_session;
}

async fn a_session_has_one_id_from_the_start_to_the_receipt(charger: Charger) -> Result<()> {
    let site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    metered(&site, "CP-001", before, 5_000).await?;
    ensure!(site.connector("CP-001", 1).await?["session_id"] == session.as_str());
    ensure!(alice.open().await?[0].session_id.to_string() == session);
    alice.stop(&session).await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(receipt.end.code == EndCode::Driver, "{:?}", receipt.end);
    ensure!(receipt.status == Status::Completed);
    ensure!(alice.history().await?[0].session_id.to_string() == session);
    Ok(())
}

async fn a_stop_right_after_the_start_stops_also_through_another_replica(
    charger: Charger,
) -> Result<()> {
    let site = plugged(charger, 2).await?;
    for n in 0..20 {
        let driver = site.driver(&format!("driver-{n}")).await?;
        let before = site.register("CP-001").await?;
        let session = driver.start("CP-001").await?;
        driver.stop(&session).await?;
        ended_right(&site, &driver, &session, before, "CP-001").await?;
    }
    Ok(())
}

async fn a_second_stop_changes_nothing(charger: Charger) -> Result<()> {
    let site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let request = Uuid::new_v4().to_string();
    let options = alice.stop_with(&session, &request).await?;
    ensure!(options.status == Status::Accepted);
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    // Another request: the session has ended, and says so.
    let late = alice
        .stop_with(&session, &Uuid::new_v4().to_string())
        .await?;
    ensure!(late.status == Status::Denied, "{late:?}");
    ensure!(late.reason.as_deref() == Some(Code::SessionEnded.as_str()));
    ensure!(alice.receipt(&session).await?.receipt == receipt);
    Ok(())
}

async fn a_start_waits_for_the_plug(charger: Charger) -> Result<()> {
    let site = Site::start(&Layout::small(charger)).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Preparing).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

async fn a_session_ends_by_itself_at_its_energy_limit(charger: Charger) -> Result<()> {
    let site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let options = StartOptions {
        limits: Some(LimitsRequest {
            energy_wh: Some(300),
            ..LimitsRequest::default()
        }),
        ..StartOptions::default()
    };
    let update = alice.start_with("CP-001", &options).await?;
    ensure!(update.status == Status::Accepted, "{update:?}");
    let session = update
        .session_id
        .map(|id| id.to_string())
        .unwrap_or_default();
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(
        receipt.end.code == EndCode::EnergyLimit,
        "{:?}",
        receipt.end
    );
    ensure!(receipt.energy_mwh.0 >= 300_000, "{}", receipt.energy_mwh.0);
    Ok(())
}

async fn unplugging_ends_the_session(charger: Charger) -> Result<()> {
    let site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.ctl(&["unplug", "CP-001"]).await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(
        receipt.end.code == EndCode::EvUnplugged,
        "{:?}",
        receipt.end
    );
    Ok(())
}

async fn five_hundred_sessions_in_a_row_on_one_connector(charger: Charger) -> Result<()> {
    // An unruly charger delays what it says: fewer turns show as much.
    let turns = match charger {
        Charger::Orderly => 500,
        Charger::Unruly => 25,
    };
    let site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let mut sessions = Vec::new();
    for _ in 0..turns {
        let session = alice.start("CP-001").await?;
        alice.stop(&session).await?;
        alice.wait_ended(&session).await?;
        sessions.push(session);
    }
    let history = alice.history().await?;
    ensure!(history.len() == turns, "{} sessions", history.len());
    let metered = site.register("CP-001").await? - before;
    let billed: u64 = history.iter().map(|s| s.energy_mwh.0).sum();
    ensure!(billed == metered, "billed {billed}, metered {metered}");
    for session in &sessions {
        ensure!(history.iter().any(|s| s.session_id.to_string() == *session));
    }
    Ok(())
}

async fn who_stops_and_starts_again_at_once_gets_the_next_session(charger: Charger) -> Result<()> {
    // An orderly charger confirms a stop within a moment; from an unruly one that takes longer
    // than a start waits, and it may have to be asked again.
    let site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    for _ in 0..30 {
        let session = match charger {
            Charger::Orderly => alice.start("CP-001").await?,
            Charger::Unruly => {
                ev_testkit::wait_for("a start is taken", ev_testkit::PATIENCE, async || {
                    alice.start("CP-001").await
                })
                .await?
            }
        };
        alice.stop(&session).await?;
    }
    let last = alice.history().await?[0].session_id.to_string();
    alice.wait_ended(&last).await?;
    let history = alice.history().await?;
    let billed: u64 = history.iter().map(|s| s.energy_mwh.0).sum();
    let metered = site.register("CP-001").await? - before;
    ensure!(history.len() == 30, "{} sessions", history.len());
    ensure!(billed == metered, "billed {billed}, metered {metered}");
    Ok(())
}
