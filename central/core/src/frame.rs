//! How decisions are written to the ledger: records, packed into frames.
//!
//! A frame on the wire is [`MAGIC`], the first bytes of the BLAKE3 hash of what follows, a head, and
//! the records as [`crate::codec`] writes them. Bytes without the magic are nobody's frame: every
//! replica passes over them alike. Bytes with it that this build cannot read come from a newer
//! build, or were changed: this one must stop serving. A field that it does not know counts as such,
//! since it would lose it when it writes the key again.
//!
//! A record names each key once: what it writes also says what it expects of that key.

use std::sync::Arc;

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, ReplicaId, RequestId, SessionId},
    time::UnixMs,
    v1::{ConnectorSpec, Tariff, TariffScope},
};
use uuid::Uuid;

use crate::{
    codec::{Bad, Coded, Got, Interner, Kept, Reader, Writer},
    keys::{Asker, EventId, Key},
    model::{
        Adjustments, Answer, ChargePoint, Connector, Driver, Enrolment, Horizon, Request,
        ScopeTariffs, Session, Spool,
    },
};

/// What a frame begins with; the digit is the version of the format.
pub const MAGIC: &[u8; 4] = b"EVF3";
/// Bytes of the hash that a frame carries: a disk or a network that changes a bit goes unnoticed
/// once in four thousand million times; the digest finds that, too.
pub(crate) const CHECK_BYTES: usize = 4;
/// Most records in a frame. With 500 a frame costs an append half as much again as with one; more
/// than 1,000 delay the first of them for the last.
pub const RECORDS_MAX: usize = 1_000;
/// Largest frame in bytes: half of what the server takes. There is nothing in it to unpack, so that
/// it bounds what is read as well as what is sent.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;
/// Most bytes of a frame that are not records: magic, check, id, the longest name of a replica,
/// basis, time and count.
const HEAD_BYTES_MAX: usize = 160;

/// A digest of everything that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub [u8; 16]);

/// What an appender had applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Basis {
    /// The stream sequence.
    pub seq: u64,
    /// The digest there.
    pub digest: Digest,
}

/// One append: what waited, decided on one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its own id, also when empty: a copy is never taken for another frame.
    pub id: Uuid,
    /// Who appended it.
    pub by: ReplicaId,
    /// What the appender had applied.
    pub basis: Basis,
    /// The appender's wall time. No rule rests on it.
    pub at: UnixMs,
    /// In order; a later one may build on an earlier one.
    pub records: Vec<Record>,
}

/// What kind of decision a record is. The rule of validity does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A request was refused.
    Refused,
    /// A session was accepted.
    Started,
    /// A stop was accepted.
    Stopping,
    /// An operator changed something.
    Operated,
    /// A charge point presented itself otherwise than before.
    Synced,
    /// Spool records were taken in.
    Intake,
    /// A charge point's answer to a command ended something.
    CommandAnswered,
    /// A session out of reach no longer counts.
    Released,
    /// Old requests and sessions left the state.
    Forget,
    /// Charge points were enrolled or revoked.
    Enrolled,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id; becomes the version of what it writes.
    pub id: EventId,
    /// What kind of decision.
    pub kind: Kind,
    /// Every key that was read or is written, with the version that was seen.
    pub expects: Expects,
    /// The new state of what is written.
    pub writes: Vec<Write>,
    /// What could not be used, verbatim.
    pub evidence: Vec<Evidence>,
}

/// Keys with the version that was seen of each, in the order of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expects(Vec<(Key, Option<EventId>)>);

impl Expects {
    /// Those that are in order and different.
    pub(crate) fn in_order(keys: Vec<(Key, Option<EventId>)>) -> Self {
        debug_assert!(keys.is_sorted_by(|(a, _), (b, _)| a < b));
        Self(keys)
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is expected.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.0.binary_search_by(|(there, _)| there.cmp(key))
    }

    /// Whether a key is expected, at whatever version.
    #[must_use]
    pub fn contains_key(&self, key: &Key) -> bool {
        self.find(key).is_ok()
    }

