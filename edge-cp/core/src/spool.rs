//! Numbering, sending and freeing of spool records.
//!
//! Records are numbered from 1 in each epoch. Only an `evt` answer that names this epoch frees, and
//! never more than there is. One run is under way at a time.

use ev_contract::{
    ids::Epoch,
    limits::{EVT_BYTES_MAX, EVT_RECORDS_MAX},
};

use crate::limits::{EVT_RETRY_MS_MAX, EVT_RETRY_MS_MIN, EVT_TIMEOUT_MS, RETRY_AFTER_MS_MAX};

/// Where the spool stands. The records themselves are in the store.
#[derive(Debug, Clone)]
pub struct Spool {
    epoch: Epoch,
    first: u64,
    next: u64,
    stored_next: u64,
    sending: Sending,
    /// Records from here on were never sent by this process.
    unsent: u64,
    ahead: Option<u64>,
    /// Set while another agent is obeyed: what was sent is kept aside by central, and stays here too.
    apart: Option<Apart>,
    /// How long records that can wait do so.
    hold_ms: u64,
    /// When what has not been sent yet is to be, at the earliest.
    wanted_mono_ms: u64,
}

/// How far central is with keeping aside what an agent has that is not obeyed.
#[derive(Debug, Clone, Copy)]
struct Apart {
    /// The next record to be sent.
    next: u64,
    /// Central takes no more: it has as many as it keeps, or does not know this agent yet.
    paused: Option<Paused>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paused {
    /// Until the next sync.
    ForNow,
    /// Until this agent is obeyed.
    ForGood,
}

/// Nothing is to be sent.
const NOTHING: u64 = u64::MAX;

#[derive(Debug, Clone, Copy)]
enum Sending {
    /// Nothing is under way; not before `due_mono_ms`.
    Rest { due_mono_ms: u64, failures: u32 },
    /// A run is under way.
    Flight {
        from: u64,
        until: u64,
        since_mono_ms: u64,
        failures: u32,
    },
}

/// A run to be read from the store and sent: as many records from `from` on as [`run_len`] allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRun {
    /// The lowest number that the spool still holds.
    pub first: u64,
    /// The first record of the run.
    pub from: u64,
    /// The number after the last stored record.
    pub until: u64,
}

/// What became of an `evt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvtOutcome {
    /// Central answered.
    Answered {
        /// Of which epoch it speaks.
        epoch: String,
        /// The number that it wants next; 0 when it says nothing.
        next: u64,
        /// It could not take the run.
        refused: bool,
    },
    /// Another agent with this identity is obeyed.
    NotObeyed {
        /// The next number that it has not kept aside; none when it keeps nothing of this agent.
        aside: Option<u64>,
    },
    /// It has too much to do, and says when to come back.
    Busy {
        /// In so many milliseconds.
        retry_after_ms: u64,
    },
    /// It did not answer, or could not be asked.
    Unanswered,
}

impl Spool {
    /// A spool as the store has it.
    #[must_use]
    pub const fn new(epoch: Epoch, first: u64, next: u64) -> Self {
        Self {
            epoch,
            first,
            next,
            stored_next: next,
            sending: Sending::Rest {
                due_mono_ms: 0,
                failures: 0,
            },
            unsent: first,
            ahead: None,
            apart: None,
            hold_ms: 0,
            wanted_mono_ms: 0,
        }
    }

    /// This agent is the one that is obeyed: what it has is sent from its beginning.
    pub(crate) const fn obeyed(&mut self) {
        self.apart = None;
    }

    /// Another agent is obeyed. Everything stays here; a copy of it goes to central once.
    pub(crate) fn not_obeyed(&mut self) {
        let apart = self.apart.get_or_insert(Apart {
            next: self.first,
            paused: None,
        });
        if apart.paused == Some(Paused::ForNow) {
            apart.paused = None;
        }
    }

    /// The next record to be sent, if one is to be.
    const fn to_send(&self) -> Option<u64> {
        let from = match self.apart {
            None => self.first,
            Some(Apart {
                paused: Some(_), ..
            }) => return None,
            Some(Apart { next, .. }) => next,
        };
        if from < self.stored_next {
            Some(from)
        } else {
            None
        }
    }

