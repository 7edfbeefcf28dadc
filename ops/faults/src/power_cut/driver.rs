//! A driver outside of the machine. It starts and stops sessions without a rest, and keeps every
//! answer as a promise that must hold for ever.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::Client;
use ev_contract::{
    codes::Code,
    connector::Phase,
    ids::SessionId,
    v1::{
        DriverUpdate, ErrorReply, ReceiptReply, ReceiptRequest, SessionView, StartRequest, Status,
        StatusReply, StatusRequest, StopRequest,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use ev_e2e::now_ms;
use rand::Rng;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// One attempt. An emulated central takes its time.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a wish may wait to be decided; 30 s is the most that central takes.
const WISH_MS: i64 = 20_000;

/// How long a driver charges, and rests, in milliseconds.
const LEISURE_MS: std::ops::Range<u64> = 100..1500;

/// What central has told a driver.
#[derive(Debug, Clone)]
pub enum Promise {
    /// This request began this session.
    Started {
        /// The request's bytes.
        bytes: Vec<u8>,
        /// The session.
        session: SessionId,
    },
    /// This request stops this session.
    Stopped {
        /// The request's bytes.
        bytes: Vec<u8>,
        /// The session.
        session: SessionId,
    },
    /// This request is refused.
    Refused {
        /// The verb.
        verb: &'static str,
        /// The request's bytes.
        bytes: Vec<u8>,
        /// The code.
        reason: Option<String>,
    },
    /// This session has ended so.
    Ended {
        /// The session.
        session: SessionId,
        /// As what.
        state: Phase,
        /// With how much energy.
        energy_mwh: u64,
        /// With which receipt.
        receipt: Option<String>,
    },
}

/// A driver with a charge point of its own.
#[derive(Debug)]
pub struct Driver {
    id: String,
    cp: String,
    stage: Stage,
    last: bool,
    promises: Vec<Promise>,
}

#[derive(Debug)]
enum Stage {
    Resting,
    Asking {
        verb: &'static str,
        bytes: Vec<u8>,
        of: Option<SessionId>,
    },
    Charging(SessionId),
    Stopping(SessionId),
}

#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on its way to be read"
)]
enum Said {
    Update(DriverUpdate),
    Error(ErrorReply),
}

