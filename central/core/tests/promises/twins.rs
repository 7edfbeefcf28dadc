//! Two agents with one identity: one is obeyed, nothing of the other is lost or mixed in.

use central_core::{
    decide::Verb,
    effects,
    model::{ChargePoint, OtherAgent},
};
use ev_contract::{
    codes::Code,
    ids::BootId,
    v1::{Boot, Origin, Outcome},
};

use crate::harness::*;

impl Cabinet {
    /// Its agent is started anew, or a copy of its store is started for the first time.
    fn started_anew(&self, id: u64) -> Self {
        Self {
            boot: Boot {
                id: BootId::from_number(id),
                count: self.boot.count + 1,
                after: self.boot.after,
            },
            ..self.clone()
        }
    }

    /// Central's answer to its sync is on its disk.
    fn confirmed(&mut self) {
        self.boot.after = Some(self.boot.id);
    }

    /// Presents itself; whether it is obeyed then.
    fn is_obeyed(&self, world: &mut World) -> bool {
        world.run(0, &self.sync());
        present(world).obeys(&self.epoch, self.boot.id)
    }
}

fn present(world: &World) -> ChargePoint {
    let there = world.state(0).charge_point(&cp_id("CP-1"));
    ChargePoint::clone(&there.unwrap().value)
}

fn other(world: &World) -> Option<OtherAgent> {
    present(world).other.map(|other| *other)
}

#[test]
fn a_restart_is_obeyed_whatever_became_of_the_confirmation() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    // The confirmation of the first start was lost.
    let mut second = one.started_anew(2);
    assert!(second.is_obeyed(&mut world));
    second.confirmed();
    // Two starts without an uplink, then one with.
    let third = second.started_anew(3).started_anew(4).started_anew(5);
    assert!(third.is_obeyed(&mut world));
    assert_eq!(effects::boot(world.state(0), &one.id), Some(third.boot.id));
    assert_eq!(other(&world), None);
    // What an earlier start sent comes late, and takes nothing back.
    one.confirmed();
    assert!(!one.is_obeyed(&mut world));
    assert!(third.is_obeyed(&mut world));
}

#[test]
fn of_two_copies_of_a_store_one_is_obeyed_however_often_the_other_is_started() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.confirmed();
    world.run(0, &one.sync());
    let mut copy = one.started_anew(2);
    assert!(
        copy.is_obeyed(&mut world),
        "nobody can tell it from a restart"
    );
    copy.confirmed();
    world.run(0, &copy.sync());
    assert!(!one.is_obeyed(&mut world));
    let mut again = one.clone();
    for boot in 10..20 {
        again = again.started_anew(boot);
        assert!(!again.is_obeyed(&mut world));
        assert!(copy.is_obeyed(&mut world));
        let other = other(&world).unwrap();
        assert_eq!(
            (other.epoch, other.boot.id),
            (one.epoch.clone(), again.boot.id)
        );
        assert_eq!(other.at, T0, "since when it is there is kept");
    }
    // The copy goes on as any agent does.
    let mut next = copy.started_anew(3);
    assert!(next.is_obeyed(&mut world));
    next.confirmed();
    assert!(!copy.is_obeyed(&mut world));
}

#[test]
fn a_store_that_was_set_back_is_not_obeyed() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.confirmed();
    let backup = one.started_anew(2);
    world.charging(&mut one, "alice", "r1");
    assert!(
        !backup.is_obeyed(&mut world),
        "it would write numbers again"
    );
    assert!(one.is_obeyed(&mut world));
}

#[test]
fn a_new_store_is_obeyed_and_one_that_was_in_use_before_is_not() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.confirmed();
    world.run(0, &one.sync());
    let mut replaced = Cabinet::new("CP-1", "e1b");
    replaced.boot.id = BootId::from_number(2);
    assert!(replaced.is_obeyed(&mut world));
    for boot in 3..6 {
        let old = one.started_anew(boot);
        assert!(!old.is_obeyed(&mut world));
        assert_eq!(other(&world).unwrap().boot.id, old.boot.id);
    }
    assert!(replaced.is_obeyed(&mut world));
}

