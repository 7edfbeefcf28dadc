use anyhow::{Context, Result, ensure};

use crate::keys::Keys;
use crate::nats::{NatsServer, Routes};
use crate::ports::free_port;
use crate::programs::nats_server_program;
use crate::wait::{PATIENCE, wait_for};

/// As many as there are shipped configurations.
const SIZE: usize = 3;

/// Three servers that replicate JetStream between them, with
/// `nats/conf/cluster-{1,2,3}.conf`.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<NatsServer>,
}

impl Cluster {
    /// Returns when the servers have elected a leader and all of them serve.
    ///
    /// # Errors
    /// When `size` is not 3, no usable nats-server is found, or no leader is
    /// elected.
    pub async fn start(size: usize) -> Result<Self> {
        ensure!(
            size == SIZE,
            "configurations are shipped for {SIZE} servers, not for {size}"
        );
        Self::start_with_keys(&Keys::new()?).await
    }

    /// Three with these keys.
    ///
    /// # Errors
    /// When no usable nats-server is found, or no leader is elected.
    pub async fn start_with_keys(keys: &Keys) -> Result<Self> {
        let ports: Vec<u16> = (0..SIZE).map(|_| free_port()).collect();
        let urls: Vec<String> = ports
            .iter()
            .map(|port| format!("nats-route://127.0.0.1:{port}"))
            .collect();
        let all = urls.join(",");
        let nodes = ports
            .into_iter()
            .enumerate()
            .map(|(index, own_port)| {
                let routes = Routes {
                    own_port,
                    all: all.clone(),
                };
                let stem = format!("cluster-{}", index + 1);
                let program = nats_server_program()?;
                NatsServer::spawn(program, &keys.conf(&stem), Some(&routes), keys)
            })
            .collect::<Result<_>>()?;
        let mut cluster = Self { nodes };
        cluster.wait_until_all_serve().await?;
        Ok(cluster)
    }

    /// All servers, as a client wants them.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    /// Who is let in.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        self.nodes[0].keys()
    }

    #[must_use]
    pub fn nodes(&self) -> &[NatsServer] {
        &self.nodes
    }

    /// # Panics
    /// When there is no such server; they count from 0.
    #[must_use]
    pub fn node(&self, index: usize) -> &NatsServer {
        &self.nodes[index]
    }

    /// For `kill`, `pause`, `restart` and the like. Restarting a server alone
    /// waits for a leader, which needs two of them running.
    ///
    /// # Panics
    /// When there is no such server; they count from 0.
    #[must_use]
    pub fn node_mut(&mut self, index: usize) -> &mut NatsServer {
        &mut self.nodes[index]
    }

    /// SIGKILL to all, as in a power cut of the room.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(NatsServer::kill)
    }

    /// Runs all of them again with their data, and returns when all serve.
    ///
    /// # Errors
    /// When they do not come up.
    pub async fn restart_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.restart_without_waiting().await?;
        }
        self.wait_until_all_serve().await
    }

    /// Index of the running server that leads the cluster's JetStream, by its
    /// own word and that of all others that run. Waits out an election.
    ///
    /// # Errors
    /// When they do not agree on one in time.
    pub async fn meta_leader(&self) -> Result<usize> {
        wait_for("the servers agree on a leader", PATIENCE, async || {
            let mut agreed: Option<usize> = None;
            let mut answering = Vec::new();
            for (index, node) in self.nodes.iter().enumerate() {
                // One that is down has no say.
                let Ok(page) = node.monitor("/jsz").await else {
                    continue;
                };
                answering.push(index);
                let leader = page["meta_cluster"]["leader"]
                    .as_str()
                    .context("a server knows no leader")?;
                let leader = self.index_of(leader)?;
                ensure!(
                    agreed.is_none_or(|agreed| agreed == leader),
                    "two servers name different leaders"
                );
                agreed = Some(leader);
            }
            let leader = agreed.context("no server answers")?;
            // The others name a dead leader until they elect the next one.
            ensure!(answering.contains(&leader), "the leader is down");
            Ok(leader)
        })
        .await
    }

    /// The files call their servers `nats-1` to `nats-3`.
    fn index_of(&self, server_name: &str) -> Result<usize> {
        (0..self.nodes.len())
            .find(|index| server_name == format!("nats-{}", index + 1))
            .with_context(|| format!("no server is called {server_name}"))
    }

    async fn wait_until_all_serve(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.wait_until_it_serves().await?;
        }
        self.meta_leader().await?;
        Ok(())
    }
}
