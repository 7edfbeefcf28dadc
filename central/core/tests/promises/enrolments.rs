//! Charge points that are known before they connect.

use central_core::{
    decide::{Act, Announcement, Command, ENROLMENTS_MAX, Unrecorded, Wish},
    state::State,
    view,
};
use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Service},
    ids::{CpId, SiteId},
    time::UnixMs,
    v1::{CpEnrolment, Reach, TariffScope},
};

use crate::harness::{Asking, Cabinet, World, cp_id, driver, op, replay, set_tariff, start, terms};

fn announced(at: i64, cps: &[&str], revoked: bool) -> Command {
    Command::Announce(Announcement {
        at: UnixMs(at),
        cps: cps.iter().map(|cp| cp_id(cp)).collect(),
        revoked,
        site: None,
        time_zone: None,
        max_kw: None,
    })
}

fn serve(id: &str, cp: &str, connector: Option<i64>, serve: bool) -> Asking {
    let cp = cp_id(cp);
    let wish = Wish::Service {
        cp,
        connector,
        serve,
    };
    op(id, wish)
}

/// All are so, and nothing is known beside that.
struct All(Reach);

impl view::Heard for All {
    fn reach(&self, _: &CpId) -> Reach {
        self.0
    }
    fn last(&self, _: &CpId) -> Option<(&view::Beat, UnixMs)> {
        None
    }
}

fn shown(state: &State) -> Vec<(String, Option<CpEnrolment>, usize)> {
    state
        .known_charge_points_after(None)
        .filter_map(|(id, cp)| view::charge_point(state, id, cp, &All(Reach::Offline), UnixMs(0)))
        .map(|view| {
            (
                view.cp_id.to_string(),
                view.enrolment,
                view.connectors.len(),
            )
        })
        .collect()
}

#[test]
fn one_that_was_enrolled_is_offline_until_it_connects_and_not_unknown() {
    let (mut world, one, _) = World::with_charge_points(1);
    let before = start("alice", "r1", "CP-9");
    assert_eq!(world.ask(0, &before).code(), Code::UnknownChargePoint);
    assert!(world.run(0, &announced(1, &["CP-0", "CP-9"], false)));
    let offline = start("alice", "r2", "CP-9");
    assert_eq!(world.ask(0, &offline).code(), Code::ChargePointOffline);
    let act = |id, act| {
        let (cp, connector) = (cp_id("CP-9"), Some(1));
        op(id, Wish::Act { cp, connector, act })
    };
    let told = world.ask(0, &act("u1", Act::Unlock));
    assert_eq!(told.code(), Code::ChargePointOffline);
    assert_eq!(
        shown(world.state(0)),
        [
            ("CP-0".into(), Some(CpEnrolment::Enrolled), 0),
            (one.id.to_string(), None, 1),
            ("CP-2".into(), None, 1),
            ("CP-9".into(), Some(CpEnrolment::Enrolled), 0),
        ]
    );
    // Drivers are shown where they can charge.
    assert_eq!(world.state(0).charge_points_after(None).count(), 2);
    let after = cp_id("CP-1");
    let rest = world.state(0).known_charge_points_after(Some(&after));
    let rest: Vec<_> = rest.map(|(id, _)| id.to_string()).collect();
    assert_eq!(rest, ["CP-2", "CP-9"]);
    assert!(world.run(0, &Cabinet::new("CP-9", "e1").sync()));
    world.ask(0, &start("alice", "r3", "CP-9")).session();
}

#[test]
fn a_no_that_was_decided_before_the_enrolment_is_void_after_it() {
    let mut world = World::new(2);
    let asking = start("alice", "r1", "CP-9");
    let frame = world.cut(1, &[asking.command()]);
    assert!(world.run(0, &announced(1, &["CP-9"], false)));
    assert_eq!(world.commit(&frame), [false]);
    assert_eq!(world.ask(1, &asking).code(), Code::ChargePointOffline);
}

