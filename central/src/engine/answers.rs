//! From the state to replies. The one place where a code gets its message and its hint on the way
//! out, and where answers are counted.

use std::{sync::Arc, time::Instant};

use central_core::{
    decide::{Act, Command, ENROLMENTS_MAX, Run, Unrecorded, Wish},
    effects, insight,
    keys::Asker,
    model::{Answer, Session},
    state::Entry,
    trail::{Cursor, Filter},
    view,
};
use ev_contract::{
    codes::{Code, Problem},
    ids::{BootId, CommandId, ConnectorId, CpId, Epoch, OperatorId, RequestId, SessionId},
    limits::REQUEST_LIFE_MS_MAX,
    time::UnixMs,
    v1::{
        AuditEntry, AuditKind, CommandReply, CpLsReply, EnrolReply, ErrorReply, EventsReply,
        EvtReply, HistoryReply, ListReply, OpReply, Outcome, ReceiptReply, ResetCommand,
        SessionLsReply, SessionView, Status, StatusReply, SyncReply, SyncRequest, TariffLsReply,
        UnlockCommand, UpdateType, WaitView,
    },
    wire::Tag,
};

use super::{About, Engine, Item, ItemKind, frames::Whom, wall};
use crate::{
    audit::{Reading, entry::Told},
    border::{Page, Query, ReplyTo},
    orders,
    receipts::CdrId,
    reports::{Known, ReceiptsPage},
};

/// What an asker is told whose question the ledger could not take; up to twice that, so that many
/// who are told at once do not come back at once.
const RETRY_MS: u64 = 500;
/// Changes of reach in one page of events, the newest: with some 100 bytes each a fifth of a reply.
const REACH_ROWS_MAX: usize = 1_000;

/// The answer to something that was not decided or looked up.
#[must_use]
pub fn error_reply(to: String, request_id: Option<String>, problem: Problem) -> ErrorReply {
    ErrorReply {
        tag: Tag::new(),
        to,
        request_id,
        status: if problem.code.undecided() {
            Status::Unknown
        } else {
            Status::Denied
        },
        reason: problem.code.as_str().to_owned(),
        error: problem,
        ts: wall(),
    }
}

fn problem_for(whom: Whom, problem: Problem) -> ErrorReply {
    error_reply(whom.to, whom.request_id, problem)
}

impl Engine {
    /// An item was answered.
    fn counted(&self, item: &Item, result: &str, code: &str) {
        self.metrics.answered(item.verb, result, code);
        self.metrics.took(item.verb, result, item.since.elapsed());
    }

    fn reply<T: serde::Serialize>(&self, reply: Option<&ReplyTo>, message: &T) {
        if let Some(reply) = reply {
            self.out
                .send(reply.subject.clone(), message, reply.encoding);
        }
    }

    /// Tells somebody something: an operator once the audit has it.
    fn tell<T: serde::Serialize + Told>(
        &self,
        draft: Option<&AuditEntry>,
        reply: Option<&ReplyTo>,
        message: &T,
    ) {
        match draft {
            Some(draft) if draft.kind == AuditKind::Op => self.audit.answer(draft, reply, message),
            Some(_) | None => self.reply(reply, message),
        }
    }

    /// Writes down that a driver named a session that is not the driver's. The answer does not say
    /// which of the two it is.
    fn note_foreign(&self, item: &Item) {
        let Some(draft) = &item.draft else {
            return;
        };
        let there = draft
            .session_id
            .as_ref()
            .and_then(|id| id.parse().ok())
            .is_some_and(|id| self.log.state().session(id).is_some());
        let detail = if there {
            "another driver's session"
        } else {
            "no such session"
        };
        self.audit
            .refused(draft, Some(Code::SessionNotFound), detail);
    }

