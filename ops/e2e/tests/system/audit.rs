//! The audit: who did what, when, and what came of it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::{HeaderMap, jetstream};
use ev_client::Credential;
use ev_contract::{
    codes::Code,
    connector::Phase,
    streams,
    v1::{AuditEntry, AuditKind, AuditOutcome, AuditReply, ErrorReply, Status},
    wire::{self, CONTENT_TYPE, CONTENT_TYPE_JSON, Encoding},
};
use ev_e2e::{Charger, Driver, Layout, Site, now_ms};
use ev_testkit::{PATIENCE, Role, our_program, wait_for};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use uuid::Uuid;

use crate::plugged;

/// What is written down of one who is refused: so many at once, and one more in so long.
const REFUSALS_AT_ONCE: usize = 30;
const REFUSAL_EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn operator(site: &Site, who: &str) -> Result<Driver> {
    site.asker(Role::Operator, who).await
}

async fn small() -> Result<Site> {
    Site::start(&Layout::small(Charger::Orderly).centrals(2)).await
}

/// Everything in the stream, in order, as it is there.
pub(crate) async fn entries(site: &Site) -> Result<Vec<AuditEntry>> {
    let js = jetstream::new(site.nats.connect().await?);
    let mut stream = js.get_stream(streams::AUDIT.name).await?;
    let last = stream.info().await?.state.last_sequence;
    let mut entries = Vec::new();
    for seq in 1..=last {
        let message = stream.get_raw_message(seq).await?;
        let entry: AuditEntry = wire::decode(&message.payload, Encoding::MsgPack)?;
        let name = entry.name.as_deref().unwrap_or("_");
        ensure!(message.subject.as_str() == format!("ev.v1.audit.{}.{name}", entry.kind));
        entries.push(entry);
    }
    Ok(entries)
}

pub(crate) async fn of(site: &Site, name: &str) -> Result<Vec<AuditEntry>> {
    let mut entries = entries(site).await?;
    entries.retain(|entry| entry.name.as_deref() == Some(name));
    Ok(entries)
}

/// The public key of somebody's credential.
pub(crate) fn key(site: &Site, role: Role, name: &str) -> Result<String> {
    let path = site.nats.keys().creds(role, name)?;
    Ok(Credential::read(&path)?.public_key())
}

/// Waits for the only entry about somebody.
pub(crate) async fn only(site: &Site, name: &str) -> Result<AuditEntry> {
    wait_for(&format!("an entry about {name}"), PATIENCE, async || {
        let mut entries = of(site, name).await?;
        ensure!(entries.len() == 1, "{} there", entries.len());
        entries.pop().context("one")
    })
    .await
}

