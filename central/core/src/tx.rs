//! A decision under way. Whatever it reads or writes is noted with its version, so that no key can
//! be left out of `expects`.

use std::{cell::RefCell, sync::Arc};

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, RequestId, SessionId, TariffId},
    time::UnixMs,
    v1::{Tariff, TariffScope},
};
use hashbrown::HashMap;

use crate::{
    frame::{Evidence, Expects, Forget, Kind, Record, Write},
    keys::{Asker, EventId, Key},
    model::{
        Adjustments, ChargePoint, Connector, Driver, Enrolment, Horizon, Request, ScopeTariffs,
        Session, Spool,
    },
    state::State,
};

/// The applied state and, over it, what the frame that is being filled will write.
#[derive(Debug)]
pub struct Overlay<'a> {
    base: &'a State,
    over: HashMap<Key, (EventId, Write)>,
    /// What the last decision had its keys in, for the next one.
    spare: RefCell<Vec<Touched>>,
}

impl<'a> Overlay<'a> {
    /// Nothing but the applied state.
    #[must_use]
    pub fn new(base: &'a State) -> Self {
        Self {
            base,
            over: HashMap::default(),
            spare: RefCell::default(),
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

/// A key that a decision read or writes.
#[derive(Debug)]
struct Touched {
    key: Key,
    /// The version that was seen.
    version: Option<EventId>,
    write: Option<Write>,
}

/// A decision under way.
#[derive(Debug)]
pub struct Tx<'o, 'a> {
    overlay: &'o Overlay<'a>,
    /// In the order of keys.
    touched: Vec<Touched>,
    evidence: Vec<Evidence>,
    leaned_on_frame: bool,
    wrote: bool,
}

macro_rules! reads {
    ($($(#[$meta:meta])* $name:ident($($arg:ident: $type:ty),*) -> $value:ty:
        $key:expr, $pattern:pat => $picked:expr, $base:expr;)+) => {$(
        $(#[$meta])*
        pub fn $name(&mut self, $($arg: $type),*) -> Option<$value> {
            let key = $key;
            let at = self.find(&key);
            if let Ok(at) = at
                && let Some(write) = &self.touched[at].write
            {
                return match write { $pattern => Some($picked.clone()), _ => None };
            }
            if let Some((version, write)) = self.overlay.over.get(&key) {
                let picked = match write { $pattern => Some($picked.clone()), _ => None };
                self.leaned_on_frame = true;
                self.expect(at, key, Some(*version));
                return picked;
            }
            let entry = $base(self.overlay.base);
            self.expect(at, key, entry.map(|e| e.version));
            entry.map(|e| e.value.clone())
        }
    )+};
}

impl<'o, 'a> Tx<'o, 'a> {
    /// Begins a decision.
    #[must_use]
    pub fn new(overlay: &'o Overlay<'a>) -> Self {
        Self {
            overlay,
            touched: overlay.spare.take(),
            evidence: Vec::new(),
            leaned_on_frame: false,
            wrote: false,
        }
    }

    fn find(&self, key: &Key) -> Result<usize, usize> {
        self.touched.binary_search_by(|there| there.key.cmp(key))
    }

    /// Notes the version of a key that was read; `at` is where it is, or would be.
    fn expect(&mut self, at: Result<usize, usize>, key: Key, version: Option<EventId>) {
        if let Err(at) = at {
            let write = None;
            self.touched.insert(
                at,
                Touched {
                    key,
                    version,
                    write,
                },
            );
        }
    }

    reads! {
        /// A connector.
        connector(cp: &CpId, id: ConnectorId) -> Arc<Connector>:
            Key::Connector(cp.clone(), id), Write::Connector(_, _, v) => v,
            |s: &'a State| s.connector_at(cp, id);
        /// A session.
        session(id: SessionId) -> Arc<Session>:
            Key::Session(id), Write::Session(v) => v, |s: &'a State| s.session(id);
        /// The adjustments to a session.
        adjustments(id: SessionId) -> Arc<Adjustments>:
            Key::Adjustments(id), Write::Adjustments(_, v) => v, |s: &'a State| s.adjustments(id);
        /// A driver.
        driver(id: &DriverId) -> Driver:
            Key::Driver(id.clone()), Write::Driver(_, v) => v, |s: &'a State| s.driver(id);
        /// A request.
        request(asker: &Asker, id: &RequestId) -> Arc<Request>:
            Key::Request(asker.clone(), id.clone()), Write::Request(_, _, v) => v,
            |s: &'a State| s.request_of(asker, id);
        /// A charge point.
        charge_point(id: &CpId) -> Arc<ChargePoint>:
            Key::ChargePoint(id.clone()), Write::ChargePoint(_, v) => v,
            |s: &'a State| s.charge_point(id);
        /// What was announced of a charge point's credential.
        enrolment(id: &CpId) -> Enrolment:
            Key::Enrolment(id.clone()), Write::Enrolment(_, v) => v,
            |s: &'a State| s.enrolment(id);
        /// A spool.
        spool(cp: &CpId, epoch: &Epoch) -> Spool:
            Key::Spool(cp.clone(), epoch.clone()), Write::Spool(_, _, v) => v,
            |s: &'a State| s.spool_at(cp, epoch);
        /// A tariff's newest version.
        tariff(id: &TariffId) -> Arc<Tariff>:
            Key::Tariff(id.clone()), Write::Tariff(v) => v, |s: &'a State| s.tariff(id);
        /// The tariffs of a scope.
        tariff_scope(scope: &TariffScope) -> Arc<ScopeTariffs>:
            Key::TariffScope(scope.clone()), Write::TariffScope(_, v) => v,
            |s: &'a State| s.tariff_scope(scope);
    }

    /// A connector as it is, to be changed; as one that nothing was ever said of when it is new.
    pub fn connector_to_change(&mut self, cp: &CpId, id: ConnectorId) -> Connector {
        self.connector(cp, id)
            .map(Arc::unwrap_or_clone)
            .unwrap_or_default()
    }

    /// Up to when requests may have been forgotten. Every record that answers a request reads it.
    pub fn horizon(&mut self) -> UnixMs {
        let at = self.find(&Key::Horizon);
        if let Some((version, Write::Forget(forget))) = self.overlay.over.get(&Key::Horizon) {
            self.leaned_on_frame = true;
            self.expect(at, Key::Horizon, Some(*version));
            return forget.horizon.until;
        }
        let entry = self.overlay.base.horizon();
        self.expect(at, Key::Horizon, entry.map(|e| e.version));
        entry.map_or(Horizon::default().until, |e| e.value.until)
    }

    /// Writes a key. What was not read is expected as it stands all the same.
    pub fn put(&mut self, write: Write) {
        self.wrote = true;
        let key = write.key();
        match self.find(&key) {
            Ok(at) => self.touched[at].write = Some(write),
            Err(at) => {
                let version = match self.overlay.over.get(&key) {
                    Some((version, _)) => {
                        self.leaned_on_frame = true;
                        Some(*version)
                    }
                    None => self.overlay.base.version(&key),
                };
                let write = Some(write);
                self.touched.insert(
                    at,
                    Touched {
                        key,
                        version,
                        write,
                    },
                );
            }
        }
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
        self.find(key)
            .is_ok_and(|at| self.touched[at].write.is_some())
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
    pub fn record(mut self, id: EventId, kind: Kind) -> Option<Record> {
        if !self.wrote {
            return None;
        }
        let written = self.touched.iter().filter(|t| t.write.is_some()).count();
        let mut expects = Vec::with_capacity(self.touched.len());
        let mut writes = Vec::with_capacity(written);
        for Touched {
            key,
            version,
            write,
        } in self.touched.drain(..)
        {
            expects.push((key, version));
            writes.extend(write);
        }
        self.overlay.spare.replace(self.touched);
        Some(Record {
            id,
            kind,
            expects: Expects::in_order(expects),
            writes,
            evidence: self.evidence,
        })
    }
}
