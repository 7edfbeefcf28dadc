//! The program itself against a real nats-server and a central that follows a script.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Phase},
    ids::{ConnectorId, SessionId},
    subjects::Subject,
    time::UnixMs,
    units::{Currency, MilliAmp, MilliWatt, Mwh},
    v1::{
        ChargePointListing, ConnectorListing, CpActRequest, DriverUpdate, EndCode, EndReason,
        EndSource, ErrorReply, HistoryReply, Limits, ListReply, OpReply, Origin, PriceComponent,
        SessionView, StartRequest, Status, StatusReply, StatusRequest, StopRequest, Tariff,
        TariffSetRequest, TariffTerms, UpdateType,
    },
    wire::{self, Encoding, Tag},
};
use ev_testkit::{Keys, NatsServer, PATIENCE, Role, wait_until};
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

const SESSION: &str = "0190a0b0-1111-7222-8333-444455556666";
const OTHER: &str = "0190a0b0-9999-7222-8333-444455556666";

/// One request, as central got it.
#[derive(Debug, Clone)]
struct Asked {
    /// The driver or operator.
    who: String,
    verb: String,
    payload: Vec<u8>,
    /// Counted from 0 for each verb.
    nth: u32,
}

/// What the script does about a request.
enum Does {
    Answers(Vec<u8>),
    /// Tells watchers first, and answers.
    Tells(Vec<(String, Vec<u8>)>, Vec<u8>),
    Nothing,
}

/// A central that follows a script.
struct Central {
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Central {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Central {
    async fn start(server: &NatsServer, script: impl Fn(&Asked) -> Does + Send + 'static) -> Self {
        let nats = server.connect().await.unwrap();
        let drivers = nats
            .queue_subscribe("ev.v1.driver.*.*", "central".into())
            .await
            .unwrap();
        let operators = nats
            .queue_subscribe("ev.v1.op.*.*", "central".into())
            .await
            .unwrap();
        nats.flush().await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::<Asked>::new()));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut requests = futures::stream::select(drivers, operators);
            while let Some(message) = requests.next().await {
                let (who, verb) = match Subject::parse(&message.subject) {
                    Some(Subject::Driver { driver, verb }) => (driver.to_string(), verb),
                    Some(Subject::Operator { operator, verb }) => (operator.to_string(), verb),
                    other => panic!("{other:?}"),
                };
                let asked = {
                    let mut log = log.lock().unwrap();
                    let nth = log.iter().filter(|a| a.verb == verb).count();
                    let asked = Asked {
                        who,
                        verb,
                        payload: message.payload.to_vec(),
                        nth: u32::try_from(nth).unwrap(),
                    };
                    log.push(asked.clone());
                    asked
                };
                let reply = message.reply.clone().unwrap();
                let answers = match script(&asked) {
                    Does::Answers(bytes) => vec![(reply.to_string(), bytes)],
                    Does::Tells(mut news, bytes) => {
                        news.push((reply.to_string(), bytes));
                        news
                    }
                    Does::Nothing => Vec::new(),
                };
                for (subject, bytes) in answers {
                    nats.publish(subject, bytes.into()).await.unwrap();
                }
            }
        });
        Self { asked, task }
    }

    fn asked(&self, verb: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|a| a.verb == verb).cloned().collect()
    }
}

fn pack(message: &impl Serialize) -> Vec<u8> {
    wire::encode(message, Encoding::MsgPack).unwrap()
}

fn unpack<T: DeserializeOwned>(asked: &Asked) -> T {
    wire::decode(&asked.payload, Encoding::MsgPack).unwrap()
}

fn session() -> SessionId {
    SESSION.parse().unwrap()
}

fn start_reply(asked: &Asked) -> DriverUpdate {
    let request: StartRequest = unpack(asked);
    DriverUpdate {
        kind: UpdateType::StartReply,
        to: Some(asked.who.clone()),
        request_id: request.request_id.parse().unwrap(),
        driver_id: asked.who.parse().unwrap(),
        cp_id: request.cp_id,
        status: Status::Accepted,
        reason: None,
        session_id: Some(session()),
        ts: UnixMs(1_700_000_000_000),
        connector: Some(ConnectorId(1)),
        error: None,
        tariff: None,
        phase: Some(Phase::Preparing),
        stopping: false,
        energy_mwh: None,
        cost: None,
        currency: None,
        standing_costs_from: None,
        soc_pct: None,
        pos: Some(1),
        prev: None,
    }
}

fn refusal(asked: &Asked, code: Code, what: &str) -> Vec<u8> {
    pack(&ErrorReply {
        tag: Tag::new(),
        to: asked.who.clone(),
        request_id: None,
        status: Status::Denied,
        reason: code.to_string(),
        error: code.about(what),
        ts: UnixMs(1_700_000_000_000),
    })
}

