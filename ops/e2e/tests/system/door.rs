//! Who is connected: one credential cannot have all places, and what the server refuses or closes
//! is seen by operators.

use anyhow::{Result, ensure};
use ev_client::{Credential, Pauses};
use ev_contract::{
    connector::ConnectorState,
    streams,
    v1::{AuditEntry, AuditKind},
    wire::{self, Encoding},
};
use ev_e2e::{Charger, Layout, Site};
use ev_testkit::{PATIENCE, Process, Role, our_program, wait_for};

/// What a driver may have open unless the configuration says otherwise.
const LIMIT: usize = 8;

async fn entries_of_connections(site: &Site) -> Result<Vec<AuditEntry>> {
    let js = site.maintainer().await?;
    let mut stream = js.get_stream(streams::AUDIT.name).await?;
    let last = stream.info().await?.state.last_sequence;
    let mut entries = Vec::new();
    for seq in 1..=last {
        let message = stream.get_raw_message(seq).await?;
        let entry: AuditEntry = wire::decode(&message.payload, Encoding::MsgPack)?;
        if entry.kind == AuditKind::Connection {
            entries.push(entry);
        }
    }
    Ok(entries)
}

async fn entry(site: &Site, name: &str, verb: &str) -> Result<AuditEntry> {
    wait_for(&format!("{verb} {name}"), PATIENCE, async || {
        let entries = entries_of_connections(site).await?;
        let found = entries
            .iter()
            .find(|e| e.verb == verb && e.name.as_deref() == Some(name));
        found
            .cloned()
            .ok_or_else(|| anyhow::anyhow!("{entries:#?}"))
    })
    .await
}

async fn connections_with(site: &Site, key: &str) -> Result<usize> {
    let page = site.nats.monitor("/connz?auth=1&limit=10000").await?;
    let all = page["connections"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter(|c| c["authorized_user"] == key).count())
}

/// They come back, all of them, as a program gone wild would.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_with_fifty_connections_keeps_a_few_and_others_charge_on() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly).centrals(2)).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let bob = site.driver("bob").await?;
    let session = bob.start("CP-001").await?;
    let access = site
        .nats
        .keys()
        .access(&site.nats.url(), Role::Driver, "mallory")?;
    let key = Credential::read(&access.credentials)?.public_key();
    let mut wild = Vec::new();
    for _ in 0..50 {
        let (options, _) = access.options(Pauses::default(), |_| std::future::ready(()))?;
        let options = options.retry_on_initial_connect();
        wild.push(options.connect(access.servers()?).await?);
    }
    let kicked = entry(&site, "mallory", "kicked").await?;
    ensure!(kicked.credential.as_ref() == Some(&key), "{kicked:?}");
    wait_for("as many as may stay are left", PATIENCE, async || {
        let count = connections_with(&site, &key).await?;
        ensure!(count == LIMIT, "{count}");
        Ok(())
    })
    .await?;
    let mut sum = 0.0;
    for central in 0..2 {
        sum += site.metric(central, "ev_connections_kicked_total").await?;
        let watched = site.metric(central, "ev_connections_watched").await?;
        ensure!(watched > 0.5, "central-{} does not watch", central + 1);
    }
    ensure!(sum > 41.5, "{sum} of at least 42");
    // Nobody else was touched: neither charge points nor centrals, nor the other driver.
    let entries = entries_of_connections(&site).await?;
    let others = entries
        .iter()
        .find(|e| e.name.as_deref() != Some("mallory"));
    ensure!(others.is_none(), "{others:?}");
    ensure!(site.metric(0, "ev_connections{role=\"central\"}").await? > 7.5);
    bob.stop(&session).await?;
    bob.wait_ended(&session).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_while_connected_or_comes_too_late_is_seen_by_operators() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let keys = site.nats.keys();
    let alice = site.driver("alice").await?;
    alice.list().await?;
    let key = Credential::read(&keys.creds(Role::Driver, "alice")?)?.public_key();
    let mut revoke = Process::program("enrol", our_program("central")?)
        .args(["enrol", "revoke", "driver", "alice", "--dir"])
        .arg(keys.dir())
        .args(["--nats-url", &site.nats.url()])
        .spawn()?;
    let status = revoke.wait(PATIENCE).await?;
    ensure!(status.success(), "{}", revoke.log());
    let closed = entry(&site, "alice", "closed").await?;
    ensure!(closed.credential.as_ref() == Some(&key), "{closed:?}");

    let now_s = ev_e2e::now_ms() / 1_000;
    let expired = keys
        .realm()?
        .issue(Role::Driver, "erin", now_s - 5, now_s - 50)?;
    let erin = Process::program("driver-cli", our_program("driver-cli")?)
        .args(["--driver", "erin", "--nats-url", &site.nats.url()])
        .arg("--credentials")
        .arg(&expired.path)
        .arg("--ca")
        .arg(keys.ca())
        .arg("list")
        .spawn()?
        .wait(PATIENCE)
        .await?;
    ensure!(!erin.success());
    let refused = entry(&site, "erin", "refused").await?;
    let why = refused.detail.unwrap_or_default();
    ensure!(why.contains("has expired"), "{why}");
    let expired = site
        .metric(0, "ev_connections_refused_total{reason=\"expired\"}")
        .await?;
    ensure!(expired > 0.5);
    Ok(())
}

/// Its heartbeats are a minute apart: by them it would be missed after three.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_point_on_a_metered_line_is_missed_by_its_connection() -> Result<()> {
    let mut site = Site::start(&Layout {
        agent_extra: "line = \"metered\"".into(),
        ..Layout::small(Charger::Orderly)
    })
    .await?;
    let alice = site.driver("alice").await?;
    let state = async || {
        let list = alice.list().await?;
        anyhow::Ok(list.charge_points[0].connectors[0].state)
    };
    site.agent.kill9()?;
    wait_for("the charge point counts as offline", PATIENCE, async || {
        let state = state().await?;
        ensure!(state == ConnectorState::Offline, "{state}");
        Ok(())
    })
    .await?;
    site.agent.restart()?;
    wait_for("it is there again", PATIENCE, async || {
        let state = state().await?;
        ensure!(state == ConnectorState::Available, "{state}");
        Ok(())
    })
    .await
}
