//! The judge: what must be true, written from the design and not from the code that it judges.
//!
//! It sees every ledger message when it lands, every row that a cabinet persists and every answer
//! that leaves, and keeps its own small model of them. It shares the contract's and the ledger's
//! data types with the cores, and none of their logic.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use central_core::{
    frame::{Digest, Frame, Kind, Record, Write},
    keys::{Asker, EventId, Key},
    model::{Answer, Bill, Connector, Session, Stage},
    state::State,
};
use ev_contract::{
    codes::Code,
    ids::{BootId, ConnectorId, CpId, DriverId, Epoch, RequestId, SessionId},
    time::UnixMs,
    v1::{EdgeRecord, Flag, Origin, Outcome},
};

/// A promise that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which check saw it.
    pub check: &'static str,
    /// What it saw.
    pub what: String,
}

/// What central says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The recorded answer.
    Answer(Answer),
    /// The id was used for something else.
    Reused,
    /// The answer is no longer kept.
    Forgotten,
    /// Nobody can say, or not now.
    Undecided,
}

/// What a session is to the judge.
#[derive(Debug)]
struct Case {
    session: Session,
    opened_at: u64,
    ended_at: Option<u64>,
    touched_at: u64,
    adjusted_mwh: i64,
    forgotten: bool,
}

#[derive(Debug)]
struct Given {
    answer: Answer,
    content: [u8; 16],
    expires_at: UnixMs,
    pos: u64,
    forgotten: bool,
    /// It was given before, to this content, and forgotten: a replica that is behind still says so.
    before: Option<(Answer, [u8; 16])>,
}

/// What a cabinet has on its disk, or had: it never forgets here.
#[derive(Debug, Clone, Default)]
struct Disk {
    /// The number after the last record, by epoch.
    next: BTreeMap<Epoch, u64>,
    taken: HashSet<SessionId>,
    ended: HashSet<SessionId>,
    first_results: HashMap<(Epoch, String), (Outcome, Option<Code>)>,
}

/// The model of everything that has landed, and what was seen elsewhere.
#[derive(Debug)]
pub struct Judge {
    /// The first promise that did not hold.
    pub broken: Option<Broken>,
    /// What happened how often.
    pub counts: Counts,
    sessions_per_driver: usize,
    pos: u64,
    versions: HashMap<Key, EventId>,
    cases: BTreeMap<SessionId, Case>,
    given: HashMap<(Asker, RequestId), Given>,
    horizon: UnixMs,
    spools: HashMap<(CpId, Epoch), u64>,
    open_on: HashMap<(CpId, ConnectorId), BTreeSet<SessionId>>,
    counted_of: HashMap<DriverId, BTreeSet<SessionId>>,
    connectors: HashMap<(CpId, ConnectorId), Connector>,
    receipts_on: HashMap<(CpId, ConnectorId), u64>,
    charge_points: HashSet<CpId>,
    blocked: HashSet<DriverId>,
    /// By charge point and agent: one may have two, with one store to begin with.
    disks: HashMap<(CpId, usize), Disk>,
    boots: HashMap<BootId, usize>,
    /// The agent that is obeyed, and when that last became another one.
    obeyed: HashMap<CpId, (usize, u64)>,
    /// Sessions that began at a cabinet.
    opened: BTreeSet<(SessionId, usize)>,
    /// Those of which the ledger keeps a record aside.
    kept: HashSet<SessionId>,
    cdr: HashMap<(SessionId, Option<u32>), Vec<u8>>,
    void: HashSet<EventId>,
    marks: Vec<Option<(Digest, Vec<bool>)>>,
    valid: Vec<Vec<bool>>,
    told: HashMap<(Asker, RequestId), ([u8; 16], Said)>,
    inexact: HashSet<CpId>,
    numbers: HashSet<String>,
}

/// What happened how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ledger messages.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Of these without effect.
    pub void: u64,
    /// Sessions.
    pub sessions: u64,
    /// Of these begun at a cabinet.
    pub local: u64,
    /// Receipts.
    pub receipts: u64,
    /// Adjustments for late records.
    pub adjustments: u64,
    /// Refusals on record.
    pub refusals: u64,
    /// Records that forgot something.
    pub forgets: u64,
    /// Answers that reached whoever asked.
    pub answers: u64,
    /// Questions answered after a barrier.
    pub queries: u64,
    /// Spool records taken in.
    pub taken_in: u64,
    /// What could not be used and lies aside.
    pub set_aside: u64,
}

impl Counts {
    /// Adds those of another run.
    pub const fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.records += other.records;
        self.void += other.void;
        self.sessions += other.sessions;
        self.local += other.local;
        self.receipts += other.receipts;
        self.adjustments += other.adjustments;
        self.refusals += other.refusals;
        self.forgets += other.forgets;
        self.answers += other.answers;
        self.queries += other.queries;
        self.taken_in += other.taken_in;
        self.set_aside += other.set_aside;
    }
}

