//! From a small fleet to a large one: what a start costs, what central holds, what heartbeats take.

use std::time::Instant;

use anyhow::Result;

use super::{
    Sizes,
    crowd::{ONE, central_cores, warm_up},
};
use crate::{
    floor,
    hub::{Hub, Layout, Part},
    load::closed,
    report::{Figure, Target},
    starts::Starts,
};

const ROW: &str = "growth";
/// The most that central may hold with the whole fleet, in MiB.
const MEMORY_MIB_MAX: f64 = 150.0;
/// The most that heartbeats of the whole fleet may take of central, in cores.
const HEARTBEAT_CORES_MAX: f64 = 0.25;
/// Charge points with which those bounds are meant.
const WHOLE: usize = 100_000;
/// Windows in which nothing but heartbeats comes.
const WINDOWS: usize = 3;
/// Starts one at a time in a round: three fleets are to be measured.
const ALONE_MAX: usize = 300;
/// Within which a start stays as quick, whatever the size of the fleet.
const FLAT: f64 = 1.2;

/// A fleet that grows step by step on one hub; each charge point has one connector.
pub async fn growth(sizes: &Sizes) -> Result<Vec<Figure>> {
    let layout = Layout {
        connectors: 1,
        ..Layout::default()
    };
    let mut hub = Hub::start(&layout).await?;
    floor::stream(&hub).await?;
    let mut figures = Vec::new();
    let mut first: Option<Vec<f64>> = None;
    let mut starts = Starts::new(0, hub.connectors);
    let empty = central_mib(&hub)?;
    for charge_points in sizes.growth {
        let joining = Instant::now();
        hub.fleet.join(charge_points).await?;
        let joined_s = joining.elapsed().as_secs_f64();
        starts.grow(charge_points);
        let (mut idle, mut beats) = (Vec::new(), Vec::new());
        for _ in 0..WINDOWS {
            let (before, at) = (hub.fleet.count().await?, Instant::now());
            idle.push(central_cores(&hub, sizes.round_time).await?);
            let sent = hub.fleet.count().await?.heartbeats - before.heartbeats;
            beats.push(sent as f64 / at.elapsed().as_secs_f64());
        }
        let mib = central_mib(&hub)?;
        let step = step(&mut hub, &mut starts, sizes).await?;
        eprintln!(
            "bench: {ROW}: {charge_points} charge points in sync after {joined_s:.1} s, central \
             {mib:.0} MiB"
        );
        let what = |what: &str| format!("{what}, {charge_points} charge points");
        let mut memory = Figure::new(ROW, what("resident memory of central"), "MiB", &[mib]);
        let mut heartbeats = Figure::new(
            ROW,
            what("cores used by central for heartbeats"),
            "cores",
            &idle,
        );
        if charge_points == WHOLE {
            memory = memory.target(Target::AtMost(MEMORY_MIB_MAX));
            heartbeats = heartbeats.target(Target::AtMost(HEARTBEAT_CORES_MAX));
        }
        let sums: Vec<f64> = step
            .echo
            .iter()
            .zip(&step.append)
            .map(|(echo, append)| echo + append)
            .collect();
        let each = (mib - empty) * 1_024.0 / charge_points as f64;
        figures.extend([
            Figure::new(ROW, what("seconds until all are in sync"), "s", &[joined_s]),
            memory,
            Figure::new(ROW, what("memory of central for each"), "KiB", &[each]),
            Figure::new(ROW, what("heartbeats"), "1/s", &beats),
            heartbeats,
            Figure::new(ROW, what("start to accepted, p99"), "us", &step.p99),
            Figure::new(ROW, what("start to accepted, p50"), "us", &step.p50).over(
                &step.p50,
                "echo + append",
                &sums,
            ),
        ]);
        match &first {
            None => first = Some(step.p50),
            Some(first) => figures.push(
                Figure::new(ROW, what("start to accepted, p50"), "us", &step.p50)
                    .over(&step.p50, "with the first fleet", first)
                    .target(Target::FloorsAtMost(FLAT)),
            ),
        }
    }
    Ok(figures)
}

#[derive(Default)]
struct Step {
    echo: Vec<f64>,
    append: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// Starts one at a time, all over the fleet, beside the floors.
async fn step(hub: &mut Hub, starts: &mut Starts, sizes: &Sizes) -> Result<Step> {
    let count = sizes.alone.min(ALONE_MAX).min(starts.places());
    let bytes = warm_up(hub, starts, sizes).await?;
    let mut step = Step::default();
    for _ in 0..sizes.rounds {
        let shots = starts.spread(count)?;
        let echo = closed(&mut hub.drivers, &starts.echo_of(&shots), ONE, || {}).await?;
        let append = floor::appends(&mut hub.core, bytes, count, ONE).await?;
        let start = closed(&mut hub.drivers, &shots, ONE, || {}).await?;
        starts.check_all(&start)?;
        hub.fleet.free(starts.accepted).await?;
        step.echo.push(echo.percentile_us(50.0));
        step.append.push(append.percentile_us(50.0));
        step.p50.push(start.percentile_us(50.0));
        step.p99.push(start.percentile_us(99.0));
    }
    Ok(step)
}

fn central_mib(hub: &Hub) -> Result<f64> {
    let usages = Hub::usages(&hub.all_pids())?;
    let of_central = usages.iter().filter(|(part, _)| *part == Part::Central);
    Ok(of_central.map(|(_, u)| u.resident as f64).sum::<f64>() / 1_048_576.0)
}
