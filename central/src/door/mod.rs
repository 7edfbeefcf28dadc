//! The door: who is connected to nats-server, and who was not let in.
//!
//! - [`table`]: who is connected, by credential; which connections are beyond the limit
//! - [`events`], [`token`]: what the servers say, and what of it can be trusted
//! - [`sweep`]: asking the servers who is there
//! - [`record`]: what is written into the audit
//! - [`bridge`]: what the servers say of themselves, for Prometheus
//!
//! Every replica counts all connections of all servers and closes what is beyond: closing twice is
//! closing once. Each event is written down by one replica.

mod bridge;
mod events;
mod limits;
mod record;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod token;

use std::{
    collections::HashMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::Client;
use ev_client::{Access, LinkEvent};
use ev_contract::ids::CpId;
use ev_enrol::Role;
use futures::StreamExt;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

pub use self::{bridge::Bridge, limits::ConnectionLimits};
use self::{
    events::{Event, Page, Sign},
    record::Recorder,
    table::{Place, Table},
};
use crate::{Config, PAUSES, audit::Audit, metrics::Metrics};

const CONNECTS: &str = "$SYS.ACCOUNT.*.CONNECT";
const DISCONNECTS: &str = "$SYS.ACCOUNT.*.DISCONNECT";
const REFUSALS: &str = "$SYS.SERVER.*.CLIENT.AUTH.ERR";
const SIGNS_OF_LIFE: &str = "$SYS.SERVER.*.STATSZ";
const LAST_SIGNS: &str = "$SYS.SERVER.*.SHUTDOWN";
/// In which the replicas share what is written down.
const QUEUE: &str = "central";

/// Events that the client library keeps: all connections of a server at once, of some 2 KB each.
/// What is beyond is dropped, and a sweep shows what was missed.
const EVENTS_MAX: usize = 16_384;
/// Charge points that have left and that the engine has not been told of: a server's worth in the
/// second of its end. Those beyond are missed by their heartbeats.
pub const LEFT_MAX: usize = 8_192;
/// Pages of a sweep that wait.
const PAGES_MAX: usize = 4;
/// Between two looks at what should have been closed, and at what else is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two sweeps, however nothing seems to have been missed.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// Between two sweeps when something was missed.
const SWEEP_AGAIN: Duration = Duration::from_secs(10);
/// A server that gives no sign for so long is gone, with all connections to it. It gives one every
/// ten seconds.
const SILENT_MAX: Duration = Duration::from_secs(25);
/// Servers whose signs are remembered.
const SERVERS_MAX: usize = 64;
/// A publish waits only while there is no connection, and then another one does the same.
const PUBLISH_WAIT: Duration = Duration::from_millis(100);

/// What happened to the doorkeeper's connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    /// How often it was made.
    ups: u64,
    /// Whether it stands.
    is_up: bool,
    /// How often messages were dropped.
    losses: u64,
}

/// Starts to watch; ends when the tasks are dropped. Charge points whose last connection has ended go
/// to `left`.
///
/// # Errors
/// When the credential cannot be used. A server that is not there is waited for.
pub async fn start(
    access: &Access,
    replica: &str,
    configs: watch::Receiver<Config>,
    audit: Audit,
    metrics: Arc<Metrics>,
    left: mpsc::Sender<CpId>,
) -> anyhow::Result<(JoinSet<()>, Arc<Bridge>)> {
    let (link, linked) = watch::channel(Link::default());
    let (options, _) = access.options(PAUSES, move |event| {
        told(&link, &event);
        std::future::ready(())
    })?;
    let client = options
        .name(format!("central {replica} door"))
        .retry_on_initial_connect()
        .subscription_capacity(EVENTS_MAX)
        .connect(access.servers()?)
        .await
        .context("connecting to nats-server as a doorkeeper")?;
    let mut tasks = JoinSet::new();
    let recorder = Recorder::new(client.clone(), configs.clone(), audit, Arc::clone(&metrics));
    tasks.spawn(async move {
        if let Err(error) = recorder.run().await {
            tracing::error!(%error, "refused and closed connections are not written down");
        }
    });
    let (speaks, is_speaker) = watch::channel(false);
    let bridge = Bridge::new(client.clone(), is_speaker);
    let limits = configs.borrow().connections;
    let counter = Counter {
        client,
        speaks,
        table: Table::new(limits),
        left,
        configs,
        metrics,
        servers: HashMap::new(),
        swept_at: None,
        is_sweep_due: false,
    };
    tasks.spawn(async move {
        if let Err(error) = counter.run(linked).await {
            tracing::error!(%error, "connections are not counted");
        }
    });
    Ok((tasks, bridge))
}