    /// The spool's epoch.
    #[must_use]
    pub const fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The lowest number that is held.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next record will get.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Records that wait.
    #[must_use]
    pub const fn depth(&self) -> u64 {
        self.next - self.first
    }

    /// Records that are not on the disk yet.
    #[must_use]
    pub const fn unstored(&self) -> u64 {
        self.next - self.stored_next
    }

    /// Central wanted this number, which was never written: it knows records of this epoch that
    /// this spool does not have.
    #[must_use]
    pub const fn ahead(&self) -> Option<u64> {
        self.ahead
    }

    /// The first of the records from `from` on that was never sent. What was sent keeps its content:
    /// central may have it, and a repeat of it must be the same.
    pub(crate) fn unsent(&self, from: u64) -> u64 {
        self.unsent.max(from)
    }

    /// Numbers a record.
    pub(crate) fn number(&mut self, can_wait: bool, mono_ms: u64) -> u64 {
        let seq = self.next;
        self.next += 1;
        let wait_ms = if can_wait { self.hold_ms } else { 0 };
        self.wanted_mono_ms = self.wanted_mono_ms.min(mono_ms + wait_ms);
        seq
    }

    /// How long what can wait does so for more, to be sent together.
    pub(crate) const fn hold(&mut self, ms: u64) {
        self.hold_ms = ms;
    }

    /// Everything numbered so far is on the disk. Nothing is sent before.
    pub(crate) fn stored(&mut self) {
        self.stored_next = self.next;
    }

    /// When there will be something to do here, by the monotonic clock: a run to send, or one to give
    /// up. Nothing while there is nothing to send.
    #[must_use]
    pub const fn due_mono_ms(&self) -> Option<u64> {
        match self.sending {
            Sending::Flight { since_mono_ms, .. } => Some(since_mono_ms + EVT_TIMEOUT_MS + 1),
            Sending::Rest { due_mono_ms, .. } if self.to_send().is_some() => {
                Some(if due_mono_ms > self.wanted_mono_ms {
                    due_mono_ms
                } else {
                    self.wanted_mono_ms
                })
            }
            Sending::Rest { .. } => None,
        }
    }

    /// A run to send, if it is time for one. It counts as under way from here on.
    pub(crate) fn poll(&mut self, mono_ms: u64, random: u64) -> Option<SendRun> {
        match self.sending {
            Sending::Flight {
                since_mono_ms,
                failures,
                ..
            } => {
                if mono_ms.saturating_sub(since_mono_ms) > EVT_TIMEOUT_MS {
                    self.wanted_mono_ms = 0;
                    self.rest(mono_ms, failures + 1, random);
                }
                None
            }
            Sending::Rest {
                due_mono_ms,
                failures,
            } => {
                let due_mono_ms = due_mono_ms.max(self.wanted_mono_ms);
                let from = self.to_send().filter(|_| mono_ms >= due_mono_ms)?;
                self.unsent = self.unsent.max(self.stored_next);
                if self.next == self.stored_next {
                    self.wanted_mono_ms = NOTHING;
                }
                self.sending = Sending::Flight {
                    from,
                    until: self.stored_next,
                    since_mono_ms: mono_ms,
                    failures,
                };
                Some(SendRun {
                    first: self.first,
                    from,
                    until: self.stored_next,
                })
            }
        }
    }

    /// An answer, or that none came. Returns the number below which records are free.
    pub(crate) fn answered(
        &mut self,
        outcome: &EvtOutcome,
        mono_ms: u64,
        random: u64,
    ) -> Option<u64> {
        let sent_until = match self.sending {
            Sending::Flight { until, .. } => until,
            Sending::Rest { .. } => self.next,
        };
        let freed = self.judge(outcome, mono_ms, random);
        if self.first < sent_until {
            // What was sent in vain, or in part, has waited.
            self.wanted_mono_ms = 0;
        }
        freed
    }

