//! The store of one charge point: a SQLite file, or memory for one that need not outlive its process.
//!
//! One transaction a call, synced before it returns (WAL, `synchronous=FULL`). The file is locked
//! for one process, so that two agents never share an epoch. The disk is waited for on the
//! runtime's threads for blocking work, which many stores share.
//!
//! On a full disk SQLite needs room to make room: freed records go through the write-ahead log, and
//! that log gets shorter only when the file has grown by what is new in it. So the log is bounded, and
//! a reserve lies beside the store: it is given back for that and for commits that free something, and
//! taken again as soon as there is room.

use std::{
    collections::VecDeque,
    future::{Future, ready},
    io::{self, Read as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use edge_core::{
    Row, Stored,
    connector::ConnectorRow,
    mend::Mend,
    session::{SessionRow, StoredSession},
    spool,
};
use ev_contract::{
    ids::Epoch,
    time::UnixMs,
    v1::{ConnectorSpec, EdgeFact, EdgeRecord},
    wire::{Encoding, decode, encode},
};
use rusqlite::{Connection, Transaction, params};
use tokio::task::spawn_blocking;

/// The version of the tables. A store of a newer one is refused.
const SCHEMA_VERSION: i64 = 2;

/// The write-ahead log is copied into the file when it has so many pages of 4 KiB: a dozen commits, so
/// that not each of them pays for it.
const WAL_PAGES: u32 = 48;
/// Above this it could not be copied before, or one transaction was that large; it is cut to nothing
/// before anything else is written.
const WAL_BYTES_MAX: u64 = 256 * 1024;
/// As much as the file can have to grow by for the log to be copied.
const RESERVE_BYTES: u64 = WAL_BYTES_MAX;
/// Records that are freed at once on a full disk: the pages that change with them fit into the reserve,
/// as long as records are of a usual size.
const FREED_AT_ONCE: u64 = 16;
/// What a charge point needs on the disk: 2 MiB for what is always kept (results of commands, ended
/// sessions, transactions, the log, the reserve), the rest for some 15,000 records, ten days offline
/// of one car that charges all the time.
pub const BYTES_MIN: u64 = 8 * 1024 * 1024;

/// How old a record may be that is sent again under a new epoch. Central forgets a session 30 days after its
/// end, unless it is told otherwise (`keep_sessions_s`), and would take its beginning for a new one.
pub const RENEWED_DAYS_MAX: i64 = 25;

/// SQLite's cache of one file, in KiB. All that is read again is the tail of the spool and a few
/// rows; the default of 2 MiB would fill with a day's records and stay so.
const CACHE_KIB: u32 = 256;

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE spool (seq INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, connector INTEGER NOT NULL,
    open INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE device_tx (origin TEXT PRIMARY KEY, device_tx TEXT NOT NULL, start_number INTEGER,
    connector INTEGER NOT NULL, session_id TEXT, ended INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE commands (command_id TEXT PRIMARY KEY, session_id TEXT, outcome TEXT NOT NULL,
    body TEXT NOT NULL) STRICT;
CREATE TABLE mends (n INTEGER PRIMARY KEY, until INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE connectors (connector INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
INSERT INTO meta VALUES ('next_seq', '1'), ('probe', '0'), ('boots', '0'), ('confirmed', '');
";

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite or the disk.
    #[error("{what}")]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: rusqlite::Error,
    },
    /// What was read is not what was written.
    #[error("{what} cannot be read: {why}")]
    Content {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// There is none.
    #[error("there is no store {0}")]
    Absent(PathBuf),
    /// Another copy may have sent what is in it, so long ago that central has forgotten it.
    #[error(
        "record {0} is from longer than {RENEWED_DAYS_MAX} days ago: it may be billed already, and would be billed \
         again; move the store away, begin with none, and have an operator look at what it has"
    )]
    TooOld(u64),
    /// Written by a newer agent.
    #[error("the store has version {0}, this agent knows {SCHEMA_VERSION}")]
    Newer(i64),
    /// The room that is kept for a full disk.
    #[error("give the store's reserve back")]
    Reserve(#[source] io::Error),
    /// The disk has no room to keep.
    #[error("the disk has no room for the store to grow")]
    Full(#[source] io::Error),
    /// What was asked of it came to no end.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the disk has no room.
    fn is_full(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Full(_) => true,
            Self::Content { .. }
            | Self::Newer(_)
            | Self::Absent(_)
            | Self::TooOld(_)
            | Self::Reserve(_)
            | Self::Closed => false,
        }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

fn sqlite(what: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { what, source }
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this file.
    File(PathBuf),
    /// In memory: gone with the process.
    Memory,
}

/// What became of a store that got another epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Its epoch so far.
    pub before: Epoch,
    /// Its epoch from now on.
    pub epoch: String,
    /// The records that wait in it.
    pub records: u64,
}

/// A store. One that is dropped waits for the disk where it is; [`Store::close`] does not.
#[derive(Debug)]
pub struct Store(Kept);

#[derive(Debug)]
enum Kept {
    File(Arc<Mutex<Disk>>),
    Memory(Mutex<Memory>),
}

/// A store on the disk.
#[derive(Debug)]
struct Disk {
    connection: Connection,
    /// The write-ahead log.
    wal: PathBuf,
    reserve: PathBuf,
}

impl Disk {
    fn open(path: &Path) -> Result<(Self, Stored), StoreError> {
        let beside = |what: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(what);
            PathBuf::from(name)
        };
        let (wal, reserve) = (beside("-wal"), beside("-reserve"));
        let mut disk = Self {
            connection: connect(path)?,
            wal,
            reserve,
        };
        let stored = match load(&mut disk.connection) {
            Err(e) if e.is_full() => {
                disk.make_room()?;
                load(&mut disk.connection)?
            }
            loaded => loaded?,
        };
        if let Err(error) = disk.keep_room() {
            tracing::warn!(store = %path.display(), error = chain(&error), "the disk is full; nothing new can be stored until there is room");
        }
        Ok((disk, stored))
    }

    fn commit(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let freed = rows.iter().rev().find_map(|row| match row {
            Row::Free { below } => Some(*below),
            _ => None,
        });
        match (self.keep_room(), freed) {
            (Err(e), None) => return Err(e),
            (Err(_), Some(below)) => self.free_in_pieces(below)?,
            (Ok(()), _) => {}
        }
        match (commit(&mut self.connection, rows), freed) {
            (Err(e), Some(below)) if e.is_full() => {
                self.free_in_pieces(below)?;
                commit(&mut self.connection, rows)
            }
            (done, _) => done,
        }
    }

    /// Frees records on a full disk, with no more room than the reserve, and gives the disk back what
    /// they took until the reserve can be taken again.
    fn free_in_pieces(&mut self, below: u64) -> Result<(), StoreError> {
        self.make_room()?;
        while let Some(first) = first_record(&self.connection)?.filter(|first| *first < below) {
            let piece = Row::Free {
                below: below.min(first + FREED_AT_ONCE),
            };
            commit(&mut self.connection, &[piece])?;
            self.cut_log()?;
        }
        let failed = "give room of the store back to the disk";
        while self.has_no_room() {
            let free: i64 = self
                .connection
                .query_row("PRAGMA freelist_count", [], |row| row.get(0))
                .map_err(sqlite(failed))?;
            if free == 0 {
                break;
            }
            // Gives a page back at each step.
            self.connection
                .prepare(&format!("PRAGMA incremental_vacuum({FREED_AT_ONCE})"))
                .and_then(|mut vacuum| {
                    let mut pages = vacuum.query([])?;
                    while pages.next()?.is_some() {}
                    Ok(())
                })
                .map_err(sqlite(failed))?;
            self.cut_log()?;
        }
        Ok(())
    }

    /// Keeps the log within its bound, and the reserve: without it the store must not grow.
    fn keep_room(&mut self) -> Result<(), StoreError> {
        if len_of(&self.wal) > WAL_BYTES_MAX {
            match self.cut_log() {
                Err(e) if e.is_full() => self.make_room()?,
                cut => cut?,
            }
        }
        if len_of(&self.reserve) >= RESERVE_BYTES {
            return Ok(());
        }
        let taken = if self.has_no_room() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            self.reserve()
        };
        match taken {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                self.release()?;
                Err(StoreError::Full(e))
            }
            Err(error) => {
                tracing::debug!(%error, "the store has no reserve");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn make_room(&mut self) -> Result<(), StoreError> {
        self.release()?;
        self.cut_log()
    }

    /// Copies the log into the file and cuts it to nothing.
    fn cut_log(&self) -> Result<(), StoreError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(sqlite("copy the store's log into it"))
    }

    /// Whether the disk cannot take both the reserve and the log at its bound.
    fn has_no_room(&self) -> bool {
        let folder = self.wal.parent().unwrap_or(Path::new("."));
        let rest = WAL_BYTES_MAX.saturating_sub(len_of(&self.wal));
        rustix::fs::statvfs(folder)
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < RESERVE_BYTES + rest)
    }

    fn reserve(&self) -> io::Result<()> {
        let mut file = std::fs::File::create(&self.reserve)?;
        let mode = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&file, mode, 0, RESERVE_BYTES) {
            // Not every file system can.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                io::copy(&mut io::repeat(0).take(RESERVE_BYTES), &mut file).map(|_| ())
            }
            done => Ok(done?),
        }
    }

    fn release(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(&self.reserve) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Reserve(source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A session that is open in a store, and its connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// Which.
    pub id: ev_contract::ids::SessionId,
    /// Where, as that connector was last configured.
    pub spec: ConnectorSpec,
}

/// The open sessions in a store that no agent uses; none where there is no store yet.
///
/// # Errors
/// When an agent uses it, or it cannot be read.
pub fn open_sessions(path: &Path) -> Result<Vec<OpenSession>, StoreError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let connection = Connection::open(path).map_err(sqlite("open the store"))?;
    let sessions: Vec<SessionRow> = bodies(&connection, "sessions")?;
    let connectors: Vec<ConnectorRow> = bodies(&connection, "connectors")?;
    let open = sessions
        .into_iter()
        .filter(|row| matches!(row.state, StoredSession::Open(_)));
    let there = open.filter_map(|session| {
        let row = connectors
            .iter()
            .find(|row| row.connector == session.connector);
        Some(OpenSession {
            id: session.id,
            spec: row?.spec.clone()?,
        })
    });
    Ok(there.collect())
}

/// Bytes of a file; 0 when it is not there.
fn len_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Bytes that the stores of these charge points lack on the disk of the folder, if it is known.
#[must_use]
pub fn lacking_bytes<'a>(
    state_dir: &Path,
    cps: impl Iterator<Item = &'a ev_contract::ids::CpId>,
) -> Option<u64> {
    let room = rustix::fs::statvfs(state_dir).ok()?;
    let needed: u64 = cps
        .map(|cp| BYTES_MIN.saturating_sub(len_of(&Store::path(state_dir, cp))))
        .sum();
    Some(needed.saturating_sub(room.f_bavail.saturating_mul(room.f_frsize)))
}

/// All that is ever read again while the process lives.
#[derive(Debug)]
struct Memory {
    first: u64,
    spool: VecDeque<Vec<u8>>,
    mends: Vec<Mend>,
}

impl Store {
    /// Opens or makes the store of a charge point and reads what it has. Waits for the disk.
    ///
    /// # Errors
    /// When the file cannot be opened, locked or understood.
    pub fn open(path: &Path) -> Result<(Self, Stored), StoreError> {
        let (disk, stored) = Disk::open(path)?;
        Ok((Self(Kept::File(Arc::new(Mutex::new(disk)))), stored))
    }

    /// A new store in memory.
    ///
    /// # Errors
    /// None that could happen: a fresh epoch is one.
    pub fn in_memory() -> Result<(Self, Stored), StoreError> {
        let epoch = fresh_epoch().parse().map_err(|e| StoreError::Content {
            what: "the epoch".to_owned(),
            why: format!("{e}"),
        })?;
        let stored = Stored {
            epoch,
            boots: 1,
            confirmed: None,
            first: 1,
            next: 1,
            connectors: Vec::new(),
            sessions: Vec::new(),
            commands: Vec::new(),
            txs: Vec::new(),
        };
        let memory = Memory {
            first: 1,
            spool: VecDeque::new(),
            mends: Vec::new(),
        };
        Ok((Self(Kept::Memory(Mutex::new(memory))), stored))
    }

    /// Makes a store that was copied or set back another one: it gets an epoch of its own, under which
    /// its records are numbered anew. What it has stays: sessions, results of commands, and the
    /// records that central does not have. No agent may have it open.
    ///
    /// # Errors
    /// When there is no such file, it cannot be opened, locked, understood or written, or a record in it
    /// is from longer before `now` than [`RENEWED_DAYS_MAX`].
    pub fn new_epoch(path: &Path, now: UnixMs) -> Result<Renewed, StoreError> {
        if !path.exists() {
            return Err(StoreError::Absent(path.to_owned()));
        }
        let mut connection = connect(path)?;
        let stored = load(&mut connection)?;
        renew(&mut connection, &stored, now)
    }

    /// Opens the store in a place.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_at(place: &Place) -> Result<(Self, Stored), StoreError> {
        match place {
            Place::Memory => Self::in_memory(),
            Place::File(path) => {
                let path = path.clone();
                spawn_blocking(move || Self::open(&path))
                    .await
                    .unwrap_or(Err(StoreError::Closed))
            }
        }
    }

    /// Where the store of a charge point is.
    #[must_use]
    pub fn path(state_dir: &Path, cp: &ev_contract::ids::CpId) -> PathBuf {
        state_dir.join(format!("{cp}.db"))
    }

    /// Commits rows in one transaction. None at all is a probe whether the disk takes writes. It has
    /// begun when this returns, whether it is waited for or not.
    ///
    /// # Errors
    /// Gives the rows back, also those of a job that panicked: nothing of them is stored.
    pub fn commit(&self, rows: Vec<Row>) -> Commit {
        match &self.0 {
            Kept::Memory(memory) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                Box::pin(ready(memory.commit(&rows).map_err(|e| (rows, e))))
            }
            Kept::File(file) => {
                let file = Arc::clone(file);
                on_the_disk(rows, move |rows| {
                    let mut disk = file.lock().unwrap_or_else(PoisonError::into_inner);
                    disk.commit(rows)
                })
            }
        }
    }

    /// The records of one run, from `from` to below `until`, as many as a run may have.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn read_run(&self, from: u64, until: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        match &self.0 {
            Kept::Memory(memory) => {
                let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.read_run(from, until)
            }
            Kept::File(file) => {
                let file = Arc::clone(file);
                let job = move || {
                    let disk = file.lock().unwrap_or_else(PoisonError::into_inner);
                    read_run(&disk.connection, from, until)
                };
                spawn_blocking(job).await.unwrap_or(Err(StoreError::Closed))
            }
        }
    }

    /// Closes the file in order.
    pub async fn close(self) {
        if spawn_blocking(move || drop(self)).await.is_err() {
            tracing::warn!("the store was not closed in order");
        }
    }
}

