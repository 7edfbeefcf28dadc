//! The control socket: a technician, or a test, acts on the spot. One JSON line asks, one answers.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edge_core::{LocalAnswer, LocalStart};
use ev_contract::{
    codes::{Code, Problem},
    ids::ConnectorId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

use crate::{
    actor::Handle,
    config::ChargePointConfig,
    sim::{SimHandle, SimVerb},
};

/// Longest request. The longest verb has some hundred bytes.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// How long a request may take to arrive, and its answer to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a request on the socket says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which charge point; may be left out where there is one.
    #[serde(default)]
    pub cp: Option<String>,
    /// What to do.
    pub verb: Verb,
}

/// What can be done on the spot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// How is it?
    Status,
    /// Start a session.
    Start {
        /// Where; may be left out where there is one.
        connector: Option<u16>,
        /// What is shown to the reader.
        token: Option<String>,
        /// Nobody pays.
        free: bool,
    },
    /// Stop the session on a connector, whoever began it.
    Stop {
        /// Where; may be left out where there is one.
        connector: Option<u16>,
    },
    /// Something that is done to the simulated charger or its cars. A connector of 0 stands for
    /// the only one.
    Sim(SimVerb),
}

/// A charge point as the socket reaches it.
#[derive(Debug, Clone)]
pub struct Reachable {
    /// What it is.
    pub config: Arc<ChargePointConfig>,
    /// The agent's task.
    pub handle: Handle,
    /// Its simulated charger.
    pub sim: SimHandle,
}

/// Binds the socket.
///
/// # Errors
/// When another agent listens there, or the path cannot be used.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another agent listens there",
        ));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    // Whoever may write here may start and stop.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `shutdown`, then removes the socket.
pub async fn serve(
    listener: UnixListener,
    path: PathBuf,
    charge_points: Arc<Vec<Reachable>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut clients = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = crate::stopped(&mut shutdown) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let all = Arc::clone(&charge_points);
                    clients.spawn(async move {
                        match timeout(PATIENCE, converse(stream, &all)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(e)) => tracing::debug!(error = %e, "control socket"),
                            Err(_) => tracing::debug!("a request on the control socket took too long"),
                        }
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "the control socket takes nobody");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
    clients.shutdown().await;
    // One that has gone already is as good.
    let _ = std::fs::remove_file(path);
}

async fn converse(stream: UnixStream, all: &[Reachable]) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => match carry_out(request, all).await {
            Ok(data) => json!({"ok": true, "data": data}),
            Err(problem) => json!({"ok": false, "error": problem}),
        },
        Err(e) => {
            json!({"ok": false, "error": Code::InvalidRequest.about(&e.to_string())})
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    ev_crash::reach("cabinet", "one");
    write.write_all(&bytes).await
}

async fn carry_out(request: Request, all: &[Reachable]) -> Result<Value, Problem> {
    if request.verb == Verb::Status {
        let mut statuses = Vec::new();
        for cp in all {
            if request
                .cp
                .as_ref()
                .is_none_or(|id| id == cp.config.id.as_str())
            {
                statuses.push(status(cp).await);
            }
        }
        if let (Some(id), true) = (&request.cp, statuses.is_empty()) {
            return Err(Code::UnknownChargePoint.about(id));
        }
        return Ok(json!({ "charge_points": statuses }));
    }
    let cp = choose(request.cp.as_deref(), all)?;
    match request.verb {
        Verb::Status => Ok(Value::Null),
        Verb::Start {
            connector,
            token,
            free,
        } => {
            let connector = connector_of(cp, connector)?;
            let start = LocalStart {
                connector,
                token,
                free,
            };
            local(cp, connector, cp.handle.start(start).await)
        }
        Verb::Stop { connector } => {
            let connector = connector_of(cp, connector)?;
            local(cp, connector, cp.handle.stop(connector).await)
        }
        Verb::Sim(mut verb) => {
            let mut place = cp.config.id.to_string();
            if let Some(connector) = connector_in(&mut verb) {
                *connector = connector_of(cp, Some(connector.0).filter(|n| *n != 0))?;
                place = format!("{place}/{connector}");
            }
            let done = cp.sim.act(verb).await;
            done.map(|()| json!({"cp_id": cp.config.id}))
                .map_err(|code| code.about(&place))
        }
    }
}

