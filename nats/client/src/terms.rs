//! How long what a connection rests on is good, and reminding people of it.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::rustls::pki_types::{CertificateDer, pem::PemObject};
use rand::Rng;
use tokio::{sync::Notify, time::sleep};
use x509_cert::der::Decode;

use crate::{Access, AccessError, Credential};

const DAY_S: i64 = 24 * 3_600;
/// People are reminded from so long before an end: enough to be back from leave and to go to a
/// cabinet.
pub const WARN_BEFORE_S: i64 = 30 * DAY_S;
/// And so often: a log is read daily or not at all.
pub const REMIND_EVERY_S: i64 = DAY_S;
/// Files are read so often. They are small, and whoever has replaced one wants to see it.
const READ_EVERY: Duration = Duration::from_secs(15);
/// A server that could not be looked at is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The credentials file.
    Credentials,
    /// The certificate that a client shows.
    ClientCertificate,
    /// Who vouches for servers: the first to end of those in the file.
    Authority,
    /// What a server shows.
    ServerCertificate,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Credentials,
        Self::ClientCertificate,
        Self::Authority,
        Self::ServerCertificate,
    ];

    /// A stable word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::ClientCertificate => "client_certificate",
            Self::Authority => "authority",
            Self::ServerCertificate => "server_certificate",
        }
    }
}

/// One thing and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What it is.
    pub what: What,
    /// Which: a file, or where the server is.
    pub which: String,
    /// When it ends, in seconds since 1970.
    pub expires_at_s: i64,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = &self.which;
        match self.what {
            What::Credentials => write!(f, "the credential in {which}"),
            What::ClientCertificate => write!(f, "the client's certificate in {which}"),
            What::Authority => write!(f, "an authority in {which}"),
            What::ServerCertificate => write!(f, "the certificate of the server at {which}"),
        }
    }
}

impl Term {
    /// That it ends soon or has ended, and what to do; `None` while there is time.
    #[must_use]
    pub fn warning(&self, now_s: i64) -> Option<String> {
        let left_s = self.expires_at_s - now_s;
        if left_s >= WARN_BEFORE_S {
            return None;
        }
        let at = shown_time(self.expires_at_s);
        let ends = match left_s {
            ..=0 => format!("expired at {at}"),
            1..DAY_S => format!("expires today, at {at}"),
            _ => format!("expires in {} days, at {at}", left_s / DAY_S),
        };
        let next = match self.what {
            What::Credentials => "`central enrol ROLE NAME --again` makes its successor",
            What::ClientCertificate => "`central enrol certificate --client NAME` makes a new one",
            What::Authority => {
                "`central enrol certificate --next-authority` makes the next, which all must know \
                 before servers show it"
            }
            What::ServerCertificate => {
                "`central enrol certificate --host HOST` makes a new one; send the server SIGHUP"
            }
        };
        Some(format!("{self} {ends}; {next}"))
    }
}

/// A time for people.
#[must_use]
pub fn shown_time(at_s: i64) -> String {
    jiff::Timestamp::from_second(at_s).map_or_else(|_| at_s.to_string(), |at| at.to_string())
}

/// Reminds once a day of each thing that ends soon.
#[derive(Debug, Default)]
pub struct Reminder {
    /// When which end was spoken of.
    told_at_s: BTreeMap<(What, String, i64), i64>,
}

impl Reminder {
    /// What is to be said now.
    pub fn due(&mut self, terms: &[Term], now_s: i64) -> Vec<String> {
        let key = |term: &Term| (term.what, term.which.clone(), term.expires_at_s);
        self.told_at_s
            .retain(|told, _| terms.iter().any(|term| key(term) == *told));
        let mut due = Vec::new();
        for term in terms {
            let Some(warning) = term.warning(now_s) else {
                continue;
            };
            let told = self.told_at_s.get(&key(term));
            // A clock that was set back starts the day anew.
            if told.is_none_or(|told| !(0..REMIND_EVERY_S).contains(&(now_s - told))) {
                self.told_at_s.insert(key(term), now_s);
                due.push(warning);
            }
        }
        due
    }
}

/// How often servers are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Between two looks.
    pub every: Duration,
    /// After a new connection, at the latest: many that return over a server do not look at once.
    pub spread: Duration,
}

/// The first look may be so much later than the first connection.
const FIRST_SPREAD: Duration = Duration::from_secs(2);

/// Keeps an eye on what an access rests on.
#[derive(Debug)]
pub struct Terms {
    access: Access,
    rhythm: Rhythm,
    connected: Arc<Notify>,
    /// By address.
    servers: BTreeMap<String, i64>,
    look_at: Option<Instant>,
    began: bool,
}

impl Terms {
    /// Of one access.
    #[must_use]
    pub fn new(access: Access, rhythm: Rhythm) -> Self {
        Self {
            access,
            rhythm,
            connected: Arc::new(Notify::new()),
            servers: BTreeMap::new(),
            look_at: None,
            began: false,
        }
    }

    /// To be notified of every new connection: the server may be another, or have another
    /// certificate.
    #[must_use]
    pub fn connected(&self) -> Arc<Notify> {
        Arc::clone(&self.connected)
    }

    /// Waits until it is time, and reads everything anew. The first call returns at once.
    pub async fn next(&mut self) -> Vec<Term> {
        if self.began {
            self.wait().await;
        }
        self.began = true;
        if self.look_at.is_some_and(|at| at <= Instant::now()) {
            self.look().await;
        }
        let access = self.access.clone();
        let mut terms = tokio::task::spawn_blocking(move || access.terms())
            .await
            .unwrap_or_default();
        terms.extend(self.servers.iter().map(|(address, &expires_at_s)| Term {
            what: What::ServerCertificate,
            which: address.clone(),
            expires_at_s,
        }));
        terms
    }

