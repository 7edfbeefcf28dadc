//! Whatever comes, in whatever order: no panic, no gap, no second opening, no second end, no second
//! answer.

use std::collections::{BTreeMap, BTreeSet};

use edge_core::{
    Command, Input, LocalStart, ReplyTo,
    hardware::{
        DeviceTx, HwAnswer, HwCommand, HwFact, HwPhase, HwReading, HwVerdict, OriginKey, RunningTx,
        StartNumber,
    },
};
use ev_contract::{
    connector::{Fault, FaultEffect},
    ids::ConnectorId,
    time::UnixMs,
    units::Mwh,
    v1::{EdgeFact, EndCode, EndReason, EndSource, Outcome},
};
use proptest::prelude::*;

use crate::bench::{Bench, session};

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Start {
        n: u128,
        connector: u16,
        expires_in: i64,
        idle: bool,
        limit: bool,
    },
    Stop(u128),
    Local(u16),
    LocalStop(u16),
    Plug(u16, bool, i64),
    TxStarted(u16, u8, u64, i64, Option<u8>),
    TxEnded(u16, u8, u64, i64, bool),
    Reading(u16, u64, u32, i64),
    Phase(u16, u8),
    Link(bool, Vec<u8>),
    Booted(Vec<u8>, i64),
    Fault(u16, u8),
    /// The verdict on the last commands that were sent.
    Answer(usize, u8),
    Sync,
    Reboot,
}

fn connector() -> impl Strategy<Value = u16> {
    1..=3u16
}

fn age() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 1 => 0..10_000i64, 1 => 0..10_000_000i64]
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_000..9_000u64, any::<u64>()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..90_000u64).prop_map(Step::Pass),
        (
            0..5u128,
            connector(),
            -5_000..30_000i64,
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(|(n, connector, expires_in, idle, limit)| Step::Start {
                n,
                connector,
                expires_in,
                idle,
                limit
            }),
        (0..6u128).prop_map(Step::Stop),
        connector().prop_map(Step::Local),
        connector().prop_map(Step::LocalStop),
        (connector(), any::<bool>(), age()).prop_map(|(c, p, a)| Step::Plug(c, p, a)),
        (
            connector(),
            0..4u8,
            register(),
            age(),
            proptest::option::of(0..3u8)
        )
            .prop_map(|(c, tx, r, a, s)| Step::TxStarted(c, tx, r, a, s)),
        (connector(), 0..4u8, register(), age(), any::<bool>())
            .prop_map(|(c, tx, r, a, o)| Step::TxEnded(c, tx, r, a, o)),
        (connector(), register(), 1..3u32, age())
            .prop_map(|(c, r, e, a)| Step::Reading(c, r, e, a)),
        (connector(), 0..3u8).prop_map(|(c, p)| Step::Phase(c, p)),
        (any::<bool>(), proptest::collection::vec(0..4u8, 0..3))
            .prop_map(|(u, r)| Step::Link(u, r)),
        (proptest::collection::vec(0..4u8, 0..3), age()).prop_map(|(r, a)| Step::Booted(r, a)),
        (connector(), 0..4u8).prop_map(|(c, f)| Step::Fault(c, f)),
        (0..4usize, 0..4u8).prop_map(|(n, v)| Step::Answer(n, v)),
        Just(Step::Sync),
        Just(Step::Reboot),
    ]
}

struct World {
    bench: Bench,
    sent: Vec<HwCommand>,
    answers: BTreeMap<String, (Outcome, Option<ev_contract::codes::Code>)>,
}

impl World {
    fn feed(&mut self, input: Input) {
        let fx = self.bench.feed(input);
        self.sent.extend(fx.hardware);
        for (_, answer) in fx.replies {
            if answer.outcome == Outcome::NotYet {
                continue;
            }
            let id = answer.command_id.unwrap().to_string();
            let word = (answer.outcome, answer.code);
            let first = self.answers.entry(id).or_insert(word);
            assert_eq!(*first, word, "a second answer");
        }
    }

    fn reading(&self, register: u64, epoch: u32, at: UnixMs) -> HwReading {
        HwReading {
            at,
            meter_epoch: epoch,
            ..self.bench.reading(register)
        }
    }

    fn running(list: Vec<u8>) -> Option<Vec<RunningTx>> {
        let one = |n: u8| RunningTx {
            connector: ConnectorId(u16::from(n % 2) + 1),
            device_tx: DeviceTx(n.to_string()),
            origin: None,
        };
        (!list.is_empty()).then(|| list.into_iter().map(one).collect())
    }

