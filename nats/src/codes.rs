//! Every code that anybody is answered with, its sentence and its hint. The only list.
//!
//! A code is stable: it is never renamed and never reused. To add one, add a variant to [`Code`]
//! and a row to [`Code::text`]; the compiler asks for both.

use serde::{Deserialize, Serialize};

use crate::wire_enum;

wire_enum! {
    /// Why something was refused, failed or could not be answered.
    pub enum Code {
        // What a request says
        /// Bytes that are no message of the expected type.
        InvalidRequest = "invalid_request",
        /// An id with forbidden characters or of a wrong length.
        InvalidId = "invalid_id",
        /// Above a named size.
        TooLarge = "too_large",
        /// A verb that does not exist.
        UnknownVerb = "unknown_verb",
        /// The same request id with other content.
        RequestIdReused = "request_id_reused",
        /// The request came, or was decided, after its `expires_at`.
        Expired = "expired",
        /// `expires_at` lies further ahead than a request may live.
        ExpiryTooFar = "expiry_too_far",
        /// `expires_at` is no plausible time.
        InvalidTime = "invalid_time",
        /// A limit of zero, below zero or beyond the largest.
        LimitInvalid = "limit_invalid",
        /// A cost limit that the start fee alone uses up.
        LimitBelowFee = "limit_below_fee",
        /// A cost limit in a currency that the tariff does not use.
        CurrencyMismatch = "currency_mismatch",
        /// Another price applies than the one that was named.
        PriceChanged = "price_changed",

        // What a charge point is
        /// No such charge point.
        UnknownChargePoint = "unknown_charge_point",
        /// No such connector there.
        UnknownConnector = "unknown_connector",
        /// Several connectors and none named.
        ConnectorRequired = "connector_required",
        /// The charge point's agent is not connected.
        ChargePointOffline = "charge_point_offline",
        /// The agent is connected, its charger hardware is not.
        ChargerOffline = "charger_offline",
        /// Another session has the connector.
        Occupied = "occupied",
        /// The asker's own session has the connector.
        OccupiedByYou = "occupied_by_you",
        /// The hardware reports a fault.
        Faulted = "faulted",
        /// Taken out of service by an operator.
        OutOfService = "out_of_service",

        // What a driver may
        /// As many active sessions as the driver may have.
        LimitReached = "limit_reached",
        /// Blocked by an operator.
        DriverBlocked = "driver_blocked",
        /// No such session, or another driver's.
        SessionNotFound = "session_not_found",
        /// The session has ended.
        SessionEnded = "session_ended",
        /// The session has not ended, so that there is no receipt.
        ReceiptNotReady = "receipt_not_ready",
        /// The session is not ended, so that it cannot be adjusted.
        SessionOpen = "session_open",
        /// The asker may not do this.
        NotAllowed = "not_allowed",

        // What central can say
        /// Whether the request took effect cannot be told in time.
        OutcomeUnknown = "outcome_unknown",
        /// So long ago that the answer is no longer kept.
        Forgotten = "forgotten",
        /// Too much at once.
        Overloaded = "overloaded",
        /// Central is starting or has stopped itself.
        NotReady = "not_ready",
        /// A fault in central.
        Internal = "internal",

        // What a charge point answers
        /// The command arrived after its deadline.
        Late = "late",
        /// A stop for the session came first.
        StoppedBeforeStart = "stopped_before_start",
        /// The command names another spool epoch than the one in use.
        WrongEpoch = "wrong_epoch",
        /// A session that was started at the charge point has the connector.
        OccupiedLocally = "occupied_locally",
        /// Another agent is obeyed as this charge point.
        IdentityInUse = "identity_in_use",
        /// The charge point does not know the time well enough to judge a deadline.
        ClockUnsure = "clock_unsure",
        /// The charge point cannot write to its disk.
        StorageFailed = "storage_failed",
        /// The charger hardware said no.
        RejectedByCharger = "rejected_by_charger",
        /// The charger hardware cannot do this.
        Unsupported = "unsupported",
        /// The charger hardware did not answer.
        NoAnswer = "no_answer",

        // What operators set
        /// A tariff that makes no sense.
        TariffInvalid = "tariff_invalid",
        /// No such tariff.
        TariffNotFound = "tariff_not_found",
        /// No such driver.
        DriverNotFound = "driver_not_found",
        /// A reason must be given.
        ReasonRequired = "reason_required",
        /// An amount that is zero or would take the total below zero.
        AmountInvalid = "amount_invalid",
    }
}

