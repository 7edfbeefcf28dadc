//! What operators ask at the prompt, of the whole system.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::{Charger, Driver, Layout, Site};
use ev_testkit::{PATIENCE, Role, our_program, wait_for};
use serde_json::{Value, json};

use crate::{ended_right, metered, plugged};

/// Runs `driver-cli op` as olga.
async fn op(site: &Site, args: &[&str]) -> Result<Output> {
    let keys = site.nats.keys();
    tokio::process::Command::new(our_program("driver-cli")?)
        .arg("op")
        .args(args)
        .args(["--nats-url", &site.nats.url()])
        .arg("--credentials")
        .arg(keys.creds(Role::Operator, "olga")?)
        .arg("--ca")
        .arg(keys.ca())
        .env("EV_STATE_DIR", site.edge_dir().with_file_name("olga"))
        .output()
        .await
        .context("run driver-cli")
}

/// What it writes to stdout.
async fn said(site: &Site, args: &[&str]) -> Result<String> {
    let output = op(site, args).await?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "op {args:?}: {}: {}{text}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

async fn document(site: &Site, args: &[&str]) -> Result<Value> {
    let text = said(site, &[args, &["--json"]].concat()).await?;
    serde_json::from_str(&text).with_context(|| format!("no document: {text}"))
}

async fn says(site: &Site, args: &[&str], words: &[&str]) -> Result<String> {
    wait_for(
        &format!("op {args:?} says {words:?}"),
        PATIENCE,
        async || {
            let text = said(site, args).await?;
            for word in words {
                ensure!(text.contains(word), "no `{word}` in:\n{text}");
            }
            Ok(text)
        },
    )
    .await
}

async fn operate(alice: &Driver, verb: &str, body: Value) -> Result<()> {
    let reply = alice.operate(verb, body).await?;
    ensure!(reply.error.is_none(), "{reply:?}");
    Ok(())
}

/// An operator's evening.
#[tokio::test(flavor = "multi_thread")]
async fn one_look_says_why_and_what_a_cut_has_lost() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let alice = site.driver("alice").await?;
    says(
        &site,
        &["cp", "show", "CP-002"],
        &["drivers can start here"],
    )
    .await?;

    // Out of service, since an operator wants it.
    operate(&alice, "cp_disable", json!({"cp_id": "CP-001"})).await?;
    let out = [
        "refused at CP-001/1 since",
        "as an operator wants it",
        "op cp enable CP-001",
    ];
    says(&site, &["cp", "show", "CP-001"], &out).await?;
    let refused = alice
        .start_with("CP-001", &ev_e2e::StartOptions::default())
        .await?;
    ensure!(
        refused.reason.as_deref() == Some("out_of_service"),
        "{refused:?}"
    );
    let last = ["REFUSED", "alice", "is out of service"];
    says(&site, &["cp", "show", "CP-001"], &last).await?;
    operate(&alice, "cp_enable", json!({"cp_id": "CP-001"})).await?;
    says(
        &site,
        &["cp", "show", "CP-001"],
        &["drivers can start here"],
    )
    .await?;

    // A fault.
    site.ctl(&[
        "fault",
        "CP-001",
        "--raw",
        "GroundFailure",
        "--effect",
        "suspends",
    ])
    .await?;
    let fault = ["it has a fault: GroundFailure", "op cp reset CP-001"];
    says(&site, &["cp", "show", "CP-001"], &fault).await?;
    site.ctl(&["clear", "CP-001"]).await?;

    // In use, then cut off while it is being stopped.
    let before = site.register("CP-002").await?;
    let session = alice.start("CP-002").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let used = format!("it is in use by session {session}");
    says(&site, &["cp", "show", "CP-002"], &[&used]).await?;
    metered(&site, "CP-002", before, 10_000).await?;
    site.uplink.cut().await;
    alice.stop(&session).await?;
    let away = "waits for CP-002, which is offline since";
    let ls = ["session", "ls", "--driver", "alice"];
    says(&site, &ls, &["stopping for", away]).await?;
    let show = ["session", "show", &session];
    says(
        &site,
        &show,
        &[away, "--write-off", "accepted", "started", "stopping"],
    )
    .await?;
    let offline = [
        "refused at CP-002 since",
        "it is offline",
        "known when it is back",
    ];
    says(&site, &["cp", "show", "CP-002"], &offline).await?;

    site.uplink.heal().await?;
    ended_right(&site, &alice, &session, before, "CP-002").await?;
    let back = ["last cut", "nothing lost: all", "drivers can start here"];
    says(&site, &["cp", "show", "CP-002"], &back).await?;
    says(&site, &show, &["ended"]).await?;

    // What happened, in order, whoever of the two answers.
    let events = ["events", "--session", &session];
    let text = says(&site, &events, &["ended"]).await?;
    let mut rest = text.as_str();
    for kind in ["accepted", "taken", "started", "stopping", "ended"] {
        let at = rest
            .find(&format!("  {kind} "))
            .with_context(|| format!("no {kind} in order:\n{text}"))?;
        rest = &rest[at + kind.len()..];
    }
    let all = document(&site, &["events", "--kind", "refusal,fault,operator"]).await?;
    let kinds: Vec<_> = all["events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["kind"].as_str())
        .collect();
    for kind in ["refused", "fault", "cleared", "operated"] {
        ensure!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
    // Nothing was lost, and it says so.
    let none = op(&site, &["events", "--kind", "loss"]).await?;
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    ensure!(told.contains("nothing of that kind"), "{told}");
    Ok(())
}

/// A cut is an event once this central has listened for long enough to tell silence.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_and_comes_back_is_an_event() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 2).await?;
    let cut = ["events", "--kind", "cut", "--cp", "CP-001"];
    site.uplink.cut().await;
    says(&site, &cut, &["offline"]).await?;
    site.uplink.heal().await?;
    wait_for("it is back, once", PATIENCE, async || {
        let all = document(&site, &cut).await?;
        let kinds: Vec<_> = all["events"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|event| event["kind"].as_str())
            .collect();
        ensure!(kinds == ["offline", "online"], "{kinds:?}");
        Ok(())
    })
    .await
}

/// Receipts that have left central's state are still exported, with their adjustments.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_has_every_receipt_and_its_adjustments() -> Result<()> {
    let layout = Layout {
        central_extra: "keep_sessions_s = 1\n".into(),
        ..Layout::small(Charger::Orderly).centrals(2)
    };
    let site = Site::start(&layout).await?;
    site.ctl(&["plug", "CP-001"]).await?;
    site.ctl(&["plug", "CP-002"]).await?;
    let alice = site.driver("alice").await?;
    let terms = crate::terms("0.49", "1.00");
    // A price of a site that no charge point can name.
    let tariff = json!({"tariff_id": "std", "scope": {"site": "SITE-A"}, "terms": terms});
    operate(&alice, "tariff_set", tariff).await?;
    for cp in ["CP-001", "CP-002"] {
        let place = json!({"cp_id": cp, "site_id": "SITE-A", "time_zone": "Europe/Berlin"});
        operate(&alice, "cp_site", place).await?;
    }
    let mut sessions = Vec::new();
    let mut energy = 0;
    for cp in ["CP-001", "CP-002"] {
        let before = site.register(cp).await?;
        let session = alice.start(cp).await?;
        metered(&site, cp, before, 20_000).await?;
        alice.stop(&session).await?;
        let receipt = site.cdr(&session).await?;
        energy += receipt.energy_mwh.0;
        if cp == "CP-001" {
            let body = json!({"session_id": session, "amount": "-0.50", "reason": "slow"});
            operate(&alice, "session_adjust", body).await?;
        }
        sessions.push(session);
    }
    let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let month = now.strftime("%Y-%m").to_string();
    // Until both centrals have seen it there, one of them says that it may be missing.
    let export = async |what: &str| {
        let args = ["export", "--utc", "--month", &month, "--what", what];
        wait_for("everything is kept", PATIENCE, async || {
            document(&site, &args).await
        })
        .await
    };
    let receipts = wait_for("everything is kept", PATIENCE, async || {
        let receipts = export("receipts").await?;
        ensure!(
            receipts["count"] == 2 && receipts["not_kept"] == 0,
            "{receipts}"
        );
        let adjusted = receipts["rows"][0]["adjustments"].as_array();
        ensure!(adjusted.is_some_and(|a| a.len() == 1), "{receipts}");
        Ok(receipts)
    })
    .await?;
    let ids: Vec<_> = (0..2)
        .map(|n| receipts["rows"][n]["session_id"].clone())
        .collect();
    ensure!(ids == sessions, "{ids:?}, not {sessions:?}");
    ensure!(export("sessions").await?["count"] == 2);
    let sums = export("energy").await?;
    let row = &sums["rows"][0];
    ensure!(row["site_id"] == "SITE-A" && row["sessions"] == 2, "{sums}");
    let wh = row["energy_wh"].as_f64().context("a number")?;
    #[expect(clippy::cast_precision_loss, reason = "some kilowatt-hours")]
    let right = energy as f64 / 1_000.0;
    ensure!((wh - right).abs() < 0.001, "{wh} Wh, not {right}");
    let kept = "both centrals know that everything is kept";
    let args = ["export", "--utc", "--month", &month, "--what", "energy"];
    let csv = wait_for(kept, PATIENCE, async || {
        says(&site, &args, &["SITE-A"]).await
    })
    .await?;
    ensure!(csv.starts_with("month,site_id,currency,sessions,") && csv.lines().count() == 2);
    let args = ["export", "--month", &month, "--site", "elsewhere"];
    let other = wait_for(kept, PATIENCE, async || said(&site, &args).await).await?;
    ensure!(
        other.starts_with("number,session_id,") && other.lines().count() == 1,
        "{other}"
    );
    let past = wait_for(kept, PATIENCE, async || {
        document(&site, &["export", "--month", "2020-01"]).await
    })
    .await?;
    ensure!(past["count"] == 0 && past["not_kept"] == 0, "{past}");
    Ok(())
}

