//! One task owns one charge point: it feeds the core, commits what the core says, and only then
//! lets answers, hardware commands and records leave.

use std::{
    collections::BTreeMap, future::pending, net::IpAddr, pin::pin, sync::Arc, time::Duration,
};

use edge_core::{
    Answer, ChargePoint, Command, Draw, Effects, EvtOutcome, Identity, Input, LocalAnswer,
    LocalStart, Rates, ReplyTo, Row, SendRun, Standing, Stored, Watched, hardware::HwCommand,
};
use ev_client::{Access, Reminder, Rhythm, Term, Terms, What};
use ev_contract::{
    codes::Code,
    connector::ConnectorState,
    ids::{BootId, ConnectorId, CpId, SessionId},
    subjects::Subject,
    time::UnixMs,
    v1::{CommandReply, EvtRequest, Heartbeat, Outcome, SyncRequest, TimeQuality},
    wire::{CENTRAL, Encoding, Tag, decode},
};
use rand::Rng;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    clock::HostClock,
    config::ChargePointConfig,
    hardware::{HardwarePort, HwEvent},
    logbook::{self, Step},
    store::{Commit, Place, Store, StoreError, chain},
    tally::Seat,
    uplink::{Caller, Line, RawCommand, Uplink, UplinkEvent, heartbeat_pause},
};

/// Requests from the control socket that wait.
const ASKS_MAX: usize = 64;
/// Uplink events that wait.
const UPLINK_EVENTS_MAX: usize = 512;
/// Between attempts to write while the disk fails: soon enough that a freed disk is noticed at
/// once, seldom enough to leave a dying one alone.
const STORAGE_RETRY: Duration = Duration::from_secs(2);
/// So long the loop waits for the disk. A memory card that tidies up takes half a minute now and then;
/// by then limits are watched again and whoever asks is told.
const STORAGE_PATIENCE: Duration = Duration::from_secs(3);
/// Between attempts to open a store that cannot be opened.
const OPEN_RETRY: Duration = Duration::from_secs(5);
/// Longest wait before the sync after a reconnect. Many connections that were only stalled come back
/// in the same moment, without the jitter of a new one; what this charge point is has not changed
/// meanwhile, and nothing else waits for a sync.
const SYNC_RETURN_MS_MAX: u64 = 2_000;
/// First and longest pause after an unanswered sync.
const SYNC_RETRY_MS_MIN: u64 = 1_000;
const SYNC_RETRY_MS_MAX: u64 = 30_000;
/// After a change of state the heartbeat waits so long for the next change: a start and its phases
/// come together.
const BEAT_SETTLE: Duration = Duration::from_millis(50);
/// Between two lines about what was sent here and is for somebody else: whoever sends it does so at
/// will, and the log is not theirs to fill.
const FOREIGN_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Runs that are freed together while more wait: 4,000 records, a second of a fast drain. Each
/// transaction is an fsync, of which a memory card makes some twenty a second.
const FREED_RUNS_MAX: u32 = 16;
/// In a build with crash points, how long the charger has to take a command.
const HARDWARE_TAKES: Duration = Duration::from_millis(20);
/// At the end, how long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Answers under way: one per command that waits for the hardware, and those of this moment.
const REPLIES_MAX: usize = 1_024;

/// How often the servers' certificates are looked at. An uplink can cost money by the kilobyte, and
/// many cabinets return in the same moment.
const RHYTHM: Rhythm = Rhythm {
    every: Duration::from_secs(24 * 3_600),
    spread: Duration::from_secs(60),
};

/// What a charge point is asked from the cabinet.
#[derive(Debug)]
pub enum Ask {
    /// How is it?
    Status(oneshot::Sender<Value>),
    /// Does it make progress?
    Pulse(oneshot::Sender<Pulse>),
    /// Start a session here.
    Start(LocalStart, oneshot::Sender<LocalAnswer>),
    /// Stop the session on a connector.
    Stop(ConnectorId, oneshot::Sender<LocalAnswer>),
}

/// A charge point in few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Its store could be opened.
    pub store: bool,
    /// It has an uplink.
    pub uplink: bool,
    /// Sessions that it has.
    pub sessions: usize,
    /// Records that central has not confirmed.
    pub spool_depth: u64,
}

/// A handle to a charge point.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Ask>);

impl Handle {
    /// How it is; none when it has stopped.
    pub async fn status(&self) -> Option<Value> {
        let (done, status) = oneshot::channel();
        self.0.send(Ask::Status(done)).await.ok()?;
        status.await.ok()
    }

    /// Whether it makes progress: it answers from its loop.
    pub async fn pulse(&self) -> Option<Pulse> {
        let (done, pulse) = oneshot::channel();
        self.0.send(Ask::Pulse(done)).await.ok()?;
        pulse.await.ok()
    }

    /// Starts a session at the cabinet.
    pub async fn start(&self, start: LocalStart) -> LocalAnswer {
        let (done, answer) = oneshot::channel();
        if self.0.send(Ask::Start(start, done)).await.is_err() {
            return LocalAnswer::Refused(Code::NotReady);
        }
        answer.await.unwrap_or(LocalAnswer::Refused(Code::NotReady))
    }

    /// Stops the session on a connector.
    pub async fn stop(&self, connector: ConnectorId) -> LocalAnswer {
        let (done, answer) = oneshot::channel();
        if self.0.send(Ask::Stop(connector, done)).await.is_err() {
            return LocalAnswer::Refused(Code::NotReady);
        }
        answer.await.unwrap_or(LocalAnswer::Refused(Code::NotReady))
    }
}