/// The sentence (`{}` stands for what it happened to), what to do next, and whether the same
/// request may succeed later.
struct Text(&'static str, &'static str, bool);

impl Code {
    const fn text(self) -> Text {
        match self {
            Self::InvalidRequest => Text(
                "the request cannot be read: {}",
                "compare it with the example of this verb in the contract's README",
                false,
            ),
            Self::InvalidId => Text("{}", "use the id exactly as it was given out", false),
            Self::TooLarge => Text("the request is too large: {}", "send less at once", false),
            Self::UnknownVerb => Text(
                "there is no verb {}",
                "see the list of subjects in the contract's README",
                false,
            ),
            Self::RequestIdReused => Text(
                "request id {} was used before with another content",
                "draw a new request id for a new request",
                false,
            ),
            Self::Expired => Text(
                "the request's expires_at had passed: {}",
                "ask again with a new request id; compare your clock with `ts` in this answer",
                false,
            ),
            Self::ExpiryTooFar => Text(
                "expires_at lies too far ahead: {}",
                "set it at most 30 s ahead; compare your clock with `ts` in this answer",
                false,
            ),
            Self::InvalidTime => Text(
                "{} is not a plausible time",
                "give milliseconds since 1970-01-01 UTC",
                false,
            ),
            Self::LimitInvalid => Text(
                "the limit cannot be used: {}",
                "give a limit above zero, or none",
                false,
            ),
            Self::LimitBelowFee => Text(
                "the cost limit buys no energy: {}",
                "raise the limit above the start fee",
                false,
            ),
            Self::CurrencyMismatch => Text(
                "the currency does not fit the tariff: {}",
                "give the amount in the tariff's currency",
                false,
            ),
            Self::PriceChanged => Text(
                "another price applies now: {}",
                "look at the price in `tariff` of this answer; if it will do, name it in a new request",
                false,
            ),
            Self::UnknownChargePoint => Text(
                "there is no charge point {}",
                "`list` shows the charge points",
                false,
            ),
            Self::UnknownConnector => Text(
                "there is no connector {}",
                "`list` shows the connectors of each charge point",
                false,
            ),
            Self::ConnectorRequired => Text(
                "{} has several connectors and none was named",
                "name one, for instance with --connector 1",
                false,
            ),
            Self::ChargePointOffline => Text(
                "charge point {} cannot be reached",
                "try again in a minute or use another charge point",
                true,
            ),
            Self::ChargerOffline => Text(
                "the charger at {} does not answer its controller",
                "try again in a minute or use another charge point",
                true,
            ),
            Self::Occupied => Text(
                "connector {} is in use",
                "wait until it is free or use another connector",
                true,
            ),
            Self::OccupiedByYou => Text(
                "your own session has connector {}",
                "stop that session first; `status` shows it",
                true,
            ),
            Self::Faulted => Text(
                "connector {} is faulted",
                "use another connector; the operator sees the fault",
                true,
            ),
            Self::OutOfService => Text(
                "connector {} is out of service",
                "use another connector",
                true,
            ),
            Self::LimitReached => Text(
                "driver {} has as many active sessions as allowed",
                "stop one first; `status` shows them",
                true,
            ),
            Self::DriverBlocked => Text("driver {} is blocked", "ask the operator", false),
            Self::SessionNotFound => Text(
                "you have no session {}",
                "`status` and `history` show your sessions",
                false,
            ),
            Self::SessionEnded => Text("session {} has ended", "`receipt` shows how", false),
            Self::ReceiptNotReady => Text(
                "session {} has not ended, so there is no receipt",
                "stop the session or wait for its end",
                true,
            ),
            Self::SessionOpen => Text("session {} has not ended", "end it first", true),
            Self::NotAllowed => Text("{} is not allowed", "ask the operator", false),
            Self::OutcomeUnknown => Text(
                "whether {} took effect cannot be told yet",
                "repeat the same request with the same request id: that is safe",
                true,
            ),
            Self::Forgotten => Text(
                "request {} is too old: its answer is no longer kept",
                "look at `status` and `history`, then ask with a new request id",
                false,
            ),
            Self::Overloaded => Text(
                "central has too much to do: {}",
                "repeat the same request with the same request id in a second",
                true,
            ),
            Self::NotReady => Text(
                "central is not ready: {}",
                "repeat the same request with the same request id in a few seconds",
                true,
            ),
            Self::Internal => Text(
                "something went wrong in central: {}",
                "repeat the same request with the same request id; tell the operator if it stays",
                true,
            ),
            Self::Late => Text(
                "the command for {} arrived after its deadline",
                "start again",
                true,
            ),
            Self::StoppedBeforeStart => Text(
                "session {} was stopped before its start arrived",
                "start again if you still want to charge",
                true,
            ),
            Self::WrongEpoch => Text(
                "charge point {} has a new store since the session was accepted",
                "start again",
                true,
            ),
            Self::OccupiedLocally => Text(
                "a session that was started at the charge point has connector {}",
                "wait until it is free or use another connector",
                true,
            ),
            Self::IdentityInUse => Text(
                "another agent is obeyed as charge point {}",
                "two agents have one identity, or a store was set back: stop the wrong one; if that \
                 is the other, stop this one too, run `edge-cp new-epoch` here and start it again",
                false,
            ),
            Self::ClockUnsure => Text(
                "charge point {} does not know the time yet",
                "nothing: the command is repeated by itself",
                true,
            ),
            Self::StorageFailed => Text(
                "charge point {} cannot write to its disk",
                "use another charge point; the operator must free or replace the disk",
                true,
            ),
            Self::RejectedByCharger => Text(
                "the charger at {} refused",
                "check the plug, then start again",
                true,
            ),
            Self::Unsupported => Text("the charger at {} cannot do this", "nothing", false),
            Self::NoAnswer => Text(
                "the charger at {} did not answer",
                "try again in a minute or use another charge point",
                true,
            ),
            Self::TariffInvalid => Text(
                "the tariff cannot be used: {}",
                "correct it and set it again",
                false,
            ),
            Self::TariffNotFound => Text(
                "there is no tariff {}",
                "`op tariff ls` shows the tariffs",
                false,
            ),
            Self::DriverNotFound => {
                Text("driver {} is not known here", "check the spelling", false)
            }
            Self::ReasonRequired => Text("a reason must be given: {}", "add one in words", false),
            Self::AmountInvalid => Text(
                "the amount cannot be used: {}",
                "give an amount that is not zero and leaves the total at zero or above",
                false,
            ),
            Self::Unrecognised => Text(
                "refused for a reason that this version does not know: {}",
                "update this program",
                false,
            ),
        }
    }

