//! The entry: one charge point with its connectors, driven by inputs.

use std::collections::BTreeMap;

use ev_contract::{
    codes::Code,
    ids::{BootId, ConnectorId, CpId, Epoch, SessionId},
    time::{Now, UnixMs},
    v1::{
        Boot, ConnectorBeat, ConnectorSpec, EdgeFact, EdgeRecord, EndReason, Live, Reading,
        TimeQuality,
    },
    wire::Tag,
};

use crate::{
    clock::{Clock, Stamp},
    commands::{Command, LocalStart, Pending},
    connector::{Connector, ConnectorRow, is_news},
    effects::{CommandRow, Draw, Effects, ReplyTo, Row},
    hardware::{HwAnswer, HwCommand, HwFact, HwReading, OriginKey, RunningTx, StartNumber},
    limits::{
        AHEAD_MS_MAX, COMMANDS_KEPT, ENDED_KEPT, LINK_WAIT_MS, MEND_MS_MIN, MENDS_MAX, TICK_MS,
        TICK_QUIET_MS, TXS_KEPT, UNSTORED_MAX,
    },
    mend::{Mend, Shift},
    session::{Over, Session, SessionRow, StoredSession},
    spool::{EvtOutcome, SendRun, Spool},
    transactions::{self, Listed, TxRow, Unclaimed},
};

/// What a charge point is, from its configuration.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its id.
    pub cp_id: CpId,
    /// By number.
    pub connectors: Vec<ConnectorSpec>,
    /// Its charger begins transactions by itself and gives energy away.
    pub free_vending: bool,
}

/// What the store has, read at boot.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The store's own id.
    pub epoch: Epoch,
    /// How many starts it has seen, this one among them.
    pub boots: u64,
    /// The last one that central has confirmed.
    pub confirmed: Option<BootId>,
    /// The lowest number in the spool; `next` when it is empty.
    pub first: u64,
    /// The number that the next record will get.
    pub next: u64,
    /// Connectors.
    pub connectors: Vec<ConnectorRow>,
    /// Sessions, open and ended.
    pub sessions: Vec<SessionRow>,
    /// Results of commands.
    pub commands: Vec<CommandRow>,
    /// Device transactions.
    pub txs: Vec<TxRow>,
}

/// Everything that can happen.
#[derive(Debug, Clone)]
pub enum Input {
    /// The hardware reports.
    Fact(HwFact),
    /// The hardware answers.
    Answer(HwAnswer),
    /// Central commands.
    Command {
        /// What.
        command: Command,
        /// Where its answer goes.
        reply_to: ReplyTo,
    },
    /// Somebody at the cabinet starts a session.
    LocalStart {
        /// How.
        start: LocalStart,
        /// Where the answer goes.
        reply_to: ReplyTo,
    },
    /// Somebody at the cabinet stops the session on a connector.
    LocalStop {
        /// Where.
        connector: ConnectorId,
        /// Where the answer goes.
        reply_to: ReplyTo,
    },
    /// Central answered a `sync`.
    Synced {
        /// When the question was sent, by the monotonic clock.
        sent_mono_ms: u64,
        /// Central's time in the answer.
        ts: UnixMs,
        /// Of which epoch it speaks.
        epoch: String,
        /// The number that central wants next; 0 when it says nothing.
        next: u64,
        /// Whether this agent is obeyed.
        standing: Standing,
    },
    /// What became of an `evt`.
    Evt(EvtOutcome),
    /// The uplink has come up.
    UplinkUp,
    /// Time passes.
    Tick,
}

/// What central says of this agent, where a charge point may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the one that is obeyed.
    Obeyed,
    /// Another one is.
    NotObeyed,
    /// Central did not decide.
    Untold,
}

impl Input {
    /// Whether it may be answered only once its rows are on the disk. When they cannot be written,
    /// it counts as not taken.
    #[must_use]
    pub const fn must_be_stored(&self) -> bool {
        match self {
            Self::Command { command, .. } => !matches!(command, Command::Ping(_)),
            Self::LocalStart { .. } => true,
            Self::Answer(HwAnswer { command, .. }) => {
                matches!(command, HwCommand::Unlock { .. } | HwCommand::Reset)
            }
            Self::Fact(_)
            | Self::LocalStop { .. }
            | Self::Synced { .. }
            | Self::Evt(_)
            | Self::UplinkUp
            | Self::Tick => false,
        }
    }
}

