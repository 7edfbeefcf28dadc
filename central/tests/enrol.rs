//! `central enrol`, as somebody at a shell uses it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result};
use async_nats::jetstream;
use data_encoding::BASE64URL_NOPAD;
use ev_client::Credential;
use ev_contract::{
    v1::{AuditEntry, AuditOutcome},
    wire::{self, Encoding},
};
use ev_enrol::{Realm, Role, outbox::Kept};
use ev_testkit::{Keys, NatsServer};

fn enrol(dir: &Path, args: &[&str]) -> Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_central"))
        .arg("enrol")
        .arg("--dir")
        .arg(dir)
        .args(args)
        .output()
        .context("run central enrol")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What looks like a key's seed, wherever in a line.
fn seeds(text: &str) -> impl Iterator<Item = &str> {
    let is_seed = |word: &&str| {
        let key = word
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        key && word.len() == 58 && word.starts_with('S')
    };
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(is_seed)
}

fn files(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn each_enrolment_is_one_command_and_secrets_are_their_owners_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keys = dir.path().join("keys");
    let mut said = String::new();
    for args in [
        &["init"][..],
        &["central", "central-a"],
        &["charge-point", "CP-001"],
        &["driver", "alice", "--days", "7"],
        &["operator", "olga"],
        &["maintainer", "mona"],
        &["doorkeeper", "central-a"],
        &[
            "leaf",
            "SITE-A",
            "--charge-point",
            "CP-001",
            "--charge-point",
            "Cp-2",
        ],
        &["driver", "bob", "--no-push"],
        &["rotate", "driver", "bob", "--no-push"],
        &["rotate", "driver", "--all", "--no-push"],
        &["certificate", "--host", "localhost"],
    ] {
        let output = enrol(&keys, args)?;
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        said.push_str(&text(&output));
    }
    for (role, name) in [
        ("central", "central-a"),
        ("charge-point", "CP-001"),
        ("driver", "alice"),
        ("operator", "olga"),
        ("maintainer", "mona"),
        ("driver", "bob"),
        ("enrol", "enrol"),
        ("doorkeeper", "central-a"),
        ("registrar", "registrar"),
        ("leaf", "SITE-A"),
    ] {
        let credential = Credential::read(&keys.join(format!("creds/{role}/{name}.creds")))?;
        assert_eq!((credential.name(), credential.role()), (name, Some(role)));
    }
    for path in files(&keys)? {
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        let is_public = ["auth.conf", "leaf-auth.conf", "operator.jwt"]
            .iter()
            .any(|public| path.ends_with(public))
            || path.extension().is_some_and(|e| e == "crt");
        let content = fs::read_to_string(&path)?;
        assert_eq!(
            mode,
            if is_public { 0o644 } else { 0o600 },
            "{}",
            path.display()
        );
        let has_seed = content.contains("SEED-----") || seeds(&content).next().is_some();
        let is_key = path.extension().is_some_and(|e| e == "nk" || e == "creds");
        assert_eq!(has_seed, is_key, "{}", path.display());
        for seed in seeds(&content) {
            assert!(!said.contains(seed), "a secret was printed");
        }
    }
    assert_eq!(fs::metadata(&keys)?.permissions().mode() & 0o777, 0o700);
    Ok(())
}

/// For which charge points the credential of a leaf says that it is.
fn carried(keys: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(keys.join("creds/leaf/SITE-A.creds"))?;
    let claims = text.lines().nth(1).and_then(|jwt| jwt.split('.').nth(1));
    let claims = BASE64URL_NOPAD.decode(claims.context("a token")?.as_bytes())?;
    let claims: serde_json::Value = serde_json::from_slice(&claims)?;
    let tags: Vec<String> = serde_json::from_value(claims["nats"]["tags"].clone())?;
    let of = |tag: &String| tag.strip_prefix("cp:").map(str::to_owned);
    Ok(tags.iter().filter_map(of).collect())
}

