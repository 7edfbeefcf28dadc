//! The command line. Every help begins with examples.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use ev_contract::{
    ids::{DriverId, OperatorId, RequestId},
    time::UnixMs,
    units::Amount,
    v1::{EventKind, IdleFrom, TariffScope, Tax},
};

use crate::{
    quantity::{self, Money, Place, Price, Seconds, TariffVersion, WattHours},
    report::month::Month,
};

/// Charge a car: start, watch and stop sessions, see what they cost.
#[derive(Debug, Parser)]
#[command(
    name = "driver-cli",
    version,
    max_term_width = 100,
    before_help = "Examples:
  driver-cli --driver alice list
  driver-cli --driver alice start CP-001 --limit-cost 10EUR --wait charging
  driver-cli --driver alice watch
  driver-cli --driver alice stop
  driver-cli --driver alice history",
    after_help = "Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 not allowed, 5 refused or failed,
6 outcome unknown (repeat it: that is safe), 7 unreachable with nothing sent, 130 Ctrl-C."
)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What holds for every verb.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where NATS is
    #[arg(
        long,
        global = true,
        env = "EV_NATS_URL",
        value_name = "URL",
        default_value = DEFAULT_NATS_URL,
        hide_env_values = true
    )]
    pub nats_url: String,
    /// What proves who you are: a credentials file, or a folder with driver/ID.creds and
    /// operator/ID.creds [default: ev/creds in the XDG configuration folder]
    #[arg(long, global = true, env = "EV_CREDENTIALS", value_name = "PATH")]
    pub credentials: Option<PathBuf>,
    /// Who may vouch for the server, PEM [default: ev/ca.crt in the XDG configuration folder]
    #[arg(long, global = true, env = "EV_NATS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A certificate of your own, PEM, where the server asks for one
    #[arg(
        long,
        global = true,
        env = "EV_NATS_CERTIFICATE",
        value_name = "FILE",
        requires = "key"
    )]
    pub certificate: Option<PathBuf>,
    /// Its key
    #[arg(
        long,
        global = true,
        env = "EV_NATS_KEY",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub key: Option<PathBuf>,
    /// Who you are, for drivers' verbs [default: whose the credentials file is]
    #[arg(long, global = true, env = "EV_DRIVER", value_name = "ID")]
    pub driver: Option<DriverId>,
    /// Who you are, for `op` [default: whose the credentials file is, or `operator`]
    #[arg(long, global = true, env = "EV_OPERATOR", value_name = "ID")]
    pub operator: Option<OperatorId>,
    /// Where requests are written down before they are sent [default: the XDG state folder]
    #[arg(long, global = true, env = "EV_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Data as JSON: one document, when watching one line an event
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for an answer; the same request is repeated meanwhile
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = quantity::duration_above_zero
    )]
    pub timeout: Duration,
}

