//! The values behind the keys.

use std::{collections::BTreeSet, fmt, sync::Arc};

use ev_contract::{
    codes::Code,
    connector::{ConnectorFacts, ConnectorState, Fault, Phase, Service, connector_state},
    ids::{BootId, ConnectorId, CpId, DriverId, Epoch, RequestId, SessionId, SiteId},
    limits::{SITE_DEFAULT, TIME_ZONE_DEFAULT},
    time::UnixMs,
    units::{Amount, MilliWatt, Mwh},
    v1::{
        Adjustment, Boot, ConnectorSpec, EndReason, Flag, Limits, MeterSpan, Origin, Period,
        Receipt, ReceiptLine, Status, Tariff, TaxLine,
    },
    wire::Tag,
};

use crate::keys::Asker;

/// A charge point as the agent that is obeyed presented itself in its last `sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargePoint {
    /// Its site.
    pub site: SiteId,
    /// The site's IANA time zone.
    pub time_zone: Arc<str>,
    /// What it has.
    pub connectors: Arc<[ConnectorSpec]>,
    /// The agent's version.
    pub version: Arc<str>,
    /// The epoch of its spool. Acceptance pins it.
    pub epoch: Epoch,
    /// The start of its agent that is obeyed: commands are addressed to it, and only its word counts.
    pub boot: Boot,
    /// The last agent with this identity that was not obeyed.
    pub other: Option<Box<OtherAgent>>,
}

/// An agent that presented itself as a charge point while another one was obeyed: it has a copy of the
/// store, an older one, or one that was in use before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherAgent {
    /// The epoch of its spool.
    pub epoch: Epoch,
    /// Its start.
    pub boot: Boot,
    /// When it first presented itself.
    pub at: UnixMs,
    /// Its records below this number are kept aside, word for word, as evidence in the ledger.
    pub next: u64,
    /// Records that were kept aside of all such agents of this charge point.
    pub kept: u64,
}

impl OtherAgent {
    /// Records that are kept aside of one charge point, until an operator has decided: some days of a
    /// busy cabinet. Further ones wait on the disk of their agent alone.
    pub const KEPT_MAX: u64 = 2_000;
}

impl ChargePoint {
    /// Whether a start of an agent with this store is the one that is obeyed.
    #[must_use]
    pub fn obeys(&self, epoch: &Epoch, boot: BootId) -> bool {
        self.epoch == *epoch && self.boot.id == boot
    }

    /// The specification of a connector.
    #[must_use]
    pub fn connector(&self, id: ConnectorId) -> Option<&ConnectorSpec> {
        self.connectors.iter().find(|c| c.connector == id)
    }
}

/// What was announced of a charge point's credential, before it ever presented itself or since.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Enrolment {
    /// When that was done, by the clock of whoever keeps the keys. A late copy of an earlier
    /// announcement changes nothing.
    pub at: UnixMs,
    /// The credentials are void.
    pub revoked: bool,
    /// The operator wants it out of service from the first: passed on to its connectors when it
    /// says which it has.
    pub out_of_service: bool,
    /// Where it stands; none while nobody has said so.
    pub place: Option<Place>,
    /// The most power that it was enrolled with.
    pub max_kw: Option<u32>,
}

/// Where a charge point stands, as an operator says or whoever enrolled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// When that was said. What was said earlier and is heard later changes nothing.
    pub at: UnixMs,
    /// The site.
    pub site: SiteId,
    /// Its IANA time zone.
    pub time_zone: Arc<str>,
}

impl Place {
    /// Of one that nobody has placed.
    #[must_use]
    pub fn unassigned() -> Option<Self> {
        Some(Self {
            at: UnixMs(0),
            site: SiteId::new(SITE_DEFAULT).ok()?,
            time_zone: Arc::from(TIME_ZONE_DEFAULT),
        })
    }
}

/// What a charge point last reported of a connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// A car is plugged in.
    pub plugged: bool,
    /// Whether it serves drivers.
    pub service: Service,
    /// Which of the operator's changes that obeys.
    pub service_revision: u64,
    /// A fault that has not cleared. In a box: there are many connectors, and few faults.
    pub fault: Option<Box<Fault>>,
    /// Whether the charger hardware answers its controller.
    pub charger_online: bool,
    /// A session has ended here since the car was plugged in.
    pub ended_since_plug: bool,
}

