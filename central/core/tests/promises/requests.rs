//! Starting: who gets a session, who does not, and why.

use central_core::{
    decide::{Unrecorded, Wish},
    effects::{Order, order},
    model::Answer,
};
use ev_contract::{
    codes::Code,
    connector::{FaultEffect, Service},
    ids::ConnectorId,
    limits::{CLOCK_TOLERANCE_MS, REQUEST_LIFE_MS_MAX},
    v1::{LimitsRequest, PriceComponent, Reach, TariffScope},
};

use crate::harness::*;

#[test]
fn an_accepted_start_is_in_the_state_of_every_replica() {
    let (mut world, ..) = World::with_charge_points(3);
    let told = world.ask(1, &start("alice", "r1", "CP-1"));
    let id = told.session();
    world.catch_up_all();
    for replica in 0..3 {
        let session = &world.state(replica).session(id).unwrap().value;
        assert_eq!(session.driver, Some(driver("alice")));
        assert_eq!(session.epoch, epoch("e1"));
        assert_eq!(session.tariff.version, 1);
        assert!(!session.is_ended());
    }
    assert!(world.connector("CP-1").open.contains(&id));
    assert!(world.driver("alice").open.contains(&id));
}

#[test]
fn a_start_command_keeps_the_deadline_of_its_ledger_record() {
    let (mut world, ..) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    for wait in [0, HOUR] {
        match order(world.session(id), BOOT, T0.plus_ms(wait)) {
            Some(Order::Start(command)) => {
                assert_eq!(command.expires_at, T0.plus_ms(REQUEST_LIFE_MS_MAX));
                assert_eq!(command.session_id, id);
                assert_eq!(command.epoch, epoch("e1"));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Prepares a world in which a start must be refused.
type Before = fn(&mut World, &mut Cabinet);
/// What it is about, what was before, what is asked, and the code; none when nothing is decided.
type Row<'a> = (
    &'a str,
    &'a dyn Fn(&mut World, &mut Cabinet),
    Asking,
    Option<Code>,
);

#[test]
fn every_refusal_has_its_code_and_is_recorded() {
    fn nothing(_: &mut World, _: &mut Cabinet) {}
    let limits = |energy_wh, time_s, cost: Option<&str>, currency: Option<&str>| LimitsRequest {
        energy_wh,
        time_s,
        cost: cost.map(str::to_owned),
        currency: currency.map(str::to_owned),
    };
    let alice = || start("alice", "r1", "CP-1");
    let limited = |asked| alice().limited(asked);
    let report = |report: Report| {
        move |world: &mut World, cabinet: &mut Cabinet| {
            assert!(world.take(0, cabinet, vec![report.clone().fact()]));
        }
    };
    let fault = |effect| {
        report(Report {
            fault: Some(effect),
            ..Report::default()
        })
    };
    let (suspends, ended, odd) = (
        fault(FaultEffect::Suspends),
        fault(FaultEffect::Ended),
        fault(FaultEffect::Unrecognised),
    );
    let charger_gone = report(Report {
        charger_online: false,
        ..Report::default()
    });
    let (out, out_after) = (
        report(Report {
            service: Service::Out,
            ..Report::default()
        }),
        report(Report {
            service: Service::OutAfterSession,
            ..Report::default()
        }),
    );
    let occupied: Before = |world, _| {
        world.ask(0, &start("bob", "b1", "CP-1")).session();
    };
    let by_you: Before = |world, _| {
        world.ask(0, &start("alice", "a0", "CP-1")).session();
    };
    let elsewhere: Before = |world, _| {
        world.ask(0, &start("alice", "a0", "CP-2")).session();
    };
    let blocked: Before = |world, _| {
        let wish = Wish::Block {
            driver: driver("alice"),
            reason: "unpaid".into(),
        };
        world.ask(0, &op("block", wish));
    };
    let disabled: Before = |world, _| {
        let wish = Wish::Service {
            cp: cp_id("CP-1"),
            connector: None,
            serve: false,
        };
        world.ask(0, &op("disable", wish));
    };
    let two_connectors: Before = |world, cabinet| {
        cabinet.connectors = 2;
        assert!(world.run(0, &cabinet.sync()));
    };
    let forgotten: Before = |world, _| {
        let forget = central_core::frame::Forget {
            horizon: central_core::model::Horizon {
                until: T0.plus_ms(20 * SECOND),
            },
            others_until: T0,
            before: 0,
            sessions: Vec::new(),
        };
        assert!(world.run(0, &central_core::decide::Command::Forget(forget)));
    };

    let table: Vec<Row<'_>> = vec![
        (
            "no such charge point",
            &nothing,
            start("alice", "r1", "CP-9"),
            Some(Code::UnknownChargePoint),
        ),
        (
            "no such connector",
            &nothing,
            alice().at_connector(2),
            Some(Code::UnknownConnector),
        ),
        (
            "connector 0",
            &nothing,
            alice().at_connector(0),
            Some(Code::UnknownConnector),
        ),
        (
            "connector -1",
            &nothing,
            alice().at_connector(-1),
            Some(Code::UnknownConnector),
        ),
        (
            "connector 65537, which is 1 in 16 bits",
            &nothing,
            alice().at_connector(65_537),
            Some(Code::UnknownConnector),
        ),
        (
            "two connectors, none named",
            &two_connectors,
            alice(),
            Some(Code::ConnectorRequired),
        ),
        (
            "agent offline",
            &nothing,
            alice().reaching(Reach::Offline),
            Some(Code::ChargePointOffline),
        ),
        (
            "charger offline",
            &charger_gone,
            alice(),
            Some(Code::ChargerOffline),
        ),
        (
            "a fault that suspends",
            &suspends,
            alice(),
            Some(Code::Faulted),
        ),
        (
            "a fault that ended a session",
            &ended,
            alice(),
            Some(Code::Faulted),
        ),
        (
            "a fault of an unknown kind",
            &odd,
            alice(),
            Some(Code::Faulted),
        ),
        (
            "taken out by the operator",
            &disabled,
            alice(),
            Some(Code::OutOfService),
        ),
        (
            "taken out on the spot",
            &out,
            alice(),
            Some(Code::OutOfService),
        ),
        (
            "going out on the spot",
            &out_after,
            alice(),
            Some(Code::OutOfService),
        ),
        (
            "another's session",
            &occupied,
            alice(),
            Some(Code::Occupied),
        ),
        (
            "own session there",
            &by_you,
            alice(),
            Some(Code::OccupiedByYou),
        ),
        (
            "own session elsewhere",
            &elsewhere,
            alice(),
            Some(Code::LimitReached),
        ),
        ("blocked", &blocked, alice(), Some(Code::DriverBlocked)),
        (
            "no energy",
            &nothing,
            limited(limits(Some(0), None, None, None)),
            Some(Code::LimitInvalid),
        ),
        (
            "negative energy",
            &nothing,
            limited(limits(Some(-1), None, None, None)),
            Some(Code::LimitInvalid),
        ),
        (
            "energy beyond 64 bits of mWh",
            &nothing,
            limited(limits(Some(i64::MAX), None, None, None)),
            Some(Code::LimitInvalid),
        ),
        (
            "no time",
            &nothing,
            limited(limits(None, Some(0), None, None)),
            Some(Code::LimitInvalid),
        ),
        (
            "negative time",
            &nothing,
            limited(limits(None, Some(i64::MIN), None, None)),
            Some(Code::LimitInvalid),
        ),
        (
            "time beyond 32 bits",
            &nothing,
            limited(limits(None, Some(1 << 33), None, None)),
            Some(Code::LimitInvalid),
        ),
        (
            "no cost",
            &nothing,
            limited(limits(None, None, Some("0"), None)),
            Some(Code::LimitInvalid),
        ),
        (
            "negative cost",
            &nothing,
            limited(limits(None, None, Some("-3"), None)),
            Some(Code::LimitInvalid),
        ),
        (
            "cost that is no number",
            &nothing,
            limited(limits(None, None, Some("ten"), None)),
            Some(Code::LimitInvalid),
        ),
        (
            "cost too large",
            &nothing,
            limited(limits(None, None, Some("99999999999"), None)),
            Some(Code::LimitInvalid),
        ),
        (
            "cost of the fee alone",
            &nothing,
            limited(limits(None, None, Some("1.00"), None)),
            Some(Code::LimitBelowFee),
        ),
        (
            "cost below the fee",
            &nothing,
            limited(limits(None, None, Some("0.99"), None)),
            Some(Code::LimitBelowFee),
        ),
        (
            "dollars",
            &nothing,
            limited(limits(None, None, Some("10"), Some("USD"))),
            Some(Code::CurrencyMismatch),
        ),
        (
            "expired",
            &nothing,
            alice().expiring(T0.plus_ms(-1)),
            Some(Code::Expired),
        ),
        (
            "expiry too far",
            &nothing,
            alice().expiring(T0.plus_ms(REQUEST_LIFE_MS_MAX + CLOCK_TOLERANCE_MS + 1)),
            Some(Code::ExpiryTooFar),
        ),
        (
            "expiry at the end of time",
            &nothing,
            alice().expiring(ev_contract::time::UnixMs(i64::MAX)),
            Some(Code::ExpiryTooFar),
        ),
        ("forgotten", &forgotten, alice(), None),
    ];
    for (what, before, asking, code) in table {
        let (mut world, mut one, _) = World::with_charge_points(2);
        before(&mut world, &mut one);
        world.catch_up_all();
        let length = world.ledger.len();
        let told = world.ask(1, &asking);
        match code {
            Some(code) => {
                assert_eq!(told.code(), code, "{what}");
                assert_eq!(world.ledger.len(), length + 1, "{what}: recorded");
                world.catch_up_all();
                assert_eq!(world.told(0, &asking), Some(told), "{what}: everywhere");
            }
            None => {
                assert_eq!(told, Told::Forgotten, "{what}");
                assert_eq!(world.ledger.len(), length, "{what}: nothing to record");
            }
        }
    }
}

#[test]
fn what_refuses_one_start_does_not_refuse_the_next_when_it_is_gone() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    for (n, effect) in [FaultEffect::Suspends, FaultEffect::Ended]
        .into_iter()
        .enumerate()
    {
        let broken = Report {
            fault: Some(effect),
            ..Report::default()
        };
        world.take(0, &mut one, vec![broken.fact()]);
        let asking = start("alice", &format!("r{n}"), "CP-1");
        assert_eq!(world.ask(0, &asking).code(), Code::Faulted);
        world.take(0, &mut one, vec![Report::default().fact()]);
        // Its answer is its answer, also when it would be another by now.
        assert_eq!(world.ask(0, &asking).code(), Code::Faulted);
    }
    let warning = Report {
        fault: Some(FaultEffect::Warning),
        ..Report::default()
    };
    world.take(0, &mut one, vec![warning.fact()]);
    world.ask(0, &start("alice", "last", "CP-1")).session();
}

#[test]
fn limits_that_can_be_kept_reach_the_charge_point() {
    let (mut world, ..) = World::with_charge_points(1);
    let asking = start("alice", "r1", "CP-1").limited(LimitsRequest {
        energy_wh: Some(20_000),
        time_s: Some(1_800),
        cost: Some("5.90".into()),
        currency: Some("EUR".into()),
    });
    let id = world.ask(0, &asking).session();
    let limits = world.session(id).limits;
    // 4.90 for energy at 0.49 a kWh.
    assert_eq!(limits.energy_mwh, Some(ev_contract::units::Mwh(10_000_000)));
    assert!(limits.energy_from_cost);
    assert_eq!(limits.time_s, Some(1_800));
}

#[test]
fn the_same_request_to_two_replicas_at_once_is_one_session_and_one_answer() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let asking = start("alice", "r1", "CP-1");
    let frames = [
        world.cut(0, &[asking.command()]),
        world.cut(1, &[asking.command()]),
    ];
    for frame in &frames {
        world.append(frame);
    }
    world.catch_up_all();
    let told = [world.ask(0, &asking), world.ask(1, &asking)];
    assert_eq!(told[0], told[1]);
    assert_eq!(world.state(0).open_sessions().count(), 1);
    // And after a restart.
    assert_eq!(*replay(&world.ledger).state(), *world.state(0));
}

