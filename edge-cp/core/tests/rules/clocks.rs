//! What holds whatever the host's wall clock says after a start of the agent.

use edge_core::{Input, hardware::HwPhase, session::Stage};
use ev_contract::{
    time::UnixMs,
    units::Mwh,
    v1::{EdgeFact, EndCode, LimitCommand, TimeQuality},
};

use crate::bench::{BEGIN, BOOT, Bench, ONE, cp, stops};

/// Where a clock may stand after a boot: the Epoch, a minute back, right, an hour ahead.
const CLOCKS: [i64; 4] = [0, BEGIN - 60_000, BEGIN + 30_000, BEGIN + 3_600_000];

fn stood_s(bench: &Bench) -> Vec<Option<u32>> {
    let ended = bench.records.iter().filter_map(|r| match r.fact {
        EdgeFact::Ended { stood_s, .. } => Some(stood_s),
        _ => None,
    });
    ended.collect()
}

fn energy(bench: &Bench) -> Mwh {
    let connector = bench.core.connectors().next().unwrap();
    let run = connector.session.as_ref().unwrap().run().unwrap();
    run.meter.energy()
}

#[test]
fn a_limit_of_energy_or_cost_acts_on_the_first_reading_after_a_boot() {
    for clock in CLOCKS {
        for from_cost in [false, true] {
            let (mut bench, id) = Bench::charging(|s| {
                s.limits.energy_mwh = Some(Mwh(5_000));
                s.limits.energy_from_cost = from_cost;
            });
            bench.pass(10_000);
            bench.read(ONE, 3_000);
            bench.reboot_at(UnixMs(clock));
            bench.link_with(&["tx-1"], ONE);
            bench.read(ONE, 3_500);
            assert_eq!(energy(&bench), Mwh(2_500), "a clock at {clock}");
            bench.pass(1_000);
            assert_eq!(stops(&bench.read(ONE, 6_000).hardware), 1, "{clock}");
            bench.tx_ended(ONE, "tx-1", EndCode::Other, 6_010);
            let code = if from_cost { "cost" } else { "energy" };
            let told = format!("completed {code}_limit 6010");
            assert_eq!(bench.last_told(id), told, "{clock}");
        }
    }
}

#[test]
fn what_was_read_before_a_boot_and_comes_after_it_is_passed_over_by_its_register() {
    let (mut bench, _) = Bench::charging(|_| {});
    bench.pass(10_000);
    bench.read(ONE, 3_000);
    let old = bench.reading(2_500);
    // A checkpoint writes the last reading down.
    bench.pass(60_000);
    bench.reboot(5_000);
    bench.link_with(&["tx-1"], ONE);
    bench.fact(edge_core::hardware::HwFact::Reading {
        connector: ONE,
        reading: old,
    });
    assert_eq!(energy(&bench), Mwh(2_000));
    bench.read(ONE, 4_000);
    assert_eq!(energy(&bench), Mwh(3_000));
}

#[test]
fn a_limit_of_time_is_used_up_once_however_often_the_agent_starts() {
    // A whole limit in one piece, and one in pieces so short that nothing but starts happens.
    for (alive_ms, clock) in [(12_000, 0), (12_000, BEGIN - 60_000), (700, 0)] {
        let (mut bench, _) = Bench::charging(|s| s.limits.time_s = Some(20));
        let (mut ran_ms, mut stopped) = (0, 0);
        while stopped == 0 && ran_ms < 100_000 {
            let steps = if ran_ms == 0 { 12_000 } else { alive_ms };
            for _ in 0..steps / 100 {
                stopped += stops(&bench.pass(100));
                ran_ms += 100;
                if stopped > 0 {
                    break;
                }
            }
            if stopped == 0 {
                bench.reboot_at(UnixMs(clock));
                bench.link_with(&["tx-1"], ONE);
            }
        }
        assert!((12_000..=21_000).contains(&ran_ms), "{ran_ms} ms of 20 s");
    }
}

#[test]
fn a_limit_of_time_that_began_by_centrals_clock_is_exact_once_that_is_known_again() {
    let (mut bench, _) = Bench::charging(|s| s.limits.time_s = Some(3_600));
    bench.pass(61_000);
    bench.reboot_at(UnixMs(0));
    bench.link_with(&["tx-1"], ONE);
    // It was away for half an hour; what was counted for that is put right.
    bench.pass(1_000);
    bench.sync_at(UnixMs(BEGIN + 1_862_000));
    let ends_in_ms = 3_600_000 - 1_862_000;
    assert_eq!(stops(&bench.pass(ends_in_ms - 1_000)), 0);
    assert!(stops(&bench.pass(2_000)) > 0);
}

#[test]
fn a_bound_of_the_current_falls_back_although_starts_set_the_clock_back() {
    let mut bench = Bench::warm();
    bench.command(edge_core::Command::SetLimit(LimitCommand {
        tag: ev_contract::wire::Tag::new(),
        to: cp(),
        command_id: ev_contract::ids::CommandId::new("limit-1").unwrap(),
        connector: ONE,
        max_ma: ev_contract::units::MilliAmp(16_000),
        phases: None,
        valid_until: bench.wall.plus_ms(20_000),
        fallback_ma: ev_contract::units::MilliAmp(6_000),
        boot: BOOT,
        ts: bench.wall,
    }));
    let mut ran_ms = 0;
    let mut fell = false;
    while !fell && ran_ms < 100_000 {
        fell = bench
            .pass(700)
            .iter()
            .any(|c| matches!(c, edge_core::hardware::HwCommand::SetLimit { .. }));
        ran_ms += 700;
        if !fell {
            bench.reboot_at(UnixMs(0));
        }
    }
    assert!(ran_ms <= 21_000, "{ran_ms} ms of 20 s");
}