/// An operator's request in JSON, exactly once; the answer as JSON.
pub(crate) async fn op(
    operator: &Driver,
    verb: &str,
    mut body: Value,
    changes: bool,
) -> Result<Value> {
    if changes && body.get("request_id").is_none() {
        body["request_id"] = Uuid::new_v4().to_string().into();
        body["expires_at"] = (now_ms() + 20_000).into();
    }
    let subject = format!("ev.v1.op.{}.{verb}", operator.id);
    let bytes = operator
        .raw(subject, serde_json::to_vec(&body)?, Encoding::Json)
        .await?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_of_an_operator_is_on_disk_before_its_answer() -> Result<()> {
    let site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    let (olga, otto) = (
        operator(&site, "olga").await?,
        operator(&site, "otto").await?,
    );
    let terms = crate::terms("0.49", "1.00");
    let started = op(
        &otto,
        "session_start",
        json!({"driver_id": "alice", "cp_id": "CP-001"}),
        true,
    )
    .await?;
    let session = started["session_id"]
        .as_str()
        .context("a session")?
        .to_owned();
    let entry = only(&site, "otto").await?;
    ensure!(entry.session_id.as_deref() == Some(&*session), "{entry:?}");
    ensure!(entry.driver_id.as_deref() == Some("alice"), "{entry:?}");
    alice.wait_phase(&session, Phase::Charging).await?;

    let ok = (AuditOutcome::Accepted, None);
    let denied = |code| (AuditOutcome::Denied, Some(code));
    let cases = [
        ("cp_ls", json!({}), false, ok, "verb"),
        (
            "cp_ls",
            json!({"cp_id": "CP-404"}),
            false,
            denied(Code::UnknownChargePoint),
            "cp_id",
        ),
        ("cp_disable", json!({"cp_id": "CP-002"}), true, ok, "cp_id"),
        ("cp_enable", json!({"cp_id": "CP-002"}), true, ok, "cp_id"),
        (
            "cp_enable",
            json!({"cp_id": "CP-404"}),
            true,
            denied(Code::UnknownChargePoint),
            "cp_id",
        ),
        (
            "cp_unlock",
            json!({"cp_id": "CP-002", "connector": 1}),
            true,
            ok,
            "cp_id",
        ),
        ("cp_reset", json!({"cp_id": "CP-002"}), true, ok, "cp_id"),
        (
            "session_ls",
            json!({"driver_id": "alice"}),
            false,
            ok,
            "driver_id",
        ),
        (
            "session_adjust",
            json!({"session_id": session, "amount": "1", "reason": "x"}),
            true,
            denied(Code::SessionOpen),
            "session_id",
        ),
        (
            "session_end",
            json!({"session_id": session, "reason": " "}),
            true,
            denied(Code::ReasonRequired),
            "session_id",
        ),
        (
            "session_end",
            json!({"session_id": session, "reason": "closing time"}),
            true,
            ok,
            "session_id",
        ),
        (
            "driver_block",
            json!({"driver_id": "bob", "reason": "unpaid"}),
            true,
            ok,
            "driver_id",
        ),
        (
            "driver_unblock",
            json!({"driver_id": "bob"}),
            true,
            ok,
            "driver_id",
        ),
        (
            "tariff_set",
            json!({"tariff_id": "std", "scope": "default", "terms": terms}),
            true,
            ok,
            "tariff_id",
        ),
        ("tariff_ls", json!({}), false, ok, "verb"),
        ("audit", json!({"rows": 1}), false, ok, "verb"),
        (
            "audit",
            json!({"after": 1, "before": 2}),
            false,
            denied(Code::InvalidRequest),
            "verb",
        ),
        (
            "tariff_ls",
            json!({"type": "cp_ls"}),
            false,
            denied(Code::InvalidRequest),
            "verb",
        ),
        ("dance", json!({}), false, denied(Code::UnknownVerb), "verb"),
    ];
    for (n, (verb, body, changes, expected, names)) in cases.into_iter().enumerate() {
        let answer = op(&olga, verb, body.clone(), changes).await?;
        // Not waited for: it must be there.
        let mine = of(&site, "olga").await?;
        ensure!(
            mine.len() == n + 1,
            "{verb}: {} entries, asked {}",
            mine.len(),
            n + 1
        );
        let entry = &mine[n];
        let what = format!("{verb} {body}: {entry:?}, told {answer}");
        ensure!((entry.outcome, entry.code) == expected, "{what}");
        ensure!(entry.kind == AuditKind::Op && !entry.repeat, "{what}");
        ensure!(entry.verb == verb, "{what}");
        ensure!(
            entry.subject.as_deref() == Some(&*format!("ev.v1.op.olga.{verb}")),
            "{what}"
        );
        ensure!(entry.request_id.is_some() == changes, "{what}");
        ensure!(
            entry.credential == Some(key(&site, Role::Operator, "olga")?),
            "{what}"
        );
        ensure!(entry.replica.as_str().starts_with("central-"), "{what}");
        let there = serde_json::to_value(entry)?;
        ensure!(names == "verb" || there[names] == body[names], "{what}");
        ensure!(!there.to_string().contains("closing time"), "{what}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_the_same_and_written_down_as_one() -> Result<()> {
    let site = small().await?;
    let olga = operator(&site, "olga").await?;
    let body = json!({"driver_id": "bob", "reason": "unpaid", "request_id": "r-1",
                      "expires_at": now_ms() + 20_000});
    for _ in 0..3 {
        let answer = op(&olga, "driver_block", body.clone(), true).await?;
        ensure!(answer["status"] == "accepted", "{answer}");
    }
    let mut other = body;
    other["driver_id"] = "carol".into();
    let answer = op(&olga, "driver_block", other, true).await?;
    ensure!(
        answer["reason"] == Code::RequestIdReused.as_str(),
        "{answer}"
    );
    let mine = of(&site, "olga").await?;
    let shown: Vec<_> = mine.iter().map(|e| (e.outcome, e.repeat)).collect();
    let accepted = AuditOutcome::Accepted;
    let expected = [
        (accepted, false),
        (accepted, true),
        (accepted, true),
        (AuditOutcome::Denied, false),
    ];
    ensure!(shown == expected, "{shown:?}");
    ensure!(mine.iter().all(|e| e.request_id.as_deref() == Some("r-1")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reaches_for_anothers_session_is_written_down_and_told_nothing() -> Result<()> {
    let site = small().await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    let never = Uuid::now_v7().to_string();
    for (who, id, detail) in [
        ("mallory", &session, "another driver's session"),
        ("trudy", &never, "no such session"),
    ] {
        let driver = site.driver(who).await?;
        let told = driver.stop_with(id, &Uuid::new_v4().to_string()).await?;
        ensure!(told.status == Status::Denied, "{told:?}");
        ensure!(
            told.reason.as_deref() == Some(Code::SessionNotFound.as_str()),
            "{told:?}"
        );
        let text = serde_json::to_string(&told)?;
        ensure!(
            !text.contains(detail) && text.contains("you have no session"),
            "{text}"
        );
        let entry = only(&site, who).await?;
        ensure!(
            entry.kind == AuditKind::Driver && entry.verb == "stop",
            "{entry:?}"
        );
        ensure!(entry.outcome == AuditOutcome::Denied, "{entry:?}");
        ensure!(entry.code == Some(Code::SessionNotFound), "{entry:?}");
        ensure!(entry.session_id.as_deref() == Some(id), "{entry:?}");
        ensure!(entry.detail.as_deref() == Some(detail), "{entry:?}");
    }
    // Asking is written down like stopping.
    for (who, verb) in [("ivan", "status"), ("eve", "receipt")] {
        let driver = site.driver(who).await?;
        let told: Result<Value, ErrorReply> = driver
            .ask(
                &format!("ev.v1.driver.{who}.{verb}"),
                &json!({"session_id": session}),
            )
            .await?;
        ensure!(told.is_err_and(|e| e.error.code == Code::SessionNotFound));
        let entry = only(&site, who).await?;
        ensure!(entry.verb == verb && entry.session_id.as_deref() == Some(&*session));
    }
    ensure!(
        of(&site, "alice").await?.is_empty(),
        "her own session is nobody's business"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_for_another_is_written_down() -> Result<()> {
    let site = small().await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    let send = async |role: Role, who: &str, verb: &str, body: Value| -> Result<()> {
        let asker = site.asker(role, who).await?;
        let subject = match role {
            Role::Driver => format!("ev.v1.driver.{who}.{verb}"),
            Role::Operator => format!("ev.v1.op.{who}.{verb}"),
            _ => format!("ev.v1.cp.{who}.{verb}"),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
        let bytes = serde_json::to_vec(&body)?.into();
        asker
            .nats
            .publish_with_reply_and_headers(subject, asker.nats.new_inbox(), headers, bytes)
            .await?;
        asker.nats.flush().await?;
        Ok(())
    };
    let to_bob = json!({"to": "bob"});
    for (role, who, verb, kind) in [
        (Role::Driver, "d-1", "status", AuditKind::Driver),
        (Role::Operator, "o-1", "cp_ls", AuditKind::Op),
    ] {
        send(role, who, verb, to_bob.clone()).await?;
        let entry = only(&site, who).await?;
        let detail = Some("it is addressed to somebody else");
        ensure!(
            entry.kind == kind && entry.detail.as_deref() == detail,
            "{entry:?}"
        );
    }
    // A charge point in the name of another one, and with another one's session.
    send(
        Role::ChargePoint,
        "CP-009",
        "sync",
        json!({"type": "sync", "to": "central", "cp_id": "CP-001"}),
    )
    .await?;
    send(
        Role::ChargePoint,
        "CP-008",
        "hb",
        json!({"type": "hb", "to": "central", "cp_id": "CP-001", "epoch": "e-1", "boot": "0000000000000001", "ts": now_ms(),
               "uptime_s": 1, "version": "1", "spool_depth": 0}),
    )
    .await?;
    let another = Some("it names another sender or addressee");
    let entry = only(&site, "CP-009").await?;
    ensure!(
        entry.verb == "sync" && entry.detail.as_deref() == another,
        "{entry:?}"
    );
    // Every central hears a heartbeat.
    wait_for("both have written it down", PATIENCE, async || {
        let beats = of(&site, "CP-008").await?;
        ensure!(beats.len() == 2, "{beats:?}");
        let right = |e: &AuditEntry| e.verb == "hb" && e.detail.as_deref() == another;
        ensure!(beats.iter().all(right), "{beats:?}");
        Ok(())
    })
    .await?;
    let record = json!({"seq": 1, "at": now_ms(), "quality": "synced",
                        "fact": {"kind": "accepted", "session_id": session, "connector": 1}});
    send(
        Role::ChargePoint,
        "CP-002",
        "evt",
        json!({"type": "evt", "to": "central", "epoch": "e-x", "boot": "0000000000000001", "first": 1, "from": 1,
               "records": [record]}),
    )
    .await?;
    let entry = only(&site, "CP-002").await?;
    ensure!(
        entry.kind == AuditKind::Cp && entry.verb == "evt",
        "{entry:?}"
    );
    ensure!(entry.session_id.as_deref() == Some(&*session), "{entry:?}");
    ensure!(
        entry.detail.as_deref() == Some("another charge point's session"),
        "{entry:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_is_what_the_server_says_whatever_the_header_claims() -> Result<()> {
    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let site = small().await?;
    for (who, role, subject) in [
        ("olga", Role::Operator, "ev.v1.op.olga.tariff_ls"),
        ("mallory", Role::Driver, "ev.v1.driver.mallory.receipt"),
    ] {
        let asker = site.asker(role, who).await?;
        let forged = json!({"acc": "OPERATORS", "user": KEY, "name_tag": "root", "id": 7});
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Request-Info", forged.to_string().as_str());
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
        let body = json!({"session_id": Uuid::now_v7().to_string()}).to_string();
        let asked = asker
            .nats
            .request_with_headers(subject, headers, body.into());
        tokio::time::timeout(PATIENCE, asked).await??;
        let entry = only(&site, who).await?;
        ensure!(
            entry.credential == Some(key(&site, role, who)?),
            "{entry:?}"
        );
        ensure!(!serde_json::to_string(&entry)?.contains(KEY));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_leaves_a_bounded_number_of_entries() -> Result<()> {
    const FLOOD: usize = 400;
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let mallory = site.driver("mallory").await?;
    let began = Instant::now();
    for _ in 0..FLOOD {
        let never = Uuid::now_v7().to_string();
        let bytes = serde_json::to_vec(&json!({"session_id": never}))?;
        mallory
            .raw("ev.v1.driver.mallory.status".into(), bytes, Encoding::Json)
            .await?;
    }
    // Somebody else's is still written down, and comes after hers.
    let eve = site.driver("eve").await?;
    ensure!(eve.session(&Uuid::now_v7().to_string()).await.is_err());
    only(&site, "eve").await?;
    let slow = began.elapsed().as_secs() / REFUSAL_EVERY.as_secs();
    let allowed = REFUSALS_AT_ONCE + usize::try_from(slow)? + 1;
    let hers = of(&site, "mallory").await?.len();
    ensure!(
        (REFUSALS_AT_ONCE..=allowed).contains(&hers),
        "{hers} entries"
    );
    let dropped = site
        .metric(
            0,
            "ev_audit_entries_total{kind=\"driver\",result=\"dropped\"}",
        )
        .await?;
    let expected = u32::try_from(FLOOD - hers)?;
    ensure!(
        (dropped - f64::from(expected)).abs() < 0.5,
        "{dropped} dropped"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_an_operator_is_answered_and_mostly_not_written_down() -> Result<()> {
    let site = Site::start(&Layout {
        central_extra: "[limits]\noperator = { per_s = 1, burst = 5 }".into(),
        ..Layout::small(Charger::Orderly)
    })
    .await?;
    let otto = operator(&site, "otto").await?;
    let (mut accepted, mut overloaded) = (0, 0);
    for _ in 0..150 {
        let answer = op(&otto, "tariff_ls", json!({}), false).await?;
        if answer["type"] == "tariff_ls.reply" {
            accepted += 1;
        } else {
            ensure!(answer["reason"] == Code::Overloaded.as_str(), "{answer}");
            overloaded += 1;
        }
    }
    ensure!(
        accepted >= 5 && overloaded > 100,
        "{accepted}, {overloaded}"
    );
    wait_for("the refusals are written down", PATIENCE, async || {
        let his = of(&site, "otto").await?;
        let unknown = his.iter().filter(|e| e.outcome == AuditOutcome::Unknown);
        let unknown = unknown.filter(|e| e.code == Some(Code::Overloaded)).count();
        ensure!(
            (REFUSALS_AT_ONCE..REFUSALS_AT_ONCE + 5).contains(&unknown),
            "{unknown}"
        );
        ensure!(his.len() == accepted + unknown, "{}", his.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_survive_restarts_and_nobody_can_remove_them() -> Result<()> {
    let mut site = small().await?;
    let olga = operator(&site, "olga").await?;
    for _ in 0..3 {
        op(&olga, "tariff_ls", json!({}), false).await?;
    }
    let before = entries(&site).await?;
    ensure!(before.len() == 3);
    site.centrals[0].kill9()?;
    site.nats.kill()?;
    site.nats.restart().await?;
    site.central_again(0).await?;
    site.ready(1).await?;
    ensure!(entries(&site).await? == before);
    // Not even by who repairs streams.
    let js = site.maintainer().await?;
    let stream = js.get_stream(streams::AUDIT.name).await?;
    ensure!(
        stream.delete_message(1).await.is_err(),
        "a message was deleted"
    );
    ensure!(stream.purge().await.is_err(), "the stream was purged");
    let mut open = stream.cached_info().config.clone();
    open.deny_delete = false;
    open.deny_purge = false;
    ensure!(js.update_stream(open).await.is_err(), "it was opened up");
    // One that is full can be given room.
    let mut more = stream.cached_info().config.clone();
    more.max_bytes *= 2;
    js.update_stream(more).await?;
    site.centrals[0].kill9()?;
    site.central_again(0).await?;
    op(&olga, "tariff_ls", json!({}), false).await?;
    let after = entries(&site).await?;
    ensure!(after.len() == 4 && after[..3] == before[..], "{after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_in_the_audit_operators_are_told_nothing_and_drivers_notice_nothing()
-> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let alice = site.driver("alice").await?;
    let olga = operator(&site, "olga").await?;
    // There, and with room for nothing: one that is gone is made anew.
    let js = site.maintainer().await?;
    let stream = js.get_stream(streams::AUDIT.name).await?;
    let mut full = stream.cached_info().config.clone();
    full.max_bytes = 64;
    js.update_stream(full).await?;
    for (verb, changes) in [
        ("tariff_ls", false),
        ("driver_block", true),
        ("audit", false),
    ] {
        let answer = op(
            &olga,
            verb,
            json!({"driver_id": "bob", "reason": "x"}),
            changes,
        )
        .await?;
        ensure!(
            answer["type"] == "error" && answer["status"] == "unknown",
            "{answer}"
        );
        ensure!(answer["error"]["retryable"] == true, "{answer}");
    }
    let failed = site
        .metric(0, "ev_audit_entries_total{kind=\"op\",result=\"failed\"}")
        .await?;
    ensure!(failed >= 2.0, "{failed} failed");
    let session = alice.start("CP-001").await?;
    alice.stop(&session).await?;
    Ok(())
}

pub(crate) struct Cli<'a> {
    site: &'a Site,
    who: &'static str,
    dir: tempfile::TempDir,
}

impl<'a> Cli<'a> {
    pub(crate) fn of(site: &'a Site, who: &'static str) -> Result<Self> {
        let dir = tempfile::TempDir::new()?;
        Ok(Self { site, who, dir })
    }

    fn command(&self, words: &[&str]) -> Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(our_program("driver-cli")?);
        let keys = self.site.nats.keys();
        command
            .args(["--nats-url", &self.site.nats.url()])
            .arg("--credentials")
            .arg(keys.creds(Role::Operator, self.who)?)
            .arg("--ca")
            .arg(keys.ca())
            .args(["--operator", self.who])
            .arg("--state-dir")
            .arg(self.dir.path())
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Result<String> {
        let output = tokio::time::timeout(PATIENCE, self.command(words)?.output()).await??;
        ensure!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_the_audit_and_follows_it() -> Result<()> {
    let site = small().await?;
    let (olga, otto) = (
        operator(&site, "olga").await?,
        operator(&site, "otto").await?,
    );
    let cli = Cli::of(&site, "paula")?;
    Cli::of(&site, "olga")?
        .run(&["op", "driver", "block", "bob", "--reason", "unpaid"])
        .await?;
    for _ in 0..250 {
        op(&otto, "tariff_ls", json!({}), false).await?;
    }
    let mallory = site.driver("mallory").await?;
    ensure!(mallory.session(&Uuid::now_v7().to_string()).await.is_err());
    only(&site, "mallory").await?;

    let table = cli.run(&["op", "audit", "--limit", "3"]).await?;
    let lines: Vec<_> = table.lines().collect();
    ensure!(lines.len() == 4 && lines[0].starts_with("WHEN"), "{table}");
    ensure!(
        lines[3].contains("driver mallory") && lines[3].contains("session_not_found"),
        "{table}"
    );
    // The block lies further back than a page.
    let found = cli
        .run(&["op", "audit", "--who", "olga", "--since", "1h", "--json"])
        .await?;
    let found: Value = serde_json::from_str(&found)?;
    ensure!(
        found["entries"].as_array().is_some_and(|e| e.len() == 1),
        "{found}"
    );
    ensure!(found["entries"][0]["verb"] == "driver_block", "{found}");
    ensure!(found["entries"][0]["driver_id"] == "bob", "{found}");
    let all = cli
        .run(&[
            "op",
            "audit",
            "--verb",
            "tariff_ls",
            "--limit",
            "10000",
            "--json",
        ])
        .await?;
    let all: Value = serde_json::from_str(&all)?;
    ensure!(
        all["entries"].as_array().is_some_and(|e| e.len() == 250),
        "a walk over pages"
    );
    let seqs: Vec<_> = all["entries"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| e["seq"].as_u64())
        .collect();
    ensure!(seqs.is_sorted() && seqs[0] == Some(2), "{seqs:?}");

    let mut following = cli
        .command(&[
            "op",
            "audit",
            "--follow",
            "--verb",
            "driver_unblock",
            "--json",
        ])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("its output")?).lines();
    wait_for("it has asked for what is new", PATIENCE, async || {
        let reads = of(&site, "paula").await?;
        ensure!(
            reads
                .iter()
                .any(|e| e.detail.as_deref() == Some("verb driver_unblock"))
        );
        Ok(())
    })
    .await?;
    op(&olga, "driver_unblock", json!({"driver_id": "bob"}), true).await?;
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    let entry: Value = serde_json::from_str(&line.context("a line")?)?;
    ensure!(
        entry["verb"] == "driver_unblock" && entry["name"] == "olga",
        "{entry}"
    );
    following.kill().await?;
    // Following is written down by its first page and then once a minute, at each replica.
    let reads = of(&site, "paula").await?;
    ensure!(reads.iter().all(|e| e.verb == "audit"), "{reads:?}");
    ensure!((4..=6).contains(&reads.len()), "{} reads", reads.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_forwards_and_backwards_without_a_gap() -> Result<()> {
    let site = small().await?;
    let olga = operator(&site, "olga").await?;
    let both = [operator(&site, "o-0").await?, operator(&site, "o-1").await?];
    for n in 0..7 {
        op(&both[n % 2], "tariff_ls", json!({}), false).await?;
    }
    let page = async |body: Value| -> Result<AuditReply> {
        let answer = op(&olga, "audit", body, false).await?;
        Ok(serde_json::from_value(answer)?)
    };
    let seqs = |page: &AuditReply| page.entries.iter().map(|row| row.seq).collect::<Vec<_>>();
    let first = page(json!({"rows": 3})).await?;
    ensure!(seqs(&first) == [5, 6, 7] && first.more, "{first:?}");
    let older = page(json!({"rows": 10, "before": first.first_seq})).await?;
    ensure!(seqs(&older) == [1, 2, 3, 4] && !older.more, "{older:?}");
    let newer = page(json!({"rows": 2, "after": 1})).await?;
    ensure!(seqs(&newer) == [2, 3] && newer.more, "{newer:?}");
    let hers = page(json!({"rows": 2, "after": 0, "who": "o-1"})).await?;
    ensure!(
        seqs(&hers) == [2, 4] && hers.more && hers.last_seq == 4,
        "{hers:?}"
    );
    let none = page(json!({"after": hers.last_seq, "verb": "cp_reset"})).await?;
    ensure!(
        none.entries.is_empty() && !none.more && none.last_seq >= 7,
        "{none:?}"
    );
    let later = page(json!({"after": 100_000})).await?;
    ensure!(
        later.entries.is_empty() && !later.more && later.last_seq == 100_000,
        "{later:?}"
    );
    let since = page(json!({"since": now_ms() + 3_600_000})).await?;
    ensure!(since.entries.is_empty() && !since.more, "{since:?}");
    Ok(())
}
