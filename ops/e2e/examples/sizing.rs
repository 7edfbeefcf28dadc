//! Measures what a session costs on disk and in central's memory, with real processes; the figures of
//! `ops/docs/sizing.md`. Takes about seven minutes, since checkpoints come by the minute.
//!
//! ```text
//! cargo build -p central -p edge-cp --bins
//! EV_BIN_DIR=target/debug NATS_SERVER=.dev/bin/nats-server cargo run -p ev-e2e --example sizing
//! ```

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::{self, object_store::ObjectStore};
use ev_contract::{connector::Phase, streams, wire::Encoding};
use ev_e2e::{Charger, Driver, Layout, Site};
use ev_testkit::Role;
use futures::{StreamExt, future::try_join_all};

/// Charge points, one session each at a time.
const CHARGE_POINTS: usize = 20;
/// Short sessions of each.
const SHORT: usize = 25;
/// The long ones run for so long; the first minute is not measured.
const LONG: Duration = Duration::from_secs(5 * 60);
const FIRST: Duration = Duration::from_secs(60);
/// Questions one after the other.
const QUESTIONS: u64 = 200;

#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: u64,
    messages: u64,
}

async fn size(js: &jetstream::Context, stream: &str) -> Result<Size> {
    let stream = js.get_stream(stream).await?;
    let state = &stream.cached_info().state;
    Ok(Size {
        bytes: state.bytes,
        messages: state.messages,
    })
}

impl Size {
    fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            messages: self.messages - before.messages,
        }
    }
}

fn memory(site: &Site) -> Result<u64> {
    let path = format!("/proc/{}/status", site.centrals[0].pid());
    let text = std::fs::read_to_string(path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

async fn snapshot(site: &Site) -> Result<u64> {
    let nats = site.nats.connect_as(Role::Central, "central-9").await?;
    let js = jetstream::new(nats);
    let store: ObjectStore = js.get_object_store(streams::SNAPSHOT_BUCKET).await?;
    let mut list = store.list().await?;
    let mut newest = (String::new(), 0);
    while let Some(info) = list.next().await {
        let info = info?;
        newest = newest.max((info.name, u64::try_from(info.size)?));
    }
    Ok(newest.1)
}

async fn short(driver: &Driver, cp: &str) -> Result<()> {
    for _ in 0..SHORT {
        let session = driver.start(cp).await?;
        driver.wait_energy(&session, 1_000).await?;
        driver.stop(&session).await?;
        driver.wait_ended(&session).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut site = Site::start(&Layout {
        charge_points: CHARGE_POINTS,
        sim_speed: 1,
        ..Layout::small(Charger::Orderly)
    })
    .await?;
    let js = site.maintainer().await?;
    let mut drivers = Vec::new();
    for n in 1..=CHARGE_POINTS {
        site.ctl(&["plug", &format!("CP-{n:03}")]).await?;
        drivers.push(site.driver(&format!("driver-{n}")).await?);
    }
    let all = || {
        drivers
            .iter()
            .zip(1..)
            .map(|(d, n)| (d, format!("CP-{n:03}")))
    };
    let count = (CHARGE_POINTS * SHORT) as u64;

    let asker = &drivers[0];
    let before = size(&js, streams::LEDGER.name).await?;
    for _ in 0..QUESTIONS {
        asker.open().await?;
    }
    let asked = size(&js, streams::LEDGER.name).await?.since(before);
    println!(
        "a question alone in its frame: {} bytes of ledger",
        asked.bytes / QUESTIONS
    );

    let olga = site.asker(Role::Operator, "olga").await?;
    for _ in 0..QUESTIONS {
        let body = br#"{"type":"op.cp_ls","to":"central"}"#.to_vec();
        olga.raw("ev.v1.op.olga.cp_ls".into(), body, Encoding::Json)
            .await?;
    }
    let audit = size(&js, streams::AUDIT.name).await?;
    println!(
        "an entry of the audit: {} bytes",
        audit.bytes / audit.messages
    );

    site.centrals[0].terminate()?;
    site.centrals[0].wait(Duration::from_secs(30)).await?;
    let snapshot_before = snapshot(&site).await?;
    site.central_again(0).await?;
    site.charge_points_online(CHARGE_POINTS).await?;
    let memory_before = memory(&site)?;
    let before = size(&js, streams::LEDGER.name).await?;
    try_join_all(all().map(async |(d, cp)| short(d, &cp).await)).await?;
    let ledger = size(&js, streams::LEDGER.name).await?.since(before);
    let cdr = size(&js, streams::CDR.name).await?;
    println!(
        "{count} short sessions: {} bytes of ledger each ({} frames in all), a receipt {} bytes",
        ledger.bytes / count,
        ledger.messages,
        cdr.bytes / cdr.messages.max(1)
    );
    println!(
        "central: {} MiB before, {} MiB after",
        memory_before >> 20,
        memory(&site)? >> 20
    );
    site.centrals[0].terminate()?;
    site.centrals[0].wait(Duration::from_secs(30)).await?;
    let grown = snapshot(&site).await?.saturating_sub(snapshot_before);
    println!(
        "in a snapshot, and so in the state: {} bytes a session",
        grown / count
    );
    site.central_again(0).await?;
    site.charge_points_online(CHARGE_POINTS).await?;

    let sessions = try_join_all(all().map(async |(d, cp)| d.start(&cp).await)).await?;
    for (driver, session) in drivers.iter().zip(&sessions) {
        driver.wait_phase(session, Phase::Charging).await?;
    }
    tokio::time::sleep(FIRST).await;
    let before = size(&js, streams::LEDGER.name).await?;
    tokio::time::sleep(LONG - FIRST).await;
    let minutes = (LONG - FIRST).as_secs() / 60 * CHARGE_POINTS as u64;
    let ledger = size(&js, streams::LEDGER.name).await?.since(before);
    println!(
        "a minute of a session: {} bytes of ledger ({} frames in {minutes} minutes of sessions)",
        ledger.bytes / minutes,
        ledger.messages
    );
    Ok(())
}
