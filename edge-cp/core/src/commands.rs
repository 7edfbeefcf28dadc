//! Commands from central, and acts at the cabinet.
//!
//! A command is looked up first: a known one gets its first result. Only an unknown start can be
//! late. Every final result is a row in the same effects as its answer.

use ev_contract::{
    codes::Code,
    connector::Service,
    ids::{CommandId, ConnectorId, DriverId, SessionId},
    time::UnixMs,
    v1::{
        EdgeFact, EndCode, EndReason, EndSource, LimitCommand, Limits, Origin, Outcome,
        PingCommand, ResetCommand, ServiceCommand, StartCommand, StopCommand, UnlockCommand,
    },
};

use crate::{
    charge_point::{ChargePoint, Cx, Desk, clip},
    clock::Lateness,
    connector::{Connector, CurrentLimit},
    effects::{Answer, CommandRow, LocalAnswer, ReplyTo, Row},
    hardware::{HwAnswer, HwCommand, HwVerdict},
    limits::{HW_ANSWER_WAIT_MS, LOCAL_PLUG_WAIT_S, PENDING_MAX, WAITERS_MAX},
    session::{Deadline, Session, Stage},
    transactions,
};

/// A command of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take a session.
    Start(StartCommand),
    /// End a session.
    Stop(StopCommand),
    /// Bound the current.
    SetLimit(LimitCommand),
    /// Release the plug.
    Unlock(UnlockCommand),
    /// Serve drivers or not.
    SetService(ServiceCommand),
    /// Boot the charger.
    Reset(ResetCommand),
    /// Are you there?
    Ping(PingCommand),
}

/// A start at the cabinet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalStart {
    /// Where.
    pub connector: ConnectorId,
    /// What was shown to the reader.
    pub token: Option<String>,
    /// Nobody pays.
    pub free: bool,
}

/// A command that waits for the hardware's answer.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    command_id: CommandId,
    hardware: HwCommand,
    deadline: UnixMs,
    until: Deadline,
    waiters: Vec<ReplyTo>,
}

/// What a command comes to.
struct Verdict {
    outcome: Outcome,
    code: Option<Code>,
    raw: Option<String>,
}

impl Verdict {
    const fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            code: None,
            raw: None,
        }
    }
    const fn refused(code: Code) -> Self {
        Self {
            outcome: Outcome::Refused,
            code: Some(code),
            raw: None,
        }
    }
    const fn not_yet(code: Code) -> Self {
        Self {
            outcome: Outcome::NotYet,
            code: Some(code),
            raw: None,
        }
    }
}

/// What of a command its result is stored with.
struct Key {
    command_id: CommandId,
    session_id: Option<SessionId>,
    deadline: Option<UnixMs>,
    reply_to: ReplyTo,
}

impl Desk {
    /// Answers, and stores a final result first.
    fn conclude(&mut self, cx: &mut Cx, key: Key, verdict: Verdict) {
        let Verdict { outcome, code, raw } = verdict;
        let last = match outcome {
            Outcome::NotYet => false,
            Outcome::Taken
            | Outcome::Stopping
            | Outcome::Ended
            | Outcome::Absent
            | Outcome::Done
            | Outcome::Refused
            | Outcome::Unrecognised => true,
        };
        if last {
            self.commands_n += 1;
            let row = CommandRow {
                command_id: key.command_id.clone(),
                n: self.commands_n,
                session_id: key.session_id,
                tombstone: outcome == Outcome::Absent,
                outcome,
                code,
                raw: raw.clone(),
                deadline: key.deadline,
            };
            cx.fx.rows.push(Row::Command(row.clone()));
            self.commands.insert(key.command_id.clone(), row);
        }
        cx.fx.replies.push((
            key.reply_to,
            Answer {
                command_id: Some(key.command_id),
                epoch: self.spool.epoch().clone(),
                boot: self.boot.id,
                outcome,
                code,
                raw,
            },
        ));
    }

    /// The first result of a known command.
    fn known(&self, id: &CommandId) -> Option<Answer> {
        self.commands.get(id).map(|row| Answer {
            command_id: Some(id.clone()),
            epoch: self.spool.epoch().clone(),
            boot: self.boot.id,
            outcome: row.outcome,
            code: row.code,
            raw: row.raw.clone(),
        })
    }

