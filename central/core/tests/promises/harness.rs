//! A ledger in memory, replicas of central over it, and charge points that fill spools.

use central_core::{
    decide::{
        Ask, Command, CommandAnswer, Ctx, Decided, Incoming, Known, Run, SeenPrice, Settings,
        Unrecorded, Verb, Wish, decide, known,
    },
    frame::{Basis, Evidence, Frame},
    keys::{Asker, EventId},
    model::{Adjustments, Answer, Connector, Driver, Session, Spool},
    state::{Applied, Log, State},
    tx::Overlay,
};
use ev_contract::{
    codes::Code,
    connector::{Fault, FaultEffect, Phase, Service},
    ids::{
        BootId, ConnectorId, CpId, DriverId, Epoch, OperatorId, ReplicaId, RequestId, SessionId,
    },
    time::{Now, UnixMs},
    units::{MilliAmp, Mwh},
    v1::{
        Boot, ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, IdleFee,
        IdleFrom, LimitsRequest, Origin, Outcome, PriceComponent, Reach, Reading, Receipt,
        SyncRequest, TariffScope, TariffTerms, TimeQuality,
    },
    wire::Tag,
};
use uuid::Uuid;

/// When every story begins.
/// Which start of an agent commands are addressed to, where it makes no difference.
pub const BOOT: BootId = BootId::from_number(1);
pub const T0: UnixMs = UnixMs(1_760_000_000_000);
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;

pub fn driver(name: &str) -> DriverId {
    DriverId::new(name).unwrap()
}

pub fn asker(name: &str) -> Asker {
    Asker::Driver(driver(name))
}

pub fn operator() -> Asker {
    Asker::Operator(OperatorId::new("olga").unwrap())
}

pub fn cp_id(name: &str) -> CpId {
    CpId::new(name).unwrap()
}

pub fn epoch(name: &str) -> Epoch {
    Epoch::new(name).unwrap()
}

pub fn request_id(name: &str) -> RequestId {
    RequestId::new(name).unwrap()
}

/// How a request was answered, as the shell would do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Answer(Answer),
    Reused,
    Forgotten,
}

impl Told {
    #[track_caller]
    pub fn session(&self) -> SessionId {
        match self {
            Self::Answer(Answer::Started { session, .. } | Answer::Stopping { session, .. }) => {
                *session
            }
            other => panic!("no session in {other:?}"),
        }
    }

    #[track_caller]
    pub fn code(&self) -> Code {
        match self {
            Self::Answer(Answer::Refused { code, .. }) => *code,
            other => panic!("no refusal: {other:?}"),
        }
    }

    #[track_caller]
    pub fn done(&self) -> &str {
        match self {
            Self::Answer(Answer::Done { detail, .. }) => detail,
            other => panic!("not done: {other:?}"),
        }
    }
}

/// Somebody wants something.
#[derive(Debug, Clone)]
pub struct Asking {
    pub asker: Asker,
    pub id: RequestId,
    pub expires_at: UnixMs,
    pub wish: Wish,
}

impl Asking {
    pub fn command(&self) -> Command {
        Command::Request(self.ask(), self.wish.clone())
    }

    pub fn ask(&self) -> Ask {
        Ask {
            asker: self.asker.clone(),
            request: self.id.clone(),
            expires_at: self.expires_at,
            content: self.wish.content(self.expires_at),
        }
    }

    pub fn expiring(mut self, at: UnixMs) -> Self {
        self.expires_at = at;
        self
    }

    pub fn limited(mut self, asked: LimitsRequest) -> Self {
        if let Wish::Start { limits, .. } = &mut self.wish {
            *limits = asked;
        }
        self
    }

    pub fn at_connector(mut self, number: i64) -> Self {
        if let Wish::Start { connector, .. } = &mut self.wish {
            *connector = Some(number);
        }
        self
    }

    pub fn priced(mut self, id: &str, version: u32) -> Self {
        if let Wish::Start { seen, .. } = &mut self.wish {
            *seen = Some(SeenPrice {
                tariff: ev_contract::ids::TariffId::new(id).unwrap(),
                version,
            });
        }
        self
    }

    pub fn reaching(mut self, seen: Reach) -> Self {
        if let Wish::Start { reach, .. } = &mut self.wish {
            *reach = seen;
        }
        self
    }
}

