//! `central enrol`, as somebody at a shell uses it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result};
use ev_client::Credential;
use ev_enrol::Role;
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
        ("enrol", "enrol"),
        ("doorkeeper", "central-a"),
    ] {
        let credential = Credential::read(&keys.join(format!("creds/{role}/{name}.creds")))?;
        assert_eq!((credential.name(), credential.role()), (name, Some(role)));
    }
    for path in files(&keys)? {
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        let is_public = ["auth.conf", "operator.jwt"]
            .iter()
            .any(|public| path.ends_with(public));
        let content = fs::read_to_string(&path)?;
        assert_eq!(
            mode,
            if is_public { 0o644 } else { 0o600 },
            "{}",
            path.display()
        );
        let has_seed = content
            .lines()
            .any(|line| line.starts_with('S') && line.len() == 58);
        let is_key = path.extension().is_some_and(|e| e == "nk" || e == "creds");
        assert_eq!(has_seed, is_key, "{}", path.display());
        for seed in content
            .lines()
            .filter(|line| line.starts_with('S') && line.len() == 58)
        {
            assert!(!said.contains(seed), "a secret was printed");
        }
    }
    assert_eq!(fs::metadata(&keys)?.permissions().mode() & 0o777, 0o700);
    Ok(())
}

#[test]
fn a_name_that_is_none_is_refused_before_anything_is_signed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(enrol(dir.path(), &["init"])?.status.success());
    let before = files(dir.path())?.len();
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
    assert_eq!(files(dir.path())?.len(), before);
    Ok(())
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
