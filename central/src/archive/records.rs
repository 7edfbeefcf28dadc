//! Messages in a copy of a stream, as nats-server sends it: an archive of the stream's own files, the
//! blocks of messages among them in order.
//!
//! A message in a block, numbers with the lowest byte first: its length with all of this (4 bytes;
//! the highest bit says that it has headers), sequence (8; the highest bits mark what was removed),
//! nanoseconds since 1970 (8), length of the subject (2), subject, with headers their length (4) and
//! they, payload, checksum (8).

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};

use super::{s2::S2Reader, tape::Stored};

/// Beyond what any stream here takes: 1 MiB, headers, subject.
const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
const HEAD: usize = 22;
const SUM: usize = 8;
const HAS_HEADERS: u32 = 1 << 31;
/// Removed, or in place of something that was.
const GONE: u64 = 1 << 63 | 1 << 62;

/// Reads the messages of a file in order; `take` says whether to go on.
pub(super) fn read(
    path: &Path,
    mut take: impl FnMut(Stored) -> bool,
) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut archive = tar::Archive::new(S2Reader::new(BufReader::new(file)));
    let mut last = 0;
    for entry in archive.entries().context("reading the archive")? {
        let mut entry = entry.context("reading the archive")?;
        let name = entry.path().context("reading the archive")?.into_owned();
        if name.as_os_str() == "errors.txt" {
            let mut words = String::new();
            entry.take(4_096).read_to_string(&mut words)?;
            bail!("nats-server could not copy the stream: {}", words.trim());
        }
        if name.extension().is_none_or(|extension| extension != "blk") {
            continue;
        }
        let mut block = BufReader::new(&mut entry);
        while let Some(stored) = next(&mut block)
            .with_context(|| format!("reading {} after message {last}", name.display()))?
        {
            let Some(stored) = stored else { continue };
            ensure!(
                stored.seq > last,
                "message {} follows message {last}",
                stored.seq
            );
            last = stored.seq;
            if !take(stored) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next record; within it none for what was removed.
fn next(block: &mut impl Read) -> anyhow::Result<Option<Option<Stored>>> {
    let mut head = [0; HEAD];
    if block.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    block.read_exact(&mut head[1..])?;
    let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let len = usize::try_from(word & !HAS_HEADERS)?;
    let seq = number(&head[4..12]);
    let ns = number(&head[12..20]);
    let subject_len = usize::from(u16::from_le_bytes([head[20], head[21]]));
    ensure!(
        (HEAD + SUM + subject_len..=RECORD_BYTES_MAX).contains(&len),
        "a message cannot have {len} bytes"
    );
    let mut rest = vec![0; len - HEAD];
    block.read_exact(&mut rest)?;
    rest.truncate(len - HEAD - SUM);
    if seq == 0 || seq & GONE != 0 {
        return Ok(Some(None));
    }
    let mut payload = rest.split_off(subject_len);
    if word & HAS_HEADERS != 0 {
        let headers = payload.get(..4).map(number).context("it has no headers")?;
        let begin = usize::try_from(headers)?.saturating_add(4);
        ensure!(begin <= payload.len(), "its headers are longer than it is");
        payload.drain(..begin);
    }
    Ok(Some(Some(Stored {
        seq,
        at_ms: i64::try_from(ns / 1_000_000)?,
        subject: String::from_utf8(rest).context("its subject is no text")?,
        payload: payload.into(),
    })))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}
