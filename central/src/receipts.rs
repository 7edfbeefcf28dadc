//! Bringing receipts and adjustments to the CDR stream: each once, checked when it is there.

use std::time::Duration;

use async_nats::jetstream::{self, message::PublishMessage, stream::Stream};
use bytes::Bytes;
use ev_contract::{ids::SessionId, subjects::Subject};

/// One entry of the CDR stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CdrId {
    /// Which session.
    pub session: SessionId,
    /// Which adjustment; none for the receipt.
    pub adjustment: Option<u32>,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It is there, written now.
    Written,
    /// It was there, the same.
    There,
    /// Something else is there: somebody must look.
    Conflict,
    /// It could not be written or compared; to be tried again.
    Failed,
}

impl Copied {
    /// For metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::There => "there",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
        }
    }
}

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// Writes an entry if its subject is empty, else compares. Where it stands, if it is there.
pub async fn copy(js: &jetstream::Context, cdr: &Stream, id: CdrId, bytes: Bytes) -> (Copied, u64) {
    let subject = Subject::Cdr {
        session: id.session,
        adjustment: id.adjustment,
    }
    .to_string();
    let attempt = async {
        let message = PublishMessage::build()
            .payload(bytes.clone())
            .expected_last_subject_sequence(0);
        ev_crash::reach("receipt", "one");
        let error = match js.send_publish(subject.clone(), message).await {
            Ok(ack) => match ack.await {
                Ok(ack) => {
                    ev_crash::reach("receipt-copied", "one");
                    return (Copied::Written, ack.sequence);
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        // Taken already (10071, 10164), full, or no answer: look what is there.
        match cdr.get_last_raw_message_by_subject(&subject).await {
            Ok(there) if there.payload == bytes => (Copied::There, there.sequence),
            Ok(_) => {
                tracing::error!(
                    subject,
                    "the CDR stream holds another receipt than the ledger"
                );
                (Copied::Conflict, 0)
            }
            Err(_) => {
                tracing::warn!(subject, %error, "receipt not written; trying again");
                (Copied::Failed, 0)
            }
        }
    };
    tokio::time::timeout(ATTEMPT_MAX, attempt)
        .await
        .unwrap_or((Copied::Failed, 0))
}