fn view(pos: u64, state: Phase) -> SessionView {
    SessionView {
        session_id: session(),
        driver_id: Some("alice".parse().unwrap()),
        cp_id: "CP-001".parse().unwrap(),
        connector: ConnectorId(1),
        site_id: "depot".parse().unwrap(),
        time_zone: "Europe/Berlin".into(),
        state,
        status: match state {
            Phase::Completed => Status::Completed,
            Phase::Failed => Status::Failed,
            Phase::Preparing => Status::Accepted,
            _ => Status::InProgress,
        },
        origin: Origin::App,
        stopping: false,
        reachable: true,
        energy_mwh: Mwh(1_234_567),
        cost: "0.60".parse().unwrap(),
        currency: Currency::EUR,
        standing_costs_from: None,
        tariff_id: "base".parse().unwrap(),
        tariff_version: 1,
        limits: Limits::default(),
        accepted_at: UnixMs(1_700_000_000_000),
        started_at: (state != Phase::Preparing).then_some(UnixMs(1_700_000_010_000)),
        energy_ended_at: None,
        ended_at: state.is_ended().then_some(UnixMs(1_700_000_060_000)),
        last_value_at: None,
        power_mw: Some(MilliWatt(11_000_000)),
        soc_pct: None,
        reason: None,
        end: match state {
            Phase::Completed => Some(EndReason::new(EndCode::EnergyLimit, EndSource::ChargePoint)),
            Phase::Failed => Some(EndReason::new(EndCode::PlugTimeout, EndSource::ChargePoint)),
            _ => None,
        },
        receipt: None,
        waits: None,
        pos,
    }
}

fn status_reply(asked: &Asked, sessions: Vec<SessionView>) -> Vec<u8> {
    pack(&StatusReply {
        tag: Tag::new(),
        to: asked.who.clone(),
        sessions,
        ts: UnixMs(1_700_000_000_000),
    })
}

fn tariff() -> Tariff {
    Tariff {
        tariff_id: "base".parse().unwrap(),
        version: 1,
        terms: TariffTerms::free(Currency::EUR)
            .with(PriceComponent::Energy, "0.49".parse().unwrap())
            .with(PriceComponent::StartFee, "0.50".parse().unwrap()),
    }
}

fn list_reply(asked: &Asked) -> Vec<u8> {
    let cp = ChargePointListing {
        cp_id: "CP-001".parse().unwrap(),
        site_id: "depot".parse().unwrap(),
        time_zone: "Europe/Berlin".into(),
        tariff: tariff(),
        connectors: vec![ConnectorListing {
            connector: ConnectorId(1),
            state: ConnectorState::Available,
            max_ma: MilliAmp(32_000),
            phases: 3,
            session_id: None,
        }],
    };
    pack(&ListReply {
        tag: Tag::new(),
        to: asked.who.clone(),
        charge_points: vec![cp],
        next: None,
        ts: UnixMs(1_700_000_000_000),
    })
}

/// What most scripts share.
fn usual(asked: &Asked) -> Does {
    match asked.verb.as_str() {
        "list" => Does::Answers(list_reply(asked)),
        "start" => Does::Answers(pack(&start_reply(asked))),
        "status" => Does::Answers(status_reply(asked, vec![view(1, Phase::Charging)])),
        other => panic!("nobody expected {other}"),
    }
}

/// The program, for alice unless the line says otherwise.
fn program(keys: &Keys, url: &str, state: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driver-cli"));
    command
        .env_clear()
        .env("EV_NATS_URL", url)
        .env("EV_CREDENTIALS", keys.creds_dir())
        .env("EV_NATS_CA", keys.ca())
        .env("EV_DRIVER", "alice")
        .env("EV_STATE_DIR", state)
        .args(line)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(keys: &Keys, url: &str, state: &Path, line: &[&str]) -> Output {
    timeout(PATIENCE, program(keys, url, state, line).output())
        .await
        .expect("the program hangs")
        .unwrap()
}

fn code(output: &Output) -> i32 {
    let code = output.status.code();
    code.unwrap_or_else(|| panic!("{}", stderr(output)))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "one document: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Whoever the tests act as.
fn keys() -> Keys {
    let keys = Keys::new().unwrap();
    for (role, name) in [
        (Role::Driver, "alice"),
        (Role::Operator, "operator"),
        (Role::Operator, "olga"),
    ] {
        keys.creds(role, name).unwrap();
    }
    keys
}

struct Bench {
    server: NatsServer,
    state: TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self {
            server: NatsServer::start_with_keys(&keys()).await.unwrap(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    async fn run(&self, line: &[&str]) -> Output {
        self.run_at(&self.server.url(), self.state.path(), line)
            .await
    }

    async fn run_at(&self, url: &str, state: &Path, line: &[&str]) -> Output {
        output(self.server.keys(), url, state, line).await
    }

    fn program(&self, line: &[&str]) -> Command {
        let url = self.server.url();
        program(self.server.keys(), &url, self.state.path(), line)
    }

    /// The stored requests of alice.
    fn stored(&self) -> Vec<Value> {
        let folder = self.state.path().join("alice/requests");
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn a_start_is_written_down_sent_and_answered_with_its_session() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, usual).await;
    let line = ["start", "CP-001", "--limit-cost", "10EUR", "--json"];
    let done = bench.run(&line).await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let doc = json(&done);
    assert_eq!(doc["status"], "accepted");
    assert_eq!(doc["session_id"], SESSION);
    assert_eq!(doc["driver_id"], "alice");
    assert_eq!(doc["cp_id"], "CP-001");
    assert_eq!(doc["ts"], "2023-11-14T22:13:20.000Z");
    assert!(doc["reason"].is_null() && doc["error"].is_null());
    let request: StartRequest = unpack(&central.asked("start")[0]);
    assert_eq!(doc["request_id"], request.request_id);
    assert_eq!(request.limits.unwrap().cost.as_deref(), Some("10"));
    let stored = bench.stored();
    assert_eq!(stored[0]["request"]["request_id"], request.request_id);
    assert_eq!(stored[0]["request"]["expires_at"], request.expires_at);
    assert_eq!(stored[0]["outcome"]["status"], "accepted");
}

#[tokio::test]
async fn people_are_told_the_price_and_what_a_limit_buys() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, usual).await;
    let done = bench
        .run(&["start", "CP-001", "--limit-cost", "10EUR"])
        .await;
    assert_eq!(code(&done), 0);
    assert!(stdout(&done).contains(SESSION));
    let told = stderr(&done);
    assert!(told.contains("0.49 EUR/kWh"), "{told}");
    assert!(told.contains("19.387 kWh"), "{told}");
    assert!(told.contains(&format!("stop {SESSION}")), "{told}");
    assert!(!told.contains('\u{1b}'), "no colour in a pipe: {told:?}");
}

#[tokio::test]
async fn a_start_names_the_price_that_was_shown_and_a_changed_one_is_shown_with_the_way_to_it() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| {
        if asked.verb != "start" {
            return usual(asked);
        }
        let request: StartRequest = unpack(asked);
        let new = Tariff {
            version: 2,
            terms: tariff()
                .terms
                .with(PriceComponent::Energy, "0.59".parse().unwrap()),
            ..tariff()
        };
        match request.tariff {
            Some(seen) if seen.version == 1 => Does::Answers(pack(&DriverUpdate {
                status: Status::Denied,
                session_id: None,
                reason: Some(Code::PriceChanged.to_string()),
                error: Some(Code::PriceChanged.about("base version 2 at CP-001")),
                tariff: Some(new),
                ..start_reply(asked)
            })),
            _ => usual(asked),
        }
    })
    .await;
    let sent = |n: usize| unpack::<StartRequest>(&central.asked("start")[n]).tariff;
    let refused = bench.run(&["start", "CP-001/1"]).await;
    assert_eq!(code(&refused), 5, "{}", stderr(&refused));
    let told = stderr(&refused);
    assert!(told.contains("the price is now 0.59 EUR/kWh"), "{told}");
    assert!(
        told.contains("start CP-001 --connector 1 --tariff base@2"),
        "{told}"
    );
    assert_eq!(sent(0).unwrap().version, 1, "as it was shown");
    // A program names a price or takes what applies.
    let line = ["start", "CP-001/1", "--tariff", "base@1", "--json"];
    let doc = json(&bench.run(&line).await);
    assert_eq!(doc["reason"], "price_changed");
    assert_eq!(doc["tariff"]["price_per_kwh"], "0.59");
    let started = bench
        .run(&["start", "CP-001/1", "--tariff", "base@2", "--json"])
        .await;
    assert_eq!(code(&started), 0, "{}", stderr(&started));
    assert_eq!(code(&bench.run(&["start", "CP-001/1", "--json"]).await), 0);
    assert_eq!(sent(3), None);
}

