//! Clocks of hosts that are wrong.

use anyhow::{Result, ensure};
use ev_e2e::{Charger, Layout, Site, now_ms};
use ev_testkit::{PATIENCE, wait_for};

const HOUR_MS: i64 = 3_600_000;

async fn says(site: &Site, central: usize, text: &str) -> Result<()> {
    wait_for(&format!("/readyz says: {text}"), PATIENCE, async || {
        let (status, body) = site.http(central, "/readyz").await?;
        ensure!(status == 503 && body.contains(text), "{status}: {body}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_clock_is_off_says_so_and_answers_nothing() -> Result<()> {
    let mut site = Site::start(&Layout::small(Charger::Orderly).centrals(2)).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let alice = site.driver("alice").await?;
    let clock = site.dir().join("central-2.clock");
    std::fs::write(&clock, "+7200\n")?;
    site.centrals[1].kill9()?;
    site.centrals[1].set_clock_by(&clock)?;
    site.centrals[1].restart()?;
    says(&site, 1, "s ahead of nats-server's").await?;
    ensure!(site.metric(1, "ev_ready").await? < 0.5);
    ensure!(site.metric(1, "ev_clock_off").await? > 0.5);
    ensure!(site.metric(1, "ev_clock_ahead_seconds").await? > 7_000.0);

    // All that is asked is answered by the other one.
    let session = alice.start("CP-001").await?;
    alice.wait_energy(&session, 1_000).await?;
    alice.stop(&session).await?;
    alice.wait_ended(&session).await?;
    let receipt = site.cdr(&session).await?;
    ensure!(
        (receipt.ended_at.0 - now_ms()).abs() < HOUR_MS,
        "{receipt:?}"
    );
    ensure!(receipt.accepted_at <= receipt.ended_at, "{receipt:?}");

    // Set right it serves, without a restart; set wrong while it serves, it stops.
    std::fs::write(&clock, "+0\n")?;
    site.ready(1).await?;
    ensure!(site.metric(1, "ev_clock_off").await? < 0.5);
    std::fs::write(&clock, "-7200\n")?;
    says(&site, 1, "s behind nats-server's").await?;

    // Alone with the server nobody knows who is right: it does not answer.
    site.centrals[0].kill9()?;
    site.centrals[1].kill9()?;
    site.centrals[1].restart()?;
    says(&site, 1, "the clock of this host is off").await
}
