//! A scripted charge point outside of the machine, which never loses anything itself. It obeys
//! commands, writes records, and notes up to which number central has let it free them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use async_nats::{Client, Message};
use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Service},
    ids::{BootId, CommandId, ConnectorId, CpId, Epoch, SessionId},
    limits::{HEARTBEAT_MS, HEARTBEAT_S},
    subjects::Subject,
    time::UnixMs,
    units::{MilliAmp, Mwh},
    v1::{
        Boot, CommandReply, ConnectorBeat, ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason,
        EndSource, EvtReply, EvtRequest, Heartbeat, Outcome, PingCommand, Reading, StartCommand,
        StopCommand, SyncReply, SyncRequest, TimeQuality,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use ev_e2e::now_ms;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, interval, sleep, timeout};
use uuid::Uuid;

/// One attempt. An emulated central takes its time.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Between a failed run of records and the next.
const PAUSE: Duration = Duration::from_millis(300);

/// Between two checkpoints of a session: many small records make many positions to lose.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// Records in one run; small, so that a cut finds many of them under way.
const RUN_RECORDS_MAX: usize = 20;

/// Power at which sessions charge: 7.2 kW in milliwatt-hours a millisecond.
const MWH_PER_MS: u64 = 2;

const CONNECTOR: ConnectorId = ConnectorId(1);

/// A charge point with one connector.
#[derive(Debug)]
pub struct Cabinet {
    id: CpId,
    epoch: Epoch,
    spool: VecDeque<EdgeRecord>,
    next: u64,
    freed_below: u64,
    register: u64,
    open: Option<Open>,
    results: HashMap<CommandId, (Outcome, Option<Code>)>,
    ended: HashSet<SessionId>,
    metered: HashMap<SessionId, u64>,
}

#[derive(Debug)]
struct Open {
    session: SessionId,
    since: Instant,
    register_start: u64,
    register_at_start_of_meter: u64,
}

impl Cabinet {
    /// A new one with an empty spool.
    ///
    /// # Errors
    /// When the id is none.
    pub fn new(id: &str) -> Result<Self> {
        Ok(Self {
            id: CpId::new(id)?,
            epoch: Epoch::new(Uuid::new_v4().to_string())?,
            spool: VecDeque::new(),
            next: 1,
            freed_below: 1,
            register: 0,
            open: None,
            results: HashMap::new(),
            ended: HashSet::new(),
            metered: HashMap::new(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &CpId {
        &self.id
    }

    /// Records that it was told to free, so far.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.freed_below - 1
    }

    /// What its meter counted for a session.
    #[must_use]
    pub fn metered(&self, session: SessionId) -> u64 {
        self.metered.get(&session).copied().unwrap_or(0)
    }

    /// Whether central has everything.
    #[must_use]
    pub fn has_nothing_to_send(&self) -> bool {
        self.spool.is_empty() && self.open.is_none()
    }

    /// Presents itself and hears which number central wants next.
    ///
    /// # Errors
    /// When central does not answer, or not to this.
    pub async fn sync(&self, nats: &Client) -> Result<u64> {
        let request = SyncRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            cp_id: self.id.clone(),
            boot: Boot {
                id: BootId::from_number(1),
                count: 1,
                after: None,
            },
            epoch: self.epoch.clone(),
            connectors: vec![ConnectorSpec {
                connector: CONNECTOR,
                max_ma: MilliAmp(32_000),
                phases: 3,
                volts: 230,
                plug: None,
            }],
            version: env!("CARGO_PKG_VERSION").into(),
            first: self.freed_below,
            next: self.next,
            sessions: self.open.iter().map(|open| open.session).collect(),
        };
        let subject = Subject::Sync {
            cp: self.id.clone(),
        }
        .to_string();
        let reply: SyncReply = ask(nats, subject, &request).await?;
        if let Some(problem) = reply.error {
            return Err(anyhow::anyhow!("{problem}"));
        }
        ensure!(reply.epoch == self.epoch.as_str(), "of another epoch");
        Ok(reply.next)
    }

    /// Whether central still has what it let this one free, and how many numbers it wants again.
    ///
    /// # Errors
    /// When central does not answer.
    pub async fn wanted_again(&self, nats: &Client) -> Result<u64> {
        Ok(self.freed_below.saturating_sub(self.sync(nats).await?))
    }

    /// Works until it is dropped. Between two awaits it is always in order, so that it can be
    /// dropped at any of them and called again with another connection.
    ///
    /// # Errors
    /// When the connection is gone for good.
    pub async fn work(&mut self, nats: &Client) -> Result<()> {
        let mut commands = nats
            .subscribe(Subject::commands_of(&self.id))
            .await
            .context("subscribe to commands")?;
        while self.sync(nats).await.is_err() {
            sleep(PAUSE).await;
        }
        let mut beat = interval(Duration::from_millis(HEARTBEAT_MS));
        let mut checkpoint = interval(CHECKPOINT_EVERY);
        let mut sending: OptionFuture<BoxFuture<'static, Result<EvtReply>>> = None.into();
        let mut is_sending = false;
        loop {
            if !is_sending && !self.spool.is_empty() {
                sending = Some(self.send(nats).boxed()).into();
                is_sending = true;
            }
            tokio::select! {
                message = commands.next() => {
                    let message = message.context("no more commands")?;
                    if let (Some(to), Some(reply)) = (&message.reply, self.obey(&message)?) {
                        let bytes = wire::encode(&reply, Encoding::MsgPack)?;
                        nats.publish(to.clone(), bytes.into()).await?;
                    }
                }
                reply = &mut sending, if is_sending => {
                    is_sending = false;
                    if let Some(Ok(reply)) = reply {
                        self.free(&reply);
                    }
                }
                _ = checkpoint.tick() => self.checkpoint(),
                _ = beat.tick() => {
                    let bytes = wire::encode(&self.heartbeat(), Encoding::MsgPack)?;
                    nats.publish(Subject::Heartbeat { cp: self.id.clone() }.to_string(), bytes.into()).await?;
                }
            }
        }
    }

    fn send(&self, nats: &Client) -> impl Future<Output = Result<EvtReply>> + Send + 'static {
        let records: Result<Vec<_>, _> = self
            .spool
            .iter()
            .take(RUN_RECORDS_MAX)
            .map(EdgeRecord::to_value)
            .collect();
        let request = records.map(|records| EvtRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            boot: BootId::from_number(1),
            epoch: self.epoch.clone(),
            first: self.freed_below,
            from: self.freed_below,
            records,
        });
        let subject = Subject::Event {
            cp: self.id.clone(),
        }
        .to_string();
        let nats = nats.clone();
        async move {
            let reply = ask(&nats, subject, &request?).await;
            if reply.is_err() {
                sleep(PAUSE).await;
            }
            reply
        }
    }

