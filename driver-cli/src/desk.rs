//! One identity's desk: asks central, remembers what was asked, and turns every outcome into a
//! value or a [`Failure`]. No terminal: whoever serves people in another way uses this too.

use std::{path::Path, time::Duration};

use ev_contract::{
    codes::Code,
    ids::{CpId, RequestId, SessionId},
    time::UnixMs,
    v1::{
        AuditReply, AuditRequest, ChargePointListing, ChargePointView, CpLsReply, CpLsRequest,
        DriverUpdate, EventsReply, EventsRequest, HistoryReply, HistoryRequest, ListReply,
        ListRequest, OpReply, ReceiptReply, ReceiptRequest, ReceiptsReply, ReceiptsRequest,
        SessionLsReply, SessionLsRequest, SessionView, StatusReply, StatusRequest, TariffLsReply,
        TariffLsRequest, TariffRef, UptimeReply, UptimeRequest,
    },
    wire::{self, CENTRAL, Encoding, Tag},
};
use serde::Serialize;

pub use crate::client::wall_now;
use crate::{
    client::{Client, NoAnswer, Reply},
    command::Command,
    failure::{About, Failure, Refusal},
    identity::Who,
    invocation::Invocation,
    journal::{Found, Journal, Moment, Outcome, Prepared},
    price,
};

/// Most pages of a listing that are read to find one thing. At 200 rows a page that is further
/// back than a driver remembers.
const PAGES_MAX: usize = 50;

/// Asks central in the name of one identity.
#[derive(Debug, Clone)]
pub struct Desk {
    client: Client,
    who: Who,
    journal: Journal,
    invocation: Invocation,
    patience: Duration,
}

/// An answer to a command that says what to note about it.
pub trait Verdict: Reply {
    /// What to note.
    fn outcome(&self) -> Outcome;
}

impl Verdict for DriverUpdate {
    fn outcome(&self) -> Outcome {
        Outcome {
            status: self.status.to_string(),
            reason: self.reason.clone(),
            session_id: self.session_id.map(|id| id.to_string()),
        }
    }
}

impl Verdict for OpReply {
    fn outcome(&self) -> Outcome {
        Outcome {
            status: self.status.to_string(),
            reason: self.reason.clone(),
            session_id: self.session_id.map(|id| id.to_string()),
        }
    }
}

impl Desk {
    /// A desk for `who`, who has `patience` for each request.
    #[must_use]
    pub fn new(
        client: Client,
        who: Who,
        state_dir: &Path,
        invocation: Invocation,
        patience: Duration,
    ) -> Self {
        let journal = Journal::new(state_dir, &who);
        Self {
            client,
            who,
            journal,
            invocation,
            patience,
        }
    }

    /// The same desk with another patience.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// How long it waits for an answer.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// Who asks.
    #[must_use]
    pub const fn who(&self) -> &Who {
        &self.who
    }

    /// The connection.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// What was asked so far.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// How the commands of this desk are typed.
    #[must_use]
    pub const fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    /// Makes a wish ready to be sent: on disk, with an id and an expiry. A new start that names no
    /// price gets the one that was `seen`.
    ///
    /// # Errors
    /// When `named` belongs to another wish, or the disk refuses.
    pub fn prepare(
        &self,
        wish: &Command,
        seen: Option<&TariffRef>,
        named: Option<&RequestId>,
    ) -> Result<Prepared, Failure> {
        self.journal.prepare(wish, seen, named, self.moment())
    }

    /// Now, by this host's clock and by central's as far as it has told.
    fn moment(&self) -> Moment {
        let own = wall_now();
        Moment {
            own,
            central: own.plus_ms(self.client.clock_ms()),
        }
    }

