//! What the bench tells its charge points, over the connection that they have anyway.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client, Request};
use serde::{Deserialize, Serialize};

/// With what control subjects begin.
pub(super) const CONTROL: &str = "bench.fleet";
/// Longest that anything takes: every charge point ends four sessions.
const PATIENCE: Duration = Duration::from_secs(300);

/// An order; it is answered with a [`Count`] when it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// There are so many charge points, and all are in sync.
    Join { count: usize },
    /// So many starts were taken in all, and every session has ended and central has the records.
    Free { starts: u64 },
    /// At once.
    Count,
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

    /// Ends all sessions, once so many were taken since the beginning.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn free(&self, starts: u64) -> Result<Count> {
        self.order(&Order::Free { starts }).await
    }

    /// What they did so far.
    ///
    /// # Errors
    /// When they do not answer.
    pub async fn count(&self) -> Result<Count> {
        self.order(&Order::Count).await
    }

    async fn order(&self, order: &Order) -> Result<Count> {
        let request = Request::new()
            .payload(serde_json::to_vec(order)?.into())
            .timeout(Some(PATIENCE));
        let reply = self
            .client
            .send_request(format!("{CONTROL}.order"), request)
            .await
            .with_context(|| format!("the charge points did not do {order:?}"))?;
        Ok(serde_json::from_slice(&reply.payload)?)
    }
}
