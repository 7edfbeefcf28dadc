//! The power goes: what was acknowledged must be there when it comes back.
//!
//! A virtual machine runs nats-server and central as they are shipped. Drivers and charge points
//! outside of it note what they were told. The machine loses its power under load, without
//! warning, and is switched on again.

mod cabinet;
mod cpio;
mod disk;
mod driver;
mod machine;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::{Client, jetstream};
use ev_contract::streams;
use ev_testkit::{Keys, Role, wait_for};
use futures::{StreamExt, TryStreamExt, future, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use cabinet::Cabinet;
use disk::Forgotten;
use driver::{Driver, Promise};
use machine::{Durability, Machine, Workshop};

/// Questions under way while promises are checked: an emulated central has no more to give.
const CHECKS_AT_ONCE: usize = 24;

/// The most that drivers need to end what they have begun, and charge points to send what they
/// have, once nothing is cut any more.
const WIND_DOWN: Duration = Duration::from_secs(180);

/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long central in the machine may take for anything once it serves.
const PATIENCE: Duration = Duration::from_secs(120);

/// The shortest time under load: the first requests are under way.
const LOAD_MS_MIN: u64 = 500;

/// Every so many rounds the power goes once more while the machine starts.
const CUT_WHILE_STARTING_EVERY: u32 = 3;

/// A start takes longer than this, so that such a cut hits it.
const CUT_WHILE_STARTING_MS: std::ops::Range<u64> = 3_000..20_000;

/// Broken promises that are printed; the rest are counted.
const SHOWN_MAX: usize = 10;

/// Cut the power of a machine with nats-server and central, and look for what was promised.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  ops/dev faults power-cut\n  ops/dev faults power-cut --rounds 20 --seconds 60\n  ops/dev faults power-cut --lax --rounds 2"
)]
pub struct Options {
    /// How often the power is cut under load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The longest time under load before a cut; the moment is drawn.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Drivers, each with a charge point of its own.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=500))]
    drivers: u32,
    /// Draws the moments of the cuts and what the disk's cache loses.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave `sync_interval` at the server's default: succeeds if a loss is seen.
    #[arg(long)]
    lax: bool,
}

/// Everybody outside of the machine.
#[derive(Debug)]
struct Outside {
    drivers: Vec<Driver>,
    cabinets: Vec<Cabinet>,
}

/// The connections to one machine, in the order of everybody.
#[derive(Debug)]
struct Lines {
    drivers: Vec<Client>,
    cabinets: Vec<Client>,
    /// As a central, which may look at streams.
    reader: Client,
}

/// How far everybody was when a round began.
#[derive(Debug)]
struct Mark {
    promises: Vec<usize>,
    freed: u64,
}

/// One round in figures.
#[derive(Debug, Default)]
struct Round {
    load: Duration,
    start: Duration,
    starts: usize,
    stops: usize,
    refusals: usize,
    ends: usize,
    freed: u64,
    waiting: usize,
    forgotten_kib: usize,
    flushes: u64,
    broken: usize,
    unfreed: u64,
}

/// Runs it.
///
/// # Errors
/// When a promise was broken, or with `--lax` when none was.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        tokio::select! {
            done = cut_again_and_again(options) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        }
    })
}

