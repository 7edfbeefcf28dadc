//! Validity by position, copies of frames, forgetting, the audit, snapshots.

use central_core::{
    decide::{Command, Verb},
    frame::{
        Digest, FRAME_BYTES_MAX, Forget, Frame, FrameBuilder, Full, Kind, RECORDS_MAX, Write, seal,
    },
    model::{Answer, Horizon},
    ripe::{Keep, to_forget},
    state::{Alarm, Log, State},
};
use ev_contract::{codes::Code, ids::ReplicaId, v1::Outcome};

use crate::harness::*;

fn forget(until: ev_contract::time::UnixMs, before: u64) -> Forget {
    Forget {
        horizon: Horizon { until },
        others_until: until,
        before,
        sessions: Vec::new(),
    }
}

#[test]
fn copies_of_a_frame_change_nothing() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    let last = one.record(T0, ended(id, Some(reading(T0, 1_050_000))));
    world.run(0, &one.run(vec![last]));
    let copies = world.ledger.clone();
    let before = {
        let state = world.state(0);
        after_basis(state)
    };
    for _ in 0..2 {
        for copy in &copies {
            world.append_bytes(copy.clone());
            for replica in 0..2 {
                for applied in world.catch_up(replica) {
                    assert!(
                        applied.valid.iter().all(|valid| !valid),
                        "{:?}",
                        applied.frame
                    );
                }
            }
        }
    }
    assert_eq!(before, after_basis(world.state(1)));
    assert_eq!(world.connector("CP-1").receipts, 1);
}

/// A snapshot from behind its position and digest on: what is remembered.
fn after_basis(state: &State) -> Vec<u8> {
    let bytes = state.freeze().encode();
    let digest = state.basis().digest.0;
    let at = bytes.windows(16).position(|window| window == digest);
    bytes[at.unwrap() + 16..].to_vec()
}

#[test]
fn a_frame_that_arrives_after_its_refusal_does_not_revive_it() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let asking = start("alice", "r1", "CP-1");
    // Replica 1 accepts, and freezes before the frame is out. Replica 0 is asked again later.
    let frozen = world.cut(1, &[asking.command()]);
    world.later(HOUR);
    assert_eq!(world.ask(0, &asking).code(), Code::Expired);
    assert_eq!(world.commit(&frozen), [false]);
    assert_eq!(world.ask(1, &asking).code(), Code::Expired);
    assert_eq!(world.state(1).open_sessions().count(), 0);
}

#[test]
fn a_frame_that_arrives_after_forgetting_does_not_revive_what_was_refused() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let asking = start("alice", "r1", "CP-1");
    let frozen = world.cut(1, &[asking.command()]);
    world.later(HOUR);
    assert_eq!(world.ask(0, &asking).code(), Code::Expired);
    world.later(2 * HOUR);
    let before = world.state(0).basis().seq;
    let until = world.now.plus_ms(-HOUR);
    assert!(world.run(0, &Command::Forget(forget(until, before))));
    assert_eq!(world.told(0, &asking), None, "it is forgotten");
    assert_eq!(world.commit(&frozen), [false]);
    assert_eq!(world.state(1).open_sessions().count(), 0);
    assert_eq!(world.ask(1, &asking), Told::Forgotten);
}

#[test]
fn what_was_refused_as_too_far_ahead_is_not_accepted_when_its_time_has_come() {
    let (mut world, ..) = World::with_charge_points(1);
    let asking = start("alice", "r1", "CP-1").expiring(T0.plus_ms(HOUR));
    assert_eq!(world.ask(0, &asking).code(), Code::ExpiryTooFar);
    let now = world.later(HOUR - 10 * SECOND);
    let before = world.state(0).basis().seq;
    assert!(world.run(0, &Command::Forget(forget(now.plus_ms(-SECOND), before))));
    assert_eq!(world.ask(0, &asking).code(), Code::ExpiryTooFar);
    world.later(20 * SECOND);
    let before = world.state(0).basis().seq;
    assert!(world.run(0, &Command::Forget(forget(T0.plus_ms(HOUR), before))));
    assert_eq!(world.ask(0, &asking), Told::Forgotten);
}

