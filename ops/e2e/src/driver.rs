//! A driver that speaks the contract over raw NATS, written against the messages and not with the
//! command line's code, so that a mistake there does not hide here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use async_nats::HeaderMap;
use ev_client::Pauses;
use ev_contract::{
    connector::Phase,
    ids::SessionId,
    v1::{
        DriverUpdate, ErrorReply, HistoryReply, HistoryRequest, LimitsRequest, ListReply,
        ListRequest, OpReply, ReceiptReply, ReceiptRequest, SessionView, StartRequest, Status,
        StatusReply, StatusRequest, StopRequest, TariffRef,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use ev_testkit::{Keys, PATIENCE, Role, wait_for};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// How long one attempt waits.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Soon, so that a test does not wait for it.
const PAUSES: Pauses = Pauses {
    first_max: Duration::from_millis(50),
    min: Duration::from_millis(50),
    max: Duration::from_millis(100),
};

/// A driver; or whoever else asks, in bytes.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Its connection.
    pub nats: async_nats::Client,
    /// Its id.
    pub id: String,
    url: String,
    keys: Keys,
}

/// What a start may say.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Its id.
    pub request_id: String,
    /// Until when.
    pub expires_at: i64,
    /// On which connector.
    pub connector: Option<i64>,
    /// When to end.
    pub limits: Option<LimitsRequest>,
    /// At which price.
    pub tariff: Option<TariffRef>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            request_id: Uuid::new_v4().to_string(),
            expires_at: now_ms() + 20_000,
            connector: None,
            limits: None,
            tariff: None,
        }
    }
}

impl Driver {
    /// Connects with a credential of its own.
    ///
    /// # Errors
    /// When it cannot be enrolled.
    pub async fn connect(keys: &Keys, url: &str, role: Role, id: &str) -> Result<Self> {
        let access = keys.access(url, role, id)?;
        let (options, _) = access.options(PAUSES, |_| std::future::ready(()))?;
        let nats = options
            .retry_on_initial_connect()
            .connect(access.servers()?)
            .await
            .with_context(|| format!("connect {role} {id}"))?;
        Ok(Self {
            nats,
            id: id.into(),
            url: url.into(),
            keys: keys.clone(),
        })
    }

