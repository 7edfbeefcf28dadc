//! A cabinet: the agent's core with the rules of its shell, its disk, its clocks, and the charger
//! behind it. Everything of one step is on the disk at once or not at all, and nothing leaves
//! before it is.

use std::collections::BTreeMap;

use central_core::decide::{Incoming, Run, Verb};
use edge_core::{
    ChargePoint, Draw, Effects, Identity, Input, LocalStart, ReplyTo, Row, Stored,
    connector::ConnectorRow,
    effects::CommandRow,
    hardware::{HwAnswer, HwCommand, HwFact, OriginKey},
    session::{SessionRow, StoredSession},
    spool::run_len,
    transactions::TxRow,
};
use ev_contract::{
    ids::{BootId, CommandId, ConnectorId, CpId, Epoch, SessionId},
    time::Now,
    units::MilliAmp,
    v1::{ConnectorSpec, EdgeFact, EdgeRecord, Outcome, SyncRequest},
    wire::{CENTRAL, Tag},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    charger::{Charger, Moment, shift},
    dice::Dice,
    net::{Event, FromCharger, Net, Question, Subject, ToCabinet, ToReplica},
    script::Script,
};

/// The shell gives a tick so often. The core wants a fifth of a second; its timers are seconds.
const TICK_MS: u64 = 1_000;
/// Between two readings of running meters.
const READ_EVERY_MS: u64 = 10_000;
/// Between heartbeats.
const BEAT_EVERY_MS: u64 = 5_000;
/// Between syncs, and after an unanswered one.
const SYNC_EVERY_MS: u64 = 60_000;
const SYNC_RETRY_MS: u64 = 2_000;
/// Between attempts to write while the disk fails.
const DISK_RETRY_MS: u64 = 2_000;
/// Longest delay of a fact, under the grace that the core gives to ends.
const UNRULY_MS_MAX: u64 = 2_500;
/// Facts of the past that may come again.
const HISTORY_MAX: usize = 32;

/// What is on the disk.
#[derive(Debug, Clone)]
struct Disk {
    epoch: Epoch,
    boots: u64,
    confirmed: Option<BootId>,
    sessions: BTreeMap<SessionId, SessionRow>,
    commands: BTreeMap<CommandId, CommandRow>,
    txs: BTreeMap<OriginKey, TxRow>,
    connectors: BTreeMap<ConnectorId, ConnectorRow>,
    spool: BTreeMap<u64, EdgeRecord>,
    next: u64,
}

impl Disk {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            boots: 0,
            confirmed: None,
            sessions: BTreeMap::new(),
            commands: BTreeMap::new(),
            txs: BTreeMap::new(),
            connectors: BTreeMap::new(),
            spool: BTreeMap::new(),
            next: 1,
        }
    }

    /// As it is read at boot: through the format of the disk, which leaves out what is only for
    /// memory.
    fn read(&self) -> Result<Stored, String> {
        Ok(Stored {
            epoch: self.epoch.clone(),
            boots: self.boots,
            confirmed: self.confirmed,
            first: self.spool.keys().next().copied().unwrap_or(self.next),
            next: self.next,
            connectors: reread(&self.connectors)?,
            sessions: reread(&self.sessions)?,
            commands: reread(&self.commands)?,
            txs: reread(&self.txs)?,
        })
    }
}

fn reread<K, T: Serialize + DeserializeOwned>(rows: &BTreeMap<K, T>) -> Result<Vec<T>, String> {
    rows.values()
        .map(|row| {
            let bytes = rmp_serde::to_vec_named(row).map_err(|e| e.to_string())?;
            rmp_serde::from_slice(&bytes).map_err(|e| e.to_string())
        })
        .collect()
}

/// Who waits for an answer to a command.
#[derive(Debug, Clone)]
struct Waiter {
    from: (usize, u32),
    subject: Option<Subject>,
    attempt: u64,
    verb: Verb,
}