#[tokio::test]
async fn a_lost_answer_is_fetched_by_repeating_the_same_bytes() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| match asked.nth {
        0 => Does::Nothing,
        _ => usual(asked),
    })
    .await;
    let done = bench.run(&["start", "CP-001", "--json"]).await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let asked = central.asked("start");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].payload, asked[1].payload);
}

#[tokio::test]
async fn an_unknown_outcome_names_the_command_that_repeats_it_and_that_command_does() {
    let bench = Bench::new().await;
    let silent = Arc::new(AtomicU32::new(1));
    let script_silent = Arc::clone(&silent);
    let central = Central::start(&bench.server, move |asked| {
        match script_silent.load(Ordering::SeqCst) {
            0 => usual(asked),
            _ => Does::Nothing,
        }
    })
    .await;
    let line = ["start", "CP-001", "--connector", "1", "--timeout", "500ms"];
    let unknown = bench.run(&[&line[..], &["--json"]].concat()).await;
    assert_eq!(code(&unknown), 6);
    let doc = json(&unknown);
    assert_eq!(
        (&doc["status"], &doc["reason"]),
        (&"unknown".into(), &"outcome_unknown".into())
    );
    let id = doc["request_id"].as_str().unwrap().to_owned();
    let hint = doc["error"]["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("--request-id {id}")), "{hint}");
    assert!(stderr(&unknown).contains(&id));

    silent.store(0, Ordering::SeqCst);
    // As the hint has it, without the program's name.
    let repeat: Vec<&str> = hint
        .split_once("driver-cli ")
        .unwrap()
        .1
        .split(' ')
        .collect();
    let repeated = bench.run(&[&repeat[..], &["--json"]].concat()).await;
    assert_eq!(code(&repeated), 0, "{}", stderr(&repeated));
    assert_eq!(json(&repeated)["request_id"], id);
    let asked = central.asked("start");
    assert!(asked.len() >= 2);
    assert!(asked.iter().all(|a| a.payload == asked[0].payload));

    let other = bench
        .run(&["start", "CP-002", "--request-id", &id, "--json"])
        .await;
    assert_eq!(code(&other), 2);
    assert!(stderr(&other).contains("CP-001/1"), "{}", stderr(&other));
    assert_eq!(central.asked("start").len(), asked.len());
}

#[tokio::test]
async fn a_killed_start_is_repeated_by_the_same_plain_command() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| match asked.nth {
        0 => Does::Nothing,
        _ => usual(asked),
    })
    .await;
    let mut first = bench
        .program(&["start", "CP-001", "--json"])
        .spawn()
        .unwrap();
    wait_until("the start has arrived", PATIENCE, async || {
        !central.asked("start").is_empty()
    })
    .await
    .unwrap();
    first.kill().await.unwrap();
    let second = bench.run(&["start", "CP-001", "--json"]).await;
    assert_eq!(code(&second), 0, "{}", stderr(&second));
    assert!(stderr(&second).contains("never answered"));
    let asked = central.asked("start");
    assert_eq!(asked[0].payload, asked[1].payload);
    let third = bench.run(&["start", "CP-001", "--json"]).await;
    assert_ne!(json(&third)["request_id"], json(&second)["request_id"]);
}

