//! The shipped alerts in a real Prometheus that scrapes real programs with real faults. It reads a copy
//! of `ops/prometheus` that differs in its times alone: it looks each second, and what would have to
//! last for minutes has to last for seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use ev_contract::{connector::Phase, streams, wire::Encoding};
use ev_e2e::{Charger, Driver, Site, now_ms};
use ev_testkit::{PATIENCE, Process, Role, free_port, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::plugged;

/// The start of the agent of a cabinet that says itself what it sends.
const BOOT: &str = "0000000000000001";

/// What is another time or place in the copy: what is written, and what it becomes. Rates need several
/// samples in their windows.
const TIMES: [(&str, &str); 9] = [
    ("scrape_interval: 15s", "scrape_interval: 1s"),
    ("scrape_timeout: 10s", "scrape_timeout: 1s"),
    ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ("[5m]", "[8s]"),
    ("[15m]", "[8s]"),
    ("[1h]", "[8s]"),
    (
        "ev_receipts_oldest_waiting_seconds) > 300",
        "ev_receipts_oldest_waiting_seconds) > 3",
    ),
    ("127.0.0.1:9093", "127.0.0.1:9"),
    (
        "    - 127.0.0.1:8080\n",
        "    # the replicas of this test\n",
    ),
];
/// In which nothing fires where nothing is wrong: as long as the longest window of the copy.
const QUIET_S: u32 = 8;

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Firing {
    name: String,
    labels: BTreeMap<String, String>,
}

struct Prometheus {
    port: u16,
    _process: Process,
    _dir: TempDir,
}

fn copy(from: &Path, to: &Path, unused: &mut BTreeSet<&str>) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a name")?);
        if path.is_dir() {
            copy(&path, &target, unused)?;
        } else if path.extension().is_some_and(|e| e == "yml") {
            let mut text = std::fs::read_to_string(&path)?;
            for (written, here) in TIMES {
                if text.contains(written) {
                    unused.remove(written);
                    text = text.replace(written, here);
                }
            }
            let lines = text.lines().map(|line| match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 2s\n"),
                Some(_) | None => format!("{line}\n"),
            });
            std::fs::write(target, lines.collect::<String>())?;
        }
    }
    Ok(())
}

impl Prometheus {
    async fn start(site: &Site) -> Result<Self> {
        let dir = TempDir::with_prefix("ev-prometheus-")?;
        let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../prometheus");
        let mut unused: BTreeSet<&str> = TIMES.iter().map(|(written, _)| *written).collect();
        copy(&shipped, dir.path(), &mut unused)?;
        ensure!(unused.is_empty(), "no longer written anywhere: {unused:?}");
        let targets = dir.path().join("targets/central.yml");
        let mut text = std::fs::read_to_string(&targets)?;
        for n in 0..site.centrals.len() {
            text += &format!("    - 127.0.0.1:{}\n", site.http_port(n));
        }
        std::fs::write(targets, text)?;
        let port = free_port();
        let process = Process::program("prometheus", "prometheus")
            .arg("--config.file")
            .arg(dir.path().join("prometheus.yml"))
            .arg("--storage.tsdb.path")
            .arg(dir.path().join("data"))
            .arg("--web.listen-address")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--log.level=warn")
            .spawn()
            .context("install it with `apt-get install prometheus`")?;
        let this = Self {
            port,
            _process: process,
            _dir: dir,
        };
        this.is_silent(site.centrals.len()).await?;
        Ok(this)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let ask = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(serde_json::from_str(body)?)
    }

    async fn value(&self, query: &str) -> Result<Option<f64>> {
        let mut escaped = String::new();
        for byte in query.bytes() {
            escaped += &format!("%{byte:02X}");
        }
        let answer = self.get(&format!("/api/v1/query?query={escaped}")).await?;
        let value = &answer["data"]["result"][0]["value"][1];
        Ok(value.as_str().map(str::parse).transpose()?)
    }

