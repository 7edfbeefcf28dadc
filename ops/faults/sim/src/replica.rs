//! A central replica: the core with the rules of its shell, without a runtime. What waits, the one
//! frame under way, barriers, orders, receipts, snapshots.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use central_core::{
    clocks::{Clocks, Judged},
    decide::{
        Ask, Command, CommandAnswer, Ctx, Known, Run, Settings, Unrecorded, Verb, Wish, decide,
        known,
    },
    effects::{self, Order},
    frame::{Forget, Frame, Record, Write},
    keys::{Asker, EventId},
    model::Answer,
    ripe::{self, Keep},
    state::{Alarm, Applied, Log, State},
    tx::Overlay,
};
use edge_core::{Command as EdgeCommand, EvtOutcome, Standing};
use ev_contract::{
    codes::Code,
    ids::{BootId, ConnectorId, CpId, DriverId, Epoch, ReplicaId, SessionId},
    limits::OFFLINE_AFTER_MS,
    time::{Now, UnixMs},
    v1::{PingCommand, Reach, SyncRequest},
    wire::{Encoding, Tag, encode},
};
use uuid::Uuid;

use crate::{
    dice::Dice,
    judge::Said,
    net::{Event, Net, Question, Subject, ToCabinet, ToReplica},
};

/// How often a question is decided again after another replica forestalled it.
const DECIDED_AGAIN_MAX: u32 = 20;
/// Frames that are not judged yet. More than one would build decisions on what may turn out void.
const IN_FLIGHT_MAX: usize = 1;
/// How long an append waits for its acknowledgement before it is repeated.
const ACK_WAIT_MS: u64 = 3_000;
/// After so long the asker is told that the outcome is not known.
const UNKNOWN_AFTER_MS: u64 = 8_000;
/// How long one attempt to command waits for an answer.
const ANSWER_WAIT_MS: u64 = 3_000;
/// After an attempt without a final answer; doubles up to the longest.
const AGAIN_FIRST_MS: u64 = 500;
const AGAIN_MS_MAX: u64 = 15_000;
/// How long the appender of a change has, before other replicas command in its stead.
const OTHERS_AFTER_MS: u64 = 2_000;
/// After a final answer the record of it should arrive; if not, ask again.
const RECORD_WAIT_MS: u64 = 10_000;
/// How long the appender of an end has, before other replicas copy its receipt.
const OTHERS_COPY_AFTER_MS: u64 = 15_000;
/// After it has begun to hear, silence means nothing for so long.
const SETTLE_MS: u64 = 30_000;
/// Stopped sessions whose charge point is silent for so long no longer count.
const RELEASE_AFTER_MS: u64 = 60_000;
/// Between two looks for old things.
const FORGET_EVERY_MS: u64 = 15_000;
/// A stream that seems to end too early may be a deposed leader's word; only if it stays so.
const BEHIND_MS_MAX: u64 = 30_000;
/// Longest time between two such answers: a replica that stood still has not seen it stay.
const BEHIND_GAP_MS_MAX: u64 = 15_000;
/// Frames between two snapshots.
const SNAPSHOT_EVERY: u64 = 300;

/// What came.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A request.
    Request(Ask, Wish),
    /// A question to the state, and where the ledger truly ended when it came.
    Query {
        /// Who asks.
        driver: DriverId,
        /// About which session; all open ones when none.
        session: Option<SessionId>,
        /// For the judge alone.
        since: u64,
    },
    /// A charge point presents itself.
    Sync {
        /// Which.
        cabinet: usize,
        /// With what.
        sync: Box<SyncRequest>,
        /// When it asked, by its monotonic clock, and in which life.
        sent: (u64, u32),
    },
    /// Spool records.
    Run {
        /// Whose.
        cabinet: usize,
        /// The records.
        run: Box<Run>,
        /// In which life it asked.
        life: u32,
    },
    /// A charge point's answer to a command.
    Answered(CommandAnswer),
    /// A stopped session out of reach.
    Release(SessionId),
    /// Old things may go.
    Forget(Forget),
    /// Nothing but a frame.
    Barrier,
}

/// Something that waits.
#[derive(Debug, Clone)]
struct Item {
    kind: Kind,
    again: u32,
    since_ms: u64,
    not_before_ms: u64,
    probed: bool,
    told: bool,
}

impl Item {
    fn command(&self) -> Option<Command> {
        Some(match &self.kind {
            Kind::Request(ask, wish) => Command::Request(ask.clone(), wish.clone()),
            Kind::Sync { sync, .. } => Command::Sync(sync.cp_id.clone(), (**sync).clone()),
            Kind::Run { run, .. } => Command::Intake((**run).clone()),
            Kind::Answered(answer) => Command::Answered(answer.clone()),
            Kind::Release(session) => Command::Release(*session),
            Kind::Forget(forget) => Command::Forget(forget.clone()),
            Kind::Query { .. } | Kind::Barrier => return None,
        })
    }
}

/// What became of an item while the frame was filled.
#[derive(Debug, Clone, Copy)]
enum Part {
    Record(usize),
    Nothing,
    Leaning,
}

