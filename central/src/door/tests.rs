//! Against a real nats-server.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, ensure};
use async_nats::{ConnectOptions, jetstream};
use ev_client::{Credential, Pauses, Tls};
use ev_contract::{
    streams,
    v1::{AuditEntry, AuditKind, AuditOutcome},
    wire::{self, Encoding},
};
use ev_enrol::{
    Realm, Role, certificate,
    push::{Servers, push},
};
use ev_testkit::{Cluster, Keys, NatsServer, PATIENCE, wait_for};
use jiff::Timestamp;

use super::*;
use crate::{audit, out::Out, reports::reports_of};

const LIMIT: usize = 8;

/// A replica as far as it watches the door.
struct Watch {
    left: mpsc::Receiver<CpId>,
    metrics: Arc<Metrics>,
    js: jetstream::Context,
    _configs: watch::Sender<Config>,
    _tasks: JoinSet<()>,
}

impl Watch {
    async fn start(server: &NatsServer, replica: &str) -> Result<Self> {
        Self::start_with(server, replica, ConnectionLimits::default()).await
    }

    async fn start_with(
        server: &NatsServer,
        replica: &str,
        limits: ConnectionLimits,
    ) -> Result<Self> {
        let client = server.connect().await?;
        let js = jetstream::new(client.clone());
        let metrics = Arc::new(Metrics::new()?);
        let (out, _) = Out::start(client.clone(), client, Arc::clone(&metrics));
        // Of servers that have only just found each other one may not answer in time.
        let there = async || audit::ensure(&js, 1).await;
        let stream = wait_for("the audit's stream is there", PATIENCE, there).await?;
        let by = replica.parse()?;
        let (audit, _) = Audit::start(
            js.clone(),
            stream.clone(),
            reports_of(&stream),
            by,
            out,
            Arc::clone(&metrics),
        );
        let access = server
            .keys()
            .access(&server.url(), Role::Doorkeeper, replica)?;
        let text = format!(
            "replica = \"{replica}\"\nnats_url = \"{}\"\ncredentials = \"-\"\nca = \"-\"\n",
            server.url()
        );
        let mut config = Config::parse(&text, "central.toml")?;
        config.connections = limits;
        let (configs_to, configs) = watch::channel(config);
        let (left_to, left) = mpsc::channel(super::LEFT_MAX);
        let (tasks, _) = super::start(
            &access,
            replica,
            configs,
            audit,
            Arc::clone(&metrics),
            left_to,
        )
        .await?;
        Ok(Self {
            left,
            metrics,
            js,
            _configs: configs_to,
            _tasks: tasks,
        })
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.expose().unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or_default()
    }

    async fn counts(&self, role: Role, count: usize) -> Result<()> {
        wait_for(
            &format!("{count} of {role} are counted"),
            PATIENCE,
            async || {
                let is = self.metric(&format!("ev_connections{{role=\"{role}\"}}"));
                ensure!(is == u64::try_from(count)?, "{is}");
                Ok(())
            },
        )
        .await
    }

    async fn entries(&self) -> Result<Vec<AuditEntry>> {
        let mut stream = self.js.get_stream(streams::AUDIT.name).await?;
        let last = stream.info().await?.state.last_sequence;
        let mut entries: Vec<AuditEntry> = Vec::new();
        for seq in 1..=last {
            let message = stream.get_raw_message(seq).await?;
            entries.push(wire::decode(&message.payload, Encoding::MsgPack)?);
        }
        Ok(entries)
    }

    /// The first entry of this kind, once it is there.
    async fn entry(&self, verb: &str, words: &str) -> Result<AuditEntry> {
        wait_for(
            &format!("an entry: {verb}, {words}"),
            PATIENCE,
            async || {
                let entries = self.entries().await?;
                let found = entries.iter().find(|entry| {
                    let detail = entry.detail.as_deref().unwrap_or_default();
                    entry.verb == verb && detail.contains(words)
                });
                found
                    .cloned()
                    .ok_or_else(|| anyhow::anyhow!("{entries:#?}"))
            },
        )
        .await
    }
}

