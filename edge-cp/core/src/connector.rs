//! What a connector is, apart from what its session does.

use ev_contract::{
    codes::Code,
    connector::{ConnectorFacts, ConnectorState, Fault, FaultEffect, Service, connector_state},
    ids::ConnectorId,
    time::UnixMs,
    units::MilliAmp,
    v1::{ConnectorSpec, EdgeFact, Reading},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Stamp,
    hardware::{DeviceTx, HwPhase},
    mend::Shift,
    session::{Deadline, Session},
    transactions::{Unclaimed, UnmatchedEnd},
};

/// A connector.
#[derive(Debug, Clone)]
pub struct Connector {
    /// What it can do.
    pub spec: ConnectorSpec,
    /// What is stored of it.
    pub row: ConnectorRow,
    /// The open session on it.
    pub session: Option<Session>,
    /// Device transactions without a session.
    pub unclaimed: Vec<Unclaimed>,
    /// The latest reading, and when it was taken by the monotonic clock.
    pub reading: Option<(Reading, i64)>,
    /// What the device last said of the energy, in which transaction and when by its clock: it may
    /// say so before it says that the transaction has begun.
    pub(crate) phase: Option<(Option<DeviceTx>, HwPhase, UnixMs)>,
    /// Ends that belong to no transaction that is known; it may be on its way.
    pub(crate) unmatched: Vec<UnmatchedEnd>,
    /// The last of them that was told.
    pub(crate) told_unmatched: Option<(DeviceTx, UnixMs)>,
    /// When the plug, the fault and the service were last reported, by the monotonic clock: what is
    /// older is passed over.
    pub(crate) plug_mono_ms: Option<i64>,
    pub(crate) fault_mono_ms: Option<i64>,
    pub(crate) service_mono_ms: Option<i64>,
    /// The last record of it.
    pub(crate) recorded: Option<EdgeFact>,
    /// The row as it was last written.
    pub(crate) saved: ConnectorRow,
    /// The session has changed since it was last written.
    pub(crate) touched: bool,
}

/// A connector as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorRow {
    /// Which.
    pub connector: ConnectorId,
    /// A car is plugged in.
    pub plugged: bool,
    /// A session has ended here since.
    pub ended_since_plug: bool,
    /// Whether it shall serve drivers.
    pub service: Service,
    /// The operator's revision of that.
    pub service_revision: u64,
    /// Whether the hardware itself serves.
    pub hardware_in_service: bool,
    /// A fault that has not cleared.
    pub fault: Option<Fault>,
    /// A bound of the current.
    pub limit: Option<CurrentLimit>,
    /// What it can do, as it was last configured.
    pub spec: Option<ConnectorSpec>,
}

/// A bound of the current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentLimit {
    /// The most current until then.
    pub max_ma: MilliAmp,
    /// On so many phases.
    pub phases: Option<u8>,
    /// Until when.
    pub until: Deadline,
    /// The most current after that.
    pub fallback_ma: MilliAmp,
    /// That has come.
    pub fallen_back: bool,
}

impl CurrentLimit {
    /// The bound in force.
    #[must_use]
    pub const fn in_force(&self) -> MilliAmp {
        if self.fallen_back {
            self.fallback_ma
        } else {
            self.max_ma
        }
    }
}

impl ConnectorRow {
    /// One of which nothing is known.
    #[must_use]
    pub const fn new(connector: ConnectorId) -> Self {
        Self {
            connector,
            plugged: false,
            ended_since_plug: false,
            service: Service::In,
            service_revision: 0,
            hardware_in_service: true,
            fault: None,
            limit: None,
            spec: None,
        }
    }
}

impl Connector {
    /// One as the store has it.
    #[must_use]
    pub fn new(spec: ConnectorSpec, row: ConnectorRow) -> Self {
        Self {
            saved: row.clone(),
            spec,
            row,
            session: None,
            unclaimed: Vec::new(),
            reading: None,
            phase: None,
            unmatched: Vec::new(),
            told_unmatched: None,
            plug_mono_ms: None,
            fault_mono_ms: None,
            service_mono_ms: None,
            recorded: None,
            touched: false,
        }
    }

