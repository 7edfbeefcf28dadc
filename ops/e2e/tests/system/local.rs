//! On the spot: local sessions, faults, the charger's own troubles.

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Phase},
    v1::Origin,
};
use ev_e2e::{Charger, StartOptions};
use ev_testkit::{PATIENCE, wait_for};

use crate::{ended_right, metered, plugged};

crate::with_both_chargers! {
    a_local_session_is_known_to_central_and_gets_a_receipt;
    a_power_cut_never_forgets_the_session;
}

async fn a_local_session_is_known_to_central_and_gets_a_receipt(charger: Charger) -> Result<()> {
    let site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    site.ctl(&["start", "CP-001"]).await?;
    metered(&site, "CP-001", before, 5_000).await?;
    wait_for("central refuses the connector", PATIENCE, async || {
        let refused = alice.start_with("CP-001", &StartOptions::default()).await?;
        if let Some(session) = refused.session_id {
            alice.stop(&session.to_string()).await?;
        }
        let reasons = [
            Some(Code::Occupied.as_str()),
            Some(Code::LimitReached.as_str()),
        ];
        ensure!(refused.reason.as_deref() == reasons[0], "{refused:?}");
        Ok(())
    })
    .await?;
    site.ctl(&["stop", "CP-001"]).await?;
    let receipt = wait_for("the receipt is there", PATIENCE, async || {
        let (receipts, _) = site.cdrs().await?;
        receipts
            .into_iter()
            .find(|r| r.origin == Origin::Local)
            .context("none yet")
    })
    .await?;
    let metered = site.register("CP-001").await? - before;
    ensure!(
        receipt.energy_mwh.0 == metered,
        "{} of {metered}",
        receipt.energy_mwh.0
    );
    ensure!(receipt.driver_id.is_none());
    Ok(())
}

async fn a_power_cut_never_forgets_the_session(charger: Charger) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    metered(&site, "CP-001", before, 5_000).await?;
    site.ctl(&["power-cut", "CP-001"]).await?;
    site.agent.kill9()?;
    site.agent_again().await?;
    // Resumed or ended by itself: either is right, forgotten is not.
    let view = alice.session(&session).await?;
    if !view.state.is_ended() {
        alice
            .stop_with(&session, &uuid::Uuid::new_v4().to_string())
            .await?;
    }
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulted_connector_refuses_and_says_so() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    site.ctl(&["fault", "CP-001", "--effect", "ended"]).await?;
    wait_for("the fault is known", PATIENCE, async || {
        let state = alice.list().await?.charge_points[0].connectors[0].state;
        ensure!(state == ConnectorState::Faulted, "{state}");
        Ok(())
    })
    .await?;
    let refused = alice.start_with("CP-001", &StartOptions::default()).await?;
    ensure!(
        refused.reason.as_deref() == Some(Code::Faulted.as_str()),
        "{refused:?}"
    );
    site.ctl(&["clear", "CP-001"]).await?;
    wait_for("the fault is gone", PATIENCE, async || {
        let state = alice.list().await?.charge_points[0].connectors[0].state;
        ensure!(state != ConnectorState::Faulted, "{state}");
        Ok(())
    })
    .await?;
    alice.start("CP-001").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_suspends_ends_nothing() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.ctl(&["fault", "CP-001", "--effect", "suspends"])
        .await?;
    alice.wait_phase(&session, Phase::SuspendedEvse).await?;
    site.ctl(&["clear", "CP-001"]).await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charger_that_does_not_answer_its_agent_is_refused_as_such() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    site.ctl(&["link", "down", "CP-001"]).await?;
    wait_for("central knows", PATIENCE, async || {
        let answer = alice.start_with("CP-001", &StartOptions::default()).await?;
        if answer.error.is_none()
            && let Some(session) = answer.session_id
        {
            alice.stop(&session.to_string()).await?;
        }
        let reason = answer.reason.as_deref();
        ensure!(reason == Some(Code::ChargerOffline.as_str()), "{answer:?}");
        Ok(())
    })
    .await?;
    site.ctl(&["link", "up", "CP-001"]).await?;
    wait_for("it serves again", PATIENCE, async || {
        let answer = alice.start_with("CP-001", &StartOptions::default()).await?;
        ensure!(answer.error.is_none(), "{answer:?}");
        Ok(())
    })
    .await
}
