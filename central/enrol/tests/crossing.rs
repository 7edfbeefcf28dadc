//! What crosses between accounts, and what does not, over a real server.

mod support;

use anyhow::Result;
use ev_enrol::Role;
use ev_testkit::{Cluster, Keys, NatsServer, PATIENCE, wait_until};
use support::{Heard, Raw, SESSION};

struct Site {
    keys: Keys,
    server: NatsServer,
}

impl Site {
    async fn new() -> Result<Self> {
        let keys = Keys::new()?;
        let server = NatsServer::start_with_keys(&keys).await?;
        Ok(Self { keys, server })
    }

    async fn raw(&self, role: Role, name: &str) -> Result<Raw> {
        Raw::connect(&self.server.url(), &self.keys.creds(role, name)?).await
    }
}

/// Asks, lets the other side answer, and returns the question and the answer as they came.
async fn ask(asker: &mut Raw, subject: &str, answerer: &mut Raw) -> Result<(Heard, Heard)> {
    let inbox = format!("{}.{}", asker.inbox, uuid::Uuid::new_v4().simple());
    asker.subscribe(&inbox, None).await?;
    asker.publish(subject, Some(&inbox), "question").await?;
    asker.round_trip().await?;
    let question = answerer.message().await?;
    let reply = question.reply.clone().unwrap_or_default();
    answerer.publish(&reply, None, "answer").await?;
    assert_eq!(answerer.judged().await?, Vec::<String>::new());
    let answer = asker.message().await?;
    assert_eq!(
        (answer.subject.as_str(), answer.payload.as_str()),
        (inbox.as_str(), "answer")
    );
    Ok((question, answer))
}

#[tokio::test]
async fn questions_reach_central_and_their_answers_come_back() -> Result<()> {
    let site = Site::new().await?;
    let mut central = site.raw(Role::Central, "central-a").await?;
    for subject in [
        "ev.v1.driver.*.*",
        "ev.v1.op.*.*",
        "ev.v1.cp.*.sync",
        "ev.v1.cp.*.evt",
    ] {
        central.subscribe(subject, Some("central")).await?;
    }
    central.round_trip().await?;
    for (role, name, subject) in [
        (Role::Driver, "alice", "ev.v1.driver.alice.start"),
        (Role::Operator, "olga", "ev.v1.op.olga.cp_ls"),
        (Role::ChargePoint, "CP-001", "ev.v1.cp.CP-001.sync"),
        (Role::ChargePoint, "CP-001", "ev.v1.cp.CP-001.evt"),
    ] {
        let mut asker = site.raw(role, name).await?;
        let (question, _) = ask(&mut asker, subject, &mut central).await?;
        assert_eq!(question.subject, subject);
        // The asker's own reply subject is not shown to central, so none can be aimed.
        assert!(
            question
                .reply
                .is_some_and(|reply| reply.starts_with("_R_."))
        );
        assert!(
            question
                .headers
                .contains(&format!("\"name_tag\":\"{name}\"")),
            "{}",
            question.headers
        );
    }
    Ok(())
}

#[tokio::test]
async fn central_can_do_with_its_streams_what_it_needs() -> Result<()> {
    use async_nats::jetstream::{self, consumer::push, object_store, stream};
    use ev_contract::{streams, subjects};
    use futures::StreamExt;

    let site = Site::new().await?;
    let nats = site
        .keys
        .connect(&site.server.url(), Role::Central, "central-a")
        .await?;
    let js = jetstream::new(nats.clone());
    for definition in [&streams::LEDGER, &streams::CDR] {
        let config = stream::Config {
            name: definition.name.into(),
            subjects: definition.subjects.iter().map(|s| (*s).into()).collect(),
            ..stream::Config::default()
        };
        // Made, and found.
        js.get_or_create_stream(config.clone()).await?;
        js.get_or_create_stream(config).await?.info().await?;
    }
    js.publish(subjects::LEDGER, "frame".into()).await?.await?;
    let receipt = format!("ev.v1.cdr.{SESSION}");
    js.publish(receipt.clone(), "receipt".into()).await?.await?;
    let cdr = js.get_stream(streams::CDR.name).await?;
    assert_eq!(
        cdr.get_last_raw_message_by_subject(&receipt).await?.payload,
        "receipt"
    );
    let ledger = js.get_stream(streams::LEDGER.name).await?;
    let mut frames = ledger
        .create_consumer(push::OrderedConfig {
            deliver_subject: nats.new_inbox(),
            ..push::OrderedConfig::default()
        })
        .await?
        .messages()
        .await?;
    assert_eq!(
        frames.next().await.transpose()?.map(|m| m.payload.clone()),
        Some("frame".into())
    );
    js.create_object_store(object_store::Config {
        bucket: streams::SNAPSHOT_BUCKET.into(),
        ..object_store::Config::default()
    })
    .await?;
    let bucket = js.get_object_store(streams::SNAPSHOT_BUCKET).await?;
    bucket.put("state", &mut &b"snapshot"[..]).await?;
    bucket.put("state", &mut &b"another"[..]).await?;
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut bucket.get("state").await?, &mut read).await?;
    assert_eq!(read, b"another");
    assert_eq!(bucket.list().await?.count().await, 1);
    bucket.delete("state").await?;
    Ok(())
}

