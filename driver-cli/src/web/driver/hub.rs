//! The task that owns the driver's page: it asks, listens, remembers what is wanted, and puts what it
//! knows on the board. Requests reach it as messages.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    pin::Pin,
    time::Duration,
};

use ev_contract::{
    codes::Code,
    ids::{DriverId, RequestId, SessionId},
    subjects::Subject,
    v1::{ChargePointListing, DriverUpdate, SessionView},
};
use futures::{StreamExt, future::OptionFuture};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    intents::{Intents, Key, Press},
    shown::{HISTORY_ROWS, Link, Shown},
    view,
};
use crate::{
    command::Command,
    desk::{Desk, wall_now},
    doc::{self, ActionDoc},
    failure::Failure,
    follow::{Followed, Patience, follow},
    verbs::place_of,
    watch::{News, Seen},
    web::{
        feed::Feed,
        outcome::{self, Outcome},
    },
    words,
};

/// Requests that wait for the hub. It answers within a turn; more mean a storm, and wait.
const INBOX_MAX: usize = 64;

/// Most presses that wait for one answer, and most looks for one refresh.
const WAITING_MAX: usize = 64;

/// Most sessions that are followed live: each takes two of the 64 subscriptions that the server
/// grants a driver. Others are shown as central last told of them.
pub const FOLLOWED_MAX: usize = 8;

/// Between two listings while somebody looks: central tells drivers nothing of charge points by
/// itself. A page of 200 costs central a read of its state.
pub const LIST_EVERY: Duration = Duration::from_secs(2);

/// A listing of many pages is asked for more rarely: it takes at most a tenth of the time.
const LIST_SHARE: u32 = 10;

/// Between two listings while nobody looks.
const LIST_EVERY_UNSEEN: Duration = Duration::from_secs(60);

/// Between two questions for open sessions, in case an update was lost.
const SESSIONS_EVERY: Duration = Duration::from_secs(15);

/// How long one question of a refresh waits: a person sees within this time that central is away.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(3);

/// Between two refreshes while central or the server is away.
const AWAY_EVERY: Duration = Duration::from_secs(1);

/// Somebody who has loaded the page looks for so long: without a script nobody says goodbye.
const LOOKED_LATELY: Duration = Duration::from_secs(60);

/// How long an outcome stays on the page.
const OUTCOME_FOR: Duration = Duration::from_secs(10 * 60);

/// Sessions of which it is remembered that they have ended, against answers that are older.
const ENDED_MAX: usize = 64;

/// A way to the hub.
#[derive(Debug, Clone)]
pub struct Hub {
    inbox: mpsc::Sender<Ask>,
}

#[derive(Debug)]
enum Ask {
    Press(Command, oneshot::Sender<Outcome>),
    Refused(Outcome),
    Look(oneshot::Sender<()>),
}

impl Hub {
    /// A wish: what came of it, of its first press if there were several.
    ///
    /// # Errors
    /// When the hub has ended, with the whole server.
    pub async fn press(&self, wish: Command) -> Result<Outcome, Failure> {
        let (tell, told) = oneshot::channel();
        let sent = self.inbox.send(Ask::Press(wish, tell)).await;
        match (sent, told.await) {
            (Ok(()), Ok(outcome)) => Ok(outcome),
            _ => Err(gone()),
        }
    }

    /// Shows what was refused before it became a wish.
    pub async fn show(&self, outcome: Outcome) {
        // When the hub has ended, nobody looks any more.
        let _ = self.inbox.send(Ask::Refused(outcome)).await;
    }

    /// Waits until the board is fresh, or as fresh as it can be.
    pub async fn look(&self) {
        let (tell, told) = oneshot::channel();
        if self.inbox.send(Ask::Look(tell)).await.is_ok() {
            let _ = told.await;
        }
    }
}

fn gone() -> Failure {
    Failure::Other {
        message: "the page's server is stopping".to_owned(),
        hint: "start it again; the same press is safe".to_owned(),
    }
}

/// Starts the hub. It ends with `tasks`.
pub fn start(desk: Desk, driver: DriverId, feed: Feed, tasks: &mut JoinSet<()>) -> Hub {
    let (inbox, asks) = mpsc::channel(INBOX_MAX);
    let (heard_tx, heard) = mpsc::channel(INBOX_MAX);
    let task = Task {
        refresh_desk: desk.with_patience(REFRESH_PATIENCE.min(desk.patience())),
        desk,
        driver,
        feed,
        shown: Shown::default(),
        intents: Intents::default(),
        waiting: HashMap::new(),
        lookers: Vec::new(),
        answering: Vec::new(),
        followed: HashSet::new(),
        ended: Vec::new(),
        outcome: None,
        heard: heard_tx,
        work: JoinSet::new(),
        due: Due::everything(),
        looked_at: None,
        dirty: true,
    };
    tasks.spawn(task.run(asks, heard));
    Hub { inbox }
}

