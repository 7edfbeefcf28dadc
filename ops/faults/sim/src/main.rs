use clap::Parser;

/// Runs seeds through the simulation and checks the promises after every step.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    args: ev_sim::command::Args,
}

fn main() -> std::process::ExitCode {
    match ev_sim::command::main(&Cli::parse().args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