#[test]
fn a_repeat_by_another_route_and_another_view_of_the_network_is_the_same_request() {
    let (mut world, ..) = World::with_charge_points(2);
    let first = world.ask(0, &start("alice", "r1", "CP-1"));
    let again = start("alice", "r1", "CP-1").reaching(Reach::Offline);
    world.later(HOUR);
    assert_eq!(world.ask(1, &again), first);
}

#[test]
fn the_same_id_with_another_content_is_refused_and_changes_nothing() {
    let (mut world, ..) = World::with_charge_points(2);
    world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.catch_up_all();
    let others = [
        start("alice", "r1", "CP-2"),
        start("alice", "r1", "CP-1").at_connector(1),
        start("alice", "r1", "CP-1").expiring(T0.plus_ms(21 * SECOND)),
        start("alice", "r1", "CP-1").limited(LimitsRequest {
            energy_wh: Some(1),
            ..LimitsRequest::default()
        }),
        stop(
            "alice",
            "r1",
            world.state(0).open_sessions().next().unwrap().value.id,
        ),
    ];
    let before = world.ledger.len();
    for other in others {
        assert_eq!(world.ask(1, &other), Told::Reused, "{other:?}");
    }
    assert_eq!(world.ledger.len(), before);
}

#[test]
fn the_same_id_with_two_contents_at_two_replicas_at_once_is_one_answer_and_one_refusal() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let (here, there) = (start("alice", "r1", "CP-1"), start("alice", "r1", "CP-2"));
    let frames = [
        world.cut(0, &[here.command()]),
        world.cut(1, &[there.command()]),
    ];
    for frame in &frames {
        world.append(frame);
    }
    world.catch_up_all();
    world.ask(0, &here).session();
    assert_eq!(world.ask(1, &there), Told::Reused);
    assert_eq!(world.state(1).open_sessions().count(), 1);
}

