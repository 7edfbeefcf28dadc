//! The folder of keys: what it costs, and that nothing spoils it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use ev_client::Credential;
use ev_contract::time::UnixMs;
use ev_enrol::{
    Account, Realm, RealmError, Role, certificate,
    outbox::{Kept, Urgency},
};
use serde_json::Value;

const NOW_S: i64 = 1_800_000_000;
const DAY_S: i64 = 24 * 3_600;

/// Syncing costs nothing here.
fn memory() -> Result<tempfile::TempDir> {
    let shm = Path::new("/dev/shm");
    Ok(if shm.is_dir() {
        tempfile::tempdir_in(shm)?
    } else {
        tempfile::tempdir()?
    })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn names(realm: &Realm, role: Role) -> Result<Vec<(String, bool)>> {
    let issued = realm.issued(&[role])?;
    let shown = issued.into_iter().map(|one| {
        let good = one.is_good(NOW_S);
        (one.name, good)
    });
    Ok(shown.collect())
}

/// The first ledger is made by one central: another one that starts for the first time on the day when the
/// ledger is lost must not make a second one.
#[test]
fn the_first_central_alone_may_make_the_ledger() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    let may = |realm: &Realm, role, name: &str| -> Result<bool> {
        let text = fs::read_to_string(realm.creds(role, name))?;
        let credential = Credential::parse(&text).map_err(anyhow::Error::msg)?;
        Ok(credential.may_begin_ledger(NOW_S))
    };
    realm.enrol(Role::Driver, "alice", 1, NOW_S)?;
    let signer = realm.signer(Role::Central)?;
    let drafts = ["central-1", "central-2"]
        .map(|name| realm.draft(&signer, Role::Central, name, NOW_S + DAY_S, NOW_S))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    realm.commit(drafts, NOW_S)?;
    drop(realm);
    let mut realm = Realm::open(dir.path())?;
    realm.enrol(Role::Central, "central-3", 1, NOW_S)?;
    assert!(may(&realm, Role::Central, "central-1")?);
    for name in ["central-2", "central-3"] {
        assert!(!may(&realm, Role::Central, name)?, "{name}");
    }
    assert!(!may(&realm, Role::Driver, "alice")?);
    realm.rotate(Role::Central, "central-1", 1, NOW_S)?;
    assert!(!may(&realm, Role::Central, "central-1")?);
    Ok(())
}

/// What an enrolment writes does not depend on how many there were before.
#[test]
fn the_hundredth_enrolment_writes_what_the_first_did() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    let written = |realm: &mut Realm, n: usize| -> Result<u64> {
        let before = files(dir.path())?;
        let times: Vec<_> = before
            .iter()
            .map(|p| Ok(fs::metadata(p)?.modified()?))
            .collect::<Result<_>>()?;
        realm.enrol(Role::Driver, &format!("d-{n:04}"), 1, NOW_S)?;
        let mut bytes = 0;
        for path in files(dir.path())? {
            let meta = fs::metadata(&path)?;
            let old = before.iter().position(|p| *p == path).map(|i| times[i]);
            if old != Some(meta.modified()?) {
                bytes += meta.len();
            }
        }
        Ok(bytes)
    };
    let first = written(&mut realm, 0)?;
    for n in 1..99 {
        realm.enrol(Role::Driver, &format!("d-{n:04}"), 1, NOW_S)?;
    }
    assert_eq!(written(&mut realm, 99)?, first);
    drop(realm);
    let realm = Realm::open(dir.path())?;
    assert_eq!(realm.issued(&[Role::Driver])?.len(), 100);
    Ok(())
}