/// Sessions in order. Nearly always none or one, and there are many such sets.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SessionSet(Box<[SessionId]>);

impl SessionSet {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is among them.
    #[must_use]
    pub fn contains(&self, id: &SessionId) -> bool {
        self.0.binary_search(id).is_ok()
    }

    /// The oldest.
    #[must_use]
    pub fn first(&self) -> Option<&SessionId> {
        self.0.first()
    }

    /// Those that are in order and different.
    pub(crate) fn in_order(ids: Vec<SessionId>) -> Option<Self> {
        ids.is_sorted_by(|a, b| a < b)
            .then(|| Self(ids.into_boxed_slice()))
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, SessionId> {
        self.0.iter()
    }

    /// Adds one; `false` when it was there.
    pub fn insert(&mut self, id: SessionId) -> bool {
        let Err(at) = self.0.binary_search(&id) else {
            return false;
        };
        let (before, after) = self.0.split_at(at);
        self.0 = [before, &[id], after].concat().into_boxed_slice();
        true
    }

    /// Removes one; `false` when it was not there.
    pub fn remove(&mut self, id: &SessionId) -> bool {
        let Ok(at) = self.0.binary_search(id) else {
            return false;
        };
        let (before, after) = (&self.0[..at], &self.0[at + 1..]);
        self.0 = [before, after].concat().into_boxed_slice();
        true
    }
}

impl fmt::Debug for SessionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

impl<'s> IntoIterator for &'s SessionSet {
    type Item = &'s SessionId;
    type IntoIter = std::slice::Iter<'s, SessionId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<SessionId> for SessionSet {
    fn from_iter<I: IntoIterator<Item = SessionId>>(ids: I) -> Self {
        let ids: BTreeSet<_> = ids.into_iter().collect();
        Self(ids.into_iter().collect())
    }
}

/// A connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Open sessions. A set, since a local start may cross an accepted one.
    pub open: SessionSet,
    /// Sessions that were written off while the charge point may still have them: their stop
    /// stands until it says otherwise.
    pub standing_stops: SessionSet,
    /// Receipts so far: the next one's number is one more.
    pub receipts: u64,
    /// Whether the operator wants it to serve drivers.
    pub service: Service,
    /// Counts the operator's changes.
    pub service_revision: u64,
    /// The soonest at which it can have delivered all that was billed: no two sessions are billed for
    /// what flows in the same hour.
    pub busy_until: UnixMs,
    /// What was last reported; none before the first report.
    pub reported: Option<Reported>,
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            open: SessionSet::default(),
            standing_stops: SessionSet::default(),
            receipts: 0,
            service: Service::In,
            service_revision: 0,
            busy_until: UnixMs(0),
            reported: None,
        }
    }
}

impl Connector {
    /// Whether it serves drivers: the operator's wish and the charge point's word, the stricter.
    #[must_use]
    pub fn serves(&self) -> bool {
        let reported_in = self
            .reported
            .as_ref()
            .is_none_or(|r| r.service == Service::In || r.service_revision < self.service_revision);
        self.service == Service::In && reported_in
    }

    /// Its state with the given session on it.
    #[must_use]
    pub fn state(&self, session: Option<Phase>) -> ConnectorState {
        let reported = self.reported.as_ref();
        connector_state(&ConnectorFacts {
            plugged: reported.is_some_and(|r| r.plugged),
            service: if self.serves() {
                Service::In
            } else {
                Service::Out
            },
            fault: reported.and_then(|r| r.fault.as_deref()),
            reserved: false,
            session,
            ended_since_plug: reported.is_some_and(|r| r.ended_since_plug),
        })
    }
}

/// A driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Driver {
    /// Open sessions that count against the limit.
    pub open: SessionSet,
    /// Blocked, and why.
    pub blocked: Option<String>,
}