/// Where NATS is unless somebody says otherwise.
pub const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";
/// Which operator's credential is taken from a folder unless somebody says otherwise.
pub const DEFAULT_OPERATOR: &str = "operator";

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show charge points with their state and price
    #[command(before_help = "Examples:
  driver-cli list
  driver-cli list --json | jq '.charge_points[].cp_id'")]
    List,
    /// Start a session
    #[command(before_help = "Examples:
  driver-cli start CP-001
  driver-cli start CP-001 --connector 2 --limit-energy 20kWh
  driver-cli start CP-001 --limit-cost 10EUR --wait ended
  driver-cli start CP-001 --tariff base@3     at this price or not at all
  driver-cli start CP-001 --request-id ID     repeat a start whose outcome is unknown")]
    Start(StartArgs),
    /// Stop a session
    #[command(before_help = "Examples:
  driver-cli stop                 your only open session
  driver-cli stop 0190a0b0        the session whose id begins like this
  driver-cli stop --wait stopped  come back when the charge point has confirmed")]
    Stop(StopArgs),
    /// Show open sessions, or one by its id
    #[command(before_help = "Examples:
  driver-cli status
  driver-cli status 0190a0b0
  driver-cli status --json | jq '.sessions[0].energy_wh'")]
    Status(SessionArg),
    /// Follow a session until it ends; Ctrl-C leaves it running
    #[command(before_help = "Examples:
  driver-cli watch
  driver-cli watch 0190a0b0
  driver-cli watch --json | jq -c '[.event, .state, .energy_wh]'")]
    Watch(SessionArg),
    /// Show your sessions, newest first
    #[command(before_help = "Examples:
  driver-cli history
  driver-cli history --rows 100
  driver-cli history --before 0190a0b0-1111-7222-8333-444455556666")]
    History(HistoryArgs),
    /// Show the receipt of an ended session
    #[command(before_help = "Examples:
  driver-cli receipt 0190a0b0
  driver-cli receipt 0190a0b0 --json | jq '.total, .lines'")]
    Receipt {
        /// The session's id or its beginning
        session: String,
    },
    /// Charge at the points in a file, one after the other
    #[command(before_help = "Examples:
  driver-cli run points.txt --limit-energy 5kWh
  driver-cli run points.txt --pause 10s --json
  printf 'CP-001\\nCP-002/1  # the left one\\n' | driver-cli run - --limit-time 10m")]
    Run(RunArgs),
    /// Serve your page to your browser: charge points, start, watch and stop, receipts
    #[command(before_help = "Examples:
  driver-cli serve                 then open http://localhost:8100
  driver-cli serve --port 8200
  driver-cli --driver bob serve --port 0 --json | jq -r .url")]
    Serve {
        /// On which port; 0 for any that is free
        #[arg(long, value_name = "PORT", default_value_t = 8100)]
        port: u16,
        /// Where else.
        #[command(flatten)]
        args: ServeArgs,
    },
    /// Operators' verbs
    #[command(before_help = "Examples:
  driver-cli op cp ls
  driver-cli op session end 0190a0b0 --reason 'cable damaged'
  driver-cli op tariff set base --scope default --per-kwh 0.49EUR --vat 19
  driver-cli op audit --since 1d")]
    Op {
        /// On what.
        #[command(subcommand)]
        verb: OpVerb,
    },
    /// Write man pages and completions, for packages
    #[command(
        hide = true,
        before_help = "Examples:\n  driver-cli manual target/manual"
    )]
    Manual {
        /// Into this folder
        folder: PathBuf,
    },
    /// Print completions for a shell
    #[command(before_help = "Examples:
  driver-cli completions bash > ~/.local/share/bash-completion/completions/driver-cli
  driver-cli completions zsh > \"${fpath[1]}/_driver-cli\"
  driver-cli completions fish > ~/.config/fish/completions/driver-cli.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Find out why nothing works: credentials, certificates, server, permission, central, clock,
    /// state folder
    #[command(before_help = "Examples:
  driver-cli doctor
  driver-cli op doctor            the same with an operator's credential
  driver-cli --nats-url nats://10.0.0.5:4222 --driver alice doctor --json")]
    Doctor,
}

/// How long `start` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StartWait {
    /// Until it is durably accepted.
    Accepted,
    /// Until energy flows.
    Charging,
    /// Until it has ended.
    Ended,
}

/// How long `stop` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StopWait {
    /// Until it is durably accepted.
    Accepted,
    /// Until the charge point has confirmed that no more energy flows.
    Stopped,
    /// Until the session has ended: where standing costs, that is when the car is unplugged.
    Ended,
}

/// When a session shall end by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct LimitArgs {
    /// End after so much energy, for instance 20kWh
    #[arg(long, value_name = "ENERGY", allow_hyphen_values = true)]
    pub limit_energy: Option<WattHours>,
    /// End so long after energy began, for instance 30m
    #[arg(long, value_name = "DURATION")]
    pub limit_time: Option<Seconds>,
    /// End when start fee and energy cost so much, for instance 10EUR
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub limit_cost: Option<Money>,
}

/// `serve` and `op serve`
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ServeArgs {
    /// On which address; whoever reaches it acts in your name, without a password
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// A name by which browsers reach this server, beside localhost and the address
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
}