#[test]
fn a_leaf_is_enrolled_for_some_charge_points_and_keeps_them_when_rotated() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keys = dir.path();
    assert!(enrol(keys, &["init"])?.status.success());
    let two = [
        "leaf",
        "SITE-A",
        "--charge-point",
        "CP-001",
        "--charge-point",
        "Cp-2",
    ];
    assert!(enrol(keys, &two)?.status.success());
    assert_eq!(carried(keys)?, ["CP-001", "Cp-2"]);
    for (words, why) in [
        (
            &["leaf", "SITE-A", "--charge-point", "CP-003"][..],
            "`rotate` replaces it",
        ),
        (
            &["leaf", "SITE-A", "--charge-point", "CP.*", "--again"],
            "ids are 1 to 64",
        ),
        (
            &["leaf", "SITE.*", "--charge-point", "CP-001"],
            "ids are 1 to 64",
        ),
        (
            &["leaf", "SITE-B", "--from", "/dev/null"],
            "it names nobody",
        ),
    ] {
        let output = enrol(keys, words)?;
        assert!(!output.status.success(), "{words:?}");
        assert!(text(&output).contains(why), "{}", text(&output));
    }
    assert_eq!(carried(keys)?, ["CP-001", "Cp-2"]);
    for words in [
        &["rotate", "leaf", "SITE-A", "--no-push"][..],
        &["rotate", "leaf", "--all", "--no-push"],
    ] {
        let output = enrol(keys, words)?;
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(carried(keys)?, ["CP-001", "Cp-2"], "{words:?}");
    }
    let again = ["leaf", "SITE-A", "--charge-point", "CP-003", "--again"];
    assert!(enrol(keys, &again)?.status.success());
    assert_eq!(carried(keys)?, ["CP-003"]);
    Ok(())
}

#[test]
fn a_name_that_is_none_is_refused_before_anything_is_signed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(enrol(dir.path(), &["init"])?.status.success());
    let before = signed(dir.path())?;
    for name in ["*", ">", "a.b", "a b", "", "ä", "../../x", "{{name()}}"] {
        for role in [
            "central",
            "charge-point",
            "driver",
            "operator",
            "maintainer",
            "doorkeeper",
        ] {
            let output = enrol(dir.path(), &[role, "--", name])?;
            assert_eq!(output.status.code(), Some(1), "{role} {name:?}");
            assert!(
                text(&output).contains("ids are 1 to 64"),
                "{}",
                text(&output)
            );
        }
    }
    // One bad name among good ones, too.
    let output = enrol(dir.path(), &["driver", "alice", "b*b", "carol"])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("nobody was enrolled"),
        "{}",
        text(&output)
    );
    assert_eq!(signed(dir.path())?, before);
    // Each is written down for the audit, and what is no name does no harm there.
    let mut realm = Realm::open(dir.path())?;
    let denied = entries(realm.outbox().kept())
        .filter(|entry| entry.outcome == AuditOutcome::Denied)
        .count();
    assert_eq!(denied, 8 * 6 + 1);
    Ok(())
}

/// What was ever signed and what says so.
fn signed(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut all = files(dir)?;
    all.retain(|path| !path.ends_with("outbox"));
    all.sort();
    Ok(all)
}

fn entries(kept: &[Kept]) -> impl Iterator<Item = &AuditEntry> {
    kept.iter().filter_map(|one| match one {
        Kept::Audit(entry) => Some(&**entry),
        Kept::Announce { .. } => None,
    })
}

#[test]
fn what_is_there_is_never_overwritten_by_mistake() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(text(&enrol(dir.path(), &["driver", "alice"])?).contains("enrol init"));
    assert!(enrol(dir.path(), &["init"])?.status.success());
    let root = fs::read(dir.path().join("operator/root.nk"))?;
    assert!(text(&enrol(dir.path(), &["init"])?).contains("never overwritten"));
    assert_eq!(fs::read(dir.path().join("operator/root.nk"))?, root);
    assert!(enrol(dir.path(), &["driver", "alice"])?.status.success());
    let again = enrol(dir.path(), &["driver", "alice"])?;
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("rotate"), "{}", text(&again));
    assert!(
        enrol(dir.path(), &["driver", "alice", "--again"])?
            .status
            .success()
    );
    for days in ["0", "3651"] {
        let output = enrol(dir.path(), &["driver", "bob", "--days", days])?;
        assert!(text(&output).contains("1 to 3650"), "{}", text(&output));
    }
    Ok(())
}

