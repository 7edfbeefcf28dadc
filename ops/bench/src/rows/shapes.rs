//! Other shapes of load: JSON, bursts, a connector that everybody wants, charge points that answer
//! late or never, several replicas.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    v1::{DriverUpdate, Status},
    wire::{self, Encoding},
};

use super::{
    Bench, Sizes,
    crowd::{sample, warm_up},
};
use crate::{
    client::Shot,
    hub::{Hub, Layout},
    load::{self, Closed, Outcome, closed},
    report::{Figure, Target},
    starts::Starts,
};

/// Charge points of these rows, and the connectors of each: as many places as larger fleets have,
/// with fewer heartbeats in between.
const CHARGE_POINTS_MAX: usize = 2_500;
const CONNECTORS: u16 = 16;
/// In flight where latency is compared: within what the hub does with ease.
const EASY: usize = 64;
/// As late as an answer to a command can be that still counts.
const LATE: Duration = Duration::from_millis(2_900);

fn layout() -> Layout {
    Layout {
        connectors: CONNECTORS,
        ..Layout::default()
    }
}

async fn hub(sizes: &Sizes, layout: &Layout) -> Result<(Hub, Starts)> {
    let mut hub = Hub::start(layout).await?;
    let charge_points = sizes.charge_points.min(CHARGE_POINTS_MAX);
    hub.fleet.join(charge_points).await?;
    let mut starts = Starts::new(charge_points, hub.connectors);
    warm_up(&mut hub, &mut starts, sizes).await?;
    Ok((hub, starts))
}

fn closed_load(sizes: &Sizes, in_flight: usize) -> Closed {
    Closed {
        in_flight: in_flight.min(sizes.crowd),
        warm_up: sizes.warm_up,
        time: sizes.round_time,
        pause: Duration::ZERO,
    }
}

/// All places once, or as far as the time goes; all are accepted, and free when this returns.
async fn round(hub: &mut Hub, starts: &mut Starts, how: Closed) -> Result<Outcome> {
    let shots = starts.round(starts.places())?;
    let outcome = closed(&mut hub.drivers, &shots, how, || {}).await?;
    starts.check_all(&outcome)?;
    hub.fleet.free(starts.accepted).await?;
    Ok(outcome)
}

/// Requests and replies in JSON beside MessagePack.
pub async fn json(bench: &Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "json";
    let sizes = bench.sizes;
    let (mut hub, mut starts) = hub(&sizes, &layout()).await?;
    let how = closed_load(&sizes, sizes.crowd);
    let (mut pack, mut json) = (Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        starts.encoding = Encoding::MsgPack;
        pack.push(round(&mut hub, &mut starts, how).await?.per_second());
        starts.encoding = Encoding::Json;
        json.push(round(&mut hub, &mut starts, how).await?.per_second());
    }
    starts.encoding = Encoding::MsgPack;
    sample(&mut hub, &starts).await?;
    let what = format!("starts accepted in JSON, {} in flight", how.in_flight);
    Ok(vec![Figure::new(ROW, what, "1/s", &json).over(
        &json,
        "in MessagePack",
        &pack,
    )])
}

/// Many at once every second, whatever comes back.
pub async fn bursts(bench: &Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "bursts";
    const EVERY: Duration = Duration::from_secs(1);
    let sizes = bench.sizes;
    let (mut hub, mut starts) = hub(&sizes, &layout()).await?;
    let at_once = sizes.burst.min(starts.places());
    let count = (sizes.bursts * at_once).min(starts.places());
    let (mut p50, mut p99, mut max) = (Vec::new(), Vec::new(), Vec::new());
    let shots = starts.round(count)?;
    let outcome = load::bursts(&mut hub.drivers, &shots, at_once, EVERY).await?;
    starts.check_all(&outcome)?;
    // Each burst is a round of its own.
    for burst in 0..count / at_once {
        let of = burst * at_once..(burst + 1) * at_once;
        let times = outcome.latency_of(|index| of.contains(&index))?;
        p50.push(times.value_at_percentile(50.0) as f64);
        p99.push(times.value_at_percentile(99.0) as f64);
        max.push(times.max() as f64);
    }
    hub.fleet.free(starts.accepted).await?;
    sample(&mut hub, &starts).await?;
    let what = |which: &str| format!("{at_once} starts at once every second, {which}");
    Ok(vec![
        Figure::new(ROW, what("p50"), "us", &p50),
        Figure::new(ROW, what("p99"), "us", &p99),
        Figure::new(ROW, what("the last"), "us", &max),
    ])
}