/// What a request was answered with. Texts are made from it anew, so that they may improve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A session was accepted.
    Started {
        /// Which.
        session: SessionId,
        /// Where.
        cp: CpId,
        /// On which connector.
        connector: ConnectorId,
    },
    /// A stop was accepted.
    Stopping {
        /// Which session.
        session: SessionId,
        /// Where.
        cp: CpId,
        /// On which connector.
        connector: ConnectorId,
    },
    /// An operator's change was made.
    Done {
        /// About which session, if any.
        session: Option<SessionId>,
        /// What was done, in words.
        detail: String,
    },
    /// Refused.
    Refused {
        /// With which code.
        code: Code,
        /// What it happened to; goes into the code's sentence.
        what: String,
        /// The asker's own session that is in the way or was meant.
        session: Option<SessionId>,
        /// The charge point as the asker named it, where it was named.
        cp: String,
        /// The price that applies, where another one was named.
        tariff: Option<Arc<Tariff>>,
    },
}

/// A request with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of the content, so that the same id with other content is seen.
    pub content: [u8; 16],
    /// The request's own `expires_at`. One that was refused for it may lie far ahead: then it is kept
    /// until the horizon has come so far. Of a stop, which is not judged by it, one near its decision.
    pub expires_at: UnixMs,
    /// What it was answered with.
    pub answer: Answer,
}

/// How far central is with a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// The next number that is wanted.
    pub next: u64,
    /// Records that could not be used; they are kept verbatim as evidence in the ledger.
    pub quarantined: u64,
    /// Records that the spool no longer had.
    pub missing: u64,
    /// What the agent itself found impossible.
    pub anomalies: u64,
    /// A fingerprint of record `next - 1`. A spool that has another one under this number is that of
    /// another store with the same epoch.
    pub last: Option<u32>,
    /// The latest time of a record whose clock was sure. Records are in order: what follows was not
    /// earlier. 0 before the first.
    pub heard: UnixMs,
    /// The day of the last evidence, counted from 1970 in UTC by central's clock.
    pub kept_on: u32,
    /// Bytes of evidence of that day; [`Spool::KEPT_BYTES_MAX`] once it is used up.
    pub kept_bytes: u32,
    /// The day on which it was first heard of, counted as above.
    pub opened_on: u32,
}

impl Spool {
    /// Evidence of one day. A meter that is odd in each of the day's 1,440 readings, some 500 bytes
    /// each, is kept in full; whoever floods a ledger of 64 GiB is at it for more than a century.
    pub const KEPT_BYTES_MAX: u32 = 1024 * 1024;

    /// New stores of one charge point in a day: a disk that is replaced, twice, and some more. Each is
    /// remembered for ever.
    pub const OPENED_PER_DAY_MAX: usize = 8;

    /// Of a time, counted from 1970 in UTC.
    pub(crate) fn day(at: UnixMs) -> u32 {
        const DAY_MS: i64 = 24 * 3_600 * 1_000;
        u32::try_from(at.0.div_euclid(DAY_MS)).unwrap_or(0)
    }

    /// Whether the allowance of evidence of the day is used up.
    #[must_use]
    pub fn keeps_no_more(&self, now: UnixMs) -> bool {
        Self::day(now) <= self.kept_on && self.kept_bytes == Self::KEPT_BYTES_MAX
    }

    /// Takes so much from the day's allowance of evidence; how it went.
    pub(crate) fn allow(&mut self, now: UnixMs, bytes: usize) -> Allowance {
        let day = Self::day(now);
        // A clock that was set back opens no day again.
        if day > self.kept_on {
            self.kept_on = day;
            self.kept_bytes = 0;
        }
        if self.keeps_no_more(now) {
            return Allowance::Gone;
        }
        let sum = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.kept_bytes.checked_add(bytes))
            .filter(|sum| *sum < Self::KEPT_BYTES_MAX);
        self.kept_bytes = sum.unwrap_or(Self::KEPT_BYTES_MAX);
        match sum {
            Some(_) => Allowance::Within,
            None => Allowance::UsedUp,
        }
    }
}

/// What is left of a day's evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// There was room.
    Within,
    /// Used up by this very piece.
    UsedUp,
    /// Used up before.
    Gone,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            next: 1,
            quarantined: 0,
            missing: 0,
            anomalies: 0,
            last: None,
            heard: UnixMs(0),
            kept_on: 0,
            kept_bytes: 0,
            opened_on: 0,
        }
    }
}

/// The adjustments to an ended session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adjustments {
    /// In order.
    pub list: Vec<Adjustment>,
    /// What the meter had counted at the last adjustment for a late record; the receipt's spans
    /// hold until then.
    pub meter: Option<MeterSpan>,
}

