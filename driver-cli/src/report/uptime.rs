//! From what replicas saw to minutes of connectors. The rules stand in ADR 0005.

use std::collections::{BTreeMap, HashMap};

use ev_contract::{
    ids::{ConnectorId, CpId, SiteId},
    time::UnixMs,
    v1::{Availability, Receipt, UptimeRecord},
};
use serde::Serialize;

/// A connector.
pub type Place = (CpId, ConnectorId);

/// Minutes in a row: the first, and the one after the last. Each list of them is in order, without
/// overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Minutes(Vec<(u32, u32)>);

impl Minutes {
    fn add(&mut self, from: u32, until: u32) {
        if from >= until {
            return;
        }
        match self.0.last_mut() {
            // In order, as almost all come.
            Some(last) if from >= last.0 && from <= last.1 => last.1 = last.1.max(until),
            Some(_) | None => self.0.push((from, until)),
        }
    }

    fn settled(mut self) -> Self {
        self.0.sort_unstable();
        let mut settled = Self::default();
        for (from, until) in self.0 {
            settled.add(from, until);
        }
        settled
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        let mut others = other.0.iter().peekable();
        for &(mut from, until) in &self.0 {
            while let Some(&&(a, b)) = others.peek() {
                if b <= from {
                    others.next();
                } else if a >= until {
                    break;
                } else {
                    left.add(from, a.max(from));
                    from = b.min(until);
                    if b > until {
                        break;
                    }
                    others.next();
                }
            }
            left.add(from, until);
        }
        left
    }

    fn and(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self.settled()
    }

    fn within(&self, from: u32, until: u32) -> Self {
        let clipped = self
            .0
            .iter()
            .map(|&(a, b)| (a.max(from), b.min(until)))
            .filter(|(a, b)| a < b);
        Self(clipped.collect())
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(a, b)| u64::from(b - a)).sum()
    }
}

#[derive(Debug, Default)]
struct Seen {
    site: Option<SiteId>,
    /// As they lie in [`CLASSES`].
    by_class: [Minutes; CLASSES.len()],
    used: Minutes,
}

/// What counts where replicas differ, the first first.
const CLASSES: [Availability; 5] = [
    Availability::Up,
    Availability::Planned,
    Availability::Faulted,
    Availability::ChargerOffline,
    Availability::Offline,
];

fn class(availability: Availability) -> Option<usize> {
    CLASSES.iter().position(|class| *class == availability)
}

/// What one run of a replica has said so far.
#[derive(Debug, Default)]
struct Run {
    n: u64,
    /// Nothing is known until the next full account.
    broken: bool,
    full_from: Option<u32>,
    said: HashMap<Place, (Availability, u32)>,
    until: u32,
}

/// Everything that was seen, as far as it was read. It grows with connectors and with their changes.
#[derive(Debug)]
pub struct Uptime {
    from: u32,
    until: u32,
    runs: HashMap<String, Run>,
    seen: BTreeMap<Place, Seen>,
}

/// The minute of a time.
#[must_use]
pub fn minute(at: UnixMs) -> u32 {
    u32::try_from(at.0.div_euclid(60_000)).unwrap_or_default()
}

