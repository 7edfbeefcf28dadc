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
//! - `service`: what the service manager is told

pub mod actor;
pub mod clock;
pub mod config;
pub mod control;
pub mod ctl;
pub mod hardware;
mod logbook;
mod service;
pub mod sim;
pub mod store;
pub mod uplink;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use ev_client::Access;
use tokio::sync::watch;

use crate::{config::Config, control::Reachable, sim::physics::PlantSpec, store::Store};

/// How long everything may take to end.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// Serves the configured charge points until `shutdown` says so.
///
/// # Errors
/// When the state folder or the control socket cannot be used.
pub async fn run(
    config: Config,
    speed: u32,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("make state_dir {}", config.state_dir.display()))?;
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
        let cp = Arc::new(cp);
        let (agent_end, driver_end) = hardware::port();
        let spec = PlantSpec {
            cp: cp.id.clone(),
            connectors: cp.connectors.clone(),
            settings: cp.simulator.clone(),
            speed,
        };
        let (sim, sim_task) = sim::spawn(spec, &config.state_dir, driver_end, shutdown.clone());
        let setup = actor::Setup {
            config: Arc::clone(&cp),
            access: Access {
                url: config.nats_url.clone(),
                credentials: cp.credentials.clone(),
                tls: config.tls.clone(),
            },
            store_path: Store::path(&config.state_dir, &cp.id),
            speed,
            hardware: agent_end,
        };
        let (handle, task) = actor::spawn(setup, shutdown.clone());
        tracing::info!(cp = %cp.id, site = %cp.site, nats = config.nats_url, "charge point runs");
        tasks.push(task);
        tasks.push(sim_task);
        reachable.push(Reachable {
            config: cp,
            handle,
            sim,
        });
    }
    let all = Arc::new(reachable);
    tasks.push(tokio::spawn(service::tell(
        Arc::clone(&all),
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

/// Waits for the end. A sender that is gone means that nobody could say so any more: an end as
/// well.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}
