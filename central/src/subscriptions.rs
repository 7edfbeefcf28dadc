//! The subscriptions: from NATS to the engine. Only while this replica serves.

use std::{sync::Arc, time::Duration};

use async_nats::Subscriber;
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

/// Without this nothing is lost, but whoever asked waits for a repeat. The server answers an
/// unsubscription within a round trip.
const DRAIN_WAIT: Duration = Duration::from_secs(2);
/// Before another attempt to subscribe; the connection is being made again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

async fn run(shared: Shared, mut health: watch::Receiver<Health>) {
    while until(&mut health, true).await {
        let mut subscriptions = match Subscriptions::open(&shared.client).await {
            Ok(subscriptions) => subscriptions,
            Err(error) => {
                tracing::error!(%error, "cannot subscribe");
                tokio::time::sleep(SUBSCRIBE_AGAIN).await;
                continue;
            }
        };
        let goes_on = tokio::select! {
            () = subscriptions.listen(&shared) => true,
            goes_on = until(&mut health, false) => goes_on,
        };
        if !goes_on {
            return;
        }
        if health.borrow().stage == Stage::Draining {
            subscriptions.drain(&shared).await;
            // The engine sees that no more questions come.
            return;
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

struct Subscriptions {
    heartbeats: Subscriber,
    requests: [Subscriber; 2],
    events: Subscriber,
    syncs: Subscriber,
}

impl Subscriptions {
    async fn open(client: &async_nats::Client) -> Result<Self, async_nats::SubscribeError> {
        let queue =
            |subject: &'static str| client.queue_subscribe(subject, subjects::QUEUE_CENTRAL.into());
        Ok(Self {
            heartbeats: client.subscribe(subjects::CP_HEARTBEATS).await?,
            requests: [
                queue(subjects::DRIVER_REQUESTS).await?,
                queue(subjects::OPERATOR_REQUESTS).await?,
            ],
            events: queue(subjects::CP_EVENTS).await?,
            syncs: queue(subjects::CP_SYNCS).await?,
        })
    }

    async fn listen(&mut self, shared: &Shared) {
        let [drivers, operators] = &mut self.requests;
        loop {
            tokio::select! {
                Some(message) = self.heartbeats.next() => shared.heartbeat(&message),
                Some(message) = drivers.next() => shared.request(&message),
                Some(message) = operators.next() => shared.request(&message),
                Some(message) = self.events.next() => shared.event(&message),
                Some(message) = self.syncs.next() => shared.sync(&message),
                else => return,
            }
        }
    }

    /// Takes what is on its way to this replica; what comes later goes to others.
    async fn drain(mut self, shared: &Shared) {
        let all = [&mut self.heartbeats, &mut self.events, &mut self.syncs]
            .into_iter()
            .chain(&mut self.requests);
        for subscriber in all {
            if let Err(error) = subscriber.drain().await {
                tracing::warn!(%error, "cannot unsubscribe");
            }
        }
        if tokio::time::timeout(DRAIN_WAIT, self.listen(shared))
            .await
            .is_err()
        {
            tracing::warn!("shut down before all subscriptions were drained");
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
