//! Writing down who was refused and whose connection was closed. Each event reaches one replica.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use futures::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{sync::watch, time::timeout};

use super::{
    DISCONNECTS, QUEUE, REFUSALS,
    events::{self, Event},
    token::{self, Accounts, Judged, KICKED, Token},
};
use crate::{
    Config,
    audit::{Audit, entry},
    metrics::Metrics,
};

/// Between two looks at the accounts, when somebody is refused who should not be by what is known.
/// A flood of strangers costs so much and no more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One answer of a server.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Accounts that are looked at. There are five.
const ACCOUNTS_MAX: usize = 16;
/// So much of what a client says of itself is quoted.
const QUOTED_CHARS_MAX: usize = 40;

/// What is needed to write down.
pub struct Recorder {
    client: Client,
    configs: watch::Receiver<Config>,
    audit: Audit,
    metrics: Arc<Metrics>,
    accounts: Accounts,
    looked: Option<Instant>,
}

#[derive(Deserialize)]
struct AccountList {
    data: Vec<String>,
}

impl Recorder {
    /// A recorder that knows no account yet.
    #[must_use]
    pub fn new(
        client: Client,
        configs: watch::Receiver<Config>,
        audit: Audit,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            configs,
            audit,
            metrics,
            accounts: Accounts::default(),
            looked: None,
        }
    }

    /// Records until the connection is closed.
    ///
    /// # Errors
    /// When nothing can be subscribed to.
    pub async fn run(mut self) -> Result<(), async_nats::SubscribeError> {
        let queue = || QUEUE.to_owned();
        let mut ends = self.client.queue_subscribe(DISCONNECTS, queue()).await?;
        let mut refusals = self.client.queue_subscribe(REFUSALS, queue()).await?;
        loop {
            tokio::select! {
                Some(message) = ends.next() => {
                    if let Some(event) = Event::read(&message.payload) {
                        self.ended(&event);
                    }
                }
                Some(message) = refusals.next() => {
                    if let Some(event) = Event::read(&message.payload) {
                        self.refused(&event).await;
                    }
                }
                else => return Ok(()),
            }
        }
    }

    fn ended(&self, event: &Event) {
        // Whoever was never let in was refused, which is said by another event.
        let Some(token) = Token::read(&event.client.jwt) else {
            return;
        };
        let Some(role) = events::role(&event.client.name_tag, &token) else {
            return;
        };
        let (label, is_written) = token::closing(&event.reason);
        self.metrics.connection_closed(label);
        let is_kick = event.reason == KICKED;
        if is_kick {
            self.metrics.connection_kicked();
        }
        if !is_written {
            return;
        }
        let why = match self.configs.borrow().connections.of(role) {
            Some(limit) if is_kick => {
                format!("closed by a doorkeeper: {limit} may be open at once")
            }
            _ => event.reason.to_lowercase(),
        };
        let verb = if is_kick { "kicked" } else { "closed" };
        let detail = format!("{role}: {why}{}", said_by(event));
        let draft = entry::connection(verb, token.name, Some(&token.key));
        self.audit.refused(&draft, None, &detail);
    }

    async fn refused(&mut self, event: &Event) {
        let (refusal, shown) = self.judge(event).await;
        self.metrics.connection_refused(refusal.as_str());
        let why = refusal.words();
        let (draft, whose) = match shown {
            Some((token, Some(role))) => (
                entry::connection("refused", token.name, Some(&token.key)),
                role.to_string(),
            ),
            Some((token, None)) => (
                entry::connection("refused", None, None),
                format!(
                    "somebody who says \"{} {}\"",
                    quoted(token.role.as_deref().unwrap_or_default()),
                    quoted(token.name.as_deref().unwrap_or_default())
                ),
            ),
            None => (entry::connection("refused", None, None), "somebody".into()),
        };
        let detail = format!("{whose}: {why}{}", said_by(event));
        self.audit.refused(&draft, None, &detail);
    }

    /// Why somebody was refused, by the accounts as they are after the refusal.
    async fn judge(&mut self, event: &Event) -> Judged {
        let at = event.timestamp.unwrap_or_else(Timestamp::now).as_second();
        let judged = token::judge(&event.client.jwt, &self.accounts, at);
        let is_due = self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if !judged.0.may_change() || !is_due {
            return judged;
        }
        self.looked = Some(Instant::now());
        if let Err(error) = self.look().await {
            tracing::warn!(error = %format!("{error:#}"), "the servers do not tell their accounts");
            return judged;
        }
        token::judge(&event.client.jwt, &self.accounts, at)
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let list = self.ask("$SYS.REQ.CLAIMS.LIST".into()).await?;
        let list: AccountList = serde_json::from_slice(&list)?;
        for account in list.data.into_iter().take(ACCOUNTS_MAX) {
            let text = self
                .ask(format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"))
                .await?;
            if !self
                .accounts
                .take(&account, &String::from_utf8_lossy(&text))
            {
                tracing::debug!(account, "an account's token cannot be read");
            }
        }
        Ok(())
    }

    async fn ask(&self, subject: String) -> anyhow::Result<bytes::Bytes> {
        let answer = timeout(ANSWER_WAIT, self.client.request(subject, "".into())).await??;
        Ok(answer.payload)
    }
}

/// From where it came, as the server says, and what the client calls itself.
fn said_by(event: &Event) -> String {
    let host = quoted(&event.client.host);
    match quoted(&event.client.name) {
        name if name.is_empty() => format!("; from {host}"),
        name => format!("; from {host}, calls itself \"{name}\""),
    }
}

/// Somebody's words: short, and nothing in them that a terminal or a reader could take for ours.
fn quoted(words: &str) -> String {
    words
        .chars()
        .take(QUOTED_CHARS_MAX)
        .map(|c| match c {
            ' '..='~' if c != '"' && c != '\\' => c,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebodys_words_are_cut_and_cannot_look_like_ours() {
        assert_eq!(
            quoted("a\u{1b}[2Jb\"; from 1.2.3.4"),
            "a?[2Jb?; from 1.2.3.4"
        );
        assert_eq!(quoted("\u{202e}evil\n"), "?evil?");
        assert_eq!(quoted(&"x".repeat(5_000)).len(), QUOTED_CHARS_MAX);
    }
}
