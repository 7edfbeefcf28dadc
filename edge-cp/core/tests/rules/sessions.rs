use edge_core::{
    Input, LocalAnswer, Row,
    hardware::{DeviceTx, HwCommand, HwFact, HwPhase, HwReading, HwVerdict},
};
use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Phase},
    units::Mwh,
    v1::{EdgeFact, EndCode, EndReason, EndSource, Outcome},
};

use crate::bench::{Bench, ONE, TWO, identity, outcome, session, stops, the_start};

fn state(bench: &Bench) -> ConnectorState {
    bench.core.beats()[0].state
}

#[test]
fn plug_after_start_and_start_after_plug_come_to_the_same() {
    let whole = [
        "accepted",
        "started 1000",
        "charging",
        "stopping",
        "completed driver 9000",
    ];
    for plug_first in [true, false] {
        let mut bench = Bench::warm();
        if plug_first {
            bench.plug(ONE, true);
        }
        let start = bench.start_command(1, ONE);
        let mut fx = bench.start(start);
        if !plug_first {
            assert!(fx.hardware.is_empty(), "nothing to start without a car");
            bench.pass(10_000);
            fx = bench.plug(ONE, true);
        }
        let command = the_start(&fx);
        bench.answer(command, HwVerdict::Accepted);
        bench.tx_started(ONE, "tx-1", 1_000);
        bench.phase(ONE, HwPhase::Charging);
        bench.stop(session(1));
        bench.tx_ended(ONE, "tx-1", EndCode::Other, 9_000);
        assert_eq!(bench.told(session(1)), whole);
        assert_eq!(state(&bench), ConnectorState::Finishing);
        bench.plug(ONE, false);
        assert_eq!(state(&bench), ConnectorState::Available);
    }
}

#[test]
fn the_transaction_may_come_before_the_answer_and_its_phase_before_both() {
    let mut bench = Bench::warm();
    bench.plug(ONE, true);
    let start = bench.start_command(1, ONE);
    let fx = bench.start(start);
    bench.phase(ONE, HwPhase::Charging);
    bench.tx_started(ONE, "-1", 1_000);
    bench.answer(the_start(&fx), HwVerdict::Accepted);
    assert_eq!(
        bench.told(session(1)),
        ["accepted", "started 1000", "charging"]
    );
}

#[test]
fn a_start_that_waits_for_a_plug_expires() {
    let mut bench = Bench::warm();
    let start = bench.start_command(1, ONE);
    bench.start(start);
    bench.pass(59_000);
    assert_eq!(bench.last_told(session(1)), "accepted");
    bench.pass(2_000);
    assert_eq!(bench.last_told(session(1)), "failed plug_timeout -");
}

#[test]
fn a_start_is_repeated_with_the_same_number_and_given_up_only_with_the_hardwares_word() {
    let mut bench = Bench::warm();
    bench.plug(ONE, true);
    let start = bench.start_command(1, ONE);
    let first = the_start(&bench.start(start));
    let sent = bench.pass(59_000);
    let repeats = sent.iter().filter(|c| **c == first).count();
    assert!(repeats >= 3, "{sent:?}");
    let sent = bench.pass(5_000);
    assert!(stops(&sent) >= 1);
    assert_eq!(bench.last_told(session(1)), "stopping");
    let stop = sent
        .into_iter()
        .find(|c| matches!(c, HwCommand::Stop { .. }))
        .unwrap();
    bench.answer(stop, HwVerdict::Unknown);
    bench.pass(6_000);
    assert_eq!(bench.last_told(session(1)), "failed no_answer -");
}

#[test]
fn a_start_number_that_is_drawn_again_is_not_used_again() {
    let mut bench = Bench::warm();
    bench.plug(ONE, true);
    let drawn = bench.drawn;
    let start = bench.start_command(1, ONE);
    let first = the_start(&bench.start(start));
    bench.tx_started(ONE, "tx-1", 1_000);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    bench.drawn = drawn;
    let start = bench.start_command(2, ONE);
    let second = the_start(&bench.start(start));
    // The charger would take it for the first one.
    assert_ne!(first, second);
}