impl Judge {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(sessions_per_driver: usize) -> Self {
        Self {
            broken: None,
            counts: Counts::default(),
            sessions_per_driver,
            pos: 0,
            versions: HashMap::new(),
            cases: BTreeMap::new(),
            given: HashMap::new(),
            horizon: UnixMs(0),
            spools: HashMap::new(),
            open_on: HashMap::new(),
            counted_of: HashMap::new(),
            connectors: HashMap::new(),
            receipts_on: HashMap::new(),
            charge_points: HashSet::new(),
            blocked: HashSet::new(),
            disks: HashMap::new(),
            boots: HashMap::new(),
            obeyed: HashMap::new(),
            opened: BTreeSet::new(),
            kept: HashSet::new(),
            cdr: HashMap::new(),
            void: HashSet::new(),
            marks: vec![None],
            valid: vec![Vec::new()],
            told: HashMap::new(),
            inexact: HashSet::new(),
            numbers: HashSet::new(),
        }
    }

    /// Something did not hold. The first one counts.
    pub fn fail(&mut self, check: &'static str, what: impl Into<String>) {
        if self.broken.is_none() {
            self.broken = Some(Broken {
                check,
                what: what.into(),
            });
        }
    }

    /// A replica answers, orders or decides something. One whose clock is off, while the server's is
    /// right, does nothing of that. Seconds more than the design names are forgiven: several replicas
    /// that are off alike outvote the server.
    pub fn spoke(&mut self, replica: usize, off_ms: i64) {
        const OFF_MS_MAX: i64 = 60_000;
        if off_ms.abs() > OFF_MS_MAX {
            let what = format!("replica {replica} speaks with a clock that is {off_ms} ms off");
            self.fail("a wrong clock says nothing", what);
        }
    }

    /// How much has landed.
    #[must_use]
    pub const fn pos(&self) -> u64 {
        self.pos
    }

    // -- The ledger -------------------------------------------------------------------------------

    /// A frame has landed: which of its records stand, and what they change.
    pub fn landed(&mut self, frame: &Frame) {
        self.pos += 1;
        self.counts.frames += 1;
        let mut valid = Vec::with_capacity(frame.records.len());
        for record in &frame.records {
            self.counts.records += 1;
            let stands = self.stands(record);
            valid.push(stands);
            if stands {
                if self.void.contains(&record.id) {
                    let what = format!(
                        "{:?} {} was void and a later copy stands",
                        record.kind, record.id.0
                    );
                    self.fail("void is final", what);
                }
                self.take(record, frame);
            } else {
                self.counts.void += 1;
                self.void.insert(record.id);
            }
        }
        self.marks.push(None);
        self.valid.push(valid);
    }

    /// A record stands exactly if all that it expects still stands and it expects all that it
    /// writes.
    fn stands(&self, record: &Record) -> bool {
        let seen = record
            .expects
            .iter()
            .all(|(key, version)| self.versions.get(key).copied() == *version);
        seen && record
            .writes
            .iter()
            .all(|w| record.expects.contains_key(&w.key()))
    }

