//! The configuration file: typed, and checked in full before anything starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use edge_core::{
    Rates,
    rates::{Bounds, Line},
};
use ev_client::{Access, AccessError, Credential, Term, Tls};
use ev_contract::{
    ids::{ConnectorId, CpId},
    limits::{
        CONNECTOR_MA_MAX, CONNECTOR_MILLIWATT_MAX, CONNECTOR_VOLTS_MAX, CONNECTORS_MAX,
        CURRENT_MA_MIN,
    },
    units::MilliAmp,
    v1::ConnectorSpec,
};
use ev_service::Places;
use serde::Deserialize;

use crate::store::{self, OpenSession, Store};

/// Longest path of a Unix socket on Linux (`sun_path` less its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Most charge points of one agent. Each has a connection and a file of its own.
const CHARGE_POINTS_MAX: usize = 2_000;

/// What an agent needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where NATS is.
    pub nats_url: String,
    /// How NATS is known, and this agent to it.
    pub tls: Tls,
    /// Where stores and simulated chargers are kept.
    pub state_dir: PathBuf,
    /// The control socket, if there shall be one.
    pub control_socket: Option<PathBuf>,
    /// How often what is said: as the line asks for, unless somebody says otherwise.
    pub rates: Rates,
    /// By their place in the file.
    pub charge_points: Vec<ChargePointConfig>,
}

/// One charge point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargePointConfig {
    /// Its id.
    pub id: CpId,
    /// By number.
    pub connectors: Vec<ConnectorSpec>,
    /// Its credentials file: each has its own, and so its own subjects.
    pub credentials: PathBuf,
    /// The charger behind it.
    pub simulator: SimulatorConfig,
}

/// A simulated charger and the cars that come to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatorConfig {
    /// Facts come twice, late, in disorder; answers are lost; ids are odd.
    pub unruly: bool,
    /// What unruliness is drawn from.
    pub seed: u64,
    /// Capacity of a car's battery.
    pub battery_wh: u64,
    /// State of charge with which a car arrives.
    pub soc_pct: u8,
    /// The most power that a car takes.
    pub car_power_w: u64,
    /// The register of a new meter.
    pub register_mwh: u64,
    /// The charger begins by itself when a car is plugged in.
    pub free_vending: bool,
    /// A transaction goes on when the power is back.
    pub resume_after_power_cut: bool,
    /// A full car ends the transaction; else it only pauses.
    pub stop_when_full: bool,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            unruly: false,
            seed: 1,
            battery_wh: 60_000,
            soc_pct: 20,
            car_power_w: 11_000,
            register_mwh: 1_234_567_890,
            free_vending: false,
            resume_after_power_cut: true,
            stop_when_full: true,
        }
    }
}

/// A simulation would make a connector stronger than any that is sold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--sim-speed {asked}: at that speed connector {cp}/{connector} would be stronger than any that is sold; give at most {largest}, or let it be weaker"
)]
pub struct TooFast {
    /// The speed.
    pub asked: u32,
    /// Whose.
    pub cp: CpId,
    /// The strongest connector.
    pub connector: ConnectorId,
    /// What would do.
    pub largest: u32,
}

