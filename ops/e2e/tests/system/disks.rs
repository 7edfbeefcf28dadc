//! Lost disks: nobody is answered from an empty world, and what comes back goes on.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ev_contract::{connector::Phase, streams, wire::Encoding};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions};
use ev_testkit::{PATIENCE, Role, our_program, wait_for};

use crate::{ended_right, metered, plugged};

/// Takes the server's store away, and starts it without one, as when its disk is not mounted.
async fn unmount(site: &mut Site) -> Result<PathBuf> {
    site.nats.stop().await?;
    let away = site.dir().join("away");
    let store = site.nats.data_dir().join("jetstream");
    std::fs::rename(&store, &away).context("move the store away")?;
    site.nats.restart().await?;
    Ok(away)
}

/// Puts it back in place of whatever has come there meanwhile.
async fn mount(site: &mut Site, away: &PathBuf) -> Result<()> {
    site.nats.stop().await?;
    let store = site.nats.data_dir().join("jetstream");
    std::fs::remove_dir_all(&store).context("remove what came meanwhile")?;
    std::fs::rename(away, &store).context("move the store back")?;
    site.nats.restart().await
}

/// Waits until a replica has stopped answering, by itself, for a kind of reason.
async fn alarmed(site: &Site, central: usize, kind: &str) -> Result<String> {
    wait_for(
        "the replica is not ready and says why",
        PATIENCE,
        async || {
            let (status, body) = site.http(central, "/readyz").await?;
            let alarm = format!("ev_ledger_alarm{{kind=\"{kind}\"}}");
            let is = site.metric(central, &alarm).await?;
            ensure!(status == 503 && is == 1.0, "{status} {body} {is}");
            ensure!(body.contains("stopped answering"), "{body}");
            Ok(body)
        },
    )
    .await
}