    /// The version that is expected of a key, if the key is.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Option<EventId>> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &Key) -> Option<Option<EventId>> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Each with its version.
    pub fn iter(&self) -> std::slice::Iter<'_, (Key, Option<EventId>)> {
        self.0.iter()
    }
}

impl<'e> IntoIterator for &'e Expects {
    type Item = &'e (Key, Option<EventId>);
    type IntoIter = std::slice::Iter<'e, (Key, Option<EventId>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<(Key, Option<EventId>)> for Expects {
    fn from_iter<I: IntoIterator<Item = (Key, Option<EventId>)>>(keys: I) -> Self {
        let keys: std::collections::BTreeMap<_, _> = keys.into_iter().collect();
        Self(keys.into_iter().collect())
    }
}

/// Something that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Where it came from.
    pub cp: CpId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// At which number.
    pub seq: u64,
    /// Why it could not be used.
    pub why: String,
    /// The record as it came.
    pub raw: Vec<u8>,
}

/// The new state of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// See [`Key::Connector`].
    Connector(CpId, ConnectorId, Arc<Connector>),
    /// See [`Key::Session`].
    Session(Arc<Session>),
    /// See [`Key::Adjustments`].
    Adjustments(SessionId, Arc<Adjustments>),
    /// See [`Key::Driver`].
    Driver(DriverId, Driver),
    /// See [`Key::Request`].
    Request(Asker, RequestId, Arc<Request>),
    /// See [`Key::ChargePoint`].
    ChargePoint(CpId, Arc<ChargePoint>),
    /// See [`Key::Spool`].
    Spool(CpId, Epoch, Spool),
    /// See [`Key::Tariff`].
    Tariff(Arc<Tariff>),
    /// See [`Key::TariffScope`].
    TariffScope(TariffScope, Arc<ScopeTariffs>),
    /// See [`Key::Enrolment`].
    Enrolment(CpId, Enrolment),
    /// Writes [`Key::Horizon`] and removes what it names.
    Forget(Forget),
}

/// What leaves the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    /// The new horizon: refusals that expired at or before it go.
    pub horizon: Horizon,
    /// Other requests that expired at or before this go, unless their session is open. At most
    /// the horizon.
    pub others_until: UnixMs,
    /// Nothing goes that was written after this sequence, which is at most the frame's basis.
    pub before: u64,
    /// Ended sessions whose receipts are in the CDR stream.
    pub sessions: Vec<SessionId>,
}

impl Write {
    /// Which key it writes.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Connector(cp, connector, _) => Key::Connector(cp.clone(), *connector),
            Self::Session(session) => Key::Session(session.id),
            Self::Adjustments(session, _) => Key::Adjustments(*session),
            Self::Driver(driver, _) => Key::Driver(driver.clone()),
            Self::Request(asker, request, _) => Key::Request(asker.clone(), request.clone()),
            Self::ChargePoint(cp, _) => Key::ChargePoint(cp.clone()),
            Self::Spool(cp, epoch, _) => Key::Spool(cp.clone(), epoch.clone()),
            Self::Tariff(tariff) => Key::Tariff(tariff.tariff_id.clone()),
            Self::TariffScope(scope, _) => Key::TariffScope(scope.clone()),
            Self::Enrolment(cp, _) => Key::Enrolment(cp.clone()),
            Self::Forget(_) => Key::Horizon,
        }
    }

    fn is_of(&self, key: &Key) -> bool {
        self.number() == key.number() && self.key() == *key
    }
}

/// What ledger bytes turned out to be.
#[derive(Debug)]
pub enum Decoded {
    /// A frame.
    Frame(Box<Frame>),
    /// Not a frame: passed over by every replica.
    Junk,
}

/// A frame that this build cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger holds a frame that this build cannot read: {0}")]
pub struct UnreadableFrame(pub String);

