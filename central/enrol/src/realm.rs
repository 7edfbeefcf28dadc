//! The folder of keys, and what was issued with them.
//!
//! ```text
//! DIR/                      0700
//!   operator/root.nk        signs operator.jwt and nothing else; keep it elsewhere
//!   operator/signing.nk     signs accounts: for revoke, rotate and push
//!   roles/<role>.nk         signs credentials of that role: for enrolling
//!   creds/<role>/<name>.creds   what was issued, until it is taken to where it is used
//!   realm.json              public keys, what was issued, what was revoked
//!   operator.jwt, auth.conf public: what nats-server needs
//!   tls/                    certificates, see [`crate::certificate`]
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ev_client::shown_time;
use ev_contract::ids::InvalidId;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use crate::{
    jwt::{self, About},
    roles::{Account, Role},
};

/// Where keys are unless somebody says otherwise.
pub const DIR_DEFAULT: &str = "/etc/ev/keys";
/// The credential with which accounts are pushed.
pub const ENROL_NAME: &str = "enrol";
/// Longest life of a credential.
pub const DAYS_MAX: u32 = 3_650;
/// Seconds of a day.
pub(crate) const DAY_S: i64 = 24 * 3_600;
/// A secret is its owner's alone.
pub(crate) const SECRET: u32 = 0o600;
/// What nats-server reads is public.
pub(crate) const PUBLIC: u32 = 0o644;

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
    #[error("{0} has no keys: `central enrol init` makes them")]
    Missing(String),
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
    #[error("{role} {name} has no credential that is good")]
    Unknown {
        /// As what.
        role: Role,
        /// Who.
        name: String,
    },
    /// A host or a client that cannot be named in a certificate.
    #[error("{0:?} is no name of a host or a client; for instance nats-1.ev.internal")]
    Host(String),
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

/// A credential that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Issued {
    /// As what.
    pub role: Role,
    /// To whom.
    pub name: String,
    /// Its public key.
    pub key: String,
    /// The role's key that signed it.
    pub signed_by: String,
    /// When.
    pub issued_at_s: i64,
    /// Until when it is good.
    pub expires_at_s: i64,
    /// Since when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at_s: Option<i64>,
}

impl Issued {
    /// Whether it opens anything.
    #[must_use]
    pub fn is_good(&self, now_s: i64) -> bool {
        self.revoked_at_s.is_none() && self.expires_at_s > now_s
    }
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

#[derive(Debug, Serialize, Deserialize)]
struct State {
    accounts: BTreeMap<Account, AccountState>,
    role_keys: BTreeMap<Role, String>,
    issued: Vec<Issued>,
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
    _lock: File,
}

impl Realm {
    /// Makes all keys, the credential that pushes, and what nats-server needs.
    ///
    /// # Errors
    /// [`RealmError`], also when there are keys already.
    pub fn create(dir: &Path, now_s: i64) -> Result<Self, RealmError> {
        make_dir(dir)?;
        let lock = lock(dir)?;
        if dir.join("realm.json").exists() || dir.join("operator").exists() {
            return Err(RealmError::Exists(dir.display().to_string()));
        }
        let root = KeyPair::new_operator();
        let signing = KeyPair::new_operator();
        make_dir(&dir.join("operator"))?;
        make_dir(&dir.join("roles"))?;
        write_seed(&dir.join("operator/root.nk"), &root)?;
        write_seed(&dir.join("operator/signing.nk"), &signing)?;
        let mut role_keys = BTreeMap::new();
        for role in Role::ALL {
            let key = KeyPair::new_account();
            write_seed(&role_key_path(dir, role), &key)?;
            role_keys.insert(role, key.public_key());
        }
        // The accounts' own keys are not kept: the operator signs accounts and the roles' keys
        // sign credentials, so that theirs could only be stolen.
        let accounts: BTreeMap<_, _> = Account::ALL
            .into_iter()
            .map(|account| {
                let state = AccountState {
                    id: KeyPair::new_account().public_key(),
                    issued_at_s: 0,
                    jwt: String::new(),
                    nats: serde_json::Value::Null,
                    signed_by: String::new(),
                };
                (account, state)
            })
            .collect();
        let mut realm = Self {
            dir: dir.to_owned(),
            state: State {
                accounts,
                role_keys,
                issued: Vec::new(),
            },
            _lock: lock,
        };
        realm.save()?;
        realm.sign_operator(&root, &signing, now_s)?;
        realm.sign_accounts(now_s)?;
        realm.enrol(Role::Enrol, ENROL_NAME, Role::Enrol.days(), now_s)?;
        Ok(realm)
    }