pub fn start(who: &str, id: &str, cp: &str) -> Asking {
    Asking {
        asker: asker(who),
        id: request_id(id),
        expires_at: T0.plus_ms(20 * SECOND),
        wish: Wish::Start {
            driver: driver(who),
            origin: Origin::App,
            cp: cp_id(cp),
            connector: None,
            limits: LimitsRequest::default(),
            seen: None,
            reach: Reach::Online,
            json: false,
        },
    }
}

pub fn stop(who: &str, id: &str, session: SessionId) -> Asking {
    Asking {
        asker: asker(who),
        id: request_id(id),
        expires_at: T0.plus_ms(20 * SECOND),
        wish: Wish::Stop { session },
    }
}

pub fn op(id: &str, wish: Wish) -> Asking {
    Asking {
        asker: operator(),
        id: request_id(id),
        expires_at: T0.plus_ms(20 * SECOND),
        wish,
    }
}

pub fn write_off(id: &str, session: SessionId) -> Asking {
    op(
        id,
        Wish::End {
            session,
            reason: "the cabinet burnt down".into(),
            write_off: true,
        },
    )
}

/// 0.49 a kWh, 1.00 a start, 0.10 a minute after ten minutes up to 12.00, 19 % VAT.
pub fn terms() -> TariffTerms {
    let amount = |text: &str| text.parse().unwrap();
    TariffTerms {
        idle: Some(IdleFee {
            grace_s: 600,
            cap: amount("12"),
            from: IdleFrom::EnergyEnded,
            after_fault: false,
        }),
        ..TariffTerms::free(ev_contract::units::Currency::EUR)
    }
    .with(PriceComponent::Energy, amount("0.49"))
    .with(PriceComponent::StartFee, amount("1.00"))
    .with(PriceComponent::Idle, amount("0.10"))
    .taxed("VAT", amount("19"))
}

pub fn set_tariff(id: &str, tariff: &str, scope: TariffScope, terms: TariffTerms) -> Asking {
    op(
        id,
        Wish::SetTariff {
            tariff: ev_contract::ids::TariffId::new(tariff).unwrap(),
            scope,
            from: None,
            terms,
        },
    )
}

/// One central.
#[derive(Debug)]
pub struct Replica {
    pub id: ReplicaId,
    pub log: Log,
}

/// The ledger and everybody over it.
#[derive(Debug)]
pub struct World {
    /// Message n stands at sequence n + 1.
    pub ledger: Vec<Vec<u8>>,
    pub replicas: Vec<Replica>,
    pub now: UnixMs,
    pub settings: Settings,
    /// The test does by hand what nobody does, and the ledger does not come out even.
    pub uneven: bool,
    ids: u128,
}

impl World {
    pub fn new(replicas: usize) -> Self {
        Self {
            ledger: Vec::new(),
            replicas: (0..replicas)
                .map(|n| Replica {
                    id: ReplicaId::new(format!("central-{n}")).unwrap(),
                    log: Log::default(),
                })
                .collect(),
            now: T0,
            settings: Settings {
                operator_name: "Stadtwerke".into(),
                ..Settings::default()
            },
            uneven: false,
            ids: 0,
        }
    }

    /// With charge points `CP-1` and `CP-2` of one connector each, and the default tariff.
    pub fn with_charge_points(replicas: usize) -> (Self, Cabinet, Cabinet) {
        let mut world = Self::new(replicas);
        let (one, two) = (Cabinet::new("CP-1", "e1"), Cabinet::new("CP-2", "e2"));
        world.run(0, &one.sync());
        world.run(0, &two.sync());
        world.ask(
            0,
            &set_tariff("tariff", "day", TariffScope::Default, terms()),
        );
        (world, one, two)
    }

    pub fn uuid(&mut self) -> Uuid {
        self.ids += 1;
        // Version 7, so that it reads as what a shell would draw.
        Uuid::from_u128((7 << 76) | (2 << 62) | (self.ids & 0xffff_ffff) | (self.ids << 80))
    }

    pub fn session_id(&mut self) -> SessionId {
        SessionId::from_uuid(self.uuid())
    }

    pub fn state(&self, replica: usize) -> &State {
        self.replicas[replica].log.state()
    }

    pub fn later(&mut self, ms: i64) -> UnixMs {
        self.now = self.now.plus_ms(ms);
        self.now
    }

    fn draw(&mut self) -> (EventId, SessionId) {
        (EventId(self.uuid()), self.session_id())
    }

    /// Decides on what a replica has applied and what is in the overlay.
    fn decide_on(
        &self,
        overlay: &Overlay<'_>,
        (event, session): (EventId, SessionId),
        command: &Command,
    ) -> Decided {
        let ctx = Ctx {
            now: Now {
                mono_ms: 0,
                wall: self.now,
            },
            settings: &self.settings,
            event,
            session,
        };
        decide(overlay, ctx, command)
    }

