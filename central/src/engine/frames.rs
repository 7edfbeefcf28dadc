//! What waits for a frame, and the frame that is under way. One at a time: what is void is then
//! void for good.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use central_core::{
    decide::{Command, CommandAnswer, Ctx, Known, Run, Unrecorded, Wish, decide, known},
    frame::{Forget, Frame, FrameBuilder, RECORDS_MAX},
    keys::{Asker, EventId},
    state::Applied,
    tx::Overlay,
    view::Heard,
};
use ev_contract::{
    codes::Code,
    ids::{OperatorId, SessionId},
    v1::{AuditEntry, Reach},
};
use uuid::Uuid;

use super::Engine;
use crate::{
    border::{Query, ReplyTo},
    health::Stage,
    held::Held,
    ledger,
};

/// How often a question is decided again after another replica forestalled it. Each time the other
/// one made progress; twenty times in a row means that this one always comes too late.
const DECIDED_AGAIN_MAX: u32 = 20;
/// The longest wait before a question is decided again, per time that it was.
const AGAIN_JITTER: Duration = Duration::from_millis(2);
/// After so long without a judgement the asker is told that the outcome is not known. Less than
/// what clients wait in all, more than an election of a stream leader takes.
const UNKNOWN_AFTER: Duration = Duration::from_secs(8);
/// How long what nobody waits for waits for company. A charge point's answer to a command comes just
/// before the next request when somebody asks one thing after the other, and that would wait for a
/// frame with nothing else in it. More than a request takes on its way, less than a person sees.
const COMPANY_WAIT: Duration = Duration::from_millis(5);
/// So many of them are company enough.
const COMPANY_ENOUGH: usize = 64;
/// How long a start waits for the end of a session that its driver has stopped. Less than the two
/// seconds after which a client repeats itself.
const OWN_END_WAIT: Duration = Duration::from_millis(1_500);

/// Something that waits.
#[derive(Debug)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Where its answer goes; none for central's own.
    pub reply: Option<ReplyTo>,
    /// The verb, for metrics.
    pub verb: &'static str,
    /// When it came.
    pub since: Instant,
    /// How often it was decided again.
    pub again: u32,
    /// Not before this.
    pub not_before: Option<Instant>,
    /// Whether its charge point was asked if it is there.
    probed: bool,
    /// Whether the asker has been told that the outcome is not known.
    told: bool,
    /// Who asks for what, for the audit: of operators, and of drivers who name a session.
    pub draft: Option<Box<AuditEntry>>,
    /// Its share of memory, until it is answered.
    _held: Option<Held>,
}

/// What it is.
#[derive(Debug)]
pub enum ItemKind {
    /// To be decided.
    Decide(Command),
    /// A question to the state.
    Query(Asker, Query),
    /// Somebody tells of credentials.
    Announced(OperatorId, Command),
    /// Nothing but a frame.
    Barrier,
}

impl Item {
    /// A question from outside.
    #[must_use]
    pub fn asked(
        kind: ItemKind,
        reply: ReplyTo,
        verb: &'static str,
        draft: Option<Box<AuditEntry>>,
        held: Held,
    ) -> Self {
        Self {
            _held: Some(held),
            reply: Some(reply),
            verb,
            draft,
            ..Self::own(kind)
        }
    }

    fn own(kind: ItemKind) -> Self {
        Self {
            kind,
            reply: None,
            verb: "own",
            since: Instant::now(),
            again: 0,
            not_before: None,
            probed: false,
            told: false,
            draft: None,
            _held: None,
        }
    }

    pub(super) fn barrier() -> Self {
        Self::own(ItemKind::Barrier)
    }

    pub(super) fn answered(answer: CommandAnswer) -> Self {
        Self::own(ItemKind::Decide(Command::Answered(answer)))
    }

    pub(super) fn release(session: SessionId) -> Self {
        Self::own(ItemKind::Decide(Command::Release(session)))
    }

    pub(super) fn forget(forget: Forget) -> Self {
        Self::own(ItemKind::Decide(Command::Forget(forget)))
    }

    pub(super) fn probed(mut self, there: bool) -> Self {
        self.probed = true;
        if let ItemKind::Decide(Command::Request(_, Wish::Start { reach, .. })) = &mut self.kind {
            *reach = if there { Reach::Online } else { Reach::Offline };
        }
        self
    }

