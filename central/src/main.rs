use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use ev_manual::{Manual, Section};
use ev_service::EXIT_CONFIG;

/// Much that is small comes and goes with each request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Decides and remembers: drivers' requests, the ledger, receipts, commands to charge points.
#[derive(Debug, Parser)]
#[command(
    version,
    before_help = "Examples:\n  central run --config /etc/ev/central.toml\n  central check-config --config /etc/ev/central.toml\n  central enrol driver alice"
)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until SIGTERM or SIGINT, then drain.
    #[command(before_help = "Example:\n  central run --config /etc/ev/central.toml")]
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Read the configuration and say what is wrong with it.
    #[command(before_help = "Example:\n  central check-config --config /etc/ev/central.toml")]
    CheckConfig {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Print JSON: `ok`, `file`, `faults`, `warnings`.
        #[arg(long)]
        json: bool,
    },
    InitLedger(central::archive::InitLedgerArgs),
    Verify(central::archive::VerifyArgs),
    Backup(central::archive::BackupArgs),
    Restore(central::archive::RestoreArgs),
    /// Keys and credentials: who may connect, and as whom.
    Enrol(ev_enrol::Args),
    /// Write man pages and completions, for packages.
    #[command(hide = true)]
    Manual {
        /// Into this folder.
        folder: PathBuf,
    },
}

/// What its man page says beyond the help.
const MANUAL: Manual = Manual {
    section: "8",
    more: &[
        Section {
            title: "SIGNALS",
            entries: &[
                (
                    "SIGTERM, SIGINT",
                    "Drain: what was asked is answered, then the end. A second replica takes over at once.",
                ),
                (
                    "SIGHUP",
                    "Read the configuration anew: what can change in a running replica changes, the rest is named in the log and the status line.",
                ),
            ],
        },
        Section {
            title: "FILES",
            entries: &[
                (
                    "/etc/ev/central.toml",
                    "The configuration of the service central. A path in it may begin with \
                     $CREDENTIALS_DIRECTORY/, which systemd sets.",
                ),
                (
                    "/etc/ev/central/",
                    "What the service is given as $CREDENTIALS_DIRECTORY: central.creds, \
                     doorkeeper.creds and ca.crt. Root's alone.",
                ),
                (
                    "/var/lib/central/REPLICA.ledger.json",
                    "Which ledger this replica serves, and how far. It does not answer from another one.",
                ),
                (
                    "/etc/ev/keys/",
                    "Where central enrol keeps all keys of the installation.",
                ),
                (
                    "/etc/ev/nats/, /etc/default/ev-nats",
                    "Configuration of the service ev-nats, which runs nats-server.",
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
        "edge-cp(8)",
        "driver-cli(1)",
        "systemctl(1)",
        "journalctl(1)",
    ],
};

fn main() -> ExitCode {
    match Args::parse().verb {
        Verb::Run { config } => with_config(&config, |read| central::main(read, &config)),
        Verb::CheckConfig { config, json } => check_config(&config, json),
        Verb::InitLedger(args) => central::archive::init_ledger(&args),
        Verb::Verify(args) => central::archive::verify(&args),
        Verb::Backup(args) => central::archive::backup(&args),
        Verb::Restore(args) => central::archive::restore(&args),
        Verb::Enrol(args) => ev_enrol::run(&args),
        Verb::Manual { folder } => match MANUAL.write(Args::command(), &folder) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("central: manual in {}: {error}", folder.display());
                ExitCode::FAILURE
            }
        },
    }
}

/// What can be told without connecting. What ends soon or has ended is a warning: a replica takes a new
/// credential when it lies there.
fn check_config(path: &Path, json: bool) -> ExitCode {
    let read = central::Config::read(path);
    let warnings = read
        .as_ref()
        .map(central::Config::warnings)
        .unwrap_or_default();
    if json {
        let faults: Vec<String> = read
            .as_ref()
            .err()
            .iter()
            .map(ToString::to_string)
            .collect();
        println!(
            "{}",
            serde_json::json!({
                "file": path, "ok": read.is_ok(), "faults": faults, "warnings": warnings,
            })
        );
    }
    match read {
        Ok(_) => {
            for warning in warnings.iter().filter(|_| !json) {
                eprintln!("central: warning: {warning}");
            }
            if !json {
                println!("{} is in order", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("central: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn with_config(path: &Path, act: impl FnOnce(central::Config) -> ExitCode) -> ExitCode {
    match central::Config::read(path) {
        Ok(config) => act(config),
        Err(error) => {
            eprintln!("central: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
