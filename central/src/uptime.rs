//! What this replica sees of connectors, by the minute, written down for reports. See ADR 0005.
//!
//! Once a minute each connector is looked at, and the minute counts as what it is then. Written is what
//! has changed, and every ten minutes that it was looked at; a full account when a replica begins and
//! each day. Minutes in which this replica does not hear are left out.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream;
use ev_contract::{
    ids::{ConnectorId, CpId, ReplicaId, SiteId},
    subjects::Subject,
    v1::{Availability, UptimeChange, UptimeRecord},
    wire::{self, Encoding, Tag},
};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

/// Changes in one record, with the longest ids 200 KiB: below what the stream takes.
const CHANGES_MAX: usize = 1_000;
/// Minutes after which it is written that nothing has changed. What is not written when a replica is
/// killed is unknown.
const SAID_EVERY_MINUTES: u32 = 10;
/// Records that wait to be appended: the full account of 20,000 connectors, ten times. When a server
/// takes none for so long, the next full account begins anew.
const WAITING_MAX: usize = 256;
/// How long one attempt to append may take, and the pause before the next.
const APPEND_MAX: Duration = Duration::from_secs(3);
const APPEND_AGAIN: Duration = Duration::from_secs(1);
const DAY_MINUTES: u32 = 24 * 60;

/// A connector as it is seen in a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The charge point.
    pub cp: CpId,
    /// Its site.
    pub site: SiteId,
    /// Which connector.
    pub connector: ConnectorId,
    /// What it is worth.
    pub is: Availability,
}

/// What was said so far.
#[derive(Debug)]
pub struct Watch {
    replica: ReplicaId,
    run: String,
    n: u64,
    known: HashMap<(CpId, ConnectorId), Availability>,
    /// The day of the last full account; none before the first.
    full_on: Option<u32>,
    /// The first minute that was looked at and is not written down, and the one after the last.
    unsaid: Option<(u32, u32)>,
    /// The minute that was last looked at.
    last: Option<u32>,
}

impl Watch {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(replica: ReplicaId) -> Self {
        Self {
            replica,
            run: Uuid::now_v7().to_string(),
            n: 0,
            known: HashMap::new(),
            full_on: None,
            unsaid: None,
            last: None,
        }
    }

    /// Begins anew, with the next minute: what was said may not have been written.
    pub fn begin_anew(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::new(self.replica.clone())
        };
    }

    /// Whether a minute has yet to be looked at.
    #[must_use]
    pub fn is_due(&self, minute: u32) -> bool {
        self.last != Some(minute)
    }

    /// What is to be written now that a minute was looked at, or could not be: then `sights` is none.
    pub fn look(
        &mut self,
        minute: u32,
        sights: Option<impl Iterator<Item = Sight>>,
    ) -> Vec<UptimeRecord> {
        if self.last.is_some_and(|last| minute < last) {
            // The clock was set back.
            self.begin_anew();
        }
        self.last = Some(minute);
        let mut records = Vec::new();
        let Some(sights) = sights else {
            records.extend(self.so_far());
            return records;
        };
        let day = minute / DAY_MINUTES;
        let full = self.full_on != Some(day);
        if full {
            self.full_on = Some(day);
            records.extend(self.so_far());
            self.known.clear();
        }
        let mut changes = Vec::new();
        for sight in sights {
            let at = (sight.cp, sight.connector);
            let was = self.known.get(&at).copied();
            if was.unwrap_or(Availability::Unknown) == sight.is {
                continue;
            }
            self.known.insert(at.clone(), sight.is);
            changes.push(UptimeChange {
                cp: at.0,
                site: sight.site,
                connector: at.1,
                availability: sight.is,
            });
        }
        let follows = self.unsaid.is_some_and(|(_, until)| until == minute);
        if changes.is_empty() && !full {
            if !follows {
                records.extend(self.so_far());
            }
            let from = self.unsaid.map_or(minute, |(from, _)| from);
            self.unsaid = Some((from, minute + 1));
            if minute + 1 - from >= SAID_EVERY_MINUTES {
                records.extend(self.so_far());
            }
            return records;
        }
        records.extend(self.so_far());
        // All but the last say what is so from here on, the last says that it was looked at.
        let mut parts = changes.chunks(CHANGES_MAX).map(<[_]>::to_vec).peekable();
        if parts.peek().is_none() {
            records.push(self.record(minute, minute + 1, full, Vec::new()));
        }
        while let Some(part) = parts.next() {
            let until = minute + u32::from(parts.peek().is_none());
            records.push(self.record(minute, until, full, part));
        }
        records
    }

    /// What was looked at and is not written down: nothing has changed in it.
    pub fn so_far(&mut self) -> Option<UptimeRecord> {
        let (from, until) = self.unsaid.take()?;
        Some(self.record(from, until, false, Vec::new()))
    }

    fn record(
        &mut self,
        from: u32,
        until: u32,
        full: bool,
        changes: Vec<UptimeChange>,
    ) -> UptimeRecord {
        self.n += 1;
        UptimeRecord {
            tag: Tag::new(),
            replica: self.replica.clone(),
            run: self.run.clone(),
            n: self.n,
            from,
            until,
            full,
            changes,
        }
    }
}

