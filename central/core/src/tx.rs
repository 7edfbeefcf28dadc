//! A decision under way. Whatever it reads or writes is noted with its version, so that no key can
//! be left out of `expects`.

use std::collections::BTreeMap;

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, RequestId, SessionId, TariffId},
    time::UnixMs,
    v1::{Tariff, TariffScope},
};

use crate::{
    frame::{Evidence, Forget, Kind, Record, Write},
    keys::{Asker, EventId, Key},
    model::{
        Adjustments, ChargePoint, Connector, Driver, Enrolment, Horizon, Request, Session, Spool,
    },
    state::State,
};

/// The applied state and, over it, what the frame that is being filled will write.
#[derive(Debug)]
pub struct Overlay<'a> {
    base: &'a State,
    over: BTreeMap<Key, (EventId, Write)>,
}

impl<'a> Overlay<'a> {
    /// Nothing but the applied state.
    #[must_use]
    pub const fn new(base: &'a State) -> Self {
        Self {
            base,
            over: BTreeMap::new(),
        }
    }

    /// The applied state.
    #[must_use]
    pub const fn base(&self) -> &'a State {
        self.base
    }

    /// Takes a record of the frame as if it were applied.
    pub fn push(&mut self, record: &Record) {
        for write in &record.writes {
            self.over.insert(write.key(), (record.id, write.clone()));
        }
    }
}

/// A decision under way.
#[derive(Debug)]
pub struct Tx<'o, 'a> {
    overlay: &'o Overlay<'a>,
    expects: BTreeMap<Key, Option<EventId>>,
    writes: BTreeMap<Key, Write>,
    evidence: Vec<Evidence>,
    leaned_on_frame: bool,
}

macro_rules! reads {
    ($($(#[$meta:meta])* $name:ident($($arg:ident: $type:ty),*) -> $value:ty:
        $key:expr, $pattern:pat => $picked:expr, $base:expr;)+) => {$(
        $(#[$meta])*
        pub fn $name(&mut self, $($arg: $type),*) -> Option<$value> {
            let key = $key;
            if let Some(write) = self.writes.get(&key) {
                return match write { $pattern => Some($picked.clone()), _ => None };
            }
            if let Some((version, write)) = self.overlay.over.get(&key) {
                let picked = match write { $pattern => Some($picked.clone()), _ => None };
                self.leaned_on_frame = true;
                self.expects.insert(key, Some(*version));
                return picked;
            }
            let base = self.overlay.base;
            let entry = $base(base);
            self.expects.insert(key, entry.map(|e| e.version));
            entry.map(|e| e.value.clone())
        }
    )+};
}

impl<'o, 'a> Tx<'o, 'a> {
    /// Begins a decision.
    #[must_use]
    pub const fn new(overlay: &'o Overlay<'a>) -> Self {
        Self {
            overlay,
            expects: BTreeMap::new(),
            writes: BTreeMap::new(),
            evidence: Vec::new(),
            leaned_on_frame: false,
        }
    }

    reads! {
        /// A connector.
        connector(cp: &CpId, id: ConnectorId) -> Connector:
            Key::Connector(cp.clone(), id), Write::Connector(_, _, v) => v,
            |s: &'a State| s.connector(&(cp.clone(), id));
        /// A session.
        session(id: SessionId) -> Session:
            Key::Session(id), Write::Session(v) => **v, |s: &'a State| s.session(id);
        /// The adjustments to a session.
        adjustments(id: SessionId) -> Adjustments:
            Key::Adjustments(id), Write::Adjustments(_, v) => v, |s: &'a State| s.adjustments(id);
        /// A driver.
        driver(id: &DriverId) -> Driver:
            Key::Driver(id.clone()), Write::Driver(_, v) => v, |s: &'a State| s.driver(id);
        /// A request.
        request(asker: &Asker, id: &RequestId) -> Request:
            Key::Request(asker.clone(), id.clone()), Write::Request(_, _, v) => v,
            |s: &'a State| s.request(&(asker.clone(), id.clone()));
        /// A charge point.
        charge_point(id: &CpId) -> ChargePoint:
            Key::ChargePoint(id.clone()), Write::ChargePoint(_, v) => v,
            |s: &'a State| s.charge_point(id);
        /// What was announced of a charge point's credential.
        enrolment(id: &CpId) -> Enrolment:
            Key::Enrolment(id.clone()), Write::Enrolment(_, v) => v,
            |s: &'a State| s.enrolment(id);
        /// A spool.
        spool(cp: &CpId, epoch: &Epoch) -> Spool:
            Key::Spool(cp.clone(), epoch.clone()), Write::Spool(_, _, v) => v,
            |s: &'a State| s.spool(&(cp.clone(), epoch.clone()));
        /// A tariff's newest version.
        tariff(id: &TariffId) -> Tariff:
            Key::Tariff(id.clone()), Write::Tariff(v) => v, |s: &'a State| s.tariff(id);
        /// The tariff of a scope.
        tariff_scope(scope: &TariffScope) -> Tariff:
            Key::TariffScope(scope.clone()), Write::TariffScope(_, v) => v,
            |s: &'a State| s.tariff_scope(scope);
    }

    /// Up to when requests may have been forgotten. Every record that answers a request reads it.
    pub fn horizon(&mut self) -> UnixMs {
        if let Some((version, Write::Forget(forget))) = self.overlay.over.get(&Key::Horizon) {
            self.leaned_on_frame = true;
            self.expects.insert(Key::Horizon, Some(*version));
            return forget.horizon.until;
        }
        let entry = self.overlay.base.horizon();
        self.expects.insert(Key::Horizon, entry.map(|e| e.version));
        entry.map_or(Horizon::default().until, |e| e.value.until)
    }

    /// Writes a key. What was not read is expected as it stands all the same.
    pub fn put(&mut self, write: Write) {
        let key = write.key();
        if !self.expects.contains_key(&key) {
            let version = match self.overlay.over.get(&key) {
                Some((version, _)) => {
                    self.leaned_on_frame = true;
                    Some(*version)
                }
                None => self.overlay.base.version(&key),
            };
            self.expects.insert(key.clone(), version);
        }
        self.writes.insert(key, write);
    }

    /// Removes old things; see [`Forget`].
    pub fn forget(&mut self, forget: Forget) {
        self.horizon();
        self.put(Write::Forget(forget));
    }

    /// Keeps what could not be used.
    pub fn keep(&mut self, evidence: Evidence) {
        self.evidence.push(evidence);
    }

    /// Whether a key has been written in this decision.
    #[must_use]
    pub fn wrote(&self, key: &Key) -> bool {
        self.writes.contains_key(key)
    }

    /// The state without this decision or its frame: for what is derived and needs no version.
    #[must_use]
    pub const fn base(&self) -> &'a State {
        self.overlay.base
    }

    /// Whether anything was read that the frame being filled has yet to write.
    #[must_use]
    pub const fn leaned_on_frame(&self) -> bool {
        self.leaned_on_frame
    }

    /// The finished record; none when nothing is written.
    #[must_use]
    pub fn record(self, id: EventId, kind: Kind) -> Option<Record> {
        if self.writes.is_empty() {
            return None;
        }
        Some(Record {
            id,
            kind,
            expects: self.expects,
            writes: self.writes.into_values().collect(),
            evidence: self.evidence,
        })
    }
}
