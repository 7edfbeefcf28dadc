//! Stopping, and what a charge point's answers to commands end.

use central_core::{
    decide::{Command, Verb, Wish},
    effects::{Order, order, standing_stop},
    model::{Answer, Stage},
    ripe::{Keep, to_forget, to_release},
};
use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::SessionId,
    limits::CLOCK_TOLERANCE_MS,
    units::Mwh,
    v1::{EndCode, Outcome, Status},
};

use crate::harness::*;

#[test]
fn a_stop_is_accepted_however_often_it_is_asked() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    let first = world.ask(0, &stop("alice", "s1", id));
    assert_eq!(first.session(), id);
    let order_at = world.session(id).stop.clone();
    world.later(SECOND);
    for n in 0..3 {
        assert_eq!(world.ask(1, &stop("alice", "s1", id)), first, "repeated");
        assert_eq!(
            world.ask(n % 2, &stop("alice", &format!("again-{n}"), id)),
            first
        );
    }
    world.catch_up_all();
    assert_eq!(
        world.session(id).stop,
        order_at,
        "the first stop is the stop"
    );
    assert_eq!(world.session(id).phase(), Phase::Stopping);
    assert!(matches!(
        order(world.session(id), BOOT, T0),
        Some(Order::Stop(_))
    ));
}

#[test]
fn no_clock_refuses_a_stop() {
    let end = |id: &str, session, write_off| {
        let wish = Wish::End {
            session,
            reason: "cable damaged".into(),
            write_off,
        };
        op(id, wish)
    };
    let hours = [-49, -2, 0, 2, 49].map(|hours| T0.plus_ms(hours * HOUR));
    let odd = [0, -1, i64::MIN, i64::MAX].map(ev_contract::time::UnixMs);
    for (n, expires_at) in hours.into_iter().chain(odd).enumerate() {
        // What was answered an hour ago may be forgotten, also what comes from a phone that is so
        // far behind.
        for horizon in [None, Some(T0.plus_ms(-HOUR))] {
            let (mut world, mut one, mut two) = World::with_charge_points(2);
            let id = world.charging(&mut one, "alice", "r1");
            let other = world.charging(&mut two, "bob", "r2");
            if let Some(until) = horizon {
                let forget = central_core::frame::Forget {
                    horizon: central_core::model::Horizon { until },
                    others_until: until,
                    before: 0,
                    sessions: Vec::new(),
                };
                assert!(world.run(0, &Command::Forget(forget)));
            }
            world.catch_up_all();
            let stopping = stop("alice", &format!("s{n}"), id).expiring(expires_at);
            let told = world.ask(1, &stopping);
            assert!(
                matches!(told, Told::Answer(Answer::Stopping { .. })),
                "{told:?}"
            );
            assert_eq!(world.ask(1, &stopping), told);
            let ending = end(&format!("e{n}"), other, false).expiring(expires_at);
            assert!(world.ask(0, &ending).session() == other);
            // A write-off is more than a stop.
            let off = end(&format!("w{n}"), other, true).expiring(expires_at);
            let told = world.ask(0, &off);
            let in_time = expires_at == T0;
            assert_eq!(
                in_time,
                matches!(told, Told::Answer(Answer::Done { .. })),
                "{told:?}"
            );
        }
    }
}