    fn take(&mut self, record: &Record, frame: &Frame) {
        let mut sessions = Vec::new();
        let mut answers = Vec::new();
        for evidence in &record.evidence {
            self.evidence(&evidence.cp, &evidence.why);
            if let Ok(record) = rmp_serde::from_slice::<EdgeRecord>(&evidence.raw) {
                self.kept.extend(record.fact.session());
            }
        }
        for write in &record.writes {
            self.versions.insert(write.key(), record.id);
        }
        for write in &record.writes {
            match write {
                Write::Connector(cp, id, value) => {
                    self.connectors
                        .insert((cp.clone(), *id), Connector::clone(value));
                }
                Write::Session(session) => {
                    self.session(record, frame.at, session);
                    sessions.push(session.id);
                }
                Write::Adjustments(id, value) => {
                    let energy = value.list.iter().map(|a| a.energy_mwh).sum();
                    self.counts.adjustments += 1;
                    let mut total = None;
                    match self.cases.get_mut(id) {
                        Some(case) => {
                            case.adjusted_mwh = energy;
                            case.touched_at = self.pos;
                            if let Stage::Ended { receipt } = &case.session.stage {
                                total = Some(receipt.total.0);
                            }
                        }
                        None => self.fail("adjustments", format!("{id} is adjusted and not there")),
                    }
                    match total {
                        None => self.fail("adjustments", format!("{id} is adjusted while open")),
                        Some(mut total) => {
                            for (n, a) in value.list.iter().enumerate() {
                                total += a.amount.0;
                                if a.total.0 != total || a.n as usize != n + 1 {
                                    self.fail(
                                        "adjustments",
                                        format!("{id}: {a:?} does not add up"),
                                    );
                                }
                            }
                        }
                    }
                }
                Write::Request(asker, id, request) => {
                    answers.push((asker.clone(), id.clone(), request.clone()));
                }
                Write::ChargePoint(cp, value) => {
                    self.charge_points.insert(cp.clone());
                    let who = self.boots.get(&value.boot.id).copied();
                    let before = self.obeyed.get(cp).map(|(who, _)| *who);
                    match who {
                        Some(who) if before != Some(who) => {
                            self.obeyed.insert(cp.clone(), (who, self.pos));
                        }
                        Some(_) => {}
                        None => self.fail("one is obeyed", format!("{cp}: {:?}", value.boot)),
                    }
                }
                // Nobody is enrolled here: charge points present themselves.
                Write::Enrolment(..) => {}
                Write::Spool(cp, epoch, spool) => {
                    let key = (cp.clone(), epoch.clone());
                    let before = self.spools.insert(key, spool.next).unwrap_or(1);
                    self.counts.taken_in += spool.next - before.min(spool.next);
                    if spool.next < before {
                        let what = format!("{cp} {epoch}: from {before} back to {}", spool.next);
                        self.fail("spool position", what);
                    }
                    let written = self
                        .disks
                        .iter()
                        .filter(|((of, _), _)| of == cp)
                        .filter_map(|(_, d)| d.next.get(epoch).copied())
                        .max()
                        .unwrap_or(1);
                    if spool.next > written || spool.missing > 0 {
                        let what =
                            format!("{cp} {epoch}: {spool:?} of a spool that ends at {written}");
                        self.fail("spool position", what);
                    }
                }
                Write::Driver(id, driver) => {
                    if driver.blocked.is_some() {
                        self.blocked.insert(id.clone());
                    } else {
                        self.blocked.remove(id);
                    }
                }
                Write::Tariff(_) | Write::TariffScope(..) => {}
                Write::Forget(_) => {}
            }
        }
        for (asker, id, request) in answers {
            self.answered(record, &asker, &id, &request);
        }
        for write in &record.writes {
            match write {
                Write::Driver(id, driver) => {
                    let counted = self.counted_of.get(id).cloned().unwrap_or_default();
                    if !driver.open.iter().eq(&counted) {
                        let what = format!(
                            "{id} has {counted:?} open, its record says {:?}",
                            driver.open
                        );
                        self.fail("open sessions of a driver", what);
                    }
                }
                Write::Connector(cp, id, connector) => {
                    let at = (cp.clone(), *id);
                    let open = self.open_on.get(&at).cloned().unwrap_or_default();
                    if !connector.open.iter().eq(&open) {
                        let what = format!(
                            "{cp}/{id} has {open:?} open, its record says {:?}",
                            connector.open
                        );
                        self.fail("open sessions of a connector", what);
                    }
                    let receipts = self.receipts_on.get(&at).copied().unwrap_or(0);
                    if connector.receipts != receipts {
                        let what = format!(
                            "{cp}/{id}: {receipts} receipts, its record says {}",
                            connector.receipts
                        );
                        self.fail("one receipt", what);
                    }
                }
                Write::Forget(forget) => {
                    if forget.before > frame.basis.seq {
                        self.fail("forgetting", "what was not seen is forgotten");
                    }
                    self.forget(forget);
                }
                Write::Session(_)
                | Write::Adjustments(..)
                | Write::Request(..)
                | Write::ChargePoint(..)
                | Write::Enrolment(..)
                | Write::Spool(..)
                | Write::Tariff(_)
                | Write::TariffScope(..) => {}
            }
        }
        for id in sessions {
            self.agrees(id);
        }
    }

    /// A cabinet's record could not be used. One about a session that has been forgotten is kept
    /// aside, and its energy with it; no other may be.
    fn evidence(&mut self, cp: &CpId, why: &str) {
        self.counts.set_aside += 1;
        let unknown = why
            .strip_prefix("session ")
            .and_then(|rest| rest.strip_suffix(" is not known"))
            .and_then(|id| SessionId::parse(id).ok());
        if let Some(id) = unknown {
            let copied = self.inexact.contains(cp);
            if copied || self.cases.get(&id).is_some_and(|c| c.forgotten) {
                self.inexact.insert(cp.clone());
            } else {
                self.fail("intake refuses nothing", format!("{cp}: {why}"));
            }
        }
    }

    /// Whether records of a charge point lie aside that may have said energy.
    #[must_use]
    pub fn set_aside(&self, cp: &CpId) -> bool {
        self.inexact.contains(cp)
    }

    /// The connector's and driver's own lists say the same as the sessions do.
    fn agrees(&mut self, id: SessionId) {
        let Some(case) = self.cases.get(&id) else {
            return;
        };
        let (s, open) = (&case.session, case.ended_at.is_none());
        let listed = self
            .connectors
            .get(&(s.cp.clone(), s.connector))
            .is_some_and(|c| c.open.contains(&id));
        if listed != open {
            let what = format!("{id} open: {open}, on the connector's list: {listed}");
            self.fail("open sessions of a connector", what);
        }
    }

