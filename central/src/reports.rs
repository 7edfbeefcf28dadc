//! What reports are made of, read a page at a time: receipts, adjustments, and what was seen of
//! connectors. Nothing of it is held beyond a page.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::{
    datetime::DateTime,
    jetstream::{
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::Stream,
    },
};
use bytes::Bytes;
use ev_contract::{
    ids::SiteId,
    limits::PAGE_ROWS_MAX,
    subjects::{CDR_ADJUSTMENTS, CDR_RECEIPTS, Subject},
    time::UnixMs,
    v1::{Adjustment, Receipt, ReceiptsReply, UptimeRecord, UptimeReply},
    wire::{self, Encoding, Tag},
};
use futures::StreamExt;
use tokio::sync::Semaphore;

/// Messages that a page looks at. With a filter most of them may be of other months.
const LOOKED_AT_MAX: usize = 1_000;
/// Bytes of a page's rows as they are kept. In JSON they may take twice as much, which is still less
/// than the largest reply.
const ROWS_BYTES_MAX: usize = 360 * 1024;
/// Bytes that the server sends for one page.
const FETCHED_BYTES_MAX: usize = 1024 * 1024;
/// How long one page may take; the asker repeats after two seconds.
const PAGE_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to fetch within [`PAGE_MAX`].
const FETCH_AGAIN: Duration = Duration::from_millis(20);
/// A reader that is not deleted, since central has ended, goes by itself after so long.
const READER_LEFT: Duration = Duration::from_secs(10);
/// Pages that are read at once, each of which holds what the server sends for it. Operators who make
/// reports wait for each other.
const AT_ONCE_MAX: usize = 8;

/// From where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// After this sequence.
    After(u64),
    /// With what was kept from this time on.
    KeptFrom(UnixMs),
    /// With the first that there is.
    First,
}

impl Begin {
    /// As a request says it.
    #[must_use]
    pub fn of(after: Option<u64>, kept_from: Option<UnixMs>) -> Self {
        match (after, kept_from) {
            (Some(after), _) => Self::After(after),
            (None, Some(at)) => Self::KeptFrom(at),
            (None, None) => Self::First,
        }
    }

    const fn after(self) -> u64 {
        match self {
            Self::After(after) => after,
            Self::KeptFrom(_) | Self::First => 0,
        }
    }
}

/// A page of receipts or adjustments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptsPage {
    /// Adjustments in place of receipts.
    pub adjustments: bool,
    /// From where.
    pub begin: Begin,
    /// Only sessions that are filed from here on.
    pub from: Option<UnixMs>,
    /// Only sessions that are filed before this.
    pub until: Option<UnixMs>,
    /// Only of this site.
    pub site: Option<SiteId>,
    /// At most so many.
    pub rows: usize,
}

impl ReceiptsPage {
    /// Whether a receipt is asked for.
    #[must_use]
    pub fn wants(&self, receipt: &Receipt) -> bool {
        let filed_at = receipt.filed_at();
        self.from.is_none_or(|from| filed_at >= from)
            && self.until.is_none_or(|until| filed_at < until)
            && self.site.as_ref().is_none_or(|s| receipt.site_id == *s)
    }
}

/// What the state knows when a page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Up to here the stream goes at least.
    pub least: u64,
    /// What has ended, is asked for, and is not known to be kept.
    pub not_kept: u64,
}

/// A page of what was seen of connectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UptimePage {
    /// From where.
    pub begin: Begin,
    /// At most so many.
    pub rows: usize,
}

/// The streams, and how much of them is read at once.
#[derive(Debug, Clone)]
pub struct Reports {
    cdr: Stream,
    uptime: Stream,
    at_once: Arc<Semaphore>,
}

