//! The shipped configuration, up: servers, replicas of central, charge points, the echo, and the
//! connections that load them. Every part but this program is a process of its own.

use std::{
    env,
    fmt::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use ev_enrol::roles::Account;
use ev_testkit::{
    Cluster, NatsServer, PATIENCE, Process, Role, free_port, nats_server_program, our_program,
    wait_for,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    access::BenchKeys,
    client::LoadClient,
    echo,
    fleet::{self, Fleet},
    usage::Usage,
};

/// Central reads its ledger before it serves.
const READY: Duration = Duration::from_secs(120);
/// Between two looks whether a central that was started again is ready: a hundredth of what is
/// asked of the quickest restart, and as little work.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is to be up.
#[derive(Debug, Clone)]
pub struct Layout {
    /// 1 or 3.
    pub servers: usize,
    /// Replicas of central.
    pub centrals: usize,
    /// Connectors of each charge point.
    pub connectors: u16,
    /// The server, if it is one, lets agents in over WebSocket too.
    pub websocket: bool,
    /// The disk syncs so much slower than it could.
    pub slow_disk: Option<Duration>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            servers: 1,
            centrals: 1,
            connectors: 4,
            websocket: false,
            slow_disk: None,
        }
    }
}

/// One server or three.
#[derive(Debug)]
pub enum Servers {
    /// `single.conf`
    One(Box<NatsServer>),
    /// `cluster-{1,2,3}.conf`
    Three(Cluster),
}

impl Servers {
    /// As a client wants them.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Three(cluster) => cluster.url(),
        }
    }

    /// As agents want the one that lets them in over WebSocket.
    ///
    /// # Errors
    /// When there are three.
    pub fn websocket_url(&self) -> Result<String> {
        match self {
            Self::One(server) => Ok(server.websocket_url()),
            Self::Three(_) => bail!("three servers are not asked for WebSocket here"),
        }
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::One(server) => vec![server.pid()],
            Self::Three(cluster) => cluster.nodes().iter().map(NatsServer::pid).collect(),
        }
    }

    /// Where one of them has its streams.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        match self {
            Self::One(server) => server.data_dir(),
            Self::Three(cluster) => cluster.nodes()[0].data_dir(),
        }
    }

    /// Copies of each stream.
    #[must_use]
    pub fn replicas(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Three(_) => 3,
        }
    }
}

/// A part of the system whose CPU and memory are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// nats-server, all of them together.
    Servers,
    /// Central, all replicas together.
    Central,
    /// The charge points.
    Fleet,
    /// The other end of the floor.
    Echo,
    /// This program: the load.
    Load,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Servers,
        Self::Central,
        Self::Fleet,
        Self::Echo,
        Self::Load,
    ];

    /// What tables call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Servers => "nats-server",
            Self::Central => "central",
            Self::Fleet => "charge points",
            Self::Echo => "echo",
            Self::Load => "load",
        }
    }
}

/// A replica of central.
#[derive(Debug)]
struct Central {
    process: Process,
    /// Of its HTTP side.
    port: u16,
    /// Its configuration, and what that says as it is shipped.
    path: PathBuf,
    text: String,
}

/// How long a restart took, from the start of the process.
#[derive(Debug, Clone, Copy)]
pub struct Restarted {
    /// Until it had read its snapshot, and knew how far the ledger goes.
    pub begun: Duration,
    /// Until it answered.
    pub ready: Duration,
}

/// What is up. Dropping it ends every process.
#[derive(Debug)]
pub struct Hub {
    /// Connections that load it.
    pub drivers: LoadClient,
    /// A connection in central's account, for floors and looks.
    pub core: LoadClient,
    /// The charge points.
    pub fleet: Fleet,
    /// Connectors of each of them.
    pub connectors: u16,
    fleet_process: Process,
    echo: Process,
    centrals: Vec<Central>,
    /// The servers.
    pub servers: Servers,
    keys: BenchKeys,
    dir: TempDir,
}