#[test]
fn a_refusal_of_the_only_copy_of_a_start_is_final() {
    for (verdict, word) in [
        (HwVerdict::Rejected, "failed rejected_by_charger -"),
        (HwVerdict::Unsupported, "failed unsupported -"),
    ] {
        let mut bench = Bench::warm();
        bench.plug(ONE, true);
        let start = bench.start_command(1, ONE);
        let fx = bench.start(start);
        bench.answer(the_start(&fx), verdict);
        assert_eq!(bench.last_told(session(1)), word);
    }
}

#[test]
fn unplugging_ends_a_session_also_when_the_hardware_does_not_say_so() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.read(ONE, 5_000);
    bench.plug(ONE, false);
    bench.tx_ended(ONE, "tx-1", EndCode::EvUnplugged, 6_000);
    assert_eq!(bench.last_told(id), "completed ev_unplugged 6000");

    let (mut bench, id) = Bench::charging(|_| {});
    bench.read(ONE, 5_000);
    bench.pass(100);
    bench.plug(ONE, false);
    let sent = bench.pass(4_000);
    assert_eq!(bench.last_told(id), "stopping", "asked, not inferred");
    let stop = sent
        .into_iter()
        .find(|c| matches!(c, HwCommand::Stop { .. }))
        .unwrap();
    bench.answer(stop, HwVerdict::Unknown);
    bench.pass(6_000);
    assert_eq!(bench.last_told(id), "completed ev_unplugged 5000");
}

#[test]
fn a_session_stands_until_unplugged_or_until_its_cap_when_idling_costs() {
    for unplug in [true, false] {
        let (mut bench, id) = Bench::charging(|s| s.idle_s_max = 600);
        bench.stop(id);
        bench.tx_ended(ONE, "tx-1", EndCode::Other, 9_000);
        assert_eq!(bench.last_told(id), "energy ended driver");
        assert_eq!(bench.core.beats()[0].session_id, Some(id));
        bench.pass(590_000);
        assert_eq!(bench.last_told(id), "energy ended driver");
        if unplug {
            bench.plug(ONE, false);
        } else {
            bench.pass(11_000);
        }
        assert_eq!(bench.last_told(id), "completed driver 9000");
    }
}

#[test]
fn a_drivers_stop_does_not_end_standing_and_an_operators_does() {
    let (mut bench, id) = Bench::charging(|s| s.idle_s_max = 600);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    bench.stop(id);
    assert_eq!(bench.last_told(id), "energy ended ev_stopped");

    let (mut bench, id) = Bench::charging(|s| s.idle_s_max = 600);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    let stop = bench.stop_command(id, EndSource::Operator);
    bench.command(stop);
    assert_eq!(bench.last_told(id), "completed ev_stopped 9000");
}

#[test]
fn limits_of_energy_cost_and_time_are_enforced_here() {
    let (mut bench, id) = Bench::charging(|s| s.limits.energy_mwh = Some(Mwh(5_000)));
    bench.pass(1_000);
    assert_eq!(stops(&bench.read(ONE, 5_999).hardware), 0);
    bench.pass(1_000);
    assert_eq!(stops(&bench.read(ONE, 6_000).hardware), 1);
    bench.tx_ended(ONE, "tx-1", EndCode::Other, 6_010);
    assert_eq!(bench.last_told(id), "completed energy_limit 6010");

    let (mut bench, id) = Bench::charging(|s| {
        s.limits.energy_mwh = Some(Mwh(5_000));
        s.limits.energy_from_cost = true;
    });
    bench.pass(1_000);
    bench.read(ONE, 7_000);
    bench.tx_ended(ONE, "tx-1", EndCode::Other, 7_000);
    assert_eq!(bench.last_told(id), "completed cost_limit 7000");

    let (mut bench, id) = Bench::charging(|s| s.limits.time_s = Some(90));
    assert_eq!(stops(&bench.pass(89_000)), 0);
    bench.reboot(0);
    bench.link_with(&["tx-1"], ONE);
    assert!(stops(&bench.pass(2_000)) >= 1);
    bench.tx_ended(ONE, "tx-1", EndCode::Other, 8_000);
    assert_eq!(bench.last_told(id), "completed time_limit 8000");
}