/// A commit under way.
pub type Commit = Pin<Box<dyn Future<Output = Result<(), (Vec<Row>, StoreError)>> + Send>>;

/// Writes rows on a thread that may wait for the disk.
fn on_the_disk(
    rows: Vec<Row>,
    write: impl FnOnce(&[Row]) -> Result<(), StoreError> + Send + 'static,
) -> Commit {
    let rows = Arc::new(rows);
    let job = spawn_blocking({
        let rows = Arc::clone(&rows);
        move || write(&rows)
    });
    Box::pin(async move {
        let done = job.await.unwrap_or(Err(StoreError::Closed));
        done.map_err(|e| (Arc::unwrap_or_clone(rows), e))
    })
}

impl Memory {
    fn commit(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        for row in rows {
            match row {
                Row::Append(record) => {
                    let bytes = encode(&**record, Encoding::MsgPack)
                        .map_err(|e| sqlite("write to the store")(unwritable(e)))?;
                    self.spool.push_back(bytes);
                }
                Row::Mend(mend) => self.mends.push(*mend),
                Row::Free { below } => {
                    self.mends.retain(|mend| mend.until > *below);
                    while self.first < *below && self.spool.pop_front().is_some() {
                        self.first += 1;
                    }
                }
                // Read again by a later process only.
                Row::Session(_)
                | Row::DropSession(_)
                | Row::Command(_)
                | Row::DropCommand(_)
                | Row::Tx(_)
                | Row::DropTx(_)
                | Row::Connector(_)
                | Row::Confirmed(_) => {}
            }
        }
        Ok(())
    }

