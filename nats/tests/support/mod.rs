//! A value of every message and of every shape inside of them, for the tests of the contract.
#![allow(dead_code, reason = "each test target uses its own part")]

pub mod values;

use std::{cell::Cell, fmt::Debug};

use ev_contract::{
    v1::{DriverUpdate, UpdateType},
    wire::{DecodeError, Encoding, Message, decode, encode},
};
use serde::{
    Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};
use serde_json::Value;

/// Both ways to write a payload.
pub const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::MsgPack];

/// The file extension of an encoding.
pub fn extension(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "json",
        Encoding::MsgPack => "msgpack",
    }
}

type Decode = Box<dyn Fn(&[u8], Encoding) -> Result<bool, DecodeError>>;
type Encode = Box<dyn Fn(Encoding) -> Vec<u8>>;
type Reencode = Box<dyn Fn(&[u8], Encoding) -> Result<Value, DecodeError>>;

/// A message with one value.
pub struct Case {
    /// `<type>.full` (every field is there) or `<type>.min` (only what must be).
    pub name: String,
    /// Its `type`.
    pub word: &'static str,
    /// Its fields, in order, as the crate declares them.
    pub fields: &'static [&'static str],
    /// The value as bytes.
    pub encode: Encode,
    /// Reads bytes; whether they are the value.
    pub decode: Decode,
    /// Reads bytes; what the crate makes of them, as JSON.
    pub reencode: Reencode,
}

impl Case {
    /// A message whose type is its own.
    pub fn of<T>(variant: &str, value: T) -> Self
    where
        T: Message + Serialize + DeserializeOwned + PartialEq + Debug + 'static,
    {
        Self::with_word(T::TYPE, variant, value)
    }

    /// An update, which has three types.
    pub fn update(variant: &str, value: DriverUpdate) -> Self {
        Self::with_word(value.kind.as_str(), variant, value)
    }

    fn with_word<T>(word: &'static str, variant: &str, value: T) -> Self
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug + 'static,
    {
        let bytes = ENCODINGS.map(|e| encode(&value, e).expect("a message is encodable"));
        Self {
            name: format!("{word}.{variant}"),
            word,
            fields: fields_of::<T>(),
            encode: Box::new(move |encoding| match encoding {
                Encoding::Json => bytes[0].clone(),
                Encoding::MsgPack => bytes[1].clone(),
            }),
            decode: Box::new(move |bytes, encoding| {
                decode::<T>(bytes, encoding).map(|read| read == value)
            }),
            reencode: Box::new(|bytes, encoding| decode::<T>(bytes, encoding).map(|m| json_of(&m))),
        }
    }

    /// The value as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&(self.encode)(Encoding::Json)).expect("what was encoded is JSON")
    }

    /// Whether the message can be read from this JSON.
    pub fn reads(&self, json: &Value) -> bool {
        (self.decode)(json.to_string().as_bytes(), Encoding::Json).is_ok()
    }
}

/// A structure inside of messages, with every field.
pub struct Shape {
    /// Its name in the README.
    pub name: &'static str,
    /// Its fields, in order.
    pub fields: Vec<String>,
    /// One value, every field given.
    pub json: Value,
    /// Reads JSON and gives back what the crate makes of it.
    pub reread: fn(&Value) -> Option<Value>,
}

impl Shape {
    /// A structure.
    pub fn of<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Self {
        let fields = fields_of::<T>();
        Self::with_fields(
            name,
            value,
            fields.iter().map(ToString::to_string).collect(),
        )
    }

    /// An enum whose variants are told apart by a field; this is one of them.
    pub fn variant<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Self {
        let json = json_of(value);
        let fields = json.as_object().into_iter().flatten();
        let fields = fields.map(|(field, _)| field.clone()).collect();
        Self::with_fields(name, value, fields)
    }

    fn with_fields<T>(name: &'static str, value: &T, fields: Vec<String>) -> Self
    where
        T: Serialize + DeserializeOwned,
    {
        Self {
            name,
            fields,
            json: json_of(value),
            reread: |json| {
                let read: T = serde_json::from_value(json.clone()).ok()?;
                Some(json_of(&read))
            },
        }
    }

    /// Whether the structure can be read from this JSON.
    pub fn reads(&self, json: &Value) -> bool {
        (self.reread)(json).is_some()
    }
}

/// Every type on the wire.
pub fn words() -> Vec<&'static str> {
    let messages = ev_contract::v1::MESSAGE_TYPES.iter().copied();
    messages
        .chain(UpdateType::ALL.iter().map(|kind| kind.as_str()))
        .collect()
}

/// The object without one of its fields.
pub fn without(json: &Value, field: &str) -> Value {
    let mut json = json.clone();
    if let Some(object) = json.as_object_mut() {
        object.remove(field);
    }
    json
}

fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("what the contract has is JSON")
}

/// The names that a derived structure asks its deserializer for.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let fields: Cell<&'static [&'static str]> = Cell::new(&[]);
    let _ = T::deserialize(FieldNames(&fields));
    fields.get()
}

struct FieldNames<'a>(&'a Cell<&'static [&'static str]>);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only the names are wanted"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.set(fields);
        Err(Error::custom("only the names are wanted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
