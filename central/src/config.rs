//! The configuration file: typed, read in full before anything is opened.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::ServerAddr;
use central_core::{decide::Settings, ripe::Keep};
use ev_client::{Access, AccessError, Term, Tls};
use ev_contract::ids::ReplicaId;
use ev_service::Places;
use serde::Deserialize;

use crate::{admission::Limits, door::ConnectionLimits};

/// What `central.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of this process, for logs and frames; each replica its own.
    pub replica: ReplicaId,
    /// Where nats-server is; several, separated by commas, for a cluster.
    pub nats_url: String,
    /// The credentials file of this replica.
    #[serde(default)]
    pub credentials: PathBuf,
    /// Who may vouch for nats-server, PEM.
    #[serde(default)]
    pub ca: PathBuf,
    /// A certificate of this replica's, PEM, where nats-server asks for one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    #[serde(default = "http_addr")]
    pub http_addr: SocketAddr,
    /// Copies of each stream: 1 on a single server, 3 on a cluster of three or more.
    #[serde(default = "one")]
    pub stream_replicas: usize,
    /// Who sells the energy, for receipts.
    #[serde(default = "operator_name")]
    pub operator_name: String,
    /// Open sessions that a driver may have.
    #[serde(default = "one")]
    pub sessions_per_driver: usize,
    /// Seconds that a start command may be on its way to a charge point.
    #[serde(default = "start_deadline_s")]
    pub start_deadline_s: u32,
    /// Seconds that a charge point waits for a plug.
    #[serde(default = "plug_wait_s")]
    pub plug_wait_s: u32,
    /// Seconds out of reach after which a stopped session no longer counts against its driver.
    #[serde(default = "release_after_s")]
    pub release_after_s: u32,
    /// Seconds that refused requests are remembered.
    #[serde(default = "hour_s")]
    pub keep_refusals_s: u32,
    /// Seconds that other requests are remembered.
    #[serde(default = "month_s")]
    pub keep_answers_s: u32,
    /// Seconds that ended sessions stay in `history`; their receipts stay in the CDR stream.
    #[serde(default = "month_s")]
    pub keep_sessions_s: u32,
    /// Ledger messages between two snapshots.
    #[serde(default = "snapshot_every")]
    pub snapshot_every: u64,
    /// Charge points that have metrics of their own; the totals are of all.
    #[serde(default = "charge_point_series_max")]
    pub charge_point_series_max: usize,
    /// What one driver, operator or charge point may ask.
    #[serde(default)]
    pub limits: Limits,
    /// The folder in which this replica keeps which ledger it serves, see [`Config::state_dir`].
    pub state_dir: Option<PathBuf>,
    /// Where this was read.
    #[serde(skip)]
    pub path: PathBuf,
    /// The credentials file with which this replica watches who connects. Without it nobody does.
    pub doorkeeper_credentials: Option<PathBuf>,
    /// Connections that one credential may have open.
    #[serde(default)]
    pub connections: ConnectionLimits,
}

/// A replica's own four, and those of before a lost connection: with less it closes its own.
const CENTRAL_CONNECTIONS_MIN: usize = 8;
/// What an account may have on a server: as good as no limit.
const CONNECTIONS_MAX: usize = 9_500;
/// Some fifteen series each, on each replica: what a scrape of some seconds and a Prometheus on a small
/// host still carry.
const CHARGE_POINT_SERIES_MAX: usize = 20_000;
/// Above what any replica can answer: as good as no limit.
const RATE_MAX: u32 = 1_000_000;

fn http_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}
const fn one() -> usize {
    1
}
fn operator_name() -> String {
    "EV Charging".into()
}
const fn start_deadline_s() -> u32 {
    30
}
const fn plug_wait_s() -> u32 {
    120
}
const fn release_after_s() -> u32 {
    180
}
const fn hour_s() -> u32 {
    3600
}
const fn month_s() -> u32 {
    30 * 24 * 3600
}
const fn snapshot_every() -> u64 {
    20_000
}

const fn charge_point_series_max() -> usize {
    1_000
}

