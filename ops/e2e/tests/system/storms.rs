//! Those who send too much and those who take nothing: others are served, and a flood is told when
//! to come back.

use anyhow::{Context, Result, ensure};
use ev_client::Pauses;
use ev_contract::{
    codes::{Code, Problem},
    ids::{BootId, ConnectorId, CpId, Epoch, SiteId},
    units::MilliAmp,
    v1::{Boot, ConnectorSpec, ErrorReply, EvtReply, EvtRequest, Status, SyncReply, SyncRequest},
    wire::{self, CENTRAL, Encoding, Tag},
};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions};
use ev_testkit::{PATIENCE, Role, TcpProxy, wait_for};
use futures::{StreamExt, future::join_all};
use serde::Serialize;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use uuid::Uuid;

/// One central with small allowances, so that a flood need not be large.
async fn strict(limits: &str) -> Result<Site> {
    Site::start(&Layout {
        central_extra: format!("[limits]\n{limits}\n"),
        ..Layout::small(Charger::Orderly)
    })
    .await
}

/// Sends all of it without waiting, then reads as many answers.
async fn at_once(
    nats: &async_nats::Client,
    subject: &str,
    messages: Vec<Vec<u8>>,
) -> Result<Vec<Vec<u8>>> {
    let inbox = nats.new_inbox();
    let count = messages.len();
    let answers = nats.subscribe(format!("{inbox}.*")).await?;
    for (n, message) in messages.into_iter().enumerate() {
        nats.publish_with_reply(subject.to_owned(), format!("{inbox}.{n}"), message.into())
            .await?;
    }
    nats.flush().await?;
    let answers = answers.take(count).map(|answer| answer.payload.to_vec());
    tokio::time::timeout(PATIENCE, answers.collect())
        .await
        .context("not every message of the flood was answered")
}

fn bytes(message: &impl Serialize) -> Result<Vec<u8>> {
    Ok(wire::encode(message, Encoding::MsgPack)?)
}

