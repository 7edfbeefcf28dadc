//! The core and the simulated charger in virtual time, with everything that goes wrong drawn from a
//! seed: crashes of the agent, lost answers of central, cut wires, power cuts, faults, an unruly
//! charger. First the invariants hold throughout, then everything comes to rest.
//!
//! A failure prints its seed; `EDGE_SIM_SEED=<seed> cargo test -p edge-cp --test simulation`
//! replays it, with `EDGE_SIM_TRACE=1` step by step. `EDGE_SIM_SEEDS=<n>` tries more of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use edge_core::{
    ChargePoint, Command, Draw, Effects, EvtOutcome, Identity, Input, LocalStart, ReplyTo, Row,
    Standing, Stored,
    connector::{Connector, ConnectorRow},
    effects::CommandRow,
    hardware::{HwAnswer, HwCommand, HwFact},
    session::{SessionRow, Stage},
    transactions::TxRow,
};
use edge_cp::{
    config::SimulatorConfig,
    hardware::HwEvent,
    sim::{
        physics::{Plant, PlantSpec},
        unruly::Unruly,
    },
};
use ev_contract::{
    codes::Code,
    connector::{Fault, FaultEffect},
    ids::{BootId, CommandId, ConnectorId, CpId, Epoch, SessionId},
    time::{Now, UnixMs},
    units::{MilliAmp, Mwh},
    v1::{
        ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, Limits, Outcome,
        Reading, StartCommand, StopCommand,
    },
    wire::Tag,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const BOOT: BootId = BootId::from_number(1);
const SEEDS: u64 = 150;
const STEP_MS: u64 = 50;
const STEPS: u64 = 6_000;
const CONNECTORS: u16 = 2;
const START: i64 = 1_800_000_000_000;

/// What SQLite would hold.
struct Store {
    epoch: Epoch,
    next: u64,
    spool: BTreeMap<u64, EdgeRecord>,
    sessions: BTreeMap<SessionId, SessionRow>,
    commands: BTreeMap<CommandId, CommandRow>,
    txs: BTreeMap<String, TxRow>,
    connectors: BTreeMap<ConnectorId, ConnectorRow>,
}

impl Store {
    fn commit(&mut self, rows: Vec<Row>) {
        for row in rows {
            match row {
                Row::Session(row) => {
                    // As the real store does it, so that what serde skips is lost here too.
                    let json = serde_json::to_string(&*row).unwrap();
                    self.sessions
                        .insert(row.id, serde_json::from_str(&json).unwrap());
                }
                Row::DropSession(id) => {
                    self.sessions.remove(&id);
                }
                Row::Command(row) => {
                    self.commands.insert(row.command_id.clone(), row);
                }
                Row::DropCommand(id) => {
                    self.commands.remove(&id);
                }
                Row::Tx(row) => {
                    self.txs.insert(row.origin.0.clone(), *row);
                }
                Row::DropTx(origin) => {
                    self.txs.remove(&origin.0);
                }
                Row::Confirmed(_) => {}
                Row::Connector(row) => {
                    let json = serde_json::to_string(&*row).unwrap();
                    self.connectors
                        .insert(row.connector, serde_json::from_str(&json).unwrap());
                }
                Row::Append(record) => {
                    assert_eq!(record.seq, self.next, "the spool has a gap");
                    self.next += 1;
                    self.spool.insert(record.seq, *record);
                }
                Row::Mend(mend) => self.spool.values_mut().for_each(|r| mend.apply(r)),
                Row::Free { below } => self.spool = self.spool.split_off(&below),
            }
        }
    }

    fn load(&self) -> Stored {
        Stored {
            epoch: self.epoch.clone(),
            boots: 1,
            confirmed: None,
            first: self.spool.keys().next().copied().unwrap_or(self.next),
            next: self.next,
            connectors: self.connectors.values().cloned().collect(),
            sessions: self.sessions.values().map(stored).collect(),
            commands: self.commands.values().cloned().collect(),
            txs: self.txs.values().map(stored).collect(),
        }
    }
}

/// As the real store does it, so that what serde skips is lost here too.
fn stored<T: serde::Serialize + serde::de::DeserializeOwned>(row: &T) -> T {
    serde_json::from_str(&serde_json::to_string(row).unwrap()).unwrap()
}

struct World {
    rng: StdRng,
    trace: bool,
    spec: PlantSpec,
    plant: Plant,
    unruly: Unruly,
    link: bool,
    core: ChargePoint,
    store: Store,
    wall: UnixMs,
    mono_ms: u64,
    ids: u64,
    /// What central has, in order.
    records: Vec<EdgeRecord>,
    /// Every answer to every command.
    answers: BTreeMap<CommandId, Vec<(Outcome, Option<Code>)>>,
    asked: BTreeMap<ReplyTo, CommandId>,
    starts: Vec<StartCommand>,
    stops: Vec<StopCommand>,
    delivered: BTreeMap<ConnectorId, u64>,
    /// Central's time less the host's wall clock, which a boot may set back.
    off_ms: i64,
    /// When energy last flowed, by central's clock; and the same when the end of a session's energy was
    /// told.
    flowed: BTreeMap<ConnectorId, UnixMs>,
    ends: BTreeMap<SessionId, UnixMs>,
    /// How long a session has gone on beyond its limit of energy although its charger is heard.
    beyond_ms: BTreeMap<ConnectorId, u64>,
    answered: bool,
    uplink: bool,
}

fn spec(rng: &mut StdRng, unruly: bool) -> PlantSpec {
    PlantSpec {
        cp: CpId::new("CP-001").unwrap(),
        connectors: (1..=CONNECTORS)
            .map(|n| ConnectorSpec {
                connector: ConnectorId(n),
                max_ma: MilliAmp(16_000),
                phases: 3,
                volts: 230,
                plug: None,
            })
            .collect(),
        settings: SimulatorConfig {
            unruly,
            battery_wh: rng.random_range(200..2_000),
            soc_pct: 20,
            resume_after_power_cut: rng.random_bool(0.5),
            free_vending: rng.random_bool(0.15),
            ..SimulatorConfig::default()
        },
        speed: 1,
    }
}

fn identity(spec: &PlantSpec) -> Identity {
    Identity {
        cp_id: spec.cp.clone(),
        connectors: spec.connectors.clone(),
        free_vending: spec.settings.free_vending,
    }
}

impl World {
    fn new(seed: u64, unruly: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let spec = spec(&mut rng, unruly);
        let store = Store {
            epoch: "e1".parse().unwrap(),
            next: 1,
            spool: BTreeMap::new(),
            sessions: BTreeMap::new(),
            commands: BTreeMap::new(),
            txs: BTreeMap::new(),
            connectors: BTreeMap::new(),
        };
        let wall = UnixMs(START);
        let now = Now { mono_ms: 0, wall };
        let core = ChargePoint::boot(identity(&spec), store.load(), BOOT, now);
        let mut world = Self {
            trace: std::env::var_os("EDGE_SIM_TRACE").is_some(),
            plant: Plant::new(&spec, wall),
            unruly: Unruly::new(unruly, seed),
            rng,
            spec,
            link: true,
            core,
            store,
            wall,
            mono_ms: 0,
            ids: 0,
            records: Vec::new(),
            answers: BTreeMap::new(),
            asked: BTreeMap::new(),
            starts: Vec::new(),
            stops: Vec::new(),
            delivered: BTreeMap::new(),
            off_ms: 0,
            flowed: BTreeMap::new(),
            ends: BTreeMap::new(),
            beyond_ms: BTreeMap::new(),
            answered: true,
            uplink: true,
        };
        world.boot();
        world
    }

    fn central(&self) -> UnixMs {
        self.wall.plus_ms(self.off_ms)
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: self.mono_ms,
            wall: self.wall,
        }
    }

    fn id(&mut self) -> SessionId {
        self.ids += 1;
        SessionId::from_uuid(uuid::Uuid::from_u128(u128::from(self.ids) << 64 | 7))
    }

    fn note(&self, what: &dyn std::fmt::Debug) {
        if self.trace {
            eprintln!("{:>8} {what:?}", self.wall.0 - START);
        }
    }

    fn boot(&mut self) {
        self.mono_ms = 1;
        self.core = ChargePoint::boot(identity(&self.spec), self.store.load(), BOOT, self.now());
        self.asked.clear();
        self.sync();
        if self.link && self.plant.dark_ms.is_none() {
            let facts = self.plant.snapshot(&self.spec);
            self.tell(facts);
        }
    }

    fn crash(&mut self) {
        self.note(&"CRASH");
        let seed = self.rng.random();
        self.unruly = Unruly::new(self.unruly.is_on(), seed);
        // The agent is away for a while; the charger is not.
        let away = self.rng.random_range(0..20_000);
        self.wall = self.wall.plus_ms(away);
        self.metered(|w| w.plant.advance(&w.spec, away as u64));
        // Hosts without a clock of their own begin in 1970, others with a minute too little.
        if self.rng.random_bool(0.4) {
            let wall = if self.rng.random_bool(0.5) {
                UnixMs(1_000)
            } else {
                self.wall.plus_ms(-60_000)
            };
            self.off_ms += self.wall.ms_since(wall);
            self.wall = wall;
            self.plant.wall = wall;
        }
        self.beyond_ms.clear();
        self.answered = true;
        self.boot();
    }

    fn sync(&mut self) {
        if self.uplink {
            let (epoch, next) = ("e1".to_owned(), self.records.len() as u64 + 1);
            // Each round trip is judged a little differently.
            let wrong_by = self.rng.random_range(-3..=3);
            self.feed(Input::Synced {
                sent_mono_ms: self.mono_ms.saturating_sub(6),
                ts: self.central().plus_ms(wrong_by),
                epoch,
                next,
                standing: Standing::Obeyed,
            });
        }
    }

    /// Lets the plant do something, and counts what its meters deliver meanwhile.
    fn metered(&mut self, act: impl FnOnce(&mut Self) -> Vec<HwFact>) -> Vec<HwFact> {
        let before: Vec<_> = self
            .plant
            .outlets
            .values()
            .map(|o| (o.meter_epoch, o.register))
            .collect();
        let facts = act(self);
        let after: Vec<_> = self
            .plant
            .outlets
            .iter()
            .map(|(c, o)| (*c, o.meter_epoch, o.register))
            .collect();
        for ((epoch_before, before), (connector, epoch, after)) in before.into_iter().zip(after) {
            if epoch == epoch_before {
                if after > before {
                    self.flowed.insert(connector, self.central());
                }
                *self.delivered.entry(connector).or_default() += after.0 - before.0;
            }
        }
        facts
    }

    fn tell(&mut self, facts: Vec<HwFact>) {
        for fact in facts {
            if let HwFact::TxStarted { .. } | HwFact::TxEnded { .. } = &fact {
                self.note(&("device", &fact));
            }
            if let HwFact::Link { .. } = fact {
                self.feed(Input::Fact(fact));
            } else if self.link && self.plant.dark_ms.is_none() {
                self.unruly.push(HwEvent::Fact(fact), self.mono_ms);
            }
        }
        for event in self.unruly.arrived(self.mono_ms) {
            if self.link && self.plant.dark_ms.is_none() {
                match event {
                    HwEvent::Fact(fact) => self.feed(Input::Fact(fact)),
                    HwEvent::Answer(answer) => self.feed(Input::Answer(answer)),
                }
            }
        }
    }

    fn feed(&mut self, input: Input) {
        match &input {
            Input::Tick | Input::Fact(HwFact::Reading { .. }) => {}
            other => self.note(other),
        }
        let draw = Draw {
            session_id: self.id(),
            start_number: self.rng.random_range(1..=0x7fff_ffff),
            random: self.rng.random(),
        };
        let fx = self.core.handle(input, self.now(), draw);
        self.apply(fx);
    }

    fn apply(&mut self, fx: Effects) {
        for row in &fx.rows {
            if let Row::Append(record) = row {
                self.note(&record.fact);
                self.judge_standing(&record.fact);
            }
        }
        for alarm in &fx.alarms {
            self.note(&("ALARM", alarm));
        }
        if !fx.rows.is_empty() {
            self.store.commit(fx.rows);
            self.core.stored();
        }
        for (reply_to, answer) in fx.replies {
            if let Some(id) = self.asked.get(&reply_to) {
                self.answers
                    .entry(id.clone())
                    .or_default()
                    .push((answer.outcome, answer.code));
            }
        }
        for command in fx.hardware {
            self.hardware(command);
        }
    }

    /// No more standing is told than there was since energy last flowed.
    fn judge_standing(&mut self, fact: &EdgeFact) {
        match fact {
            EdgeFact::EnergyEnded { session_id, .. } => {
                let is_it =
                    |c: &&Connector| c.session.as_ref().is_some_and(|s| s.id == *session_id);
                // What another transaction has delivered since would hide when this one ended.
                let alone = self
                    .core
                    .connectors()
                    .find(is_it)
                    .filter(|c| c.unclaimed.is_empty());
                if let Some(flowed) = alone.and_then(|c| self.flowed.get(&c.id())) {
                    self.ends.insert(*session_id, *flowed);
                }
            }
            EdgeFact::Ended {
                session_id,
                stood_s: Some(stood_s),
                ..
            } => {
                if let Some(flowed) = self.ends.get(session_id) {
                    let most_ms = self.central().ms_since(*flowed) + 1_000;
                    assert!(
                        i64::from(*stood_s) * 1_000 <= most_ms,
                        "{fact:?}: stood {most_ms} ms at most"
                    );
                }
            }
            _ => {}
        }
    }

    /// A limit of energy ends a session within some readings, while the charger is heard.
    fn judge_limits(&mut self) {
        let heard = self.link && self.plant.dark_ms.is_none() && !self.unruly.is_on();
        for c in self.core.connectors() {
            let outlet = &self.plant.outlets[&c.id()];
            let beyond = c
                .session
                .as_ref()
                .is_some_and(|session| match &session.stage {
                    Stage::Running(run) if run.doubt.is_none() && run.held.is_none() => {
                        let start = &run.meter.start;
                        let limit = session.limits.energy_mwh.map_or(u64::MAX, |limit| limit.0);
                        start.meter_epoch == outlet.meter_epoch
                            && outlet.register.0.saturating_sub(start.register_mwh.0) > limit
                    }
                    _ => false,
                });
            let beyond_ms = self.beyond_ms.entry(c.id()).or_default();
            *beyond_ms = if heard && beyond {
                *beyond_ms + STEP_MS
            } else {
                0
            };
            assert!(
                *beyond_ms < 4_000,
                "{:?} goes on beyond its limit",
                c.session
            );
        }
    }

    fn hardware(&mut self, command: HwCommand) {
        self.note(&command);
        if !self.link || self.plant.dark_ms.is_some() {
            return;
        }
        let mut answer = None;
        let facts = self.metered(|w| {
            let (verdict, raw, facts) = w.plant.command(&w.spec, &mut w.unruly, &command);
            answer = Some(HwAnswer {
                command: command.clone(),
                verdict,
                raw,
            });
            facts
        });
        if let Some(answer) = answer {
            self.unruly.push(HwEvent::Answer(answer), self.mono_ms);
        }
        self.tell(facts);
    }

    fn pass(&mut self, n: u64) {
        self.wall = self.wall.plus_ms(STEP_MS as i64);
        self.mono_ms += STEP_MS;
        let was_dark = self.plant.dark_ms.is_some();
        let mut facts = self.metered(|w| w.plant.advance(&w.spec, STEP_MS));
        if was_dark && self.plant.dark_ms.is_none() && self.link {
            facts = self.plant.snapshot(&self.spec);
        }
        if n.is_multiple_of(20) {
            facts.extend(self.plant.readings(&self.spec, false));
        }
        if self.unruly.spurious_boot() && n.is_multiple_of(10) {
            facts.push(HwFact::Booted {
                at: self.plant.wall,
                raw: Some("Unknown".into()),
                running: Some(self.plant.running()),
            });
        }
        self.tell(facts);
        if n.is_multiple_of(4) {
            self.feed(Input::Tick);
        }
        if n.is_multiple_of(400) {
            self.sync();
        }
        self.uplink_step();
        self.judge_limits();
    }

    /// Central takes records in order, and its answers are lost now and then.
    fn uplink_step(&mut self) {
        if !self.uplink {
            return;
        }
        let random = self.rng.random();
        let Some(run) = self.core.next_run(self.now(), random) else {
            return;
        };
        let wanted = self.records.len() as u64 + 1;
        assert!(
            run.first <= wanted,
            "the spool freed what central has not got"
        );
        let records: Vec<_> = self
            .store
            .spool
            .range(run.from..run.until)
            .take(7)
            .map(|(_, r)| r.clone())
            .collect();
        for record in records {
            if record.seq == self.records.len() as u64 + 1 {
                self.records.push(record);
            } else {
                // A repeat is the same, word for word.
                assert_eq!(self.records[record.seq as usize - 1], record);
            }
        }
        let outcome = if self.rng.random_bool(0.1) {
            EvtOutcome::Unanswered
        } else {
            EvtOutcome::Answered {
                epoch: "e1".into(),
                next: self.records.len() as u64 + 1,
                refused: false,
            }
        };
        self.feed(Input::Evt(outcome));
    }

    fn command(&mut self, command: Command) {
        if !self.uplink {
            return;
        }
        let id = match &command {
            Command::Start(c) => c.command_id.clone(),
            Command::Stop(c) => c.command_id.clone(),
            _ => return,
        };
        self.ids += 1;
        let reply_to = ReplyTo(self.ids);
        self.asked.insert(reply_to, id);
        self.feed(Input::Command { command, reply_to });
    }

    fn happen(&mut self) {
        let connector = ConnectorId(self.rng.random_range(1..=CONNECTORS));
        match self.rng.random_range(0..100) {
            0..20 => {
                let plugged = self.rng.random_bool(0.6);
                self.note(&("PLUG", connector, plugged));
                let facts =
                    self.metered(|w| w.plant.plug(&w.spec, &mut w.unruly, connector, plugged));
                self.tell(facts);
            }
            20..45 => {
                let id = self.id();
                let start = StartCommand {
                    tag: Tag::new(),
                    to: self.spec.cp.clone(),
                    boot: BOOT,
                    command_id: CommandId::start(id),
                    session_id: id,
                    connector,
                    driver_id: None,
                    epoch: "e1".parse().unwrap(),
                    expires_at: self
                        .central()
                        .plus_ms(self.rng.random_range(-2_000..30_000)),
                    limits: Limits {
                        energy_mwh: self.rng.random_bool(0.3).then_some(Mwh(5_000)),
                        time_s: self.rng.random_bool(0.2).then_some(20),
                        ..Limits::default()
                    },
                    idle_s_max: if self.rng.random_bool(0.3) { 15 } else { 0 },
                    plug_wait_s: 20,
                    ts: self.wall,
                };
                self.starts.push(start.clone());
                self.command(Command::Start(start));
            }
            45..55 => {
                if !self.starts.is_empty() {
                    let index = self.rng.random_range(0..self.starts.len());
                    let again = self.starts[index].clone();
                    self.command(Command::Start(again));
                }
            }
            55..75 => self.stop_something(),
            75..80 => {
                let start = LocalStart {
                    connector,
                    token: Some("t".into()),
                    free: self.rng.random_bool(0.2),
                };
                self.ids += 1;
                let reply_to = ReplyTo(self.ids);
                self.feed(Input::LocalStart { start, reply_to });
            }
            80..83 => {
                self.ids += 1;
                let reply_to = ReplyTo(self.ids);
                self.feed(Input::LocalStop {
                    connector,
                    reply_to,
                });
            }
            83..87 => {
                let effect = [
                    FaultEffect::Warning,
                    FaultEffect::Suspends,
                    FaultEffect::Ended,
                ][self.rng.random_range(0..3)];
                let fault = self.rng.random_bool(0.5).then(|| Fault {
                    effect,
                    raw: "x".into(),
                });
                let facts = self.metered(|w| w.plant.fault(&w.spec, connector, fault));
                self.tell(facts);
            }
            87..90 => {
                let facts = self.metered(|w| w.plant.reset(&w.spec, &mut w.unruly, "Reset"));
                self.tell(facts);
            }
            90..92 => {
                let (ms, lose) = (self.rng.random_range(100..9_000), self.rng.random_bool(0.5));
                self.note(&("POWER CUT", ms, lose));
                self.metered(|w| {
                    w.plant.power_cut(&w.spec, ms, lose);
                    Vec::new()
                });
                self.feed(Input::Fact(HwFact::Link {
                    at: self.wall,
                    up: false,
                    running: None,
                }));
            }
            92..95 => {
                let up = self.rng.random_bool(0.7);
                self.set_link(up);
            }
            95..97 => {
                self.uplink = !self.uplink;
                self.note(&("UPLINK", self.uplink));
                if self.uplink {
                    self.sync();
                    self.feed(Input::UplinkUp);
                }
            }
            _ => self.crash(),
        }
    }

    fn set_link(&mut self, up: bool) {
        if up == self.link {
            return;
        }
        self.note(&("LINK", up));
        self.link = up;
        if !up {
            self.feed(Input::Fact(HwFact::Link {
                at: self.wall,
                up: false,
                running: None,
            }));
        } else if self.plant.dark_ms.is_none() {
            let facts = self.plant.snapshot(&self.spec);
            self.tell(facts);
        }
    }

    fn stop_something(&mut self) {
        let unseen = self.rng.random_bool(0.1);
        let id = if unseen || self.starts.is_empty() {
            let id = self.id();
            let mut start = match self.starts.last() {
                Some(start) => start.clone(),
                None => return,
            };
            start.session_id = id;
            start.command_id = CommandId::start(id);
            start.expires_at = self.central().plus_ms(30_000);
            self.starts.push(start);
            id
        } else {
            let back = self.rng.random_range(0..self.starts.len().min(4));
            self.starts[self.starts.len() - 1 - back].session_id
        };
        let stop = StopCommand {
            tag: Tag::new(),
            to: self.spec.cp.clone(),
            boot: BOOT,
            command_id: CommandId::stop(id),
            session_id: id,
            reason: EndReason::new(EndCode::Driver, EndSource::Driver),
            ts: self.wall,
        };
        self.stops.push(stop.clone());
        self.command(Command::Stop(stop));
    }

    /// Everything works again, and all cars go.
    fn rest(&mut self) {
        self.note(&"REST");
        self.unruly.set(false);
        self.plant.dark_ms = self.plant.dark_ms.map(|_| 1);
        self.pass(1);
        self.set_link(true);
        self.uplink = true;
        self.sync();
        self.feed(Input::UplinkUp);
        for n in 1..=CONNECTORS {
            let connector = ConnectorId(n);
            let facts = self.metered(|w| {
                let mut facts = w.plant.fault(&w.spec, connector, None);
                facts.extend(w.plant.plug(&w.spec, &mut w.unruly, connector, false));
                facts
            });
            self.tell(facts);
        }
        for n in 0..4_000 {
            self.pass(n);
        }
    }

    fn check(&self) {
        assert!(
            self.core.open_sessions().next().is_none(),
            "sessions that never end: {:?}",
            self.core
                .connectors()
                .map(|c| &c.session)
                .collect::<Vec<_>>()
        );
        assert_eq!(self.store.spool.len(), 0, "records that were never taken");
        let mut opened = BTreeMap::new();
        let mut ended = BTreeSet::new();
        let mut meters: BTreeMap<SessionId, Vec<Reading>> = BTreeMap::new();
        let mut completed = BTreeSet::new();
        for (index, record) in self.records.iter().enumerate() {
            assert_eq!(record.seq, index as u64 + 1);
            let (id, reading) = match &record.fact {
                EdgeFact::Accepted {
                    session_id,
                    connector,
                }
                | EdgeFact::OpenedAtEdge {
                    session_id,
                    connector,
                    ..
                } => {
                    assert!(
                        opened.insert(*session_id, *connector).is_none(),
                        "{session_id} was opened twice"
                    );
                    continue;
                }
                EdgeFact::Started {
                    session_id,
                    reading,
                    ..
                } => {
                    assert!(!meters.contains_key(session_id), "{session_id} began twice");
                    (session_id, Some(reading))
                }
                EdgeFact::Checkpoint {
                    session_id,
                    reading,
                } => (session_id, Some(reading)),
                EdgeFact::Phase {
                    session_id,
                    reading,
                    ..
                }
                | EdgeFact::EnergyEnded {
                    session_id,
                    reading,
                    ..
                } => (session_id, reading.as_ref()),
                EdgeFact::Ended {
                    session_id,
                    reading,
                    completed: ok,
                    ..
                } => {
                    assert!(ended.insert(*session_id), "{session_id} ended twice");
                    if *ok {
                        completed.insert(*session_id);
                    }
                    if let Some(reading) = reading {
                        meters.entry(*session_id).or_default().push(reading.clone());
                    }
                    continue;
                }
                EdgeFact::Connector { .. } | EdgeFact::Booted { .. } | EdgeFact::Anomaly { .. } => {
                    continue;
                }
            };
            assert!(opened.contains_key(id), "{id} was never opened");
            let late_energy = matches!(record.fact, EdgeFact::Checkpoint { .. });
            assert!(
                !ended.contains(id) || late_energy,
                "a record of {id} after its end"
            );
            if let Some(reading) = reading {
                meters.entry(*id).or_default().push(reading.clone());
            }
        }
        assert_eq!(
            opened.keys().collect::<BTreeSet<_>>(),
            ended.iter().collect(),
            "every session ends once"
        );
        let mut billed: BTreeMap<ConnectorId, u64> = BTreeMap::new();
        for (id, readings) in &meters {
            assert_eq!(!readings.is_empty(), completed.contains(id), "{id}");
            *billed.entry(opened[id]).or_default() += energy(readings);
        }
        billed.retain(|_, e| *e > 0);
        let mut delivered = self.delivered.clone();
        delivered.retain(|_, e| *e > 0);
        assert_eq!(
            billed, delivered,
            "energy of the records, and of the meters"
        );
        for (id, answers) in &self.answers {
            let finals: BTreeSet<_> = answers
                .iter()
                .filter(|(o, _)| *o != Outcome::NotYet)
                .map(|(o, c)| (o.as_str(), *c))
                .collect();
            assert!(finals.len() <= 1, "{id} was answered {finals:?}");
        }
    }
}

