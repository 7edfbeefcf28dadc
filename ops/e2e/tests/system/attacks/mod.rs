//! Attacks, each by somebody with a credential of their own or with none: it does not succeed, it
//! leaves a trace, and whoever meets the refusal in good faith is told what to do. The list is in
//! `ops/docs/security.md`.

mod cabinets;
mod credentials;
mod limits;
mod others;
mod subjects;

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use ev_client::Pauses;
use ev_testkit::{NatsServer, PATIENCE, Process, Role, our_program, wait_for};
use serde_json::Value;

/// Somebody with a connection of their own, and what the server says to them.
struct Guest {
    nats: async_nats::Client,
    said: Arc<Mutex<Vec<String>>>,
}

impl Guest {
    async fn of(server: &NatsServer, role: Role, name: &str) -> Result<Self> {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let access = server.keys().access(&server.url(), role, name)?;
        let (options, _) = access.options(Pauses::default(), move |event| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.push(event.to_string());
            std::future::ready(())
        })?;
        let nats = options.connect(access.servers()?).await?;
        Ok(Self { nats, said })
    }

    /// Waits until the server has said this.
    async fn hears(&self, words: &str) -> Result<()> {
        wait_for(
            &format!("the server says {words:?}"),
            PATIENCE,
            async || {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                ensure!(said.iter().any(|one| one.contains(words)), "{said:?}");
                Ok(())
            },
        )
        .await
    }
}

/// Waits until a line of the server's log has all of these words.
async fn server_logs(server: &NatsServer, words: &[&str]) -> Result<()> {
    wait_for(
        &format!("the server logs {words:?}"),
        PATIENCE,
        async || {
            let log = server.log();
            let found = log
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)));
            ensure!(found, "no such line");
            Ok(())
        },
    )
    .await
}

/// `driver-cli` of somebody.
struct Cli {
    url: String,
    ca: PathBuf,
    credentials: PathBuf,
    who: [String; 2],
    state: tempfile::TempDir,
}

/// What it said.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Cli {
    fn of(server: &NatsServer, role: Role, name: &str) -> Result<Self> {
        let keys = server.keys();
        Ok(Self {
            url: server.url(),
            ca: keys.ca(),
            credentials: keys.creds(role, name)?,
            who: [format!("--{role}"), name.to_owned()],
            state: tempfile::tempdir()?,
        })
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = [
            "--nats-url",
            &self.url,
            "--credentials",
            &self.credentials.to_string_lossy(),
            "--ca",
            &self.ca.to_string_lossy(),
            "--state-dir",
            &self.state.path().to_string_lossy(),
        ]
        .map(str::to_owned)
        .into();
        all.extend(self.who.iter().cloned());
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    }

    async fn run(&self, words: &[&str]) -> Result<Ran> {
        let mut command = tokio::process::Command::new(our_program("driver-cli")?);
        command
            .args(self.words(words))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .context("driver-cli does not end")??;
        Ok(Ran {
            code: output.status.code().context("it was killed")?,
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Runs beside the test; what it says is its log.
    fn spawn(&self, words: &[&str]) -> Result<Process> {
        Process::ours("driver-cli")?.args(self.words(words)).spawn()
    }
}

impl Ran {
    /// Its document, when it has ended well.
    fn done(&self) -> Result<Value> {
        ensure!(self.code == 0, "{self:?}");
        serde_json::from_str(&self.out).context("a document")
    }

    /// It has ended like this and told people all of that.
    fn told(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == code, "exit {code} expected: {self:?}");
        for word in words {
            ensure!(self.err.contains(word), "{word:?} expected: {self:?}");
        }
        Ok(())
    }
}