/// What a charge point needs to run.
#[derive(Debug)]
pub struct Setup {
    /// What it is.
    pub config: Arc<ChargePointConfig>,
    /// How it reaches NATS.
    pub reach: Reach,
    /// Its store.
    pub store: Place,
    /// How often what is said.
    pub rates: Rates,
    /// Its hardware.
    pub hardware: HardwarePort,
    /// Where it counts for somebody who watches many.
    pub seat: Option<Seat>,
}

/// How a charge point reaches NATS.
#[derive(Debug)]
pub enum Reach {
    /// Over a connection of its own.
    Own {
        /// Where NATS is, and what opens it.
        access: Access,
        /// The address to call from, if not the system's choice.
        source: Option<IpAddr>,
    },
    /// Over one that it shares with others.
    Shared {
        /// Which.
        line: Line,
        /// When what opens it ends.
        terms: Arc<Vec<Term>>,
    },
}

/// Begins a charge point as a task that ends with `shutdown`.
#[must_use]
pub fn spawn(
    setup: Setup,
    shutdown: watch::Receiver<bool>,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let (asks, questions) = mpsc::channel(ASKS_MAX);
    let task = tokio::spawn(run(setup, questions, shutdown));
    (Handle(asks), task)
}

async fn run(setup: Setup, mut asks: mpsc::Receiver<Ask>, mut shutdown: watch::Receiver<bool>) {
    let (cp, place) = (setup.config.id.clone(), setup.store.clone());
    let Some((store, stored)) = open_store(&cp, &place, &mut asks, &mut shutdown).await else {
        return;
    };
    let (to_actor, mut uplink_events) = mpsc::channel(UPLINK_EVENTS_MAX);
    let (terms_to, mut terms) = mpsc::channel(1);
    // Ends with this function.
    let mut reading = JoinSet::new();
    let uplink = match setup.reach {
        Reach::Own { access, source } => {
            let mut own = Terms::new(access.clone(), RHYTHM);
            let caller = Caller {
                name: cp.to_string(),
                source,
                ping_every: Duration::from_secs(setup.rates.ping_s.into()),
            };
            let line = match Line::connect(&access, caller, own.connected()).await {
                Ok(line) => line,
                Err(e) => {
                    tracing::error!(%cp, error = %format!("{e:#}"), "NATS cannot be used; this charge point does not run");
                    return;
                }
            };
            reading.spawn(async move { while terms_to.send(own.next().await).await.is_ok() {} });
            line.uplink(&cp, true, to_actor).await
        }
        Reach::Shared { line, terms } => {
            reading.spawn(async move {
                // An actor that has gone need not know.
                let _ = terms_to.send(terms.to_vec()).await;
                pending::<()>().await;
            });
            line.uplink(&cp, false, to_actor).await
        }
    };
    let listener = tokio::spawn({
        let uplink = uplink.clone();
        async move {
            if let Err(e) = uplink.listen().await {
                tracing::error!(%cp, error = %e, "commands are no longer heard");
            }
        }
    });
    let mut hw_events = setup.hardware.events;
    let mut actor = Actor::new(
        (setup.config, setup.rates),
        (store, stored),
        uplink,
        setup.hardware.commands,
        setup.seat,
    );
    let mut stopped = pin!(crate::stopped(&mut shutdown));
    let mut wake = pin!(sleep_until(actor.wakes_at()));
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(event) = hw_events.recv() => match event {
                HwEvent::Fact(fact) => actor.feed(Input::Fact(fact)).await,
                HwEvent::Answer(answer) => actor.feed(Input::Answer(answer)).await,
            },
            Some(event) = uplink_events.recv() => actor.uplink_event(event).await,
            Some(ask) = asks.recv() => actor.ask(ask).await,
            Some(terms) = terms.recv() => actor.read_terms(terms),
            done = written(&mut actor.writing) => actor.written(done).await,
            () = &mut wake => actor.wake().await,
        }
        actor.after().await;
        let at = actor.wakes_at();
        if at != wake.deadline() {
            wake.as_mut().reset(at);
        }
    }
    listener.abort();
    actor.goodbye().await;
    actor.store.close().await;
}

/// Opens the store, again and again if it must be. Without it there is no epoch and no memory, so
/// nothing can be promised; the cabinet is told why.
async fn open_store(
    cp: &CpId,
    place: &Place,
    asks: &mut mpsc::Receiver<Ask>,
    shutdown: &mut watch::Receiver<bool>,
) -> Option<(Store, Stored)> {
    loop {
        let why = match Store::open_at(place).await {
            Ok(open) => return Some(open),
            Err(e) => chain(&e),
        };
        tracing::error!(%cp, store = ?place, error = why, "the store cannot be opened; sessions cannot begin here");
        let pause = sleep(OPEN_RETRY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = crate::stopped(shutdown) => return None,
                ask = asks.recv() => match ask? {
                    Ask::Status(done) => {
                        let _ = done.send(json!({
                            "id": cp, "epoch": null, "uplink": false,
                            "clock_synced": false, "spool_depth": 0,
                            "health": [Code::StorageFailed.as_str()], "storage": why,
                            "connectors": [],
                        }));
                    }
                    Ask::Pulse(done) => {
                        let _ = done.send(Pulse {
                            store: false,
                            uplink: false,
                            sessions: 0,
                            spool_depth: 0,
                        });
                    }
                    Ask::Start(_, done) | Ask::Stop(_, done) => {
                        let _ = done.send(LocalAnswer::Refused(Code::StorageFailed));
                    }
                },
            }
        }
    }
}

