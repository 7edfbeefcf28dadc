//! How a program of the system connects to NATS: with a credentials file, over TLS, from an inbox
//! of its own, coming back with jitter, and saying plainly what the server refuses.

mod credential;
mod link;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{ConnectOptions, ServerAddr};
use rand::Rng;

pub use credential::{Credential, CredentialError, inbox_prefix};
pub use link::{Denied, LinkEvent, Operation};

/// A frozen server is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A new connection takes milliseconds; a server that needs longer is as good as none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
#[derive(Debug, Clone)]
pub struct Access {
    /// The servers of one cluster, any of which will do, separated by commas.
    pub url: String,
    /// The credentials file. Read again for every connection, so that a new one that was put in
    /// its place is used without a restart.
    pub credentials: PathBuf,
    /// TLS, for all but a loopback address.
    pub tls: Option<Tls>,
}

/// How a server is known, and how a client is known to it.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates of those who may vouch for the server, PEM.
    pub ca: PathBuf,
    /// The client's certificate and key, PEM, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// TLS from the first byte, for servers with `handshake_first`: nothing is said in the clear.
    pub first: bool,
}

/// Why a connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An address is none.
    #[error("`{0}` is no address of a NATS server; for instance nats://127.0.0.1:4222")]
    Url(String),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The credentials cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl Access {
    /// The servers.
    ///
    /// # Errors
    /// [`AccessError::Url`].
    pub fn servers(&self) -> Result<Vec<ServerAddr>, AccessError> {
        self.url
            .split(',')
            .map(str::trim)
            .map(|one| {
                one.parse::<ServerAddr>()
                    .ok()
                    .filter(|server| !server.host().is_empty())
                    .ok_or_else(|| AccessError::Url(one.to_owned()))
            })
            .collect()
    }

    /// Options for a connection, and whose credential it is. What happens to the connection is
    /// told to `told`. The options' own callbacks for authentication, events and reconnecting are
    /// taken; everything else can be added.
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
        let credential = Credential::read(&self.credentials)?;
        let path = self.credentials.clone();
        let whose = credential.name().to_owned();
        let ever_tried = Arc::new(AtomicBool::new(false));
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            std::future::ready(answer(&path, &whose, &nonce))
        })
        .custom_inbox_prefix(credential.inbox_prefix())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .reconnect_delay_callback(move |attempts| {
            // Asked before the very first attempt too: nobody need wait then.
            if ever_tried.swap(true, Ordering::Relaxed) {
                pauses.before(attempts)
            } else {
                Duration::ZERO
            }
        })
        .event_callback(move |event| {
            let told = LinkEvent::read(&event).map(&told);
            async move {
                if let Some(told) = told {
                    told.await;
                }
            }
        });
        if let Some(tls) = &self.tls {
            readable(&tls.ca)?;
            options = options
                .require_tls(true)
                .add_root_certificates(tls.ca.clone());
            if tls.first {
                options = options.tls_first();
            }
            if let Some((certificate, key)) = &tls.identity {
                readable(certificate)?;
                readable(key)?;
                options = options.add_client_certificate(certificate.clone(), key.clone());
            }
        }
        Ok((options, credential))
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

fn readable(path: &Path) -> Result<(), AccessError> {
    std::fs::File::open(path)
        .map(drop)
        .map_err(|source| AccessError::File {
            path: path.display().to_string(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(url: &str) -> Access {
        Access {
            url: url.into(),
            credentials: "/nowhere/alice.creds".into(),
            tls: None,
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
        assert!(wrong("nats://a:4222,nats://b:4222").contains("alice.creds"));
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
}
