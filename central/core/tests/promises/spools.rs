//! What charge points report: in order, once, and never refused.

use central_core::{
    decide::{Command, INTAKE_BYTES_MAX, Incoming, Run, Unrecorded, Verb},
    model::Stage,
};
use ev_contract::{
    codes::Code,
    connector::{FaultEffect, Phase, Service},
    ids::{BootId, ConnectorId},
    v1::{EdgeFact, EdgeRecord, EndCode, Flag, Origin, Outcome, Status},
};

use crate::harness::*;

#[test]
fn the_records_of_a_session_make_an_exact_receipt() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let at = |minutes| T0.plus_ms(minutes * MINUTE);
    // Plug at 1, charging to 31, paused to 41, charging to 61, standing to 80.
    let story = [
        (1, accepted(id)),
        (1, phase(id, Phase::Preparing, None)),
        (2, started(id, reading(at(2), 1_000_000))),
        (31, checkpoint(id, reading(at(31), 5_000_000))),
        (
            31,
            phase(id, Phase::SuspendedEv, Some(reading(at(31), 5_000_000))),
        ),
        (
            41,
            phase(id, Phase::Charging, Some(reading(at(41), 5_000_000))),
        ),
        (61, energy_ended(id, Some(reading(at(61), 8_123_456)))),
        (80, ended(id, Some(reading(at(61), 8_123_456)))),
    ];
    let phases = [
        Phase::Preparing,
        Phase::Preparing,
        Phase::Charging,
        Phase::Charging,
        Phase::SuspendedEv,
        Phase::Charging,
        Phase::Idle,
        Phase::Completed,
    ];
    for ((minutes, fact), expected) in story.into_iter().zip(phases) {
        world.now = at(minutes);
        assert!(world.take(1, &mut one, vec![fact.clone()]), "{fact:?}");
        assert_eq!(world.session(id).phase(), expected, "{fact:?}");
    }
    let receipt = world.receipt(id);
    assert_eq!(receipt.number, "CP-1-1-000001");
    assert_eq!(receipt.operator, "Stadtwerke");
    assert_eq!(receipt.status, Status::Completed);
    assert_eq!(receipt.end, unplugged());
    assert_eq!(receipt.energy_mwh.0, 7_123_456);
    assert_eq!(receipt.meters.len(), 1);
    assert_eq!(
        (receipt.meters[0].from_mwh.0, receipt.meters[0].to_mwh.0),
        (1_000_000, 8_123_456)
    );
    assert_eq!(receipt.accepted_at, T0);
    assert_eq!(receipt.started_at, Some(at(2)));
    assert_eq!(receipt.energy_ended_at, Some(at(61)));
    assert_eq!(receipt.ended_at, at(80));
    assert_eq!(receipt.idle_s, 19 * 60);
    let lines: Vec<_> = receipt
        .lines
        .iter()
        .map(|l| {
            (
                l.component.as_str(),
                l.quantity.to_string(),
                l.amount.to_string(),
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            ("energy", "7.123456".to_owned(), "3.49049344".to_owned()),
            ("start_fee", "1".to_owned(), "1.00".to_owned()),
            ("idle", "9.0000".to_owned(), "0.90".to_owned()),
        ]
    );
    assert_eq!(receipt.exact.to_string(), "5.39049344");
    assert_eq!(receipt.total.to_string(), "5.39");
    assert_eq!(
        (receipt.net.to_string(), receipt.taxes[0].amount.to_string()),
        ("4.53".into(), "0.86".into())
    );
    assert!(receipt.flags.is_empty(), "{:?}", receipt.flags);
    let periods: Vec<_> = receipt.periods.iter().map(|p| (p.at, p.phase)).collect();
    assert_eq!(
        periods,
        [
            (at(2), Phase::Charging),
            (at(31), Phase::Charging),
            (at(31), Phase::SuspendedEv),
            (at(41), Phase::Charging),
            (at(61), Phase::Charging),
            (at(61), Phase::Idle),
        ]
    );
    assert!(world.connector("CP-1").open.is_empty());
    assert!(world.driver("alice").open.is_empty());
    assert_eq!(world.spool(&one).next, 9);
    assert!(world.evidence().is_empty());
}

