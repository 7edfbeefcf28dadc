//! From registers to energy and money.

use central_core::{
    overdue,
    ripe::{Keep, to_forget},
};
use ev_contract::{
    connector::Phase,
    ids::SessionId,
    time::UnixMs,
    units::Mwh,
    v1::{EdgeFact, EdgeRecord, Flag, PriceComponent, Reading, TariffScope, TimeQuality},
};

use crate::harness::*;

/// Runs a session through readings and ends it with the last one.
fn receipt_of(readings: &[Reading]) -> (World, SessionId) {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.later(10 * HOUR);
    let (first, rest) = readings.split_first().unwrap();
    let mut facts = vec![accepted(id), started(id, first.clone())];
    facts.extend(rest.iter().map(|r| checkpoint(id, r.clone())));
    facts.push(ended(id, readings.last().cloned()));
    assert!(world.take(0, &mut one, facts));
    (world, id)
}

fn at(minutes: i64) -> UnixMs {
    T0.plus_ms(minutes * MINUTE)
}

fn other_meter(mut reading: Reading, id: &str, epoch: u32) -> Reading {
    reading.meter_id = id.to_owned();
    reading.meter_epoch = epoch;
    reading
}

fn unsure(mut reading: Reading) -> Reading {
    reading.quality = TimeQuality::Unsure;
    reading
}

#[test]
fn registers_that_are_odd_are_flagged_and_not_billed() {
    let one = 1_000_000;
    let table: &[(&str, Vec<Reading>, u64, &[Flag])] = &[
        (
            "rises",
            vec![
                reading(at(0), one),
                reading(at(60), 3 * one),
                reading(at(120), 9 * one),
            ],
            8 * one,
            &[],
        ),
        (
            "stands still",
            vec![
                reading(at(0), one),
                reading(at(1), one),
                reading(at(1), one),
            ],
            0,
            &[],
        ),
        (
            "falls once",
            vec![
                reading(at(0), one),
                reading(at(60), 3 * one),
                reading(at(61), 0),
                reading(at(120), 4 * one),
            ],
            3 * one,
            &[Flag::RegisterFell],
        ),
        (
            "falls and stays down",
            vec![
                reading(at(0), one),
                reading(at(60), 3 * one),
                reading(at(61), 0),
                reading(at(120), one),
            ],
            2 * one,
            &[Flag::RegisterFell],
        ),
        (
            "goes over its end and on at zero",
            vec![
                reading(at(0), 999_998 * one),
                reading(at(60), 999_999 * one + one / 2),
                reading(at(61), one / 10),
                reading(at(120), 2 * one),
            ],
            4 * one,
            &[],
        ),
        (
            "falls near its end by more than can have flowed",
            vec![
                reading(at(0), 999_998 * one),
                reading(at(60), 999_999 * one),
                reading(at(61), 20 * one),
            ],
            one,
            &[Flag::RegisterFell],
        ),
        (
            "jumps once",
            vec![
                reading(at(0), one),
                reading(at(1), 900 * one),
                reading(at(60), 5 * one),
            ],
            4 * one,
            &[Flag::RegisterJumped],
        ),
        (
            "jumps to the largest number",
            vec![
                reading(at(0), one),
                reading(at(60), 2 * one),
                reading(at(61), u64::MAX),
            ],
            one,
            &[Flag::RegisterJumped],
        ),
        (
            "is reset in a new meter epoch",
            vec![
                reading(at(0), 50 * one),
                reading(at(60), 55 * one),
                other_meter(reading(at(70), one / 2), "M1", 1),
                other_meter(reading(at(120), 4 * one), "M1", 1),
            ],
            5 * one + 4 * one,
            &[Flag::MeterReset],
        ),
        (
            "is replaced by another meter",
            vec![
                reading(at(0), 50 * one),
                reading(at(60), 55 * one),
                other_meter(reading(at(70), 700 * one), "M2", 0),
                other_meter(reading(at(120), 703 * one), "M2", 0),
            ],
            5 * one + 3 * one,
            &[Flag::MeterReset],
        ),
        (
            "is reset to more than can have flowed",
            vec![
                reading(at(0), 50 * one),
                reading(at(60), 55 * one),
                other_meter(reading(at(61), 700 * one), "M1", 1),
            ],
            5 * one,
            &[Flag::RegisterJumped],
        ),
        (
            "is read at a time before the last",
            vec![
                reading(at(0), one),
                reading(at(60), 3 * one),
                reading(at(50), 3 * one + 10_000),
            ],
            2 * one + 10_000,
            &[Flag::TimeWentBack],
        ),
    ];
    for (what, readings, energy, flags) in table {
        let (world, id) = receipt_of(readings);
        let receipt = world.receipt(id);
        assert_eq!(receipt.energy_mwh.0, *energy, "{what}");
        assert_eq!(receipt.flags, *flags, "{what}");
        let sum: u64 = receipt
            .meters
            .iter()
            .map(|m| m.to_mwh.0 - m.from_mwh.0)
            .sum();
        assert_eq!(sum, *energy, "{what}: both registers are on the receipt");
    }
}