/// What applies in a scope: one version now, and others from their times on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScopeTariffs {
    /// What was set last, for at once; none where nothing was, or it was taken back.
    pub current: Option<Arc<Tariff>>,
    /// What applies in place of it from a time on. In order of times, all different.
    pub scheduled: Vec<(UnixMs, Arc<Tariff>)>,
}

impl ScopeTariffs {
    /// Most versions that are scheduled in one scope: two years of monthly prices.
    pub const SCHEDULED_MAX: usize = 24;

    /// What applies at a time.
    #[must_use]
    pub fn at(&self, now: UnixMs) -> Option<&Arc<Tariff>> {
        self.due(now)
            .last()
            .map(|(_, tariff)| tariff)
            .or(self.current.as_ref())
    }

    /// What is still to come at a time.
    #[must_use]
    pub fn to_come(&self, now: UnixMs) -> &[(UnixMs, Arc<Tariff>)] {
        &self.scheduled[self.due(now).len()..]
    }

    /// What was scheduled and whose time has come.
    fn due(&self, now: UnixMs) -> &[(UnixMs, Arc<Tariff>)] {
        let due = self.scheduled.partition_point(|(from, _)| *from <= now);
        &self.scheduled[..due]
    }

    /// Sets what applies at once. What is still to come stays.
    pub fn set(&mut self, now: UnixMs, tariff: Option<Arc<Tariff>>) {
        self.scheduled.drain(..self.due(now).len());
        self.current = tariff;
    }

    /// Forgets what a version that was due at a time has replaced.
    pub fn settle(&mut self, before: UnixMs) {
        if let Some(tariff) = self
            .due(before)
            .last()
            .map(|(_, tariff)| Arc::clone(tariff))
        {
            self.set(before, Some(tariff));
        }
    }

    /// Sets what applies from a time on, in place of what was to begin just then.
    pub fn schedule(&mut self, from: UnixMs, tariff: Arc<Tariff>) {
        match self.scheduled.binary_search_by_key(&from, |(at, _)| *at) {
            Ok(at) => self.scheduled[at].1 = tariff,
            Err(at) => self.scheduled.insert(at, (from, tariff)),
        }
    }
}

/// Up to when requests may have been forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Horizon {
    /// A request that is not known and expired at or before this is never decided.
    pub until: UnixMs,
}

/// An accepted stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOrder {
    /// Why and by whom.
    pub reason: EndReason,
    /// When.
    pub at: UnixMs,
}

/// What has been metered so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metering {
    /// When energy began.
    pub started_at: UnixMs,
    /// The device's own transaction.
    pub device_tx: String,
    /// What each meter counted. Never empty.
    pub spans: Vec<MeterSpan>,
    /// The time of the last reading that was used.
    pub last_at: UnixMs,
    /// Power at that time.
    pub power: Option<MilliWatt>,
    /// State of charge at that time.
    pub soc_pct: Option<u8>,
    /// Where each period began.
    pub periods: Vec<Period>,
    /// Milliseconds in which the car has stood in pauses that are over: what each took longer than
    /// the tariff allows.
    pub stood_ms: u64,
    /// The car draws nothing although it could.
    pub pause: Option<Pause>,
}

/// A stretch in which a car draws nothing although it could. All of its times are readings of a
/// clock that was sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When it began.
    pub since: UnixMs,
    /// What the register said then.
    pub register_mwh: Mwh,
}

/// What the end of a session added to it. All of it is fixed then, also what could be worked out
/// again: a receipt is never worked out anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// The receipt's number.
    pub number: String,
    /// Who sold the energy.
    pub operator: Arc<str>,
    /// `completed` or `failed`.
    pub status: Status,
    /// Why it ended.
    pub end: EndReason,
    /// When energy began, if it did.
    pub started_at: Option<UnixMs>,
    /// When energy ended, if it began.
    pub energy_ended_at: Option<UnixMs>,
    /// When the session ended.
    pub ended_at: UnixMs,
    /// When central learned of that.
    pub received_at: UnixMs,
    /// What the meters counted.
    pub meters: Vec<MeterSpan>,
    /// The sum of the spans.
    pub energy_mwh: Mwh,
    /// Seconds of standing, as the tariff counts it.
    pub idle_s: u32,
    /// One line per price component.
    pub lines: Vec<ReceiptLine>,
    /// The exact sum of the lines.
    pub exact: Amount,
    /// `total` without taxes.
    pub net: Amount,
    /// The taxes in `total`.
    pub taxes: Vec<TaxLine>,
    /// What is owed.
    pub total: Amount,
    /// How `total` was rounded, in words.
    pub rounding: Arc<str>,
    /// Where each period began.
    pub periods: Vec<Period>,
}

