//! What leaves: answers by one connection; updates and commands by another, since the server takes
//! what comes by one in turn, and whoever asked would wait for them. A publish waits while the
//! connection is down; the engine must not.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use ev_contract::wire::{self, CONTENT_TYPE, CONTENT_TYPE_JSON, Encoding};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    held::{Held, OUT_BYTES_MAX, Share},
    metrics::Metrics,
};

/// Messages that wait for the connection, of at most [`OUT_BYTES_MAX`] together. At either bound
/// the newest is dropped and counted: whoever waits for a reply repeats, and watchers poll.
const OUT_MAX: usize = 65_536;
/// Refusals of floods that wait. They go when nothing else does, and those beyond are dropped and
/// counted: a flood is answered as far as that costs nobody else anything.
const REFUSALS_MAX: usize = 4_096;
/// Messages taken from the queue together: each taking wakes somebody up.
const TAKEN_AT_ONCE_MAX: usize = 256;
/// How long one publish may take before it counts as dropped.
const PUBLISH_WAIT: Duration = Duration::from_secs(2);
/// Handed to the client library, which does not count bytes, before it is asked whether they are
/// written.
const UNFLUSHED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a shutdown waits for what is on its way.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Message {
    subject: String,
    /// Where an answer is to go, if one is wanted.
    reply: Option<String>,
    payload: Bytes,
    encoding: Encoding,
    _held: Held,
}

/// Where outgoing messages are put.
#[derive(Debug, Clone)]
pub struct Out {
    answers: mpsc::Sender<Message>,
    refusals: mpsc::Sender<Message>,
    outward: mpsc::Sender<Message>,
    share: Share,
    metrics: Arc<Metrics>,
}

impl Out {
    /// Starts the tasks that publish; they end, flushed, when the last `Out` is dropped.
    #[must_use]
    pub fn start(
        answering: async_nats::Client,
        outward: async_nats::Client,
        metrics: Arc<Metrics>,
    ) -> (Self, [JoinHandle<()>; 2]) {
        let (answers, answered) = mpsc::channel(OUT_MAX);
        let (refusals, refused) = mpsc::channel(REFUSALS_MAX);
        let (others, other) = mpsc::channel(OUT_MAX);
        let tasks = [
            tokio::spawn(leave(
                answering,
                answered,
                Some(refused),
                Arc::clone(&metrics),
            )),
            tokio::spawn(leave(outward, other, None, Arc::clone(&metrics))),
        ];
        let out = Self {
            answers,
            refusals,
            outward: others,
            share: Share::new(OUT_BYTES_MAX),
            metrics,
        };
        (out, tasks)
    }

    /// Asks somebody something in MessagePack; the answer goes to `reply`.
    pub fn ask<T: Serialize>(&self, subject: String, reply: String, message: &T) {
        let reply = Some(reply);
        self.put(&self.outward, subject, reply, message, Encoding::MsgPack);
    }

    /// Tells those who watch.
    pub fn update<T: Serialize>(&self, subject: String, message: &T, encoding: Encoding) {
        self.put(&self.outward, subject, None, message, encoding);
    }

    /// Answers.
    pub fn send<T: Serialize>(&self, subject: String, message: &T, encoding: Encoding) {
        self.put(&self.answers, subject, None, message, encoding);
    }

    /// Answers with what is encoded.
    pub fn send_bytes(&self, subject: String, payload: Bytes, encoding: Encoding) {
        self.put_bytes(&self.answers, subject, None, payload, encoding);
    }

    /// Sends the refusal of one message of a flood, if there is nothing better to do.
    pub fn refuse<T: Serialize>(&self, subject: String, message: &T, encoding: Encoding) {
        if self.refusals.capacity() == 0 {
            self.metrics.dropped();
        } else {
            self.put(&self.refusals, subject, None, message, encoding);
        }
    }

    fn put<T: Serialize>(
        &self,
        queue: &mpsc::Sender<Message>,
        subject: String,
        reply: Option<String>,
        message: &T,
        encoding: Encoding,
    ) {
        match wire::encode(message, encoding) {
            Ok(payload) => self.put_bytes(queue, subject, reply, payload.into(), encoding),
            Err(error) => {
                self.metrics.dropped();
                tracing::error!(%error, %subject, "message cannot be encoded");
            }
        }
    }

    fn put_bytes(
        &self,
        queue: &mpsc::Sender<Message>,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
        encoding: Encoding,
    ) {
        let sent = self
            .share
            .hold(payload.len() + subject.len())
            .is_some_and(|held| {
                let message = Message {
                    subject,
                    reply,
                    payload,
                    encoding,
                    _held: held,
                };
                queue.try_send(message).is_ok()
            });
        if !sent {
            self.metrics.dropped();
        }
    }
}

/// Publishes what waits until nobody can add to it; refusals when nothing else does.
async fn leave(
    client: async_nats::Client,
    mut waiting: mpsc::Receiver<Message>,
    mut refused: Option<mpsc::Receiver<Message>>,
    metrics: Arc<Metrics>,
) {
    let mut unflushed = 0;
    let mut batch = Vec::with_capacity(TAKEN_AT_ONCE_MAX);
    loop {
        let refusal = async {
            match &mut refused {
                Some(refused) => refused.recv().await,
                None => None,
            }
        };
        tokio::select! {
            biased;
            Some(message) = waiting.recv() => {
                batch.push(message);
                while batch.len() < TAKEN_AT_ONCE_MAX
                    && let Ok(message) = waiting.try_recv()
                {
                    batch.push(message);
                }
            }
            Some(message) = refusal => batch.push(message),
            else => break,
        }
        for message in batch.drain(..) {
            unflushed += message.payload.len();
            let flush = unflushed > UNFLUSHED_BYTES_MAX;
            if flush {
                unflushed = 0;
            }
            let published = publish(&client, message, flush);
            match tokio::time::timeout(PUBLISH_WAIT, published).await {
                Ok(Ok(())) => {
                    if ev_crash::ARMED {
                        // What has been sent is to have left before the end.
                        let _ = client.flush().await;
                        ev_crash::reach("sent", "one");
                    }
                }
                Ok(Err(error)) => {
                    metrics.dropped();
                    tracing::debug!(%error, "message not published");
                }
                Err(_) => metrics.dropped(),
            }
        }
    }
    if tokio::time::timeout(FLUSH_WAIT, client.flush())
        .await
        .is_err()
    {
        tracing::warn!("shut down before everything was sent: not connected");
    }
}

async fn publish(
    client: &async_nats::Client,
    message: Message,
    flush: bool,
) -> Result<(), async_nats::Error> {
    match (message.reply, message.encoding) {
        (Some(reply), _) => {
            client
                .publish_with_reply(message.subject, reply, message.payload)
                .await?;
        }
        (None, Encoding::MsgPack) => client.publish(message.subject, message.payload).await?,
        (None, Encoding::Json) => {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
            client
                .publish_with_headers(message.subject, headers, message.payload)
                .await?;
        }
    }
    if flush {
        client.flush().await?;
    }
    Ok(())
}
