//! The whole system, by what its users see. Each test runs real processes; most run twice, with an
//! orderly charger and with an unruly one.

mod alerts;
mod attacks;
mod audit;
mod charging;
mod clients;
mod clocks;
mod crash_points;
mod day_two;
mod disks;
mod door;
mod enrolment;
mod faults;
mod input;
mod leaf;
mod ledger;
mod local;
mod metrics;
mod operators;
mod pages;
mod races;
mod records;
mod renewal;
mod reports;
mod storms;
mod swarm;
mod twins;

use anyhow::{Result, ensure};
use ev_contract::{
    units::Currency,
    v1::{PriceComponent, TariffTerms},
};
use ev_e2e::{Charger, Driver, Layout, Site};
use ev_testkit::{PATIENCE, wait_for};

/// Declares tests that run with each kind of charger.
#[macro_export]
macro_rules! with_both_chargers {
    ($($(#[$meta:meta])* $name:ident;)+) => {
        mod orderly {
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread")]
            async fn $name() -> anyhow::Result<()> { super::$name(ev_e2e::Charger::Orderly).await })+
        }
        mod unruly {
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread")]
            async fn $name() -> anyhow::Result<()> { super::$name(ev_e2e::Charger::Unruly).await })+
        }
    };
}

/// Prices for energy and a start, 19 % VAT included.
fn terms(per_kwh: &str, start: &str) -> TariffTerms {
    let amount = |text: &str| text.parse().expect("an amount");
    TariffTerms::free(Currency::EUR)
        .with(PriceComponent::Energy, amount(per_kwh))
        .with(PriceComponent::StartFee, amount(start))
        .taxed("VAT", amount("19"))
}

/// A small system with cars plugged in everywhere.
async fn plugged(charger: Charger, centrals: usize) -> Result<Site> {
    let layout = Layout::small(charger).centrals(centrals);
    let site = Site::start(&layout).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    site.ctl(&["plug", "CP-002"]).await?;
    Ok(site)
}

/// Waits until a meter has counted so much more.
async fn metered(site: &Site, cp: &str, from: u64, more: u64) -> Result<u64> {
    wait_for(
        &format!("{cp} has metered {more} mWh"),
        PATIENCE,
        async || {
            let register = site.register(cp).await?;
            ensure!(
                register >= from + more,
                "{} so far",
                register.saturating_sub(from)
            );
            Ok(register)
        },
    )
    .await
}

/// The promise about an ended session: one receipt, the same in the CDR stream, and the energy that
/// the meter has counted.
async fn ended_right(
    site: &Site,
    driver: &Driver,
    session: &str,
    register_before: u64,
    cp: &str,
) -> Result<ev_contract::v1::Receipt> {
    let view = driver.wait_ended(session).await?;
    let receipt = driver.receipt(session).await?.receipt;
    ensure!(
        receipt.session_id.to_string() == session,
        "another session's receipt"
    );
    let register = site.register(cp).await?;
    ensure!(
        receipt.energy_mwh.0 == register - register_before,
        "receipt {} mWh, meter {} mWh ({view:?})",
        receipt.energy_mwh.0,
        register - register_before,
    );
    let copy = site.cdr(session).await?;
    ensure!(copy == receipt, "the CDR stream has another receipt");
    wait_for("the spool is empty", PATIENCE, async || {
        let depth = site.spool_depth(cp).await?;
        ensure!(depth == 0, "{depth} records wait");
        Ok(())
    })
    .await?;
    Ok(receipt)
}