#[test]
fn energy_metered_under_an_unsure_clock_is_billed_and_flagged() {
    // An agent that restarts without uplink on a host whose clock is wrong.
    let at_1970 = |minutes: i64| UnixMs(minutes * MINUTE);
    let ahead = |minutes: i64| at(100_000 + minutes);
    for clock in [at_1970 as fn(i64) -> UnixMs, ahead] {
        let mut readings = vec![reading(at(0), 1_000_000)];
        readings.extend((1..=60).map(|m| {
            // 20 kW, a checkpoint a minute.
            unsure(reading(clock(m), 1_000_000 + 333_333 * m.unsigned_abs()))
        }));
        let (world, id) = receipt_of(&readings);
        let receipt = world.receipt(id);
        assert_eq!(receipt.energy_mwh.0, 333_333 * 60);
        assert!(receipt.flags.contains(&Flag::ClockUnsure));
        assert!(
            !receipt.flags.contains(&Flag::RegisterJumped),
            "{:?}",
            receipt.flags
        );
    }
}

#[test]
fn a_register_that_jumps_under_an_unsure_clock_is_flagged_and_not_billed() {
    for clock in [UnixMs(0), at(30), at(1_000_000)] {
        let (world, id) = receipt_of(&[
            reading(at(0), 1_000_000),
            unsure(reading(clock, 900_000_000)),
            unsure(reading(clock, u64::MAX)),
            unsure(reading(clock, 2_000_000)),
        ]);
        assert_eq!(world.receipt(id).energy_mwh.0, 1_000_000, "{clock:?}");
        assert!(world.receipt(id).flags.contains(&Flag::RegisterJumped));
    }
}

#[test]
fn a_reading_that_is_not_billed_is_kept_word_for_word() {
    let (world, _) = receipt_of(&[
        reading(at(0), 1_000_000),
        reading(at(1), 900_000_000),
        reading(at(2), 1_000_500),
    ]);
    let evidence = world.evidence();
    assert_eq!(evidence.len(), 1, "{evidence:?}");
    assert_eq!(evidence[0].why, "register_jumped");
    let raw = rmpv::decode::read_value(&mut evidence[0].raw.as_slice()).unwrap();
    assert!(raw.to_string().contains("900000000"), "{raw}");
}

#[test]
fn energy_metered_after_a_clock_was_set_back_is_billed() {
    // An unsure time ahead of central's, then the right one.
    let mut readings = vec![
        reading(at(0), 1_000_000),
        unsure(reading(at(500), 1_100_000)),
    ];
    readings.extend((1..=60).map(|m| reading(at(m), 1_100_000 + 333_333 * m.unsigned_abs())));
    let (world, id) = receipt_of(&readings);
    assert_eq!(world.receipt(id).energy_mwh.0, 100_000 + 333_333 * 60);
}

#[test]
fn a_session_whose_first_reading_has_an_unsure_time_says_so() {
    let (world, id) = receipt_of(&[unsure(reading(at(0), 0)), reading(at(60), 1_000_000)]);
    assert_eq!(world.receipt(id).flags, [Flag::ClockUnsure]);
}

#[test]
fn a_clock_that_is_corrected_under_way_costs_no_energy() {
    // The first time was half a minute ahead: what flowed since seems to have taken two seconds.
    let (world, id) = receipt_of(&[unsure(reading(at(36), 0)), reading(at(38), 500_000)]);
    let receipt = world.receipt(id);
    assert_eq!(receipt.energy_mwh.0, 500_000);
    assert_eq!(receipt.flags, [Flag::ClockUnsure]);
}

