//! Bad input gets a code, a sentence and a hint, and loses nothing.

use anyhow::{Context, Result, ensure};
use ev_contract::{
    codes::Code,
    v1::ErrorReply,
    wire::{self, Encoding},
};
use ev_e2e::{Charger, Driver, Layout, Site, now_ms};
use ev_testkit::Role;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use uuid::Uuid;

async fn answer(driver: &Driver, verb: &str, body: &[u8], encoding: Encoding) -> Result<Value> {
    let subject = format!("ev.v1.driver.{}.{verb}", driver.id);
    let bytes = driver.raw(subject, body.to_vec(), encoding).await?;
    Ok(match encoding {
        Encoding::Json => serde_json::from_slice(&bytes)?,
        Encoding::MsgPack => serde_json::to_value(wire::decode::<ErrorReply>(&bytes, encoding)?)?,
    })
}

fn check(value: &Value, code: Code) -> Result<()> {
    let error = &value["error"];
    ensure!(error["code"] == code.as_str(), "{code} expected: {value}");
    for field in ["message", "hint"] {
        let text = error[field].as_str().context("a text")?;
        ensure!(!text.is_empty() && text.len() < 600, "{field}: {text}");
    }
    ensure!(
        error["retryable"].is_boolean() && value["ts"].is_i64(),
        "{value}"
    );
    ensure!(value["reason"] == code.as_str(), "{value}");
    Ok(())
}

