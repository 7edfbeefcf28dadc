//! What a session costs: the arithmetic of receipts, which central writes and clients foretell.
//! Decimal throughout, and rounded once.

use rust_decimal::Decimal;

use crate::{
    limits::LIMIT_ENERGY_WH_MAX,
    units::{Amount, Mwh},
    v1::{IdleFrom, PriceComponent, ReceiptLine, TariffTerms, TaxLine},
};

/// Decimals of minutes on a receipt.
pub const MINUTE_DECIMALS: u32 = 4;

/// How totals are rounded where prices include the taxes, as receipts say it.
pub const ROUNDING: &str = "the exact sum of the lines is rounded once, half up, to the currency's minor unit: the total; net is total / (1 + taxes), rounded likewise, and the taxes are the rest";

/// The same where prices are without the taxes.
pub const ROUNDING_NET: &str = "the exact sum of the lines is rounded once, half up, to the currency's minor unit: the net; each tax is its rate of it, rounded likewise, and the total is their sum";

/// What has been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Energy.
    pub energy: Mwh,
    /// Seconds of standing, as the tariff counts it.
    pub idle_s: u32,
}

/// What is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Without taxes.
    pub net: Amount,
    /// One for each tax, in the tariff's order.
    pub taxes: Vec<TaxLine>,
    /// `net` and `taxes` together.
    pub total: Amount,
}

/// Energy from which a start fee and a minimum are owed. None at all never counts as some.
#[must_use]
pub fn fee_from(terms: &TariffTerms) -> Mwh {
    Mwh((u64::from(terms.start_fee_min_wh) * 1_000).max(1))
}

fn idle_rule(terms: &TariffTerms) -> Option<String> {
    let duration = |s: u32| match s {
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    };
    let idle = terms.idle?;
    let mut rule = match idle.from {
        IdleFrom::EnergyEnded => "from the end of energy".to_owned(),
        IdleFrom::WithoutPowerS(s) => {
            format!("from the end of energy or {} without power", duration(s))
        }
    };
    if idle.grace_s > 0 {
        rule.push_str(&format!(", {} free", duration(idle.grace_s)));
    }
    Some(rule)
}

/// A line per price component, and one that brings their sum to the minimum or maximum. A session
/// without energy has none.
#[must_use]
pub fn lines(terms: &TariffTerms, usage: Usage) -> Vec<ReceiptLine> {
    let mut lines = Vec::new();
    if usage.energy == Mwh(0) {
        return lines;
    }
    let line =
        |component, quantity: Decimal, unit: &str, price: Amount, amount: Decimal| ReceiptLine {
            component,
            quantity: Amount(quantity),
            unit: unit.into(),
            price: price.exact(terms.currency),
            amount: Amount(amount).exact(terms.currency),
            note: None,
        };
    let energy = usage.energy.kwh();
    let price = terms.price(PriceComponent::Energy);
    lines.push(line(
        PriceComponent::Energy,
        energy,
        "kWh",
        price,
        energy * price.0,
    ));
    let flowed = usage.energy >= fee_from(terms);
    let fee = terms.price(PriceComponent::StartFee);
    if flowed && !fee.0.is_zero() {
        let start = line(PriceComponent::StartFee, Decimal::ONE, "start", fee, fee.0);
        lines.push(start);
    }
    if let Some(idle) = &terms.idle {
        let price = terms.price(PriceComponent::Idle);
        let billed_s = usage.idle_s.saturating_sub(idle.grace_s);
        if billed_s > 0 && !price.0.is_zero() {
            let mut minutes =
                (Decimal::from(billed_s) / Decimal::from(60)).round_dp(MINUTE_DECIMALS);
            minutes.rescale(MINUTE_DECIMALS);
            let product = minutes * price.0;
            let capped = product >= idle.cap.0;
            let amount = if capped { idle.cap.0 } else { product };
            let mut stood = line(PriceComponent::Idle, minutes, "min", price, amount);
            stood.note =
                idle_rule(terms).map(|rule| if capped { format!("cap; {rule}") } else { rule });
            lines.push(stood);
        }
    }
    let sum = exact(&lines);
    let bound =
        |component, bound: Amount| line(component, Decimal::ONE, "session", bound, bound.0 - sum);
    match (terms.min_price, terms.max_price) {
        (Some(min), _) if flowed && sum < min.0 => lines.push(bound(PriceComponent::Minimum, min)),
        (_, Some(max)) if sum > max.0 => lines.push(bound(PriceComponent::Maximum, max)),
        _ => {}
    }
    lines
}

