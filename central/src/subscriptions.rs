//! The subscriptions: from NATS to the engine. Only while this replica serves.
//!
//! Each has a task and a connection or a queue of its own, so that none waits behind another, and
//! no task ever waits for anything but the next message: what cannot be taken is refused.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use central_core::{decide::Command, keys::Asker};
use ev_contract::{
    codes::{Code, Problem},
    subjects::{self, Subject},
    v1::{AuditEntry, AuditKind, EvtReply, Heartbeat, SyncReply},
    wire::Tag,
};
use futures::StreamExt;
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    Config, Links,
    admission::{Gate, Limits, Refusal},
    audit::{self, Audit, Reading},
    border::{self, Ignored, Question, ReplyTo},
    engine::{self, Item, ItemKind},
    health::{Health, Stage},
    held::{HEARTBEATS_MAX, Held, QUESTION_BYTES, QUESTIONS_MAX, Shares},
    metrics::Metrics,
    out::Out,
};

/// Bytes of an `evt` that count as one more of it.
const EVT_UNIT_BYTES: usize = 16 * 1024;
/// What is told when a share of memory is used up: as long as the engine needs to empty a full
/// one, spread so that those who are told at once do not come back at once.
const RETRY_FULL: Duration = Duration::from_secs(1);

struct Shared {
    out: Out,
    audit: Audit,
    metrics: Arc<Metrics>,
    shares: Shares,
    configs: watch::Receiver<Config>,
    questions: mpsc::Sender<Item>,
    heartbeats: mpsc::Sender<(Heartbeat, Held)>,
}

/// Starts the task that subscribes when this replica serves and unsubscribes when it no longer does.
pub(crate) fn start(
    links: Links,
    configs: watch::Receiver<Config>,
    out: Out,
    audit: Audit,
    metrics: Arc<Metrics>,
    health: watch::Receiver<Health>,
) -> (
    mpsc::Receiver<Item>,
    mpsc::Receiver<(Heartbeat, Held)>,
    JoinHandle<()>,
) {
    let (questions, questions_in) = mpsc::channel(QUESTIONS_MAX);
    let (heartbeats, heartbeats_in) = mpsc::channel(HEARTBEATS_MAX);
    let shared = Arc::new(Shared {
        out,
        audit,
        metrics,
        shares: Shares::default(),
        configs,
        questions,
        heartbeats,
    });
    let task = tokio::spawn(run(links, shared, health));
    (questions_in, heartbeats_in, task)
}

/// Without this nothing is lost, but whoever asked waits for a repeat. The server answers an
/// unsubscription within a round trip.
const DRAIN_WAIT: Duration = Duration::from_secs(2);
/// Messages that are still taken of a busy subscription: more than are under way at once.
const LAST_MESSAGES: u64 = 256;
/// A subscription is not busy when so long nothing comes.
const QUIET: Duration = Duration::from_millis(50);
/// Before another attempt to subscribe; the connection is being made again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

async fn run(links: Links, shared: Arc<Shared>, mut health: watch::Receiver<Health>) {
    while until(&mut health, true).await {
        let limits = shared.configs.borrow().limits.clone();
        let sources = match subscribe(&links, &limits).await {
            Ok(sources) => sources,
            Err(error) => {
                tracing::error!(%error, "cannot subscribe");
                tokio::time::sleep(SUBSCRIBE_AGAIN).await;
                continue;
            }
        };
        let mut takers = JoinSet::new();
        for (subscriber, source) in sources {
            takers.spawn(take(
                subscriber,
                source,
                Arc::clone(&shared),
                health.clone(),
            ));
        }
        // They end when this replica no longer serves.
        while takers.join_next().await.is_some() {}
        if health.borrow().stage == Stage::Draining {
            // The engine sees that no more questions come.
            return;
        }
    }
}

/// Waits until this replica serves or no longer does; `false` when the engine has ended.
async fn until(health: &mut watch::Receiver<Health>, serving: bool) -> bool {
    health.wait_for(|h| h.serves() == serving).await.is_ok()
}

/// What comes in by one subscription, and how much of it each asker may send.
enum Source {
    Drivers(Box<DriverGates>),
    Operators(Gate),
    Records(Gate),
    Syncs(Gate),
    Heartbeats(Gate),
    Enrolments(Gate),
}

