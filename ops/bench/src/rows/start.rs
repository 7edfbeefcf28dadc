//! Starts: one at a time, and in a crowd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ev_contract::{
    v1::{StatusReply, StatusRequest},
    wire::{self, CENTRAL, Encoding, Tag},
};

use super::Sizes;
use crate::{
    client::Shot,
    floor,
    hub::{Hub, Layout, Part},
    load::{Closed, closed},
    report::{Figure, Target},
    starts::Starts,
    usage::Usage,
};

/// Nothing takes so long; rounds one at a time end with their count.
const ALONE_TIME_MAX: Duration = Duration::from_secs(60);
/// Starts before the first round, not measured.
const WARM_UP_STARTS: usize = 200;
/// Charge points in the row of a start alone: a small town's.
const ALONE_CHARGE_POINTS_MAX: usize = 1_000;

/// From the request to accepted, one at a time, beside a core request-reply and a durable append.
pub async fn alone(sizes: &Sizes) -> Result<Vec<Figure>> {
    const ROW: &str = "start-alone";
    let mut hub = Hub::start(&Layout::default()).await?;
    let charge_points = sizes.charge_points.min(ALONE_CHARGE_POINTS_MAX);
    hub.fleet.join(charge_points).await?;
    floor::stream(&hub).await?;
    let mut starts = Starts::new(charge_points, hub.connectors);
    let how = Closed {
        in_flight: 1,
        warm_up: Duration::ZERO,
        time_max: ALONE_TIME_MAX,
    };
    let count = sizes.alone.min(starts.places());
    let before = floor::ledger(&hub).await?;
    run(&mut hub, &mut starts, WARM_UP_STARTS.min(count), how).await?;
    let bytes = floor::ledger(&hub).await?.mean_since(before);
    let mut p50 = Rounds::default();
    let mut p99 = Rounds::default();
    for _ in 0..sizes.rounds {
        let shots = starts.round(count)?;
        let echo = closed(&mut hub.drivers, &Starts::echo_of(&shots), how, || {}).await?;
        let append = floor::appends(&mut hub.core, bytes, count, how).await?;
        let start = closed(&mut hub.drivers, &shots, how, || {}).await?;
        starts.check_all(&start)?;
        hub.fleet.free(starts.accepted).await?;
        for (rounds, percent) in [(&mut p50, 50.0), (&mut p99, 99.0)] {
            rounds.figure.push(start.percentile_us(percent));
            rounds.echo.push(echo.percentile_us(percent));
            rounds.append.push(append.percentile_us(percent));
        }
    }
    sample(&mut hub, &starts).await?;
    let figures = |what: &str, rounds: &Rounds, bound: f64| {
        let sums: Vec<f64> = rounds
            .echo
            .iter()
            .zip(&rounds.append)
            .map(|(echo, append)| echo + append)
            .collect();
        [
            Figure::new(
                ROW,
                format!("core request-reply, {what}"),
                "us",
                &rounds.echo,
            ),
            Figure::new(
                ROW,
                format!("durable append of {bytes} B, {what}"),
                "us",
                &rounds.append,
            ),
            Figure::new(
                ROW,
                format!("start to accepted, {what}"),
                "us",
                &rounds.figure,
            )
            .over(&rounds.figure, "echo + append", &sums)
            .target(Target::FloorsAtMost(bound)),
        ]
    };
    let mut all = Vec::from(figures("p50", &p50, 1.2));
    all.extend(figures("p99", &p99, 2.0));
    Ok(all)
}

#[derive(Default)]
struct Rounds {
    figure: Vec<f64>,
    echo: Vec<f64>,
    append: Vec<f64>,
}