impl Reports {
    /// Over these streams.
    #[must_use]
    pub fn new(cdr: Stream, uptime: Stream) -> Self {
        Self {
            cdr,
            uptime,
            at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }

    /// Reads a page of receipts or adjustments.
    ///
    /// # Errors
    /// When the stream does not answer in time.
    pub async fn receipts(
        &self,
        to: &str,
        page: &ReceiptsPage,
        known: Known,
    ) -> anyhow::Result<ReceiptsReply> {
        let filter = if page.adjustments {
            CDR_ADJUSTMENTS
        } else {
            CDR_RECEIPTS
        };
        let mut reply = ReceiptsReply {
            tag: Tag::new(),
            to: to.to_owned(),
            receipts: Vec::new(),
            adjustments: Vec::new(),
            last_seq: page.begin.after(),
            more: false,
            not_kept: known.not_kept,
            strange: 0,
            ts: crate::engine::wall(),
        };
        let mut room = Room::new(page.rows);
        let take = |subject: &str, bytes: &Bytes| {
            let subject = Subject::parse(subject);
            let Some(Subject::Cdr {
                session,
                adjustment,
            }) = subject
            else {
                reply.strange += 1;
                return true;
            };
            if adjustment.is_some() {
                match wire::decode::<Adjustment>(bytes, Encoding::MsgPack) {
                    Ok(row) if row.session_id == session => {
                        if !room.takes(bytes.len()) {
                            return false;
                        }
                        reply.adjustments.push(row);
                    }
                    Ok(_) | Err(_) => reply.strange += 1,
                }
            } else {
                match wire::decode::<Receipt>(bytes, Encoding::MsgPack) {
                    Ok(row) if row.session_id == session => {
                        if page.wants(&row) {
                            if !room.takes(bytes.len()) {
                                return false;
                            }
                            reply.receipts.push(row);
                        }
                    }
                    Ok(_) | Err(_) => reply.strange += 1,
                }
            }
            true
        };
        let (last, more) = self.walk(&self.cdr, page.begin, filter, take).await?;
        reply.last_seq = reply.last_seq.max(last);
        // The reader may stand on a server that lags behind the one that took what is known to be
        // kept.
        reply.more = more || reply.last_seq < known.least;
        if reply.strange > 0 {
            tracing::error!(
                strange = reply.strange,
                upto = reply.last_seq,
                "the CDR stream holds what is no receipt or adjustment of its subject"
            );
        }
        Ok(reply)
    }

    /// Reads a page of what was seen of connectors.
    ///
    /// # Errors
    /// When the stream does not answer in time.
    pub async fn uptime(&self, to: &str, page: &UptimePage) -> anyhow::Result<UptimeReply> {
        let mut records = Vec::new();
        let mut room = Room::new(page.rows);
        let take = |subject: &str, bytes: &Bytes| {
            let record = wire::decode::<UptimeRecord>(bytes, Encoding::MsgPack);
            // What is no record, or is one in another's name, was written by somebody else.
            if let (Ok(record), Some(Subject::Uptime { replica })) =
                (record, Subject::parse(subject))
                && record.replica == replica
            {
                if !room.takes(bytes.len()) {
                    return false;
                }
                records.push(record);
            } else {
                tracing::warn!(subject, "this is no record of uptime, and is not shown");
            }
            true
        };
        let filter = ev_contract::subjects::UPTIME_ALL;
        let (last, more) = self.walk(&self.uptime, page.begin, filter, take).await?;
        Ok(UptimeReply {
            tag: Tag::new(),
            to: to.to_owned(),
            records,
            last_seq: last.max(page.begin.after()),
            more,
            ts: crate::engine::wall(),
        })
    }

    /// Shows messages to `take` until that has no room, as far as one page goes: the last that was
    /// taken, and whether there are more.
    async fn walk(
        &self,
        stream: &Stream,
        begin: Begin,
        filter: &str,
        take: impl FnMut(&str, &Bytes) -> bool + Send,
    ) -> anyhow::Result<(u64, bool)> {
        tokio::time::timeout(PAGE_MAX, async {
            let _one = self.at_once.acquire().await.context("central ends")?;
            walk(stream, begin, filter, take).await
        })
        .await
        .context("reading took too long")?
    }
}

/// How much of a page is left.
struct Room {
    rows: usize,
    bytes: usize,
}

impl Room {
    fn new(rows: usize) -> Self {
        Self {
            rows: rows.clamp(1, PAGE_ROWS_MAX),
            bytes: ROWS_BYTES_MAX,
        }
    }

    /// The first row always fits: the streams take none that is larger.
    fn takes(&mut self, bytes: usize) -> bool {
        if self.rows == 0 || bytes > self.bytes {
            return false;
        }
        self.rows -= 1;
        self.bytes -= bytes;
        true
    }
}

async fn walk(
    stream: &Stream,
    begin: Begin,
    filter: &str,
    mut take: impl FnMut(&str, &Bytes) -> bool + Send,
) -> anyhow::Result<(u64, bool)> {
    let deliver_policy = match begin {
        Begin::First => DeliverPolicy::All,
        Begin::After(after) => DeliverPolicy::ByStartSequence {
            start_sequence: after.saturating_add(1),
        },
        Begin::KeptFrom(at) => DeliverPolicy::ByStartTime {
            start_time: DateTime::from_unix_timestamp(at.0.div_euclid(1_000))
                .context("a time that the server knows")?,
        },
    };
    let reader = stream
        .create_consumer(pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: filter.to_owned(),
            inactive_threshold: READER_LEFT,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await
        .context("creating a reader")?;
    let info = reader.cached_info();
    let (name, there) = (info.name.clone(), info.num_pending);
    let mut walked = (0, there > 0);
    let mut seen = false;
    while there > 0 && !seen {
        let fetched = reader
            .fetch()
            .max_messages(LOOKED_AT_MAX)
            .max_bytes(FETCHED_BYTES_MAX)
            .messages()
            .await
            .context("fetching")?;
        let mut messages = std::pin::pin!(fetched);
        while let Some(message) = messages.next().await {
            // A page that is full of bytes ends with an error of the server's, and what was sent is
            // good. Right after it was made, the reader may not be there for the server that is asked.
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    tracing::debug!(%error, "a page ends here");
                    break;
                }
            };
            seen = true;
            let info = message
                .info()
                .map_err(|e| anyhow::anyhow!("{e}"))
                .context("reading a position")?;
            let (seq, left) = (info.stream_sequence, info.pending);
            if !take(&message.subject, &message.payload) {
                walked.1 = true;
                break;
            }
            walked = (seq, left > 0);
        }
        if !seen {
            tokio::time::sleep(FETCH_AGAIN).await;
        }
    }
    if let Err(error) = stream.delete_consumer(&name).await {
        tracing::debug!(%error, "a reader stays until it is forgotten");
    }
    Ok(walked)
}

/// For tests that read none.
#[cfg(test)]
pub(crate) fn reports_of(stream: &Stream) -> Reports {
    Reports::new(stream.clone(), stream.clone())
}
