//! Reading the audit, a page at a time. The stream is asked and not the state: what was appended a
//! moment ago through another server may be missing from a page, and is on the next.

use std::{collections::HashSet, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
    stream::Stream,
};
use ev_contract::{
    ids::OperatorId,
    limits::PAGE_ROWS_MAX,
    subjects::{AUDIT_NOBODY, Subject},
    time::UnixMs,
    v1::{AuditEntry, AuditReply, AuditRow},
    wire::{self, Encoding, Tag},
};
use futures::TryStreamExt;

/// Entries that a page with a filter looks at. A page of a thousand takes some milliseconds.
const LOOKED_AT_MAX: u64 = 1_000;
/// How long one page may take; the asker repeats after two seconds.
const PAGE_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to fetch what a page looks at, within [`PAGE_MAX`].
const FETCH_AGAIN: Duration = Duration::from_millis(20);
/// A reader that is not deleted, since central has ended, goes by itself after so long.
const READER_LEFT: Duration = Duration::from_secs(10);

/// Which entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// From where.
    pub from: Where,
    /// Only from this time on.
    pub since: Option<UnixMs>,
    /// Only what somebody of this name did.
    pub who: Option<OperatorId>,
    /// Only this verb.
    pub verb: Option<String>,
    /// At most so many.
    pub rows: usize,
}

/// From where, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// The last of all.
    End,
    /// The last before this one.
    Before(u64),
    /// The first after this one.
    After(u64),
}

impl Page {
    /// Whether it begins a walk.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.from == Where::End
    }

    /// What is asked for, for the audit itself.
    #[must_use]
    pub fn filter(&self) -> Option<String> {
        let who = self.who.as_ref().map(|who| format!("who {who}"));
        let verb = self.verb.as_ref().map(|verb| format!("verb {verb}"));
        let words: Vec<_> = who.into_iter().chain(verb).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    fn wants(&self, entry: &AuditEntry) -> bool {
        self.since.is_none_or(|since| entry.at >= since)
            && self
                .who
                .as_ref()
                .is_none_or(|who| entry.name.as_deref() == Some(who.as_str()))
            && self.verb.as_ref().is_none_or(|verb| entry.verb == *verb)
    }

    /// Which sequences to look at, of those that are there.
    fn window(&self, first: u64, last: u64) -> Window {
        let filtered = self.who.is_some() || self.verb.is_some();
        let most = if filtered {
            LOOKED_AT_MAX
        } else {
            u64::try_from(self.rows).unwrap_or(LOOKED_AT_MAX)
        };
        match self.from {
            Where::After(after) => {
                let from = after.saturating_add(1).max(first);
                Window {
                    from,
                    to: after.saturating_add(most).min(last).max(from - 1),
                    backwards: false,
                }
            }
            Where::End | Where::Before(_) => {
                let to = match self.from {
                    Where::Before(before) => before.saturating_sub(1).min(last),
                    Where::End | Where::After(_) => last,
                };
                Window {
                    from: (to + 1).saturating_sub(most).max(first).max(1),
                    to,
                    backwards: true,
                }
            }
        }
    }
}

/// Sequences to look at: none when `to` is below `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from: u64,
    to: u64,
    backwards: bool,
}

/// Reads a page.
///
/// # Errors
/// When the stream does not answer in time.
pub async fn read(stream: &Stream, to: &str, page: &Page) -> anyhow::Result<AuditReply> {
    tokio::time::timeout(PAGE_MAX, async {
        let state = stream
            .get_info()
            .await
            .context("asking for its extent")?
            .state;
        let there = (state.first_sequence, state.last_sequence);
        let window = page.window(there.0, there.1);
        let looked = look(stream, window).await?;
        Ok(reply(to, page, window, there, looked))
    })
    .await
    .context("reading took too long")?
}

/// What was seen of a window.
struct Looked {
    rows: Vec<AuditRow>,
    /// The last sequence of it that was there.
    upto: u64,
}