impl Uptime {
    /// Of so many minutes and no others.
    #[must_use]
    pub fn new(from: u32, until: u32) -> Self {
        Self {
            from,
            until,
            runs: HashMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Another record, in the order in which they were kept.
    pub fn record(&mut self, record: &UptimeRecord) {
        let mut run = self.runs.remove(&record.run).unwrap_or_default();
        if record.n > run.n {
            self.go_on(&mut run, record);
        }
        self.runs.insert(record.run.clone(), run);
    }

    fn go_on(&mut self, run: &mut Run, record: &UptimeRecord) {
        let follows = record.n == run.n + 1;
        run.n = record.n;
        if !follows {
            self.close(run);
            run.said.clear();
            run.broken = true;
        }
        if record.full {
            if run.full_from != Some(record.from) {
                self.close(run);
                run.said.clear();
                run.full_from = Some(record.from);
                run.broken = false;
            }
        } else {
            run.full_from = None;
        }
        if run.broken {
            return;
        }
        if record.from != run.until {
            // Minutes in which it did not listen.
            self.close(run);
            for (_, since) in run.said.values_mut() {
                *since = record.from;
            }
        }
        for change in &record.changes {
            let place = (change.cp.clone(), change.connector);
            self.seen.entry(place.clone()).or_default().site = Some(change.site.clone());
            let now = (change.availability, record.from);
            if let Some((was, since)) = run.said.insert(place.clone(), now) {
                self.add(&place, was, since, record.from);
            }
        }
        run.until = record.until.max(record.from);
    }

    /// What a run has said holds up to here.
    fn close(&mut self, run: &mut Run) {
        let until = run.until;
        for (place, (is, since)) in &mut run.said {
            self.add(place, *is, *since, until);
            *since = until;
        }
    }

    fn add(&mut self, place: &Place, is: Availability, from: u32, until: u32) {
        let (from, until) = (from.max(self.from), until.min(self.until));
        if let (Some(class), Some(seen)) = (class(is), self.seen.get_mut(place))
            && from < until
        {
            seen.by_class[class].add(from, until);
        }
    }

    /// A session has drawn energy on a connector. What its charge point was not sure of proves nothing:
    /// it may say that it charged before it was there.
    pub fn used(&mut self, receipt: &Receipt) {
        let (Some(from), Some(until)) = (receipt.started_at, receipt.energy_ended_at) else {
            return;
        };
        if !receipt.clock_was_sure() {
            return;
        }
        let (place, site) = ((receipt.cp_id.clone(), receipt.connector), &receipt.site_id);
        // Only whole minutes.
        let from = minute(from.plus_ms(59_999)).max(self.from);
        let until = minute(until).min(self.until);
        if from < until {
            let seen = self.seen.entry(place).or_default();
            seen.site.get_or_insert_with(|| site.clone());
            seen.used.add(from, until);
        }
    }

    /// The minutes of every connector; `window` says which of them are in its month.
    #[must_use]
    pub fn rows(mut self, month: &str, window: impl Fn(&CpId) -> (u32, u32)) -> Vec<UptimeRow> {
        let mut runs = std::mem::take(&mut self.runs);
        for run in runs.values_mut() {
            self.close(run);
        }
        self.seen
            .into_iter()
            .map(|((cp, connector), seen)| {
                let (from, until) = window(&cp);
                row(month, &cp, connector, seen, (from, until.max(from)))
            })
            .collect()
    }
}

fn row(
    month: &str,
    cp: &CpId,
    connector: ConnectorId,
    seen: Seen,
    (from, until): (u32, u32),
) -> UptimeRow {
    let mut told = Minutes::default();
    let mut counts = [0; CLASSES.len()];
    let mut in_use_unseen = 0;
    let used = seen.used.settled().within(from, until);
    for (class, minutes) in seen.by_class.into_iter().enumerate() {
        if CLASSES[class] == Availability::Offline {
            // It charged, though nobody heard it. What has a fault or is out of service stays so.
            let more = used.without(&told);
            in_use_unseen = more.count();
            told = told.and(&more);
        }
        let minutes = minutes.settled().within(from, until).without(&told);
        counts[class] = minutes.count();
        told = told.and(&minutes);
    }
    let [up, planned, faulted, charger_offline, offline] = counts;
    let up = up + in_use_unseen;
    let minutes = u64::from(until - from);
    let down = faulted + charger_offline + offline;
    let known = up + planned + down;
    UptimeRow {
        month: month.to_owned(),
        cp_id: cp.to_string(),
        connector: connector.0,
        site_id: seen.site.map(|site| site.to_string()).unwrap_or_default(),
        minutes,
        up,
        in_use_unseen,
        planned,
        down,
        offline,
        faulted,
        charger_offline,
        unknown: minutes - known,
        uptime_percent: Percent::of(known - down, known),
        uptime_percent_least: Percent::of(up + planned, minutes),
    }
}

/// A share in percent with three decimals, rounded down; none of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(Option<u64>);

impl Percent {
    fn of(part: u64, whole: u64) -> Self {
        Self((part * 100_000).checked_div(whole))
    }
}

impl Serialize for Percent {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => s.serialize_none(),
            Some(n) => s.collect_str(&format_args!("{}.{:03}", n / 1_000, n % 1_000)),
        }
    }
}

