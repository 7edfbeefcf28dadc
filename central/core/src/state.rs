//! The state, and applying the ledger to it.
//!
//! A record is valid exactly if everything that it expects still stands; otherwise it is void and
//! changes nothing. This rule knows no business and never changes: replicas of different builds
//! agree, and a frame that is appended twice is harmless.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::Hash,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, RequestId, SessionId, TariffId},
    v1::{Tariff, TariffScope},
};
use hashbrown::{Equivalent, HashMap, hash_map};

use crate::{
    codec::Interner,
    frame::{Basis, Decoded, Decoder, Digest, Forget, Frame, Kind, Record, UnreadableFrame, Write},
    keys::{Asker, EventId, Key},
    model::{
        Adjustments, Answer, ChargePoint, Connector, Driver, Enrolment, Horizon, Place, Request,
        ScopeTariffs, Session, Spool,
    },
    whole::LedgerId,
};

/// A value with the record that wrote it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// The value.
    pub value: T,
    /// Its version.
    pub version: EventId,
    /// Ledger position of that record.
    pub pos: u64,
    /// Ledger position of the one before it that wrote this key; 0 for the first.
    pub prev: u64,
}

/// All that is kept of a charge point: one place to look at for what nearly every record is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cabinet {
    pub present: Option<Entry<Arc<ChargePoint>>>,
    pub enrolment: Option<Box<Entry<Enrolment>>>,
    pub connectors: Few<(ConnectorId, Entry<Arc<Connector>>)>,
    pub spools: Few<(Epoch, Entry<Spool>)>,
}

/// A list in the order of its keys that nearly always has one element: that one lies where the list
/// is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(all) => all,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(all) => all,
        }
    }

    fn insert(&mut self, at: usize, new: T) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(new),
            Self::One(one) => Self::Many(if at == 0 {
                vec![new, one]
            } else {
                vec![one, new]
            }),
            Self::Many(mut all) => {
                all.insert(at, new);
                Self::Many(all)
            }
        };
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut all: Vec<T>) -> Self {
        if all.len() > 1 {
            Self::Many(all)
        } else {
            all.pop().map_or(Self::None, Self::One)
        }
    }
}

/// All that is kept of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Person {
    pub driver: Option<Entry<Driver>>,
    /// Derived: their sessions, oldest first.
    pub sessions: Vec<SessionId>,
}

pub(crate) type RequestKey = (Asker, RequestId);

/// A request's key, to look it up with.
#[derive(Hash)]
struct RequestRef<'k>(&'k Asker, &'k RequestId);

impl Equivalent<RequestKey> for RequestRef<'_> {
    fn equivalent(&self, key: &RequestKey) -> bool {
        self.1 == &key.1 && self.0 == &key.0
    }
}

/// Everything that is remembered, at one position of the ledger.
///
/// A copy costs little: what is large is shared with the original until one of them changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub(crate) basis: Basis,
    pub(crate) ledger: Option<LedgerId>,
    pub(crate) cabinets: HashMap<CpId, Arc<Cabinet>>,
    pub(crate) sessions: HashMap<SessionId, Entry<Arc<Session>>>,
    pub(crate) adjustments: BTreeMap<SessionId, Entry<Arc<Adjustments>>>,
    pub(crate) people: HashMap<DriverId, Arc<Person>>,
    pub(crate) requests: HashMap<RequestKey, Entry<Arc<Request>>>,
    pub(crate) tariffs: BTreeMap<TariffId, Entry<Arc<Tariff>>>,
    pub(crate) tariff_scopes: BTreeMap<TariffScope, Entry<Arc<ScopeTariffs>>>,
    pub(crate) horizon: Option<Entry<Horizon>>,
    // Derived from the above; kept so that questions need no search, and pages have an order.
    cabinets_by_id: BTreeSet<CpId>,
    sessions_by_id: BTreeSet<SessionId>,
    open: BTreeSet<SessionId>,
    enrolled: usize,
}

