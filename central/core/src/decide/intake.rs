//! Taking in spool records. What has happened is never refused: it is applied, becomes a visible
//! adjustment, or lies in quarantine, word for word.

use std::sync::Arc;

use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::{ConnectorId, CpId, Epoch, SessionId},
    time::UnixMs,
    units::Mwh,
    v1::{
        EdgeFact, EdgeRecord, EndReason, Flag, MeterSpan, Origin, Reading, SyncRequest, TimeQuality,
    },
};

use super::{
    Ctx, Incoming, Run,
    finish::{self, Correction, Ended},
    metering::{self, Believable, Capability, Step},
    session::{open_phase, tariff_at},
};
use crate::{
    frame::{Evidence, Write},
    keys::Key,
    model::{Allowance, ChargePoint, OtherAgent, Reported, Session, Spool, Stage},
    pricing,
    tx::Tx,
};

/// Why a record cannot be used, in words.
type Unusable = String;

/// Open sessions on one connector, above which another is kept aside. Two can cross; more than a
/// few are a defect of the agent, and would make every record about the connector larger.
const OPEN_PER_CONNECTOR_MAX: usize = 16;

/// Longest name of a meter. Serial numbers have 20; each span of a session repeats it.
const METER_ID_BYTES_MAX: usize = 64;

/// How long before its agent was last heard a session can have begun: an agent is there while its charger is
/// out of its reach, and tells of the charger's transactions later. Once for each connector, since what
/// was billed there counts from then on.
const TOLD_LATE_MS_MAX: i64 = 24 * 3_600 * 1_000;

/// How much of a run is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// So many of the records that are wanted.
    most: usize,
    /// Whether a gap flags the open sessions.
    flags: bool,
    /// Whether the records are kept aside unread.
    aside: bool,
}

impl Share {
    /// All of it.
    pub(super) const ALL: Self = Self {
        most: usize::MAX,
        flags: true,
        aside: false,
    };

    /// The next smaller one; none below the smallest, which writes nothing but the position.
    pub(super) fn less(self, records: usize) -> Option<Self> {
        if self.flags {
            Some(Self {
                flags: false,
                ..self
            })
        } else if self.most.min(records) > 1 {
            Some(Self {
                most: self.most.min(records) / 2,
                ..self
            })
        } else if self.aside {
            None
        } else {
            Some(Self {
                most: 1,
                aside: true,
                ..self
            })
        }
    }
}

/// Takes in a run; `Err` when the charge point never presented itself.
pub(super) fn run(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, run: &Run, share: Share) -> Result<(), Code> {
    let Some(present) = tx.charge_point(&run.cp) else {
        return Err(Code::UnknownChargePoint);
    };
    if !present.obeys(&run.epoch, run.boot) {
        keep_apart(tx, run, &present, share);
        return Ok(());
    }
    let before = tx.spool(&run.cp, &run.epoch).unwrap_or_default();
    let mut spool = before.clone();
    let last = spool.next.checked_sub(1).and_then(|n| run.at(n));
    if let (Some(known), Some(last)) = (spool.last, last)
        && known != fingerprint(last)
    {
        keep_doubles(tx, ctx, run, &mut spool);
        spool.last = Some(fingerprint(last));
    }
    note_gap(tx, &run.cp, &run.epoch, run.first, share.flags, &mut spool);
    if run.from <= spool.next {
        let next = spool.next;
        let wanted = (run.from..)
            .zip(&run.records)
            .skip_while(|(seq, _)| *seq < next);
        for (seq, incoming) in wanted.take(share.most) {
            if share.aside {
                let why = "what follows from it is too large for the ledger".to_owned();
                set_aside(tx, ctx, run, seq, incoming, why, &mut spool);
            } else {
                take(tx, ctx, run, seq, incoming, &mut spool);
            }
            spool.next = seq + 1;
            spool.last = Some(fingerprint(incoming));
            if let Ok(record) = &incoming.record
                && record.quality == TimeQuality::Synced
            {
                spool.heard = spool.heard.max(record.at.min(ctx.now.wall));
            }
        }
    }
    if spool != before {
        tx.put(Write::Spool(run.cp.clone(), run.epoch.clone(), spool));
    }
    Ok(())
}