async fn cut_again_and_again(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| rand::rng().random());
    let mut rng = StdRng::seed_from_u64(seed);
    let durability = if options.lax {
        Durability::ServerDefault
    } else {
        Durability::Shipped
    };
    println!("seed {seed}, {durability:?}");
    let workshop = Workshop::set_up(durability)?;
    let mut rounds = Vec::new();
    let mut outside = Outside::new(options.drivers)?;
    let mut machine = workshop.boot(workshop.new_disk()?)?;
    machine.wait_until_it_serves().await?;
    for n in 1..=options.rounds {
        let mark = outside.mark();
        let mut round = Round {
            load: Duration::from_millis(rng.random_range(LOAD_MS_MIN..=options.seconds * 1000)),
            ..Round::default()
        };
        let lines = outside.connect(&machine, &workshop.keys).await?;
        let left = timeout(round.load, outside.work(&lines)).await;
        ensure!(left.is_err(), "work ended before the cut: {left:?}");
        let mut disk = machine.cut()?;
        let mut forgotten = disk.cut(&mut rng)?;
        drop(lines);
        round.count(&outside, &mark);

        if n % CUT_WHILE_STARTING_EVERY == 0 {
            let starting = workshop.boot(disk)?;
            let after = Duration::from_millis(rng.random_range(CUT_WHILE_STARTING_MS));
            tokio::time::sleep(after).await;
            disk = starting.cut()?;
            let again = disk.cut(&mut rng)?;
            forgotten.lost_bytes += again.lost_bytes;
        }
        round.note(&forgotten);

        let began = Instant::now();
        machine = workshop.boot(disk)?;
        let came_back = machine.wait_until_it_serves().await;
        round.start = began.elapsed();
        match came_back {
            Ok(()) => {
                let lines = outside.connect(&machine, &workshop.keys).await?;
                outside.check(&lines, Some(&mark), &mut round).await?;
            }
            Err(error) if options.lax => {
                println!("it did not come back: {error:#}");
                round.broken = round.promises();
            }
            Err(error) => return Err(error.context(format!("after cut {n}"))),
        }
        println!("cut {n}: {}", round.figures());
        rounds.push(round);

        if options.lax && n < options.rounds {
            // What was lost once would be found lost again.
            drop(machine.cut()?);
            outside = Outside::new(options.drivers)?;
            machine = workshop.boot(workshop.new_disk()?)?;
            machine.wait_until_it_serves().await?;
        }
    }
    let sum = Round::sum(&rounds);
    if options.lax {
        println!("all {} cuts: {}", options.rounds, sum.figures());
        ensure!(
            sum.broken > 0 || sum.unfreed > 0,
            "no loss was seen, so this test cannot see one"
        );
        println!("a loss was seen, as it must be with the server's default");
        return Ok(());
    }
    let lines = outside.connect(&machine, &workshop.keys).await?;
    let mut last = Round::default();
    outside.wind_down(&lines, &mut last).await?;
    println!("all {} cuts: {}", options.rounds, sum.figures());
    ensure!(
        sum.broken == 0 && sum.unfreed == 0 && last.broken == 0 && last.unfreed == 0,
        "{} promises were broken, and {} freed records are wanted again",
        sum.broken + last.broken,
        sum.unfreed + last.unfreed
    );
    println!("nothing that was promised is lost");
    Ok(())
}

impl Outside {
    fn new(count: u32) -> Result<Self> {
        let mut drivers = Vec::new();
        let mut cabinets = Vec::new();
        for n in 1..=count {
            let cabinet = Cabinet::new(&format!("CP-{n:03}"))?;
            drivers.push(Driver::new(
                format!("driver-{n:03}"),
                cabinet.id().to_string(),
            ));
            cabinets.push(cabinet);
        }
        Ok(Self { drivers, cabinets })
    }

    /// A connection for everybody, each with a credential of its own.
    async fn connect(&self, machine: &Machine, keys: &Keys) -> Result<Lines> {
        let url = machine.nats_url();
        let drivers = self.drivers.iter().map(|d| (Role::Driver, d.id()));
        let cabinets = self
            .cabinets
            .iter()
            .map(|c| (Role::ChargePoint, c.id().as_str()));
        let all = drivers.chain(cabinets).chain([(Role::Central, "reader")]);
        let mut all: Vec<Client> = stream::iter(all)
            .map(|(role, name)| connect(keys, &url, role, name))
            .buffered(CHECKS_AT_ONCE)
            .try_collect()
            .await?;
        let reader = all.pop().context("a reader")?;
        let cabinets = all.split_off(self.drivers.len());
        Ok(Lines {
            drivers: all,
            cabinets,
            reader,
        })
    }

