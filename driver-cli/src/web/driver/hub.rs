//! What the task of the driver's page does: it asks, listens, and remembers what is wanted.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use ev_contract::{
    codes::Code,
    ids::{DriverId, RequestId, SessionId},
    subjects::Subject,
    v1::{ChargePointListing, DriverUpdate, SessionView},
};
use futures::StreamExt;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    due::Due,
    intents::{Intents, Key, Moment, Press},
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
        outcome::Outcome,
        task::{self, Common, Hub, Page, Refresh},
    },
    words,
};

/// Most sessions that are followed live: each takes two of the 64 subscriptions that the server
/// grants a driver. Others are shown as central last told of them.
pub const FOLLOWED_MAX: usize = 8;

/// Starts the page of a driver. It ends with `tasks`.
pub fn start(desk: Desk, driver: DriverId, feed: Feed, tasks: &mut JoinSet<()>) -> Hub<Command> {
    task::start(desk, feed, tasks, |mut common| {
        common.work.spawn(hear_of_own(
            common.desk.clone(),
            driver.clone(),
            common.heard.clone(),
        ));
        DriverPage {
            common,
            driver,
            shown: Shown::default(),
            intents: Intents::default(),
            waiting: HashMap::new(),
            followed: HashSet::new(),
            due: Due::everything(Instant::now()),
        }
    })
}

/// What its tasks tell it.
#[derive(Debug)]
enum Heard {
    /// Something has happened to a session of the driver.
    Own,
    SentAs(Key, RequestId),
    Answer(Key, Outcome),
    Seen(Box<Seen>),
    Silent(SessionId, String),
    Foreign(String),
    Ended(Box<SessionView>),
    Lost(SessionId),
}

/// What a refresh has found.
#[derive(Debug)]
struct Refreshed {
    asked: Moment,
    sessions: Option<Vec<SessionView>>,
    listing: Option<Vec<ChargePointListing>>,
    history: Option<Vec<SessionView>>,
    took: Duration,
    failure: Option<Failure>,
}

struct DriverPage {
    common: Common<Heard>,
    driver: DriverId,
    shown: Shown,
    intents: Intents,
    waiting: HashMap<Key, Vec<oneshot::Sender<Outcome>>>,
    followed: HashSet<SessionId>,
    due: Due,
}

impl Page for DriverPage {
    type Wish = Command;
    type Heard = Heard;
    type Found = Refreshed;

    fn common(&mut self) -> &mut Common<Heard> {
        &mut self.common
    }

    fn is_in_reach(&self) -> bool {
        self.shown.link == Link::Up
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
        match self.intents.press(&key, &wish, wall_now()) {
            Press::Answered(outcome) => {
                let _ = tell.send(outcome);
            }
            Press::Wait => self.wait(key, tell),
            Press::Full => {
                let failure = Failure::Other {
                    message: "too much is asked for at once; nothing was sent".to_owned(),
                    hint: "wait until what is under way has an answer".to_owned(),
                };
                let outcome = Outcome::failed(&failure, &ActionDoc::failed(&failure));
                self.common.tell(&outcome);
                let _ = tell.send(outcome);
            }
            Press::Send(wish, named) => {
                self.wait(key.clone(), tell);
                let (desk, heard) = (self.common.desk.clone(), self.common.heard.clone());
                self.common.work.spawn(async move {
                    let outcome = send(&desk, &wish, named.as_ref(), &key, &heard).await;
                    // The hub lives as long as this task, which is its own.
                    let _ = heard.send(Heard::Answer(key, outcome)).await;
                });
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Own => self.soon(),
            Heard::SentAs(key, id) => self.intents.sent_as(&key, id),
            Heard::Answer(key, outcome) => {
                self.intents.answered(&key, &outcome);
                self.common.tell(&outcome);
                // The card is of before.
                if outcome.code == Code::PriceChanged.as_str() {
                    self.due.list(Instant::now());
                }
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
                    self.due.list(Instant::now());
                }
                // Before the receipt is there, another start may be wanted.
                if seen.view.state.is_ended() {
                    self.intents
                        .ended(seen.view.session_id, &seen.view.cp_id, seen.view.connector);
                }
                self.shown.seen(*seen, wall_now());
            }
            Heard::Silent(session, why) => self.shown.silent(session, why),
            Heard::Foreign(text) => self.common.tell(&Outcome::failed(
                &Failure::Other {
                    message: text,
                    hint: String::new(),
                },
                &(),
            )),
            Heard::Ended(view) => self.ended(*view),
            // Whether it is still there, central says next.
            Heard::Lost(session) => {
                self.followed.remove(&session);
                self.soon();
            }
        }
    }

    fn linked(&mut self, link: &crate::client::Link) {
        let url = self.common.desk.client().url();
        match (&link.refused, link.connected) {
            (Some(why), _) => self.shown.link = Link::ShutOut(why.clone()),
            (None, false) => {
                self.shown.link = Link::Server(format!("the connection to {url} is lost"));
            }
            (None, true) => {
                if matches!(self.shown.link, Link::Server(_)) {
                    self.shown.link = Link::Up;
                }
                self.due = Due::everything(Instant::now());
            }
        }
    }

