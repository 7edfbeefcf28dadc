//! Whatever arrives: a message or a refusal with a sentence, never a panic and never a guess.

mod support;

use ev_contract::{
    limits::NESTING_MAX,
    v1::EdgeRecord,
    wire::{DecodeError, Encoding},
};
use rmpv::Value as Pack;
use serde_json::{Value, json};
use support::{
    Case, ENCODINGS, extension,
    values::{cases, facts, record},
};

/// The longest sentence about bytes that are no message. It is sent back to whoever sent them.
const SENTENCE_BYTES_MAX: usize = 4_096;

#[test]
fn every_truncation_of_every_message_is_refused() {
    for (case, encoding, bytes) in all() {
        for end in 0..bytes.len() {
            refused(&case, encoding, &bytes[..end]);
        }
    }
}

#[test]
fn bytes_after_the_message_are_refused() {
    for (case, encoding, bytes) in all() {
        for tail in [
            &b"1"[..],
            b"{}",
            b"\0",
            b"\x80",
            b"\xc0",
            b"\xff\xff",
            &bytes,
        ] {
            refused(&case, encoding, &[&bytes[..], tail].concat());
        }
    }
}

#[test]
fn bytes_of_the_other_encoding_and_no_map_at_all_are_refused() {
    for (case, encoding, _) in all() {
        let other = match encoding {
            Encoding::Json => Encoding::MsgPack,
            Encoding::MsgPack => Encoding::Json,
        };
        refused(&case, encoding, &(case.encode)(other));
        for bytes in [
            &b""[..],
            b" ",
            b"\0",
            b"[]",
            b"[{}]",
            b"null",
            b"7",
            b"\"{}\"",
            b"{",
            b"}",
            b"\x90",
            b"\x91\x80",
            b"\xc0",
            b"\xc1",
            b"\x07",
            b"\xa2{}",
            b"\xc7\x00\x01",
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\0}\0",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{\"a\":NaN}",
        ] {
            refused(&case, encoding, bytes);
        }
    }
}

#[test]
fn a_value_of_a_wrong_type_in_any_place_does_no_harm() {
    let long = "x".repeat(20_000);
    let wrong = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(1e300),
        json!(""),
        json!("*"),
        json!("a.b"),
        json!("\u{0}\u{202e}ключ"),
        Value::String(long),
        json!([]),
        json!([[1, null, "x"]]),
        json!({}),
        json!({"": {"type": []}}),
    ];
    for case in cases() {
        let json = case.json();
        for path in paths(&json) {
            for value in &wrong {
                let mut bad = json.clone();
                *bad.pointer_mut(&path).expect("a path of this value") = value.clone();
                for encoding in ENCODINGS {
                    survived(&case, encoding, &written(&bad, encoding));
                }
            }
        }
    }
}

#[test]
fn a_record_with_a_value_of_a_wrong_type_does_no_harm() {
    for (seq, fact) in (1..).zip(facts()) {
        let json = serde_json::to_value(record(seq, fact)).expect("JSON");
        for path in paths(&json) {
            for wrong in [
                json!(null),
                json!(-1),
                json!(1.5),
                json!("*"),
                json!([[]]),
                json!({}),
            ] {
                let mut bad = json.clone();
                *bad.pointer_mut(&path).expect("a path of this value") = wrong;
                let value: Pack = serde_json::from_value(bad).expect("JSON is a value");
                if let Err(error) = EdgeRecord::from_value(value) {
                    said(error);
                }
            }
        }
    }
}