impl Source {
    /// Who sends what comes in here.
    const fn kind(&self) -> AuditKind {
        match self {
            Self::Drivers(_) => AuditKind::Driver,
            Self::Operators(_) => AuditKind::Op,
            Self::Enrolments(_) => AuditKind::Enrol,
            Self::Records(_) | Self::Syncs(_) | Self::Heartbeats(_) => AuditKind::Cp,
        }
    }
}

impl Source {
    /// Other limits, for who has asked already as well.
    fn limit(&mut self, limits: &Limits) {
        match self {
            Self::Drivers(gates) => {
                gates.starts.limit(limits.driver_starts);
                gates.stops.limit(limits.driver_stops);
                gates.reads.limit(limits.driver_reads);
            }
            Self::Operators(gate) | Self::Enrolments(gate) => gate.limit(limits.operator),
            Self::Records(gate) => gate.limit(limits.charge_point_evts),
            Self::Syncs(gate) => gate.limit(limits.charge_point_syncs),
            Self::Heartbeats(gate) => gate.limit(limits.charge_point_heartbeats),
        }
    }
}

struct DriverGates {
    starts: Gate,
    stops: Gate,
    reads: Gate,
}

async fn subscribe(
    links: &Links,
    limits: &Limits,
) -> Result<[(Subscriber, Source); 6], async_nats::SubscribeError> {
    let queue = async |link: &async_nats::Client, subject: &'static str| {
        link.queue_subscribe(subject, subjects::QUEUE_CENTRAL.into())
            .await
    };
    let drivers = Source::Drivers(Box::new(DriverGates {
        starts: Gate::new(limits.driver_starts),
        stops: Gate::new(limits.driver_stops),
        reads: Gate::new(limits.driver_reads),
    }));
    let operators = Source::Operators(Gate::new(limits.operator));
    let enrolments = Source::Enrolments(Gate::new(limits.operator));
    let records = Source::Records(Gate::new(limits.charge_point_evts));
    let syncs = Source::Syncs(Gate::new(limits.charge_point_syncs));
    let heartbeats = Source::Heartbeats(Gate::new(limits.charge_point_heartbeats));
    // Heartbeats first: a question that comes next is decided with what they say.
    Ok([
        (
            links.presence.subscribe(subjects::CP_HEARTBEATS).await?,
            heartbeats,
        ),
        (queue(&links.presence, subjects::CP_SYNCS).await?, syncs),
        (queue(&links.records, subjects::CP_EVENTS).await?, records),
        (
            queue(&links.requests, subjects::OPERATOR_REQUESTS).await?,
            operators,
        ),
        (
            queue(&links.requests, subjects::ENROLMENTS).await?,
            enrolments,
        ),
        (
            queue(&links.requests, subjects::DRIVER_REQUESTS).await?,
            drivers,
        ),
    ])
}