/// What tasks of the hub tell it.
#[derive(Debug)]
enum Heard {
    SentAs(Key, RequestId),
    Answer(Key, Outcome),
    Seen(Box<Seen>),
    Silent(SessionId, String),
    Foreign(String),
    Ended(Box<SessionView>),
    Lost(SessionId),
}

/// When to ask for what.
#[derive(Debug)]
struct Due {
    list: Instant,
    sessions: Instant,
    history: bool,
}

impl Due {
    fn everything() -> Self {
        let now = Instant::now();
        Self {
            list: now,
            sessions: now,
            history: true,
        }
    }
}

/// What a refresh has found.
#[derive(Debug)]
struct Refreshed {
    sessions: Option<Vec<SessionView>>,
    listing: Option<Vec<ChargePointListing>>,
    history: Option<Vec<SessionView>>,
    took: Duration,
    failure: Option<Failure>,
}

type Refresh = OptionFuture<Pin<Box<dyn Future<Output = Refreshed> + Send>>>;

struct Task {
    desk: Desk,
    refresh_desk: Desk,
    driver: DriverId,
    feed: Feed,
    shown: Shown,
    intents: Intents,
    waiting: HashMap<Key, Vec<oneshot::Sender<Outcome>>>,
    lookers: Vec<oneshot::Sender<()>>,
    /// Those whom the refresh that is under way answers: it began after they came.
    answering: Vec<oneshot::Sender<()>>,
    followed: HashSet<SessionId>,
    ended: Vec<SessionId>,
    outcome: Option<Instant>,
    heard: mpsc::Sender<Heard>,
    work: JoinSet<()>,
    due: Due,
    looked_at: Option<Instant>,
    dirty: bool,
}