/// Starts the task that appends; it ends, with everything written, when the sender is dropped.
#[must_use]
pub fn start(js: jetstream::Context) -> (mpsc::Sender<UptimeRecord>, JoinHandle<()>) {
    let (records, mut records_in) = mpsc::channel::<UptimeRecord>(WAITING_MAX);
    let task = tokio::spawn(async move {
        while let Some(record) = records_in.recv().await {
            append(&js, &record).await;
        }
    });
    (records, task)
}

/// Appends a record, again and again: one that is there twice counts once.
async fn append(js: &jetstream::Context, record: &UptimeRecord) {
    let subject = Subject::Uptime {
        replica: record.replica.clone(),
    }
    .to_string();
    let bytes: bytes::Bytes = match wire::encode(record, Encoding::MsgPack) {
        Ok(bytes) => bytes.into(),
        Err(error) => {
            tracing::error!(%error, "a record of uptime cannot be encoded");
            return;
        }
    };
    let mut told = false;
    loop {
        let attempt = async {
            js.publish(subject.clone(), bytes.clone())
                .await
                .map_err(|e| e.to_string())?
                .await
                .map_err(|e| e.to_string())
        };
        let error = match tokio::time::timeout(APPEND_MAX, attempt).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error,
            Err(_) => "no acknowledgement in time".to_owned(),
        };
        if !told {
            told = true;
            tracing::warn!(error, "uptime not written; trying again");
        }
        tokio::time::sleep(APPEND_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(cp: &str, is: Availability) -> Sight {
        Sight {
            cp: cp.parse().unwrap(),
            site: "depot".parse().unwrap(),
            connector: ConnectorId(1),
            is,
        }
    }

    fn watch() -> Watch {
        Watch::new("central-1".parse().unwrap())
    }

    fn look(watch: &mut Watch, minute: u32, is: Availability) -> Vec<(u64, u32, u32, bool, usize)> {
        let sights = [sight("CP-001", is), sight("CP-002", Availability::Unknown)];
        shapes(watch.look(minute, Some(sights.into_iter())))
    }

    fn shapes(records: Vec<UptimeRecord>) -> Vec<(u64, u32, u32, bool, usize)> {
        records
            .into_iter()
            .map(|r| (r.n, r.from, r.until, r.full, r.changes.len()))
            .collect()
    }

    fn deaf(watch: &mut Watch, minute: u32) -> Vec<(u64, u32, u32, bool, usize)> {
        shapes(watch.look(minute, None::<std::iter::Empty<Sight>>))
    }

    #[test]
    fn only_changes_are_written_and_every_ten_minutes_that_there_were_none() {
        let mut watch = watch();
        let up = Availability::Up;
        assert_eq!(look(&mut watch, 100, up), [(1, 100, 101, true, 1)]);
        assert!(!watch.is_due(100) && watch.is_due(101));
        for minute in 101..110 {
            assert_eq!(look(&mut watch, minute, up), []);
        }
        assert_eq!(look(&mut watch, 110, up), [(2, 101, 111, false, 0)]);
        assert_eq!(look(&mut watch, 111, up), []);
        let changed = look(&mut watch, 112, Availability::Offline);
        assert_eq!(changed, [(3, 111, 112, false, 0), (4, 112, 113, false, 1)]);
    }

    #[test]
    fn minutes_without_hearing_are_in_no_record() {
        let mut watch = watch();
        let up = Availability::Up;
        look(&mut watch, 100, up);
        look(&mut watch, 101, up);
        assert_eq!(deaf(&mut watch, 102), [(2, 101, 102, false, 0)]);
        assert_eq!(deaf(&mut watch, 103), []);
        assert_eq!(look(&mut watch, 110, up), []);
        assert_eq!(deaf(&mut watch, 111), [(3, 110, 111, false, 0)]);
        // It stood still: no minute was looked at meanwhile.
        assert_eq!(look(&mut watch, 120, up), []);
        assert_eq!(look(&mut watch, 130, up), [(4, 120, 121, false, 0)]);
    }

    #[test]
    fn each_day_and_each_begin_has_a_full_account() {
        let mut watch = watch();
        let up = Availability::Up;
        look(&mut watch, 1_439, up);
        assert_eq!(look(&mut watch, 1_440, up), [(2, 1_440, 1_441, true, 1)]);
        watch.begin_anew();
        // Not at once: what could not be written a moment ago cannot be written now.
        assert!(!watch.is_due(1_440) && watch.is_due(1_441));
        assert_eq!(look(&mut watch, 1_441, up), [(1, 1_441, 1_442, true, 1)]);
        // A clock that was set back.
        assert_eq!(look(&mut watch, 1_400, up), [(1, 1_400, 1_401, true, 1)]);
    }

    #[test]
    fn many_changes_come_in_parts_of_which_the_last_counts_the_minute() {
        let mut watch = watch();
        let many = (0..2_500).map(|n| sight(&format!("CP-{n}"), Availability::Up));
        let records = shapes(watch.look(5, Some(many)));
        let expected = [
            (1, 5, 5, true, 1_000),
            (2, 5, 5, true, 1_000),
            (3, 5, 6, true, 500),
        ];
        assert_eq!(records, expected);
    }
}