impl ChargePointConfig {
    /// A charger that runs so many times faster than real: it and its cars are so many times as
    /// strong, and an hour's energy flows in a minute. Nobody else has to know: what it presents and
    /// reports is what it does.
    ///
    /// # Errors
    /// [`TooFast`] with the largest speed that would do.
    pub fn times_as_strong(mut self, speed: u32) -> Result<Self, TooFast> {
        let times = |spec: &ConnectorSpec, speed: u32| ConnectorSpec {
            max_ma: MilliAmp(spec.max_ma.0.saturating_mul(speed)),
            ..spec.clone()
        };
        for spec in &mut self.connectors {
            if !times(spec, speed).is_sold() {
                let by_current = CONNECTOR_MA_MAX / spec.max_ma.0.max(1);
                let by_power = CONNECTOR_MILLIWATT_MAX / spec.power_max().0.max(1);
                let by_power = u32::try_from(by_power).unwrap_or(u32::MAX);
                return Err(TooFast {
                    asked: speed,
                    cp: self.id,
                    connector: spec.connector,
                    largest: by_current.min(by_power),
                });
            }
            *spec = times(spec, speed);
        }
        self.simulator.car_power_w *= u64::from(speed);
        Ok(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nats_url: String,
    credentials: Option<PathBuf>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    state_dir: PathBuf,
    control_socket: Option<PathBuf>,
    #[serde(default)]
    line: FileLine,
    #[serde(default)]
    rates: BTreeMap<String, u32>,
    #[serde(default)]
    charge_point: Vec<FileChargePoint>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum FileLine {
    #[default]
    Ordinary,
    Metered,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileChargePoint {
    id: String,
    /// No keys of an agent; read to say so.
    site: Option<toml::Value>,
    time_zone: Option<toml::Value>,
    credentials: Option<PathBuf>,
    #[serde(default)]
    connector: Vec<FileConnector>,
    #[serde(default)]
    simulator: SimulatorConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConnector {
    id: u16,
    max_current_ma: u32,
    phases: u8,
    #[serde(default = "volts")]
    volts: u16,
    plug: Option<String>,
}

fn volts() -> u16 {
    230
}

/// What is wrong with a configuration: every fault with its key and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// In the order of the file.
    pub faults: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration {} cannot be used:", self.file.display())?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            file: path.to_owned(),
            faults: vec![format!("the file cannot be read: {e}")],
        })?;
        let config = Self::parse(&text, path)?;
        let faults = config.file_faults();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError {
                file: path.to_owned(),
                faults,
            })
        }
    }

    /// What of what it names ends soon or has ended, in sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let now_s = jiff::Timestamp::now().as_second();
        let mut terms: Vec<Term> = Vec::new();
        for cp in &self.charge_points {
            let access = Access {
                url: self.nats_url.clone(),
                credentials: cp.credentials.clone(),
                tls: self.tls.clone(),
            };
            for term in access.terms() {
                if !terms.contains(&term) {
                    terms.push(term);
                }
            }
        }
        terms
            .iter()
            .filter_map(|term| term.warning(now_s))
            .chain(self.about_the_stores())
            .collect()
    }

    /// What the stores say to it.
    fn about_the_stores(&self) -> Vec<String> {
        let mut said = Vec::new();
        for cp in &self.charge_points {
            for kept in left_behind(cp, &self.state_dir) {
                said.push(cp.lacks(kept.id, kept.spec.connector.0));
            }
        }
        said.extend(self.lacks_room());
        said
    }

    /// What the disk of the stores lacks.
    pub(crate) fn lacks_room(&self) -> Option<String> {
        let ids = self.charge_points.iter().map(|cp| &cp.id);
        let lacking = store::lacking_bytes(&self.state_dir, ids).unwrap_or(0);
        (lacking > 0).then(|| {
            format!(
                "state_dir: the disk lacks {} MiB of the {} MiB that each charge point needs; make room there, or name a folder on a larger disk",
                lacking.div_ceil(1 << 20),
                store::BYTES_MIN >> 20
            )
        })
    }

    /// What is wrong with the files that it names.
    fn file_faults(&self) -> Vec<String> {
        let tls = self.tls.check().err();
        let tls = tls.map(|e| format!("{}: {e}", e.key()));
        let credentials = self.charge_points.iter().filter_map(|cp| {
            let checked = Credential::read(&cp.credentials)
                .map_err(AccessError::from)
                .and_then(|c| c.check(&cp.credentials, "charge-point", cp.id.as_str()));
            let e = checked.err()?;
            Some(format!(
                "charge_point {:?}, credentials: {e}",
                cp.id.as_str()
            ))
        });
        tls.into_iter().chain(credentials).collect()
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let error = |faults| ConfigError {
            file: path.to_owned(),
            faults,
        };
        let file: File = toml::from_str(text).map_err(|e| {
            let place = e.span().map_or_else(String::new, |span| {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!("line {line}: ")
            });
            error(vec![format!("{place}{}", e.message().trim())])
        })?;
        let mut faults = Vec::new();
        let config = check(file, &Places::from_env(), &mut faults);
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(error(faults))
        }
    }
}

