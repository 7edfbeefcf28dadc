//! Who is enrolled is known at once, and all of it is written down.

use anyhow::{Result, ensure};
use ev_contract::{
    codes::Code,
    v1::{AuditEntry, AuditOutcome, EnrolReply, EnrolRequest, ErrorReply},
    wire::{self, Encoding, Tag},
};
use ev_e2e::{Charger, Layout, Site, StartOptions, now_ms};
use ev_testkit::{PATIENCE, Role, our_program, wait_for};
use serde_json::{Value, json};

use crate::audit::{Cli, of, op, operator};

/// `central enrol`, as somebody at a shell uses it.
async fn enrol(site: &Site, words: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new(our_program("central")?)
        .args(["enrol", "--by", "rita", "--dir"])
        .arg(site.nats.keys().dir())
        .args(words)
        .args(["--nats-url", &site.nats.url()])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await??;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(output.status.success(), "{words:?}: {text}");
    Ok(text)
}

async fn view(site: &Site, cp: &str) -> Result<Value> {
    let olga = operator(site, "olga").await?;
    let reply = op(&olga, "cp_ls", json!({"cp_id": cp}), false).await?;
    Ok(reply["charge_points"][0].clone())
}

async fn why_not(site: &Site, cp: &str) -> Result<Option<String>> {
    let alice = site.driver("alice").await?;
    let update = alice.start_with(cp, &StartOptions::default()).await?;
    Ok(update.reason)
}

fn told(entries: &[AuditEntry]) -> Vec<(&str, Option<&str>, AuditOutcome)> {
    entries
        .iter()
        .map(|e| (e.verb.as_str(), e.cp_id.as_deref(), e.outcome))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_point_is_known_as_soon_as_it_is_enrolled_and_offline_when_it_is_revoked()
-> Result<()> {
    let mut site = Site::start(&Layout::small(Charger::Orderly).centrals(2)).await?;
    let unknown = Some(Code::UnknownChargePoint.to_string());
    let offline = Some(Code::ChargePointOffline.to_string());
    ensure!(why_not(&site, "CP-900").await? == unknown);
    let said = enrol(&site, &["charge-point", "CP-900", "CP-901"]).await?;
    ensure!(said.contains("central has heard of 2"), "{said}");

    let shown = view(&site, "CP-900").await?;
    ensure!(shown["enrolment"] == "enrolled", "{shown}");
    ensure!(shown["connectors"] == json!([]), "{shown}");
    let cli = Cli::of(&site, "olga")?;
    let table = cli.run(&["op", "cp", "ls"]).await?;
    let line = table.lines().find(|line| line.starts_with("CP-900"));
    ensure!(
        line.is_some_and(|line| line.contains("never seen")),
        "{table}"
    );
    drop(cli);
    ensure!(why_not(&site, "CP-900").await? == offline);
    let olga = operator(&site, "olga").await?;
    for (verb, body) in [
        (
            "tariff_set",
            json!({"tariff_id": "own", "scope": {"charge_point": "CP-900"},
                   "terms": crate::terms("0.10", "0")}),
        ),
        ("cp_disable", json!({"cp_id": "CP-900"})),
    ] {
        let reply = op(&olga, verb, body, true).await?;
        ensure!(reply["status"] == "accepted", "{verb}: {reply}");
    }

    enrol(&site, &["revoke", "charge-point", "CP-901"]).await?;
    for central in 0..2 {
        site.centrals[central].kill9()?;
        site.central_again(central).await?;
    }
    let shown = view(&site, "CP-901").await?;
    ensure!(shown["enrolment"] == "revoked", "{shown}");
    let shown = view(&site, "CP-900").await?;
    ensure!(shown["enrolment"] == "enrolled", "{shown}");
    ensure!(shown["out_of_service"] == true, "{shown}");
    ensure!(shown["tariff"]["tariff_id"] == "own", "{shown}");

    // One that charges people is revoked.
    enrol(&site, &["revoke", "charge-point", "CP-002"]).await?;
    ensure!(why_not(&site, "CP-002").await? == offline);
    ensure!(view(&site, "CP-002").await?["enrolment"] == "revoked");
    let refused = enrol(&site, &["charge-point", "CP-900"]).await;
    ensure!(refused.is_err(), "{refused:?}");

    let entries = of(&site, "rita").await?;
    let accepted = AuditOutcome::Accepted;
    ensure!(
        told(&entries)
            == [
                ("enrol", Some("CP-900"), accepted),
                ("enrol", Some("CP-901"), accepted),
                ("revoke", Some("CP-901"), accepted),
                ("revoke", Some("CP-002"), accepted),
                ("enrol", Some("CP-900"), AuditOutcome::Denied),
            ],
        "{entries:?}"
    );
    ensure!(entries[1].key.is_some() && entries[1].key == entries[2].key);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_tell_of_credentials_is_told_what_is_wrong() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let keys = site.nats.keys();
    let nats = keys
        .connect(&site.nats.url(), Role::Registrar, "registrar")
        .await?;
    let good = EnrolRequest {
        tag: Tag::new(),
        to: "central".into(),
        at: ev_contract::time::UnixMs(now_ms()),
        charge_points: vec!["CP-900".into()],
        revoked: false,
        site_id: None,
        time_zone: None,
        max_kw: None,
    };
    let bad = |change: fn(&mut EnrolRequest)| {
        let mut bad = good.clone();
        change(&mut bad);
        wire::encode(&bad, Encoding::MsgPack)
    };
    let ask = async |verb: &str, bytes: Vec<u8>| -> Result<Vec<u8>> {
        let subject = format!("ev.v1.enrol.registrar.{verb}");
        Ok(nats.request(subject, bytes.into()).await?.payload.to_vec())
    };
    for (verb, bytes, code) in [
        ("charge_point", b"junk".to_vec(), Code::InvalidRequest),
        ("driver", bad(|_| {})?, Code::UnknownVerb),
        (
            "charge_point",
            bad(|r| r.charge_points = vec!["CP.*".into()])?,
            Code::InvalidId,
        ),
        (
            "charge_point",
            bad(|r| r.charge_points = vec![])?,
            Code::InvalidRequest,
        ),
        (
            "charge_point",
            bad(|r| r.charge_points = vec!["CP-1".into(); 101])?,
            Code::InvalidRequest,
        ),
        ("charge_point", bad(|r| r.at.0 = 5)?, Code::InvalidTime),
        (
            "charge_point",
            bad(|r| r.to = "CP-1".into())?,
            Code::InvalidRequest,
        ),
    ] {
        let reply = ask(verb, bytes).await?;
        let error: ErrorReply = wire::decode(&reply, Encoding::MsgPack)?;
        ensure!(error.error.code == code, "{code}: {error:?}");
    }
    wait_for("the refusals are written down", PATIENCE, async || {
        let entries = of(&site, "registrar").await?;
        ensure!(entries.len() == 7, "{entries:?}");
        ensure!(
            entries.iter().all(|e| e.credential.is_some()),
            "{entries:?}"
        );
        Ok(())
    })
    .await?;
    let reply = ask("charge_point", bad(|_| {})?).await?;
    let _: EnrolReply = wire::decode(&reply, Encoding::MsgPack)?;
    ensure!(view(&site, "CP-900").await?["enrolment"] == "enrolled");
    Ok(())
}
