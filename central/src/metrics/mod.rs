//! Every metric of central. Labels are bounded: never a session, driver or request id; charge points
//! up to [`Config::charge_point_series_max`](crate::Config).
//!
//! - here: what this replica counts as it happens
//! - [`fleet`]: what it knows of sessions and charge points, looked at from time to time
//! - [`nats`]: what nats-server says of itself

pub mod fleet;
pub mod nats;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use central_core::{frame::Kind, state::Alarm};
use ev_client::{Term, What};
use ev_contract::{
    units::Currency,
    v1::{AuditKind, EndCode, Receipt, Status},
};
use ev_enrol::Role;
use prometheus::{
    Counter, CounterVec, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, process_collector::ProcessCollector,
    proto::MetricFamily,
};
use tokio::sync::watch;

use self::fleet::Survey;

/// The metrics, registered together.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    survey: watch::Sender<Option<Arc<Survey>>>,
    build: IntGaugeVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    ignored: IntCounterVec,
    refused: IntCounterVec,
    sessions_ended: IntCounterVec,
    receipts_energy: Counter,
    receipts_amount: CounterVec,
    adjustments: IntCounter,
    commands: IntCounterVec,
    command_seconds: Histogram,
    append_seconds: Histogram,
    frame_records: Histogram,
    frame_bytes: Histogram,
    append_retries: IntCounter,
    void_records: IntCounterVec,
    applied: IntGauge,
    apply_lag: IntGauge,
    queue: IntGauge,
    nats_connected: IntGauge,
    ready: IntGauge,
    clock_ahead: Gauge,
    clock_off: IntGauge,
    ledger_alarm: IntGaugeVec,
    ledger_full: IntGauge,
    marker_kept: IntGauge,
    streams_anew: IntCounterVec,
    receipts: IntCounterVec,
    receipts_waiting: IntGauge,
    receipts_oldest_waiting: Gauge,
    snapshots: IntCounterVec,
    snapshot_sequence: IntGauge,
    out_dropped: IntCounter,
    http_closed: IntCounter,
    junk: IntCounter,
    audit_entries: IntCounterVec,
    audit_bytes: IntGauge,
    expires_at_seconds: IntGaugeVec,
    connections: IntGaugeVec,
    connections_watched: IntGauge,
    connections_refused: IntCounterVec,
    connections_closed: IntCounterVec,
    connections_kicked: IntCounter,
}

