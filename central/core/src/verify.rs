//! Whether a ledger and the receipts beside it are what they should be: everything is replayed and
//! held against what must be true. Reads come in as arguments; nothing is changed.
//!
//! Receipts come to the CDR stream nearly in the order of the ledger, so that both are read side by
//! side and only what differs in order is remembered.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use ev_contract::{
    ids::{ConnectorId, CpId, Epoch, SessionId},
    subjects::Subject,
    time::UnixMs,
    units::{Amount, Currency},
    v1::{Adjustment, Receipt, Status},
    wire::{self, Encoding},
};
use serde::Serialize;

use crate::{
    frame::{Decoded, Frame, Write},
    model::{Session, Stage},
    state::{Alarm, Applied, Log},
    whole::{LedgerId, Marker},
};

/// Problems that are told one by one; the others are counted.
pub const FINDINGS_MAX: usize = 100;
/// Receipts that one stream has and the other has not yet: what is beyond is no question of order.
/// About 100 bytes each.
pub const UNMATCHED_MAX: usize = 500_000;

/// Where a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// A message of the ledger.
    Ledger(u64),
    /// A message of the CDR stream.
    Cdr(u64),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ledger(seq) => write!(f, "ledger {seq}"),
            Self::Cdr(seq) => write!(f, "cdr {seq}"),
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where.
    pub at: At,
    /// About which session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What, in words.
    pub what: String,
}

/// What a month comes to; sessions belong to the month in which they ended, adjustments to theirs,
/// in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Month {
    /// Receipts.
    pub receipts: u64,
    /// Their energy.
    pub energy_mwh: u64,
    /// Adjustments.
    pub adjustments: u64,
    /// Their energy.
    pub adjustments_mwh: i64,
    /// Receipts and adjustments together, by currency.
    pub money: BTreeMap<String, Amount>,
}

/// What is known of the streams beyond their messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The last sequence of the ledger, by the server.
    pub ledger_last: u64,
    /// The last sequence of the CDR stream.
    pub cdr_last: u64,
    /// A time by the ledger's clock at which all that had to be in the CDR stream was there and read:
    /// what has to be copied only since then may be on its way, as long as the state holds it.
    pub cdr_until_ms: i64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Which ledger; none where there is no first frame.
    pub ledger: Option<LedgerId>,
    /// The first message of the ledger; 0 for an empty one.
    pub first: u64,
    /// The last that was replayed.
    pub last: u64,
    /// Up to where frames themselves vouch for the history before them.
    pub vouched: u64,
    /// When the last frame was written, by its appender's clock.
    pub last_at: Option<UnixMs>,
    /// Valid records.
    pub records: u64,
    /// Void ones: decided twice at once, or copies.
    pub void: u64,
    /// Messages that are no frames.
    pub junk: u64,
    /// Sessions that have ended.
    pub ended: u64,
    /// Those of them that delivered.
    pub completed: u64,
    /// Sessions that are open at the end.
    pub open: u64,
    /// Receipts in the CDR stream.
    pub receipts: u64,
    /// Adjustments there.
    pub adjustments: u64,
    /// Receipts and adjustments that are about to be copied there.
    pub waiting: u64,
    /// Spool records that could not be used and are kept aside.
    pub quarantined: u64,
    /// Spool records that spools no longer had.
    pub missing: u64,
    /// By month, `2026-11`.
    pub months: BTreeMap<String, Month>,
    /// How many problems there are.
    pub problems: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.problems == 0
    }
}

/// The replay cannot go on; why is in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ledger cannot be replayed any further")]
pub struct Broken;

type PaperId = (SessionId, Option<u32>);

/// What a paper says, in short, and where it stands.
#[derive(Debug, Clone, Copy)]
struct Paper {
    hash: [u8; 16],
    pos: u64,
    at_ms: i64,
}

