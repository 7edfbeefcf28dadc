//! The connection to NATS, and asking central over it.
//!
//! What it minds about NATS: a request that is made while disconnected is delivered later, so
//! nothing is sent while disconnected; "no responders" is a definite answer to one attempt, and
//! only when every attempt got it was nothing delivered; a permission denied is silent for the
//! asker and only seen as an event; a first connection is not retried by the library.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_nats::{ConnectErrorKind, StatusCode, Subscriber, connection::State};
use ev_client::{Access, Denied, LinkEvent, Operation, Pauses};
use ev_contract::{
    codes::{Code, Problem},
    limits::REQUEST_BYTES_MAX,
    time::UnixMs,
    v1::{
        AuditReply, CpLsReply, DriverUpdate, ErrorReply, EventsReply, HistoryReply, ListReply,
        OpReply, ReceiptReply, ReceiptsReply, SessionLsReply, Status, StatusReply, TariffLsReply,
        UpdateType, UptimeReply,
    },
    wire::{self, CONTENT_TYPE, Encoding, Message},
};
use futures::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    failure::{About, Failure, Refusal},
    identity::Who,
    verbs::cannot_connect,
};

/// Without an answer for so long, the same request is sent again: a replica that froze or died
/// keeps what it was given, and the queue group hands the repeat to another one.
const REPEAT_AFTER: Duration = Duration::from_secs(2);

/// First pause after "no responders" or a busy central, doubled up to [`PAUSE_MAX`]. A restarting
/// central is back within seconds.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause between two attempts, unless central names its own.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Longest pause that central may name: longer ones end in a timeout, not in a hang.
const PAUSE_NAMED_MAX: Duration = Duration::from_secs(5);

/// How often to look whether a lost connection is back.
const RECONNECT_LOOK: Duration = Duration::from_millis(50);

/// After a restart of the server all drivers would return at once.
const PAUSES: Pauses = Pauses {
    first_max: Duration::from_millis(200),
    min: Duration::from_millis(200),
    max: Duration::from_secs(4),
};

/// What the connection has told us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// It stands.
    pub connected: bool,
    /// What the server last denied.
    pub denied: Option<Denied>,
    /// Why the server does not take us, or not for long.
    pub refused: Option<String>,
}

/// A connection to central's NATS.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    link: watch::Receiver<Link>,
    url: String,
    /// See [`Client::clock_ms`].
    clock_ms: Arc<AtomicI64>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// Central refused.
    Refused(Box<Refusal>),
    /// Time ran out, and something may have been delivered. `last` is what was heard meanwhile.
    Silence {
        /// What was heard meanwhile, in words.
        last: Option<String>,
    },
    /// Time ran out, and nobody was there: nothing was delivered.
    Nobody(String),
    /// The server does not permit it: nothing was delivered.
    Denied(String),
    /// The server does not let us in any more: nothing was delivered.
    ShutOut(String),
    /// Time ran out, and all that was said is that there is too much to do: nothing was decided.
    Busy(Box<Refusal>),
}

/// An answer of central.
pub trait Reply: DeserializeOwned {
    /// Whether a payload of this type is the answer; `None` is one without a type.
    fn is_type(kind: Option<&str>) -> bool;

    /// The refusal that it is, if it is one.
    fn refusal(&self) -> Option<Refusal> {
        None
    }
}

macro_rules! replies {
    ($($name:ty),+) => { $(impl Reply for $name {
        fn is_type(kind: Option<&str>) -> bool { kind == Some(<$name as Message>::TYPE) }
    })+ };
}
replies!(
    StatusReply,
    ListReply,
    HistoryReply,
    ReceiptReply,
    CpLsReply,
    SessionLsReply,
    TariffLsReply,
    AuditReply,
    EventsReply,
    ReceiptsReply,
    UptimeReply
);

impl Reply for OpReply {
    fn is_type(kind: Option<&str>) -> bool {
        kind == Some(Self::TYPE)
    }

