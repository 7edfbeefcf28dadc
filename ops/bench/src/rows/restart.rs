//! A restart of central: the whole ledger read from its beginning, and a snapshot with the rest
//! after it.
//!
//! The ledger is filled with what central's own core decides ([`World`]) while no central runs. That
//! it is taken as it was meant is said by central itself: the frame that it appends before it serves
//! carries a digest of all messages and of its verdict on every record in them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::{
    consumer::{DeliverPolicy, push},
    context::PublishErrorKind,
    message::PublishMessage,
};
use ev_contract::{
    streams::{LEDGER, SNAPSHOT_BUCKET},
    subjects,
    time::UnixMs,
    v1::{StatusReply, StatusRequest},
    wire::{self, CENTRAL, Encoding, Tag},
};
use futures::StreamExt;
use serde::Deserialize;
use tokio::{io::AsyncReadExt, time::timeout};

use super::Sizes;
use crate::{
    client::Shot,
    floor,
    hub::{Hub, Layout, Part},
    report::{Figure, Target},
    starts::now_ms,
    world::{IN_FRAME, Spent, Step, World},
};

const ROW: &str = "restart";
/// The longest that a restart may take, in seconds.
const READY_S_MAX: f64 = 3.0;
/// Records with which that is meant when all of them are read.
const WHOLE_REPLAYED: usize = 1_000_000;
/// Records with which that is meant with a snapshot, and the most that may lie behind it.
const WHOLE_LEDGER: usize = 10_000_000;
const WHOLE_REST: usize = 500_000;
/// Records of each charge point: it presents itself, and has two sessions of three quarters of an
/// hour with a checkpoint each minute.
const RECORDS_EACH: usize = 100;
/// Frames under way to the ledger at once.
const UNDER_WAY: u64 = 16;
/// An append takes some milliseconds, and so does a message that is read.
const SILENCE: Duration = Duration::from_secs(20);
/// Central reads ten million records from the beginning, and then writes a snapshot of them.
const READS_ALL: Duration = Duration::from_secs(400);
/// As soon as central serves, it writes a snapshot.
const SNAPSHOT_AT_ONCE: &str = "snapshot_every = 10\n";
/// Nothing beside what it always says.
const AS_SHIPPED: &str = "";

/// Both restarts.
pub async fn restart(sizes: &Sizes) -> Result<Vec<Figure>> {
    let mut figures = replay(sizes).await?;
    figures.extend(snapshot(sizes).await?);
    Ok(figures)
}

/// The whole ledger is read: there is no snapshot.
async fn replay(sizes: &Sizes) -> Result<Vec<Figure>> {
    let mut filled = Filled::new(sizes.replayed).await?;
    filled.fill(sizes.replayed).await?;
    let size = floor::ledger(&filled.hub).await?;
    let mut measured = Measured::default();
    for _ in 0..sizes.restarts {
        filled.measure(&mut measured, 1, false).await?;
    }
    let what = |what: &str| format!("{what}, {} records and no snapshot", filled.records);
    let target = (sizes.replayed == WHOLE_REPLAYED).then_some(Target::AtMost(READY_S_MAX));
    let mut figures = measured.figures(&what, "the same messages, raw", target);
    figures.extend([
        Figure::new(
            ROW,
            what("records read a second until ready"),
            "1/s",
            &measured.rates(filled.records),
        ),
        Figure::new(ROW, what("frames"), "", &[size.frames as f64]),
        Figure::new(ROW, what("the ledger"), "MiB", &[mib(size.bytes)]),
    ]);
    Ok(figures)
}

/// A snapshot is read, and what lies after it.
async fn snapshot(sizes: &Sizes) -> Result<Vec<Figure>> {
    let mut filled = Filled::new(sizes.ledger).await?;
    filled.fill(sizes.ledger - sizes.rest).await?;
    let snapshot_bytes = filled.snapshot().await?;
    let rest_from = filled.world.state().basis().seq + 1;
    let before = filled.records;
    filled.fill(sizes.ledger).await?;
    let (size, rest) = (floor::ledger(&filled.hub).await?, filled.records - before);
    let mut measured = Measured::default();
    for _ in 0..sizes.restarts {
        filled.measure(&mut measured, rest_from, true).await?;
    }
    let what = |what: &str| {
        format!(
            "{what}, {} charge points, {} records, of which {rest} after the snapshot",
            filled.charge_points, filled.records
        )
    };
    let is_whole = sizes.ledger == WHOLE_LEDGER && sizes.rest == WHOLE_REST;
    let target = is_whole.then_some(Target::AtMost(READY_S_MAX));
    let mut figures = measured.figures(&what, "snapshot and rest, raw", target);
    figures.extend([
        Figure::new(
            ROW,
            what("seconds of it until the snapshot is read"),
            "s",
            &measured.snapshot_s,
        ),
        Figure::new(ROW, what("the snapshot"), "MiB", &[mib(snapshot_bytes)]),
        Figure::new(ROW, what("frames"), "", &[size.frames as f64]),
        Figure::new(ROW, what("the ledger"), "MiB", &[mib(size.bytes)]),
    ]);
    Ok(figures)
}

