//! The task behind a page: it owns what the page knows, asks central, carries out what is wished, and
//! puts what it knows on the board. What that is, is the page's own ([`Page`]); for whom and when it
//! is done is the same for all.

use std::{pin::Pin, time::Duration};

use futures::future::OptionFuture;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    feed::Feed,
    outcome::{self, Outcome},
};
use crate::{client, desk::Desk, doc::ActionDoc, failure::Failure};

/// Requests that wait for the task. It answers within a turn; more mean a storm, and wait.
const INBOX_MAX: usize = 64;

/// Most presses that wait for one answer, and most looks for one refresh.
const WAITING_MAX: usize = 64;

/// How long one question of a refresh waits: a person sees within this time that central is away.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(3);

/// Between two refreshes while central or the server is away.
pub const AWAY_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at what has become old.
const TICK: Duration = Duration::from_millis(200);

/// Somebody who has loaded the page looks for so long: without a script nobody says goodbye.
const LOOKED_LATELY: Duration = Duration::from_secs(60);

/// How long an outcome stays on the page.
const OUTCOME_FOR: Duration = Duration::from_secs(10 * 60);

/// A way to the task of a page on which `W` is wished.
#[derive(Debug)]
pub struct Hub<W> {
    inbox: mpsc::Sender<Ask<W>>,
}

impl<W> Clone for Hub<W> {
    fn clone(&self) -> Self {
        Self {
            inbox: self.inbox.clone(),
        }
    }
}

#[derive(Debug)]
enum Ask<W> {
    Press(W, oneshot::Sender<Outcome>),
    Show(Outcome),
    Look(oneshot::Sender<()>),
}

impl<W> Hub<W> {
    /// A wish: what came of it, of its first press if there were several.
    ///
    /// # Errors
    /// When the task has ended, with the whole server.
    pub async fn press(&self, wish: W) -> Result<Outcome, Failure> {
        let (tell, told) = oneshot::channel();
        let sent = self.inbox.send(Ask::Press(wish, tell)).await;
        match (sent, told.await) {
            (Ok(()), Ok(outcome)) => Ok(outcome),
            _ => Err(Failure::Other {
                message: "the page's server is stopping".to_owned(),
                hint: "start it again; the same press is safe".to_owned(),
            }),
        }
    }

    /// Shows what was refused before it became a wish.
    pub async fn show(&self, outcome: Outcome) {
        // When the task has ended, nobody looks any more.
        let _ = self.inbox.send(Ask::Show(outcome)).await;
    }

    /// Waits until the board is fresh, or as fresh as it can be.
    pub async fn look(&self) {
        let (tell, told) = oneshot::channel();
        if self.inbox.send(Ask::Look(tell)).await.is_ok() {
            // As above.
            let _ = told.await;
        }
    }
}

/// What the routes of a page need.
#[derive(Debug)]
pub struct Routed<W> {
    /// The way to its task.
    pub hub: Hub<W>,
    /// What is shown.
    pub feed: Feed,
    /// Who it is.
    pub desk: Desk,
}

impl<W> Clone for Routed<W> {
    fn clone(&self) -> Self {
        Self {
            hub: self.hub.clone(),
            feed: self.feed.clone(),
            desk: self.desk.clone(),
        }
    }
}

/// A refresh under way: what it finds.
pub type Refresh<F> = Pin<Box<dyn Future<Output = F> + Send>>;

/// What is special about a page.
pub trait Page: Send + 'static {
    /// What can be wished on it.
    type Wish: Send + 'static;
    /// What its own tasks tell it.
    type Heard: Send + 'static;
    /// What a refresh finds.
    type Found: Send + 'static;

    /// What is the same for all pages.
    fn common(&mut self) -> &mut Common<Self::Heard>;
    /// Whether nobody is known to be out of reach: else nothing gets any fresher.
    fn is_in_reach(&self) -> bool;
    /// A wish, whose outcome is for `tell`. Where nobody waits for it any more, it is of no use.
    fn press(&mut self, wish: Self::Wish, tell: oneshot::Sender<Outcome>);
    /// News of its own tasks.
    fn hear(&mut self, heard: Self::Heard);
    /// The connection is lost, back, or refused.
    fn linked(&mut self, link: &client::Link);
    /// Time goes by.
    fn tick(&mut self) {}
    /// Somebody has come to look.
    fn looked_at(&mut self) {}
    /// Whether something must be asked for now.
    fn is_due(&mut self) -> bool;
    /// Asks for it.
    fn refresh(&mut self) -> Refresh<Self::Found>;
    /// What a refresh has found.
    fn refreshed(&mut self, found: Self::Found);
    /// Puts it on the board.
    fn draw(&mut self);
}

/// Has somebody wait for an answer that others wait for already.
pub fn wait(waiting: &mut Vec<oneshot::Sender<Outcome>>, tell: oneshot::Sender<Outcome>) {
    if waiting.len() < WAITING_MAX {
        waiting.push(tell);
        return;
    }
    let failure = Failure::Other {
        message: "too many wait for this answer".to_owned(),
        hint: "it is shown on the page when it comes".to_owned(),
    };
    // Who has gone away meanwhile needs none.
    let _ = tell.send(Outcome::failed(&failure, &ActionDoc::failed(&failure)));
}