fn start_of_cp_1() -> Result<Vec<u8>> {
    let start = StartOptions::default();
    Ok(serde_json::to_vec(&Driver::start_request(
        "CP-001", &start,
    ))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_without_its_disk_is_not_served_and_goes_on_when_the_disk_is_back() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let (alice, bob) = (site.driver("alice").await?, site.driver("bob").await?);
    let before = site.register("CP-001").await?;
    let over = alice.start("CP-001").await?;
    metered(&site, "CP-001", before, 10_000).await?;
    alice.stop(&over).await?;
    let receipt = ended_right(&site, &alice, &over, before, "CP-001").await?;
    let from = site.register("CP-002").await?;
    let running = bob.start("CP-002").await?;
    bob.wait_phase(&running, Phase::Charging).await?;
    let verify = |site: &Site| {
        let config = site.central_config(0);
        async move {
            let said = tokio::process::Command::new(our_program("central")?)
                .args(["verify", "--config"])
                .arg(config)
                .output()
                .await?;
            anyhow::Ok((
                said.status.code(),
                String::from_utf8_lossy(&said.stdout).into_owned(),
            ))
        }
    };
    let (code, said) = verify(&site).await?;
    ensure!(code == Some(0), "{said}");

    // One replica is started anew without the disk, one sees it go.
    site.centrals[0].kill9()?;
    let away = unmount(&mut site).await?;
    site.centrals[0].restart()?;
    for central in [0, 1] {
        let why = alarmed(&site, central, "missing").await?;
        ensure!(
            why.contains("no ledger") && why.contains("served ledger"),
            "{why}"
        );
    }
    for (verb, question) in [("list", b"{}".to_vec()), ("start", start_of_cp_1()?)] {
        let subject = format!("ev.v1.driver.alice.{verb}");
        let answer = alice.raw(subject, question, Encoding::Json).await;
        ensure!(answer.is_err(), "{verb} is answered from an empty world");
    }
    let js = site.maintainer().await?;
    for name in [streams::LEDGER.name, streams::CDR.name, streams::AUDIT.name] {
        ensure!(js.get_stream(name).await.is_err(), "{name} was made");
    }
    let (code, said) = verify(&site).await?;
    ensure!(code != Some(0) && !said.contains("in order"), "{said}");
    let init = tokio::process::Command::new(our_program("central")?)
        .args(["init-ledger", "--config"])
        .arg(site.central_config(0))
        .output()
        .await?;
    let said = String::from_utf8_lossy(&init.stderr).into_owned();
    ensure!(
        init.status.code() == Some(75) && said.contains("--give-up"),
        "{said}"
    );

    mount(&mut site, &away).await?;
    for central in [0, 1] {
        site.ready(central).await?;
        ensure!(site.metric(central, "ev_ledger_alarm").await? == 0.0);
    }
    site.charge_points_online(2).await?;
    ensure!(alice.receipt(&over).await?.receipt == receipt);
    bob.stop(&running).await?;
    ended_right(&site, &bob, &running, from, "CP-002").await?;
    let (code, said) = verify(&site).await?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}

/// Who starts for the first time while the disk is away knows of nothing that speaks against a new world.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_not_the_first_makes_no_ledger_until_somebody_says_so() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    unmount(&mut site).await?;
    site.centrals[0].kill9()?;
    let keys = site.nats.keys();
    for role in [Role::Central, Role::Doorkeeper] {
        keys.creds(role, "central-9")?;
    }
    let path = site.central_config(0);
    let text = std::fs::read_to_string(&path)?.replace("central-1", "central-9");
    std::fs::write(&path, text).context("write another replica's configuration")?;
    site.centrals[0].restart()?;
    let why = alarmed(&site, 0, "missing").await?;
    let command = format!("central init-ledger --config {}", path.display());
    ensure!(why.contains(&command), "{why}");
    for says in ["is made", "is there"] {
        let done = tokio::process::Command::new(our_program("central")?)
            .args(["init-ledger", "--config"])
            .arg(&path)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success() && said.contains(says), "{said}");
    }
    site.ready(0).await?;
    // What the charge points have given to the other ledger is missing in this one.
    wait_for("it is counted as missing", PATIENCE, async || {
        let missing = "ev_spool_records_total{what=\"missing\"}";
        ensure!(site.metric(0, missing).await? > 0.0, "nothing is missing");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_deleted_raises_the_alarm_without_any_question() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    // Nobody asks anything from here on.
    site.agent.kill9()?;
    let js = site.maintainer().await?;
    js.delete_stream(streams::LEDGER.name).await?;
    alarmed(&site, 0, "missing").await?;
    // What is left beside it says the same to a replica that has forgotten all.
    site.centrals[0].kill9()?;
    let marker = site
        .nats
        .keys()
        .creds_dir()
        .join("central/central-1.ledger.json");
    std::fs::remove_file(&marker).context("remove the marker")?;
    site.centrals[0].restart()?;
    let why = alarmed(&site, 0, "missing").await?;
    ensure!(why.contains("EV_CDR"), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cdr_stream_that_was_deleted_is_made_anew_and_filled() -> Result<()> {
    let site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    metered(&site, "CP-001", before, 10_000).await?;
    alice.stop(&session).await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    let js = site.maintainer().await?;
    for purge in [false, true] {
        let anew = "ev_streams_anew_total{stream=\"EV_CDR\"}";
        let counts = [site.metric(0, anew).await?, site.metric(1, anew).await?];
        if purge {
            js.get_stream(streams::CDR.name).await?.purge().await?;
        } else {
            js.delete_stream(streams::CDR.name).await?;
        }
        ensure!(site.cdr(&session).await? == receipt);
        for central in [0, 1] {
            wait_for("it is told", PATIENCE, async || {
                ensure!(site.metric(central, anew).await? > counts[central]);
                Ok(())
            })
            .await?;
        }
        ensure!(site.metric(0, "ev_ledger_alarm").await? == 0.0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_a_killed_replica_left_is_copied_by_who_lives() -> Result<()> {
    let layout = Layout {
        crash_points: true,
        ..Layout::small(Charger::Orderly).centrals(2)
    };
    let mut site = Site::start(&layout).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    site.centrals[1].pause()?;
    site.centrals[0].kill9()?;
    // It dies when it has decided an end, and before its receipt leaves.
    site.centrals[0].set_env(ev_crash::VARIABLE, Some("receipt/one:1"));
    site.central_again(0).await?;
    let alice = site.driver("alice").await?;
    site.charge_points_online(2).await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    metered(&site, "CP-001", before, 10_000).await?;
    // Its answer may die with it.
    let _ = alice.stop(&session).await;
    wait_for("the replica has died", PATIENCE, async || {
        ensure!(site.centrals[0].has_ended(), "it lives");
        Ok(())
    })
    .await?;
    ensure!(site.cdrs().await?.0.is_empty(), "it had left");
    site.centrals[1].resume()?;
    let copy = site.cdr(&session).await?;
    ensure!(alice.receipt(&session).await?.receipt == copy);
    wait_for("none waits", PATIENCE, async || {
        ensure!(site.metric(1, "ev_receipts_waiting").await? == 0.0);
        Ok(())
    })
    .await
}