#[tokio::test]
async fn an_unanswered_start_that_has_expired_makes_room_for_a_new_one() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| match asked.nth {
        0 => Does::Nothing,
        1 => Does::Answers(refusal(asked, Code::Expired, "the start")),
        _ => usual(asked),
    })
    .await;
    let line = ["start", "CP-001", "--json", "--timeout", "1s"];
    assert_eq!(code(&bench.run(&line).await), 6);
    let again = bench.run(&line).await;
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    let ids: Vec<String> = central
        .asked("start")
        .iter()
        .map(|asked| unpack::<StartRequest>(asked).request_id)
        .collect();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[1], ids[2]);
    assert_eq!(json(&again)["request_id"], ids[2].as_str());
}

#[tokio::test]
async fn what_reached_nobody_is_not_repeated_as_if_it_had() {
    let bench = Bench::new().await;
    let line = ["start", "CP-001", "--json", "--timeout", "500ms"];
    assert_eq!(code(&bench.run(&line).await), 7);
    let _central = Central::start(&bench.server, usual).await;
    let done = bench.run(&line).await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert!(!stderr(&done).contains("never answered"));
    assert_eq!(bench.stored().len(), 2);
}

#[tokio::test]
async fn a_wrong_clock_is_named_when_it_is_what_is_wrong() {
    let bench = Bench::new().await;
    // The script's clock stands in 2023.
    let _central = Central::start(&bench.server, |asked| {
        Does::Answers(refusal(asked, Code::ExpiryTooFar, "the start"))
    })
    .await;
    let refused = bench.run(&["start", "CP-001", "--json"]).await;
    assert_eq!(code(&refused), 5);
    let doc = json(&refused);
    let hint = doc["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("ahead of central's"), "{hint}");
}

fn wall() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[tokio::test]
async fn a_wrong_clock_costs_one_more_request_and_the_first_id_finds_its_answer() {
    const HOUR: i64 = 3_600_000;
    for (hours, code_of) in [
        (2, Code::Forgotten),
        (2, Code::Expired),
        (-2, Code::ExpiryTooFar),
        (56 * 365 * 24, Code::InvalidTime),
    ] {
        let bench = Bench::new().await;
        let central_ms = move || wall() + hours * HOUR;
        let central = Central::start(&bench.server, move |asked| {
            let ts = UnixMs(central_ms());
            let request: StartRequest = unpack(asked);
            if asked.nth == 0 {
                let mut told: ErrorReply =
                    wire::decode(&refusal(asked, code_of, "the start"), Encoding::MsgPack).unwrap();
                told.ts = ts;
                return Does::Answers(pack(&told));
            }
            assert!(
                (0..=30_000).contains(&(request.expires_at - ts.0)),
                "{request:?}"
            );
            Does::Answers(pack(&DriverUpdate {
                ts,
                ..start_reply(asked)
            }))
        })
        .await;
        let line = ["start", "CP-001", "--json", "--request-id", "order-1"];
        let done = bench.run(&line).await;
        assert_eq!(code(&done), 0, "{code_of}: {}", stderr(&done));
        assert!(stderr(&done).contains("this clock is"), "{}", stderr(&done));
        let again = bench.run(&line).await;
        assert_eq!(code(&again), 0, "{code_of}: {}", stderr(&again));
        let asked = central.asked("start");
        assert_eq!(asked.len(), 3, "{code_of}");
        let id = |n: usize| unpack::<StartRequest>(&asked[n]).request_id;
        assert_eq!(id(0), "order-1");
        assert_ne!(id(1), "order-1");
        assert_eq!(asked[1].payload, asked[2].payload);
        assert_eq!(json(&again)["session_id"], SESSION);
    }
}

#[tokio::test]
async fn a_repeat_that_central_calls_forgotten_is_not_sent_anew() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| match asked.nth {
        0 => Does::Nothing,
        _ => Does::Answers(refusal(asked, Code::Forgotten, "the start")),
    })
    .await;
    let line = [
        "start",
        "CP-001",
        "--json",
        "--timeout",
        "1s",
        "--request-id",
        "order-1",
    ];
    assert_eq!(code(&bench.run(&line).await), 6);
    let again = bench.run(&line).await;
    assert_eq!(code(&again), 6, "{}", stderr(&again));
    assert_eq!(json(&again)["reason"], "forgotten");
    let asked = central.asked("start");
    assert!(asked.iter().all(|a| a.payload == asked[0].payload));
}

#[tokio::test]
async fn processes_at_once_with_one_request_id_send_the_same_bytes() {
    const ROUNDS: usize = 12;
    const AT_ONCE: usize = 4;
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, usual).await;
    for round in 0..ROUNDS {
        let id = format!("order-{round}");
        let line = ["start", "CP-001", "--json", "--request-id", &id];
        let all = futures::future::join_all((0..AT_ONCE).map(|_| bench.run(&line))).await;
        for done in &all {
            assert_eq!(code(done), 0, "{}", stderr(done));
            assert_eq!(json(done)["request_id"], id.as_str());
        }
        let sent: Vec<Asked> = central
            .asked("start")
            .into_iter()
            .filter(|asked| unpack::<StartRequest>(asked).request_id == id)
            .collect();
        assert!(sent.len() >= AT_ONCE);
        assert!(
            sent.iter().all(|asked| asked.payload == sent[0].payload),
            "round {round}: {sent:?}"
        );
    }
}

