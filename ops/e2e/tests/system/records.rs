//! Spool records as a charge point with a mind of its own sends them: gaps, repeats, junk, an epoch
//! from the past. What has happened is taken, kept aside or flagged; the position always moves on.

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    v1::{EvtReply, OpReply, Status, SyncReply},
    wire::{self, Encoding},
};
use ev_e2e::{Charger, Driver, Layout, Site, now_ms};
use ev_testkit::Role;
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

/// The start of the agent of a cabinet that says itself what it sends.
const BOOT: &str = "0000000000000001";

struct Cabinet {
    nats: Driver,
    id: &'static str,
}

impl Cabinet {
    async fn ask(&self, verb: &str, body: &Value) -> Result<Vec<u8>> {
        self.nats
            .raw(
                format!("ev.v1.cp.{}.{verb}", self.id),
                serde_json::to_vec(body)?,
                Encoding::Json,
            )
            .await
    }

    async fn sync(&self, epoch: &str) -> Result<SyncReply> {
        let body = json!({
            "type": "sync", "to": "central", "cp_id": self.id, "epoch": epoch, "boot": {"id": BOOT, "count": 1},
            "connectors": [{"connector": 1, "max_ma": 16000, "phases": 3}],
            "version": "raw", "first": 1, "next": 1
        });
        Ok(wire::decode(
            &self.ask("sync", &body).await?,
            Encoding::Json,
        )?)
    }

    async fn send(&self, epoch: &str, first: u64, from: u64, records: Value) -> Result<EvtReply> {
        let body = json!({"type": "evt", "to": "central", "epoch": epoch, "boot": BOOT,
                          "first": first, "from": from, "records": records});
        Ok(wire::decode(
            &self.ask("evt", &body).await?,
            Encoding::Json,
        )?)
    }
}

fn record(seq: u64, fact: Value) -> Value {
    json!({"seq": seq, "at": now_ms(), "quality": "synced", "fact": fact})
}

fn reading(mwh: u64) -> Value {
    json!({"at": now_ms(), "quality": "synced", "register_mwh": mwh, "meter_id": "M1", "meter_epoch": 1})
}

fn unplugged() -> Value {
    json!({"code": "ev_unplugged", "source": "vehicle"})
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_records_move_the_position_on_and_lose_nothing() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly).centrals(2)).await?;
    let cabinet = Cabinet {
        nats: site.asker(Role::ChargePoint, "CP-RAW").await?,
        id: "CP-RAW",
    };
    // Records of a charge point that never presented itself are not taken, and not freed.
    let early = cabinet
        .send("e1", 1, 1, json!([record(1, json!({"kind": "booted"}))]))
        .await?;
    ensure!(early.next == 0, "{early:?}");
    ensure!(early.error.context("an error")?.code == Code::UnknownChargePoint);
    ensure!(cabinet.sync("e1").await?.next == 1);

    let session = Uuid::now_v7().to_string();
    let opened = record(
        1,
        json!({"kind": "opened_at_edge", "session_id": session, "connector": 1, "origin": "local"}),
    );
    let started = record(
        2,
        json!({"kind": "started", "session_id": session, "device_tx": "-1", "reading": reading(1_000)}),
    );
    let reply = cabinet.send("e1", 1, 1, json!([opened, started])).await?;
    ensure!(reply.next == 3 && reply.epoch == "e1", "{reply:?}");
    // The same again, and half of it: nothing changes.
    let reply = cabinet.send("e1", 1, 1, json!([opened, started])).await?;
    ensure!(reply.next == 3, "{reply:?}");
    // From beyond what central has, with the rest still there: it asks for the rest.
    let ahead = record(9, json!({"kind": "booted"}));
    let reply = cabinet.send("e1", 1, 9, json!([ahead])).await?;
    ensure!(reply.next == 3, "{reply:?}");
    // Junk of every kind, each in its own record.
    let never = Uuid::now_v7().to_string();
    let junk = json!([
        7, "junk", {"seq": 5}, [1, 2, 3],
        record(7, json!({"kind": "from_the_future", "x": 1})),
        record(99, json!({"kind": "booted"})),
        record(9, json!({"kind": "checkpoint", "session_id": never, "reading": reading(5)})),
        record(10, json!({"kind": "anomaly", "what": "x".repeat(20_000)})),
    ]);
    let reply = cabinet.send("e1", 3, 3, junk).await?;
    ensure!(reply.next == 11, "{reply:?}");
    // A register that falls, one that jumps, one that repeats; then a gap, then the end.
    let odd = json!([
        record(
            11,
            json!({"kind": "checkpoint", "session_id": session, "reading": reading(500)})
        ),
        record(
            12,
            json!({"kind": "checkpoint", "session_id": session, "reading": reading(900_000_000_000)})
        ),
        record(
            13,
            json!({"kind": "checkpoint", "session_id": session, "reading": reading(3_000)})
        ),
        record(
            14,
            json!({"kind": "checkpoint", "session_id": session, "reading": reading(3_000)})
        ),
    ]);
    ensure!(cabinet.send("e1", 11, 11, odd).await?.next == 15);
    let end = json!({"kind": "ended", "session_id": session, "completed": true,
                     "reason": unplugged(), "reading": reading(4_000)});
    let reply = cabinet
        .send("e1", 20, 20, json!([record(20, end.clone())]))
        .await?;
    ensure!(reply.next == 21, "{reply:?}");
    let receipt = site.cdr(&session).await?;
    ensure!(receipt.energy_mwh.0 == 3_000, "{receipt:?}");
    let flags: Vec<_> = receipt.flags.iter().map(|f| f.as_str()).collect();
    for flag in ["register_fell", "register_jumped", "records_missing"] {
        ensure!(flags.contains(&flag), "{flag} is not among {flags:?}");
    }
    // The end again.
    let again = json!([record(20, end.clone()), record(21, end)]);
    let reply = cabinet.send("e1", 20, 20, again.clone()).await?;
    ensure!(reply.next == 22, "{reply:?}");
    // A replaced disk, then a straggler of the old one.
    ensure!(cabinet.sync("e2").await?.next == 1);
    let reply = cabinet.send("e1", 20, 20, again).await?;
    ensure!(reply.next == 0 && reply.error.is_some(), "{reply:?}");
    ensure!(site.cdr(&session).await? == receipt, "the receipt changed");
    // All of it can be seen.
    let olga = site.asker(Role::Operator, "olga").await?;
    let show: Value = serde_json::from_slice(
        &olga
            .raw(
                "ev.v1.op.olga.cp_ls".into(),
                br#"{"cp_id":"CP-RAW"}"#.to_vec(),
                Encoding::Json,
            )
            .await?,
    )?;
    let shown = &show["charge_points"][0];
    ensure!(
        shown["quarantined"] == 9 && shown["missing"] == 5,
        "{shown}"
    );
    // And a replica that reads it all anew says the same.
    let mut site = site;
    site.centrals[1].kill9()?;
    site.central_again(1).await?;
    let line = |text: &str, what: &str| {
        let start = format!("ev_spool_records_total{{what=\"{what}\"}}");
        text.lines()
            .find(|l| l.starts_with(&start))
            .map(str::to_owned)
    };
    ev_testkit::wait_for("both count alike", ev_testkit::PATIENCE, async || {
        let (_, before) = site.http(0, "/metrics").await?;
        let (_, after) = site.http(1, "/metrics").await?;
        for what in ["quarantined", "missing", "anomaly"] {
            let (one, two) = (line(&before, what), line(&after, what));
            ensure!(one.is_some() && one == two, "{one:?} {two:?}");
        }
        Ok(())
    })
    .await
}