/// One charge point.
#[derive(Debug, Clone)]
pub struct ChargePoint {
    pub(crate) connectors: BTreeMap<ConnectorId, Connector>,
    pub(crate) desk: Desk,
}

/// What the connectors share.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) identity: Identity,
    pub(crate) boot: Boot,
    /// Another agent is obeyed as this charge point. What runs here goes on; no command starts more.
    pub(crate) is_other: bool,
    pub(crate) clock: Clock,
    pub(crate) spool: Spool,
    /// Whether the hardware can be reached; none until it is heard after boot.
    pub(crate) link: Option<bool>,
    pub(crate) began_mono_ms: u64,
    pub(crate) link_mono_ms: Option<i64>,
    pub(crate) boot_mono_ms: Option<i64>,
    /// The device's last list of its transactions, by the monotonic clock. Forgotten when the wall
    /// clock is set: a start dated by the clock as it was cannot be compared with it.
    pub(crate) listed: Option<(i64, Vec<RunningTx>)>,
    /// Why the store cannot be written, while it cannot.
    pub(crate) storage: Option<String>,
    pub(crate) commands: BTreeMap<ev_contract::ids::CommandId, CommandRow>,
    pub(crate) commands_n: u64,
    /// Commands that came again, since this program began.
    pub(crate) commands_again: u64,
    pub(crate) ended: BTreeMap<SessionId, u64>,
    pub(crate) txs: BTreeMap<OriginKey, TxRow>,
    pub(crate) txs_n: u64,
    pub(crate) pending: Vec<Pending>,
    pub(crate) unsure: Option<Unsure>,
}

/// What was dated by the host's own clock in this process, and can be mended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsure {
    /// The first record of it.
    from: u64,
    /// Since when, in its own time.
    since: UnixMs,
    /// What its times are more than monotonic ones.
    frame_ms: i64,
    /// How often it was moved.
    mends: u32,
}

/// One input's moment, draw and growing effects.
pub(crate) struct Cx {
    pub(crate) stamp: Stamp,
    pub(crate) random: u64,
    session_id: Option<SessionId>,
    start_number: u32,
    pub(crate) fx: Effects,
}

impl Cx {
    fn new(stamp: Stamp, draw: Draw) -> Self {
        Self {
            stamp,
            random: draw.random,
            session_id: Some(draw.session_id),
            start_number: draw.start_number,
            fx: Effects::default(),
        }
    }

    pub(crate) const fn mono_ms(&self) -> u64 {
        self.stamp.now.mono_ms
    }

    pub(crate) const fn draw_session(&mut self) -> Option<SessionId> {
        self.session_id.take()
    }

    /// A reading in central's time.
    pub(crate) fn reading(&self, reading: HwReading) -> Reading {
        Reading {
            at: self.stamp.central_of(reading.at),
            quality: self.stamp.quality,
            register_mwh: reading.register_mwh,
            meter_id: clip(reading.meter_id),
            meter_epoch: reading.meter_epoch,
            power_mw: reading.power_mw,
            current_ma: reading.current_ma,
            soc_pct: reading.soc_pct,
            signed: reading.signed,
        }
    }
}

impl Desk {
    /// Appends a record to the spool.
    pub(crate) fn record(&mut self, cx: &mut Cx, at: UnixMs, fact: EdgeFact) -> u64 {
        let quality = cx.stamp.quality;
        self.append(cx, (at, quality), fact)
    }

    /// Appends a record that is dated as a reading is: a reading may be older than the time is sure.
    pub(crate) fn record_as_of(&mut self, cx: &mut Cx, reading: &Reading, fact: EdgeFact) {
        self.append(cx, (reading.at, reading.quality), fact);
    }