    fn command(&self) -> Option<&Command> {
        match &self.kind {
            ItemKind::Decide(command) | ItemKind::Announced(_, command) => Some(command),
            ItemKind::Query(..) | ItemKind::Barrier => None,
        }
    }
}

/// Who waits. Each has a lane of its own, so that none of them waits behind another.
#[derive(Debug, Clone, Copy)]
enum Lane {
    /// Central's own.
    Own,
    Drivers,
    Operators,
    Syncs,
    Records,
}

impl Lane {
    /// As they lie in [`Waiting`].
    const ALL: [Self; 5] = [
        Self::Own,
        Self::Drivers,
        Self::Operators,
        Self::Syncs,
        Self::Records,
    ];
    /// How they fill every other frame. Runs of records are large: where they come last, a full
    /// frame may have no room for any; where they come first, for nothing else.
    const RECORDS_FIRST: [Self; 5] = [
        Self::Records,
        Self::Own,
        Self::Drivers,
        Self::Operators,
        Self::Syncs,
    ];

    /// Questions of one frame that a lane may have before the others had theirs.
    const fn share(self) -> usize {
        match self {
            Self::Own | Self::Operators | Self::Syncs => 150,
            Self::Drivers => 450,
            Self::Records => RECORDS_MAX,
        }
    }
}

impl ItemKind {
    const fn lane(&self) -> Lane {
        match self {
            Self::Decide(command) => match command {
                Command::Request(ask, _) => match ask.asker {
                    Asker::Driver(_) => Lane::Drivers,
                    Asker::Operator(_) => Lane::Operators,
                },
                Command::Sync(..) => Lane::Syncs,
                Command::Intake(_) => Lane::Records,
                Command::Announce(_) => Lane::Operators,
                Command::Answered(_) | Command::Release(_) | Command::Forget(_) => Lane::Own,
            },
            Self::Query(Asker::Driver(_), _) => Lane::Drivers,
            Self::Query(Asker::Operator(_), _) | Self::Announced(..) => Lane::Operators,
            Self::Barrier => Lane::Own,
        }
    }
}

/// The queues. What waits in them is bounded by the memory that each kind may hold.
#[derive(Debug, Default)]
pub struct Waiting {
    lanes: [VecDeque<Item>; Lane::ALL.len()],
    records_first: bool,
}

impl Waiting {
    pub(super) fn push(&mut self, item: Item) {
        self.lanes[item.kind.lane() as usize].push_back(item);
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether a frame is due: somebody waits for it, or something has waited for company long
    /// enough.
    fn worth_a_frame(&self) -> bool {
        Lane::ALL.iter().any(|lane| {
            let queue = &self.lanes[*lane as usize];
            match lane {
                Lane::Own => {
                    queue.len() >= COMPANY_ENOUGH
                        || queue.iter().any(|item| {
                            matches!(item.kind, ItemKind::Barrier)
                                || item.since.elapsed() >= COMPANY_WAIT
                        })
                }
                Lane::Drivers | Lane::Operators | Lane::Syncs | Lane::Records => !queue.is_empty(),
            }
        })
    }

    /// Takes what is due, as far as it may fit into one frame: each lane in its own order, first
    /// the shares of all, then what there is beyond. What must wait stays.
    fn take_due(&mut self, must_wait: impl Fn(&Item) -> bool) -> VecDeque<Item> {
        let now = Instant::now();
        let mut due = VecDeque::new();
        let mut beyond = VecDeque::new();
        self.records_first = !self.records_first;
        let order = if self.records_first {
            Lane::RECORDS_FIRST
        } else {
            Lane::ALL
        };
        for lane in order {
            let queue = &mut self.lanes[lane as usize];
            let mut later = Vec::new();
            let mut taken = 0;
            while taken < RECORDS_MAX
                && let Some(item) = queue.pop_front()
            {
                if item.not_before.is_some_and(|at| at > now) || must_wait(&item) {
                    later.push(item);
                    continue;
                }
                taken += 1;
                if taken <= lane.share() {
                    due.push_back(item);
                } else {
                    beyond.push_back(item);
                }
            }
            for item in later.into_iter().rev() {
                queue.push_front(item);
            }
        }
        due.append(&mut beyond);
        due
    }

    fn put_back(&mut self, items: VecDeque<Item>) {
        for item in items.into_iter().rev() {
            self.lanes[item.kind.lane() as usize].push_front(item);
        }
    }

    /// Takes all that are so.
    fn take_if(&mut self, so: impl Fn(&Item) -> bool) -> Vec<Item> {
        let mut taken = Vec::new();
        for queue in &mut self.lanes {
            if queue.iter().any(&so) {
                let (out, rest): (VecDeque<_>, VecDeque<_>) =
                    std::mem::take(queue).into_iter().partition(&so);
                *queue = rest;
                taken.extend(out);
            }
        }
        taken
    }
}

/// What became of an item while the frame was filled.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// It has the record of this number.
    Record(usize),
    /// It has none and rests on the applied state.
    Nothing,
    /// It has none and rests on records of this frame.
    Leaning,
}