/// Why a replica must stop answering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// A frame's appender had applied something else.
    #[error(
        "the ledger's history differs: replica {by} had another digest at sequence {at} than this one"
    )]
    DigestMismatch {
        /// Where.
        at: u64,
        /// Who appended.
        by: String,
    },
    /// A message is missing.
    #[error("the ledger misses messages: sequence {found} follows {applied}")]
    Gap {
        /// What was applied.
        applied: u64,
        /// What came.
        found: u64,
    },
    /// The stream ends before what was applied.
    #[error("the ledger ends at sequence {last}, below {applied} which was applied")]
    Rewound {
        /// The stream's end.
        last: u64,
        /// What was applied.
        applied: u64,
    },
    /// Messages were deleted.
    #[error("{removed} messages were removed from the ledger")]
    Removed {
        /// How many.
        removed: u64,
    },
    /// There is no ledger.
    #[error("nats-server has no ledger{}", evidence(*served, others))]
    Missing {
        /// Which one this replica served, and up to where.
        served: Option<(LedgerId, u64)>,
        /// Other streams that are there, all of which are made after the ledger.
        others: Vec<&'static str>,
    },
    /// It is another ledger.
    #[error("nats-server has the ledger {found}, and the one that was served is {served}")]
    Foreign {
        /// What is there.
        found: LedgerId,
        /// What was there.
        served: LedgerId,
    },
    /// The first message is no frame.
    #[error(
        "the ledger's first message is no frame of central's, so that it cannot be told which ledger it is"
    )]
    Nameless,
    /// A newer build's frame.
    #[error(transparent)]
    Unreadable(#[from] UnreadableFrame),
}

/// What says that there was a ledger.
fn evidence(served: Option<(LedgerId, u64)>, others: &[&str]) -> String {
    let mut said = String::new();
    if let Some((ledger, seq)) = served {
        said.push_str(&format!(
            ", and this replica served ledger {ledger} up to {seq}"
        ));
    }
    if !others.is_empty() {
        said.push_str(&format!(", but {}, made after it", others.join(", ")));
    }
    said
}

/// What became of one frame.
#[derive(Debug)]
pub struct Applied {
    /// Where it stands.
    pub pos: u64,
    /// The frame; none for junk.
    pub frame: Option<Arc<Frame>>,
    /// For each record, whether it was valid.
    pub valid: Vec<bool>,
    /// Sessions as they were before. To let go of one takes longer than to put the new one there:
    /// whoever reads a ledger may have another thread do it.
    pub gone: Vec<Arc<Session>>,
}

impl Applied {
    /// The kinds of its void records.
    pub fn void(&self) -> impl Iterator<Item = Kind> + '_ {
        self.records()
            .filter_map(|(record, valid)| (!valid).then_some(record.kind))
    }

    /// Its records, each with whether it was valid.
    pub fn records(&self) -> impl Iterator<Item = (&Record, bool)> + '_ {
        self.frame
            .iter()
            .flat_map(|frame| &frame.records)
            .zip(self.valid.iter().copied())
    }

    /// What valid records wrote.
    pub fn writes(&self) -> impl Iterator<Item = &Write> + '_ {
        self.records()
            .filter(|(_, valid)| *valid)
            .flat_map(|(record, _)| &record.writes)
    }
}

