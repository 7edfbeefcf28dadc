//! Why a session ended, in sentences for people.

use ev_contract::{
    codes::Code,
    v1::{EndCode, EndReason, SessionView},
};

/// Why a session failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFailure {
    /// One word.
    pub word: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// Whether the same start may succeed later.
    pub retryable: bool,
}

/// Why a session ended, in a few words.
#[must_use]
pub const fn end(code: EndCode) -> &'static str {
    match code {
        EndCode::Driver => "stopped by the driver",
        EndCode::Operator => "stopped by an operator",
        EndCode::Local => "stopped at the charge point",
        EndCode::Deauthorised => "the driver was no longer allowed to charge",
        EndCode::EvUnplugged => "the car was unplugged",
        EndCode::EvStopped => "full: the car took no more",
        EndCode::EnergyLimit => "the energy limit was reached",
        EndCode::TimeLimit => "the time limit was reached",
        EndCode::CostLimit => "the cost limit was reached",
        EndCode::PlugTimeout => "no car was plugged in in time",
        EndCode::PowerLoss => "the power went out",
        EndCode::Reboot => "the charger booted",
        EndCode::Reset => "the charger was reset",
        EndCode::Unlock => "the connector was unlocked",
        EndCode::Emergency => "the emergency stop was pressed",
        EndCode::Fault => "a fault ended it",
        EndCode::OccupiedLocally => {
            "a session that was started at the charge point had the connector"
        }
        EndCode::Refused => "the charge point refused the start",
        EndCode::WrittenOff => "an operator closed it while the charge point could not be reached",
        EndCode::Other | EndCode::Unrecognised => "it ended for another reason",
    }
}

/// What to do after a session has failed for this reason.
const fn hint(code: EndCode) -> &'static str {
    match code {
        EndCode::PlugTimeout => "start again and plug in sooner, or plug in first",
        EndCode::EvUnplugged => "plug in and start again",
        EndCode::EvStopped => "see whether the car is full or has a timer, then start again",
        EndCode::Fault | EndCode::Emergency => "use another connector; the operator sees the fault",
        EndCode::PowerLoss | EndCode::Reboot | EndCode::Reset => "start again in a minute",
        EndCode::Deauthorised | EndCode::Operator | EndCode::WrittenOff => "ask the operator",
        EndCode::OccupiedLocally => "wait until it is free or use another connector",
        EndCode::Driver
        | EndCode::Local
        | EndCode::EnergyLimit
        | EndCode::TimeLimit
        | EndCode::CostLimit
        | EndCode::Unlock
        | EndCode::Refused
        | EndCode::Other
        | EndCode::Unrecognised => "start again if you still want to charge",
    }
}

/// How a session ended, in a few words: central's word where it is a code, else the end reason's.
#[must_use]
pub fn how_it_ended(view: &SessionView) -> String {
    let Some(reason) = &view.end else {
        return view
            .reason
            .as_deref()
            .map_or_else(|| view.state.to_string(), word_in_words);
    };
    let place = place(view);
    match (reason.code, reason.refused) {
        (EndCode::Refused, Some(code)) => {
            format!("the charge point refused: {}", code.message(&place))
        }
        _ => end_in_full(reason),
    }
}

/// Why a session ended, with the device's or the operator's own words where they add something.
#[must_use]
pub fn end_in_full(reason: &EndReason) -> String {
    let text = end(reason.code);
    let adds = matches!(
        reason.code,
        EndCode::Operator
            | EndCode::Deauthorised
            | EndCode::Fault
            | EndCode::Emergency
            | EndCode::Refused
            | EndCode::WrittenOff
            | EndCode::Other
            | EndCode::Unrecognised
    );
    match &reason.raw {
        Some(raw) if adds && !raw.is_empty() => format!("{text} (\"{raw}\")"),
        _ => text.to_owned(),
    }
}

/// A word from an update, in words.
fn word_in_words(word: &str) -> String {
    match EndCode::from_word(word) {
        EndCode::Unrecognised => match Code::from_word(word) {
            Code::Unrecognised => word.to_owned(),
            code => code.message("the charge point"),
        },
        code => end(code).to_owned(),
    }
}

/// Why a session failed; `None` for one that did not.
#[must_use]
pub fn failure_of(view: &SessionView) -> Option<SessionFailure> {
    if view.state != ev_contract::connector::Phase::Failed {
        return None;
    }
    let place = place(view);
    let word = view
        .end
        .as_ref()
        .map(|end| end.word().to_owned())
        .or_else(|| view.reason.clone())
        .unwrap_or_else(|| "failed".to_owned());
    let refused = view.end.as_ref().and_then(|end| end.refused);
    let code = refused.unwrap_or_else(|| Code::from_word(&word));
    let by_code = || SessionFailure {
        word: word.clone(),
        message: code.message(&place),
        hint: code.hint().to_owned(),
        retryable: code.retryable(),
    };
    let end_code = view
        .end
        .as_ref()
        .map_or_else(|| EndCode::from_word(&word), |end| end.code);
    Some(match end_code {
        EndCode::Refused if code != Code::Unrecognised => by_code(),
        EndCode::Unrecognised if code != Code::Unrecognised => by_code(),
        end_code => SessionFailure {
            message: format!("the session on {place} failed: {}", how_it_ended(view)),
            hint: hint(end_code).to_owned(),
            retryable: true,
            word,
        },
    })
}

fn place(view: &SessionView) -> String {
    format!("{}/{}", view.cp_id, view.connector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ev_contract::{connector::Phase, v1::EndSource};

    #[test]
    fn a_refused_start_is_told_with_the_codes_own_words() {
        let mut view = crate::watch::tests::view(1, Phase::Failed);
        view.end = Some(EndReason {
            refused: Some(Code::StorageFailed),
            ..EndReason::new(EndCode::Refused, EndSource::ChargePoint)
        });
        let failure = failure_of(&view).unwrap();
        assert_eq!(failure.word, "storage_failed");
        assert_eq!(failure.hint, Code::StorageFailed.hint());
    }

    #[test]
    fn a_start_without_a_plug_is_told_with_a_hint() {
        let mut view = crate::watch::tests::view(1, Phase::Failed);
        view.reason = Some("plug_timeout".into());
        let failure = failure_of(&view).unwrap();
        assert!(failure.message.contains("CP-001/1"), "{}", failure.message);
        assert!(failure.hint.contains("plug in"), "{}", failure.hint);
    }

    #[test]
    fn what_did_not_fail_has_no_failure() {
        assert_eq!(
            failure_of(&crate::watch::tests::view(1, Phase::Completed)),
            None
        );
    }
}