/// Where the answer to an item comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whence {
    /// The record that it has just got.
    OwnRecord,
    /// What was applied before: another copy of it came first.
    State,
}

/// The frame that is under way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub frame: Arc<Frame>,
    pub bytes: Bytes,
    pub since: Instant,
    pub append: tokio::task::AbortHandle,
    items: Vec<(Item, Part)>,
}

/// A frame that is being filled.
struct Filling<'a> {
    overlay: Overlay<'a>,
    frame: FrameBuilder,
    items: Vec<(Item, Part)>,
    closed: bool,
}

impl Engine {
    /// A question from a subscription.
    pub(super) fn ask(&mut self, mut item: Item) {
        if self.alarmed() || !self.clock_is_right {
            return;
        }
        if let ItemKind::Decide(Command::Request(ask, _)) = &item.kind
            && let Some(known) = known(self.log.state(), ask)
        {
            let known = match known {
                Known::Answered(answer) => Some(answer.clone()),
                Known::Reused => None,
            };
            if let Some(draft) = &mut item.draft {
                draft.repeat = known.is_some();
            }
            self.answer_request(item, known);
            return;
        }
        let from = match &item.kind {
            ItemKind::Decide(Command::Sync(cp, sync)) => Some((cp, sync.boot.id)),
            ItemKind::Decide(Command::Intake(Run { cp, boot, .. })) => Some((cp, *boot)),
            _ => None,
        };
        if let Some((cp, boot)) = from {
            let there = self.log.state().charge_point(cp);
            let other = there.and_then(|e| e.value.other.as_deref());
            // What is not obeyed says nothing about the charge point's reach.
            if other.is_none_or(|o| o.boot.id != boot) {
                self.heard.sign_of_life(cp, super::wall());
            }
        }
        // Whether a charge point is there is asked before it is said that it is not.
        if let ItemKind::Decide(Command::Request(_, Wish::Start { cp, .. })) = &item.kind {
            let known = self.log.state().charge_point(cp).is_some();
            if known && !item.probed && self.heard.reach(cp) != Reach::Online {
                let cp = cp.clone();
                self.probe(cp, item);
                return;
            }
        }
        self.waiting.push(item);
    }

    /// Packs what waits into a frame and appends it, unless one is under way or nothing needs one.
    pub(super) fn cut_frame(&mut self) {
        if self.in_flight.is_some() || !self.waiting.worth_a_frame() {
            return;
        }
        match self.stage {
            Stage::Waiting(_) | Stage::Replaying { .. } | Stage::Alarmed(_) => return,
            Stage::Barrier | Stage::Serving | Stage::Draining => {}
        }
        let now = self.now();
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut due = waiting.take_due(|item| self.waits_for_own_end(item));
        self.waiting = waiting;
        let mut at_once = Vec::new();
        let mut too_large = Vec::new();
        let state = self.log.state();
        let mut filling = Filling {
            overlay: Overlay::new(state),
            frame: FrameBuilder::new(now.wall),
            items: Vec::new(),
            closed: false,
        };
        while !filling.closed {
            let Some(item) = due.pop_front() else {
                break;
            };
            let Some(command) = item.command() else {
                filling.items.push((item, Part::Nothing));
                continue;
            };
            let ctx = Ctx {
                now,
                settings: &self.settings,
                event: EventId(Uuid::now_v7()),
                session: SessionId::from_uuid(Uuid::now_v7()),
            };
            let decided = decide(&filling.overlay, ctx, command);
            match decided.record {
                Some(record) => {
                    let index = filling.frame.records().len();
                    if filling.frame.push(record).is_err() {
                        if index == 0 {
                            too_large.push(item);
                            continue;
                        }
                        due.push_front(item);
                        break;
                    }
                    filling.closed = matches!(item.kind, ItemKind::Decide(Command::Forget(_)))
                        || index + 1 >= RECORDS_MAX;
                    filling.overlay.push(&filling.frame.records()[index]);
                    filling.items.push((item, Part::Record(index)));
                }
                None if decided.leaned_on_frame => filling.items.push((item, Part::Leaning)),
                None => at_once.push((item, decided.unrecorded)),
            }
        }
        let Filling { frame, items, .. } = filling;
        self.waiting.put_back(due);
        for item in too_large {
            tracing::error!(verb = item.verb, "a decision is too large for the ledger");
            self.refuse(
                &item,
                Code::Internal,
                "the decision is too large for the ledger",
            );
        }
        for (item, unrecorded) in at_once {
            self.settle(item, unrecorded, Whence::State);
        }
        if items.is_empty() {
            return;
        }
        self.send_frame(frame, items);
    }

