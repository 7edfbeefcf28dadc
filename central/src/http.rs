//! `/healthz`, `/readyz`, `/metrics`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};

use crate::{health::Health, metrics::Metrics};

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: watch::Receiver<Health>,
}

/// Without a sign of life from the engine for so long, the process is not healthy. The engine
/// turns at least every tenth of a second; ten seconds are no hiccup.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// Serves until `stop` is set.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: watch::Receiver<Health>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .with_state(Shared { metrics, health });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            // A closed channel means that everything has ended.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await
        .context("serving HTTP")
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    let silent = shared.health.borrow().turned_at.elapsed();
    if silent < ALIVE_WITHIN {
        (StatusCode::OK, "ok\n".into())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the engine has not turned for {} s\n", silent.as_secs()),
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
