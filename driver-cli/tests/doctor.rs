//! `doctor` against each thing that can be wrong, one at a time: exactly one piece is named, the
//! right one, with a fix.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::SystemTime,
};

use ev_contract::{
    connector::ConnectorState,
    ids::ConnectorId,
    subjects::Subject,
    time::UnixMs,
    units::{Amount, Currency, MilliAmp},
    v1::{
        ChargePointListing, ChargePointView, ConnectorListing, CpLsReply, ListReply,
        PriceComponent, Reach, Tariff, TariffTerms,
    },
    wire::{self, Encoding, Tag},
};
use ev_testkit::{Keys, NatsServer, PATIENCE, Process, Role, certificate, free_port};
use futures::StreamExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, task::JoinHandle, time::timeout};

const HOUR_MS: i64 = 3_600_000;
const DAY_S: i64 = 24 * 3_600;
/// When certificates and credentials were made that have expired.
const LONG_AGO_S: i64 = 1_000_000_000;

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_secs()).unwrap()
}

/// A central that knows one charge point and has this clock.
struct Central(JoinHandle<()>);

impl Drop for Central {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Central {
    async fn start(server: &NatsServer, ahead_ms: i64) -> Self {
        let nats = server.connect().await.unwrap();
        let listen = async |subject: &'static str| nats.subscribe(subject).await.unwrap();
        let drivers = listen("ev.v1.driver.*.*").await;
        let mut requests = futures::stream::select(drivers, listen("ev.v1.op.*.*").await);
        nats.flush().await.unwrap();
        Self(tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let ts = UnixMs(now_s() * 1_000 + ahead_ms);
                let answer = match Subject::parse(&message.subject) {
                    Some(Subject::Driver { driver, .. }) => pack(&ListReply {
                        tag: Tag::new(),
                        to: driver.to_string(),
                        charge_points: vec![listing()],
                        next: None,
                        ts,
                    }),
                    Some(Subject::Operator { operator, .. }) => pack(&CpLsReply {
                        tag: Tag::new(),
                        to: operator.to_string(),
                        charge_points: vec![view()],
                        next: None,
                        ts,
                    }),
                    other => panic!("{other:?}"),
                };
                let reply = message.reply.unwrap();
                nats.publish(reply, answer.into()).await.unwrap();
            }
        }))
    }
}

fn pack(message: &impl serde::Serialize) -> Vec<u8> {
    wire::encode(message, Encoding::MsgPack).unwrap()
}

fn tariff() -> Tariff {
    Tariff {
        tariff_id: "base".parse().unwrap(),
        version: 1,
        terms: TariffTerms::free(Currency::EUR)
            .with(PriceComponent::Energy, "0.49".parse().unwrap())
            .with(PriceComponent::StartFee, Amount::ZERO),
    }
}

fn listing() -> ChargePointListing {
    ChargePointListing {
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
    }
}

fn view() -> ChargePointView {
    ChargePointView {
        cp_id: "CP-001".parse().unwrap(),
        site_id: "depot".parse().unwrap(),
        time_zone: "Europe/Berlin".into(),
        link: Reach::Online,
        last_heard_at: None,
        version: None,
        spool_depth: None,
        clock_offset_ms: None,
        health: Vec::new(),
        access_expires_at: None,
        epoch: None,
        boot: None,
        other_agent: None,
        next_record: 1,
        quarantined: 0,
        missing: 0,
        anomalies: 0,
        link_since: None,
        cut_from: None,
        cut_until: None,
        refuses: Vec::new(),
        refused: Vec::new(),
        tariff: tariff(),
        enrolment: None,
        out_of_service: false,
        connectors: Vec::new(),
    }
}

