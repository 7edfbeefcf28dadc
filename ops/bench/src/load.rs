//! Shapes of load: closed (so many in flight) and open (so many at a time, whatever comes back).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::time::timeout;

use crate::client::{LoadClient, Shot};

/// Longest time to an answer that is told apart: beyond what central answers in.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Nothing is answered for so long: what is still open is lost.
const SILENCE: Duration = Duration::from_secs(10);

/// Where answers are slow, a load goes on for so many times its time: a window in which fewer came
/// than are in flight says little.
const LONGER_MAX: u32 = 4;

/// How long a closed load goes on.
#[derive(Debug, Clone, Copy)]
pub struct Closed {
    /// Questions in flight.
    pub in_flight: usize,
    /// Not measured at the beginning.
    pub warm_up: Duration,
    /// So long in all; longer, up to [`LONGER_MAX`] times, until each in flight was answered.
    pub time: Duration,
    /// Between an answer and the next question.
    pub pause: Duration,
}

/// An answer.
#[derive(Debug)]
pub struct Heard {
    /// To which shot.
    pub index: usize,
    /// After how long, in microseconds.
    pub after_us: u64,
    /// Whether that was within the window.
    pub counts: bool,
    /// What it says.
    pub bytes: Bytes,
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Times to answers within the window, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Answers within the window.
    pub answers: u64,
    /// How long the window was.
    pub window: Duration,
    /// Every answer of the whole load.
    pub all: Vec<Heard>,
    /// Questions without an answer.
    pub lost: usize,
}

impl Outcome {
    /// Answers per second of the window.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.answers as f64 / self.window.as_secs_f64().max(1e-9)
    }

    /// A percentile in microseconds.
    #[must_use]
    pub fn percentile_us(&self, percent: f64) -> f64 {
        self.latency_us.value_at_percentile(percent) as f64
    }

    /// The times of some of the answers within the window.
    ///
    /// # Errors
    /// Never.
    pub fn latency_of(&self, is_meant: impl Fn(usize) -> bool) -> Result<Histogram<u64>> {
        let mut histogram = histogram()?;
        for heard in self.all.iter().filter(|h| h.counts && is_meant(h.index)) {
            histogram.saturating_record(heard.after_us);
        }
        Ok(histogram)
    }
}

/// An empty histogram with three significant figures.
///
/// # Errors
/// Never, since its bounds are good.
pub fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).context("make a histogram")
}

/// Keeps `in_flight` questions open until the shots or the time are used up. `edge` is called when
/// the window begins and when it ends.
///
/// # Errors
/// When the connection is closed.
pub async fn closed(
    client: &mut LoadClient,
    shots: &[Shot],
    how: Closed,
    mut edge: impl FnMut(),
) -> Result<Outcome> {
    let base = client.next_number();
    let mut sent_at: Vec<Instant> = Vec::with_capacity(shots.len());
    let mut outcome = Outcome {
        latency_us: histogram()?,
        answers: 0,
        window: Duration::ZERO,
        all: Vec::with_capacity(shots.len()),
        lost: 0,
    };
    let begin = Instant::now();
    let (window_from, until) = (begin + how.warm_up, begin + how.time);
    let (answers_min, at_last) = (how.in_flight as u64, begin + how.time * LONGER_MAX);
    let mut opened: Option<Instant> = None;
    let mut ended: Option<Instant> = None;
    let mut next = shots.iter();
    for shot in next.by_ref().take(how.in_flight) {
        sent_at.push(Instant::now());
        client.send(shot.clone()).await?;
    }
    let mut open = sent_at.len();
    while open > 0 {
        let Ok(answer) = timeout(SILENCE, client.hear()).await else {
            break;
        };
        let answer = answer?;
        // Of an earlier load, and late.
        let Some(index) = answer.to.checked_sub(base) else {
            continue;
        };
        let index = usize::try_from(index)?;
        let sent = *sent_at.get(index).context("an answer to nothing")?;
        open -= 1;
        let after_us = micros(answer.at - sent);
        let counts = opened.is_some() && ended.is_none();
        outcome.all.push(Heard {
            index,
            after_us,
            counts,
            bytes: answer.message.payload,
        });
        if ended.is_none() {
            if counts {
                outcome.answers += 1;
                outcome.latency_us.saturating_record(after_us);
            } else if answer.at >= window_from {
                opened = Some(answer.at);
                edge();
            }
            let goes_on =
                answer.at < until || (outcome.answers < answers_min && answer.at < at_last);
            let shot = if goes_on { next.next() } else { None };
            match shot {
                Some(shot) => {
                    if !how.pause.is_zero() {
                        tokio::time::sleep(how.pause).await;
                    }
                    sent_at.push(Instant::now());
                    client.send(shot.clone()).await?;
                    open += 1;
                }
                // From here on fewer are in flight than are meant to be.
                None => {
                    ended = Some(answer.at);
                    edge();
                }
            }
        }
    }
    outcome.lost = open;
    if let (Some(opened), Some(ended)) = (opened, ended) {
        outcome.window = ended - opened;
    }
    ensure!(
        outcome.answers > 0,
        "the load ended before its window began: {} of {} shots were answered",
        outcome.all.len(),
        sent_at.len()
    );
    Ok(outcome)
}

/// Sends `at_once` questions every `every`, whatever comes back.
///
/// # Errors
/// When the connection is closed.
pub async fn bursts(
    client: &mut LoadClient,
    shots: &[Shot],
    at_once: usize,
    every: Duration,
) -> Result<Outcome> {
    let base = client.next_number();
    let mut outcome = Outcome {
        latency_us: histogram()?,
        answers: 0,
        window: Duration::ZERO,
        all: Vec::with_capacity(shots.len()),
        lost: 0,
    };
    let begin = tokio::time::Instant::now();
    // What was sent counts from when it was due, not from when this program came to it.
    let mut due_at: Vec<Instant> = Vec::with_capacity(shots.len());
    let mut due = begin;
    let mut bursts = shots.chunks(at_once);
    let mut open = 0_usize;
    let mut more = true;
    while more || open > 0 {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(due), if more => {
                match bursts.next() {
                    None => more = false,
                    Some(burst) => {
                        for shot in burst {
                            due_at.push(due.into_std());
                            client.send(shot.clone()).await?;
                        }
                        open += burst.len();
                        due += every;
                    }
                }
            }
            heard = timeout(SILENCE, client.hear()), if open > 0 => {
                let Ok(answer) = heard else { break };
                let answer = answer?;
                let Some(index) = answer.to.checked_sub(base) else { continue };
                let index = usize::try_from(index)?;
                let sent = *due_at.get(index).context("an answer to nothing")?;
                open -= 1;
                outcome.answers += 1;
                let after_us = micros(answer.at - sent);
                outcome.latency_us.saturating_record(after_us);
                outcome.all.push(Heard {
                    index,
                    after_us,
                    counts: true,
                    bytes: answer.message.payload,
                });
            }
        }
    }
    outcome.lost = open;
    outcome.window = begin.elapsed();
    Ok(outcome)
}

/// At least one: a histogram has no zero.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