/// Repeating a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RepeatArgs {
    /// Repeat the request with this id, or give a new one its id
    #[arg(long, value_name = "ID")]
    pub request_id: Option<RequestId>,
}

/// `start`
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// The charge point, or its connector as in CP-001/1
    #[arg(value_name = "CP")]
    pub place: Place,
    /// Which connector, where there are several
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub connector: Option<i64>,
    /// When to end.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Start at this price or not at all; without it at the price that is shown before
    #[arg(long, value_name = "ID@VERSION")]
    pub tariff: Option<TariffVersion>,
    /// When to come back
    #[arg(long, value_enum, default_value = "accepted")]
    pub wait: StartWait,
    /// Which request.
    #[command(flatten)]
    pub repeat: RepeatArgs,
}

/// `stop`
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// The session's id or its beginning; without it your only open session
    pub session: Option<String>,
    /// When to come back
    #[arg(long, value_enum, default_value = "accepted")]
    pub wait: StopWait,
    /// Which request.
    #[command(flatten)]
    pub repeat: RepeatArgs,
}

/// One session or none.
#[derive(Debug, Clone, Args)]
pub struct SessionArg {
    /// The session's id or its beginning
    pub session: Option<String>,
}

/// `history`
#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rows: u32,
    /// Only sessions older than this one
    #[arg(long, value_name = "SESSION")]
    pub before: Option<String>,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// One charge point or connector (CP-001/1) a line, # for comments; - for standard input
    pub file: PathBuf,
    /// Between the end of one session and the start of the next
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = quantity::duration)]
    pub pause: Duration,
    /// When to end each; without a limit each ends by itself.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// `op`
#[derive(Debug, Clone, Subcommand)]
pub enum OpVerb {
    /// Charge points
    #[command(before_help = "Examples:
  driver-cli op cp ls
  driver-cli op cp show CP-001
  driver-cli op cp disable CP-001 --connector 2
  driver-cli op cp reset --all")]
    Cp {
        /// What.
        #[command(subcommand)]
        verb: OpCp,
    },
    /// Sessions
    #[command(before_help = "Examples:
  driver-cli op session ls --all
  driver-cli op session start CP-001 --driver alice
  driver-cli op session end 0190a0b0 --reason 'cable damaged'
  driver-cli op session adjust 0190a0b0 --amount -1.50EUR --reason 'slow charger'")]
    Session {
        /// What.
        #[command(subcommand)]
        verb: OpSession,
    },
    /// Drivers
    #[command(before_help = "Examples:
  driver-cli op driver block alice --reason 'unpaid receipts'
  driver-cli op driver unblock alice")]
    Driver {
        /// What.
        #[command(subcommand)]
        verb: OpDriver,
    },
    /// Prices
    #[command(before_help = "Examples:
  driver-cli op tariff ls
  driver-cli op tariff set base --scope default --per-kwh 0.49EUR --vat 19
  driver-cli op tariff set fast --scope cp:CP-001 --per-kwh 0.69EUR --start-fee 0.50EUR \\
      --idle-per-minute 0.10EUR --idle-grace 15m --idle-cap 10EUR --vat 19")]
    Tariff {
        /// What.
        #[command(subcommand)]
        verb: OpTariff,
    },
    /// Find out why nothing works, as an operator
    #[command(before_help = "Examples:
  driver-cli op doctor
  driver-cli op doctor --operator olga --json")]
    Doctor,
    /// Who did what, when, and what came of it, oldest first
    #[command(before_help = "Examples:
  driver-cli op audit
  driver-cli op audit --since 1d --who olga
  driver-cli op audit --verb session_end --limit 500
  driver-cli op audit --follow --json | jq -c 'select(.outcome == \"denied\")'")]
    Audit(AuditArgs),
    /// What happens in the fleet, oldest first
    #[command(before_help = "Examples:
  driver-cli op events
  driver-cli op events --follow
  driver-cli op events --since 12h --kind cut,loss
  driver-cli op events --cp CP-002 --since 1d
  driver-cli op events --session 0190a0b0 --json")]
    Events(EventsArgs),
    /// A month of sessions, receipts, uptime or energy, for a spreadsheet or a program
    #[command(before_help = "Examples:
  driver-cli op export --month 2026-11 > receipts-2026-11.csv
  driver-cli op export --month 2026-11 --what sessions --site depot
  driver-cli op export --month 2026-11 --what uptime
  driver-cli op export --month 2026-11 --what energy --format json --utc")]
    Export(ExportArgs),
    /// Serve the wall to your browser: every charge point, who charges, what happens
    #[command(before_help = "Examples:
  driver-cli op serve              then open http://localhost:8000
  driver-cli op serve --port 8001
  driver-cli op serve --port 0 --json | jq -r .url")]
    Serve {
        /// On which port; 0 for any that is free
        #[arg(long, value_name = "PORT", default_value_t = 8000)]
        port: u16,
        /// Where else.
        #[command(flatten)]
        args: ServeArgs,
    },
}

