//! The operator's wall.

use anyhow::{Result, ensure};
use ev_contract::{connector::Phase, ids::CpId, v1::EndCode};
use ev_e2e::{Browser, Charger, Layout, Look, Page, Site, Tab};
use ev_testkit::{PATIENCE, Process, wait_for};

use crate::{is_clean, is_usable, picture, set_price};

/// What the wall is made for.
const MANY: u32 = 2_000;
/// For a picture of few bytes.
const SMALL: Look = Look {
    width: 900,
    height: 640,
    ..Look::DESK
};
const OUT: &str = "Take out of service";
const BACK: &str = "Put back into service";

/// A running system, an operator's wall of it, and her browser.
struct Room {
    page: Tab,
    _browser: Browser,
    web: Page,
    site: Site,
}

impl Room {
    /// With so many charge points, and a car at the first two.
    async fn set(charge_points: usize) -> Result<Self> {
        let layout = Layout {
            charge_points,
            ..Layout::small(Charger::Orderly)
        };
        let site = Site::start(&layout).await?;
        set_price(&site).await?;
        site.ctl(&["plug", "CP-001"]).await?;
        site.ctl(&["plug", "CP-002"]).await?;
        let web = Page::of_operator(&site, "olga").await?;
        let browser = Browser::start().await?;
        let page = browser.open(&web.url(), Look::DESK).await?;
        Ok(Self {
            page,
            _browser: browser,
            web,
            site,
        })
    }
}

/// Where the wall says how a charge point's connectors stand.
fn card(cp: &str) -> String {
    format!("#cp-{cp} .state")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_and_all_are_taken_out_of_service_and_put_back() -> Result<()> {
    let room = Room::set(2).await?;
    let page = &room.page;
    page.press("checkbox", "needs attention").await?;
    page.says("#filter-count", "0 of 2").await?;
    page.press("checkbox", "needs attention").await?;
    page.press("button", &format!("{OUT} CP-001")).await?;
    page.says(&card("CP-001"), "out of service").await?;
    page.says(&card("CP-002"), "available").await?;
    // Drivers hear of it.
    let alice = room.site.driver("alice").await?;
    ensure!(alice.start("CP-001").await.is_err(), "it is out of service");
    page.press("button", &format!("{BACK} CP-001")).await?;
    page.says(&card("CP-001"), "available").await?;
    page.evaluate(
        "[...document.querySelectorAll('summary')].find(s => s.innerText.includes('All')).focus()",
    )
    .await?;
    page.key("Enter").await?;
    for (wish, words) in [
        ("Take all out of service", "out of service"),
        ("Put all back into service", "available"),
    ] {
        page.press("checkbox", "all of them").await?;
        page.press("button", wish).await?;
        for cp in ["CP-001", "CP-002"] {
            page.says(&card(cp), words).await?;
        }
    }
    is_clean(page, &room.web).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_ended_with_a_reason_that_its_driver_reads() -> Result<()> {
    let room = Room::set(8).await?;
    let page = &room.page;
    let alice = room.site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    room.site.driver("bob").await?.start("CP-004").await?;
    page.press("button", &format!("{OUT} CP-006")).await?;
    alice.wait_energy(&session, 500_000).await?;
    page.says(&card("CP-001"), "charging").await?;
    // What the car takes at most, 11 kW, sixty times.
    page.says(&card("CP-001"), "660.0 kW").await?;
    page.says(&card("CP-001"), "alice").await?;
    page.says(&card("CP-004"), "preparing").await?;
    page.says(&card("CP-006"), "out of service").await?;
    is_usable(page, "while one charges").await?;
    page.look(SMALL).await?;
    picture(page, "wall.png").await?;
    page.evaluate("document.querySelector('#cp-CP-001 summary').focus()")
        .await?;
    page.key("Enter").await?;
    page.press("textbox", "Reason").await?;
    page.write("cable damaged").await?;
    page.press("button", "End this session").await?;
    let ended = alice.wait_ended(&session).await?;
    ensure!(ended.state == Phase::Completed, "{ended:?}");
    let end = alice.receipt(&session).await?.receipt.end;
    ensure!(end.code == EndCode::Operator, "{end:?}");
    ensure!(end.raw.as_deref() == Some("cable damaged"), "{end:?}");
    page.says(&card("CP-001"), "finishing").await?;
    is_clean(page, &room.web).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cabinet_that_is_cut_off_needs_attention() -> Result<()> {
    let mut room = Room::set(2).await?;
    room.page.says(&card("CP-001"), "available").await?;
    room.site.uplink.cut().await;
    room.page.says(&card("CP-001"), "offline").await?;
    room.page.press("checkbox", "needs attention").await?;
    room.page.says("#filter-count", "2 of 2").await?;
    room.site.uplink.heal().await?;
    // What needs nobody's attention leaves the filter by itself.
    room.page.says("#filter-count", "0 of 2").await?;
    is_clean(&room.page, &room.web).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_charge_points_are_found_and_taken_out_of_service() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let names: Vec<CpId> = (1..=MANY)
        .map(|n| CpId::new(format!("SWARM-{n:06}")))
        .collect::<Result<_, _>>()?;
    let keys = site.nats.keys();
    let credentials = keys.load_creds("LOAD", &names)?;
    keys.push(&site.nats.url(), None).await?;
    let swarm = Process::ours("edge-cp")?
        .arg("swarm")
        .args(["--nats-url", &site.nats.url()])
        .arg("--ca")
        .arg(keys.ca())
        .arg("--credentials")
        .arg(&credentials)
        .args(["--json", "--share", "--progress-s=1", "--ramp=500"])
        .args([format!("--count={MANY}")])
        .spawn()?;
    let in_sync = format!("\"in_sync\":{MANY}");
    wait_for("all are in sync", PATIENCE, async || {
        ensure!(swarm.log().contains(&in_sync));
        Ok(())
    })
    .await?;
    let web = Page::of_operator(&site, "olga").await?;
    let browser = Browser::start().await?;
    let page = browser.open(&web.url(), Look::PHONE).await?;
    page.says("#counts", "2002 charge points").await?;
    ensure!(page.overflow().await? <= 0);
    page.press("searchbox", "filter").await?;
    page.write("swarm-001999").await?;
    page.says("#filter-count", "1 of 2002").await?;
    let words = format!("{OUT} SWARM-001999");
    page.press("button", &words).await?;
    page.says(&card("SWARM-001999"), "out of service").await?;
    page.press("button", &format!("{BACK} SWARM-001999"))
        .await?;
    page.says(&card("SWARM-001999"), "available").await?;
    is_clean(&page, &web).await
}