/// A replay under way.
#[derive(Debug, Default)]
pub struct Verifier {
    log: Log,
    /// What a replica served.
    served: Option<Marker>,
    /// In the ledger, and not yet seen in the CDR stream.
    wanted: BTreeMap<PaperId, Paper>,
    /// In the CDR stream, and not yet seen in the ledger.
    early: BTreeMap<PaperId, Paper>,
    wanted_ever: u64,
    /// The number of each connector's last receipt.
    numbers: BTreeMap<(CpId, ConnectorId), u64>,
    cdr_last: u64,
    cdr_has_gaps: bool,
    broken: bool,
    report: Report,
}

impl Verifier {
    /// A replay from the ledger's first message on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, held against what a replica, or a backup, says of the ledger.
    #[must_use]
    pub fn against(served: Marker, by: String) -> Self {
        Self {
            log: Log::default().vouched_by(served.basis(), by),
            served: Some(served),
            ..Self::default()
        }
    }

    /// Whether a message of the CDR stream should be read next, rather than one of the ledger.
    #[must_use]
    pub fn wants_cdr(&self) -> bool {
        self.wanted_ever > self.report.receipts + self.report.adjustments
    }

    /// What is known so far.
    #[must_use]
    pub const fn so_far(&self) -> &Report {
        &self.report
    }

    /// The next message of the ledger, stored at `at_ms` by the server's clock.
    ///
    /// # Errors
    /// [`Broken`] when what follows cannot be judged.
    pub fn ledger(&mut self, seq: u64, at_ms: i64, bytes: &[u8]) -> Result<(), Broken> {
        if self.broken {
            return Err(Broken);
        }
        if self.report.first == 0 {
            self.report.first = seq;
        }
        let frame = match Frame::decode(bytes) {
            Ok(Decoded::Frame(frame)) => Some(frame),
            Ok(Decoded::Junk) => None,
            Err(error) => return Err(self.breaks(seq, &error.into())),
        };
        let mut before = frame
            .as_deref()
            .map(|frame| self.before(frame))
            .unwrap_or_default();
        if let Some(frame) = &frame {
            self.report.last_at = Some(frame.at);
        }
        let basis = frame.as_deref().map(|frame| frame.basis.seq);
        let applied = match frame {
            Some(frame) => self.log.apply_frame(seq, frame, bytes),
            None => self.log.apply(seq, bytes),
        };
        let applied = match applied {
            Ok(applied) => applied,
            Err(alarm) => return Err(self.breaks(seq, &alarm)),
        };
        self.report.last = seq;
        self.report.vouched = self.report.vouched.max(basis.unwrap_or(0));
        self.judge(seq, at_ms, &applied, &mut before);
        if self.wanted.len() > UNMATCHED_MAX {
            self.find(
                At::Ledger(seq),
                None,
                format!(
                    "more than {UNMATCHED_MAX} receipts up to here are not in the CDR stream; the rest \
                     is not looked at"
                ),
            );
            self.broken = true;
            return Err(Broken);
        }
        Ok(())
    }

    /// The next message of the CDR stream.
    ///
    /// # Errors
    /// [`Broken`] when what follows cannot be judged.
    pub fn cdr(&mut self, seq: u64, subject: &str, bytes: &[u8]) -> Result<(), Broken> {
        let at = At::Cdr(seq);
        if seq > self.cdr_last + 1 {
            self.removed(self.cdr_last + 1, seq - 1);
        }
        self.cdr_last = seq;
        let Some(Subject::Cdr {
            session,
            adjustment,
        }) = Subject::parse(subject)
        else {
            self.find(
                at,
                None,
                format!("its subject {subject} is none of a receipt"),
            );
            return Ok(());
        };
        if adjustment.is_some() {
            self.report.adjustments += 1;
        } else {
            self.report.receipts += 1;
        }
        let id = (session, adjustment);
        let hash = short_hash(bytes);
        if let Some(wanted) = self.wanted.remove(&id) {
            if wanted.hash != hash {
                self.find(at, Some(session), differs(id, wanted.pos));
            }
            return Ok(());
        }
        let paper = Paper {
            hash,
            pos: seq,
            at_ms: 0,
        };
        match self.early.entry(id) {
            Entry::Vacant(free) => {
                free.insert(paper);
            }
            Entry::Occupied(there) => {
                let other = there.get().pos;
                let what = format!("{} stands here and at cdr {other}", name(id));
                self.find(at, Some(session), what);
            }
        }
        if self.early.len() > UNMATCHED_MAX {
            let what = format!(
                "more than {UNMATCHED_MAX} receipts up to here are not in the ledger; the rest is \
                 not looked at"
            );
            self.find(at, None, what);
            self.broken = true;
            return Err(Broken);
        }
        Ok(())
    }

