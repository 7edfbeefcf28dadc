//! Charge points behind a leaf node at their site.

use anyhow::{Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::{Charger, Layout, Site};
use ev_testkit::{PATIENCE, wait_for};

use crate::{ended_right, metered};

async fn behind_a_leaf(charger: Charger) -> Result<Site> {
    let site = Site::start(&Layout {
        leaf: true,
        ..Layout::small(charger)
    })
    .await?;
    site.ctl(&["plug", "CP-001"]).await?;
    site.ctl(&["plug", "CP-002"]).await?;
    Ok(site)
}

crate::with_both_chargers! {
    a_session_behind_a_leaf_starts_charges_and_ends_with_its_receipt;
    a_leaf_that_is_cut_off_disturbs_no_session_and_loses_nothing;
}

async fn a_session_behind_a_leaf_starts_charges_and_ends_with_its_receipt(
    charger: Charger,
) -> Result<()> {
    let site = behind_a_leaf(charger).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    metered(&site, "CP-001", before, 5_000).await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    // The hub has one connection of EDGE, the leaf's; who watches the door counts it as one.
    let leaves = site.nats.monitor("/leafz").await?;
    ensure!(leaves["leafnodes"] == 1, "{leaves}");
    wait_for("the door counts a leaf", PATIENCE, async || {
        let leaf = site.metric(0, "ev_connections{role=\"leaf\"}").await?;
        let agents = site
            .metric(0, "ev_connections{role=\"charge-point\"}")
            .await?;
        ensure!((leaf, agents) == (1.0, 0.0), "{leaf} {agents}");
        Ok(())
    })
    .await
}

async fn a_leaf_that_is_cut_off_disturbs_no_session_and_loses_nothing(
    charger: Charger,
) -> Result<()> {
    let mut site = behind_a_leaf(charger).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    site.uplink.cut().await;
    let so_far = site.register("CP-001").await?;
    metered(&site, "CP-001", so_far, 5_000).await?;
    site.ctl(&["unplug", "CP-001"]).await?;
    wait_for("it has ended at the charge point", PATIENCE, async || {
        let connector = site.connector("CP-001", 1).await?;
        ensure!(connector["session_id"].is_null(), "{connector}");
        Ok(())
    })
    .await?;
    ensure!(site.spool_depth("CP-001").await? > 0, "nothing waits");
    ensure!(alice.session(&session).await?.state == Phase::Charging);
    site.uplink.heal().await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}
