//! Every script that once broke a promise, and some seeds of each mix. `ops/dev test` runs ten
//! million steps besides, with a release build.

use std::path::Path;

use clap::ValueEnum as _;
use ev_sim::{Mix, Script, run};

/// Seeds of each mix: seconds of an unoptimised build.
const SEEDS: u64 = 6;

#[test]
fn what_once_broke_a_promise_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let script: Script = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if let Err(broken) = run(&script, false) {
            panic!("{}: {}: {}", path.display(), broken.check, broken.what);
        }
        replayed += 1;
    }
    assert!(replayed > 0, "no fixture in {}", folder.display());
}

#[test]
fn some_seeds_of_each_mix_hold() {
    for mix in Mix::value_variants() {
        let mut sessions = 0;
        for seed in 1..=SEEDS {
            match run(&Script::draw(seed, *mix), false) {
                Ok(totals) => sessions += totals.judged.sessions,
                Err(broken) => panic!("{mix:?} {seed}: {}: {}", broken.check, broken.what),
            }
        }
        assert!(sessions > 0, "{mix:?} had no session");
    }
}

#[test]
fn a_run_is_told_by_its_seed() {
    for mix in Mix::value_variants() {
        let (one, two) = (Script::draw(7, *mix), Script::draw(7, *mix));
        assert_eq!(one, two);
        let (one, two) = (run(&one, false).unwrap(), run(&two, false).unwrap());
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }
}
