//! The connection of one charge point to NATS, or of a few that share one. Nothing here ever makes
//! the actor wait: what cannot be sent at once is dropped or answered as unanswered, and repeated by
//! those who care.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Request, RequestErrorKind, connection::State};
use edge_core::{EvtOutcome, watched::LOOK_WAIT_MS};
use ev_client::{Access, LinkEvent, Pauses};
use ev_contract::{
    codes::Code,
    ids::{CpId, SessionId},
    limits::longest_beat_ms,
    subjects::Subject,
    v1::{EvtReply, EvtRequest, SyncReply, SyncRequest},
    wire::{CONTENT_TYPE, CONTENT_TYPE_JSON, Encoding, decode, encode},
};
use futures::StreamExt;
use rand::Rng;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

/// When to try again. 10,000 charge points that lost a server in the same moment and return within
/// 4 s are a few a millisecond; a server on two cores takes fewer and lets the others wait, so that
/// their patience has to be longer than their queue. Drivers do not notice 4 s.
const PAUSES: Pauses = Pauses {
    first_max: Duration::from_secs(4),
    min: Duration::from_millis(400),
    max: Duration::from_secs(7),
};
/// How long a new connection may take. Each handshake that is given up was work for nothing and is
/// begun anew: thousands that return at once would keep a server busy with those for ever. A server
/// that is frozen is left after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(12);
/// How long an answer of central's may take. The core gives up after the same time.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(edge_core::limits::EVT_TIMEOUT_MS);
/// A publish waits only when the client's queue is full.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(100);
/// Commands that wait for the actor. Central repeats what is lost.
const COMMANDS_MAX: usize = 256;
/// Room for what arrives. Commands and answers have some hundred bytes; a larger one makes more.
const READ_BYTES: u16 = 4_096;

/// What the uplink tells the actor.
#[derive(Debug)]
pub enum UplinkEvent {
    /// Connected, for the first time or again.
    Up,
    /// Not connected.
    Down,
    /// A command, as it came.
    Command(RawCommand),
    /// Central answered a `sync`, or did not.
    Sync {
        /// When the question was sent, by the actor's monotonic clock.
        sent_mono_ms: u64,
        /// The answer.
        reply: Option<SyncReply>,
    },
    /// What became of an `evt`.
    Evt(EvtOutcome),
    /// Whether somebody listens to a session's live values.
    Watched(SessionId, bool),
}

/// A command as it came.
#[derive(Debug)]
pub struct RawCommand {
    /// The last token of the subject.
    pub verb: String,
    /// Its payload.
    pub payload: bytes::Bytes,
    /// How it is written.
    pub encoding: Encoding,
    /// Where the answer goes.
    pub reply: Option<async_nats::Subject>,
}

/// A connection that keeps itself up, and those who use it: one charge point, where each has its own
/// credential.
#[derive(Debug, Clone)]
pub struct Line {
    client: Client,
    users: Arc<Mutex<Users>>,
}

#[derive(Debug, Default)]
struct Users {
    is_up: bool,
    told: Vec<mpsc::Sender<UplinkEvent>>,
}

/// Who makes a connection, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection's name: the charge point's, where it is its own.
    pub name: String,
    /// The address to call from; whichever the system chooses, if none.
    pub source: Option<IpAddr>,
    /// Between two pings: what a line costs that carries nothing, and how soon it is noticed that
    /// there is none.
    pub ping_every: Duration,
}

impl Line {
    /// Begins to connect, and goes on for ever. Returns at once, whether there is a server or not.
    /// `connected` is notified of each connection.
    ///
    /// # Errors
    /// When the address, the credential or a certificate cannot be used.
    pub async fn connect(
        access: &Access,
        caller: Caller,
        connected: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let users = Arc::new(Mutex::new(Users::default()));
        let of_events = Arc::clone(&users);
        let name: Arc<str> = caller.name.as_str().into();
        let (options, _) = access.options(PAUSES, move |event| {
            let (users, name) = (Arc::clone(&of_events), Arc::clone(&name));
            if event == LinkEvent::Up {
                connected.notify_one();
            }
            async move {
                on_event(&name, event, &users).await;
            }
        })?;
        let mut options = options
            .name(caller.name)
            .ping_interval(caller.ping_every)
            .retry_on_initial_connect()
            .subscription_capacity(COMMANDS_MAX)
            .read_buffer_capacity(READ_BYTES)
            .connection_timeout(CONNECT_TIMEOUT);
        if let Some(source) = caller.source {
            options = options.local_address(SocketAddr::new(source, 0));
        }
        let client = options.connect(access.servers()?).await?;
        Ok(Self { client, users })
    }

