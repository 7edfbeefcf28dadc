//! Revoking and rotating, on connections that are open while it happens.

mod support;

use std::time::SystemTime;

use anyhow::{Context, Result};
use ev_client::Tls;
use ev_enrol::{
    Account, Realm, Role, certificate,
    push::{PushError, Servers, push},
};
use ev_testkit::{Cluster, Keys, NatsServer};
use support::Raw;

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(0)
}

async fn push_to(realm: &mut Realm, url: &str) -> Result<Vec<String>> {
    let servers = Servers {
        url: url.to_owned(),
        tls: Tls {
            ca: certificate::ca(realm.dir()),
            identity: None,
        },
    };
    Ok(push(realm, &servers, now_s()).await?)
}

async fn is_refused(url: &str, keys: &Keys, credentials: &std::path::Path) -> Result<bool> {
    let mut raw = Raw::open(url, keys.dir(), Some(credentials)).await?;
    let why = raw.closed().await?;
    Ok(why == "Authorization Violation" || why == "User Authentication Expired")
}

#[tokio::test]
async fn a_revoked_credential_is_dropped_at_once_and_stays_out_also_after_a_restart() -> Result<()>
{
    let keys = Keys::new()?;
    let mut server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let creds = keys.creds(Role::Driver, "alice")?;
    let stolen = keys.dir().join("stolen.creds");
    std::fs::copy(&creds, &stolen)?;
    let before = std::fs::read(keys.dir().join("auth.conf"))?;
    let mut alice = Raw::connect(&url, &creds).await?;
    let mut bob = Raw::connect(&url, &keys.creds(Role::Driver, "bob")?).await?;

    let mut realm = keys.realm()?;
    assert_eq!(realm.revoke(Role::Driver, "alice", now_s())?, 1);
    assert_eq!(push_to(&mut realm, &url).await?, ["nats-1"]);

    assert_eq!(alice.closed().await?, "User Authentication Revoked");
    assert!(!creds.exists());
    assert!(is_refused(&url, &keys, &stolen).await?);
    bob.round_trip().await?;

    // A server that starts with the file of before keeps the newer of the two.
    std::fs::write(keys.dir().join("auth.conf"), before)?;
    server.restart().await?;
    assert!(is_refused(&url, &keys, &stolen).await?);
    // Who is enrolled anew is somebody else to the server.
    let anew = realm.enrol(Role::Driver, "alice", 1, now_s())?;
    Raw::connect(&url, &anew.path).await?;
    Ok(())
}

/// The clock was ahead when it was issued, and has been set right.
#[tokio::test]
async fn what_was_issued_in_the_future_is_revoked_and_replaced_all_the_same() -> Result<()> {
    const AHEAD_S: i64 = 100;
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let mut realm = keys.realm()?;
    let at_s = now_s();
    let mut copies = Vec::new();
    for name in ["alice", "bob"] {
        let issued = realm.enrol(Role::Driver, name, 1, at_s + AHEAD_S)?;
        Raw::connect(&url, &issued.path).await?;
        let copy = keys.dir().join(format!("{name}-copy.creds"));
        std::fs::copy(&issued.path, &copy)?;
        copies.push(copy);
    }
    realm.revoke(Role::Driver, "alice", at_s)?;
    let successor = realm.rotate(Role::Driver, "bob", 1, at_s)?;
    push_to(&mut realm, &url).await?;
    for copy in &copies {
        assert!(is_refused(&url, &keys, copy).await?, "{}", copy.display());
    }
    Raw::connect(&url, &successor.path).await?;
    Ok(())
}

#[tokio::test]
async fn a_rotated_credential_ends_and_its_successor_opens() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let creds = keys.creds(Role::ChargePoint, "CP-001")?;
    let mut old = Raw::connect(&url, &creds).await?;
    let mut realm = keys.realm()?;
    let successor = realm.rotate(Role::ChargePoint, "CP-001", 1, now_s())?;
    assert_eq!(successor.path, creds);
    push_to(&mut realm, &url).await?;
    assert_eq!(old.closed().await?, "User Authentication Revoked");
    Raw::connect(&url, &creds).await?;
    Ok(())
}

