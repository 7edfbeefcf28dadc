//! The store as a real file, closed and opened again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use edge_core::{
    Row, Stored,
    clock::Moment,
    connector::ConnectorRow,
    effects::CommandRow,
    hardware::{DeviceTx, OriginKey, StartNumber},
    mend::{Mend, Shift},
    session::{SessionRow, StoredSession},
    transactions::TxRow,
};
use edge_cp::store::{RENEWED_DAYS_MAX, Store, StoreError};
use ev_contract::{
    codes::Code,
    ids::{BootId, CommandId, ConnectorId, SessionId},
    limits::{EVT_BYTES_MAX, EVT_RECORDS_MAX},
    time::UnixMs,
    units::Mwh,
    v1::{EdgeFact, EdgeRecord, Outcome, Reading, TimeQuality},
    wire::{Encoding, decode},
};
use ev_testkit::{PATIENCE, wait_for};
use tempfile::TempDir;

fn record(seq: u64, what: String) -> EdgeRecord {
    EdgeRecord {
        seq,
        at: UnixMs(1),
        quality: TimeQuality::Synced,
        fact: EdgeFact::Anomaly {
            connector: None,
            session_id: None,
            what,
        },
    }
}

fn append(seq: u64) -> Row {
    Row::Append(Box::new(record(seq, "x".into())))
}

/// The lock of a store that was just dropped is released by its thread.
async fn reopen(path: &Path) -> (Store, Stored) {
    wait_for("the store is free", PATIENCE, async || {
        Ok(Store::open(path)?)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn everything_is_there_again_and_the_epoch_is_the_same() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("CP-001.db");
    let (store, fresh) = Store::open(&path).unwrap();
    assert_eq!((fresh.first, fresh.next), (1, 1));
    let id = SessionId::from_uuid(uuid::Uuid::now_v7());
    let session = SessionRow {
        id,
        connector: ConnectorId(1),
        state: StoredSession::Ended { seq: 2 },
    };
    let command = CommandRow {
        command_id: CommandId::start(id),
        n: 1,
        session_id: Some(id),
        tombstone: false,
        outcome: Outcome::Refused,
        code: Some(Code::Occupied),
        raw: None,
        deadline: Some(UnixMs(9)),
    };
    let tx = TxRow {
        origin: OriginKey("1-1".into()),
        n: 1,
        device_tx: DeviceTx("-1".into()),
        connector: ConnectorId(1),
        start_number: Some(StartNumber(7)),
        session_id: Some(id),
        start: Reading {
            at: UnixMs(1),
            quality: TimeQuality::Unsure,
            register_mwh: Mwh(u64::MAX),
            meter_id: "m".into(),
            meter_epoch: 1,
            power_mw: None,
            current_ma: vec![],
            soc_pct: None,
            signed: Some(vec![0, 1, 255]),
        },
        began: Moment::before_boot(UnixMs(1)),
        ended: true,
        end_register: None,
        end_wall: None,
    };
    let connector = ConnectorRow::new(ConnectorId(1));
    store
        .commit(vec![
            append(1),
            append(2),
            append(3),
            Row::Session(Box::new(session.clone())),
            Row::Command(command.clone()),
            Row::Tx(Box::new(tx.clone())),
            Row::Connector(Box::new(connector.clone())),
            Row::Free { below: 3 },
        ])
        .await
        .unwrap();
    drop(store);

    let (store, again) = reopen(&path).await;
    assert_eq!(again.epoch, fresh.epoch);
    assert_eq!((again.first, again.next), (3, 4));
    assert_eq!(again.sessions, [session]);
    assert_eq!(again.commands, std::slice::from_ref(&command));
    assert_eq!(again.txs, std::slice::from_ref(&tx));
    assert_eq!(again.connectors, [connector]);
    store
        .commit(vec![
            Row::Free { below: 4 },
            Row::DropSession(id),
            Row::DropCommand(command.command_id),
            Row::DropTx(tx.origin),
        ])
        .await
        .unwrap();
    drop(store);
    let (_, empty) = reopen(&path).await;
    assert_eq!(
        (empty.first, empty.next),
        (4, 4),
        "numbers are never reused"
    );
    assert!(empty.sessions.is_empty() && empty.commands.is_empty() && empty.txs.is_empty());
}

#[tokio::test]
async fn a_run_is_as_long_as_an_evt_may_be() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(&dir.path().join("a.db")).unwrap();
    store.commit((1..=300).map(append).collect()).await.unwrap();
    let run = store.read_run(2, 301).await.unwrap();
    assert_eq!(run.len(), EVT_RECORDS_MAX);
    let first: EdgeRecord = decode(&run[0], Encoding::MsgPack).unwrap();
    assert_eq!(first.seq, 2);
    assert_eq!(store.read_run(2, 5).await.unwrap().len(), 3);

    let (store, _) = Store::open(&dir.path().join("b.db")).unwrap();
    let large = |seq| Row::Append(Box::new(record(seq, "x".repeat(10_000))));
    store.commit((1..=100).map(large).collect()).await.unwrap();
    let run = store.read_run(1, 101).await.unwrap();
    let bytes: usize = run.iter().map(Vec::len).sum();
    assert!(bytes <= EVT_BYTES_MAX && run.len() > 20, "{}", run.len());
}

#[tokio::test]
async fn a_transaction_that_fails_stores_nothing_and_gives_its_rows_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.db");
    let (store, _) = Store::open(&path).unwrap();
    store.commit(vec![append(1)]).await.unwrap();
    let rows = vec![append(2), append(1)];
    let (back, _) = store.commit(rows.clone()).await.unwrap_err();
    assert_eq!(back, rows);
    drop(store);
    let (_, stored) = reopen(&path).await;
    assert_eq!((stored.first, stored.next), (1, 2));
}

