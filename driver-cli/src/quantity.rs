//! What people type: energies, durations, money. Integers and decimals, never floats. Whether a
//! value makes sense is central's decision; here it only has to be readable.

use std::{fmt, str::FromStr, time::Duration};

use ev_contract::{
    ids::{CpId, InvalidId, SiteId, TariffId},
    time::UnixMs,
    units::{Amount, Currency},
    v1::{IdleFrom, TariffRef, TariffScope, Tax},
};
use rust_decimal::Decimal;

/// Why a text is not a quantity, in a sentence that says what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuantity {
    /// Not an energy.
    #[error("`{0}` is not an energy: write for instance 20kWh or 500Wh")]
    Energy(String),
    /// An energy finer than a watt-hour.
    #[error("`{0}` is finer than a watt-hour: give whole watt-hours, for instance 7.5kWh")]
    EnergyTooFine(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write for instance 90s, 30m or 1h30m")]
    Duration(String),
    /// A duration finer than a second where seconds count.
    #[error("`{0}` is finer than a second: give whole seconds, for instance 90s")]
    DurationTooFine(String),
    /// Not money.
    #[error("`{0}` is not an amount of money: write for instance 10EUR or 10.50EUR")]
    Money(String),
    /// Money without a currency where one is needed.
    #[error("`{0}` names no currency: write for instance {0}EUR")]
    NoCurrency(String),
    /// Far beyond anything real.
    #[error("`{0}` is far too large")]
    TooLarge(String),
    /// Not a scope of a tariff.
    #[error("`{0}` is no scope: write default, site:SITE or cp:CHARGE_POINT")]
    Scope(String),
    /// Not a currency.
    #[error("`{0}`: {1} is no currency of ISO 4217 in use: write for instance 10EUR")]
    Currency(String, String),
    /// Not a time.
    #[error("`{0}` is not a time with its zone: write for instance 2027-01-01T00:00:00+01:00")]
    Time(String),
    /// Not a tax.
    #[error("`{0}` is not a tax: write its name and rate, for instance 'VAT 19%'")]
    Tax(String),
    /// Not a percentage.
    #[error("`{0}` is not a percentage: write for instance 19")]
    Percent(String),
    /// Not a place.
    #[error(
        "`{0}` is not a connector: write the charge point's id, or CP-001/1 for its connector 1"
    )]
    Place(String),
    /// Not a version of a tariff.
    #[error("`{0}` names no price: write a tariff and its version, for instance base@3")]
    TariffVersion(String),
    /// Not an id.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

/// An energy in watt-hours. Zero and less can be written; central refuses them with its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WattHours(pub i64);

impl FromStr for WattHours {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let no = || NotAQuantity::Energy(text.to_owned());
        let (number, unit) = split_unit(text).ok_or_else(no)?;
        // `mWh` and `MWh` differ by nine powers of ten, so that one letter's case counts.
        let wh_per_unit = match unit {
            "Wh" | "wh" | "WH" => 1,
            "kWh" | "kwh" | "KWh" | "KWH" => 1_000,
            "MWh" => 1_000_000,
            _ => return Err(no()),
        };
        let number = decimal(number).ok_or_else(no)?;
        let wh = number
            .checked_mul(Decimal::from(wh_per_unit))
            .ok_or_else(|| NotAQuantity::TooLarge(text.to_owned()))?
            .normalize();
        if wh.scale() > 0 {
            return Err(NotAQuantity::EnergyTooFine(text.to_owned()));
        }
        i64::try_from(wh)
            .map(Self)
            .map_err(|_| NotAQuantity::TooLarge(text.to_owned()))
    }
}

