//! Sessions, receipts and energy, as rows of a table. Numbers are exact; nothing is rounded here.

use std::collections::{BTreeMap, HashMap};

use ev_contract::{
    ids::SessionId,
    time::UnixMs,
    units::{Amount, Mwh},
    v1::{Adjustment, PriceComponent, Receipt, Status},
};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer, ser::Error};
use serde_json::value::RawValue;

use super::month::Calendar;
use crate::doc::Time;

/// Adjustments by session. Adjustments are the exception, and with some 200 bytes each so many take
/// 40 MB.
pub const ADJUSTMENTS_MAX: usize = 200_000;

/// The adjustments to receipts.
pub type Adjustments = HashMap<SessionId, Vec<Adjustment>>;

/// The adjustments to a receipt, in order.
#[must_use]
pub fn of<'a>(adjustments: &'a Adjustments, receipt: &Receipt) -> &'a [Adjustment] {
    adjustments
        .get(&receipt.session_id)
        .map_or(&[], Vec::as_slice)
}

fn energy_added(adjustments: &[Adjustment]) -> i128 {
    adjustments.iter().map(|a| i128::from(a.energy_mwh)).sum()
}

fn money_added(adjustments: &[Adjustment]) -> Decimal {
    adjustments.iter().map(|a| a.amount.0).sum()
}

/// Free text for a cell: what a spreadsheet would take for a formula is a word there, too.
fn plain(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.starts_with(['=', '+', '-', '@']) {
        format!("'{text}")
    } else {
        text
    }
}

fn local(at: UnixMs, receipt: &Receipt, calendar: Calendar) -> String {
    let zone = calendar.zone(&receipt.time_zone);
    jiff::Timestamp::from_millisecond(at.0).map_or_else(
        |_| String::new(),
        |time| {
            time.to_zoned_datetime(zone)
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
        },
    )
}

fn flags(receipt: &Receipt) -> String {
    let words: Vec<_> = receipt.flags.iter().map(ToString::to_string).collect();
    words.join(" ")
}

/// Milliwatt-hours as watt-hours with three decimals, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wh3(i128);

impl From<Mwh> for Wh3 {
    fn from(energy: Mwh) -> Self {
        Self(energy.0.into())
    }
}

impl Serialize for Wh3 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1000, self.0.unsigned_abs() % 1000);
        RawValue::from_string(format!("{sign}{whole}.{rest:03}"))
            .map_err(S::Error::custom)?
            .serialize(s)
    }
}

/// The columns of [`SessionRow`].
pub const SESSION_NAMES: &[&str] = &[
    "session_id",
    "driver_id",
    "site_id",
    "cp_id",
    "connector",
    "origin",
    "status",
    "reason",
    "reason_source",
    "reason_raw",
    "accepted_at",
    "started_at",
    "energy_ended_at",
    "ended_at",
    "ended_at_site",
    "received_at",
    "time_zone",
    "energy_wh",
    "adjusted_energy_wh",
    "idle_s",
    "receipt",
    "flags",
];

/// A session that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionRow {
    session_id: String,
    driver_id: Option<String>,
    site_id: String,
    cp_id: String,
    connector: u16,
    origin: String,
    status: String,
    reason: String,
    reason_source: String,
    reason_raw: Option<String>,
    accepted_at: Time,
    started_at: Option<Time>,
    energy_ended_at: Option<Time>,
    ended_at: Time,
    ended_at_site: String,
    received_at: Time,
    time_zone: String,
    energy_wh: Wh3,
    adjusted_energy_wh: Wh3,
    idle_s: u32,
    receipt: String,
    flags: String,
}

impl SessionRow {
    /// Of a receipt and its adjustments.
    #[must_use]
    pub fn new(r: &Receipt, adjustments: &[Adjustment], calendar: Calendar) -> Self {
        Self {
            session_id: r.session_id.to_string(),
            driver_id: r.driver_id.as_ref().map(ToString::to_string),
            site_id: r.site_id.to_string(),
            cp_id: r.cp_id.to_string(),
            connector: r.connector.0,
            origin: r.origin.to_string(),
            status: r.status.to_string(),
            reason: r.end.word().to_owned(),
            reason_source: r.end.source.to_string(),
            reason_raw: r.end.raw.as_deref().map(plain),
            accepted_at: Time(r.accepted_at),
            started_at: r.started_at.map(Time),
            energy_ended_at: r.energy_ended_at.map(Time),
            ended_at: Time(r.ended_at),
            ended_at_site: local(r.ended_at, r, calendar),
            received_at: Time(r.received_at),
            time_zone: r.time_zone.clone(),
            energy_wh: r.energy_mwh.into(),
            adjusted_energy_wh: Wh3(i128::from(r.energy_mwh.0) + energy_added(adjustments)),
            idle_s: r.idle_s,
            receipt: r.number.clone(),
            flags: flags(r),
        }
    }
}