#[test]
fn a_checkpoint_is_kept_each_minute_and_at_each_quarter_hour() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(59_000);
    assert_eq!(bench.last_told(id), "charging");
    bench.pass(1_500);
    assert_eq!(bench.last_told(id), "checkpoint 1000");
    // The bench begins on a quarter hour; 0.5 s past the minute, the 15th minute brings one by the
    // clock and one by the quarter.
    let before = bench.told(id).len();
    bench.pass(15 * 60_000 - 60_500 - 1_000);
    let by_minutes = bench.told(id).len();
    assert_eq!(by_minutes - before, 13);
    bench.pass(1_200);
    assert_eq!(bench.told(id).len() - by_minutes, 1);
}

#[test]
fn a_fault_ends_nothing_unless_the_hardware_says_so() {
    let (mut bench, id) = Bench::charging(|_| {});
    for effect in ["warning", "suspends", "ended"] {
        let at = bench.wall;
        bench.fact(HwFact::Fault {
            at,
            connector: ONE,
            fault: Some(ev_contract::connector::Fault {
                effect: ev_contract::connector::FaultEffect::from_word(effect),
                raw: "x".into(),
            }),
        });
        bench.pass(60_000);
        assert!(!bench.last_told(id).starts_with("completed"), "{effect}");
    }
    bench.tx_ended(ONE, "tx-1", EndCode::Fault, 9_000);
    assert_eq!(bench.last_told(id), "completed fault 9000");
}

#[test]
fn repeated_and_old_facts_change_nothing() {
    let (mut bench, id) = Bench::charging(|_| {});
    let old_unplug = HwFact::Plug {
        at: bench.wall.plus_ms(-3_600_000),
        connector: ONE,
        plugged: false,
    };
    let old_end = HwFact::TxEnded {
        at: bench.wall.plus_ms(-3_600_000),
        connector: ONE,
        device_tx: DeviceTx("tx-1".into()),
        origin: None,
        start_number: None,
        reason: EndReason::new(EndCode::EvUnplugged, EndSource::Vehicle),
        reading: Some(HwReading {
            at: bench.wall.plus_ms(-3_600_000),
            ..bench.reading(10)
        }),
    };
    let told = bench.told(id);
    for fact in [old_unplug, old_end] {
        bench.fact(fact);
        bench.pass(1_000);
    }
    assert_eq!(bench.told(id), told, "an older one of the same name");
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    let told = bench.told(id);
    for _ in 0..3 {
        let rows = bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000).rows;
        assert!(!rows.iter().any(|r| matches!(r, Row::Append(_))));
    }
    assert_eq!(bench.told(id), told);
}

#[test]
fn a_host_clock_that_is_set_in_a_session_changes_neither_its_end_nor_its_energy() {
    for set_ms in [-3_600_000, 3_600_000] {
        let charging = || {
            let (mut bench, id) = Bench::charging(|_| {});
            bench.read(ONE, 5_000);
            bench.pass(1_000);
            bench.wall = bench.wall.plus_ms(set_ms);
            bench.pass(1_000);
            (bench, id)
        };
        // By its name alone.
        let (mut bench, id) = charging();
        bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
        assert_eq!(bench.last_told(id), "completed ev_stopped 9000");

        // In the device's list, from which it is missing.
        let (mut bench, id) = charging();
        bench.read(ONE, 8_000);
        bench.link_with(&[], ONE);
        bench.pass(20_000);
        assert_eq!(bench.last_told(id), "completed other 8000");

        // By the plug.
        let (mut bench, id) = charging();
        bench.plug(ONE, false);
        bench.pass(4_000);
        assert_eq!(bench.last_told(id), "stopping");

        // The device says that the car has paused.
        let (mut bench, id) = charging();
        bench.phase(ONE, HwPhase::SuspendedEv);
        assert_eq!(bench.last_told(id), "suspended_ev");
    }
}

