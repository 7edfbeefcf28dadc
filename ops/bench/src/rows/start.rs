//! Starts: one at a time, and in a crowd, on one server and on three.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{
    Bench, Sizes,
    crowd::{ONE, Rounds, memory, rounds, sample, warm_up},
};
use crate::{
    floor,
    hub::{Hub, Layout},
    load::{Closed, closed},
    profile::Recording,
    report::{Figure, Target},
    starts::Starts,
};

/// Charge points on a slow disk: as many as take part in its rounds.
const SLOW_CHARGE_POINTS_MAX: usize = 5_000;
/// Charge points in the row of a start alone: a small town's.
const ALONE_CHARGE_POINTS_MAX: usize = 1_000;

/// Between two starts that have nothing to do with each other: what followed from the one before,
/// its command and the answer to that, is over.
const APART: Duration = Duration::from_millis(20);
/// Of those in a round, which take their time.
const APART_MAX: usize = 250;

/// From the request to accepted, one at a time, beside a core request-reply and a durable append.
pub async fn alone(sizes: &Sizes) -> Result<Vec<Figure>> {
    alone_on("start-alone", sizes, &Layout::default()).await
}

async fn alone_on(row: &'static str, sizes: &Sizes, layout: &Layout) -> Result<Vec<Figure>> {
    let mut hub = Hub::start(layout).await?;
    let charge_points = sizes.charge_points.min(ALONE_CHARGE_POINTS_MAX);
    hub.fleet.join(charge_points).await?;
    floor::stream(&hub).await?;
    let mut starts = Starts::new(charge_points, hub.connectors);
    let bytes = warm_up(&mut hub, &mut starts, sizes).await?;
    let count = sizes.alone.min(starts.places());
    let mut figures = Vec::new();
    let apart = Closed {
        pause: APART,
        ..ONE
    };
    for (which, how, count) in [
        ("at once after the one before", ONE, count),
        ("20 ms after the one before", apart, count.min(APART_MAX)),
    ] {
        let (mut p50, mut p99) = (Times::default(), Times::default());
        for _ in 0..sizes.rounds {
            let shots = starts.round(count)?;
            let echo = closed(&mut hub.drivers, &starts.echo_of(&shots), how, || {}).await?;
            let append = floor::appends(&mut hub.core, bytes, count, how).await?;
            let start = closed(&mut hub.drivers, &shots, how, || {}).await?;
            starts.check_all(&start)?;
            hub.fleet.free(starts.accepted).await?;
            for (times, percent) in [(&mut p50, 50.0), (&mut p99, 99.0)] {
                times.start.push(start.percentile_us(percent));
                times.echo.push(echo.percentile_us(percent));
                times.append.push(append.percentile_us(percent));
            }
        }
        for (what, times, bound) in [("p50", &p50, 1.2), ("p99", &p99, 2.0)] {
            figures.extend(times.figures(row, &format!("{which}, {what}"), bytes, bound));
        }
    }
    sample(&mut hub, &starts).await?;
    Ok(figures)
}

/// Of starts and of the floors in the same rounds, in microseconds.
#[derive(Default)]
struct Times {
    start: Vec<f64>,
    echo: Vec<f64>,
    append: Vec<f64>,
}

impl Times {
    fn figures(&self, row: &'static str, what: &str, bytes: usize, bound: f64) -> [Figure; 3] {
        let sums: Vec<f64> = self
            .echo
            .iter()
            .zip(&self.append)
            .map(|(echo, append)| echo + append)
            .collect();
        let append = format!("durable append of {bytes} B, {what}");
        [
            Figure::new(row, format!("core request-reply, {what}"), "us", &self.echo),
            Figure::new(row, append, "us", &self.append),
            Figure::new(row, format!("start to accepted, {what}"), "us", &self.start)
                .over(&self.start, "echo + append", &sums)
                .target(Target::FloorsAtMost(bound)),
        ]
    }
}

/// As many starts as there are in flight, on one server.
pub async fn crowd(bench: &mut Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "start-crowd";
    let sizes = bench.sizes;
    let mut hub = Hub::start(&Layout::default()).await?;
    hub.fleet.join(sizes.charge_points).await?;
    let mut starts = Starts::new(sizes.charge_points, hub.connectors);
    let rounds = rounds(ROW, &mut hub, &mut starts, &sizes).await?;
    bench.one_server = Some(crate::report::Stat::of(&rounds.starts).median);
    let in_flight = sizes.crowd;
    let accepted = format!("starts accepted, {in_flight} in flight");
    let mut figures = floors(ROW, in_flight, &rounds);
    figures.extend([
        Figure::new(ROW, accepted.clone(), "1/s", &rounds.starts)
            .over(&rounds.starts, "echo", &rounds.echo)
            .target(Target::FloorsAtLeast(0.3)),
        Figure::new(ROW, accepted.clone(), "1/s", &rounds.starts)
            .over(&rounds.starts, "appends", &rounds.append)
            .target(Target::FloorsAtLeast(15.0)),
        Figure::new(ROW, accepted, "1/s", &rounds.starts).over(
            &rounds.starts,
            "frames x records",
            &rounds.allowed(),
        ),
        Figure::new(ROW, "start to accepted in it, p50", "us", &rounds.p50),
        Figure::new(ROW, "start to accepted in it, p99", "us", &rounds.p99),
        Figure::new(
            ROW,
            "cores used by central for heartbeats alone",
            "cores",
            &rounds.heartbeats,
        ),
        Figure::new(
            ROW,
            "starts per CPU-second of central, heartbeats included",
            "1/s",
            &rounds.per_cpu_s,
        ),
        Figure::new(
            ROW,
            "starts per CPU-second of central",
            "1/s",
            &rounds.per_cpu_s_net,
        )
        .target(Target::AtLeast(100_000.0)),
    ]);
    figures.extend(rounds.cores(ROW));
    figures.extend(memory(ROW, &hub)?);
    if let Some(dir) = bench.profile.take() {
        profile(&mut hub, &mut starts, &sizes, &dir).await?;
    }
    Ok(figures)
}

