//! The command line as a process.

use anyhow::Result;
use ev_testkit::{Process, ProcessBuilder};

use crate::Site;

/// The command line, for somebody with a credential and a state folder of their own; the verb and
/// who it is are still to be said.
///
/// # Errors
/// When it is not built.
pub fn driver_cli(site: &Site, who: &str) -> Result<ProcessBuilder> {
    let keys = site.nats.keys();
    Ok(Process::ours("driver-cli")?
        .args(["--nats-url", &site.nats.url()])
        .arg("--credentials")
        .arg(keys.creds_dir())
        .arg("--ca")
        .arg(keys.ca())
        .arg("--state-dir")
        .arg(site.dir().join("state").join(who))
        .env("RUST_LOG", "info,async_nats=warn"))
}