/// Keeps the records of an agent that is not obeyed: word for word in the ledger, up to a bound. They
/// are no part of any session, and its spool goes on to hold them.
fn keep_apart(tx: &mut Tx<'_, '_>, run: &Run, present: &ChargePoint, share: Share) {
    let Some(other) = present
        .other
        .as_deref()
        .filter(|o| o.epoch == run.epoch && o.boot.id == run.boot)
    else {
        return;
    };
    let mut other = other.clone();
    let next = other.next.max(run.first);
    let room = usize::try_from(OtherAgent::KEPT_MAX.saturating_sub(other.kept)).unwrap_or(0);
    let wanted = (run.from..)
        .zip(&run.records)
        .skip_while(|(seq, _)| *seq < next);
    for (seq, incoming) in wanted.take(share.most.min(room)) {
        if seq != other.next.max(run.first) {
            break;
        }
        let why = format!(
            "sent by boot {} while boot {} is obeyed",
            run.boot, present.boot.id
        );
        keep(tx, run, seq, why, incoming.raw.to_vec());
        other.next = seq + 1;
        other.kept += 1;
    }
    if present.other.as_deref() != Some(&other) {
        tx.put(Write::ChargePoint(
            run.cp.clone(),
            Arc::new(ChargePoint {
                other: Some(Box::new(other)),
                ..present.clone()
            }),
        ));
    }
}

/// Records whose numbers central has from another store with the same epoch: a copy that ran before
/// this one. From where on they differ cannot be told, so that all that come again are kept.
fn keep_doubles(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, run: &Run, spool: &mut Spool) {
    let next = spool.next;
    let doubles = (run.from..)
        .zip(&run.records)
        .take_while(|(seq, _)| *seq < next);
    for (seq, incoming) in doubles {
        let why = "another copy of the store has sent another record with this number".to_owned();
        set_aside(tx, ctx, run, seq, incoming, why, spool);
    }
}

/// What a record keeps when its agent mends its time: what it is, about what, and the register.
fn fingerprint(incoming: &Incoming) -> u32 {
    let mut hasher = blake3::Hasher::new();
    match &incoming.record {
        Ok(record) => {
            let fact = &record.fact;
            hasher.update(fact.kind().as_bytes());
            if let Some(session) = fact.session() {
                hasher.update(session.uuid().as_bytes());
            }
            if let Some(reading) = fact.reading() {
                hasher.update(&reading.register_mwh.0.to_be_bytes());
            }
        }
        Err(_) => {
            hasher.update(&incoming.raw);
        }
    }
    let mut short = [0; 4];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..4]);
    u32::from_be_bytes(short)
}

/// A spool begins above the number that is wanted of it: what is missing was lost there, or was taken by a
/// ledger that is not this one.
fn note_gap(
    tx: &mut Tx<'_, '_>,
    cp: &CpId,
    epoch: &Epoch,
    first: u64,
    flags: bool,
    spool: &mut Spool,
) {
    if first <= spool.next {
        return;
    }
    spool.missing += first - spool.next;
    if flags {
        flag_missing(tx, cp, epoch);
    }
    tx.keep(Evidence {
        cp: cp.clone(),
        epoch: epoch.clone(),
        seq: spool.next,
        why: format!("records {} to {} are missing", spool.next, first - 1),
        raw: Vec::new(),
    });
    spool.next = first;
    spool.last = None;
}

