//! The engine: one task that owns the state. Everything that comes in becomes an input to its loop;
//! everything that goes out is handed to a task of its own.
//!
//! - [`frames`]: what waits, the frame that is under way, what was judged
//! - [`answers`]: from the state to replies; the one place where they are made
//! - [`upkeep`]: what is done from time to time
//! - [`clock`]: whether this host's clock is right
//! - [`survey`]: looking at everything, for metrics

mod answers;
mod clock;
mod frames;
mod logbook;
mod survey;
mod upkeep;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::{self, stream::Stream};
use central_core::{
    clocks::Clocks,
    decide::{CommandAnswer, Settings, Verb},
    effects::{self, Order},
    frame::Write,
    state::{Alarm, Applied, Log},
    trail::Trail,
    view,
    whole::Marker,
};
use ev_contract::{
    codes::Code,
    ids::{CommandId, CpId},
    subjects::Subject,
    time::{Now, UnixMs},
    v1::{CommandReply, Heartbeat, PingCommand, UptimeRecord},
    wire::{Encoding, Tag},
};
use tokio::sync::{mpsc, watch};

pub use self::{
    answers::error_reply,
    frames::{Item, ItemKind},
};
use self::{
    frames::{InFlight, Waiting},
    logbook::Logbook,
    survey::Surveying,
};
use crate::{
    audit::Audit,
    calls::{self, Calls, Over},
    config::Config,
    health::{Health, Stage},
    heard::{Hearing, Listening},
    held::Held,
    ledger::{Append, Entry, Told},
    metrics::Metrics,
    orders::{self, Orders},
    out::Out,
    receipts::{CdrId, Copied},
    schedule::Schedule,
    uptime,
    whole::{Marks, words},
};

/// Questions and heartbeats taken in before the engine turns to other things.
const TAKEN_AT_ONCE_MAX: usize = 1_024;
/// Charge points that are asked at once whether they are there, and one-off acts that wait for a
/// charge point's answer. Each holds a request for up to [`orders::ANSWER_WAIT`]; beyond is
/// answered `overloaded`.
const ASKED_MAX: usize = 1_024;
/// Results of tasks of the engine's own: the bounds of those together, with room.
const RESULTS_MAX: usize = 4_096;
/// How often the engine looks at the time when nothing happens.
const TURN: Duration = Duration::from_millis(20);
/// How often it looks at its connections at most.
const LINKS_EVERY: Duration = Duration::from_millis(5);
/// How often it looks for those who have waited for too long.
const LATE_EVERY: Duration = Duration::from_millis(100);
/// Applied messages that are let go of together, elsewhere.
const LITTER_MAX: usize = 32;
/// How often it looks after things that can wait.
const UPKEEP: Duration = Duration::from_secs(1);

/// What a task of the engine's brings back.
#[derive(Debug)]
enum TaskDone {
    /// A receipt or adjustment.
    Copied { id: CdrId, result: Copied, seq: u64 },
    /// A snapshot, and how many records it has that the one before had not.
    Snapshot { seq: u64, records: usize, ok: bool },
    /// What the server says of the streams; none where it did not answer.
    Looked(Option<upkeep::Looked>),
    /// A stream beside the ledger was made anew, or could not be.
    Anew { name: &'static str, ok: bool },
    /// Which ledger is served was written down, up to a sequence, or could not be.
    Marked { marker: Marker, ok: bool },
}

/// When a question to the server left and when its answer came.
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    sent: Instant,
    back: Instant,
}

/// How a run of the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The server has lost the ledger, and may find it again.
    LedgerLost,
}

/// What a question to a charge point was for.
#[derive(Debug)]
enum About {
    /// A command that the state wants.
    Order(orders::Subject),
    /// Whether it is there; the question that waits for it.
    Reach(Box<Item>),
    /// A one-off act; who waits for its answer.
    Act(Box<Item>),
}

