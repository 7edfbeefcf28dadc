//! The folder of keys, and what was issued with them.
//!
//! ```text
//! DIR/                      0700
//!   operator/root.nk        signs operator.jwt and nothing else; keep it elsewhere
//!   operator/signing.nk     signs accounts: for revoke, rotate and push
//!   roles/<role>.nk         signs credentials of that role: for enrolling
//!   creds/<role>/<name>.creds   what was issued, until it is taken to where it is used
//!   issued/<role>/<name>.json   who has what
//!   realm.json              public keys of accounts and roles, what was revoked
//!   outbox                  what central and its audit have yet to hear
//!   outbox.unreadable       lines of it that were spoilt, if there were any
//!   operator.jwt, auth.conf public: what nats-server needs
//!   leaf-auth.conf          public: what a leaf node needs
//!   tls/                    certificates, see [`crate::certificate`]
//! ```
//!
//! Every step is on the disk before the next one begins, in an order in which a machine that goes
//! down between any two leaves a folder that opens: a credential is recorded before it exists, and
//! what `realm.json` says is void is so, whatever the files of those who had it say.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use ev_client::shown_time;
use ev_contract::ids::{CpId, InvalidId};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

pub use crate::issued::Issued;
use crate::{
    files::{
        PUBLIC, SECRET, failed, lock, make_dir, read_seed, remove, sync_dir, write, write_all,
        write_seed,
    },
    issued::{self, Holder, KEPT_DAYS},
    jwt::{self, About},
    outbox::Outbox,
    roles::{Account, CARRIED_MAX, Role},
};

/// Where keys are unless somebody says otherwise.
pub const DIR_DEFAULT: &str = "/etc/ev/keys";
/// The credential with which accounts are pushed.
pub const ENROL_NAME: &str = "enrol";
/// The credential with which central and its audit are told.
pub const REGISTRAR_NAME: &str = "registrar";
/// The credentials that `central enrol` uses itself are made anew so long before they end.
const OWN_LEFT_DAYS: i64 = 30;
/// Made when keys are begun with, gone when all are there.
const UNFINISHED: &str = "unfinished";
/// Longest life of a credential.
pub const DAYS_MAX: u32 = 3_650;
/// Seconds of a day.
pub(crate) const DAY_S: i64 = 24 * 3_600;

/// Why something about keys failed.
#[derive(Debug, thiserror::Error)]
pub enum RealmError {
    /// A file cannot be used.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// There are keys already.
    #[error("{0} has keys already; they are never overwritten")]
    Exists(String),
    /// There are none.
    #[error(
        "{0} has no keys: `central enrol init` makes them; --dir or EV_KEYS_DIR names another folder"
    )]
    Missing(String),
    /// Making them was interrupted.
    #[error(
        "the keys in {0} are not all there: `central enrol init` was interrupted; run it again"
    )]
    Unfinished(String),
    /// Too much waits to be told.
    #[error(
        "{0} is full of what central has not heard yet: `central enrol push` tells it, where a server and central run"
    )]
    OutboxFull(String),
    /// A file has other content than it should.
    #[error("{path} cannot be used: {why}")]
    Content {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// A name is none.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// A life that is too short or too long.
    #[error("{0} days are not within 1 to {DAYS_MAX}")]
    Days(u32),
    /// A leaf or a load for nobody, or for too many.
    #[error("a credential is for 1 to {CARRIED_MAX} charge points, not {0}")]
    Carries(usize),
    /// Somebody has a credential already.
    #[error(
        "{role} {name} has a credential until {until}; `rotate` replaces it, --again adds another"
    )]
    Enrolled {
        /// As what.
        role: Role,
        /// Who.
        name: String,
        /// Until when.
        until: String,
    },
    /// Nobody has such a credential.
    #[error("{role} {name} has no credential that is good{since}")]
    Unknown {
        /// As what.
        role: Role,
        /// Who.
        name: String,
        /// Since when it has none.
        since: String,
    },
    /// A host or a client that cannot be named in a certificate.
    #[error("{0:?} is no name of a host or a client; for instance nats-1.ev.internal")]
    Host(String),
    /// A server's files would be an authority's.
    #[error(
        "a server's files cannot be called {0:?}, since an authority's are; name another host first"
    )]
    FirstHost(String),
    /// The authority of servers is not to be changed like this.
    #[error("{path} {why}")]
    ChangeOfAuthority {
        /// Its certificate.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A signature could not be made.
    #[error("cannot sign")]
    Sign(#[from] nkeys::error::Error),
}

#[derive(Debug, Serialize, Deserialize)]
struct AccountState {
    id: String,
    /// Of the last token. Servers keep the newer of two, by this second.
    issued_at_s: i64,
    /// The last token, and what it says.
    #[serde(default)]
    jwt: String,
    #[serde(default)]
    nats: serde_json::Value,
    /// Which key signed it.
    #[serde(default)]
    signed_by: String,
}

impl RealmError {
    /// What to do next, where the error itself does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as the owner of the folder of keys, or name another with --dir")
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room; what was done stays, and the same command can be given again")
            }
            _ => None,
        }
    }
}

