//! What the task of the wall does.
//!
//! Every question of an operator is written into the audit. So the wall asks for what has happened,
//! and for charge points when something has happened there; for all of them rarely, and for nothing
//! while nobody looks.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ev_contract::{
    ids::CpId,
    time::UnixMs,
    v1::{ChargePointView, CpActRequest, EventRow, EventsRequest, OpReply, SessionView},
    wire::{CENTRAL, Tag},
};
use futures::{StreamExt, stream};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use super::{
    shown::{Link, Wall},
    view,
};
use crate::{
    command::Command,
    desk::{Desk, SessionFilter, wall_now},
    doc::OpDoc,
    failure::Failure,
    verbs::Reaches,
    web::{
        feed::Feed,
        outcome::Outcome,
        task::{self, AWAY_EVERY, Common, Hub, Page, Refresh},
    },
};

/// Most wishes that are under way.
const WISHES_MAX: usize = 64;

/// Between two questions for what has happened, while somebody looks.
pub const EVENTS_EVERY: Duration = Duration::from_secs(2);

/// Between two questions for the open sessions: kilowatts and costs are as old as this at most.
pub const SESSIONS_EVERY: Duration = Duration::from_secs(5);

/// Between two listings of everything, for what no event tells. 2,000 charge points are ten pages.
pub const LIST_EVERY: Duration = Duration::from_secs(30);

/// Charge points that are asked for one by one in a round; where more is going on, all are.
const TOUCHED_MAX: usize = 5;

/// Between two listings of everything because much is going on.
pub const LIST_MANY_EVERY: Duration = Duration::from_secs(10);

/// Between the beginnings of two rounds when the first has found something new.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How far back the stream of events begins.
const EVENTS_BACK_MS: i64 = 3_600_000;

/// How far back changes of reach are asked for again, since replicas notice them at different times.
const REACH_OVERLAP_MS: i64 = 90_000;

/// Most pages of one walk through events or sessions: 200 rows each.
const PAGES_MAX: usize = 50;

/// The code of what central was not there for.
const UNREACHABLE: &str = "unreachable";

/// Charge points that are acted on at once when it is all of them.
const AT_ONCE: usize = 4;

/// What is done to all charge points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum All {
    /// Into service.
    Enable,
    /// Out of it.
    Disable,
}

/// An act on one charge point.
#[must_use]
pub fn act(all: All, cp_id: String) -> Command {
    let request = CpActRequest {
        tag: Tag::new(),
        to: CENTRAL.to_owned(),
        request_id: String::new(),
        expires_at: 0,
        cp_id,
        connector: None,
    };
    match all {
        All::Enable => Command::CpEnable(request),
        All::Disable => Command::CpDisable(request),
    }
}

/// What can be wished on the wall.
#[derive(Debug, PartialEq)]
pub enum Wish {
    /// One request.
    One(Box<Command>),
    /// The same for all charge points: answered when it is under way.
    All(All),
}

/// Starts the wall. It ends with `tasks`.
pub fn start(desk: Desk, feed: Feed, tasks: &mut JoinSet<()>) -> Hub<Wish> {
    let now = Instant::now();
    task::start(desk, feed, tasks, |common| WallPage {
        token: common.feed.look(|board| board.token().to_owned()),
        common,
        wall: Wall::default(),
        waiting: HashMap::new(),
        all_under_way: None,
        cursor: Cursor {
            after: None,
            since: UnixMs(wall_now().0 - EVENTS_BACK_MS),
        },
        reaches: Reaches::default(),
        touched: Vec::new(),
        list_due: now,
        listed: None,
        sessions_due: now,
        events_due: now,
        began: now,
    })
}

#[derive(Debug, Clone)]
struct Cursor {
    after: Option<String>,
    since: UnixMs,
}

/// What a round of questions has found.
#[derive(Debug, Default)]
struct Found {
    events: Vec<EventRow>,
    cursor: Option<Cursor>,
    listing: Option<Vec<ChargePointView>>,
    some: Vec<ChargePointView>,
    sessions: Option<Vec<SessionView>>,
    ts: Option<UnixMs>,
    failure: Option<Failure>,
}