fn seconds(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(vec![
        0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        10.0,
    ])
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Only when two have the same name: a defect of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let metrics = Self {
            survey: watch::Sender::new(None),
            build: register!(IntGaugeVec::new(
                Opts::new("ev_build_info", "Which build this replica is; always 1."),
                &["version", "replica"]
            )),
            requests: register!(IntCounterVec::new(
                Opts::new(
                    "ev_requests_total",
                    "Requests answered, by verb, result and code."
                ),
                &["verb", "result", "code"]
            )),
            request_seconds: register!(HistogramVec::new(
                HistogramOpts::new(
                    "ev_request_seconds",
                    "Time from the arrival of a request until its answer is handed on, by verb and result. A start is to be accepted within 1 s."
                )
                .buckets(REQUEST_BUCKETS.to_vec()),
                &["verb", "result"]
            )),
            ignored: register!(IntCounterVec::new(
                Opts::new(
                    "ev_messages_ignored_total",
                    "Messages passed over, by reason."
                ),
                &["reason"]
            )),
            refused: register!(IntCounterVec::new(
                Opts::new(
                    "ev_refused_total",
                    "Messages not let in, by verb (`read`: a driver's question, `op`: an operator's request) and why: `rate` (this asker sends too many), `askers` (too many askers), `full` (no memory left for this kind)."
                ),
                &["verb", "why"]
            )),
            sessions_ended: register!(IntCounterVec::new(
                Opts::new(
                    "ev_sessions_ended_total",
                    "Sessions that have ended, by result and reason. Each is counted by one replica."
                ),
                &["result", "reason"]
            )),
            receipts_energy: register!(Counter::new(
                "ev_receipts_energy_joules_total",
                "Energy on receipts. Each is counted by one replica."
            )),
            receipts_amount: register!(CounterVec::new(
                Opts::new(
                    "ev_receipts_amount_total",
                    "Money on receipts, by currency, taxes included. Each is counted by one replica."
                ),
                &["currency"]
            )),
            adjustments: register!(IntCounter::new(
                "ev_adjustments_total",
                "Adjustments to receipts. Each is counted by one replica."
            )),
            commands: register!(IntCounterVec::new(
                Opts::new(
                    "ev_commands_total",
                    "Attempts to command a charge point, by verb and outcome."
                ),
                &["verb", "outcome"]
            )),
            command_seconds: register!(Histogram::with_opts(seconds(
                "ev_command_seconds",
                "Time until a charge point answered a command."
            ))),
            append_seconds: register!(Histogram::with_opts(seconds(
                "ev_ledger_append_seconds",
                "Time until a frame was acknowledged and applied."
            ))),
            frame_records: register!(Histogram::with_opts(
                HistogramOpts::new("ev_ledger_frame_records", "Records in a frame.").buckets(vec![
                    0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0
                ])
            )),
            frame_bytes: register!(Histogram::with_opts(
                HistogramOpts::new("ev_ledger_frame_bytes", "Size of a frame.").buckets(vec![
                    256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 524_288.0
                ])
            )),
            append_retries: register!(IntCounter::new(
                "ev_ledger_append_retries_total",
                "Appends of a frame beyond the first."
            )),
            void_records: register!(IntCounterVec::new(
                Opts::new(
                    "ev_ledger_void_records_total",
                    "Own records that another replica's forestalled, by kind."
                ),
                &["kind"]
            )),
            applied: register!(IntGauge::new(
                "ev_ledger_applied_sequence",
                "Ledger sequence that this replica has applied."
            )),
            apply_lag: register!(IntGauge::new(
                "ev_ledger_apply_lag_messages",
                "Ledger messages that this replica knows of and has not applied."
            )),
            queue: register!(IntGauge::new(
                "ev_queue_length",
                "Questions that wait for a frame."
            )),
            nats_connected: register!(IntGauge::new(
                "ev_nats_connected",
                "1 while connected to nats-server."
            )),
            ready: register!(IntGauge::new("ev_ready", "1 while this replica answers.")),
            clock_ahead: register!(Gauge::new(
                "ev_clock_ahead_seconds",
                "How far the clock of this host is ahead of nats-server's, as far as is certain; below zero when it is behind."
            )),
            clock_off: register!(IntGauge::new(
                "ev_clock_off",
                "1 while the clock of this host goes with too few others: then this replica answers nothing."
            )),
            ledger_alarm: register!(IntGaugeVec::new(
                Opts::new(
                    "ev_ledger_alarm",
                    "1 when the ledger is not what this replica had applied, by what was seen: `digest_mismatch`, `gap`, `rewound`, `removed`, `missing` (there is none), `foreign` (another one), `nameless` (its first message is no frame), `unreadable`."
                ),
                &["kind"]
            )),
            ledger_full: register!(IntGauge::new(
                "ev_ledger_full",
                "1 while nats-server has no room for this replica's frame."
            )),
            marker_kept: register!(IntGauge::new(
                "ev_ledger_marker_kept",
                "0 while this replica cannot write down which ledger it serves, and how far."
            )),
            streams_anew: register!(IntCounterVec::new(
                Opts::new(
                    "ev_streams_anew_total",
                    "Streams beside the ledger that were gone, or had lost messages, and were made or filled anew, by stream."
                ),
                &["stream"]
            )),
            receipts: register!(IntCounterVec::new(
                Opts::new(
                    "ev_receipts_total",
                    "Receipts and adjustments brought to the CDR stream, by result."
                ),
                &["result"]
            )),
            receipts_waiting: register!(IntGauge::new(
                "ev_receipts_waiting",
                "Receipts and adjustments that are not known to be in the CDR stream."
            )),
            receipts_oldest_waiting: register!(Gauge::new(
                "ev_receipts_oldest_waiting_seconds",
                "For how long the oldest of them has not been known to be there; 0 where there is none."
            )),
            snapshots: register!(IntCounterVec::new(
                Opts::new("ev_snapshots_total", "Snapshots by result."),
                &["result"]
            )),
            snapshot_sequence: register!(IntGauge::new(
                "ev_snapshot_sequence",
                "Ledger sequence of the newest snapshot that this replica knows of."
            )),
            http_closed: register!(IntCounter::new(
                "ev_http_connections_closed_total",
                "HTTP connections closed since there were too many."
            )),
            out_dropped: register!(IntCounter::new(
                "ev_messages_dropped_total",
                "Outgoing messages dropped because the connection did not take them."
            )),
            junk: register!(IntCounter::new(
                "ev_ledger_junk_messages_total",
                "Messages on the ledger's subject that are no frames."
            )),
            audit_entries: register!(IntCounterVec::new(
                Opts::new(
                    "ev_audit_entries_total",
                    "Entries for the audit, by who acted (`op`, `driver`, `cp`, `connection`) and result: `written`, `failed` (not known to be on disk; an operator was told `outcome_unknown`), `dropped` (too many at once)."
                ),
                &["kind", "result"]
            )),
            audit_bytes: register!(IntGauge::new(
                "ev_audit_bytes",
                "Size of the audit's stream when this replica last wrote to it."
            )),
            expires_at_seconds: register!(IntGaugeVec::new(
                Opts::new(
                    "ev_expires_at_seconds",
                    "When what this replica connects with ends, in seconds since 1970, by what: `credentials`, `client_certificate`, `authority` (the first to end of those in the file), `server_certificate` (the first to end of those that the servers show)."
                ),
                &["what"]
            )),
            connections: register!(IntGaugeVec::new(
                Opts::new(
                    "ev_connections",
                    "Connections to all servers by the credential's role; each replica counts all."
                ),
                &["role"]
            )),
            connections_watched: register!(IntGauge::new(
                "ev_connections_watched",
                "1 while this replica hears who connects to nats-server."
            )),
            connections_refused: register!(IntCounterVec::new(
                Opts::new(
                    "ev_connections_refused_total",
                    "Connections that nats-server did not let in, by reason: `expired`, `revoked`, `signature` (forged, or shown without its key), `unknown` (no credential, or one that nobody here has signed). Each is counted by one replica."
                ),
                &["reason"]
            )),
            connections_closed: register!(IntCounterVec::new(
                Opts::new(
                    "ev_connections_closed_total",
                    "Connections that ended, by reason: `left`, `stale` (no answer to pings), `slow` (took too little), `revoked`, `expired`, `limit`, `violation`, `kicked`, `server_ended`, `other`. Each is counted by one replica."
                ),
                &["reason"]
            )),
            connections_kicked: register!(IntCounter::new(
                "ev_connections_kicked_total",
                "Connections that were closed since their credential had too many. Each is counted by one replica."
            )),
            registry: registry.clone(),
        };
        metrics.begin();
        Ok(metrics)
    }

    /// What can be counted is there from the first: a rate needs a value before the first event.
    fn begin(&self) {
        self.currency(&Currency::EUR);
        for verb in ["start", "stop"] {
            for result in ["accepted", "denied", "error"] {
                self.request_seconds.with_label_values(&[verb, result]);
            }
        }
        for result in [Status::Completed, Status::Failed] {
            for reason in EndCode::ALL {
                self.sessions_ended
                    .with_label_values(&[result.as_str(), reason.as_str()]);
            }
        }
        self.alarm(None);
        self.marker_kept(true);
        for stream in crate::whole::OTHERS {
            self.streams_anew.with_label_values(&[stream]);
        }
        for kind in KINDS {
            self.void_records
                .with_label_values(&[&format!("{kind:?}").to_lowercase()]);
        }
        for result in ["written", "there", "conflict", "failed"] {
            self.receipts.with_label_values(&[result]);
        }
        for result in ["written", "failed"] {
            self.snapshots.with_label_values(&[result]);
        }
        for reason in ["expired", "revoked", "signature", "unknown"] {
            self.connections_refused.with_label_values(&[reason]);
        }
        for reason in [
            "left",
            "stale",
            "slow",
            "revoked",
            "expired",
            "limit",
            "violation",
            "kicked",
            "server_ended",
            "other",
        ] {
            self.connections_closed.with_label_values(&[reason]);
        }
        for kind in AuditKind::ALL {
            for result in ["written", "failed", "dropped"] {
                self.audit_entries
                    .with_label_values(&[kind.as_str(), result]);
            }
        }
    }

    /// The exposition in Prometheus' text format.
    ///
    /// # Errors
    /// Only for a defect in a metric's definition.
    pub fn expose(&self) -> Result<String, prometheus::Error> {
        let survey = self.survey.borrow().clone();
        let mut families = self.registry.gather();
        if let Some(survey) = survey {
            families.extend(survey.families()?);
        }
        text(&families)
    }

    /// Which build this is, and of which replica.
    pub fn build(&self, replica: &str) {
        self.build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), replica])
            .set(1);
    }

    /// What a look at all sessions and charge points has shown.
    pub fn surveyed(&self, survey: Survey) {
        self.survey.send_replace(Some(Arc::new(survey)));
    }

    /// How long a request has taken.
    pub fn took(&self, verb: &str, result: &str, took: Duration) {
        self.request_seconds
            .with_label_values(&[verb, result])
            .observe(took.as_secs_f64());
    }

    /// A session has ended with a receipt.
    pub fn ended(&self, receipt: &Receipt) {
        self.sessions_ended
            .with_label_values(&[receipt.status.as_str(), receipt.end.code.as_str()])
            .inc();
        self.receipts_energy
            .inc_by(fleet::joules(receipt.energy_mwh));
        // A counter takes nothing below zero, and no receipt owes the driver anything.
        let total = receipt.total.0.try_into().unwrap_or(0.0_f64);
        self.receipts_amount
            .with_label_values(&[receipt.currency.as_str()])
            .inc_by(total.max(0.0));
    }

    /// Receipts may be in this currency.
    pub fn currency(&self, currency: &Currency) {
        self.receipts_amount.with_label_values(&[currency.as_str()]);
    }

    /// A receipt was adjusted.
    pub fn adjusted(&self) {
        self.adjustments.inc();
    }

    /// A request was answered.
    pub fn answered(&self, verb: &str, result: &str, code: &str) {
        self.requests.with_label_values(&[verb, result, code]).inc();
    }

    /// A message was passed over.
    pub fn ignored(&self, reason: &str) {
        self.ignored.with_label_values(&[reason]).inc();
    }

    /// A message was not let in.
    pub fn refused(&self, verb: &str, why: &str) {
        self.refused.with_label_values(&[verb, why]).inc();
    }

    /// A command was tried.
    pub fn command(&self, verb: &str, outcome: &str, took: Option<Duration>) {
        self.commands.with_label_values(&[verb, outcome]).inc();
        if let Some(took) = took {
            self.command_seconds.observe(took.as_secs_f64());
        }
    }

    /// A frame was built.
    pub fn frame(&self, records: usize, bytes: usize) {
        // Counts far below 2^52.
        self.frame_records
            .observe(u32::try_from(records).unwrap_or(u32::MAX).into());
        self.frame_bytes
            .observe(u32::try_from(bytes).unwrap_or(u32::MAX).into());
    }

    /// A frame of this replica was applied.
    pub fn appended(&self, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// A frame had to be appended again.
    pub fn append_retried(&self) {
        self.append_retries.inc();
    }

    /// A record of this replica was void.
    pub fn void(&self, kind: &str) {
        self.void_records.with_label_values(&[kind]).inc();
    }

    /// How far the ledger is applied, and how far it is known to go.
    pub fn progress(&self, applied: u64, known: u64) {
        self.applied.set(i64::try_from(applied).unwrap_or(i64::MAX));
        self.apply_lag
            .set(i64::try_from(known.saturating_sub(applied)).unwrap_or(i64::MAX));
    }

    /// How much waits.
    pub fn queue(&self, length: usize) {
        self.queue.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Whether nats-server is connected.
    pub fn connected(&self, yes: bool) {
        self.nats_connected.set(yes.into());
    }

    /// Whether this replica answers.
    pub fn ready(&self, yes: bool) {
        self.ready.set(yes.into());
    }

    /// How far this host's clock is ahead of the server's, and whether it is off.
    pub fn clock(&self, ahead_ms: Option<i64>, is_off: bool) {
        let ahead_ms = ahead_ms.unwrap_or(0);
        let apart_s = Duration::from_millis(ahead_ms.unsigned_abs()).as_secs_f64();
        self.clock_ahead
            .set(if ahead_ms < 0 { -apart_s } else { apart_s });
        self.clock_off.set(is_off.into());
    }

    /// What the ledger is not; none while it is served.
    pub fn alarm(&self, alarm: Option<&Alarm>) {
        let is = alarm.map(kind_of);
        for kind in ALARMS {
            let value = i64::from(is == Some(kind));
            self.ledger_alarm.with_label_values(&[kind]).set(value);
        }
    }

    /// Whether there is room in the ledger.
    pub fn ledger_full(&self, full: bool) {
        self.ledger_full.set(full.into());
    }

    /// A stream beside the ledger was gone, or messages of it, and was made or filled anew.
    pub fn stream_anew(&self, stream: &str) {
        self.streams_anew.with_label_values(&[stream]).inc();
    }

    /// Whether this replica can keep which ledger it serves.
    pub fn marker_kept(&self, kept: bool) {
        self.marker_kept.set(kept.into());
    }

    /// A receipt or adjustment was brought to the CDR stream, or could not be.
    pub fn receipt(&self, result: &str) {
        self.receipts.with_label_values(&[result]).inc();
    }

    /// How many are not known to be there, and for how long the oldest has not been.
    pub fn receipts_waiting(&self, count: usize, oldest: Duration) {
        self.receipts_waiting
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        self.receipts_oldest_waiting.set(oldest.as_secs_f64());
    }

    /// How far the newest snapshot goes.
    pub fn snapshot_at(&self, seq: u64) {
        self.snapshot_sequence
            .set(i64::try_from(seq).unwrap_or(i64::MAX));
    }

    /// A snapshot was written, or could not be.
    pub fn snapshot(&self, result: &str) {
        self.snapshots.with_label_values(&[result]).inc();
    }

    /// An HTTP connection had to go.
    pub fn http_closed(&self) {
        self.http_closed.inc();
    }

    /// An outgoing message was dropped.
    pub fn dropped(&self) {
        self.out_dropped.inc();
    }

    /// An entry was written into the audit, or was not.
    pub fn audited(&self, kind: AuditKind, result: &str) {
        self.audit_entries
            .with_label_values(&[kind.as_str(), result])
            .inc();
    }

    /// How large the audit is.
    pub fn audit_bytes(&self, bytes: u64) {
        self.audit_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// When what this replica connects with ends.
    pub fn expires(&self, terms: &[Term]) {
        for what in What::ALL {
            let first = terms
                .iter()
                .filter(|term| term.what == what)
                .map(|term| term.expires_at_s)
                .min();
            match first {
                Some(at_s) => self
                    .expires_at_seconds
                    .with_label_values(&[what.as_str()])
                    .set(at_s),
                // Never was there, or can no longer be read: it is not known.
                None => drop(
                    self.expires_at_seconds
                        .remove_label_values(&[what.as_str()]),
                ),
            }
        }
    }

    /// How many connections there are of each role.
    pub fn connections(&self, counts: impl Iterator<Item = (Role, usize)>) {
        for (role, count) in counts {
            self.connections
                .with_label_values(&[role.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Whether it is heard who connects.
    pub fn connections_watched(&self, yes: bool) {
        self.connections_watched.set(yes.into());
    }

    /// A connection was refused by the server.
    pub fn connection_refused(&self, reason: &str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// A connection has ended.
    pub fn connection_closed(&self, reason: &str) {
        self.connections_closed.with_label_values(&[reason]).inc();
    }

    /// A connection was closed since there were too many.
    pub fn connection_kicked(&self) {
        self.connections_kicked.inc();
    }

    /// Something on the ledger's subject is no frame.
    pub fn junk(&self) {
        self.junk.inc();
    }
}

/// Families in Prometheus' text format.
///
/// # Errors
/// Only for a defect in a metric's definition.
pub fn text(families: &[MetricFamily]) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(families)
}

/// From the fastest answer to the slowest: after 8 s an asker is told that nothing is known.
const REQUEST_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// The kinds of records, any of which another replica's can forestall.
const KINDS: &[Kind] = &[
    Kind::Refused,
    Kind::Started,
    Kind::Stopping,
    Kind::Operated,
    Kind::Synced,
    Kind::Intake,
    Kind::CommandAnswered,
    Kind::Released,
    Kind::Forget,
    Kind::Enrolled,
];

/// What can be seen to be wrong with the ledger.
const ALARMS: [&str; 8] = [
    "digest_mismatch",
    "gap",
    "rewound",
    "removed",
    "missing",
    "foreign",
    "nameless",
    "unreadable",
];

const fn kind_of(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::DigestMismatch { .. } => "digest_mismatch",
        Alarm::Gap { .. } => "gap",
        Alarm::Rewound { .. } => "rewound",
        Alarm::Removed { .. } => "removed",
        Alarm::Missing { .. } => "missing",
        Alarm::Foreign { .. } => "foreign",
        Alarm::Nameless => "nameless",
        Alarm::Unreadable(_) => "unreadable",
    }
}