    /// Decides commands one upon the other into a frame, on what the replica has applied.
    pub fn cut(&mut self, replica: usize, commands: &[Command]) -> Frame {
        let ids: Vec<_> = commands.iter().map(|_| self.draw()).collect();
        let id = self.uuid();
        let state = self.state(replica);
        let mut overlay = Overlay::new(state);
        let mut records = Vec::new();
        for (command, ids) in commands.iter().zip(ids) {
            if let Some(record) = self.decide_on(&overlay, ids, command).record {
                overlay.push(&record);
                records.push(record);
            }
        }
        Frame {
            id,
            by: self.replicas[replica].id.clone(),
            basis: state.basis(),
            at: self.now,
            records,
        }
    }

    /// What deciding one command comes to, without a frame.
    pub fn decide(&mut self, replica: usize, command: &Command) -> Decided {
        let ids = self.draw();
        let overlay = Overlay::new(self.state(replica));
        self.decide_on(&overlay, ids, command)
    }

    pub fn append(&mut self, frame: &Frame) -> u64 {
        self.append_bytes(frame.encode())
    }

    pub fn append_bytes(&mut self, bytes: Vec<u8>) -> u64 {
        self.ledger.push(bytes);
        self.ledger.len() as u64
    }

    /// Applies the next message; `None` at the end.
    pub fn step(&mut self, replica: usize) -> Option<Applied> {
        let log = &mut self.replicas[replica].log;
        let seq = log.state().basis().seq;
        let bytes = self.ledger.get(usize::try_from(seq).unwrap())?;
        Some(log.apply(seq + 1, bytes).unwrap())
    }

    pub fn catch_up(&mut self, replica: usize) -> Vec<Applied> {
        std::iter::from_fn(|| self.step(replica)).collect()
    }

    pub fn catch_up_all(&mut self) {
        for replica in 0..self.replicas.len() {
            self.catch_up(replica);
        }
    }

    /// Appends and lets everybody apply; says which records were valid.
    pub fn commit(&mut self, frame: &Frame) -> Vec<bool> {
        let pos = self.append(frame);
        let mut valid = Vec::new();
        for replica in 0..self.replicas.len() {
            for applied in self.catch_up(replica) {
                if applied.pos == pos {
                    valid = applied.valid;
                }
            }
        }
        valid
    }

    /// Decides on a fresh state and lets everybody apply.
    pub fn run(&mut self, replica: usize, command: &Command) -> bool {
        self.catch_up_all();
        let frame = self.cut(replica, std::slice::from_ref(command));
        self.commit(&frame).iter().all(|valid| *valid) && !frame.records.is_empty()
    }

    /// Asks a replica, whatever it has applied so far, as a shell would: again when void.
    pub fn ask(&mut self, replica: usize, asking: &Asking) -> Told {
        for _ in 0..20 {
            if let Some(told) = self.told(replica, asking) {
                return told;
            }
            let command = asking.command();
            let decided = self.decide(replica, &command);
            if decided.unrecorded == Some(Unrecorded::Forgotten) {
                return Told::Forgotten;
            }
            let frame = self.cut(replica, &[command]);
            self.append(&frame);
            self.catch_up(replica);
        }
        panic!("never settled: {asking:?}");
    }

    /// What a replica has applied of the answer to a request.
    pub fn told(&self, replica: usize, asking: &Asking) -> Option<Told> {
        known(self.state(replica), &asking.ask()).map(|known| match known {
            Known::Answered(answer) => Told::Answer(answer.clone()),
            Known::Reused => Told::Reused,
        })
    }

    pub fn session(&self, id: SessionId) -> &Session {
        &self.state(0).session(id).unwrap().value
    }

    #[track_caller]
    pub fn receipt(&self, id: SessionId) -> Receipt {
        let session = self.session(id);
        session
            .receipt()
            .unwrap_or_else(|| panic!("{id} has not ended: {:?}", session.stage))
    }

    pub fn adjustments(&self, id: SessionId) -> Adjustments {
        self.state(0)
            .adjustments(id)
            .map(|e| Adjustments::clone(&e.value))
            .unwrap_or_default()
    }

    pub fn connector(&self, cp: &str) -> Connector {
        self.state(0)
            .connector(&(cp_id(cp), ConnectorId(1)))
            .map(|e| Connector::clone(&e.value))
            .unwrap_or_default()
    }

