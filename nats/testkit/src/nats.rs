use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ev_enrol::Role;
use serde_json::Value;
use tempfile::TempDir;

use crate::keys::{Keys, quoted};
use crate::monitor;
use crate::ports::free_port;
use crate::process::Process;
use crate::programs::{nats_server_program, workspace_root};
use crate::wait::{PATIENCE, wait_for};

/// Another process can take a port between the moment it is found free and the
/// moment the server binds it. Three in a row is no coincidence.
const START_ATTEMPTS_MAX: u32 = 3;

/// A nats-server with JetStream, the shipped configuration, and a data folder
/// of its own. Dropping it kills it and removes the data.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    client_port: u16,
    monitor_port: u16,
    leaf_port: u16,
    websocket_port: u16,
    data: TempDir,
    keys: Keys,
}

/// What a server of a cluster needs to know beyond its file.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) own_port: u16,
    pub(crate) all: String,
}

impl NatsServer {
    /// Starts one server with `nats/conf/single.conf` and keys of its own on free loopback ports,
    /// and returns when it serves JetStream.
    ///
    /// # Errors
    /// When no usable nats-server is found or it does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with_keys(&Keys::new()?).await
    }

    /// Like [`NatsServer::start`] with these keys.
    ///
    /// # Errors
    /// When no usable nats-server is found or it does not come up.
    pub async fn start_with_keys(keys: &Keys) -> Result<Self> {
        Self::start_with_conf(keys, &keys.conf("single")).await
    }

    /// Like [`NatsServer::start`] with another configuration file, which takes from the
    /// environment what the shipped ones do.
    ///
    /// # Errors
    /// When no usable nats-server is found or it does not come up.
    pub async fn start_with_conf(keys: &Keys, conf: &Path) -> Result<Self> {
        Self::start_with_program(nats_server_program()?, keys, conf).await
    }

    /// Like [`NatsServer::start_with_conf`] with a program that becomes the server.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_with_program(program: &Path, keys: &Keys, conf: &Path) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let mut server = Self::spawn(program, conf, None, keys)?;
            match server.wait_until_it_serves().await {
                Ok(()) => return Ok(server),
                Err(_) if attempt < START_ATTEMPTS_MAX && server.port_was_taken() => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Like [`NatsServer::start_with_conf`] for one that may let nobody in, the testkit neither:
    /// returns when it is ready by its own word.
    ///
    /// # Errors
    /// When no usable nats-server is found or it does not come up.
    pub async fn start_unseen(keys: &Keys, conf: &Path) -> Result<Self> {
        let mut server = Self::spawn(nats_server_program()?, conf, None, keys)?;
        server
            .process
            .wait_for_log("Server is ready", PATIENCE)
            .await?;
        Ok(server)
    }

    /// SIGHUP: it reads its files anew, certificates among them. Returns when it has.
    ///
    /// # Errors
    /// When it does not run, or does not say so.
    pub async fn reload(&mut self) -> Result<()> {
        const DONE: &str = "Reloaded server configuration";
        let count = |log: &str| log.matches(DONE).count();
        let before = count(&self.log());
        self.process.hang_up()?;
        wait_for(
            "nats-server has read its files anew",
            PATIENCE,
            async || {
                ensure!(count(&self.log()) > before, "it does not say so");
                Ok(())
            },
        )
        .await
    }

    /// Starts the process and does not wait for it.
    pub(crate) fn spawn(
        program: &Path,
        conf: &Path,
        routes: Option<&Routes>,
        keys: &Keys,
    ) -> Result<Self> {
        let data = TempDir::with_prefix("ev-nats-").context("make a data folder")?;
        let (client_port, monitor_port) = (free_port(), free_port());
        let (leaf_port, websocket_port) = (free_port(), free_port());
        let name = conf.file_stem().map_or_else(
            || String::from("nats-server"),
            |stem| format!("nats-server-{}", stem.to_string_lossy()),
        );
        let mut command = Process::program(name, program)
            .arg("-c")
            .arg(conf)
            .args(["--addr", "127.0.0.1"])
            .arg("--port")
            .arg(client_port.to_string())
            .arg("--http_port")
            .arg(monitor_port.to_string())
            .env("EV_NATS_LEAF_LISTEN", format!("\"127.0.0.1:{leaf_port}\""))
            .env(
                "EV_NATS_WEBSOCKET_LISTEN",
                format!("\"127.0.0.1:{websocket_port}\""),
            )
            .env("EV_NATS_STORE", quoted(data.path()))
            .env("EV_NATS_ACCOUNTS", quoted(&data.path().join("accounts")));
        for (key, value) in keys.env() {
            command = command.env(key, value);
        }
        if let Some(routes) = routes {
            command = command
                .arg("--cluster")
                .arg(format!("nats://127.0.0.1:{}", routes.own_port))
                .arg("--routes")
                .arg(&routes.all);
        }
        Ok(Self {
            process: command.spawn()?,
            client_port,
            monitor_port,
            leaf_port,
            websocket_port,
            data,
            keys: keys.clone(),
        })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client_port)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    #[must_use]
    pub fn client_port(&self) -> u16 {
        self.client_port
    }

    /// Where it lets clients in over WebSocket, with [`Keys::websocket`].
    #[must_use]
    pub fn websocket_url(&self) -> String {
        format!("wss://127.0.0.1:{}", self.websocket_port)
    }

    /// Where it lets leaf nodes in, with [`Keys::leaves`].
    #[must_use]
    pub fn leaf_port(&self) -> u16 {
        self.leaf_port
    }

    #[must_use]
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor_port)
    }

    /// Where its streams lie.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Who it lets in.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A fresh connection to it, as a central.
    ///
    /// # Errors
    /// When it does not accept one.
    pub async fn connect(&self) -> Result<async_nats::Client> {
        self.keys.connect_own(&self.url()).await
    }

    /// A fresh connection to it of somebody's, who is enrolled if need be.
    ///
    /// # Errors
    /// When it does not accept one.
    pub async fn connect_as(&self, role: Role, name: &str) -> Result<async_nats::Client> {
        self.keys.connect(&self.url(), role, name).await
    }

    /// One page of its monitoring port, such as `/jsz`, whatever its status.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub async fn monitor(&self, path: &str) -> Result<Value> {
        monitor::page(self.monitor_port, path).await
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.terminate()?;
        self.process.wait(PATIENCE).await?;
        Ok(())
    }

    /// SIGKILL; gone when this returns.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// SIGSTOP: frozen, with its connections open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.process.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.process.resume()
    }

    /// Runs it again on the same ports with the same data, and returns when it
    /// serves. One that still runs is stopped in order first.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.restart_without_waiting().await?;
        self.wait_until_it_serves().await
    }

    pub(crate) async fn restart_without_waiting(&mut self) -> Result<()> {
        if self.process.is_running() {
            self.stop().await?;
        }
        self.process.restart()
    }

    /// Healthy by its own word, and its JetStream answers a client.
    pub(crate) async fn wait_until_it_serves(&mut self) -> Result<()> {
        let what = format!("{} serves JetStream", self.process.name());
        let alive = wait_for(&what, PATIENCE, async || {
            if !self.process.is_running() {
                return Ok(false);
            }
            let health = self.monitor("/healthz").await?;
            ensure!(health["status"] == "ok", "/healthz says {health}");
            let client = self.connect().await?;
            async_nats::jetstream::new(client)
                .query_account()
                .await
                .context("ask for JetStream's account")?;
            // Asked again: a stranger on a port that ours could not bind would
            // have answered just as well.
            Ok(self.process.is_running())
        })
        .await?;
        if !alive {
            bail!(
                "{} ended before it served; its log: {}",
                self.process.name(),
                self.log()
            );
        }
        Ok(())
    }

    fn port_was_taken(&self) -> bool {
        self.log().contains("address already in use")
    }
}

/// One of the files under `nats/conf`, by its stem.
pub(crate) fn shipped_conf(stem: &str) -> PathBuf {
    workspace_root().join(format!("nats/conf/{stem}.conf"))
}
