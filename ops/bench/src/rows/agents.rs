//! The real agent: one in a cabinet, ten thousand that come back at once, and one that was offline
//! for a day.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    v1::{DriverUpdate, Status},
    wire::{self, Encoding},
};
use ev_enrol::Role;
use ev_testkit::{Process, wait_for};
use serde_json::Value;
use tokio::process::Command;

use super::Sizes;
use crate::{
    client::Shot,
    hub::{Hub, Layout, Part, program},
    load::{self, Outcome},
    report::{Figure, Target},
    starts::Starts,
    usage::Usage,
};

/// Charge points for the starts beside agents.
const OTHERS: usize = 2_500;
const CONNECTORS: u16 = 16;
/// Starts a second while agents do what is measured.
const STARTS_PER_S: usize = 100;
/// Longest that anything takes here.
const PATIENCE: Duration = Duration::from_secs(180);
const MIB: f64 = 1_048_576.0;

/// An agent with one charge point, idle and charging.
pub async fn agent(sizes: &Sizes) -> Result<Vec<Figure>> {
    const ROW: &str = "agent";
    const WINDOWS: usize = 3;
    let mut hub = Hub::start(&Layout::default()).await?;
    let credentials = hub.enrol(Role::ChargePoint, &["CP-001".to_owned()])?;
    let dir = hub.dir().join("agent");
    fs::create_dir(&dir).context("make a folder for an agent")?;
    let url = hub.servers.url();
    let config = agent_toml(&hub, ("CP-001", &credentials), &url, "", &dir)?;
    let agent = begin(&config, &dir).await?;
    let window = sizes.round_time * 2;
    let idle = used(&agent, window, WINDOWS).await?;
    charge(&mut hub, "CP-001", 0, &dir).await?;
    let charging = used(&agent, window, WINDOWS).await?;
    Ok([("idle", idle), ("charging", charging)]
        .into_iter()
        .flat_map(|(what, (mib, cores))| {
            [
                Figure::new(ROW, format!("resident memory, {what}"), "MiB", &mib)
                    .target(Target::AtMost(12.0)),
                Figure::new(ROW, format!("cores used, {what}"), "cores", &cores)
                    .target(Target::AtMost(0.01)),
            ]
        })
        .collect())
}

/// Memory in MiB and cores of a process, window by window.
async fn used(process: &Process, window: Duration, windows: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut mib, mut cores) = (Vec::new(), Vec::new());
    for _ in 0..windows {
        let (before, at) = (Usage::of(process.pid())?, Instant::now());
        tokio::time::sleep(window).await;
        let after = Usage::of(process.pid())?;
        mib.push(after.resident as f64 / MIB);
        cores.push((after.cpu_s - before.cpu_s) / at.elapsed().as_secs_f64());
    }
    Ok((mib, cores))
}

/// Thousands of agents, each with a connection of its own, that the server has given up.
pub async fn reconnect(sizes: &Sizes) -> Result<Vec<Figure>> {
    const ROW: &str = "reconnect";
    let count = sizes.agents;
    let (mut hub, mut starts) = beside(sizes).await?;
    let calm = starts_for(&mut hub, &mut starts, sizes.calm).await?;
    let names = swarm_names(count);
    let credentials = hub.enrol(Role::ChargePoint, &names)?;
    let others = hub.connections().await?;
    let count_arg = format!("--count={count}");
    let mut swarm = swarm(
        &hub,
        &credentials,
        &[&count_arg, "--ramp=500", "--source=127.1.0.1-127.1.0.4"],
    )?;
    until(&swarm, "all agents are in sync", |r| r["in_sync"] == count).await?;
    swarm.pause()?;
    wait_for("the server has given the agents up", PATIENCE, async || {
        let there = hub.connections().await?;
        ensure!(there <= others, "{there} connections, {others} of others");
        Ok(())
    })
    .await?;
    let mut parts = hub.all_pids();
    parts.push((Part::Fleet, vec![swarm.pid()]));
    let before = Hub::usages(&parts)?;
    swarm.resume()?;
    let mut answers = Vec::new();
    let report = loop {
        let outcome = starts_for(&mut hub, &mut starts, Duration::from_secs(1)).await?;
        answers.push(outcome);
        let report = last(&swarm)?;
        let is_back =
            report["in_sync"] == count && report["rounds"].as_array().is_some_and(|r| r.len() >= 2);
        if is_back || answers.len() > PATIENCE.as_secs() as usize {
            break report;
        }
    };
    let after = Hub::usages(&parts)?;
    let round = &report["rounds"][1];
    let all_ms = round["all_ms"]
        .as_f64()
        .with_context(|| format!("the agents did not come back: {report}"))?;
    ensure!(round["count"] == count, "not all were cut off: {report}");
    let (mut times, mut refused) = (load::histogram()?, 0_u64);
    for outcome in &answers {
        times.add(&outcome.latency_us)?;
        refused += refusals(outcome)?;
    }
    hub.fleet.free(starts.accepted).await?;
    let mut figures = vec![
        Figure::new(
            ROW,
            format!("{count} agents back at once: until all are in sync"),
            "s",
            &[all_ms / 1e3],
        )
        .target(Target::AtMost(15.0)),
        Figure::new(
            ROW,
            "starts meanwhile, p99",
            "us",
            &[times.value_at_percentile(99.0) as f64],
        )
        .over(
            &[times.value_at_percentile(99.0) as f64],
            "before",
            &[calm.percentile_us(99.0)],
        )
        .target(Target::AtMost(1e6)),
        Figure::new(ROW, "starts meanwhile", "", &[times.len() as f64]),
        Figure::new(ROW, "of them refused by admission", "", &[refused as f64]),
        Figure::new(
            ROW,
            format!("resident memory of {count} agents in one process"),
            "MiB",
            &[report["memory_bytes"].as_f64().unwrap_or(0.0) / MIB],
        ),
    ];
    // The charge points that starts are made on come before the agents.
    let names = Part::ALL.map(Part::as_str).into_iter().chain(["agents"]);
    for ((what, (_, before)), (_, after)) in names.zip(before).zip(after) {
        let each = (after.cpu_s - before.cpu_s) * 1e3 / count as f64;
        let what = format!("processor time of {what} for each agent");
        figures.push(Figure::new(ROW, what, "ms", &[each]));
    }
    Ok(figures)
}

