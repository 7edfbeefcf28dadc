//! Central's core under any sequence of questions: two replicas that decide on what they happen to
//! have applied, frames that come late and twice, restarts from snapshots.

use std::collections::{BTreeMap, BTreeSet};

use central_core::{
    decide::{Act, Ask, Command, CommandAnswer, Ctx, Incoming, Run, Settings, Verb, Wish, decide},
    frame::{Forget, Frame, Kind, Record},
    keys::{Asker, EventId},
    model::{Horizon, Session, Stage},
    state::{Log, State},
    tx::Overlay,
};
use ev_contract::{
    codes::Code,
    connector::{Fault, FaultEffect, Phase, Service},
    ids::{
        BootId, ConnectorId, CpId, DriverId, Epoch, OperatorId, ReplicaId, RequestId, SessionId,
        SiteId, TariffId,
    },
    time::{Now, UnixMs},
    units::{Amount, Currency, MilliAmp, MilliWatt, Mwh},
    v1::{
        Boot, ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, IdleFee,
        IdleFrom, LimitsRequest, Origin, Outcome, PriceComponent, Reach, Reading, SyncRequest,
        TariffScope, TariffTerms, TimeQuality,
    },
    wire::{CENTRAL, Tag},
};
use uuid::Uuid;

use crate::{
    decoders::{goes_on_from_snapshot, same_state},
    input::Choices,
};

/// More steps than this show nothing that fewer do not.
const STEPS_MAX: usize = 300;
const REPLICAS: usize = 2;
const T0: UnixMs = UnixMs(1_760_000_000_000);

pub fn run(bytes: &[u8]) {
    let mut c = Choices::new(bytes);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if c.is_empty() {
            break;
        }
        world.step(&mut c);
    }
    for replica in 0..REPLICAS {
        world.apply(replica, usize::MAX);
    }
    same_state(world.replicas[0].state(), world.replicas[1].state());
    goes_on_from_snapshot(world.replicas[0].state());
}

struct World {
    settings: Settings,
    now: Now,
    drawn: u64,
    ledger: Vec<Vec<u8>>,
    replicas: Vec<Log>,
    /// What waits for a replica's next frame.
    waiting: Vec<Vec<Command>>,
    /// Frames that may land, each any number of times.
    network: Vec<Vec<u8>>,
    sessions: Vec<SessionId>,
    /// The next number that each charge point writes.
    spools: BTreeMap<CpId, u64>,
    ended: BTreeMap<SessionId, Session>,
}

fn cp(n: usize) -> CpId {
    CpId::new(format!("CP-{}", n % 2)).expect("a valid id")
}

fn epoch(n: usize) -> Epoch {
    Epoch::new(format!("e{n}")).expect("a valid epoch")
}

fn driver(c: &mut Choices<'_>) -> DriverId {
    DriverId::new(c.of(&["alice", "bob"])).expect("a valid id")
}

impl World {
    fn new() -> Self {
        Self {
            settings: Settings::default(),
            now: Now {
                mono_ms: 0,
                wall: T0,
            },
            drawn: 0,
            ledger: Vec::new(),
            replicas: vec![Log::default(); REPLICAS],
            waiting: vec![Vec::new(); REPLICAS],
            network: Vec::new(),
            sessions: Vec::new(),
            spools: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    fn uuid(&mut self) -> Uuid {
        self.drawn += 1;
        Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(self.drawn))
    }

    fn session(&self, c: &mut Choices<'_>) -> SessionId {
        match self.sessions.as_slice() {
            [] => SessionId::from_uuid(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_ffff_0000)),
            some if c.rarely(8) => {
                let id = some[c.below(some.len())];
                SessionId::from_uuid(Uuid::from_u128(id.uuid().as_u128() ^ 0xffff_0000))
            }
            some => some[some.len() - 1 - c.below(some.len().min(8))],
        }
    }