impl ChargePointConfig {
    /// What is said of an open session on a connector that is not in the file.
    fn lacks(&self, session: impl fmt::Display, connector: u16) -> String {
        format!(
            "charge_point {:?}, connector: session {session} is open on connector {connector}, which the file no longer has. It keeps that connector until its end; if the connector only has another number now, give it {connector} again until then",
            self.id.as_str()
        )
    }

    /// The same for all sessions in the status of the agent that runs.
    #[must_use]
    pub fn lacking_in(&self, statuses: &serde_json::Value) -> Vec<String> {
        let of_this = statuses.as_array().into_iter().flatten();
        let of_this = of_this.filter(|status| status["id"] == self.id.as_str());
        let connectors = of_this.filter_map(|status| status["connectors"].as_array());
        let open = connectors.flatten().filter_map(|connector| {
            let number = u16::try_from(connector["id"].as_u64()?).ok()?;
            Some((connector["session_id"].as_str()?, number))
        });
        open.filter(|(_, number)| self.connectors.iter().all(|c| c.connector.0 != *number))
            .map(|(session, number)| self.lacks(session, number))
            .collect()
    }
}

/// Open sessions of a charge point whose connectors its configuration no longer has. A store that an
/// agent uses is not read: that agent goes on with the configuration that it began with.
#[must_use]
pub fn left_behind(cp: &ChargePointConfig, state_dir: &Path) -> Vec<OpenSession> {
    let path = Store::path(state_dir, &cp.id);
    let open = store::open_sessions(&path).unwrap_or_else(|error| {
        tracing::debug!(cp = %cp.id, error = store::chain(&error), "the store is not compared with the configuration");
        Vec::new()
    });
    let is_there = |id| cp.connectors.iter().any(|spec| spec.connector == id);
    open.into_iter()
        .filter(|session| !is_there(session.spec.connector))
        .collect()
}

fn check(file: File, places: &Places, faults: &mut Vec<String>) -> Config {
    let mut find = |key: &str, path: PathBuf| match places.find(&path) {
        Ok(found) => found,
        Err(e) => {
            faults.push(format!("{key}: {e}"));
            path
        }
    };
    let ca = file.ca.map(|path| find("ca", path));
    let certificate = file.certificate.map(|path| find("certificate", path));
    let key = file.key.map(|path| find("key", path));
    let state_dir = find("state_dir", file.state_dir);
    let control_socket = file.control_socket.map(|path| find("control_socket", path));
    if let Err(e) = ev_client::servers(&file.nats_url) {
        faults.push(format!("nats_url: {e}"));
    }
    if ca.is_none() {
        faults.push("ca: is missing; for instance \"/etc/edge-cp/ca.crt\", which `central enrol certificate` writes".into());
    }
    let tls = Tls::new(ca.unwrap_or_default(), certificate, key).unwrap_or_else(|e| {
        faults.push(format!("{}: {e}", e.key()));
        Tls {
            ca: PathBuf::new(),
            identity: None,
        }
    });
    if state_dir.as_os_str().is_empty() {
        faults.push("state_dir: is empty; for instance \"/var/lib/edge-cp\"".into());
    }
    if let Some(socket) = &control_socket {
        let bytes = socket.as_os_str().len();
        if bytes == 0 || bytes > SOCKET_PATH_BYTES_MAX {
            faults.push(format!(
                "control_socket: a path of {bytes} bytes cannot be bound; use 1 to {SOCKET_PATH_BYTES_MAX}, for instance \"/run/edge-cp/control.sock\""
            ));
        }
    }
    let rates = check_rates(&file.line, file.rates, faults);
    match file.charge_point.len() {
        0 => faults.push("charge_point: there is none; add a [[charge_point]] table".into()),
        n if n > CHARGE_POINTS_MAX => faults.push(format!(
            "charge_point: there are {n}; one agent serves at most {CHARGE_POINTS_MAX}"
        )),
        _ => {}
    }
    let mut ids = BTreeSet::new();
    let keys = Keys {
        folder: file.credentials,
        places,
    };
    let charge_points = file
        .charge_point
        .into_iter()
        .enumerate()
        .filter_map(|(n, cp)| check_charge_point(cp, n + 1, &keys, &mut ids, faults))
        .collect();
    Config {
        nats_url: file.nats_url,
        tls,
        state_dir,
        control_socket,
        rates,
        charge_points,
    }
}