async fn look(stream: &Stream, window: Window) -> anyhow::Result<Looked> {
    let mut looked = Looked {
        rows: Vec::new(),
        upto: window.from - 1,
    };
    if window.to < window.from {
        return Ok(looked);
    }
    let reader = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: window.from,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: READER_LEFT,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await
        .context("creating a reader")?;
    let most = usize::try_from(window.to - window.from + 1).unwrap_or(usize::MAX);
    let messages = loop {
        match fetch(&reader, most).await {
            Ok(messages) => break messages,
            // Right after it was made, the reader may not be there for the server that is asked.
            Err(error) => tracing::debug!(%error, "a page of the audit is asked for again"),
        }
        tokio::time::sleep(FETCH_AGAIN).await;
    };
    let mut strange = None;
    for message in messages {
        let seq = message
            .info()
            .map_err(|e| anyhow::anyhow!("{e}"))
            .context("reading a position")?
            .stream_sequence;
        if seq > window.to {
            break;
        }
        looked.upto = seq;
        // What is no entry, or is one in another's name, was written by somebody else.
        match wire::decode::<AuditEntry>(&message.payload, Encoding::MsgPack) {
            Ok(entry) if is_where_it_belongs(&message.subject, &entry) => {
                looked.rows.push(AuditRow { seq, entry });
            }
            Ok(_) | Err(_) => strange = strange.max(Some(seq)),
        }
    }
    if let Some(seq) = strange {
        tracing::warn!(
            seq,
            "this in the audit is no entry of its subject, and is not shown"
        );
    }
    // Appended again, since an acknowledgement was lost, an entry stands there twice.
    let mut seen = HashSet::new();
    looked
        .rows
        .retain(|row| seen.insert(row.entry.entry_id.clone()));
    let name = reader.cached_info().name.clone();
    if let Err(error) = stream.delete_consumer(&name).await {
        tracing::debug!(%error, "a reader of the audit stays until it is forgotten");
    }
    Ok(looked)
}

/// What may be appended where is the server's to say; the payload is its writer's.
fn is_where_it_belongs(subject: &str, entry: &AuditEntry) -> bool {
    let name = entry.name.as_deref().unwrap_or(AUDIT_NOBODY);
    matches!(
        Subject::parse(subject),
        Some(Subject::Audit { kind, name: there }) if kind == entry.kind && there == name
    )
}

/// Does not wait for more than there is. The reader may stand on a server that lags behind the one
/// that was asked for the extent: what it has not seen is on the next page.
async fn fetch(
    reader: &Consumer<pull::Config>,
    most: usize,
) -> anyhow::Result<Vec<jetstream::Message>> {
    let messages = reader
        .fetch()
        .max_messages(most)
        .messages()
        .await
        .context("fetching")?;
    messages
        .try_collect()
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))
        .context("fetching")
}

fn reply(
    to: &str,
    page: &Page,
    window: Window,
    (first, last): (u64, u64),
    looked: Looked,
) -> AuditReply {
    let Looked { rows, mut upto } = looked;
    let mut from = window.from;
    // Clocks of several centrals differ a little: all of what was seen must be too old.
    let too_old = page
        .since
        .is_some_and(|since| !rows.is_empty() && rows.iter().all(|row| row.entry.at < since));
    let mut entries: Vec<_> = rows
        .into_iter()
        .filter(|row| page.wants(&row.entry))
        .collect();
    if entries.len() > page.rows {
        if window.backwards {
            entries.drain(..entries.len() - page.rows);
            from = entries.first().map_or(from, |row| row.seq);
        } else {
            entries.truncate(page.rows);
            upto = entries.last().map_or(upto, |row| row.seq);
        }
    }
    let more = if window.backwards {
        from > first && !too_old
    } else {
        upto < last
    };
    AuditReply {
        tag: Tag::new(),
        to: to.to_owned(),
        entries,
        first_seq: from,
        last_seq: upto,
        more,
        ts: crate::engine::wall(),
    }
}

