//! Asking central, written against the messages alone.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use async_nats::{Client, HeaderMap};
use ev_client::Pauses;
use ev_testkit::{Keys, Role};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

use super::history::{Event, History};

/// How long one attempt waits.
pub const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSES: Pauses = Pauses {
    first_max: Duration::from_millis(200),
    min: Duration::from_millis(200),
    max: Duration::from_millis(400),
};

/// How a caller writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    Json,
    MsgPack,
}

/// Somebody with a connection of his own.
#[derive(Debug, Clone)]
pub struct Caller {
    pub who: String,
    client: Client,
    tongue: Tongue,
    history: Arc<History>,
}

impl Caller {
    /// `who` is `driver.<id>` or `op.<id>`.
    pub async fn connect(
        keys: &Keys,
        url: &str,
        who: String,
        tongue: Tongue,
        history: Arc<History>,
    ) -> Result<Self> {
        let access = match who.split_once('.') {
            Some(("driver", id)) => keys.access(url, Role::Driver, id)?,
            Some(("op", id)) => keys.access(url, Role::Operator, id)?,
            _ => bail!("nobody is {who}"),
        };
        let (options, _) = access.options(PAUSES, |_| std::future::ready(()))?;
        let client = options
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(3))
            .connect(access.servers()?)
            .await
            .context("connect a caller")?;
        Ok(Self {
            who,
            client,
            tongue,
            history,
        })
    }

    /// Notes the updates of a driver's sessions, until the connection is closed.
    pub async fn listen(self, driver: String) -> Result<()> {
        let subject = format!("ev.v1.watch.{driver}.*");
        let mut updates = self.client.subscribe(subject).await?;
        while let Some(message) = updates.next().await {
            let body = decode(&message);
            self.history.note(Event::Update {
                driver: driver.clone(),
                body,
            });
        }
        Ok(())
    }

    /// One attempt. None: no answer in time.
    pub async fn ask(&self, verb: &str, body: &Value) -> Option<Value> {
        let ask = self.history.number();
        self.history.note(Event::Asked {
            ask,
            who: self.who.clone(),
            verb: verb.into(),
            body: body.clone(),
        });
        match self.attempt(verb, body).await {
            Ok(answer) => {
                self.history.note(Event::Answered {
                    ask,
                    body: answer.clone(),
                });
                Some(answer)
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.history.note(Event::Silence { ask, why });
                None
            }
        }
    }

    async fn attempt(&self, verb: &str, body: &Value) -> Result<Value> {
        let mut headers = HeaderMap::new();
        let payload = match self.tongue {
            Tongue::Json => {
                headers.insert("Content-Type", "application/json");
                serde_json::to_vec(body)?
            }
            Tongue::MsgPack => rmp_serde::to_vec_named(body)?,
        };
        let subject = format!("ev.v1.{}.{verb}", self.who);
        let asked = self
            .client
            .request_with_headers(subject, headers, payload.into());
        let reply = timeout(ATTEMPT, asked)
            .await
            .context("no answer in time")??;
        Ok(decode(&reply))
    }

    /// Attempts until there is a definite answer, at most so many.
    pub async fn insist(&self, verb: &str, body: &Value, attempts: u32) -> Option<Value> {
        for _ in 0..attempts {
            match self.ask(verb, body).await {
                Some(answer) if is_definite(&answer) => return Some(answer),
                Some(answer) => {
                    let wait = answer["error"]["retry_after_ms"].as_u64().unwrap_or(200);
                    tokio::time::sleep(Duration::from_millis(wait.min(2_000))).await;
                }
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        None
    }
}

/// Whether an answer says something about the wish. Listings always do.
pub fn is_definite(answer: &Value) -> bool {
    answer["status"] != "unknown"
}

fn decode(message: &async_nats::Message) -> Value {
    let is_json = message
        .headers
        .as_ref()
        .and_then(|h| h.get("Content-Type"))
        .is_some_and(|value| value.as_str().starts_with("application/json"));
    let read = if is_json {
        serde_json::from_slice(&message.payload).map_err(|e| e.to_string())
    } else {
        rmp_serde::from_slice(&message.payload).map_err(|e| e.to_string())
    };
    read.unwrap_or_else(|why| serde_json::json!({ "unreadable": why }))
}
