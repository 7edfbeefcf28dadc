//! The task that owns the wall: it asks central and puts what it knows on the board.
//!
//! Every question of an operator is written into the audit. So the wall asks for what has happened,
//! and for charge points when something has happened there; for all of them rarely, and for nothing
//! while nobody looks.

use std::{collections::HashMap, pin::Pin, time::Duration};

use ev_contract::{
    ids::CpId,
    time::UnixMs,
    v1::{ChargePointView, CpActRequest, EventRow, EventsRequest, OpReply, SessionView},
    wire::{CENTRAL, Tag},
};
use futures::{StreamExt, future::OptionFuture, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

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
        driver::hub::REFRESH_PATIENCE,
        feed::Feed,
        outcome::{self, Outcome},
    },
};

/// Requests that wait for the hub.
const INBOX_MAX: usize = 64;

/// Most presses that wait for one answer.
const WAITING_MAX: usize = 64;

/// Between two questions for what has happened, while somebody looks.
pub const EVENTS_EVERY: Duration = Duration::from_secs(2);

/// Between two questions for the open sessions: kilowatts and costs are as old as this at most.
pub const SESSIONS_EVERY: Duration = Duration::from_secs(5);

/// Between two listings of everything, for what no event tells. 2,000 charge points are ten pages.
pub const LIST_EVERY: Duration = Duration::from_secs(30);

/// Charge points that are asked for one by one; where more is going on, all are.
const TOUCHED_MAX: usize = 5;

/// How far back the stream of events begins.
const EVENTS_BACK_MS: i64 = 3_600_000;

/// How far back changes of reach are asked for again, since replicas notice them at different times.
const REACH_OVERLAP_MS: i64 = 90_000;

/// Most pages of one walk through events or sessions: 200 rows each.
const PAGES_MAX: usize = 50;

/// Charge points that are acted on at once when it is all of them.
const AT_ONCE: usize = 4;

/// Between two questions while central is away.
const AWAY_EVERY: Duration = Duration::from_secs(1);

/// Somebody who has loaded the wall looks for so long.
const LOOKED_LATELY: Duration = Duration::from_secs(60);

/// How long an outcome stays.
const OUTCOME_FOR: Duration = Duration::from_secs(10 * 60);

/// A way to the hub.
#[derive(Debug, Clone)]
pub struct Hub {
    inbox: mpsc::Sender<Ask>,
}

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

#[derive(Debug)]
enum Ask {
    Press(Box<Command>, oneshot::Sender<Outcome>),
    All(All, oneshot::Sender<Outcome>),
    Refused(Outcome),
    Look(oneshot::Sender<()>),
}

impl Hub {
    /// A wish: what came of it.
    ///
    /// # Errors
    /// When the hub has ended, with the whole server.
    pub async fn press(&self, wish: Command) -> Result<Outcome, Failure> {
        self.ask(|tell| Ask::Press(Box::new(wish), tell)).await
    }

