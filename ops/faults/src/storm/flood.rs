//! Those who send too much, and one who takes nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::Client;
use ev_client::Pauses;
use ev_contract::{
    codes::Code,
    ids::{BootId, ConnectorId},
    limits::HEARTBEAT_S,
    subjects::{CP_EVENTS, CP_HEARTBEATS, CP_SYNCS},
    units::MilliAmp,
    v1::{
        Boot, ConnectorSpec, DriverUpdate, ErrorReply, EvtReply, EvtRequest, Heartbeat, Status,
        SyncReply, SyncRequest,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use ev_e2e::{Driver, Site, StartOptions, now_ms};
use ev_testkit::{NatsServer, PATIENCE, Role, TcpProxy, wait_for};
use futures::StreamExt;
use serde::Serialize;
use tokio::{sync::watch, task::JoinHandle};

/// Messages between two pauses.
const BATCH: usize = 100;
/// With [`BATCH`]: 10,000 messages a second, of which a person sends one in minutes.
const PAUSE: Duration = Duration::from_millis(10);
/// How long answers may take after the last message.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Half of the largest `evt`: 130 KB each.
const LARGE_EVT_BYTES: usize = 128 * 1024;

/// What a flood was told.
#[derive(Debug, Default, Clone, Copy)]
pub struct Told {
    /// Messages.
    pub sent: usize,
    /// Sessions begun.
    pub accepted: usize,
    /// Answers other than `overloaded`.
    pub otherwise: usize,
    /// Refused as too many.
    pub overloaded: usize,
    /// Of those, without a time to come back.
    pub without_time: usize,
}

impl Told {
    /// How many were let in.
    pub const fn taken(&self) -> usize {
        self.accepted + self.otherwise
    }

    fn answer(&mut self, problem: Option<&ev_contract::codes::Problem>) {
        match problem {
            Some(problem) if problem.code == Code::Overloaded => {
                self.overloaded += 1;
                self.without_time += usize::from(problem.retry_after_ms.is_none());
            }
            Some(_) | None => self.otherwise += 1,
        }
    }
}

/// A flood that is under way.
struct Flood {
    stop: watch::Sender<bool>,
    sending: JoinHandle<Result<usize>>,
    hearing: JoinHandle<Told>,
}

impl Flood {
    /// `message` makes the nth message; `heard` reads an answer.
    async fn start(
        client: Client,
        mut message: impl FnMut(usize) -> Result<(String, Vec<u8>)> + Send + 'static,
        heard: impl Fn(&[u8], &mut Told) + Send + 'static,
    ) -> Result<Self> {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(format!("{inbox}.*")).await?;
        let (stop, mut stopped) = watch::channel(false);
        let mut until = stop.subscribe();
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while !*until.borrow_and_update() {
                for _ in 0..BATCH {
                    let (subject, payload) = message(sent)?;
                    client
                        .publish_with_reply(subject, format!("{inbox}.{sent}"), payload.into())
                        .await?;
                    sent += 1;
                }
                tokio::time::sleep(PAUSE).await;
            }
            client.flush().await?;
            Ok(sent)
        });
        let hearing = tokio::spawn(async move {
            let mut told = Told::default();
            let end = async {
                // Also when nobody can say so any more.
                let _ = stopped.wait_for(|stop| *stop).await;
                tokio::time::sleep(LAST_ANSWERS).await;
            };
            tokio::pin!(end);
            loop {
                tokio::select! {
                    () = &mut end => return told,
                    answer = answers.next() => match answer {
                        Some(answer) => heard(&answer.payload, &mut told),
                        None => return told,
                    },
                }
            }
        });
        Ok(Self {
            stop,
            sending,
            hearing,
        })
    }

    async fn stop(self) -> Result<Told> {
        // They listen until they end.
        let _ = self.stop.send(true);
        let sent = self.sending.await.context("sending")??;
        let told = self.hearing.await.context("hearing")?;
        Ok(Told { sent, ..told })
    }
}

fn bytes(message: &impl Serialize) -> Result<Vec<u8>> {
    Ok(wire::encode(message, Encoding::MsgPack)?)
}

/// A driver's app gone wild: every other message a start with an id of its own, the others
/// questions.
pub struct FloodingDriver {
    flood: Flood,
    driver: Driver,
}

impl FloodingDriver {
    pub async fn start(site: &Site) -> Result<Self> {
        let driver = site.driver("mallory").await?;
        let flood = Flood::start(
            site.nats.connect_as(Role::Driver, "mallory").await?,
            |n| {
                if n % 2 == 0 {
                    let start = Driver::start_request("CP-002", &StartOptions::default());
                    Ok(("ev.v1.driver.mallory.start".into(), bytes(&start)?))
                } else {
                    Ok(("ev.v1.driver.mallory.list".into(), bytes(&ListAll {})?))
                }
            },
            |answer, told| {
                if let Ok(error) = wire::decode::<ErrorReply>(answer, Encoding::MsgPack) {
                    told.answer(Some(&error.error));
                } else {
                    match wire::decode::<DriverUpdate>(answer, Encoding::MsgPack) {
                        Ok(update) if update.status == Status::Accepted => told.accepted += 1,
                        Ok(_) | Err(_) => told.answer(None),
                    }
                }
            },
        )
        .await?;
        Ok(Self { flood, driver })
    }