    /// Answers that something was not decided.
    pub(super) fn refuse(&self, item: &Item, code: Code, what: &str) {
        let mut problem = code.about(what);
        if code == Code::Overloaded {
            problem.retry_after_ms = Some(RETRY_MS + rand::random_range(0..RETRY_MS));
        }
        self.counted(item, "error", code.as_str());
        match &item.kind {
            ItemKind::Decide(Command::Sync(cp, _)) => self.reply(
                item.reply.as_ref(),
                &SyncReply {
                    tag: Tag::new(),
                    to: cp.to_string(),
                    epoch: String::new(),
                    next: 0,
                    error: Some(problem),
                    ts: wall(),
                },
            ),
            ItemKind::Decide(Command::Intake(run)) => self.reply(
                item.reply.as_ref(),
                &EvtReply {
                    tag: Tag::new(),
                    to: run.cp.to_string(),
                    epoch: String::new(),
                    next: 0,
                    aside: None,
                    error: Some(problem),
                    ts: wall(),
                },
            ),
            ItemKind::Decide(
                Command::Request(..)
                | Command::Answered(_)
                | Command::Release(_)
                | Command::Forget(_)
                | Command::Announce(_),
            )
            | ItemKind::Query(..)
            | ItemKind::Announced(..)
            | ItemKind::Barrier => self.tell(
                item.draft.as_deref(),
                item.reply.as_ref(),
                &problem_for(item.id_for_reply(), problem),
            ),
        }
    }