#[tokio::test]
async fn a_program_goes_on_with_the_new_file_without_a_restart() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let alice = keys.connect(&url, Role::Driver, "alice").await?;
    let mut realm = keys.realm()?;
    realm.rotate(Role::Driver, "alice", 1, now_s())?;
    push_to(&mut realm, &url).await?;
    drop(realm);
    let mut central = Raw::connect(&url, &keys.creds(Role::Central, "central-a")?).await?;
    central.subscribe("ev.v1.driver.*.*", None).await?;
    central.round_trip().await?;
    let answering = tokio::spawn(async move {
        let reply = central.message().await?.reply.unwrap_or_default();
        central.publish(&reply, None, "answer").await?;
        central.round_trip().await
    });
    let answer = alice.request("ev.v1.driver.alice.list", "".into()).await?;
    assert_eq!(&answer.payload[..], b"answer");
    answering.await?
}

#[tokio::test]
async fn whatever_a_roles_former_key_signed_opens_nothing() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let creds = keys.creds(Role::ChargePoint, "CP-001")?;
    let stolen = keys.dir().join("stolen.creds");
    std::fs::copy(&creds, &stolen)?;
    let mut cp = Raw::connect(&url, &creds).await?;
    let mut alice = Raw::connect(&url, &keys.creds(Role::Driver, "alice")?).await?;
    let mut realm = keys.realm()?;
    assert_eq!(realm.rotate_key(Role::ChargePoint, 1, now_s())?.len(), 1);
    push_to(&mut realm, &url).await?;
    // The server gives one of two reasons, whichever it comes to first.
    cp.closed().await?;
    assert!(is_refused(&url, &keys, &stolen).await?);
    // Not by a list that grows with each of them: that key signs nothing any more.
    assert!(!std::fs::read_to_string(keys.dir().join("realm.json"))?.contains("revoked_at_s"));
    Raw::connect(&url, &creds).await?;
    alice.round_trip().await?;
    Ok(())
}

#[tokio::test]
async fn the_key_that_pushes_can_be_rotated_too() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let mut realm = keys.realm()?;
    let former = keys.dir().join("former.creds");
    std::fs::copy(realm.creds(Role::Enrol, "enrol"), &former)?;
    realm.rotate_key(Role::Enrol, 365, now_s())?;
    push_to(&mut realm, &server.url()).await?;
    assert!(is_refused(&server.url(), &keys, &former).await?);
    push_to(&mut realm, &server.url()).await?;
    Ok(())
}

/// Also one that a thief has dated far ahead, which a server would keep for the newest.
#[tokio::test]
async fn what_a_stolen_signing_key_signed_ends_with_the_key() -> Result<()> {
    const FAR_AHEAD_S: i64 = 100 * 365 * 24 * 3_600;
    let keys = Keys::new()?;
    let mut server = NatsServer::start_with_keys(&keys).await?;
    let creds = keys.creds(Role::Driver, "alice")?;
    let thief = tempfile::tempdir()?;
    let copy = std::process::Command::new("cp")
        .args(["-a", &format!("{}/.", keys.dir().display())])
        .arg(thief.path())
        .status()?;
    assert!(copy.success());
    let mut stolen = Realm::open(thief.path())?;
    stolen
        .revoke(Role::Driver, "alice", now_s() + FAR_AHEAD_S)
        .err();
    let tokens = stolen.sign_accounts(now_s() + FAR_AHEAD_S)?;
    assert!(!tokens.is_empty());
    let servers = Servers {
        url: server.url(),
        tls: Tls {
            ca: certificate::ca(keys.dir()),
            identity: None,
        },
    };
    push(&mut stolen, &servers, now_s() + FAR_AHEAD_S).await?;

    keys.realm()?.rotate_signing(now_s())?;
    server.stop().await?;
    std::fs::remove_dir_all(server.data_dir().join("accounts"))?;
    server.restart().await?;
    Raw::connect(&server.url(), &creds).await?;
    let mut realm = keys.realm()?;
    push_to(&mut realm, &server.url()).await?;
    // The thief's tokens are dated later, and signed by nobody.
    let refused = push(&mut stolen, &servers, now_s() + FAR_AHEAD_S).await;
    assert!(
        matches!(refused, Err(PushError::NotTaken { .. })),
        "{refused:?}"
    );
    Raw::connect(&server.url(), &creds).await?;
    server.restart().await?;
    Raw::connect(&server.url(), &creds).await?;
    Ok(())
}

#[tokio::test]
async fn an_expired_credential_is_dropped_while_it_is_used() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let mut realm = keys.realm()?;
    let short = realm.issue(Role::Driver, "alice", now_s() + 2, now_s())?;
    let mut alice = Raw::connect(&server.url(), &short.path).await?;
    assert_eq!(alice.closed().await?, "User Authentication Expired");
    assert!(is_refused(&server.url(), &keys, &short.path).await?);
    Ok(())
}