/// A cabinet.
#[derive(Debug)]
pub struct Cabinet {
    /// Its number.
    pub index: usize,
    /// Counts its lives.
    pub life: u32,
    /// The agent runs.
    pub up: bool,
    /// The uplink is cut until then.
    pub cut_until_ms: u64,
    /// The charger is not heard until then.
    pub link_down_until_ms: u64,
    /// The disk takes nothing until then.
    pub disk_full_until_ms: u64,
    /// The agent dies at a commit: after so many more, before or after the disk has it, for how
    /// long.
    pub crash: Option<(u32, bool, u64)>,
    /// The host's wall clock is off by so much.
    pub off_ms: i64,
    /// Records were lost with a disk, so that energy need not add up.
    pub lost_disk: bool,
    /// Its store was copied, or is a copy.
    pub copied: bool,
    /// The charger.
    pub charger: Charger,
    cp: CpId,
    specs: Vec<ConnectorSpec>,
    disk: Disk,
    disks: u32,
    core: Option<ChargePoint>,
    unstored: Vec<Row>,
    disk_due_ms: u64,
    began_ms: u64,
    drift_ppm: u64,
    waiters: BTreeMap<ReplyTo, Waiter>,
    replies: u64,
    sync_due_ms: u64,
    beat_due_ms: u64,
    read_due_ms: u64,
    history: Vec<HwFact>,
    skew_ms: i64,
    dice: Dice,
}

impl Cabinet {
    /// One that has yet to begin.
    #[must_use]
    pub fn new(index: usize, cp: CpId, script: &Script) -> Self {
        let mut dice = Dice::new(script.seed, 200 + index as u64);
        let specs = (1..=script.connectors)
            .map(|n| ConnectorSpec {
                connector: ConnectorId(n),
                max_ma: MilliAmp(32_000),
                phases: 3,
                volts: 230,
                plug: None,
            })
            .collect();
        Self {
            index,
            life: 0,
            up: false,
            cut_until_ms: 0,
            link_down_until_ms: 0,
            disk_full_until_ms: 0,
            crash: None,
            off_ms: 0,
            lost_disk: false,
            copied: false,
            charger: Charger::new(
                cp.as_str(),
                script.connectors,
                script.seed,
                300 + index as u64,
            ),
            disk: Disk::new(epoch(index, 1)),
            disks: 1,
            cp,
            specs,
            core: None,
            unstored: Vec::new(),
            disk_due_ms: 0,
            began_ms: 0,
            drift_ppm: dice.below(50),
            waiters: BTreeMap::new(),
            replies: 0,
            sync_due_ms: 0,
            beat_due_ms: 0,
            read_due_ms: 0,
            history: Vec::new(),
            skew_ms: script.skew_ms_max,
            dice,
        }
    }

    fn now(&self, net: &Net) -> Now {
        let ran = net.t_ms - self.began_ms;
        Now {
            mono_ms: ran + ran * self.drift_ppm / 1_000_000,
            wall: self.moment(net).wall,
        }
    }

    /// The moment as the host shows it.
    #[must_use]
    pub fn moment(&self, net: &Net) -> Moment {
        Moment {
            t_ms: net.t_ms,
            wall: net.wall().plus_ms(self.off_ms),
        }
    }

    fn connected(&self, net: &Net) -> bool {
        self.up && net.t_ms >= self.cut_until_ms
    }

    /// Begins a life with what the disk has.
    pub fn boot(&mut self, net: &mut Net) {
        self.life += 1;
        self.up = true;
        self.crash = None;
        self.began_ms = net.t_ms;
        self.unstored.clear();
        self.waiters.clear();
        self.sync_due_ms = net.t_ms;
        self.beat_due_ms = net.t_ms;
        self.disk.boots += 1;
        let boot = BootId::from_number(self.dice.roll());
        net.judge.booted(boot, self.index);
        let stored = match self.disk.read() {
            Ok(stored) => stored,
            Err(why) => {
                net.judge
                    .fail("disk", format!("{}: a row cannot be read: {why}", self.cp));
                return;
            }
        };
        let identity = Identity {
            cp_id: self.cp.clone(),
            connectors: self.specs.clone(),
            free_vending: false,
        };
        self.core = Some(ChargePoint::boot(identity, stored, boot, self.now(net)));
        net.note(|| format!("{} begins life {}", self.cp, self.life));
        net.schedule(
            net.t_ms + 1,
            Event::CabinetTick {
                cabinet: self.index,
                life: self.life,
            },
        );
        self.greet(net);
    }

