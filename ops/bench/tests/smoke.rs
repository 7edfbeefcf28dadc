//! The bench itself works: every row comes to figures. How large they are says nothing here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ev_testkit::Process;
use serde_json::Value;

/// Many times what it takes: a minute where nothing else runs. Just below what nextest allows.
const ENDS: Duration = Duration::from_secs(560);
/// Every row with a target or a floor that others quote.
const ROWS: [&str; 17] = [
    "core",
    "start-alone",
    "start-crowd",
    "start-three",
    "sessions",
    "json",
    "paced",
    "bursts",
    "hot-connector",
    "slow-charge-point",
    "replicas",
    "growth",
    "restart",
    "agent",
    "line",
    "reconnect",
    "drain",
];

#[tokio::test]
async fn every_row_comes_to_figures_and_what_it_checks_holds() -> Result<()> {
    let mut bench = Process::program("bench", env!("CARGO_BIN_EXE_bench"))
        .args(["--tiny", "--json", "--took=nothing=0"])
        .spawn()?;
    let status = bench.wait(ENDS).await?;
    let log = bench.log();
    let begin = log
        .find("\n{")
        .with_context(|| format!("it printed JSON; {status}: {log}"))?;
    let report: Value = serde_json::from_str(&log[begin..])?;
    ensure!(
        status.success(),
        "{status}; not measured: {:#}",
        report["failures"]
    );
    let figures = report["figures"].as_array().context("figures")?;
    for row in ROWS {
        let own: Vec<&Value> = figures.iter().filter(|f| f["row"] == row).collect();
        ensure!(!own.is_empty(), "{row} has no figures: {report}");
        for figure in own {
            let value = figure["figure"]["median"].as_f64();
            ensure!(value.is_some_and(f64::is_finite), "{figure}");
            ensure!(
                figure["target"].is_null() == figure["met"].is_null(),
                "a target is met or not: {figure}"
            );
        }
    }
    let floors = figures.iter().filter(|f| f["floor"]["median"].is_f64());
    ensure!(
        floors.count() >= 10,
        "figures stand beside floors: {report}"
    );
    Ok(())
}
