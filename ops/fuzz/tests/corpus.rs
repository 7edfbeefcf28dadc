//! What is committed, the contract's fixtures, and small changes of all of them: a search of
//! seconds with every test run. `ops/dev faults fuzz` looks longer.

use ev_fuzz::{TARGETS, Target, seeds};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Changed inputs for each target: seconds of an unoptimised build, all together.
const CHANGED: u32 = 1_000;
const LEN_MAX: usize = 16 * 1024;

#[test]
fn every_target_holds_for_its_corpus() {
    for target in TARGETS {
        let seeds = seeds(target).unwrap();
        assert!(!seeds.is_empty(), "{} has no corpus", target.name);
        for (name, bytes) in &seeds {
            hold(target, name, bytes);
        }
    }
}

#[test]
fn every_target_holds_for_changes_of_its_corpus() {
    for target in TARGETS {
        let seeds = seeds(target).unwrap();
        let mut random = StdRng::seed_from_u64(1);
        for n in 0..CHANGED {
            let (name, bytes) = &seeds[random.random_range(0..seeds.len())];
            let other = &seeds[random.random_range(0..seeds.len())].1;
            let changed = change(bytes, other, &mut random);
            hold(target, &format!("change {n} of {name}"), &changed);
        }
    }
}

/// Runs a target; a failure shows the input, since nobody can see it in a panic's message.
fn hold(target: &Target, name: &str, bytes: &[u8]) {
    let run = std::panic::AssertUnwindSafe(|| (target.run)(bytes));
    if let Err(panic) = std::panic::catch_unwind(run) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("target {}, input {name:?}: {hex}", target.name);
        std::panic::resume_unwind(panic);
    }
}

fn change(bytes: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=changed.len());
        match random.random_range(0..6) {
            0 if at < changed.len() => changed[at] ^= 1 << random.random_range(0..8),
            1 if at < changed.len() => changed[at] = random.random(),
            2 => changed.insert(at, random.random()),
            3 => changed.truncate(at),
            4 if at < changed.len() => {
                let end = random.random_range(at..=changed.len());
                changed.drain(at..end);
            }
            _ => {
                let from = random.random_range(0..=other.len());
                let end = random.random_range(from..=other.len());
                changed.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
    changed.truncate(LEN_MAX);
    changed
}