/// `op export`
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Which month; a session belongs to the month in which it ended
    #[arg(long, value_name = "YYYY-MM")]
    pub month: Month,
    /// What of it
    #[arg(long, value_enum, default_value = "receipts")]
    pub what: What,
    /// How it is written; --json is json too
    #[arg(long, value_enum, default_value = "csv")]
    pub format: Format,
    /// Only of this site
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// The month is that of UTC, not that of each site's time zone
    #[arg(long)]
    pub utc: bool,
    /// Look at all that was ever kept: finds receipts of cabinets whose clock was days ahead
    #[arg(long)]
    pub from_the_first: bool,
}

/// What to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Sessions that have ended.
    Sessions,
    /// Their receipts, with adjustments.
    Receipts,
    /// Minutes of each connector.
    Uptime,
    /// Energy and money of each site.
    Energy,
}

impl What {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Receipts => "receipts",
            Self::Uptime => "uptime",
            Self::Energy => "energy",
        }
    }
}

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated, with a header line.
    Csv,
    /// One document.
    Json,
}

/// `op events`
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Go on with what comes, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Only at this charge point
    #[arg(long, value_name = "CP")]
    pub cp: Option<String>,
    /// Only of this session: its id or the beginning of it
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// What happened since so long ago, for instance 12h or 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = quantity::duration_above_zero)]
    pub since: Duration,
    /// Only of these kinds, with commas: cut, loss, fault, session, refusal, operator, or a kind as it
    /// is shown
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = event_kinds)]
    pub kind: Vec<Kinds>,
}

/// Kinds of events under one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds(Vec<EventKind>);

impl EventsArgs {
    /// Whether a kind is wanted.
    #[must_use]
    pub fn kinds(&self, kind: EventKind) -> bool {
        self.kind.is_empty() || self.kind.iter().any(|kinds| kinds.0.contains(&kind))
    }
}

fn event_kinds(text: &str) -> Result<Kinds, String> {
    use EventKind::{
        Accepted, Adjusted, Anomaly, ChargerBack, ChargerLost, Cleared, Ended, EnergyEnded,
        Enrolled, Fault, Missing, Offline, Online, Opened, Operated, Phase, Quarantined, Refused,
        Revoked, Service, Started, Stopping, Taken,
    };
    Ok(Kinds(match text {
        "cut" => vec![Offline, Online],
        "loss" => vec![Missing, Quarantined, Anomaly],
        "fault" => vec![Fault, Cleared, ChargerLost, ChargerBack],
        "session" => vec![
            Accepted,
            Opened,
            Taken,
            Started,
            Phase,
            Stopping,
            EnergyEnded,
            Ended,
            Adjusted,
        ],
        "refusal" => vec![Refused],
        "operator" => vec![Operated, Service, Enrolled, Revoked],
        word => match EventKind::from_word(word) {
            EventKind::Unrecognised => {
                let known: Vec<_> = EventKind::ALL.iter().map(|k| k.as_str()).collect();
                return Err(format!(
                    "it is none of cut, loss, fault, session, refusal, operator, {}",
                    known.join(", ")
                ));
            }
            kind => vec![kind],
        },
    }))
}