impl Task {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut heard: mpsc::Receiver<Heard>) {
        let mut link = self.desk.client().link();
        let mut link_lives = true;
        // Tells at once of sessions that were begun elsewhere. Lost or not, they are asked for too.
        let own = Subject::watch_of(&self.driver);
        let mut updates = self.desk.client().subscribe(own).await.ok();
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
                Some(_) = next(&mut updates) => self.soon(),
                changed = link.changed(), if link_lives => {
                    link_lives = changed.is_ok();
                    self.linked(&link.borrow_and_update());
                }
                _ = ticker.tick() => self.tick(),
                Some(_) = self.work.join_next() => {}
            }
            if !asking && self.is_due() {
                refresh = Some(self.refresh()).into();
                asking = true;
            }
            if self.dirty {
                self.dirty = false;
                let parts = view::parts(&self.shown, &self.intents, wall_now());
                self.feed.set(&view::REGIONS, parts);
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Press(wish, tell) => self.press(wish, tell),
            Ask::Refused(outcome) => self.tell(&outcome),
            Ask::Look(tell) => {
                self.looked_at = Some(Instant::now());
                // While central is away nothing gets any fresher.
                if self.shown.link == Link::Up && self.lookers.len() < WAITING_MAX {
                    self.soon();
                    self.lookers.push(tell);
                } else {
                    let _ = tell.send(());
                }
            }
        }
    }

    fn press(&mut self, wish: Command, tell: oneshot::Sender<Outcome>) {
        let Some(key) = Key::of(&wish) else {
            return;
        };
        if let Some(outcome) = self.has_come_true(&key) {
            // Nobody waits for it any more: then it is of no use.
            let _ = tell.send(outcome);
            return;
        }
        match self.intents.press(&key, &wish) {
            Press::Answered(outcome) => {
                let _ = tell.send(outcome);
            }
            Press::Wait => self.wait(key, tell),
            Press::Full => {
                let failure = Failure::Other {
                    message: "too much is asked for at once; nothing was sent".to_owned(),
                    hint: "wait until what is under way has an answer".to_owned(),
                };
                let _ = tell.send(Outcome::failed(&failure, &ActionDoc::failed(&failure)));
            }
            Press::Send(wish, named) => {
                self.wait(key.clone(), tell);
                let (desk, heard) = (self.desk.clone(), self.heard.clone());
                self.work.spawn(async move {
                    let outcome = send(&desk, &wish, named.as_ref(), &key, &heard).await;
                    // The hub lives as long as this task, which is its own.
                    let _ = heard.send(Heard::Answer(key, outcome)).await;
                });
            }
        }
        self.dirty = true;
    }

    /// What is so already, pressed on a page of before: no request, and no error.
    fn has_come_true(&self, key: &Key) -> Option<Outcome> {
        if self.intents.knows(key) {
            return None;
        }
        let (message, session) = match key {
            Key::Start(cp, connector) => {
                let id = self.shown.session_on(cp, *connector)?.view().session_id;
                (format!("you already charge on {cp}: session {id}"), id)
            }
            Key::Stop(session) => {
                let id = SessionId::parse(session).ok()?;
                let told = self.shown.sessions.get(&id);
                let has_ended = told.is_some_and(|s| s.view().state.is_ended());
                if !has_ended && !self.ended.contains(&id) {
                    return None;
                }
                (format!("session {id} has ended already"), id)
            }
        };
        let doc = serde_json::json!({ "status": "accepted", "session_id": session });
        Some(Outcome::done(
            "accepted",
            message,
            Some(session.to_string()),
            &doc,
        ))
    }

    fn wait(&mut self, key: Key, tell: oneshot::Sender<Outcome>) {
        let waiting = self.waiting.entry(key).or_default();
        // Beyond that nobody is told: the answer is on the page.
        if waiting.len() < WAITING_MAX {
            waiting.push(tell);
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::SentAs(key, id) => self.intents.sent_as(&key, id),
            Heard::Answer(key, outcome) => {
                self.intents.answered(&key, &outcome);
                self.tell(&outcome);
                for tell in self.waiting.remove(&key).into_iter().flatten() {
                    let _ = tell.send(outcome.clone());
                }
                if let Some(session) = outcome
                    .session_id
                    .as_deref()
                    .filter(|_| outcome.done)
                    .and_then(|id| SessionId::parse(id).ok())
                {
                    self.follow(session);
                }
                self.soon();
            }
            Heard::Seen(seen) => {
                let before = self
                    .shown
                    .sessions
                    .get(&seen.view.session_id)
                    .map(|s| s.seen.phase());
                if before != Some(seen.phase()) {
                    self.due.list = Instant::now();
                }
                // Before the receipt is there, another start may be wanted.
                if seen.view.state.is_ended() {
                    self.intents.ended(&seen.view.session_id.to_string());
                }
                self.shown.seen(*seen, wall_now());
            }
            Heard::Silent(session, why) => self.shown.silent(session, why),
            Heard::Foreign(text) => self.tell(&Outcome::failed(
                &Failure::Other {
                    message: text,
                    hint: String::new(),
                },
                &(),
            )),
            Heard::Ended(view) => self.ended(*view),
            Heard::Lost(session) => {
                self.followed.remove(&session);
                self.shown.sessions.remove(&session);
                self.soon();
            }
        }
        self.dirty = true;
    }

    fn ended(&mut self, view: SessionView) {
        let session = view.session_id;
        self.followed.remove(&session);
        if self.ended.len() >= ENDED_MAX {
            self.ended.remove(0);
        }
        self.ended.push(session);
        self.intents.ended(&session.to_string());
        // One that is stopped before energy flowed has failed; the stop has not.
        match words::failure_of(&view).filter(|_| !view.stopping) {
            Some(failure) => self.tell(&Outcome::failed(
                &Failure::Other {
                    message: format!("{} ({})", failure.message, failure.word),
                    hint: failure.hint,
                },
                &(),
            )),
            None => self.tell(&Outcome::done(
                "completed",
                format!(
                    "completed: the session on {}/{} has ended, {}",
                    view.cp_id,
                    view.connector,
                    words::how_it_ended(&view)
                ),
                Some(session.to_string()),
                &(),
            )),
        }
        self.shown.ended(view, wall_now());
        self.due.history = true;
        self.soon();
    }

    /// Shows an outcome until the next.
    fn tell(&mut self, outcome: &Outcome) {
        self.outcome = Some(Instant::now());
        self.feed.set(&outcome::SHOWN_IN, outcome.parts());
    }

    fn soon(&mut self) {
        let now = Instant::now();
        self.due.list = now;
        self.due.sessions = now;
    }

    fn is_watched(&self) -> bool {
        self.feed.listeners() > 0
            || self
                .looked_at
                .is_some_and(|at| at.elapsed() < LOOKED_LATELY)
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.due.history
            || !self.lookers.is_empty()
            || self.due.sessions <= now
            || self.due.list <= now
    }

    fn tick(&mut self) {
        if self.outcome.is_some_and(|at| at.elapsed() > OUTCOME_FOR) {
            self.outcome = None;
            self.feed.set(&outcome::SHOWN_IN, Vec::new());
        }
        self.dirty |= self.shown.tick(wall_now());
        // Somebody has come to look: what is shown is of a while ago.
        if self.is_watched() {
            self.due.list = self.due.list.min(Instant::now() + LIST_EVERY);
        }
    }

    fn linked(&mut self, link: &crate::client::Link) {
        let url = self.desk.client().url();
        match (&link.refused, link.connected) {
            (Some(why), _) => self.shown.link = Link::ShutOut(why.clone()),
            (None, false) => {
                self.shown.link = Link::Server(format!("the connection to {url} is lost"));
            }
            (None, true) => {
                if matches!(self.shown.link, Link::Server(_)) {
                    self.shown.link = Link::Up;
                }
                self.due = Due::everything();
            }
        }
        self.dirty = true;
    }

    fn refresh(&mut self) -> Pin<Box<dyn Future<Output = Refreshed> + Send>> {
        self.answering.append(&mut self.lookers);
        let desk = self.refresh_desk.clone();
        let now = Instant::now();
        let with_list = self.due.list <= now;
        let with_history = self.due.history;
        Box::pin(async move {
            let mut found = Refreshed {
                sessions: None,
                listing: None,
                history: None,
                took: Duration::ZERO,
                failure: None,
            };
            let asked = async {
                found.sessions = Some(desk.open_sessions().await?.sessions);
                if with_list {
                    let began = Instant::now();
                    found.listing = Some(desk.list().await?.0);
                    found.took = began.elapsed();
                }
                if with_history {
                    let page = desk.history_page(None, Some(HISTORY_ROWS)).await?;
                    found.history = Some(page.sessions);
                }
                Ok::<(), Failure>(())
            };
            found.failure = asked.await.err();
            found
        })
    }

    fn refreshed(&mut self, found: Refreshed) {
        let now = Instant::now();
        let connected = self.desk.client().link().borrow().connected;
        match found.failure {
            Some(failure) => {
                if connected {
                    self.shown.link = Link::Central(failure.complaint());
                }
                self.due.list = now + AWAY_EVERY;
                self.due.sessions = now + AWAY_EVERY;
                // Asked for with the next refresh; by itself it would ask without a pause.
                self.due.history = false;
            }
            None => {
                if matches!(self.shown.link, Link::Central(_)) {
                    self.due.history = true;
                }
                if connected {
                    self.shown.link = Link::Up;
                }
                self.due.history &= found.history.is_none();
                self.due.sessions = now + SESSIONS_EVERY;
                if found.listing.is_some() {
                    let every = if self.is_watched() {
                        LIST_EVERY
                    } else {
                        LIST_EVERY_UNSEEN
                    };
                    self.due.list = now + every.max(found.took * LIST_SHARE);
                }
            }
        }
        if let Some(listing) = found.listing {
            self.shown.listed(listing);
        }
        if let Some(history) = found.history {
            self.shown.history = history
                .into_iter()
                .filter(|view| view.state.is_ended())
                .collect();
        }
        if let Some(sessions) = found.sessions {
            self.open(sessions);
        }
        for tell in self.answering.drain(..) {
            let _ = tell.send(());
        }
        self.dirty = true;
    }

    fn open(&mut self, sessions: Vec<SessionView>) {
        let open: HashSet<SessionId> = sessions.iter().map(|view| view.session_id).collect();
        let before = self.shown.sessions.len();
        // Those that are followed say themselves when they end.
        self.shown
            .sessions
            .retain(|id, _| open.contains(id) || self.followed.contains(id));
        if self.shown.sessions.len() != before {
            self.due.history = true;
        }
        for view in sessions {
            let id = view.session_id;
            // Whoever follows it knows better.
            let known = self.followed.contains(&id) && self.shown.sessions.contains_key(&id);
            if self.ended.contains(&id) || known {
                continue;
            }
            let age_ms = view.last_value_at.map(|at| wall_now().ms_since(at).max(0));
            self.shown.seen(
                Seen {
                    source: crate::watch::Source::Status,
                    view,
                    live: None,
                    age_ms,
                },
                wall_now(),
            );
            self.follow(id);
        }
    }

    fn follow(&mut self, session: SessionId) {
        if self.followed.len() >= FOLLOWED_MAX
            || self.ended.contains(&session)
            || !self.followed.insert(session)
        {
            return;
        }
        let desk = self.refresh_desk.clone();
        let (driver, heard) = (self.driver.clone(), self.heard.clone());
        self.work.spawn(async move {
            see_through(&desk, &driver, session, &heard).await;
        });
    }
}