#[test]
fn request_ids_are_each_askers_own() {
    let (mut world, ..) = World::with_charge_points(1);
    let alices = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let bobs = world.ask(0, &start("bob", "r1", "CP-2")).session();
    assert_ne!(alices, bobs);
}

#[test]
fn of_fifty_drivers_at_two_replicas_one_gets_the_connector_and_the_others_hear_occupied() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let askings: Vec<Asking> = (0..50)
        .map(|n| start(&format!("driver-{n}"), "r", "CP-1"))
        .collect();
    // Each replica packs its half into one frame; both frames rest on the same state.
    let (odd, even): (Vec<_>, Vec<_>) = askings.iter().enumerate().partition(|(n, _)| n % 2 == 1);
    let commands = |half: &[(usize, &Asking)]| -> Vec<_> {
        half.iter().map(|(_, asking)| asking.command()).collect()
    };
    let frames = [
        world.cut(0, &commands(&odd)),
        world.cut(1, &commands(&even)),
    ];
    let valid: Vec<_> = frames.iter().map(|frame| world.commit(frame)).collect();
    assert!(
        valid[0].iter().all(|v| *v),
        "the first frame stands as a whole"
    );
    assert!(valid[1].iter().all(|v| !v), "the other as a whole does not");

    let told: Vec<Told> = askings
        .iter()
        .enumerate()
        .map(|(n, asking)| world.ask(n % 2, asking))
        .collect();
    let accepted = told
        .iter()
        .filter(|t| matches!(t, Told::Answer(Answer::Started { .. })))
        .count();
    let occupied = told
        .iter()
        .filter(|t| {
            matches!(
                t,
                Told::Answer(Answer::Refused {
                    code: Code::Occupied,
                    ..
                })
            )
        })
        .count();
    assert_eq!((accepted, occupied), (1, 49));
    // A refusal says nothing of the one who has it.
    for refusal in &told {
        if let Told::Answer(Answer::Refused { session, what, .. }) = refusal {
            assert_eq!((*session, what.as_str()), (None, "CP-1/1"));
        }
    }
}

