//! What a session costs. Decimal throughout; rounded once, on the receipt.

use std::sync::{Arc, LazyLock};

use ev_contract::{
    ids::TariffId,
    time::UnixMs,
    units::{Amount, Currency, Mwh},
    v1::{
        EndReason, IdleFee, Limits, LimitsRequest, MeterSpan, Period, PriceComponent, ReceiptLine,
        Status, Tariff, TariffTerms,
    },
};
use rust_decimal::{Decimal, RoundingStrategy};

use crate::model::{Bill, Session};

/// Digits after the point of what is owed. Every currency in use here has cents.
pub const CENTS: u32 = 2;

/// How a total is rounded, as the receipt says it.
pub const ROUNDING: &str = "the exact sum of the lines is rounded once, half up, to 0.01; net is total / (1 + VAT) rounded half up to 0.01, VAT is the rest";

/// The same, in memory once.
fn rounding() -> Arc<str> {
    static WORDS: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(ROUNDING));
    Arc::clone(&WORDS)
}

/// What applies while no tariff is set: energy is free.
#[must_use]
pub fn free_tariff() -> Option<Arc<Tariff>> {
    Some(Arc::new(Tariff {
        tariff_id: TariffId::new("free").ok()?,
        version: 0,
        terms: TariffTerms {
            currency: Currency::EUR,
            price_per_kwh: Amount::ZERO,
            start_fee: Amount::ZERO,
            idle: None,
            vat_percent: Amount::ZERO,
        },
    }))
}

fn round(exact: Decimal) -> Decimal {
    let mut rounded = exact.round_dp_with_strategy(CENTS, RoundingStrategy::MidpointAwayFromZero);
    rounded.rescale(CENTS);
    rounded
}

/// An amount in whole cents.
#[must_use]
pub fn cents(amount: Amount) -> Amount {
    Amount(round(amount.0))
}

/// What has been used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Energy.
    pub energy: Mwh,
    /// Whether energy has begun: then the start fee is due.
    pub began: bool,
    /// Seconds from the end of energy.
    pub idle_s: u32,
}

/// A line per price component, exact.
#[must_use]
pub fn lines(terms: &TariffTerms, usage: Usage) -> Vec<ReceiptLine> {
    let mut lines = Vec::new();
    if !usage.began {
        return lines;
    }
    let energy = usage.energy.kwh();
    lines.push(ReceiptLine {
        component: PriceComponent::Energy,
        quantity: Amount(energy),
        unit: "kWh".into(),
        price: terms.price_per_kwh,
        amount: Amount((energy * terms.price_per_kwh.0).normalize()),
        note: None,
    });
    if !terms.start_fee.0.is_zero() {
        lines.push(ReceiptLine {
            component: PriceComponent::StartFee,
            quantity: Amount(Decimal::ONE),
            unit: "start".into(),
            price: terms.start_fee,
            amount: terms.start_fee,
            note: None,
        });
    }
    if let Some(idle) = &terms.idle {
        let billed_s = usage.idle_s.saturating_sub(idle.grace_s);
        if billed_s > 0 {
            // Multiplied before divided: a price per minute for a number of seconds is exact to
            // 28 digits that way, and to the last digit when the seconds make whole minutes.
            let product =
                (Decimal::from(billed_s) * idle.price_per_minute.0 / Decimal::from(60)).normalize();
            let capped = product >= idle.cap.0;
            lines.push(ReceiptLine {
                component: PriceComponent::Idle,
                quantity: Amount(
                    (Decimal::from(billed_s) / Decimal::from(60))
                        .round_dp(6)
                        .normalize(),
                ),
                unit: "min".into(),
                price: idle.price_per_minute,
                amount: Amount(if capped { idle.cap.0 } else { product }),
                note: capped.then(|| "cap".to_owned()),
            });
        }
    }
    lines
}

/// The exact sum of lines.
#[must_use]
pub fn exact(lines: &[ReceiptLine]) -> Decimal {
    lines.iter().map(|line| line.amount.0).sum()
}

/// What is owed for lines.
#[must_use]
pub fn total(lines: &[ReceiptLine]) -> Amount {
    Amount(round(exact(lines)))
}

/// A total without its VAT, and the VAT; together the total.
#[must_use]
pub fn split_vat(total: Amount, vat_percent: Amount) -> (Amount, Amount) {
    let net = round(total.0 * Decimal::ONE_HUNDRED / (Decimal::ONE_HUNDRED + vat_percent.0));
    (Amount(net), Amount(total.0 - net))
}

