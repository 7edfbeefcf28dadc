use edge_core::{
    Command, EvtOutcome, Input, LocalAnswer, ReplyTo, Row, Standing,
    hardware::{HwCommand, HwVerdict},
};
use ev_contract::{
    codes::Code,
    connector::{Fault, FaultEffect, Service},
    ids::{BootId, CommandId, ConnectorId, Epoch},
    units::MilliAmp,
    v1::{
        EdgeFact, EndSource, LimitCommand, Outcome, PingCommand, ResetCommand, StartCommand,
        UnlockCommand,
    },
    wire::Tag,
};

use crate::bench::{BOOT, Bench, ONE, cp, outcome, session, stops};

/// What comes before a start, the start itself, and what becomes of it.
type Case = (
    &'static str,
    fn(&mut Bench),
    fn(&mut StartCommand),
    Outcome,
    Option<Code>,
);

#[test]
fn a_start_is_taken_or_refused_for_its_reason_and_every_final_word_is_stored() {
    use Outcome::{NotYet, Refused, Taken};
    let table: &[Case] = &[
        ("free", |_| {}, |_| {}, Taken, None),
        ("plugged", |b| drop(b.plug(ONE, true)), |_| {}, Taken, None),
        (
            "late",
            |_| {},
            |s| s.expires_at = s.ts.plus_ms(-100),
            Refused,
            Some(Code::Late),
        ),
        (
            "another epoch",
            |_| {},
            |s| s.epoch = Epoch::new("e0").unwrap(),
            Refused,
            Some(Code::WrongEpoch),
        ),
        (
            "no such connector",
            |_| {},
            |s| s.connector = ConnectorId(9),
            Refused,
            Some(Code::UnknownConnector),
        ),
        (
            "busy with central's",
            |b| drop(b.start(b.start_command(7, ONE))),
            |_| {},
            Refused,
            Some(Code::Occupied),
        ),
        (
            "busy with a local one",
            |b| assert!(matches!(b.start_locally(ONE), LocalAnswer::Started(_))),
            |_| {},
            Refused,
            Some(Code::OccupiedLocally),
        ),
        (
            "out of service",
            |b| drop(b.set_service(Service::Out, 1)),
            |_| {},
            Refused,
            Some(Code::OutOfService),
        ),
        (
            "hardware away",
            |b| drop(b.link(false)),
            |_| {},
            Refused,
            Some(Code::ChargerOffline),
        ),
        (
            "faulted",
            |b| inject(b, FaultEffect::Suspends),
            |_| {},
            Refused,
            Some(Code::Faulted),
        ),
        (
            "warned",
            |b| inject(b, FaultEffect::Warning),
            |_| {},
            Taken,
            None,
        ),
        (
            "disk full",
            |b| b.core.storage_failed("full".into()),
            |_| {},
            NotYet,
            Some(Code::StorageFailed),
        ),
        (
            "stopped before",
            |b| assert_eq!(outcome(&b.stop(session(1))).0, Outcome::Absent),
            |_| {},
            Refused,
            Some(Code::StoppedBeforeStart),
        ),
        (
            "stopped before and late",
            |b| assert_eq!(outcome(&b.stop(session(1))).0, Outcome::Absent),
            |s| s.expires_at = s.ts.plus_ms(-100),
            Refused,
            Some(Code::StoppedBeforeStart),
        ),
    ];
    for (name, before, change, wanted, code) in table {
        let mut bench = Bench::warm();
        before(&mut bench);
        let mut start = bench.start_command(1, ONE);
        change(&mut start);
        let id = start.command_id.clone();
        let fx = bench.start(start.clone());
        assert_eq!(outcome(&fx), (*wanted, *code), "{name}");
        let stored = fx
            .rows
            .iter()
            .any(|r| matches!(r, Row::Command(c) if c.command_id == id));
        assert_eq!(stored, *wanted != NotYet, "{name}: stored with its answer");
        if *wanted != NotYet {
            bench.pass(60_000);
            let again = bench.start(start);
            assert_eq!(outcome(&again), (*wanted, *code), "{name}, repeated");
            assert!(
                !again.rows.iter().any(|r| matches!(r, Row::Command(_))),
                "{name}: a repeat stores nothing"
            );
        }
    }
}

fn inject(bench: &mut Bench, effect: FaultEffect) {
    let at = bench.wall;
    bench.fact(edge_core::hardware::HwFact::Fault {
        at,
        connector: ONE,
        fault: Some(Fault {
            effect,
            raw: "x".into(),
        }),
    });
}

