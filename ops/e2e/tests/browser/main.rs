//! The driver's page and the operator's wall in a real Chromium, against the whole system. What is
//! pressed is found as a screen reader finds it, by role and name.

mod driver;
mod everybody;
mod looking;
mod outage;
mod rules;
mod tabs;
mod wall;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ev_contract::v1::SessionView;
use ev_e2e::{Browser, Charger, Driver, Layout, Look, Page, Site, Tab, driver_cli};
use ev_testkit::{PATIENCE, Role};

/// What ends the session that is shown.
const END: &str = "End Charging Session";
/// Where the page says how far the session is, or how the last one ended.
const SESSION: &str = ".session .state";
/// What the operator asks for.
const PRICE: [&str; 14] = [
    "--operator",
    "olga",
    "op",
    "tariff",
    "set",
    "day",
    "--scope",
    "default",
    "--per-kwh",
    "0.49EUR",
    "--start-fee",
    "1.00EUR",
    "--vat",
    "19",
];
/// A picture in the documentation is looked at, not measured.
const PICTURE_BYTES_MAX: u64 = 150_000;

/// What starts a session there.
fn start(cp: &str) -> String {
    format!("Start Charging {cp}")
}

/// Where the page says how far a charge point is from being free.
fn place(cp: &str) -> String {
    format!("[data-place='{cp}/1'] .state")
}

/// A running system, alice's page of it, and her browser.
struct Stage {
    page: Tab,
    browser: Browser,
    web: Page,
    alice: Driver,
    site: Site,
}

impl Stage {
    /// With a car at both charge points, and a price.
    async fn set(look: Look) -> Result<Self> {
        let site = Site::start(&Layout::small(Charger::Orderly)).await?;
        site.ctl(&["plug", "CP-001"]).await?;
        site.ctl(&["plug", "CP-002"]).await?;
        set_price(&site).await?;
        let alice = site.driver("alice").await?;
        let web = Page::of_driver(&site, "alice").await?;
        let browser = Browser::start().await?;
        let page = browser.open(&web.url(), look).await?;
        Ok(Self {
            page,
            browser,
            web,
            alice,
            site,
        })
    }

    /// Alice's sessions, as central knows them.
    async fn sessions(&self) -> Result<Vec<SessionView>> {
        self.alice.history().await
    }

    /// The id of her only one.
    async fn session(&self) -> Result<String> {
        let all = self.sessions().await?;
        ensure!(all.len() == 1, "{} sessions: {all:?}", all.len());
        Ok(all[0].session_id.to_string())
    }

    /// Starts at CP-001 and waits until the page shows that energy flows; the session's id.
    async fn charging(&self) -> Result<String> {
        self.page.press("button", &start("CP-001")).await?;
        self.page.says(SESSION, "charging").await?;
        self.page.one("button", END).await?;
        self.session().await
    }

    async fn is_clean(&self, page: &Tab) -> Result<()> {
        is_clean(page, &self.web).await
    }
}

async fn set_price(site: &Site) -> Result<()> {
    site.nats.keys().creds(Role::Operator, "olga")?;
    let mut price = driver_cli(site, "olga")?.args(PRICE).spawn()?;
    let status = price.wait(PATIENCE).await?;
    ensure!(status.success(), "{status}: {}", price.log());
    Ok(())
}

/// Nothing went wrong that a person or the browser would have noticed, and nobody else was asked for
/// anything.
async fn is_clean(page: &Tab, web: &Page) -> Result<()> {
    let alerts = page.alerts().await?;
    ensure!(alerts.is_empty(), "shown as an error: {alerts:?}");
    let complaints = page.complaints();
    ensure!(complaints.is_empty(), "in the console: {complaints:?}");
    let home = web.url();
    for url in page.asked() {
        ensure!(
            url.starts_with(&home) || url.starts_with("data:") || url == "about:blank",
            "{url} was asked"
        );
    }
    Ok(())
}

/// At a desk and on a phone, in light and in dark, it fits and axe-core has nothing serious.
async fn is_usable(page: &Tab, when: &str) -> Result<()> {
    for (look, name) in [
        (Look::PHONE, "on a phone, in light"),
        (Look::PHONE.dark(), "on a phone, in dark"),
        (Look::DESK.dark(), "at a desk, in dark"),
        (Look::DESK, "at a desk, in light"),
    ] {
        page.look(look).await?;
        let wider = page.overflow().await?;
        ensure!(wider <= 0, "{when}, {name}: {wider} px too wide");
        let found = page.axe().await?;
        ensure!(found.is_empty(), "{when}, {name}: {found:#?}");
    }
    Ok(())
}

/// A picture of the page for the documentation, where somebody wants pictures.
async fn picture(page: &Tab, name: &str) -> Result<()> {
    let Some(folder) = std::env::var_os("EV_SCREENSHOTS") else {
        return Ok(());
    };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).context("make the folder of the pictures")?;
    let path = folder.join(name);
    page.picture(&path).await?;
    let size = std::fs::metadata(&path)?.len();
    ensure!(size <= PICTURE_BYTES_MAX, "{name} has {size} bytes");
    Ok(())
}