    fn carry_out(&mut self, step: Step) {
        let wall = self.bench.wall;
        match step {
            Step::Pass(ms) => {
                let sent = self.bench.pass(ms);
                self.sent.extend(sent);
            }
            Step::Start {
                n,
                connector,
                expires_in,
                idle,
                limit,
            } => {
                let mut start = self.bench.start_command(n, ConnectorId(connector));
                start.expires_at = wall.plus_ms(expires_in);
                start.idle_s_max = u32::from(idle) * 30;
                start.limits.energy_mwh = limit.then_some(Mwh(2_000));
                self.feed(Input::Command {
                    command: Command::Start(start),
                    reply_to: ReplyTo(1),
                });
            }
            Step::Stop(n) => {
                let command = self.bench.stop_command(session(n), EndSource::Driver);
                self.feed(Input::Command {
                    command,
                    reply_to: ReplyTo(1),
                });
            }
            Step::Local(connector) => self.feed(Input::LocalStart {
                start: LocalStart {
                    connector: ConnectorId(connector),
                    token: None,
                    free: false,
                },
                reply_to: ReplyTo(1),
            }),
            Step::LocalStop(connector) => self.feed(Input::LocalStop {
                connector: ConnectorId(connector),
                reply_to: ReplyTo(1),
            }),
            Step::Plug(connector, plugged, age) => self.feed(Input::Fact(HwFact::Plug {
                at: wall.plus_ms(-age),
                connector: ConnectorId(connector),
                plugged,
            })),
            Step::TxStarted(connector, tx, register, age, start) => {
                let at = wall.plus_ms(-age);
                let numbers: Vec<StartNumber> = self
                    .sent
                    .iter()
                    .rev()
                    .filter_map(|c| match c {
                        HwCommand::Start { start_number, .. } => Some(*start_number),
                        _ => None,
                    })
                    .collect();
                let start_number = start.and_then(|n| numbers.get(usize::from(n)).copied());
                let reading = self.reading(register, 1, at);
                self.feed(Input::Fact(HwFact::TxStarted {
                    at,
                    connector: ConnectorId(connector),
                    device_tx: DeviceTx(tx.to_string()),
                    origin: OriginKey(format!("{connector}/{tx}/{}", at.0 / 60_000)),
                    start_number,
                    reading,
                }));
            }
            Step::TxEnded(connector, tx, register, age, read) => {
                let at = wall.plus_ms(-age);
                let reading = read.then(|| self.reading(register, 1, at));
                self.feed(Input::Fact(HwFact::TxEnded {
                    at,
                    connector: ConnectorId(connector),
                    device_tx: DeviceTx(tx.to_string()),
                    origin: None,
                    start_number: None,
                    reason: EndReason::new(EndCode::EvStopped, EndSource::Vehicle),
                    reading,
                }));
            }
            Step::Reading(connector, register, epoch, age) => {
                let reading = self.reading(register, epoch, wall.plus_ms(-age));
                self.feed(Input::Fact(HwFact::Reading {
                    connector: ConnectorId(connector),
                    reading,
                }));
            }
            Step::Phase(connector, n) => {
                let phase = [
                    HwPhase::Charging,
                    HwPhase::SuspendedEv,
                    HwPhase::SuspendedEvse,
                ][usize::from(n)];
                self.feed(Input::Fact(HwFact::Phase {
                    at: wall,
                    connector: ConnectorId(connector),
                    device_tx: None,
                    phase,
                    reading: None,
                }));
            }
            Step::Link(up, list) => self.feed(Input::Fact(HwFact::Link {
                at: wall,
                up,
                running: Self::running(list),
            })),
            Step::Booted(list, age) => self.feed(Input::Fact(HwFact::Booted {
                at: wall.plus_ms(-age),
                raw: None,
                running: Self::running(list),
            })),
            Step::Fault(connector, n) => {
                let effect = FaultEffect::ALL.get(usize::from(n)).copied();
                self.feed(Input::Fact(HwFact::Fault {
                    at: wall,
                    connector: ConnectorId(connector),
                    fault: effect.map(|effect| Fault {
                        effect,
                        raw: "é".repeat(200),
                    }),
                }));
            }
            Step::Answer(n, verdict) => {
                let verdict = [
                    HwVerdict::Accepted,
                    HwVerdict::Rejected,
                    HwVerdict::Unsupported,
                    HwVerdict::Unknown,
                ][usize::from(verdict)];
                if let Some(command) = self.sent.iter().rev().nth(n).cloned() {
                    self.feed(Input::Answer(HwAnswer {
                        command,
                        verdict,
                        raw: None,
                    }));
                }
            }
            Step::Sync => self.bench.sync(),
            Step::Reboot => self.bench.reboot(5_000),
        }
    }

    fn check(&self) {
        let mut open = BTreeSet::new();
        let mut known = BTreeSet::new();
        let mut begun = BTreeSet::new();
        for record in &self.bench.records {
            match &record.fact {
                EdgeFact::Accepted { session_id, .. }
                | EdgeFact::OpenedAtEdge { session_id, .. } => {
                    assert!(known.insert(*session_id), "opened twice");
                    open.insert(*session_id);
                }
                EdgeFact::Started { session_id, .. } => {
                    assert!(open.contains(session_id), "begun while not open");
                    assert!(begun.insert(*session_id), "begun twice");
                }
                EdgeFact::Ended {
                    session_id,
                    completed,
                    reading,
                    ..
                } => {
                    assert!(open.remove(session_id), "ended while not open");
                    assert_eq!(*completed, begun.contains(session_id));
                    assert_eq!(*completed, reading.is_some());
                }
                EdgeFact::Phase { session_id, .. } | EdgeFact::EnergyEnded { session_id, .. } => {
                    assert!(open.contains(session_id), "told after its end");
                }
                EdgeFact::Checkpoint { session_id, .. } => {
                    assert!(begun.contains(session_id), "read before it began");
                }
                EdgeFact::Connector { .. } | EdgeFact::Booted { .. } | EdgeFact::Anomaly { .. } => {
                }
            }
        }
        let running: BTreeSet<_> = self.bench.core.open_sessions().collect();
        assert_eq!(open, running, "what is open in the records is open here");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_sessions_open_once_and_end_once_and_answers_stand(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut world = World {
            bench: Bench::warm(),
            sent: vec![],
            answers: BTreeMap::new(),
        };
        for step in steps {
            world.carry_out(step);
        }
        world.check();
    }
}