#[tokio::test]
async fn two_agents_never_share_a_store_and_a_newer_one_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.db");
    let (store, _) = Store::open(&path).unwrap();
    assert!(Store::open(&path).is_err());
    drop(store);
    drop(reopen(&path).await);
    let connection = wait_for("the store is free", PATIENCE, async || {
        let connection = rusqlite::Connection::open(&path)?;
        connection.pragma_update(None, "user_version", 99)?;
        Ok(connection)
    })
    .await
    .unwrap();
    drop(connection);
    assert!(matches!(Store::open(&path), Err(StoreError::Newer(99))));
}

#[tokio::test]
async fn records_are_read_with_all_corrections_of_them_until_they_are_freed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.db");
    let (file, _) = Store::open(&path).unwrap();
    let (memory, _) = Store::in_memory().unwrap();
    let unsure = |seq| {
        let mut record = record(seq, "x".into());
        record.quality = TimeQuality::Unsure;
        Row::Append(Box::new(record))
    };
    let mend = |until, by_ms, sure| {
        Row::Mend(Mend {
            from: 2,
            until,
            shift: Shift {
                since: UnixMs(0),
                to: UnixMs(1_000),
                by_ms,
                sure,
            },
        })
    };
    for store in [&file, &memory] {
        store
            .commit(vec![unsure(1), unsure(2), mend(3, 10, false), unsure(3)])
            .await
            .unwrap();
        store.commit(vec![mend(4, 100, true)]).await.unwrap();
        let read = store.read_run(1, 4).await.unwrap();
        let times: Vec<_> = read
            .iter()
            .map(|bytes| {
                let record: EdgeRecord = decode(bytes, Encoding::MsgPack).unwrap();
                (record.at.0, record.quality)
            })
            .collect();
        let expected = [
            (1, TimeQuality::Unsure),
            (111, TimeQuality::Synced),
            (101, TimeQuality::Synced),
        ];
        assert_eq!(times, expected);
        store.commit(vec![Row::Free { below: 4 }]).await.unwrap();
    }
    drop(file);
    drop(reopen(&path).await);
    let connection = wait_for("the store is free", PATIENCE, async || {
        let connection = rusqlite::Connection::open(&path)?;
        connection.pragma_update(None, "user_version", 1)?;
        Ok(connection)
    })
    .await
    .unwrap();
    let mends: u32 = connection
        .query_row("SELECT count(*) FROM mends", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mends, 0, "what corrects nothing any more is gone");
}

/// The write-ahead log of a store, in bytes.
fn log_len(path: &Path) -> u64 {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    std::fs::metadata(name).unwrap().len()
}

#[tokio::test]
async fn the_log_stays_small_however_much_is_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.db");
    let (store, _) = Store::open(&path).unwrap();
    let mut longest = 0;
    for seq in 1..=1_500 {
        store.commit(vec![append(seq)]).await.unwrap();
        longest = longest.max(log_len(&path));
    }
    assert!(longest < 512 * 1024, "{longest} bytes");
}