    /// Whether the hardware can be asked, or why not yet.
    const fn link_refusal(&self) -> Option<Verdict> {
        match self.link {
            Some(true) => None,
            Some(false) => Some(Verdict::refused(Code::ChargerOffline)),
            None => Some(Verdict::not_yet(Code::ChargerOffline)),
        }
    }

    /// Whether a deadline by central's clock is kept, or why not.
    fn judge(&self, cx: &Cx, deadline: UnixMs) -> Option<Verdict> {
        match cx.stamp.judge(deadline) {
            Lateness::InTime => None,
            Lateness::Late => Some(Verdict::refused(Code::Late)),
            Lateness::Unsure => Some(Verdict::not_yet(Code::ClockUnsure)),
        }
    }
}

impl ChargePoint {
    pub(crate) fn command(&mut self, cx: &mut Cx, command: Command, reply_to: ReplyTo) {
        if !self.is_addressed(&command) {
            self.overhear(cx, command);
            return;
        }
        let id = match &command {
            Command::Start(c) => &c.command_id,
            Command::Stop(c) => &c.command_id,
            Command::SetLimit(c) => &c.command_id,
            Command::Unlock(c) => &c.command_id,
            Command::SetService(c) => &c.command_id,
            Command::Reset(c) => &c.command_id,
            Command::Ping(_) => {
                let answer = Answer {
                    command_id: None,
                    epoch: self.desk.spool.epoch().clone(),
                    boot: self.desk.boot.id,
                    outcome: Outcome::Done,
                    code: None,
                    raw: None,
                };
                cx.fx.replies.push((reply_to, answer));
                return;
            }
        };
        if let Some(answer) = self.desk.known(id) {
            cx.fx.replies.push((reply_to, answer));
            self.desk.commands_again += 1;
            return;
        }
        match command {
            Command::Start(c) => self.start(cx, c, reply_to),
            Command::Stop(c) => self.stop(cx, c, reply_to),
            Command::SetLimit(c) => self.set_limit(cx, c, reply_to),
            Command::Unlock(c) => {
                let hardware = HwCommand::Unlock {
                    connector: c.connector,
                };
                let known = self.connectors.contains_key(&c.connector);
                let refusal = (!known).then(|| Verdict::refused(Code::UnknownConnector));
                self.ask_hardware(cx, c.command_id, c.expires_at, hardware, refusal, reply_to);
            }
            Command::SetService(c) => self.set_service(cx, c, reply_to),
            Command::Reset(c) => {
                self.ask_hardware(
                    cx,
                    c.command_id,
                    c.expires_at,
                    HwCommand::Reset,
                    None,
                    reply_to,
                );
            }
            Command::Ping(_) => {}
        }
    }

    /// Whether a command is for this start of the agent. Until its `sync` was taken none is, and never
    /// what is for another agent with the same identity. A ping is for all who do not know that they are
    /// not obeyed.
    #[must_use]
    pub fn is_addressed(&self, command: &Command) -> bool {
        let boot = match command {
            Command::Start(c) => c.boot,
            Command::Stop(c) => c.boot,
            Command::SetLimit(c) => c.boot,
            Command::Unlock(c) => c.boot,
            Command::SetService(c) => c.boot,
            Command::Reset(c) => c.boot,
            Command::Ping(_) => return !self.desk.is_other,
        };
        boot == self.desk.boot.id
    }

    /// What is for another start of the agent is not answered. A stop of a session that runs here is
    /// carried out all the same: whoever is obeyed, its driver wants it to end.
    fn overhear(&mut self, cx: &mut Cx, command: Command) {
        let Command::Stop(stop) = command else {
            return;
        };
        let runs = |c: &&mut Connector| c.session.as_ref().is_some_and(|s| s.id == stop.session_id);
        if let Some(c) = self.connectors.values_mut().find(runs) {
            stop_here(c, &mut self.desk, cx, stop.reason);
        }
    }

    fn start(&mut self, cx: &mut Cx, start: StartCommand, reply_to: ReplyTo) {
        let key = Key {
            command_id: start.command_id.clone(),
            session_id: Some(start.session_id),
            deadline: Some(start.expires_at),
            reply_to,
        };
        let verdict = match self.why_not(cx, &start) {
            Some(verdict) => verdict,
            None => Verdict::of(Outcome::Taken),
        };
        let taken = verdict.outcome == Outcome::Taken;
        self.desk.conclude(cx, key, verdict);
        let Some(c) = self.connectors.get_mut(&start.connector).filter(|_| taken) else {
            return;
        };
        let at = cx.stamp.at;
        self.desk.record(
            cx,
            at,
            EdgeFact::Accepted {
                session_id: start.session_id,
                connector: start.connector,
            },
        );
        let opening = Opening {
            id: start.session_id,
            origin: Origin::App,
            driver_id: start.driver_id,
            limits: start.limits,
            idle_s_max: start.idle_s_max,
            plug_wait_s: start.plug_wait_s,
        };
        open(c, &mut self.desk, cx, opening);
    }

