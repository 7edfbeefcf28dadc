//! The audit: who did what, when, and what came of it. Entries are appended to a stream that the
//! server lets nobody shorten.
//!
//! - [`entry`]: what an entry says; of what is done to credentials, see [`ev_enrol::audit`]
//! - [`pages`]: reading it
//!
//! An operator's answer leaves when its entry is on disk. Refusals because of who asks are written
//! down beside the answer, and only so many of them: no flood fills the stream.

pub mod entry;
pub mod pages;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::{self, stream::Stream};
use bytes::Bytes;
use ev_contract::{
    codes::Code,
    ids::{OperatorId, ReplicaId},
    streams,
    subjects::{AUDIT_NOBODY, Subject},
    v1::{AuditEntry, AuditKind, AuditOutcome},
    wire::{self, EncodeError, Encoding},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle};

use self::{
    entry::{Ending, Told, ended},
    pages::Page,
};
use crate::{
    admission::{Gate, Refusal},
    border::ReplyTo,
    engine,
    held::{Held, QUESTION_BYTES, Share},
    ledger,
    metrics::Metrics,
    out::Out,
    reports::{Begin, Known, ReceiptsPage, Reports, UptimePage},
};

/// How long an append may take. As long as a client waits before it repeats itself; an election of
/// a stream leader can take longer, and the repeat then finds the new one.
const APPEND_MAX: Duration = Duration::from_secs(2);
/// Between two attempts of one append.
const APPEND_AGAIN: Duration = Duration::from_millis(100);
/// Answers of operators that wait for their entries, as many as one operator may ask at once; of
/// at most [`ANSWERS_BYTES_MAX`] together. Beyond is told that the outcome is not known.
const ANSWERS_MAX: usize = 2_048;
/// Twenty of the largest replies, or all of usual size.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Refusals that wait to be written down. Most of a flood ends at the rates below, which takes no
/// time; those beyond are dropped and counted.
const REFUSALS_MAX: usize = 1_024;
/// Appends and pages that are under way at once: more than a server writes in the time that a client
/// waits would only wait there.
const UNDER_WAY_MAX: usize = 256;
/// Of those, refusals: half, so that operators never wait for them alone.
const REFUSALS_UNDER_WAY_MAX: usize = UNDER_WAY_MAX / 2;
/// Refusals that are written down of one who is refused: at once, and then one in so long. A person
/// who mistypes never meets it, and a machine that tries everything is seen as well by thirty.
const REFUSALS_OF_ONE: (Duration, u32) = (Duration::from_secs(10), 30);
/// Refusals that are written down of all together. With entries of 400 bytes that is 170 MB a day
/// at the worst.
const REFUSALS_OF_ALL: (Duration, u32) = (Duration::from_millis(200), 500);
/// A stream that holds so much takes no more refusals: the rest of it is for operators and
/// enrolment.
const REFUSALS_UP_TO_BYTES: u64 = streams::AUDIT.bytes_max.unsigned_abs() / 2;
/// How often the size of the stream is looked at, while something is written.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often an operator's walk through the audit is written down beyond its first page. Whoever
/// follows it asks every few seconds, and would else read of nothing but that.
const READS_OF_ONE: (Duration, u32) = (Duration::from_secs(60), 1);

/// Creates the stream, or checks the one that is there.
///
/// # Errors
/// When it cannot be created, or is one that can be shortened.
pub async fn ensure(js: &jetstream::Context, replicas: usize) -> anyhow::Result<Stream> {
    ledger::ensure(js, &streams::AUDIT, replicas).await
}

