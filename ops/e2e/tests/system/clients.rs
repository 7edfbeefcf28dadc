//! Clients in another language, written from the contract's README alone.

use anyhow::{Context, Result, ensure};
use ev_e2e::Charger;
use ev_testkit::{Process, Role, workspace_root};

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