    fn session(&mut self, record: &Record, now: UnixMs, new: &Session) {
        let id = new.id;
        let at = (new.cp.clone(), new.connector);
        let ended_now = match self.cases.get(&id) {
            None => {
                self.opens(record, new);
                self.cases.insert(
                    id,
                    Case {
                        session: new.clone(),
                        opened_at: self.pos,
                        ended_at: None,
                        touched_at: self.pos,
                        adjusted_mwh: 0,
                        forgotten: false,
                    },
                );
                self.open_on.entry(at.clone()).or_default().insert(id);
                new.is_ended()
            }
            Some(case) => {
                let old = &case.session;
                let mut wrong = None;
                if case.ended_at.is_some() {
                    if old != new {
                        wrong =
                            Some(("ended never changes", format!("{id} changed after its end")));
                    }
                } else if old.stop.is_some() && new.stop != old.stop {
                    wrong = Some(("stop stops", format!("the stop of {id} is gone")));
                } else if !old.counts && new.counts {
                    wrong = Some(("open sessions of a driver", format!("{id} counts again")));
                } else if old.counts && !new.counts {
                    // The clocks of replicas differ: what is over for one may not be for another.
                    let over = matches!(old.stage, Stage::Ordered) && now > old.start_by;
                    if old.stop.is_none() && !over {
                        let what = format!("{id} may charge, was not stopped, and does not count");
                        wrong = Some(("open sessions of a driver", what));
                    }
                } else if rank(&old.stage) > rank(&new.stage) {
                    let what = format!("{id} went from {:?} back to {:?}", old.stage, new.stage);
                    wrong = Some(("stages go forward", what));
                } else if old.energy() > new.energy() {
                    wrong = Some((
                        "energy",
                        format!("{id} lost energy: {:?} to {:?}", old.energy(), new.energy()),
                    ));
                } else if (
                    &old.cp,
                    old.connector,
                    &old.driver,
                    &old.epoch,
                    &old.tariff,
                    old.start_by,
                ) != (
                    &new.cp,
                    new.connector,
                    &new.driver,
                    &new.epoch,
                    &new.tariff,
                    new.start_by,
                ) {
                    wrong = Some(("a session stays itself", format!("{id} is another one")));
                }
                let ended_now = case.ended_at.is_none() && new.is_ended();
                if let Some((check, what)) = wrong {
                    self.fail(check, what);
                }
                ended_now
            }
        };
        if ended_now {
            self.ends(record, new);
        }
        if let Some(case) = self.cases.get_mut(&id) {
            case.touched_at = self.pos;
            if case.ended_at.is_none() {
                case.session = new.clone();
                if ended_now {
                    case.ended_at = Some(self.pos);
                }
            }
        }
        if new.is_ended()
            && let Some(open) = self.open_on.get_mut(&at)
        {
            open.remove(&id);
        }
        if let Some(driver) = &new.driver {
            let counted = self.counted_of.entry(driver.clone()).or_default();
            if new.counts && !new.is_ended() {
                counted.insert(id);
            } else {
                counted.remove(&id);
            }
        }
    }

    /// A session begins: nobody else may have the connector, and its driver may have one more.
    fn opens(&mut self, record: &Record, new: &Session) {
        self.counts.sessions += 1;
        let at = (new.cp.clone(), new.connector);
        match new.origin {
            Origin::App | Origin::Operator => {
                if record.kind != Kind::Started {
                    self.fail(
                        "beginnings",
                        format!("{} began by {:?}", new.id, record.kind),
                    );
                }
                if let Some(open) = self.open_on.get(&at).filter(|o| !o.is_empty()) {
                    let what = format!(
                        "{} was accepted on {}/{} beside {open:?}",
                        new.id, new.cp, new.connector
                    );
                    self.fail("one connector, one session", what);
                }
                if let Some(driver) = &new.driver {
                    let counted = self.counted_of.get(driver).map_or(0, BTreeSet::len);
                    if counted >= self.sessions_per_driver {
                        let what = format!("{driver} got {} with {counted} open", new.id);
                        self.fail("one driver, so many sessions", what);
                    }
                    if self.blocked.contains(driver) {
                        self.fail("blocked", format!("{driver} is blocked and got {}", new.id));
                    }
                }
            }
            Origin::Local | Origin::Free | Origin::Unknown | Origin::Unrecognised => {
                self.counts.local += 1;
                if record.kind != Kind::Intake {
                    self.fail(
                        "beginnings",
                        format!("{} began by {:?}", new.id, record.kind),
                    );
                }
            }
        }
    }

    /// A session ends: exactly once, with a receipt of its own number, and by whose word?
    fn ends(&mut self, record: &Record, new: &Session) {
        let Stage::Ended { receipt } = &new.stage else {
            return;
        };
        self.counts.receipts += 1;
        let at = (new.cp.clone(), new.connector);
        let n = self.receipts_on.entry(at).or_default();
        *n += 1;
        // One record may end several sessions of a connector, in any order.
        let prefix = format!("{}-{}-", new.cp, new.connector);
        let numbered = receipt
            .number
            .strip_prefix(&prefix)
            .is_some_and(|n| n.len() >= 6 && n.bytes().all(|b| b.is_ascii_digit()));
        let fresh = self.numbers.insert(receipt.number.clone());
        if !numbered || !fresh {
            let what = format!("receipt {} of {}", receipt.number, new.id);
            self.fail("one receipt", what);
        }
        self.adds_up(receipt);
        let said = self.agents(&new.cp).any(|d| d.ended.contains(&new.id));
        // Another agent may have taken it before this one was obeyed.
        let obeyed = self.obeyed.get(&new.cp).map(|(who, _)| *who);
        let disk = obeyed.and_then(|who| self.disks.get(&(new.cp.clone(), who)));
        let taken = disk.is_some_and(|d| d.taken.contains(&new.id));
        match record.kind {
            Kind::Intake if said => {}
            Kind::CommandAnswered if !taken => {}
            Kind::Operated if new.flags.contains(&Flag::WrittenOff) => {}
            Kind::Intake
            | Kind::CommandAnswered
            | Kind::Operated
            | Kind::Refused
            | Kind::Started
            | Kind::Stopping
            | Kind::Synced
            | Kind::Released
            | Kind::Forget
            | Kind::Enrolled => {
                let what = format!(
                    "{} ended by {:?}; taken: {taken}, said to have ended: {said}",
                    new.id, record.kind
                );
                self.fail("only the charge point's word ends", what);
            }
        }
    }

