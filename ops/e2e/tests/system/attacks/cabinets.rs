//! Charge points that lie, and commands that somebody has recorded.

use anyhow::{Context, Result, ensure};
use ev_contract::{
    connector::Phase,
    v1::{CommandReply, Outcome},
    wire::{self, Encoding},
};
use ev_e2e::{Charger, Driver, Layout, Site, now_ms};
use ev_testkit::{PATIENCE, Role, wait_for};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Guest;
use crate::{audit, ended_right, plugged};

/// Somebody in central's account sends again what central once sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_command_gets_its_first_result_and_does_nothing_again() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let recorder = Guest::of(&site.nats, Role::ChargePoint, "CP-001").await?;
    let mut heard = recorder.nats.subscribe("ev.v1.cp.CP-001.cmd.*").await?;
    recorder.nats.flush().await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_energy(&session, 1_000).await?;
    alice.stop(&session).await?;
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    let mut recorded = Vec::new();
    while recorded.len() < 2 {
        let message = tokio::time::timeout(PATIENCE, heard.next())
            .await?
            .context("a command")?;
        if ["start", "stop"]
            .iter()
            .any(|verb| message.subject.ends_with(verb))
        {
            recorded.push((message.subject.to_string(), message.payload));
        }
    }
    drop((heard, recorder));

    let bob = site.driver("bob").await?;
    let metered = site.register("CP-001").await?;
    let thief = site.nats.connect().await?;
    let mut replayed = 0;
    for charging in [false, true] {
        if charging {
            let session = bob.start("CP-001").await?;
            bob.wait_phase(&session, Phase::Charging).await?;
        } else {
            ensure!(site.register("CP-001").await? == metered);
        }
        for (subject, payload) in &recorded {
            let again = thief.request(subject.clone(), payload.clone()).await?;
            let again: CommandReply = wire::decode(&again.payload, Encoding::MsgPack)?;
            let first = if subject.ends_with("start") {
                Outcome::Taken
            } else {
                Outcome::Stopping
            };
            ensure!(again.outcome == first, "{subject}: {again:?}");
            replayed += 1;
        }
        if !charging {
            let connector = site.connector("CP-001", 1).await?;
            ensure!(connector["session"].is_null(), "{connector}");
            ensure!(site.register("CP-001").await? == metered, "energy flowed");
        }
    }
    let session = bob.open().await?[0].session_id.to_string();
    let view = bob.session(&session).await?;
    ensure!(view.state == Phase::Charging && !view.stopping, "{view:?}");
    bob.wait_energy(&session, 1_000).await?;
    // The agent has counted them, and nothing has become of alice's.
    let status = site.ctl(&["status"]).await?;
    let again = status["charge_points"][0]["commands_again"].as_u64();
    ensure!(again >= Some(replayed), "{again:?} of {replayed}: {status}");
    ensure!(alice.open().await?.is_empty() && alice.history().await?.len() == 1);
    ensure!(alice.receipt(&session).await.is_err());
    let id = receipt.session_id.to_string();
    ensure!(alice.receipt(&id).await?.receipt == receipt);
    Ok(())
}

struct Liar {
    nats: Driver,
    next: u64,
}

impl Liar {
    async fn enrolled(site: &Site) -> Result<Self> {
        let nats = site.asker(Role::ChargePoint, "CP-666").await?;
        let liar = Self { nats, next: 1 };
        let sync = json!({
            "type": "sync", "to": "central", "cp_id": "CP-666", "epoch": "e1",
            "boot": {"id": "0000000000000001", "count": 1},
            "site_id": "SITE-R", "time_zone": "Europe/Berlin",
            "connectors": [{"connector": 1, "max_ma": 16_000, "phases": 3}],
            "version": "raw", "first": 1, "next": 1
        });
        let reply = liar.ask("sync", &sync).await?;
        ensure!(reply["error"].is_null(), "{reply}");
        Ok(liar)
    }

    async fn ask(&self, verb: &str, body: &Value) -> Result<Value> {
        let subject = format!("ev.v1.cp.CP-666.{verb}");
        let bytes = serde_json::to_vec(body)?;
        let reply = self.nats.raw(subject, bytes, Encoding::Json).await?;
        Ok(serde_json::from_slice(&reply)?)
    }

    /// Brings records, which central takes: it has them, whatever it makes of them.
    async fn records(&mut self, facts: &[Value]) -> Result<()> {
        let records: Vec<_> = (self.next..)
            .zip(facts)
            .map(|(seq, fact)| json!({"seq": seq, "at": now_ms(), "quality": "synced", "fact": fact}))
            .collect();
        let evt = json!({"type": "evt", "to": "central", "epoch": "e1", "boot": "0000000000000001", "first": self.next,
                         "from": self.next, "records": records});
        let reply = self.ask("evt", &evt).await?;
        self.next += records.len() as u64;
        ensure!(reply["next"] == self.next, "{reply}");
        Ok(())
    }
}

