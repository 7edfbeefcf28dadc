//! Sessions that have been in a phase for longer than can be meant.

use central_core::overdue::{bound_ms, since};
use ev_contract::{connector::Phase, ids::SessionId};

use crate::harness::*;

const MINUTE: i64 = 60 * SECOND;

fn is_stuck(world: &World, id: SessionId) -> bool {
    let session = world.session(id);
    since(session).is_some_and(|at| world.now.ms_since(at) > bound_ms(session))
}

#[test]
fn a_start_may_take_its_deadline_and_the_wait_for_a_plug() {
    let (mut world, _, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let session = world.session(id);
    let may_take =
        session.start_by.ms_since(session.accepted_at) + i64::from(session.plug_wait_s) * SECOND;
    assert!(may_take > 0);
    world.later(may_take);
    assert!(!is_stuck(&world, id));
    world.later(2 * MINUTE + SECOND);
    assert!(is_stuck(&world, id));
}

#[test]
fn a_stop_is_confirmed_within_minutes_however_long_the_session_charged() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(20 * 60 * MINUTE);
    assert_eq!(world.session(id).phase(), Phase::Charging);
    assert!(!is_stuck(&world, id), "a large battery at a slow plug");
    let asked = stop("alice", "s1", id).expiring(world.now.plus_ms(20 * SECOND));
    world.ask(0, &asked);
    assert_eq!(world.session(id).phase(), Phase::Stopping);
    world.later(5 * MINUTE);
    assert!(!is_stuck(&world, id));
    world.later(SECOND);
    assert!(is_stuck(&world, id));
}

#[test]
fn a_pause_counts_from_its_own_beginning() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.later(47 * 60 * MINUTE);
    let paused = phase(id, Phase::SuspendedEv, Some(reading(world.now, 1_500_000)));
    world.take(0, &mut one, vec![paused]);
    assert_eq!(world.session(id).phase(), Phase::SuspendedEv);
    world.later(47 * 60 * MINUTE);
    assert!(!is_stuck(&world, id));
    world.later(2 * 60 * MINUTE);
    assert!(is_stuck(&world, id));
}

#[test]
fn what_has_ended_is_never_stuck() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let end = ended(id, Some(reading(world.now, 1_200_000)));
    world.take(0, &mut one, vec![end]);
    world.later(1_000 * 60 * MINUTE);
    assert_eq!(since(world.session(id)), None);
    assert!(!is_stuck(&world, id));
}
