//! The agent's core under any sequence of inputs. A disk keeps what is committed, as the store
//! would, and the agent is started again from it at any time.

use std::collections::{BTreeMap, BTreeSet};

use edge_core::{
    ChargePoint, Command, Draw, Effects, EvtOutcome, Identity, Input, LocalStart, ReplyTo, Row,
    Standing, Stored,
    connector::ConnectorRow,
    effects::CommandRow,
    hardware::{
        DeviceTx, HwAnswer, HwCommand, HwFact, HwPhase, HwReading, HwVerdict, OriginKey, RunningTx,
        StartNumber,
    },
    session::SessionRow,
    transactions::TxRow,
};
use ev_contract::{
    connector::{Fault, FaultEffect, Service},
    ids::{BootId, CommandId, ConnectorId, CpId, DriverId, Epoch, SessionId},
    time::{Now, UnixMs},
    units::{MilliAmp, MilliWatt, Mwh},
    v1::{
        ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, LimitCommand, Limits,
        Outcome, PingCommand, ResetCommand, ServiceCommand, StartCommand, StopCommand,
        UnlockCommand,
    },
    wire::Tag,
};
use uuid::Uuid;

use crate::input::Choices;

/// More inputs than this show nothing that fewer do not.
const INPUTS_MAX: usize = 400;
const BOOT: BootId = BootId::from_number(1);
const T0: UnixMs = UnixMs(1_760_000_000_000);

pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut cabinet = Cabinet::new();
    for _ in 0..INPUTS_MAX {
        if choices.is_empty() {
            break;
        }
        cabinet.step(&mut choices);
    }
    // Whatever happened, the agent starts again from what is on its disk.
    cabinet.restart();
    cabinet.step(&mut Choices::new(&[]));
}

/// What is committed.
#[derive(Default)]
struct Disk {
    next: u64,
    spool: BTreeMap<u64, EdgeRecord>,
    sessions: BTreeMap<SessionId, SessionRow>,
    commands: BTreeMap<CommandId, CommandRow>,
    txs: BTreeMap<OriginKey, TxRow>,
    connectors: BTreeMap<ConnectorId, ConnectorRow>,
}

/// What records have said of a session.
#[derive(Default)]
struct Told {
    begun: bool,
    started: bool,
    energy_ended: bool,
    ended: bool,
}

struct Cabinet {
    core: ChargePoint,
    disk: Disk,
    /// Rows that wait while the disk fails.
    unstored: Vec<Row>,
    /// Rows of the next input are not taken.
    disk_fails: bool,
    now: Now,
    drawn: u64,
    told: BTreeMap<SessionId, Told>,
    starts: BTreeSet<u32>,
    /// First results of starts and stops.
    results: BTreeMap<CommandId, Outcome>,
    /// Who waits for which command.
    asked: BTreeMap<ReplyTo, CommandId>,
}

fn identity() -> Identity {
    let connector = |number| ConnectorSpec {
        connector: ConnectorId(number),
        max_ma: MilliAmp(16_000),
        phases: 3,
        volts: 230,
        plug: None,
    };
    Identity {
        cp_id: cp(),
        connectors: vec![connector(1), connector(2)],
        free_vending: false,
    }
}

fn cp() -> CpId {
    CpId::new("CP-1").expect("a valid id")
}

fn epoch() -> Epoch {
    Epoch::new("e1").expect("a valid epoch")
}

fn session(n: u64) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(
        0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(n),
    ))
}

