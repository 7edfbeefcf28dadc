//! Sessions and charge points, as one look at all of them has shown them. Every replica hears every
//! heartbeat and applies the whole ledger, so that all replicas show the same.
//!
//! Totals are of all charge points, however many there are. Series of single ones are bounded: of the
//! first so many by id, which stay the same ones while others come and go.

use std::collections::BTreeMap;

use central_core::view::Beat;
use ev_contract::{
    connector::{ConnectorState, Phase},
    ids::{ConnectorId, CpId, SiteId},
    time::UnixMs,
    units::Mwh,
    v1::Reach,
};
use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Clocks that are further apart than this are worth a look. An agent learns central's by round trip,
/// within a second on any usable line; NTP keeps hosts within milliseconds.
const CLOCK_SKEW_MS_MAX: i64 = 2_000;
/// So many records are an hour of a busy cabinet, and drain within seconds once they can.
const BACKLOG_MAX: u64 = 1_000;
/// Versions of agents that are told apart. A fleet under way to a new one has two.
const VERSIONS_MAX: usize = 32;
/// Longest text from an agent in a label.
const LABEL_CHARS_MAX: usize = 64;
/// How soon charge points expire, as labels and in days; the longest is when people are first warned.
const EXPIRING: [(&str, i64); 3] = [("1d", 1), ("7d", 7), ("30d", 30)];
const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// What an agent may say is wrong; what a newer one says beyond is `other`.
const PROBLEMS: [&str; 6] = [
    "storage_failed",
    "charger_offline",
    "clock_unsure",
    "spool_behind_central",
    "stopping",
    OTHER,
];
const OTHER: &str = "other";
/// What can be odd about spool records.
const ODD: [&str; 3] = ["quarantined", "missing", "anomaly"];
/// The phases that an open session can be in.
const OPEN_PHASES: [Phase; 6] = [
    Phase::Preparing,
    Phase::Charging,
    Phase::SuspendedEv,
    Phase::SuspendedEvse,
    Phase::Stopping,
    Phase::Idle,
];

/// Joules in a milliwatt-hour.
const JOULES_PER_MWH: f64 = 3.6;

/// In the base unit. A register of 2^53 mWh is more than the world has ever made.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub fn joules(energy: Mwh) -> f64 {
    energy.0 as f64 * JOULES_PER_MWH
}

