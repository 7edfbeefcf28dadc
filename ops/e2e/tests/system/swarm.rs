//! Charge points by the hundred in one process: all get into sync, charge, and lose nothing when the
//! server goes and comes back.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use ev_contract::ids::CpId;
use ev_e2e::{Charger, Layout, Site};
use ev_testkit::{PATIENCE, Process, Role, wait_for};
use serde_json::Value;

/// What ends a process in order takes sessions that end and records that are sent.
const ENDS: Duration = Duration::from_secs(60);

fn names(count: u32) -> Result<Vec<CpId>> {
    (1..=count)
        .map(|n| Ok(CpId::new(format!("SWARM-{n:06}"))?))
        .collect()
}

fn swarm(site: &Site, credentials: &Path, more: &[&str]) -> Result<Process> {
    let keys = site.nats.keys();
    let mut args = vec![
        "swarm".to_owned(),
        format!("--nats-url={}", site.nats.url()),
        format!("--ca={}", keys.ca().display()),
        format!("--credentials={}", credentials.display()),
        "--json".to_owned(),
        "--progress-s=1".to_owned(),
    ];
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    Process::spawn("edge-cp", args)
}

fn last(process: &Process, kind: &str) -> Result<Value> {
    let log = process.log();
    let mut reports = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    reports
        .rfind(|report| report["kind"] == kind)
        .with_context(|| format!("no {kind} in {log}"))
}

async fn until(process: &Process, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for(what, PATIENCE, async || {
        let report = last(process, "progress")?;
        ensure!(is_so(&report), "{report}");
        Ok(report)
    })
    .await
}

async fn ended(process: &mut Process) -> Result<Value> {
    process.terminate()?;
    let status = process.wait(ENDS).await?;
    ensure!(status.success(), "{status}: {}", process.log());
    last(process, "summary")
}

/// Everything that was written has arrived, and everybody who began has a receipt: exactly one each.
async fn nothing_is_lost(site: &Site, summary: &Value) -> Result<BTreeSet<String>> {
    ensure!(
        summary["waiting"] == 0 && summary["sessions"] == 0,
        "{summary}"
    );
    ensure!(
        summary["records"].as_u64().context("records")?
            + summary["backlog"].as_u64().context("backlog")?
            == summary["records_acknowledged"]
                .as_u64()
                .context("acknowledged")?,
        "{summary}"
    );
    let opened = summary["opened_here"].as_u64().context("opened")?;
    ensure!(summary["ended"] == opened, "{summary}");
    wait_for("each session has its receipt", PATIENCE, async || {
        let (receipts, adjustments) = site.cdrs().await?;
        ensure!(adjustments.is_empty(), "{adjustments:?}");
        let sessions: BTreeSet<_> = receipts.iter().map(|r| r.session_id).collect();
        ensure!(
            sessions.len() == receipts.len(),
            "two receipts of one session"
        );
        ensure!(
            receipts.len() as u64 == opened,
            "{} receipts of {opened} sessions",
            receipts.len()
        );
        Ok(receipts.iter().map(|r| r.cp_id.to_string()).collect())
    })
    .await
}

