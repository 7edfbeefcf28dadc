//! What a session costs here: from the session to what the contract's arithmetic needs.

use std::sync::{Arc, LazyLock};

use ev_contract::{
    ids::TariffId,
    price::{self, Buys, Usage},
    time::UnixMs,
    units::{Amount, Currency, Mwh},
    v1::{
        EndCode, EndReason, EndSource, IdleFee, IdleFrom, Limits, LimitsRequest, MeterSpan, Period,
        PriceComponent, Status, Tariff, TariffTerms,
    },
};
use rust_decimal::Decimal;

use crate::model::{Bill, Metering, Session, Stage};

/// How totals are rounded, in memory once.
fn rounding(terms: &TariffTerms) -> Arc<str> {
    static GROSS: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(price::ROUNDING));
    static NET: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(price::ROUNDING_NET));
    Arc::clone(if terms.prices_net { &NET } else { &GROSS })
}

/// What applies while no tariff is set: energy is free.
#[must_use]
pub fn free_tariff() -> Option<Arc<Tariff>> {
    Some(Arc::new(Tariff {
        tariff_id: TariffId::new("free").ok()?,
        version: 0,
        terms: TariffTerms::free(Currency::EUR),
    }))
}

/// Whether a car that stays after such an end stands for the fee: it or its driver wanted no more.
/// Where a fault, a loss of power or an operator ended the charging, only if the tariff says so.
#[must_use]
pub const fn is_standing(reason: &EndReason, after_fault: bool) -> bool {
    let theirs = match reason.code {
        EndCode::Driver
        | EndCode::Local
        | EndCode::EvStopped
        | EndCode::EnergyLimit
        | EndCode::TimeLimit
        | EndCode::CostLimit => true,
        // The plug is out.
        EndCode::EvUnplugged => return false,
        EndCode::Operator
        | EndCode::Deauthorised
        | EndCode::PlugTimeout
        | EndCode::PowerLoss
        | EndCode::Reboot
        | EndCode::Reset
        | EndCode::Unlock
        | EndCode::Emergency
        | EndCode::Fault
        | EndCode::OccupiedLocally
        | EndCode::Refused
        | EndCode::WrittenOff
        | EndCode::Other
        | EndCode::Unrecognised => false,
    };
    let staff = matches!(reason.source, EndSource::Operator | EndSource::Technician);
    (theirs && !staff) || after_fault
}

/// For how long a car may draw nothing before it stands; none where its pauses never count.
#[must_use]
pub fn patience_ms(terms: &TariffTerms) -> Option<i64> {
    match terms.idle.as_ref()?.from {
        IdleFrom::EnergyEnded => None,
        IdleFrom::WithoutPowerS(s) => Some(i64::from(s) * 1_000),
    }
}

/// Whole seconds in which a car has stood: in its pauses, and after the end of energy for the reason
/// given, where that counts.
#[must_use]
pub fn stood_s(terms: &TariffTerms, meter: &Metering, after: Option<(u32, &EndReason)>) -> u32 {
    let after_s = after.map_or(0, |(after_s, reason)| {
        let counts = terms
            .idle
            .is_none_or(|idle| is_standing(reason, idle.after_fault));
        if counts { after_s } else { 0 }
    });
    let paused_ms = patience_ms(terms).map_or(0, |patience| meter.paused_ms(patience));
    u32::try_from(paused_ms / 1_000)
        .unwrap_or(u32::MAX)
        .saturating_add(after_s)
}

/// Whole seconds from one instant to a later one; 0 when it is not later.
#[must_use]
pub fn seconds_between(from: UnixMs, to: UnixMs) -> u32 {
    u32::try_from(to.ms_since(from).max(0) / 1_000).unwrap_or(u32::MAX)
}

/// What a session costs with so much energy: what the ledger has of it, or what was heard since.
#[must_use]
pub fn cost_so_far(session: &Session, energy: Mwh, now: UnixMs) -> Amount {
    let terms = &session.tariff.terms;
    let idle_s = match &session.stage {
        Stage::Ended { receipt } => return receipt.total,
        Stage::Ordered | Stage::Taken { .. } => 0,
        Stage::Energy { meter, .. } => stood_s(terms, meter, None),
        Stage::Standing {
            meter,
            energy_ended_at,
            reason,
        } => {
            let after_s = seconds_between(*energy_ended_at, now);
            stood_s(terms, meter, Some((after_s, reason)))
        }
    };
    price::total(terms, Usage { energy, idle_s })
}

