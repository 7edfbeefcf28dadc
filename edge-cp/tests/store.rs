//! The store as a real file, closed and opened again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use edge_core::{
    Row, Stored,
    connector::ConnectorRow,
    effects::CommandRow,
    hardware::{DeviceTx, OriginKey, StartNumber},
    session::{SessionRow, StoredSession},
    transactions::TxRow,
};
use edge_cp::store::{Store, StoreError};
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
        start_wall: UnixMs(1),
        start_mono_ms: None,
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
        Store::new_epoch(&path),
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
    assert!(Store::new_epoch(&path).is_err(), "its agent runs");
    store.close().await;
    let renewed = wait_for("the store is free", PATIENCE, async || {
        Ok(Store::new_epoch(&path)?)
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
