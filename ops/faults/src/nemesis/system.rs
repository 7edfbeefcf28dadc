//! The processes and the lines between them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ev_testkit::{
    Keys, Process, ProcessBuilder, Role, nats_server_program, our_program, wrong_clock_env,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    history::Place,
    link::{Link, distinct_port},
};

/// How long anything may take to come up on a machine that is busy with other things.
pub const COME_UP: Duration = Duration::from_secs(90);
/// `edge-cp ctl` gives up after 15 s itself.
const CTL_WITHIN: Duration = Duration::from_secs(20);
const HTTP_WITHIN: Duration = Duration::from_secs(3);
/// Sockets of Unix have short paths, and a monitoring page has some kilobytes.
const PAGE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is built.
#[derive(Debug, Clone)]
pub struct Plan {
    pub dir: PathBuf,
    pub servers: usize,
    pub centrals: usize,
    pub charge_points: Vec<Place>,
    pub driver_groups: usize,
    pub sim_speed: u32,
    /// Small file systems can be mounted, for disks that are full.
    pub mounts: bool,
    /// The library that shows a process another time, where it is installed.
    pub faketime: Option<PathBuf>,
    pub snapshot_every: u64,
}

/// Size of a server's disk and of an agent's. A run fills neither by itself.
const SERVER_DISK_MB: u32 = 400;
const AGENT_DISK_MB: u32 = 8;

/// A process that may be dead or frozen at any time.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub process: Mutex<Process>,
    /// Where its disk can be filled.
    pub disk: Option<PathBuf>,
    /// Holds the offset of its clock.
    pub clock: Option<PathBuf>,
}

#[derive(Debug)]
pub struct System {
    pub plan: Plan,
    pub keys: Keys,
    pub members: BTreeMap<String, Member>,
    pub links: BTreeMap<String, Link>,
    server_ports: Vec<u16>,
    monitor_ports: Vec<u16>,
    http_ports: Vec<u16>,
}