/// How many are `overloaded`, each with a time to come back.
fn told_to_wait<'a>(problems: impl Iterator<Item = Option<&'a Problem>>) -> Result<usize> {
    let mut told = 0;
    for problem in problems.flatten() {
        ensure!(problem.code == Code::Overloaded, "{problem}");
        ensure!(
            problem.retry_after_ms.is_some_and(|ms| ms > 0),
            "{problem:?}"
        );
        told += 1;
    }
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_floods_is_told_when_to_come_back_and_others_charge() -> Result<()> {
    let site = strict("driver_starts = { per_s = 1, burst = 5 }").await?;
    let (alice, mallory) = (site.driver("alice").await?, site.driver("mallory").await?);
    let starts: Vec<_> = (0..1_000).map(|_| StartOptions::default()).collect();
    let messages: Result<Vec<_>> = starts
        .iter()
        .map(|start| bytes(&Driver::start_request("CP-002", start)))
        .collect();
    let flood = at_once(&mallory.nats, "ev.v1.driver.mallory.start", messages?);
    let others = alice.start("CP-001");
    let (flood, others) = tokio::join!(flood, others);
    others?;
    let errors: Vec<_> = flood?
        .iter()
        .map(|answer| wire::decode::<ErrorReply>(answer, Encoding::MsgPack).ok())
        .collect();
    for error in errors.iter().flatten() {
        ensure!(error.to == "mallory" && error.status == Status::Unknown);
        let asked = starts
            .iter()
            .any(|start| error.request_id.as_ref() == Some(&start.request_id));
        ensure!(asked, "{error:?} names no request of the flood");
    }
    let told = told_to_wait(errors.iter().map(|e| e.as_ref().map(|e| &e.error)))?;
    ensure!(told >= 900, "{told} of 1000 were told to wait");
    // The allowance of one kind of question is not spent by another.
    let session = mallory.open().await?[0].session_id.to_string();
    mallory.stop(&session).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_in_a_flood_is_decided_when_it_is_repeated() -> Result<()> {
    let site = strict("driver_starts = { per_s = 10, burst = 1 }").await?;
    let alice = site.driver("alice").await?;
    let options = StartOptions::default();
    let same = bytes(&Driver::start_request("CP-001", &options))?;
    let first = at_once(
        &alice.nats,
        "ev.v1.driver.alice.start",
        vec![same.clone(); 50],
    )
    .await?;
    let told = first
        .iter()
        .filter(|answer| wire::decode::<ErrorReply>(answer, Encoding::MsgPack).is_ok())
        .count();
    ensure!((1..50).contains(&told), "{told} of 50 were told to wait");
    let update = alice.start_with("CP-001", &options).await?;
    ensure!(update.status == Status::Accepted, "{update:?}");
    ensure!(alice.history().await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_point_that_floods_is_told_when_to_come_back_and_others_charge() -> Result<()> {
    let site = strict(
        "charge_point_evts = { per_s = 1, burst = 10 }\n\
         charge_point_syncs = { per_s = 1, burst = 10 }",
    )
    .await?;
    let wild = site.nats.connect_as(Role::ChargePoint, "CP-WILD").await?;
    let cp: CpId = "CP-WILD".parse()?;
    let sync = bytes(&sync(&cp)?)?;
    let evt = bytes(&EvtRequest {
        tag: Tag::new(),
        to: CENTRAL.into(),
        boot: BootId::from_number(1),
        epoch: "e-wild".parse()?,
        first: 1,
        from: 1,
        records: vec![rmpv::Value::from("x".repeat(1_000))],
    })?;
    let syncs = at_once(&wild, "ev.v1.cp.CP-WILD.sync", vec![sync; 500]).await?;
    let evts = at_once(&wild, "ev.v1.cp.CP-WILD.evt", vec![evt; 1_000]);
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let others = async {
        let session = alice.start("CP-001").await?;
        alice.wait_energy(&session, 1_000).await?;
        alice.stop(&session).await?;
        anyhow::Ok(session)
    };
    let (evts, session) = tokio::join!(evts, others);
    crate::ended_right(&site, &alice, &session?, before, "CP-001").await?;
    let syncs: Result<Vec<SyncReply>, _> = syncs
        .iter()
        .map(|answer| wire::decode(answer, Encoding::MsgPack))
        .collect();
    let told = told_to_wait(syncs?.iter().map(|reply| reply.error.as_ref()))?;
    ensure!(told >= 400, "{told} of 500 syncs were told to wait");
    let evts: Result<Vec<EvtReply>, _> = evts?
        .iter()
        .map(|answer| wire::decode(answer, Encoding::MsgPack))
        .collect();
    let evts = evts?;
    let told = told_to_wait(evts.iter().map(|reply| reply.error.as_ref()))?;
    ensure!(told >= 900, "{told} of 1000 evts were told to wait");
    // What is not let in says nothing of the spool.
    ensure!(
        evts.iter()
            .all(|r| r.error.is_none() || (r.next == 0 && r.epoch.is_empty()))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_wait_brings_everything_in_the_end() -> Result<()> {
    let site = strict("charge_point_evts = { per_s = 2, burst = 1 }").await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_energy(&session, 1_000).await?;
    alice.stop(&session).await?;
    crate::ended_right(&site, &alice, &session, before, "CP-001").await?;
    let refused = site
        .metric(0, "ev_refused_total{verb=\"evt\",why=\"rate\"}")
        .await?;
    ensure!(refused > 0.0, "it was never told to wait");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_heartbeats_is_passed_over_and_the_charge_point_stays_online() -> Result<()> {
    let site = strict("charge_point_heartbeats = { per_s = 1, burst = 5 }").await?;
    let wild = site.nats.connect_as(Role::ChargePoint, "CP-WILD").await?;
    for _ in 0..5_000 {
        wild.publish("ev.v1.cp.CP-WILD.hb", "no heartbeat".into())
            .await?;
    }
    wild.flush().await?;
    wait_for("the flood is counted", PATIENCE, async || {
        let refused = site
            .metric(0, "ev_refused_total{verb=\"hb\",why=\"rate\"}")
            .await?;
        ensure!(refused >= 4_500.0, "{refused}");
        Ok(())
    })
    .await?;
    site.charge_points_online(2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_is_dropped_by_the_server_and_delays_nobody() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let mut between = TcpProxy::start(site.nats.url()).await?;
    let access = site
        .nats
        .keys()
        .access(&between.url(), Role::Driver, "still")?;
    let (options, _) = access.options(Pauses::default(), |_| std::future::ready(()))?;
    let still = options
        .name("still")
        // It does not miss the answers either.
        .ping_interval(PATIENCE)
        .connect(access.servers()?)
        .await?;
    let _updates = still.subscribe("ev.v1.watch.still.*").await?;
    still.flush().await?;
    between.hold_replies().await?;
    // More than the server keeps for one reader, on a subject that the reader hears.
    let other = site.nats.connect().await?;
    let bulk: bytes::Bytes = vec![0; 512 * 1024].into();
    let noise = async {
        for _ in 0..400 {
            other
                .publish("ev.v1.watch.still.noise", bulk.clone())
                .await?;
        }
        anyhow::Ok(other.flush().await?)
    };
    let drivers = async {
        for _ in 0..10 {
            let charged = join_all(["CP-001", "CP-002"].map(async |cp| {
                let driver = site.driver(&format!("on-{cp}")).await?;
                let session = driver.start(cp).await?;
                driver.stop(&session).await?;
                driver.wait_ended(&session).await
            }))
            .await;
            for one in charged {
                one?;
            }
        }
        anyhow::Ok(())
    };
    let (noise, drivers) = tokio::join!(noise, drivers);
    noise?;
    drivers?;
    wait_for("the server has dropped the reader", PATIENCE, async || {
        let closed = site.nats.monitor("/connz?state=closed&limit=10000").await?;
        let reason = closed["connections"]
            .as_array()
            .context("connections")?
            .iter()
            .find(|c| c["name"] == "still")
            .and_then(|c| c["reason"].as_str().map(str::to_owned))
            .context("it is connected")?;
        ensure!(reason.starts_with("Slow Consumer"), "{reason}");
        Ok(())
    })
    .await
}

fn sync(cp: &CpId) -> Result<SyncRequest> {
    Ok(SyncRequest {
        tag: Tag::new(),
        to: CENTRAL.into(),
        cp_id: cp.clone(),
        boot: Boot {
            id: BootId::from_number(1),
            count: 1,
            after: None,
        },
        epoch: "e-wild".parse::<Epoch>()?,
        site_id: "SITE-A".parse::<SiteId>()?,
        time_zone: "Europe/Berlin".into(),
        connectors: vec![ConnectorSpec {
            connector: ConnectorId(1),
            max_ma: MilliAmp(16_000),
            phases: 3,
            volts: 230,
            plug: None,
        }],
        version: Uuid::nil().to_string(),
        first: 1,
        next: 1,
        sessions: Vec::new(),
    })
}

/// With fewer files than would be needed for all who begin to ask, so that none would be left for
/// anything else.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_half_sent_take_nothing_from_those_who_ask_nor_from_nats() -> Result<()> {
    const FILES: u64 = 256;
    let mut site = Site::start(&Layout::small(Charger::Orderly)).await?;
    site.centrals[0].limit_files(FILES)?;
    let address = ("127.0.0.1", site.http_port(0));
    let begin = async || {
        let mut halves = Vec::new();
        for _ in 0..FILES + 44 {
            let mut half = TcpStream::connect(address).await?;
            half.write_all(b"GET /readyz HTTP/1.1\r\nHost: ").await?;
            halves.push(half);
        }
        anyhow::Ok(halves)
    };
    let _first = begin().await?;
    site.ready(0).await?;
    site.nats.kill()?;
    wait_for("it has noticed", PATIENCE, async || {
        let (status, body) = site.http(0, "/readyz").await?;
        ensure!(status == 503, "{status}: {body}");
        Ok(())
    })
    .await?;
    let _second = begin().await?;
    site.nats.restart().await?;
    site.ready(0).await?;
    ensure!(site.metric(0, "ev_http_connections_closed_total").await? > 0.0);
    Ok(())
}