#[test]
fn an_end_before_its_start_waits_for_it_and_is_not_lost_without() {
    let start = |bench: &mut Bench| {
        bench.plug(ONE, true);
        bench.read(ONE, 1_000);
        bench.pass(1_000);
        let start = bench.start_command(1, ONE);
        bench.start(start);
    };
    let mut bench = Bench::warm();
    start(&mut bench);
    bench.tx_ended(ONE, "0", EndCode::EvStopped, 9_000);
    assert_eq!(bench.told(session(1)), ["accepted"]);
    bench.pass(6_000);
    assert_eq!(
        bench.told(session(1)),
        [
            "accepted",
            "anomaly",
            "started 1000",
            "completed ev_stopped 9000"
        ],
        "the register that stood before the start"
    );
}

#[test]
fn a_car_that_charges_before_its_session_is_claimed_with_all_its_energy() {
    let mut bench = Bench::warm();
    bench.plug(ONE, true);
    bench.tx_started(ONE, "7", 1_000);
    bench.pass(2_000);
    bench.read(ONE, 3_000);
    let start = bench.start_command(1, ONE);
    let fx = bench.start(start);
    assert_eq!(bench.told(session(1)), ["accepted", "started 1000"]);
    the_start(&fx);
    bench.tx_ended(ONE, "7", EndCode::EvUnplugged, 4_000);
    assert_eq!(bench.last_told(session(1)), "completed ev_unplugged 4000");
}

#[test]
fn energy_that_nobody_asked_for_becomes_a_session_of_its_own() {
    let opened = |bench: &Bench| {
        bench.records.iter().find_map(|r| match r.fact {
            EdgeFact::OpenedAtEdge { session_id, .. } => Some(session_id),
            _ => None,
        })
    };
    let mut bench = Bench::warm();
    bench.plug(ONE, true);
    bench.tx_started(ONE, "7", 1_000);
    bench.pass(60_000);
    assert_eq!(opened(&bench), None, "no energy, no session");
    bench.read(ONE, 3_000);
    let id = opened(&bench).unwrap();
    bench.tx_ended(ONE, "7", EndCode::EvUnplugged, 4_000);
    assert_eq!(
        bench.told(id),
        [
            "opened unknown",
            "started 1000",
            "completed ev_unplugged 4000"
        ]
    );
}

#[test]
fn a_transaction_that_begins_after_its_session_has_ended_is_stopped_and_told() {
    let mut bench = Bench::warm();
    bench.plug(ONE, true);
    let start = bench.start_command(1, ONE);
    let fx = bench.start(start);
    let HwCommand::Start { start_number, .. } = the_start(&fx) else {
        panic!()
    };
    bench.answer(the_start(&fx), HwVerdict::Rejected);
    assert!(bench.last_told(session(1)).starts_with("failed"));
    let fx = bench.tx_started_by(ONE, "9", 1_000, Some(start_number));
    assert_eq!(stops(&fx.hardware), 1);
    bench.tx_ended(ONE, "9", EndCode::Other, 1_500);
    let energy: Vec<_> = bench
        .records
        .iter()
        .filter_map(|r| match &r.fact {
            EdgeFact::Ended { reading, .. } => reading.as_ref().map(|r| r.register_mwh),
            _ => None,
        })
        .collect();
    assert_eq!(energy, [Mwh(1_500)]);
}