    fn judge(&mut self, outcome: &EvtOutcome, mono_ms: u64, random: u64) -> Option<u64> {
        let (from, failures) = match self.sending {
            Sending::Flight { from, failures, .. } => (from, failures),
            // An answer after its time is as true as one in time.
            Sending::Rest { failures, .. } => (self.first, failures),
        };
        match outcome {
            EvtOutcome::Busy { retry_after_ms } => {
                // Central lives and has named a time: that is no reason to stay away longer.
                self.sending = Sending::Rest {
                    due_mono_ms: mono_ms + told_ms(*retry_after_ms, random),
                    failures,
                };
                None
            }
            EvtOutcome::NotObeyed { aside } => {
                let paused = match *aside {
                    None => Some(Paused::ForNow),
                    Some(next) if next <= from => Some(Paused::ForGood),
                    Some(_) => None,
                };
                self.apart = Some(Apart {
                    next: aside.unwrap_or(self.first).clamp(self.first, self.next),
                    paused,
                });
                self.rest(mono_ms, 0, random);
                None
            }
            EvtOutcome::Unanswered => {
                self.rest(mono_ms, failures + 1, random);
                None
            }
            EvtOutcome::Answered { epoch, .. } if epoch != self.epoch.as_str() => {
                self.rest(mono_ms, failures + 1, random);
                None
            }
            EvtOutcome::Answered { next, refused, .. } => {
                let next = *next;
                if next > self.next {
                    self.ahead = Some(next);
                    self.rest(mono_ms, failures + 1, random);
                    return None;
                }
                let moved = next > from;
                if moved && !refused {
                    self.rest(mono_ms, 0, random);
                } else {
                    self.rest(mono_ms, failures + 1, random);
                }
                let freed = next > self.first && next <= self.stored_next;
                freed.then(|| {
                    self.first = next;
                    next
                })
            }
        }
    }

    /// What `sync` said that central wants: nothing is freed by it, but it may reveal that this
    /// spool lacks records.
    pub(crate) fn hear_wanted(&mut self, epoch: &str, next: u64) {
        if epoch == self.epoch.as_str() && next > self.next {
            self.ahead = Some(next);
        }
    }

    /// The uplink is back: whatever was waited for, now is the time.
    pub(crate) fn hurry(&mut self) {
        self.sending = Sending::Rest {
            due_mono_ms: 0,
            failures: 0,
        };
        self.wanted_mono_ms = 0;
    }

    fn rest(&mut self, mono_ms: u64, failures: u32, random: u64) {
        let wait = if failures == 0 {
            0
        } else {
            backoff_ms(EVT_RETRY_MS_MIN, EVT_RETRY_MS_MAX, failures - 1, random)
        };
        self.sending = Sending::Rest {
            due_mono_ms: mono_ms + wait,
            failures,
        };
    }
}

/// How many of these records, by their sizes in bytes, fit into one run. At least one: a record
/// beyond every bound must get out to be quarantined.
#[must_use]
pub fn run_len(sizes: impl IntoIterator<Item = usize>) -> usize {
    // The map around the records, with ids of the largest length.
    const ENVELOPE_BYTES: usize = 512;
    let mut bytes = ENVELOPE_BYTES;
    let mut count = 0;
    for size in sizes {
        bytes += size;
        if count > 0 && (bytes > EVT_BYTES_MAX || count == EVT_RECORDS_MAX) {
            break;
        }
        count += 1;
    }
    count
}

/// Doubles from `min` to `max` and takes between half and all of it, so that many who failed at
/// once do not return at once.
#[must_use]
pub fn backoff_ms(min: u64, max: u64, failures: u32, random: u64) -> u64 {
    let whole = min.saturating_mul(1 << failures.min(20)).min(max);
    let half = whole / 2;
    half + random % (whole - half + 1)
}

