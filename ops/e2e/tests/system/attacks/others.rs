//! Drivers who reach for others' sessions, with what they may send.

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    connector::Phase,
    v1::{AuditEntry, AuditOutcome},
    wire::{self, Encoding},
};
use ev_e2e::{Charger, Driver, StartOptions, now_ms};
use ev_testkit::{PATIENCE, Role, wait_for};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Cli, Guest, server_logs};
use crate::{audit, ended_right, plugged};

const NOT_ALLOWED: &str = "ev_requests_total{code=\"not_allowed\",result=\"error\",verb=\"start\"}";

#[tokio::test(flavor = "multi_thread")]
async fn who_names_another_as_the_asker_is_refused_and_written_down() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let (alice, mallory) = (site.driver("alice").await?, site.driver("mallory").await?);
    let start = json!({"request_id": "r-1", "expires_at": now_ms() + 20_000, "cp_id": "CP-001",
                       "driver_id": "alice"});
    let answer = mallory
        .raw(
            "ev.v1.driver.mallory.start".into(),
            serde_json::to_vec(&start)?,
            Encoding::Json,
        )
        .await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    ensure!(
        answer["reason"] == "not_allowed" && answer["to"] == "mallory",
        "{answer}"
    );
    let hint = answer["error"]["hint"].as_str().context("a hint")?;
    ensure!(hint.contains("leave `driver_id` out"), "{hint}");
    let entry = audit::only(&site, "mallory").await?;
    ensure!(entry.outcome == AuditOutcome::Denied, "{entry:?}");
    ensure!(entry.code == Some(Code::NotAllowed), "{entry:?}");
    ensure!(entry.detail.as_deref() == Some("it names another sender"));
    ensure!(entry.credential == Some(audit::key(&site, Role::Driver, "mallory")?));
    ensure!(site.metric(0, NOT_ALLOWED).await? > 0.5);
    ensure!(alice.history().await?.is_empty() && mallory.history().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_session_is_neither_seen_nor_stopped_nor_asked_for_again() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let options = StartOptions::default();
    let update = alice.start_with("CP-001", &options).await?;
    let session = ev_e2e::accepted(&update)?;
    alice.wait_phase(&session, Phase::Charging).await?;

    let mallory = Cli::of(&site.nats, Role::Driver, "mallory")?;
    for listing in ["list", "status", "history"] {
        let told = mallory.run(&[listing, "--json"]).await?;
        ensure!(told.code == 0, "{told:?}");
        for word in [&*session, &session[..8], "alice"] {
            ensure!(!told.out.contains(word), "{listing} shows {word}: {told:?}");
        }
    }
    let none = "you have no session";
    for verb in ["stop", "status", "receipt", "watch"] {
        let told = mallory.run(&[verb, &session]).await?;
        told.told(3, &[none, "`status` and `history` show your sessions"])?;
        let told = mallory.run(&[verb, &session[..8]]).await?;
        told.told(3, &[none])?;
        let told = mallory.run(&[verb, &Uuid::now_v7().to_string()]).await?;
        told.told(3, &[none])?;
    }
    let hers = wait_for("all of it is written down", PATIENCE, async || {
        let hers = audit::of(&site, "mallory").await?;
        ensure!(hers.len() >= 8, "{} entries", hers.len());
        Ok(hers)
    })
    .await?;
    for verb in ["stop", "status", "receipt"] {
        for detail in ["another driver's session", "no such session"] {
            let there = hers.iter().any(|e| {
                e.verb == verb
                    && e.detail.as_deref() == Some(detail)
                    && e.code == Some(Code::SessionNotFound)
            });
            ensure!(there, "{verb}, {detail}: {hers:?}");
        }
    }
    ensure!(!alice.session(&session).await?.stopping);

    // What alice once sent, sent again: by herself it is answered as before, also when the session
    // has ended.
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    let again = alice.start_with("CP-001", &options).await?;
    ensure!(again.session_id == update.session_id, "{again:?}");
    // By another it cannot be sent to where it was, and elsewhere it is another's own.
    let recorded = wire::encode(
        &Driver::start_request("CP-001", &options),
        Encoding::MsgPack,
    )?;
    let thief = Guest::of(&site.nats, Role::Driver, "mallory").await?;
    let subject = "ev.v1.driver.alice.start";
    let inbox = thief.nats.new_inbox();
    thief
        .nats
        .publish_with_reply(subject, inbox, recorded.into())
        .await?;
    thief.hears("may not publish to ev.v1.driver.alice").await?;
    let key = audit::key(&site, Role::Driver, "mallory")?;
    server_logs(&site.nats, &[&key, subject]).await?;
    ensure!(alice.history().await?.len() == 1 && alice.open().await?.is_empty());
    Ok(())
}

