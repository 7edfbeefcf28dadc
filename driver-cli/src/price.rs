//! What a tariff means: in words, for a limit, for the values of the moment. Estimates are shown
//! as such; what is owed says the receipt alone.

use ev_contract::{
    price::{self, Buys, Usage},
    units::{Amount, Currency, Mwh},
    v1::{IdleFee, IdleFrom, PriceComponent, SessionView, Tariff, TariffTerms},
};
use rust_decimal::Decimal;

/// An amount with its currency's decimals, and more where it has them.
#[must_use]
pub fn money(amount: Amount, currency: Currency) -> String {
    format!("{} {currency}", amount.exact(currency))
}

/// A tariff in words. All amounts are with taxes, as a driver pays them.
#[must_use]
pub fn in_words(tariff: &Tariff) -> String {
    let terms = &tariff.terms;
    let on_top: Decimal = if terms.prices_net {
        terms.taxes.iter().map(|tax| tax.percent.0).sum()
    } else {
        Decimal::ZERO
    };
    let say = |amount: Amount| {
        let paid = amount.0 + amount.0 * on_top / Decimal::ONE_HUNDRED;
        money(Amount(paid.round_dp(Amount::SCALE_MAX)), terms.currency)
    };
    let mut parts = Vec::new();
    let priced = |component| Some(terms.price(component)).filter(|price| !price.0.is_zero());
    if let Some(price) = priced(PriceComponent::Energy) {
        parts.push(format!("{}/kWh", say(price)));
    }
    if let Some(fee) = priced(PriceComponent::StartFee) {
        parts.push(format!("{} to start", say(fee)));
    }
    if let (Some(idle), Some(price)) = (terms.idle, priced(PriceComponent::Idle)) {
        parts.push(format!(
            "{}/min standing{}, at most {}",
            say(price),
            standing_in_words(&idle),
            say(idle.cap)
        ));
    }
    let mut words = parts.join(" + ");
    let bounds = [("at least", terms.min_price), ("at most", terms.max_price)];
    let bounds: Vec<_> = bounds
        .iter()
        .filter_map(|(word, bound)| bound.map(|bound| format!("{word} {}", say(bound))))
        .collect();
    if words.is_empty() && terms.min_price.is_none_or(|min| min.0.is_zero()) {
        return "free of charge".to_owned();
    }
    if !bounds.is_empty() {
        words.push_str(&format!("; {} a session", bounds.join(", ")));
    }
    let taxes: Vec<_> = terms
        .taxes
        .iter()
        .filter(|tax| !tax.percent.0.is_zero())
        .map(|tax| format!("{} % {}", tax.percent.0.normalize(), tax.name))
        .collect();
    if !taxes.is_empty() {
        words.push_str(&format!("; {} included", taxes.join(" and ")));
    }
    words
}

fn standing_in_words(idle: &IdleFee) -> String {
    let duration = |s: u32| match s {
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    };
    match (idle.from, idle.grace_s) {
        (IdleFrom::EnergyEnded, 0) => String::new(),
        (IdleFrom::EnergyEnded, grace) => format!(" after {}", duration(grace)),
        (IdleFrom::WithoutPowerS(s), grace) => {
            let free = match grace {
                0 => String::new(),
                grace => format!(", {} free", duration(grace)),
            };
            format!(
                " from the end of charging or {} without power{free}",
                duration(s)
            )
        }
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
    let limit_in_words = money(limit, currency);
    let standing = if terms.idle.is_some() {
        "; standing afterwards is not counted in it"
    } else {
        ""
    };
    match price::buys(terms, limit) {
        Buys::All => format!("a limit of {limit_in_words} never ends a session at this price"),
        Buys::Nothing => format!("a limit of {limit_in_words} buys no energy"),
        Buys::Energy(energy) => format!(
            "a limit of {limit_in_words} buys {:.3} kWh, fees and taxes included{standing}",
            energy.kwh().trunc_with_scale(3)
        ),
    }
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
    let total = |energy| price::total(&tariff.terms, Usage { energy, idle_s: 0 }).0;
    // What has stood is in central's cost, and nothing of it here.
    let more = total(energy).checked_sub(total(view.energy_mwh))?;
    Some(Amount(view.cost.0.checked_add(more)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ev_contract::{connector::Phase, v1::IdleFee};

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn tariff() -> Tariff {
        let mut terms = TariffTerms::free(Currency::EUR)
            .with(PriceComponent::Energy, amount("0.49"))
            .with(PriceComponent::StartFee, amount("0.50"))
            .with(PriceComponent::Idle, amount("0.10"))
            .taxed("VAT", amount("19"));
        terms.idle = Some(IdleFee {
            grace_s: 900,
            cap: amount("10"),
            from: IdleFrom::EnergyEnded,
            after_fault: false,
        });
        Tariff {
            tariff_id: "base".parse().unwrap(),
            version: 1,
            terms,
        }
    }

    #[test]
    fn a_price_is_told_in_full() {
        assert_eq!(
            in_words(&tariff()),
            "0.49 EUR/kWh + 0.50 EUR to start + 0.10 EUR/min standing after 15 min, at most 10.00 EUR; 19 % VAT included"
        );
        let mut paused = tariff();
        paused.terms.idle.as_mut().unwrap().from = IdleFrom::WithoutPowerS(600);
        paused.terms.max_price = Some(amount("40"));
        assert_eq!(
            in_words(&paused),
            "0.49 EUR/kWh + 0.50 EUR to start + 0.10 EUR/min standing from the end of charging or 10 min without power, 15 min free, at most 10.00 EUR; at most 40.00 EUR a session; 19 % VAT included"
        );
    }

    #[test]
    fn a_price_without_taxes_is_told_with_them() {
        let terms = TariffTerms {
            prices_net: true,
            min_price: Some(amount("100")),
            ..TariffTerms::free("JPY".parse().unwrap())
        }
        .with(PriceComponent::Energy, amount("60"))
        .taxed("consumption tax", amount("10"));
        let tariff = Tariff { terms, ..tariff() };
        assert_eq!(
            in_words(&tariff),
            "66 JPY/kWh; at least 110 JPY a session; 10 % consumption tax included"
        );
    }

    #[test]
    fn a_cost_limit_is_explained() {
        let terms = tariff().terms;
        assert_eq!(
            cost_limit_in_words(&terms, amount("10"), Currency::EUR),
            "a limit of 10.00 EUR buys 19.387 kWh, fees and taxes included; standing afterwards is not counted in it"
        );
        assert!(cost_limit_in_words(&terms, amount("0.5"), Currency::EUR).contains("no energy"));
    }

    #[test]
    fn only_the_pinned_tariff_gives_an_estimate() {
        let mut view = crate::watch::tests::view(1, Phase::Charging);
        view.cost = amount("1.10");
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
