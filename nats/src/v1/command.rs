//! Commands from central to a charge point. Subject `cp.<cp>.cmd.<verb>`.
//!
//! A charge point looks a command up by `command_id` first: a known one gets its first result.
//! Every final result is on its disk before it is answered.

use serde::{Deserialize, Serialize};

use super::{EndReason, Limits};
use crate::{
    codes::Code,
    connector::Service,
    ids::{BootId, CommandId, ConnectorId, CpId, DriverId, Epoch, SessionId},
    time::UnixMs,
    units::MilliAmp,
    wire::Tag,
    wire_enum,
};

/// `start`: take a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartCommand {
    /// `cmd.start`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// The start of its agent that is obeyed. Another one neither acts on this nor answers.
    pub boot: BootId,
    /// `<session>-start`
    pub command_id: CommandId,
    /// The session.
    pub session_id: SessionId,
    /// On which connector.
    pub connector: ConnectorId,
    /// For whom: where live values go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
    /// The spool epoch that the acceptance was decided on; under another one it is refused.
    pub epoch: Epoch,
    /// After this a start that is not known is refused as `late`. By central's clock.
    pub expires_at: UnixMs,
    /// When to end by itself.
    #[serde(default)]
    pub limits: Limits,
    /// How long the session stands after energy has ended while the plug is in: until the idle
    /// fee's cap. 0: not at all.
    #[serde(default)]
    pub idle_s_max: u32,
    /// How long to wait for a plug.
    pub plug_wait_s: u32,
    /// Central's time when this attempt was sent.
    pub ts: UnixMs,
}

/// `stop`: end a session. Never too late, and remembered for a session that was never seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopCommand {
    /// `cmd.stop`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// The start of its agent that is obeyed. Another one neither acts on this nor answers.
    pub boot: BootId,
    /// `<session>-stop`
    pub command_id: CommandId,
    /// The session.
    pub session_id: SessionId,
    /// Why, for the end record.
    pub reason: EndReason,
    /// Central's time when this attempt was sent.
    pub ts: UnixMs,
}

/// `set_limit`: bound the current on a connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitCommand {
    /// `cmd.set_limit`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// The start of its agent that is obeyed. Another one neither acts on this nor answers.
    pub boot: BootId,
    /// Drawn by whoever asks.
    pub command_id: CommandId,
    /// Which connector.
    pub connector: ConnectorId,
    /// The most current; 0 pauses.
    pub max_ma: MilliAmp,
    /// On so many phases; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<u8>,
    /// Until when; then `fallback_ma` applies.
    pub valid_until: UnixMs,
    /// The most current after that.
    pub fallback_ma: MilliAmp,
    /// Central's time when this attempt was sent.
    pub ts: UnixMs,
}

/// `unlock`: release the plug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockCommand {
    /// `cmd.unlock`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// The start of its agent that is obeyed. Another one neither acts on this nor answers.
    pub boot: BootId,
    /// From the operator's request.
    pub command_id: CommandId,
    /// Which connector.
    pub connector: ConnectorId,
    /// Not after this.
    pub expires_at: UnixMs,
    /// Central's time when this attempt was sent.
    pub ts: UnixMs,
}

/// `set_service`: serve drivers or not. Repeated until the charge point's records say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCommand {
    /// `cmd.set_service`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// The start of its agent that is obeyed. Another one neither acts on this nor answers.
    pub boot: BootId,
    /// One per change of mind.
    pub command_id: CommandId,
    /// Which connector.
    pub connector: ConnectorId,
    /// What it shall be. `out` while a session runs means `out_after_session`.
    pub service: Service,
    /// Counts the operator's changes: an older one is passed over.
    pub revision: u64,
    /// Central's time when this attempt was sent.
    pub ts: UnixMs,
}

/// `reset`: boot the charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetCommand {
    /// `cmd.reset`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// The start of its agent that is obeyed. Another one neither acts on this nor answers.
    pub boot: BootId,
    /// From the operator's request.
    pub command_id: CommandId,
    /// Not after this.
    pub expires_at: UnixMs,
    /// Central's time when this attempt was sent.
    pub ts: UnixMs,
}

/// `ping`: are you there? Answered `done`, stored nowhere. An agent that knows that it is not obeyed does
/// not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingCommand {
    /// `cmd.ping`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The charge point.
    pub to: CpId,
    /// Central's time.
    pub ts: UnixMs,
}

wire_enum! {
    /// What became of a command.
    pub enum Outcome {
        /// A start: the session is stored and will be carried out. Final.
        Taken = "taken",
        /// A stop: stored; the session's end will arrive as a record. Final.
        Stopping = "stopping",
        /// A stop or start for a session that has ended; its record was or will be sent. Final.
        Ended = "ended",
        /// A stop for a session that was never seen: stored, and any later start of it is refused.
        /// Final.
        Absent = "absent",
        /// Anything else: done. Final.
        Done = "done",
        /// Refused with a code. Final.
        Refused = "refused",
        /// Not now, with a code; nothing is stored, the command is to be repeated.
        NotYet = "not_yet",
    }
}

impl Outcome {
    /// Whether a repeat of the command gets the same. Otherwise nothing is stored, and the next
    /// attempt may come to something else.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::NotYet | Self::Unrecognised => false,
            Self::Taken
            | Self::Stopping
            | Self::Ended
            | Self::Absent
            | Self::Done
            | Self::Refused => true,
        }
    }
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    /// `cmd.reply`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// `central`
    pub to: String,
    /// Who answers.
    pub cp_id: CpId,
    /// The spool epoch in use.
    pub epoch: Epoch,
    /// Which start of the agent answers.
    pub boot: BootId,
    /// Which command; none for a ping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was refused or must wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The device's own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// The charge point's time.
    pub ts: UnixMs,
}
