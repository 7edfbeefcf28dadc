//! A charge point on a bench: hands feed it, eyes read what comes out.

use std::collections::BTreeMap;

use edge_core::{
    ChargePoint, Command, Draw, Effects, Identity, Input, LocalAnswer, LocalStart, ReplyTo, Row,
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
    codes::Code,
    connector::Service,
    ids::{BootId, CommandId, ConnectorId, CpId, Epoch, SessionId},
    time::{Now, UnixMs},
    units::{MilliAmp, MilliWatt, Mwh},
    v1::{
        ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, Limits, Outcome,
        ServiceCommand, StartCommand, StopCommand,
    },
    wire::Tag,
};
use uuid::Uuid;

pub const ONE: ConnectorId = ConnectorId(1);
pub const TWO: ConnectorId = ConnectorId(2);
pub const EPOCH: &str = "e1";
pub const BOOT: BootId = BootId::from_number(1);
/// On a quarter hour, so that tests know when the next one is.
pub const BEGIN: i64 = 1_800_000_000_000;

pub struct Bench {
    pub core: ChargePoint,
    pub mono_ms: u64,
    pub wall: UnixMs,
    /// Counts draws: the next ids and numbers follow from it.
    pub drawn: u64,
    pub records: Vec<EdgeRecord>,
    pub sessions: BTreeMap<SessionId, SessionRow>,
    pub commands: BTreeMap<CommandId, CommandRow>,
    txs: BTreeMap<String, TxRow>,
    connectors: BTreeMap<ConnectorId, ConnectorRow>,
}

pub fn session(n: u128) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(n))
}

pub fn cp() -> CpId {
    CpId::new("CP-001").unwrap()
}

/// As the real store does it, so that what serde skips is lost here too.
fn stored<T: serde::Serialize + serde::de::DeserializeOwned>(row: &T) -> T {
    serde_json::from_str(&serde_json::to_string(row).unwrap()).unwrap()
}

impl Bench {
    /// Booted, nothing heard of central or hardware.
    pub fn cold() -> Self {
        let wall = UnixMs(BEGIN);
        let stored = Stored {
            epoch: Epoch::new(EPOCH).unwrap(),
            boots: 1,
            confirmed: None,
            first: 1,
            next: 1,
            connectors: vec![],
            sessions: vec![],
            commands: vec![],
            txs: vec![],
        };
        let core = ChargePoint::boot(identity(), stored, BOOT, Now { mono_ms: 0, wall });
        Self {
            core,
            mono_ms: 0,
            wall,
            drawn: 0,
            records: vec![],
            sessions: BTreeMap::new(),
            commands: BTreeMap::new(),
            txs: BTreeMap::new(),
            connectors: BTreeMap::new(),
        }
    }

    /// In step with central, hardware there, nothing plugged in.
    pub fn warm() -> Self {
        let mut bench = Self::cold();
        bench.sync();
        bench.link(true);
        bench
    }

    /// With a session of central's on the first connector, charging since a moment.
    pub fn charging(change: impl FnOnce(&mut StartCommand)) -> (Self, SessionId) {
        let mut bench = Self::warm();
        bench.plug(ONE, true);
        let mut start = bench.start_command(1, ONE);
        change(&mut start);
        let id = start.session_id;
        bench.start(start);
        bench.tx_started(ONE, "tx-1", 1_000);
        bench.phase(ONE, HwPhase::Charging);
        (bench, id)
    }

    /// The process dies and comes back after so long.
    pub fn reboot(&mut self, away_ms: i64) {
        self.reboot_at(self.wall.plus_ms(away_ms));
    }

    /// The process dies and comes back with the host's wall clock at this time.
    pub fn reboot_at(&mut self, wall: UnixMs) {
        self.reboot_as(wall, identity());
    }

    /// The same with another configuration.
    pub fn reboot_as(&mut self, wall: UnixMs, identity: Identity) {
        self.wall = wall;
        self.mono_ms = 0;
        let stored = Stored {
            epoch: Epoch::new(EPOCH).unwrap(),
            boots: 1,
            confirmed: None,
            first: 1,
            next: self.records.len() as u64 + 1,
            connectors: self.connectors.values().cloned().collect(),
            sessions: self.sessions.values().map(stored).collect(),
            commands: self.commands.values().cloned().collect(),
            txs: self.txs.values().map(stored).collect(),
        };
        self.core = ChargePoint::boot(identity, stored, BOOT, self.now());
    }

    pub fn now(&self) -> Now {
        Now {
            mono_ms: self.mono_ms,
            wall: self.wall,
        }
    }

