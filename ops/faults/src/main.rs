mod storm;

use clap::{Parser, Subcommand};

/// Machines that look for the fault that breaks a promise.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    machine: Machine,
}

#[derive(Debug, Subcommand)]
enum Machine {
    /// All charge points at once, floods, and a reader that stands still
    Storm(storm::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().machine {
        Machine::Storm(args) => storm::run(&args),
    }
}
