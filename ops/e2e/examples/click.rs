//! How long a driver waits from the click until the page shows an accepted session, beside
//! `driver-cli start` on the same machine in the same minute. `ops/dev bench --only page` runs it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ev_e2e::{Browser, Charger, Driver, Layout, Look, Page, Site, Tab, driver_cli};
use ev_testkit::hush;
use tokio::{process::Command, time::timeout};

/// In turns, so that what else the machine does meets both. A median needs no more.
const ROUNDS: usize = 21;
/// What `driver-cli start` may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// Resolves to the milliseconds between the next click and the change of the page that shows an open
/// session.
const CLICK_TO_ACCEPTED: &str = "new Promise(resolve => addEventListener('click', function met(click) {
  if (!click.target.closest('button.start')) return;
  removeEventListener('click', met, { capture: true });
  const look = () => {
    if (!document.querySelector('.session[data-state=preparing], .session[data-state=charging]')) return;
    observer.disconnect();
    resolve(performance.now() - click.timeStamp);
  };
  const observer = new MutationObserver(look);
  observer.observe(document, { subtree: true, childList: true, attributes: true });
}, { capture: true }))";

async fn click(page: &Tab) -> Result<Duration> {
    // The page has heard of the next car: what it says of it may move the button.
    page.says("#cp-CP-001-1", "free for it now").await?;
    let (took, pressed) = tokio::join!(
        page.evaluate(CLICK_TO_ACCEPTED),
        page.press("button", "Start Charging CP-001")
    );
    pressed?;
    let took = took?.as_f64().context("milliseconds")?;
    Ok(Duration::from_secs_f64(took / 1_000.0))
}

async fn command(site: &Site) -> Result<Duration> {
    let start = ["--driver", "carol", "start", "CP-002"];
    let mut command = Command::from(driver_cli(site, "carol")?.args(start).command());
    command.stdin(Stdio::null()).kill_on_drop(true);
    // Not looked for every so often, as tests do: its end is heard of at once.
    let begun = Instant::now();
    let output = timeout(COMMAND_MAX, command.output()).await??;
    let took = begun.elapsed();
    ensure!(output.status.success(), "{output:?}");
    Ok(took)
}

/// Ends what is open, and drives away for the next car.
async fn end(site: &Site, driver: &Driver, cp: &str) -> Result<()> {
    for view in driver.open().await? {
        let session = view.session_id.to_string();
        driver.stop(&session).await?;
        driver.wait_ended(&session).await?;
    }
    site.ctl(&["unplug", cp]).await?;
    site.ctl(&["plug", cp]).await?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    for cp in ["CP-001", "CP-002"] {
        site.ctl(&["plug", cp]).await?;
    }
    let web = Page::of_driver(&site, "alice").await?;
    let (alice, carol) = (site.driver("alice").await?, site.driver("carol").await?);
    let browser = Browser::start().await?;
    let page = browser.open(&web.url(), Look::DESK).await?;
    let (mut clicks, mut commands) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        clicks.push(click(&page).await?);
        end(&site, &alice, "CP-001").await?;
        commands.push(command(&site).await?);
        end(&site, &carol, "CP-002").await?;
    }
    let (click, command) = (median(clicks), median(commands));
    println!("median of {ROUNDS}, in turns:");
    println!("  click to accepted on the page  {:7.1} ms", ms(click));
    println!("  driver-cli start               {:7.1} ms", ms(command));
    println!(
        "  ratio                          {:7.2}",
        ms(click) / ms(command)
    );
    hush();
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
