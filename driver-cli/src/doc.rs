//! What programs read: the JSON documents. Times are RFC 3339 in UTC, energies exact numbers of
//! watt-hours, money decimal text. A field that has no value is `null`, so that a reader finds
//! the same fields every time.

use std::fmt;

use ev_contract::{
    connector::{ConnectorState, FaultEffect, Phase, Service},
    ids::CpId,
    time::UnixMs,
    units::{Amount, Currency, MilliWatt, Mwh},
    v1::{
        Adjustment, AuditKind, AuditOutcome, AuditRow, Awaited, ChargePointListing,
        ChargePointView, CpEnrolment, DriverUpdate, EndReason, EventKind, EventRow, Flag, IdleFrom,
        MeterSpan, OpReply, Origin, PriceComponent, Reach, Receipt, ReceiptLine, ReceiptReply,
        ScopedTariff, SessionView, Status, Tariff, TariffScope,
    },
};
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;

use crate::{
    failure::Failure,
    price,
    watch::{News, Seen, Source},
    why, words,
};

/// A time as RFC 3339 text in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub UnixMs);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0.0).unwrap_or(if self.0.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        write!(f, "{time:.3}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Thousandths as an exact JSON number of whole units: milliwatt-hours as watt-hours, milliwatts
/// as watts. Written digit by digit, since a float would not hold every register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milli(pub i128);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1000, self.0.unsigned_abs() % 1000);
        if rest == 0 {
            write!(f, "{sign}{whole}")
        } else {
            let digits = format!("{rest:03}");
            write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
        }
    }
}

impl Serialize for Milli {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string())
            .map_err(S::Error::custom)?
            .serialize(s)
    }
}

impl From<Mwh> for Milli {
    fn from(energy: Mwh) -> Self {
        Self(energy.0.into())
    }
}

impl From<MilliWatt> for Milli {
    fn from(power: MilliWatt) -> Self {
        Self(power.0.into())
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorDoc {
    /// A stable word.
    pub code: String,
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// Whether the same command may succeed later.
    pub retryable: bool,
}

impl From<&Failure> for ErrorDoc {
    fn from(failure: &Failure) -> Self {
        Self {
            code: failure.code().to_owned(),
            message: failure.message(),
            hint: failure.hint().to_owned(),
            retryable: failure.retryable(),
        }
    }
}

/// `start` and `stop`, whatever came of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActionDoc {
    /// The request.
    pub request_id: Option<String>,
    /// Whose.
    pub driver_id: Option<String>,
    /// Where.
    pub cp_id: Option<String>,
    /// On which connector.
    pub connector: Option<i64>,
    /// `accepted`, `denied`, `in_progress`, `completed`, `failed`, `unknown` or `error`.
    pub status: String,
    /// One word: a code or an end reason.
    pub reason: Option<String>,
    /// The session.
    pub session_id: Option<String>,
    /// How far it is.
    pub state: Option<Phase>,
    /// Energy so far.
    pub energy_wh: Option<Milli>,
    /// Cost so far.
    pub cost: Option<Amount>,
    /// Its currency.
    pub currency: Option<Currency>,
    /// When energy began.
    pub started_at: Option<Time>,
    /// When the session ended.
    pub ended_at: Option<Time>,
    /// The price that applies, where a start was refused because another one was named.
    pub tariff: Option<TariffDoc>,
    /// Central's time.
    pub ts: Option<Time>,
    /// Why not.
    pub error: Option<ErrorDoc>,
}

impl ActionDoc {
    /// An answer.
    #[must_use]
    pub fn answer(update: &DriverUpdate) -> Self {
        Self {
            request_id: Some(update.request_id.to_string()),
            driver_id: Some(update.driver_id.to_string()),
            cp_id: Some(update.cp_id.clone()).filter(|id| !id.is_empty()),
            connector: update.connector.map(|c| c.0.into()),
            status: update.status.to_string(),
            reason: update.reason.clone(),
            session_id: update.session_id.map(|id| id.to_string()),
            state: update.phase,
            energy_wh: update.energy_mwh.map(Milli::from),
            cost: update.cost,
            currency: update.currency,
            started_at: None,
            ended_at: None,
            tariff: None,
            ts: Some(Time(update.ts)),
            error: None,
        }
    }

