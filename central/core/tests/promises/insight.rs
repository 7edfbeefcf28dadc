//! What operators are told of why: derived from the ledger, the same on every replica.

use central_core::{
    decide::Wish,
    insight::{self, refuses},
    state::Log,
    trail::{Cursor, EVENTS_MAX, Filter, Trail},
    view::{Beat, Heard},
};
use ev_contract::{
    codes::Code,
    connector::{FaultEffect, Service},
    ids::{ConnectorId, CpId},
    time::UnixMs,
    v1::{Availability, Awaited, EventKind, EventRow, Reach},
};

use crate::harness::*;

/// What a ledger meant from a position on, to a replica that began with the state before.
fn trail(ledger: &[Vec<u8>], from: usize) -> Trail {
    let mut log = replay(&ledger[..from]);
    let mut trail = Trail::new(log.state());
    follow(&mut log, &mut trail, ledger, from);
    trail
}

fn follow(log: &mut Log, trail: &mut Trail, ledger: &[Vec<u8>], from: usize) {
    for (n, bytes) in ledger.iter().enumerate().skip(from) {
        let applied = log.apply(n as u64 + 1, bytes).unwrap();
        let at = applied.frame.as_ref().unwrap().at;
        for (record, valid) in applied.records() {
            if valid {
                trail.record(applied.pos, at, record).count();
            }
        }
    }
}

fn all(trail: &Trail) -> Vec<EventRow> {
    trail.page(None, None, &Filter::default(), EVENTS_MAX).0
}

fn kinds(events: &[EventRow]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}

struct Ears(Reach);

impl Heard for Ears {
    fn reach(&self, _: &CpId) -> Reach {
        self.0
    }

    fn last(&self, _: &CpId) -> Option<(&Beat, UnixMs)> {
        None
    }

    fn since(&self, _: &CpId) -> Option<UnixMs> {
        Some(T0)
    }
}

fn codes(world: &World, reach: Reach) -> Vec<Code> {
    let state = world.state(0);
    let id = cp_id("CP-1");
    let cp = state.charge_point(&id).map(|e| &*e.value);
    let all = refuses(state, &id, cp, &Ears(reach));
    all.iter().map(|refuses| refuses.code).collect()
}

fn disable(world: &World, id: &str, serve: bool) -> Asking {
    let wish = Wish::Service {
        cp: cp_id("CP-1"),
        connector: None,
        serve,
    };
    op(id, wish).expiring(world.now.plus_ms(20_000))
}

#[test]
fn a_sessions_events_come_in_order_and_each_once() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    let at = world.later(SECOND);
    world.take(0, &mut one, vec![checkpoint(id, reading(at, 1_100_000))]);
    world.ask(1, &stop("alice", "s1", id));
    world.ask(0, &stop("alice", "s2", id));
    world.take(0, &mut one, vec![ended(id, Some(reading(at, 1_200_000)))]);
    let filter = Filter {
        session: Some(id),
        ..Filter::default()
    };
    let (events, ..) = trail(&world.ledger, 0).page(None, None, &filter, 100);
    use EventKind::{Accepted, Ended, Started, Stopping, Taken};
    assert_eq!(
        kinds(&events),
        [Accepted, Taken, Started, Stopping, Ended],
        "{events:#?}"
    );
    let detail = events[4].detail.as_deref().unwrap();
    assert!(detail.starts_with("completed, "), "{detail}");
    assert_eq!(events[0].driver_id, Some(driver("alice")));
}

#[test]
fn who_begins_with_a_snapshot_tells_the_same_from_there_on() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.take(
        0,
        &mut one,
        vec![
            Report {
                fault: Some(FaultEffect::Suspends),
                ..Report::default()
            }
            .fact(),
        ],
    );
    let middle = world.ledger.len();
    world.ask(0, &stop("alice", "s1", id));
    world.take(0, &mut one, vec![Report::default().fact()]);
    let at = world.later(SECOND);
    world.take(0, &mut one, vec![ended(id, Some(reading(at, 1_200_000)))]);
    let whole = all(&trail(&world.ledger, 0));
    let rest = all(&trail(&world.ledger, middle));
    assert!(!rest.is_empty());
    assert_eq!(whole[whole.len() - rest.len()..], rest[..]);
    assert!(kinds(&rest).contains(&EventKind::Cleared), "{rest:#?}");
    assert!(!kinds(&rest).contains(&EventKind::Fault), "{rest:#?}");
}

#[test]
fn pages_have_every_event_once_and_go_on_at_any_replica() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    for n in 0..5 {
        let id = world.charging(&mut one, "alice", &format!("r{n}"));
        let at = world.later(SECOND);
        world.take(0, &mut one, vec![ended(id, Some(reading(at, 2_000_000)))]);
    }
    let (here, there) = (trail(&world.ledger, 0), trail(&world.ledger, 0));
    let mut found = Vec::new();
    let mut after: Option<Cursor> = None;
    for n in 0.. {
        let replica = if n % 2 == 0 { &here } else { &there };
        let (page, next, more) = replica.page(after, None, &Filter::default(), 3);
        found.extend(page);
        if !more {
            break;
        }
        after = next.map(|next| next.to_string().parse().unwrap());
    }
    assert_eq!(found, all(&here));
    assert!("7.".parse::<Cursor>().is_err() && "07.1".parse::<Cursor>().is_err());
    let end = Cursor::end_of(world.ledger.len() as u64);
    assert_eq!(here.page(Some(end), None, &Filter::default(), 3).0, []);
}