    /// The line as one charge point uses it; what happens is told to `events`. `is_own`: nobody else
    /// does, and the line ends with it.
    pub async fn uplink(
        &self,
        cp: &CpId,
        is_own: bool,
        events: mpsc::Sender<UplinkEvent>,
    ) -> Uplink {
        let is_up = {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.told.push(events.clone());
            users.is_up
        };
        if is_up {
            // An actor that has gone needs no word.
            let _ = events.send(UplinkEvent::Up).await;
        }
        Uplink {
            client: self.client.clone(),
            cp: cp.clone(),
            is_own,
            events,
        }
    }

    /// Sends what is under way and closes, within a deadline.
    pub async fn close(&self, within: Duration) {
        close(&self.client, within).await;
    }
}

/// What one charge point sends and hears over its line.
#[derive(Debug, Clone)]
pub struct Uplink {
    client: Client,
    cp: CpId,
    is_own: bool,
    events: mpsc::Sender<UplinkEvent>,
}

impl Uplink {
    /// Reads commands for the actor until the connection is closed.
    ///
    /// # Errors
    /// When the client has been closed.
    pub async fn listen(&self) -> Result<(), async_nats::SubscribeError> {
        let mut commands = self
            .client
            .subscribe(Subject::commands_of(&self.cp))
            .await?;
        while let Some(message) = commands.next().await {
            let Some(Subject::Command { verb, .. }) = Subject::parse(&message.subject) else {
                continue;
            };
            let header = message
                .headers
                .as_ref()
                .and_then(|h| h.get(CONTENT_TYPE))
                .map(async_nats::HeaderValue::as_str);
            let raw = RawCommand {
                verb,
                encoding: Encoding::from_header(header),
                payload: message.payload,
                reply: message.reply,
            };
            if self.events.send(UplinkEvent::Command(raw)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a server is there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Asks central; the answer comes as an event.
    pub fn sync(&self, request: &SyncRequest, sent_mono_ms: u64) {
        let subject = Subject::Sync {
            cp: self.cp.clone(),
        };
        let payload = encode(request, Encoding::MsgPack);
        let (client, events, cp) = (self.client.clone(), self.events.clone(), self.cp.clone());
        tokio::spawn(async move {
            let reply = match payload {
                Ok(payload) => ask(&client, subject, payload).await,
                Err(e) => {
                    tracing::error!(cp = %cp, error = %e, "a sync cannot be written");
                    None
                }
            };
            let reply = reply
                .and_then(|bytes| decoded::<SyncReply>(&cp, &bytes))
                .filter(|r| r.to == cp.as_str());
            let event = UplinkEvent::Sync {
                sent_mono_ms,
                reply,
            };
            let _ = events.send(event).await;
        });
    }

    /// Sends a run of records; what becomes of it comes as an event.
    pub fn evt(&self, request: &EvtRequest) {
        let subject = Subject::Event {
            cp: self.cp.clone(),
        };
        let payload = encode(request, Encoding::MsgPack);
        let (client, events, cp) = (self.client.clone(), self.events.clone(), self.cp.clone());
        tokio::spawn(async move {
            let reply = match payload {
                Ok(payload) => ask(&client, subject, payload).await,
                Err(e) => {
                    tracing::error!(cp = %cp, error = %e, "a run of records cannot be written");
                    None
                }
            };
            let reply = reply
                .and_then(|bytes| decoded::<EvtReply>(&cp, &bytes))
                .filter(|r| r.to == cp.as_str());
            let outcome = match reply {
                None => EvtOutcome::Unanswered,
                Some(reply) => {
                    if let Some(problem) = &reply.error {
                        tracing::debug!(cp = %cp, code = %problem.code, "central did not take the records");
                    }
                    let problem = reply.error.as_ref();
                    match problem.and_then(|problem| problem.retry_after_ms) {
                        Some(retry_after_ms) => EvtOutcome::Busy { retry_after_ms },
                        None if problem.is_some_and(|p| p.code == Code::IdentityInUse) => {
                            EvtOutcome::NotObeyed { aside: reply.aside }
                        }
                        None => EvtOutcome::Answered {
                            epoch: reply.epoch,
                            next: reply.next,
                            refused: reply.error.is_some(),
                        },
                    }
                }
            };
            let _ = events.send(UplinkEvent::Evt(outcome)).await;
        });
    }

    /// Publishes if a server is there; else nothing happens.
    pub async fn publish<T: serde::Serialize>(&self, subject: Subject, message: &T) {
        self.send(subject.to_string().into(), message, Encoding::MsgPack)
            .await;
    }

    /// Publishes a session's live value and asks whether somebody listens; the answer comes as an
    /// event.
    pub fn look<T: serde::Serialize>(&self, session: SessionId, subject: &Subject, value: &T) {
        let payload = match encode(value, Encoding::MsgPack) {
            Ok(payload) => payload,
            Err(e) => {
                tracing::error!(cp = %self.cp, error = %e, "a live value cannot be written");
                return;
            }
        };
        let request = Request::new()
            .payload(payload.into())
            .timeout(Some(Duration::from_millis(LOOK_WAIT_MS)));
        let (client, events, subject) = (
            self.client.clone(),
            self.events.clone(),
            subject.to_string(),
        );
        tokio::spawn(async move {
            // Who listens does not answer.
            let is_watched = match client.send_request(subject, request).await {
                Ok(_) => true,
                Err(e) => e.kind() == RequestErrorKind::TimedOut,
            };
            let _ = events.send(UplinkEvent::Watched(session, is_watched)).await;
        });
    }

    /// Answers, in the encoding of the question.
    pub async fn answer<T: serde::Serialize>(
        &self,
        to: async_nats::Subject,
        message: &T,
        encoding: Encoding,
    ) {
        self.send(to, message, encoding).await;
    }

    async fn send<T: serde::Serialize>(
        &self,
        subject: async_nats::Subject,
        message: &T,
        encoding: Encoding,
    ) {
        if !self.is_up() {
            return;
        }
        let payload = match encode(message, encoding) {
            Ok(payload) => payload,
            Err(e) => {
                tracing::error!(cp = %self.cp, error = %e, "a message cannot be written");
                return;
            }
        };
        let sent = match encoding {
            Encoding::MsgPack => {
                timeout(
                    PUBLISH_TIMEOUT,
                    self.client.publish(subject, payload.into()),
                )
                .await
            }
            Encoding::Json => {
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
                let publish = self
                    .client
                    .publish_with_headers(subject, headers, payload.into());
                timeout(PUBLISH_TIMEOUT, publish).await
            }
        };
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(cp = %self.cp, "a message was not sent");
        }
    }

    /// Sends what is under way.
    pub async fn flush(&self) {
        let _ = timeout(PUBLISH_TIMEOUT, self.client.flush()).await;
    }

    /// Sends what is under way, and closes the line if it is the charge point's own, within a
    /// deadline.
    pub async fn close(&self, within: Duration) {
        if self.is_own {
            close(&self.client, within).await;
        } else if self.is_up() {
            let _ = timeout(within, self.client.flush()).await;
        }
    }
}

async fn close(client: &Client, within: Duration) {
    if client.connection_state() == State::Connected {
        let _ = timeout(within, client.flush()).await;
    }
    let _ = timeout(within, client.drain()).await;
}

async fn ask(client: &Client, subject: Subject, payload: Vec<u8>) -> Option<bytes::Bytes> {
    if client.connection_state() != State::Connected {
        return None;
    }
    let request = Request::new()
        .payload(payload.into())
        .timeout(Some(ANSWER_TIMEOUT));
    // The outer limit holds where the client itself waits: when its queue is full.
    let asked = client.send_request(subject.to_string(), request);
    match timeout(ANSWER_TIMEOUT + PUBLISH_TIMEOUT, asked).await {
        Ok(Ok(message)) => Some(message.payload),
        Ok(Err(e)) => {
            tracing::debug!(subject = %subject, error = %e, "central did not answer");
            None
        }
        Err(_) => None,
    }
}

fn decoded<T: serde::de::DeserializeOwned>(cp: &CpId, bytes: &[u8]) -> Option<T> {
    decode(bytes, Encoding::MsgPack)
        .inspect_err(
            |e| tracing::error!(cp = %cp, error = %e, "an answer of central's cannot be read"),
        )
        .ok()
}

async fn on_event(name: &str, event: LinkEvent, users: &Mutex<Users>) {
    match event {
        LinkEvent::Up => {
            tracing::info!(cp = name, "uplink is up");
            tell(users, true).await;
        }
        LinkEvent::Down => {
            tracing::info!(cp = name, "uplink is down");
            tell(users, false).await;
        }
        // Either looks like a silent central otherwise.
        LinkEvent::Denied(_) | LinkEvent::Refused(_) | LinkEvent::Failed(_) => {
            tracing::warn!(cp = name, "{event}");
        }
        LinkEvent::Slow => {
            tracing::warn!(
                cp = name,
                "commands arrive faster than they are carried out; some are lost and will be repeated"
            );
        }
        LinkEvent::Other(words) => tracing::debug!(cp = name, words, "uplink"),
    }
}

async fn tell(users: &Mutex<Users>, is_up: bool) {
    let told = {
        let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
        users.is_up = is_up;
        users.told.clone()
    };
    for events in told {
        let event = if is_up {
            UplinkEvent::Up
        } else {
            UplinkEvent::Down
        };
        // An actor that has gone needs no word.
        let _ = events.send(event).await;
    }
}

/// The time to the next heartbeat: jittered by a fifth either way.
#[must_use]
pub fn heartbeat_pause(every_s: u32) -> Duration {
    let ms = u64::from(every_s) * 1_000;
    Duration::from_millis(rand::rng().random_range(ms * 4 / 5..=longest_beat_ms(ms)))
}
