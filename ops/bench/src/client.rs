//! The load client: one connection, one subscription for all answers, no task per request. An
//! answer is known by the last token of its subject, a counter. The library's own request
//! multiplexer wakes a task per request and would be what is measured.

use std::time::Instant;

use anyhow::{Context, Result};
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;

/// A question that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Where to.
    pub subject: async_nats::Subject,
    /// What.
    pub payload: Bytes,
    /// Headers, where there are any.
    pub headers: Option<HeaderMap>,
}

impl Shot {
    /// Without headers.
    #[must_use]
    pub fn new(subject: impl Into<String>, payload: Vec<u8>) -> Self {
        Self {
            subject: subject.into().into(),
            payload: payload.into(),
            headers: None,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// To which shot, as counted by [`LoadClient::send`].
    pub to: u64,
    /// When it was here.
    pub at: Instant,
    /// What it says.
    pub message: Message,
}

/// One connection that asks and hears.
#[derive(Debug)]
pub struct LoadClient {
    client: Client,
    answers: Subscriber,
    inbox: String,
    sent: u64,
}

impl LoadClient {
    /// Listens on an inbox of its own.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(client: Client) -> Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await?;
        client.flush().await?;
        Ok(Self {
            client,
            answers,
            inbox,
            sent: 0,
        })
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How the next shot will be counted.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.sent
    }

    /// Sends; the number that its answer will have.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, shot: Shot) -> Result<u64> {
        let number = self.sent;
        self.sent += 1;
        let reply = format!("{}.{number}", self.inbox);
        match shot.headers {
            None => {
                self.client
                    .publish_with_reply(shot.subject, reply, shot.payload)
                    .await?;
            }
            Some(headers) => {
                self.client
                    .publish_with_reply_and_headers(shot.subject, reply, headers, shot.payload)
                    .await?;
            }
        }
        Ok(number)
    }

    /// The next answer, whichever.
    ///
    /// # Errors
    /// When the connection is closed, or somebody else answers.
    pub async fn hear(&mut self) -> Result<Answer> {
        let message = self.answers.next().await.context("the inbox was closed")?;
        let at = Instant::now();
        let to = message
            .subject
            .rsplit('.')
            .next()
            .and_then(|token| token.parse().ok())
            .with_context(|| format!("an answer to {}", message.subject))?;
        Ok(Answer { to, at, message })
    }

    /// Asks and waits for that answer; others are passed over.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn ask(&mut self, shot: Shot) -> Result<Message> {
        let number = self.send(shot).await?;
        loop {
            let answer = self.hear().await?;
            if answer.to == number {
                return Ok(answer.message);
            }
        }
    }
}
