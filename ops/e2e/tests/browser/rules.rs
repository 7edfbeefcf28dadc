//! What a browser is told to forbid, and what it is never told.

use anyhow::{Context, Result, ensure};
use ev_e2e::{Browser, Charger, Layout, Look, Page, Site};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_elsewhere_runs_and_no_credential_is_told() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let web = Page::of_driver(&site, "alice").await?;
    let creds = site.nats.keys().creds_dir().join("driver/alice.creds");
    let creds = std::fs::read_to_string(creds).context("read alice's credentials")?;
    let browser = Browser::start().await?;
    let page = browser.open(&web.url(), Look::DESK).await?;
    for url in page.asked() {
        let path = url
            .strip_prefix(web.url().trim_end_matches('/'))
            .context("another server")?;
        if path.starts_with("/events") {
            continue;
        }
        let answer = web.get(path).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        for line in creds
            .lines()
            .filter(|line| line.len() > 40 && !line.contains(' '))
        {
            ensure!(
                !answer.body.contains(line),
                "{path} has a line of the credentials"
            );
        }
        let head = answer.head.to_lowercase();
        ensure!(
            head.contains("content-security-policy: default-src 'none'"),
            "{path}: {head}"
        );
        for word in ["unsafe-inline", "unsafe-eval"] {
            ensure!(!head.contains(word), "{path} allows {word}");
        }
    }
    // The browser holds to it, also where a text would smuggle something in.
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.evil = 1' }))")
        .await?;
    ensure!(page.evaluate("typeof window.evil").await? == "undefined");
    let complaints = page.complaints();
    ensure!(
        complaints
            .iter()
            .any(|said| said.contains("Content Security Policy")),
        "{complaints:?}"
    );
    Ok(())
}
