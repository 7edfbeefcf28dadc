//! Which ledger this replica serves: the marker that it keeps of it, and all that speaks for or against
//! what the server shows. What follows is decided in [`central_core::whole`].

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use async_nats::jetstream::{self, stream::Stream};
use central_core::{
    state::{Alarm, State},
    whole::{Evidence, Marker, Shown},
};
use ev_contract::streams;

use crate::{Config, engine, ledger, snapshots};

/// The streams that are made after the ledger.
pub const OTHERS: [&str; 4] = [
    streams::CDR.name,
    streams::AUDIT.name,
    streams::UPTIME.name,
    streams::SNAPSHOTS,
];

/// Where the marker is kept.
#[derive(Debug, Clone)]
pub struct Marks(PathBuf);

impl Marks {
    /// Of a replica: several may share a folder.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let name = format!("{}.ledger.json", config.replica);
        Self(config.state_dir().join(name))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is kept; none where nothing was served.
    ///
    /// # Errors
    /// When the file cannot be read. That is not the same as none.
    pub fn read(&self) -> anyhow::Result<Option<Marker>> {
        let shown = self.0.display();
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {shown}")),
        };
        let marker = serde_json::from_str(&text).with_context(|| {
            format!("{shown} should say which ledger this replica served, and is damaged")
        })?;
        Ok(Some(marker))
    }

    /// Keeps another marker, whole or not at all, on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, marker: &Marker) -> anyhow::Result<()> {
        let mut half = self.0.clone().into_os_string();
        half.push(".half");
        let half = PathBuf::from(half);
        let writing = || -> anyhow::Result<()> {
            let mut text = serde_json::to_vec(marker)?;
            text.push(b'\n');
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&half)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&half, &self.0)?;
            let folder = self.0.parent().unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?;
            Ok(())
        };
        writing().with_context(|| {
            format!(
                "keeping in {} which ledger is served; `state_dir` names another folder",
                self.0.display()
            )
        })
    }
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// All that speaks for or against it.
    pub evidence: Evidence,
    /// The ledger's stream.
    pub ledger: Option<Stream>,
    /// The newest snapshot.
    pub snapshot: Option<State>,
}

/// Looks at what the server shows, and at what is kept here.
///
/// # Errors
/// When the server does not answer, or the marker cannot be read.
pub async fn look(config: &Config, js: &jetstream::Context) -> anyhow::Result<Found> {
    let marker = Marks::of(config).read()?;
    let ledger = ledger::find(js, streams::LEDGER.name).await?;
    let shown = ledger::shown(ledger.as_ref()).await?;
    let mut others = Vec::new();
    let mut snapshot = None;
    if let Shown::Absent | Shown::Empty = shown {
        for name in OTHERS {
            if ledger::find(js, name).await?.is_some() {
                others.push(name);
            }
        }
    } else if ledger::find(js, streams::SNAPSHOTS).await?.is_some() {
        let store = js
            .get_object_store(streams::SNAPSHOT_BUCKET)
            .await
            .context("opening the bucket of snapshots")?;
        snapshot = snapshots::newest(&store).await?;
    }
    let of = |state: &State| state.ledger().map(|id| (id, state.basis().seq));
    Ok(Found {
        evidence: Evidence {
            shown,
            marker,
            others,
            snapshot: snapshot.as_ref().and_then(of),
            may_begin: may_begin(config)?,
        },
        ledger,
        snapshot,
    })
}

/// Whether this replica's credential says that it is the first of an installation.
fn may_begin(config: &Config) -> anyhow::Result<bool> {
    let credential = ev_client::Credential::read(&config.credentials)?;
    Ok(credential.may_begin_ledger(engine::wall().0.div_euclid(1_000)))
}

/// What is wrong with the ledger, and what to do next.
#[must_use]
pub fn words(alarm: &Alarm, config: &Config) -> String {
    let marks = Marks::of(config);
    let init = format!("central init-ledger --config {}", config.path.display());
    let next = match alarm {
        Alarm::Missing {
            served: None,
            others,
        } if others.is_empty() => format!(
            "in a new installation `{init}` makes it, once; else its disk is not mounted: mount it and \
             start nats-server again"
        ),
        Alarm::Missing { .. } => {
            "its disk is not mounted, or it was deleted: mount the disk and start nats-server again, or \
             restore a backup; the runbook has more under Ledger Lost"
                .into()
        }
        Alarm::Foreign { .. } | Alarm::Nameless => format!(
            "bring back the disk of the ledger that was served; {} says which that is, and the runbook \
             has more under Ledger Lost",
            marks.path().display()
        ),
        Alarm::Rewound { .. } => {
            "its disk is an older copy, or it was emptied; the runbook has more under Ledger Alarm".into()
        }
        Alarm::DigestMismatch { .. }
        | Alarm::Gap { .. }
        | Alarm::Removed { .. }
        | Alarm::Unreadable(_) => "the runbook has more under Ledger Alarm".into(),
    };
    format!("{alarm}: {next}")
}

#[cfg(test)]
mod tests {
    use central_core::{frame::Digest, whole::LedgerId};
    use uuid::Uuid;

    use super::*;

    fn marks() -> (tempfile::TempDir, Marks) {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks(dir.path().join("central-1.ledger.json"));
        (dir, marks)
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let (_dir, marks) = marks();
        assert_eq!(marks.read().unwrap(), None);
        for seq in [0, 7] {
            let marker = Marker {
                ledger: LedgerId(Uuid::from_u128(1)),
                seq,
                digest: Digest([seq as u8; 16]),
                given_up: None,
            };
            marks.write(&marker).unwrap();
            assert_eq!(marks.read().unwrap(), Some(marker));
        }
    }

    #[test]
    fn a_marker_that_cannot_be_read_is_not_the_same_as_none() {
        let (_dir, marks) = marks();
        fs::write(marks.path(), "").unwrap();
        let error = format!("{:#}", marks.read().unwrap_err());
        assert!(error.contains("damaged"), "{error}");
        let nowhere = Marks("/nowhere/central-1.ledger.json".into());
        let marker = Marker {
            ledger: LedgerId(Uuid::nil()),
            seq: 1,
            digest: Digest::default(),
            given_up: None,
        };
        let error = format!("{:#}", nowhere.write(&marker).unwrap_err());
        assert!(error.contains("state_dir"), "{error}");
    }
}