    /// The agent dies; what is not on the disk is gone.
    pub fn die(&mut self, net: &mut Net, for_ms: u64) {
        if !self.up {
            return;
        }
        net.note(|| format!("{} dies", self.cp));
        net.counts.cabinet_crashes += 1;
        self.up = false;
        self.core = None;
        self.unstored.clear();
        self.waiters.clear();
        net.schedule(net.t_ms + for_ms.max(1), Event::CabinetUp(self.index));
    }

    /// The disk is replaced by an empty one.
    pub fn new_disk(&mut self, net: &mut Net) {
        self.die(net, 3_000);
        net.counts.new_disks += 1;
        self.lost_disk = true;
        self.disks += 1;
        self.disk = Disk::new(epoch(self.index, self.disks));
    }

    /// A second agent begins with a copy of this one's disk, at a cabinet of its own.
    pub fn copy_to(&mut self, twin: &mut Self, net: &mut Net) {
        net.counts.copies += 1;
        self.copied = true;
        twin.copied = true;
        twin.disk = self.disk.clone();
        net.judge.copied_store(&self.cp, self.index, twin.index);
        twin.boot(net);
    }

    /// It is switched off for good.
    pub fn switch_off(&mut self) {
        self.up = false;
        self.core = None;
        self.life += 1;
    }

    /// An operator has decided for this one: its store gets an epoch of its own, as by
    /// `edge-cp new-epoch`.
    pub fn new_epoch(&mut self, net: &mut Net) {
        self.die(net, 3_000);
        self.disks += 1;
        let disk = &mut self.disk;
        disk.epoch = epoch(self.index, self.disks);
        disk.confirmed = None;
        let spool = std::mem::take(&mut disk.spool);
        let below = spool.keys().next().map_or(disk.next, |first| *first) - 1;
        disk.spool = spool
            .into_iter()
            .map(|(seq, record)| {
                let seq = seq - below;
                (seq, EdgeRecord { seq, ..record })
            })
            .collect();
        disk.next -= below;
        for row in disk.sessions.values_mut() {
            if let StoredSession::Ended { seq } = &mut row.state {
                *seq = seq.saturating_sub(below);
            }
        }
        net.judge
            .renewed(&self.cp, self.index, &disk.epoch, disk.next - 1);
    }

