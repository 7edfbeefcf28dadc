//! Attempts to connect that fail for what only a person can mend: an authority that has not signed
//! the server's certificate, a credential that has expired or is revoked. Trying again mends nothing
//! and costs a handshake each time, on a line that may cost money: who is refused again and again
//! stays away for minutes, and tries at once when something has changed here.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_nats::Server;
use rand::Rng;

use crate::Access;

/// Pause after the first refusal, doubled with each: somebody may be at work on it just now.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Longest one. Two hundred attempts a day, of some 5 KB each, are a megabyte; whoever mends something
/// at the server waits no longer than that for the last to come back.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Between two looks at the files and the clock while one stays away.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A clock that was set by more than this may have been the reason: certificates have a beginning
/// and an end.
const CLOCK_SET: Duration = Duration::from_secs(60);

/// How often this process was told that something has changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Every connection of this process that is refused is tried at once: somebody says that something has
/// changed.
pub fn try_now() {
    CHANGES.fetch_add(1, Ordering::Relaxed);
}

/// How the attempts of one connection were refused.
#[derive(Debug)]
pub struct Refusals {
    began: (Instant, SystemTime),
    state: Mutex<State>,
}

impl Refusals {
    /// None yet.
    pub fn new() -> Self {
        Self {
            began: (Instant::now(), SystemTime::now()),
            state: Mutex::new(State::default()),
        }
    }

    /// There is a connection.
    pub fn up(&self) {
        self.lock().in_row = 0;
    }