    /// Sends a prepared command and repeats it until central has decided or patience is over. One
    /// that is refused for its expiry alone, since this host's clock is wrong, is sent once more
    /// under another id, with an expiry by central's clock.
    ///
    /// # Errors
    /// [`Failure::Unknown`] when it may have taken effect; its hint names the command that
    /// repeats it. [`Failure::Unreachable`] when nothing was delivered.
    pub async fn submit<T: Verdict>(&self, prepared: &Prepared) -> Result<T, Failure> {
        match self.send(prepared).await {
            Err(Failure::Refused(refusal)) if is_for_its_expiry(&refusal, prepared.found) => {
                match self.journal.replace(&prepared.command, self.moment())? {
                    Some(again) => self.send(&again).await,
                    None => Err(Failure::Refused(refusal)),
                }
            }
            other => other,
        }
    }

    /// Sends a prepared command and repeats it until central has decided or patience is over.
    ///
    /// # Errors
    /// [`Failure::Unknown`] when it may have taken effect; its hint names the command that
    /// repeats it. [`Failure::Unreachable`] when nothing was delivered.
    async fn send<T: Verdict>(&self, prepared: &Prepared) -> Result<T, Failure> {
        let command = &prepared.command;
        let bytes = command.bytes().map_err(|e| Failure::Other {
            message: e.to_string(),
            hint: "this is a defect of this program".to_owned(),
        })?;
        let (request_id, _) = command.stamp();
        let answer = self
            .client
            .ask::<T>(
                &self.who,
                command.verb(),
                Some(request_id),
                bytes,
                self.patience,
            )
            .await;
        match answer {
            Ok(answer) => {
                self.note(command, answer.outcome());
                Ok(answer)
            }
            Err(NoAnswer::Refused(mut refusal)) => {
                self.note(
                    command,
                    Outcome {
                        status: "denied".to_owned(),
                        reason: Some(refusal.reason.clone()),
                        session_id: refusal.about.session_id.clone(),
                    },
                );
                refusal.about = merged(refusal.about, self.about(command));
                if is_for_its_expiry(&refusal, prepared.found)
                    && let Some(clock) = self.wrong_clock()
                {
                    refusal.problem.hint = format!("{clock}, then ask again");
                }
                if refusal.problem.code == Code::OutcomeUnknown {
                    refusal.problem.hint = self.how_to_repeat(command);
                }
                if let (Code::PriceChanged, Some(tariff)) =
                    (refusal.problem.code, &refusal.about.tariff)
                {
                    refusal.problem.hint = format!("the price is now {}", price::in_words(tariff));
                }
                Err(Failure::Refused(refusal))
            }
            Err(NoAnswer::Silence { last }) => Err(self.unknown(command, last.as_deref())),
            // An earlier run may have delivered what this one could not.
            Err(NoAnswer::Nobody(why) | NoAnswer::Denied(why) | NoAnswer::ShutOut(why))
                if prepared.found != Found::New =>
            {
                Err(self.unknown(command, Some(&why)))
            }
            Err(NoAnswer::Nobody(why)) => {
                self.note(command, Outcome::unsent());
                Err(Failure::Unreachable {
                    message: format!("{}: {why}", cannot_ask(command)),
                    hint: "nothing was sent; try again, or see what `doctor` says".to_owned(),
                })
            }
            Err(NoAnswer::Denied(words)) => {
                self.note(command, Outcome::unsent());
                Err(denied(&words))
            }
            Err(NoAnswer::ShutOut(why)) => {
                self.note(command, Outcome::unsent());
                Err(shut_out(&why))
            }
            Err(NoAnswer::Busy(refusal)) if prepared.found != Found::New => {
                Err(self.unknown(command, Some(&refusal.problem.message)))
            }
            Err(NoAnswer::Busy(mut refusal)) => {
                self.note(command, Outcome::unsent());
                refusal.about = merged(refusal.about, self.about(command));
                Err(busy(refusal))
            }
        }
    }