    /// A start as a message.
    #[must_use]
    pub fn start_request(cp: &str, options: &StartOptions) -> StartRequest {
        StartRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: options.request_id.clone(),
            expires_at: options.expires_at,
            cp_id: cp.into(),
            connector: options.connector,
            limits: options.limits.clone(),
            tariff: options.tariff.clone(),
        }
    }

    /// One attempt to ask anything, in bytes.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn raw(
        &self,
        subject: String,
        payload: Vec<u8>,
        encoding: Encoding,
    ) -> Result<Vec<u8>> {
        let mut headers = HeaderMap::new();
        if encoding == Encoding::Json {
            headers.insert(wire::CONTENT_TYPE, wire::CONTENT_TYPE_JSON);
        }
        let asked = self
            .nats
            .request_with_headers(subject, headers, payload.into());
        let reply = tokio::time::timeout(ATTEMPT, asked)
            .await
            .context("no answer in time")??;
        Ok(reply.payload.to_vec())
    }

    /// Asks until an answer comes: the same bytes again and again.
    ///
    /// # Errors
    /// When none comes within the patience of a test.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        message: &impl Serialize,
    ) -> Result<Result<T, ErrorReply>> {
        let bytes = wire::encode(message, Encoding::MsgPack)?;
        wait_for(&format!("{subject} is answered"), PATIENCE, async || {
            let reply = self
                .raw(subject.to_owned(), bytes.clone(), Encoding::MsgPack)
                .await?;
            if let Ok(error) = wire::decode::<ErrorReply>(&reply, Encoding::MsgPack) {
                ensure!(error.status == Status::Denied, "{}", error.error);
                return Ok(Err(error));
            }
            Ok(Ok(wire::decode(&reply, Encoding::MsgPack)?))
        })
        .await
    }

    fn subject(&self, verb: &str) -> String {
        format!("ev.v1.driver.{}.{verb}", self.id)
    }

    /// Starts; the answer, whatever it is.
    ///
    /// # Errors
    /// When no answer of a start comes.
    pub async fn start_with(&self, cp: &str, options: &StartOptions) -> Result<DriverUpdate> {
        let request = Self::start_request(cp, options);
        match self.ask(&self.subject("start"), &request).await? {
            Ok(update) => Ok(update),
            Err(error) => bail!("{}", error.error),
        }
    }

    /// Starts and expects to be accepted.
    ///
    /// # Errors
    /// When it is not.
    pub async fn start(&self, cp: &str) -> Result<String> {
        let update = self.start_with(cp, &StartOptions::default()).await?;
        accepted(&update)
    }

    /// Stops; the answer, whatever it is.
    ///
    /// # Errors
    /// When no answer of a stop comes.
    pub async fn stop_with(&self, session: &str, request_id: &str) -> Result<DriverUpdate> {
        let request = StopRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: request_id.into(),
            expires_at: now_ms() + 20_000,
            session_id: session.into(),
        };
        match self.ask(&self.subject("stop"), &request).await? {
            Ok(update) => Ok(update),
            Err(error) => bail!("{}", error.error),
        }
    }

    /// Stops and expects to be accepted.
    ///
    /// # Errors
    /// When it is not.
    pub async fn stop(&self, session: &str) -> Result<()> {
        let update = self.stop_with(session, &Uuid::new_v4().to_string()).await?;
        ensure!(update.status == Status::Accepted, "{update:?}");
        Ok(())
    }

    /// One session, or the code of the refusal.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn session(&self, session: &str) -> Result<SessionView> {
        let request = StatusRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: Some(session.into()),
        };
        let reply: Result<StatusReply, ErrorReply> =
            self.ask(&self.subject("status"), &request).await?;
        match reply {
            Ok(reply) => reply
                .sessions
                .into_iter()
                .next()
                .context("a status of one session has one"),
            Err(error) => bail!("{}", error.error),
        }
    }

    /// The open sessions.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn open(&self) -> Result<Vec<SessionView>> {
        let request = StatusRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: None,
        };
        let reply: Result<StatusReply, ErrorReply> =
            self.ask(&self.subject("status"), &request).await?;
        reply
            .map(|r| r.sessions)
            .map_err(|e| anyhow::anyhow!("{}", e.error))
    }

    /// The charge points, all pages of them.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn list(&self) -> Result<ListReply> {
        let mut charge_points = Vec::new();
        let mut after = None;
        loop {
            let request = ListRequest {
                tag: Tag::new(),
                to: CENTRAL.into(),
                after: after.take(),
                rows: None,
            };
            let reply: Result<ListReply, ErrorReply> =
                self.ask(&self.subject("list"), &request).await?;
            let mut reply = reply.map_err(|e| anyhow::anyhow!("{}", e.error))?;
            charge_points.append(&mut reply.charge_points);
            after = reply.next.clone();
            if after.is_none() {
                return Ok(ListReply {
                    charge_points,
                    ..reply
                });
            }
        }
    }

    /// All sessions.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn history(&self) -> Result<Vec<SessionView>> {
        let mut sessions = Vec::new();
        let mut before = None;
        loop {
            let request = HistoryRequest {
                tag: Tag::new(),
                to: CENTRAL.into(),
                before: before.clone(),
                rows: None,
            };
            let reply: Result<HistoryReply, ErrorReply> =
                self.ask(&self.subject("history"), &request).await?;
            let reply = reply.map_err(|e| anyhow::anyhow!("{}", e.error))?;
            sessions.extend(reply.sessions);
            match reply.next {
                Some(next) => before = Some(next),
                None => return Ok(sessions),
            }
        }
    }

    /// A receipt.
    ///
    /// # Errors
    /// When there is none.
    pub async fn receipt(&self, session: &str) -> Result<ReceiptReply> {
        let request = ReceiptRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: session.into(),
        };
        let reply: Result<ReceiptReply, ErrorReply> =
            self.ask(&self.subject("receipt"), &request).await?;
        reply.map_err(|e| anyhow::anyhow!("{}", e.error))
    }

    /// Waits until a session is in a phase.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn wait_phase(&self, session: &str, phase: Phase) -> Result<SessionView> {
        wait_for(
            &format!("session {session} is {phase}"),
            PATIENCE,
            async || {
                let view = self.session(session).await?;
                ensure!(view.state == phase, "it is {}", view.state);
                Ok(view)
            },
        )
        .await
    }

    /// Waits until a session has ended.
    ///
    /// # Errors
    /// When it does not.
    pub async fn wait_ended(&self, session: &str) -> Result<SessionView> {
        wait_for(
            &format!("session {session} has ended"),
            PATIENCE,
            async || {
                let view = self.session(session).await?;
                ensure!(view.state.is_ended(), "it is {}", view.state);
                Ok(view)
            },
        )
        .await
    }

    /// Waits until a session has metered at least so much.
    ///
    /// # Errors
    /// When it does not.
    pub async fn wait_energy(&self, session: &str, mwh: u64) -> Result<SessionView> {
        wait_for(
            &format!("session {session} has {mwh} mWh"),
            PATIENCE,
            async || {
                let view = self.session(session).await?;
                ensure!(view.energy_mwh.0 >= mwh, "it has {}", view.energy_mwh.0);
                Ok(view)
            },
        )
        .await
    }

    /// A request of an operator, who has a connection of their own.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn operate(&self, verb: &str, body: serde_json::Value) -> Result<OpReply> {
        let mut body = body;
        body["request_id"] = Uuid::new_v4().to_string().into();
        body["expires_at"] = (now_ms() + 20_000).into();
        let olga = Self::connect(&self.keys, &self.url, Role::Operator, "olga").await?;
        match olga.ask(&format!("ev.v1.op.olga.{verb}"), &body).await? {
            Ok(reply) => Ok(reply),
            Err(error) => bail!("{}", error.error),
        }
    }
}

/// The session of an accepted start.
///
/// # Errors
/// When it was not accepted.
pub fn accepted(update: &DriverUpdate) -> Result<String> {
    ensure!(update.status == Status::Accepted, "{update:?}");
    let id: SessionId = update
        .session_id
        .context("an accepted start names its session")?;
    Ok(id.to_string())
}
