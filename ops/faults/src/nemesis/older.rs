//! The server's store is replaced by an older copy behind the replicas' backs: what a restore from
//! a backup does, or a virtual machine that is set back. What was acknowledged since is gone; the
//! only right thing that is left is to say so and to answer nothing. Or it is not there at all, as when
//! its disk is not mounted; and everything goes on when it is back.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use ev_contract::streams;
use ev_testkit::Role;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    caller::{Caller, Tongue},
    charge_points,
    history::{History, unix_ms},
    system::{Plan, System, central, drivers, server},
};

/// A replica gives a server that claims to be behind the time of an election before it believes
/// it: 30 s, and as much again for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);
const CHARGED_WITHIN: Duration = Duration::from_secs(60);

/// What happens around the replacement.
#[derive(Debug, Clone, Copy)]
struct Scene {
    what: &'static str,
    store: Store,
    /// Replicas that are restarted after it, by number: they know nothing but the older copy.
    restarted: &'static [usize],
    /// Drivers go on asking.
    asked: bool,
}

/// What becomes of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// An older copy.
    Older,
    /// None, until it is back.
    Away,
    /// The ledger's stream is deleted from it.
    Deleted,
}

const SCENES: [Scene; 8] = [
    Scene {
        store: Store::Older,
        what: "both replicas run on, drivers ask",
        restarted: &[],
        asked: true,
    },
    Scene {
        store: Store::Older,
        what: "both replicas run on, nobody asks",
        restarted: &[],
        asked: false,
    },
    Scene {
        store: Store::Older,
        what: "one replica is restarted, drivers ask",
        restarted: &[2],
        asked: true,
    },
    Scene {
        store: Store::Older,
        what: "one replica is restarted, nobody asks",
        restarted: &[2],
        asked: false,
    },
    Scene {
        store: Store::Away,
        what: "the store is away and comes back, both replicas run on",
        restarted: &[],
        asked: true,
    },
    Scene {
        store: Store::Away,
        what: "the store is away and comes back, one replica is restarted",
        restarted: &[2],
        asked: true,
    },
    Scene {
        store: Store::Away,
        what: "the store is away and comes back, both replicas are restarted",
        restarted: &[1, 2],
        asked: true,
    },
    Scene {
        store: Store::Deleted,
        what: "the ledger's stream is deleted, nobody asks",
        restarted: &[],
        asked: false,
    },
];