/// What a session costs with so much energy: what the ledger has of it, or what was heard since.
#[must_use]
pub fn cost_so_far(session: &Session, energy: Mwh, now: UnixMs) -> Amount {
    use crate::model::Stage;
    match &session.stage {
        Stage::Ended { receipt } => receipt.total,
        Stage::Ordered | Stage::Taken { .. } => Amount(round(Decimal::ZERO)),
        Stage::Energy { .. } => total(&lines(
            &session.tariff.terms,
            Usage {
                energy,
                began: true,
                idle_s: 0,
            },
        )),
        Stage::Standing {
            energy_ended_at, ..
        } => total(&lines(
            &session.tariff.terms,
            Usage {
                energy,
                began: true,
                idle_s: seconds_between(*energy_ended_at, now),
            },
        )),
    }
}

/// Whole seconds from one instant to a later one; 0 when it is not later.
#[must_use]
pub fn seconds_between(from: UnixMs, to: UnixMs) -> u32 {
    u32::try_from(to.ms_since(from).max(0) / 1000).unwrap_or(u32::MAX)
}

/// How long a session may stand until the idle fee's cap is reached; 0 without such a fee.
#[must_use]
pub fn idle_s_max(terms: &TariffTerms) -> u32 {
    /// A fee without a price never reaches its cap: a day then.
    const DAY_S: u32 = 24 * 3600;
    terms.idle.as_ref().map_or(0, |idle: &IdleFee| {
        let cap_s = if idle.price_per_minute.0.is_zero() {
            DAY_S
        } else {
            use rust_decimal::prelude::ToPrimitive;
            (idle.cap.0 * Decimal::from(60) / idle.price_per_minute.0)
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
        limits.cost = Some(cost);
        let rest = cost.0 - terms.start_fee.0;
        let below = || {
            LimitProblem::BelowFee(format!(
                "{cost} {} with a start fee of {}",
                terms.currency, terms.start_fee
            ))
        };
        if rest <= Decimal::ZERO {
            return Err(below());
        }
        if !terms.price_per_kwh.0.is_zero() {
            use rust_decimal::prelude::ToPrimitive;
            let bought = (rest * Decimal::from(Mwh::KWH.0) / terms.price_per_kwh.0)
                .floor()
                .to_u64()
                .unwrap_or(u64::MAX);
            if bought == 0 {
                return Err(below());
            }
            if limits.energy_mwh.is_none_or(|energy| bought < energy.0) {
                limits.energy_mwh = Some(Mwh(bought));
                limits.energy_from_cost = true;
            }
        }
    }
    Ok(limits)
}

/// Why a tariff cannot be used, if so.
///
/// # Errors
/// A sentence that names the field.
pub fn check_terms(terms: &TariffTerms) -> Result<(), String> {
    /// Above this a price is a slip of the keyboard.
    const PRICE_MAX: i64 = 1_000;
    let price = |name: &str, amount: Amount| {
        if amount.0 < Decimal::ZERO
            || amount.0 > Decimal::from(PRICE_MAX)
            || amount.0.scale() > Amount::SCALE_MAX
        {
            Err(format!(
                "{name} is {amount}, allowed are 0 to {PRICE_MAX} with at most {} decimals",
                Amount::SCALE_MAX
            ))
        } else {
            Ok(())
        }
    };
    price("price_per_kwh", terms.price_per_kwh)?;
    price("start_fee", terms.start_fee)?;
    if terms.vat_percent.0 < Decimal::ZERO || terms.vat_percent.0 > Decimal::ONE_HUNDRED {
        return Err(format!(
            "vat_percent is {}, allowed are 0 to 100",
            terms.vat_percent
        ));
    }
    if let Some(idle) = &terms.idle {
        price("idle.price_per_minute", idle.price_per_minute)?;
        price("idle.cap", idle.cap)?;
        if idle.grace_s > 24 * 3600 {
            return Err(format!(
                "idle.grace_s is {}, allowed are 0 to 86400",
                idle.grace_s
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
    let idle_s = ending
        .energy_ended_at
        .map_or(0, |at| seconds_between(at, ending.ended_at));
    let lines = lines(
        terms,
        Usage {
            energy,
            began: ending.started_at.is_some(),
            idle_s,
        },
    );
    let total = total(&lines);
    let (net, vat) = split_vat(total, terms.vat_percent);
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
        exact: Amount(exact(&lines).normalize()),
        lines,
        total,
        net,
        vat,
        rounding: rounding(),
        periods: ending.periods,
    }
}

/// The money for energy that a late record adds.
#[must_use]
pub fn energy_amount(terms: &TariffTerms, energy: Mwh) -> Amount {
    Amount(energy.kwh() * terms.price_per_kwh.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> TariffTerms {
        TariffTerms {
            currency: Currency::EUR,
            price_per_kwh: "0.49".parse().unwrap(),
            start_fee: "1".parse().unwrap(),
            idle: Some(IdleFee {
                price_per_minute: "0.10".parse().unwrap(),
                grace_s: 600,
                cap: "12".parse().unwrap(),
            }),
            vat_percent: "19".parse().unwrap(),
        }
    }

    #[test]
    fn the_total_is_the_exact_sum_rounded_once() {
        let lines = lines(
            &terms(),
            Usage {
                energy: Mwh(7_123_456),
                began: true,
                idle_s: 600 + 90,
            },
        );
        assert_eq!(exact(&lines).to_string(), "4.64049344");
        let total = total(&lines);
        assert_eq!(total.to_string(), "4.64");
        let (net, vat) = split_vat(total, terms().vat_percent);
        assert_eq!(
            (net.to_string(), vat.to_string()),
            ("3.90".into(), "0.74".into())
        );
        assert_eq!(net.0 + vat.0, total.0);
    }

    #[test]
    fn half_a_cent_is_rounded_up() {
        let half = TariffTerms {
            price_per_kwh: "0.005".parse().unwrap(),
            start_fee: Amount::ZERO,
            ..terms()
        };
        let lines = lines(
            &half,
            Usage {
                energy: Mwh::KWH,
                began: true,
                idle_s: 0,
            },
        );
        assert_eq!(total(&lines).to_string(), "0.01");
    }

    #[test]
    fn standing_costs_after_the_grace_and_up_to_the_cap() {
        let idle_line = |idle_s| {
            lines(
                &terms(),
                Usage {
                    energy: Mwh(0),
                    began: true,
                    idle_s,
                },
            )
            .into_iter()
            .find(|l| l.component == PriceComponent::Idle)
        };
        assert_eq!(idle_line(600), None);
        assert_eq!(idle_line(660).unwrap().amount.to_string(), "0.1");
        let capped = idle_line(1_000_000).unwrap();
        assert_eq!(capped.amount.to_string(), "12");
        assert_eq!(capped.note.as_deref(), Some("cap"));
        assert_eq!(idle_s_max(&terms()), 600 + 7200);
    }

    #[test]
    fn a_session_without_energy_costs_nothing() {
        assert!(lines(&terms(), Usage::default()).is_empty());
    }

    #[test]
    fn a_cost_limit_becomes_an_energy_limit_that_it_pays_for() {
        let asked = LimitsRequest {
            cost: Some("10".into()),
            ..LimitsRequest::default()
        };
        let limits = limits(&asked, &terms()).unwrap();
        let energy = limits.energy_mwh.unwrap();
        assert!(limits.energy_from_cost);
        let cost = |energy| {
            exact(&lines(
                &terms(),
                Usage {
                    energy,
                    began: true,
                    idle_s: 0,
                },
            ))
        };
        assert!(cost(energy) <= Decimal::from(10));
        assert!(cost(Mwh(energy.0 + 3)) > Decimal::from(10));
    }

    #[test]
    fn limits_that_cannot_be_used_are_refused() {
        let asked = |energy_wh, time_s, cost: Option<&str>| LimitsRequest {
            energy_wh,
            time_s,
            cost: cost.map(str::to_owned),
            currency: None,
        };
        for bad in [
            asked(Some(0), None, None),
            asked(Some(-5), None, None),
            asked(Some(i64::MAX), None, None),
            asked(None, Some(0), None),
            asked(None, Some(-1), None),
            asked(None, Some(i64::MAX), None),
            asked(None, None, Some("0")),
            asked(None, None, Some("-1")),
            asked(None, None, Some("1e3")),
            asked(None, None, Some("99999999999999999999999999999")),
        ] {
            assert!(
                matches!(limits(&bad, &terms()), Err(LimitProblem::Invalid(_))),
                "{bad:?}"
            );
        }
        for below in ["1", "0.5", "1.0000001"] {
            assert!(limits(&asked(None, None, Some(below)), &terms()).is_err());
        }
        let dollars = LimitsRequest {
            cost: Some("10".into()),
            currency: Some("USD".into()),
            ..LimitsRequest::default()
        };
        assert!(matches!(
            limits(&dollars, &terms()),
            Err(LimitProblem::Currency(_))
        ));
    }
}