/// What to ask for.
#[derive(Debug)]
struct Plan {
    cursor: Cursor,
    list: bool,
    touched: Vec<CpId>,
    sessions: bool,
}

#[derive(Debug)]
enum Heard {
    Answer(String, Option<CpId>, Outcome),
    All(Outcome),
}

struct WallPage {
    common: Common<Heard>,
    token: String,
    wall: Wall,
    /// By the wish in words: two presses of one wish are one request.
    waiting: HashMap<String, Vec<oneshot::Sender<Outcome>>>,
    all_under_way: Option<All>,
    cursor: Cursor,
    reaches: Reaches,
    touched: Vec<CpId>,
    list_due: Instant,
    listed: Option<Instant>,
    sessions_due: Instant,
    events_due: Instant,
    /// When the last round of questions began.
    began: Instant,
}

impl Page for WallPage {
    type Wish = Wish;
    type Heard = Heard;
    type Found = Found;

    fn common(&mut self) -> &mut Common<Heard> {
        &mut self.common
    }

    fn is_in_reach(&self) -> bool {
        self.wall.link == Link::Up
    }

    fn press(&mut self, wish: Wish, tell: oneshot::Sender<Outcome>) {
        match wish {
            Wish::One(wish) => self.press_one(*wish, tell),
            Wish::All(all) => self.press_all(all, tell),
        }
    }

    fn hear(&mut self, heard: Heard) {
        let outcome = match heard {
            Heard::Answer(words, cp, outcome) => {
                for tell in self.waiting.remove(&words).into_iter().flatten() {
                    let _ = tell.send(outcome.clone());
                }
                self.touched.extend(cp);
                outcome
            }
            Heard::All(outcome) => {
                self.all_under_way = None;
                self.list_due = Instant::now();
                outcome
            }
        };
        self.common.tell(&outcome);
        self.events_due = Instant::now();
        self.sessions_due = Instant::now();
    }

    fn linked(&mut self, link: &crate::client::Link) {
        let url = self.common.desk.client().url();
        match (&link.refused, link.connected) {
            (Some(why), _) => self.wall.link = Link::Server(why.clone()),
            (None, false) => {
                self.wall.link = Link::Server(format!("the connection to {url} is lost"));
            }
            (None, true) => {
                if matches!(self.wall.link, Link::Server(_)) {
                    self.wall.link = Link::Up;
                }
                let now = Instant::now();
                (self.list_due, self.sessions_due, self.events_due) = (now, now, now);
            }
        }
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.events_due <= Instant::now() || self.common.is_awaited();
        is_due && self.common.is_watched()
    }

    fn refresh(&mut self) -> Refresh<Found> {
        let now = Instant::now();
        let many = self.touched.len() > TOUCHED_MAX
            && self.listed.is_none_or(|at| at + LIST_MANY_EVERY <= now);
        let list = self.list_due <= now || many || self.wall.charge_points.is_none();
        let touched = if list {
            std::mem::take(&mut self.touched)
        } else {
            let most = self.touched.len().min(TOUCHED_MAX);
            self.touched.drain(..most).collect()
        };
        let plan = Plan {
            cursor: self.cursor.clone(),
            list,
            touched,
            sessions: self.sessions_due <= now,
        };
        // What becomes due while these are asked for stays due.
        self.began = now;
        self.events_due = now + EVENTS_EVERY;
        if plan.list {
            (self.listed, self.list_due) = (Some(now), now + LIST_EVERY);
        }
        if plan.sessions {
            self.sessions_due = now + SESSIONS_EVERY;
        }
        let desk = self.common.refresh_desk.clone();
        Box::pin(async move {
            let mut found = Found::default();
            found.failure = ask_central(&desk, plan, &mut found).await.err();
            found
        })
    }

