//! Two agents with one identity: a copied store that runs twice.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use ev_contract::v1::Origin;
use ev_e2e::{Charger, Driver, Layout, Site, now_ms};
use ev_testkit::{PATIENCE, Process, Role, our_program, wait_for};
use serde_json::{Value, json};

const CP: &str = "CP-001";

/// A second agent with a copy of the store of the first charge point and its credential, and a charger
/// of its own.
struct Twin {
    process: Process,
    config: PathBuf,
    socket: PathBuf,
}

impl Twin {
    /// Copies the store of a running agent and starts with it.
    async fn start(site: &Site) -> Result<Self> {
        let dir = site.dir().join("twin");
        std::fs::create_dir_all(dir.join("edge"))?;
        for file in ["CP-001.db", "CP-001.db-wal"] {
            std::fs::copy(site.edge_dir().join(file), dir.join("edge").join(file))
                .with_context(|| format!("copy {file}"))?;
        }
        let (config, socket) = (dir.join("edge-cp.toml"), dir.join("edge.sock"));
        let keys = site.nats.keys();
        std::fs::write(
            &config,
            format!(
                "nats_url = \"{}\"\ncredentials = \"{}/charge-point\"\nca = \"{}\"\n\
                 state_dir = \"{3}/edge\"\ncontrol_socket = \"{3}/edge.sock\"\n\n\
                 [[charge_point]]\nid = \"{CP}\"\n\n\
                 [[charge_point.connector]]\nid = 1\nmax_current_ma = 16000\nphases = 3\n",
                site.nats.url(),
                keys.creds_dir().display(),
                keys.ca().display(),
                dir.display()
            ),
        )?;
        let process = Process::program("twin", our_program("edge-cp")?)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .args(["--sim-speed", "60"])
            .env("RUST_LOG", "info,async_nats=warn")
            .spawn()?;
        let twin = Self {
            process,
            config,
            socket,
        };
        wait_for("the second agent runs", PATIENCE, async || {
            twin.ctl(&["plug", CP]).await.map(drop)
        })
        .await?;
        Ok(twin)
    }

    async fn ctl(&self, args: &[&str]) -> Result<Value> {
        edge_cp(
            [
                &["ctl", "--json", "--socket", &self.socket.to_string_lossy()],
                args,
            ]
            .concat()
            .as_slice(),
        )
        .await
    }
}