    /// What fires, with its texts.
    async fn firing(&self) -> Result<Vec<(Firing, BTreeMap<String, String>)>> {
        let answer = self.get("/api/v1/alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| {
                let mut labels: BTreeMap<String, String> =
                    serde_json::from_value(alert["labels"].clone())?;
                let texts = serde_json::from_value(alert["annotations"].clone())?;
                let name = labels.remove("alertname").context("a name")?;
                Ok((Firing { name, labels }, texts))
            })
            .collect()
    }

    async fn names(&self) -> Result<BTreeSet<String>> {
        let firing = self.firing().await?;
        Ok(firing.into_iter().map(|(alert, _)| alert.name).collect())
    }

    /// Nothing is wrong: both jobs are scraped, and for some time nothing has fired.
    async fn is_silent(&self, centrals: usize) -> Result<()> {
        wait_for("nothing fires", 2 * PATIENCE, async || {
            let window = format!("{QUIET_S}s");
            let scraped = self
                .value(&format!("sum(min_over_time(up[{window}]))"))
                .await?;
            let often = self
                .value(&format!("min(count_over_time(up[{window}]))"))
                .await?;
            let shows = self.value("count(ev_nats_server_up)").await?;
            let fired = self
                .value(&format!(
                    "count(count_over_time(ALERTS{{alertstate=\"firing\"}}[{window}]))"
                ))
                .await?;
            let jobs = f64::from(u32::try_from(2 * centrals)?);
            let fires = self.names().await?;
            ensure!(
                scraped == Some(jobs)
                    && often >= Some(f64::from(QUIET_S) * 0.7)
                    && shows == Some(1.0)
                    && fired.is_none(),
                "scraped {scraped:?} of {jobs}, {often:?} times, servers {shows:?}, {fires:?}"
            );
            Ok(())
        })
        .await
    }

    /// This one fires, whatever else does.
    async fn one(&self, name: &str) -> Result<Firing> {
        wait_for(&format!("{name} fires"), 2 * PATIENCE, async || {
            let firing = self.firing().await?;
            let found = firing.into_iter().find(|(alert, _)| alert.name == name);
            found.map(|(alert, _)| alert).context("it does not")
        })
        .await
    }

    /// All of these fire, with texts that say what they are to, and nothing else does.
    async fn fires(&self, expected: &[&str]) -> Result<Vec<Firing>> {
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        let firing = wait_for(&format!("{expected:?} fire"), 2 * PATIENCE, async || {
            let firing = self.firing().await?;
            let names: BTreeSet<&str> = firing.iter().map(|(a, _)| a.name.as_str()).collect();
            ensure!(expected.is_subset(&names), "{names:?}");
            Ok(firing)
        })
        .await?;
        for (alert, texts) in &firing {
            if !expected.contains(alert.name.as_str()) {
                bail!("{alert:?} fires as well");
            }
            for (key, text) in texts {
                ensure!(
                    !text.is_empty() && !text.contains("error expanding") && !text.contains("{{"),
                    "{}: {key} is {text:?}",
                    alert.name
                );
            }
            let link = texts.get("runbook_url").context("a link")?;
            ensure!(
                link.starts_with("https://docs.example/runbook.md#"),
                "{link}"
            );
        }
        Ok(firing.into_iter().map(|(alert, _)| alert).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_replicas_that_are_killed() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    // A whole session: what is right fires nothing.
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    alice.stop(&session).await?;
    site.cdr(&session).await?;
    let prometheus = Prometheus::start(&site).await?;
    site.agent.kill9()?;
    prometheus.fires(&["ChargePointsOffline"]).await?;
    site.agent.restart()?;
    prometheus.is_silent(2).await?;
    site.centrals[0].kill9()?;
    let firing = prometheus.fires(&["CentralDown"]).await?;
    let gone = format!("127.0.0.1:{}", site.http_port(0));
    ensure!(
        firing
            .iter()
            .all(|a| a.labels.get("instance") == Some(&gone)),
        "{firing:?}"
    );
    site.centrals[1].kill9()?;
    let all = ["CentralDown", "NobodyAnswers", "NatsNotSeen"];
    prometheus.fires(&all).await?;
    Ok(())
}

/// A charge point whose every word the test chooses, with a real credential and connection.
struct Cabinet {
    nats: Driver,
    id: &'static str,
}

impl Cabinet {
    async fn ask(&self, verb: &str, body: &Value) -> Result<Value> {
        let subject = format!("ev.v1.cp.{}.{verb}", self.id);
        let answer = self
            .nats
            .raw(subject, serde_json::to_vec(body)?, Encoding::Json)
            .await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    async fn start(site: &Site, id: &'static str) -> Result<Self> {
        let nats = site.asker(Role::ChargePoint, id).await?;
        let this = Self { nats, id };
        let sync = json!({
            "type": "sync", "to": "central", "cp_id": id, "epoch": "e1", "boot": {"id": BOOT, "count": 1},
            "connectors": [{"connector": 1, "max_ma": 16000, "phases": 3}],
            "version": "raw", "first": 1, "next": 1
        });
        this.ask("sync", &sync).await?;
        Ok(this)
    }

    async fn send(&self, first: u64, records: Value) -> Result<()> {
        let body = json!({"type": "evt", "to": "central", "epoch": "e1", "boot": BOOT,
                          "first": first, "from": first, "records": records});
        let reply = self.ask("evt", &body).await?;
        ensure!(reply["next"].as_u64() > Some(first), "{reply}");
        Ok(())
    }

    /// Says the same of itself each second, until it is aborted. With two boots by turns.
    fn beat(site: &Site, id: &'static str, boots: &'static [&'static str], more: Value) -> Beat {
        let (keys, url) = (site.nats.keys().clone(), site.nats.url());
        let task = tokio::spawn(async move {
            let nats = keys.connect(&url, Role::ChargePoint, id).await?;
            let mut every = tokio::time::interval(Duration::from_secs(1));
            for boot in boots.iter().cycle() {
                every.tick().await;
                let mut beat = json!({
                    "type": "hb", "to": "central", "cp_id": id, "epoch": "e1", "boot": boot, "ts": now_ms(),
                    "uptime_s": 60, "version": "raw", "spool_depth": 0, "connectors": []
                });
                for (key, value) in more.as_object().into_iter().flatten() {
                    beat[key] = value.clone();
                }
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Content-Type", "application/json");
                let subject = format!("ev.v1.cp.{id}.hb");
                let payload = serde_json::to_vec(&beat)?;
                nats.publish_with_headers(subject, headers, payload.into())
                    .await?;
            }
            anyhow::Ok(())
        });
        Beat(task)
    }
}

/// Ends with the test.
struct Beat(JoinHandle<Result<()>>);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn record(seq: u64, at: i64, fact: Value) -> Value {
    json!({"seq": seq, "at": at, "quality": "synced", "fact": fact})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_charge_points_say_and_send() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let cabinet = Cabinet::start(&site, "CP-RAW").await?;
    let healthy = Cabinet::beat(&site, "CP-RAW", &[BOOT], json!({"clock_offset_ms": 20}));
    let prometheus = Prometheus::start(&site).await?;
    // All that it tells is three days old: it was alone for so long.
    let long_ago = now_ms() - 3 * 24 * 3_600 * 1_000;
    // Junk is kept aside; a gap is recorded; what the agent itself finds impossible is counted.
    cabinet.send(1, json!([{"seq": 1, "what": "junk"}])).await?;
    prometheus.fires(&["RecordsQuarantined"]).await?;
    prometheus.is_silent(1).await?;
    cabinet
        .send(7, json!([record(7, long_ago, json!({"kind": "booted"}))]))
        .await?;
    prometheus.fires(&["RecordsMissing"]).await?;
    let anomaly = json!({"kind": "anomaly", "what": "power out of nowhere"});
    cabinet
        .send(8, json!([record(8, long_ago, anomaly)]))
        .await?;
    prometheus.one("MeterAnomalies").await?;
    // One that charges since days: began at the charge point, and never ended.
    let session = uuid::Uuid::now_v7().to_string();
    let reading = json!({"at": long_ago, "quality": "synced", "register_mwh": 1_000,
                         "meter_id": "M1", "meter_epoch": 1});
    let opened = json!({"kind": "opened_at_edge", "session_id": session, "connector": 1,
                        "origin": "local"});
    let started = json!({"kind": "started", "session_id": session, "device_tx": "1",
                         "reading": reading});
    cabinet
        .send(
            9,
            json!([record(9, long_ago, opened), record(10, long_ago, started)]),
        )
        .await?;
    let stuck = prometheus.one("SessionsStuck").await?;
    ensure!(stuck.labels["phase"] == "charging", "{stuck:?}");
    drop(healthy);
    // All at once: what it says of itself is wrong in every way.
    let soon = now_ms() + 24 * 3_600 * 1_000;
    let _wrong = Cabinet::beat(
        &site,
        "CP-RAW",
        &[BOOT, "0000000000000002"],
        json!({
            "clock_offset_ms": -90_000, "spool_depth": 5_000, "access_expires_at": soon,
            "health": ["storage_failed", "charger_offline", "clock_unsure", "spool_behind_central"]
        }),
    );
    wait_for("the others have passed", 2 * PATIENCE, async || {
        let names = prometheus.names().await?;
        let passed = ["RecordsMissing", "MeterAnomalies"];
        ensure!(passed.iter().all(|n| !names.contains(*n)), "{names:?}");
        Ok(())
    })
    .await?;
    let all = [
        "SessionsStuck",
        "TwoAgents",
        "ClocksSkewed",
        "SpoolBacklog",
        "ChargePointsExpire",
        "AgentStorageFailed",
        "ChargersOffline",
        "ClocksUnsure",
        "SpoolBehindCentral",
    ];
    prometheus.fires(&all).await?;
    Ok(())
}

/// Gives a stream room for so many bytes only.
async fn limit(js: &jetstream::Context, name: &str, bytes: i64) -> Result<()> {
    let stream = js.get_stream(name).await?;
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = bytes;
    js.update_stream(config).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_full_and_a_ledger_that_was_changed() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let olga = site.asker(Role::Operator, "olga").await?;
    let prometheus = Prometheus::start(&site).await?;
    let js = site.maintainer().await?;
    // Nothing more goes into the streams of receipts and of the audit.
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    limit(&js, streams::CDR.name, 64).await?;
    limit(&js, streams::AUDIT.name, 64).await?;
    alice.stop(&session).await?;
    let asked = olga.raw(
        "ev.v1.op.olga.tariff_ls".into(),
        b"{}".to_vec(),
        Encoding::Json,
    );
    // It is told that nobody knows, or nothing.
    let _ = asked.await;
    prometheus
        .fires(&["ReceiptsMissing", "AuditNotWritten"])
        .await?;
    limit(&js, streams::CDR.name, streams::CDR.bytes_max).await?;
    limit(&js, streams::AUDIT.name, streams::AUDIT.bytes_max).await?;
    site.cdr(&session).await?;
    prometheus.is_silent(1).await?;
    // Full up to a few bytes.
    let bytes = js.get_stream(streams::CDR.name).await?;
    let used = i64::try_from(bytes.cached_info().state.bytes)?;
    limit(&js, streams::CDR.name, used + used / 10).await?;
    let firing = prometheus.fires(&["StreamNearLimit"]).await?;
    ensure!(
        firing[0].labels["stream_name"] == streams::CDR.name,
        "{firing:?}"
    );
    limit(&js, streams::CDR.name, streams::CDR.bytes_max).await?;
    // Acknowledged history is taken away.
    js.get_stream(streams::LEDGER.name)
        .await?
        .delete_message(3)
        .await?;
    let alarm = prometheus.one("LedgerAlarm").await?;
    ensure!(alarm.labels["kind"] == "removed", "{alarm:?}");
    prometheus
        .fires(&["LedgerAlarm", "CentralNotReady", "NobodyAnswers"])
        .await?;
    Ok(())
}
