//! How decisions are written to the ledger: records, packed into frames.
//!
//! A frame on the wire is [`MAGIC`] and a MessagePack map. Bytes without the magic are nobody's
//! frame: every replica passes over them alike. Bytes with it that this build cannot read come from
//! a newer build: this one must stop serving. A field that it does not know counts as such, since it
//! would lose it when it writes the key again.

use std::collections::BTreeMap;

use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, Epoch, ReplicaId, RequestId, SessionId},
    time::UnixMs,
    v1::{Tariff, TariffScope},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    keys::{Asker, EventId, Key},
    model::{
        Adjustments, ChargePoint, Connector, Driver, Enrolment, Horizon, Request, Session, Spool,
    },
};

/// What a frame begins with; the digit is the version of the format.
pub const MAGIC: &[u8; 4] = b"EVF1";
/// Most records in a frame. With 500 a frame costs an append half as much again as with one; more
/// than 1,000 delay the first of them for the last.
pub const RECORDS_MAX: usize = 1_000;
/// Largest frame in bytes: half of what the server takes.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

/// A digest of everything that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Digest(#[serde(with = "serde_bytes")] pub [u8; 16]);

/// What an appender had applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Basis {
    /// The stream sequence.
    pub seq: u64,
    /// The digest there.
    pub digest: Digest,
}

/// One append: what waited, decided on one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// Its own id, also when empty: a copy is never taken for another frame.
    pub id: Uuid,
    /// Who appended it.
    pub by: ReplicaId,
    /// What the appender had applied.
    pub basis: Basis,
    /// The appender's wall time. No rule rests on it.
    pub at: UnixMs,
    /// In order; a later one may build on an earlier one.
    pub records: Vec<Record>,
}

/// What kind of decision a record is. The rule of validity does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request was refused.
    Refused,
    /// A session was accepted.
    Started,
    /// A stop was accepted.
    Stopping,
    /// An operator changed something.
    Operated,
    /// A charge point presented itself otherwise than before.
    Synced,
    /// Spool records were taken in.
    Intake,
    /// A charge point's answer to a command ended something.
    CommandAnswered,
    /// A stopped session out of reach no longer counts.
    Released,
    /// Old requests and sessions left the state.
    Forget,
    /// Charge points were enrolled or revoked.
    Enrolled,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its id; becomes the version of what it writes.
    pub id: EventId,
    /// What kind of decision.
    pub kind: Kind,
    /// Every key that was read or is written, with the version that was seen.
    pub expects: BTreeMap<Key, Option<EventId>>,
    /// The new state of what is written.
    pub writes: Vec<Write>,
    /// What could not be used, verbatim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

/// Something that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Where it came from.
    pub cp: CpId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// At which number.
    pub seq: u64,
    /// Why it could not be used.
    pub why: String,
    /// The record as it came.
    #[serde(with = "serde_bytes")]
    pub raw: Vec<u8>,
}

/// The new state of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// See [`Key::Connector`].
    #[serde(rename = "c")]
    Connector(CpId, ConnectorId, Connector),
    /// See [`Key::Session`].
    #[serde(rename = "s")]
    Session(Box<Session>),
    /// See [`Key::Adjustments`].
    #[serde(rename = "a")]
    Adjustments(SessionId, Adjustments),
    /// See [`Key::Driver`].
    #[serde(rename = "d")]
    Driver(DriverId, Driver),
    /// See [`Key::Request`].
    #[serde(rename = "r")]
    Request(Asker, RequestId, Request),
    /// See [`Key::ChargePoint`].
    #[serde(rename = "p")]
    ChargePoint(CpId, ChargePoint),
    /// See [`Key::Spool`].
    #[serde(rename = "e")]
    Spool(CpId, Epoch, Spool),
    /// See [`Key::Tariff`].
    #[serde(rename = "t")]
    Tariff(Tariff),
    /// See [`Key::TariffScope`].
    #[serde(rename = "x")]
    TariffScope(TariffScope, Tariff),
    /// See [`Key::Enrolment`].
    #[serde(rename = "n")]
    Enrolment(CpId, Enrolment),
    /// Writes [`Key::Horizon`] and removes what it names.
    #[serde(rename = "f")]
    Forget(Forget),
}

/// What leaves the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// The new horizon: refusals that expired at or before it go.
    pub horizon: Horizon,
    /// Other requests that expired at or before this go, unless their session is open. At most
    /// the horizon.
    pub others_until: UnixMs,
    /// Nothing goes that was written after this sequence, which is at most the frame's basis.
    pub before: u64,
    /// Ended sessions whose receipts are in the CDR stream.
    pub sessions: Vec<SessionId>,
}

impl Write {
    /// Which key it writes.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Connector(cp, connector, _) => Key::Connector(cp.clone(), *connector),
            Self::Session(session) => Key::Session(session.id),
            Self::Adjustments(session, _) => Key::Adjustments(*session),
            Self::Driver(driver, _) => Key::Driver(driver.clone()),
            Self::Request(asker, request, _) => Key::Request(asker.clone(), request.clone()),
            Self::ChargePoint(cp, _) => Key::ChargePoint(cp.clone()),
            Self::Spool(cp, epoch, _) => Key::Spool(cp.clone(), epoch.clone()),
            Self::Tariff(tariff) => Key::Tariff(tariff.tariff_id.clone()),
            Self::TariffScope(scope, _) => Key::TariffScope(scope.clone()),
            Self::Enrolment(cp, _) => Key::Enrolment(cp.clone()),
            Self::Forget(_) => Key::Horizon,
        }
    }
}

/// What ledger bytes turned out to be.
#[derive(Debug)]
pub enum Decoded {
    /// A frame.
    Frame(Box<Frame>),
    /// Not a frame: passed over by every replica.
    Junk,
}

/// A frame that this build cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger holds a frame that this build cannot read: {0}")]
pub struct UnreadableFrame(pub String);

impl Frame {
    /// The bytes for the ledger.
    ///
    /// # Errors
    /// Only for a defect of this program.
    pub fn encode(&self) -> Result<Vec<u8>, UnreadableFrame> {
        let mut bytes = MAGIC.to_vec();
        rmp_serde::encode::write_named(&mut bytes, self)
            .map_err(|e| UnreadableFrame(e.to_string()))?;
        Ok(bytes)
    }

    /// Reads ledger bytes.
    ///
    /// # Errors
    /// [`UnreadableFrame`] for bytes of a newer build.
    pub fn decode(bytes: &[u8]) -> Result<Decoded, UnreadableFrame> {
        if !bytes.starts_with(&MAGIC[..3]) {
            return Ok(Decoded::Junk);
        }
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(UnreadableFrame("its format is newer".into()));
        };
        rmp_serde::from_slice(rest)
            .map(|frame| Decoded::Frame(Box::new(frame)))
            .map_err(|e| UnreadableFrame(e.to_string()))
    }
}

impl Record {
    /// How many bytes it takes in a frame, a little overstated by what a frame itself takes.
    ///
    /// # Errors
    /// Only for a defect of this program.
    pub fn encoded_len(&self) -> Result<usize, UnreadableFrame> {
        rmp_serde::to_vec_named(self)
            .map(|bytes| bytes.len())
            .map_err(|e| UnreadableFrame(e.to_string()))
    }
}
