//! Whether this replica answers, and why not.

use std::time::{Duration, Instant};

/// How far this replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The ledger cannot be read yet; why, in words.
    Waiting(String),
    /// Reading the ledger.
    Replaying {
        /// What is applied.
        applied: u64,
        /// Where it ended when this replica began.
        target: u64,
    },
    /// Appending the first frame, to be sure that nothing is missing.
    Barrier,
    /// Answers.
    Serving,
    /// The ledger is not what it was; why, in words.
    Alarmed(String),
    /// Shutting down.
    Draining,
}

/// What the HTTP side knows of the engine.
#[derive(Debug, Clone)]
pub struct Health {
    /// How far it is.
    pub stage: Stage,
    /// Whether nats-server is connected.
    pub connected: bool,
    /// When the engine last turned.
    pub turned_at: Instant,
    /// Since when a frame has been under way, if one is.
    pub frame_since: Option<Instant>,
    /// What is wrong with this host's clock, in words.
    pub clock_off: Option<String>,
    /// The server's words when it has no room for the frame that is under way.
    pub full: Option<String>,
}

impl Health {
    /// A frame that is under way for so long means that the ledger cannot be written.
    const FRAME_MAX: Duration = Duration::from_secs(5);

    /// Without a sign of life from the engine for so long, the process is not healthy. The engine
    /// turns at least every tenth of a second; ten seconds are no hiccup.
    const ALIVE_WITHIN: Duration = Duration::from_secs(10);

    /// At the beginning.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            stage: Stage::Waiting("not connected to nats-server".into()),
            connected: false,
            turned_at: Instant::now(),
            frame_since: None,
            clock_off: None,
            full: None,
        }
    }

    /// Whether the engine makes progress.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.turned_at.elapsed() < Self::ALIVE_WITHIN
    }

    /// Whether this replica takes questions.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.stage == Stage::Serving && self.clock_off.is_none()
    }

    /// Why this replica does not answer; none when it does.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        match &self.stage {
            Stage::Barrier | Stage::Serving if self.clock_off.is_some() => self.clock_off.clone(),
            Stage::Replaying { applied, target } => {
                Some(format!("reading the ledger: {applied} of {target}"))
            }
            Stage::Waiting(why) => Some(why.clone()),
            Stage::Barrier | Stage::Serving if self.connected && self.full.is_some() => self
                .full
                .as_ref()
                .map(|said| format!("the ledger is full: the server says: {said}")),
            Stage::Barrier => Some("waiting for the first frame to be applied".into()),
            Stage::Alarmed(why) => Some(format!("stopped answering: {why}")),
            Stage::Draining => Some("shutting down".into()),
            Stage::Serving if !self.connected => Some("not connected to nats-server".into()),
            Stage::Serving => self
                .frame_since
                .map(|since| since.elapsed())
                .filter(|age| *age > Self::FRAME_MAX)
                .map(|age| format!("the ledger has not taken a frame for {} s", age.as_secs())),
        }
    }
}
