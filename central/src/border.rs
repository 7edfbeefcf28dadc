//! Where messages come in: from bytes to typed questions. Identity comes from the subject, never
//! from the payload.

use std::sync::Arc;

use central_core::{
    decide::{Act, Announcement, Ask, SeenPrice, Wish},
    keys::Asker,
    trail::{Cursor, Filter},
};
use ev_contract::{
    codes::{Code, Problem},
    ids::{CpId, DriverId, InvalidId, OperatorId, SessionId, SiteId},
    limits::{
        CONNECTORS_MAX, ENROLLED_AHEAD_MS_MAX, ENROLLED_AT_ONCE_MAX, ENROLLED_KW_MAX,
        EVT_BYTES_MAX, EXPIRES_AT_MS_RANGE, PAGE_ROWS_MAX, REQUEST_BYTES_MAX, TEXT_BYTES_MAX,
        TIME_ZONE_BYTES_MAX,
    },
    subjects::{self, Subject},
    time::UnixMs,
    v1::{
        AuditRequest, CpActRequest, CpLsRequest, CpSiteRequest, DriverBlockRequest, EnrolRequest,
        EventsRequest, HistoryRequest, LimitsRequest, ListRequest, OpStartRequest, Origin, Reach,
        ReceiptRequest, ReceiptsRequest, SessionAdjustRequest, SessionEndRequest, SessionLsRequest,
        StartRequest, StatusRequest, StopRequest, SyncRequest, TariffLsRequest, TariffRef,
        TariffRmRequest, TariffSetRequest, UptimeRequest,
    },
    wire::{self, CENTRAL, CONTENT_TYPE, Encoding},
};
use serde::de::DeserializeOwned;

use crate::{
    audit::{self, pages::Where},
    engine,
    reports::{Begin, ReceiptsPage, UptimePage},
};

/// Where an answer goes.
#[derive(Debug, Clone)]
pub struct ReplyTo {
    /// The reply subject.
    pub subject: String,
    /// In which encoding the question came.
    pub encoding: Encoding,
}

/// A question that only needs the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The asker's open sessions, or one.
    Status(Option<SessionId>),
    /// Charge points for a driver.
    List(Page<CpId>),
    /// The driver's sessions.
    History(Page<SessionId>),
    /// A receipt.
    Receipt(SessionId),
    /// Charge points for an operator.
    CpLs(Option<CpId>, Page<CpId>),
    /// Sessions for an operator.
    SessionLs {
        /// Of whom.
        driver: Option<DriverId>,
        /// Where.
        cp: Option<CpId>,
        /// This one alone, ended or not.
        session: Option<SessionId>,
        /// Ended ones too.
        all: bool,
        /// Which page.
        page: Page<SessionId>,
    },
    /// Tariffs.
    TariffLs,
    /// What happened, for an operator.
    Events {
        /// After this.
        after: Option<Cursor>,
        /// From this time on.
        since: Option<UnixMs>,
        /// Of what.
        filter: Filter,
        /// At most so many.
        rows: usize,
    },
    /// Receipts or adjustments, for an operator: read in their stream, once the state is fresh.
    ReceiptLs(ReceiptsPage),
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Beyond which row.
    pub from: Option<T>,
    /// At most so many rows.
    pub rows: usize,
}

/// What somebody asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// To be decided.
    Request(Ask, Wish),
    /// To be looked up.
    Query(Asker, Query),
    /// To be read from the audit.
    Audit(OperatorId, audit::pages::Page),
    /// To be read from what was seen of connectors.
    Uptime(OperatorId, UptimePage),
}

/// A message that was read, with what an answer needs.
#[derive(Debug)]
pub struct Asked {
    /// Who; also in a problem, where the subject could be read.
    pub asker: Option<Asker>,
    /// The verb, as one of a bounded set.
    pub verb: &'static str,
    /// The request's id, where it could be read.
    pub request_id: Option<String>,
    /// The question, or why there is none.
    pub question: Result<Question, Problem>,
}

/// Why a message gets no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It has no reply subject, so that nobody waits for an answer.
    NoReply,
    /// Its reply subject is no asker's inbox: an answer there would be taken for something else.
    ReplyElsewhere,
    /// It is addressed to somebody else.
    NotForCentral,
    /// It cannot be read, or comes from somebody else than its subject says.
    Unreadable,
}

