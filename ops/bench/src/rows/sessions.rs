//! Whole sessions: start, taken, charging, three checkpoints, stop, ended, receipt.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ev_contract::{
    ids::SessionId,
    streams::{CDR, LEDGER},
    v1::{DriverUpdate, Status, StopRequest, UpdateType},
    wire::{self, CENTRAL, Encoding, Tag},
};
use tokio::time::timeout;

use super::{Bench, crowd::memory};
use crate::{
    client::Shot,
    fleet::News,
    hub::{Hub, Layout, Part},
    report::{Figure, Target},
    starts::{Starts, now_ms},
};

const ROW: &str = "sessions";
/// Charge points that play sessions; four connectors each.
const CHARGE_POINTS_MAX: usize = 5_000;
/// Sessions open at once. Each has one question or record under way at a time, and there are ten.
const OPEN: usize = 1_024;
/// Nothing happens for so long: something is lost.
const SILENCE: Duration = Duration::from_secs(20);
/// Receipts are copied behind the ledger.
const RECEIPTS_WAIT: Duration = Duration::from_secs(60);

/// Sessions through the real subjects, counted by their receipts in the CDR stream.
pub async fn whole(bench: &mut Bench) -> Result<Vec<Figure>> {
    let sizes = bench.sizes;
    let mut hub = Hub::start(&Layout::default()).await?;
    let charge_points = sizes.charge_points.min(CHARGE_POINTS_MAX);
    hub.fleet.join(charge_points).await?;
    hub.fleet.play(true).await?;
    let mut players = Players::new(charge_points, hub.connectors);
    let before = bytes_on_disk(&hub)?;
    let edges = players
        .play(&mut hub, sizes.rounds, sizes.round_time)
        .await?;
    let mut rates = Vec::new();
    let mut cores: Vec<(Part, Vec<f64>)> = Part::ALL.map(|part| (part, Vec::new())).into();
    for pair in edges.windows(2) {
        let [from, to] = pair else { continue };
        let window = (to.at - from.at).as_secs_f64();
        rates.push((to.receipts - from.receipts) as f64 / window);
        for (((_, from), (_, to)), (_, cores)) in from.used.iter().zip(&to.used).zip(&mut cores) {
            cores.push((to.cpu_s - from.cpu_s) / window);
        }
    }
    receipts_are_all_there(&hub, players.ended).await?;
    let after = bytes_on_disk(&hub)?;
    let each = |bytes: u64| bytes as f64 / players.ended.max(1) as f64;
    let (ledger, cdr) = (
        each(after.ledger - before.ledger),
        each(after.cdr - before.cdr),
    );
    let mut figures = vec![
        Figure::new(
            ROW,
            "whole sessions, by receipts in the CDR stream",
            "1/s",
            &rates,
        )
        .target(Target::AtLeast(3_000.0)),
        Figure::new(ROW, "on disk a session, ledger", "B", &[ledger]),
        Figure::new(ROW, "on disk a session, receipts", "B", &[cdr]),
        Figure::new(ROW, "on disk a session", "B", &[ledger + cdr]).target(Target::AtMost(2_500.0)),
        Figure::new(ROW, "sessions in all", "", &[players.ended as f64]),
    ];
    figures.extend(cores.iter().map(|(part, rounds)| {
        let what = format!("cores used by {}", part.as_str());
        Figure::new(ROW, what, "cores", rounds)
    }));
    figures.extend(memory(ROW, &hub)?);
    Ok(figures)
}

/// One end of a window.
struct Edge {
    at: Instant,
    receipts: u64,
    used: Vec<(Part, crate::usage::Usage)>,
}

async fn edge(hub: &Hub) -> Result<Edge> {
    Ok(Edge {
        receipts: receipts(hub).await?.0,
        at: Instant::now(),
        used: Hub::usages(&hub.all_pids())?,
    })
}

/// What a question was about.
enum Asked {
    Start(usize),
    Stop,
}

/// Drivers, each with a connector of their own.
struct Players {
    starts: Starts,
    charge_points: usize,
    free: VecDeque<usize>,
    sessions: HashMap<SessionId, usize>,
    /// The charge point was quicker than the answer to the driver.
    early: HashSet<SessionId>,
    asked: HashMap<u64, Asked>,
    requests: u64,
    ended: u64,
}

impl Players {
    fn new(charge_points: usize, connectors: u16) -> Self {
        let starts = Starts::new(charge_points, connectors);
        Self {
            free: (0..starts.places()).collect(),
            starts,
            charge_points,
            sessions: HashMap::new(),
            early: HashSet::new(),
            asked: HashMap::new(),
            requests: 0,
            ended: 0,
        }
    }