/// As many starts as there are, with so many in flight.
pub async fn crowd(sizes: &Sizes) -> Result<Vec<Figure>> {
    const ROW: &str = "start-crowd";
    let mut hub = Hub::start(&Layout::default()).await?;
    hub.fleet.join(sizes.charge_points).await?;
    floor::stream(&hub).await?;
    let mut starts = Starts::new(sizes.charge_points, hub.connectors);
    let one = Closed {
        in_flight: 1,
        warm_up: Duration::ZERO,
        time_max: ALONE_TIME_MAX,
    };
    let before = floor::ledger(&hub).await?;
    run(&mut hub, &mut starts, WARM_UP_STARTS.min(sizes.alone), one).await?;
    let bytes = floor::ledger(&hub).await?.mean_since(before);
    let how = Closed {
        in_flight: sizes.crowd,
        warm_up: sizes.warm_up,
        time_max: sizes.round_time,
    };
    let mut rates = Rounds::default();
    let (mut p50, mut p99, mut per_cpu_s) = (Vec::new(), Vec::new(), Vec::new());
    let mut used: Vec<(Part, Vec<f64>)> = Part::ALL.map(|part| (part, Vec::new())).into();
    for round in 0..sizes.rounds {
        let shots = starts.round(starts.places())?;
        let echo = closed(&mut hub.drivers, &Starts::echo_of(&shots), how, || {}).await?;
        let append = floor::appends(&mut hub.core, bytes, shots.len(), how).await?;
        let mut edges: Vec<Vec<(Part, Usage)>> = Vec::new();
        let start = {
            let pids = hub.all_pids();
            closed(&mut hub.drivers, &shots, how, || {
                edges.extend(Hub::usages(&pids).ok());
            })
            .await?
        };
        let tally = starts.check_all(&start)?;
        let freeing = Instant::now();
        hub.fleet.free(starts.accepted).await?;
        eprintln!(
            "bench: {ROW} round {}: {:.0} starts/s over {:.1} s, echo {:.0}/s, appends {:.0}/s; \
             {} sessions ended again in {:.1} s",
            round + 1,
            start.per_second(),
            start.window.as_secs_f64(),
            echo.per_second(),
            append.per_second(),
            tally.accepted,
            freeing.elapsed().as_secs_f64(),
        );
        rates.figure.push(start.per_second());
        rates.echo.push(echo.per_second());
        rates.append.push(append.per_second());
        p50.push(start.percentile_us(50.0));
        p99.push(start.percentile_us(99.0));
        let [from, to] = <[_; 2]>::try_from(edges)
            .ok()
            .context("a window has two edges")?;
        for (((part, from), (_, to)), (_, rounds)) in from.iter().zip(&to).zip(&mut used) {
            let cpu_s = to.cpu_s - from.cpu_s;
            rounds.push(cpu_s / start.window.as_secs_f64());
            if *part == Part::Central {
                per_cpu_s.push(start.answers as f64 / cpu_s.max(0.01));
            }
        }
    }
    sample(&mut hub, &starts).await?;
    let in_flight = sizes.crowd;
    let mut figures = vec![
        Figure::new(
            ROW,
            format!("core request-reply, {in_flight} in flight"),
            "1/s",
            &rates.echo,
        ),
        Figure::new(
            ROW,
            format!("durable appends of {bytes} B, {in_flight} in flight"),
            "1/s",
            &rates.append,
        ),
        Figure::new(
            ROW,
            format!("starts accepted, {in_flight} in flight"),
            "1/s",
            &rates.figure,
        )
        .over(&rates.figure, "echo", &rates.echo)
        .target(Target::FloorsAtLeast(0.3)),
        Figure::new(
            ROW,
            format!("starts accepted, {in_flight} in flight"),
            "1/s",
            &rates.figure,
        )
        .over(&rates.figure, "appends", &rates.append)
        .target(Target::FloorsAtLeast(15.0)),
        Figure::new(ROW, "start to accepted in the crowd, p50", "us", &p50),
        Figure::new(ROW, "start to accepted in the crowd, p99", "us", &p99),
        Figure::new(ROW, "starts per CPU-second of central", "1/s", &per_cpu_s)
            .target(Target::AtLeast(100_000.0)),
    ];
    figures.extend(used.iter().map(|(part, rounds)| {
        Figure::new(
            ROW,
            format!("cores used by {}", part.as_str()),
            "cores",
            rounds,
        )
    }));
    for (part, usage) in Hub::usages(&hub.all_pids())? {
        figures.push(Figure::new(
            ROW,
            format!("resident memory of {} at the end", part.as_str()),
            "MiB",
            &[usage.resident as f64 / 1_048_576.0],
        ));
    }
    Ok(figures)
}

/// So many starts, whose sessions have ended when this returns.
async fn run(hub: &mut Hub, starts: &mut Starts, count: usize, how: Closed) -> Result<()> {
    let shots = starts.round(count)?;
    let outcome = closed(&mut hub.drivers, &shots, how, || {}).await?;
    starts.check_all(&outcome)?;
    hub.fleet.free(starts.accepted).await?;
    Ok(())
}

/// Some of the sessions are asked for: what was accepted is there.
async fn sample(hub: &mut Hub, starts: &Starts) -> Result<()> {
    for (driver, session) in &starts.samples {
        let request = StatusRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: Some(session.to_string()),
        };
        let shot = Shot::new(
            format!("ev.v1.driver.{driver}.status"),
            wire::encode(&request, Encoding::MsgPack)?,
        );
        hub.drivers.send(shot).await?;
        let answer = hub.drivers.hear().await?;
        let reply: StatusReply = wire::decode(&answer.message.payload, Encoding::MsgPack)
            .with_context(|| format!("the status of {session}, which was accepted"))?;
        let there = reply.sessions.iter().any(|s| s.session_id == *session);
        anyhow::ensure!(there, "{session} was accepted and is not there");
    }
    Ok(())
}
