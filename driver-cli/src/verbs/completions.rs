//! `completions`

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Cli, exit::Exit, failure::Failure};

pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "driver-cli", &mut script);
    io::stdout()
        .lock()
        .write_all(&script)
        .map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::File {
                doing: "write the completions".to_owned(),
                hint: "check where the output goes".to_owned(),
                source,
            },
        })?;
    Ok(Exit::Ok)
}
