//! The disk of the machine: a file, in front of it a write cache that forgets at a power cut.
//!
//! The machine reaches it over the NBD protocol (fixed newstyle negotiation, simple replies). A
//! write is acknowledged as soon as it is in the cache and reaches the file when the machine asks
//! for a flush, as `fsync` makes a file system do. So two things are lost at a cut: what the
//! machine's kernel had not yet given to the disk, since its memory is gone, and what the disk had
//! not been told to flush. Of the latter some pieces survive, others do not, in no order, as on a
//! drive that was writing its cache back.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::{
        fs::FileExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    thread::{self, JoinHandle},
};

use rand::{Rng, seq::IndexedRandom};

/// What a drive writes whole or not at all.
const PIECE_BYTES: usize = 4096;

/// Beyond this a drive writes back unasked: consumer drives have 64 MiB and more.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Larger requests are not announced as possible; the kernel sends 1 MiB at most.
const REQUEST_BYTES_MAX: u32 = 32 * 1024 * 1024;

/// How many percent of the pieces in the cache survive a cut: one of these, drawn each time.
const SURVIVING_PERCENT: [u8; 3] = [0, 50, 90];

/// A disk, and what is in its cache.
#[derive(Debug)]
pub struct Disk {
    file: File,
    bytes: u64,
    cache: Vec<CachedWrite>,
    cache_bytes: usize,
    flushes: u64,
}

#[derive(Debug)]
struct CachedWrite {
    at: u64,
    data: Vec<u8>,
}

/// What a cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Bytes that were in the cache.
    pub cached_bytes: usize,
    /// Bytes of them that are gone.
    pub lost_bytes: usize,
    /// Flushes that the disk had carried out since it was switched on.
    pub flushes: u64,
}

impl Disk {
    /// Takes a file as it is.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            bytes,
            cache: Vec::new(),
            cache_bytes: 0,
            flushes: 0,
        })
    }

    /// Serves one machine until its connection ends, in a thread of its own, which returns the
    /// disk with what is left in its cache.
    #[must_use]
    pub fn serve(mut self, listener: UnixListener) -> JoinHandle<Self> {
        thread::spawn(move || {
            let served = listener
                .accept()
                .and_then(|(mut stream, _)| self.converse(&mut stream));
            if let Err(error) = served
                && !matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionReset
                )
            {
                eprintln!("the machine's disk: {error}");
            }
            self
        })
    }

    /// The power goes: the cache is forgotten, but for pieces that chance lets survive.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn cut(&mut self, rng: &mut impl Rng) -> io::Result<Forgotten> {
        let percent = *SURVIVING_PERCENT.choose(rng).unwrap_or(&0);
        let mut forgotten = Forgotten {
            cached_bytes: self.cache_bytes,
            lost_bytes: 0,
            flushes: std::mem::take(&mut self.flushes),
        };
        self.cache_bytes = 0;
        for write in std::mem::take(&mut self.cache) {
            for (piece, at) in pieces(&write) {
                if rng.random_range(0..100) < percent {
                    self.file.write_all_at(piece, at)?;
                } else {
                    forgotten.lost_bytes += piece.len();
                }
            }
        }
        Ok(forgotten)
    }

    fn write(&mut self, at: u64, data: Vec<u8>) -> io::Result<()> {
        self.within(at, data.len())?;
        self.cache_bytes += data.len();
        self.cache.push(CachedWrite { at, data });
        if self.cache_bytes > CACHE_BYTES_MAX {
            self.write_back()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        self.write_back()
    }

    fn write_back(&mut self) -> io::Result<()> {
        for write in self.cache.drain(..) {
            self.file.write_all_at(&write.data, write.at)?;
        }
        self.cache_bytes = 0;
        Ok(())
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        self.within(at, length)?;
        let mut data = vec![0; length];
        self.file.read_exact_at(&mut data, at)?;
        let end = at + length as u64;
        for write in &self.cache {
            let from = at.max(write.at);
            let to = end.min(write.at + write.data.len() as u64);
            if from < to {
                let wanted = offset(from, at)?..offset(to, at)?;
                let held = offset(from, write.at)?..offset(to, write.at)?;
                data[wanted].copy_from_slice(&write.data[held]);
            }
        }
        Ok(data)
    }

    fn within(&self, at: u64, length: usize) -> io::Result<()> {
        match at.checked_add(length as u64) {
            Some(end) if end <= self.bytes => Ok(()),
            Some(_) | None => Err(io::Error::from_raw_os_error(NO_SPACE)),
        }
    }

    fn converse(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        if !negotiate(stream, self.bytes)? {
            return Ok(());
        }
        loop {
            let mut head = [0; 28];
            stream.read_exact(&mut head)?;
            if u32_at(&head, 0) != REQUEST_MAGIC {
                return Err(io::Error::other("a request without its magic number"));
            }
            let verb = u32_at(&head, 4) & 0xffff;
            let (at, length) = (u64_at(&head, 16), u32_at(&head, 24));
            if length > REQUEST_BYTES_MAX {
                return Err(io::Error::other(format!("a request of {length} bytes")));
            }
            let done = match verb {
                READ => self.read(at, length as usize),
                WRITE => {
                    let mut data = vec![0; length as usize];
                    stream.read_exact(&mut data)?;
                    self.write(at, data).map(|()| Vec::new())
                }
                FLUSH => self.flush().map(|()| Vec::new()),
                DISCONNECT => return Ok(()),
                _ => Err(io::Error::from_raw_os_error(INVALID)),
            };
            let (code, data) = match done {
                Ok(data) => (0, data),
                Err(error) => (error.raw_os_error().unwrap_or(IO_ERROR), Vec::new()),
            };
            let mut reply = Vec::with_capacity(16 + data.len());
            reply.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
            reply.extend_from_slice(&code.to_be_bytes());
            reply.extend_from_slice(&head[8..16]);
            reply.extend_from_slice(&data);
            stream.write_all(&reply)?;
        }
    }
}