/// As it was before each name had a file, and before there were registrars.
#[test]
fn an_older_folder_is_read_and_lacks_nothing() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    realm.enrol(Role::Driver, "alice", 9, NOW_S)?;
    realm.enrol(Role::Driver, "bob", 9, NOW_S)?;
    realm.revoke(Role::Driver, "bob", NOW_S)?;
    let issued = realm.issued(&Role::ALL)?;
    drop(realm);
    let path = dir.path().join("realm.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    let fields = state.as_object_mut().context("a map")?;
    fields.remove("revoked");
    fields.remove("role_keys_since_s");
    fields["accounts"]
        .as_object_mut()
        .context("a map")?
        .remove("REGISTRARS");
    fields["role_keys"]
        .as_object_mut()
        .context("a map")?
        .remove("registrar");
    let older: Vec<_> = issued
        .iter()
        .filter(|one| one.role != Role::Registrar)
        .collect();
    fields.insert("issued".into(), serde_json::to_value(&older)?);
    fs::write(&path, serde_json::to_string(&state)?)?;
    fs::remove_dir_all(dir.path().join("issued"))?;
    fs::remove_dir_all(dir.path().join("creds/registrar"))?;
    fs::remove_file(dir.path().join("roles/registrar.nk"))?;

    let mut realm = Realm::open(dir.path())?;
    realm.renew_own(NOW_S)?;
    assert!(realm.creds(Role::Registrar, "registrar").exists());
    assert_eq!(
        names(&realm, Role::Driver)?,
        [("alice".into(), true), ("bob".into(), false)]
    );
    let tokens = realm.sign_accounts(NOW_S)?;
    assert!(
        tokens
            .iter()
            .any(|token| token.account == Account::Registrars)
    );
    drop(realm);
    let text = fs::read_to_string(&path)?;
    assert!(text.contains(&issued.iter().find(|i| i.name == "bob").context("bob")?.key));
    assert!(!text.contains("alice"), "realm.json names nobody");
    Ok(())
}

/// A revocation counts from the moment when `realm.json` has it.
#[test]
fn a_revocation_that_was_interrupted_stands() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    realm.enrol(Role::Driver, "alice", 9, NOW_S)?;
    let holder = dir.path().join("issued/driver/alice.json");
    let before = fs::read(&holder)?;
    realm.revoke(Role::Driver, "alice", NOW_S)?;
    drop(realm);
    fs::write(&holder, before)?;
    let mut realm = Realm::open(dir.path())?;
    assert_eq!(names(&realm, Role::Driver)?, [("alice".into(), false)]);
    let again = realm.revoke(Role::Driver, "alice", NOW_S);
    assert!(
        matches!(again, Err(RealmError::Unknown { .. })),
        "{again:?}"
    );
    // Also when all that was revoked is forgotten with the role's key, and once more.
    realm.rotate_key(Role::Driver, 9, NOW_S)?;
    realm.rotate_key(Role::Driver, 9, NOW_S)?;
    assert_eq!(names(&realm, Role::Driver)?, [("alice".into(), false)]);
    assert!(!realm.creds(Role::Driver, "alice").exists());
    realm.enrol(Role::Driver, "alice", 9, NOW_S)?;
    Ok(())
}

/// Its key ends the entry in `realm.json`, and not the revocation.
#[test]
fn a_revocation_that_was_interrupted_outlasts_changes_of_the_roles_key() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    realm.enrol(Role::Driver, "alice", 9, NOW_S)?;
    realm.enrol(Role::Driver, "bob", 9, NOW_S)?;
    let holder = dir.path().join("issued/driver/alice.json");
    let before = fs::read(&holder)?;
    realm.revoke(Role::Driver, "alice", NOW_S)?;
    drop(realm);
    fs::write(&holder, before)?;
    let mut realm = Realm::open(dir.path())?;
    for _ in 0..2 {
        assert_eq!(realm.rotate_key(Role::Driver, 9, NOW_S)?.len(), 1);
        assert!(!realm.creds(Role::Driver, "alice").exists());
    }
    Ok(())
}

/// Between the two steps of a change of a role's key.
#[test]
fn a_change_of_a_roles_key_that_was_interrupted_is_finished_or_never_was() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    realm.enrol(Role::Driver, "alice", 9, NOW_S)?;
    realm.enrol(Role::Driver, "bob", 9, NOW_S)?;
    let key = dir.path().join("roles/driver.nk");
    let next = dir.path().join("roles/driver.next.nk");
    let former = fs::read(&key)?;
    // The key is in place, and bob has got nothing yet.
    let holder = dir.path().join("issued/driver/bob.json");
    let bob = fs::read(&holder)?;
    realm.rotate_key(Role::Driver, 9, NOW_S)?;
    fs::write(&holder, bob)?;
    // It was named, and not put in place.
    fs::rename(&key, &next)?;
    fs::write(&key, &former)?;
    drop(realm);
    let mut realm = Realm::open(dir.path())?;
    realm.enrol(Role::Driver, "carol", 9, NOW_S)?;
    assert!(!next.exists());
    let good = |realm: &Realm, name| realm.good(Role::Driver, name, NOW_S).map(|g| g.len());
    assert_eq!((good(&realm, "alice")?, good(&realm, "bob")?), (1, 0));
    // The same command again gives one to everybody who had one.
    assert_eq!(realm.rotate_key(Role::Driver, 9, NOW_S)?.len(), 3);
    assert_eq!((good(&realm, "alice")?, good(&realm, "bob")?), (1, 1));
    // One that was never named.
    fs::write(&next, &former)?;
    realm.enrol(Role::Driver, "dora", 9, NOW_S)?;
    assert!(!next.exists());
    Ok(())
}