#[test]
fn the_same_run_again_and_an_overlapping_run_change_nothing_twice() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let records: Vec<EdgeRecord> = vec![
        one.record(T0, accepted(id)),
        one.record(T0, started(id, reading(T0, 1_000_000))),
        one.record(T0, checkpoint(id, reading(T0, 1_050_000))),
        one.record(T0, ended(id, Some(reading(T0, 1_060_000)))),
    ];
    let run = |from: usize, to: usize| one.run(records[from..to].to_vec());
    assert!(world.run(0, &run(0, 2)));
    assert!(!world.run(1, &run(0, 2)), "nothing is left to take");
    assert!(world.run(1, &run(1, 4)), "two of the three are new");
    assert!(!world.run(0, &run(0, 4)));
    assert_eq!(world.spool(&one).next, 5);
    assert_eq!(world.receipt(id).energy_mwh.0, 60_000);
    assert_eq!(world.spool(&one).quarantined, 0);
}

#[test]
fn the_same_run_through_two_replicas_at_once_counts_once() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    let last = one.record(T0, ended(id, Some(reading(T0, 1_050_000))));
    let run = one.run(vec![last]);
    let frames = [
        world.cut(0, std::slice::from_ref(&run)),
        world.cut(1, std::slice::from_ref(&run)),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    assert_eq!(world.connector("CP-1").receipts, 1);
    assert!(world.adjustments(id).list.is_empty());
    assert!(world.decide(1, &run).record.is_none());
}

#[test]
fn a_run_from_above_what_is_wanted_waits_while_the_spool_still_has_what_is_between() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    one.next += 1;
    let far = one.record(T0, ended(id, Some(reading(T0, 1_050_000))));
    assert!(!world.run(0, &one.run(vec![far])));
    assert_eq!(world.spool(&one).next, 3);
    assert!(!world.session(id).is_ended());
}

#[test]
fn a_spool_that_begins_above_makes_a_recorded_gap_and_flags_its_sessions() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let others = world.charging(&mut two, "bob", "r1");
    one.next = 10;
    one.first = 10;
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_050_000)))]);
    let spool = world.spool(&one);
    assert_eq!((spool.next, spool.missing, spool.quarantined), (11, 7, 0));
    assert_eq!(world.receipt(id).flags, [Flag::RecordsMissing]);
    assert_eq!(
        world.receipt(id).energy_mwh.0,
        50_000,
        "registers are cumulative"
    );
    assert!(world.session(others).flags.is_empty());
    let evidence = world.evidence();
    assert_eq!(evidence.len(), 1);
    assert_eq!(
        (evidence[0].seq, evidence[0].why.as_str()),
        (3, "records 3 to 9 are missing")
    );
    // The same run again finds no gap.
    assert_eq!(world.spool(&one).missing, 7);
}

#[test]
fn an_empty_spool_that_begins_above_is_a_gap_too() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.first = 5;
    one.next = 5;
    assert!(world.run(0, &one.run(Vec::new())));
    assert_eq!((world.spool(&one).next, world.spool(&one).missing), (5, 4));
}

#[test]
fn a_spool_that_another_ledger_has_emptied_is_a_gap_before_its_next_record_comes() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let others = world.charging(&mut two, "bob", "r1");
    one.first = 17;
    one.next = 17;
    assert!(world.run(0, &one.sync()));
    assert_eq!(
        (world.spool(&one).next, world.spool(&one).missing),
        (17, 14)
    );
    assert!(world.session(id).flags.contains(&Flag::RecordsMissing));
    assert!(world.session(others).flags.is_empty());
    assert_eq!(world.evidence()[0].why, "records 3 to 16 are missing");
    // It says so again, and nothing more is missing.
    assert!(!world.run(0, &one.sync()));
    // What it says that is old changes nothing.
    one.first = 1;
    assert!(!world.run(0, &one.sync()));
    assert_eq!(
        (world.spool(&one).next, world.spool(&one).missing),
        (17, 14)
    );
}