    fn step(&mut self, c: &mut Choices<'_>) {
        self.now.mono_ms += u64::from(c.byte());
        self.now.wall = match c.byte() {
            0..=239 => self.now.wall.plus_ms(500),
            240..=252 => self.now.wall.plus_ms(i64::from(c.byte()) * 60_000),
            253.. => c.time(T0),
        };
        let replica = c.below(REPLICAS);
        match c.byte() % 17 {
            0 => self.cut(replica),
            1 => self.land(c),
            2 => self.apply(replica, 1 + c.below(4)),
            // All at once, as on a quiet day.
            3..=5 => {
                self.cut(replica);
                self.land(c);
                for replica in 0..REPLICAS {
                    self.apply(replica, usize::MAX);
                }
            }
            6 => self.restart(replica, c.yes()),
            7 => {
                let command = self.sync(c);
                self.waiting[replica].push(command);
            }
            8..=10 => {
                let command = self.request(c);
                self.waiting[replica].push(command);
            }
            11..=13 => {
                let command = self.intake(c);
                self.waiting[replica].push(command);
            }
            14 => {
                let command = self.answered(c);
                self.waiting[replica].push(command);
            }
            _ => {
                let command = self.upkeep(c, replica);
                self.waiting[replica].push(command);
            }
        }
    }

    /// Decides what waits and packs it into a frame.
    fn cut(&mut self, replica: usize) {
        let commands = std::mem::take(&mut self.waiting[replica]);
        let mut ids = Vec::new();
        for _ in &commands {
            ids.push((self.uuid(), self.uuid()));
        }
        let (now, settings) = (self.now, self.settings.clone());
        let state = self.replicas[replica].state();
        let mut overlay = Overlay::new(state);
        let mut records: Vec<Record> = Vec::new();
        for (command, (event, session)) in commands.iter().zip(ids) {
            let ctx = Ctx {
                now,
                settings: &settings,
                event: EventId(event),
                session: SessionId::from_uuid(session),
            };
            let decided = decide(&overlay, ctx, command);
            if let Some(record) = decided.record {
                overlay.push(&record);
                self.sessions.push(SessionId::from_uuid(session));
                let last = matches!(record.kind, Kind::Forget);
                records.push(record);
                if last {
                    break;
                }
            }
        }
        let basis = state.basis();
        let frame = Frame {
            id: self.uuid(),
            by: ReplicaId::new(format!("r{replica}")).expect("a valid id"),
            basis,
            at: now.wall,
            records,
        };
        let bytes = frame.encode();
        self.network.push(bytes);
    }

    /// A copy of a frame lands.
    fn land(&mut self, c: &mut Choices<'_>) {
        if self.network.is_empty() {
            return;
        }
        let last = self.network.len() - 1;
        let which = last - c.below(self.network.len()).min(last);
        self.ledger.push(self.network[which].clone());
        if !c.rarely(8) {
            self.network.remove(which);
        }
    }

    fn apply(&mut self, replica: usize, most: usize) {
        for _ in 0..most {
            let log = &mut self.replicas[replica];
            let at = log.state().basis().seq;
            let Some(bytes) = usize::try_from(at).ok().and_then(|at| self.ledger.get(at)) else {
                return;
            };
            log.apply(at + 1, bytes)
                .unwrap_or_else(|alarm| panic!("a sound ledger raises an alarm: {alarm}"));
            self.look(replica);
        }
    }

    fn restart(&mut self, replica: usize, snapshot: bool) {
        self.waiting[replica].clear();
        self.replicas[replica] = if snapshot {
            let bytes = self.replicas[replica].state().freeze().encode();
            Log::from_snapshot(State::decode(&bytes).expect("what was written can be read"))
        } else {
            Log::default()
        };
    }