/// One agent with a day's records.
pub async fn drain(sizes: &Sizes) -> Result<Vec<Figure>> {
    const ROW: &str = "drain";
    let (mut hub, mut starts) = beside(sizes).await?;
    let calm = starts_for(&mut hub, &mut starts, sizes.calm).await?;
    let credentials = hub.enrol(Role::ChargePoint, &swarm_names(1))?;
    let state = hub.dir().join("swarm");
    fs::create_dir(&state).context("make a folder for a spool")?;
    let (backlog, state) = (
        format!("--backlog={}", sizes.backlog),
        format!("--state-dir={}", state.display()),
    );
    let swarm = swarm(
        &hub,
        &credentials,
        &["--count=1", "--connectors=32", &backlog, &state],
    )?;
    // Until then it lives its days.
    until(&swarm, "the agent has begun", |r| r["begun"] == 1).await?;
    let mut times = load::histogram()?;
    let begin = Instant::now();
    let report = loop {
        let outcome = starts_for(&mut hub, &mut starts, Duration::from_millis(500)).await?;
        times.add(&outcome.latency_us)?;
        let report = last(&swarm)?;
        if report["drained_ms"].is_u64() || begin.elapsed() > PATIENCE {
            break report;
        }
    };
    let drained_ms = report["drained_ms"]
        .as_f64()
        .with_context(|| format!("the spool did not drain: {report}"))?;
    let records = report["backlog"].as_u64().unwrap_or(0);
    let acknowledged = report["records_acknowledged"].as_u64().unwrap_or(0);
    ensure!(acknowledged >= records, "{report}");
    for what in ["quarantined", "missing"] {
        let name = format!("ev_spool_records_total{{what=\"{what}\"}}");
        let [odd] = hub.metrics([name.as_str()]).await?;
        ensure!(odd == 0.0, "{odd} records {what}");
    }
    hub.fleet.free(starts.accepted).await?;
    Ok(vec![
        Figure::new(
            ROW,
            format!("a spool of {records} records drained, in order"),
            "s",
            &[drained_ms / 1e3],
        )
        .target(Target::AtMost(10.0)),
        Figure::new(
            ROW,
            "starts of others meanwhile, p99",
            "us",
            &[times.value_at_percentile(99.0) as f64],
        )
        .over(
            &[times.value_at_percentile(99.0) as f64],
            "before",
            &[calm.percentile_us(99.0)],
        ),
        Figure::new(
            ROW,
            "starts of others meanwhile, p50",
            "us",
            &[times.value_at_percentile(50.0) as f64],
        )
        .over(
            &[times.value_at_percentile(50.0) as f64],
            "before",
            &[calm.percentile_us(50.0)],
        ),
    ])
}

/// A hub with charge points on which starts can be made meanwhile.
async fn beside(sizes: &Sizes) -> Result<(Hub, Starts)> {
    let layout = Layout {
        connectors: CONNECTORS,
        ..Layout::default()
    };
    let hub = Hub::start(&layout).await?;
    let charge_points = sizes.charge_points.min(OTHERS);
    hub.fleet.join(charge_points).await?;
    let starts = Starts::new(charge_points, CONNECTORS);
    Ok((hub, starts))
}

/// Starts at a steady pace for so long, each on a place that was not taken before.
async fn starts_for(hub: &mut Hub, starts: &mut Starts, time: Duration) -> Result<Outcome> {
    let count = (STARTS_PER_S as f64 * time.as_secs_f64()).ceil() as usize;
    let shots: Vec<Shot> = starts.next_places(count)?;
    let every = Duration::from_secs(1) / u32::try_from(STARTS_PER_S)?;
    let outcome = load::bursts(&mut hub.drivers, &shots, 1, every).await?;
    ensure!(outcome.lost == 0, "{} had no answer", outcome.lost);
    let tally = starts.check(&outcome)?;
    let by_admission = |code: &String| *code == Code::Overloaded.as_str();
    ensure!(
        tally.refused.keys().all(by_admission),
        "refused were {:?}",
        tally.refused
    );
    Ok(outcome)
}