    fn append(&mut self, cx: &mut Cx, (at, quality): (UnixMs, TimeQuality), fact: EdgeFact) -> u64 {
        let can_wait = matches!(fact, EdgeFact::Checkpoint { .. });
        let seq = self.spool.number(can_wait, cx.stamp.now.mono_ms);
        cx.fx.rows.push(Row::Append(Box::new(EdgeRecord {
            seq,
            at,
            quality,
            fact,
        })));
        seq
    }

    /// Appends a record that the bill can do without, unless too many wait for the disk already.
    pub(crate) fn record_minor(&mut self, cx: &mut Cx, at: UnixMs, fact: EdgeFact) {
        if self.spool.unstored() < UNSTORED_MAX {
            self.record(cx, at, fact);
        }
    }

    /// The first confirmation of a boot is kept: the next boot names it.
    fn hear_standing(&mut self, cx: &mut Cx, standing: Standing) {
        match standing {
            Standing::Obeyed => {
                self.is_other = false;
                self.spool.obeyed();
                if self.boot.after != Some(self.boot.id) {
                    self.boot.after = Some(self.boot.id);
                    cx.fx.rows.push(Row::Confirmed(self.boot.id));
                }
            }
            Standing::NotObeyed => {
                self.is_other = true;
                self.spool.not_obeyed();
            }
            Standing::Untold => {}
        }
    }

    pub(crate) fn online(&self) -> bool {
        self.link == Some(true)
    }

    /// A start number that no known transaction has: positive, 31 bits.
    pub(crate) fn draw_start_number(&self, cx: &mut Cx) -> StartNumber {
        loop {
            let number = StartNumber((cx.start_number & 0x7fff_ffff).max(1));
            cx.start_number = number.0 + 1;
            if !self.txs.values().any(|t| t.start_number == Some(number)) {
                return number;
            }
        }
    }

    pub(crate) fn put_tx(&mut self, cx: &mut Cx, mut row: TxRow) {
        if row.n == 0 {
            self.txs_n += 1;
            row.n = self.txs_n;
        }
        cx.fx.rows.push(Row::Tx(Box::new(row.clone())));
        self.txs.insert(row.origin.clone(), row);
    }

    fn prune(&mut self, cx: &mut Cx) {
        if self.txs.len() > TXS_KEPT {
            let oldest = self
                .txs
                .values()
                .filter(|t| t.ended)
                .min_by_key(|t| t.n)
                .map(|t| t.origin.clone());
            if let Some(origin) = oldest {
                self.txs.remove(&origin);
                cx.fx.rows.push(Row::DropTx(origin));
            }
        }
        if self.commands.len() > COMMANDS_KEPT {
            let at = cx.stamp.at;
            let oldest = self
                .commands
                .values()
                .filter(|c| c.deadline.is_none_or(|d| d < at))
                .min_by_key(|c| c.n)
                .map(|c| c.command_id.clone());
            if let Some(id) = oldest {
                self.commands.remove(&id);
                cx.fx.rows.push(Row::DropCommand(id));
            }
        }
        if self.ended.len() > ENDED_KEPT {
            let first = self.spool.first();
            let oldest = self
                .ended
                .iter()
                .filter(|&(_, &seq)| seq < first)
                .min_by_key(|&(_, &seq)| seq)
                .map(|(&id, _)| id);
            if let Some(id) = oldest {
                self.ended.remove(&id);
                cx.fx.rows.push(Row::DropSession(id));
            }
        }
    }
}