/// A thousand a second, evenly, whatever comes back.
pub async fn paced(bench: &Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "paced";
    const AT_ONCE: usize = 10;
    const EVERY: Duration = Duration::from_millis(10);
    let sizes = bench.sizes;
    let (mut hub, mut starts) = hub(&sizes, &layout()).await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    let count = (sizes.round_time.as_millis() / EVERY.as_millis()) as usize * AT_ONCE;
    for _ in 0..sizes.rounds {
        let shots = starts.round(count.min(starts.places()))?;
        let outcome = load::bursts(&mut hub.drivers, &shots, AT_ONCE, EVERY).await?;
        starts.check_all(&outcome)?;
        p50.push(outcome.percentile_us(50.0));
        p99.push(outcome.percentile_us(99.0));
        hub.fleet.free(starts.accepted).await?;
    }
    sample(&mut hub, &starts).await?;
    Ok(vec![
        Figure::new(ROW, "1000 starts a second, evenly, p50", "us", &p50),
        Figure::new(ROW, "1000 starts a second, evenly, p99", "us", &p99),
    ])
}

/// Half of all starts are for one connector. One of them gets it, and nobody else feels it.
pub async fn hot_connector(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (row, centrals) in [("hot-connector", 1), ("hot-connector-two-replicas", 2)] {
        let layout = Layout {
            centrals,
            ..layout()
        };
        let (mut hub, mut starts) = hub(&bench.sizes, &layout).await?;
        figures.extend(hot(row, &bench.sizes, &mut hub, &mut starts).await?);
    }
    Ok(figures)
}

async fn hot(
    row: &'static str,
    sizes: &Sizes,
    hub: &mut Hub,
    starts: &mut Starts,
) -> Result<Vec<Figure>> {
    let calm = closed_load(sizes, EASY);
    // As many for the others as without.
    let mixed = Closed {
        in_flight: calm.in_flight * 2,
        ..calm
    };
    let (mut alone, mut beside) = (Times::default(), Times::default());
    let mut refused = Vec::new();
    for _ in 0..sizes.rounds {
        let outcome = round(hub, starts, calm).await?;
        alone.push(&outcome, |_| true)?;
        // The place of the first is the hot one; whoever else wants it has a place of their own
        // elsewhere that nobody takes.
        let others = starts.round(starts.places() / 2)?;
        let shots: Vec<Shot> = others
            .iter()
            .skip(1)
            .enumerate()
            .flat_map(|(n, other)| {
                let wants_hot = starts.shot(starts.places() + n, 0, 1, starts.name("hot", n));
                [Ok(other.clone()), wants_hot]
            })
            .collect::<Result<_>>()?;
        let outcome = closed(&mut hub.drivers, &shots, mixed, || {}).await?;
        ensure!(outcome.lost == 0, "{} had no answer", outcome.lost);
        refused.push(one_has_it(&outcome)?);
        let tally = starts.check(&outcome)?;
        ensure!(
            tally
                .refused
                .keys()
                .all(|code| code == Code::Occupied.as_str()),
            "refused were {:?}",
            tally.refused
        );
        beside.push(&outcome, |index| index % 2 == 0)?;
        hub.fleet.free(starts.accepted).await?;
    }
    sample(hub, starts).await?;
    let what = format!(
        "beside as many who want one connector, {} in flight",
        calm.in_flight
    );
    Ok(vec![
        Figure::new(row, format!("start, p50, {what}"), "us", &beside.p50).over(
            &beside.p50,
            "without",
            &alone.p50,
        ),
        Figure::new(row, format!("start, p99, {what}"), "us", &beside.p99).over(
            &beside.p99,
            "without",
            &alone.p99,
        ),
        Figure::new(row, format!("starts accepted {what}"), "1/s", &beside.rate).over(
            &beside.rate,
            "without",
            &alone.rate,
        ),
        Figure::new(row, "refused as occupied, one accepted", "", &refused),
    ])
}

/// Of those with an odd index exactly one was accepted; how many were refused.
fn one_has_it(outcome: &Outcome) -> Result<f64> {
    let (mut accepted, mut refused) = (0, 0);
    for heard in outcome.all.iter().filter(|h| h.index % 2 == 1) {
        let update: DriverUpdate = wire::decode(&heard.bytes, Encoding::MsgPack)
            .context("who wants the hot connector gets an answer")?;
        match update.status {
            Status::Accepted => accepted += 1,
            _ => refused += 1,
        }
    }
    ensure!(accepted == 1, "{accepted} got the one connector");
    Ok(f64::from(refused))
}