    /// Writes a wish down, sends it, and sends it anew where an earlier request of the same wish
    /// turns out to have expired without effect. `id` hears under which id it goes.
    ///
    /// # Errors
    /// As [`Desk::prepare`] and [`Desk::submit`].
    pub async fn carry_out<T: Verdict>(
        &self,
        wish: &Command,
        named: Option<&RequestId>,
        mut id: impl FnMut(&str),
    ) -> Result<T, Failure> {
        let prepared = self.prepare(wish, None, named)?;
        id(prepared.command.stamp().0);
        match self.submit(&prepared).await {
            Err(failure) if prepared.found != Found::New && expired_without_effect(&failure) => {
                let anew = self.prepare(wish, None, None)?;
                id(anew.command.stamp().0);
                self.submit(&anew).await
            }
            other => other,
        }
    }

    /// That this host's clock is wrong and what to do about it, by what central has answered.
    #[must_use]
    pub fn wrong_clock(&self) -> Option<String> {
        clock_hint(self.client.clock_ms())
    }

    /// What a person hears who gives up before the answer.
    #[must_use]
    pub fn given_up(&self, command: &Command) -> Failure {
        Failure::Interrupted {
            message: format!(
                "interrupted: whether {} took effect is not known (request {})",
                command.in_words(),
                command.stamp().0
            ),
            hint: self.how_to_repeat(command),
            about: Box::new(self.about(command)),
        }
    }