/// How long to wait when central has said how long: that, and up to half of it more, so that many
/// who were told the same do not return at once.
#[must_use]
pub fn told_ms(retry_after_ms: u64, random: u64) -> u64 {
    let told = retry_after_ms.clamp(1, RETRY_AFTER_MS_MAX);
    told + random % (told / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> Spool {
        let mut spool = Spool::new("e1".parse().unwrap(), 1, 1);
        for seq in 1..=5 {
            assert_eq!(spool.number(false, 0), seq);
        }
        spool.stored();
        spool
    }

    fn answer(epoch: &str, next: u64) -> EvtOutcome {
        EvtOutcome::Answered {
            epoch: epoch.into(),
            next,
            refused: false,
        }
    }

    #[test]
    fn one_run_is_under_way_at_a_time() {
        let mut spool = spool();
        let run = SendRun {
            first: 1,
            from: 1,
            until: 6,
        };
        assert_eq!(spool.poll(0, 0), Some(run));
        assert_eq!(spool.poll(1, 0), None);
        assert_eq!(spool.answered(&answer("e1", 4), 2, 0), Some(4));
        assert_eq!(spool.poll(2, 0).map(|r| r.from), Some(4));
    }

    #[test]
    fn only_an_answer_that_names_the_epoch_frees() {
        let mut spool = spool();
        spool.poll(0, 0);
        assert_eq!(spool.answered(&answer("e2", 6), 1, 0), None);
        assert_eq!(spool.answered(&answer("", 6), 1, 0), None);
        assert_eq!(spool.answered(&answer("e1", 0), 1, 0), None);
        assert_eq!(spool.depth(), 5);
    }

    #[test]
    fn a_number_that_was_never_written_frees_nothing_and_is_an_alarm() {
        let mut spool = spool();
        spool.poll(0, 0);
        assert_eq!(spool.answered(&answer("e1", 7), 1, 0), None);
        assert_eq!((spool.depth(), spool.ahead()), (5, Some(7)));
    }

    #[test]
    fn a_sync_that_wants_what_was_never_written_is_the_same_alarm() {
        let mut spool = spool();
        spool.hear_wanted("e2", 7);
        spool.hear_wanted("e1", 6);
        assert_eq!((spool.depth(), spool.ahead()), (5, None));
        spool.hear_wanted("e1", 7);
        assert_eq!((spool.depth(), spool.ahead()), (5, Some(7)));
    }

    #[test]
    fn what_is_not_stored_is_not_sent() {
        let mut spool = spool();
        spool.number(false, 0);
        assert_eq!(spool.poll(0, 0).map(|r| r.until), Some(6));
        assert_eq!(spool.unstored(), 1);
    }

    #[test]
    fn what_is_not_stored_is_not_freed() {
        let mut spool = spool();
        spool.number(false, 0);
        spool.poll(0, 0);
        // The number is not beyond the spool, and its record may still be lost with the power.
        assert_eq!(spool.answered(&answer("e1", 7), 1, 0), None);
        assert_eq!((spool.depth(), spool.ahead()), (6, None));
        spool.stored();
        assert!(spool.poll(60_000, 0).is_some());
        assert_eq!(spool.answered(&answer("e1", 7), 60_001, 0), Some(7));
    }

    #[test]
    fn silence_and_no_progress_are_waited_out_longer_each_time() {
        let mut spool = spool();
        let mut mono = 0;
        let mut waits = vec![];
        for _ in 0..10 {
            assert!(spool.poll(mono, 0).is_some());
            spool.answered(&EvtOutcome::Unanswered, mono, 0);
            let start = mono;
            while matches!(spool.sending, Sending::Rest { due_mono_ms, .. } if due_mono_ms > mono) {
                mono += 1;
            }
            waits.push(mono - start);
        }
        assert!(waits.windows(2).all(|w| w[0] <= w[1]), "{waits:?}");
        assert_eq!(waits[9], EVT_RETRY_MS_MAX / 2);
        spool.poll(mono, 0);
        spool.answered(&answer("e1", 1), mono, 0);
        assert_eq!(spool.poll(mono, 0), None, "no progress must not spin");
    }

    #[test]
    fn a_busy_central_is_left_alone_for_as_long_as_it_says_and_not_for_ever() {
        for random in [0, 1, 499, 500, u64::MAX] {
            let mut spool = spool();
            assert!(spool.poll(0, 0).is_some());
            let busy = EvtOutcome::Busy {
                retry_after_ms: 1_000,
            };
            assert_eq!(spool.answered(&busy, 0, random), None);
            assert_eq!(spool.poll(999, 0), None);
            assert!(spool.poll(1_500, 0).is_some());
            assert_eq!(spool.depth(), 5);
        }
        let mut spool = spool();
        assert!(spool.poll(0, 0).is_some());
        let busy = EvtOutcome::Busy {
            retry_after_ms: u64::MAX,
        };
        spool.answered(&busy, 0, 0);
        assert!(spool.poll(2 * RETRY_AFTER_MS_MAX, 0).is_some());
    }

    #[test]
    fn a_lost_answer_is_given_up_by_itself() {
        let mut spool = spool();
        assert!(spool.poll(0, 0).is_some());
        assert_eq!(spool.poll(EVT_TIMEOUT_MS + 1, 0), None);
        assert!(spool.poll(EVT_TIMEOUT_MS + 1_001, 0).is_some());
    }

    #[test]
    fn a_run_is_bounded_by_count_and_bytes_and_never_empty() {
        assert_eq!(run_len(vec![10; 1_000]), EVT_RECORDS_MAX);
        assert_eq!(run_len(vec![100_000; 10]), 2);
        assert_eq!(run_len(vec![EVT_BYTES_MAX * 2, 1]), 1);
        assert_eq!(run_len(vec![]), 0);
    }

    #[test]
    fn what_can_wait_does_so_and_goes_with_what_cannot() {
        let mut spool = spool();
        spool.hold(300_000);
        // What was there before it began is sent at once.
        assert!(spool.poll(0, 0).is_some());
        assert_eq!(spool.answered(&answer("e1", 6), 0, 0), Some(6));
        assert_eq!((spool.poll(0, 0), spool.due_mono_ms()), (None, None));
        for minute in 0..5 {
            spool.number(true, minute * 60_000);
            spool.stored();
            assert_eq!(spool.due_mono_ms(), Some(300_000), "the oldest decides");
            assert_eq!(spool.poll(minute * 60_000, 0), None);
        }
        let all = spool.poll(300_000, 0).unwrap();
        assert_eq!((all.from, all.until), (6, 11));
        // Recorded while those are under way.
        spool.number(true, 300_100);
        spool.stored();
        assert_eq!(spool.answered(&answer("e1", 11), 300_200, 0), Some(11));
        assert_eq!(spool.due_mono_ms(), Some(600_100));
        // One that cannot wait takes it along.
        spool.number(false, 310_000);
        spool.stored();
        let both = spool.poll(310_000, 0).unwrap();
        assert_eq!((both.from, both.until), (11, 13));
    }

    #[test]
    fn what_has_waited_and_was_not_taken_waits_no_longer() {
        for outcome in [
            EvtOutcome::Unanswered,
            EvtOutcome::Busy { retry_after_ms: 1 },
            answer("e2", 99),
            answer("e1", 0),
            answer("e1", 3),
            answer("e1", 99),
        ] {
            let mut spool = Spool::new("e1".parse().unwrap(), 1, 1);
            spool.hold(300_000);
            for _ in 0..4 {
                spool.number(true, 0);
            }
            spool.stored();
            assert!(spool.poll(300_000, 0).is_some());
            spool.answered(&outcome, 300_000, 0);
            let due = spool.due_mono_ms().unwrap();
            assert!(due <= 300_000 + EVT_RETRY_MS_MIN, "{outcome:?}: {due}");
            assert!(spool.poll(due, 0).is_some(), "{outcome:?}");
        }
        // Given up, or the line was lost meanwhile.
        let mut spool = Spool::new("e1".parse().unwrap(), 1, 1);
        spool.hold(300_000);
        spool.number(true, 0);
        spool.stored();
        assert!(spool.poll(300_000, 0).is_some());
        assert_eq!(spool.poll(300_001 + EVT_TIMEOUT_MS, 0), None);
        assert!(spool.due_mono_ms().unwrap() < 320_000);
        spool.number(true, 320_000);
        spool.hurry();
        assert_eq!(spool.due_mono_ms(), Some(0));
    }
}