/// Restarts, and the floor beside each.
#[derive(Default)]
struct Measured {
    ready_s: Vec<f64>,
    snapshot_s: Vec<f64>,
    cpu_s: Vec<f64>,
    raw_s: Vec<f64>,
    resident_mib: Vec<f64>,
}

impl Measured {
    fn figures(
        &self,
        what: &impl Fn(&str) -> String,
        floor_is: &'static str,
        target: Option<Target>,
    ) -> Vec<Figure> {
        let ready = Figure::new(ROW, what("seconds until ready"), "s", &self.ready_s);
        let mut ready = ready.over(&self.ready_s, floor_is, &self.raw_s);
        if let Some(target) = target {
            ready = ready.target(target);
        }
        vec![
            ready,
            Figure::new(ROW, what("CPU time of central for it"), "s", &self.cpu_s),
            Figure::new(
                ROW,
                what("resident memory of central"),
                "MiB",
                &self.resident_mib,
            ),
        ]
    }

    fn rates(&self, records: usize) -> Vec<f64> {
        let rate = |s: &f64| records as f64 / s;
        self.ready_s.iter().map(rate).collect()
    }
}

/// A ledger in which a fleet has lived.
struct Filled {
    hub: Hub,
    world: World,
    charge_points: usize,
    /// Those of the world: central's own frames have none.
    records: usize,
}

impl Filled {
    /// The streams as central makes them, with a frame of its own in the ledger; it is down.
    async fn new(records: usize) -> Result<Self> {
        let layout = Layout {
            connectors: 1,
            ..Layout::default()
        };
        let mut hub = Hub::start(&layout).await?;
        hub.kill_centrals()?;
        let charge_points = records / RECORDS_EACH;
        let lasts_ms = World::minutes(RECORDS_EACH) as i64 * 60_000;
        let mut filled = Self {
            hub,
            world: World::new(charge_points, UnixMs(now_ms() - lasts_ms))?,
            charge_points,
            records: 0,
        };
        filled.catch_up().await?;
        Ok(filled)
    }

    /// The world hears what central has appended; central is down.
    async fn catch_up(&mut self) -> Result<()> {
        self.hub.wait_until_centrals_are_gone().await?;
        self.let_pass().await?;
        let mut stream = self.hub.jetstream().get_stream(LEDGER.name).await?;
        let last = stream.info().await?.state.last_sequence;
        while self.world.state().basis().seq < last {
            let pos = self.world.state().basis().seq + 1;
            let message = stream.get_raw_message(pos).await?;
            self.world
                .hear(pos, &message.payload)
                .context("central has judged a record otherwise than it was meant")?;
        }
        Ok(())
    }

    /// Waits until the server has stored, or refused, what central sent before it was killed: an
    /// append that is refused for its place stands in line behind it.
    async fn let_pass(&self) -> Result<()> {
        let nowhere = PublishMessage::build().expected_last_sequence(u64::MAX);
        let jetstream = self.hub.jetstream();
        let sent = jetstream.send_publish(subjects::LEDGER, nowhere).await?;
        match timeout(SILENCE, sent).await? {
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            other => bail!("an append that expects no such place got {other:?}"),
        }
    }

    /// Appends what happens until there are so many records, each frame acknowledged from the disk
    /// at the place where it was meant to stand.
    async fn fill(&mut self, until: usize) -> Result<()> {
        let mut under_way = 0;
        while self.records < until || under_way > 0 {
            if self.records < until && under_way < UNDER_WAY {
                let bytes = self.next(until - self.records)?;
                self.hub
                    .core
                    .send(Shot::new(subjects::LEDGER, bytes))
                    .await?;
                under_way += 1;
                continue;
            }
            let answer = timeout(SILENCE, self.hub.core.hear())
                .await
                .context("an append has no answer")??;
            let ack: Ack = serde_json::from_slice(&answer.message.payload).with_context(|| {
                let text = String::from_utf8_lossy(&answer.message.payload);
                format!("an append got {text}")
            })?;
            under_way -= 1;
            let meant = self.world.state().basis().seq - under_way;
            ensure!(
                ack.seq == meant,
                "a frame stands at {} instead of {meant}",
                ack.seq
            );
        }
        Ok(())
    }