impl Frame {
    /// The bytes for the ledger.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.at);
        for record in &self.records {
            record.put(&mut writer);
        }
        self.head_and(writer.bytes())
    }

    fn head_and(&self, records: &[u8]) -> Vec<u8> {
        let mut head = Writer::new(UnixMs(0));
        head.reserve(HEAD_BYTES_MAX + records.len());
        head.raw(MAGIC);
        head.raw(&[0; CHECK_BYTES]);
        head.raw(self.id.as_bytes());
        head.token(self.by.as_str());
        self.basis.put(&mut head);
        self.at.put(&mut head);
        head.count(self.records.len());
        head.raw(records);
        let mut bytes = head.into_bytes();
        seal(&mut bytes);
        bytes
    }

    /// Reads ledger bytes.
    ///
    /// # Errors
    /// [`UnreadableFrame`] for bytes of a newer build, and for those that were changed.
    pub fn decode(bytes: &[u8]) -> Result<Decoded, UnreadableFrame> {
        Decoder::default().decode(bytes)
    }

    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let id = Uuid::from_bytes(r.array()?);
        let by = r.token(|text| ReplicaId::new(text).ok())?;
        let basis = Basis::get(r)?;
        let at = UnixMs::get(r)?;
        r.set_base(at);
        let count = r.count()?;
        if count > RECORDS_MAX {
            return Err(Bad("it has more records than a frame may have"));
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.push(Record::get(r)?);
        }
        r.end()?;
        Ok(Self {
            id,
            by,
            basis,
            at,
            records,
        })
    }
}

/// Reads frames one after the other. What many of them repeat lies in memory once.
#[derive(Debug, Default)]
pub struct Decoder(Kept);

/// One that has read nothing.
impl Clone for Decoder {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Decoder {
    pub(crate) const fn shared(&mut self) -> &mut Interner {
        &mut self.0.interner
    }

    /// Reads ledger bytes. What a frame is does not depend on those before it.
    ///
    /// # Errors
    /// As [`Frame::decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, UnreadableFrame> {
        if !bytes.starts_with(&MAGIC[..3]) {
            return Ok(Decoded::Junk);
        }
        let unreadable = |why: &str| Err(UnreadableFrame(why.into()));
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return unreadable("its format is another one");
        };
        if bytes.len() > FRAME_BYTES_MAX {
            return unreadable("it is larger than a frame may be");
        }
        match rest.split_first_chunk::<CHECK_BYTES>() {
            Some((found, rest)) if *found == check(rest) => {
                match Frame::get(&mut Reader::new(rest, &mut self.0)) {
                    Ok(frame) => Ok(Decoded::Frame(Box::new(frame))),
                    Err(Bad(why)) => unreadable(why),
                }
            }
            Some(_) | None => unreadable("it was changed or cut off"),
        }
    }
}

pub(crate) fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK_BYTES]);
    check
}

/// Makes the check of a frame's or snapshot's bytes right. Whoever changes them on purpose needs it.
pub fn seal(bytes: &mut [u8]) {
    if let Some((_, sealed)) = bytes.split_at_mut_checked(MAGIC.len())
        && let Some((there, rest)) = sealed.split_first_chunk_mut::<CHECK_BYTES>()
    {
        *there = check(rest);
    }
}

/// A record did not go into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame is full")]
pub struct Full;

/// A frame that is being filled. Each record is written once, as it comes. Whoever fills many keeps
/// it from one to the next, and with it the memory that it has.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    at: UnixMs,
    writer: Writer,
    records: Vec<Record>,
    full: bool,
}

impl FrameBuilder {
    /// Begins a frame; `at` is its appender's wall time.
    #[must_use]
    pub fn new(at: UnixMs) -> Self {
        let mut new = Self::default();
        new.begin(at);
        new
    }

    /// Begins the next frame. What was not finished is forgotten.
    pub fn begin(&mut self, at: UnixMs) {
        self.at = at;
        self.writer.clear();
        self.writer.set_base(at);
        self.records.clear();
        self.full = false;
    }

    /// Adds a record, and says how many bytes it takes.
    ///
    /// # Errors
    /// [`Full`] when it does not fit: then it is not in the frame, and none goes in any more; but an
    /// empty frame stays open, for one that is smaller.
    pub fn push(&mut self, record: Record) -> Result<usize, Full> {
        if self.full || self.records.len() >= RECORDS_MAX {
            return Err(Full);
        }
        let before = self.writer.len();
        record.put(&mut self.writer);
        if self.writer.len() > FRAME_BYTES_MAX - HEAD_BYTES_MAX {
            // What the record was the first to name stays named: nothing may follow.
            if self.records.is_empty() {
                self.writer.clear();
            } else {
                self.writer.truncate(before);
                self.full = true;
            }
            return Err(Full);
        }
        self.records.push(record);
        Ok(self.writer.len() - before)
    }

