//! `faults sim`: runs seeds, tells how far it is, and what broke.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{Broken, Mix, Script, Totals, run, shrink::shrink};

/// Runs seeds through the simulation and checks the promises after every step.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    pub seeds: u64,
    /// The first seed; alone it means this one only.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Go on with more seeds until there were so many steps.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Which kinds of faults.
    #[arg(long, value_enum, default_value_t = Mix::All)]
    pub faults: Mix,
    /// Runs at once; each takes one core.
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Replay a script from a file instead.
    #[arg(long, conflicts_with_all = ["seeds", "seed", "steps"])]
    pub replay: Option<PathBuf>,
    /// Tell every step.
    #[arg(long)]
    pub trace: bool,
    /// Do not make a failing script smaller.
    #[arg(long)]
    pub no_shrink: bool,
    /// Go on after a failure and list all of them at the end.
    #[arg(long)]
    pub keep_going: bool,
    /// Where a failing script is written.
    #[arg(long, default_value = "target/faults")]
    pub out: PathBuf,
}

/// Longest time spent on making a script smaller.
const SHRINK_MAX: Duration = Duration::from_secs(90);
/// Between two words about progress.
const PROGRESS: Duration = Duration::from_secs(5);

/// Runs what was asked for.
///
/// # Errors
/// When a promise did not hold, or a file cannot be read or written.
pub fn main(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.replay {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let script: Script =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        return match run(&script, args.trace) {
            Ok(totals) => {
                print(&totals, Duration::ZERO);
                Ok(())
            }
            Err(broken) => bail!("{}: {}", broken.check, broken.what),
        };
    }
    let first = args.seed.unwrap_or(1);
    let seeds = match (args.seed, args.steps) {
        (_, Some(_)) => u64::MAX - first,
        (Some(_), None) if args.seeds == 200 => 1,
        (_, None) => args.seeds,
    };
    let begun = Instant::now();
    let outcome = all(args, first, seeds, begun);
    let (totals, failure) = outcome;
    if totals.runs > 0 {
        print(&totals, begun.elapsed());
    }
    let Some((seed, broken)) = failure else {
        return Ok(());
    };
    report(args, seed, &broken)
}

/// Runs seeds on some threads; the lowest seed that fails counts.
fn all(args: &Args, first: u64, seeds: u64, begun: Instant) -> (Totals, Option<(u64, Broken)>) {
    let next = AtomicU64::new(first);
    let steps = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let worker = || {
        let mut totals = Totals::default();
        let mut failure = None;
        let mut told = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= seeds {
                break;
            }
            match run(&Script::draw(seed, args.faults), args.trace) {
                Ok(one) => {
                    steps.fetch_add(one.net.steps, Ordering::Relaxed);
                    totals.add(&one);
                }
                Err(broken) => {
                    if args.keep_going {
                        let what: String = broken.what.chars().take(160).collect();
                        eprintln!("seed {seed}: {}: {what}", broken.check);
                    } else {
                        stop.store(true, Ordering::Relaxed);
                    }
                    failure = failure.or(Some((seed, *broken)));
                }
            }
            let so_far = steps.load(Ordering::Relaxed);
            if args.steps.is_some_and(|most| so_far >= most) {
                break;
            }
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                eprintln!(
                    "seed {seed}: {:.1} million steps in {:.0} s",
                    so_far as f64 / 1e6,
                    begun.elapsed().as_secs_f64()
                );
            }
        }
        (totals, failure)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut totals = Totals::default();
        let mut failure: Option<(u64, Broken)> = None;
        for worker in workers {
            match worker.join() {
                Ok((some, failed)) => {
                    totals.add(&some);
                    failure = match (failure, failed) {
                        (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
                        (a, b) => a.or(b),
                    };
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (totals, failure)
    })
}

fn report(args: &Args, seed: u64, broken: &Broken) -> anyhow::Result<()> {
    let mix = clap::ValueEnum::to_possible_value(&args.faults)
        .map_or_else(String::new, |v| v.get_name().to_owned());
    eprintln!("seed {seed} broke \"{}\": {}", broken.check, broken.what);
    eprintln!("again: ops/dev faults sim --seed {seed} --faults {mix}");
    let script = Script::draw(seed, args.faults);
    let (script, broken) = if args.no_shrink {
        (script, broken.clone())
    } else {
        eprintln!("making it smaller ...");
        let before = script.actions.len();
        let smaller = shrink(&script, broken, SHRINK_MAX);
        eprintln!("{before} actions became {}", smaller.0.actions.len());
        smaller
    };
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("creating {}", args.out.display()))?;
    let path = args.out.join(format!("sim-{mix}-{seed}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(&script)?)
        .with_context(|| format!("writing {}", path.display()))?;
    eprintln!("script: {}", path.display());
    eprintln!(
        "again: ops/dev faults sim --trace --replay {}",
        path.display()
    );
    bail!("{}: {}", broken.check, broken.what)
}

fn print(totals: &Totals, took: Duration) {
    let (n, j) = (&totals.net, &totals.judged);
    let rows = [
        ("runs", totals.runs),
        ("simulated hours", totals.time_ms / 3_600_000),
        ("steps", n.steps),
        ("of these ticks", n.ticks),
        ("frames landed", j.frames),
        ("of these again", n.landed_again),
        ("frames applied by replicas", n.applied),
        ("frames appended again", n.append_again),
        ("records", j.records),
        ("of these void", j.void),
        ("questions decided again", n.decided_again),
        ("sessions", j.sessions),
        ("of these begun at a cabinet", j.local),
        ("receipts", j.receipts),
        ("adjustments written", j.adjustments),
        ("refusals on record", j.refusals),
        ("forget records", j.forgets),
        ("answers heard", j.answers),
        ("questions after a barrier", j.queries),
        ("spool records taken in", j.taken_in),
        ("kept aside or noted as odd", j.set_aside),
        ("commands sent", n.commands),
        ("messages lost", n.lost),
        ("replicas died", n.replica_crashes),
        ("replicas froze", n.freezes),
        ("snapshots written", n.snapshots),
        ("begun from a snapshot", n.from_snapshot),
        ("cabinets died", n.cabinet_crashes),
        ("commits that failed", n.disk_failures),
        ("disks replaced", n.new_disks),
        ("stores copied", n.copies),
        ("kWh delivered", n.delivered_mwh / 1_000_000),
    ];
    for (name, count) in rows {
        println!("{name:<28} {count:>12}");
    }
    let seconds = took.as_secs_f64();
    if seconds > 0.0 {
        println!("{:<28} {seconds:>12.1}", "seconds");
        println!(
            "{:<28} {:>12.1}",
            "million steps a minute",
            n.steps as f64 / 1e6 / seconds * 60.0
        );
    }
}
