//! `central backup`: copies the streams of a running system into a folder.
//!
//! Receipts are copied before the ledger: a receipt is written only when the ledger has its session's
//! end, so that the copy of the ledger knows every receipt of the copy. Those that the copy lacks are
//! still in the state, and central copies them when it starts from the backup; forgetting takes days,
//! and whether it came between is looked at before the backup counts as good. Snapshots are left out:
//! the ledger has everything, and one that is newer than the copied ledger would be another history.

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use async_nats::StatusCode;
use ev_contract::streams;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    manifest::{self, Manifest, StreamCopy},
    progress::Progress,
    tape::Tape,
    wall,
};

/// In the order in which they are copied.
pub(super) const STREAMS: [&str; 4] = [
    streams::CDR.name,
    streams::LEDGER.name,
    streams::AUDIT.name,
    streams::UPTIME.name,
];
/// What the server sends at once; it goes on when that is taken.
const CHUNK_BYTES: usize = 128 * 1024;
/// Before the first chunk the server may have to read much.
const CHUNK_WAIT: Duration = Duration::from_secs(120);

/// Copies everything into a new folder.
///
/// # Errors
/// When it cannot; the folder is not there then.
pub(super) async fn run(nats: &async_nats::Client, to: &Path) -> anyhow::Result<Manifest> {
    ensure!(
        !to.exists(),
        "{} is there; name a folder that is not, a backup never overwrites anything",
        to.display()
    );
    let name = to.file_name().context("name a folder for the backup")?;
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut partial = name.to_owned();
    partial.push(".partial");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .with_context(|| format!("making {}", parent.display()))?;
    let partial = Partial(parent.join(partial));
    make_folder(&partial.0)?;
    let mut copies = Vec::new();
    for stream in STREAMS {
        copies.push(copy(nats, stream, &partial.0).await?);
    }
    let manifest = Manifest::new(copies);
    manifest.write(&partial.0)?;
    std::fs::rename(&partial.0, to).with_context(|| format!("making {}", to.display()))?;
    manifest::sync_folder(parent)?;
    Ok(manifest)
}

/// Removed unless it got its name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there any more when all went well.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        // Of one that was killed.
        std::fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))?;
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making {}", path.display()))
}

async fn copy(nats: &async_nats::Client, stream: &str, dir: &Path) -> anyhow::Result<StreamCopy> {
    let file = format!("{stream}.natsarc.s2");
    let path = dir.join(&file);
    let begun_at_ms = wall();
    let (said, bytes) = fetch(nats, stream, &path)
        .await
        .with_context(|| format!("copying {stream}"))?;
    let mut copy = StreamCopy {
        name: stream.to_owned(),
        file,
        bytes,
        begun_at_ms: begun_at_ms.0,
        messages: 0,
        first_seq: 0,
        last_seq: 0,
        config: said["config"].clone(),
        state: said["state"].clone(),
    };
    // What was written meanwhile may be in it: what counts is what can be read.
    let mut tape = Tape::of_file(path);
    while let Some(stored) = tape.next().await? {
        copy.messages += 1;
        if copy.first_seq == 0 {
            copy.first_seq = stored.seq;
        }
        copy.last_seq = stored.seq;
    }
    let promised = said["state"]["messages"].as_u64().unwrap_or(0);
    ensure!(
        copy.messages >= promised,
        "the copy of {stream} has {} messages, the server said {promised}",
        copy.messages
    );
    Ok(copy)
}

/// Has the server send a copy of a stream. Its answer, and how many bytes came.
async fn fetch(
    nats: &async_nats::Client,
    stream: &str,
    path: &Path,
) -> anyhow::Result<(Value, u64)> {
    let inbox = nats.new_inbox();
    let mut chunks = nats.subscribe(inbox.clone()).await.context("listening")?;
    let wish = json!({
        "deliver_subject": inbox,
        "no_consumers": true,
        "chunk_size": CHUNK_BYTES,
    });
    let said = ask(nats, format!("$JS.API.STREAM.SNAPSHOT.{stream}"), &wish).await?;
    let writing = || format!("writing {}", path.display());
    let mut file = tokio::fs::File::from_std(manifest::create(path).with_context(writing)?);
    let mut progress = Progress::of(format!("copying {stream}"));
    let mut bytes = 0_u64;
    loop {
        let chunk = tokio::time::timeout(CHUNK_WAIT, chunks.next())
            .await
            .context("the server sends no more")?
            .context("the connection ended")?;
        if let Some(status) = chunk.status
            && chunk.payload.is_empty()
            && status != StatusCode::OK
            && status.as_u16() != 204
        {
            let words = chunk.description.unwrap_or_default();
            bail!("the server ends it with {status} {words}");
        }
        if chunk.payload.is_empty() {
            break;
        }
        file.write_all(&chunk.payload).await.with_context(writing)?;
        bytes += u64::try_from(chunk.payload.len())?;
        progress.at(bytes, "bytes");
        if let Some(reply) = chunk.reply {
            nats.publish(reply, bytes::Bytes::new())
                .await
                .context("asking for more")?;
        }
    }
    file.sync_all().await.with_context(writing)?;
    Ok((said, bytes))
}

/// Asks the JetStream API.
///
/// # Errors
/// What the server says is wrong.
pub(super) async fn ask(
    nats: &async_nats::Client,
    subject: String,
    wish: &Value,
) -> anyhow::Result<Value> {
    let answer = nats
        .request(subject, serde_json::to_vec(wish)?.into())
        .await
        .context("asking the server")?;
    let answer: Value = serde_json::from_slice(&answer.payload).context("reading its answer")?;
    if let Some(words) = answer["error"]["description"].as_str() {
        bail!("the server says: {words}");
    }
    Ok(answer)
}
