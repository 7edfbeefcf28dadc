//! The bytes of every message, kept in `tests/fixtures/`. They are what peers that were built
//! earlier have sent and will send: a difference here is a broken contract.
//!
//! `UPDATE_FIXTURES=1 cargo test -p ev-contract --test golden` writes those that are missing or
//! differ. For a new message, a new field, or nothing else.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Phase},
    v1::{
        DriverUpdate, EdgeFact, EdgeRecord, ErrorReply, EvtRequest, Flag, Heartbeat, ReceiptReply,
        StartRequest, Status, StatusReply, StopRequest, UpdateType,
    },
    wire::{Encoding, decode, encode},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use support::{
    ENCODINGS, extension,
    values::{self, cases, facts, record, session},
    without, words,
};

#[test]
fn every_message_has_the_bytes_of_its_fixture_and_is_read_from_them() {
    for case in cases() {
        for encoding in ENCODINGS {
            let bytes = (case.encode)(encoding);
            let kept = kept(&case.name, encoding, &bytes);
            assert!(
                kept == bytes,
                "{} as {} is written differently:\n was {}\n is  {}",
                case.name,
                extension(encoding),
                kept.escape_ascii(),
                bytes.escape_ascii()
            );
            let same = (case.decode)(&kept, encoding);
            assert_eq!(same, Ok(true), "{} as {}", case.name, extension(encoding));
        }
    }
}

#[test]
fn every_type_has_a_fixture_with_all_fields_and_one_with_none_that_may_be_missing() {
    let cases = cases();
    for word in words() {
        let full = cases.iter().find(|c| c.name == format!("{word}.full"));
        let full = full.unwrap_or_else(|| panic!("`{word}` has no fixture with all fields"));
        let json = full.json();
        let there: Vec<&str> = json
            .as_object()
            .expect("a map")
            .keys()
            .map(String::as_str)
            .collect();
        for field in full.fields {
            assert!(there.contains(field), "{word}.full is without `{field}`");
        }
        // `type` and `to` are always written.
        let optional = full.fields.iter().filter(|f| !["type", "to"].contains(f));
        let optional = optional.filter(|f| full.reads(&without(&json, f))).count();
        let min = cases.iter().any(|c| c.name == format!("{word}.min"));
        assert_eq!(min, optional > 0, "{word}.min");
    }
}

#[test]
fn no_fixture_lies_about_that_nothing_checks() {
    let mut known = BTreeSet::from([".gitattributes".to_owned()]);
    let names = cases().into_iter().map(|c| c.name);
    for name in names.chain(FOREIGN.iter().map(|(name, _)| (*name).to_owned())) {
        for encoding in ENCODINGS {
            known.insert(format!("{name}.{}", extension(encoding)));
        }
    }
    for entry in fs::read_dir(folder()).expect("the folder of fixtures") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        assert!(known.contains(&*name), "{name} belongs to no test");
    }
}

#[test]
fn a_type_is_named_once() {
    let all = words();
    assert_eq!(
        all.iter().collect::<BTreeSet<_>>().len(),
        all.len(),
        "{all:?}"
    );
}

