//! The testkit's own promises, against real servers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, stream};
use ev_contract::{streams, subjects};
use ev_enrol::certificate;
use ev_testkit::{
    Cluster, Keys, NatsServer, PATIENCE, Process, Role, TcpProxy, nats_server_program, wait_for,
    wait_until,
};
use futures::StreamExt;

/// For what must *not* happen. A false pass is possible on a slow machine, a
/// false alarm is not.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_acknowledged_message_survives_kill_9_and_restart() -> Result<()> {
    let mut server = NatsServer::start().await?;
    let (url, data) = (server.url(), server.data_dir().to_owned());
    publish(&server, 1, "before the crash").await?;

    server.kill()?;
    ensure!(server.connect().await.is_err(), "a killed server answers");
    server.restart().await?;

    assert_eq!(server.url(), url);
    assert_eq!(read_first(&server).await?, "before the crash");
    drop(server);
    assert!(!data.exists(), "the data outlives its server");
    Ok(())
}

#[tokio::test]
async fn a_server_stops_in_order_and_comes_back() -> Result<()> {
    let mut server = NatsServer::start().await?;
    publish(&server, 1, "kept").await?;
    server.stop().await?;
    ensure!(server.log().contains("Server Exiting"), "no orderly end");
    server.restart().await?;
    assert_eq!(read_first(&server).await?, "kept");
    Ok(())
}

#[tokio::test]
async fn a_test_server_runs_the_shipped_configuration() -> Result<()> {
    let server = NatsServer::start().await?;
    let page = server.monitor("/varz").await?;
    assert_eq!(page["jetstream"]["config"]["sync_always"], true);
    assert_eq!(page["max_payload"], 1024 * 1024);
    assert_eq!(page["http_host"], "127.0.0.1");
    let store = page["jetstream"]["config"]["store_dir"]
        .as_str()
        .context("no store_dir")?;
    assert!(store.starts_with(&server.data_dir().display().to_string()));
    Ok(())
}