/// Rows on their way to a disk that takes its time.
struct Writing {
    commit: Commit,
    steps: Vec<Step>,
}

/// What became of them; comes to no end while there are none.
async fn written(writing: &mut Option<Writing>) -> Result<(), (Vec<Row>, StoreError)> {
    match writing {
        Some(writing) => (&mut writing.commit).await,
        None => pending().await,
    }
}

/// Who waits for an answer.
enum Waiter {
    Central {
        to: Option<async_nats::Subject>,
        encoding: Encoding,
    },
    Cabinet(oneshot::Sender<LocalAnswer>),
}

struct Actor {
    config: Arc<ChargePointConfig>,
    rates: Rates,
    watched: Watched,
    core: ChargePoint,
    clock: HostClock,
    store: Store,
    uplink: Uplink,
    hardware: mpsc::Sender<HwCommand>,
    /// Rows that could not be written, in order.
    unstored: Vec<Row>,
    /// What the disk has not finished.
    writing: Option<Writing>,
    /// What may only leave once it is written.
    held: Vec<Effects>,
    storage_due: Instant,
    freed: Freed,
    waiters: BTreeMap<ReplyTo, Waiter>,
    next_waiter: u64,
    sync: SyncState,
    ever_up: bool,
    /// Told so. The connection may be there a moment earlier, and what was sent in that moment would
    /// be sent again when it is told.
    is_up: bool,
    /// Central has answered a sync over this connection. One that does not get so far has no use for
    /// records either, and thousands that return would ask it for twice as much.
    is_heard: bool,
    tick_due: Instant,
    beat_due: Instant,
    beaten: Vec<(ConnectorId, ConnectorState, Option<SessionId>)>,
    stopping: bool,
    told_ahead: bool,
    told_other: bool,
    /// Messages for somebody else that came as commands, and when that was last told.
    foreign: u64,
    foreign_told: Option<Instant>,
    terms: Vec<Term>,
    reminder: Reminder,
    seat: Option<Seat>,
}

/// What central has confirmed and the store still has: while many runs drain, one transaction frees
/// several. What a crash leaves is sent again, and central answers that it has it.
#[derive(Debug, Default)]
struct Freed {
    below: Option<u64>,
    runs: u32,
}

impl Freed {
    /// What is to be written now.
    fn gather(&mut self, mut rows: Vec<Row>, is_draining: bool) -> Vec<Row> {
        let told = match rows.as_slice() {
            [Row::Free { below }] => Some(*below),
            _ => None,
        };
        if told.is_some() && is_draining && self.runs < FREED_RUNS_MAX {
            self.below = told;
            self.runs += 1;
            return Vec::new();
        }
        if !rows.is_empty() {
            if told.is_none() {
                rows.extend(self.below.map(|below| Row::Free { below }));
            }
            *self = Self::default();
        }
        rows
    }

    fn rest(&mut self) -> Vec<Row> {
        let below = std::mem::take(self).below;
        below.map(|below| Row::Free { below }).into_iter().collect()
    }
}

enum SyncState {
    Due { at: Instant, failures: u32 },
    Asked { failures: u32 },
}

impl Actor {
    fn new(
        (config, rates): (Arc<ChargePointConfig>, Rates),
        (store, stored): (Store, Stored),
        uplink: Uplink,
        hardware: mpsc::Sender<HwCommand>,
        seat: Option<Seat>,
    ) -> Self {
        let clock = HostClock::start();
        let identity = Identity {
            cp_id: config.id.clone(),
            connectors: config.connectors.clone(),
            free_vending: config.simulator.free_vending,
        };
        let now = Instant::now();
        let boot = BootId::from_number(rand::rng().random());
        let mut core = ChargePoint::boot(identity, stored, boot, clock.now());
        core.hold_checkpoints(u64::from(rates.records_s) * 1_000);
        Self {
            core,
            config,
            rates,
            watched: Watched::new(&rates),
            clock,
            store,
            uplink,
            hardware,
            unstored: Vec::new(),
            writing: None,
            held: Vec::new(),
            storage_due: now,
            freed: Freed::default(),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            sync: SyncState::Due {
                at: now,
                failures: 0,
            },
            ever_up: false,
            is_up: false,
            is_heard: false,
            tick_due: now,
            beat_due: now,
            beaten: Vec::new(),
            stopping: false,
            told_ahead: false,
            told_other: false,
            foreign: 0,
            foreign_told: None,
            terms: Vec::new(),
            reminder: Reminder::default(),
            seat,
        }
    }

