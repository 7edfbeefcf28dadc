//! Backup, restore, verify; replicas that are replaced one by one under load.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use ev_contract::{
    connector::Phase,
    streams,
    v1::{DriverUpdate, ErrorReply, Status, StatusReply, StatusRequest, StopRequest},
    wire::{self, CENTRAL, Encoding, Tag},
};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions, accepted, now_ms};
use ev_testkit::{PATIENCE, Role, our_program, wait_for};
use futures::future::{try_join_all, try_join3};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{ended_right, metered, plugged};

/// Runs a verb of `central`.
async fn central(args: &[&dyn AsRef<OsStr>]) -> Result<(Option<i32>, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::process::Command::new(our_program("central")?)
        .args(args.iter().map(AsRef::as_ref))
        .output()
        .await
        .context("run central")?;
    let said = [stdout, stderr].concat();
    Ok((status.code(), String::from_utf8_lossy(&said).into_owned()))
}

async fn verify(site: &Site) -> Result<(Option<i32>, Value)> {
    let config = site.central_config(0);
    let (code, said) = central(&[&"verify", &"--json", &"--config", &config]).await?;
    let report = serde_json::from_str(&said).with_context(|| format!("{code:?} {said}"))?;
    Ok((code, report))
}

async fn backup(site: &Site, name: &str) -> Result<PathBuf> {
    let to = site.dir().join(name);
    let config = site.central_config(0);
    let (code, said) = central(&[&"backup", &"--config", &config, &"--to", &to]).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    Ok(to)
}

async fn restore(site: &Site, from: &Path) -> Result<(Option<i32>, String)> {
    let config = site.central_config(0);
    let maintainer = site.nats.keys().creds(Role::Maintainer, "mona")?;
    central(&[
        &"restore",
        &"--config",
        &config,
        &"--credentials",
        &maintainer,
        &"--from",
        &from,
    ])
    .await
}

/// What a stream holds: sequences, times, payloads.
async fn messages(site: &Site, stream: &str) -> Result<Vec<(u64, i128, Vec<u8>)>> {
    let js = site.maintainer().await?;
    let stream = js.get_stream(stream).await?;
    let last = stream.cached_info().state.last_sequence;
    let mut all = Vec::new();
    for seq in 1..=last {
        let message = stream.get_raw_message(seq).await?;
        let at = message.time.unix_timestamp_nanos();
        all.push((seq, at, message.payload.to_vec()));
    }
    Ok(all)
}

