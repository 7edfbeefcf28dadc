//! What fees are for, and which price applies when.

use central_core::{decide::Wish, view};
use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::{CpId, SessionId, SiteId, TariffId},
    limits::SITE_DEFAULT,
    time::UnixMs,
    v1::{
        EdgeFact, EndCode, EndReason, EndSource, IdleFrom, LimitsRequest, PriceComponent, Reach,
        Reading, TariffScope, TariffTerms, TimeQuality,
    },
};

use crate::harness::*;

fn at(minutes: i64) -> UnixMs {
    T0.plus_ms(minutes * MINUTE)
}

/// 0.10 a minute of standing, from ten minutes without power, the first five free.
fn patient() -> TariffTerms {
    let mut terms = terms();
    if let Some(idle) = &mut terms.idle {
        idle.grace_s = 300;
        idle.from = IdleFrom::WithoutPowerS(600);
    }
    terms
}

fn energy_ended_by(session_id: SessionId, reading: Reading, reason: EndReason) -> EdgeFact {
    EdgeFact::EnergyEnded {
        session_id,
        reading: Some(reading),
        reason,
    }
}

/// A car that charges 10 kWh within an hour.
struct Car {
    world: World,
    one: Cabinet,
    id: SessionId,
    register: u64,
}

impl Car {
    fn charged(terms: TariffTerms) -> Self {
        let (mut world, mut one, _) = World::with_charge_points(1);
        world.ask(0, &set_tariff("t", "t", TariffScope::Default, terms));
        let id = world.charging(&mut one, "alice", "r1");
        let mut car = Self {
            world,
            one,
            id,
            register: 11_000_000,
        };
        car.says(60, Phase::Charging);
        car
    }

    fn reading(&self) -> Reading {
        reading(self.world.now, self.register)
    }

    fn tells(&mut self, minutes: i64, fact: impl FnOnce(SessionId, Reading) -> EdgeFact) {
        self.world.now = at(minutes);
        let fact = fact(self.id, self.reading());
        self.world.take(0, &mut self.one, vec![fact]);
    }

    fn says(&mut self, minutes: i64, is: Phase) {
        self.tells(minutes, |id, reading| phase(id, is, Some(reading)));
    }

    /// A reading at each quarter hour, up to a minute.
    fn stays(&mut self, minutes: i64) {
        let mut next = self.world.now.ms_since(T0) / MINUTE + 15;
        while next <= minutes {
            self.tells(next, checkpoint);
            next += 15;
        }
    }

    fn leaves(mut self, minutes: i64) -> (u32, String) {
        self.tells(minutes, |id, reading| ended(id, Some(reading)));
        let receipt = self.world.receipt(self.id);
        (receipt.idle_s / 60, receipt.total.to_string())
    }

    fn warned_from(&self) -> Option<UnixMs> {
        struct Silent;
        impl view::Heard for Silent {
            fn reach(&self, _: &CpId) -> Reach {
                Reach::Online
            }
            fn last(&self, _: &CpId) -> Option<(&view::Beat, UnixMs)> {
                None
            }
        }
        let entry = self.world.state(0).session(self.id).unwrap();
        let view = view::session(entry, &Silent, self.world.now);
        let update = view::update(entry, self.world.now).unwrap();
        assert_eq!(view.standing_costs_from, update.standing_costs_from);
        view.standing_costs_from
    }
}

/// 10 kWh and a start.
const CHARGED: &str = "5.90";

#[test]
fn a_car_that_is_full_and_stays_pays_though_its_charger_never_ends_the_session() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    car.stays(190);
    // Two hours, ten minutes of patience: 110 minutes, five of them free.
    assert_eq!(car.leaves(190), (110, "16.40".into()));
}

#[test]
fn a_tariff_may_count_from_the_end_of_energy_only() {
    let mut car = Car::charged(terms());
    car.says(70, Phase::SuspendedEv);
    car.stays(190);
    assert_eq!(car.warned_from(), None);
    assert_eq!(car.leaves(190), (0, CHARGED.into()));
}

#[test]
fn standing_pauses_while_power_flows_and_goes_on_after_the_end_of_energy() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    car.stays(100);
    car.says(100, Phase::Charging);
    car.register += 1_000_000;
    car.says(120, Phase::SuspendedEv);
    // Shorter than the patience: no standing.
    car.says(128, Phase::Charging);
    car.says(130, Phase::SuspendedEv);
    car.stays(150);
    car.tells(150, |id, reading| energy_ended(id, Some(reading)));
    car.stays(180);
    // 20 of the first pause, 10 of the last, 30 after the end of energy: 60, of which 55 are paid.
    assert_eq!(car.leaves(180), (60, "11.89".into()));
}