/// The loop and what it owns.
#[expect(missing_debug_implementations, reason = "a bucket has none")]
pub struct Engine {
    config: Config,
    settings: Settings,
    client: async_nats::Client,
    outward: [async_nats::Client; 2],
    intake: [async_nats::Client; 3],
    js: jetstream::Context,
    cdr: Stream,
    snapshots: async_nats::jetstream::object_store::ObjectStore,
    out: Out,
    audit: Audit,
    metrics: Arc<Metrics>,
    health: watch::Sender<Health>,
    /// As [`Health::stage`] shows it.
    stage: Stage,
    clocks: Clocks,
    /// Whether this host's clock goes with others, as far as they were heard.
    clock_is_right: bool,
    began: Instant,

    log: Log,
    heard: Hearing,
    listening: Listening,
    uptime: uptime::Watch,
    seen: mpsc::Sender<UptimeRecord>,
    trail: Trail,
    orders: Orders,
    calls: Calls<About>,
    waiting: Waiting,
    in_flight: Option<InFlight>,
    known_to: u64,
    /// Charge points asked for somebody who waits.
    asked: usize,
    /// Receipts and adjustments that are not known to be in the CDR stream, and since when.
    uncopied: BTreeMap<CdrId, Instant>,
    copy_at: Schedule<CdrId>,
    copying: usize,
    snapshot_at: u64,
    snapshot_under_way: bool,
    marks: Marks,
    /// As it is on the disk.
    marker: Marker,
    marked_at: Instant,
    marking: bool,
    /// What a replay is done with.
    litter: Vec<Applied>,
    /// Records that the newest one does not have.
    records_unsnapped: usize,
    looks: upkeep::Looks,
    ended: Option<Ended>,
    last_upkeep: Instant,
    last_forget: Instant,
    looked_late: Instant,
    looked_at_links: Instant,
    connected: bool,
    connects: u64,
    logbook: Logbook,
    surveying: Surveying,
    /// When this replica began to listen to charge points.
    listens_from: UnixMs,
    /// Up to here the CDR stream is known to go: receipts, adjustments.
    cdr_upto: [u64; 2],

    told: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    results: (mpsc::Sender<TaskDone>, mpsc::Receiver<TaskDone>),
}

/// What comes in from the subscriptions.
#[derive(Debug)]
pub struct Inputs {
    /// Questions.
    pub questions: mpsc::Receiver<Item>,
    /// Heartbeats.
    pub heartbeats: mpsc::Receiver<(Heartbeat, Held)>,
    /// Charge points whose last connection has ended.
    pub left: mpsc::Receiver<CpId>,
    /// The ledger.
    pub entries: mpsc::Receiver<Entry>,
    /// What charge points answer.
    pub answers: mpsc::Receiver<calls::Heard>,
    /// The configuration, whenever it changes.
    pub configs: watch::Receiver<Config>,
    /// Set when it is time to go.
    pub stop: watch::Receiver<bool>,
}

/// Where what the engine says goes.
#[derive(Debug)]
pub struct Outlets {
    /// Answers and updates.
    pub out: Out,
    /// The audit.
    pub audit: Audit,
    /// What is seen of connectors.
    pub seen: mpsc::Sender<UptimeRecord>,
}

/// Where the engine stands in NATS.
#[expect(missing_debug_implementations, reason = "a bucket has none")]
pub struct Places {
    /// The connection of the ledger.
    pub client: async_nats::Client,
    /// Those by which answers, and updates and commands go.
    pub outward: [async_nats::Client; 2],
    /// The connections of the subscriptions.
    pub intake: [async_nats::Client; 3],
    /// JetStream on it.
    pub js: jetstream::Context,
    /// The ledger.
    pub ledger: Stream,
    /// The receipts.
    pub cdr: Stream,
    /// What is seen of connectors.
    pub uptime: Stream,
    /// The audit.
    pub audit: Stream,
    /// The snapshots.
    pub snapshots: async_nats::jetstream::object_store::ObjectStore,
    /// With what the subjects begin to which charge points answer.
    pub inbox: String,
}

