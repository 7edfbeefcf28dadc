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
    /// Deterministic simulation of everything but processes.
    Sim(ev_faults::sim::command::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().machine {
        Machine::Sim(args) => ev_faults::sim::command::main(&args),
    }
}