#[test]
fn a_pause_in_which_energy_flows_is_none() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    for minutes in (80..=190).step_by(10) {
        car.register += 50_000;
        car.tells(minutes, checkpoint);
    }
    assert_eq!(car.leaves(190).0, 0);
}

#[test]
fn a_pause_that_the_charger_makes_costs_nothing() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEvse);
    car.stays(190);
    assert_eq!(car.leaves(190), (0, CHARGED.into()));
}

#[test]
fn what_an_unsure_clock_says_of_a_pause_is_not_billed() {
    let unsure = |id, mut reading: Reading| {
        reading.quality = TimeQuality::Unsure;
        checkpoint(id, reading)
    };
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    car.stays(100);
    // A boot: the clock is learned again half an hour later.
    car.tells(115, unsure);
    car.tells(130, checkpoint);
    car.stays(160);
    // 30 - 10 before, 30 - 10 after.
    assert_eq!(car.leaves(160).0, 40);
}

#[test]
fn a_gap_between_readings_is_no_standing() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    car.stays(100);
    // The cabinet was without power for the night.
    car.tells(600, checkpoint);
    assert_eq!(car.leaves(600).0, 20);
}

#[test]
fn standing_after_a_fault_or_an_operators_end_is_free_unless_the_tariff_says_so() {
    let vehicle = EndSource::Vehicle;
    for (code, source, is_paid) in [
        (EndCode::EvStopped, vehicle, true),
        (EndCode::Driver, EndSource::Driver, true),
        (EndCode::EnergyLimit, EndSource::ChargePoint, true),
        (EndCode::Fault, EndSource::Charger, false),
        (EndCode::PowerLoss, EndSource::Charger, false),
        (EndCode::Reset, EndSource::Operator, false),
        (EndCode::Reboot, EndSource::ChargePoint, false),
        (EndCode::Emergency, EndSource::Technician, false),
        (EndCode::Operator, EndSource::Operator, false),
        (EndCode::Local, EndSource::Technician, false),
        (EndCode::Other, EndSource::Charger, false),
    ] {
        for after_fault in [false, true] {
            let mut terms = patient();
            if let Some(idle) = &mut terms.idle {
                idle.after_fault = after_fault;
            }
            let mut car = Car::charged(terms);
            car.tells(60, |id, reading| {
                energy_ended_by(id, reading, EndReason::new(code, source))
            });
            let is_paid = is_paid || after_fault;
            assert_eq!(car.warned_from(), is_paid.then(|| at(65)), "{code}");
            let expected = if is_paid { (60, "11.40") } else { (0, CHARGED) };
            let (stood, total) = car.leaves(120);
            assert_eq!((stood, total.as_str()), expected, "{code} {after_fault}");
        }
    }
}

#[test]
fn a_driver_is_told_from_when_standing_costs() {
    let mut car = Car::charged(patient());
    assert_eq!(car.warned_from(), None);
    car.says(70, Phase::SuspendedEv);
    // Ten minutes without power, five that are free.
    assert_eq!(car.warned_from(), Some(at(85)));
    car.stays(100);
    car.says(100, Phase::Charging);
    assert_eq!(car.warned_from(), None);
    // The free minutes are used up.
    car.says(110, Phase::SuspendedEv);
    assert_eq!(car.warned_from(), Some(at(120)));
    car.tells(111, |id, reading| energy_ended(id, Some(reading)));
    assert_eq!(car.warned_from(), Some(at(111)));
}

#[test]
fn the_cost_that_a_driver_sees_of_a_pause_never_falls() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    let mut last = central_core::pricing::cost_so_far(
        car.world.session(car.id),
        car.world.session(car.id).energy(),
        car.world.now,
    );
    for minutes in [80, 95, 110, 300, 315, 330] {
        car.tells(minutes, checkpoint);
        let session = car.world.session(car.id);
        let cost = central_core::pricing::cost_so_far(session, session.energy(), car.world.now);
        assert!(cost.0 >= last.0, "{minutes}: {cost} after {last}");
        last = cost;
    }
    assert_eq!(last.to_string(), "10.40");
}

#[test]
fn a_pause_stays_open_and_is_paid_up_to_the_cap() {
    let mut car = Car::charged(patient());
    car.says(70, Phase::SuspendedEv);
    car.stays(70 + 24 * 60);
    assert_eq!(car.world.session(car.id).phase(), Phase::SuspendedEv);
    assert_eq!(car.leaves(70 + 24 * 60).1, "17.90");
}

#[test]
fn a_start_without_energy_costs_nothing() {
    for (drawn_mwh, total) in [(0, "0.00"), (9_999, "0.00"), (10_000, "1.00")] {
        let (mut world, mut one, _) = World::with_charge_points(1);
        let id = world.charging(&mut one, "alice", "r1");
        world.later(MINUTE);
        let last = reading(world.now, 1_000_000 + drawn_mwh);
        world.take(0, &mut one, vec![ended(id, Some(last))]);
        assert_eq!(world.receipt(id).total.to_string(), total, "{drawn_mwh}");
    }
}