    fn read_run(&self, from: u64, until: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let count = usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX);
        let there = || self.spool.iter().skip(skip).take(count);
        let count = spool::run_len(there().map(Vec::len));
        let mut records: Vec<_> = there().take(count).cloned().collect();
        for record in &mut records {
            mended(record, &self.mends)?;
        }
        Ok(records)
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(sqlite("open the store"))?;
    connection
        .busy_timeout(std::time::Duration::from_secs(2))
        .map_err(sqlite("set the lock's patience"))?;
    connection
        .execute_batch(&format!(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA cache_size = -{CACHE_KIB};
             PRAGMA wal_autocheckpoint = {WAL_PAGES};
             PRAGMA journal_size_limit = {WAL_BYTES_MAX};
             BEGIN IMMEDIATE; COMMIT;"
        ))
        .map_err(sqlite("lock the store (does another agent use it?)"))?;
    Ok(connection)
}

fn load(connection: &mut Connection) -> Result<Stored, StoreError> {
    let version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite("read the store's version"))?;
    if version > SCHEMA_VERSION {
        return Err(StoreError::Newer(version));
    }
    if version == 0 {
        create(connection)?;
    }
    let boots = count_boot(connection)?;
    let meta = |key: &str| -> Result<String, StoreError> {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?", [key], |r| r.get(0))
            .map_err(sqlite("read the store's meta data"))
    };
    let content = |what: &str, why: String| StoreError::Content {
        what: what.to_owned(),
        why,
    };
    let epoch: Epoch = meta("epoch")?
        .parse()
        .map_err(|e| content("the epoch", format!("{e}")))?;
    let next: u64 = meta("next_seq")?
        .parse()
        .map_err(|e| content("the next number", format!("{e}")))?;
    let confirmed = match meta("confirmed")?.as_str() {
        "" => None,
        id => Some(
            id.parse()
                .map_err(|e| content("the confirmed boot", format!("{e}")))?,
        ),
    };
    Ok(Stored {
        epoch,
        boots,
        confirmed,
        first: first_record(connection)?.unwrap_or(next),
        next,
        connectors: bodies(connection, "connectors")?,
        sessions: bodies(connection, "sessions")?,
        commands: bodies(connection, "commands")?,
        txs: bodies(connection, "device_tx")?,
    })
}