    pub fn feed(&mut self, input: Input) -> Effects {
        let fx = self.feed_unstored(input);
        for row in &fx.rows {
            match row.clone() {
                Row::Session(row) => {
                    self.sessions.insert(row.id, *row);
                }
                Row::Command(row) => {
                    self.commands.insert(row.command_id.clone(), row);
                }
                Row::Tx(row) => {
                    self.txs.insert(row.origin.0.clone(), *row);
                }
                Row::Confirmed(_) => {}
                Row::Connector(row) => {
                    self.connectors.insert(row.connector, *row);
                }
                Row::Append(record) => {
                    assert_eq!(record.seq, self.records.len() as u64 + 1);
                    self.records.push(*record);
                }
                Row::Mend(mend) => self.records.iter_mut().for_each(|r| mend.apply(r)),
                Row::DropSession(_) | Row::DropCommand(_) | Row::DropTx(_) | Row::Free { .. } => {}
            }
        }
        if !fx.rows.is_empty() {
            self.core.stored();
        }
        fx
    }

    pub fn feed_unstored(&mut self, input: Input) -> Effects {
        self.drawn += 1;
        let draw = Draw {
            session_id: session(u128::from(self.drawn) << 64),
            start_number: 100 + u32::try_from(self.drawn).unwrap(),
            random: 0,
        };
        self.core.handle(input, self.now(), draw)
    }

    /// Time passes in the steps of the shell.
    pub fn pass(&mut self, ms: u64) -> Vec<HwCommand> {
        let mut sent = vec![];
        let end = self.mono_ms + ms;
        while self.mono_ms < end {
            let step = (end - self.mono_ms).min(200);
            self.mono_ms += step;
            self.wall = self.wall.plus_ms(step as i64);
            sent.extend(self.feed(Input::Tick).hardware);
        }
        sent
    }

    pub fn sync(&mut self) {
        self.sync_at(self.wall);
    }

    /// Central says what time it is.
    pub fn sync_at(&mut self, ts: UnixMs) {
        self.feed(Input::Synced {
            sent_mono_ms: self.mono_ms,
            ts,
            epoch: EPOCH.into(),
            next: self.records.len() as u64 + 1,
            standing: Standing::Obeyed,
        });
    }

    pub fn fact(&mut self, fact: HwFact) -> Effects {
        self.feed(Input::Fact(fact))
    }

    pub fn link(&mut self, up: bool) -> Effects {
        let at = self.wall;
        self.fact(HwFact::Link {
            at,
            up,
            running: None,
        })
    }

    /// The wire is back and the device lists what it has.
    pub fn link_with(&mut self, running: &[&str], connector: ConnectorId) -> Effects {
        let at = self.wall;
        let running = running
            .iter()
            .map(|tx| RunningTx {
                connector,
                device_tx: DeviceTx((*tx).into()),
                origin: None,
            })
            .collect();
        self.fact(HwFact::Link {
            at,
            up: true,
            running: Some(running),
        })
    }

    pub fn plug(&mut self, connector: ConnectorId, plugged: bool) -> Effects {
        let at = self.wall;
        self.fact(HwFact::Plug {
            at,
            connector,
            plugged,
        })
    }

    pub fn reading(&self, register: u64) -> HwReading {
        HwReading {
            at: self.wall,
            register_mwh: Mwh(register),
            meter_id: "m".into(),
            meter_epoch: 1,
            power_mw: Some(MilliWatt(11_000_000)),
            current_ma: vec![],
            soc_pct: None,
            signed: None,
        }
    }

    pub fn tx_started(&mut self, connector: ConnectorId, tx: &str, register: u64) -> Effects {
        self.tx_started_by(connector, tx, register, None)
    }

    pub fn tx_started_by(
        &mut self,
        connector: ConnectorId,
        tx: &str,
        register: u64,
        start_number: Option<StartNumber>,
    ) -> Effects {
        let fact = HwFact::TxStarted {
            at: self.wall,
            connector,
            device_tx: DeviceTx(tx.into()),
            origin: OriginKey(format!("{connector}/{tx}/{}", self.wall.0)),
            start_number,
            reading: self.reading(register),
        };
        self.fact(fact)
    }

    pub fn phase(&mut self, connector: ConnectorId, phase: HwPhase) -> Effects {
        let fact = HwFact::Phase {
            at: self.wall,
            connector,
            device_tx: None,
            phase,
            reading: None,
        };
        self.fact(fact)
    }

    pub fn read(&mut self, connector: ConnectorId, register: u64) -> Effects {
        let reading = self.reading(register);
        self.fact(HwFact::Reading { connector, reading })
    }

    pub fn tx_ended(
        &mut self,
        connector: ConnectorId,
        tx: &str,
        code: EndCode,
        register: u64,
    ) -> Effects {
        let fact = HwFact::TxEnded {
            at: self.wall,
            connector,
            device_tx: DeviceTx(tx.into()),
            origin: None,
            start_number: None,
            reason: EndReason::new(code, EndSource::Charger),
            reading: Some(self.reading(register)),
        };
        self.fact(fact)
    }

    pub fn answer(&mut self, command: HwCommand, verdict: HwVerdict) -> Effects {
        self.feed(Input::Answer(HwAnswer {
            command,
            verdict,
            raw: Some("word".into()),
        }))
    }