#[test]
fn a_tariff_and_service_can_be_set_before_it_connects() {
    let mut world = World::new(1);
    assert!(world.run(0, &announced(1, &["CP-9"], false)));
    let scope = TariffScope::ChargePoint(cp_id("CP-9"));
    let told = world.ask(0, &set_tariff("t1", "own", scope, terms()));
    assert_eq!(told.done(), "own version 1");
    let one_of_them = serve("s1", "CP-9", Some(1), false);
    assert_eq!(world.ask(0, &one_of_them).code(), Code::UnknownConnector);
    let told = world.ask(0, &serve("s2", "CP-9", None, false));
    assert!(told.done().contains("out of service"), "{told:?}");
    // Enrolling it again does not put it into service.
    assert!(world.run(0, &announced(2, &["CP-9"], false)));
    let state = world.state(0);
    let view =
        view::charge_point(state, &cp_id("CP-9"), None, &All(Reach::Offline), world.now).unwrap();
    assert!(view.out_of_service);
    assert_eq!(view.tariff.tariff_id.as_str(), "own");
    let mut cabinet = Cabinet::new("CP-9", "e1");
    cabinet.connectors = 2;
    assert!(world.run(0, &cabinet.sync()));
    let out = start("alice", "r1", "CP-9").at_connector(2);
    assert_eq!(world.ask(0, &out).code(), Code::OutOfService);
    let connector = world.connector("CP-9");
    assert_eq!(
        (connector.service, connector.service_revision),
        (Service::Out, 1)
    );
    world.ask(0, &serve("s3", "CP-9", None, true)).done();
    // That it was once out of service is over, also when it presents itself otherwise.
    cabinet.connectors = 3;
    assert!(world.run(0, &cabinet.sync()));
    world
        .ask(0, &start("alice", "r2", "CP-9").at_connector(3))
        .session();
    assert_eq!(world.driver("alice").open.len(), 1);
}

#[test]
fn a_revoked_one_is_offline_whatever_was_last_heard_of_it() {
    let (mut world, one, _) = World::with_charge_points(1);
    let online = |id| start("alice", id, "CP-1").reaching(Reach::Online);
    assert!(world.run(0, &announced(5, &["CP-1"], true)));
    assert_eq!(world.ask(0, &online("r1")).code(), Code::ChargePointOffline);
    let shown_to_drivers = |world: &World| {
        let state = world.state(0);
        let cp = &state.charge_point(&cp_id("CP-1")).unwrap().value;
        let heard = All(Reach::Online);
        let alice = driver("alice");
        let listing = view::listing(state, &cp_id("CP-1"), cp, &alice, &heard, world.now).unwrap();
        listing.connectors[0].state
    };
    assert_eq!(shown_to_drivers(&world), ConnectorState::Offline);
    // A late copy of an earlier word changes nothing, nor does the same word again.
    assert!(!world.run(0, &announced(4, &["CP-1"], false)));
    assert!(!world.run(0, &announced(5, &["CP-1"], true)));
    assert_eq!(world.ask(0, &online("r2")).code(), Code::ChargePointOffline);
    assert_eq!(shown(world.state(0))[0].1, Some(CpEnrolment::Revoked));
    // Its own word does not bring it back: a revoked credential's last sync may be on its way.
    world.run(0, &one.sync());
    assert_eq!(world.ask(0, &online("r3")).code(), Code::ChargePointOffline);
    assert!(world.run(0, &announced(6, &["CP-1"], false)));
    assert_eq!(shown_to_drivers(&world), ConnectorState::Available);
    world.ask(0, &online("r4")).session();
}

#[test]
fn there_is_an_end_to_how_many_there_may_be() {
    let mut world = World::new(1);
    let cps = |from: usize, to: usize| {
        Command::Announce(Announcement {
            at: UnixMs(1),
            cps: (from..to).map(|n| cp_id(&format!("CP-{n}"))).collect(),
            revoked: false,
            site: None,
            time_zone: None,
            max_kw: None,
        })
    };
    for from in (0..ENROLMENTS_MAX).step_by(5_000) {
        assert!(world.run(0, &cps(from, from + 5_000)));
    }
    let beyond = world.decide(0, &cps(ENROLMENTS_MAX - 1, ENROLMENTS_MAX + 1));
    assert_eq!(beyond.unrecorded, Some(Unrecorded::TooMany));
    assert!(beyond.record.is_none());
    assert!(world.decide(0, &cps(0, 3)).unrecorded.is_none());
}