    async fn wait(&mut self) {
        let read_at = Instant::now() + READ_EVERY;
        let wake = self.look_at.map_or(read_at, |at| at.min(read_at));
        tokio::select! {
            () = sleep(wake.saturating_duration_since(Instant::now())) => {}
            () = self.connected.notified() => {
                let spread = if self.look_at.is_none() { FIRST_SPREAD } else { self.rhythm.spread };
                let soon = Instant::now() + spread.mul_f64(rand::rng().random());
                self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
            }
        }
    }

    /// One that cannot be looked at keeps what was seen last: that it is out of reach is said
    /// elsewhere.
    async fn look(&mut self) {
        let mut all = true;
        for server in self.access.servers().unwrap_or_default() {
            let address = format!("{}:{}", server.host(), server.port());
            match self.access.tls.look(&server).await {
                Ok(seen) => {
                    if let Some(expires_at_s) = seen.expires_at_s {
                        self.servers.insert(address, expires_at_s);
                    }
                }
                Err(_) => all = false,
            }
        }
        let pause = if all {
            self.rhythm.every
        } else {
            LOOK_AGAIN.min(self.rhythm.every)
        };
        self.look_at = Some(Instant::now() + pause.mul_f64(rand::rng().random_range(0.9..1.1)));
    }
}

impl Access {
    /// When the files of this access end. One that cannot be read is left out: whoever connects
    /// says so.
    #[must_use]
    pub fn terms(&self) -> Vec<Term> {
        let credential = Credential::read(&self.credentials).ok();
        let client = self.tls.identity.as_ref();
        [
            credential
                .and_then(|c| c.expires_at_s())
                .map(|at| (What::Credentials, &self.credentials, at)),
            client.and_then(|(path, _)| {
                first_end_s(path).map(|at| (What::ClientCertificate, path, at))
            }),
            first_end_s(&self.tls.ca).map(|at| (What::Authority, &self.tls.ca, at)),
        ]
        .into_iter()
        .flatten()
        .map(|(what, path, expires_at_s)| Term {
            what,
            which: path.display().to_string(),
            expires_at_s,
        })
        .collect()
    }
}

/// Whether a file's certificates can be read, each of them.
pub(crate) fn are_certificates(key: &'static str, path: &Path) -> Result<(), AccessError> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| AccessError::File {
        key,
        path: shown.clone(),
        source,
    })?;
    let mut certificates = CertificateDer::pem_reader_iter(io::Cursor::new(bytes)).peekable();
    let are_there = certificates.peek().is_some();
    let can_be_read = |c: Result<CertificateDer<'_>, _>| c.is_ok_and(|c| not_after_s(&c).is_some());
    if are_there && certificates.all(can_be_read) {
        return Ok(());
    }
    Err(AccessError::Pem {
        key,
        what: "certificate that can be read",
        path: shown,
    })
}

/// The first end of the certificates in a file.
fn first_end_s(path: &Path) -> Option<i64> {
    let bytes = std::fs::read(path).ok()?;
    CertificateDer::pem_reader_iter(io::Cursor::new(bytes))
        .filter_map(|certificate| not_after_s(&certificate.ok()?))
        .min()
}

/// Until when a certificate is good.
pub(crate) fn not_after_s(certificate: &CertificateDer<'_>) -> Option<i64> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate.validity.not_after;
    i64::try_from(end.to_unix_duration().as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    fn ends_in(left_s: i64) -> Term {
        Term {
            what: What::Credentials,
            which: "a.creds".into(),
            expires_at_s: NOW_S + left_s,
        }
    }

    #[test]
    fn a_warning_begins_thirty_days_before_the_end_and_says_what_to_do() {
        assert_eq!(ends_in(WARN_BEFORE_S).warning(NOW_S), None);
        for (left_s, said) in [
            (WARN_BEFORE_S - 1, "expires in 29 days"),
            (DAY_S, "expires in 1 days"),
            (DAY_S - 1, "expires today"),
            (0, "expired at"),
            (-9 * DAY_S, "expired at"),
        ] {
            let warning = ends_in(left_s).warning(NOW_S).expect("a warning");
            assert!(warning.contains(said), "{left_s}: {warning}");
            assert!(warning.contains("central enrol"), "{warning}");
        }
    }

    #[test]
    fn each_end_is_spoken_of_once_a_day() {
        let mut reminder = Reminder::default();
        let (soon, late) = (ends_in(DAY_S), ends_in(WARN_BEFORE_S + DAY_S));
        let mut count = |terms: &[Term], at_s| reminder.due(terms, at_s).len();
        let both = [soon.clone(), late.clone()];
        assert_eq!(count(&both, NOW_S), 1);
        assert_eq!(count(&both, NOW_S + REMIND_EVERY_S - 1), 0);
        assert_eq!(count(&both, NOW_S + REMIND_EVERY_S), 1);
        assert_eq!(count(&both, NOW_S + REMIND_EVERY_S + 2), 1, "the other one");
        // Renewed, and ending again.
        assert_eq!(count(&[late], NOW_S), 0);
        assert_eq!(count(&[soon], NOW_S), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_it() {
        let mut reminder = Reminder::default();
        assert_eq!(reminder.due(&[ends_in(0)], NOW_S).len(), 1);
        assert_eq!(reminder.due(&[ends_in(0)], NOW_S - DAY_S).len(), 1);
    }
}
