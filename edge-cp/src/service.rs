//! What the service manager is told. The watchdog goes by whether every charge point still answers
//! from its loop, and never by the uplink: a cabinet without one goes on charging.

use std::{sync::Arc, time::Duration};

use ev_service::Manager;
use futures::future::join_all;
use tokio::{
    signal::unix::Signal,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    actor::{Handle, Pulse},
    control::Reachable,
    reload::Reloader,
};

/// How often; the unit's watchdog waits many times that.
const EVERY: Duration = Duration::from_secs(1);
/// A charge point that has not answered within this makes no progress.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Tells until the end, and looks at the configuration again when it is told to.
pub async fn tell(
    all: Arc<Vec<Reachable>>,
    (reloader, mut hang_ups): (Reloader, Signal),
    mut shutdown: watch::Receiver<bool>,
) {
    let mut manager = Manager::from_env();
    let mut about_config = None;
    loop {
        let asked = join_all(all.iter().map(|one| ask(&one.handle)));
        tokio::select! {
            pulses = asked => {
                let mut told = Told::of(&pulses);
                if let Some(about_config) = &about_config {
                    told.status = format!("{}; {about_config}", told.status);
                }
                manager.tell(told.ready, told.alive, &told.status);
            }
            () = crate::stopped(&mut shutdown) => break,
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            _ = hang_ups.recv() => about_config = manager.reloads(|| reloader.reload()),
            () = crate::stopped(&mut shutdown) => break,
        }
    }
    manager.stopping();
}

async fn ask(handle: &Handle) -> Option<Pulse> {
    timeout(ANSWER_MAX, handle.pulse()).await.ok().flatten()
}

#[derive(Debug, PartialEq, Eq)]
struct Told {
    ready: bool,
    alive: bool,
    status: String,
}

impl Told {
    fn of(pulses: &[Option<Pulse>]) -> Self {
        let there = || pulses.iter().flatten();
        let count = pulses.len();
        let up = there().filter(|p| p.uplink).count();
        let sessions: usize = there().map(|p| p.sessions).sum();
        let spool: u64 = there().map(|p| p.spool_depth).sum();
        let stuck = count - there().count();
        let shut = there().filter(|p| !p.store).count();
        let mut status =
            format!("uplink {up} of {count}, {sessions} sessions, {spool} records wait");
        if shut > 0 {
            status = format!("{shut} of {count} stores cannot be opened; {status}");
        }
        if stuck > 0 {
            status = format!("{stuck} of {count} charge points stand still; {status}");
        }
        Self {
            ready: stuck == 0 && shut == 0,
            alive: stuck == 0,
            status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uplink_is_told_and_never_a_reason_to_be_killed() {
        let pulse = |uplink, store| {
            Some(Pulse {
                store,
                uplink,
                sessions: 1,
                spool_depth: 3,
            })
        };
        let offline = Told::of(&[pulse(false, true), pulse(false, true)]);
        assert!(offline.ready && offline.alive);
        assert_eq!(offline.status, "uplink 0 of 2, 2 sessions, 6 records wait");
        let shut = Told::of(&[pulse(true, false), pulse(true, true)]);
        assert!(
            !shut.ready && shut.alive,
            "a bad disk is no reason to be killed again and again"
        );
        assert!(shut.status.starts_with("1 of 2 stores"), "{}", shut.status);
        let stuck = Told::of(&[None, pulse(true, true)]);
        assert!(!stuck.ready && !stuck.alive);
        assert!(
            stuck.status.starts_with("1 of 2 charge points"),
            "{}",
            stuck.status
        );
    }
}
