//! What many charge points of one process come to: counts, and how long it took them to be in sync
//! after a start or a cut. Each charge point counts for itself and adds what has changed.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use edge_core::{EvtOutcome, Row};
use ev_contract::{ids::ConnectorId, v1::EdgeFact};
use serde::Serialize;
use tokio::sync::mpsc;

/// Rounds that are remembered: those of an evening of cuts.
const ROUNDS_MAX: usize = 64;

/// A session has ended at a charge point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEnded {
    /// The charge point's number in the process.
    pub number: usize,
    /// Where.
    pub connector: ConnectorId,
}

/// Counts of all charge points of a process.
#[derive(Debug)]
pub struct Tally {
    count: usize,
    counts: Counts,
    rounds: Mutex<Rounds>,
    ended: mpsc::Sender<SessionEnded>,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        struct Counts { $($name: AtomicU64,)* }

        /// What all charge points have come to.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct Totals { $($(#[$doc])* pub $name: u64,)* }

        impl Counts {
            fn read(&self) -> Totals {
                Totals { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Charge points with a connection.
    connected,
    /// Charge points whose `sync` central has answered since their connection was made.
    in_sync,
    /// Charge points that have ever been in sync.
    ever_in_sync,
    /// Open sessions.
    sessions,
    /// Records that wait for central's word.
    waiting,
    /// Sessions begun at the cabinet.
    opened_here,
    /// Sessions taken from central.
    taken,
    /// Sessions that have ended.
    ended,
    /// Records written.
    records,
    /// Records sent, each time that it was.
    records_sent,
    /// Records that central has confirmed.
    records_acknowledged,
    /// Runs of records sent.
    evts,
    /// Runs that central could not take yet, and said when to come back.
    evts_put_off,
    /// Runs without an answer.
    evts_unanswered,
    /// Syncs that central answered with the state of the charge point.
    syncs,
    /// Syncs that central could not take yet, or did not answer.
    syncs_failed,
    /// Heartbeats sent.
    heartbeats,
    /// Commands from central.
    commands,
    /// Connections that were lost.
    cuts,
}

#[derive(Debug, Default)]
struct Rounds {
    open: Option<Open>,
    over: Vec<Round>,
}

#[derive(Debug)]
struct Open {
    cause: Cause,
    began: Instant,
    /// Of each charge point that has got there, in milliseconds.
    took_ms: Vec<u64>,
}

/// Why charge points have to get into sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// They have begun.
    Start,
    /// They lost their connections.
    Cut,
}

/// From the first charge point without sync until none was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Round {
    /// What it began with.
    pub cause: Cause,
    /// How many charge points had to get into sync.
    pub count: usize,
    /// From the first one's cut or start until the last was in sync.
    pub all_ms: u64,
    /// From a charge point's own start or loss of its connection until its sync: the shortest.
    pub min_ms: u64,
    /// Half of them.
    pub p50_ms: u64,
    /// All but one in a hundred.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Round {
    fn new(cause: Cause, all_ms: u64, mut took_ms: Vec<u64>) -> Self {
        took_ms.sort_unstable();
        let at = |pct: usize| {
            let rank = (took_ms.len() * pct).div_ceil(100).max(1) - 1;
            took_ms.get(rank).copied().unwrap_or(0)
        };
        Self {
            cause,
            count: took_ms.len(),
            all_ms,
            min_ms: at(0),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

impl Tally {
    /// Of so many charge points. Where a session ends is told to `ended`.
    #[must_use]
    pub fn new(count: usize, ended: mpsc::Sender<SessionEnded>) -> Self {
        Self {
            count,
            counts: Counts::default(),
            rounds: Mutex::new(Rounds {
                open: Some(Open {
                    cause: Cause::Start,
                    began: Instant::now(),
                    took_ms: Vec::new(),
                }),
                over: Vec::new(),
            }),
            ended,
        }
    }

    /// What it has come to.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.counts.read()
    }

    /// The rounds that are over, oldest first.
    #[must_use]
    pub fn rounds(&self) -> Vec<Round> {
        self.lock().over.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn falls_out(&self, now: Instant) {
        self.counts.in_sync.fetch_sub(1, Relaxed);
        self.lock().open.get_or_insert_with(|| Open {
            cause: Cause::Cut,
            began: now,
            took_ms: Vec::new(),
        });
    }

    fn gets_in_sync(&self, took_ms: u64, now: Instant) {
        let mut rounds = self.lock();
        let in_sync = self.counts.in_sync.fetch_add(1, Relaxed) + 1;
        if let Some(open) = &mut rounds.open {
            open.took_ms.push(took_ms);
        }
        if usize::try_from(in_sync).is_ok_and(|in_sync| in_sync == self.count)
            && let Some(open) = rounds.open.take()
            && rounds.over.len() < ROUNDS_MAX
        {
            let all_ms = ms(now.duration_since(open.began));
            rounds
                .over
                .push(Round::new(open.cause, all_ms, open.took_ms));
        }
    }
}

/// One charge point's place in a tally.
#[derive(Debug)]
pub struct Seat {
    tally: Arc<Tally>,
    number: usize,
    is_up: bool,
    is_in_sync: bool,
    ever_in_sync: bool,
    sessions: u64,
    waiting: u64,
    /// Since when it has to get into sync.
    since: Instant,
}

impl Seat {
    /// The place of the charge point with this number, from when it begins.
    #[must_use]
    pub fn new(tally: Arc<Tally>, number: usize) -> Self {
        Self {
            tally,
            number,
            is_up: false,
            is_in_sync: false,
            ever_in_sync: false,
            sessions: 0,
            waiting: 0,
            since: Instant::now(),
        }
    }

    fn counts(&self) -> &Counts {
        &self.tally.counts
    }

    /// The connection is there, or not.
    pub fn link(&mut self, is_up: bool) {
        if mem::replace(&mut self.is_up, is_up) == is_up {
            return;
        }
        if is_up {
            self.counts().connected.fetch_add(1, Relaxed);
            return;
        }
        self.counts().connected.fetch_sub(1, Relaxed);
        self.counts().cuts.fetch_add(1, Relaxed);
        if mem::replace(&mut self.is_in_sync, false) {
            self.since = Instant::now();
            self.tally.falls_out(self.since);
        }
    }

    /// Central answered a sync with what it knows, or not.
    pub fn synced(&mut self, is_taken: bool) {
        if !is_taken {
            self.counts().syncs_failed.fetch_add(1, Relaxed);
            return;
        }
        self.counts().syncs.fetch_add(1, Relaxed);
        // An answer that was under way when the connection went says nothing of the next one.
        if !self.is_up || mem::replace(&mut self.is_in_sync, true) {
            return;
        }
        if !mem::replace(&mut self.ever_in_sync, true) {
            self.counts().ever_in_sync.fetch_add(1, Relaxed);
        }
        let now = Instant::now();
        let took_ms = ms(now.duration_since(self.since));
        self.tally.gets_in_sync(took_ms, now);
    }

    /// So many records are sent.
    pub fn sent(&self, records: usize) {
        self.counts().evts.fetch_add(1, Relaxed);
        self.counts()
            .records_sent
            .fetch_add(u64::try_from(records).unwrap_or(0), Relaxed);
    }

    /// What became of them.
    pub fn outcome(&self, outcome: &EvtOutcome) {
        match outcome {
            EvtOutcome::Answered { .. } | EvtOutcome::NotObeyed { .. } => {}
            EvtOutcome::Busy { .. } => {
                self.counts().evts_put_off.fetch_add(1, Relaxed);
            }
            EvtOutcome::Unanswered => {
                self.counts().evts_unanswered.fetch_add(1, Relaxed);
            }
        }
    }

    /// A heartbeat was sent.
    pub fn heartbeat(&self) {
        self.counts().heartbeats.fetch_add(1, Relaxed);
    }

    /// A command came.
    pub fn command(&self) {
        self.counts().commands.fetch_add(1, Relaxed);
    }

    /// What is about to be stored, where the first record that is held is `first`.
    pub fn rows(&self, rows: &[Row]) {
        let counts = self.counts();
        for row in rows {
            let Row::Append(record) = row else {
                continue;
            };
            counts.records.fetch_add(1, Relaxed);
            match &record.fact {
                EdgeFact::OpenedAtEdge { .. } => {
                    counts.opened_here.fetch_add(1, Relaxed);
                }
                EdgeFact::Accepted { .. } => {
                    counts.taken.fetch_add(1, Relaxed);
                }
                EdgeFact::Ended { .. } => {
                    counts.ended.fetch_add(1, Relaxed);
                }
                EdgeFact::Started { .. }
                | EdgeFact::Phase { .. }
                | EdgeFact::Checkpoint { .. }
                | EdgeFact::EnergyEnded { .. }
                | EdgeFact::Connector { .. }
                | EdgeFact::Booted { .. }
                | EdgeFact::Anomaly { .. } => {}
            }
        }
    }

    /// Central has confirmed so many.
    pub fn acknowledged(&self, records: u64) {
        self.counts()
            .records_acknowledged
            .fetch_add(records, Relaxed);
    }

    /// How many sessions are open, and how many records wait.
    pub fn level(&mut self, sessions: usize, waiting: u64) {
        let sessions = u64::try_from(sessions).unwrap_or(0);
        let counts = &self.tally.counts;
        for (to, before, now) in [
            (&counts.sessions, &mut self.sessions, sessions),
            (&counts.waiting, &mut self.waiting, waiting),
        ] {
            // Wraps: what others have added stays.
            to.fetch_add(now.wrapping_sub(mem::replace(before, now)), Relaxed);
        }
    }

    /// A connector has no session any more.
    pub fn free(&self, connector: ConnectorId) {
        let ended = SessionEnded {
            number: self.number,
            connector,
        };
        // There is room for one of each connector, and a connector's next session begins only when
        // the last end was read; where nobody reads there is nobody to tell.
        let _ = self.tally.ended.try_send(ended);
    }
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(count: usize) -> (Arc<Tally>, Vec<Seat>) {
        let (ended, _) = mpsc::channel(1);
        let tally = Arc::new(Tally::new(count, ended));
        let seats = (0..count)
            .map(|n| Seat::new(Arc::clone(&tally), n))
            .collect();
        (tally, seats)
    }

    #[test]
    fn a_round_lasts_from_the_first_without_sync_until_none_is_left() {
        let (tally, mut seats) = tally(3);
        for seat in &mut seats {
            assert!(tally.rounds().is_empty());
            seat.link(true);
            seat.synced(true);
        }
        seats[0].link(false);
        seats[1].link(false);
        assert_eq!(tally.totals().in_sync, 1);
        seats[0].link(true);
        seats[0].synced(true);
        assert_eq!(tally.rounds().len(), 1);
        seats[1].link(true);
        seats[1].synced(false);
        assert_eq!(tally.rounds().len(), 1);
        seats[1].synced(true);
        let rounds = tally.rounds();
        let told: Vec<_> = rounds.iter().map(|r| (r.cause, r.count)).collect();
        assert_eq!(told, [(Cause::Start, 3), (Cause::Cut, 2)]);
        assert_eq!(tally.totals().ever_in_sync, 3);
    }

    #[test]
    fn an_answer_from_before_the_cut_is_no_sync() {
        let (tally, mut seats) = tally(1);
        seats[0].link(true);
        seats[0].link(false);
        seats[0].synced(true);
        assert_eq!(tally.totals().in_sync, 0);
    }

    #[test]
    fn levels_add_up_and_go_down() {
        let (tally, mut seats) = tally(2);
        seats[0].level(2, 100);
        seats[1].level(1, 1);
        seats[0].level(0, 40);
        let totals = tally.totals();
        assert_eq!((totals.sessions, totals.waiting), (1, 41));
    }

    #[test]
    fn percentiles_are_of_the_charge_points_own_times() {
        let round = Round::new(Cause::Cut, 500, (1..=200).rev().collect());
        assert_eq!(
            (round.min_ms, round.p50_ms, round.p99_ms, round.max_ms),
            (1, 100, 198, 200)
        );
        assert_eq!(Round::new(Cause::Cut, 5, vec![7]).p99_ms, 7);
    }
}