    /// Opens a folder, waiting for whoever has it open.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn open(dir: &Path) -> Result<Self, RealmError> {
        let path = dir.join("realm.json");
        if !path.exists() {
            return Err(RealmError::Missing(dir.display().to_string()));
        }
        let lock = lock(dir)?;
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let state = serde_json::from_str(&text).map_err(|e| RealmError::Content {
            path: path.display().to_string(),
            why: e.to_string(),
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            state,
            _lock: lock,
        })
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

    /// What was issued, oldest first.
    #[must_use]
    pub fn issued(&self) -> &[Issued] {
        &self.state.issued
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
        role.check_name(name)?;
        if let Some(issued) = self.good(role, name, now_s).last() {
            return Err(RealmError::Enrolled {
                role,
                name: name.to_owned(),
                until: shown_time(issued.expires_at_s),
            });
        }
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
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(RealmError::Days(days));
        }
        self.issue(role, name, now_s + i64::from(days) * DAY_S, now_s)
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
        role.check_name(name)?;
        let key_path = role_key_path(&self.dir, role);
        if !self.state.role_keys.contains_key(&role) {
            self.make_role(role, now_s)?;
        }
        let role_key = read_seed(&key_path)?;
        if self.state.role_keys.get(&role) != Some(&role_key.public_key()) {
            return Err(RealmError::Content {
                path: key_path.display().to_string(),
                why: "it is not the role's present key".into(),
            });
        }
        let key = KeyPair::new_user();
        let token = jwt::sign(
            About {
                name,
                subject: &key.public_key(),
                issued_at_s: now_s,
                expires_at_s: Some(expires_at_s),
                nats: jwt::user(role, self.account_id(role.account())),
            },
            &role_key,
        )?;
        self.state.issued.push(Issued {
            role,
            name: name.to_owned(),
            key: key.public_key(),
            signed_by: role_key.public_key(),
            issued_at_s: now_s,
            expires_at_s,
            revoked_at_s: None,
        });
        // Recorded before it exists: what is not recorded could not be revoked.
        self.save()?;
        let path = self.creds(role, name);
        make_dir(&self.dir.join("creds"))?;
        make_dir(&self.dir.join(format!("creds/{role}")))?;
        let seed = key.seed()?;
        write(
            &path,
            SECRET,
            &format!(
                "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            ),
        )?;
        Ok(Enrolled { path, expires_at_s })
    }

    /// Makes the signing key of a role that there was not when these keys were made. Its credentials
    /// open nothing before that is pushed, or a server starts with the new `auth.conf`.
    fn make_role(&mut self, role: Role, now_s: i64) -> Result<(), RealmError> {
        let key = KeyPair::new_account();
        write_seed(&role_key_path(&self.dir, role), &key)?;
        self.state.role_keys.insert(role, key.public_key());
        self.save()?;
        self.sign_accounts(now_s)?;
        Ok(())
    }