impl State {
    /// What was applied, and the digest there.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        self.basis
    }

    /// Which ledger this is the state of; none before its first frame.
    #[must_use]
    pub const fn ledger(&self) -> Option<LedgerId> {
        self.ledger
    }

    /// A connector.
    #[must_use]
    pub fn connector(&self, (cp, id): &(CpId, ConnectorId)) -> Option<&Entry<Arc<Connector>>> {
        self.connector_at(cp, *id)
    }

    /// The same.
    #[must_use]
    pub fn connector_at(&self, cp: &CpId, id: ConnectorId) -> Option<&Entry<Arc<Connector>>> {
        let there = self.cabinets.get(cp)?.connectors.as_slice();
        there.iter().find(|(of, _)| *of == id).map(|(_, e)| e)
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Entry<Arc<Session>>> {
        self.sessions.get(&id)
    }

    /// The adjustments to a session.
    #[must_use]
    pub fn adjustments(&self, id: SessionId) -> Option<&Entry<Arc<Adjustments>>> {
        self.adjustments.get(&id)
    }

    /// A driver.
    #[must_use]
    pub fn driver(&self, id: &DriverId) -> Option<&Entry<Driver>> {
        self.people.get(id)?.driver.as_ref()
    }

    /// A request.
    #[must_use]
    pub fn request(&self, (asker, id): &RequestKey) -> Option<&Entry<Arc<Request>>> {
        self.request_of(asker, id)
    }

    /// The same.
    #[must_use]
    pub fn request_of(&self, asker: &Asker, id: &RequestId) -> Option<&Entry<Arc<Request>>> {
        self.requests.get(&RequestRef(asker, id))
    }

    /// A charge point.
    #[must_use]
    pub fn charge_point(&self, id: &CpId) -> Option<&Entry<Arc<ChargePoint>>> {
        self.cabinets.get(id)?.present.as_ref()
    }

    /// The texts of a charge point that has presented itself, as they are in memory already: its id
    /// and its spool's epoch.
    #[must_use]
    pub fn texts(&self, id: &CpId) -> Option<(&CpId, &Epoch)> {
        let (id, cabinet) = self.cabinets.get_key_value(id)?;
        Some((id, &cabinet.present.as_ref()?.value.epoch))
    }

    /// What was announced of a charge point's credential.
    #[must_use]
    pub fn enrolment(&self, id: &CpId) -> Option<&Entry<Enrolment>> {
        self.cabinets.get(id)?.enrolment.as_deref()
    }

    /// A spool.
    #[must_use]
    pub fn spool(&self, (cp, epoch): &(CpId, Epoch)) -> Option<&Entry<Spool>> {
        self.spool_at(cp, epoch)
    }

    /// The same.
    #[must_use]
    pub fn spool_at(&self, cp: &CpId, epoch: &Epoch) -> Option<&Entry<Spool>> {
        let there = self.cabinets.get(cp)?.spools.as_slice();
        there.iter().find(|(of, _)| of == epoch).map(|(_, e)| e)
    }

    /// A tariff's newest version.
    #[must_use]
    pub fn tariff(&self, id: &TariffId) -> Option<&Entry<Arc<Tariff>>> {
        self.tariffs.get(id)
    }

    /// The tariffs of a scope.
    #[must_use]
    pub fn tariff_scope(&self, scope: &TariffScope) -> Option<&Entry<Arc<ScopeTariffs>>> {
        self.tariff_scopes.get(scope)
    }

    /// Up to when requests may have been forgotten.
    #[must_use]
    pub const fn horizon(&self) -> Option<&Entry<Horizon>> {
        self.horizon.as_ref()
    }

    pub(crate) fn cabinets_after<'a>(
        &'a self,
        after: Option<&'a CpId>,
    ) -> impl Iterator<Item = (&'a CpId, &'a Cabinet)> + 'a {
        self.cabinets_by_id
            .range::<CpId, _>((after.map_or(Unbounded, Excluded), Unbounded))
            .filter_map(|id| self.cabinets.get(id).map(|cabinet| (id, &**cabinet)))
    }

    /// Charge points in order, after a given one.
    pub fn charge_points_after<'a>(
        &'a self,
        after: Option<&'a CpId>,
    ) -> impl Iterator<Item = (&'a CpId, &'a ChargePoint)> + 'a {
        self.cabinets_after(after)
            .filter_map(|(id, cabinet)| cabinet.present.as_ref().map(|e| (id, &*e.value)))
    }

    /// Charge points that have presented themselves or were enrolled, in order, after a given one.
    pub fn known_charge_points_after<'a>(
        &'a self,
        after: Option<&'a CpId>,
    ) -> impl Iterator<Item = (&'a CpId, Option<&'a ChargePoint>)> + 'a {
        self.cabinets_after(after)
            .filter(|(_, cabinet)| cabinet.present.is_some() || cabinet.enrolment.is_some())
            .map(|(id, cabinet)| (id, cabinet.present.as_ref().map(|e| &*e.value)))
    }

    /// How many charge points were ever enrolled.
    #[must_use]
    pub const fn enrolments_len(&self) -> usize {
        self.enrolled
    }

    /// All connectors, in order.
    pub fn connectors(&self) -> impl Iterator<Item = ((&CpId, ConnectorId), &Connector)> + '_ {
        self.cabinets_after(None).flat_map(|(cp, cabinet)| {
            let there = cabinet.connectors.as_slice().iter();
            there.map(move |(id, e)| ((cp, *id), &*e.value))
        })
    }

    /// All drivers, in no order.
    pub fn drivers(&self) -> impl Iterator<Item = (&DriverId, &Driver)> + '_ {
        self.people
            .iter()
            .filter_map(|(id, person)| person.driver.as_ref().map(|e| (id, &e.value)))
    }

    /// Sessions, newest first, before a given one.
    pub fn sessions_before(
        &self,
        before: Option<SessionId>,
    ) -> impl Iterator<Item = &Entry<Arc<Session>>> + '_ {
        self.sessions_by_id
            .range((Unbounded, before.map_or(Unbounded, Excluded)))
            .rev()
            .filter_map(|id| self.sessions.get(id))
    }

    /// A driver's sessions, newest first, before a given one.
    pub fn sessions_of<'a>(
        &'a self,
        driver: &DriverId,
        before: Option<SessionId>,
    ) -> impl Iterator<Item = &'a Entry<Arc<Session>>> + 'a {
        self.people
            .get(driver)
            .into_iter()
            .flat_map(|person| &person.sessions)
            .rev()
            .filter(move |id| before.is_none_or(|b| **id < b))
            .filter_map(|id| self.sessions.get(id))
    }

    /// Open sessions, oldest first.
    pub fn open_sessions(&self) -> impl DoubleEndedIterator<Item = &Entry<Arc<Session>>> + '_ {
        self.open.iter().filter_map(|id| self.sessions.get(id))
    }

    /// Open sessions in order, after a given one.
    pub fn open_sessions_after(
        &self,
        after: Option<SessionId>,
    ) -> impl Iterator<Item = &Entry<Arc<Session>>> + '_ {
        self.open
            .range((after.map_or(Unbounded, Excluded), Unbounded))
            .filter_map(|id| self.sessions.get(id))
    }

    /// Tariffs by scope.
    pub fn tariff_scopes(&self) -> impl Iterator<Item = (&TariffScope, &ScopeTariffs)> + '_ {
        self.tariff_scopes.iter().map(|(s, e)| (s, &*e.value))
    }

    /// All spools in order, after a given one.
    pub fn spools_after<'a>(
        &'a self,
        after: Option<&'a (CpId, Epoch)>,
    ) -> impl Iterator<Item = ((&'a CpId, &'a Epoch), &'a Spool)> + 'a {
        let at = after.map(|(cp, _)| cp);
        self.cabinets_by_id
            .range::<CpId, _>((at.map_or(Unbounded, Included), Unbounded))
            .filter_map(|cp| {
                self.cabinets
                    .get(cp)
                    .map(|cabinet| (cp, cabinet.spools.as_slice()))
            })
            .flat_map(|(cp, spools)| spools.iter().map(move |(epoch, e)| ((cp, epoch), &e.value)))
            .filter(move |((cp, epoch), _)| after.is_none_or(|(of, last)| (of, last) < (cp, epoch)))
    }

    /// All spools with where they are, in order.
    pub fn spools_by_place(&self) -> impl Iterator<Item = ((&CpId, &Epoch), &Spool)> + '_ {
        self.spools_after(None)
    }

    /// Spools of a charge point, all epochs.
    pub fn spools_of(&self, cp: &CpId) -> impl Iterator<Item = (&Epoch, &Spool)> + '_ {
        self.cabinets
            .get(cp)
            .into_iter()
            .flat_map(|cabinet| cabinet.spools.as_slice())
            .map(|(epoch, e)| (epoch, &e.value))
    }

    /// All remembered requests, in no order.
    pub fn requests(&self) -> impl Iterator<Item = &Request> + '_ {
        self.requests.values().map(|e| &*e.value)
    }

    /// All sessions, oldest first.
    pub fn sessions_oldest_first(&self) -> impl Iterator<Item = &Session> + '_ {
        self.sessions_by_id
            .iter()
            .filter_map(|id| self.sessions.get(id))
            .map(|e| &*e.value)
    }

    /// One in which nothing is, at a position of a ledger.
    pub(crate) fn at(basis: Basis, ledger: Option<LedgerId>) -> Self {
        Self {
            basis,
            ledger,
            ..Self::default()
        }
    }

    pub(crate) fn load_cabinet(&mut self, id: CpId, cabinet: Cabinet) {
        self.enrolled += usize::from(cabinet.enrolment.is_some());
        self.cabinets_by_id.insert(id.clone());
        self.cabinets.insert(id, Arc::new(cabinet));
    }

    pub(crate) fn load_session(&mut self, entry: Entry<Arc<Session>>) {
        self.index(&entry.value);
        self.sessions.insert(entry.value.id, entry);
    }

    pub(crate) fn load_driver(&mut self, id: DriverId, driver: Entry<Driver>) {
        self.person(&id).driver = Some(driver);
    }

    /// The version of a key.
    #[must_use]
    pub fn version(&self, key: &Key) -> Option<EventId> {
        match key {
            Key::Connector(cp, connector) => self.connector_at(cp, *connector).map(|e| e.version),
            Key::Session(id) => self.session(*id).map(|e| e.version),
            Key::Adjustments(id) => self.adjustments(*id).map(|e| e.version),
            Key::Driver(id) => self.driver(id).map(|e| e.version),
            Key::Request(asker, id) => self.request_of(asker, id).map(|e| e.version),
            Key::ChargePoint(id) => self.charge_point(id).map(|e| e.version),
            Key::Enrolment(id) => self.enrolment(id).map(|e| e.version),
            Key::Spool(cp, epoch) => self.spool_at(cp, epoch).map(|e| e.version),
            Key::Tariff(id) => self.tariff(id).map(|e| e.version),
            Key::TariffScope(scope) => self.tariff_scope(scope).map(|e| e.version),
            Key::Horizon => self.horizon.as_ref().map(|e| e.version),
        }
    }

    fn stands(&self, record: &Record) -> bool {
        record
            .expects
            .iter()
            .all(|(key, version)| self.version(key) == *version)
            && record.expects_what_it_writes()
    }

    /// Puts a key's new state in its place. Gives the session back that was there.
    fn put(&mut self, write: &Write, by: By, shared: &mut Interner) -> Option<Arc<Session>> {
        match write {
            Write::Connector(cp, connector, value) => {
                let there = &mut self.cabinet(cp).connectors;
                by.set_in(there, connector, Arc::clone(value));
            }
            Write::Session(session) => {
                self.index(session);
                return by.set(&mut self.sessions, session.id, Arc::clone(session));
            }
            Write::Adjustments(id, value) => {
                let old = self.adjustments.get(id);
                let new = by.entry(old, Arc::clone(value));
                self.adjustments.insert(*id, new);
            }
            Write::Driver(id, value) => {
                let person = self.person(id);
                person.driver = Some(by.entry(person.driver.as_ref(), value.clone()));
            }
            Write::Request(asker, id, value) => {
                let key = (asker.clone(), id.clone());
                by.set(&mut self.requests, key, Arc::clone(value));
            }
            Write::ChargePoint(id, value) => {
                let value = ChargePoint {
                    site: shared.site(&value.site),
                    time_zone: shared.text(&value.time_zone),
                    connectors: shared.specs(&value.connectors),
                    version: shared.text(&value.version),
                    epoch: value.epoch.clone(),
                    boot: value.boot,
                    other: value.other.clone(),
                };
                let cabinet = self.cabinet(id);
                cabinet.present = Some(by.entry(cabinet.present.as_ref(), Arc::new(value)));
            }
            Write::Enrolment(id, value) => {
                let cabinet = self.cabinet(id);
                let old = cabinet.enrolment.as_deref();
                let new = old.is_none();
                let mut value = value.clone();
                value.place = value.place.map(|place| Place {
                    at: place.at,
                    site: shared.site(&place.site),
                    time_zone: shared.text(&place.time_zone),
                });
                cabinet.enrolment = Some(Box::new(by.entry(old, value)));
                self.enrolled += usize::from(new);
            }
            Write::Spool(cp, epoch, value) => {
                let cabinet = self.cabinet(cp);
                // The text of its epoch is in memory once.
                let epoch = match &cabinet.present {
                    Some(present) if present.value.epoch == *epoch => &present.value.epoch.clone(),
                    Some(_) | None => epoch,
                };
                by.set_in(&mut cabinet.spools, epoch, value.clone());
            }
            Write::Tariff(tariff) => {
                let old = self.tariffs.get(&tariff.tariff_id);
                let new = by.entry(old, Arc::clone(tariff));
                self.tariffs.insert(tariff.tariff_id.clone(), new);
            }
            Write::TariffScope(scope, tariffs) => {
                let old = self.tariff_scopes.get(scope);
                let new = by.entry(old, Arc::clone(tariffs));
                self.tariff_scopes.insert(scope.clone(), new);
            }
            Write::Forget(forget) => self.forget(forget, by.version, by.pos),
        }
        None
    }

    /// A charge point's place, made when it is new.
    fn cabinet(&mut self, id: &CpId) -> &mut Cabinet {
        let cabinet = match self.cabinets.entry(id.clone()) {
            hash_map::Entry::Occupied(there) => there.into_mut(),
            hash_map::Entry::Vacant(free) => {
                self.cabinets_by_id.insert(id.clone());
                free.insert(Arc::default())
            }
        };
        Arc::make_mut(cabinet)
    }

    /// A driver's place, made when it is new.
    fn person(&mut self, id: &DriverId) -> &mut Person {
        Arc::make_mut(self.people.entry(id.clone()).or_default())
    }

    /// Notes where a session is to be found.
    fn index(&mut self, session: &Session) {
        let old = self.sessions.get(&session.id).map(|e| &e.value);
        // Most records of a session change nothing of this, and neither set is small.
        if old.is_none_or(|old| old.is_ended() != session.is_ended()) {
            if session.is_ended() {
                self.open.remove(&session.id);
            } else {
                self.open.insert(session.id);
            }
        }
        let driver = match old {
            Some(old) if old.driver == session.driver => return,
            Some(old) => old.driver.clone(),
            None => None,
        };
        if let Some(old) = driver {
            self.leaves(&old, session.id);
        }
        self.sessions_by_id.insert(session.id);
        if let Some(driver) = &session.driver {
            let theirs = &mut self.person(driver).sessions;
            if let Err(at) = theirs.binary_search(&session.id) {
                theirs.reserve_exact(1);
                theirs.insert(at, session.id);
            }
        }
    }

    /// A session is a driver's no more.
    fn leaves(&mut self, driver: &DriverId, id: SessionId) {
        let person = self.person(driver);
        person.sessions.retain(|theirs| *theirs != id);
        if person.sessions.is_empty() && person.driver.is_none() {
            self.people.remove(driver);
        }
    }

    fn forget(&mut self, forget: &Forget, version: EventId, pos: u64) {
        let until = self.horizon.as_ref().map_or(forget.horizon.until, |e| {
            e.value.until.max(forget.horizon.until)
        });
        let prev = self.horizon.as_ref().map_or(0, |e| e.pos);
        self.horizon = Some(Entry {
            value: Horizon { until },
            version,
            pos,
            prev,
        });
        let open = &self.open;
        self.requests.retain(|_, entry| {
            let others_until = forget.others_until.min(forget.horizon.until);
            let (until, session) = match &entry.value.answer {
                Answer::Refused { .. } => (forget.horizon.until, None),
                Answer::Started { session, .. } | Answer::Stopping { session, .. } => {
                    (others_until, Some(*session))
                }
                Answer::Done { session, .. } => (others_until, *session),
            };
            entry.pos > forget.before
                || entry.value.expires_at > until
                || session.is_some_and(|id| open.contains(&id))
        });
        for id in &forget.sessions {
            let Some(entry) = self.sessions.get(id) else {
                continue;
            };
            // An adjustment that is newer than the wish to forget may not be in the CDR stream.
            let newer = entry.pos > forget.before
                || self
                    .adjustments
                    .get(id)
                    .is_some_and(|a| a.pos > forget.before);
            if newer || !entry.value.is_ended() {
                continue;
            }
            if let Some(driver) = entry.value.driver.clone() {
                self.leaves(&driver, *id);
            }
            self.sessions.remove(id);
            self.sessions_by_id.remove(id);
            self.adjustments.remove(id);
        }
    }

    /// Applies the records of a frame in order; says which were valid.
    fn apply_records(
        &mut self,
        records: &[Record],
        pos: u64,
        shared: &mut Interner,
        gone: &mut Vec<Arc<Session>>,
    ) -> Vec<bool> {
        records
            .iter()
            .map(|record| {
                let valid = self.stands(record);
                if valid {
                    for write in &record.writes {
                        let version = record.id;
                        gone.extend(self.put(write, By { version, pos }, shared));
                    }
                }
                valid
            })
            .collect()
    }

    fn advance(&mut self, pos: u64, bytes: &[u8], valid: &[bool]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.basis.digest.0);
        hasher.update(&pos.to_le_bytes());
        hasher.update(bytes);
        for valid in valid {
            hasher.update(&[u8::from(*valid)]);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        self.basis = Basis {
            seq: pos,
            digest: Digest(digest),
        };
    }
}