/// Where the engine goes on from.
#[derive(Debug)]
pub struct Beginning {
    /// The newest snapshot, or nothing.
    pub log: Log,
    /// Where the ledger ended a moment ago.
    pub target: u64,
    /// What is kept of the ledger.
    pub marker: Marker,
    /// Streams beside it that were gone.
    pub anew: Vec<&'static str>,
}

impl Engine {
    /// An engine that has read nothing but a snapshot.
    #[must_use]
    pub fn new(
        config: Config,
        places: Places,
        outlets: Outlets,
        metrics: Arc<Metrics>,
        health: watch::Sender<Health>,
        beginning: Beginning,
    ) -> Self {
        let Beginning {
            log,
            target,
            marker,
            anew,
        } = beginning;
        let now = Instant::now();
        let applied = log.state().basis().seq;
        let looks = upkeep::Looks::new(&places.ledger, &places.cdr, now);
        let marks = Marks::of(&config);
        let settings = config.settings();
        let config_replica = config.replica.clone();
        let stage = Stage::Replaying { applied, target };
        health.send_modify(|h| h.stage = stage.clone());
        let mut engine = Self {
            settings,
            config,
            client: places.client,
            outward: places.outward,
            intake: places.intake,
            js: places.js,
            cdr: places.cdr,
            snapshots: places.snapshots,
            out: outlets.out,
            audit: outlets.audit,
            metrics,
            health,
            stage,
            clocks: Clocks::default(),
            clock_is_right: false,
            began: now,
            heard: Hearing::new(),
            listening: Listening::new(),
            uptime: uptime::Watch::new(config_replica),
            seen: outlets.seen,
            trail: Trail::new(log.state()),
            listens_from: wall(),
            cdr_upto: [0; 2],
            orders: Orders::default(),
            calls: Calls::new(places.inbox),
            waiting: Waiting::default(),
            in_flight: None,
            known_to: 0,
            asked: 0,
            uncopied: BTreeMap::new(),
            copy_at: Schedule::default(),
            looked_late: now,
            looked_at_links: now.checked_sub(LINKS_EVERY).unwrap_or(now),
            connected: false,
            connects: 0,
            logbook: Logbook::default(),
            surveying: Surveying::new(),
            copying: 0,
            snapshot_at: applied,
            snapshot_under_way: false,
            litter: Vec::new(),
            records_unsnapped: 0,
            looks,
            ended: None,
            marks,
            marker,
            marked_at: now,
            marking: false,
            last_upkeep: now,
            last_forget: now,
            told: mpsc::channel(16),
            results: mpsc::channel(RESULTS_MAX),
            log,
        };
        for name in anew {
            engine.was_gone(name);
        }
        engine
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: self.mono_ms(Instant::now()),
            wall: wall(),
        }
    }

    fn mono_ms(&self, at: Instant) -> u64 {
        u64::try_from((at - self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs until it is told to stop and has drained.
    pub async fn run(mut self, mut inputs: Inputs) -> Ended {
        let mut draining: Option<Instant> = None;
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(entry) = inputs.entries.recv() => {
                    self.entry(entry);
                    // What is there already is applied before anything is decided on it.
                    for _ in 0..crate::ledger::READ_AHEAD {
                        match inputs.entries.try_recv() {
                            Ok(entry) => self.entry(entry),
                            Err(_) => break,
                        }
                    }
                }
                Some(told) = self.told.1.recv() => self.told(told),
                Some(result) = self.results.1.recv() => self.result(result),
                Some(heard) = inputs.answers.recv() => {
                    self.heard_of_call(heard);
                    for _ in 0..TAKEN_AT_ONCE_MAX {
                        match inputs.answers.try_recv() {
                            Ok(heard) => self.heard_of_call(heard),
                            Err(_) => break,
                        }
                    }
                }
                Some(item) = inputs.questions.recv() => {
                    self.ask(item);
                    for _ in 0..TAKEN_AT_ONCE_MAX {
                        match inputs.questions.try_recv() {
                            Ok(item) => self.ask(item),
                            Err(_) => break,
                        }
                    }
                }
                Some((heartbeat, _)) = inputs.heartbeats.recv() => {
                    self.heartbeat(heartbeat);
                    for _ in 0..TAKEN_AT_ONCE_MAX {
                        match inputs.heartbeats.try_recv() {
                            Ok((heartbeat, _)) => self.heartbeat(heartbeat),
                            Err(_) => break,
                        }
                    }
                }
                Some(cp) = inputs.left.recv() => self.heard.left(&cp),
                _ = turn.tick() => {}
                Ok(()) = inputs.configs.changed() => {
                    self.config = inputs.configs.borrow_and_update().clone();
                    self.settings = self.config.settings();
                }
                _ = inputs.stop.changed(), if draining.is_none() => {
                    if *inputs.stop.borrow() {
                        tracing::info!("draining");
                        draining = Some(Instant::now());
                        self.set_stage(Stage::Draining);
                    }
                }
            }
            self.turn();
            if let Some(ended) = self.ended {
                return ended;
            }
            if let Some(since) = draining {
                let idle = inputs.questions.is_closed()
                    && inputs.questions.is_empty()
                    && self.in_flight.is_none()
                    && self.waiting.is_empty()
                    && self.copying == 0;
                if idle || since.elapsed() > DRAIN_MAX {
                    self.last_sight();
                    self.last_snapshot().await;
                    self.mark_now();
                    self.out_of_time(!idle);
                    return Ended::Stopped;
                }
            }
        }
    }

    fn out_of_time(&self, late: bool) {
        if late {
            tracing::warn!(
                waiting = self.waiting.len(),
                receipts = self.uncopied.len(),
                "shut down before everything was done; other replicas or the next start go on"
            );
        } else {
            tracing::info!(applied = self.log.state().basis().seq, "drained");
        }
    }

    const fn serving(&self) -> bool {
        self.clock_is_right && matches!(self.stage, Stage::Serving | Stage::Draining)
    }

    fn set_stage(&mut self, stage: Stage) {
        self.metrics
            .ready(stage == Stage::Serving && self.clock_is_right);
        if stage == Stage::Serving {
            self.metrics.alarm(None);
        }
        self.stage = stage.clone();
        self.health.send_modify(|h| h.stage = stage);
    }

    /// The ledger is not what it was: no answers from here on.
    fn alarm(&mut self, alarm: &Alarm) {
        if self.alarmed() {
            return;
        }
        tracing::error!(%alarm, "ledger alarm: this replica stops answering; see the runbook");
        // What a restart finds is held against what was served last.
        if self.serving() {
            self.mark_now();
        }
        self.metrics.alarm(Some(alarm));
        self.set_stage(Stage::Alarmed(words(alarm, &self.config)));
        // What was lost may come back. What is wrong stays wrong, and somebody has to look.
        if let Alarm::Missing { .. } | Alarm::Foreign { .. } | Alarm::Rewound { .. } = alarm {
            self.ended = Some(Ended::LedgerLost);
        }
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.append.abort();
        }
        self.waiting.clear();
    }

    const fn alarmed(&self) -> bool {
        matches!(self.stage, Stage::Alarmed(_))
    }

    fn turn(&mut self) {
        self.look_at_links();
        if self.alarmed() {
            return;
        }
        self.look_at_clock();
        self.advance_stage();
        if self.clock_is_right {
            if self.looked_late.elapsed() >= LATE_EVERY {
                self.looked_late = Instant::now();
                self.answer_late();
            }
            self.cut_frame();
        } else if matches!(self.stage, Stage::Serving | Stage::Draining) {
            // What was asked is asked again, elsewhere; the rest follows from the state.
            self.waiting.clear();
        }
        // What is asked while the connection is down gets no answer, and all of it would leave at
        // once when it is back.
        if self.connected && self.serving() {
            self.attempt_orders();
            self.copy_receipts();
        }
        if self.last_upkeep.elapsed() >= UPKEEP {
            self.last_upkeep = Instant::now();
            self.upkeep();
        }
        self.survey();
    }

    /// Looks whether the connections are there, and says so; not at every turn, since a busy engine
    /// turns some ten thousand times a second.
    fn look_at_links(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.looked_at_links) < LINKS_EVERY {
            return;
        }
        self.looked_at_links = now;
        let up = |client: &async_nats::Client| {
            client.connection_state() == async_nats::connection::State::Connected
        };
        let connected = up(&self.client) && self.outward.iter().all(up);
        let hears = connected && self.intake.iter().all(up);
        let frame_since = self.in_flight.as_ref().map(|f| f.since);
        // Whoever looks at these looks from time to time: nobody is woken.
        self.health.send_if_modified(|h| {
            h.turned_at = now;
            h.connected = hears;
            h.frame_since = frame_since;
            false
        });
        self.connected = connected;
        self.metrics.connected(hears);
        self.listening.look(hears && self.serving());
        if self.alarmed() {
            return;
        }
        self.show_after_reconnect();
        while let Some(over) = self.calls.in_vain(now) {
            self.over(over);
        }
    }

    /// A server that was away may have come back with an older store. A frame says what its
    /// appender has applied, so one is appended after each connection, whether anybody asks or
    /// not: a replica that was restarted meanwhile knows only the older store, and has nothing
    /// else to see it by.
    fn show_after_reconnect(&mut self) {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if connects != self.connects && self.serving() {
            self.connects = connects;
            self.waiting.push(Item::barrier());
        }
    }

    fn advance_stage(&mut self) {
        let applied = self.log.state().basis().seq;
        match self.stage {
            Stage::Replaying { target, .. } if applied >= target => {
                tracing::info!(applied, "ledger read");
                self.after_replay();
                self.set_stage(Stage::Barrier);
                self.waiting.push(Item::barrier());
            }
            Stage::Replaying {
                applied: shown,
                target,
            } => {
                if shown < applied {
                    self.set_stage(Stage::Replaying { applied, target });
                }
            }
            Stage::Waiting(_)
            | Stage::Barrier
            | Stage::Serving
            | Stage::Alarmed(_)
            | Stage::Draining => {}
        }
    }

    /// A message of the ledger came in.
    fn entry(&mut self, entry: Entry) {
        let Entry {
            seq,
            bytes,
            landed_at,
            decoded,
        } = entry;
        if self.alarmed() || seq <= self.log.state().basis().seq {
            return;
        }
        let own = self.in_flight.as_ref().filter(|f| f.bytes == bytes);
        let applied = match own {
            Some(in_flight) => self.log.apply_frame(seq, in_flight.frame.clone(), &bytes),
            None => match decoded {
                Some(Ok(decoded)) => self.log.apply_decoded(seq, decoded, &bytes),
                Some(Err(unreadable)) => Err(unreadable.into()),
                None => self.log.apply(seq, &bytes),
            },
        };
        match applied {
            Ok(applied) => {
                self.hear_clock_of(&applied, landed_at);
                self.applied(applied);
            }
            Err(alarm) => self.alarm(&alarm),
        }
    }

    /// The server said something to an append of this replica's.
    fn told(&mut self, told: Told) {
        let ours = self.in_flight.as_ref().map(|f| f.frame.id) == Some(told.frame);
        match told.what {
            Append::Acked(seq) => {
                self.known_to = self.known_to.max(seq);
                if ours {
                    self.acknowledged(seq);
                }
            }
            Append::Full(said) if ours => self.set_full(Some(said)),
            Append::NoStream => self.looks.soon(),
            Append::Full(_) => {}
        }
    }

    fn set_full(&mut self, said: Option<String>) {
        if self.health.borrow().full == said {
            return;
        }
        self.metrics.ledger_full(said.is_some());
        match &said {
            Some(said) => tracing::error!(
                said,
                "the ledger is full: nothing is answered; see the runbook"
            ),
            None => tracing::info!("there is room in the ledger again"),
        }
        self.health.send_modify(|h| h.full = said);
    }

    /// A frame of this replica was acknowledged: if nothing lies between, it is applied from memory.
    fn acknowledged(&mut self, seq: u64) {
        let Some(in_flight) = &self.in_flight else {
            return;
        };
        let applied = self.log.state().basis().seq;
        if seq <= applied {
            // A new frame cannot stand where something else was applied.
            self.alarm(&Alarm::Rewound { last: seq, applied });
        } else if seq == applied + 1 {
            let frame = Arc::clone(&in_flight.frame);
            let bytes = in_flight.bytes.clone();
            match self.log.apply_frame(seq, frame, &bytes) {
                Ok(applied) => self.applied(applied),
                Err(alarm) => self.alarm(&alarm),
            }
        }
    }

    /// What follows from an applied message.
    fn applied(&mut self, applied: Applied) {
        let Some(frame) = &applied.frame else {
            tracing::error!(
                seq = applied.pos,
                "the ledger holds a message that is no frame"
            );
            self.metrics.junk();
            return;
        };
        self.records_unsnapped += frame.records.len();
        let mine = frame.by == self.config.replica;
        // Whoever asked waits for nothing that follows.
        self.judge(&applied);
        let serving = self.serving();
        for (record, valid) in applied.records() {
            if !valid {
                continue;
            }
            for event in self.trail.record(applied.pos, frame.at, record) {
                // The replica that decided it says it, so that it is said once.
                if mine && serving {
                    self.logbook.happened(event, applied.pos, Instant::now());
                }
            }
            for evidence in &record.evidence {
                if serving {
                    tracing::warn!(
                        cp = %evidence.cp, epoch = %evidence.epoch, seq = evidence.seq,
                        why = evidence.why, position = applied.pos,
                        "a charge point's record could not be used; it is kept in the ledger"
                    );
                }
            }
        }
        if matches!(self.stage, Stage::Replaying { .. }) {
            self.litter.push(applied);
            if self.litter.len() >= LITTER_MAX {
                let litter = std::mem::take(&mut self.litter);
                tokio::task::spawn_blocking(move || drop(litter));
            }
            return;
        }
        for write in applied.writes() {
            self.follow(write, applied.pos, mine);
        }
    }

    /// What follows from one key's new state.
    fn follow(&mut self, write: &Write, pos: u64, mine: bool) {
        let now = wall();
        match write {
            Write::Session(session) => {
                let subject = orders::Subject::Session(session.id);
                if effects::has_order(session) {
                    self.orders.want(
                        subject,
                        &session.cp,
                        u64::from(session.stop.is_some()),
                        mine,
                    );
                } else {
                    self.orders.done(&subject);
                }
                if session.is_ended() {
                    if mine
                        && self.serving()
                        && let Some(receipt) = session.receipt()
                    {
                        self.metrics.ended(&receipt);
                    }
                    self.must_copy(
                        CdrId {
                            session: session.id,
                            adjustment: None,
                        },
                        mine,
                    );
                }
                if mine && self.serving() {
                    self.tell_watchers(session.id, pos, now);
                }
            }
            Write::Adjustments(session, adjustments) => {
                // Each writes the list anew, with one more at its end.
                if mine && self.serving() {
                    self.metrics.adjusted();
                }
                for adjustment in &adjustments.list {
                    self.must_copy(
                        CdrId {
                            session: *session,
                            adjustment: Some(adjustment.n),
                        },
                        mine,
                    );
                }
            }
            Write::Connector(cp, id, connector) => {
                let subject = orders::Subject::Service(cp.clone(), *id);
                if effects::has_service_order(connector) {
                    self.orders
                        .want(subject, cp, connector.service_revision, mine);
                } else {
                    self.orders.done(&subject);
                }
                for session in &connector.standing_stops {
                    self.orders
                        .want(orders::Subject::Standing(*session), cp, 0, mine);
                }
            }
            // What was sent to the process before is not answered by the one that follows it.
            Write::ChargePoint(cp, _) => self.orders.hurry(cp),
            Write::Tariff(tariff) => self.metrics.currency(&tariff.terms.currency),
            Write::Driver(..)
            | Write::Spool(..)
            | Write::Request(..)
            | Write::TariffScope(..)
            | Write::Enrolment(..)
            | Write::Forget(_) => {}
        }
    }

    fn tell_watchers(&self, session: ev_contract::ids::SessionId, pos: u64, now: UnixMs) {
        let Some(entry) = self.log.state().session(session) else {
            return;
        };
        if entry.pos != pos {
            return;
        }
        if let Some(update) = view::update(entry, now) {
            let subject = Subject::Watch {
                driver: update.driver_id.clone(),
                session,
            };
            let encoding = if entry.value.json {
                Encoding::Json
            } else {
                Encoding::MsgPack
            };
            ev_crash::reach("update", "one");
            self.out.update(subject.to_string(), &update, encoding);
        }
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) {
        let cp = heartbeat.cp_id.clone();
        let state = self.log.state();
        if self
            .heard
            .heartbeat(heartbeat, wall(), |id| state.texts(id))
        {
            self.orders.hurry(&cp);
        }
    }

    fn attempt_orders(&mut self) {
        for subject in self.orders.take_due() {
            if !self.attempt(&subject) {
                self.orders.back(&subject, true);
                self.orders.done(&subject);
            } else if self.orders.tried(&subject).0 == 0 {
                self.tell_of_first(&subject);
            }
        }
    }

    fn tell_of_first(&mut self, subject: &orders::Subject) {
        let (orders::Subject::Session(id) | orders::Subject::Standing(id)) = subject else {
            return;
        };
        if let Some(entry) = self.log.state().session(*id) {
            let session = &entry.value;
            let verb = if session.stop.is_some() || session.is_ended() {
                "stop"
            } else {
                "start"
            };
            self.logbook.sent(*id, &session.cp, verb, Instant::now());
        }
    }

    /// Sends the command that the state wants now; `false` when it wants none.
    fn attempt(&mut self, subject: &orders::Subject) -> bool {
        let state = self.log.state();
        let now = wall();
        match subject {
            orders::Subject::Session(id) => {
                let Some(entry) = state.session(*id) else {
                    return false;
                };
                let cp = entry.value.cp.clone();
                let Some(boot) = effects::boot(state, &cp) else {
                    return false;
                };
                match effects::order(&entry.value, boot, now) {
                    None => false,
                    Some(Order::Start(command)) => {
                        let id = command.command_id.clone();
                        self.command(subject, cp, "start", id, &command);
                        true
                    }
                    Some(Order::Stop(command)) => {
                        let id = command.command_id.clone();
                        self.command(subject, cp, "stop", id, &command);
                        true
                    }
                }
            }
            orders::Subject::Standing(id) => {
                let Some(entry) = state.session(*id) else {
                    return false;
                };
                let at = (entry.value.cp.clone(), entry.value.connector);
                let stands = state
                    .connector(&at)
                    .is_some_and(|c| c.value.standing_stops.contains(id));
                if let Some(boot) = effects::boot(state, &at.0).filter(|_| stands) {
                    let command = effects::standing_stop(&entry.value, boot, now);
                    let id = command.command_id.clone();
                    self.command(subject, at.0, "stop", id, &command);
                }
                stands
            }
            orders::Subject::Service(cp, id) => {
                let order = state.connector(&(cp.clone(), *id)).and_then(|c| {
                    effects::service_order(cp, *id, &c.value, effects::boot(state, cp)?, now)
                });
                if let Some(command) = &order {
                    let id = command.command_id.clone();
                    self.command(subject, cp.clone(), "set_service", id, command);
                }
                order.is_some()
            }
        }
    }

    fn command<T: serde::Serialize>(
        &mut self,
        subject: &orders::Subject,
        cp: CpId,
        verb: &'static str,
        id: CommandId,
        message: &T,
    ) {
        if let "start" | "stop" = verb {
            ev_crash::reach("command", verb);
        }
        let about = About::Order(subject.clone());
        self.calls
            .ask(&self.out, cp, verb, Some(id), message, about);
    }

    fn probe(&mut self, cp: CpId, item: Item) {
        if self.asked >= ASKED_MAX {
            self.refuse(&item, Code::Overloaded, "too many charge points are asked");
            return;
        }
        self.asked += 1;
        let message = PingCommand {
            tag: Tag::new(),
            to: cp.clone(),
            ts: wall(),
        };
        let about = About::Reach(Box::new(item));
        self.calls.ask(&self.out, cp, "ping", None, &message, about);
    }

    fn heard_of_call(&mut self, heard: calls::Heard) {
        if let Some(over) = self.calls.heard(heard) {
            self.over(over);
        }
    }

    /// A question to a charge point is over.
    fn over(&mut self, over: Over<About>) {
        let Over {
            cp,
            verb,
            sent,
            answer,
            about,
        } = over;
        match about {
            About::Order(subject) => self.command_back(&subject, cp, verb, answer, sent.elapsed()),
            About::Reach(item) => {
                self.asked = self.asked.saturating_sub(1);
                let there = answer.is_some();
                if there {
                    self.heard.sign_of_life(&cp, wall());
                    self.orders.hurry(&cp);
                }
                self.waiting.push(item.probed(there));
            }
            About::Act(item) => {
                self.asked = self.asked.saturating_sub(1);
                self.acted(*item, &cp, answer);
            }
        }
    }

    fn result(&mut self, result: TaskDone) {
        match result {
            TaskDone::Copied { id, result, seq } => self.copied(id, result, seq),
            TaskDone::Snapshot { seq, records, ok } => {
                self.snapshot_under_way = false;
                self.metrics.snapshot(if ok { "written" } else { "failed" });
                if ok {
                    self.snapshot_at = self.snapshot_at.max(seq);
                    self.records_unsnapped -= records;
                }
            }
            TaskDone::Looked(looked) => self.looked(looked),
            TaskDone::Anew { name, ok } => self.made_anew(name, ok),
            TaskDone::Marked { marker, ok } => {
                self.marking = false;
                self.marked(marker, ok);
            }
        }
    }

    fn command_back(
        &mut self,
        subject: &orders::Subject,
        cp: CpId,
        verb: &'static str,
        answer: Option<CommandReply>,
        took: Duration,
    ) {
        let Some(answer) = answer else {
            self.metrics.command(verb, "no_answer", None);
            self.orders.said(subject, None);
            self.orders.back(subject, false);
            return;
        };
        self.heard.sign_of_life(&cp, wall());
        self.metrics
            .command(verb, answer.outcome.as_str(), Some(took));
        if let "start" | "stop" = verb {
            ev_crash::reach("command-answer", verb);
        }
        let finally = answer.outcome.is_final();
        if !finally {
            self.orders.said(subject, answer.code);
        }
        self.orders.back(subject, finally);
        let (orders::Subject::Session(session) | orders::Subject::Standing(session)) = subject
        else {
            return;
        };
        if finally {
            self.logbook
                .answered(*session, &cp, verb, &answer, Instant::now());
            self.waiting.push(Item::answered(CommandAnswer {
                cp,
                session: *session,
                verb: match verb {
                    "start" => Verb::Start,
                    _ => Verb::Stop,
                },
                epoch: answer.epoch,
                boot: answer.boot,
                outcome: answer.outcome,
                code: answer.code,
                raw: answer.raw,
            }));
        }
    }
}

/// How long a shutdown waits for what is under way.
const DRAIN_MAX: Duration = Duration::from_secs(8);

/// Wall time.
#[must_use]
pub fn wall() -> UnixMs {
    let ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    UnixMs(ms)
}