impl ChargePoint {
    /// Rebuilds from the store. Open sessions go on where they were; the hardware will say what
    /// has become of them. `id` was drawn by the process.
    #[must_use]
    pub fn boot(identity: Identity, stored: Stored, id: BootId, now: Now) -> Self {
        let mut clock = Clock::default();
        let stamp = clock.stamp(now);
        let mut rows: BTreeMap<ConnectorId, ConnectorRow> = stored
            .connectors
            .into_iter()
            .map(|row| (row.connector, row))
            .collect();
        let mut connectors: BTreeMap<ConnectorId, Connector> = BTreeMap::new();
        for spec in &identity.connectors {
            let row = rows
                .remove(&spec.connector)
                .unwrap_or_else(|| ConnectorRow::new(spec.connector));
            let mut connector = Connector::new(spec.clone(), row);
            connector.row.spec = Some(spec.clone());
            if let Some(limit) = &mut connector.row.limit {
                limit.until.rearm(&stamp);
            }
            connectors.insert(spec.connector, connector);
        }
        let mut ended = BTreeMap::new();
        for row in stored.sessions {
            match row.state {
                StoredSession::Ended { seq } => {
                    ended.insert(row.id, seq);
                }
                StoredSession::Open(mut session) => {
                    session.rearm(&stamp);
                    // A connector that has left the configuration keeps its session: its end must
                    // still be told.
                    let connector = connectors.entry(row.connector).or_insert_with(|| {
                        let stored = rows.remove(&row.connector);
                        Connector::orphaned(stored.unwrap_or(ConnectorRow::new(row.connector)))
                    });
                    connector.session = Some(session);
                    // What this start counted as used up of its times is written down with it.
                    connector.touched = true;
                }
            }
        }
        let mut txs = BTreeMap::new();
        for row in stored.txs {
            if row.session_id.is_none()
                && !row.ended
                && let Some(connector) = connectors.get_mut(&row.connector)
            {
                connector.unclaimed.push(Unclaimed::of(&row, now.mono_ms));
            }
            txs.insert(row.origin.clone(), row);
        }
        let desk = Desk {
            identity,
            boot: Boot {
                id,
                count: stored.boots,
                after: stored.confirmed,
            },
            is_other: false,
            clock,
            spool: Spool::new(stored.epoch, stored.first, stored.next),
            link: None,
            began_mono_ms: now.mono_ms,
            link_mono_ms: None,
            boot_mono_ms: None,
            listed: None,
            storage: None,
            commands_n: stored.commands.iter().map(|c| c.n).max().unwrap_or(0),
            commands_again: 0,
            commands: stored
                .commands
                .into_iter()
                .map(|c| (c.command_id.clone(), c))
                .collect(),
            ended,
            txs_n: txs.values().map(|t| t.n).max().unwrap_or(0),
            txs,
            pending: Vec::new(),
            unsure: None,
        };
        Self { connectors, desk }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Now, draw: Draw) -> Effects {
        let stamp = self.desk.clock.stamp(now);
        if self.desk.clock.was_set() {
            self.desk.listed = None;
        }
        let mut cx = Cx::new(stamp, draw);
        self.mend(&mut cx);
        match input {
            Input::Fact(fact) => self.fact(&mut cx, fact),
            Input::Answer(answer) => self.answer(&mut cx, answer),
            Input::Command { command, reply_to } => self.command(&mut cx, command, reply_to),
            Input::LocalStart { start, reply_to } => self.local_start(&mut cx, start, reply_to),
            Input::LocalStop {
                connector,
                reply_to,
            } => self.local_stop(&mut cx, connector, reply_to),
            Input::Synced {
                sent_mono_ms,
                ts,
                epoch,
                next,
                standing,
            } => {
                self.desk.clock.learn(sent_mono_ms, now, ts);
                cx.stamp = self.desk.clock.stamp(now);
                self.mend(&mut cx);
                self.desk.spool.hear_wanted(&epoch, next);
                self.desk.hear_standing(&mut cx, standing);
            }
            Input::Evt(outcome) => {
                let random = cx.random;
                if let EvtOutcome::NotObeyed { .. } = outcome {
                    self.desk.is_other = true;
                }
                if let Some(below) = self.desk.spool.answered(&outcome, now.mono_ms, random) {
                    cx.fx.rows.push(Row::Free { below });
                }
            }
            Input::UplinkUp => self.desk.spool.hurry(),
            Input::Tick => {}
        }
        self.pass_time(&mut cx);
        self.write_changes(&mut cx);
        cx.fx
    }

    /// All rows so far are on the disk.
    pub fn stored(&mut self) {
        self.desk.storage = None;
        self.desk.spool.stored();
    }

    /// The last rows could not be written. They wait in the shell, in order; sessions go on, new
    /// ones are refused until [`Self::stored`].
    pub fn storage_failed(&mut self, why: String) {
        self.desk.storage = Some(why);
    }