#[test]
fn the_answer_to_a_stop_is_kept_as_long_as_any_other_whatever_its_expiry() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let mallory = |name: &str, at| stop("mallory", name, id).expiring(at);
    let stops = [
        mallory("behind", T0.plus_ms(-2 * HOUR)),
        mallory("ahead", T0.plus_ms(2 * HOUR)),
        mallory("never", ev_contract::time::UnixMs(i64::MAX)),
    ];
    for asking in &stops {
        assert_eq!(world.ask(0, asking).code(), Code::SessionNotFound);
    }
    let before = world.state(0).basis().seq;
    let mut forget = |until| {
        let forget = central_core::frame::Forget {
            horizon: central_core::model::Horizon { until },
            others_until: until,
            before,
            sessions: Vec::new(),
        };
        assert!(world.run(0, &Command::Forget(forget)));
        stops
            .iter()
            .map(|s| world.told(0, s).is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(forget(T0.plus_ms(-1)), [true, true, true]);
    assert_eq!(forget(T0), [false, true, true]);
    assert_eq!(forget(T0.plus_ms(30 * SECOND)), [false, false, false]);
}

#[test]
fn a_stop_holds_until_the_charge_point_confirms() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.ask(0, &stop("alice", "s1", id));
    world.later(48 * HOUR);
    let at = world.now;
    // Neither readings nor answers that are no end take it back.
    world.take(0, &mut one, vec![checkpoint(id, reading(at, 1_100_000))]);
    for outcome in [
        Outcome::Taken,
        Outcome::Stopping,
        Outcome::NotYet,
        Outcome::Refused,
    ] {
        world.answered(&one, Verb::Stop, id, Got::outcome(outcome));
        assert!(
            matches!(order(world.session(id), BOOT, at), Some(Order::Stop(_))),
            "{outcome}"
        );
    }
    world.take(0, &mut one, vec![ended(id, Some(reading(at, 1_100_000)))]);
    assert_eq!(order(world.session(id), BOOT, at), None);
}