#[tokio::test]
async fn a_command_reaches_its_charge_point_alone_and_is_answered() -> Result<()> {
    let site = Site::new().await?;
    let mut central = site.raw(Role::Central, "central-a").await?;
    let mut cp1 = site.raw(Role::ChargePoint, "CP-001").await?;
    let mut cp2 = site.raw(Role::ChargePoint, "CP-002").await?;
    cp1.subscribe("ev.v1.cp.CP-001.cmd.*", None).await?;
    cp1.round_trip().await?;
    cp2.subscribe("ev.v1.cp.CP-002.cmd.*", None).await?;
    cp2.round_trip().await?;
    ask(&mut central, "ev.v1.cp.CP-001.cmd.stop", &mut cp1).await?;
    cp2.round_trip().await?;
    assert_eq!(cp2.heard, []);
    Ok(())
}

#[tokio::test]
async fn heartbeats_reach_every_central_live_values_and_updates_their_driver() -> Result<()> {
    let site = Site::new().await?;
    let mut centrals = [
        site.raw(Role::Central, "central-a").await?,
        site.raw(Role::Central, "central-b").await?,
    ];
    let mut cp = site.raw(Role::ChargePoint, "CP-001").await?;
    let mut alice = site.raw(Role::Driver, "alice").await?;
    for central in &mut centrals {
        central.subscribe("ev.v1.cp.*.hb", None).await?;
        central.round_trip().await?;
    }
    alice.subscribe("ev.v1.watch.alice.*", None).await?;
    alice
        .subscribe(&format!("ev.v1.cp.*.live.alice.{SESSION}"), None)
        .await?;
    alice.round_trip().await?;

    cp.publish("ev.v1.cp.CP-001.hb", None, "beat").await?;
    cp.publish(
        &format!("ev.v1.cp.CP-001.live.alice.{SESSION}"),
        None,
        "value",
    )
    .await?;
    assert_eq!(cp.judged().await?, Vec::<String>::new());
    for central in &mut centrals {
        assert_eq!(central.message().await?.payload, "beat");
    }
    let live = alice.message().await?;
    assert_eq!(
        live.subject,
        format!("ev.v1.cp.CP-001.live.alice.{SESSION}")
    );
    centrals[0]
        .publish(&format!("ev.v1.watch.alice.{SESSION}"), None, "update")
        .await?;
    let update = alice.message().await?;
    assert_eq!(update.subject, format!("ev.v1.watch.alice.{SESSION}"));
    Ok(())
}