    /// The open sessions of the driver, newest first.
    ///
    /// # Errors
    /// As every query.
    pub async fn open_sessions(&self) -> Result<StatusReply, Failure> {
        self.query(
            "status",
            &StatusRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                session_id: None,
            },
        )
        .await
    }

    /// One session of the driver, open or ended.
    ///
    /// # Errors
    /// As every query; `session_not_found` when there is none.
    pub async fn session(&self, session: SessionId) -> Result<(SessionView, UnixMs), Failure> {
        let reply: StatusReply = self
            .query(
                "status",
                &StatusRequest {
                    tag: Tag::new(),
                    to: CENTRAL.to_owned(),
                    session_id: Some(session.to_string()),
                },
            )
            .await?;
        let ts = reply.ts;
        reply
            .sessions
            .into_iter()
            .find(|s| s.session_id == session)
            .map(|view| (view, ts))
            .ok_or_else(|| {
                Failure::refused(
                    Code::SessionNotFound.about(&session.to_string()),
                    About {
                        session_id: Some(session.to_string()),
                        ts: Some(ts),
                        ..About::default()
                    },
                )
            })
    }

    /// A page of the charge points.
    ///
    /// # Errors
    /// As every query.
    pub async fn list_page(
        &self,
        after: Option<String>,
        rows: Option<u32>,
    ) -> Result<ListReply, Failure> {
        self.query(
            "list",
            &ListRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                after,
                rows,
            },
        )
        .await
    }

    /// Asks for one charge point only, to see that central answers: whether there is any, and
    /// central's time.
    ///
    /// # Errors
    /// As every query.
    pub async fn probe(&self) -> Result<(bool, UnixMs), Failure> {
        match &self.who {
            Who::Driver(_) => {
                let reply = self.list_page(None, Some(1)).await?;
                Ok((!reply.charge_points.is_empty(), reply.ts))
            }
            Who::Operator(_) => {
                let request = CpLsRequest {
                    tag: Tag::new(),
                    to: CENTRAL.to_owned(),
                    cp_id: None,
                    after: None,
                    rows: Some(1),
                };
                let reply: CpLsReply = self.query("cp_ls", &request).await?;
                Ok((!reply.charge_points.is_empty(), reply.ts))
            }
        }
    }

    /// All charge points, by id.
    ///
    /// # Errors
    /// As every query.
    pub async fn list(&self) -> Result<(Vec<ChargePointListing>, UnixMs), Failure> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.list_page(after, None).await?;
            // A page must move on, or a faulty peer would keep us here.
            let grew = !page.charge_points.is_empty();
            all.extend(page.charge_points);
            if page.next.is_none() || !grew {
                return Ok((all, page.ts));
            }
            after = page.next;
        }
    }

    /// One charge point, if there is such a one.
    ///
    /// # Errors
    /// As every query.
    pub async fn charge_point(&self, cp: &CpId) -> Result<Option<ChargePointListing>, Failure> {
        let page = self.list_page(just_before(cp.as_str()), Some(1)).await?;
        Ok(page.charge_points.into_iter().find(|c| c.cp_id == *cp))
    }

    /// A page of the driver's sessions, newest first.
    ///
    /// # Errors
    /// As every query.
    pub async fn history_page(
        &self,
        before: Option<String>,
        rows: Option<u32>,
    ) -> Result<HistoryReply, Failure> {
        self.query(
            "history",
            &HistoryRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                before,
                rows,
            },
        )
        .await
    }

    /// The receipt of a session.
    ///
    /// # Errors
    /// As every query; `receipt_not_ready` while it is open.
    pub async fn receipt(&self, session: SessionId) -> Result<ReceiptReply, Failure> {
        self.query(
            "receipt",
            &ReceiptRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                session_id: session.to_string(),
            },
        )
        .await
    }

    /// Charge points as operators see them: one, or all by id.
    ///
    /// # Errors
    /// As every query.
    pub async fn cp_ls(
        &self,
        only: Option<&str>,
    ) -> Result<(Vec<ChargePointView>, UnixMs), Failure> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page: CpLsReply = self
                .query(
                    "cp_ls",
                    &CpLsRequest {
                        tag: Tag::new(),
                        to: CENTRAL.to_owned(),
                        cp_id: only.map(str::to_owned),
                        after,
                        rows: None,
                    },
                )
                .await?;
            let grew = !page.charge_points.is_empty();
            all.extend(page.charge_points);
            if page.next.is_none() || !grew {
                return Ok((all, page.ts));
            }
            after = page.next;
        }
    }

    /// A page of everybody's sessions, newest first.
    ///
    /// # Errors
    /// As every query.
    pub async fn session_ls_page(
        &self,
        filter: &SessionFilter,
        before: Option<String>,
        rows: Option<u32>,
    ) -> Result<SessionLsReply, Failure> {
        self.query(
            "session_ls",
            &SessionLsRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                driver_id: filter.driver_id.clone(),
                cp_id: filter.cp_id.clone(),
                session_id: filter.session_id.clone(),
                all: filter.all,
                before,
                rows,
            },
        )
        .await
    }

    /// What tariff applies where.
    ///
    /// # Errors
    /// As every query.
    pub async fn tariff_ls(&self) -> Result<TariffLsReply, Failure> {
        self.query(
            "tariff_ls",
            &TariffLsRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
            },
        )
        .await
    }

    /// A page of the audit.
    ///
    /// # Errors
    /// As every query.
    pub async fn audit_page(&self, request: &AuditRequest) -> Result<AuditReply, Failure> {
        self.query("audit", request).await
    }

    /// A page of what happened.
    ///
    /// # Errors
    /// As every query.
    pub async fn events_page(&self, request: &EventsRequest) -> Result<EventsReply, Failure> {
        self.query("events", request).await
    }

    /// A page of the receipts or adjustments of all sessions.
    ///
    /// # Errors
    /// As every query.
    pub async fn receipts_page(&self, request: &ReceiptsRequest) -> Result<ReceiptsReply, Failure> {
        self.query("receipt_ls", request).await
    }

    /// A page of what was seen of connectors.
    ///
    /// # Errors
    /// As every query.
    pub async fn uptime_page(&self, request: &UptimeRequest) -> Result<UptimeReply, Failure> {
        self.query("uptime", request).await
    }

    /// The session that `text` means: a full id, or the beginning of exactly one. Open sessions
    /// are looked at first, then ended ones. For a driver the driver's own, for an operator all.
    ///
    /// # Errors
    /// [`Failure::NotFound`], and [`Failure::Usage`] with the candidates when there are several.
    pub async fn resolve(&self, text: &str) -> Result<SessionId, Failure> {
        if let Ok(id) = SessionId::parse(text) {
            return Ok(id);
        }
        let prefix = text.to_ascii_lowercase();
        if !could_be_a_prefix(&prefix) {
            return Err(Failure::NotFound {
                message: format!("`{text}` is neither a session id nor the beginning of one"),
                hint: match &self.who {
                    Who::Driver(_) => "`status` and `history` show the ids",
                    Who::Operator(_) => "`op session ls --all` shows the ids",
                }
                .to_owned(),
            });
        }
        let open = match &self.who {
            Who::Driver(_) => self.open_sessions().await?.sessions,
            Who::Operator(_) => {
                self.session_ls_page(&SessionFilter::default(), None, None)
                    .await?
                    .sessions
            }
        };
        if let Some(id) = one_that_begins_with(&prefix, &open)? {
            return Ok(id);
        }
        let mut found = Vec::new();
        let mut before = None;
        for _ in 0..PAGES_MAX {
            let (sessions, next) = match &self.who {
                Who::Driver(_) => {
                    let page = self.history_page(before, None).await?;
                    (page.sessions, page.next)
                }
                Who::Operator(_) => {
                    let all = SessionFilter {
                        all: true,
                        ..SessionFilter::default()
                    };
                    let page = self.session_ls_page(&all, before, None).await?;
                    (page.sessions, page.next)
                }
            };
            let empty = sessions.is_empty();
            found.extend(
                sessions
                    .into_iter()
                    .filter(|s| s.session_id.to_string().starts_with(&prefix)),
            );
            // Two are enough to know that it is ambiguous; a full page of them would not help.
            if found.len() > 1 || next.is_none() || empty {
                break;
            }
            before = next;
        }
        one_that_begins_with(&prefix, &found)?.ok_or_else(|| match &self.who {
            Who::Driver(_) => Failure::NotFound {
                message: format!("you have no session that begins with {text}"),
                hint: "`status` and `history` show your sessions".to_owned(),
            },
            Who::Operator(_) => Failure::NotFound {
                message: format!("there is no session that begins with {text}"),
                hint: "`op session ls --all` shows them".to_owned(),
            },
        })
    }

    /// The driver's only open session.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when there is none, [`Failure::Usage`] with the candidates when
    /// there are several.
    pub async fn only_open_session(&self) -> Result<SessionView, Failure> {
        let mut open = self.open_sessions().await?.sessions;
        match open.len() {
            0 => Err(Failure::NotFound {
                message: "you have no open session".to_owned(),
                hint: "`history` shows the ended ones".to_owned(),
            }),
            1 => Ok(open.remove(0)),
            n => Err(Failure::usage(
                format!("you have {n} open sessions:{}", candidates(&open)),
                "name one of them; the beginning of its id will do",
            )),
        }
    }

    async fn query<T: Reply>(&self, verb: &str, request: &impl Serialize) -> Result<T, Failure> {
        let bytes = wire::encode(request, Encoding::MsgPack).map_err(|e| Failure::Other {
            message: e.to_string(),
            hint: "this is a defect of this program".to_owned(),
        })?;
        self.client
            .ask::<T>(&self.who, verb, None, bytes, self.patience)
            .await
            .map_err(|no_answer| match no_answer {
                NoAnswer::Refused(refusal) => Failure::Refused(refusal),
                NoAnswer::Silence { last } => Failure::Unknown {
                    message: format!(
                        "central has not answered `{verb}` within {}{}",
                        seconds(self.patience),
                        because(last.as_deref())
                    ),
                    hint: "ask again; nothing was changed; `doctor` tells more".to_owned(),
                    about: Box::default(),
                },
                NoAnswer::Nobody(why) => Failure::Unreachable {
                    message: format!("cannot ask for `{verb}`: {why}"),
                    hint: "try again, or see what `doctor` says".to_owned(),
                },
                NoAnswer::Denied(words) => denied(&words),
                NoAnswer::ShutOut(why) => shut_out(&why),
                NoAnswer::Busy(refusal) => busy(refusal),
            })
    }

    /// A note that cannot be written does no harm: a repeat gets the same answer.
    fn note(&self, command: &Command, outcome: Outcome) {
        let _ = self.journal.settle(command, outcome);
    }

    fn unknown(&self, command: &Command, last: Option<&str>) -> Failure {
        Failure::Unknown {
            message: format!(
                "whether {} took effect is not known: no final answer within {}{} (request {})",
                command.in_words(),
                seconds(self.patience),
                because(last),
                command.stamp().0
            ),
            hint: self.how_to_repeat(command),
            about: Box::new(self.about(command)),
        }
    }

    fn how_to_repeat(&self, command: &Command) -> String {
        format!(
            "repeat it, that is safe and cannot do it twice: {}",
            self.invocation.repeat(command)
        )
    }

    fn about(&self, command: &Command) -> About {
        let about = command.about();
        let driver_id = match &self.who {
            Who::Driver(driver) => Some(driver.to_string()),
            Who::Operator(_) => about.driver_id.clone(),
        };
        About { driver_id, ..about }
    }
}

