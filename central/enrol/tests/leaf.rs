//! A leaf node: a nats-server at a site, between its charge points and the hub.

mod support;

use anyhow::{Result, ensure};
use ev_enrol::Role::{Central, ChargePoint, Leaf};
use ev_enrol::roles::CARRIED_MAX;
use ev_testkit::{Cluster, Keys, LeafServer, NatsServer, PATIENCE, wait_for};
use support::Raw;

/// Ids are case sensitive, and so must tags be.
const CARRIED: [&str; 2] = ["CP-001", "Cp-Aa_9"];

struct Scene {
    keys: Keys,
    hub: NatsServer,
    leaf: LeafServer,
    central: Raw,
}

/// A hub with a leaf behind it, linked, and a central that listens.
async fn scene() -> Result<Scene> {
    let keys = Keys::new()?;
    let hub = NatsServer::start_with_conf(&keys, &keys.leaves()?).await?;
    let mut central = Raw::connect(&hub.url(), &keys.creds(Central, "central-a")?).await?;
    for subject in ["ev.v1.cp.*.evt", "ev.v1.cp.*.sync", "ev.v1.cp.*.hb"] {
        central.subscribe(subject, None).await?;
    }
    let inbox = format!("{}.1", central.inbox);
    central.subscribe(&inbox, None).await?;
    central.round_trip().await?;
    let creds = keys.leaf_creds("SITE-A", &CARRIED)?;
    let leaf = LeafServer::start(&keys, "SITE-A", &creds, hub.leaf_port()).await?;
    // It hears last of what comes last.
    wait_for("the leaf is linked", PATIENCE, async || {
        let page = leaf.monitor("/leafz?subs=1").await?.to_string();
        ensure!(page.contains("ev.v1.cp.*.hb"), "{page}");
        Ok(())
    })
    .await?;
    Ok(Scene {
        keys,
        hub,
        leaf,
        central,
    })
}

impl Scene {
    /// A charge point at the leaf, which hears its commands and its answers.
    async fn charge_point(&self, id: &str) -> Result<Raw> {
        let mut cp = Raw::connect(&self.leaf.url(), &self.keys.creds(ChargePoint, id)?).await?;
        cp.subscribe(&format!("ev.v1.cp.{id}.cmd.*"), None).await?;
        let inbox = format!("{}.>", cp.inbox);
        cp.subscribe(&inbox, None).await?;
        cp.round_trip().await?;
        Ok(cp)
    }

    /// The hub has heard that somebody behind the leaf listens.
    async fn hub_knows(&self, subject: &str) -> Result<()> {
        wait_for("the hub knows who listens", PATIENCE, async || {
            let page = self.hub.monitor("/leafz?subs=1").await?.to_string();
            ensure!(page.contains(subject), "{page}");
            Ok(())
        })
        .await
    }

    async fn leaves(&self) -> Result<u64> {
        Ok(self.hub.monitor("/leafz").await?["leafnodes"]
            .as_u64()
            .unwrap_or_default())
    }
}

#[tokio::test]
async fn a_leaf_carries_its_charge_points_both_ways() -> Result<()> {
    let mut scene = scene().await?;
    for id in CARRIED {
        let mut cp = scene.charge_point(id).await?;
        scene.hub_knows(&format!("ev.v1.cp.{id}.cmd.*")).await?;
        scene.hub_knows(&format!("{}.>", cp.inbox)).await?;
        cp.publish(&format!("ev.v1.cp.{id}.hb"), None, "beat")
            .await?;
        let heard = scene.central.message().await?;
        assert_eq!(
            (heard.subject, heard.payload),
            (format!("ev.v1.cp.{id}.hb"), "beat".to_owned())
        );
        // A question of the charge point's, and central's answer.
        let inbox = format!("{}.7", cp.inbox);
        cp.publish(&format!("ev.v1.cp.{id}.evt"), Some(&inbox), "frame")
            .await?;
        let asked = scene.central.message().await?;
        assert_eq!(asked.payload, "frame");
        let reply = asked.reply.unwrap_or_default();
        scene.central.publish(&reply, None, "kept").await?;
        let answer = cp.message().await?;
        assert_eq!((answer.subject, answer.payload), (inbox, "kept".to_owned()));
        // A command, and one answer.
        let inbox = format!("{}.1", scene.central.inbox);
        scene
            .central
            .publish(&format!("ev.v1.cp.{id}.cmd.stop"), Some(&inbox), "stop")
            .await?;
        let command = cp.message().await?;
        assert_eq!(command.payload, "stop");
        let reply = command.reply.unwrap_or_default();
        cp.publish(&reply, None, "first").await?;
        cp.publish(&reply, None, "second").await?;
        assert_eq!(scene.central.message().await?.payload, "first");
        assert_eq!(cp.judged().await?.len(), 1, "a second answer");
    }
    Ok(())
}