fn told(link: &watch::Sender<Link>, event: &LinkEvent) {
    match event {
        LinkEvent::Up => {
            tracing::info!(link = "door", "connected to nats-server");
            link.send_modify(|l| {
                l.ups += 1;
                l.is_up = true;
            });
        }
        LinkEvent::Down => {
            tracing::warn!(link = "door", "nats-server is out of reach");
            link.send_modify(|l| l.is_up = false);
        }
        LinkEvent::Slow => link.send_modify(|l| l.losses += 1),
        LinkEvent::Denied(_) | LinkEvent::Refused(_) => tracing::error!(link = "door", "{event}"),
        LinkEvent::Failed(_) => tracing::warn!(link = "door", "{event}"),
        LinkEvent::Other(words) => tracing::debug!(link = "door", words, "nats"),
    }
}

/// The task that counts.
struct Counter {
    client: Client,
    /// Whether this replica shows the servers' numbers.
    speaks: watch::Sender<bool>,
    table: Table,
    left: mpsc::Sender<CpId>,
    configs: watch::Receiver<Config>,
    metrics: Arc<Metrics>,
    /// When each server gave its last sign.
    servers: HashMap<Arc<str>, Instant>,
    swept_at: Option<Instant>,
    is_sweep_due: bool,
}

impl Counter {
    async fn run(
        mut self,
        mut link: watch::Receiver<Link>,
    ) -> Result<(), async_nats::SubscribeError> {
        let mut connects = self.client.subscribe(CONNECTS).await?;
        let mut ends = self.client.subscribe(DISCONNECTS).await?;
        let mut signs = self.client.subscribe(SIGNS_OF_LIFE).await?;
        let mut last_signs = self.client.subscribe(LAST_SIGNS).await?;
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut seen = Link::default();
        let mut sweeping = JoinSet::new();
        // Of a sweep under way; a closed one of none.
        let mut pages = mpsc::channel(1).1;
        loop {
            tokio::select! {
                Some(message) = connects.next() => {
                    if let Some(connection) = Event::read(&message.payload).and_then(|e| e.connection()) {
                        self.gave_a_sign(Arc::clone(&connection.place.server));
                        let due = self.table.connected(connection, Instant::now());
                        self.kick(due).await;
                    }
                }
                Some(message) = ends.next() => {
                    if let Some(event) = Event::read(&message.payload) {
                        self.table.ended(&event.place());
                        self.tell_left(&event);
                    }
                }
                Some(message) = signs.next() => {
                    if let Some(sign) = Sign::read(&message.payload) {
                        self.gave_a_sign(sign.server.id);
                    }
                }
                Some(message) = last_signs.next() => {
                    if let Some(sign) = Sign::read(&message.payload) {
                        self.servers.remove(&sign.server.id);
                        self.table.server_ended(&sign.server.id);
                    }
                }
                Some(page) = pages.recv() => self.listed(&page).await,
                Some(ended) = sweeping.join_next() => {
                    // A page may have come with the end.
                    while let Ok(page) = pages.try_recv() {
                        self.listed(&page).await;
                    }
                    match ended {
                        Ok(Ok(())) => self.table.sweep_ends(),
                        // What it would have shown is shown by the next one.
                        Ok(Err(error)) => {
                            tracing::warn!(error = %format!("{error:#}"), "not all connections are known");
                            self.is_sweep_due = true;
                        }
                        Err(_) => self.is_sweep_due = true,
                    }
                }
                Ok(()) = self.configs.changed() => {
                    let limits = self.configs.borrow_and_update().connections;
                    self.table.limit(limits);
                }
                Ok(()) = link.changed() => {
                    let now = *link.borrow_and_update();
                    self.metrics.connections_watched(now.is_up);
                    if now.ups != seen.ups {
                        // Nothing was heard meanwhile.
                        self.table.clear();
                        self.servers.clear();
                        sweeping.abort_all();
                        pages = self.sweep(&mut sweeping);
                    } else if now.losses != seen.losses {
                        self.is_sweep_due = true;
                    }
                    seen = now;
                }
                _ = tick.tick() => {
                    self.forget_silent_servers();
                    let due = self.table.overdue(Instant::now());
                    self.kick(due).await;
                    self.choose_speaker(seen.is_up);
                    if seen.is_up && sweeping.is_empty() && self.may_sweep() {
                        pages = self.sweep(&mut sweeping);
                    }
                }
                else => return Ok(()),
            }
            self.metrics.connections(self.table.counts());
        }
    }

