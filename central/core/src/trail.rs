//! What happened, kept for operators: derived from applied records, so that every replica tells the
//! same of the ledger, and from what this replica hears of reach.
//!
//! A record carries new state and not what changed. So this remembers of each key as much as tells
//! that: of sessions while they are open.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ev_contract::{
    codes::Code,
    connector::{Phase, Service},
    ids::{ConnectorId, CpId, Epoch, SessionId},
    time::UnixMs,
    v1::{EventKind, EventRow, Reach, RefusedView},
};

use crate::{
    frame::{Kind, Record, Write},
    insight::keeps_out,
    keys::Asker,
    model::{Answer, Bill, Connector, Session, Spool, Stage},
    state::State,
};

/// Events of the ledger that are kept: with some 400 bytes each 20 MB, and a night of a fleet that
/// begins and ends 5,000 sessions.
pub const EVENTS_MAX: usize = 50_000;
/// Changes of reach that are kept: a fleet of 5,000 that goes and comes back.
pub const REACH_MAX: usize = 10_000;
/// Refused starts that are remembered of one charge point.
pub const REFUSED_MAX: usize = 3;

/// A place among the events: ledger position and number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The ledger position.
    pub pos: u64,
    /// The number at that position.
    pub n: u32,
}

impl Cursor {
    /// After everything up to a position.
    #[must_use]
    pub const fn end_of(pos: u64) -> Self {
        Self { pos, n: u32::MAX }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.pos, self.n)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pos, n) = text.split_once('.').ok_or(())?;
        let read = Self {
            pos: pos.parse().map_err(|_| ())?,
            n: n.parse().map_err(|_| ())?,
        };
        if read.to_string() == text {
            Ok(read)
        } else {
            Err(())
        }
    }
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only at this charge point.
    pub cp: Option<CpId>,
    /// Only of this session.
    pub session: Option<SessionId>,
}

impl Filter {
    fn wants(&self, event: &EventRow) -> bool {
        self.cp
            .as_ref()
            .is_none_or(|cp| event.cp_id.as_ref() == Some(cp))
            && self
                .session
                .is_none_or(|session| event.session_id == Some(session))
    }
}

/// Since when something is so, as far as it was seen to begin. A connector with which all is well is
/// as one that was never seen, and not remembered: most are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenConnector {
    out: bool,
    out_since: Option<UnixMs>,
    service: Service,
    fault: Option<(String, bool)>,
    fault_since: Option<UnixMs>,
    charger_lost: bool,
    charger_since: Option<UnixMs>,
}

impl Default for SeenConnector {
    fn default() -> Self {
        Self {
            out: false,
            out_since: None,
            service: Service::In,
            fault: None,
            fault_since: None,
            charger_lost: false,
            charger_since: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SeenSession {
    stage: u8,
    phase: Phase,
    stopping: bool,
}

/// All that is kept.
#[derive(Debug, Default)]
pub struct Trail {
    events: VecDeque<(Cursor, EventRow)>,
    /// Of the newest event that is no longer kept.
    dropped_at: Option<UnixMs>,
    began_at: Option<UnixMs>,
    reach: VecDeque<EventRow>,
    connectors: HashMap<(CpId, ConnectorId), SeenConnector>,
    sessions: HashMap<SessionId, SeenSession>,
    /// Records that spools no longer had, and what agents found impossible; of those where there was
    /// any.
    spools: HashMap<(CpId, Epoch), [u64; 2]>,
    /// Of charge points that have presented themselves.
    #[expect(
        clippy::box_collection,
        reason = "most charge points have refused nobody: 8 bytes of each instead of 32"
    )]
    refused: BTreeMap<CpId, Option<Box<VecDeque<RefusedView>>>>,
}

impl Trail {
    /// Goes on from a state of which the past is not known.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let mut trail = Self::default();
        for ((cp, id), connector) in state.connectors() {
            let seen = seen_connector(connector, &SeenConnector::default(), None);
            if seen != SeenConnector::default() {
                trail.connectors.insert((cp.clone(), id), seen);
            }
        }
        for entry in state.open_sessions() {
            let session = &entry.value;
            trail.sessions.insert(session.id, seen_session(session));
        }
        for (cp, _) in state.charge_points_after(None) {
            trail.refused.insert(cp.clone(), None);
        }
        for ((cp, epoch), spool) in state.spools_by_place() {
            if troubles(spool) != [0, 0] {
                let at = (cp.clone(), epoch.clone());
                trail.spools.insert(at, troubles(spool));
            }
        }
        trail
    }