#[derive(Debug)]
struct InFlight {
    frame: Arc<Frame>,
    bytes: Rc<[u8]>,
    attempts: u32,
    items: Vec<(Item, Part)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serving {
    Replaying { target: u64 },
    Barrier,
    Yes,
}

#[derive(Debug)]
struct Pending {
    due_ms: u64,
    wait_ms: u64,
    version: u64,
    attempt: Option<u64>,
}

/// A replica.
#[derive(Debug)]
pub struct Replica {
    /// Its number.
    pub index: usize,
    /// Counts its lives; what was sent to an earlier one is lost.
    pub life: u32,
    /// It runs.
    pub up: bool,
    /// It stands still until then.
    pub frozen_until_ms: u64,
    /// What waits for it meanwhile.
    pub held: Vec<Event>,
    /// It can reach nobody until then.
    pub cut_until_ms: u64,
    /// Its reading of the ledger lags by so much, until then.
    pub lag: (u64, u64),
    /// Its wall clock is off by so much.
    pub off_ms: i64,
    clocks: Clocks,
    /// What it has applied.
    pub log: Log,
    id: ReplicaId,
    settings: Settings,
    keep: (i64, i64),
    records_max: usize,
    serving: Serving,
    began_ms: u64,
    heard: Vec<Option<u64>>,
    waiting: VecDeque<Item>,
    in_flight: Vec<InFlight>,
    orders: BTreeMap<Subject, Pending>,
    uncopied: BTreeMap<(SessionId, Option<u32>), u64>,
    probes: BTreeMap<u64, (u64, Item)>,
    attempts: u64,
    snapshot_at: u64,
    forgot_ms: u64,
    behind: Option<(u64, u64)>,
    dice: Dice,
}

impl Replica {
    /// One that has yet to begin.
    #[must_use]
    pub fn new(index: usize, script: &crate::script::Script) -> Self {
        Self {
            index,
            life: 0,
            up: false,
            frozen_until_ms: 0,
            held: Vec::new(),
            cut_until_ms: 0,
            lag: (0, 0),
            off_ms: 0,
            clocks: Clocks::default(),
            log: Log::default(),
            id: format!("central-{index}")
                .parse()
                .unwrap_or_else(|_| unreachable!("a fixed word is an id")),
            settings: Settings {
                sessions_per_driver: script.sessions_per_driver,
                ..Settings::default()
            },
            keep: (script.keep_refusals_ms, script.keep_answers_ms),
            records_max: script.records_max,
            serving: Serving::Barrier,
            began_ms: 0,
            // A second agent of each has a place of its own.
            heard: vec![None; 2 * script.cabinets],
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            orders: BTreeMap::new(),
            uncopied: BTreeMap::new(),
            probes: BTreeMap::new(),
            attempts: 0,
            snapshot_at: 0,
            forgot_ms: 0,
            behind: None,
            dice: Dice::new(script.seed, 100 + index as u64),
        }
    }

    /// Begins a life: with the newest snapshot, or nothing.
    pub fn boot(&mut self, net: &mut Net) {
        self.life += 1;
        self.up = true;
        self.held.clear();
        self.frozen_until_ms = 0;
        self.began_ms = net.t_ms;
        self.heard.fill(None);
        self.waiting.clear();
        self.in_flight.clear();
        self.orders.clear();
        self.uncopied.clear();
        self.probes.clear();
        self.behind = None;
        self.clocks = Clocks::default();
        self.log = match net.snapshot.as_deref().map(decode_state) {
            None => Log::default(),
            Some(Ok(state)) => {
                net.counts.from_snapshot += 1;
                Log::from_snapshot(state)
            }
            Some(Err(why)) => {
                net.judge
                    .fail("snapshots", format!("a snapshot cannot be read: {why}"));
                Log::default()
            }
        };
        self.snapshot_at = self.log.state().basis().seq;
        self.serving = Serving::Replaying {
            target: net.extent(&mut self.dice),
        };
        self.after_snapshot(net);
        net.schedule(
            net.t_ms + 1,
            Event::Read {
                replica: self.index,
                life: self.life,
            },
        );
        net.schedule(
            net.t_ms + 1,
            Event::ReplicaTick {
                replica: self.index,
                life: self.life,
            },
        );
    }

    /// What a snapshot says has yet to be done.
    fn after_snapshot(&mut self, net: &Net) {
        let mut orders = Vec::new();
        let mut receipts = Vec::new();
        for session in self.log.state().sessions_oldest_first() {
            if effects::has_order(session) {
                orders.push((
                    Subject::Session(session.id),
                    u64::from(session.stop.is_some()),
                ));
            }
            if session.is_ended() {
                receipts.push((session.id, None));
                if let Some(adjustments) = self.log.state().adjustments(session.id) {
                    receipts.extend(
                        adjustments
                            .value
                            .list
                            .iter()
                            .map(|a| (session.id, Some(a.n))),
                    );
                }
            }
        }
        for ((cp, id), connector) in self.log.state().connectors() {
            if effects::has_service_order(connector) {
                orders.push((Subject::Service(cp.clone(), id), connector.service_revision));
            }
            orders.extend(
                connector
                    .standing_stops
                    .iter()
                    .map(|s| (Subject::Standing(*s), 0)),
            );
        }
        for (subject, version) in orders {
            self.want(net, subject, version, false);
        }
        for id in receipts {
            self.must_copy(net, id, false);
        }
    }

