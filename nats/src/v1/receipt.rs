//! Receipts and adjustments: what is written to the CDR stream.

use serde::{Deserialize, Serialize};

use super::{EndReason, Origin, Status, Tariff};
use crate::{
    connector::Phase,
    ids::{ConnectorId, CpId, DriverId, SessionId, SiteId},
    time::UnixMs,
    units::{Amount, Currency, Mwh},
    wire::Tag,
    wire_enum,
};

wire_enum! {
    /// What a line of a receipt is for.
    pub enum PriceComponent {
        /// Energy.
        Energy = "energy",
        /// The start.
        StartFee = "start_fee",
        /// Standing: the car is full, or done, and stays.
        Idle = "idle",
        /// What is missing to the least that a session costs.
        Minimum = "minimum",
        /// What is above the most that a session costs; below zero.
        Maximum = "maximum",
    }
}

/// A line of a receipt. `amount` is exact: quantity times price, the idle fee's cap, or what brings the
/// sum to the minimum or maximum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLine {
    /// What for.
    pub component: PriceComponent,
    /// How much, in `unit`: kWh with six decimals (the milliwatt-hour), min with four.
    pub quantity: Amount,
    /// `kWh`, `start`, `min` or `session`.
    pub unit: String,
    /// Per unit, with or without the taxes as the tariff says.
    pub price: Amount,
    /// The exact product.
    pub amount: Amount,
    /// The rule in words; begins with `cap` where the amount is the cap and not the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What one meter counted for the session. A meter that was reset or replaced adds another, and so does a
/// register that went over its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterSpan {
    /// The meter's serial number.
    pub meter_id: String,
    /// Counts the meter's resets.
    pub meter_epoch: u32,
    /// Register at the start of the span.
    pub from_mwh: Mwh,
    /// Register at its end.
    pub to_mwh: Mwh,
}

wire_enum! {
    /// What was odd about a session. Shown, and never silently corrected.
    pub enum Flag {
        /// The register fell although the meter was not reset.
        RegisterFell = "register_fell",
        /// The register rose by more than the connector can deliver.
        RegisterJumped = "register_jumped",
        /// A reading was older than the one before.
        TimeWentBack = "time_went_back",
        /// The agent was not sure of the time.
        ClockUnsure = "clock_unsure",
        /// The meter was reset or replaced in the session.
        MeterReset = "meter_reset",
        /// Ended by an operator without the charge point's word.
        WrittenOff = "written_off",
        /// Records of the session are missing from the spool.
        RecordsMissing = "records_missing",
        /// It went over another session on the same connector.
        Overlap = "overlap",
        /// It ended without an end reading.
        NoEndReading = "no_end_reading",
        /// The charge point named a driver to whom central had not given it: nobody's.
        DriverClaimed = "driver_claimed",
    }
}

/// A tax of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaxLine {
    /// Its name.
    pub name: String,
    /// Its rate in percent.
    pub percent: Amount,
    /// How much of the total it is.
    pub amount: Amount,
}

/// The receipt of a session: written once, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `receipt.record`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// Consecutive per connector: `CP-001-1-000042`.
    pub number: String,
    /// The session.
    pub session_id: SessionId,
    /// Whose; none for sessions without a driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
    /// Who sells the energy.
    pub operator: String,
    /// Which site.
    pub site_id: SiteId,
    /// The site's IANA time zone.
    pub time_zone: String,
    /// Where.
    pub cp_id: CpId,
    /// Which connector.
    pub connector: ConnectorId,
    /// How it began.
    pub origin: Origin,
    /// `completed` or `failed`.
    pub status: Status,
    /// Why it ended.
    pub end: EndReason,
    /// When central accepted it; for one that began at the charge point when that was, by its word.
    pub accepted_at: UnixMs,
    /// When energy began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    /// When energy ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_ended_at: Option<UnixMs>,
    /// When the session ended.
    pub ended_at: UnixMs,
    /// When central learned that it had.
    pub received_at: UnixMs,
    /// What the meters counted; empty when no energy began.
    #[serde(default)]
    pub meters: Vec<MeterSpan>,
    /// The sum of the spans.
    pub energy_mwh: Mwh,
    /// Seconds of standing, as the tariff counts it; without an idle fee those after energy ended.
    #[serde(default)]
    pub idle_s: u32,
    /// The tariff, pinned at acceptance.
    pub tariff: Tariff,
    /// One line per price component.
    pub lines: Vec<ReceiptLine>,
    /// The exact sum of the lines.
    pub exact: Amount,
    /// `total` without taxes, in the currency's minor units: `net` and all of `taxes` together are
    /// `total`.
    pub net: Amount,
    /// The taxes in `total`.
    #[serde(default)]
    pub taxes: Vec<TaxLine>,
    /// What is owed, in the currency's minor units: `exact` rounded once; where the prices are
    /// without taxes, that is `net`, and the taxes come on top.
    pub total: Amount,
    /// Of every amount here.
    pub currency: Currency,
    /// How `total` was rounded, in words.
    pub rounding: String,
    /// What was odd.
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// Where each period began.
    #[serde(default)]
    pub periods: Vec<Period>,
}

impl Receipt {
    /// What reports file it under: when it ended, or, where the charge point was not sure of the time,
    /// when central learned of it.
    #[must_use]
    pub fn filed_at(&self) -> UnixMs {
        if self.clock_was_sure() {
            self.ended_at
        } else {
            self.received_at
        }
    }

    /// Whether the charge point was sure of the time all along. Else what it says of times is kept as it
    /// is, and nothing is concluded from it.
    #[must_use]
    pub fn clock_was_sure(&self) -> bool {
        !self.flags.contains(&Flag::ClockUnsure)
    }
}

/// A correction of a receipt, which itself stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// `adjustment.record`
    #[serde(rename = "type")]
    pub tag: Tag<Self>,
    /// The receipt's number and `-A1`, `-A2`, …
    pub number: String,
    /// The session.
    pub session_id: SessionId,
    /// Counted from 1.
    pub n: u32,
    /// Who: an operator's id, or `central` for a late record.
    pub by: String,
    /// Why, in words.
    pub reason: String,
    /// When.
    pub at: UnixMs,
    /// Energy to add to the receipt's; may be below zero.
    #[serde(default)]
    pub energy_mwh: i64,
    /// Money to add to the receipt's total; may be below zero.
    pub amount: Amount,
    /// Its currency.
    pub currency: Currency,
    /// The total after this adjustment.
    pub total: Amount,
}

/// A stretch of a session with one price and one phase: it begins at each change of phase and at
/// each quarter hour, and lasts until the next one begins. What time-of-use tariffs and roaming
/// records are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// When it began.
    pub at: UnixMs,
    /// The session's phase in it.
    pub phase: Phase,
    /// The register when it began.
    pub register_mwh: Mwh,
}