#[tokio::test]
async fn a_busy_central_is_asked_again() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| match asked.nth {
        0 => Does::Answers(refusal(asked, Code::Overloaded, "200 requests wait")),
        1 => Does::Answers(refusal(asked, Code::OutcomeUnknown, "the start")),
        _ => usual(asked),
    })
    .await;
    let done = bench.run(&["start", "CP-001", "--json"]).await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert_eq!(central.asked("start").len(), 3);
}

#[tokio::test]
async fn an_answer_to_somebody_else_is_passed_over() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, |asked| match asked.nth {
        0 => Does::Answers(pack(&DriverUpdate {
            to: Some("mallory".into()),
            session_id: Some(OTHER.parse().unwrap()),
            ..start_reply(asked)
        })),
        _ => usual(asked),
    })
    .await;
    let done = bench.run(&["start", "CP-001", "--json"]).await;
    assert_eq!(json(&done)["session_id"], SESSION);
}

#[tokio::test]
async fn refusals_have_their_exit_codes_documents_and_sentences() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, |asked| {
        if asked.verb == "list" {
            return Does::Answers(list_reply(asked));
        }
        let request: StartRequest = unpack(asked);
        let code = Code::from_word(&request.cp_id);
        Does::Answers(refusal(asked, code, "CP-001/1"))
    })
    .await;
    for (word, exit) in [
        ("occupied", 5),
        ("unknown_charge_point", 3),
        ("driver_blocked", 4),
        ("limit_reached", 5),
        ("expired", 5),
    ] {
        let refused = bench.run(&["start", word, "--json"]).await;
        assert_eq!(code(&refused), exit, "{word}");
        let doc = json(&refused);
        assert_eq!(doc["status"], "denied");
        assert_eq!(doc["reason"], word);
        assert_eq!(doc["error"]["code"], word);
        assert_eq!(doc["cp_id"], word);
        assert!(doc["request_id"].is_string());
    }
    let refused = bench.run(&["start", "occupied"]).await;
    let told = stderr(&refused);
    assert!(
        told.contains("error: connector CP-001/1 is in use (occupied)\n  hint: "),
        "{told}"
    );
    assert!(stdout(&refused).is_empty());
}

#[tokio::test]
async fn an_older_central_gives_no_session_id_and_the_driver_is_told_so() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, |asked| {
        if asked.verb == "list" {
            return Does::Answers(list_reply(asked));
        }
        let request: StartRequest = unpack(asked);
        #[derive(Serialize)]
        struct Older {
            request_id: String,
            driver_id: String,
            cp_id: String,
            status: &'static str,
            ts: i64,
        }
        Does::Answers(pack(&Older {
            request_id: request.request_id,
            driver_id: asked.who.clone(),
            cp_id: request.cp_id,
            status: "accepted",
            ts: 1,
        }))
    })
    .await;
    let done = bench.run(&["start", "CP-001", "--json"]).await;
    assert_eq!(code(&done), 0);
    assert!(json(&done)["session_id"].is_null());
    assert!(stderr(&done).contains("no session id"), "{}", stderr(&done));
}

#[tokio::test]
async fn nobody_there_means_that_nothing_was_sent() {
    let bench = Bench::new().await;
    let line = ["start", "CP-001", "--json", "--timeout", "500ms"];
    let no_central = bench.run(&line).await;
    assert_eq!(code(&no_central), 7);
    assert_eq!(json(&no_central)["reason"], "unreachable");
    assert!(stderr(&no_central).contains("central is not there"));
    assert_eq!(json(&no_central)["cp_id"], "CP-001");

    let url = format!("nats://127.0.0.1:{}", ev_testkit::free_port());
    let no_server = bench.run_at(&url, bench.state.path(), &line).await;
    assert_eq!(code(&no_server), 7);
    assert!(stderr(&no_server).contains(&url));
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_stops_the_start_before_it_is_sent() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, usual).await;
    let file = bench.state.path().join("not-a-folder");
    std::fs::write(&file, b"").unwrap();
    let done = bench
        .run_at(&bench.server.url(), &file, &["start", "CP-001", "--json"])
        .await;
    assert_eq!(code(&done), 1);
    assert!(stderr(&done).contains("--state-dir"));
    assert!(central.asked("start").is_empty());
}

#[tokio::test]
async fn a_stop_needs_only_as_much_of_the_id_as_tells_sessions_apart() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| match asked.verb.as_str() {
        "stop" => {
            let request: StopRequest = unpack(asked);
            Does::Answers(pack(&DriverUpdate {
                kind: UpdateType::StopReply,
                to: Some("alice".into()),
                request_id: request.request_id.parse().unwrap(),
                driver_id: "alice".parse().unwrap(),
                cp_id: "CP-001".into(),
                status: Status::Accepted,
                reason: None,
                session_id: Some(request.session_id.parse().unwrap()),
                ts: UnixMs(1_700_000_000_000),
                connector: Some(ConnectorId(1)),
                error: None,
                tariff: None,
                phase: Some(Phase::Stopping),
                stopping: true,
                energy_mwh: None,
                cost: None,
                currency: None,
                standing_costs_from: None,
                soc_pct: None,
                pos: None,
                prev: None,
            }))
        }
        "status" => {
            let other = SessionView {
                session_id: OTHER.parse().unwrap(),
                ..view(1, Phase::Charging)
            };
            Does::Answers(status_reply(asked, vec![other, view(1, Phase::Charging)]))
        }
        "history" => Does::Answers(pack(&HistoryReply {
            tag: Tag::new(),
            to: asked.who.clone(),
            sessions: Vec::new(),
            next: None,
            ts: UnixMs(0),
        })),
        other => panic!("nobody expected {other}"),
    })
    .await;
    let several = bench.run(&["stop"]).await;
    assert_eq!(code(&several), 2);
    assert!(stderr(&several).contains(SESSION) && stderr(&several).contains(OTHER));
    let ambiguous = bench.run(&["stop", "0190a0b0"]).await;
    assert_eq!(code(&ambiguous), 2);
    assert!(
        stderr(&ambiguous).contains(SESSION),
        "{}",
        stderr(&ambiguous)
    );
    let none = bench.run(&["stop", "beef", "--json"]).await;
    assert_eq!(code(&none), 3);
    assert_eq!(json(&none)["reason"], "session_not_found");
    assert!(central.asked("stop").is_empty());

    let stopped = bench.run(&["stop", "0190a0b0-1", "--json"]).await;
    assert_eq!(code(&stopped), 0, "{}", stderr(&stopped));
    assert_eq!(json(&stopped)["session_id"], SESSION);
    assert_eq!(json(&stopped)["status"], "accepted");
}