    /// Keeps so many sessions open that as many have ended before the first window begins, for so
    /// many windows on end, and plays those that are open then to their end. Returns the windows'
    /// edges.
    async fn play(&mut self, hub: &mut Hub, windows: usize, time: Duration) -> Result<Vec<Edge>> {
        let mut news = hub.fleet.news().await?;
        let mut edges: Vec<Edge> = Vec::new();
        let open = OPEN.min(self.free.len());
        for _ in 0..open {
            self.start(hub).await?;
        }
        while !(self.asked.is_empty() && self.sessions.is_empty()) {
            let heard = timeout(SILENCE, async {
                tokio::select! {
                    answer = hub.drivers.hear() => answer.map(Happened::Answer),
                    news = news.next() => news.map(Happened::News),
                }
            })
            .await
            .with_context(|| {
                format!(
                    "{} sessions are open and nothing happens",
                    self.sessions.len()
                )
            })??;
            match heard {
                Happened::Answer(answer) => {
                    self.answered(hub, answer.to, &answer.message.payload)
                        .await?;
                }
                Happened::News(News::Charged(session)) => {
                    if self.sessions.contains_key(&session) {
                        self.stop(hub, session).await?;
                    } else {
                        self.early.insert(session);
                    }
                }
                Happened::News(News::Ended(session)) => {
                    let place = self
                        .sessions
                        .remove(&session)
                        .with_context(|| format!("{session} ended twice, or never began"))?;
                    self.ended += 1;
                    self.free.push_back(place);
                    if edges.len() <= windows {
                        self.start(hub).await?;
                    }
                }
            }
            let is_due = match edges.last() {
                // All began at once, and go apart as time goes by.
                None => self.ended >= 2 * open as u64,
                Some(last) => edges.len() <= windows && last.at.elapsed() >= time,
            };
            if is_due {
                edges.push(edge(hub).await?);
            }
        }
        Ok(edges)
    }

    async fn start(&mut self, hub: &mut Hub) -> Result<()> {
        let Some(place) = self.free.pop_front() else {
            return Ok(());
        };
        self.requests += 1;
        let shot = self.starts.shot(
            place,
            place % self.charge_points,
            place / self.charge_points + 1,
            format!("start-{}", self.requests),
        )?;
        let number = hub.drivers.send(shot).await?;
        self.asked.insert(number, Asked::Start(place));
        Ok(())
    }

    async fn stop(&mut self, hub: &mut Hub, session: SessionId) -> Result<()> {
        let place = self.sessions.get(&session).context("a session to stop")?;
        self.requests += 1;
        let message = StopRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: format!("stop-{}", self.requests),
            expires_at: now_ms() + 20_000,
            session_id: session.to_string(),
        };
        let shot = Shot::new(
            format!("ev.v1.driver.{}.stop", Starts::driver(*place)),
            wire::encode(&message, Encoding::MsgPack)?,
        );
        let number = hub.drivers.send(shot).await?;
        self.asked.insert(number, Asked::Stop);
        Ok(())
    }

    async fn answered(&mut self, hub: &mut Hub, number: u64, bytes: &[u8]) -> Result<()> {
        let Some(asked) = self.asked.remove(&number) else {
            bail!("an answer to no question");
        };
        let update: DriverUpdate = wire::decode(bytes, Encoding::MsgPack).with_context(|| {
            let text = String::from_utf8_lossy(bytes);
            format!("a start or a stop was answered with {text}")
        })?;
        ensure!(
            update.status == Status::Accepted,
            "a {:?} was not accepted: {update:?}",
            update.kind
        );
        let session = update.session_id.context("an accepted one has a session")?;
        match asked {
            Asked::Start(place) => {
                ensure!(update.kind == UpdateType::StartReply, "{update:?}");
                let former = self.sessions.insert(session, place);
                ensure!(former.is_none(), "{session} was given out twice");
                if self.early.remove(&session) {
                    self.stop(hub, session).await?;
                }
            }
            Asked::Stop => ensure!(update.kind == UpdateType::StopReply, "{update:?}"),
        }
        Ok(())
    }
}

enum Happened {
    Answer(crate::client::Answer),
    News(News),
}

/// Messages in the CDR stream, and sessions that they are about.
async fn receipts(hub: &Hub) -> Result<(u64, u64)> {
    let mut stream = hub.jetstream().get_stream(CDR.name).await?;
    let state = &stream.info().await?.state;
    Ok((state.messages, state.subjects_count))
}

async fn receipts_are_all_there(hub: &Hub, sessions: u64) -> Result<()> {
    ev_testkit::wait_for("every session has a receipt", RECEIPTS_WAIT, async || {
        let (messages, subjects) = receipts(hub).await?;
        ensure!(
            messages == sessions && subjects == sessions,
            "{sessions} sessions ended; {messages} receipts of {subjects} sessions are there"
        );
        Ok(())
    })
    .await
}

/// What the streams take on one server's disk.
struct OnDisk {
    ledger: u64,
    cdr: u64,
}

fn bytes_on_disk(hub: &Hub) -> Result<OnDisk> {
    let root = hub.servers.data_dir();
    Ok(OnDisk {
        ledger: bytes_of(root, LEDGER.name)?,
        cdr: bytes_of(root, CDR.name)?,
    })
}

/// All files below a folder of this name, wherever it is.
fn bytes_of(folder: &Path, name: &str) -> Result<u64> {
    let mut sum = 0;
    let mut folders = vec![(folder.to_owned(), false)];
    while let Some((folder, is_in)) = folders.pop() {
        for entry in fs::read_dir(&folder).context("look at the server's store")? {
            let entry = entry?;
            let Ok(about) = entry.metadata() else {
                // The server removes files while they are looked at.
                continue;
            };
            if about.is_dir() {
                let is_in = is_in || entry.file_name() == name;
                folders.push((entry.path(), is_in));
            } else if is_in {
                sum += about.len();
            }
        }
    }
    Ok(sum)
}