impl Cabinet {
    fn new() -> Self {
        let disk = Disk {
            next: 1,
            ..Disk::default()
        };
        let now = Now {
            mono_ms: 0,
            wall: T0,
        };
        Self {
            core: ChargePoint::boot(identity(), disk.stored(), BOOT, now),
            disk,
            unstored: Vec::new(),
            disk_fails: false,
            now,
            drawn: 0,
            told: BTreeMap::new(),
            starts: BTreeSet::new(),
            results: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    fn restart(&mut self) {
        self.unstored.clear();
        self.asked.clear();
        self.core = ChargePoint::boot(identity(), self.disk.stored(), BOOT, self.now);
    }

    fn step(&mut self, c: &mut Choices<'_>) {
        self.now.mono_ms += u64::from(c.byte()) * 20;
        self.now.wall = match c.byte() {
            0..=239 => self.now.wall.plus_ms(1_000),
            _ => c.time(T0),
        };
        match c.byte() % 16 {
            0 => self.restart(),
            1 => self.disk_fails = !self.disk_fails,
            2 => {
                // As the shell does from time to time while the disk fails.
                if self.core.storage_problem().is_some() && !self.disk_fails {
                    self.commit_waiting();
                }
            }
            3 => {
                let _ = self.core.next_run(self.now, c.u64());
            }
            4 => {
                let next = match c.byte() {
                    0..=199 => self.disk.next,
                    200..=249 => c.number(),
                    250.. => self.disk.next.saturating_add(c.number()),
                };
                self.feed(c, |c| {
                    Input::Evt(match c.below(6) {
                        0 => EvtOutcome::Unanswered,
                        1 => EvtOutcome::Busy {
                            retry_after_ms: c.number(),
                        },
                        2 => EvtOutcome::Answered {
                            epoch: c.text(),
                            next,
                            refused: c.yes(),
                        },
                        _ => EvtOutcome::Answered {
                            epoch: "e1".into(),
                            next,
                            refused: c.rarely(8),
                        },
                    })
                });
            }
            5 => {
                let mono_ms = self.now.mono_ms;
                self.feed(c, |c| Input::Synced {
                    sent_mono_ms: mono_ms.saturating_sub(c.number()),
                    ts: c.time(T0),
                    epoch: if c.rarely(8) { c.text() } else { "e1".into() },
                    next: c.number(),
                    standing: Standing::Obeyed,
                });
            }
            6 => self.feed(c, |_| Input::UplinkUp),
            7 => self.feed(c, |_| Input::Tick),
            8 | 9 => self.command(c),
            10 => {
                let reply_to = self.draw_reply();
                self.feed(c, |c| {
                    if c.yes() {
                        Input::LocalStart {
                            start: LocalStart {
                                connector: connector(c),
                                token: c.maybe(Choices::text),
                                free: c.yes(),
                            },
                            reply_to,
                        }
                    } else {
                        Input::LocalStop {
                            connector: connector(c),
                            reply_to,
                        }
                    }
                });
            }
            11 => {
                let numbers: Vec<u32> = self.starts.iter().copied().collect();
                self.feed(c, |c| Input::Answer(answer(c, &numbers)));
            }
            _ => {
                let numbers: Vec<u32> = self.starts.iter().copied().collect();
                let now = self.now.wall;
                self.feed(c, |c| Input::Fact(fact(c, now, &numbers)));
            }
        }
    }

    fn command(&mut self, c: &mut Choices<'_>) {
        let (now, reply_to) = (self.now.wall, self.draw_reply());
        let command = command(c, now);
        let id = match &command {
            Command::Start(start) => Some(start.command_id.clone()),
            Command::Stop(stop) => Some(stop.command_id.clone()),
            Command::SetLimit(_)
            | Command::Unlock(_)
            | Command::SetService(_)
            | Command::Reset(_)
            | Command::Ping(_) => None,
        };
        if let Some(id) = id {
            self.asked.insert(reply_to, id);
        }
        self.feed(c, |_| Input::Command { command, reply_to });
    }

    fn draw_reply(&mut self) -> ReplyTo {
        self.drawn += 1;
        ReplyTo(self.drawn)
    }

    /// One input, as the shell gives it: rows first, and only then what follows from them.
    fn feed(&mut self, c: &mut Choices<'_>, make: impl FnOnce(&mut Choices<'_>) -> Input) {
        self.drawn += 1;
        let draw = Draw {
            session_id: session(0x1000 + self.drawn),
            start_number: u32::from(c.byte()) + 1,
            random: c.u64(),
        };
        let input = make(c);
        let before = self.core.clone();
        let mut fx = self.core.handle(input.clone(), self.now, draw);
        let rows = std::mem::take(&mut fx.rows);
        if self.core.storage_problem().is_some() {
            self.unstored.extend(rows);
        } else if rows.is_empty() {
        } else if self.disk_fails {
            if input.must_be_stored() {
                self.core = before;
                self.core.storage_failed("full".into());
                fx = self.core.handle(input, self.now, draw);
                self.unstored = std::mem::take(&mut fx.rows);
            } else {
                self.core.storage_failed("full".into());
                self.unstored = rows;
            }
        } else {
            self.disk.commit(rows, &mut self.told);
            self.core.stored();
        }
        self.look(fx);
    }

    fn commit_waiting(&mut self) {
        let rows = std::mem::take(&mut self.unstored);
        self.disk.commit(rows, &mut self.told);
        self.core.stored();
    }

    /// What leaves must be on the disk.
    fn look(&mut self, fx: Effects) {
        for command in fx.hardware {
            if let HwCommand::Start { start_number, .. } = command {
                self.starts.insert(start_number.0);
            }
        }
        for (reply_to, answer) in fx.replies {
            assert_eq!(answer.epoch, epoch());
            let Some(id) = self.asked.remove(&reply_to) else {
                continue;
            };
            assert_eq!(answer.command_id.as_ref(), Some(&id));
            // A result that is on the disk is the result for ever.
            if let Some(row) = self.disk.commands.get(&id)
                && self.core.storage_problem().is_none()
                && id.as_str().ends_with("-start")
            {
                let first = *self.results.entry(id.clone()).or_insert(row.outcome);
                assert_eq!(answer.outcome, first, "{id} was answered differently");
            }
        }
    }
}

impl Disk {
    fn stored(&self) -> Stored {
        Stored {
            epoch: epoch(),
            boots: 1,
            confirmed: None,
            first: self.spool.keys().next().copied().unwrap_or(self.next),
            next: self.next,
            connectors: self.connectors.values().cloned().collect(),
            sessions: self.sessions.values().cloned().collect(),
            commands: self.commands.values().cloned().collect(),
            txs: self.txs.values().cloned().collect(),
        }
    }

