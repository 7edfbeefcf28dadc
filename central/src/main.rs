use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use ev_manual::{Manual, Section};
use ev_service::EXIT_CONFIG;

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
    },
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
            entries: &[(
                "SIGTERM, SIGINT",
                "Drain: what was asked is answered, then the end. A second replica takes over at once.",
            )],
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
        Verb::Run { config } => with_config(&config, central::main),
        Verb::CheckConfig { config } => with_config(&config, |_| {
            println!("{} is in order", config.display());
            ExitCode::SUCCESS
        }),
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

fn with_config(path: &Path, act: impl FnOnce(central::Config) -> ExitCode) -> ExitCode {
    match central::Config::read(path) {
        Ok(config) => act(config),
        Err(error) => {
            eprintln!("central: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