impl Ignored {
    /// For metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoReply => "no_reply_subject",
            Self::ReplyElsewhere => "reply_subject_of_no_asker",
            Self::NotForCentral => "not_for_central",
            Self::Unreadable => "unreadable",
        }
    }
}

/// With what every reply subject begins that the server writes for an asker of another account. An
/// answer to it reaches the inbox of that asker, or at worst something else of the same account.
const ASKERS: &str = "_R_.";

/// Where the answer to a message goes. All who ask are in other accounts, so that a question from
/// elsewhere is nobody's.
///
/// # Errors
/// [`Ignored`] when it may not or cannot be answered.
pub fn reply_to(message: &async_nats::Message) -> Result<ReplyTo, Ignored> {
    let Some(reply) = &message.reply else {
        return Err(Ignored::NoReply);
    };
    if !reply.starts_with(ASKERS) {
        return Err(Ignored::ReplyElsewhere);
    }
    Ok(ReplyTo {
        subject: reply.to_string(),
        encoding: encoding(message),
    })
}

/// In which encoding a message is.
pub(crate) fn encoding(message: &async_nats::Message) -> Encoding {
    Encoding::from_header(
        message
            .headers
            .as_ref()
            .and_then(|h| h.get(CONTENT_TYPE))
            .map(async_nats::HeaderValue::as_str),
    )
}

/// Reads a request of a driver or an operator.
///
/// # Errors
/// [`Ignored::NotForCentral`] when it is addressed to somebody else.
pub fn read(message: &async_nats::Message) -> Result<Asked, Ignored> {
    let (asker, verb) = match Subject::parse(&message.subject) {
        Some(Subject::Driver { driver, verb }) => (Asker::Driver(driver), verb),
        Some(Subject::Operator { operator, verb }) => (Asker::Operator(operator), verb),
        Some(_) | None => {
            let shown: String = message.subject.chars().take(100).collect();
            return Ok(Asked {
                asker: None,
                verb: "unknown",
                request_id: None,
                question: Err(Code::InvalidId.about(&format!(
                    "`{shown}` names no driver or operator: ids are 1 to 64 of A-Z a-z 0-9 _ -"
                ))),
            });
        }
    };
    let reader = Reader {
        bytes: &message.payload,
        encoding: encoding(message),
        asker: asker.clone(),
    };
    let (verb, read) = match &asker {
        Asker::Driver(driver) => reader.driver_verb(&verb, driver),
        Asker::Operator(operator) => reader.operator_verb(&verb, operator),
    };
    if let Err(Unread::NotForCentral) = read {
        return Err(Ignored::NotForCentral);
    }
    let read = match speaks_for(message, &asker) {
        Some(problem) => Err(problem.into()),
        None => read,
    };
    let request_id = match &read {
        Ok(Question::Request(ask, _)) => Some(ask.request.to_string()),
        Ok(Question::Query(..) | Question::Audit(..) | Question::Uptime(..)) => None,
        Err(_) => request_id(message),
    };
    Ok(Asked {
        asker: Some(asker),
        verb,
        request_id,
        question: read.map_err(|unread| match unread {
            Unread::Problem(problem) => *problem,
            Unread::NotForCentral => Code::InvalidRequest.about("it is not addressed to central"),
        }),
    })
}

/// A payload that says that somebody else asks than its subject does. It would make no difference,
/// since the subject alone counts; but whoever means it would be surprised, and whoever tries it is
/// to be seen.
fn speaks_for(message: &async_nats::Message, asker: &Asker) -> Option<Problem> {
    const CLAIMS: [&str; 2] = ["driver_id", "operator_id"];
    #[derive(serde::Deserialize)]
    struct Claims {
        #[serde(default)]
        driver_id: Option<String>,
        #[serde(default)]
        operator_id: Option<String>,
    }
    let encoding = encoding(message);
    // A key of MessagePack lies there letter by letter, so that nearly all need no second reading;
    // JSON can spell it in many ways.
    let may_claim = encoding == Encoding::Json
        || CLAIMS
            .iter()
            .any(|key| memchr::memmem::find(&message.payload, key.as_bytes()).is_some());
    let claims: Claims = (may_claim && message.payload.len() <= REQUEST_BYTES_MAX)
        .then(|| wire::decode(&message.payload, encoding).ok())
        .flatten()?;
    let (field, claimed) = match asker {
        Asker::Driver(_) => ("driver_id", claims.driver_id?),
        // An operator's request may be about a driver.
        Asker::Operator(_) => ("operator_id", claims.operator_id?),
    };
    if claimed == asker.as_str() {
        return None;
    }
    let shown: String = claimed.escape_debug().take(64).collect();
    let mut problem = Code::NotAllowed.about(&format!("asking in the name of `{shown}`"));
    problem.hint = format!("leave `{field}` out: who asks is whose the credential is");
    Some(problem)
}