/// What a charge point says of its spool when it presents itself: a gap is noted before the next record
/// comes, which can take days.
pub(super) fn presented(tx: &mut Tx<'_, '_>, cp: &CpId, sync: &SyncRequest) {
    // Nearly always there is none, and then the record need not lean on the spool.
    let there = tx.base().spool_at(cp, &sync.epoch);
    if sync.first <= there.map_or(1, |entry| entry.value.next) {
        return;
    }
    let before = tx.spool(cp, &sync.epoch).unwrap_or_default();
    let mut spool = before.clone();
    note_gap(tx, cp, &sync.epoch, sync.first, true, &mut spool);
    if spool != before {
        tx.put(Write::Spool(cp.clone(), sync.epoch.clone(), spool));
    }
}

fn take(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    run: &Run,
    seq: u64,
    incoming: &Incoming,
    spool: &mut Spool,
) {
    let outcome = match &incoming.record {
        Err(why) => Err(why.clone()),
        Ok(record) if record.seq != seq => Err(format!(
            "stands at {seq} and says that it is {}",
            record.seq
        )),
        Ok(record) if meter_name_len(&record.fact) > METER_ID_BYTES_MAX => Err(format!(
            "names its meter in more than {METER_ID_BYTES_MAX} bytes"
        )),
        Ok(record) => fact(tx, ctx, run, record, spool),
    };
    match outcome {
        Ok(None) => {}
        // The rest of the record is used; the reading is for an operator to judge.
        Ok(Some(flag)) => {
            spool.anomalies += 1;
            keep_allowed(tx, ctx, run, seq, flag.to_string(), incoming, spool);
        }
        Err(why) => set_aside(tx, ctx, run, seq, incoming, why, spool),
    }
}

fn set_aside(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    run: &Run,
    seq: u64,
    incoming: &Incoming,
    why: Unusable,
    spool: &mut Spool,
) {
    spool.quarantined += 1;
    keep_allowed(tx, ctx, run, seq, why, incoming, spool);
}

/// Keeps a record word for word, within the day's allowance. Beyond it only counts move on; of one with
/// a reading the register is kept nevertheless, in few words.
fn keep_allowed(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    run: &Run,
    seq: u64,
    why: String,
    incoming: &Incoming,
    spool: &mut Spool,
) {
    let allowance = spool.allow(ctx.now.wall, incoming.raw.len() + why.len());
    tell_if_used_up(tx, run, seq, allowance);
    if allowance == Allowance::Within {
        keep(tx, run, seq, why, incoming.raw.to_vec());
        return;
    }
    let record = incoming.record.as_ref().ok();
    if let Some(reading) = record.and_then(|record| record.fact.reading())
        && reading.meter_id.len() <= METER_ID_BYTES_MAX
    {
        let why = format!(
            "{why}; meter {} epoch {} stood at {} mWh at {}",
            reading.meter_id, reading.meter_epoch, reading.register_mwh.0, reading.at.0
        );
        keep(tx, run, seq, why, Vec::new());
    }
}

fn tell_if_used_up(tx: &mut Tx<'_, '_>, run: &Run, seq: u64, allowance: Allowance) {
    if allowance == Allowance::UsedUp {
        let why = format!(
            "the {} bytes of evidence of this day are used up: until midnight UTC what cannot be used is counted, and not kept word for word",
            Spool::KEPT_BYTES_MAX
        );
        keep(tx, run, seq, why, Vec::new());
    }
}

fn keep(tx: &mut Tx<'_, '_>, run: &Run, seq: u64, why: String, raw: Vec<u8>) {
    tx.keep(Evidence {
        cp: run.cp.clone(),
        epoch: run.epoch.clone(),
        seq,
        why,
        raw,
    });
}

/// Which sessions the missing records were about cannot be known: all open ones of that spool are
/// flagged.
fn flag_missing(tx: &mut Tx<'_, '_>, cp: &CpId, epoch: &Epoch) {
    let open: Vec<SessionId> = tx
        .base()
        .open_sessions()
        .filter(|e| e.value.cp == *cp && e.value.epoch == *epoch)
        .map(|e| e.value.id)
        .collect();
    for id in open {
        if let Some(session) = tx.session(id).filter(|s| !s.is_ended()) {
            let mut session = Session::clone(&session);
            session.flags.insert(Flag::RecordsMissing);
            tx.put(Write::Session(Arc::new(session)));
        }
    }
}

