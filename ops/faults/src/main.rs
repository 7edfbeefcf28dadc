use clap::{Parser, Subcommand};

/// Machines that look for the fault that breaks a promise.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    machine: Machine,
}

#[derive(Debug, Subcommand)]
enum Machine {}

fn main() -> anyhow::Result<()> {
    match Args::parse().machine {}
}