    /// Ends the flood, and the sessions that it got.
    pub async fn stop(self) -> Result<Told> {
        let told = self.flood.stop().await?;
        for view in self.driver.open().await? {
            self.driver.stop(&view.session_id.to_string()).await?;
        }
        Ok(told)
    }
}

/// A list without a page: the first of them.
#[derive(Serialize)]
struct ListAll {}

/// An agent gone wild: large and small runs of records, syncs and heartbeats, none of which waits
/// for an answer.
pub struct FloodingChargePoint {
    flood: Flood,
}

const WILD: &str = "CP-WILD";

impl FloodingChargePoint {
    pub async fn start(site: &Site) -> Result<Self> {
        let client = site.nats.connect_as(Role::ChargePoint, WILD).await?;
        let presented = client
            .request(format!("ev.v1.cp.{WILD}.sync"), bytes(&sync())?.into())
            .await?;
        let presented: SyncReply = wire::decode(&presented.payload, Encoding::MsgPack)?;
        ensure!(presented.error.is_none(), "{presented:?}");
        let small = bytes(&evt(1, 64))?;
        let large = bytes(&evt(16, LARGE_EVT_BYTES / 16))?;
        let flood = Flood::start(
            client,
            move |n| {
                Ok(match n % 20 {
                    0 => (format!("ev.v1.cp.{WILD}.sync"), bytes(&sync())?),
                    1..=9 => (format!("ev.v1.cp.{WILD}.hb"), bytes(&heartbeat())?),
                    10 => (format!("ev.v1.cp.{WILD}.evt"), large.clone()),
                    _ => (format!("ev.v1.cp.{WILD}.evt"), small.clone()),
                })
            },
            |answer, told| {
                if let Ok(reply) = wire::decode::<EvtReply>(answer, Encoding::MsgPack) {
                    told.answer(reply.error.as_ref());
                } else if let Ok(reply) = wire::decode::<SyncReply>(answer, Encoding::MsgPack) {
                    told.answer(reply.error.as_ref());
                } else {
                    told.answer(None);
                }
            },
        )
        .await?;
        Ok(Self { flood })
    }

    pub async fn stop(self) -> Result<Told> {
        self.flood.stop().await
    }
}

fn sync() -> SyncRequest {
    SyncRequest {
        tag: Tag::new(),
        to: CENTRAL.into(),
        cp_id: id(WILD),
        boot: Boot {
            id: BootId::from_number(1),
            count: 1,
            after: None,
        },
        epoch: id("e-wild"),
        site_id: id("SITE-A"),
        time_zone: "Europe/Berlin".into(),
        connectors: vec![ConnectorSpec {
            connector: ConnectorId(1),
            max_ma: MilliAmp(16_000),
            phases: 3,
            volts: 230,
            plug: None,
        }],
        version: "wild".into(),
        first: 1,
        next: 1,
        sessions: Vec::new(),
    }
}

/// Records that are none: they cost central the most, since each is kept word for word.
fn evt(records: usize, bytes_each: usize) -> EvtRequest {
    EvtRequest {
        tag: Tag::new(),
        to: CENTRAL.into(),
        boot: BootId::from_number(1),
        epoch: id("e-wild"),
        first: 1,
        from: 1,
        records: vec![rmpv::Value::from("x".repeat(bytes_each)); records],
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        tag: Tag::new(),
        to: CENTRAL.into(),
        cp_id: id(WILD),
        boot: BootId::from_number(1),
        epoch: id("e-wild"),
        ts: ev_contract::time::UnixMs(now_ms()),
        clock_offset_ms: None,
        every_s: HEARTBEAT_S,
        uptime_s: 1,
        version: "wild".into(),
        spool_depth: 0,
        health: Vec::new(),
        access_expires_at: None,
        connectors: Vec::new(),
    }
}

#[expect(clippy::unwrap_used, reason = "ids written in this file")]
fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// A central that hears all charge points and takes nothing.
pub struct StillConsumer {
    /// What the server calls its connection.
    cid: u64,
    _between: TcpProxy,
    _client: Client,
}

impl StillConsumer {
    pub async fn start(server: &NatsServer) -> Result<Self> {
        let mut between = TcpProxy::start(server.url()).await?;
        let access = server
            .keys()
            .access(&between.url(), Role::Central, "still")?;
        let (options, _) = access.options(Pauses::default(), |_| std::future::ready(()))?;
        // It does not miss the answers either.
        let client = options
            .ping_interval(PATIENCE)
            .connect(access.servers()?)
            .await?;
        for subject in [CP_EVENTS, CP_SYNCS, CP_HEARTBEATS] {
            client.subscribe(subject).await?;
        }
        client.flush().await?;
        between.hold_replies().await?;
        Ok(Self {
            cid: client.server_info().client_id,
            _between: between,
            _client: client,
        })
    }

    /// Why the server has closed its connection, once it has.
    pub async fn dropped_for(&self, server: &NatsServer) -> Result<String> {
        let page = format!("/connz?state=closed&cid={}", self.cid);
        wait_for("the server drops the reader", PATIENCE, async || {
            let closed = server.monitor(&page).await?;
            closed["connections"][0]["reason"]
                .as_str()
                .map(str::to_owned)
                .context("it is connected")
        })
        .await
    }
}
