//! What lies between the parts: time, messages on their way, and the ledger.

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc, sync::Arc};

use central_core::{
    decide::{Ask, Run, Verb, Wish},
    frame::Frame,
    state::State,
};
use edge_core::{
    Answer as EdgeAnswer, Command as EdgeCommand, EvtOutcome, Standing,
    hardware::{HwAnswer, HwCommand, HwFact},
};
use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, SessionId},
    time::UnixMs,
    v1::SyncRequest,
};
use uuid::Uuid;

use crate::{
    dice::Dice,
    judge::{Judge, Said},
    script::Weather,
};

/// Wall time when a run begins.
const BEGIN: UnixMs = UnixMs(1_750_000_000_000);
/// How late what is late may be.
const LATE_MS_MAX: u64 = 60_000;
/// How late an append may land.
const APPEND_LATE_MS_MAX: u64 = 240_000;
/// How old the word of a deposed leader may be.
const STALE_MS_MAX: u64 = 20_000;

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An open session's start or stop.
    Session(SessionId),
    /// The stop of a session that was written off.
    Standing(SessionId),
    /// Whether a connector serves.
    Service(CpId, ConnectorId),
}

/// A question to central.
#[expect(clippy::large_enum_variant, reason = "few are on their way at a time")]
#[derive(Debug, Clone)]
pub enum Question {
    /// A request.
    Request(Ask, Wish),
    /// A driver asks for one of its sessions, or all that are open.
    Query {
        /// Who.
        driver: DriverId,
        /// Which.
        session: Option<SessionId>,
    },
    /// A charge point presents itself.
    Sync {
        /// Which.
        cabinet: usize,
        /// With what.
        sync: Box<SyncRequest>,
        /// When by its monotonic clock, and in which life.
        sent: (u64, u32),
    },
    /// Spool records.
    Run {
        /// Whose.
        cabinet: usize,
        /// The records.
        run: Box<Run>,
        /// In which life.
        life: u32,
    },
}

/// A message to a replica.
#[derive(Debug, Clone)]
pub enum ToReplica {
    /// To whichever replica the server picks.
    Ask(Question),
    /// A sign of life.
    Heartbeat {
        /// Of whom.
        cabinet: usize,
    },
    /// An answer to a command.
    Answer {
        /// From whom.
        cabinet: usize,
        /// About what.
        subject: Subject,
        /// To which attempt.
        attempt: u64,
        /// To which command.
        verb: Verb,
        /// The answer.
        answer: Box<EdgeAnswer>,
    },
    /// An answer to a ping.
    Pong {
        /// From whom.
        cabinet: usize,
        /// To which.
        probe: u64,
    },
}

/// A message to a cabinet.
#[derive(Debug, Clone)]
pub enum ToCabinet {
    /// A command.
    Command {
        /// What.
        command: Box<EdgeCommand>,
        /// From which life of which replica.
        from: (usize, u32),
        /// About what; none for a ping.
        subject: Option<Subject>,
        /// Which attempt.
        attempt: u64,
        /// Start or stop.
        verb: Verb,
    },
    /// The answer to a `sync`.
    Synced {
        /// In which life it was asked.
        life: u32,
        /// When.
        sent_mono_ms: u64,
        /// Central's time.
        ts: UnixMs,
        /// The wanted number.
        next: u64,
        /// Whether it is obeyed.
        standing: Standing,
        /// Of which epoch.
        epoch: String,
    },
    /// The answer to an `evt`.
    Evt {
        /// In which life it was asked.
        life: u32,
        /// What became of it.
        outcome: EvtOutcome,
    },
}

/// Something that happens at its time.
#[derive(Debug, Clone)]
pub enum Event {
    /// The next line of the script.
    Act(usize),
    /// Time passes for a replica.
    ReplicaTick { replica: usize, life: u32 },
    /// Time passes for a cabinet.
    CabinetTick { cabinet: usize, life: u32 },
    /// A message for a replica; for any when `life` is none.
    ToReplica {
        replica: usize,
        life: Option<u32>,
        message: Box<ToReplica>,
    },
    /// A message for a cabinet.
    ToCabinet {
        cabinet: usize,
        message: Box<ToCabinet>,
    },
    /// An answer for whoever asked.
    ToAsker { ask: Box<Ask>, said: Box<Said> },
    /// A frame lands.
    Land {
        frame: Arc<Frame>,
        bytes: Rc<[u8]>,
        ack: Option<(usize, u32)>,
    },
    /// A replica reads what has landed.
    Read { replica: usize, life: u32 },
    /// The ledger says where a frame stands.
    Acked {
        replica: usize,
        life: u32,
        frame: Uuid,
        pos: u64,
    },
    /// No acknowledgement in time.
    AppendAgain {
        replica: usize,
        life: u32,
        frame: Uuid,
    },
    /// A fact or answer from a charger to its agent.
    Hardware {
        cabinet: usize,
        life: u32,
        from: Box<FromCharger>,
    },
    /// A command from an agent to its charger.
    ToCharger {
        cabinet: usize,
        command: Box<HwCommand>,
    },
    /// A process starts again.
    ReplicaUp(usize),
    /// A process starts again.
    CabinetUp(usize),
    /// A charger is heard again.
    LinkUp(usize),
    /// The uplink is there again.
    UplinkUp(usize),
    /// What a frozen replica did not see is shown to it.
    Thaw { replica: usize, life: u32 },
}