/// Whom a line asks about, and what else it says.
#[derive(Debug, Clone)]
struct Case {
    what: &'static str,
    url: String,
    ca: PathBuf,
    credentials: PathBuf,
    state: PathBuf,
    /// Instead of alice; nobody is named where it is empty.
    driver: &'static str,
    more: Vec<String>,
    timeout: &'static str,
    env: Vec<(&'static str, String)>,
    /// As an operator.
    op: bool,
}

impl Case {
    async fn run(&self, json: bool) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driver-cli"));
        command
            .env_clear()
            .env("EV_NATS_URL", &self.url)
            .env("EV_CREDENTIALS", &self.credentials)
            .env("EV_NATS_CA", &self.ca)
            .env("EV_STATE_DIR", &self.state)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .args(["--timeout", self.timeout])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !self.driver.is_empty() {
            command.env("EV_DRIVER", self.driver);
        }
        if json {
            command.arg("--json");
        }
        if self.op {
            command.arg("op");
        }
        timeout(PATIENCE, command.arg("doctor").output())
            .await
            .expect("the program hangs")
            .unwrap()
    }

    /// Ends with this exit code, and names this piece alone; its detail and its fix contain these.
    async fn names(&self, exit: i32, piece: &str, detail: &str, fix: &str) {
        let what = self.what;
        let done = self.run(true).await;
        let text = String::from_utf8(done.stdout).unwrap();
        let complaints = String::from_utf8(done.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{what}: {text}{complaints}");
        let doc: Value = serde_json::from_str(&text).unwrap();
        let bad: Vec<&Value> = doc["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["ok"] == false)
            .collect();
        assert_eq!(bad.len(), 1, "{what}: {text}");
        assert_eq!(bad[0]["piece"], piece, "{what}: {text}");
        let contains = |key: &str, words: &str| bad[0][key].as_str().unwrap().contains(words);
        assert!(contains("detail", detail), "{what}: {text}");
        assert!(contains("fix", fix), "{what}: {text}");
        assert_eq!(done.status.code(), Some(exit), "{what}: {text}");
        assert_eq!(doc["ok"], false, "{what}");

        let done = self.run(false).await;
        let text = String::from_utf8(done.stdout).unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("BAD")).collect();
        assert_eq!(lines.len(), 1, "{what}: {text}");
        assert!(
            lines[0].starts_with(&format!("BAD  {piece}")),
            "{what}: {text}"
        );
        assert_eq!(text.matches("fix: ").count(), 1, "{what}: {text}");
        assert_eq!(done.status.code(), Some(exit), "{what}: {text}");
    }

    async fn finds_nothing(&self) {
        let done = self.run(true).await;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(done.status.code(), Some(0), "{}: {text}", self.what);
        let doc: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(doc["ok"], true, "{}: {text}", self.what);
    }
}

struct Bench {
    server: NatsServer,
    folder: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let keys = Keys::new().unwrap();
        keys.creds(Role::Driver, "alice").unwrap();
        keys.creds(Role::Operator, "operator").unwrap();
        Self {
            server: NatsServer::start_with_keys(&keys).await.unwrap(),
            folder: TempDir::new().unwrap(),
        }
    }