/// `op audit`
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Go on with what comes, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Only what happened since so long ago, for instance 12h or 7d
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_above_zero)]
    pub since: Option<Duration>,
    /// Only what this operator, driver or charge point did
    #[arg(long, value_name = "NAME")]
    pub who: Option<String>,
    /// Only this verb, for instance session_end
    #[arg(long, value_name = "VERB")]
    pub verb: Option<String>,
    /// Of those the last so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// `op cp`
#[derive(Debug, Clone, Subcommand)]
pub enum OpCp {
    /// Show all charge points
    #[command(
        before_help = "Examples:\n  driver-cli op cp ls\n  driver-cli op cp ls --json | jq '.charge_points[] | select(.link != \"online\")'"
    )]
    Ls,
    /// Show one charge point in full
    #[command(before_help = "Examples:\n  driver-cli op cp show CP-001")]
    Show {
        /// The charge point
        cp: String,
    },
    /// Let drivers use it again
    #[command(
        before_help = "Examples:\n  driver-cli op cp enable CP-001\n  driver-cli op cp enable --all"
    )]
    Enable(CpAct),
    /// Take it out of service; a running session is left to end
    #[command(
        before_help = "Examples:\n  driver-cli op cp disable CP-001\n  driver-cli op cp disable CP-001 --connector 2"
    )]
    Disable(CpAct),
    /// Release the plug
    #[command(before_help = "Examples:\n  driver-cli op cp unlock CP-001 --connector 1")]
    Unlock(CpAct),
    /// Boot the charger
    #[command(
        before_help = "Examples:\n  driver-cli op cp reset CP-001\n  driver-cli op cp reset --all"
    )]
    Reset(CpAct),
    /// Say at which site it stands: its prices and its time zone are the site's
    #[command(
        before_help = "Examples:\n  driver-cli op cp site CP-001 depot --time-zone Europe/Berlin\n  driver-cli op cp site CP-001 depot"
    )]
    Site {
        /// The charge point
        #[arg(value_name = "CP")]
        cp: String,
        /// The site
        #[arg(value_name = "SITE")]
        site: ev_contract::ids::SiteId,
        /// The site's IANA time zone [default: as it is]
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// Which request.
        #[command(flatten)]
        repeat: RepeatArgs,
    },
}

/// On which charge point to act.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["place", "all"])))]
pub struct CpAct {
    /// The charge point, or its connector as in CP-001/1
    #[arg(value_name = "CP")]
    pub place: Option<Place>,
    /// Every charge point
    #[arg(long, conflicts_with_all = ["connector", "request_id"])]
    pub all: bool,
    /// Only this connector
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub connector: Option<i64>,
    /// Which request.
    #[command(flatten)]
    pub repeat: RepeatArgs,
}

/// `op session`
#[derive(Debug, Clone, Subcommand)]
pub enum OpSession {
    /// Show open sessions; with --driver only that driver's
    #[command(
        before_help = "Examples:\n  driver-cli op session ls\n  driver-cli op session ls --all --cp CP-001\n  driver-cli op session ls --driver alice"
    )]
    Ls {
        /// Ended ones too
        #[arg(long)]
        all: bool,
        /// Only at this charge point
        #[arg(long, value_name = "CP")]
        cp: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rows: u32,
        /// Only sessions older than this one
        #[arg(long, value_name = "SESSION")]
        before: Option<String>,
    },
    /// Show one session in full: what it waits for, and what happened
    #[command(before_help = "Examples:\n  driver-cli op session show 0190a0b0")]
    Show {
        /// The session's id or its beginning
        session: String,
    },
    /// Start a session for the driver that --driver names
    #[command(
        before_help = "Examples:\n  driver-cli op session start CP-001 --driver alice\n  driver-cli op session start CP-001/2 --driver alice --limit-energy 10kWh"
    )]
    Start {
        /// The charge point, or its connector as in CP-001/1
        #[arg(value_name = "CP")]
        place: Place,
        /// Which connector, where there are several
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        connector: Option<i64>,
        /// When to end.
        #[command(flatten)]
        limits: LimitArgs,
        /// Start at this price or not at all
        #[arg(long, value_name = "ID@VERSION")]
        tariff: Option<TariffVersion>,
        /// Which request.
        #[command(flatten)]
        repeat: RepeatArgs,
    },
    /// End any session
    #[command(
        before_help = "Examples:\n  driver-cli op session end 0190a0b0 --reason 'cable damaged'\n  driver-cli op session end 0190a0b0 --reason 'charger burnt down' --write-off"
    )]
    End {
        /// The session's id or its beginning
        session: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Close it with the last known value although the charge point has not confirmed
        #[arg(long)]
        write_off: bool,
        /// Which request.
        #[command(flatten)]
        repeat: RepeatArgs,
    },
    /// Correct the receipt of an ended session
    #[command(
        before_help = "Examples:\n  driver-cli op session adjust 0190a0b0 --amount -1.50EUR --reason 'slow charger'"
    )]
    Adjust {
        /// The session's id or its beginning
        session: String,
        /// How much to add; below zero to give back
        #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
        amount: Money,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Which request.
        #[command(flatten)]
        repeat: RepeatArgs,
    },
}