/// The columns of [`ReceiptRow`].
pub const RECEIPT_NAMES: &[&str] = &[
    "number",
    "session_id",
    "driver_id",
    "operator",
    "site_id",
    "cp_id",
    "connector",
    "status",
    "ended_at",
    "ended_at_site",
    "received_at",
    "time_zone",
    "energy_wh",
    "idle_s",
    "tariff_id",
    "tariff_version",
    "currency",
    "energy_amount",
    "start_amount",
    "idle_amount",
    "bound_amount",
    "exact",
    "net",
    "tax",
    "total",
    "taxes",
    "adjustments",
    "adjusted_energy_wh",
    "adjusted_total",
    "adjustment_reasons",
    "flags",
];

/// A receipt with what was adjusted since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiptRow {
    number: String,
    session_id: String,
    driver_id: Option<String>,
    operator: String,
    site_id: String,
    cp_id: String,
    connector: u16,
    status: String,
    ended_at: Time,
    ended_at_site: String,
    received_at: Time,
    time_zone: String,
    energy_wh: Wh3,
    idle_s: u32,
    tariff_id: String,
    tariff_version: u32,
    currency: String,
    energy_amount: Amount,
    start_amount: Amount,
    idle_amount: Amount,
    /// What a minimum adds or a maximum takes away.
    bound_amount: Amount,
    exact: Amount,
    net: Amount,
    tax: Amount,
    total: Amount,
    taxes: String,
    adjustments: usize,
    adjusted_energy_wh: Wh3,
    adjusted_total: Amount,
    adjustment_reasons: String,
    flags: String,
}

impl ReceiptRow {
    /// Of a receipt and its adjustments.
    #[must_use]
    pub fn new(r: &Receipt, adjustments: &[Adjustment], calendar: Calendar) -> Self {
        let amount = |component| {
            let lines = r.lines.iter().filter(|line| line.component == component);
            Amount(lines.map(|line| line.amount.0).sum()).exact(r.currency)
        };
        let taxes: Vec<_> = r
            .taxes
            .iter()
            .map(|tax| format!("{} {}%: {}", tax.name, tax.percent, tax.amount))
            .collect();
        let reasons: Vec<_> = adjustments
            .iter()
            .map(|a| format!("{}: {}", a.number, a.reason))
            .collect();
        Self {
            number: r.number.clone(),
            session_id: r.session_id.to_string(),
            driver_id: r.driver_id.as_ref().map(ToString::to_string),
            operator: plain(&r.operator),
            site_id: r.site_id.to_string(),
            cp_id: r.cp_id.to_string(),
            connector: r.connector.0,
            status: r.status.to_string(),
            ended_at: Time(r.ended_at),
            ended_at_site: local(r.ended_at, r, calendar),
            received_at: Time(r.received_at),
            time_zone: r.time_zone.clone(),
            energy_wh: r.energy_mwh.into(),
            idle_s: r.idle_s,
            tariff_id: r.tariff.tariff_id.to_string(),
            tariff_version: r.tariff.version,
            currency: r.currency.to_string(),
            energy_amount: amount(PriceComponent::Energy),
            start_amount: amount(PriceComponent::StartFee),
            idle_amount: amount(PriceComponent::Idle),
            bound_amount: Amount(
                amount(PriceComponent::Minimum).0 + amount(PriceComponent::Maximum).0,
            )
            .exact(r.currency),
            exact: r.exact,
            net: r.net,
            tax: Amount(r.total.0 - r.net.0),
            total: r.total,
            taxes: plain(&taxes.join("; ")),
            adjustments: adjustments.len(),
            adjusted_energy_wh: Wh3(i128::from(r.energy_mwh.0) + energy_added(adjustments)),
            adjusted_total: Amount(r.total.0 + money_added(adjustments)).owed(r.currency),
            adjustment_reasons: plain(&reasons.join("; ")),
            flags: flags(r),
        }
    }
}

/// The columns of [`EnergyRow`].
pub const ENERGY_NAMES: &[&str] = &[
    "month",
    "site_id",
    "currency",
    "sessions",
    "completed",
    "energy_wh",
    "adjusted_energy_wh",
    "net",
    "tax",
    "total",
    "adjustments",
    "adjusted_total",
];