    /// One that is no longer configured and still has a session. It takes no other.
    #[must_use]
    pub fn orphaned(row: ConnectorRow) -> Self {
        let spec = row.spec.clone().unwrap_or(ConnectorSpec {
            connector: row.connector,
            max_ma: MilliAmp(0),
            phases: 1,
            volts: 230,
            plug: None,
        });
        let mut orphan = Self::new(spec, row);
        orphan.row.service = Service::OutAfterSession;
        orphan
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> ConnectorId {
        self.spec.connector
    }

    /// Whether it serves drivers, by operator and hardware together.
    #[must_use]
    pub const fn service(&self) -> Service {
        if self.row.hardware_in_service {
            self.row.service
        } else {
            match self.row.service {
                Service::OutAfterSession => Service::OutAfterSession,
                Service::In | Service::Out | Service::Unrecognised => Service::Out,
            }
        }
    }

    /// Its state, by the contract's one rule.
    #[must_use]
    pub fn state(&self) -> ConnectorState {
        connector_state(&ConnectorFacts {
            plugged: self.row.plugged,
            service: self.service(),
            fault: self.row.fault.as_ref(),
            reserved: false,
            session: self.session.as_ref().map(Session::phase),
            ended_since_plug: self.row.ended_since_plug,
        })
    }

    /// Why no session can begin here, if none can.
    #[must_use]
    pub fn refusal(&self, charger_online: bool) -> Option<Code> {
        if let Some(session) = &self.session {
            return Some(if session.from_central() {
                Code::Occupied
            } else {
                Code::OccupiedLocally
            });
        }
        if !charger_online {
            return Some(Code::ChargerOffline);
        }
        let broken = self
            .row
            .fault
            .as_ref()
            .is_some_and(|f| f.effect != FaultEffect::Warning);
        if broken {
            return Some(Code::Faulted);
        }
        match self.service() {
            Service::Out | Service::OutAfterSession => Some(Code::OutOfService),
            Service::In | Service::Unrecognised => None,
        }
    }

    /// Writes down what is used up of its times, with whatever else is written, or because much is.
    pub(crate) fn mark_times(&mut self, stamp: &Stamp) {
        let is_written = self.row != self.saved;
        if let Some(limit) = &mut self.row.limit
            && (is_written || limit.until.is_mark_due(stamp))
        {
            limit.until.mark(stamp);
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let mut is_due = self.touched;
        session.each_time(&mut |time| is_due |= time.is_mark_due(stamp));
        if is_due {
            session.each_time(&mut |time| time.mark(stamp));
            self.touched = true;
        }
    }

    /// Makes its times exact where that has become possible.
    pub(crate) fn settle_times(&mut self, stamp: &Stamp) {
        if let Some(limit) = &mut self.row.limit {
            limit.until.settle(stamp);
        }
        if let Some(session) = &mut self.session {
            session.each_time(&mut |time| time.settle(stamp));
        }
    }

    /// Moves what this process dated by the host's own clock.
    pub(crate) fn shift(&mut self, shift: &Shift) {
        if let Some((reading, _)) = &mut self.reading {
            shift.reading(reading);
        }
        for waiting in &mut self.unclaimed {
            waiting.meter.shift(shift);
        }
        if let Some(session) = &mut self.session {
            self.touched |= session.shift(shift);
        }
    }

    /// Its record.
    #[must_use]
    pub fn fact(&self, charger_online: bool) -> EdgeFact {
        EdgeFact::Connector {
            connector: self.id(),
            plugged: self.row.plugged,
            service: self.service(),
            service_revision: self.row.service_revision,
            fault: self.row.fault.clone(),
            charger_online,
            ended_since_plug: self.row.ended_since_plug,
        }
    }
}

/// Whether a fact at `mono_ms` is news; if so, it is remembered as the latest.
pub(crate) fn is_news(latest: &mut Option<i64>, mono_ms: i64) -> bool {
    if latest.is_some_and(|l| mono_ms < l) {
        return false;
    }
    *latest = Some(mono_ms);
    true
}
