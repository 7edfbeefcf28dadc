//! Killed, frozen, cut off: the session goes on or ends right.

use anyhow::{Context, Result, ensure};
use ev_contract::{connector::Phase, v1::EndCode};
use ev_e2e::Charger;
use ev_testkit::{PATIENCE, wait_for};

use crate::{ended_right, metered, plugged};

crate::with_both_chargers! {
    a_session_survives_kill_9_of_central;
    a_session_survives_kill_9_of_the_agent;
    a_session_survives_kill_9_of_nats_server;
    a_session_survives_kill_9_of_everything;
    a_cut_uplink_does_not_disturb_a_session;
    what_happens_while_the_uplink_is_cut_arrives_once_and_in_order;
    a_stop_holds_until_the_charge_point_is_back;
}

async fn a_session_survives_kill_9_of_central(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    site.centrals[0].kill9()?;
    site.central_again(0).await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.centrals[0].kill9()?;
    metered(&site, "CP-001", before, 5_000).await?;
    site.central_again(0).await?;
    alice.stop(&session).await?;
    site.centrals[0].kill9()?;
    site.central_again(0).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    site.centrals[0].kill9()?;
    site.central_again(0).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(alice.history().await?.len() == 1);
    Ok(())
}

async fn a_session_survives_kill_9_of_the_agent(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    site.agent.kill9()?;
    site.agent_again().await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let so_far = metered(&site, "CP-001", before, 5_000).await?;
    site.agent.kill9()?;
    site.agent_again().await?;
    // The charger is a device of its own: it went on while its agent was dead.
    metered(&site, "CP-001", so_far, 5_000).await?;
    alice.stop(&session).await?;
    site.agent.kill9()?;
    site.agent_again().await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

async fn a_session_survives_kill_9_of_nats_server(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    site.nats.kill()?;
    site.nats.restart().await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.nats.kill()?;
    metered(&site, "CP-001", before, 5_000).await?;
    site.nats.restart().await?;
    alice.stop(&session).await?;
    site.nats.kill()?;
    site.nats.restart().await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

async fn a_session_survives_kill_9_of_everything(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.agent.kill9()?;
    site.centrals[0].kill9()?;
    site.nats.kill()?;
    site.nats.restart().await?;
    site.agent_again().await?;
    site.central_again(0).await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

async fn a_cut_uplink_does_not_disturb_a_session(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.uplink.cut().await;
    let so_far = site.register("CP-001").await?;
    metered(&site, "CP-001", so_far, 20_000).await?;
    ensure!(alice.session(&session).await?.state == Phase::Charging);
    site.uplink.heal().await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

async fn what_happens_while_the_uplink_is_cut_arrives_once_and_in_order(
    charger: Charger,
) -> Result<()> {
    let mut site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.uplink.cut().await;
    let so_far = site.register("CP-001").await?;
    metered(&site, "CP-001", so_far, 5_000).await?;
    site.agent.kill9()?;
    site.agent_again().await?;
    site.ctl(&["unplug", "CP-001"]).await?;
    wait_for(
        "the session has ended at the charge point",
        PATIENCE,
        async || {
            let connector = site.connector("CP-001", 1).await?;
            ensure!(connector["session_id"].is_null(), "{connector}");
            Ok(())
        },
    )
    .await?;
    // Another one, opened on the spot, while nobody hears.
    site.ctl(&["plug", "CP-001"]).await?;
    let between = site.register("CP-001").await?;
    site.ctl(&["start", "CP-001"]).await?;
    metered(&site, "CP-001", between, 5_000).await?;
    site.ctl(&["stop", "CP-001"]).await?;
    wait_for("the local session has ended", PATIENCE, async || {
        let connector = site.connector("CP-001", 1).await?;
        ensure!(connector["session_id"].is_null(), "{connector}");
        Ok(())
    })
    .await?;
    let after = site.register("CP-001").await?;
    // Longer than any timeout: central says that it cannot be reached, and ends nothing.
    wait_for("central counts it as out of reach", PATIENCE, async || {
        let view = alice.session(&session).await?;
        ensure!(view.state == Phase::Charging, "{view:?}");
        ensure!(!view.reachable, "it counts as reachable");
        Ok(())
    })
    .await?;
    site.uplink.heal().await?;
    let view = alice.wait_ended(&session).await?;
    ensure!(
        view.reason.as_deref() == Some(EndCode::EvUnplugged.as_str()),
        "{view:?}"
    );
    ensure!(
        view.energy_mwh.0 == between - before,
        "{} of {}",
        view.energy_mwh.0,
        between - before
    );
    wait_for("both receipts are there", PATIENCE, async || {
        let (receipts, adjustments) = site.cdrs().await?;
        let billed: u64 = receipts.iter().map(|r| r.energy_mwh.0).sum();
        ensure!(receipts.len() == 2, "{} receipts", receipts.len());
        ensure!(adjustments.is_empty());
        ensure!(
            billed == after - before,
            "billed {billed}, metered {}",
            after - before
        );
        Ok(())
    })
    .await?;
    Ok(())
}

async fn a_stop_holds_until_the_charge_point_is_back(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.uplink.cut().await;
    alice.stop(&session).await?;
    site.centrals[0].kill9()?;
    site.central_again(0).await?;
    let view = alice.session(&session).await?;
    ensure!(view.stopping && view.state == Phase::Stopping, "{view:?}");
    let so_far = site.register("CP-001").await?;
    metered(&site, "CP-001", so_far, 5_000).await?;
    site.uplink.heal().await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(receipt.end.code == EndCode::Driver, "{:?}", receipt.end);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_frozen_for_long_says_nothing_stale() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.centrals[0].pause()?;
    alice.stop(&session).await?;
    alice.wait_ended(&session).await?;
    let second = alice.start("CP-002").await?;
    // Longer than the server waits for a client that does not answer its pings.
    wait_for(
        "the server has given the frozen replica up",
        PATIENCE,
        async || {
            let connections = site.nats.monitor("/connz").await?;
            let there = connections["connections"]
                .as_array()
                .context("connections")?
                .iter()
                .filter(|c| c["name"] == "central central-1")
                .count();
            ensure!(there == 0, "it is connected");
            Ok(())
        },
    )
    .await?;
    site.centrals[0].resume()?;
    site.ready(0).await?;
    for _ in 0..50 {
        let open = alice.open().await?;
        ensure!(
            open.len() == 1 && open[0].session_id.to_string() == second,
            "{open:?}"
        );
    }
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(site.metric(0, "ev_ledger_alarm").await? == 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_answers_what_was_under_way() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let drivers = futures::future::try_join_all(
        (0..40).map(async |n| site.driver(&format!("driver-{n}")).await),
    )
    .await?;
    let stopped = std::sync::atomic::AtomicBool::new(false);
    // One attempt each, no repeats: what a stopping replica drops would show.
    let asking = futures::future::try_join_all(drivers.iter().map(async |driver| {
        let mut asked = 0_u32;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let subject = format!("ev.v1.driver.{}.status", driver.id);
            driver
                .raw(subject, b"{}".to_vec(), ev_contract::wire::Encoding::Json)
                .await?;
            asked += 1;
        }
        anyhow::Ok(asked)
    }));
    let stopping = async {
        site.centrals[0].terminate()?;
        let status = site.centrals[0].wait(PATIENCE).await;
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
        status
    };
    let (asked, status) = tokio::join!(asking, stopping);
    let asked: u32 = asked?.iter().sum();
    ensure!(asked >= 40, "{asked} asked");
    ensure!(status?.success());
    Ok(())
}
