//! What a swarm says of itself: a line now and then, and a summary.

use std::{fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use serde::Serialize;

use super::cars::CarCounts;
use crate::tally::{Cause, Round, Tally, Totals};

/// Clock ticks of `/proc`, the same on every Linux that this runs on.
const TICKS_PER_S: f64 = 100.0;
/// Bytes of a page, likewise.
const PAGE_BYTES: u64 = 4_096;

/// How a swarm is, or was when it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `progress` or `summary`.
    pub kind: Kind,
    /// Charge points.
    pub count: u32,
    /// Charge points that have begun.
    pub begun: usize,
    /// Seconds since the first began.
    pub at_s: f64,
    /// What they have come to.
    #[serde(flatten)]
    pub totals: Totals,
    /// Starts at cabinets that were refused.
    pub starts_refused: u64,
    /// Starts at cabinets that were due when no connector was free.
    pub starts_without_connector: u64,
    /// Records that lay in the stores when the charge points began.
    pub backlog: u64,
    /// Until no record waited any more for the first time, in milliseconds since the first charge
    /// point began; none until then, or without a backlog.
    pub drained_ms: Option<u64>,
    /// How long it took to be in sync after the start and after each cut.
    pub rounds: Vec<Round>,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// Processor time of the process, user and system.
    pub cpu_s: f64,
    /// Every session that began at a cabinet had ended and no record waited; only said at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
}

/// Which report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It goes on.
    Progress,
    /// It has ended.
    Summary,
}

/// What a report is made from.
#[derive(Debug)]
pub(crate) struct Sources<'s> {
    pub(crate) count: u32,
    pub(crate) begun: usize,
    pub(crate) since: Duration,
    pub(crate) tally: &'s Tally,
    pub(crate) cars: &'s CarCounts,
    pub(crate) backlog: u64,
    pub(crate) drained_ms: Option<u64>,
}

impl Report {
    pub(crate) fn new(kind: Kind, from: &Sources<'_>, settled: Option<bool>) -> Self {
        let (memory_bytes, cpu_s) = used();
        Self {
            kind,
            count: from.count,
            begun: from.begun,
            at_s: from.since.as_secs_f64(),
            totals: from.tally.totals(),
            starts_refused: from.cars.refused.load(Relaxed),
            starts_without_connector: from.cars.no_connector.load(Relaxed),
            backlog: from.backlog,
            drained_ms: from.drained_ms,
            rounds: from.tally.rounds(),
            memory_bytes,
            cpu_s,
            settled,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.totals;
        if self.kind == Kind::Progress {
            return write!(
                f,
                "{:7.1} s  {} begun, {} connected, {} in sync; {} sessions, {} ended; {} of {} \
                 records acknowledged, {} wait; {} MiB, {:.1} s of CPU",
                self.at_s,
                self.begun,
                t.connected,
                t.in_sync,
                t.sessions,
                t.ended,
                t.records_acknowledged,
                self.backlog + t.records,
                t.waiting,
                self.memory_bytes >> 20,
                self.cpu_s
            );
        }
        writeln!(
            f,
            "{} charge points, {} were in sync, for {:.1} s",
            self.count, t.ever_in_sync, self.at_s
        )?;
        for round in &self.rounds {
            let cause = match round.cause {
                Cause::Start => "start",
                Cause::Cut => "cut",
            };
            writeln!(
                f,
                "in sync after a {cause}: {} in {} ms; each min {} p50 {} p99 {} max {} ms",
                round.count, round.all_ms, round.min_ms, round.p50_ms, round.p99_ms, round.max_ms
            )?;
        }
        writeln!(
            f,
            "sessions: {} begun here, {} taken from central, {} ended, {} starts refused, {} without \
             a free connector",
            t.opened_here, t.taken, t.ended, self.starts_refused, self.starts_without_connector
        )?;
        writeln!(
            f,
            "records: {} from before, {} written, {} sent in {} runs, {} acknowledged, {} wait; \
             {} runs put off, {} unanswered",
            self.backlog,
            t.records,
            t.records_sent,
            t.evts,
            t.records_acknowledged,
            t.waiting,
            t.evts_put_off,
            t.evts_unanswered
        )?;
        if let Some(drained_ms) = self.drained_ms {
            writeln!(f, "what lay there was drained after {drained_ms} ms")?;
        }
        writeln!(
            f,
            "{} syncs, {} without success; {} heartbeats; {} commands; {} connections lost",
            t.syncs, t.syncs_failed, t.heartbeats, t.commands, t.cuts
        )?;
        write!(
            f,
            "{} MiB, {:.1} s of CPU{}",
            self.memory_bytes >> 20,
            self.cpu_s,
            match self.settled {
                Some(false) => "; it ended with sessions or records left",
                Some(true) | None => "",
            }
        )
    }
}

/// Resident memory in bytes and processor time in seconds; zeros where `/proc` cannot be read.
fn used() -> (u64, f64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may have blanks in it; user and system time are the 14th and 15th.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum();
    (pages.unwrap_or(0) * PAGE_BYTES, ticks / TICKS_PER_S)
}
