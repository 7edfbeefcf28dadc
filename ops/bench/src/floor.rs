//! What the machine and the server set: nothing durable can be faster on them.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use ev_contract::streams::{LEDGER, StreamDef};
use serde::Deserialize;

use crate::{
    client::{LoadClient, Shot},
    hub::Hub,
    load::{Closed, Outcome, closed},
};

/// The stream of the floors, beside the ledger and like it.
const STREAM: &str = "EV_BENCH";
const SUBJECT: &str = "bench.append";
/// The server sets the limits of all streams aside at once, and there is not much beside ours.
const BYTES_MAX: i64 = 8 * 1024 * 1024 * 1024;

/// A stream with the ledger's settings on the ledger's servers.
///
/// # Errors
/// When it cannot be made.
pub async fn stream(hub: &Hub) -> Result<()> {
    let def: StreamDef = LEDGER;
    let config = jetstream::stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        max_bytes: BYTES_MAX,
        max_message_size: def.message_bytes_max,
        discard: jetstream::stream::DiscardPolicy::New,
        storage: jetstream::stream::StorageType::File,
        num_replicas: hub.servers.replicas(),
        allow_direct: false,
        duplicate_window: std::time::Duration::from_secs(def.duplicates_s),
        ..jetstream::stream::Config::default()
    };
    hub.jetstream()
        .get_or_create_stream(config)
        .await
        .context("make a stream for the floor")?;
    Ok(())
}

/// Empties it: a bench does not fill the disk.
///
/// # Errors
/// When that fails.
pub async fn purge(hub: &Hub) -> Result<()> {
    hub.jetstream()
        .get_stream(STREAM)
        .await?
        .purge()
        .await
        .context("empty the floor's stream")?;
    Ok(())
}

/// Appends of messages of one size, each acknowledged from the disk.
///
/// # Errors
/// When one is not acknowledged.
pub async fn appends(
    client: &mut LoadClient,
    bytes: usize,
    count: usize,
    how: Closed,
) -> Result<Outcome> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
    }
    let shots = vec![Shot::new(SUBJECT, vec![b'.'; bytes]); count];
    let outcome = closed(client, &shots, how, || {}).await?;
    ensure!(outcome.lost == 0, "{} appends had no answer", outcome.lost);
    for heard in &outcome.all {
        let ack: Ack = serde_json::from_slice(&heard.bytes)
            .with_context(|| format!("an append got {}", String::from_utf8_lossy(&heard.bytes)))?;
        ensure!(ack.seq > 0, "an append without a place");
    }
    Ok(outcome)
}

/// Bytes and messages of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct LedgerSize {
    /// Messages: frames.
    pub frames: u64,
    /// Bytes, with the server's own about each message.
    pub bytes: u64,
}

/// How large the ledger is.
///
/// # Errors
/// When it is not there.
pub async fn ledger(hub: &Hub) -> Result<LedgerSize> {
    let mut stream = hub.jetstream().get_stream(LEDGER.name).await?;
    let state = &stream.info().await?.state;
    Ok(LedgerSize {
        frames: state.messages,
        bytes: state.bytes,
    })
}

impl LedgerSize {
    /// The mean size of the frames that came since.
    #[must_use]
    pub fn mean_since(self, before: Self) -> usize {
        let frames = (self.frames - before.frames).max(1);
        usize::try_from((self.bytes - before.bytes) / frames).unwrap_or(0)
    }
}
