//! How a program of the system connects to NATS: with a credentials file, over TLS, from an inbox
//! of its own, coming back with jitter, and saying plainly what the server refuses.

mod credential;
mod crowd;
mod link;
mod look;
mod loss;
mod refusals;
mod terms;
mod trouble;
mod version;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, ServerAddr};
use rand::Rng;

use crate::{crowd::Crowd, loss::Losses, refusals::Refusals};
pub use credential::{Credential, CredentialError, FIRST_LEDGER_TAG, inbox_prefix};
pub use link::{Denied, LinkEvent, Operation};
pub use look::Seen;
pub use refusals::try_now;
pub use terms::{REMIND_EVERY_S, Reminder, Rhythm, Term, Terms, WARN_BEFORE_S, What, shown_time};
pub use trouble::{Piece, Trouble};
pub use version::{SERVER_MIN, Version};

/// A frozen server is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A new connection takes milliseconds; a server that needs longer is as good as none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Why there is no connection is found out by trying to make one, and hardly ever changes.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// When to try to connect again.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// Longest wait before the first attempt after a loss: many that return over it do not come
    /// back at once.
    pub first_max: Duration,
    /// Shortest later wait, doubled with every attempt.
    pub min: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            first_max: Duration::from_millis(500),
            min: Duration::from_millis(200),
            max: Duration::from_secs(5),
        }
    }
}

/// Where NATS is, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The servers of one cluster, any of which will do, separated by commas.
    pub url: String,
    /// The credentials file. Read again for every connection, so that a new one that was put in
    /// its place is used without a restart.
    pub credentials: PathBuf,
    /// How the server is known.
    pub tls: Tls,
}

/// How a server is known, and how a client is known to it. TLS begins with the first byte: nothing
/// is said in the clear, and a server that would is none of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of those who may vouch for the server, PEM.
    pub ca: PathBuf,
    /// The client's certificate and key, PEM, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why a connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An address is none.
    #[error("`{0}` is no address of a NATS server; for instance nats://127.0.0.1:4222")]
    Url(String),
    /// Over WebSocket, and in the clear.
    #[error("`{0}` is WebSocket in the clear, where no server of ours listens; take wss://")]
    InTheClear(String),
    /// Some over WebSocket and some not.
    #[error(
        "some addresses are wss:// and some are not; take one kind, the other is for other ports"
    )]
    Mixed,
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// What it is for, as configurations call it.
        key: &'static str,
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM; `central enrol certificate` writes one")]
    Pem {
        /// What it is for, as configurations call it.
        key: &'static str,
        /// What it should hold.
        what: &'static str,
        /// Which.
        path: String,
    },
    /// Half of a pair.
    #[error("a client's certificate needs its key and a key its certificate; give both or none")]
    Half,
    /// The credentials cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The credential is somebody else's.
    #[error(
        "{path} is the credential of {is}, not of {role} {name}: `central enrol {role} {name}` makes one"
    )]
    Whose {
        /// Which file.
        path: String,
        /// Whose it is.
        is: String,
        /// What it should be.
        role: &'static str,
        /// Whose it should be.
        name: String,
    },
}

impl AccessError {
    /// Which key of a configuration is wrong.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::InTheClear(_) | Self::Mixed => "nats_url",
            Self::File { key, .. } | Self::Pem { key, .. } => key,
            Self::Half => "certificate",
            Self::Credential(_) | Self::Whose { .. } => "credentials",
        }
    }
}

impl Tls {
    /// From what a configuration says.
    ///
    /// # Errors
    /// [`AccessError::Half`].
    pub fn new(
        ca: PathBuf,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Self, AccessError> {
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(AccessError::Half),
        };
        Ok(Self { ca, identity })
    }

    /// Whether the files are there and hold what they should.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn check(&self) -> Result<(), AccessError> {
        holds("ca", &self.ca, "certificate", "BEGIN CERTIFICATE")?;
        terms::are_certificates("ca", &self.ca)?;
        if let Some((certificate, key)) = &self.identity {
            holds(
                "certificate",
                certificate,
                "certificate",
                "BEGIN CERTIFICATE",
            )?;
            terms::are_certificates("certificate", certificate)?;
            holds("key", key, "key", "PRIVATE KEY")?;
        }
        Ok(())
    }
}

impl Access {
    /// The servers.
    ///
    /// # Errors
    /// [`AccessError::Url`].
    pub fn servers(&self) -> Result<Vec<ServerAddr>, AccessError> {
        servers(&self.url)
    }