/// A connection that does not come back.
async fn once(access: &Access) -> Result<Client> {
    let (options, _) = access.options(Pauses::default(), |_| std::future::ready(()))?;
    let was_there = AtomicBool::new(false);
    let client = options
        .reconnect_delay_callback(move |_| {
            if was_there.swap(true, Ordering::Relaxed) {
                Duration::from_secs(3_600)
            } else {
                Duration::ZERO
            }
        })
        .connect(access.servers()?)
        .await?;
    Ok(client)
}

/// The server's numbers of the connections with this key.
async fn there(server: &NatsServer, key: &str) -> Result<BTreeSet<u64>> {
    let page = server.monitor("/connz?auth=1&limit=10000").await?;
    Ok(page["connections"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| c["authorized_user"] == key)
        .filter_map(|c| c["cid"].as_u64())
        .collect())
}

async fn many(access: &Access, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        // One beyond the limit may be closed before it is ready.
        clients.extend(once(access).await.ok());
    }
    Ok(clients)
}

async fn push_to(realm: &mut Realm, url: &str, now_s: i64) -> Result<()> {
    let servers = Servers {
        url: url.to_owned(),
        tls: Tls {
            ca: certificate::ca(realm.dir()),
            identity: None,
        },
    };
    push(realm, &servers, now_s).await?;
    Ok(())
}

