//! `central restore`: makes the streams of a backup in a server that has none of them.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream;
use ev_contract::streams;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::{
    backup::{STREAMS, ask},
    manifest::{Manifest, StreamCopy},
    progress::Progress,
    tape::Extent,
};
use crate::ledger;

/// What is sent at once: half of the server's largest message.
const CHUNK_BYTES: usize = 512 * 1024;
/// At the end the server reads all that it was sent.
const LAST_WAIT: Duration = Duration::from_secs(600);

/// Makes every stream of a backup. Sequences and times are as they were.
///
/// # Errors
/// When one of them is there already, or cannot be made: then none is left.
pub(super) async fn run(
    nats: &async_nats::Client,
    from: &Path,
    replicas: usize,
) -> anyhow::Result<Manifest> {
    let manifest = Manifest::read(from)?;
    let js = jetstream::new(nats.clone());
    for name in STREAMS.into_iter().chain([streams::SNAPSHOTS]) {
        ensure!(
            ledger::find(&js, name).await?.is_none(),
            "the server has a stream {name}, and restoring never overwrites anything: stop every \
             central, and restore into a server that is empty"
        );
    }
    let copies: Vec<_> = STREAMS
        .iter()
        .map(|name| manifest.stream(from, name))
        .collect::<anyhow::Result<_>>()?;
    let mut begun = Vec::new();
    for (copy, path) in copies {
        let made = make(nats, &js, copy, &path, replicas, &mut begun)
            .await
            .with_context(|| format!("restoring {}", copy.name));
        if let Err(mut error) = made {
            for name in begun {
                // Half of a system is worse than none.
                if let Err(left) = js.delete_stream(&name).await {
                    error = error.context(format!(
                        "{name} was begun and could not be removed again ({left}); remove it before \
                         the next attempt"
                    ));
                }
            }
            return Err(error);
        }
    }
    Ok(manifest)
}

/// Notes in `begun` that the server takes the stream from here: what it has refused may be somebody
/// else's, who made it meanwhile.
async fn make<'a>(
    nats: &async_nats::Client,
    js: &jetstream::Context,
    copy: &'a StreamCopy,
    path: &Path,
    replicas: usize,
    begun: &mut Vec<&'a str>,
) -> anyhow::Result<()> {
    let mut config = copy.config.clone();
    config["num_replicas"] = json!(replicas);
    if copy.name == streams::LEDGER.name {
        // Each replica believes this ledger rather than its marker, once.
        config["metadata"][streams::GIVEN_UP] = json!(Uuid::now_v7());
    }
    let wish = json!({ "config": config, "state": copy.state });
    let said = ask(nats, format!("$JS.API.STREAM.RESTORE.{}", copy.name), &wish).await?;
    begun.push(&copy.name);
    let to = said["deliver_subject"]
        .as_str()
        .context("the server does not say where to")?
        .to_owned();
    let reading = || format!("reading {}", path.display());
    let mut file = tokio::fs::File::open(path).await.with_context(reading)?;
    let mut progress = Progress::of(format!("restoring {}", copy.name));
    let mut sent = 0_u64;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)
            .await
            .with_context(reading)?;
        if chunk.is_empty() {
            break;
        }
        sent += chunk.len() as u64;
        let answer = nats
            .request(to.clone(), chunk.into())
            .await
            .context("sending")?;
        fails(&answer.payload)?;
        progress.at(sent, "bytes");
    }
    let end = async_nats::Request::new().timeout(Some(LAST_WAIT));
    let answer = nats.send_request(to, end).await.context("ending")?;
    fails(&answer.payload)?;
    let there = Extent::ask(js, &copy.name).await?;
    ensure!(
        there.last >= copy.last_seq && there.messages == copy.messages,
        "it has {} messages and ends at {}, the backup has {} and ends at {}",
        there.messages,
        there.last,
        copy.messages,
        copy.last_seq
    );
    Ok(())
}

fn fails(answer: &[u8]) -> anyhow::Result<()> {
    if answer.is_empty() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(answer).context("reading the server's answer")?;
    if let Some(words) = answer["error"]["description"].as_str() {
        bail!("the server says: {words}");
    }
    Ok(())
}
