//! The agent as a process against a real nats-server. Central is a subscriber that takes records
//! in order; everything else is real.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use edge_cp::{
    control::{Request, Verb},
    ctl,
    sim::SimVerb,
};
use ev_contract::{
    codes::Code,
    connector::{FaultEffect, Phase},
    ids::{BootId, CommandId, ConnectorId, CpId, DriverId, SessionId},
    subjects::Subject,
    time::UnixMs,
    units::Mwh,
    v1::{
        CommandReply, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, EvtReply, EvtRequest,
        Heartbeat, Limits, Live, Outcome, StartCommand, StopCommand, SyncReply, SyncRequest,
    },
    wire::{CONTENT_TYPE, CONTENT_TYPE_JSON, Encoding, Tag, decode, encode},
};
use ev_testkit::{Keys, NatsServer, PATIENCE, Process, Role, TcpProxy, wait_for, wait_until};
use futures::{StreamExt, future::try_join_all, stream::select_all};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

const ONE: ConnectorId = ConnectorId(1);
const TWO: ConnectorId = ConnectorId(2);

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMs(i64::try_from(since.as_millis()).unwrap())
}

fn cp() -> CpId {
    CpId::new("CP-001").unwrap()
}

/// What central has heard.
#[derive(Default)]
struct Heard {
    epoch: Option<String>,
    records: Vec<EdgeRecord>,
    syncs: Vec<SyncRequest>,
    heartbeats: Vec<Heartbeat>,
}

struct Central {
    client: async_nats::Client,
    heard: Arc<Mutex<Heard>>,
}