    /// What holds of every state.
    fn look(&mut self, replica: usize) {
        let state = self.replicas[replica].state();
        let mut by_connector: BTreeMap<_, BTreeSet<SessionId>> = BTreeMap::new();
        let mut asked: BTreeMap<_, usize> = BTreeMap::new();
        for entry in state.open_sessions() {
            let session = &entry.value;
            let at = (session.cp.clone(), session.connector);
            // A charge point may say anything of how a session began.
            if session.request.is_some() {
                *asked.entry(at.clone()).or_default() += 1;
            }
            by_connector.entry(at).or_default().insert(session.id);
        }
        for ((cp, id), connector) in state.connectors() {
            let at = (cp.clone(), id);
            let open = by_connector.remove(&at).unwrap_or_default();
            assert!(connector.open.iter().eq(&open), "{at:?}");
        }
        assert!(
            by_connector.is_empty(),
            "an open session without a connector"
        );
        for (at, count) in asked {
            assert!(count <= 1, "{count} started sessions on {at:?}");
        }
        for entry in state.sessions_before(None) {
            if let Stage::Ended { receipt } = &entry.value.stage {
                assert!(receipt.ended_at >= entry.value.accepted_at);
                let first = self
                    .ended
                    .entry(entry.value.id)
                    .or_insert_with(|| Session::clone(&entry.value));
                assert_eq!(*first, *entry.value, "an ended session changed");
            }
        }
    }

    fn sync(&self, c: &mut Choices<'_>) -> Command {
        let cp_id = cp(c.below(2));
        let connectors = (1..=1 + c.below(2))
            .map(|n| ConnectorSpec {
                connector: ConnectorId(u16::try_from(n).unwrap_or_default()),
                max_ma: MilliAmp(u32::try_from(c.number()).unwrap_or(u32::MAX)),
                phases: c.of(&[3, 1, 0, 255]),
                volts: c.of(&[230, 0, u16::MAX]),
                plug: None,
            })
            .collect();
        Command::Sync(
            cp_id.clone(),
            SyncRequest {
                tag: Tag::new(),
                to: CENTRAL.into(),
                cp_id,
                boot: Boot {
                    id: BootId::from_number(u64::from(c.rarely(8))),
                    count: c.number(),
                    after: c.maybe(|c| BootId::from_number(u64::from(c.yes()))),
                },
                epoch: epoch(usize::from(c.rarely(8))),
                connectors,
                version: "1".into(),
                first: 1,
                next: c.number(),
                sessions: Vec::new(),
            },
        )
    }

    fn request(&self, c: &mut Choices<'_>) -> Command {
        let operator = Asker::Operator(OperatorId::new("olga").expect("a valid id"));
        let who = driver(c);
        let (asker, wish) = match c.byte() % 17 {
            0..=5 => (
                Asker::Driver(who.clone()),
                Wish::Start {
                    driver: who,
                    origin: Origin::App,
                    cp: cp(c.below(2)),
                    connector: c.maybe(|c| c.of(&[1, 2, 0, -1, i64::MAX])),
                    limits: limits(c),
                    seen: None,
                    reach: c.of(Reach::ALL),
                    json: c.yes(),
                },
            ),
            6..=8 => (
                Asker::Driver(who),
                Wish::Stop {
                    session: self.session(c),
                },
            ),
            9 => (
                operator,
                Wish::End {
                    session: self.session(c),
                    reason: c.text(),
                    write_off: c.yes(),
                },
            ),
            10 => (
                operator,
                Wish::Adjust {
                    session: self.session(c),
                    amount: amount(c),
                    reason: c.text(),
                },
            ),
            11 => (
                operator,
                Wish::Service {
                    cp: cp(c.below(2)),
                    connector: c.maybe(|c| c.of(&[1, 2, 0, i64::MIN])),
                    serve: c.yes(),
                },
            ),
            12 => (
                operator,
                Wish::Act {
                    cp: cp(c.below(2)),
                    connector: c.maybe(|c| c.of(&[1, 2, 0, i64::MIN])),
                    act: c.of(&[Act::Unlock, Act::Reset]),
                },
            ),
            13 => (
                operator,
                Wish::Block {
                    driver: who,
                    reason: c.text(),
                },
            ),
            14 => (operator, Wish::Unblock { driver: who }),
            15 => (
                operator,
                Wish::RemoveTariff {
                    scope: scope(c),
                    scheduled_only: c.below(2) == 0,
                },
            ),
            _ => (
                operator,
                Wish::SetTariff {
                    tariff: TariffId::new(c.of(&["std", "night"])).expect("a valid id"),
                    scope: scope(c),
                    from: c.maybe(|c| c.time(self.now.wall)),
                    terms: terms(c),
                },
            ),
        };
        let expires_at = match c.byte() {
            0..=199 => self.now.wall.plus_ms(20_000),
            _ => c.time(self.now.wall),
        };
        Command::Request(
            Ask {
                asker,
                request: RequestId::new(format!("q{}", c.byte() % 12)).expect("a valid id"),
                expires_at,
                content: wish.content(expires_at),
            },
            wish,
        )
    }

