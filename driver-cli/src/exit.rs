//! What the shell is told.

use ev_contract::codes::Code;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// The command line cannot be used.
    Usage = 2,
    /// No such session, charge point, driver or tariff.
    NotFound = 3,
    /// The asker may not do this.
    NotAllowed = 4,
    /// Refused, or the session failed.
    Refused = 5,
    /// Sent, and whether it took effect is not known.
    Unknown = 6,
    /// Nobody there, and nothing was sent.
    Unreachable = 7,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// How a refusal with this code ends the program. The only place that says so.
    #[must_use]
    pub const fn of(code: Code) -> Self {
        match code {
            Code::UnknownChargePoint
            | Code::UnknownConnector
            | Code::SessionNotFound
            | Code::TariffNotFound
            | Code::DriverNotFound => Self::NotFound,
            Code::NotAllowed | Code::DriverBlocked => Self::NotAllowed,
            Code::OutcomeUnknown | Code::Forgotten => Self::Unknown,
            Code::Internal => Self::Other,
            // Every other refusal, those of newer peers among them.
            _ => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_end_the_program_as_documented() {
        for (code, exit) in [
            (Code::UnknownChargePoint, 3),
            (Code::SessionNotFound, 3),
            (Code::DriverBlocked, 4),
            (Code::NotAllowed, 4),
            (Code::Occupied, 5),
            (Code::Expired, 5),
            (Code::SessionEnded, 5),
            (Code::OutcomeUnknown, 6),
            (Code::Forgotten, 6),
        ] {
            assert_eq!(Exit::of(code).code(), exit, "{code}");
        }
        assert!(Code::ALL.iter().all(|&code| Exit::of(code) != Exit::Ok));
        assert_eq!(Exit::Interrupted.code(), 130);
    }
}
