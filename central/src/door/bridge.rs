//! nats-server's own numbers for Prometheus, asked for over the system account: a server's HTTP
//! monitoring is on its loopback only, while this reaches every server of a cluster over the one
//! connection that is there already, under two more subjects.
//!
//! Every replica could show every server, and sums over them would count twice. So one replica does:
//! the one whose doorkeeper has been connected the longest.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Client;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout_at,
};

use crate::metrics::nats::{Jsz, Said, ServerSeen};

/// All answers. Servers answer within milliseconds; Prometheus waits for ten seconds.
const WAIT: Duration = Duration::from_secs(3);
/// Once the servers that are known have answered, one that is not yet known has so long.
const WAIT_FOR_NEW: Duration = Duration::from_millis(100);
/// Servers that are shown. A cluster of ours has three.
const SERVERS_MAX: usize = 64;
/// Scrapes at once: two Prometheus servers and somebody who looks.
const SCRAPES_MAX: usize = 4;
/// For so long a server that no longer answers is shown as down. One that was taken away for good is
/// forgotten then.
const DOWN_SHOWN: Duration = Duration::from_secs(3_600);

/// Asks the servers.
#[derive(Debug)]
pub struct Bridge {
    client: Client,
    speaks: watch::Receiver<bool>,
    /// By name, since the id is another one after each start.
    known: Mutex<BTreeMap<String, Known>>,
    scrapes: Semaphore,
}

#[derive(Debug, Clone)]
struct Known {
    id: String,
    answered_at: Instant,
}

/// An answer of a server in the system account.
#[derive(Debug, Deserialize)]
struct Answer<T> {
    server: Server,
    /// None where it says why not.
    data: T,
}

#[derive(Debug, Deserialize)]
struct Server {
    id: String,
    name: String,
}

impl Bridge {
    /// One that speaks while `speaks` says so.
    #[must_use]
    pub fn new(client: Client, speaks: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self {
            client,
            speaks,
            known: Mutex::default(),
            scrapes: Semaphore::new(SCRAPES_MAX),
        })
    }

    /// Whether it is this replica that shows the servers.
    #[must_use]
    pub fn speaks(&self) -> bool {
        *self.speaks.borrow()
    }

    /// What the servers say now. Asked anew each time: what only grows must not be seen to fall.
    ///
    /// # Errors
    /// When too many ask at once, or nobody can be asked. Servers that do not answer are no error.
    pub async fn ask(&self) -> anyhow::Result<Said> {
        let Ok(_one) = self.scrapes.try_acquire() else {
            anyhow::bail!("{SCRAPES_MAX} scrapes are under way");
        };
        let until = tokio::time::Instant::now() + WAIT;
        let inbox = self.client.new_inbox();
        let subscribed = timeout_at(until, self.client.subscribe(format!("{inbox}.*"))).await;
        let mut answers = subscribed??;
        let jsz = json!({"accounts": true, "streams": true, "consumer": true, "config": true, "raft": true});
        for (what, options) in [("VARZ", json!({})), ("JSZ", jsz)] {
            let asked = self.client.publish_with_reply(
                format!("$SYS.REQ.SERVER.PING.{what}"),
                format!("{inbox}.{what}"),
                options.to_string().into(),
            );
            timeout_at(until, asked).await??;
        }
        let mut said = Said::default();
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let expected: Vec<String> = self.expected();
        let mut until = until;
        while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
            if answer.subject.ends_with(".VARZ") {
                if let Ok(Answer { server, data }) =
                    serde_json::from_slice::<Answer<Map<String, Value>>>(&answer.payload)
                    && said.varz.len() < SERVERS_MAX
                {
                    names.insert(server.name, server.id.clone());
                    said.varz.insert(server.id, data);
                }
            } else if let Ok(Answer { server, data }) =
                serde_json::from_slice::<Answer<Jsz>>(&answer.payload)
                && said.jsz.len() < SERVERS_MAX
            {
                said.jsz.insert(server.id, data);
            }
            let all = said.jsz.len() >= said.varz.len()
                && expected.iter().all(|name| names.contains_key(name));
            if all && !names.is_empty() {
                until = until.min(tokio::time::Instant::now() + WAIT_FOR_NEW);
            }
        }
        said.servers = self.seen(names);
        Ok(said)
    }

    /// Servers that were there a moment ago.
    fn expected(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.keys().cloned().collect()
    }

    /// Notes who has answered; who is there, and who no longer is.
    fn seen(&self, answered: BTreeMap<String, String>) -> Vec<ServerSeen> {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, server| now - server.answered_at < DOWN_SHOWN);
        for (name, id) in answered {
            if known.len() < SERVERS_MAX || known.contains_key(&name) {
                let answered_at = now;
                known.insert(name, Known { id, answered_at });
            }
        }
        known
            .iter()
            .map(|(name, server)| ServerSeen {
                id: server.id.clone(),
                name: name.clone(),
                is_up: server.answered_at == now,
            })
            .collect()
    }
}
