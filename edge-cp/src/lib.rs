//! The agent in a charging cabinet. It serves one or more charge points, each with its own
//! connection, store, state and hardware.
//!
//! - [`config`]: the file, checked in full
//! - [`actor`]: the task that owns a charge point
//! - [`store`]: the SQLite file
//! - [`uplink`]: the NATS connection
//! - [`hardware`]: the port between agent and hardware driver
//! - [`sim`]: a simulated charger behind that port
//! - [`control`]: the socket for those who stand in front of the cabinet
//! - [`ctl`]: the command line's side of it
//! - [`clock`]: the host's clocks
//! - [`swarm`]: thousands of simulated charge points in one process, to load a hub
//! - [`tally`]: what many come to
//! - [`reload`]: what SIGHUP does
//! - `service`: what the service manager is told

pub mod actor;
pub mod clock;
pub mod config;
pub mod control;
pub mod ctl;
pub mod hardware;
mod logbook;
pub mod reload;
mod service;
pub mod sim;
pub mod store;
pub mod swarm;
pub mod tally;
pub mod uplink;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use edge_core::Rates;
use ev_client::Access;
use tokio::{signal::unix::Signal, sync::watch, task::JoinHandle};

use crate::{
    actor::Reach,
    config::{ChargePointConfig, Config},
    control::Reachable,
    reload::Reloader,
    sim::physics::PlantSpec,
    store::{Place, Store},
    tally::Seat,
};

/// How long everything may take to end.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Serves the configured charge points until `shutdown` says so. `reloads` is who looks at the
/// configuration again, and at which signal.
///
/// # Errors
/// When the state folder or the control socket cannot be used.
pub async fn run(
    config: Config,
    speed: u32,
    reloads: (Reloader, Signal),
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("make state_dir {}", config.state_dir.display()))?;
    if let Some(lacks) = config.lacks_room() {
        tracing::warn!("{lacks}");
    }
    let listener = match &config.control_socket {
        None => None,
        Some(path) => {
            let listener = control::bind(path)
                .await
                .with_context(|| format!("bind control_socket {}", path.display()))?;
            tracing::info!(socket = %path.display(), "control socket");
            Some((listener, path.clone()))
        }
    };
    let mut tasks = Vec::new();
    let mut reachable = Vec::new();
    for cp in config.charge_points {
        let cp = Arc::new(cp.times_as_strong(speed)?);
        let reach = Reach::Own {
            access: Access {
                url: config.nats_url.clone(),
                credentials: cp.credentials.clone(),
                tls: config.tls.clone(),
            },
            source: None,
        };
        tracing::info!(cp = %cp.id, nats = config.nats_url, "charge point runs");
        let one = Host {
            state_dir: Some(&config.state_dir),
            speed,
            rates: config.rates,
            shutdown: &shutdown,
        }
        .begin(cp, reach, None);
        reachable.push(one.0);
        tasks.extend(one.1);
    }
    let all = Arc::new(reachable);
    tasks.push(tokio::spawn(service::tell(
        Arc::clone(&all),
        reloads,
        shutdown.clone(),
    )));
    if let Some((listener, path)) = listener {
        tasks.push(tokio::spawn(control::serve(
            listener,
            path,
            all,
            shutdown.clone(),
        )));
    }
    let mut shutdown = shutdown;
    stopped(&mut shutdown).await;
    tracing::info!("stopping; running sessions go on in their chargers");
    let ended = tokio::time::timeout(SHUTDOWN, futures::future::join_all(tasks)).await;
    if ended.is_err() {
        tracing::warn!("not everything ended in time; what was unsent waits on the disk");
    }
    Ok(())
}

/// What all charge points of a process have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host<'h> {
    /// Where stores and simulated chargers are kept; in memory, if nowhere.
    pub(crate) state_dir: Option<&'h Path>,
    /// How many times as strong as real the chargers are; see
    /// [`ChargePointConfig::times_as_strong`].
    pub(crate) speed: u32,
    /// How often what is said.
    pub(crate) rates: Rates,
    /// When all is to end.
    pub(crate) shutdown: &'h watch::Receiver<bool>,
}

impl Host<'_> {
    /// Begins a charge point: its agent and its charger.
    pub(crate) fn begin(
        self,
        cp: Arc<ChargePointConfig>,
        reach: Reach,
        seat: Option<Seat>,
    ) -> (Reachable, [JoinHandle<()>; 2]) {
        let (agent_end, driver_end) = hardware::port();
        let mut connectors = cp.connectors.clone();
        if let Some(dir) = self.state_dir {
            for kept in config::left_behind(&cp, dir) {
                tracing::warn!(cp = %cp.id, connector = %kept.spec.connector, session_id = %kept.id, "the configuration no longer has this connector; it stays until its session has ended");
                connectors.push(kept.spec);
            }
            connectors.sort_by_key(|spec| spec.connector);
        }
        let spec = PlantSpec {
            cp: cp.id.clone(),
            connectors,
            settings: cp.simulator.clone(),
            speed: self.speed,
        };
        let file = self.state_dir.map(|dir| sim::state_file(dir, &cp.id));
        let (sim, sim_task) = sim::spawn(spec, file, driver_end, self.shutdown.clone());
        let setup = actor::Setup {
            config: Arc::clone(&cp),
            reach,
            store: self.place(&cp),
            rates: self.rates,
            hardware: agent_end,
            seat,
        };
        let (handle, task) = actor::spawn(setup, self.shutdown.clone());
        let reachable = Reachable {
            config: cp,
            handle,
            sim,
        };
        (reachable, [task, sim_task])
    }

    /// Where the store of a charge point is.
    pub(crate) fn place(self, cp: &ChargePointConfig) -> Place {
        self.state_dir
            .map_or(Place::Memory, |dir| Place::File(Store::path(dir, &cp.id)))
    }
}

/// Waits for the end. A sender that is gone means that nobody could say so any more: an end as
/// well.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}
