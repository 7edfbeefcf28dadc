//! What the bench tells its charge points, over the connection that they have anyway, and what it
//! hears of them.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client, Request, Subscriber};
use ev_contract::ids::SessionId;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

/// Where orders go.
pub(super) const ORDERS: &str = "bench.fleet";
/// What sessions come to.
pub(super) const NEWS: &str = "bench.news";
/// Longest that anything takes: every charge point ends four sessions.
const PATIENCE: Duration = Duration::from_secs(300);

/// An order; it is answered with a [`Count`] when it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// There are so many charge points, and all are in sync.
    Join { count: usize },
    /// Sessions are played: they charge, and end when they are stopped. Otherwise they are taken,
    /// and nothing more.
    Play { whole: bool },
    /// A charge point answers commands so late, or never.
    Slow {
        index: usize,
        #[serde(default)]
        after_ms: Option<u64>,
    },
    /// So many starts were taken in all.
    Taken { starts: u64 },
    /// So many starts were taken in all, and every session has ended and central has the records.
    Free { starts: u64 },
}

/// What the charge points did, in all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Count {
    /// Presented themselves.
    pub synced: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Sessions taken.
    pub starts: u64,
    /// Stop commands.
    pub stops: u64,
    /// Records that central has.
    pub records: u64,
    /// Questions that central refused.
    pub refused: u64,
    /// Questions without an answer.
    pub unanswered: u64,
}

/// What a played session has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// Three checkpoints are in the ledger.
    Charged(SessionId),
    /// Its last record is in the ledger.
    Ended(SessionId),
}

/// The charge points, from the bench's side.
#[derive(Debug, Clone)]
pub struct Fleet {
    client: Client,
}

impl Fleet {
    /// Speaks to them over a connection in their account.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// See to it that there are so many, in sync with central.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn join(&self, count: usize) -> Result<Count> {
        self.order(&Order::Join { count }).await
    }

    /// Whether sessions are played to their end.
    ///
    /// # Errors
    /// When they do not answer.
    pub async fn play(&self, whole: bool) -> Result<Count> {
        self.order(&Order::Play { whole }).await
    }

    /// One of them answers commands late, or never.
    ///
    /// # Errors
    /// When they do not answer.
    pub async fn slow(&self, index: usize, after: Option<Duration>) -> Result<Count> {
        let after_ms = after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        self.order(&Order::Slow { index, after_ms }).await
    }

    /// Waits until so many starts were taken since the beginning.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn taken(&self, starts: u64) -> Result<Count> {
        self.order(&Order::Taken { starts }).await
    }

    /// What they did so far.
    ///
    /// # Errors
    /// When they do not answer.
    pub async fn count(&self) -> Result<Count> {
        self.taken(0).await
    }

    /// Ends all sessions, once so many were taken since the beginning.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn free(&self, starts: u64) -> Result<Count> {
        self.order(&Order::Free { starts }).await
    }

    /// What sessions come to, from here on.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn news(&self) -> Result<Newspaper> {
        let subscriber = self.client.subscribe(NEWS).await?;
        self.client.flush().await?;
        Ok(Newspaper(subscriber))
    }

    async fn order(&self, order: &Order) -> Result<Count> {
        let request = Request::new()
            .payload(serde_json::to_vec(order)?.into())
            .timeout(Some(PATIENCE));
        let reply = self
            .client
            .send_request(ORDERS, request)
            .await
            .with_context(|| format!("the charge points did not do {order:?}"))?;
        Ok(serde_json::from_slice(&reply.payload)?)
    }
}

/// What sessions come to.
#[derive(Debug)]
pub struct Newspaper(Subscriber);

impl Newspaper {
    /// The next news.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn next(&mut self) -> Result<News> {
        let message = self.0.next().await.context("the news have ended")?;
        Ok(serde_json::from_slice(&message.payload)?)
    }
}
