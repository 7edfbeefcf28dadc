//! What a look at a fleet shows, at the bounds too.

use central_core::view::Beat;
use ev_contract::{
    connector::{ConnectorState, Phase},
    ids::{ConnectorId, CpId, SiteId},
    time::UnixMs,
    units::{MilliWatt, Mwh},
    v1::{ConnectorBeat, Reach},
};

use super::{
    Metrics,
    fleet::{Sighting, Survey},
};

const NOW: UnixMs = UnixMs(1_700_000_000_000);

fn beat() -> Beat {
    Beat {
        epoch: "e1".parse().unwrap(),
        version: "1.2.3".into(),
        clock_offset_ms: Some(-2_500),
        spool_depth: 1_001,
        health: ["clock_unsure", "made_up", "another"]
            .map(String::from)
            .into(),
        access_expires_at: Some(NOW.plus_ms(2 * 24 * 3_600 * 1_000)),
        connectors: [ConnectorBeat {
            connector: ConnectorId(1),
            state: ConnectorState::Charging,
            session_id: None,
            register_mwh: Some(Mwh(10_000)),
            power_mw: Some(MilliWatt(11_000_000)),
        }]
        .into(),
    }
}

/// A page with so many charge points, of which so many may have series of their own.
fn page(count: usize, rows_max: usize, reach: Reach) -> String {
    let site: SiteId = "SITE-A".parse().unwrap();
    let mut survey = Survey::new(NOW, rows_max);
    survey.session(Phase::Charging, 7_000, false);
    survey.session(Phase::Charging, 9_000, true);
    for n in 0..count {
        let cp: CpId = format!("CP-{n:05}").parse().unwrap();
        survey.spool(&cp, [1, 2, 3], false);
        survey.spool(&cp, [1, 0, 0], false);
    }
    for n in 0..count {
        let cp: CpId = format!("CP-{n:05}").parse().unwrap();
        survey.charge_point(&Sighting {
            cp: &cp,
            site: &site,
            version: "1.0.0",
            reach,
            last: Some((&beat(), NOW)),
            started_at: Some(NOW.plus_ms(-60_000)),
            has_two_agents: false,
            connectors: vec![(ConnectorId(1), ConnectorState::Charging, true)],
        });
    }
    let metrics = Metrics::new().unwrap();
    metrics.surveyed(survey);
    metrics.expose().unwrap()
}

#[track_caller]
fn has(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "no {line} in\n{page}");
}

fn series(page: &str, name: &str) -> usize {
    let of = |l: &&str| {
        l.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'))
    };
    page.lines().filter(of).count()
}

#[test]
fn a_charge_point_is_shown_in_base_units() {
    let page = page(1, 1, Reach::Online);
    for line in [
        r#"ev_cp_info{cp="CP-00000",site="SITE-A",version="1.2.3"} 1"#,
        r#"ev_cp_up{cp="CP-00000"} 1"#,
        r#"ev_cp_last_heartbeat_timestamp_seconds{cp="CP-00000"} 1700000000"#,
        r#"ev_cp_start_timestamp_seconds{cp="CP-00000"} 1699999940"#,
        r#"ev_cp_spool_records{cp="CP-00000"} 1001"#,
        r#"ev_cp_clock_offset_seconds{cp="CP-00000"} -2.5"#,
        r#"ev_cp_problem{cp="CP-00000",problem="clock_unsure"} 1"#,
        r#"ev_cp_problem{cp="CP-00000",problem="other"} 1"#,
        r#"ev_cp_access_expires_at_timestamp_seconds{cp="CP-00000"} 1700172800"#,
        r#"ev_cp_odd_records_total{cp="CP-00000",what="quarantined"} 2"#,
        r#"ev_connector_state{connector="1",cp="CP-00000",state="charging"} 1"#,
        r#"ev_connector_power_watts{connector="1",cp="CP-00000"} 11000"#,
        r#"ev_connector_energy_joules_total{connector="1",cp="CP-00000"} 36000"#,
        r#"ev_connector_session{connector="1",cp="CP-00000"} 1"#,
        r#"ev_sessions{phase="charging"} 2"#,
        r#"ev_sessions_stuck{phase="charging"} 1"#,
        r#"ev_session_oldest_seconds{phase="charging"} 9"#,
        r#"ev_session_oldest_seconds{phase="idle"} 0"#,
        r#"ev_connectors{state="charging"} 1"#,
        r#"ev_charge_points_with_problem{problem="other"} 1"#,
        r#"ev_charge_points_expiring{within="1d"} 0"#,
        r#"ev_charge_points_expiring{within="7d"} 1"#,
        r#"ev_charge_points_by_version{version="1.2.3"} 1"#,
        "ev_charge_points_clock_skewed 1",
        "ev_charge_points_backlogged 1",
        "ev_clock_offset_seconds_max 2.5",
        "ev_charge_point_series_omitted 0",
    ] {
        has(&page, line);
    }
}