#[test]
fn a_snapshot_with_enrolments_is_what_a_replay_comes_to() {
    let (mut world, ..) = World::with_charge_points(1);
    assert!(world.run(0, &announced(1, &["CP-9"], true)));
    let bytes = world.state(0).freeze().encode();
    let read = State::decode(&bytes).unwrap();
    assert_eq!(&read, replay(&world.ledger).state());
    assert_eq!(read.enrolments_len(), 1);
}

fn placed(at: i64, cp: &str, site: &str, time_zone: &str) -> Command {
    Command::Announce(Announcement {
        at: UnixMs(at),
        cps: vec![cp_id(cp)],
        revoked: false,
        site: Some(SiteId::new(site).unwrap()),
        time_zone: Some(time_zone.into()),
        max_kw: None,
    })
}

fn stands_at(id: &str, cp: &str, site: &str, time_zone: Option<&str>) -> Asking {
    let wish = Wish::Site {
        cp: cp_id(cp),
        site: SiteId::new(site).unwrap(),
        time_zone: time_zone.map(str::to_owned),
    };
    op(id, wish)
}

/// Site and time zone of a charge point, as operators see them.
fn place(world: &World, cp: &str) -> (String, String) {
    let state = world.state(0);
    let id = cp_id(cp);
    let present = state.charge_point(&id).map(|e| &*e.value);
    let view = view::charge_point(state, &id, present, &All(Reach::Online), world.now).unwrap();
    (view.site_id.to_string(), view.time_zone)
}

#[test]
fn a_charge_point_stands_where_it_was_enrolled_or_an_operator_says() {
    let mut world = World::new(1);
    let told = |site: &str, zone: &str| (site.to_owned(), zone.to_owned());
    // One that nobody has placed.
    assert!(world.run(0, &Cabinet::new("CP-8", "e1").sync()));
    assert_eq!(place(&world, "CP-8"), told("default", "UTC"));
    // Enrolled with a site, seen before and after it presents itself.
    assert!(world.run(0, &placed(5, "CP-9", "berlin-1", "Europe/Berlin")));
    assert_eq!(place(&world, "CP-9"), told("berlin-1", "Europe/Berlin"));
    assert!(world.run(0, &Cabinet::new("CP-9", "e1").sync()));
    assert_eq!(place(&world, "CP-9"), told("berlin-1", "Europe/Berlin"));
    // A new credential leaves it where it is.
    assert!(world.run(0, &announced(6, &["CP-9"], false)));
    assert_eq!(place(&world, "CP-9"), told("berlin-1", "Europe/Berlin"));
    // An operator moves it, at once and for later syncs; the zone stays unless it is said.
    world
        .ask(0, &stands_at("m1", "CP-9", "munich-2", None))
        .done();
    assert_eq!(place(&world, "CP-9"), told("munich-2", "Europe/Berlin"));
    world.run(0, &Cabinet::new("CP-9", "e2").sync());
    assert_eq!(place(&world, "CP-9"), told("munich-2", "Europe/Berlin"));
    // What was said before that, and is heard after it, changes nothing.
    assert!(world.run(0, &placed(7, "CP-9", "berlin-1", "UTC")));
    assert_eq!(place(&world, "CP-9"), told("munich-2", "Europe/Berlin"));
    world
        .ask(
            0,
            &stands_at("m2", "CP-8", "kathmandu", Some("Asia/Kathmandu")),
        )
        .done();
    assert_eq!(place(&world, "CP-8"), told("kathmandu", "Asia/Kathmandu"));
    let nowhere = stands_at("m3", "CP-7", "berlin-1", None);
    assert_eq!(world.ask(0, &nowhere).code(), Code::UnknownChargePoint);
    assert_eq!(world.state(0), replay(&world.ledger).state());
}

#[test]
fn a_session_keeps_the_site_of_its_acceptance() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    world
        .ask(
            0,
            &stands_at("m1", "CP-1", "berlin-1", Some("Europe/Berlin")),
        )
        .done();
    let id = world.charging(&mut one, "alice", "r1");
    world
        .ask(0, &stands_at("m2", "CP-1", "munich-2", None))
        .done();
    let session = world.session(id);
    assert_eq!(
        (session.site.as_str(), &*session.time_zone),
        ("berlin-1", "Europe/Berlin")
    );
}
