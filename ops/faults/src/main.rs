mod fuzz;
mod nemesis;
mod power_cut;
mod storm;

use std::process::ExitCode;

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
    /// Deterministic simulation of everything but processes
    Sim(ev_sim::command::Args),
    /// Real processes, real drivers, and whatever can go wrong; judged by what users saw
    Run(nemesis::RunArgs),
    /// The server's store is replaced by an older copy; every replica must notice
    OlderCopy(nemesis::OlderCopyArgs),
    /// Judge the history of a run once more
    Judge(nemesis::JudgeArgs),
    /// A virtual machine whose power is cut under load
    PowerCut(power_cut::Options),
    /// Bytes that nobody would send, for every decoder and both cores
    Fuzz(fuzz::Args),
    /// All charge points at once, floods, and a reader that stands still
    Storm(storm::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().machine {
        Machine::Sim(args) => ev_sim::command::main(&args).map(|()| ExitCode::SUCCESS),
        Machine::Run(args) => nemesis::run(&args),
        Machine::OlderCopy(args) => nemesis::older_copy(&args),
        Machine::Judge(args) => nemesis::judge_file(&args),
        Machine::PowerCut(options) => power_cut::run(&options).map(|()| ExitCode::SUCCESS),
        Machine::Fuzz(args) => fuzz::run(&args).map(|()| ExitCode::SUCCESS),
        Machine::Storm(args) => storm::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
