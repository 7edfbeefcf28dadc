//! Random histories: replicas that decide on what they happen to have applied, frames that come
//! twice and late, charge points that talk to any of them. After every message of the ledger the
//! promises are looked at.

use std::collections::{BTreeMap, BTreeSet};

use central_core::{
    decide::{Command, CommandAnswer, Verb, Wish},
    frame::{Forget, Frame, Kind, Write},
    keys::Asker,
    model::{Answer, Horizon, Session, Stage},
    state::{Applied, Log, State},
};
use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::{ConnectorId, CpId, DriverId, RequestId, SessionId},
    time::UnixMs,
    v1::{EdgeFact, Flag, Origin, Outcome, Reach},
};
use proptest::prelude::*;

use crate::harness::*;

const REPLICAS: usize = 3;
const DRIVERS: [&str; 3] = ["alice", "bob", "carol"];
const CPS: [&str; 2] = ["CP-1", "CP-2"];
/// Between two readings: below what central tolerates without looking at the time.
const STEP_MWH: u64 = 50_000;

/// Something that happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Event {
    /// A replica is asked for a start. Few ids, so that they meet again.
    Start {
        replica: usize,
        driver: usize,
        id: u8,
        cp: usize,
        offline: bool,
    },
    /// A replica is asked to stop a session, by its driver or by somebody else.
    Stop {
        replica: usize,
        driver: usize,
        id: u8,
        session: usize,
    },
    /// An operator ends or writes off.
    End {
        replica: usize,
        id: u8,
        session: usize,
        write_off: bool,
    },
    /// A charge point writes to its spool.
    Record {
        cp: usize,
        session: usize,
        what: u8,
    },
    /// A charge point sends what waits in its spool, or some of it again.
    Send {
        replica: usize,
        cp: usize,
        again: u64,
        most: usize,
    },
    /// A charge point has answered a command.
    Answered {
        replica: usize,
        session: usize,
        stop: bool,
        outcome: usize,
        other_epoch: bool,
    },
    Release {
        replica: usize,
        session: usize,
    },
    /// Refusals and answers that expired so long ago are forgotten.
    Forget {
        replica: usize,
        ago_s: i64,
        others: bool,
        sessions: bool,
    },
    /// A replica packs what waits into a frame, unless one is under way.
    Cut {
        replica: usize,
    },
    /// A copy of a frame reaches the ledger: one that is under way, or an old one.
    Arrive {
        which: usize,
        keep: bool,
        old: bool,
    },
    /// A replica applies so many messages.
    Apply {
        replica: usize,
        messages: usize,
    },
    /// A replica begins anew from a snapshot of its own, or from nothing.
    Restart {
        replica: usize,
        snapshot: bool,
    },
    Wait {
        seconds: i64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let replica = || 0..REPLICAS;
    prop_oneof![
        8 => (replica(), 0..3_usize, 0..6_u8, 0..2_usize, prop::bool::weighted(0.1)).prop_map(
            |(replica, driver, id, cp, offline)| Event::Start { replica, driver, id, cp, offline }
        ),
        3 => (replica(), 0..4_usize, 0..6_u8, any::<usize>()).prop_map(
            |(replica, driver, id, session)| Event::Stop { replica, driver, id, session }
        ),
        1 => (replica(), 0..6_u8, any::<usize>(), prop::bool::weighted(0.7)).prop_map(
            |(replica, id, session, write_off)| Event::End { replica, id, session, write_off }
        ),
        14 => (0..2_usize, any::<usize>(), 0..30_u8)
            .prop_map(|(cp, session, what)| Event::Record { cp, session, what }),
        8 => (replica(), 0..2_usize, 0..3_u64, 1..9_usize)
            .prop_map(|(replica, cp, again, most)| Event::Send { replica, cp, again, most }),
        2 => (
            replica(),
            any::<usize>(),
            any::<bool>(),
            0..Outcome::ALL.len(),
            prop::bool::weighted(0.2),
        )
            .prop_map(|(replica, session, stop, outcome, other_epoch)| Event::Answered {
                replica, session, stop, outcome, other_epoch,
            }),
        1 => (replica(), any::<usize>())
            .prop_map(|(replica, session)| Event::Release { replica, session }),
        1 => (replica(), 0..40_i64, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(replica, ago_s, others, sessions)| Event::Forget { replica, ago_s, others, sessions }
        ),
        12 => replica().prop_map(|replica| Event::Cut { replica }),
        16 => (any::<usize>(), prop::bool::weighted(0.2), prop::bool::weighted(0.15))
            .prop_map(|(which, keep, old)| Event::Arrive { which, keep, old }),
        18 => (replica(), 1..6_usize)
            .prop_map(|(replica, messages)| Event::Apply { replica, messages }),
        1 => (replica(), any::<bool>())
            .prop_map(|(replica, snapshot)| Event::Restart { replica, snapshot }),
        2 => (1..12_i64).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// What a charge point's own meter says of a session.
#[derive(Debug, Clone, Copy, Default)]
struct Meter {
    register: u64,
    /// The first and the last reading that central has been told and has applied.
    told: Option<(u64, u64)>,
}

struct Story {
    world: World,
    cabinets: Vec<Cabinet>,
    /// Everything that a spool ever held.
    spools: Vec<Vec<ev_contract::v1::EdgeRecord>>,
    meters: BTreeMap<SessionId, Meter>,
    waiting: Vec<Vec<Command>>,
    under_way: Vec<Option<Frame>>,
    /// Copies of frames that may reach the ledger.
    network: Vec<Frame>,
    old_frames: Vec<Frame>,
    /// Sessions that the charge points can name, in the order of their appearance.
    sessions: Vec<(SessionId, usize)>,
    observer: Observer,
}

/// Reads the ledger as it grows and looks at the promises.
#[derive(Default)]
struct Observer {
    log: Log,
    first_answers: BTreeMap<(Asker, RequestId), Answer>,
    ended: BTreeMap<SessionId, Session>,
    numbers: BTreeMap<(CpId, ConnectorId), u64>,
    stops: BTreeSet<SessionId>,
    adjusted_mwh: BTreeMap<SessionId, i64>,
}

impl Observer {
    fn apply(&mut self, pos: u64, bytes: &[u8]) {
        let before = self.log.state().clone();
        let mut log = std::mem::take(&mut self.log);
        let applied = log.apply(pos, bytes).unwrap();
        let after = log.state();
        self.one_connector_one_session(after);
        self.ended_sessions_stay(after);
        self.first_answers_stay(after, &applied);
        self.stops_stand(&before, after, &applied);
        for entry in after.sessions_before(None) {
            if let Some(adjustments) = after.adjustments(entry.value.id) {
                let sum = adjustments.value.list.iter().map(|a| a.energy_mwh).sum();
                let last = self.adjusted_mwh.insert(entry.value.id, sum);
                assert!(last.is_none_or(|last| last <= sum), "energy was taken back");
            }
        }
        for entry in before.open_sessions() {
            assert!(
                after.session(entry.value.id).is_some(),
                "an open session was forgotten"
            );
        }
        self.log = log;
    }

    /// Promise 3, and that connectors, drivers and sessions agree.
    fn one_connector_one_session(&self, state: &State) {
        let mut by_connector: BTreeMap<_, BTreeSet<SessionId>> = BTreeMap::new();
        let mut by_driver: BTreeMap<&DriverId, BTreeSet<SessionId>> = BTreeMap::new();
        for entry in state.open_sessions() {
            let session = &entry.value;
            by_connector
                .entry((session.cp.clone(), session.connector))
                .or_default()
                .insert(session.id);
            if let Some(driver) = session.driver.as_ref().filter(|_| session.counts) {
                by_driver.entry(driver).or_default().insert(session.id);
            }
        }
        let asked = |ids: &BTreeSet<SessionId>| {
            ids.iter()
                .filter(|id| {
                    state
                        .session(**id)
                        .is_some_and(|e| e.value.origin == Origin::App)
                })
                .count()
        };
        for ((cp, id), connector) in state.connectors() {
            let at = (cp.clone(), id);
            let open = by_connector.remove(&at).unwrap_or_default();
            assert!(connector.open.iter().eq(&open), "{at:?}");
            assert!(asked(&open) <= 1, "two started sessions on {at:?}");
        }
        assert!(by_connector.is_empty());
        for name in DRIVERS {
            let id = driver(name);
            let open = by_driver.remove(&id).unwrap_or_default();
            let written = state
                .driver(&id)
                .map(|e| e.value.open.clone())
                .unwrap_or_default();
            assert!(written.iter().eq(&open), "{name}");
            assert!(asked(&open) <= 1, "{name} has two started sessions");
        }
    }

    /// Promises 1 and 2: a request is answered once, however often it was decided and whatever was
    /// forgotten since; what was accepted is there.
    fn first_answers_stay(&mut self, state: &State, applied: &Applied) {
        for write in applied.writes() {
            if let Write::Request(asker, id, request) = write {
                let key = (asker.clone(), id.clone());
                let before = self.first_answers.insert(key, request.answer.clone());
                assert_eq!(before, None, "{id} was answered again: {request:?}");
            }
        }
        for answer in self.first_answers.values() {
            if let Answer::Started { session, .. } = answer {
                let known = state.session(*session).is_some() || self.ended.contains_key(session);
                assert!(known, "{session} was accepted and is not there");
            }
        }
    }

    /// Promise 4.
    fn ended_sessions_stay(&mut self, state: &State) {
        for entry in state.sessions_before(None) {
            let session = &entry.value;
            match &session.stage {
                Stage::Ended { receipt } => {
                    let first = self.ended.entry(session.id).or_insert_with(|| {
                        let number = self
                            .numbers
                            .entry((session.cp.clone(), session.connector))
                            .or_default();
                        *number += 1;
                        Session::clone(session)
                    });
                    assert_eq!(*first, **session, "an ended session changed");
                    assert_eq!(session.receipt().unwrap().number, receipt.number);
                }
                Stage::Ordered
                | Stage::Taken { .. }
                | Stage::Energy { .. }
                | Stage::Standing { .. } => {
                    assert!(
                        !self.ended.contains_key(&session.id),
                        "an ended session is open"
                    );
                }
            }
        }
        for ((cp, id), connector) in state.connectors() {
            let at = (cp.clone(), id);
            let ended = self.numbers.get(&at).copied().unwrap_or_default();
            assert_eq!(connector.receipts, ended, "receipts of {at:?}");
        }
        let numbers: BTreeSet<&str> = self
            .ended
            .values()
            .filter_map(|s| match &s.stage {
                Stage::Ended { receipt } => Some(receipt.number.as_str()),
                Stage::Ordered
                | Stage::Taken { .. }
                | Stage::Energy { .. }
                | Stage::Standing { .. } => None,
            })
            .collect();
        assert_eq!(
            numbers.len(),
            self.ended.len(),
            "a receipt number was given twice"
        );
    }

    /// Promise 6: what was told to stop stays so until it has ended, and what was written off
    /// until the charge point has spoken.
    fn stops_stand(&mut self, before: &State, after: &State, applied: &Applied) {
        for entry in after.sessions_before(None) {
            if entry.value.stop.is_some() {
                self.stops.insert(entry.value.id);
            } else {
                assert!(
                    !self.stops.contains(&entry.value.id),
                    "a stop was taken back"
                );
            }
        }
        for ((cp, id), connector) in before.connectors() {
            let now = after.connector_at(cp, id).map(|e| &e.value.standing_stops);
            let stood = &connector.standing_stops;
            let gone = now.is_none_or(|now| stood.iter().any(|id| !now.contains(id)));
            let by_charge_point = applied.records().any(|(record, valid)| {
                valid && matches!(record.kind, Kind::Intake | Kind::CommandAnswered)
            });
            assert!(!gone || by_charge_point, "a standing stop fell by itself");
        }
    }
}

impl Story {
    fn new() -> Self {
        let (world, one, two) = World::with_charge_points(REPLICAS);
        let mut observer = Observer::default();
        for (n, bytes) in world.ledger.iter().enumerate() {
            observer.apply(n as u64 + 1, bytes);
        }
        let mut story = Self {
            world,
            cabinets: vec![one, two],
            spools: vec![Vec::new(), Vec::new()],
            meters: BTreeMap::new(),
            waiting: vec![Vec::new(); REPLICAS],
            under_way: vec![None; REPLICAS],
            network: Vec::new(),
            old_frames: Vec::new(),
            sessions: Vec::new(),
            observer,
        };
        story.world.catch_up_all();
        story
    }

    fn session(&self, number: usize) -> Option<(SessionId, usize)> {
        let index = number.checked_rem(self.sessions.len())?;
        self.sessions.get(index).copied()
    }

    /// The id of a request and when it expires: few ids at a time, of which the older ones have
    /// just expired, and each with one expiry for ever.
    fn request(&self, kind: &str, id: u8) -> (String, UnixMs) {
        const ERA_MS: i64 = 12 * SECOND;
        let era = self.world.now.ms_since(T0) / ERA_MS - i64::from(id == 0);
        let expires_at = T0.plus_ms(era * ERA_MS + 20 * SECOND);
        (format!("{kind}{era}-{id}"), expires_at)
    }

    fn ask(&mut self, replica: usize, asking: &Asking) {
        if self.world.told(replica, asking).is_none() {
            self.waiting[replica].push(asking.command());
        }
    }

    fn happen(&mut self, event: &Event) {
        let now = self.world.now;
        match *event {
            Event::Start {
                replica,
                driver,
                id,
                cp,
                offline,
            } => {
                let (id, expires_at) = self.request("r", id);
                let mut asking = start(DRIVERS[driver], &id, CPS[cp]).expiring(expires_at);
                if offline {
                    asking = asking.reaching(Reach::Offline);
                }
                self.ask(replica, &asking);
            }
            Event::Stop {
                replica,
                driver,
                id,
                session,
            } => {
                if let Some((session, _)) = self.session(session) {
                    let (id, expires_at) = self.request("s", id);
                    let known = self.world.state(replica).session(session);
                    let owner = known.and_then(|e| e.value.driver.as_ref());
                    let who = match (DRIVERS.get(driver), owner) {
                        (Some(who), _) => (*who).to_owned(),
                        (None, Some(owner)) => owner.to_string(),
                        (None, None) => return,
                    };
                    let asking = stop(&who, &id, session).expiring(expires_at);
                    self.ask(replica, &asking);
                }
            }
            Event::End {
                replica,
                id,
                session,
                write_off,
            } => {
                if let Some((session, _)) = self.session(session) {
                    let (id, expires_at) = self.request("e", id);
                    let wish = Wish::End {
                        session,
                        reason: "gone".into(),
                        write_off,
                    };
                    self.ask(replica, &op(&id, wish).expiring(expires_at));
                }
            }
            Event::Record { cp, session, what } => self.record(cp, session, what),
            Event::Send {
                replica,
                cp,
                again,
                most,
            } => self.send(replica, cp, again, most),
            Event::Answered {
                replica,
                session,
                stop,
                outcome,
                other_epoch,
            } => {
                let Some((session, cp)) = self.session(session) else {
                    return;
                };
                let cabinet = &self.cabinets[cp];
                self.waiting[replica].push(Command::Answered(CommandAnswer {
                    cp: cabinet.id.clone(),
                    session,
                    verb: if stop { Verb::Stop } else { Verb::Start },
                    epoch: if other_epoch {
                        epoch("other")
                    } else {
                        cabinet.epoch.clone()
                    },
                    boot: cabinet.boot.id,
                    outcome: Outcome::ALL[outcome],
                    code: Some(Code::Late),
                    raw: None,
                }));
            }
            Event::Release { replica, session } => {
                if let Some((session, _)) = self.session(session) {
                    self.waiting[replica].push(Command::Release(session));
                }
            }
            Event::Forget {
                replica,
                ago_s,
                others,
                sessions,
            } => {
                let until = now.plus_ms(-ago_s * SECOND);
                let state = self.world.state(replica);
                let ended = state
                    .sessions_oldest_first()
                    .filter(|s| sessions && s.is_ended())
                    .map(|s| s.id)
                    .collect();
                let forget = Forget {
                    horizon: Horizon { until },
                    others_until: if others { until } else { UnixMs(0) },
                    before: state.basis().seq,
                    sessions: ended,
                };
                self.waiting[replica].push(Command::Forget(forget));
            }
            Event::Cut { replica } => self.cut(replica),
            Event::Arrive { which, keep, old } => self.arrive(which, keep, old),
            Event::Apply { replica, messages } => {
                for _ in 0..messages {
                    self.apply(replica);
                }
            }
            Event::Restart { replica, snapshot } => {
                let log = &mut self.world.replicas[replica].log;
                *log = if snapshot {
                    let bytes = log.state().freeze().encode();
                    Log::from_snapshot(State::decode(&bytes).unwrap())
                } else {
                    Log::default()
                };
                // What it had sent may still arrive; it does not remember it.
                self.waiting[replica].clear();
                self.under_way[replica] = None;
            }
            Event::Wait { seconds } => {
                self.world.later(seconds * SECOND);
            }
        }
    }

    /// A charge point writes down what happened to one of its sessions, whatever central thinks.
    fn record(&mut self, cp: usize, session: usize, what: u8) {
        let at = self.world.now;
        if what == 0 {
            let id = self.world.session_id();
            let who = DRIVERS.get(session % 4).copied();
            self.sessions.push((id, cp));
            let record = self.cabinets[cp].record(at, opened(id, who));
            self.spools[cp].push(record);
            return;
        }
        // Mostly of its newest sessions; now and then of another's, which changes nothing.
        let own: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, at)| *at == cp)
            .copied()
            .collect();
        let newest = own.len().saturating_sub(session % 3 + 1);
        let about = match own.get(newest) {
            Some(newest) if !session.is_multiple_of(8) => Some(*newest),
            Some(_) | None => self.session(session),
        };
        let Some((id, home)) = about else {
            return;
        };
        let mine = home == cp;
        let meter = self.meters.entry(id).or_default();
        let first = meter.register == 0;
        let what = what % 15;
        if mine && !matches!(what, 1 | 5 | 8 | 9) {
            meter.register += STEP_MWH;
        }
        let read = reading(at, meter.register);
        let fact = match what {
            1 => accepted(id),
            4 => phase(id, Phase::SuspendedEv, Some(read)),
            5 => phase(id, Phase::Charging, None),
            6 => energy_ended(id, Some(read)),
            7 => ended(id, Some(read)),
            8 => ended(id, None),
            9 => Report::default().fact(),
            _ if first => started(id, read),
            _ => checkpoint(id, read),
        };
        let record = self.cabinets[cp].record(at, fact);
        self.spools[cp].push(record);
    }

    /// Sends from what central wants, as far as this charge point knows, or from before it.
    fn send(&mut self, replica: usize, cp: usize, again: u64, most: usize) {
        let cabinet = &self.cabinets[cp];
        let wanted = self
            .world
            .state(replica)
            .spool(&(cabinet.id.clone(), cabinet.epoch.clone()))
            .map_or(1, |e| e.value.next);
        let from = wanted.saturating_sub(again).max(1);
        let records: Vec<_> = self.spools[cp]
            .iter()
            .filter(|r| r.seq >= from)
            .take(most)
            .cloned()
            .collect();
        if !records.is_empty() {
            let run = cabinet.run(records);
            self.waiting[replica].push(run);
        }
    }

    fn cut(&mut self, replica: usize) {
        if self.under_way[replica].is_some() || self.waiting[replica].is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut self.waiting[replica]);
        // Nothing follows a forgetting in its frame.
        if let Some(n) = commands
            .iter()
            .position(|c| matches!(c, Command::Forget(_)))
        {
            self.waiting[replica] = commands.split_off(n + 1);
        }
        let frame = self.world.cut(replica, &commands);
        if frame.records.is_empty() {
            return;
        }
        self.network.push(frame.clone());
        self.under_way[replica] = Some(frame);
    }

    fn arrive(&mut self, which: usize, keep: bool, old: bool) {
        let from = if old { &self.old_frames } else { &self.network };
        let Some(index) = which.checked_rem(from.len()) else {
            return;
        };
        let frame = if old || keep {
            from[index].clone()
        } else {
            let frame = self.network.remove(index);
            self.old_frames.push(frame.clone());
            frame
        };
        let pos = self.world.append(&frame);
        self.observer.apply(pos, &frame.encode());
        self.follow();
    }

    /// What charge points and their meters learn from what the ledger says.
    fn follow(&mut self) {
        let state = self.observer.log.state();
        for entry in state.sessions_before(None) {
            let id = entry.value.id;
            if !self.sessions.iter().any(|(known, _)| *known == id) {
                let cp = CPS
                    .iter()
                    .position(|cp| *cp == entry.value.cp.as_str())
                    .unwrap();
                self.sessions.push((id, cp));
            }
        }
    }

    fn apply(&mut self, replica: usize) {
        let Some(applied) = self.world.step(replica) else {
            return;
        };
        let judged = self.under_way[replica]
            .as_ref()
            .zip(applied.frame.as_ref())
            .is_some_and(|(mine, frame)| mine.id == frame.id);
        if judged {
            self.under_way[replica] = None;
        }
    }

    /// Everything that is on its way arrives, and everybody reads to the end.
    fn settle(&mut self) {
        while let Some(frame) = self.network.pop() {
            let pos = self.world.append(&frame);
            self.observer.apply(pos, &frame.encode());
        }
        self.follow();
        self.world.catch_up_all();
        for replica in 0..REPLICAS {
            assert_eq!(self.world.state(replica), self.observer.log.state());
        }
        for cp in 0..self.cabinets.len() {
            let run = self.cabinets[cp].run(self.spools[cp].clone());
            if !self.spools[cp].is_empty() {
                self.world.run(0, &run);
                let bytes = self.world.ledger.last().cloned().unwrap();
                let pos = self.world.ledger.len() as u64;
                self.observer.apply(pos, &bytes);
            }
            let spool = self.world.spool(&self.cabinets[cp]);
            assert_eq!((spool.next, spool.missing), (self.cabinets[cp].next, 0));
        }
    }

    /// Promise 5: what the meters of the charge points say is on receipts and adjustments.
    fn all_energy_is_accounted_for(&mut self) {
        self.count_told();
        let state = self.observer.log.state();
        for (id, meter) in &self.meters {
            let Some((first, last)) = meter.told else {
                continue;
            };
            // What was forgotten before its records came cannot be billed; they lie in quarantine.
            let Some(entry) = state.session(*id) else {
                continue;
            };
            assert!(
                !entry.value.flags.contains(&Flag::RegisterFell)
                    && !entry.value.flags.contains(&Flag::RegisterJumped)
            );
            let adjusted = self
                .observer
                .adjusted_mwh
                .get(id)
                .copied()
                .unwrap_or_default();
            assert_eq!(
                entry.value.energy().0.cast_signed() + adjusted,
                (last - first).cast_signed(),
                "{id}"
            );
        }
    }

    /// The readings that central was told, in the order of the spool, after it knew the session.
    fn count_told(&mut self) {
        let state = self.observer.log.state();
        for records in &self.spools {
            for record in records {
                let (id, read) = match &record.fact {
                    EdgeFact::Started {
                        session_id,
                        reading,
                        ..
                    }
                    | EdgeFact::Checkpoint {
                        session_id,
                        reading,
                    } => (*session_id, reading),
                    EdgeFact::Phase {
                        session_id,
                        reading: Some(reading),
                        ..
                    }
                    | EdgeFact::EnergyEnded {
                        session_id,
                        reading: Some(reading),
                        ..
                    }
                    | EdgeFact::Ended {
                        session_id,
                        reading: Some(reading),
                        ..
                    } => (*session_id, reading),
                    EdgeFact::Phase { .. }
                    | EdgeFact::EnergyEnded { .. }
                    | EdgeFact::Ended { .. }
                    | EdgeFact::Accepted { .. }
                    | EdgeFact::OpenedAtEdge { .. }
                    | EdgeFact::Connector { .. }
                    | EdgeFact::Booted { .. }
                    | EdgeFact::Anomaly { .. } => continue,
                };
                let mine = state.session(id).is_some_and(|e| {
                    std::ptr::eq(
                        records,
                        &self.spools[usize::from(e.value.cp.as_str() == "CP-2")],
                    )
                });
                if !mine {
                    continue;
                }
                let meter = self.meters.entry(id).or_default();
                let first = meter.told.map_or(read.register_mwh.0, |(first, _)| first);
                meter.told = Some((first, read.register_mwh.0));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // 256 cases unless PROPTEST_CASES says otherwise.
        // Failures print the smallest history; nothing is written to disk.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_promises_hold_and_replicas_agree(
        events in prop::collection::vec(event(), 1..250),
    ) {
        let mut story = Story::new();
        for event in &events {
            story.happen(event);
        }
        story.settle();
        story.all_energy_is_accounted_for();
        let whole = replay(&story.world.ledger);
        prop_assert_eq!(whole.state(), story.observer.log.state());
    }
}