#[test]
fn forgetting_removes_what_is_old_and_nothing_else() {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let open = world.charging(&mut one, "alice", "open");
    let over = world.charging(&mut two, "bob", "over");
    world.take(0, &mut two, vec![ended(over, Some(reading(T0, 1_000_000)))]);
    assert_eq!(
        world.ask(0, &start("carol", "refused", "CP-1")).code(),
        Code::Occupied
    );
    let fresh = start("carol", "fresh", "CP-1").expiring(T0.plus_ms(25 * SECOND));
    assert_eq!(world.ask(0, &fresh).code(), Code::Occupied);
    world.later(10 * HOUR);

    let before = world.state(0).basis().seq;
    let late = start("carol", "late", "CP-1").expiring(T0.plus_ms(SECOND));
    assert_eq!(world.ask(0, &late).code(), Code::Expired);
    // Refusals go, the answers of sessions stay, the open one's longest.
    let until = T0.plus_ms(20 * SECOND);
    let mut forget = forget(until, before);
    forget.others_until = T0;
    assert!(world.run(0, &Command::Forget(forget.clone())));
    let told = |world: &World, asking: &Asking| world.told(0, asking).is_some();
    let opening = start("alice", "open", "CP-1").at_connector(1);
    let finished = start("bob", "over", "CP-2").at_connector(1);
    assert!(!told(&world, &start("carol", "refused", "CP-1")));
    assert!(told(&world, &fresh), "expires after");
    assert!(told(&world, &late), "written after");
    assert!(told(&world, &opening));
    assert!(told(&world, &finished));

    forget.others_until = until;
    forget.sessions = vec![open, over];
    forget.before = world.state(0).basis().seq;
    assert!(world.run(0, &Command::Forget(forget)));
    assert!(told(&world, &opening), "its session is open");
    assert!(!told(&world, &finished));
    assert!(!told(&world, &late));
    assert!(
        world.state(0).session(open).is_some(),
        "an open session is never forgotten"
    );
    assert!(world.state(0).session(over).is_none());
    assert_eq!(world.state(0).sessions_of(&driver("bob"), None).count(), 0);
    assert_eq!(world.ask(0, &finished), Told::Forgotten);
    assert_eq!(world.connector("CP-2").receipts, 1, "numbers go on");
    // A stop of it finds nothing, and its records are kept aside.
    let asking = stop("bob", "s", over).expiring(world.now);
    assert_eq!(world.ask(0, &asking).code(), Code::SessionNotFound);
    world.take(0, &mut two, vec![opened(over, None), ended(over, None)]);
    // No charge point opens a session twice.
    world.uneven = true;
}

#[test]
fn the_horizon_never_goes_back() {
    let (mut world, ..) = World::with_charge_points(1);
    world.run(0, &Command::Forget(forget(T0.plus_ms(HOUR), 0)));
    world.run(0, &Command::Forget(forget(T0, 0)));
    let until = world.state(0).horizon().unwrap().value.until;
    assert_eq!(until, T0.plus_ms(HOUR));
}

#[test]
fn answers_are_never_forgotten_beyond_the_horizon() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    let before = world.state(0).basis().seq;
    let mut odd = forget(T0, before);
    odd.others_until = T0.plus_ms(HOUR);
    world.run(0, &Command::Forget(odd));
    let asking = start("alice", "r1", "CP-1").at_connector(1);
    assert_eq!(world.ask(0, &asking).session(), id);
}

#[test]
fn an_adjustment_made_while_its_session_was_being_forgotten_is_kept() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    let id = world.charging(&mut one, "alice", "r1");
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    world.catch_up_all();
    let mut old = forget(T0, world.state(0).basis().seq);
    old.sessions = vec![id];
    let forgetting = world.cut(0, &[Command::Forget(old)]);
    // A late record at the same time: nobody has copied its adjustment anywhere yet.
    let now = world.later(HOUR);
    let record = one.record(now, checkpoint(id, reading(now, 1_090_000)));
    let adjusting = world.cut(1, &[one.run(vec![record])]);
    assert_eq!(world.commit(&adjusting), [true]);
    world.commit(&forgetting);
    assert_eq!(world.adjustments(id).list.len(), 1);
    assert!(world.state(0).session(id).is_some());
}