fn choose<'a>(id: Option<&str>, all: &'a [Reachable]) -> Result<&'a Reachable, Problem> {
    match (id, all) {
        (None, [only]) => Ok(only),
        (None, _) => {
            let ids: Vec<_> = all.iter().map(|cp| cp.config.id.as_str()).collect();
            let mut problem = Code::UnknownChargePoint.about("(none named)");
            problem.hint = format!("name one of {}", ids.join(", "));
            Err(problem)
        }
        (Some(id), _) => all
            .iter()
            .find(|cp| cp.config.id.as_str() == id)
            .ok_or_else(|| Code::UnknownChargePoint.about(id)),
    }
}

fn connector_of(cp: &Reachable, connector: Option<u16>) -> Result<ConnectorId, Problem> {
    match (connector, cp.config.connectors.as_slice()) {
        (Some(n), all) => all
            .iter()
            .map(|c| c.connector)
            .find(|c| c.0 == n)
            .ok_or_else(|| Code::UnknownConnector.about(&format!("{}/{n}", cp.config.id))),
        (None, [only]) => Ok(only.connector),
        (None, _) => Err(Code::ConnectorRequired.about(cp.config.id.as_str())),
    }
}

fn connector_in(verb: &mut SimVerb) -> Option<&mut ConnectorId> {
    match verb {
        SimVerb::Plug { connector, .. }
        | SimVerb::Unplug { connector }
        | SimVerb::Pause { connector }
        | SimVerb::Resume { connector }
        | SimVerb::Soc { connector, .. }
        | SimVerb::Fault { connector, .. }
        | SimVerb::Clear { connector }
        | SimVerb::MeterSet { connector, .. }
        | SimVerb::MeterAdd { connector, .. } => Some(connector),
        SimVerb::Reset
        | SimVerb::PowerCut { .. }
        | SimVerb::Link { .. }
        | SimVerb::Unruly { .. } => None,
    }
}

fn local(cp: &Reachable, connector: ConnectorId, answer: LocalAnswer) -> Result<Value, Problem> {
    match answer {
        LocalAnswer::Started(id) => {
            Ok(json!({"session_id": id, "cp_id": cp.config.id, "connector": connector}))
        }
        LocalAnswer::Stopping(id) => Ok(
            json!({"session_id": id, "cp_id": cp.config.id, "connector": connector, "stopping": true}),
        ),
        LocalAnswer::Refused(Code::SessionNotFound) => {
            let mut problem = Code::SessionNotFound.about("");
            problem.message = format!("there is no session on {}/{connector}", cp.config.id);
            problem.hint = "`ctl status` shows the sessions".into();
            Err(problem)
        }
        LocalAnswer::Refused(code) => Err(code.about(&format!("{}/{connector}", cp.config.id))),
    }
}

/// The agent's view; the meter's own figures where they can be had, since the agent only has the
/// latest reading.
async fn status(cp: &Reachable) -> Value {
    let Some(mut status) = cp.handle.status().await else {
        return json!({"id": cp.config.id, "health": [Code::NotReady.as_str()], "connectors": []});
    };
    let truth = cp.sim.truth().await.unwrap_or(Value::Null);
    if let Some(connectors) = status["connectors"].as_array_mut() {
        for connector in connectors {
            let outlet = truth[connector["id"].to_string()].clone();
            if let Some(outlet) = outlet.as_object() {
                for key in ["register_mwh", "power_mw", "meter_epoch", "soc_pct"] {
                    connector[key] = outlet.get(key).cloned().unwrap_or(Value::Null);
                }
            }
            connector["charger"] = outlet;
        }
    }
    status
}