    /// Everything was read.
    #[must_use]
    pub fn finish(mut self, ends: Ends) -> Report {
        self.report.ledger = self.log.state().ledger();
        if self.broken {
            return self.report;
        }
        self.judge_whole();
        if self.report.last < ends.ledger_last {
            let what = format!("what follows, up to {}, is gone", ends.ledger_last);
            self.find(At::Ledger(self.report.last), None, what);
        }
        if self.cdr_last < ends.cdr_last {
            self.removed(self.cdr_last + 1, ends.cdr_last);
        }
        for (id, paper) in std::mem::take(&mut self.early) {
            let what = format!(
                "{} is not in the ledger, or stands in the CDR stream twice",
                name(id)
            );
            self.find(At::Cdr(paper.pos), Some(id.0), what);
        }
        let state = self.log.state();
        let mut lost = Vec::new();
        let mut waiting = 0;
        for (id, paper) in std::mem::take(&mut self.wanted) {
            // What was removed is not about to be copied.
            let is_new = paper.at_ms >= ends.cdr_until_ms && !self.cdr_has_gaps;
            if is_new && state.session(id.0).is_some() {
                waiting += 1;
            } else {
                lost.push((paper.pos, id));
            }
        }
        lost.sort_unstable();
        let standing = standing(&self.log);
        let spools = state.spools_by_place().fold((0, 0), |sum, (_, spool)| {
            (sum.0 + spool.quarantined, sum.1 + spool.missing)
        });
        let others = state.charge_points_after(None);
        let apart: u64 = others
            .filter_map(|(_, cp)| cp.other.as_ref().map(|other| other.kept))
            .sum();
        self.report.waiting = waiting;
        (self.report.quarantined, self.report.missing) = (spools.0 + apart, spools.1);
        self.report.open = u64::try_from(state.open_sessions().count()).unwrap_or(u64::MAX);
        for (pos, id) in lost {
            let what = format!("{} is not in the CDR stream", name(id));
            self.find(At::Ledger(pos), Some(id.0), what);
        }
        let last = self.report.last;
        for (session, what) in standing {
            self.find(At::Ledger(last), Some(session), what);
        }
        self.report
    }

    /// Whether it is the ledger that was served.
    fn judge_whole(&mut self) {
        let Some(ledger) = self.report.ledger else {
            let what = "there is no first frame: a ledger that was in use has one".to_owned();
            self.find(At::Ledger(self.report.last), None, what);
            return;
        };
        let Some(served) = self.served else {
            return;
        };
        if served.ledger != ledger {
            let what = format!("it is ledger {ledger}, and {} was served", served.ledger);
            self.find(At::Ledger(1), None, what);
        } else if self.report.last < served.seq {
            let what = format!("what follows, up to {}, was served and is gone", served.seq);
            self.find(At::Ledger(self.report.last), None, what);
        }
    }

    fn removed(&mut self, from: u64, to: u64) {
        self.cdr_has_gaps = true;
        let what = format!("messages {from} to {to} of the CDR stream were removed");
        self.find(At::Cdr(from), None, what);
    }

