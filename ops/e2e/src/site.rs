//! The processes.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use ev_contract::{
    streams,
    v1::{Adjustment, Receipt},
    wire::{self, Encoding},
};
use ev_testkit::{
    Keys, LeafServer, NatsServer, PATIENCE, Process, Role, TcpProxy, crash_program, free_port,
    our_program, wait_for,
};
use futures::StreamExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Driver;

/// How the simulated chargers behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charger {
    /// As the book says.
    Orderly,
    /// Facts twice, late, in disorder; answers lost; odd ids.
    Unruly,
}

/// What a system consists of.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Replicas of central.
    pub centrals: usize,
    /// Charge points, `CP-001` and so on.
    pub charge_points: usize,
    /// Connectors of each.
    pub connectors: usize,
    /// How the chargers behave.
    pub charger: Charger,
    /// How many times faster than real the chargers' physics run.
    pub sim_speed: u32,
    /// Programs with crash points.
    pub crash_points: bool,
    /// The charge points are behind a leaf node, and [`Site::uplink`] is between it and the server.
    pub leaf: bool,
    /// Lines for `central.toml`.
    pub central_extra: String,
    /// Lines for the top of the agent's configuration.
    pub agent_extra: String,
    /// Lines for each `[charge_point.simulator]`.
    pub simulator_extra: String,
}

impl Layout {
    /// One central, two charge points with a connector each.
    #[must_use]
    pub fn small(charger: Charger) -> Self {
        Self {
            centrals: 1,
            charge_points: 2,
            connectors: 1,
            charger,
            sim_speed: 60,
            crash_points: false,
            leaf: false,
            central_extra: String::new(),
            agent_extra: String::new(),
            simulator_extra: String::new(),
        }
    }

    /// With so many replicas of central.
    #[must_use]
    pub fn centrals(self, centrals: usize) -> Self {
        Self { centrals, ..self }
    }
}

/// A running system. Dropping it ends every process.
#[derive(Debug)]
pub struct Site {
    /// The server.
    pub nats: NatsServer,
    /// Between the agent, or its leaf node, and the server.
    pub uplink: TcpProxy,
    /// What the agent connects to, where that is a leaf node.
    pub leaf: Option<LeafServer>,
    /// The replicas.
    pub centrals: Vec<Process>,
    /// The agent.
    pub agent: Process,
    http_ports: Vec<u16>,
    dir: TempDir,
}

impl Site {
    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// When something does not start; the message says what.
    pub async fn start(layout: &Layout) -> Result<Self> {
        let (nats, uplink, leaf) = servers(layout).await?;
        let dir = TempDir::with_prefix("ev-site-").context("make a folder for a site")?;
        let mut centrals = Vec::new();
        let mut http_ports = Vec::new();
        for n in 1..=layout.centrals {
            let port = free_port();
            let path = dir.path().join(format!("central-{n}.toml"));
            let name = format!("central-{n}");
            let keys = nats.keys();
            let text = format!(
                "replica = \"{name}\"\nnats_url = \"{}\"\ncredentials = \"{}\"\n\
                 doorkeeper_credentials = \"{}\"\nca = \"{}\"\n\
                 http_addr = \"127.0.0.1:{port}\"\n{}\n",
                nats.url(),
                keys.creds(Role::Central, &name)?.display(),
                keys.creds(Role::Doorkeeper, &name)?.display(),
                keys.ca().display(),
                layout.central_extra
            );
            std::fs::write(&path, text).context("write central's configuration")?;
            centrals.push(spawn(layout, "central", &path, &[])?);
            http_ports.push(port);
        }
        let agents = leaf.as_ref().map_or_else(|| uplink.url(), LeafServer::url);
        let path = dir.path().join("edge-cp.toml");
        std::fs::write(&path, edge_toml(layout, &agents, nats.keys(), dir.path())?)
            .context("write the agent's configuration")?;
        let speed = layout.sim_speed.to_string();
        let agent = spawn(layout, "edge-cp", &path, &["--sim-speed", &speed])?;
        let site = Self {
            nats,
            uplink,
            leaf,
            centrals,
            agent,
            http_ports,
            dir,
        };
        for n in 0..layout.centrals {
            site.ready(n).await?;
        }
        site.charge_points_online(layout.charge_points).await?;
        Ok(site)
    }

