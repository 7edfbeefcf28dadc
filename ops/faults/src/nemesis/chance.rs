//! Randomness that can be had again: each actor draws from the run's seed and its own name.

use rand::{Rng, SeedableRng, rngs::StdRng};

#[derive(Debug)]
pub struct Chance(StdRng);

impl Chance {
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: the same on every machine and in every build.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(StdRng::seed_from_u64(seed ^ hash))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n.max(1))
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    pub fn percent(&mut self, pct: u32) -> bool {
        self.0.random_range(0..100) < pct
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() {
            return None;
        }
        all.get(self.below(all.len()))
    }

    /// An index, drawn by weight.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut ticket = self.0.random_range(0..weights.iter().sum::<u32>().max(1));
        for (index, weight) in weights.iter().enumerate() {
            if ticket < *weight {
                return index;
            }
            ticket -= weight;
        }
        0
    }

    /// Many short ones and a few long ones, in milliseconds.
    pub fn duration_ms(&mut self, low: u64, high: u64) -> u64 {
        let unit: f64 = self.0.random();
        let span = (high - low) as f64;
        low + (span * unit * unit * unit) as u64
    }

    pub fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}-{:016x}", self.0.random::<u64>())
    }
}
