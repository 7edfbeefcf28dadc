//! Following a session over NATS: the shell around [`crate::watch`].

use std::{ops::ControlFlow, time::Duration};

use async_nats::Message;
use ev_contract::{
    ids::{DriverId, SessionId},
    subjects::Subject,
    v1::{DriverUpdate, Live, SessionView},
    wire,
};
use futures::{StreamExt, future::OptionFuture};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    client::encoding_of,
    desk::Desk,
    failure::Failure,
    watch::{Effect, Input, News, Watcher},
};

/// Ages are shown in seconds.
const TICK: Duration = Duration::from_secs(1);

/// What to do while central says nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Fail if even the first question stays unanswered.
    FirstAnswer,
    /// The session is known to exist: go on asking.
    Endless,
}

/// How following came to an end.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// The session has ended.
    Ended(Box<SessionView>),
    /// `see` had seen enough.
    Enough,
}

/// Follows `session` until it has ended or `see` breaks. The session itself is never touched.
///
/// # Errors
/// When there is no such session, or the connection cannot be used at all.
pub async fn follow(
    desk: &Desk,
    driver: &DriverId,
    session: SessionId,
    patience: Patience,
    mut see: impl FnMut(&News) -> ControlFlow<()>,
) -> Result<Followed, Failure> {
    let client = desk.client();
    let watch = Subject::Watch {
        driver: driver.clone(),
        session,
    };
    // Subscribed before the first question, so that nothing falls between the two.
    let mut updates = client.subscribe(watch.to_string()).await?;
    let mut lives = client.subscribe(Subject::live_of(driver, session)).await?;
    let mut link = client.link();
    let began = Instant::now();
    let now_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut watcher = Watcher::new(driver.clone(), session, now_ms());
    let mut ticker = interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut question: OptionFuture<_> = None.into();
    let mut link_lives = true;
    loop {
        let input = tokio::select! {
            Some(message) = updates.next() => match read::<DriverUpdate>(&message) {
                Some(update) => Input::Update(Box::new(update)),
                None => continue,
            },
            Some(message) = lives.next() => match read_live(&message) {
                Some(live) => Input::Live(Box::new(live)),
                None => continue,
            },
            Some(answer) = &mut question => {
                question = None.into();
                match answer {
                    Ok((view, ts)) => Input::Status(Box::new(view), ts),
                    Err(failure) => {
                        let first = watcher.view().is_none() && patience == Patience::FirstAnswer;
                        if first || is_final(&failure) {
                            return Err(failure);
                        }
                        Input::PollFailed(failure.message())
                    }
                }
            }
            changed = link.changed(), if link_lives => {
                link_lives = changed.is_ok();
                let link = link.borrow_and_update();
                match &link.refused {
                    Some(why) => Input::Refused(why.clone()),
                    None => Input::Link(link.connected),
                }
            }
            _ = ticker.tick() => Input::Tick,
        };
        for effect in watcher.step(input, now_ms()) {
            match effect {
                Effect::Poll => question = Some(Box::pin(desk.session(session))).into(),
                Effect::Tell(news) => {
                    if see(&news).is_break() {
                        return Ok(Followed::Enough);
                    }
                }
                Effect::End(view) => return Ok(Followed::Ended(view)),
            }
        }
    }
}

/// A payload that cannot be read is passed over: the status tells what it would have told.
fn read<T: serde::de::DeserializeOwned>(message: &Message) -> Option<T> {
    wire::decode(&message.payload, encoding_of(message)).ok()
}

/// Who sends live values is whom the subject names; what the payload says about it is no proof.
fn read_live(message: &Message) -> Option<Live> {
    let Some(Subject::Live { cp, .. }) = Subject::parse(&message.subject) else {
        return None;
    };
    let live: Live = read(message)?;
    Some(Live { cp_id: cp, ..live })
}

/// Whether asking again is of no use.
fn is_final(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(refusal) => !refusal.problem.retryable,
        Failure::NotPermitted { .. } => true,
        Failure::Usage { .. }
        | Failure::NotFound { .. }
        | Failure::Unknown { .. }
        | Failure::Unreachable { .. }
        | Failure::File { .. }
        | Failure::Other { .. }
        | Failure::Interrupted { .. }
        | Failure::BrokenPipe => false,
    }
}
