//! Thousands of charge points in one process over one connection: they present themselves, send
//! heartbeats, take commands and send records, in the contract's messages and at their real rates.
//! None of them has a disk: what is measured is the hub, and they must not be what is slow.

mod control;
mod cp;

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::{Client, Message};
use ev_contract::{
    codes::Problem,
    limits::HEARTBEAT_MS,
    subjects::CP_COMMANDS,
    v1::{EvtReply, StartCommand, StopCommand, SyncReply},
    wire::{self, Encoding},
};
use futures::StreamExt;
use tokio::time::MissedTickBehavior;

use self::{
    control::{Count, NEWS, ORDERS, Order},
    cp::{ChargePoint, index_of},
};
pub use self::{
    control::{Fleet, News},
    cp::id_of,
};
use crate::{
    access,
    client::{Answer, LoadClient, Shot},
};

/// Questions to central under way at once: what a few hundred agents that return together ask.
const ASKING_MAX: usize = 512;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(10);
/// Between two questions where the first came to nothing and nobody said how long to wait.
const REST: Duration = Duration::from_millis(200);
/// As an agent waits for an answer of central's before it asks again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How to play charge points.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[arg(long)]
    url: String,
    /// A credential of EDGE
    #[arg(long)]
    credentials: PathBuf,
    /// Who vouches for the server
    #[arg(long)]
    ca: PathBuf,
    /// Connectors of each charge point
    #[arg(long)]
    connectors: u16,
}

/// What it logs when it listens.
pub const READY: &str = "bench fleet listens";

/// Plays until the connection is closed.
///
/// # Errors
/// When it cannot connect, or central says what cannot be.
pub async fn run(args: Args) -> Result<()> {
    let client = access::connect(&args.url, &args.credentials, &args.ca).await?;
    let mut commands = client.subscribe(CP_COMMANDS).await?;
    let mut orders = client.subscribe(ORDERS).await?;
    let mut play = Play {
        asker: LoadClient::new(client.clone()).await?,
        client,
        cps: Vec::new(),
        connectors: args.connectors,
        ready: VecDeque::new(),
        asking: HashMap::new(),
        beat_next: 0,
        beats_due: 0.0,
        count: Count::default(),
        waiting: Vec::new(),
        plays_whole: false,
        slow: HashMap::new(),
        late: Vec::new(),
        resting: Vec::new(),
    };
    println!("{READY}");
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticked = Instant::now();
    loop {
        tokio::select! {
            command = commands.next() => play.command(command.context("commands ended")?).await?,
            answer = play.asker.hear() => play.heard(&answer?).await?,
            order = orders.next() => play.ordered(&order.context("control ended")?)?,
            _ = tick.tick() => {
                let now = Instant::now();
                play.beat(now - ticked).await?;
                ticked = now;
                play.ask_again(now);
                play.answer_late(now).await?;
                play.report().await?;
            }
        }
        play.ask().await?;
    }
}

/// What a question to central was.
#[derive(Debug, Clone, Copy)]
struct Asking {
    cp: usize,
    is_sync: bool,
    at: Instant,
}

struct Play {
    client: Client,
    asker: LoadClient,
    cps: Vec<ChargePoint>,
    connectors: u16,
    /// Charge points that have something to ask and do not ask.
    ready: VecDeque<usize>,
    asking: HashMap<u64, Asking>,
    beat_next: usize,
    beats_due: f64,
    count: Count,
    /// Orders that are not yet done.
    waiting: Vec<(Order, async_nats::Subject)>,
    plays_whole: bool,
    /// After how long who answers; none: never.
    slow: HashMap<usize, Option<Duration>>,
    /// Answers that are not yet due.
    late: Vec<(Instant, async_nats::Subject, Vec<u8>)>,
    /// Who asks again, and when.
    resting: Vec<(Instant, usize)>,
}

/// How long who was refused waits.
fn rest(problem: &Problem) -> Duration {
    problem.retry_after_ms.map_or(REST, Duration::from_millis)
}

impl Play {
    async fn command(&mut self, message: Message) -> Result<()> {
        let Some(reply) = message.reply else {
            return Ok(());
        };
        let mut tokens = message.subject.split('.').skip(3);
        let (Some(index), Some("cmd"), Some(verb)) = (
            tokens.next().and_then(index_of),
            tokens.next(),
            tokens.next(),
        ) else {
            return Ok(());
        };
        let Some(cp) = self.cps.get_mut(index) else {
            return Ok(());
        };
        let answer = match verb {
            "start" => {
                let start: StartCommand = wire::decode(&message.payload, Encoding::MsgPack)?;
                self.count.starts += u64::from(cp.start(&start, self.plays_whole));
                if cp.wants_to_ask() {
                    self.ready.push_back(index);
                }
                cp.taken(start.command_id)
            }
            "stop" => {
                let stop: StopCommand = wire::decode(&message.payload, Encoding::MsgPack)?;
                self.count.stops += 1;
                let answer = cp.stop(&stop);
                if cp.wants_to_ask() {
                    self.ready.push_back(index);
                }
                answer
            }
            _ => cp.done(),
        };
        let bytes = wire::encode(&answer, Encoding::MsgPack)?;
        match self.slow.get(&index) {
            None => self.client.publish(reply, bytes.into()).await?,
            Some(Some(after)) => self.late.push((Instant::now() + *after, reply, bytes)),
            Some(None) => {}
        }
        Ok(())
    }

