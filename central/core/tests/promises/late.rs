//! After the end: an ended session never changes, and nothing that comes late is lost.

use central_core::decide::Verb;
use ev_contract::{
    connector::Phase,
    ids::SessionId,
    v1::{Outcome, PriceComponent, TariffScope},
};

use crate::harness::*;

fn written_off_at(register: u64) -> (World, Cabinet, SessionId) {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let now = world.now;
    world.take(0, &mut one, vec![checkpoint(id, reading(now, register))]);
    let asking = write_off("w", id).expiring(world.now);
    world.ask(0, &asking).done();
    world.catch_up_all();
    world.later(HOUR);
    (world, one, id)
}

fn adjusted_mwh(world: &World, id: SessionId) -> i64 {
    world
        .adjustments(id)
        .list
        .iter()
        .map(|a| a.energy_mwh)
        .sum()
}

#[test]
fn a_late_end_of_what_was_written_off_is_one_adjustment_and_clears_the_standing_stop() {
    let (mut world, mut one, id) = written_off_at(5_000_000);
    let before = world.session(id).clone();
    assert_eq!(world.receipt(id).energy_mwh.0, 4_000_000);
    assert_eq!(world.receipt(id).total.to_string(), "2.96");
    let now = world.now;
    // What had waited in the spool arrives as one run.
    world.take(
        0,
        &mut one,
        vec![
            checkpoint(id, reading(now, 6_000_000)),
            phase(id, Phase::SuspendedEv, Some(reading(now, 7_000_000))),
            energy_ended(id, Some(reading(now, 9_000_000))),
            ended(id, Some(reading(now, 9_000_000))),
        ],
    );
    assert_eq!(*world.session(id), before, "the receipt stays");
    let adjustments = world.adjustments(id);
    assert_eq!(adjustments.list.len(), 1);
    let only = &adjustments.list[0];
    assert_eq!(
        (only.number.as_str(), only.by.as_str()),
        ("CP-1-1-000001-A1", "central")
    );
    assert_eq!(only.energy_mwh, 4_000_000);
    assert_eq!(
        (only.amount.to_string(), only.total.to_string()),
        ("1.96".into(), "4.92".into())
    );
    // Metered = receipt + adjustments.
    assert_eq!(
        world.receipt(id).energy_mwh.0.cast_signed() + adjusted_mwh(&world, id),
        8_000_000
    );
    assert!(world.connector("CP-1").standing_stops.is_empty());
}

#[test]
fn late_records_in_several_runs_add_up_and_repeats_add_nothing() {
    let (mut world, mut one, id) = written_off_at(5_000_000);
    for register in [5_500_000, 5_500_000, 6_200_000, 6_100_000, 6_300_000] {
        let now = world.later(MINUTE);
        world.take(0, &mut one, vec![checkpoint(id, reading(now, register))]);
    }
    assert_eq!(adjusted_mwh(&world, id), 1_300_000);
    let numbers: Vec<u32> = world.adjustments(id).list.iter().map(|a| a.n).collect();
    assert_eq!(numbers, [1, 2, 3]);
    // The repeat and the fall are neither applied nor dropped.
    assert_eq!(world.spool(&one).quarantined, 2);
    assert_eq!(world.evidence().len(), 2);
}

#[test]
fn a_late_register_that_went_over_its_end_adds_what_it_counted() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let begun = started(id, reading(T0, 999_999_500_000));
    world.take(0, &mut one, vec![accepted(id), begun]);
    world.ask(0, &write_off("w", id)).done();
    let now = world.later(10 * MINUTE);
    world.take(0, &mut one, vec![checkpoint(id, reading(now, 700_000))]);
    assert_eq!(adjusted_mwh(&world, id), 500_000 + 700_000);
    let now = world.later(MINUTE);
    world.take(0, &mut one, vec![checkpoint(id, reading(now, 800_000))]);
    assert_eq!(adjusted_mwh(&world, id), 1_300_000);
}

#[test]
fn a_late_register_that_is_odd_is_quarantined_and_not_billed() {
    let (mut world, mut one, id) = written_off_at(5_000_000);
    let now = world.now;
    world.take(0, &mut one, vec![checkpoint(id, reading(now, 900_000_000))]);
    assert!(world.adjustments(id).list.is_empty());
    assert_eq!(
        world.evidence()[0].why,
        "the session had ended; register_jumped"
    );
}

#[test]
fn a_late_reading_of_another_meter_counts_from_where_that_meter_began() {
    let (mut world, mut one, id) = written_off_at(5_000_000);
    let now = world.now;
    let replaced = |register| {
        let mut reading = reading(now, register);
        reading.meter_id = "M2".into();
        reading
    };
    world.take(0, &mut one, vec![checkpoint(id, replaced(70_000_000))]);
    world.take(0, &mut one, vec![ended(id, Some(replaced(71_000_000)))]);
    // Where the other meter began is remembered, although nothing is owed for it yet.
    assert_eq!(adjusted_mwh(&world, id), 1_000_000);
}