    /// Everybody works, until this is dropped or somebody meets what must not be.
    async fn work(&mut self, lines: &Lines) -> Result<()> {
        let drivers = self.drivers.iter_mut().zip(&lines.drivers);
        let drivers = drivers.map(|(driver, line)| driver.work(line));
        let cabinets = self.cabinets.iter_mut().zip(&lines.cabinets);
        let cabinets = cabinets.map(|(cabinet, line)| cabinet.work(line));
        future::try_join(
            future::try_join_all(drivers),
            future::try_join_all(cabinets),
        )
        .await?;
        Ok(())
    }

    fn mark(&self) -> Mark {
        Mark {
            promises: self.drivers.iter().map(|d| d.promises().len()).collect(),
            freed: self.freed(),
        }
    }

    fn freed(&self) -> u64 {
        self.cabinets.iter().map(Cabinet::freed).sum()
    }

    fn since<'a>(
        &'a self,
        mark: Option<&'a Mark>,
    ) -> impl Iterator<Item = (usize, &'a Driver, &'a Promise)> {
        self.drivers
            .iter()
            .enumerate()
            .flat_map(move |(n, driver)| {
                let from = mark.map_or(0, |mark| mark.promises[n]);
                driver.promises()[from..]
                    .iter()
                    .map(move |p| (n, driver, p))
            })
    }

    /// Asks for everything that was promised since the mark, and for every spool's position.
    async fn check(&self, lines: &Lines, mark: Option<&Mark>, round: &mut Round) -> Result<()> {
        let broken: Vec<String> = stream::iter(self.since(mark))
            .map(|(n, driver, promise)| driver.broken(&lines.drivers[n], promise))
            .buffer_unordered(CHECKS_AT_ONCE)
            .try_filter_map(future::ok)
            .try_collect()
            .await?;
        for line in broken.iter().take(SHOWN_MAX) {
            println!("  broken: {line}");
        }
        round.broken += broken.len();
        let mut shown = 0;
        for (cabinet, line) in self.cabinets.iter().zip(&lines.cabinets) {
            let again = match cabinet.freed() {
                // Never heard of by central, perhaps.
                0 => 0,
                _ => wanted_again(cabinet, line).await?,
            };
            if again > 0 && shown < SHOWN_MAX {
                println!(
                    "  broken: {} was told to free {again} records that are gone",
                    cabinet.id()
                );
                shown += 1;
            }
            round.unfreed += again;
        }
        Ok(())
    }

    /// No more cuts: every session ends, every spool empties, and all that was ever promised is
    /// asked for once more, with what was metered against what was billed.
    async fn wind_down(&mut self, lines: &Lines, last: &mut Round) -> Result<()> {
        for driver in &mut self.drivers {
            driver.make_this_the_last();
        }
        let deadline = Instant::now() + WIND_DOWN;
        while !self.is_done() {
            ensure!(
                Instant::now() < deadline,
                "after {WIND_DOWN:?} without a cut not every session has ended"
            );
            if let Ok(left) = timeout(LOOK_EVERY, self.work(lines)).await {
                left?;
            }
        }
        self.check(lines, None, last).await?;
        let sessions: Vec<_> = self
            .since(None)
            .filter_map(|(n, driver, promise)| match promise {
                Promise::Ended { session, .. } => Some((n, driver, *session)),
                Promise::Started { .. } | Promise::Stopped { .. } | Promise::Refused { .. } => None,
            })
            .collect();
        let billed: Vec<i64> = stream::iter(&sessions)
            .map(|(n, driver, session)| driver.billed(&lines.drivers[*n], *session))
            .buffered(CHECKS_AT_ONCE)
            .try_collect()
            .await?;
        for ((_, _, session), billed) in sessions.iter().zip(&billed) {
            let metered: u64 = self.cabinets.iter().map(|c| c.metered(*session)).sum();
            if i64::try_from(metered)? != *billed {
                println!("  broken: {session} metered {metered} mWh and was billed {billed}");
                last.broken += 1;
            }
        }
        let begun = self
            .since(None)
            .filter(|(_, _, promise)| matches!(promise, Promise::Started { .. }))
            .count();
        ensure!(
            begun == sessions.len(),
            "{begun} sessions were accepted and {} have ended",
            sessions.len()
        );
        let receipts = receipts(&lines.reader, begun as u64).await?;
        println!(
            "at the end: {begun} sessions accepted and ended, {receipts} receipts, {} mWh metered \
             and billed, {} records freed",
            billed.iter().sum::<i64>(),
            self.freed()
        );
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.drivers.iter().all(Driver::has_done_its_last)
            && self.cabinets.iter().all(Cabinet::has_nothing_to_send)
    }
}