    /// The sessions that its spool has records of.
    pub fn spooled_sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.disk.spool.values().filter_map(|r| r.fact.session())
    }

    /// Whether the spool is empty.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.up && self.disk.spool.is_empty()
    }

    /// Whether this is the epoch of the disk in use.
    #[must_use]
    pub fn is_current(&self, epoch: &Epoch) -> bool {
        self.disk.epoch == *epoch
    }

    /// How it stands, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{} up {} spool {:?} open {:?}",
            self.cp,
            self.up,
            self.disk.spool.keys().collect::<Vec<_>>(),
            self.core.as_ref().map(|c| c
                .connectors()
                .map(|c| c.session.clone())
                .collect::<Vec<_>>())
        )
    }

    /// The open session of a connector as the cabinet shows it.
    #[must_use]
    pub fn shown(&self, connector: ConnectorId) -> Option<SessionId> {
        let core = self.core.as_ref()?;
        core.connectors()
            .find(|c| c.id() == connector)?
            .session
            .as_ref()
            .map(|s| s.id)
    }

    // -- The charger ------------------------------------------------------------------------------

    /// The charger tells an agent that has just come what is.
    pub fn greet(&mut self, net: &mut Net) {
        if !self.up || net.t_ms < self.link_down_until_ms {
            return;
        }
        let moment = self.moment(net);
        for fact in self.charger.greeting(moment) {
            self.on_its_way(net, FromCharger::Fact(fact), 5);
        }
    }

    /// The charger can no longer be heard.
    pub fn link_down(&mut self, net: &mut Net, for_ms: u64) {
        self.link_down_until_ms = net.t_ms + for_ms;
        net.schedule(self.link_down_until_ms + 1, Event::LinkUp(self.index));
        let at = self.moment(net).wall;
        self.feed(
            net,
            Input::Fact(HwFact::Link {
                at,
                up: false,
                running: None,
            }),
        );
    }

    /// Facts set out for the agent. Some are late, twice, out of order, or very old.
    pub fn facts(&mut self, net: &mut Net, facts: Vec<HwFact>) {
        for fact in facts {
            net.note(|| format!("{} charger: {}", self.cp, brief(&fact)));
            if !self.up || net.t_ms < self.link_down_until_ms {
                continue;
            }
            let unruly = net.weather.unruly;
            let reading = matches!(fact, HwFact::Reading { .. });
            if reading && self.dice.chance(unruly) {
                continue;
            }
            let fact = self.blur(fact, unruly);
            if !reading {
                if self.history.len() == HISTORY_MAX {
                    self.history.remove(0);
                }
                self.history.push(fact.clone());
            }
            if self.dice.chance(unruly) {
                let again = self.dice.below(UNRULY_MS_MAX);
                self.on_its_way(net, FromCharger::Fact(fact.clone()), again);
            }
            let delay = if self.dice.chance(unruly) {
                self.dice.below(UNRULY_MS_MAX)
            } else {
                1
            };
            self.on_its_way(net, FromCharger::Fact(fact), delay);
            if self.dice.chance(unruly / 4) && !self.history.is_empty() {
                let old = self.history[self.dice.index(self.history.len())].clone();
                self.on_its_way(net, FromCharger::Fact(old), 1);
            }
        }
    }

    /// Leaves out what devices of some kinds do not say.
    fn blur(&mut self, fact: HwFact, unruly: u32) -> HwFact {
        match fact {
            HwFact::TxEnded {
                at,
                connector,
                device_tx,
                origin,
                start_number,
                reason,
                reading,
            } => HwFact::TxEnded {
                at,
                connector,
                device_tx,
                origin: origin.filter(|_| !self.dice.chance(unruly / 2)),
                start_number: start_number.filter(|_| !self.dice.chance(unruly)),
                reason,
                reading,
            },
            HwFact::TxStarted {
                at,
                connector,
                device_tx,
                origin,
                start_number,
                reading,
            } => HwFact::TxStarted {
                at,
                connector,
                device_tx,
                origin,
                start_number: start_number.filter(|_| !self.dice.chance(unruly / 2)),
                reading,
            },
            other @ (HwFact::Link { .. }
            | HwFact::Booted { .. }
            | HwFact::Plug { .. }
            | HwFact::Reading { .. }
            | HwFact::Phase { .. }
            | HwFact::Fault { .. }
            | HwFact::Service { .. }) => other,
        }
    }

    fn on_its_way(&self, net: &mut Net, from: FromCharger, delay_ms: u64) {
        net.schedule(
            net.t_ms + delay_ms,
            Event::Hardware {
                cabinet: self.index,
                life: self.life,
                from: Box::new(from),
            },
        );
    }

    /// A fact or an answer arrives.
    pub fn hardware(&mut self, net: &mut Net, from: FromCharger) {
        if net.t_ms < self.link_down_until_ms {
            return;
        }
        match from {
            FromCharger::Fact(fact) => self.feed(net, Input::Fact(fact)),
            FromCharger::Answer(answer) => self.feed(net, Input::Answer(answer)),
        }
    }

    /// A command arrives at the charger.
    pub fn to_charger(&mut self, net: &mut Net, command: HwCommand) {
        if net.t_ms < self.link_down_until_ms {
            return;
        }
        let moment = self.moment(net);
        let (verdict, raw, facts) = self.charger.command(&command, moment);
        net.note(|| format!("{} charger answers {verdict:?} to {command:?}", self.cp));
        let unruly = net.weather.unruly;
        let answer = FromCharger::Answer(HwAnswer {
            command,
            verdict,
            raw,
        });
        if !self.dice.chance(unruly / 2) && self.up {
            let delay = if self.dice.chance(unruly) {
                self.dice.below(UNRULY_MS_MAX)
            } else {
                2
            };
            self.on_its_way(net, answer, delay);
        }
        self.facts(net, facts);
    }

    // -- What comes in ----------------------------------------------------------------------------

    /// Time passes.
    pub fn tick(&mut self, net: &mut Net) {
        net.schedule(
            net.t_ms + TICK_MS,
            Event::CabinetTick {
                cabinet: self.index,
                life: self.life,
            },
        );
        self.retry_disk(net);
        if net.t_ms >= self.read_due_ms {
            self.read_due_ms = net.t_ms + READ_EVERY_MS;
            let moment = self.moment(net);
            let facts = self.charger.readings(moment);
            self.facts(net, facts);
        }
        self.feed(net, Input::Tick);
        if !self.up {
            return;
        }
        if self.connected(net) {
            if net.t_ms >= self.beat_due_ms {
                self.beat_due_ms = net.t_ms + BEAT_EVERY_MS;
                net.heartbeat(&mut self.dice, self.index);
            }
            let doubted = self.core.as_ref().is_some_and(ChargePoint::wants_time);
            if net.t_ms >= self.sync_due_ms || doubted {
                self.sync(net);
            }
        }
    }

    fn sync(&mut self, net: &mut Net) {
        let now = self.now(net);
        self.sync_due_ms = net.t_ms + SYNC_RETRY_MS;
        let Some(core) = &self.core else {
            return;
        };
        let sync = SyncRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            cp_id: self.cp.clone(),
            epoch: core.spool().epoch().clone(),
            boot: core.this_boot(),
            connectors: self.specs.clone(),
            version: "1".into(),
            first: core.spool().first(),
            next: core.spool().next(),
            sessions: core.open_sessions().collect(),
        };
        let question = Question::Sync {
            cabinet: self.index,
            sync: Box::new(sync),
            sent: (now.mono_ms, self.life),
        };
        net.to_replica(&mut self.dice, None, &ToReplica::Ask(question));
    }

    /// The host's wall clock is set.
    pub fn clock_set(&mut self, by_ms: i64) {
        self.off_ms += by_ms;
        self.charger.clock_set(by_ms);
        for fact in &mut self.history {
            shift(fact, by_ms);
        }
    }

    /// The uplink is there again.
    pub fn uplink_up(&mut self, net: &mut Net) {
        if self.connected(net) {
            self.sync_due_ms = net.t_ms;
            self.feed(net, Input::UplinkUp);
        }
    }

    /// A message from central.
    pub fn message(&mut self, net: &mut Net, message: ToCabinet) {
        if !self.connected(net) {
            return;
        }
        match message {
            ToCabinet::Command {
                command,
                from,
                subject,
                attempt,
                verb,
            } => {
                self.replies += 1;
                let reply_to = ReplyTo(self.replies);
                self.waiters.insert(
                    reply_to,
                    Waiter {
                        from,
                        subject,
                        attempt,
                        verb,
                    },
                );
                let input = Input::Command {
                    command: *command,
                    reply_to,
                };
                self.feed(net, input);
            }
            ToCabinet::Synced {
                life,
                sent_mono_ms,
                ts,
                next,
                epoch,
                standing,
            } => {
                if life == self.life {
                    self.sync_due_ms = net.t_ms + SYNC_EVERY_MS;
                    let input = Input::Synced {
                        sent_mono_ms,
                        ts,
                        epoch,
                        next,
                        standing,
                    };
                    self.feed(net, input);
                }
            }
            ToCabinet::Evt { life, outcome } => {
                if life == self.life {
                    self.feed(net, Input::Evt(outcome));
                }
            }
        }
    }

    /// Somebody at the cabinet starts.
    pub fn local_start(&mut self, net: &mut Net, connector: ConnectorId) {
        let input = Input::LocalStart {
            start: LocalStart {
                connector,
                token: None,
                free: false,
            },
            reply_to: ReplyTo(0),
        };
        self.feed(net, input);
    }

    /// Somebody at the cabinet stops.
    pub fn local_stop(&mut self, net: &mut Net, connector: ConnectorId) {
        let input = Input::LocalStop {
            connector,
            reply_to: ReplyTo(0),
        };
        self.feed(net, input);
    }

    // -- One step ---------------------------------------------------------------------------------

    /// One input through the core, onto the disk and out.
    fn feed(&mut self, net: &mut Net, input: Input) {
        let now = self.now(net);
        let draw = Draw {
            session_id: SessionId::from_uuid(net.fresh_id()),
            start_number: (self.dice.roll() >> 33) as u32,
            random: self.dice.roll(),
        };
        let Some(core) = &mut self.core else {
            return;
        };
        if net.trace && !matches!(input, Input::Tick) {
            net.note(|| format!("{} in: {input:?}", self.cp));
        }
        let full = net.t_ms < self.disk_full_until_ms;
        // What may only be answered once it is stored can be undone.
        let before = (full && input.must_be_stored()).then(|| (core.clone(), input.clone()));
        let mut fx = core.handle(input, now, draw);
        let rows = std::mem::take(&mut fx.rows);
        if core.storage_problem().is_some() {
            self.unstored.extend(rows);
        } else if !rows.is_empty() {
            if full {
                net.counts.disk_failures += 1;
                self.disk_due_ms = net.t_ms + DISK_RETRY_MS;
                if let Some((old, input)) = before {
                    *core = old;
                    core.storage_failed("full".into());
                    fx = core.handle(input, now, draw);
                    self.unstored = std::mem::take(&mut fx.rows);
                } else {
                    self.unstored = rows;
                    core.storage_failed("full".into());
                }
            } else {
                match self.crash {
                    Some((0, after, for_ms)) => {
                        self.crash = None;
                        if after {
                            self.commit(net, rows);
                        }
                        self.die(net, for_ms);
                        return;
                    }
                    Some((n, after, for_ms)) => self.crash = Some((n - 1, after, for_ms)),
                    None => {}
                }
                self.commit(net, rows);
                if let Some(core) = &mut self.core {
                    core.stored();
                }
            }
        }
        self.let_out(net, fx);
        self.send_spool(net);
    }

    fn retry_disk(&mut self, net: &mut Net) {
        let failing = self
            .core
            .as_ref()
            .is_some_and(|c| c.storage_problem().is_some());
        if !failing || net.t_ms < self.disk_due_ms {
            return;
        }
        if net.t_ms < self.disk_full_until_ms {
            self.disk_due_ms = net.t_ms + DISK_RETRY_MS;
            return;
        }
        let rows = std::mem::take(&mut self.unstored);
        self.commit(net, rows);
        if let Some(core) = &mut self.core {
            core.stored();
        }
    }

    /// All rows of one step, at once.
    fn commit(&mut self, net: &mut Net, rows: Vec<Row>) {
        let mut over = Vec::new();
        for row in rows {
            if net.trace {
                net.note(|| format!("{} disk: {row:?}", self.cp));
            }
            match row {
                Row::Session(row) => {
                    if let StoredSession::Ended { .. } = row.state {
                        over.push(row.id);
                    }
                    self.disk.sessions.insert(row.id, *row);
                }
                Row::DropSession(id) => {
                    self.disk.sessions.remove(&id);
                }
                Row::Command(row) => {
                    self.disk.commands.insert(row.command_id.clone(), row);
                }
                Row::DropCommand(id) => {
                    self.disk.commands.remove(&id);
                }
                Row::Tx(row) => {
                    self.disk.txs.insert(row.origin.clone(), *row);
                }
                Row::DropTx(origin) => {
                    self.disk.txs.remove(&origin);
                }
                Row::Confirmed(boot) => self.disk.confirmed = Some(boot),
                Row::Connector(row) => {
                    self.disk.connectors.insert(row.connector, *row);
                }
                Row::Append(record) => {
                    net.judge
                        .spooled((&self.cp, self.index), &self.disk.epoch, record.seq);
                    if let EdgeFact::Accepted { session_id, .. } = &record.fact {
                        net.judge.took(
                            (&self.cp, self.index),
                            *session_id,
                            net.wall(),
                            self.skew_ms,
                        );
                    }
                    if let EdgeFact::OpenedAtEdge { session_id, .. } = &record.fact {
                        net.judge.opened_here(self.index, *session_id);
                    }
                    self.disk.next = record.seq + 1;
                    self.disk.spool.insert(record.seq, *record);
                }
                Row::Mend(mend) => {
                    for record in self.disk.spool.values_mut() {
                        mend.apply(record);
                    }
                }
                Row::Free { below } => {
                    net.judge.freed(&self.cp, &self.disk.epoch, below);
                    self.disk.spool = self.disk.spool.split_off(&below);
                }
            }
        }
        for id in over {
            let runs = self
                .disk
                .txs
                .values()
                .any(|tx| tx.session_id == Some(id) && self.charger.runs(&tx.origin));
            net.judge.cabinet_ended((&self.cp, self.index), id, runs);
        }
    }

    /// Lets everything leave that follows from what is stored.
    fn let_out(&mut self, net: &mut Net, fx: Effects) {
        for command in fx.hardware {
            // The way to the charger is short, and not always in order.
            let delay = if self.dice.chance(net.weather.unruly / 3) {
                self.dice.below(UNRULY_MS_MAX)
            } else {
                1
            };
            net.schedule(
                net.t_ms + delay,
                Event::ToCharger {
                    cabinet: self.index,
                    command: Box::new(command),
                },
            );
        }
        for (reply_to, answer) in fx.replies {
            let Some(waiter) = self.waiters.remove(&reply_to) else {
                continue;
            };
            if answer.outcome != Outcome::NotYet
                && let Some(command) = &answer.command_id
            {
                net.judge.command_answered(
                    (&self.cp, self.index),
                    &answer.epoch,
                    command.as_str(),
                    answer.outcome,
                    answer.code,
                );
            }
            if !self.connected(net) {
                continue;
            }
            let message = match waiter.subject {
                None => ToReplica::Pong {
                    cabinet: self.index,
                    probe: waiter.attempt,
                },
                Some(subject) => ToReplica::Answer {
                    cabinet: self.index,
                    subject,
                    attempt: waiter.attempt,
                    verb: waiter.verb,
                    answer: Box::new(answer),
                },
            };
            net.to_replica(&mut self.dice, Some(waiter.from), &message);
        }
    }

    /// A run of the spool sets out, if it is time for one.
    fn send_spool(&mut self, net: &mut Net) {
        if !self.connected(net) {
            return;
        }
        let now = self.now(net);
        let random = self.dice.roll();
        let Some(core) = &mut self.core else {
            return;
        };
        let boot = core.this_boot().id;
        let Some(run) = core.next_run(now, random) else {
            return;
        };
        let mut records = Vec::new();
        for record in self.disk.spool.range(run.from..run.until).map(|(_, r)| r) {
            match incoming(record) {
                Ok(incoming) => records.push(incoming),
                Err(error) => net.judge.fail("records", error.to_string()),
            }
        }
        let len = run_len(records.iter().map(|_| 300)).min(1 + self.dice.index(40));
        records.truncate(len);
        let question = Question::Run {
            cabinet: self.index,
            run: Box::new(Run {
                cp: self.cp.clone(),
                epoch: self.disk.epoch.clone(),
                boot,
                first: run.first,
                from: run.from,
                records,
            }),
            life: self.life,
        };
        net.to_replica(&mut self.dice, None, &ToReplica::Ask(question));
    }
}

fn epoch(index: usize, n: u32) -> Epoch {
    fixed(&format!("disk-{index}-{n}"))
}

/// An id from a word that this module wrote.
pub fn fixed<T: std::str::FromStr>(word: &str) -> T {
    word.parse()
        .unwrap_or_else(|_| unreachable!("{word} is an id"))
}

fn brief(fact: &HwFact) -> String {
    format!("{fact:?}")
}

/// A record as central gets it.
fn incoming(record: &EdgeRecord) -> Result<Incoming, Box<dyn std::error::Error>> {
    let value = record.to_value()?;
    let mut raw = Vec::new();
    rmpv::encode::write_value(&mut raw, &value)?;
    Ok(Incoming {
        record: EdgeRecord::from_value(value).map_err(|e| e.to_string()),
        raw: raw.into(),
    })
}
