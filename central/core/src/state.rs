//! The state, and applying the ledger to it.
//!
//! A record is valid exactly if everything that it expects still stands; otherwise it is void and
//! changes nothing. This rule knows no business and never changes: replicas of different builds
//! agree, and a frame that is appended twice is harmless.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, RequestId, SessionId, TariffId},
    v1::{Tariff, TariffScope},
};
use serde::{Deserialize, Serialize};

use crate::{
    frame::{Basis, Decoded, Digest, Forget, Frame, Kind, Record, UnreadableFrame, Write},
    keys::{Asker, EventId, Key},
    model::{
        Adjustments, Answer, ChargePoint, Connector, Driver, Enrolment, Horizon, Request, Session,
        Spool,
    },
};

/// A value with the record that wrote it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Everything that is remembered, at one position of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    basis: Basis,
    connectors: BTreeMap<(CpId, ConnectorId), Entry<Connector>>,
    sessions: BTreeMap<SessionId, Entry<Session>>,
    adjustments: BTreeMap<SessionId, Entry<Adjustments>>,
    drivers: BTreeMap<DriverId, Entry<Driver>>,
    requests: BTreeMap<(Asker, RequestId), Entry<Request>>,
    charge_points: BTreeMap<CpId, Entry<ChargePoint>>,
    // Snapshots of before there were any have none.
    #[serde(default)]
    enrolments: BTreeMap<CpId, Entry<Enrolment>>,
    spools: BTreeMap<(CpId, Epoch), Entry<Spool>>,
    tariffs: BTreeMap<TariffId, Entry<Tariff>>,
    tariff_scopes: BTreeMap<TariffScope, Entry<Tariff>>,
    horizon: Option<Entry<Horizon>>,
    // Derived from the above; kept so that questions need no search.
    by_driver: BTreeMap<DriverId, BTreeSet<SessionId>>,
    open: BTreeSet<SessionId>,
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
    /// A newer build's frame.
    #[error(transparent)]
    Unreadable(#[from] UnreadableFrame),
}

/// What became of one frame.
#[derive(Debug)]
pub struct Applied {
    /// Where it stands.
    pub pos: u64,
    /// The frame; none for junk.
    pub frame: Option<Box<Frame>>,
    /// For each record, whether it was valid.
    pub valid: Vec<bool>,
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

macro_rules! getters {
    ($($(#[$meta:meta])* $name:ident($($arg:ident: $type:ty),*) -> $value:ty = $field:ident[$key:expr];)+) => {$(
        $(#[$meta])*
        #[must_use]
        pub fn $name(&self, $($arg: $type),*) -> Option<&Entry<$value>> { self.$field.get($key) }
    )+};
}

impl State {
    /// What was applied, and the digest there.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        self.basis
    }

    getters! {
        /// A connector.
        connector(at: &(CpId, ConnectorId)) -> Connector = connectors[at];
        /// A session.
        session(id: SessionId) -> Session = sessions[&id];
        /// The adjustments to a session.
        adjustments(id: SessionId) -> Adjustments = adjustments[&id];
        /// A driver.
        driver(id: &DriverId) -> Driver = drivers[id];
        /// A request.
        request(id: &(Asker, RequestId)) -> Request = requests[id];
        /// A charge point.
        charge_point(id: &CpId) -> ChargePoint = charge_points[id];
        /// What was announced of a charge point's credential.
        enrolment(id: &CpId) -> Enrolment = enrolments[id];
        /// A spool.
        spool(id: &(CpId, Epoch)) -> Spool = spools[id];
        /// A tariff's newest version.
        tariff(id: &TariffId) -> Tariff = tariffs[id];
        /// The tariff of a scope.
        tariff_scope(scope: &TariffScope) -> Tariff = tariff_scopes[scope];
    }

    /// Up to when requests may have been forgotten.
    #[must_use]
    pub const fn horizon(&self) -> Option<&Entry<Horizon>> {
        self.horizon.as_ref()
    }

    /// Charge points in order, after a given one.
    pub fn charge_points_after<'a>(
        &'a self,
        after: Option<&'a CpId>,
    ) -> impl Iterator<Item = (&'a CpId, &'a ChargePoint)> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.charge_points
            .range::<CpId, _>((from, Unbounded))
            .map(|(id, entry)| (id, &entry.value))
    }