/// Takes everything that the server has stored but who may connect.
async fn empty_the_server(site: &mut Site) -> Result<()> {
    site.nats.stop().await?;
    let store = site.nats.data_dir().join("jetstream");
    std::fs::remove_dir_all(&store).with_context(|| format!("remove {}", store.display()))?;
    site.nats.restart().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_comes_back_from_a_backup_with_every_session_and_receipt() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let (alice, bob) = (site.driver("alice").await?, site.driver("bob").await?);
    let before = [
        site.register("CP-001").await?,
        site.register("CP-002").await?,
    ];
    let over = alice.start("CP-001").await?;
    let running = bob.start("CP-002").await?;
    metered(&site, "CP-001", before[0], 100_000).await?;
    alice.stop(&over).await?;
    let receipt = ended_right(&site, &alice, &over, before[0], "CP-001").await?;
    bob.wait_energy(&running, 100_000).await?;

    let (code, report) = verify(&site).await?;
    ensure!(code == Some(0), "{report}");
    ensure!(report["ended"] == 1 && report["open"] == 1, "{report}");
    let folder = backup(&site, "backup").await?;
    let (code, said) = central(&[&"verify", &"--from-backup", &folder]).await?;
    ensure!(code == Some(0) && said.contains("in order"), "{said}");
    // Neither a folder that is there nor a stream that is there is written over.
    let config = site.central_config(0);
    let (code, said) = central(&[&"backup", &"--config", &config, &"--to", &folder]).await?;
    ensure!(code == Some(75) && said.contains("is there"), "{said}");
    let (code, said) = restore(&site, &folder).await?;
    ensure!(code == Some(75), "{said}");
    ensure!(said.contains("never overwrites"), "{said}");

    // Of central's last words nothing is in the backup: they are lost with the server.
    site.centrals[0].kill9()?;
    let (cdrs, ledger) = (
        messages(&site, streams::CDR.name).await?,
        messages(&site, streams::LEDGER.name).await?,
    );
    empty_the_server(&mut site).await?;
    let (code, said) = restore(&site, &folder).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    ensure!(messages(&site, streams::CDR.name).await? == cdrs);
    let restored = messages(&site, streams::LEDGER.name).await?;
    ensure!(
        !restored.is_empty() && ledger.starts_with(&restored),
        "another ledger"
    );

    site.central_again(0).await?;
    site.charge_points_online(2).await?;
    let history: Vec<String> = alice
        .history()
        .await?
        .iter()
        .map(|view| view.session_id.to_string())
        .collect();
    ensure!(history == [over.clone()], "{history:?}");
    ensure!(alice.receipt(&over).await?.receipt == receipt);
    let open = bob.open().await?;
    ensure!(
        open.len() == 1 && open[0].session_id.to_string() == running,
        "{open:?}"
    );
    // What the charge point told since the backup was lost with the server; its register was not.
    bob.stop(&running).await?;
    ended_right(&site, &bob, &running, before[1], "CP-002").await?;
    let next = alice.start("CP-001").await?;
    alice.wait_phase(&next, Phase::Charging).await?;
    let (code, report) = verify(&site).await?;
    ensure!(code == Some(0), "{report}");
    ensure!(report["ended"] == 2 && report["open"] == 1, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_was_removed_altered_or_added() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let mut sessions = Vec::new();
    for cp in ["CP-001", "CP-002"] {
        let from = site.register(cp).await?;
        let session = alice.start(cp).await?;
        metered(&site, cp, from, 10_000).await?;
        alice.stop(&session).await?;
        ended_right(&site, &alice, &session, from, cp).await?;
        sessions.push(session);
    }
    let (code, report) = verify(&site).await?;
    ensure!(code == Some(0), "{report}");
    let names = async |words: &str, session: &str| -> Result<()> {
        let (code, report) = verify(&site).await?;
        ensure!(code == Some(1), "{report}");
        let named = report["findings"].as_array().is_some_and(|findings| {
            findings.iter().any(|f| {
                f["session"] == session && f["what"].as_str().is_some_and(|w| w.contains(words))
            })
        });
        ensure!(named, "no {words:?} of {session}: {report}");
        Ok(())
    };

    let js = site.maintainer().await?;
    let cdr = js.get_stream(streams::CDR.name).await?;
    let subject = format!("ev.v1.cdr.{}", sessions[0]);
    let good = cdr.get_last_raw_message_by_subject(&subject).await?;
    cdr.delete_message(good.sequence).await?;
    names("is not in the CDR stream", &sessions[0]).await?;
    // As central, which may write there.
    let writer = jetstream::new(site.nats.connect_as(Role::Central, "central-2").await?);
    let mut altered = good.payload.to_vec();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    writer.publish(subject, altered.into()).await?.await?;
    names("is another one than in ledger", &sessions[0]).await?;
    let unknown = uuid::Uuid::now_v7().to_string();
    writer
        .publish(format!("ev.v1.cdr.{unknown}"), good.payload.clone())
        .await?
        .await?;
    names("is not in the ledger", &unknown).await?;

    js.get_stream(streams::LEDGER.name)
        .await?
        .delete_message(3)
        .await?;
    let (code, report) = verify(&site).await?;
    ensure!(code == Some(1), "{report}");
    let first = &report["findings"][0];
    ensure!(
        report["findings"]
            .as_array()
            .is_some_and(|all| all.iter().any(|f| f["at"]["ledger"] == 4)),
        "{first}"
    );
    // What is not in order is copied as it is, and said.
    let to = site.dir().join("evidence");
    let config = site.central_config(0);
    let (code, said) = central(&[&"backup", &"--config", &config, &"--to", &to]).await?;
    ensure!(
        code == Some(1) && said.contains("misses messages"),
        "{said}"
    );
    // An altered backup is refused.
    let file = to.join("EV_LEDGER.natsarc.s2");
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes)?;
    let (code, said) = central(&[&"verify", &"--from-backup", &to]).await?;
    ensure!(code == Some(75), "{said}");
    ensure!(
        said.contains("EV_LEDGER.natsarc.s2 is not what was written"),
        "{said}"
    );
    Ok(())
}