    /// From when on everything is remembered.
    #[must_use]
    pub fn remembers_from(&self) -> Option<UnixMs> {
        self.dropped_at.or(self.began_at)
    }

    /// A valid record was applied at a position; `at` is its appender's time. What it meant.
    pub fn record(
        &mut self,
        pos: u64,
        at: UnixMs,
        record: &Record,
    ) -> impl Iterator<Item = &EventRow> {
        self.began_at.get_or_insert(at);
        let blank = EventRow {
            at,
            kind: EventKind::Operated,
            pos: Some(pos),
            cp_id: None,
            connector: None,
            session_id: None,
            driver_id: None,
            operator_id: None,
            code: None,
            detail: None,
        };
        let asker = record.writes.iter().find_map(|write| match write {
            Write::Request(Asker::Operator(id), ..) => Some(id.to_string()),
            _ => None,
        });
        let mut found = Vec::new();
        for write in &record.writes {
            match write {
                Write::Session(session) => {
                    self.session(session, &blank, asker.as_deref(), &mut found);
                }
                Write::Connector(cp, id, connector) => {
                    self.connector(cp, *id, connector, &blank, &mut found);
                }
                Write::Spool(cp, epoch, spool) => self.spool(cp, epoch, spool, &blank, &mut found),
                Write::Request(asker, _, request) => {
                    self.request(asker, &request.answer, &blank, &mut found);
                }
                Write::Adjustments(session, adjustments) => {
                    found.extend(adjustments.list.last().map(|a| EventRow {
                        kind: EventKind::Adjusted,
                        session_id: Some(*session),
                        operator_id: (a.by != "central").then(|| a.by.clone()),
                        detail: Some(format!(
                            "{}: {} {}, {} Wh, {}",
                            a.number,
                            a.amount,
                            a.currency,
                            a.energy_mwh / 1_000,
                            a.reason
                        )),
                        ..blank.clone()
                    }));
                }
                Write::ChargePoint(cp, present) => {
                    self.refused.entry(cp.clone()).or_default();
                    found.push(EventRow {
                        kind: EventKind::Presented,
                        cp_id: Some(cp.clone()),
                        detail: Some(format!(
                            "version {}, {} connectors, spool {}",
                            present.version,
                            present.connectors.len(),
                            present.epoch
                        )),
                        ..blank.clone()
                    });
                }
                // What an operator changes of it says itself.
                Write::Enrolment(cp, enrolment) if record.kind == Kind::Enrolled => {
                    found.push(EventRow {
                        kind: if enrolment.revoked {
                            EventKind::Revoked
                        } else {
                            EventKind::Enrolled
                        },
                        cp_id: Some(cp.clone()),
                        ..blank.clone()
                    })
                }
                Write::Enrolment(..)
                | Write::Driver(..)
                | Write::Tariff(_)
                | Write::TariffScope(..)
                | Write::Forget(_) => {}
            }
        }
        found.extend(record.evidence.iter().map(|evidence| EventRow {
            kind: EventKind::Quarantined,
            cp_id: Some(evidence.cp.clone()),
            detail: Some(format!("record {}: {}", evidence.seq, evidence.why)),
            ..blank.clone()
        }));
        let first = match self.events.back() {
            Some((last, _)) if last.pos == pos => last.n + 1,
            Some(_) | None => 0,
        };
        let new = found.len();
        for (n, event) in (first..).zip(found) {
            if self.events.len() >= EVENTS_MAX {
                self.dropped_at = self.events.pop_front().map(|(_, event)| event.at);
            }
            self.events.push_back((Cursor { pos, n }, event));
        }
        let from = self.events.len().saturating_sub(new);
        self.events.range(from..).map(|(_, event)| event)
    }

