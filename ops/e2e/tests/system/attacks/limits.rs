//! How much somebody may ask, send, hear and hold open, and what they are told beyond it.

use anyhow::{Context, Result, ensure};
use ev_contract::{limits::REQUEST_BYTES_MAX, wire::Encoding};
use ev_e2e::{Charger, Layout, Site, now_ms};
use ev_testkit::{Keys, NatsServer, PATIENCE, Role, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Cli, Guest, server_logs};

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_has_its_code_and_sentence_for_a_driver() -> Result<()> {
    let site = Site::start(&Layout {
        connectors: 2,
        central_extra:
            "sessions_per_driver = 2\n[limits]\ndriver_reads = { per_s = 1, burst = 1 }\n".into(),
        ..Layout::small(Charger::Orderly)
    })
    .await?;

    // Active sessions, here two.
    let bob = Cli::of(&site.nats, Role::Driver, "bob")?;
    for place in ["CP-001/1", "CP-001/2"] {
        bob.run(&["start", place, "--json"]).await?.done()?;
    }
    let told = bob.run(&["start", "CP-002/1"]).await?;
    told.told(
        5,
        &[
            "(limit_reached)",
            "driver bob has as many active sessions",
            "stop one first",
        ],
    )?;
    let told = bob.run(&["start", "CP-002/2", "--json"]).await?;
    let document: Value = serde_json::from_str(&told.out)?;
    ensure!(document["reason"] == "limit_reached", "{document}");
    let name = "ev_requests_total{code=\"limit_reached\",result=\"denied\",verb=\"start\"}";
    ensure!(site.metric(0, name).await? > 1.5, "{name}");

    // Size.
    let long = "X".repeat(REQUEST_BYTES_MAX);
    let told = bob.run(&["start", &long]).await?;
    told.told(
        5,
        &["(too_large)", "allowed are 16384", "send less at once"],
    )?;
    let body = json!({"request_id": "r-1", "expires_at": now_ms() + 20_000, "cp_id": long});
    let raw = site.driver("bob").await?;
    let answer = raw
        .raw(
            "ev.v1.driver.bob.start".into(),
            serde_json::to_vec(&body)?,
            Encoding::Json,
        )
        .await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    ensure!(answer["reason"] == "too_large", "{answer}");
    let name = "ev_requests_total{code=\"too_large\",result=\"error\",verb=\"start\"}";
    ensure!(site.metric(0, name).await? > 0.5, "{name}");

    // How often: while somebody else with the same credential floods.
    let flooding = tokio::spawn(async move {
        loop {
            let inbox = raw.nats.new_inbox();
            let asked = raw
                .nats
                .publish_with_reply("ev.v1.driver.bob.list", inbox, "".into());
            if asked.await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    wait_for("a run that finds no allowance left", PATIENCE, async || {
        let told = bob.run(&["--timeout", "1s", "list"]).await?;
        told.told(
            5,
            &[
                "(overloaded)",
                "too many questions from you",
                "nothing was decided; ask again in",
            ],
        )
    })
    .await?;
    let told = wait_for("the same as a document", PATIENCE, async || {
        let told = bob.run(&["--timeout", "1s", "list", "--json"]).await?;
        ensure!(told.code == 5, "{told:?}");
        Ok(told)
    })
    .await?;
    flooding.abort();
    let document: Value = serde_json::from_str(&told.out)?;
    ensure!(
        document["reason"] == "overloaded" && document["error"]["retryable"] == true,
        "{document}"
    );
    let name = "ev_refused_total{verb=\"read\",why=\"rate\"}";
    ensure!(site.metric(0, name).await? > 0.5, "{name}");
    // Starts and stops have allowances of their own.
    let told = bob.run(&["stop", &Uuid::now_v7().to_string()]).await?;
    told.told(3, &["(session_not_found)"])
}

/// What the server itself limits: it says so to whoever did it, and in its log.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_roles_subscriptions_and_message_size_the_server_says_so() -> Result<()> {
    let server = NatsServer::start().await?;
    let grants = Role::Driver.grants();
    let mallory = Guest::of(&server, Role::Driver, "mallory").await?;
    let path = server.keys().creds(Role::Driver, "mallory")?;
    let key = ev_client::Credential::read(&path)?.public_key();
    let mut held = Vec::new();
    for n in 0..=grants.subscriptions_max {
        held.push(
            mallory
                .nats
                .subscribe(format!("ev.v1.watch.mallory.{n}"))
                .await?,
        );
    }
    mallory.hears("maximum subscriptions exceeded").await?;
    server_logs(&server, &[&key, "maximum subscriptions exceeded"]).await?;
    drop(held);
    let large = vec![0; grants.payload_max + 1];
    mallory
        .nats
        .publish("ev.v1.driver.mallory.list", large.into())
        .await?;
    // The server closes with most of it unread, so that its last words may not arrive.
    server_logs(&server, &[&key, "maximum payload exceeded"]).await
}

/// The accounts' own limit of thousands is the same rule with another number.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_an_accounts_connections_one_is_told_why_and_the_others_stay() -> Result<()> {
    let keys = Keys::new()?;
    lower_connections(&keys, "DRIVERS", 2)?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let first = Guest::of(&server, Role::Driver, "d-1").await?;
    let second = Guest::of(&server, Role::Driver, "d-2").await?;
    let alice = Cli::of(&server, Role::Driver, "alice")?;
    let told = alice.run(&["--timeout", "1s", "list"]).await?;
    let sentence = "the server has as many connections as it takes of this kind";
    told.told(7, &[sentence, "close others", "nothing was sent"])?;
    server_logs(&server, &["maximum account active connections exceeded"]).await?;
    for guest in [first, second] {
        guest.nats.flush().await?;
    }
    // Another account has its own.
    Guest::of(&server, Role::Operator, "olga").await?;
    Ok(())
}

/// Signs an account anew with another limit, in what the server is given at its start.
fn lower_connections(keys: &Keys, account: &str, most: i64) -> Result<()> {
    use data_encoding::BASE64URL_NOPAD;
    let realm = std::fs::read_to_string(keys.dir().join("realm.json"))?;
    let realm: Value = serde_json::from_str(&realm)?;
    let token = realm["accounts"][account]["jwt"]
        .as_str()
        .context("the account has a token")?;
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes())?)?;
    claims["nats"]["limits"]["conn"] = most.into();
    let seed = std::fs::read_to_string(keys.dir().join("operator/signing.nk"))?;
    let signed = format!(
        "{}.{}",
        parts[0],
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let signature = nkeys::KeyPair::from_seed(seed.trim())?.sign(signed.as_bytes())?;
    let lowered = format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature));
    let path = keys.dir().join("auth.conf");
    let conf = std::fs::read_to_string(&path)?;
    ensure!(conf.contains(token), "the server is given another token");
    Ok(std::fs::write(&path, conf.replace(token, &lowered))?)
}