/// Takes what happened. Says which reading could not be used although the rest was.
fn fact(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    run: &Run,
    record: &EdgeRecord,
    spool: &mut Spool,
) -> Result<Option<Flag>, Unusable> {
    let now = ctx.now.wall;
    match &record.fact {
        EdgeFact::Accepted { session_id, .. } => {
            let session = own(tx, run, *session_id)?;
            match session.stage {
                Stage::Ordered => {
                    let mut session = Session::clone(&session);
                    session.stage = Stage::Taken {
                        phase: Phase::Preparing,
                    };
                    tx.put(Write::Session(Arc::new(session)));
                    Ok(None)
                }
                Stage::Taken { .. } | Stage::Energy { .. } | Stage::Standing { .. } => Ok(None),
                Stage::Ended { .. } => Err("the session had ended in central".into()),
            }
        }
        EdgeFact::OpenedAtEdge {
            session_id,
            connector,
            origin,
            driver_id,
            token,
        } => {
            if let Some(there) = tx.session(*session_id) {
                let same = there.cp == run.cp
                    && there.epoch == run.epoch
                    && !matches!(there.origin, Origin::App | Origin::Operator);
                return if same {
                    Ok(None)
                } else {
                    Err("opens a session whose id is in use".into())
                };
            }
            open_at_edge(
                tx,
                ctx,
                run,
                Opened {
                    id: *session_id,
                    connector: *connector,
                    origin: *origin,
                    claims_driver: driver_id.is_some(),
                    token: token.clone(),
                    at: record.at.min(now),
                    quality: record.quality,
                    now,
                    heard: last_heard(tx, run, spool, now),
                },
            )
            .map(|()| driver_id.as_ref().map(|_| Flag::DriverClaimed))
        }
        EdgeFact::Started {
            session_id,
            device_tx,
            reading,
        } => {
            let session = own(tx, run, *session_id)?;
            match session.stage {
                Stage::Ordered | Stage::Taken { .. } => {
                    let mut session = Session::clone(&session);
                    let believable = Believable::of(&session, now);
                    session.stage = Stage::Energy {
                        phase: Phase::Charging,
                        meter: metering::begin(
                            &mut session.flags,
                            reading,
                            device_tx,
                            Phase::Charging,
                            believable,
                        ),
                    };
                    tx.put(Write::Session(Arc::new(session)));
                    Ok(None)
                }
                Stage::Energy { .. } | Stage::Standing { .. } => Ok(None),
                Stage::Ended { .. } => late(tx, ctx, &session, Some(reading)).map(|()| None),
            }
        }
        EdgeFact::Phase {
            session_id,
            phase,
            reading,
        } => {
            let session = own(tx, run, *session_id)?;
            if session.is_ended() {
                return late(tx, ctx, &session, reading.as_ref()).map(|()| None);
            }
            Ok(progress(tx, ctx, &session, Some(*phase), reading.as_ref()))
        }
        EdgeFact::Checkpoint {
            session_id,
            reading,
        } => {
            let session = own(tx, run, *session_id)?;
            if session.is_ended() {
                return late(tx, ctx, &session, Some(reading)).map(|()| None);
            }
            Ok(progress(tx, ctx, &session, None, Some(reading)))
        }
        EdgeFact::EnergyEnded {
            session_id,
            reading,
            reason,
        } => {
            let session = own(tx, run, *session_id)?;
            if session.is_ended() {
                return late(tx, ctx, &session, reading.as_ref()).map(|()| None);
            }
            let mut session = Session::clone(&session);
            metering::note_clock(&mut session.flags, record.quality);
            let sure = record.quality == TimeQuality::Synced;
            // A time that is not known was before central learned of it: a car that stands is not
            // shown a fee for longer than that.
            let at = if sure { record.at } else { now };
            let at = Believable::of(&session, now).nearest(at);
            Ok(energy_ended(tx, ctx, session, reading.as_ref(), reason, at))
        }
        EdgeFact::Ended {
            session_id,
            completed,
            reason,
            reading,
            stood_s,
        } => {
            let session = own(tx, run, *session_id)?;
            if session.is_ended() {
                confirm_stop(tx, &session.cp, session.connector, session.id);
                return late(tx, ctx, &session, reading.as_ref()).map(|()| None);
            }
            let mut session = Session::clone(&session);
            metering::note_clock(&mut session.flags, record.quality);
            let at = Believable::of(&session, now).nearest(record.at);
            let ending = Ending {
                completed: *completed,
                reason: reason.clone(),
                at,
                sure: record.quality == TimeQuality::Synced,
                stood_s: *stood_s,
            };
            Ok(ended(tx, ctx, session, ending, reading.as_ref()))
        }
        EdgeFact::Connector {
            connector,
            plugged,
            service,
            service_revision,
            fault,
            charger_online,
            ended_since_plug,
        } => {
            known_connector(tx, &run.cp, *connector)?;
            let mut value = tx.connector_to_change(&run.cp, *connector);
            let reported = Some(Reported {
                plugged: *plugged,
                service: *service,
                service_revision: *service_revision,
                fault: fault.clone().map(Box::new),
                charger_online: *charger_online,
                ended_since_plug: *ended_since_plug,
            });
            if value.reported != reported {
                value.reported = reported;
                tx.put(Write::Connector(
                    run.cp.clone(),
                    *connector,
                    Arc::new(value),
                ));
            }
            Ok(None)
        }
        EdgeFact::Booted { .. } => Ok(None),
        EdgeFact::Anomaly { what, .. } => {
            spool.anomalies += 1;
            let allowance = spool.allow(now, what.len());
            tell_if_used_up(tx, run, record.seq, allowance);
            if allowance == Allowance::Within {
                keep(tx, run, record.seq, what.clone(), Vec::new());
            }
            Ok(None)
        }
    }
}

