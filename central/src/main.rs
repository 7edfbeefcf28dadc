use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
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
}

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
