//! A new configuration in a running replica: what can change changes, the rest is named and stays.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::{Config, ConfigError};

/// Reads the file anew when it is told to.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    running: watch::Sender<Config>,
}

/// What came of it.
#[derive(Debug)]
pub enum Reloaded {
    /// The file is in force, but for these keys.
    Taken {
        /// They count from the next start on.
        need_a_restart: Vec<&'static str>,
    },
    /// Nothing has changed: the file cannot be used.
    Refused(ConfigError),
}

impl Reloaded {
    /// For the status line; none when all is well.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        match self {
            Self::Taken { need_a_restart } if need_a_restart.is_empty() => None,
            Self::Taken { need_a_restart } => Some(format!(
                "new in the configuration, from the next start on: {}",
                need_a_restart.join(", ")
            )),
            Self::Refused(error) => Some(format!("the new configuration is not used: {error}")),
        }
    }
}

impl Reloader {
    /// For a program that runs with a configuration from a file. Whoever acts on it listens.
    #[must_use]
    pub fn new(path: &Path, config: Config) -> (Self, watch::Receiver<Config>) {
        let (running, configs) = watch::channel(config);
        let path = path.to_owned();
        (Self { path, running }, configs)
    }

    /// Reads the file, as at start.
    #[must_use]
    pub fn reload(&self) -> Reloaded {
        // Whoever has mended something says so in this way.
        ev_client::try_now();
        let read = match Config::read(&self.path) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "the new configuration is not used; nothing has changed");
                return Reloaded::Refused(error);
            }
        };
        let (config, need_a_restart) = merge(&self.running.borrow(), read);
        self.running.send_replace(config);
        if need_a_restart.is_empty() {
            tracing::info!("the configuration was read anew");
        } else {
            tracing::warn!(
                keys = need_a_restart.join(", "),
                "the configuration was read anew; these keys count from the next start on"
            );
        }
        Reloaded::Taken { need_a_restart }
    }
}

/// The new configuration with what is running where that cannot change, and the names of those keys.
fn merge(running: &Config, read: Config) -> (Config, Vec<&'static str>) {
    // Named one by one, so that whoever adds a key decides.
    let Config {
        operator_name,
        sessions_per_driver,
        start_deadline_s,
        plug_wait_s,
        release_after_s,
        keep_refusals_s,
        keep_answers_s,
        keep_sessions_s,
        snapshot_every,
        limits,
        connections,
        charge_point_series_max,
        replica,
        nats_url,
        credentials,
        ca,
        certificate,
        key,
        http_addr,
        stream_replicas,
        doorkeeper_credentials,
        state_dir,
        path: _,
    } = read;
    let fixed = [
        ("replica", replica == running.replica),
        ("nats_url", nats_url == running.nats_url),
        ("credentials", credentials == running.credentials),
        ("ca", ca == running.ca),
        ("certificate", certificate == running.certificate),
        ("key", key == running.key),
        ("http_addr", http_addr == running.http_addr),
        (
            "stream_replicas",
            stream_replicas == running.stream_replicas,
        ),
        ("state_dir", state_dir == running.state_dir),
        (
            "doorkeeper_credentials",
            doorkeeper_credentials == running.doorkeeper_credentials,
        ),
    ];
    let changed = fixed
        .into_iter()
        .filter_map(|(key, is_same)| (!is_same).then_some(key))
        .collect();
    let config = Config {
        operator_name,
        sessions_per_driver,
        start_deadline_s,
        plug_wait_s,
        release_after_s,
        keep_refusals_s,
        keep_answers_s,
        keep_sessions_s,
        snapshot_every,
        limits,
        connections,
        charge_point_series_max,
        ..running.clone()
    };
    (config, changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Config {
        let base = "replica = \"central-1\"\n\
            nats_url = \"nats://127.0.0.1:4222\"\n\
            credentials = \"central-1.creds\"\n\
            ca = \"ca.crt\"\n";
        Config::parse(&format!("{base}{extra}"), "central.toml").unwrap()
    }

    #[test]
    fn what_can_change_changes_and_the_rest_is_named_and_stays() {
        let read = config(
            "operator_name = \"New\"\nhttp_addr = \"127.0.0.1:9\"\nstream_replicas = 3\n\
             [limits]\noperator = { per_s = 1, burst = 1 }\n[connections]\ndriver = 1\n",
        );
        let (merged, need_a_restart) = merge(&config(""), read);
        assert_eq!(need_a_restart, ["http_addr", "stream_replicas"]);
        assert_eq!(merged.operator_name, "New");
        assert_eq!(merged.limits.operator.per_s, 1);
        assert_eq!(merged.connections.driver, 1);
        assert_eq!(merged.stream_replicas, 1);
        assert_eq!(merged.http_addr, config("").http_addr);
    }

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("central.toml");
        std::fs::write(&path, "colour = 1\n").unwrap();
        let (reloader, configs) = Reloader::new(&path, config("operator_name = \"Old\"\n"));
        let status = reloader.reload().status().unwrap();
        assert!(status.contains("not used"), "{status}");
        assert!(status.contains("central.toml"), "{status}");
        assert_eq!(configs.borrow().operator_name, "Old");
        assert!(!configs.has_changed().unwrap());
    }
}