    /// One input through the core, the store and out.
    async fn feed(&mut self, input: Input) {
        let (now, draw) = (self.clock.now(), draw());
        // What may only be answered once it is stored can be undone.
        let before = input
            .must_be_stored()
            .then(|| (self.core.clone(), input.clone()));
        let mut fx = self.core.handle(input, now, draw);
        self.tick_due = Instant::now() + Duration::from_millis(self.core.tick_ms());
        let rows = std::mem::take(&mut fx.rows);
        if let Some(seat) = &self.seat {
            seat.rows(&rows);
        }
        let rows = self.freed.gather(rows, self.core.spool().depth() > 0);
        if self.core.storage_problem().is_some() {
            self.unstored.extend(rows);
        } else if !rows.is_empty() {
            match self.write(rows).await {
                Some(Ok(())) => self.core.stored(),
                Some(Err((rows, e))) => {
                    self.unstored = rows;
                    if let Some((core, input)) = before {
                        self.core = core;
                        self.storage_fails(chain(&e));
                        fx = self.core.handle(input, now, draw);
                        self.unstored = std::mem::take(&mut fx.rows);
                    } else {
                        self.storage_fails(chain(&e));
                    }
                }
                None => {
                    let patience = STORAGE_PATIENCE.as_secs();
                    self.storage_fails(format!("it has not answered for {patience} s"));
                    if before.is_some() {
                        // It may be on the disk already, so that it cannot be undone.
                        self.held.push(std::mem::take(&mut fx));
                    }
                }
            }
        }
        self.hold_back(&mut fx);
        self.let_out(fx).await;
    }

    /// Has rows written. None when the disk takes its time: then [`Self::written`] is told.
    async fn write(&mut self, rows: Vec<Row>) -> Option<Result<(), (Vec<Row>, StoreError)>> {
        let steps = logbook::steps(&rows);
        let mut commit = self.store.commit(rows);
        let done = timeout(STORAGE_PATIENCE, &mut commit).await;
        match done {
            Ok(Ok(())) => {
                logbook::tell(&self.config.id, steps);
                Some(Ok(()))
            }
            Ok(failed) => Some(failed),
            Err(_) => {
                self.writing = Some(Writing { commit, steps });
                None
            }
        }
    }

    fn storage_fails(&mut self, why: String) {
        tracing::error!(cp = %self.config.id, error = why, "the disk cannot be written; charging goes on, new sessions are refused");
        self.core.storage_failed(why);
        self.storage_due = Instant::now() + STORAGE_RETRY;
    }

    /// The disk has finished what took it long.
    async fn written(&mut self, done: Result<(), (Vec<Row>, StoreError)>) {
        let steps = self.writing.take().map(|writing| writing.steps);
        match done {
            Ok(()) => {
                logbook::tell(&self.config.id, steps.unwrap_or_default());
                self.storage_due = Instant::now();
                self.retry_storage().await;
            }
            Err((mut rows, e)) => {
                rows.append(&mut self.unstored);
                self.unstored = rows;
                self.storage_fails(chain(&e));
            }
        }
    }

    /// While the disk fails: tries again with everything that waits.
    async fn retry_storage(&mut self) {
        let fails = self.core.storage_problem().is_some() && self.writing.is_none();
        if !fails || Instant::now() < self.storage_due {
            return;
        }
        let rows = std::mem::take(&mut self.unstored);
        match self.write(rows).await {
            Some(Ok(())) => {
                self.core.stored();
                tracing::info!(cp = %self.config.id, "the disk can be written again");
                for fx in std::mem::take(&mut self.held) {
                    self.let_out(fx).await;
                }
            }
            Some(Err((rows, e))) => {
                self.unstored = rows;
                self.core.storage_failed(chain(&e));
                self.storage_due = Instant::now() + STORAGE_RETRY;
            }
            None => {}
        }
    }

    /// Keeps back what follows from what may not be on the disk yet: answers to the same command
    /// again, and starts, which the core repeats.
    fn hold_back(&mut self, fx: &mut Effects) {
        if self.held.is_empty() {
            return;
        }
        fx.hardware
            .retain(|command| !matches!(command, HwCommand::Start { .. }));
        let is_held = |answer: &Answer| {
            let mut held = self.held.iter().flat_map(|held| &held.replies);
            held.any(|(_, before)| before.command_id == answer.command_id)
        };
        let replies = std::mem::take(&mut fx.replies);
        let (replies, left): (Vec<_>, Vec<_>) =
            replies.into_iter().partition(|(_, answer)| is_held(answer));
        fx.replies = left;
        if !replies.is_empty() {
            self.held.push(Effects {
                replies,
                ..Effects::default()
            });
        }
    }

    /// Lets everything leave that follows from what is stored.
    async fn let_out(&mut self, fx: Effects) {
        for alarm in fx.alarms {
            tracing::warn!(cp = %self.config.id, "{alarm}");
        }
        for command in fx.hardware {
            let kind = match &command {
                HwCommand::Start { .. } => Some("start"),
                HwCommand::Stop { .. } => Some("stop"),
                HwCommand::SetLimit { .. }
                | HwCommand::Unlock { .. }
                | HwCommand::SetService { .. }
                | HwCommand::Reset => None,
            };
            if let Some(kind) = kind {
                ev_crash::reach("hardware", kind);
            }
            if self.hardware.try_send(command).is_err() {
                tracing::debug!(cp = %self.config.id, "the hardware driver is busy; the command is repeated");
            }
            if ev_crash::ARMED
                && let Some(kind) = kind
            {
                // The charger is a task of this process: it is to have got the command.
                sleep(HARDWARE_TAKES).await;
                ev_crash::reach("hardware-asked", kind);
            }
        }
        for (reply_to, answer) in fx.replies {
            match self.waiters.remove(&reply_to) {
                Some(Waiter::Central {
                    to: Some(to),
                    encoding,
                }) => {
                    let kind = answer_kind(&answer);
                    let reply = self.reply(answer);
                    if let Some(kind) = kind {
                        ev_crash::reach("answer", kind);
                    }
                    self.uplink.answer(to, &reply, encoding).await;
                    if ev_crash::ARMED
                        && let Some(kind) = kind
                    {
                        self.uplink.flush().await;
                        ev_crash::reach("answered", kind);
                    }
                }
                Some(Waiter::Central { to: None, .. } | Waiter::Cabinet(_)) | None => {}
            }
        }
        for (reply_to, answer) in fx.local {
            match self.waiters.remove(&reply_to) {
                // Whoever asked may have gone.
                Some(Waiter::Cabinet(done)) => {
                    let _ = done.send(answer);
                }
                Some(Waiter::Central { .. }) | None => {}
            }
        }
    }

