//! S2, the compression of what nats-server sends as a copy of a stream: Snappy's frames and blocks,
//! with larger blocks and with copies that repeat the last offset. Described in the documentation of
//! `klauspost/compress`. Sums in the frames are not looked at: a backup has its own over the whole
//! file.

use std::io::{self, Read};

/// The largest block that the format allows, uncompressed.
const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Decompresses what it reads.
#[derive(Debug)]
pub(super) struct S2Reader<R> {
    inner: R,
    block: Vec<u8>,
    read: usize,
}

impl<R: Read> S2Reader<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self {
            inner,
            block: Vec::new(),
            read: 0,
        }
    }

    /// Reads the next frame; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        let mut head = [0; 4];
        if self.inner.read(&mut head[..1])? == 0 {
            return Ok(false);
        }
        self.inner.read_exact(&mut head[1..])?;
        let len = usize::from(head[1]) | usize::from(head[2]) << 8 | usize::from(head[3]) << 16;
        let mut body = vec![0; len];
        self.inner.read_exact(&mut body)?;
        self.block.clear();
        self.read = 0;
        match (head[0], body.get(4..)) {
            (0x00, Some(block)) => decode(block, &mut self.block)?,
            (0x01, Some(plain)) => self.block.extend_from_slice(plain),
            (0xff, _) if body == b"S2sTwO" || body == b"sNaPpY" => {}
            // Padding, and an index.
            (0x80..=0xfe, _) => {}
            _ => return Err(broken()),
        }
        Ok(true)
    }
}

impl<R: Read> Read for S2Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() {
            if !self.next_frame()? {
                return Ok(0);
            }
        }
        let rest = &self.block[self.read..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.read += len;
        Ok(len)
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no S2 stream")
}

/// Takes bytes from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len).ok_or_else(broken)?;
        self.0 = rest;
        Ok(front)
    }

    /// A number of so many bytes, the lowest first.
    fn number(&mut self, len: usize) -> io::Result<usize> {
        let bytes = self.take(len)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn varint(&mut self) -> io::Result<usize> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.number(1)?;
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken())
    }
}

fn decode(block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut from = Bytes(block);
    let len = from.varint()?;
    if len > BLOCK_BYTES_MAX {
        return Err(broken());
    }
    out.reserve(len);
    let mut offset = 0;
    while !from.0.is_empty() {
        let tag = from.number(1)?;
        let high = tag >> 2;
        let copied = match tag & 3 {
            0 => {
                let len = match high {
                    60..=63 => from.number(high - 59)?,
                    short => short,
                } + 1;
                out.extend_from_slice(from.take(len)?);
                continue;
            }
            1 => {
                let short = high & 7;
                match (tag & 0xe0) << 3 | from.number(1)? {
                    // The last offset once more.
                    0 => {
                        4 + match short {
                            5 => from.number(1)? + 4,
                            6 => from.number(2)? + (1 << 8),
                            7 => from.number(3)? + (1 << 16),
                            len => len,
                        }
                    }
                    given => {
                        offset = given;
                        short + 4
                    }
                }
            }
            2 => {
                offset = from.number(2)?;
                high + 1
            }
            _ => {
                offset = from.number(4)?;
                high + 1
            }
        };
        let begin = out.len().checked_sub(offset).ok_or_else(broken)?;
        if offset == 0 || out.len() + copied > len {
            return Err(broken());
        }
        // What is copied may run into what is written.
        for at in begin..begin + copied {
            out.push(out[at]);
        }
    }
    if out.len() == len {
        Ok(())
    } else {
        Err(broken())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).unwrap().to_le_bytes();
        [&[kind], &len[..3], body].concat()
    }

    fn read(frames: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let bytes = frames.concat();
        let mut out = Vec::new();
        S2Reader::new(bytes.as_slice()).read_to_end(&mut out)?;
        Ok(out)
    }

    fn block(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let body = [&[0; 4], bytes].concat();
        read(&[frame(0xff, b"S2sTwO"), frame(0, &body)])
    }

    #[test]
    fn literals_and_copies_come_out() {
        assert_eq!(block(&[4, 12, b'a', b'b', b'c', b'd']).unwrap(), b"abcd");
        // 4 bytes at offset 2, which run into what is written.
        assert_eq!(block(&[6, 4, b'a', b'b', 1, 2]).unwrap(), b"ababab");
        // The same by a copy with two bytes of offset, and one with four.
        assert_eq!(block(&[6, 4, b'a', b'b', 14, 2, 0]).unwrap(), b"ababab");
        assert_eq!(
            block(&[6, 4, b'a', b'b', 15, 2, 0, 0, 0]).unwrap(),
            b"ababab"
        );
        // The last offset again: 4 bytes, then 5 (one byte of length beyond 8).
        assert_eq!(
            block(&[10, 4, b'a', b'b', 1, 2, 1, 0]).unwrap(),
            b"ababababab"
        );
        let long = [&[20, 4, b'a', b'b', 1, 2][..], &[5 << 2 | 1, 0, 6]].concat();
        assert_eq!(block(&long).unwrap(), b"ab".repeat(10));
        // As it is.
        assert_eq!(read(&[frame(1, b"sum.plain")]).unwrap(), b"plain");
        // Padding is passed over.
        assert_eq!(
            read(&[frame(0xfe, b"x"), frame(1, b"sum.y")]).unwrap(),
            b"y"
        );
    }

    #[test]
    fn what_is_none_of_it_is_refused() {
        for bad in [
            &[4, 12, b'a'][..],
            &[4, 1, 2],
            &[4, 4, b'a', b'b', 1, 3],
            &[2, 4, b'a', b'b', 1, 0],
            &[3, 4, b'a', b'b'],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(block(bad).is_err(), "{bad:?}");
        }
        assert!(read(&[frame(0x02, b"??")]).is_err());
        assert!(read(&[frame(0xff, b"zstd..")]).is_err());
        assert!(read(&[frame(0, b"s")]).is_err());
    }
}