#[test]
fn enrolling_needs_neither_the_operators_keys_nor_those_of_other_roles() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(enrol(dir.path(), &["init"])?.status.success());
    fs::remove_dir_all(dir.path().join("operator"))?;
    for role in ["central", "charge-point", "operator", "maintainer", "enrol"] {
        fs::remove_file(dir.path().join(format!("roles/{role}.nk")))?;
    }
    assert!(enrol(dir.path(), &["driver", "alice"])?.status.success());
    let revoke = enrol(dir.path(), &["revoke", "driver", "alice", "--no-push"])?;
    assert!(
        text(&revoke).contains("operator/signing.nk"),
        "{}",
        text(&revoke)
    );
    Ok(())
}

#[test]
fn what_could_not_be_pushed_is_said_and_can_be_pushed_later() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(enrol(dir.path(), &["init"])?.status.success());
    assert!(enrol(dir.path(), &["driver", "alice"])?.status.success());
    let url = format!("nats://127.0.0.1:{}", ev_testkit::free_port());
    let output = enrol(
        dir.path(),
        &["revoke", "driver", "alice", "--nats-url", &url],
    )?;
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(text(&output).contains("not in force"), "{}", text(&output));
    let listed = text(&enrol(dir.path(), &["list", "--all"])?);
    assert!(
        listed.contains("alice") && listed.contains("revoked"),
        "{listed}"
    );
    assert!(!text(&enrol(dir.path(), &["list", "driver"])?).contains("alice"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_and_rotate_are_in_force_when_they_return() -> Result<()> {
    let keys = Keys::new()?;
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    audit(&server).await?;
    keys.connect(&url, Role::Driver, "alice").await?;
    let alice = keys.creds(Role::Driver, "alice")?;
    let stolen = keys.dir().join("stolen.creds");
    fs::copy(&alice, &stolen)?;

    let output = enrol(
        keys.dir(),
        &["rotate", "driver", "alice", "--nats-url", &url],
    )?;
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("in force on nats-1"),
        "{}",
        text(&output)
    );
    keys.connect(&url, Role::Driver, "alice").await?;

    let output = enrol(
        keys.dir(),
        &["rotate", "driver", "--all", "--nats-url", &url],
    )?;
    assert!(output.status.success(), "{}", text(&output));
    keys.connect(&url, Role::Driver, "alice").await?;

    let output = enrol(
        keys.dir(),
        &["revoke", "driver", "alice", "--nats-url", &url],
    )?;
    assert!(output.status.success(), "{}", text(&output));
    // The file is gone; what was copied from it before opens nothing.
    assert!(!alice.exists());
    fs::copy(&stolen, &alice)?;
    assert!(keys.connect(&url, Role::Driver, "alice").await.is_err());
    Ok(())
}

/// The stream that central makes when it first runs.
async fn audit(server: &NatsServer) -> Result<jetstream::stream::Stream> {
    central::audit::ensure(&jetstream::new(server.connect().await?), 1).await
}

async fn read(stream: &jetstream::stream::Stream) -> Result<Vec<AuditEntry>> {
    let last = stream.get_info().await?.state.last_sequence;
    let mut all = Vec::new();
    for seq in 1..=last {
        let message = stream.get_raw_message(seq).await?;
        all.push(wire::decode(&message.payload, Encoding::MsgPack)?);
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_in_the_audit_once_whenever_it_can_be_told() -> Result<()> {
    let keys = Keys::new()?;
    let dir = keys.dir();
    // No server.
    let nowhere = format!("nats://127.0.0.1:{}", ev_testkit::free_port());
    let output = enrol(
        dir,
        &["driver", "alice", "--by", "olga", "--nats-url", &nowhere],
    )?;
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("not told yet"), "{}", text(&output));
    // A server on which central has never run.
    let server = NatsServer::start_with_keys(&keys).await?;
    let url = server.url();
    let output = enrol(dir, &["driver", "bob", "--nats-url", &url])?;
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("no audit yet"), "{}", text(&output));
    let output = enrol(dir, &["push", "--nats-url", &url])?;
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    let streams = jetstream::new(server.connect().await?);
    assert!(streams.get_stream("EV_AUDIT").await.is_err(), "it was made");
    let kept = fs::read(dir.join("outbox"))?;

    let stream = audit(&server).await?;
    // One of several servers is enough.
    let both = format!("{nowhere},{url}");
    let output = enrol(dir, &["push", "--nats-url", &both])?;
    assert!(output.status.success(), "{}", text(&output));
    assert!(!dir.join("outbox").exists());
    // As when the acknowledgements were lost.
    fs::write(dir.join("outbox"), &kept)?;
    let output = enrol(dir, &["revoke", "driver", "alice", "--nats-url", &url])?;
    assert!(output.status.success(), "{}", text(&output));
    let output = enrol(dir, &["revoke", "driver", "alice", "--nats-url", &url])?;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = enrol(dir, &["rotate", "driver", "--all", "--nats-url", &url])?;
    assert!(output.status.success(), "{}", text(&output));

    let all = read(&stream).await?;
    let told: Vec<_> = all
        .iter()
        .map(|e| (e.verb.as_str(), e.driver_id.as_deref(), e.outcome))
        .collect();
    let accepted = AuditOutcome::Accepted;
    assert_eq!(
        told,
        [
            ("enrol", Some("alice"), accepted),
            ("enrol", Some("bob"), accepted),
            ("revoke", Some("alice"), accepted),
            ("revoke", Some("alice"), AuditOutcome::Denied),
            ("rotate_role", None, accepted),
            ("rotate", Some("bob"), accepted),
        ]
    );
    assert_eq!(all[0].name.as_deref(), Some("olga"));
    assert_eq!(all[0].key, all[2].key, "the key that was revoked");
    let bob = Realm::open(dir)?.good(Role::Driver, "bob", 0)?;
    assert_eq!(all[5].key, bob.first().map(|one| one.key.clone()));
    assert!(all[4].key.as_ref().is_some_and(|key| key.starts_with('A')));
    Ok(())
}

#[test]
fn central_is_not_told_of_a_revocation_that_failed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keys = dir.path();
    assert!(enrol(keys, &["init"])?.status.success());
    let revoked = || -> Result<Vec<String>> {
        let mut realm = Realm::open(keys)?;
        let kept = realm.outbox().kept().iter();
        let names = kept.filter_map(|one| match one {
            Kept::Announce {
                charge_points,
                revoked: true,
                ..
            } => Some(charge_points.join(" ")),
            _ => None,
        });
        Ok(names.collect())
    };
    for name in ["CP-1", "CP-2"] {
        assert!(
            enrol(keys, &["charge-point", name, "--no-push"])?
                .status
                .success()
        );
    }
    // It cannot be written that it is void.
    let in_the_way = keys.join("realm.json.half");
    fs::create_dir(&in_the_way)?;
    let failed = enrol(keys, &["revoke", "charge-point", "CP-1", "--no-push"])?;
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert_eq!(revoked()?, Vec::<String>::new());
    fs::remove_dir(&in_the_way)?;
    // It is, and what follows fails.
    let in_the_way = keys.join("auth.conf.half");
    fs::create_dir(&in_the_way)?;
    let failed = enrol(keys, &["revoke", "charge-point", "CP-2", "--no-push"])?;
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert_eq!(revoked()?, ["CP-2"]);
    fs::remove_dir(&in_the_way)?;
    let done = enrol(keys, &["revoke", "charge-point", "CP-1", "--no-push"])?;
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(revoked()?, ["CP-2", "CP-1"]);
    Ok(())
}