/// `op driver`
#[derive(Debug, Clone, Subcommand)]
pub enum OpDriver {
    /// Refuse a driver's new sessions; running ones go on
    #[command(
        before_help = "Examples:\n  driver-cli op driver block alice --reason 'unpaid receipts'"
    )]
    Block(DriverAct),
    /// Let a driver back in
    #[command(before_help = "Examples:\n  driver-cli op driver unblock alice")]
    Unblock(DriverAct),
}

/// On which driver to act.
#[derive(Debug, Clone, Args)]
pub struct DriverAct {
    /// The driver
    #[arg(value_name = "DRIVER")]
    pub subject: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Which request.
    #[command(flatten)]
    pub repeat: RepeatArgs,
}

/// `op tariff`
#[derive(Debug, Clone, Subcommand)]
pub enum OpTariff {
    /// Show what applies where, and what is scheduled
    #[command(before_help = "Examples:\n  driver-cli op tariff ls")]
    Ls,
    /// Show a tariff in full
    #[command(before_help = "Examples:\n  driver-cli op tariff show base")]
    Show {
        /// The tariff's name
        #[arg(value_name = "ID")]
        tariff_id: String,
    },
    /// Set prices for sessions that start from now on, or from a time on
    #[command(before_help = "Examples:
  driver-cli op tariff set base --scope default --per-kwh 0.49EUR --vat 19
  driver-cli op tariff set fast --scope site:depot --per-kwh 0.69EUR --start-fee 0.50EUR \\
      --idle-per-minute 0.10EUR --idle-grace 15m --idle-cap 10EUR --vat 19
  driver-cli op tariff set base --scope default --per-kwh 0.45EUR --vat 19 \\
      --from 2027-01-01T00:00:00+01:00
  driver-cli op tariff set quebec --scope site:dock --per-kwh 0.40CAD --max 30CAD \\
      --tax 'GST 5%' --tax 'QST 9.975%' --prices-net")]
    Set(Box<TariffSet>),
    /// Take back what was set in a scope: the wider one applies again
    #[command(before_help = "Examples:
  driver-cli op tariff rm --scope cp:CP-001
  driver-cli op tariff rm --scope default --scheduled")]
    Rm {
        /// Where: default, site:SITE or cp:CHARGE_POINT
        #[arg(long, value_parser = quantity::scope)]
        scope: TariffScope,
        /// Only what is scheduled; what applies now stays
        #[arg(long)]
        scheduled: bool,
        /// Which request.
        #[command(flatten)]
        repeat: RepeatArgs,
    },
}