    fn free(&mut self, reply: &EvtReply) {
        if reply.error.is_some() || reply.epoch != self.epoch.as_str() {
            return;
        }
        while self.spool.front().is_some_and(|r| r.seq < reply.next) {
            self.spool.pop_front();
        }
        self.freed_below = self.freed_below.max(reply.next);
    }

    fn obey(&mut self, message: &Message) -> Result<Option<CommandReply>> {
        let verb = message.subject.rsplit('.').next().unwrap_or_default();
        let payload = &message.payload;
        let (command, (outcome, code)) = match verb {
            "start" => {
                let start: StartCommand = wire::decode(payload, Encoding::MsgPack)?;
                (Some(start.command_id.clone()), self.start(&start))
            }
            "stop" => {
                let stop: StopCommand = wire::decode(payload, Encoding::MsgPack)?;
                (Some(stop.command_id.clone()), self.stop(&stop))
            }
            "ping" => {
                let _: PingCommand = wire::decode(payload, Encoding::MsgPack)?;
                (None, (Outcome::Done, None))
            }
            // Nobody here gives other orders.
            _ => return Ok(None),
        };
        Ok(Some(CommandReply {
            tag: Tag::new(),
            to: CENTRAL.into(),
            cp_id: self.id.clone(),
            boot: BootId::from_number(1),
            epoch: self.epoch.clone(),
            command_id: command,
            outcome,
            code,
            raw: None,
            ts: UnixMs(now_ms()),
        }))
    }

    fn start(&mut self, start: &StartCommand) -> (Outcome, Option<Code>) {
        if let Some(first) = self.results.get(&start.command_id) {
            return *first;
        }
        let stopped = CommandId::stop(start.session_id);
        let result = if self.results.contains_key(&stopped) {
            (Outcome::Refused, Some(Code::StoppedBeforeStart))
        } else if start.epoch != self.epoch {
            (Outcome::Refused, Some(Code::WrongEpoch))
        } else if start.expires_at.0 < now_ms() {
            (Outcome::Refused, Some(Code::Late))
        } else if self.open.is_some() {
            (Outcome::Refused, Some(Code::Occupied))
        } else {
            self.open(start.session_id);
            (Outcome::Taken, None)
        };
        self.results.insert(start.command_id.clone(), result);
        result
    }