/// Why a configuration cannot be used: file, key, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no such configuration.
    #[error("{path}: {source}")]
    Parse {
        /// Which file.
        path: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("{path}: {key}: {why}")]
    Value {
        /// Which file.
        path: String,
        /// Which key.
        key: &'static str,
        /// What would be right.
        why: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: shown.clone(),
            source,
        })?;
        let config = Self::parse(&text, &shown)?;
        config
            .access()
            .and_then(|access| access.check("central", config.replica.as_str()).map(drop))
            .map_err(|e| ConfigError::Value {
                path: shown.clone(),
                key: e.key(),
                why: e.to_string(),
            })?;
        if let Some(path) = &config.doorkeeper_credentials {
            ev_client::Credential::read(path)
                .map_err(AccessError::from)
                .and_then(|c| c.check(path, "doorkeeper", config.replica.as_str()))
                .map_err(|e| ConfigError::Value {
                    path: shown,
                    key: "doorkeeper_credentials",
                    why: e.to_string(),
                })?;
        }
        Ok(config)
    }

    /// What of what it names ends soon or has ended, in sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let now_s = jiff::Timestamp::now().as_second();
        let own = self.access().ok();
        let door = self.door_access().ok().flatten();
        let mut terms: Vec<Term> = Vec::new();
        for term in own.iter().chain(&door).flat_map(Access::terms) {
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
        terms
            .iter()
            .filter_map(|term| term.warning(now_s))
            .collect()
    }

    /// What opens nats-server.
    ///
    /// # Errors
    /// [`AccessError::Half`].
    pub fn access(&self) -> Result<Access, AccessError> {
        Ok(Access {
            url: self.nats_url.clone(),
            credentials: self.credentials.clone(),
            tls: Tls::new(self.ca.clone(), self.certificate.clone(), self.key.clone())?,
        })
    }

    /// What opens nats-server to watch who connects; none where nobody is to.
    ///
    /// # Errors
    /// [`AccessError::Half`].
    pub fn door_access(&self) -> Result<Option<Access>, AccessError> {
        let Some(credentials) = self.doorkeeper_credentials.clone() else {
            return Ok(None);
        };
        Ok(Some(Access {
            credentials,
            ..self.access()?
        }))
    }

    /// Checks a text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.into(),
            source: Box::new(source),
        })?;
        let wrong = |key, why: &str| ConfigError::Value {
            path: path.into(),
            key,
            why: why.into(),
        };
        config.path = path.into();
        config
            .find_files(&Places::from_env())
            .map_err(|(key, why)| wrong(key, &why))?;
        if config.credentials.as_os_str().is_empty() {
            let why = format!(
                "is missing; give the file that `central enrol central {}` writes",
                config.replica
            );
            return Err(wrong("credentials", &why));
        }
        if config.ca.as_os_str().is_empty() {
            return Err(wrong(
                "ca",
                "is missing; give the tls/ca.crt that `central enrol certificate` writes",
            ));
        }
        let access = config
            .access()
            .map_err(|e| wrong(e.key(), &e.to_string()))?;
        let is_ours = |server: &ServerAddr| !server.is_websocket();
        if !access.servers().is_ok_and(|all| all.iter().all(is_ours)) {
            return Err(wrong(
                "nats_url",
                "give nats://HOST:PORT, several with commas; wss:// is for charge points, drivers and \
                 operators",
            ));
        }
        if !matches!(config.stream_replicas, 1 | 3 | 5) {
            return Err(wrong("stream_replicas", "give 1, 3 or 5"));
        }
        if !(1..=100).contains(&config.sessions_per_driver) {
            return Err(wrong("sessions_per_driver", "give 1 to 100"));
        }
        if !(1..=3600).contains(&config.start_deadline_s) {
            return Err(wrong("start_deadline_s", "give 1 to 3600"));
        }
        if !(1..=24 * 3600).contains(&config.plug_wait_s) {
            return Err(wrong("plug_wait_s", "give 1 to 86400"));
        }
        if !(60..).contains(&config.keep_refusals_s) {
            return Err(wrong("keep_refusals_s", "give 60 or more"));
        }
        if config.keep_answers_s < config.keep_refusals_s {
            return Err(wrong(
                "keep_answers_s",
                "give at least as much as keep_refusals_s",
            ));
        }
        if config.snapshot_every < 10 {
            return Err(wrong("snapshot_every", "give 10 or more"));
        }
        if config.charge_point_series_max > CHARGE_POINT_SERIES_MAX {
            return Err(wrong("charge_point_series_max", "give 0 to 20000"));
        }
        for (key, rate) in config.limits.named() {
            if !(1..=RATE_MAX).contains(&rate.per_s) || !(1..=RATE_MAX).contains(&rate.burst) {
                return Err(wrong(
                    key,
                    "give { per_s = N, burst = N }, each 1 to 1000000",
                ));
            }
        }
        if config.connections.central < CENTRAL_CONNECTIONS_MIN {
            return Err(wrong("connections.central", "give 8 or more"));
        }
        for (key, limit) in config.connections.named() {
            if !(1..=CONNECTIONS_MAX).contains(&limit) {
                return Err(wrong(key, "give 1 to 9500"));
            }
        }
        Ok(config)
    }

    /// Puts in place of folders that only systemd knows where they are.
    fn find_files(&mut self, places: &Places) -> Result<(), (&'static str, String)> {
        if self.state_dir.is_none() {
            self.state_dir.clone_from(&places.state);
        }
        let files = [
            ("state_dir", self.state_dir.as_mut()),
            ("credentials", Some(&mut self.credentials)),
            (
                "doorkeeper_credentials",
                self.doorkeeper_credentials.as_mut(),
            ),
            ("ca", Some(&mut self.ca)),
            ("certificate", self.certificate.as_mut()),
            ("key", self.key.as_mut()),
        ];
        for (key, path) in files {
            if let Some(path) = path {
                *path = places.find(path).map_err(|e| (key, e.to_string()))?;
            }
        }
        Ok(())
    }

    /// The folder in which this replica keeps which ledger it serves: what is configured, else what systemd
    /// gives the service, else where its credential lies.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        let beside = self.credentials.parent().unwrap_or(Path::new("."));
        self.state_dir.as_deref().unwrap_or(beside)
    }

    /// What the core needs of it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            operator_name: self.operator_name.as_str().into(),
            start_deadline_ms: i64::from(self.start_deadline_s) * 1000,
            plug_wait_s: self.plug_wait_s,
            sessions_per_driver: self.sessions_per_driver,
        }
    }

    /// After how long out of reach a stopped session is released.
    #[must_use]
    pub fn release_after(&self) -> Duration {
        Duration::from_secs(u64::from(self.release_after_s))
    }

    /// For how long things stay in the state.
    #[must_use]
    pub fn keep(&self) -> Keep {
        let ms = |seconds: u32| i64::from(seconds) * 1000;
        Keep {
            refusals_ms: ms(self.keep_refusals_s),
            answers_ms: ms(self.keep_answers_s),
            sessions_ms: ms(self.keep_sessions_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "replica = \"central-1\"\n\
        nats_url = \"nats://127.0.0.1:4222\"\n\
        credentials = \"central-1.creds\"\n\
        ca = \"ca.crt\"\n";

    #[test]
    fn a_short_configuration_is_enough() {
        let config = Config::parse(BASE, "central.toml").unwrap();
        assert_eq!(config.stream_replicas, 1);
    }

    #[test]
    fn a_bad_configuration_names_file_key_and_what_would_be_right() {
        for (extra, key) in [
            ("stream_replicas = 2", "stream_replicas"),
            ("sessions_per_driver = 0", "sessions_per_driver"),
            ("snapshot_every = 1", "snapshot_every"),
            ("certificate = \"c.crt\"", "certificate"),
            ("colour = 1", "colour"),
            ("http_addr = \"nowhere\"", "http_addr"),
            (
                "[limits]\ndriver_stops = { per_s = 0, burst = 1 }",
                "limits.driver_stops",
            ),
            ("[limits]\nguests = { per_s = 1, burst = 1 }", "guests"),
            ("[connections]\ndriver = 0", "connections.driver"),
            ("[connections]\nguests = 1", "guests"),
            ("[connections]\ncentral = 7", "connections.central"),
        ] {
            let error = Config::parse(&format!("{BASE}{extra}\n"), "central.toml").unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("central.toml") && text.contains(key),
                "{text}"
            );
        }
    }

    #[test]
    fn a_folder_that_only_the_service_has_is_put_in_place() {
        let mut config = Config::parse(BASE, "central.toml").unwrap();
        config.ca = "$CREDENTIALS_DIRECTORY/ca.crt".into();
        let (key, why) = config.clone().find_files(&Places::default()).unwrap_err();
        assert_eq!(key, "ca");
        assert!(why.contains("CREDENTIALS_DIRECTORY=FOLDER"), "{why}");
        let places = Places {
            credentials: Some("/run/credentials/central.service".into()),
            ..Places::default()
        };
        config.find_files(&places).unwrap();
        assert_eq!(
            config.ca,
            Path::new("/run/credentials/central.service/ca.crt")
        );
        assert_eq!(config.credentials, Path::new("central-1.creds"));
    }

    #[test]
    fn what_a_replica_keeps_lies_where_it_is_told_or_beside_its_credential() {
        let text = BASE.replace("central-1.creds", "/keys/central-1.creds");
        let mut config = Config::parse(&text, "central.toml").unwrap();
        config.state_dir = None;
        assert_eq!(config.state_dir(), Path::new("/keys"));
        let places = Places {
            state: Some("/var/lib/central".into()),
            ..Places::default()
        };
        config.find_files(&places).unwrap();
        assert_eq!(config.state_dir(), Path::new("/var/lib/central"));
        let text = format!("{text}state_dir = \"/srv/central\"\n");
        let mut config = Config::parse(&text, "central.toml").unwrap();
        config.find_files(&places).unwrap();
        assert_eq!(config.state_dir(), Path::new("/srv/central"));
    }

    #[test]
    fn what_opens_the_server_must_be_named_with_who_makes_it() {
        for (line, key) in [
            ("credentials", "central enrol central central-1"),
            ("ca", "ca.crt"),
        ] {
            let text: String = BASE
                .lines()
                .filter(|l| !l.starts_with(line))
                .map(|l| format!("{l}\n"))
                .collect();
            let error = Config::parse(&text, "central.toml")
                .unwrap_err()
                .to_string();
            assert!(error.contains(line) && error.contains(key), "{error}");
        }
    }
}