fn refusals(outcome: &Outcome) -> Result<u64> {
    let mut by_status: BTreeMap<bool, u64> = BTreeMap::new();
    for heard in &outcome.all {
        let update = wire::decode::<DriverUpdate>(&heard.bytes, Encoding::MsgPack);
        let is_refused = !update.is_ok_and(|u| u.status == Status::Accepted);
        *by_status.entry(is_refused).or_default() += 1;
    }
    Ok(by_status.get(&true).copied().unwrap_or(0))
}

fn swarm_names(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("SWARM-{n:06}")).collect()
}

fn swarm(hub: &Hub, credentials: &Path, more: &[&str]) -> Result<Process> {
    Process::program("edge-cp-swarm", program("edge-cp")?)
        .arg("swarm")
        .arg(format!("--nats-url={}", hub.servers.url()))
        .arg(format!("--ca={}", hub.ca().display()))
        .arg(format!("--credentials={}", credentials.display()))
        .args(["--json", "--progress-s=1"])
        .args(more)
        .spawn()
}

/// The last that a swarm said of itself.
fn last(swarm: &Process) -> Result<Value> {
    let log = swarm.log();
    log.lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("the swarm says nothing of itself: {log}"))
}

async fn until(swarm: &Process, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for(what, PATIENCE, async || {
        ensure!(!swarm.has_ended(), "it has ended: {}", swarm.log());
        let report = last(swarm)?;
        ensure!(is_so(&report), "{report}");
        Ok(report)
    })
    .await
}

/// An agent of one charge point, and what its configuration says besides.
pub fn agent_toml(
    hub: &Hub,
    (cp, credentials): (&str, &Path),
    url: &str,
    more: &str,
    dir: &Path,
) -> Result<PathBuf> {
    let mut text = String::new();
    writeln!(text, "nats_url = \"{url}\"")?;
    writeln!(text, "credentials = \"{}\"", credentials.display())?;
    writeln!(text, "ca = \"{}\"", hub.ca().display())?;
    writeln!(text, "state_dir = \"{}\"", dir.join("state").display())?;
    writeln!(text, "control_socket = \"{}\"", socket(dir).display())?;
    write!(
        text,
        "{more}\n[[charge_point]]\nid = \"{cp}\"\nsite = \"BENCH\"\ntime_zone = \"Europe/Berlin\"\n\
         \n[[charge_point.connector]]\nid = 1\nmax_current_ma = 16000\nphases = 3\n\
         \n[charge_point.simulator]\nseed = 1\n",
    )?;
    let path = dir.join("edge-cp.toml");
    fs::write(&path, text).context("write the agent's configuration")?;
    Ok(path)
}

/// Runs one, until it is in step with central.
pub async fn begin(config: &Path, dir: &Path) -> Result<Process> {
    let agent = Process::program("edge-cp", program("edge-cp")?)
        .arg("run")
        .arg("--config")
        .arg(config)
        .spawn()?;
    wait_for("the agent is in sync", PATIENCE, async || {
        let status = ctl(dir, &["status"]).await?;
        ensure!(
            status.contains("\"clock_synced\":true") && status.contains("\"spool_depth\":0"),
            "{status}"
        );
        Ok(())
    })
    .await?;
    Ok(agent)
}

/// Has a car charge at an agent, for the nth driver.
pub async fn charge(hub: &mut Hub, cp: &str, driver: usize, dir: &Path) -> Result<()> {
    ctl(dir, &["plug", cp]).await?;
    // Central may not have heard of it yet.
    let starts = Starts::new(1, 1);
    let mut asked = 0;
    wait_for("the agent's charge point is taken", PATIENCE, async || {
        asked += 1;
        let shot = starts.shot_at(cp, driver, 1, format!("{cp}-{asked}"))?;
        let answer = hub.drivers.ask(shot).await?;
        let update: DriverUpdate = wire::decode(&answer.payload, Encoding::MsgPack)?;
        ensure!(update.status == Status::Accepted, "{update:?}");
        Ok(())
    })
    .await?;
    wait_for("the agent charges", PATIENCE, async || {
        let status = ctl(dir, &["status"]).await?;
        ensure!(status.contains("\"charging\""), "{status}");
        Ok(())
    })
    .await
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("edge.sock")
}

async fn ctl(dir: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program("edge-cp")?)
        .arg("ctl")
        .arg("--socket")
        .arg(socket(dir))
        .args(args)
        .arg("--json")
        .output()
        .await
        .context("run edge-cp ctl")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "edge-cp ctl {args:?}: {}{said}",
        String::from_utf8_lossy(&output.stderr)
    );
    // As one writes it and as another does.
    Ok(said.split_whitespace().collect())
}