    fn refusal(&self) -> Option<Refusal> {
        (self.status == Status::Denied).then(|| {
            refusal(
                self.error.clone(),
                self.reason.clone(),
                About {
                    request_id: Some(self.request_id.clone()),
                    session_id: self.session_id.map(|id| id.to_string()),
                    ts: Some(self.ts),
                    tariff: self.tariff.clone().map(Box::new),
                    ..About::default()
                },
            )
        })
    }
}

impl Reply for DriverUpdate {
    fn is_type(kind: Option<&str>) -> bool {
        // An older peer's answer is an update without a type.
        kind.is_none_or(|word| {
            matches!(
                UpdateType::from_word(word),
                UpdateType::StartReply | UpdateType::StopReply | UpdateType::Update
            )
        })
    }

    fn refusal(&self) -> Option<Refusal> {
        (self.status == Status::Denied).then(|| {
            refusal(
                self.error.clone(),
                self.reason.clone(),
                About {
                    request_id: Some(self.request_id.to_string()),
                    driver_id: Some(self.driver_id.to_string()),
                    cp_id: Some(self.cp_id.clone()).filter(|id| !id.is_empty()),
                    connector: self.connector.map(|c| i64::from(c.0)),
                    session_id: self.session_id.map(|id| id.to_string()),
                    ts: Some(self.ts),
                    tariff: self.tariff.clone().map(Box::new),
                },
            )
        })
    }
}