/// From a charger.
#[derive(Debug, Clone)]
pub enum FromCharger {
    /// A fact.
    Fact(HwFact),
    /// An answer.
    Answer(HwAnswer),
}

/// What happened how often, beside what the judge counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub steps: u64,
    /// Of these, mere time passing.
    pub ticks: u64,
    /// Frames applied by replicas.
    pub applied: u64,
    /// Frames appended again.
    pub append_again: u64,
    /// Frames that landed more than once.
    pub landed_again: u64,
    /// Questions decided again.
    pub decided_again: u64,
    /// Commands sent.
    pub commands: u64,
    /// Messages lost.
    pub lost: u64,
    /// Replicas that died.
    pub replica_crashes: u64,
    /// Replicas that stood still.
    pub freezes: u64,
    /// Replicas that began with a snapshot.
    pub from_snapshot: u64,
    /// Snapshots written.
    pub snapshots: u64,
    /// Cabinets that died.
    pub cabinet_crashes: u64,
    /// Commits that failed.
    pub disk_failures: u64,
    /// Disks replaced.
    pub new_disks: u64,
    /// Stores that ran twice.
    pub copies: u64,
    /// True energy, in mWh.
    pub delivered_mwh: u64,
}

impl Counts {
    /// Adds those of another run.
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.ticks += other.ticks;
        self.applied += other.applied;
        self.append_again += other.append_again;
        self.landed_again += other.landed_again;
        self.decided_again += other.decided_again;
        self.commands += other.commands;
        self.lost += other.lost;
        self.replica_crashes += other.replica_crashes;
        self.freezes += other.freezes;
        self.from_snapshot += other.from_snapshot;
        self.snapshots += other.snapshots;
        self.cabinet_crashes += other.cabinet_crashes;
        self.disk_failures += other.disk_failures;
        self.new_disks += other.new_disks;
        self.copies += other.copies;
        self.delivered_mwh += other.delivered_mwh;
    }
}

/// Time, messages, ledger.
#[derive(Debug)]
pub struct Net {
    /// Milliseconds since the run began.
    pub t_ms: u64,
    /// What messages and appends meet.
    pub weather: Weather,
    /// The judge.
    pub judge: Judge,
    /// What happened how often.
    pub counts: Counts,
    /// The newest snapshot, and where it stands.
    pub snapshot: Option<Vec<u8>>,
    /// Its position.
    pub snapshot_at: u64,
    /// The ledger takes nothing until then.
    pub ledger_down_until_ms: u64,
    /// Tells what happens, for people.
    pub trace: bool,
    /// Replicas: reading lag and until when.
    pub lags: Vec<(u64, u64)>,
    replicas: usize,
    cps: Vec<CpId>,
    ledger: Vec<(Arc<Frame>, Rc<[u8]>, u64)>,
    seen: std::collections::HashSet<Uuid>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
    ids: u64,
    dice: Dice,
}

impl Net {
    /// An empty one.
    #[must_use]
    pub fn new(script: &crate::script::Script, cps: Vec<CpId>, trace: bool) -> Self {
        Self {
            t_ms: 0,
            weather: Weather::default(),
            judge: Judge::new(script.sessions_per_driver),
            counts: Counts::default(),
            snapshot: None,
            snapshot_at: 0,
            ledger_down_until_ms: 0,
            trace,
            lags: vec![(0, 0); script.replicas],
            replicas: script.replicas,
            cps,
            ledger: Vec::new(),
            seen: std::collections::HashSet::new(),
            queue: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            scheduled: 0,
            ids: 0,
            dice: Dice::new(script.seed, 2),
        }
    }