fn update_of(view: &SessionView, prev: u64) -> Vec<u8> {
    pack(&DriverUpdate {
        kind: UpdateType::Update,
        to: Some("alice".into()),
        request_id: "r-1".parse().unwrap(),
        driver_id: "alice".parse().unwrap(),
        cp_id: "CP-001".into(),
        status: view.status,
        reason: None,
        session_id: Some(session()),
        ts: UnixMs(1_700_000_000_000),
        connector: Some(ConnectorId(1)),
        error: None,
        tariff: None,
        phase: Some(view.state),
        stopping: false,
        energy_mwh: Some(view.energy_mwh),
        cost: Some(view.cost),
        currency: Some(view.currency),
        standing_costs_from: None,
        soc_pct: None,
        pos: Some(view.pos),
        prev: Some(prev),
    })
}

/// Status answers that move on with every question, the last one for ever. Each question is also
/// followed by an update that says what the next answer will be.
fn moving_on(phases: &'static [Phase]) -> impl Fn(&Asked) -> Does + Send + 'static {
    move |asked| {
        if asked.verb != "status" {
            return usual(asked);
        }
        let request: StatusRequest = unpack(asked);
        assert_eq!(request.session_id.as_deref(), Some(SESSION));
        let at = usize::try_from(asked.nth).unwrap();
        let last = phases.len() - 1;
        let pos = |at: usize| u64::try_from(at.min(last)).unwrap() + 1;
        let now = view(pos(at), phases[at.min(last)]);
        let next = view(pos(at + 1), phases[(at + 1).min(last)]);
        let subject = Subject::Watch {
            driver: "alice".parse().unwrap(),
            session: session(),
        };
        Does::Tells(
            vec![(subject.to_string(), update_of(&next, now.pos))],
            status_reply(asked, vec![now]),
        )
    }
}

#[tokio::test]
async fn waiting_for_the_end_shows_progress_and_ends_with_one_document() {
    let bench = Bench::new().await;
    let _central = Central::start(
        &bench.server,
        moving_on(&[Phase::Preparing, Phase::Charging, Phase::Completed]),
    )
    .await;
    let done = bench
        .run(&["start", "CP-001", "--wait", "ended", "--json"])
        .await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let doc = json(&done);
    assert_eq!(doc["status"], "completed");
    assert_eq!(doc["reason"], "energy_limit");
    assert_eq!(doc["energy_wh"].to_string(), "1234.567");
    assert_eq!(doc["cost"], "0.60");
    assert_eq!(doc["started_at"], "2023-11-14T22:13:30.000Z");
    assert!(stderr(&done).contains("preparing"), "{}", stderr(&done));
}

#[tokio::test]
async fn waiting_for_energy_ends_when_it_flows_and_a_failure_is_told_with_its_reason() {
    let bench = Bench::new().await;
    let central = Central::start(
        &bench.server,
        moving_on(&[Phase::Preparing, Phase::Charging]),
    )
    .await;
    let done = bench
        .run(&["start", "CP-001", "--wait", "charging", "--json"])
        .await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert_eq!(json(&done)["state"], "charging");
    drop(central);

    let _central =
        Central::start(&bench.server, moving_on(&[Phase::Preparing, Phase::Failed])).await;
    let failed = bench
        .run(&["start", "CP-001", "--wait", "charging", "--json"])
        .await;
    assert_eq!(code(&failed), 5);
    let doc = json(&failed);
    assert_eq!(doc["status"], "failed");
    assert_eq!(doc["reason"], "plug_timeout");
    assert_eq!(doc["error"]["code"], "plug_timeout");
    assert!(stderr(&failed).contains("no car was plugged in in time"));
    assert!(stderr(&failed).contains("hint: "));
}

#[tokio::test]
async fn watching_prints_a_line_an_event_until_the_end() {
    let bench = Bench::new().await;
    let _central = Central::start(
        &bench.server,
        moving_on(&[Phase::Preparing, Phase::Charging, Phase::Completed]),
    )
    .await;
    let done = bench.run(&["watch", SESSION, "--json"]).await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let events: Vec<Value> = stdout(&done)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["state"]),
        (&"ended".into(), &"completed".into())
    );
    assert!(events.iter().all(|e| e["session_id"] == SESSION));
}

