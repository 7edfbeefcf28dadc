//! What a backup says of itself, and whether it is whole.
//!
//! `B3SUMS` is written last: the checksum of each other file, as `b3sum --check` reads it. Without it,
//! or with another file than it says, nothing of the backup is used.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// The format of a backup's folder.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const SUMS: &str = "B3SUMS";
/// Both are small.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Which format.
    pub(super) format: u32,
    /// The version of central that wrote it.
    pub(super) central: String,
    /// In the order in which they were copied.
    pub(super) streams: Vec<StreamCopy>,
}

/// A stream in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamCopy {
    /// Its name.
    pub(super) name: String,
    /// The file.
    pub(super) file: String,
    /// Its size in bytes.
    pub(super) bytes: u64,
    /// When copying began, in milliseconds since 1970.
    pub(super) begun_at_ms: i64,
    /// Messages in it.
    pub(super) messages: u64,
    /// The first sequence; 0 for none.
    pub(super) first_seq: u64,
    /// The last one; 0 for none.
    pub(super) last_seq: u64,
    /// The stream's configuration, as the server says it.
    pub(super) config: serde_json::Value,
    /// Its extent, as the server said it before it began to copy.
    pub(super) state: serde_json::Value,
}

impl StreamCopy {
    /// The last sequence that there had been, removed or not, when copying began.
    pub(super) fn said_last(&self) -> u64 {
        self.state["last_seq"].as_u64().unwrap_or(0)
    }
}

impl Manifest {
    pub(super) fn new(streams: Vec<StreamCopy>) -> Self {
        Self {
            format: FORMAT,
            central: env!("CARGO_PKG_VERSION").into(),
            streams,
        }
    }

    /// The copy of a stream, and where it is.
    pub(super) fn stream(&self, dir: &Path, name: &str) -> anyhow::Result<(&StreamCopy, PathBuf)> {
        let copy = self
            .streams
            .iter()
            .find(|copy| copy.name == name)
            .with_context(|| format!("the backup {} has no {name}", dir.display()))?;
        Ok((copy, dir.join(&copy.file)))
    }

    /// Writes it and the checksums of all files, and syncs the folder.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context("encoding the manifest")?;
        text.push(b'\n');
        write_synced(&dir.join(MANIFEST), &text)?;
        let mut sums = String::new();
        let files = self.streams.iter().map(|copy| copy.file.as_str());
        for file in files.chain([MANIFEST]) {
            let (sum, _) = sum(&dir.join(file))?;
            writeln!(sums, "{sum}  {file}")?;
        }
        write_synced(&dir.join(SUMS), sums.as_bytes())?;
        sync_folder(dir)
    }

    /// Reads it, and holds every file against its checksum.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let shown = dir.display();
        let sums = read_text(&dir.join(SUMS)).with_context(|| {
            format!("{shown} is no whole backup: {SUMS}, which is written last, cannot be read")
        })?;
        let mut seen = Vec::new();
        for line in sums.lines() {
            let Some((expected, file)) = line.split_once("  ") else {
                bail!("{shown} cannot be used: {SUMS} is damaged");
            };
            ensure!(
                Path::new(file).components().count() == 1 && !file.starts_with('.'),
                "{shown} cannot be used: {SUMS} names {file}"
            );
            let (found, bytes) = sum(&dir.join(file))?;
            ensure!(
                found == expected,
                "{shown} cannot be used: {file} is not what was written; take another copy of this \
                 backup, or an older one"
            );
            seen.push((file, bytes));
        }
        let there = |file: &str| seen.iter().find(|(name, _)| *name == file);
        ensure!(
            there(MANIFEST).is_some(),
            "{shown} cannot be used: {SUMS} has no sum of {MANIFEST}"
        );
        let text = read_text(&dir.join(MANIFEST))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("reading {shown}/{MANIFEST}"))?;
        ensure!(
            json["format"] == FORMAT,
            "{shown} has format {}, this central reads {FORMAT}: use the central that wrote it",
            json["format"]
        );
        let manifest: Self =
            serde_json::from_value(json).with_context(|| format!("reading {shown}/{MANIFEST}"))?;
        for copy in &manifest.streams {
            ensure!(
                there(&copy.file).is_some_and(|(_, bytes)| *bytes == copy.bytes),
                "{shown} cannot be used: {} has no sum, or another size than {MANIFEST} says",
                copy.file
            );
        }
        Ok(manifest)
    }
}

/// The checksum of a file, in hexadecimal digits, and its size.
fn sum(path: &Path) -> anyhow::Result<(String, u64)> {
    let opening = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(opening)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let len = file.read(&mut buffer).with_context(opening)?;
        if len == 0 {
            return Ok((hasher.finalize().to_hex().to_string(), bytes));
        }
        hasher.update(&buffer[..len]);
        bytes += u64::try_from(len)?;
    }
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TEXT_BYTES_MAX).read_to_string(&mut text))
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(text)
}

fn write_synced(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .with_context(|| format!("writing {}", path.display()))
}

/// A new file that only its owner reads: it says who charged where.
pub(super) fn create(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

pub(super) fn sync_folder(dir: &Path) -> anyhow::Result<()> {
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("syncing {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> (tempfile::TempDir, Manifest) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("EV_CDR.natsarc.s2"), b"papers").unwrap();
        let manifest = Manifest::new(vec![StreamCopy {
            name: "EV_CDR".into(),
            file: "EV_CDR.natsarc.s2".into(),
            bytes: 6,
            begun_at_ms: 1,
            messages: 1,
            first_seq: 1,
            last_seq: 1,
            config: serde_json::json!({}),
            state: serde_json::json!({}),
        }]);
        manifest.write(dir.path()).unwrap();
        (dir, manifest)
    }

    #[test]
    fn a_whole_backup_is_read() {
        let (dir, manifest) = backup();
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
    }

    #[test]
    fn what_is_not_whole_is_refused_with_the_file_that_is_wrong() {
        for (file, change, says) in [
            (SUMS, None, "is no whole backup"),
            (SUMS, Some("zz"), "is damaged"),
            (SUMS, Some("00  ../x\n"), "names ../x"),
            (SUMS, Some(""), "has no sum of manifest.json"),
            (MANIFEST, None, "manifest.json"),
            (
                MANIFEST,
                Some("{}"),
                "manifest.json is not what was written",
            ),
            ("EV_CDR.natsarc.s2", None, "EV_CDR.natsarc.s2"),
            (
                "EV_CDR.natsarc.s2",
                Some("Papers"),
                "EV_CDR.natsarc.s2 is not what was written",
            ),
            (
                "EV_CDR.natsarc.s2",
                Some("paper"),
                "EV_CDR.natsarc.s2 is not what was written",
            ),
        ] {
            let (dir, _) = backup();
            let path = dir.path().join(file);
            match change {
                None => std::fs::remove_file(&path).unwrap(),
                Some(text) => std::fs::write(&path, text).unwrap(),
            }
            let error = format!("{:#}", Manifest::read(dir.path()).unwrap_err());
            assert!(error.contains(says), "{file} {change:?}: {error}");
        }
    }

    #[test]
    fn another_format_is_refused_with_what_to_do() {
        let (dir, mut manifest) = backup();
        manifest.format = 2;
        for file in [SUMS, MANIFEST] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
        manifest.write(dir.path()).unwrap();
        let error = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
    }
}