    fn adds_up(&mut self, receipt: &Bill) {
        let energy: u64 = receipt
            .meters
            .iter()
            .map(|m| m.to_mwh.0.saturating_sub(m.from_mwh.0))
            .sum();
        let lines: rust_decimal::Decimal = receipt.lines.iter().map(|l| l.amount.0).sum();
        if energy != receipt.energy_mwh.0 || lines != receipt.exact.0 {
            self.fail("receipts add up", format!("{receipt:?}"));
        }
    }

    /// A request is answered: for the first and only time, and truly.
    fn answered(
        &mut self,
        record: &Record,
        asker: &Asker,
        id: &RequestId,
        request: &central_core::model::Request,
    ) {
        let key = (asker.clone(), id.clone());
        // A stop that was forgotten is decided anew, since that does no harm.
        let stops = match &request.answer {
            Answer::Stopping { .. } => true,
            Answer::Refused { code, .. } => {
                matches!(code, Code::SessionNotFound | Code::SessionEnded)
            }
            Answer::Started { .. } | Answer::Done { .. } => false,
        };
        let anew = self.given.get(&key).is_some_and(|first| first.forgotten) && stops;
        if let Some(first) = self.given.get(&key).filter(|_| !anew) {
            let what = format!(
                "{id} of {} was {:?}, then {:?}",
                asker.as_str(),
                first.answer,
                request.answer
            );
            self.fail("ask twice, get one", what);
            return;
        }
        if request.expires_at <= self.horizon {
            let what = format!(
                "{id} expired at {:?}, horizon {:?}",
                request.expires_at, self.horizon
            );
            self.fail("horizon", what);
        }
        self.truth(record, asker, &request.answer);
        let before = self.given.remove(&key);
        let before = before.map(|first| (first.answer, first.content));
        self.given.insert(
            key,
            Given {
                answer: request.answer.clone(),
                content: request.content,
                expires_at: request.expires_at,
                pos: self.pos,
                forgotten: false,
                before,
            },
        );
    }

    /// Whether an answer was true where it stands.
    fn truth(&mut self, record: &Record, asker: &Asker, answer: &Answer) {
        let lie = match answer {
            Answer::Started { session, .. } => {
                let new = self
                    .cases
                    .get(session)
                    .is_some_and(|c| c.opened_at == self.pos);
                (!new).then(|| format!("{session} is not new"))
            }
            Answer::Stopping { session, .. } => match self.cases.get(session) {
                None => Some(format!("{session} is not there")),
                Some(c) => {
                    let own = match asker {
                        Asker::Driver(d) => c.session.driver.as_ref() == Some(d),
                        Asker::Operator(_) => true,
                    };
                    let holds = c.session.stop.is_some() && c.ended_at.is_none();
                    (!(own && holds)).then(|| {
                        format!("the stop of {session} was accepted; own: {own}, holds: {holds}")
                    })
                }
            },
            Answer::Done { .. } => None,
            Answer::Refused {
                code,
                what,
                session,
                ..
            } => {
                self.counts.refusals += 1;
                if record.writes.len() != 1 {
                    Some(format!("a refusal with {code} changes something else"))
                } else {
                    self.false_refusal(asker, *code, what, *session)
                }
            }
        };
        if let Some(what) = lie {
            self.fail("a \"no\" is as true as a \"yes\"", what);
        }
    }

    /// Why a refusal is not true at its position.
    fn false_refusal(
        &self,
        asker: &Asker,
        code: Code,
        what: &str,
        session: Option<SessionId>,
    ) -> Option<String> {
        let place = || {
            let (cp, id) = what.rsplit_once('/')?;
            Some((CpId::new(cp).ok()?, ConnectorId(id.parse().ok()?)))
        };
        let open_there = || {
            place()
                .and_then(|at| self.open_on.get(&at))
                .cloned()
                .unwrap_or_default()
        };
        let true_here = match code {
            Code::Occupied => !open_there().is_empty(),
            Code::OccupiedByYou => session.is_some_and(|s| open_there().contains(&s)),
            Code::LimitReached => DriverId::new(what)
                .ok()
                .and_then(|d| self.counted_of.get(&d))
                .is_some_and(|open| open.len() >= self.sessions_per_driver),
            Code::DriverBlocked => DriverId::new(what)
                .ok()
                .is_some_and(|d| self.blocked.contains(&d)),
            Code::UnknownChargePoint => {
                CpId::new(what).is_ok_and(|cp| !self.charge_points.contains(&cp))
            }
            Code::SessionEnded => session.and_then(|s| self.cases.get(&s)).is_some_and(|c| {
                let own = match asker {
                    Asker::Driver(d) => c.session.driver.as_ref() == Some(d),
                    Asker::Operator(_) => true,
                };
                own && c.ended_at.is_some()
            }),
            Code::SessionNotFound => match SessionId::parse(what) {
                Ok(id) => self.cases.get(&id).is_none_or(|c| {
                    let foreign = match asker {
                        Asker::Driver(d) => c.session.driver.as_ref() != Some(d),
                        Asker::Operator(_) => false,
                    };
                    foreign || c.forgotten
                }),
                Err(_) => true,
            },
            Code::OutOfService => {
                place()
                    .and_then(|at| self.connectors.get(&at))
                    .is_some_and(|c| {
                        c.service != ev_contract::connector::Service::In
                            || c.reported
                                .as_ref()
                                .is_some_and(|r| r.service != ev_contract::connector::Service::In)
                    })
            }
            _ => true,
        };
        (!true_here).then(|| format!("{code} about {what} is not true at {}", self.pos))
    }

