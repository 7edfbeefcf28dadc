//! Subjects of others: the server refuses, says so, and writes down whose credential it was.

use anyhow::{Context, Result, ensure};
use ev_e2e::{Charger, Layout, Site};
use ev_testkit::Role;
use futures::StreamExt;

use super::{Guest, server_logs};
use crate::audit;

const SESSION: &str = "0199c8f1-7a00-7abc-8def-0123456789ab";

/// Who tries what: to publish, then to hear.
#[rustfmt::skip]
const TRIES: &[(Role, &str, &[&str], &[&str])] = &[
    (Role::Driver, "mallory", &[
        "ev.v1.driver.bob.start", "ev.v1.driver.bob.stop", "ev.v1.op.olga.driver_block",
        "ev.v1.cp.CP-001.cmd.start", "ev.v1.cp.CP-001.evt", "ev.v1.cp.CP-001.live.bob.SESSION",
        "ev.v1.watch.bob.SESSION", "ev.v1.ledger", "ev.v1.cdr.SESSION", "ev.v1.audit.driver.mallory",
        "$JS.API.STREAM.LIST", "$JS.API.STREAM.DELETE.EV_LEDGER", "$JS.API.CONSUMER.CREATE.EV_LEDGER.x",
        "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "_INBOX_bob.x", "_R_.guessed.x",
    ], &[
        "ev.v1.watch.bob.*", "ev.v1.watch.*.*", "ev.v1.cp.*.live.bob.*", "ev.v1.driver.bob.*",
        "_INBOX_bob.>", "_INBOX.>", "_R_.>", "$JS.>", "$SYS.>", ">",
    ]),
    (Role::ChargePoint, "CP-666", &[
        "ev.v1.cp.CP-001.evt", "ev.v1.cp.CP-001.sync", "ev.v1.cp.CP-001.hb",
        "ev.v1.cp.CP-001.live.bob.SESSION", "ev.v1.cp.CP-001.cmd.stop", "ev.v1.driver.bob.start",
        "ev.v1.ledger", "$JS.API.STREAM.LIST", "$SYS.REQ.SERVER.PING", "_INBOX_CP-001.x",
    ], &[
        "ev.v1.cp.CP-001.cmd.*", "ev.v1.cp.*.cmd.*", "ev.v1.cp.CP-001.evt", "ev.v1.cp.*.hb",
        "ev.v1.watch.bob.*", "_INBOX_CP-001.>", "$SYS.>", ">",
    ]),
    (Role::Operator, "otto", &[
        "ev.v1.op.olga.driver_block", "ev.v1.driver.bob.start", "ev.v1.cp.CP-001.cmd.start",
        "ev.v1.ledger", "ev.v1.audit.op.otto", "$JS.API.STREAM.PURGE.EV_AUDIT",
        "$SYS.REQ.CLAIMS.UPDATE",
    ], &["ev.v1.op.olga.*", "ev.v1.watch.bob.*", "_INBOX_olga.>", "$SYS.>", ">"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_others_is_denied_and_the_server_writes_down_who_tried() -> Result<()> {
    let site = Site::start(&Layout::small(Charger::Orderly)).await?;
    let bob = Guest::of(&site.nats, Role::Driver, "bob").await?;
    let mut updates = bob.nats.subscribe("ev.v1.watch.bob.*").await?;
    let mut lives = bob.nats.subscribe("ev.v1.cp.*.live.bob.*").await?;
    bob.nats.flush().await?;
    let entries = audit::entries(&site).await?.len();
    for (role, name, publishes, hears) in TRIES {
        let guest = Guest::of(&site.nats, *role, name).await?;
        let key = audit::key(&site, *role, name)?;
        for subject in *publishes {
            let subject = subject.replace("SESSION", SESSION);
            guest.nats.publish(subject.clone(), "junk".into()).await?;
            guest
                .hears(&format!("may not publish to {subject}"))
                .await?;
            let line = format!("Publish Violation - Subject \"{subject}\"");
            server_logs(&site.nats, &[&key, &line]).await?;
        }
        for subject in *hears {
            let _none = guest.nats.subscribe(*subject).await?;
            guest
                .hears(&format!("may not subscribe to {subject}"))
                .await?;
            let line = format!("Subscription Violation - Subject \"{subject}\"");
            server_logs(&site.nats, &[&key, &line]).await?;
        }
        // The folder of keys says whose key it is.
        let realm = site.nats.keys().realm()?;
        let whose = realm
            .issued(&Role::ALL)?
            .into_iter()
            .find(|one| one.key == key);
        let whose = whose.context("the realm knows the key")?;
        ensure!((whose.role, whose.name.as_str()) == (*role, *name));
    }
    // Nobody has heard anything of it. What is allowed comes after all that was not.
    let central = site.nats.connect().await?;
    let last = format!("ev.v1.watch.bob.{SESSION}");
    central.publish(last, "last".into()).await?;
    let first = updates.next().await.context("an update")?;
    ensure!(first.payload == "last", "{first:?}");
    drop(updates);
    let cp = Guest::of(&site.nats, Role::ChargePoint, "CP-001").await?;
    let last = format!("ev.v1.cp.CP-001.live.bob.{SESSION}");
    cp.nats.publish(last, "last".into()).await?;
    let first = lives.next().await.context("a live value")?;
    ensure!(first.payload == "last", "{first:?}");
    let quarantined = site
        .metric(0, "ev_spool_records_total{what=\"quarantined\"}")
        .await?;
    ensure!(quarantined < 0.5, "{quarantined} records came through");
    ensure!(site.metric(0, "ev_ledger_junk_messages_total").await? < 0.5);
    ensure!(audit::entries(&site).await?.len() == entries);
    Ok(())
}