    /// A charge point without a connection is missed sooner than its next heartbeat.
    fn tell_left(&self, event: &Event) {
        if let Some((cp, key)) = event.charge_point()
            && !self.table.is_here(&key)
        {
            // Where too many leave at once, some are missed by their heartbeats.
            let _ = self.left.try_send(cp);
        }
    }

    /// One replica shows the servers' numbers: the one whose doorkeeper was first here.
    fn choose_speaker(&self, is_up: bool) {
        let info = self.client.server_info();
        let speaks = is_up
            && self.table.first(Role::Doorkeeper).is_some_and(|place| {
                *place.server == *info.server_id && place.cid == info.client_id
            });
        self.speaks.send_if_modified(|was| {
            let changes = *was != speaks;
            *was = speaks;
            changes
        });
    }

    fn may_sweep(&self) -> bool {
        let pause = if self.is_sweep_due {
            SWEEP_AGAIN
        } else {
            SWEEP_EVERY
        };
        self.swept_at.is_none_or(|at| at.elapsed() >= pause)
    }

    fn sweep(&mut self, sweeping: &mut JoinSet<anyhow::Result<()>>) -> mpsc::Receiver<Page> {
        let (to, pages) = mpsc::channel(PAGES_MAX);
        self.swept_at = Some(Instant::now());
        self.is_sweep_due = false;
        self.table.sweep_begins();
        sweeping.spawn(sweep::sweep(self.client.clone(), to));
        pages
    }

    async fn listed(&mut self, page: &Page) {
        self.gave_a_sign(Arc::clone(&page.server.id));
        let now = Instant::now();
        for connection in page.connections() {
            let due = self.table.connected(connection, now);
            self.kick(due).await;
        }
    }

    fn gave_a_sign(&mut self, server: Arc<str>) {
        let is_known = self.servers.contains_key(&server);
        if self.servers.len() < SERVERS_MAX || is_known {
            self.servers.insert(server, Instant::now());
        }
        // Who was there before it was heard again is asked for.
        self.is_sweep_due |= !is_known;
    }

    /// A server that was killed says nothing about it.
    fn forget_silent_servers(&mut self) {
        let table = &mut self.table;
        self.servers.retain(|server, heard_at| {
            let is_there = heard_at.elapsed() < SILENT_MAX;
            if !is_there {
                table.server_ended(server);
            }
            is_there
        });
    }

    /// Has connections closed. One that is gone already costs an answer that nobody reads.
    async fn kick(&self, due: Vec<Place>) {
        for Place { server, cid } in due {
            let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
            // The server does nothing that it cannot answer.
            let inbox = self.client.new_inbox();
            let order = json!({"cid": cid}).to_string().into();
            let sent = pin!(self.client.publish_with_reply(subject, inbox, order));
            if timeout(PUBLISH_WAIT, sent).await.is_err() {
                // Asked again by the next look.
                return;
            }
        }
    }
}
