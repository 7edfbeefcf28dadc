//! What central and its audit have yet to hear: kept beside the keys, on the disk, until it is
//! acknowledged. Written before what it tells of is done, so that nothing is done in silence.

use std::{
    fs::{self, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ev_contract::{ids::SiteId, limits::ENROLLED_AT_ONCE_MAX, time::UnixMs, v1::AuditEntry};
use serde::{Deserialize, Serialize};

use crate::{
    files::{SECRET, failed, remove, sync_dir, write},
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
        /// What else was said of them.
        #[serde(default, flatten)]
        traits: Traits,
    },
}

/// What is said of charge points when they are enrolled; what is not said stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traits {
    /// The site where they stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// The site's IANA time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The most power of each, in kilowatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_kw: Option<u32>,
}

impl Kept {
    /// An announcement, in as many as it takes.
    #[must_use]
    pub fn announce(
        at: UnixMs,
        charge_points: &[String],
        revoked: bool,
        traits: &Traits,
    ) -> Vec<Self> {
        charge_points
            .chunks(ENROLLED_AT_ONCE_MAX)
            .map(|some| Self::Announce {
                at,
                charge_points: some.to_vec(),
                revoked,
                traits: traits.clone(),
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
    /// Whole lines that say nothing, until they are set aside.
    unreadable: Vec<u8>,
    /// Bytes of whole lines; what is behind them was being written when the machine went down.
    bytes: u64,
}

impl Outbox {
    pub(crate) fn open(dir: &Path) -> Result<Self, RealmError> {
        let path = dir.join("outbox");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(failed("read", &path)(e)),
        };
        // What was being written may end within a character.
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let mut kept = Vec::new();
        let mut unreadable = Vec::new();
        for line in text[..whole].split_inclusive(|b| *b == b'\n') {
            match serde_json::from_slice(line) {
                Ok(one) => kept.push(one),
                Err(_) => unreadable.extend_from_slice(line),
            }
        }
        let mut outbox = Self {
            path,
            kept,
            unreadable,
            bytes: u64::try_from(whole).unwrap_or(u64::MAX),
        };
        // Nobody is kept in by it.
        if let Err(error) = outbox.set_aside() {
            eprintln!("central enrol: {}", ev_client::chain(&error));
        }
        Ok(outbox)
    }

    /// What cannot be read is kept beside the rest, for somebody to look at.
    fn set_aside(&mut self) -> Result<(), RealmError> {
        if self.unreadable.is_empty() {
            return Ok(());
        }
        let aside = self.path.with_extension("unreadable");
        eprintln!(
            "central enrol: {} has lines that cannot be read; they go to {}, and nobody is told of \
             them: `central enrol push --all` tells central of charge points",
            self.path.display(),
            aside.display()
        );
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(SECRET)
            .open(&aside)
            .and_then(|mut file| {
                file.write_all(&self.unreadable)?;
                file.sync_all()
            })
            .map_err(failed("write", &aside))?;
        sync_dir(self.path.parent().unwrap_or(&self.path))?;
        let text = self.lines_of(&self.kept)?;
        write(&self.path, SECRET, &text)?;
        self.bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.unreadable.clear();
        Ok(())
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

    /// How many are in it, and the bytes that they take: where [`Outbox::take_back`] goes back to.
    #[must_use]
    pub(crate) const fn end(&self) -> (usize, u64) {
        (self.kept.len(), self.bytes)
    }

    /// Takes back what was put in since. That needs no room on the disk.
    ///
    /// # Errors
    /// [`RealmError`].
    pub(crate) fn take_back(&mut self, (count, bytes): (usize, u64)) -> Result<(), RealmError> {
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| {
                file.set_len(bytes)?;
                file.sync_all()
            })
            .map_err(failed("write", &self.path))?;
        self.kept.truncate(count);
        self.bytes = bytes;
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
        self.set_aside()?;
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