    async fn answer_late(&mut self, now: Instant) -> Result<()> {
        let due: Vec<_> = self.late.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, reply, bytes) in due {
            self.client.publish(reply, bytes.into()).await?;
        }
        Ok(())
    }

    async fn heard(&mut self, answer: &Answer) -> Result<()> {
        // One that was given up and asked again.
        let Some(asked) = self.asking.remove(&answer.to) else {
            return Ok(());
        };
        let payload = &answer.message.payload;
        let cp = &mut self.cps[asked.cp];
        cp.asks = false;
        let refused = if payload.is_empty() {
            // Nobody is there to answer.
            self.count.unanswered += 1;
            Some(REST)
        } else if asked.is_sync {
            let reply: SyncReply = wire::decode(payload, Encoding::MsgPack)?;
            if reply.error.is_none() {
                self.count.synced += 1;
                cp.synced = true;
            }
            reply.error.as_ref().map(rest)
        } else {
            let reply: EvtReply = wire::decode(payload, Encoding::MsgPack)?;
            if reply.error.is_none() {
                let (freed, news) = cp.freed(reply.next);
                self.count.records += freed;
                for one in news {
                    let bytes = serde_json::to_vec(&one)?;
                    self.client.publish(NEWS, bytes.into()).await?;
                }
            }
            reply.error.as_ref().map(rest)
        };
        if let Some(rest) = refused {
            self.count.refused += u64::from(!payload.is_empty());
            self.resting.push((Instant::now() + rest, asked.cp));
        } else if cp.wants_to_ask() {
            self.ready.push_back(asked.cp);
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<()> {
        while self.asking.len() < ASKING_MAX {
            let Some(index) = self.ready.pop_front() else {
                return Ok(());
            };
            let cp = &mut self.cps[index];
            if cp.asks || !cp.wants_to_ask() {
                continue;
            }
            cp.asks = true;
            let is_sync = !cp.synced;
            let shot = if is_sync {
                Shot::new(cp.subject("sync"), cp.sync(self.connectors)?)
            } else {
                Shot::new(cp.subject("evt"), cp.run()?)
            };
            let number = self.asker.send(shot).await?;
            self.asking.insert(
                number,
                Asking {
                    cp: index,
                    is_sync,
                    at: Instant::now(),
                },
            );
        }
        Ok(())
    }

    /// What was not answered is asked again, as an agent does.
    fn ask_again(&mut self, now: Instant) {
        let rested = self.resting.extract_if(.., |(at, _)| *at <= now);
        self.ready.extend(rested.map(|(_, cp)| cp));
        let (cps, ready) = (&mut self.cps, &mut self.ready);
        let count = &mut self.count;
        self.asking.retain(|_, asking| {
            let is_open = now - asking.at < ANSWER_TIMEOUT;
            if !is_open {
                count.unanswered += 1;
                cps[asking.cp].asks = false;
                ready.push_back(asking.cp);
            }
            is_open
        });
    }

    /// As many heartbeats as are due, each charge point in its turn.
    async fn beat(&mut self, since: Duration) -> Result<()> {
        let all = self.cps.len();
        let each_s = HEARTBEAT_MS as f64 / 1_000.0;
        self.beats_due += all as f64 * since.as_secs_f64() / each_s;
        // After a pause of this process nobody hears twice from one charge point.
        self.beats_due = self.beats_due.min(all as f64);
        while self.beats_due >= 1.0 {
            self.beats_due -= 1.0;
            self.beat_next = (self.beat_next + 1) % all;
            let cp = &self.cps[self.beat_next];
            if cp.synced {
                let bytes = cp.heartbeat(self.connectors)?;
                self.client.publish(cp.subject("hb"), bytes.into()).await?;
                self.count.heartbeats += 1;
            }
        }
        Ok(())
    }

    fn ordered(&mut self, message: &Message) -> Result<()> {
        let Some(reply) = message.reply.clone() else {
            return Ok(());
        };
        let order: Order = serde_json::from_slice(&message.payload)?;
        match order {
            Order::Join { count } => {
                for index in self.cps.len()..count {
                    self.cps.push(ChargePoint::new(index)?);
                    self.ready.push_back(index);
                }
            }
            Order::Play { whole } => self.plays_whole = whole,
            Order::Slow { index, after_ms } => {
                self.slow.insert(index, after_ms.map(Duration::from_millis));
            }
            Order::Taken { .. } | Order::Free { .. } => {}
        }
        self.waiting.push((order, reply));
        Ok(())
    }

    /// Answers orders that are done.
    async fn report(&mut self) -> Result<()> {
        let mut left = Vec::new();
        for (order, reply) in std::mem::take(&mut self.waiting) {
            let is_done = match &order {
                Order::Play { .. } | Order::Slow { .. } => true,
                Order::Taken { starts } => self.count.starts >= *starts,
                Order::Join { .. } => self.cps.iter().all(|cp| cp.synced),
                Order::Free { starts } if self.count.starts >= *starts => {
                    self.end_all();
                    self.cps.iter().all(ChargePoint::is_free)
                }
                Order::Free { .. } => false,
            };
            if is_done {
                let bytes = serde_json::to_vec(&self.count)?;
                self.client.publish(reply, bytes.into()).await?;
            } else {
                left.push((order, reply));
            }
        }
        self.waiting = left;
        Ok(())
    }

    fn end_all(&mut self) {
        for (index, cp) in self.cps.iter_mut().enumerate() {
            if cp.end_all() && !cp.asks {
                self.ready.push_back(index);
            }
        }
    }
}
