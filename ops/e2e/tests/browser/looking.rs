//! That the other tests would see what is wrong: a page with a fault of each kind.

use anyhow::{Context, Result, ensure};
use ev_e2e::{Browser, Look};
use ev_testkit::{PATIENCE, wait_for};

const FAULTY: &str = r#"<!doctype html>
<html lang="en"><head><title>Faulty</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  .faint { color: #bbb; background: #fff }
  @media (prefers-color-scheme: dark) { .faint { color: #000; background: #fff } }
  .wide { width: 400px }
  #covered { position: relative; height: 2em }
  #covered i { position: absolute; inset: 0 }
</style></head>
<body><main><h1>Faulty</h1>
<p class="faint">Hard to read</p>
<div class="wide">Wide</div>
<div id="covered"><button>Covered</button><i></i></div>
<button id="counter" aria-label="Count">0</button>
<noscript>No scripts here</noscript>
<div id="problem" role="alert"></div>
<script>
  const counter = document.getElementById("counter");
  counter.onclick = () => { counter.textContent = Number(counter.textContent) + 1; };
  const problem = document.getElementById("problem");
  problem.textContent = "Gone in a moment";
  setTimeout(() => { problem.textContent = ""; });
  console.error("said aloud");
</script></main></body></html>"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_page_is_seen() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("faulty.html");
    std::fs::write(&path, FAULTY)?;
    let url = format!("file://{}", path.display());
    let browser = Browser::start().await?;
    let page = browser.open(&url, Look::DESK).await?;

    wait_for("the alert is gone", PATIENCE, async || {
        ensure!(page.text("#problem").await?.is_empty());
        Ok(())
    })
    .await?;
    ensure!(
        page.alerts().await? == ["Gone in a moment"],
        "an alert was missed"
    );
    ensure!(
        page.complaints()
            .iter()
            .any(|said| said.contains("said aloud")),
        "{:?}",
        page.complaints()
    );
    ensure!(page.asked().contains(&url), "{:?}", page.asked());

    let found = page.axe().await?;
    ensure!(
        found.len() == 1 && found[0].contains("color-contrast"),
        "{found:?}"
    );
    page.look(Look::DESK.dark()).await?;
    ensure!(page.axe().await?.is_empty(), "it is readable in dark");
    ensure!(page.overflow().await? <= 0);
    page.look(Look::PHONE).await?;
    ensure!(page.overflow().await? > 0, "400 px do not fit");

    page.look(Look::DESK).await?;
    page.press("button", "count").await?;
    page.press_twice("button", "count").await?;
    page.tab_to("button", "count").await?;
    page.key("Enter").await?;
    page.key(" ").await?;
    page.says("#counter", "5").await?;
    let covered = page.place("button", "covered");
    let met = tokio::time::timeout(std::time::Duration::from_secs(1), covered).await;
    ensure!(met.is_err(), "what is covered cannot be pressed");

    page.look(Look::DESK.without_scripts()).await?;
    page.reload().await?;
    page.says("main", "No scripts here").await?;
    page.press("button", "count").await?;
    ensure!(page.text("#counter").await? == "0");
    let picture = dir.path().join("picture.png");
    page.picture(&picture).await?;
    let bytes = std::fs::read(&picture).context("read the picture")?;
    ensure!(bytes.starts_with(b"\x89PNG"));
    Ok(())
}