#[test]
fn after_a_power_cut_the_session_goes_on_if_the_hardware_has_it_and_ends_with_the_meter_if_not() {
    let boot = |bench: &mut Bench, running: Vec<edge_core::hardware::RunningTx>| {
        let at = bench.wall;
        bench.fact(HwFact::Booted {
            at,
            raw: Some("PowerUp".into()),
            running: Some(running),
        });
    };
    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(1_000);
    bench.read(ONE, 4_000);
    bench.link(false);
    bench.pass(30_000);
    bench.link_with(&["tx-1"], ONE);
    let running = edge_core::hardware::RunningTx {
        connector: ONE,
        device_tx: DeviceTx("tx-1".into()),
        origin: None,
    };
    boot(&mut bench, vec![running]);
    bench.pass(20_000);
    assert_eq!(bench.core.beats()[0].session_id, Some(id), "it goes on");

    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(1_000);
    bench.read(ONE, 4_000);
    bench.link(false);
    bench.pass(30_000);
    bench.link_with(&[], ONE);
    boot(&mut bench, vec![]);
    bench.pass(4_000);
    assert_eq!(bench.last_told(id), "charging", "its end may be on the way");
    bench.pass(2_000);
    assert_eq!(bench.last_told(id), "completed power_loss 4000");
}

#[test]
fn after_a_reboot_of_the_agent_a_session_goes_on_or_ends_with_what_the_hardware_says() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.reboot(3_600_000);
    bench.sync();
    bench.link_with(&["tx-1"], ONE);
    bench.read(ONE, 900_000);
    bench.pass(10_000);
    assert_eq!(state(&bench), ConnectorState::Charging);
    bench.tx_ended(ONE, "tx-1", EndCode::EvUnplugged, 950_000);
    assert_eq!(bench.last_told(id), "completed ev_unplugged 950000");
}

#[test]
fn a_register_that_falls_or_jumps_is_told_as_it_is() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(1_000);
    // No checkpoint has this one yet.
    bench.read(ONE, 3_000);
    bench.pass(1_000);
    bench.read(ONE, 900);
    bench.pass(1_000);
    bench.read(ONE, 900_000_000);
    bench.pass(1_000);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 900_000_100);
    assert_eq!(
        bench.told(id)[3..],
        [
            "checkpoint 3000",
            "checkpoint 900",
            "anomaly",
            "checkpoint 900000000",
            "anomaly",
            "completed ev_stopped 900000100"
        ]
    );
}

#[test]
fn a_register_that_goes_over_its_end_is_told_with_both_readings_and_is_no_anomaly() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(1_000);
    bench.read(ONE, 999_999_999_000);
    let before = bench.told(id).len();
    bench.pass(1_000);
    bench.read(ONE, 2_000);
    assert_eq!(
        bench.told(id)[before..],
        ["checkpoint 999999999000", "checkpoint 2000"]
    );
}

#[test]
fn a_meter_that_begins_anew_is_told_with_both_registers() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(1_000);
    bench.read(ONE, 4_000);
    bench.pass(1_000);
    let mut reading = bench.reading(0);
    reading.meter_epoch = 2;
    bench.fact(HwFact::Reading {
        connector: ONE,
        reading,
    });
    assert_eq!(bench.last_told(id), "charging", "an end may be on its way");
    bench.pass(6_000);
    assert_eq!(
        bench.told(id)[3..6],
        ["checkpoint 4000", "checkpoint 0", "anomaly"]
    );
}

#[test]
fn a_local_session_needs_no_central_and_is_stopped_on_the_spot() {
    let mut bench = Bench::cold();
    bench.link(true);
    bench.plug(TWO, true);
    let LocalAnswer::Started(id) = bench.start_locally(TWO) else {
        panic!()
    };
    bench.tx_started(TWO, "5", 1_000);
    bench.feed(Input::LocalStop {
        connector: TWO,
        reply_to: edge_core::ReplyTo(1),
    });
    bench.tx_ended(TWO, "5", EndCode::Other, 2_000);
    assert_eq!(
        bench.told(id),
        [
            "opened local",
            "started 1000",
            "stopping",
            "completed local 2000"
        ]
    );
}

