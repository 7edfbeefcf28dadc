//! What operators do.

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Phase},
    v1::{EndCode, Flag, Status},
};
use ev_e2e::{Charger, StartOptions};
use ev_testkit::{PATIENCE, wait_for};
use rust_decimal::Decimal;
use serde_json::json;

use crate::{ended_right, metered, plugged};

crate::with_both_chargers! {
    a_tariff_makes_an_exact_receipt_and_an_adjustment_corrects_it;
    out_of_service_lets_the_session_end_and_refuses_the_next;
    a_blocked_driver_is_refused_and_an_operator_can_start_and_end;
    what_a_written_off_session_still_delivers_becomes_an_adjustment;
}

async fn a_tariff_makes_an_exact_receipt_and_an_adjustment_corrects_it(
    charger: Charger,
) -> Result<()> {
    let site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    let set = alice
        .operate(
            "tariff_set",
            json!({"tariff_id": "std", "scope": "default",
                   "terms": crate::terms("0.49", "1.00")}),
        )
        .await?;
    ensure!(set.status == Status::Accepted, "{set:?}");
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    metered(&site, "CP-001", before, 20_000).await?;
    alice.stop(&session).await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    let exact =
        Decimal::new(i64::try_from(receipt.energy_mwh.0)?, 6) * Decimal::new(49, 2) + Decimal::ONE;
    ensure!(receipt.exact.0 == exact, "{} is not {exact}", receipt.exact);
    ensure!((receipt.total.0 - exact).abs() <= Decimal::new(5, 3));
    ensure!(receipt.net.0 + receipt.taxes[0].amount.0 == receipt.total.0);
    ensure!(
        receipt.lines.len() == 2 && receipt.number == "CP-001-1-000001",
        "{receipt:?}"
    );
    let refused = alice
        .operate(
            "session_adjust",
            json!({"session_id": session, "amount": "-1000", "reason": "too much"}),
        )
        .await?;
    ensure!(refused.reason.as_deref() == Some(Code::AmountInvalid.as_str()));
    let adjusted = alice
        .operate(
            "session_adjust",
            json!({"session_id": session, "amount": "-0.50", "reason": "slow charger"}),
        )
        .await?;
    ensure!(adjusted.status == Status::Accepted, "{adjusted:?}");
    let reply = alice.receipt(&session).await?;
    ensure!(reply.receipt == receipt, "the receipt itself stays");
    ensure!(reply.adjustments[0].total.0 == receipt.total.0 - Decimal::new(5, 1));
    wait_for(
        "the adjustment is in the CDR stream",
        PATIENCE,
        async || {
            let (_, adjustments) = site.cdrs().await?;
            ensure!(
                adjustments == reply.adjustments,
                "{} there",
                adjustments.len()
            );
            Ok(())
        },
    )
    .await
}

async fn out_of_service_lets_the_session_end_and_refuses_the_next(charger: Charger) -> Result<()> {
    let site = plugged(charger, 2).await?;
    let (alice, bob) = (site.driver("alice").await?, site.driver("bob").await?);
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    alice
        .operate("cp_disable", json!({"cp_id": "CP-001"}))
        .await?;
    ensure!(alice.session(&session).await?.state == Phase::Charging);
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    let refused = bob.start_with("CP-001", &StartOptions::default()).await?;
    ensure!(
        refused.reason.as_deref() == Some(Code::OutOfService.as_str()),
        "{refused:?}"
    );
    wait_for("the charge point has confirmed", PATIENCE, async || {
        let connector = site.connector("CP-001", 1).await?;
        ensure!(connector["state"] == "unavailable", "{connector}");
        Ok(())
    })
    .await?;
    alice
        .operate("cp_enable", json!({"cp_id": "CP-001"}))
        .await?;
    wait_for("the connector serves again", PATIENCE, async || {
        let list = bob.list().await?;
        let state = list.charge_points[0].connectors[0].state;
        let serves = !matches!(state, ConnectorState::Unavailable);
        ensure!(serves, "{state}");
        Ok(())
    })
    .await?;
    bob.start("CP-001").await?;
    Ok(())
}

async fn a_blocked_driver_is_refused_and_an_operator_can_start_and_end(
    charger: Charger,
) -> Result<()> {
    let site = plugged(charger, 2).await?;
    let alice = site.driver("alice").await?;
    alice
        .operate(
            "driver_block",
            json!({"driver_id": "alice", "reason": "unpaid"}),
        )
        .await?;
    let refused = alice.start_with("CP-001", &StartOptions::default()).await?;
    ensure!(
        refused.reason.as_deref() == Some(Code::DriverBlocked.as_str()),
        "{refused:?}"
    );
    alice
        .operate("driver_unblock", json!({"driver_id": "alice"}))
        .await?;
    let before = site.register("CP-001").await?;
    let started = alice
        .operate(
            "session_start",
            json!({"driver_id": "alice", "cp_id": "CP-001"}),
        )
        .await?;
    let session = started.session_id.context("a session")?.to_string();
    alice.wait_phase(&session, Phase::Charging).await?;
    let silent = alice
        .operate("session_end", json!({"session_id": session, "reason": " "}))
        .await?;
    ensure!(silent.reason.as_deref() == Some(Code::ReasonRequired.as_str()));
    alice
        .operate(
            "session_end",
            json!({"session_id": session, "reason": "closing time"}),
        )
        .await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    ensure!(receipt.end.code == EndCode::Operator, "{:?}", receipt.end);
    Ok(())
}

async fn what_a_written_off_session_still_delivers_becomes_an_adjustment(
    charger: Charger,
) -> Result<()> {
    let mut site = plugged(charger, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.uplink.cut().await;
    let so_far = site.register("CP-001").await?;
    metered(&site, "CP-001", so_far, 10_000).await?;
    alice
        .operate(
            "session_end",
            json!({"session_id": session, "reason": "cabinet burnt", "write_off": true}),
        )
        .await?;
    let receipt = alice.receipt(&session).await?.receipt;
    ensure!(receipt.flags.contains(&Flag::WrittenOff), "{receipt:?}");
    site.uplink.heal().await?;
    wait_for(
        "the stop has reached the charge point",
        PATIENCE,
        async || {
            let connector = site.connector("CP-001", 1).await?;
            ensure!(connector["session_id"].is_null(), "{connector}");
            Ok(())
        },
    )
    .await?;
    let metered = site.register("CP-001").await? - before;
    wait_for("metered is receipt and adjustments", PATIENCE, async || {
        let reply = alice.receipt(&session).await?;
        ensure!(reply.receipt == receipt, "the receipt changed");
        let added: i64 = reply.adjustments.iter().map(|a| a.energy_mwh).sum();
        let billed = i64::try_from(receipt.energy_mwh.0)? + added;
        ensure!(
            billed == i64::try_from(metered)?,
            "billed {billed}, metered {metered}"
        );
        Ok(())
    })
    .await
}