impl Hub {
    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// When a part does not start; the message says which.
    pub async fn start(layout: &Layout) -> Result<Self> {
        let keys = BenchKeys::new()?;
        let dir = TempDir::with_prefix("ev-bench-").context("make a folder for a bench")?;
        let servers = if let Some(slower) = layout.slow_disk {
            let program = slow_server(dir.path(), slower)?;
            let conf = keys.keys.conf("single");
            let server = NatsServer::start_with_program(&program, &keys.keys, &conf).await?;
            Servers::One(Box::new(server))
        } else if layout.servers == 1 {
            let conf = if layout.websocket {
                keys.keys.websocket()?
            } else {
                keys.keys.conf("single")
            };
            Servers::One(Box::new(
                NatsServer::start_with_conf(&keys.keys, &conf).await?,
            ))
        } else {
            Servers::Three(Cluster::start_with_keys(&keys.keys).await?)
        };
        let url = servers.url();
        let mut centrals = Vec::new();
        for n in 1..=layout.centrals {
            let (path, port, text) = central_toml(&keys, &servers, n, dir.path())?;
            let process = Process::program(format!("central-{n}"), program("central")?)
                .arg("run")
                .arg("--config")
                .arg(&path)
                .env("RUST_LOG", "info,async_nats=warn")
                .spawn()?;
            centrals.push(Central {
                process,
                port,
                path,
                text,
            });
        }
        let echo = play(&keys, &url, "echo", Account::Core)?;
        let fleet_process = play(&keys, &url, "fleet", Account::Edge)?
            .arg("--connectors")
            .arg(layout.connectors.to_string());
        let (mut echo, mut fleet_process) = (echo.spawn()?, fleet_process.spawn()?);
        echo.wait_for_log(echo::READY, PATIENCE).await?;
        fleet_process.wait_for_log(fleet::READY, PATIENCE).await?;
        let hub = Self {
            drivers: LoadClient::new(keys.connect(&url, Account::Drivers).await?).await?,
            core: LoadClient::new(keys.connect(&url, Account::Core).await?).await?,
            fleet: Fleet::new(keys.connect(&url, Account::Edge).await?),
            connectors: layout.connectors,
            fleet_process,
            echo,
            centrals,
            servers,
            keys,
            dir,
        };
        hub.ready().await?;
        Ok(hub)
    }

    /// Somebody who listens to the live values of a charge point, for as long as this is held.
    ///
    /// # Errors
    /// When the server does not let them in.
    pub async fn watch(&self, cp: &str) -> Result<(async_nats::Client, async_nats::Subscriber)> {
        let client = self
            .keys
            .connect(&self.servers.url(), Account::Drivers)
            .await?;
        let values = client.subscribe(format!("ev.v1.cp.{cp}.live.*.*")).await?;
        client.flush().await?;
        Ok((client, values))
    }

    /// Waits until every replica of central serves.
    ///
    /// # Errors
    /// When one does not.
    pub async fn ready(&self) -> Result<()> {
        for central in &self.centrals {
            let what = format!("{} is ready", central.process.name());
            wait_for(&what, READY, async || {
                let (status, body) = http(central.port, "/readyz").await?;
                ensure!(status == 200, "{status}: {body}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// What the configuration of every replica says from its next start on, beside what it says as
    /// shipped.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure_centrals(&self, more: &str) -> Result<()> {
        for central in &self.centrals {
            std::fs::write(&central.path, format!("{}{more}", central.text))
                .context("write central's configuration anew")?;
        }
        Ok(())
    }

    /// Kills every replica of central: nothing is drained, and no snapshot is written.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_centrals(&mut self) -> Result<()> {
        self.centrals
            .iter_mut()
            .try_for_each(|central| central.process.kill9())
    }

    /// Waits until the first server has read what centrals that were killed had sent it.
    ///
    /// # Errors
    /// When it keeps a connection of theirs.
    pub async fn wait_until_centrals_are_gone(&self) -> Result<()> {
        wait_for("the connections of central are gone", READY, async || {
            let page = self.first_server().monitor("/connz?limit=1024").await?;
            let all = page["connections"].as_array().context("connections")?;
            let left = all.iter().filter(|connection| {
                let name = connection["name"].as_str();
                name.is_some_and(|name| name.starts_with("central "))
            });
            let left = left.count();
            ensure!(left == 0, "{left} are there");
            Ok(())
        })
        .await
    }

    /// Starts every replica of central that was killed, one after the other; how long it took the
    /// slowest.
    ///
    /// # Errors
    /// When one ends, or does not serve in time.
    pub async fn restart_centrals(&mut self, within: Duration) -> Result<Restarted> {
        let mut slowest = Restarted {
            begun: Duration::ZERO,
            ready: Duration::ZERO,
        };
        for central in &mut self.centrals {
            let name = central.process.name().to_owned();
            let began = Instant::now();
            central.process.restart()?;
            let mut begun = None;
            loop {
                ensure!(central.process.is_running(), "{name} has ended");
                ensure!(began.elapsed() < within, "{name} is not ready in time");
                // It listens before it does anything else.
                if let Ok((status, body)) = http(central.port, "/readyz").await {
                    let at = began.elapsed();
                    // Before it knows how far the ledger goes, it says `0 of 0`.
                    if status == 200 || !body.contains(" of 0") {
                        begun.get_or_insert(at);
                    }
                    if status == 200 {
                        slowest.ready = slowest.ready.max(at);
                        break;
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            slowest.begun = slowest.begun.max(begun.unwrap_or_default());
        }
        Ok(slowest)
    }

    /// Who vouches for its servers.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.keys.keys.ca()
    }

    /// A folder of its own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of a role's credentials, with those of all these.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn enrol(&self, role: Role, names: &[String]) -> Result<PathBuf> {
        self.keys.enrol(role, names)
    }

    /// Clients that are connected to the first server.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn connections(&self) -> Result<u64> {
        let page = self.first_server().monitor("/varz").await?;
        page["connections"].as_u64().context("connections")
    }

    fn first_server(&self) -> &NatsServer {
        match &self.servers {
            Servers::One(server) => server,
            Servers::Three(cluster) => &cluster.nodes()[0],
        }
    }

    /// The streams, as somebody sees them who may do anything.
    #[must_use]
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.core.client().clone())
    }

    /// The sum of a metric without labels over all replicas.
    ///
    /// # Errors
    /// When one does not answer, or has no such metric.
    pub async fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        let mut sums = [0.0; N];
        for central in &self.centrals {
            let (_, page) = http(central.port, "/metrics").await?;
            for (name, sum) in names.iter().zip(&mut sums) {
                let value = page
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                    .with_context(|| format!("central has no metric {name}"))?;
                *sum += value.parse::<f64>()?;
            }
        }
        Ok(sums)
    }