enum Unread {
    Problem(Box<Problem>),
    NotForCentral,
}

impl From<Problem> for Unread {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<InvalidId> for Unread {
    fn from(invalid: InvalidId) -> Self {
        Code::InvalidId.about(&invalid.to_string()).into()
    }
}

/// The request's id out of a message that is not read otherwise, so that the asker can tell which
/// one is meant.
#[must_use]
pub fn request_id(message: &async_nats::Message) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Only {
        request_id: String,
    }
    (message.payload.len() <= REQUEST_BYTES_MAX)
        .then(|| wire::decode::<Only>(&message.payload, encoding(message)).ok())
        .flatten()
        .map(|only| only.request_id)
        .filter(|id| id.len() <= 64)
}

struct Reader<'m> {
    bytes: &'m [u8],
    encoding: Encoding,
    asker: Asker,
}

/// What all requests to central have.
trait ToCentral: DeserializeOwned {
    fn to(&self) -> &str;
}

macro_rules! to_central {
    ($($name:ty),+) => { $(impl ToCentral for $name { fn to(&self) -> &str { &self.to } })+ };
}

to_central!(
    StartRequest,
    StopRequest,
    StatusRequest,
    ListRequest,
    HistoryRequest,
    ReceiptRequest,
    CpLsRequest,
    CpActRequest,
    CpSiteRequest,
    SessionLsRequest,
    OpStartRequest,
    SessionEndRequest,
    SessionAdjustRequest,
    DriverBlockRequest,
    TariffSetRequest,
    TariffRmRequest,
    TariffLsRequest,
    AuditRequest,
    EventsRequest,
    ReceiptsRequest,
    UptimeRequest
);

