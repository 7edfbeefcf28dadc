//! A client that speaks NATS as bytes: what the server says is seen as it was said, and a round
//! trip proves that it has said all.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use ev_client::Credential;
use ev_enrol::certificate;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

pub const SESSION: &str = "0199c8f1-7a00-7abc-8def-0123456789ab";
/// For what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

type Stream = TlsStream<TcpStream>;

fn connector(keys: &Path) -> Result<TlsConnector> {
    let ca = keys
        .ancestors()
        .map(certificate::ca)
        .find(|ca| ca.exists())
        .context("no authority of servers")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: String,
    pub payload: String,
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Message(Heard),
    Error(String),
    Pong,
    Closed,
}

#[derive(Debug)]
pub struct Raw {
    from: BufReader<ReadHalf<Stream>>,
    to: WriteHalf<Stream>,
    subscriptions: u32,
    /// Messages that came before what was waited for.
    pub heard: Vec<Heard>,
    /// Errors that came meanwhile.
    pub errors: Vec<String>,
    pub inbox: String,
}

impl Raw {
    pub async fn connect(url: &str, credentials: &Path) -> Result<Self> {
        let mut raw = Self::open(url, credentials, Some(credentials)).await?;
        raw.round_trip().await?;
        ensure!(raw.errors.is_empty(), "refused: {:?}", raw.errors);
        Ok(raw)
    }

    /// Says who it is, and does not wait for what the server thinks of it. The server is known by
    /// the authority of the folder of keys in which `keys` lies.
    pub async fn open(url: &str, keys: &Path, credentials: Option<&Path>) -> Result<Self> {
        Self::open_with(url, keys, credentials, |_| {}).await
    }

    /// Like [`Raw::open`], at a hub's port for leaf nodes and as one: publishes with `LMSG`, listens
    /// with `LS+`.
    pub async fn open_leaf(port: u16, credentials: &Path) -> Result<Self> {
        let url = format!("nats://127.0.0.1:{port}");
        Self::open_with(&url, credentials, Some(credentials), |connect| {
            // Only clients have a language.
            connect["lang"].take();
            connect["name"] = "SITE-A".into();
            connect["server_id"] = "any".into();
        })
        .await
    }