/// Which sessions an operator wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    /// Only of this driver.
    pub driver_id: Option<String>,
    /// Only on this charge point.
    pub cp_id: Option<String>,
    /// Only this one, ended or not.
    pub session_id: Option<String>,
    /// Ended ones too.
    pub all: bool,
}

/// Whether central has refused a request for its expiry and nothing else, so that it took no effect
/// and never will. A request that is older than what central remembers may have been answered and
/// forgotten, unless it was drawn just now.
fn is_for_its_expiry(refusal: &Refusal, found: Found) -> bool {
    match refusal.problem.code {
        Code::Expired | Code::ExpiryTooFar | Code::InvalidTime => true,
        Code::Forgotten => found == Found::New,
        _ => false,
    }
}

/// Whether a repeated request never took effect and never will, so that the wish is free again.
#[must_use]
pub fn expired_without_effect(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(refusal) if refusal.problem.code == Code::Expired)
}

/// The greatest id below `id`, so that a page of one row after it is `id`'s own, whatever else
/// there is. `None` where nothing is below.
fn just_before(id: &str) -> Option<String> {
    const ALPHABET: &[u8] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
    let (head, last) = id.split_at_checked(id.len().checked_sub(1)?)?;
    let at = ALPHABET.iter().position(|&b| [b] == last.as_bytes())?;
    match at.checked_sub(1) {
        // The first of the alphabet: only the head itself lies directly below.
        None => (!head.is_empty()).then(|| head.to_owned()),
        Some(below) => {
            let mut before = head.to_owned();
            before.push(char::from(ALPHABET[below]));
            before.extend(std::iter::repeat_n(
                'z',
                ev_contract::ids::ID_BYTES_MAX.saturating_sub(before.len()),
            ));
            Some(before)
        }
    }
}