    pub fn start_command(&self, n: u128, connector: ConnectorId) -> StartCommand {
        let id = session(n);
        StartCommand {
            tag: Tag::new(),
            to: cp(),
            boot: BOOT,
            command_id: CommandId::start(id),
            session_id: id,
            connector,
            driver_id: None,
            epoch: Epoch::new(EPOCH).unwrap(),
            expires_at: self.wall.plus_ms(20_000),
            limits: Limits::default(),
            idle_s_max: 0,
            plug_wait_s: 60,
            ts: self.wall,
        }
    }

    pub fn start(&mut self, start: StartCommand) -> Effects {
        self.feed(Input::Command {
            command: Command::Start(start),
            reply_to: ReplyTo(0),
        })
    }

    pub fn stop_command(&self, id: SessionId, source: EndSource) -> Command {
        let code = match source {
            EndSource::Driver => EndCode::Driver,
            _ => EndCode::Operator,
        };
        Command::Stop(StopCommand {
            tag: Tag::new(),
            to: cp(),
            boot: BOOT,
            command_id: CommandId::stop(id),
            session_id: id,
            reason: EndReason::new(code, source),
            ts: self.wall,
        })
    }

    pub fn stop(&mut self, id: SessionId) -> Effects {
        let command = self.stop_command(id, EndSource::Driver);
        self.command(command)
    }

    pub fn command(&mut self, command: Command) -> Effects {
        self.feed(Input::Command {
            command,
            reply_to: ReplyTo(0),
        })
    }

    pub fn set_service(&mut self, service: Service, revision: u64) -> Effects {
        self.command(Command::SetService(ServiceCommand {
            tag: Tag::new(),
            to: cp(),
            boot: BOOT,
            command_id: CommandId::new(format!("service-{revision}")).unwrap(),
            connector: ONE,
            service,
            revision,
            ts: self.wall,
        }))
    }

    pub fn start_locally(&mut self, connector: ConnectorId) -> LocalAnswer {
        let start = LocalStart {
            connector,
            token: Some("04AB".into()),
            free: false,
        };
        let reply_to = ReplyTo(0);
        let fx = self.feed(Input::LocalStart { start, reply_to });
        fx.local[0].1
    }

    /// The facts of a session, in order.
    pub fn told(&self, id: SessionId) -> Vec<String> {
        self.records
            .iter()
            .filter_map(|r| match &r.fact {
                EdgeFact::Accepted { session_id, .. } if *session_id == id => {
                    Some("accepted".into())
                }
                EdgeFact::OpenedAtEdge {
                    session_id, origin, ..
                } if *session_id == id => Some(format!("opened {origin}")),
                EdgeFact::Started {
                    session_id,
                    reading,
                    ..
                } if *session_id == id => Some(format!("started {}", reading.register_mwh.0)),
                EdgeFact::Phase {
                    session_id, phase, ..
                } if *session_id == id => Some(phase.to_string()),
                EdgeFact::Checkpoint {
                    session_id,
                    reading,
                } if *session_id == id => Some(format!("checkpoint {}", reading.register_mwh.0)),
                EdgeFact::EnergyEnded {
                    session_id, reason, ..
                } if *session_id == id => Some(format!("energy ended {}", reason.word())),
                EdgeFact::Ended {
                    session_id,
                    completed,
                    reason,
                    reading,
                    ..
                } if *session_id == id => {
                    let how = if *completed { "completed" } else { "failed" };
                    let register = reading
                        .as_ref()
                        .map_or_else(|| "-".into(), |r| r.register_mwh.0.to_string());
                    Some(format!("{how} {} {register}", reason.word()))
                }
                EdgeFact::Anomaly {
                    session_id: Some(session_id),
                    ..
                } if *session_id == id => Some("anomaly".into()),
                _ => None,
            })
            .collect()
    }

    pub fn last_told(&self, id: SessionId) -> String {
        self.told(id).pop().unwrap_or_default()
    }
}

pub fn identity() -> Identity {
    Identity {
        cp_id: cp(),
        connectors: [ONE, TWO]
            .map(|connector| ConnectorSpec {
                connector,
                max_ma: MilliAmp(16_000),
                phases: 3,
                volts: 230,
                plug: None,
            })
            .to_vec(),
        free_vending: false,
    }
}

/// The one answer in these effects.
pub fn outcome(fx: &Effects) -> (Outcome, Option<Code>) {
    assert_eq!(fx.replies.len(), 1, "{fx:?}");
    (fx.replies[0].1.outcome, fx.replies[0].1.code)
}

pub fn stops(sent: &[HwCommand]) -> usize {
    sent.iter()
        .filter(|c| matches!(c, HwCommand::Stop { .. }))
        .count()
}

pub fn the_start(fx: &Effects) -> HwCommand {
    let starts: Vec<_> = fx
        .hardware
        .iter()
        .filter(|c| matches!(c, HwCommand::Start { .. }))
        .collect();
    assert_eq!(starts.len(), 1, "{fx:?}");
    starts[0].clone()
}
