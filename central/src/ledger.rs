//! The ledger's stream: appending frames and reading what was appended.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{
    connection::State,
    jetstream::{
        self, ErrorCode,
        consumer::{DeliverPolicy, push},
        context::{GetStreamErrorKind, PublishError, PublishErrorKind},
        response::Response,
        stream,
    },
};
use bytes::Bytes;
use central_core::{
    frame::{Basis, Decoded, Decoder, Frame, UnreadableFrame},
    whole::{LedgerId, Shown},
};
use ev_contract::{
    ids::ReplicaId,
    streams::{self, StreamDef},
    subjects,
    time::UnixMs,
};
use futures::StreamExt;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{engine, metrics::Metrics};

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
    ensure_as(js, def, config_of(def, replicas)).await
}

async fn ensure_as(
    js: &jetstream::Context,
    def: &StreamDef,
    config: stream::Config,
) -> anyhow::Result<stream::Stream> {
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

fn config_of(def: &StreamDef, replicas: usize) -> stream::Config {
    stream::Config {
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
    }
}

/// A stream; none where the server says that there is none.
///
/// # Errors
/// When the server does not answer.
pub async fn find(js: &jetstream::Context, name: &str) -> anyhow::Result<Option<stream::Stream>> {
    match js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(error).with_context(|| format!("asking for stream {name}")),
        },
    }
}

/// What the server shows of a stream of the ledger's name.
///
/// # Errors
/// When the server does not answer.
pub async fn shown(stream: Option<&stream::Stream>) -> anyhow::Result<Shown> {
    let Some(stream) = stream else {
        return Ok(Shown::Absent);
    };
    let info = stream.cached_info();
    let extent = Extent::of(info);
    if extent.last == 0 {
        return Ok(Shown::Empty);
    }
    if extent.removed > 0 {
        return Ok(Shown::Holed {
            removed: extent.removed,
        });
    }
    // A message never changes: whoever has it may say what it is.
    let first = stream
        .get_raw_message(1)
        .await
        .context("reading the ledger's first message")?;
    let given_up = info.config.metadata.get(streams::GIVEN_UP);
    Ok(match LedgerId::of_first(&first.payload) {
        None => Shown::Nameless,
        Some(id) => Shown::Ledger {
            id,
            last: extent.last,
            given_up: given_up.and_then(|text| text.parse().ok()),
        },
    })
}

/// Makes the ledger, with a first frame that gives it its name. Two who do so at once make one ledger:
/// the first frame of the two counts, and the other one is empty.
///
/// # Errors
/// When the server does not take it. The stream may be there then, empty.
pub async fn begin(
    js: &jetstream::Context,
    replicas: usize,
    by: ReplicaId,
    given_up: Option<Uuid>,
) -> anyhow::Result<LedgerId> {
    let mut config = config_of(&streams::LEDGER, replicas);
    if let Some(decision) = given_up {
        let decision = decision.to_string();
        config
            .metadata
            .insert(streams::GIVEN_UP.to_owned(), decision);
    }
    ensure_as(js, &streams::LEDGER, config).await?;
    ev_crash::reach("prepared", "ledger");
    let frame = Frame {
        id: Uuid::now_v7(),
        by,
        basis: Basis::default(),
        at: engine::wall(),
        records: Vec::new(),
    };
    js.publish(subjects::LEDGER, frame.encode().into())
        .await
        .context("sending the ledger's first frame")?
        .await
        .context("acknowledging the ledger's first frame")?;
    Ok(LedgerId(frame.id))
}

/// What happened to an append.
#[derive(Debug)]
pub struct Told {
    /// Of which frame.
    pub frame: Uuid,
    /// What.
    pub what: Append,
}

/// What the server said to an append.
#[derive(Debug)]
pub enum Append {
    /// A copy stands at this sequence.
    Acked(u64),
    /// There is no room, in the server's words. It is tried again.
    Full(String),
    /// Nobody keeps the ledger's subject. It is tried again.
    NoStream,
}

impl Append {
    /// What an error means beyond that it is tried again.
    fn of(error: &PublishError) -> Option<Self> {
        if error.kind() == PublishErrorKind::StreamNotFound {
            return Some(Self::NoStream);
        }
        let said = std::error::Error::source(error)?.downcast_ref::<jetstream::Error>()?;
        let full = [
            ErrorCode::STREAM_STORE_FAILED,
            ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ErrorCode::INSUFFICIENT_RESOURCES,
        ];
        full.contains(&said.error_code())
            .then(|| Self::Full(said.to_string()))
    }
}

/// Appends a frame of a [kind](ev_crash::FRAME_KINDS), again and again until a copy is
/// acknowledged. Never concludes that a copy did not land. The engine ends this task when it has applied a copy.
pub async fn append(
    client: async_nats::Client,
    js: jetstream::Context,
    frame: Uuid,
    kind: &'static str,
    bytes: Bytes,
    told: mpsc::Sender<Told>,
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
        let attempt = async { js.publish(subjects::LEDGER, bytes.clone()).await?.await };
        let (error, what) = match tokio::time::timeout(ACK_WAIT, attempt).await {
            Ok(Ok(ack)) => {
                ev_crash::reach("appended", kind);
                let what = Append::Acked(ack.sequence);
                // The engine may have ended.
                let _ = told.send(Told { frame, what }).await;
                return;
            }
            Ok(Err(error)) => {
                let what = Append::of(&error);
                (format!("{:#}", anyhow::Error::from(error)), what)
            }
            Err(_) => (
                format!("no acknowledgement within {} s", ACK_WAIT.as_secs()),
                None,
            ),
        };
        metrics.append_retried();
        tracing::warn!(error, "frame not acknowledged; appending it again");
        if let Some(what) = what {
            // The engine may have ended.
            let _ = told.send(Told { frame, what }).await;
        }
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

/// What the server says of a stream. It may be stale: only what can never become true by being old, or
/// stays, counts as evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The last sequence.
    pub last: u64,
    /// How many messages up to there are gone. None ever goes by itself.
    pub removed: u64,
    /// When the stream was made, in nanoseconds since 1970; another one of the same name was made at
    /// another time.
    pub created_ns: i128,
}

impl Extent {
    /// What a stream's information says.
    #[must_use]
    pub fn of(info: &stream::Info) -> Self {
        let state = &info.state;
        Self {
            last: state.last_sequence,
            removed: state.last_sequence.saturating_sub(state.messages),
            created_ns: info.created.unix_timestamp_nanos(),
        }
    }
}

/// Asks for the ledger's extent, and so for the server's time; none where there is no ledger.
///
/// # Errors
/// When the server does not answer.
pub async fn extent(js: &jetstream::Context) -> anyhow::Result<Option<(Extent, UnixMs)>> {
    /// What async-nats has, and the time, which it leaves out.
    #[derive(serde::Deserialize)]
    struct Told {
        #[serde(flatten)]
        info: stream::Info,
        ts: String,
    }
    let subject = format!("STREAM.INFO.{}", streams::LEDGER.name);
    let answer = js
        .request(subject, &serde_json::json!({}))
        .await
        .context("asking for the ledger's extent")?;
    let Told { info, ts } = match answer {
        Response::Ok(told) => told,
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            return Ok(None);
        }
        Response::Err { error } => return Err(error).context("asking for the ledger's extent"),
    };
    let at: jiff::Timestamp = ts.parse().context("reading the server's time")?;
    Ok(Some((Extent::of(&info), UnixMs(at.as_millisecond()))))
}
