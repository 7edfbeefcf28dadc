//! The two ends of a hardware port. The agent keeps one, a hardware driver the other.

use edge_core::hardware::{HwAnswer, HwCommand, HwFact};
use tokio::sync::mpsc;

/// Commands that wait for the hardware driver. A full queue means a driver that hangs; commands
/// are repeated by the core.
const COMMANDS_MAX: usize = 256;
/// Facts that wait for the agent. A driver waits when it is full.
const EVENTS_MAX: usize = 1_024;

/// What comes from the hardware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HwEvent {
    /// A report.
    Fact(HwFact),
    /// An answer to a command.
    Answer(HwAnswer),
}

/// The agent's end.
#[derive(Debug)]
pub struct HardwarePort {
    /// To the hardware.
    pub commands: mpsc::Sender<HwCommand>,
    /// From the hardware.
    pub events: mpsc::Receiver<HwEvent>,
}

/// The driver's end.
#[derive(Debug)]
pub struct DriverPort {
    /// From the agent.
    pub commands: mpsc::Receiver<HwCommand>,
    /// To the agent.
    pub events: mpsc::Sender<HwEvent>,
}

/// A port.
#[must_use]
pub fn port() -> (HardwarePort, DriverPort) {
    let (to_driver, commands) = mpsc::channel(COMMANDS_MAX);
    let (events, from_driver) = mpsc::channel(EVENTS_MAX);
    let agent = HardwarePort {
        commands: to_driver,
        events: from_driver,
    };
    (agent, DriverPort { commands, events })
}