    fn find(&mut self, at: At, session: Option<SessionId>, what: String) {
        self.report.problems += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { at, session, what });
        }
    }

    fn breaks(&mut self, seq: u64, alarm: &Alarm) -> Broken {
        let what = match alarm {
            Alarm::Gap { applied: 0, found } => {
                format!("the ledger begins at {found}: what was before is gone")
            }
            Alarm::DigestMismatch { at, by } => format!(
                "the frame that {by} appended here knows another history: something was changed at \
                 or before {at}"
            ),
            Alarm::Gap { .. }
            | Alarm::Rewound { .. }
            | Alarm::Removed { .. }
            | Alarm::Missing { .. }
            | Alarm::Foreign { .. }
            | Alarm::Nameless
            | Alarm::Unreadable(_) => alarm.to_string(),
        };
        self.find(At::Ledger(seq), None, what);
        self.broken = true;
        Broken
    }

    /// What a frame may change, as it is before it.
    fn before(&self, frame: &Frame) -> Before {
        let state = self.log.state();
        let mut before = Before::default();
        for write in frame.records.iter().flat_map(|record| &record.writes) {
            match write {
                Write::Session(session) => {
                    if let Some(entry) = state.session(session.id) {
                        before.sessions.insert(session.id, entry.value.clone());
                    }
                }
                Write::Adjustments(id, _) => {
                    if let Some(entry) = state.adjustments(*id) {
                        before.adjustments.insert(*id, entry.value.list.clone());
                    }
                }
                Write::Spool(cp, epoch, _) => {
                    let key = (cp.clone(), epoch.clone());
                    if let Some(entry) = state.spool(&key) {
                        before.spools.insert(key, entry.value.next);
                    }
                }
                Write::Connector(..)
                | Write::Driver(..)
                | Write::Request(..)
                | Write::ChargePoint(..)
                | Write::Tariff(_)
                | Write::TariffScope(..)
                | Write::Enrolment(..)
                | Write::Forget(_) => {}
            }
        }
        before
    }

    fn judge(&mut self, seq: u64, at_ms: i64, applied: &Applied, before: &mut Before) {
        if applied.frame.is_none() {
            self.report.junk += 1;
        }
        for (_, valid) in applied.records() {
            if valid {
                self.report.records += 1;
            } else {
                self.report.void += 1;
            }
        }
        for write in applied.writes() {
            match write {
                Write::Session(session) => self.judge_session(seq, at_ms, session, before),
                Write::Adjustments(id, adjustments) => {
                    self.judge_adjustments(seq, at_ms, *id, &adjustments.list, before);
                }
                Write::Spool(cp, epoch, spool) => {
                    let key = (cp.clone(), epoch.clone());
                    let next = before.spools.insert(key, spool.next).unwrap_or(1);
                    if spool.next < next {
                        let what = format!(
                            "the spool of {cp} goes back from record {next} to {}",
                            spool.next
                        );
                        self.find(At::Ledger(seq), None, what);
                    }
                }
                Write::Connector(..)
                | Write::Driver(..)
                | Write::Request(..)
                | Write::ChargePoint(..)
                | Write::Tariff(_)
                | Write::TariffScope(..)
                | Write::Enrolment(..)
                | Write::Forget(_) => {}
            }
        }
        self.judge_numbers(seq, before);
    }

    /// Numbers go up by one; those of one message stand there in the order of their sessions.
    fn judge_numbers(&mut self, seq: u64, before: &mut Before) {
        for (place, mut receipts) in std::mem::take(&mut before.receipts) {
            receipts.sort_unstable();
            let last = self.numbers.get(&place).copied().unwrap_or(0);
            for (expected, (number, session)) in (last + 1..).zip(&receipts) {
                if *number != Some(expected) {
                    let (cp, connector) = &place;
                    let what = format!(
                        "its receipt's number does not follow {} of {cp}/{connector}",
                        expected - 1
                    );
                    self.find(At::Ledger(seq), Some(*session), what);
                }
            }
            let newest = receipts.last().and_then(|(number, _)| *number);
            self.numbers.insert(place, newest.unwrap_or(last));
        }
    }

    fn judge_session(&mut self, seq: u64, at_ms: i64, session: &Arc<Session>, before: &mut Before) {
        let at = At::Ledger(seq);
        let id = Some(session.id);
        let former = before.sessions.insert(session.id, Arc::clone(session));
        if let Some(former) = &former {
            if former.is_ended() && former.stage != session.stage {
                self.find(at, id, "it changes after its end".into());
                return;
            }
            if session.energy() < former.energy() {
                let what = format!(
                    "its energy falls from {} mWh to {} mWh",
                    former.energy().0,
                    session.energy().0
                );
                self.find(at, id, what);
            }
        }
        let Some(receipt) = session.receipt() else {
            return;
        };
        if former.is_some_and(|former| former.is_ended()) {
            return;
        }
        self.report.ended += 1;
        if receipt.status == Status::Completed {
            self.report.completed += 1;
        }
        for what in faults_of(&receipt) {
            self.find(at, id, what);
        }
        before
            .receipts
            .entry((session.cp.clone(), session.connector))
            .or_default()
            .push((number_of(&receipt), session.id));
        let month = self.month(receipt.filed_at());
        month.receipts += 1;
        month.energy_mwh = month.energy_mwh.saturating_add(receipt.energy_mwh.0);
        add(&mut month.money, receipt.currency, receipt.total);
        self.want((session.id, None), seq, at_ms, &receipt);
    }

    fn judge_adjustments(
        &mut self,
        seq: u64,
        at_ms: i64,
        session: SessionId,
        list: &[Adjustment],
        before: &mut Before,
    ) {
        let former = before
            .adjustments
            .insert(session, list.to_vec())
            .unwrap_or_default();
        let at = At::Ledger(seq);
        let Some(added) = list.strip_prefix(former.as_slice()) else {
            let what = "an adjustment of it changes or goes".into();
            self.find(at, Some(session), what);
            return;
        };
        let mut total = former.last().map(|a| a.total).or_else(|| {
            match &before
                .sessions
                .get(&session)
                .map(|session| &**session)
                .or_else(|| self.log.state().session(session).map(|e| &*e.value))?
                .stage
            {
                Stage::Ended { receipt } => Some(receipt.total),
                Stage::Ordered
                | Stage::Taken { .. }
                | Stage::Energy { .. }
                | Stage::Standing { .. } => None,
            }
        });
        for (n, adjustment) in (former.len() + 1..).zip(added) {
            let sum = total.map(|total| Amount(total.0 + adjustment.amount.0));
            if usize::try_from(adjustment.n) != Ok(n)
                || sum != Some(adjustment.total)
                || adjustment.session_id != session
            {
                let what = format!(
                    "adjustment {} does not follow from what it adjusts",
                    adjustment.number
                );
                self.find(at, Some(session), what);
            }
            total = Some(adjustment.total);
            let month = self.month(adjustment.at);
            month.adjustments += 1;
            month.adjustments_mwh = month.adjustments_mwh.saturating_add(adjustment.energy_mwh);
            add(&mut month.money, adjustment.currency, adjustment.amount);
            self.want((session, Some(adjustment.n)), seq, at_ms, adjustment);
        }
    }

    fn want<T: Serialize>(&mut self, id: PaperId, pos: u64, at_ms: i64, paper: &T) {
        self.wanted_ever += 1;
        let bytes = match cdr_entry(paper) {
            Ok(bytes) => bytes,
            Err(error) => {
                let what = format!("{} cannot be written: {error}", name(id));
                self.find(At::Ledger(pos), Some(id.0), what);
                return;
            }
        };
        let hash = short_hash(&bytes);
        if let Some(early) = self.early.remove(&id) {
            if early.hash != hash {
                self.find(At::Cdr(early.pos), Some(id.0), differs(id, pos));
            }
            return;
        }
        self.wanted.insert(id, Paper { hash, pos, at_ms });
    }

    fn month(&mut self, at: UnixMs) -> &mut Month {
        self.report.months.entry(month_of(at)).or_default()
    }
}

