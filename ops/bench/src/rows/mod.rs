//! What is measured: one function a row, each with a hub of its own.

mod start;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Figure;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rounds, interleaved with those of the floors.
    pub rounds: usize,
    /// Starts, echoes and appends one at a time in a round.
    pub alone: usize,
    /// In flight in a crowd.
    pub crowd: usize,
    /// Charge points with four connectors each.
    pub charge_points: usize,
    /// Longest time of a round of a crowd.
    pub round_time: Duration,
    /// Not measured at the beginning of each.
    pub warm_up: Duration,
}

impl Sizes {
    /// For figures.
    pub const FULL: Self = Self {
        rounds: 5,
        alone: 1_000,
        crowd: 512,
        charge_points: 25_000,
        round_time: Duration::from_secs(4),
        warm_up: Duration::from_millis(500),
    };
    /// For a look.
    pub const QUICK: Self = Self {
        rounds: 5,
        alone: 300,
        charge_points: 10_000,
        round_time: Duration::from_secs(2),
        ..Self::FULL
    };
    /// To see that the bench itself works.
    pub const TINY: Self = Self {
        rounds: 2,
        alone: 20,
        crowd: 16,
        charge_points: 50,
        round_time: Duration::from_secs(1),
        warm_up: Duration::ZERO,
    };
}

/// A row of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// A start alone: from the request to accepted
    StartAlone,
    /// Starts with 512 in flight on one server
    StartCrowd,
}

impl Row {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 2] = [Self::StartAlone, Self::StartCrowd];

    /// Measures it.
    ///
    /// # Errors
    /// When a part fails, or a result is wrong.
    pub async fn run(self, sizes: &Sizes) -> Result<Vec<Figure>> {
        match self {
            Self::StartAlone => start::alone(sizes).await,
            Self::StartCrowd => start::crowd(sizes).await,
        }
    }
}
