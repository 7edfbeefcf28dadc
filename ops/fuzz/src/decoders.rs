//! Everything that reads bytes of others.

use async_nats::{HeaderMap, Message as Delivery};
use central::{
    audit::entry::{describe, draft},
    border,
};
use central_core::{
    frame::{Decoded, Frame, seal},
    state::{Log, State},
};
use ev_contract::{
    streams::AUDIT,
    subjects::Subject,
    v1::{self, AuditKind, EdgeRecord},
    wire::{self, CONTENT_TYPE, CONTENT_TYPE_JSON, DecodeError, Encoding},
};
use serde::{Serialize, de::DeserializeOwned};

/// A sentence about bytes is sent back to whoever sent them, so that it is bounded.
const SENTENCE_BYTES_MAX: usize = 4_096;

type Check = fn(&[u8], Encoding) -> Result<(), DecodeError>;

/// What was read can be written, and reads as the same again.
fn stands<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    encoding: Encoding,
) -> Result<(), DecodeError> {
    let read: T = wire::decode(bytes, encoding)?;
    let written = wire::encode(&read, encoding).expect("what was read can be written");
    let again: T = wire::decode(&written, encoding).expect("what was written can be read");
    let twice = wire::encode(&again, encoding).expect("and written again");
    assert_eq!(written, twice, "reading changes the message");
    Ok(())
}

macro_rules! messages {
    ($($name:ident),+ $(,)?) => {
        /// Each by its `type`.
        const MESSAGES: &[(&str, Check)] =
            &[$((<v1::$name as wire::Message>::TYPE, stands::<v1::$name>)),+];
    };
}

messages! {
    StartRequest, StopRequest, StatusRequest, StatusReply, ListRequest, ListReply,
    HistoryRequest, HistoryReply, ReceiptRequest, ReceiptReply, ErrorReply, CpLsRequest, CpLsReply,
    CpActRequest, CpSiteRequest, SessionLsRequest, SessionLsReply, OpStartRequest, SessionEndRequest,
    SessionAdjustRequest, DriverBlockRequest, TariffSetRequest, TariffRmRequest, TariffLsRequest, TariffLsReply,
    OpReply, StartCommand, StopCommand, LimitCommand, UnlockCommand, ServiceCommand, ResetCommand,
    PingCommand, CommandReply, SyncRequest, SyncReply, EvtRequest, EvtReply, Heartbeat, Live,
    Receipt, Adjustment, AuditRequest, AuditReply, AuditEntry,
}

/// The one message that has three types.
const UPDATE: Check = stands::<v1::DriverUpdate>;

const fn encoding_of(byte: u8) -> Encoding {
    if byte & 0x80 == 0 {
        Encoding::MsgPack
    } else {
        Encoding::Json
    }
}

const fn bit_of(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::MsgPack => 0,
        Encoding::Json => 0x80,
    }
}

/// The first byte says which message in which encoding, the rest is its payload.
pub fn wire(bytes: &[u8]) {
    let Some((first, payload)) = bytes.split_first() else {
        return;
    };
    let index = usize::from(first & 0x7f) % (MESSAGES.len() + 1);
    let check = MESSAGES.get(index).map_or(UPDATE, |(_, check)| *check);
    if let Err(error) = check(payload, encoding_of(*first)) {
        assert!(!error.0.is_empty(), "a refusal without a sentence");
        assert!(error.0.len() <= SENTENCE_BYTES_MAX, "{error}");
    }
}

/// The first byte of a `wire` input for a message of this `type`.
#[must_use]
pub fn wire_first_byte(word: &str, encoding: Encoding) -> u8 {
    let index = MESSAGES
        .iter()
        .position(|(known, _)| *known == word)
        .unwrap_or(MESSAGES.len());
    u8::try_from(index).unwrap_or_default() | bit_of(encoding)
}

/// Text that may be a subject.
pub fn subject(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(subject) = Subject::parse(text) {
        assert_eq!(subject.to_string(), text, "a subject has two spellings");
        assert_eq!(Subject::parse(&subject.to_string()), Some(subject));
    }
}

/// MessagePack that may be a record of a spool.
pub fn record(bytes: &[u8]) {
    let Ok(value) = wire::decode::<rmpv::Value>(bytes, Encoding::MsgPack) else {
        return;
    };
    let Ok(record) = EdgeRecord::from_value(value) else {
        return;
    };
    let value = record.to_value().expect("a record can be written");
    let again = EdgeRecord::from_value(value).expect("what was written can be read");
    assert_eq!(record, again, "reading changes the record");
}

const SUBJECTS: &[&str] = &[
    "ev.v1.driver.alice.start",
    "ev.v1.driver.alice.stop",
    "ev.v1.driver.alice.status",
    "ev.v1.driver.alice.list",
    "ev.v1.driver.alice.history",
    "ev.v1.driver.alice.receipt",
    "ev.v1.driver.alice.nonsense",
    "ev.v1.op.olga.cp_ls",
    "ev.v1.op.olga.cp_enable",
    "ev.v1.op.olga.cp_disable",
    "ev.v1.op.olga.cp_site",
    "ev.v1.op.olga.cp_unlock",
    "ev.v1.op.olga.cp_reset",
    "ev.v1.op.olga.session_ls",
    "ev.v1.op.olga.session_start",
    "ev.v1.op.olga.session_end",
    "ev.v1.op.olga.session_adjust",
    "ev.v1.op.olga.driver_block",
    "ev.v1.op.olga.driver_unblock",
    "ev.v1.op.olga.tariff_set",
    "ev.v1.op.olga.tariff_ls",
    "ev.v1.op.olga.audit",
    "ev.v1.op.olga.nonsense",
    "ev.v1.cp.CP-001.sync",
    "ev.v1.cp.CP-001.evt",
    "ev.v1.cp.CP-001.hb",
    "ev.v1.cp.CP-001.nonsense",
];