/// The exact sum of lines.
#[must_use]
pub fn exact(lines: &[ReceiptLine]) -> Decimal {
    lines.iter().map(|line| line.amount.0).sum()
}

/// What is owed for the exact sum of lines.
#[must_use]
pub fn owed(terms: &TariffTerms, exact: Decimal) -> Owed {
    let round = |value| Amount(value).owed(terms.currency);
    let rates = terms.taxes.iter().map(|tax| tax.percent.0);
    let all: Decimal = rates.sum();
    let line = |tax: &crate::v1::Tax, amount| TaxLine {
        name: tax.name.clone(),
        percent: tax.percent,
        amount,
    };
    if terms.prices_net {
        let net = round(exact);
        let tax = |tax| {
            let of: &crate::v1::Tax = tax;
            line(of, round(net.0 * of.percent.0 / Decimal::ONE_HUNDRED))
        };
        let taxes: Vec<_> = terms.taxes.iter().map(tax).collect();
        let total = taxes.iter().fold(net.0, |sum, tax| sum + tax.amount.0);
        return Owed {
            net,
            taxes,
            total: Amount(total),
        };
    }
    let total = round(exact);
    let net = round(total.0 * Decimal::ONE_HUNDRED / (Decimal::ONE_HUNDRED + all));
    let rest = total.0 - net.0;
    // Each gets what the rounded sum up to it has more than the one before it: nothing is left over.
    let (mut rate, mut given) = (Decimal::ZERO, round(Decimal::ZERO));
    let taxes = terms
        .taxes
        .iter()
        .map(|tax| {
            rate += tax.percent.0;
            let up_to = if all.is_zero() {
                given
            } else {
                round(rest * rate / all)
            };
            let amount = Amount(up_to.0 - given.0);
            given = up_to;
            line(tax, amount)
        })
        .collect();
    Owed { net, taxes, total }
}

/// What is owed for what has been used.
#[must_use]
pub fn total(terms: &TariffTerms, usage: Usage) -> Amount {
    owed(terms, exact(&lines(terms, usage))).total
}

/// What an amount of money buys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buys {
    /// Nothing: start fee, minimum or the first energy cost more.
    Nothing,
    /// So much energy.
    Energy(Mwh),
    /// All that a session may take: energy is free, or the maximum is reached before.
    All,
}

