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
    v1::{DriverUpdate, ErrorReply, Flag, Status, StatusReply, StatusRequest, StopRequest},
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

/// Makes one in a folder that is made with it.
async fn backup(site: &Site, name: &str) -> Result<PathBuf> {
    let to = site.dir().join("backups").join(name);
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
    let (cdrs, ledger, uptime) = (
        messages(&site, streams::CDR.name).await?,
        messages(&site, streams::LEDGER.name).await?,
        messages(&site, streams::UPTIME.name).await?,
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
    let restored = messages(&site, streams::UPTIME.name).await?;
    ensure!(
        !restored.is_empty() && uptime.starts_with(&restored),
        "another account of uptime"
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

/// What happened between the backup and the loss of the server.
#[tokio::test(flavor = "multi_thread")]
async fn what_ended_since_the_backup_is_written_off_and_what_began_is_kept_aside() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let (alice, bob) = (site.driver("alice").await?, site.driver("bob").await?);
    let before = [
        site.register("CP-001").await?,
        site.register("CP-002").await?,
    ];
    let ended_since = alice.start("CP-001").await?;
    alice.wait_energy(&ended_since, 50_000).await?;
    let folder = backup(&site, "backup").await?;
    alice.stop(&ended_since).await?;
    ended_right(&site, &alice, &ended_since, before[0], "CP-001").await?;
    let begun_since = bob.start("CP-002").await?;
    bob.wait_energy(&begun_since, 50_000).await?;
    site.centrals[0].kill9()?;
    empty_the_server(&mut site).await?;
    let (code, said) = restore(&site, &folder).await?;
    ensure!(code == Some(0), "{code:?}: {said}");
    site.central_again(0).await?;
    site.charge_points_online(2).await?;
    // What had ended is open again: its charge point has told its end once, and says no more of it.
    let open = alice.open().await?;
    ensure!(
        open.len() == 1 && open[0].session_id.to_string() == ended_since,
        "{open:?}"
    );
    let body = serde_json::json!({
        "session_id": ended_since, "reason": "restored", "write_off": true,
    });
    alice.operate("session_end", body).await?;
    let view = alice.wait_ended(&ended_since).await?;
    let receipt = alice.receipt(&ended_since).await?.receipt;
    ensure!(receipt.flags.contains(&Flag::WrittenOff), "{view:?}");
    // What had begun is nobody's: it goes on in its charger until the car goes, and its records are
    // kept aside.
    ensure!(bob.open().await?.is_empty());
    for verb in ["unplug", "plug"] {
        site.ctl(&[verb, "CP-002"]).await?;
    }
    site.cdr(&ended_since).await?;
    wait_for("the records are kept aside", PATIENCE, async || {
        let (code, report) = verify(&site).await?;
        ensure!(code == Some(0), "{report}");
        ensure!(report["quarantined"].as_u64() > Some(0), "{report}");
        ensure!(report["missing"].as_u64() > Some(0), "{report}");
        ensure!(report["open"] == 0 && report["ended"] == 1, "{report}");
        Ok(())
    })
    .await?;
    // Both connectors serve again.
    for (driver, cp) in [(&alice, "CP-001"), (&bob, "CP-002")] {
        let next = wait_for("a new session is accepted", PATIENCE, async || {
            driver.start(cp).await
        })
        .await?;
        driver.wait_phase(&next, Phase::Charging).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_ledger_is_said_and_goes_on_when_it_has_room() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    let js = site.maintainer().await?;
    let give = async |room: i64| -> Result<()> {
        let stream = js.get_stream(streams::LEDGER.name).await?;
        let info = stream.cached_info();
        let mut config = info.config.clone();
        config.max_bytes = i64::try_from(info.state.bytes)? + room;
        js.update_stream(config).await?;
        Ok(())
    };
    give(1).await?;
    wait_for("the replica is not ready", PATIENCE, async || {
        // Whoever asks has a frame appended.
        let _ = once::<StatusReply>(&alice, "status", &serde_json::json!({"to": "central"})).await;
        let (status, body) = site.http(0, "/readyz").await?;
        let full = site.metric(0, "ev_ledger_full").await?;
        ensure!(
            status == 503 && body.contains("the ledger is full") && full == 1.0,
            "{status} {body} {full}"
        );
        Ok(())
    })
    .await?;
    give(64 * 1024 * 1024).await?;
    site.ready(0).await?;
    ensure!(site.metric(0, "ev_ledger_full").await? == 0.0);
    alice.stop(&session).await?;
    alice.wait_ended(&session).await?;
    let (code, report) = verify(&site).await?;
    ensure!(code == Some(0), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_read_anew_and_a_bad_one_changes_nothing() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    let path = site.central_config(0);
    let good = std::fs::read_to_string(&path)?;
    let check = async |code: i32, words: &str| -> Result<()> {
        let (is, said) = central(&[&"check-config", &"--config", &path, &"--json"]).await?;
        ensure!(is == Some(code) && said.contains(words), "{is:?} {said}");
        Ok(())
    };
    check(0, "\"ok\":true").await?;

    std::fs::write(&path, format!("{good}\nsessions_per_driver = 0\n"))?;
    check(78, "sessions_per_driver").await?;
    site.centrals[0].hang_up()?;
    site.centrals[0]
        .wait_for_log("nothing has changed", PATIENCE)
        .await?;
    let log = site.centrals[0].log();
    ensure!(log.contains("sessions_per_driver: give 1 to 100"), "{log}");
    let refused = alice.start_with("CP-002", &StartOptions::default()).await?;
    ensure!(
        refused.reason.as_deref() == Some("limit_reached"),
        "{refused:?}"
    );

    let more = "sessions_per_driver = 2\nstream_replicas = 3\n\
                [limits]\noperator = { per_s = 1, burst = 1 }\n";
    std::fs::write(&path, format!("{good}\n{more}"))?;
    check(0, "\"ok\":true").await?;
    site.centrals[0].hang_up()?;
    site.centrals[0]
        .wait_for_log("keys=\"stream_replicas\"", PATIENCE)
        .await?;
    let other = alice.start("CP-002").await?;
    let olga = site.asker(Role::Operator, "olga").await?;
    // One at once is let in, two are not.
    let asked = try_join_all((0..2).map(async |_| {
        let body = br#"{"type":"op.cp_ls","to":"central"}"#.to_vec();
        olga.raw("ev.v1.op.olga.cp_ls".into(), body, Encoding::Json)
            .await
    }))
    .await?;
    let overloaded = asked
        .iter()
        .filter(|answer| String::from_utf8_lossy(answer).contains("overloaded"))
        .count();
    ensure!(overloaded == 1, "{overloaded}");

    // An agent takes it for the next start, and goes on.
    let path = site.dir().join("edge-cp.toml");
    let good = std::fs::read_to_string(&path)?;
    std::fs::write(&path, good.replace("SITE-A", "SITE-B"))?;
    site.agent.hang_up()?;
    site.agent
        .wait_for_log("charge_point CP-001, charge_point CP-002", PATIENCE)
        .await?;
    std::fs::write(&path, "colour = 1\n")?;
    site.agent.hang_up()?;
    site.agent.wait_for_log("cannot be used", PATIENCE).await?;
    for session in [session, other] {
        alice.stop(&session).await?;
        alice.wait_ended(&session).await?;
    }
    Ok(())
}