/// The lowest number in the spool.
fn first_record(connection: &Connection) -> Result<Option<u64>, StoreError> {
    let first: Option<i64> = connection
        .query_row("SELECT min(seq) FROM spool", [], |row| row.get(0))
        .map_err(sqlite("read the spool"))?;
    Ok(first.and_then(|first| u64::try_from(first).ok()))
}

fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let failed = "make the store's tables";
    let tx = connection.transaction().map_err(sqlite(failed))?;
    tx.execute_batch(TABLES).map_err(sqlite(failed))?;
    tx.execute("INSERT INTO meta VALUES ('epoch', ?)", [fresh_epoch()])
        .map_err(sqlite(failed))?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(sqlite(failed))?;
    ev_crash::reach("create", "one");
    tx.commit().map_err(sqlite(failed))
}

/// Counts a start, on the disk before anything of it is sent. On a disk that takes nothing it is counted
/// in memory: without central's answer this agent takes nothing new, and what runs has to be told.
fn count_boot(connection: &Connection) -> Result<u64, StoreError> {
    let failed = "count this start";
    let before: String = connection
        .query_row("SELECT value FROM meta WHERE key = 'boots'", [], |r| {
            r.get(0)
        })
        .map_err(sqlite(failed))?;
    let boots = 1 + before.parse::<u64>().map_err(|e| StoreError::Content {
        what: "the number of starts".to_owned(),
        why: e.to_string(),
    })?;
    let counted = connection.execute(
        "UPDATE meta SET value = ? WHERE key = 'boots'",
        [boots.to_string()],
    );
    if let Err(error) = counted {
        tracing::warn!(%error, boots, "this start could not be counted on the disk");
    }
    Ok(boots)
}

