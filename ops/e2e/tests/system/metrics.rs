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

/// The rows of a table of metrics in the documentation: type and labels by name.
fn documented(text: &str, start: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let kind = cells.next()?;
        let labels = cells
            .next()?
            .split(", ")
            .map(|label| label.trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        Some((name.to_owned(), (kind.to_owned(), labels.collect())))
    });
    rows.filter(|(name, _)| name.starts_with(start)).collect()
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

/// Each metric that is exported has its row, with its type and labels, and each row its metric.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_what_is_documented() -> Result<()> {
    let text = include_str!("../../../docs/metrics.md");
    let site = with_a_session(&Layout::small(Charger::Orderly)).await?;
    wait_for("the page has what the table has", PATIENCE, async || {
        let (_, mut page) = site.http(0, "/metrics").await?;
        page += &servers(&site, 0).await?;
        let exported = families(&page);
        let mut faults = Vec::new();
        for start in ["ev_", "process_", "jetstream_"] {
            let documented = documented(text, start);
            for (name, is) in exported.iter().filter(|(name, _)| name.starts_with(start)) {
                match documented.get(name) {
                    None => faults.push(format!("{name} has no row: {is:?}")),
                    // A metric that has nothing to show yet has no labels yet.
                    Some(row) if row.0 != is.0 || !is.1.is_empty() && row.1 != is.1 => {
                        faults.push(format!("{name} is {is:?}, and its row says {row:?}"));
                    }
                    Some(_) => {}
                }
            }
            for name in documented.keys() {
                // Nothing of the kind has happened here, so that the library shows no family.
                if !exported.contains_key(name) && !UNSEEN.contains(&name.as_str()) {
                    faults.push(format!("{name} is not exported"));
                }
            }
        }
        ensure!(faults.is_empty(), "{faults:#?}");
        Ok(())
    })
    .await
}

/// Metrics of what need not happen in a session as it should be, whose labels have no fixed values:
/// the library shows no family before the first.
const UNSEEN: [&str; 6] = [
    "ev_cp_clock_offset_seconds",
    "ev_cp_problem",
    "ev_ledger_void_records_total",
    "ev_messages_ignored_total",
    "ev_refused_total",
    "jetstream_consumer_last_ack_seconds",
];

/// The exporter's names, as version 0.20.2 shows them of a server without HTTP, gateways and leaf
/// nodes.
const EXPORTER: &str = include_str!("exporter.txt");

#[tokio::test(flavor = "multi_thread")]
async fn nats_servers_numbers_have_the_public_exporters_names_and_labels() -> Result<()> {
    let site = with_a_session(&Layout::small(Charger::Orderly)).await?;
    let page = servers(&site, 0).await?;
    let exported = families(&page);
    for line in EXPORTER.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let name = words.next().context("a name")?;
        let (kind, labels) = exported.get(name).with_context(|| format!("no {name}"))?;
        ensure!(kind == "gauge", "{name} is a {kind}");
        let expected: BTreeSet<String> = words.map(str::to_owned).collect();
        ensure!(
            *labels == expected,
            "{name} has {labels:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// Of several replicas one shows the servers, and another one does when that has gone.
#[tokio::test(flavor = "multi_thread")]
async fn one_replica_shows_the_servers_and_another_one_when_it_has_gone() -> Result<()> {
    let layout = Layout::small(Charger::Orderly).centrals(3);
    let mut site = Site::start(&layout).await?;
    let shows = async |site: &Site, of: &[usize]| -> Result<usize> {
        wait_for("one replica shows the servers", PATIENCE, async || {
            let mut who = Vec::new();
            for n in of {
                let (status, page) = site.http(*n, "/metrics/nats").await?;
                ensure!(status == 200, "{status}: {page}");
                let speaks = page.lines().any(|line| line == "ev_nats_bridge_speaks 1");
                ensure!(speaks == page.contains("gnatsd_varz_connections"), "{page}");
                if speaks {
                    who.push(*n);
                }
            }
            ensure!(who.len() == 1, "{who:?}");
            Ok(who[0])
        })
        .await
    };
    let first = shows(&site, &[0, 1, 2]).await?;
    site.centrals[first].kill9()?;
    let left: Vec<usize> = (0..3).filter(|n| *n != first).collect();
    shows(&site, &left).await?;
    Ok(())
}

/// A server that does not answer holds nobody up, and is shown as down.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_shown_as_down_and_holds_no_scrape_up() -> Result<()> {
    let mut site = Site::start(&Layout::small(Charger::Orderly)).await?;
    servers(&site, 0).await?;
    site.nats.pause()?;
    let seen = wait_for("the server is shown as down", PATIENCE, async || {
        let (status, page) = site.http(0, "/metrics/nats").await?;
        let up = page
            .lines()
            .find(|line| line.starts_with("ev_nats_server_up{"));
        // Later its connection is gone as well: then nobody can be asked.
        ensure!(
            up.is_some_and(|line| line.ends_with(" 0")) || status == 503 || up.is_none(),
            "{status}: {page}"
        );
        Ok(page)
    })
    .await;
    site.nats.resume()?;
    ensure!(!seen?.contains("gnatsd_varz_connections"));
    let page = servers(&site, 0).await?;
    let is_up = |line: &str| line.starts_with("ev_nats_server_up{") && line.ends_with(" 1");
    ensure!(page.lines().any(is_up), "{page}");
    Ok(())
}