/// Whatever the command: here one that only reads.
#[test]
fn what_is_made_of_itself_is_written_down_too() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keys = dir.path();
    assert!(enrol(keys, &["init"])?.status.success());
    fs::remove_file(keys.join("creds/registrar/registrar.creds"))?;
    let path = keys.join("realm.json");
    let mut realm: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    let roles = realm["role_keys"].as_object_mut().context("roles")?;
    roles.remove("doorkeeper").context("doorkeeper")?;
    fs::write(&path, realm.to_string())?;
    for _ in 0..2 {
        assert!(enrol(keys, &["list"])?.status.success());
    }
    let mut realm = Realm::open(keys)?;
    let made: Vec<_> = entries(realm.outbox().kept())
        .skip(1)
        .map(|e| (e.verb.clone(), e.detail.clone().unwrap_or_default()))
        .collect();
    let said = [
        ("init", "doorkeeper: its first key"),
        ("enrol", "registrar registrar: for central enrol itself"),
    ];
    assert_eq!(made, said.map(|(v, d)| (v.to_owned(), d.to_owned())));
    Ok(())
}

#[test]
fn many_are_enrolled_by_one_command() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(enrol(dir.path(), &["init"])?.status.success());
    let list = dir.path().join("names.txt");
    fs::write(
        &list,
        "# drivers\nalice\nbob # the one with the van\n\nalice\n",
    )?;
    let from = list.to_str().context("a path")?;
    let output = enrol(dir.path(), &["driver", "zoe", "--from", from, "--no-push"])?;
    assert!(output.status.success(), "{}", text(&output));
    for name in ["zoe", "alice", "bob"] {
        Credential::read(&dir.path().join(format!("creds/driver/{name}.creds")))?;
    }
    fs::write(&list, "alice\ncarol\n")?;
    let again = enrol(dir.path(), &["driver", "--from", from, "--no-push"])?;
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    let missing = enrol(
        dir.path(),
        &["driver", "--from", from, "--missing", "--no-push"],
    )?;
    assert!(missing.status.success(), "{}", text(&missing));
    assert_eq!(text(&missing).matches("is good until").count(), 1);
    for bad in ["/nowhere/names", "/dev/null"] {
        let output = enrol(dir.path(), &["driver", "--from", bad])?;
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(bad), "{}", text(&output));
    }
    Ok(())
}