/// How far a session is; each stage owns what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Accepted by central; the charge point has not confirmed.
    Ordered,
    /// The charge point has it; no energy yet.
    Taken {
        /// `preparing`, or what the charge point said last.
        phase: Phase,
    },
    /// Energy has begun.
    Energy {
        /// `charging` or a kind of pause.
        phase: Phase,
        /// What was metered.
        meter: Metering,
    },
    /// Energy has ended, the plug is in.
    Standing {
        /// What was metered.
        meter: Metering,
        /// When energy ended.
        energy_ended_at: UnixMs,
        /// Why.
        reason: EndReason,
    },
    /// Ended. Never changes again.
    Ended {
        /// What its end added: with the session it makes the finished receipt.
        receipt: Box<Bill>,
    },
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The one id.
    pub id: SessionId,
    /// How it began.
    pub origin: Origin,
    /// Whose.
    pub driver: Option<DriverId>,
    /// The request that began it.
    pub request: Option<(Asker, RequestId)>,
    /// What was shown to the reader, in a local start.
    pub token: Option<String>,
    /// Where.
    pub cp: CpId,
    /// Which connector.
    pub connector: ConnectorId,
    /// Which site.
    pub site: SiteId,
    /// The site's time zone.
    pub time_zone: Arc<str>,
    /// The spool epoch that acceptance or opening is pinned to.
    pub epoch: Epoch,
    /// Pinned at acceptance.
    pub tariff: Arc<Tariff>,
    /// What the charge point enforces.
    pub limits: Limits,
    /// When central accepted it; for one that began at the charge point when that was, by its word.
    pub accepted_at: UnixMs,
    /// When central accepted it or learned of it. Every list is in this order, whatever is claimed.
    pub learned_at: UnixMs,
    /// Its energy cannot have flowed before: when central accepted it or, where it began at the charge
    /// point, had last heard of that, and not before what its connector delivered to others.
    pub flows_from: UnixMs,
    /// The start command's deadline.
    pub start_by: UnixMs,
    /// How long it may stand after energy has ended.
    pub idle_s_max: u32,
    /// How long the charge point waits for a plug.
    pub plug_wait_s: u32,
    /// How far it is.
    pub stage: Stage,
    /// An accepted stop.
    pub stop: Option<StopOrder>,
    /// Whether it counts against the driver's limit while open.
    pub counts: bool,
    /// What was odd so far.
    pub flags: BTreeSet<Flag>,
    /// Whether its updates are written in JSON, as the request was that began it.
    pub json: bool,
}