#[test]
fn one_driver_at_two_charge_points_through_two_stale_replicas_gets_one_session() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let (here, there) = (start("alice", "r1", "CP-1"), start("alice", "r2", "CP-2"));
    let frames = [
        world.cut(0, &[here.command()]),
        world.cut(1, &[there.command()]),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    let id = world.ask(0, &here).session();
    let refusal = world.ask(1, &there);
    assert_eq!(refusal.code(), Code::LimitReached);
    assert!(
        matches!(refusal, Told::Answer(Answer::Refused { session: Some(s), .. }) if s == id),
        "and hears which session is in the way"
    );
}

#[test]
fn a_refusal_from_a_stale_view_does_not_stand() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let bobs = world.charging(&mut one, "bob", "b1");
    world.catch_up_all();
    // Replica 1 does not see that Bob has gone.
    let asking = start("alice", "r1", "CP-1");
    let stale = world.cut(1, &[asking.command()]);
    let last = one.record(T0, ended(bobs, Some(reading(T0, 1_000_000))));
    let frame = world.cut(0, &[one.run(vec![last])]);
    assert_eq!(world.commit(&frame), [true]);
    assert_eq!(world.commit(&stale), [false]);
    assert_eq!(world.told(1, &asking), None);
    world.ask(1, &asking).session();
}

