//! What central exports: clean, documented, and the same as the public exporter's where it is about
//! nats-server.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::{Charger, Layout, Site};
use ev_testkit::{PATIENCE, wait_for};
use tokio::{io::AsyncWriteExt, process::Command};

/// Runs a session to its receipt, so that all that can be counted of one has been.
async fn with_a_session(layout: &Layout) -> Result<Site> {
    let site = Site::start(layout).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    alice.stop(&session).await?;
    site.cdr(&session).await?;
    Ok(site)
}

/// What `promtool check metrics` says of a page.
async fn promtool(page: &str) -> Result<String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run promtool: install it with `apt-get install prometheus`")?;
    let mut input = child.stdin.take().context("its standard input")?;
    input.write_all(page.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The families of a page: type and labels by name.
fn families(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut name = "";
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (family, kind) = declared.split_once(' ').unwrap_or((declared, ""));
            name = family;
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, rest)) = line.split_once('{')
            && let Some((_, labels)) = families.get_mut(name)
        {
            let (inside, _) = rest.rsplit_once('}').unwrap_or((rest, ""));
            for part in inside.split("\",") {
                let label = part.split_once('=').map_or(part, |(label, _)| label);
                if label != "le" {
                    labels.insert(label.to_owned());
                }
            }
        }
    }
    families
}

/// Names of the public exporter that `promtool` would not choose.
const NOT_OURS: [&str; 3] = [
    "gnatsd_varz_jetstream_stats_api_total non-counter metrics should not have \"_total\" suffix",
    "jetstream_stream_consumer_count non-histogram and non-summary metrics should not have \"_count\" suffix",
    "jetstream_stream_subject_count non-histogram and non-summary metrics should not have \"_count\" suffix",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_clean() -> Result<()> {
    let site = with_a_session(&Layout::small(Charger::Orderly)).await?;
    let (status, page) = site.http(0, "/metrics").await?;
    ensure!(status == 200, "{status}");
    let said = promtool(&page).await?;
    ensure!(said.is_empty(), "{said}");
    let page = servers(&site, 0).await?;
    let said = promtool(&page).await?;
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| !line.is_empty() && !NOT_OURS.contains(line))
        .collect();
    ensure!(ours.is_empty(), "{ours:?}");
    Ok(())
}

/// The page of a replica that shows the servers, once it does.
async fn servers(site: &Site, central: usize) -> Result<String> {
    wait_for("the servers are shown", PATIENCE, async || {
        let (_, page) = site.http(central, "/metrics/nats").await?;
        ensure!(page.contains("gnatsd_varz_connections"), "{page}");
        Ok(page)
    })
    .await
}