/// A fixture's name and what it says.
type Foreign = (&'static str, fn() -> Value);

/// What this build does not write: by older and newer peers, and by terse ones.
const FOREIGN: &[Foreign] = &[
    ("update_older_peer", || {
        json!({
            "request_id": "r-1", "driver_id": "alice", "cp_id": "CP-001", "status": "in_progress",
            "ts": 1_760_000_000_000_i64,
        })
    }),
    ("update_newer_peer", || {
        let mut update = serde_json::to_value(values::update()).expect("JSON");
        update["type"] = "forecast".into();
        update["status"] = "paused".into();
        update["phase"] = "balancing".into();
        update["reason"] = "grid".into();
        update["error"]["code"] = "grid_limit".into();
        update["error"]["cause"] = json!({"line": [1, {"deep": null}]});
        update["forecast"] = json!([{"at": 1, "power_mw": 1.5}, null, "x"]);
        update
    }),
    ("start_newer_peer", || {
        json!({
            "type": "start", "to": "central", "request_id": "r-1",
            "expires_at": 1_760_000_020_000_i64, "cp_id": "CP-001", "connector": null,
            "limits": {"energy_wh": 5000, "soc_pct": 80}, "vehicle": {"vin": [1, 2, 3]},
        })
    }),
    (
        "start_terse_peer",
        || json!({"request_id": "r-1", "expires_at": 1_760_000_020_000_i64, "cp_id": "CP-001"}),
    ),
    ("stop_terse_peer", || {
        json!({
            "request_id": "r-2", "expires_at": 1_760_000_020_000_i64,
            "session_id": "0199c8f1-7a00-7abc-8def-0123456789ab",
        })
    }),
    ("error_newer_peer", || {
        json!({
            "type": "error", "to": "alice", "request_id": "r-1", "status": "denied",
            "reason": "grid_limit", "ts": 1_760_000_000_000_i64,
            "error": {"code": "grid_limit", "message": "the grid is full", "hint": "later",
                "retryable": true, "until": 5},
        })
    }),
    ("status.reply_newer_peer", || {
        let mut reply = full("status.reply");
        let session = &mut reply["sessions"][0];
        session["state"] = "balancing".into();
        session["status"] = "paused".into();
        session["origin"] = "roaming".into();
        session["end"] = json!({"code": "grid", "source": "grid", "why": []});
        session["limits"]["soc_pct"] = 80.into();
        reply
    }),
    ("receipt.reply_newer_peer", || {
        let mut reply = full("receipt.reply");
        reply["receipt"]["flags"] = json!(["solar", "overlap"]);
        reply["receipt"]["lines"][0]["component"] = "reservation".into();
        reply["receipt"]["tariff"]["terms"]["night"] = json!({"price": "0.20"});
        reply
    }),
    ("hb_newer_peer", || {
        let mut beat = full("hb");
        beat["connectors"][0]["state"] = "welding".into();
        beat["load"] = 0.25.into();
        beat
    }),
    ("evt_newer_peer", || {
        let mut run = full("evt");
        run["records"] = json!([
            full("evt")["records"][0],
            {"seq": 2, "at": 1, "quality": "synced", "fact": {"kind": "weather", "rain": true}},
            "not even a map",
            {"seq": 4, "at": 1_760_000_000_000_i64, "quality": "gps",
                "fact": {"kind": "booted", "by": "hand"}},
        ]);
        run
    }),
];

#[test]
fn an_update_of_an_older_peer_is_read_and_names_no_session() {
    for update in foreign::<DriverUpdate>("update_older_peer") {
        assert_eq!(update, values::update_min());
        assert_eq!(update.session_id, None);
        assert_eq!(update.to, None);
        assert_eq!(update.kind, UpdateType::Update);
    }
}

#[test]
fn an_update_of_a_newer_peer_is_read() {
    for update in foreign::<DriverUpdate>("update_newer_peer") {
        let mut expected = values::update();
        expected.kind = UpdateType::Unrecognised;
        expected.status = Status::Unrecognised;
        expected.phase = Some(Phase::Unrecognised);
        expected.reason = Some("grid".into());
        if let Some(error) = &mut expected.error {
            error.code = Code::Unrecognised;
        }
        assert_eq!(update, expected);
    }
}

#[test]
fn a_request_with_unknown_fields_is_read_and_so_is_one_without_type_and_addressee() {
    for start in foreign::<StartRequest>("start_newer_peer") {
        assert_eq!(start.limits.and_then(|l| l.energy_wh), Some(5000));
        assert_eq!(start.connector, None);
    }
    for start in foreign::<StartRequest>("start_terse_peer") {
        assert_eq!(
            (start.to.as_str(), start.cp_id.as_str()),
            ("central", "CP-001")
        );
    }
    for stop in foreign::<StopRequest>("stop_terse_peer") {
        assert_eq!(
            (stop.to, stop.session_id),
            ("central".into(), session().to_string())
        );
    }
}

#[test]
fn a_refusal_with_an_unknown_code_keeps_its_sentence() {
    for reply in foreign::<ErrorReply>("error_newer_peer") {
        assert_eq!(reply.error.code, Code::Unrecognised);
        assert_eq!(reply.reason, "grid_limit");
        assert_eq!(
            (reply.error.message.as_str(), reply.error.retryable),
            ("the grid is full", true)
        );
    }
}

#[test]
fn unknown_words_spoil_nothing_else() {
    for reply in foreign::<StatusReply>("status.reply_newer_peer") {
        assert_eq!(reply.sessions[0].state, Phase::Unrecognised);
        assert_eq!(reply.sessions[0].pos, 1_207);
        assert_eq!(reply.sessions[1].state, Phase::Preparing);
    }
    for reply in foreign::<ReceiptReply>("receipt.reply_newer_peer") {
        assert_eq!(reply.receipt.flags, [Flag::Unrecognised, Flag::Overlap]);
        assert_eq!(reply.receipt.total.to_string(), "15.99");
    }
    for beat in foreign::<Heartbeat>("hb_newer_peer") {
        assert_eq!(beat.connectors[0].state, ConnectorState::Unrecognised);
        assert_eq!(beat.spool_depth, 3);
    }
}

#[test]
fn a_record_that_cannot_be_read_spoils_no_other() {
    for run in foreign::<EvtRequest>("evt_newer_peer") {
        let read: Vec<_> = run
            .records
            .into_iter()
            .map(EdgeRecord::from_value)
            .collect();
        assert_eq!(read[0], Ok(record(1, facts().remove(0))));
        assert!(read[1].is_err() && read[2].is_err(), "{read:?}");
        let last = read[3].as_ref().map(|r| (r.seq, &r.fact));
        assert_eq!(last, Ok((4, &EdgeFact::Booted { raw: None })));
    }
}

#[test]
fn every_record_is_the_same_in_both_encodings() {
    for (seq, fact) in (1..).zip(facts()) {
        let mut expected = record(seq, fact);
        if let EdgeFact::Started { reading, .. } = &mut expected.fact {
            reading.signed = Some(vec![0, 0x7f, 0x80, 0xff]);
        }
        for encoding in ENCODINGS {
            let value = expected.to_value().expect("a record is encodable");
            let bytes = encode(&value, encoding).expect("a value is encodable");
            let value: rmpv::Value = decode(&bytes, encoding).expect("what was written is read");
            assert_eq!(EdgeRecord::from_value(value), Ok(expected.clone()));
        }
    }
}

#[test]
fn a_record_that_is_no_map_is_refused() {
    let array = rmpv::ext::to_value(record(1, facts().remove(0))).expect("an array");
    assert!(EdgeRecord::from_value(array).is_err());
}

fn full(word: &str) -> Value {
    let case = cases()
        .into_iter()
        .find(|c| c.name == format!("{word}.full"));
    case.expect("the message has a fixture").json()
}

/// The foreign message as both encodings have it.
fn foreign<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let (_, value) = FOREIGN
        .iter()
        .find(|(n, _)| *n == name)
        .expect("a foreign message");
    let read = ENCODINGS.map(|encoding| {
        let bytes = write(&value(), encoding);
        let kept = kept(name, encoding, &bytes);
        assert!(kept == bytes, "{name} as {}", extension(encoding));
        decode::<T>(&kept, encoding).unwrap_or_else(|e| panic!("{name}: {e}"))
    });
    read.into()
}

fn write<T: Serialize>(value: &T, encoding: Encoding) -> Vec<u8> {
    encode(value, encoding).expect("JSON is encodable")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The kept bytes; with `UPDATE_FIXTURES=1` these.
fn kept(name: &str, encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
    let path = folder().join(format!("{name}.{}", extension(encoding)));
    if std::env::var_os("UPDATE_FIXTURES").is_some_and(|v| v == "1") {
        fs::write(&path, bytes).expect("the fixture can be written");
    }
    fs::read(&path).unwrap_or_else(|e| {
        panic!(
            "{}: {e}; UPDATE_FIXTURES=1 writes what is missing",
            path.display()
        )
    })
}