    /// Why an unknown start is not taken, if it is not.
    fn why_not(&self, cx: &Cx, start: &StartCommand) -> Option<Verdict> {
        let desk = &self.desk;
        let stop = desk.commands.get(&CommandId::stop(start.session_id));
        if stop.is_some_and(|row| row.tombstone) {
            return Some(Verdict::refused(Code::StoppedBeforeStart));
        }
        // A session whose command is no longer kept: what it came to is.
        if desk.ended.contains_key(&start.session_id) {
            return Some(Verdict::of(Outcome::Ended));
        }
        if start.epoch != *desk.spool.epoch() {
            return Some(Verdict::refused(Code::WrongEpoch));
        }
        if desk.storage.is_some() {
            return Some(Verdict::not_yet(Code::StorageFailed));
        }
        if let Some(verdict) = desk.judge(cx, start.expires_at) {
            return Some(verdict);
        }
        let Some(c) = self.connectors.get(&start.connector) else {
            return Some(Verdict::refused(Code::UnknownConnector));
        };
        if desk.link.is_none() && c.session.is_none() {
            return Some(Verdict::not_yet(Code::ChargerOffline));
        }
        c.refusal(desk.online()).map(Verdict::refused)
    }

    fn stop(&mut self, cx: &mut Cx, stop: StopCommand, reply_to: ReplyTo) {
        let key = Key {
            command_id: stop.command_id,
            session_id: Some(stop.session_id),
            deadline: None,
            reply_to,
        };
        let found = self
            .connectors
            .values_mut()
            .find(|c| c.session.as_ref().is_some_and(|s| s.id == stop.session_id));
        // A stop is carried out even while it cannot be stored; only its answer must wait.
        let unstorable = self.desk.storage.is_some();
        let verdict = match found {
            Some(c) => {
                stop_here(c, &mut self.desk, cx, stop.reason);
                Verdict::of(Outcome::Stopping)
            }
            None if self.desk.ended.contains_key(&stop.session_id) => Verdict::of(Outcome::Ended),
            None => Verdict::of(Outcome::Absent),
        };
        let verdict = if unstorable {
            Verdict::not_yet(Code::StorageFailed)
        } else {
            verdict
        };
        self.desk.conclude(cx, key, verdict);
    }

    fn set_limit(&mut self, cx: &mut Cx, limit: LimitCommand, reply_to: ReplyTo) {
        let key = Key {
            command_id: limit.command_id,
            session_id: None,
            deadline: Some(limit.valid_until),
            reply_to,
        };
        let verdict = match self.connectors.get_mut(&limit.connector) {
            None => Verdict::refused(Code::UnknownConnector),
            Some(_) if self.desk.storage.is_some() => Verdict::not_yet(Code::StorageFailed),
            Some(c) => match self.desk.judge(cx, limit.valid_until) {
                Some(verdict) => verdict,
                None => {
                    let left = limit.valid_until.ms_since(cx.stamp.at);
                    let max_ma = limit.max_ma.min(c.spec.max_ma);
                    c.row.limit = Some(CurrentLimit {
                        max_ma,
                        phases: limit.phases,
                        until: Deadline::after(&cx.stamp, u64::try_from(left).unwrap_or(0)),
                        fallback_ma: limit.fallback_ma.min(c.spec.max_ma),
                        fallen_back: false,
                    });
                    cx.fx.hardware.push(HwCommand::SetLimit {
                        connector: limit.connector,
                        max_ma,
                        phases: limit.phases,
                    });
                    transactions::limit_changed(c, &mut self.desk, cx);
                    Verdict::of(Outcome::Done)
                }
            },
        };
        self.desk.conclude(cx, key, verdict);
    }