impl Reader<'_> {
    fn read<T: ToCentral>(&self) -> Result<T, Unread> {
        if self.bytes.len() > REQUEST_BYTES_MAX {
            return Err(Code::TooLarge
                .about(&format!(
                    "{} bytes, allowed are {REQUEST_BYTES_MAX}",
                    self.bytes.len()
                ))
                .into());
        }
        let message: T = wire::decode(self.bytes, self.encoding)
            .map_err(|e| Unread::from(Code::InvalidRequest.about(&e.0)))?;
        if message.to() == CENTRAL {
            Ok(message)
        } else {
            Err(Unread::NotForCentral)
        }
    }

    fn request(&self, id: &str, expires_at: i64, wish: Wish) -> Result<Question, Unread> {
        if !wish.is_stop() && !EXPIRES_AT_MS_RANGE.contains(&expires_at) {
            return Err(Code::InvalidTime
                .about(&format!("expires_at {expires_at}"))
                .into());
        }
        let expires_at = UnixMs(expires_at);
        Ok(Question::Request(
            Ask {
                asker: self.asker.clone(),
                request: id.parse()?,
                expires_at,
                content: wish.content(expires_at),
            },
            wish,
        ))
    }

    fn query(&self, query: Query) -> Question {
        Question::Query(self.asker.clone(), query)
    }

    fn driver_verb(
        &self,
        verb: &str,
        driver: &DriverId,
    ) -> (&'static str, Result<Question, Unread>) {
        match verb {
            "start" => ("start", self.start(driver)),
            "stop" => ("stop", self.stop()),
            "status" => (
                "status",
                self.read::<StatusRequest>().and_then(|r| {
                    let id = r.session_id.map(|id| id.parse()).transpose()?;
                    Ok(self.query(Query::Status(id)))
                }),
            ),
            "list" => (
                "list",
                self.read::<ListRequest>()
                    .and_then(|r| Ok(self.query(Query::List(page(r.after, r.rows)?)))),
            ),
            "history" => (
                "history",
                self.read::<HistoryRequest>()
                    .and_then(|r| Ok(self.query(Query::History(page(r.before, r.rows)?)))),
            ),
            "receipt" => (
                "receipt",
                self.read::<ReceiptRequest>()
                    .and_then(|r| Ok(self.query(Query::Receipt(r.session_id.parse()?)))),
            ),
            other => ("unknown", Err(Code::UnknownVerb.about(other).into())),
        }
    }

    fn start(&self, driver: &DriverId) -> Result<Question, Unread> {
        let r: StartRequest = self.read()?;
        let wish = Wish::Start {
            driver: driver.clone(),
            origin: Origin::App,
            cp: r.cp_id.parse()?,
            connector: r.connector,
            limits: bounded(r.limits)?,
            seen: seen(r.tariff)?,
            reach: Reach::Unknown,
            json: self.encoding == Encoding::Json,
        };
        self.request(&r.request_id, r.expires_at, wish)
    }

    fn stop(&self) -> Result<Question, Unread> {
        let r: StopRequest = self.read()?;
        let session = r.session_id.parse()?;
        self.request(&r.request_id, r.expires_at, Wish::Stop { session })
    }

    fn operator_verb(
        &self,
        verb: &str,
        operator: &OperatorId,
    ) -> (&'static str, Result<Question, Unread>) {
        match verb {
            "cp_ls" => (
                "cp_ls",
                self.read::<CpLsRequest>().and_then(|r| {
                    let cp = r.cp_id.map(|id| id.parse()).transpose()?;
                    Ok(self.query(Query::CpLs(cp, page(r.after, r.rows)?)))
                }),
            ),
            "cp_enable" => ("cp_enable", self.service(true)),
            "cp_disable" => ("cp_disable", self.service(false)),
            "cp_site" => ("cp_site", self.site()),
            "cp_unlock" => ("cp_unlock", self.act(Act::Unlock)),
            "cp_reset" => ("cp_reset", self.act(Act::Reset)),
            "session_ls" => (
                "session_ls",
                self.read::<SessionLsRequest>().and_then(|r| {
                    Ok(self.query(Query::SessionLs {
                        driver: r.driver_id.map(|id| id.parse()).transpose()?,
                        cp: r.cp_id.map(|id| id.parse()).transpose()?,
                        session: r.session_id.map(|id| id.parse()).transpose()?,
                        all: r.all,
                        page: page(r.before, r.rows)?,
                    }))
                }),
            ),
            "session_start" => ("session_start", self.op_start()),
            "session_end" => (
                "session_end",
                self.read::<SessionEndRequest>().and_then(|r| {
                    let wish = Wish::End {
                        session: r.session_id.parse()?,
                        reason: text("reason", r.reason)?,
                        write_off: r.write_off,
                    };
                    self.request(&r.request_id, r.expires_at, wish)
                }),
            ),
            "session_adjust" => (
                "session_adjust",
                self.read::<SessionAdjustRequest>().and_then(|r| {
                    let amount = r.amount.parse().map_err(|e| {
                        Code::AmountInvalid.about(&format!(
                            "{}: {e}",
                            r.amount.escape_debug().take(40).collect::<String>()
                        ))
                    })?;
                    let wish = Wish::Adjust {
                        session: r.session_id.parse()?,
                        amount,
                        reason: text("reason", r.reason)?,
                    };
                    self.request(&r.request_id, r.expires_at, wish)
                }),
            ),
            "driver_block" => ("driver_block", self.block(true)),
            "driver_unblock" => ("driver_unblock", self.block(false)),
            "tariff_set" => (
                "tariff_set",
                self.read::<TariffSetRequest>().and_then(|r| {
                    let wish = Wish::SetTariff {
                        tariff: r.tariff_id.parse()?,
                        scope: r.scope,
                        from: r.from.map(UnixMs),
                        terms: r.terms,
                    };
                    self.request(&r.request_id, r.expires_at, wish)
                }),
            ),
            "tariff_rm" => (
                "tariff_rm",
                self.read::<TariffRmRequest>().and_then(|r| {
                    let wish = Wish::RemoveTariff {
                        scope: r.scope,
                        scheduled_only: r.scheduled_only,
                    };
                    self.request(&r.request_id, r.expires_at, wish)
                }),
            ),
            "tariff_ls" => (
                "tariff_ls",
                self.read::<TariffLsRequest>()
                    .map(|_| self.query(Query::TariffLs)),
            ),
            "audit" => ("audit", self.audit(operator)),
            "events" => ("events", self.events()),
            "receipt_ls" => ("receipt_ls", self.receipts()),
            "uptime" => (
                "uptime",
                self.read::<UptimeRequest>().map(|r| {
                    let page = UptimePage {
                        begin: Begin::of(r.after, r.kept_from),
                        rows: rows(r.rows),
                    };
                    Question::Uptime(operator.clone(), page)
                }),
            ),
            other => ("unknown", Err(Code::UnknownVerb.about(other).into())),
        }
    }

    fn audit(&self, operator: &OperatorId) -> Result<Question, Unread> {
        let r: AuditRequest = self.read()?;
        let from = match (r.after, r.before) {
            (None, None) => Where::End,
            (None, Some(before)) => Where::Before(before),
            (Some(after), None) => Where::After(after),
            (Some(_), Some(_)) => {
                return Err(Code::InvalidRequest
                    .about("after and before: one of them, or none")
                    .into());
            }
        };
        let rows = r.rows.and_then(|rows| usize::try_from(rows).ok());
        if r.verb.as_ref().is_some_and(|verb| !subjects::is_verb(verb)) {
            return Err(Code::InvalidRequest
                .about("verb: up to 32 of a-z and _")
                .into());
        }
        Ok(Question::Audit(
            operator.clone(),
            audit::pages::Page {
                from,
                since: r.since,
                who: r.who.map(|who| who.parse()).transpose()?,
                verb: r.verb,
                rows: rows.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX),
            },
        ))
    }

    fn events(&self) -> Result<Question, Unread> {
        let r: EventsRequest = self.read()?;
        let after = match r.after {
            None => None,
            Some(text) => Some(text.parse().map_err(|()| {
                Unread::from(Code::InvalidRequest.about("after: `next` of the page before"))
            })?),
        };
        Ok(self.query(Query::Events {
            after,
            since: r.since,
            filter: Filter {
                cp: r.cp_id.map(|id| id.parse()).transpose()?,
                session: r.session_id.map(|id| id.parse()).transpose()?,
            },
            rows: rows(r.rows),
        }))
    }

    fn receipts(&self) -> Result<Question, Unread> {
        let r: ReceiptsRequest = self.read()?;
        Ok(self.query(Query::ReceiptLs(ReceiptsPage {
            adjustments: r.adjustments,
            begin: Begin::of(r.after, r.kept_from),
            from: r.from,
            until: r.until,
            site: r.site_id.map(|id| id.parse()).transpose()?,
            rows: rows(r.rows),
        })))
    }

    fn op_start(&self) -> Result<Question, Unread> {
        let r: OpStartRequest = self.read()?;
        let wish = Wish::Start {
            driver: r.driver_id.parse()?,
            origin: Origin::Operator,
            cp: r.cp_id.parse()?,
            connector: r.connector,
            limits: bounded(r.limits)?,
            seen: seen(r.tariff)?,
            reach: Reach::Unknown,
            json: self.encoding == Encoding::Json,
        };
        self.request(&r.request_id, r.expires_at, wish)
    }

    fn service(&self, serve: bool) -> Result<Question, Unread> {
        let r: CpActRequest = self.read()?;
        let wish = Wish::Service {
            cp: r.cp_id.parse()?,
            connector: r.connector,
            serve,
        };
        self.request(&r.request_id, r.expires_at, wish)
    }

    fn site(&self) -> Result<Question, Unread> {
        let r: CpSiteRequest = self.read()?;
        let wish = Wish::Site {
            cp: r.cp_id.parse()?,
            site: r.site_id.parse()?,
            time_zone: r.time_zone.map(time_zone).transpose()?,
        };
        self.request(&r.request_id, r.expires_at, wish)
    }

    fn act(&self, act: Act) -> Result<Question, Unread> {
        let r: CpActRequest = self.read()?;
        let wish = Wish::Act {
            cp: r.cp_id.parse()?,
            connector: r.connector,
            act,
        };
        self.request(&r.request_id, r.expires_at, wish)
    }

    fn block(&self, block: bool) -> Result<Question, Unread> {
        let r: DriverBlockRequest = self.read()?;
        let driver = r.driver_id.parse()?;
        let wish = if block {
            Wish::Block {
                driver,
                reason: text("reason", r.reason.unwrap_or_default())?,
            }
        } else {
            Wish::Unblock { driver }
        };
        self.request(&r.request_id, r.expires_at, wish)
    }
}