    /// A run to be sent now, if any. Asked after rows are committed, while the uplink is there.
    pub fn next_run(&mut self, now: Now, random: u64) -> Option<SendRun> {
        self.desk.spool.poll(now.mono_ms, random)
    }

    /// This start of the agent.
    #[must_use]
    pub const fn this_boot(&self) -> Boot {
        self.desk.boot
    }

    /// Whether central obeys another agent with this identity.
    #[must_use]
    pub const fn is_other(&self) -> bool {
        self.desk.is_other
    }

    /// Where the spool stands.
    #[must_use]
    pub const fn spool(&self) -> &Spool {
        &self.desk.spool
    }

    /// The moment in central's time.
    pub fn stamp(&mut self, now: Now) -> Stamp {
        self.desk.clock.stamp(now)
    }

    /// Whether the time should be asked for at once.
    #[must_use]
    pub const fn wants_time(&self) -> bool {
        self.desk.clock.doubted()
    }

    /// Whether the charger hardware answers.
    #[must_use]
    pub fn charger_online(&self) -> bool {
        self.desk.online()
    }

    /// By number.
    pub fn connectors(&self) -> impl Iterator<Item = &Connector> {
        self.connectors.values()
    }

    /// What each connector can do, with those that are no longer configured and had a session when
    /// this process began: central takes what is said of them.
    #[must_use]
    pub fn specs(&self) -> Vec<ConnectorSpec> {
        self.connectors.values().map(|c| c.spec.clone()).collect()
    }