#[test]
fn two_replicas_that_forget_at_once_forget_once() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let command = Command::Forget(forget(T0, 1));
    let frames = [
        world.cut(0, std::slice::from_ref(&command)),
        world.cut(1, std::slice::from_ref(&command)),
    ];
    assert_eq!(world.commit(&frames[0]), [true]);
    assert_eq!(world.commit(&frames[1]), [false]);
}

#[test]
fn a_record_that_builds_on_a_void_one_in_its_frame_is_void() {
    let (mut world, mut one, _) = World::with_charge_points(2);
    world.catch_up_all();
    let alices = start("alice", "r1", "CP-1");
    let bobs = start("bob", "r1", "CP-1");
    let apart = start("carol", "r1", "CP-2");
    // Bob's refusal rests on Alice's session, which another replica's local start makes void.
    let frame = world.cut(0, &[alices.command(), bobs.command(), apart.command()]);
    assert_eq!(frame.records.len(), 3);
    let local = world.session_id();
    let record = one.record(T0, opened(local, None));
    let other = world.cut(1, &[one.run(vec![record])]);
    assert_eq!(world.commit(&other), [true]);
    assert_eq!(world.commit(&frame), [false, false, true]);
    assert_eq!(world.told(0, &bobs), None);
    assert_eq!(world.ask(0, &bobs).code(), Code::Occupied);
}

#[test]
fn two_requests_with_one_id_in_one_frame_are_one_record() {
    let (mut world, ..) = World::with_charge_points(1);
    let (a, b) = (start("alice", "r1", "CP-1"), start("alice", "r1", "CP-2"));
    let frame = world.cut(0, &[a.command(), a.command(), b.command()]);
    assert_eq!(frame.records.len(), 1);
    world.commit(&frame);
    world.ask(0, &a).session();
    assert_eq!(world.ask(0, &b), Told::Reused);
}

#[test]
fn a_start_its_stop_and_the_next_start_may_stand_in_one_frame() {
    let (mut world, one, _) = World::with_charge_points(1);
    let first = start("alice", "r1", "CP-1");
    let frame = world.cut(
        0,
        &[first.command(), start("alice", "r2", "CP-2").command()],
    );
    assert_eq!(world.commit(&frame), [true, true]);
    let id = world.ask(0, &first).session();
    assert_eq!(
        world.ask(0, &start("alice", "r2", "CP-2")).code(),
        Code::LimitReached
    );
    let stopping = stop("alice", "s1", id);
    let absent = Command::Answered(central_core::decide::CommandAnswer {
        cp: one.id.clone(),
        session: id,
        verb: Verb::Stop,
        epoch: one.epoch.clone(),
        boot: one.boot.id,
        outcome: Outcome::Absent,
        code: None,
        raw: None,
    });
    let next = start("alice", "r3", "CP-2");
    let frame = world.cut(0, &[stopping.command(), absent, next.command()]);
    assert_eq!(world.commit(&frame), [true, true, true]);
    assert_ne!(world.ask(0, &next).session(), id);
}

#[test]
fn every_key_that_is_written_is_expected() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.ask(0, &stop("alice", "s1", id));
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    for bytes in &world.ledger {
        let frame = match Frame::decode(bytes) {
            Ok(central_core::frame::Decoded::Frame(frame)) => frame,
            other => panic!("{other:?}"),
        };
        for record in &frame.records {
            for write in &record.writes {
                assert!(record.expects.contains_key(&write.key()), "{record:?}");
                if let Write::Request(..) = write {
                    assert!(
                        record
                            .expects
                            .contains_key(&central_core::keys::Key::Horizon)
                    );
                }
            }
        }
    }
    // A record that writes what it does not expect is void, whoever made it.
    let mut frame = world.cut(0, &[start("alice", "r2", "CP-1").command()]);
    let record = &mut frame.records[0];
    let key = record.writes.iter().map(Write::key).next().unwrap();
    record.expects.remove(&key);
    assert_eq!(world.commit(&frame), [false]);
}