    fn refreshed(&mut self, found: Found) {
        let now = Instant::now();
        let connected = self.common.is_connected();
        match found.failure {
            Some(failure) => {
                if connected {
                    self.wall.link = Link::Central(failure.complaint());
                }
                self.events_due = now + AWAY_EVERY;
                // What was touched meanwhile is not known any more.
                self.list_due = now;
                self.sessions_due = now;
            }
            None if connected => self.wall.link = Link::Up,
            None => {}
        }
        if let Some(cursor) = found.cursor {
            self.cursor = cursor;
        }
        let new: Vec<EventRow> = found
            .events
            .into_iter()
            .filter(|event| self.reaches.is_new(event))
            .collect();
        // A listing is newer than the events that came before it.
        let touched = new.iter().filter_map(|event| event.cp_id.clone());
        for cp in touched.filter(|_| found.listing.is_none()) {
            if !self.touched.contains(&cp) {
                self.touched.push(cp);
            }
        }
        if !new.is_empty() {
            self.events_due = now.max(self.began + AGAIN_AFTER);
            self.sessions_due = self.events_due;
        }
        self.wall.happened(new);
        if let Some(listing) = found.listing {
            self.wall.listed(listing);
        }
        for view in found.some {
            self.wall.looked_at(view);
        }
        if let Some(sessions) = found.sessions {
            self.wall.sessions = sessions.into_iter().map(|s| (s.session_id, s)).collect();
        }
        self.wall.ts = found.ts.or(self.wall.ts);
    }

    fn draw(&mut self) {
        let now = self.wall.ts.unwrap_or_else(wall_now);
        let parts = view::parts(&self.wall, &self.token, now);
        self.common.feed.set(&view::REGIONS, parts);
    }
}

impl WallPage {
    fn press_one(&mut self, wish: Command, tell: oneshot::Sender<Outcome>) {
        let words = wish.in_words();
        if let Some(waiting) = self.waiting.get_mut(&words) {
            task::wait(waiting, tell);
            return;
        }
        if self.waiting.len() >= WISHES_MAX {
            self.refuse(busy(), tell);
            return;
        }
        self.waiting.insert(words.clone(), vec![tell]);
        let (desk, heard) = (self.common.desk.clone(), self.common.heard.clone());
        self.common.work.spawn(async move {
            let cp = wish.about().cp_id.and_then(|id| CpId::new(id).ok());
            let outcome = carry_out(&desk, &wish).await;
            // The hub lives as long as this task, which is its own.
            let _ = heard.send(Heard::Answer(words, cp, outcome)).await;
        });
    }

    /// Who presses with a script looks at the wall for the outcome.
    fn refuse(&mut self, outcome: Outcome, tell: oneshot::Sender<Outcome>) {
        self.common.tell(&outcome);
        // Nobody waits for it any more: then it is of no use.
        let _ = tell.send(outcome);
    }