    /// An answer and how the session stands since.
    #[must_use]
    pub fn outcome(update: &DriverUpdate, view: &SessionView) -> Self {
        Self {
            cp_id: Some(view.cp_id.to_string()),
            connector: Some(view.connector.0.into()),
            status: view.status.to_string(),
            reason: view.reason.clone().or_else(|| end_word(view)),
            state: Some(view.state),
            energy_wh: Some(view.energy_mwh.into()),
            cost: Some(view.cost),
            currency: Some(view.currency),
            started_at: view.started_at.map(Time),
            ended_at: view.ended_at.map(Time),
            error: words::failure_of(view).map(|problem| ErrorDoc {
                code: problem.word,
                message: problem.message,
                hint: problem.hint,
                retryable: problem.retryable,
            }),
            ..Self::answer(update)
        }
    }

    /// No answer, or no.
    #[must_use]
    pub fn failed(failure: &Failure) -> Self {
        let about = failure.about();
        Self {
            request_id: about.request_id,
            driver_id: about.driver_id,
            cp_id: about.cp_id,
            connector: about.connector,
            status: failure.status().to_owned(),
            reason: Some(failure.reason().to_owned()),
            session_id: about.session_id,
            state: None,
            energy_wh: None,
            cost: None,
            currency: None,
            started_at: None,
            ended_at: None,
            tariff: about.tariff.as_deref().map(TariffDoc::from),
            ts: about.ts.map(Time),
            error: Some(failure.into()),
        }
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionDoc {
    session_id: String,
    driver_id: Option<String>,
    cp_id: String,
    connector: u16,
    site_id: String,
    time_zone: String,
    state: Phase,
    status: Status,
    origin: Origin,
    stopping: bool,
    reachable: bool,
    energy_wh: Milli,
    cost: Amount,
    currency: Currency,
    standing_costs_from: Option<Time>,
    tariff_id: String,
    tariff_version: u32,
    limits: LimitsDoc,
    accepted_at: Time,
    started_at: Option<Time>,
    energy_ended_at: Option<Time>,
    ended_at: Option<Time>,
    last_value_at: Option<Time>,
    power_w: Option<Milli>,
    soc_pct: Option<u8>,
    reason: Option<String>,
    end: Option<EndDoc>,
    receipt: Option<String>,
    waits: Option<WaitDoc>,
    pos: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct WaitDoc {
    #[serde(rename = "for")]
    awaited: Awaited,
    since: Time,
    heard_at: Option<Time>,
    attempts: u32,
    code: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LimitsDoc {
    energy_wh: Option<Milli>,
    energy_from_cost: bool,
    time_s: Option<u32>,
    cost: Option<Amount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct EndDoc {
    code: String,
    source: String,
    raw: Option<String>,
    refused: Option<String>,
    text: String,
}

impl From<&EndReason> for EndDoc {
    fn from(end: &EndReason) -> Self {
        Self {
            code: end.code.to_string(),
            source: end.source.to_string(),
            raw: end.raw.clone(),
            refused: end.refused.map(|code| code.to_string()),
            text: words::end(end.code).to_owned(),
        }
    }
}

fn end_word(view: &SessionView) -> Option<String> {
    view.end.as_ref().map(|end| end.word().to_owned())
}

impl From<&SessionView> for SessionDoc {
    fn from(view: &SessionView) -> Self {
        Self {
            session_id: view.session_id.to_string(),
            driver_id: view.driver_id.as_ref().map(ToString::to_string),
            cp_id: view.cp_id.to_string(),
            connector: view.connector.0,
            site_id: view.site_id.to_string(),
            time_zone: view.time_zone.clone(),
            state: view.state,
            status: view.status,
            origin: view.origin,
            stopping: view.stopping,
            reachable: view.reachable,
            energy_wh: view.energy_mwh.into(),
            cost: view.cost,
            currency: view.currency,
            standing_costs_from: view.standing_costs_from.map(Time),
            tariff_id: view.tariff_id.to_string(),
            tariff_version: view.tariff_version,
            limits: LimitsDoc {
                energy_wh: view.limits.energy_mwh.map(Milli::from),
                energy_from_cost: view.limits.energy_from_cost,
                time_s: view.limits.time_s,
                cost: view.limits.cost,
            },
            accepted_at: Time(view.accepted_at),
            started_at: view.started_at.map(Time),
            energy_ended_at: view.energy_ended_at.map(Time),
            ended_at: view.ended_at.map(Time),
            last_value_at: view.last_value_at.map(Time),
            power_w: view.power_mw.map(Milli::from),
            soc_pct: view.soc_pct,
            reason: view.reason.clone().or_else(|| end_word(view)),
            end: view.end.as_ref().map(EndDoc::from),
            receipt: view.receipt.clone(),
            waits: view.waits.as_ref().map(|waits| WaitDoc {
                awaited: waits.awaited,
                since: Time(waits.since),
                heard_at: waits.heard_at.map(Time),
                attempts: waits.attempts,
                code: waits.code.map(|code| code.to_string()),
            }),
            pos: view.pos,
        }
    }
}

/// `status`, `history` and `op session ls`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionsDoc {
    sessions: Vec<SessionDoc>,
    /// `status` without an open session: the one that ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_ended: Option<SessionDoc>,
    /// Give this as `--before` for more.
    next: Option<String>,
    ts: Time,
}

impl SessionsDoc {
    /// Sessions as they were answered.
    #[must_use]
    pub fn new(sessions: &[SessionView], next: Option<String>, ts: UnixMs) -> Self {
        Self {
            sessions: sessions.iter().map(SessionDoc::from).collect(),
            last_ended: None,
            next,
            ts: Time(ts),
        }
    }

    /// With the session that ended last.
    #[must_use]
    pub fn with_last_ended(mut self, last: Option<&SessionView>) -> Self {
        self.last_ended = last.map(SessionDoc::from);
        self
    }
}

/// One line of `watch`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventDoc {
    /// `status`, `update`, `live`, `silent` or `ended`.
    event: &'static str,
    #[serde(flatten)]
    session: Option<EventSession>,
    /// Why nothing is heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct EventSession {
    session_id: String,
    driver_id: Option<String>,
    cp_id: String,
    connector: u16,
    state: Phase,
    status: Status,
    stopping: bool,
    reachable: bool,
    energy_wh: Milli,
    power_w: Option<Milli>,
    soc_pct: Option<u8>,
    cost: Amount,
    currency: Currency,
    started_at: Option<Time>,
    ended_at: Option<Time>,
    value_at: Option<Time>,
    reason: Option<String>,
    pos: u64,
}

/// What is said about values of another charge point.
#[must_use]
pub fn foreign(cp: &CpId) -> String {
    format!(
        "{cp} sends values of this session, which is at another charge point: they are passed over; \
         tell the operator"
    )
}

impl EventDoc {
    /// A piece of news; `None` for the mere passing of time.
    #[must_use]
    pub fn news(news: &News) -> Option<Self> {
        match news {
            News::Seen(seen) => Some(Self {
                event: match seen.source {
                    Source::Status => "status",
                    Source::Update => "update",
                    Source::Live => "live",
                },
                session: Some(EventSession::from(&**seen)),
                message: None,
            }),
            News::Silent { why } => Some(Self {
                event: "silent",
                session: None,
                message: Some(why.clone()),
            }),
            News::Foreign { cp } => Some(Self {
                event: "foreign",
                session: None,
                message: Some(foreign(cp)),
            }),
            News::Tick => None,
        }
    }

    /// The end.
    #[must_use]
    pub fn ended(view: &SessionView) -> Self {
        Self {
            event: "ended",
            session: Some(EventSession::from(&Seen {
                source: Source::Status,
                view: view.clone(),
                live: None,
                age_ms: None,
            })),
            message: None,
        }
    }
}

impl From<&Seen> for EventSession {
    fn from(seen: &Seen) -> Self {
        let view = &seen.view;
        let live_at = seen.live.as_ref().map(|l| l.ts);
        Self {
            session_id: view.session_id.to_string(),
            driver_id: view.driver_id.as_ref().map(ToString::to_string),
            cp_id: view.cp_id.to_string(),
            connector: view.connector.0,
            state: seen.phase(),
            status: view.status,
            stopping: view.stopping,
            reachable: view.reachable,
            energy_wh: seen.energy().into(),
            power_w: seen.power().map(Milli::from),
            soc_pct: seen.soc_pct(),
            cost: view.cost,
            currency: view.currency,
            started_at: view.started_at.map(Time),
            ended_at: view.ended_at.map(Time),
            value_at: view.last_value_at.max(live_at).map(Time),
            reason: view.reason.clone().or_else(|| end_word(view)),
            pos: view.pos,
        }
    }
}

/// `list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListDoc {
    charge_points: Vec<ListedCp>,
    ts: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ListedCp {
    cp_id: String,
    site_id: String,
    time_zone: String,
    tariff: TariffDoc,
    connectors: Vec<ListedConnector>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ListedConnector {
    connector: u16,
    state: ConnectorState,
    max_ma: u32,
    phases: u8,
    session_id: Option<String>,
}

impl ListDoc {
    /// The charge points as they were answered.
    #[must_use]
    pub fn new(listing: &[ChargePointListing], ts: UnixMs) -> Self {
        let charge_points = listing
            .iter()
            .map(|cp| ListedCp {
                cp_id: cp.cp_id.to_string(),
                site_id: cp.site_id.to_string(),
                time_zone: cp.time_zone.clone(),
                tariff: (&cp.tariff).into(),
                connectors: cp
                    .connectors
                    .iter()
                    .map(|c| ListedConnector {
                        connector: c.connector.0,
                        state: c.state,
                        max_ma: c.max_ma.0,
                        phases: c.phases,
                        session_id: c.session_id.map(|id| id.to_string()),
                    })
                    .collect(),
            })
            .collect();
        Self {
            charge_points,
            ts: Time(ts),
        }
    }
}

/// A version of a tariff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TariffDoc {
    tariff_id: String,
    version: u32,
    currency: Currency,
    price_per_kwh: Amount,
    start_fee: Amount,
    start_fee_min_wh: u32,
    idle: Option<IdleDoc>,
    min_price: Option<Amount>,
    max_price: Option<Amount>,
    taxes: Vec<TaxDoc>,
    prices_net: bool,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct IdleDoc {
    price_per_minute: Amount,
    grace_s: u32,
    cap: Amount,
    /// None: a pause without power is no standing.
    without_power_s: Option<u32>,
    after_fault: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TaxDoc {
    name: String,
    percent: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Amount>,
}

impl From<&Tariff> for TariffDoc {
    fn from(tariff: &Tariff) -> Self {
        let terms = &tariff.terms;
        Self {
            tariff_id: tariff.tariff_id.to_string(),
            version: tariff.version,
            currency: terms.currency,
            price_per_kwh: terms.price(PriceComponent::Energy),
            start_fee: terms.price(PriceComponent::StartFee),
            start_fee_min_wh: terms.start_fee_min_wh,
            idle: terms.idle.map(|idle| IdleDoc {
                price_per_minute: terms.price(PriceComponent::Idle),
                grace_s: idle.grace_s,
                cap: idle.cap,
                without_power_s: match idle.from {
                    IdleFrom::EnergyEnded => None,
                    IdleFrom::WithoutPowerS(s) => Some(s),
                },
                after_fault: idle.after_fault,
            }),
            min_price: terms.min_price,
            max_price: terms.max_price,
            taxes: terms
                .taxes
                .iter()
                .map(|tax| TaxDoc {
                    name: tax.name.clone(),
                    percent: tax.percent,
                    amount: None,
                })
                .collect(),
            prices_net: terms.prices_net,
            text: price::in_words(tariff),
        }
    }
}

/// `receipt`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReceiptDoc {
    number: String,
    session_id: String,
    driver_id: Option<String>,
    operator: String,
    site_id: String,
    time_zone: String,
    cp_id: String,
    connector: u16,
    origin: Origin,
    state: Phase,
    status: Status,
    reason: String,
    end: EndDoc,
    accepted_at: Time,
    started_at: Option<Time>,
    energy_ended_at: Option<Time>,
    ended_at: Time,
    received_at: Time,
    meters: Vec<MeterDoc>,
    energy_wh: Milli,
    idle_s: u32,
    tariff: TariffDoc,
    lines: Vec<LineDoc>,
    exact: Amount,
    total: Amount,
    net: Amount,
    taxes: Vec<TaxDoc>,
    currency: Currency,
    rounding: String,
    flags: Vec<Flag>,
    adjustments: Vec<AdjustmentDoc>,
    /// The receipt's total. Adjustments come on top: see `total_adjusted`.
    cost: Amount,
    total_adjusted: Amount,
    energy_adjusted_wh: Milli,
    ts: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct MeterDoc {
    meter_id: String,
    meter_epoch: u32,
    from_wh: Milli,
    to_wh: Milli,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct LineDoc {
    component: PriceComponent,
    quantity: Amount,
    unit: String,
    price: Amount,
    amount: Amount,
    note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AdjustmentDoc {
    number: String,
    n: u32,
    by: String,
    reason: String,
    at: Time,
    energy_wh: Milli,
    amount: Amount,
    currency: Currency,
    total: Amount,
}

/// Energy of a receipt with its adjustments.
#[must_use]
pub fn energy_adjusted(reply: &ReceiptReply) -> Milli {
    let added: i128 = reply
        .adjustments
        .iter()
        .map(|a| i128::from(a.energy_mwh))
        .sum();
    Milli(i128::from(reply.receipt.energy_mwh.0) + added)
}

/// What is owed after all adjustments.
#[must_use]
pub fn total_adjusted(reply: &ReceiptReply) -> Amount {
    reply
        .adjustments
        .last()
        .map_or(reply.receipt.total, |a| a.total)
}

impl From<&ReceiptReply> for ReceiptDoc {
    fn from(reply: &ReceiptReply) -> Self {
        let r: &Receipt = &reply.receipt;
        Self {
            number: r.number.clone(),
            session_id: r.session_id.to_string(),
            driver_id: r.driver_id.as_ref().map(ToString::to_string),
            operator: r.operator.clone(),
            site_id: r.site_id.to_string(),
            time_zone: r.time_zone.clone(),
            cp_id: r.cp_id.to_string(),
            connector: r.connector.0,
            origin: r.origin,
            state: match r.status {
                Status::Failed => Phase::Failed,
                _ => Phase::Completed,
            },
            status: r.status,
            reason: r.end.word().to_owned(),
            end: (&r.end).into(),
            accepted_at: Time(r.accepted_at),
            started_at: r.started_at.map(Time),
            energy_ended_at: r.energy_ended_at.map(Time),
            ended_at: Time(r.ended_at),
            received_at: Time(r.received_at),
            meters: r.meters.iter().map(meter).collect(),
            energy_wh: r.energy_mwh.into(),
            idle_s: r.idle_s,
            tariff: (&r.tariff).into(),
            lines: r.lines.iter().map(line).collect(),
            exact: r.exact,
            total: r.total,
            net: r.net,
            taxes: r
                .taxes
                .iter()
                .map(|tax| TaxDoc {
                    name: tax.name.clone(),
                    percent: tax.percent,
                    amount: Some(tax.amount),
                })
                .collect(),
            currency: r.currency,
            rounding: r.rounding.clone(),
            flags: r.flags.clone(),
            adjustments: reply.adjustments.iter().map(adjustment).collect(),
            cost: r.total,
            total_adjusted: total_adjusted(reply),
            energy_adjusted_wh: energy_adjusted(reply),
            ts: Time(reply.ts),
        }
    }
}

fn meter(span: &MeterSpan) -> MeterDoc {
    MeterDoc {
        meter_id: span.meter_id.clone(),
        meter_epoch: span.meter_epoch,
        from_wh: span.from_mwh.into(),
        to_wh: span.to_mwh.into(),
    }
}

fn line(line: &ReceiptLine) -> LineDoc {
    LineDoc {
        component: line.component,
        quantity: line.quantity,
        unit: line.unit.clone(),
        price: line.price,
        amount: line.amount,
        note: line.note.clone(),
    }
}

fn adjustment(a: &Adjustment) -> AdjustmentDoc {
    AdjustmentDoc {
        number: a.number.clone(),
        n: a.n,
        by: a.by.clone(),
        reason: a.reason.clone(),
        at: Time(a.at),
        energy_wh: Milli(a.energy_mwh.into()),
        amount: a.amount,
        currency: a.currency,
        total: a.total,
    }
}

/// `op cp ls` and `op cp show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpsDoc {
    charge_points: Vec<CpDoc>,
    ts: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CpDoc {
    cp_id: String,
    site_id: String,
    time_zone: String,
    link: Reach,
    last_heard_at: Option<Time>,
    version: Option<String>,
    spool_depth: Option<u64>,
    clock_offset_ms: Option<i64>,
    health: Vec<String>,
    access_expires_at: Option<Time>,
    epoch: Option<String>,
    boot: Option<String>,
    other_agent: Option<OtherAgentDoc>,
    next_record: u64,
    quarantined: u64,
    missing: u64,
    anomalies: u64,
    link_since: Option<Time>,
    cut_from: Option<Time>,
    cut_until: Option<Time>,
    refuses: Vec<RefusesDoc>,
    refused: Vec<RefusedDoc>,
    tariff: TariffDoc,
    enrolment: Option<CpEnrolment>,
    out_of_service: bool,
    connectors: Vec<ConnectorDoc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct OtherAgentDoc {
    epoch: String,
    boot: String,
    since: Time,
    last_heard_at: Option<Time>,
    kept: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RefusesDoc {
    connector: Option<u16>,
    code: String,
    since: Option<Time>,
    session_id: Option<String>,
    raw: Option<String>,
    text: String,
    hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RefusedDoc {
    at: Time,
    driver_id: Option<String>,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ConnectorDoc {
    connector: u16,
    state: ConnectorState,
    service: Service,
    service_confirmed: bool,
    fault: Option<FaultDoc>,
    charger_online: bool,
    plugged: bool,
    max_ma: u32,
    phases: u8,
    sessions: Vec<String>,
    register_wh: Option<Milli>,
    power_w: Option<Milli>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct FaultDoc {
    effect: FaultEffect,
    raw: String,
}

impl CpsDoc {
    /// The charge points as they were answered.
    #[must_use]
    pub fn new(views: &[ChargePointView], ts: UnixMs) -> Self {
        Self {
            charge_points: views.iter().map(|view| CpDoc::new(view, ts)).collect(),
            ts: Time(ts),
        }
    }
}

impl CpDoc {
    fn new(cp: &ChargePointView, ts: UnixMs) -> Self {
        let refuses = cp.refuses.iter().zip(why::refuses(cp, ts));
        Self {
            cp_id: cp.cp_id.to_string(),
            site_id: cp.site_id.to_string(),
            time_zone: cp.time_zone.clone(),
            link: cp.link,
            last_heard_at: cp.last_heard_at.map(Time),
            version: cp.version.clone(),
            spool_depth: cp.spool_depth,
            clock_offset_ms: cp.clock_offset_ms,
            health: cp.health.clone(),
            access_expires_at: cp.access_expires_at.map(Time),
            epoch: cp.epoch.clone(),
            boot: cp.boot.map(|boot| boot.to_string()),
            other_agent: cp.other_agent.as_ref().map(|other| OtherAgentDoc {
                epoch: other.epoch.clone(),
                boot: other.boot.to_string(),
                since: Time(other.since),
                last_heard_at: other.last_heard_at.map(Time),
                kept: other.kept,
            }),
            next_record: cp.next_record,
            quarantined: cp.quarantined,
            missing: cp.missing,
            anomalies: cp.anomalies,
            link_since: cp.link_since.map(Time),
            cut_from: cp.cut_from.map(Time),
            cut_until: cp.cut_until.map(Time),
            refuses: refuses
                .map(|(refuses, why)| RefusesDoc {
                    connector: refuses.connector.map(|c| c.0),
                    code: refuses.code.to_string(),
                    since: refuses.since.map(Time),
                    session_id: refuses.session_id.map(|id| id.to_string()),
                    raw: refuses.raw.clone(),
                    text: why.text,
                    hint: why.hint,
                })
                .collect(),
            refused: cp
                .refused
                .iter()
                .map(|refused| RefusedDoc {
                    at: Time(refused.at),
                    driver_id: refused.driver_id.as_ref().map(ToString::to_string),
                    code: refused.code.to_string(),
                })
                .collect(),
            tariff: (&cp.tariff).into(),
            enrolment: cp.enrolment,
            out_of_service: cp.out_of_service,
            connectors: cp
                .connectors
                .iter()
                .map(|c| ConnectorDoc {
                    connector: c.connector.0,
                    state: c.state,
                    service: c.service,
                    service_confirmed: c.service_confirmed,
                    fault: c.fault.as_ref().map(|fault| FaultDoc {
                        effect: fault.effect,
                        raw: fault.raw.clone(),
                    }),
                    charger_online: c.charger_online,
                    plugged: c.plugged,
                    max_ma: c.max_ma.0,
                    phases: c.phases,
                    sessions: c.sessions.iter().map(ToString::to_string).collect(),
                    register_wh: c.register_mwh.map(Milli::from),
                    power_w: c.power_mw.map(Milli::from),
                })
                .collect(),
        }
    }
}

/// What came of an operator's verb, for one charge point where there are several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpDoc {
    /// The request.
    pub request_id: Option<String>,
    /// Where.
    pub cp_id: Option<String>,
    /// `accepted`, `denied`, `unknown` or `error`.
    pub status: String,
    /// One word.
    pub reason: Option<String>,
    /// The session.
    pub session_id: Option<String>,
    /// What was done, in words.
    pub detail: Option<String>,
    /// Central's time.
    pub ts: Option<Time>,
    /// Why not.
    pub error: Option<ErrorDoc>,
}

impl OpDoc {
    /// Done.
    #[must_use]
    pub fn done(reply: &OpReply, cp_id: Option<String>) -> Self {
        Self {
            request_id: Some(reply.request_id.clone()),
            cp_id,
            status: reply.status.to_string(),
            reason: reply.reason.clone(),
            session_id: reply.session_id.map(|id| id.to_string()),
            detail: reply.detail.clone(),
            ts: Some(Time(reply.ts)),
            error: None,
        }
    }

    /// Not done, or not known.
    #[must_use]
    pub fn failed(failure: &Failure, cp_id: Option<String>) -> Self {
        let about = failure.about();
        Self {
            request_id: about.request_id,
            cp_id: cp_id.or(about.cp_id),
            status: failure.status().to_owned(),
            reason: Some(failure.reason().to_owned()),
            session_id: about.session_id,
            detail: None,
            ts: about.ts.map(Time),
            error: Some(failure.into()),
        }
    }
}

/// `op cp enable` and its like, with `--all`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpsDoc {
    /// One a charge point.
    pub results: Vec<OpDoc>,
}

/// `op tariff ls`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TariffsDoc {
    tariffs: Vec<ScopedDoc>,
    ts: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ScopedDoc {
    scope: String,
    /// From when it applies; none for what applies now.
    from: Option<Time>,
    #[serde(flatten)]
    tariff: TariffDoc,
}

/// What applies now and what is scheduled, a version at a time.
pub fn versions(
    tariffs: &[ScopedTariff],
) -> impl Iterator<Item = (&TariffScope, Option<UnixMs>, &Tariff)> {
    tariffs.iter().flat_map(|at| {
        let now = at.tariff.iter().map(|tariff| (None, tariff));
        let next = at
            .scheduled
            .iter()
            .map(|next| (Some(next.from), &next.tariff));
        now.chain(next)
            .map(|(from, tariff)| (&at.scope, from, tariff))
    })
}

impl TariffsDoc {
    /// The tariffs as they were answered.
    #[must_use]
    pub fn new(tariffs: &[ScopedTariff], ts: UnixMs) -> Self {
        Self {
            tariffs: versions(tariffs)
                .map(|(scope, from, tariff)| ScopedDoc {
                    scope: scope.to_string(),
                    from: from.map(Time),
                    tariff: tariff.into(),
                })
                .collect(),
            ts: Time(ts),
        }
    }
}

/// `op events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventsDoc {
    events: Vec<HappenedDoc>,
    ts: Time,
}

impl EventsDoc {
    /// Events as they are shown.
    #[must_use]
    pub fn new(events: &[EventRow], ts: UnixMs) -> Self {
        Self {
            events: events.iter().map(HappenedDoc::from).collect(),
            ts: Time(ts),
        }
    }
}

/// Something that happened; with `--follow` a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HappenedDoc {
    at: Time,
    kind: EventKind,
    cp_id: Option<String>,
    connector: Option<u16>,
    session_id: Option<String>,
    driver_id: Option<String>,
    operator_id: Option<String>,
    code: Option<String>,
    detail: Option<String>,
    pos: Option<u64>,
}

impl From<&EventRow> for HappenedDoc {
    fn from(event: &EventRow) -> Self {
        Self {
            at: Time(event.at),
            kind: event.kind,
            cp_id: event.cp_id.as_ref().map(ToString::to_string),
            connector: event.connector.map(|c| c.0),
            session_id: event.session_id.map(|id| id.to_string()),
            driver_id: event.driver_id.as_ref().map(ToString::to_string),
            operator_id: event.operator_id.clone(),
            code: event.code.map(|code| code.to_string()),
            detail: event.detail.clone(),
            pos: event.pos,
        }
    }
}

/// `op audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditDoc {
    entries: Vec<AuditEntryDoc>,
    ts: Time,
}

impl AuditDoc {
    /// Entries as they were answered.
    #[must_use]
    pub fn new(rows: &[AuditRow], ts: UnixMs) -> Self {
        Self {
            entries: rows.iter().map(AuditEntryDoc::from).collect(),
            ts: Time(ts),
        }
    }
}

/// An entry of the audit; with `--follow` a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntryDoc {
    seq: u64,
    at: Time,
    kind: AuditKind,
    name: Option<String>,
    verb: String,
    outcome: AuditOutcome,
    code: Option<String>,
    detail: Option<String>,
    cp_id: Option<String>,
    connector: Option<i64>,
    session_id: Option<String>,
    driver_id: Option<String>,
    operator_id: Option<String>,
    tariff_id: Option<String>,
    key: Option<String>,
    request_id: Option<String>,
    repeat: bool,
    subject: Option<String>,
    credential: Option<String>,
    replica: String,
    entry_id: String,
}

impl From<&AuditRow> for AuditEntryDoc {
    fn from(row: &AuditRow) -> Self {
        let entry = row.entry.clone();
        Self {
            seq: row.seq,
            at: Time(entry.at),
            kind: entry.kind,
            name: entry.name,
            verb: entry.verb,
            outcome: entry.outcome,
            code: entry.code.map(|code| code.to_string()),
            detail: entry.detail,
            cp_id: entry.cp_id,
            connector: entry.connector,
            session_id: entry.session_id,
            driver_id: entry.driver_id,
            operator_id: entry.operator_id,
            tariff_id: entry.tariff_id,
            key: entry.key,
            request_id: entry.request_id,
            repeat: entry.repeat,
            subject: entry.subject,
            credential: entry.credential,
            replica: entry.replica.to_string(),
            entry_id: entry.entry_id.to_string(),
        }
    }
}

/// `run`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunDoc {
    /// In the order of the file; what was not begun is not there.
    pub sessions: Vec<RunRow>,
    /// How many the file names.
    pub planned: usize,
    /// How many were completed.
    pub completed: usize,
    /// All energy.
    pub energy_wh: Milli,
    /// All cost, by currency.
    pub cost: std::collections::BTreeMap<String, Amount>,
}

/// One session of `run`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// The line in the file.
    pub line: usize,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: ActionDoc,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::About;
    use ev_contract::codes::Code;

    fn keys(json: &str) -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn energies_are_exact_numbers() {
        for (mwh, text) in [
            (0, "0"),
            (1, "0.001"),
            (1_234_500, "1234.5"),
            (-1_500, "-1.5"),
            (i128::from(u64::MAX), "18446744073709551.615"),
        ] {
            assert_eq!(serde_json::to_string(&Milli(mwh)).unwrap(), text);
        }
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = serde_json::to_string(&Time(UnixMs(1_700_000_000_007))).unwrap();
        assert_eq!(text, r#""2023-11-14T22:13:20.007Z""#);
        assert!(Time(UnixMs(i64::MAX)).to_string().starts_with("9999"));
    }

    #[test]
    fn start_and_stop_have_their_fields_whatever_came_of_them() {
        let older: DriverUpdate = serde_json::from_str(
            r#"{"request_id":"r-1","driver_id":"alice","cp_id":"CP-001","status":"accepted","ts":1}"#,
        )
        .unwrap();
        let failure = Failure::refused(Code::Occupied.about("CP-001/1"), About::default());
        for doc in [ActionDoc::answer(&older), ActionDoc::failed(&failure)] {
            let json = serde_json::to_string(&doc).unwrap();
            for key in [
                "request_id",
                "driver_id",
                "cp_id",
                "status",
                "reason",
                "session_id",
                "ts",
                "connector",
                "error",
            ] {
                assert!(
                    keys(&json).contains(&key.to_owned()),
                    "{key} is not in {json}"
                );
            }
        }
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&ActionDoc::failed(&failure)).unwrap())
                .unwrap();
        assert_eq!(json["status"], "denied");
        assert_eq!(json["reason"], "occupied");
        assert_eq!(json["error"]["code"], "occupied");
        assert_eq!(json["error"]["retryable"], true);
        assert!(json["session_id"].is_null());
    }

    #[test]
    fn sessions_have_their_fields() {
        let view = crate::watch::tests::view(3, Phase::Charging);
        let doc = SessionsDoc::new(&[view], None, UnixMs(0));
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&doc).unwrap()).unwrap();
        let session = json["sessions"][0].as_object().unwrap();
        for key in [
            "session_id",
            "driver_id",
            "cp_id",
            "connector",
            "state",
            "energy_wh",
            "cost",
            "currency",
            "started_at",
            "ended_at",
            "reason",
        ] {
            assert!(session.contains_key(key), "{key}");
        }
        assert_eq!(session["energy_wh"].to_string(), "1234.567");
        assert_eq!(session["cost"], "0");
        assert!(session["ended_at"].is_null());
    }
}