/// A minute that was seen is up; those of the month before anybody looked are unknown and no outage.
#[tokio::test(flavor = "multi_thread")]
async fn uptime_counts_minutes_that_were_seen() -> Result<()> {
    let site = plugged(Charger::Orderly, 2).await?;
    let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let month = now.strftime("%Y-%m").to_string();
    let args = ["export", "--utc", "--month", &month, "--what", "uptime"];
    // A minute counts when it is over.
    wait_for("a minute was seen", PATIENCE * 2, async || {
        let doc = document(&site, &args).await?;
        let rows = doc["rows"].as_array().context("rows")?;
        ensure!(rows.len() == 2, "{doc}");
        for row in rows {
            let count = |what: &str| row[what].as_u64().unwrap_or_default();
            ensure!(count("up") >= 1, "{doc}");
            ensure!(count("down") == 0 && count("unknown") > 0, "{doc}");
            let all: u64 = ["up", "planned", "down", "unknown"].map(count).iter().sum();
            ensure!(all == count("minutes"), "{doc}");
            ensure!(row["uptime_percent"] == "100.000", "{doc}");
        }
        Ok(())
    })
    .await
}

/// Whoever looks into the logs finds a session by its id, in all parts, under one name.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_followed_through_the_logs_by_its_id() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    metered(&site, "CP-001", before, 10_000).await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    let field = format!("session_id={session}");
    for (log, steps) in [
        (
            &site.centrals[0],
            // What is ordered and what the charge point tells come over different subjects.
            [
                "session accepted",
                "verb=\"start\"",
                "session stopping",
                "session ended",
            ]
            .as_slice(),
        ),
        (
            &site.centrals[0],
            [
                "session accepted",
                "session taken",
                "session started",
                "session ended",
                "receipt written",
            ]
            .as_slice(),
        ),
        (
            &site.agent,
            [
                "command answered",
                "session taken",
                "energy begins",
                "command answered",
                "session has ended",
            ]
            .as_slice(),
        ),
    ] {
        wait_for("the log has every step, in order", PATIENCE, async || {
            let text = log.log();
            let lines: Vec<_> = text.lines().filter(|line| line.contains(&field)).collect();
            let mut rest = lines.iter();
            for step in steps {
                ensure!(
                    rest.any(|line| line.contains(step)),
                    "no `{step}` in order:\n{}",
                    lines.join("\n")
                );
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
