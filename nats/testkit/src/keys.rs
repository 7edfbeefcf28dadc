use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use ev_client::{Access, Pauses};
use ev_enrol::{Realm, Role};
use tempfile::TempDir;

use crate::nats::shipped_conf;

/// With which credential the testkit's own connections are made.
const OWN_NAME: &str = "testkit";

/// Keys of an installation that lasts as long as a test, and the shipped
/// configurations with what makes a server trust them.
#[derive(Debug)]
pub struct Keys {
    dir: TempDir,
    own: PathBuf,
}

impl Keys {
    /// # Errors
    /// When they cannot be made.
    pub fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("ev-keys-").context("make a folder for keys")?;
        let mut realm = Realm::create(dir.path(), now_s())?;
        let own = realm.enrol(Role::Central, OWN_NAME, 1, now_s())?.path;
        fs::copy(shipped_conf("common"), dir.path().join("common.conf"))
            .context("copy common.conf")?;
        Ok(Self { dir, own })
    }

    /// The folder, for `central enrol --dir`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// # Errors
    /// When somebody spoiled them.
    pub fn realm(&self) -> Result<Realm> {
        Ok(Realm::open(self.dir.path())?)
    }

    /// The credentials file of somebody, who is enrolled if need be.
    ///
    /// # Errors
    /// When that fails.
    pub fn creds(&self, role: Role, name: &str) -> Result<PathBuf> {
        let mut realm = self.realm()?;
        let path = realm.creds(role, name);
        if path.exists() {
            return Ok(path);
        }
        Ok(realm.enrol(role, name, 1, now_s())?.path)
    }

    /// A connection of somebody's, with an inbox of its own.
    ///
    /// # Errors
    /// When the server does not let them in.
    pub async fn connect(&self, url: &str, role: Role, name: &str) -> Result<async_nats::Client> {
        options(&self.creds(role, name)?)?
            .connect(url)
            .await
            .with_context(|| format!("connect to {url} as {role} {name}"))
    }

    pub(crate) fn own(&self) -> &Path {
        &self.own
    }

    /// A shipped configuration with `auth.conf`.
    pub(crate) fn conf(&self, stem: &str) -> Result<PathBuf> {
        let shipped = shipped_conf(stem);
        let text =
            fs::read_to_string(&shipped).with_context(|| format!("read {}", shipped.display()))?;
        let path = self.dir.path().join(format!("{stem}.conf"));
        fs::write(&path, format!("{text}\ninclude \"auth.conf\"\n"))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

pub(crate) fn options(credentials: &Path) -> Result<async_nats::ConnectOptions> {
    let access = Access {
        url: "nats://127.0.0.1:4222".into(),
        credentials: credentials.to_owned(),
        tls: None,
    };
    let (options, _) = access.options(Pauses::default(), |_| std::future::ready(()))?;
    Ok(options)
}

fn now_s() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
