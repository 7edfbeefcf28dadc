//! SIGHUP: reads the configuration as at start and says what of it is new. An agent takes nothing of it
//! while it runs, since each charge point owns its store and its hardware; a restart does, and sessions
//! go on through it. Credentials and certificates are read for every connection anyway.

use std::path::PathBuf;

use crate::config::Config;

/// Reads the file anew when it is told to.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    /// As the file was at start.
    running: Config,
}

impl Reloader {
    /// For an agent that runs with this file.
    #[must_use]
    pub const fn new(path: PathBuf, running: Config) -> Self {
        Self { path, running }
    }

    /// What is to be known of the file, for the log and the status line; none when it is as at start.
    #[must_use]
    pub fn reload(&self) -> Option<String> {
        // Whoever has mended something says so in this way.
        ev_client::try_now();
        match Config::read(&self.path) {
            Ok(read) => {
                let keys = self.new_in(&read);
                if keys.is_empty() {
                    tracing::info!("the configuration is in order, and as it was at start");
                    return None;
                }
                let keys = keys.join(", ");
                tracing::warn!(
                    keys,
                    "the configuration is in order; what is new counts from the next start on"
                );
                Some(format!(
                    "new in the configuration, from the next start on: {keys}"
                ))
            }
            Err(error) => {
                tracing::error!(%error, "the new configuration cannot be used; nothing has changed");
                let faults = error.faults.join("; ");
                Some(format!("the new configuration cannot be used: {faults}"))
            }
        }
    }

    fn new_in(&self, read: &Config) -> Vec<String> {
        // Named one by one, so that whoever adds a key decides.
        let Config {
            nats_url,
            tls,
            state_dir,
            control_socket,
            rates,
            charge_points,
        } = read;
        let running = &self.running;
        let mut keys = Vec::new();
        for (key, is_same) in [
            ("nats_url", *nats_url == running.nats_url),
            ("ca, certificate, key", *tls == running.tls),
            ("state_dir", *state_dir == running.state_dir),
            ("control_socket", *control_socket == running.control_socket),
            ("line, rates", *rates == running.rates),
        ] {
            if !is_same {
                keys.push(key.to_owned());
            }
        }
        for cp in charge_points {
            if !running.charge_points.contains(cp) {
                keys.push(format!("charge_point {}", cp.id));
            }
        }
        for cp in &running.charge_points {
            if charge_points.iter().all(|new| new.id != cp.id) {
                keys.push(format!("charge_point {} (removed)", cp.id));
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(top: &str, ids: &[&str]) -> Config {
        let mut text = format!(
            "nats_url = \"nats://127.0.0.1:4222\"\ncredentials = \"/c\"\nca = \"/ca\"\n{top}\n"
        );
        for id in ids {
            text.push_str(&format!(
                "[[charge_point]]\nid = \"{id}\"\nsite = \"S\"\ntime_zone = \"Europe/Berlin\"\n\
                 [[charge_point.connector]]\nid = 1\nmax_current_ma = 16000\nphases = 3\n"
            ));
        }
        Config::parse(&text, Path::new("edge.toml")).unwrap()
    }

    #[test]
    fn what_is_new_is_named() {
        let reloader = Reloader::new(
            "edge.toml".into(),
            config("state_dir = \"/a\"", &["CP-1", "CP-2"]),
        );
        let new_in = |read: &Config| reloader.new_in(read);
        assert!(new_in(&config("state_dir = \"/a\"", &["CP-1", "CP-2"])).is_empty());
        assert_eq!(
            new_in(&config("state_dir = \"/b\"", &["CP-1", "CP-3"])),
            [
                "state_dir",
                "charge_point CP-3",
                "charge_point CP-2 (removed)"
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_said() {
        let path = "/nowhere/edge.toml".into();
        let reloader = Reloader::new(path, config("state_dir = \"/a\"", &["CP-1"]));
        let said = reloader.reload().unwrap();
        assert!(said.contains("cannot be used"), "{said}");
    }
}