    fn session(
        &mut self,
        session: &Session,
        blank: &EventRow,
        operator: Option<&str>,
        found: &mut Vec<EventRow>,
    ) {
        let event = |kind, detail: Option<String>| EventRow {
            kind,
            cp_id: Some(session.cp.clone()),
            connector: Some(session.connector),
            session_id: Some(session.id),
            driver_id: session.driver.clone(),
            operator_id: operator.map(str::to_owned),
            detail,
            ..blank.clone()
        };
        let by_itself = |kind, detail| EventRow {
            operator_id: None,
            ..event(kind, detail)
        };
        let now = seen_session(session);
        let before = self.sessions.get(&session.id).copied();
        let was = before.unwrap_or(SeenSession {
            stage: STAGE_ORDERED,
            phase: Phase::Preparing,
            stopping: false,
        });
        if before.is_none() {
            found.push(match session.stage {
                Stage::Ordered => event(EventKind::Accepted, None),
                Stage::Taken { .. }
                | Stage::Energy { .. }
                | Stage::Standing { .. }
                | Stage::Ended { .. } => {
                    by_itself(EventKind::Opened, Some(session.origin.to_string()))
                }
            });
        }
        if let (Some(stop), false) = (&session.stop, was.stopping) {
            let why = stop.reason.word().to_owned();
            found.push(event(EventKind::Stopping, Some(why)));
        }
        // A run of records may take a session over several stages at once.
        let began = match &session.stage {
            Stage::Energy { .. } | Stage::Standing { .. } => true,
            Stage::Ended { receipt } => receipt.started_at.is_some(),
            Stage::Ordered | Stage::Taken { .. } => false,
        };
        if began && was.stage == STAGE_ORDERED && before.is_some() {
            found.push(by_itself(EventKind::Taken, None));
        }
        if began && was.stage < STAGE_ENERGY && now.stage > STAGE_ENERGY {
            found.push(by_itself(EventKind::Started, None));
        }
        if now.stage > was.stage {
            found.push(match &session.stage {
                Stage::Ordered | Stage::Taken { .. } => by_itself(EventKind::Taken, None),
                Stage::Energy { .. } => by_itself(EventKind::Started, None),
                Stage::Standing { reason, .. } => {
                    by_itself(EventKind::EnergyEnded, Some(reason.word().to_owned()))
                }
                Stage::Ended { receipt } => {
                    event(EventKind::Ended, Some(in_short(session, receipt)))
                }
            });
        } else if now.phase != was.phase && !now.stopping {
            found.push(by_itself(EventKind::Phase, Some(now.phase.to_string())));
        }
        if session.is_ended() {
            self.sessions.remove(&session.id);
        } else {
            self.sessions.insert(session.id, now);
        }
    }

    fn connector(
        &mut self,
        cp: &CpId,
        id: ConnectorId,
        connector: &Connector,
        blank: &EventRow,
        found: &mut Vec<EventRow>,
    ) {
        let event = |kind, detail: Option<String>| EventRow {
            kind,
            cp_id: Some(cp.clone()),
            connector: Some(id),
            detail,
            ..blank.clone()
        };
        let at = (cp.clone(), id);
        let was = self.connectors.remove(&at).unwrap_or_default();
        let now = seen_connector(connector, &was, Some(blank.at));
        let out_word = |service: Service| service.to_string().replace('_', " ");
        if now.service != was.service {
            let word = out_word(now.service);
            found.push(event(EventKind::Service, Some(word)));
        } else if now.out != was.out {
            let word = if now.out {
                "out, confirmed"
            } else {
                "in, confirmed"
            };
            found.push(event(EventKind::Service, Some(word.to_owned())));
        }
        match (&was.fault, &now.fault) {
            (before, Some((raw, _))) if before.as_ref().is_none_or(|(was, _)| was != raw) => {
                found.push(event(EventKind::Fault, Some(raw.clone())));
            }
            (Some((raw, _)), None) => found.push(event(EventKind::Cleared, Some(raw.clone()))),
            (Some(_) | None, Some(_)) | (None, None) => {}
        }
        match (was.charger_lost, now.charger_lost) {
            (false, true) => found.push(event(EventKind::ChargerLost, None)),
            (true, false) => found.push(event(EventKind::ChargerBack, None)),
            (false, false) | (true, true) => {}
        }
        if now != SeenConnector::default() {
            self.connectors.insert(at, now);
        }
    }