fn now_s() -> i64 {
    Timestamp::now().as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_connections_with_one_credential_the_oldest_stay_and_nobody_else_notices()
-> Result<()> {
    let server = NatsServer::start().await?;
    let watch = Watch::start(&server, "central-1").await?;
    let bob = server.keys().access(&server.url(), Role::Driver, "bob")?;
    let _bobs = many(&bob, LIMIT).await?;
    let bobs_key = Credential::read(&bob.credentials)?.public_key();
    let bobs = there(&server, &bobs_key).await?;
    let alice = server.keys().access(&server.url(), Role::Driver, "alice")?;
    let key = Credential::read(&alice.credentials)?.public_key();
    let _first = many(&alice, LIMIT).await?;
    let first = there(&server, &key).await?;
    assert_eq!(first.len(), LIMIT);

    let _more = many(&alice, 50 - LIMIT).await?;

    wait_for("the newest are closed", PATIENCE, async || {
        let is = there(&server, &key).await?;
        ensure!(is == first, "{is:?}");
        Ok(())
    })
    .await?;
    watch.counts(Role::Driver, 2 * LIMIT).await?;
    assert_eq!(there(&server, &bobs_key).await?, bobs);
    let entry = watch.entry("kicked", "8 may be open").await?;
    assert_eq!(entry.kind, AuditKind::Connection);
    assert_eq!(entry.name.as_deref(), Some("alice"));
    assert_eq!(entry.credential.as_ref(), Some(&key));
    assert_eq!(entry.outcome, AuditOutcome::Denied);
    wait_for("all are counted as kicked", PATIENCE, async || {
        let kicked = watch.metric("ev_connections_kicked_total");
        ensure!(kicked == 42, "{kicked}");
        Ok(())
    })
    .await?;
    assert!(
        watch
            .entries()
            .await?
            .iter()
            .all(|e| e.name.as_deref() != Some("bob"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_there_before_is_counted_and_a_restart_of_the_server_clears_it() -> Result<()> {
    let mut server = NatsServer::start().await?;
    let alice = server.keys().access(&server.url(), Role::Driver, "alice")?;
    let _alices = many(&alice, 12).await?;
    // More than fit on a page.
    let bob = server
        .keys()
        .access(&server.url(), Role::Operator, "olga")?;
    let _olgas = many(&bob, LIMIT).await?;
    let cp = server
        .keys()
        .access(&server.url(), Role::ChargePoint, "CP-001")?;
    let _crowd = many(&cp, 260).await?;
    let limits = ConnectionLimits {
        charge_point: 1_000,
        ..ConnectionLimits::default()
    };
    let watch = Watch::start_with(&server, "central-1", limits).await?;
    watch.counts(Role::ChargePoint, 260).await?;
    watch.counts(Role::Operator, LIMIT).await?;
    watch.counts(Role::Driver, LIMIT).await?;
    watch.counts(Role::Doorkeeper, 1).await?;
    assert_eq!(watch.metric("ev_connections_watched"), 1);

    server.restart().await?;
    watch.counts(Role::Doorkeeper, 1).await?;
    watch.counts(Role::Driver, 0).await?;
    watch.counts(Role::ChargePoint, 0).await?;
    let _back = once(&alice).await?;
    watch.counts(Role::Driver, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_dropped_or_refused_is_written_down_with_name_key_and_reason() -> Result<()> {
    let server = NatsServer::start().await?;
    let (keys, url) = (server.keys().clone(), server.url());
    let watch = Watch::start(&server, "central-1").await?;
    let alice = keys.access(&url, Role::Driver, "alice")?;
    let key = Credential::read(&alice.credentials)?.public_key();
    let stolen = keys.dir().join("stolen.creds");
    std::fs::copy(&alice.credentials, &stolen)?;
    let _alice = once(&alice).await?;
    watch.counts(Role::Driver, 1).await?;

    let mut realm = keys.realm()?;
    realm.revoke(Role::Driver, "alice", now_s())?;
    push_to(&mut realm, &url, now_s()).await?;
    let entry = watch.entry("closed", "credentials revoked").await?;
    assert_eq!(entry.name.as_deref(), Some("alice"));
    assert_eq!(entry.credential.as_ref(), Some(&key));

    let again = Access {
        credentials: stolen,
        ..alice.clone()
    };
    assert!(once(&again).await.is_err());
    let entry = watch
        .entry("refused", "driver: the credential was revoked")
        .await?;
    assert_eq!(entry.name.as_deref(), Some("alice"));
    assert_eq!(entry.credential.as_ref(), Some(&key));

    let expired = realm.issue(Role::ChargePoint, "CP-9", now_s() - 5, now_s() - 50)?;
    let late = Access {
        credentials: expired.path,
        ..alice.clone()
    };
    assert!(once(&late).await.is_err());
    let entry = watch
        .entry("refused", "charge-point: the credential has expired")
        .await?;
    assert_eq!(entry.name.as_deref(), Some("CP-9"));
    let key = Credential::read(&late.credentials)?.public_key();
    assert_eq!(entry.credential.as_ref(), Some(&key));

    // One more that is good, whose time ends while it is connected.
    let short = realm.issue(Role::Driver, "sam", now_s() + 2, now_s())?;
    let short = Access {
        credentials: short.path,
        ..alice.clone()
    };
    let _sam = once(&short).await?;
    let entry = watch.entry("closed", "authentication expired").await?;
    assert_eq!(entry.name.as_deref(), Some("sam"));

    let others = Keys::new()?;
    let stranger = Access {
        credentials: others.creds(Role::Operator, "olga")?,
        ..alice.clone()
    };
    assert!(once(&stranger).await.is_err());
    let entry = watch.entry("refused", "nobody here has signed").await?;
    assert_eq!((entry.name, entry.credential), (None, None));
    assert!(entry.detail.unwrap().contains("who says \"operator olga\""));

    let bob = realm.enrol(Role::Driver, "bob", 1, now_s())?;
    let bob = Credential::read(&bob.path)?;
    let forged = with_auth(&alice, bob, |auth| auth.signature = Some(vec![0; 64]));
    assert!(forged.await.is_err());
    let entry = watch.entry("refused", "without its key").await?;
    assert_eq!(entry.name.as_deref(), Some("bob"));

    for (reason, count) in [
        ("revoked", 1),
        ("expired", 1),
        ("unknown", 1),
        ("signature", 1),
    ] {
        let name = format!("ev_connections_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(watch.metric(&name), count, "{reason}");
    }
    Ok(())
}

/// Connects with somebody's credential and says something else beside it.
async fn with_auth(
    access: &Access,
    credential: Credential,
    forge: impl Fn(&mut async_nats::Auth) + Send + Sync + 'static,
) -> Result<Client> {
    let (credential, forge) = (Arc::new(credential), Arc::new(forge));
    let client = ConnectOptions::with_auth_callback(move |nonce| {
        let (credential, forge) = (Arc::clone(&credential), Arc::clone(&forge));
        async move {
            let mut auth = credential.answer(&nonce)?;
            forge(&mut auth);
            Ok(auth)
        }
    })
    .require_tls(true)
    .tls_first()
    .add_root_certificates(access.tls.ca.clone())
    .name("alice\u{1b}[31m")
    .connect(access.servers()?)
    .await?;
    Ok(client)
}

/// The server repeats as `user` what a client says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_counted_as_somebody_else_by_what_they_say() -> Result<()> {
    let server = NatsServer::start().await?;
    let (keys, url) = (server.keys().clone(), server.url());
    let watch = Watch::start(&server, "central-1").await?;
    let alice = keys.access(&url, Role::Driver, "alice")?;
    let alices = Credential::read(&alice.credentials)?.public_key();
    let mallory = keys.creds(Role::Driver, "mallory")?;
    let mallorys = Credential::read(&mallory)?.public_key();
    let as_alice = async || {
        let (says, credential) = (alices.clone(), Credential::read(&mallory)?);
        with_auth(&alice, credential, move |auth| {
            auth.nkey = Some(says.clone());
        })
        .await
    };
    let mut forged = Vec::new();
    for _ in 0..LIMIT {
        forged.push(as_alice().await?);
    }
    // The server shows them all as hers, and she has room for her own.
    assert_eq!(there(&server, &alices).await?.len(), LIMIT);
    let _alice = once(&alice).await?;
    watch.counts(Role::Driver, LIMIT + 1).await?;
    forged.extend(as_alice().await.ok());
    let entry = watch.entry("kicked", "8 may be open").await?;
    assert_eq!(entry.name.as_deref(), Some("mallory"));
    assert_eq!(entry.credential, Some(mallorys));
    // The name that a program gives itself is quoted, and nothing in it acts on a terminal.
    assert!(
        entry
            .detail
            .unwrap()
            .ends_with("calls itself \"alice?[31m\"")
    );
    drop(forged);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_replicas_on_several_servers_one_writes_each_event_down() -> Result<()> {
    const REFUSED: usize = 12;
    let cluster = Cluster::start(3).await?;
    let mut watches = Vec::new();
    for n in 0..3 {
        watches.push(Watch::start(cluster.node(n), &format!("central-{n}")).await?);
    }
    let (keys, node) = (cluster.node(0).keys().clone(), cluster.node(1));
    // Two on each server: all replicas count all.
    let mut clients = Vec::new();
    for n in 0..3 {
        let alice = keys.access(&cluster.node(n).url(), Role::Driver, "alice")?;
        clients.extend(many(&alice, 2).await?);
    }
    for watch in &watches {
        watch.counts(Role::Driver, 6).await?;
    }
    let elsewhere = keys.access(&node.url(), Role::Driver, "alice")?;
    for n in 0..REFUSED {
        let name = format!("d-{n}");
        let late = keys
            .realm()?
            .issue(Role::Driver, &name, now_s() - 5, now_s() - 50)?;
        let late = Access {
            credentials: late.path,
            ..elsewhere.clone()
        };
        assert!(once(&late).await.is_err());
    }
    let written = |watch: &Watch| watch.metric("ev_connections_refused_total{reason=\"expired\"}");
    wait_for("all are written down", PATIENCE, async || {
        let sum: u64 = watches.iter().map(written).sum();
        ensure!(sum == u64::try_from(REFUSED)?, "{sum}");
        Ok(())
    })
    .await?;
    wait_for("all entries are there", PATIENCE, async || {
        let entries = watches[0].entries().await?;
        let names: BTreeSet<_> = entries.iter().filter_map(|e| e.name.clone()).collect();
        ensure!(names.len() == REFUSED, "{names:?}");
        ensure!(entries.len() == REFUSED, "{entries:#?}");
        Ok(())
    })
    .await?;
    // Four more on another server are two too many, and are closed once.
    let alice = keys.access(&cluster.node(2).url(), Role::Driver, "alice")?;
    clients.extend(many(&alice, 4).await?);
    for watch in &watches {
        watch.counts(Role::Driver, LIMIT).await?;
    }
    wait_for("each is written down once", PATIENCE, async || {
        let entries = watches[0].entries().await?;
        let kicked = entries.iter().filter(|e| e.verb == "kicked").count();
        ensure!(kicked == 2, "{kicked}");
        Ok(())
    })
    .await
}

/// The server closes it without a word, and the program would come back for ever.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_again_and_again_beyond_the_limit_is_told_so() -> Result<()> {
    let server = NatsServer::start().await?;
    let watch = Watch::start(&server, "central-1").await?;
    let alice = server.keys().access(&server.url(), Role::Driver, "alice")?;
    let _first = many(&alice, LIMIT).await?;
    watch.counts(Role::Driver, LIMIT).await?;
    let (to, mut events) = mpsc::unbounded_channel();
    let (options, _) = alice.options(Pauses::default(), move |event| {
        let _ = to.send(event);
        std::future::ready(())
    })?;
    let _more = options
        .retry_on_initial_connect()
        .connect(alice.servers()?)
        .await?;
    let told = timeout(PATIENCE, async {
        loop {
            if let Some(LinkEvent::Refused(words)) = events.recv().await {
                return words;
            }
        }
    })
    .await?;
    assert!(told.contains("soon closes the connection"), "{told}");
    assert!(told.contains("alice.creds"), "{told}");
    watch.entry("kicked", "8 may be open").await?;
    Ok(())
}

/// Nor in the audit of what is asked.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_written_down_under_a_key_that_they_only_say() -> Result<()> {
    let server = NatsServer::start().await?;
    let core = server.connect().await?;
    let mut requests = core.subscribe("ev.v1.op.*.*").await?;
    core.flush().await?;
    let olga = server
        .keys()
        .access(&server.url(), Role::Operator, "olga")?;
    let credential = Credential::read(&olga.credentials)?;
    let (key, inbox) = (credential.public_key(), credential.inbox_prefix());
    let other = Credential::read(&server.keys().creds(Role::Operator, "otto")?)?.public_key();
    let operator = with_auth(&olga, credential, move |auth| {
        auth.nkey = Some(other.clone());
    })
    .await?;
    operator
        .publish_with_reply("ev.v1.op.olga.cp_ls", format!("{inbox}.1"), "x".into())
        .await?;
    let asked = timeout(PATIENCE, requests.next()).await?;
    let asked = asked.ok_or_else(|| anyhow::anyhow!("the server is gone"))?;
    let entry = audit::entry::draft(AuditKind::Op, &asked);
    assert_eq!(entry.credential, Some(key));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_point_has_left_with_its_last_connection_and_nobody_else_has() -> Result<()> {
    let server = NatsServer::start().await?;
    let mut watch = Watch::start(&server, "central-1").await?;
    let cp = server
        .keys()
        .access(&server.url(), Role::ChargePoint, "CP-001")?;
    let alice = server.keys().access(&server.url(), Role::Driver, "alice")?;
    let (first, second) = (once(&cp).await?, once(&cp).await?);
    let alice = once(&alice).await?;
    watch.counts(Role::ChargePoint, 2).await?;
    watch.counts(Role::Driver, 1).await?;
    alice.drain().await?;
    watch.counts(Role::Driver, 0).await?;
    first.drain().await?;
    watch.counts(Role::ChargePoint, 1).await?;
    assert!(watch.left.try_recv().is_err());
    second.drain().await?;
    let left = timeout(PATIENCE, watch.left.recv()).await?;
    assert_eq!(left, Some("CP-001".parse()?));
    assert!(watch.left.try_recv().is_err());
    Ok(())
}