    fn stop(&mut self, stop: &StopCommand) -> (Outcome, Option<Code>) {
        if let Some(first) = self.results.get(&stop.command_id) {
            return *first;
        }
        let result = if self
            .open
            .as_ref()
            .is_some_and(|o| o.session == stop.session_id)
        {
            self.close();
            (Outcome::Stopping, None)
        } else if self.ended.contains(&stop.session_id) {
            (Outcome::Ended, None)
        } else {
            (Outcome::Absent, None)
        };
        self.results.insert(stop.command_id.clone(), result);
        result
    }

    fn open(&mut self, session: SessionId) {
        self.open = Some(Open {
            session,
            since: Instant::now(),
            register_start: self.register,
            register_at_start_of_meter: self.register,
        });
        self.write(EdgeFact::Accepted {
            session_id: session,
            connector: CONNECTOR,
        });
        self.write(self.connector(true));
        self.write(EdgeFact::Started {
            session_id: session,
            device_tx: format!("tx-{}", self.next),
            reading: self.reading(),
        });
    }

    fn checkpoint(&mut self) {
        if let Some(session) = self.meter() {
            self.write(EdgeFact::Checkpoint {
                session_id: session,
                reading: self.reading(),
            });
        }
    }

    fn close(&mut self) {
        let Some(session) = self.meter() else { return };
        let start = self.open.take().map_or(self.register, |o| o.register_start);
        self.metered.insert(session, self.register - start);
        self.ended.insert(session);
        let reason = EndReason::new(EndCode::Driver, EndSource::Driver);
        self.write(EdgeFact::EnergyEnded {
            session_id: session,
            reading: Some(self.reading()),
            reason: reason.clone(),
        });
        self.write(EdgeFact::Ended {
            session_id: session,
            completed: true,
            reason,
            reading: Some(self.reading()),
            stood_s: None,
        });
        self.write(self.connector(false));
    }

    /// Lets the register rise to where it is. Returns the open session.
    fn meter(&mut self) -> Option<SessionId> {
        let open = self.open.as_ref()?;
        let ms = u64::try_from(open.since.elapsed().as_millis()).unwrap_or(0);
        self.register = open.register_at_start_of_meter + ms * MWH_PER_MS;
        Some(open.session)
    }

    fn write(&mut self, fact: EdgeFact) {
        self.spool.push_back(EdgeRecord {
            seq: self.next,
            at: UnixMs(now_ms()),
            quality: TimeQuality::Synced,
            fact,
        });
        self.next += 1;
    }

    fn reading(&self) -> Reading {
        Reading {
            at: UnixMs(now_ms()),
            quality: TimeQuality::Synced,
            register_mwh: Mwh(self.register),
            meter_id: "M-1".into(),
            meter_epoch: 1,
            power_mw: None,
            current_ma: Vec::new(),
            soc_pct: None,
            signed: None,
        }
    }

    fn connector(&self, plugged: bool) -> EdgeFact {
        EdgeFact::Connector {
            connector: CONNECTOR,
            plugged,
            service: Service::In,
            service_revision: 0,
            fault: None,
            charger_online: true,
            ended_since_plug: false,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            tag: Tag::new(),
            to: CENTRAL.into(),
            cp_id: self.id.clone(),
            boot: BootId::from_number(1),
            epoch: self.epoch.clone(),
            ts: UnixMs(now_ms()),
            clock_offset_ms: None,
            every_s: HEARTBEAT_S,
            uptime_s: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            spool_depth: self.spool.len() as u64,
            health: Vec::new(),
            access_expires_at: None,
            connectors: vec![ConnectorBeat {
                connector: CONNECTOR,
                state: match self.open {
                    Some(_) => ConnectorState::Charging,
                    None => ConnectorState::Available,
                },
                session_id: self.open.as_ref().map(|open| open.session),
                register_mwh: Some(Mwh(self.register)),
                power_mw: None,
            }],
        }
    }
}

async fn ask<T: DeserializeOwned>(
    nats: &Client,
    subject: String,
    message: &impl Serialize,
) -> Result<T> {
    let bytes = wire::encode(message, Encoding::MsgPack)?;
    let reply = timeout(ATTEMPT, nats.request(subject, bytes.into()))
        .await
        .context("no answer in time")??;
    Ok(wire::decode(&reply.payload, Encoding::MsgPack)?)
}
