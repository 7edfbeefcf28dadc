//! `edge-cp`: the agent, and the tool for those in front of the cabinet.

mod args;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    args::Args::parse().carry_out()
}