#[test]
fn foreign_unknown_and_never_issued_ids_get_the_same_plain_refusal() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let nobodys = world.session_id();
    let session_before = world.session(id).clone();
    for (n, asked) in [id, nobodys].into_iter().enumerate() {
        match world.ask(0, &stop("mallory", &format!("s{n}"), asked)) {
            Told::Answer(Answer::Refused {
                code,
                what,
                session,
                cp,
                ..
            }) => {
                assert_eq!(code, Code::SessionNotFound);
                assert_eq!(
                    (what, session, cp),
                    (asked.to_string(), None, String::new())
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(*world.session(id), session_before);
}

#[test]
fn an_ended_session_of_ones_own_is_called_ended_and_anothers_is_not() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    let before = world.session(id).clone();
    assert_eq!(
        world.ask(0, &stop("alice", "s1", id)).code(),
        Code::SessionEnded
    );
    assert_eq!(
        world.ask(0, &stop("bob", "s1", id)).code(),
        Code::SessionNotFound
    );
    assert_eq!(*world.session(id), before);
}

#[test]
fn a_stop_decided_before_the_replica_saw_the_start_does_not_stand() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let frame = world.cut(0, &[start("alice", "r1", "CP-1").command()]);
    let id = match &frame.records[0].writes.iter().find_map(|w| match w {
        central_core::frame::Write::Session(s) => Some(s.id),
        _ => None,
    }) {
        Some(id) => *id,
        None => panic!("no session"),
    };
    // Replica 1 would say that there is no such session.
    let asking = stop("alice", "s1", id);
    let stale = world.cut(1, &[asking.command()]);
    assert_eq!(world.commit(&frame), [true]);
    assert_eq!(world.commit(&stale), [false]);
    assert_eq!(world.ask(1, &asking).session(), id);
}

#[test]
fn a_stop_that_reaches_the_charge_point_first_ends_with_a_receipt_of_zero() {
    let (mut world, one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.ask(0, &stop("alice", "s1", id));
    assert!(world.answered(&one, Verb::Stop, id, Got::outcome(Outcome::Absent)));
    let receipt = world.receipt(id);
    assert_eq!(receipt.status, Status::Failed);
    assert_eq!(receipt.end.code, EndCode::Driver);
    assert_eq!(receipt.total.to_string(), "0.00");
    assert!(receipt.lines.is_empty() && receipt.meters.is_empty());
    assert!(world.driver("alice").open.is_empty());
    assert!(world.connector("CP-1").open.is_empty());
    // The start that comes after all is refused there; nothing is left to do here.
    let late = Got::refused(Code::StoppedBeforeStart);
    assert!(!world.answered(&one, Verb::Start, id, late));
}

#[test]
fn a_refused_start_ends_failed_with_the_charge_points_code() {
    for code in [
        Code::Late,
        Code::OccupiedLocally,
        Code::StorageFailed,
        Code::RejectedByCharger,
    ] {
        let (mut world, one, _) = World::with_charge_points(1);
        let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
        assert!(world.answered(&one, Verb::Start, id, Got::refused(code)));
        let receipt = world.receipt(id);
        assert_eq!(receipt.status, Status::Failed);
        assert_eq!(receipt.end.word(), code.as_str());
        assert_eq!(receipt.total.to_string(), "0.00");
        assert!(world.connector("CP-1").open.is_empty());
        // The driver is free again.
        world.ask(0, &start("alice", "r2", "CP-1")).session();
    }
}

#[test]
fn a_start_refused_because_of_a_stop_ends_as_the_stop_says() {
    let (mut world, one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.ask(0, &stop("alice", "s1", id));
    world.answered(
        &one,
        Verb::Start,
        id,
        Got::refused(Code::StoppedBeforeStart),
    );
    assert_eq!(world.receipt(id).end.code, EndCode::Driver);
}

#[test]
fn another_epoch_ends_nothing() {
    let (mut world, one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.ask(0, &stop("alice", "s1", id));
    let before = world.session(id).clone();
    for (verb, got) in [
        (Verb::Start, Got::refused(Code::WrongEpoch)),
        (
            Verb::Start,
            Got::refused(Code::WrongEpoch).under("new-disk"),
        ),
        (Verb::Start, Got::refused(Code::Late).under("new-disk")),
        (Verb::Stop, Got::outcome(Outcome::Absent).under("new-disk")),
    ] {
        assert!(!world.answered(&one, verb, id, got.clone()), "{got:?}");
        assert_eq!(*world.session(id), before);
    }
}

#[test]
fn answers_that_are_no_final_word_about_an_untaken_session_end_nothing() {
    for (verb, outcome) in [
        (Verb::Start, Outcome::Taken),
        (Verb::Start, Outcome::Ended),
        (Verb::Start, Outcome::Absent),
        (Verb::Start, Outcome::NotYet),
        (Verb::Start, Outcome::Done),
        (Verb::Start, Outcome::Stopping),
        (Verb::Start, Outcome::Unrecognised),
        (Verb::Stop, Outcome::Taken),
        (Verb::Stop, Outcome::Ended),
        (Verb::Stop, Outcome::Stopping),
        (Verb::Stop, Outcome::NotYet),
        (Verb::Stop, Outcome::Refused),
        (Verb::Stop, Outcome::Unrecognised),
    ] {
        let (mut world, one, _) = World::with_charge_points(1);
        let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
        world.ask(0, &stop("alice", "s1", id));
        assert!(
            !world.answered(&one, verb, id, Got::outcome(outcome)),
            "{verb:?} {outcome}"
        );
    }
}

#[test]
fn a_refusal_or_absence_does_not_end_what_was_taken() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.ask(0, &stop("alice", "s1", id));
    assert!(!world.answered(&one, Verb::Start, id, Got::refused(Code::Late)));
    assert!(!world.answered(&one, Verb::Stop, id, Got::outcome(Outcome::Absent)));
    assert!(!world.session(id).is_ended());
}

#[test]
fn another_charge_points_answer_says_nothing() {
    let (mut world, _, two) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let got = Got::refused(Code::Late).under("e1");
    assert!(!world.answered(&two, Verb::Start, id, got));
    assert!(!world.session(id).is_ended());
}

#[test]
fn a_stopped_session_out_of_reach_no_longer_counts_and_is_not_over() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    let release = Command::Release(id);
    assert!(!world.run(0, &release), "not before it is stopped");
    world.ask(0, &stop("alice", "s1", id));
    assert!(world.run(1, &release));
    assert!(!world.run(0, &release), "once");
    assert!(world.driver("alice").open.is_empty());
    assert!(
        world.connector("CP-1").open.contains(&id),
        "the connector is not free"
    );
    assert!(
        matches!(order(world.session(id), BOOT, T0), Some(Order::Stop(_))),
        "the stop stands"
    );

    let other = world.ask(0, &start("alice", "r2", "CP-2")).session();
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    assert!(world.session(id).is_ended());
    assert!(
        world.driver("alice").open.contains(&other),
        "the end of one frees nothing of the other"
    );
    let third = start("alice", "r3", "CP-1");
    assert_eq!(world.ask(0, &third).code(), Code::LimitReached);
}

#[test]
fn what_was_written_off_is_not_forgotten_while_its_stop_stands() {
    const DAY: i64 = 24 * HOUR;
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.ask(0, &write_off("w1", id)).done();
    world.later(31 * DAY);
    let keep = Keep {
        refusals_ms: HOUR,
        answers_ms: 30 * DAY,
        sessions_ms: 30 * DAY,
    };
    let forgets = |world: &World| {
        let forget = to_forget(world.state(0), keep, world.now, |_| true);
        forget.map(|f| f.sessions).unwrap_or_default()
    };
    assert!(forgets(&world).is_empty(), "the stop is made from it");
    assert!(world.answered(&one, Verb::Stop, id, Got::outcome(Outcome::Absent)));
    assert_eq!(forgets(&world), [id]);
}

/// What stops counting when all charge points have been out of reach for so long.
fn released(world: &World, silent_ms: Option<i64>) -> Vec<SessionId> {
    to_release(world.state(0), 3 * MINUTE, world.now, |_| silent_ms)
}

/// After the deadline of a start, by whichever clock.
fn past_the_deadline(world: &World, id: SessionId) -> i64 {
    world.session(id).start_by.ms_since(world.now) + 2 * CLOCK_TOLERANCE_MS + 1
}

#[test]
fn what_was_never_taken_stops_counting_once_its_start_is_over_and_nobody_answers() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.catch_up_all();
    let elsewhere = |id: &str, world: &World| {
        start("alice", id, "CP-2").expiring(world.now.plus_ms(20 * SECOND))
    };
    let asked = elsewhere("r2", &world);
    assert_eq!(world.ask(0, &asked).code(), Code::LimitReached);
    let release = Command::Release(id);
    let wait = past_the_deadline(&world, id);
    world.later(wait - 1);
    assert!(released(&world, Some(HOUR)).is_empty(), "it may take it");
    assert!(!world.run(0, &release));
    world.later(1);
    assert!(released(&world, None).is_empty(), "it can still be asked");
    assert_eq!(released(&world, Some(1)), [id]);
    assert!(world.run(1, &release));
    assert!(!world.run(0, &release), "once");
    assert!(
        world.connector("CP-1").open.contains(&id),
        "it is open, and its connector is not free"
    );
    let asked = elsewhere("r3", &world);
    let other = world.ask(0, &asked).session();

    // It had taken it after all: that is shown and billed, and does not count again.
    world.take(0, &mut one, vec![accepted(id), started(id, reading(T0, 0))]);
    assert_eq!(world.session(id).phase(), Phase::Charging);
    assert!(world.driver("alice").open.iter().eq([&other]));
    let at = world.later(MINUTE);
    world.take(0, &mut one, vec![ended(id, Some(reading(at, 50_000)))]);
    assert_eq!(world.receipt(id).energy_mwh, Mwh(50_000));
    assert!(world.driver("alice").open.iter().eq([&other]));
}

#[test]
fn what_was_taken_counts_until_it_is_stopped_and_its_charge_point_silent_for_minutes() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let charging = world.charging(&mut one, "alice", "r1");
    let taken = world.ask(0, &start("bob", "r1", "CP-2")).session();
    world.take(0, &mut two, vec![accepted(taken)]);
    let at = world.later(HOUR);
    assert!(released(&world, Some(HOUR)).is_empty());
    let asked = stop("alice", "s1", charging).expiring(at.plus_ms(20 * SECOND));
    world.ask(0, &asked);
    world.later(3 * MINUTE);
    assert!(released(&world, Some(HOUR)).is_empty(), "just stopped");
    world.later(1);
    assert!(released(&world, Some(3 * MINUTE)).is_empty(), "just silent");
    assert_eq!(released(&world, Some(3 * MINUTE + 1)), [charging]);
    assert!(!world.run(0, &Command::Release(taken)));
}