fn could_be_a_prefix(text: &str) -> bool {
    (1..=36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn one_that_begins_with(
    prefix: &str,
    sessions: &[SessionView],
) -> Result<Option<SessionId>, Failure> {
    let found: Vec<SessionView> = sessions
        .iter()
        .filter(|s| s.session_id.to_string().starts_with(prefix))
        .cloned()
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.session_id)),
        several => Err(Failure::usage(
            format!(
                "several sessions begin with {prefix}:{}",
                candidates(several)
            ),
            "give more of the id",
        )),
    }
}

/// Enough to choose from, and no flood.
fn candidates(sessions: &[SessionView]) -> String {
    const SHOWN_MAX: usize = 10;
    let mut text = String::new();
    for s in sessions.iter().take(SHOWN_MAX) {
        text.push_str(&format!(
            "\n  {} on {}/{} ({})",
            s.session_id, s.cp_id, s.connector, s.state
        ));
    }
    if sessions.len() > SHOWN_MAX {
        text.push_str(&format!("\n  and {} more", sessions.len() - SHOWN_MAX));
    }
    text
}

/// What to do about a clock that is so far from central's; none where it is near enough.
fn clock_hint(central_less_own_ms: i64) -> Option<String> {
    /// Below this, the way of the answer is as likely.
    const NOTABLE_MS: i64 = 5_000;
    (central_less_own_ms.abs() > NOTABLE_MS).then(|| {
        format!(
            "this clock is {} s {} central's: set it right (timedatectl set-ntp true)",
            central_less_own_ms.abs() / 1_000,
            if central_less_own_ms > 0 {
                "behind"
            } else {
                "ahead of"
            },
        )
    })
}