    /// The processes of each part.
    #[must_use]
    pub fn all_pids(&self) -> Vec<(Part, Vec<u32>)> {
        Part::ALL
            .into_iter()
            .map(|part| {
                let pids = match part {
                    Part::Servers => self.servers.pids(),
                    Part::Central => self.central_pids(),
                    Part::Fleet => vec![self.fleet_process.pid()],
                    Part::Echo => vec![self.echo.pid()],
                    Part::Load => vec![std::process::id()],
                };
                (part, pids)
            })
            .collect()
    }

    /// What each part has used so far.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn usages(parts: &[(Part, Vec<u32>)]) -> Result<Vec<(Part, Usage)>> {
        parts
            .iter()
            .map(|(part, pids)| {
                let mut sum = Usage::default();
                for pid in pids {
                    let one = Usage::of(*pid)?;
                    sum.cpu_s += one.cpu_s;
                    sum.resident += one.resident;
                    sum.peak += one.peak;
                }
                Ok((*part, sum))
            })
            .collect()
    }

    /// The processes of central, for a profiler.
    #[must_use]
    pub fn central_pids(&self) -> Vec<u32> {
        self.centrals.iter().map(|c| c.process.pid()).collect()
    }
}

/// A program that becomes nats-server, with a tracer beside it that lets each sync of a file take
/// longer. Nothing else is traced, and so nothing else is slower.
fn slow_server(dir: &Path, slower: Duration) -> Result<PathBuf> {
    let path = dir.join("slow-nats-server");
    let text = format!(
        "#!/bin/sh\nexec strace -D -f --seccomp-bpf -qqq -o /dev/null -e trace=fsync,fdatasync \
         -e inject=fsync,fdatasync:delay_exit={} {} \"$@\"\n",
        slower.as_micros(),
        nats_server_program()?.display()
    );
    std::fs::write(&path, text).context("write what slows the server's disk down")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

fn central_toml(
    keys: &BenchKeys,
    servers: &Servers,
    n: usize,
    dir: &Path,
) -> Result<(PathBuf, u16, String)> {
    let port = free_port();
    let path = dir.join(format!("central-{n}.toml"));
    let name = format!("central-{n}");
    let mut text = format!(
        "replica = \"{name}\"\nnats_url = \"{}\"\ncredentials = \"{}\"\n\
         doorkeeper_credentials = \"{}\"\nca = \"{}\"\nhttp_addr = \"127.0.0.1:{port}\"\n",
        servers.url(),
        keys.keys.creds(Role::Central, &name)?.display(),
        keys.keys.creds(Role::Doorkeeper, &name)?.display(),
        keys.keys.ca().display(),
    );
    writeln!(text, "stream_replicas = {}", servers.replicas())?;
    std::fs::write(&path, &text).context("write central's configuration")?;
    Ok((path, port, text))
}

/// This program in another role.
fn play(
    keys: &BenchKeys,
    url: &str,
    role: &str,
    account: Account,
) -> Result<ev_testkit::ProcessBuilder> {
    Ok(
        Process::program(format!("bench-{role}"), env::current_exe()?)
            .arg("play")
            .arg(role)
            .arg("--url")
            .arg(url)
            .arg("--credentials")
            .arg(keys.credential(account))
            .arg("--ca")
            .arg(keys.keys.ca()),
    )
}

/// One of our programs: beside this one, where it was built with it.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("find this program's own path")?;
    let beside = own.with_file_name(name);
    if env::var_os("EV_BIN_DIR").is_none() && beside.is_file() {
        return Ok(beside);
    }
    our_program(name)
}

async fn http(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .context("connect to central's HTTP port")?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: bench\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let status = head.split_whitespace().nth(1).context("no status")?;
    Ok((status.parse()?, body.to_owned()))
}
