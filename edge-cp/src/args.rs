//! The command line.

mod swarm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};
use edge_cp::{
    clock::HostClock,
    config::{Config, ConfigError, nats_url_is_usable},
    control::{Request, Verb},
    ctl,
    reload::Reloader,
    sim::SimVerb,
    store::Store,
};
use ev_contract::{
    connector::FaultEffect,
    ids::{ConnectorId, CpId},
    units::Mwh,
};
use ev_manual::{Manual, Section};
use ev_service::EXIT_CONFIG;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

const EXAMPLES: &str = "\
Examples:
  edge-cp check-config --config /etc/edge-cp.toml
  edge-cp run --config /etc/edge-cp.toml
  edge-cp new-epoch --config /etc/edge-cp.toml CP-001
  edge-cp run --config demo.toml --nats-url nats://127.0.0.1:4222 --sim-speed 60
  edge-cp ctl plug CP-001 --connector 1
  edge-cp ctl status --json
";

const CTL_EXAMPLES: &str = "\
Examples (CP may be left out where the agent has one, --connector where CP has one):
  edge-cp ctl status --json
  edge-cp ctl plug CP-001 --connector 1
  edge-cp ctl start CP-001 --token 04A2B3
  edge-cp ctl stop CP-001
  edge-cp ctl fault CP-001 --effect suspends --raw GroundFailure
  edge-cp ctl clear CP-001
  edge-cp ctl link down CP-001
  edge-cp ctl power-cut CP-001 --seconds 5
  edge-cp ctl meter CP-001 --add -500000
  edge-cp --help

Exit codes: 0 ok, 1 other, 2 usage, 5 refused, 6 no answer, 7 no agent
";

/// What its man page says beyond the help.
const MANUAL: Manual = Manual {
    section: "8",
    more: &[
        Section {
            title: "SIGNALS",
            entries: &[
                (
                    "SIGTERM, SIGINT",
                    "End. Running sessions go on in their chargers, and what is unsent waits on the disk.",
                ),
                (
                    "SIGHUP",
                    "Read the configuration anew and say in the log and the status line what of it is new or wrong; a restart takes it.",
                ),
            ],
        },
        Section {
            title: "FILES",
            entries: &[
                (
                    "/etc/edge-cp/NAME.toml",
                    "The configuration of the service edge-cp@NAME. A path in it may begin with \
                     $CREDENTIALS_DIRECTORY/, $STATE_DIRECTORY/ or $RUNTIME_DIRECTORY/, which \
                     systemd sets.",
                ),
                (
                    "/etc/edge-cp/keys/NAME/",
                    "What that service is given as $CREDENTIALS_DIRECTORY: the credentials of its \
                     charge points and ca.crt. Root's alone.",
                ),
                (
                    "/var/lib/edge-cp/NAME/",
                    "$STATE_DIRECTORY: sessions, and records that central does not have yet.",
                ),
                (
                    "/run/edge-cp/NAME/control.sock",
                    "Where edge-cp ctl finds it, with --socket.",
                ),
                (
                    "/etc/edge-cp/example.toml",
                    "A configuration to begin with.",
                ),
            ],
        },
        Section {
            title: "EXIT STATUS OF run",
            entries: &[
                ("0", "Ended as it was told to."),
                (
                    "1",
                    "Cannot serve; the last lines say why. systemd tries again.",
                ),
                (
                    "78",
                    "The configuration cannot be used; the last lines say what would be right. \
                     systemd does not try again.",
                ),
            ],
        },
    ],
    see_also: &[
        "central(8)",
        "driver-cli(1)",
        "systemctl(1)",
        "journalctl(1)",
    ],
};

/// The agent in a charging cabinet.
#[derive(Debug, Parser)]
#[command(version, before_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: CommandLine,
}