/// Which record writes, and where it stands.
#[derive(Debug, Clone, Copy)]
struct By {
    version: EventId,
    pos: u64,
}

impl By {
    fn entry<T>(self, old: Option<&Entry<T>>, value: T) -> Entry<T> {
        let Self { version, pos } = self;
        Entry {
            value,
            version,
            pos,
            prev: old.map_or(0, |old| {
                // Two records of one frame share its position: then the one before the frame counts.
                if old.pos == pos { old.prev } else { old.pos }
            }),
        }
    }

    fn set<K: Hash + Eq, T>(self, map: &mut HashMap<K, Entry<T>>, key: K, value: T) -> Option<T> {
        match map.entry(key) {
            hash_map::Entry::Occupied(mut there) => {
                let new = self.entry(Some(there.get()), value);
                Some(there.insert(new).value)
            }
            hash_map::Entry::Vacant(free) => {
                free.insert(self.entry(None, value));
                None
            }
        }
    }

    fn set_in<K: Ord + Clone, T>(self, list: &mut Few<(K, Entry<T>)>, key: &K, value: T) {
        let there = list.as_mut_slice();
        match there.binary_search_by(|(there, _)| there.cmp(key)) {
            Ok(at) => there[at].1 = self.entry(Some(&there[at].1), value),
            Err(at) => list.insert(at, (key.clone(), self.entry(None, value))),
        }
    }
}