#[test]
fn replicas_that_applied_the_same_are_equal_and_a_snapshot_and_the_rest_equal_a_replay() {
    let (mut world, mut one, mut two) = World::with_charge_points(3);
    let id = world.charging(&mut one, "alice", "r1");
    let over = world.charging(&mut two, "bob", "r1");
    world.ask(0, &start("carol", "r1", "CP-1")).code();
    world.ask(0, &write_off("w", over)).done();
    world.append_bytes(b"nobody's message".to_vec());
    world.take(0, &mut two, vec![ended(over, Some(reading(T0, 1_080_000)))]);
    world.take(
        0,
        &mut one,
        vec![energy_ended(id, Some(reading(T0, 1_000_000)))],
    );
    let before = world.state(0).basis().seq;
    world.run(0, &Command::Forget(forget(T0.plus_ms(SECOND), before)));
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    world.catch_up_all();

    let whole = replay(&world.ledger);
    for replica in 0..3 {
        assert_eq!(world.state(replica), whole.state());
    }
    for cut in 0..=world.ledger.len() {
        let part = replay(&world.ledger[..cut]);
        let bytes = part.state().freeze().encode();
        let state = State::decode(&bytes).unwrap();
        assert_eq!(
            state,
            *part.state(),
            "a snapshot at {cut} is the state there"
        );
        let mut log = Log::from_snapshot(state);
        for (n, message) in world.ledger.iter().enumerate().skip(cut) {
            log.apply(n as u64 + 1, message).unwrap();
        }
        assert_eq!(log.state(), whole.state(), "from {cut}");
        assert_eq!(log.state().basis(), whole.state().basis());
    }
}

#[test]
fn an_appender_that_had_applied_something_else_is_an_alarm() {
    let (mut world, ..) = World::with_charge_points(1);
    let honest = world.state(0).basis();
    let id = world.uuid();
    let mut other = honest;
    other.digest = Digest([7; 16]);
    let mut beyond = honest;
    beyond.seq += 1;
    let mut first = honest;
    first.seq = 0;
    for basis in [other, beyond, first] {
        let mut log = world.replicas[0].log.clone();
        let bytes = barrier(id, basis).encode();
        let alarm = log.apply(honest.seq + 1, &bytes).unwrap_err();
        assert_eq!(
            alarm,
            Alarm::DigestMismatch {
                at: basis.seq,
                by: "somebody".into()
            }
        );
        assert_eq!(log.state(), world.state(0), "nothing is applied");
    }
    let mut log = world.replicas[0].log.clone();
    let bytes = barrier(id, honest).encode();
    log.apply(honest.seq + 1, &bytes).unwrap();
}

#[test]
fn a_missing_or_repeated_position_is_an_alarm() {
    let (mut world, ..) = World::with_charge_points(1);
    world.catch_up_all();
    let applied = world.state(0).basis().seq;
    let bytes = barrier(world.uuid(), world.state(0).basis()).encode();
    let mut log = world.replicas[0].log.clone();
    for found in [0, 1, applied, applied + 2, u64::MAX] {
        assert_eq!(
            log.apply(found, &bytes).unwrap_err(),
            Alarm::Gap { applied, found }
        );
    }
    log.apply(applied + 1, &bytes).unwrap();
}

#[test]
fn a_message_changed_or_removed_behind_centrals_back_is_noticed() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    for victim in 0..world.ledger.len() - 1 {
        // Removed, and the rest moved up: what replay of a restored stream would see.
        let mut fewer = world.ledger.clone();
        fewer.remove(victim);
        let mut log = Log::default();
        let alarm = fewer
            .iter()
            .enumerate()
            .find_map(|(n, bytes)| log.apply(n as u64 + 1, bytes).err());
        assert!(
            matches!(alarm, Some(Alarm::DigestMismatch { .. })),
            "{victim}: {alarm:?}"
        );
        // Replaced by something that changes no state.
        let mut other = world.ledger.clone();
        other[victim] = b"junk".to_vec();
        let mut log = Log::default();
        let alarm = other
            .iter()
            .enumerate()
            .find_map(|(n, bytes)| log.apply(n as u64 + 1, bytes).err());
        assert!(
            matches!(alarm, Some(Alarm::DigestMismatch { .. })),
            "{victim}: {alarm:?}"
        );
    }
}