#[derive(Default)]
struct Times {
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
}

impl Times {
    /// Of those in the window that are meant.
    fn push(&mut self, outcome: &Outcome, is_meant: impl Fn(usize) -> bool) -> Result<()> {
        let times = outcome.latency_of(is_meant)?;
        self.p50.push(times.value_at_percentile(50.0) as f64);
        self.p99.push(times.value_at_percentile(99.0) as f64);
        self.rate
            .push(times.len() as f64 / outcome.window.as_secs_f64());
        Ok(())
    }
}

/// Two charge points among many take commands late or not at all.
pub async fn slow_charge_point(bench: &Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "slow-charge-point";
    let sizes = bench.sizes;
    // One hub with them and one without, in turn.
    let (mut quick_hub, mut quick_starts) = hub(&sizes, &layout()).await?;
    let (mut slow_hub, mut slow_starts) = hub(&sizes, &layout()).await?;
    slow_hub.fleet.slow(0, Some(LATE)).await?;
    slow_hub.fleet.slow(1, None).await?;
    let how = closed_load(&sizes, EASY);
    let (mut quick, mut slow) = (Times::default(), Times::default());
    let (mut quick_taken, mut slow_taken) = (Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        for (hub, starts, times, taken) in [
            (
                &mut quick_hub,
                &mut quick_starts,
                &mut quick,
                &mut quick_taken,
            ),
            (&mut slow_hub, &mut slow_starts, &mut slow, &mut slow_taken),
        ] {
            let shots = starts.round(starts.places())?;
            let outcome = closed(&mut hub.drivers, &shots, how, || {}).await?;
            starts.check_all(&outcome)?;
            times.push(&outcome, |_| true)?;
            // Every command is heard, by those who do not answer as well.
            let since = Instant::now();
            hub.fleet.taken(starts.accepted).await?;
            taken.push(since.elapsed().as_secs_f64() * 1e6);
            hub.fleet.free(starts.accepted).await?;
        }
    }
    sample(&mut slow_hub, &slow_starts).await?;
    let beside = format!("one charge point late and one silent among {}", {
        sizes.charge_points.min(CHARGE_POINTS_MAX)
    });
    let compared = |what: &str, unit, slow: &[f64], quick: &[f64]| {
        Figure::new(ROW, format!("{what}, {beside}"), unit, slow).over(slow, "without", quick)
    };
    Ok(vec![
        compared("starts accepted", "1/s", &slow.rate, &quick.rate),
        compared("start, p50", "us", &slow.p50, &quick.p50),
        compared("start, p99", "us", &slow.p99, &quick.p99),
        compared(
            "until all are commanded after the last is accepted",
            "us",
            &slow_taken,
            &quick_taken,
        ),
    ])
}

/// Two and three replicas on one ledger, beside one.
pub async fn replicas(bench: &Bench) -> Result<Vec<Figure>> {
    const ROW: &str = "replicas";
    let sizes = bench.sizes;
    let mut hubs = Vec::new();
    for centrals in 1..=3 {
        let layout = Layout {
            centrals,
            ..layout()
        };
        hubs.push(hub(&sizes, &layout).await?);
    }
    let how = closed_load(&sizes, sizes.crowd);
    let mut rates: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..sizes.rounds {
        for (n, (hub, starts)) in hubs.iter_mut().enumerate() {
            let outcome = round(hub, starts, how).await?;
            rates.entry(n + 1).or_default().push(outcome.per_second());
        }
    }
    for (hub, starts) in &mut hubs {
        sample(hub, starts).await?;
    }
    let one = rates.get(&1).context("one replica was measured")?;
    let mut figures = vec![Figure::new(ROW, "starts accepted, one replica", "1/s", one)];
    for (centrals, bound) in [(2, 0.6), (3, 0.4)] {
        let several = rates.get(&centrals).context("several were measured")?;
        let what = format!("starts accepted, {centrals} replicas");
        figures.push(
            Figure::new(ROW, what, "1/s", several)
                .over(several, "one replica", one)
                .target(Target::FloorsAtLeast(bound)),
        );
    }
    Ok(figures)
}