#[test]
fn a_replaced_charge_point_never_says_what_became_of_a_session() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let stopped = world.charging(&mut one, "alice", "r1");
    world.ask(0, &stop("alice", "s1", stopped));
    let untaken = world.ask(0, &start("bob", "r1", "CP-2")).session();
    let wait = past_the_deadline(&world, untaken).max(3 * MINUTE + 1);
    world.later(wait);
    assert!(released(&world, None).is_empty());
    for cabinet in [&mut one, &mut two] {
        cabinet.epoch = epoch("new-disk");
        world.run(0, &cabinet.sync());
    }
    let mut both = released(&world, None);
    both.sort_unstable();
    let mut expected = [stopped, untaken];
    expected.sort_unstable();
    assert_eq!(both, expected, "although both are in reach");
}

#[test]
fn an_operators_end_of_a_session_is_a_stop() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let end = |id: &str, session: SessionId, reason: &str| {
        op(
            id,
            Wish::End {
                session,
                reason: reason.into(),
                write_off: false,
            },
        )
    };
    assert_eq!(
        world.ask(0, &end("e0", id, " ")).code(),
        Code::ReasonRequired
    );
    let nobodys = world.session_id();
    assert_eq!(
        world.ask(0, &end("e1", nobodys, "x")).code(),
        Code::SessionNotFound
    );
    world.ask(0, &end("e2", id, "fire drill")).session();
    let stop = world.session(id).stop.clone().unwrap();
    assert_eq!(
        (stop.reason.code, stop.reason.raw.as_deref()),
        (EndCode::Operator, Some("fire drill"))
    );
    assert!(!world.session(id).is_ended());
}