/// `op tariff set`
#[derive(Debug, Clone, Args)]
pub struct TariffSet {
    /// The tariff's name; central counts its versions
    #[arg(value_name = "ID")]
    pub tariff_id: String,
    /// Where it applies: default, site:SITE or cp:CHARGE_POINT
    #[arg(long, value_parser = quantity::scope)]
    pub scope: TariffScope,
    /// From when it applies, with its zone as in 2027-01-01T00:00:00+01:00 [default: now]
    #[arg(long, value_name = "TIME", value_parser = quantity::time)]
    pub from: Option<UnixMs>,
    /// Price per kilowatt-hour
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub per_kwh: Price,
    /// Price of a start, owed once energy has flowed
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub start_fee: Option<Price>,
    /// From how much energy on a start fee and a minimum are owed
    #[arg(long, value_name = "ENERGY", default_value = "10Wh")]
    pub start_fee_min_energy: WattHours,
    /// Price per minute of standing
    #[arg(
        long,
        value_name = "MONEY",
        requires = "idle_cap",
        allow_hyphen_values = true
    )]
    pub idle_per_minute: Option<Price>,
    /// How long standing costs nothing [default: 0s]
    #[arg(long, value_name = "DURATION", requires = "idle_per_minute")]
    pub idle_grace: Option<Seconds>,
    /// The most that standing costs
    #[arg(
        long,
        value_name = "MONEY",
        requires = "idle_per_minute",
        allow_hyphen_values = true
    )]
    pub idle_cap: Option<Price>,
    /// From when a car stands: from the end of energy, or also after so long without power
    /// [default: 10m]
    #[arg(long, value_name = "end|DURATION", requires = "idle_per_minute", value_parser = quantity::idle_from)]
    pub idle_from: Option<IdleFrom>,
    /// Standing costs also where a fault or an operator ended the charging
    #[arg(long, requires = "idle_per_minute")]
    pub idle_after_fault: bool,
    /// The least that a session costs once energy has flowed
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub min: Option<Price>,
    /// The most that a session costs
    #[arg(long, value_name = "MONEY", allow_hyphen_values = true)]
    pub max: Option<Price>,
    /// A tax by name and rate, as in 'VAT 19%'; may be given several times
    #[arg(long, value_name = "NAME PERCENT", value_parser = quantity::tax)]
    pub tax: Vec<Tax>,
    /// The same as --tax 'VAT PERCENT'
    #[arg(long, value_name = "PERCENT", value_parser = quantity::percent)]
    pub vat: Option<Amount>,
    /// All amounts are without the taxes, which come on top; else they include them
    #[arg(long)]
    pub prices_net: bool,
    /// Which request.
    #[command(flatten)]
    pub repeat: RepeatArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_begins_with_examples() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_long_help().to_string();
            assert!(help.starts_with("Examples:"), "{path}: {help}");
            for sub in command.get_subcommands_mut() {
                if sub.get_name() != "help" {
                    let path = format!("{path} {}", sub.get_name());
                    check(sub, &path);
                }
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&mut command, "driver-cli");
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let cli =
            Cli::try_parse_from(["driver-cli", "list", "--driver", "alice", "--json"]).unwrap();
        assert_eq!(
            cli.global.driver.as_ref().map(DriverId::as_str),
            Some("alice")
        );
        assert!(cli.global.json);
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for (line, word) in [
            (vec!["start", "CP-001", "--limit-energy", "20"], "20kWh"),
            (vec!["start", "CP-001", "--limit-time", "soon"], "1h30m"),
            (
                vec!["start", "CP-001", "--limit-cost", "10,50EUR"],
                "10.50EUR",
            ),
            (vec!["--driver", "a.b", "list"], "A-Z"),
            (vec!["--timeout", "0s", "list"], "duration"),
            (vec!["op", "cp", "reset"], "--all"),
        ] {
            let all = [vec!["driver-cli"], line].concat();
            let error = Cli::try_parse_from(&all).unwrap_err().to_string();
            assert!(error.contains(word), "{all:?}: {error}");
        }
    }

    #[test]
    fn an_amount_to_give_back_is_no_option() {
        let line = [
            "driver-cli",
            "op",
            "session",
            "adjust",
            "0190",
            "--amount",
            "-1.50EUR",
            "--reason",
            "x",
        ];
        assert!(Cli::try_parse_from(line).is_ok());
    }
}