#[test]
fn what_was_written_off_before_central_saw_energy_owes_its_start_and_its_energy() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let odd = terms().with(PriceComponent::StartFee, "0.125".parse().unwrap());
    world.ask(0, &set_tariff("t", "odd", TariffScope::Default, odd));
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.ask(0, &write_off("w", id)).done();
    assert_eq!(world.receipt(id).total.to_string(), "0.00");
    world.later(HOUR);
    let now = world.now;
    world.take(
        0,
        &mut one,
        vec![
            accepted(id),
            started(id, reading(T0, 1_000_000)),
            checkpoint(id, reading(T0, 1_009_999)),
        ],
    );
    // So little is no start.
    world.take(0, &mut one, vec![checkpoint(id, reading(now, 1_010_000))]);
    world.take(0, &mut one, vec![ended(id, Some(reading(now, 2_000_000)))]);
    let lines: Vec<_> = world
        .adjustments(id)
        .list
        .iter()
        .map(|a| (a.energy_mwh, a.amount.to_string(), a.total.to_string()))
        .collect();
    assert_eq!(
        lines,
        [
            (9_999, "0.00".to_owned(), "0.00".to_owned()),
            (1, "0.13".to_owned(), "0.13".to_owned()),
            (990_000, "0.49".to_owned(), "0.62".to_owned()),
        ]
    );
    assert_eq!(
        world.spool(&one).quarantined,
        1,
        "its acceptance adds nothing"
    );
    assert!(world.connector("CP-1").standing_stops.is_empty());
}

#[test]
fn an_operators_correction_and_a_late_record_both_stand() {
    let (mut world, mut one, id) = written_off_at(5_000_000);
    let goodwill = op(
        "a",
        central_core::decide::Wish::Adjust {
            session: id,
            amount: "-1.00".parse().unwrap(),
            reason: "goodwill".into(),
        },
    )
    .expiring(world.now.plus_ms(SECOND));
    let now = world.now;
    let record = one.record(now, ended(id, Some(reading(now, 6_000_000))));
    let run = one.run(vec![record]);
    let frames = [
        world.cut(0, &[goodwill.command()]),
        world.cut(1, std::slice::from_ref(&run)),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(
        world.commit(&frames[1]),
        [false],
        "both number the same adjustment"
    );
    assert!(world.run(1, &run));
    let totals: Vec<_> = world
        .adjustments(id)
        .list
        .iter()
        .map(|a| (a.n, a.total.to_string()))
        .collect();
    assert_eq!(totals, [(1, "1.96".to_owned()), (2, "2.45".to_owned())]);
}

#[test]
fn nothing_that_comes_late_changes_what_has_ended() {
    let (mut world, mut one, mut two) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let now = world.now;
    world.take(0, &mut one, vec![ended(id, Some(reading(now, 2_000_000)))]);
    world.catch_up_all();
    let ended_as = world.state(0).session(id).unwrap().clone();
    for round in 0..3_u64 {
        let now = world.later(MINUTE);
        let register = 2_000_000 + round * 50_000;
        world.take(
            0,
            &mut one,
            vec![
                accepted(id),
                opened(id, Some("mallory")),
                started(id, reading(now, register)),
                phase(id, Phase::Charging, Some(reading(now, register))),
                phase(id, Phase::Failed, None),
                checkpoint(id, reading(now, register + 10_000)),
                energy_ended(id, Some(reading(now, register + 20_000))),
                ended(id, Some(reading(now, 0))),
                ended(id, None),
            ],
        );
        world.take(0, &mut two, vec![ended(id, Some(reading(now, 99)))]);
        for verb in [Verb::Start, Verb::Stop] {
            for outcome in Outcome::ALL {
                world.answered(&one, verb, id, Got::outcome(*outcome));
            }
        }
        world.run(1, &central_core::decide::Command::Release(id));
        for (n, asking) in [
            stop("alice", "x", id),
            write_off("x", id),
            op(
                "y",
                central_core::decide::Wish::End {
                    session: id,
                    reason: "again".into(),
                    write_off: false,
                },
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let mut asking = asking.expiring(world.now);
            asking.id = request_id(&format!("x{round}-{n}"));
            world.ask(1, &asking).code();
        }
        world.catch_up_all();
        assert_eq!(*world.state(0).session(id).unwrap(), ended_as);
        // Everything lies in quarantine or is on an adjustment.
        let spool = world.spool(&one);
        assert_eq!(spool.next, 4 + 9 * (round + 1));
    }
    assert_eq!(adjusted_mwh(&world, id), 120_000);
    assert_eq!(world.connector("CP-1").receipts, 1);
    assert_eq!(
        world.driver("mallory"),
        central_core::model::Driver::default()
    );
}
