//! What a tariff means: in words, for a limit, for the values of the moment. Estimates are shown
//! as such; what is owed says the receipt alone.

use ev_contract::{
    units::{Amount, Currency, Mwh},
    v1::{SessionView, Tariff, TariffTerms},
};
use rust_decimal::Decimal;

/// An amount with at least two decimals, and no more than it has.
#[must_use]
pub fn money(amount: Amount, currency: Currency) -> String {
    let mut value = amount.0.normalize();
    if value.scale() < 2 {
        value.rescale(2);
    }
    format!("{value} {currency}")
}

/// A tariff in words.
#[must_use]
pub fn in_words(tariff: &Tariff) -> String {
    let terms = &tariff.terms;
    let say = |amount| money(amount, terms.currency);
    let mut parts = Vec::new();
    if terms.price_per_kwh != Amount::ZERO {
        parts.push(format!("{}/kWh", say(terms.price_per_kwh)));
    }
    if terms.start_fee != Amount::ZERO {
        parts.push(format!("{} to start", say(terms.start_fee)));
    }
    if let Some(idle) = terms.idle {
        parts.push(format!(
            "{}/min standing{}, at most {}",
            say(idle.price_per_minute),
            match idle.grace_s {
                0 => String::new(),
                s if s % 60 == 0 => format!(" after {} min", s / 60),
                s => format!(" after {s} s"),
            },
            say(idle.cap)
        ));
    }
    if parts.is_empty() {
        return "free of charge".to_owned();
    }
    let vat = terms.vat_percent.0.normalize();
    if vat.is_zero() {
        parts.join(" + ")
    } else {
        format!("{}; {vat} % VAT included", parts.join(" + "))
    }
}

/// What a cost limit buys under a tariff, in a sentence. Central decides; this only explains.
#[must_use]
pub fn cost_limit_in_words(terms: &TariffTerms, limit: Amount, currency: Currency) -> String {
    if currency != terms.currency {
        return format!(
            "the price is in {}, the limit in {currency}",
            terms.currency
        );
    }
    let for_energy = limit.0 - terms.start_fee.0;
    let fee = if terms.start_fee == Amount::ZERO {
        String::new()
    } else {
        format!(
            "after the start fee of {} ",
            money(terms.start_fee, currency)
        )
    };
    let standing = if terms.idle.is_some() {
        "; standing afterwards is not counted in it"
    } else {
        ""
    };
    if terms.price_per_kwh.0 <= Decimal::ZERO {
        return format!(
            "a limit of {} never ends a session whose energy is free",
            money(limit, currency)
        );
    }
    if for_energy <= Decimal::ZERO {
        return format!("a limit of {} {fee}buys no energy", money(limit, currency));
    }
    let kwh = (for_energy / terms.price_per_kwh.0).trunc_with_scale(3);
    format!(
        "a limit of {} {fee}buys {kwh:.3} kWh{standing}",
        money(limit, currency)
    )
}

/// What a session costs by now, reckoned here from its own tariff: for values that are newer than
/// central's. `None` when the tariff at hand is not the one that the session has pinned.
#[must_use]
pub fn estimate(tariff: Option<&Tariff>, view: &SessionView, energy: Mwh) -> Option<Amount> {
    let tariff =
        tariff.filter(|t| t.tariff_id == view.tariff_id && t.version == view.tariff_version)?;
    if energy <= view.energy_mwh || view.started_at.is_none() {
        return None;
    }
    let cost = tariff
        .terms
        .price_per_kwh
        .0
        .checked_mul(energy.kwh())?
        .checked_add(tariff.terms.start_fee.0)?
        .round_dp(2);
    Some(Amount(cost.max(view.cost.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ev_contract::{connector::Phase, v1::IdleFee};

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn tariff() -> Tariff {
        Tariff {
            tariff_id: "base".parse().unwrap(),
            version: 1,
            terms: TariffTerms {
                currency: Currency::EUR,
                price_per_kwh: amount("0.49"),
                start_fee: amount("0.50"),
                idle: Some(IdleFee {
                    price_per_minute: amount("0.10"),
                    grace_s: 900,
                    cap: amount("10"),
                }),
                vat_percent: amount("19"),
            },
        }
    }

    #[test]
    fn a_price_is_told_in_full() {
        assert_eq!(
            in_words(&tariff()),
            "0.49 EUR/kWh + 0.50 EUR to start + 0.10 EUR/min standing after 15 min, at most 10.00 EUR; 19 % VAT included"
        );
    }

    #[test]
    fn a_cost_limit_is_explained() {
        let terms = tariff().terms;
        assert_eq!(
            cost_limit_in_words(&terms, amount("10"), Currency::EUR),
            "a limit of 10.00 EUR after the start fee of 0.50 EUR buys 19.387 kWh; standing afterwards is not counted in it"
        );
        assert!(cost_limit_in_words(&terms, amount("0.5"), Currency::EUR).contains("no energy"));
    }

    #[test]
    fn only_the_pinned_tariff_gives_an_estimate() {
        let view = crate::watch::tests::view(1, Phase::Charging);
        let estimate_at = |mwh| estimate(Some(&tariff()), &view, Mwh(mwh));
        assert_eq!(estimate_at(2_000_000), Some(amount("1.48")));
        assert_eq!(estimate_at(1_000_000), None);
        let other = Tariff {
            version: 2,
            ..tariff()
        };
        assert_eq!(estimate(Some(&other), &view, Mwh(2_000_000)), None);
    }
}