    fn intake(&mut self, c: &mut Choices<'_>) -> Command {
        let cp = cp(c.below(2));
        let next = *self.spools.get(&cp).unwrap_or(&1);
        let from = match c.byte() {
            0..=199 => next,
            200..=229 => next.saturating_sub(u64::from(c.byte() % 4)).max(1),
            230.. => c.number(),
        };
        let mut records = Vec::new();
        for n in 0..c.below(4) {
            let seq = from.saturating_add(n as u64);
            let record = EdgeRecord {
                seq: if c.rarely(16) { c.number() } else { seq },
                at: c.time(self.now.wall),
                quality: c.of(TimeQuality::ALL),
                fact: self.fact(c),
            };
            let value = record.to_value().expect("a record can be written");
            let mut raw = Vec::new();
            rmpv::encode::write_value(&mut raw, &value).expect("a value can be written");
            let record = if c.rarely(16) {
                Err(c.text())
            } else {
                EdgeRecord::from_value(value).map_err(|e| e.0)
            };
            records.push(Incoming {
                raw: raw.into(),
                record,
            });
        }
        if from == next {
            self.spools
                .insert(cp.clone(), next.saturating_add(records.len() as u64));
        }
        Command::Intake(Run {
            cp,
            boot: BootId::from_number(u64::from(c.rarely(12))),
            epoch: epoch(usize::from(c.rarely(12))),
            first: if c.rarely(8) {
                c.number()
            } else {
                from.min(next)
            },
            from,
            records,
        })
    }

    fn fact(&self, c: &mut Choices<'_>) -> EdgeFact {
        let session_id = self.session(c);
        let connector = ConnectorId(c.of(&[1, 2, 0, u16::MAX]));
        let now = self.now.wall;
        match c.byte() % 17 {
            0..=2 => EdgeFact::Accepted {
                session_id,
                connector,
            },
            3 => EdgeFact::OpenedAtEdge {
                session_id,
                connector,
                origin: c.of(Origin::ALL),
                driver_id: c.maybe(driver),
                token: c.maybe(Choices::text),
            },
            4..=6 => EdgeFact::Started {
                session_id,
                device_tx: c.text(),
                reading: reading(c, now),
            },
            7 => EdgeFact::Phase {
                session_id,
                phase: c.of(Phase::ALL),
                reading: c.maybe(|c| reading(c, now)),
            },
            8 | 9 => EdgeFact::Checkpoint {
                session_id,
                reading: reading(c, now),
            },
            10 => EdgeFact::EnergyEnded {
                session_id,
                reading: c.maybe(|c| reading(c, now)),
                reason: reason(c),
            },
            11 | 12 => EdgeFact::Ended {
                session_id,
                completed: c.yes(),
                reason: reason(c),
                reading: c.maybe(|c| reading(c, now)),
                stood_s: c.maybe(|c| c.number() as u32),
            },
            13 => EdgeFact::Connector {
                connector,
                plugged: c.yes(),
                service: c.of(Service::ALL),
                service_revision: c.number(),
                fault: c.maybe(|c| Fault {
                    effect: c.of(FaultEffect::ALL),
                    raw: c.text(),
                }),
                charger_online: c.yes(),
                ended_since_plug: c.yes(),
            },
            14 => EdgeFact::Booted {
                raw: c.maybe(Choices::text),
            },
            _ => EdgeFact::Anomaly {
                connector: c.maybe(|_| connector),
                session_id: c.maybe(|_| session_id),
                what: c.text(),
            },
        }
    }

    fn answered(&self, c: &mut Choices<'_>) -> Command {
        Command::Answered(CommandAnswer {
            cp: cp(c.below(2)),
            session: self.session(c),
            verb: c.of(&[Verb::Start, Verb::Stop]),
            boot: BootId::from_number(u64::from(c.rarely(12))),
            epoch: epoch(usize::from(c.rarely(8))),
            outcome: c.of(Outcome::ALL),
            code: c.maybe(|c| c.of(Code::ALL)),
            raw: c.maybe(Choices::text),
        })
    }