#[test]
fn a_field_of_a_plainly_wrong_type_is_refused_and_named() {
    for case in cases() {
        let json = case.json();
        for field in json.as_object().expect("a map").keys() {
            // No field of the contract's top level is a float.
            let mut bad = json.clone();
            bad[field] = json!(1.5);
            for encoding in ENCODINGS {
                let error = refused(&case, encoding, &written(&bad, encoding));
                assert!(
                    error.0.starts_with(field.as_str()),
                    "{}: {error}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn a_message_of_another_type_is_refused() {
    for case in cases() {
        let mut bad = case.json();
        bad["type"] = "something.else".into();
        for encoding in ENCODINGS {
            let bytes = written(&bad, encoding);
            if ev_contract::v1::MESSAGE_TYPES.contains(&case.word) {
                refused(&case, encoding, &bytes);
            } else {
                // An update of a kind that comes later is an update still.
                assert_eq!((case.decode)(&bytes, encoding), Ok(false), "{}", case.name);
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused_in_any_place() {
    for case in cases() {
        let json = case.json();
        let mut places = paths(&json);
        places.push("/unknown".into());
        for encoding in ENCODINGS {
            for path in &places {
                for levels in [NESTING_MAX, 10_000] {
                    refused(
                        &case,
                        encoding,
                        &with_nesting(&json, path, encoding, levels),
                    );
                }
            }
        }
    }
}

#[test]
fn lengths_that_promise_more_than_there_is_allocate_nothing() {
    // str 32, bin 32, array 32, map 32 and ext 32 of 4 GiB each.
    for bomb in [0xdb, 0xc6, 0xdd, 0xdf, 0xc9] {
        let bomb = [bomb, 0xff, 0xff, 0xff, 0xff, 0x01];
        for case in cases() {
            let json = case.json();
            for path in paths(&json) {
                let bytes = spliced(&json, &path, &bomb);
                refused(&case, Encoding::MsgPack, &bytes);
            }
        }
    }
    let case = &cases()[0];
    refused(case, Encoding::MsgPack, &[0xdf, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn a_field_that_comes_twice_is_refused() {
    for case in cases() {
        let json = case.json();
        let (field, value) = json
            .as_object()
            .and_then(|o| o.iter().next())
            .expect("a field");
        let text = json.to_string();
        let doubled = format!("{{{}:{value},{}", json!(field), &text[1..]);
        refused(&case, Encoding::Json, doubled.as_bytes());
    }
}

#[test]
fn random_damage_does_no_harm() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (case, encoding, bytes) in all() {
        for _ in 0..300 {
            let mut bad = bytes.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bad.len());
                match random.below(3) {
                    0 => bad[at] = random.below(256) as u8,
                    1 => bad.insert(at, random.below(256) as u8),
                    _ => {
                        bad.remove(at);
                    }
                }
            }
            survived(&case, encoding, &bad);
        }
        for _ in 0..50 {
            let noise: Vec<u8> = (0..random.below(200))
                .map(|_| random.below(256) as u8)
                .collect();
            survived(&case, encoding, &noise);
        }
    }
}

/// Every message in both encodings.
fn all() -> impl Iterator<Item = (Case, Encoding, Vec<u8>)> {
    ENCODINGS.into_iter().flat_map(|encoding| {
        cases().into_iter().map(move |case| {
            let bytes = (case.encode)(encoding);
            (case, encoding, bytes)
        })
    })
}

fn refused(case: &Case, encoding: Encoding, bytes: &[u8]) -> DecodeError {
    match (case.decode)(bytes, encoding) {
        Err(error) => said(error),
        Ok(_) => panic!(
            "{} as {} was read from {}",
            case.name,
            extension(encoding),
            bytes[..bytes.len().min(500)].escape_ascii()
        ),
    }
}

fn survived(case: &Case, encoding: Encoding, bytes: &[u8]) {
    if let Err(error) = (case.decode)(bytes, encoding) {
        said(error);
    }
}

fn said(error: DecodeError) -> DecodeError {
    assert!(!error.0.is_empty(), "no sentence");
    assert!(
        error.0.len() <= SENTENCE_BYTES_MAX,
        "{} bytes of sentence",
        error.0.len()
    );
    error
}

fn written(json: &Value, encoding: Encoding) -> Vec<u8> {
    ev_contract::wire::encode(json, encoding).expect("JSON is encodable")
}

/// The JSON pointers of everything inside of a value.
fn paths(json: &Value) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match json {
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(values) => (0..)
            .zip(values)
            .map(|(i, v)| (i32::to_string(&i), v))
            .collect(),
        _ => vec![],
    };
    let mut all = vec![];
    for (key, value) in inner {
        let path = format!("/{key}");
        all.extend(
            paths(value)
                .into_iter()
                .map(|below| format!("{path}{below}")),
        );
        all.push(path);
    }
    all
}

fn with_nesting(json: &Value, path: &str, encoding: Encoding, levels: usize) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let text = marked(json, path).to_string();
            text.replace(&format!("\"{MARK}\""), &nested).into_bytes()
        }
        Encoding::MsgPack => {
            let mut nested = vec![0x91; levels - 1];
            nested.push(0x90);
            spliced(json, path, &nested)
        }
    }
}

/// Stands where other bytes are put.
const MARK: &str = "put-here";

fn marked(json: &Value, path: &str) -> Value {
    let mut json = json.clone();
    match json.pointer_mut(path) {
        Some(place) => *place = MARK.into(),
        None => json[&path[1..]] = MARK.into(),
    }
    json
}

/// MessagePack with these bytes in the place of one value.
fn spliced(json: &Value, path: &str, bytes: &[u8]) -> Vec<u8> {
    let whole = written(&marked(json, path), Encoding::MsgPack);
    let mark = written_pack(&Pack::from(MARK));
    let at = whole
        .windows(mark.len())
        .position(|w| w == mark)
        .expect("the mark");
    [&whole[..at], bytes, &whole[at + mark.len()..]].concat()
}

fn written_pack(value: &Pack) -> Vec<u8> {
    let mut bytes = vec![];
    rmpv::encode::write_value(&mut bytes, value).expect("memory takes everything");
    bytes
}

/// xorshift64*: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap_or(0) % bound.max(1)
    }
}
