//! `/healthz`, `/readyz`, `/metrics`, `/metrics/nats`.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use ev_service::http::{Full, Limits};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    HereBridge,
    health::Health,
    metrics::{self, Metrics},
};

/// Connections to one replica. Who watches asks every few seconds and is answered at once: a few
/// would do. Each is a file, of which the unit allows many times as many.
pub const CONNECTIONS_MAX: usize = 128;

const LIMITS: Limits = Limits {
    connections: CONNECTIONS_MAX,
    // Who asks must not wait behind those who do not: it may be the one that restarts central.
    full: Full::Pushes,
    keep_alive: false,
    // A request has some hundred bytes.
    headers_within: Duration::from_secs(5),
    // Metrics of 100,000 charge points are megabytes, on a slow line.
    read_within: Duration::from_secs(30),
    grace: Duration::from_secs(1),
};

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    bridge: HereBridge,
    health: watch::Receiver<Health>,
}

/// Serves until `stop` is set.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    bridge: HereBridge,
    health: watch::Receiver<Health>,
    mut stop: watch::Receiver<bool>,
) {
    let counted = Arc::clone(&metrics);
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .route("/metrics/nats", get(of_nats))
        .with_state(Shared {
            metrics,
            bridge,
            health,
        });
    let stop = async move {
        // A closed channel means that everything has ended.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    ev_service::http::serve(LIMITS, listener, app, || counted.http_closed(), stop).await;
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    let health = shared.health.borrow().clone();
    if health.is_alive() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the engine has not turned for {} s\n",
                health.turned_at.elapsed().as_secs()
            ),
        )
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let health = shared.health.borrow().clone();
    match health.not_ready() {
        None => (StatusCode::OK, "ready\n".into()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn exposition(State(shared): State<Shared>) -> Result<String, (StatusCode, String)> {
    shared
        .metrics
        .expose()
        .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

async fn of_nats(State(shared): State<Shared>) -> Result<String, (StatusCode, String)> {
    let failed = |status, e: &dyn std::fmt::Display| (status, format!("{e}\n"));
    let here = shared
        .bridge
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let speaker = here.filter(|bridge| bridge.speaks());
    let mut families = metrics::nats::speaks(speaker.is_some())
        .map_err(|e| failed(StatusCode::INTERNAL_SERVER_ERROR, &e))?;
    if let Some(bridge) = &speaker {
        let said = bridge
            .ask()
            .await
            .map_err(|e| failed(StatusCode::SERVICE_UNAVAILABLE, &e))?;
        let more = said
            .families()
            .map_err(|e| failed(StatusCode::INTERNAL_SERVER_ERROR, &e))?;
        families.extend(more);
    }
    metrics::text(&families).map_err(|e| failed(StatusCode::INTERNAL_SERVER_ERROR, &e))
}
