//! Bytes to messages and back: MessagePack maps with field names, JSON where the header
//! `Content-Type: application/json` says so.
//!
//! Unknown fields are passed over. Trailing bytes, nesting beyond [`NESTING_MAX`] and anything that
//! is no map at the top are refused. A map and not an array, because an array breaks when a field
//! is added.

use std::{fmt, marker::PhantomData, ops::Range};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};

use crate::limits::NESTING_MAX;

/// The header that names the encoding.
pub const CONTENT_TYPE: &str = "Content-Type";
/// Its value for JSON; without it, MessagePack.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// Its value for MessagePack, for those who like to say it.
pub const CONTENT_TYPE_MSGPACK: &str = "application/msgpack";
/// The addressee of everything that is sent to central.
pub const CENTRAL: &str = "central";

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// MessagePack maps.
    #[default]
    MsgPack,
    /// JSON.
    Json,
}

impl Encoding {
    /// From the value of the header, if there is one. Parameters (`; charset=utf-8`) are allowed.
    #[must_use]
    pub fn from_header(value: Option<&str>) -> Self {
        let media = value.unwrap_or_default().split(';').next().unwrap_or("");
        if media.trim().eq_ignore_ascii_case(CONTENT_TYPE_JSON) {
            Self::Json
        } else {
            Self::MsgPack
        }
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Why a message did not become bytes: a defect of this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be encoded: {0}")]
pub struct EncodeError(pub String);

/// A message: names its type on the wire.
pub trait Message {
    /// The value of the field `type`.
    const TYPE: &'static str;
}

/// The field `type` of message `T`. Reads only `T`'s own type: a payload that was aimed at the
/// wrong subject is thereby refused.
pub struct Tag<T>(PhantomData<fn() -> T>);

impl<T> Tag<T> {
    /// The tag.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Tag<T> {
    fn default() -> Self {
        Self::new()
    }
}
impl<T> Clone for Tag<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Tag<T> {}
impl<T> PartialEq for Tag<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Tag<T> {}
impl<T: Message> fmt::Debug for Tag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::TYPE)
    }
}
impl<T: Message> Serialize for Tag<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(T::TYPE)
    }
}
impl<'de, T: Message> Deserialize<'de> for Tag<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Word<T>(PhantomData<fn() -> T>);
        impl<T: Message> de::Visitor<'_> for Word<T> {
            type Value = Tag<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "type `{}`", T::TYPE)
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Tag<T>, E> {
                if word == T::TYPE {
                    Ok(Tag::new())
                } else {
                    Err(E::custom(format_args!(
                        "expected type `{}`, found `{}`",
                        T::TYPE,
                        word.chars().take(40).collect::<String>()
                    )))
                }
            }
        }
        d.deserialize_str(Word(PhantomData))
    }
}

/// Writes a message.
///
/// # Errors
/// Only for a value that the format cannot hold, which no message of the contract has.
pub fn encode<T: Serialize>(message: &T, encoding: Encoding) -> Result<Vec<u8>, EncodeError> {
    match encoding {
        Encoding::MsgPack => {
            rmp_serde::to_vec_named(message).map_err(|e| EncodeError(e.to_string()))
        }
        Encoding::Json => serde_json::to_vec(message).map_err(|e| EncodeError(e.to_string())),
    }
}

/// Reads a message.
///
/// # Errors
/// [`DecodeError`] with a sentence that names the field, for bytes that are no such message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], encoding: Encoding) -> Result<T, DecodeError> {
    match encoding {
        Encoding::MsgPack => decode_msgpack(bytes),
        Encoding::Json => decode_json(bytes),
    }
}

fn decode_msgpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.first() {
        None => return Err(DecodeError("the payload is empty".into())),
        Some(0x80..=0x8f | 0xde | 0xdf) => {}
        Some(b'{') => {
            return Err(DecodeError(format!(
                "this looks like JSON; say so with the header `{CONTENT_TYPE}: {CONTENT_TYPE_JSON}`"
            )));
        }
        Some(_) => return Err(DecodeError("the payload is not a MessagePack map".into())),
    }
    let mut rest = bytes;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    // It refuses the level at which its count reaches zero.
    deserializer.set_max_depth(NESTING_MAX + 1);
    // Keeping the path costs more than decoding: only what cannot be read is read with it.
    let Ok(value) = T::deserialize(&mut deserializer) else {
        return Err(why_not_msgpack::<T>(bytes));
    };
    drop(deserializer);
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError(format!(
            "{} bytes follow after the message",
            rest.len()
        )))
    }
}

