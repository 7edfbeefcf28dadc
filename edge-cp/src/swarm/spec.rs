//! What a swarm consists of, checked in full before anything begins.

use std::{fmt, net::Ipv4Addr, path::PathBuf, time::Duration};

use ev_client::Tls;
use ev_contract::{
    ids::{ConnectorId, CpId, SiteId},
    limits::{CONNECTOR_MA_MAX, CONNECTORS_MAX},
    units::MilliAmp,
    v1::ConnectorSpec,
};

use crate::config::{SimulatorConfig, nats_url_is_usable};

/// Most charge points of one swarm. A million and more is for several processes on several machines.
pub const COUNT_MAX: u32 = 200_000;
/// Sockets from one address to one server: Linux has some 28,000 ports for them, and those that were
/// closed a minute ago still count.
pub const SOCKETS_PER_SOURCE_MAX: u32 = 14_000;
/// Most records that a charge point begins with: what `EVT_RECORDS_MAX` carries in some 4,000 runs.
pub const BACKLOG_MAX: u64 = 1_000_000;
/// Most local sessions that are begun in a second.
pub const STARTS_PER_S_MAX: f64 = 20_000.0;
/// What a connector of the swarm gives: 11 kW.
const MAX_MA: u32 = 16_000;
const PHASES: u8 = 3;
const VOLTS: u16 = 230;
/// See [`crate::config::ChargePointConfig::times_as_strong`].
const SPEED_MAX: u32 = CONNECTOR_MA_MAX / MAX_MA;

/// A swarm.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where NATS is.
    pub nats_url: String,
    /// How it is known.
    pub tls: Tls,
    /// What the charge points are called.
    pub names: Names,
    /// Their site.
    pub site: SiteId,
    /// Its IANA time zone.
    pub time_zone: String,
    /// Connectors of each.
    pub connectors: u16,
    /// How they connect.
    pub lines: Lines,
    /// From where; wherever the system chooses, if none.
    pub sources: Option<Sources>,
    /// Where stores and simulated chargers are kept; in memory, if nowhere.
    pub state_dir: Option<PathBuf>,
    /// How many times as strong as real the chargers are.
    pub speed: u32,
    /// So many charge points begin in a second; all at once, if none.
    pub ramp_per_s: Option<u32>,
    /// It ends by itself after so long.
    pub lasts: Option<Duration>,
    /// Who charges.
    pub cars: Cars,
    /// Records that each charge point has not sent when it begins.
    pub backlog: u64,
    /// Between two lines about how it goes.
    pub progress: Duration,
    /// The chargers.
    pub simulator: SimulatorConfig,
}

/// Names that are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Before the number.
    pub prefix: String,
    /// Of the first.
    pub first: u32,
    /// Digits of a number, with zeros in front.
    pub digits: u8,
    /// How many.
    pub count: u32,
}

/// How charge points connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lines {
    /// Each over its own connection, with its own credential: `<id>.creds` in this folder.
    Own(PathBuf),
    /// Several over one: all load credentials in this folder, each with the charge points that it
    /// names.
    Shared(PathBuf),
}

/// IPv4 addresses in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    first: u32,
    count: u32,
}

/// Who charges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cars {
    /// A car stands at each connector, and when its session has ended the next one comes.
    pub stay: bool,
    /// So many sessions begin at the cabinets in a second, wherever a connector is free.
    pub starts_per_s: f64,
    /// A session that began at the cabinet lasts so long, a fifth more or less.
    pub session: Duration,
}

/// What is wrong with a swarm, each with what would be right.
#[derive(Debug, PartialEq, Eq)]
pub struct SpecError(pub Vec<String>);

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n  "))
    }
}

impl std::error::Error for SpecError {}

impl Names {
    /// The name of the nth, from 0.
    ///
    /// # Errors
    /// When the prefix makes no name of it.
    pub fn nth(&self, n: u32) -> Result<CpId, ev_contract::ids::InvalidId> {
        let (prefix, number, digits) = (&self.prefix, self.first + n, usize::from(self.digits));
        CpId::new(format!("{prefix}{number:0digits$}"))
    }

    /// All of them.
    ///
    /// # Errors
    /// As [`Names::nth`].
    pub fn all(&self) -> Result<Vec<CpId>, ev_contract::ids::InvalidId> {
        (0..self.count).map(|n| self.nth(n)).collect()
    }
}