#[tokio::test]
async fn who_has_no_credential_or_another_installations_is_refused() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let mut nobody = Raw::open(&server.url(), keys.dir(), None).await?;
    assert_eq!(nobody.closed().await?, "Authorization Violation");
    let other = Keys::new()?;
    assert!(
        is_refused(
            &server.url(),
            &keys,
            &other.creds(Role::Central, "central-a")?
        )
        .await?
    );
    Ok(())
}

#[tokio::test]
async fn a_message_over_its_roles_size_closes_the_connection() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let mut alice = Raw::connect(&server.url(), &keys.creds(Role::Driver, "alice")?).await?;
    let size = Role::Driver.grants().payload_max;
    alice
        .publish("ev.v1.driver.alice.list", None, &"x".repeat(size))
        .await?;
    alice.round_trip().await?;
    // The server need not wait for the end of it.
    let _ = alice
        .publish("ev.v1.driver.alice.list", None, &"x".repeat(size + 1))
        .await;
    assert_eq!(alice.closed().await?, "Maximum Payload Violation");
    Ok(())
}

#[tokio::test]
async fn a_connection_has_so_many_subscriptions_and_no_more() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let mut cp = Raw::connect(&server.url(), &keys.creds(Role::ChargePoint, "CP-001")?).await?;
    for n in 0..Role::ChargePoint.grants().subscriptions_max {
        cp.subscribe(&format!("_INBOX_CP-001.{n}"), None).await?;
    }
    cp.round_trip().await?;
    cp.subscribe("_INBOX_CP-001.more", None).await?;
    assert_eq!(cp.judged().await?, ["maximum subscriptions exceeded"]);
    Ok(())
}

#[tokio::test]
async fn revoking_reaches_every_server_of_a_cluster_also_one_that_was_down() -> Result<()> {
    let keys = Keys::new()?;
    let mut cluster = Cluster::start_with_keys(&keys).await?;
    let creds = keys.creds(Role::Driver, "alice")?;
    let stolen = keys.dir().join("stolen.creds");
    std::fs::copy(&creds, &stolen)?;
    let urls: Vec<String> = (0..3).map(|n| cluster.node(n).url()).collect();
    let mut connected = Vec::new();
    for url in &urls[..2] {
        connected.push(Raw::connect(url, &creds).await?);
    }
    cluster.node_mut(2).kill()?;
    let mut realm = keys.realm()?;
    realm.revoke(Role::Driver, "alice", now_s())?;
    assert_eq!(push_to(&mut realm, &urls[0]).await?.len(), 2);
    for alice in &mut connected {
        assert_eq!(alice.closed().await?, "User Authentication Revoked");
    }
    cluster.node_mut(2).restart().await?;
    assert!(is_refused(&urls[2], &keys, &stolen).await?);
    Ok(())
}