/// What comes to a subject that somebody hears need not be meant for them: an asker aims the answer
/// to a question wherever in the account it likes, and a charge point sends values for any driver.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_send_to_a_driver_or_charge_point_is_passed_over() -> Result<()> {
    const FORGED_MWH: u64 = 777_000_000_000;
    let site = plugged(Charger::Orderly, 1).await?;
    let bob = site.driver("bob").await?;
    let before = site.register("CP-001").await?;
    let session = bob.start("CP-001").await?;
    bob.wait_phase(&session, Phase::Charging).await?;
    let cli = Cli::of(&site.nats, Role::Driver, "bob")?;
    let mut watching = cli.spawn(&["watch", &session, "--json"])?;
    watching
        .wait_for_log("\"event\":\"live\"", PATIENCE)
        .await?;

    // A driver aims answers at bob's updates, at values for him, and beyond the account.
    let ear = Guest::of(&site.nats, Role::Driver, "bob").await?;
    let mut updates = ear
        .nats
        .subscribe(format!("ev.v1.watch.bob.{session}"))
        .await?;
    ear.nats.flush().await?;
    let mallory = site.driver("mallory").await?;
    let start = json!({"request_id": "r-1", "expires_at": now_ms() + 20_000, "cp_id": "CP-404"});
    let questions = [
        ("start", start),
        ("status", json!({})),
        ("list", json!({})),
        (
            "stop",
            json!({"request_id": "r-2", "expires_at": now_ms() + 20_000, "session_id": session}),
        ),
    ];
    let targets = [
        format!("ev.v1.watch.bob.{session}"),
        format!("ev.v1.cp.CP-001.live.bob.{session}"),
        "ev.v1.driver.bob.stop".into(),
        "ev.v1.op.olga.driver_block".into(),
        "ev.v1.cp.CP-001.cmd.stop".into(),
        "ev.v1.cp.CP-001.evt".into(),
        "ev.v1.ledger".into(),
        format!("ev.v1.cdr.{session}"),
        "ev.v1.audit.op.olga".into(),
        "$JS.API.STREAM.PURGE.EV_LEDGER".into(),
    ];
    for (verb, body) in &questions {
        for target in &targets {
            let subject = format!("ev.v1.driver.mallory.{verb}");
            let bytes = wire::encode(body, Encoding::MsgPack)?;
            mallory
                .nats
                .publish_with_reply(subject, target.clone(), bytes.into())
                .await?;
        }
    }
    // They do arrive where bob listens, addressed to her.
    let mut aimed = 0;
    while aimed < questions.len() {
        let message = tokio::time::timeout(PATIENCE, updates.next())
            .await?
            .context("an update")?;
        let message: Value = wire::decode(&message.payload, Encoding::MsgPack)?;
        aimed += usize::from(message["to"] == "mallory");
    }
    drop(updates);
    // Central counts them, and writes down whose session she reached for.
    wait_for("her stops are written down", PATIENCE, async || {
        let stops = audit::of(&site, "mallory").await?;
        let named = |e: &&AuditEntry| e.session_id.as_deref() == Some(&*session);
        let stops = stops.iter().filter(named).count();
        ensure!(stops == targets.len(), "{stops}");
        Ok(())
    })
    .await?;
    let asked = site
        .metric(
            0,
            "ev_requests_total{code=\"unknown_charge_point\",result=\"denied\",verb=\"start\"}",
        )
        .await?;
    ensure!(asked > 0.5, "no start of hers was answered");

    // A charge point aims answers at another one's commands, and makes up values for bob.
    let wild = Guest::of(&site.nats, Role::ChargePoint, "CP-666").await?;
    for verb in ["start", "stop", "reset"] {
        let target = format!("ev.v1.cp.CP-001.cmd.{verb}");
        for own in ["sync", "evt"] {
            let subject = format!("ev.v1.cp.CP-666.{own}");
            wild.nats
                .publish_with_reply(subject, target.clone(), "junk".into())
                .await?;
        }
    }
    for (at, says) in [("CP-666", "CP-666"), ("CP-666", "CP-001")] {
        let value = json!({"type": "live", "to": "bob", "session_id": session, "cp_id": says,
            "connector": 1, "ts": now_ms() + 60_000, "phase": "suspended_ev",
            "energy_mwh": FORGED_MWH});
        let subject = format!("ev.v1.cp.{at}.live.bob.{session}");
        let bytes = wire::encode(&value, Encoding::MsgPack)?;
        wild.nats.publish(subject, bytes.into()).await?;
    }
    wild.nats.flush().await?;
    watching
        .wait_for_log("\"event\":\"foreign\"", PATIENCE)
        .await?;
    wait_for("the agent has noted all six", PATIENCE, async || {
        let status = site.ctl(&["status"]).await?;
        let noted = &status["charge_points"][0]["commands_foreign"];
        ensure!(*noted == 6, "{noted}");
        Ok(())
    })
    .await?;
    let log = site.agent.log();
    ensure!(log.contains("another one of its account aims answers here"));

    // All of it has changed nothing.
    let view = bob.session(&session).await?;
    ensure!(view.state == Phase::Charging && !view.stopping, "{view:?}");
    let metered = site.register("CP-001").await?;
    crate::metered(&site, "CP-001", metered, 1_000).await?;
    bob.stop(&session).await?;
    ended_right(&site, &bob, &session, before, "CP-001").await?;
    let status = watching.wait(PATIENCE).await?;
    let told = watching.log();
    ensure!(status.success(), "{status}: {told}");
    let forged = (FORGED_MWH / 1_000).to_string();
    for word in ["mallory", "CP-404", &forged] {
        ensure!(!told.contains(word), "{word}: {told}");
    }
    ensure!(told.matches("\"event\":\"foreign\"").count() == 1, "{told}");
    ensure!(
        told.contains("CP-666 sends values of this session"),
        "{told}"
    );
    for line in told.lines().filter(|line| line.starts_with('{')) {
        let event: Value = serde_json::from_str(line)?;
        ensure!(
            event["event"] == "foreign"
                || event["event"] == "silent"
                || (event["session_id"] == *session && event["driver_id"] == "bob"),
            "{event}"
        );
    }
    ensure!(site.metric(0, "ev_ledger_junk_messages_total").await? < 0.5);
    Ok(())
}