/// Appends an entry; its sequence, when it is on disk.
///
/// # Errors
/// When that is not known to be so. The entry may be there all the same.
pub async fn append(js: &jetstream::Context, entry: &AuditEntry) -> anyhow::Result<u64> {
    let subject = Subject::Audit {
        kind: entry.kind,
        name: entry.name.clone().unwrap_or_else(|| AUDIT_NOBODY.into()),
    }
    .to_string();
    let bytes: Bytes = wire::encode(entry, Encoding::MsgPack)
        .context("writing an audit entry")?
        .into();
    let mut last = None;
    let attempts = async {
        loop {
            let attempt = async {
                js.publish(subject.clone(), bytes.clone())
                    .await
                    .context("sending an audit entry")?
                    .await
                    .context("acknowledging an audit entry")
            };
            match attempt.await {
                Ok(ack) => return ack.sequence,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(APPEND_AGAIN).await;
        }
    };
    match tokio::time::timeout(APPEND_MAX, attempts).await {
        Ok(sequence) => Ok(sequence),
        Err(_) => Err(last.unwrap_or_else(|| {
            anyhow::anyhow!(
                "no acknowledgement of an audit entry within {} s",
                APPEND_MAX.as_secs()
            )
        })),
    }
}

/// An answer, ready to be sent.
struct Answer {
    reply: ReplyTo,
    bytes: Bytes,
}

/// What the task is to do.
enum Job {
    /// Write an entry, then send the answer.
    Entry(Box<AuditEntry>, Option<Answer>, Held),
    /// Read a page, write that down, then answer.
    Page(Box<AuditEntry>, ReplyTo, OperatorId, Reading, Held),
}

/// A page of what operators read in a stream and not in the state.
#[derive(Debug)]
pub enum Reading {
    /// The audit itself.
    Audit(Page),
    /// Receipts or adjustments.
    Receipts(ReceiptsPage, Known),
    /// What was seen of connectors.
    Uptime(UptimePage),
}

impl Reading {
    /// Whether it begins a walk.
    fn is_first(&self) -> bool {
        match self {
            Self::Audit(page) => page.is_first(),
            Self::Receipts(ReceiptsPage { begin, .. }, _)
            | Self::Uptime(UptimePage { begin, .. }) => !matches!(begin, Begin::After(_)),
        }
    }

    const fn verb(&self) -> &'static str {
        match self {
            Self::Audit(_) => "audit",
            Self::Receipts(..) => "receipt_ls",
            Self::Uptime(_) => "uptime",
        }
    }

    /// Reads it: what it tells, and its bytes.
    async fn read(
        &self,
        stream: &Stream,
        reports: &Reports,
        to: &str,
        encoding: Encoding,
    ) -> anyhow::Result<(Ending, Result<Vec<u8>, EncodeError>)> {
        fn done<T: Serialize + Told>(
            message: &T,
            encoding: Encoding,
        ) -> (Ending, Result<Vec<u8>, EncodeError>) {
            (message.told(), wire::encode(message, encoding))
        }
        Ok(match self {
            Self::Audit(page) => done(&pages::read(stream, to, page).await?, encoding),
            Self::Receipts(page, known) => {
                done(&reports.receipts(to, page, *known).await?, encoding)
            }
            Self::Uptime(page) => done(&reports.uptime(to, page).await?, encoding),
        })
    }
}

/// Where entries are put.
#[derive(Debug, Clone)]
pub struct Audit {
    jobs: mpsc::Sender<Job>,
    refusals: mpsc::Sender<Box<AuditEntry>>,
    share: Share,
    replica: ReplicaId,
    out: Out,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("job")
    }
}

impl Audit {
    /// Starts the task that appends; it ends, with everything written, when the last `Audit` is
    /// dropped.
    #[must_use]
    pub fn start(
        js: jetstream::Context,
        stream: Stream,
        reports: Reports,
        replica: ReplicaId,
        out: Out,
        metrics: Arc<Metrics>,
    ) -> (Self, JoinHandle<()>) {
        let (jobs, jobs_in) = mpsc::channel(ANSWERS_MAX);
        let (refusals, refusals_in) = mpsc::channel(REFUSALS_MAX);
        let writer = Writer {
            js,
            stream,
            reports,
            replica: replica.clone(),
            out: out.clone(),
            metrics: Arc::clone(&metrics),
            of_one: Gate::every(REFUSALS_OF_ONE.0, REFUSALS_OF_ONE.1),
            of_all: Gate::every(REFUSALS_OF_ALL.0, REFUSALS_OF_ALL.1),
            reads: Gate::every(READS_OF_ONE.0, READS_OF_ONE.1),
            dropped: BTreeMap::new(),
            bytes: 0,
            looked: None,
        };
        let audit = Self {
            jobs,
            refusals,
            share: Share::new(ANSWERS_BYTES_MAX),
            replica,
            out,
            metrics,
        };
        (audit, tokio::spawn(writer.run(jobs_in, refusals_in)))
    }