#[expect(clippy::cast_precision_loss, reason = "shown, not counted with")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "shown, not counted with")]
fn watts(milliwatts: u64) -> f64 {
    milliwatts as f64 / 1_000.0
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Records of one spool or of all that were quarantined, are missing, or told of an anomaly.
pub type Odd = [u64; ODD.len()];

/// A charge point as it is shown.
#[derive(Debug)]
pub struct Sighting<'a> {
    /// Which.
    pub cp: &'a CpId,
    /// Where.
    pub site: &'a SiteId,
    /// The version that it last presented.
    pub version: &'a str,
    /// Whether it can be reached.
    pub reach: Reach,
    /// Its last heartbeat, and when that came.
    pub last: Option<(&'a Beat, UnixMs)>,
    /// When its agent began.
    pub started_at: Option<UnixMs>,
    /// Whether its heartbeats name two spools at once.
    pub has_two_agents: bool,
    /// Its connectors: number, state, whether a session is open.
    pub connectors: Vec<(ConnectorId, ConnectorState, bool)>,
}

#[derive(Debug, Clone, Default)]
struct InPhase {
    count: i64,
    oldest_ms: i64,
    stuck: i64,
}

/// One charge point that has series of its own.
#[derive(Debug)]
struct Row {
    cp: String,
    site: String,
    version: String,
    reach: Reach,
    heard_at: Option<UnixMs>,
    started_at: Option<UnixMs>,
    expires_at: Option<UnixMs>,
    /// While it is online: what it said last.
    live: Option<Live>,
    odd: Odd,
    connectors: Vec<ConnectorRow>,
}

#[derive(Debug)]
struct Live {
    spool_depth: u64,
    clock_offset_ms: Option<i64>,
    problems: Vec<&'static str>,
}

#[derive(Debug)]
struct ConnectorRow {
    number: String,
    state: ConnectorState,
    has_session: bool,
    power_mw: Option<u64>,
    register: Option<Mwh>,
}

/// All of them.
#[derive(Debug)]
pub struct Survey {
    at: UnixMs,
    rows_max: usize,
    sessions: BTreeMap<Phase, InPhase>,
    odd: Odd,
    odd_of: BTreeMap<CpId, Odd>,
    keep_no_more: i64,
    reach: BTreeMap<Reach, i64>,
    connectors: BTreeMap<ConnectorState, i64>,
    problems: BTreeMap<&'static str, i64>,
    versions: BTreeMap<String, i64>,
    expiring: [i64; EXPIRING.len()],
    skewed: i64,
    offset_ms_max: i64,
    backlogged: i64,
    backlog: u64,
    backlog_max: u64,
    power_mw: u64,
    two_agents: i64,
    rows: Vec<Row>,
    omitted: i64,
}

impl Survey {
    /// Nothing seen yet; at most `rows_max` charge points get series of their own.
    #[must_use]
    pub fn new(at: UnixMs, rows_max: usize) -> Self {
        Self {
            at,
            rows_max,
            sessions: BTreeMap::new(),
            odd: [0; ODD.len()],
            odd_of: BTreeMap::new(),
            keep_no_more: 0,
            reach: BTreeMap::new(),
            connectors: BTreeMap::new(),
            problems: BTreeMap::new(),
            versions: BTreeMap::new(),
            expiring: [0; EXPIRING.len()],
            skewed: 0,
            offset_ms_max: 0,
            backlogged: 0,
            backlog: 0,
            backlog_max: 0,
            power_mw: 0,
            two_agents: 0,
            rows: Vec::new(),
            omitted: 0,
        }
    }

    /// When it began.
    #[must_use]
    pub const fn at(&self) -> UnixMs {
        self.at
    }

    /// An open session.
    pub fn session(&mut self, phase: Phase, age_ms: i64, is_stuck: bool) {
        let of_phase = self.sessions.entry(phase).or_default();
        of_phase.count += 1;
        of_phase.oldest_ms = of_phase.oldest_ms.max(age_ms);
        of_phase.stuck += i64::from(is_stuck);
    }

    /// A spool, before its charge point.
    pub fn spool(&mut self, cp: &CpId, odd: Odd, keeps_no_more: bool) {
        self.keep_no_more += i64::from(keeps_no_more);
        if odd == [0; ODD.len()] {
            return;
        }
        // The first by id, as the rows are.
        let has_room = self.odd_of.len() < self.rows_max || self.odd_of.contains_key(cp);
        let mut of_cp = has_room.then(|| self.odd_of.entry(cp.clone()).or_default());
        for (n, count) in odd.into_iter().enumerate() {
            self.odd[n] = self.odd[n].saturating_add(count);
            if let Some(sum) = &mut of_cp {
                sum[n] = sum[n].saturating_add(count);
            }
        }
    }

    /// A charge point; they come in the order of their ids.
    pub fn charge_point(&mut self, seen: &Sighting<'_>) {
        let online = seen.reach == Reach::Online;
        let heartbeat = seen.last.map(|(heartbeat, _)| heartbeat);
        *self.reach.entry(seen.reach).or_default() += 1;
        self.two_agents += i64::from(seen.has_two_agents);
        let version = label(heartbeat.map_or(seen.version, |hb| &hb.version));
        self.count_version(&version);
        let expires_at = heartbeat.and_then(|hb| hb.access_expires_at);
        for (n, (_, days)) in EXPIRING.iter().enumerate() {
            let by = self.at.plus_ms(days * DAY_MS);
            self.expiring[n] += i64::from(expires_at.is_some_and(|end| end <= by));
        }
        let live = heartbeat.filter(|_| online).map(|hb| self.live(hb));
        let connectors: Vec<ConnectorRow> = seen
            .connectors
            .iter()
            .map(|(number, state, has_session)| {
                *self.connectors.entry(*state).or_default() += 1;
                let beat = heartbeat
                    .and_then(|hb| hb.connectors.iter().find(|beat| beat.connector == *number));
                let power_mw = beat
                    .filter(|_| online)
                    .and_then(|b| b.power_mw)
                    .map(|p| p.0);
                self.power_mw = self.power_mw.saturating_add(power_mw.unwrap_or(0));
                ConnectorRow {
                    number: number.0.to_string(),
                    state: *state,
                    has_session: *has_session,
                    power_mw,
                    register: beat.and_then(|b| b.register_mwh),
                }
            })
            .collect();
        if self.rows.len() >= self.rows_max {
            self.omitted += 1;
            return;
        }
        self.rows.push(Row {
            cp: seen.cp.to_string(),
            site: seen.site.to_string(),
            version,
            reach: seen.reach,
            heard_at: seen.last.map(|(_, at)| at),
            started_at: seen.started_at,
            expires_at,
            live,
            odd: self.odd_of.get(seen.cp).copied().unwrap_or_default(),
            connectors,
        });
    }

    fn live(&mut self, heartbeat: &Beat) -> Live {
        let depth = heartbeat.spool_depth;
        self.backlog = self.backlog.saturating_add(depth);
        self.backlog_max = self.backlog_max.max(depth);
        self.backlogged += i64::from(depth > BACKLOG_MAX);
        if let Some(offset) = heartbeat.clock_offset_ms {
            let apart = offset.saturating_abs();
            self.offset_ms_max = self.offset_ms_max.max(apart);
            self.skewed += i64::from(apart > CLOCK_SKEW_MS_MAX);
        }
        let mut problems: Vec<&'static str> = heartbeat
            .health
            .iter()
            .map(|said| {
                *PROBLEMS
                    .iter()
                    .find(|known| *known == said)
                    .unwrap_or(&OTHER)
            })
            .collect();
        problems.sort_unstable();
        problems.dedup();
        for problem in &problems {
            *self.problems.entry(problem).or_default() += 1;
        }
        Live {
            spool_depth: depth,
            clock_offset_ms: heartbeat.clock_offset_ms,
            problems,
        }
    }

    fn count_version(&mut self, version: &str) {
        if let Some(count) = self.versions.get_mut(version) {
            *count += 1;
        } else if self.versions.len() < VERSIONS_MAX {
            self.versions.insert(version.to_owned(), 1);
        } else {
            *self.versions.entry(OTHER.to_owned()).or_default() += 1;
        }
    }

    /// As families of metrics.
    ///
    /// # Errors
    /// Only for a defect in a metric's definition.
    pub fn families(&self) -> Result<Vec<prometheus::proto::MetricFamily>, prometheus::Error> {
        let registry = Registry::new();
        self.totals(&registry)?;
        self.of_each(&registry)?;
        Ok(registry.gather())
    }

    fn totals(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let count =
            |name: &str, help: &str, label: &str| int_gauges(registry, name, help, &[label]);
        let single = |name: &str, help: &str, value: i64| -> Result<(), prometheus::Error> {
            int_gauges(registry, name, help, &[])?
                .with_label_values::<&str>(&[])
                .set(value);
            Ok(())
        };
        let sessions = count("ev_sessions", "Open sessions by phase.", "phase")?;
        let oldest = gauges(
            registry,
            "ev_session_oldest_seconds",
            "For how long the session that has been in this phase the longest has been in it; 0 where there is none.",
            &["phase"],
        )?;
        let stuck = count(
            "ev_sessions_stuck",
            "Sessions that have been in a phase for longer than can be meant, by phase.",
            "phase",
        )?;
        for phase in OPEN_PHASES {
            let of_phase = self.sessions.get(&phase).cloned().unwrap_or_default();
            let label = &[phase.as_str()];
            sessions.with_label_values(label).set(of_phase.count);
            oldest
                .with_label_values(label)
                .set(seconds(of_phase.oldest_ms));
            stuck.with_label_values(label).set(of_phase.stuck);
        }
        let reach = count("ev_charge_points", "Charge points by reach.", "reach")?;
        for of in Reach::ALL {
            let count = self.reach.get(of).copied().unwrap_or_default();
            reach.with_label_values(&[of.as_str()]).set(count);
        }
        let connectors = count("ev_connectors", "Connectors by state.", "state")?;
        for state in ConnectorState::ALL {
            let count = self.connectors.get(state).copied().unwrap_or_default();
            connectors.with_label_values(&[state.as_str()]).set(count);
        }
        let problems = count(
            "ev_charge_points_with_problem",
            "Charge points that are online and say that something is wrong, by what.",
            "problem",
        )?;
        for problem in PROBLEMS {
            let count = self.problems.get(problem).copied().unwrap_or_default();
            problems.with_label_values(&[problem]).set(count);
        }
        let versions = count(
            "ev_charge_points_by_version",
            "Charge points by the version of their agent; beyond 32 versions, `other`.",
            "version",
        )?;
        for (version, count) in &self.versions {
            versions.with_label_values(&[version]).set(*count);
        }
        let expiring = count(
            "ev_charge_points_expiring",
            "Charge points whose credential, certificate or authority ends within so many days or has ended, by their last heartbeat.",
            "within",
        )?;
        for ((within, _), count) in EXPIRING.iter().zip(self.expiring) {
            expiring.with_label_values(&[within]).set(count);
        }
        let odd = int_counters(
            registry,
            "ev_spool_records_total",
            "Spool records since the ledger began that were quarantined, are missing, or told of an anomaly.",
            &["what"],
        )?;
        for (what, count) in ODD.iter().zip(self.odd) {
            odd.with_label_values(&[what]).inc_by(count);
        }
        single(
            "ev_spools_evidence_used_up",
            "Spools of which so much could not be used today (in UTC) that no more of it is kept word for word.",
            self.keep_no_more,
        )?;
        single(
            "ev_charge_points_clock_skewed",
            "Charge points that are online and whose clock differs from central's by more than 2 s.",
            self.skewed,
        )?;
        single(
            "ev_charge_points_backlogged",
            "Charge points that are online and whose spool holds more than 1000 records.",
            self.backlogged,
        )?;
        single(
            "ev_spool_backlog_records",
            "Records that wait in the spools of charge points that are online.",
            gauge(self.backlog),
        )?;
        single(
            "ev_spool_backlog_records_max",
            "Records that wait in the deepest of them.",
            gauge(self.backlog_max),
        )?;
        single(
            "ev_charge_points_with_two_agents",
            "Charge points with two agents, of which one is obeyed.",
            self.two_agents,
        )?;
        single(
            "ev_charge_point_series_omitted",
            "Charge points beyond `charge_point_series_max`, which have no series of their own.",
            self.omitted,
        )?;
        gauges(
            registry,
            "ev_clock_offset_seconds_max",
            "The largest difference of a clock of a charge point that is online from central's.",
            &[],
        )?
        .with_label_values::<&str>(&[])
        .set(seconds(self.offset_ms_max));
        gauges(
            registry,
            "ev_power_watts",
            "Power of all connectors of charge points that are online.",
            &[],
        )?
        .with_label_values::<&str>(&[])
        .set(watts(self.power_mw));
        Ok(())
    }

    fn of_each(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let float = |name: &str, help: &str, labels: &[&str]| gauges(registry, name, help, labels);
        let whole =
            |name: &str, help: &str, labels: &[&str]| int_gauges(registry, name, help, labels);
        let info = whole(
            "ev_cp_info",
            "A charge point, its site and its agent's version; always 1.",
            &["cp", "site", "version"],
        )?;
        let up = whole(
            "ev_cp_up",
            "1 while a charge point is online, 0 while it is offline; none while this replica does not know.",
            &["cp"],
        )?;
        let heard_at = float(
            "ev_cp_last_heartbeat_timestamp_seconds",
            "When its last heartbeat came.",
            &["cp"],
        )?;
        let started_at = float(
            "ev_cp_start_timestamp_seconds",
            "When its agent began, within some seconds.",
            &["cp"],
        )?;
        let spool = whole(
            "ev_cp_spool_records",
            "Records that wait in its spool, while it is online.",
            &["cp"],
        )?;
        let offset = float(
            "ev_cp_clock_offset_seconds",
            "Its clock less central's, while it is online and knows.",
            &["cp"],
        )?;
        let problem = whole(
            "ev_cp_problem",
            "1 for each thing that it says is wrong, while it is online.",
            &["cp", "problem"],
        )?;
        let expires_at = float(
            "ev_cp_access_expires_at_timestamp_seconds",
            "When the first of its credential, certificate and authorities ends.",
            &["cp"],
        )?;
        let odd = int_counters(
            registry,
            "ev_cp_odd_records_total",
            "Its spool records since the ledger began that were quarantined, are missing, or told of an anomaly.",
            &["cp", "what"],
        )?;
        let state = whole(
            "ev_connector_state",
            "1 for the state that a connector is in.",
            &["cp", "connector", "state"],
        )?;
        let session = whole(
            "ev_connector_session",
            "1 while a session is open on it.",
            &["cp", "connector"],
        )?;
        let power = float(
            "ev_connector_power_watts",
            "Its power, while its charge point is online.",
            &["cp", "connector"],
        )?;
        let energy = counters(
            registry,
            "ev_connector_energy_joules_total",
            "Its meter's register, as last heard.",
            &["cp", "connector"],
        )?;
        for row in &self.rows {
            let cp = row.cp.as_str();
            info.with_label_values(&[cp, &row.site, &row.version])
                .set(1);
            match row.reach {
                Reach::Online => up.with_label_values(&[cp]).set(1),
                Reach::Offline => up.with_label_values(&[cp]).set(0),
                Reach::Unknown | Reach::Unrecognised => {}
            }
            for (metric, at) in [
                (&heard_at, row.heard_at),
                (&started_at, row.started_at),
                (&expires_at, row.expires_at),
            ] {
                if let Some(at) = at {
                    metric.with_label_values(&[cp]).set(seconds(at.0));
                }
            }
            if let Some(live) = &row.live {
                spool.with_label_values(&[cp]).set(gauge(live.spool_depth));
                if let Some(ms) = live.clock_offset_ms {
                    offset.with_label_values(&[cp]).set(seconds(ms));
                }
                for said in &live.problems {
                    problem.with_label_values(&[cp, said]).set(1);
                }
            }
            for (what, count) in ODD.iter().zip(row.odd) {
                odd.with_label_values(&[cp, what]).inc_by(count);
            }
            for connector in &row.connectors {
                let at = [cp, connector.number.as_str()];
                state
                    .with_label_values(&[at[0], at[1], connector.state.as_str()])
                    .set(1);
                session
                    .with_label_values(&at)
                    .set(connector.has_session.into());
                if let Some(power_mw) = connector.power_mw {
                    power.with_label_values(&at).set(watts(power_mw));
                }
                if let Some(register) = connector.register {
                    energy.with_label_values(&at).inc_by(joules(register));
                }
            }
        }
        Ok(())
    }
}

/// What an agent says, as a label.
fn label(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(LABEL_CHARS_MAX)
        .collect()
}

macro_rules! family {
    ($name:ident, $type:ty) => {
        fn $name(
            registry: &Registry,
            name: &str,
            help: &str,
            labels: &[&str],
        ) -> Result<$type, prometheus::Error> {
            let family = <$type>::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        }
    };
}
family!(gauges, GaugeVec);
family!(int_gauges, IntGaugeVec);
family!(counters, CounterVec);
family!(int_counters, IntCounterVec);