#[tokio::test]
async fn nobody_gets_in_without_a_credential_or_in_the_clear() -> Result<()> {
    let server = NatsServer::start().await?;
    let keys = server.keys();
    let nobody = async_nats::ConnectOptions::new()
        .require_tls(true)
        .tls_first()
        .add_root_certificates(keys.ca())
        .connect(server.url())
        .await
        .expect_err("an anonymous connection");
    assert_eq!(
        nobody.kind(),
        async_nats::ConnectErrorKind::AuthorizationViolation
    );
    let clear = async_nats::ConnectOptions::new()
        .connection_timeout(Duration::from_secs(10))
        .connect(server.url());
    assert!(clear.await.is_err(), "a connection in the clear");

    let other = Keys::new()?;
    let access = keys.access(&server.url(), Role::Driver, "alice")?;
    assert_eq!(access.why_not().await, None);
    let mut strange_ca = access.clone();
    strange_ca.tls.ca = other.ca();
    let mut stranger = access.clone();
    stranger.credentials = other.creds(Role::Driver, "alice")?;
    let mut late = access.clone();
    late.credentials = {
        let mut realm = keys.realm()?;
        let issued = realm.issue(Role::Driver, "late", 1_000_000_100, 1_000_000_000)?;
        issued.path
    };
    for (access, said) in [
        (strange_ca, "not signed by"),
        (stranger, "authorization violation"),
        (late, "it expired at 2001-09-09"),
    ] {
        let why = access.why_not().await.context("it was let in")?.to_string();
        assert!(why.contains(said), "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_wants_one_of_the_clients_authority() -> Result<()> {
    let keys = Keys::new()?;
    let now_s = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs(),
    )?;
    let own = certificate::client(keys.dir(), "alice", 1, now_s)?;
    let servers = certificate::server(keys.dir(), &["elsewhere".into()], 1, now_s)?;
    // It asks the testkit as well.
    let server = NatsServer::start_unseen(&keys, &keys.mutual(&own)?).await?;
    let url = server.url();
    let mut access = keys.access(&url, Role::Driver, "alice")?;
    let why = access.why_not().await.context("it was let in")?.to_string();
    assert!(why.contains("asks for a client's certificate"), "{why}");
    access.tls.identity = Some((own.certificate, own.key));
    assert_eq!(access.why_not().await, None);
    // Whoever may join the cluster need not be a client.
    access.tls.identity = Some((servers.certificate, servers.key));
    assert!(access.why_not().await.is_some(), "it was let in");
    Ok(())
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() -> Result<()> {
    let mut server = NatsServer::start().await?;
    let client = server.connect().await?;
    server.pause()?;
    ensure!(
        tokio::time::timeout(QUIET, flush(&client)).await.is_err(),
        "a frozen server answered"
    );
    server.resume()?;
    tokio::time::timeout(PATIENCE, flush(&client))
        .await
        .context("still silent")?
}

#[tokio::test]
async fn a_cluster_outlives_one_server_and_all_of_them() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let leader = cluster.meta_leader().await?;
    publish(cluster.node(leader), 3, "on three").await?;

    cluster.node_mut(leader).kill()?;
    let successor = cluster.meta_leader().await?;
    ensure!(successor != leader, "a killed server still leads");
    wait_for("the stream has a new leader", PATIENCE, async || {
        read_first(cluster.node(successor)).await
    })
    .await?;
    cluster.node_mut(leader).restart().await?;

    cluster.kill_all()?;
    cluster.restart_all().await?;
    let text = wait_for("the stream is back", PATIENCE, async || {
        read_first(cluster.node(0)).await
    })
    .await?;
    assert_eq!(text, "on three");
    Ok(())
}

#[tokio::test]
async fn a_cut_proxy_drops_and_refuses_until_it_is_healed() -> Result<()> {
    let server = NatsServer::start().await?;
    let mut proxy = TcpProxy::start(server.url()).await?;
    let url = proxy.url();
    let through = async || {
        let keys = server.keys();
        keys.connect(&url, Role::Central, "through").await
    };
    let client = through().await?;
    flush(&client).await?;

    proxy.cut().await;
    ensure!(
        through().await.is_err(),
        "a cut proxy accepted a connection"
    );
    wait_until("the client noticed", PATIENCE, async || {
        client.connection_state() != async_nats::connection::State::Connected
    })
    .await?;

    proxy.heal().await?;
    wait_for("the client is back", PATIENCE, async || {
        flush(&client).await
    })
    .await
}

#[tokio::test]
async fn a_stalled_proxy_delivers_late() -> Result<()> {
    let server = NatsServer::start().await?;
    let mut proxy = TcpProxy::start(server.url()).await?;
    let keys = server.keys();
    let client = keys.connect(&proxy.url(), Role::Driver, "alice").await?;
    let near = server.connect().await?;
    let mut arrived = near.subscribe("ev.v1.driver.*.*").await?;
    flush(&near).await?;

    proxy.stall().await?;
    client
        .publish("ev.v1.driver.alice.list", "late".into())
        .await?;
    ensure!(
        tokio::time::timeout(QUIET, arrived.next()).await.is_err(),
        "a stalled proxy forwarded"
    );
    proxy.heal().await?;
    let message = tokio::time::timeout(PATIENCE, arrived.next())
        .await
        .context("nothing arrived after the stall")?
        .context("the subscription ended")?;
    assert_eq!(message.payload, "late");
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_holds_replies_lets_the_request_through() -> Result<()> {
    let server = NatsServer::start().await?;
    let mut proxy = TcpProxy::start(server.url()).await?;
    let keys = server.keys();
    let client = keys.connect(&proxy.url(), Role::Driver, "alice").await?;
    let near = server.connect().await?;
    let mut requests = near.subscribe("ev.v1.driver.*.*").await?;
    flush(&near).await?;

    proxy.hold_replies().await?;
    let asking =
        tokio::spawn(async move { client.request("ev.v1.driver.alice.list", "?".into()).await });
    let request = tokio::time::timeout(PATIENCE, requests.next())
        .await
        .context("the request was held as well")?
        .context("the subscription ended")?;
    near.publish(request.reply.context("no reply subject")?, "!".into())
        .await?;
    flush(&near).await?;
    tokio::time::sleep(QUIET).await;
    ensure!(!asking.is_finished(), "the reply came through");
    proxy.heal().await?;
    assert_eq!(asking.await??.payload, "!");
    Ok(())
}

#[tokio::test]
async fn a_process_is_ended_in_order_and_its_log_kept_over_runs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut process = Process::program("server", nats_server_program()?)
        .args(["--addr", "127.0.0.1", "--port", "-1", "--jetstream", "-sd"])
        .arg(folder.path())
        .spawn()?;
    process.wait_for_log("Server is ready", PATIENCE).await?;
    process.pause()?;
    process.terminate()?;
    process.wait(PATIENCE).await?;
    process.restart()?;
    wait_until("it is ready twice", PATIENCE, async || {
        process.log().matches("Server is ready").count() == 2
    })
    .await?;
    process.kill9()?;
    assert!(!process.is_running());
    assert!(process.pause().is_err(), "a dead process was signalled");
    Ok(())
}

#[tokio::test]
async fn a_program_that_was_not_built_says_how_to_build_it() {
    let error = Process::ours("no-such-program").expect_err("it does not exist");
    assert!(
        error.to_string().contains("cargo build --workspace --bins"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wait_in_vain_names_what_was_awaited() {
    let error = wait_until("pigs fly", Duration::from_millis(50), async || false)
        .await
        .expect_err("they do not");
    assert!(error.to_string().contains("pigs fly"), "{error}");
    let error = wait_until("a probe returns", Duration::from_millis(50), async || {
        std::future::pending().await
    })
    .await
    .expect_err("it never does");
    assert!(error.to_string().contains("never returned"), "{error}");
}

/// A round trip to the server, so that what was sent before has arrived there.
/// `Client::flush` only tells that the socket took it.
async fn flush(client: &async_nats::Client) -> Result<()> {
    jetstream::new(client.clone()).query_account().await?;
    Ok(())
}

async fn publish(server: &NatsServer, replicas: usize, text: &'static str) -> Result<()> {
    let jetstream = jetstream::new(server.connect().await?);
    jetstream
        .create_stream(stream::Config {
            name: streams::LEDGER.name.into(),
            subjects: vec![subjects::LEDGER.into()],
            num_replicas: replicas,
            ..Default::default()
        })
        .await?;
    jetstream
        .publish(subjects::LEDGER, text.into())
        .await?
        .await?;
    Ok(())
}

async fn read_first(server: &NatsServer) -> Result<String> {
    let jetstream = jetstream::new(server.connect().await?);
    let message = jetstream
        .get_stream(streams::LEDGER.name)
        .await?
        .get_raw_message(1)
        .await?;
    Ok(String::from_utf8(message.payload.to_vec())?)
}
