//! Credentials that are void, of another role, or none at all.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use ev_client::Credential;
use ev_contract::connector::Phase;
use ev_e2e::{Charger, Site};
use ev_testkit::{Keys, NatsServer, PATIENCE, Process, Role, our_program, wait_for};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Cli, server_logs};
use crate::plugged;

/// `central enrol`, in the folder of a site's keys.
async fn enrol(site: &Site, words: &[&str]) -> Result<()> {
    let output = tokio::process::Command::new(our_program("central")?)
        .args(["enrol", "--dir"])
        .arg(site.nats.keys().dir())
        .args(words)
        .args(["--nats-url", &site.nats.url()])
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("in force on nats-1"),
        "{words:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Waits until the server has closed a connection of this key for a reason.
async fn closed_for(server: &NatsServer, key: &str, reason: &str) -> Result<()> {
    let what = format!("the server has closed {key}: {reason}");
    wait_for(&what, PATIENCE, async || {
        let closed = server
            .monitor("/connz?state=closed&auth=true&limit=1000")
            .await?;
        let closed = closed["connections"].as_array().context("connections")?;
        let of_key = |c: &&Value| c.to_string().contains(key);
        let found = closed.iter().filter(of_key).any(|c| c["reason"] == reason);
        ensure!(found, "{closed:?}");
        Ok(())
    })
    .await
}

/// The file as it is on the machine of whoever uses it.
fn carried(path: &Path, to: &Path) -> Result<PathBuf> {
    let there = to.join(path.file_name().context("a file")?);
    fs::copy(path, &there)?;
    fs::set_permissions(&there, fs::Permissions::from_mode(0o600))?;
    Ok(there)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expires_or_is_revoked_while_connected_is_shut_out_and_told_so() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let device = tempfile::tempdir()?;
    let keys = site.nats.keys();
    let (eve, alice) = (site.driver("eve").await?, site.driver("alice").await?);
    let hers = eve.start("CP-001").await?;
    let session = alice.start("CP-002").await?;
    alice.wait_phase(&session, Phase::Charging).await?;

    let now_s = ev_e2e::now_ms() / 1_000;
    let short = keys.realm()?.issue(Role::Driver, "eve", now_s + 6, now_s)?;
    let short = carried(&short.path, device.path())?;
    let key = Credential::read(&short)?.public_key();
    let mut expiring = Cli {
        credentials: short,
        ..Cli::of(&site.nats, Role::Driver, "eve")?
    };
    let mut watching = expiring.spawn(&["--timeout", "2s", "watch", &hers])?;
    let status = watching.wait(PATIENCE).await?;
    let told = watching.log();
    ensure!(status.code() == Some(4), "{status}: {told}");
    for words in [
        "no news",
        "no longer lets you in",
        "it expired at",
        "central enrol",
    ] {
        ensure!(told.contains(words), "{words:?} expected: {told}");
    }
    closed_for(&site.nats, &key, "Authentication Expired").await?;
    // Nor is anything begun with it.
    expiring.state = tempfile::tempdir()?;
    let told = expiring.run(&["start", "CP-002"]).await?;
    told.told(
        4,
        &["does not let you in", "it expired at", "new credentials"],
    )?;

    let kept = carried(&keys.creds(Role::Driver, "alice")?, device.path())?;
    let key = crate::audit::key(&site, Role::Driver, "alice")?;
    let mut revoked = Cli {
        credentials: kept,
        ..Cli::of(&site.nats, Role::Driver, "alice")?
    };
    let mut watching = revoked.spawn(&["--timeout", "2s", "watch", &session])?;
    watching.wait_for_log("charging", PATIENCE).await?;
    enrol(&site, &["revoke", "driver", "alice"]).await?;
    let status = watching.wait(PATIENCE).await?;
    let told = watching.log();
    ensure!(status.code() == Some(4), "{status}: {told}");
    for words in ["no longer lets you in", "alice.creds", "`central enrol`"] {
        ensure!(told.contains(words), "{words:?} expected: {told}");
    }
    closed_for(&site.nats, &key, "Credentials Revoked").await?;
    revoked.state = tempfile::tempdir()?;
    let told = revoked.run(&["stop", &session]).await?;
    told.told(4, &["does not let you in", "new credentials"])?;

    // A charge point: its agent says what is the matter, charging goes on, and another one of the
    // same agent is not touched.
    let cp = keys.creds(Role::ChargePoint, "CP-001")?;
    let kept = carried(&cp, device.path())?;
    let key = crate::audit::key(&site, Role::ChargePoint, "CP-001")?;
    enrol(&site, &["revoke", "charge-point", "CP-001"]).await?;
    fs::copy(&kept, &cp)?;
    closed_for(&site.nats, &key, "Credentials Revoked").await?;
    wait_for("the agent says it", PATIENCE, async || {
        let log = site.agent.log();
        let line = log
            .lines()
            .find(|line| line.contains("WARN") && line.contains("NATS refuses"))
            .context("not yet")?;
        ensure!(
            line.contains("CP-001") && line.contains("central enrol list"),
            "{line}"
        );
        Ok(())
    })
    .await?;
    let metered = site.register("CP-001").await?;
    crate::metered(&site, "CP-001", metered, 1_000).await?;
    ensure!(!site.agent.log().contains("CP-002.creds"));
    Ok(())
}

fn write_config(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_one_role_is_refused_in_another_before_anything_is_sent() -> Result<()> {
    let keys = Keys::new()?;
    // Nobody is there: it is not even tried.
    let nowhere = "nats://127.0.0.1:9";
    let dir = tempfile::tempdir()?;
    let cli = |role: Role, name: &str, file: PathBuf| {
        anyhow::Ok(Cli {
            url: nowhere.into(),
            ca: keys.ca(),
            credentials: file,
            who: [format!("--{role}"), name.to_owned()],
            state: tempfile::tempdir()?,
        })
    };
    let olga = keys.creds(Role::Operator, "olga")?;
    let mallory = keys.creds(Role::Driver, "mallory")?;
    let cabinet = keys.creds(Role::ChargePoint, "CP-001")?;
    let hint = "nobody acts as somebody else";
    for (role, name, file, verb, is) in [
        (
            Role::Operator,
            "mallory",
            &mallory,
            &["op", "cp", "ls"][..],
            "driver mallory",
        ),
        (
            Role::Operator,
            "olga",
            &mallory,
            &["op", "cp", "ls"],
            "driver mallory",
        ),
        (Role::Driver, "olga", &olga, &["list"], "operator olga"),
        (Role::Driver, "alice", &mallory, &["list"], "driver mallory"),
        (
            Role::Driver,
            "CP-001",
            &cabinet,
            &["list"],
            "charge-point CP-001",
        ),
    ] {
        let told = cli(role, name, file.clone())?.run(verb).await?;
        told.told(4, &[&format!("is the credential of {is}"), hint])?;
    }

    let common = format!(
        "nats_url = \"{nowhere}\"\nca = \"{}\"\n",
        keys.ca().display()
    );
    let edge = write_config(
        dir.path(),
        "edge-cp.toml",
        &format!(
            "{common}state_dir = \"{1}/edge\"\n\
             [[charge_point]]\nid = \"mallory\"\ncredentials = \"{0}\"\n\
             [[charge_point.connector]]\nid = 1\nmax_current_ma = 16000\nphases = 3\n",
            mallory.display(),
            dir.path().display()
        ),
    )?;
    let central = write_config(
        dir.path(),
        "central.toml",
        &format!(
            "{common}replica = \"olga\"\ncredentials = \"{}\"\nhttp_addr = \"127.0.0.1:0\"\n",
            olga.display()
        ),
    )?;
    for (program, config, is, should) in [
        (
            "edge-cp",
            edge,
            "driver mallory",
            "central enrol charge-point mallory",
        ),
        (
            "central",
            central,
            "operator olga",
            "central enrol central olga",
        ),
    ] {
        let mut refused = Process::ours(program)?
            .args(["run", "--config"])
            .arg(&config)
            .spawn()?;
        let status = refused.wait(PATIENCE).await?;
        let told = refused.log();
        ensure!(status.code() == Some(78), "{program}: {status}: {told}");
        for words in ["credentials", &format!("is the credential of {is}"), should] {
            ensure!(told.contains(words), "{words:?} expected: {told}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_in_the_clear_and_no_server_of_a_stranger_is_believed() -> Result<()> {
    let server = NatsServer::start().await?;
    let address = server.url().trim_start_matches("nats://").to_owned();
    let mut plain = TcpStream::connect(&address).await?;
    plain
        .write_all(b"CONNECT {\"verbose\":true}\r\nPING\r\n")
        .await?;
    let mut said = Vec::new();
    let end = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut said)).await?;
    // Closed, with an alert of TLS at most: no INFO, no word of the protocol.
    ensure!(end.is_err() || !said.starts_with(b"INFO"), "{said:?}");
    ensure!(
        !said.windows(4).any(|w| w == b"PONG" || w == b"-ERR"),
        "{said:?}"
    );
    wait_for(
        "the server keeps the attempt in mind",
        PATIENCE,
        async || {
            let closed = server.monitor("/connz?state=closed").await?;
            let closed = closed["connections"].as_array().context("connections")?;
            let reasons: Vec<_> = closed.iter().filter_map(|c| c["reason"].as_str()).collect();
            ensure!(reasons.contains(&"TLS Handshake Failure"), "{reasons:?}");
            Ok(())
        },
    )
    .await?;

    let other = Keys::new()?;
    let cli = Cli {
        ca: other.ca(),
        ..Cli::of(&server, Role::Driver, "alice")?
    };
    let told = cli.run(&["--timeout", "1s", "list"]).await?;
    let ca = format!("not signed by {}", other.ca().display());
    told.told(
        7,
        &[
            &ca,
            "take the ca.crt of this installation",
            "nothing was sent",
        ],
    )?;
    server_logs(
        &server,
        &["TLS handshake error", "unknown certificate authority"],
    )
    .await
}