/// A duration to the millisecond, for `--timeout` and `--pause`.
///
/// # Errors
/// [`NotAQuantity`] for anything but numbers with the units `d h m s ms`.
pub fn duration(text: &str) -> Result<Duration, NotAQuantity> {
    let no = || NotAQuantity::Duration(text.to_owned());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(no());
    }
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..]
            .bytes()
            .take_while(u8::is_ascii_alphabetic)
            .count();
        if digits == 0 || letters == 0 {
            return Err(no());
        }
        let ms_per_unit: u64 = match &rest[digits..digits + letters] {
            "d" => 24 * 3_600_000,
            "h" => 3_600_000,
            "m" | "min" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(no()),
        };
        let too_large = || NotAQuantity::TooLarge(text.to_owned());
        let number: u64 = rest[..digits].parse().map_err(|_| too_large())?;
        total_ms = number
            .checked_mul(ms_per_unit)
            .and_then(|ms| total_ms.checked_add(ms))
            .ok_or_else(too_large)?;
        rest = rest[digits + letters..].trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// A duration above zero, for `--timeout`.
///
/// # Errors
/// As [`duration`], and for zero.
pub fn duration_above_zero(text: &str) -> Result<Duration, NotAQuantity> {
    match duration(text)? {
        Duration::ZERO => Err(NotAQuantity::Duration(text.to_owned())),
        some => Ok(some),
    }
}

/// A duration in whole seconds, for limits and graces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub i64);

impl FromStr for Seconds {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let duration = duration(text)?;
        if duration.subsec_millis() != 0 {
            return Err(NotAQuantity::DurationTooFine(text.to_owned()));
        }
        i64::try_from(duration.as_secs())
            .map(Self)
            .map_err(|_| NotAQuantity::TooLarge(text.to_owned()))
    }
}

/// An amount and, where it was written, its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Option<Currency>,
}

impl FromStr for Money {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let no = || NotAQuantity::Money(text.to_owned());
        let trimmed = text.trim();
        let (number, unit) = match split_unit(trimmed) {
            Some((number, unit)) => (number, Some(unit)),
            None => (trimmed, None),
        };
        let amount: Amount = number.parse().map_err(|_| no())?;
        let currency = unit
            .map(|unit| match unit {
                "€" => Ok(Currency::EUR),
                word if word.len() == 3 && word.bytes().all(|b| b.is_ascii_alphabetic()) => {
                    let code = word.to_ascii_uppercase();
                    code.parse()
                        .map_err(|_| NotAQuantity::Currency(text.to_owned(), code))
                }
                _ => Err(no()),
            })
            .transpose()?;
        Ok(Self { amount, currency })
    }
}

/// An amount with its currency, where there is no context that could name one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
}

impl FromStr for Price {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let money: Money = text.parse()?;
        money
            .currency
            .map(|currency| Self {
                amount: money.amount,
                currency,
            })
            .ok_or_else(|| NotAQuantity::NoCurrency(text.to_owned()))
    }
}

/// A percentage, with or without its sign.
///
/// # Errors
/// [`NotAQuantity`] for anything but a plain decimal.
pub fn percent(text: &str) -> Result<Amount, NotAQuantity> {
    let number = text.trim().trim_end_matches('%').trim_end();
    number
        .parse()
        .map_err(|_| NotAQuantity::Percent(text.to_owned()))
}

/// A tax by name and rate: `VAT 19%`.
///
/// # Errors
/// [`NotAQuantity`] for anything else.
pub fn tax(text: &str) -> Result<Tax, NotAQuantity> {
    let no = || NotAQuantity::Tax(text.to_owned());
    let plain = text.trim().trim_end_matches('%').trim_end();
    let (name, rate) = plain.rsplit_once(' ').ok_or_else(no)?;
    Ok(Tax {
        name: name.trim().to_owned(),
        percent: rate.parse().map_err(|_| no())?,
    })
}

/// A time with its zone: an offset or `Z`.
///
/// # Errors
/// [`NotAQuantity`] for anything else.
pub fn time(text: &str) -> Result<UnixMs, NotAQuantity> {
    text.parse::<jiff::Timestamp>()
        .map(|time| UnixMs(time.as_millisecond()))
        .map_err(|_| NotAQuantity::Time(text.to_owned()))
}