    /// Before each round of attempts: waits for as long as there is no use in one.
    pub async fn wait(&self, access: &Access, pool: &[Server]) {
        let pause = self.lock().tried(
            pool,
            |words| access.needs_somebody(words),
            rand::rng().random(),
        );
        let until = pause.map(|pause| Instant::now() + pause);
        loop {
            let files = access.clone();
            // A disk that hangs is no reason to try, nor to stand still.
            let marks = tokio::task::spawn_blocking(move || files.marks()).await;
            let around = Around {
                marks: marks.unwrap_or_default(),
                changes: CHANGES.load(Ordering::Relaxed),
                clock_ahead: self.clock_ahead(),
            };
            let is_news = self.lock().looks(around);
            let left = until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if is_news || left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// How much further the clock has gone than time has, in seconds.
    fn clock_ahead(&self) -> i64 {
        let (began, then) = self.began;
        let should_be = then + began.elapsed();
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(should_be) {
            Ok(ahead) => seconds(ahead),
            Err(behind) => -seconds(behind.duration()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By what a file is known: another one in its place is another one.
type Mark = Option<(u64, u64, i64, i64)>;

impl Access {
    fn marks(&self) -> Vec<Mark> {
        let identity = self.tls.identity.iter();
        let identity = identity.flat_map(|(certificate, key)| [certificate, key]);
        [&self.credentials, &self.tls.ca]
            .into_iter()
            .chain(identity)
            .map(|path| mark(path))
            .collect()
    }
}

fn mark(path: &Path) -> Mark {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

/// What an attempt depends on here.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Around {
    marks: Vec<Mark>,
    changes: u64,
    clock_ahead: i64,
}

impl Around {
    fn differs(&self, other: &Self) -> bool {
        let set = self.clock_ahead.abs_diff(other.clock_ahead) > CLOCK_SET.as_secs();
        self.marks != other.marks || self.changes != other.changes || set
    }
}

#[derive(Debug, Default)]
struct State {
    /// Failed attempts of each server, as they were last looked at.
    failed: HashMap<String, usize>,
    /// Rounds in a row in which a server refused.
    in_row: u32,
    /// At the last attempt.
    around: Option<Around>,
}

impl State {
    /// A round is over, or the first has yet to begin. How long to wait, if somebody was refused in
    /// it; `random` is from 0 to 1.
    fn tried(
        &mut self,
        pool: &[Server],
        needs_somebody: impl Fn(&str) -> bool,
        random: f64,
    ) -> Option<Duration> {
        let mut refused = false;
        let mut failed = HashMap::new();
        for server in pool {
            let address = server.addr.as_url_str().to_owned();
            let before = self.failed.get(&address).copied().unwrap_or_default();
            // What a server said before the last round is old.
            refused |= server.failed_attempts > before
                && server.last_error.as_deref().is_some_and(&needs_somebody);
            failed.insert(address, server.failed_attempts);
        }
        self.failed = failed;
        if !refused {
            return None;
        }
        let whole = (PAUSE_MIN * 2_u32.pow(self.in_row.min(10))).min(PAUSE_MAX);
        self.in_row = self.in_row.saturating_add(1);
        Some(whole.mul_f64(0.5 + random / 2.0))
    }

    /// Whether something has changed since the last attempt, so that the next may succeed.
    fn looks(&mut self, around: Around) -> bool {
        let is_news = self
            .around
            .as_ref()
            .is_some_and(|last| around.differs(last));
        if is_news || self.around.is_none() {
            self.around = Some(around);
        }
        if is_news {
            self.in_row = 0;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn server(failed_attempts: usize, error: &str) -> Server {
        named("nats://a:4222", failed_attempts, error)
    }

    fn named(address: &str, failed_attempts: usize, error: &str) -> Server {
        Server {
            addr: address.parse().unwrap(),
            failed_attempts,
            did_connect: false,
            is_discovered: false,
            last_error: Some(error.to_owned()).filter(|e| !e.is_empty()),
        }
    }

    fn tried(state: &mut State, pool: &[Server]) -> Option<Duration> {
        let access = crate::tests::access("nats://a:4222");
        state.tried(pool, |words| access.needs_somebody(words), 0.5)
    }

    /// Attempts in a day in which each fails with these words.
    fn attempts(words: &str, longest: Option<Duration>) -> (usize, Duration) {
        let (mut state, mut at, mut count) = (State::default(), Duration::ZERO, 0);
        let mut last = Duration::ZERO;
        while at < longest.unwrap_or(DAY) {
            last = match tried(&mut state, &[server(count, words)]) {
                Some(pause) => pause,
                // As any loss.
                None => Duration::from_secs(4),
            };
            at += last;
            count += 1;
        }
        (count, last)
    }

    #[test]
    fn what_only_a_person_can_mend_is_tried_a_few_hundred_times_a_day() {
        for words in [
            "authorization violation: authorization violation",
            "failed signing nonce: expired",
            "IO error: invalid peer certificate: UnknownIssuer",
            "IO error: invalid peer certificate: certificate expired: verification time 1",
            "IO error: invalid peer certificate: certificate not valid yet: verification time 1",
            "IO error: invalid peer certificate: certificate not valid for name \"a\"",
            "IO error: received fatal alert: CertificateRequired",
            "TLS error: No such file or directory",
        ] {
            let (count, last) = attempts(words, None);
            assert!((150..=300).contains(&count), "{words}: {count}");
            assert!(
                last <= PAUSE_MAX && last >= PAUSE_MAX / 2,
                "{words}: {last:?}"
            );
            // And soon, while somebody may be at work on it.
            let (count, _) = attempts(words, Some(Duration::from_secs(60)));
            assert!(count >= 5, "{words}: {count}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_tried_as_ever() {
        for words in [
            "IO error: Connection refused (os error 111)",
            "IO error: Connection reset by peer (os error 104)",
            "DNS error: failed to lookup address information",
            "timed out",
            "IO error: expected INFO, got nothing",
            "IO error: maximum connections exceeded",
        ] {
            let (count, _) = attempts(words, None);
            assert_eq!(count, 24 * 900, "{words}");
        }
    }

    #[test]
    fn what_a_server_said_of_an_earlier_round_counts_no_more() {
        const REFUSED: &str = "authorization violation";
        let mut state = State::default();
        let mut pool = [named("nats://a:1", 0, ""), named("nats://b:1", 0, "")];
        assert_eq!(tried(&mut state, &pool), None, "nothing was tried");
        pool[0] = named("nats://a:1", 1, REFUSED);
        assert!(tried(&mut state, &pool).is_some());
        // A connection to the other one was made and lost.
        assert_eq!(tried(&mut state, &pool), None);
        pool[1] = named("nats://b:1", 1, "IO error: Connection refused");
        assert_eq!(tried(&mut state, &pool), None);
        pool[0] = named("nats://a:1", 2, REFUSED);
        assert!(tried(&mut state, &pool).is_some());
    }

    #[test]
    fn it_is_tried_at_once_when_something_has_changed_and_patience_begins_anew() {
        let around = Around {
            marks: vec![Some((1, 2, 3, 4)), None],
            changes: 7,
            clock_ahead: 0,
        };
        let others = [
            Around {
                marks: vec![Some((1, 2, 3, 5)), None],
                ..around.clone()
            },
            Around {
                marks: vec![Some((1, 2, 3, 4)), Some((1, 1, 1, 1))],
                ..around.clone()
            },
            Around {
                changes: 8,
                ..around.clone()
            },
            // From 1970 to today.
            Around {
                clock_ahead: 1_790_000_000,
                ..around.clone()
            },
        ];
        for other in others {
            let mut state = State::default();
            for failed in 1..20 {
                tried(&mut state, &[server(failed, "authorization violation")]);
            }
            assert!(
                !state.looks(around.clone()),
                "the first look has nothing to compare"
            );
            assert!(!state.looks(around.clone()));
            let slewed = Around {
                clock_ahead: 59,
                ..around.clone()
            };
            assert!(!state.looks(slewed));
            assert!(state.looks(other.clone()), "{other:?}");
            assert!(!state.looks(other), "news once");
            let next = tried(&mut state, &[server(20, "authorization violation")]);
            assert!(next.unwrap() <= PAUSE_MIN);
        }
    }

    #[test]
    fn another_file_in_the_place_of_one_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.creds");
        assert_eq!(mark(&path), None);
        fs::write(&path, "one").unwrap();
        let one = mark(&path);
        assert!(one.is_some());
        let next = dir.path().join("next");
        fs::write(&next, "two").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_ne!(mark(&path), one);
    }
}