/// What all pages have.
#[derive(Debug)]
pub struct Common<H> {
    /// What wishes are carried out with.
    pub desk: Desk,
    /// What is asked with, which does not wait for long.
    pub refresh_desk: Desk,
    /// The board.
    pub feed: Feed,
    /// Tasks of its own, which end with it.
    pub work: JoinSet<()>,
    /// Where they tell what they have heard.
    pub heard: mpsc::Sender<H>,
    /// Whether the board is of before.
    pub dirty: bool,
    lookers: Vec<oneshot::Sender<()>>,
    /// Those whom the refresh that is under way answers: it began after they came.
    answering: Vec<oneshot::Sender<()>>,
    outcome: Option<Instant>,
    looked_at: Option<Instant>,
}

impl<H> Common<H> {
    /// Shows an outcome until the next.
    pub fn tell(&mut self, outcome: &Outcome) {
        self.outcome = Some(Instant::now());
        self.feed.set(&outcome::SHOWN_IN, outcome.parts());
    }

    /// Whether somebody looks.
    pub fn is_watched(&self) -> bool {
        self.feed.listeners() > 0
            || self
                .looked_at
                .is_some_and(|at| at.elapsed() < LOOKED_LATELY)
    }

    /// Whether somebody waits for a refresh.
    pub const fn is_awaited(&self) -> bool {
        !self.lookers.is_empty()
    }

    /// Whether the server is in reach.
    pub fn is_connected(&self) -> bool {
        self.desk.client().link().borrow().connected
    }

    fn tick(&mut self) {
        if self.outcome.is_some_and(|at| at.elapsed() > OUTCOME_FOR) {
            self.outcome = None;
            self.feed.set(&outcome::SHOWN_IN, Vec::new());
        }
    }
}

/// Starts the task of the page that `make` makes. It ends with `tasks`.
pub fn start<P: Page>(
    desk: Desk,
    feed: Feed,
    tasks: &mut JoinSet<()>,
    make: impl FnOnce(Common<P::Heard>) -> P,
) -> Hub<P::Wish> {
    let (inbox, asks) = mpsc::channel(INBOX_MAX);
    let (heard_tx, heard) = mpsc::channel(INBOX_MAX);
    let page = make(Common {
        refresh_desk: desk.with_patience(REFRESH_PATIENCE.min(desk.patience())),
        desk,
        feed,
        work: JoinSet::new(),
        heard: heard_tx,
        dirty: true,
        lookers: Vec::new(),
        answering: Vec::new(),
        outcome: None,
        looked_at: None,
    });
    tasks.spawn(run(page, asks, heard));
    Hub { inbox }
}

async fn run<P: Page>(
    mut page: P,
    mut asks: mpsc::Receiver<Ask<P::Wish>>,
    mut heard: mpsc::Receiver<P::Heard>,
) {
    let mut link = page.common().desk.client().link();
    let mut link_lives = true;
    let mut ticker = interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut refresh: OptionFuture<Refresh<P::Found>> = None.into();
    let mut asking = false;
    loop {
        tokio::select! {
            asked = asks.recv() => match asked {
                Some(asked) => ask(&mut page, asked),
                // Nobody can ask any more.
                None => return,
            },
            Some(heard) = heard.recv() => {
                page.hear(heard);
                page.common().dirty = true;
            }
            Some(found) = &mut refresh => {
                refresh = None.into();
                asking = false;
                page.refreshed(found);
                let common = page.common();
                common.dirty = true;
                for tell in common.answering.drain(..) {
                    // Who has gone away meanwhile does not look.
                    let _ = tell.send(());
                }
            }
            changed = link.changed(), if link_lives => {
                link_lives = changed.is_ok();
                page.linked(&link.borrow_and_update());
                page.common().dirty = true;
            }
            _ = ticker.tick() => {
                page.common().tick();
                page.tick();
            }
            Some(_) = page.common().work.join_next() => {}
        }
        if !asking && page.is_due() {
            let common = page.common();
            common.answering.append(&mut common.lookers);
            refresh = Some(page.refresh()).into();
            asking = true;
        }
        if std::mem::take(&mut page.common().dirty) {
            page.draw();
        }
    }
}

fn ask<P: Page>(page: &mut P, ask: Ask<P::Wish>) {
    match ask {
        Ask::Press(wish, tell) => {
            page.press(wish, tell);
            page.common().dirty = true;
        }
        Ask::Show(outcome) => page.common().tell(&outcome),
        Ask::Look(tell) => {
            let is_in_reach = page.is_in_reach();
            let common = page.common();
            // While nobody looked, nobody asked whether that is still so.
            let is_worth_asking = is_in_reach || !common.is_watched();
            common.looked_at = Some(Instant::now());
            if is_worth_asking && common.lookers.len() < WAITING_MAX {
                common.lookers.push(tell);
                page.looked_at();
            } else {
                // As above.
                let _ = tell.send(());
            }
        }
    }
}
