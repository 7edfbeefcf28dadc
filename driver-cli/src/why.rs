//! Why things stand as they do, in sentences for operators: why a charge point refuses drivers, what a
//! session waits for, whether records were lost.

use ev_contract::{
    codes::Code,
    connector::Service,
    time::UnixMs,
    v1::{Awaited, ChargePointView, CpEnrolment, Reach, RefusesView, SessionView},
};

use crate::render::format::{duration, local};

/// A reason and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// What is so.
    pub text: String,
    /// What to do next.
    pub hint: String,
}

/// Why drivers are refused at a charge point, each reason by itself; empty when they are not.
#[must_use]
pub fn refuses(cp: &ChargePointView, now: UnixMs) -> Vec<Why> {
    cp.refuses
        .iter()
        .map(|refuses| Why {
            text: text(cp, refuses, now),
            hint: hint(cp, refuses, now),
        })
        .collect()
}

fn text(cp: &ChargePointView, refuses: &RefusesView, now: UnixMs) -> String {
    let since = refuses
        .since
        .map(|at| format!(" since {}", local(at, &cp.time_zone)))
        .unwrap_or_default();
    let place = match refuses.connector {
        Some(connector) => format!("{}/{connector}", cp.cp_id),
        None => cp.cp_id.to_string(),
    };
    let what = match refuses.code {
        Code::ChargePointOffline if cp.enrolment == Some(CpEnrolment::Revoked) => {
            "its credential was taken back".to_owned()
        }
        Code::ChargePointOffline if cp.epoch.is_none() => {
            "it was enrolled and has never connected".to_owned()
        }
        Code::ChargePointOffline => match ended(cp, now) {
            Some(at) => format!(
                "it is offline, and what it connects with ended at {}",
                local(at, &cp.time_zone)
            ),
            None if refuses.since.is_some() => {
                "it is offline: that is when it was last heard".to_owned()
            }
            None => "it is offline, and central has not heard it since central began".to_owned(),
        },
        Code::OutOfService if is_wanted_out(cp, refuses) => {
            "it is out of service, as an operator wants it".to_owned()
        }
        Code::OutOfService => "the charge point says that it is out of service".to_owned(),
        Code::Faulted => format!(
            "it has a fault: {}",
            refuses.raw.as_deref().unwrap_or("without a word")
        ),
        Code::ChargerOffline => "its hardware does not answer the controller".to_owned(),
        Code::Occupied => match refuses.session_id {
            Some(session) => format!("it is in use by session {session}"),
            None => "it is in use".to_owned(),
        },
        Code::StorageFailed => "the agent cannot write to its disk".to_owned(),
        Code::ClockUnsure => "the agent is not sure of the time".to_owned(),
        code => code.message(&place),
    };
    format!("drivers are refused at {place}{since}: {what}")
}

fn is_wanted_out(cp: &ChargePointView, refuses: &RefusesView) -> bool {
    cp.connectors
        .iter()
        .any(|c| Some(c.connector) == refuses.connector && c.service != Service::In)
}

/// When its access ended, if that is past.
fn ended(cp: &ChargePointView, now: UnixMs) -> Option<UnixMs> {
    cp.access_expires_at.filter(|at| *at <= now)
}

fn hint(cp: &ChargePointView, refuses: &RefusesView, now: UnixMs) -> String {
    let id = &cp.cp_id;
    match refuses.code {
        Code::ChargePointOffline
            if cp.enrolment == Some(CpEnrolment::Revoked) || ended(cp, now).is_some() =>
        {
            format!("`central enrol charge-point {id} --again`, and put the file on its host")
        }
        Code::ChargePointOffline => {
            "look at its host: power, network, and `edge-cp ctl status` there".to_owned()
        }
        Code::OutOfService => {
            format!("`op cp enable {id}`; `op audit --verb cp_disable` says who took it out")
        }
        Code::Faulted | Code::ChargerOffline => {
            format!("`op cp reset {id}`; if it stays so, somebody must go there")
        }
        Code::Occupied => match refuses.session_id {
            Some(session) => format!("`op session show {session}` says what that waits for"),
            None => "`op session ls` says by whom".to_owned(),
        },
        Code::StorageFailed => "make room on its host, or replace the disk".to_owned(),
        Code::ClockUnsure => {
            "it learns the time from central within a minute; if not, look at its uplink".to_owned()
        }
        code => code.hint().to_owned(),
    }
}

