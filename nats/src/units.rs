//! Energy, current, power and money. No floats.

use std::{fmt, str::FromStr};

use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Energy in milliwatt-hours; also the reading of a cumulative register.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Mwh(pub u64);

/// Where registers go on at zero: after 4 to 9 digits of whole kilowatt-hours (meters that are sold have
/// 5 to 8), and after 32 bits of watt-hours, in which controllers count.
const REGISTER_ENDS: [Mwh; 7] = [
    Mwh(10_000 * Mwh::KWH.0),
    Mwh(100_000 * Mwh::KWH.0),
    Mwh(1_000_000 * Mwh::KWH.0),
    Mwh((1 << 32) * 1_000),
    Mwh(10_000_000 * Mwh::KWH.0),
    Mwh(100_000_000 * Mwh::KWH.0),
    Mwh(1_000_000_000 * Mwh::KWH.0),
];
/// Most that is counted between two readings on the way over the end: eight minutes of the strongest
/// charger that is sold. A register that falls from farther below an end has not gone over it.
const OVER_END_MAX: Mwh = Mwh(50 * Mwh::KWH.0);

impl Mwh {
    /// One kilowatt-hour.
    pub const KWH: Self = Self(1_000_000);

    /// Where a register that read this and then `later` went over its end and on at zero: at an end that
    /// meters have, when no more than `most` can have been counted. None when it rose, and when it fell in
    /// another way.
    #[must_use]
    pub fn went_over_end(self, later: Self, most: Self) -> Option<Self> {
        let most = most.min(OVER_END_MAX);
        REGISTER_ENDS.into_iter().find(|end| {
            later < self && self <= *end && end.saturating_sub(self).saturating_add(later) <= most
        })
    }

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

/// A currency of ISO 4217 in which people pay today. Its code says how many decimals an amount has:
/// [`Self::decimals`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The euro.
    pub const EUR: Self = Self(iso_currency::Currency::EUR);

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.0.code()
    }

    /// Decimals of its minor unit, by ISO 4217: EUR 2, JPY 0, KWD 3.
    #[must_use]
    pub fn decimals(self) -> u32 {
        // One without a minor unit is not read.
        self.0.exponent().map_or(0, u32::from)
    }
}

impl FromStr for Currency {
    type Err = InvalidAmount;
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        use iso_currency::Flag;
        iso_currency::Currency::from_code(text)
            .filter(|currency| currency.exponent().is_some())
            // Gold, codes for testing and for none; currencies that another has replaced.
            .filter(|currency| {
                !currency
                    .flags()
                    .iter()
                    .any(|flag| matches!(flag, Flag::Special | Flag::Superseded(_)))
            })
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
    /// Not a currency.
    #[error(
        "a currency is the code of one in use, by ISO 4217, in three capital letters such as EUR"
    )]
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

    /// Rounded half up to the minor unit of a currency, and written with exactly its decimals:
    /// what is owed.
    #[must_use]
    pub fn owed(self, currency: Currency) -> Self {
        let decimals = currency.decimals();
        let mut value = self
            .0
            .round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero);
        value.rescale(decimals);
        Self(value)
    }

    /// With all the digits that it has, and at least the decimals of a currency.
    #[must_use]
    pub fn exact(self, currency: Currency) -> Self {
        let mut value = self.0.normalize();
        if value.scale() < currency.decimals() {
            value.rescale(currency.decimals());
        }
        Self(value)
    }

    /// Whether it can be paid: it has no digit below the minor unit of a currency.
    #[must_use]
    pub fn is_payable(self, currency: Currency) -> bool {
        self.0.normalize().scale() <= currency.decimals()
    }
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
    fn a_currency_is_one_in_which_people_pay() {
        for (code, decimals) in [
            ("EUR", 2),
            ("JPY", 0),
            ("KRW", 0),
            ("ISK", 0),
            ("KWD", 3),
            ("TND", 3),
            ("CHF", 2),
            ("HUF", 2),
        ] {
            let currency: Currency = code.parse().unwrap();
            assert_eq!((currency.as_str(), currency.decimals()), (code, decimals));
        }
        for none in [
            "ZZZ", "XXX", "XTS", "XAU", "XDR", "DEM", "eur", "EU", "EURO", "",
        ] {
            let refused = none.parse::<Currency>().unwrap_err().to_string();
            assert!(refused.contains("ISO 4217"), "{none}: {refused}");
        }
    }

    #[test]
    fn what_is_owed_has_the_digits_of_its_currency() {
        let amount = |text: &str| text.parse::<Amount>().unwrap();
        for (code, exact, owed) in [
            ("JPY", "1.5", "2"),
            ("JPY", "-1.5", "-2"),
            ("JPY", "25", "25"),
            ("KWD", "1.2345", "1.235"),
            ("KWD", "1", "1.000"),
            ("EUR", "0.005", "0.01"),
            ("EUR", "3", "3.00"),
        ] {
            let currency = code.parse().unwrap();
            assert_eq!(amount(exact).owed(currency).to_string(), owed, "{code}");
        }
        assert_eq!(amount("1.1").exact(Currency::EUR).to_string(), "1.10");
        assert_eq!(amount("1.1234").exact(Currency::EUR).to_string(), "1.1234");
        assert!(amount("1.500").is_payable(Currency::EUR));
        assert!(!amount("1.505").is_payable(Currency::EUR));
    }

    #[test]
    fn a_register_goes_over_its_end_where_meters_have_one() {
        let kwh = |n: u64| Mwh(n * Mwh::KWH.0);
        for (before, later, most, end) in [
            (kwh(999_999), kwh(1), kwh(2), Some(kwh(1_000_000))),
            (kwh(999_999), kwh(1), kwh(1), None), // More than can have flowed.
            (kwh(999_999), kwh(999_998), kwh(9), None),
            (kwh(1_000_000), Mwh(0), kwh(9), Some(kwh(1_000_000))),
            (kwh(1_000_000), kwh(1_000_001), kwh(9), None),
            (kwh(123_456), kwh(0), kwh(9), None),
            (kwh(9_999), kwh(1), kwh(9), Some(kwh(10_000))),
            (
                Mwh(4_294_967_295_000),
                Mwh(704_000),
                kwh(1),
                Some(Mwh(4_294_967_296_000)),
            ),
            // Whatever can flow, it fell from too far below.
            (kwh(9_900), kwh(10), Mwh(u64::MAX), None),
            (Mwh(u64::MAX), Mwh(0), Mwh(u64::MAX), None),
        ] {
            assert_eq!(
                before.went_over_end(later, most),
                end,
                "{before:?}, {later:?}"
            );
        }
    }

    #[test]
    fn milliwatt_hours_become_exact_kilowatt_hours() {
        assert_eq!(Mwh(7_123_456).kwh().to_string(), "7.123456");
    }
}
