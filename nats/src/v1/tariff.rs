//! Tariffs. A version never changes; sessions pin one at acceptance.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CpId, SiteId, TariffId},
    units::{Amount, Currency},
};

/// The price of standing after energy has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleFee {
    /// Price per minute, VAT included, charged by the second.
    pub price_per_minute: Amount,
    /// Seconds after the end of energy that cost nothing.
    pub grace_s: u32,
    /// The most that a session pays for standing. When it is reached the session ends.
    pub cap: Amount,
}

/// Prices. All include VAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffTerms {
    /// The currency of every amount here.
    pub currency: Currency,
    /// Price per kilowatt-hour.
    pub price_per_kwh: Amount,
    /// Price for the start, due when energy begins.
    #[serde(default)]
    pub start_fee: Amount,
    /// Price of standing after energy has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleFee>,
    /// VAT that the prices include, in percent.
    #[serde(default)]
    pub vat_percent: Amount,
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

/// A version of a tariff by its name: the price that an asker has seen. The id is a text here and
/// checked by central.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffRef {
    /// The tariff.
    pub tariff_id: String,
    /// Which version.
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
