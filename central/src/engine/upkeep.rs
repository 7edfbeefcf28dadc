//! What is done from time to time: receipts, snapshots, the audit of the stream, releasing, and
//! forgetting.

use std::{
    collections::{BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream::Stream};
use central_core::{
    effects, insight, ripe,
    view::Heard,
    whole::{Look, Marker, Watch},
};
use ev_contract::{
    streams,
    time::UnixMs,
    v1::{Availability, Reach, UptimeRecord},
};

use super::{Engine, Item, RoundTrip, TaskDone, answers::cdr_bytes, wall};
use crate::{
    audit,
    ledger::{self, Extent},
    orders,
    receipts::{self, CdrId, Copied},
    snapshots,
    uptime::Sight,
    whole::OTHERS,
};

/// Receipts under way to the CDR stream at once.
const COPYING_MAX: usize = 256;
/// How long the appender of an end has, before other replicas look whether its receipt is there, and at
/// most twice that: it may have been killed. It takes some milliseconds; whoever looks in vain costs the
/// server a refused message.
const OTHERS_COPY_AFTER: Duration = Duration::from_secs(4);
/// Before a receipt is tried again.
const COPY_AGAIN: Duration = Duration::from_secs(2);
/// Before a receipt is compared again with another one in its place. Somebody must look.
const CONFLICT_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks at the streams: a ledger that is gone is told within seconds, and five small
/// questions are nothing beside what a replica asks otherwise.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two times that it is written down how far the ledger was served. A store that is set back by
/// less than this while no replica lives goes unnoticed.
const MARK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks for old things.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// Records after which a snapshot is due, however few messages they came in: a restart reads half a
/// million in some seconds, and this leaves room for those that come while it is written.
const RECORDS_UNSNAPPED_MAX: usize = 400_000;

/// What the server says of all streams.
#[derive(Debug)]
pub(super) struct Looked {
    ledger: Option<Extent>,
    /// The server's time with the answer about the ledger.
    at: Option<(UnixMs, RoundTrip)>,
    others: Vec<(&'static str, Option<Extent>)>,
}

impl Looked {
    async fn at(js: &jetstream::Context) -> anyhow::Result<Self> {
        let extent = async |name| -> anyhow::Result<Option<Extent>> {
            let stream = ledger::find(js, name).await?;
            Ok(stream.map(|stream| Extent::of(stream.cached_info())))
        };
        let mut others = Vec::new();
        for name in OTHERS {
            others.push((name, extent(name).await?));
        }
        // The last: what is missing beside a ledger that is there was not lost with it.
        let sent = Instant::now();
        let ledger = ledger::extent(js).await?;
        let back = Instant::now();
        Ok(Self {
            ledger: ledger.map(|(extent, _)| extent),
            at: ledger.map(|(_, at)| (at, RoundTrip { sent, back })),
            others,
        })
    }
}

/// Looks at the streams.
#[derive(Debug)]
pub(super) struct Looks {
    under_way: bool,
    next: Instant,
    watch: Watch,
    ledger_created_ns: i128,
    cdr: Extent,
    /// Streams that the last look did not find.
    gone: BTreeSet<&'static str>,
    /// Streams that are being made.
    making: BTreeSet<&'static str>,
}

impl Looks {
    pub(super) fn new(ledger: &Stream, cdr: &Stream, now: Instant) -> Self {
        Self {
            under_way: false,
            next: now,
            watch: Watch::default(),
            ledger_created_ns: Extent::of(ledger.cached_info()).created_ns,
            cdr: Extent::of(cdr.cached_info()),
            gone: BTreeSet::new(),
            making: BTreeSet::new(),
        }
    }

    /// There is a reason not to wait.
    pub(super) fn soon(&mut self) {
        self.next = self.next.min(Instant::now());
    }
}

impl Engine {
    /// A receipt or an adjustment must be in the CDR stream.
    pub(super) fn must_copy(&mut self, id: CdrId, mine: bool) {
        let wait = if mine {
            Duration::ZERO
        } else {
            OTHERS_COPY_AFTER.mul_f64(1.0 + rand::random::<f64>())
        };
        if let Entry::Vacant(entry) = self.uncopied.entry(id) {
            let now = Instant::now();
            entry.insert(now);
            self.copy_at.set(id, now + wait);
        }
    }

    /// What the state says has yet to be done, once the ledger is read: what came in between is over.
    pub(super) fn after_replay(&mut self) {
        self.litter = Vec::new();
        let state = self.log.state();
        for (_, tariffs) in state.tariff_scopes() {
            let scheduled = tariffs.scheduled.iter().map(|(_, tariff)| tariff);
            for tariff in tariffs.current.iter().chain(scheduled) {
                self.metrics.currency(&tariff.terms.currency);
            }
        }
        let mut orders = Vec::new();
        for entry in state.sessions_before(None) {
            let session = &entry.value;
            if effects::has_order(session) {
                orders.push((
                    orders::Subject::Session(session.id),
                    session.cp.clone(),
                    u64::from(session.stop.is_some()),
                ));
            }
        }
        for ((cp, id), connector) in state.connectors() {
            if effects::has_service_order(connector) {
                orders.push((
                    orders::Subject::Service(cp.clone(), id),
                    cp.clone(),
                    connector.service_revision,
                ));
            }
            orders.extend(
                connector
                    .standing_stops
                    .iter()
                    .map(|s| (orders::Subject::Standing(*s), cp.clone(), 0)),
            );
        }
        for (subject, cp, version) in orders {
            self.orders.want(subject, &cp, version, false);
        }
        for id in self.papers() {
            self.must_copy(id, false);
        }
    }

    /// Receipts and adjustments that the state has.
    fn papers(&self) -> Vec<CdrId> {
        let state = self.log.state();
        let mut papers = Vec::new();
        for entry in state.sessions_before(None).filter(|e| e.value.is_ended()) {
            let session = entry.value.id;
            papers.push(CdrId {
                session,
                adjustment: None,
            });
            let adjustments = state.adjustments(session);
            let list = adjustments.into_iter().flat_map(|entry| &entry.value.list);
            papers.extend(list.map(|a| CdrId {
                session,
                adjustment: Some(a.n),
            }));
        }
        papers
    }

    /// Once this replica serves: heartbeats are listened to from here on.
    pub(super) fn after_barrier(&mut self) {
        self.snapshot_at = self.snapshot_at.min(self.log.state().basis().seq);
    }

    pub(super) fn upkeep(&mut self) {
        let oldest = self.uncopied.values().min().map(Instant::elapsed);
        self.metrics
            .receipts_waiting(self.uncopied.len(), oldest.unwrap_or_default());
        self.metrics.snapshot_at(self.snapshot_at);
        self.look_at_streams();
        if !self.serving() {
            return;
        }
        self.mark();
        self.note_reach();
        self.see();
        self.release();
        self.snapshot();
        if self.last_forget.elapsed() > FORGET_EVERY {
            self.last_forget = Instant::now();
            self.forget();
        }
    }

    /// Writes down whose reach has changed.
    fn note_reach(&mut self) {
        for (cp, reach, at) in self.heard.news(&self.listening) {
            self.trail.reach(&cp, reach, at);
        }
    }

    /// Looks at each connector once a minute, for reports.
    fn see(&mut self) {
        let minute = u32::try_from(wall().0.div_euclid(60_000)).unwrap_or_default();
        if !self.uptime.is_due(minute) {
            return;
        }
        let (listening, heard) = (&self.listening, &self.heard);
        // Those who are not heard right after a begin may only be late.
        let sights = listening.hears().then(|| {
            insight::fleet(self.log.state(), heard).map(|(cp, present, connector, is)| Sight {
                is: match is {
                    Availability::Offline if !listening.settled(heard.beat_ms(cp)) => {
                        Availability::Unknown
                    }
                    is => is,
                },
                cp: cp.clone(),
                site: present.site.clone(),
                connector,
            })
        });
        let records = self.uptime.look(minute, sights);
        self.write_seen(records);
    }

    /// What was seen and is not written yet.
    pub(super) fn last_sight(&mut self) {
        let last = self.uptime.so_far();
        self.write_seen(last.into_iter().collect());
    }

    fn write_seen(&mut self, records: Vec<UptimeRecord>) {
        for record in records {
            if self.seen.try_send(record).is_err() {
                tracing::warn!("uptime cannot be written: these minutes will be unknown");
                self.uptime.begin_anew();
                return;
            }
        }
    }

    /// Asks the server what is there of the streams, and so what time it is there.
    pub(super) fn look_at_streams(&mut self) {
        let now = Instant::now();
        if self.looks.under_way || now < self.looks.next {
            return;
        }
        self.looks.under_way = true;
        self.looks.next = now + LOOK_EVERY;
        let js = self.js.clone();
        let results = self.results.0.clone();
        tokio::spawn(async move {
            let looked = match Looked::at(&js).await {
                Ok(looked) => Some(looked),
                Err(error) => {
                    tracing::debug!(error = %format!("{error:#}"), "no look at the streams");
                    None
                }
            };
            // The engine may have ended.
            let _ = results.send(TaskDone::Looked(looked)).await;
        });
    }

    /// What the server says of the streams. Nothing that is answered rests on it.
    pub(super) fn looked(&mut self, looked: Option<Looked>) {
        self.looks.under_way = false;
        let Some(Looked { ledger, at, others }) = looked else {
            return;
        };
        if let Some((at, round_trip)) = at {
            self.hear_servers_clock(at, round_trip);
        }
        let look = match ledger {
            None => Look::Absent,
            Some(extent) => {
                self.known_to = self.known_to.max(extent.last);
                Look::There {
                    last: extent.last,
                    removed: extent.removed,
                    same: extent.created_ns == self.looks.ledger_created_ns,
                }
            }
        };
        let state = self.log.state();
        let (id, basis) = (state.ledger(), state.basis());
        let now_ms = self.now().mono_ms;
        if let Err(alarm) = self.looks.watch.look(look, id, basis, now_ms) {
            self.alarm(&alarm);
            return;
        }
        if self.looks.watch.doubts() {
            self.looks.soon();
        }
        // Beside a ledger that is not there nothing is made: that would be another world.
        if ledger.is_none() || !self.serving() {
            return;
        }
        for (name, extent) in others {
            match extent {
                None => self.is_gone(name),
                Some(extent) => self.is_there(name, extent),
            }
        }
    }

    /// A stream beside the ledger is not there.
    fn is_gone(&mut self, name: &'static str) {
        self.looks.soon();
        // The second look excludes a server that was just starting.
        if !self.looks.gone.insert(name) && self.looks.making.insert(name) {
            let (js, replicas) = (self.js.clone(), self.config.stream_replicas);
            let results = self.results.0.clone();
            tokio::spawn(async move {
                let made = match name {
                    name if name == streams::CDR.name => {
                        ledger::ensure(&js, &streams::CDR, replicas).await.map(drop)
                    }
                    name if name == streams::UPTIME.name => {
                        ledger::ensure(&js, &streams::UPTIME, replicas)
                            .await
                            .map(drop)
                    }
                    name if name == streams::AUDIT.name => {
                        audit::ensure(&js, replicas).await.map(drop)
                    }
                    _ => snapshots::bucket(&js, replicas).await.map(drop),
                };
                if let Err(error) = &made {
                    tracing::warn!(error = %format!("{error:#}"), stream = name, "not made anew");
                }
                // The engine may have ended.
                let ok = made.is_ok();
                let _ = results.send(TaskDone::Anew { name, ok }).await;
            });
        }
    }

    pub(super) fn made_anew(&mut self, name: &'static str, ok: bool) {
        self.looks.making.remove(name);
        if ok {
            self.looks.gone.remove(name);
            self.was_gone(name);
        }
    }

    /// Somebody must hear of it; and what the state still has of it is brought there again.
    pub(super) fn was_gone(&mut self, name: &'static str) {
        tracing::error!(
            stream = name,
            "a stream was gone, or messages of it, and is filled with what is still known; see the runbook"
        );
        self.metrics.stream_anew(name);
        match name {
            name if name == streams::CDR.name => {
                self.cdr_upto = [0; 2];
                for id in self.papers() {
                    self.must_copy(id, false);
                }
            }
            streams::SNAPSHOTS => self.snapshot_at = 0,
            _ => {}
        }
    }

    fn is_there(&mut self, name: &'static str, extent: Extent) {
        self.looks.gone.remove(name);
        if name != streams::CDR.name {
            return;
        }
        // Another replica may have made it anew, and ended before it was full.
        let before = std::mem::replace(&mut self.looks.cdr, extent);
        if extent.created_ns != before.created_ns || extent.removed > before.removed {
            self.was_gone(name);
        }
    }

    /// Writes down from time to time how far the ledger was served.
    fn mark(&mut self) {
        let marker = self.marker_of_now();
        let now = Instant::now();
        if self.marking || marker == self.marker || now - self.marked_at < MARK_EVERY {
            return;
        }
        self.marking = true;
        self.marked_at = now;
        let marks = self.marks.clone();
        let results = self.results.0.clone();
        tokio::spawn(async move {
            let writing = tokio::task::spawn_blocking(move || marks.write(&marker)).await;
            let ok = match writing {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::error!(error = %format!("{error:#}"), "not written down");
                    false
                }
                Err(error) => {
                    tracing::error!(%error, "not written down");
                    false
                }
            };
            // The engine may have ended.
            let _ = results.send(TaskDone::Marked { marker, ok }).await;
        });
    }

    /// The same at once, at an end: it takes as long as a sync of the disk.
    pub(super) fn mark_now(&mut self) {
        let marker = self.marker_of_now();
        let ok = match self.marks.write(&marker) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "not written down");
                false
            }
        };
        self.marked(marker, ok);
    }

    pub(super) fn marked(&mut self, marker: Marker, ok: bool) {
        self.metrics.marker_kept(ok);
        if ok {
            self.marker = marker;
        }
    }

    const fn marker_of_now(&self) -> Marker {
        let basis = self.log.state().basis();
        Marker {
            seq: basis.seq,
            digest: basis.digest,
            ..self.marker
        }
    }

    /// Sessions whose charge point is out of reach no longer count, if they were stopped long ago or
    /// never taken.
    fn release(&mut self) {
        let after = self.config.release_after();
        let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let (listening, heard) = (&self.listening, &self.heard);
        let silent_ms = |cp: &_| {
            let silence = i64::try_from(heard.silence(cp).as_millis()).unwrap_or(i64::MAX);
            // What this replica could not hear says nothing.
            let is_away = heard.reach(cp) == Reach::Offline && listening.settled(heard.beat_ms(cp));
            is_away.then_some(silence)
        };
        for session in ripe::to_release(self.log.state(), after_ms, wall(), silent_ms) {
            self.waiting.push(Item::release(session));
        }
    }

    fn forget(&mut self) {
        let copied = |session| {
            let of = |adjustment| CdrId {
                session,
                adjustment,
            };
            self.uncopied
                .range(of(None)..=of(Some(u32::MAX)))
                .next()
                .is_none()
        };
        let keep = self.config.keep();
        if let Some(forget) = ripe::to_forget(self.log.state(), keep, wall(), copied) {
            self.waiting.push(Item::forget(forget));
        }
    }

    pub(super) fn copy_receipts(&mut self) {
        let now = Instant::now();
        while self.copying < COPYING_MAX {
            let Some(id) = self.copy_at.pop_due(now) else {
                return;
            };
            let Some(bytes) = self.cdr_entry(id) else {
                self.uncopied.remove(&id);
                continue;
            };
            self.copying += 1;
            let (js, cdr) = (self.js.clone(), self.cdr.clone());
            let results = self.results.0.clone();
            tokio::spawn(async move {
                let (result, seq) = receipts::copy(&js, &cdr, id, bytes).await;
                // The engine may have ended.
                let _ = results.send(TaskDone::Copied { id, result, seq }).await;
            });
        }
    }

    fn cdr_entry(&self, id: CdrId) -> Option<bytes::Bytes> {
        let state = self.log.state();
        match id.adjustment {
            None => cdr_bytes(&state.session(id.session)?.value.receipt()?),
            Some(n) => state
                .adjustments(id.session)?
                .value
                .list
                .iter()
                .find(|a| a.n == n)
                .and_then(cdr_bytes),
        }
    }

    pub(super) fn copied(&mut self, id: CdrId, result: Copied, seq: u64) {
        self.copying = self.copying.saturating_sub(1);
        let upto = &mut self.cdr_upto[usize::from(id.adjustment.is_some())];
        *upto = (*upto).max(seq);
        self.metrics.receipt(result.as_str());
        match result {
            Copied::Written | Copied::There => {
                if result == Copied::Written {
                    self.logbook
                        .copied(id.session, id.adjustment, Instant::now());
                }
                self.uncopied.remove(&id);
            }
            Copied::Conflict => {
                // Stays on the list, so that the gauge shows it, and is looked at again.
                self.copy_at.set(id, Instant::now() + CONFLICT_AGAIN);
            }
            Copied::Failed => {
                let wait = COPY_AGAIN.mul_f64(1.0 + rand::random::<f64>());
                self.copy_at.set(id, Instant::now() + wait);
            }
        }
    }

    fn snapshot(&mut self) {
        let seq = self.log.state().basis().seq;
        let due = seq >= self.snapshot_at + self.config.snapshot_every
            || self.records_unsnapped >= RECORDS_UNSNAPPED_MAX;
        if self.snapshot_under_way || !due {
            return;
        }
        self.snapshot_under_way = true;
        let records = self.records_unsnapped;
        let state = self.log.state().freeze();
        let store = self.snapshots.clone();
        let results = self.results.0.clone();
        tokio::spawn(async move {
            let ok = match snapshots::write(&store, state).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), seq, "no snapshot");
                    false
                }
            };
            // The engine may have ended.
            let _ = results.send(TaskDone::Snapshot { seq, records, ok }).await;
        });
    }

    /// At a graceful end, so that the next start is quick.
    pub(super) async fn last_snapshot(&self) {
        const WAIT: Duration = Duration::from_secs(3);
        let state = self.log.state();
        if self.alarmed() || state.basis().seq == self.snapshot_at {
            return;
        }
        match tokio::time::timeout(WAIT, snapshots::write(&self.snapshots, state.freeze())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %format!("{error:#}"), "no last snapshot"),
            Err(_) => tracing::warn!("no last snapshot: the server did not take it in time"),
        }
    }
}