/// From when standing costs, if the car goes on to stand as it does. None where it does not stand,
/// standing is free, or its cap is reached.
#[must_use]
pub fn standing_costs_from(session: &Session) -> Option<UnixMs> {
    let terms = &session.tariff.terms;
    let idle = terms.idle?;
    if terms.price(PriceComponent::Idle).0.is_zero() || session.energy() == Mwh(0) {
        return None;
    }
    let (meter, since) = match &session.stage {
        Stage::Ordered | Stage::Taken { .. } | Stage::Ended { .. } => return None,
        Stage::Energy { meter, .. } => {
            let pause = meter.pause?;
            (meter, pause.since.plus_ms(patience_ms(terms)?))
        }
        Stage::Standing {
            meter,
            energy_ended_at,
            reason,
        } => {
            is_standing(reason, idle.after_fault).then_some(())?;
            (meter, *energy_ended_at)
        }
    };
    let free_ms = i64::from(idle.grace_s) * 1_000;
    let from = since.plus_ms((free_ms - i64::try_from(meter.stood_ms).ok()?).max(0));
    let capped_ms = i64::from(idle_s_max(terms)) * 1_000;
    (i64::try_from(meter.stood_ms).ok()? < capped_ms).then_some(from)
}

/// How long a session may stand until the idle fee's cap is reached; 0 without such a fee.
#[must_use]
pub fn idle_s_max(terms: &TariffTerms) -> u32 {
    /// A fee without a price never reaches its cap: a day then.
    const DAY_S: u32 = 24 * 3600;
    terms.idle.as_ref().map_or(0, |idle: &IdleFee| {
        let price = terms.price(PriceComponent::Idle);
        let cap_s = if price.0.is_zero() {
            DAY_S
        } else {
            use rust_decimal::prelude::ToPrimitive;
            (idle.cap.0 * Decimal::from(60) / price.0)
                .ceil()
                .to_u32()
                .unwrap_or(DAY_S)
        };
        idle.grace_s.saturating_add(cap_s).min(7 * DAY_S)
    })
}

/// Why limits were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitProblem {
    /// Zero, negative or too large; in words.
    Invalid(String),
    /// The start fee alone uses it up; in words.
    BelowFee(String),
    /// Another currency than the tariff's; in words.
    Currency(String),
}

/// Turns what was asked into what the charge point enforces. A cost limit covers start fee and
/// energy, and becomes an energy limit here; an idle fee comes on top, bounded by its own cap.
///
/// # Errors
/// [`LimitProblem`] for limits that cannot be used.
pub fn limits(asked: &LimitsRequest, terms: &TariffTerms) -> Result<Limits, LimitProblem> {
    use ev_contract::limits::{LIMIT_ENERGY_WH_MAX, LIMIT_TIME_S_MAX};
    let mut limits = Limits::default();
    if let Some(wh) = asked.energy_wh {
        if !(1..=LIMIT_ENERGY_WH_MAX).contains(&wh) {
            return Err(LimitProblem::Invalid(format!(
                "energy_wh is {wh}, allowed are 1 to {LIMIT_ENERGY_WH_MAX}"
            )));
        }
        limits.energy_mwh = Some(Mwh(wh.unsigned_abs() * 1000));
    }
    if let Some(seconds) = asked.time_s {
        limits.time_s = (1..=LIMIT_TIME_S_MAX)
            .contains(&seconds)
            .then(|| u32::try_from(seconds).ok())
            .flatten();
        if limits.time_s.is_none() {
            return Err(LimitProblem::Invalid(format!(
                "time_s is {seconds}, allowed are 1 to {LIMIT_TIME_S_MAX}"
            )));
        }
    }
    if let Some(currency) = &asked.currency
        && currency != terms.currency.as_str()
    {
        return Err(LimitProblem::Currency(format!(
            "{} given, the tariff is in {}",
            currency.chars().take(8).collect::<String>(),
            terms.currency
        )));
    }
    if let Some(cost) = &asked.cost {
        let cost: Amount = cost
            .parse()
            .map_err(|e| LimitProblem::Invalid(format!("cost: {e}")))?;
        if cost.0 <= Decimal::ZERO {
            return Err(LimitProblem::Invalid(format!("cost is {cost}")));
        }
        if !cost.is_payable(terms.currency) {
            return Err(LimitProblem::Invalid(format!(
                "cost is {cost}, {} has {} decimals",
                terms.currency,
                terms.currency.decimals()
            )));
        }
        limits.cost = Some(cost.owed(terms.currency));
        match price::buys(terms, cost) {
            Buys::Nothing => {
                let mut what = format!("{cost} {}", terms.currency);
                let fee = terms.price(PriceComponent::StartFee);
                if !fee.0.is_zero() {
                    what.push_str(&format!(" with a start fee of {fee}"));
                }
                if let Some(min) = terms.min_price {
                    what.push_str(&format!(" with a minimum of {min}"));
                }
                return Err(LimitProblem::BelowFee(what));
            }
            Buys::Energy(bought) => {
                if limits.energy_mwh.is_none_or(|energy| bought < energy) {
                    limits.energy_mwh = Some(bought);
                    limits.energy_from_cost = true;
                }
            }
            Buys::All => {}
        }
    }
    Ok(limits)
}