    /// Like [`Raw::open`], saying something else in CONNECT.
    pub async fn open_with(
        url: &str,
        keys: &Path,
        credentials: Option<&Path>,
        forge: impl FnOnce(&mut serde_json::Value),
    ) -> Result<Self> {
        let address = url.trim_start_matches("nats://");
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let host = ServerName::try_from("127.0.0.1")?;
        let stream = connector(keys)?.connect(host, stream).await?;
        let (from, to) = tokio::io::split(stream);
        let mut raw = Self {
            from: BufReader::new(from),
            to,
            subscriptions: 0,
            heard: Vec::new(),
            errors: Vec::new(),
            inbox: String::new(),
        };
        let info = raw.line().await?.context("no INFO")?;
        let info: serde_json::Value =
            serde_json::from_str(info.trim_start_matches("INFO ")).context("INFO")?;
        let mut connect = serde_json::json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "raw", "version": "1", "protocol": 1,
        });
        if let Some(path) = credentials {
            let credential = Credential::read(path)?;
            let nonce = info["nonce"].as_str().context("no nonce")?;
            let answer = credential.answer(nonce.as_bytes())?;
            connect["jwt"] = answer.jwt.context("no jwt")?.into();
            let signature = answer.signature.context("no signature")?;
            connect["sig"] = data_encoding::BASE64URL_NOPAD.encode(&signature).into();
            raw.inbox = credential.inbox_prefix();
        }
        forge(&mut connect);
        raw.send(&format!("CONNECT {connect}\r\n")).await?;
        Ok(raw)
    }

    pub async fn send(&mut self, bytes: &str) -> Result<()> {
        self.to.write_all(bytes.as_bytes()).await.context("send")
    }

    /// Returns the subscription's number.
    pub async fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> Result<u32> {
        self.subscriptions += 1;
        let sid = self.subscriptions;
        let queue = queue.map_or_else(String::new, |queue| format!("{queue} "));
        self.send(&format!("SUB {subject} {queue}{sid}\r\n"))
            .await?;
        Ok(sid)
    }

    pub async fn publish(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        payload: &str,
    ) -> Result<()> {
        let reply = reply.map_or_else(String::new, |reply| format!("{reply} "));
        self.send(&format!(
            "PUB {subject} {reply}{}\r\n{payload}\r\n",
            payload.len()
        ))
        .await
    }

    pub async fn publish_with_headers(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        headers: &str,
        payload: &str,
    ) -> Result<()> {
        let reply = reply.map_or_else(String::new, |reply| format!("{reply} "));
        let headers = format!("NATS/1.0\r\n{headers}\r\n\r\n");
        self.send(&format!(
            "HPUB {subject} {reply}{} {}\r\n{headers}{payload}\r\n",
            headers.len(),
            headers.len() + payload.len()
        ))
        .await
    }

    /// Everything that was sent has been judged when this returns.
    pub async fn round_trip(&mut self) -> Result<()> {
        // What the server closed can no longer be written to, and has its reason to be read.
        let _ = self.send("PING\r\n").await;
        loop {
            match self.next().await? {
                Said::Pong => return Ok(()),
                Said::Message(message) => self.heard.push(message),
                Said::Error(error) => self.errors.push(error),
                Said::Closed => bail!("closed: {:?}", self.errors),
            }
        }
    }

    /// Errors about what was sent since the last call.
    pub async fn judged(&mut self) -> Result<Vec<String>> {
        self.round_trip().await?;
        Ok(std::mem::take(&mut self.errors))
    }

    /// The next message, within patience.
    pub async fn message(&mut self) -> Result<Heard> {
        if !self.heard.is_empty() {
            return Ok(self.heard.remove(0));
        }
        loop {
            match self.next().await? {
                Said::Message(message) => return Ok(message),
                Said::Error(error) => self.errors.push(error),
                Said::Pong => {}
                Said::Closed => bail!("closed: {:?}", self.errors),
            }
        }
    }

    /// Why the server closes the connection, within patience.
    pub async fn closed(&mut self) -> Result<String> {
        timeout(PATIENCE, self.wait_until_closed())
            .await
            .context("the connection stays open")?
    }

    async fn wait_until_closed(&mut self) -> Result<String> {
        loop {
            match self.next().await? {
                Said::Closed => return Ok(self.errors.pop().unwrap_or_default()),
                Said::Error(error) => self.errors.push(error),
                Said::Message(_) | Said::Pong => {}
            }
        }
    }

    async fn next(&mut self) -> Result<Said> {
        loop {
            let Some(line) = timeout(PATIENCE, self.line())
                .await
                .context("the server is silent")??
            else {
                return Ok(Said::Closed);
            };
            let mut words: Vec<&str> = line.split(' ').collect();
            match words.remove(0) {
                "PING" => self.send("PONG\r\n").await?,
                "PONG" => return Ok(Said::Pong),
                "-ERR" => return Ok(Said::Error(line[5..].trim_matches('\'').to_owned())),
                "MSG" => {
                    let total: usize = words.pop().context("size")?.parse()?;
                    return self.rest(&words, 0, total).await.map(Said::Message);
                }
                "HMSG" => {
                    let total: usize = words.pop().context("size")?.parse()?;
                    let headers: usize = words.pop().context("size")?.parse()?;
                    return self.rest(&words, headers, total).await.map(Said::Message);
                }
                "INFO" | "+OK" | "LS+" | "LS-" => {}
                other => bail!("what is {other}?"),
            }
        }
    }

    async fn rest(&mut self, words: &[&str], headers: usize, total: usize) -> Result<Heard> {
        let mut bytes = vec![0; total + 2];
        self.from.read_exact(&mut bytes).await.context("payload")?;
        let text = String::from_utf8_lossy(&bytes[..total]).into_owned();
        Ok(Heard {
            subject: words[0].to_owned(),
            reply: words.get(2).map(|reply| (*reply).to_owned()),
            headers: text[..headers].to_owned(),
            payload: text[headers..].to_owned(),
        })
    }

    async fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        match self.from.read_line(&mut line).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            // Closed with something of ours unread.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(e) => Err(e).context("read"),
        }
    }
}