/// The columns of [`UptimeRow`].
pub const UPTIME_NAMES: &[&str] = &[
    "month",
    "cp_id",
    "connector",
    "site_id",
    "minutes",
    "up",
    "in_use_unseen",
    "planned",
    "down",
    "offline",
    "faulted",
    "charger_offline",
    "unknown",
    "uptime_percent",
    "uptime_percent_least",
];

/// A connector's month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UptimeRow {
    month: String,
    /// The charge point.
    pub cp_id: String,
    /// Its connector.
    pub connector: u16,
    /// Its site.
    pub site_id: String,
    minutes: u64,
    up: u64,
    in_use_unseen: u64,
    planned: u64,
    down: u64,
    offline: u64,
    faulted: u64,
    charger_offline: u64,
    unknown: u64,
    uptime_percent: Percent,
    uptime_percent_least: Percent,
}

#[cfg(test)]
mod tests {
    use ev_contract::{
        v1::{Flag, UptimeChange},
        wire::Tag,
    };

    use super::*;
    use crate::report::{csv_row::cells, rows::tests::receipt};

    const UP: Availability = Availability::Up;
    const OFFLINE: Availability = Availability::Offline;

    fn record(
        run: &str,
        n: u64,
        (from, until): (u32, u32),
        full: bool,
        changes: &[(&str, Availability)],
    ) -> UptimeRecord {
        UptimeRecord {
            tag: Tag::new(),
            replica: "central-1".parse().unwrap(),
            run: run.into(),
            n,
            from,
            until,
            full,
            changes: changes
                .iter()
                .map(|(cp, availability)| UptimeChange {
                    cp: cp.parse().unwrap(),
                    site: "depot".parse().unwrap(),
                    connector: ConnectorId(1),
                    availability: *availability,
                })
                .collect(),
        }
    }

    fn month(records: &[UptimeRecord]) -> UptimeRow {
        let mut uptime = Uptime::new(0, 1_000);
        for record in records {
            uptime.record(record);
        }
        uptime.rows("2026-11", |_| (100, 200)).remove(0)
    }

    fn text(percent: Percent) -> String {
        serde_json::to_string(&percent).unwrap()
    }

    #[test]
    fn minutes_are_counted_between_changes_within_the_month() {
        let row = month(&[
            record("a", 1, (90, 110), true, &[("CP-001", UP)]),
            record("a", 2, (110, 111), false, &[("CP-001", OFFLINE)]),
            record("a", 3, (111, 120), false, &[]),
            record(
                "a",
                4,
                (120, 130),
                false,
                &[("CP-001", Availability::Planned)],
            ),
            record("a", 5, (130, 220), false, &[("CP-001", UP)]),
        ]);
        assert_eq!(
            (row.up, row.down, row.planned, row.unknown),
            (80, 10, 10, 0)
        );
        assert_eq!((row.minutes, row.offline), (100, 10));
        assert_eq!(text(row.uptime_percent), "\"90.000\"");
    }

    #[test]
    fn an_outage_of_central_is_unknown_and_counts_for_nothing() {
        let row = month(&[
            record("a", 1, (90, 120), true, &[("CP-001", UP)]),
            record("a", 2, (150, 160), false, &[]),
            // Another begin of the same replica, after a crash.
            record("b", 1, (180, 200), true, &[("CP-001", UP)]),
        ]);
        assert_eq!((row.up, row.down, row.unknown), (50, 0, 50));
        assert_eq!(text(row.uptime_percent), "\"100.000\"");
        assert_eq!(text(row.uptime_percent_least), "\"50.000\"");
    }

