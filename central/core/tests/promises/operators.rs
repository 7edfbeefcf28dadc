//! What operators change.

use central_core::{decide::Wish, effects::service_order, model::Answer};
use ev_contract::{
    codes::Code,
    connector::Service,
    ids::{ConnectorId, SessionId, SiteId},
    v1::{IdleFrom, PriceComponent, TariffElement, TariffScope},
};

use crate::harness::*;

fn service(id: &str, connector: Option<i64>, serve: bool) -> Asking {
    op(
        id,
        Wish::Service {
            cp: cp_id("CP-1"),
            connector,
            serve,
        },
    )
}

fn adjust(id: &str, session: SessionId, amount: &str, reason: &str) -> Asking {
    op(
        id,
        Wish::Adjust {
            session,
            amount: amount.parse().unwrap(),
            reason: reason.into(),
        },
    )
}

#[test]
fn each_change_of_service_is_a_revision_and_a_repeated_wish_is_none() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let revision = |world: &World| world.connector("CP-1").service_revision;
    world.ask(0, &service("a", None, false)).done();
    world.ask(0, &service("b", None, false)).done();
    assert_eq!(revision(&world), 1);
    world.ask(0, &service("a", None, false)).done();
    assert_eq!(revision(&world), 1);
    world.ask(0, &service("c", Some(1), true)).done();
    assert_eq!(revision(&world), 2);
    // The order stands until a report obeys the newest revision.
    let order = |world: &World| {
        service_order(
            &cp_id("CP-1"),
            ConnectorId(1),
            &world.connector("CP-1"),
            BOOT,
            T0,
        )
    };
    assert_eq!(
        order(&world).map(|o| (o.revision, o.service)),
        Some((2, Service::In))
    );
    let report = |revision, service| {
        Report {
            revision,
            service,
            ..Report::default()
        }
        .fact()
    };
    world.take(0, &mut one, vec![report(1, Service::Out)]);
    assert!(order(&world).is_some(), "that was the older one");
    world.ask(0, &start("alice", "r1", "CP-1")).session();
    world.take(0, &mut one, vec![report(2, Service::In)]);
    assert_eq!(order(&world), None);
    assert_eq!(
        world.ask(0, &service("d", Some(9), false)).code(),
        Code::UnknownConnector
    );
}

#[test]
fn taking_a_charge_point_out_leaves_its_session_and_keeps_others_away() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.ask(0, &service("a", None, false)).done();
    assert!(!world.session(id).is_ended());
    assert!(world.session(id).stop.is_none());
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    assert_eq!(
        world.ask(0, &start("bob", "r1", "CP-1")).code(),
        Code::OutOfService
    );
    world.ask(0, &service("b", None, true)).done();
    world.ask(0, &start("bob", "r2", "CP-1")).session();
}

#[test]
fn two_operators_at_once_make_two_revisions() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let (one, other) = (service("a", None, false), {
        let mut asking = service("b", None, false);
        asking.asker = central_core::keys::Asker::Operator("otto".parse().unwrap());
        asking
    });
    let frames = [
        world.cut(0, &[one.command()]),
        world.cut(1, &[other.command()]),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    world.ask(1, &other).done();
    world.catch_up_all();
    assert_eq!(
        world.connector("CP-1").service_revision,
        1,
        "the second found it done"
    );
}