#[test]
fn standing_is_not_charged_for_while_energy_flowed() {
    // The clock that the end of energy was written with was an hour behind the last reading.
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(3 * HOUR);
    world.take(
        0,
        &mut one,
        vec![checkpoint(id, reading(at(120), 11_000_000))],
    );
    let mut end = one.record(at(60), energy_ended(id, Some(reading(at(60), 11_000_000))));
    end.quality = TimeQuality::Unsure;
    let last = one.record(at(121), ended(id, None));
    world.run(0, &one.run(vec![end, last]));
    let receipt = world.receipt(id);
    assert_eq!(receipt.energy_ended_at, Some(at(120)));
    assert_eq!(receipt.idle_s, 60);
    assert_eq!(receipt.total.to_string(), "5.90");
    assert!(
        receipt.flags.contains(&Flag::ClockUnsure),
        "{:?}",
        receipt.flags
    );
}

#[test]
fn the_idle_fee_has_its_grace_and_its_cap() {
    for (stands_s, idle, total) in [
        (0, None, "5.90"),
        (600, None, "5.90"),
        (601, Some(("0.0167", false)), "5.90"),
        (660, Some(("1.0000", false)), "6.00"),
        (600 + 7_200, Some(("120.0000", true)), "17.90"),
        (600 + 720_000, Some(("12000.0000", true)), "17.90"),
    ] {
        let (mut world, mut one, _) = World::with_charge_points(1);
        let id = world.charging(&mut one, "alice", "r1");
        assert_eq!(world.session(id).idle_s_max, 600 + 7_200);
        world.later(HOUR);
        let end = world.now;
        world.take(
            0,
            &mut one,
            vec![energy_ended(id, Some(reading(end, 11_000_000)))],
        );
        world.later(stands_s * SECOND);
        world.take(0, &mut one, vec![ended(id, Some(reading(end, 11_000_000)))]);
        let receipt = world.receipt(id);
        assert_eq!(i64::from(receipt.idle_s), stands_s);
        let line = receipt
            .lines
            .iter()
            .find(|l| l.component.as_str() == "idle");
        assert_eq!(
            line.map(|l| {
                let note = l.note.clone().unwrap();
                (l.quantity.to_string(), note.starts_with("cap; "))
            }),
            idle.map(|(q, capped)| (q.to_owned(), capped)),
            "{stands_s}"
        );
        assert_eq!(receipt.total.to_string(), total, "{stands_s}");
        assert_eq!(receipt.net.0 + receipt.taxes[0].amount.0, receipt.total.0);
    }
}

#[test]
fn an_end_without_a_reading_keeps_the_last_one_and_says_so() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let now = world.now;
    world.take(
        0,
        &mut one,
        vec![checkpoint(id, reading(now, 2_000_000)), ended(id, None)],
    );
    assert_eq!(world.receipt(id).energy_mwh.0, 1_000_000);
    assert_eq!(world.receipt(id).flags, [Flag::NoEndReading]);
}

#[test]
fn a_session_whose_start_record_is_missing_is_metered_from_the_first_reading() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.later(HOUR);
    let now = world.now;
    world.take(
        0,
        &mut one,
        vec![
            checkpoint(id, reading(at(30), 5_000_000)),
            ended(id, Some(reading(now, 6_000_000))),
        ],
    );
    assert_eq!(world.receipt(id).energy_mwh.0, 1_000_000);
    assert_eq!(world.receipt(id).flags, [Flag::RecordsMissing]);
}

#[test]
fn times_from_the_future_are_not_believed() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let end = one.record(UnixMs(i64::MAX), energy_ended(id, None));
    let last = one.record(UnixMs(i64::MAX), ended(id, None));
    world.run(0, &one.run(vec![end, last]));
    let receipt = world.receipt(id);
    assert_eq!((receipt.ended_at, receipt.received_at), (T0, T0));
    assert_eq!(receipt.idle_s, 0);
}

