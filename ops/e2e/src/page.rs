//! A page that `driver-cli` serves, and a browser without a script.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ev_testkit::{PATIENCE, Process, Role, free_port, our_program, wait_for};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::Site;

/// A server of a page.
#[derive(Debug)]
pub struct Page {
    /// The process.
    pub process: Process,
    /// Its port on loopback.
    pub port: u16,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The text.
    pub body: String,
}

impl Answer {
    /// The text as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{}: {}", self.status, self.body))
    }
}

impl Page {
    /// `driver-cli serve` for a driver, once it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn of_driver(site: &Site, driver: &str) -> Result<Self> {
        Self::serve(site, Role::Driver, driver, &["--driver", driver, "serve"]).await
    }

    /// `driver-cli op serve` for an operator, once it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn of_operator(site: &Site, operator: &str) -> Result<Self> {
        let args = ["--operator", operator, "op", "serve"];
        Self::serve(site, Role::Operator, operator, &args).await
    }

    async fn serve(site: &Site, role: Role, who: &str, args: &[&str]) -> Result<Self> {
        let port = free_port();
        let keys = site.nats.keys();
        let process = Process::program("page", our_program("driver-cli")?)
            .args(["--nats-url", &site.nats.url()])
            .arg("--credentials")
            .arg(keys.creds(role, who)?)
            .arg("--ca")
            .arg(keys.ca())
            .arg("--state-dir")
            .arg(site.dir().join(format!("state-{who}")))
            .args(args)
            .args(["--port", &port.to_string()])
            .spawn()?;
        let page = Self { process, port };
        wait_for("the page is served", PATIENCE, async || {
            let answer = page.get("/").await?;
            ensure!(answer.status == 200, "{}", answer.head);
            Ok(())
        })
        .await?;
        Ok(page)
    }

    /// Loads something.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.ask(&format!(
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.host()
        ))
        .await
    }

    /// Presses a button of a plain form of this page's own.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn press(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let origin = format!("Origin: http://{}\r\n", self.host());
        self.post(path, &origin, fields).await
    }

    /// The same as the page's script does it.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn press_by_script(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let headers = format!(
            "Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\nAccept: application/json\r\n",
            self.host()
        );
        self.post(path, &headers, fields).await
    }

    /// Sends a form with headers of one's own.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, path: &str, headers: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let body: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        let body = body.join("&");
        let host = if headers.contains("Host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.host())
        };
        self.ask(&format!(
            "POST {path} HTTP/1.0\r\n{host}{headers}Content-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    /// What a form of this page carries.
    ///
    /// # Errors
    /// When there is no form.
    pub async fn token(&self) -> Result<String> {
        let page = self.get("/").await?.body;
        let (_, rest) = page
            .split_once("name=\"token\" value=\"")
            .context("no token")?;
        let (token, _) = rest.split_once('"').context("no end of the token")?;
        Ok(token.to_owned())
    }

    /// Loads the page again and again until `holds`.
    ///
    /// # Errors
    /// When it never does; the message has the page.
    pub async fn wait_shows(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
        wait_for(&format!("the page shows {what}"), PATIENCE, async || {
            let page = self.get("/").await?.body;
            ensure!(holds(&page), "{page}");
            Ok(page)
        })
        .await
    }

    /// Listens; with `last`, where an earlier listener ended.
    ///
    /// # Errors
    /// When there is no stream.
    pub async fn listen(&self, last: Option<&str>) -> Result<Events> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let last = last
            .map(|id| format!("Last-Event-ID: {id}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "GET /events HTTP/1.0\r\nHost: {}\r\n{last}\r\n",
            self.host()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut events = Events {
            lines: BufReader::new(stream),
            keep_alives: 0,
        };
        let status = events.line().await?;
        ensure!(status.contains(" 200 "), "{status}");
        while !events.line().await?.is_empty() {}
        Ok(events)
    }

    /// What a browser opens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.host())
    }

    /// Host and port as a browser names them.
    #[must_use]
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    async fn ask(&self, request: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await??;
        let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
        let status = head
            .split_whitespace()
            .nth(1)
            .context("no status")?
            .parse()?;
        Ok(Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    lines: BufReader<TcpStream>,
    /// Comments that came between events.
    pub keep_alives: usize,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// `snapshot` or `change`.
    pub name: String,
    /// What it says.
    pub data: Value,
}

impl Event {
    /// The HTML of a part, if it is in here.
    #[must_use]
    pub fn part(&self, id: &str) -> Option<&str> {
        self.data["put"]
            .as_array()?
            .iter()
            .find(|part| part["id"] == id)?["html"]
            .as_str()
    }

    /// Whether a part has gone.
    #[must_use]
    pub fn is_gone(&self, id: &str) -> bool {
        self.data["gone"]
            .as_array()
            .is_some_and(|gone| gone.iter().any(|each| each == id))
    }

    /// Its number.
    ///
    /// # Errors
    /// When the id has none.
    pub fn number(&self) -> Result<u64> {
        let (_, number) = self.id.rsplit_once('-').context("no number")?;
        Ok(number.parse()?)
    }
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// When none comes within the patience of a test, or the stream has ended.
    pub async fn next(&mut self) -> Result<Event> {
        timeout(PATIENCE, self.read())
            .await
            .context("no event in time")?
    }

    /// The first event from here on that `holds`.
    ///
    /// # Errors
    /// When none comes.
    pub async fn wait(&mut self, what: &str, holds: impl Fn(&Event) -> bool) -> Result<Event> {
        let looking = async {
            loop {
                let event = self.read().await?;
                if holds(&event) {
                    return Ok(event);
                }
            }
        };
        timeout(PATIENCE, looking)
            .await
            .with_context(|| format!("no event in time with {what}"))?
    }

    /// Waits for a comment on a quiet stream, for at most so long.
    ///
    /// # Errors
    /// When none comes.
    pub async fn wait_keep_alive(&mut self, patience: Duration) -> Result<()> {
        let before = self.keep_alives;
        timeout(patience, async {
            while self.keep_alives == before {
                self.line().await?;
            }
            Ok(())
        })
        .await
        .context("no keep-alive in time")?
    }

    async fn read(&mut self) -> Result<Event> {
        let (mut id, mut name, mut data) = (String::new(), String::new(), String::new());
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                _ if line.is_empty() && !data.is_empty() => {
                    let data = serde_json::from_str(&data)?;
                    return Ok(Event { id, name, data });
                }
                Some(("id", value)) => value.trim().clone_into(&mut id),
                Some(("event", value)) => value.trim().clone_into(&mut name),
                Some(("data", value)) => data.push_str(value),
                _ => {}
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).await? == 0 {
            bail!("the stream has ended");
        }
        if line.starts_with(':') {
            self.keep_alives += 1;
        }
        Ok(line.trim_end().to_owned())
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
