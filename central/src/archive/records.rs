//! Messages in a copy of a stream, as nats-server 2.15 sends it.
//!
//! Compressed with S2: `NATSARC1`, then entries: the length of the name, nanoseconds since 1970
//! (zigzag), sequence, length of the headers, length of the payload, each a varint; name, headers,
//! payload. First `state.json`, which has no sequence; then messages in order, each under its subject;
//! at the end an entry in which all is empty or 0.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};

use super::{s2::S2Reader, tape::Stored};

const MAGIC: &[u8; 8] = b"NATSARC1";
/// Beyond what a server takes in one message, with its headers.
const ENTRY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads the messages of a file in order; `take` says whether to go on.
pub(super) fn read(path: &Path, take: impl FnMut(Stored) -> bool) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let reader = BufReader::with_capacity(1024 * 1024, S2Reader::new(BufReader::new(file)));
    read_from(reader, take).with_context(|| format!("in {}", path.display()))
}

fn read_from(mut from: impl Read, mut take: impl FnMut(Stored) -> bool) -> anyhow::Result<()> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)
        .context("reading its beginning")?;
    ensure!(
        &magic == MAGIC,
        "it is no copy that nats-server 2.15 or newer has made"
    );
    let mut last = 0;
    loop {
        let entry = entry(&mut from).with_context(|| format!("reading after message {last}"))?;
        if entry.is_end() {
            return Ok(());
        }
        if entry.seq == 0 {
            continue;
        }
        ensure!(
            entry.seq > last,
            "message {} follows message {last}",
            entry.seq
        );
        last = entry.seq;
        let stored = Stored {
            seq: entry.seq,
            at_ms: entry.at_ns.div_euclid(1_000_000),
            subject: entry.name,
            payload: entry.payload.into(),
        };
        if !take(stored) {
            return Ok(());
        }
    }
}

struct Entry {
    name: String,
    at_ns: i64,
    seq: u64,
    payload: Vec<u8>,
}

impl Entry {
    const fn is_end(&self) -> bool {
        self.name.is_empty() && self.seq == 0 && self.at_ns == 0 && self.payload.is_empty()
    }
}

fn entry(from: &mut impl Read) -> anyhow::Result<Entry> {
    let name_len = varint(from)?;
    let zigzag = varint(from)?;
    let at_ns = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
    let seq = varint(from)?;
    let headers_len = varint(from)?;
    let payload_len = varint(from)?;
    ensure!(
        [name_len, headers_len, payload_len]
            .iter()
            .all(|len| *len <= ENTRY_BYTES_MAX),
        "nothing in it is that large"
    );
    let name = bytes(from, name_len)?;
    bytes(from, headers_len)?;
    let payload = bytes(from, payload_len)?;
    Ok(Entry {
        name: String::from_utf8(name).context("a subject is no text")?,
        at_ns,
        seq,
        payload,
    })
}

fn bytes(from: &mut impl Read, len: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len)?];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn varint(from: &mut impl Read) -> anyhow::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    bail!("a number has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &[u8] = b"\x0a\0\0\0\x02state.json{}";
    // Three nanoseconds after two milliseconds, zigzag: 4000006.
    const FIRST: &[u8] = b"\x01\x86\x92\xf4\x01\x01\x03\x02aH: hi";
    const THIRD: &[u8] = b"\x01\x01\x03\0\0b";
    const END: &[u8] = b"\0\0\0\0\0";

    type Seen = (u64, i64, String, Vec<u8>);

    fn seen(parts: &[&[u8]]) -> anyhow::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        read_from(parts.concat().as_slice(), |m| {
            seen.push((m.seq, m.at_ms, m.subject, m.payload.to_vec()));
            true
        })?;
        Ok(seen)
    }

    #[test]
    fn messages_come_out_with_sequence_time_and_subject() {
        let all = seen(&[MAGIC, STATE, FIRST, THIRD, END]).unwrap();
        assert_eq!(
            all,
            [
                (1, 2, "a".to_owned(), b"hi".to_vec()),
                (3, -1, "b".to_owned(), Vec::new())
            ]
        );
    }

    #[test]
    fn what_is_cut_off_or_out_of_order_is_refused() {
        let whole = [MAGIC.as_slice(), STATE, FIRST, END].concat();
        for len in 0..whole.len() {
            assert!(seen(&[&whole[..len]]).is_err(), "{len} bytes");
        }
        assert!(seen(&[MAGIC, STATE, THIRD, FIRST, END]).is_err());
        assert!(seen(&[b"NATSARC2", END]).is_err());
        assert!(seen(&[MAGIC, &[0xff; 12]]).is_err());
    }
}