#[test]
fn while_the_time_is_unsure_a_known_start_is_answered_and_an_unknown_one_must_wait() {
    let mut bench = Bench::cold();
    bench.link(true);
    let start = bench.start_command(1, ONE);
    let fx = bench.start(start.clone());
    assert_eq!(outcome(&fx), (Outcome::NotYet, Some(Code::ClockUnsure)));
    bench.sync();
    assert_eq!(outcome(&bench.start(start.clone())).0, Outcome::Taken);
    bench.reboot(1_000);
    assert_eq!(outcome(&bench.start(start)).0, Outcome::Taken);
    let other = bench.start_command(2, ONE);
    assert_eq!(
        outcome(&bench.start(other)),
        (Outcome::NotYet, Some(Code::ClockUnsure))
    );
}

#[test]
fn results_and_stops_for_sessions_never_seen_outlive_a_reboot() {
    let mut bench = Bench::warm();
    assert_eq!(outcome(&bench.stop(session(1))).0, Outcome::Absent);
    bench.reboot(500);
    bench.sync();
    bench.link(true);
    assert_eq!(outcome(&bench.stop(session(1))).0, Outcome::Absent);
    let start = bench.start_command(1, ONE);
    assert_eq!(
        outcome(&bench.start(start)),
        (Outcome::Refused, Some(Code::StoppedBeforeStart))
    );
}

#[test]
fn until_the_hardware_is_heard_after_boot_a_start_must_wait() {
    let mut bench = Bench::cold();
    bench.sync();
    let start = bench.start_command(1, ONE);
    let fx = bench.start(start.clone());
    assert_eq!(outcome(&fx), (Outcome::NotYet, Some(Code::ChargerOffline)));
    bench.pass(11_000);
    assert_eq!(
        outcome(&bench.start(start)),
        (Outcome::Refused, Some(Code::ChargerOffline))
    );
}

#[test]
fn a_stop_is_stored_answered_and_sent_until_the_hardware_confirms() {
    let (mut bench, id) = Bench::charging(|_| {});
    let fx = bench.stop(id);
    assert_eq!(outcome(&fx).0, Outcome::Stopping);
    assert!(fx.rows.iter().any(|r| matches!(r, Row::Command(_))));
    assert_eq!(stops(&fx.hardware), 1);
    let sent = stops(&bench.pass(300_000));
    assert!((8..40).contains(&sent), "{sent} in five minutes");
    bench.reboot(60_000);
    bench.sync();
    assert_eq!(stops(&bench.link_with(&["tx-1"], ONE).hardware), 1);
    bench.tx_ended(ONE, "tx-1", ev_contract::v1::EndCode::Other, 9_000);
    assert_eq!(bench.last_told(id), "completed driver 9000");
    assert_eq!(stops(&bench.pass(120_000)), 0);
    assert_eq!(
        outcome(&bench.stop(id)).0,
        Outcome::Stopping,
        "a repeat gets the first result"
    );
}

#[test]
fn a_stop_for_an_ended_session_says_so() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.tx_ended(ONE, "tx-1", ev_contract::v1::EndCode::EvStopped, 9_000);
    assert_eq!(outcome(&bench.stop(id)).0, Outcome::Ended);
}

#[test]
fn a_stop_while_the_disk_is_full_is_carried_out_and_answered_later() {
    let (mut bench, id) = Bench::charging(|_| {});
    bench.core.storage_failed("full".into());
    let command = bench.stop_command(id, EndSource::Driver);
    let fx = bench.feed_unstored(edge_core::Input::Command {
        command,
        reply_to: edge_core::ReplyTo(1),
    });
    assert_eq!(outcome(&fx), (Outcome::NotYet, Some(Code::StorageFailed)));
    assert_eq!(stops(&fx.hardware), 1);
}

#[test]
fn an_older_change_of_service_is_passed_over_and_out_waits_for_the_session() {
    let (mut bench, _) = Bench::charging(|_| {});
    let service = |bench: &Bench| {
        bench
            .records
            .iter()
            .rev()
            .find_map(|r| match r.fact {
                EdgeFact::Connector {
                    connector: ONE,
                    service,
                    service_revision,
                    ..
                } => Some((service, service_revision)),
                _ => None,
            })
            .unwrap()
    };
    assert_eq!(
        outcome(&bench.set_service(Service::Out, 5)).0,
        Outcome::Done
    );
    assert_eq!(service(&bench), (Service::OutAfterSession, 5));
    assert_eq!(outcome(&bench.set_service(Service::In, 4)).0, Outcome::Done);
    assert_eq!(service(&bench), (Service::OutAfterSession, 5));
    bench.tx_ended(ONE, "tx-1", ev_contract::v1::EndCode::EvStopped, 9_000);
    assert_eq!(service(&bench), (Service::Out, 5));
}

