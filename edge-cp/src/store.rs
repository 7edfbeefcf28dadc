//! The store of one charge point: a SQLite file, or memory for one that need not outlive its process.
//!
//! One transaction a call, synced before it returns (WAL, `synchronous=FULL`). The file is locked
//! for one process, so that two agents never share an epoch. The disk is waited for on the
//! runtime's threads for blocking work, which many stores share.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use edge_core::{
    Row, Stored,
    session::{SessionRow, StoredSession},
    spool,
};
use ev_contract::{
    ids::Epoch,
    v1::{EdgeFact, EdgeRecord},
    wire::{Encoding, decode, encode},
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::task::spawn_blocking;

/// The version of the tables. A store of a newer one is refused.
const SCHEMA_VERSION: i64 = 2;

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
    /// Written by a newer agent.
    #[error("the store has version {0}, this agent knows {SCHEMA_VERSION}")]
    Newer(i64),
    /// What was asked of it came to no end.
    #[error("the store is closed")]
    Closed,
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
    File(Arc<Mutex<Connection>>),
    Memory(Mutex<Memory>),
}

/// All that is ever read again while the process lives.
#[derive(Debug)]
struct Memory {
    first: u64,
    spool: VecDeque<Vec<u8>>,
}

impl Store {
    /// Opens or makes the store of a charge point and reads what it has. Waits for the disk.
    ///
    /// # Errors
    /// When the file cannot be opened, locked or understood.
    pub fn open(path: &Path) -> Result<(Self, Stored), StoreError> {
        let mut connection = connect(path)?;
        let stored = load(&mut connection)?;
        let kept = Kept::File(Arc::new(Mutex::new(connection)));
        Ok((Self(kept), stored))
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
        };
        Ok((Self(Kept::Memory(Mutex::new(memory))), stored))
    }

    /// Makes a store that was copied or set back another one: it gets an epoch of its own, under which
    /// its records are numbered anew. What it has stays: sessions, results of commands, and the
    /// records that central does not have. No agent may have it open.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be opened, locked, understood or written.
    pub fn new_epoch(path: &Path) -> Result<Renewed, StoreError> {
        if !path.exists() {
            return Err(StoreError::Absent(path.to_owned()));
        }
        let mut connection = connect(path)?;
        let stored = load(&mut connection)?;
        renew(&mut connection, &stored)
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

    /// Commits rows in one transaction. None at all is a probe whether the disk takes writes.
    ///
    /// # Errors
    /// Gives the rows back: nothing of them is stored.
    pub async fn commit(&self, rows: Vec<Row>) -> Result<(), (Vec<Row>, StoreError)> {
        match &self.0 {
            Kept::Memory(memory) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.commit(&rows).map_err(|e| (rows, e))
            }
            Kept::File(file) => {
                let file = Arc::clone(file);
                let job = move || {
                    let mut connection = file.lock().unwrap_or_else(PoisonError::into_inner);
                    commit(&mut connection, &rows).map_err(|e| (rows, e))
                };
                spawn_blocking(job)
                    .await
                    .unwrap_or_else(|_| Err((Vec::new(), StoreError::Closed)))
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
                Ok(memory.read_run(from, until))
            }
            Kept::File(file) => {
                let file = Arc::clone(file);
                let job = move || {
                    let connection = file.lock().unwrap_or_else(PoisonError::into_inner);
                    read_run(&connection, from, until)
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

impl Memory {
    fn commit(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        for row in rows {
            match row {
                Row::Append(record) => {
                    let bytes = encode(&**record, Encoding::MsgPack)
                        .map_err(|e| sqlite("write to the store")(unwritable(e)))?;
                    self.spool.push_back(bytes);
                }
                Row::Free { below } => {
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

    fn read_run(&self, from: u64, until: u64) -> Vec<Vec<u8>> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let count = usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX);
        let there = || self.spool.iter().skip(skip).take(count);
        let count = spool::run_len(there().map(Vec::len));
        there().take(count).cloned().collect()
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
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA cache_size = -{CACHE_KIB};
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
    let first: Option<i64> = connection
        .query_row("SELECT min(seq) FROM spool", [], |row| row.get(0))
        .optional()
        .map_err(sqlite("read the spool"))?
        .flatten();
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
        first: first.and_then(|f| u64::try_from(f).ok()).unwrap_or(next),
        next,
        connectors: bodies(connection, "connectors")?,
        sessions: bodies(connection, "sessions")?,
        commands: bodies(connection, "commands")?,
        txs: bodies(connection, "device_tx")?,
    })
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

fn renew(connection: &mut Connection, stored: &Stored) -> Result<Renewed, StoreError> {
    let failed = "number the records anew";
    let below = stored.first - 1;
    let tx = connection.transaction().map_err(sqlite(failed))?;
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
        .prepare(&format!("SELECT body FROM {table}"))
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
        Row::Free { below } => tx
            .prepare_cached("DELETE FROM spool WHERE seq < ?")
            .and_then(|mut s| s.execute([sql_seq(*below)?])),
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
    records.truncate(spool::run_len(records.iter().map(Vec::len)));
    Ok(records)
}