    /// Tells an operator something, once the entry about it is on disk. `draft` says who asked for
    /// what. Without a reply subject only the entry is written: the asker was told before that the
    /// outcome is not known.
    pub fn answer<T: Serialize + Told>(
        &self,
        draft: &AuditEntry,
        reply: Option<&ReplyTo>,
        message: &T,
    ) {
        let entry = ended(draft, &self.replica, message.told());
        let answer = reply.and_then(|reply| match wire::encode(message, reply.encoding) {
            Ok(bytes) => Some(Answer {
                reply: reply.clone(),
                bytes: bytes.into(),
            }),
            Err(error) => {
                tracing::error!(%error, verb = draft.verb, "answer cannot be encoded");
                None
            }
        });
        let bytes = QUESTION_BYTES + answer.as_ref().map_or(0, |a| a.bytes.len());
        let taken = self.share.hold(bytes).is_some_and(|held| {
            self.jobs
                .try_send(Job::Entry(Box::new(entry), answer, held))
                .is_ok()
        });
        if !taken {
            self.metrics.audited(draft.kind, "dropped");
            if let Some(reply) = reply {
                tell_unrecorded(&self.out, draft, reply);
            }
        }
    }

    /// Answers an operator's question for a page of a stream.
    pub fn page(&self, draft: AuditEntry, reply: &ReplyTo, operator: OperatorId, page: Reading) {
        let taken = self.share.hold(QUESTION_BYTES).is_some_and(|held| {
            self.jobs
                .try_send(Job::Page(
                    Box::new(draft.clone()),
                    reply.clone(),
                    operator,
                    page,
                    held,
                ))
                .is_ok()
        });
        if !taken {
            self.metrics.audited(draft.kind, "dropped");
            tell_unrecorded(&self.out, &draft, reply);
        }
    }

    /// Writes down that somebody was refused because of who they are. Nobody waits for it.
    pub fn refused(&self, draft: &AuditEntry, code: Option<Code>, detail: &str) {
        let outcome = if code.is_some_and(Code::undecided) {
            AuditOutcome::Unknown
        } else {
            AuditOutcome::Denied
        };
        let mut entry = ended(draft, &self.replica, Ending::new(outcome, code));
        entry.detail = Some(detail.to_owned());
        if self.refusals.try_send(Box::new(entry)).is_err() {
            self.metrics.audited(draft.kind, "dropped");
        }
    }
}

/// What an asker is told whose answer must not leave, since nothing says that it was given.
fn tell_unrecorded(out: &Out, draft: &AuditEntry, reply: &ReplyTo) {
    let what = draft.request_id.as_ref().unwrap_or(&draft.verb);
    let to = draft.name.clone().unwrap_or_default();
    let problem = Code::OutcomeUnknown.about(what);
    let message = engine::error_reply(to, draft.request_id.clone(), problem);
    out.send(reply.subject.clone(), &message, reply.encoding);
}

/// What became of something under way.
enum Done {
    Written(AuditKind),
    Failed(AuditKind),
    /// A page was answered without an entry of its own.
    Answered,
    /// So large is the stream, where it could be asked.
    Size(Option<u64>),
}

type UnderWay = FuturesUnordered<BoxFuture<'static, Done>>;

/// The task that owns what limits the entries.
struct Writer {
    js: jetstream::Context,
    stream: Stream,
    reports: Reports,
    replica: ReplicaId,
    out: Out,
    metrics: Arc<Metrics>,
    of_one: Gate,
    of_all: Gate,
    reads: Gate,
    /// Since the last look, for the log.
    dropped: BTreeMap<&'static str, u64>,
    bytes: u64,
    looked: Option<Instant>,
}

