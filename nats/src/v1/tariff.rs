//! Tariffs. A version never changes; sessions pin one at acceptance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PriceComponent;
use crate::{
    ids::{CpId, SiteId, TariffId},
    units::{Amount, Currency},
};

/// The price of one thing, per unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentPrice {
    /// Of what: `energy` per kWh, `start_fee` per start, `idle` per minute of standing.
    pub component: PriceComponent,
    /// How much.
    pub price: Amount,
}

/// Prices and when they hold, as in OCPI.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TariffElement {
    /// The prices. What has none is free.
    pub price_components: Vec<ComponentPrice>,
    /// When they hold. None is supported yet: a tariff that has any is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub restrictions: BTreeMap<String, serde_json::Value>,
}

/// From when a car stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleFrom {
    /// From the end of energy, as the charger reports it.
    EnergyEnded,
    /// From there, and also when the car has drawn nothing for so many seconds although it could
    /// (phase `suspended_ev`). When it draws again it stands no longer.
    WithoutPowerS(u32),
}

impl Default for IdleFrom {
    /// Ten minutes: longer than a car pauses to balance or warm its battery.
    fn default() -> Self {
        Self::WithoutPowerS(600)
    }
}

/// What standing means and what it costs at most. Its price is the component `idle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleFee {
    /// Seconds of standing in a session that cost nothing.
    #[serde(default)]
    pub grace_s: u32,
    /// The most that a session pays for standing. When it is reached after the end of energy the
    /// session ends; a session whose car has only paused stays open and pays no more.
    pub cap: Amount,
    /// From when a car stands.
    #[serde(default)]
    pub from: IdleFrom,
    /// Standing costs also where a fault, a loss of power or an operator ended the charging.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_fault: bool,
}

/// A tax on all prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tax {
    /// Its name, as the receipt shows it.
    pub name: String,
    /// Its rate in percent.
    pub percent: Amount,
}

/// Prices and rules. The shape is that of OCPI's tariffs, so that prices by time fit in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffTerms {
    /// The currency of every amount here.
    pub currency: Currency,
    /// The prices: the first element whose restrictions hold and that has a price counts.
    pub elements: Vec<TariffElement>,
    /// A start fee and a minimum are owed once so much energy has flowed, in watt-hours.
    #[serde(default = "start_fee_min_wh")]
    pub start_fee_min_wh: u32,
    /// Standing; without it standing is free, and a session ends with its energy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleFee>,
    /// The least that a session costs once energy has flowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_price: Option<Amount>,
    /// The most that a session costs, standing included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price: Option<Amount>,
    /// Taxes by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taxes: Vec<Tax>,
    /// All amounts here are without the taxes, which come on top; else they include them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prices_net: bool,
}

/// Less than any car takes that charges at all, more than a relay, a cable and a handshake draw.
pub const START_FEE_MIN_WH: u32 = 10;

const fn start_fee_min_wh() -> u32 {
    START_FEE_MIN_WH
}

impl TariffTerms {
    /// Without any price.
    #[must_use]
    pub const fn free(currency: Currency) -> Self {
        Self {
            currency,
            elements: Vec::new(),
            start_fee_min_wh: START_FEE_MIN_WH,
            idle: None,
            min_price: None,
            max_price: None,
            taxes: Vec::new(),
            prices_net: false,
        }
    }

    /// The same with another price of something, at all times.
    #[must_use]
    pub fn with(mut self, component: PriceComponent, price: Amount) -> Self {
        if self.elements.is_empty() {
            self.elements.push(TariffElement::default());
        }
        if let Some(element) = self.elements.first_mut() {
            element
                .price_components
                .retain(|other| other.component != component);
            element
                .price_components
                .push(ComponentPrice { component, price });
        }
        self
    }

    /// The same with a tax. The amounts include it unless the terms say otherwise.
    #[must_use]
    pub fn taxed(mut self, name: &str, percent: Amount) -> Self {
        let name = name.to_owned();
        self.taxes.push(Tax { name, percent });
        self
    }

    /// What one unit of something costs; zero where it has no price.
    #[must_use]
    pub fn price(&self, component: PriceComponent) -> Amount {
        self.elements
            .iter()
            .flat_map(|element| &element.price_components)
            .find(|price| price.component == component)
            .map_or(Amount::ZERO, |price| price.price)
    }
}

/// A version of a tariff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// Its name.
    pub tariff_id: TariffId,
    /// Counted from 1 by central. Version 0 of `free` is what applies while nothing is set.
    pub version: u32,
    /// The prices.
    pub terms: TariffTerms,
}

/// A version of a tariff that applies from a time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledTariff {
    /// From when, by central's clock: sessions that are accepted from then on have it.
    pub from: crate::time::UnixMs,
    /// What.
    pub tariff: Tariff,
}

/// A version of a tariff by its name: the price that an asker has seen. The id is a text here and
/// checked by central.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffRef {
    /// The tariff.
    pub tariff_id: String,
    /// Its version, as listings show it: counted from 1, 0 for the free tariff that applies while none is set.
    pub version: u32,
}

impl From<&Tariff> for TariffRef {
    fn from(tariff: &Tariff) -> Self {
        Self {
            tariff_id: tariff.tariff_id.to_string(),
            version: tariff.version,
        }
    }
}

/// Where a tariff applies. The narrowest wins: charge point, then site, then default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TariffScope {
    /// Everywhere else.
    Default,
    /// At one site.
    Site(SiteId),
    /// At one charge point.
    ChargePoint(CpId),
}

impl std::fmt::Display for TariffScope {
    /// As the command line writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::Site(site) => write!(f, "site:{site}"),
            Self::ChargePoint(cp) => write!(f, "cp:{cp}"),
        }
    }
}