    /// The sessions that are open.
    pub fn open_sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.connectors
            .values()
            .filter_map(|c| c.session.as_ref().map(|s| s.id))
    }

    /// How many commands came again and got their first result, since this program began.
    #[must_use]
    pub fn commands_again(&self) -> u64 {
        self.desk.commands_again
    }

    /// What is wrong, as codes.
    #[must_use]
    pub fn health(&self, quality: TimeQuality) -> Vec<String> {
        let mut health = Vec::new();
        if self.desk.storage.is_some() {
            health.push(Code::StorageFailed.as_str().to_owned());
        }
        if self.desk.link == Some(false) {
            health.push(Code::ChargerOffline.as_str().to_owned());
        }
        if quality != TimeQuality::Synced {
            health.push(Code::ClockUnsure.as_str().to_owned());
        }
        if self.desk.is_other {
            health.push(Code::IdentityInUse.as_str().to_owned());
        }
        if self.desk.spool.ahead().is_some() {
            health.push("spool_behind_central".to_owned());
        }
        health
    }

    /// Why the store cannot be written, while it cannot.
    #[must_use]
    pub fn storage_problem(&self) -> Option<&str> {
        self.desk.storage.as_deref()
    }

    /// The connectors as heartbeats show them.
    #[must_use]
    pub fn beats(&self) -> Vec<ConnectorBeat> {
        self.connectors
            .values()
            .map(|c| ConnectorBeat {
                connector: c.id(),
                state: c.state(),
                session_id: c.session.as_ref().map(|s| s.id),
                register_mwh: c.reading.as_ref().map(|(r, _)| r.register_mwh),
                power_mw: c.reading.as_ref().and_then(|(r, _)| r.power_mw),
            })
            .collect()
    }

    /// Checkpoints wait so long for others, to be sent together; what else is recorded takes them
    /// along.
    pub fn hold_checkpoints(&mut self, ms: u64) {
        self.desk.spool.hold(ms);
    }

    /// Sessions that have a driver, who is told live values.
    pub fn live_sessions(&self) -> impl Iterator<Item = SessionId> {
        let sessions = self.connectors.values().filter_map(|c| c.session.as_ref());
        sessions
            .filter(|s| s.driver_id.is_some())
            .map(|session| session.id)
    }

    /// Live values of the sessions that have a driver.
    #[must_use]
    pub fn live(&self, at: UnixMs) -> Vec<(ev_contract::ids::DriverId, Live)> {
        let one = |c: &Connector| {
            let session = c.session.as_ref()?;
            let driver = session.driver_id.clone()?;
            let last = session.run().map(|r| &r.meter.last);
            let live = Live {
                tag: Tag::new(),
                to: driver.as_str().to_owned(),
                session_id: session.id,
                cp_id: self.desk.identity.cp_id.clone(),
                connector: c.id(),
                ts: at,
                phase: session.phase(),
                energy_mwh: session.run().map(|r| r.meter.energy()).unwrap_or_default(),
                power_mw: last.and_then(|r| r.power_mw),
                soc_pct: last.and_then(|r| r.soc_pct),
            };
            Some((driver, live))
        };
        self.connectors.values().filter_map(one).collect()
    }

    /// The next tick is due so long after the last input, in milliseconds.
    #[must_use]
    pub fn tick_ms(&self) -> u64 {
        let is_quiet = |c: &Connector| {
            c.unclaimed.is_empty()
                && c.unmatched.is_empty()
                && c.session.as_ref().is_none_or(Session::is_quiet)
        };
        let desk = &self.desk;
        if desk.link.is_some() && desk.pending.is_empty() && self.connectors.values().all(is_quiet)
        {
            TICK_QUIET_MS
        } else {
            TICK_MS
        }
    }

    fn fact(&mut self, cx: &mut Cx, fact: HwFact) {
        match fact {
            HwFact::Link { at, up, running } => {
                let mono = cx.stamp.mono_of(at);
                if !is_news(&mut self.desk.link_mono_ms, mono) {
                    return;
                }
                let came = up && self.desk.link != Some(true);
                self.desk.link = Some(up);
                if came {
                    self.greet(cx);
                }
                if let Some(running) = running.filter(|_| up) {
                    self.reconcile(cx, at, &running, None);
                }
            }
            HwFact::Booted { at, raw, running } => {
                let mono = cx.stamp.mono_of(at);
                let known = self.desk.boot_mono_ms;
                if known.is_some_and(|k| mono <= k) {
                    return;
                }
                self.desk.boot_mono_ms = Some(mono);
                let raw = raw.map(clip);
                let when = cx.stamp.central_of(at);
                self.desk
                    .record_minor(cx, when, EdgeFact::Booted { raw: raw.clone() });
                self.greet(cx);
                if let Some(running) = running {
                    self.reconcile(cx, at, &running, Some(raw.unwrap_or_default()));
                }
            }
            HwFact::Plug {
                at,
                connector,
                plugged,
            } => self.at(cx, connector, |c, d, cx| {
                transactions::plug(c, d, cx, at, plugged);
            }),
            HwFact::TxStarted {
                at,
                connector,
                device_tx,
                origin,
                start_number,
                reading,
            } => self.at(cx, connector, |c, d, cx| {
                let begun = transactions::Begun {
                    at,
                    device_tx: crate::hardware::DeviceTx(clip(device_tx.0)),
                    origin: OriginKey(clip(origin.0)),
                    start_number,
                    reading,
                };
                transactions::started(c, d, cx, begun);
            }),
            HwFact::Reading { connector, reading } => self.at(cx, connector, |c, d, cx| {
                transactions::observe(c, d, cx, reading);
            }),
            HwFact::Phase {
                at,
                connector,
                device_tx,
                phase,
                reading,
            } => self.at(cx, connector, |c, d, cx| {
                if let Some(reading) = reading {
                    transactions::observe(c, d, cx, reading);
                }
                transactions::phase(c, d, cx, at, device_tx.as_ref(), phase);
            }),
            HwFact::TxEnded {
                at,
                connector,
                device_tx,
                origin,
                start_number,
                reason,
                reading,
            } => self.at(cx, connector, |c, d, cx| {
                let over = Over {
                    at,
                    device_tx: crate::hardware::DeviceTx(clip(device_tx.0)),
                    origin: origin.map(|o| OriginKey(clip(o.0))),
                    start_number,
                    reason: clip_reason(reason),
                    reading,
                };
                transactions::ended(c, d, cx, over);
            }),
            HwFact::Fault {
                at,
                connector,
                fault,
            } => self.at(cx, connector, |c, _, cx| {
                if is_news(&mut c.fault_mono_ms, cx.stamp.mono_of(at)) {
                    c.row.fault = fault.map(|mut f| {
                        f.raw = clip(f.raw);
                        f
                    });
                }
            }),
            HwFact::Service {
                at,
                connector,
                in_service,
            } => self.at(cx, connector, |c, _, cx| {
                if is_news(&mut c.service_mono_ms, cx.stamp.mono_of(at)) {
                    c.row.hardware_in_service = in_service;
                }
            }),
        }
    }

    /// Runs `act` on a connector; one that does not exist is an anomaly of the hardware.
    fn at(
        &mut self,
        cx: &mut Cx,
        connector: ConnectorId,
        act: impl FnOnce(&mut Connector, &mut Desk, &mut Cx),
    ) {
        match self.connectors.get_mut(&connector) {
            Some(c) => act(c, &mut self.desk, cx),
            None => cx.fx.alarms.push(format!(
                "the charger reports about connector {connector}, which is not configured"
            )),
        }
    }

    /// The hardware is there again: tell it what it may have forgotten, and what waits.
    fn greet(&mut self, cx: &mut Cx) {
        for c in self.connectors.values_mut() {
            if let Some(limit) = &c.row.limit {
                cx.fx.hardware.push(HwCommand::SetLimit {
                    connector: c.spec.connector,
                    max_ma: limit.in_force(),
                    phases: limit.phases,
                });
            }
            transactions::hurry(c, &cx.stamp);
        }
    }

    /// The hardware lists its transactions as of `at`. One that is missing has ended; its end may
    /// still be on the way.
    fn reconcile(
        &mut self,
        cx: &mut Cx,
        at: UnixMs,
        running: &[RunningTx],
        booted: Option<String>,
    ) {
        // A stamp from the future is one from before the wall clock was set back: how old the list
        // is cannot be told, and an end is not concluded from it.
        if at.ms_since(cx.stamp.now.wall) > AHEAD_MS_MAX {
            return;
        }
        let mono = cx.stamp.mono_of(at);
        let list = Listed {
            mono_ms: mono,
            began_mono_ms: self.desk.began_mono_ms,
            running,
            booted: booted.as_deref(),
        };
        for c in self.connectors.values_mut() {
            transactions::reconcile(c, cx, list);
        }
        if self
            .desk
            .listed
            .as_ref()
            .is_none_or(|(last, _)| *last <= mono)
        {
            self.desk.listed = Some((mono, running.to_vec()));
        }
    }

    fn answer(&mut self, cx: &mut Cx, answer: HwAnswer) {
        match &answer.command {
            HwCommand::Start { connector, .. } | HwCommand::Stop { connector, .. } => {
                self.at(cx, *connector, |c, d, cx| {
                    transactions::answered(c, d, cx, &answer);
                });
            }
            HwCommand::Unlock { .. } | HwCommand::Reset => self.hardware_done(cx, &answer),
            HwCommand::SetLimit { .. } | HwCommand::SetService { .. } => match answer.verdict {
                crate::hardware::HwVerdict::Accepted => {}
                crate::hardware::HwVerdict::Rejected
                | crate::hardware::HwVerdict::Unsupported
                | crate::hardware::HwVerdict::Unknown => cx.fx.alarms.push(format!(
                    "the charger answered {:?} to {:?}",
                    answer.verdict, answer.command
                )),
            },
        }
    }

    /// Mends what this process has dated by the host's own clock when that clock is set, and when
    /// central's time becomes known.
    fn mend(&mut self, cx: &mut Cx) {
        let frame_ms = cx.stamp.frame_ms();
        let is_sure = cx.stamp.quality == TimeQuality::Synced;
        let Some(unsure) = self.desk.unsure else {
            if !is_sure {
                self.desk.unsure = Some(Unsure {
                    from: self.desk.spool.next(),
                    since: cx.stamp.at,
                    frame_ms,
                    mends: 0,
                });
            }
            return;
        };
        let by_ms = frame_ms.saturating_sub(unsure.frame_ms);
        if !is_sure && by_ms.unsigned_abs() < MEND_MS_MIN {
            return;
        }
        let shift = Shift {
            since: unsure.since,
            to: cx.stamp.at.plus_ms(by_ms.saturating_neg()),
            by_ms,
            sure: is_sure,
        };
        for c in self.connectors.values_mut() {
            c.shift(&shift);
        }
        let txs = self.desk.txs.values().filter(|tx| tx.session_id.is_none());
        for mut tx in txs.cloned().collect::<Vec<_>>() {
            if shift.reading(&mut tx.start) {
                self.desk.put_tx(cx, tx);
            }
        }
        let (from, until) = (self.desk.spool.unsent(unsure.from), self.desk.spool.next());
        if from < until {
            cx.fx.rows.push(Row::Mend(Mend { from, until, shift }));
        }
        let mends = unsure.mends + 1;
        self.desk.unsure = (!is_sure).then(|| Unsure {
            // Beyond the bound it is left alone, and what follows is another stretch.
            from: if mends < MENDS_MAX { from } else { until },
            since: unsure.since.plus_ms(by_ms),
            frame_ms,
            mends: mends % MENDS_MAX,
        });
    }

    fn pass_time(&mut self, cx: &mut Cx) {
        if self.desk.link.is_none()
            && cx.mono_ms().saturating_sub(self.desk.began_mono_ms) > LINK_WAIT_MS
        {
            self.desk.link = Some(false);
        }
        for c in self.connectors.values_mut() {
            transactions::pass_time(c, &mut self.desk, cx);
        }
        self.give_up_pending(cx);
    }

    /// Records connectors that changed, and turns everything touched into rows.
    fn write_changes(&mut self, cx: &mut Cx) {
        let at = cx.stamp.at;
        for c in self.connectors.values_mut() {
            if let Some(link) = self.desk.link {
                let fact = c.fact(link);
                if c.recorded.as_ref() != Some(&fact) {
                    self.desk.record(cx, at, fact.clone());
                    c.recorded = Some(fact);
                }
            }
            c.mark_times(&cx.stamp);
            if c.row != c.saved {
                c.saved = c.row.clone();
                cx.fx.rows.push(Row::Connector(Box::new(c.row.clone())));
            }
            if let Some(session) = c.session.as_ref().filter(|_| c.touched) {
                cx.fx.rows.push(Row::Session(Box::new(SessionRow {
                    id: session.id,
                    connector: c.spec.connector,
                    state: StoredSession::Open(session.clone()),
                })));
            }
            c.touched = false;
        }
        if !cx.fx.rows.is_empty() {
            self.desk.prune(cx);
        }
    }
}