/// The first byte of a `border` input that comes on this subject.
#[must_use]
pub fn border_first_byte(subject: &str, encoding: Encoding) -> Option<u8> {
    let index = SUBJECTS.iter().position(|known| *known == subject)?;
    Some(u8::try_from(index).ok()? | bit_of(encoding))
}

/// The first byte says on which subject and in which encoding, the rest is the payload.
pub fn border(bytes: &[u8]) {
    let Some((first, payload)) = bytes.split_first() else {
        return;
    };
    let mut headers = HeaderMap::new();
    if encoding_of(*first) == Encoding::Json {
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
    }
    let delivery = Delivery {
        subject: SUBJECTS[usize::from(first & 0x7f) % SUBJECTS.len()].into(),
        reply: Some("_R_.a.b".into()),
        payload: payload.to_vec().into(),
        headers: Some(headers),
        status: None,
        description: None,
        length: payload.len(),
    };
    let bounded = |problem: &ev_contract::codes::Problem| {
        assert!(!problem.message.is_empty(), "{problem:?}");
        assert!(
            problem.message.len() <= 2 * SENTENCE_BYTES_MAX,
            "{problem:?}"
        );
    };
    // Each reader gets everything: what it is not meant for it must refuse.
    if let Ok(asked) = border::read(&delivery) {
        if let Err(problem) = &asked.question {
            bounded(problem);
        }
        // Whatever was asked, what is kept of it fits into the audit.
        let mut entry = draft(AuditKind::Op, &delivery);
        describe(&mut entry, &asked);
        let kept = wire::encode(&entry, Encoding::MsgPack).expect("an entry can be written");
        let most = usize::try_from(AUDIT.message_bytes_max).expect("a size");
        assert!(kept.len() < most / 2, "{} bytes: {entry:?}", kept.len());
    }
    if let Err((_, problem)) = border::read_sync(&delivery) {
        bounded(&problem);
    }
    if let Err((_, problem)) = central::run::read(&delivery) {
        bounded(&problem);
    }
    let _ = border::read_heartbeat(&delivery);
    let _ = border::reply_to(&delivery);
}

/// Bytes that may be a frame: read, written again, and applied.
pub fn frame(bytes: &[u8]) {
    // Nearly every change breaks the check: what lies behind it is to be searched, too.
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    let bytes = sealed.as_slice();
    if let Ok(Decoded::Frame(frame)) = Frame::decode(bytes) {
        let written = frame.encode();
        match Frame::decode(&written) {
            Ok(Decoded::Frame(again)) => assert_eq!(frame, again, "reading changes the frame"),
            other => panic!("a written frame reads as {other:?}"),
        }
    }
    let mut one = Log::default();
    let mut two = Log::default();
    let applied = one.apply(1, bytes).is_ok();
    assert_eq!(applied, two.apply(1, bytes).is_ok());
    same_state(one.state(), two.state());
    if applied {
        assert_eq!(one.state().basis().seq, 1);
        // The same again is a message of its own: whatever it does, both do the same.
        assert_eq!(one.apply(2, bytes).is_ok(), two.apply(2, bytes).is_ok());
        same_state(one.state(), two.state());
        goes_on_from_snapshot(one.state());
    }
}

/// Bytes that may be a snapshot.
pub fn snapshot(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    if let Ok(state) = State::decode(&sealed) {
        goes_on_from_snapshot(&state);
    }
}

/// Compares all that a state holds.
pub fn same_state(one: &State, two: &State) {
    assert_eq!(one.basis(), two.basis(), "replicas have different digests");
    assert_eq!(
        one.freeze().encode(),
        two.freeze().encode(),
        "replicas have different states"
    );
}

/// A state is what its snapshot says.
pub fn goes_on_from_snapshot(state: &State) {
    let written = state.freeze().encode();
    let again = State::decode(&written).expect("what was written can be read");
    same_state(state, &again);
    let Some(next) = state.basis().seq.checked_add(1) else {
        return;
    };
    let mut one = Log::from_snapshot(state.clone());
    let mut two = Log::from_snapshot(again);
    assert_eq!(
        one.apply(next, b"junk").is_ok(),
        two.apply(next, b"junk").is_ok()
    );
    same_state(one.state(), two.state());
}

/// Text that may be a configuration file of either service.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Err(error) = central::Config::parse(text, "central.toml") {
        assert!(error.to_string().contains("central.toml"), "{error}");
    }
    if let Err(error) = edge_cp::config::Config::parse(text, "edge-cp.toml".as_ref()) {
        assert!(error.to_string().contains("edge-cp.toml"), "{error}");
    }
}

/// A line that may be a request to the cabinet's socket.
pub fn control(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<edge_cp::control::Request>(bytes) {
        let written = serde_json::to_vec(&request).expect("a request can be written");
        let again = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(request, again, "reading changes the request");
    }
}