fn meter_name_len(fact: &EdgeFact) -> usize {
    fact.reading().map_or(0, |r| r.meter_id.len())
}

fn known_connector(tx: &mut Tx<'_, '_>, cp: &CpId, connector: ConnectorId) -> Result<(), Unusable> {
    if tx
        .charge_point(cp)
        .is_some_and(|p| p.connector(connector).is_some())
    {
        Ok(())
    } else {
        Err(format!("there is no connector {cp}/{connector}"))
    }
}

/// A session of the charge point that speaks.
fn own(tx: &mut Tx<'_, '_>, run: &Run, id: SessionId) -> Result<Arc<Session>, Unusable> {
    match tx.session(id) {
        Some(session) if session.cp == run.cp => Ok(session),
        Some(_) => Err(format!("session {id} is on another charge point")),
        None => Err(format!("session {id} is not known")),
    }
}

struct Opened {
    id: SessionId,
    connector: ConnectorId,
    origin: Origin,
    claims_driver: bool,
    token: Option<String>,
    /// As the charge point says.
    at: UnixMs,
    quality: TimeQuality,
    /// When central learns of it.
    now: UnixMs,
    /// It was not earlier.
    heard: UnixMs,
}

/// Since when what comes now can have happened: since the record before it in its spool or, in a new
/// one, since the last record of any other. One that has never been heard can have worked alone since
/// it was enrolled.
fn last_heard(tx: &Tx<'_, '_>, run: &Run, spool: &Spool, now: UnixMs) -> UnixMs {
    /// A charge point that works alone before central hears of it at all is new at its place: a month
    /// until it has an uplink is much.
    const UNHEARD_MS_MAX: i64 = 30 * 24 * 3_600 * 1_000;
    if spool.heard > UnixMs(0) {
        return spool.heard;
    }
    let base = tx.base();
    let other = base.spools_of(&run.cp).map(|(_, spool)| spool.heard).max();
    if let Some(heard) = other.filter(|heard| *heard > UnixMs(0)) {
        return heard;
    }
    let enrolled_at = base.enrolment(&run.cp).map_or(UnixMs(0), |e| e.value.at);
    now.plus_ms(-UNHEARD_MS_MAX).max(enrolled_at.min(now))
}