impl Central {
    async fn start(server: &NatsServer) -> Result<Self> {
        let client = server.connect().await?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let kinds = ["sync", "evt", "hb"];
        let kinds = kinds.map(|kind| client.subscribe(format!("ev.v1.cp.*.{kind}")));
        let mut all = select_all(try_join_all(kinds).await?);
        client.flush().await?;
        let (answers, state) = (client.clone(), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Some(message) = all.next().await {
                let reply = state.lock().unwrap().hear(&message);
                if let (Some(to), Some(reply)) = (message.reply, reply) {
                    let _ = answers.publish(to, reply.into()).await;
                }
            }
        });
        Ok(Self { client, heard })
    }

    fn facts(&self) -> Vec<EdgeFact> {
        let heard = self.heard.lock().unwrap();
        heard.records.iter().map(|r| r.fact.clone()).collect()
    }

    async fn until(&self, what: &str, found: impl Fn(&EdgeFact) -> bool) -> EdgeFact {
        wait_for(what, PATIENCE, async || {
            let facts = self.facts();
            facts
                .iter()
                .find(|f| found(f))
                .cloned()
                .ok_or_else(|| anyhow::anyhow!("among {facts:?}"))
        })
        .await
        .unwrap()
    }

    async fn command<T: serde::Serialize>(&self, verb: &str, command: &T) -> CommandReply {
        let subject = Subject::Command {
            cp: cp(),
            verb: verb.into(),
        };
        let payload = encode(command, Encoding::MsgPack).unwrap();
        // As central does: until there is a final word.
        wait_for("a command is answered", PATIENCE, async || {
            let answer = self
                .client
                .request(subject.to_string(), payload.clone().into())
                .await?;
            let reply: CommandReply = decode(&answer.payload, Encoding::MsgPack)?;
            anyhow::ensure!(
                reply.outcome != Outcome::NotYet,
                "not yet: {:?}",
                reply.code
            );
            Ok(reply)
        })
        .await
        .unwrap()
    }

    fn start_command(&self, connector: ConnectorId) -> StartCommand {
        let id = SessionId::from_uuid(uuid::Uuid::now_v7());
        let epoch = self.heard.lock().unwrap().epoch.clone().unwrap();
        StartCommand {
            tag: Tag::new(),
            to: cp(),
            boot: self.boot(),
            command_id: CommandId::start(id),
            session_id: id,
            connector,
            driver_id: Some(DriverId::new("alice").unwrap()),
            epoch: epoch.parse().unwrap(),
            expires_at: now().plus_ms(25_000),
            limits: Limits::default(),
            idle_s_max: 0,
            plug_wait_s: 60,
            ts: now(),
        }
    }

    /// The start of the agent that presented itself last.
    fn boot(&self) -> BootId {
        self.heard.lock().unwrap().syncs.last().unwrap().boot.id
    }

    async fn stop(&self, id: SessionId) -> CommandReply {
        let stop = StopCommand {
            tag: Tag::new(),
            to: cp(),
            boot: self.boot(),
            command_id: CommandId::stop(id),
            session_id: id,
            reason: EndReason::new(EndCode::Driver, EndSource::Driver),
            ts: now(),
        };
        self.command("stop", &stop).await
    }

    /// The energy of an ended session, and that it ended once.
    fn ended(&self, id: SessionId) -> (Mwh, EndReason) {
        let facts = self.facts();
        let start = facts.iter().find_map(|f| match f {
            EdgeFact::Started {
                session_id,
                reading,
                ..
            } if *session_id == id => Some(reading.register_mwh),
            _ => None,
        });
        let ends: Vec<_> = facts
            .iter()
            .filter_map(|f| match f {
                EdgeFact::Ended {
                    session_id,
                    reading,
                    reason,
                    ..
                } if *session_id == id => Some((reading.clone(), reason.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(ends.len(), 1, "{id} ends once: {facts:?}");
        let (reading, reason) = ends[0].clone();
        let end = reading.unwrap().register_mwh;
        (end.saturating_sub(start.unwrap()), reason)
    }
}

impl Heard {
    fn hear(&mut self, message: &async_nats::Message) -> Option<Vec<u8>> {
        let payload = &message.payload;
        match Subject::parse(&message.subject) {
            Some(Subject::Sync { .. }) => {
                let sync: SyncRequest = decode(payload, Encoding::MsgPack).unwrap();
                self.epoch = Some(sync.epoch.to_string());
                let reply = SyncReply {
                    tag: Tag::new(),
                    to: sync.cp_id.to_string(),
                    epoch: sync.epoch.to_string(),
                    next: self.records.len() as u64 + 1,
                    error: None,
                    ts: now(),
                };
                self.syncs.push(sync);
                Some(encode(&reply, Encoding::MsgPack).unwrap())
            }
            Some(Subject::Event { cp }) => {
                let evt: EvtRequest = decode(payload, Encoding::MsgPack).unwrap();
                for value in evt.records {
                    let record = EdgeRecord::from_value(value).unwrap();
                    let wanted = self.records.len() as u64 + 1;
                    assert!(record.seq <= wanted, "a gap before {}", record.seq);
                    if record.seq == wanted {
                        self.records.push(record);
                    } else {
                        assert_eq!(
                            self.records[usize::try_from(record.seq).unwrap() - 1],
                            record
                        );
                    }
                }
                let reply = EvtReply {
                    tag: Tag::new(),
                    to: cp.to_string(),
                    epoch: evt.epoch.to_string(),
                    next: self.records.len() as u64 + 1,
                    aside: None,
                    error: None,
                    ts: now(),
                };
                Some(encode(&reply, Encoding::MsgPack).unwrap())
            }
            Some(Subject::Heartbeat { .. }) => {
                let heartbeat = decode(payload, Encoding::MsgPack).unwrap();
                self.heartbeats.push(heartbeat);
                None
            }
            _ => None,
        }
    }
}

/// An agent with one charge point of two connectors.
struct Agent {
    process: Process,
    dir: TempDir,
}

impl Agent {
    fn start(server: &NatsServer, nats_url: &str, simulator: &str) -> Result<Self> {
        Self::start_with(server, nats_url, ("", &server.keys().ca()), simulator)
    }

    /// With more at the top of its configuration, and another authority.
    fn start_with(
        server: &NatsServer,
        nats_url: &str,
        (top, ca): (&str, &Path),
        simulator: &str,
    ) -> Result<Self> {
        let dir = TempDir::with_prefix("ev-edge-")?;
        let keys = server.keys();
        keys.creds(Role::ChargePoint, "CP-001")?;
        let config = format!(
            r#"
nats_url = "{nats_url}"
credentials = "{creds}/charge-point"
ca = "{ca}"
state_dir = "{state}"
control_socket = "{socket}"
{top}
[[charge_point]]
id = "CP-001"
[[charge_point.connector]]
id = 1
max_current_ma = 16000
phases = 3
[[charge_point.connector]]
id = 2
max_current_ma = 32000
phases = 3
[charge_point.simulator]
{simulator}
"#,
            creds = keys.creds_dir().display(),
            ca = ca.display(),
            state = dir.path().join("state").display(),
            socket = dir.path().join("s").display(),
        );
        let file = dir.path().join("edge.toml");
        std::fs::write(&file, config)?;
        let process = Process::program("edge-cp", env!("CARGO_BIN_EXE_edge-cp"))
            .arg("run")
            .arg("--config")
            .arg(&file)
            .args(["--sim-speed", "20"])
            .spawn()?;
        Ok(Self { process, dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    async fn ctl(&self, verb: Verb) -> Result<Value, ctl::CtlError> {
        ctl::ask(&self.socket(), &Request { cp: None, verb }).await
    }

    async fn sim(&self, verb: SimVerb) {
        wait_for("the simulator acts", PATIENCE, async || {
            Ok(self.ctl(Verb::Sim(verb.clone())).await?)
        })
        .await
        .unwrap();
    }

    async fn plug(&self, connector: ConnectorId) {
        self.sim(SimVerb::Plug {
            connector,
            soc_pct: None,
        })
        .await;
    }

    async fn status(&self) -> Result<Value> {
        let status = self.ctl(Verb::Status).await?;
        Ok(status["charge_points"][0].clone())
    }

    async fn until(&self, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, async || {
            let status = self.status().await?;
            anyhow::ensure!(found(&status), "it is {status}");
            Ok(status)
        })
        .await
        .unwrap()
    }

    async fn ready(&self) {
        self.until("the agent is in step with central", |s| {
            s["clock_synced"] == true && s["charger_online"] == true && s["spool_depth"] == 0
        })
        .await;
    }

    async fn register(&self, connector: ConnectorId) -> Mwh {
        let status = self.status().await.unwrap();
        let register = &status["connectors"][usize::from(connector.0) - 1]["register_mwh"];
        Mwh(register.as_u64().unwrap())
    }
}

fn is_end(id: SessionId) -> impl Fn(&EdgeFact) -> bool {
    move |f| matches!(f, EdgeFact::Ended { session_id, .. } if *session_id == id)
}

fn is_charging(id: SessionId) -> impl Fn(&EdgeFact) -> bool {
    move |f| matches!(f, EdgeFact::Phase { session_id, phase: Phase::Charging, .. } if *session_id == id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_from_start_to_end_and_its_energy_is_the_meters() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    let before = agent.register(ONE).await;

    let start = central.start_command(ONE);
    let alice = server.connect_as(Role::Driver, "alice").await?;
    let mut live = alice
        .subscribe(Subject::live_of(
            start.driver_id.as_ref().unwrap(),
            start.session_id,
        ))
        .await?;
    let reply = central.command("start", &start).await;
    assert_eq!(reply.outcome, Outcome::Taken);
    assert_eq!(
        central.command("start", &start).await.outcome,
        Outcome::Taken,
        "a repeat gets the first result"
    );
    agent.plug(ONE).await;
    let id = start.session_id;
    central.until("energy flows", is_charging(id)).await;
    let values = tokio::time::timeout(PATIENCE, live.next()).await?.unwrap();
    let values: Live = decode(&values.payload, Encoding::MsgPack)?;
    assert_eq!((values.session_id, values.to.as_str()), (id, "alice"));

    assert_eq!(central.stop(id).await.outcome, Outcome::Stopping);
    central.until("the session ends", is_end(id)).await;
    let (energy, reason) = central.ended(id);
    assert_eq!(reason.code, EndCode::Driver);
    assert_eq!(energy, agent.register(ONE).await.saturating_sub(before));
    assert!(energy > Mwh(0));
    agent.ready().await;
    let heard = central.heard.lock().unwrap();
    assert!(heard.heartbeats.iter().any(|h| h.connectors.len() == 2));
    // A simulation that is 20 times faster presents itself as what it is: 20 times as strong.
    let currents: Vec<_> = heard.syncs[0]
        .connectors
        .iter()
        .map(|c| c.max_ma.0)
        .collect();
    assert_eq!(currents, [320_000, 640_000]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn live_values_are_sent_while_somebody_listens_and_a_metered_line_is_announced() -> Result<()>
{
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let top = "line = \"metered\"\nrates = { look_s = 5, live_s = 1 }";
    let ca = server.keys().ca();
    let agent = Agent::start_with(&server, &server.url(), (top, &ca), "")?;
    agent.ready().await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    central.command("start", &start).await;
    agent.plug(ONE).await;
    central.until("energy flows", is_charging(id)).await;
    let alice = server.connect_as(Role::Driver, "alice").await?;
    let driver = start.driver_id.as_ref().unwrap();
    let mut live = alice.subscribe(Subject::live_of(driver, id)).await?;
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, live.next()).await?.unwrap();
    }
    let is_watched = |is: bool| move |s: &Value| s["connectors"][0]["watched"] == is;
    agent.until("it knows of her", is_watched(true)).await;
    live.unsubscribe().await?;
    agent
        .until("it knows that nobody is there", is_watched(false))
        .await;
    let heard = central.heard.lock().unwrap();
    assert!(heard.heartbeats.iter().all(|h| h.every_s == 60));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_authority_in_the_place_of_a_wrong_one_is_taken_at_once() -> Result<()> {
    let server = NatsServer::start().await?;
    let _central = Central::start(&server).await?;
    let (others, dir) = (Keys::new()?, TempDir::with_prefix("ev-edge-ca-")?);
    let ca = dir.path().join("ca.crt");
    std::fs::copy(others.ca(), &ca)?;
    let proxy = TcpProxy::start(server.url()).await?;
    let mut agent = Agent::start_with(&server, &proxy.url(), ("", &ca), "")?;
    agent
        .process
        .wait_for_log("is not signed by", PATIENCE)
        .await?;
    let next = dir.path().join("next");
    std::fs::copy(server.keys().ca(), &next)?;
    std::fs::rename(&next, &ca)?;
    agent.ready().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_443_goes_out_agents_and_drivers_go_over_websocket() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_conf(&keys, &keys.websocket()?).await?;
    let central = Central::start(&server).await?;
    let url = server.websocket_url();
    let mut agent = Agent::start(&server, &url, "")?;
    agent.ready().await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    let alice = keys.connect(&url, Role::Driver, "alice").await?;
    let driver = start.driver_id.as_ref().unwrap();
    let mut live = alice.subscribe(Subject::live_of(driver, id)).await?;
    assert_eq!(
        central.command("start", &start).await.outcome,
        Outcome::Taken
    );
    agent.plug(ONE).await;
    tokio::time::timeout(PATIENCE, live.next()).await?.unwrap();
    // It comes back by itself.
    let killed = central.boot();
    agent.process.kill9()?;
    agent.process.restart()?;
    wait_for("it presents itself anew", PATIENCE, async || {
        anyhow::ensure!(central.boot() != killed);
        Ok(())
    })
    .await?;
    assert_eq!(central.stop(id).await.outcome, Outcome::Stopping);
    central.until("the session ends", is_end(id)).await;
    // Who keeps the ledger is beside the servers.
    let refused = keys.connect(&url, Role::Central, "central-b").await;
    assert!(refused.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_of_a_list_will_do() -> Result<()> {
    let server = NatsServer::start().await?;
    let _central = Central::start(&server).await?;
    let nobody = format!("nats://127.0.0.1:{}", ev_testkit::free_port());
    let agent = Agent::start(&server, &format!("{nobody}, {}", server.url()), "")?;
    agent.ready().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_the_session_goes_on_with_what_the_car_took_meanwhile() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let mut agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    let before = agent.register(ONE).await;
    agent.plug(ONE).await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    central.command("start", &start).await;
    central.until("energy flows", is_charging(id)).await;

    let at_kill = agent.register(ONE).await;
    agent.process.kill9()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    agent.process.restart()?;
    let status = agent
        .until("the session is there again", |s| {
            s["connectors"][0]["session_id"] == id.to_string()
                && s["clock_synced"] == true
                && s["charger_online"] == true
        })
        .await;
    let after = status["connectors"][0]["register_mwh"].as_u64().unwrap();
    assert!(
        Mwh(after) > at_kill.saturating_add(Mwh(30_000)),
        "the charger went on while its agent was dead"
    );
    let again = StartCommand {
        boot: central.boot(),
        ..start
    };
    assert_eq!(
        central.command("start", &again).await.outcome,
        Outcome::Taken,
        "results outlive the process"
    );
    central.stop(id).await;
    central.until("the session ends", is_end(id)).await;
    let (energy, _) = central.ended(id);
    assert_eq!(energy, agent.register(ONE).await.saturating_sub(before));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_without_uplink_arrives_later_in_order_and_once() -> Result<()> {
    let mut server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let mut agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    let before = agent.register(ONE).await;
    agent.plug(ONE).await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    central.command("start", &start).await;
    central.until("energy flows", is_charging(id)).await;

    server.kill()?;
    agent
        .until("the uplink is gone", |s| s["uplink"] == false)
        .await;
    agent.sim(SimVerb::Unplug { connector: ONE }).await;
    agent
        .until("the session has ended here", |s| {
            s["connectors"][0]["session_id"].is_null() && s["spool_depth"] != 0
        })
        .await;
    let local = agent
        .ctl(Verb::Start {
            connector: Some(2),
            token: Some("04AB".into()),
            free: false,
        })
        .await?;
    agent.process.kill9()?;
    agent.process.restart()?;
    server.restart().await?;

    central.until("the end arrives", is_end(id)).await;
    let (energy, reason) = central.ended(id);
    assert_eq!(reason.code, EndCode::EvUnplugged);
    assert_eq!(energy, agent.register(ONE).await.saturating_sub(before));
    let local: SessionId = local["session_id"].as_str().unwrap().parse()?;
    central
        .until(
            "the local session arrives",
            |f| matches!(f, EdgeFact::OpenedAtEdge { session_id, .. } if *session_id == local),
        )
        .await;
    agent.ready().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_read_are_refused_and_those_for_others_passed_over() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    let ask = async |verb: &str, payload: &[u8], json: bool| {
        let subject = format!("ev.v1.cp.CP-001.cmd.{verb}");
        let mut headers = async_nats::HeaderMap::new();
        if json {
            headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
        }
        let request = async_nats::Request::new()
            .headers(headers)
            .payload(payload.to_vec().into())
            .timeout(Some(Duration::from_millis(700)));
        let answer = central.client.send_request(subject, request).await.ok()?;
        let encoding = if json {
            Encoding::Json
        } else {
            Encoding::MsgPack
        };
        Some(decode::<CommandReply>(&answer.payload, encoding).unwrap())
    };
    let refused = [
        ("start", &b"\x81\xa2to\xa6CP-001"[..], false),
        ("start", b"", false),
        ("start", b"\xff\xff", false),
        (
            "stop",
            br#"{"type":"cmd.stop","to":"CP-001","session_id":"-1"}"#,
            true,
        ),
    ];
    for (verb, payload, json) in refused {
        let reply = ask(verb, payload, json).await.unwrap();
        assert_eq!(
            (reply.outcome, reply.code),
            (Outcome::Refused, Some(Code::InvalidRequest)),
            "{payload:?}"
        );
    }
    let unknown = ask("dance", br#"{"to":"CP-001"}"#, true).await.unwrap();
    assert_eq!(unknown.code, Some(Code::UnknownVerb));
    let ping = format!(r#"{{"type":"cmd.ping","to":"CP-001","ts":{}}}"#, now().0);
    assert_eq!(
        ask("ping", ping.as_bytes(), true).await.unwrap().outcome,
        Outcome::Done
    );
    for other in [
        r#"{"type":"cmd.ping","to":"CP-002","ts":1}"#,
        r#"{"type":"evt.reply","to":"CP-001","ts":1}"#,
    ] {
        assert!(ask("ping", other.as_bytes(), true).await.is_none());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_charging_and_is_recovered_from() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    let before = agent.register(ONE).await;
    agent.plug(ONE).await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    central.command("start", &start).await;
    central.until("energy flows", is_charging(id)).await;

    // No file can grow: what the agent sees is what a full disk shows.
    let pid = Pid::from_raw(i32::try_from(agent.process.pid())?).unwrap();
    let full = Rlimit {
        current: Some(1),
        maximum: None,
    };
    prlimit(Some(pid), Resource::Fsize, full)?;
    let refused = central.start_command(TWO);
    let payload = encode(&refused, Encoding::MsgPack)?;
    let answer = central
        .client
        .request("ev.v1.cp.CP-001.cmd.start", payload.into())
        .await?;
    let reply: CommandReply = decode(&answer.payload, Encoding::MsgPack)?;
    assert_eq!(
        (reply.outcome, reply.code),
        (Outcome::NotYet, Some(Code::StorageFailed))
    );
    let local = agent
        .ctl(Verb::Start {
            connector: Some(2),
            token: None,
            free: false,
        })
        .await;
    assert!(
        matches!(&local, Err(ctl::CtlError::Refused { answer, .. })
            if answer["error"]["code"] == "storage_failed"),
        "{local:?}"
    );
    let sick = agent
        .until("health says so", |s| {
            s["health"]
                .as_array()
                .unwrap()
                .contains(&"storage_failed".into())
        })
        .await;
    assert!(sick["storage"].is_string());
    assert_eq!(sick["connectors"][0]["state"], "charging");
    agent.sim(SimVerb::Unplug { connector: ONE }).await;
    agent
        .until("the session has ended", |s| {
            s["connectors"][0]["session_id"].is_null()
        })
        .await;
    assert!(
        !central.facts().iter().any(is_end(id)),
        "unstored is unsent"
    );

    let room = Rlimit {
        current: None,
        maximum: None,
    };
    prlimit(Some(pid), Resource::Fsize, room)?;
    central.until("the end arrives", is_end(id)).await;
    let (energy, _) = central.ended(id);
    assert_eq!(energy, agent.register(ONE).await.saturating_sub(before));
    let start = central.start_command(TWO);
    assert_eq!(
        central.command("start", &start).await.outcome,
        Outcome::Taken
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unruly_charger_is_billed_by_its_register() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let agent = Agent::start(&server, &server.url(), "unruly = true\nseed = 3")?;
    agent
        .until("the agent is there", |s| {
            s["clock_synced"] == true && s["charger_online"] == true
        })
        .await;
    for round in 0..5 {
        let before = agent.register(ONE).await;
        agent.plug(ONE).await;
        let start = central.start_command(ONE);
        let id = start.session_id;
        assert_eq!(
            central.command("start", &start).await.outcome,
            Outcome::Taken,
            "round {round}"
        );
        central.until("energy flows", is_charging(id)).await;
        if round % 2 == 0 {
            central.stop(id).await;
        } else {
            agent.sim(SimVerb::Unplug { connector: ONE }).await;
        }
        central.until("the session ends", is_end(id)).await;
        let (energy, _) = central.ended(id);
        assert_eq!(
            energy,
            agent.register(ONE).await.saturating_sub(before),
            "round {round}"
        );
        agent.sim(SimVerb::Unplug { connector: ONE }).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_do_what_the_charger_says_and_nothing_more() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    agent.plug(ONE).await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    central.command("start", &start).await;
    central.until("energy flows", is_charging(id)).await;
    let fault = async |effect| {
        let raw = "GroundFailure".to_owned();
        agent
            .sim(SimVerb::Fault {
                connector: ONE,
                effect,
                raw,
            })
            .await;
    };
    fault(FaultEffect::Warning).await;
    fault(FaultEffect::Suspends).await;
    agent
        .until("it pauses", |s| {
            s["connectors"][0]["state"] == "suspended_evse"
        })
        .await;
    agent.sim(SimVerb::Clear { connector: ONE }).await;
    agent
        .until("it goes on", |s| s["connectors"][0]["state"] == "charging")
        .await;
    fault(FaultEffect::Ended).await;
    central.until("it ends", is_end(id)).await;
    let (_, reason) = central.ended(id);
    assert_eq!(
        (reason.code, reason.raw.as_deref()),
        (EndCode::Fault, Some("GroundFailure"))
    );
    let refused = central.command("start", &central.start_command(ONE)).await;
    assert_eq!(refused.code, Some(Code::Faulted));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_agent_and_no_session() -> Result<()> {
    let server = NatsServer::start().await?;
    let central = Central::start(&server).await?;
    let mut agent = Agent::start(&server, &server.url(), "")?;
    agent.ready().await;
    agent.plug(ONE).await;
    let start = central.start_command(ONE);
    let id = start.session_id;
    central.command("start", &start).await;
    central.until("energy flows", is_charging(id)).await;
    agent.process.terminate()?;
    let status = agent.process.wait(PATIENCE).await?;
    assert!(status.success(), "{status}");
    wait_until("it says goodbye", PATIENCE, async || {
        let heard = central.heard.lock().unwrap();
        heard
            .heartbeats
            .last()
            .is_some_and(|h| h.health.iter().any(|w| w == "stopping"))
    })
    .await?;
    assert!(!central.facts().iter().any(is_end(id)));
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_exits_78_and_says_what_would_be_right() -> Result<()> {
    let dir = TempDir::with_prefix("ev-edge-")?;
    let file = dir.path().join("edge.toml");
    std::fs::write(
        &file,
        "nats_url = \"nats://h:1\"\nstate_dir = \"s\"\n[[charge_point]]\nid = \"A\"\nsite = \"S\"\n",
    )?;
    let mut process = Process::program("edge-cp", env!("CARGO_BIN_EXE_edge-cp"))
        .args(["run", "--config"])
        .arg(&file)
        .spawn()?;
    let status = process.wait(PATIENCE).await?;
    assert_eq!(status.code(), Some(78));
    let log = process.log();
    for part in ["edge.toml", "site", "driver-cli op cp site A", "connector"] {
        assert!(log.contains(part), "{log}");
    }
    Ok(())
}