    /// Whether all files can be used, and the credential is `name`'s in this role.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn check(&self, role: &'static str, name: &str) -> Result<Credential, AccessError> {
        let credential = Credential::read(&self.credentials)?;
        credential.check(&self.credentials, role, name)?;
        self.servers()?;
        self.tls.check()?;
        Ok(credential)
    }

    /// Options for a connection, and whose credential it is. What happens to the connection is
    /// told to `told`. The options' own callbacks for authentication, events and reconnecting are
    /// taken; everything else can be added. While it is refused for what only a person can mend it is
    /// tried seldom, and at once when a file, the clock or, by [`try_now`], anything else has changed.
    ///
    /// # Errors
    /// [`AccessError`], before anything is tried.
    pub fn options<F, Fut>(
        &self,
        pauses: Pauses,
        told: F,
    ) -> Result<(ConnectOptions, Credential), AccessError>
    where
        F: Fn(LinkEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + Sync + 'static,
    {
        self.servers()?;
        self.tls.check()?;
        let credential = Credential::read(&self.credentials)?;
        let ever_tried = AtomicBool::new(false);
        let losses = Arc::new(Losses::default());
        let crowd = Arc::new(Crowd::default());
        let refusals = Arc::new(Refusals::new());
        let (refused, access) = (Arc::clone(&refusals), Arc::new(self.clone()));
        let teller = Arc::new(Teller {
            access: self.clone(),
            told,
            asked_at: Mutex::new(None),
            losses: Arc::clone(&losses),
            crowd: Arc::clone(&crowd),
            refusals,
        });
        let options = self
            .bare(&credential)
            .reconnect_delay_callback(move |attempts| {
                let now = Instant::now();
                // Asked before the very first attempt too: nobody need wait then.
                let pause = if ever_tried.swap(true, Ordering::Relaxed) {
                    losses.lost(now);
                    pauses.before(attempts) + losses.pause(&pauses) + crowd.failed(now)
                } else {
                    Duration::ZERO
                };
                crowd.tries(now + pause);
                pause
            })
            // Chooses no server: the library does, in turn.
            .reconnect_to_server_callback(move |pool, _| {
                let (refused, access) = (Arc::clone(&refused), Arc::clone(&access));
                async move {
                    refused.wait(&access, &pool).await;
                    None
                }
            })
            .event_callback(move |event| Arc::clone(&teller).tell(event));
        Ok((options, credential))
    }

    /// Why no connection can be made. `None`: one can.
    pub async fn why_not(&self) -> Option<Trouble> {
        let credential = match Credential::read(&self.credentials) {
            Ok(credential) => credential,
            Err(e) => return Some(Trouble::from(&AccessError::from(e))),
        };
        let servers = match self.servers().and_then(|s| self.tls.check().map(|()| s)) {
            Ok(servers) => servers,
            Err(e) => return Some(Trouble::from(&e)),
        };
        match self.bare(&credential).connect(servers).await {
            Ok(_) => None,
            Err(e) => Some(self.trouble(&e)),
        }
    }

    /// The server gives no reason for this either.
    fn closed_at_once(&self) -> String {
        format!(
            "NATS takes {} and soon closes the connection, again and again; perhaps more programs \
             use it at once than one credential may have connections: end some, or enrol them apart",
            self.credentials.display()
        )
    }

    /// What every connection needs.
    fn bare(&self, credential: &Credential) -> ConnectOptions {
        let path = self.credentials.clone();
        let whose = credential.name().to_owned();
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            std::future::ready(answer(&path, &whose, &nonce))
        })
        .custom_inbox_prefix(credential.inbox_prefix())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .require_tls(true)
        .tls_first()
        .add_root_certificates(self.tls.ca.clone());
        if let Some((certificate, key)) = &self.tls.identity {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let is_websocket = |servers: Vec<ServerAddr>| servers.iter().any(ServerAddr::is_websocket);
        if self.servers().is_ok_and(is_websocket) {
            // The library takes what a server says of others for addresses without WebSocket.
            options = options.ignore_discovered_servers();
        }
        options
    }
}

/// Tells what happens to a connection.
struct Teller<F> {
    access: Access,
    told: F,
    /// When it was last asked why there is no connection.
    asked_at: Mutex<Option<Instant>>,
    losses: Arc<Losses>,
    crowd: Arc<Crowd>,
    refusals: Arc<Refusals>,
}

impl<F, Fut> Teller<F>
where
    F: Fn(LinkEvent) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + Sync + 'static,
{
    async fn tell(self: Arc<Self>, event: async_nats::Event) {
        let read = LinkEvent::read(&event);
        if read == Some(LinkEvent::Up) {
            self.losses.up(Instant::now());
            self.crowd.up();
            self.refusals.up();
        }
        match read {
            None => {}
            Some(LinkEvent::Refused(words)) => {
                let words = self.access.refusal(&words).to_string();
                (self.told)(LinkEvent::Refused(words)).await;
            }
            // One more handshake is the last thing that a server needs which has too many.
            Some(LinkEvent::Failed(_)) if self.crowd.is_there(Instant::now()) && self.may_ask() => {
                (self.told)(LinkEvent::Failed(Trouble::silent().to_string())).await;
            }
            // The library says no more than that it did not work.
            Some(LinkEvent::Failed(_)) if self.may_ask() => {
                // Not awaited: what happens next must be told in time.
                tokio::spawn(async move {
                    if let Some(why) = self.access.why_not().await {
                        (self.told)(LinkEvent::Failed(why.to_string())).await;
                    }
                });
            }
            Some(LinkEvent::Failed(_)) => {}
            Some(LinkEvent::Down) => {
                (self.told)(LinkEvent::Down).await;
                // Counted as soon as it is tried again, so that the last one may be missing.
                if self.losses.short() + 1 >= loss::SHORT_ODD && self.may_ask() {
                    let words = self.access.closed_at_once();
                    (self.told)(LinkEvent::Refused(words)).await;
                }
            }
            Some(told) => (self.told)(told).await,
        }
    }

    fn may_ask(&self) -> bool {
        let mut asked_at = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN);
        if may {
            *asked_at = Some(Instant::now());
        }
        may
    }
}