#[test]
fn while_the_disk_is_full_records_wait_and_are_not_sent() {
    let (mut bench, id) = Bench::charging(|_| {});
    let stored = bench.core.spool().next();
    bench.core.storage_failed("full".into());
    let mut waiting = vec![];
    let reading = bench.reading(9_000);
    let end = HwFact::TxEnded {
        at: bench.wall,
        connector: ONE,
        device_tx: DeviceTx("tx-1".into()),
        origin: None,
        start_number: None,
        reason: EndReason::new(EndCode::EvStopped, EndSource::Vehicle),
        reading: Some(reading),
    };
    waiting.extend(bench.feed_unstored(Input::Fact(end)).rows);
    let run = bench.core.next_run(bench.now(), 0).unwrap();
    assert_eq!(run.until, stored, "only what is on the disk is sent");
    let ends = waiting
        .iter()
        .filter(|r| matches!(r, Row::Append(r) if matches!(r.fact, EdgeFact::Ended { session_id, .. } if session_id == id)))
        .count();
    assert_eq!(ends, 1);
    assert_eq!(
        bench.core.health(ev_contract::v1::TimeQuality::Synced),
        ["storage_failed"]
    );
}

#[test]
fn a_connector_is_told_once_after_boot_and_then_on_change() {
    let mut bench = Bench::warm();
    let told = |bench: &Bench| {
        bench
            .records
            .iter()
            .filter(|r| matches!(r.fact, EdgeFact::Connector { connector: ONE, .. }))
            .count()
    };
    assert_eq!(told(&bench), 1);
    bench.plug(ONE, true);
    bench.plug(ONE, true);
    bench.pass(60_000);
    assert_eq!(told(&bench), 2);
    bench.reboot(100);
    bench.link(true);
    assert_eq!(told(&bench), 3);
}

#[test]
fn a_new_start_is_taken_while_the_car_is_still_plugged_in() {
    let (mut bench, _) = Bench::charging(|_| {});
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    bench.pass(1_000);
    let start = bench.start_command(2, ONE);
    let fx = bench.start(start);
    assert_eq!(outcome(&fx).0, ev_contract::v1::Outcome::Taken);
    the_start(&fx);
    bench.tx_started(ONE, "tx-2", 9_000);
    bench.phase(ONE, HwPhase::SuspendedEv);
    let session = bench.core.connectors().next().unwrap().session.as_ref();
    assert_eq!(session.unwrap().phase(), Phase::SuspendedEv);
}

#[test]
fn a_connector_that_left_the_configuration_stays_until_its_session_has_ended() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.pass(10_000);
    let before = bench.core.specs();
    let mut renumbered = identity();
    renumbered.connectors.retain(|spec| spec.connector != ONE);
    bench.reboot_as(bench.wall.plus_ms(5_000), renumbered.clone());
    bench.sync();
    bench.link_with(&["tx-1"], ONE);
    assert_eq!(bench.core.specs(), before, "central is still told of it");
    bench.pass(60_000);
    bench.read(ONE, 9_000);
    bench.tx_ended(ONE, "tx-1", EndCode::EvStopped, 9_000);
    assert_eq!(bench.last_told(id), "completed ev_stopped 9000");
    // It takes no other one, and the next start knows it no more.
    let start = bench.start_command(2, ONE);
    assert_eq!(
        outcome(&bench.start(start)),
        (Outcome::Refused, Some(Code::OutOfService))
    );
    bench.reboot_as(bench.wall.plus_ms(5_000), renumbered);
    assert_eq!(bench.core.specs().len(), 1);
}
