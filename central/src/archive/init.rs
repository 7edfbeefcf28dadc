//! `central init-ledger`: makes the first ledger of an installation.

use std::time::{Duration, Instant};

use anyhow::bail;
use async_nats::jetstream;
use central_core::whole::{LedgerId, Shown};
use uuid::Uuid;

use crate::{
    Config, ledger,
    whole::{self, Marks},
};

/// A stream that was just made on several servers has no leader yet.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);
const BEGIN_AGAIN: Duration = Duration::from_millis(500);

/// Makes the ledger, unless something says that there was one; what is given up is named by its id.
///
/// # Errors
/// When there may have been one, or the server does not take it.
pub(super) async fn run(
    config: &Config,
    nats: &async_nats::Client,
    gives_up: Option<LedgerId>,
) -> anyhow::Result<String> {
    let js = jetstream::new(nats.clone());
    let found = whole::look(config, &js).await?;
    let evidence = found.evidence;
    match evidence.shown {
        Shown::Absent | Shown::Empty => {}
        Shown::Ledger { id, last, .. } => {
            return Ok(format!(
                "ledger {id} is there and ends at {last}: nothing to do"
            ));
        }
        Shown::Holed { .. } | Shown::Nameless => bail!(
            "nats-server has a ledger that cannot be used, and nothing is made in its place; the \
             runbook has more under Ledger Alarm"
        ),
    }
    let missing = evidence.missing();
    match (evidence.marker, gives_up) {
        (None, None) if evidence.others.is_empty() => {}
        (marker, None) => {
            let id = marker.map_or("LEDGER".to_owned(), |marker| marker.ledger.to_string());
            bail!(
                "{missing}: nothing is made in its place. Mount its disk and start nats-server again, \
                 or restore a backup. Only if it is lost for good: --give-up {id} begins anew; prices, \
                 sessions and the numbers of receipts then begin from nothing, for every replica"
            );
        }
        (Some(marker), Some(id)) if marker.ledger != id => bail!(
            "{} says that this replica served ledger {}, and not {id}",
            Marks::of(config).path().display(),
            marker.ledger
        ),
        (_, Some(_)) => {}
    }
    let decision = gives_up.map(|_| Uuid::now_v7());
    let until = Instant::now() + BEGIN_WITHIN;
    loop {
        let replica = config.replica.clone();
        match ledger::begin(&js, config.stream_replicas, replica, decision).await {
            Ok(id) => return Ok(format!("ledger {id} is made; every central serves it")),
            Err(error) if Instant::now() > until => return Err(error),
            Err(error) => tracing::debug!(error = %format!("{error:#}"), "not taken yet"),
        }
        tokio::time::sleep(BEGIN_AGAIN).await;
    }
}
