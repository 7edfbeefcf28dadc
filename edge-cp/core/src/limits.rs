//! Bounds that concern a charge point alone.

/// The shell gives a tick at least this often while something is under way. Timers are seconds; a
/// fifth of one is precise enough.
pub const TICK_MS: u64 = 200;
/// And this often while nothing is: limits and deadlines of a session that runs, or of none, are
/// told in seconds, and a process that serves thousands is woken for nothing otherwise.
pub const TICK_QUIET_MS: u64 = 1_000;

/// First wait before a hardware command is repeated. Chargers answer within a second.
pub const HW_RETRY_MS_MIN: u64 = 1_000;
/// Longest wait between repeats of a hardware command: a stop should follow soon after the charger
/// is back.
pub const HW_RETRY_MS_MAX: u64 = 30_000;

/// How long a start may stay without a device transaction before it is given up. Cars take up to
/// half a minute to negotiate.
pub const START_WAIT_MS: u64 = 60_000;

/// How long an unlock or reset waits for the charger's answer. Central asks again after that.
pub const HW_ANSWER_WAIT_MS: u64 = 4_000;

/// When the hardware says that a transaction is gone, how long its end may still be on the way.
pub const GONE_GRACE_MS: u64 = 5_000;

/// After an unplug, how long the hardware may take to end its transaction before it is asked to.
pub const UNPLUG_GRACE_MS: u64 = 3_000;

/// A transaction without a session that delivers energy waits so long to be claimed, then becomes
/// a session of its own. Long enough for a start command that is under way.
pub const UNCLAIMED_WAIT_MS: u64 = 10_000;

/// A transaction that began longer ago than this when it is reported is news from the past.
pub const FRESH_TX_MS: i64 = 5_000;

/// Transactions without a session kept on one connector. More means a charger that invents them.
pub const UNCLAIMED_MAX: usize = 8;

/// A device transaction without a start number belongs to a start if it began at most so long
/// before the start was sent: the time of the agent may be corrected in between.
pub const CLAIM_SLACK_MS: i64 = 10_000;

/// Between two checkpoints of a session: what may be lost when nothing more comes.
pub const CHECKPOINT_MS: u64 = 60_000;

/// A checkpoint falls on each quarter hour of wall time. All time zones in use have offsets of
/// whole quarters, so UTC will do.
pub const QUARTER_MS: i64 = 900_000;

/// How long a session that was started at the cabinet waits for a plug.
pub const LOCAL_PLUG_WAIT_S: u32 = 120;

/// Results of commands kept. A start dies with its deadline of seconds, a stop is answered from
/// the session when its result is gone. Half a MiB on the disk.
pub const COMMANDS_KEPT: usize = 1_000;
/// Ended sessions kept after their records have left the spool.
pub const ENDED_KEPT: usize = 1_000;
/// Device transactions kept, so that a repeated fact finds its own.
pub const TXS_KEPT: usize = 512;
/// Askers that wait for the same unlock or reset.
pub const WAITERS_MAX: usize = 8;
/// Commands that wait for the hardware at once.
pub const PENDING_MAX: usize = 32;

/// Anomalies recorded of one session. After that a broken meter would only fill the disk.
pub const ANOMALIES_MAX: u8 = 20;

/// Records without an own effect on the bill (checkpoints, phases) that wait in memory while the
/// disk fails: two days of checkpoints of one session. Beyond, only starts and ends are kept.
pub const UNSTORED_MAX: u64 = 3_000;

/// A time learned from central is taken only from a round trip up to this; a longer one bounds the
/// error too loosely.
pub const SYNC_ROUND_TRIP_MS_MAX: u64 = 5_000;
/// Drift of a cheap quartz with a wide margin, in parts per million.
pub const DRIFT_PPM: u64 = 100;
/// Above this error the time counts as unsure: a start lives 30 s.
pub const CLOCK_ERROR_MS_MAX: u64 = 5_000;
/// Wall time running ahead of the monotonic clock by more than this looks like a suspend.
pub const SUSPEND_MS: i64 = 2_000;

/// Wall and monotonic clock drifting apart by more than this was a step, in milliseconds.
pub const STEP_MS: u64 = 50;

/// What was written down under an unsure clock is moved with that clock when it is set by at least so
/// much. Less matters to nobody, and each move is a row in the store.
pub const MEND_MS_MIN: u64 = 1_000;
/// Moves of one stretch of unsure time. A clock that is set more often than this tells no time;
/// what was written down by then keeps what it said.
pub const MENDS_MAX: u32 = 100;

/// A time that must outlive the process is written down each time that this part of it is used up:
/// so much can be used again by a start of the agent whose clock does not tell how long it was away.
pub const TIME_MARK_PART: u64 = 20;
/// But not more often than this.
pub const TIME_MARK_MS_MIN: u64 = 1_000;

/// How far ahead of the host's wall clock a list of transactions may be stamped: drivers of hardware
/// translate their device's clock to within a second or so.
pub const AHEAD_MS_MAX: i64 = 2_000;

/// After boot, how long the charger may take to report before it counts as offline.
pub const LINK_WAIT_MS: u64 = 10_000;

/// First wait after an unanswered `evt`.
pub const EVT_RETRY_MS_MIN: u64 = 500;
/// Longest wait after unanswered `evt`s: a returning central is found within half a minute, and a
/// thousand charge points make some 50 requests a second meanwhile.
pub const EVT_RETRY_MS_MAX: u64 = 30_000;
/// Longest that central can make this charge point wait by telling it when to come back. A wrong
/// number there must not silence it.
pub const RETRY_AFTER_MS_MAX: u64 = 60_000;
/// An `evt` without an answer for so long is sent again. Central's answer takes milliseconds, and
/// seconds when thousands return at once: whoever asks again before it comes doubles what they wait
/// for.
pub const EVT_TIMEOUT_MS: u64 = 10_000;

/// Longest device transaction id and origin key, in bytes. OCPP allows 36.
pub const DEVICE_TEXT_BYTES_MAX: usize = 96;

/// Slack of the check for jumps of the register: so many seconds of full power.
pub const JUMP_SLACK_S: u64 = 10;