/// One more round, in which central is recorded.
async fn profile(hub: &mut Hub, starts: &mut Starts, sizes: &Sizes, dir: &Path) -> Result<()> {
    let pid = *hub.central_pids().first().context("central runs")?;
    let how = Closed {
        in_flight: sizes.crowd,
        warm_up: Duration::ZERO,
        // Perf needs a moment at both ends.
        time: sizes.round_time + Duration::from_secs(1),
        pause: Duration::ZERO,
    };
    let shots = starts.round(starts.places())?;
    let recording = Recording::start(pid, sizes.round_time, dir)?;
    let outcome = closed(&mut hub.drivers, &shots, how, || {}).await?;
    starts.check_all(&outcome)?;
    let shares = recording.finish()?;
    eprintln!(
        "bench: central under starts, {} in flight:\n{shares}",
        sizes.crowd
    );
    Ok(())
}

/// The same on three servers that each have a copy.
pub async fn three(bench: &mut Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "start-three";
    let one_server = match bench.one_server {
        Some(rate) => rate,
        None => {
            crowd(bench).await?;
            bench.one_server.unwrap_or(0.0)
        }
    };
    let sizes = bench.sizes;
    let layout = Layout {
        servers: 3,
        ..Layout::default()
    };
    let mut hub = Hub::start(&layout).await?;
    hub.fleet.join(sizes.charge_points).await?;
    let mut starts = Starts::new(sizes.charge_points, hub.connectors);
    let rounds = rounds(ROW, &mut hub, &mut starts, &sizes).await?;
    let accepted = format!("starts accepted, {} in flight, R3", sizes.crowd);
    let mut figures = floors(ROW, sizes.crowd, &rounds);
    figures.extend([
        Figure::new(ROW, accepted.clone(), "1/s", &rounds.starts)
            .over(&rounds.starts, "frames x records", &rounds.allowed())
            .target(Target::FloorsAtLeast(0.7)),
        Figure::new(ROW, accepted, "1/s", &rounds.starts)
            .over(
                &rounds.starts,
                "on one server",
                &vec![one_server; rounds.starts.len()],
            )
            .target(Target::FloorsAtLeast(0.25)),
        Figure::new(ROW, "start to accepted in it, p50", "us", &rounds.p50),
        Figure::new(ROW, "start to accepted in it, p99", "us", &rounds.p99),
        Figure::new(
            ROW,
            "starts per CPU-second of central",
            "1/s",
            &rounds.per_cpu_s_net,
        ),
    ]);
    figures.extend(rounds.cores(ROW));
    drop(hub);
    figures.extend(alone_on("start-three-alone", &sizes, &layout).await?);
    Ok(figures)
}

/// On a server whose disk takes ten milliseconds longer for each sync: as if it turned.
pub async fn slow_disk(bench: &Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "slow-disk";
    const SLOWER: Duration = Duration::from_millis(10);
    if Command::new("strace").arg("--version").output().is_err() {
        eprintln!("bench: {ROW} is left out: it needs strace");
        return Ok(Vec::new());
    }
    let sizes = Sizes {
        // Each takes that long.
        alone: bench.sizes.alone.min(100),
        ..bench.sizes
    };
    let layout = Layout {
        slow_disk: Some(SLOWER),
        ..Layout::default()
    };
    let mut figures = alone_on(ROW, &sizes, &layout).await?;
    let mut hub = Hub::start(&layout).await?;
    let charge_points = sizes.charge_points.min(SLOW_CHARGE_POINTS_MAX);
    hub.fleet.join(charge_points).await?;
    let mut starts = Starts::new(charge_points, hub.connectors);
    let rounds = rounds(ROW, &mut hub, &mut starts, &sizes).await?;
    let accepted = format!("starts accepted, {} in flight", sizes.crowd);
    figures.extend(floors(ROW, sizes.crowd, &rounds));
    figures.extend([
        Figure::new(ROW, accepted, "1/s", &rounds.starts).over(
            &rounds.starts,
            "frames x records",
            &rounds.allowed(),
        ),
        Figure::new(ROW, "start to accepted in it, p50", "us", &rounds.p50),
        Figure::new(ROW, "start to accepted in it, p99", "us", &rounds.p99),
    ]);
    Ok(figures)
}

fn floors(row: &'static str, in_flight: usize, rounds: &Rounds) -> Vec<Figure> {
    let echo = format!("core request-reply, {in_flight} in flight");
    let append = format!(
        "durable appends of {} B, {in_flight} in flight",
        rounds.record_bytes
    );
    vec![
        Figure::new(row, echo, "1/s", &rounds.echo),
        Figure::new(row, append, "1/s", &rounds.append),
        Figure::new(row, "records in a frame", "", &rounds.frame_records),
        Figure::new(row, "size of a frame", "B", &rounds.frame_bytes),
        Figure::new(row, "such frames, one at a time", "1/s", &rounds.frames),
    ]
}
