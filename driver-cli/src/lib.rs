//! What drivers and operators do from a terminal.
//!
//! Two halves. Without a terminal, for whoever serves people in another way: [`command`],
//! [`journal`], [`client`], [`desk`], [`watch`], [`follow`], [`failure`], [`doc`], [`price`].
//! For the terminal: [`args`], [`render`], [`verbs`]. For browsers: [`web`].

#![forbid(unsafe_code)]

pub mod args;
pub mod client;
pub mod command;
pub mod desk;
pub mod doc;
pub mod exit;
pub mod failure;
pub mod follow;
pub mod identity;
pub mod invocation;
pub mod journal;
pub mod price;
pub mod quantity;
pub mod render;
pub mod report;
pub mod verbs;
pub mod watch;
pub mod web;
pub mod why;
pub mod words;

use std::{ffi::OsString, io};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};
use tracing_subscriber::EnvFilter;

use crate::{
    args::Cli, doc::ActionDoc, exit::Exit, failure::Failure, render::output::Output, verbs::Typed,
};

/// Reads the command line and does what it says.
pub fn main() -> Exit {
    let line: Vec<OsString> = std::env::args_os().collect();
    let (cli, typed) = match parse(&line) {
        Ok(parsed) => parsed,
        Err(error) => return refuse_line(&line, &error),
    };
    // Only for those who look for a defect: what went wrong is otherwise said in our own words.
    if let Ok(filter) = EnvFilter::try_from_env("EV_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .init();
    }
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(verbs::run(cli, typed)),
        Err(source) => {
            Output::new(cli.global.json).error(&Failure::File {
                doing: "start the runtime".to_owned(),
                hint: "the system is out of something: memory, threads or file handles".to_owned(),
                source,
            });
            Exit::Other
        }
    }
}

fn parse(line: &[OsString]) -> Result<(Cli, Typed), clap::Error> {
    let matches = Cli::command().try_get_matches_from(line)?;
    let was_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let typed = Typed {
        driver: was_typed("driver"),
    };
    Cli::from_arg_matches(&matches).map(|cli| (cli, typed))
}

/// A line that cannot be used; also `--help` and `--version`, which are no errors.
fn refuse_line(line: &[OsString], error: &clap::Error) -> Exit {
    // A reader that has gone, as in `--help | head`, is no failure.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => {
            if line.iter().any(|word| word == "--json") {
                let text = error.render().to_string();
                let message = text
                    .lines()
                    .next()
                    .unwrap_or("the command line cannot be used");
                let failure = Failure::usage(
                    message.trim_start_matches("error: "),
                    "see --help, which begins with examples",
                );
                let _ = Output::new(true).document(&ActionDoc::failed(&failure));
            }
            Exit::Usage
        }
    }
}