/// The most energy whose price with start fee, minimum, maximum and taxes is not above a cost;
/// standing comes on top.
#[must_use]
pub fn buys(terms: &TariffTerms, cost: Amount) -> Buys {
    /// No session takes more.
    const MWH_MAX: u64 = LIMIT_ENERGY_WH_MAX.unsigned_abs() * 1_000;
    let rates: Decimal = terms.taxes.iter().map(|tax| tax.percent.0).sum();
    let fits = |mwh: u64| {
        let usage = Usage {
            energy: Mwh(mwh),
            idle_s: 0,
        };
        let exact = exact(&lines(terms, usage));
        let on_top = if terms.prices_net {
            rates
        } else {
            Decimal::ZERO
        };
        // The exact price too, so that no rounding gives energy away.
        exact * (Decimal::ONE_HUNDRED + on_top) <= cost.0 * Decimal::ONE_HUNDRED
            && owed(terms, exact).total.0 <= cost.0
    };
    if fits(MWH_MAX) {
        return Buys::All;
    }
    // Both prices rise with energy, so that what fits begins at nothing and ends once.
    let (mut most, mut too_much) = (0, MWH_MAX);
    while too_much - most > 1 {
        let middle = most + (too_much - most) / 2;
        if fits(middle) {
            most = middle;
        } else {
            too_much = middle;
        }
    }
    // Below what makes the fees due a session is none.
    let fees = !terms.price(PriceComponent::StartFee).0.is_zero() || terms.min_price.is_some();
    let least = if fees { fee_from(terms).0 } else { 1 };
    if most < least {
        Buys::Nothing
    } else {
        Buys::Energy(Mwh(most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        units::Currency,
        v1::{IdleFee, Tax},
    };

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    /// 0.49 a kWh, 1.00 a start, 0.10 a minute after ten minutes up to 12.00, 19 % VAT.
    fn terms() -> TariffTerms {
        TariffTerms {
            idle: Some(IdleFee {
                grace_s: 600,
                cap: amount("12"),
                from: IdleFrom::EnergyEnded,
                after_fault: false,
            }),
            ..TariffTerms::free(Currency::EUR)
        }
        .with(PriceComponent::Energy, amount("0.49"))
        .with(PriceComponent::StartFee, amount("1"))
        .with(PriceComponent::Idle, amount("0.10"))
        .taxed("VAT", amount("19"))
    }

    fn used(energy_mwh: u64, idle_s: u32) -> Usage {
        Usage {
            energy: Mwh(energy_mwh),
            idle_s,
        }
    }

    fn said(terms: &TariffTerms, usage: Usage) -> Vec<String> {
        lines(terms, usage)
            .into_iter()
            .map(|l| format!("{} {} {} {}", l.component, l.quantity, l.unit, l.amount))
            .collect()
    }

    #[test]
    fn the_total_is_the_exact_sum_rounded_once() {
        let lines = lines(&terms(), used(7_123_456, 600 + 90));
        assert_eq!(exact(&lines).to_string(), "4.64049344");
        let owed = owed(&terms(), exact(&lines));
        assert_eq!(owed.total.to_string(), "4.64");
        assert_eq!(owed.net.to_string(), "3.90");
        assert_eq!(owed.taxes[0].amount.to_string(), "0.74");
    }

    #[test]
    fn quantities_have_a_stated_number_of_digits() {
        assert_eq!(
            said(&terms(), used(7_000_000, 600 + 100)),
            [
                "energy 7.000000 kWh 3.43",
                "start_fee 1 start 1.00",
                "idle 1.6667 min 0.16667",
            ]
        );
    }

    #[test]
    fn totals_have_the_digits_of_the_currency() {
        for (currency, price, expected) in [
            ("JPY", "61.5", "438"),
            ("KWD", "0.0125", "0.089"),
            ("EUR", "0.005", "0.04"),
        ] {
            let terms = TariffTerms::free(currency.parse().unwrap())
                .with(PriceComponent::Energy, amount(price))
                .taxed("VAT", amount("10"));
            let owed = owed(&terms, exact(&lines(&terms, used(7_123_456, 0))));
            assert_eq!(owed.total.to_string(), expected, "{currency}");
            for part in [owed.net, owed.taxes[0].amount] {
                assert_eq!(part.0.scale(), terms.currency.decimals(), "{currency}");
            }
        }
        let nothing = total(&TariffTerms::free("JPY".parse().unwrap()), used(0, 0));
        assert_eq!(nothing.to_string(), "0");
    }

    #[test]
    fn a_start_is_paid_once_energy_has_flowed() {
        let starts = |terms: &TariffTerms, mwh| {
            lines(terms, used(mwh, 0))
                .iter()
                .any(|line| line.component == PriceComponent::StartFee)
        };
        let of = |start_fee_min_wh| TariffTerms {
            start_fee_min_wh,
            ..terms()
        };
        assert!(!starts(&of(10), 0));
        assert!(!starts(&of(10), 9_999));
        assert!(starts(&of(10), 10_000));
        assert!(!starts(&of(0), 0));
        assert!(starts(&of(0), 1));
        assert_eq!(total(&terms(), used(9_999, 0)).to_string(), "0.00");
    }

    #[test]
    fn standing_costs_after_the_grace_and_up_to_the_cap() {
        let idle = |idle_s| {
            lines(&terms(), used(1_000_000, idle_s))
                .into_iter()
                .find(|line| line.component == PriceComponent::Idle)
        };
        assert_eq!(idle(600), None);
        let minute = idle(660).unwrap();
        assert_eq!(minute.amount.to_string(), "0.10");
        assert_eq!(
            minute.note.as_deref(),
            Some("from the end of energy, 10 min free")
        );
        let capped = idle(1_000_000).unwrap();
        assert_eq!(capped.amount.to_string(), "12.00");
        assert!(capped.note.unwrap().starts_with("cap; "));
    }

    #[test]
    fn a_minimum_and_a_maximum_are_lines_of_their_own() {
        let terms = TariffTerms {
            min_price: Some(amount("5")),
            max_price: Some(amount("20")),
            ..terms()
        };
        assert!(said(&terms, used(0, 10_000)).is_empty());
        // Below the energy that makes a session, no minimum.
        assert_eq!(total(&terms, used(9_999, 0)).to_string(), "0.00");
        assert_eq!(
            said(&terms, used(1_000_000, 0)).last().unwrap(),
            "minimum 1 session 3.51"
        );
        assert_eq!(total(&terms, used(1_000_000, 0)).to_string(), "5.00");
        assert_eq!(
            said(&terms, used(50_000_000, 100_000)).last().unwrap(),
            "maximum 1 session -17.50"
        );
        assert_eq!(
            total(&terms, used(50_000_000, 100_000)).to_string(),
            "20.00"
        );
    }

    #[test]
    fn taxes_come_by_name_and_on_top_where_prices_are_net() {
        let terms = TariffTerms {
            prices_net: true,
            ..TariffTerms::free(Currency::EUR)
        }
        .with(PriceComponent::Energy, amount("0.50"))
        .taxed("GST", amount("5"))
        .taxed("PST", amount("9.975"));
        let owed = owed(&terms, exact(&lines(&terms, used(10_000_000, 0))));
        let taxes: Vec<_> = owed
            .taxes
            .iter()
            .map(|tax| format!("{} {}", tax.name, tax.amount))
            .collect();
        assert_eq!(owed.net.to_string(), "5.00");
        assert_eq!(taxes, ["GST 0.25", "PST 0.50"]);
        assert_eq!(owed.total.to_string(), "5.75");
    }

    #[test]
    fn a_cost_buys_what_it_pays_for() {
        let Buys::Energy(energy) = buys(&terms(), amount("10")) else {
            panic!("10 buys some energy");
        };
        let exact_of = |mwh| exact(&lines(&terms(), used(mwh, 0)));
        assert!(exact_of(energy.0) <= Decimal::TEN);
        assert!(exact_of(energy.0 + 1) > Decimal::TEN);
        assert_eq!(buys(&terms(), amount("1")), Buys::Nothing);
        let dear = TariffTerms {
            min_price: Some(amount("5")),
            ..terms()
        };
        assert_eq!(buys(&dear, amount("4.99")), Buys::Nothing);
        assert_eq!(buys(&dear, amount("5")), Buys::Energy(Mwh(8_163_265)));
        let bounded = TariffTerms {
            max_price: Some(amount("8")),
            ..terms()
        };
        assert_eq!(buys(&bounded, amount("8")), Buys::All);
        assert_eq!(
            buys(&TariffTerms::free(Currency::EUR), amount("1")),
            Buys::All
        );
        let net = TariffTerms {
            prices_net: true,
            ..terms()
        };
        // (1 + 0.49 E) * 1.19 <= 10
        assert_eq!(buys(&net, amount("10")), Buys::Energy(Mwh(15_108_900)));
    }

    fn money(most: u64) -> impl Strategy<Value = Amount> {
        (0..=most)
            .prop_map(|millionths| Amount(Decimal::new(i64::try_from(millionths).unwrap(), 6)))
    }

    fn any_terms() -> impl Strategy<Value = TariffTerms> {
        let prices = (money(2_000_000), money(5_000_000), money(1_000_000));
        let bounds = (
            proptest::option::of(0..500_u32),
            proptest::option::of(500..5_000_u32),
        );
        let taxes = proptest::collection::vec(0..3_000_u32, 0..4);
        let currency = proptest::sample::select(vec!["EUR", "JPY", "KWD"]);
        (prices, bounds, taxes, currency, any::<bool>(), 0..20_u32).prop_map(
            |((energy, start, idle), (min, max), taxes, currency, prices_net, min_wh)| {
                let whole = |value: u32| Amount(Decimal::from(value / 10));
                let mut terms = TariffTerms {
                    start_fee_min_wh: min_wh,
                    min_price: min.map(whole),
                    max_price: max.map(whole),
                    idle: Some(IdleFee {
                        grace_s: 60,
                        cap: Amount(Decimal::from(7)),
                        from: IdleFrom::default(),
                        after_fault: false,
                    }),
                    prices_net,
                    ..TariffTerms::free(currency.parse().unwrap())
                }
                .with(PriceComponent::Energy, energy)
                .with(PriceComponent::StartFee, start)
                .with(PriceComponent::Idle, idle);
                terms.taxes = taxes
                    .into_iter()
                    .enumerate()
                    .map(|(n, rate)| Tax {
                        name: format!("T{n}"),
                        percent: Amount(Decimal::new(rate.into(), 2)),
                    })
                    .collect();
                terms
            },
        )
    }

    proptest! {
        #[test]
        fn a_receipt_comes_out_even(
            terms in any_terms(),
            mwh in prop_oneof![0..30_000_u64, 0..100_000_000_u64],
            idle_s in 0..20_000_u32,
        ) {
            let lines = lines(&terms, used(mwh, idle_s));
            let exact = exact(&lines);
            let owed = owed(&terms, exact);
            let decimals = terms.currency.decimals();
            let taxes: Decimal = owed.taxes.iter().map(|tax| tax.amount.0).sum();
            // Net and taxes are the total, each in whole minor units.
            prop_assert_eq!(owed.net.0 + taxes, owed.total.0);
            for part in owed.taxes.iter().map(|tax| tax.amount).chain([owed.net, owed.total]) {
                prop_assert_eq!(part.0.scale(), decimals);
                prop_assert!(part.0 >= Decimal::ZERO);
            }
            // Rounded once: half a unit off the exact sum at most.
            let rounded = if terms.prices_net { owed.net } else { owed.total };
            let half = Decimal::new(5, decimals + 1);
            prop_assert!((rounded.0 - exact).abs() <= half);
            // Every line is its quantity times its price, or what its rule says.
            for line in &lines {
                let product = line.quantity.0 * line.price.0;
                let bound = matches!(
                    line.component,
                    PriceComponent::Minimum | PriceComponent::Maximum
                );
                let capped = line.note.as_deref().is_some_and(|note| note.starts_with("cap"));
                prop_assert!(bound || (capped && product >= line.amount.0) || product == line.amount.0);
            }
            prop_assert!(terms.max_price.is_none_or(|max| exact <= max.0));
            if used(mwh, 0).energy >= fee_from(&terms) {
                prop_assert!(terms.min_price.is_none_or(|min| exact >= min.0));
            }
            if mwh == 0 {
                prop_assert!(lines.is_empty() && owed.total.0.is_zero());
            }
        }

        #[test]
        fn no_cost_limit_is_exceeded_by_energy(terms in any_terms(), cost in 1..5_000_u32) {
            let cost = Amount(Decimal::from(cost));
            match buys(&terms, cost) {
                Buys::Energy(energy) => {
                    prop_assert!(total(&terms, used(energy.0, 0)).0 <= cost.0);
                }
                Buys::Nothing => {
                    // What makes a session costs as much, but for what each rounding takes away.
                    let least = total(&terms, used(fee_from(&terms).0, 0)).0;
                    let roundings = Decimal::from(terms.taxes.len() + 1);
                    let half = Decimal::new(5, terms.currency.decimals() + 1);
                    prop_assert!(least + half * roundings >= cost.0);
                }
                Buys::All => {
                    prop_assert!(total(&terms, used(LIMIT_ENERGY_WH_MAX.unsigned_abs() * 1_000, 0)).0 <= cost.0);
                }
            }
        }
    }
}