#[tokio::test]
async fn ctrl_c_leaves_the_session_running_and_says_how_to_stop_it() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, moving_on(&[Phase::Charging])).await;
    let mut watching = bench.program(&["watch", SESSION]).spawn().unwrap();
    let mut shown = BufReader::new(watching.stdout.take().unwrap()).lines();
    let charging = async {
        while let Some(line) = shown.next_line().await.unwrap() {
            if line.contains("charging") {
                return;
            }
        }
        panic!("it ended without a word of charging");
    };
    timeout(PATIENCE, charging).await.expect("it shows nothing");
    let pid = watching.id().unwrap().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().await;
    assert!(killed.unwrap().success());
    let done = timeout(PATIENCE, watching.wait_with_output())
        .await
        .expect("it does not end")
        .unwrap();
    assert_eq!(code(&done), 130);
    let told = stderr(&done);
    assert!(told.contains("goes on"), "{told}");
    assert!(told.contains(&format!("stop {SESSION}")), "{told}");
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_panic() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, usual).await;
    for line in [
        &["list"][..],
        &["list", "--json"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = bench.program(line).spawn().unwrap();
        drop(child.stdout.take());
        let done = timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(code(&done), 0, "{line:?}");
        assert!(!stderr(&done).contains("panic"), "{}", stderr(&done));
    }
}

#[tokio::test]
async fn a_run_goes_on_after_a_refusal_and_sums_up() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, |asked| {
        if asked.verb != "start" {
            return moving_on(&[Phase::Charging, Phase::Completed])(asked);
        }
        let request: StartRequest = unpack(asked);
        if request.cp_id == "CP-404" {
            return Does::Answers(refusal(asked, Code::UnknownChargePoint, "CP-404"));
        }
        assert_eq!(request.limits.as_ref().unwrap().energy_wh, Some(5_000));
        usual(asked)
    })
    .await;
    let file = bench.state.path().join("points.txt");
    std::fs::write(&file, "# mine\nCP-001\n\nCP-404\nCP-001/1 # again\n").unwrap();
    let file = file.to_str().unwrap();
    let line = [
        "run",
        file,
        "--pause",
        "10ms",
        "--limit-energy",
        "5kWh",
        "--json",
    ];
    let done = bench.run(&line).await;
    assert_eq!(code(&done), 5, "{}", stderr(&done));
    let doc = json(&done);
    let statuses: Vec<&str> = doc["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["completed", "denied", "completed"]);
    assert_eq!(doc["sessions"][1]["line"], 4);
    assert_eq!(doc["completed"], 2);
    assert_eq!(doc["energy_wh"].to_string(), "2469.134");
    assert_eq!(doc["cost"]["EUR"], "1.20");
}

#[tokio::test]
async fn without_an_open_session_the_status_tells_how_the_last_one_ended() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, |asked| match asked.verb.as_str() {
        "status" => Does::Answers(status_reply(asked, Vec::new())),
        _ => Does::Answers(pack(&HistoryReply {
            tag: Tag::new(),
            to: asked.who.clone(),
            sessions: vec![view(9, Phase::Completed)],
            next: None,
            ts: UnixMs(0),
        })),
    })
    .await;
    let done = bench.run(&["status", "--json"]).await;
    assert_eq!(code(&done), 0);
    assert_eq!(json(&done)["sessions"].as_array().unwrap().len(), 0);
    assert_eq!(json(&done)["last_ended"]["session_id"], SESSION);
    let told = stderr(&bench.run(&["status"]).await);
    assert!(told.contains("the energy limit was reached"), "{told}");
    let stop = bench.run(&["stop"]).await;
    assert_eq!(code(&stop), 3);
}

#[tokio::test]
async fn operators_write_their_requests_down_too() {
    let bench = Bench::new().await;
    let central = Central::start(&bench.server, |asked| {
        let (request_id, detail) = match asked.verb.as_str() {
            "tariff_set" => {
                let request: TariffSetRequest = unpack(asked);
                assert_eq!(
                    request.terms.price(PriceComponent::Energy),
                    "0.49".parse().unwrap()
                );
                (request.request_id, "version 1")
            }
            "cp_reset" => {
                let request: CpActRequest = unpack(asked);
                assert_eq!(request.connector, Some(2));
                (request.request_id, "reset")
            }
            other => panic!("nobody expected {other}"),
        };
        Does::Answers(pack(&OpReply {
            tag: Tag::new(),
            to: asked.who.clone(),
            request_id,
            status: Status::Accepted,
            reason: None,
            error: None,
            session_id: None,
            detail: Some(detail.into()),
            tariff: None,
            ts: UnixMs(0),
        }))
    })
    .await;
    let line = [
        "op",
        "tariff",
        "set",
        "base",
        "--scope",
        "default",
        "--per-kwh",
        "0.49EUR",
        "--vat",
        "19",
        "--json",
    ];
    let done = bench
        .run(&[&line[..], &["--operator", "olga"]].concat())
        .await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert_eq!(json(&done)["detail"], "version 1");
    assert_eq!(central.asked("tariff_set")[0].who, "olga");
    let folder = bench.state.path().join("op.olga/requests");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);

    let done = bench.run(&["op", "cp", "reset", "CP-001/2"]).await;
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    assert!(stdout(&done).contains("reset"));
}