/// What a session waits for, in a sentence; nothing for one that has ended.
#[must_use]
pub fn waits(s: &SessionView, now: UnixMs) -> Option<Why> {
    let waits = s.waits.as_ref()?;
    let so_long = duration(now.0.saturating_sub(waits.since.0));
    let cp = &s.cp_id;
    let away = (!s.reachable).then(|| match waits.heard_at {
        Some(at) => format!("{cp}, which is offline since {}", local(at, &s.time_zone)),
        None => format!("{cp}, which is offline"),
    });
    let answers = || {
        let tried = match waits.attempts {
            0 => String::new(),
            1 => ", asked once more".to_owned(),
            n => format!(", asked {n} times in vain"),
        };
        let why = waits
            .code
            .map(|code| format!(": {}", code.message(cp.as_str())))
            .unwrap_or_default();
        format!("{cp}, which is in reach and has not confirmed{tried}{why}")
    };
    let (text, hint) = match waits.awaited {
        Awaited::Stop => (
            format!(
                "stopping for {so_long}: waits for {}",
                away.clone().unwrap_or_else(answers)
            ),
            if away.is_some() {
                format!(
                    "it stops when {cp} is back; `op cp show {cp}` says why it is away; only if it never \
                     comes back: `op session end {} --write-off --reason …`",
                    s.session_id
                )
            } else {
                format!("`op cp show {cp}`; if its hardware hangs: `op cp reset {cp}`")
            },
        ),
        Awaited::Start => (
            format!(
                "accepted {so_long} ago: waits for {}",
                away.clone().unwrap_or_else(answers)
            ),
            format!("`op cp show {cp}` says how it is"),
        ),
        Awaited::Car => (
            format!("for {so_long}: waits for a car that is plugged in and draws"),
            "it ends by itself if none comes".to_owned(),
        ),
        Awaited::Unplug => (
            format!("energy ended {so_long} ago: waits for the car to be unplugged"),
            String::new(),
        ),
        Awaited::End | Awaited::Unrecognised => (
            match &away {
                Some(away) => format!("goes on at {away}; its records come later"),
                None => format!("charges for {so_long}"),
            },
            String::new(),
        ),
    };
    Some(Why { text, hint })
}

/// Whether records of a charge point were lost, as far as central can know.
#[must_use]
pub fn records(cp: &ChargePointView) -> String {
    let arrived = cp.next_record.saturating_sub(1);
    let mut parts = Vec::new();
    if cp.missing > 0 {
        parts.push(format!(
            "{} are missing for good: their receipts say `records_missing`",
            cp.missing
        ));
    }
    if cp.quarantined > 0 {
        parts.push(format!("{} could not be used and are kept", cp.quarantined));
    }
    if let Some(other) = &cp.other_agent {
        parts.push(format!(
            "a second agent with this identity has records of its own: {} are kept aside, all are on its \
             disk",
            other.kept
        ));
    }
    match (cp.link, cp.spool_depth) {
        _ if cp.epoch.is_none() => parts.push("none yet".to_owned()),
        (Reach::Online, Some(0)) if parts.is_empty() => {
            parts.push(format!(
                "nothing lost: all {arrived} of this spool have arrived"
            ));
        }
        (Reach::Online, Some(0)) => parts.push(format!("nothing else waits after {arrived}")),
        (Reach::Online, Some(waiting)) => {
            parts.push(format!(
                "{waiting} wait in the cabinet and are on their way"
            ));
        }
        _ => parts.push(format!(
            "{arrived} have arrived; what the cabinet still has is known when it is back"
        )),
    }
    parts.join("; ")
}