fn renew(connection: &mut Connection, stored: &Stored, now: UnixMs) -> Result<Renewed, StoreError> {
    let failed = "number the records anew";
    let below = stored.first - 1;
    let tx = connection.transaction().map_err(sqlite(failed))?;
    let mends: Vec<Mend> = bodies(&tx, "mends")?;
    tx.execute("DELETE FROM mends", [])
        .map_err(sqlite(failed))?;
    for seq in stored.first..stored.next {
        let at = sql_seq(seq).map_err(sqlite(failed))?;
        let bytes: Vec<u8> = tx
            .query_row("SELECT record FROM spool WHERE seq = ?", [at], |r| r.get(0))
            .map_err(sqlite(failed))?;
        let content = |why: String| StoreError::Content {
            what: format!("record {seq}"),
            why,
        };
        let mut record: EdgeRecord =
            decode(&bytes, Encoding::MsgPack).map_err(|e| content(e.to_string()))?;
        mends.iter().for_each(|mend| mend.apply(&mut record));
        if now.ms_since(record.at) > RENEWED_DAYS_MAX * 24 * 3_600 * 1_000 {
            return Err(StoreError::TooOld(seq));
        }
        record.seq = seq - below;
        let bytes = encode(&record, Encoding::MsgPack).map_err(|e| content(e.to_string()))?;
        tx.prepare_cached("UPDATE spool SET seq = ?, record = ? WHERE seq = ?")
            .and_then(|mut s| s.execute(params![sql_seq(record.seq)?, bytes, at]))
            .map_err(sqlite(failed))?;
    }
    // Ended sessions are kept until their last record has left the spool.
    for row in &stored.sessions {
        if let StoredSession::Ended { seq } = row.state {
            let row = SessionRow {
                state: StoredSession::Ended {
                    seq: seq.saturating_sub(below),
                },
                ..row.clone()
            };
            write(&tx, &Row::Session(Box::new(row)))?;
        }
    }
    let epoch = fresh_epoch();
    let meta = [
        ("epoch", epoch.clone()),
        ("next_seq", (stored.next - below).to_string()),
        ("confirmed", String::new()),
    ];
    for (key, value) in meta {
        tx.execute("UPDATE meta SET value = ? WHERE key = ?", [&value, key])
            .map_err(sqlite(failed))?;
    }
    tx.commit().map_err(sqlite("commit to the store"))?;
    Ok(Renewed {
        before: stored.epoch.clone(),
        epoch,
        records: stored.next - stored.first,
    })
}