async fn next(updates: &mut Option<async_nats::Subscriber>) -> Option<async_nats::Message> {
    match updates {
        Some(updates) => updates.next().await,
        None => std::future::pending().await,
    }
}

/// Sends a wish and makes an outcome of what came of it.
async fn send(
    desk: &Desk,
    wish: &Command,
    named: Option<&RequestId>,
    key: &Key,
    heard: &mpsc::Sender<Heard>,
) -> Outcome {
    let mut ids = Vec::new();
    let asked = desk
        .carry_out::<DriverUpdate>(wish, named, |id| ids.push(id.to_owned()))
        .await;
    if let Some(id) = ids.pop().and_then(|id| RequestId::new(id).ok()) {
        // Before the answer, in the same channel.
        let _ = heard.send(Heard::SentAs(key.clone(), id)).await;
    }
    match asked {
        Ok(update) => {
            let what = match key {
                Key::Start(..) => "session",
                Key::Stop(_) => "the stop of session",
            };
            let session = update.session_id.map(|id| id.to_string());
            let message = format!(
                "{}: {what} {} on {}",
                update.status,
                session.as_deref().unwrap_or("without an id"),
                place_of(&update)
            );
            let code = update.status.to_string();
            Outcome::done(&code, message, session, &ActionDoc::answer(&update))
        }
        // It ended by itself while the button was pressed: what was wanted is so.
        Err(Failure::Refused(refusal))
            if matches!(key, Key::Stop(_)) && refusal.problem.code == Code::SessionEnded =>
        {
            let (message, session) = (
                refusal.problem.message.clone(),
                refusal.about.session_id.clone(),
            );
            let failure = Failure::Refused(refusal);
            Outcome::done(
                failure.code(),
                message,
                session,
                &ActionDoc::failed(&failure),
            )
        }
        Err(failure) => Outcome::failed(&failure, &ActionDoc::failed(&failure)),
    }
}