#[test]
fn another_epoch_is_another_spool_and_the_old_one_is_kept_apart() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let mut replaced = Cabinet::new("CP-1", "e1b");
    replaced.boot.id = BootId::from_number(2);
    world.run(0, &replaced.sync());
    // Numbered from one again, and not taken for repeats.
    world.take(
        0,
        &mut replaced,
        vec![
            Report {
                plugged: true,
                ..Report::default()
            }
            .fact(),
        ],
    );
    assert_eq!(world.spool(&replaced).next, 2);
    assert!(world.connector("CP-1").reported.unwrap().plugged);
    // The old disk turns up with what it had: in a second agent, for all that central can know.
    world.run(0, &one.sync());
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_050_000)))]);
    assert_eq!(world.spool(&one).next, 3);
    assert!(!world.session(id).is_ended());
    // An operator makes it a store of its own: then its records count.
    let mut renewed = Cabinet::new("CP-1", "e1c");
    renewed.boot.id = BootId::from_number(3);
    world.run(0, &renewed.sync());
    world.take(
        0,
        &mut renewed,
        vec![ended(id, Some(reading(T0, 1_050_000)))],
    );
    assert!(world.session(id).is_ended());
}

#[test]
fn what_cannot_be_read_is_kept_word_for_word_and_the_rest_is_taken() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let good = one.record(T0, checkpoint(id, reading(T0, 1_010_000)));
    let junk = in_msgpack(&vec![rmpv::Value::from("no map"), 7.into()].into());
    let large = in_msgpack(&"x".repeat(20_000).into());
    let numbered_wrongly = EdgeRecord {
        seq: 99,
        ..good.clone()
    };
    let from = good.seq;
    let last = EdgeRecord {
        seq: from + 4,
        ..one.record(T0, checkpoint(id, reading(T0, 1_020_000)))
    };
    let raws = [
        junk.clone(),
        large.clone(),
        in_msgpack(&numbered_wrongly.to_value().unwrap()),
    ];
    let run = Command::Intake(Run {
        cp: one.id.clone(),
        epoch: one.epoch.clone(),
        boot: one.boot.id,
        first: 1,
        from,
        records: vec![
            incoming(good),
            Incoming {
                raw: junk,
                record: Err("a record is a map".into()),
            },
            Incoming {
                raw: large,
                record: Err("20 003 bytes, allowed are 16 384".into()),
            },
            incoming(numbered_wrongly),
            incoming(last),
        ],
    });
    assert!(world.run(0, &run));
    let spool = world.spool(&one);
    assert_eq!(
        (spool.next, spool.quarantined, spool.missing),
        (from + 5, 3, 0)
    );
    assert_eq!(world.session(id).energy().0, 20_000, "the last one counts");
    let evidence = world.evidence();
    let numbers: Vec<u64> = evidence.iter().map(|e| e.seq).collect();
    assert_eq!(numbers, [from + 1, from + 2, from + 3]);
    for (kept, raw) in evidence.iter().zip(raws) {
        assert_eq!(kept.raw, raw);
    }
    // Once more: it is behind the position and not kept twice.
    assert!(!world.run(0, &run));
}

#[test]
fn records_about_foreign_unknown_and_ended_sessions_lie_in_quarantine() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let nobodys = world.session_id();
    let before = world.session(id).clone();
    for session in [id, nobodys] {
        let facts = vec![
            accepted(session),
            started(session, reading(T0, 1)),
            phase(session, Phase::SuspendedEv, None),
            checkpoint(session, reading(T0, 2)),
            energy_ended(session, None),
            ended(session, Some(reading(T0, 3))),
        ];
        assert!(world.take(0, &mut two, facts));
    }
    assert_eq!(*world.session(id), before, "CP-2 cannot speak for CP-1");
    assert_eq!(world.spool(&two).quarantined, 12);
    assert_eq!(world.spool(&two).next, 13);
    assert_eq!(world.evidence().len(), 12);

    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_010_000)))]);
    let before = world.session(id).clone();
    world.take(
        0,
        &mut one,
        vec![
            accepted(id),
            phase(id, Phase::Charging, None),
            energy_ended(id, None),
            ended(id, None),
            ended(id, Some(reading(T0, 1_010_000))),
            checkpoint(id, reading(T0, 1_000_500)),
        ],
    );
    assert_eq!(*world.session(id), before);
    assert_eq!(world.spool(&one).quarantined, 6);
    assert!(world.adjustments(id).list.is_empty());
}