/// The state with the digests that it had on the way: what audits other replicas' frames.
#[derive(Debug, Clone, Default)]
pub struct Log {
    state: State,
    digests: VecDeque<Basis>,
    decoder: Decoder,
    /// What was applied at an earlier time, and is held against what is applied there now.
    vouched: Option<(Basis, String)>,
}

impl Log {
    /// How far back another replica's basis can be checked, in frames. A frame that was on its way
    /// for longer is not audited; its records are judged all the same.
    pub const DIGESTS_KEPT: usize = 65_536;

    /// A log that goes on from a snapshot.
    #[must_use]
    pub fn from_snapshot(state: State) -> Self {
        let digests = VecDeque::from([state.basis]);
        Self {
            state,
            digests,
            decoder: Decoder::default(),
            vouched: None,
        }
    }

    /// Holds against the ledger what `by` had applied before. What lies before the snapshot that the log
    /// goes on from was held against it when that was written.
    #[must_use]
    pub fn vouched_by(mut self, basis: Basis, by: String) -> Self {
        self.vouched = (basis.seq > self.state.basis.seq).then_some((basis, by));
        self
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Applies the message at `pos`.
    ///
    /// # Errors
    /// An [`Alarm`] when the ledger is not what it was. Nothing may be answered from the state then.
    pub fn apply(&mut self, pos: u64, bytes: &[u8]) -> Result<Applied, Alarm> {
        let decoded = self.decoder.decode(bytes)?;
        self.apply_decoded(pos, decoded, bytes)
    }

    /// Applies the message at `pos` that was decoded elsewhere.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn apply_decoded(
        &mut self,
        pos: u64,
        decoded: Decoded,
        bytes: &[u8],
    ) -> Result<Applied, Alarm> {
        match decoded {
            Decoded::Frame(frame) => self.apply_frame(pos, frame, bytes),
            Decoded::Junk => {
                self.follows(pos)?;
                self.state.advance(pos, bytes, &[]);
                self.remember()?;
                Ok(Applied {
                    pos,
                    frame: None,
                    valid: Vec::new(),
                    gone: Vec::new(),
                })
            }
        }
    }