/// Its link is to one server, central's connection to another.
#[tokio::test]
async fn a_leaf_of_a_hub_of_three_carries_both_ways() -> Result<()> {
    let keys = Keys::new()?;
    keys.leaves()?;
    let hub = Cluster::start_with_keys(&keys).await?;
    let creds = keys.leaf_creds("SITE-A", &CARRIED)?;
    let mut central = Raw::connect(&hub.node(1).url(), &keys.creds(Central, "central-a")?).await?;
    central.subscribe("ev.v1.cp.*.hb", None).await?;
    let inbox = format!("{}.1", central.inbox);
    central.subscribe(&inbox, None).await?;
    central.round_trip().await?;
    let leaf = LeafServer::start(&keys, "SITE-A", &creds, hub.node(0).leaf_port()).await?;
    let mut cp = Raw::connect(&leaf.url(), &keys.creds(ChargePoint, "CP-001")?).await?;
    cp.subscribe("ev.v1.cp.CP-001.cmd.*", None).await?;
    // Until all three have heard who listens where.
    wait_for("a heartbeat arrives", PATIENCE, async || {
        cp.publish("ev.v1.cp.CP-001.hb", None, "beat").await?;
        cp.round_trip().await?;
        central.round_trip().await?;
        ensure!(!central.heard.is_empty(), "nothing");
        Ok(())
    })
    .await?;
    wait_for("a command is answered", PATIENCE, async || {
        central
            .publish("ev.v1.cp.CP-001.cmd.stop", Some(&inbox), "stop")
            .await?;
        central.round_trip().await?;
        cp.round_trip().await?;
        for command in std::mem::take(&mut cp.heard) {
            let reply = command.reply.unwrap_or_default();
            cp.publish(&reply, None, "done").await?;
        }
        ensure!(
            central.heard.iter().any(|h| h.payload == "done"),
            "{:?}",
            central.heard
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_charge_point_that_a_leaf_is_not_for_gets_nothing_through() -> Result<()> {
    let mut scene = scene().await?;
    let mut own = scene.charge_point("CP-001").await?;
    let mut foreign = scene.charge_point("CP-003").await?;
    scene.hub_knows("ev.v1.cp.CP-001.cmd.*").await?;
    let inbox = format!("{}.7", foreign.inbox);
    foreign.publish("ev.v1.cp.CP-003.hb", None, "beat").await?;
    foreign
        .publish("ev.v1.cp.CP-003.evt", Some(&inbox), "frame")
        .await?;
    // It is told that nobody heard it.
    let answer = foreign.message().await?;
    ensure!(answer.headers.contains("503"), "{answer:?}");
    own.publish("ev.v1.cp.CP-001.hb", None, "last").await?;
    assert_eq!(scene.central.message().await?.payload, "last");
    // Nor does a command reach it.
    let inbox = format!("{}.1", scene.central.inbox);
    scene
        .central
        .publish("ev.v1.cp.CP-003.cmd.stop", Some(&inbox), "stop")
        .await?;
    let answer = scene.central.message().await?;
    ensure!(answer.headers.contains("503"), "{answer:?}");
    foreign.round_trip().await?;
    assert_eq!(foreign.heard, []);
    ensure!(scene.leaves().await? == 1, "the leaf has lost its link");
    Ok(())
}

/// In each step: what is enrolled, what the server takes, what central reads of a token.
#[tokio::test]
async fn a_leaf_may_carry_as_many_as_it_can_be_enrolled_for() -> Result<()> {
    let keys = Keys::new()?;
    let hub = NatsServer::start_with_conf(&keys, &keys.leaves()?).await?;
    let names: Vec<String> = (0..=CARRIED_MAX).map(|n| format!("{n:0>64}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ensure!(keys.leaf_creds("SITE-A", &names).is_err(), "one too many");
    ensure!(keys.leaf_creds("SITE-A", &[]).is_err(), "none");
    let most = &names[..CARRIED_MAX];
    let creds = keys.leaf_creds("SITE-A", most)?;
    ensure!(std::fs::metadata(&creds)?.len() < 8 * 1024);
    let leaf = LeafServer::start(&keys, "SITE-A", &creds, hub.leaf_port()).await?;
    let mut central = Raw::connect(&hub.url(), &keys.creds(Central, "central-a")?).await?;
    central.subscribe("ev.v1.cp.*.hb", None).await?;
    central.round_trip().await?;
    let last = most[CARRIED_MAX - 1];
    let mut cp = Raw::connect(&leaf.url(), &keys.creds(ChargePoint, last)?).await?;
    wait_for("a heartbeat arrives", PATIENCE, async || {
        cp.publish(&format!("ev.v1.cp.{last}.hb"), None, "beat")
            .await?;
        cp.round_trip().await?;
        central.round_trip().await?;
        ensure!(!central.heard.is_empty(), "{}", leaf.log());
        Ok(())
    })
    .await
}

/// With the credential, and without a nats-server that keeps to what it may.
#[tokio::test]
async fn a_thief_of_a_leafs_credential_hears_its_charge_points_alone() -> Result<()> {
    let keys = Keys::new()?;
    let hub = NatsServer::start_with_conf(&keys, &keys.leaves()?).await?;
    let creds = keys.leaf_creds("SITE-A", &CARRIED)?;
    let mut central = Raw::connect(&hub.url(), &keys.creds(Central, "central-a")?).await?;
    for pattern in [">", "ev.v1.cp.*.cmd.*", "ev.v1.cp.*.cmd.* q 1"] {
        let mut thief = Raw::open_leaf(hub.leaf_port(), &creds).await?;
        thief.send(&format!("LS+ {pattern}\r\n")).await?;
        thief.round_trip().await?;
        thief.heard.clear();
        for cp in ["CP-003", "cp-001", "CP-001"] {
            central
                .publish(&format!("ev.v1.cp.{cp}.cmd.stop"), None, cp)
                .await?;
        }
        central.round_trip().await?;
        assert_eq!(thief.message().await?.payload, "CP-001", "{pattern}");
    }
    // It opens nothing as a client, nor a charge point's anything as a leaf.
    let refused = Raw::connect(&hub.url(), &creds).await;
    ensure!(
        refused.is_err(),
        "a leaf's credential is let in as a client"
    );
    let mut cp = Raw::open_leaf(hub.leaf_port(), &keys.creds(ChargePoint, "CP-001")?).await?;
    assert_eq!(cp.closed().await?, "Authorization Violation");
    Ok(())
}

#[tokio::test]
async fn a_revoked_leaf_is_off() -> Result<()> {
    let scene = scene().await?;
    scene.keys.revoke(&scene.hub.url(), Leaf, "SITE-A").await?;
    wait_for("the hub has closed the link", PATIENCE, async || {
        let leaves = scene.leaves().await?;
        ensure!(leaves == 0, "{leaves}");
        Ok(())
    })
    .await?;
    wait_for("it has tried again", PATIENCE, async || {
        let text = scene.leaf.log();
        ensure!(text.contains("Authorization Violation"), "{text}");
        Ok(())
    })
    .await?;
    assert_eq!(scene.leaves().await?, 0);
    Ok(())
}

/// The hub does not see who is behind a leaf: the leaf has to be told.
#[tokio::test]
async fn a_revoked_charge_point_is_off_once_its_leaf_has_the_new_accounts() -> Result<()> {
    let mut scene = scene().await?;
    let mut cp = scene.charge_point("CP-001").await?;
    let mut other = scene.charge_point("Cp-Aa_9").await?;
    scene
        .keys
        .revoke(&scene.hub.url(), ChargePoint, "CP-001")
        .await?;
    // Not yet.
    cp.publish("ev.v1.cp.CP-001.hb", None, "still").await?;
    assert_eq!(scene.central.message().await?.payload, "still");
    scene.leaf.reload(&scene.keys, "SITE-A")?;
    let why = cp.closed().await?;
    ensure!(why.contains("Revoked"), "{why}");
    // The others do not notice.
    other.publish("ev.v1.cp.Cp-Aa_9.hb", None, "here").await?;
    assert_eq!(scene.central.message().await?.payload, "here");
    Ok(())
}