/// Most taxes of a tariff: a value-added tax and some local ones. A receipt has a line for each.
const TAXES_MAX: usize = 5;
/// Longest name of a tax, in bytes.
const TAX_NAME_BYTES_MAX: usize = 32;
/// Longest patience with a car that draws nothing, and longest grace: a day.
const STANDING_S_MAX: u32 = 24 * 3600;
/// Most energy without fees: what no session without a defect stays below.
const START_FEE_MIN_WH_MAX: u32 = 1_000;

/// Why a tariff cannot be used, if so.
///
/// # Errors
/// A sentence that names the field.
pub fn check_terms(terms: &TariffTerms) -> Result<(), String> {
    check_prices(terms)?;
    check_taxes(terms)?;
    let at_most = |name: &str, value: u32, most: u32| {
        if value > most {
            Err(format!("{name} is {value}, allowed are 0 to {most}"))
        } else {
            Ok(())
        }
    };
    at_most(
        "start_fee_min_wh",
        terms.start_fee_min_wh,
        START_FEE_MIN_WH_MAX,
    )?;
    if let Some(idle) = &terms.idle {
        payable("idle.cap", idle.cap, terms.currency)?;
        at_most("idle.grace_s", idle.grace_s, STANDING_S_MAX)?;
        if let IdleFrom::WithoutPowerS(s) = idle.from {
            at_most("idle.from.without_power_s", s, STANDING_S_MAX)?;
        }
    } else if !terms.price(PriceComponent::Idle).0.is_zero() {
        return Err("idle has a price and no cap: give idle.cap".into());
    }
    for (name, amount) in [
        ("min_price", terms.min_price),
        ("max_price", terms.max_price),
    ] {
        if let Some(amount) = amount {
            payable(name, amount, terms.currency)?;
        }
    }
    if let (Some(min), Some(max)) = (terms.min_price, terms.max_price)
        && min.0 > max.0
    {
        return Err(format!("min_price is {min}, above max_price, {max}"));
    }
    Ok(())
}

/// What is owed as it stands has no digits below the currency's minor unit.
fn payable(name: &str, amount: Amount, currency: Currency) -> Result<(), String> {
    /// Above this an amount is a slip of the keyboard. Some currencies need six digits for a lunch.
    const AMOUNT_MAX: i64 = 10_000_000;
    if amount.0 < Decimal::ZERO || amount.0 > Decimal::from(AMOUNT_MAX) {
        return Err(format!("{name} is {amount}, allowed are 0 to {AMOUNT_MAX}"));
    }
    if !amount.is_payable(currency) {
        return Err(format!(
            "{name} is {amount}, and {currency} has {} decimals",
            currency.decimals()
        ));
    }
    Ok(())
}