/// Takes what comes until this replica no longer serves. When it ends in order, takes also what is
/// on its way; what comes later goes to others.
async fn take(
    mut subscriber: Subscriber,
    mut source: Source,
    shared: Arc<Shared>,
    health: watch::Receiver<Health>,
) {
    let mut seen = 0_u64;
    let mut configs = shared.configs.clone();
    {
        let mut watched = health.clone();
        let mut ended = std::pin::pin!(until(&mut watched, false));
        loop {
            tokio::select! {
                _ = &mut ended => break,
                Ok(()) = configs.changed() => source.limit(&configs.borrow_and_update().limits),
                message = subscriber.next() => match message {
                    Some(message) => {
                        seen += 1;
                        shared.take(&mut source, &message);
                    }
                    None => return,
                },
            }
        }
    }
    if health.borrow().stage != Stage::Draining {
        return;
    }
    // The library forgets a subscription that is drained as soon as it hears anything more, and
    // with it what the server sends until it has read the word. Where much comes, the server is
    // told the number of the last message instead, which both sides count alike.
    let last = seen + LAST_MESSAGES;
    let counted = async {
        if subscriber.unsubscribe_after(last).await.is_err() {
            return false;
        }
        loop {
            match tokio::time::timeout(QUIET, subscriber.next()).await {
                Ok(Some(message)) => shared.take(&mut source, &message),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    if let Ok(true) = tokio::time::timeout(DRAIN_WAIT, counted).await {
        return;
    }
    if let Err(error) = subscriber.drain().await {
        tracing::warn!(%error, "cannot unsubscribe");
    }
    let rest = async {
        while let Some(message) = subscriber.next().await {
            shared.take(&mut source, &message);
        }
    };
    if tokio::time::timeout(DRAIN_WAIT, rest).await.is_err() {
        tracing::warn!("shut down before a subscription was drained");
    }
}

impl Shared {
    fn take(&self, source: &mut Source, message: &Message) {
        match source {
            Source::Heartbeats(gate) => self.heartbeat(gate, message),
            Source::Drivers(_) | Source::Operators(_) => self.request(source, message),
            Source::Records(gate) => self.event(gate, message),
            Source::Syncs(gate) => self.sync(gate, message),
            Source::Enrolments(gate) => self.enrolment(gate, message),
        }
    }

    fn heartbeat(&self, gate: &mut Gate, message: &Message) {
        if let Err(refusal) = gate.admit(&message.subject.as_str(), 1, Instant::now()) {
            self.metrics.refused("hb", refusal.as_str());
            return;
        }
        let heartbeat = match border::read_heartbeat(message) {
            Ok(heartbeat) => heartbeat,
            Err(ignored) => {
                self.note_another(message);
                return self.metrics.ignored(ignored.as_str());
            }
        };
        let taken = self
            .shares
            .heartbeats
            .hold(QUESTION_BYTES + message.payload.len())
            .is_some_and(|held| self.heartbeats.try_send((heartbeat, held)).is_ok());
        if !taken {
            self.metrics.refused("hb", "full");
        }
    }

    fn request(&self, source: &mut Source, message: &Message) {
        let kind = source.kind();
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => {
                tracing::debug!(subject = %message.subject, why = ignored.as_str(), "request passed over");
                return self.pass_over(kind, message, ignored);
            }
        };
        if let Err((verb, to, problem)) = self.admit_request(source, message) {
            self.metrics.answered(verb, "error", problem.code.as_str());
            if kind == AuditKind::Op {
                self.audit.refused(
                    &audit::entry::draft(kind, message),
                    Some(problem.code),
                    "too many",
                );
            }
            let answer = engine::error_reply(to, border::request_id(message), problem);
            self.answer(reply, &answer, true);
            return;
        }
        let asked = match border::read(message) {
            Ok(asked) => asked,
            Err(ignored) => return self.pass_over(kind, message, ignored),
        };
        let draft = (kind == AuditKind::Op || audit::entry::names_a_session(&asked)).then(|| {
            let mut draft = audit::entry::draft(kind, message);
            audit::entry::describe(&mut draft, &asked);
            Box::new(draft)
        });
        let item = match asked.question {
            Ok(Question::Request(ask, wish)) => Ok(ItemKind::Decide(Command::Request(ask, wish))),
            Ok(Question::Query(asker, query)) => Ok(ItemKind::Query(asker, query)),
            Ok(Question::Audit(operator, page)) => {
                if let Some(draft) = draft {
                    self.audit
                        .page(*draft, &reply, operator, Reading::Audit(page));
                }
                return;
            }
            Ok(Question::Uptime(operator, page)) => {
                if let Some(draft) = draft {
                    self.audit
                        .page(*draft, &reply, operator, Reading::Uptime(page));
                }
                return;
            }
            Err(problem) => Err(problem),
        };
        let operators = (kind == AuditKind::Op && asked.asker.is_some())
            .then(|| draft.clone())
            .flatten();
        let (problem, flood) = match item {
            Err(problem) => (problem, false),
            Ok(item) => {
                let share = if kind == AuditKind::Op {
                    &self.shares.operators
                } else {
                    &self.shares.drivers
                };
                let held = share.hold(QUESTION_BYTES + message.payload.len());
                match self.put(item, &reply, asked.verb, draft, held) {
                    Ok(()) => return,
                    Err(problem) => (problem, true),
                }
            }
        };
        self.metrics
            .answered(asked.verb, "error", problem.code.as_str());
        let about_who_asks = match (&asked.asker, problem.code) {
            (None, _) => Some("the subject names nobody"),
            // What an operator is told is written down in any case.
            (Some(Asker::Driver(_)), Code::NotAllowed) => Some("it names another sender"),
            (Some(_), _) => None,
        };
        if let Some(detail) = about_who_asks {
            let draft = audit::entry::draft(kind, message);
            self.audit.refused(&draft, Some(problem.code), detail);
        }
        let to = asked
            .asker
            .map_or_else(String::new, |a| a.as_str().to_owned());
        let answer = engine::error_reply(to, asked.request_id, problem);
        match operators {
            Some(draft) => self.audit.answer(&draft, Some(&reply), &answer),
            None => self.answer(reply, &answer, flood),
        }
    }

    /// A request is passed over: nobody hears of it but the audit, where it is about who asks.
    fn pass_over(&self, kind: AuditKind, message: &Message, ignored: Ignored) {
        self.metrics.ignored(ignored.as_str());
        let detail = match ignored {
            Ignored::NotForCentral => "it is addressed to somebody else",
            Ignored::ReplyElsewhere => "its reply subject is no asker's",
            Ignored::NoReply | Ignored::Unreadable => return,
        };
        self.audit
            .refused(&audit::entry::draft(kind, message), None, detail);
    }

    /// A message of a charge point was refused: that goes into the audit where it is about who
    /// sends.
    fn note_another(&self, message: &Message) {
        if border::names_another(message) {
            self.audit.refused(
                &audit::entry::draft(AuditKind::Cp, message),
                None,
                "it names another sender or addressee",
            );
        }
    }

    /// Whether this asker may ask. The subject alone says who it is and how much its question
    /// counts: what is refused is not read.
    fn admit_request(
        &self,
        source: &mut Source,
        message: &Message,
    ) -> Result<(), (&'static str, String, Problem)> {
        let verb = message.subject.rsplit('.').next().unwrap_or_default();
        let (gate, what, verb) = match source {
            Source::Drivers(gates) => match verb {
                "start" => (&mut gates.starts, "starts", "start"),
                "stop" => (&mut gates.stops, "stops", "stop"),
                _ => (&mut gates.reads, "questions", "read"),
            },
            Source::Operators(gate) => (gate, "requests", "op"),
            Source::Records(_)
            | Source::Syncs(_)
            | Source::Heartbeats(_)
            | Source::Enrolments(_) => return Ok(()),
        };
        let to = match Subject::parse(&message.subject) {
            Some(Subject::Driver { driver, .. }) => driver.to_string(),
            Some(Subject::Operator { operator, .. }) => operator.to_string(),
            // Nobody's: all of those are counted as one asker's.
            Some(_) | None => String::new(),
        };
        gate.admit(&to, 1, Instant::now()).map_err(|refusal| {
            self.metrics.refused(verb, refusal.as_str());
            (verb, to, overloaded(what, refusal))
        })
    }

    /// Hands a question to the engine.
    fn put(
        &self,
        kind: ItemKind,
        reply: &ReplyTo,
        verb: &'static str,
        draft: Option<Box<AuditEntry>>,
        held: Option<Held>,
    ) -> Result<(), Problem> {
        if let Some(held) = held {
            let item = Item::asked(kind, reply.clone(), verb, draft, held);
            if self.questions.try_send(item).is_ok() {
                return Ok(());
            }
        }
        self.metrics.refused(verb, "full");
        Err(full())
    }

    fn sync(&self, gate: &mut Gate, message: &Message) {
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => return self.pass_over(AuditKind::Cp, message, ignored),
        };
        let taken = self
            .admit_charge_point(gate, message, "sync", 1)
            .and_then(|()| {
                let (cp, sync) = border::read_sync(message).map_err(not_flooding)?;
                let to = cp.to_string();
                let held = self
                    .shares
                    .syncs
                    .hold(QUESTION_BYTES + message.payload.len());
                self.put(
                    ItemKind::Decide(Command::Sync(cp, sync)),
                    &reply,
                    "sync",
                    None,
                    held,
                )
                .map_err(|problem| (to, problem, true))
            });
        let Err((to, error, flood)) = taken else {
            return;
        };
        self.metrics.answered("sync", "error", error.code.as_str());
        if !flood {
            self.note_another(message);
            tracing::warn!(cp = to, %error, "sync not taken");
        }
        let answer = SyncReply {
            tag: Tag::new(),
            to,
            epoch: String::new(),
            next: 0,
            error: Some(error),
            ts: engine::wall(),
        };
        self.answer(reply, &answer, flood);
    }

    /// Somebody tells of credentials.
    fn enrolment(&self, gate: &mut Gate, message: &Message) {
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => return self.pass_over(AuditKind::Enrol, message, ignored),
        };
        let admitted = gate
            .admit(&message.subject.as_str(), 1, Instant::now())
            .map_err(|refusal| {
                self.metrics.refused("enrol", refusal.as_str());
                (String::new(), overloaded("enrolments", refusal), true)
            });
        let taken = admitted.and_then(|()| {
            let (by, announcement) = border::read_announcement(message).map_err(not_flooding)?;
            let to = by.to_string();
            let held = self
                .shares
                .operators
                .hold(QUESTION_BYTES + message.payload.len());
            let kind = ItemKind::Announced(by, Command::Announce(announcement));
            self.put(kind, &reply, "enrol", None, held)
                .map_err(|problem| (to, problem, true))
        });
        let Err((to, problem, flood)) = taken else {
            return;
        };
        self.metrics
            .answered("enrol", "error", problem.code.as_str());
        if !flood {
            self.audit.refused(
                &audit::entry::draft(AuditKind::Enrol, message),
                Some(problem.code),
                "it cannot be read",
            );
        }
        self.answer(reply, &engine::error_reply(to, None, problem), flood);
    }

    fn event(&self, gate: &mut Gate, message: &Message) {
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => return self.pass_over(AuditKind::Cp, message, ignored),
        };
        let count =
            1 + u32::try_from(message.payload.len() / EVT_UNIT_BYTES).unwrap_or(u32::MAX - 1);
        let taken = self
            .admit_charge_point(gate, message, "evt", count)
            .and_then(|()| {
                let run = crate::run::read(message).map_err(not_flooding)?;
                let to = run.cp.to_string();
                let held = self
                    .shares
                    .records
                    .hold(QUESTION_BYTES + crate::run::bytes_of(&run));
                let draft = Box::new(audit::entry::draft(AuditKind::Cp, message));
                self.put(
                    ItemKind::Decide(Command::Intake(run)),
                    &reply,
                    "evt",
                    Some(draft),
                    held,
                )
                .map_err(|problem| (to, problem, true))
            });
        let Err((to, error, flood)) = taken else {
            return;
        };
        self.metrics.answered("evt", "error", error.code.as_str());
        if !flood {
            self.note_another(message);
            tracing::warn!(cp = to, %error, "records not taken");
        }
        let answer = EvtReply {
            aside: None,
            tag: Tag::new(),
            to,
            epoch: String::new(),
            next: 0,
            error: Some(error),
            ts: engine::wall(),
        };
        self.answer(reply, &answer, flood);
    }

    fn admit_charge_point(
        &self,
        gate: &mut Gate,
        message: &Message,
        verb: &'static str,
        count: u32,
    ) -> Result<(), (String, Problem, bool)> {
        gate.admit(&message.subject.as_str(), count, Instant::now())
            .map_err(|refusal| {
                self.metrics.refused(verb, refusal.as_str());
                let to = border::cp_of(message).map_or_else(|_| String::new(), |cp| cp.to_string());
                (to, overloaded(verb, refusal), true)
            })
    }

    fn answer<T: Serialize>(&self, reply: ReplyTo, answer: &T, flood: bool) {
        if flood {
            self.out.refuse(reply.subject, answer, reply.encoding);
        } else {
            self.out.send(reply.subject, answer, reply.encoding);
        }
    }
}

fn not_flooding((to, problem): (String, Problem)) -> (String, Problem, bool) {
    (to, problem, false)
}

fn overloaded(what: &str, refusal: Refusal) -> Problem {
    let mut problem = match refusal {
        Refusal::TooMany(_) => Code::Overloaded.about(&format!("too many {what} from you")),
        Refusal::NoRoom => Code::Overloaded.about("too many ask at once"),
    };
    problem.retry_after_ms = u64::try_from(refusal.retry_after().as_millis()).ok();
    problem
}

fn full() -> Problem {
    let mut problem = Code::Overloaded.about("too many questions wait");
    let wait = RETRY_FULL.mul_f64(0.5 + rand::random::<f64>());
    problem.retry_after_ms = u64::try_from(wait.as_millis()).ok();
    problem
}
