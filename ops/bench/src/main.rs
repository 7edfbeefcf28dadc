//! How fast it is at full durability: every figure beside the floor that this machine and this
//! server set in the same run. `ops/dev bench` builds and runs it.

mod access;
mod client;
mod echo;
mod fleet;
mod floor;
mod hub;
mod load;
mod profile;
mod report;
mod rows;
mod starts;
mod usage;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    report::{Failure, Figure, Report},
    rows::{Bench, Row, Sizes},
};

/// Measures the shipped configuration beside its floor
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be a part of a run; used by the bench itself
    #[command(subcommand, hide = true)]
    Play(Play),
}

#[derive(Debug, Subcommand)]
enum Play {
    /// Answer at once
    Echo(echo::Args),
    /// Be charge points
    Fleet(fleet::Args),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Only these rows
    #[arg(long, value_name = "ROW", num_args = 1..)]
    only: Vec<Row>,
    /// Fewer charge points and shorter rounds, for a look
    #[arg(long, conflicts_with = "tiny")]
    quick: bool,
    /// As little as there can be, to see that the bench itself works; its figures mean nothing
    #[arg(long)]
    tiny: bool,
    /// Show what every part logged
    #[arg(long)]
    logs: bool,
    /// Put into the table how many seconds something took that was timed elsewhere
    #[arg(long, value_name = "WHAT=SECONDS", value_parser = took)]
    took: Vec<(String, f64)>,
    /// Record central in one more round of `start-crowd`, and write a flame graph and the share of
    /// each part into this folder; needs perf
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Write the table into this file as well
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    // One thread: the load shares the machine's cores with what it loads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let work = async {
            match args.role {
                None => return measure(&args.run).await,
                Some(Role::Play(Play::Echo(args))) => echo::run(args).await?,
                Some(Role::Play(Play::Fleet(args))) => fleet::run(args).await?,
            }
            Ok(ExitCode::SUCCESS)
        };
        let mut terminate = signal(SignalKind::terminate())?;
        // Whatever is up goes down with what is dropped here.
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })
}

/// The exit code says whether all rows were measured; the table names those that were not.
async fn measure(run: &Run) -> Result<ExitCode> {
    let sizes = match (run.quick, run.tiny) {
        (_, true) => Sizes::TINY,
        (true, _) => Sizes::QUICK,
        _ => Sizes::FULL,
    };
    if !run.logs {
        ev_testkit::hush();
    }
    let mut bench = Bench::new(sizes, run.profile.clone());
    let mut report = Report {
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        ..Report::default()
    };
    for row in Row::ALL {
        if run.only.is_empty() || run.only.contains(&row) {
            eprintln!("bench: {row:?}");
            match row.run(&mut bench).await {
                Ok(figures) => report.figures.extend(figures),
                // The others are measured all the same.
                Err(error) => {
                    eprintln!("bench: {row:?}: {error:#}");
                    report.failures.push(Failure {
                        row: format!("{row:?}"),
                        why: format!("{error:#}"),
                    });
                }
            }
        }
    }
    report.figures.extend(
        run.took
            .iter()
            .map(|(what, seconds)| Figure::new("compile", what.clone(), "s", &[*seconds])),
    );
    let table = report.markdown();
    if let Some(path) = &run.markdown {
        std::fs::write(path, &table).with_context(|| format!("write {}", path.display()))?;
    }
    if run.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{table}");
    }
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn took(text: &str) -> Result<(String, f64), String> {
    let (what, seconds) = text.rsplit_once('=').ok_or("give WHAT=SECONDS")?;
    let seconds = seconds
        .parse()
        .map_err(|_| format!("`{seconds}` is no number of seconds"))?;
    Ok((what.to_owned(), seconds))
}