impl Client {
    /// Connects, trying again until `patience` is over. `on_retry` hears once that it takes long.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], [`Failure::NotPermitted`], and [`Failure::Usage`] for files that
    /// cannot be used.
    pub async fn connect(
        access: &Access,
        patience: Duration,
        mut on_retry: impl FnMut(&str),
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        let url = access.url.as_str();
        let mut pause = PAUSE_MIN;
        let mut told = false;
        loop {
            let (link_tx, link) = watch::channel(Link {
                connected: true,
                ..Link::default()
            });
            let (options, _) = access
                .options(PAUSES, move |event| {
                    note(&link_tx, event);
                    std::future::ready(())
                })
                .map_err(|e| cannot_connect(&e))?;
            let options = options
                .name("driver-cli")
                .connection_timeout(patience.min(Duration::from_secs(5)));
            let servers = access.servers().map_err(|e| cannot_connect(&e))?;
            let error = match timeout_at(deadline, options.connect(servers)).await {
                Ok(Ok(nats)) => {
                    return Ok(Self {
                        nats,
                        link,
                        url: url.to_owned(),
                        clock_ms: Arc::default(),
                    });
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(unreachable(url, "it does not answer")),
            };
            let why = access.trouble(&error).to_string();
            if matches!(
                error.kind(),
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
            ) {
                return Err(Failure::NotPermitted {
                    message: format!("the NATS server at {url} does not let you in: {why}"),
                    hint: "whoever runs the system makes new credentials with `central enrol`"
                        .to_owned(),
                });
            }
            if Instant::now() + pause >= deadline {
                return Err(unreachable(url, &why));
            }
            if !told {
                on_retry(&why);
                told = true;
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Where it is connected to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Central's clock less this host's, by the newest answer; 0 before the first. Central's clock
    /// is ahead of that by as long as the answer was under way, so that no expiry which is stamped
    /// by it lies too far ahead.
    #[must_use]
    pub fn clock_ms(&self) -> i64 {
        self.clock_ms.load(Ordering::Relaxed)
    }

    /// What the server says about itself.
    #[must_use]
    pub fn server_info(&self) -> async_nats::ServerInfo {
        self.nats.server_info()
    }

    /// What the connection tells, from now on.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Subscribes.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, Failure> {
        self.nats
            .subscribe(subject)
            .await
            .map_err(|e| unreachable(&self.url, &root_cause(&e)))
    }

    /// Asks central, and repeats the very same bytes until there is an answer or `patience` is
    /// over.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn ask<T: Reply>(
        &self,
        who: &Who,
        verb: &str,
        request_id: Option<&str>,
        payload: Vec<u8>,
        patience: Duration,
    ) -> Result<T, NoAnswer> {
        if payload.len() > REQUEST_BYTES_MAX {
            // Central would say the same, and of one that is much larger the server says nothing.
            let what = format!("{} bytes, allowed are {REQUEST_BYTES_MAX}", payload.len());
            let problem = Code::TooLarge.about(&what);
            let refused = refusal(Some(problem), None, About::default());
            return Err(NoAnswer::Refused(Box::new(refused)));
        }
        let deadline = Instant::now() + patience;
        let subject = who.subject(verb);
        let inbox = self.nats.new_inbox();
        let mut link = self.link.clone();
        let mut replies = self
            .nats
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|e| NoAnswer::Nobody(root_cause(&e)))?;

        let mut tried = Tried::default();
        let mut pause = PAUSE_MIN;
        let mut next_attempt = Instant::now();
        let mut link_lives = true;
        loop {
            if Instant::now() >= next_attempt && self.is_connected() {
                let reply_to = format!("{inbox}.{}", tried.attempts);
                tried.attempts += 1;
                let sent = async {
                    self.nats
                        .publish_with_reply(subject.clone(), reply_to, payload.clone().into())
                        .await?;
                    self.nats.flush().await.ok();
                    Ok::<(), async_nats::PublishError>(())
                };
                // Bounded: while disconnected a publish can block.
                if let Ok(Err(e)) = timeout_at(deadline, sent).await {
                    tried.last = Some(root_cause(&e));
                }
                next_attempt = Instant::now() + jittered(REPEAT_AFTER);
            }
            let wake = if self.is_connected() {
                next_attempt
            } else {
                Instant::now() + RECONNECT_LOOK
            }
            .min(deadline);
            tokio::select! {
                message = replies.next() => {
                    let Some(message) = message else {
                        tried.last = Some("the connection was closed".to_owned());
                        return Err(tried.gave_up(&link.borrow(), &self.url));
                    };
                    if message.status == Some(StatusCode::NO_RESPONDERS) {
                        tried.unheard += 1;
                        next_attempt = Instant::now() + jittered(pause);
                        pause = (pause * 2).min(PAUSE_MAX);
                        continue;
                    }
                    let (heard, told_at) = read::<T>(&message, who, request_id);
                    if let Some(ts) = told_at {
                        self.clock_ms.store(ts.ms_since(wall_now()), Ordering::Relaxed);
                    }
                    match heard {
                        Heard::Answer(answer) => return Ok(answer),
                        Heard::Refusal(refusal) if !may_change_its_mind(&refusal) => {
                            return Err(NoAnswer::Refused(refusal));
                        }
                        Heard::Refusal(refusal) => {
                            let named = refusal.problem.retry_after_ms
                                .map(|ms| Duration::from_millis(ms).min(PAUSE_NAMED_MAX));
                            next_attempt = Instant::now() + jittered(named.unwrap_or(pause));
                            pause = (pause * 2).min(PAUSE_MAX);
                            tried.last = Some(refusal.problem.message.clone());
                            if refusal.problem.code == Code::Overloaded {
                                tried.busy += 1;
                                tried.told_busy = Some(refusal);
                            }
                        }
                        Heard::Unreadable(why) => {
                            tried.last = Some(format!("central's answer cannot be read ({why})"));
                        }
                        Heard::NotForUs => {}
                    }
                }
                changed = link.changed(), if link_lives => {
                    link_lives = changed.is_ok();
                    if let Some(why) = &link.borrow().refused {
                        tried.last = Some(why.clone());
                    }
                    let denied = changed.is_ok().then(|| link.borrow_and_update().denied.clone()).flatten();
                    match denied {
                        Some(denied) if denied.operation == Operation::Publish && denied.subject == subject => {
                            return Err(NoAnswer::Denied(LinkEvent::Denied(denied).to_string()));
                        }
                        Some(denied) if denied.operation == Operation::Subscribe && denied.subject.starts_with(&inbox) => {
                            return Err(NoAnswer::Silence {
                                last: Some(format!("no answer comes through: {}", LinkEvent::Denied(denied))),
                            });
                        }
                        _ => {}
                    }
                }
                () = sleep_until(wake) => {
                    if Instant::now() >= deadline {
                        return Err(tried.gave_up(&link.borrow(), &self.url));
                    }
                }
            }
        }
    }

    fn is_connected(&self) -> bool {
        self.nats.connection_state() == State::Connected
    }
}

/// A pause of this length, give or take a quarter, so that many do not come back at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2);
    Duration::from_millis(ms - ms / 4 + rand::random_range(0..=ms / 2))
}