type Numbered = (Option<u64>, SessionId);

/// What is there before a message, kept up to date while its records are looked at.
#[derive(Debug, Default)]
struct Before {
    sessions: BTreeMap<SessionId, Arc<Session>>,
    adjustments: BTreeMap<SessionId, Vec<Adjustment>>,
    spools: BTreeMap<(CpId, Epoch), u64>,
    /// Receipts that are new: number and session.
    receipts: BTreeMap<(CpId, ConnectorId), Vec<Numbered>>,
}

fn number_of(receipt: &Receipt) -> Option<u64> {
    receipt.number.rsplit('-').next()?.parse().ok()
}

/// The bytes of a receipt or an adjustment in the CDR stream.
///
/// # Errors
/// Only for a defect of this program.
pub fn cdr_entry<T: Serialize>(paper: &T) -> Result<Vec<u8>, wire::EncodeError> {
    wire::encode(paper, Encoding::MsgPack)
}

fn short_hash(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

fn name(id: PaperId) -> String {
    match id {
        (session, None) => format!("the receipt of session {session}"),
        (session, Some(n)) => format!("adjustment {n} of session {session}"),
    }
}

fn differs(id: PaperId, pos: u64) -> String {
    format!("{} is another one than in ledger {pos}", name(id))
}

/// What a receipt says of itself must come out even.
fn faults_of(receipt: &Receipt) -> Vec<String> {
    let mut faults = Vec::new();
    let spans = receipt.meters.iter().fold(0_u64, |sum, span| {
        sum.saturating_add(span.to_mwh.0.saturating_sub(span.from_mwh.0))
    });
    if spans != receipt.energy_mwh.0 {
        faults.push(format!(
            "its receipt {} has {} mWh, its meters have counted {spans}",
            receipt.number, receipt.energy_mwh.0
        ));
    }
    let exact = receipt
        .lines
        .iter()
        .map(|line| line.amount.0)
        .sum::<rust_decimal::Decimal>();
    let owed = ev_contract::price::owed(&receipt.tariff.terms, exact);
    if exact != receipt.exact.0
        || (owed.net, owed.taxes.as_slice(), owed.total)
            != (receipt.net, receipt.taxes.as_slice(), receipt.total)
    {
        faults.push(format!(
            "the sums of its receipt {} are wrong",
            receipt.number
        ));
    }
    faults
}

/// What must hold between open sessions, connectors and drivers.
fn standing(log: &Log) -> Vec<(SessionId, String)> {
    let state = log.state();
    let mut faults = Vec::new();
    for entry in state.open_sessions() {
        let session = &entry.value;
        let on_connector = state
            .connector_at(&session.cp, session.connector)
            .is_some_and(|c| c.value.open.contains(&session.id));
        if !on_connector {
            faults.push((
                session.id,
                "it is open, and its connector knows nothing of it".into(),
            ));
        }
        let counted = session.driver.as_ref().is_none_or(|id| {
            state
                .driver(id)
                .is_some_and(|d| d.value.open.contains(&session.id))
        });
        if session.counts && !counted {
            faults.push((
                session.id,
                "it is open, and its driver knows nothing of it".into(),
            ));
        }
    }
    let is_open = |id: SessionId| state.session(id).is_some_and(|e| !e.value.is_ended());
    for ((cp, connector), there) in state.connectors() {
        for id in there.open.iter().filter(|id| !is_open(**id)) {
            faults.push((
                *id,
                format!("it is not open, and {cp}/{connector} is taken by it"),
            ));
        }
    }
    for (id, driver) in state.drivers() {
        for session in driver.open.iter().filter(|id| !is_open(**id)) {
            faults.push((*session, format!("it is not open, and counts against {id}")));
        }
    }
    faults
}

fn add(money: &mut BTreeMap<String, Amount>, currency: Currency, amount: Amount) {
    let sum = money.entry(currency.as_str().to_owned()).or_default();
    sum.0 += amount.0;
}

/// The month of a time in UTC, by the proleptic Gregorian calendar (days in eras of 400 years that
/// begin on 1 March).
fn month_of(at: UnixMs) -> String {
    let days = at.0.div_euclid(24 * 3_600 * 1_000) + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + days.div_euclid(146_097) * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_its_month() {
        for (at, month) in [
            (0, "1970-01"),
            (-1, "1969-12"),
            (1_709_164_800_000, "2024-02"), // 29 February
            (1_709_251_200_000, "2024-03"),
            (1_798_761_599_999, "2026-12"),
            (1_798_761_600_000, "2027-01"),
            (951_782_400_000, "2000-02"), // 29 February
        ] {
            assert_eq!(month_of(UnixMs(at)), month, "{at}");
        }
    }
}