fn reading(mwh: u64) -> Value {
    json!({"at": now_ms(), "quality": "synced", "register_mwh": mwh, "meter_id": "M1",
           "meter_epoch": 1})
}

/// Waits until so many spool records are counted as odd in this way. Each is kept for an operator.
async fn counted(site: &Site, what: &str, count: u32) -> Result<()> {
    wait_for(&format!("{count} records: {what}"), PATIENCE, async || {
        let name = format!("ev_spool_records_total{{what=\"{what}\"}}");
        let counted = site.metric(0, &name).await?;
        ensure!((counted - f64::from(count)).abs() < 0.5, "{counted}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_charge_points_session_is_not_moved_and_impossible_energy_not_billed() -> Result<()>
{
    // 16 A on three phases are 11 kW. A register may rise by 200 Wh in no time, since readings are
    // taken late and clocks are half a minute apart, and by no more.
    const POSSIBLE_MWH: u64 = 150_000;
    const IMPOSSIBLE_MWH: u64 = 400_000;
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let mut liar = Liar::enrolled(&site).await?;

    let end = |session: &str, mwh| {
        json!({"kind": "ended", "session_id": session, "completed": true, "reading": reading(mwh),
               "reason": {"code": "ev_unplugged", "source": "vehicle"}})
    };
    liar.records(&[
        json!({"kind": "started", "session_id": session, "device_tx": "9", "reading": reading(0)}),
        json!({"kind": "checkpoint", "session_id": session, "reading": reading(9_000_000)}),
        end(&session, 9_000_000),
        json!({"kind": "opened_at_edge", "session_id": session, "connector": 1, "origin": "local"}),
    ])
    .await?;
    let written = wait_for("it is written down", PATIENCE, async || {
        let written = audit::of(&site, "CP-666").await?;
        ensure!(!written.is_empty(), "nothing yet");
        Ok(written)
    })
    .await?;
    ensure!(
        written.iter().all(|e| e.verb == "evt"
            && e.session_id.as_deref() == Some(&*session)
            && e.detail.as_deref() == Some("another charge point's session")),
        "{written:?}"
    );
    counted(&site, "quarantined", 4).await?;
    ensure!(alice.session(&session).await?.state == Phase::Charging);

    // A session of its own, with more energy than its connector can give.
    let own = Uuid::now_v7().to_string();
    liar.records(&[
        json!({"kind": "opened_at_edge", "session_id": own, "connector": 1, "origin": "local"}),
        json!({"kind": "started", "session_id": own, "device_tx": "1", "reading": reading(0)}),
        json!({"kind": "checkpoint", "session_id": own, "reading": reading(POSSIBLE_MWH)}),
        json!({"kind": "checkpoint", "session_id": own,
               "reading": reading(POSSIBLE_MWH + IMPOSSIBLE_MWH)}),
        end(&own, POSSIBLE_MWH + IMPOSSIBLE_MWH),
    ])
    .await?;
    let receipt = site.cdr(&own).await?;
    ensure!(receipt.energy_mwh.0 == POSSIBLE_MWH, "{receipt:?}");
    let flags: Vec<_> = receipt.flags.iter().map(|flag| flag.as_str()).collect();
    ensure!(flags.contains(&"register_jumped"), "{flags:?}");
    counted(&site, "anomaly", 2).await?;

    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    let (_, adjustments) = site.cdrs().await?;
    ensure!(adjustments.is_empty(), "{adjustments:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_of_a_charge_point_is_answered_counted_and_moves_nothing() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let wild = site.asker(Role::ChargePoint, "CP-666").await?;
    for verb in ["sync", "evt"] {
        let reply = wild
            .raw(
                format!("ev.v1.cp.CP-666.{verb}"),
                b"{\"junk\":1}".to_vec(),
                Encoding::Json,
            )
            .await?;
        let reply: Value = serde_json::from_slice(&reply)?;
        let told = &reply["error"];
        ensure!(told["code"] == "invalid_request", "{reply}");
        ensure!(told["hint"].as_str().is_some_and(|h| !h.is_empty()));
        let name = format!(
            "ev_requests_total{{code=\"invalid_request\",result=\"error\",verb=\"{verb}\"}}"
        );
        ensure!(site.metric(0, &name).await? > 0.5, "{name}");
    }
    wild.nats
        .publish("ev.v1.cp.CP-666.hb", "junk".into())
        .await?;
    wild.nats.flush().await?;
    wait_for("the heartbeat is counted", PATIENCE, async || {
        let name = "ev_messages_ignored_total{reason=\"unreadable\"}";
        ensure!(site.metric(0, name).await? > 0.5);
        Ok(())
    })
    .await?;
    let shown = site.driver("observer").await?.list().await?;
    let ids: Vec<_> = shown
        .charge_points
        .iter()
        .map(|cp| cp.cp_id.as_str())
        .collect();
    ensure!(ids == ["CP-001", "CP-002"], "{ids:?}");
    Ok(())
}