#[test]
fn keys_that_were_not_all_made_are_made_again_and_whole_ones_never() -> Result<()> {
    let dir = memory()?;
    drop(Realm::create(dir.path(), NOW_S)?);
    let again = Realm::create(dir.path(), NOW_S).map(drop);
    assert!(matches!(again, Err(RealmError::Exists(_))), "{again:?}");
    fs::write(dir.path().join("unfinished"), "")?;
    let open = Realm::open(dir.path()).map(drop);
    assert!(matches!(open, Err(RealmError::Unfinished(_))), "{open:?}");
    fs::remove_file(dir.path().join("realm.json"))?;
    drop(Realm::create(dir.path(), NOW_S)?);
    Realm::open(dir.path())?.enrol(Role::Driver, "alice", 1, NOW_S)?;
    Ok(())
}

#[test]
fn what_expired_is_forgotten_and_what_keeps_somebody_out_is_not() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    for (name, days) in [("short", 1), ("long", 100), ("gone", 100)] {
        realm.enrol(Role::Driver, name, days, NOW_S)?;
    }
    realm.revoke(Role::Driver, "gone", NOW_S)?;
    let later_s = NOW_S + 20 * DAY_S;
    assert_eq!(realm.forget_expired(30, later_s)?, 0);
    assert_eq!(realm.forget_expired(10, later_s)?, 1);
    assert_eq!(
        names(&realm, Role::Driver)?,
        [("gone".into(), false), ("long".into(), true)]
    );
    assert!(!realm.creds(Role::Driver, "short").exists());
    let is_kept_out = |realm: &mut Realm, now_s| -> Result<bool> {
        realm.sign_accounts(now_s)?;
        Ok(fs::read_to_string(dir.path().join("realm.json"))?.contains("\"at_s\""))
    };
    assert!(is_kept_out(&mut realm, later_s)?);
    // For a while after it has expired, too: it may be this clock that is ahead.
    assert!(is_kept_out(&mut realm, NOW_S + 129 * DAY_S)?);
    let much_later_s = NOW_S + 131 * DAY_S;
    assert_eq!(realm.forget_expired(0, much_later_s)?, 2);
    assert!(!is_kept_out(&mut realm, much_later_s)?);
    Ok(())
}

#[test]
fn what_was_left_half_written_goes_with_the_credential() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    for name in ["revoked", "forgotten"] {
        realm.enrol(Role::Driver, name, 1, NOW_S)?;
        let creds = realm.creds(Role::Driver, name);
        fs::copy(&creds, creds.with_extension("creds.half"))?;
    }
    realm.revoke(Role::Driver, "revoked", NOW_S)?;
    realm.forget_expired(0, NOW_S + 2 * DAY_S)?;
    assert_eq!(
        files(&dir.path().join("creds/driver"))?,
        Vec::<PathBuf>::new()
    );
    Ok(())
}

/// One name that gets a credential every day does not fill a file.
#[test]
fn somebodys_file_keeps_what_expired_for_a_month() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    for day in 0..40 {
        realm.enrol(Role::Maintainer, "mona", 1, NOW_S + day * DAY_S)?;
    }
    let kept = realm.issued(&[Role::Maintainer])?.len();
    assert!((30..=32).contains(&kept), "{kept}");
    Ok(())
}

#[test]
fn central_is_told_of_a_charge_point_each_time_later_than_before() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    let (one, two) = (["CP-1".to_owned()], ["CP-1".to_owned(), "CP-2".to_owned()]);
    assert_eq!(realm.announce_at(&one, NOW_S, 500)?, 500);
    // The clock was set back.
    assert_eq!(realm.announce_at(&two, NOW_S, 400)?, 501);
    realm.enrol(Role::ChargePoint, "CP-2", 1, NOW_S)?;
    realm.forget_expired(0, NOW_S + 9 * DAY_S)?;
    assert_eq!(realm.announce_at(&two, NOW_S, 400)?, 502);
    Ok(())
}