    pub fn driver(&self, name: &str) -> Driver {
        self.state(0)
            .driver(&driver(name))
            .map(|e| e.value.clone())
            .unwrap_or_default()
    }

    pub fn spool(&self, cabinet: &Cabinet) -> Spool {
        self.state(0)
            .spool(&(cabinet.id.clone(), cabinet.epoch.clone()))
            .map(|e| e.value.clone())
            .unwrap_or_default()
    }

    /// Everything that is kept verbatim in valid records of the ledger.
    pub fn evidence(&self) -> Vec<Evidence> {
        let mut log = Log::default();
        let mut evidence = Vec::new();
        for (n, bytes) in self.ledger.iter().enumerate() {
            let applied = log.apply(n as u64 + 1, bytes).unwrap();
            for (record, valid) in applied.records() {
                if valid {
                    evidence.extend(record.evidence.iter().cloned());
                }
            }
        }
        evidence
    }

    /// Takes in what a cabinet has to say.
    pub fn take(&mut self, replica: usize, cabinet: &mut Cabinet, facts: Vec<EdgeFact>) -> bool {
        let records = facts
            .into_iter()
            .map(|fact| cabinet.record(self.now, fact))
            .collect();
        self.run(replica, &cabinet.run(records))
    }

    /// A session that charges, its register at 1 kWh.
    pub fn charging(&mut self, cabinet: &mut Cabinet, who: &str, id: &str) -> SessionId {
        let asking = start(who, id, cabinet.id.as_str())
            .expiring(self.now.plus_ms(20 * SECOND))
            .at_connector(1);
        let session = self.ask(0, &asking).session();
        self.catch_up_all();
        let reading = reading(self.now, 1_000_000);
        self.take(
            0,
            cabinet,
            vec![accepted(session), started(session, reading)],
        );
        session
    }

    pub fn answered(
        &mut self,
        cabinet: &Cabinet,
        verb: Verb,
        session: SessionId,
        got: Got,
    ) -> bool {
        let command = Command::Answered(CommandAnswer {
            cp: cabinet.id.clone(),
            session,
            verb,
            epoch: got.epoch.unwrap_or_else(|| cabinet.epoch.clone()),
            boot: cabinet.boot.id,
            outcome: got.outcome,
            code: got.code,
            raw: None,
        });
        self.run(0, &command)
    }
}

/// What a charge point answered.
#[derive(Debug, Clone)]
pub struct Got {
    pub outcome: Outcome,
    pub code: Option<Code>,
    pub epoch: Option<Epoch>,
}

impl Got {
    pub fn outcome(outcome: Outcome) -> Self {
        Self {
            outcome,
            code: None,
            epoch: None,
        }
    }

    pub fn refused(code: Code) -> Self {
        Self {
            code: Some(code),
            ..Self::outcome(Outcome::Refused)
        }
    }

    pub fn under(mut self, name: &str) -> Self {
        self.epoch = Some(epoch(name));
        self
    }
}

/// A charge point with one connector of 22 kW, and its spool.
#[derive(Debug, Clone)]
pub struct Cabinet {
    pub id: CpId,
    pub epoch: Epoch,
    pub boot: Boot,
    pub connectors: u16,
    /// The number of the next record.
    pub next: u64,
    /// The lowest number that the spool holds.
    pub first: u64,
}

impl Cabinet {
    pub fn new(id: &str, spool: &str) -> Self {
        Self {
            id: cp_id(id),
            epoch: epoch(spool),
            boot: Boot {
                id: BootId::from_number(1),
                count: 1,
                after: None,
            },
            connectors: 1,
            next: 1,
            first: 1,
        }
    }

    pub fn sync(&self) -> Command {
        Command::Sync(
            self.id.clone(),
            SyncRequest {
                tag: Tag::new(),
                to: "central".into(),
                cp_id: self.id.clone(),
                epoch: self.epoch.clone(),
                boot: self.boot,
                connectors: (1..=self.connectors)
                    .map(|n| ConnectorSpec {
                        connector: ConnectorId(n),
                        max_ma: MilliAmp(32_000),
                        phases: 3,
                        volts: 230,
                        plug: None,
                    })
                    .collect(),
                version: "0.1.0".into(),
                first: self.first,
                next: self.next,
                sessions: Vec::new(),
            },
        )
    }

    /// Writes a record to the spool.
    pub fn record(&mut self, at: UnixMs, fact: EdgeFact) -> EdgeRecord {
        let seq = self.next;
        self.next += 1;
        EdgeRecord {
            seq,
            at,
            quality: TimeQuality::Synced,
            fact,
        }
    }