    pub(super) fn tell_unknown(
        &self,
        reply: Option<ReplyTo>,
        whom: Whom,
        (verb, since): (&'static str, Instant),
        draft: Option<&AuditEntry>,
    ) {
        let what = whom.request_id.clone().unwrap_or_else(|| verb.to_owned());
        let problem = Code::OutcomeUnknown.about(&what);
        self.metrics
            .answered(verb, "error", Code::OutcomeUnknown.as_str());
        self.metrics.took(verb, "error", since.elapsed());
        self.tell(draft, reply.as_ref(), &problem_for(whom, problem));
    }

    /// Answers a request by what is recorded of it; `None` when the id was used for something else.
    pub(super) fn answer_request(&mut self, item: Item, recorded: Option<Answer>) {
        let ItemKind::Decide(Command::Request(ask, wish)) = &item.kind else {
            return;
        };
        let Some(recorded) = recorded else {
            let code = Code::RequestIdReused;
            self.counted(&item, "denied", code.as_str());
            let problem = code.about(ask.request.as_str());
            self.tell(
                item.draft.as_deref(),
                item.reply.as_ref(),
                &problem_for(item.id_for_reply(), problem),
            );
            return;
        };
        if let (Answer::Done { .. }, Wish::Act { cp, connector, act }) = (&recorded, wish) {
            let (cp, connector, act) = (cp.clone(), *connector, *act);
            self.pass_on(item, &cp, connector, act);
            return;
        }
        match &recorded {
            Answer::Refused { code, .. } => {
                self.counted(&item, "denied", code.as_str());
                if let (Code::SessionNotFound, Asker::Driver(_)) = (code, &ask.asker) {
                    self.note_foreign(&item);
                }
            }
            Answer::Started { .. } | Answer::Stopping { .. } | Answer::Done { .. } => {
                self.counted(&item, "accepted", "");
            }
        }
        ev_crash::reach("answer", answer_kind(item.verb));
        match &ask.asker {
            Asker::Driver(driver) => {
                let kind = match wish {
                    Wish::Start { .. } => UpdateType::StartReply,
                    Wish::Stop { .. }
                    | Wish::End { .. }
                    | Wish::Adjust { .. }
                    | Wish::Service { .. }
                    | Wish::Site { .. }
                    | Wish::Act { .. }
                    | Wish::Block { .. }
                    | Wish::Unblock { .. }
                    | Wish::SetTariff { .. }
                    | Wish::RemoveTariff { .. } => UpdateType::StopReply,
                };
                let update = view::answer(
                    self.log.state(),
                    kind,
                    driver,
                    &ask.request,
                    &recorded,
                    wall(),
                );
                self.reply(item.reply.as_ref(), &update);
            }
            Asker::Operator(operator) => {
                let reply = op_reply(operator.to_string(), &ask.request, &recorded);
                self.tell(item.draft.as_deref(), item.reply.as_ref(), &reply);
            }
        }
    }

    /// Passes a one-off act on to the charge point; its answer is the answer. The charge point
    /// remembers the command, so that a repeat does it once.
    fn pass_on(&mut self, item: Item, cp: &CpId, connector: Option<i64>, act: Act) {
        let ItemKind::Decide(Command::Request(ask, _)) = &item.kind else {
            return;
        };
        if self.asked >= super::ASKED_MAX {
            self.refuse(&item, Code::Overloaded, "too many charge points are asked");
            return;
        }
        // Askers choose request ids for themselves: the content tells two askers' apart.
        let digest: String = ask.content.iter().map(|b| format!("{b:02x}")).collect();
        let Ok(id) = CommandId::new(format!("op-{digest}")) else {
            return;
        };
        let Some(boot) = effects::boot(self.log.state(), cp) else {
            self.refuse(&item, Code::UnknownChargePoint, cp.as_str());
            return;
        };
        let now = wall();
        let expires_at = ask.expires_at.min(now.plus_ms(REQUEST_LIFE_MS_MAX));
        self.asked += 1;
        let (cp, to) = (cp.clone(), cp.clone());
        match act {
            Act::Unlock => {
                let only =
                    self.log
                        .state()
                        .charge_point(&cp)
                        .and_then(|e| match &*e.value.connectors {
                            [one] => Some(one.connector),
                            _ => None,
                        });
                let connector = connector
                    .and_then(|n| u16::try_from(n).ok())
                    .map(ConnectorId)
                    .or(only)
                    .unwrap_or(ConnectorId(0));
                let command = UnlockCommand {
                    tag: Tag::new(),
                    to,
                    boot,
                    command_id: id.clone(),
                    connector,
                    expires_at,
                    ts: now,
                };
                let about = About::Act(Box::new(item));
                self.calls
                    .ask(&self.out, cp, "unlock", Some(id), &command, about);
            }
            Act::Reset => {
                let command = ResetCommand {
                    tag: Tag::new(),
                    to,
                    boot,
                    command_id: id.clone(),
                    expires_at,
                    ts: now,
                };
                let about = About::Act(Box::new(item));
                self.calls
                    .ask(&self.out, cp, "reset", Some(id), &command, about);
            }
        }
    }

    /// The charge point has answered a one-off act, or has not.
    pub(super) fn acted(&mut self, item: Item, cp: &CpId, answer: Option<CommandReply>) {
        let ItemKind::Decide(Command::Request(ask, _)) = &item.kind else {
            return;
        };
        let problem =
            |code: Option<Code>| code.unwrap_or(Code::RejectedByCharger).about(cp.as_str());
        let outcome = match answer {
            None => Err((
                Status::Unknown,
                Code::OutcomeUnknown.about(&format!("what {cp} was told")),
            )),
            Some(answer) => match answer.outcome {
                Outcome::Done | Outcome::Taken => Ok(format!("{cp} has done it")),
                // It has stored nothing: the next attempt may be answered otherwise.
                Outcome::NotYet | Outcome::Unrecognised => {
                    Err((Status::Unknown, problem(answer.code)))
                }
                Outcome::Refused | Outcome::Stopping | Outcome::Ended | Outcome::Absent => {
                    Err((Status::Denied, problem(answer.code)))
                }
            },
        };
        let mut reply = OpReply {
            tag: Tag::new(),
            to: ask.asker.as_str().to_owned(),
            request_id: ask.request.to_string(),
            status: Status::Accepted,
            reason: None,
            error: None,
            session_id: None,
            detail: None,
            tariff: None,
            ts: wall(),
        };
        match outcome {
            Ok(detail) => {
                self.counted(&item, "accepted", "");
                reply.detail = Some(detail);
            }
            Err((status, problem)) => {
                self.metrics
                    .answered(item.verb, "denied", problem.code.as_str());
                reply.status = status;
                reply.reason = Some(problem.code.as_str().to_owned());
                reply.error = Some(problem);
            }
        }
        self.tell(item.draft.as_deref(), item.reply.as_ref(), &reply);
    }

    pub(super) fn answer_sync(&self, item: &Item, cp: &CpId, sync: &SyncRequest) {
        if !self.obeys(cp, &sync.epoch, sync.boot.id) {
            self.refuse(item, Code::IdentityInUse, cp.as_str());
            return;
        }
        self.counted(item, "accepted", "");
        ev_crash::reach("answer", "sync");
        self.reply(
            item.reply.as_ref(),
            &SyncReply {
                tag: Tag::new(),
                to: cp.to_string(),
                epoch: sync.epoch.to_string(),
                next: self.wanted(cp, &sync.epoch),
                error: None,
                ts: wall(),
            },
        );
    }

    pub(super) fn answer_announced(
        &self,
        item: &Item,
        by: &OperatorId,
        unrecorded: Option<Unrecorded>,
    ) {
        if unrecorded == Some(Unrecorded::TooMany) {
            let what = format!("more than {ENROLMENTS_MAX} charge points");
            self.refuse(item, Code::NotAllowed, &what);
            return;
        }
        self.counted(item, "accepted", "");
        self.reply(
            item.reply.as_ref(),
            &EnrolReply {
                tag: Tag::new(),
                to: by.to_string(),
                ts: wall(),
            },
        );
    }

    pub(super) fn answer_run(&self, item: &Item, run: &Run, unrecorded: Option<Unrecorded>) {
        if unrecorded == Some(Unrecorded::Unpresented) {
            self.refuse(item, Code::UnknownChargePoint, run.cp.as_str());
            return;
        }
        self.note_foreign_records(item, run);
        if !self.obeys(&run.cp, &run.epoch, run.boot) {
            self.answer_other(item, run);
            return;
        }
        self.counted(item, "accepted", "");
        ev_crash::reach("answer", "evt");
        self.reply(
            item.reply.as_ref(),
            &EvtReply {
                tag: Tag::new(),
                to: run.cp.to_string(),
                epoch: run.epoch.to_string(),
                next: self.wanted(&run.cp, &run.epoch),
                aside: None,
                error: None,
                ts: wall(),
            },
        );
    }

    /// Whether a start of an agent is the one that is obeyed.
    fn obeys(&self, cp: &CpId, epoch: &Epoch, boot: BootId) -> bool {
        let there = self.log.state().charge_point(cp);
        there.is_some_and(|e| e.value.obeys(epoch, boot))
    }

    /// Answers an agent that is not obeyed: nothing of its spool is free.
    fn answer_other(&self, item: &Item, run: &Run) {
        self.counted(item, "error", Code::IdentityInUse.as_str());
        let there = self.log.state().charge_point(&run.cp);
        let other = there.and_then(|e| e.value.other.as_deref());
        let other = other.filter(|o| o.epoch == run.epoch && o.boot.id == run.boot);
        self.reply(
            item.reply.as_ref(),
            &EvtReply {
                tag: Tag::new(),
                to: run.cp.to_string(),
                epoch: run.epoch.to_string(),
                next: 0,
                aside: other.map(|o| o.next),
                error: Some(Code::IdentityInUse.about(run.cp.as_str())),
                ts: wall(),
            },
        );
    }

    /// Writes down that a charge point reports the session of another one.
    fn note_foreign_records(&self, item: &Item, run: &Run) {
        let Some(draft) = &item.draft else {
            return;
        };
        let named = run.records.iter().filter_map(|incoming| {
            let record = incoming.record.as_ref().ok()?;
            record.fact.session()
        });
        let foreign = named.into_iter().find(|id| {
            self.log
                .state()
                .session(*id)
                .is_some_and(|entry| entry.value.cp != run.cp)
        });
        if let Some(session) = foreign {
            let mut draft = draft.clone();
            draft.session_id = Some(session.to_string());
            self.audit
                .refused(&draft, None, "another charge point's session");
        }
    }

    /// The next record that is wanted, by applied, valid state: only this frees a spool.
    fn wanted(&self, cp: &CpId, epoch: &Epoch) -> u64 {
        self.log
            .state()
            .spool(&(cp.clone(), epoch.clone()))
            .map_or(1, |e| e.value.next)
    }

    fn session_view(&self, entry: &Entry<Arc<Session>>) -> SessionView {
        view::session(entry, &self.heard, wall())
    }

    /// Answers a question from the applied state. Its frame was appended after it came.
    pub(super) fn answer_query(&self, item: &Item, asker: &Asker, query: &Query) {
        ev_crash::reach("answer", "other");
        let result = match query {
            Query::Status(id) => self.status(item, asker, *id),
            Query::List(page) => self.list(item, asker, page),
            Query::History(page) => self.history(item, asker, page),
            Query::Receipt(id) => self.receipt(item, asker, *id),
            Query::CpLs(cp, page) => self.cp_ls(item, asker, cp.as_ref(), page),
            Query::Events {
                after,
                since,
                filter,
                rows,
            } => {
                let reply = self.events(asker, *after, *since, filter, *rows);
                self.tell(item.draft.as_deref(), item.reply.as_ref(), &reply);
                Ok(())
            }
            // Its answer is counted when it has been read.
            Query::ReceiptLs(page) => return self.receipt_ls(item, asker, page),
            Query::SessionLs {
                driver,
                cp,
                session,
                all,
                page,
            } => {
                let wanted = |s: &Session| {
                    (*all || session.is_some() || !s.is_ended())
                        && session.is_none_or(|id| s.id == id)
                        && driver.as_ref().is_none_or(|d| s.driver.as_ref() == Some(d))
                        && cp.as_ref().is_none_or(|cp| s.cp == *cp)
                };
                let sessions = self
                    .log
                    .state()
                    .sessions_before(page.from)
                    .filter(|e| wanted(&e.value));
                let (mut sessions, next) = self.page_of(sessions, page.rows);
                for view in &mut sessions {
                    view.waits = self.waits(view.session_id);
                }
                self.tell(
                    item.draft.as_deref(),
                    item.reply.as_ref(),
                    &SessionLsReply {
                        tag: Tag::new(),
                        to: asker.as_str().to_owned(),
                        sessions,
                        next,
                        ts: wall(),
                    },
                );
                Ok(())
            }
            Query::TariffLs => {
                self.tell(
                    item.draft.as_deref(),
                    item.reply.as_ref(),
                    &TariffLsReply {
                        tag: Tag::new(),
                        to: asker.as_str().to_owned(),
                        tariffs: view::tariffs(self.log.state(), wall()),
                        ts: wall(),
                    },
                );
                Ok(())
            }
        };
        match result {
            Ok(()) => self.counted(item, "accepted", ""),
            Err((code, what)) => {
                if let (Code::SessionNotFound, Asker::Driver(_)) = (code, asker) {
                    self.note_foreign(item);
                }
                self.refuse(item, code, &what);
            }
        }
    }

    /// A page of sessions, and where the next one begins.
    fn page_of<'a>(
        &self,
        sessions: impl Iterator<Item = &'a Entry<Arc<Session>>>,
        rows: usize,
    ) -> (Vec<SessionView>, Option<String>) {
        let mut sessions: Vec<_> = sessions.take(rows + 1).collect();
        let more = sessions.len() > rows;
        sessions.truncate(rows);
        let next = if more {
            sessions.last().map(|e| e.value.id.to_string())
        } else {
            None
        };
        (
            sessions.iter().map(|e| self.session_view(e)).collect(),
            next,
        )
    }

