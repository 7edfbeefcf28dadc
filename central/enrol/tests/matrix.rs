//! Who may do what: every role against every subject of the contract and against what else there
//! is, as a publisher and as a listener, over a real server. One table says what is right.

mod support;

use anyhow::{Result, ensure};
use ev_enrol::Role::{
    self, Central, ChargePoint, Doorkeeper, Driver, Enrol, Maintainer, Operator, Registrar,
};
use ev_testkit::{Keys, NatsServer};
use support::{Raw, SESSION};

/// Everybody, with the name that the rows speak of.
const ACTORS: [(Role, &str); 8] = [
    (Central, "central-a"),
    (ChargePoint, "CP-001"),
    (Driver, "alice"),
    (Operator, "olga"),
    (Maintainer, "mona"),
    (Enrol, "enrol"),
    (Doorkeeper, "door-a"),
    (Registrar, "registrar"),
];

/// Who may publish to a subject, and who may listen on it; nobody else may. `SESSION` stands for a
/// session's id. Nobody can publish to a wildcard; such rows are about listening.
#[rustfmt::skip]
const ROWS: &[(&str, &[Role], &[Role])] = &[
    // Drivers ask as themselves.
    ("ev.v1.driver.alice.start",                &[Driver],      &[Central]),
    ("ev.v1.driver.alice.receipt",              &[Driver],      &[Central]),
    ("ev.v1.driver.bob.start",                  &[],            &[Central]),
    ("ev.v1.driver.alice",                      &[],            &[]),
    ("ev.v1.driver.alice.start.more",           &[],            &[]),
    ("ev.v1.driver.alice.*",                    &[],            &[Central]),
    ("ev.v1.driver.*.*",                        &[],            &[Central]),
    ("ev.v1.driver.>",                          &[],            &[]),
    // Operators likewise.
    ("ev.v1.op.olga.cp_ls",                     &[Operator],    &[Central]),
    ("ev.v1.op.oscar.cp_ls",                    &[],            &[Central]),
    ("ev.v1.op.alice.cp_ls",                    &[],            &[Central]),
    ("ev.v1.op.*.*",                            &[],            &[Central]),
    // Charge points speak as themselves and hear their own commands.
    ("ev.v1.cp.CP-001.evt",                     &[ChargePoint], &[Central]),
    ("ev.v1.cp.CP-001.sync",                    &[ChargePoint], &[Central]),
    ("ev.v1.cp.CP-001.hb",                      &[ChargePoint], &[Central]),
    ("ev.v1.cp.CP-002.evt",                     &[],            &[Central]),
    ("ev.v1.cp.CP-002.sync",                    &[],            &[Central]),
    ("ev.v1.cp.CP-002.hb",                      &[],            &[Central]),
    ("ev.v1.cp.CP-001.cmd.start",               &[Central],     &[ChargePoint]),
    ("ev.v1.cp.CP-002.cmd.start",               &[Central],     &[]),
    ("ev.v1.cp.CP-001.cmd.*",                   &[],            &[ChargePoint]),
    ("ev.v1.cp.*.cmd.*",                        &[],            &[]),
    ("ev.v1.cp.CP-001.>",                       &[],            &[]),
    ("ev.v1.cp.*.evt",                          &[],            &[Central]),
    ("ev.v1.cp.>",                              &[],            &[]),
    ("ev.v1.cp.CP-001.other",                   &[],            &[]),
    // Live values and updates are their driver's.
    ("ev.v1.cp.CP-001.live.alice.SESSION",      &[ChargePoint], &[Driver]),
    ("ev.v1.cp.CP-001.live.bob.SESSION",        &[ChargePoint], &[]),
    ("ev.v1.cp.CP-002.live.alice.SESSION",      &[],            &[Driver]),
    ("ev.v1.cp.*.live.alice.*",                 &[],            &[Driver]),
    ("ev.v1.cp.*.live.*.*",                     &[],            &[]),
    ("ev.v1.watch.alice.SESSION",               &[Central],     &[Driver]),
    ("ev.v1.watch.bob.SESSION",                 &[Central],     &[]),
    ("ev.v1.watch.alice.*",                     &[],            &[Driver]),
    ("ev.v1.watch.*.*",                         &[],            &[]),
    ("ev.v1.watch.>",                           &[],            &[]),
    // Credentials are announced under the name of whoever does it, and written down.
    ("ev.v1.enrol.registrar.charge_point",      &[Registrar],   &[Central]),
    ("ev.v1.enrol.other.charge_point",          &[],            &[Central]),
    ("ev.v1.enrol.registrar.charge_point.more", &[],            &[]),
    ("ev.v1.enrol.*.*",                         &[],            &[Central]),
    ("ev.v1.enrol.>",                           &[],            &[]),
    ("ev.v1.audit.enrol.root",                  &[Central, Registrar], &[]),
    ("ev.v1.audit.enrol.root.more",             &[Central],     &[]),
    ("ev.v1.audit.op.olga",                     &[Central],     &[]),
    ("ev.v1.audit.>",                           &[],            &[]),
    // What central keeps.
    ("ev.v1.ledger",                            &[Central],     &[]),
    ("ev.v1.cdr.SESSION",                       &[Central],     &[]),
    ("ev.v1.cdr.SESSION.1",                     &[Central],     &[]),
    ("ev.v1.cdr.>",                             &[],            &[]),
    ("ev.v1.uptime.central-a",                  &[Central],     &[]),
    ("ev.v1.uptime.>",                          &[],            &[]),
    ("ev.v1.site.SITE-A.limit",                 &[],            &[]),
    ("ev.v1.>",                                 &[],            &[]),
    ("ev.v2.driver.alice.start",                &[],            &[]),
    (">",                                       &[],            &[]),
    ("*",                                       &[],            &[]),
    // Streams: central makes and reads its own. Only a maintainer removes anything.
    ("$JS.API.INFO",                            &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.CREATE.EV_LEDGER",         &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.CREATE.OTHER",             &[Maintainer],  &[]),
    ("$JS.API.STREAM.INFO.EV_LEDGER",           &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.UPDATE.EV_LEDGER",         &[Maintainer],  &[]),
    ("$JS.API.STREAM.DELETE.EV_LEDGER",         &[Maintainer],  &[]),
    ("$JS.API.STREAM.PURGE.EV_LEDGER",          &[Maintainer],  &[]),
    ("$JS.API.STREAM.PURGE.EV_CDR",             &[Maintainer],  &[]),
    ("$JS.API.STREAM.CREATE.EV_UPTIME",         &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.PURGE.EV_UPTIME",          &[Maintainer],  &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.EV_CDR.c",      &[Central, Maintainer], &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.EV_UPTIME.c",   &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.PURGE.OBJ_EV_SNAPSHOTS",   &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.MSG.DELETE.EV_LEDGER",     &[Maintainer],  &[]),
    ("$JS.API.STREAM.RESTORE.EV_LEDGER",        &[Maintainer],  &[]),
    ("$JS.API.STREAM.SNAPSHOT.EV_LEDGER",       &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.SNAPSHOT.EV_AUDIT",        &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.SNAPSHOT.EV_UPTIME",       &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.SNAPSHOT.OTHER",           &[Maintainer],  &[]),
    ("$JS.SNAPSHOT.ACK.EV_LEDGER.x",            &[Central, Maintainer], &[]),
    ("$JS.SNAPSHOT.ACK.OTHER.x",                &[Maintainer],  &[]),
    ("$JS.SNAPSHOT.RESTORE.EV_LEDGER.x",        &[Maintainer],  &[]),
    ("$JS.API.STREAM.LEADER.STEPDOWN.EV_LEDGER", &[Maintainer], &[]),
    ("$JS.API.CONSUMER.CREATE.EV_LEDGER.c",     &[Central, Maintainer], &[]),
    ("$JS.API.CONSUMER.CREATE.OTHER.c",         &[Maintainer],  &[]),
    ("$JS.API.META.LEADER.STEPDOWN",            &[Maintainer],  &[]),
    ("$JS.API.>",                               &[],            &[]),
    ("$JS.ACK.EV_LEDGER.c.1",                   &[Maintainer],  &[]),
    ("$JS.EVENT.ADVISORY.>",                    &[],            &[]),
    ("$O.EV_SNAPSHOTS.C.x",                     &[Central],     &[]),
    ("$KV.other.x",                             &[],            &[]),
    // Servers.
    ("$SYS.REQ.CLAIMS.UPDATE",                  &[Enrol],       &[]),
    ("$SYS.REQ.CLAIMS.DELETE",                  &[],            &[]),
    ("$SYS.REQ.CLAIMS.PACK",                    &[],            &[]),
    ("$SYS.REQ.SERVER.PING",                    &[Enrol],       &[]),
    ("$SYS.REQ.ACCOUNT.A.INFO",                 &[Enrol],       &[]),
    ("$SYS.REQ.ACCOUNT.A.CONNZ",                &[],            &[]),
    ("$SYS.REQ.ACCOUNT.A.CLAIMS.LOOKUP",        &[Doorkeeper],  &[]),
    ("$SYS.REQ.ACCOUNT.A.CLAIMS.UPDATE",        &[],            &[]),
    ("$SYS.REQ.ACCOUNT.A.CLAIMS.DELETE",        &[],            &[]),
    ("$SYS.REQ.CLAIMS.LIST",                    &[Doorkeeper],  &[]),
    ("$SYS.REQ.SERVER.S.KICK",                  &[Doorkeeper],  &[]),
    ("$SYS.REQ.SERVER.S.CONNZ",                 &[Doorkeeper],  &[]),
    ("$SYS.REQ.SERVER.PING.CONNZ",              &[Doorkeeper],  &[]),
    ("$SYS.REQ.SERVER.PING.VARZ",               &[Doorkeeper],  &[]),
    ("$SYS.REQ.SERVER.PING.JSZ",                &[Doorkeeper],  &[]),
    ("$SYS.REQ.SERVER.S.JSZ",                   &[],            &[]),
    ("$SYS.REQ.SERVER.S.LDM",                   &[],            &[]),
    ("$SYS.REQ.SERVER.S.RELOAD",                &[],            &[]),
    ("$SYS.REQ.SERVER.S.SUBSZ",                 &[],            &[]),
    ("$SYS.REQ.SERVER.S.VARZ",                  &[],            &[]),
    ("$SYS.REQ.SERVER.PING.SUBSZ",              &[],            &[]),
    ("$SYS.REQ.USER.INFO",                      &[],            &[]),
    ("$SYS.REQ.ACCOUNT.PING.CONNZ",             &[],            &[]),
    ("$SYS.ACCOUNT.*.CONNECT",                  &[],            &[Doorkeeper]),
    ("$SYS.ACCOUNT.A.CONNECT",                  &[],            &[Doorkeeper]),
    ("$SYS.ACCOUNT.*.DISCONNECT",               &[],            &[Doorkeeper]),
    ("$SYS.ACCOUNT.A.DISCONNECT",               &[],            &[Doorkeeper]),
    ("$SYS.ACCOUNT.A.SERVER.CONNS",             &[],            &[]),
    ("$SYS.ACCOUNT.A.CLAIMS.UPDATE",            &[],            &[]),
    ("$SYS.ACCOUNT.>",                          &[],            &[]),
    ("$SYS.SERVER.*.CLIENT.AUTH.ERR",           &[],            &[Doorkeeper]),
    ("$SYS.SERVER.S.CLIENT.AUTH.ERR",           &[],            &[Doorkeeper]),
    ("$SYS.SERVER.*.STATSZ",                    &[],            &[Doorkeeper]),
    ("$SYS.SERVER.*.SHUTDOWN",                  &[],            &[Doorkeeper]),
    ("$SYS.SERVER.>",                           &[],            &[]),
    ("$SYS.REQ.>",                              &[],            &[]),
    ("$SYS._INBOX.S.x",                         &[],            &[]),
    ("$SYS.>",                                  &[],            &[]),
    // Inboxes are their owner's.
    ("_INBOX.x",                                &[],            &[]),
    ("_INBOX.>",                                &[],            &[]),
    ("_INBOX_central-a.x",                      &[],            &[Central]),
    ("_INBOX_CP-001.x",                         &[],            &[ChargePoint]),
    ("_INBOX_alice.x",                          &[],            &[Driver]),
    ("_INBOX_alice.>",                          &[],            &[Driver]),
    ("_INBOX_olga.x",                           &[],            &[Operator]),
    ("_INBOX_mona.x",                           &[],            &[Maintainer]),
    ("$JS.API.STREAM.CREATE.EV_AUDIT",          &[Central, Maintainer], &[]),
    ("$JS.API.STREAM.INFO.EV_AUDIT",            &[Central, Maintainer], &[]),
    ("_INBOX_registrar.x",                      &[],            &[Registrar]),
    ("_INBOX_enrol.x",                          &[],            &[Enrol]),
    ("_INBOX_door-a.x",                         &[],            &[Doorkeeper]),
    ("_INBOX_bob.x",                            &[],            &[]),
    ("_INBOX_alice2.x",                         &[],            &[]),
    // Answers to questions that crossed.
    ("_R_.x.y",                                 &[Central],     &[]),
    ("_R_.>",                                   &[],            &[]),
];

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_nothing_else() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let mut wrong = Vec::new();
    let mut cells = 0;
    for (role, name) in ACTORS {
        let mut raw = Raw::connect(&server.url(), &keys.creds(role, name)?).await?;
        for (subject, publishers, listeners) in ROWS {
            let subject = subject.replace("SESSION", SESSION);
            let is_pattern = subject.contains(['*', '>']);
            if !is_pattern {
                raw.publish(&subject, None, "").await?;
                let may = raw.judged().await?.is_empty();
                cells += 1;
                if may != publishers.contains(&role) {
                    wrong.push(format!("{role} publishes to {subject}: {may}"));
                }
            }
            let queues: &[Option<&str>] = &[None, Some("central"), Some("other")];
            for queue in queues {
                let sid = raw.subscribe(&subject, *queue).await?;
                let may = raw.judged().await?.is_empty();
                raw.send(&format!("UNSUB {sid}\r\n")).await?;
                cells += 1;
                if may != listeners.contains(&role) {
                    wrong.push(format!("{role} listens on {subject} ({queue:?}): {may}"));
                }
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {cells}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // The table was walked.
    assert!(cells > ACTORS.len() * ROWS.len() * 3, "{cells}");
    Ok(())
}

/// What a leaf's credential for CP-001 may send, and hear.
const LEAF_SENDS: [&str; 5] = [
    "ev.v1.cp.CP-001.evt",
    "ev.v1.cp.CP-001.sync",
    "ev.v1.cp.CP-001.hb",
    "_R_.x.y",
    // The server takes acknowledgements from every leaf. EDGE has no stream, and none leaves it.
    "$JS.ACK.EV_LEDGER.c.1",
];
const LEAF_HEARS: [&str; 2] = ["ev.v1.cp.CP-001.cmd.start", "_INBOX_CP-001.x"];

/// The same rows for a leaf node, by the hub's own judgement: whoever has stolen its credential has
/// no nats-server in between that would keep to what it may. Each violation ends the connection.
#[tokio::test]
async fn a_leaf_may_do_what_its_charge_points_may_and_nothing_else() -> Result<()> {
    let keys = Keys::new()?;
    let hub = NatsServer::start_with_conf(&keys, &keys.leaves()?).await?;
    let creds = keys.leaf_creds("SITE-A", &["CP-001"])?;
    let open = async || -> Result<Raw> {
        let mut raw = Raw::open_leaf(hub.leaf_port(), &creds).await?;
        raw.round_trip().await?;
        Ok(raw)
    };
    let mut raw = open().await?;
    let mut wrong = Vec::new();
    let mut refused = 0;
    for (row, _, _) in ROWS.iter().filter(|(s, _, _)| !s.contains(['*', '>'])) {
        let subject = row.replace("SESSION", SESSION);
        for (what, line, list) in [
            (
                "sends",
                format!("LMSG {subject} 0\r\n\r\n"),
                &LEAF_SENDS[..],
            ),
            ("hears", format!("LS+ {subject}\r\n"), &LEAF_HEARS[..]),
            (
                "hears in a group",
                format!("LS+ {subject} q 1\r\n"),
                &LEAF_HEARS[..],
            ),
        ] {
            raw.send(&line).await?;
            let may = raw.round_trip().await.is_ok();
            if !may {
                refused += 1;
                raw = open().await?;
            }
            if may != list.contains(row) {
                wrong.push(format!("it {what} {subject}: {may}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > 100, "the table was walked: {refused}");
    Ok(())
}

/// Where answers to foreign questions may go is decided by the question alone.
#[tokio::test]
async fn a_charge_point_answers_only_what_it_was_asked_and_once() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let mut central = Raw::connect(&url, &keys.creds(Central, "central-a")?).await?;
    let mut cp = Raw::connect(&url, &keys.creds(ChargePoint, "CP-001")?).await?;
    cp.publish("_R_.guessed.x", None, "").await?;
    assert_eq!(cp.judged().await?.len(), 1);
    cp.subscribe("ev.v1.cp.CP-001.cmd.*", None).await?;
    cp.round_trip().await?;
    let inbox = format!("{}.1", central.inbox);
    central.subscribe(&inbox, None).await?;
    central
        .publish("ev.v1.cp.CP-001.cmd.stop", Some(&inbox), "")
        .await?;
    let reply = cp.message().await?.reply.unwrap_or_default();
    cp.publish(&reply, None, "first").await?;
    assert_eq!(cp.judged().await?, Vec::<String>::new());
    cp.publish(&reply, None, "second").await?;
    assert_eq!(
        cp.judged().await?.len(),
        1,
        "a second answer was let through"
    );
    assert_eq!(central.message().await?.payload, "first");
    central.round_trip().await?;
    assert_eq!(central.heard, []);
    Ok(())
}