    /// Waits until a replica serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&self, central: usize) -> Result<()> {
        wait_for(
            &format!("central-{} is ready", central + 1),
            PATIENCE,
            async || {
                let (status, body) = self.http(central, "/readyz").await?;
                ensure!(status == 200, "{status}: {body}");
                Ok(())
            },
        )
        .await
    }

    /// Waits until drivers see so many charge points that can be used.
    ///
    /// # Errors
    /// When they do not.
    pub async fn charge_points_online(&self, count: usize) -> Result<()> {
        let driver = self.driver("observer").await?;
        wait_for("the charge points are available", PATIENCE, async || {
            let list = driver.list().await?;
            let usable = list
                .charge_points
                .iter()
                .filter(|cp| {
                    cp.connectors.iter().all(|c| {
                        use ev_contract::connector::ConnectorState::{Offline, Unknown};
                        !matches!(c.state, Offline | Unknown)
                    })
                })
                .count();
            ensure!(usable >= count, "{usable} of {count}");
            Ok(())
        })
        .await
    }

    /// A driver with a connection of its own.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn driver(&self, id: &str) -> Result<Driver> {
        self.asker(Role::Driver, id).await
    }

    /// Somebody with a connection and a credential of their own, who asks in bytes.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn asker(&self, role: Role, id: &str) -> Result<Driver> {
        Driver::connect(self.nats.keys(), &self.nats.url(), role, id).await
    }

    /// The streams as somebody sees them who may change and empty them, which central may not.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn maintainer(&self) -> Result<jetstream::Context> {
        let nats = self.nats.connect_as(Role::Maintainer, "mona").await?;
        Ok(jetstream::new(nats))
    }

    /// Where a replica serves HTTP, on loopback.
    #[must_use]
    pub fn http_port(&self, central: usize) -> u16 {
        self.http_ports[central]
    }

    /// A page of a replica's HTTP port.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn http(&self, central: usize, path: &str) -> Result<(u16, String)> {
        let port = self.http_ports[central];
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .context("connect to central's HTTP port")?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let status = head
            .split_whitespace()
            .nth(1)
            .context("no status")?
            .parse()?;
        Ok((status, body.to_owned()))
    }

    /// The value of a metric: of the one series that is named with its labels, or the sum of all
    /// series with this name.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn metric(&self, central: usize, name: &str) -> Result<f64> {
        let (_, body) = self.http(central, "/metrics").await?;
        let mut sum = None;
        for line in body.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            if let Some(value) = rest.strip_prefix('{').map_or(Some(rest), |labels| {
                labels.rsplit_once('}').map(|(_, value)| value)
            }) && let Some(value) = value.strip_prefix(' ')
            {
                sum = Some(sum.unwrap_or(0.0) + value.parse::<f64>().context("a number")?);
            }
        }
        sum.with_context(|| format!("no metric {name}"))
    }

    /// Runs `edge-cp ctl`; its standard output as JSON where it is JSON.
    ///
    /// # Errors
    /// When it fails; the message has its standard error.
    pub async fn ctl(&self, args: &[&str]) -> Result<Value> {
        let output = tokio::process::Command::new(our_program("edge-cp")?)
            .arg("ctl")
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .arg("--json")
            .output()
            .await
            .context("run edge-cp ctl")?;
        if !output.status.success() {
            bail!(
                "edge-cp ctl {args:?}: {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// A replica's configuration file.
    #[must_use]
    pub fn central_config(&self, central: usize) -> std::path::PathBuf {
        self.dir
            .path()
            .join(format!("central-{}.toml", central + 1))
    }

    /// A folder of the test's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("edge.sock")
    }

    /// The folder of the agent's stores.
    #[must_use]
    pub fn edge_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("edge")
    }

    /// What `edge-cp ctl status` says of a connector.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn connector(&self, cp: &str, connector: u64) -> Result<Value> {
        let status = self.ctl(&["status"]).await?;
        status["charge_points"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["id"] == cp)
            .and_then(|c| {
                c["connectors"]
                    .as_array()?
                    .iter()
                    .find(|c| c["id"] == connector)
                    .cloned()
            })
            .with_context(|| format!("no connector {cp}/{connector} in {status}"))
    }

    /// The register of the simulated meter, in mWh.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn register(&self, cp: &str) -> Result<u64> {
        self.connector(cp, 1).await?["register_mwh"]
            .as_u64()
            .context("register_mwh is a number")
    }

    /// How many records wait in a charge point's spool.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn spool_depth(&self, cp: &str) -> Result<u64> {
        let status = self.ctl(&["status"]).await?;
        status["charge_points"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["id"] == cp)
            .and_then(|c| c["spool_depth"].as_u64())
            .context("spool_depth is a number")
    }

    /// Starts the agent again after it was killed, and waits for its control socket.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn agent_again(&mut self) -> Result<()> {
        self.agent.restart()?;
        wait_for("the agent answers on its socket", PATIENCE, async || {
            self.ctl(&["status"]).await.map(|_| ())
        })
        .await
    }

    /// Starts a replica again after it was killed, and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn central_again(&mut self, central: usize) -> Result<()> {
        self.centrals[central].restart()?;
        self.ready(central).await
    }

    /// Everything in the CDR stream.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn cdrs(&self) -> Result<(Vec<Receipt>, Vec<Adjustment>)> {
        let js = self.maintainer().await?;
        let mut stream = js.get_stream(streams::CDR.name).await?;
        let count = stream.info().await?.state.messages;
        let consumer = stream
            .create_consumer(jetstream::consumer::pull::OrderedConfig::default())
            .await?;
        let mut messages = consumer
            .messages()
            .await?
            .take(usize::try_from(count).unwrap_or(usize::MAX));
        let (mut receipts, mut adjustments) = (Vec::new(), Vec::new());
        while let Some(message) = messages.next().await {
            let message = message?;
            if message.subject.split('.').count() == 4 {
                receipts.push(wire::decode(&message.payload, Encoding::MsgPack)?);
            } else {
                adjustments.push(wire::decode(&message.payload, Encoding::MsgPack)?);
            }
        }
        Ok((receipts, adjustments))
    }

    /// The receipt of a session in the CDR stream, once it is there.
    ///
    /// # Errors
    /// When it is not, or there are several.
    pub async fn cdr(&self, session: &str) -> Result<Receipt> {
        wait_for("the receipt is in the CDR stream", PATIENCE, async || {
            let (receipts, _) = self.cdrs().await?;
            let mut own = receipts
                .into_iter()
                .filter(|r| r.session_id.to_string() == session);
            let receipt = own.next().context("not there")?;
            ensure!(own.next().is_none(), "two receipts for one session");
            Ok(receipt)
        })
        .await
    }
}

