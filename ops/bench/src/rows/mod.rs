//! What is measured: one function a row, each with a hub of its own.

mod agents;
mod core;
mod crowd;
mod growth;
mod line;
mod restart;
mod sessions;
mod shapes;
mod start;

use std::{path::PathBuf, time::Duration};

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
    /// Charge points of the growing fleet, step by step.
    pub growth: [usize; 3],
    /// Bursts of starts, one a second.
    pub bursts: usize,
    /// Starts in each.
    pub burst: usize,
    /// Agents with a connection each, back at once.
    pub agents: usize,
    /// Records of an agent that was offline for a day.
    pub backlog: usize,
    /// How long starts are measured before something happens to them.
    pub calm: Duration,
    /// Charge points of which central's core is asked what they cost.
    pub core_fleet: usize,
    /// Records that a restart without a snapshot reads.
    pub replayed: usize,
    /// Records of the ledger of a restart with one, a hundred of each charge point; so many of them
    /// after the snapshot.
    pub ledger: usize,
    /// See there.
    pub rest: usize,
    /// Restarts of each kind.
    pub restarts: usize,
    /// For how long bytes are counted: the longest pause of a metered line is a quarter of an hour.
    pub line_time: Duration,
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
        growth: [1_000, 10_000, 100_000],
        bursts: 10,
        burst: 1_000,
        agents: 10_000,
        backlog: 100_000,
        calm: Duration::from_secs(5),
        core_fleet: 100_000,
        replayed: 1_000_000,
        ledger: 10_000_000,
        rest: 500_000,
        restarts: 3,
        line_time: Duration::from_secs(900),
    };
    /// For a look.
    pub const QUICK: Self = Self {
        rounds: 3,
        alone: 300,
        charge_points: 10_000,
        round_time: Duration::from_secs(1),
        warm_up: Duration::from_millis(200),
        growth: [1_000, 4_000, 16_000],
        bursts: 4,
        agents: 2_000,
        backlog: 20_000,
        core_fleet: 10_000,
        replayed: 100_000,
        ledger: 200_000,
        rest: 20_000,
        line_time: Duration::from_secs(120),
        ..Self::FULL
    };
    /// To see that the bench itself works.
    pub const TINY: Self = Self {
        rounds: 1,
        alone: 20,
        crowd: 16,
        charge_points: 50,
        round_time: Duration::from_millis(500),
        warm_up: Duration::ZERO,
        growth: [10, 20, 30],
        bursts: 2,
        burst: 50,
        agents: 20,
        backlog: 200,
        calm: Duration::from_millis(500),
        core_fleet: 50,
        replayed: 1_000,
        ledger: 2_000,
        rest: 200,
        restarts: 1,
        line_time: Duration::from_millis(500),
    };
}

/// A run: its sizes, and what later rows need of earlier ones.
#[derive(Debug)]
pub struct Bench {
    /// How much is done.
    pub sizes: Sizes,
    /// Where a profile of central is to be.
    profile: Option<PathBuf>,
    /// Starts per second on one server, once that was measured.
    one_server: Option<f64>,
}

/// A row of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// What central's core costs by itself, without a server
    Core,
    /// A start alone: from the request to accepted
    StartAlone,
    /// Starts with 512 in flight on one server
    StartCrowd,
    /// The same on three servers, each with a copy
    StartThree,
    /// Whole sessions to the receipt, and what they take on disk
    Sessions,
    /// Starts in JSON
    Json,
    /// A thousand starts a second, evenly
    Paced,
    /// A thousand starts at once, every second
    Bursts,
    /// A connector that everybody wants
    HotConnector,
    /// Charge points that answer late or never
    SlowChargePoint,
    /// Two and three replicas of central
    Replicas,
    /// A server whose disk is slow
    SlowDisk,
    /// From a thousand charge points to a hundred thousand
    Growth,
    /// A restart of central: all of a ledger, and a snapshot with the rest
    Restart,
    /// The agent in a cabinet, idle and charging
    Agent,
    /// What its line carries, ordinary and metered
    Line,
    /// Ten thousand agents that come back at once
    Reconnect,
    /// A spool of a day offline
    Drain,
}

impl Row {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 18] = [
        // First: it looks at the memory of this process.
        Self::Core,
        Self::StartAlone,
        Self::StartCrowd,
        Self::StartThree,
        Self::Sessions,
        Self::Json,
        Self::Paced,
        Self::Bursts,
        Self::HotConnector,
        Self::SlowChargePoint,
        Self::Replicas,
        Self::SlowDisk,
        Self::Growth,
        Self::Restart,
        Self::Agent,
        Self::Line,
        Self::Reconnect,
        Self::Drain,
    ];

    /// Measures it.
    ///
    /// # Errors
    /// When a part fails, or a result is wrong.
    pub async fn run(self, bench: &mut Bench) -> Result<Vec<Figure>> {
        match self {
            Self::Core => core::core(&bench.sizes),
            Self::StartAlone => start::alone(&bench.sizes).await,
            Self::StartCrowd => start::crowd(bench).await,
            Self::StartThree => start::three(bench).await,
            Self::Sessions => sessions::whole(bench).await,
            Self::Json => shapes::json(bench).await,
            Self::Paced => shapes::paced(bench).await,
            Self::Bursts => shapes::bursts(bench).await,
            Self::HotConnector => shapes::hot_connector(bench).await,
            Self::SlowChargePoint => shapes::slow_charge_point(bench).await,
            Self::Replicas => shapes::replicas(bench).await,
            Self::SlowDisk => start::slow_disk(bench).await,
            Self::Growth => growth::growth(&bench.sizes).await,
            Self::Restart => restart::restart(&bench.sizes).await,
            Self::Agent => agents::agent(&bench.sizes).await,
            Self::Line => line::line(&bench.sizes).await,
            Self::Reconnect => agents::reconnect(&bench.sizes).await,
            Self::Drain => agents::drain(&bench.sizes).await,
        }
    }
}

impl Bench {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(sizes: Sizes, profile: Option<PathBuf>) -> Self {
        Self {
            sizes,
            profile,
            one_server: None,
        }
    }
}