    fn tick(&mut self) {
        self.common.dirty |= self.shown.tick(wall_now());
        // Somebody has come to look: what is shown is of a while ago.
        if self.common.is_watched() {
            self.due.seen();
        }
    }

    fn looked_at(&mut self) {
        self.soon();
    }

    fn is_due(&mut self) -> bool {
        self.common.is_awaited() || self.due.is_now(Instant::now())
    }

    fn refresh(&mut self) -> Refresh<Refreshed> {
        let desk = self.common.refresh_desk.clone();
        let plan = self.due.begin(Instant::now());
        let asked = self.intents.moment();
        Box::pin(async move {
            let mut found = Refreshed {
                asked,
                sessions: None,
                listing: None,
                history: None,
                took: Duration::ZERO,
                failure: None,
            };
            let asking = async {
                found.sessions = Some(desk.open_sessions().await?.sessions);
                if plan.list {
                    let began = Instant::now();
                    found.listing = Some(desk.list().await?.0);
                    found.took = began.elapsed();
                }
                if plan.history {
                    let page = desk.history_page(None, Some(HISTORY_ROWS)).await?;
                    found.history = Some(page.sessions);
                }
                Ok::<(), Failure>(())
            };
            found.failure = asking.await.err();
            found
        })
    }

    fn refreshed(&mut self, found: Refreshed) {
        let now = Instant::now();
        let connected = self.common.is_connected();
        match found.failure {
            Some(failure) => {
                if connected {
                    self.shown.link = Link::Central(failure.complaint());
                }
                self.due.failed(now);
            }
            None => {
                if matches!(self.shown.link, Link::Central(_)) {
                    self.due.history();
                }
                if connected {
                    self.shown.link = Link::Up;
                }
                if found.listing.is_some() {
                    self.due.listed(now, found.took);
                }
            }
        }
        if let Some(listing) = found.listing {
            self.shown.listed(listing);
        }
        if let Some(history) = found.history {
            self.shown.remembered(history);
        }
        if let Some(sessions) = found.sessions {
            self.open(found.asked, sessions);
        }
    }

    fn draw(&mut self) {
        let parts = view::parts(&self.shown, &self.intents, wall_now());
        self.common.feed.set(&view::REGIONS, parts);
    }
}

impl DriverPage {
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
                if !has_ended && !self.intents.has_ended(id) {
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
        task::wait(self.waiting.entry(key).or_default(), tell);
    }

    fn ended(&mut self, view: SessionView) {
        let session = view.session_id;
        self.followed.remove(&session);
        self.intents.ended(session, &view.cp_id, view.connector);
        // One that is stopped before energy flowed has failed; the stop has not.
        match words::failure_of(&view).filter(|_| !view.stopping) {
            Some(failure) => self.common.tell(&Outcome::failed(
                &Failure::Other {
                    message: format!("{} ({})", failure.message, failure.word),
                    hint: failure.hint,
                },
                &(),
            )),
            None => self.common.tell(&Outcome::done(
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
        self.due.history();
        self.soon();
    }

    fn soon(&mut self) {
        self.due.soon(Instant::now());
    }

    fn open(&mut self, asked: Moment, sessions: Vec<SessionView>) {
        let open: HashSet<SessionId> = sessions.iter().map(|view| view.session_id).collect();
        self.intents.open(asked, &open);
        let before = self.shown.sessions.len();
        // Those that are followed say themselves when they end.
        self.shown
            .sessions
            .retain(|id, _| open.contains(id) || self.followed.contains(id));
        if self.shown.sessions.len() != before {
            self.due.history();
        }
        for view in sessions {
            let id = view.session_id;
            // Whoever follows it knows better.
            let known = self.followed.contains(&id) && self.shown.sessions.contains_key(&id);
            if self.intents.has_ended(id) || known {
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
            || self.intents.has_ended(session)
            || !self.followed.insert(session)
        {
            return;
        }
        let desk = self.common.refresh_desk.clone();
        let (driver, heard) = (self.driver.clone(), self.common.heard.clone());
        self.common.work.spawn(async move {
            see_through(&desk, &driver, session, &heard).await;
        });
    }
}

/// Tells at once of sessions that were begun elsewhere. Lost or not, they are asked for too.
async fn hear_of_own(desk: Desk, driver: DriverId, heard: mpsc::Sender<Heard>) {
    let Ok(mut updates) = desk.client().subscribe(Subject::watch_of(&driver)).await else {
        return;
    };
    while updates.next().await.is_some() && heard.send(Heard::Own).await.is_ok() {}
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
    let telling = async {
        while told.changed().await.is_ok() {
            // Each is told once: what was seen grows no younger by being told again.
            let latest = tell.send_replace(Latest::default());
            told.mark_unchanged();
            let news = [
                latest.seen.map(Heard::Seen),
                latest.silent.map(|why| Heard::Silent(session, why)),
                latest.foreign.map(Heard::Foreign),
            ];
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