/// Where each element of an array lies that is a field of a message in MessagePack; none when the
/// message has no such field. For elements that are each read by themselves.
///
/// # Errors
/// [`DecodeError`] for bytes that are no message, or where that field is no array.
pub fn elements(bytes: &[u8], field: &str) -> Result<Option<Vec<Range<usize>>>, DecodeError> {
    let wrong = |what: &dyn fmt::Display| located(field, what);
    let mut rest = bytes;
    let fields = rmp::decode::read_map_len(&mut rest).map_err(|e| wrong(&e))?;
    let mut found = None;
    for _ in 0..fields {
        let key = rest;
        pass_over(&mut rest)?;
        let mut named = key;
        let is_it = rmp::decode::read_str_len(&mut named)
            .is_ok_and(|len| named.get(..len as usize) == Some(field.as_bytes()));
        if !is_it {
            pass_over(&mut rest)?;
            continue;
        }
        if found.is_some() {
            return Err(DecodeError(format!("duplicate field `{field}`")));
        }
        let count = rmp::decode::read_array_len(&mut rest).map_err(|e| wrong(&e))?;
        let mut spans = Vec::new();
        for _ in 0..count {
            let from = bytes.len() - rest.len();
            pass_over(&mut rest)?;
            spans.push(from..bytes.len() - rest.len());
        }
        found = Some(spans);
    }
    Ok(found)
}

fn pass_over(rest: &mut &[u8]) -> Result<(), DecodeError> {
    let mut deserializer = rmp_serde::Deserializer::new(rest);
    deserializer.set_max_depth(NESTING_MAX + 1);
    de::IgnoredAny::deserialize(&mut deserializer)
        .map(drop)
        .map_err(|e| located("", &e))
}

/// Where and why bytes that cannot be read cannot be read.
#[cold]
fn why_not_msgpack<T: DeserializeOwned>(bytes: &[u8]) -> DecodeError {
    let mut rest = bytes;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    deserializer.set_max_depth(NESTING_MAX + 1);
    why_not::<T, _>(&mut deserializer)
}

/// Reads a second time, with the path. It and JSON are read by way of a trait object: all messages
/// for each kind of deserializer are most of what a program that knows the contract is compiled from.
fn why_not<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> DecodeError {
    let mut track = serde_path_to_error::Track::new();
    let read = {
        let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        erased_serde::deserialize::<T>(&mut <dyn erased_serde::Deserializer>::erase(tracked))
    };
    match read {
        Err(error) => located(&track.path().to_string(), &error),
        Ok(_) => DecodeError("the payload cannot be read".into()),
    }
}

fn decode_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        None => return Err(DecodeError("the payload is empty".into())),
        Some(b'{') => {}
        Some(_) => return Err(DecodeError("the payload is not a JSON object".into())),
    }
    // serde_json counts only what it recurses into, so that a field that is passed over could nest
    // without end.
    if json_nesting(bytes) > NESTING_MAX {
        return Err(DecodeError(format!(
            "nested deeper than {NESTING_MAX} levels"
        )));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = {
        let mut erased = <dyn erased_serde::Deserializer>::erase(&mut deserializer);
        erased_serde::deserialize::<T>(&mut erased)
    };
    let Ok(value) = read else {
        let mut again = serde_json::Deserializer::from_slice(bytes);
        return Err(why_not::<T, _>(&mut again));
    };
    deserializer
        .end()
        .map_err(|_| DecodeError("bytes follow after the message".into()))?;
    Ok(value)
}

/// The deepest level of `{` and `[` outside of strings, in bytes that may not be JSON at all.
fn json_nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