#[test]
fn a_charge_point_that_never_presented_itself_is_not_heard() {
    let mut world = World::new(1);
    let mut stranger = Cabinet::new("CP-7", "e7");
    let record = stranger.record(T0, Report::default().fact());
    let decided = world.decide(0, &stranger.run(vec![record]));
    assert!(decided.record.is_none());
    assert_eq!(decided.unrecorded, Some(Unrecorded::Unpresented));
}

#[test]
fn a_report_about_a_connector_that_is_not_there_is_kept_aside() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let fact = EdgeFact::Connector {
        connector: ConnectorId(2),
        plugged: true,
        service: Service::In,
        service_revision: 0,
        fault: None,
        charger_online: true,
        ended_since_plug: false,
    };
    world.take(0, &mut one, vec![fact]);
    assert_eq!(world.spool(&one).quarantined, 1);
}

#[test]
fn an_anomaly_is_counted_and_kept_and_a_boot_is_nothing() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let anomaly = EdgeFact::Anomaly {
        connector: None,
        session_id: None,
        what: "ended twice".into(),
    };
    world.take(0, &mut one, vec![anomaly, EdgeFact::Booted { raw: None }]);
    let spool = world.spool(&one);
    assert_eq!((spool.anomalies, spool.quarantined, spool.next), (1, 0, 3));
    assert_eq!(world.evidence()[0].why, "ended twice");
}

#[test]
fn a_session_that_began_at_the_cabinet_is_taken_as_it_is() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.session_id();
    world.take(
        0,
        &mut one,
        vec![
            opened(id, None),
            started(id, reading(T0, 5_000_000)),
            ended(id, Some(reading(T0, 5_100_000))),
        ],
    );
    let session = world.session(id);
    assert_eq!(session.origin, Origin::Local);
    assert_eq!(session.token.as_deref(), Some("04A2"));
    let receipt = world.receipt(id);
    assert_eq!(receipt.number, "CP-1-1-000001");
    assert_eq!(receipt.energy_mwh.0, 100_000);
    assert_eq!(receipt.total.to_string(), "1.05");
    assert!(receipt.flags.is_empty(), "{:?}", receipt.flags);
    assert!(world.evidence().is_empty());
}

#[test]
fn a_driver_whom_a_charge_point_names_is_neither_locked_out_nor_billed() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.session_id();
    world.take(0, &mut one, vec![opened(id, Some("alice"))]);
    let session = world.session(id);
    assert_eq!((&session.driver, session.counts), (&None, false));
    // The connector is occupied, by nobody that anybody knows.
    for driver in ["alice", "bob"] {
        let there = start(driver, "r1", "CP-1");
        assert_eq!(world.ask(0, &there).code(), Code::Occupied);
    }
    // Hers is not hers to stop, and does not hang.
    assert_eq!(
        world.ask(0, &stop("alice", "s1", id)).code(),
        Code::SessionNotFound
    );
    // Elsewhere she charges as ever.
    let own = world.ask(0, &start("alice", "r2", "CP-2")).session();
    world.take(
        0,
        &mut one,
        vec![
            started(id, reading(T0, 0)),
            ended(id, Some(reading(T0, 90_000))),
        ],
    );
    assert_eq!(world.receipt(id).driver_id, None);
    assert_eq!(world.receipt(id).flags, [Flag::DriverClaimed]);
    let alices = world.state(0).sessions_of(&driver("alice"), None);
    assert_eq!(alices.map(|e| e.value.id).collect::<Vec<_>>(), [own]);
    // What it said is kept for operators, word for word.
    assert_eq!(world.evidence().len(), 1);
    assert_eq!(world.evidence()[0].why, "driver_claimed");
    assert!(!world.evidence()[0].raw.is_empty());
}

#[test]
fn a_charge_point_cannot_say_that_central_began_a_session() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    for claimed in [Origin::App, Origin::Operator] {
        let id = world.session_id();
        let fact = EdgeFact::OpenedAtEdge {
            session_id: id,
            connector: ConnectorId(1),
            origin: claimed,
            driver_id: None,
            token: None,
        };
        world.take(0, &mut one, vec![fact.clone(), fact]);
        assert_eq!(world.session(id).origin, Origin::Unknown);
        world.take(0, &mut one, vec![ended(id, None)]);
    }
    assert_eq!(world.spool(&one).quarantined, 0);
}