    /// True wall time.
    #[must_use]
    pub const fn wall(&self) -> UnixMs {
        BEGIN.plus_ms(self.t_ms as i64)
    }

    /// An id that nobody else has, in order of time as the real ones are.
    pub fn fresh_id(&mut self) -> Uuid {
        self.ids += 1;
        let ms = self.wall().0 as u128;
        Uuid::from_u128((ms << 80) | (0x7 << 76) | (0x2 << 62) | u128::from(self.ids))
    }

    /// Tells people what happens.
    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9} {}", self.t_ms, text());
        }
    }

    /// Puts an event at its time.
    pub fn schedule(&mut self, at_ms: u64, event: Event) {
        self.scheduled += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.queue
            .push(Reverse((at_ms.max(self.t_ms), self.scheduled, slot)));
    }

    /// When the next event is.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next event; time goes on to it.
    pub fn pop(&mut self) -> Option<Event> {
        let Reverse((at, _, slot)) = self.queue.pop()?;
        self.t_ms = at;
        self.counts.steps += 1;
        self.free.push(slot);
        self.slots[slot].take()
    }

    /// A charge point's id.
    #[must_use]
    pub fn cp(&self, cabinet: usize) -> &CpId {
        &self.cps[cabinet]
    }

    /// Whose id it is.
    #[must_use]
    pub fn cabinet_of(&self, cp: &CpId) -> Option<usize> {
        self.cps.iter().position(|c| c == cp)
    }

    /// To whom a command about this goes.
    #[must_use]
    pub fn cabinet_of_subject(&self, state: &State, subject: &Subject) -> Option<usize> {
        match subject {
            Subject::Session(id) | Subject::Standing(id) => {
                self.cabinet_of(&state.session(*id)?.value.cp)
            }
            Subject::Service(cp, _) => self.cabinet_of(cp),
        }
    }

    /// When a message arrives, none to several times.
    fn fate(&mut self, dice: &mut Dice) -> [Option<u64>; 2] {
        let mut arrival = |weather: &Weather, dice: &mut Dice| {
            if dice.chance(weather.drop) {
                self.counts.lost += 1;
                return None;
            }
            Some(if dice.chance(weather.late) {
                dice.below(LATE_MS_MAX)
            } else if dice.chance(100) {
                dice.below(400)
            } else {
                1 + dice.below(4)
            })
        };
        let weather = self.weather;
        let first = arrival(&weather, dice);
        let second = if dice.chance(weather.twice) {
            arrival(&weather, dice)
        } else {
            None
        };
        [first, second].map(|a| a.map(|delay| self.t_ms + delay))
    }

    /// Sends to a replica: to a given life of one, or to whichever the server picks.
    pub fn to_replica(&mut self, dice: &mut Dice, to: Option<(usize, u32)>, message: &ToReplica) {
        for at in self.fate(dice).into_iter().flatten() {
            let (replica, life) = match to {
                Some((replica, life)) => (replica, Some(life)),
                None => (dice.index(self.replicas), None),
            };
            self.schedule(
                at,
                Event::ToReplica {
                    replica,
                    life,
                    message: Box::new(message.clone()),
                },
            );
        }
    }

    /// Heartbeats go to all.
    pub fn heartbeat(&mut self, dice: &mut Dice, cabinet: usize) {
        for replica in 0..self.replicas {
            if !dice.chance(self.weather.drop) {
                let at = self.t_ms + 1 + dice.below(5);
                self.schedule(
                    at,
                    Event::ToReplica {
                        replica,
                        life: None,
                        message: Box::new(ToReplica::Heartbeat { cabinet }),
                    },
                );
            }
        }
    }

    /// Sends to a cabinet.
    pub fn to_cabinet(&mut self, dice: &mut Dice, cabinet: usize, message: ToCabinet) {
        for at in self.fate(dice).into_iter().flatten() {
            self.schedule(
                at,
                Event::ToCabinet {
                    cabinet,
                    message: Box::new(message.clone()),
                },
            );
        }
    }

    /// Answers whoever asked.
    pub fn to_asker(&mut self, dice: &mut Dice, ask: &Ask, said: &Said) {
        for at in self.fate(dice).into_iter().flatten() {
            self.schedule(
                at,
                Event::ToAsker {
                    ask: Box::new(ask.clone()),
                    said: Box::new(said.clone()),
                },
            );
        }
    }

    // -- The ledger -------------------------------------------------------------------------------

    /// Somebody appends. Says whether the server has refused; anything else is not known yet.
    pub fn append(
        &mut self,
        frame: &Arc<Frame>,
        bytes: &Rc<[u8]>,
        from: (usize, u32),
        cut: bool,
    ) -> bool {
        let w = self.weather;
        let down = self.t_ms < self.ledger_down_until_ms;
        if self.dice.chance(w.append_refused) {
            return true;
        }
        let mut dice = self.dice.clone();
        let lost = dice.chance(w.append_lost) || (down && dice.chance(600));
        let late = dice.chance(w.append_late);
        let ack = !cut && !dice.chance(w.ack_lost);
        let twice = dice.chance(w.append_twice);
        // A cut-off replica's last words may be on their way already.
        let lost = lost || (cut && dice.chance(800));
        let base = if down {
            self.ledger_down_until_ms + dice.below(500)
        } else {
            self.t_ms
        };
        let usual = 1 + dice.below(6);
        if !lost {
            let delay = if late {
                dice.below(APPEND_LATE_MS_MAX)
            } else {
                usual
            };
            self.land(base + delay, frame, bytes, ack.then_some(from));
        }
        if twice {
            let at = base + dice.below(APPEND_LATE_MS_MAX);
            self.land(at, frame, bytes, None);
        }
        self.dice = dice;
        false
    }

    fn land(
        &mut self,
        at_ms: u64,
        frame: &Arc<Frame>,
        bytes: &Rc<[u8]>,
        ack: Option<(usize, u32)>,
    ) {
        self.schedule(
            at_ms,
            Event::Land {
                frame: Arc::clone(frame),
                bytes: Rc::clone(bytes),
                ack,
            },
        );
    }

    /// A frame has landed; replicas will read it.
    pub fn landed(&mut self, frame: Arc<Frame>, bytes: Rc<[u8]>, ack: Option<(usize, u32)>) {
        self.judge.landed(&frame);
        if !self.seen.insert(frame.id) {
            self.counts.landed_again += 1;
        }
        let id = frame.id;
        self.ledger.push((frame, bytes, self.t_ms));
        let pos = self.ledger.len() as u64;
        if let Some((replica, life)) = ack {
            let at = self.t_ms + 1 + self.dice.below(3);
            self.schedule(
                at,
                Event::Acked {
                    replica,
                    life,
                    frame: id,
                    pos,
                },
            );
        }
        for replica in 0..self.replicas {
            let (lag, until) = self.lags[replica];
            let lag = if self.t_ms < until { lag } else { 1 };
            let at = self.t_ms + lag + self.dice.below(3);
            self.schedule(
                at,
                Event::Read {
                    replica,
                    life: u32::MAX,
                },
            );
        }
    }

    /// What stands at a position.
    #[must_use]
    pub fn entry(&self, pos: u64) -> Option<(Arc<Frame>, Rc<[u8]>)> {
        let index = usize::try_from(pos).ok()?.checked_sub(1)?;
        let (frame, bytes, _) = self.ledger.get(index)?;
        Some((Arc::clone(frame), Rc::clone(bytes)))
    }

    /// What stands at a position, and since when a replica can read it: one that lags sees nothing
    /// younger.
    #[must_use]
    pub fn readable(&self, replica: usize, pos: u64) -> Option<(Arc<Frame>, Rc<[u8]>, u64)> {
        let (lag, until) = self.lags[replica];
        let lag = if self.t_ms < until { lag } else { 0 };
        let index = usize::try_from(pos).ok()?.checked_sub(1)?;
        let (frame, bytes, landed_ms) = self.ledger.get(index)?;
        Some((Arc::clone(frame), Rc::clone(bytes), landed_ms + lag))
    }

    /// When the message at a position landed, by the server's clock, which is right.
    #[must_use]
    pub fn landed_at(&self, pos: u64) -> Option<UnixMs> {
        let index = usize::try_from(pos).ok()?.checked_sub(1)?;
        let (_, _, landed_ms) = self.ledger.get(index)?;
        Some(BEGIN.plus_ms(i64::try_from(*landed_ms).unwrap_or(i64::MAX)))
    }

    /// Where the ledger ends, as the server says: a deposed leader does not know the newest.
    pub fn extent(&mut self, dice: &mut Dice) -> u64 {
        let last = self.ledger.len() as u64;
        if self.weather == Weather::default() || dice.chance(700) {
            return last;
        }
        let before = self.t_ms.saturating_sub(dice.below(STALE_MS_MAX));
        let newer = self
            .ledger
            .iter()
            .rev()
            .take_while(|(_, _, at)| *at > before)
            .count();
        last - newer as u64
    }
}