impl Round {
    fn count(&mut self, outside: &Outside, mark: &Mark) {
        for (_, _, promise) in outside.since(Some(mark)) {
            match promise {
                Promise::Started { .. } => self.starts += 1,
                Promise::Stopped { .. } => self.stops += 1,
                Promise::Refused { .. } => self.refusals += 1,
                Promise::Ended { .. } => self.ends += 1,
            }
        }
        self.freed = outside.freed() - mark.freed;
        self.waiting = outside.drivers.iter().filter(|d| d.is_waiting()).count();
    }

    fn note(&mut self, forgotten: &Forgotten) {
        self.forgotten_kib = forgotten.lost_bytes / 1024;
        self.flushes = forgotten.flushes;
    }

    fn promises(&self) -> usize {
        self.starts + self.stops + self.refusals + self.ends
    }

    fn sum(rounds: &[Self]) -> Self {
        let mut sum = Self::default();
        for round in rounds {
            sum.load += round.load;
            sum.start += round.start;
            sum.starts += round.starts;
            sum.stops += round.stops;
            sum.refusals += round.refusals;
            sum.ends += round.ends;
            sum.freed += round.freed;
            sum.waiting += round.waiting;
            sum.forgotten_kib += round.forgotten_kib;
            sum.flushes += round.flushes;
            sum.broken += round.broken;
            sum.unfreed += round.unfreed;
        }
        sum
    }

    fn figures(&self) -> String {
        format!(
            "under load for {:.1} s; told: {} starts, {} stops, {} ends, {} refusals, {} records freed; \
             {} requests without an answer; the disk had flushed {} times and forgot {} KiB; \
             back after {:.0} s; broken: {} promises, {} freed records",
            self.load.as_secs_f64(),
            self.starts,
            self.stops,
            self.ends,
            self.refusals,
            self.freed,
            self.waiting,
            self.flushes,
            self.forgotten_kib,
            self.start.as_secs_f64(),
            self.broken,
            self.unfreed
        )
    }
}

async fn connect(keys: &Keys, url: &str, role: Role, name: &str) -> Result<Client> {
    wait_for(
        "nats-server in the machine is reached",
        PATIENCE,
        async || keys.connect(url, role, name).await,
    )
    .await
}

async fn wanted_again(cabinet: &Cabinet, client: &Client) -> Result<u64> {
    wait_for("central answers a charge point", PATIENCE, async || {
        cabinet.wanted_again(client).await
    })
    .await
}

/// One subject a session: as many messages as receipts.
async fn receipts(client: &Client, expected: u64) -> Result<u64> {
    let stream = jetstream::new(client.clone())
        .get_stream(streams::CDR.name)
        .await
        .context("open the receipts' stream")?;
    wait_for(
        "every ended session has one receipt",
        PATIENCE,
        async || {
            let messages = stream.get_info().await?.state.messages;
            ensure!(messages == expected, "{messages} of {expected}");
            Ok(messages)
        },
    )
    .await
}
