//! The ledger audits itself; a restart reads it all.

use std::path::Path;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use ev_contract::{connector::Phase, streams, subjects, wire::Encoding};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions, accepted};
use ev_testkit::{PATIENCE, wait_for};

use crate::{ended_right, plugged};

async fn refuses_to_serve(site: &Site, central: usize) -> Result<String> {
    wait_for("the replica stops answering", PATIENCE, async || {
        let (status, body) = site.http(central, "/readyz").await?;
        ensure!(
            status == 503 && body.contains("stopped answering"),
            "{status} {body}"
        );
        Ok(body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_removed_from_the_ledger_is_noticed() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let js = site.maintainer().await?;
    let stream = js.get_stream(streams::LEDGER.name).await?;
    stream.delete_message(3).await?;
    let why = refuses_to_serve(&site, 0).await?;
    ensure!(why.contains("removed"), "{why}");
    ensure!(site.metric(0, "ev_ledger_alarm").await? == 1.0);
    // Nor does a restart make it forget.
    site.centrals[0].kill9()?;
    site.centrals[0].restart()?;
    refuses_to_serve(&site, 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_emptied_is_noticed() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let js = site.maintainer().await?;
    js.get_stream(streams::LEDGER.name).await?.purge().await?;
    refuses_to_serve(&site, 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_the_ledger_has_it() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    for cp in ["CP-001", "CP-002"] {
        wait_for("the spool is empty", PATIENCE, async || {
            let depth = site.spool_depth(cp).await?;
            ensure!(depth == 0, "{depth} records wait");
            Ok(())
        })
        .await?;
    }
    let js = site.maintainer().await?;
    let config = js
        .get_stream(streams::LEDGER.name)
        .await?
        .cached_info()
        .config
        .clone();
    // The server refuses each append.
    let full = jetstream::stream::Config {
        max_messages: 1,
        ..config.clone()
    };
    let start = StartOptions::default();
    // Each alone, so that none waits for another one's frame.
    let asked = [
        ("status", b"{}".to_vec()),
        (
            "start",
            serde_json::to_vec(&Driver::start_request("CP-001", &start))?,
        ),
    ];
    for (verb, question) in asked {
        js.update_stream(full.clone()).await?;
        let subject = format!("ev.v1.driver.alice.{verb}");
        let answer = alice.raw(subject, question, Encoding::Json).await;
        ensure!(
            answer.is_err(),
            "{verb} was answered: {}",
            String::from_utf8_lossy(&answer.unwrap_or_default())
        );
        js.update_stream(config.clone()).await?;
        alice.open().await?;
    }
    let session = accepted(&alice.start_with("CP-001", &start).await?)?;
    let open = alice.open().await?;
    ensure!(
        open.len() == 1 && open[0].session_id.to_string() == session,
        "{open:?}"
    );
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_noticed_also_by_a_replica_that_knows_nothing_else() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let copy = tempfile::tempdir()?;
    site.nats.kill()?;
    copy_folder(site.nats.data_dir(), copy.path())?;
    site.nats.restart().await?;
    alice.stop(&session).await?;
    alice.wait_ended(&session).await?;
    site.centrals[1].kill9()?;
    site.nats.kill()?;
    std::fs::remove_dir_all(site.nats.data_dir())?;
    copy_folder(copy.path(), site.nats.data_dir())?;
    site.nats.restart().await?;
    site.centrals[1].restart()?;
    // Nobody asks anything.
    for central in [0, 1] {
        refuses_to_serve(&site, central).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_on_the_ledgers_subject_changes_nothing() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    // Only a central can write there at all.
    let js = jetstream::new(site.nats.connect().await?);
    for junk in [&b""[..], b"{}", b"\x81\xa1x\x01", b"EV"] {
        js.publish(subjects::LEDGER, junk.into()).await?.await?;
    }
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    site.centrals[1].kill9()?;
    site.central_again(1).await?;
    ensure!(alice.history().await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_a_newer_build_stops_this_one() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let js = jetstream::new(site.nats.connect().await?);
    js.publish(subjects::LEDGER, "EVF3 from the future".into())
        .await?
        .await?;
    let why = refuses_to_serve(&site, 0).await?;
    ensure!(why.contains("cannot read"), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_from_a_snapshot_knows_everything() -> Result<()> {
    let layout = Layout {
        central_extra: "snapshot_every = 10".into(),
        ..Layout::small(Charger::Orderly)
    };
    let mut site = Site::start(&layout).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let alice = site.driver("alice").await?;
    for _ in 0..10 {
        let session = alice.start("CP-001").await?;
        alice.stop(&session).await?;
        alice.wait_ended(&session).await?;
    }
    let before = alice.history().await?;
    wait_for("there is a snapshot", PATIENCE, async || {
        let written = "ev_snapshots_total{result=\"written\"}";
        ensure!(site.metric(0, written).await? > 0.0, "none");
        Ok(())
    })
    .await?;
    site.centrals[0].kill9()?;
    site.central_again(0).await?;
    ensure!(site.centrals[0].log().contains("going on from a snapshot"));
    ensure!(alice.history().await? == before);
    Ok(())
}