    /// Makes all credentials of somebody void, and removes the file. In force once pushed.
    ///
    /// # Errors
    /// [`RealmError`], also when none is good.
    pub fn revoke(&mut self, role: Role, name: &str, now_s: i64) -> Result<usize, RealmError> {
        let count = self.mark_revoked(role, name, now_s)?;
        self.save()?;
        self.sign_accounts(now_s)?;
        let path = self.creds(role, name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            Ok(()) | Err(_) => Ok(count),
        }
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
        self.mark_revoked(role, name, now_s)?;
        let enrolled = self.enrol_again(role, name, days, now_s)?;
        self.sign_accounts(now_s)?;
        Ok(enrolled)
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
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(RealmError::Days(days));
        }
        // Read first: without it nothing could be put in force.
        read_seed(&self.dir.join("operator/signing.nk"))?;
        if role == Role::Enrol {
            let present = self.creds(role, ENROL_NAME);
            let former = former_enrol(&self.dir);
            fs::copy(&present, &former).map_err(failed("copy", &present))?;
        }
        let mut names: Vec<String> = Vec::new();
        for issued in &mut self.state.issued {
            if issued.role == role && issued.is_good(now_s) {
                issued.revoked_at_s = Some(now_s);
                if !names.contains(&issued.name) {
                    names.push(issued.name.clone());
                }
            }
        }
        let key = KeyPair::new_account();
        self.state.role_keys.insert(role, key.public_key());
        write_seed(&role_key_path(&self.dir, role), &key)?;
        self.save()?;
        let enrolled = names
            .iter()
            .map(|name| self.enrol_again(role, name, days, now_s))
            .collect::<Result<_, _>>()?;
        self.sign_accounts(now_s)?;
        Ok(enrolled)
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
        let signing = read_seed(&self.dir.join("operator/signing.nk"))?;
        let mut tokens = Vec::new();
        for account in Account::ALL {
            let revocations: BTreeMap<String, i64> = self
                .state
                .issued
                .iter()
                // What has expired need not be revoked too.
                .filter(|i| i.role.account() == account && i.expires_at_s > now_s)
                .filter_map(|i| i.revoked_at_s.map(|at| (i.key.clone(), at)))
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
        let path = former_enrol(&self.dir);
        if path.exists() {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    fn good<'r>(
        &'r self,
        role: Role,
        name: &'r str,
        now_s: i64,
    ) -> impl Iterator<Item = &'r Issued> {
        self.state
            .issued
            .iter()
            .filter(move |i| i.role == role && i.name == name && i.is_good(now_s))
    }

    fn mark_revoked(&mut self, role: Role, name: &str, now_s: i64) -> Result<usize, RealmError> {
        role.check_name(name)?;
        let mut count = 0;
        for issued in &mut self.state.issued {
            if issued.role == role && issued.name == name && issued.is_good(now_s) {
                issued.revoked_at_s = Some(now_s);
                count += 1;
            }
        }
        if count == 0 {
            return Err(RealmError::Unknown {
                role,
                name: name.to_owned(),
            });
        }
        Ok(count)
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
        write(&self.auth_conf(), PUBLIC, &text)
    }
}

fn role_key_path(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("roles/{role}.nk"))
}

fn former_enrol(dir: &Path) -> PathBuf {
    dir.join("creds/enrol/former.creds")
}

pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RealmError {
    let path = path.display().to_string();
    move |source| RealmError::File { what, path, source }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), RealmError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make the folder", path))
}

pub(crate) fn lock(dir: &Path) -> Result<File, RealmError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(SECRET)
        .open(&path)
        .map_err(failed("open", &path))?;
    file.lock().map_err(failed("lock", &path))?;
    Ok(file)
}

/// Writes a whole file or none: whoever reads it meanwhile sees the former one.
pub(crate) fn write(path: &Path, mode: u32, text: &str) -> Result<(), RealmError> {
    let mut half = path.as_os_str().to_owned();
    half.push(".half");
    let half = PathBuf::from(half);
    // One that was left half written may have another mode.
    let _ = fs::remove_file(&half);
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(&half)
        .map_err(failed("create", &half))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &half))?;
    fs::rename(&half, path).map_err(failed("replace", path))?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

fn write_seed(path: &Path, key: &KeyPair) -> Result<(), RealmError> {
    write(path, SECRET, &format!("{}\n", key.seed()?))
}

fn read_seed(path: &Path) -> Result<KeyPair, RealmError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    KeyPair::from_seed(text.trim()).map_err(|_| RealmError::Content {
        path: path.display().to_string(),
        why: "it is no key".into(),
    })
}
