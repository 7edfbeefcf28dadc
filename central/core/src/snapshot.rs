//! The state as bytes, so that a restart reads a bounded rest of the ledger. Written as frames are
//! (see [`crate::codec`]), everything in order: replicas that are at the same position write the same
//! bytes.

use std::{collections::BTreeMap, sync::Arc};

use ev_contract::{
    ids::{CpId, DriverId, SessionId, TariffId},
    time::UnixMs,
    v1::{Tariff, TariffScope},
};
use uuid::Uuid;

use crate::{
    codec::{Bad, Coded, Got, Kept, Reader, Writer},
    frame::{Basis, CHECK_BYTES, check, seal},
    model::{Adjustments, Horizon, Request, ScopeTariffs, Session},
    state::{Cabinet, Entry, Few, Person, RequestKey, State},
    whole::LedgerId,
};

/// What a snapshot begins with; the digit is the version of the format. A build that does not know
/// it passes the snapshot over, and stops at the first frame that it cannot read.
pub const MAGIC: &[u8; 4] = b"EVS4";

/// Bytes that are no snapshot which this build can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no snapshot of this format: {0}")]
pub struct UnreadableSnapshot(&'static str);

/// A state that no longer changes, to be written beside the one that does. What both have is in
/// memory once.
#[derive(Debug)]
pub struct Frozen {
    basis: Basis,
    ledger: Option<LedgerId>,
    cabinets: Vec<(CpId, Arc<Cabinet>)>,
    sessions: Vec<Entry<Arc<Session>>>,
    adjustments: BTreeMap<SessionId, Entry<Arc<Adjustments>>>,
    people: Vec<(DriverId, Arc<Person>)>,
    requests: Vec<(RequestKey, Entry<Arc<Request>>)>,
    tariffs: BTreeMap<TariffId, Entry<Arc<Tariff>>>,
    tariff_scopes: BTreeMap<TariffScope, Entry<Arc<ScopeTariffs>>>,
    horizon: Option<Entry<Horizon>>,
}

impl State {
    /// What a snapshot is written from. Takes a few hundredths of a microsecond for each value: what
    /// takes longer is left for [`Frozen::encode`], which may run elsewhere.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let pair = |(id, value): (&CpId, &Arc<Cabinet>)| (id.clone(), Arc::clone(value));
        Frozen {
            basis: self.basis,
            ledger: self.ledger,
            cabinets: self.cabinets.iter().map(pair).collect(),
            sessions: self.sessions.values().cloned().collect(),
            adjustments: self.adjustments.clone(),
            people: self
                .people
                .iter()
                .map(|(id, person)| (id.clone(), Arc::clone(person)))
                .collect(),
            requests: self
                .requests
                .iter()
                .map(|(key, entry)| (key.clone(), entry.clone()))
                .collect(),
            tariffs: self.tariffs.clone(),
            tariff_scopes: self.tariff_scopes.clone(),
            horizon: self.horizon.clone(),
        }
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// When the bytes are none of this format, or were changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, UnreadableSnapshot> {
        let rest = bytes
            .strip_prefix(MAGIC)
            .ok_or(UnreadableSnapshot("it begins otherwise"))?;
        match rest.split_first_chunk::<CHECK_BYTES>() {
            Some((found, rest)) if *found == check(rest) => {
                Self::get(&mut Reader::new(rest, &mut Kept::default()))
                    .map_err(|Bad(why)| UnreadableSnapshot(why))
            }
            Some(_) | None => Err(UnreadableSnapshot("it was changed or cut off")),
        }
    }

    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let basis = Basis::get(r)?;
        let ledger = Coded::get(r)?;
        let base = UnixMs::get(r)?;
        r.set_base(base);
        let mut state = Self::at(basis, ledger);
        for _ in 0..r.count()? {
            state.load_cabinet(Coded::get(r)?, Coded::get(r)?);
        }
        for _ in 0..r.count()? {
            state.load_session(Coded::get(r)?);
        }
        state.adjustments = get_map(r)?;
        for _ in 0..r.count()? {
            state.load_driver(Coded::get(r)?, Coded::get(r)?);
        }
        for _ in 0..r.count()? {
            state.requests.insert(Coded::get(r)?, Coded::get(r)?);
        }
        state.tariffs = get_map(r)?;
        state.tariff_scopes = get_map(r)?;
        state.horizon = Coded::get(r)?;
        r.end()?;
        Ok(state)
    }
}