#[test]
fn late_energy_is_paid_as_if_it_had_come_in_time() {
    let bounded = || {
        let mut terms = terms();
        terms.min_price = Some("3".parse().unwrap());
        terms.max_price = Some("4".parse().unwrap());
        terms.prices_net = true;
        terms
    };
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.ask(0, &set_tariff("t", "t", TariffScope::Default, bounded()));
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let now = world.now;
    let first = checkpoint(id, reading(now, 2_000_000));
    world.take(0, &mut one, vec![first]);
    let asking = write_off("w", id).expiring(now.plus_ms(SECOND));
    world.ask(0, &asking).done();
    // 1.49, the minimum: 3.00 and 19 %.
    assert_eq!(world.receipt(id).total.to_string(), "3.57");
    let now = world.later(HOUR);
    world.take(0, &mut one, vec![checkpoint(id, reading(now, 6_000_000))]);
    let now = world.later(HOUR);
    let last = ended(id, Some(reading(now, 12_000_000)));
    world.take(0, &mut one, vec![last]);
    let totals: Vec<_> = world
        .adjustments(id)
        .list
        .iter()
        .map(|a| (a.amount.to_string(), a.total.to_string()))
        .collect();
    // 1 + 5 * 0.49 = 3.45; then the maximum.
    assert_eq!(
        totals,
        [
            ("0.54".to_owned(), "4.11".to_owned()),
            ("0.65".to_owned(), "4.76".to_owned()),
        ]
    );
}

#[test]
fn adjustments_and_limits_have_the_digits_of_the_currency() {
    let yen = TariffTerms::free("JPY".parse().unwrap())
        .with(PriceComponent::Energy, "60.5".parse().unwrap());
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.ask(0, &set_tariff("t", "t", TariffScope::Default, yen));
    let limited = |id, cost: &str| {
        let mut asking = start("alice", id, "CP-1");
        if let Wish::Start { limits, .. } = &mut asking.wish {
            *limits = LimitsRequest {
                cost: Some(cost.to_owned()),
                ..LimitsRequest::default()
            };
        }
        asking
    };
    let refused = world.ask(0, &limited("r0", "500.5")).code();
    assert_eq!(refused, Code::LimitInvalid);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(HOUR);
    let last = reading(world.now, 4_123_456);
    world.take(0, &mut one, vec![ended(id, Some(last))]);
    assert_eq!(world.receipt(id).total.to_string(), "189");
    let adjust = |id: &str, session, amount: &str, now: UnixMs| {
        let wish = Wish::Adjust {
            session,
            amount: amount.parse().unwrap(),
            reason: "goodwill".into(),
        };
        op(id, wish).expiring(now.plus_ms(SECOND))
    };
    let now = world.now;
    let half = world.ask(0, &adjust("a1", id, "-0.5", now));
    assert_eq!(half.code(), Code::AmountInvalid);
    let told = world.ask(0, &adjust("a2", id, "-9.0", now));
    assert_eq!(told.done(), "the total is 180 JPY");
}

fn scheduled(id: &str, tariff: &str, scope: TariffScope, from: UnixMs, now: UnixMs) -> Asking {
    let wish = Wish::SetTariff {
        tariff: TariffId::new(tariff).unwrap(),
        scope,
        from: Some(from),
        terms: terms(),
    };
    op(id, wish).expiring(now.plus_ms(SECOND))
}

fn removed(id: &str, scope: TariffScope, scheduled_only: bool, now: UnixMs) -> Asking {
    let wish = Wish::RemoveTariff {
        scope,
        scheduled_only,
    };
    op(id, wish).expiring(now.plus_ms(SECOND))
}

fn version_of(world: &World, id: SessionId) -> String {
    let tariff = &world.session(id).tariff;
    format!("{} {}", tariff.tariff_id, tariff.version)
}

/// Starts, looks which tariff it got, and ends.
fn pinned(world: &mut World, one: &mut Cabinet, id: &str) -> String {
    let session = world.charging(one, "alice", id);
    let version = version_of(world, session);
    let last = reading(world.now, 1_000_000);
    world.take(0, one, vec![ended(session, Some(last))]);
    version
}