    fn forget(&mut self, forget: &central_core::frame::Forget) {
        self.counts.forgets += 1;
        self.horizon = self.horizon.max(forget.horizon.until);
        let others = forget.others_until.min(forget.horizon.until);
        let mut gone = Vec::new();
        for (key, given) in &mut self.given {
            if given.forgotten || given.pos > forget.before {
                continue;
            }
            let (until, session) = match &given.answer {
                Answer::Refused { .. } => (forget.horizon.until, None),
                Answer::Started { session, .. } | Answer::Stopping { session, .. } => {
                    (others, Some(*session))
                }
                Answer::Done { session, .. } => (others, *session),
            };
            let open = session
                .and_then(|id| self.cases.get(&id))
                .is_some_and(|c| c.ended_at.is_none());
            if given.expires_at <= until && !open {
                given.forgotten = true;
                gone.push(Key::Request(key.0.clone(), key.1.clone()));
            }
        }
        for key in gone {
            self.versions.remove(&key);
        }
        for id in &forget.sessions {
            let Some(case) = self.cases.get_mut(id) else {
                continue;
            };
            if case.ended_at.is_none() || case.forgotten || case.touched_at > forget.before {
                continue;
            }
            case.forgotten = true;
            self.versions.remove(&Key::Session(*id));
            self.versions.remove(&Key::Adjustments(*id));
            if !self.cdr.contains_key(&(*id, None)) {
                self.fail(
                    "forgetting",
                    format!("{id} left before its receipt was in the CDR stream"),
                );
            }
        }
    }

    /// A replica has applied a position.
    pub fn applied(&mut self, replica: usize, pos: u64, digest: Digest, valid: &[bool]) {
        let Some(index) = usize::try_from(pos).ok().filter(|i| *i < self.marks.len()) else {
            self.fail(
                "applying",
                format!("replica {replica} applied {pos}, which never landed"),
            );
            return;
        };
        if valid != self.valid[index] {
            let what = format!(
                "at {pos} replica {replica} found {valid:?}, by the rule {:?}",
                self.valid[index]
            );
            self.fail("validity by position", what);
        }
        match &self.marks[index] {
            None => self.marks[index] = Some((digest, valid.to_vec())),
            Some((theirs, _)) if *theirs == digest => {}
            Some(_) => self.fail(
                "same log, same state",
                format!("replica {replica} has another digest at {pos}"),
            ),
        }
    }

    // -- Answers ----------------------------------------------------------------------------------

    /// An answer to a request leaves central.
    pub fn said(&mut self, asker: &Asker, id: &RequestId, content: [u8; 16], said: &Said) {
        let given = self.given.get(&(asker.clone(), id.clone()));
        let before = given.and_then(|g| g.before.as_ref());
        let lie = match said {
            Said::Answer(answer) if before == Some(&(answer.clone(), content)) => None,
            Said::Answer(answer) => match given {
                None => Some(format!("{answer:?} was never recorded")),
                Some(g) if g.answer != *answer => {
                    Some(format!("{answer:?}, recorded is {:?}", g.answer))
                }
                Some(g) if g.content != content => Some("it was given to another content".into()),
                Some(_) => None,
            },
            Said::Reused if before.is_some_and(|(_, theirs)| *theirs != content) => None,
            Said::Reused => match given {
                Some(g) if g.content != content => None,
                Some(_) | None => Some("the id was not used for anything else".into()),
            },
            Said::Forgotten => given
                .filter(|g| !g.forgotten)
                .map(|_| "it is called forgotten and is not".into()),
            Said::Undecided => None,
        };
        if let Some(what) = lie {
            self.fail(
                "accepted means durable",
                format!("{id} of {}: {what}", asker.as_str()),
            );
        }
    }

    /// An answer to a request reaches whoever asked.
    pub fn heard(&mut self, asker: &Asker, id: &RequestId, content: [u8; 16], said: &Said) {
        self.counts.answers += 1;
        match said {
            Said::Answer(_) => {}
            Said::Reused | Said::Forgotten | Said::Undecided => return,
        }
        let key = (asker.clone(), id.clone());
        match self.told.get(&key) {
            None => {
                self.told.insert(key, (content, said.clone()));
            }
            Some((_, first)) if first == said => {}
            Some(_) if self.given.get(&key).is_some_and(|g| g.before.is_some()) => {}
            Some((_, first)) => {
                let what = format!("{id}: first {first:?}, then {said:?}");
                self.fail("ask twice, get one", what);
            }
        }
    }

    /// Whether somebody has heard the answer to a request.
    #[must_use]
    pub fn has_told(&self, asker: &Asker, id: &RequestId) -> bool {
        self.told.contains_key(&(asker.clone(), id.clone()))
    }