/// `end`, or how long without power.
///
/// # Errors
/// [`NotAQuantity`] for anything else.
pub fn idle_from(text: &str) -> Result<IdleFrom, NotAQuantity> {
    if text == "end" {
        return Ok(IdleFrom::EnergyEnded);
    }
    let seconds: Seconds = text.parse()?;
    u32::try_from(seconds.0)
        .map(IdleFrom::WithoutPowerS)
        .map_err(|_| NotAQuantity::TooLarge(text.to_owned()))
}

/// `default`, `site:X` or `cp:Y`.
///
/// # Errors
/// [`NotAQuantity`] for anything else.
pub fn scope(text: &str) -> Result<TariffScope, NotAQuantity> {
    match text.split_once(':') {
        None if text == "default" => Ok(TariffScope::Default),
        Some(("site", site)) => Ok(TariffScope::Site(SiteId::new(site)?)),
        Some(("cp", cp)) => Ok(TariffScope::ChargePoint(CpId::new(cp)?)),
        _ => Err(NotAQuantity::Scope(text.to_owned())),
    }
}

/// A charge point, or one of its connectors as messages write it: `CP-001/1`. The id is checked by
/// central, so that a wrong one gets its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The charge point.
    pub cp_id: String,
    /// Its connector.
    pub connector: Option<i64>,
}

impl FromStr for Place {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        match text.split_once('/') {
            None => Ok(Self {
                cp_id: text.to_owned(),
                connector: None,
            }),
            Some((cp_id, connector)) => Ok(Self {
                cp_id: cp_id.to_owned(),
                connector: Some(
                    connector
                        .parse()
                        .map_err(|_| NotAQuantity::Place(text.to_owned()))?,
                ),
            }),
        }
    }
}

/// A version of a tariff: `base@3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TariffVersion(pub TariffRef);

impl FromStr for TariffVersion {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let no = || NotAQuantity::TariffVersion(text.to_owned());
        let (tariff_id, version) = text.split_once('@').ok_or_else(no)?;
        let tariff_id = TariffId::new(tariff_id)?.to_string();
        let version = version.parse().map_err(|_| no())?;
        Ok(Self(TariffRef { tariff_id, version }))
    }
}

impl fmt::Display for TariffVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0.tariff_id, self.0.version)
    }
}

/// Splits `10.5 kWh` into number and unit; `None` without a unit.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_alphabetic() || c == '€')?;
    let (number, unit) = text.split_at(at);
    Some((number.trim_end(), unit))
}