#[test]
fn a_scheduled_tariff_applies_from_its_time_on() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let here = TariffScope::ChargePoint(cp_id("CP-1"));
    let (first, second) = (at(60), at(120));
    for (id, from) in [("s2", second), ("s1", first)] {
        let asking = scheduled(id, "next", here.clone(), from, T0);
        world.ask(0, &asking).done();
    }
    assert_eq!(pinned(&mut world, &mut one, "a"), "day 1");
    world.now = first.plus_ms(-1);
    assert_eq!(pinned(&mut world, &mut one, "b"), "day 1");
    world.now = first;
    assert_eq!(pinned(&mut world, &mut one, "c"), "next 2");
    // What is set at once does not undo what is still to come.
    let now = world.now;
    let at_once = set_tariff("now", "now", here.clone(), terms()).expiring(now.plus_ms(SECOND));
    assert!(world.ask(0, &at_once).done().contains("next version 1"));
    assert_eq!(pinned(&mut world, &mut one, "d"), "now 1");
    let shown = view::tariffs(world.state(0), world.now);
    let own = shown.iter().find(|at| at.scope == here).unwrap();
    assert_eq!(own.tariff.as_ref().unwrap().tariff_id.as_str(), "now");
    assert_eq!(own.scheduled.len(), 1);
    assert_eq!(own.scheduled[0].from, second);
    world.now = second;
    assert_eq!(pinned(&mut world, &mut one, "e"), "next 1");
    // A clock that is a little behind still has what applied before.
    world.now = second.plus_ms(-2 * SECOND);
    assert_eq!(pinned(&mut world, &mut one, "f"), "now 1");
}

#[test]
fn a_scheduled_tariff_and_a_start_at_once_agree() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let here = TariffScope::ChargePoint(cp_id("CP-1"));
    let set = scheduled("t", "next", here, T0.plus_ms(SECOND), T0);
    let asking = start("alice", "r1", "CP-1");
    let frames = [
        world.cut(0, &[set.command()]),
        world.cut(1, &[asking.command()]),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
    world.now = T0.plus_ms(SECOND);
    let id = world.ask(1, &asking).session();
    world.catch_up_all();
    assert_eq!(version_of(&world, id), "next 1");
}

#[test]
fn a_price_can_be_taken_back_and_the_wider_scope_applies_again() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let here = TariffScope::ChargePoint(cp_id("CP-1"));
    let site = TariffScope::Site(SiteId::new(SITE_DEFAULT).unwrap());
    for (id, name, scope) in [("t1", "own", &here), ("t2", "site", &site)] {
        world.ask(0, &set_tariff(id, name, scope.clone(), terms()));
    }
    let next = scheduled("t3", "own", here.clone(), at(60), T0);
    world.ask(0, &next).done();
    assert_eq!(pinned(&mut world, &mut one, "a"), "own 1");
    let id = world.charging(&mut one, "bob", "running");
    let told = world.ask(0, &removed("x1", here.clone(), true, T0));
    assert_eq!(told.done(), "1 scheduled for cp:CP-1 taken back");
    let told = world.ask(0, &removed("x2", here.clone(), true, T0));
    assert_eq!(told.code(), Code::TariffNotFound);
    world.ask(0, &removed("x3", here.clone(), false, T0)).done();
    // What runs keeps its price.
    assert_eq!(version_of(&world, id), "own 1");
    let last = reading(world.now, 1_000_000);
    world.take(0, &mut one, vec![ended(id, Some(last))]);
    assert_eq!(pinned(&mut world, &mut one, "b"), "site 1");
    for (id, scope) in [("x4", site), ("x5", TariffScope::Default)] {
        world.ask(0, &removed(id, scope, false, T0)).done();
    }
    assert_eq!(pinned(&mut world, &mut one, "c"), "free 0");
    assert!(view::tariffs(world.state(0), world.now).is_empty());
    let told = world.ask(0, &removed("x6", here.clone(), false, T0));
    assert_eq!(told.code(), Code::TariffNotFound);
    // Its versions are counted on.
    let told = world.ask(0, &set_tariff("t4", "own", here, terms()));
    assert_eq!(told.done(), "own version 3");
}

#[test]
fn what_is_scheduled_has_a_bound_and_a_time_ahead() {
    let (mut world, ..) = World::with_charge_points(1);
    let default = TariffScope::Default;
    let past = scheduled("p", "t", default.clone(), T0, T0);
    assert_eq!(world.ask(0, &past).code(), Code::TariffInvalid);
    let far = scheduled("f", "t", default.clone(), UnixMs(i64::MAX), T0);
    assert_eq!(world.ask(0, &far).code(), Code::TariffInvalid);
    for n in 1..=24 {
        let asking = scheduled(&format!("s{n}"), "t", default.clone(), at(n), T0);
        world.ask(0, &asking).done();
    }
    let more = scheduled("more", "t", default.clone(), at(25), T0);
    assert_eq!(world.ask(0, &more).code(), Code::TariffInvalid);
    // In place of one that is scheduled there is always room.
    let same = scheduled("same", "t", default.clone(), at(24), T0);
    world.ask(0, &same).done();
    // What has long come to pass takes no room.
    world.now = at(20 + 60);
    let later = scheduled("later", "t", default, at(500), world.now);
    world.ask(0, &later).done();
}
