//! Snapshots of the state, so that a restart reads a bounded rest of the ledger.

use anyhow::Context as _;
use async_nats::jetstream::{self, object_store::ObjectStore, stream};
use central_core::{snapshot::Frozen, state::State};
use ev_contract::streams::{SNAPSHOT_BUCKET, SNAPSHOTS_KEPT};
use futures::StreamExt;
use tokio::io::AsyncReadExt;

/// The bucket, created when it is not there.
///
/// # Errors
/// When the server does not answer.
pub async fn bucket(js: &jetstream::Context, replicas: usize) -> anyhow::Result<ObjectStore> {
    if let Ok(store) = js.get_object_store(SNAPSHOT_BUCKET).await {
        return Ok(store);
    }
    js.create_object_store(jetstream::object_store::Config {
        bucket: SNAPSHOT_BUCKET.into(),
        description: Some("snapshots of central's state".into()),
        storage: stream::StorageType::File,
        num_replicas: replicas,
        ..jetstream::object_store::Config::default()
    })
    .await
    .context("creating the bucket for snapshots")
}

fn name(seq: u64) -> String {
    format!("{seq:020}")
}

/// Writes a state. Replicas that write the same sequence write the same bytes.
///
/// # Errors
/// When it cannot be stored.
pub async fn write(store: &ObjectStore, state: Frozen) -> anyhow::Result<()> {
    let name = name(state.seq());
    // That of a large fleet takes longer than others on this thread should wait.
    let bytes = tokio::task::spawn_blocking(|| state.encode())
        .await
        .context("encoding a snapshot")?;
    ev_crash::reach("snapshot", "begin");
    store
        .put(name.as_str(), &mut bytes.as_slice())
        .await
        .with_context(|| format!("storing snapshot {name}"))?;
    ev_crash::reach("snapshot", "stored");
    let mut names = names(store).await?;
    while names.len() > SNAPSHOTS_KEPT {
        let oldest = names.remove(0);
        store
            .delete(&oldest)
            .await
            .with_context(|| format!("deleting snapshot {oldest}"))?;
        ev_crash::reach("snapshot", "pruned");
    }
    Ok(())
}

async fn names(store: &ObjectStore) -> anyhow::Result<Vec<String>> {
    let mut list = store.list().await.context("listing snapshots")?;
    let mut names = Vec::new();
    while let Some(info) = list.next().await {
        names.push(info.context("listing snapshots")?.name);
    }
    names.sort_unstable();
    Ok(names)
}

/// The newest snapshot that can be read; none when there is none. One that cannot be read is
/// passed over: the ledger has everything.
///
/// # Errors
/// When the server does not answer.
pub async fn newest(store: &ObjectStore) -> anyhow::Result<Option<State>> {
    for name in names(store).await?.iter().rev() {
        match read(store, name).await {
            Ok(state) => return Ok(Some(state)),
            Err(error) => {
                tracing::warn!(name, error = %format!("{error:#}"), "snapshot cannot be used");
            }
        }
    }
    Ok(None)
}

async fn read(store: &ObjectStore, name: &str) -> anyhow::Result<State> {
    let mut object = store.get(name).await.context("opening")?;
    let mut bytes = Vec::new();
    object.read_to_end(&mut bytes).await.context("reading")?;
    tokio::task::spawn_blocking(move || State::decode(&bytes))
        .await
        .context("decoding")?
        .context("decoding")
}
