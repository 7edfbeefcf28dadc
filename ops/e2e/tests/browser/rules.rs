//! What the page's server lets nobody do, and what it tells browsers to forbid.

use anyhow::{Context, Result, ensure};
use ev_e2e::{Browser, Charger, Layout, Look, Site, Web};

/// A form as a browser sends it.
fn form(host: &str, origin: &str, path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// What forms of this page carry.
fn token(page: &str) -> Result<&str> {
    let (_, rest) = page
        .split_once("name=\"token\" value=\"")
        .context("a token")?;
    let (token, _) = rest.split_once('"').context("the end of a token")?;
    Ok(token)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_page_itself_starts_a_session() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let alice = site.driver("alice").await?;
    let web = Web::driver(&site, "alice").await?;
    let (_, page) = web.get("/").await?;
    let own = format!("http://{}", web.host());
    let token = token(&page)?;
    let good = format!("token={token}&place=CP-001%2F1");
    for (host, origin, body, what) in [
        (
            web.host(),
            "http://evil.example",
            good.as_str(),
            "another page",
        ),
        (
            web.host(),
            "null",
            good.as_str(),
            "a page without an origin",
        ),
        (
            "evil.example".into(),
            "http://evil.example",
            good.as_str(),
            "a name that points here",
        ),
        (
            web.host(),
            own.as_str(),
            "token=guessed&place=CP-001%2F1",
            "a guessed token",
        ),
        (web.host(), own.as_str(), "place=CP-001%2F1", "no token"),
    ] {
        let (status, answer) = web.ask(&form(&host, origin, "/start", body)).await?;
        ensure!((400..500).contains(&status), "{what}: {status}: {answer}");
    }
    ensure!(alice.history().await?.is_empty());
    let (status, answer) = web.ask(&form(&web.host(), &own, "/start", &good)).await?;
    ensure!(status < 400, "{status}: {answer}");
    ensure!(alice.history().await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_elsewhere_runs_and_no_credential_is_told() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let web = Web::driver(&site, "alice").await?;
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
        let (status, answer) = web.get(path).await?;
        ensure!(status == 200, "{path}: {status}");
        for line in creds
            .lines()
            .filter(|line| line.len() > 40 && !line.contains(' '))
        {
            ensure!(
                !answer.contains(line),
                "{path} has a line of the credentials"
            );
        }
        let head = answer.to_lowercase();
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
