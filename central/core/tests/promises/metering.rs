//! From registers to energy and money.

use central_core::{
    model::Stage,
    overdue,
    ripe::{Keep, to_forget},
};
use ev_contract::{
    connector::Phase,
    ids::SessionId,
    time::UnixMs,
    units::{MilliAmp, Mwh},
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

/// A session whose end of energy was dated an hour before its last reading, and which then ended.
fn stood_under_an_unsure_clock(stood_s: Option<u32>, ended_at: UnixMs) -> (World, SessionId) {
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
    world.run(0, &one.run(vec![end]));
    // Meanwhile it is shown to stand since central learned of it.
    let Stage::Standing {
        energy_ended_at, ..
    } = world.session(id).stage
    else {
        panic!("it stands")
    };
    assert_eq!(energy_ended_at, world.now);
    world.later(10 * HOUR);
    let last = one.record(ended_at, stood(id, stood_s));
    world.run(0, &one.run(vec![last]));
    (world, id)
}

#[test]
fn standing_is_what_the_charge_point_measured_of_it() {
    let (world, id) = stood_under_an_unsure_clock(Some(15), at(121));
    let receipt = world.receipt(id);
    assert_eq!(receipt.idle_s, 15);
    let times = (receipt.energy_ended_at, receipt.ended_at);
    assert_eq!(times, (Some(at(121).plus_ms(-15_000)), at(121)));
    assert!(
        receipt.flags.contains(&Flag::ClockUnsure),
        "{:?}",
        receipt.flags
    );
}

#[test]
fn standing_whose_beginning_nobody_knows_is_not_charged_for() {
    let (world, id) = stood_under_an_unsure_clock(None, at(10 * 60));
    assert_eq!(world.receipt(id).idle_s, 0);
}

#[test]
fn a_charge_point_cannot_have_measured_more_standing_than_the_session_took() {
    let (world, id) = stood_under_an_unsure_clock(Some(u32::MAX), at(121));
    let most = world.now.ms_since(world.receipt(id).accepted_at) / 1_000;
    assert_eq!(i64::from(world.receipt(id).idle_s), most);
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

/// A gigawatt hour.
const GWH: u64 = 1_000_000_000_000;

fn billed_mwh(world: &World) -> u64 {
    let sessions = world.state(0).sessions_oldest_first();
    sessions.map(|session| session.energy().0).sum()
}

#[test]
fn a_start_that_claims_to_be_of_1970_buys_no_years_of_full_power() {
    // Accepted by central.
    let (world, id) = receipt_of(&[reading(UnixMs(0), 0), reading(at(60), GWH)]);
    let receipt = world.receipt(id);
    assert_eq!(receipt.energy_mwh.0, 0);
    assert_eq!(receipt.started_at, Some(T0));
    assert!(receipt.flags.contains(&Flag::RegisterJumped));

    // Begun at the charge point, an hour after its agent was last heard.
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.take(0, &mut one, vec![Report::default().fact()]);
    world.later(HOUR);
    for quality in [TimeQuality::Synced, TimeQuality::Unsure] {
        let id = world.session_id();
        let facts = [
            opened(id, None),
            started(id, reading(UnixMs(0), 0)),
            checkpoint(id, reading(at(60), 500_000_000)),
            ended(id, Some(reading(at(60), GWH))),
        ];
        let records = facts.map(|fact| {
            let mut record = one.record(UnixMs(0), fact);
            record.quality = quality;
            record
        });
        world.run(0, &one.run(records.to_vec()));
        assert!(world.session(id).is_ended());
    }
    // A day before it once, and nothing of the gigawatt hours.
    assert_eq!(billed_mwh(&world), 500_000_000);
    assert_eq!(world.evidence().len(), 3, "{:?}", world.evidence());
}

#[test]
fn many_readings_or_sessions_of_one_moment_buy_no_more_than_one() {
    // Each reading by itself could be: a day's worth under an unsure clock.
    let readings: Vec<_> = (0..200)
        .map(|day| unsure(reading(at(0), day * 500_000_000)))
        .collect();
    let (world, id) = receipt_of(&readings);
    assert_eq!(world.receipt(id).energy_mwh.0, 0, "ten hours have passed");

    // So could each session by itself: what is the meter's slack.
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.take(0, &mut one, vec![Report::default().fact()]);
    for _ in 0..500 {
        let id = world.session_id();
        let facts = vec![
            opened(id, None),
            started(id, reading(T0, 0)),
            ended(id, Some(reading(T0, 250_000))),
        ];
        world.take(0, &mut one, facts);
    }
    assert!(billed_mwh(&world) < 4 * 250_000, "{}", billed_mwh(&world));
}

#[test]
fn three_days_alone_with_an_unsure_clock_are_billed_in_full() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.take(0, &mut one, vec![Report::default().fact()]);
    world.later(72 * HOUR);
    // Two sessions of a day and a half each at 20 kW, by a clock that began at 1970.
    let mut records = Vec::new();
    for n in 0..2 {
        let id = world.session_id();
        let hour = |h: i64| UnixMs((36 * n + h) * HOUR);
        let step = 20_000_000;
        let mut facts = vec![
            (hour(0), opened(id, None)),
            (hour(0), started(id, unsure(reading(hour(0), 0)))),
        ];
        facts.extend((1..36).map(|h: i64| {
            let register = step * h.unsigned_abs();
            (hour(h), checkpoint(id, unsure(reading(hour(h), register))))
        }));
        let last = unsure(reading(hour(35), 35 * step));
        facts.push((hour(35), ended(id, Some(last))));
        for (at, fact) in facts {
            let mut record = one.record(at, fact);
            record.quality = TimeQuality::Unsure;
            records.push(record);
        }
    }
    world.run(0, &one.run(records));
    assert_eq!(billed_mwh(&world), 2 * 35 * 20_000_000);
    assert!(world.evidence().is_empty(), "{:?}", world.evidence());
}

#[test]
fn a_late_record_buys_no_more_than_the_time_since_the_acceptance() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let end = world.now;
    world.take(
        0,
        &mut one,
        vec![ended(id, Some(unsure(reading(end, 1_000_000))))],
    );
    for n in 1..100_u64 {
        let reading = unsure(reading(end, 1_000_000 + n * 400_000_000));
        world.take(0, &mut one, vec![checkpoint(id, reading)]);
    }
    assert!(world.adjustments(id).list.is_empty());
}

