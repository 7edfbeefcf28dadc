//! Versions of nats-server.

use std::fmt;

/// A version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes that break things.
    pub major: u32,
    /// Features.
    pub minor: u32,
    /// Fixes.
    pub patch: u32,
}

/// The oldest server whose behaviour was measured; older ones have known holes. What `central
/// enrol` signs names it, and an older one does not start with that.
pub const SERVER_MIN: Version = Version {
    major: 2,
    minor: 15,
    patch: 1,
};

impl Version {
    /// Reads `2.15.1`, and `2.16.0-RC.1` without what follows the numbers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Some(Self {
                major,
                minor,
                patch,
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let of = |text| Version::parse(text).expect("a version");
        assert_eq!(of("2.15.1").to_string(), "2.15.1");
        assert_eq!(of("2.16.0-RC.1").to_string(), "2.16.0");
        assert!(of("2.9.25") < SERVER_MIN);
        assert!(of("2.15.1") >= SERVER_MIN && of("10.0.0") > SERVER_MIN);
        for none in ["", "2.15", "2.x.1", "2.15.1.1"] {
            assert_eq!(Version::parse(none), None, "{none}");
        }
    }
}
