//! The subscriptions: from NATS to the engine. Only while this replica serves.

use std::sync::Arc;

use ev_contract::{
    codes::{Code, Problem},
    subjects,
    v1::{EvtReply, Heartbeat, SyncReply},
    wire::Tag,
};
use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    border::{self, Question},
    engine::{self, Item, ItemKind, QUESTIONS_MAX},
    health::{Health, Stage},
    metrics::Metrics,
    out::Out,
};

/// Heartbeats that wait. At the bound the newest is dropped: another follows in five seconds.
const HEARTBEATS_MAX: usize = 65_536;

struct Shared {
    client: async_nats::Client,
    out: Out,
    metrics: Arc<Metrics>,
    questions: mpsc::Sender<Item>,
    heartbeats: mpsc::Sender<Heartbeat>,
}

/// Starts the task that subscribes when this replica serves and unsubscribes when it no longer does.
pub fn start(
    client: async_nats::Client,
    out: Out,
    metrics: Arc<Metrics>,
    health: watch::Receiver<Health>,
) -> (
    mpsc::Receiver<Item>,
    mpsc::Receiver<Heartbeat>,
    JoinHandle<()>,
) {
    let (questions, questions_in) = mpsc::channel(QUESTIONS_MAX);
    let (heartbeats, heartbeats_in) = mpsc::channel(HEARTBEATS_MAX);
    let shared = Shared {
        client,
        out,
        metrics,
        questions,
        heartbeats,
    };
    let task = tokio::spawn(run(shared, health));
    (questions_in, heartbeats_in, task)
}

async fn run(shared: Shared, mut health: watch::Receiver<Health>) {
    loop {
        if !until(&mut health, true).await {
            return;
        }
        tokio::select! {
            result = listen(&shared) => if let Err(error) = result {
                tracing::error!(%error, "cannot subscribe");
                // The connection is being made again; there is nothing else to wait for.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            },
            goes_on = until(&mut health, false) => if !goes_on { return },
        }
    }
}

/// Waits until this replica serves or no longer does; `false` when the engine has ended.
async fn until(health: &mut watch::Receiver<Health>, serving: bool) -> bool {
    health
        .wait_for(|h| (h.stage == Stage::Serving) == serving)
        .await
        .is_ok()
}

async fn listen(shared: &Shared) -> Result<(), async_nats::SubscribeError> {
    let queue = |subject: &'static str| {
        shared
            .client
            .queue_subscribe(subject, subjects::QUEUE_CENTRAL.into())
    };
    let mut heartbeats = shared.client.subscribe(subjects::CP_HEARTBEATS).await?;
    let mut drivers = queue(subjects::DRIVER_REQUESTS).await?;
    let mut operators = queue(subjects::OPERATOR_REQUESTS).await?;
    let mut events = queue(subjects::CP_EVENTS).await?;
    let mut syncs = queue(subjects::CP_SYNCS).await?;
    loop {
        tokio::select! {
            Some(message) = heartbeats.next() => shared.heartbeat(&message),
            Some(message) = drivers.next() => shared.request(&message),
            Some(message) = operators.next() => shared.request(&message),
            Some(message) = events.next() => shared.event(&message),
            Some(message) = syncs.next() => shared.sync(&message),
            else => return Ok(()),
        }
    }
}

impl Shared {
    fn heartbeat(&self, message: &async_nats::Message) {
        match border::read_heartbeat(message) {
            Ok(heartbeat) => {
                if self.heartbeats.try_send(heartbeat).is_err() {
                    self.metrics.ignored("heartbeats_full");
                }
            }
            Err(ignored) => self.metrics.ignored(ignored.as_str()),
        }
    }

    fn request(&self, message: &async_nats::Message) {
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => {
                tracing::debug!(subject = %message.subject, why = ignored.as_str(), "request passed over");
                self.metrics.ignored(ignored.as_str());
                return;
            }
        };
        let asked = match border::read(message) {
            Ok(asked) => asked,
            Err(ignored) => {
                self.metrics.ignored(ignored.as_str());
                return;
            }
        };
        let to = asked
            .asker
            .as_ref()
            .map_or_else(String::new, |a| a.as_str().to_owned());
        let problem = match asked.question {
            Err(problem) => problem,
            Ok(question) => {
                let kind = match question {
                    Question::Request(ask, wish) => ItemKind::Request(ask, wish),
                    Question::Query(asker, query) => ItemKind::Query(asker, query),
                };
                match self
                    .questions
                    .try_send(Item::asked(kind, reply.clone(), asked.verb))
                {
                    Ok(()) => return,
                    Err(_) => overloaded(),
                }
            }
        };
        self.metrics
            .answered(asked.verb, "error", problem.code.as_str());
        self.out.send(
            reply.subject,
            &engine::error_reply(to, asked.request_id, problem),
            reply.encoding,
        );
    }

    fn sync(&self, message: &async_nats::Message) {
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => return self.metrics.ignored(ignored.as_str()),
        };
        let (to, problem) = match border::read_sync(message) {
            Ok((cp, sync)) => {
                let to = cp.to_string();
                let item = Item::asked(ItemKind::Sync(cp, sync), reply.clone(), "sync");
                match self.questions.try_send(item) {
                    Ok(()) => return,
                    Err(_) => (to, overloaded()),
                }
            }
            Err(problem) => problem,
        };
        tracing::warn!(cp = to, %problem, "sync not taken");
        self.metrics
            .answered("sync", "error", problem.code.as_str());
        let answer = SyncReply {
            tag: Tag::new(),
            to,
            epoch: String::new(),
            next: 0,
            error: Some(problem),
            ts: engine::wall(),
        };
        self.out.send(reply.subject, &answer, reply.encoding);
    }

    fn event(&self, message: &async_nats::Message) {
        let reply = match border::reply_to(message) {
            Ok(reply) => reply,
            Err(ignored) => return self.metrics.ignored(ignored.as_str()),
        };
        let (to, problem) = match border::read_run(message) {
            Ok(run) => {
                let to = run.cp.to_string();
                let item = Item::asked(ItemKind::Run(run), reply.clone(), "evt");
                match self.questions.try_send(item) {
                    Ok(()) => return,
                    Err(_) => (to, overloaded()),
                }
            }
            Err(problem) => problem,
        };
        tracing::warn!(cp = to, %problem, "records not taken");
        self.metrics.answered("evt", "error", problem.code.as_str());
        let answer = EvtReply {
            tag: Tag::new(),
            to,
            epoch: String::new(),
            next: 0,
            error: Some(problem),
            ts: engine::wall(),
        };
        self.out.send(reply.subject, &answer, reply.encoding);
    }
}

fn overloaded() -> Problem {
    let mut problem = Code::Overloaded.about("its queue is full");
    problem.retry_after_ms = Some(1_000);
    problem
}
