//! What is done from time to time: receipts, snapshots, the audit of the stream, releasing, and
//! forgetting.

use std::{
    collections::btree_map::Entry,
    time::{Duration, Instant},
};

use central_core::{effects, insight, model::Stage, ripe, state::Alarm, view::Heard};
use ev_contract::v1::{Availability, Reach, UptimeRecord};

use super::{Engine, Item, RoundTrip, TaskDone, answers::cdr_bytes, wall};
use crate::{
    ledger::{self, Extent},
    orders,
    receipts::{self, CdrId, Copied},
    snapshots,
    uptime::Sight,
};

/// Receipts under way to the CDR stream at once.
const COPYING_MAX: usize = 256;
/// How long the appender of an end has, before other replicas look whether its receipt is there.
const OTHERS_COPY_AFTER: Duration = Duration::from_secs(15);
/// Before a receipt is tried again.
const COPY_AGAIN: Duration = Duration::from_secs(2);
/// Before a receipt is compared again with another one in its place. Somebody must look.
const CONFLICT_AGAIN: Duration = Duration::from_secs(60);
/// Between two looks at the stream's extent.
pub(super) const EXTENT_EVERY: Duration = Duration::from_secs(5);
/// An answer that the stream ends below what is applied may come from a deposed leader, which can
/// answer for 20 s. Only when it stays is it the truth.
const BEHIND_MAX: Duration = Duration::from_secs(30);
/// Longest time between two such answers: three looks.
const BEHIND_GAP_MAX: Duration = Duration::from_secs(15);
/// Between two looks for old things.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// Records after which a snapshot is due, however few messages they came in: a restart reads half a
/// million in some seconds, and this leaves room for those that come while it is written.
const RECORDS_UNSNAPPED_MAX: usize = 400_000;

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
        let mut receipts = Vec::new();
        for entry in state.sessions_before(None) {
            let session = &entry.value;
            if effects::has_order(session) {
                orders.push((
                    orders::Subject::Session(session.id),
                    session.cp.clone(),
                    u64::from(session.stop.is_some()),
                ));
            }
            if let Stage::Ended { .. } = session.stage {
                receipts.push(CdrId {
                    session: session.id,
                    adjustment: None,
                });
                if let Some(adjustments) = state.adjustments(session.id) {
                    receipts.extend(adjustments.value.list.iter().map(|a| CdrId {
                        session: session.id,
                        adjustment: Some(a.n),
                    }));
                }
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
        for id in receipts {
            self.must_copy(id, false);
        }
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
        self.ask_extent();
        if !self.serving() {
            return;
        }
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
        let settled = self.listening.settled();
        for (cp, reach, at) in self.heard.news(settled, settled) {
            self.trail.reach(&cp, reach, at);
        }
    }

    /// Looks at each connector once a minute, for reports.
    fn see(&mut self) {
        let minute = u32::try_from(wall().0.div_euclid(60_000)).unwrap_or_default();
        if !self.uptime.is_due(minute) {
            return;
        }
        let settled = self.listening.settled();
        let heard = &self.heard;
        // Those who are not heard right after a begin may only be late.
        let sights = self.listening.hears().then(|| {
            insight::fleet(self.log.state(), heard).map(|(cp, present, connector, is)| Sight {
                cp: cp.clone(),
                site: present.site.clone(),
                connector,
                is: match is {
                    Availability::Offline if !settled => Availability::Unknown,
                    is => is,
                },
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

    /// Asks the server how far the ledger goes, and so what time it is there.
    pub(super) fn ask_extent(&mut self) {
        if self.extent_under_way || self.last_extent.elapsed() < EXTENT_EVERY {
            return;
        }
        self.extent_under_way = true;
        let sent = Instant::now();
        self.last_extent = sent;
        let js = self.js.clone();
        let results = self.results.0.clone();
        tokio::spawn(async move {
            let extent = match ledger::extent(&js).await {
                Ok(extent) => Some(extent),
                Err(error) => {
                    tracing::debug!(error = %format!("{error:#}"), "no extent");
                    None
                }
            };
            let back = Instant::now();
            let round_trip = RoundTrip { sent, back };
            // The engine may have ended.
            let _ = results.send(TaskDone::Extent(extent, round_trip)).await;
        });
    }

    /// What the server says of the ledger. Removed messages never come back, so that this needs no
    /// fresh answer; that the stream ends too early does.
    pub(super) fn audit_extent(&mut self, extent: Extent) {
        let applied = self.log.state().basis().seq;
        self.known_to = self.known_to.max(extent.last);
        if extent.removed > 0 {
            self.alarm(&Alarm::Removed {
                removed: extent.removed,
            });
            return;
        }
        if extent.last >= applied {
            self.behind = None;
            return;
        }
        let now = Instant::now();
        // A process that stood still has not seen it stay.
        let since = match self.behind {
            Some((since, last)) if now - last <= BEHIND_GAP_MAX => since,
            Some(_) | None => now,
        };
        self.behind = Some((since, now));
        if now - since > BEHIND_MAX {
            self.alarm(&Alarm::Rewound {
                last: extent.last,
                applied,
            });
        }
    }

    /// Sessions whose charge point is out of reach no longer count, if they were stopped long ago or
    /// never taken.
    fn release(&mut self) {
        // What this replica could not hear says nothing.
        if !self.listening.settled() {
            return;
        }
        let after = self.config.release_after();
        let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let heard = &self.heard;
        let silent_ms = |cp: &_| {
            let silence = i64::try_from(heard.silence(cp).as_millis()).unwrap_or(i64::MAX);
            (heard.reach(cp) == Reach::Offline).then_some(silence)
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
