//! A stream's messages in order, from a server or from a file, without holding more than a few.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, push},
    stream,
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::records;

/// Messages that are read ahead; of the largest, 128 MiB.
const READ_AHEAD: usize = 128;
/// A server that sends nothing for so long while there is more to come has stopped.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A message of a stream.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seq: u64,
    /// When the server took it, in milliseconds since 1970.
    pub(super) at_ms: i64,
    pub(super) subject: String,
    pub(super) payload: Bytes,
}

/// Where messages come from.
#[derive(Debug)]
pub(super) struct Tape(mpsc::Receiver<anyhow::Result<Stored>>);

impl Tape {
    /// The next message; none at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Stored>> {
        self.0.recv().await.transpose()
    }

    /// Of a file of a backup.
    pub(super) fn of_file(path: PathBuf) -> Self {
        let (to, tape) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || {
            let read = records::read(&path, |stored| to.blocking_send(Ok(stored)).is_ok());
            if let Err(error) = read {
                // Whoever read may have ended.
                let _ = to.blocking_send(Err(error));
            }
        });
        Self(tape)
    }

    /// Of a stream, up to what is its last message now.
    pub(super) fn of_stream(nats: async_nats::Client, extent: Extent) -> Self {
        let (to, tape) = mpsc::channel(READ_AHEAD);
        tokio::spawn(async move {
            if let Err(error) = read(nats, &extent, &to).await {
                let error = error.context(format!("reading {}", extent.name));
                // Whoever read may have ended.
                let _ = to.send(Err(error)).await;
            }
        });
        Self(tape)
    }
}

/// A stream and how far it goes.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) name: String,
    pub(super) last: u64,
    pub(super) messages: u64,
    stream: stream::Stream,
}

impl Extent {
    /// Asks the server.
    pub(super) async fn ask(js: &jetstream::Context, name: &str) -> anyhow::Result<Self> {
        let stream = js
            .get_stream(name)
            .await
            .with_context(|| format!("asking for stream {name}"))?;
        let state = &stream.cached_info().state;
        Ok(Self {
            name: name.to_owned(),
            last: state.last_sequence,
            messages: state.messages,
            stream,
        })
    }
}

async fn read(
    nats: async_nats::Client,
    extent: &Extent,
    to: &mpsc::Sender<anyhow::Result<Stored>>,
) -> anyhow::Result<()> {
    if extent.messages == 0 {
        return Ok(());
    }
    let consumer = extent
        .stream
        .create_consumer(push::OrderedConfig {
            deliver_subject: nats.new_inbox(),
            deliver_policy: DeliverPolicy::All,
            ..push::OrderedConfig::default()
        })
        .await
        .context("creating the reader")?;
    let mut messages = consumer.messages().await.context("subscribing")?;
    loop {
        let message = tokio::time::timeout(SILENCE_MAX, messages.next())
            .await
            .context("the server sends no more")?
            .context("the reader ended")?
            .context("reading")?;
        let info = message.info().map_err(|e| anyhow::anyhow!("{e}"))?;
        let (seq, pending) = (info.stream_sequence, info.pending);
        if seq > extent.last {
            return Ok(());
        }
        let at_ns = info.published.unix_timestamp_nanos();
        let stored = Stored {
            seq,
            at_ms: i64::try_from(at_ns / 1_000_000).unwrap_or(i64::MAX),
            subject: message.message.subject.to_string(),
            payload: message.message.payload,
        };
        if to.send(Ok(stored)).await.is_err() || seq == extent.last || pending == 0 {
            return Ok(());
        }
    }
}