#[test]
fn a_change_is_noticed_however_much_stands_between_it_and_the_next_frame() {
    let (mut world, ..) = World::with_charge_points(1);
    let victim = world.ledger.len();
    for message in ["a", "b", "c"] {
        world.append_bytes(message.into());
    }
    world.catch_up_all();
    let frame = barrier(world.uuid(), world.state(0).basis());
    world.append(&frame);
    replay(&world.ledger);
    world.ledger[victim] = b"z".to_vec();
    world.uneven = true;
    let mut log = Log::default();
    let alarm = world
        .ledger
        .iter()
        .enumerate()
        .find_map(|(n, bytes)| log.apply(n as u64 + 1, bytes).err());
    assert!(
        matches!(alarm, Some(Alarm::DigestMismatch { .. })),
        "{alarm:?}"
    );
}

#[test]
fn a_stream_that_was_rewound_and_written_anew_is_noticed() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    world.ask(0, &start("alice", "r1", "CP-1")).session();
    // Replica 1 never saw the last message, which is lost; it goes on from there.
    world.ledger.pop();
    world.ask(1, &start("bob", "r1", "CP-1")).session();
    world.ask(1, &start("carol", "r1", "CP-2")).session();
    let seq = world.state(0).basis().seq;
    let next = world.ledger[usize::try_from(seq).unwrap()].clone();
    let alarm = world.replicas[0].log.apply(seq + 1, &next).unwrap_err();
    assert!(matches!(alarm, Alarm::DigestMismatch { .. }), "{alarm:?}");
}

#[test]
fn a_basis_older_than_the_snapshot_is_not_audited_and_its_records_are_judged() {
    let (mut world, ..) = World::with_charge_points(1);
    world.catch_up_all();
    let asking = start("alice", "r1", "CP-1");
    let frame = world.cut(0, &[asking.command()]);
    world.append_bytes(b"x".to_vec());
    world.catch_up_all();
    let mut log = Log::from_snapshot(world.state(0).clone());
    let seq = log.state().basis().seq;
    let applied = log.apply(seq + 1, &frame.encode()).unwrap();
    assert_eq!(applied.valid, [true]);
}

#[test]
fn junk_is_passed_over_alike_and_a_newer_format_stops() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    for junk in [&b""[..], b"EV", b"hello", b"\x80", b"evf1"] {
        world.append_bytes(junk.to_vec());
    }
    for replica in 0..2 {
        for applied in world.catch_up(replica) {
            assert!(applied.frame.is_none() && applied.valid.is_empty());
        }
    }
    assert_eq!(world.state(0), world.state(1));

    let whole = barrier(world.uuid(), world.state(0).basis()).encode();
    let mut newer = whole.clone();
    newer[3] += 1;
    let truncated = whole[..whole.len() - 1].to_vec();
    let mut frame = world.cut(0, &[start("alice", "r1", "CP-1").command()]);
    let mut unknown_kind = frame.encode();
    frame.records[0].kind = Kind::Forget;
    let other_kind = frame.encode();
    let differs = |at: &usize| unknown_kind[*at] != other_kind[*at];
    let at = (8..unknown_kind.len()).find(differs).unwrap();
    unknown_kind[at] = 0x7f;
    seal(&mut unknown_kind);
    let mut more = other_kind.clone();
    more.push(0);
    seal(&mut more);
    for (what, bytes) in [
        ("another version", newer),
        ("the magic alone", b"EVF".to_vec()),
        ("truncated", truncated),
        ("an unknown kind of record", unknown_kind),
        ("something behind its end", more),
    ] {
        let log = &mut world.replicas[0].log;
        let before = log.state().clone();
        let alarm = log.apply(before.basis().seq + 1, &bytes).unwrap_err();
        assert!(matches!(alarm, Alarm::Unreadable(_)), "{what}: {alarm:?}");
        assert_eq!(*log.state(), before, "{what}");
    }
}