/// Ends a session: its last record, what is kept of it, and what its end means to the connector.
pub(crate) fn end_session(
    c: &mut Connector,
    desk: &mut Desk,
    cx: &mut Cx,
    session_id: SessionId,
    end: End,
) {
    let End {
        completed,
        reason,
        reading,
        at,
        stood_s,
    } = end;
    let seq = desk.record(
        cx,
        at,
        EdgeFact::Ended {
            session_id,
            completed,
            reason,
            reading,
            stood_s,
        },
    );
    desk.ended.insert(session_id, seq);
    cx.fx.rows.push(Row::Session(Box::new(SessionRow {
        id: session_id,
        connector: c.spec.connector,
        state: StoredSession::Ended { seq },
    })));
    c.touched = false;
}

/// How a session ends.
pub(crate) struct End {
    pub(crate) completed: bool,
    pub(crate) reason: EndReason,
    pub(crate) reading: Option<Reading>,
    pub(crate) at: UnixMs,
    /// How long it has stood, as far as that was measured.
    pub(crate) stood_s: Option<u32>,
}

/// Bounds a text from the device.
pub(crate) fn clip(mut text: String) -> String {
    let max = crate::limits::DEVICE_TEXT_BYTES_MAX;
    if text.len() > max {
        let end = (0..=max).rev().find(|&i| text.is_char_boundary(i));
        text.truncate(end.unwrap_or(0));
    }
    text
}

fn clip_reason(mut reason: EndReason) -> EndReason {
    reason.raw = reason.raw.map(clip);
    reason
}
