//! `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};

use crate::{health::Health, metrics::Metrics};

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: watch::Receiver<Health>,
}

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