#[test]
fn a_connector_is_believed_as_far_as_it_is_sold_or_enrolled() {
    use central_core::decide::{Announcement, Command};
    for (max_kw, claimed_ma, phases, volts, most_kw) in [
        (None, u32::MAX, u8::MAX, u16::MAX, 4_000),
        (None, 3_000_000, 1, 1_250, 3_750),
        (Some(22), 3_000_000, 1, 1_250, 22),
        (Some(22), 16_000, 3, 230, 11),
    ] {
        let mut world = World::new(1);
        let mut one = Cabinet::new("CP-1", "e1");
        world.run(
            0,
            &Command::Announce(Announcement {
                at: T0,
                cps: vec![one.id.clone()],
                revoked: false,
                site: None,
                time_zone: None,
                max_kw,
            }),
        );
        let Command::Sync(cp, mut sync) = one.sync() else {
            panic!("a sync")
        };
        sync.connectors[0].max_ma = MilliAmp(claimed_ma);
        sync.connectors[0].phases = phases;
        sync.connectors[0].volts = volts;
        let claimed_kw = sync.connectors[0].power_max().0 / 1_000_000;
        let sync = Command::Sync(cp, sync);
        assert!(world.run(0, &sync));
        // Told once, and not with every sync.
        world.run(0, &sync);
        let told = u64::from(claimed_kw > most_kw);
        assert_eq!(world.spool(&one).anomalies, told, "{:?}", world.evidence());
        let present = world.state(0).charge_point(&one.id).unwrap();
        let believed = &present.value.connectors[0];
        let kw = believed.power_max().0 / 1_000_000;
        assert!(kw <= most_kw && kw + 1 >= most_kw, "{believed:?}");
        // Its records are taken in, and what is beyond is not billed.
        let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
        world.later(HOUR);
        let good = most_kw * 1_000_000;
        let facts = vec![
            accepted(id),
            started(id, reading(at(0), 0)),
            checkpoint(id, reading(at(59), good * 9 / 10)),
            ended(id, Some(reading(at(60), GWH))),
        ];
        world.take(0, &mut one, facts);
        assert_eq!(world.receipt(id).energy_mwh.0, good * 9 / 10);
        assert!(world.receipt(id).flags.contains(&Flag::RegisterJumped));
    }
}
