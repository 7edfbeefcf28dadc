//! The contract: everything that crosses a wire between driver, central and charge point.
//!
//! This crate knows serde and nothing asynchronous. Rooms:
//!
//! - [`ids`]: names that are checked at every border
//! - [`units`]: energy, current, money; integers and decimals, never floats
//! - [`time`]: wall and monotonic time as arguments
//! - [`subjects`]: every subject, built and parsed in one file
//! - [`codes`]: every code with its message and hint
//! - [`wire`]: MessagePack and JSON, with bounds
//! - [`v1`]: the messages
//! - [`connector`]: the state of a connector, derived by one pure function
//! - [`limits`]: every bound that both sides must agree on
//! - [`streams`]: what is kept in JetStream

pub mod codes;
pub mod connector;
pub mod ids;
pub mod limits;
pub mod price;
pub mod streams;
pub mod subjects;
pub mod time;
pub mod units;
pub mod v1;
pub mod wire;

/// Declares an enum that travels as a word. A word that this build does not know decodes to
/// `Unrecognised`, so that an older peer survives a newer one.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name {
            $($(#[$vmeta])* $variant,)+
            /// A word from a newer peer.
            Unrecognised,
        }

        impl $name {
            /// Every variant that this build knows.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                    $name::Unrecognised => "unrecognised",
                }
            }

            /// Reads a word; an unknown one is `Unrecognised`.
            #[must_use]
            pub fn from_word(word: &str) -> Self {
                match word {
                    $($word => $name::$variant,)+
                    _ => $name::Unrecognised,
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Word;
                impl ::serde::de::Visitor<'_> for Word {
                    type Value = $name;
                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str("a word")
                    }
                    fn visit_str<E: ::serde::de::Error>(self, word: &str) -> Result<$name, E> {
                        Ok($name::from_word(word))
                    }
                }
                deserializer.deserialize_str(Word)
            }
        }
    };
}