/// Frames of a story that meets most kinds of records.
fn told_frames() -> Vec<Vec<u8>> {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let id = world.charging(&mut one, "alice", "r1");
    let over = world.charging(&mut two, "bob", "r1");
    world.ask(0, &start("carol", "r1", "CP-1")).code();
    world.ask(0, &stop("alice", "s1", id));
    world.ask(0, &write_off("w", over)).done();
    world.take(0, &mut two, vec![ended(over, Some(reading(T0, 1_080_000)))]);
    world.take(0, &mut one, vec![ended(id, Some(reading(T0, 1_000_000)))]);
    let before = world.state(0).basis().seq;
    world.run(0, &Command::Forget(forget(T0.plus_ms(SECOND), before)));
    world.ledger.clone()
}

#[test]
fn a_frame_in_which_a_bit_was_changed_is_not_read() {
    for frame in told_frames() {
        for bit in 0..frame.len() * 8 {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = Frame::decode(&changed);
            let junk = matches!(read, Ok(central_core::frame::Decoded::Junk));
            assert!(read.is_err() || (junk && bit < 24), "bit {bit}: {read:?}");
        }
    }
}

#[test]
fn whatever_follows_a_right_check_is_read_the_same_again_or_not_at_all() {
    for frame in told_frames() {
        for at in 8..frame.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, frame[at].wrapping_add(1)] {
                let mut changed = frame.clone();
                changed[at] = value;
                seal(&mut changed);
                if let Ok(central_core::frame::Decoded::Frame(read)) = Frame::decode(&changed) {
                    match Frame::decode(&read.encode()).unwrap() {
                        central_core::frame::Decoded::Frame(again) => assert_eq!(read, again),
                        central_core::frame::Decoded::Junk => panic!("junk"),
                    }
                }
            }
        }
    }
}

/// Whoever changes this has changed the format: frames that were written before must still be read,
/// and the digit of the magic goes up.
#[test]
fn frames_are_written_as_ever() {
    let mut all = blake3::Hasher::new();
    for frame in told_frames() {
        all.update(&frame);
    }
    assert_eq!(
        all.finalize().to_hex()[..32],
        *"4f8ca3268cc79ced73e54d0a11335165"
    );
}

#[test]
fn old_requests_alone_are_reason_enough_to_forget() {
    let keep = Keep {
        refusals_ms: HOUR,
        answers_ms: 2 * HOUR,
        sessions_ms: 100 * HOUR,
    };
    let (mut world, ..) = World::with_charge_points(1);
    let asked = start("alice", "r1", "nowhere");
    world.ask(0, &asked).code();
    let due = |world: &World| to_forget(world.state(0), keep, world.now, |_| true);
    // The operator's tariff is kept for longer than the refusal.
    world.now = asked.expires_at.plus_ms(HOUR - 1);
    assert_eq!(due(&world), None);
    world.later(1);
    let forget = due(&world).unwrap();
    assert_eq!(forget.horizon.until, asked.expires_at);
    assert!(world.run(0, &Command::Forget(forget)));
    assert_eq!(due(&world), None, "it is done");
    world.later(HOUR);
    assert!(due(&world).is_some(), "the tariff's request");
}

#[test]
fn a_frame_that_is_filled_record_by_record_is_the_one_that_is_written_at_once() {
    let (mut world, ..) = World::with_charge_points(1);
    let commands = ["CP-1", "CP-2"].map(|cp| start(cp, "r1", cp).command());
    let frame = world.cut(0, &commands);
    let mut builder = FrameBuilder::new(frame.at);
    for record in &frame.records {
        let alone = record.encoded_len();
        assert!(builder.push(record.clone()).unwrap() < alone);
    }
    let (built, bytes) = builder.finish(frame.id, frame.by.clone(), frame.basis);
    assert_eq!(built, frame);
    assert_eq!(bytes, frame.encode());
}

