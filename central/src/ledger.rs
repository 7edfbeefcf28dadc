//! The ledger's stream: appending frames and reading what was appended.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{
    connection::State,
    jetstream::{
        self,
        consumer::{DeliverPolicy, push},
        response::Response,
        stream,
    },
};
use bytes::Bytes;
use central_core::frame::{Decoded, Decoder, UnreadableFrame};
use ev_contract::{
    streams::{self, StreamDef},
    subjects,
    time::UnixMs,
};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// How long one append waits for its acknowledgement before it is repeated. An fsync takes well
/// under a second, an election of a stream leader a few.
const ACK_WAIT: Duration = Duration::from_secs(3);
/// Between two appends of one frame; grows to the second.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Between two looks whether the connection is back.
const CONNECTION_LOOK: Duration = Duration::from_millis(20);

/// Messages read and not yet applied. The server pauses beyond. Of full frames these are 64 MiB.
pub const READ_AHEAD: usize = 128;
/// Messages that are decoded together on another thread: enough that handing them over costs
/// nothing beside decoding them.
const DECODED_AT_ONCE: usize = 32;

/// Creates a stream or checks one that is there.
///
/// # Errors
/// When it cannot be created, or is there and can be shortened although it must not be.
pub async fn ensure(
    js: &jetstream::Context,
    def: &StreamDef,
    replicas: usize,
) -> anyhow::Result<stream::Stream> {
    let config = stream::Config {
        name: def.name.into(),
        subjects: def.subjects.iter().map(|s| (*s).to_owned()).collect(),
        max_bytes: def.bytes_max,
        max_message_size: def.message_bytes_max,
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        allow_direct: false,
        deny_delete: def.append_only,
        deny_purge: def.append_only,
        compression: def.compressed.then_some(stream::Compression::S2),
        description: Some(def.description.into()),
        duplicate_window: Duration::from_secs(def.duplicates_s),
        ..stream::Config::default()
    };
    let stream = js
        .get_or_create_stream(config)
        .await
        .with_context(|| format!("creating stream {}", def.name))?;
    let there = &stream.cached_info().config;
    anyhow::ensure!(
        !def.append_only || (there.deny_delete && there.deny_purge),
        "stream {} lets messages be removed: deny_delete and deny_purge must be set",
        def.name
    );
    Ok(stream)
}

/// What happened to an append.
#[derive(Debug)]
pub struct Acked {
    /// Which frame.
    pub frame: uuid::Uuid,
    /// Where a copy of it stands.
    pub seq: u64,
}

/// Appends a frame of a [kind](ev_crash::FRAME_KINDS), again and again until a copy is
/// acknowledged. Never concludes that a copy did not land. The engine ends this task when it has applied a copy.
pub async fn append(
    client: async_nats::Client,
    js: jetstream::Context,
    frame: uuid::Uuid,
    kind: &'static str,
    bytes: Bytes,
    acked: mpsc::Sender<Acked>,
    metrics: Arc<Metrics>,
) {
    let mut wait = RETRY_FIRST;
    loop {
        // Copies that are sent while the connection is down are not lost: all of them would land
        // when it is back.
        while client.connection_state() != State::Connected {
            tokio::time::sleep(CONNECTION_LOOK).await;
        }
        ev_crash::reach("append", kind);
        let attempt = async {
            js.publish(subjects::LEDGER, bytes.clone())
                .await
                .context("sending")?
                .await
                .context("acknowledging")
        };
        let error = match tokio::time::timeout(ACK_WAIT, attempt).await {
            Ok(Ok(ack)) => {
                ev_crash::reach("appended", kind);
                // The engine may have ended.
                let _ = acked
                    .send(Acked {
                        frame,
                        seq: ack.sequence,
                    })
                    .await;
                return;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no acknowledgement within {} s", ACK_WAIT.as_secs()),
        };
        metrics.append_retried();
        tracing::warn!(error, "frame not acknowledged; appending it again");
        tokio::time::sleep(wait + wait.mul_f64(rand::random::<f64>())).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// A message of the ledger.
#[derive(Debug)]
pub struct Entry {
    /// Its sequence.
    pub seq: u64,
    /// What it holds.
    pub bytes: Bytes,
    /// When it landed, by the server's clock. Nothing is decided by it.
    pub landed_at: UnixMs,
    /// The same, where it was decoded ahead.
    pub decoded: Option<Result<Decoded, UnreadableFrame>>,
}

/// Reads the ledger from a sequence on, for ever, in order. Up to `ahead` it is decoded on another
/// thread while the engine applies what came before: what comes later is mostly the engine's own, and
/// known to it.
pub async fn read(
    client: async_nats::Client,
    stream: stream::Stream,
    mut from: u64,
    ahead: u64,
    entries: mpsc::Sender<Entry>,
) {
    loop {
        match read_once(&client, &stream, &mut from, ahead, &entries).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), from, "reading the ledger again");
                tokio::time::sleep(RETRY_FIRST.mul_f64(1.0 + rand::random::<f64>())).await;
            }
        }
    }
}

