//! `edge-cp swarm …`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args as ClapArgs;
use edge_cp::{
    config::SimulatorConfig,
    swarm::{
        self,
        report::Report,
        spec::{Cars, Lines, Names, Sources, Spec},
    },
};
use ev_client::Tls;
use ev_contract::ids::SiteId;
use ev_service::EXIT_CONFIG;
use tokio::{runtime::Builder, sync::watch};

use super::{failure, watch_signals};

pub(super) const EXAMPLES: &str = "\
Only for hubs that are there to be tested: each charge point is one like any other to them.

Examples:
  edge-cp swarm --count 1000 --names | central enrol charge-point --from - --missing
  edge-cp swarm --count 1000 --ca ca.crt --credentials /etc/ev/keys/creds/charge-point --for 60
  edge-cp swarm --count 1000 ... --starts 20 --session-s 30 --json
  edge-cp swarm --count 30000 ... --source 127.1.0.1-127.1.0.4 --ramp 1000
  edge-cp swarm --count 1 ... --connectors 32 --state-dir /tmp/spool --backlog 100000
  edge-cp swarm --count 100000 --names | central enrol load SWARM --from -
  edge-cp swarm --count 100000 ... --credentials /etc/ev/keys/creds/load --share

Exit codes: 0 ended with all sessions and records done, 1 other, 2 usage, 78 not as it is given
";

/// Threads that wait for disks and files: all charge points share them.
const BLOCKING_THREADS_MAX: usize = 16;

#[derive(Debug, ClapArgs)]
pub(super) struct Swarm {
    /// How many charge points
    #[arg(long, value_name = "N")]
    count: u32,
    /// Print their names, one a line, and do nothing else
    #[arg(long)]
    names: bool,
    /// What their names begin with
    #[arg(long, value_name = "TEXT", default_value = "SWARM-")]
    prefix: String,
    /// The number of the first
    #[arg(long, value_name = "N", default_value_t = 1)]
    first: u32,
    /// Digits of the numbers
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=10))]
    digits: u8,
    /// Where nats-server is; several of one cluster with commas between
    #[arg(
        long,
        value_name = "URL",
        env = "EDGE_CP_NATS_URL",
        default_value = "nats://127.0.0.1:4222"
    )]
    nats_url: String,
    /// Who may vouch for the servers, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "names")]
    ca: Option<PathBuf>,
    /// A client's certificate, PEM, where the servers ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// A folder with <name>.creds of each charge point; with --share, with load credentials
    #[arg(long, value_name = "DIR", required_unless_present = "names")]
    credentials: Option<PathBuf>,
    /// Charge points named in one load credential share a connection; else each has its own
    #[arg(long)]
    share: bool,
    /// Addresses to call from, in turn: A-B
    #[arg(long, value_name = "RANGE", value_parser = Sources::parse)]
    source: Option<Sources>,
    /// Connectors of each charge point
    #[arg(long, value_name = "N", default_value_t = 1)]
    connectors: u16,
    /// Their site
    #[arg(long, value_name = "ID", default_value = "SWARM")]
    site: SiteId,
    /// Its IANA time zone
    #[arg(long, value_name = "ZONE", default_value = "Europe/Berlin")]
    time_zone: String,
    /// Keep stores here, one SQLite file each, as an agent does; else they are in memory and gone
    /// with the process
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Records that each charge point begins with, as after days offline; needs --state-dir
    #[arg(long, value_name = "N", default_value_t = 0)]
    backlog: u64,
    /// How many times as strong as real the chargers and their cars are: at 60 an hour's energy
    /// flows in a minute
    #[arg(long, value_name = "X", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sim_speed: u32,
    /// So many charge points begin in a second; 0 is all at once
    #[arg(long, value_name = "PER_S", default_value_t = 500)]
    ramp: u32,
    /// End after so many seconds; else at SIGTERM
    #[arg(long = "for", value_name = "S")]
    lasts: Option<u64>,
    /// A car stands at each connector, and another comes when its session has ended
    #[arg(long)]
    cars: bool,
    /// So many sessions begin at the cabinets in a second
    #[arg(long, value_name = "PER_S", default_value_t = 0.0)]
    starts: f64,
    /// They last so long, a fifth more or less
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    session_s: f64,
    /// Say how it goes every so many seconds
    #[arg(long, value_name = "S", default_value_t = 5)]
    progress_s: u64,
    /// Lines of JSON on standard output: `progress` now and then, at last `summary`
    #[arg(long)]
    json: bool,
}

impl Swarm {
    pub(super) fn carry_out(self) -> ExitCode {
        let json = self.json;
        let only_names = self.names;
        let spec = match self.spec() {
            Ok(spec) => spec,
            Err(why) => return refused(&why),
        };
        if let Err(e) = spec.check() {
            return refused(&e);
        }
        if only_names {
            return print_names(&spec.names);
        }
        ev_service::log("warn,async_nats=off");
        let runtime = Builder::new_multi_thread()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(e) => return failure(&e),
        };
        let ended = runtime.block_on(async {
            let (stop, shutdown) = watch::channel(false);
            watch_signals(stop)?;
            swarm::run(spec, shutdown, |report| say(report, json)).await
        });
        match ended {
            Ok(summary) => {
                say(&summary, json);
                if summary.settled == Some(false) {
                    return ExitCode::FAILURE;
                }
                ExitCode::SUCCESS
            }
            Err(e) => failure(&format!("{e:#}")),
        }
    }

    fn spec(self) -> Result<Spec, String> {
        let (ca, folder) = if self.names {
            (PathBuf::new(), PathBuf::new())
        } else {
            (
                self.ca.unwrap_or_default(),
                self.credentials.unwrap_or_default(),
            )
        };
        let tls = Tls::new(ca, self.certificate, self.key).map_err(|e| e.to_string())?;
        let session = Duration::try_from_secs_f64(self.session_s)
            .map_err(|_| format!("--session-s: {} is no time", self.session_s))?;
        Ok(Spec {
            nats_url: self.nats_url,
            tls,
            names: Names {
                prefix: self.prefix,
                first: self.first,
                digits: self.digits,
                count: self.count,
            },
            site: self.site,
            time_zone: self.time_zone,
            connectors: self.connectors,
            lines: if self.share {
                Lines::Shared(folder)
            } else {
                Lines::Own(folder)
            },
            // Names do not depend on where they are used.
            sources: self.source,
            state_dir: self.state_dir,
            speed: self.sim_speed,
            ramp_per_s: Some(self.ramp).filter(|per_s| *per_s > 0),
            lasts: self.lasts.map(Duration::from_secs),
            cars: Cars {
                stay: self.cars,
                starts_per_s: self.starts,
                session,
            },
            backlog: self.backlog,
            progress: Duration::from_secs(self.progress_s),
            simulator: SimulatorConfig::default(),
        })
    }
}

fn refused(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("edge-cp: the swarm cannot be as it is given:\n  {why}");
    ExitCode::from(EXIT_CONFIG)
}

fn print_names(names: &Names) -> ExitCode {
    use std::io::Write;
    let written = names.all().map_err(anyhow::Error::from).and_then(|all| {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        for name in all {
            writeln!(out, "{name}")?;
        }
        Ok(out.flush()?)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failure(&format!("{e:#}")),
    }
}

fn say(report: &Report, json: bool) {
    if !json {
        println!("{report}");
        return;
    }
    match serde_json::to_string(report) {
        Ok(line) => println!("{line}"),
        Err(e) => eprintln!("edge-cp: a report cannot be written: {e}"),
    }
}