fn check_rates(
    line: &FileLine,
    mut told: BTreeMap<String, u32>,
    faults: &mut Vec<String>,
) -> Rates {
    let mut rates = Rates::of(match line {
        FileLine::Ordinary => Line::Ordinary,
        FileLine::Metered => Line::Metered,
    });
    let mut keys = Vec::new();
    for (Bounds { key, within }, rate) in rates.each() {
        keys.push(key);
        let Some(number) = told.remove(key) else {
            continue;
        };
        let (least, most) = within;
        if !(least..=most).contains(&number) {
            faults.push(format!(
                "rates.{key}: {number} is not within {least} to {most} seconds; for instance {rate}"
            ));
        }
        *rate = number;
    }
    for key in told.keys() {
        faults.push(format!(
            "rates.{key}: there is no such rate; there are {}",
            keys.join(", ")
        ));
    }
    rates
}

/// Where credentials are, unless a charge point names its own.
struct Keys<'a> {
    folder: Option<PathBuf>,
    places: &'a Places,
}

/// Whether a URL can be handed to the NATS client.
#[must_use]
pub fn nats_url_is_usable(url: &str) -> bool {
    ev_client::servers(url).is_ok()
}

fn check_charge_point(
    cp: FileChargePoint,
    n: usize,
    keys: &Keys<'_>,
    ids: &mut BTreeSet<String>,
    faults: &mut Vec<String>,
) -> Option<ChargePointConfig> {
    let key = format!("charge_point {n} ({:?})", cp.id);
    let id: Option<CpId> = cp
        .id
        .parse()
        .map_err(|e| faults.push(format!("{key}, id: {e}; for instance \"CP-001\"")))
        .ok();
    if !ids.insert(cp.id.clone()) {
        faults.push(format!("{key}, id: is used twice; give each its own"));
    }
    let credentials = cp
        .credentials
        .or_else(|| Some(keys.folder.as_ref()?.join(format!("{}.creds", cp.id))));
    let credentials = match credentials.map(|path| keys.places.find(&path)) {
        Some(Ok(found)) => Some(found),
        Some(Err(e)) => {
            faults.push(format!("{key}, credentials: {e}"));
            None
        }
        None => {
            faults.push(format!(
                "{key}, credentials: is missing; `central enrol charge-point {}` writes the file. Name it here, or at the top the folder that has it as {}.creds",
                cp.id, cp.id
            ));
            None
        }
    };
    for (name, value) in [("site", &cp.site), ("time_zone", &cp.time_zone)] {
        if value.is_some() {
            faults.push(format!(
                "{key}, {name}: a charge point does not say where it stands; remove the line and let an operator say it: `driver-cli op cp site {} SITE --time-zone ZONE`",
                cp.id
            ));
        }
    }
    if cp.connector.is_empty() || cp.connector.len() > CONNECTORS_MAX {
        faults.push(format!(
            "{key}, connector: there are {}; a charge point has 1 to {CONNECTORS_MAX}",
            cp.connector.len()
        ));
    }
    let mut numbers = BTreeSet::new();
    let mut connectors: Vec<ConnectorSpec> = Vec::new();
    for connector in cp.connector {
        let key = format!("{key}, connector {}", connector.id);
        if connector.id == 0 {
            faults.push(format!("{key}, id: connectors are counted from 1"));
        }
        if !numbers.insert(connector.id) {
            faults.push(format!("{key}, id: is used twice; give each its own"));
        }
        if !(CURRENT_MA_MIN..=CONNECTOR_MA_MAX).contains(&connector.max_current_ma) {
            faults.push(format!(
                "{key}, max_current_ma: {} is not within {CURRENT_MA_MIN} to {CONNECTOR_MA_MAX}; for instance 16000",
                connector.max_current_ma
            ));
        }
        if !matches!(connector.phases, 1 | 3) {
            faults.push(format!(
                "{key}, phases: {} is neither 1 nor 3",
                connector.phases
            ));
        }
        if !(100..=CONNECTOR_VOLTS_MAX).contains(&connector.volts) {
            faults.push(format!(
                "{key}, volts: {} is not within 100 to {CONNECTOR_VOLTS_MAX}; for instance 230",
                connector.volts
            ));
        }
        if connector.plug.as_ref().is_some_and(|p| p.len() > 32) {
            faults.push(format!(
                "{key}, plug: is longer than 32 bytes; for instance \"type2\""
            ));
        }
        let spec = ConnectorSpec {
            connector: ConnectorId(connector.id),
            max_ma: MilliAmp(connector.max_current_ma),
            phases: connector.phases,
            volts: connector.volts,
            plug: connector.plug,
        };
        if spec.power_max().0 > CONNECTOR_MILLIWATT_MAX {
            faults.push(format!(
                "{key}: {} kW are more than the {} kW of the strongest connector that is sold; look at max_current_ma, phases and volts",
                spec.power_max().0 / 1_000_000,
                CONNECTOR_MILLIWATT_MAX / 1_000_000
            ));
        }
        connectors.push(spec);
    }
    connectors.sort_by_key(|c| c.connector);
    check_simulator(&cp.simulator, &key, faults);
    Some(ChargePointConfig {
        id: id?,
        connectors,
        credentials: credentials?,
        simulator: cp.simulator,
    })
}

