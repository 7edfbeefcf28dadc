//! What lies between a misbehaving charger and its agent: facts come twice, late, in disorder, or
//! again after hours; answers are lost; transactions have odd names. Seeded, so that a failure can
//! be had again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use edge_core::hardware::{DeviceTx, HwFact, OriginKey};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::physics::Names;
use crate::hardware::HwEvent;

/// Longest delay of a fact. Under the grace that the core gives to ends.
const DELAY_MS_MAX: u64 = 2_500;
/// Facts of the past that may come again.
const HISTORY_MAX: usize = 64;

/// The mess.
#[derive(Debug)]
pub struct Unruly {
    on: bool,
    rng: StdRng,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: BTreeMap<u64, HwEvent>,
    history: VecDeque<HwFact>,
    named: BTreeMap<DeviceTx, OriginKey>,
    n: u64,
}

impl Unruly {
    /// Draws from `seed`.
    #[must_use]
    pub fn new(on: bool, seed: u64) -> Self {
        Self {
            on,
            rng: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            history: VecDeque::new(),
            named: BTreeMap::new(),
            n: 0,
        }
    }

    /// Whether it is at work.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on
    }

    /// Whether anything is on its way.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Begins or ends.
    pub const fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// Puts an event on its way.
    pub fn push(&mut self, event: HwEvent, mono_ms: u64) {
        if !self.on {
            self.enqueue(event, mono_ms);
            return;
        }
        match event {
            HwEvent::Answer(_) => {
                let fate = self.rng.random_range(0..100);
                if fate < 15 {
                    return;
                }
                let delay = if fate < 60 {
                    self.rng.random_range(0..DELAY_MS_MAX)
                } else {
                    0
                };
                self.enqueue(event, mono_ms + delay);
            }
            HwEvent::Fact(fact) => self.push_fact(fact, mono_ms),
        }
    }

    fn push_fact(&mut self, fact: HwFact, mono_ms: u64) {
        let is_reading = matches!(fact, HwFact::Reading { .. });
        if is_reading && self.rng.random_bool(0.1) {
            return;
        }
        let fact = self.blur(fact);
        if !is_reading {
            self.history.push_back(fact.clone());
            if self.history.len() > HISTORY_MAX {
                self.history.pop_front();
            }
        }
        let delay = if self.rng.random_bool(0.3) {
            self.rng.random_range(0..DELAY_MS_MAX)
        } else {
            0
        };
        if self.rng.random_bool(0.2) {
            let again = self.rng.random_range(0..DELAY_MS_MAX);
            self.enqueue(HwEvent::Fact(fact.clone()), mono_ms + again);
        }
        self.enqueue(HwEvent::Fact(fact), mono_ms + delay);
        if self.rng.random_bool(0.05) && !self.history.is_empty() {
            let index = self.rng.random_range(0..self.history.len());
            let old = self.history[index].clone();
            self.enqueue(HwEvent::Fact(old), mono_ms);
        }
    }

    /// Leaves out what devices of some kinds do not say.
    fn blur(&mut self, fact: HwFact) -> HwFact {
        match fact {
            HwFact::TxEnded {
                at,
                connector,
                device_tx,
                origin,
                start_number,
                reason,
                reading,
            } => {
                // Something must tell transactions of one name apart: without a key, the number of
                // the start; without that, the key.
                let name_says_nothing = origin.as_ref().is_some_and(|origin| {
                    *self
                        .named
                        .entry(device_tx.clone())
                        .or_insert_with(|| origin.clone())
                        != *origin
                }) || matches!(device_tx.0.as_str(), "0" | "-1");
                let start_number = start_number.filter(|_| self.rng.random_bool(0.5));
                let needed = name_says_nothing && start_number.is_none();
                HwFact::TxEnded {
                    at,
                    connector,
                    device_tx,
                    origin: origin.filter(|_| needed),
                    start_number,
                    reason,
                    reading,
                }
            }
            HwFact::TxStarted {
                at,
                connector,
                device_tx,
                origin,
                start_number,
                reading,
            } => HwFact::TxStarted {
                at,
                connector,
                device_tx,
                origin,
                start_number: start_number.filter(|_| self.rng.random_bool(0.7)),
                reading,
            },
            other @ (HwFact::Link { .. }
            | HwFact::Booted { .. }
            | HwFact::Plug { .. }
            | HwFact::Reading { .. }
            | HwFact::Phase { .. }
            | HwFact::Fault { .. }
            | HwFact::Service { .. }) => other,
        }
    }

    /// Now and then, a boot that never was.
    pub fn spurious_boot(&mut self) -> bool {
        self.on && self.rng.random_bool(0.005)
    }

    fn enqueue(&mut self, event: HwEvent, due_ms: u64) {
        self.n += 1;
        self.queue.push(Reverse((due_ms, self.n)));
        self.waiting.insert(self.n, event);
    }

    /// What has arrived, in order of arrival.
    pub fn arrived(&mut self, mono_ms: u64) -> Vec<HwEvent> {
        let mut events = Vec::new();
        while let Some(&Reverse((due, n))) = self.queue.peek() {
            if due > mono_ms && self.on {
                break;
            }
            self.queue.pop();
            events.extend(self.waiting.remove(&n));
        }
        events
    }

    /// When the next one arrives.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((due, _))| *due)
    }
}

impl Names for Unruly {
    fn name(&mut self, n: u64, last: Option<&DeviceTx>) -> DeviceTx {
        if !self.on {
            return DeviceTx(format!("tx-{n}"));
        }
        match (self.rng.random_range(0..5), last) {
            (0, _) => DeviceTx("0".into()),
            (1, _) => DeviceTx("-1".into()),
            (2, _) => DeviceTx(format!("-{n}")),
            (3, Some(last)) => last.clone(),
            _ => DeviceTx(format!("tx-{n}")),
        }
    }

    fn meter_resets(&mut self) -> bool {
        self.on
    }
}