fn page<T: std::str::FromStr<Err = InvalidId>>(
    from: Option<String>,
    rows: Option<u32>,
) -> Result<Page<T>, Unread> {
    Ok(Page {
        from: from.map(|id| id.parse()).transpose()?,
        rows: self::rows(rows),
    })
}

/// As many rows as are wanted and fit.
fn rows(wanted: Option<u32>) -> usize {
    wanted
        .and_then(|rows| usize::try_from(rows).ok())
        .unwrap_or(PAGE_ROWS_MAX)
        .clamp(1, PAGE_ROWS_MAX)
}

fn text(name: &str, text: String) -> Result<String, Unread> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Code::TooLarge
            .about(&format!(
                "{name} has {} bytes, allowed are {TEXT_BYTES_MAX}",
                text.len()
            ))
            .into());
    }
    Ok(text)
}

fn seen(tariff: Option<TariffRef>) -> Result<Option<SeenPrice>, InvalidId> {
    tariff
        .map(|seen| {
            Ok(SeenPrice {
                tariff: seen.tariff_id.parse()?,
                version: seen.version,
            })
        })
        .transpose()
}

fn time_zone(name: String) -> Result<String, Problem> {
    if name.len() > TIME_ZONE_BYTES_MAX || jiff::tz::TimeZone::get(&name).is_err() {
        let shown: String = name.chars().take(TIME_ZONE_BYTES_MAX).collect();
        return Err(Code::InvalidRequest.about(&format!(
            "time_zone: {shown:?} is no IANA time zone; for instance Europe/Berlin"
        )));
    }
    Ok(name)
}