/// What central left out, from what was asked.
fn merged(said: About, asked: About) -> About {
    About {
        request_id: said.request_id.or(asked.request_id),
        driver_id: asked.driver_id.or(said.driver_id),
        cp_id: said.cp_id.or(asked.cp_id),
        connector: said.connector.or(asked.connector),
        session_id: said.session_id.or(asked.session_id),
        ts: said.ts,
        tariff: said.tariff,
    }
}

fn cannot_ask(command: &Command) -> String {
    format!("cannot ask for {}", command.in_words())
}

fn denied(words: &str) -> Failure {
    Failure::NotPermitted {
        message: format!("the NATS server does not permit this: {words}"),
        hint: "check that the credentials belong to the --driver or --operator that you name"
            .to_owned(),
    }
}

fn shut_out(why: &str) -> Failure {
    Failure::NotPermitted {
        message: format!("the NATS server no longer lets you in: {why}"),
        hint: "an open session goes on meanwhile; if the credential is at fault, whoever runs the \
               system makes a new one with `central enrol`"
            .to_owned(),
    }
}

fn busy(mut refusal: Box<Refusal>) -> Failure {
    let wait = Duration::from_millis(refusal.problem.retry_after_ms.unwrap_or(1_000));
    refusal.problem.hint = format!(
        "nothing was decided; ask again in {} s",
        wait.as_secs_f32().ceil()
    );
    Failure::Refused(refusal)
}

fn because(last: Option<&str>) -> String {
    last.map(|words| format!("; {words}")).unwrap_or_default()
}

fn seconds(patience: Duration) -> String {
    if patience.subsec_millis() == 0 {
        format!("{} s", patience.as_secs())
    } else {
        format!("{} ms", patience.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fits_between_an_id_and_the_one_just_before_it() {
        let before = just_before("CP-001").unwrap();
        assert!(before.as_str() < "CP-001" && before.as_str() > "CP-000zzz");
        assert!(CpId::new(&before).is_ok());
        assert_eq!(just_before("CP-").as_deref(), Some("CP"));
        assert_eq!(just_before("-"), None);
        assert!(just_before("a").is_some_and(|b| b.starts_with('_')));
    }

    #[test]
    fn only_what_can_never_take_effect_is_refused_for_its_expiry() {
        let refusal = |code: Code| Refusal {
            problem: code.about("x"),
            reason: code.to_string(),
            about: About::default(),
        };
        for &code in Code::ALL {
            let always = matches!(code, Code::Expired | Code::ExpiryTooFar | Code::InvalidTime);
            assert_eq!(
                is_for_its_expiry(&refusal(code), Found::Named),
                always,
                "{code}"
            );
            let new = always || code == Code::Forgotten;
            assert_eq!(is_for_its_expiry(&refusal(code), Found::New), new, "{code}");
        }
    }

    #[test]
    fn a_clock_is_told_on_which_side_it_is_wrong() {
        assert_eq!(clock_hint(4_900), None);
        assert_eq!(clock_hint(-4_900), None);
        assert!(clock_hint(7_200_000).unwrap().contains("7200 s behind"));
        assert!(clock_hint(-7_200_000).unwrap().contains("7200 s ahead of"));
    }

    #[test]
    fn a_prefix_is_hexadecimal() {
        assert!(could_be_a_prefix("0190a0b0-11"));
        for no in ["", "xyz", "CP-001", "*"] {
            assert!(!could_be_a_prefix(no), "{no}");
        }
    }
}