#[test]
fn each_reason_to_refuse_is_named_with_its_beginning() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    world.take(0, &mut one, vec![Report::default().fact()]);
    assert_eq!(codes(&world, Reach::Online), []);
    assert_eq!(codes(&world, Reach::Unknown), []);
    assert_eq!(codes(&world, Reach::Offline), [Code::ChargePointOffline]);
    let at = world.later(HOUR);
    let out = disable(&world, "d1", false);
    world.ask(0, &out);
    assert_eq!(codes(&world, Reach::Online), [Code::OutOfService]);
    let place = ConnectorId(1);
    let since = |world: &World, code| trail(&world.ledger, 0).since(&cp_id("CP-1"), place, code);
    assert_eq!(since(&world, Code::OutOfService), Some(at));
    let back = disable(&world, "d2", true);
    world.ask(0, &back);
    assert_eq!(since(&world, Code::OutOfService), None);
    let at = world.later(HOUR);
    let revision = 2;
    let bad = Report {
        fault: Some(FaultEffect::Ended),
        charger_online: false,
        revision,
        ..Report::default()
    };
    world.take(0, &mut one, vec![bad.clone().fact()]);
    assert_eq!(
        codes(&world, Reach::Online),
        [Code::ChargerOffline, Code::Faulted]
    );
    world.later(HOUR);
    // Told again, it is as old as before.
    world.take(
        0,
        &mut one,
        vec![
            Report {
                plugged: true,
                ..bad
            }
            .fact(),
        ],
    );
    assert_eq!(since(&world, Code::Faulted), Some(at));
    let well = Report {
        revision,
        ..Report::default()
    };
    world.take(0, &mut one, vec![well.fact()]);
    let soon = world.now.plus_ms(20_000);
    world.ask(0, &start("alice", "r1", "CP-1").expiring(soon));
    assert_eq!(codes(&world, Reach::Online), [Code::Occupied]);
    world.ask(0, &start("bob", "r2", "CP-1").expiring(soon));
    let refused = trail(&world.ledger, 0).refused_at(&cp_id("CP-1"));
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (refused[0].code, refused[0].driver_id.clone()),
        (Code::Occupied, Some(driver("bob")))
    );
}

#[test]
fn a_session_says_what_it_waits_for() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let waits = |world: &World, id| {
        insight::waits(world.session(id), &Ears(Reach::Offline))
            .map(|waits| (waits.awaited, waits.since))
    };
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    assert_eq!(waits(&world, id), Some((Awaited::Start, world.now)));
    world.take(0, &mut one, vec![accepted(id)]);
    assert_eq!(waits(&world, id).unwrap().0, Awaited::Car);
    let at = world.later(SECOND);
    world.take(0, &mut one, vec![started(id, reading(at, 1_000_000))]);
    assert_eq!(waits(&world, id), Some((Awaited::End, at)));
    let at = world.later(SECOND);
    world.ask(0, &stop("alice", "s1", id));
    assert_eq!(waits(&world, id), Some((Awaited::Stop, at)));
    world.take(0, &mut one, vec![ended(id, Some(reading(at, 1_100_000)))]);
    assert_eq!(waits(&world, id), None);
}

#[test]
fn a_connector_is_worth_what_drivers_get() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let is = |world: &World, reach| insight::availability(&world.connector("CP-1"), reach);
    assert_eq!(is(&world, Reach::Online), Availability::Up);
    assert_eq!(is(&world, Reach::Offline), Availability::Offline);
    assert_eq!(is(&world, Reach::Unknown), Availability::Unknown);
    for (effect, right) in [
        (FaultEffect::Warning, Availability::Up),
        (FaultEffect::Suspends, Availability::Faulted),
    ] {
        let report = Report {
            fault: Some(effect),
            ..Report::default()
        };
        world.take(0, &mut one, vec![report.fact()]);
        assert_eq!(is(&world, Reach::Online), right);
    }
    let gone = Report {
        charger_online: false,
        ..Report::default()
    };
    world.take(0, &mut one, vec![gone.fact()]);
    assert_eq!(is(&world, Reach::Online), Availability::ChargerOffline);
    let report = Report {
        service: Service::Out,
        ..Report::default()
    };
    world.take(0, &mut one, vec![report.fact()]);
    let out = disable(&world, "d1", false);
    world.ask(0, &out);
    for reach in [Reach::Online, Reach::Offline] {
        assert_eq!(is(&world, reach), Availability::Planned);
    }
}