#[test]
fn a_free_session_costs_nothing_whatever_the_tariff() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.session_id();
    let fact = EdgeFact::OpenedAtEdge {
        session_id: id,
        connector: ConnectorId(1),
        origin: Origin::Free,
        driver_id: None,
        token: None,
    };
    let facts = vec![
        fact,
        started(id, reading(T0, 0)),
        ended(id, Some(reading(T0, 100_000))),
    ];
    world.take(0, &mut one, facts);
    assert_eq!(world.receipt(id).total.to_string(), "0.00");
    assert_eq!(world.receipt(id).energy_mwh.0, 100_000);
}

#[test]
fn a_local_start_that_crosses_an_accepted_one_is_a_second_session() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    world.catch_up_all();
    // Decided at the same time as Alice's request is.
    let local = world.session_id();
    let record = one.record(T0, opened(local, None));
    let run = one.run(vec![record]);
    let frames = [
        world.cut(0, &[start("alice", "r1", "CP-1").command()]),
        world.cut(1, std::slice::from_ref(&run)),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    assert!(world.run(1, &run));
    let alices = world.ask(0, &start("alice", "r1", "CP-1")).session();
    assert_eq!(world.connector("CP-1").open.len(), 2);
    assert!(
        world.session(local).flags.is_empty(),
        "the accepted one was not taken"
    );

    // The charge point takes one session and refuses the other.
    world.answered(
        &one,
        Verb::Start,
        alices,
        Got::refused(Code::OccupiedLocally),
    );
    assert_eq!(world.receipt(alices).end.word(), "occupied_locally");
    assert_eq!(world.receipt(alices).end.code, EndCode::Refused);
    assert!(world.driver("alice").open.is_empty());
    let connector = world.connector("CP-1");
    assert_eq!(connector.open.iter().copied().collect::<Vec<_>>(), [local]);
    world.take(
        0,
        &mut one,
        vec![
            started(local, reading(T0, 0)),
            ended(local, Some(reading(T0, 90_000))),
        ],
    );
    assert_eq!(world.receipt(local).number, "CP-1-1-000002");
}

#[test]
fn a_local_session_over_one_that_was_taken_is_flagged() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.charging(&mut one, "alice", "r1");
    let local = world.session_id();
    world.take(0, &mut one, vec![opened(local, None)]);
    assert!(world.session(local).flags.contains(&Flag::Overlap));
}

#[test]
fn a_local_session_cannot_take_the_id_of_another() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let before = world.session(id).clone();
    world.take(0, &mut two, vec![opened(id, Some("mallory"))]);
    world.take(0, &mut one, vec![opened(id, Some("mallory"))]);
    assert_eq!(*world.session(id), before);
    assert_eq!(
        (world.spool(&one).quarantined, world.spool(&two).quarantined),
        (1, 1)
    );
}

#[test]
fn receipts_are_numbered_consecutively_per_connector() {
    let (mut world, mut one, mut two) = World::with_charge_points(2);
    for n in 1..=3 {
        let ids = [
            world.charging(&mut one, "alice", &format!("r{n}")),
            world.charging(&mut two, "bob", &format!("r{n}")),
        ];
        world.take(
            1,
            &mut one,
            vec![ended(ids[0], Some(reading(T0, 1_000_000)))],
        );
        world.take(
            0,
            &mut two,
            vec![ended(ids[1], Some(reading(T0, 1_000_000)))],
        );
        assert_eq!(world.receipt(ids[0]).number, format!("CP-1-1-{n:06}"));
        assert_eq!(world.receipt(ids[1]).number, format!("CP-2-1-{n:06}"));
    }
}

#[test]
fn a_session_that_never_got_energy_fails_with_a_receipt_of_zero() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let fact = EdgeFact::Ended {
        session_id: id,
        completed: false,
        reason: ev_contract::v1::EndReason::new(
            EndCode::PlugTimeout,
            ev_contract::v1::EndSource::ChargePoint,
        ),
        reading: None,
        stood_s: None,
    };
    world.take(0, &mut one, vec![accepted(id), fact]);
    let receipt = world.receipt(id);
    assert_eq!(
        (receipt.status, receipt.total.to_string()),
        (Status::Failed, "0.00".into())
    );
    assert_eq!(receipt.started_at, None);
}