/// As central counts it: by meter epochs; a reset meter counts from zero.
fn energy(readings: &[Reading]) -> u64 {
    let mut sum = 0;
    let mut last: Option<&Reading> = None;
    for reading in readings {
        sum += match last {
            None => 0,
            Some(last) if last.meter_epoch == reading.meter_epoch => {
                assert!(
                    reading.register_mwh >= last.register_mwh,
                    "a register fell that never did"
                );
                reading.register_mwh.0 - last.register_mwh.0
            }
            Some(_) => reading.register_mwh.0,
        };
        last = Some(reading);
    }
    sum
}

fn run(seed: u64, unruly: bool) {
    let mut world = World::new(seed, unruly);
    for n in 0..STEPS {
        if world.rng.random_bool(0.02) {
            world.happen();
        }
        world.pass(n);
    }
    world.rest();
    world.check();
}

fn run_all(unruly: bool) {
    if let Ok(seed) = std::env::var("EDGE_SIM_SEED") {
        run(seed.parse().unwrap(), unruly);
        return;
    }
    let seeds = std::env::var("EDGE_SIM_SEEDS").map_or(SEEDS, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| run(seed, unruly));
        if let Err(panic) = result {
            eprintln!("seed {seed}, unruly {unruly}: EDGE_SIM_SEED={seed} replays it");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn every_session_ends_once_and_no_energy_is_lost() {
    run_all(false);
}

#[test]
fn every_session_ends_once_and_no_energy_is_lost_with_an_unruly_charger() {
    run_all(true);
}