#[test]
fn a_limit_is_passed_on_bounded_and_falls_back_in_time() {
    let mut bench = Bench::warm();
    let limit = |max: u32, n: u32, bench: &Bench| {
        Command::SetLimit(LimitCommand {
            tag: Tag::new(),
            boot: BOOT,
            to: cp(),
            command_id: CommandId::new(format!("limit-{n}")).unwrap(),
            connector: ONE,
            max_ma: MilliAmp(max),
            phases: None,
            valid_until: bench.wall.plus_ms(30_000),
            fallback_ma: MilliAmp(8_000),
            ts: bench.wall,
        })
    };
    let command = limit(99_000, 1, &bench);
    let fx = bench.command(command);
    let set = |ma| HwCommand::SetLimit {
        connector: ONE,
        max_ma: MilliAmp(ma),
        phases: None,
    };
    assert_eq!(fx.hardware, [set(16_000)]);
    assert_eq!(bench.pass(31_000), [set(8_000)]);
    bench.link(false);
    assert_eq!(bench.link(true).hardware, [set(8_000)]);
}

#[test]
fn unlock_and_reset_are_answered_with_the_hardwares_word_or_none() {
    let unlock = |bench: &Bench, n: u32| {
        Command::Unlock(UnlockCommand {
            tag: Tag::new(),
            boot: BOOT,
            to: cp(),
            command_id: CommandId::new(format!("unlock-{n}")).unwrap(),
            connector: ONE,
            expires_at: bench.wall.plus_ms(10_000),
            ts: bench.wall,
        })
    };
    let table = [
        (HwVerdict::Accepted, (Outcome::Done, None)),
        (
            HwVerdict::Rejected,
            (Outcome::Refused, Some(Code::RejectedByCharger)),
        ),
        (
            HwVerdict::Unsupported,
            (Outcome::Refused, Some(Code::Unsupported)),
        ),
    ];
    for (verdict, wanted) in table {
        let mut bench = Bench::warm();
        let command = unlock(&bench, 1);
        let fx = bench.command(command.clone());
        assert!(fx.replies.is_empty(), "the hardware has the word");
        bench.command(command.clone());
        let fx = bench.answer(fx.hardware[0].clone(), verdict);
        assert_eq!(fx.replies.len(), 2, "both askers are answered");
        assert!(
            fx.replies
                .iter()
                .all(|(_, a)| (a.outcome, a.code) == wanted)
        );
        assert_eq!(outcome(&bench.command(command)), wanted);
    }
    let mut bench = Bench::warm();
    let reset = Command::Reset(ResetCommand {
        tag: Tag::new(),
        boot: BOOT,
        to: cp(),
        command_id: CommandId::new("reset-1").unwrap(),
        expires_at: bench.wall.plus_ms(10_000),
        ts: bench.wall,
    });
    assert_eq!(bench.command(reset.clone()).hardware, [HwCommand::Reset]);
    bench.pass(5_000);
    assert_eq!(
        outcome(&bench.command(reset)),
        (Outcome::Refused, Some(Code::NoAnswer))
    );
}

#[test]
fn a_ping_is_answered_and_stored_nowhere() {
    let mut bench = Bench::cold();
    bench.feed(Input::Tick);
    let fx = bench.command(Command::Ping(PingCommand {
        tag: Tag::new(),
        to: cp(),
        ts: bench.wall,
    }));
    assert_eq!(outcome(&fx), (Outcome::Done, None));
    assert!(fx.rows.is_empty());
}

#[test]
fn a_start_and_stop_without_a_car_can_be_repeated_for_ever() {
    let mut bench = Bench::warm();
    for n in 0..500 {
        let start = bench.start_command(n, ONE);
        let id = start.session_id;
        assert_eq!(outcome(&bench.start(start)).0, Outcome::Taken);
        assert_eq!(outcome(&bench.stop(id)).0, Outcome::Stopping);
        assert_eq!(bench.last_told(id), "failed driver -");
    }
}

/// Says that another agent with this identity is obeyed.
fn not_obeyed(bench: &mut Bench) {
    let (sent_mono_ms, ts) = (bench.mono_ms, bench.wall);
    bench.feed(Input::Synced {
        sent_mono_ms,
        ts,
        epoch: String::new(),
        next: 0,
        standing: Standing::NotObeyed,
    });
}

#[test]
fn what_is_for_another_start_of_the_agent_is_neither_done_nor_answered() {
    let mut bench = Bench::warm();
    let mut start = bench.start_command(1, ONE);
    start.boot = BootId::from_number(2);
    let fx = bench.start(start.clone());
    assert!(fx.replies.is_empty() && fx.rows.is_empty(), "{fx:?}");
    assert!(bench.core.open_sessions().next().is_none());
    // The same, once it is for this one.
    start.boot = BOOT;
    let fx = bench.start(start);
    assert_eq!(outcome(&fx), (Outcome::Taken, None));
}