#[test]
fn nothing_of_a_session_that_central_opened_was_before_that_or_after_it_was_told() {
    // The charge point's clock is a second and a half ahead, or behind.
    for off in [1_500, -1_500, 2 * HOUR, -2 * HOUR] {
        let (mut world, mut one, mut two) = World::with_charge_points(1);
        world.later(HOUR);
        let asked = start("alice", "r1", "CP-1").expiring(world.now.plus_ms(20 * SECOND));
        let id = world.ask(0, &asked).session();
        let accepted_at = world.now;
        let told = |world: &mut World, cabinet: &mut Cabinet, fact: EdgeFact, wait| {
            let at = world.later(wait).plus_ms(off);
            let record = cabinet.record(at, fact);
            assert!(world.run(0, &cabinet.run(vec![record])));
        };
        let read = |world: &World, wait, mwh| reading(world.now.plus_ms(wait + off), mwh);
        told(&mut world, &mut one, accepted(id), 100);
        let first = started(id, read(&world, 100, 1_000_000));
        told(&mut world, &mut one, first, 100);
        let paused = phase(
            id,
            Phase::SuspendedEv,
            Some(read(&world, MINUTE, 1_050_000)),
        );
        told(&mut world, &mut one, paused, MINUTE);
        let last = energy_ended(id, Some(read(&world, 100, 1_050_000)));
        told(&mut world, &mut one, last, 100);
        told(&mut world, &mut one, ended(id, None), 100);
        let receipt = world.receipt(id);
        let mut times = vec![accepted_at];
        times.extend(receipt.started_at);
        times.extend(receipt.periods.iter().map(|period| period.at));
        times.extend(receipt.energy_ended_at);
        times.extend([receipt.ended_at, receipt.received_at]);
        assert_eq!(receipt.received_at, world.now);
        assert!(times.is_sorted(), "{off} ms off: {times:?}");
        assert!(receipt.energy_mwh == Mwh(50_000), "{off} ms off");

        // So her next session, elsewhere, does not overlap.
        let asked = start("alice", "r2", "CP-2").expiring(world.now.plus_ms(20 * SECOND));
        let next = world.ask(0, &asked).session();
        let begun = vec![accepted(next), started(next, read(&world, 0, 0))];
        world.take(0, &mut two, begun);
        let begun_at = world.session(next).meter().unwrap().started_at;
        assert!(receipt.ended_at <= begun_at, "{off} ms off");
    }
}

#[test]
fn what_was_lived_through_under_an_unsure_clock_is_filed_under_when_it_was_told() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.later(HOUR);
    let id = world.session_id();
    // The cabinet booted without its uplink in 1970, and its car was there and gone.
    let at_1970 = |minute: i64| UnixMs(minute * MINUTE);
    let facts = [
        (0, opened(id, None)),
        (0, started(id, unsure(reading(at_1970(0), 1_000_000)))),
        (1, ended(id, Some(unsure(reading(at_1970(1), 1_050_000))))),
    ];
    let records = facts.map(|(minute, fact)| EdgeRecord {
        quality: TimeQuality::Unsure,
        ..one.record(at_1970(minute), fact)
    });
    let run = one.run(records.to_vec());
    assert!(world.run(0, &run));
    let receipt = world.receipt(id);
    assert_eq!(receipt.ended_at, at_1970(1), "what was claimed is kept");
    assert_eq!(receipt.filed_at(), world.now);
    assert!(!receipt.clock_was_sure());
    // It is in nobody's way since 1970, and is not forgotten at once as one of then.
    let session = world.session(id);
    assert_eq!(session.learned_at, world.now);
    let keep = Keep {
        refusals_ms: HOUR,
        answers_ms: HOUR,
        sessions_ms: HOUR,
    };
    let forgets = |now| to_forget(world.state(0), keep, now, |_| true).map(|f| f.sessions);
    assert!(forgets(world.now).is_none_or(|gone| gone.is_empty()));
    assert_eq!(forgets(world.now.plus_ms(HOUR)), Some(vec![id]));
}

#[test]
fn a_session_told_late_is_not_stuck_since_1970() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.session_id();
    let begun = started(id, unsure(reading(UnixMs(0), 0)));
    world.take(0, &mut one, vec![opened(id, None), begun]);
    assert_eq!(overdue::since(world.session(id)), Some(world.now));
}

#[test]
fn a_receipt_never_ends_before_it_began() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let last = one.record(
        UnixMs(i64::MIN),
        ended(id, Some(reading(UnixMs(i64::MIN), 1_050_000))),
    );
    world.run(0, &one.run(vec![last]));
    let receipt = world.receipt(id);
    assert_eq!((receipt.started_at, receipt.ended_at), (Some(T0), T0));
    assert_eq!(receipt.energy_mwh.0, 50_000);
}

#[test]
fn a_total_is_rounded_once_and_the_lines_are_exact() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let mut odd = terms()
        .with(PriceComponent::Energy, "0.333333".parse().unwrap())
        .with(PriceComponent::StartFee, "0.005".parse().unwrap());
    odd.start_fee_min_wh = 0;
    world.ask(0, &set_tariff("t", "odd", TariffScope::Default, odd));
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let now = world.now;
    world.take(0, &mut one, vec![ended(id, Some(reading(now, 1_000_003)))]);
    let receipt = world.receipt(id);
    // 0.000003 kWh at 0.333333 and 0.005: each alone would round to 0.00 and 0.01.
    assert_eq!(receipt.exact.to_string(), "0.005000999999");
    assert_eq!(receipt.total.to_string(), "0.01");
}
