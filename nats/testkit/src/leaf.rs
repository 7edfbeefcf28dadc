use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::keys::{Keys, quoted};
use crate::monitor;
use crate::ports::free_port;
use crate::process::Process;
use crate::programs::nats_server_program;
use crate::wait::PATIENCE;

/// A nats-server at a site, with `nats/conf/leaf.conf`. Dropping it kills it.
#[derive(Debug)]
pub struct LeafServer {
    process: Process,
    client_port: u16,
    monitor_port: u16,
}

impl LeafServer {
    /// Starts it with a credential, towards a hub's port for leaf nodes, and returns when it is
    /// ready by its own word: the hub may let it in or not.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(keys: &Keys, site: &str, credential: &Path, hub_port: u16) -> Result<Self> {
        // Its own, as at a site: what is enrolled later gets there when somebody brings it.
        let conf = keys.dir().join(format!("leaf-{site}"));
        fs::create_dir_all(&conf).context("make a folder for a leaf")?;
        fs::copy(keys.conf("leaf"), conf.join("leaf.conf")).context("copy leaf.conf")?;
        bring(keys, &conf)?;
        let own = conf.join("leaf.creds");
        fs::copy(credential, &own).context("copy the credential of a leaf")?;
        let (client_port, monitor_port) = (free_port(), free_port());
        let mut command = Process::program(format!("leaf-{site}"), nats_server_program()?)
            .arg("-c")
            .arg(conf.join("leaf.conf"))
            .args(["--addr", "127.0.0.1"])
            .arg("--port")
            .arg(client_port.to_string())
            .arg("--http_port")
            .arg(monitor_port.to_string())
            .env("EV_NATS_LEAF_NAME", format!("\"{site}\""))
            .env("EV_NATS_LEAF_CREDS", quoted(&own))
            .env("EV_NATS_HUB", format!("[\"tls://127.0.0.1:{hub_port}\"]"));
        for (key, value) in keys.env() {
            command = command.env(key, value);
        }
        let mut process = command.spawn()?;
        process.wait_for_log("Server is ready", PATIENCE).await?;
        Ok(Self {
            process,
            client_port,
            monitor_port,
        })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client_port)
    }

    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// One page of its monitoring port.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub async fn monitor(&self, path: &str) -> Result<Value> {
        monitor::page(self.monitor_port, path).await
    }

    /// Brings it the present `leaf-auth.conf`, and has it read that.
    ///
    /// # Errors
    /// When it does not run.
    pub fn reload(&mut self, keys: &Keys, site: &str) -> Result<()> {
        bring(keys, &keys.dir().join(format!("leaf-{site}")))?;
        self.process.hang_up()
    }
}

fn bring(keys: &Keys, conf: &Path) -> Result<()> {
    fs::copy(
        keys.dir().join("leaf-auth.conf"),
        conf.join("leaf-auth.conf"),
    )
    .context("copy leaf-auth.conf")?;
    Ok(())
}