fn note(link: &watch::Sender<Link>, event: LinkEvent) {
    match event {
        LinkEvent::Up => link.send_modify(|l| {
            l.connected = true;
            l.refused = None;
        }),
        LinkEvent::Down => link.send_modify(|l| l.connected = false),
        LinkEvent::Denied(denied) => link.send_modify(|l| l.denied = Some(denied)),
        LinkEvent::Refused(why) => link.send_modify(|l| l.refused = Some(why)),
        LinkEvent::Failed(_) | LinkEvent::Slow | LinkEvent::Other(_) => {}
    }
}

/// What became of the attempts so far.
#[derive(Debug, Default)]
struct Tried {
    attempts: u32,
    /// Reached nobody.
    unheard: u32,
    /// Were answered that there is too much to do.
    busy: u32,
    told_busy: Option<Box<Refusal>>,
    /// What was heard last, in words.
    last: Option<String>,
}

impl Tried {
    fn gave_up(self, link: &Link, url: &str) -> NoAnswer {
        let shut_out = link.refused.clone().filter(|_| !link.connected);
        if self.attempts > self.unheard + self.busy {
            return NoAnswer::Silence {
                last: shut_out.or(self.last),
            };
        }
        match (shut_out, self.told_busy) {
            (Some(why), _) => NoAnswer::ShutOut(why),
            (None, Some(refusal)) => NoAnswer::Busy(refusal),
            (None, None) if self.attempts > 0 => {
                NoAnswer::Nobody(format!("central is not there (nobody listens at {url})"))
            }
            (None, None) => {
                let why = self.last.map_or_else(String::new, |why| format!(": {why}"));
                NoAnswer::Nobody(format!("the connection to {url} is lost{why}"))
            }
        }
    }
}

fn unreachable(url: &str, why: &str) -> Failure {
    Failure::Unreachable {
        message: format!("the NATS server at {url} cannot be reached: {why}"),
        hint: "check --nats-url and that the server runs; `doctor` tells more; nothing was sent"
            .to_owned(),
    }
}

/// The innermost cause: the outer ones only say that something failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether the same request may get another answer in a moment: nothing was recorded for it.
fn may_change_its_mind(refusal: &Refusal) -> bool {
    match refusal.problem.code {
        Code::Overloaded | Code::NotReady | Code::Internal => true,
        Code::OutcomeUnknown => refusal.reason != Code::Forgotten.as_str(),
        _ => false,
    }
}

/// What a message in our inbox is.
#[derive(Debug)]
enum Heard<T> {
    Answer(T),
    Refusal(Box<Refusal>),
    NotForUs,
    Unreadable(String),
}

/// The fields that every answer has, an older peer's perhaps not.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    ts: Option<UnixMs>,
}

/// What a message says, and central's time in it where it answers us.
fn read<T: Reply>(
    message: &async_nats::Message,
    who: &Who,
    request_id: Option<&str>,
) -> (Heard<T>, Option<UnixMs>) {
    let encoding = encoding_of(message);
    let head: Head = match wire::decode(&message.payload, encoding) {
        Ok(head) => head,
        Err(e) => return (Heard::Unreadable(e.to_string()), None),
    };
    let heard = read_bytes(&message.payload, encoding, &head, who, request_id);
    let told_at = head.ts.filter(|_| !matches!(heard, Heard::NotForUs));
    (heard, told_at)
}

