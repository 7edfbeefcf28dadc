//! Names and identifiers. Ids match `[A-Za-z0-9_-]{1,64}`: they are tokens of NATS subjects, so a
//! dot, a blank or a wildcard in one would let its bearer speak on another's subject.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// The longest id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a valid {what}: ids are 1 to 64 of A-Z a-z 0-9 _ -")]
pub struct InvalidId {
    /// Which kind of id was expected.
    pub what: &'static str,
    /// The start of the offending text, made safe to print.
    pub shown: String,
}

impl InvalidId {
    fn new(what: &'static str, text: &str) -> Self {
        Self {
            what,
            shown: text.chars().take(70).flat_map(char::escape_debug).collect(),
        }
    }
}

fn is_token(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! token_id {
    ($($(#[$meta:meta])* $name:ident, $what:literal;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a text.
            ///
            /// # Errors
            /// [`InvalidId`] when the text does not match `[A-Za-z0-9_-]{1,64}`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                if is_token(text) { Ok(Self(Arc::from(text))) } else { Err(InvalidId::new($what, text)) }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> { Self::new(text) }
        }

        impl AsRef<str> for $name { fn as_ref(&self) -> &str { &self.0 } }
        impl Borrow<str> for $name { fn borrow(&self) -> &str { &self.0 } }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", &self.0) }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.serialize_str(&self.0) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str($what) }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                d.deserialize_str(Text)
            }
        }
    )+};
}

token_id! {
    /// A driver. A pseudonym: who is behind it is kept elsewhere, where it can be erased.
    DriverId, "driver id";
    /// An operator, the person behind `op` verbs.
    OperatorId, "operator id";
    /// A charge point: one cabinet, one identity, one uplink.
    CpId, "charge point id";
    /// A site: charge points that share an address and a time zone.
    SiteId, "site id";
    /// A tariff; together with a version it names prices that never change.
    TariffId, "tariff id";
    /// The asker's own id for one request. Repeating a request repeats its id.
    RequestId, "request id";
    /// One command to a charge point: for sessions, the session id and the verb.
    CommandId, "command id";
    /// The identity of one spool database. A replaced disk is another epoch, so that its records,
    /// numbered from one again, are not taken for repeats of the old ones.
    Epoch, "epoch";
    /// One central process, for logs and for telling frames apart.
    ReplicaId, "replica id";
    /// One entry of the audit.
    AuditId, "audit entry id";
}

impl CommandId {
    /// The start command of a session.
    #[must_use]
    pub fn start(session: SessionId) -> Self {
        Self(Arc::from(format!("{session}-start")))
    }

    /// The stop command of a session.
    #[must_use]
    pub fn stop(session: SessionId) -> Self {
        Self(Arc::from(format!("{session}-stop")))
    }
}

/// A connector of a charge point, counted from 1. What OCPP 2 calls an EVSE: one session and one
/// meter at a time; the plugs on it are attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectorId(pub u16);

impl fmt::Display for ConnectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The one id of a charging session, for driver, central, charge point and receipt. A UUIDv7,
/// written as 36 lower-case characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Uuid);

impl SessionId {
    /// Wraps a UUID that the shell has drawn.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID itself.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// Reads the one accepted spelling: 36 characters, hyphenated, lower case.
    ///
    /// # Errors
    /// [`InvalidId`] for anything else, other spellings of a UUID among them: one id, one spelling.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if text.len() == 36
            && !text.bytes().any(|b| b.is_ascii_uppercase())
            && let Ok(uuid) = Uuid::try_parse(text)
        {
            return Ok(Self(uuid));
        }
        Err(InvalidId::new("session id", text))
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; 36];
        f.pad(self.0.hyphenated().encode_lower(&mut buffer))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut buffer = [0; 36];
        s.serialize_str(self.0.hyphenated().encode_lower(&mut buffer))
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = SessionId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a session id")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SessionId, E> {
                SessionId::parse(text).map_err(E::custom)
            }
        }
        d.deserialize_str(Text)
    }
}

/// One start of an agent, drawn at random by its process. Two agents with one store have one epoch and
/// two of these. Written as 16 hexadecimal digits, lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(u64);

impl BootId {
    /// Wraps a number that the shell has drawn.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl FromStr for BootId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_ours =
            |b: u8| b.is_ascii_digit() || (b.is_ascii_lowercase() && b.is_ascii_hexdigit());
        if text.len() == 16
            && text.bytes().all(is_ours)
            && let Ok(number) = u64::from_str_radix(text, 16)
        {
            return Ok(Self(number));
        }
        Err(InvalidId::new("boot id", text))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BootId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = BootId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boot id")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<BootId, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_break_a_subject_are_refused() {
        let long = "a".repeat(65);
        for bad in [
            "", "*", ">", "a.b", "a b", "ключ", "a\n", "a/b", &long, "é", "a\0b",
        ] {
            assert!(DriverId::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(DriverId::new("a".repeat(64)).is_ok());
        assert!(CpId::new("CP-001_x").is_ok());
    }

    #[test]
    fn a_boot_id_has_one_spelling() {
        let id = "00c0ffee00c0ffee";
        assert_eq!(id.parse::<BootId>().unwrap().to_string(), id);
        for other in [
            "",
            "0",
            "00C0FFEE00C0FFEE",
            "+0c0ffee00c0ffee",
            "00c0ffee00c0ffee0",
        ] {
            assert!(other.parse::<BootId>().is_err(), "{other:?} was taken");
        }
    }

    #[test]
    fn a_session_id_has_one_spelling() {
        let id = "0190a0b0-1111-7222-8333-444455556666";
        assert_eq!(SessionId::parse(id).unwrap().to_string(), id);
        for other in [
            "0190A0B0-1111-7222-8333-444455556666",
            "0190a0b01111722283334444555566660000",
            "{0190a0b0-1111-7222-8333-444455556666}",
            "0",
            "-1",
            "",
        ] {
            assert!(SessionId::parse(other).is_err(), "{other:?} was taken");
        }
    }
}