    fn wall(&self, net: &Net) -> UnixMs {
        net.wall().plus_ms(self.off_ms)
    }

    fn now(&self, net: &Net) -> Now {
        Now {
            mono_ms: net.t_ms - self.began_ms,
            wall: self.wall(net),
        }
    }

    /// Whether its clock goes with others.
    fn clock_is_right(&self, net: &Net) -> bool {
        self.clocks.judge(self.now(net)) == Judged::Right
    }

    fn cut(&self, net: &Net) -> bool {
        net.t_ms < self.cut_until_ms
    }

    // -- What comes in ----------------------------------------------------------------------------

    /// Time passes.
    pub fn tick(&mut self, net: &mut Net) {
        net.schedule(
            net.t_ms + 500,
            Event::ReplicaTick {
                replica: self.index,
                life: self.life,
            },
        );
        if let Serving::Replaying { target } = self.serving
            && self.log.state().basis().seq >= target
        {
            self.serving = Serving::Barrier;
            self.push(net, Kind::Barrier);
        }
        if !self.cut(net) && net.t_ms >= net.ledger_down_until_ms {
            let mono_ms = self.now(net).mono_ms;
            self.clocks.server_said(net.wall(), mono_ms, mono_ms);
        }
        if !self.clock_is_right(net) {
            if self.serving == Serving::Yes {
                self.waiting.clear();
                self.probes.clear();
            }
            return;
        }
        self.answer_late(net);
        let due: Vec<u64> = self
            .probes
            .iter()
            .filter(|(_, (until, _))| *until <= net.t_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.probed(net, id, false);
        }
        if self.serving == Serving::Yes {
            self.attempt_orders(net);
            self.copy_receipts(net);
            self.audit(net);
            self.release(net);
            self.forget(net);
            let seq = self.log.state().basis().seq;
            if seq >= self.snapshot_at + SNAPSHOT_EVERY {
                self.snapshot(net);
            }
        }
        self.cut_frame(net);
    }

    /// Writes a snapshot.
    pub fn snapshot(&mut self, net: &mut Net) {
        let seq = self.log.state().basis().seq;
        if seq == 0 || self.cut(net) {
            return;
        }
        self.snapshot_at = seq;
        if seq < net.snapshot_at {
            return;
        }
        net.snapshot = Some(self.log.state().freeze().encode());
        net.snapshot_at = seq;
        net.counts.snapshots += 1;
    }

    /// A message from outside.
    pub fn message(&mut self, net: &mut Net, message: ToReplica) {
        match message {
            ToReplica::Ask(question) => self.question(net, question),
            ToReplica::Heartbeat { cabinet } => {
                let away = self.heard[cabinet].is_none_or(|at| net.t_ms - at > OFFLINE_AFTER_MS);
                self.heard[cabinet] = Some(net.t_ms);
                if away {
                    self.hurry(net, cabinet);
                }
            }
            ToReplica::Answer {
                cabinet,
                subject,
                attempt,
                verb,
                answer,
            } => {
                self.heard[cabinet] = Some(net.t_ms);
                self.command_back(net, cabinet, &subject, attempt, verb, &answer);
            }
            ToReplica::Pong { cabinet, probe } => {
                self.heard[cabinet] = Some(net.t_ms);
                self.probed(net, probe, true);
            }
        }
        self.cut_frame(net);
    }

    fn question(&mut self, net: &mut Net, question: Question) {
        if !self.clock_is_right(net) {
            return;
        }
        let kind = match question {
            Question::Request(ask, wish) => Kind::Request(ask, wish),
            Question::Query { driver, session } => Kind::Query {
                driver,
                session,
                since: net.judge.pos(),
            },
            Question::Sync {
                cabinet,
                sync,
                sent,
            } => {
                self.heard[cabinet] = Some(net.t_ms);
                Kind::Sync {
                    cabinet,
                    sync,
                    sent,
                }
            }
            Question::Run { cabinet, run, life } => {
                self.heard[cabinet] = Some(net.t_ms);
                Kind::Run { cabinet, run, life }
            }
        };
        if let Kind::Request(ask, _) = &kind
            && let Some(said) = self.known(ask)
        {
            self.answer(net, ask, &said);
            return;
        }
        let mut item = Item {
            kind,
            again: 0,
            since_ms: net.t_ms,
            not_before_ms: 0,
            probed: false,
            told: false,
        };
        // Whether a charge point is there is asked before it is said that it is not.
        if let Kind::Request(_, Wish::Start { cp, .. }) = &item.kind
            && let Some(cabinet) = net.cabinet_of(cp)
            && self.log.state().charge_point(cp).is_some()
            && !item.probed
            && self.reach(net, cabinet) != Reach::Online
        {
            item.probed = true;
            self.attempts += 1;
            let probe = self.attempts;
            let ping = EdgeCommand::Ping(PingCommand {
                tag: Tag::new(),
                to: cp.clone(),
                ts: self.wall(net),
            });
            self.probes.insert(probe, (net.t_ms + ANSWER_WAIT_MS, item));
            self.send(
                net,
                cabinet,
                ToCabinet::Command {
                    command: Box::new(ping),
                    from: (self.index, self.life),
                    subject: None,
                    attempt: probe,
                    verb: Verb::Start,
                },
            );
            return;
        }
        self.waiting.push_back(item);
    }

