//! When to command which charge point: what is due, what is under way, what to try again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use ev_contract::{
    codes::Code,
    ids::{ConnectorId, CpId, SessionId},
};

use crate::schedule::Schedule;

/// What a command is about. What it says is derived from the state at each attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An open session's start or stop.
    Session(SessionId),
    /// The stop of a session that was written off.
    Standing(SessionId),
    /// Whether a connector serves.
    Service(CpId, ConnectorId),
}

/// Attempts under way at once. Each holds a request for up to [`ANSWER_WAIT`].
const IN_FLIGHT_MAX: usize = 512;
/// How long one attempt waits for an answer.
pub const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// After an attempt without a final answer; doubles up to the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(15);
/// How long the appender of a change has, before other replicas command in its stead.
const OTHERS_AFTER: Duration = Duration::from_secs(2);
/// After a final answer the record of it should arrive; if not, ask again.
const RECORD_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Pending {
    cp: CpId,
    wait: Duration,
    version: u64,
    attempts: u32,
    code: Option<Code>,
}

/// All pending commands.
#[derive(Debug, Default)]
pub struct Orders {
    pending: HashMap<Subject, Pending>,
    schedule: Schedule<Subject>,
    in_flight: HashSet<Subject>,
    again: HashSet<Subject>,
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + rand::random::<f64>() / 2.0)
}

impl Orders {
    /// The state wants a command: at once by the appender of the change, later by others. A change
    /// of the same subject starts anew.
    pub fn want(&mut self, subject: Subject, cp: &CpId, version: u64, mine: bool) {
        if self
            .pending
            .get(&subject)
            .is_some_and(|p| p.version == version)
        {
            return;
        }
        let due = if mine {
            Instant::now()
        } else {
            Instant::now() + jittered(OTHERS_AFTER)
        };
        self.pending.insert(
            subject.clone(),
            Pending {
                cp: cp.clone(),
                wait: AGAIN_FIRST,
                version,
                attempts: 0,
                code: None,
            },
        );
        if self.in_flight.contains(&subject) {
            // What is under way may still be the command before: look again when it is back.
            self.again.insert(subject);
        } else {
            self.schedule.set(subject, due);
        }
    }

    /// The state no longer wants it.
    pub fn done(&mut self, subject: &Subject) {
        self.schedule.remove(subject);
        self.pending.remove(subject);
        self.again.remove(subject);
    }

    /// What to attempt now.
    pub fn take_due(&mut self) -> Vec<Subject> {
        let now = Instant::now();
        let mut due = Vec::new();
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(subject) = self.schedule.pop_due(now) else {
                break;
            };
            self.in_flight.insert(subject.clone());
            due.push(subject);
        }
        due
    }

    /// An attempt is back.
    pub fn back(&mut self, subject: &Subject, answered_finally: bool) {
        self.in_flight.remove(subject);
        let again = self.again.remove(subject);
        if let Some(pending) = self.pending.get_mut(subject) {
            let wait = if again {
                Duration::ZERO
            } else if answered_finally {
                jittered(RECORD_WAIT)
            } else {
                let wait = pending.wait;
                pending.wait = (wait * 2).min(AGAIN_MAX);
                jittered(wait)
            };
            self.schedule.set(subject.clone(), Instant::now() + wait);
        }
    }

    /// What the charge point said in an attempt that was not its last word.
    pub fn said(&mut self, subject: &Subject, code: Option<Code>) {
        if let Some(pending) = self.pending.get_mut(subject) {
            pending.attempts = pending.attempts.saturating_add(1);
            pending.code = code;
        }
    }

    /// How often a command was tried in vain, and what the charge point said last.
    #[must_use]
    pub fn tried(&self, subject: &Subject) -> (u32, Option<Code>) {
        self.pending
            .get(subject)
            .map_or((0, None), |p| (p.attempts, p.code))
    }

    /// A charge point is back: whatever waits for it is due.
    pub fn hurry(&mut self, cp: &CpId) {
        let now = Instant::now();
        let theirs: Vec<Subject> = self
            .pending
            .iter()
            .filter(|(subject, p)| p.cp == *cp && !self.in_flight.contains(*subject))
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in theirs {
            if let Some(pending) = self.pending.get_mut(&subject) {
                pending.wait = AGAIN_FIRST;
                self.schedule.set(subject, now);
            }
        }
    }
}