fn fresh_epoch() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn bodies<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    table: &str,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection
        .prepare(&format!("SELECT body FROM {table} ORDER BY rowid"))
        .map_err(sqlite("read the store"))?;
    let rows = statement
        .query_map([], |row| row.get::<_, String>(0))
        .map_err(sqlite("read the store"))?;
    rows.map(|body| {
        let body = body.map_err(sqlite("read the store"))?;
        serde_json::from_str(&body).map_err(|e| StoreError::Content {
            what: format!("a row of {table}"),
            why: e.to_string(),
        })
    })
    .collect()
}

fn commit(connection: &mut Connection, rows: &[Row]) -> Result<(), StoreError> {
    let tx = connection
        .transaction()
        .map_err(sqlite("begin a transaction"))?;
    if rows.is_empty() {
        tx.execute("UPDATE meta SET value = value + 1 WHERE key = 'probe'", [])
            .map_err(sqlite("write to the store"))?;
    }
    for row in rows {
        write(&tx, row)?;
    }
    ev_crash::reach("commit", commit_kind(rows));
    tx.commit().map_err(sqlite("commit to the store"))?;
    ev_crash::reach("committed", commit_kind(rows));
    Ok(())
}

/// What a commit is named after where it passes a crash point.
fn commit_kind(rows: &[Row]) -> &'static str {
    if !ev_crash::ARMED {
        return "record";
    }
    let has = |kind: &&&str| {
        rows.iter().any(|row| match row {
            Row::Command(_) => **kind == "command",
            Row::Append(record) => {
                **kind
                    == match record.fact {
                        EdgeFact::Started { .. } => "started",
                        EdgeFact::Phase { .. } => "phase",
                        EdgeFact::EnergyEnded { .. } => "energy-ended",
                        EdgeFact::Ended { .. } => "ended",
                        EdgeFact::Accepted { .. }
                        | EdgeFact::OpenedAtEdge { .. }
                        | EdgeFact::Checkpoint { .. }
                        | EdgeFact::Connector { .. }
                        | EdgeFact::Booted { .. }
                        | EdgeFact::Anomaly { .. } => "record",
                    }
            }
            Row::Free { .. } => **kind == "free",
            Row::Session(_)
            | Row::DropSession(_)
            | Row::DropCommand(_)
            | Row::Tx(_)
            | Row::DropTx(_)
            | Row::Mend(_)
            | Row::Connector(_)
            | Row::Confirmed(_) => **kind == "record",
        })
    };
    ev_crash::COMMIT_KINDS.iter().find(has).unwrap_or(&"record")
}

