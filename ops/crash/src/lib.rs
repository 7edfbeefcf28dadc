//! Crash points: places in central and in the agent, each before or after something is written or
//! sent, where a test kills the process to see that a restart keeps every promise.
//!
//! A point has a name and a kind of what passes it (`append/start`). In a build without the feature
//! `armed`, [`reach`] is an empty function and [`ARMED`] is a constant `false`, so that nothing is
//! left of either. With it, the process dies by SIGKILL, with no destructor and no flush, when the
//! point that [`VARIABLE`] names is passed for the n-th time:
//!
//! ```text
//! EV_CRASH_POINT=append/start      at the first start that is about to be appended
//! EV_CRASH_POINT=commit/records:3  before the third commit of records
//! ```

/// Names the point, and after a colon at which hit.
pub const VARIABLE: &str = "EV_CRASH_POINT";

/// What a process that dies here has written last to standard error, before the point.
pub const LAST_WORDS: &str = "killed at crash point ";

/// Whether this build has crash points.
pub const ARMED: bool = cfg!(feature = "armed");

/// The kinds of what passes a point, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// Of what.
    pub kinds: &'static [&'static str],
}

/// What a frame is named after: the first of these that it has a record or a question of.
pub const FRAME_KINDS: &[&str] = &["start", "stop", "evt", "sync", "other"];

const ANSWER_KINDS: &[&str] = &["start", "stop", "evt", "sync", "other"];
const COMMAND_KINDS: &[&str] = &["start", "stop"];
const ONE: &[&str] = &["one"];

/// Central's points.
pub const CENTRAL: &[Point] = &[
    // Streams and bucket are there one by one.
    Point {
        name: "prepared",
        kinds: &["ledger", "cdr", "audit", "snapshots"],
    },
    // A frame is encoded and not sent.
    Point {
        name: "append",
        kinds: FRAME_KINDS,
    },
    // A frame is on the server's disk, and its appender does not know.
    Point {
        name: "appended",
        kinds: FRAME_KINDS,
    },
    // It is applied, and nothing has followed from it.
    Point {
        name: "applied",
        kinds: FRAME_KINDS,
    },
    // An answer is decided and not sent.
    Point {
        name: "answer",
        kinds: ANSWER_KINDS,
    },
    // A message to a driver, a watcher or a charge point has left.
    Point {
        name: "sent",
        kinds: ONE,
    },
    Point {
        name: "update",
        kinds: ONE,
    },
    Point {
        name: "command",
        kinds: COMMAND_KINDS,
    },
    // The charge point's answer is here and not recorded.
    Point {
        name: "command-answer",
        kinds: COMMAND_KINDS,
    },
    Point {
        name: "receipt",
        kinds: ONE,
    },
    // It is in the CDR stream, and central does not know.
    Point {
        name: "receipt-copied",
        kinds: ONE,
    },
    // A snapshot: not begun, stored, old ones deleted.
    Point {
        name: "snapshot",
        kinds: &["begin", "stored", "pruned"],
    },
];

/// What a commit of the agent's is named after: the first of these that it has a row of.
pub const COMMIT_KINDS: &[&str] = &[
    "command",
    "started",
    "phase",
    "energy-ended",
    "ended",
    "record",
    "free",
];

/// The agent's points.
pub const AGENT: &[Point] = &[
    // The store's tables are made and not committed.
    Point {
        name: "create",
        kinds: ONE,
    },
    // Rows are written and not committed.
    Point {
        name: "commit",
        kinds: COMMIT_KINDS,
    },
    // They are on the disk, and nothing has followed from it.
    Point {
        name: "committed",
        kinds: COMMIT_KINDS,
    },
    // A command is about to go to the charger, or has gone.
    Point {
        name: "hardware",
        kinds: COMMAND_KINDS,
    },
    Point {
        name: "hardware-asked",
        kinds: COMMAND_KINDS,
    },
    // The answer to a command is about to be sent, or has left.
    Point {
        name: "answer",
        kinds: COMMAND_KINDS,
    },
    Point {
        name: "answered",
        kinds: COMMAND_KINDS,
    },
    Point {
        name: "evt",
        kinds: ONE,
    },
    // Central has the records, and the spool does not know.
    Point {
        name: "evt-answer",
        kinds: ONE,
    },
    Point {
        name: "sync",
        kinds: ONE,
    },
    Point {
        name: "sync-answer",
        kinds: ONE,
    },
    Point {
        name: "heartbeat",
        kinds: ONE,
    },
    Point {
        name: "live",
        kinds: ONE,
    },
    // Somebody at the cabinet is about to be answered.
    Point {
        name: "cabinet",
        kinds: ONE,
    },
];

/// Passes a point.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub const fn reach(_name: &'static str, _kind: &'static str) {}

/// Passes a point, and dies there if it is the one.
///
/// # Panics
/// At a point that is in neither list: the tests would not know of it.
#[cfg(feature = "armed")]
pub fn reach(name: &'static str, kind: &'static str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static HITS: AtomicU32 = AtomicU32::new(0);

    let listed = |points: &[Point]| {
        points
            .iter()
            .any(|p| p.name == name && p.kinds.contains(&kind))
    };
    assert!(
        listed(CENTRAL) || listed(AGENT),
        "crash point {name}/{kind} is in no list"
    );
    if let Some((point, hit)) = wanted()
        && point.split_once('/') == Some((name, kind))
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *hit
    {
        eprintln!("{LAST_WORDS}{name}/{kind}:{hit}");
        // The system refuses nobody this.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }
}

#[cfg(feature = "armed")]
fn wanted() -> Option<&'static (String, u32)> {
    static WANTED: std::sync::OnceLock<Option<(String, u32)>> = std::sync::OnceLock::new();
    WANTED
        .get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            Some(match text.split_once(':') {
                None => (text, 1),
                Some((point, hit)) => (
                    point.to_owned(),
                    hit.parse()
                        .unwrap_or_else(|_| panic!("{VARIABLE}: {hit:?} is no count")),
                ),
            })
        })
        .as_ref()
}