    fn set_service(&mut self, cx: &mut Cx, service: ServiceCommand, reply_to: ReplyTo) {
        let key = Key {
            command_id: service.command_id,
            session_id: None,
            deadline: None,
            reply_to,
        };
        let verdict = match self.connectors.get_mut(&service.connector) {
            None => Verdict::refused(Code::UnknownConnector),
            Some(_) if self.desk.storage.is_some() => Verdict::not_yet(Code::StorageFailed),
            Some(c) => {
                // An older change of mind is passed over.
                if service.revision > c.row.service_revision {
                    c.row.service_revision = service.revision;
                    let wanted = match (service.service, &c.session) {
                        (Service::Out | Service::OutAfterSession, Some(_)) => {
                            Service::OutAfterSession
                        }
                        (Service::Out | Service::OutAfterSession, None) => Service::Out,
                        (Service::In | Service::Unrecognised, _) => Service::In,
                    };
                    c.row.service = wanted;
                    match wanted {
                        Service::In | Service::Out => cx.fx.hardware.push(HwCommand::SetService {
                            connector: service.connector,
                            in_service: wanted == Service::In,
                        }),
                        Service::OutAfterSession | Service::Unrecognised => {}
                    }
                }
                Verdict::of(Outcome::Done)
            }
        };
        self.desk.conclude(cx, key, verdict);
    }

    fn ask_hardware(
        &mut self,
        cx: &mut Cx,
        command_id: CommandId,
        deadline: UnixMs,
        hardware: HwCommand,
        refusal: Option<Verdict>,
        reply_to: ReplyTo,
    ) {
        let waiting = self
            .desk
            .pending
            .iter_mut()
            .find(|p| p.command_id == command_id);
        if let Some(pending) = waiting {
            if pending.waiters.len() < WAITERS_MAX {
                pending.waiters.push(reply_to);
            }
            return;
        }
        let busy = self.desk.pending.len() >= PENDING_MAX;
        let verdict = refusal
            .or_else(|| {
                self.desk
                    .storage
                    .is_some()
                    .then(|| Verdict::not_yet(Code::StorageFailed))
            })
            .or_else(|| self.desk.judge(cx, deadline))
            .or_else(|| self.desk.link_refusal())
            .or_else(|| busy.then(|| Verdict::not_yet(Code::Overloaded)));
        if let Some(verdict) = verdict {
            let key = Key {
                command_id,
                session_id: None,
                deadline: Some(deadline),
                reply_to,
            };
            self.desk.conclude(cx, key, verdict);
            return;
        }
        cx.fx.hardware.push(hardware.clone());
        self.desk.pending.push(Pending {
            command_id,
            hardware,
            deadline,
            until: Deadline::after(&cx.stamp, HW_ANSWER_WAIT_MS),
            waiters: vec![reply_to],
        });
    }

    /// The hardware answered an unlock or a reset.
    pub(crate) fn hardware_done(&mut self, cx: &mut Cx, answer: &HwAnswer) {
        let index = self
            .desk
            .pending
            .iter()
            .position(|p| p.hardware == answer.command);
        let Some(index) = index else {
            return;
        };
        let pending = self.desk.pending.remove(index);
        let raw = answer.raw.clone().map(clip);
        let (outcome, code) = match answer.verdict {
            HwVerdict::Accepted => (Outcome::Done, None),
            HwVerdict::Rejected | HwVerdict::Unknown => {
                (Outcome::Refused, Some(Code::RejectedByCharger))
            }
            HwVerdict::Unsupported => (Outcome::Refused, Some(Code::Unsupported)),
        };
        self.conclude_pending(cx, pending, outcome, code, raw.as_ref());
    }

    /// Commands that the hardware did not answer in time.
    pub(crate) fn give_up_pending(&mut self, cx: &mut Cx) {
        while let Some(index) = self
            .desk
            .pending
            .iter()
            .position(|p| p.until.passed(&cx.stamp))
        {
            let pending = self.desk.pending.remove(index);
            self.conclude_pending(cx, pending, Outcome::Refused, Some(Code::NoAnswer), None);
        }
    }

    fn conclude_pending(
        &mut self,
        cx: &mut Cx,
        pending: Pending,
        outcome: Outcome,
        code: Option<Code>,
        raw: Option<&String>,
    ) {
        // What cannot be stored is not final: the asker repeats, and the hardware is asked again.
        let unstorable = self.desk.storage.is_some();
        for (n, reply_to) in pending.waiters.into_iter().enumerate() {
            let key = Key {
                command_id: pending.command_id.clone(),
                session_id: None,
                deadline: Some(pending.deadline),
                reply_to,
            };
            if n > 0 && !unstorable {
                if let Some(answer) = self.desk.known(&pending.command_id) {
                    cx.fx.replies.push((reply_to, answer));
                }
                continue;
            }
            let verdict = if unstorable {
                Verdict::not_yet(Code::StorageFailed)
            } else {
                Verdict {
                    outcome,
                    code,
                    raw: raw.cloned(),
                }
            };
            self.desk.conclude(cx, key, verdict);
        }
    }