/// Since when a credential is void, until it would have expired.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Revoked {
    role: Role,
    at_s: i64,
    expires_at_s: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    accounts: BTreeMap<Account, AccountState>,
    role_keys: BTreeMap<Role, String>,
    /// Since when a role has its key, where it had another before.
    #[serde(default)]
    role_keys_since_s: BTreeMap<Role, i64>,
    /// By public key. Only what the roles' present keys have signed: the rest is void by itself.
    #[serde(default)]
    revoked: BTreeMap<String, Revoked>,
    /// Whether no central has a credential yet: the first one may make the ledger.
    #[serde(default)]
    first_ledger: bool,
    /// Where everything issued was kept before each name had a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    issued: Vec<Issued>,
}

/// A credential that is signed and not yet written anywhere.
#[derive(Debug)]
pub struct Draft {
    issued: Issued,
    file: String,
}

impl Draft {
    /// What it will be.
    #[must_use]
    pub const fn issued(&self) -> &Issued {
        &self.issued
    }
}

/// A credentials file that was written.
#[derive(Debug)]
pub struct Enrolled {
    /// Where.
    pub path: PathBuf,
    /// Until when it is good.
    pub expires_at_s: i64,
}

/// An account's token.
#[derive(Debug)]
pub struct AccountToken {
    /// Which account.
    pub account: Account,
    /// Its public key.
    pub id: String,
    /// The token.
    pub jwt: String,
}

/// An open folder of keys. Nobody else changes it meanwhile.
#[derive(Debug)]
pub struct Realm {
    dir: PathBuf,
    state: State,
    outbox: Outbox,
    new_roles: Vec<Role>,
    /// The central whose credential says that it may make the ledger.
    beginner: OnceLock<String>,
    _lock: File,
}

impl Realm {
    /// Makes all keys, the credentials that push and tell, and what nats-server needs.
    ///
    /// # Errors
    /// [`RealmError`], also when there are keys already.
    pub fn create(dir: &Path, now_s: i64) -> Result<Self, RealmError> {
        make_dir(dir)?;
        let lock = lock(dir)?;
        let unfinished = dir.join(UNFINISHED);
        if !unfinished.exists() {
            if dir.join("realm.json").exists() || dir.join("operator").exists() {
                return Err(RealmError::Exists(dir.display().to_string()));
            }
            write(&unfinished, SECRET, "")?;
        }
        let root = KeyPair::new_operator();
        let signing = KeyPair::new_operator();
        make_dir(&dir.join("operator"))?;
        make_dir(&dir.join("roles"))?;
        write_seed(&dir.join("operator/root.nk"), &root)?;
        write_seed(&dir.join("operator/signing.nk"), &signing)?;
        let mut realm = Self {
            dir: dir.to_owned(),
            state: State {
                accounts: BTreeMap::new(),
                role_keys: BTreeMap::new(),
                role_keys_since_s: BTreeMap::new(),
                revoked: BTreeMap::new(),
                first_ledger: true,
                issued: Vec::new(),
            },
            outbox: Outbox::open(dir)?,
            new_roles: Vec::new(),
            beginner: OnceLock::new(),
            _lock: lock,
        };
        realm.complete()?;
        realm.save()?;
        realm.sign_operator(&root, &signing, now_s)?;
        realm.sign_accounts(now_s)?;
        realm.renew_own(now_s)?;
        remove(&unfinished)?;
        sync_dir(dir)?;
        Ok(realm)
    }

