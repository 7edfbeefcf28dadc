//! The pages that `driver-cli` serves.

use anyhow::{Context, Result, ensure};
use ev_testkit::{PATIENCE, Process, ProcessBuilder, Role, free_port, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Site;

/// A page and the process that serves it. Dropping it ends it.
#[derive(Debug)]
pub struct Web {
    /// It.
    pub process: Process,
    port: u16,
}

impl Web {
    /// The page of a driver.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn driver(site: &Site, driver: &str) -> Result<Self> {
        site.nats.keys().creds(Role::Driver, driver)?;
        Self::start(site, &["--driver", driver, "serve"], driver).await
    }

    /// The wall of an operator.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn operator(site: &Site, operator: &str) -> Result<Self> {
        site.nats.keys().creds(Role::Operator, operator)?;
        Self::start(site, &["--operator", operator, "op", "serve"], operator).await
    }

    async fn start(site: &Site, verb: &[&str], who: &str) -> Result<Self> {
        let port = free_port();
        let process = driver_cli(site, who)?
            .args(verb)
            .args(["--port", &port.to_string()])
            .spawn()?;
        let mut web = Self { process, port };
        web.serves().await?;
        Ok(web)
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn serves(&mut self) -> Result<()> {
        wait_for("the page is served", PATIENCE, async || {
            let (status, _) = self.get("/").await?;
            ensure!(status == 200, "{status}: {}", self.process.log());
            Ok(())
        })
        .await
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.host())
    }

    /// Host and port, as a browser writes them.
    #[must_use]
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// A page of it.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let host = self.host();
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    /// Sends a request as it is written; the status, and the whole answer. For what no browser
    /// would send. The request asks for the end of the connection.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn ask(&self, request: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .context("connect to the page")?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split_whitespace().nth(1).context("no status")?;
        Ok((status.parse()?, answer))
    }
}

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