    /// Whether nothing was decided, or nobody can say what was: such an answer is no refusal, and
    /// the same request with the same id finds out.
    #[must_use]
    pub const fn undecided(self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown
                | Self::Forgotten
                | Self::Overloaded
                | Self::NotReady
                | Self::Internal
        )
    }

    /// What happened, in a sentence. `what` is what it happened to.
    #[must_use]
    pub fn message(self, what: &str) -> String {
        self.text().0.replacen("{}", what, 1)
    }

    /// What to do next.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        self.text().1
    }

    /// Whether the same wish may succeed later without anybody changing it.
    #[must_use]
    pub const fn retryable(self) -> bool {
        self.text().2
    }

    /// The code with its texts, ready to be sent.
    #[must_use]
    pub fn about(self, what: &str) -> Problem {
        Problem {
            code: self,
            message: self.message(what),
            hint: self.hint().to_owned(),
            retryable: self.retryable(),
            retry_after_ms: None,
        }
    }
}

/// A refusal as people and programs get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code}); {hint}")]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// Whether the same wish may succeed later.
    pub retryable: bool,
    /// How long to wait before a repeat, where central knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_sentence_and_a_hint_and_one_spelling() {
        for &code in Code::ALL {
            let problem = code.about("CP-001/1");
            assert!(problem.message.contains("CP-001/1"), "{code} names nothing");
            assert!(!problem.hint.is_empty(), "{code} has no hint");
            assert_eq!(Code::from_word(code.as_str()), code);
        }
        let mut words: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
    }
}