#[test]
fn an_end_is_never_inferred_from_a_phase() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    for odd in [
        Phase::Completed,
        Phase::Failed,
        Phase::Idle,
        Phase::Stopping,
        Phase::Unrecognised,
    ] {
        world.take(0, &mut one, vec![phase(id, odd, None)]);
        assert!(
            matches!(
                world.session(id).stage,
                Stage::Energy {
                    phase: Phase::Charging,
                    ..
                }
            ),
            "{odd}"
        );
    }
    world.answered(&one, Verb::Stop, id, Got::outcome(Outcome::Ended));
    assert!(!world.session(id).is_ended(), "its records will say so");
}

#[test]
fn a_charge_point_that_presents_itself_ends_and_frees_nothing() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    assert!(!world.run(0, &one.sync()), "nothing new, nothing written");
    let replaced = Cabinet::new("CP-1", "e1b");
    assert!(world.run(0, &replaced.sync()));
    assert!(!world.session(id).is_ended());
    assert_eq!(world.session(id).epoch, epoch("e1"));
    assert!(world.connector("CP-1").open.contains(&id));
}

#[test]
fn a_cabinet_that_opens_sessions_without_end_is_kept_within_bounds() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let facts = (0..200).map(|_| opened(world.session_id(), None)).collect();
    assert!(world.take(0, &mut one, facts));
    let spool = world.spool(&one);
    assert_eq!((spool.next, spool.quarantined), (201, 184));
    assert_eq!(world.connector("CP-1").open.len(), 16);
}

#[test]
fn no_intake_makes_a_record_that_the_ledger_cannot_hold() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.connectors = 3;
    world.run(0, &one.sync());
    // Forty sessions, each with a token of 15 kB: a gap would flag them all, and the run that ends
    // them all would write them all.
    let ids: Vec<_> = (0..40).map(|_| world.session_id()).collect();
    for (n, id) in ids.iter().enumerate() {
        let fact = EdgeFact::OpenedAtEdge {
            session_id: *id,
            connector: ConnectorId(u16::try_from(n % 3).unwrap() + 1),
            origin: Origin::Local,
            driver_id: None,
            token: Some("t".repeat(15_000)),
        };
        world.take(0, &mut one, vec![fact]);
    }
    one.next += 3;
    one.first = one.next;
    let gap = one.run(Vec::new());
    let records: Vec<_> = ids
        .iter()
        .map(|id| one.record(T0, ended(*id, None)))
        .collect();
    let last = one.next;
    for run in [gap, one.run(records)] {
        let mut rounds = 0;
        while let Some(record) = world.decide(0, &run).record {
            assert!(record.encoded_len() <= INTAKE_BYTES_MAX);
            assert!(world.run(0, &run));
            rounds += 1;
            assert!(rounds < 5, "each round moves the position on");
        }
    }
    let spool = world.spool(&one);
    assert_eq!((spool.next, spool.missing, spool.quarantined), (last, 3, 0));
    assert!(ids.iter().all(|id| world.session(*id).is_ended()));
}

#[test]
fn a_run_that_is_too_large_for_one_record_is_taken_in_several() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let raw = in_msgpack(&"x".repeat(INTAKE_BYTES_MAX - 2_000).into());
    let first = one.record(T0, Report::default().fact());
    one.next += 1;
    let last = one.record(T0, EdgeFact::Booted { raw: None });
    let run = Command::Intake(Run {
        cp: one.id.clone(),
        epoch: one.epoch.clone(),
        boot: one.boot.id,
        first: 1,
        from: 1,
        records: vec![
            incoming(first),
            Incoming {
                raw,
                record: Err("too large".into()),
            },
            incoming(last),
        ],
    });
    while let Some(record) = world.decide(0, &run).record {
        assert!(record.encoded_len() <= INTAKE_BYTES_MAX);
        assert!(world.run(0, &run));
    }
    let spool = world.spool(&one);
    assert_eq!((spool.next, spool.quarantined), (4, 1));
}

