//! What crosses between accounts, and what does not, over a real server.

mod support;

use anyhow::Result;
use ev_enrol::Role;
use ev_testkit::{Keys, NatsServer};
use support::{Heard, Raw, SESSION};

struct Site {
    keys: Keys,
    server: NatsServer,
}

impl Site {
    async fn new() -> Result<Self> {
        let keys = Keys::new()?;
        let server = NatsServer::start_locked(&keys).await?;
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
