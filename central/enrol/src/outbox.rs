//! What central and its audit have yet to hear: kept beside the keys, on the disk, until it is
//! acknowledged. Written before what it tells of is done, so that nothing is done in silence.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ev_contract::{limits::ENROLLED_AT_ONCE_MAX, time::UnixMs, v1::AuditEntry};
use serde::{Deserialize, Serialize};

use crate::{
    files::{SECRET, failed, read_bytes, remove, sync_dir, write},
    realm::RealmError,
};

/// Some 60,000 enrolments that nobody was told of: then somebody has to see to it first.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Taking credentials back goes on for as much again.
const URGENT_BYTES_MAX: usize = 2 * BYTES_MAX;

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// An entry of the audit.
    Audit(Box<AuditEntry>),
    /// Charge points were enrolled or revoked.
    Announce {
        /// When.
        at: UnixMs,
        /// Whose; at most [`ENROLLED_AT_ONCE_MAX`].
        charge_points: Vec<String>,
        /// Their credentials are void.
        revoked: bool,
    },
}

impl Kept {
    /// An announcement, in as many as it takes.
    #[must_use]
    pub fn announce(at: UnixMs, charge_points: &[String], revoked: bool) -> Vec<Self> {
        charge_points
            .chunks(ENROLLED_AT_ONCE_MAX)
            .map(|some| Self::Announce {
                at,
                charge_points: some.to_vec(),
                revoked,
            })
            .collect()
    }
}

/// How pressing what is put in is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// It can wait.
    Usual,
    /// Somebody's credential is to be void.
    Urgent,
}

/// The file, one line each. Its folder is locked by whoever has this.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
    kept: Vec<Kept>,
    /// Bytes of whole lines; what is behind them was being written when the machine went down.
    bytes: u64,
}

impl Outbox {
    pub(crate) fn open(dir: &Path) -> Result<Self, RealmError> {
        let path = dir.join("outbox");
        let bytes = read_bytes(&path)?.unwrap_or_default();
        // A character can be torn as well as a line.
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&bytes[..whole]).map_err(|e| RealmError::Content {
            path: path.display().to_string(),
            why: e.to_string(),
        })?;
        let kept = text
            .lines()
            .enumerate()
            .map(|(at, line)| {
                serde_json::from_str(line).map_err(|e| RealmError::Content {
                    path: path.display().to_string(),
                    why: format!("line {}: {e}", at + 1),
                })
            })
            .collect::<Result<_, _>>()?;
        let bytes = u64::try_from(whole).unwrap_or(u64::MAX);
        Ok(Self { path, kept, bytes })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it, oldest first.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Adds something, on the disk.
    ///
    /// # Errors
    /// [`RealmError`], also when it is full.
    pub fn put(&mut self, new: Vec<Kept>, urgency: Urgency) -> Result<(), RealmError> {
        let text = self.lines_of(&new)?;
        let most = match urgency {
            Urgency::Usual => BYTES_MAX,
            Urgency::Urgent => URGENT_BYTES_MAX,
        };
        let bytes = self.bytes + u64::try_from(text.len()).unwrap_or(u64::MAX);
        if bytes > u64::try_from(most).unwrap_or(u64::MAX) {
            return Err(RealmError::OutboxFull(self.path.display().to_string()));
        }
        let is_new = !self.path.exists();
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(SECRET)
            .open(&self.path)
            .and_then(|mut file| {
                file.set_len(self.bytes)?;
                file.seek(SeekFrom::Start(self.bytes))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(failed("write", &self.path))?;
        if is_new {
            sync_dir(self.path.parent().unwrap_or(&self.path))?;
        }
        self.bytes = bytes;
        self.kept.extend(new);
        Ok(())
    }

    /// Keeps these and nothing else: the others were heard.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn keep(&mut self, rest: Vec<Kept>) -> Result<(), RealmError> {
        if rest.len() == self.kept.len() {
            return Ok(());
        }
        if rest.is_empty() {
            remove(&self.path)?;
            self.bytes = 0;
        } else {
            let text = self.lines_of(&rest)?;
            write(&self.path, SECRET, &text)?;
            self.bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        }
        self.kept = rest;
        Ok(())
    }

    fn lines_of(&self, some: &[Kept]) -> Result<String, RealmError> {
        let mut text = String::new();
        for one in some {
            text += &serde_json::to_string(one).map_err(|e| RealmError::Content {
                path: self.path.display().to_string(),
                why: e.to_string(),
            })?;
            text.push('\n');
        }
        Ok(text)
    }
}