#[tokio::test]
async fn a_permission_that_is_missing_is_said_at_once_and_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("denied.conf");
    std::fs::write(
        &conf,
        r#"
            jetstream { store_dir: $EV_NATS_STORE }
            tls { cert_file: $EV_NATS_SERVER_CERT, key_file: $EV_NATS_SERVER_KEY, handshake_first: true }
            authorization { default_permissions: { publish: { deny: ["ev.v1.driver.>"] } }
                            users: [ { user: "a", password: "a" } ] }
            no_auth_user: "a"
        "#,
    )
    .unwrap();
    let keys = keys();
    let server = NatsServer::start_with_conf(&keys, &conf).await.unwrap();
    let line = ["start", "CP-001", "--json", "--timeout", "20s"];
    let denied = timeout(
        Duration::from_secs(15),
        output(&keys, &server.url(), folder.path(), &line),
    )
    .await
    .expect("it is not said at once");
    assert_eq!(code(&denied), 4, "{}", stderr(&denied));
    assert_eq!(json(&denied)["reason"], "not_allowed");

    // What an earlier run has delivered may have taken effect: that is no "no".
    let silent = NatsServer::start_with_keys(&keys).await.unwrap();
    let central = silent.connect().await.unwrap();
    let _unanswered = central.subscribe("ev.v1.driver.*.*").await.unwrap();
    central.flush().await.unwrap();
    let line = ["start", "CP-001", "--json", "--timeout", "1s"];
    for url in [silent.url(), server.url()] {
        let unknown = output(&keys, &url, folder.path(), &line).await;
        assert_eq!(code(&unknown), 6, "{url}: {}", stderr(&unknown));
        assert_eq!(json(&unknown)["status"], "unknown", "{url}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_credential_is_said_plainly_and_nothing_is_sent() {
    let bench = Bench::new().await;
    let keys = bench.server.keys();
    let other = Keys::new().unwrap();
    let creds = |keys: &Keys, name: &str| keys.creds_dir().join(format!("driver/{name}.creds"));
    other.creds(Role::Driver, "alice").unwrap();
    {
        let mut realm = keys.realm().unwrap();
        realm
            .issue(Role::Driver, "eve", 1_000_000_100, 1_000_000_000)
            .unwrap();
    }
    let path = |path: &Path| path.display().to_string();
    let (alice, eve) = (path(&creds(keys, "alice")), path(&creds(keys, "eve")));
    let (foreign, foreign_ca) = (path(&creds(&other, "alice")), path(&other.ca()));
    let nowhere = path(&bench.state.path().join("nowhere"));
    let central = path(&keys.creds_dir().join("central/testkit.creds"));
    let proxy =
        ev_testkit::TcpProxy::start(bench.server.monitor_url().trim_start_matches("http://"))
            .await
            .unwrap();
    let in_the_clear = proxy.url();
    let quick = ["list", "--timeout", "3s"];
    for (options, exit, said) in [
        // Whose it is.
        (vec!["--driver", "bob"], 2, "bob.creds"),
        (
            vec!["--driver", "bob", "--credentials", &alice],
            4,
            "of driver alice, not of driver bob",
        ),
        (vec!["--credentials", &central], 4, "of central testkit"),
        // What it is.
        (vec!["--credentials", &nowhere], 2, "--credentials"),
        (vec!["--credentials", &foreign_ca], 2, "credentials"),
        (
            vec!["--driver", "eve", "--credentials", &eve],
            4,
            "expired at 2001-09-09",
        ),
        (vec!["--credentials", &foreign], 4, "does not let you in"),
        // Who the server is.
        (vec!["--ca", &nowhere], 2, "--ca"),
        (vec!["--ca", &alice], 2, "no certificate"),
        (vec!["--ca", &foreign_ca], 7, "not signed by"),
        (vec!["--nats-url", &in_the_clear], 7, "does not speak TLS"),
        (vec!["--certificate", &alice], 2, "--key"),
    ] {
        let done = bench.run(&[&quick[..], &options].concat()).await;
        let told = stderr(&done);
        assert_eq!(code(&done), exit, "{options:?}: {told}");
        assert!(told.contains(said), "{options:?}: {told}");
    }
    // One file says whose it is, and without a name it is gone by.
    let mut command = bench.program(&["doctor", "--json", "--credentials", &alice]);
    let done = command.env_remove("EV_DRIVER").output().await.unwrap();
    assert_eq!(json(&done)["checks"][1]["detail"], "driver alice");
}

#[tokio::test]
async fn the_doctor_names_the_wrong_piece_and_a_fix() {
    let bench = Bench::new().await;
    let pieces = |doc: &Value| -> Vec<(String, bool)> {
        doc["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                (
                    c["piece"].as_str().unwrap().to_owned(),
                    c["ok"].as_bool().unwrap(),
                )
            })
            .collect()
    };
    let sick = bench.run(&["doctor", "--json", "--timeout", "500ms"]).await;
    assert_eq!(code(&sick), 7);
    assert!(pieces(&json(&sick)).contains(&("server".into(), true)));
    assert!(pieces(&json(&sick)).contains(&("central".into(), false)));

    let _central = Central::start(&bench.server, usual).await;
    let doc = json(&bench.run(&["doctor", "--json"]).await);
    assert!(pieces(&doc).contains(&("central".into(), true)));
    // The script's clock stands in 2023.
    assert!(pieces(&doc).contains(&("clock".into(), false)));
    assert!(
        doc["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["ok"] == true || c["fix"].is_string())
    );
}

#[tokio::test]
async fn usage_errors_are_documents_too() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["start", "CP-001", "--limit-energy", "20", "--json"];
    let done = output(&keys(), "nats://127.0.0.1:1", folder.path(), &line).await;
    assert_eq!(code(&done), 2);
    assert_eq!(json(&done)["reason"], "usage");
    assert!(stderr(&done).contains("20kWh"));
}