    fn probed(&mut self, net: &mut Net, probe: u64, there: bool) {
        if let Some((_, mut item)) = self.probes.remove(&probe) {
            if let Kind::Request(_, Wish::Start { reach, .. }) = &mut item.kind {
                *reach = if there { Reach::Online } else { Reach::Offline };
            }
            self.waiting.push_back(item);
            self.cut_frame(net);
        }
    }

    fn reach(&self, net: &Net, cabinet: usize) -> Reach {
        let silence = self.heard[cabinet].map_or(net.t_ms - self.began_ms, |at| net.t_ms - at);
        if silence > OFFLINE_AFTER_MS {
            Reach::Offline
        } else if self.heard[cabinet].is_some() {
            Reach::Online
        } else {
            Reach::Unknown
        }
    }

    fn push(&mut self, net: &Net, kind: Kind) {
        self.waiting.push_back(Item {
            kind,
            again: 0,
            since_ms: net.t_ms,
            not_before_ms: 0,
            probed: false,
            told: false,
        });
    }

    // -- Frames -----------------------------------------------------------------------------------

    /// Packs what waits into a frame and appends it.
    fn cut_frame(&mut self, net: &mut Net) {
        if self.in_flight.len() >= IN_FLIGHT_MAX || self.waiting.is_empty() {
            return;
        }
        if let Serving::Replaying { .. } = self.serving {
            return;
        }
        if !self.clock_is_right(net) {
            return;
        }
        let now = self.now(net);
        let (mut due, later): (VecDeque<Item>, VecDeque<Item>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|item| item.not_before_ms <= net.t_ms);
        self.waiting = later;
        let mut at_once = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        let mut items = Vec::new();
        let mut overlay = Overlay::new(self.log.state());
        for unjudged in &self.in_flight {
            for record in &unjudged.frame.records {
                overlay.push(record);
            }
        }
        let mut closed = false;
        while !closed {
            let Some(item) = due.pop_front() else {
                break;
            };
            let Some(command) = item.command() else {
                items.push((item, Part::Nothing));
                continue;
            };
            let ctx = Ctx {
                now,
                settings: &self.settings,
                event: EventId(net.fresh_id()),
                session: SessionId::from_uuid(net.fresh_id()),
            };
            let decided = decide(&overlay, ctx, &command);
            match decided.record {
                Some(record) => {
                    closed = matches!(item.kind, Kind::Forget(_))
                        || records.len() + 1 >= self.records_max;
                    overlay.push(&record);
                    items.push((item, Part::Record(records.len())));
                    records.push(record);
                }
                None if decided.leaned_on_frame => items.push((item, Part::Leaning)),
                None => at_once.push((item, decided.unrecorded)),
            }
        }
        for item in due.into_iter().rev() {
            self.waiting.push_front(item);
        }
        for (item, unrecorded) in at_once {
            self.settle(net, item, unrecorded);
        }
        if items.is_empty() {
            return;
        }
        let frame = Frame {
            id: net.fresh_id(),
            by: self.id.clone(),
            basis: self.log.state().basis(),
            at: now.wall,
            records,
        };
        let bytes = Rc::from(frame.encode());
        self.in_flight.push(InFlight {
            frame: Arc::new(frame),
            bytes,
            attempts: 0,
            items,
        });
        net.judge.spoke(self.index, self.off_ms);
        let id = self.in_flight[self.in_flight.len() - 1].frame.id;
        self.append(net, id);
    }

    /// Appends a frame that is under way, once more.
    pub fn append(&mut self, net: &mut Net, id: Uuid) {
        let cut = self.cut(net);
        let Some(in_flight) = self.in_flight.iter_mut().find(|f| f.frame.id == id) else {
            return;
        };
        in_flight.attempts += 1;
        net.counts.append_again += u64::from(in_flight.attempts > 1);
        let from = (self.index, self.life);
        let refused = net.append(&in_flight.frame, &in_flight.bytes, from, cut);
        let wait = if refused { 50 } else { ACK_WAIT_MS };
        let jitter = self.dice.below(wait / 2 + 1);
        net.schedule(
            net.t_ms + wait + jitter,
            Event::AppendAgain {
                replica: self.index,
                life: self.life,
                frame: id,
            },
        );
    }

    /// The ledger says where a frame stands: if nothing lies between, it is applied from memory.
    pub fn acknowledged(&mut self, net: &mut Net, frame: Uuid, pos: u64) {
        let Some(in_flight) = self.in_flight.iter().find(|f| f.frame.id == frame) else {
            return;
        };
        let applied = self.log.state().basis().seq;
        if pos <= applied {
            let what = format!(
                "replica {} had applied {applied} and its frame stands at {pos}",
                self.index
            );
            net.judge.fail("applying", what);
        } else if pos == applied + 1 {
            let (frame, bytes) = (Arc::clone(&in_flight.frame), Rc::clone(&in_flight.bytes));
            self.apply(net, pos, &frame, &bytes);
            self.cut_frame(net);
        }
    }

