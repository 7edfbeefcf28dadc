//! A month of a calendar, at each site in its own time zone.

use std::{fmt, str::FromStr};

use ev_contract::time::UnixMs;
use jiff::{civil::Date, tz::TimeZone};

const HOUR_MS: i64 = 3_600_000;
/// No time zone is further ahead of UTC (Kiribati has 14 h) or behind it (12 h).
const ZONES_MS: i64 = 14 * HOUR_MS;

/// A month of a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    first: Date,
    next: Date,
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no month: write it as 2026-11");
        let (year, month) = text.split_once('-').ok_or_else(wrong)?;
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if year.len() != 4 || month.len() != 2 || !all_digits(year) || !all_digits(month) {
            return Err(wrong());
        }
        let first = year
            .parse()
            .ok()
            .zip(month.parse().ok())
            .and_then(|(year, month)| Date::new(year, month, 1).ok())
            .filter(|first| (1970..9999).contains(&first.year()))
            .ok_or_else(wrong)?;
        let next = first.first_of_month().last_of_month().tomorrow();
        Ok(Self {
            first,
            next: next.map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

impl Month {
    /// From when to when it is somewhere: the first time that is in it, and the first that is not.
    #[must_use]
    pub fn at(self, zone: &TimeZone) -> (UnixMs, UnixMs) {
        let midnight = |date: Date| {
            date.to_zoned_datetime(zone.clone())
                .map_or(0, |at| at.timestamp().as_millisecond())
        };
        (UnixMs(midnight(self.first)), UnixMs(midnight(self.next)))
    }

    /// From when to when it is anywhere.
    #[must_use]
    pub fn anywhere(self) -> (UnixMs, UnixMs) {
        let (from, until) = self.at(&TimeZone::UTC);
        (from.plus_ms(-ZONES_MS), until.plus_ms(ZONES_MS))
    }

    /// Whether a time is in it somewhere.
    #[must_use]
    pub fn has(self, at: UnixMs, zone: &TimeZone) -> bool {
        let (from, until) = self.at(zone);
        from <= at && at < until
    }
}

/// Whose calendar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calendar {
    /// Each site's own; UTC for one whose time zone is not known here.
    Sites,
    /// UTC for all.
    Utc,
}

impl Calendar {
    /// The zone of a site.
    #[must_use]
    pub fn zone(self, name: &str) -> TimeZone {
        match self {
            Self::Utc => TimeZone::UTC,
            Self::Sites => TimeZone::get(name).unwrap_or(TimeZone::UTC),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_and_ends_at_the_sites_midnight() {
        let month: Month = "2026-10".parse().unwrap();
        assert_eq!(month.to_string(), "2026-10");
        let berlin = Calendar::Sites.zone("Europe/Berlin");
        let (from, until) = month.at(&berlin);
        // From +02:00 to +01:00: an hour more than 31 days.
        assert_eq!(until.0 - from.0, (31 * 24 + 1) * HOUR_MS);
        let (from_utc, until_utc) = month.at(&Calendar::Utc.zone("Europe/Berlin"));
        assert_eq!(from_utc.0 - from.0, 2 * HOUR_MS);
        assert!(!month.has(from.plus_ms(-1), &berlin) && month.has(from, &berlin));
        assert!(month.has(until.plus_ms(-1), &berlin) && !month.has(until, &berlin));
        let (any_from, any_until) = month.anywhere();
        assert!(any_from < from && until_utc < any_until);
        assert_eq!(Calendar::Sites.zone("Nowhere/Town"), TimeZone::UTC);
    }

    #[test]
    fn december_is_followed_by_january() {
        let month: Month = "2026-12".parse().unwrap();
        let (from, until) = month.at(&TimeZone::UTC);
        assert_eq!(until.0 - from.0, 31 * 24 * HOUR_MS);
    }

    #[test]
    fn what_is_no_month_is_refused() {
        for text in [
            "",
            "2026",
            "2026-13",
            "2026-00",
            "2026-1",
            "26-11",
            "2026-11-01",
            "+026-11",
            "1969-12",
        ] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }
}