/// The server, what can cut it off, and the leaf node behind that.
async fn servers(layout: &Layout) -> Result<(NatsServer, TcpProxy, Option<LeafServer>)> {
    if !layout.leaf {
        let nats = NatsServer::start().await?;
        let uplink = TcpProxy::start(nats.url()).await?;
        return Ok((nats, uplink, None));
    }
    let keys = Keys::new()?;
    let nats = NatsServer::start_with_conf(&keys, &keys.leaves()?).await?;
    let uplink = TcpProxy::start(format!("nats://127.0.0.1:{}", nats.leaf_port())).await?;
    let names: Vec<String> = (1..=layout.charge_points)
        .map(|n| format!("CP-{n:03}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let creds = keys.leaf_creds("SITE-A", &names)?;
    let leaf = LeafServer::start(&keys, "SITE-A", &creds, uplink.addr().port()).await?;
    Ok((nats, uplink, Some(leaf)))
}

fn spawn(layout: &Layout, program: &str, config: &Path, extra: &[&str]) -> Result<Process> {
    let path = if layout.crash_points {
        crash_program(program)?
    } else {
        our_program(program)?
    };
    Process::program(program, path)
        .arg("run")
        .arg("--config")
        .arg(config)
        .args(extra)
        .env("RUST_LOG", "info,async_nats=warn")
        .spawn()
}

fn edge_toml(layout: &Layout, url: &str, keys: &Keys, dir: &Path) -> Result<String> {
    let mut text = format!(
        "nats_url = \"{url}\"\ncredentials = \"{1}/charge-point\"\nca = \"{2}\"\n\
         state_dir = \"{0}/edge\"\ncontrol_socket = \"{0}/edge.sock\"\n{3}\n",
        dir.display(),
        keys.creds_dir().display(),
        keys.ca().display(),
        layout.agent_extra
    );
    for n in 1..=layout.charge_points {
        keys.creds(Role::ChargePoint, &format!("CP-{n:03}"))?;
        write!(
            text,
            "\n[[charge_point]]\nid = \"CP-{n:03}\"\nsite = \"SITE-A\"\ntime_zone = \"Europe/Berlin\"\n"
        )?;
        for c in 1..=layout.connectors {
            write!(
                text,
                "\n[[charge_point.connector]]\nid = {c}\nmax_current_ma = 16000\nphases = 3\n"
            )?;
        }
        write!(
            text,
            "\n[charge_point.simulator]\nunruly = {}\nseed = {n}\n{}\n",
            layout.charger == Charger::Unruly,
            layout.simulator_extra
        )?;
    }
    Ok(text)
}