fn located(path: &str, error: &dyn fmt::Display) -> DecodeError {
    let text: String = error.to_string().chars().take(300).collect();
    if path == "." || path == "?" || path.is_empty() {
        DecodeError(text)
    } else {
        DecodeError(format!("{path}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Probe {
        #[serde(rename = "type", default)]
        tag: Tag<Probe>,
        n: u32,
    }
    impl Message for Probe {
        const TYPE: &'static str = "probe";
    }

    #[test]
    fn elements_lie_where_they_are_said_to_lie() {
        let message = rmpv::Value::Map(vec![
            ("type".into(), "probe".into()),
            (7.into(), vec![rmpv::Value::Nil].into()),
            (
                "records".into(),
                vec![
                    "one".into(),
                    rmpv::Value::Map(vec![("records".into(), rmpv::Value::Nil)]),
                    3.into(),
                ]
                .into(),
            ),
            ("records_".into(), rmpv::Value::Nil),
        ]);
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &message).unwrap();
        let read =
            |span: &Range<usize>| rmpv::decode::read_value(&mut &bytes[span.clone()]).unwrap();
        let spans = elements(&bytes, "records").unwrap().unwrap();
        assert_eq!(
            spans.iter().map(read).collect::<Vec<_>>()[..],
            *message["records"].as_array().unwrap()
        );
        assert_eq!(elements(&bytes, "record").unwrap(), None);
        assert!(elements(&bytes, "type").is_err(), "no array");
        for cut in 0..bytes.len() {
            assert!(elements(&bytes[..cut], "records").is_err(), "cut at {cut}");
        }
        let twice = [&[0x82][..], b"\xa1r\x90", b"\xa1r\x90"].concat();
        assert!(elements(&twice, "r").is_err(), "named twice");
        let endless = b"\x81\xa1r\xdd\xff\xff\xff\xff\xc0";
        assert!(elements(endless, "r").is_err(), "more than there are");
    }

    fn probe() -> Probe {
        Probe {
            tag: Tag::new(),
            n: 7,
        }
    }

    #[test]
    fn both_encodings_carry_the_same_message() {
        for encoding in [Encoding::MsgPack, Encoding::Json] {
            let bytes = encode(&probe(), encoding).unwrap();
            assert_eq!(decode::<Probe>(&bytes, encoding).unwrap(), probe());
        }
    }

    #[test]
    fn trailing_bytes_are_refused() {
        for encoding in [Encoding::MsgPack, Encoding::Json] {
            let mut bytes = encode(&probe(), encoding).unwrap();
            bytes.push(b'1');
            assert!(decode::<Probe>(&bytes, encoding).is_err());
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for encoding in [Encoding::MsgPack, Encoding::Json] {
            let bytes = encode(&probe(), encoding).unwrap();
            for end in 0..bytes.len() {
                assert!(decode::<Probe>(&bytes[..end], encoding).is_err());
            }
        }
    }

    #[test]
    fn arrays_and_scalars_are_refused() {
        let array = rmp_serde::to_vec(&("probe", 7)).unwrap();
        assert!(decode::<Probe>(&array, Encoding::MsgPack).is_err());
        assert!(decode::<Probe>(b"[\"probe\",7]", Encoding::Json).is_err());
        assert!(decode::<Probe>(b"7", Encoding::Json).is_err());
    }

    #[test]
    fn deep_nesting_is_refused_without_a_crash() {
        let mut json = br#"{"n":7,"x":"#.to_vec();
        json.extend(std::iter::repeat_n(b'[', 100_000));
        assert!(decode::<Probe>(&json, Encoding::Json).is_err());
        let mut pack = vec![0x82, 0xa1, b'n', 7, 0xa1, b'x'];
        pack.extend(std::iter::repeat_n(0x91, 100_000));
        pack.push(1);
        assert!(decode::<Probe>(&pack, Encoding::MsgPack).is_err());
    }

    #[test]
    fn both_encodings_allow_the_same_nesting() {
        for (levels, allowed) in [(NESTING_MAX, true), (NESTING_MAX + 1, false)] {
            // The map at the top is a level too.
            let inner = levels - 1;
            let json = format!(
                r#"{{"n":7,"text":"[[[\"[","x":{}{}}}"#,
                "[".repeat(inner),
                "]".repeat(inner)
            );
            let json = decode::<Probe>(json.as_bytes(), Encoding::Json);
            assert_eq!(json.is_ok(), allowed, "{levels} levels: {json:?}");
            let mut pack = vec![0x82, 0xa1, b'n', 7, 0xa1, b'x'];
            pack.extend(std::iter::repeat_n(0x91, inner - 1));
            pack.push(0x90);
            let pack = decode::<Probe>(&pack, Encoding::MsgPack);
            assert_eq!(pack.is_ok(), allowed, "{levels} levels: {pack:?}");
        }
    }

    #[test]
    fn a_payload_of_another_type_is_refused_and_the_field_is_named() {
        let error = decode::<Probe>(br#"{"type":"start","n":7}"#, Encoding::Json).unwrap_err();
        assert!(error.0.starts_with("type: "), "{error}");
        let error = decode::<Probe>(br#"{"type":"probe","n":"x"}"#, Encoding::Json).unwrap_err();
        assert!(error.0.starts_with("n: "), "{error}");
    }

    #[test]
    fn json_without_its_header_is_answered_with_the_reason() {
        let error = decode::<Probe>(br#"{"n":7}"#, Encoding::MsgPack).unwrap_err();
        assert!(error.0.contains("Content-Type"), "{error}");
    }
}