/// A driver who starts and stops without end, asks each time only once, and wants a yes.
async fn starts_and_stops(
    driver: Driver,
    cp: String,
    count: &AtomicUsize,
    done: &AtomicBool,
) -> Result<Vec<String>> {
    let mut sessions = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let request = Driver::start_request(&cp, &StartOptions::default());
        let update: DriverUpdate = once(&driver, "start", &request).await?;
        let session =
            accepted(&update).with_context(|| format!("start {} at {cp}", sessions.len() + 1))?;
        sessions.push(session.clone());
        let request = StopRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: Uuid::new_v4().to_string(),
            expires_at: now_ms() + 20_000,
            session_id: session.clone(),
        };
        let stopped: DriverUpdate = once(&driver, "stop", &request).await?;
        ensure!(stopped.status == Status::Accepted, "{stopped:?}");
        driver.wait_ended(&session).await?;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(sessions)
}

/// One attempt, no second one.
async fn once<T: DeserializeOwned>(
    driver: &Driver,
    verb: &str,
    request: &impl Serialize,
) -> Result<T> {
    let bytes = wire::encode(request, Encoding::MsgPack)?;
    let subject = format!("ev.v1.driver.{}.{verb}", driver.id);
    let answer = driver.raw(subject, bytes, Encoding::MsgPack).await;
    let answer = answer.with_context(|| format!("the only attempt to {verb}"))?;
    if let Ok(error) = wire::decode::<ErrorReply>(&answer, Encoding::MsgPack) {
        bail!("{verb} was refused: {}", error.error);
    }
    Ok(wire::decode(&answer, Encoding::MsgPack)?)
}

/// Somebody who looks again and again, so that at any instant a question is on its way.
async fn looks(driver: &Driver, done: &AtomicBool) -> Result<()> {
    let request = StatusRequest {
        tag: Tag::new(),
        to: CENTRAL.into(),
        session_id: None,
    };
    while !done.load(Ordering::Relaxed) {
        let _: StatusReply = once(driver, "status", &request).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_replaced_one_by_one_and_no_driver_notices() -> Result<()> {
    const DRIVERS: usize = 4;
    const ROUNDS: usize = 3;
    /// Questions that are under way at any time.
    const LOOKING: usize = 32;
    let mut site = Site::start(&Layout {
        charge_points: DRIVERS,
        central_extra: "[limits]\ndriver_reads = { per_s = 100000, burst = 100000 }".into(),
        ..Layout::small(Charger::Orderly).centrals(2)
    })
    .await?;
    let done = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let mut drivers = Vec::new();
    for n in 1..=DRIVERS {
        let driver = site.driver(&format!("driver-{n}")).await?;
        drivers.push(starts_and_stops(
            driver,
            format!("CP-{n:03}"),
            &count,
            &done,
        ));
    }
    let looker = site.driver("looker").await?;
    let looking = try_join_all((0..LOOKING).map(|_| looks(&looker, &done)));
    let goes_on = async || {
        let from = count.load(Ordering::Relaxed);
        wait_for("drivers start and stop", PATIENCE, async || {
            let more = count.load(Ordering::Relaxed) - from;
            ensure!(more >= 2 * DRIVERS, "{more}");
            Ok(())
        })
        .await
    };
    let replaced = async {
        for _ in 0..ROUNDS {
            for n in 0..site.centrals.len() {
                goes_on().await?;
                site.centrals[n].terminate()?;
                let ended = site.centrals[n].wait(PATIENCE).await?;
                ensure!(ended.success(), "{ended}");
                goes_on().await?;
                site.central_again(n).await?;
            }
        }
        goes_on().await?;
        done.store(true, Ordering::Relaxed);
        Ok(())
    };
    let (sessions, _, ()) = try_join3(try_join_all(drivers), looking, replaced).await?;
    let started: BTreeSet<_> = sessions.iter().flatten().collect();
    let accepted: usize = sessions.iter().map(Vec::len).sum();
    ensure!(started.len() == accepted, "an id was given twice");
    let (code, report) = verify(&site).await?;
    ensure!(code == Some(0), "{report}");
    ensure!(
        report["ended"] == accepted && report["open"] == 0,
        "{accepted} accepted: {report}"
    );
    Ok(())
}