    /// The answer to a driver's question that came when `since` was the end of the ledger.
    pub fn listed(
        &mut self,
        driver: &DriverId,
        since: u64,
        asked: Option<SessionId>,
        shown: &[SessionId],
    ) {
        self.counts.queries += 1;
        let mut wrong = None;
        let own = |c: &Case| c.session.driver.as_ref() == Some(driver);
        match asked {
            Some(id) => {
                let case = self.cases.get(&id).filter(|c| own(c));
                let known = case.is_some_and(|c| c.opened_at <= since && !c.forgotten);
                let never = case.is_none();
                if shown.is_empty() && known {
                    wrong = Some(format!("{id} was not found"));
                }
                if !shown.is_empty() && never {
                    wrong = Some(format!("{id} was shown to {driver}"));
                }
            }
            None => {
                for (id, case) in &self.cases {
                    if own(case)
                        && case.opened_at <= since
                        && case.ended_at.is_none()
                        && !shown.contains(id)
                    {
                        wrong = Some(format!("{id} is open and was not listed"));
                    }
                }
                for id in shown {
                    match self.cases.get(id) {
                        None => wrong = Some(format!("{id} was listed and never was")),
                        Some(c) if c.ended_at.is_some_and(|at| at <= since) => {
                            wrong = Some(format!("{id} was listed as open after its end"));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        if let Some(what) = wrong {
            self.fail("no answer from a stale view", format!("{driver}: {what}"));
        }
    }

    // -- Cabinets ---------------------------------------------------------------------------------

    fn agents<'a>(&'a self, cp: &'a CpId) -> impl Iterator<Item = &'a Disk> + 'a {
        let of = self.disks.iter().filter(move |((of, _), _)| of == cp);
        of.map(|(_, disk)| disk)
    }

    /// An agent begins.
    pub fn booted(&mut self, boot: BootId, who: usize) {
        self.boots.insert(boot, who);
    }

    /// A store is copied while it is in use.
    pub fn copied_store(&mut self, cp: &CpId, from: usize, to: usize) {
        if let Some(disk) = self.disks.get(&(cp.clone(), from)) {
            self.disks.insert((cp.clone(), to), disk.clone());
        }
        self.inexact.insert(cp.clone());
    }

    /// A store has got an epoch of its own, and has so many records.
    pub fn renewed(&mut self, cp: &CpId, who: usize, epoch: &Epoch, records: u64) {
        let disk = self.disks.entry((cp.clone(), who)).or_default();
        disk.next.insert(epoch.clone(), records + 1);
    }

    /// A session has begun at a cabinet.
    pub fn opened_here(&mut self, who: usize, id: SessionId) {
        self.opened.insert((id, who));
    }

    /// The sessions of a cabinet that are neither in the ledger nor kept aside there.
    pub fn unknown_of(&self, who: usize) -> impl Iterator<Item = SessionId> + '_ {
        let of = self.opened.iter().filter(move |(_, of)| *of == who);
        of.map(|(id, _)| *id)
            .filter(|id| !self.cases.contains_key(id) && !self.kept.contains(id))
    }

    /// A cabinet's disk has a new record.
    pub fn spooled(&mut self, (cp, who): (&CpId, usize), epoch: &Epoch, seq: u64) {
        let next = self
            .disks
            .entry((cp.clone(), who))
            .or_default()
            .next
            .entry(epoch.clone())
            .or_insert(1);
        let expected = *next;
        *next = expected.max(seq + 1);
        if seq != expected {
            self.fail(
                "numbered without gaps",
                format!("{cp} {epoch}: {seq} after {expected}"),
            );
        }
    }

    /// A cabinet has taken a session from central, and it is `now` by true time, give or take what
    /// clocks of central may be off.
    pub fn took(&mut self, (cp, who): (&CpId, usize), id: SessionId, now: UnixMs, skew_ms: i64) {
        let elsewhere = self
            .disks
            .iter()
            .any(|((of, other), d)| of == cp && *other != who && d.taken.contains(&id));
        // A copy that was obeyed only after the start was decided cannot be told from a restart.
        let decided_at = self.cases.get(&id).map_or(0, |case| case.opened_at);
        let changed_at = self.obeyed.get(cp).map_or(0, |(_, at)| *at);
        if elsewhere && changed_at <= decided_at {
            self.fail("a start acts on one", format!("{cp} took {id} at two"));
        }
        let disk = self.disks.entry((cp.clone(), who)).or_default();
        let again = !disk.taken.insert(id);
        let absent = disk
            .first_results
            .iter()
            .any(|((_, command), (outcome, _))| {
                *outcome == Outcome::Absent && *command == format!("{id}-stop")
            });
        if again {
            self.fail("late starts do nothing", format!("{cp} took {id} twice"));
        }
        if absent {
            self.fail(
                "late starts do nothing",
                format!("{cp} took {id} after its stop"),
            );
        }
        match self.cases.get(&id) {
            None => self.fail(
                "accepted means durable",
                format!("{cp} took {id}, which is in no ledger"),
            ),
            Some(case) => {
                // The deadline of the ledger's record, whatever the command said.
                let late_ms = now.ms_since(case.session.start_by);
                if late_ms > 2 * skew_ms + 100 {
                    let what = format!("{cp} took {id} {late_ms} ms after its deadline");
                    self.fail("late starts do nothing", what);
                    return;
                }
                if case.session.is_ended() && !case.session.flags.contains(&Flag::WrittenOff) {
                    self.fail(
                        "only the charge point's word ends",
                        format!("{cp} took {id} after its end"),
                    );
                }
            }
        }
    }

    /// A cabinet says on its disk that a session has ended, while its transaction runs or not.
    pub fn cabinet_ended(&mut self, (cp, who): (&CpId, usize), id: SessionId, runs: bool) {
        let disk = self.disks.entry((cp.clone(), who)).or_default();
        let again = !disk.ended.insert(id);
        if again {
            self.fail("every session ends once", format!("{cp} ended {id} twice"));
        }
        if runs {
            self.fail(
                "an end is never inferred",
                format!("{cp} ended {id}, which goes on charging"),
            );
        }
    }

    /// A cabinet frees its spool below a number.
    pub fn freed(&mut self, cp: &CpId, epoch: &Epoch, below: u64) {
        let wanted = self
            .spools
            .get(&(cp.clone(), epoch.clone()))
            .copied()
            .unwrap_or(1);
        if below > wanted {
            let what =
                format!("{cp} {epoch} freed below {below}, the ledger has those below {wanted}");
            self.fail("freed by the ledger only", what);
        }
    }

    /// A final result of a command leaves a cabinet.
    pub fn command_answered(
        &mut self,
        (cp, who): (&CpId, usize),
        epoch: &Epoch,
        command: &str,
        outcome: Outcome,
        code: Option<Code>,
    ) {
        let disk = self.disks.entry((cp.clone(), who)).or_default();
        let key = (epoch.clone(), command.to_owned());
        let first = *disk.first_results.entry(key).or_insert((outcome, code));
        if first != (outcome, code) {
            let what = format!("{cp} {command}: first {first:?}, then {outcome:?} {code:?}");
            self.fail("a repeated command gets its first result", what);
        }
    }

    // -- Receipts ---------------------------------------------------------------------------------

    /// A receipt or adjustment is written to the CDR stream, where each subject is written once.
    pub fn copied(&mut self, session: SessionId, n: Option<u32>, bytes: Vec<u8>) {
        match self.cdr.get(&(session, n)) {
            None => {
                self.cdr.insert((session, n), bytes);
            }
            Some(there) if *there == bytes => {}
            Some(_) => self.fail("one receipt", format!("another receipt {n:?} of {session}")),
        }
    }

    // -- The end ----------------------------------------------------------------------------------

    /// Sessions that are open.
    pub fn open(&self) -> impl Iterator<Item = &Session> + '_ {
        self.cases
            .values()
            .filter(|c| c.ended_at.is_none())
            .map(|c| &c.session)
    }

    /// The session that a driver got by a request, as it has heard.
    pub fn sessions_told<'a>(
        &'a self,
        driver: &'a DriverId,
    ) -> impl Iterator<Item = SessionId> + 'a {
        self.cases
            .values()
            .filter(move |c| c.session.driver.as_ref() == Some(driver))
            .map(|c| c.session.id)
    }

