//! The cars that come to a swarm, and the sessions that their drivers begin at the cabinets.

use std::{
    collections::{BTreeSet, VecDeque},
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use edge_core::{LocalAnswer, LocalStart};
use ev_contract::ids::ConnectorId;
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::spec::Cars;
use crate::{control::Reachable, sim::SimVerb, tally::SessionEnded};

/// Between two looks at how many sessions are due.
const TICK: Duration = Duration::from_millis(10);
/// A program that was held up makes up for so much.
const DEBT_MAX: Duration = Duration::from_millis(500);
/// Cars that are plugged in at once, before any session.
const PLUGS_AT_ONCE: usize = 256;

/// Where a session can be.
type Spot = (usize, ConnectorId);

/// What cars have come to.
#[derive(Debug, Default)]
pub struct CarCounts {
    /// Sessions that began at a cabinet as they should, and have not ended.
    pub open: AtomicU64,
    /// Starts at a cabinet that were refused.
    pub refused: AtomicU64,
    /// Starts that were due when no connector was free.
    pub no_connector: AtomicU64,
}

/// Lets cars come and go. After `closing` none begins a session any more, and those that run at the
/// cabinets are stopped; it returns when it has no sessions left. `ended` is where sessions have
/// ended.
pub async fn come_and_go(
    cars: Cars,
    all: Arc<Vec<Reachable>>,
    counts: Arc<CarCounts>,
    mut ended: mpsc::Receiver<SessionEnded>,
    mut closing: watch::Receiver<bool>,
) {
    let mut park = Park {
        cars,
        free: all
            .iter()
            .enumerate()
            .flat_map(|(n, one)| one.config.connectors.iter().map(move |c| (n, c.connector)))
            .collect(),
        all,
        counts,
        arrivals: JoinSet::new(),
        stays: JoinSet::new(),
        running: BTreeSet::new(),
        is_closing: false,
    };
    if cars.stay {
        park.fill().await;
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked_at = Instant::now();
    let mut due = 0.0;
    loop {
        if park.is_closing && park.running.is_empty() && park.arrivals.is_empty() {
            return;
        }
        tokio::select! {
            Some(end) = ended.recv() => park.leave((end.number, end.connector)).await,
            Some(Ok(arrival)) = park.arrivals.join_next() => park.arrived(arrival).await,
            Some(stay) = park.stays.join_next() => {
                // A stop that finds nothing: the end was told before the beginning.
                if let Ok(Some(over)) = stay {
                    park.leave(over).await;
                }
            }
            _ = ticks.tick(), if cars.starts_per_s > 0.0 && !park.is_closing => {
                let passed = asked_at.elapsed().min(DEBT_MAX);
                asked_at = Instant::now();
                due += passed.as_secs_f64() * cars.starts_per_s;
                while due >= 1.0 {
                    due -= 1.0;
                    park.begin();
                }
            }
            () = told(&mut closing, park.is_closing) => {
                park.is_closing = true;
                park.stays.abort_all();
                for spot in park.running.clone() {
                    park.stay(spot, Duration::ZERO);
                }
            }
        }
    }
}

async fn told(closing: &mut watch::Receiver<bool>, was_told: bool) {
    if was_told {
        pending::<()>().await;
    }
    crate::stopped(closing).await;
}

struct Park {
    cars: Cars,
    all: Arc<Vec<Reachable>>,
    counts: Arc<CarCounts>,
    free: VecDeque<Spot>,
    arrivals: JoinSet<Arrival>,
    stays: JoinSet<Option<Spot>>,
    running: BTreeSet<Spot>,
    is_closing: bool,
}

/// Somebody at a cabinet.
enum Arrival {
    /// Has begun a session.
    Began(Spot),
    /// Could not.
    Refused(Spot),
}

impl Park {
    /// Cars at all connectors.
    async fn fill(&mut self) {
        let mut plugs = JoinSet::new();
        for &(n, connector) in &self.free {
            let sim = self.all[n].sim.clone();
            plugs.spawn(async move { sim.act(plug(connector)).await });
            if plugs.len() >= PLUGS_AT_ONCE {
                plugs.join_next().await;
            }
        }
        while plugs.join_next().await.is_some() {}
    }

    fn begin(&mut self) {
        let Some(spot) = self.free.pop_front() else {
            self.counts.no_connector.fetch_add(1, Relaxed);
            return;
        };
        let one = &self.all[spot.0];
        let (sim, handle, comes) = (one.sim.clone(), one.handle.clone(), !self.cars.stay);
        self.arrivals.spawn(async move {
            if comes && sim.act(plug(spot.1)).await.is_err() {
                return Arrival::Refused(spot);
            }
            let start = LocalStart {
                connector: spot.1,
                token: None,
                free: false,
            };
            match handle.start(start).await {
                LocalAnswer::Started(_) => Arrival::Began(spot),
                LocalAnswer::Stopping(_) | LocalAnswer::Refused(_) => Arrival::Refused(spot),
            }
        });
    }

    async fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Refused(spot) => {
                self.counts.refused.fetch_add(1, Relaxed);
                // A car that stands there at all times may be somebody else's.
                if !self.cars.stay {
                    self.unplug(spot).await;
                }
                self.free.push_back(spot);
            }
            Arrival::Began(spot) => {
                self.running.insert(spot);
                self.counts.open.fetch_add(1, Relaxed);
                let lasts = if self.is_closing {
                    Duration::ZERO
                } else {
                    let factor = rand::rng().random_range(0.8..=1.2);
                    self.cars.session.mul_f64(factor)
                };
                self.stay(spot, lasts);
            }
        }
    }

    /// Stops a session after a while. Its end is told elsewhere, unless it has ended already.
    fn stay(&mut self, spot: Spot, lasts: Duration) {
        let handle = self.all[spot.0].handle.clone();
        self.stays.spawn(async move {
            sleep(lasts).await;
            match handle.stop(spot.1).await {
                LocalAnswer::Started(_) | LocalAnswer::Stopping(_) => None,
                LocalAnswer::Refused(_) => Some(spot),
            }
        });
    }

    /// A session has ended: the car leaves, and the next one comes where one stands at all times.
    async fn leave(&mut self, spot: Spot) {
        let was_ours = self.running.remove(&spot);
        if was_ours {
            self.counts.open.fetch_sub(1, Relaxed);
        }
        if was_ours || self.cars.stay {
            self.unplug(spot).await;
        }
        if self.cars.stay {
            // A charger that has gone takes no car.
            let _ = self.all[spot.0].sim.act(plug(spot.1)).await;
        }
        if was_ours {
            self.free.push_back(spot);
        }
    }

    async fn unplug(&self, (n, connector): Spot) {
        // A charger that has gone has no car either.
        let _ = self.all[n].sim.act(SimVerb::Unplug { connector }).await;
    }
}

const fn plug(connector: ConnectorId) -> SimVerb {
    SimVerb::Plug {
        connector,
        soc_pct: None,
    }
}