impl System {
    pub async fn start(plan: Plan) -> Result<Self> {
        let mut system = Self {
            server_ports: (0..plan.servers).map(|_| distinct_port()).collect(),
            monitor_ports: (0..plan.servers).map(|_| distinct_port()).collect(),
            http_ports: (0..plan.centrals).map(|_| distinct_port()).collect(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            keys: Keys::new()?,
            plan,
        };
        system.start_servers().await?;
        for n in 1..=system.plan.centrals {
            let name = central(n);
            let url = system.link_up(&name).await?;
            system.start_central(n, &url)?;
        }
        for place in system.plan.charge_points.clone() {
            let url = system.link_up(&place.cp).await?;
            system.start_agent(&place, &url)?;
        }
        for n in 1..=system.plan.driver_groups {
            system.link_up(&drivers(n)).await?;
        }
        system.link_up("operators").await?;
        for n in 0..system.plan.centrals {
            system.wait_ready(n).await?;
        }
        for place in &system.plan.charge_points {
            system.wait_agent(&place.cp).await?;
        }
        Ok(system)
    }

    async fn start_servers(&mut self) -> Result<()> {
        let count = self.plan.servers;
        let route_ports: Vec<u16> = (0..count).map(|_| distinct_port()).collect();
        for n in 1..=count {
            let name = server(n);
            let dir = self.plan.dir.join(&name);
            std::fs::create_dir_all(&dir)?;
            let disk = self.disk(&dir, SERVER_DISK_MB)?;
            let conf = if count == 1 {
                String::from("single")
            } else {
                format!("cluster-{n}")
            };
            let mut command = Process::program(&name, nats_server_program()?)
                .arg("-c")
                .arg(self.keys.conf(&conf))
                .args(["--addr", "127.0.0.1", "--port"])
                .arg(self.server_ports[n - 1].to_string())
                .arg("--http_port")
                .arg(self.monitor_ports[n - 1].to_string())
                // Quoted, since the server parses the value like a piece of its file.
                .env("EV_NATS_STORE", format!("\"{}\"", dir.display()))
                .env(
                    "EV_NATS_ACCOUNTS",
                    format!("\"{}\"", dir.join("accounts").display()),
                );
            for (key, value) in self.keys.env() {
                command = command.env(key, value);
            }
            if count > 1 {
                let mut routes = Vec::new();
                for other in (1..=count).filter(|other| *other != n) {
                    let line = format!("{name}>{}", server(other));
                    let link = Link::start(line.clone(), route_ports[other - 1]).await?;
                    routes.push(format!("nats-route://127.0.0.1:{}", link.port()));
                    self.links.insert(line, link);
                }
                command = command
                    .arg("--cluster")
                    .arg(format!("nats://127.0.0.1:{}", route_ports[n - 1]))
                    .arg("--routes")
                    .arg(routes.join(","))
                    // Servers tell each other and their clients where they are. Somewhere else, so
                    // that nobody goes around the lines that can be broken.
                    .arg("--cluster_advertise")
                    .arg(format!("127.0.0.1:{}", distinct_port()))
                    .arg("--no_advertise=true");
            }
            self.add(name, command, disk, None)?;
        }
        for n in 1..=count {
            self.wait_server(n).await?;
        }
        Ok(())
    }

    /// One line from a client to each server; the URL that leads through them.
    async fn link_up(&mut self, client: &str) -> Result<String> {
        let mut urls = Vec::new();
        for n in 1..=self.plan.servers {
            let line = format!("{client}>{}", server(n));
            let link = Link::start(line.clone(), self.server_ports[n - 1]).await?;
            urls.push(format!("nats://127.0.0.1:{}", link.port()));
            self.links.insert(line, link);
        }
        Ok(urls.join(","))
    }

    fn start_central(&mut self, n: usize, url: &str) -> Result<()> {
        let name = central(n);
        let path = self.plan.dir.join(format!("{name}.toml"));
        let replicas = if self.plan.servers == 1 { 1 } else { 3 };
        let port = self.http_ports[n - 1];
        // Short waits, so that what waits ends within the run.
        let text = format!(
            "replica = \"{name}\"\nnats_url = \"{url}\"\ncredentials = \"{}\"\n\
             doorkeeper_credentials = \"{}\"\nca = \"{}\"\n\
             http_addr = \"127.0.0.1:{port}\"\n\
             stream_replicas = {replicas}\nsessions_per_driver = 2\nplug_wait_s = 20\n\
             start_deadline_s = 10\nrelease_after_s = 60\nsnapshot_every = {}\n",
            self.keys.creds(Role::Central, &name)?.display(),
            self.keys.creds(Role::Doorkeeper, &name)?.display(),
            self.keys.ca().display(),
            self.plan.snapshot_every
        );
        std::fs::write(&path, text).context("write central's configuration")?;
        let command = Process::ours("central")?
            .arg("run")
            .arg("--config")
            .arg(&path)
            .env("RUST_LOG", "info,async_nats=warn");
        self.add(name, command, None, None)
    }

    fn start_agent(&mut self, place: &Place, url: &str) -> Result<()> {
        let cp = &place.cp;
        let state = self.plan.dir.join(cp);
        std::fs::create_dir_all(&state)?;
        let disk = self.disk(&state, AGENT_DISK_MB)?;
        let path = self.plan.dir.join(format!("{cp}.toml"));
        let seed: u64 = cp.bytes().map(u64::from).sum();
        let mut text = format!(
            "nats_url = \"{url}\"\nca = \"{}\"\nstate_dir = \"{}\"\ncontrol_socket = \"{}\"\n\n\
             [[charge_point]]\nid = \"{cp}\"\nsite = \"SITE-A\"\ntime_zone = \"Europe/Berlin\"\n\
             credentials = \"{}\"\n",
            self.keys.ca().display(),
            state.display(),
            self.socket(cp).display(),
            self.keys.creds(Role::ChargePoint, cp)?.display()
        );
        for c in 1..=place.connectors {
            write!(
                text,
                "\n[[charge_point.connector]]\nid = {c}\nmax_current_ma = 16000\nphases = 3\n"
            )?;
        }
        write!(
            text,
            "\n[charge_point.simulator]\nunruly = {}\nseed = {seed}\n",
            place.unruly
        )?;
        std::fs::write(&path, text).context("write an agent's configuration")?;
        let mut command = Process::ours("edge-cp")?
            .arg("run")
            .arg("--config")
            .arg(&path)
            .arg("--sim-speed")
            .arg(self.plan.sim_speed.to_string())
            .env("RUST_LOG", "info,async_nats=off");
        let mut clock = None;
        if let (true, Some(library)) = (place.clocked, &self.plan.faketime) {
            let file = self.plan.dir.join(format!("{cp}.clock"));
            std::fs::write(&file, "+0\n").context("write a clock's offset")?;
            for (key, value) in wrong_clock_env(library, &file) {
                command = command.env(key, value);
            }
            clock = Some(file);
        }
        self.add(cp.clone(), command, disk, clock)
    }

    fn add(
        &mut self,
        name: String,
        command: ProcessBuilder,
        disk: Option<PathBuf>,
        clock: Option<PathBuf>,
    ) -> Result<()> {
        let log = self.plan.dir.join(format!("{name}.log"));
        let process = command.log_to(log).spawn()?;
        let member = Member {
            name: name.clone(),
            process: Mutex::new(process),
            disk,
            clock,
        };
        self.members.insert(name, member);
        Ok(())
    }

    /// Makes a folder a small disk of its own, where that is possible. It goes with the mount
    /// namespace, and so with this process, however that ends.
    fn disk(&self, dir: &Path, megabytes: u32) -> Result<Option<PathBuf>> {
        if !self.plan.mounts {
            return Ok(None);
        }
        let output = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir)
            .output()
            .context("run mount")?;
        ensure!(
            output.status.success(),
            "mount {}: {}",
            dir.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Some(dir.to_owned()))
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .get(name)
            .with_context(|| format!("there is no process {name}"))
    }