#[test]
fn a_refusal_rests_on_all_that_it_was_decided_on() {
    type Change = fn(&mut World, &mut Cabinet);
    let end: Change = |world, two| {
        let open = world.state(0).open_sessions().next().unwrap().value.id;
        world.take(0, two, vec![ended(open, None)]);
    };
    let unblock: Change = |world, _| {
        let wish = Wish::Unblock {
            driver: driver("alice"),
        };
        world.ask(0, &op("u", wish));
    };
    let enable: Change = |world, _| {
        let wish = Wish::Service {
            cp: cp_id("CP-1"),
            connector: None,
            serve: true,
        };
        world.ask(0, &op("on", wish));
    };
    let stay: Change = |world, two| {
        world.charging(two, "alice", "a0");
    };
    let block: Change = |world, _| {
        let wish = Wish::Block {
            driver: driver("alice"),
            reason: "unpaid".into(),
        };
        world.ask(0, &op("b", wish));
    };
    let disable: Change = |world, _| {
        let wish = Wish::Service {
            cp: cp_id("CP-1"),
            connector: None,
            serve: false,
        };
        world.ask(0, &op("off", wish));
    };
    let widen: Change = |world, _| {
        let mut one = Cabinet::new("CP-1", "e1");
        one.connectors = 2;
        world.run(0, &one.sync());
    };
    for (before, after, code) in [
        (stay, end, Code::LimitReached),
        (block, unblock, Code::DriverBlocked),
        (disable, enable, Code::OutOfService),
        ((|_, _| ()) as Change, widen, Code::UnknownConnector),
    ] {
        let (mut world, _, mut two) = World::with_charge_points(2);
        before(&mut world, &mut two);
        world.catch_up_all();
        let mut asking = start("alice", "r1", "CP-1");
        if code == Code::UnknownConnector {
            asking = asking.at_connector(2);
        }
        let stale = world.cut(1, &[asking.command()]);
        after(&mut world, &mut two);
        assert_eq!(world.commit(&stale), [false], "{code}");
        world.ask(1, &asking).session();

        // Where nothing changed it stands.
        let (mut world, _, mut two) = World::with_charge_points(2);
        before(&mut world, &mut two);
        world.catch_up_all();
        let fresh = world.cut(1, &[asking.command()]);
        assert_eq!(world.commit(&fresh), [true], "{code}");
        assert_eq!(world.ask(0, &asking).code(), code);
    }
}

#[test]
fn a_limit_of_two_sessions_allows_two() {
    let (mut world, ..) = World::with_charge_points(1);
    world.settings.sessions_per_driver = 2;
    let mut three = Cabinet::new("CP-3", "e3");
    three.connectors = 2;
    world.run(0, &three.sync());
    world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.ask(0, &start("alice", "r2", "CP-2")).session();
    let third = start("alice", "r3", "CP-3").at_connector(2);
    assert_eq!(world.ask(0, &third).code(), Code::LimitReached);
    let bobs = start("bob", "r3", "CP-3").at_connector(2);
    match world.ask(0, &bobs) {
        Told::Answer(Answer::Started { connector, .. }) => assert_eq!(connector, ConnectorId(2)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_expired_stays_expired_and_what_was_accepted_stays_accepted() {
    let (mut world, ..) = World::with_charge_points(1);
    let asking = start("alice", "r1", "CP-1");
    let id = world.ask(0, &asking).session();
    world.later(HOUR);
    assert_eq!(world.ask(0, &asking).session(), id);
    let late = start("bob", "r1", "CP-2");
    assert_eq!(world.ask(0, &late).code(), Code::Expired);
    // A clock that goes back does not revive it.
    world.later(-HOUR);
    assert_eq!(world.ask(0, &late).code(), Code::Expired);
}

#[test]
fn the_narrowest_tariff_applies_and_is_pinned() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let energy_price =
        |tariff: &ev_contract::v1::Tariff| tariff.terms.price(PriceComponent::Energy).to_string();
    let price = |text: &str| terms().with(PriceComponent::Energy, text.parse().unwrap());
    let site = ev_contract::ids::SiteId::new("hafen").unwrap();
    let place = Wish::Site {
        cp: cp_id("CP-1"),
        site: site.clone(),
        time_zone: None,
    };
    world.ask(0, &op("place", place)).done();
    let mut last = String::from("0.49");
    for (n, (scope, text)) in [
        (TariffScope::Site(site), "0.39"),
        (TariffScope::ChargePoint(cp_id("CP-1")), "0.29"),
        (TariffScope::Default, "0.99"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = world.charging(&mut one, "alice", &format!("r{n}"));
        assert_eq!(energy_price(&world.session(id).tariff), last);
        world.ask(
            0,
            &set_tariff(&format!("t{n}"), "day", scope.clone(), price(text)),
        );
        // Set while it runs: it keeps what it had.
        world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_050_000)))]);
        assert_eq!(energy_price(&world.receipt(id).tariff), last);
        if scope != TariffScope::Default {
            last = text.to_owned();
        }
    }
    let id = world.charging(&mut one, "alice", "last");
    let tariff = &world.session(id).tariff;
    assert_eq!(energy_price(tariff), "0.29");
    assert_eq!(tariff.version, 3, "each setting is a version of its own");
}