/// Revoking a driver changes the account of drivers alone. A change of an account that answers
/// questions, CORE or EDGE, costs it the answers that are under way at that moment; whoever asked
/// asks again.
#[tokio::test]
async fn revoking_a_driver_disturbs_nobody_else() -> Result<()> {
    const PUSHES: usize = 10;
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let mut central = Raw::connect(&url, &keys.creds(Role::Central, "central-a")?).await?;
    central
        .subscribe("ev.v1.driver.*.*", Some("central"))
        .await?;
    central.subscribe("ev.v1.cp.*.hb", None).await?;
    central.round_trip().await?;
    let mut alice = Raw::connect(&url, &keys.creds(Role::Driver, "alice")?).await?;
    alice.subscribe("ev.v1.cp.*.live.alice.*", None).await?;
    alice.subscribe("ev.v1.watch.alice.*", None).await?;
    alice.round_trip().await?;
    let mut cp = Raw::connect(&url, &keys.creds(Role::ChargePoint, "CP-001")?).await?;
    cp.subscribe("ev.v1.cp.CP-001.cmd.*", None).await?;
    cp.round_trip().await?;
    let alice_inbox = format!("{}.1", alice.inbox);
    let central_inbox = format!("{}.1", central.inbox);
    alice.subscribe(&alice_inbox, None).await?;
    alice.round_trip().await?;
    central.subscribe(&central_inbox, None).await?;
    central.round_trip().await?;

    let mut realm = keys.realm()?;
    for n in 0..PUSHES {
        // Asked before the push and answered after it.
        alice
            .publish("ev.v1.driver.alice.list", Some(&alice_inbox), "")
            .await?;
        alice.round_trip().await?;
        let question = central.message().await?.reply.unwrap_or_default();
        central
            .publish("ev.v1.cp.CP-001.cmd.ping", Some(&central_inbox), "")
            .await?;
        central.round_trip().await?;
        let command = cp.message().await?.reply.unwrap_or_default();
        let name = format!("d-{n}");
        realm.enrol(Role::Driver, &name, 1, now_s())?;
        realm.revoke(Role::Driver, &name, now_s())?;
        push_to(&mut realm, &url).await?;
        central.publish(&question, None, "answer").await?;
        central.round_trip().await?;
        alice.round_trip().await?;
        cp.publish(&command, None, "answer").await?;
        cp.round_trip().await?;
        central.round_trip().await?;
        assert_eq!(alice.message().await?.payload, "answer");
        assert_eq!(central.message().await?.payload, "answer");
        // Asked and told after the push.
        cp.publish("ev.v1.cp.CP-001.hb", None, "").await?;
        assert_eq!(central.message().await?.subject, "ev.v1.cp.CP-001.hb");
        cp.publish("ev.v1.cp.CP-001.live.alice.x", None, "").await?;
        assert_eq!(
            alice.message().await?.subject,
            "ev.v1.cp.CP-001.live.alice.x"
        );
        central.publish("ev.v1.watch.alice.x", None, "").await?;
        assert_eq!(alice.message().await?.subject, "ev.v1.watch.alice.x");
        alice
            .publish("ev.v1.driver.alice.list", Some(&alice_inbox), "")
            .await?;
        let question = central.message().await?.reply.unwrap_or_default();
        central.publish(&question, None, "answer").await?;
        assert_eq!(alice.message().await?.payload, "answer");
        central
            .publish("ev.v1.cp.CP-001.cmd.ping", Some(&central_inbox), "")
            .await?;
        let command = cp.message().await?.reply.unwrap_or_default();
        cp.publish(&command, None, "answer").await?;
        assert_eq!(central.message().await?.payload, "answer");
        assert_eq!(cp.judged().await?, Vec::<String>::new());
    }
    Ok(())
}

/// What a client with these authorities sees of the server: until when its certificate is good.
async fn look(server: &NatsServer, ca: &std::path::Path) -> Result<i64, String> {
    let tls = Tls {
        ca: ca.to_owned(),
        identity: None,
    };
    let address = server.url().parse().map_err(|_| "no address".to_owned())?;
    match tls.look(&address).await {
        Ok(seen) => seen.expires_at_s.ok_or_else(|| "no end".to_owned()),
        Err(trouble) => Err(trouble.to_string()),
    }
}