fn check_prices(terms: &TariffTerms) -> Result<(), String> {
    /// Above this a price per unit is a slip of the keyboard.
    const PRICE_MAX: i64 = 100_000;
    if terms.elements.iter().any(|e| !e.restrictions.is_empty()) {
        return Err(
            "an element has restrictions, and none is supported yet: leave them out".into(),
        );
    }
    if terms.elements.len() > 1 {
        return Err("it has several elements, and without restrictions only the first would ever count: give one".into());
    }
    let prices = terms.elements.iter().flat_map(|e| &e.price_components);
    for (at, price) in prices.clone().enumerate() {
        match price.component {
            PriceComponent::Energy | PriceComponent::StartFee | PriceComponent::Idle => {}
            PriceComponent::Minimum | PriceComponent::Maximum | PriceComponent::Unrecognised => {
                return Err("a price is of none of energy, start_fee and idle".into());
            }
        }
        if prices
            .clone()
            .take(at)
            .any(|p| p.component == price.component)
        {
            return Err(format!("{} has two prices", price.component));
        }
        let amount = price.price;
        if amount.0 < Decimal::ZERO
            || amount.0 > Decimal::from(PRICE_MAX)
            || amount.0.scale() > Amount::SCALE_MAX
        {
            return Err(format!(
                "the price of {} is {amount}, allowed are 0 to {PRICE_MAX} with at most {} decimals",
                price.component,
                Amount::SCALE_MAX
            ));
        }
    }
    Ok(())
}

fn check_taxes(terms: &TariffTerms) -> Result<(), String> {
    /// Decimals of a rate.
    const RATE_SCALE_MAX: u32 = 4;
    if terms.taxes.len() > TAXES_MAX {
        return Err(format!(
            "it has {} taxes, allowed are {TAXES_MAX}",
            terms.taxes.len()
        ));
    }
    for (at, tax) in terms.taxes.iter().enumerate() {
        let name = &tax.name;
        if name.trim().is_empty()
            || name.len() > TAX_NAME_BYTES_MAX
            || name.chars().any(char::is_control)
        {
            return Err(format!(
                "the name of a tax is {:?}: give one of up to {TAX_NAME_BYTES_MAX} bytes",
                name.chars().take(TAX_NAME_BYTES_MAX).collect::<String>()
            ));
        }
        if terms.taxes[..at].iter().any(|other| other.name == *name) {
            return Err(format!("there are two taxes of the name {name}"));
        }
        let rate = tax.percent.0;
        if rate < Decimal::ZERO || rate > Decimal::ONE_HUNDRED || rate.scale() > RATE_SCALE_MAX {
            return Err(format!(
                "the tax {name} is {} %, allowed are 0 to 100 with at most {RATE_SCALE_MAX} decimals",
                tax.percent
            ));
        }
    }
    Ok(())
}

/// What the end of a session adds to what the session already says.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The receipt's number.
    pub number: String,
    /// Who sells.
    pub operator: Arc<str>,
    /// `completed` or `failed`.
    pub status: Status,
    /// Why.
    pub reason: EndReason,
    /// When energy began, if it did.
    pub started_at: Option<UnixMs>,
    /// When energy ended, if it began.
    pub energy_ended_at: Option<UnixMs>,
    /// When the session ended.
    pub ended_at: UnixMs,
    /// Seconds of standing.
    pub idle_s: u32,
    /// When central learned of that.
    pub received_at: UnixMs,
    /// What the meters counted.
    pub meters: Vec<MeterSpan>,
    /// Where each period began.
    pub periods: Vec<Period>,
}

/// Makes the bill.
#[must_use]
pub fn bill(terms: &TariffTerms, ending: Ending) -> Bill {
    let energy = ending.meters.iter().fold(Mwh(0), |sum, s| {
        sum.saturating_add(s.to_mwh.saturating_sub(s.from_mwh))
    });
    let idle_s = ending.idle_s;
    let lines = price::lines(terms, Usage { energy, idle_s });
    let exact = price::exact(&lines);
    let owed = price::owed(terms, exact);
    Bill {
        number: ending.number,
        operator: ending.operator,
        status: ending.status,
        end: ending.reason,
        started_at: ending.started_at,
        energy_ended_at: ending.energy_ended_at,
        ended_at: ending.ended_at,
        received_at: ending.received_at,
        meters: ending.meters,
        energy_mwh: energy,
        idle_s,
        exact: Amount(exact).exact(terms.currency),
        lines,
        net: owed.net,
        taxes: owed.taxes,
        total: owed.total,
        rounding: rounding(terms),
        periods: ending.periods,
    }
}

/// What an ended session costs more once late records have said more of its energy: fees that
/// become due with it, minimum, maximum and taxes included.
#[must_use]
pub fn added(terms: &TariffTerms, bill: &Bill, before: Mwh, after: Mwh) -> Amount {
    let total = |energy| {
        let idle_s = bill.idle_s;
        price::total(terms, Usage { energy, idle_s }).0
    };
    Amount(total(after) - total(before))
}