impl Session {
    /// Whether it has ended.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
    }

    /// How far it is, for people.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.stage {
            Stage::Ended { receipt } => match receipt.status {
                Status::Completed => Phase::Completed,
                Status::Failed
                | Status::Accepted
                | Status::Denied
                | Status::Unknown
                | Status::InProgress
                | Status::Unrecognised => Phase::Failed,
            },
            Stage::Standing { .. } => Phase::Idle,
            Stage::Ordered | Stage::Taken { .. } | Stage::Energy { .. } if self.stop.is_some() => {
                Phase::Stopping
            }
            Stage::Ordered => Phase::Preparing,
            Stage::Taken { phase } | Stage::Energy { phase, .. } => *phase,
        }
    }

    /// The same in the words of updates.
    #[must_use]
    pub const fn status(&self) -> Status {
        match &self.stage {
            Stage::Ordered => Status::Accepted,
            Stage::Taken { .. } | Stage::Energy { .. } | Stage::Standing { .. } => {
                Status::InProgress
            }
            Stage::Ended { receipt } => receipt.status,
        }
    }

    /// The finished receipt of one that has ended.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        let Stage::Ended { receipt: bill } = &self.stage else {
            return None;
        };
        let bill = Bill::clone(bill);
        Some(Receipt {
            tag: Tag::new(),
            number: bill.number,
            session_id: self.id,
            driver_id: self.driver.clone(),
            operator: bill.operator.to_string(),
            site_id: self.site.clone(),
            time_zone: self.time_zone.to_string(),
            cp_id: self.cp.clone(),
            connector: self.connector,
            origin: self.origin,
            status: bill.status,
            end: bill.end,
            accepted_at: self.accepted_at,
            started_at: bill.started_at,
            energy_ended_at: bill.energy_ended_at,
            ended_at: bill.ended_at,
            received_at: bill.received_at,
            meters: bill.meters,
            energy_mwh: bill.energy_mwh,
            idle_s: bill.idle_s,
            tariff: Tariff::clone(&self.tariff),
            lines: bill.lines,
            exact: bill.exact,
            net: bill.net,
            taxes: bill.taxes,
            total: bill.total,
            currency: self.tariff.terms.currency,
            rounding: bill.rounding.to_string(),
            flags: self.flags.iter().copied().collect(),
            periods: bill.periods,
        })
    }

    /// How many elements its lists have, for a bound of its size.
    pub(crate) fn elements(&self) -> usize {
        let (spans, periods, lines) = match &self.stage {
            Stage::Ordered | Stage::Taken { .. } => return 0,
            Stage::Energy { meter, .. } | Stage::Standing { meter, .. } => {
                (meter.spans.len(), meter.periods.len(), 0)
            }
            Stage::Ended { receipt } => (
                receipt.meters.len(),
                receipt.periods.len(),
                receipt.lines.len() + receipt.taxes.len(),
            ),
        };
        spans + periods + lines
    }

    /// How long its texts are that have no bound of their own.
    pub(crate) fn texts_len(&self) -> usize {
        let len = |text: Option<&String>| text.map_or(0, String::len);
        let raw = |reason: &EndReason| len(reason.raw.as_ref());
        let stage = match &self.stage {
            Stage::Ordered | Stage::Taken { .. } => 0,
            Stage::Energy { meter, .. } => meter.device_tx.len(),
            Stage::Standing { meter, reason, .. } => meter.device_tx.len() + raw(reason),
            Stage::Ended { receipt } => {
                raw(&receipt.end) + receipt.operator.len() + receipt.number.len()
            }
        };
        let stop = self.stop.as_ref().map_or(0, |stop| raw(&stop.reason));
        stage + stop + len(self.token.as_ref()) + self.time_zone.len()
    }

    /// What has been metered, while it is open and energy has begun.
    #[must_use]
    pub const fn meter(&self) -> Option<&Metering> {
        match &self.stage {
            Stage::Energy { meter, .. } | Stage::Standing { meter, .. } => Some(meter),
            Stage::Ordered | Stage::Taken { .. } | Stage::Ended { .. } => None,
        }
    }

    /// Energy so far.
    #[must_use]
    pub fn energy(&self) -> Mwh {
        match &self.stage {
            Stage::Ended { receipt } => receipt.energy_mwh,
            Stage::Ordered | Stage::Taken { .. } => Mwh(0),
            Stage::Energy { meter, .. } | Stage::Standing { meter, .. } => meter.energy(),
        }
    }
}

impl Metering {
    /// Most periods of one session: two days of quarter hours. Later ones are not told apart.
    pub const PERIODS_MAX: usize = 200;

    /// Most spans of one session. A meter that is reset more often is broken; what it counts after
    /// that is flagged and not used.
    pub const SPANS_MAX: usize = 200;

    /// Milliseconds in which the car has stood in pauses, up to the last reading.
    #[must_use]
    pub fn paused_ms(&self, patience_ms: i64) -> i64 {
        let now = self.pause.map_or(0, |pause| {
            (self.last_at.ms_since(pause.since) - patience_ms).max(0)
        });
        now.saturating_add(i64::try_from(self.stood_ms).unwrap_or(i64::MAX))
    }

    /// The pause is over, at the last reading.
    pub fn end_pause(&mut self, patience_ms: i64) {
        self.stood_ms = self.paused_ms(patience_ms).unsigned_abs();
        self.pause = None;
    }

    /// The sum of the spans.
    #[must_use]
    pub fn energy(&self) -> Mwh {
        self.spans.iter().fold(Mwh(0), |sum, s| {
            sum.saturating_add(s.to_mwh.saturating_sub(s.from_mwh))
        })
    }
}