fn bounded(limits: Option<LimitsRequest>) -> Result<LimitsRequest, Unread> {
    let mut limits = limits.unwrap_or_default();
    limits.cost = limits.cost.map(|c| text("limits.cost", c)).transpose()?;
    limits.currency = limits
        .currency
        .map(|c| text("limits.currency", c))
        .transpose()?;
    Ok(limits)
}

/// Reads what a charge point presents itself with.
///
/// # Errors
/// A sentence for the charge point.
pub fn read_sync(message: &async_nats::Message) -> Result<(CpId, SyncRequest), (String, Problem)> {
    let cp = cp_of(message)?;
    let invalid = |what: &str| (cp.to_string(), Code::InvalidRequest.about(what));
    if message.payload.len() > EVT_BYTES_MAX {
        return Err((
            cp.to_string(),
            Code::TooLarge.about(&format!("{} bytes", message.payload.len())),
        ));
    }
    let sync: SyncRequest =
        wire::decode(&message.payload, encoding(message)).map_err(|e| invalid(&e.0))?;
    if sync.to != CENTRAL || sync.cp_id != cp {
        return Err(invalid("it names another charge point than its subject"));
    }
    if sync.connectors.is_empty() || sync.connectors.len() > CONNECTORS_MAX {
        return Err(invalid(&format!(
            "connectors: {} given, allowed are 1 to {CONNECTORS_MAX}",
            sync.connectors.len()
        )));
    }
    let mut numbers: Vec<_> = sync.connectors.iter().map(|c| c.connector).collect();
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.len() != sync.connectors.len() {
        return Err(invalid("connectors: two have the same number"));
    }
    if sync.version.len() > TEXT_BYTES_MAX {
        return Err(invalid("version: too long"));
    }
    if !(1..=sync.next).contains(&sync.first) || sync.next > u64::MAX / 2 {
        return Err(invalid(
            "first and next: records are numbered from 1, first is at most next",
        ));
    }
    Ok((cp, sync))
}