    pub fn server_names(&self) -> Vec<String> {
        (1..=self.plan.servers).map(server).collect()
    }

    pub fn central_names(&self) -> Vec<String> {
        (1..=self.plan.centrals).map(central).collect()
    }

    pub fn agent_names(&self) -> Vec<String> {
        let all = self.plan.charge_points.iter();
        all.map(|place| place.cp.clone()).collect()
    }

    /// The URL of a client whose lines were laid at the start.
    pub fn url_of(&self, client: &str) -> String {
        let urls: Vec<String> = self
            .links
            .values()
            .filter(|link| {
                link.name
                    .split_once('>')
                    .is_some_and(|(from, _)| from == client)
            })
            .map(|link| format!("nats://127.0.0.1:{}", link.port()))
            .collect();
        urls.join(",")
    }

    /// Around all lines: for what is read when everything is over.
    pub fn direct_url(&self) -> String {
        let urls: Vec<String> = self
            .server_ports
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        urls.join(",")
    }

    fn socket(&self, cp: &str) -> PathBuf {
        self.plan.dir.join(format!("{cp}.sock"))
    }

    /// `edge-cp ctl`; what it printed, and whether it said that all went well.
    pub async fn ctl(&self, cp: &str, args: &[&str]) -> (bool, Value) {
        match self.try_ctl(cp, args).await {
            Ok(said) => said,
            Err(error) => (false, Value::String(format!("{error:#}"))),
        }
    }