impl Sources {
    /// From `127.1.0.1-127.1.0.8` or a single address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let read = |text: &str| {
            text.trim().parse::<Ipv4Addr>().map(u32::from).map_err(|_| {
                format!("{text:?} is no IPv4 address; give a range like 127.1.0.1-127.1.0.8")
            })
        };
        let (first, last) = (read(first)?, read(last)?);
        match last.checked_sub(first) {
            Some(more) if more < u32::from(u16::MAX) => Ok(Self {
                first,
                count: more + 1,
            }),
            Some(_) => Err("a range has at most 65535 addresses".into()),
            None => Err("the range ends before it begins".into()),
        }
    }

    /// The address for the nth connection.
    #[must_use]
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + n % self.count)
    }
}

impl Spec {
    /// Checks what can be told without a file or a server.
    ///
    /// # Errors
    /// [`SpecError`] with everything that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        let mut faults = Vec::new();
        if !nats_url_is_usable(&self.nats_url) {
            faults.push(format!(
                "--nats-url: {:?} is no address of a NATS server; for instance nats://127.0.0.1:4222",
                self.nats_url
            ));
        }
        if !(1..=COUNT_MAX).contains(&self.names.count) {
            faults.push(format!(
                "--count: {} is not within 1 to {COUNT_MAX}",
                self.names.count
            ));
        }
        let last = self.names.count.saturating_sub(1);
        if self.names.first.checked_add(last).is_none() {
            faults.push(format!("--first: {} is too large", self.names.first));
        } else if let Err(e) = self.names.nth(0).and_then(|_| self.names.nth(last)) {
            faults.push(format!("--prefix: {:?}: {e}", self.names.prefix));
        }
        if jiff::tz::TimeZone::get(&self.time_zone).is_err() {
            faults.push(format!(
                "--time-zone: {:?} is no IANA time zone; for instance Europe/Berlin",
                self.time_zone
            ));
        }
        if !(1..=CONNECTORS_MAX).contains(&usize::from(self.connectors)) {
            faults.push(format!(
                "--connectors: {} is not within 1 to {CONNECTORS_MAX}",
                self.connectors
            ));
        }
        if !(1..=SPEED_MAX).contains(&self.speed) {
            faults.push(format!(
                "--sim-speed: {} is not within 1 to {SPEED_MAX}: no connector that is sold is stronger",
                self.speed
            ));
        }
        let per_source = match self.lines {
            Lines::Own(_) => {
                let sources = self.sources.map_or(1, |sources| sources.count);
                self.names.count.div_ceil(sources)
            }
            Lines::Shared(_) => 0,
        };
        if per_source > SOCKETS_PER_SOURCE_MAX {
            let sources = self.names.count.div_ceil(SOCKETS_PER_SOURCE_MAX);
            faults.push(format!(
                "--source: {per_source} connections from one address run out of ports; \
                 give {sources} addresses or more, for instance 127.1.0.1-127.1.0.{sources}"
            ));
        }
        if self.backlog > BACKLOG_MAX {
            faults.push(format!("--backlog: at most {BACKLOG_MAX} records"));
        }
        if self.backlog > 0 && self.state_dir.is_none() {
            faults.push(
                "--backlog: records from before the start lie on a disk; name a folder with --state-dir"
                    .into(),
            );
        }
        let starts = self.cars.starts_per_s;
        if !(0.0..=STARTS_PER_S_MAX).contains(&starts) {
            faults.push(format!(
                "--starts: {starts} is not within 0 to {STARTS_PER_S_MAX} a second"
            ));
        }
        if self.cars.session.is_zero() {
            faults.push("--session-s: 0 is no session; for instance 60".into());
        }
        if self.progress.is_zero() {
            faults.push("--progress-s: give 1 or more".into());
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(SpecError(faults))
        }
    }

    /// The simulator, with cars as strong as the connectors.
    #[must_use]
    pub fn strong_simulator(&self) -> SimulatorConfig {
        SimulatorConfig {
            car_power_w: self.simulator.car_power_w * u64::from(self.speed),
            ..self.simulator.clone()
        }
    }

    /// The connectors of each charge point, so many times as strong as the speed says.
    #[must_use]
    pub fn connector_specs(&self) -> Vec<ConnectorSpec> {
        (1..=self.connectors)
            .map(|n| ConnectorSpec {
                connector: ConnectorId(n),
                max_ma: MilliAmp(MAX_MA * self.speed),
                phases: PHASES,
                volts: VOLTS,
                plug: None,
            })
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec() -> Spec {
        Spec {
            nats_url: "nats://127.0.0.1:4222".into(),
            tls: Tls {
                ca: "/ca".into(),
                identity: None,
            },
            names: Names {
                prefix: "CP-".into(),
                first: 1,
                digits: 5,
                count: 10_000,
            },
            site: SiteId::new("SWARM").unwrap(),
            time_zone: "Europe/Berlin".into(),
            connectors: 2,
            lines: Lines::Own("/creds".into()),
            sources: None,
            state_dir: None,
            speed: 1,
            ramp_per_s: None,
            lasts: None,
            cars: Cars {
                stay: false,
                starts_per_s: 0.0,
                session: Duration::from_secs(60),
            },
            backlog: 0,
            progress: Duration::from_secs(5),
            simulator: SimulatorConfig::default(),
        }
    }

    fn faults(change: impl FnOnce(&mut Spec)) -> Vec<String> {
        let mut spec = spec();
        change(&mut spec);
        spec.check().err().map_or_else(Vec::new, |e| e.0)
    }

    #[test]
    fn a_good_one_is_taken_and_its_charge_points_have_names_of_one_length() {
        assert_eq!(faults(|_| ()), Vec::<String>::new());
        let names = spec().names.all().unwrap();
        assert_eq!(names.len(), 10_000);
        assert_eq!(
            (names[0].as_str(), names[9_999].as_str()),
            ("CP-00001", "CP-10000")
        );
    }

    #[test]
    fn each_fault_names_its_option_and_what_would_be_right() {
        type Change = fn(&mut Spec);
        let table: [(Change, &str, &str); 13] = [
            (|s| s.nats_url = "nats://".into(), "--nats-url", "127.0.0.1"),
            (|s| s.names.count = 0, "--count", "1 to 200000"),
            (|s| s.names.count = COUNT_MAX + 1, "--count", "1 to 200000"),
            (|s| s.names.first = u32::MAX, "--first", "too large"),
            (|s| s.names.prefix = "a.b".into(), "--prefix", "a.b"),
            (
                |s| s.time_zone = "Mars/Base".into(),
                "--time-zone",
                "Europe/Berlin",
            ),
            (|s| s.connectors = 33, "--connectors", "1 to 32"),
            (|s| s.speed = 251, "--sim-speed", "1 to 250"),
            (
                |s| s.names.count = 30_000,
                "--source",
                "127.1.0.1-127.1.0.3",
            ),
            (|s| s.backlog = 5, "--backlog", "--state-dir"),
            (|s| s.cars.starts_per_s = f64::NAN, "--starts", "0 to 20000"),
            (|s| s.cars.session = Duration::ZERO, "--session-s", "60"),
            (|s| s.progress = Duration::ZERO, "--progress-s", "1 or more"),
        ];
        for (change, key, right) in table {
            let found = faults(change);
            assert!(!found.is_empty(), "{key}");
            assert!(
                found[0].contains(key) && found[0].contains(right),
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_shares_connections_or_has_addresses_enough_may_be_large() {
        let many = |s: &mut Spec| s.names.count = 100_000;
        assert!(
            faults(|s| {
                many(s);
                s.lines = Lines::Shared("/creds".into());
            })
            .is_empty()
        );
        assert!(
            faults(|s| {
                many(s);
                s.sources = Some(Sources::parse("127.1.0.1-127.1.0.8").unwrap());
            })
            .is_empty()
        );
    }

    #[test]
    fn source_addresses_are_used_in_turn() {
        let sources = Sources::parse("127.1.0.254 - 127.1.1.1").unwrap();
        let used: Vec<_> = (0..5).map(|n| sources.nth(n).to_string()).collect();
        assert_eq!(
            used,
            [
                "127.1.0.254",
                "127.1.0.255",
                "127.1.1.0",
                "127.1.1.1",
                "127.1.0.254"
            ]
        );
        assert_eq!(
            Sources::parse("127.0.0.1").unwrap().nth(7).to_string(),
            "127.0.0.1"
        );
        for bad in ["", "::1", "127.0.0.2-127.0.0.1", "10.0.0.0-11.0.0.0", "a-b"] {
            assert!(Sources::parse(bad).is_err(), "{bad}");
        }
    }
}