fn read_bytes<T: Reply>(
    payload: &[u8],
    encoding: Encoding,
    head: &Head,
    who: &Who,
    request_id: Option<&str>,
) -> Heard<T> {
    let addressed = head.to.as_deref().is_none_or(|to| to == who.id());
    let answers = match (request_id, head.request_id.as_deref()) {
        (Some(asked), Some(answered)) => asked == answered,
        _ => true,
    };
    if !addressed || !answers {
        return Heard::NotForUs;
    }
    if head.kind.as_deref() == Some(ErrorReply::TYPE) {
        return match wire::decode::<ErrorReply>(payload, encoding) {
            Ok(reply) => Heard::Refusal(Box::new(refusal(
                Some(reply.error),
                Some(reply.reason),
                About {
                    request_id: reply.request_id,
                    ts: Some(reply.ts),
                    ..About::default()
                },
            ))),
            Err(e) => Heard::Unreadable(e.to_string()),
        };
    }
    if !T::is_type(head.kind.as_deref()) {
        return Heard::NotForUs;
    }
    match wire::decode::<T>(payload, encoding) {
        Ok(answer) => match answer.refusal() {
            Some(refusal) => Heard::Refusal(Box::new(refusal)),
            None => Heard::Answer(answer),
        },
        Err(e) => Heard::Unreadable(e.to_string()),
    }
}

/// An older peer refuses with a word alone, a newer one with a word that is not known here.
fn refusal(problem: Option<Problem>, reason: Option<String>, about: About) -> Refusal {
    let problem = problem.unwrap_or_else(|| {
        let word = reason.as_deref().unwrap_or("no reason given");
        match Code::from_word(word) {
            Code::Unrecognised => Code::Unrecognised.about(word),
            code => code.about(about.cp_id.as_deref().unwrap_or("the request")),
        }
    });
    let reason = reason.unwrap_or_else(|| problem.code.as_str().to_owned());
    Refusal {
        problem,
        reason,
        about,
    }
}

/// This host's wall time.
#[must_use]
pub fn wall_now() -> UnixMs {
    UnixMs(jiff::Timestamp::now().as_millisecond())
}