fn write(tx: &Transaction<'_>, row: &Row) -> Result<(), StoreError> {
    let done = match row {
        Row::Session(row) => {
            let open = matches!(row.state, StoredSession::Open(_));
            tx.prepare_cached("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)")
                .and_then(|mut s| {
                    s.execute(params![
                        row.id.to_string(),
                        row.connector.0,
                        open,
                        body(row)?
                    ])
                })
        }
        Row::DropSession(id) => tx
            .prepare_cached("DELETE FROM sessions WHERE session_id = ?")
            .and_then(|mut s| s.execute([id.to_string()])),
        Row::Command(row) => tx
            .prepare_cached("INSERT OR REPLACE INTO commands VALUES (?, ?, ?, ?)")
            .and_then(|mut s| {
                s.execute(params![
                    row.command_id.as_str(),
                    row.session_id.map(|s| s.to_string()),
                    row.outcome.as_str(),
                    body(row)?
                ])
            }),
        Row::DropCommand(id) => tx
            .prepare_cached("DELETE FROM commands WHERE command_id = ?")
            .and_then(|mut s| s.execute([id.as_str()])),
        Row::Tx(row) => tx
            .prepare_cached("INSERT OR REPLACE INTO device_tx VALUES (?, ?, ?, ?, ?, ?, ?)")
            .and_then(|mut s| {
                s.execute(params![
                    row.origin.0,
                    row.device_tx.0,
                    row.start_number.map(|n| n.0),
                    row.connector.0,
                    row.session_id.map(|s| s.to_string()),
                    row.ended,
                    body(row)?
                ])
            }),
        Row::DropTx(origin) => tx
            .prepare_cached("DELETE FROM device_tx WHERE origin = ?")
            .and_then(|mut s| s.execute([&origin.0])),
        Row::Connector(row) => tx
            .prepare_cached("INSERT OR REPLACE INTO connectors VALUES (?, ?)")
            .and_then(|mut s| s.execute(params![row.connector.0, body(row)?])),
        Row::Confirmed(boot) => tx
            .prepare_cached("UPDATE meta SET value = ? WHERE key = 'confirmed'")
            .and_then(|mut s| s.execute([boot.to_string()])),
        Row::Append(record) => append(tx, record),
        Row::Mend(mend) => tx
            .prepare_cached("INSERT INTO mends (until, body) VALUES (?, ?)")
            .and_then(|mut s| s.execute(params![sql_seq(mend.until)?, body(mend)?])),
        Row::Free { below } => free(tx, *below),
    };
    done.map(|_| ()).map_err(sqlite("write to the store"))
}