#[derive(Debug, Subcommand)]
enum CommandLine {
    /// Serve the configured charge points until SIGTERM
    Run(Run),
    /// Check a configuration file and say what is wrong with it
    CheckConfig {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print JSON: `ok`, `file`, `faults`, `warnings`
        #[arg(long)]
        json: bool,
    },
    /// Make a store that was copied or set back a store of its own, while its agent is stopped
    ///
    /// For an agent that says `identity_in_use` and is to be the one that is obeyed. Its sessions and its
    /// records stay; they are numbered anew under a new epoch, and sent from the beginning.
    NewEpoch {
        /// The configuration of its agent
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The charge point; may be left out where the file has one
        cp: Option<CpId>,
    },
    /// Act on the spot, through the agent's control socket
    #[command(before_help = CTL_EXAMPLES)]
    Ctl(Ctl),
    /// Be thousands of simulated charge points at once, to load a hub that is there to be tested
    #[command(before_help = swarm::EXAMPLES)]
    Swarm(Box<swarm::Swarm>),
    /// Write man pages and completions, for packages
    #[command(hide = true)]
    Manual {
        /// Into this folder
        folder: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Instead of the file's nats_url
    #[arg(long, value_name = "URL", env = "EDGE_CP_NATS_URL")]
    nats_url: Option<String>,
    /// How many times as strong as configured the simulated charger and its cars are: at 60 an
    /// hour's energy flows in a minute. Up to what the strongest connector that is sold gives, which
    /// is 125 with connectors of 22 kW
    #[arg(long, value_name = "X", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sim_speed: u32,
}

#[derive(Debug, ClapArgs)]
struct Ctl {
    /// The agent's control socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "EDGE_CP_SOCKET",
        default_value = "/run/edge-cp/control.sock"
    )]
    socket: PathBuf,
    /// One JSON document on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: CtlVerb,
}

#[derive(Debug, ClapArgs)]
struct Place {
    /// The charge point
    cp: Option<String>,
    /// Its connector
    #[arg(long, value_name = "N")]
    connector: Option<u16>,
}