    /// What a session waits for, with what this replica has tried.
    fn waits(&self, id: SessionId) -> Option<WaitView> {
        let session = &self.log.state().session(id)?.value;
        let mut waits = insight::waits(session, &self.heard)?;
        (waits.attempts, waits.code) = self.orders.tried(&orders::Subject::Session(id));
        Some(waits)
    }

    fn events(
        &self,
        asker: &Asker,
        after: Option<Cursor>,
        since: Option<UnixMs>,
        filter: &Filter,
        rows: usize,
    ) -> EventsReply {
        let (mut events, last, more) = self.trail.page(after, since, filter, rows);
        if filter.session.is_none() {
            events.extend(self.trail.reach_since(since, filter, REACH_ROWS_MAX));
            events.sort_by_key(|event| event.at);
        }
        let end = Cursor::end_of(self.log.state().basis().seq);
        EventsReply {
            tag: Tag::new(),
            to: asker.as_str().to_owned(),
            events,
            next: last.filter(|_| more).unwrap_or(end).to_string(),
            more,
            remembers_from: self.trail.remembers_from().unwrap_or(self.listens_from),
            listens_from: self.listens_from,
            ts: wall(),
        }
    }

    /// Hands a page of receipts to whoever reads the stream, with what the state knows of it.
    fn receipt_ls(&self, item: &Item, asker: &Asker, page: &ReceiptsPage) {
        let state = self.log.state();
        let waits = |id: &&CdrId| {
            let receipt = state.session(id.session).and_then(|e| e.value.receipt());
            let ended = receipt.is_none_or(|receipt| page.wants(&receipt));
            id.adjustment.is_some() == page.adjustments && ended
        };
        let known = Known {
            least: self.cdr_upto[usize::from(page.adjustments)],
            not_kept: self.uncopied.keys().filter(waits).count() as u64,
        };
        let (Some(draft), Some(reply), Asker::Operator(operator)) =
            (&item.draft, &item.reply, asker)
        else {
            return;
        };
        let reading = Reading::Receipts(page.clone(), known);
        self.audit
            .page((**draft).clone(), reply, operator.clone(), reading);
    }