/// Plays the scenes with these numbers, or all.
pub async fn play(scenes: &[usize]) -> Result<ExitCode> {
    let mut failed = 0;
    for (scene, n) in SCENES.iter().zip(1..) {
        if !scenes.is_empty() && !scenes.contains(&n) {
            continue;
        }
        match play_one(scene).await {
            Ok(said) => println!("ok      {n}. {}: {said}", scene.what),
            Err(error) => {
                failed += 1;
                println!("FAILED  {n}. {}: {error:#}", scene.what);
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play_one(scene: &Scene) -> Result<String> {
    let dir = tempfile::Builder::new()
        .prefix("ev-older-copy-")
        .tempdir()
        .context("make a folder")?;
    let history = Arc::new(History::create(&dir.path().join("history.jsonl"), false)?);
    let plan = Plan {
        dir: dir.path().to_owned(),
        servers: 1,
        centrals: 2,
        charge_points: charge_points(false).into_iter().take(1).collect(),
        driver_groups: 1,
        sim_speed: 60,
        mounts: false,
        faketime: None,
        snapshot_every: 10_000,
    };
    let system = System::start(plan).await?;
    let url = system.url_of(&drivers(1));
    let caller = Caller::connect(
        &system.keys,
        &url,
        "driver.alice".into(),
        Tongue::Json,
        history,
    )
    .await?;
    let store = dir.path().join(server(1));
    let copy = dir.path().join("copy");
    let nats = system.member(&server(1))?;

    charge(&system, &caller).await?;
    match scene.store {
        Store::Older => {}
        Store::Away => return away(&system, &caller, scene, &store.join("jetstream"), &copy).await,
        Store::Deleted => {
            let lost = charge(&system, &caller).await?;
            let js = maintainer(&system).await?;
            js.delete_stream(streams::LEDGER.name).await?;
            return wait_until_noticed(&system, &caller, scene.asked, &lost).await;
        }
    }
    nats.process.lock().await.kill9()?;
    copy_folder(&store, &copy)?;
    nats.process.lock().await.restart()?;
    system.wait_server(1).await?;

    let lost = charge(&system, &caller).await?;
    for n in scene.restarted {
        system.member(&central(*n))?.process.lock().await.kill9()?;
    }
    nats.process.lock().await.kill9()?;
    std::fs::remove_dir_all(&store).context("remove the store")?;
    copy_folder(&copy, &store)?;
    nats.process.lock().await.restart()?;
    for n in scene.restarted {
        system
            .member(&central(*n))?
            .process
            .lock()
            .await
            .restart()?;
    }
    wait_until_noticed(&system, &caller, scene.asked, &lost).await
}

/// The store is moved away and back, and nobody is answered in between.
async fn away(
    system: &System,
    caller: &Caller,
    scene: &Scene,
    store: &Path,
    elsewhere: &Path,
) -> Result<String> {
    let known = charge(system, caller).await?;
    let nats = system.member(&server(1))?;
    for n in scene.restarted {
        system.member(&central(*n))?.process.lock().await.kill9()?;
    }
    nats.process.lock().await.kill9()?;
    std::fs::rename(store, elsewhere).context("move the store away")?;
    nats.process.lock().await.restart()?;
    system.wait_server(1).await?;
    for n in scene.restarted {
        let mut process = system.member(&central(*n))?.process.lock().await;
        process.restart()?;
    }
    let said = wait_until_noticed(system, caller, scene.asked, &known).await?;
    nats.process.lock().await.kill9()?;
    std::fs::remove_dir_all(store).context("remove what came meanwhile")?;
    std::fs::rename(elsewhere, store).context("move the store back")?;
    nats.process.lock().await.restart()?;
    system.wait_server(1).await?;
    for n in 0..system.plan.centrals {
        system.wait_ready(n).await?;
    }
    wait_for_state(caller, &known, "completed").await?;
    charge(system, caller).await?;
    let js = maintainer(system).await?;
    let deadline = Instant::now() + CHARGED_WITHIN;
    loop {
        let copied = js
            .get_stream(streams::CDR.name)
            .await?
            .cached_info()
            .state
            .messages;
        if copied == 3 {
            return Ok(said);
        }
        ensure!(
            Instant::now() < deadline,
            "{copied} of 3 receipts are copied"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn maintainer(system: &System) -> Result<jetstream::Context> {
    let url = system.direct_url();
    let nats = system.keys.connect(&url, Role::Maintainer, "mona").await?;
    Ok(jetstream::new(nats))
}

/// A session from start to receipt; its id.
async fn charge(system: &System, caller: &Caller) -> Result<String> {
    let cp = system.plan.charge_points[0].cp.as_str();
    let (ok, said) = system.ctl(cp, &["plug", cp]).await;
    ensure!(ok, "plugging in: {said}");
    let deadline = Instant::now() + CHARGED_WITHIN;
    let session = loop {
        let body = json!({
            "request_id": uuid::Uuid::new_v4().to_string(),
            "expires_at": unix_ms() + 25_000,
            "cp_id": cp,
        });
        let answer = caller
            .insist("start", &body, 20)
            .await
            .context("no answer")?;
        if let ("accepted", Some(id)) = (
            answer["status"].as_str().unwrap_or_default(),
            answer["session_id"].as_str(),
        ) {
            break id.to_owned();
        }
        // Central has perhaps not heard of the charge point yet.
        if Instant::now() > deadline {
            bail!("the start: {answer}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    wait_for_state(caller, &session, "charging").await?;
    let (ok, said) = system.ctl(cp, &["unplug", cp]).await;
    ensure!(ok, "unplugging: {said}");
    wait_for_state(caller, &session, "completed").await?;
    Ok(session)
}

async fn wait_for_state(caller: &Caller, session: &str, state: &str) -> Result<()> {
    let deadline = Instant::now() + CHARGED_WITHIN;
    loop {
        let body = json!({ "session_id": session });
        let answer = caller.ask("status", &body).await.unwrap_or_default();
        if answer["sessions"][0]["state"] == state {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "session {session}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every replica says so at its readiness, and none denies meanwhile what was acknowledged.
async fn wait_until_noticed(
    system: &System,
    caller: &Caller,
    asked: bool,
    lost: &str,
) -> Result<String> {
    let began = Instant::now();
    loop {
        let mut said = Vec::new();
        for n in 0..system.plan.centrals {
            let (status, body) = system.readyz(n).await.unwrap_or_default();
            if status == 503 && body.contains("stopped answering") {
                said.push(body.trim().to_owned());
            }
        }
        if said.len() == system.plan.centrals {
            let seconds = began.elapsed().as_secs();
            return Ok(format!("after {seconds} s; {}", said.join("; ")));
        }
        ensure!(
            began.elapsed() < NOTICED_WITHIN,
            "after {} s only {} of {} replicas have noticed: {said:?}",
            NOTICED_WITHIN.as_secs(),
            said.len(),
            system.plan.centrals
        );
        if asked {
            let body = json!({ "session_id": lost });
            let answer: Value = caller.ask("status", &body).await.unwrap_or_default();
            ensure!(
                answer["reason"] != "session_not_found",
                "an acknowledged session was denied: {answer}"
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)
                .with_context(|| format!("copy {}", target.display()))?;
        }
    }
    Ok(())
}