    /// Opens a folder, waiting for whoever has it open.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn open(dir: &Path) -> Result<Self, RealmError> {
        let path = dir.join("realm.json");
        let there = |path: &Path| path.try_exists().map_err(failed("look for", path));
        if !there(&path)? && !there(&dir.join(UNFINISHED))? {
            return Err(RealmError::Missing(dir.display().to_string()));
        }
        let lock = lock(dir)?;
        if there(&dir.join(UNFINISHED))? {
            return Err(RealmError::Unfinished(dir.display().to_string()));
        }
        let mut realm = Self {
            dir: dir.to_owned(),
            state: read_state(dir)?,
            outbox: Outbox::open(dir)?,
            new_roles: Vec::new(),
            beginner: OnceLock::new(),
            _lock: lock,
        };
        let is_older = realm.complete()? || !realm.state.issued.is_empty();
        if is_older {
            realm.give_each_name_a_file()?;
            realm.save()?;
        }
        Ok(realm)
    }

    /// Goes by what is on the disk, after a step that failed.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn reload(&mut self) -> Result<(), RealmError> {
        self.state = read_state(&self.dir)?;
        Ok(())
    }

    /// Makes keys for accounts and roles that have none: those that came later than the folder.
    fn complete(&mut self) -> Result<bool, RealmError> {
        let mut changed = false;
        for account in Account::ALL {
            // The accounts' own keys are not kept: the operator signs accounts and the roles' keys
            // sign credentials, so that theirs could only be stolen.
            self.state.accounts.entry(account).or_insert_with(|| {
                changed = true;
                AccountState {
                    id: KeyPair::new_account().public_key(),
                    issued_at_s: 0,
                    jwt: String::new(),
                    nats: serde_json::Value::Null,
                    signed_by: String::new(),
                }
            });
        }
        for role in Role::ALL.into_iter().filter(|role| role.is_standing()) {
            changed |= self.first_key(role)?;
        }
        Ok(changed)
    }

    fn first_key(&mut self, role: Role) -> Result<bool, RealmError> {
        if self.state.role_keys.contains_key(&role) {
            return Ok(false);
        }
        let key = KeyPair::new_account();
        write_seed(&role_key_path(&self.dir, role), &key)?;
        self.state.role_keys.insert(role, key.public_key());
        self.new_roles.push(role);
        Ok(true)
    }

    /// Makes the key that signs credentials for load, unless there is one. In force once pushed.
    /// Returns whether it was made.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn begin_load(&mut self, now_s: i64) -> Result<bool, RealmError> {
        let is_new = self.first_key(Role::Load)?;
        if is_new {
            self.sign_accounts(now_s)?;
        }
        Ok(is_new)
    }

    fn give_each_name_a_file(&mut self) -> Result<(), RealmError> {
        let mut holders: BTreeMap<Role, BTreeMap<String, Holder>> = BTreeMap::new();
        for one in std::mem::take(&mut self.state.issued) {
            let present = self.has_signed(&one);
            if let Some(at_s) = one.revoked_at_s.filter(|_| present) {
                let revoked = Revoked {
                    role: one.role,
                    at_s,
                    expires_at_s: one.expires_at_s,
                };
                self.state.revoked.insert(one.key.clone(), revoked);
            }
            let names = holders.entry(one.role).or_default();
            let holder = names.entry(one.name.clone()).or_default();
            holder.credentials.push(one);
        }
        holders.into_iter().try_for_each(|(role, names)| {
            issued::store(&self.dir, role, names.into_iter().collect(), 0)
        })
    }

    /// Sees to it that the credentials that `central enrol` itself uses are there and good for a
    /// while. Where their role's key is elsewhere, somebody else has to.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn renew_own(&mut self, now_s: i64) -> Result<(), RealmError> {
        let drafts = self.own_renewals(now_s)?;
        self.commit(drafts, now_s)?;
        Ok(())
    }

    /// What [`Realm::renew_own`] would write.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn own_renewals(&self, now_s: i64) -> Result<Vec<Draft>, RealmError> {
        let mut drafts = Vec::new();
        for (role, name) in [(Role::Enrol, ENROL_NAME), (Role::Registrar, REGISTRAR_NAME)] {
            let until_s = now_s + OWN_LEFT_DAYS * DAY_S;
            let holder = self.holder(role, name)?;
            let is_good = holder.credentials.iter().any(|one| one.is_good(until_s));
            let has_key = role_key_path(&self.dir, role).exists();
            if has_key && !(is_good && self.creds(role, name).exists()) {
                let key = self.signer(role)?;
                let expires_at_s = expiry(role.days(), now_s)?;
                drafts.push(self.draft(&key, role, name, expires_at_s, now_s)?);
            }
        }
        Ok(drafts)
    }

    /// Roles that got their first key when the folder was opened: they came later than it.
    #[must_use]
    pub fn new_roles(&self) -> &[Role] {
        &self.new_roles
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What nats-server includes.
    #[must_use]
    pub fn auth_conf(&self) -> PathBuf {
        self.dir.join("auth.conf")
    }

    /// What a leaf node includes.
    #[must_use]
    pub fn leaf_auth_conf(&self) -> PathBuf {
        self.dir.join("leaf-auth.conf")
    }

    /// Where a credential is written.
    #[must_use]
    pub fn creds(&self, role: Role, name: &str) -> PathBuf {
        self.dir.join(format!("creds/{role}/{name}.creds"))
    }

    /// An account's public key.
    #[must_use]
    pub fn account_id(&self, account: Account) -> &str {
        &self.state.accounts[&account].id
    }

    /// A role's public key; empty where the installation has none for it.
    #[must_use]
    pub fn role_key(&self, role: Role) -> &str {
        self.state.role_keys.get(&role).map_or("", String::as_str)
    }

    /// What central and its audit have yet to hear.
    pub const fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// What was issued in some roles, by role and name, oldest first.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn issued(&self, roles: &[Role]) -> Result<Vec<Issued>, RealmError> {
        let mut all = Vec::new();
        for role in roles {
            for name in issued::names(&self.dir, *role)? {
                all.extend(self.holder(*role, &name)?.credentials);
            }
        }
        Ok(all)
    }

    /// Whether the role's present key has signed it.
    fn has_signed(&self, one: &Issued) -> bool {
        self.state.role_keys.get(&one.role) == Some(&one.signed_by)
    }

    /// What somebody has, with what `realm.json` says about it.
    fn holder(&self, role: Role, name: &str) -> Result<Holder, RealmError> {
        let mut holder = issued::load(&self.dir, role, name)?;
        for one in &mut holder.credentials {
            let revoked = self.state.revoked.get(&one.key).map(|r| r.at_s);
            let former = (!self.has_signed(one)).then(|| {
                let since_s = self.state.role_keys_since_s.get(&role);
                since_s.copied().unwrap_or(one.issued_at_s)
            });
            one.revoked_at_s = one.revoked_at_s.or(revoked).or(former);
        }
        Ok(holder)
    }

    /// What somebody has that is good.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn good(&self, role: Role, name: &str, now_s: i64) -> Result<Vec<Issued>, RealmError> {
        role.check_name(name)?;
        let mut credentials = self.holder(role, name)?.credentials;
        credentials.retain(|one| one.is_good(now_s));
        Ok(credentials)
    }

    /// What somebody has that is good: at least one.
    ///
    /// # Errors
    /// [`RealmError::Unknown`] when there is none.
    pub fn some_good(&self, role: Role, name: &str, now_s: i64) -> Result<Vec<Issued>, RealmError> {
        let good = self.good(role, name, now_s)?;
        if !good.is_empty() {
            return Ok(good);
        }
        let last = self.holder(role, name)?.credentials.pop();
        let since = last.map(|one| match one.revoked_at_s {
            Some(at) => format!("; its last was revoked at {}", shown_time(at)),
            None => format!("; its last expired at {}", shown_time(one.expires_at_s)),
        });
        Err(RealmError::Unknown {
            role,
            name: name.to_owned(),
            since: since.unwrap_or_default(),
        })
    }

    /// Whether somebody may get a first credential.
    ///
    /// # Errors
    /// [`RealmError`]: the name is none, or has one that is good.
    pub fn check_new(&self, role: Role, name: &str, now_s: i64) -> Result<(), RealmError> {
        match self.good(role, name, now_s)?.last() {
            None => Ok(()),
            Some(issued) => Err(RealmError::Enrolled {
                role,
                name: name.to_owned(),
                until: shown_time(issued.expires_at_s),
            }),
        }
    }

    /// Writes the first credential of somebody.
    ///
    /// # Errors
    /// [`RealmError`], also when there is one that is good.
    pub fn enrol(
        &mut self,
        role: Role,
        name: &str,
        days: u32,
        now_s: i64,
    ) -> Result<Enrolled, RealmError> {
        self.check_new(role, name, now_s)?;
        self.enrol_again(role, name, days, now_s)
    }

    /// Writes a credential beside those that somebody has, for a change without haste: the older
    /// ones stay good.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn enrol_again(
        &mut self,
        role: Role,
        name: &str,
        days: u32,
        now_s: i64,
    ) -> Result<Enrolled, RealmError> {
        self.issue(role, name, expiry(days, now_s)?, now_s)
    }

    /// Writes a credential that ends at a given time.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn issue(
        &mut self,
        role: Role,
        name: &str,
        expires_at_s: i64,
        now_s: i64,
    ) -> Result<Enrolled, RealmError> {
        let key = self.signer(role)?;
        let draft = self.draft(&key, role, name, expires_at_s, now_s)?;
        let mut enrolled = self.commit(vec![draft], now_s)?;
        Ok(enrolled.remove(0))
    }

    /// The key that signs a role's credentials.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn signer(&self, role: Role) -> Result<KeyPair, RealmError> {
        let path = role_key_path(&self.dir, role);
        let next = next_role_key_path(&self.dir, role);
        // The machine went down between the two steps of a change of this key.
        if next.exists() {
            if read_seed(&next)?.public_key() == self.role_key(role) {
                fs::rename(&next, &path).map_err(failed("replace", &path))?;
            } else {
                remove(&next)?;
            }
            sync_dir(&self.dir.join("roles"))?;
        }
        let key = read_seed(&path)?;
        if self.role_key(role) == key.public_key() {
            return Ok(key);
        }
        Err(RealmError::Content {
            path: path.display().to_string(),
            why: "it is not the role's present key".into(),
        })
    }

    /// Signs a credential. Nothing is written. A leaf's is for the charge points that its last one
    /// was for.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn draft(
        &self,
        signer: &KeyPair,
        role: Role,
        name: &str,
        expires_at_s: i64,
        now_s: i64,
    ) -> Result<Draft, RealmError> {
        role.check_name(name)?;
        let last = self.holder(role, name)?.credentials.pop();
        let carries = last.map(|one| one.carries).unwrap_or_default();
        self.draft_carrying(signer, role, name, carries, expires_at_s, now_s)
    }

    /// Signs the credential of a leaf for these charge points. Nothing is written.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn draft_leaf(
        &self,
        signer: &KeyPair,
        site: &str,
        carries: Vec<CpId>,
        expires_at_s: i64,
        now_s: i64,
    ) -> Result<Draft, RealmError> {
        self.draft_several(signer, (Role::Leaf, site), carries, expires_at_s, now_s)
    }

    /// Signs credentials for load: as many as these charge points need, `NAME-1` and so on. Nothing
    /// is written. There must be a key, see [`Realm::begin_load`].
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn draft_load(
        &self,
        signer: &KeyPair,
        name: &str,
        charge_points: &[CpId],
        expires_at_s: i64,
        now_s: i64,
    ) -> Result<Vec<Draft>, RealmError> {
        charge_points
            .chunks(CARRIED_MAX)
            .zip(1..)
            .map(|(carries, n): (_, u32)| {
                let name = format!("{name}-{n}");
                let whose = (Role::Load, name.as_str());
                self.draft_several(signer, whose, carries.to_vec(), expires_at_s, now_s)
            })
            .collect()
    }

    fn draft_several(
        &self,
        signer: &KeyPair,
        (role, name): (Role, &str),
        carries: Vec<CpId>,
        expires_at_s: i64,
        now_s: i64,
    ) -> Result<Draft, RealmError> {
        role.check_name(name)?;
        if !(1..=CARRIED_MAX).contains(&carries.len()) {
            return Err(RealmError::Carries(carries.len()));
        }
        self.draft_carrying(signer, role, name, carries, expires_at_s, now_s)
    }

    fn draft_carrying(
        &self,
        signer: &KeyPair,
        role: Role,
        name: &str,
        carries: Vec<CpId>,
        expires_at_s: i64,
        now_s: i64,
    ) -> Result<Draft, RealmError> {
        let key = KeyPair::new_user();
        let token = jwt::sign(
            About {
                name,
                subject: &key.public_key(),
                issued_at_s: now_s,
                expires_at_s: Some(expires_at_s),
                nats: jwt::user(
                    role,
                    self.account_id(role.account()),
                    &carries,
                    self.may_begin(role, name),
                ),
            },
            signer,
        )?;
        let seed = key.seed()?;
        Ok(Draft {
            issued: Issued {
                role,
                name: name.to_owned(),
                key: key.public_key(),
                signed_by: signer.public_key(),
                issued_at_s: now_s,
                expires_at_s,
                revoked_at_s: None,
                carries,
            },
            file: format!(
                "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            ),
        })
    }

    /// Whether this is the first central of the installation. One alone says so: another one that starts
    /// for the first time on the day when the ledger is lost must not make a second one.
    fn may_begin(&self, role: Role, name: &str) -> bool {
        role == Role::Central
            && self.state.first_ledger
            && self.beginner.get_or_init(|| name.to_owned()) == name
    }

    /// Has the next central be the first one, after a credential of the role for something else.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn await_first_central(&mut self) -> Result<(), RealmError> {
        self.state.first_ledger = true;
        self.beginner = OnceLock::new();
        self.save()
    }

    /// Writes credentials.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn commit(&mut self, drafts: Vec<Draft>, now_s: i64) -> Result<Vec<Enrolled>, RealmError> {
        let mut holders: BTreeMap<Role, Vec<(String, Holder)>> = BTreeMap::new();
        let mut files = Vec::new();
        let mut enrolled = Vec::new();
        for Draft { issued, file } in drafts {
            let (role, name) = (issued.role, issued.name.clone());
            let path = self.creds(role, &name);
            files.push((path.clone(), file));
            enrolled.push(Enrolled {
                path,
                expires_at_s: issued.expires_at_s,
            });
            let mut holder = self.holder(role, &name)?;
            holder.credentials.push(issued);
            holders.entry(role).or_default().push((name, holder));
        }
        if self.state.first_ledger && holders.contains_key(&Role::Central) {
            self.state.first_ledger = false;
            self.save()?;
        }
        // Recorded before it exists: what is not recorded could not be revoked.
        for (role, holders) in holders {
            issued::store(&self.dir, role, holders, now_s)?;
            make_dir(&self.dir.join(format!("creds/{role}")))?;
        }
        write_all(&files, SECRET)?;
        Ok(enrolled)
    }

    /// Makes all credentials of somebody void, and removes the file. In force once pushed.
    ///
    /// # Errors
    /// [`RealmError`], also when none is good.
    pub fn revoke(&mut self, role: Role, name: &str, now_s: i64) -> Result<usize, RealmError> {
        let good = self.some_good(role, name, now_s)?;
        self.make_void(&good, now_s)?;
        remove(&self.creds(role, name))?;
        Ok(good.len())
    }

    /// Replaces all credentials of somebody by a new one. In force once pushed.
    ///
    /// # Errors
    /// [`RealmError`], also when none is good.
    pub fn rotate(
        &mut self,
        role: Role,
        name: &str,
        days: u32,
        now_s: i64,
    ) -> Result<Enrolled, RealmError> {
        let expires_at_s = expiry(days, now_s)?;
        self.some_good(role, name, now_s)?;
        let key = self.signer(role)?;
        let draft = self.draft(&key, role, name, expires_at_s, now_s)?;
        self.replace(draft, now_s)
    }

    /// Replaces all credentials of somebody by this one. In force once pushed.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn replace(&mut self, draft: Draft, now_s: i64) -> Result<Enrolled, RealmError> {
        // Read first: without it nothing could be put in force.
        self.account_signer()?;
        let former = self.good(draft.issued.role, &draft.issued.name, now_s)?;
        let mut enrolled = self.commit(vec![draft], now_s)?;
        self.make_void(&former, now_s)?;
        Ok(enrolled.remove(0))
    }

    /// The key that signs accounts.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn account_signer(&self) -> Result<KeyPair, RealmError> {
        read_seed(&self.dir.join("operator/signing.nk"))
    }

    fn make_void(&mut self, credentials: &[Issued], now_s: i64) -> Result<(), RealmError> {
        self.account_signer()?;
        for one in credentials {
            let revoked = Revoked {
                role: one.role,
                // Servers look at what was issued no later than this, and the clock may have been
                // ahead then.
                at_s: now_s.max(one.issued_at_s),
                expires_at_s: one.expires_at_s,
            };
            self.state.revoked.insert(one.key.clone(), revoked);
        }
        self.sign_accounts(now_s)?;
        // From here on it is so. What follows only keeps it known for longer.
        for one in credentials {
            let holder = self.holder(one.role, &one.name)?;
            let holders = vec![(one.name.clone(), holder)];
            issued::store(&self.dir, one.role, holders, now_s)?;
        }
        Ok(())
    }

    /// Who has a credential in a role, or had one until its key was replaced and got no other.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn bearers(&self, role: Role, now_s: i64) -> Result<Vec<String>, RealmError> {
        let mut bearers = Vec::new();
        for name in issued::names(&self.dir, role)? {
            let holder = issued::load(&self.dir, role, &name)?;
            let has = holder
                .credentials
                .iter()
                .any(|one| one.is_good(now_s) && !self.state.revoked.contains_key(&one.key));
            bearers.extend(has.then_some(name));
        }
        Ok(bearers)
    }

    /// Replaces a role's signing key, and all of its credentials that are good. In force once
    /// pushed: then whatever the old key signed opens nothing, known here or not.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn rotate_key(
        &mut self,
        role: Role,
        days: u32,
        now_s: i64,
    ) -> Result<Vec<Enrolled>, RealmError> {
        let (key, drafts) = self.draft_role(role, days, now_s)?;
        self.replace_role(role, &key, drafts, now_s)
    }

    /// Signs what [`Realm::replace_role`] will write.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn draft_role(
        &self,
        role: Role,
        days: u32,
        now_s: i64,
    ) -> Result<(KeyPair, Vec<Draft>), RealmError> {
        let expires_at_s = expiry(days, now_s)?;
        self.account_signer()?;
        let key = KeyPair::new_account();
        let drafts = self
            .bearers(role, now_s)?
            .iter()
            .map(|name| self.draft(&key, role, name, expires_at_s, now_s))
            .collect::<Result<_, _>>()?;
        Ok((key, drafts))
    }

    /// Replaces a role's signing key, and the credentials that it signed by these.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn replace_role(
        &mut self,
        role: Role,
        key: &KeyPair,
        drafts: Vec<Draft>,
        now_s: i64,
    ) -> Result<Vec<Enrolled>, RealmError> {
        self.account_signer()?;
        if role == Role::Enrol {
            let present = self.creds(role, ENROL_NAME);
            let former = former_enrol(&self.dir);
            fs::copy(&present, &former).map_err(failed("copy", &present))?;
        }
        write_seed(&next_role_key_path(&self.dir, role), key)?;
        self.state.role_keys.insert(role, key.public_key());
        self.state.role_keys_since_s.insert(role, now_s);
        self.keep_revoked_known(role, now_s)?;
        self.state.revoked.retain(|_, revoked| revoked.role != role);
        self.sign_accounts(now_s)?;
        // The new key takes the old one's place.
        self.signer(role)?;
        self.commit(drafts, now_s)
    }

    /// Sees to it that the files of those who had what is revoked say so, also where that was
    /// interrupted: `realm.json` is about to say it no more.
    fn keep_revoked_known(&self, role: Role, now_s: i64) -> Result<(), RealmError> {
        let mut holders = Vec::new();
        for name in issued::names(&self.dir, role)? {
            let mut holder = issued::load(&self.dir, role, &name)?;
            let mut changed = false;
            for one in &mut holder.credentials {
                if let (None, Some(revoked)) = (one.revoked_at_s, self.state.revoked.get(&one.key))
                {
                    one.revoked_at_s = Some(revoked.at_s);
                    changed = true;
                }
            }
            holders.extend(changed.then_some((name, holder)));
        }
        if holders.is_empty() {
            return Ok(());
        }
        issued::store(&self.dir, role, holders, now_s)
    }

    /// Replaces the key that signs accounts. Needs the root key, and every server to start anew
    /// with the new `auth.conf` and without the accounts that it keeps: among them may be one that
    /// a thief has signed. Credentials stay good.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn rotate_signing(&mut self, now_s: i64) -> Result<(), RealmError> {
        let root = read_seed(&self.dir.join("operator/root.nk"))?;
        let signing = KeyPair::new_operator();
        write_seed(&self.dir.join("operator/signing.nk"), &signing)?;
        self.sign_operator(&root, &signing, now_s)?;
        self.sign_accounts(now_s)?;
        Ok(())
    }

    /// Forgets what has expired for so many days, revoked or not. Returns how many credentials.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn forget_expired(&mut self, days: u32, now_s: i64) -> Result<usize, RealmError> {
        let before_s = now_s - i64::from(days) * DAY_S;
        let mut forgotten = 0;
        for role in Role::ALL {
            let mut fewer = Vec::new();
            for name in issued::names(&self.dir, role)? {
                let mut holder = self.holder(role, &name)?;
                let all = holder.credentials.len();
                holder.credentials.retain(|c| c.expires_at_s > before_s);
                let left = holder.credentials.len();
                forgotten += all - left;
                // When central was told of a charge point last is needed for as long as it has the
                // name.
                if left == 0 && holder.announced_ms.is_none() {
                    remove(&self.creds(role, &name))?;
                    issued::forget(&self.dir, role, &name)?;
                } else if left < all {
                    fewer.push((name, holder));
                }
            }
            if !fewer.is_empty() {
                issued::store(&self.dir, role, fewer, now_s)?;
            }
        }
        Ok(forgotten)
    }

    /// When central may be told of these charge points, all at once: later than of any before.
    /// That is noted.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn announce_at(
        &mut self,
        names: &[String],
        now_s: i64,
        now_ms: i64,
    ) -> Result<i64, RealmError> {
        let role = Role::ChargePoint;
        let mut holders = Vec::new();
        let mut at_ms = now_ms;
        for name in names {
            let holder = self.holder(role, name)?;
            at_ms = at_ms.max(holder.announced_ms.map_or(0, |last| last + 1));
            holders.push((name.clone(), holder));
        }
        for (_, holder) in &mut holders {
            holder.announced_ms = Some(at_ms);
        }
        issued::store(&self.dir, role, holders, now_s)?;
        Ok(at_ms)
    }

    fn sign_operator(
        &self,
        root: &KeyPair,
        signing: &KeyPair,
        now_s: i64,
    ) -> Result<(), RealmError> {
        let token = jwt::sign(
            About {
                name: "ev",
                subject: &root.public_key(),
                issued_at_s: now_s,
                expires_at_s: None,
                nats: jwt::operator(&signing.public_key(), self.account_id(Account::Sys)),
            },
            root,
        )?;
        let path = self.dir.join("operator.jwt");
        write(&path, PUBLIC, &format!("{token}\n"))
    }

    /// Signs all accounts that are not as they are meant to be, and writes all for nats-server.
    /// The others keep their token: a server that knows it does nothing, while a new one costs
    /// the account the answers that are under way.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn sign_accounts(&mut self, now_s: i64) -> Result<Vec<AccountToken>, RealmError> {
        let signing = self.account_signer()?;
        // What has expired need not be revoked too; unless it is the clock here that is ahead.
        self.state
            .revoked
            .retain(|_, revoked| revoked.expires_at_s + KEPT_DAYS * DAY_S > now_s);
        let mut tokens = Vec::new();
        for account in Account::ALL {
            let revocations: BTreeMap<String, i64> = self
                .state
                .revoked
                .iter()
                .filter(|(_, revoked)| revoked.role.account() == account)
                .map(|(key, revoked)| (key.clone(), revoked.at_s))
                .collect();
            let ids = self
                .state
                .accounts
                .iter()
                .map(|(account, state)| (*account, state.id.as_str()))
                .collect();
            let keys = self
                .state
                .role_keys
                .iter()
                .map(|(role, key)| (*role, key.as_str()))
                .collect();
            let nats = jwt::account(account, &ids, &keys, &revocations);
            let signed_by = signing.public_key();
            let last = &self.state.accounts[&account];
            let id = last.id.clone();
            if last.nats == nats && last.signed_by == signed_by {
                let jwt = last.jwt.clone();
                tokens.push(AccountToken { account, id, jwt });
                continue;
            }
            let issued_at_s = now_s.max(last.issued_at_s + 1);
            let jwt = jwt::sign(
                About {
                    name: account.as_str(),
                    subject: &id,
                    issued_at_s,
                    expires_at_s: None,
                    nats: nats.clone(),
                },
                &signing,
            )?;
            let next = AccountState {
                id: id.clone(),
                issued_at_s,
                jwt: jwt.clone(),
                nats,
                signed_by,
            };
            self.state.accounts.insert(account, next);
            tokens.push(AccountToken { account, id, jwt });
        }
        self.save()?;
        self.write_auth_conf(&tokens)?;
        Ok(tokens)
    }

    /// With which credentials accounts may be pushed, the likeliest first. After a change of the
    /// role's key the servers know the former until the push has reached them.
    #[must_use]
    pub fn push_credentials(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.creds(Role::Enrol, ENROL_NAME)];
        paths.extend(Some(former_enrol(&self.dir)).filter(|path| path.exists()));
        paths
    }

    /// The servers know the present credential: the former one is of no use to anybody.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn forget_former_enrol(&self) -> Result<(), RealmError> {
        remove(&former_enrol(&self.dir))
    }

    fn save(&self) -> Result<(), RealmError> {
        let path = self.dir.join("realm.json");
        let text = serde_json::to_string_pretty(&self.state).map_err(|e| RealmError::Content {
            path: path.display().to_string(),
            why: e.to_string(),
        })?;
        write(&path, SECRET, &text)
    }

    fn write_auth_conf(&self, tokens: &[AccountToken]) -> Result<(), RealmError> {
        let path = self.dir.join("operator.jwt");
        let operator = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let preload: String = tokens
            .iter()
            .map(|t| format!("    # {}\n    {}: {}\n", t.account, t.id, t.jwt))
            .collect();
        let text = format!(
            "# Written by `central enrol`: whom nats-server trusts. Nothing in it is secret. Give it\n\
             # to every server and include it from its configuration.\n\
             operator: {operator}\
             system_account: {sys}\n\
             resolver {{\n\
             \x20   # The server keeps accounts here, and the newer of two: what was revoked stays so\n\
             \x20   # when it starts with an older copy of this file.\n\
             \x20   type: full\n\
             \x20   dir: $EV_NATS_ACCOUNTS\n\
             \x20   allow_delete: false\n\
             \x20   # Servers of a cluster compare theirs so often.\n\
             \x20   interval: \"1m\"\n\
             }}\n\
             resolver_preload {{\n{preload}}}\n",
            sys = self.account_id(Account::Sys),
        );
        write(&self.auth_conf(), PUBLIC, &text)?;
        self.write_leaf_auth_conf(&operator, tokens)
    }

    /// What a leaf node includes. Nobody but charge points gets in there, and it is told of changes
    /// by this file alone.
    fn write_leaf_auth_conf(
        &self,
        operator: &str,
        tokens: &[AccountToken],
    ) -> Result<(), RealmError> {
        let (edge, sys) = (
            self.account_id(Account::Edge),
            self.account_id(Account::Sys),
        );
        let preload: String = tokens
            .iter()
            .filter(|t| matches!(t.account, Account::Edge | Account::Sys))
            .map(|t| format!("    # {}\n    {}: {}\n", t.account, t.id, t.jwt))
            .collect();
        let text = format!(
            "# Written by `central enrol`: whom a leaf node trusts. Nothing in it is secret. A leaf\n\
             # node learns what was revoked when it is given this file anew and reloaded.\n\
             operator: {operator}\
             system_account: {sys}\n\
             EV_EDGE_ACCOUNT: {edge}\n\
             resolver: MEMORY\n\
             resolver_preload {{\n{preload}}}\n",
        );
        write(&self.leaf_auth_conf(), PUBLIC, &text)
    }
}

fn read_state(dir: &Path) -> Result<State, RealmError> {
    let path = dir.join("realm.json");
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    serde_json::from_str(&text).map_err(|e| RealmError::Content {
        path: path.display().to_string(),
        why: e.to_string(),
    })
}

fn role_key_path(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("roles/{role}.nk"))
}

/// Where a role's next key lies until `realm.json` names it.
fn next_role_key_path(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("roles/{role}.next.nk"))
}

pub(crate) fn expiry(days: u32, now_s: i64) -> Result<i64, RealmError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(RealmError::Days(days));
    }
    Ok(now_s + i64::from(days) * DAY_S)
}

fn former_enrol(dir: &Path) -> PathBuf {
    dir.join("creds/enrol/former.creds")
}