// Numbers of the NBD protocol.
const INIT_MAGIC: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FIXED_NEWSTYLE: u16 = 1;
const OPT_ABORT: u32 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_UNSUPPORTED: u32 = (1 << 31) | 1;
const HAS_FLAGS: u16 = 1;
const SEND_FLUSH: u16 = 4;
const READ: u32 = 0;
const WRITE: u32 = 1;
const DISCONNECT: u32 = 2;
const FLUSH: u32 = 3;
const OPTION_BYTES_MAX: u32 = 4096;
const IO_ERROR: i32 = 5;
const INVALID: i32 = 22;
const NO_SPACE: i32 = 28;

/// Says whether the client wants the disk.
fn negotiate(stream: &mut UnixStream, bytes: u64) -> io::Result<bool> {
    stream.write_all(INIT_MAGIC)?;
    stream.write_all(OPTION_MAGIC)?;
    stream.write_all(&FIXED_NEWSTYLE.to_be_bytes())?;
    let mut client_flags = [0; 4];
    stream.read_exact(&mut client_flags)?;
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        if &head[..8] != OPTION_MAGIC {
            return Err(io::Error::other("an option without its magic number"));
        }
        let (option, length) = (u32_at(&head, 8), u32_at(&head, 12));
        if length > OPTION_BYTES_MAX {
            return Err(io::Error::other(format!("an option of {length} bytes")));
        }
        io::copy(
            &mut Read::by_ref(stream).take(length.into()),
            &mut io::sink(),
        )?;
        let mut answer = |kind: u32, data: &[u8]| -> io::Result<()> {
            let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            reply.extend_from_slice(&option.to_be_bytes());
            reply.extend_from_slice(&kind.to_be_bytes());
            reply.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
            reply.extend_from_slice(data);
            stream.write_all(&reply)
        };
        match option {
            OPT_GO => {
                let mut export = 0_u16.to_be_bytes().to_vec();
                export.extend_from_slice(&bytes.to_be_bytes());
                export.extend_from_slice(&(HAS_FLAGS | SEND_FLUSH).to_be_bytes());
                answer(REP_INFO, &export)?;
                answer(REP_ACK, &[])?;
                return Ok(true);
            }
            OPT_ABORT => {
                answer(REP_ACK, &[])?;
                return Ok(false);
            }
            _ => answer(REP_UNSUPPORTED, &[])?,
        }
    }
}

fn pieces(write: &CachedWrite) -> impl Iterator<Item = (&[u8], u64)> {
    let mut at = write.at;
    let mut rest = write.data.as_slice();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let into = usize::try_from(at % PIECE_BYTES as u64).unwrap_or(0);
        let (piece, after) = rest.split_at(rest.len().min(PIECE_BYTES - into));
        let here = (piece, at);
        at += piece.len() as u64;
        rest = after;
        Some(here)
    })
}

fn offset(of: u64, from: u64) -> io::Result<usize> {
    usize::try_from(of - from).map_err(io::Error::other)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at)) << 32) | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn disk(bytes: u64) -> Disk {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        Disk::open(file.path()).unwrap()
    }

    #[test]
    fn what_was_flushed_survives_every_cut_and_the_rest_sometimes() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut kept, mut lost) = (false, false);
        for _ in 0..50 {
            let mut disk = disk(64 * 1024);
            disk.write(1000, vec![1; 9000]).unwrap();
            disk.flush().unwrap();
            disk.write(8192, vec![2; 3 * 4096]).unwrap();
            disk.write(512, vec![3; 512]).unwrap();
            // Before the cut the machine reads what it wrote.
            assert_eq!(disk.read(511, 2).unwrap(), [0, 3]);
            assert_eq!(disk.read(8191, 2).unwrap(), [1, 2]);
            let forgotten = disk.cut(&mut rng).unwrap();
            assert_eq!(forgotten.cached_bytes, 3 * 4096 + 512);
            assert_eq!(forgotten.flushes, 1);
            assert_eq!(disk.read(1024, 100).unwrap(), [1; 100]);
            for at in [8192, 12_288, 16_384] {
                let piece = disk.read(at, PIECE_BYTES).unwrap();
                // Whole or not at all.
                let whole = piece.iter().all(|b| *b == 2);
                assert!(whole || !piece.contains(&2));
                kept |= whole;
                lost |= !whole;
            }
        }
        assert!(kept && lost);
    }

    #[test]
    fn nothing_is_read_or_written_beyond_the_end() {
        let mut disk = disk(4096);
        assert!(disk.read(4096, 1).is_err());
        assert!(disk.write(u64::MAX, vec![0; 2]).is_err());
        assert!(disk.write(4000, vec![0; 96]).is_ok());
    }
}
