//! What `handle` returns. The shell commits all `rows` in one transaction first, and only then lets
//! the rest leave.

use ev_contract::{
    codes::Code,
    ids::{BootId, CommandId, Epoch, SessionId},
    time::UnixMs,
    v1::{EdgeRecord, Outcome},
};
use serde::{Deserialize, Serialize};

use crate::{
    connector::ConnectorRow,
    hardware::{HwCommand, OriginKey},
    mend::Mend,
    session::SessionRow,
    transactions::TxRow,
};

/// Where an answer goes; the shell knows what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTo(pub u64);

/// What was drawn for one input: each is used at most once.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// For a session that begins here.
    pub session_id: SessionId,
    /// For a start: positive, 31 bits.
    pub start_number: u32,
    /// For jitter.
    pub random: u64,
}

/// A change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Insert or replace.
    Session(Box<SessionRow>),
    /// Remove one that ended long ago.
    DropSession(SessionId),
    /// Insert or replace.
    Command(CommandRow),
    /// Remove one that nobody can ask for any more.
    DropCommand(CommandId),
    /// Insert or replace.
    Tx(Box<TxRow>),
    /// Remove an old one.
    DropTx(OriginKey),
    /// Insert or replace.
    Connector(Box<ConnectorRow>),
    /// Central has confirmed this start of the agent.
    Confirmed(BootId),
    /// Append to the spool.
    Append(Box<EdgeRecord>),
    /// Correct times of records that wait. Of records that are read, each sees all corrections of it,
    /// in their order.
    Mend(Mend),
    /// Remove records below this number from the spool.
    Free {
        /// The lowest number that stays.
        below: u64,
    },
}

/// The first and only result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRow {
    /// Which.
    pub command_id: CommandId,
    /// Counts commands, so that the oldest can be dropped.
    pub n: u64,
    /// Of which session, for starts and stops.
    pub session_id: Option<SessionId>,
    /// It is a stop for a session that was never seen.
    pub tombstone: bool,
    /// What was answered.
    pub outcome: Outcome,
    /// With which code.
    pub code: Option<Code>,
    /// With which word of the device.
    pub raw: Option<String>,
    /// Until when a repeat may ask.
    pub deadline: Option<UnixMs>,
}

/// An answer to a command from central.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which command; none for a ping.
    pub command_id: Option<CommandId>,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Which start of the agent answers.
    pub boot: BootId,
    /// What became of it.
    pub outcome: Outcome,
    /// Why not.
    pub code: Option<Code>,
    /// The device's word.
    pub raw: Option<String>,
}

/// An answer to somebody at the cabinet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalAnswer {
    /// A session has begun.
    Started(SessionId),
    /// A session is being stopped.
    Stopping(SessionId),
    /// It cannot be.
    Refused(Code),
}

/// Everything that follows from one input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be committed in one transaction before anything else.
    pub rows: Vec<Row>,
    /// To the hardware, in order.
    pub hardware: Vec<HwCommand>,
    /// To central.
    pub replies: Vec<(ReplyTo, Answer)>,
    /// To the cabinet.
    pub local: Vec<(ReplyTo, LocalAnswer)>,
    /// What cannot be, in words: to be logged for whoever runs this.
    pub alarms: Vec<String>,
}