#[test]
fn an_adjustment_is_bounded_reasoned_numbered_and_leaves_the_receipt() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    assert_eq!(
        world.ask(0, &adjust("a0", id, "1", "x")).code(),
        Code::SessionOpen
    );
    world.later(HOUR);
    world.take(
        0,
        &mut one,
        vec![ended(id, Some(reading(world_now(), 11_000_000)))],
    );
    let receipt = world.receipt(id);
    assert_eq!(receipt.total.to_string(), "5.90");

    let stale = adjust("a1", id, "-5.90", "goodwill").expiring(world.now.plus_ms(SECOND));
    for (n, (amount, reason, code)) in [
        ("0", "x", Code::AmountInvalid),
        ("0.001", "x", Code::AmountInvalid),
        ("-5.91", "x", Code::AmountInvalid),
        ("1", " ", Code::ReasonRequired),
    ]
    .into_iter()
    .enumerate()
    {
        let asking = adjust(&format!("n{n}"), id, amount, reason).expiring(world.now);
        assert_eq!(world.ask(0, &asking).code(), code, "{amount} {reason:?}");
    }
    let nobodys = world.session_id();
    let asking = adjust("n9", nobodys, "1", "x").expiring(world.now);
    assert_eq!(world.ask(0, &asking).code(), Code::SessionNotFound);

    world.ask(0, &stale).done();
    world.ask(0, &stale).done();
    let up = adjust("a2", id, "2.5", "parked in the way").expiring(world.now);
    world.ask(0, &up).done();
    let too_much = adjust("a3", id, "-2.51", "x").expiring(world.now);
    assert_eq!(world.ask(0, &too_much).code(), Code::AmountInvalid);

    let list = world.adjustments(id).list;
    let lines: Vec<_> = list
        .iter()
        .map(|a| {
            (
                a.number.as_str(),
                a.by.as_str(),
                a.amount.to_string(),
                a.total.to_string(),
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            (
                "CP-1-1-000001-A1",
                "olga",
                "-5.90".to_owned(),
                "0.00".to_owned()
            ),
            (
                "CP-1-1-000001-A2",
                "olga",
                "2.50".to_owned(),
                "2.50".to_owned()
            ),
        ]
    );
    assert_eq!(world.receipt(id), receipt);

    fn world_now() -> ev_contract::time::UnixMs {
        T0.plus_ms(HOUR)
    }
}

#[test]
fn two_adjustments_at_once_cannot_take_the_total_below_zero() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_010_000)))]);
    assert_eq!(world.receipt(id).total.to_string(), "1.00");
    let (a, b) = (adjust("a", id, "-0.60", "x"), adjust("b", id, "-0.60", "x"));
    let frames = [world.cut(0, &[a.command()]), world.cut(1, &[b.command()])];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    assert_eq!(world.ask(1, &b).code(), Code::AmountInvalid);
}

#[test]
fn a_block_keeps_from_starting_until_it_is_lifted() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let block = |id: &str, reason: &str| {
        op(
            id,
            Wish::Block {
                driver: driver("alice"),
                reason: reason.into(),
            },
        )
    };
    assert_eq!(world.ask(0, &block("b0", "")).code(), Code::ReasonRequired);
    world.ask(0, &block("b1", "unpaid")).done();
    assert!(!world.session(id).is_ended(), "a running session goes on");
    world.ask(0, &stop("alice", "s1", id)).session();
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    assert_eq!(
        world.ask(0, &start("alice", "r2", "CP-1")).code(),
        Code::DriverBlocked
    );
    world
        .ask(
            0,
            &op(
                "u1",
                Wish::Unblock {
                    driver: driver("alice"),
                },
            ),
        )
        .done();
    world.ask(0, &start("alice", "r3", "CP-1")).session();
}

#[test]
fn a_block_and_a_start_at_once_are_one_after_the_other() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let block = op(
        "b",
        Wish::Block {
            driver: driver("alice"),
            reason: "x".into(),
        },
    );
    let asking = start("alice", "r1", "CP-1");
    let frames = [
        world.cut(0, &[block.command()]),
        world.cut(1, &[asking.command()]),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    assert_eq!(world.ask(1, &asking).code(), Code::DriverBlocked);
}

#[test]
fn a_tariff_and_a_start_at_once_agree_on_the_price() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let dear = terms().with(PriceComponent::Energy, "0.99".parse().unwrap());
    // Nothing was set for the charge point: that too is expected to stand.
    let scope = TariffScope::ChargePoint(cp_id("CP-1"));
    let set = set_tariff("t", "dear", scope, dear);
    let asking = start("alice", "r1", "CP-1");
    let frames = [
        world.cut(0, &[set.command()]),
        world.cut(1, &[asking.command()]),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    let id = world.ask(1, &asking).session();
    world.catch_up_all();
    assert_eq!(world.session(id).tariff.tariff_id.as_str(), "dear");
}

trait WithMax {
    fn with_max(self, max: &str) -> Self;
}

impl WithMax for ev_contract::v1::TariffTerms {
    fn with_max(mut self, max: &str) -> Self {
        self.max_price = Some(max.parse().unwrap());
        self
    }
}

