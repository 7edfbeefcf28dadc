use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use ev_client::{Access, Pauses, Tls};
use ev_contract::ids::CpId;
use ev_enrol::certificate::{self, Certificate};
use ev_enrol::push::{Servers, push};
use ev_enrol::{Realm, Role};
use tempfile::TempDir;

use crate::nats::shipped_conf;

/// With which credential the testkit's own connections are made.
const OWN_NAME: &str = "testkit";
/// Keys of a test need not survive a power cut. Here syncing them costs nothing.
const MEMORY: &str = "/dev/shm";
/// By what clients call a test's server.
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];
/// Beyond what a test sets a clock forward.
const CERT_DAYS: u32 = 365;
/// Beyond when programs begin to warn.
const CREDS_DAYS: u32 = 90;
const CONFS: [&str; 8] = [
    "common",
    "single",
    "cluster-1",
    "cluster-2",
    "cluster-3",
    "hub-leafnodes",
    "hub-websocket",
    "leaf",
];

/// Keys of an installation that lasts as long as a test: accounts, credentials, certificates, and
/// the shipped configurations beside them. Clones are the same keys.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: TempDir,
    server: Certificate,
    own: PathBuf,
}

impl Keys {
    /// # Errors
    /// When they cannot be made.
    pub fn new() -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("ev-keys-");
        let dir = if Path::new(MEMORY).is_dir() {
            builder.tempdir_in(MEMORY)
        } else {
            builder.tempdir()
        }
        .context("make a folder for keys")?;
        let mut realm = Realm::create(dir.path(), now_s())?;
        let own = realm
            .enrol(Role::Central, OWN_NAME, CREDS_DAYS, now_s())?
            .path;
        realm.await_first_central()?;
        // Both lock the folder.
        drop(realm);
        let server =
            certificate::server(dir.path(), &HOSTS.map(str::to_owned), CERT_DAYS, now_s())?;
        for stem in CONFS {
            fs::copy(shipped_conf(stem), dir.path().join(format!("{stem}.conf")))
                .with_context(|| format!("copy {stem}.conf"))?;
        }
        Ok(Self(Arc::new(Inner { dir, server, own })))
    }

    /// The folder, for `central enrol --dir`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// # Errors
    /// When somebody spoiled them.
    pub fn realm(&self) -> Result<Realm> {
        Ok(Realm::open(self.dir())?)
    }

    /// The folder of credentials: `<role>/<name>.creds`.
    #[must_use]
    pub fn creds_dir(&self) -> PathBuf {
        self.dir().join("creds")
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
        Ok(realm.enrol(role, name, CREDS_DAYS, now_s())?.path)
    }

    /// The folder of a role's credentials, with those of many who had none.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn creds_of(&self, role: Role, names: &[CpId]) -> Result<PathBuf> {
        let mut realm = self.realm()?;
        let now_s = now_s();
        let signer = realm.signer(role)?;
        let expires_at_s = now_s + i64::from(CREDS_DAYS) * 24 * 3_600;
        let drafts = names
            .iter()
            .map(|name| realm.draft(&signer, role, name.as_str(), expires_at_s, now_s))
            .collect::<Result<Vec<_>, _>>()?;
        realm.commit(drafts, now_s)?;
        Ok(self.creds_dir().join(role.as_str()))
    }

    /// Makes somebody's credentials void on a server.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn revoke(&self, url: &str, role: Role, name: &str) -> Result<()> {
        self.realm()?.revoke(role, name, now_s())?;
        self.push(url, None).await
    }

    /// Puts in force on a server what the realm says; with a client's certificate where the server
    /// asks for one.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn push(&self, url: &str, client: Option<&Certificate>) -> Result<()> {
        let servers = Servers {
            url: url.to_owned(),
            tls: Tls {
                ca: self.ca(),
                identity: client.map(|own| (own.certificate.clone(), own.key.clone())),
            },
        };
        push(&mut self.realm()?, &servers, now_s()).await?;
        Ok(())
    }

    /// Makes the servers' certificate anew, as if it were `now_s`; they show it when they read
    /// their files again.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn renew_server(&self, days: u32, now_s: i64) -> Result<Certificate> {
        let hosts = HOSTS.map(str::to_owned);
        Ok(certificate::server(self.dir(), &hosts, days, now_s)?)
    }

    /// A shipped configuration with which servers ask clients for a certificate, as `common.conf`
    /// says how; whoever signs `client` signs all of them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mutual(&self, client: &Certificate) -> Result<PathBuf> {
        let text = fs::read_to_string(shipped_conf("common"))?.replacen(
            "    handshake_first: true\n",
            &format!(
                "    handshake_first: true\n    ca_file: {}\n    verify: true\n",
                quoted(&client.ca)
            ),
            1,
        );
        fs::write(self.conf("common"), text).context("write common.conf")?;
        Ok(self.conf("single"))
    }

    /// The credential of a site's leaf node for these charge points.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn leaf_creds(&self, site: &str, charge_points: &[&str]) -> Result<PathBuf> {
        let mut realm = self.realm()?;
        let carries = charge_points
            .iter()
            .map(|cp| CpId::new(*cp))
            .collect::<Result<Vec<_>, _>>()?;
        let (now_s, signer) = (now_s(), realm.signer(Role::Leaf)?);
        let expires_at_s = now_s + i64::from(CREDS_DAYS) * 24 * 3_600;
        let draft = realm.draft_leaf(&signer, site, carries, expires_at_s, now_s)?;
        Ok(realm.commit(vec![draft], now_s)?.remove(0).path)
    }

    /// The folder of credentials for load, made for these charge points; for a server that is told of
    /// them with [`Keys::push`], or begins later.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn load_creds(&self, name: &str, charge_points: &[CpId]) -> Result<PathBuf> {
        let mut realm = self.realm()?;
        let now_s = now_s();
        realm.begin_load(now_s)?;
        let signer = realm.signer(Role::Load)?;
        let expires_at_s = now_s + i64::from(CREDS_DAYS) * 24 * 3_600;
        let drafts = realm.draft_load(&signer, name, charge_points, expires_at_s, now_s)?;
        realm.commit(drafts, now_s)?;
        Ok(self.creds_dir().join(Role::Load.as_str()))
    }

    /// The shipped configuration of one server that lets leaf nodes in; from here on those of a
    /// cluster do so too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn leaves(&self) -> Result<PathBuf> {
        let path = self.conf("single-leaves");
        let text = "include \"single.conf\"\ninclude \"hub-leafnodes.conf\"\n";
        fs::write(&path, text).context("write a hub's configuration")?;
        for stem in ["cluster-1", "cluster-2", "cluster-3"] {
            let conf = self.conf(stem);
            let shipped = fs::read_to_string(&conf)?;
            fs::write(
                &conf,
                format!("{shipped}\ninclude \"hub-leafnodes.conf\"\n"),
            )
            .context("write a hub's configuration")?;
        }
        Ok(path)
    }

    /// The shipped configuration of one server that lets clients in over WebSocket too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn websocket(&self) -> Result<PathBuf> {
        let path = self.conf("single-websocket");
        let text = "include \"single.conf\"\ninclude \"hub-websocket.conf\"\n";
        fs::write(&path, text).context("write a hub's configuration")?;
        Ok(path)
    }

    /// The authority that vouches for the servers.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.server.ca.clone()
    }

    /// What the servers show.
    #[must_use]
    pub fn server(&self) -> &Certificate {
        &self.0.server
    }

    /// What opens a server for somebody.
    ///
    /// # Errors
    /// When they cannot be enrolled.
    pub fn access(&self, url: &str, role: Role, name: &str) -> Result<Access> {
        Ok(self.with(url, self.creds(role, name)?))
    }

    /// A connection of somebody's, with an inbox of its own.
    ///
    /// # Errors
    /// When the server does not let them in.
    pub async fn connect(&self, url: &str, role: Role, name: &str) -> Result<async_nats::Client> {
        connect(&self.access(url, role, name)?)
            .await
            .with_context(|| format!("connect to {url} as {role} {name}"))
    }

    /// The testkit's own connection, as a central.
    pub(crate) async fn connect_own(&self, url: &str) -> Result<async_nats::Client> {
        connect(&self.with(url, self.0.own.clone()))
            .await
            .with_context(|| format!("connect to {url}"))
    }

    /// What the shipped configurations take from the environment, beside folders.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 3] {
        let server = &self.0.server;
        [
            ("EV_NATS_SERVER_CERT", quoted(&server.certificate)),
            ("EV_NATS_SERVER_KEY", quoted(&server.key)),
            ("EV_NATS_CA", quoted(&server.ca)),
        ]
    }

    /// A shipped configuration, beside `auth.conf`.
    #[must_use]
    pub fn conf(&self, stem: &str) -> PathBuf {
        self.dir().join(format!("{stem}.conf"))
    }

    fn with(&self, url: &str, credentials: PathBuf) -> Access {
        Access {
            url: url.to_owned(),
            credentials,
            tls: Tls {
                ca: self.ca(),
                identity: None,
            },
        }
    }
}

async fn connect(access: &Access) -> Result<async_nats::Client> {
    let (options, _) = access.options(Pauses::default(), |_| std::future::ready(()))?;
    options
        .connect(access.servers()?)
        .await
        .map_err(|e| anyhow::anyhow!(access.trouble(&e).to_string()))
}

/// The server parses the value of a variable like a piece of its file.
pub(crate) fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn now_s() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