    /// What is in it.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The frame and its bytes for the ledger.
    #[must_use]
    pub fn finish(&mut self, id: Uuid, by: ReplicaId, basis: Basis) -> (Frame, Vec<u8>) {
        let frame = Frame {
            id,
            by,
            basis,
            at: self.at,
            records: std::mem::take(&mut self.records),
        };
        let bytes = frame.head_and(self.writer.bytes());
        self.begin(self.at);
        (frame, bytes)
    }
}

impl Record {
    /// Whether it expects each key that it writes, at whatever version.
    pub(crate) fn expects_what_it_writes(&self) -> bool {
        // A decision writes its keys in their order.
        let mut expected = self.expects.iter();
        self.writes
            .iter()
            .all(|write| expected.any(|(key, _)| write.is_of(key)))
            || self
                .writes
                .iter()
                .all(|write| self.expects.contains_key(&write.key()))
    }

    /// More bytes than it takes in a frame, worked out without writing it.
    pub(crate) fn encoded_len_bound(&self) -> usize {
        /// Above what any key, version or value takes but for what is counted here.
        const EACH: usize = 1_024;
        /// Above what an element of any list takes but for its texts.
        const ELEMENT: usize = 160;
        let writes = self.writes.iter().map(|write| match write {
            Write::Session(session) => session.elements() * ELEMENT + session.texts_len(),
            Write::Adjustments(_, adjustments) => adjustments
                .list
                .iter()
                .map(|a| 2 * ELEMENT + a.reason.len() + a.number.len() + a.by.len())
                .sum(),
            Write::Connector(_, _, connector) => {
                let fault = connector.reported.as_ref().and_then(|r| r.fault.as_deref());
                let sets = connector.open.len() + connector.standing_stops.len();
                sets * ELEMENT + fault.map_or(0, |fault| fault.raw.len())
            }
            Write::ChargePoint(_, cp) => {
                let plug = |spec: &ConnectorSpec| spec.plug.as_ref().map_or(0, String::len);
                let specs = cp.connectors.iter().map(|spec| ELEMENT + plug(spec));
                specs.sum::<usize>() + cp.time_zone.len() + cp.version.len()
            }
            Write::Driver(_, driver) => {
                driver.open.len() * ELEMENT + driver.blocked.as_ref().map_or(0, String::len)
            }
            Write::Request(_, _, request) => match &request.answer {
                Answer::Done { detail, .. } => detail.len(),
                Answer::Refused {
                    what, cp, tariff, ..
                } => what.len() + cp.len() + tariff.as_ref().map_or(0, |_| EACH),
                Answer::Started { .. } | Answer::Stopping { .. } => 0,
            },
            Write::Forget(forget) => forget.sessions.len() * ELEMENT,
            Write::Enrolment(_, enrolment) => {
                let place = enrolment.place.as_ref();
                place.map_or(0, |place| place.time_zone.len())
            }
            Write::Spool(..) | Write::Tariff(_) | Write::TariffScope(..) => 0,
        });
        let evidence = self
            .evidence
            .iter()
            .map(|e| ELEMENT + e.why.len() + e.raw.len());
        let keys = self.expects.len() + self.writes.len() + 1;
        HEAD_BYTES_MAX + keys * EACH + writes.sum::<usize>() + evidence.sum::<usize>()
    }

    /// How many bytes it takes in a frame at most: alone in one.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let mut writer = Writer::new(UnixMs(0));
        self.put(&mut writer);
        writer.len() + HEAD_BYTES_MAX
    }
}

