//! Single values for people.

use ev_contract::{
    connector::{ConnectorState, Phase},
    time::UnixMs,
    units::{MilliWatt, Mwh},
    v1::{EndCode, SessionView},
};
use jiff::{Timestamp, tz::TimeZone};

/// Kilowatt-hours with three decimals, rounded down: never more than was delivered.
#[must_use]
pub fn kwh(energy: Mwh) -> String {
    format!(
        "{}.{:03} kWh",
        energy.0 / 1_000_000,
        energy.0 / 1_000 % 1_000
    )
}

/// Kilowatts with one decimal.
#[must_use]
pub fn kw(power: MilliWatt) -> String {
    let tenths = power.0.saturating_add(50_000) / 100_000;
    format!("{}.{} kW", tenths / 10, tenths % 10)
}

/// A time in its site's zone, UTC where that is not known here.
#[must_use]
pub fn local(time: UnixMs, zone: &str) -> String {
    let Ok(timestamp) = Timestamp::from_millisecond(time.0) else {
        return "?".to_owned();
    };
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    timestamp
        .to_zoned_datetime(zone)
        .strftime("%Y-%m-%d %H:%M:%S %Z")
        .to_string()
}

/// A duration, to the second.
#[must_use]
pub fn duration(ms: i64) -> String {
    let s = ms.max(0) / 1_000;
    match (s / 3_600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// How far a session is, in words that tell who paused.
#[must_use]
pub fn phase(view: &SessionView, phase: Phase) -> String {
    let text = match phase {
        Phase::Preparing if !view.reachable => "waiting: the charge point cannot be reached",
        Phase::Preparing => "preparing: plug in if you have not",
        Phase::Charging => "charging",
        Phase::SuspendedEv => "your car has paused",
        Phase::SuspendedEvse => "we have paused it",
        Phase::Stopping => "stopping",
        Phase::Idle if is_full(view) => "full: unplug, standing may cost",
        Phase::Idle => "energy has ended: unplug, standing may cost",
        Phase::Completed if is_full(view) => "full",
        Phase::Completed => "completed",
        Phase::Failed => "failed",
        Phase::Unrecognised => "in a state that this version does not know",
    };
    match phase {
        // A stop is under way only while energy may still flow.
        Phase::Preparing | Phase::Charging | Phase::SuspendedEv | Phase::SuspendedEvse
            if view.stopping =>
        {
            format!("{text}, stopping")
        }
        _ => text.to_owned(),
    }
}

/// From when standing costs, while a session's car stands or has paused.
#[must_use]
pub fn standing(view: &SessionView) -> Option<String> {
    let from = view
        .standing_costs_from
        .filter(|_| !view.state.is_ended())?;
    Some(format!(
        "standing costs from {} on",
        local(from, &view.time_zone)
    ))
}

/// Whether the car took all that it could.
fn is_full(view: &SessionView) -> bool {
    let word = EndCode::EvStopped.as_str();
    view.end
        .as_ref()
        .is_some_and(|e| e.code == EndCode::EvStopped)
        || view.reason.as_deref() == Some(word)
        || view.soc_pct == Some(100)
}

/// A connector's state in words.
#[must_use]
pub const fn connector(state: ConnectorState) -> &'static str {
    match state {
        ConnectorState::Available => "free",
        ConnectorState::Plugged => "plugged, no session",
        ConnectorState::Preparing => "preparing",
        ConnectorState::Charging => "charging",
        ConnectorState::SuspendedEv => "paused by the car",
        ConnectorState::SuspendedEvse => "paused by the charger",
        ConnectorState::Finishing => "ended, still plugged",
        ConnectorState::Reserved => "reserved",
        ConnectorState::Unavailable => "out of service",
        ConnectorState::Faulted => "faulted",
        ConnectorState::Offline => "offline",
        ConnectorState::Unknown => "not known yet",
        ConnectorState::Unrecognised => "unknown to this version",
    }
}

/// Text from elsewhere, without what a terminal would obey.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tests::view;

    #[test]
    fn energies_and_powers_have_fixed_decimals() {
        assert_eq!(kwh(Mwh(7_123_999)), "7.123 kWh");
        assert_eq!(kwh(Mwh(0)), "0.000 kWh");
        assert_eq!(kw(MilliWatt(10_960_000)), "11.0 kW");
        assert_eq!(kw(MilliWatt(1_440_000)), "1.4 kW");
    }

    #[test]
    fn times_are_the_sites() {
        let time = UnixMs(1_700_000_000_000);
        assert_eq!(local(time, "Europe/Berlin"), "2023-11-14 23:13:20 CET");
        assert_eq!(local(time, "Nowhere/Town"), "2023-11-14 22:13:20 UTC");
        assert_eq!(local(UnixMs(i64::MAX), "UTC"), "?");
    }

    #[test]
    fn who_paused_and_what_is_full_are_told_apart() {
        let mut texts = vec![
            phase(&view(1, Phase::SuspendedEv), Phase::SuspendedEv),
            phase(&view(1, Phase::SuspendedEvse), Phase::SuspendedEvse),
            phase(&view(1, Phase::Completed), Phase::Completed),
        ];
        let mut full = view(1, Phase::Completed);
        full.reason = Some("ev_stopped".into());
        texts.push(phase(&full, Phase::Completed));
        let mut full = view(1, Phase::Idle);
        full.soc_pct = Some(100);
        texts.push(phase(&full, Phase::Idle));
        assert_eq!(
            texts,
            [
                "your car has paused",
                "we have paused it",
                "completed",
                "full",
                "full: unplug, standing may cost"
            ]
        );
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }
}