    pub(crate) fn local_start(&mut self, cx: &mut Cx, start: LocalStart, reply_to: ReplyTo) {
        let answer = self.try_local_start(cx, start);
        cx.fx.local.push((reply_to, answer));
    }

    fn try_local_start(&mut self, cx: &mut Cx, start: LocalStart) -> LocalAnswer {
        let Some(c) = self.connectors.get_mut(&start.connector) else {
            return LocalAnswer::Refused(Code::UnknownConnector);
        };
        if let Some(code) = c.refusal(self.desk.online()) {
            return LocalAnswer::Refused(code);
        }
        if self.desk.storage.is_some() {
            return LocalAnswer::Refused(Code::StorageFailed);
        }
        let Some(id) = cx.draw_session() else {
            return LocalAnswer::Refused(Code::Overloaded);
        };
        let origin = if start.free {
            Origin::Free
        } else {
            Origin::Local
        };
        let at = cx.stamp.at;
        self.desk.record(
            cx,
            at,
            EdgeFact::OpenedAtEdge {
                session_id: id,
                connector: start.connector,
                origin,
                driver_id: None,
                token: start.token.map(clip),
            },
        );
        let opening = Opening {
            id,
            origin,
            driver_id: None,
            limits: Limits::default(),
            idle_s_max: 0,
            plug_wait_s: LOCAL_PLUG_WAIT_S,
        };
        open(c, &mut self.desk, cx, opening);
        LocalAnswer::Started(id)
    }

    pub(crate) fn local_stop(&mut self, cx: &mut Cx, connector: ConnectorId, reply_to: ReplyTo) {
        let answer = match self.connectors.get_mut(&connector) {
            None => LocalAnswer::Refused(Code::UnknownConnector),
            Some(c) => match c.session.as_ref().map(|s| s.id) {
                None => LocalAnswer::Refused(Code::SessionNotFound),
                Some(id) => {
                    let reason = EndReason::new(EndCode::Local, EndSource::Technician);
                    transactions::end_idle(c, &mut self.desk, cx);
                    transactions::begin_stop(c, &mut self.desk, cx, reason);
                    LocalAnswer::Stopping(id)
                }
            },
        };
        cx.fx.local.push((reply_to, answer));
    }
}

/// Stops the session on a connector.
fn stop_here(c: &mut Connector, desk: &mut Desk, cx: &mut Cx, reason: EndReason) {
    let by_driver = match reason.source {
        EndSource::Driver => true,
        EndSource::Operator
        | EndSource::Central
        | EndSource::ChargePoint
        | EndSource::Charger
        | EndSource::Vehicle
        | EndSource::Technician
        | EndSource::Unrecognised => false,
    };
    let idle = c
        .session
        .as_ref()
        .is_some_and(|s| matches!(s.stage, Stage::Idle { .. }));
    match (idle, by_driver) {
        // Energy has ended. A driver's stop does not end the standing, which costs.
        (true, true) => {}
        (true, false) => transactions::end_idle(c, desk, cx),
        (false, _) => transactions::begin_stop(c, desk, cx, reason),
    }
}

/// A session that is about to be on a connector.
struct Opening {
    id: SessionId,
    origin: Origin,
    driver_id: Option<DriverId>,
    limits: Limits,
    idle_s_max: u32,
    plug_wait_s: u32,
}

/// Puts a session on a free connector. A device transaction that waits there is its own; else the
/// hardware is asked as soon as a car is plugged in.
fn open(c: &mut Connector, desk: &mut Desk, cx: &mut Cx, opening: Opening) {
    c.session = Some(Session {
        id: opening.id,
        origin: opening.origin,
        driver_id: opening.driver_id,
        limits: opening.limits,
        idle_s_max: opening.idle_s_max,
        taken_at: cx.stamp.moment(),
        stage: Stage::AwaitingPlug {
            until: Deadline::after(&cx.stamp, u64::from(opening.plug_wait_s) * 1_000),
        },
        anomalies: 0,
    });
    c.touched = true;
    transactions::claim(c, desk, cx);
}