/// Follows a session to its end and tells the hub. What the hub is too slow for is passed over: only
/// the newest counts.
async fn see_through(
    desk: &Desk,
    driver: &DriverId,
    session: SessionId,
    heard: &mpsc::Sender<Heard>,
) {
    let (tell, mut told) = watch::channel(Latest::default());
    let following = follow(desk, driver, session, Patience::Endless, |news| {
        match news {
            News::Seen(seen) => tell.send_modify(|latest| {
                latest.seen = Some(seen.clone());
                latest.silent = None;
            }),
            News::Silent { why } => tell.send_modify(|latest| latest.silent = Some(why.clone())),
            News::Foreign { cp } => {
                tell.send_modify(|latest| latest.foreign = Some(doc::foreign(cp)));
            }
            News::Tick => {}
        }
        ControlFlow::Continue(())
    });
    let mut warned = None;
    let telling = async {
        while told.changed().await.is_ok() {
            let latest = told.borrow_and_update().clone();
            let foreign = latest.foreign.clone().filter(|_| latest.foreign != warned);
            let news = [
                latest.seen.map(Heard::Seen),
                latest.silent.map(|why| Heard::Silent(session, why)),
                foreign.map(Heard::Foreign),
            ];
            warned = latest.foreign;
            for news in news.into_iter().flatten() {
                if heard.send(news).await.is_err() {
                    return;
                }
            }
        }
    };
    let followed = tokio::select! {
        followed = following => followed,
        () = telling => return,
    };
    let last = match followed {
        Ok(Followed::Ended(view)) => Heard::Ended(view),
        Ok(Followed::Enough) | Err(_) => Heard::Lost(session),
    };
    let _ = heard.send(last).await;
}

/// The newest of each kind of news.
#[derive(Debug, Clone, Default)]
struct Latest {
    seen: Option<Box<Seen>>,
    silent: Option<String>,
    foreign: Option<String>,
}