    /// The same for all charge points: answered when it is under way.
    ///
    /// # Errors
    /// As [`Hub::press`].
    pub async fn press_all(&self, all: All) -> Result<Outcome, Failure> {
        self.ask(|tell| Ask::All(all, tell)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Failure> {
        let (tell, told) = oneshot::channel();
        let sent = self.inbox.send(ask(tell)).await;
        match (sent, told.await) {
            (Ok(()), Ok(answer)) => Ok(answer),
            _ => Err(Failure::Other {
                message: "the wall's server is stopping".to_owned(),
                hint: "start it again; the same press is safe".to_owned(),
            }),
        }
    }

    /// Shows what was refused before it became a wish.
    pub async fn show(&self, outcome: Outcome) {
        // When the hub has ended, nobody looks any more.
        let _ = self.inbox.send(Ask::Refused(outcome)).await;
    }

    /// Waits until the wall is fresh, or as fresh as it can be.
    pub async fn look(&self) {
        // As above.
        let _ = self.ask(Ask::Look).await;
    }
}

/// Starts the hub. It ends with `tasks`.
pub fn start(desk: Desk, feed: Feed, tasks: &mut JoinSet<()>) -> Hub {
    let (inbox, asks) = mpsc::channel(INBOX_MAX);
    let (heard_tx, heard) = mpsc::channel(INBOX_MAX);
    let now = Instant::now();
    let task = Task {
        refresh_desk: desk.with_patience(REFRESH_PATIENCE.min(desk.patience())),
        desk,
        token: feed.look(|board| board.token().to_owned()),
        feed,
        wall: Wall::default(),
        waiting: HashMap::new(),
        all_under_way: false,
        lookers: Vec::new(),
        answering: Vec::new(),
        cursor: Cursor {
            after: None,
            since: UnixMs(wall_now().0 - EVENTS_BACK_MS),
        },
        reaches: Reaches::default(),
        touched: Vec::new(),
        heard: heard_tx,
        work: JoinSet::new(),
        list_due: now,
        sessions_due: now,
        events_due: now,
        outcome: None,
        looked_at: None,
        dirty: true,
    };
    tasks.spawn(task.run(asks, heard));
    Hub { inbox }
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

type Refresh = OptionFuture<Pin<Box<dyn Future<Output = Found> + Send>>>;

#[derive(Debug)]
enum Heard {
    Answer(String, Option<CpId>, Outcome),
    All(Outcome),
}

struct Task {
    desk: Desk,
    refresh_desk: Desk,
    token: String,
    feed: Feed,
    wall: Wall,
    /// By the wish in words: two presses of one wish are one request.
    waiting: HashMap<String, Vec<oneshot::Sender<Outcome>>>,
    all_under_way: bool,
    lookers: Vec<oneshot::Sender<()>>,
    /// Those whom the round that is under way answers: it began after they came.
    answering: Vec<oneshot::Sender<()>>,
    cursor: Cursor,
    reaches: Reaches,
    touched: Vec<CpId>,
    heard: mpsc::Sender<Heard>,
    work: JoinSet<()>,
    list_due: Instant,
    sessions_due: Instant,
    events_due: Instant,
    outcome: Option<Instant>,
    looked_at: Option<Instant>,
    dirty: bool,
}

impl Task {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut heard: mpsc::Receiver<Heard>) {
        let mut link = self.desk.client().link();
        let mut link_lives = true;
        let mut ticker = interval(Duration::from_millis(200));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut refresh: Refresh = None.into();
        let mut asking = false;
        loop {
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    // Nobody can ask any more.
                    None => return,
                },
                Some(heard) = heard.recv() => self.hear(heard),
                Some(found) = &mut refresh => {
                    refresh = None.into();
                    asking = false;
                    self.refreshed(found);
                }
                changed = link.changed(), if link_lives => {
                    link_lives = changed.is_ok();
                    self.linked(&link.borrow_and_update());
                }
                _ = ticker.tick() => self.tick(),
                Some(_) = self.work.join_next() => {}
            }
            let is_due = self.events_due <= Instant::now() || !self.lookers.is_empty();
            if !asking && is_due && self.is_watched() {
                refresh = Some(self.refresh()).into();
                asking = true;
            }
            if self.dirty {
                self.dirty = false;
                let now = self.wall.ts.unwrap_or_else(wall_now);
                self.feed
                    .set(&view::REGIONS, view::parts(&self.wall, &self.token, now));
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Press(wish, tell) => self.press(*wish, tell),
            Ask::All(all, tell) => self.press_all(all, tell),
            Ask::Refused(outcome) => self.tell(&outcome),
            Ask::Look(tell) => {
                self.looked_at = Some(Instant::now());
                // While central is away nothing gets any fresher.
                if self.wall.link == Link::Up && self.lookers.len() < WAITING_MAX {
                    self.lookers.push(tell);
                } else {
                    let _ = tell.send(());
                }
            }
        }
    }

    fn press(&mut self, wish: Command, tell: oneshot::Sender<Outcome>) {
        let words = wish.in_words();
        if let Some(waiting) = self.waiting.get_mut(&words) {
            // Beyond that nobody is told: the answer is on the wall.
            if waiting.len() < WAITING_MAX {
                waiting.push(tell);
            }
            return;
        }
        if self.waiting.len() >= INBOX_MAX {
            // Nobody waits for it any more: then it is of no use.
            let _ = tell.send(busy());
            return;
        }
        self.waiting.insert(words.clone(), vec![tell]);
        let (desk, heard) = (self.desk.clone(), self.heard.clone());
        self.work.spawn(async move {
            let cp = wish.about().cp_id.and_then(|id| CpId::new(id).ok());
            let outcome = carry_out(&desk, &wish).await;
            // The hub lives as long as this task, which is its own.
            let _ = heard.send(Heard::Answer(words, cp, outcome)).await;
        });
    }

    fn press_all(&mut self, all: All, tell: oneshot::Sender<Outcome>) {
        let Some(known) = &self.wall.charge_points else {
            let _ = tell.send(busy());
            return;
        };
        let ids: Vec<String> = known.keys().map(ToString::to_string).collect();
        let words = in_words(all);
        let outcome = Outcome::done(
            "under_way",
            format!("{words} {} charge points, one after the other", ids.len()),
            None,
            &serde_json::json!({ "status": "under_way", "charge_points": ids.len() }),
        );
        self.tell(&outcome);
        let _ = tell.send(outcome);
        if std::mem::replace(&mut self.all_under_way, true) {
            return;
        }
        let (desk, heard) = (self.desk.clone(), self.heard.clone());
        self.work.spawn(async move {
            // Each charge point is a wish of its own: one that cannot be reached holds up no other.
            let outcomes: Vec<(String, Outcome)> = stream::iter(ids)
                .map(|id| {
                    let desk = desk.clone();
                    async move {
                        let outcome = carry_out(&desk, &act(all, id.clone())).await;
                        (id, outcome)
                    }
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let _ = heard.send(Heard::All(summary(words, outcomes))).await;
        });
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
                self.all_under_way = false;
                self.list_due = Instant::now();
                outcome
            }
        };
        self.tell(&outcome);
        self.events_due = Instant::now();
        self.sessions_due = Instant::now();
    }

    /// Shows an outcome until the next.
    fn tell(&mut self, outcome: &Outcome) {
        self.outcome = Some(Instant::now());
        self.feed.set(&outcome::SHOWN_IN, outcome.parts());
    }

    fn is_watched(&self) -> bool {
        self.feed.listeners() > 0
            || self
                .looked_at
                .is_some_and(|at| at.elapsed() < LOOKED_LATELY)
    }

    fn tick(&mut self) {
        if self.outcome.is_some_and(|at| at.elapsed() > OUTCOME_FOR) {
            self.outcome = None;
            self.feed.set(&outcome::SHOWN_IN, Vec::new());
        }
    }

    fn linked(&mut self, link: &crate::client::Link) {
        let url = self.desk.client().url();
        match (&link.refused, link.connected) {
            (Some(why), _) => self.wall.link = Link::Server(why.clone()),
            (None, false) => {
                self.wall.link = Link::Server(format!("the connection to {url} is lost"));
            }
            (None, true) => {
                let now = Instant::now();
                (self.list_due, self.sessions_due, self.events_due) = (now, now, now);
            }
        }
        self.dirty = true;
    }

    fn refresh(&mut self) -> Pin<Box<dyn Future<Output = Found> + Send>> {
        self.answering.append(&mut self.lookers);
        let now = Instant::now();
        let many = self.touched.len() > TOUCHED_MAX;
        let plan = Plan {
            cursor: self.cursor.clone(),
            list: self.list_due <= now || many || self.wall.charge_points.is_none(),
            touched: std::mem::take(&mut self.touched),
            sessions: self.sessions_due <= now,
        };
        let desk = self.refresh_desk.clone();
        Box::pin(async move {
            let mut found = Found::default();
            found.failure = ask_central(&desk, plan, &mut found).await.err();
            found
        })
    }

    fn refreshed(&mut self, found: Found) {
        let now = Instant::now();
        let connected = self.desk.client().link().borrow().connected;
        self.events_due = now + EVENTS_EVERY;
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
        for cp in new.iter().filter_map(|event| event.cp_id.clone()) {
            if !self.touched.contains(&cp) {
                self.touched.push(cp);
            }
        }
        if !new.is_empty() {
            self.events_due = now;
            self.sessions_due = now;
        }
        self.wall.happened(new);
        if let Some(listing) = found.listing {
            self.wall.listed(listing);
            self.list_due = now + LIST_EVERY;
            self.touched.clear();
        }
        for view in found.some {
            self.wall.looked_at(view);
        }
        if let Some(sessions) = found.sessions {
            self.wall.sessions = sessions.into_iter().map(|s| (s.session_id, s)).collect();
            self.sessions_due = now + SESSIONS_EVERY;
        }
        self.wall.ts = found.ts.or(self.wall.ts);
        for tell in self.answering.drain(..) {
            let _ = tell.send(());
        }
        self.dirty = true;
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

fn busy() -> Outcome {
    Outcome::failed(
        &Failure::Other {
            message: "too much is asked for at once, or nothing is known yet; nothing was sent"
                .to_owned(),
            hint: "wait a moment and press again".to_owned(),
        },
        &(),
    )
}