/// How a message is written.
#[must_use]
pub fn encoding_of(message: &async_nats::Message) -> Encoding {
    let value = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(CONTENT_TYPE));
    Encoding::from_header(value.map(async_nats::HeaderValue::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Who {
        Who::Driver("alice".parse().unwrap())
    }

    fn heard(json: &str, request_id: Option<&str>) -> Heard<DriverUpdate> {
        heard_at(json, request_id).0
    }

    fn heard_at(json: &str, request_id: Option<&str>) -> (Heard<DriverUpdate>, Option<UnixMs>) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(CONTENT_TYPE, wire::CONTENT_TYPE_JSON);
        let message = async_nats::Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: json.to_owned().into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: json.len(),
        };
        read(&message, &alice(), request_id)
    }

    #[test]
    fn an_older_peers_answer_without_session_type_and_addressee_is_read() {
        let older = r#"{"request_id":"r-1","driver_id":"alice","cp_id":"CP-001","status":"accepted","ts":1}"#;
        match heard(older, Some("r-1")) {
            Heard::Answer(update) => assert_eq!(update.session_id, None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_addressed_to_another_or_answers_another_request_is_passed_over() {
        let to_bob = r#"{"to":"bob","request_id":"r-1","driver_id":"alice","cp_id":"CP-001","status":"accepted","ts":1}"#;
        assert!(matches!(heard(to_bob, Some("r-1")), Heard::NotForUs));
        let other = r#"{"to":"alice","request_id":"r-2","driver_id":"alice","cp_id":"CP-001","status":"accepted","ts":1}"#;
        assert!(matches!(heard(other, Some("r-1")), Heard::NotForUs));
        let other_type = r#"{"type":"status.reply","to":"alice","sessions":[],"ts":1}"#;
        assert!(matches!(heard(other_type, None), Heard::NotForUs));
    }

    #[test]
    fn centrals_time_is_learned_from_its_answers_to_us_alone() {
        let told = |to: &str, request: &str| {
            let json = format!(
                r#"{{"to":"{to}","request_id":"{request}","driver_id":"alice","cp_id":"CP-001","status":"accepted","ts":77}}"#
            );
            heard_at(&json, Some("r-1")).1
        };
        assert_eq!(told("alice", "r-1"), Some(UnixMs(77)));
        assert_eq!(told("bob", "r-1"), None);
        assert_eq!(told("alice", "r-2"), None);
    }

    #[test]
    fn garbage_is_unreadable_and_no_panic() {
        assert!(matches!(heard("[]", None), Heard::Unreadable(_)));
        assert!(matches!(heard("{", None), Heard::Unreadable(_)));
    }

    #[test]
    fn only_what_central_has_not_recorded_is_asked_again() {
        let refusal = |code: Code, reason: &str| {
            refusal(
                Some(code.about("x")),
                Some(reason.to_owned()),
                About::default(),
            )
        };
        assert!(may_change_its_mind(&refusal(
            Code::Overloaded,
            "overloaded"
        )));
        assert!(may_change_its_mind(&refusal(
            Code::OutcomeUnknown,
            "outcome_unknown"
        )));
        assert!(!may_change_its_mind(&refusal(
            Code::OutcomeUnknown,
            "forgotten"
        )));
        assert!(!may_change_its_mind(&refusal(Code::Occupied, "occupied")));
    }

    #[test]
    fn a_refusal_with_a_newer_word_or_with_the_word_alone_is_understood_as_one() {
        let newer = r#"{"type":"start.reply","to":"alice","request_id":"r-1","driver_id":"alice","cp_id":"CP-001","status":"denied","reason":"mercury_retrograde","ts":1}"#;
        match heard(newer, Some("r-1")) {
            Heard::Refusal(refusal) => {
                assert_eq!(refusal.problem.code, Code::Unrecognised);
                assert_eq!(refusal.reason, "mercury_retrograde");
            }
            other => panic!("{other:?}"),
        }
        let older = r#"{"request_id":"r-1","driver_id":"alice","cp_id":"CP-001","status":"denied","reason":"occupied","ts":1}"#;
        match heard(older, Some("r-1")) {
            Heard::Refusal(refusal) => assert_eq!(refusal.problem.code, Code::Occupied),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_was_delivered_only_if_nobody_heard_any_attempt() {
        let up = Link {
            connected: true,
            ..Link::default()
        };
        let gave_up = |attempts, unheard, busy, link: &Link| {
            let told_busy = (busy > 0).then(|| {
                Box::new(refusal(
                    Some(Code::Overloaded.about("starts")),
                    None,
                    About::default(),
                ))
            });
            let tried = Tried {
                attempts,
                unheard,
                busy,
                told_busy,
                last: None,
            };
            tried.gave_up(link, "u")
        };
        assert!(matches!(gave_up(3, 3, 0, &up), NoAnswer::Nobody(_)));
        assert!(matches!(gave_up(0, 0, 0, &up), NoAnswer::Nobody(_)));
        assert!(matches!(gave_up(3, 2, 0, &up), NoAnswer::Silence { .. }));
        assert!(matches!(gave_up(3, 1, 2, &up), NoAnswer::Busy(_)));
        // One attempt may have been decided.
        assert!(matches!(gave_up(3, 0, 2, &up), NoAnswer::Silence { .. }));
        let revoked = Link {
            refused: Some("revoked".into()),
            ..Link::default()
        };
        assert!(matches!(gave_up(0, 0, 0, &revoked), NoAnswer::ShutOut(_)));
        assert!(matches!(
            gave_up(1, 0, 0, &revoked),
            NoAnswer::Silence { .. }
        ));
        // It lets us in again.
        let back = Link {
            connected: true,
            ..revoked
        };
        assert!(matches!(gave_up(0, 0, 0, &back), NoAnswer::Nobody(_)));
    }
}