#[test]
fn a_server_gets_no_files_of_an_authority() -> Result<()> {
    let dir = memory()?;
    let server = |hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        certificate::server(dir.path(), &hosts, 1, NOW_S)
    };
    server(&["nats-1", "ca"])?;
    certificate::client(dir.path(), "ca", 1, NOW_S)?;
    let of_authorities = || -> Result<Vec<Vec<u8>>> {
        let files = ["ca.key", "ca.crt", "clients-ca.key", "clients-ca.crt"];
        let read = |name: &str| Ok(fs::read(dir.path().join("tls").join(name))?);
        files.into_iter().map(read).collect()
    };
    let before = of_authorities()?;
    for first in ["ca", "CA", "clients-ca", "Clients-CA"] {
        let refused = server(&[first, "nats-1"]).map(drop);
        assert!(
            matches!(refused, Err(RealmError::FirstHost(_))),
            "{refused:?}"
        );
    }
    assert_eq!(of_authorities()?, before);
    Ok(())
}

#[test]
fn what_was_being_written_when_the_machine_went_down_is_as_if_it_never_was() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    // A character can be torn too; names that were refused have such.
    let said = |n: i64| Kept::announce(UnixMs(n), &["CP-ä".to_owned()], false);
    realm.outbox().put(said(1), Urgency::Usual)?;
    realm.outbox().put(said(2), Urgency::Usual)?;
    drop(realm);
    let path = dir.path().join("outbox");
    let whole = fs::read(&path)?;
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut])?;
        let mut realm = Realm::open(dir.path()).with_context(|| format!("cut at {cut}"))?;
        let lines = whole[..cut].iter().filter(|b| **b == b'\n').count();
        assert_eq!(realm.outbox().kept().len(), lines);
        realm.outbox().put(said(3), Urgency::Usual)?;
        drop(realm);
        let mut realm = Realm::open(dir.path())?;
        assert_eq!(realm.outbox().kept().last(), said(3).first());
        assert_eq!(realm.outbox().kept().len(), lines + 1);
    }
    Ok(())
}

#[test]
fn a_spoilt_outbox_blocks_nothing_and_loses_only_what_is_spoilt() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    realm.enrol(Role::Driver, "alice", 9, NOW_S)?;
    let said = |n: i64| Kept::announce(UnixMs(n), &["CP-1".to_owned()], false);
    realm.outbox().put(said(1), Urgency::Usual)?;
    realm.outbox().put(said(2), Urgency::Usual)?;
    drop(realm);
    let path = dir.path().join("outbox");
    let whole = fs::read(&path)?;
    let second = whole.iter().position(|b| *b == b'\n').context("a line")? + 1;
    let spoilt = b"{\"audit\":\xff}\n";
    // The last is cut within a character.
    let text = [&whole[..second], spoilt, &whole[second..], b"{\"\xc3"].concat();
    fs::write(&path, text)?;
    let mut realm = Realm::open(dir.path())?;
    realm.revoke(Role::Driver, "alice", NOW_S)?;
    assert_eq!(realm.outbox().kept(), [said(1), said(2)].concat());
    realm.outbox().put(said(3), Urgency::Usual)?;
    drop(realm);
    let mut realm = Realm::open(dir.path())?;
    assert_eq!(realm.outbox().kept(), [said(1), said(2), said(3)].concat());
    assert_eq!(fs::read(dir.path().join("outbox.unreadable"))?, spoilt);
    Ok(())
}

#[test]
fn a_full_outbox_stops_enrolling_before_it_stops_revoking() -> Result<()> {
    let dir = memory()?;
    let mut realm = Realm::create(dir.path(), NOW_S)?;
    let names: Vec<String> = (0..100_000).map(|n| format!("{n:064}")).collect();
    let mut said = || {
        let much = Kept::announce(UnixMs(1), &names, false);
        realm.outbox().put(much, Urgency::Usual)
    };
    let full = (0..10).find_map(|_| said().err());
    assert!(matches!(full, Some(RealmError::OutboxFull(_))), "{full:?}");
    let some = Kept::announce(UnixMs(1), &names, true);
    realm.outbox().put(some, Urgency::Urgent)?;
    Ok(())
}