    fn find(&self, asker: &Asker, id: SessionId) -> Result<&Entry<Arc<Session>>, (Code, String)> {
        self.log
            .state()
            .session(id)
            .filter(|e| view::may_see(asker, &e.value))
            .ok_or_else(|| (Code::SessionNotFound, id.to_string()))
    }

    fn status(
        &self,
        item: &Item,
        asker: &Asker,
        id: Option<SessionId>,
    ) -> Result<(), (Code, String)> {
        let sessions = match (id, asker) {
            (Some(id), _) => vec![self.session_view(self.find(asker, id)?)],
            (None, Asker::Driver(driver)) => self
                .log
                .state()
                .open_sessions()
                .rev()
                .filter(|e| e.value.driver.as_ref() == Some(driver))
                .take(ev_contract::limits::PAGE_ROWS_MAX)
                .map(|e| self.session_view(e))
                .collect(),
            (None, Asker::Operator(_)) => Vec::new(),
        };
        self.reply(
            item.reply.as_ref(),
            &StatusReply {
                tag: Tag::new(),
                to: asker.as_str().to_owned(),
                sessions,
                ts: wall(),
            },
        );
        Ok(())
    }

    fn list(&self, item: &Item, asker: &Asker, page: &Page<CpId>) -> Result<(), (Code, String)> {
        let Asker::Driver(driver) = asker else {
            return Err((Code::UnknownVerb, "list".into()));
        };
        let state = self.log.state();
        let now = wall();
        let mut found: Vec<_> = state
            .charge_points_after(page.from.as_ref())
            .take(page.rows + 1)
            .collect();
        let more = found.len() > page.rows;
        found.truncate(page.rows);
        let next = if more {
            found.last().map(|(id, _)| id.to_string())
        } else {
            None
        };
        let charge_points = found
            .into_iter()
            .filter_map(|(id, cp)| view::listing(state, id, cp, driver, &self.heard, now))
            .collect();
        self.reply(
            item.reply.as_ref(),
            &ListReply {
                tag: Tag::new(),
                to: asker.as_str().to_owned(),
                charge_points,
                next,
                ts: wall(),
            },
        );
        Ok(())
    }

