//! One charge point: what it has open, and what it says.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use ev_contract::{
    connector::{ConnectorState, Phase, Service},
    ids::{BootId, CommandId, ConnectorId, CpId, Epoch, SessionId},
    limits::{EVT_RECORDS_MAX, HEARTBEAT_S},
    time::UnixMs,
    units::{MilliAmp, MilliWatt, Mwh},
    v1::{
        Boot, CommandReply, ConnectorBeat, ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason,
        EndSource, Heartbeat, Outcome, Reading, StartCommand, StopCommand, SyncRequest,
        TimeQuality,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use serde::Serialize;
use uuid::Uuid;

use super::News;

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
    /// Whether it is played: then its steps are news.
    plays: bool,
    step: Step,
    /// The number of its last record: the next step follows when central has it.
    told: u64,
}

/// How far a session is. What follows a step happens minutes later in a cabinet, so that each is a
/// run of records of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Taken, and nothing more is told until it is ended.
    Held,
    /// It is told that it was taken.
    Taken,
    /// It charges, and so many checkpoints were told.
    Charging(u32),
    /// It has charged enough and waits for its driver.
    Charged,
    /// It is told that it has ended.
    Ended,
}

/// Checkpoints of a session that is played: a short one's.
const CHECKPOINTS: u32 = 3;
/// Between two checkpoints: a minute at 11 kW.
const MWH_A_CHECKPOINT: u64 = 183_333;

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
    register_mwh: u64,
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
    boot: BootId,
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
            register_mwh: 0,
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

    /// Takes a session, to play it or to hold it; whether it is new.
    pub fn start(&mut self, start: &StartCommand, plays: bool) -> bool {
        let session_id = start.session_id;
        if self.open.iter().any(|o| o.session == session_id) {
            return false;
        }
        let connector = start.connector;
        if plays {
            self.tell(EdgeFact::Accepted {
                session_id,
                connector,
            });
        }
        self.open.push(Open {
            session: session_id,
            connector,
            plays,
            step: if plays { Step::Taken } else { Step::Held },
            told: self.next - 1,
        });
        true
    }

    /// Carries out a stop.
    pub fn stop(&mut self, stop: &StopCommand) -> CommandReply {
        let running = self
            .open
            .iter()
            .position(|o| o.session == stop.session_id && o.step != Step::Ended);
        let outcome = match running {
            Some(position) => {
                self.end(position, &stop.reason);
                Outcome::Stopping
            }
            None => Outcome::Ended,
        };
        self.reply(Some(stop.command_id.clone()), outcome)
    }

    /// Ends whatever it has; whether there was anything.
    pub fn end_all(&mut self) -> bool {
        let mut any = false;
        for position in 0..self.open.len() {
            if self.open[position].step != Step::Ended {
                any = true;
                self.end(
                    position,
                    &EndReason::new(EndCode::Driver, EndSource::Driver),
                );
            }
        }
        any
    }

    fn end(&mut self, position: usize, reason: &EndReason) {
        let (session_id, connector, step) = {
            let open = &self.open[position];
            (open.session, open.connector, open.step)
        };
        let reason = reason.clone();
        if step == Step::Held {
            self.tell(EdgeFact::Accepted {
                session_id,
                connector,
            });
            self.tell(EdgeFact::Ended {
                session_id,
                completed: false,
                reason,
                reading: None,
                stood_s: None,
            });
        } else {
            let reading = Some(self.reading());
            self.tell(EdgeFact::EnergyEnded {
                session_id,
                reading: reading.clone(),
                reason: reason.clone(),
            });
            self.tell(EdgeFact::Ended {
                session_id,
                completed: true,
                reason,
                reading,
                stood_s: None,
            });
            self.tell_plugged(connector, false);
        }
        let told = self.next - 1;
        let open = &mut self.open[position];
        open.step = Step::Ended;
        open.told = told;
    }

    /// What follows once central has the last step of its sessions.
    fn go_on(&mut self, next: u64) -> Vec<News> {
        let mut news = Vec::new();
        for position in 0..self.open.len() {
            let (session_id, connector) =
                (self.open[position].session, self.open[position].connector);
            if self.open[position].told >= next {
                continue;
            }
            let step = match self.open[position].step {
                Step::Taken => {
                    let reading = self.reading();
                    self.tell_plugged(connector, true);
                    self.tell(EdgeFact::Started {
                        session_id,
                        device_tx: format!("tx-{session_id}"),
                        reading: reading.clone(),
                    });
                    self.tell(EdgeFact::Phase {
                        session_id,
                        phase: Phase::Charging,
                        reading: Some(reading),
                    });
                    Step::Charging(0)
                }
                Step::Charging(CHECKPOINTS) => {
                    news.push(News::Charged(session_id));
                    Step::Charged
                }
                Step::Charging(n) => {
                    self.register_mwh += MWH_A_CHECKPOINT;
                    let reading = self.reading();
                    self.tell(EdgeFact::Checkpoint {
                        session_id,
                        reading,
                    });
                    Step::Charging(n + 1)
                }
                Step::Ended => {
                    news.extend(self.open[position].plays.then_some(News::Ended(session_id)));
                    continue;
                }
                Step::Held | Step::Charged => continue,
            };
            let told = self.next - 1;
            let open = &mut self.open[position];
            open.step = step;
            open.told = told;
        }
        self.open
            .retain(|o| o.step != Step::Ended || o.told >= next);
        news
    }

    fn reading(&self) -> Reading {
        Reading {
            at: now(),
            quality: TimeQuality::Synced,
            register_mwh: Mwh(self.register_mwh),
            meter_id: format!("meter-{}", self.id),
            meter_epoch: 1,
            power_mw: Some(MilliWatt(11_040_000)),
            current_ma: vec![MilliAmp(16_000); 3],
            soc_pct: Some(50),
            signed: None,
        }
    }

    fn tell_plugged(&mut self, connector: ConnectorId, plugged: bool) {
        self.tell(EdgeFact::Connector {
            connector,
            plugged,
            service: Service::In,
            service_revision: 0,
            fault: None,
            charger_online: true,
            ended_since_plug: false,
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
            boot: BootId::from_number(1),
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
            boot: Boot {
                id: BootId::from_number(1),
                count: 1,
                after: None,
            },
            epoch: self.epoch.clone(),
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
            boot: BootId::from_number(1),
            first,
            from: first,
            records: self.spool.iter().take(EVT_RECORDS_MAX).collect(),
        };
        Ok(wire::encode(&message, Encoding::MsgPack)?)
    }

    /// Central has everything below `next`; how many records that freed, and what came of it.
    pub fn freed(&mut self, next: u64) -> (u64, Vec<News>) {
        let mut freed = 0;
        while self.spool.front().is_some_and(|r| r.seq < next) {
            self.spool.pop_front();
            freed += 1;
        }
        (freed, self.go_on(next))
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
                state: match open.map(|o| o.step) {
                    None | Some(Step::Ended) => ConnectorState::Available,
                    Some(Step::Held | Step::Taken) => ConnectorState::Preparing,
                    Some(Step::Charging(_) | Step::Charged) => ConnectorState::Charging,
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
            boot: BootId::from_number(1),
            epoch: self.epoch.clone(),
            ts: now(),
            clock_offset_ms: Some(0),
            every_s: HEARTBEAT_S,
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