    /// What receipts and adjustments say that a connector delivered, and whether any of them says
    /// that a register was odd.
    #[must_use]
    pub fn billed(&self, cp: &CpId, connector: ConnectorId) -> (i64, Vec<String>) {
        let mut sum = 0;
        let mut told = Vec::new();
        for case in self.cases.values() {
            if case.session.cp == *cp && case.session.connector == connector {
                let energy = i64::try_from(case.session.energy().0).unwrap_or(i64::MAX);
                sum += energy + case.adjusted_mwh;
                told.push(format!(
                    "{} {energy}+{} {:?}",
                    case.session.id, case.adjusted_mwh, case.session.flags
                ));
            }
        }
        (sum, told)
    }

    /// What a replica has forgotten that nothing allowed it to.
    #[must_use]
    pub fn missing(&self, state: &State) -> Option<String> {
        let session = self
            .cases
            .iter()
            .find(|(id, case)| !case.forgotten && state.session(**id).is_none());
        let request = self
            .given
            .iter()
            .find(|(key, given)| !given.forgotten && state.request(key).is_none());
        session
            .map(|(id, _)| id.to_string())
            .or_else(|| request.map(|((_, id), _)| id.to_string()))
    }

    /// How far the ledger is with a spool.
    #[must_use]
    pub fn wanted(&self, cp: &CpId, epoch: &Epoch) -> u64 {
        self.spools
            .get(&(cp.clone(), epoch.clone()))
            .copied()
            .unwrap_or(1)
    }

    /// Receipts and adjustments that are not in the CDR stream.
    #[must_use]
    pub fn uncopied(&self) -> usize {
        self.cases
            .values()
            .filter(|c| c.ended_at.is_some() && !self.cdr.contains_key(&(c.session.id, None)))
            .count()
    }
}

const fn rank(stage: &Stage) -> u8 {
    match stage {
        Stage::Ordered => 0,
        Stage::Taken { .. } => 1,
        Stage::Energy { .. } => 2,
        Stage::Standing { .. } => 3,
        Stage::Ended { .. } => 4,
    }
}