/// The numbers of keys, in the order of [`Key`].
mod number {
    pub const CONNECTOR: u8 = 0;
    pub const SESSION: u8 = 1;
    pub const ADJUSTMENTS: u8 = 2;
    pub const DRIVER: u8 = 3;
    pub const REQUEST: u8 = 4;
    pub const CHARGE_POINT: u8 = 5;
    pub const SPOOL: u8 = 6;
    pub const TARIFF: u8 = 7;
    pub const TARIFF_SCOPE: u8 = 8;
    pub const ENROLMENT: u8 = 9;
    pub const HORIZON: u8 = 10;
    /// What a key's number may have beside it: the key is written.
    pub const WRITTEN: u8 = 0x10;
    /// And: it is expected at a version, else it is expected to be absent.
    pub const VERSION: u8 = 0x20;
}

const UNKNOWN_KEY: Bad = Bad("it holds a key that this build does not know");

impl Key {
    const fn number(&self) -> u8 {
        match self {
            Self::Connector(..) => number::CONNECTOR,
            Self::Session(_) => number::SESSION,
            Self::Adjustments(_) => number::ADJUSTMENTS,
            Self::Driver(_) => number::DRIVER,
            Self::Request(..) => number::REQUEST,
            Self::ChargePoint(_) => number::CHARGE_POINT,
            Self::Spool(..) => number::SPOOL,
            Self::Tariff(_) => number::TARIFF,
            Self::TariffScope(_) => number::TARIFF_SCOPE,
            Self::Enrolment(_) => number::ENROLMENT,
            Self::Horizon => number::HORIZON,
        }
    }

    fn put(&self, w: &mut Writer) {
        match self {
            Self::Connector(cp, connector) => {
                cp.put(w);
                connector.put(w);
            }
            Self::Session(id) | Self::Adjustments(id) => id.put(w),
            Self::Driver(id) => id.put(w),
            Self::Request(asker, id) => {
                asker.put(w);
                id.put(w);
            }
            Self::ChargePoint(id) | Self::Enrolment(id) => id.put(w),
            Self::Spool(cp, epoch) => {
                cp.put(w);
                epoch.put(w);
            }
            Self::Tariff(id) => id.put(w),
            Self::TariffScope(scope) => scope.put(w),
            Self::Horizon => {}
        }
    }

    fn get(number: u8, r: &mut Reader<'_>) -> Got<Self> {
        Ok(match number {
            number::CONNECTOR => Self::Connector(Coded::get(r)?, Coded::get(r)?),
            number::SESSION => Self::Session(Coded::get(r)?),
            number::ADJUSTMENTS => Self::Adjustments(Coded::get(r)?),
            number::DRIVER => Self::Driver(Coded::get(r)?),
            number::REQUEST => Self::Request(Coded::get(r)?, Coded::get(r)?),
            number::CHARGE_POINT => Self::ChargePoint(Coded::get(r)?),
            number::SPOOL => Self::Spool(Coded::get(r)?, Coded::get(r)?),
            number::TARIFF => Self::Tariff(Coded::get(r)?),
            number::TARIFF_SCOPE => Self::TariffScope(Coded::get(r)?),
            number::ENROLMENT => Self::Enrolment(Coded::get(r)?),
            number::HORIZON => Self::Horizon,
            _ => return Err(UNKNOWN_KEY),
        })
    }
}

impl Write {
    /// The number of its key.
    const fn number(&self) -> u8 {
        match self {
            Self::Connector(..) => number::CONNECTOR,
            Self::Session(_) => number::SESSION,
            Self::Adjustments(..) => number::ADJUSTMENTS,
            Self::Driver(..) => number::DRIVER,
            Self::Request(..) => number::REQUEST,
            Self::ChargePoint(..) => number::CHARGE_POINT,
            Self::Spool(..) => number::SPOOL,
            Self::Tariff(_) => number::TARIFF,
            Self::TariffScope(..) => number::TARIFF_SCOPE,
            Self::Enrolment(..) => number::ENROLMENT,
            Self::Forget(_) => number::HORIZON,
        }
    }

