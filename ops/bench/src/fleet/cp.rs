//! One charge point: what it has open, and what it says.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ev_contract::{
    connector::ConnectorState,
    ids::{CommandId, ConnectorId, CpId, Epoch, SessionId},
    limits::EVT_RECORDS_MAX,
    time::UnixMs,
    units::MilliAmp,
    v1::{
        CommandReply, ConnectorBeat, ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason,
        EndSource, Heartbeat, Outcome, StartCommand, StopCommand, SyncRequest, TimeQuality,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use serde::Serialize;
use uuid::Uuid;

/// What their ids begin with.
const PREFIX: &str = "B-";
const VERSION: &str = "bench";

/// The id of the nth charge point, from 0.
#[must_use]
pub fn id_of(index: usize) -> String {
    format!("{PREFIX}{index:06}")
}

/// Which one that is.
#[must_use]
pub fn index_of(id: &str) -> Option<usize> {
    id.strip_prefix(PREFIX)?.parse().ok()
}

/// A session that it has.
#[derive(Debug)]
struct Open {
    session: SessionId,
    connector: ConnectorId,
}

/// One charge point.
#[derive(Debug)]
pub struct ChargePoint {
    id: CpId,
    epoch: Epoch,
    /// Whether central knows it.
    pub synced: bool,
    /// Whether a question of its own is under way.
    pub asks: bool,
    open: Vec<Open>,
    spool: VecDeque<EdgeRecord>,
    next: u64,
}

/// An `evt`, as [`ev_contract::v1::EvtRequest`] has it on the wire; that one holds records as
/// values, which would have to be made first.
#[derive(Serialize)]
struct Evt<'e> {
    #[serde(rename = "type")]
    kind: &'static str,
    to: &'static str,
    epoch: &'e Epoch,
    first: u64,
    from: u64,
    records: Vec<&'e EdgeRecord>,
}

impl ChargePoint {
    /// One that nobody knows.
    ///
    /// # Errors
    /// Never, since its id is good.
    pub fn new(index: usize) -> Result<Self> {
        Ok(Self {
            id: CpId::new(id_of(index))?,
            epoch: Epoch::new(Uuid::new_v4().to_string())?,
            synced: false,
            asks: false,
            open: Vec::new(),
            spool: VecDeque::new(),
            next: 1,
        })
    }

    /// A subject of its own.
    #[must_use]
    pub fn subject(&self, verb: &str) -> String {
        format!("ev.v1.cp.{}.{verb}", self.id)
    }

    /// Whether it has anything to ask central.
    #[must_use]
    pub fn wants_to_ask(&self) -> bool {
        !self.asks && (!self.synced || !self.spool.is_empty())
    }

    /// Whether it has no session, and central knows.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.open.is_empty() && self.spool.is_empty()
    }

    /// Takes a session; whether it is new.
    pub fn start(&mut self, start: &StartCommand) -> bool {
        if self.open.iter().any(|o| o.session == start.session_id) {
            return false;
        }
        self.open.push(Open {
            session: start.session_id,
            connector: start.connector,
        });
        true
    }

    /// Carries out a stop.
    pub fn stop(&mut self, stop: &StopCommand) -> CommandReply {
        let outcome = match self.open.iter().position(|o| o.session == stop.session_id) {
            Some(position) => {
                let open = self.open.swap_remove(position);
                self.end(&open);
                Outcome::Stopping
            }
            None => Outcome::Ended,
        };
        self.reply(Some(stop.command_id.clone()), outcome)
    }

    /// Ends whatever it has; whether there was anything.
    pub fn end_all(&mut self) -> bool {
        let all = std::mem::take(&mut self.open);
        for open in &all {
            self.end(open);
        }
        !all.is_empty()
    }

    fn end(&mut self, open: &Open) {
        let session_id = open.session;
        self.tell(EdgeFact::Accepted {
            session_id,
            connector: open.connector,
        });
        self.tell(EdgeFact::Ended {
            session_id,
            completed: false,
            reason: EndReason::new(EndCode::Driver, EndSource::Driver),
            reading: None,
        });
    }

    fn tell(&mut self, fact: EdgeFact) {
        self.spool.push_back(EdgeRecord {
            seq: self.next,
            at: now(),
            quality: TimeQuality::Synced,
            fact,
        });
        self.next += 1;
    }

    /// The answer to a start that it takes.
    #[must_use]
    pub fn taken(&self, command: CommandId) -> CommandReply {
        self.reply(Some(command), Outcome::Taken)
    }

    /// The answer to anything else.
    #[must_use]
    pub fn done(&self) -> CommandReply {
        self.reply(None, Outcome::Done)
    }

    fn reply(&self, command_id: Option<CommandId>, outcome: Outcome) -> CommandReply {
        CommandReply {
            tag: Tag::new(),
            to: CENTRAL.into(),
            cp_id: self.id.clone(),
            epoch: self.epoch.clone(),
            command_id,
            outcome,
            code: None,
            raw: None,
            ts: now(),
        }
    }

    /// Presents itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn sync(&self, connectors: u16) -> Result<Vec<u8>> {
        let message = SyncRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            cp_id: self.id.clone(),
            epoch: self.epoch.clone(),
            site_id: "BENCH".parse()?,
            time_zone: "Europe/Berlin".into(),
            connectors: (1..=connectors)
                .map(|n| ConnectorSpec {
                    connector: ConnectorId(n),
                    max_ma: MilliAmp(16_000),
                    phases: 3,
                    volts: 230,
                    plug: Some("type2".into()),
                })
                .collect(),
            version: VERSION.into(),
            sim_speed: 1,
            first: self.spool.front().map_or(self.next, |r| r.seq),
            next: self.next,
            sessions: self.open.iter().map(|o| o.session).collect(),
        };
        Ok(wire::encode(&message, Encoding::MsgPack)?)
    }

    /// A run of what waits.
    ///
    /// # Errors
    /// When nothing waits.
    pub fn run(&self) -> Result<Vec<u8>> {
        let first = self.spool.front().context("nothing waits")?.seq;
        let message = Evt {
            kind: "evt",
            to: CENTRAL,
            epoch: &self.epoch,
            first,
            from: first,
            records: self.spool.iter().take(EVT_RECORDS_MAX).collect(),
        };
        Ok(wire::encode(&message, Encoding::MsgPack)?)
    }

    /// Central has everything below `next`; how many records that freed.
    pub fn freed(&mut self, next: u64) -> u64 {
        let mut freed = 0;
        while self.spool.front().is_some_and(|r| r.seq < next) {
            self.spool.pop_front();
            freed += 1;
        }
        freed
    }

    /// A heartbeat.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn heartbeat(&self, connectors: u16) -> Result<Vec<u8>> {
        let beat = |n| {
            let connector = ConnectorId(n);
            let open = self.open.iter().find(|o| o.connector == connector);
            ConnectorBeat {
                connector,
                state: if open.is_some() {
                    ConnectorState::Preparing
                } else {
                    ConnectorState::Available
                },
                session_id: open.map(|o| o.session),
                register_mwh: None,
                power_mw: None,
            }
        };
        let message = Heartbeat {
            tag: Tag::new(),
            to: CENTRAL.into(),
            cp_id: self.id.clone(),
            epoch: self.epoch.clone(),
            ts: now(),
            clock_offset_ms: Some(0),
            uptime_s: 1,
            version: VERSION.into(),
            spool_depth: self.spool.len() as u64,
            health: Vec::new(),
            access_expires_at: None,
            connectors: (1..=connectors).map(beat).collect(),
        };
        Ok(wire::encode(&message, Encoding::MsgPack)?)
    }
}

fn now() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