    /// Reads the ledger as far as it is there.
    pub fn read(&mut self, net: &mut Net) {
        if self.cut(net) {
            net.schedule(
                self.cut_until_ms + 5,
                Event::Read {
                    replica: self.index,
                    life: self.life,
                },
            );
            return;
        }
        let mut next = self.log.state().basis().seq + 1;
        while let Some((frame, bytes, from_ms)) = net.readable(self.index, next) {
            if from_ms > net.t_ms {
                net.schedule(
                    from_ms,
                    Event::Read {
                        replica: self.index,
                        life: self.life,
                    },
                );
                break;
            }
            self.apply(net, next, &frame, &bytes);
            if net.judge.broken.is_some() {
                return;
            }
            let live = !matches!(self.serving, Serving::Replaying { .. });
            if live
                && frame.by != self.id
                && let Some(landed_at) = net.landed_at(next)
            {
                let mono_ms = self.now(net).mono_ms;
                self.clocks
                    .frame_landed(&frame.by, frame.at, landed_at, mono_ms);
            }
            next += 1;
        }
        if let Serving::Replaying { target } = self.serving
            && self.log.state().basis().seq >= target
        {
            self.serving = Serving::Barrier;
            self.push(net, Kind::Barrier);
        }
        self.cut_frame(net);
    }

    fn apply(&mut self, net: &mut Net, pos: u64, frame: &Arc<Frame>, bytes: &Rc<[u8]>) {
        net.counts.applied += 1;
        // The bytes say the same as the frame; now and then they are read to prove it.
        let applied = if self.dice.chance(30) {
            self.log.apply(pos, bytes)
        } else {
            self.log.apply_frame(pos, Arc::clone(frame), bytes)
        };
        match applied {
            Ok(applied) => {
                let digest = self.log.state().basis().digest;
                net.judge.applied(self.index, pos, digest, &applied.valid);
                self.follow(net, &applied);
                self.judge(net, &applied);
            }
            Err(alarm) => self.alarm(net, &alarm),
        }
    }

    fn alarm(&self, net: &mut Net, alarm: &Alarm) {
        net.judge
            .fail("no false alarm", format!("replica {}: {alarm}", self.index));
    }

    /// A message was applied. If it is a frame under way, everything in it is answered or decided
    /// again.
    fn judge(&mut self, net: &mut Net, applied: &Applied) {
        let Some(id) = applied.frame.as_ref().map(|f| f.id) else {
            return;
        };
        let Some(index) = self.in_flight.iter().position(|f| f.frame.id == id) else {
            return;
        };
        let in_flight = self.in_flight.remove(index);
        if self.serving == Serving::Barrier {
            self.serving = Serving::Yes;
        }
        if !self.clock_is_right(net) {
            return;
        }
        let all_valid = applied.valid.iter().all(|valid| *valid);
        for (item, part) in in_flight.items {
            let stands = match part {
                Part::Record(index) => applied.valid.get(index).copied().unwrap_or(false),
                Part::Leaning => all_valid,
                Part::Nothing => true,
            };
            if stands {
                self.settle(net, item, None);
            } else {
                self.decide_again(net, item);
            }
        }
    }

    fn decide_again(&mut self, net: &mut Net, mut item: Item) {
        if let Kind::Request(ask, _) = &item.kind
            && self.known(ask).is_some()
        {
            self.settle(net, item, None);
            return;
        }
        item.again += 1;
        net.counts.decided_again += 1;
        if item.again > DECIDED_AGAIN_MAX {
            if let Kind::Request(ask, _) = &item.kind {
                self.answer(net, ask, &Said::Undecided);
            }
            return;
        }
        if item.again > 1 {
            item.not_before_ms = net.t_ms + self.dice.below(2 * u64::from(item.again) + 1);
            net.schedule(
                item.not_before_ms,
                Event::Read {
                    replica: self.index,
                    life: self.life,
                },
            );
        }
        self.waiting.push_back(item);
    }

    // -- Answers ----------------------------------------------------------------------------------

    fn known(&self, ask: &Ask) -> Option<Said> {
        known(self.log.state(), ask).map(|known| match known {
            Known::Answered(answer) => Said::Answer(answer.clone()),
            Known::Reused => Said::Reused,
        })
    }