/// Killed at any moment, it leaves a folder that opens, in which the same can be done again.
#[test]
fn kill_at_any_moment_leaves_a_folder_that_opens() -> Result<()> {
    const KILLS: u64 = 60;
    let dir = tempfile::tempdir()?;
    assert!(enrol(dir.path(), &["init"])?.status.success());
    assert!(
        enrol(dir.path(), &["driver", "alice", "--no-push"])?
            .status
            .success()
    );
    let mut killed = 0;
    for n in 0..KILLS {
        let name = format!("d-{n}");
        let acts = [
            vec!["driver", &name, "--no-push"],
            vec!["rotate", "driver", "alice", "--no-push"],
            vec!["rotate", "driver", "--all", "--no-push"],
            vec!["charge-point", &name, "--no-push"],
        ];
        let act = &acts[usize::try_from(n)? % acts.len()];
        let mut child = Command::new(env!("CARGO_BIN_EXE_central"))
            .args(["enrol", "--dir"])
            .arg(dir.path())
            .args(act)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(n * 7 % 199));
        child.kill()?;
        killed += u32::from(!child.wait()?.success());
        let listed = enrol(dir.path(), &["list", "--all"])?;
        assert!(listed.status.success(), "{n}: {}", text(&listed));
        let alice = enrol(dir.path(), &["driver", "alice", "--again", "--no-push"])?;
        assert!(alice.status.success(), "{n}: {}", text(&alice));
        Credential::read(&dir.path().join("creds/driver/alice.creds"))?;
    }
    assert!(killed > 0, "nothing was killed");
    let dir = tempfile::tempdir()?;
    for n in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_central"))
            .args(["enrol", "--dir"])
            .arg(dir.path())
            .arg("init")
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(n * 5));
        child.kill()?;
        if child.wait()?.success() {
            break;
        }
    }
    let init = enrol(dir.path(), &["init"])?;
    let is_there = text(&init).contains("never overwritten");
    assert!(init.status.success() || is_there, "{}", text(&init));
    let alice = enrol(dir.path(), &["driver", "alice", "--no-push"])?;
    assert!(alice.status.success(), "{}", text(&alice));
    Ok(())
}