    fn reply(&mut self, answer: Answer) -> CommandReply {
        CommandReply {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            cp_id: self.config.id.clone(),
            epoch: answer.epoch,
            boot: answer.boot,
            command_id: answer.command_id,
            outcome: answer.outcome,
            code: answer.code,
            raw: answer.raw,
            ts: self.core.stamp(self.clock.now()).at,
        }
    }

    fn wait(&mut self, waiter: Waiter) -> ReplyTo {
        self.next_waiter += 1;
        let reply_to = ReplyTo(self.next_waiter);
        self.waiters.insert(reply_to, waiter);
        if self.waiters.len() > REPLIES_MAX {
            // The oldest has long stopped waiting.
            self.waiters.pop_first();
        }
        reply_to
    }

    async fn uplink_event(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::Up => {
                if let Some(seat) = &mut self.seat {
                    seat.link(true);
                }
                let wait = if self.ever_up {
                    rand::rng().random_range(0..=SYNC_RETURN_MS_MAX)
                } else {
                    0
                };
                self.ever_up = true;
                self.is_up = true;
                self.is_heard = false;
                self.watched.clear();
                self.sync = SyncState::Due {
                    at: Instant::now() + Duration::from_millis(wait),
                    failures: 0,
                };
                self.beat_due = Instant::now();
                self.feed(Input::UplinkUp).await;
            }
            UplinkEvent::Down => {
                self.is_up = false;
                if let Some(seat) = &mut self.seat {
                    seat.link(false);
                }
            }
            UplinkEvent::Command(raw) => self.command(raw).await,
            UplinkEvent::Sync {
                sent_mono_ms,
                reply,
            } => self.synced(sent_mono_ms, reply).await,
            UplinkEvent::Evt(outcome) => {
                ev_crash::reach("evt-answer", "one");
                self.heard(outcome).await;
            }
            UplinkEvent::Watched(session, is_watched) => self.watched.told(session, is_watched),
        }
    }

    async fn heard(&mut self, outcome: EvtOutcome) {
        let first = self.core.spool().first();
        if let Some(seat) = &self.seat {
            seat.outcome(&outcome);
        }
        let was_other = self.core.is_other();
        self.feed(Input::Evt(outcome)).await;
        if self.core.is_other() && !was_other {
            // Central hears by a sync who this is, and keeps its records aside from then on.
            let wait = rand::rng().random_range(0..=SYNC_RETURN_MS_MAX);
            self.sync = SyncState::Due {
                at: Instant::now() + Duration::from_millis(wait),
                failures: 0,
            };
        }
        if let Some(seat) = &self.seat {
            seat.acknowledged(self.core.spool().first() - first);
        }
    }

    async fn synced(&mut self, sent_mono_ms: u64, reply: Option<ev_contract::v1::SyncReply>) {
        let failures = match self.sync {
            SyncState::Due { failures, .. } | SyncState::Asked { failures } => failures,
        };
        let refused = reply.as_ref().is_none_or(|r| r.error.is_some());
        let told = reply
            .as_ref()
            .and_then(|r| r.error.as_ref()?.retry_after_ms);
        if let Some(seat) = &mut self.seat {
            seat.synced(!refused);
        }
        if let Some(reply) = reply {
            ev_crash::reach("sync-answer", "one");
            self.is_heard = true;
            let standing = match &reply.error {
                None => Standing::Obeyed,
                Some(problem) if problem.code == Code::IdentityInUse => Standing::NotObeyed,
                Some(_) => Standing::Untold,
            };
            if let Some(problem) = reply.error.filter(|_| standing == Standing::Untold) {
                tracing::warn!(cp = %self.config.id, code = %problem.code, "central did not take the sync: {}", problem.message);
            }
            let input = Input::Synced {
                sent_mono_ms,
                ts: reply.ts,
                epoch: reply.epoch,
                next: reply.next,
                standing,
            };
            self.feed(input).await;
        }
        // One that is not obeyed asks as often as one that is: a person has to decide.
        let refused = refused && !self.core.is_other();
        let random = rand::rng().random();
        let (wait, failures) = if let Some(told) = told {
            (edge_core::spool::told_ms(told, random), failures + 1)
        } else if refused {
            let wait = edge_core::spool::backoff_ms(
                SYNC_RETRY_MS_MIN,
                SYNC_RETRY_MS_MAX,
                failures,
                random,
            );
            (wait, failures + 1)
        } else {
            let every_ms = u64::from(self.rates.sync_s) * 1_000;
            (every_ms * 4 / 5 + random % (every_ms * 2 / 5), 0)
        };
        self.sync = SyncState::Due {
            at: Instant::now() + Duration::from_millis(wait),
            failures,
        };
    }

    async fn command(&mut self, raw: RawCommand) {
        if let Some(seat) = &self.seat {
            seat.command();
        }
        let (to, encoding) = (raw.reply.clone(), raw.encoding);
        match read_command(&self.config.id, &raw) {
            Read::Command(command) => {
                let reply_to = if self.core.is_addressed(&command) {
                    self.wait(Waiter::Central { to, encoding })
                } else {
                    ReplyTo(0)
                };
                let input = Input::Command {
                    command: *command,
                    reply_to,
                };
                self.feed(input).await;
            }
            Read::NotForUs => {
                self.note_foreign(&raw.verb);
            }
            Read::Unreadable(code, why) => {
                tracing::warn!(cp = %self.config.id, verb = raw.verb, why, "a command cannot be read");
                if let Some(to) = to {
                    let answer = Answer {
                        command_id: None,
                        epoch: self.core.spool().epoch().clone(),
                        boot: self.core.this_boot().id,
                        outcome: Outcome::Refused,
                        code: Some(code),
                        raw: Some(why),
                    };
                    let reply = self.reply(answer);
                    self.uplink.answer(to, &reply, encoding).await;
                }
            }
        }
    }

    /// Only central commands, and it mistakes nobody for another. What comes here for somebody else
    /// is an answer that its asker, another charge point, has aimed at this one.
    fn note_foreign(&mut self, verb: &str) {
        self.foreign += 1;
        let lately = self
            .foreign_told
            .is_some_and(|at| at.elapsed() < FOREIGN_TOLD_EVERY);
        if !lately {
            self.foreign_told = Some(Instant::now());
            tracing::warn!(
                cp = %self.config.id, verb, count = self.foreign,
                "what is no command for this charge point was passed over: another one of its account aims answers here"
            );
        }
    }

    async fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Status(done) => {
                let _ = done.send(self.status());
            }
            Ask::Pulse(done) => {
                let _ = done.send(Pulse {
                    store: true,
                    uplink: self.uplink.is_up(),
                    sessions: self
                        .core
                        .connectors()
                        .filter(|c| c.session.is_some())
                        .count(),
                    spool_depth: self.core.spool().depth(),
                });
            }
            Ask::Start(start, done) => {
                let reply_to = self.wait(Waiter::Cabinet(done));
                self.feed(Input::LocalStart { start, reply_to }).await;
            }
            Ask::Stop(connector, done) => {
                let reply_to = self.wait(Waiter::Cabinet(done));
                let input = Input::LocalStop {
                    connector,
                    reply_to,
                };
                self.feed(input).await;
            }
        }
    }

    fn can_send(&self) -> bool {
        self.is_up && self.uplink.is_up()
    }

    /// When something is due that nobody else would bring.
    fn wakes_at(&self) -> Instant {
        let mut at = self.tick_due;
        if self.core.storage_problem().is_some() && self.writing.is_none() {
            at = at.min(self.storage_due);
        }
        if self.can_send() {
            at = at.min(self.beat_due);
            if let Some(due) = self.watched.due_mono_ms() {
                at = at.min(self.clock.at(due));
            }
            if let SyncState::Due { at: due, .. } = self.sync {
                at = at.min(due);
            }
            // A disk that takes its time to write takes it to read as well.
            let can_read = self.is_heard && self.writing.is_none();
            if let Some(due) = self.core.spool().due_mono_ms().filter(|_| can_read) {
                at = at.min(self.clock.at(due));
            }
        }
        at
    }

    async fn wake(&mut self) {
        self.retry_storage().await;
        let now = Instant::now();
        if now >= self.tick_due {
            self.feed(Input::Tick).await;
        }
    }

    /// After each input: what the uplink is to carry.
    async fn after(&mut self) {
        let states = || {
            let connectors = self.core.connectors();
            connectors.map(|c| (c.id(), c.state(), c.session.as_ref().map(|s| s.id)))
        };
        if !states().eq(self.beaten.iter().copied()) {
            let states: Vec<_> = states().collect();
            if let Some(seat) = &self.seat {
                for ((connector, _, was), (_, _, is)) in self.beaten.iter().zip(&states) {
                    if was.is_some() && was != is {
                        seat.free(*connector);
                    }
                }
            }
            self.beaten = states;
            self.beat_due = self.beat_due.min(Instant::now() + BEAT_SETTLE);
        }
        if let Some(seat) = &mut self.seat {
            let sessions = self.beaten.iter().filter(|(_, _, s)| s.is_some()).count();
            seat.level(sessions, self.core.spool().depth());
        }
        if let Some(wanted) = self.core.spool().ahead().filter(|_| !self.told_ahead) {
            self.told_ahead = true;
            tracing::error!(cp = %self.config.id, wanted, next = self.core.spool().next(), "central has records of this epoch that this store never wrote: the store was set back, or two agents use one identity");
        }
        self.tell_other();
        if !self.can_send() {
            return;
        }
        if Instant::now() >= self.beat_due {
            self.beat_due = Instant::now() + heartbeat_pause(self.rates.heartbeat_s);
            self.send_heartbeat().await;
        }
        self.send_live().await;
        self.send_sync();
        if !self.is_heard || self.writing.is_some() {
            return;
        }
        let random = rand::rng().random();
        if let Some(run) = self.core.next_run(self.clock.now(), random) {
            self.send_run(run).await;
        }
    }

    /// Says once that another agent is obeyed, and once that this one is again.
    fn tell_other(&mut self) {
        let is_other = self.core.is_other();
        if is_other == std::mem::replace(&mut self.told_other, is_other) {
            return;
        }
        self.beat_due = self.beat_due.min(Instant::now() + BEAT_SETTLE);
        let cp = &self.config.id;
        if is_other {
            tracing::error!(%cp, boot = %self.core.this_boot().id, code = %Code::IdentityInUse, "{}", Code::IdentityInUse.about(cp.as_str()));
        } else {
            tracing::info!(%cp, "this agent is obeyed");
        }
    }

    async fn send_run(&mut self, run: SendRun) {
        let records = match self.store.read_run(run.from, run.until).await {
            Ok(records) => records,
            Err(e) => {
                tracing::error!(cp = %self.config.id, error = chain(&e), "the spool cannot be read");
                Vec::new()
            }
        };
        let values: Result<Vec<rmpv::Value>, _> = records
            .iter()
            .map(|bytes| rmp_serde::from_slice(bytes))
            .collect();
        match values {
            Ok(records) if !records.is_empty() => {
                ev_crash::reach("evt", "one");
                if let Some(seat) = &self.seat {
                    seat.sent(records.len());
                }
                self.uplink.evt(&EvtRequest {
                    tag: Tag::new(),
                    to: CENTRAL.to_owned(),
                    epoch: self.core.spool().epoch().clone(),
                    boot: self.core.this_boot().id,
                    first: run.first,
                    from: run.from,
                    records,
                });
            }
            Ok(_) => self.feed(Input::Evt(EvtOutcome::Unanswered)).await,
            Err(e) => {
                tracing::error!(cp = %self.config.id, error = %e, "a record in the spool is damaged");
                self.feed(Input::Evt(EvtOutcome::Unanswered)).await;
            }
        }
    }

    fn send_sync(&mut self) {
        let failures = match self.sync {
            SyncState::Due { at, failures }
                if Instant::now() >= at || (self.core.wants_time() && failures == 0) =>
            {
                failures
            }
            SyncState::Due { .. } | SyncState::Asked { .. } => return,
        };
        self.sync = SyncState::Asked { failures };
        let request = SyncRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            cp_id: self.config.id.clone(),
            epoch: self.core.spool().epoch().clone(),
            boot: self.core.this_boot(),
            connectors: self.core.specs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            first: self.core.spool().first(),
            next: self.core.spool().next(),
            sessions: self.core.open_sessions().collect(),
        };
        ev_crash::reach("sync", "one");
        self.uplink.sync(&request, self.clock.now().mono_ms);
    }

    /// When what it connects with ends; said in time, by central's clock where that is known.
    fn read_terms(&mut self, terms: Vec<Term>) {
        let now_s = self.core.stamp(self.clock.now()).at.0.div_euclid(1_000);
        for warning in self.reminder.due(&terms, now_s) {
            tracing::warn!(cp = %self.config.id, "{warning}");
        }
        let before = self.access_expires_at();
        self.terms = terms;
        if self.access_expires_at() != before {
            self.beat_due = self.beat_due.min(Instant::now() + BEAT_SETTLE);
        }
    }

    /// The first end among what has to be renewed here. The server's certificate has not.
    fn access_expires_at(&self) -> Option<UnixMs> {
        self.terms
            .iter()
            .filter(|term| term.what != What::ServerCertificate)
            .map(|term| UnixMs(term.expires_at_s.saturating_mul(1_000)))
            .min()
    }

    async fn send_heartbeat(&mut self) {
        let now = self.clock.now();
        let stamp = self.core.stamp(now);
        let mut health = self.core.health(stamp.quality);
        if self.stopping {
            health.push("stopping".to_owned());
        }
        let heartbeat = Heartbeat {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            cp_id: self.config.id.clone(),
            epoch: self.core.spool().epoch().clone(),
            boot: self.core.this_boot().id,
            ts: stamp.at,
            clock_offset_ms: (stamp.quality == TimeQuality::Synced)
                .then(|| now.wall.ms_since(stamp.at)),
            every_s: self.rates.heartbeat_s,
            uptime_s: now.mono_ms / 1_000,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spool_depth: self.core.spool().depth(),
            health,
            access_expires_at: self.access_expires_at(),
            connectors: self.core.beats(),
        };
        let subject = Subject::Heartbeat {
            cp: self.config.id.clone(),
        };
        ev_crash::reach("heartbeat", "one");
        if let Some(seat) = &self.seat {
            seat.heartbeat();
        }
        self.uplink.publish(subject, &heartbeat).await;
    }

    async fn send_live(&mut self) {
        let now = self.clock.now();
        self.watched.keep(self.core.live_sessions());
        let due = self.watched.take(now.mono_ms);
        if due.is_empty() {
            return;
        }
        let at = self.core.stamp(now).at;
        for (driver, live) in self.core.live(at) {
            let Some(due) = due.iter().find(|due| due.session == live.session_id) else {
                continue;
            };
            let subject = Subject::Live {
                cp: self.config.id.clone(),
                driver,
                session: live.session_id,
            };
            ev_crash::reach("live", "one");
            if due.asks {
                self.uplink.look(due.session, &subject, &live);
            } else {
                self.uplink.publish(subject, &live).await;
            }
        }
    }

    fn status(&mut self) -> Value {
        let stamp = self.core.stamp(self.clock.now());
        let connectors: Vec<Value> = self
            .core
            .connectors()
            .map(|c| {
                let session = c.session.as_ref();
                let run = session.and_then(edge_core::session::Session::run);
                let reading = c.reading.as_ref().map(|(r, _)| r);
                json!({
                    "id": c.id().0,
                    "state": c.state(),
                    "plugged": c.row.plugged,
                    "service": c.service(),
                    "fault": c.row.fault,
                    "ended_since_plug": c.row.ended_since_plug,
                    "session_id": session.map(|s| s.id),
                    "watched": session.map(|s| self.watched.is_watched(s.id)),
                    "origin": session.map(|s| s.origin),
                    "phase": session.map(edge_core::session::Session::phase),
                    "energy_mwh": run.map(|r| r.meter.energy()),
                    "device_tx": run.map(|r| r.device_tx.0.clone()),
                    "unclaimed_tx": c.unclaimed.len(),
                    "register_mwh": reading.map(|r| r.register_mwh),
                    "power_mw": reading.and_then(|r| r.power_mw),
                    "meter_epoch": reading.map(|r| r.meter_epoch),
                    "soc_pct": reading.and_then(|r| r.soc_pct),
                })
            })
            .collect();
        json!({
            "id": self.config.id,
            "epoch": self.core.spool().epoch(),
            "boot": self.core.this_boot().id,
            "boots": self.core.this_boot().count,
            "obeyed": !self.core.is_other(),
            "uplink": self.uplink.is_up(),
            "charger_online": self.core.charger_online(),
            "clock_synced": stamp.quality == TimeQuality::Synced,
            "ts": stamp.at,
            "spool_depth": self.core.spool().depth(),
            "spool_first": self.core.spool().first(),
            "spool_next": self.core.spool().next(),
            "health": self.core.health(stamp.quality),
            "storage": self.core.storage_problem(),
            "commands_again": self.core.commands_again(),
            "commands_foreign": self.foreign,
            "access": self.terms.iter().map(|term| json!({
                "what": term.what.as_str(),
                "which": term.which,
                "expires_at": term.expires_at_s.saturating_mul(1_000),
            })).collect::<Vec<_>>(),
            "connectors": connectors,
        })
    }

    /// Says that it goes. Sessions go on in the charger; what is unsent waits on the disk.
    async fn goodbye(&mut self) {
        self.stopping = true;
        if self.core.storage_problem().is_some() {
            self.storage_due = Instant::now();
            let rest = async {
                if self.writing.is_some() {
                    let done = written(&mut self.writing).await;
                    self.written(done).await;
                }
                self.retry_storage().await;
            };
            let _ = timeout(GOODBYE, rest).await;
        } else {
            let rows = self.freed.rest();
            if !rows.is_empty()
                && let Err((_, e)) = self.store.commit(rows).await
            {
                tracing::debug!(cp = %self.config.id, error = chain(&e), "what central has stays in the store; it is sent again");
            }
        }
        if self.uplink.is_up() {
            let _ = timeout(GOODBYE, self.send_heartbeat()).await;
        }
        self.uplink.close(GOODBYE).await;
    }
}