/// Every kind of bad start, in JSON, as a stranger would write it.
#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_gets_its_code() -> Result<()> {
    let layout = Layout {
        connectors: 2,
        ..Layout::small(Charger::Orderly)
    };
    let site = Site::start(&layout).await?;
    let alice = site.driver("alice").await?;
    let tariff = json!({
        "tariff_id": "std", "scope": "default",
        "terms": crate::terms("0.50", "1.00")
    });
    alice.operate("tariff_set", tariff).await?;
    let base = || {
        json!({"request_id": Uuid::new_v4().to_string(), "expires_at": now_ms() + 10_000,
               "cp_id": "CP-001", "connector": 1})
    };
    let with = |key: &str, value: Value| {
        let mut body = base();
        body[key] = value;
        body
    };
    let limit = |limits: Value| with("limits", limits);
    let mut nameless = base();
    nameless
        .as_object_mut()
        .context("a map")?
        .remove("connector");
    let cases = [
        (with("cp_id", json!("CP-999")), Code::UnknownChargePoint),
        (with("connector", json!(7)), Code::UnknownConnector),
        (with("connector", json!(-1)), Code::UnknownConnector),
        (with("connector", json!(70_000)), Code::UnknownConnector),
        (nameless, Code::ConnectorRequired),
        (with("cp_id", json!("*")), Code::InvalidId),
        (with("cp_id", json!("CP.001")), Code::InvalidId),
        (with("cp_id", json!(">")), Code::InvalidId),
        (with("cp_id", json!("")), Code::InvalidId),
        (with("cp_id", json!("зарядка")), Code::InvalidId),
        (with("request_id", json!("x".repeat(65))), Code::InvalidId),
        (with("request_id", json!("a b")), Code::InvalidId),
        (with("expires_at", json!(now_ms() - 60_000)), Code::Expired),
        (
            with("expires_at", json!(now_ms() + 3_600_000)),
            Code::ExpiryTooFar,
        ),
        (with("expires_at", json!(0)), Code::InvalidTime),
        (with("expires_at", json!(-1)), Code::InvalidTime),
        (with("expires_at", json!(i64::MAX)), Code::InvalidTime),
        (with("expires_at", json!("soon")), Code::InvalidRequest),
        (with("expires_at", json!(1e300)), Code::InvalidRequest),
        (limit(json!({"energy_wh": 0})), Code::LimitInvalid),
        (limit(json!({"energy_wh": -5})), Code::LimitInvalid),
        (limit(json!({"energy_wh": i64::MAX})), Code::LimitInvalid),
        (limit(json!({"time_s": 0})), Code::LimitInvalid),
        (limit(json!({"cost": "0"})), Code::LimitInvalid),
        (limit(json!({"cost": "ten"})), Code::LimitInvalid),
        (limit(json!({"cost": "1.00"})), Code::LimitBelowFee),
        (
            limit(json!({"cost": "5", "currency": "USD"})),
            Code::CurrencyMismatch,
        ),
        (
            limit(json!({"energy_wh": 18_446_744_073_709_551_615u64})),
            Code::InvalidRequest,
        ),
        (with("type", json!("stop")), Code::InvalidRequest),
        (with("limits", json!("none")), Code::InvalidRequest),
        (json!({}), Code::InvalidRequest),
    ];
    for (body, code) in cases {
        let reply = answer(&alice, "start", &serde_json::to_vec(&body)?, Encoding::Json).await?;
        check(&reply, code).with_context(|| body.to_string())?;
        ensure!(reply["session_id"].is_null(), "{reply}");
    }
    for (id, code) in [
        (
            "0190a0b0-1111-7222-8333-444455556666",
            Code::SessionNotFound,
        ),
        ("0190A0B0-1111-7222-8333-444455556666", Code::InvalidId),
        ("-1", Code::InvalidId),
        ("0", Code::InvalidId),
        ("", Code::InvalidId),
    ] {
        let mut body = base();
        body["session_id"] = id.into();
        let reply = answer(&alice, "stop", &serde_json::to_vec(&body)?, Encoding::Json).await?;
        check(&reply, code).with_context(|| body.to_string())?;
    }
    let reply = answer(&alice, "dance", b"{}", Encoding::Json).await?;
    check(&reply, Code::UnknownVerb)?;
    ensure!(alice.open().await?.is_empty());
    // After all of that a good one is taken, and a reused id is not.
    let good = serde_json::to_vec(&base())?;
    let reply = answer(&alice, "start", &good, Encoding::Json).await?;
    ensure!(
        reply["status"] == "accepted" && reply["session_id"].is_string(),
        "{reply}"
    );
    let again = answer(&alice, "start", &good, Encoding::Json).await?;
    ensure!(again["session_id"] == reply["session_id"]);
    let mut other: Value = serde_json::from_slice(&good)?;
    other["connector"] = json!(2);
    let reused = answer(
        &alice,
        "start",
        &serde_json::to_vec(&other)?,
        Encoding::Json,
    )
    .await?;
    check(&reused, Code::RequestIdReused)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_answered_and_harm_nothing() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let alice = site.driver("alice").await?;
    let good = wire::encode(
        &json!({"request_id": "r1", "expires_at": now_ms() + 10_000, "cp_id": "CP-001"}),
        Encoding::MsgPack,
    )?;
    let mut trailing = good.clone();
    trailing.push(0xc0);
    let mut deep = vec![0x81, 0xa1, b'x'];
    deep.extend(std::iter::repeat_n(0x91, 10_000));
    let junk: Vec<(Vec<u8>, Encoding, Code)> = vec![
        (vec![], Encoding::MsgPack, Code::InvalidRequest),
        (
            good[..good.len() / 2].to_vec(),
            Encoding::MsgPack,
            Code::InvalidRequest,
        ),
        (trailing, Encoding::MsgPack, Code::InvalidRequest),
        (deep, Encoding::MsgPack, Code::InvalidRequest),
        (vec![0xc1; 50], Encoding::MsgPack, Code::InvalidRequest),
        (
            vec![0xdf, 0xff, 0xff, 0xff, 0xff],
            Encoding::MsgPack,
            Code::InvalidRequest,
        ),
        (b"{\"a\":".to_vec(), Encoding::Json, Code::InvalidRequest),
        (
            format!("{{\"a\":{}", "[".repeat(10_000)).into_bytes(),
            Encoding::Json,
            Code::InvalidRequest,
        ),
        (vec![b' '; 20_000], Encoding::Json, Code::TooLarge),
        // Beyond its role's largest message the server would close the connection.
        (vec![0x80; 60_000], Encoding::MsgPack, Code::TooLarge),
        (
            b"{\"request_id\":\"r1\"}".to_vec(),
            Encoding::MsgPack,
            Code::InvalidRequest,
        ),
    ];
    for verb in ["start", "stop", "status", "list", "history", "receipt"] {
        for (bytes, encoding, code) in &junk {
            let reply = answer(&alice, verb, bytes, *encoding).await;
            let reply =
                reply.with_context(|| format!("{verb} {:?}", &bytes[..bytes.len().min(20)]))?;
            check(&reply, *code)?;
        }
    }
    // Without a reply subject nobody asks, and nothing is done.
    alice
        .nats
        .publish("ev.v1.driver.alice.start", good.clone().into())
        .await?;
    // An answer that is aimed at a command stays within the drivers' account.
    let cabinet = site.asker(Role::ChargePoint, "CP-001").await?;
    let mut stops = cabinet.nats.subscribe("ev.v1.cp.CP-001.cmd.stop").await?;
    alice
        .nats
        .publish_with_reply(
            "ev.v1.driver.alice.list",
            "ev.v1.cp.CP-001.cmd.stop",
            b"\x80"[..].into(),
        )
        .await?;
    for subject in [
        "ev.v1.cp.CP-001.evt",
        "ev.v1.cp.CP-001.sync",
        "ev.v1.cp.CP-001.hb",
    ] {
        for (bytes, _, _) in &junk {
            cabinet.nats.publish(subject, bytes.clone().into()).await?;
        }
    }
    cabinet.nats.flush().await?;
    alice.nats.flush().await?;
    ensure!(alice.open().await?.is_empty());
    ensure!(stops.next().now_or_never().is_none(), "it was a command");
    drop(stops);
    let session = alice.start("CP-001").await?;
    alice.stop(&session).await?;
    alice.wait_ended(&session).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_charge_point_is_refused_at_once() -> Result<()> {
    let mut site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let alice = site.driver("alice").await?;
    site.agent.kill9()?;
    ev_testkit::wait_for(
        "the charge point counts as offline",
        ev_testkit::PATIENCE,
        async || {
            let options = ev_e2e::StartOptions::default();
            let update = alice.start_with("CP-001", &options).await?;
            if let Some(session) = update.session_id {
                // Within the heartbeats' patience a start may still be taken.
                alice.stop(&session.to_string()).await?;
            }
            let view = alice.list().await?;
            let state = view.charge_points[1].connectors[0].state;
            ensure!(
                state == ev_contract::connector::ConnectorState::Offline,
                "{state}"
            );
            Ok(())
        },
    )
    .await?;
    let update = alice
        .start_with("CP-002", &ev_e2e::StartOptions::default())
        .await?;
    let reasons = [
        Code::ChargePointOffline.as_str(),
        Code::LimitReached.as_str(),
    ];
    ensure!(
        update
            .reason
            .as_deref()
            .is_some_and(|r| reasons.contains(&r)),
        "{update:?}"
    );
    let bob = site.driver("bob").await?;
    let update = bob
        .start_with("CP-002", &ev_e2e::StartOptions::default())
        .await?;
    ensure!(
        update.reason.as_deref() == Some(Code::ChargePointOffline.as_str()),
        "{update:?}"
    );
    Ok(())
}