#[test]
fn standing_is_what_was_measured_whatever_the_clock_says() {
    for clock in CLOCKS {
        let (mut bench, _) = Bench::charging(|s| s.idle_s_max = 7_200);
        bench.pass(10_000);
        bench.read(ONE, 3_000);
        bench.reboot_at(UnixMs(clock));
        bench.link_with(&["tx-1"], ONE);
        bench.pass(60_000);
        bench.read(ONE, 9_000);
        bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
        bench.pass(15_000);
        bench.plug(ONE, false);
        assert_eq!(stood_s(&bench), [Some(15)], "{clock}");
    }
}

#[test]
fn standing_that_spans_a_start_with_an_unsure_clock_counts_only_where_somebody_measured() {
    for clock in CLOCKS {
        let (mut bench, _) = Bench::charging(|s| s.idle_s_max = 400);
        bench.pass(10_000);
        bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
        bench.pass(30_000);
        bench.reboot_at(UnixMs(clock));
        bench.link_with(&[], ONE);
        bench.pass(15_000);
        if bench.core.open_sessions().next().is_some() {
            bench.plug(ONE, false);
        }
        let stood = stood_s(&bench)[0].unwrap();
        // Written down each twentieth of 400 s.
        assert!(
            (1 + 20..=45).contains(&stood) || clock == CLOCKS[3],
            "{stood}"
        );
        assert!(stood <= 45, "{stood} s at {clock}");
    }
}

#[test]
fn standing_that_spans_a_start_is_whole_once_centrals_time_is_known_on_both_sides() {
    let (mut bench, _) = Bench::charging(|s| s.idle_s_max = 7_200);
    bench.pass(10_000);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    bench.pass(30_000);
    bench.reboot_at(UnixMs(0));
    bench.link_with(&[], ONE);
    bench.pass(5_000);
    bench.sync_at(UnixMs(BEGIN + 10_000 + 90_000));
    bench.pass(10_000);
    bench.plug(ONE, false);
    assert_eq!(stood_s(&bench), [Some(100)]);
}

/// A session from its start at the cabinet to its end, a minute and a half.
fn live_through(bench: &mut Bench) {
    bench.link(true);
    bench.plug(ONE, true);
    bench.start_locally(ONE);
    bench.tx_started(ONE, "tx-1", 1_000);
    bench.phase(ONE, HwPhase::Charging);
    bench.pass(90_000);
    bench.read(ONE, 9_000);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
}

#[test]
fn what_waits_is_mended_when_centrals_time_becomes_known() {
    let mut bench = Bench::warm();
    bench.reboot_at(UnixMs(1_000));
    let before = bench.records.len();
    live_through(&mut bench);
    assert!(
        bench.records[before..]
            .iter()
            .all(|r| r.at < UnixMs(200_000))
    );
    bench.pass(10_000);
    let now = BEGIN + 3_600_000;
    bench.sync_at(UnixMs(now));
    for record in &mut bench.records[before..] {
        let at = now - 100_000..=now - 10_000;
        assert!(at.contains(&record.at.0), "{record:?}");
        assert_eq!(record.quality, TimeQuality::Synced);
        if let Some(reading) = record.fact.reading_mut() {
            assert!(at.contains(&reading.at.0), "{reading:?}");
            assert_eq!(reading.quality, TimeQuality::Synced);
        }
    }
}

#[test]
fn a_session_that_runs_when_the_time_becomes_known_began_at_its_true_time() {
    let mut bench = Bench::warm();
    bench.reboot_at(UnixMs(1_000));
    bench.link(true);
    bench.plug(ONE, true);
    bench.start_locally(ONE);
    bench.tx_started(ONE, "tx-1", 1_000);
    bench.pass(30_000);
    bench.sync_at(UnixMs(BEGIN + 3_600_000));
    let connector = bench.core.connectors().next().unwrap();
    let Some(Stage::Running(run)) = connector.session.as_ref().map(|s| &s.stage) else {
        panic!("it runs")
    };
    assert_eq!(run.meter.start.at, UnixMs(BEGIN + 3_570_000));
    assert_eq!(run.meter.start.quality, TimeQuality::Synced);
}

#[test]
fn a_host_clock_that_is_set_before_central_is_heard_loses_nothing_of_what_can_be_mended() {
    let mut bench = Bench::warm();
    bench.reboot_at(UnixMs(1_000));
    let before = bench.records.len();
    bench.link(true);
    bench.pass(10_000);
    bench.wall = UnixMs(BEGIN + 500_000);
    bench.pass(10_000);
    bench.plug(ONE, true);
    bench.sync_at(UnixMs(BEGIN + 3_600_000));
    let times: Vec<_> = bench.records[before..].iter().map(|r| r.at.0).collect();
    assert_eq!(times.first(), Some(&(BEGIN + 3_580_000)));
    assert_eq!(times.last(), Some(&(BEGIN + 3_600_000)));
}

#[test]
fn what_was_sent_and_what_an_earlier_process_wrote_keep_their_times() {
    let mut bench = Bench::warm();
    bench.reboot_at(UnixMs(1_000));
    bench.link(true);
    bench.reboot_at(UnixMs(2_000));
    let written_before = bench.records.clone();
    bench.link(true);
    let now = bench.now();
    // Central answers too slowly to tell the time, and records are sent all the same.
    assert!(bench.core.next_run(now, 0).is_some());
    let sent = bench.records.clone();
    bench.plug(ONE, true);
    bench.sync_at(UnixMs(BEGIN + 3_600_000));
    assert!(sent.len() > written_before.len());
    assert_eq!(bench.records[..sent.len()], sent);
    assert!(bench.records[sent.len()..].iter().all(|r| r.at.0 > BEGIN));
    bench.feed(Input::Tick);
}