#[test]
fn a_record_whose_consequences_alone_are_too_large_is_kept_aside() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.session_id();
    let text = "x".repeat(INTAKE_BYTES_MAX * 3 / 5);
    let local = EdgeFact::OpenedAtEdge {
        session_id: id,
        connector: ConnectorId(1),
        origin: Origin::Local,
        driver_id: None,
        token: Some(text.clone()),
    };
    world.take(0, &mut one, vec![local]);
    let mut report = Report {
        fault: Some(FaultEffect::Warning),
        ..Report::default()
    }
    .fact();
    if let EdgeFact::Connector {
        fault: Some(fault), ..
    } = &mut report
    {
        fault.raw = text;
    }
    world.take(0, &mut one, vec![report]);
    // Its end would write both.
    let record = one.record(T0, ended(id, None));
    let run = one.run(vec![record]);
    let decided = world.decide(0, &run).record.unwrap();
    assert!(decided.encoded_len() <= INTAKE_BYTES_MAX);
    assert!(world.run(0, &run));
    assert!(!world.session(id).is_ended());
    assert_eq!(
        (world.spool(&one).next, world.spool(&one).quarantined),
        (4, 1)
    );
    assert_eq!(world.evidence().len(), 1);
}

#[test]
fn a_meter_that_is_another_each_time_does_not_make_a_session_grow_for_ever() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let named = |name: String| {
        let mut reading = reading(T0, 1_000_000);
        reading.meter_id = name;
        checkpoint(id, reading)
    };
    world.take(0, &mut one, vec![named("m".repeat(65))]);
    assert_eq!(world.spool(&one).quarantined, 1);
    let facts = (0..400).map(|n| named(format!("{n:064}"))).collect();
    world.take(0, &mut one, facts);
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    let receipt = world.receipt(id);
    assert_eq!(receipt.meters.len(), 200);
    assert!(receipt.flags.contains(&Flag::MeterReset));
    assert!(world.ledger.last().unwrap().len() < 64 * 1024);
}

#[test]
fn evidence_has_an_allowance_a_day_and_energy_is_not_part_of_it() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let flood = |world: &mut World, one: &mut Cabinet, runs: usize| {
        for _ in 0..runs {
            let anomaly = || EdgeFact::Anomaly {
                connector: None,
                session_id: None,
                what: "x".repeat(15_000),
            };
            world.take(0, one, (0..16).map(|_| anomaly()).collect());
        }
    };
    let kept = |world: &World| -> usize {
        let evidence = world.evidence();
        evidence.iter().map(|e| e.why.len() + e.raw.len()).sum()
    };
    flood(&mut world, &mut one, 10);
    let at_first = kept(&world);
    assert!((1_000_000..1_100_000).contains(&at_first), "{at_first}");
    assert_eq!(world.spool(&one).anomalies, 160, "all are counted");
    let last = world.evidence().pop().unwrap();
    assert!(last.why.contains("used up"), "{}", last.why);
    flood(&mut world, &mut one, 10);
    assert_eq!(kept(&world), at_first);
    assert_eq!(world.spool(&one).anomalies, 320);

    // Energy is taken in as ever, and a register that is not billed is kept in words.
    let now = world.later(HOUR);
    let facts = vec![
        checkpoint(id, reading(now, 11_000_000)),
        checkpoint(id, reading(now, 900_000_000_000)),
        ended(id, Some(reading(now, 11_000_000))),
    ];
    world.take(0, &mut one, facts);
    assert_eq!(world.receipt(id).energy_mwh.0, 10_000_000);
    let last = world.evidence().pop().unwrap();
    assert!(
        last.why.contains("stood at 900000000000 mWh"),
        "{}",
        last.why
    );

    // The next day has its own.
    world.later(24 * HOUR);
    flood(&mut world, &mut one, 1);
    assert!(kept(&world) > at_first + 200_000);
}

#[test]
fn a_charge_point_opens_so_many_stores_a_day_and_another_on_the_next() {
    let (mut world, _, _) = World::with_charge_points(1);
    let mut last = None;
    for n in 0..200 {
        let store = Cabinet::new("CP-1", &format!("flood-{n}"));
        world.run(0, &store.sync());
        last = Some(store);
    }
    let known = world.state(0).spools_of(&cp_id("CP-1")).count();
    assert_eq!(known, central_core::model::Spool::OPENED_PER_DAY_MAX);
    let last = last.unwrap();
    let obeyed = |world: &World| {
        let present = world.state(0).charge_point(&last.id).unwrap();
        present.value.epoch == last.epoch
    };
    assert!(!obeyed(&world));
    world.later(24 * HOUR);
    world.run(0, &last.sync());
    assert!(obeyed(&world));
}