    /// Charge points that have presented themselves or were enrolled, in order, after a given one.
    pub fn known_charge_points_after<'a>(
        &'a self,
        after: Option<&'a CpId>,
    ) -> impl Iterator<Item = (&'a CpId, Option<&'a ChargePoint>)> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut presented = self
            .charge_points
            .range::<CpId, _>((from, Unbounded))
            .peekable();
        let mut enrolled = self
            .enrolments
            .range::<CpId, _>((from, Unbounded))
            .map(|(id, _)| id)
            .peekable();
        std::iter::from_fn(move || {
            let first = match (presented.peek(), enrolled.peek()) {
                (Some((a, _)), Some(b)) => (*a).min(*b),
                (Some((a, _)), None) => *a,
                (None, Some(b)) => *b,
                (None, None) => return None,
            };
            enrolled.next_if(|id| *id == first);
            let cp = presented.next_if(|(id, _)| *id == first);
            Some((first, cp.map(|(_, entry)| &entry.value)))
        })
    }

    /// How many charge points were ever enrolled.
    #[must_use]
    pub fn enrolments_len(&self) -> usize {
        self.enrolments.len()
    }

    /// All connectors.
    pub fn connectors(&self) -> impl Iterator<Item = (&(CpId, ConnectorId), &Connector)> + '_ {
        self.connectors.iter().map(|(at, e)| (at, &e.value))
    }

    /// All drivers.
    pub fn drivers(&self) -> impl Iterator<Item = (&DriverId, &Driver)> + '_ {
        self.drivers.iter().map(|(id, e)| (id, &e.value))
    }

    /// Sessions, newest first, before a given one.
    pub fn sessions_before(
        &self,
        before: Option<SessionId>,
    ) -> impl Iterator<Item = &Entry<Session>> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let to = before.map_or(Unbounded, Excluded);
        self.sessions
            .range((Unbounded, to))
            .rev()
            .map(|(_, entry)| entry)
    }

    /// A driver's sessions, newest first, before a given one.
    pub fn sessions_of<'a>(
        &'a self,
        driver: &DriverId,
        before: Option<SessionId>,
    ) -> impl Iterator<Item = &'a Entry<Session>> + 'a {
        self.by_driver
            .get(driver)
            .into_iter()
            .flatten()
            .rev()
            .filter(move |id| before.is_none_or(|b| **id < b))
            .filter_map(|id| self.sessions.get(id))
    }

    /// Open sessions.
    pub fn open_sessions(&self) -> impl DoubleEndedIterator<Item = &Entry<Session>> + '_ {
        self.open.iter().filter_map(|id| self.sessions.get(id))
    }

    /// Open sessions in order, after a given one.
    pub fn open_sessions_after(
        &self,
        after: Option<SessionId>,
    ) -> impl Iterator<Item = &Entry<Session>> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.open
            .range((from, Unbounded))
            .filter_map(|id| self.sessions.get(id))
    }

    /// Tariffs by scope.
    pub fn tariff_scopes(&self) -> impl Iterator<Item = (&TariffScope, &Tariff)> + '_ {
        self.tariff_scopes.iter().map(|(s, e)| (s, &e.value))
    }

    /// All spools in order, after a given one.
    pub fn spools_after<'a>(
        &'a self,
        after: Option<&'a (CpId, Epoch)>,
    ) -> impl Iterator<Item = (&'a (CpId, Epoch), &'a Spool)> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.spools
            .range::<(CpId, Epoch), _>((from, Unbounded))
            .map(|(at, entry)| (at, &entry.value))
    }

    /// All spools with where they are.
    pub fn spools_by_place(&self) -> impl Iterator<Item = (&(CpId, Epoch), &Spool)> + '_ {
        self.spools.iter().map(|(at, e)| (at, &e.value))
    }

    /// Spools of a charge point, all epochs.
    pub fn spools_of<'a>(
        &'a self,
        cp: &'a CpId,
    ) -> impl Iterator<Item = (&'a Epoch, &'a Spool)> + 'a {
        self.spools
            .iter()
            .filter(move |((of, _), _)| of == cp)
            .map(|((_, epoch), entry)| (epoch, &entry.value))
    }

    /// All remembered requests.
    pub fn requests(&self) -> impl Iterator<Item = &Request> + '_ {
        self.requests.values().map(|e| &e.value)
    }

    /// All sessions, oldest first.
    pub fn sessions_oldest_first(&self) -> impl Iterator<Item = &Session> + '_ {
        self.sessions.values().map(|e| &e.value)
    }

    /// The version of a key.
    #[must_use]
    pub fn version(&self, key: &Key) -> Option<EventId> {
        match key {
            Key::Connector(cp, connector) => self
                .connectors
                .get(&(cp.clone(), *connector))
                .map(|e| e.version),
            Key::Session(id) => self.sessions.get(id).map(|e| e.version),
            Key::Adjustments(id) => self.adjustments.get(id).map(|e| e.version),
            Key::Driver(id) => self.drivers.get(id).map(|e| e.version),
            Key::Request(asker, id) => self
                .requests
                .get(&(asker.clone(), id.clone()))
                .map(|e| e.version),
            Key::ChargePoint(id) => self.charge_points.get(id).map(|e| e.version),
            Key::Enrolment(id) => self.enrolments.get(id).map(|e| e.version),
            Key::Spool(cp, epoch) => self
                .spools
                .get(&(cp.clone(), epoch.clone()))
                .map(|e| e.version),
            Key::Tariff(id) => self.tariffs.get(id).map(|e| e.version),
            Key::TariffScope(scope) => self.tariff_scopes.get(scope).map(|e| e.version),
            Key::Horizon => self.horizon.as_ref().map(|e| e.version),
        }
    }

    fn stands(&self, record: &Record) -> bool {
        record
            .expects
            .iter()
            .all(|(key, version)| self.version(key) == *version)
            && record
                .writes
                .iter()
                .all(|write| record.expects.contains_key(&write.key()))
    }

    fn put(&mut self, write: Write, version: EventId, pos: u64) {
        fn set<K: Ord, T>(
            map: &mut BTreeMap<K, Entry<T>>,
            key: K,
            value: T,
            version: EventId,
            pos: u64,
        ) {
            let prev = map.get(&key).map_or(0, |old| {
                // Two records of one frame share its position: then the one before the frame counts.
                if old.pos == pos { old.prev } else { old.pos }
            });
            map.insert(
                key,
                Entry {
                    value,
                    version,
                    pos,
                    prev,
                },
            );
        }
        match write {
            Write::Connector(cp, connector, value) => {
                set(&mut self.connectors, (cp, connector), value, version, pos);
            }
            Write::Session(session) => {
                if let Some(driver) = &session.driver {
                    self.by_driver
                        .entry(driver.clone())
                        .or_default()
                        .insert(session.id);
                }
                if session.is_ended() {
                    self.open.remove(&session.id);
                } else {
                    self.open.insert(session.id);
                }
                set(&mut self.sessions, session.id, *session, version, pos);
            }
            Write::Adjustments(id, value) => set(&mut self.adjustments, id, value, version, pos),
            Write::Driver(id, value) => set(&mut self.drivers, id, value, version, pos),
            Write::Request(asker, id, value) => {
                set(&mut self.requests, (asker, id), value, version, pos);
            }
            Write::ChargePoint(id, value) => {
                set(&mut self.charge_points, id, value, version, pos);
            }
            Write::Enrolment(id, value) => set(&mut self.enrolments, id, value, version, pos),
            Write::Spool(cp, epoch, value) => {
                set(&mut self.spools, (cp, epoch), value, version, pos);
            }
            Write::Tariff(tariff) => set(
                &mut self.tariffs,
                tariff.tariff_id.clone(),
                tariff,
                version,
                pos,
            ),
            Write::TariffScope(scope, tariff) => {
                set(&mut self.tariff_scopes, scope, tariff, version, pos);
            }
            Write::Forget(forget) => self.forget(&forget, version, pos),
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
            if let Some(driver) = &entry.value.driver
                && let Some(theirs) = self.by_driver.get_mut(driver)
            {
                theirs.remove(id);
                if theirs.is_empty() {
                    self.by_driver.remove(driver);
                }
            }
            self.sessions.remove(id);
            self.adjustments.remove(id);
        }
    }

    /// Applies the records of a frame in order; says which were valid.
    fn apply_records(&mut self, records: &[Record], pos: u64) -> Vec<bool> {
        records
            .iter()
            .map(|record| {
                let valid = self.stands(record);
                if valid {
                    for write in &record.writes {
                        self.put(write.clone(), record.id, pos);
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

/// The state with the digests that it had on the way: what audits other replicas' frames.
#[derive(Debug, Clone, Default)]
pub struct Log {
    state: State,
    digests: VecDeque<Basis>,
}

impl Log {
    /// How far back another replica's basis can be checked, in frames. A frame that was on its way
    /// for longer is not audited; its records are judged all the same.
    pub const DIGESTS_KEPT: usize = 65_536;

    /// A log that goes on from a snapshot.
    #[must_use]
    pub fn from_snapshot(state: State) -> Self {
        let digests = VecDeque::from([state.basis]);
        Self { state, digests }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Applies the message at `pos`.
    ///
    /// # Errors
    /// An [`Alarm`] when the ledger is not what it was; nothing is applied then.
    pub fn apply(&mut self, pos: u64, bytes: &[u8]) -> Result<Applied, Alarm> {
        match Frame::decode(bytes)? {
            Decoded::Frame(frame) => self.apply_frame(pos, frame, bytes),
            Decoded::Junk => {
                self.follows(pos)?;
                self.state.advance(pos, bytes, &[]);
                self.remember();
                Ok(Applied {
                    pos,
                    frame: None,
                    valid: Vec::new(),
                })
            }
        }
    }

    /// Applies a frame of which both the bytes and what they mean are at hand.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn apply_frame(
        &mut self,
        pos: u64,
        frame: Box<Frame>,
        bytes: &[u8],
    ) -> Result<Applied, Alarm> {
        self.follows(pos)?;
        self.audit(&frame)?;
        let valid = self.state.apply_records(&frame.records, pos);
        self.state.advance(pos, bytes, &valid);
        self.remember();
        Ok(Applied {
            pos,
            frame: Some(frame),
            valid,
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

    fn remember(&mut self) {
        if self.digests.len() == Self::DIGESTS_KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back(self.state.basis);
    }
}