    /// Applies a frame of which both the bytes and what they mean are at hand. What is large in it is shared with the state and not copied.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn apply_frame(
        &mut self,
        pos: u64,
        frame: impl Into<Arc<Frame>>,
        bytes: &[u8],
    ) -> Result<Applied, Alarm> {
        let frame = frame.into();
        self.follows(pos)?;
        self.audit(&frame)?;
        let shared = self.decoder.shared();
        let mut gone = Vec::new();
        let valid = self
            .state
            .apply_records(&frame.records, pos, shared, &mut gone);
        self.state.advance(pos, bytes, &valid);
        if pos == 1 {
            self.state.ledger = Some(LedgerId(frame.id));
        }
        self.remember()?;
        Ok(Applied {
            pos,
            frame: Some(frame),
            valid,
            gone,
        })
    }

    fn follows(&self, pos: u64) -> Result<(), Alarm> {
        let applied = self.state.basis.seq;
        if pos == applied + 1 {
            Ok(())
        } else {
            Err(Alarm::Gap {
                applied,
                found: pos,
            })
        }
    }

    fn audit(&self, frame: &Frame) -> Result<(), Alarm> {
        let at = frame.basis.seq;
        let mismatch = || Alarm::DigestMismatch {
            at,
            by: frame.by.to_string(),
        };
        if at > self.state.basis.seq {
            return Err(mismatch());
        }
        if at == 0 {
            return if frame.basis.digest == Digest::default() {
                Ok(())
            } else {
                Err(mismatch())
            };
        }
        let Some(oldest) = self.digests.front() else {
            return Ok(());
        };
        let Some(index) = at.checked_sub(oldest.seq) else {
            return Ok(());
        };
        // Positions have no gaps, so that the index follows from the sequence.
        match usize::try_from(index)
            .ok()
            .and_then(|i| self.digests.get(i))
        {
            Some(ours) if *ours == frame.basis => Ok(()),
            Some(_) | None => Err(mismatch()),
        }
    }

    fn remember(&mut self) -> Result<(), Alarm> {
        if self.digests.len() == Self::DIGESTS_KEPT {
            self.digests.pop_front();
        }
        let basis = self.state.basis;
        self.digests.push_back(basis);
        match self
            .vouched
            .take_if(|(vouched, _)| vouched.seq == basis.seq)
        {
            Some((vouched, by)) if vouched != basis => {
                Err(Alarm::DigestMismatch { at: basis.seq, by })
            }
            Some(_) | None => Ok(()),
        }
    }
}