#[test]
fn beyond_the_bound_charge_points_are_counted_and_have_no_series() {
    let page = page(1_003, 1_000, Reach::Online);
    for name in [
        "ev_cp_info",
        "ev_cp_up",
        "ev_connector_state",
        "ev_connector_power_watts",
    ] {
        assert_eq!(series(&page, name), 1_000, "{name}");
    }
    // The first by id, so that they stay the same.
    has(&page, r#"ev_cp_up{cp="CP-00999"} 1"#);
    assert!(!page.contains("CP-01000"));
    has(&page, "ev_charge_point_series_omitted 3");
    // The totals are of all.
    has(&page, r#"ev_charge_points{reach="online"} 1003"#);
    has(&page, r#"ev_connectors{state="charging"} 1003"#);
    has(&page, "ev_spool_backlog_records 1004003");
    has(&page, r#"ev_spool_records_total{what="quarantined"} 2006"#);
    has(&page, "ev_power_watts 11033000");
}

#[test]
fn with_a_bound_of_nothing_there_are_totals_only() {
    let page = page(3, 0, Reach::Online);
    assert_eq!(series(&page, "ev_cp_info"), 0);
    has(&page, "ev_charge_point_series_omitted 3");
    has(&page, r#"ev_charge_points{reach="online"} 3"#);
    has(&page, r#"ev_spool_records_total{what="missing"} 6"#);
}

#[test]
fn who_is_offline_says_nothing_about_now() {
    let page = page(1, 1, Reach::Offline);
    has(&page, r#"ev_cp_up{cp="CP-00000"} 0"#);
    has(
        &page,
        r#"ev_connector_energy_joules_total{connector="1",cp="CP-00000"} 36000"#,
    );
    for name in [
        "ev_cp_spool_records",
        "ev_cp_clock_offset_seconds",
        "ev_cp_problem",
        "ev_connector_power_watts",
    ] {
        assert_eq!(series(&page, name), 0, "{name}");
    }
    has(&page, "ev_charge_points_clock_skewed 0");
    has(&page, "ev_power_watts 0");
}

#[test]
fn versions_that_agents_make_up_are_bounded() {
    let site: SiteId = "SITE-A".parse().unwrap();
    let mut survey = Survey::new(NOW, 10);
    for n in 0..100 {
        let cp: CpId = format!("CP-{n:05}").parse().unwrap();
        survey.charge_point(&Sighting {
            cp: &cp,
            site: &site,
            version: &format!("{n}\n{}", "x".repeat(1_000)),
            reach: Reach::Unknown,
            last: None,
            started_at: None,
            has_two_agents: true,
            connectors: Vec::new(),
        });
    }
    let metrics = Metrics::new().unwrap();
    metrics.surveyed(survey);
    let page = metrics.expose().unwrap();
    assert_eq!(series(&page, "ev_charge_points_by_version"), 33);
    has(&page, r#"ev_charge_points_by_version{version="other"} 68"#);
    has(&page, "ev_charge_points_with_two_agents 100");
    assert_eq!(series(&page, "ev_cp_up"), 0, "nobody knows yet");
    assert!(page.lines().all(|line| line.len() < 400));
}