impl Frozen {
    /// At which position of the ledger it is.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.basis.seq
    }

    /// The bytes of the snapshot.
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        self.cabinets.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.sessions.sort_unstable_by_key(|e| e.value.id);
        self.people.retain(|(_, person)| person.driver.is_some());
        self.people.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.requests.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let newest = self.sessions.last().map(|e| e.value.accepted_at);
        let base = newest.unwrap_or_default();
        let mut w = Writer::new(UnixMs(0));
        w.raw(MAGIC);
        w.raw(&[0; CHECK_BYTES]);
        self.basis.put(&mut w);
        self.ledger.put(&mut w);
        base.put(&mut w);
        w.set_base(base);
        self.cabinets.put(&mut w);
        self.sessions.put(&mut w);
        put_map(&self.adjustments, &mut w);
        w.count(self.people.len());
        for (id, person) in &self.people {
            if let Some(driver) = &person.driver {
                id.put(&mut w);
                driver.put(&mut w);
            }
        }
        self.requests.put(&mut w);
        put_map(&self.tariffs, &mut w);
        put_map(&self.tariff_scopes, &mut w);
        self.horizon.put(&mut w);
        let mut bytes = w.into_bytes();
        seal(&mut bytes);
        bytes
    }
}

fn put_map<K: Coded, V: Coded>(map: &BTreeMap<K, V>, w: &mut Writer) {
    w.count(map.len());
    for (key, value) in map {
        key.put(w);
        value.put(w);
    }
}

fn get_map<K: Coded + Ord, V: Coded>(r: &mut Reader<'_>) -> Got<BTreeMap<K, V>> {
    (0..r.count()?)
        .map(|_| Ok((K::get(r)?, V::get(r)?)))
        .collect()
}

impl Coded for LedgerId {
    fn put(&self, w: &mut Writer) {
        w.raw(self.0.as_bytes());
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.array().map(|bytes| Self(Uuid::from_bytes(bytes)))
    }
}

impl<T: Coded> Coded for Entry<T> {
    fn put(&self, w: &mut Writer) {
        let Self {
            value,
            version,
            pos,
            prev,
        } = self;
        value.put(w);
        version.put(w);
        pos.put(w);
        w.signed(pos.wrapping_sub(*prev).cast_signed());
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let value = Coded::get(r)?;
        let version = Coded::get(r)?;
        let pos = u64::get(r)?;
        Ok(Self {
            value,
            version,
            pos,
            prev: pos.wrapping_sub(r.signed()?.cast_unsigned()),
        })
    }
}

impl<T: Coded> Coded for Few<T> {
    fn put(&self, w: &mut Writer) {
        w.list(self.as_slice());
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.list().map(Self::from)
    }
}

impl Coded for Cabinet {
    fn put(&self, w: &mut Writer) {
        let Self {
            present,
            enrolment,
            connectors,
            spools,
        } = self;
        present.put(w);
        enrolment.put(w);
        connectors.put(w);
        spools.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let cabinet = Self {
            present: Coded::get(r)?,
            enrolment: Coded::get(r)?,
            connectors: Coded::get(r)?,
            spools: Coded::get(r)?,
        };
        let (connectors, spools) = (cabinet.connectors.as_slice(), cabinet.spools.as_slice());
        if connectors.is_sorted_by(|(a, _), (b, _)| a < b)
            && spools.is_sorted_by(|(a, _), (b, _)| a < b)
        {
            Ok(cabinet)
        } else {
            Err(Bad("what a charge point has is not in order"))
        }
    }
}