/// What a site has delivered in a currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnergyRow {
    month: String,
    site_id: String,
    currency: String,
    sessions: u64,
    completed: u64,
    energy_wh: Wh3,
    adjusted_energy_wh: Wh3,
    net: Amount,
    tax: Amount,
    total: Amount,
    adjustments: u64,
    adjusted_total: Amount,
}

/// The sums. There is one for each site and currency, however many receipts there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Energy {
    sums: BTreeMap<(String, String), Sum>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    sessions: u64,
    completed: u64,
    energy: i128,
    added: i128,
    total: Decimal,
    net: Decimal,
    adjustments: u64,
    money_added: Decimal,
}

impl Energy {
    /// Another receipt.
    pub fn add(&mut self, r: &Receipt, adjustments: &[Adjustment]) {
        let at = (r.site_id.to_string(), r.currency.to_string());
        let sum = self.sums.entry(at).or_default();
        sum.sessions += 1;
        sum.completed += u64::from(r.status == Status::Completed);
        sum.energy += i128::from(r.energy_mwh.0);
        sum.added += energy_added(adjustments);
        sum.total += r.total.0;
        sum.net += r.net.0;
        sum.adjustments += adjustments.len() as u64;
        sum.money_added += money_added(adjustments);
    }

    /// By site and currency.
    #[must_use]
    pub fn rows(&self, month: &str) -> Vec<EnergyRow> {
        let row = |((site, currency), sum): (&(String, String), &Sum)| EnergyRow {
            month: month.to_owned(),
            site_id: site.clone(),
            currency: currency.clone(),
            sessions: sum.sessions,
            completed: sum.completed,
            energy_wh: Wh3(sum.energy),
            adjusted_energy_wh: Wh3(sum.energy + sum.added),
            net: Amount(sum.net),
            tax: Amount(sum.total - sum.net),
            total: Amount(sum.total),
            adjustments: sum.adjustments,
            adjusted_total: Amount(sum.total + sum.money_added),
        };
        self.sums.iter().map(row).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ev_contract::{
        ids::ConnectorId,
        units::{Currency, Mwh},
        v1::{
            EndCode, EndReason, EndSource, Flag, Origin, ReceiptLine, Tariff, TariffTerms, TaxLine,
        },
        wire::Tag,
    };

    use super::*;
    use crate::report::csv_row::cells;

    fn money(text: &str) -> Amount {
        Amount(text.parse().unwrap())
    }

    pub(crate) fn receipt(n: u64, ended_at: i64) -> Receipt {
        Receipt {
            tag: Tag::new(),
            number: format!("CP-001-1-{n:06}"),
            session_id: format!("0190a0b0-1111-7222-8333-{n:012}").parse().unwrap(),
            driver_id: Some("alice".parse().unwrap()),
            operator: "=EV Charging".into(),
            site_id: "depot".parse().unwrap(),
            time_zone: "Europe/Berlin".into(),
            cp_id: "CP-001".parse().unwrap(),
            connector: ConnectorId(1),
            origin: Origin::App,
            status: Status::Completed,
            end: EndReason::new(EndCode::Driver, EndSource::Driver),
            accepted_at: UnixMs(ended_at - 60_000),
            started_at: Some(UnixMs(ended_at - 50_000)),
            energy_ended_at: Some(UnixMs(ended_at)),
            ended_at: UnixMs(ended_at),
            received_at: UnixMs(ended_at + 1_000),
            meters: Vec::new(),
            energy_mwh: Mwh(7_123_456),
            idle_s: 0,
            tariff: Tariff {
                tariff_id: "base".parse().unwrap(),
                version: 2,
                terms: TariffTerms::free(Currency::EUR)
                    .with(PriceComponent::Energy, money("0.49"))
                    .with(PriceComponent::StartFee, money("1.00"))
                    .taxed("VAT", money("19")),
            },
            lines: vec![ReceiptLine {
                component: PriceComponent::Energy,
                quantity: money("7.123456"),
                unit: "kWh".into(),
                price: money("0.49"),
                amount: money("3.49049344"),
                note: None,
            }],
            exact: money("3.49049344"),
            net: money("2.93"),
            taxes: vec![TaxLine {
                name: "VAT".into(),
                percent: money("19"),
                amount: money("0.56"),
            }],
            total: money("3.49"),
            currency: Currency::EUR,
            rounding: String::new(),
            flags: vec![Flag::MeterReset, Flag::ClockUnsure],
            periods: Vec::new(),
        }
    }

    pub(crate) fn adjustment(receipt: &Receipt, amount: &str, energy_mwh: i64) -> Adjustment {
        Adjustment {
            tag: Tag::new(),
            number: format!("{}-A1", receipt.number),
            session_id: receipt.session_id,
            n: 1,
            by: "olga".into(),
            reason: "slow, \"very\"\nslow".into(),
            at: receipt.ended_at,
            energy_mwh,
            amount: money(amount),
            currency: Currency::EUR,
            total: money("1.00"),
        }
    }

    fn csv_of(row: impl Serialize) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let (names, cells): (Vec<_>, Vec<_>) = cells(&row).unwrap().into_iter().unzip();
        writer.write_record(names).unwrap();
        writer.write_record(cells).unwrap();
        String::from_utf8(writer.into_inner().unwrap()).unwrap()
    }

