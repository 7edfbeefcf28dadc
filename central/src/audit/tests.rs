//! Against a real nats-server.

use std::time::Instant;

use async_nats::{HeaderMap, Message};
use ev_client::Credential;
use ev_contract::{v1::TariffLsReply, wire::Tag};
use ev_enrol::audit::{EnrolVerb, Enrolment, Whose};
use ev_testkit::{Cluster, NatsServer, PATIENCE, Role, wait_for};

use super::{entry::draft, *};
use crate::reports::reports_of;

fn message(subject: &str) -> Message {
    Message {
        subject: subject.into(),
        reply: None,
        payload: Bytes::new(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    }
}

fn replica() -> ReplicaId {
    "central-1".parse().unwrap()
}

fn enrolment(verb: EnrolVerb, whose: Whose) -> Enrolment {
    Enrolment {
        by: "root".parse().unwrap(),
        verb,
        whose,
        key: Some(nkeys::KeyPair::new_user().public_key()),
        refused: None,
        detail: None,
    }
}

async fn started(server: &NatsServer) -> (jetstream::Context, Audit, Out, async_nats::Client) {
    let client = server.connect().await.unwrap();
    let js = jetstream::new(client.clone());
    let metrics = Arc::new(Metrics::new().unwrap());
    let (out, _) = Out::start(client.clone(), client.clone(), Arc::clone(&metrics));
    let stream = ensure(&js, 1).await.unwrap();
    let (audit, _) = Audit::start(
        js.clone(),
        stream.clone(),
        reports_of(&stream),
        replica(),
        out.clone(),
        metrics,
    );
    (js, audit, out, client)
}

async fn entry_at(js: &jetstream::Context, seq: u64) -> AuditEntry {
    let stream = js.get_stream(streams::AUDIT.name).await.unwrap();
    let message = stream.get_raw_message(seq).await.unwrap();
    wire::decode(&message.payload, Encoding::MsgPack).unwrap()
}

#[tokio::test]
async fn a_stream_that_can_be_shortened_is_not_taken_for_the_audit() {
    let server = NatsServer::start().await.unwrap();
    let js = jetstream::new(server.connect().await.unwrap());
    js.create_stream(jetstream::stream::Config {
        name: streams::AUDIT.name.into(),
        subjects: vec![streams::AUDIT.subjects[0].into()],
        ..jetstream::stream::Config::default()
    })
    .await
    .unwrap();
    let error = ensure(&js, 1).await.unwrap_err().to_string();
    assert!(error.contains("deny_delete"), "{error}");
}

#[tokio::test]
async fn an_append_that_nobody_acknowledges_ends() {
    let server = NatsServer::start().await.unwrap();
    let js = jetstream::new(server.connect().await.unwrap());
    let act = enrolment(EnrolVerb::Init, Whose::Installation);
    let began = Instant::now();
    assert!(append(&js, &act.entry(engine::wall())).await.is_err());
    assert!(began.elapsed() < APPEND_MAX + Duration::from_secs(2));
}

/// An answer may only leave when its entry is there: without a stream for it none does.
#[tokio::test]
async fn an_operators_answer_waits_for_its_entry() {
    let server = NatsServer::start().await.unwrap();
    let (js, audit, _out, client) = started(&server).await;
    let mut questions = client.subscribe("ev.v1.op.*.*").await.unwrap();
    client.flush().await.unwrap();
    let olga = server.connect_as(Role::Operator, "olga").await.unwrap();
    let inbox = olga.new_inbox();
    let mut answers = olga.subscribe(inbox.clone()).await.unwrap();
    // A question can be answered once.
    let mut asked = async || {
        let subject = "ev.v1.op.olga.tariff_ls";
        olga.publish_with_reply(subject, inbox.clone(), "".into())
            .await
            .unwrap();
        let question = questions.next().await.unwrap();
        let reply = ReplyTo {
            subject: question.reply.clone().unwrap().to_string(),
            encoding: Encoding::MsgPack,
        };
        (draft(AuditKind::Op, &question), reply)
    };
    let answer = TariffLsReply {
        tag: Tag::new(),
        to: "olga".into(),
        tariffs: vec![],
        ts: engine::wall(),
    };
    let (first, reply) = asked().await;
    audit.answer(&first, Some(&reply), &answer);
    let heard = answers.next().await.unwrap();
    assert!(wire::decode::<TariffLsReply>(&heard.payload, Encoding::MsgPack).is_ok());
    let entry = entry_at(&js, 1).await;
    assert_eq!(entry.outcome, AuditOutcome::Accepted);
    assert_eq!(entry.replica, replica());
    // Nobody listens for the answer any more, and what became of it is still written down.
    audit.answer(&first, None, &answer);
    wait_for("a second entry", PATIENCE, async || {
        let mut stream = js.get_stream(streams::AUDIT.name).await?;
        anyhow::ensure!(stream.info().await?.state.last_sequence == 2);
        Ok(())
    })
    .await
    .unwrap();

    let mona = server.connect_as(Role::Maintainer, "mona").await.unwrap();
    jetstream::new(mona)
        .delete_stream(streams::AUDIT.name)
        .await
        .unwrap();
    let (again, reply) = asked().await;
    audit.answer(&again, Some(&reply), &answer);
    let heard = answers.next().await.unwrap();
    let told: ev_contract::v1::ErrorReply =
        wire::decode(&heard.payload, Encoding::MsgPack).unwrap();
    assert_eq!(told.error.code, Code::OutcomeUnknown);
    assert_eq!(told.to, "olga");
}

#[tokio::test]
async fn what_waits_at_the_end_is_written_down() {
    let server = NatsServer::start().await.unwrap();
    let client = server.connect().await.unwrap();
    let js = jetstream::new(client.clone());
    let metrics = Arc::new(Metrics::new().unwrap());
    let (out, sending) = Out::start(client.clone(), client, Arc::clone(&metrics));
    let stream = ensure(&js, 1).await.unwrap();
    let (audit, auditing) = Audit::start(
        js.clone(),
        stream.clone(),
        reports_of(&stream),
        replica(),
        out,
        metrics,
    );
    for n in 0..20 {
        let subject = format!("ev.v1.driver.d-{n}.stop");
        audit.refused(&draft(AuditKind::Driver, &message(&subject)), None, "x");
    }
    drop(audit);
    tokio::time::timeout(PATIENCE, async {
        auditing.await.unwrap();
        futures::future::try_join_all(sending).await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(entry_at(&js, 20).await.name.as_deref(), Some("d-19"));
}

#[tokio::test]
async fn all_together_are_written_down_only_so_often() {
    let server = NatsServer::start().await.unwrap();
    let (js, audit, ..) = started(&server).await;
    let began = Instant::now();
    for n in 0..1_000 {
        let subject = format!("ev.v1.driver.d-{n}.stop");
        audit.refused(&draft(AuditKind::Driver, &message(&subject)), None, "x");
    }
    let end = draft(AuditKind::Op, &message("ev.v1.op.olga.tariff_ls"));
    let exposed = async || {
        let text = audit.metrics.expose()?;
        let count = |result: &str| {
            let name = format!("ev_audit_entries_total{{kind=\"driver\",result=\"{result}\"}} ");
            text.lines()
                .find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
                .unwrap_or_default()
        };
        anyhow::Ok((count("written"), count("dropped")))
    };
    wait_for("all are dealt with", PATIENCE, async || {
        let (written, dropped) = exposed().await?;
        anyhow::ensure!(written + dropped == 1_000, "{written}, {dropped}");
        Ok(())
    })
    .await
    .unwrap();
    let (written, _) = exposed().await.unwrap();
    let more = began.elapsed().as_millis() / REFUSALS_OF_ALL.0.as_millis();
    let most = u64::from(REFUSALS_OF_ALL.1) + u64::try_from(more).unwrap() + 1;
    assert!(
        (500..=most).contains(&written),
        "{written} of at most {most}"
    );
    assert!(
        append(&js, &end).await.is_ok(),
        "there is room for operators"
    );
}

/// What an operator shows the server, and what they say of themselves.
#[tokio::test]
async fn the_server_says_with_which_key_somebody_came_and_they_cannot() {
    let server = NatsServer::start().await.unwrap();
    let core = server.connect().await.unwrap();
    let mut requests = core.subscribe("ev.v1.op.*.*").await.unwrap();
    core.flush().await.unwrap();
    let operator = server.connect_as(Role::Operator, "olga").await.unwrap();
    let creds = server.keys().creds(Role::Operator, "olga").unwrap();
    let key = Credential::read(&creds).unwrap().public_key();
    let forged = serde_json::json!({"user": nkeys::KeyPair::new_user().public_key()});
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Request-Info", forged.to_string().as_str());
    for headers in [HeaderMap::new(), headers] {
        let inbox = operator.new_inbox();
        operator
            .publish_with_reply_and_headers("ev.v1.op.olga.cp_ls", inbox, headers, "x".into())
            .await
            .unwrap();
        let asked = tokio::time::timeout(PATIENCE, requests.next())
            .await
            .unwrap()
            .unwrap();
        let entry = draft(AuditKind::Op, &asked);
        assert_eq!(entry.credential.as_ref(), Some(&key));
        assert_eq!(entry.name.as_deref(), Some("olga"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_three_servers_who_follows_misses_nothing() {
    const ENTRIES: u64 = 200;
    let cluster = Cluster::start(3).await.unwrap();
    let js = jetstream::new(cluster.node(0).connect().await.unwrap());
    let stream = ensure(&js, 3).await.unwrap();
    assert_eq!(stream.cached_info().config.num_replicas, 3);
    let writing = tokio::spawn(async move {
        let act = enrolment(EnrolVerb::Rotate, Whose::Installation);
        for _ in 0..ENTRIES {
            append(&js, &act.entry(engine::wall())).await.unwrap();
        }
    });
    let elsewhere = jetstream::new(cluster.node(1).connect().await.unwrap());
    let stream = elsewhere.get_stream(streams::AUDIT.name).await.unwrap();
    let mut seen = Vec::new();
    let mut last = 0;
    tokio::time::timeout(PATIENCE, async {
        while last < ENTRIES {
            let page = Page {
                from: pages::Where::After(last),
                since: None,
                who: None,
                verb: None,
                rows: 7,
            };
            let reply = pages::read(&stream, "olga", &page).await.unwrap();
            seen.extend(reply.entries.iter().map(|row| row.seq));
            last = reply.last_seq;
        }
    })
    .await
    .unwrap();
    writing.await.unwrap();
    assert!(seen.iter().copied().eq(1..=ENTRIES), "{seen:?}");
}

#[tokio::test]
async fn half_of_the_stream_is_kept_for_operators_and_enrolment() {
    let server = NatsServer::start().await.unwrap();
    let (js, audit, out, _) = started(&server).await;
    let stream = ensure(&js, 1).await.unwrap();
    let every = |(each, burst)| Gate::every(each, burst);
    let mut writer = Writer {
        js,
        reports: reports_of(&stream),
        stream,
        replica: replica(),
        out,
        metrics: Arc::clone(&audit.metrics),
        of_one: every(REFUSALS_OF_ONE),
        of_all: every(REFUSALS_OF_ALL),
        reads: every(READS_OF_ONE),
        dropped: BTreeMap::new(),
        bytes: REFUSALS_UP_TO_BYTES - 1,
        looked: None,
    };
    let entry = draft(AuditKind::Driver, &message("ev.v1.driver.mallory.stop"));
    assert_eq!(writer.why_not(&entry), None);
    writer.done(&Done::Size(Some(REFUSALS_UP_TO_BYTES)));
    assert_eq!(writer.why_not(&entry), Some("half_full"));
}

/// Whoever appends an entry again, since no acknowledgement came, says so by its id.
#[tokio::test]
async fn an_entry_that_is_appended_twice_is_there_once() {
    let server = NatsServer::start().await.unwrap();
    let js = jetstream::new(server.connect().await.unwrap());
    let stream = ensure(&js, 1).await.unwrap();
    let window = stream.cached_info().config.duplicate_window;
    assert_eq!(window.as_secs(), streams::AUDIT.duplicates_s);
    let entry = enrolment(EnrolVerb::Init, Whose::Installation).entry(engine::wall());
    for _ in 0..2 {
        // Longer ago than the server remembers.
        append(&js, &entry).await.unwrap();
    }
    let page = Page {
        from: pages::Where::End,
        since: None,
        who: None,
        verb: None,
        rows: 10,
    };
    let reply = pages::read(&stream, "olga", &page).await.unwrap();
    assert_eq!(reply.entries.len(), 1, "{reply:?}");
    assert_eq!((reply.first_seq, reply.last_seq), (1, 2));
}