/// What an answer is named after where it passes a crash point.
fn answer_kind(answer: &Answer) -> Option<&'static str> {
    let (_, verb) = answer.command_id.as_ref()?.as_str().rsplit_once('-')?;
    ["start", "stop"].into_iter().find(|known| *known == verb)
}

fn draw() -> Draw {
    Draw {
        session_id: SessionId::from_uuid(uuid::Uuid::now_v7()),
        start_number: rand::rng().random_range(1..=0x7fff_ffff),
        random: rand::rng().random(),
    }
}

/// What the bytes of a command say.
enum Read {
    Command(Box<Command>),
    /// Addressed to another, or another message altogether.
    NotForUs,
    Unreadable(Code, String),
}

fn read_command(cp: &ev_contract::ids::CpId, raw: &RawCommand) -> Read {
    /// What every message has.
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "type", default)]
        kind: Option<String>,
        #[serde(default)]
        to: Option<String>,
    }
    let envelope: Envelope = match decode(&raw.payload, raw.encoding) {
        Ok(envelope) => envelope,
        Err(e) => return Read::Unreadable(Code::InvalidRequest, e.0),
    };
    let kind = format!("cmd.{}", raw.verb);
    if envelope.to.is_some_and(|to| to != cp.as_str()) || envelope.kind.is_some_and(|k| k != kind) {
        return Read::NotForUs;
    }
    fn one<T: DeserializeOwned>(raw: &RawCommand, wrap: fn(T) -> Command) -> Read {
        match decode(&raw.payload, raw.encoding) {
            Ok(command) => Read::Command(Box::new(wrap(command))),
            Err(e) => Read::Unreadable(Code::InvalidRequest, e.0),
        }
    }
    match raw.verb.as_str() {
        "start" => one(raw, Command::Start),
        "stop" => one(raw, Command::Stop),
        "set_limit" => one(raw, Command::SetLimit),
        "unlock" => one(raw, Command::Unlock),
        "set_service" => one(raw, Command::SetService),
        "reset" => one(raw, Command::Reset),
        "ping" => one(raw, Command::Ping),
        other => Read::Unreadable(Code::UnknownVerb, other.to_owned()),
    }
}