/// Reads what is told of credentials, and by whom.
///
/// # Errors
/// A sentence for whoever told it.
pub fn read_announcement(
    message: &async_nats::Message,
) -> Result<(OperatorId, Announcement), (String, Problem)> {
    let Some(Subject::Enrolment { by, verb }) = Subject::parse(&message.subject) else {
        return Err((
            String::new(),
            Code::InvalidId.about("the subject names nobody"),
        ));
    };
    let refused = |code: Code, what: &str| (by.to_string(), code.about(what));
    if verb != "charge_point" {
        return Err(refused(Code::UnknownVerb, &verb));
    }
    if message.payload.len() > REQUEST_BYTES_MAX {
        let bytes = message.payload.len();
        return Err(refused(
            Code::TooLarge,
            &format!("{bytes} bytes, allowed are {REQUEST_BYTES_MAX}"),
        ));
    }
    let told: EnrolRequest = wire::decode(&message.payload, encoding(message))
        .map_err(|e| refused(Code::InvalidRequest, &e.0))?;
    if told.to != CENTRAL {
        return Err(refused(
            Code::InvalidRequest,
            "it is not addressed to central",
        ));
    }
    if !EXPIRES_AT_MS_RANGE.contains(&told.at.0) {
        return Err(refused(Code::InvalidTime, &format!("at {}", told.at.0)));
    }
    // Of two words about a charge point the later one holds: one of the future would hold for ever.
    let ahead_ms = told.at.ms_since(engine::wall());
    if ahead_ms > ENROLLED_AHEAD_MS_MAX {
        return Err(refused(
            Code::InvalidTime,
            &format!(
                "at {}, {} s ahead of this clock,",
                told.at.0,
                ahead_ms / 1_000
            ),
        ));
    }
    if !(1..=ENROLLED_AT_ONCE_MAX).contains(&told.charge_points.len()) {
        let count = told.charge_points.len();
        return Err(refused(
            Code::InvalidRequest,
            &format!("{count} charge points given, allowed are 1 to {ENROLLED_AT_ONCE_MAX}"),
        ));
    }
    let cps: Result<Vec<CpId>, InvalidId> =
        told.charge_points.iter().map(|id| id.parse()).collect();
    if told
        .max_kw
        .is_some_and(|kw| !(1..=ENROLLED_KW_MAX).contains(&kw))
    {
        return Err(refused(
            Code::InvalidRequest,
            &format!("max_kw: allowed are 1 to {ENROLLED_KW_MAX}"),
        ));
    }
    let site = told.site_id.as_ref().map(|id| id.parse::<SiteId>());
    let zone = told.time_zone.map(time_zone).transpose();
    let announcement = Announcement {
        at: told.at,
        cps: cps.map_err(|e| refused(Code::InvalidId, &e.to_string()))?,
        revoked: told.revoked,
        site: site
            .transpose()
            .map_err(|e| refused(Code::InvalidId, &e.to_string()))?,
        time_zone: zone
            .map_err(|problem| (by.to_string(), problem))?
            .map(Arc::from),
        max_kw: told.max_kw,
    };
    Ok((by, announcement))
}

/// Which charge point a message comes from.
///
/// # Errors
/// A sentence for whoever sent it.
pub fn cp_of(message: &async_nats::Message) -> Result<CpId, (String, Problem)> {
    match Subject::parse(&message.subject) {
        Some(Subject::Sync { cp } | Subject::Event { cp } | Subject::Heartbeat { cp }) => Ok(cp),
        Some(_) | None => {
            let shown: String = message.subject.chars().take(100).collect();
            Err((
                String::new(),
                Code::InvalidId.about(&format!("`{shown}` names no charge point")),
            ))
        }
    }
}

/// Whether a message of a charge point names another sender than its subject, or another addressee
/// than central. Asked of what was refused.
#[must_use]
pub fn names_another(message: &async_nats::Message) -> bool {
    #[derive(serde::Deserialize)]
    struct Only {
        #[serde(default)]
        to: Option<String>,
        #[serde(default)]
        cp_id: Option<String>,
    }
    let Ok(cp) = cp_of(message) else {
        return true;
    };
    (message.payload.len() <= EVT_BYTES_MAX)
        .then(|| wire::decode::<Only>(&message.payload, encoding(message)).ok())
        .flatten()
        .is_some_and(|only| {
            only.to.is_some_and(|to| to != CENTRAL)
                || only.cp_id.is_some_and(|id| id != cp.as_str())
        })
}

/// Words of health kept of a heartbeat. An agent has a handful; what is beyond is left out, since
/// the heartbeat is remembered and the rest of it is needed.
const HEALTH_WORDS_MAX: usize = 32;