async fn read_once(
    client: &async_nats::Client,
    stream: &stream::Stream,
    from: &mut u64,
    ahead: u64,
    entries: &mpsc::Sender<Entry>,
) -> anyhow::Result<()> {
    let consumer = stream
        .create_consumer(push::OrderedConfig {
            deliver_subject: client.new_inbox(),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: *from,
            },
            ..push::OrderedConfig::default()
        })
        .await
        .context("creating the reader")?;
    let messages = consumer.messages().await.context("subscribing")?;
    let mut chunks = messages.ready_chunks(DECODED_AT_ONCE);
    let mut decoder = Decoder::default();
    while let Some(chunk) = chunks.next().await {
        let mut read = Vec::with_capacity(chunk.len());
        let (mut next, mut broken) = (*from, None);
        for message in chunk {
            match message.context("reading").and_then(entry) {
                Ok(entry) if entry.seq < next => {}
                Ok(entry) => {
                    next = entry.seq + 1;
                    read.push(entry);
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        if read.first().is_some_and(|first| first.seq <= ahead) {
            let decoding = tokio::task::spawn_blocking(move || {
                for entry in &mut read {
                    entry.decoded = Some(decoder.decode(&entry.bytes));
                }
                (decoder, read)
            });
            (decoder, read) = decoding.await.context("decoding")?;
        }
        for entry in read {
            *from = entry.seq + 1;
            if entries.send(entry).await.is_err() {
                return Ok(());
            }
        }
        if let Some(error) = broken {
            return Err(error);
        }
    }
    anyhow::bail!("the reader ended")
}

fn entry(message: jetstream::Message) -> anyhow::Result<Entry> {
    let info = message
        .info()
        .map_err(|e| anyhow::anyhow!("{e}"))
        .context("reading a message's position")?;
    let (seq, landed_ms) = (
        info.stream_sequence,
        info.published.unix_timestamp_nanos() / 1_000_000,
    );
    Ok(Entry {
        seq,
        landed_at: UnixMs(i64::try_from(landed_ms).unwrap_or_default()),
        bytes: message.message.payload,
        decoded: None,
    })
}

/// What the server says of the ledger. It may be stale: only what can never become true by being
/// old counts as evidence.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The last sequence.
    pub last: u64,
    /// How many messages up to there are gone. None ever goes by itself.
    pub removed: u64,
    /// The server's time when it answered.
    pub at: UnixMs,
}

/// Asks for the ledger's extent, and so for the server's time.
///
/// # Errors
/// When the server does not answer.
pub async fn extent(js: &jetstream::Context) -> anyhow::Result<Extent> {
    /// What async-nats has, and the time, which it leaves out.
    #[derive(serde::Deserialize)]
    struct Info {
        state: stream::State,
        ts: String,
    }
    let subject = format!("STREAM.INFO.{}", streams::LEDGER.name);
    let answer = js
        .request(subject, &serde_json::json!({}))
        .await
        .context("asking for the ledger's extent")?;
    let Info { state, ts } = match answer {
        Response::Ok(info) => info,
        Response::Err { error } => return Err(error).context("asking for the ledger's extent"),
    };
    let at: jiff::Timestamp = ts.parse().context("reading the server's time")?;
    Ok(Extent {
        last: state.last_sequence,
        removed: state.last_sequence.saturating_sub(state.messages),
        at: UnixMs(at.as_millisecond()),
    })
}
