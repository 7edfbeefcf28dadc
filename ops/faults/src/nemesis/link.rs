//! A wire between two processes that can be bad in every way that a TCP peer can notice.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use ev_testkit::free_port;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

const COPY_BYTES: usize = 16 * 1024;
/// Pieces that are under way in one direction. Beyond, the sender's socket fills up, as it does
/// behind a slow line.
const UNDER_WAY_MAX: usize = 256;
/// A piece of a throttled line. Small, so that a slow line drips and does not gush.
const THROTTLED_BYTES: usize = 512;

/// A free port that this process has not been given before: many are chosen before the first of
/// them is bound.
pub fn distinct_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = free_port();
        if GIVEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port)
        {
            return port;
        }
    }
}

/// What happens to bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// They wait; what has waited arrives when the line is good again.
    Hold,
    Delay {
        ms: u64,
    },
    Throttle {
        bytes_per_s: u64,
    },
}

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// From the client to the server.
    pub up: Flow,
    /// From the server to the client.
    pub down: Flow,
    /// New connections are taken, old ones live.
    pub open: bool,
}

impl Weather {
    pub const FAIR: Self = Self {
        up: Flow::Pass,
        down: Flow::Pass,
        open: true,
    };
    pub const CUT: Self = Self {
        up: Flow::Pass,
        down: Flow::Pass,
        open: false,
    };
}

#[derive(Debug, Clone, Copy)]
struct State {
    weather: Weather,
    /// Counts resets: a connection of an older count dies.
    era: u64,
}

/// A relay in front of one server, for one client.
#[derive(Debug)]
pub struct Link {
    pub name: String,
    listen: SocketAddr,
    state: watch::Sender<State>,
    relay: JoinHandle<()>,
}

impl Link {
    pub async fn start(name: String, target_port: u16) -> Result<Self> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, distinct_port()));
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("bind {listen} for {name}"))?;
        let (state, watched) = watch::channel(State {
            weather: Weather::FAIR,
            era: 0,
        });
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target_port));
        let relay = tokio::spawn(relay(listener, target, watched));
        Ok(Self {
            name,
            listen,
            state,
            relay,
        })
    }

    pub fn port(&self) -> u16 {
        self.listen.port()
    }

    pub fn set(&self, weather: Weather) {
        self.state.send_modify(|state| state.weather = weather);
    }

    /// Ends every connection with a reset; what was under way is lost.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.era += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Takes its connections with it.
        self.relay.abort();
    }
}

async fn relay(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if !state.borrow().weather.open {
                    // A closed port answers with a reset.
                    let _ = client.set_zero_linger();
                    continue;
                }
                connections.spawn(serve(client, target, state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends when either side does, or the line is cut or reset.
async fn serve(client: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    let era = state.borrow().era;
    let mut watched = state.clone();
    if pass(true, &mut state.clone()).await.is_none() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    // Both ends die at once when the line does, and not with a polite end.
    let set = client
        .set_nodelay(true)
        .and(server.set_nodelay(true))
        .and(client.set_zero_linger())
        .and(server.set_zero_linger());
    if set.is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = copy(from_client, to_server, true, state.clone()) => {}
        _ = copy(from_server, to_client, false, state) => {}
        _ = watched.wait_for(|s| !s.weather.open || s.era != era) => {}
    }
}

async fn copy(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    up: bool,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(UNDER_WAY_MAX);
    let (read, written) = tokio::join!(
        take_in(from, sender, up, state.clone()),
        give_out(to, receiver, up, state)
    );
    read.and(written)
}

async fn take_in(
    mut from: OwnedReadHalf,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    up: bool,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let flow = flow(&state.borrow(), up);
        let most = match flow {
            Flow::Throttle { .. } => THROTTLED_BYTES,
            Flow::Pass | Flow::Hold | Flow::Delay { .. } => COPY_BYTES,
        };
        let count = from.read(&mut buffer[..most]).await?;
        if count == 0 {
            return Ok(());
        }
        let delay = match flow {
            Flow::Delay { ms } => Duration::from_millis(ms),
            Flow::Pass | Flow::Hold | Flow::Throttle { .. } => Duration::ZERO,
        };
        let piece = (Instant::now() + delay, buffer[..count].to_vec());
        if sender.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

async fn give_out(
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    up: bool,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    while let Some((due, piece)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        let Some(flow) = pass(up, &mut state).await else {
            return Ok(());
        };
        if let Flow::Throttle { bytes_per_s } = flow {
            let ms = piece.len() as u64 * 1_000 / bytes_per_s.max(1);
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        to.write_all(&piece).await?;
    }
    // An end is held like everything else.
    pass(up, &mut state).await;
    Ok(())
}

fn flow(state: &State, up: bool) -> Flow {
    if up {
        state.weather.up
    } else {
        state.weather.down
    }
}

/// Waits until bytes may go this way; none when they never will.
async fn pass(up: bool, state: &mut watch::Receiver<State>) -> Option<Flow> {
    let state = state.wait_for(|s| flow(s, up) != Flow::Hold).await.ok()?;
    Some(flow(&state, up))
}