    /// Answers an item from the applied state.
    fn settle(&mut self, net: &mut Net, item: Item, unrecorded: Option<Unrecorded>) {
        match item.kind {
            Kind::Request(ask, wish) => {
                let said = self.known(&ask).unwrap_or(match unrecorded {
                    Some(Unrecorded::Forgotten) => Said::Forgotten,
                    Some(Unrecorded::Unpresented | Unrecorded::TooMany) | None => Said::Undecided,
                });
                let is_for_its_expiry = match &said {
                    Said::Forgotten => true,
                    Said::Answer(Answer::Refused { code, .. }) => {
                        matches!(code, Code::Expired | Code::ExpiryTooFar)
                    }
                    Said::Answer(_) | Said::Reused | Said::Undecided => false,
                };
                if wish.is_stop() && is_for_its_expiry {
                    let what = format!("{} is told {said:?}", ask.request);
                    net.judge.fail("no clock refuses a stop", what);
                }
                if !item.told {
                    self.answer(net, &ask, &said);
                }
            }
            Kind::Query {
                driver,
                session,
                since,
            } => {
                let state = self.log.state();
                let shown: Vec<SessionId> = match session {
                    Some(id) => state
                        .session(id)
                        .filter(|e| e.value.driver.as_ref() == Some(&driver))
                        .map(|e| e.value.id)
                        .into_iter()
                        .collect(),
                    None => state
                        .open_sessions()
                        .filter(|e| e.value.driver.as_ref() == Some(&driver))
                        .map(|e| e.value.id)
                        .collect(),
                };
                net.judge.listed(&driver, since, session, &shown);
            }
            Kind::Sync {
                cabinet,
                sync,
                sent,
            } => {
                let obeyed = self.obeys(&sync.cp_id, &sync.epoch, sync.boot.id);
                let message = ToCabinet::Synced {
                    life: sent.1,
                    standing: if obeyed {
                        Standing::Obeyed
                    } else {
                        Standing::NotObeyed
                    },
                    sent_mono_ms: sent.0,
                    ts: self.wall(net),
                    next: if obeyed {
                        self.wanted(&sync.cp_id, &sync.epoch)
                    } else {
                        0
                    },
                    epoch: sync.epoch.to_string(),
                };
                self.send(net, cabinet, message);
            }
            Kind::Run { cabinet, run, life } => {
                let unpresented = unrecorded == Some(Unrecorded::Unpresented);
                let outcome = if unpresented || self.obeys(&run.cp, &run.epoch, run.boot) {
                    EvtOutcome::Answered {
                        epoch: run.epoch.to_string(),
                        next: if unpresented {
                            0
                        } else {
                            self.wanted(&run.cp, &run.epoch)
                        },
                        refused: unpresented,
                    }
                } else {
                    let there = self.log.state().charge_point(&run.cp);
                    let other = there.and_then(|e| e.value.other.as_deref());
                    EvtOutcome::NotObeyed {
                        aside: other.filter(|o| o.boot.id == run.boot).map(|o| o.next),
                    }
                };
                let message = ToCabinet::Evt { life, outcome };
                self.send(net, cabinet, message);
            }
            Kind::Answered(_) | Kind::Release(_) | Kind::Forget(_) | Kind::Barrier => {}
        }
    }

    fn obeys(&self, cp: &CpId, epoch: &Epoch, boot: BootId) -> bool {
        let there = self.log.state().charge_point(cp);
        there.is_some_and(|e| e.value.obeys(epoch, boot))
    }

    fn wanted(&self, cp: &CpId, epoch: &Epoch) -> u64 {
        self.log
            .state()
            .spool(&(cp.clone(), epoch.clone()))
            .map_or(1, |e| e.value.next)
    }

    fn answer(&mut self, net: &mut Net, ask: &Ask, said: &Said) {
        net.judge.spoke(self.index, self.off_ms);
        net.judge.said(&ask.asker, &ask.request, ask.content, said);
        if !self.cut(net) {
            net.to_asker(&mut self.dice, ask, said);
        }
    }

    fn answer_late(&mut self, net: &mut Net) {
        let mut told = Vec::new();
        let now = net.t_ms;
        let late = |item: &Item| !item.told && now - item.since_ms > UNKNOWN_AFTER_MS;
        for (item, _) in self.in_flight.iter_mut().flat_map(|f| &mut f.items) {
            if late(item) {
                item.told = true;
                if let Kind::Request(ask, _) = &item.kind {
                    told.push(ask.clone());
                }
            }
        }
        if self.waiting.iter().any(late) {
            let (old, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|item| {
                    let asked = match item.kind {
                        Kind::Request(..)
                        | Kind::Query { .. }
                        | Kind::Sync { .. }
                        | Kind::Run { .. } => true,
                        Kind::Answered(_) | Kind::Release(_) | Kind::Forget(_) | Kind::Barrier => {
                            false
                        }
                    };
                    late(item) && asked
                });
            self.waiting = rest;
            told.extend(old.into_iter().filter_map(|item| match item.kind {
                Kind::Request(ask, _) => Some(ask),
                Kind::Query { .. }
                | Kind::Sync { .. }
                | Kind::Run { .. }
                | Kind::Answered(_)
                | Kind::Release(_)
                | Kind::Forget(_)
                | Kind::Barrier => None,
            }));
        }
        for ask in told {
            self.answer(net, &ask, &Said::Undecided);
        }
    }

    fn send(&mut self, net: &mut Net, cabinet: usize, message: ToCabinet) {
        net.judge.spoke(self.index, self.off_ms);
        if !self.cut(net) {
            net.to_cabinet(&mut self.dice, cabinet, message);
        }
    }

    // -- What follows from the state --------------------------------------------------------------