    /// A run of consecutive records.
    pub fn run(&self, records: Vec<EdgeRecord>) -> Command {
        Command::Intake(Run {
            cp: self.id.clone(),
            epoch: self.epoch.clone(),
            boot: self.boot.id,
            first: self.first,
            from: records.first().map_or(self.next, |r| r.seq),
            records: records.into_iter().map(incoming).collect(),
        })
    }
}

pub fn incoming(record: EdgeRecord) -> Incoming {
    Incoming {
        raw: in_msgpack(&record.to_value().unwrap()),
        record: Ok(record),
    }
}

/// A record as it comes.
pub fn in_msgpack(value: &rmpv::Value) -> bytes::Bytes {
    let mut raw = Vec::new();
    rmpv::encode::write_value(&mut raw, value).unwrap();
    raw.into()
}

/// A reading of the meter `M1`.
pub fn reading(at: UnixMs, mwh: u64) -> Reading {
    Reading {
        at,
        quality: TimeQuality::Synced,
        register_mwh: Mwh(mwh),
        meter_id: "M1".into(),
        meter_epoch: 0,
        power_mw: None,
        current_ma: Vec::new(),
        soc_pct: None,
        signed: None,
    }
}

pub fn unplugged() -> EndReason {
    EndReason::new(EndCode::EvUnplugged, EndSource::Vehicle)
}

pub fn accepted(session_id: SessionId) -> EdgeFact {
    EdgeFact::Accepted {
        session_id,
        connector: ConnectorId(1),
    }
}

pub fn opened(session_id: SessionId, who: Option<&str>) -> EdgeFact {
    EdgeFact::OpenedAtEdge {
        session_id,
        connector: ConnectorId(1),
        origin: Origin::Local,
        driver_id: who.map(driver),
        token: Some("04A2".into()),
    }
}

pub fn started(session_id: SessionId, reading: Reading) -> EdgeFact {
    EdgeFact::Started {
        session_id,
        device_tx: "17".into(),
        reading,
    }
}

pub fn phase(session_id: SessionId, phase: Phase, reading: Option<Reading>) -> EdgeFact {
    EdgeFact::Phase {
        session_id,
        phase,
        reading,
    }
}

pub fn checkpoint(session_id: SessionId, reading: Reading) -> EdgeFact {
    EdgeFact::Checkpoint {
        session_id,
        reading,
    }
}

pub fn energy_ended(session_id: SessionId, reading: Option<Reading>) -> EdgeFact {
    EdgeFact::EnergyEnded {
        session_id,
        reading,
        reason: EndReason::new(EndCode::EvStopped, EndSource::Vehicle),
    }
}

pub fn ended(session_id: SessionId, reading: Option<Reading>) -> EdgeFact {
    EdgeFact::Ended {
        session_id,
        completed: true,
        reason: unplugged(),
        reading,
        stood_s: None,
    }
}

pub fn stood(session_id: SessionId, stood_s: Option<u32>) -> EdgeFact {
    EdgeFact::Ended {
        session_id,
        completed: true,
        reason: unplugged(),
        reading: None,
        stood_s,
    }
}

/// A connector that serves and is well.
#[derive(Debug, Clone)]
pub struct Report {
    pub plugged: bool,
    pub service: Service,
    pub revision: u64,
    pub fault: Option<FaultEffect>,
    pub charger_online: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            plugged: false,
            service: Service::In,
            revision: 0,
            fault: None,
            charger_online: true,
        }
    }
}

impl Report {
    pub fn fact(self) -> EdgeFact {
        EdgeFact::Connector {
            connector: ConnectorId(1),
            plugged: self.plugged,
            service: self.service,
            service_revision: self.revision,
            fault: self.fault.map(|effect| Fault {
                effect,
                raw: "E07".into(),
            }),
            charger_online: self.charger_online,
            ended_since_plug: false,
        }
    }
}

/// What a log of the same ledger comes to, read from its beginning.
pub fn replay(ledger: &[Vec<u8>]) -> Log {
    let mut log = Log::default();
    for (n, bytes) in ledger.iter().enumerate() {
        log.apply(n as u64 + 1, bytes).unwrap();
    }
    log
}

/// A frame of nothing.
pub fn barrier(id: Uuid, basis: Basis) -> Frame {
    Frame {
        id,
        by: ReplicaId::new("somebody").unwrap(),
        basis,
        at: T0,
        records: Vec::new(),
    }
}