#[test]
fn what_one_that_is_not_obeyed_has_is_kept_word_for_word_and_in_no_session() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    one.confirmed();
    world.run(0, &one.sync());
    let mut copy = one.started_anew(2);
    assert!(copy.is_obeyed(&mut world));
    copy.confirmed();
    let before = (world.session(id).clone(), world.spool(&one));
    // Before it has presented itself again, the records of the first are left where they are.
    one.first = one.next;
    let facts = vec![checkpoint(id, reading(T0, 1_500_000)), ended(id, None)];
    let records: Vec<_> = facts.into_iter().map(|fact| one.record(T0, fact)).collect();
    assert!(!world.run(0, &one.run(records.clone())));
    assert!(!one.is_obeyed(&mut world));
    assert!(world.run(0, &one.run(records.clone())));
    assert!(!world.run(0, &one.run(records.clone())), "once is enough");
    assert_eq!((world.session(id).clone(), world.spool(&one)), before);
    let kept = other(&world).unwrap();
    assert_eq!((kept.next, kept.kept), (one.next, 2));
    let evidence = world.evidence();
    let raws: Vec<_> = evidence.iter().map(|e| (e.seq, e.raw.clone())).collect();
    let sent = records
        .into_iter()
        .map(|r| (r.seq, incoming(r).raw.to_vec()));
    assert_eq!(raws, sent.collect::<Vec<_>>());
    // The other goes on as if there were no other.
    world.take(0, &mut copy, vec![ended(id, Some(reading(T0, 1_050_000)))]);
    assert_eq!(world.receipt(id).energy_mwh.0, 50_000);
}

#[test]
fn what_is_kept_aside_is_bounded() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.confirmed();
    world.run(0, &one.sync());
    assert!(one.started_anew(2).is_obeyed(&mut world));
    assert!(!one.is_obeyed(&mut world));
    for _ in 0..30 {
        let facts = (0..100).map(|_| opened(world.session_id(), None)).collect();
        world.take(0, &mut one, facts);
    }
    let kept = other(&world).unwrap();
    assert_eq!(kept.kept, OtherAgent::KEPT_MAX);
    assert_eq!(
        kept.next,
        OtherAgent::KEPT_MAX + 1,
        "the rest is on its disk"
    );
    assert_eq!(world.evidence().len() as u64, OtherAgent::KEPT_MAX);
}

#[test]
fn records_that_a_copy_numbered_alike_are_kept_and_not_passed_over() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.confirmed();
    world.run(0, &one.sync());
    // Both run without an uplink; the copy brings its records first.
    let mut copy = one.started_anew(2);
    assert!(copy.is_obeyed(&mut world));
    copy.confirmed();
    let ours = world.session_id();
    world.take(0, &mut copy, vec![opened(ours, None)]);
    let theirs = world.session_id();
    let lost = one.record(T0, opened(theirs, None));
    let more = one.record(T0, opened(world.session_id(), None));
    // The first is started anew and takes over, as it may: the second sync of the copy is lost.
    let mut again = one.started_anew(3).started_anew(4);
    again.boot.after = Some(copy.boot.id);
    assert!(again.is_obeyed(&mut world));
    assert!(world.run(0, &again.run(vec![lost.clone(), more])));
    let evidence = world.evidence();
    assert_eq!(evidence.len(), 1);
    assert_eq!(evidence[0].raw, incoming(lost).raw.to_vec());
    assert_eq!(world.spool(&one).next, 3);
    assert_eq!(world.session(ours).origin, Origin::Local);
    // An honest repeat is none.
    assert!(!world.run(0, &again.run(vec![])));
}

#[test]
fn the_word_of_one_that_is_not_obeyed_ends_nothing() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    one.confirmed();
    world.run(0, &one.sync());
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let copy = one.started_anew(2);
    assert!(copy.is_obeyed(&mut world));
    assert!(!world.answered(&one, Verb::Start, id, Got::refused(Code::Faulted)));
    world.ask(0, &stop("alice", "s1", id));
    assert!(!world.answered(&one, Verb::Stop, id, Got::outcome(Outcome::Absent)));
    assert!(!world.session(id).is_ended());
    assert!(world.answered(&copy, Verb::Stop, id, Got::outcome(Outcome::Absent)));
    assert!(world.session(id).is_ended());
}
