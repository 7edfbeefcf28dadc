//! Clients: in another language, written from the contract's README alone; the command line with a
//! clock that is off.

use anyhow::{Context, Result, ensure};
use ev_e2e::{Charger, driver_cli};
use ev_testkit::{
    PATIENCE, Process, Role, wait_until, workspace_root, wrong_clock_env, wrong_clock_library,
};

use crate::{ended_right, plugged};

async fn a_whole_session(example: &str) -> Result<()> {
    let missing = "run the tests with `ops/dev test`, which installs what the examples import";
    let python = std::env::var("EV_PYTHON").context(missing)?;
    let imports = std::env::var("EV_PYTHON_CLIENTS").context(missing)?;
    let site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let state = tempfile::tempdir()?;
    let mut client = Process::program("client", python)
        .arg(workspace_root().join("nats/examples").join(example))
        .args([
            "--server",
            &site.nats.url(),
            "--credentials",
            &site
                .nats
                .keys()
                .creds(Role::Driver, "alice")?
                .to_string_lossy(),
            "--ca",
            &site.nats.keys().ca().to_string_lossy(),
            "--driver",
            "alice",
            "--cp",
            "CP-001",
        ])
        .env("PYTHONPATH", imports)
        .env("XDG_STATE_HOME", state.path())
        .spawn()?;
    let status = client.wait(ev_testkit::PATIENCE).await?;
    ensure!(status.success(), "{status}: {}", client.log());
    let history = alice.history().await?;
    ensure!(
        history.len() == 1,
        "{} sessions: {}",
        history.len(),
        client.log()
    );
    let session = history[0].session_id.to_string();
    ensure!(client.log().contains(&session), "{}", client.log());
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_in_json_drives_a_whole_session() -> Result<()> {
    a_whole_session("driver_json.py").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_in_messagepack_drives_a_whole_session() -> Result<()> {
    a_whole_session("driver_msgpack.py").await
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_come_in_the_encoding_of_the_start() -> Result<()> {
    use ev_contract::wire::{self, Encoding};
    use futures::StreamExt;
    let site = plugged(Charger::Orderly, 2).await?;
    for (driver, encoding) in [("jason", Encoding::Json), ("max", Encoding::MsgPack)] {
        let driver = site.driver(driver).await?;
        let mut updates = driver
            .nats
            .subscribe(format!("ev.v1.watch.{}.*", driver.id))
            .await?;
        driver.nats.flush().await?;
        let cp = if encoding == Encoding::Json {
            "CP-001"
        } else {
            "CP-002"
        };
        let request = ev_e2e::Driver::start_request(cp, &ev_e2e::StartOptions::default());
        driver
            .raw(
                format!("ev.v1.driver.{}.start", driver.id),
                wire::encode(&request, encoding)?,
                encoding,
            )
            .await?;
        let update = tokio::time::timeout(ev_testkit::PATIENCE, updates.next())
            .await?
            .context("an update")?;
        let header = update
            .headers
            .as_ref()
            .and_then(|h| h.get(wire::CONTENT_TYPE))
            .map(async_nats::HeaderValue::as_str);
        ensure!(Encoding::from_header(header) == encoding, "{header:?}");
        let update: ev_contract::v1::DriverUpdate = wire::decode(&update.payload, encoding)?;
        ensure!(
            update.session_id.is_some() && update.pos.is_some(),
            "{update:?}"
        );
    }
    Ok(())
}

/// Start, watch and stop of `driver-cli` on a host whose clock is hours off.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_hours_off_keeps_nobody_from_starting_watching_and_stopping() -> Result<()>
{
    let library = wrong_clock_library()
        .context("a wrong clock needs Debian's package libfaketime: install it")?;
    let site = plugged(Charger::Orderly, 2).await?;
    for (who, cp, offset) in [("alice", "CP-001", "-7200"), ("bob", "CP-002", "+7200")] {
        let driver = site.driver(who).await?;
        let clock = site.dir().join(format!("{who}.clock"));
        std::fs::write(&clock, format!("{offset}\n"))?;
        let cli = |args: &[&str]| -> Result<Process> {
            let mut command = driver_cli(&site, who)?.args(["--driver", who]).args(args);
            for (key, value) in wrong_clock_env(&library, &clock) {
                command = command.env(key, value);
            }
            command.spawn()
        };
        let ended_well = async |mut process: Process| -> Result<String> {
            let status = process.wait(PATIENCE).await?;
            ensure!(status.success(), "{who} {status}: {}", process.log());
            Ok(process.log())
        };
        // Nothing is asked before, so that nothing has told central's time yet.
        let started = ended_well(cli(&["start", cp, "--json", "--request-id", "first"])?).await?;
        ensure!(started.contains("this clock is 7"), "{started}");
        let open = driver.open().await?;
        ensure!(open.len() == 1, "{} sessions: {started}", open.len());
        let session = open[0].session_id.to_string();
        ensure!(started.contains(&session), "{started}");
        let again = ended_well(cli(&["start", cp, "--json", "--request-id", "first"])?).await?;
        ensure!(again.contains(&session), "{again}");
        let mut watching = cli(&["watch", &session])?;
        wait_until("the watch shows energy", PATIENCE, async || {
            watching.log().contains("kWh")
        })
        .await?;
        let stopped = ended_well(cli(&["stop", &session, "--json", "--wait", "ended"])?).await?;
        ensure!(stopped.contains("completed"), "{stopped}");
        let status = watching.wait(PATIENCE).await?;
        ensure!(status.success(), "{status}: {}", watching.log());
        ensure!(
            driver.history().await?.len() == 1,
            "one session was asked for"
        );
    }
    Ok(())
}