    fn keys(&self) -> &Keys {
        self.server.keys()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Nothing is wrong.
    fn good(&self, what: &'static str) -> Case {
        Case {
            what,
            url: self.server.url(),
            ca: self.keys().ca(),
            credentials: self.keys().creds_dir(),
            state: self.path("state"),
            driver: "alice",
            more: Vec::new(),
            timeout: "2s",
            env: Vec::new(),
            op: false,
        }
    }

    fn creds(&self, role: Role, name: &str) -> PathBuf {
        self.keys().creds(role, name).unwrap()
    }

    /// A credential that ends so many seconds after it was made.
    fn ending(&self, name: &str, made_at_s: i64, after_s: i64) -> PathBuf {
        let mut realm = self.keys().realm().unwrap();
        let issued = realm.issue(Role::Driver, name, made_at_s + after_s, made_at_s);
        issued.unwrap().path
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_files_is_named() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, 0).await;
    let other = Keys::new().unwrap();
    let text = fs::read(bench.creds(Role::Driver, "alice")).unwrap();
    bench.good("nothing").finds_nothing().await;
    for (what, credentials, driver, exit, detail, fix) in [
        (
            "missing",
            bench.path("nowhere"),
            "alice",
            2,
            "cannot read",
            "--credentials",
        ),
        (
            "garbage",
            bench.file("garbage", "rubbish", 0o600),
            "alice",
            2,
            "no user JWT",
            "central enrol",
        ),
        (
            "garbage, nobody named",
            bench.path("garbage"),
            "",
            2,
            "no user JWT",
            "central enrol",
        ),
        (
            "open to all",
            bench.file("open", &text, 0o644),
            "alice",
            2,
            "chmod 600",
            "--credentials",
        ),
        (
            "another role's",
            bench.creds(Role::Operator, "operator"),
            "",
            4,
            "operator operator",
            "a driver's",
        ),
        (
            "another role's, named",
            bench.creds(Role::Operator, "operator"),
            "alice",
            4,
            "operator operator",
            "--driver",
        ),
        (
            "another's",
            bench.creds(Role::Driver, "bob"),
            "alice",
            4,
            "of driver bob",
            "--credentials",
        ),
        (
            "another installation's",
            other.creds(Role::Driver, "alice").unwrap(),
            "alice",
            4,
            "another installation",
            "central enrol",
        ),
        (
            "expired",
            bench.ending("eve", LONG_AGO_S, 9),
            "eve",
            4,
            "expired at 2001",
            "central enrol",
        ),
    ] {
        let case = Case {
            credentials,
            driver,
            // The server looks for an unknown account for two seconds.
            timeout: "20s",
            ..bench.good(what)
        };
        case.names(exit, "credentials", detail, fix).await;
    }
    let stolen = bench.file(
        "stolen",
        fs::read(bench.creds(Role::Driver, "mallory")).unwrap(),
        0o600,
    );
    let url = bench.server.url();
    bench
        .keys()
        .revoke(&url, Role::Driver, "mallory")
        .await
        .unwrap();
    Case {
        credentials: stolen,
        driver: "mallory",
        ..bench.good("revoked")
    }
    .names(4, "credentials", "revoked", "central enrol")
    .await;

    for (what, ca, exit, detail) in [
        ("no ca", bench.path("nowhere"), 2, "cannot read"),
        (
            "garbage for a ca",
            bench.path("garbage"),
            2,
            "holds no certificate",
        ),
        (
            "a damaged ca",
            bench.file(
                "damaged",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                0o644,
            ),
            2,
            "holds no certificate that can be read",
        ),
        ("another installation's ca", other.ca(), 7, "not signed by"),
    ] {
        let case = Case {
            ca,
            ..bench.good(what)
        };
        case.names(exit, "ca", detail, "--ca").await;
    }

    let below_a_file = bench.path("garbage").join("state");
    Case {
        state: below_a_file,
        ..bench.good("a state folder that is none")
    }
    .names(1, "state folder", "cannot", "--state-dir")
    .await;
    Case {
        driver: "",
        ..bench.good("nobody")
    }
    .names(2, "identity", "say which driver", "--driver")
    .await;
    Case {
        credentials: bench.creds(Role::Driver, "alice"),
        op: true,
        ..bench.good("a driver's for an operator")
    }
    .names(4, "credentials", "of driver alice", "an operator's")
    .await;
    Case {
        op: true,
        ..bench.good("nothing, for an operator")
    }
    .finds_nothing()
    .await;
}

#[tokio::test]
async fn whatever_is_wrong_with_the_server_is_named() {
    let bench = Bench::new().await;
    let at = |what, port: u16| Case {
        url: format!("nats://127.0.0.1:{port}"),
        ..bench.good(what)
    };
    at("a closed port", free_port())
        .names(7, "server", "refused", "nats-server runs there")
        .await;
    at("rubbish for a port", 0)
        .names(7, "server", "", "check the address")
        .await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    at("a silent port", silent.local_addr().unwrap().port())
        .names(7, "server", "does not answer", "check the address")
        .await;

    let monitor = bench.server.monitor_url();
    let http = monitor.rsplit(':').next().unwrap().parse().unwrap();
    at("an HTTP port", http)
        .names(7, "server", "no NATS server", "check the address")
        .await;

    let port = free_port();
    let mut clear = Process::program("nats-server", ev_testkit::nats_server_program().unwrap())
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .spawn()
        .unwrap();
    clear
        .wait_for_log("Server is ready", PATIENCE)
        .await
        .unwrap();
    at("a server in the clear", port)
        .names(7, "server", "in the clear", "shipped configuration")
        .await;

    // A name that the certificate does not have.
    Case {
        url: bench.server.url().replace("127.0.0.1", "127.0.0.2"),
        ..bench.good("another name")
    }
    .names(7, "server", "", "")
    .await;

    let keys = Keys::new().unwrap();
    keys.creds(Role::Driver, "alice").unwrap();
    keys.renew_server(1, LONG_AGO_S).unwrap();
    let expired = NatsServer::start_unseen(&keys, &keys.conf("single"))
        .await
        .unwrap();
    let case = Case {
        url: expired.url(),
        ca: keys.ca(),
        credentials: keys.creds_dir(),
        ..bench.good("an expired server certificate")
    };
    case.names(
        7,
        "server",
        "has expired",
        "central enrol certificate --host",
    )
    .await;

    let keys = Keys::new().unwrap();
    keys.creds(Role::Driver, "alice").unwrap();
    let own = certificate::client(keys.dir(), "alice", 1, now_s()).unwrap();
    let strange = {
        let other = Keys::new().unwrap();
        let made = certificate::client(other.dir(), "alice", 1, now_s()).unwrap();
        let copy = |from: &Path, name: &str| bench.file(name, fs::read(from).unwrap(), 0o600);
        (
            copy(&made.certificate, "strange.crt"),
            copy(&made.key, "strange.key"),
        )
    };
    let conf = keys.mutual(&own).unwrap();
    let asking = NatsServer::start_unseen(&keys, &conf).await.unwrap();
    let with = |what, pair: Option<(&Path, &Path)>| Case {
        url: asking.url(),
        ca: keys.ca(),
        credentials: keys.creds_dir(),
        more: pair.map_or_else(Vec::new, |(certificate, key)| {
            let path = |path: &Path| path.display().to_string();
            vec![
                "--certificate".into(),
                path(certificate),
                "--key".into(),
                path(key),
            ]
        }),
        ..bench.good(what)
    };
    with("no client certificate", None)
        .names(
            7,
            "certificate",
            "asks for a client's certificate",
            "--certificate",
        )
        .await;
    with(
        "another installation's client certificate",
        Some((&strange.0, &strange.1)),
    )
    .names(7, "certificate", "does not take", "--certificate")
    .await;
    with(
        "a client certificate that is none",
        Some((&keys.creds_dir().join("driver/alice.creds"), &own.key)),
    )
    .names(2, "certificate", "holds no certificate", "")
    .await;
    // What is left to be wrong is that nobody answers.
    with("a client certificate", Some((&own.certificate, &own.key)))
        .names(7, "central", "", "start central")
        .await;
}

#[tokio::test]
async fn a_central_that_is_not_there_or_is_not_permitted_is_named() {
    let bench = Bench::new().await;
    bench
        .good("no central")
        .names(7, "central", "central is not there", "start central")
        .await;
    Case {
        op: true,
        ..bench.good("no central for an operator")
    }
    .names(7, "central", "central is not there", "/readyz")
    .await;
    // One that hears and says nothing.
    let frozen = bench.server.connect().await.unwrap();
    let _heard = frozen
        .queue_subscribe("ev.v1.driver.*.*", "central".into())
        .await
        .unwrap();
    frozen.flush().await.unwrap();
    bench
        .good("a frozen central")
        .names(6, "central", "has not answered", "start central")
        .await;

    // In operator mode no credential can lack a part of its role; here the server lacks it.
    for (what, denied, said) in [
        (
            "may not ask",
            r#"publish: { deny: ["ev.v1.driver.>"] }"#,
            "may not publish to ev.v1.driver.alice",
        ),
        (
            "may not hear",
            r#"subscribe: { deny: ["_INBOX_alice.>"] }"#,
            "may not subscribe to _INBOX_alice",
        ),
    ] {
        let conf = bench.file(
            "denied.conf",
            format!(
                r#"jetstream {{ store_dir: $EV_NATS_STORE }}
                   tls {{ cert_file: $EV_NATS_SERVER_CERT, key_file: $EV_NATS_SERVER_KEY, handshake_first: true }}
                   authorization {{ default_permissions: {{ {denied} }}
                                    users: [ {{ user: "a", password: "a" }} ] }}
                   no_auth_user: "a""#
            ),
            0o600,
        );
        let server = NatsServer::start_with_conf(bench.keys(), &conf)
            .await
            .unwrap();
        let case = Case {
            url: server.url(),
            ..bench.good(what)
        };
        case.names(4, "permission", said, "central enrol push")
            .await;
    }
}

#[tokio::test]
async fn a_wrong_clock_is_named_and_not_what_it_makes_look_wrong() {
    let bench = Bench::new().await;
    for (what, ahead_ms, said) in [
        ("a clock that is behind", 3 * HOUR_MS, "behind central's"),
        ("a clock that is ahead", -3 * HOUR_MS, "ahead of central's"),
    ] {
        let _central = Central::start(&bench.server, ahead_ms).await;
        bench
            .good(what)
            .names(1, "clock", said, "timedatectl")
            .await;
        Case {
            op: true,
            ..bench.good(what)
        }
        .names(1, "clock", said, "timedatectl")
        .await;
    }
    let Some(library) = faketime() else {
        println!("libfaketime is not installed, so no clock is really wrong");
        return;
    };
    let _central = Central::start(&bench.server, 0).await;
    bench.ending("carol", now_s(), 3_600);
    let shifted = |what, by: &str| Case {
        env: vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME", by.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ],
        ..bench.good(what)
    };
    shifted("behind", "-5h")
        .names(1, "clock", "behind", "timedatectl")
        .await;
    // Her credential has expired by this clock, and the server takes it.
    Case {
        driver: "carol",
        ..shifted("ahead", "+5h")
    }
    .names(1, "clock", "ahead of", "timedatectl")
    .await;
}

#[tokio::test]
async fn a_credential_that_ends_soon_is_spoken_of_beside_the_data() {
    let bench = Bench::new().await;
    let _central = Central::start(&bench.server, 0).await;
    bench.ending("soon", now_s(), 3 * DAY_S + 60);
    bench.ending("late", now_s(), 30 * DAY_S);
    for (driver, is_told) in [("soon", true), ("late", false)] {
        let case = Case {
            driver,
            ..bench.good("soon")
        };
        case.finds_nothing().await;
        let doctor = String::from_utf8(case.run(false).await.stdout).unwrap();
        assert_eq!(doctor.contains("expires in 3 days"), is_told, "{doctor}");
        let mut list = Command::new(env!("CARGO_BIN_EXE_driver-cli"));
        list.env_clear()
            .args(["--json", "--driver", driver, "--nats-url", &case.url])
            .arg("--credentials")
            .arg(&case.credentials)
            .arg("--ca")
            .arg(&case.ca)
            .arg("--state-dir")
            .arg(&case.state)
            .arg("list");
        let done = timeout(PATIENCE, list.output()).await.unwrap().unwrap();
        assert_eq!(done.status.code(), Some(0));
        serde_json::from_slice::<Value>(&done.stdout).expect("one document");
        let told = String::from_utf8(done.stderr).unwrap();
        assert_eq!(told.contains("expires in 3 days"), is_told, "{told}");
        assert!(told.lines().count() <= 1, "{told}");
    }
}

/// Where Debian's package libfaketime puts the library for programs with threads.
fn faketime() -> Option<PathBuf> {
    fs::read_dir("/usr/lib")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.is_file())
}