    #[test]
    fn what_any_replica_heard_was_heard() {
        let deaf = [
            record("b", 1, (100, 150), true, &[("CP-001", OFFLINE)]),
            record("b", 2, (150, 200), false, &[("CP-001", UP)]),
        ];
        let hears = [record("a", 1, (100, 140), true, &[("CP-001", UP)])];
        for records in [
            [deaf[0].clone(), hears[0].clone(), deaf[1].clone()],
            [hears[0].clone(), deaf[0].clone(), deaf[1].clone()],
        ] {
            let row = month(&records);
            assert_eq!((row.up, row.offline, row.unknown), (90, 10, 0));
        }
    }

    #[test]
    fn a_record_that_is_there_twice_counts_once_and_a_missing_one_is_not_guessed() {
        let first = record("a", 1, (100, 120), true, &[("CP-001", UP)]);
        let second = record("a", 2, (120, 130), false, &[("CP-001", OFFLINE)]);
        let row = month(&[first.clone(), second.clone(), first.clone(), second.clone()]);
        assert_eq!((row.up, row.offline, row.unknown), (20, 10, 70));
        let fourth = record("a", 4, (140, 150), false, &[]);
        let fifth = record("a", 5, (150, 160), true, &[("CP-001", UP)]);
        let row = month(&[first, second, fourth, fifth]);
        assert_eq!((row.up, row.offline, row.unknown), (30, 10, 60));
    }

    #[test]
    fn a_full_account_in_parts_is_one() {
        let mut uptime = Uptime::new(0, 1_000);
        uptime.record(&record("a", 1, (100, 100), true, &[("CP-001", UP)]));
        uptime.record(&record("a", 2, (100, 110), true, &[("CP-002", OFFLINE)]));
        let rows = uptime.rows("2026-11", |_| (100, 110));
        let counted: Vec<_> = rows.iter().map(|row| (row.up, row.offline)).collect();
        assert_eq!(counted, [(10, 0), (0, 10)]);
    }

    #[test]
    fn who_charged_unheard_was_up_but_not_who_had_a_fault() {
        let mut uptime = Uptime::new(0, 1_000);
        uptime.record(&record("a", 1, (100, 150), true, &[("CP-001", OFFLINE)]));
        uptime.record(&record(
            "a",
            2,
            (150, 200),
            false,
            &[("CP-001", Availability::Faulted)],
        ));
        let at = |minute: i64, ms: i64| UnixMs(minute * 60_000 + ms);
        let charged = |from, until| Receipt {
            started_at: Some(from),
            energy_ended_at: Some(until),
            flags: Vec::new(),
            ..receipt(1, 0)
        };
        uptime.used(&charged(at(109, 1), at(160, 30_000)));
        uptime.used(&charged(at(210, 0), at(220, 0)));
        // A charge point that is not sure of the time may say that it charged before it was there.
        uptime.used(&Receipt {
            flags: vec![Flag::ClockUnsure],
            ..charged(at(0, 0), at(230, 0))
        });
        let row = uptime.rows("2026-11", |_| (100, 230)).remove(0);
        let names: Vec<_> = cells(&row).unwrap().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, UPTIME_NAMES);
        assert_eq!((row.up, row.in_use_unseen), (50, 50));
        assert_eq!((row.offline, row.faulted, row.unknown), (10, 50, 20));
    }

    #[test]
    fn lists_of_minutes_are_sets() {
        let list = |spans: &[(u32, u32)]| Minutes(spans.to_vec()).settled();
        let all = list(&[(30, 40), (0, 10), (5, 20)]);
        assert_eq!(all.0, [(0, 20), (30, 40)]);
        assert_eq!(
            all.without(&list(&[(2, 3), (10, 35)])).0,
            [(0, 2), (3, 10), (35, 40)]
        );
        assert_eq!(all.without(&list(&[(0, 50)])).0, []);
        assert_eq!(
            all.without(&list(&[(15, 32), (33, 34)])).0,
            [(0, 15), (32, 33), (34, 40)]
        );
        assert_eq!(all.within(15, 31).count(), 6);
        assert_eq!(text(Percent::of(0, 0)), "null");
    }
}