impl Driver {
    /// One that has done nothing yet.
    #[must_use]
    pub fn new(id: String, cp: String) -> Self {
        Self {
            id,
            cp,
            stage: Stage::Resting,
            last: false,
            promises: Vec::new(),
        }
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it was told, in order.
    #[must_use]
    pub fn promises(&self) -> &[Promise] {
        &self.promises
    }

    /// Whether a request of it is without an answer.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    /// Whether nothing is left to do after [`Self::make_this_the_last`].
    #[must_use]
    pub fn has_done_its_last(&self) -> bool {
        self.last && matches!(self.stage, Stage::Resting)
    }

    /// After the session under way, none begins.
    pub fn make_this_the_last(&mut self) {
        self.last = true;
    }

    /// Works until it is dropped, or until its last session has ended. Between two awaits it is
    /// always in order.
    ///
    /// # Errors
    /// When central answers what it must not.
    pub async fn work(&mut self, nats: &Client) -> Result<()> {
        loop {
            match &self.stage {
                Stage::Resting if self.last => return Ok(()),
                Stage::Resting => {
                    leisure().await;
                    self.stage = Stage::Asking {
                        verb: "start",
                        bytes: self.start_request()?,
                        of: None,
                    };
                }
                Stage::Charging(session) => {
                    let of = *session;
                    leisure().await;
                    self.stage = Stage::Asking {
                        verb: "stop",
                        bytes: stop_request(of)?,
                        of: Some(of),
                    };
                }
                Stage::Asking { verb, bytes, of } => {
                    let (verb, bytes, of) = (*verb, bytes.clone(), *of);
                    match self.ask(nats, verb, &bytes).await {
                        Ok(said) => self.take(verb, bytes, of, said)?,
                        Err(_) => sleep(PAUSE).await,
                    }
                }
                Stage::Stopping(session) => {
                    let session = *session;
                    match self.status(nats, session).await {
                        Ok(Ok(view)) if view.state.is_ended() => {
                            self.promises.push(ended(&view));
                            self.stage = Stage::Resting;
                        }
                        Ok(Err(error)) => bail!("{} asks for {session}: {}", self.id, error.error),
                        Ok(Ok(_)) | Err(_) => sleep(PAUSE).await,
                    }
                }
            }
        }
    }

    /// Whether a promise holds; in words what is wrong.
    ///
    /// # Errors
    /// When central does not answer.
    pub async fn broken(&self, nats: &Client, promise: &Promise) -> Result<Option<String>> {
        let who = &self.id;
        Ok(match promise {
            Promise::Started { bytes, session } | Promise::Stopped { bytes, session } => {
                let is_start = matches!(promise, Promise::Started { .. });
                let verb = if is_start { "start" } else { "stop" };
                match self.ask_on(nats, verb, bytes).await? {
                    Said::Update(u)
                        if u.status == Status::Accepted && u.session_id == Some(*session) => {}
                    Said::Update(u) => {
                        return Ok(Some(format!(
                            "{who}: the {verb} of {session} was accepted and is {} {:?} {:?}",
                            u.status, u.reason, u.session_id
                        )));
                    }
                    Said::Error(error) => {
                        return Ok(Some(format!(
                            "{who}: the {verb} of {session} was accepted and is {}",
                            error.error
                        )));
                    }
                }
                match self.status_on(nats, *session).await? {
                    Ok(view) if is_start || view.stopping || view.state.is_ended() => None,
                    Ok(view) => Some(format!(
                        "{who}: {session} was stopped and is {}",
                        view.state
                    )),
                    Err(error) => Some(format!("{who}: {session}: {}", error.error)),
                }
            }
            Promise::Refused {
                verb,
                bytes,
                reason,
            } => {
                let now = match self.ask_on(nats, verb, bytes).await? {
                    Said::Update(u) if u.status == Status::Denied => u.reason,
                    Said::Update(u) => Some(format!("{}", u.status)),
                    Said::Error(error) => Some(error.reason),
                };
                (now != *reason)
                    .then(|| format!("{who}: a {verb} was refused as {reason:?} and is {now:?}"))
            }
            Promise::Ended {
                session,
                state,
                energy_mwh,
                receipt,
            } => match self.status_on(nats, *session).await? {
                Ok(view)
                    if view.state == *state
                        && view.energy_mwh.0 == *energy_mwh
                        && view.receipt == *receipt =>
                {
                    None
                }
                Ok(view) => Some(format!(
                    "{who}: {session} had ended as {state} with {energy_mwh} mWh ({receipt:?}) and \
                     is {} with {} mWh ({:?})",
                    view.state, view.energy_mwh.0, view.receipt
                )),
                Err(error) => Some(format!("{who}: {session} had ended: {}", error.error)),
            },
        })
    }

    /// Energy on the receipt of a session, with later corrections.
    ///
    /// # Errors
    /// When there is no receipt.
    pub async fn billed(&self, nats: &Client, session: SessionId) -> Result<i64> {
        let request = ReceiptRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: session.to_string(),
        };
        let reply = repeat(async || {
            let bytes = wire::encode(&request, Encoding::MsgPack)?;
            answer::<ReceiptReply>(&self.send(nats, "receipt", bytes).await?)
        })
        .await?;
        let reply = reply.map_err(|error| anyhow::anyhow!("{session}: {}", error.error))?;
        let receipt = i64::try_from(reply.receipt.energy_mwh.0)?;
        let corrections: i64 = reply.adjustments.iter().map(|a| a.energy_mwh).sum();
        Ok(receipt + corrections)
    }