#[tokio::test]
async fn nobody_there_is_said_at_once_across_accounts() -> Result<()> {
    let site = Site::new().await?;
    for (role, name, subject) in [
        (Role::Driver, "alice", "ev.v1.driver.alice.start"),
        (Role::Operator, "olga", "ev.v1.op.olga.cp_ls"),
        (Role::ChargePoint, "CP-001", "ev.v1.cp.CP-001.evt"),
        (Role::Central, "central-a", "ev.v1.cp.CP-001.cmd.ping"),
    ] {
        let mut asker = site.raw(role, name).await?;
        let inbox = format!("{}.1", asker.inbox);
        asker.subscribe(&inbox, None).await?;
        asker.publish(subject, Some(&inbox), "").await?;
        assert!(
            asker.message().await?.headers.starts_with("NATS/1.0 503"),
            "{subject}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn replicas_share_the_questions_of_other_accounts() -> Result<()> {
    const QUESTIONS: usize = 200;
    let site = Site::new().await?;
    let mut centrals = Vec::new();
    for name in ["central-a", "central-b", "central-c"] {
        let mut central = site.raw(Role::Central, name).await?;
        central
            .subscribe("ev.v1.driver.*.*", Some("central"))
            .await?;
        central.round_trip().await?;
        centrals.push(central);
    }
    let mut alice = site.raw(Role::Driver, "alice").await?;
    let inbox = format!("{}.1", alice.inbox);
    for _ in 0..QUESTIONS {
        alice
            .publish("ev.v1.driver.alice.list", Some(&inbox), "")
            .await?;
    }
    alice.round_trip().await?;
    let mut shares = Vec::new();
    for central in &mut centrals {
        central.round_trip().await?;
        shares.push(central.heard.len());
    }
    assert_eq!(shares.iter().sum::<usize>(), QUESTIONS, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    Ok(())
}

/// A server checks no reply subject, so a charge point can aim central's answer at another one.
/// It arrives there without a reply subject of its own and addressed to the first: passed over.
#[tokio::test]
async fn a_reply_subject_that_is_aimed_at_others_moves_nothing() -> Result<()> {
    let site = Site::new().await?;
    let mut central = site.raw(Role::Central, "central-a").await?;
    for subject in ["ev.v1.cp.*.evt", "ev.v1.cp.*.sync", "ev.v1.cp.*.hb"] {
        central.subscribe(subject, None).await?;
    }
    central.round_trip().await?;
    let mut cp2 = site.raw(Role::ChargePoint, "CP-002").await?;
    cp2.subscribe("ev.v1.cp.CP-002.cmd.*", None).await?;
    cp2.round_trip().await?;
    let mut cp1 = site.raw(Role::ChargePoint, "CP-001").await?;
    for target in [
        "ev.v1.cp.CP-002.evt",
        "ev.v1.cp.CP-002.hb",
        "ev.v1.ledger",
        "$JS.API.STREAM.DELETE.EV_LEDGER",
        "ev.v1.cp.CP-002.cmd.stop",
    ] {
        cp1.publish("ev.v1.cp.CP-001.evt", Some(target), "records")
            .await?;
        cp1.round_trip().await?;
        let question = central.message().await?;
        let reply = question.reply.unwrap_or_default();
        assert!(reply.starts_with("_R_."), "{reply}");
        central.publish(&reply, None, "answer").await?;
        assert_eq!(central.judged().await?, Vec::<String>::new());
        assert_eq!(central.heard, [], "{target}");
    }
    let aimed = cp2.message().await?;
    assert_eq!((aimed.reply, aimed.payload.as_str()), (None, "answer"));
    Ok(())
}

#[tokio::test]
async fn who_asks_cannot_be_forged_in_the_audit_header() -> Result<()> {
    let site = Site::new().await?;
    let mut central = site.raw(Role::Central, "central-a").await?;
    central
        .subscribe("ev.v1.driver.*.*", Some("central"))
        .await?;
    central.round_trip().await?;
    let mut alice = site.raw(Role::Driver, "alice").await?;
    let inbox = format!("{}.1", alice.inbox);
    let forged = "Nats-Request-Info: {\"name_tag\":\"bob\"}";
    alice
        .publish_with_headers("ev.v1.driver.alice.list", Some(&inbox), forged, "")
        .await?;
    let headers = central.message().await?.headers;
    assert_eq!(headers.matches("Nats-Request-Info").count(), 1, "{headers}");
    assert!(headers.contains("\"name_tag\":\"alice\""), "{headers}");
    Ok(())
}

/// A header asks the server to send a trace of a message somewhere.
#[tokio::test]
async fn a_trace_goes_only_where_its_sender_may_publish() -> Result<()> {
    let site = Site::new().await?;
    let mut alice = site.raw(Role::Driver, "alice").await?;
    for target in [
        "ev.v1.watch.bob.x",
        "ev.v1.driver.bob.start",
        "_INBOX_bob.1",
    ] {
        let header = format!("Nats-Trace-Dest: {target}");
        alice
            .publish_with_headers("ev.v1.driver.alice.list", None, &header, "")
            .await?;
        let errors = alice.judged().await?;
        assert!(
            errors.len() == 1 && errors[0].contains(target),
            "{target}: {errors:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn everything_crosses_in_a_cluster_whoever_is_connected_where() -> Result<()> {
    let keys = Keys::new()?;
    let cluster = Cluster::start_with_keys(&keys).await?;
    let url = |node| cluster.node(node).url();
    let mut central_a = Raw::connect(&url(0), &keys.creds(Role::Central, "central-a")?).await?;
    let mut central_b = Raw::connect(&url(1), &keys.creds(Role::Central, "central-b")?).await?;
    let mut alice = Raw::connect(&url(1), &keys.creds(Role::Driver, "alice")?).await?;
    let mut cp = Raw::connect(&url(2), &keys.creds(Role::ChargePoint, "CP-001")?).await?;
    for central in [&mut central_a, &mut central_b] {
        central.subscribe("ev.v1.cp.*.evt", Some("central")).await?;
        central.subscribe("ev.v1.cp.*.hb", None).await?;
        central.round_trip().await?;
    }
    cp.subscribe("ev.v1.cp.CP-001.cmd.*", None).await?;
    cp.round_trip().await?;
    alice.subscribe("ev.v1.cp.*.live.alice.*", None).await?;
    alice.subscribe("ev.v1.watch.alice.*", None).await?;
    alice.round_trip().await?;
    // Interest spreads between servers after they have answered.
    wait_until("interest has spread", PATIENCE, async || {
        let _ = cp.publish("ev.v1.cp.CP-001.hb", None, "").await;
        let _ = cp.publish("ev.v1.cp.CP-001.live.alice.x", None, "").await;
        let _ = central_a.publish("ev.v1.watch.alice.y", None, "").await;
        for raw in [&mut central_a, &mut central_b, &mut alice, &mut cp] {
            let _ = raw.round_trip().await;
        }
        let has = |raw: &Raw, subject: &str| raw.heard.iter().any(|heard| heard.subject == subject);
        has(&central_a, "ev.v1.cp.CP-001.hb")
            && has(&central_b, "ev.v1.cp.CP-001.hb")
            && has(&alice, "ev.v1.cp.CP-001.live.alice.x")
            && has(&alice, "ev.v1.watch.alice.y")
    })
    .await?;
    for raw in [&mut central_a, &mut central_b, &mut alice] {
        raw.round_trip().await?;
        raw.heard.clear();
    }
    ask(&mut central_a, "ev.v1.cp.CP-001.cmd.stop", &mut cp).await?;
    ask(&mut central_b, "ev.v1.cp.CP-001.cmd.ping", &mut cp).await?;
    let inbox = format!("{}.1", cp.inbox);
    cp.subscribe(&inbox, None).await?;
    for _ in 0..20 {
        cp.publish("ev.v1.cp.CP-001.evt", Some(&inbox), "").await?;
    }
    cp.round_trip().await?;
    let mut answered = 0;
    wait_until("all are answered", PATIENCE, async || {
        for central in [&mut central_a, &mut central_b] {
            let _ = central.round_trip().await;
            let heard = std::mem::take(&mut central.heard);
            for question in heard.into_iter().filter(|h| h.reply.is_some()) {
                let reply = question.reply.unwrap_or_default();
                let _ = central.publish(&reply, None, "answer").await;
            }
        }
        let _ = cp.round_trip().await;
        answered += cp.heard.drain(..).filter(|h| h.payload == "answer").count();
        answered == 20
    })
    .await?;
    Ok(())
}

/// What a charge point goes by: live values that nobody listens to are answered by the server, at
/// once, and those that a driver listens to by nobody.
#[tokio::test]
async fn whether_a_driver_listens_to_live_values_is_known_in_the_whole_cluster() -> Result<()> {
    let keys = Keys::new()?;
    let cluster = Cluster::start_with_keys(&keys).await?;
    let url = |node| cluster.node(node).url();
    let mut cp = Raw::connect(&url(0), &keys.creds(Role::ChargePoint, "CP-001")?).await?;
    let subject = format!("ev.v1.cp.CP-001.live.alice.{SESSION}");
    let inbox = format!("{}.1", cp.inbox);
    cp.subscribe(&inbox, None).await?;
    // Another session, and another driver.
    let mut bob = Raw::connect(&url(1), &keys.creds(Role::Driver, "bob")?).await?;
    bob.subscribe("ev.v1.cp.*.live.bob.*", None).await?;
    bob.round_trip().await?;
    for node in 0..3 {
        cp.publish(&subject, Some(&inbox), "value").await?;
        let said = cp.message().await?.headers;
        assert!(said.starts_with("NATS/1.0 503"), "{said}");

        let mut alice = Raw::connect(&url(node), &keys.creds(Role::Driver, "alice")?).await?;
        alice
            .subscribe(&format!("ev.v1.cp.*.live.alice.{SESSION}"), None)
            .await?;
        wait_until("the wish has spread", PATIENCE, async || {
            cp.heard.clear();
            let _ = cp.publish(&subject, Some(&inbox), "value").await;
            let _ = cp.round_trip().await;
            let _ = alice.round_trip().await;
            cp.heard.is_empty() && !alice.heard.is_empty()
        })
        .await?;
        // Where the charge point hears answers is out of the driver's reach.
        alice.publish(&inbox, None, "answer").await?;
        assert_eq!(alice.judged().await?.len(), 1);
        drop(alice);
        wait_until("the wish is over", PATIENCE, async || {
            cp.heard.clear();
            let _ = cp.publish(&subject, Some(&inbox), "value").await;
            let _ = cp.round_trip().await;
            !cp.heard.is_empty()
        })
        .await?;
        cp.heard.clear();
    }
    Ok(())
}