fn check_simulator(sim: &SimulatorConfig, key: &str, faults: &mut Vec<String>) {
    if !(1..=1_000_000).contains(&sim.battery_wh) {
        faults.push(format!(
            "{key}, simulator.battery_wh: {} is not within 1 to 1000000; for instance 60000",
            sim.battery_wh
        ));
    }
    if sim.soc_pct > 100 {
        faults.push(format!(
            "{key}, simulator.soc_pct: {} is not within 0 to 100",
            sim.soc_pct
        ));
    }
    if !(1..=10_000_000).contains(&sim.car_power_w) {
        faults.push(format!(
            "{key}, simulator.car_power_w: {} is not within 1 to 10000000; for instance 11000",
            sim.car_power_w
        ));
    }
    if sim.register_mwh > u64::MAX / 4 {
        faults.push(format!(
            "{key}, simulator.register_mwh: {} is too large; for instance 0",
            sim.register_mwh
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
nats_url = "nats://127.0.0.1:4222"
credentials = "/etc/edge-cp/creds"
ca = "/etc/edge-cp/ca.crt"
state_dir = "/tmp/x"
control_socket = "/tmp/x/control.sock"
[[charge_point]]
id = "CP-001"
[[charge_point.connector]]
id = 1
max_current_ma = 16000
phases = 3
[charge_point.simulator]
seed = 7
"#;

    fn faults(text: &str) -> Vec<String> {
        Config::parse(text, Path::new("f.toml"))
            .expect_err("it was taken")
            .faults
    }

    #[test]
    fn a_good_file_is_taken() {
        let config = Config::parse(GOOD, Path::new("f.toml")).unwrap();
        assert_eq!(config.charge_points[0].id.as_str(), "CP-001");
        assert_eq!(config.charge_points[0].simulator.seed, 7);
        assert_eq!(
            config.charge_points[0].credentials,
            Path::new("/etc/edge-cp/creds/CP-001.creds")
        );
    }

    #[test]
    fn what_opens_the_server_must_be_named_with_who_makes_it() {
        let found = faults(&GOOD.replace("credentials = \"/etc/edge-cp/creds\"\n", ""));
        assert!(
            found[0].contains("central enrol charge-point CP-001"),
            "{found:?}"
        );
        let found = faults(&GOOD.replace("ca = \"/etc/edge-cp/ca.crt\"\n", ""));
        assert!(found[0].contains("central enrol certificate"), "{found:?}");
        let found = faults(&GOOD.replace("ca =", "key = \"k\"\nca ="));
        assert!(found[0].contains("certificate"), "{found:?}");
    }

    #[test]
    fn each_fault_names_its_key_and_what_would_be_right() {
        let table = [
            ("\"CP-001\"", "\"CP.001\"", "id", "CP-001"),
            (
                "id = \"CP-001\"",
                "id = \"CP-001\"\nsite = \"SITE-A\"",
                "site",
                "driver-cli op cp site CP-001 SITE",
            ),
            (
                "id = \"CP-001\"",
                "id = \"CP-001\"\ntime_zone = \"Europe/Berlin\"",
                "time_zone",
                "remove the line",
            ),
            ("16000", "5000", "max_current_ma", "16000"),
            ("phases = 3", "phases = 2", "phases", "1 nor 3"),
            (
                "nats://127.0.0.1:4222",
                "nats://",
                "nats_url",
                "nats://127.0.0.1:4222",
            ),
            ("nats://", "http://", "nats_url", "nats://127.0.0.1:4222"),
            ("nats://", "ws://", "nats_url", "take wss://"),
            ("seed = 7", "soc_pct = 101", "simulator.soc_pct", "0 to 100"),
        ];
        for (old, new, key, right) in table {
            let found = faults(&GOOD.replace(old, new));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].contains(key) && found[0].contains(right),
                "{found:?}"
            );
        }
    }

    #[test]
    fn rates_go_by_the_line_unless_they_are_given_within_their_bounds() {
        let rates = |lines: &str| Config::parse(&format!("{lines}\n{GOOD}"), Path::new("f.toml"));
        assert_eq!(rates("").unwrap().rates, Rates::ORDINARY);
        assert_eq!(rates("line = \"metered\"").unwrap().rates, Rates::METERED);
        let one = rates("line = \"metered\"\nrates = { live_s = 30 }").unwrap();
        let with_30 = Rates {
            live_s: 30,
            ..Rates::METERED
        };
        assert_eq!(one.rates, with_30);
        for (lines, words) in [
            ("rates = { heartbeat_s = 61 }", "5 to 60 seconds"),
            ("rates = { heartbeat_s = 4 }", "5 to 60 seconds"),
            (
                "rates = { hartbeat_s = 5 }",
                "there are heartbeat_s, live_s",
            ),
            ("line = \"slow\"", "metered"),
        ] {
            let found = rates(lines).unwrap_err().faults;
            assert!(found[0].contains(words), "{lines}: {found:?}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = GOOD
            .replace("phases = 3", "phases = 2")
            .replace("16000", "1");
        assert_eq!(faults(&text).len(), 2);
    }

    #[test]
    fn unknown_keys_wrong_types_and_missing_parts_are_refused_with_their_line() {
        let unknown = faults(&GOOD.replace("seed", "sed"));
        assert!(
            unknown[0].contains("line 14") && unknown[0].contains("sed"),
            "{unknown:?}"
        );
        let typed = faults(&GOOD.replace("16000", "\"16 A\""));
        assert!(typed[0].contains("line 11"), "{typed:?}");
        assert!(
            faults("nats_url = \"nats://h\"\nca=\"c\"\nstate_dir=\"s\"")[0]
                .contains("[[charge_point]]")
        );
    }

    #[test]
    fn a_folder_that_only_the_service_has_is_said_to_be_so_once_for_each_key() {
        let text = GOOD
            .replace("/etc/edge-cp/ca.crt", "$CREDENTIALS_DIRECTORY/ca.crt")
            .replace("/etc/edge-cp/creds", "$CREDENTIALS_DIRECTORY")
            .replace("\"/tmp/x\"", "\"$STATE_DIRECTORY\"");
        let file: File = toml::from_str(&text).unwrap();
        let mut faults = Vec::new();
        check(file, &Places::default(), &mut faults);
        let keys: Vec<_> = faults.iter().map(|f| f.split(": ").next()).collect();
        let expected = [
            "ca",
            "state_dir",
            "charge_point 1 (\"CP-001\"), credentials",
        ];
        assert_eq!(keys, expected.map(Some));
        assert!(
            faults[0].contains("CREDENTIALS_DIRECTORY=FOLDER"),
            "{faults:?}"
        );

        let places = Places {
            credentials: Some("/run/credentials/x".into()),
            state: Some("/var/lib/x".into()),
            runtime: None,
        };
        let mut faults = Vec::new();
        let config = check(toml::from_str(&text).unwrap(), &places, &mut faults);
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(config.state_dir, Path::new("/var/lib/x"));
        assert_eq!(
            config.charge_points[0].credentials,
            Path::new("/run/credentials/x/CP-001.creds")
        );
    }

    #[test]
    fn a_simulation_is_as_many_times_as_strong_and_never_stronger_than_what_is_sold() {
        let config = Config::parse(GOOD, Path::new("edge.toml")).unwrap();
        let cp = &config.charge_points[0];
        let fast = cp.clone().times_as_strong(60).unwrap();
        assert_eq!(fast.connectors[0].max_ma, MilliAmp(60 * 16_000));
        assert_eq!(fast.simulator.car_power_w, 60 * cp.simulator.car_power_w);
        assert_eq!(cp.clone().times_as_strong(1).as_ref(), Ok(cp));
        assert!(cp.clone().times_as_strong(250).is_ok());
        let error = cp.clone().times_as_strong(251).unwrap_err();
        assert_eq!(error.largest, 250);
        let text = error.to_string();
        assert!(
            text.contains("--sim-speed 251") && text.contains("CP-001/1"),
            "{text}"
        );
        // One that is bounded by its power.
        let mut strong = cp.clone();
        strong.connectors[0].phases = 1;
        strong.connectors[0].volts = 1_250;
        strong.connectors[0].max_ma = MilliAmp(100_000);
        assert_eq!(strong.times_as_strong(33).unwrap_err().largest, 32);
    }

    #[test]
    fn a_session_of_the_running_agent_on_a_connector_that_is_gone_is_told() {
        let config = Config::parse(GOOD, Path::new("f.toml")).unwrap();
        let said = |id: &str, connector: u16| {
            config.charge_points[0].lacking_in(&serde_json::json!([{
                "id": id,
                "connectors": [{"id": connector, "session_id": "s-1"}, {"id": 9, "session_id": null}],
            }]))
        };
        assert!(said("CP-001", 1).is_empty() && said("CP-002", 7).is_empty());
        let told = said("CP-001", 7);
        assert!(
            told.len() == 1 && told[0].contains("s-1") && told[0].contains("connector 7"),
            "{told:?}"
        );
    }

    #[test]
    fn ids_are_used_once() {
        let doubled = format!("{GOOD}{}", &GOOD[GOOD.find("[[").unwrap()..]);
        assert!(faults(&doubled)[0].contains("twice"));
    }
}