#[tokio::test]
async fn a_server_shows_its_new_certificate_after_sighup_and_live_connections_stay() -> Result<()> {
    let keys = Keys::new()?;
    let mut server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let mut alice = Raw::connect(&url, &keys.creds(Role::Driver, "alice")?).await?;
    assert_eq!(
        look(&server, &keys.ca()).await,
        Ok(keys.server().expires_at_s)
    );
    let renewed = keys.renew_server(200, now_s())?;
    assert_ne!(renewed.expires_at_s, keys.server().expires_at_s);
    server.reload().await?;
    assert_eq!(look(&server, &keys.ca()).await, Ok(renewed.expires_at_s));
    alice.round_trip().await?;
    Raw::connect(&url, &keys.creds(Role::Driver, "bob")?).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_refused_with_a_sentence() -> Result<()> {
    let keys = Keys::new()?;
    let mut server = NatsServer::start_with_keys(&keys).await?;
    let access = keys.access(&server.url(), Role::Driver, "alice")?;
    assert_eq!(access.why_not().await, None);
    keys.renew_server(1, 1_000_000_000)?;
    server.reload().await?;
    let said = "the server's certificate has expired";
    let why = access.why_not().await.map(|why| why.to_string());
    assert!(why.as_ref().is_some_and(|w| w.contains(said)), "{why:?}");
    let seen = look(&server, &keys.ca()).await;
    assert!(seen.as_ref().is_err_and(|w| w.contains(said)), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn while_the_authority_is_changed_whoever_knows_both_gets_in() -> Result<()> {
    let keys = Keys::new()?;
    let mut server = NatsServer::start_with_keys(&keys).await?;
    let mut alice = Raw::connect(&server.url(), &keys.creds(Role::Driver, "alice")?).await?;
    let keep = |name: &str| -> Result<std::path::PathBuf> {
        let copy = keys.dir().join(name);
        std::fs::copy(keys.ca(), &copy)?;
        Ok(copy)
    };
    let former = keep("former.crt")?;

    certificate::next_authority(keys.dir(), now_s())?;
    let both = keep("both.crt")?;
    // The servers show what the former authority signed.
    for ca in [&former, &both] {
        assert!(look(&server, ca).await.is_ok(), "{}", ca.display());
    }
    let twice = certificate::next_authority(keys.dir(), now_s());
    assert!(twice.is_err_and(|e| e.to_string().contains("--forget-authority")));

    let renewed = keys.renew_server(100, now_s())?;
    server.reload().await?;
    assert_eq!(look(&server, &both).await, Ok(renewed.expires_at_s));
    let strange = look(&server, &former).await;
    assert!(
        strange
            .as_ref()
            .is_err_and(|why| why.contains("not signed by")),
        "{strange:?}"
    );

    certificate::forget_former_authority(keys.dir())?;
    assert_eq!(look(&server, &keys.ca()).await, Ok(renewed.expires_at_s));
    assert!(certificate::forget_former_authority(keys.dir()).is_err());
    alice.round_trip().await?;
    Ok(())
}

/// Servers know each other by the authority as well, and are told of the next by SIGHUP alone.
#[tokio::test]
async fn servers_of_a_cluster_follow_a_change_of_authority() -> Result<()> {
    let keys = Keys::new()?;
    let mut cluster = Cluster::start_with_keys(&keys).await?;
    certificate::next_authority(keys.dir(), now_s())?;
    for n in 0..3 {
        cluster.node_mut(n).reload().await?;
    }
    let renewed = keys.renew_server(100, now_s())?;
    // It comes back with what the next authority has signed, and the others know that.
    cluster.node_mut(0).restart().await?;
    let seen = look(cluster.node(0), &keys.ca()).await;
    assert_eq!(seen, Ok(renewed.expires_at_s));
    let routes = cluster.node(0).monitor("/routez").await?;
    let mut names: Vec<_> = routes["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|route| route["remote_name"].as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 2, "{routes}");
    Ok(())
}

#[test]
fn a_change_of_authority_that_broke_off_is_undone_by_forgetting() -> Result<()> {
    let keys = Keys::new()?;
    let key = keys.dir().join("tls/ca.key");
    let (certificate, former_key) = (std::fs::read(keys.ca())?, std::fs::read(&key)?);
    certificate::next_authority(keys.dir(), now_s())?;
    // As if it had ended before the key was written.
    std::fs::write(&key, former_key)?;
    certificate::forget_former_authority(keys.dir())?;
    assert_eq!(std::fs::read(keys.ca())?, certificate);
    Ok(())
}

/// Keys that were made before there was a role have no key for it.
#[tokio::test]
async fn a_role_that_is_new_gets_its_key_and_opens_once_pushed() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let path = keys.dir().join("realm.json");
    let mut realm: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let known = realm["role_keys"]
        .as_object_mut()
        .map(|r| r.remove("doorkeeper"));
    assert!(known.flatten().is_some());
    std::fs::write(&path, realm.to_string())?;
    std::fs::remove_file(keys.dir().join("roles/doorkeeper.nk"))?;

    let creds = keys.creds(Role::Doorkeeper, "central-1")?;
    assert!(is_refused(&url, &keys, &creds).await?);
    push_to(&mut keys.realm()?, &url).await?;
    Raw::connect(&url, &creds).await?;
    Ok(())
}

/// A running server takes an account's token that was good before, from whoever may bring one.
/// A push puts the present one back.
#[tokio::test]
async fn a_token_of_before_that_is_brought_back_lasts_until_the_next_push() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let alice = keys.creds(Role::Driver, "alice")?;
    let kept = keys.dir().join("alice.creds");
    std::fs::copy(&alice, &kept)?;
    let drivers = keys.realm()?.account_id(Account::Drivers).to_owned();
    let conf = std::fs::read_to_string(keys.dir().join("auth.conf"))?;
    let before = conf
        .lines()
        .find_map(|line| line.trim().strip_prefix(&drivers)?.strip_prefix(": "))
        .context("the account's token")?
        .to_owned();
    keys.realm()?.revoke(Role::Driver, "alice", now_s())?;
    push_to(&mut keys.realm()?, &url).await?;
    assert!(is_refused(&url, &keys, &kept).await?);

    let thief = keys.connect(&url, Role::Enrol, "enrol").await?;
    thief
        .request("$SYS.REQ.CLAIMS.UPDATE", before.into())
        .await?;
    Raw::connect(&url, &kept).await?;
    push_to(&mut keys.realm()?, &url).await?;
    assert!(is_refused(&url, &keys, &kept).await?);
    Ok(())
}