/// A plain decimal: digits, one point, a leading minus.
fn decimal(text: &str) -> Option<Decimal> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return None;
    }
    Decimal::from_str_exact(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_a_tariff_is_read_as_it_is_written() {
        let version: TariffVersion = "base-2@3".parse().unwrap();
        assert_eq!(
            (version.0.tariff_id.as_str(), version.0.version),
            ("base-2", 3)
        );
        assert_eq!(version.to_string(), "base-2@3");
        for no in [
            "", "base", "base@", "@3", "base@x", "base@-1", "a b@3", "base@1@2",
        ] {
            assert!(no.parse::<TariffVersion>().is_err(), "{no}");
        }
    }

    #[test]
    fn energies_are_read_exactly() {
        for (text, wh) in [
            ("20kWh", 20_000),
            ("20 kWh", 20_000),
            ("500Wh", 500),
            ("7.5kWh", 7_500),
            ("0.001kWh", 1),
            ("1MWh", 1_000_000),
            ("0kWh", 0),
            ("-5kWh", -5_000),
        ] {
            assert_eq!(text.parse(), Ok(WattHours(wh)), "{text}");
        }
    }

    #[test]
    fn what_is_no_energy_is_refused_with_a_sentence() {
        for text in [
            "",
            "20",
            "kWh",
            "20kW",
            "20 mWh",
            "1e3kWh",
            ".5kWh",
            "5.kWh",
            "20,5kWh",
            "--1Wh",
            "NaNkWh",
            "20kWhx",
            "0.5Wh",
            "1.0001kWh",
            "99999999999999999999kWh",
        ] {
            let error = text.parse::<WattHours>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(
            "0.5Wh"
                .parse::<WattHours>()
                .unwrap_err()
                .to_string()
                .contains("whole")
        );
    }

    #[test]
    fn durations_are_sums_of_units() {
        for (text, seconds) in [
            ("30m", 1_800),
            ("1h30m", 5_400),
            ("1h 30m", 5_400),
            ("90s", 90),
            ("2d", 172_800),
            ("10min", 600),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1_500)));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_sentence() {
        for text in [
            "",
            "30",
            "m",
            "-5m",
            "1.5h",
            "1h30",
            "5 parsecs",
            "1500ms",
            "99999999999999d",
        ] {
            let error = text.parse::<Seconds>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(duration_above_zero("0s").is_err());
    }

    #[test]
    fn money_is_read_with_and_without_a_blank_or_a_currency() {
        for (text, amount, currency) in [
            ("10EUR", "10", Some("EUR")),
            ("10.50 EUR", "10.50", Some("EUR")),
            ("-1.50EUR", "-1.50", Some("EUR")),
            ("10eur", "10", Some("EUR")),
            ("3€", "3", Some("EUR")),
            ("0.49CHF", "0.49", Some("CHF")),
            ("10", "10", None),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!(money.amount.to_string(), amount, "{text}");
            assert_eq!(
                money.currency.map(|c| c.to_string()).as_deref(),
                currency,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_money_is_refused_with_a_sentence() {
        for text in [
            "",
            "EUR",
            "10EU",
            "10,50EUR",
            "1e3EUR",
            "10 EUR 5",
            "ten EUR",
            "9999999999EUR",
        ] {
            let error = text.parse::<Money>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert_eq!(
            "0.49".parse::<Price>(),
            Err(NotAQuantity::NoCurrency("0.49".into()))
        );
    }

    #[test]
    fn a_currency_that_is_none_is_named() {
        for text in ["10ZZZ", "10XTS", "10XXX"] {
            let error = text.parse::<Money>().unwrap_err().to_string();
            assert!(error.contains("ISO 4217"), "{error}");
        }
    }

    #[test]
    fn taxes_times_and_standing_are_read() {
        let tax = |text| tax(text).map(|tax| (tax.name, tax.percent.to_string()));
        assert_eq!(tax("VAT 19%"), Ok(("VAT".into(), "19".into())));
        assert_eq!(
            tax("city levy 2.5 %"),
            Ok(("city levy".into(), "2.5".into()))
        );
        assert!(tax("19%").is_err() && tax("VAT much").is_err());
        let midnight = UnixMs(1_798_758_000_000);
        for text in ["2027-01-01T00:00:00+01:00", "2026-12-31T23:00:00Z"] {
            assert_eq!(time(text), Ok(midnight), "{text}");
        }
        assert!(time("2027-01-01").is_err() && time("tomorrow").is_err());
        assert_eq!(idle_from("end"), Ok(IdleFrom::EnergyEnded));
        assert_eq!(idle_from("10m"), Ok(IdleFrom::WithoutPowerS(600)));
        assert!(idle_from("soon").is_err());
    }

    #[test]
    fn places_and_scopes_are_read() {
        let place: Place = "CP-001/2".parse().unwrap();
        assert_eq!((place.cp_id.as_str(), place.connector), ("CP-001", Some(2)));
        assert!("CP-001/x".parse::<Place>().is_err());
        assert_eq!(scope("default"), Ok(TariffScope::Default));
        assert!(matches!(scope("site:S1"), Ok(TariffScope::Site(_))));
        assert!(matches!(
            scope("cp:CP-001"),
            Ok(TariffScope::ChargePoint(_))
        ));
        assert!(scope("site:a.b").is_err() && scope("town:x").is_err());
        assert_eq!(percent("19%").unwrap(), percent("19").unwrap());
        assert!(percent("much").is_err());
    }
}
