//! Questions to charge points. All of them go over one subscription and lie in one table that the
//! engine owns: a task, a timer and a channel for each would cost more than the decision that it is
//! about.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use ev_contract::{
    ids::{CommandId, CpId},
    subjects::Subject,
    v1::CommandReply,
    wire::{self, CENTRAL, Encoding},
};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::{orders, out::Out};

/// Answers that wait for the engine: all who can be asked at once.
pub const ANSWERS_MAX: usize = 4_096;

/// What came to the subject of one question; none when the server says that nobody listens.
#[derive(Debug)]
pub struct Heard {
    token: u64,
    payload: Option<Bytes>,
}

/// A question whose answer is awaited, with what the engine wants to know when it comes.
#[derive(Debug)]
struct Call<W> {
    cp: CpId,
    id: Option<CommandId>,
    verb: &'static str,
    sent: Instant,
    about: W,
}

/// A question that is over: answered, or in vain.
#[derive(Debug)]
pub struct Over<W> {
    /// Who was asked.
    pub cp: CpId,
    /// Which verb.
    pub verb: &'static str,
    /// When it was sent.
    pub sent: Instant,
    /// The answer, if there is one that can be believed.
    pub answer: Option<CommandReply>,
    /// What the engine wanted to know again.
    pub about: W,
}

/// The questions under way.
#[derive(Debug)]
pub struct Calls<W> {
    inbox: String,
    next: u64,
    open: HashMap<u64, Call<W>>,
    /// In the order in which they were sent, since each waits for as long.
    late: VecDeque<(Instant, u64)>,
}

impl<W> Calls<W> {
    /// Questions whose answers come to subjects that begin so.
    #[must_use]
    pub fn new(inbox: String) -> Self {
        Self {
            inbox,
            next: 0,
            open: HashMap::new(),
            late: VecDeque::new(),
        }
    }

    /// Asks a charge point.
    pub fn ask<T: serde::Serialize>(
        &mut self,
        out: &Out,
        cp: CpId,
        verb: &'static str,
        id: Option<CommandId>,
        message: &T,
        about: W,
    ) {
        let token = self.next;
        self.next += 1;
        let subject = Subject::Command {
            cp: cp.clone(),
            verb: verb.to_owned(),
        };
        let reply = format!("{}.{token}", self.inbox);
        out.ask(subject.to_string(), reply, message);
        let sent = Instant::now();
        self.late.push_back((sent + orders::ANSWER_WAIT, token));
        self.open.insert(
            token,
            Call {
                cp,
                id,
                verb,
                sent,
                about,
            },
        );
    }

    /// Something came. None when it answers nothing that is awaited.
    pub fn heard(&mut self, heard: Heard) -> Option<Over<W>> {
        let call = self.open.remove(&heard.token)?;
        let answer = heard
            .payload
            .and_then(|payload| believed(&payload, &call.cp, call.verb, call.id.as_ref()));
        Some(call.over(answer))
    }

    /// One that has waited for too long.
    pub fn in_vain(&mut self, now: Instant) -> Option<Over<W>> {
        while let Some((at, token)) = self.late.front().copied() {
            let open = self.open.contains_key(&token);
            if open && at > now {
                return None;
            }
            self.late.pop_front();
            if let Some(call) = self.open.remove(&token) {
                return Some(call.over(None));
            }
        }
        None
    }
}

impl<W> Call<W> {
    fn over(self, answer: Option<CommandReply>) -> Over<W> {
        Over {
            cp: self.cp,
            verb: self.verb,
            sent: self.sent,
            answer,
            about: self.about,
        }
    }
}

fn believed(
    payload: &[u8],
    cp: &CpId,
    verb: &'static str,
    id: Option<&CommandId>,
) -> Option<CommandReply> {
    match wire::decode::<CommandReply>(payload, Encoding::MsgPack) {
        Ok(answer)
            if answer.to == CENTRAL && answer.cp_id == *cp && answer.command_id.as_ref() == id =>
        {
            Some(answer)
        }
        Ok(_) => {
            tracing::warn!(%cp, verb, "the answer is about something else");
            None
        }
        Err(error) => {
            tracing::warn!(%cp, verb, %error, "the answer cannot be read");
            None
        }
    }
}

/// Listens to answers until nobody wants them.
///
/// # Errors
/// When the subscription cannot be made.
pub async fn listen(
    client: &async_nats::Client,
) -> Result<(String, mpsc::Receiver<Heard>), async_nats::SubscribeError> {
    let inbox = client.new_inbox();
    let subscriber = client.subscribe(format!("{inbox}.*")).await?;
    let (to, heard) = mpsc::channel(ANSWERS_MAX);
    tokio::spawn(take(subscriber, to));
    Ok((inbox, heard))
}

async fn take(mut subscriber: Subscriber, to: mpsc::Sender<Heard>) {
    loop {
        let message = tokio::select! {
            // It ends with the engine, not with the next answer.
            () = to.closed() => return,
            message = subscriber.next() => message,
        };
        let Some(message) = message else {
            return;
        };
        if let Some(heard) = read(message)
            && to.send(heard).await.is_err()
        {
            return;
        }
    }
}

fn read(message: Message) -> Option<Heard> {
    let token = message.subject.rsplit('.').next()?.parse().ok()?;
    let nobody = message.status == Some(async_nats::StatusCode::NO_RESPONDERS);
    Some(Heard {
        token,
        payload: (!nobody).then_some(message.payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(calls: &mut Calls<u8>, about: u8, late: Instant) -> u64 {
        let token = calls.next;
        calls.next += 1;
        calls.late.push_back((late, token));
        calls.open.insert(
            token,
            Call {
                cp: CpId::new("CP-1").unwrap(),
                id: None,
                verb: "ping",
                sent: late,
                about,
            },
        );
        token
    }

    #[test]
    fn a_question_is_over_once_by_its_answer_or_by_time() {
        let mut calls = Calls::new("_INBOX.x".into());
        let now = Instant::now();
        let later = now + orders::ANSWER_WAIT;
        let first = waiting(&mut calls, 1, now);
        let second = waiting(&mut calls, 2, now);
        let third = waiting(&mut calls, 3, later);
        let nobody = |token| Heard {
            token,
            payload: None,
        };
        assert_eq!(calls.heard(nobody(first)).map(|o| o.about), Some(1));
        assert!(calls.heard(nobody(first)).is_none(), "once");
        assert!(calls.heard(nobody(99)).is_none(), "never asked");
        assert_eq!(calls.in_vain(now).map(|o| o.about), Some(2));
        assert!(calls.heard(nobody(second)).is_none(), "too late");
        assert!(calls.in_vain(now).is_none());
        assert_eq!(calls.in_vain(later).map(|o| o.about), Some(3));
        assert!(calls.heard(nobody(third)).is_none());
        assert!(calls.open.is_empty() && calls.late.is_empty());
    }
}