    fn upkeep(&self, c: &mut Choices<'_>, replica: usize) -> Command {
        if c.yes() {
            return Command::Release(self.session(c));
        }
        let state = self.replicas[replica].state();
        let until = self.now.wall.plus_ms(-i64::from(c.byte()) * 1_000);
        // As the shell does: only what has ended, and nothing newer than what it has applied.
        let sessions = state
            .sessions_oldest_first()
            .filter(|s| matches!(s.stage, Stage::Ended { .. }))
            .filter(|s| {
                state
                    .connector(&(s.cp.clone(), s.connector))
                    .is_none_or(|at| !at.value.standing_stops.contains(&s.id))
            })
            .take(c.below(3))
            .map(|s| s.id)
            .collect();
        Command::Forget(Forget {
            horizon: Horizon { until },
            others_until: until.plus_ms(-i64::from(c.byte()) * 1_000),
            before: state.basis().seq,
            sessions,
        })
    }
}

fn scope(c: &mut Choices<'_>) -> TariffScope {
    match c.below(3) {
        0 => TariffScope::Default,
        1 => TariffScope::Site(SiteId::new("SITE-A").expect("a valid id")),
        _ => TariffScope::ChargePoint(cp(c.below(2))),
    }
}

fn terms(c: &mut Choices<'_>) -> TariffTerms {
    let seconds = |c: &mut Choices<'_>| u32::try_from(c.number()).unwrap_or(u32::MAX);
    let mut terms = TariffTerms {
        idle: c.maybe(|c| IdleFee {
            grace_s: seconds(c),
            cap: amount(c),
            from: c
                .maybe(|c| IdleFrom::WithoutPowerS(seconds(c)))
                .unwrap_or(IdleFrom::EnergyEnded),
            after_fault: c.below(2) == 0,
        }),
        min_price: c.maybe(amount),
        max_price: c.maybe(amount),
        prices_net: c.below(2) == 0,
        ..TariffTerms::free(Currency::EUR)
    }
    .with(PriceComponent::Energy, amount(c))
    .with(PriceComponent::StartFee, amount(c))
    .with(PriceComponent::Idle, amount(c));
    for name in ["VAT", "city"] {
        if let Some(rate) = c.maybe(amount) {
            terms = terms.taxed(name, rate);
        }
    }
    terms
}

fn amount(c: &mut Choices<'_>) -> Amount {
    // What the border lets through, and a little more.
    c.of(&["0.50", "0", "0.000001", "9999999", "19", "100", "0.33"])
        .parse()
        .expect("an amount")
}

fn limits(c: &mut Choices<'_>) -> LimitsRequest {
    if !c.rarely(3) {
        return LimitsRequest::default();
    }
    let number = |c: &mut Choices<'_>| c.of(&[1, 300, 0, -1, 1_000_000, i64::MAX, i64::MIN]);
    LimitsRequest {
        energy_wh: c.maybe(number),
        time_s: c.maybe(number),
        cost: c.maybe(|c| {
            c.of(&["5.00", "0", "-1", "x", "99999999999999999999"])
                .into()
        }),
        currency: c.maybe(|c| c.of(&["EUR", "USD", "euro", ""]).into()),
    }
}

fn reason(c: &mut Choices<'_>) -> EndReason {
    EndReason {
        raw: c.maybe(Choices::text),
        ..EndReason::new(c.of(EndCode::ALL), c.of(EndSource::ALL))
    }
}

fn reading(c: &mut Choices<'_>, now: UnixMs) -> Reading {
    Reading {
        at: c.time(now),
        quality: c.of(TimeQuality::ALL),
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

/// The ledger of a story and the snapshot of what it comes to, as inputs for decoders.
pub fn story(bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut c = Choices::new(bytes);
    let mut world = World::new();
    while !c.is_empty() {
        world.step(&mut c);
    }
    world.apply(0, usize::MAX);
    let snapshot = world.replicas[0].state().freeze().encode();
    (world.ledger, snapshot)
}