#[test]
fn the_stop_of_what_was_written_off_stands_until_the_charge_point_confirms() {
    for confirmation in [Outcome::Ended, Outcome::Absent] {
        let (mut world, mut one, _) = World::with_charge_points(1);
        let id = world.charging(&mut one, "alice", "r1");
        world.ask(0, &write_off("w1", id)).done();
        assert!(world.session(id).is_ended());
        assert!(world.connector("CP-1").standing_stops.contains(&id));
        assert_eq!(standing_stop(world.session(id), BOOT, T0).session_id, id);
        for outcome in [Outcome::Stopping, Outcome::NotYet, Outcome::Taken] {
            world.answered(&one, Verb::Stop, id, Got::outcome(outcome));
            assert!(
                world.connector("CP-1").standing_stops.contains(&id),
                "{outcome}"
            );
        }
        let before = world.session(id).clone();
        assert!(world.answered(&one, Verb::Stop, id, Got::outcome(confirmation)));
        assert!(world.connector("CP-1").standing_stops.is_empty());
        assert_eq!(*world.session(id), before);
    }
}

#[test]
fn five_hundred_starts_and_stops_in_a_row_over_two_replicas_leave_nothing_behind() {
    let (mut world, one, _) = World::with_charge_points(2);
    for n in 0..500 {
        let id = world
            .ask(n % 2, &start("alice", &format!("r{n}"), "CP-1"))
            .session();
        assert_eq!(
            world
                .ask((n + 1) % 2, &stop("alice", &format!("s{n}"), id))
                .session(),
            id
        );
        assert!(world.answered(&one, Verb::Stop, id, Got::outcome(Outcome::Absent)));
    }
    let state = world.state(0);
    assert_eq!(state.open_sessions().count(), 0);
    assert_eq!(world.connector("CP-1").receipts, 500);
    for (n, session) in state.sessions_oldest_first().enumerate() {
        match &session.stage {
            Stage::Ended { receipt } => assert_eq!(receipt.number, format!("CP-1-1-{:06}", n + 1)),
            open => panic!("{open:?}"),
        }
    }
}
