//! Reading a run of spool records: each by itself, so that one that cannot be read does not spoil the
//! others, and where it lies, since a charge point that was offline for a day sends many.

use bytes::Bytes;
use central_core::decide::{Incoming, Run};
use ev_contract::{
    codes::{Code, Problem},
    ids::{BootId, Epoch},
    limits::{EDGE_RECORD_BYTES_MAX, EVT_BYTES_MAX, EVT_RECORDS_MAX},
    v1::EvtRequest,
    wire::{self, CENTRAL, DecodeError, Encoding, Tag},
};

use crate::border::{cp_of, encoding};

/// An [`EvtRequest`] without its records.
#[derive(serde::Deserialize)]
struct Head {
    #[serde(rename = "type")]
    _tag: Tag<EvtRequest>,
    to: String,
    epoch: Epoch,
    boot: BootId,
    first: u64,
    from: u64,
}

/// Reads a run of spool records.
///
/// # Errors
/// A sentence for the charge point, whose id comes first.
pub fn read(message: &async_nats::Message) -> Result<Run, (String, Problem)> {
    let cp = cp_of(message)?;
    let invalid = |what: &str| (cp.to_string(), Code::InvalidRequest.about(what));
    let too_large = |what: &str| (cp.to_string(), Code::TooLarge.about(what));
    if message.payload.len() > EVT_BYTES_MAX {
        return Err(too_large(&format!(
            "{} bytes, allowed are {EVT_BYTES_MAX}",
            message.payload.len()
        )));
    }
    let (head, raw) = parts(&message.payload, encoding(message)).map_err(|e| invalid(&e.0))?;
    if head.to != CENTRAL {
        return Err(invalid("it is not addressed to central"));
    }
    if raw.len() > EVT_RECORDS_MAX {
        return Err(too_large(&format!(
            "{} records, allowed are {EVT_RECORDS_MAX}",
            raw.len()
        )));
    }
    if head.from == 0 || head.first == 0 || head.first > head.from || head.from > u64::MAX / 2 {
        return Err(invalid(
            "from and first: records are numbered from 1, first is at most from",
        ));
    }
    Ok(Run {
        cp,
        epoch: head.epoch,
        boot: head.boot,
        first: head.first,
        from: head.from,
        records: raw.into_iter().map(incoming).collect(),
    })
}

/// The head, and each record in MessagePack.
fn parts(payload: &Bytes, encoding: Encoding) -> Result<(Head, Vec<Bytes>), DecodeError> {
    match encoding {
        Encoding::MsgPack => {
            let head = wire::decode(payload, encoding)?;
            let spans = wire::elements(payload, "records")?
                .ok_or_else(|| DecodeError("missing field `records`".into()))?;
            Ok((
                head,
                spans.into_iter().map(|span| payload.slice(span)).collect(),
            ))
        }
        Encoding::Json => {
            let evt: EvtRequest = wire::decode(payload, encoding)?;
            let raw: Result<Vec<Bytes>, DecodeError> = evt
                .records
                .iter()
                .map(|record| {
                    let mut bytes = Vec::new();
                    rmpv::encode::write_value(&mut bytes, record)
                        .map_err(|e| DecodeError(e.to_string()))?;
                    Ok(bytes.into())
                })
                .collect();
            let head = Head {
                _tag: Tag::new(),
                to: evt.to,
                epoch: evt.epoch,
                boot: evt.boot,
                first: evt.first,
                from: evt.from,
            };
            Ok((head, raw?))
        }
    }
}

fn incoming(raw: Bytes) -> Incoming {
    let record = if raw.len() > EDGE_RECORD_BYTES_MAX {
        Err(format!(
            "it has {} bytes, allowed are {EDGE_RECORD_BYTES_MAX}",
            raw.len()
        ))
    } else {
        wire::decode(&raw, Encoding::MsgPack).map_err(|e| e.0)
    };
    Incoming { raw, record }
}

/// What a run holds in memory until it is answered.
#[must_use]
pub fn bytes_of(run: &Run) -> usize {
    // A record has texts of its own beside what came.
    let records = run.records.iter();
    records
        .map(|record| size_of::<Incoming>() + 2 * record.raw.len())
        .sum()
}