/// How long the last cut was, and from when to when.
#[must_use]
pub fn last_cut(cp: &ChargePointView) -> Option<String> {
    let (from, until) = (cp.cut_from?, cp.cut_until?);
    Some(format!(
        "{} to {} ({})",
        local(from, &cp.time_zone),
        local(until, &cp.time_zone),
        duration(until.0.saturating_sub(from.0))
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use ev_contract::{
        connector::{ConnectorState, Phase},
        ids::ConnectorId,
        units::{Amount, Currency, MilliAmp},
        v1::{ConnectorView, PriceComponent, Tariff, TariffTerms, WaitView},
    };

    use super::*;

    const T: UnixMs = UnixMs(1_700_000_000_000);

    pub(crate) fn cp() -> ChargePointView {
        ChargePointView {
            cp_id: "CP-002".parse().unwrap(),
            site_id: "depot".parse().unwrap(),
            time_zone: "Europe/Berlin".into(),
            link: Reach::Online,
            last_heard_at: Some(T),
            version: Some("0.1.0".into()),
            spool_depth: Some(0),
            clock_offset_ms: Some(3),
            health: Vec::new(),
            access_expires_at: None,
            epoch: Some("e-1".into()),
            boot: None,
            other_agent: None,
            next_record: 18,
            quarantined: 0,
            missing: 0,
            anomalies: 0,
            link_since: Some(T),
            cut_from: None,
            cut_until: None,
            refuses: Vec::new(),
            refused: Vec::new(),
            tariff: Tariff {
                tariff_id: "base".parse().unwrap(),
                version: 1,
                terms: TariffTerms::free(Currency::EUR)
                    .with(PriceComponent::Energy, Amount::ZERO)
                    .with(PriceComponent::StartFee, Amount::ZERO),
            },
            enrolment: Some(CpEnrolment::Enrolled),
            out_of_service: false,
            connectors: vec![ConnectorView {
                connector: ConnectorId(1),
                state: ConnectorState::Available,
                service: Service::In,
                service_confirmed: true,
                fault: None,
                charger_online: true,
                plugged: false,
                max_ma: MilliAmp(16_000),
                phases: 3,
                sessions: Vec::new(),
                register_mwh: None,
                power_mw: None,
            }],
        }
    }

    fn because(cp: &mut ChargePointView, code: Code, since: Option<UnixMs>) -> (String, String) {
        let on_all = matches!(
            code,
            Code::ChargePointOffline | Code::ClockUnsure | Code::StorageFailed
        );
        cp.refuses = vec![RefusesView {
            connector: (!on_all).then_some(ConnectorId(1)),
            code,
            since,
            session_id: None,
            raw: Some("GroundFailure".into()),
        }];
        let why = refuses(cp, T.plus_ms(60_000)).remove(0);
        (why.text, why.hint)
    }

    #[test]
    fn each_reason_is_a_sentence_with_what_to_do() {
        let at = "since 2023-11-14 23:13:20 CET";
        let mut view = cp();
        view.link = Reach::Offline;
        let (text, hint) = because(&mut view, Code::ChargePointOffline, Some(T));
        let words = "it is offline: that is when it was last heard";
        assert_eq!(text, format!("drivers are refused at CP-002 {at}: {words}"));
        assert!(hint.contains("its host"), "{hint}");

        view.access_expires_at = Some(T);
        let (text, hint) = because(&mut view, Code::ChargePointOffline, Some(T));
        assert!(
            text.contains("what it connects with ended at 2023"),
            "{text}"
        );
        assert!(hint.contains("enrol charge-point CP-002 --again"), "{hint}");

        let mut revoked = cp();
        revoked.enrolment = Some(CpEnrolment::Revoked);
        let (text, _) = because(&mut revoked, Code::ChargePointOffline, Some(T));
        assert!(text.ends_with("its credential was taken back"), "{text}");

        let mut never = cp();
        never.epoch = None;
        let (text, _) = because(&mut never, Code::ChargePointOffline, None);
        assert!(text.ends_with("has never connected"), "{text}");

        let mut out = cp();
        out.connectors[0].service = Service::Out;
        let (text, hint) = because(&mut out, Code::OutOfService, Some(T));
        let words = "it is out of service, as an operator wants it";
        assert_eq!(
            text,
            format!("drivers are refused at CP-002/1 {at}: {words}")
        );
        assert!(hint.starts_with("`op cp enable CP-002`"), "{hint}");

        let (text, _) = because(&mut cp(), Code::Faulted, Some(T));
        assert!(text.ends_with("it has a fault: GroundFailure"), "{text}");
        let (text, hint) = because(&mut cp(), Code::ClockUnsure, None);
        assert!(text.ends_with("not sure of the time"), "{text}");
        assert!(hint.contains("uplink"), "{hint}");
        assert_eq!(refuses(&cp(), T), []);
    }

    #[test]
    fn a_stuck_session_says_what_it_waits_for() {
        let mut view = crate::watch::tests::view(1, Phase::Stopping);
        view.cp_id = "CP-002".parse().unwrap();
        view.reachable = false;
        view.waits = Some(WaitView {
            awaited: Awaited::Stop,
            since: T,
            heard_at: Some(T.plus_ms(-60_000)),
            attempts: 9,
            code: None,
        });
        let now = T.plus_ms(720_000);
        let why = waits(&view, now).unwrap();
        assert_eq!(
            why.text,
            "stopping for 12 min 0 s: waits for CP-002, which is offline since \
             2023-11-14 23:12:20 CET"
        );
        assert!(why.hint.contains("--write-off"), "{}", why.hint);
        view.reachable = true;
        view.waits.as_mut().unwrap().code = Some(Code::StorageFailed);
        let text = waits(&view, now).unwrap().text;
        let words = "which is in reach and has not confirmed, asked 9 times in vain: ";
        assert!(text.contains(words), "{text}");
        view.waits = None;
        assert_eq!(waits(&view, now), None);
    }

    #[test]
    fn what_a_cut_has_lost_is_said_outright() {
        let mut view = cp();
        assert_eq!(
            records(&view),
            "nothing lost: all 17 of this spool have arrived"
        );
        view.spool_depth = Some(4);
        assert_eq!(records(&view), "4 wait in the cabinet and are on their way");
        view.missing = 2;
        view.spool_depth = Some(0);
        let text = records(&view);
        assert!(text.starts_with("2 are missing for good"), "{text}");
        view.missing = 0;
        view.link = Reach::Offline;
        assert!(records(&view).contains("known when it is back"));
        view.cut_from = Some(T);
        view.cut_until = Some(T.plus_ms(7_560_000));
        assert_eq!(
            last_cut(&view).unwrap(),
            "2023-11-14 23:13:20 CET to 2023-11-15 01:19:20 CET (2 h 6 min)"
        );
    }
}