impl Writer {
    async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut refusals: mpsc::Receiver<Box<AuditEntry>>,
    ) {
        let mut under_way = UnderWay::new();
        loop {
            let room = under_way.len() < UNDER_WAY_MAX;
            tokio::select! {
                biased;
                Some(done) = under_way.next(), if !under_way.is_empty() => self.done(&done),
                Some(job) = jobs.recv(), if room => {
                    self.look(&under_way);
                    under_way.push(self.work(job));
                }
                Some(entry) = refusals.recv(), if under_way.len() < REFUSALS_UNDER_WAY_MAX => {
                    self.look(&under_way);
                    if let Some(why) = self.why_not(&entry) {
                        self.metrics.audited(entry.kind, "dropped");
                        *self.dropped.entry(why).or_default() += 1;
                    } else {
                        under_way.push(self.write(entry, None));
                    }
                }
                else => return,
            }
        }
    }

    fn done(&mut self, done: &Done) {
        match done {
            Done::Written(kind) => self.metrics.audited(*kind, "written"),
            Done::Failed(kind) => self.metrics.audited(*kind, "failed"),
            Done::Answered | Done::Size(None) => {}
            Done::Size(Some(bytes)) => {
                self.bytes = *bytes;
                self.metrics.audit_bytes(*bytes);
                if *bytes >= REFUSALS_UP_TO_BYTES {
                    tracing::warn!(
                        bytes,
                        "the audit is half full: refusals are no longer written down"
                    );
                }
            }
        }
    }

    /// Looks at the size of the stream from time to time.
    fn look(&mut self, under_way: &UnderWay) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        for (why, count) in std::mem::take(&mut self.dropped) {
            tracing::warn!(why, count, "refusals were not written down");
        }
        let stream = self.stream.clone();
        under_way.push(Box::pin(async move {
            let info = tokio::time::timeout(APPEND_MAX, stream.get_info()).await;
            Done::Size(info.ok().and_then(Result::ok).map(|i| i.state.bytes))
        }));
    }

    /// Why a refusal is not written down.
    fn why_not(&mut self, entry: &AuditEntry) -> Option<&'static str> {
        if self.bytes >= REFUSALS_UP_TO_BYTES {
            return Some("half_full");
        }
        let now = Instant::now();
        let who = (entry.kind, &entry.name);
        if self.of_one.admit(&who, 1, now).is_err() {
            return Some("of_one");
        }
        self.of_all.admit(&(), 1, now).err().map(|_| "of_all")
    }

    fn work(&mut self, job: Job) -> BoxFuture<'static, Done> {
        match job {
            Job::Entry(entry, answer, held) => self.write(entry, answer.map(|a| (a, held))),
            Job::Page(draft, reply, operator, page, held) => {
                // A stranger for whom there is no room is written down.
                let due = page.is_first()
                    || !matches!(
                        self.reads
                            .admit(&(&operator, &draft.credential), 1, Instant::now()),
                        Err(Refusal::TooMany(_))
                    );
                let (stream, js, out) = (self.stream.clone(), self.js.clone(), self.out.clone());
                let reports = self.reports.clone();
                let (metrics, replica) = (Arc::clone(&self.metrics), self.replica.clone());
                Box::pin(async move {
                    let to = operator.as_str();
                    let read = page.read(&stream, &reports, to, reply.encoding).await;
                    let was_read = read.is_ok();
                    let (told, bytes) = match read {
                        Ok(read) => read,
                        Err(error) => {
                            let what = match &page {
                                Reading::Audit(_) => "the audit cannot be read",
                                Reading::Receipts(..) => "the receipts cannot be read",
                                Reading::Uptime(_) => "uptime cannot be read",
                            };
                            tracing::warn!(error = %format!("{error:#}"), "{what}");
                            let problem = Code::NotReady.about(what);
                            let message = engine::error_reply(operator.to_string(), None, problem);
                            (message.told(), wire::encode(&message, reply.encoding))
                        }
                    };
                    metrics.answered(
                        page.verb(),
                        if was_read { "accepted" } else { "error" },
                        told.code.map_or("", Code::as_str),
                    );
                    let Ok(bytes) = bytes else {
                        return Done::Failed(draft.kind);
                    };
                    let answer = Answer {
                        reply,
                        bytes: bytes.into(),
                    };
                    if due {
                        let entry = ended(&draft, &replica, told);
                        write(js, out, entry, Some((answer, held))).await
                    } else {
                        out.send_bytes(answer.reply.subject, answer.bytes, answer.reply.encoding);
                        Done::Answered
                    }
                })
            }
        }
    }

    fn write(
        &self,
        entry: Box<AuditEntry>,
        answer: Option<(Answer, Held)>,
    ) -> BoxFuture<'static, Done> {
        Box::pin(write(self.js.clone(), self.out.clone(), *entry, answer))
    }
}

/// Appends an entry, then sends the answer: the one that was meant if the entry is on disk.
async fn write(
    js: jetstream::Context,
    out: Out,
    entry: AuditEntry,
    answer: Option<(Answer, Held)>,
) -> Done {
    match append(&js, &entry).await {
        Ok(_) => {
            if let Some((answer, _held)) = answer {
                out.send_bytes(answer.reply.subject, answer.bytes, answer.reply.encoding);
            }
            Done::Written(entry.kind)
        }
        Err(error) => {
            tracing::warn!(
                error = %format!("{error:#}"), kind = %entry.kind, verb = entry.verb,
                "not written into the audit"
            );
            if let Some((answer, _held)) = answer {
                tell_unrecorded(&out, &entry, &answer.reply);
            }
            Done::Failed(entry.kind)
        }
    }
}