    /// The next frame.
    fn next(&mut self, most: usize) -> Result<Vec<u8>> {
        let mut spent = Spent::default();
        // The first record is the tariff's.
        let (fleet, done) = (self.charge_points, self.records);
        let upto = |from: usize| fleet.min(from + IN_FRAME.min(most));
        let bytes = if done == 0 {
            self.world.tariff(&mut spent)?
        } else if done <= fleet {
            let from = done - 1;
            self.world
                .slice(Step::Present, from..upto(from), &mut spent)?
        } else if done <= 2 * fleet {
            let from = done - 1 - fleet;
            self.world
                .slice(Step::Report, from..upto(from), &mut spent)?
        } else {
            self.world.live(most, &mut spent)?
        };
        self.records += spent.records;
        Ok(bytes)
    }

    /// Central reads all of it and writes a snapshot; the snapshot's size in bytes. Central is
    /// down again afterwards.
    async fn snapshot(&mut self) -> Result<u64> {
        let filled_to = self.world.state().basis().seq as f64;
        self.hub.configure_centrals(SNAPSHOT_AT_ONCE)?;
        self.hub.restart_centrals(READS_ALL).await?;
        ev_testkit::wait_for("central has written a snapshot", READS_ALL, async || {
            let [seq] = self.hub.metrics(["ev_snapshot_sequence"]).await?;
            ensure!(seq > filled_to, "the newest is of {seq}");
            Ok(())
        })
        .await?;
        self.hub.kill_centrals()?;
        self.hub.configure_centrals(AS_SHIPPED)?;
        self.catch_up().await?;
        Ok(self.raw_snapshot().await? as u64)
    }

    /// One restart, and its floor before it.
    async fn measure(
        &mut self,
        measured: &mut Measured,
        rest_from: u64,
        has_snapshot: bool,
    ) -> Result<()> {
        let began = Instant::now();
        if has_snapshot {
            self.raw_snapshot().await?;
        }
        self.raw(rest_from).await?;
        measured.raw_s.push(began.elapsed().as_secs_f64());
        let took = self.hub.restart_centrals(READS_ALL).await?;
        let used = Hub::usages(&self.hub.all_pids())?;
        let central = used.iter().find(|(part, _)| *part == Part::Central);
        let (_, central) = central.context("central runs")?;
        measured.cpu_s.push(central.cpu_s);
        measured.resident_mib.push(mib(central.resident));
        measured.ready_s.push(took.ready.as_secs_f64());
        measured.snapshot_s.push(took.begun.as_secs_f64());
        self.check().await?;
        self.hub.kill_centrals()?;
        self.catch_up().await
    }

    /// Central has read everything, and knows a session that charges.
    async fn check(&mut self) -> Result<()> {
        let written = self.world.state().basis().seq;
        // It shows how far it is a turn after it has begun to answer.
        ev_testkit::wait_for("central has applied the ledger", SILENCE, async || {
            let [applied] = self.hub.metrics(["ev_ledger_applied_sequence"]).await?;
            ensure!(
                applied > written as f64,
                "it has applied {applied} messages of {written} and its own"
            );
            Ok(())
        })
        .await?;
        let Some((driver, session)) = self.world.charging() else {
            return Ok(());
        };
        let question = StatusRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: Some(session.to_string()),
        };
        let subject = format!("ev.v1.driver.{driver}.status");
        let shot = Shot::new(subject, wire::encode(&question, Encoding::MsgPack)?);
        let answer = timeout(SILENCE, self.hub.drivers.ask(shot))
            .await
            .context("central does not say how a session stands")??;
        let reply: StatusReply = wire::decode(&answer.payload, Encoding::MsgPack)?;
        ensure!(
            reply.sessions.iter().any(|s| s.session_id == session),
            "central does not know a session that charges: {reply:?}"
        );
        Ok(())
    }

    /// Reads the ledger from a message to its end, and nothing of what is in it.
    async fn raw(&self, from: u64) -> Result<()> {
        let stream = self.hub.jetstream().get_stream(LEDGER.name).await?;
        let consumer = stream
            .create_consumer(push::OrderedConfig {
                deliver_subject: self.hub.core.client().new_inbox(),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: from,
                },
                ..push::OrderedConfig::default()
            })
            .await?;
        let mut messages = consumer.messages().await?;
        for _ in from..=self.world.state().basis().seq {
            timeout(SILENCE, messages.next())
                .await
                .context("the ledger is not read")?
                .context("the ledger ended")??;
        }
        Ok(())
    }

    /// Reads the newest snapshot, and nothing of what is in it; its size in bytes.
    async fn raw_snapshot(&self) -> Result<usize> {
        let bucket = self
            .hub
            .jetstream()
            .get_object_store(SNAPSHOT_BUCKET)
            .await?;
        let mut list = bucket.list().await?;
        let mut newest = String::new();
        while let Some(info) = list.next().await {
            newest = newest.max(info?.name);
        }
        let mut object = bucket.get(newest).await?;
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await?;
        Ok(bytes.len())
    }
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