#[test]
fn a_stop_of_what_runs_here_is_carried_out_whoever_it_is_for() {
    let (mut bench, id) = Bench::charging(|_| {});
    let Command::Stop(mut stop) = bench.stop_command(id, EndSource::Driver) else {
        unreachable!("it is a stop");
    };
    stop.boot = BootId::from_number(2);
    let fx = bench.command(Command::Stop(stop));
    assert!(fx.replies.is_empty(), "{fx:?}");
    assert_eq!(stops(&fx.hardware), 1);
}

#[test]
fn what_runs_on_an_agent_that_is_not_obeyed_goes_on_and_says_so() {
    let (mut bench, id) = Bench::charging(|_| {});
    not_obeyed(&mut bench);
    let depth = bench.core.spool().depth();
    assert!(bench.core.is_other());
    let health = bench.core.health(ev_contract::v1::TimeQuality::Synced);
    assert_eq!(health, ["identity_in_use"]);
    assert_eq!(bench.pass(60_000), [], "a car is not cut off");
    assert_eq!(bench.core.open_sessions().collect::<Vec<_>>(), [id]);
    assert!(bench.core.spool().depth() > depth, "its energy is recorded");
    let ping = PingCommand {
        tag: Tag::new(),
        to: cp(),
        ts: bench.wall,
    };
    let fx = bench.feed(Input::Command {
        command: Command::Ping(ping),
        reply_to: ReplyTo(0),
    });
    assert!(
        fx.replies.is_empty(),
        "it does not speak for the charge point"
    );
    bench.sync();
    assert!(!bench.core.is_other());
    assert!(
        bench
            .core
            .health(ev_contract::v1::TimeQuality::Synced)
            .is_empty()
    );
}

#[test]
fn a_copy_of_the_records_goes_up_once_and_all_stay_here() {
    let (mut bench, _) = Bench::charging(|_| {});
    bench.sync();
    let (first, next) = (bench.core.spool().first(), bench.core.spool().next());
    not_obeyed(&mut bench);
    let run = bench.core.next_run(bench.now(), 0).unwrap();
    assert_eq!((run.first, run.from), (first, first));
    let answer = |aside| Input::Evt(EvtOutcome::NotObeyed { aside });
    // Half of it lies in the ledger, then all.
    bench.feed(answer(Some(first + 1)));
    let run = bench.core.next_run(bench.now(), 0).unwrap();
    assert_eq!((run.first, run.from), (first, first + 1));
    let fx = bench.feed(answer(Some(next)));
    assert!(fx.rows.iter().all(|row| !matches!(row, Row::Free { .. })));
    assert_eq!(bench.core.next_run(bench.now(), 0), None);
    assert_eq!(bench.core.spool().first(), first);
    // It is obeyed again: everything is sent from the beginning.
    bench.sync();
    assert_eq!(bench.core.next_run(bench.now(), 0).unwrap().from, first);
}

#[test]
fn what_central_keeps_no_more_of_is_not_sent_again_and_again() {
    let (mut bench, _) = Bench::charging(|_| {});
    not_obeyed(&mut bench);
    let first = bench.core.spool().first();
    let answer = |aside| Input::Evt(EvtOutcome::NotObeyed { aside });
    assert!(bench.core.next_run(bench.now(), 0).is_some());
    // It does not know this agent: the next sync tells it.
    bench.feed(answer(None));
    assert_eq!(bench.core.next_run(bench.now(), 0), None);
    not_obeyed(&mut bench);
    assert!(bench.core.next_run(bench.now(), 0).is_some());
    // It has as many as it keeps.
    bench.feed(answer(Some(first)));
    not_obeyed(&mut bench);
    bench.pass(120_000);
    assert_eq!(bench.core.next_run(bench.now(), 0), None);
}

#[test]
fn a_start_of_the_agent_is_confirmed_on_the_disk_once() {
    let mut bench = Bench::cold();
    let confirmed = |bench: &mut Bench| {
        let (sent_mono_ms, ts) = (bench.mono_ms, bench.wall);
        let fx = bench.feed(Input::Synced {
            sent_mono_ms,
            ts,
            epoch: "e1".into(),
            next: 1,
            standing: Standing::Obeyed,
        });
        fx.rows
            .iter()
            .filter(|row| **row == Row::Confirmed(BOOT))
            .count()
    };
    assert_eq!(bench.core.this_boot().after, None);
    assert_eq!(confirmed(&mut bench), 1);
    assert_eq!(bench.core.this_boot().after, Some(BOOT));
    assert_eq!(confirmed(&mut bench), 0);
}