    fn follow(&mut self, net: &mut Net, applied: &Applied) {
        let mine = applied.frame.as_ref().is_some_and(|f| f.by == self.id);
        for write in applied.writes() {
            match write {
                Write::Session(session) => {
                    let subject = Subject::Session(session.id);
                    if effects::has_order(session) {
                        self.want(net, subject, u64::from(session.stop.is_some()), mine);
                    } else {
                        self.orders.remove(&subject);
                    }
                    if session.is_ended() {
                        self.must_copy(net, (session.id, None), mine);
                    }
                }
                Write::Adjustments(session, adjustments) => {
                    for adjustment in &adjustments.list {
                        self.must_copy(net, (*session, Some(adjustment.n)), mine);
                    }
                }
                Write::Connector(cp, id, connector) => {
                    let subject = Subject::Service(cp.clone(), *id);
                    if effects::has_service_order(connector) {
                        self.want(net, subject, connector.service_revision, mine);
                    } else {
                        self.orders.remove(&subject);
                    }
                    for session in &connector.standing_stops {
                        self.want(net, Subject::Standing(*session), 0, mine);
                    }
                }
                Write::Driver(..)
                | Write::Spool(..)
                | Write::Request(..)
                | Write::ChargePoint(..)
                | Write::Enrolment(..)
                | Write::Tariff(_)
                | Write::TariffScope(..)
                | Write::Forget(_) => {}
            }
        }
        if mine && self.serving == Serving::Yes {
            self.attempt_orders(net);
        }
    }

    fn want(&mut self, net: &Net, subject: Subject, version: u64, mine: bool) {
        if self
            .orders
            .get(&subject)
            .is_some_and(|p| p.version == version)
        {
            return;
        }
        let due_ms = net.t_ms + if mine { 0 } else { OTHERS_AFTER_MS };
        self.orders.insert(
            subject,
            Pending {
                due_ms,
                wait_ms: AGAIN_FIRST_MS,
                version,
                attempt: None,
            },
        );
    }

    fn hurry(&mut self, net: &mut Net, cabinet: usize) {
        for (subject, pending) in &mut self.orders {
            if pending.attempt.is_none()
                && net.cabinet_of_subject(self.log.state(), subject) == Some(cabinet)
            {
                pending.due_ms = net.t_ms;
                pending.wait_ms = AGAIN_FIRST_MS;
            }
        }
        if self.serving == Serving::Yes {
            self.attempt_orders(net);
        }
    }

    fn attempt_orders(&mut self, net: &mut Net) {
        if !self.clock_is_right(net) {
            return;
        }
        let now = net.t_ms;
        let mut due = Vec::new();
        for (subject, pending) in &mut self.orders {
            if pending.attempt.is_some() && pending.due_ms <= now {
                // No answer in time.
                pending.attempt = None;
                let wait = pending.wait_ms;
                pending.wait_ms = (wait * 2).min(AGAIN_MS_MAX);
                pending.due_ms = now + wait;
            } else if pending.attempt.is_none() && pending.due_ms <= now {
                self.attempts += 1;
                pending.attempt = Some(self.attempts);
                pending.due_ms = now + ANSWER_WAIT_MS;
                due.push((subject.clone(), self.attempts));
            }
        }
        let wall = self.wall(net);
        for (subject, attempt) in due {
            match self.command_of(&subject, wall) {
                None => {
                    self.orders.remove(&subject);
                }
                Some((command, verb)) => {
                    net.counts.commands += 1;
                    let cp = match &command {
                        EdgeCommand::Start(c) => &c.to,
                        EdgeCommand::Stop(c) => &c.to,
                        EdgeCommand::SetService(c) => &c.to,
                        EdgeCommand::SetLimit(c) => &c.to,
                        EdgeCommand::Unlock(c) => &c.to,
                        EdgeCommand::Reset(c) => &c.to,
                        EdgeCommand::Ping(c) => &c.to,
                    };
                    if let Some(cabinet) = net.cabinet_of(cp) {
                        let message = ToCabinet::Command {
                            command: Box::new(command),
                            from: (self.index, self.life),
                            subject: Some(subject),
                            attempt,
                            verb,
                        };
                        self.send(net, cabinet, message);
                    }
                }
            }
        }
    }

    /// The command that the state wants now.
    fn command_of(&self, subject: &Subject, now: UnixMs) -> Option<(EdgeCommand, Verb)> {
        let state = self.log.state();
        match subject {
            Subject::Session(id) => {
                let session = &state.session(*id)?.value;
                let boot = effects::boot(state, &session.cp)?;
                match effects::order(session, boot, now)? {
                    Order::Start(command) => Some((EdgeCommand::Start(command), Verb::Start)),
                    Order::Stop(command) => Some((EdgeCommand::Stop(command), Verb::Stop)),
                }
            }
            Subject::Standing(id) => {
                let session = &state.session(*id)?.value;
                let at = (session.cp.clone(), session.connector);
                let stands = state.connector(&at)?.value.standing_stops.contains(id);
                let boot = effects::boot(state, &session.cp).filter(|_| stands)?;
                let stop = effects::standing_stop(session, boot, now);
                Some((EdgeCommand::Stop(stop), Verb::Stop))
            }
            Subject::Service(cp, id) => {
                let connector = &state.connector(&(cp.clone(), *id))?.value;
                let command =
                    effects::service_order(cp, *id, connector, effects::boot(state, cp)?, now)?;
                Some((EdgeCommand::SetService(command), Verb::Stop))
            }
        }
    }