/// Where the test below mounts its small disk, when it runs in a namespace of its own.
const SMALL_DISK: &str = "EV_SMALL_DISK";

#[test]
fn on_a_small_disk_what_central_takes_makes_room_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let in_namespace = |program: &Path, arguments: &[&str]| {
        std::process::Command::new("unshare")
            .args(["--map-root-user", "--mount"])
            .arg(program)
            .args(arguments)
            .env(SMALL_DISK, dir.path())
            .output()
    };
    if !in_namespace(Path::new("true"), &[]).is_ok_and(|output| output.status.success()) {
        eprintln!("no mount namespace can be made here, so no disk is small");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let inner = ["--ignored", "--exact", "in_a_namespace_with_a_small_disk"];
    let output = in_namespace(&this, &inner).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "is run by the test above, in a mount namespace of its own"]
async fn in_a_namespace_with_a_small_disk() {
    let Some(dir) = std::env::var_os(SMALL_DISK) else {
        return;
    };
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(&dir)
        .status()
        .unwrap();
    assert!(mounted.success());
    let path = Path::new(&dir).join("a.db");
    let (mut store, _) = Store::open(&path).unwrap();
    let large = |seq| Row::Append(Box::new(record(seq, "x".repeat(2_000))));
    let mut next = 1;
    for round in 0..3 {
        // Offline until the disk is full.
        let mut first = next;
        while store.commit(vec![large(next)]).await.is_ok() {
            next += 1;
            assert!(next < 10_000, "the disk never fills");
        }
        assert!(
            next > first + 300,
            "round {round}: room for {}",
            next - first
        );
        drop(store);
        store = reopen(&path).await.0;
        // Central takes some, and nobody else is asked for room.
        while first < next {
            first = (first + 100).min(next);
            store
                .commit(vec![Row::Free { below: first }])
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn each_start_is_counted_and_the_last_confirmed_one_is_kept() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("CP-001.db");
    let boot = BootId::from_number(7);
    let (store, fresh) = Store::open(&path).unwrap();
    assert_eq!((fresh.boots, fresh.confirmed), (1, None));
    store.commit(vec![Row::Confirmed(boot)]).await.unwrap();
    store.close().await;
    let (store, again) = reopen(&path).await;
    assert_eq!((again.boots, again.confirmed), (2, Some(boot)));
    store.close().await;
}

#[tokio::test]
async fn a_new_epoch_keeps_what_waits_and_numbers_it_from_one() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("CP-001.db");
    assert!(matches!(
        Store::new_epoch(&path, UnixMs(2)),
        Err(StoreError::Absent(_))
    ));
    let (store, before) = Store::open(&path).unwrap();
    let mut rows: Vec<Row> = (1..=9).map(append).collect();
    rows.push(Row::Free { below: 6 });
    rows.push(Row::Confirmed(BootId::from_number(7)));
    let id = SessionId::from_uuid(uuid::Uuid::now_v7());
    rows.push(Row::Session(Box::new(SessionRow {
        id,
        connector: ConnectorId(1),
        state: StoredSession::Ended { seq: 8 },
    })));
    store.commit(rows).await.unwrap();
    assert!(
        Store::new_epoch(&path, UnixMs(2)).is_err(),
        "its agent runs"
    );
    store.close().await;
    let late = UnixMs(1).plus_ms(RENEWED_DAYS_MAX * 24 * 3_600 * 1_000 + 1);
    wait_for("it is refused for its age", PATIENCE, async || {
        let refused = Store::new_epoch(&path, late);
        anyhow::ensure!(matches!(refused, Err(StoreError::TooOld(6))), "{refused:?}");
        Ok(())
    })
    .await
    .unwrap();
    let renewed = wait_for("the store is free", PATIENCE, async || {
        Ok(Store::new_epoch(&path, UnixMs(2))?)
    })
    .await
    .unwrap();
    assert_eq!((renewed.before, renewed.records), (before.epoch.clone(), 4));
    let (store, after) = reopen(&path).await;
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.epoch.as_str(), renewed.epoch);
    assert_eq!((after.first, after.next, after.confirmed), (1, 5, None));
    assert!(matches!(
        after.sessions[0].state,
        StoredSession::Ended { seq: 3 }
    ));
    let records = store.read_run(1, 5).await.unwrap();
    let seqs: Vec<u64> = records
        .iter()
        .map(|bytes| decode::<EdgeRecord>(bytes, Encoding::MsgPack).unwrap().seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    store.close().await;
}