const _: () = assert!(
    PAGE_ROWS_MAX as u64 <= LOOKED_AT_MAX,
    "a full page is looked at"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn page(from: Where, rows: usize) -> Page {
        Page {
            from,
            since: None,
            who: None,
            verb: None,
            rows,
        }
    }

    #[test]
    fn a_page_looks_at_no_more_than_it_shows_and_with_a_filter_at_a_thousand() {
        for (from, rows, filtered, there, looks_at) in [
            (Where::End, 10, false, (1, 100), (91, 100)),
            (Where::End, 10, false, (1, 5), (1, 5)),
            (Where::End, 10, false, (0, 0), (1, 0)),
            (Where::End, 10, true, (1, 5_000), (4_001, 5_000)),
            (Where::Before(50), 10, false, (1, 100), (40, 49)),
            (Where::Before(5), 10, false, (1, 100), (1, 4)),
            (Where::Before(1), 10, false, (1, 100), (1, 0)),
            (Where::Before(0), 10, false, (1, 100), (1, 0)),
            (Where::Before(u64::MAX), 10, false, (1, 100), (91, 100)),
            (Where::After(50), 10, false, (1, 100), (51, 60)),
            (Where::After(95), 10, false, (1, 100), (96, 100)),
            (Where::After(100), 10, false, (1, 100), (101, 100)),
            (Where::After(0), 10, true, (1, 5_000), (1, 1_000)),
            (Where::After(0), 10, false, (0, 0), (1, 0)),
            (
                Where::After(u64::MAX),
                10,
                false,
                (1, 100),
                (u64::MAX, u64::MAX - 1),
            ),
        ] {
            let mut page = page(from, rows);
            page.verb = filtered.then(|| "stop".to_owned());
            let window = page.window(there.0, there.1);
            assert_eq!((window.from, window.to), looks_at, "{from:?} of {there:?}");
        }
    }
    fn row(seq: u64, at: i64, name: &str, verb: &str) -> AuditRow {
        let subject = format!("ev.v1.op.{name}.{verb}");
        let mut entry = crate::audit::entry::draft(
            ev_contract::v1::AuditKind::Op,
            &async_nats::Message {
                subject: subject.into(),
                reply: None,
                payload: bytes::Bytes::new(),
                headers: None,
                status: None,
                description: None,
                length: 0,
            },
        );
        entry.at = UnixMs(at);
        AuditRow { seq, entry }
    }

    #[test]
    fn an_entry_in_anothers_name_is_none() {
        let olgas = row(1, 1, "olga", "cp_ls").entry;
        assert!(is_where_it_belongs("ev.v1.audit.op.olga", &olgas));
        for subject in [
            "ev.v1.audit.op.otto",
            "ev.v1.audit.op._",
            "ev.v1.audit.driver.olga",
            "ev.v1.audit.enrol.registrar",
            "ev.v1.audit.op.olga.more",
        ] {
            assert!(!is_where_it_belongs(subject, &olgas), "{subject}");
        }
        let mut nobodys = olgas;
        nobodys.name = None;
        assert!(is_where_it_belongs("ev.v1.audit.op._", &nobodys));
        assert!(!is_where_it_belongs("ev.v1.audit.op.olga", &nobodys));
    }

    /// A page of a stream of which a lagging server has only so much.
    fn shown(page: &Page, last: u64, has: u64) -> (Vec<u64>, u64, u64, bool) {
        let window = page.window(1, last);
        let rows: Vec<_> = (window.from..=window.to.min(has))
            .map(|seq| {
                let name = if seq % 2 == 0 { "olga" } else { "otto" };
                row(seq, i64::try_from(seq).unwrap(), name, "cp_ls")
            })
            .collect();
        let upto = rows.last().map_or(window.from - 1, |row| row.seq);
        let reply = reply("olga", page, window, (1, last), Looked { rows, upto });
        (
            reply.entries.iter().map(|row| row.seq).collect(),
            reply.first_seq,
            reply.last_seq,
            reply.more,
        )
    }

    #[test]
    fn what_a_lagging_server_has_not_seen_is_on_the_next_page() {
        let after = page(Where::After(3), 10);
        assert_eq!(shown(&after, 6, 5), (vec![4, 5], 4, 5, true));
        assert_eq!(shown(&after, 6, 3), (vec![], 4, 3, true));
        assert_eq!(shown(&after, 6, 6), (vec![4, 5, 6], 4, 6, false));
        assert_eq!(shown(&page(Where::End, 3), 6, 5), (vec![4, 5], 4, 5, true));
    }

    #[test]
    fn a_filter_shows_what_fits_and_says_from_where_to_go_on() {
        let mut back = page(Where::End, 2);
        back.who = Some("olga".parse().unwrap());
        assert_eq!(shown(&back, 9, 9), (vec![6, 8], 6, 9, true));
        back.from = Where::Before(6);
        assert_eq!(shown(&back, 9, 9), (vec![2, 4], 1, 5, false));
        let mut forth = back.clone();
        forth.from = Where::After(0);
        assert_eq!(shown(&forth, 9, 9), (vec![2, 4], 1, 4, true));
        forth.verb = Some("cp_reset".to_owned());
        assert_eq!(shown(&forth, 9, 9), (vec![], 1, 9, false));
        // Nothing older than wanted is looked for.
        let mut since = page(Where::Before(100), 5);
        since.since = Some(UnixMs(97));
        assert_eq!(shown(&since, 200, 200), (vec![97, 98, 99], 95, 99, true));
        since.from = Where::Before(95);
        assert_eq!(shown(&since, 200, 200), (vec![], 90, 94, false));
    }
}