async fn a_site() -> Result<Site> {
    Site::start(&Layout::small(Charger::Orderly)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_charge_and_are_in_sync_again_after_the_server_was_killed() -> Result<()> {
    const COUNT: u32 = 200;
    let mut site = a_site().await?;
    let all = names(COUNT)?;
    let credentials = site.nats.keys().creds_of(Role::ChargePoint, &all)?;
    let mut process = swarm(
        &site,
        &credentials,
        &[
            "--count=200",
            "--ramp=100",
            "--source=127.1.0.1-127.1.0.3",
            "--starts=50",
            "--session-s=5",
        ],
    )?;
    until(&process, "all are in sync", |r| r["in_sync"] == COUNT).await?;
    until(&process, "each has begun a session", |r| {
        r["opened_here"].as_u64() >= Some(COUNT.into())
    })
    .await?;
    site.nats.kill()?;
    until(&process, "all notice", |r| r["connected"] == 0).await?;
    site.nats.restart().await?;
    let report = until(&process, "all are in sync again", |r| {
        r["in_sync"] == COUNT && r["rounds"].as_array().is_some_and(|r| r.len() == 2)
    })
    .await?;
    let cut = &report["rounds"][1];
    ensure!(cut["cause"] == "cut" && cut["count"] == COUNT, "{cut}");
    let summary = ended(&mut process).await?;
    let charged = nothing_is_lost(&site, &summary).await?;
    ensure!(
        all.iter().all(|cp| charged.contains(cp.as_str())),
        "{} of {COUNT} have a receipt",
        charged.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn charge_points_of_one_load_credential_share_a_connection_and_speak_for_nobody_else()
-> Result<()> {
    const COUNT: u32 = 100;
    let site = a_site().await?;
    let keys = site.nats.keys();
    let credentials = keys.load_creds("LOAD", &names(COUNT)?)?;
    keys.push(&site.nats.url(), None).await?;
    let mut process = swarm(
        &site,
        &credentials,
        &["--count=100", "--share", "--starts=50", "--session-s=2"],
    )?;
    until(&process, "all are in sync", |r| r["in_sync"] == COUNT).await?;
    let connected = site.nats.monitor("/connz?limit=1000").await?;
    let shared: BTreeSet<_> = connected["connections"]
        .as_array()
        .context("connections")?
        .iter()
        .filter_map(|c| c["name"].as_str())
        .filter(|name| name.starts_with("LOAD"))
        .collect();
    ensure!(shared == BTreeSet::from(["LOAD-1", "LOAD-2"]), "{shared:?}");
    until(&process, "each has begun a session", |r| {
        r["opened_here"].as_u64() >= Some(COUNT.into())
    })
    .await?;
    let other = site.nats.connect_as(Role::Load, "LOAD-1").await?;
    let mine = other.request("ev.v1.cp.SWARM-000001.sync", "{}".into());
    ensure!(mine.await.is_ok(), "its own charge point may ask");
    for foreign in ["ev.v1.cp.SWARM-000100.sync", "ev.v1.cp.CP-001.sync"] {
        let asked = other.request(foreign, "{}".into());
        let asked = tokio::time::timeout(Duration::from_secs(2), asked).await;
        ensure!(!matches!(asked, Ok(Ok(_))), "{foreign} was answered");
    }
    let summary = ended(&mut process).await?;
    nothing_is_lost(&site, &summary).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_records_drain_in_order_while_others_charge() -> Result<()> {
    let site = a_site().await?;
    let credentials = site.nats.keys().creds_of(Role::ChargePoint, &names(1)?)?;
    let state = tempfile::tempdir()?;
    let state_dir = format!("--state-dir={}", state.path().display());
    let more = ["--count=1", "--connectors=4", "--backlog=5000", &state_dir];
    let mut process = swarm(&site, &credentials, &more)?;
    let alice = site.driver("alice").await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_energy(&session, 1_000).await?;
    alice.stop(&session).await?;
    crate::ended_right(&site, &alice, &session, before, "CP-001").await?;
    let report = until(&process, "all is drained", |r| r["drained_ms"].is_u64()).await?;
    ensure!(report["backlog"].as_u64() >= Some(5_000), "{report}");
    let summary = ended(&mut process).await?;
    ensure!(summary["waiting"] == 0, "{summary}");
    // Taken out of order, a record would be a gap or lie in quarantine, and its session would not
    // end right: the ledger would have fewer receipts than the spool had ends.
    let receipts = wait_for("all sessions have receipts", PATIENCE, async || {
        let (receipts, adjustments) = site.cdrs().await?;
        ensure!(adjustments.is_empty(), "{adjustments:?}");
        let mut drained: Vec<_> = receipts
            .into_iter()
            .filter(|r| r.cp_id.as_str() == "SWARM-000001")
            .collect();
        ensure!(drained.len() >= 300, "{}", drained.len());
        drained.sort_by_key(|r| r.session_id);
        Ok(drained)
    })
    .await?;
    for what in ["quarantined", "missing"] {
        let name = format!("ev_spool_records_total{{what=\"{what}\"}}");
        let odd = site.metric(0, &name).await?;
        ensure!(odd == 0.0, "{odd} records {what}");
    }
    ensure!(receipts.iter().all(|r| r.energy_mwh.0 > 0), "{receipts:?}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_is_said_before_anything_begins() -> Result<()> {
    let table: [(&[&str], i32, &str); 4] = [
        (&["--count=0", "--names"], 78, "--count: 0 is not within"),
        (&["--count=5", "--names", "--prefix=a.b"], 78, "--prefix"),
        (
            &["--count=30000", "--ca=/ca", "--credentials=/c"],
            78,
            "127.1.0.1-127.1.0.3",
        ),
        (&["--count=5"], 2, "--credentials"),
    ];
    for (args, code, words) in table {
        let mut all = vec!["swarm"];
        all.extend(args);
        let mut process = Process::spawn("edge-cp", all)?;
        let status = process.wait(PATIENCE).await?;
        let log = process.log();
        ensure!(status.code() == Some(code), "{args:?}: {status}: {log}");
        ensure!(log.contains(words), "{args:?}: {log}");
    }
    Ok(())
}