#[test]
fn tariffs_that_make_no_sense_are_refused() {
    let (mut world, ..) = World::with_charge_points(1);
    let with = |change: fn(&mut ev_contract::v1::TariffTerms)| {
        let mut terms = terms();
        change(&mut terms);
        terms
    };
    for (n, terms) in [
        terms().with(PriceComponent::Energy, "-0.01".parse().unwrap()),
        terms().with(PriceComponent::Energy, "100000.01".parse().unwrap()),
        terms().with(PriceComponent::StartFee, "-1".parse().unwrap()),
        terms().with(PriceComponent::Minimum, "1".parse().unwrap()),
        terms().taxed("city", "100.5".parse().unwrap()),
        terms().taxed("city", "-1".parse().unwrap()),
        terms().taxed(" ", "1".parse().unwrap()),
        terms().taxed("VAT", "1".parse().unwrap()),
        with(|t| t.elements.push(TariffElement::default())),
        with(|t| {
            let night = ("start_time".to_owned(), "22:00".into());
            t.elements[0].restrictions.extend([night]);
        }),
        with(|t| {
            let twice = t.elements[0].price_components[0];
            t.elements[0].price_components.push(twice);
        }),
        with(|t| t.idle = None),
        with(|t| t.idle.as_mut().unwrap().cap = "1.005".parse().unwrap()),
        with(|t| t.idle.as_mut().unwrap().from = IdleFrom::WithoutPowerS(86_401)),
        with(|t| t.max_price = Some("10.001".parse().unwrap())),
        with(|t| t.currency = "JPY".parse().unwrap()).with_max("10.5"),
        with(|t| t.min_price = Some("-1".parse().unwrap())),
        with(|t| t.min_price = Some("9".parse().unwrap())).with_max("8"),
        with(|t| t.start_fee_min_wh = 1_001),
        with(|t| t.idle.as_mut().unwrap().grace_s = 86_401),
        with(|t| t.idle.as_mut().unwrap().cap = "-1".parse().unwrap()),
    ]
    .into_iter()
    .enumerate()
    {
        let asking = set_tariff(&format!("bad{n}"), "bad", TariffScope::Default, terms);
        assert_eq!(
            world.ask(0, &asking).code(),
            Code::TariffInvalid,
            "{asking:?}"
        );
    }
    let nowhere = TariffScope::ChargePoint(cp_id("CP-9"));
    let asking = set_tariff("t9", "bad", nowhere, terms());
    assert_eq!(world.ask(0, &asking).code(), Code::UnknownChargePoint);
    let site = TariffScope::Site(SiteId::new("hafen").unwrap());
    let told = world.ask(0, &set_tariff("t10", "day", site, terms()));
    assert_eq!(told.done(), "day version 2");
    let told = world.ask(0, &set_tariff("t10", "day", TariffScope::Default, terms()));
    assert_eq!(told, Told::Reused);
}

#[test]
fn a_one_off_act_names_its_connector() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.connectors = 2;
    world.run(0, &one.sync());
    let unlock = |id: &str, connector| {
        op(
            id,
            Wish::Act {
                cp: cp_id("CP-1"),
                connector,
                act: central_core::decide::Act::Unlock,
            },
        )
    };
    assert_eq!(
        world.ask(0, &unlock("a", None)).code(),
        Code::ConnectorRequired
    );
    assert_eq!(
        world.ask(0, &unlock("b", Some(3))).code(),
        Code::UnknownConnector
    );
    assert_eq!(world.ask(0, &unlock("c", Some(2))).done(), "unlock CP-1/2");
}

#[test]
fn writing_off_ends_with_the_last_known_reading_and_charges_no_standing() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let at = world.now;
    world.take(
        0,
        &mut one,
        vec![energy_ended(id, Some(reading(at, 11_000_000)))],
    );
    world.later(5 * HOUR);
    let asking = write_off("w", id).expiring(world.now);
    match world.ask(0, &asking) {
        Told::Answer(Answer::Done { session, .. }) => assert_eq!(session, Some(id)),
        other => panic!("{other:?}"),
    }
    let receipt = world.receipt(id);
    assert_eq!(receipt.total.to_string(), "5.90");
    assert_eq!((receipt.idle_s, receipt.ended_at), (0, at));
    assert!(receipt.flags.contains(&ev_contract::v1::Flag::WrittenOff));
    let again = write_off("w2", id).expiring(world.now);
    assert_eq!(world.ask(0, &again).code(), Code::SessionEnded);
}