/// Reads a heartbeat.
///
/// # Errors
/// [`Ignored`] when it cannot be used.
pub fn read_heartbeat(
    message: &async_nats::Message,
) -> Result<ev_contract::v1::Heartbeat, Ignored> {
    let cp = cp_of(message).map_err(|_| Ignored::Unreadable)?;
    let mut heartbeat: ev_contract::v1::Heartbeat = (message.payload.len() <= REQUEST_BYTES_MAX)
        .then(|| wire::decode(&message.payload, encoding(message)).ok())
        .flatten()
        .ok_or(Ignored::Unreadable)?;
    if heartbeat.to != CENTRAL || heartbeat.cp_id != cp {
        return Err(Ignored::NotForCentral);
    }
    heartbeat.health.truncate(HEALTH_WORDS_MAX);
    heartbeat.health.shrink_to_fit();
    heartbeat.connectors.truncate(CONNECTORS_MAX);
    Ok(heartbeat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, reply: Option<&str>, body: &str) -> async_nats::Message {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(CONTENT_TYPE, wire::CONTENT_TYPE_JSON);
        async_nats::Message {
            subject: subject.into(),
            reply: reply.map(Into::into),
            payload: body.to_owned().into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: body.len(),
        }
    }

    #[test]
    fn an_announcement_of_the_future_would_hold_for_ever_and_is_refused() {
        let read = |ahead_ms| {
            let at = engine::wall().plus_ms(ahead_ms).0;
            let body = format!(
                r#"{{"type":"enrol","to":"central","at":{at},"charge_points":["CP-1"],"revoked":true}}"#
            );
            read_announcement(&message("ev.v1.enrol.registrar.charge_point", None, &body))
                .map(drop)
                .map_err(|(_, problem)| problem.code)
        };
        assert_eq!(read(ENROLLED_AHEAD_MS_MAX - 60_000), Ok(()));
        assert_eq!(read(ENROLLED_AHEAD_MS_MAX + 60_000), Err(Code::InvalidTime));
    }

    #[test]
    fn only_an_asker_of_another_account_is_answered() {
        let to = |reply| reply_to(&message("ev.v1.driver.alice.list", reply, "{}"));
        assert_eq!(
            to(Some("_R_.7Xl2.abc")).unwrap().subject,
            "_R_.7Xl2.abc",
            "the server's own"
        );
        assert_eq!(to(None).unwrap_err(), Ignored::NoReply);
        for elsewhere in [
            "ev.v1.cp.CP-001.cmd.stop",
            "ev.v1.ledger",
            "ev.v1.watch.bob.x",
            "$JS.API.STREAM.PURGE.EV_LEDGER",
            "$JS.ACK.EV_LEDGER.c.1",
            "_INBOX.x",
            "_INBOX_central-1.x",
            "_R_",
            "anything",
        ] {
            assert_eq!(
                to(Some(elsewhere)).unwrap_err(),
                Ignored::ReplyElsewhere,
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn no_time_is_implausible_for_a_stop() {
        let code = |subject: &str, body: &str| {
            let asked = read(&message(subject, Some("_R_.a.b"), body)).unwrap();
            asked.question.err().map(|problem| problem.code)
        };
        let id = "0190a0b0-1111-7222-8333-444455556666";
        for expires_at in [0, -1, 30_000, i64::MIN, i64::MAX] {
            let body = |write_off: bool| {
                format!(
                    r#"{{"request_id":"r","expires_at":{expires_at},"session_id":"{id}","reason":"x","write_off":{write_off},"cp_id":"CP-1"}}"#
                )
            };
            let (driver, operator) = ("ev.v1.driver.alice", "ev.v1.op.olga");
            assert_eq!(code(&format!("{driver}.stop"), &body(false)), None);
            assert_eq!(code(&format!("{operator}.session_end"), &body(false)), None);
            for (subject, write_off) in [
                (format!("{driver}.start"), false),
                (format!("{operator}.session_end"), true),
            ] {
                assert_eq!(
                    code(&subject, &body(write_off)),
                    Some(Code::InvalidTime),
                    "{subject} {expires_at}"
                );
            }
        }
    }

    #[test]
    fn who_names_another_as_the_asker_is_refused_and_who_names_itself_is_not() {
        let code = |subject: &str, body: &str| {
            let asked = read(&message(subject, Some("_R_.a.b"), body)).unwrap();
            asked.question.err().map(|problem| problem.code)
        };
        for (body, expected) in [
            (r#"{"driver_id":"bob"}"#, Some(Code::NotAllowed)),
            (r#"{"driver_id":""}"#, Some(Code::NotAllowed)),
            (r#"{"driver_id":"alice"}"#, None),
            (r#"{"driver_id":null}"#, None),
            (r#"{"driver_id":7}"#, None),
            (r#"{"operator_id":"bob"}"#, None),
        ] {
            assert_eq!(code("ev.v1.driver.alice.list", body), expected, "{body}");
        }
        for (body, expected) in [
            (r#"{"operator_id":"otto"}"#, Some(Code::NotAllowed)),
            (r#"{"operator_id":"olga"}"#, None),
            (r#"{"driver_id":"alice"}"#, None),
        ] {
            assert_eq!(code("ev.v1.op.olga.session_ls", body), expected, "{body}");
        }
    }
}