/// The servers that an address names: `nats://` and `tls://`, which are the same here, or all of them
/// `wss://`.
///
/// # Errors
/// [`AccessError`].
pub fn servers(url: &str) -> Result<Vec<ServerAddr>, AccessError> {
    let one = |one: &str| {
        let server = one.parse::<ServerAddr>().ok();
        let server = server.filter(|server| !server.host().is_empty());
        let server = server.ok_or_else(|| AccessError::Url(one.to_owned()))?;
        match server.scheme() {
            "ws" => Err(AccessError::InTheClear(one.to_owned())),
            _ => Ok(server),
        }
    };
    let servers: Vec<ServerAddr> = url
        .split(',')
        .map(str::trim)
        .map(one)
        .collect::<Result<_, _>>()?;
    let over_websocket = servers.iter().filter(|server| server.is_websocket());
    match over_websocket.count() {
        0 => Ok(servers),
        n if n == servers.len() => Ok(servers),
        _ => Err(AccessError::Mixed),
    }
}

impl Pauses {
    fn before(&self, attempts: usize) -> Duration {
        let mut random = rand::rng();
        if attempts <= 1 {
            return self.first_max.mul_f64(random.random());
        }
        let doubled = self.min * 2_u32.pow(u32::try_from(attempts.min(10)).unwrap_or(10) - 2);
        doubled.min(self.max).mul_f64(random.random_range(0.5..1.0))
    }
}

fn answer(
    path: &Path,
    whose: &str,
    nonce: &[u8],
) -> Result<async_nats::Auth, async_nats::AuthError> {
    let credential = Credential::read(path).map_err(async_nats::AuthError::new)?;
    // The inbox and the subjects of this connection were made for one name.
    if credential.name() != whose {
        return Err(async_nats::AuthError::new(format!(
            "{} is now {}'s, and this program began as {whose}: restart it",
            path.display(),
            credential.name()
        )));
    }
    credential.answer(nonce)
}

fn holds(
    key: &'static str,
    path: &Path,
    what: &'static str,
    mark: &str,
) -> Result<(), AccessError> {
    let shown = || path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| AccessError::File {
        key,
        path: shown(),
        source,
    })?;
    if String::from_utf8_lossy(&bytes).contains(mark) {
        return Ok(());
    }
    Err(AccessError::Pem {
        key,
        what,
        path: shown(),
    })
}

/// The innermost cause: the outer ones only say that something failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An error with its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some say their cause themselves.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn access(url: &str) -> Access {
        Access {
            url: url.into(),
            credentials: "/nowhere/alice.creds".into(),
            tls: Tls {
                ca: "/nowhere/ca.crt".into(),
                identity: None,
            },
        }
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_tried() {
        let told = |_| std::future::ready(());
        let wrong = |url| match access(url).options(Pauses::default(), told) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        };
        assert!(wrong("nats://").contains("no address"));
        assert!(wrong("nats://a:4222,").contains("no address"));
        assert!(wrong("http://a:443").contains("no address"));
        assert!(wrong("ws://a:443").contains("take wss://"));
        assert!(wrong("wss://a:443,nats://b:4222").contains("take one kind"));
        assert!(wrong("wss://a:443,wss://b:443").contains("ca.crt"));
        assert!(wrong("nats://a:4222,nats://b:4222").contains("ca.crt"));
    }

    #[test]
    fn pauses_grow_are_bounded_and_are_no_two_alike() {
        let pauses = Pauses::default();
        for attempts in 0..100 {
            let pause = pauses.before(attempts);
            assert!(pause <= pauses.max, "{attempts}: {pause:?}");
            assert!(
                attempts < 7 || pause >= pauses.max / 2,
                "{attempts}: {pause:?}"
            );
        }
        let many: std::collections::BTreeSet<_> = (0..20).map(|_| pauses.before(9)).collect();
        assert!(many.len() > 10);
    }

    #[test]
    fn those_who_lost_a_server_together_return_one_by_one() {
        let pauses = Pauses {
            first_max: Duration::from_secs(2),
            ..Pauses::default()
        };
        let mut of_each_tenth = [0_u32; 10];
        for _ in 0..2_000 {
            let ms = pauses.before(1).as_millis();
            of_each_tenth[usize::try_from(ms / 201).unwrap_or(9)] += 1;
        }
        // 200 are expected in each; 120 or 280 are six standard deviations away.
        assert!(
            of_each_tenth.iter().all(|n| (120..=280).contains(n)),
            "{of_each_tenth:?}"
        );
    }
}