    fn spool(
        &mut self,
        cp: &CpId,
        epoch: &Epoch,
        spool: &Spool,
        blank: &EventRow,
        found: &mut Vec<EventRow>,
    ) {
        let now = troubles(spool);
        if now == [0, 0] {
            return;
        }
        let was = self.spools.insert((cp.clone(), epoch.clone()), now);
        let [missing, anomalies] = was.unwrap_or_default();
        for (kind, before, after) in [
            (EventKind::Missing, missing, spool.missing),
            (EventKind::Anomaly, anomalies, spool.anomalies),
        ] {
            if after > before {
                found.push(EventRow {
                    kind,
                    cp_id: Some(cp.clone()),
                    detail: Some(format!("{} records", after - before)),
                    ..blank.clone()
                });
            }
        }
    }

    fn request(
        &mut self,
        asker: &Asker,
        answer: &Answer,
        blank: &EventRow,
        found: &mut Vec<EventRow>,
    ) {
        let (driver, operator) = match asker {
            Asker::Driver(driver) => (Some(driver.clone()), None),
            Asker::Operator(operator) => (None, Some(operator.to_string())),
        };
        let event = |kind| EventRow {
            kind,
            driver_id: driver.clone(),
            operator_id: operator.clone(),
            ..blank.clone()
        };
        match answer {
            Answer::Refused {
                code,
                what,
                session,
                cp,
                ..
            } => {
                let cp: Option<CpId> = cp.parse().ok();
                if let Some(kept) = cp.as_ref().and_then(|cp| self.refused.get_mut(cp)) {
                    let kept = kept.get_or_insert_default();
                    kept.push_front(RefusedView {
                        at: blank.at,
                        driver_id: driver.clone(),
                        code: *code,
                    });
                    kept.truncate(REFUSED_MAX);
                }
                found.push(EventRow {
                    cp_id: cp,
                    session_id: *session,
                    code: Some(*code),
                    detail: Some(what.clone()),
                    ..event(EventKind::Refused)
                });
            }
            Answer::Done { session, detail } => found.push(EventRow {
                session_id: *session,
                detail: Some(detail.clone()),
                ..event(EventKind::Operated)
            }),
            // Said by the session itself.
            Answer::Started { .. } | Answer::Stopping { .. } => {}
        }
    }

    /// This replica has noticed that a charge point can be reached, or not: since `at`.
    pub fn reach(&mut self, cp: &CpId, reach: Reach, at: UnixMs) {
        let kind = match reach {
            Reach::Online => EventKind::Online,
            Reach::Offline => EventKind::Offline,
            Reach::Unknown | Reach::Unrecognised => return,
        };
        if self.reach.len() >= REACH_MAX {
            self.reach.pop_front();
        }
        self.reach.push_back(EventRow {
            at,
            kind,
            pos: None,
            cp_id: Some(cp.clone()),
            connector: None,
            session_id: None,
            driver_id: None,
            operator_id: None,
            code: None,
            detail: None,
        });
    }

    /// Since when a connector refuses with a code, where it was seen to begin.
    #[must_use]
    pub fn since(&self, cp: &CpId, connector: ConnectorId, code: Code) -> Option<UnixMs> {
        let seen = self.connectors.get(&(cp.clone(), connector))?;
        match code {
            Code::OutOfService => seen.out_since,
            Code::Faulted => seen.fault_since,
            Code::ChargerOffline => seen.charger_since,
            _ => None,
        }
    }