    fn history(
        &self,
        item: &Item,
        asker: &Asker,
        page: &Page<SessionId>,
    ) -> Result<(), (Code, String)> {
        let Asker::Driver(driver) = asker else {
            return Err((Code::UnknownVerb, "history".into()));
        };
        let (sessions, next) =
            self.page_of(self.log.state().sessions_of(driver, page.from), page.rows);
        self.reply(
            item.reply.as_ref(),
            &HistoryReply {
                tag: Tag::new(),
                to: asker.as_str().to_owned(),
                sessions,
                next,
                ts: wall(),
            },
        );
        Ok(())
    }

    fn receipt(&self, item: &Item, asker: &Asker, id: SessionId) -> Result<(), (Code, String)> {
        let entry = self.find(asker, id)?;
        let Some(receipt) = entry.value.receipt() else {
            return Err((Code::ReceiptNotReady, id.to_string()));
        };
        let adjustments = self
            .log
            .state()
            .adjustments(id)
            .map(|e| e.value.list.clone())
            .unwrap_or_default();
        self.reply(
            item.reply.as_ref(),
            &ReceiptReply {
                tag: Tag::new(),
                to: asker.as_str().to_owned(),
                receipt,
                adjustments,
                ts: wall(),
            },
        );
        Ok(())
    }

