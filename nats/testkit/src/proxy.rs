use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports::free_port;

const COPY_BYTES: usize = 16 * 1024;

/// A TCP relay in front of a server, that breaks on demand.
#[derive(Debug)]
pub struct TcpProxy {
    listen: SocketAddr,
    target: String,
    mode: watch::Sender<Mode>,
    relay: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

/// What has passed, both ways.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were made.
    pub connections: u64,
    /// Bytes of theirs: what is in TCP, and no headers.
    pub bytes: u64,
    /// Pieces that they came in. A packet each, where they are small and far between.
    pub pieces: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
    pieces: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Nothing is forwarded either way.
    Stall,
    /// What the client sends arrives, what the server sends does not.
    HoldReplies,
    /// No connections.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl TcpProxy {
    /// Listens on a free loopback port and forwards to `target`: `host:port`,
    /// or a `nats://` URL.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(target: impl AsRef<str>) -> Result<Self> {
        let target = target.as_ref();
        let target = target.strip_prefix("nats://").unwrap_or(target).to_owned();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (mode, _) = watch::channel(Mode::Cut);
        let mut proxy = Self {
            listen,
            target,
            mode,
            relay: None,
            counts: Arc::default(),
        };
        proxy.heal().await?;
        Ok(proxy)
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.listen)
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// What has passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            connections: self.counts.connections.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            pieces: self.counts.pieces.load(Ordering::Relaxed),
        }
    }

    /// Drops all connections and refuses new ones. All are closed when this
    /// returns.
    pub async fn cut(&mut self) {
        self.mode.send_replace(Mode::Cut);
        if let Some(relay) = self.relay.take() {
            // It ends by itself in this mode, and has nothing to report.
            let _ = relay.await;
        }
    }

    /// Keeps connections open, accepts new ones, and forwards nothing: the peer
    /// looks frozen. What was held arrives after [`TcpProxy::heal`].
    ///
    /// # Errors
    /// When it was cut and the port cannot be bound again.
    pub async fn stall(&mut self) -> Result<()> {
        self.switch_to(Mode::Stall).await
    }

    /// Forwards what the client sends and holds back what the server sends: a
    /// request is carried out, and its reply is late or, after
    /// [`TcpProxy::cut`], lost.
    ///
    /// # Errors
    /// When it was cut and the port cannot be bound again.
    pub async fn hold_replies(&mut self) -> Result<()> {
        self.switch_to(Mode::HoldReplies).await
    }

    /// Forwards again, whatever was done before.
    ///
    /// # Errors
    /// When it was cut and the port cannot be bound again.
    pub async fn heal(&mut self) -> Result<()> {
        self.switch_to(Mode::Forward).await
    }

    async fn switch_to(&mut self, mode: Mode) -> Result<()> {
        self.mode.send_replace(mode);
        if self.relay.is_none() {
            let listener = TcpListener::bind(self.listen)
                .await
                .with_context(|| format!("bind {} for the proxy", self.listen))?;
            self.relay = Some(tokio::spawn(relay(
                listener,
                self.target.clone(),
                self.mode.subscribe(),
                Arc::clone(&self.counts),
            )));
        }
        Ok(())
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.take() {
            // Takes the connections with it.
            relay.abort();
        }
    }
}

async fn relay(
    listener: TcpListener,
    target: String,
    mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    let mut connections = JoinSet::new();
    let mut watched = mode.clone();
    loop {
        tokio::select! {
            _ = watched.wait_for(|mode| *mode == Mode::Cut) => break,
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    counts.connections.fetch_add(1, Ordering::Relaxed);
                    let counts = Arc::clone(&counts);
                    connections.spawn(serve(client, target.clone(), mode.clone(), counts));
                }
            }
            // Reaped here so that a long test does not collect finished ones.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Ends when either side does; the other is closed with it.
async fn serve(
    client: TcpStream,
    target: String,
    mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    // A stalled network does not let a handshake through either.
    if !may_pass(Direction::ToServer, &mut mode.clone()).await {
        return;
    }
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    // Small messages must not wait for each other: latency is not the fault
    // that this proxy is asked for.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = copy(from_client, to_server, Direction::ToServer, mode.clone(), &counts) => {}
        _ = copy(from_server, to_client, Direction::ToClient, mode.clone(), &counts) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut mode: watch::Receiver<Mode>,
    counts: &Counts,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        // Asked after reading: what was on its way when the fault began is held.
        // An end of the stream is held as well.
        if !may_pass(direction, &mut mode).await || count == 0 {
            return Ok(());
        }
        counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
        counts.pieces.fetch_add(1, Ordering::Relaxed);
        to.write_all(&buffer[..count]).await?;
    }
}

/// Waits until bytes may go this way; false when they never will.
async fn may_pass(direction: Direction, mode: &mut watch::Receiver<Mode>) -> bool {
    mode.wait_for(|mode| match (mode, direction) {
        (Mode::Forward, _) | (Mode::HoldReplies, Direction::ToServer) => true,
        (Mode::Stall | Mode::Cut, _) | (Mode::HoldReplies, Direction::ToClient) => false,
    })
    .await
    .is_ok()
}