    /// The last starts that were refused at a charge point, newest first.
    #[must_use]
    pub fn refused_at(&self, cp: &CpId) -> Vec<RefusedView> {
        self.refused
            .get(cp)
            .and_then(Option::as_ref)
            .map(|kept| kept.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Events of the ledger after a place, or from a time on: those that are wanted, at most so
    /// many; the place up to which it has looked; and whether there are more.
    #[must_use]
    pub fn page(
        &self,
        after: Option<Cursor>,
        since: Option<UnixMs>,
        filter: &Filter,
        rows: usize,
    ) -> (Vec<EventRow>, Option<Cursor>, bool) {
        let from = match after {
            Some(after) => self.events.partition_point(|(at, _)| *at <= after),
            None => 0,
        };
        let since = since.filter(|_| after.is_none());
        let mut page = Vec::new();
        let mut last = None;
        for (place, event) in self.events.range(from..) {
            if since.is_some_and(|since| event.at < since) || !filter.wants(event) {
                continue;
            }
            if page.len() >= rows {
                return (page, last, true);
            }
            page.push(event.clone());
            last = Some(*place);
        }
        (page, None, false)
    }

    /// The newest changes of reach from a time on, oldest first, at most so many.
    #[must_use]
    pub fn reach_since(
        &self,
        since: Option<UnixMs>,
        filter: &Filter,
        rows: usize,
    ) -> Vec<EventRow> {
        let mut newest: Vec<_> = self
            .reach
            .iter()
            .rev()
            .filter(|event| since.is_none_or(|since| event.at >= since) && filter.wants(event))
            .take(rows)
            .cloned()
            .collect();
        newest.reverse();
        newest
    }
}

fn seen_connector(connector: &Connector, was: &SeenConnector, at: Option<UnixMs>) -> SeenConnector {
    let reported = connector.reported.as_ref();
    let fault = reported
        .and_then(|r| r.fault.as_ref())
        .map(|fault| (fault.raw.clone(), keeps_out(fault)));
    let bars = |fault: &Option<(String, bool)>| fault.as_ref().is_some_and(|(_, bars)| *bars);
    let out = !connector.serves();
    let lost = reported.is_some_and(|r| !r.charger_online);
    let since = |is: bool, was: bool, before: Option<UnixMs>| match (was, is) {
        (_, false) => None,
        (true, true) => before,
        (false, true) => at,
    };
    SeenConnector {
        out,
        out_since: since(out, was.out, was.out_since),
        service: connector.service,
        fault_since: since(bars(&fault), bars(&was.fault), was.fault_since),
        fault,
        charger_lost: lost,
        charger_since: since(lost, was.charger_lost, was.charger_since),
    }
}

/// What may be missing of a spool, and what its agent found impossible.
const fn troubles(spool: &Spool) -> [u64; 2] {
    [spool.missing, spool.anomalies]
}

const STAGE_ORDERED: u8 = 0;
const STAGE_ENERGY: u8 = 2;

fn seen_session(session: &Session) -> SeenSession {
    SeenSession {
        stage: match session.stage {
            Stage::Ordered => STAGE_ORDERED,
            Stage::Taken { .. } => 1,
            Stage::Energy { .. } => STAGE_ENERGY,
            Stage::Standing { .. } => 3,
            Stage::Ended { .. } => 4,
        },
        phase: session.phase(),
        stopping: session.stop.is_some(),
    }
}

fn in_short(session: &Session, receipt: &Bill) -> String {
    let mut text = format!(
        "{}, {}, {} Wh, {} {}, {}",
        receipt.status,
        receipt.end.word(),
        receipt.energy_mwh.0 / 1_000,
        receipt.total,
        session.tariff.terms.currency,
        receipt.number
    );
    for flag in &session.flags {
        text.push_str(&format!(", {flag}"));
    }
    text
}