    fn take(
        &mut self,
        verb: &'static str,
        bytes: Vec<u8>,
        of: Option<SessionId>,
        said: Said,
    ) -> Result<()> {
        let reason = match said {
            Said::Update(update) if update.status == Status::Accepted => {
                let session = update.session_id.context("accepted without a session")?;
                if verb == "start" {
                    self.promises.push(Promise::Started { bytes, session });
                    self.stage = Stage::Charging(session);
                } else {
                    self.promises.push(Promise::Stopped { bytes, session });
                    self.stage = Stage::Stopping(session);
                }
                return Ok(());
            }
            Said::Update(update) => update.reason,
            Said::Error(error) => Some(error.reason),
        };
        self.stage = match of {
            None => Stage::Resting,
            // The wish lapsed before it was decided: the session still runs.
            Some(session) if reason.as_deref() == Some(Code::Expired.as_str()) => {
                Stage::Charging(session)
            }
            Some(session) => Stage::Stopping(session),
        };
        self.promises.push(Promise::Refused {
            verb,
            bytes,
            reason,
        });
        Ok(())
    }

    fn start_request(&self) -> Result<Vec<u8>> {
        Ok(wire::encode(
            &StartRequest {
                tag: Tag::new(),
                to: CENTRAL.into(),
                request_id: Uuid::new_v4().to_string(),
                expires_at: now_ms() + WISH_MS,
                cp_id: self.cp.clone(),
                connector: None,
                limits: None,
                tariff: None,
            },
            Encoding::MsgPack,
        )?)
    }

    async fn ask_on(&self, nats: &Client, verb: &str, bytes: &[u8]) -> Result<Said> {
        repeat(async || self.ask(nats, verb, bytes).await).await
    }

    async fn status_on(
        &self,
        nats: &Client,
        session: SessionId,
    ) -> Result<Result<SessionView, ErrorReply>> {
        repeat(async || self.status(nats, session).await).await
    }

    async fn ask(&self, nats: &Client, verb: &str, bytes: &[u8]) -> Result<Said> {
        let reply = self.send(nats, verb, bytes.to_vec()).await?;
        match answer::<DriverUpdate>(&reply)? {
            Ok(update) if update.status == Status::Unknown => bail!("nothing was said"),
            Ok(update) => Ok(Said::Update(update)),
            Err(error) => Ok(Said::Error(error)),
        }
    }

    async fn status(
        &self,
        nats: &Client,
        session: SessionId,
    ) -> Result<Result<SessionView, ErrorReply>> {
        let request = StatusRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: Some(session.to_string()),
        };
        let bytes = wire::encode(&request, Encoding::MsgPack)?;
        let reply = answer::<StatusReply>(&self.send(nats, "status", bytes).await?)?;
        match reply {
            Ok(mut reply) => {
                let view = reply.sessions.pop().context("a status without a session")?;
                Ok(Ok(view))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn send(&self, nats: &Client, verb: &str, bytes: impl Into<Vec<u8>>) -> Result<Vec<u8>> {
        let subject = format!("ev.v1.driver.{}.{verb}", self.id);
        let reply = timeout(ATTEMPT, nats.request(subject, bytes.into().into()))
            .await
            .context("no answer in time")??;
        Ok(reply.payload.to_vec())
    }
}

/// An answer, or a refusal that stands. What says nothing about the wish is no answer.
fn answer<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<Result<T, ErrorReply>> {
    match wire::decode::<ErrorReply>(bytes, Encoding::MsgPack) {
        Ok(error) if error.status == Status::Denied => Ok(Err(error)),
        Ok(error) => bail!("{}", error.error),
        Err(_) => Ok(Ok(wire::decode(bytes, Encoding::MsgPack)?)),
    }
}

fn ended(view: &SessionView) -> Promise {
    Promise::Ended {
        session: view.session_id,
        state: view.state,
        energy_mwh: view.energy_mwh.0,
        receipt: view.receipt.clone(),
    }
}

fn stop_request(session: SessionId) -> Result<Vec<u8>> {
    Ok(wire::encode(
        &StopRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: Uuid::new_v4().to_string(),
            expires_at: now_ms() + WISH_MS,
            session_id: session.to_string(),
        },
        Encoding::MsgPack,
    )?)
}

async fn leisure() {
    sleep(Duration::from_millis(rand::rng().random_range(LEISURE_MS))).await;
}

/// Asks again until there is an answer, a bounded number of times.
async fn repeat<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    ev_testkit::wait_for("central answers", Duration::from_secs(120), async || {
        let done = attempt().await;
        if done.is_err() {
            sleep(PAUSE).await;
        }
        done
    })
    .await
}
