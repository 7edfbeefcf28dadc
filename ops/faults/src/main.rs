mod power_cut;

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
    PowerCut(power_cut::Options),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().machine {
        Machine::PowerCut(options) => power_cut::run(&options),
    }
}