async fn edge_cp(args: &[&str]) -> Result<Value> {
    let output = tokio::process::Command::new(our_program("edge-cp")?)
        .args(args)
        .output()
        .await?;
    if !output.status.success() {
        bail!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// How an agent says that the charge point stands.
fn cp(status: &Value) -> Result<&Value> {
    let mut all = status["charge_points"].as_array().into_iter().flatten();
    all.find(|c| c["id"] == CP).context("it has CP-001")
}

fn session(status: &Value) -> Result<Option<String>> {
    let id = cp(status)?["connectors"][0]["session_id"].as_str();
    Ok(id.map(str::to_owned))
}

/// How an operator is shown the charge point.
async fn shown(olga: &Driver) -> Result<Value> {
    let body = json!({"type": "cp_ls", "to": "central", "request_id": "look",
                      "expires_at": now_ms() + 20_000});
    let reply: Value = olga
        .ask("ev.v1.op.olga.cp_ls", &body)
        .await?
        .map_err(|e| anyhow::anyhow!("{}", e.error))?;
    let mut all = reply["charge_points"].as_array().into_iter().flatten();
    all.find(|c| c["cp_id"] == CP)
        .cloned()
        .context("it is listed")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_store_that_runs_twice_one_is_obeyed_and_nothing_of_the_other_is_lost() -> Result<()> {
    let mut site = Site::start(&Layout::small(Charger::Orderly).centrals(2)).await?;
    let (alice, olga) = (
        site.driver("alice").await?,
        site.asker(Role::Operator, "olga").await?,
    );
    wait_for("nothing waits", PATIENCE, async || {
        ensure!(site.spool_depth(CP).await? == 0);
        Ok(())
    })
    .await?;
    let mut twin = Twin::start(&site).await?;
    wait_for("the second agent is obeyed", PATIENCE, async || {
        let status = twin.ctl(&["status"]).await?;
        let boot = &cp(&status)?["boot"];
        ensure!(cp(&status)?["obeyed"] == true && shown(&olga).await?["boot"] == *boot);
        Ok(())
    })
    .await?;
    // A record of the first one reveals it.
    site.ctl(&["plug", CP]).await?;
    wait_for(
        "the first agent knows that it is not",
        PATIENCE,
        async || {
            let status = site.ctl(&["status"]).await?;
            ensure!(cp(&status)?["obeyed"] == false, "{status}");
            ensure!(cp(&status)?["health"] == json!(["identity_in_use"]));
            Ok(())
        },
    )
    .await?;
    wait_for("both replicas say so", PATIENCE, async || {
        for central in 0..2 {
            let two = site
                .metric(central, "ev_charge_points_with_two_agents")
                .await?;
            ensure!((two - 1.0).abs() < 0.5, "central-{}: {two}", central + 1);
        }
        Ok(())
    })
    .await?;

    // One start, one charger.
    let id = alice.start(CP).await?;
    alice.wait_energy(&id, 2_000).await?;
    ensure!(session(&twin.ctl(&["status"]).await?)?.as_deref() == Some(&*id));
    ensure!(session(&site.ctl(&["status"]).await?)?.is_none());

    // What is started at the other cabinet goes on there, and is kept aside.
    let kept = shown(&olga).await?["other_agent"]["kept"].as_u64();
    let local = site.ctl(&["start", CP]).await?;
    let local = local["session_id"]
        .as_str()
        .context("it has an id")?
        .to_owned();
    wait_for("it charges", PATIENCE, async || {
        let status = site.ctl(&["status"]).await?;
        let energy = cp(&status)?["connectors"][0]["energy_mwh"].as_u64();
        ensure!(energy > Some(2_000), "{status}");
        Ok(())
    })
    .await?;
    site.ctl(&["stop", CP]).await?;
    wait_for("its records are kept aside", PATIENCE, async || {
        let other = shown(&olga).await?["other_agent"].clone();
        let status = site.ctl(&["status"]).await?;
        ensure!(other["boot"] == cp(&status)?["boot"], "{other}");
        ensure!(other["kept"].as_u64() > kept, "{other}");
        let depth = cp(&status)?["spool_depth"].as_u64();
        ensure!(depth > Some(3), "they are on its disk too: {status}");
        Ok(())
    })
    .await?;
    ensure!(site.spool_depth("CP-002").await? == 0);
    ensure!(session(&twin.ctl(&["status"]).await?)?.as_deref() == Some(&*id));
    alice.stop(&id).await?;
    alice.wait_ended(&id).await?;
    ensure!(site.cdr(&id).await?.driver_id.is_some());

    // The operator decides for the first one.
    twin.process.terminate()?;
    twin.process.wait(PATIENCE).await?;
    let config = site.dir().join("edge-cp.toml");
    let config = config.to_string_lossy();
    ensure!(
        edge_cp(&["new-epoch", "--config", &config, CP])
            .await
            .is_err(),
        "its store is in use"
    );
    site.agent.kill9()?;
    edge_cp(&["new-epoch", "--config", &config, CP]).await?;
    site.agent_again().await?;
    wait_for("all its records have arrived", PATIENCE, async || {
        ensure!(site.spool_depth(CP).await? == 0);
        let (receipts, _) = site.cdrs().await?;
        let receipt = receipts.iter().find(|r| r.session_id.to_string() == local);
        let receipt = receipt.context("the session of the first one has no receipt")?;
        ensure!(receipt.origin == Origin::Local && receipt.energy_mwh.0 > 2_000);
        Ok(())
    })
    .await?;
    // The copy is refused from now on.
    let config = twin.config.to_string_lossy();
    let foreign = edge_cp(&["new-epoch", "--config", &config, "CP-009"]).await;
    ensure!(foreign.is_err(), "it has no such charge point");
    twin.process.restart()?;
    wait_for("the copy is not obeyed", PATIENCE, async || {
        let status = twin.ctl(&["status"]).await?;
        ensure!(cp(&status)?["obeyed"] == false, "{status}");
        Ok(())
    })
    .await
}