#[test]
fn a_full_frame_takes_nothing_more_and_is_as_if_nothing_had_been_tried() {
    let (mut world, ..) = World::with_charge_points(1);
    let frame = world.cut(0, &[start("alice", "r1", "CP-1").command()]);
    let small = frame.records[0].clone();
    let mut large = small.clone();
    large.evidence = vec![evidence(FRAME_BYTES_MAX / 2)];
    let mut larger = small.clone();
    larger.evidence = vec![evidence(FRAME_BYTES_MAX)];

    let mut builder = FrameBuilder::new(frame.at);
    assert_eq!(builder.push(larger.clone()), Err(Full), "of any frame");
    builder.push(large.clone()).unwrap();
    assert_eq!(builder.push(large.clone()), Err(Full));
    assert_eq!(builder.push(small.clone()), Err(Full));
    let (built, bytes) = builder.finish(frame.id, frame.by.clone(), frame.basis);
    assert!(bytes.len() <= FRAME_BYTES_MAX);
    assert_eq!(built.records, [large]);
    assert_eq!(bytes, built.encode());

    let mut builder = FrameBuilder::new(frame.at);
    for _ in 0..RECORDS_MAX {
        builder.push(small.clone()).unwrap();
    }
    assert_eq!(builder.push(small), Err(Full));
    assert_eq!(builder.records().len(), RECORDS_MAX);
}

fn evidence(bytes: usize) -> central_core::frame::Evidence {
    central_core::frame::Evidence {
        cp: cp_id("CP-1"),
        epoch: epoch("e1"),
        seq: 1,
        why: "for a test".into(),
        raw: vec![7; bytes],
    }
}

#[test]
fn an_empty_frame_is_a_position_of_its_own() {
    let (mut world, ..) = World::with_charge_points(2);
    world.catch_up_all();
    let basis = world.state(0).basis();
    let frames = [barrier(world.uuid(), basis), barrier(world.uuid(), basis)];
    for frame in &frames {
        world.append(frame);
    }
    let applied = world.catch_up(0);
    assert_eq!(applied.len(), 2);
    for (applied, frame) in applied.iter().zip(&frames) {
        assert_eq!(applied.frame.as_ref().unwrap().id, frame.id);
    }
}

#[test]
fn an_update_names_the_position_of_the_one_before_it() {
    let (mut world, mut one, _) = World::with_charge_points(1);
    let id = world.ask(0, &start("alice", "r1", "CP-1")).session();
    let mut seen = vec![0];
    for _ in 0..3 {
        let entry = world.state(0).session(id).unwrap();
        assert_eq!(entry.prev, *seen.last().unwrap());
        seen.push(entry.pos);
        world.append_bytes(b"in between".to_vec());
        world.catch_up_all();
        world.take(0, &mut one, vec![checkpoint(id, reading(T0, 1_000_000))]);
    }
    // Two records of one frame count as one position.
    let records = [
        one.record(T0, checkpoint(id, reading(T0, 1_000_001))),
        one.record(T0, checkpoint(id, reading(T0, 1_000_002))),
    ];
    let before = world.state(0).session(id).unwrap().pos;
    let runs = records.map(|record| one.run(vec![record]));
    let frame = world.cut(0, &runs);
    assert_eq!(frame.records.len(), 2);
    assert_eq!(world.commit(&frame), [true, true]);
    assert_eq!(world.state(0).session(id).unwrap().prev, before);
}

#[test]
fn an_answer_says_the_same_on_every_replica_and_after_a_restart() {
    let (mut world, ..) = World::with_charge_points(2);
    let asking = start("alice", "r1", "CP-1");
    let told = world.ask(0, &asking);
    let log = replay(&world.ledger);
    let key = (asking.asker.clone(), asking.id.clone());
    let recorded = &log.state().request(&key).unwrap().value;
    assert_eq!(Told::Answer(recorded.answer.clone()), told);
    assert!(matches!(recorded.answer, Answer::Started { .. }));
    assert_eq!(recorded.expires_at, asking.expires_at);
    // Whoever appended it is only a name.
    let by = ReplicaId::new("central-0").unwrap();
    let frame = match Frame::decode(world.ledger.last().unwrap()).unwrap() {
        central_core::frame::Decoded::Frame(frame) => frame,
        central_core::frame::Decoded::Junk => panic!("junk"),
    };
    assert_eq!(frame.by, by);
}