    fn press_all(&mut self, all: All, tell: oneshot::Sender<Outcome>) {
        let Some(known) = &self.wall.charge_points else {
            self.refuse(busy(), tell);
            return;
        };
        if self.all_under_way.is_some_and(|other| other != all) {
            self.refuse(still_under_way(), tell);
            return;
        }
        let ids: Vec<String> = known.keys().map(ToString::to_string).collect();
        let words = in_words(all);
        let outcome = Outcome::done(
            "under_way",
            format!("{words} {} charge points, one after the other", ids.len()),
            None,
            &serde_json::json!({ "status": "under_way", "charge_points": ids.len() }),
        );
        self.common.tell(&outcome);
        let _ = tell.send(outcome);
        if self.all_under_way.replace(all).is_some() {
            return;
        }
        let (desk, heard) = (self.common.desk.clone(), self.common.heard.clone());
        self.common.work.spawn(async move {
            // Each charge point is a wish of its own: one that cannot be reached holds up no other.
            // Central that cannot be reached holds up all of them: the rest is not sent.
            let (desk, is_away) = (&desk, &AtomicBool::new(false));
            let outcomes: Vec<(String, Outcome)> = stream::iter(ids)
                .map(|id| async move {
                    if is_away.load(Ordering::Relaxed) {
                        return (id, away());
                    }
                    let outcome = carry_out(desk, &act(all, id.clone())).await;
                    if outcome.unknown || outcome.code == UNREACHABLE {
                        is_away.store(true, Ordering::Relaxed);
                    }
                    (id, outcome)
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let _ = heard.send(Heard::All(summary(words, outcomes))).await;
        });
    }
}

/// Asks for all that is due; what was found before a failure counts.
async fn ask_central(desk: &Desk, plan: Plan, found: &mut Found) -> Result<(), Failure> {
    let mut cursor = plan.cursor;
    for _ in 0..PAGES_MAX {
        let page = desk
            .events_page(&EventsRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                after: cursor.after.clone(),
                since: Some(cursor.since),
                cp_id: None,
                session_id: None,
                rows: None,
            })
            .await?;
        cursor = Cursor {
            after: Some(page.next),
            since: UnixMs(page.ts.0 - REACH_OVERLAP_MS),
        };
        found.events.extend(page.events);
        found.ts = Some(page.ts);
        found.cursor = Some(cursor.clone());
        if !page.more {
            break;
        }
    }
    if plan.list {
        let (listing, ts) = desk.cp_ls(None).await?;
        found.listing = Some(listing);
        found.ts = Some(ts);
    } else {
        for cp in plan.touched {
            found.some.extend(desk.cp_ls(Some(cp.as_str())).await?.0);
        }
    }
    if plan.sessions {
        let mut sessions = Vec::new();
        let mut before = None;
        for _ in 0..PAGES_MAX {
            let page = desk
                .session_ls_page(&SessionFilter::default(), before, None)
                .await?;
            let grew = !page.sessions.is_empty();
            sessions.extend(page.sessions);
            before = page.next;
            if before.is_none() || !grew {
                break;
            }
        }
        found.sessions = Some(sessions);
    }
    Ok(())
}

async fn carry_out(desk: &Desk, wish: &Command) -> Outcome {
    let cp_id = wish.about().cp_id;
    match desk.carry_out::<OpReply>(wish, None, |_| {}).await {
        Ok(reply) => {
            let doc = OpDoc::done(&reply, cp_id);
            let message = format!("{}: {}", doc.status, wish.in_words());
            let session = doc.session_id.clone();
            Outcome::done(&doc.status, message, session, &doc)
        }
        Err(failure) => {
            let failure = failure.for_operators();
            Outcome::failed(&failure, &OpDoc::failed(&failure, cp_id))
        }
    }
}

const fn in_words(all: All) -> &'static str {
    match all {
        All::Enable => "putting back into service",
        All::Disable => "taking out of service",
    }
}

fn summary(words: &str, outcomes: Vec<(String, Outcome)>) -> Outcome {
    let count = outcomes.len();
    let failed: Vec<_> = outcomes
        .into_iter()
        .filter(|(_, outcome)| !outcome.done)
        .collect();
    match failed.first() {
        None => Outcome::done(
            "accepted",
            format!("accepted: {words} all {count} charge points"),
            None,
            &(),
        ),
        Some((cp, first)) => Outcome::failed(
            &Failure::Other {
                message: format!(
                    "{words} {} of {count} charge points failed; the first, {cp}: {}",
                    failed.len(),
                    first.message
                ),
                hint: first.hint.clone(),
            },
            &(),
        ),
    }
}

/// The other wish for all charge points has not come to its end: between the two of them it would be
/// chance where each charge point ends up.
fn still_under_way() -> Outcome {
    not_sent(
        "the opposite is still under way for all charge points",
        "wait until its outcome is shown and press again",
    )
}

fn away() -> Outcome {
    not_sent("central does not answer", "press again when it is back")
}

fn busy() -> Outcome {
    not_sent(
        "too much is asked for at once, or nothing is known yet",
        "wait a moment and press again",
    )
}

fn not_sent(why: &str, hint: &str) -> Outcome {
    let failure = Failure::Other {
        message: format!("{why}; nothing was sent"),
        hint: hint.to_owned(),
    };
    Outcome::failed(&failure, &OpDoc::failed(&failure, None))
}
