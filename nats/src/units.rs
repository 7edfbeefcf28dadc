//! Energy, current, power and money. No floats.

use std::{fmt, str::FromStr};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tinystr::{TinyAsciiStr, tinystr};

/// Energy in milliwatt-hours; also the reading of a cumulative register.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Mwh(pub u64);

impl Mwh {
    /// One kilowatt-hour.
    pub const KWH: Self = Self(1_000_000);

    /// Exact kilowatt-hours, six decimals.
    #[must_use]
    pub fn kwh(self) -> Decimal {
        Decimal::from_i128_with_scale(i128::from(self.0), 6)
    }

    /// Difference, never below zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Sum, clamped at the largest value.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Power in milliwatts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct MilliWatt(pub u64);

/// Current in milliamperes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct MilliAmp(pub u32);

/// An ISO 4217 code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(TinyAsciiStr<3>);

impl Currency {
    /// The euro.
    pub const EUR: Self = Self(tinystr!(3, "EUR"));

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for Currency {
    type Err = InvalidAmount;
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        TinyAsciiStr::try_from_str(text)
            .ok()
            .filter(|code| code.len() == 3 && code.is_ascii_alphabetic_uppercase())
            .map(Self)
            .ok_or(InvalidAmount::Currency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Why a text is not an amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// Not three capital letters.
    #[error("a currency is three capital letters, such as EUR")]
    Currency,
    /// Not a plain decimal.
    #[error("an amount is a plain decimal in quotes, such as \"12.50\", with at most 6 decimals")]
    Number,
    /// Too large to be meant.
    #[error("an amount is at most 1000000000 either way")]
    Range,
}

/// An amount of money in a currency that its context names. On the wire a plain decimal in text
/// (`"12.50"`), so that no reader passes it through a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Amount(pub Decimal);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(Decimal::ZERO);
    /// Most decimals that a given amount may have.
    pub const SCALE_MAX: u32 = 6;
    /// The largest amount either way.
    pub const ABS_MAX: i64 = 1_000_000_000;
}

impl FromStr for Amount {
    type Err = InvalidAmount;
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || fraction.len() > Self::SCALE_MAX as usize {
            return Err(InvalidAmount::Number);
        }
        if whole.len() > 12 {
            return Err(InvalidAmount::Range);
        }
        let value = Decimal::from_str(text).map_err(|_| InvalidAmount::Number)?;
        if value.abs() > Decimal::from(Self::ABS_MAX) {
            return Err(InvalidAmount::Range);
        }
        Ok(Self(value))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount in text, such as \"12.50\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                // What this system wrote itself may have more decimals than a person may give.
                Decimal::from_str_exact(text)
                    .map(Amount)
                    .map_err(|_| E::custom(InvalidAmount::Number))
            }
        }
        d.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_plain_decimal() {
        for good in ["0", "12.50", "-3.1", "999999999.999999"] {
            assert_eq!(good.parse::<Amount>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "1e9",
            "+1",
            ".5",
            "5.",
            "1.1234567",
            "0x1",
            "--1",
            "1_000",
            "1,5",
            "NaN",
            "99999999999999999999",
            "1000000001",
        ] {
            assert!(bad.parse::<Amount>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn milliwatt_hours_become_exact_kilowatt_hours() {
        assert_eq!(Mwh(7_123_456).kwh().to_string(), "7.123456");
    }
}