fn append(tx: &Transaction<'_>, record: &EdgeRecord) -> rusqlite::Result<usize> {
    let bytes = encode(record, Encoding::MsgPack).map_err(unwritable)?;
    tx.prepare_cached("INSERT INTO spool VALUES (?, ?)")?
        .execute(params![sql_seq(record.seq)?, bytes])?;
    tx.prepare_cached("UPDATE meta SET value = ? WHERE key = 'next_seq'")?
        .execute([(record.seq + 1).to_string()])
}

fn free(tx: &Transaction<'_>, below: u64) -> rusqlite::Result<usize> {
    let below = sql_seq(below)?;
    tx.prepare_cached("DELETE FROM mends WHERE until <= ?")?
        .execute([below])?;
    tx.prepare_cached("DELETE FROM spool WHERE seq < ?")?
        .execute([below])
}

fn sql_seq(seq: u64) -> rusqlite::Result<i64> {
    i64::try_from(seq).map_err(unwritable)
}

fn body<T: serde::Serialize>(row: &T) -> rusqlite::Result<String> {
    serde_json::to_string(row).map_err(unwritable)
}

fn unwritable(e: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(e))
}

fn read_run(connection: &Connection, from: u64, until: u64) -> Result<Vec<Vec<u8>>, StoreError> {
    let failed = "read the spool";
    let bound = i64::try_from(ev_contract::limits::EVT_RECORDS_MAX).unwrap_or(i64::MAX);
    let mut statement = connection
        .prepare_cached("SELECT record FROM spool WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?")
        .map_err(sqlite(failed))?;
    let from = sql_seq(from).map_err(sqlite(failed))?;
    let until = sql_seq(until).map_err(sqlite(failed))?;
    let rows = statement
        .query_map(params![from, until, bound], |row| row.get::<_, Vec<u8>>(0))
        .map_err(sqlite(failed))?;
    let mut records = rows
        .collect::<rusqlite::Result<Vec<_>>>()
        .map_err(sqlite(failed))?;
    let mends: Vec<Mend> = bodies(connection, "mends")?;
    for record in &mut records {
        mended(record, &mends)?;
    }
    records.truncate(spool::run_len(records.iter().map(Vec::len)));
    Ok(records)
}

/// A record with all corrections of it, in their order. They lie beside the records, so that one that
/// concerns weeks of them costs no more than one row.
fn mended(bytes: &mut Vec<u8>, mends: &[Mend]) -> Result<(), StoreError> {
    if mends.is_empty() {
        return Ok(());
    }
    let mut record: EdgeRecord =
        decode(bytes, Encoding::MsgPack).map_err(|e| StoreError::Content {
            what: "a record of the spool".to_owned(),
            why: e.0,
        })?;
    for mend in mends {
        mend.apply(&mut record);
    }
    *bytes =
        encode(&record, Encoding::MsgPack).map_err(|e| sqlite("read the spool")(unwritable(e)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rows_of_a_job_that_panicked_come_back() {
        let rows = vec![Row::Free { below: 7 }];
        let panics = on_the_disk(rows.clone(), |_| panic!("a defect"));
        let (back, error) = panics.await.expect_err("nothing was written");
        assert_eq!(back, rows);
        assert!(matches!(error, StoreError::Closed), "{error}");
    }
}