    fn command_back(
        &mut self,
        net: &mut Net,
        cabinet: usize,
        subject: &Subject,
        attempt: u64,
        verb: Verb,
        answer: &edge_core::Answer,
    ) {
        let finally = answer.outcome.is_final();
        match self.orders.get_mut(subject) {
            Some(pending) if pending.attempt == Some(attempt) => {
                pending.attempt = None;
                let wait = if finally {
                    RECORD_WAIT_MS
                } else {
                    let wait = pending.wait_ms;
                    pending.wait_ms = (wait * 2).min(AGAIN_MS_MAX);
                    wait
                };
                pending.due_ms = net.t_ms + wait;
            }
            // After its time, or the order has changed: the client has thrown the answer away.
            Some(_) | None => return,
        }
        let session = match subject {
            Subject::Session(session) | Subject::Standing(session) => *session,
            Subject::Service(..) => return,
        };
        if finally {
            let answer = CommandAnswer {
                cp: net.cp(cabinet).clone(),
                session,
                verb,
                epoch: answer.epoch.clone(),
                boot: answer.boot,
                outcome: answer.outcome,
                code: answer.code,
                raw: answer.raw.clone(),
            };
            self.push(net, Kind::Answered(answer));
        }
    }

    // -- From time to time ------------------------------------------------------------------------

    fn must_copy(&mut self, net: &Net, id: (SessionId, Option<u32>), mine: bool) {
        let due = net.t_ms + if mine { 0 } else { OTHERS_COPY_AFTER_MS };
        self.uncopied.entry(id).or_insert(due);
    }

    fn copy_receipts(&mut self, net: &mut Net) {
        if self.cut(net) {
            return;
        }
        let due: Vec<_> = self
            .uncopied
            .iter()
            .filter(|(_, at)| **at <= net.t_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(bytes) = self.cdr_entry(id) else {
                self.uncopied.remove(&id);
                continue;
            };
            if self.dice.chance(net.weather.copy_fails) {
                // Written, or not: it cannot be told, and is tried again.
                if self.dice.chance(500) {
                    net.judge.copied(id.0, id.1, bytes);
                }
                self.uncopied.insert(id, net.t_ms + 2_000);
            } else {
                net.judge.copied(id.0, id.1, bytes);
                self.uncopied.remove(&id);
            }
        }
    }

    fn cdr_entry(&self, (session, n): (SessionId, Option<u32>)) -> Option<Vec<u8>> {
        let state = self.log.state();
        match n {
            None => encode(&state.session(session)?.value.receipt()?, Encoding::MsgPack).ok(),
            Some(n) => {
                let list = &state.adjustments(session)?.value.list;
                let adjustment = list.iter().find(|a| a.n == n)?;
                encode(adjustment, Encoding::MsgPack).ok()
            }
        }
    }

    /// Asks the server where the ledger ends. It may be a deposed leader that answers.
    fn audit(&mut self, net: &mut Net) {
        let last = net.extent(&mut self.dice);
        let applied = self.log.state().basis().seq;
        if last >= applied {
            self.behind = None;
        } else {
            let since = match self.behind {
                Some((since, last)) if net.t_ms - last <= BEHIND_GAP_MS_MAX => since,
                Some(_) | None => net.t_ms,
            };
            self.behind = Some((since, net.t_ms));
            if net.t_ms - since > BEHIND_MS_MAX {
                self.alarm(net, &Alarm::Rewound { last, applied });
            }
        }
    }

    fn release(&mut self, net: &Net) {
        // What it could not hear says nothing.
        let hears_from = self
            .began_ms
            .max(self.cut_until_ms)
            .max(self.frozen_until_ms);
        if net.t_ms < hears_from + SETTLE_MS {
            return;
        }
        let silent_ms = |cp: &CpId| {
            let cabinet = net.cabinet_of(cp)?;
            let silence = self.heard[cabinet].map_or(net.t_ms - self.began_ms, |at| net.t_ms - at);
            (self.reach(net, cabinet) == Reach::Offline)
                .then(|| i64::try_from(silence).unwrap_or(i64::MAX))
        };
        let after = i64::try_from(RELEASE_AFTER_MS).unwrap_or(i64::MAX);
        for session in ripe::to_release(self.log.state(), after, self.wall(net), silent_ms) {
            self.push(net, Kind::Release(session));
        }
    }

    fn forget(&mut self, net: &Net) {
        if net.t_ms - self.forgot_ms < FORGET_EVERY_MS {
            return;
        }
        self.forgot_ms = net.t_ms;
        let copied = |session| {
            self.uncopied
                .range((session, None)..=(session, Some(u32::MAX)))
                .next()
                .is_none()
        };
        let (refusals_ms, answers_ms) = self.keep;
        let keep = Keep {
            refusals_ms,
            answers_ms,
            sessions_ms: answers_ms,
        };
        if let Some(forget) = ripe::to_forget(self.log.state(), keep, self.wall(net), copied) {
            self.push(net, Kind::Forget(forget));
        }
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.up && self.serving == Serving::Yes && self.uncopied.is_empty()
    }
}

/// Who asks.
#[must_use]
pub fn driver_of(asker: &Asker) -> Option<&DriverId> {
    match asker {
        Asker::Driver(driver) => Some(driver),
        Asker::Operator(_) => None,
    }
}

fn decode_state(bytes: &[u8]) -> Result<State, String> {
    State::decode(bytes).map_err(|e| e.to_string())
}

/// A connector by its number.
#[must_use]
pub const fn connector(n: u16) -> ConnectorId {
    ConnectorId(n)
}
