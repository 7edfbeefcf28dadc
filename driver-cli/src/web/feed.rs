//! The board that is shown, shared by whoever puts parts on it and whoever listens.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use uuid::Uuid;

use super::board::{Board, Event, Part};

/// Most listeners at once. A browser opens six connections to one server, and a person has a few
/// browsers; more are a fault or an attack, and each costs a task and its backlog.
pub const LISTENERS_MAX: usize = 64;

/// Changes that a slow listener may be behind before it is brought up from what is remembered.
const BEHIND_MAX: usize = 64;

/// Between two comments on a quiet stream: shorter than the idle time of common proxies, 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a browser waits before it comes back.
const COME_BACK: Duration = Duration::from_secs(1);

/// The board and its listeners.
#[derive(Debug, Clone)]
pub struct Feed {
    board: Arc<Mutex<Board>>,
    news: broadcast::Sender<Arc<Event>>,
    seats: Arc<Semaphore>,
    stopping: Arc<watch::Sender<bool>>,
}

/// There are [`LISTENERS_MAX`] listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{LISTENERS_MAX} listeners are connected, and there may be no more")]
pub struct Full;

struct Listener {
    ready: VecDeque<Arc<Event>>,
    news: broadcast::Receiver<Arc<Event>>,
    seen: String,
    number: u64,
    feed: Feed,
    stopping: watch::Receiver<bool>,
    _seat: OwnedSemaphorePermit,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            board: Arc::new(Mutex::new(Board::new(
                Uuid::new_v4().simple().to_string(),
                Uuid::new_v4().simple().to_string(),
            ))),
            news: broadcast::channel(BEHIND_MAX).0,
            seats: Arc::new(Semaphore::new(LISTENERS_MAX)),
            stopping: Arc::new(watch::channel(false).0),
        }
    }
}

impl Feed {
    /// Makes these regions hold these parts, and tells the listeners what has changed.
    pub fn set(&self, regions: &[&'static str], parts: Vec<Part>) {
        let mut board = self.board();
        if let Some(event) = board.set(regions, parts) {
            // Nobody listens: nobody misses it.
            let _ = self.news.send(Arc::new(event));
        }
    }

    /// Looks at the board as it is.
    pub fn look<T>(&self, look: impl FnOnce(&Board) -> T) -> T {
        look(&self.board())
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        LISTENERS_MAX.saturating_sub(self.seats.available_permits())
    }

    /// Ends all streams, now and for good.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// A stream of events: what `last` lacks or a snapshot, then changes.
    ///
    /// # Errors
    /// [`Full`].
    pub fn listen(
        &self,
        last: Option<&str>,
    ) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>> + use<>>, Full> {
        let seat = Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| Full)?;
        let listener = {
            let board = self.board();
            Listener {
                ready: board.since(last).into_iter().map(Arc::new).collect(),
                // Under the lock, so that nothing falls between the two.
                news: self.news.subscribe(),
                seen: last.unwrap_or_default().to_owned(),
                number: 0,
                feed: self.clone(),
                stopping: self.stopping.subscribe(),
                _seat: seat,
            }
        };
        let events = stream::unfold(listener, |mut listener| async move {
            let event = listener.next().await?;
            let event = SseEvent::default()
                .event(event.kind.as_str())
                .id(&event.id)
                .retry(COME_BACK)
                .data(&event.data);
            Some((Ok(event), listener))
        });
        Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")))
    }

    /// The lock is held for no longer than it takes to copy; a panic under it leaves a board that
    /// can still be read.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.seen.clone_from(&event.id);
                self.number = event.number();
                return Some(event);
            }
            let heard = tokio::select! {
                biased;
                // The sender lives in the feed that we hold.
                _ = self.stopping.wait_for(|stop| *stop) => return None,
                heard = self.news.recv() => heard,
            };
            match heard {
                Ok(event) if event.number() > self.number => self.ready.push_back(event),
                // It was in the snapshot, or in what was caught up with.
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let missed = self.feed.look(|board| board.since(Some(&self.seen)));
                    self.ready.extend(missed.into_iter().map(Arc::new));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_are_only_so_many_seats_and_they_are_given_back() {
        let feed = Feed::default();
        let mut streams: Vec<_> = (0..LISTENERS_MAX)
            .map(|_| feed.listen(None).unwrap())
            .collect();
        assert_eq!(feed.listen(None).err(), Some(Full));
        streams.pop();
        assert_eq!(feed.listeners(), LISTENERS_MAX - 1);
        assert!(feed.listen(None).is_ok());
    }

    #[tokio::test]
    async fn a_listener_that_falls_far_behind_still_sees_the_last_change() {
        let feed = Feed::default();
        let change = |n: usize| {
            feed.set(
                &["list"],
                vec![Part {
                    id: "a".into(),
                    region: "list",
                    order: String::new(),
                    html: format!("<p>{n}</p>"),
                }],
            );
        };
        change(0);
        let snapshot = feed.look(|board| board.since(None));
        let mut listener = Listener {
            ready: snapshot.into_iter().map(Arc::new).collect(),
            news: feed.news.subscribe(),
            seen: String::new(),
            number: 0,
            feed: feed.clone(),
            stopping: feed.stopping.subscribe(),
            _seat: Arc::clone(&feed.seats).try_acquire_owned().unwrap(),
        };
        for n in 1..=3 * BEHIND_MAX {
            change(n);
        }
        let mut numbers = Vec::new();
        while numbers.last() != Some(&(3 * BEHIND_MAX as u64 + 1)) {
            numbers.push(listener.next().await.unwrap().number());
        }
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        feed.stop();
        assert!(listener.next().await.is_none());
    }
}
