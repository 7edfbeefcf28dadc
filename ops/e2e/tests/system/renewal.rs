//! Credentials and certificates that end soon are shown and spoken of, and their successors are
//! used, while everything goes on running.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use ev_testkit::{
    Keys, NatsServer, PATIENCE, Process, Role, certificate, free_port, our_program, wait_for,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(0)
}

/// A central and an agent, each with copies of what it connects with, and a server that asks for
/// clients' certificates.
struct Installation {
    keys: Keys,
    server: NatsServer,
    central: Process,
    agent: Process,
    http: u16,
    dir: TempDir,
}

/// Puts a file in the place of another, as whoever renews something does.
fn put(from: &Path, to: &Path) -> Result<()> {
    let half = to.with_extension("half");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&half)?;
    std::io::Write::write_all(&mut file, &fs::read(from)?)?;
    fs::rename(&half, to).context("put a file in its place")
}

fn put_pair(from: &certificate::Certificate, dir: &Path, name: &str) -> Result<()> {
    put(&from.key, &dir.join(format!("{name}.key")))?;
    put(&from.certificate, &dir.join(format!("{name}.crt")))
}

impl Installation {
    /// Everybody's credential ends an hour before 20 days are over, central's certificate in 10 days.
    async fn start() -> Result<Self> {
        let keys = Keys::new()?;
        let dir = TempDir::with_prefix("ev-renewal-")?;
        let at = dir.path();
        let own = certificate::client(keys.dir(), "central-a", 10, now_s())?;
        put_pair(&own, at, "central")?;
        let agents = certificate::client(keys.dir(), "cabinet-1", 200, now_s())?;
        put_pair(&agents, at, "cabinet")?;
        for (role, name) in [(Role::Central, "central-a"), (Role::ChargePoint, "CP-001")] {
            let ends = now_s() + 20 * DAY_S - HOUR_S;
            let issued = keys.realm()?.issue(role, name, ends, now_s())?;
            put(&issued.path, &at.join(format!("{name}.creds")))?;
        }
        put(&keys.ca(), &at.join("ca.crt"))?;
        let server = NatsServer::start_unseen(&keys, &keys.mutual(&own)?).await?;
        let (http, shown, url) = (free_port(), at.display(), server.url());
        let access = |creds: &str, name: &str| {
            format!(
                "nats_url = \"{url}\"\nca = \"{shown}/ca.crt\"\n{creds}\
                 certificate = \"{shown}/{name}.crt\"\nkey = \"{shown}/{name}.key\"\n"
            )
        };
        fs::write(
            at.join("central.toml"),
            format!(
                "replica = \"central-a\"\nhttp_addr = \"127.0.0.1:{http}\"\n{}",
                access(
                    &format!("credentials = \"{shown}/central-a.creds\"\n"),
                    "central"
                )
            ),
        )?;
        fs::write(
            at.join("edge.toml"),
            format!(
                "{}state_dir = \"{shown}/edge\"\ncontrol_socket = \"{shown}/edge.sock\"\n\
                 [[charge_point]]\nid = \"CP-001\"\n\
                 credentials = \"{shown}/CP-001.creds\"\n\
                 [[charge_point.connector]]\nid = 1\nmax_current_ma = 16000\nphases = 3\n",
                access("", "cabinet")
            ),
        )?;
        let run = |program: &str, config: &str| {
            Process::ours(program)?
                .args(["run", "--config"])
                .arg(at.join(config))
                .env("RUST_LOG", "info,async_nats=warn")
                .spawn()
        };
        Ok(Self {
            central: run("central", "central.toml")?,
            agent: run("edge-cp", "edge.toml")?,
            keys,
            server,
            http,
            dir,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn http(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn metric(&self, name: &str) -> Result<i64> {
        let page = self.http("/metrics").await?;
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("no metric {name}"))?
            .parse()
            .context("a number")
    }

    async fn ends(&self, what: &str) -> Result<i64> {
        self.metric(&format!("ev_expires_at_seconds{{what=\"{what}\"}}"))
            .await
    }

    async fn shows(&self, what: &str, expected_s: i64) -> Result<()> {
        wait_for(
            &format!("central shows the end of its {what}"),
            PATIENCE,
            async || {
                let shown_s = self.ends(what).await?;
                ensure!(shown_s == expected_s, "{shown_s}, not {expected_s}");
                Ok(())
            },
        )
        .await
    }

    async fn charge_points_ending_within(&self, within: &str, expected: i64) -> Result<()> {
        let name = format!("ev_charge_points_expiring{{within=\"{within}\"}}");
        wait_for(&format!("{name} is {expected}"), PATIENCE, async || {
            let shown = self.metric(&name).await?;
            ensure!(shown == expected, "{shown}");
            Ok(())
        })
        .await
    }

    /// When what the agent connects with ends, by its own word.
    async fn agents_end(&self, what: &str) -> Result<i64> {
        let status: Value = serde_json::from_slice(&self.ctl(&["status", "--json"]).await?)?;
        status["charge_points"][0]["access"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|term| term["what"] == what)
            .and_then(|term| term["expires_at"].as_i64())
            .map(|at_ms| at_ms / 1_000)
            .with_context(|| format!("no {what} in {status}"))
    }

    async fn ctl(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = tokio::process::Command::new(our_program("edge-cp")?)
            .args(["ctl", "--socket"])
            .arg(self.path("edge.sock"))
            .args(args)
            .output()
            .await?;
        ensure!(output.status.success(), "{output:?}");
        Ok(output.stdout)
    }

    /// What an operator sees of the charge point's access.
    async fn operators_view(&self) -> Result<String> {
        let creds = self.keys.creds(Role::Operator, "operator")?;
        let output = tokio::process::Command::new(our_program("driver-cli")?)
            .args(["--json", "--nats-url", &self.server.url(), "--credentials"])
            .arg(creds)
            .arg("--ca")
            .arg(self.keys.ca())
            .arg("--certificate")
            .arg(self.path("central.crt"))
            .arg("--key")
            .arg(self.path("central.key"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .args(["op", "cp", "ls"])
            .output()
            .await?;
        let doc: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let at = doc["charge_points"][0]["access_expires_at"].as_str();
        at.map(str::to_owned).with_context(|| doc.to_string())
    }

    /// The names in the certificates that connected clients have shown.
    async fn peers(&self) -> Result<String> {
        let page = self.server.monitor("/connz?auth=1").await?;
        Ok(page["connections"].to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_is_shown_and_said_and_its_successor_is_used_without_a_restart() -> Result<()> {
    let mut all = Installation::start().await?;
    let keys = all.keys.clone();
    let begun_s = now_s();
    for (what, days) in [
        ("credentials", 20),
        ("client_certificate", 10),
        ("authority", 3_650),
        ("server_certificate", 365),
    ] {
        let name = format!("central shows the end of its {what}");
        let ends_s = wait_for(&name, PATIENCE, async || all.ends(what).await).await?;
        let off_s = ends_s - begun_s - days * DAY_S;
        ensure!(
            (-HOUR_S - 120..=0).contains(&off_s),
            "{what}: off by {off_s} s"
        );
        let name = format!("the agent shows the end of its {what}");
        wait_for(&name, PATIENCE, async || all.agents_end(what).await).await?;
    }
    // Each said once, however often it is read.
    let said = [
        "central-a.creds expires in 19 days",
        "central.crt expires in ",
    ];
    for words in said {
        all.central.wait_for_log(words, PATIENCE).await?;
    }
    all.agent
        .wait_for_log("CP-001.creds expires in 19 days", PATIENCE)
        .await?;
    all.charge_points_ending_within("30d", 1).await?;
    all.charge_points_ending_within("7d", 0).await?;
    let table = String::from_utf8(all.ctl(&["status"]).await?)?;
    ensure!(table.contains("server certificate until 20"), "{table}");
    let viewed = all.operators_view().await?;
    let (former_end_s, former_authority_s) = (
        all.agents_end("credentials").await?,
        all.ends("authority").await?,
    );

    // Both authorities first, then what the next has signed.
    certificate::next_authority(keys.dir(), now_s() + 1_000)?;
    put(&keys.ca(), &all.path("ca.crt"))?;
    let own = certificate::client(keys.dir(), "central-next", 300, now_s())?;
    put_pair(&own, all.dir.path(), "central")?;
    let renewed = keys.renew_server(250, now_s())?;
    all.server.reload().await?;
    for (role, name) in [(Role::Central, "central-a"), (Role::ChargePoint, "CP-001")] {
        let successor = keys.realm()?.rotate(role, name, 300, now_s())?;
        put(&successor.path, &all.path(&format!("{name}.creds")))?;
    }
    // The former ones end here, and their connections with them.
    keys.push(&all.server.url(), Some(&own)).await?;

    all.shows("client_certificate", own.expires_at_s).await?;
    all.shows("server_certificate", renewed.expires_at_s)
        .await?;
    wait_for("central is connected anew", PATIENCE, async || {
        let peers = all.peers().await?;
        ensure!(peers.contains("central-next"), "{peers}");
        ensure!(all.http("/readyz").await?.contains(" 200 "), "not ready");
        Ok(())
    })
    .await?;
    ensure!(all.ends("credentials").await? > begun_s + 299 * DAY_S);
    all.charge_points_ending_within("30d", 0).await?;
    wait_for("the agent shows its new credential", PATIENCE, async || {
        ensure!(all.agents_end("credentials").await? > former_end_s);
        Ok(())
    })
    .await?;
    wait_for("operators see the new end", PATIENCE, async || {
        ensure!(all.operators_view().await? > viewed);
        Ok(())
    })
    .await?;

    // While the former authority is still known, its end is the one that is shown.
    ensure!(all.ends("authority").await? == former_authority_s);
    certificate::forget_former_authority(keys.dir())?;
    put(&keys.ca(), &all.path("ca.crt"))?;
    wait_for(
        "central shows the next authority's end",
        PATIENCE,
        async || {
            ensure!(all.ends("authority").await? > former_authority_s);
            Ok(())
        },
    )
    .await?;

    for process in [&all.central, &all.agent] {
        ensure!(!process.has_ended(), "{} ended", process.name());
    }
    for words in said {
        ensure!(all.central.log().matches(words).count() == 1, "{words}");
    }
    Ok(())
}