    /// Whether a start comes from a driver whose own session is being stopped: who stops and starts
    /// again wants the next session, and its charge point confirms the stop within a moment.
    fn waits_for_own_end(&self, item: &Item) -> bool {
        let ItemKind::Decide(Command::Request(_, Wish::Start { driver, .. })) = &item.kind else {
            return false;
        };
        let state = self.log.state();
        item.since.elapsed() < OWN_END_WAIT
            && state.driver(driver).is_some_and(|entry| {
                entry.value.open.iter().any(|id| {
                    state.session(*id).is_some_and(|s| {
                        s.value.stop.is_some() && self.heard.reach(&s.value.cp) == Reach::Online
                    })
                })
            })
    }

    fn send_frame(&mut self, mut frame: FrameBuilder, items: Vec<(Item, Part)>) {
        let by = self.config.replica.clone();
        let (frame, bytes) = frame.finish(Uuid::now_v7(), by, self.log.state().basis());
        let (frame, bytes) = (Arc::new(frame), Bytes::from(bytes));
        self.metrics.frame(frame.records.len(), bytes.len());
        let append = tokio::spawn(ledger::append(
            self.client.clone(),
            self.js.clone(),
            frame.id,
            frame_kind(&items),
            bytes.clone(),
            self.told.0.clone(),
            Arc::clone(&self.metrics),
        ))
        .abort_handle();
        self.in_flight = Some(InFlight {
            frame,
            bytes,
            since: Instant::now(),
            append,
            items,
        });
    }

    /// A message was applied. If it is the frame under way, everything in it is answered or
    /// decided again.
    pub(super) fn judge(&mut self, applied: &Applied) {
        let own = applied.frame.as_ref().map(|f| f.id);
        if self.in_flight.as_ref().map(|f| f.frame.id) != own {
            return;
        }
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        in_flight.append.abort();
        self.set_full(None);
        ev_crash::reach("applied", frame_kind(&in_flight.items));
        self.metrics.appended(in_flight.since.elapsed());
        for kind in applied.void() {
            self.metrics.void(&format!("{kind:?}").to_lowercase());
        }
        let all_valid = applied.valid.iter().all(|valid| *valid);
        if self.stage == Stage::Barrier {
            self.set_stage(Stage::Serving);
            tracing::info!(applied = applied.pos, "serving");
            self.after_barrier();
        }
        // It may have been set since the frame was cut. What was asked is asked again, elsewhere.
        self.look_at_clock();
        if !self.clock_is_right {
            return;
        }
        for (item, part) in in_flight.items {
            match part {
                Part::Record(index) if applied.valid.get(index) == Some(&true) => {
                    self.settle(item, None, Whence::OwnRecord);
                }
                Part::Leaning if all_valid => self.settle(item, None, Whence::State),
                Part::Nothing => self.settle(item, None, Whence::State),
                Part::Record(_) | Part::Leaning => self.decide_again(item),
            }
        }
    }

    fn decide_again(&mut self, mut item: Item) {
        if let ItemKind::Decide(Command::Request(ask, _)) = &item.kind
            && known(self.log.state(), ask).is_some()
        {
            // The other copy of the request came first: its answer is the answer.
            self.settle(item, None, Whence::State);
            return;
        }
        item.again += 1;
        if item.again > DECIDED_AGAIN_MAX {
            self.refuse(&item, Code::Overloaded, "others were always faster");
            return;
        }
        if item.again > 1 {
            let jitter = AGAIN_JITTER * item.again;
            item.not_before = Some(Instant::now() + jitter.mul_f64(rand::random::<f64>()));
        }
        self.waiting.push(item);
    }