/// How a session can have begun at a charge point. That central or an operator began it is not for
/// a charge point to say.
const fn origin_at_edge(claimed: Origin) -> Origin {
    match claimed {
        Origin::Local | Origin::Free => claimed,
        Origin::App | Origin::Operator | Origin::Unknown | Origin::Unrecognised => Origin::Unknown,
    }
}

/// Opens a session that is nobody's: who charges is known only where central named that driver to
/// the charge point.
fn open_at_edge(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    run: &Run,
    opened: Opened,
) -> Result<(), Unusable> {
    known_connector(tx, &run.cp, opened.connector)?;
    let Some(present) = tx.charge_point(&run.cp) else {
        return Err("the charge point has not presented itself".into());
    };
    let origin = origin_at_edge(opened.origin);
    let tariff = if origin == Origin::Free {
        pricing::free_tariff()
    } else {
        tariff_at(tx, ctx, &run.cp, &present).ok()
    };
    let Some(tariff) = tariff else {
        return Err("no tariff applies".into());
    };
    let mut connector = tx.connector_to_change(&run.cp, opened.connector);
    if connector.open.len() >= OPEN_PER_CONNECTOR_MAX {
        return Err(format!(
            "{}/{} has {OPEN_PER_CONNECTOR_MAX} open sessions already",
            run.cp, opened.connector
        ));
    }
    let earliest = opened.heard.plus_ms(-TOLD_LATE_MS_MAX);
    let flows_from = match opened.quality {
        TimeQuality::Synced => opened.at.max(earliest),
        TimeQuality::Unsure | TimeQuality::Unrecognised => earliest,
    }
    .max(connector.busy_until);
    let mut session = Session {
        id: opened.id,
        origin,
        driver: None,
        request: None,
        token: opened.token,
        cp: run.cp.clone(),
        connector: opened.connector,
        site: present.site.clone(),
        time_zone: Arc::clone(&present.time_zone),
        epoch: run.epoch.clone(),
        idle_s_max: 0,
        tariff,
        limits: ev_contract::v1::Limits::default(),
        accepted_at: match opened.quality {
            TimeQuality::Synced => opened.at.max(flows_from).min(opened.now),
            // A wrong clock's word is kept as it is; nothing rests on it.
            TimeQuality::Unsure | TimeQuality::Unrecognised => opened.at,
        },
        learned_at: opened.now,
        flows_from,
        start_by: opened.at,
        plug_wait_s: 0,
        stage: Stage::Taken {
            phase: Phase::Preparing,
        },
        stop: None,
        counts: false,
        flags: opened
            .claims_driver
            .then_some(Flag::DriverClaimed)
            .into_iter()
            .collect(),
        json: false,
    };
    metering::note_clock(&mut session.flags, opened.quality);
    for other in &connector.open {
        if tx
            .session(*other)
            .is_some_and(|s| !matches!(s.stage, Stage::Ordered))
        {
            session.flags.insert(Flag::Overlap);
        }
    }
    connector.open.insert(session.id);
    tx.put(Write::Connector(
        run.cp.clone(),
        opened.connector,
        Arc::new(connector),
    ));
    tx.put(Write::Session(Arc::new(session)));
    Ok(())
}

