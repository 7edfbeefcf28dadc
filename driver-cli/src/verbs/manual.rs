//! `manual`, for packages.

use std::path::Path;

use clap::CommandFactory;
use ev_manual::{Manual, Section};

use crate::{args::Cli, exit::Exit, failure::Failure};

const MANUAL: Manual = Manual {
    section: "1",
    more: &[Section {
        title: "FILES",
        entries: &[
            (
                "~/.config/ev/creds/",
                "Credentials, in driver/ID.creds and operator/ID.creds, unless --credentials says \
                 otherwise.",
            ),
            (
                "~/.config/ev/ca.crt",
                "Who may vouch for the server, unless --ca says otherwise.",
            ),
        ],
    }],
    see_also: &["central(8)", "edge-cp(8)"],
};

pub(super) fn manual(folder: &Path) -> Result<Exit, Failure> {
    MANUAL
        .write(Cli::command(), folder)
        .map_err(|source| Failure::File {
            doing: format!("write the manual into {}", folder.display()),
            hint: "give a folder that can be written".to_owned(),
            source,
        })?;
    Ok(Exit::Ok)
}