impl Place {
    /// 0 stands for the only one.
    fn connector(&self) -> ConnectorId {
        ConnectorId(self.connector.unwrap_or(0))
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Effect {
    /// Charging goes on
    Warning,
    /// Charging pauses until it clears
    Suspends,
    /// The charger ends the transaction
    Ended,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum UpDown {
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
enum CtlVerb {
    /// A car is plugged in
    Plug {
        #[command(flatten)]
        place: Place,
        /// Its state of charge in percent, instead of the configured one
        #[arg(long, value_name = "PCT", value_parser = clap::value_parser!(u8).range(0..=100))]
        soc: Option<u8>,
    },
    /// The car is unplugged
    Unplug(Place),
    /// Start a session at the cabinet, also without uplink
    Start {
        #[command(flatten)]
        place: Place,
        /// What is shown to the reader
        #[arg(long)]
        token: Option<String>,
        /// Nobody pays
        #[arg(long)]
        free: bool,
    },
    /// End the session on a connector, whoever began it
    Stop(Place),
    /// A fault begins
    Fault {
        #[command(flatten)]
        place: Place,
        /// What it does
        #[arg(long, value_enum, default_value = "suspends")]
        effect: Effect,
        /// The device's word for it
        #[arg(long, value_name = "WORD", default_value = "OtherError")]
        raw: String,
    },
    /// The fault clears
    Clear(Place),
    /// The charger boots
    Reset {
        /// The charge point
        cp: Option<String>,
    },
    /// The charger loses mains power for a while
    PowerCut {
        /// The charge point
        cp: Option<String>,
        /// For so many real seconds
        #[arg(long, value_name = "S", default_value_t = 2)]
        seconds: u32,
        /// It has forgotten its transactions when the power is back
        #[arg(long)]
        lose: bool,
    },
    /// The car pauses by itself
    Pause(Place),
    /// The car goes on
    Resume(Place),
    /// The car's battery is at so many percent
    Soc {
        /// Percent
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        pct: u8,
        #[command(flatten)]
        place: Place,
    },
    /// The wire between agent and charger works or not
    Link {
        /// Which
        state: UpDown,
        /// The charge point
        cp: Option<String>,
    },
    /// The register is turned, as no meter should
    Meter {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        turn: Turn,
    },
    /// The charger misbehaves: facts repeated, late, in disorder; answers lost; odd ids
    Unruly {
        /// Which
        state: OnOff,
        /// The charge point
        cp: Option<String>,
    },
    /// How everything stands
    Status {
        /// Only this charge point
        cp: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
struct Turn {
    /// To so many mWh
    #[arg(long, value_name = "MWH")]
    set: Option<u64>,
    /// By so many mWh, below zero for a fall
    #[arg(long, value_name = "MWH", allow_hyphen_values = true)]
    add: Option<i64>,
}

impl CtlVerb {
    fn request(self) -> Request {
        let (cp, verb) = match self {
            Self::Status { cp } => (cp, Verb::Status),
            Self::Start { place, token, free } => {
                let connector = place.connector;
                let verb = Verb::Start {
                    connector,
                    token,
                    free,
                };
                (place.cp, verb)
            }
            Self::Stop(place) => {
                let connector = place.connector;
                (place.cp, Verb::Stop { connector })
            }
            Self::Plug { place, soc } => {
                let connector = place.connector();
                let soc_pct = soc;
                (place.cp, Verb::Sim(SimVerb::Plug { connector, soc_pct }))
            }
            Self::Unplug(place) => {
                let connector = place.connector();
                (place.cp, Verb::Sim(SimVerb::Unplug { connector }))
            }
            Self::Pause(place) => {
                let connector = place.connector();
                (place.cp, Verb::Sim(SimVerb::Pause { connector }))
            }
            Self::Resume(place) => {
                let connector = place.connector();
                (place.cp, Verb::Sim(SimVerb::Resume { connector }))
            }
            Self::Soc { pct, place } => {
                let connector = place.connector();
                (place.cp, Verb::Sim(SimVerb::Soc { connector, pct }))
            }
            Self::Fault { place, effect, raw } => {
                let effect = match effect {
                    Effect::Warning => FaultEffect::Warning,
                    Effect::Suspends => FaultEffect::Suspends,
                    Effect::Ended => FaultEffect::Ended,
                };
                let connector = place.connector();
                let verb = SimVerb::Fault {
                    connector,
                    effect,
                    raw,
                };
                (place.cp, Verb::Sim(verb))
            }
            Self::Clear(place) => {
                let connector = place.connector();
                (place.cp, Verb::Sim(SimVerb::Clear { connector }))
            }
            Self::Reset { cp } => (cp, Verb::Sim(SimVerb::Reset)),
            Self::PowerCut { cp, seconds, lose } => {
                (cp, Verb::Sim(SimVerb::PowerCut { seconds, lose }))
            }
            Self::Link { state, cp } => {
                let up = matches!(state, UpDown::Up);
                (cp, Verb::Sim(SimVerb::Link { up }))
            }
            Self::Meter { place, turn } => {
                let connector = place.connector();
                let verb = match (turn.set, turn.add) {
                    (Some(set), _) => SimVerb::MeterSet {
                        connector,
                        register: Mwh(set),
                    },
                    (None, add) => SimVerb::MeterAdd {
                        connector,
                        mwh: add.unwrap_or(0),
                    },
                };
                (place.cp, Verb::Sim(verb))
            }
            Self::Unruly { state, cp } => {
                let on = matches!(state, OnOff::On);
                (cp, Verb::Sim(SimVerb::Unruly { on }))
            }
        };
        Request { cp, verb }
    }
}

impl Args {
    /// Does what the command line says.
    pub fn carry_out(self) -> ExitCode {
        match self.command {
            CommandLine::CheckConfig { config, json } => check_config(&config, json),
            CommandLine::Run(run) => run.carry_out(),
            CommandLine::NewEpoch { config, cp } => new_epoch(&config, cp.as_ref()),
            CommandLine::Ctl(ctl) => ctl.carry_out(),
            CommandLine::Swarm(swarm) => swarm.carry_out(),
            CommandLine::Manual { folder } => match MANUAL.write(Self::command(), &folder) {
                Ok(_) => ExitCode::SUCCESS,
                Err(e) => failure(&format!("manual in {}: {e}", folder.display())),
            },
        }
    }
}

/// What can be told without connecting. What ends soon or has ended is a warning: an agent without a good
/// credential begins and charges, and takes a new one when it lies there.
fn check_config(path: &Path, json: bool) -> ExitCode {
    let read = Config::read(path);
    let (faults, warnings) = match &read {
        Ok(config) => (
            &[][..],
            [config.warnings(), of_the_running_agent(config)].concat(),
        ),
        Err(e) => (e.faults.as_slice(), Vec::new()),
    };
    if json {
        println!(
            "{}",
            serde_json::json!({
                "file": path, "ok": read.is_ok(), "faults": faults, "warnings": warnings,
            })
        );
    }
    match read {
        Ok(_) if json => ExitCode::SUCCESS,
        Ok(config) => {
            for warning in &warnings {
                eprintln!("edge-cp: warning: {warning}");
            }
            println!(
                "{}: {} charge points, all well",
                path.display(),
                config.charge_points.len()
            );
            ExitCode::SUCCESS
        }
        Err(e) => config_fault(&e),
    }
}

fn new_epoch(path: &Path, cp: Option<&CpId>) -> ExitCode {
    let config = match Config::read(path) {
        Ok(config) => config,
        Err(e) => return config_fault(&e),
    };
    let ids: Vec<&CpId> = config.charge_points.iter().map(|c| &c.id).collect();
    let id = match (cp, ids.as_slice()) {
        (Some(cp), _) if ids.contains(&cp) => cp,
        (Some(cp), _) => return failure(&format!("{} has no charge point {cp}", path.display())),
        (None, [one]) => one,
        (None, _) => return failure(&"name one of the charge points of this file"),
    };
    let now = HostClock::start().now().wall;
    match Store::new_epoch(&Store::path(&config.state_dir, id), now) {
        Ok(renewed) => {
            println!(
                "{id}: epoch {} is now {}; {} records wait and are sent from the beginning",
                renewed.before, renewed.epoch, renewed.records
            );
            ExitCode::SUCCESS
        }
        Err(e) => failure(&format!("{:#}", anyhow::Error::from(e))),
    }
}

/// What the sessions of an agent that runs have to say to a configuration; nothing where none does.
fn of_the_running_agent(config: &Config) -> Vec<String> {
    let Some(socket) = &config.control_socket else {
        return Vec::new();
    };
    let request = Request {
        cp: None,
        verb: Verb::Status,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let asked = runtime.map(|runtime| runtime.block_on(ctl::ask(socket, &request)));
    let Ok(Ok(statuses)) = asked else {
        return Vec::new();
    };
    let charge_points = config.charge_points.iter();
    charge_points
        .flat_map(|cp| cp.lacking_in(&statuses["charge_points"]))
        .collect()
}

fn config_fault(e: &ConfigError) -> ExitCode {
    eprintln!("edge-cp: {e}");
    ExitCode::from(EXIT_CONFIG)
}

fn failure(e: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("edge-cp: {e}");
    ExitCode::FAILURE
}

impl Run {
    fn carry_out(self) -> ExitCode {
        let mut config = match Config::read(&self.config) {
            Ok(config) => config,
            Err(e) => return config_fault(&e),
        };
        for cp in &config.charge_points {
            if let Err(e) = cp.clone().times_as_strong(self.sim_speed) {
                eprintln!("edge-cp: {e}");
                return ExitCode::from(EXIT_CONFIG);
            }
        }
        let reloader = Reloader::new(self.config, config.clone());
        if let Some(url) = self.nats_url {
            if !nats_url_is_usable(&url) {
                eprintln!(
                    "edge-cp: --nats-url: {url:?} is no address of a NATS server; for instance nats://127.0.0.1:4222"
                );
                return ExitCode::from(EXIT_CONFIG);
            }
            config.nats_url = url;
        }
        ev_service::log("info,async_nats=off");
        let runtime = match tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(e) => return failure(&e),
        };
        runtime.block_on(async {
            let (stop, shutdown) = watch::channel(false);
            if let Err(e) = watch_signals(stop) {
                return failure(&e);
            }
            let hang_ups = match signal(SignalKind::hangup()) {
                Ok(hang_ups) => hang_ups,
                Err(e) => return failure(&e),
            };
            match edge_cp::run(config, self.sim_speed, (reloader, hang_ups), shutdown).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => failure(&format!("{e:#}")),
            }
        })
    }
}

fn watch_signals(stop: watch::Sender<bool>) -> std::io::Result<()> {
    /// Sent at a limit of file size, and deadly unless it is caught: to the agent that is one more
    /// disk that cannot be written.
    const SIGXFSZ: i32 = 25;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = too_large.recv() => {}
            }
        }
        stop.send_replace(true);
        // Held, since a sender that is gone counts as an end as well.
        stop.closed().await;
    });
    Ok(())
}

impl Ctl {
    fn carry_out(self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(e) => return failure(&e),
        };
        let request = self.verb.request();
        let is_status = request.verb == Verb::Status;
        match runtime.block_on(ctl::ask(&self.socket, &request)) {
            Ok(data) => {
                if self.json {
                    println!("{data}");
                } else if is_status {
                    println!("{}", ctl::table(&data));
                } else if let Some(id) = data["session_id"].as_str() {
                    println!("{id}");
                } else {
                    println!("done");
                }
                ExitCode::SUCCESS
            }
            Err(e) => {
                if let (true, ctl::CtlError::Refused { answer, .. }) = (self.json, &e) {
                    println!("{answer}");
                }
                eprintln!("edge-cp: {e}");
                ExitCode::from(e.exit_code())
            }
        }
    }
}