/// Takes a reading into an open session. One without a recorded start begins metering here: the
/// record of its start is missing. Says why the reading could not be used, if so.
fn meter_into(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    session: &mut Session,
    phase: Option<Phase>,
    reading: Option<&Reading>,
) -> Option<Flag> {
    let can = Capability::of(session, tx.charge_point(&session.cp).as_deref());
    let believable = Believable::of(session, ctx.now.wall);
    let patience_ms = pricing::patience_ms(&session.tariff.terms);
    match &mut session.stage {
        Stage::Ordered | Stage::Taken { .. } => {
            if let Some(reading) = reading {
                session.flags.insert(Flag::RecordsMissing);
                let phase = phase.unwrap_or(Phase::Charging);
                session.stage = Stage::Energy {
                    phase,
                    meter: metering::begin(&mut session.flags, reading, "", phase, believable),
                };
            } else if let Some(phase) = phase {
                session.stage = Stage::Taken { phase };
            }
            None
        }
        Stage::Energy {
            phase: current,
            meter,
        } => {
            if let Some(phase) = phase {
                *current = phase;
            }
            let Some(reading) = reading else {
                // When it went on is not known: at the last reading it still paused.
                if let (Some(patience_ms), true) = (patience_ms, *current != Phase::SuspendedEv) {
                    meter.end_pause(patience_ms);
                }
                return None;
            };
            metering::read(
                meter,
                &mut session.flags,
                reading,
                *current,
                believable,
                can,
                patience_ms,
            )
        }
        Stage::Standing { meter, .. } => metering::read(
            meter,
            &mut session.flags,
            reading?,
            Phase::Idle,
            believable,
            can,
            patience_ms,
        ),
        Stage::Ended { .. } => None,
    }
}

fn progress(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    session: &Session,
    phase: Option<Phase>,
    reading: Option<&Reading>,
) -> Option<Flag> {
    let mut session = session.clone();
    let odd = meter_into(tx, ctx, &mut session, phase.and_then(open_phase), reading);
    tx.put(Write::Session(Arc::new(session)));
    odd
}

fn energy_ended(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    mut session: Session,
    reading: Option<&Reading>,
    reason: &EndReason,
    at: UnixMs,
) -> Option<Flag> {
    let odd = meter_into(tx, ctx, &mut session, None, reading);
    if let Stage::Energy { meter, .. } = &session.stage {
        let mut meter = meter.clone();
        // A pause up to the end of energy goes over into standing after it.
        if let Some(patience_ms) = pricing::patience_ms(&session.tariff.terms) {
            meter.end_pause(patience_ms);
        }
        session.stage = Stage::Standing {
            energy_ended_at: at.max(meter.last_at),
            meter,
            reason: reason.clone(),
        };
    }
    tx.put(Write::Session(Arc::new(session)));
    odd
}

/// The end of a session as its charge point says it.
struct Ending {
    completed: bool,
    reason: EndReason,
    at: UnixMs,
    /// `at` is by central's clock.
    sure: bool,
    stood_s: Option<u32>,
}

fn ended(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    mut session: Session,
    ending: Ending,
    reading: Option<&Reading>,
) -> Option<Flag> {
    let Ending {
        completed,
        reason,
        at,
        sure,
        stood_s,
    } = ending;
    let odd = meter_into(tx, ctx, &mut session, None, reading);
    if session.meter().is_some() && reading.is_none() {
        session.flags.insert(Flag::NoEndReading);
    }
    let energy_ended_at = match &session.stage {
        Stage::Standing {
            meter,
            energy_ended_at,
            ..
        } => match stood_s {
            // Where only the end of standing is dated, how long it took tells its beginning.
            Some(stood_s) if sure => at
                .plus_ms(-1_000 * i64::from(stood_s))
                .max(meter.last_at)
                .min(*energy_ended_at),
            Some(_) | None => *energy_ended_at,
        },
        Stage::Energy { meter, .. } => at.max(meter.last_at),
        Stage::Ordered | Stage::Taken { .. } | Stage::Ended { .. } => at,
    };
    finish::finish(
        tx,
        ctx,
        session,
        Ended {
            completed,
            reason,
            energy_ended_at: Some(energy_ended_at),
            ended_at: at,
            stood_s,
        },
    );
    odd
}

/// The charge point has confirmed the stop of a session that was written off.
pub(super) fn confirm_stop(
    tx: &mut Tx<'_, '_>,
    cp: &CpId,
    connector: ConnectorId,
    session: SessionId,
) {
    let stands = tx
        .connector(cp, connector)
        .is_some_and(|value| value.standing_stops.contains(&session));
    if stands {
        let mut value = tx.connector_to_change(cp, connector);
        value.standing_stops.remove(&session);
        tx.put(Write::Connector(cp.clone(), connector, Arc::new(value)));
    }
}