/// What a charge point cannot do yet it may do at the next attempt; a refusal would be the answer
/// for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_that_has_to_wait_is_not_refused() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let cabinet = Cabinet {
        nats: site.asker(Role::ChargePoint, "CP-RAW").await?,
        id: "CP-RAW",
    };
    cabinet.sync("e1").await?;
    let nats = cabinet.nats.nats.clone();
    let mut commands = nats.subscribe("ev.v1.cp.CP-RAW.cmd.unlock").await?;
    nats.flush().await?;
    let answering = tokio::spawn(async move {
        let mut outcomes = ["not_yet", "done"].into_iter();
        while let Some(message) = commands.next().await {
            let command: Value = wire::decode(&message.payload, Encoding::MsgPack)?;
            let outcome = outcomes.next().unwrap_or("done");
            let mut answer = json!({"type": "cmd.reply", "to": "central", "cp_id": "CP-RAW",
                "epoch": "e1", "boot": BOOT, "command_id": command["command_id"], "outcome": outcome,
                "ts": now_ms()});
            if outcome == "not_yet" {
                answer["code"] = "clock_unsure".into();
            }
            let reply = message.reply.context("a reply subject")?;
            nats.publish(reply, wire::encode(&answer, Encoding::MsgPack)?.into())
                .await?;
        }
        anyhow::Ok(())
    });
    let body = json!({"type": "cp_act", "to": "central", "request_id": "unlock-1",
        "expires_at": now_ms() + 20_000, "cp_id": "CP-RAW", "connector": 1});
    let subject = "ev.v1.op.olga.cp_unlock";
    let mut said = Vec::new();
    let olga = site.asker(Role::Operator, "olga").await?;
    for _ in 0..3 {
        let reply: OpReply = olga
            .ask(subject, &body)
            .await?
            .map_err(|e| anyhow::anyhow!("{}", e.error))?;
        said.push((reply.status, reply.reason));
    }
    answering.abort();
    ensure!(
        said == [
            (Status::Unknown, Some("clock_unsure".to_owned())),
            (Status::Accepted, None),
            (Status::Accepted, None),
        ],
        "{said:?}"
    );
    Ok(())
}