    /// Answers an item from the applied state.
    fn settle(&mut self, mut item: Item, unrecorded: Option<Unrecorded>, whence: Whence) {
        match &item.kind {
            ItemKind::Decide(Command::Request(ask, _)) => {
                let answer = match known(self.log.state(), ask) {
                    Some(Known::Answered(answer)) => {
                        if let Some(draft) = &mut item.draft {
                            draft.repeat = whence == Whence::State;
                        }
                        Some(answer.clone())
                    }
                    Some(Known::Reused) => None,
                    None => {
                        let id = ask.request.to_string();
                        match unrecorded {
                            Some(Unrecorded::Forgotten) => {
                                self.refuse(&item, Code::Forgotten, &id);
                            }
                            Some(Unrecorded::Unpresented | Unrecorded::TooMany) | None => {
                                self.refuse(&item, Code::OutcomeUnknown, &id);
                            }
                        }
                        return;
                    }
                };
                self.answer_request(item, answer);
            }
            ItemKind::Query(asker, query) => self.answer_query(&item, asker, query),
            ItemKind::Decide(Command::Sync(cp, sync)) => self.answer_sync(&item, cp, sync),
            ItemKind::Decide(Command::Intake(run)) => self.answer_run(&item, run, unrecorded),
            ItemKind::Announced(by, _) => self.answer_announced(&item, by, unrecorded),
            ItemKind::Decide(
                Command::Answered(_)
                | Command::Release(_)
                | Command::Forget(_)
                | Command::Announce(_),
            )
            | ItemKind::Barrier => {}
        }
    }

    /// Tells those who have waited for too long that the outcome is not known. What they asked
    /// stays in the frame and takes effect or not; a repeat finds out.
    pub(super) fn answer_late(&mut self) {
        let late = |item: &Item| !item.told && item.since.elapsed() > UNKNOWN_AFTER;
        let mut told = Vec::new();
        if let Some(in_flight) = &mut self.in_flight {
            for (item, _) in &mut in_flight.items {
                if late(item) {
                    item.told = true;
                    let draft = item.draft.clone();
                    let asked = (item.verb, item.since);
                    told.push((item.reply.take(), item.id_for_reply(), asked, draft));
                }
            }
        }
        for (reply, who, asked, draft) in told {
            self.tell_unknown(reply, who, asked, draft.as_deref());
        }
        for item in self
            .waiting
            .take_if(|item| item.reply.is_some() && late(item))
        {
            self.refuse(&item, Code::Overloaded, "the ledger does not take frames");
        }
        self.metrics.queue(self.waiting.len());
        let known_to = self.known_to.max(self.log.state().basis().seq);
        self.metrics
            .progress(self.log.state().basis().seq, known_to);
    }
}

/// What a frame is named after where it passes a crash point.
fn frame_kind(items: &[(Item, Part)]) -> &'static str {
    if !ev_crash::ARMED {
        return "other";
    }
    let has = |kind: &&&str| items.iter().any(|(item, _)| **kind == item.verb);
    ev_crash::FRAME_KINDS.iter().find(has).unwrap_or(&"other")
}

/// Who is to be told about an item.
#[derive(Debug, Clone)]
pub(super) struct Whom {
    pub to: String,
    pub request_id: Option<String>,
}

impl Item {
    pub(super) fn id_for_reply(&self) -> Whom {
        match &self.kind {
            ItemKind::Decide(Command::Request(ask, _)) => Whom {
                to: ask.asker.as_str().to_owned(),
                request_id: Some(ask.request.to_string()),
            },
            ItemKind::Query(asker, _) => Whom {
                to: asker.as_str().to_owned(),
                request_id: None,
            },
            ItemKind::Announced(by, _) => Whom {
                to: by.to_string(),
                request_id: None,
            },
            ItemKind::Decide(Command::Sync(cp, _)) => Whom {
                to: cp.to_string(),
                request_id: None,
            },
            ItemKind::Decide(Command::Intake(run)) => Whom {
                to: run.cp.to_string(),
                request_id: None,
            },
            ItemKind::Decide(
                Command::Answered(_)
                | Command::Release(_)
                | Command::Forget(_)
                | Command::Announce(_),
            )
            | ItemKind::Barrier => Whom {
                to: String::new(),
                request_id: None,
            },
        }
    }
}