/// A record about a session that has ended: what it adds to the bill becomes an adjustment.
fn late(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    session: &Session,
    reading: Option<&Reading>,
) -> Result<(), Unusable> {
    let Stage::Ended { receipt } = &session.stage else {
        return Ok(());
    };
    let nothing = || Err("the session had ended; the record adds no energy".to_owned());
    let Some(reading) = reading else {
        return nothing();
    };
    let mut adjustments = Arc::unwrap_or_clone(tx.adjustments(session.id).unwrap_or_default());
    let last = adjustments
        .meter
        .clone()
        .or_else(|| receipt.meters.last().cloned());
    let believable = Believable::of(session, ctx.now.wall);
    let at = believable.nearest(reading.at);
    let terms = &session.tariff.terms;
    let Some(last) = last else {
        // Central saw no energy begin: the meter counts from here.
        adjustments.meter = Some(MeterSpan {
            meter_id: reading.meter_id.clone(),
            meter_epoch: reading.meter_epoch,
            from_mwh: reading.register_mwh,
            to_mwh: reading.register_mwh,
        });
        tx.put(Write::Adjustments(session.id, Arc::new(adjustments)));
        return Ok(());
    };
    let can = Capability::of(session, tx.charge_point(&session.cp).as_deref());
    let since = receipt.started_at.unwrap_or(session.accepted_at);
    let (since, at) = (
        metering::flowed_since(since, &session.flags, reading, believable.past(reading.at)),
        at.max(since),
    );
    let another = reading.meter_id != last.meter_id || reading.meter_epoch != last.meter_epoch;
    let (added, span) = match metering::step(&last, since, reading, at, can) {
        Step::Rises => (
            reading.register_mwh.saturating_sub(last.to_mwh),
            MeterSpan {
                to_mwh: reading.register_mwh,
                ..last
            },
        ),
        Step::Another(span) => (span.to_mwh.saturating_sub(span.from_mwh), span),
        Step::OverEnd(end, span) => (
            end.saturating_sub(last.to_mwh).saturating_add(span.to_mwh),
            span,
        ),
        Step::Anomaly(flag) => return Err(format!("the session had ended; {flag}")),
    };
    if added == Mwh(0) && !another {
        return nothing();
    }
    let total = adjustments.list.iter().fold(receipt.energy_mwh, |sum, a| {
        sum.saturating_add(Mwh(u64::try_from(a.energy_mwh).unwrap_or(0)))
    });
    if added > Mwh(0) && !believable.is_energy(total.saturating_add(added), can) {
        return Err(format!("the session had ended; {}", Flag::RegisterJumped));
    }
    adjustments.meter = Some(span);
    if added == Mwh(0) {
        // Another meter counts from here.
        tx.put(Write::Adjustments(session.id, Arc::new(adjustments)));
        return Ok(());
    }
    // What one run adds is one adjustment, not one per checkpoint.
    let same_run = tx.wrote(&Key::Adjustments(session.id));
    let energy = match adjustments.list.last() {
        Some(before) if same_run && before.by == "central" && before.energy_mwh > 0 => {
            let sum = added.saturating_add(Mwh(before.energy_mwh.unsigned_abs()));
            adjustments.list.pop();
            sum
        }
        _ => added,
    };
    let before = finish::energy_after(receipt, &adjustments);
    let amount = pricing::added(terms, receipt, before, before.saturating_add(energy));
    finish::adjust(
        ctx,
        session,
        receipt,
        &mut adjustments,
        Correction {
            by: "central",
            reason: "energy that a late record says".into(),
            energy_mwh: finish::signed(energy),
            amount,
        },
    );
    tx.put(Write::Adjustments(session.id, Arc::new(adjustments)));
    Ok(())
}
