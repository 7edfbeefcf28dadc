//! What leaves: replies, updates. A publish waits while the connection is down; the engine must not.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use ev_contract::wire::{self, CONTENT_TYPE, CONTENT_TYPE_JSON, Encoding};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Messages that wait for the connection. At the bound the newest is dropped and counted: whoever
/// waits for a reply repeats, and watchers poll.
const OUT_MAX: usize = 65_536;
/// How long one publish may take before it counts as dropped.
const PUBLISH_WAIT: Duration = Duration::from_secs(2);
/// How long a shutdown waits for what is on its way.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Message {
    subject: String,
    payload: Bytes,
    encoding: Encoding,
}

/// Where outgoing messages are put.
#[derive(Debug, Clone)]
pub struct Out {
    queue: mpsc::Sender<Message>,
    metrics: Arc<Metrics>,
}

impl Out {
    /// Starts the task that publishes; it ends, flushed, when the last `Out` is dropped.
    #[must_use]
    pub fn start(
        client: async_nats::Client,
        metrics: Arc<Metrics>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, mut waiting) = mpsc::channel::<Message>(OUT_MAX);
        let counted = Arc::clone(&metrics);
        let task = tokio::spawn(async move {
            while let Some(message) = waiting.recv().await {
                let publish = async {
                    match message.encoding {
                        Encoding::MsgPack => client.publish(message.subject, message.payload).await,
                        Encoding::Json => {
                            let mut headers = HeaderMap::new();
                            headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
                            client
                                .publish_with_headers(message.subject, headers, message.payload)
                                .await
                        }
                    }
                };
                match tokio::time::timeout(PUBLISH_WAIT, publish).await {
                    Ok(Ok(())) => {
                        if ev_crash::ARMED {
                            // What has been sent is to have left before the end.
                            let _ = client.flush().await;
                            ev_crash::reach("sent", "one");
                        }
                    }
                    Ok(Err(error)) => {
                        counted.dropped();
                        tracing::debug!(%error, "message not published");
                    }
                    Err(_) => counted.dropped(),
                }
            }
            if tokio::time::timeout(FLUSH_WAIT, client.flush())
                .await
                .is_err()
            {
                tracing::warn!("shut down before everything was sent: not connected");
            }
        });
        (Self { queue, metrics }, task)
    }

    /// Sends a message.
    pub fn send<T: Serialize>(&self, subject: String, message: &T, encoding: Encoding) {
        match wire::encode(message, encoding) {
            Ok(payload) => {
                let message = Message {
                    subject,
                    payload: payload.into(),
                    encoding,
                };
                if self.queue.try_send(message).is_err() {
                    self.metrics.dropped();
                }
            }
            Err(error) => {
                self.metrics.dropped();
                tracing::error!(%error, %subject, "message cannot be encoded");
            }
        }
    }
}