    fn cp_ls(
        &self,
        item: &Item,
        asker: &Asker,
        only: Option<&CpId>,
        page: &Page<CpId>,
    ) -> Result<(), (Code, String)> {
        let state = self.log.state();
        let (found, more): (Vec<_>, bool) = match only {
            Some(cp) => {
                let present = state.charge_point(cp).map(|entry| &*entry.value);
                if present.is_none() && state.enrolment(cp).is_none() {
                    return Err((Code::UnknownChargePoint, cp.to_string()));
                }
                (vec![(cp, present)], false)
            }
            None => {
                let mut found: Vec<_> = state
                    .known_charge_points_after(page.from.as_ref())
                    .take(page.rows + 1)
                    .collect();
                let more = found.len() > page.rows;
                found.truncate(page.rows);
                (found, more)
            }
        };
        let next = if more {
            found.last().map(|(id, _)| id.to_string())
        } else {
            None
        };
        let now = wall();
        let charge_points = found
            .into_iter()
            .filter_map(|(id, cp)| {
                let mut view = view::charge_point(state, id, cp, &self.heard, now)?;
                for refuses in &mut view.refuses {
                    let seen = refuses
                        .connector
                        .and_then(|at| self.trail.since(id, at, refuses.code));
                    refuses.since = refuses.since.or(seen);
                }
                view.refused = self.trail.refused_at(id);
                Some(view)
            })
            .collect();
        self.tell(
            item.draft.as_deref(),
            item.reply.as_ref(),
            &CpLsReply {
                tag: Tag::new(),
                to: asker.as_str().to_owned(),
                charge_points,
                next,
                ts: wall(),
            },
        );
        Ok(())
    }
}

/// What an answer to a request is named after where it passes a crash point.
fn answer_kind(verb: &'static str) -> &'static str {
    match verb {
        "start" | "stop" => verb,
        _ => "other",
    }
}

fn op_reply(to: String, request: &RequestId, recorded: &Answer) -> OpReply {
    let mut reply = OpReply {
        tag: Tag::new(),
        to,
        request_id: request.to_string(),
        status: Status::Accepted,
        reason: None,
        error: None,
        session_id: None,
        detail: None,
        tariff: None,
        ts: wall(),
    };
    match recorded {
        Answer::Started {
            session,
            cp,
            connector,
        } => {
            reply.session_id = Some(*session);
            reply.detail = Some(format!("accepted on {cp}/{connector}"));
        }
        Answer::Stopping { session, .. } => {
            reply.session_id = Some(*session);
            reply.detail = Some("the stop holds until the charge point has confirmed it".into());
        }
        Answer::Done { session, detail } => {
            reply.session_id = *session;
            reply.detail = Some(detail.clone());
        }
        Answer::Refused {
            code,
            what,
            session,
            tariff,
            ..
        } => {
            reply.status = Status::Denied;
            reply.tariff = tariff.as_deref().cloned();
            reply.reason = Some(code.as_str().to_owned());
            reply.error = Some(code.about(what));
            reply.session_id = *session;
        }
    }
    reply
}

/// Encodes what goes to the CDR stream. MessagePack, as everything durable.
pub(super) fn cdr_bytes<T: serde::Serialize>(message: &T) -> Option<bytes::Bytes> {
    match central_core::verify::cdr_entry(message) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            tracing::error!(%error, "receipt cannot be encoded");
            None
        }
    }
}