    #[test]
    fn a_receipt_is_a_row_with_its_adjustments() {
        let receipt = receipt(42, 1_764_543_600_000 - 1);
        let added = [adjustment(&receipt, "-1.50", -123_456)];
        let text = csv_of(ReceiptRow::new(&receipt, &added, Calendar::Sites));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let names = reader.headers().unwrap().clone();
        let cells = reader.records().next().unwrap().unwrap();
        let cell = |name| &cells[names.iter().position(|n| n == name).unwrap()];
        assert_eq!(cell("number"), "CP-001-1-000042");
        assert_eq!(cell("operator"), "'=EV Charging");
        assert_eq!(cell("ended_at"), "2025-11-30T22:59:59.999Z");
        assert_eq!(cell("ended_at_site"), "2025-11-30T23:59:59+01:00");
        assert_eq!(cell("energy_wh"), "7123.456");
        assert_eq!(cell("adjusted_energy_wh"), "7000.000");
        assert_eq!(cell("total"), "3.49");
        assert_eq!(cell("adjusted_total"), "1.99");
        assert_eq!(cell("tax"), "0.56");
        assert_eq!(cell("taxes"), "VAT 19%: 0.56");
        assert_eq!(cell("start_amount"), "0.00");
        assert_eq!(cell("adjustments"), "1");
        assert_eq!(cell("flags"), "meter_reset clock_unsure");
        assert_eq!(
            cell("adjustment_reasons"),
            "CP-001-1-000042-A1: slow, \"very\" slow"
        );
    }

    #[test]
    fn the_names_of_columns_are_those_of_the_rows() {
        fn names(row: &impl Serialize) -> Vec<String> {
            cells(row).unwrap().into_iter().map(|(n, _)| n).collect()
        }
        let receipt = receipt(1, 0);
        let mut energy = Energy::default();
        energy.add(&receipt, &[]);
        let session = SessionRow::new(&receipt, &[], Calendar::Utc);
        assert_eq!(names(&session), SESSION_NAMES);
        let paper = ReceiptRow::new(&receipt, &[], Calendar::Utc);
        assert_eq!(names(&paper), RECEIPT_NAMES);
        assert_eq!(names(&energy.rows("2025-11")[0]), ENERGY_NAMES);
    }

    #[test]
    fn a_session_is_a_row() {
        let receipt = receipt(1, 1_764_543_600_000);
        let text = csv_of(SessionRow::new(&receipt, &[], Calendar::Utc));
        assert!(text.contains("2025-11-30T23:00:00+00:00"), "{text}");
        assert!(text.contains(",driver,driver,,"), "{text}");
    }

    #[test]
    fn a_site_has_a_sum_for_each_currency() {
        let mut energy = Energy::default();
        let first = receipt(1, 0);
        let mut second = receipt(2, 0);
        second.status = Status::Failed;
        second.currency = "CHF".parse().unwrap();
        energy.add(&first, &[adjustment(&first, "0.01", 544)]);
        energy.add(&receipt(3, 0), &[]);
        energy.add(&second, &[]);
        let rows = energy.rows("2025-11");
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].currency.as_str(), rows[0].completed), ("CHF", 0));
        assert_eq!((rows[1].sessions, rows[1].adjustments), (2, 1));
        assert_eq!(rows[1].energy_wh, Wh3(14_246_912));
        assert_eq!(rows[1].adjusted_energy_wh, Wh3(14_247_456));
        assert_eq!(rows[1].adjusted_total.to_string(), "6.99");
    }
}