    fn commit(&mut self, rows: Vec<Row>, told: &mut BTreeMap<SessionId, Told>) {
        for row in rows {
            match row {
                Row::Session(row) => {
                    self.sessions.insert(row.id, through_json(&*row));
                }
                Row::DropSession(id) => {
                    self.sessions.remove(&id);
                }
                Row::Command(row) => {
                    self.commands
                        .insert(row.command_id.clone(), through_json(&row));
                }
                Row::DropCommand(id) => {
                    self.commands.remove(&id);
                }
                Row::Tx(row) => {
                    self.txs.insert(row.origin.clone(), through_json(&*row));
                }
                Row::DropTx(origin) => {
                    self.txs.remove(&origin);
                }
                Row::Confirmed(_) => {}
                Row::Connector(row) => {
                    self.connectors.insert(row.connector, through_json(&*row));
                }
                Row::Append(record) => {
                    assert_eq!(record.seq, self.next, "the spool has a gap");
                    self.next += 1;
                    tell(told, &record);
                    let value = record.to_value().expect("a record can be written");
                    let read = EdgeRecord::from_value(value).expect("and read");
                    assert_eq!(read, *record);
                    self.spool.insert(record.seq, read);
                }
                Row::Mend(mend) => {
                    for record in self.spool.values_mut() {
                        mend.apply(record);
                    }
                }
                Row::Free { below } => {
                    assert!(
                        below <= self.next,
                        "records are freed before they are there"
                    );
                    self.spool = self.spool.split_off(&below);
                }
            }
        }
    }
}

/// What the store does with a row. What only holds until the next boot, such as the monotonic
/// clock, is not in it.
fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(row: &T) -> T {
    let text = serde_json::to_string(row).expect("a row can be written");
    let read = serde_json::from_str(&text).expect("a written row can be read");
    let again = serde_json::to_string(&read).expect("and written again");
    assert_eq!(text, again, "the store changes a row");
    read
}

/// A session begins once, delivers once, ends once, and nothing but late energy comes after.
fn tell(told: &mut BTreeMap<SessionId, Told>, record: &EdgeRecord) {
    let about = match &record.fact {
        EdgeFact::Accepted { session_id, .. }
        | EdgeFact::OpenedAtEdge { session_id, .. }
        | EdgeFact::Started { session_id, .. }
        | EdgeFact::Phase { session_id, .. }
        | EdgeFact::Checkpoint { session_id, .. }
        | EdgeFact::EnergyEnded { session_id, .. }
        | EdgeFact::Ended { session_id, .. } => *session_id,
        EdgeFact::Connector { .. } | EdgeFact::Booted { .. } | EdgeFact::Anomaly { .. } => return,
    };
    let told = told.entry(about).or_default();
    // What a session that had to be ended still delivered is told, and becomes an adjustment.
    let late = matches!(record.fact, EdgeFact::Checkpoint { .. });
    assert!(!told.ended || late, "{record:?} comes after the end");
    match &record.fact {
        EdgeFact::Accepted { .. } | EdgeFact::OpenedAtEdge { .. } => {
            assert!(!told.begun, "{record:?} begins it again");
            told.begun = true;
        }
        EdgeFact::Started { .. } => {
            assert!(!told.started, "{record:?} starts it again");
            told.started = true;
        }
        EdgeFact::EnergyEnded { .. } => {
            assert!(!told.energy_ended, "{record:?} ends energy again");
            told.energy_ended = true;
        }
        EdgeFact::Ended { reading, .. } => {
            assert!(
                reading.is_none() || told.started,
                "{record:?} without a start"
            );
            told.ended = true;
        }
        EdgeFact::Checkpoint { .. } => assert!(told.started, "{record:?} before its start"),
        EdgeFact::Phase { .. }
        | EdgeFact::Connector { .. }
        | EdgeFact::Booted { .. }
        | EdgeFact::Anomaly { .. } => {}
    }
    assert!(told.begun, "{record:?} comes before the beginning");
}

fn connector(c: &mut Choices<'_>) -> ConnectorId {
    ConnectorId(match c.byte() {
        0..=149 => 1,
        150..=239 => 2,
        240..=247 => 0,
        248.. => u16::MAX,
    })
}

fn reason(c: &mut Choices<'_>) -> EndReason {
    EndReason {
        raw: c.maybe(Choices::text),
        ..EndReason::new(c.of(EndCode::ALL), c.of(EndSource::ALL))
    }
}

fn command(c: &mut Choices<'_>, now: UnixMs) -> Command {
    let to = cp();
    let about = session(u64::from(c.byte() % 4));
    let drawn = CommandId::new(format!("op-{}", c.byte() % 4)).expect("a valid id");
    match c.byte() % 10 {
        0..=3 => Command::Start(StartCommand {
            tag: Tag::new(),
            to,
            boot: if c.rarely(16) {
                BootId::from_number(2)
            } else {
                BOOT
            },
            command_id: CommandId::start(about),
            session_id: about,
            connector: connector(c),
            driver_id: c.maybe(|_| DriverId::new("alice").expect("a valid id")),
            epoch: if c.rarely(8) {
                Epoch::new("e0").expect("a valid epoch")
            } else {
                epoch()
            },
            expires_at: c.time(now),
            limits: Limits {
                energy_mwh: c.maybe(|c| Mwh(c.number())),
                energy_from_cost: c.yes(),
                time_s: c.maybe(|c| u32::try_from(c.number()).unwrap_or(u32::MAX)),
                cost: None,
            },
            idle_s_max: u32::try_from(c.number()).unwrap_or(u32::MAX),
            plug_wait_s: u32::try_from(c.number()).unwrap_or(u32::MAX),
            ts: c.time(now),
        }),
        4..=5 => Command::Stop(StopCommand {
            tag: Tag::new(),
            to,
            boot: if c.rarely(16) {
                BootId::from_number(2)
            } else {
                BOOT
            },
            command_id: CommandId::stop(about),
            session_id: about,
            reason: reason(c),
            ts: c.time(now),
        }),
        6 => Command::SetLimit(LimitCommand {
            tag: Tag::new(),
            to,
            boot: if c.rarely(16) {
                BootId::from_number(2)
            } else {
                BOOT
            },
            command_id: drawn,
            connector: connector(c),
            max_ma: MilliAmp(u32::try_from(c.number()).unwrap_or(u32::MAX)),
            phases: c.maybe(Choices::byte),
            valid_until: c.time(now),
            fallback_ma: MilliAmp(u32::try_from(c.number()).unwrap_or(u32::MAX)),
            ts: c.time(now),
        }),
        7 => Command::Unlock(UnlockCommand {
            tag: Tag::new(),
            to,
            boot: if c.rarely(16) {
                BootId::from_number(2)
            } else {
                BOOT
            },
            command_id: drawn,
            connector: connector(c),
            expires_at: c.time(now),
            ts: c.time(now),
        }),
        8 => Command::SetService(ServiceCommand {
            tag: Tag::new(),
            to,
            boot: if c.rarely(16) {
                BootId::from_number(2)
            } else {
                BOOT
            },
            command_id: drawn,
            connector: connector(c),
            service: c.of(Service::ALL),
            revision: c.number(),
            ts: c.time(now),
        }),
        _ => {
            if c.yes() {
                Command::Reset(ResetCommand {
                    tag: Tag::new(),
                    to,
                    boot: BOOT,
                    command_id: drawn,
                    expires_at: c.time(now),
                    ts: c.time(now),
                })
            } else {
                Command::Ping(PingCommand {
                    tag: Tag::new(),
                    to,
                    ts: c.time(now),
                })
            }
        }
    }
}

fn start_number(c: &mut Choices<'_>, numbers: &[u32]) -> StartNumber {
    StartNumber(if numbers.is_empty() || c.rarely(8) {
        u32::try_from(c.number()).unwrap_or(u32::MAX)
    } else {
        c.of(numbers)
    })
}

fn device_tx(c: &mut Choices<'_>) -> DeviceTx {
    DeviceTx(c.of(&["0", "1", "2", "-1", ""]).into())
}

fn origin(c: &mut Choices<'_>) -> OriginKey {
    OriginKey(format!("origin-{}", c.byte() % 6))
}

fn reading(c: &mut Choices<'_>, now: UnixMs) -> HwReading {
    HwReading {
        at: c.time(now),
        register_mwh: Mwh(c.number()),
        meter_id: c.of(&["meter", "other", ""]).into(),
        meter_epoch: u32::from(c.byte() % 3),
        power_mw: c.maybe(|c| MilliWatt(c.number())),
        current_ma: (0..c.below(4))
            .map(|_| MilliAmp(u32::from(c.byte())))
            .collect(),
        soc_pct: c.maybe(Choices::byte),
        signed: c.maybe(|c| vec![c.byte()]),
    }
}

fn answer(c: &mut Choices<'_>, numbers: &[u32]) -> HwAnswer {
    let connector = connector(c);
    let command = match c.byte() % 6 {
        0 | 1 => HwCommand::Start {
            connector,
            start_number: start_number(c, numbers),
            limit_ma: None,
        },
        2 => HwCommand::Stop {
            connector,
            start_number: c.maybe(|c| start_number(c, numbers)),
            device_tx: c.maybe(device_tx),
        },
        3 => HwCommand::Unlock { connector },
        4 => HwCommand::SetService {
            connector,
            in_service: c.yes(),
        },
        _ => HwCommand::Reset,
    };
    let verdict = c.of(&[
        HwVerdict::Accepted,
        HwVerdict::Rejected,
        HwVerdict::Unsupported,
        HwVerdict::Unknown,
    ]);
    HwAnswer {
        command,
        verdict,
        raw: c.maybe(Choices::text),
    }
}

fn running(c: &mut Choices<'_>) -> Vec<RunningTx> {
    (0..c.below(3))
        .map(|_| RunningTx {
            connector: connector(c),
            device_tx: device_tx(c),
            origin: c.maybe(origin),
        })
        .collect()
}

fn fact(c: &mut Choices<'_>, now: UnixMs, numbers: &[u32]) -> HwFact {
    let at = c.time(now);
    match c.byte() % 12 {
        0 => HwFact::Link {
            at,
            up: c.yes(),
            running: c.maybe(running),
        },
        1 => HwFact::Booted {
            at,
            raw: c.maybe(Choices::text),
            running: c.maybe(running),
        },
        2 | 3 => HwFact::Plug {
            at,
            connector: connector(c),
            plugged: c.yes(),
        },
        4 | 5 => HwFact::TxStarted {
            at,
            connector: connector(c),
            device_tx: device_tx(c),
            origin: origin(c),
            start_number: c.maybe(|c| start_number(c, numbers)),
            reading: reading(c, now),
        },
        6 => HwFact::Reading {
            connector: connector(c),
            reading: reading(c, now),
        },
        7 => HwFact::Phase {
            at,
            connector: connector(c),
            device_tx: c.maybe(device_tx),
            phase: c.of(&[
                HwPhase::Charging,
                HwPhase::SuspendedEv,
                HwPhase::SuspendedEvse,
            ]),
            reading: c.maybe(|c| reading(c, now)),
        },
        8 | 9 => HwFact::TxEnded {
            at,
            connector: connector(c),
            device_tx: device_tx(c),
            origin: c.maybe(origin),
            start_number: c.maybe(|c| start_number(c, numbers)),
            reason: reason(c),
            reading: c.maybe(|c| reading(c, now)),
        },
        10 => HwFact::Fault {
            at,
            connector: connector(c),
            fault: c.maybe(|c| Fault {
                effect: c.of(FaultEffect::ALL),
                raw: c.text(),
            }),
        },
        _ => HwFact::Service {
            at,
            connector: connector(c),
            in_service: c.yes(),
        },
    }
}