    /// Key and value.
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Connector(cp, connector, value) => {
                cp.put(w);
                connector.put(w);
                value.put(w);
            }
            Self::Session(value) => value.put(w),
            Self::Adjustments(session, value) => {
                session.put(w);
                value.put(w);
            }
            Self::Driver(id, value) => {
                id.put(w);
                value.put(w);
            }
            Self::Request(asker, id, value) => {
                asker.put(w);
                id.put(w);
                value.put(w);
            }
            Self::ChargePoint(cp, value) => {
                cp.put(w);
                value.put(w);
            }
            Self::Spool(cp, epoch, value) => {
                cp.put(w);
                epoch.put(w);
                value.put(w);
            }
            Self::Tariff(tariff) => tariff.put(w),
            Self::TariffScope(scope, tariffs) => {
                scope.put(w);
                tariffs.put(w);
            }
            Self::Enrolment(cp, value) => {
                cp.put(w);
                value.put(w);
            }
            Self::Forget(forget) => forget.put(w),
        }
    }

    fn get(number: u8, r: &mut Reader<'_>) -> Got<Self> {
        Ok(match number {
            number::CONNECTOR => Self::Connector(Coded::get(r)?, Coded::get(r)?, Coded::get(r)?),
            number::SESSION => Self::Session(Coded::get(r)?),
            number::ADJUSTMENTS => Self::Adjustments(Coded::get(r)?, Coded::get(r)?),
            number::DRIVER => Self::Driver(Coded::get(r)?, Coded::get(r)?),
            number::REQUEST => Self::Request(Coded::get(r)?, Coded::get(r)?, Coded::get(r)?),
            number::CHARGE_POINT => Self::ChargePoint(Coded::get(r)?, Coded::get(r)?),
            number::SPOOL => Self::Spool(Coded::get(r)?, Coded::get(r)?, Coded::get(r)?),
            number::TARIFF => Self::Tariff(Coded::get(r)?),
            number::TARIFF_SCOPE => Self::TariffScope(Coded::get(r)?, Coded::get(r)?),
            number::ENROLMENT => Self::Enrolment(Coded::get(r)?, Coded::get(r)?),
            number::HORIZON => Self::Forget(Coded::get(r)?),
            _ => return Err(UNKNOWN_KEY),
        })
    }
}

impl Coded for Record {
    fn put(&self, w: &mut Writer) {
        let Self {
            id,
            kind,
            expects,
            writes,
            evidence,
        } = self;
        id.put(w);
        kind.put(w);
        w.count(expects.len());
        // A decision writes its keys in their order, so that each is met among those expected.
        let mut writes = writes.iter().peekable();
        for (key, version) in expects {
            let write = writes.next_if(|write| write.is_of(key));
            let mut head = key.number();
            if write.is_some() {
                head |= number::WRITTEN;
            }
            if version.is_some() {
                head |= number::VERSION;
            }
            w.byte(head);
            match write {
                Some(write) => write.put(w),
                None => key.put(w),
            }
            if let Some(version) = version {
                version.put(w);
            }
        }
        w.count(writes.len());
        for write in writes {
            w.byte(write.number());
            write.put(w);
        }
        evidence.put(w);
    }

    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let id = Coded::get(r)?;
        let kind = Coded::get(r)?;
        let count = r.count()?;
        let mut expects = Vec::with_capacity(count.min(KEYS_RESERVED_MAX));
        let mut writes = Vec::with_capacity(count.min(KEYS_RESERVED_MAX));
        for _ in 0..count {
            let head = r.byte()?;
            let number = head & !(number::WRITTEN | number::VERSION);
            let key = if head & number::WRITTEN == 0 {
                Key::get(number, r)?
            } else {
                let write = Write::get(number, r)?;
                let key = write.key();
                writes.push(write);
                key
            };
            let version = if head & number::VERSION == 0 {
                None
            } else {
                Some(Coded::get(r)?)
            };
            if expects.last().is_some_and(|(last, _)| *last >= key) {
                return Err(Bad("its keys are not in order"));
            }
            expects.push((key, version));
        }
        for _ in 0..r.count()? {
            let number = r.byte()?;
            writes.push(Write::get(number, r)?);
        }
        writes.shrink_to_fit();
        Ok(Self {
            id,
            kind,
            expects: Expects(expects),
            writes,
            evidence: Coded::get(r)?,
        })
    }
}

/// Most keys of a record that are reserved before they were read. A start has nine.
const KEYS_RESERVED_MAX: usize = 12;
