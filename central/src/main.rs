use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Decides and remembers: drivers' requests, the ledger, receipts, commands to charge points.
#[derive(Debug, Parser)]
#[command(
    version,
    before_help = "Examples:\n  central run --config /etc/ev/central.toml\n  central check-config --config /etc/ev/central.toml"
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
}

/// Exit status for a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let args = Args::parse();
    let (Verb::Run { config: path } | Verb::CheckConfig { config: path }) = &args.verb;
    let config = match central::Config::read(path) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("central: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match args.verb {
        Verb::CheckConfig { .. } => {
            println!("{} is in order", path.display());
            ExitCode::SUCCESS
        }
        Verb::Run { .. } => central::main(config),
    }
}