    async fn try_ctl(&self, cp: &str, args: &[&str]) -> Result<(bool, Value)> {
        let running = tokio::process::Command::new(our_program("edge-cp")?)
            .arg("ctl")
            .arg("--socket")
            .arg(self.socket(cp))
            .args(args)
            .arg("--json")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(CTL_WITHIN, running)
            .await
            .context("edge-cp ctl takes too long")?
            .context("run edge-cp ctl")?;
        let body = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).trim().into());
        Ok((output.status.success(), body))
    }

    /// What an agent says of its charge point.
    pub async fn cabinet(&self, cp: &str) -> Result<Value> {
        let (ok, body) = self.ctl(cp, &["status"]).await;
        ensure!(ok, "{cp} does not answer: {body}");
        let mut all = body["charge_points"]
            .as_array()
            .cloned()
            .into_iter()
            .flatten();
        all.find(|c| c["id"] == cp)
            .with_context(|| format!("{cp} is missing"))
    }

    pub async fn readyz(&self, central: usize) -> Result<(u16, String)> {
        http(self.http_ports[central], "/readyz").await
    }

    pub async fn metrics(&self, central: usize) -> Result<String> {
        Ok(http(self.http_ports[central], "/metrics").await?.1)
    }

    async fn is_ready(&self, central: usize) -> Result<()> {
        let (status, body) = self.readyz(central).await?;
        ensure!(status == 200, "{status}: {body}");
        Ok(())
    }

    async fn is_healthy(&self, n: usize) -> Result<()> {
        let (status, body) = http(self.monitor_ports[n - 1], "/healthz").await?;
        ensure!(status == 200, "{status}: {body}");
        Ok(())
    }

    async fn has_uplink(&self, cp: &str) -> Result<()> {
        let status = self.cabinet(cp).await?;
        ensure!(status["uplink"] == true, "it has none");
        Ok(())
    }

    pub async fn wait_ready(&self, central: usize) -> Result<()> {
        let deadline = Instant::now() + COME_UP;
        while let Err(error) = self.is_ready(central).await {
            not_for_ever(
                deadline,
                error,
                &format!("central-{} is ready", central + 1),
            )
            .await?;
        }
        Ok(())
    }

    pub async fn wait_server(&self, n: usize) -> Result<()> {
        let deadline = Instant::now() + COME_UP;
        while let Err(error) = self.is_healthy(n).await {
            not_for_ever(deadline, error, &format!("{} is healthy", server(n))).await?;
        }
        Ok(())
    }

    pub async fn wait_agent(&self, cp: &str) -> Result<()> {
        let deadline = Instant::now() + COME_UP;
        while let Err(error) = self.has_uplink(cp).await {
            not_for_ever(deadline, error, &format!("{cp} has an uplink")).await?;
        }
        Ok(())
    }

    /// The server that leads the ledger's stream, by the word of those that answer.
    pub async fn ledger_leader(&self) -> Result<String> {
        for port in &self.monitor_ports {
            let Ok((200, body)) = http(*port, "/jsz?streams=true&accounts=true").await else {
                continue;
            };
            let page: Value = serde_json::from_str(&body).context("read /jsz")?;
            let leader = page["account_details"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|account| account["stream_detail"].as_array().into_iter().flatten())
                .filter(|stream| stream["name"] == "EV_LEDGER")
                .find_map(|stream| stream["cluster"]["leader"].as_str());
            if let Some(leader) = leader.filter(|name| self.members.contains_key(*name)) {
                return Ok(leader.to_owned());
            }
        }
        bail!("no server names a leader of the ledger")
    }
}

/// A short pause before the next look, until there have been enough.
async fn not_for_ever(deadline: Instant, error: anyhow::Error, what: &str) -> Result<()> {
    if Instant::now() > deadline {
        let seconds = COME_UP.as_secs();
        return Err(error.context(format!("waited {seconds} s in vain until {what}")));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

pub fn server(n: usize) -> String {
    format!("nats-{n}")
}

pub fn central(n: usize) -> String {
    format!("central-{n}")
}

pub fn drivers(group: usize) -> String {
    format!("drivers-{group}")
}

async fn http(port: u16, path: &str) -> Result<(u16, String)> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .context("connect")?;
        // HTTP/1.0, so that the answer ends with the connection and is not chunked.
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream
            .take(PAGE_BYTES_MAX)
            .read_to_string(&mut answer)
            .await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let status = head.split_whitespace().nth(1).context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    };
    timeout(HTTP_WITHIN, talk)
        .await
        .with_context(|| format!("{path} takes too long"))?
}