#[test]
fn a_start_at_another_price_than_the_one_that_was_seen_opens_nothing_and_shows_the_new_one() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let scope = TariffScope::Default;
    let price = |text: &str| terms().with(PriceComponent::Energy, text.parse().unwrap());
    world.ask(0, &set_tariff("t1", "day", scope.clone(), price("0.30")));
    let version = |world: &World| {
        let cp = world.state(0).charge_point(&cp_id("CP-1")).unwrap();
        let tariff = central_core::view::tariff_at(
            world.state(0),
            &cp_id("CP-1"),
            Some(&cp.value),
            world.now,
        );
        let tariff = tariff.unwrap();
        (tariff.tariff_id.to_string(), tariff.version)
    };
    let (id, seen) = version(&world);
    assert_eq!(id, "day");
    world.ask(0, &set_tariff("t2", "day", scope, price("0.59")));
    world.catch_up_all();
    // Whatever else is asked for is judged by the price that applies.
    let asking = start("alice", "r1", "CP-1")
        .priced("day", seen)
        .limited(LimitsRequest {
            cost: Some("5".into()),
            currency: Some("USD".into()),
            ..LimitsRequest::default()
        });
    let told = world.ask(1, &asking);
    let Told::Answer(Answer::Refused {
        code,
        what,
        session,
        tariff,
        ..
    }) = &told
    else {
        panic!("{told:?}");
    };
    assert_eq!((*code, *session), (Code::PriceChanged, None), "{what}");
    assert!(
        what.contains("CP-1") && what.contains("day version"),
        "{what}"
    );
    let new = tariff.as_ref().unwrap();
    assert_eq!(new.terms.price(PriceComponent::Energy).to_string(), "0.59");
    world.catch_up_all();
    for replica in 0..2 {
        assert_eq!(world.state(replica).open_sessions().count(), 0);
        assert_eq!(world.told(replica, &asking), Some(told.clone()), "for good");
    }
    assert!(world.connector("CP-1").open.is_empty() && world.driver("alice").open.is_empty());
    // The same id with another price is another request.
    let other = start("alice", "r1", "CP-1").priced("day", new.version);
    assert_ne!(
        other.ask().content,
        start("alice", "r1", "CP-1")
            .priced("day", seen)
            .ask()
            .content
    );
    let id = world
        .ask(0, &start("alice", "r2", "CP-1").priced("day", new.version))
        .session();
    assert_eq!(world.session(id).tariff.version, new.version);
    // Another tariff of the same version is another price.
    let elsewhere = start("bob", "b1", "CP-2").priced("night", new.version);
    assert_eq!(world.ask(0, &elsewhere).code(), Code::PriceChanged);
    world.ask(0, &start("bob", "b2", "CP-2")).session();
}

#[test]
fn a_forgotten_request_is_not_decided() {
    let (mut world, ..) = World::with_charge_points(1);
    let forget = central_core::frame::Forget {
        horizon: central_core::model::Horizon { until: T0 },
        others_until: T0,
        before: 0,
        sessions: Vec::new(),
    };
    world.run(0, &central_core::decide::Command::Forget(forget));
    let asking = start("alice", "r1", "CP-1").expiring(T0);
    let decided = world.decide(0, &asking.command());
    assert!(decided.record.is_none());
    assert_eq!(decided.unrecorded, Some(Unrecorded::Forgotten));
}
