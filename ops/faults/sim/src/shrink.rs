//! A failing script, made smaller while it fails in the same way.

use std::time::{Duration, Instant};

use crate::{
    Broken, Script,
    script::{Action, Timed, Weather},
    world,
};

/// Leaves out actions, in ever smaller pieces, then calms the weather. Returns the smallest script
/// found within the time, and how it fails.
#[must_use]
pub fn shrink(script: &Script, broken: &Broken, within: Duration) -> (Script, Broken) {
    let until = Instant::now() + within;
    let mut best = (script.clone(), broken.clone());
    let fails = |candidate: &Script| match world::run(candidate, false) {
        Err(found) if found.check == broken.check => Some(*found),
        Err(_) | Ok(_) => None,
    };
    let mut piece = best.0.actions.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        let mut smaller = false;
        while from < best.0.actions.len() {
            if Instant::now() > until {
                return best;
            }
            let mut candidate = best.0.clone();
            let to = (from + piece).min(candidate.actions.len());
            candidate.actions.drain(from..to);
            match fails(&candidate) {
                Some(found) => {
                    best = (candidate, found);
                    smaller = true;
                }
                None => from += piece,
            }
        }
        if piece == 1 && !smaller {
            break;
        }
        piece = (piece / 2).max(1);
    }
    for candidate in calmer(&best.0) {
        if Instant::now() > until {
            break;
        }
        if let Some(found) = fails(&candidate) {
            best = (candidate, found);
        }
    }
    best
}

/// The same script with one rate less each.
fn calmer(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let weathers = script
        .actions
        .iter()
        .enumerate()
        .filter_map(|(n, timed)| match timed.action {
            Action::Weather(weather) => Some((n, timed.at_ms, weather)),
            _ => None,
        });
    for (n, at_ms, weather) in weathers {
        let calm: [fn(&mut Weather); 10] = [
            |w| w.drop = 0,
            |w| w.twice = 0,
            |w| w.late = 0,
            |w| w.ack_lost = 0,
            |w| w.append_lost = 0,
            |w| w.append_refused = 0,
            |w| w.append_late = 0,
            |w| w.append_twice = 0,
            |w| w.unruly = 0,
            |w| w.copy_fails = 0,
        ];
        for less in calm {
            let mut weather = weather;
            less(&mut weather);
            let mut candidate = script.clone();
            candidate.actions[n] = Timed {
                at_ms,
                action: Action::Weather(weather),
            };
            all.push(candidate);
        }
    }
    all
}
