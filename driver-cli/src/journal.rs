//! What was asked, on disk before it is sent.
//!
//! One file a request: `<state dir>/<driver>/requests/<request id>.json` (operators:
//! `op.<operator>`). A file is written beside its place, synced, renamed, and its folder synced, so
//! that after a crash there is all of it or none. A request without an outcome may have taken
//! effect; repeating it as it stands is safe for ever, since central answers a known id with its
//! first answer.
//!
//! An id that was used is never given another expiry, however long ago that was: central might
//! have forgotten the first, and would take the second for a new wish. Ids that are drawn here
//! contain the time from which their expiry follows. Ids that somebody chose are kept with theirs
//! in `<state dir>/<driver>/named` when their files go.
//!
//! Of several processes at once one writes and the others read: whoever writes holds
//! `<state dir>/<driver>/lock`.
//!
//! Calls block on the disk.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use ev_contract::{
    ids::{InvalidId, RequestId},
    limits::REQUEST_LIFE_MS_MAX,
    time::UnixMs,
    v1::TariffRef,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{command::Command, failure::Failure, identity::Who, quantity::TariffVersion};

/// Answered requests that are kept. They only serve a person who asks again for an answer.
const ANSWERED_MAX: usize = 100;

/// Unanswered requests that are kept after they have expired: what came of them is still open, so
/// that more of them are kept than of the others.
const UNANSWERED_MAX: usize = 400;

/// Longest time that a request is kept: central forgets refusals after an hour and the others
/// after 30 days.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Size of the list of chosen ids from which on no new one is taken: 150,000 of the longest and
/// 250,000 of usual length, in a file that is read in some milliseconds.
const NAMED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How long to wait for another process that writes. It writes a few small files, which takes a
/// second on the slowest disks.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Between two looks whether the other process is done.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// With what the ids begin that are drawn here. What follows is a UUID of version 7, whose time is
/// that of the stamp.
const DRAWN: &str = "cli-";

/// Version of the files.
const VERSION: u32 = 2;

/// The requests of one identity.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
    locked: PathBuf,
    named: PathBuf,
}

/// This moment by two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By this host's clock. What is judged against each other here is judged by it.
    pub own: UnixMs,
    /// By central's clock, as far as it is known. Expiries are stamped by it.
    pub central: UnixMs,
}

/// A request as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    /// When it was first written, by this host's clock.
    pub created_at: UnixMs,
    /// Since which boot of this host: a clock that nothing keeps alive shows the same time again
    /// after each.
    #[serde(default)]
    boot: String,
    /// Whether somebody chose its id.
    #[serde(default)]
    named: bool,
    /// The request.
    #[serde(flatten)]
    pub command: Command,
    /// What came of it; none while that is not known.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// The request that was sent instead, since central had refused this one for its expiry alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced_by: Option<RequestId>,
    /// Whether it was sent instead of another: then none is sent instead of it.
    #[serde(default)]
    replaces: bool,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `accepted`, `denied`, …
    pub status: String,
    /// The code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

impl Outcome {
    /// Nothing of it has reached anybody, so the same wish need not be this request again.
    #[must_use]
    pub fn unsent() -> Self {
        Self {
            status: "unsent".to_owned(),
            reason: None,
            session_id: None,
        }
    }
}

/// Where a prepared request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is new.
    New,
    /// It was asked for by its id and is repeated as it stands.
    Named,
    /// The same wish was sent a moment ago and never answered: it is repeated as it stands.
    Unanswered,
}

/// A request that is on disk and may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The request.
    pub command: Command,
    /// Where it comes from.
    pub found: Found,
}

impl Prepared {
    const fn named(command: Command) -> Self {
        Self {
            command,
            found: Found::Named,
        }
    }
}

impl Entry {
    /// A new one.
    fn new(command: &Command, named: bool, own: UnixMs) -> Self {
        Self {
            version: VERSION,
            created_at: own,
            boot: boot(),
            named,
            command: command.clone(),
            outcome: None,
            replaced_by: None,
            replaces: false,
        }
    }

    /// Whether it was written a moment ago, so that whoever wanted it still wants it. By this host's
    /// clock alone, which may not be central's.
    fn is_fresh(&self, own: UnixMs) -> bool {
        (0..REQUEST_LIFE_MS_MAX).contains(&own.ms_since(self.created_at)) && self.boot == boot()
    }

    /// Also one of the future: then the clock was set back, and to repeat it is safe.
    const fn may_be_repeated_unasked(&self, own: UnixMs) -> bool {
        self.outcome.is_none()
            && self.replaced_by.is_none()
            && own.ms_since(self.created_at) < REQUEST_LIFE_MS_MAX
    }

    fn is_unsent(&self) -> bool {
        self.outcome == Some(Outcome::unsent())
    }
}

impl Journal {
    /// The journal of `who` under the state folder. Touches nothing.
    #[must_use]
    pub fn new(state_dir: &Path, who: &Who) -> Self {
        let own = state_dir.join(who.folder());
        Self {
            folder: own.join("requests"),
            locked: own.join("lock"),
            named: own.join("named"),
        }
    }

    /// Makes a wish ready to be sent: with its id and expiry, and on disk. A wish that names an id
    /// that was used gets the request of that id; one that equals an unanswered request of a moment
    /// ago gets that one; any other gets an id of its own, and the price that was `seen` where it
    /// names none. Of several processes at once that name
    /// one id, all get the same request.
    ///
    /// # Errors
    /// When the id belongs to another wish, or the disk refuses: then nothing may be sent.
    pub fn prepare(
        &self,
        wish: &Command,
        seen: Option<&TariffRef>,
        named: Option<&RequestId>,
        at: Moment,
    ) -> Result<Prepared, Failure> {
        let _lock = self.lock()?;
        if let Some(named) = named {
            if let Some(used) = self.used(wish, named)? {
                return Ok(used);
            }
            if self.is_full()? {
                return Err(Failure::Other {
                    message: format!(
                        "no more request ids can be remembered in {}",
                        self.named.display()
                    ),
                    hint: "leave --request-id out, or begin another folder with --state-dir; \
                           nothing was sent"
                        .to_owned(),
                });
            }
        } else if let Some(entry) = self
            .entries()
            .into_iter()
            .filter(|e| e.may_be_repeated_unasked(at.own))
            .find(|e| e.command.is_for(wish))
        {
            return Ok(Prepared {
                command: entry.command,
                found: Found::Unanswered,
            });
        }
        let (id, expires_at) = match named {
            Some(named) => (named.clone(), at.central.plus_ms(REQUEST_LIFE_MS_MAX)),
            None => drawn(at.central)
                .map_err(|e| Failure::usage(e.to_string(), "give one with --request-id"))?,
        };
        let command = wish.clone().priced(seen).stamped(id.as_str(), expires_at.0);
        self.put(&Entry::new(&command, named.is_some(), at.own))?;
        self.prune(at.own);
        Ok(Prepared {
            command,
            found: Found::New,
        })
    }

    /// The request of an id that was used before, as it was sent.
    fn used(&self, wish: &Command, id: &RequestId) -> Result<Option<Prepared>, Failure> {
        if let Some(mut entry) = self.read(id)? {
            if !entry.command.is_for(wish) {
                return Err(Failure::usage(
                    format!(
                        "request id {id} was used for {}, which is something else",
                        entry.command.in_words()
                    ),
                    "repeat that command as it was, or leave --request-id out for a new wish",
                ));
            }
            if let Some(last) = &entry.replaced_by {
                match self.read(last)? {
                    Some(replacing) => entry = replacing,
                    None => return Ok(restamped(&entry.command, last).map(Prepared::named)),
                }
            }
            if entry.is_unsent() {
                // From now on it may have been sent.
                entry.outcome = None;
                self.put(&entry)?;
            }
            return Ok(Some(Prepared::named(entry.command)));
        }
        if let Some(command) = restamped(wish, id) {
            return Ok(Some(Prepared::named(command)));
        }
        Ok(self.remembered(id)?.map(|stamp| {
            let wish = wish.clone().priced(stamp.price.as_ref());
            Prepared::named(wish.stamped(&stamp.last, stamp.expires_at))
        }))
    }

    /// Whether an id was used before, as far as is known here.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn knows(&self, id: &RequestId) -> Result<bool, Failure> {
        Ok(
            self.read(id)?.is_some()
                || drawn_expiry(id).is_some()
                || self.remembered(id)?.is_some(),
        )
    }

    /// The request to send instead of one that central has refused for its expiry alone, and will
    /// never accept: once, on disk, and linked with the first, so that a repeat of the first finds
    /// it. None where the wish is no longer fresh: then the refusal is what came of it.
    ///
    /// # Errors
    /// When the disk refuses: then nothing may be sent.
    pub fn replace(&self, refused: &Command, at: Moment) -> Result<Option<Prepared>, Failure> {
        let _lock = self.lock()?;
        let Ok(id) = RequestId::new(refused.stamp().0) else {
            return Ok(None);
        };
        let Some(mut entry) = self.read(&id)? else {
            return Ok(None);
        };
        if let Some(last) = &entry.replaced_by {
            // Another process was faster.
            let command = match self.read(last)? {
                Some(replacing) => Some(replacing.command),
                None => restamped(refused, last),
            };
            return Ok(command.map(Prepared::named));
        }
        if entry.replaces || !entry.is_fresh(at.own) {
            return Ok(None);
        }
        let (last, expires_at) =
            drawn(at.central).map_err(|e| Failure::usage(e.to_string(), "ask again"))?;
        let command = refused.clone().stamped(last.as_str(), expires_at.0);
        self.put(&Entry {
            replaces: true,
            ..Entry::new(&command, false, at.own)
        })?;
        entry.replaced_by = Some(last);
        self.put(&entry)?;
        Ok(Some(Prepared {
            command,
            found: Found::New,
        }))
    }

    /// Notes what came of a request.
    ///
    /// # Errors
    /// When the disk refuses. The request itself is unharmed: a repeat gets the same answer.
    pub fn settle(&self, command: &Command, outcome: Outcome) -> Result<(), Failure> {
        let id = RequestId::new(command.stamp().0)
            .map_err(|e| Failure::usage(e.to_string(), "use the request id that was printed"))?;
        let _lock = self.lock()?;
        let Some(mut entry) = self.read(&id)? else {
            return Ok(());
        };
        entry.outcome = Some(outcome);
        self.write(&entry)
            .map_err(|source| self.disk("note the answer", source))
    }

    /// The newest unanswered request of a moment ago that `pick` likes.
    #[must_use]
    pub fn unanswered(&self, own: UnixMs, pick: impl Fn(&Command) -> bool) -> Option<Command> {
        self.entries()
            .into_iter()
            .filter(|e| e.may_be_repeated_unasked(own))
            .map(|e| e.command)
            .find(|c| pick(c))
    }

    /// Every readable request, newest first. What cannot be read is passed over: it is not ours.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let Ok(listing) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut entries: Vec<Entry> = listing
            .filter_map(Result::ok)
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .filter_map(|path| fs::read(path).ok())
            .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
            .collect();
        entries.sort_by_key(|e| std::cmp::Reverse(e.created_at));
        entries
    }

    /// Whether a file can be written, synced and removed where requests are kept.
    ///
    /// # Errors
    /// The system's answer.
    pub fn probe(&self) -> Result<&Path, Failure> {
        let path = self.folder.join(format!(".probe.{}", std::process::id()));
        self.make_folder()
            .and_then(|()| write_synced(&path, b"probe"))
            .and_then(|()| fs::remove_file(&path))
            .map_err(|source| self.disk("write to the state folder", source))?;
        Ok(&self.folder)
    }

    /// Waits until nobody else writes. Ends with what it returns, or with the process.
    fn lock(&self) -> Result<File, Failure> {
        let doing = "lock the stored requests";
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        private(&mut options);
        let file = self
            .make_folder()
            .and_then(|()| options.open(&self.locked))
            .map_err(|source| self.disk(doing, source))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT_MAX => {
                    thread::sleep(LOCK_LOOK);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Failure::File {
                        doing: format!("{doing} ({})", self.locked.display()),
                        hint: "another driver-cli of this identity has held the lock for seconds; \
                               look whether it was stopped (Ctrl-Z), then ask again; nothing was sent"
                            .to_owned(),
                        source: io::ErrorKind::WouldBlock.into(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(self.disk(doing, source)),
            }
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn read(&self, id: &RequestId) -> Result<Option<Entry>, Failure> {
        let path = self.path(id.as_str());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.disk("read the stored request", source)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Failure::File {
                doing: format!("read {}", path.display()),
                hint: "look at `status`, then ask under another request id".to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidData, e),
            })
    }

    fn put(&self, entry: &Entry) -> Result<(), Failure> {
        self.write(entry)
            .map_err(|source| self.disk("write the request down before sending it", source))
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        self.make_folder()?;
        let id = entry.command.stamp().0;
        let bytes = serde_json::to_vec_pretty(entry)?;
        let draft = self
            .folder
            .join(format!(".{id}.{}.tmp", std::process::id()));
        write_synced(&draft, &bytes)?;
        fs::rename(&draft, self.path(id))?;
        File::open(&self.folder)?.sync_all()
    }

    fn make_folder(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt;
            // Where somebody charges is nobody else's business.
            builder.mode(0o700);
        }
        builder.create(&self.folder)?;
        // Each new name must survive a power cut, not only the last.
        for parent in self.folder.ancestors().skip(1).take(3) {
            if let Ok(folder) = File::open(parent) {
                folder.sync_all()?;
            }
        }
        Ok(())
    }

    /// Removes what is old or beyond the count, and drafts that a crash left. Never a request
    /// that may still be repeated by itself, nor one whose chosen id could not be remembered. A file
    /// that does not go is no reason to stop.
    fn prune(&self, own: UnixMs) {
        let kept_ms = i64::try_from(KEPT_FOR.as_millis()).unwrap_or(i64::MAX);
        let (mut answered, mut unanswered) = (0_usize, 0_usize);
        let mut go = self.entries();
        go.retain(|entry| {
            if entry.may_be_repeated_unasked(own) && entry.is_fresh(own) {
                return false;
            }
            let (kept, most) = match entry.outcome {
                Some(_) => (&mut answered, ANSWERED_MAX),
                None => (&mut unanswered, UNANSWERED_MAX),
            };
            *kept += 1;
            *kept > most || own.ms_since(entry.created_at) > kept_ms
        });
        let is_remembered = self.remember(&go).is_ok();
        for entry in go.iter().filter(|e| is_remembered || !e.named) {
            let _ = fs::remove_file(self.path(entry.command.stamp().0));
        }
        let Ok(listing) = fs::read_dir(&self.folder) else {
            return;
        };
        for file in listing.filter_map(Result::ok) {
            let stale = file
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|at| SystemTime::now().duration_since(at).ok())
                .is_some_and(|age| age > Duration::from_secs(3600));
            if stale && file.file_name().to_string_lossy().ends_with(".tmp") {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Adds the chosen ids among `entries` to the list of those that were used.
    fn remember(&self, entries: &[Entry]) -> io::Result<()> {
        let lines: String = entries
            .iter()
            .filter(|e| e.named)
            .map(|e| Stamp::of(e).to_string())
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        private(&mut options);
        let mut file = options.open(&self.named)?;
        // What a crash cut off ends here: its request still has its file.
        let is_cut_off = file.metadata()?.len() > 0 && {
            let mut last = [0];
            file.seek(io::SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        let begin = if is_cut_off { "\n" } else { "" };
        file.write_all(format!("{begin}{lines}").as_bytes())?;
        file.sync_all()?;
        match self.named.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn remembered(&self, id: &RequestId) -> Result<Option<Stamp>, Failure> {
        let text = match fs::read_to_string(&self.named) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.disk("read which request ids were used", source)),
        };
        Ok(text
            .lines()
            .filter_map(Stamp::read)
            .find(|stamp| stamp.id == id.as_str()))
    }

    fn is_full(&self) -> Result<bool, Failure> {
        match fs::metadata(&self.named) {
            Ok(found) => Ok(found.len() >= NAMED_BYTES_MAX),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.disk("read which request ids were used", source)),
        }
    }

    fn disk(&self, doing: &str, source: io::Error) -> Failure {
        Failure::File {
            doing: format!("{doing} ({})", self.folder.display()),
            hint: "make the folder writable or name another with --state-dir; nothing was sent"
                .to_owned(),
            source,
        }
    }
}

/// In place of a price in the list of chosen ids.
const NO_PRICE: &str = "-";

/// A line of the list of chosen ids: what a request was stamped with that has no file any more.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    id: String,
    /// The id under which it was sent last.
    last: String,
    expires_at: i64,
    price: Option<TariffRef>,
}

impl Stamp {
    fn of(entry: &Entry) -> Self {
        let (id, expires_at) = entry.command.stamp();
        let replaced = entry
            .replaced_by
            .as_ref()
            .and_then(|last| Some((last.to_string(), drawn_expiry(last)?.0)));
        let (last, expires_at) = replaced.unwrap_or_else(|| (id.to_owned(), expires_at));
        Self {
            id: id.to_owned(),
            last,
            expires_at,
            price: entry.command.price().cloned(),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let stamp = Self {
            id: words.next()?.to_owned(),
            last: words.next()?.to_owned(),
            expires_at: words.next()?.parse().ok()?,
            price: match words.next()? {
                NO_PRICE => None,
                price => Some(price.parse::<TariffVersion>().ok()?.0),
            },
        };
        // Without the last word the line is cut off, perhaps within a number.
        (words.next() == Some(".")).then_some(stamp)
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} ", self.id, self.last, self.expires_at)?;
        match &self.price {
            None => write!(f, "{NO_PRICE}")?,
            Some(price) => write!(f, "{}", TariffVersion(price.clone()))?,
        }
        writeln!(f, " .")
    }
}

/// This boot of this host; where that cannot be told, clocks are believed.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// A new id and the expiry that follows from it.
fn drawn(at: UnixMs) -> Result<(RequestId, UnixMs), InvalidId> {
    // Before 1970 there is no such id.
    let ms = u64::try_from(at.0).unwrap_or(0);
    let uuid = uuid::Builder::from_unix_timestamp_millis(ms, &rand::random()).into_uuid();
    let id = RequestId::new(format!("{DRAWN}{uuid}"))?;
    let expires_at = drawn_expiry(&id).unwrap_or(at);
    Ok((id, expires_at))
}

/// The expiry of a request whose id was drawn here.
fn drawn_expiry(id: &RequestId) -> Option<UnixMs> {
    let uuid = Uuid::parse_str(id.as_str().strip_prefix(DRAWN)?).ok()?;
    let ms = uuid.as_u128() >> 80;
    (uuid.get_version_num() == 7)
        .then(|| UnixMs(i64::try_from(ms).unwrap_or(i64::MAX)).plus_ms(REQUEST_LIFE_MS_MAX))
}

/// A wish under an id that was drawn here, to the byte as it was sent then.
fn restamped(wish: &Command, id: &RequestId) -> Option<Command> {
    drawn_expiry(id).map(|expires_at| wish.clone().stamped(id.as_str(), expires_at.0))
}

fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private(&mut options);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    const NOW: UnixMs = UnixMs(1_700_000_000_000);
    const HOUR: i64 = 3_600_000;

    fn journal(folder: &tempfile::TempDir) -> Journal {
        Journal::new(folder.path(), &Who::Driver("alice".parse().unwrap()))
    }

    fn id(text: &str) -> RequestId {
        text.parse().unwrap()
    }

    fn wish() -> Command {
        Command::start("CP-001".into(), Some(1), None)
    }

    fn at(own: UnixMs) -> Moment {
        Moment { own, central: own }
    }

    fn accepted() -> Outcome {
        Outcome {
            status: "accepted".into(),
            reason: None,
            session_id: None,
        }
    }

    fn refused() -> Outcome {
        Outcome {
            status: "denied".into(),
            ..accepted()
        }
    }

    #[test]
    fn a_crash_between_writing_and_sending_leaves_a_request_that_is_repeated_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let before = journal(&folder)
            .prepare(&wish(), None, None, at(NOW))
            .unwrap();
        assert_eq!(before.found, Found::New);
        // Another process, ten seconds later.
        let after = journal(&folder)
            .prepare(&wish(), None, None, at(NOW.plus_ms(10_000)))
            .unwrap();
        assert_eq!(after.found, Found::Unanswered);
        assert_eq!(
            after.command.bytes().unwrap(),
            before.command.bytes().unwrap()
        );
        let printed = id(before.command.stamp().0);
        let named = journal(&folder)
            .prepare(&wish(), None, Some(&printed), at(NOW.plus_ms(90_000)))
            .unwrap();
        assert_eq!(named.found, Found::Named);
        assert_eq!(named.command, before.command);
    }

    #[test]
    fn an_answered_or_expired_request_is_not_repeated_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let first = journal.prepare(&wish(), None, None, at(NOW)).unwrap();
        journal.settle(&first.command, accepted()).unwrap();
        let second = journal.prepare(&wish(), None, None, at(NOW)).unwrap();
        assert_eq!(second.found, Found::New);
        assert_ne!(second.command.stamp().0, first.command.stamp().0);
        let later = at(NOW.plus_ms(REQUEST_LIFE_MS_MAX));
        let third = journal.prepare(&wish(), None, None, later).unwrap();
        assert_eq!(third.found, Found::New);
        assert_ne!(third.command.stamp().0, second.command.stamp().0);
    }

    #[test]
    fn what_was_not_answered_is_repeated_by_this_hosts_clock_though_it_is_stamped_by_centrals() {
        for offset in [-2 * HOUR, 2 * HOUR] {
            let folder = tempfile::tempdir().unwrap();
            let journal = journal(&folder);
            let moment = |own: UnixMs| Moment {
                own,
                central: own.plus_ms(offset),
            };
            let first = journal.prepare(&wish(), None, None, moment(NOW)).unwrap();
            let central_s = NOW.plus_ms(offset + REQUEST_LIFE_MS_MAX);
            assert_eq!(first.command.stamp().1, central_s.0);
            let soon = moment(NOW.plus_ms(REQUEST_LIFE_MS_MAX - 1));
            let again = journal.prepare(&wish(), None, None, soon).unwrap();
            assert_eq!(
                (again.found, &again.command),
                (Found::Unanswered, &first.command)
            );
            let late = moment(NOW.plus_ms(REQUEST_LIFE_MS_MAX));
            assert_eq!(
                journal.prepare(&wish(), None, None, late).unwrap().found,
                Found::New
            );
        }
    }

    #[test]
    fn another_wish_is_a_new_request() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal.prepare(&wish(), None, None, at(NOW)).unwrap();
        let other = Command::start("CP-002".into(), None, None);
        let prepared = journal.prepare(&other, None, None, at(NOW)).unwrap();
        assert_eq!(prepared.found, Found::New);
    }

    #[test]
    fn a_stored_id_with_another_wish_is_refused_here() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal
            .prepare(&wish(), None, Some(&id("r-1")), at(NOW))
            .unwrap();
        let other = Command::start("CP-002".into(), None, None);
        let failure = journal
            .prepare(&other, None, Some(&id("r-1")), at(NOW))
            .unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.message().contains("CP-001/1"), "{failure}");
    }

    #[test]
    fn a_torn_draft_is_no_request() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal
            .prepare(&wish(), None, Some(&id("r-1")), at(NOW))
            .unwrap();
        fs::write(journal.folder.join(".r-9.1.tmp"), b"{\"verb\":\"sta").unwrap();
        fs::write(journal.folder.join("r-8.json"), b"{\"verb\":\"sta").unwrap();
        assert_eq!(journal.entries().len(), 1);
        assert!(
            journal
                .prepare(&wish(), None, Some(&id("r-8")), at(NOW))
                .is_err()
        );
    }

    /// So many later requests that nothing of before has a file any more.
    fn many_later(journal: &Journal, own: UnixMs) {
        for n in 0..ANSWERED_MAX + UNANSWERED_MAX + 10 {
            let (drawn, expires_at) = drawn(own).unwrap();
            let other =
                Command::start(format!("CP-{n}"), None, None).stamped(drawn.as_str(), expires_at.0);
            let outcome = (n < ANSWERED_MAX + 5).then(accepted);
            let entry = Entry {
                outcome,
                ..Entry::new(&other, false, own)
            };
            journal.put(&entry).unwrap();
        }
        // None of them is repeated unasked any more, so that they count.
        let end = own.plus_ms(REQUEST_LIFE_MS_MAX);
        journal.prepare(&wish(), None, None, at(end)).unwrap();
    }

    #[test]
    fn a_used_id_is_never_stamped_anew_however_many_requests_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let chosen = id("order-4711");
        let settled = id("order-4712");
        let seen = TariffRef {
            tariff_id: "day".into(),
            version: 7,
        };
        let named = journal
            .prepare(&wish(), Some(&seen), Some(&chosen), at(NOW))
            .unwrap();
        assert_eq!(named.command.price(), Some(&seen));
        let other = journal
            .prepare(&wish(), None, Some(&settled), at(NOW))
            .unwrap();
        journal.settle(&other.command, refused()).unwrap();
        let drawn = journal
            .prepare(&Command::stop("s".into()), None, None, at(NOW))
            .unwrap();
        let drawn_id = id(drawn.command.stamp().0);
        many_later(&journal, NOW.plus_ms(HOUR));
        for gone in [&chosen, &settled, &drawn_id] {
            assert!(journal.read(gone).unwrap().is_none(), "{gone} has a file");
            assert!(journal.knows(gone).unwrap(), "{gone}");
        }
        assert!(!journal.knows(&id("order-4713")).unwrap());
        let later = at(NOW.plus_ms(40 * 24 * HOUR));
        for (id, wish, first) in [
            (&chosen, wish(), &named),
            (&settled, wish(), &other),
            (&drawn_id, Command::stop("s".into()), &drawn),
        ] {
            let again = journal.prepare(&wish, None, Some(id), later).unwrap();
            assert_eq!(again.found, Found::Named, "{id}");
            assert_eq!(
                again.command.bytes().unwrap(),
                first.command.bytes().unwrap(),
                "{id}"
            );
        }
        // Nor is it sent anew under another id, whatever central says of it.
        assert_eq!(journal.replace(&named.command, later).unwrap(), None);
    }

    #[test]
    fn a_list_of_ids_that_was_cut_off_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let prepare = |name: &str| {
            let named = journal
                .prepare(&wish(), None, Some(&id(name)), at(NOW))
                .unwrap();
            let entry = journal.read(&id(name)).unwrap().unwrap();
            (named.command, entry)
        };
        let ((_, one), (two, entry)) = (prepare("one"), prepare("two"));
        journal.remember(std::slice::from_ref(&one)).unwrap();
        let whole = fs::read_to_string(&journal.named).unwrap();
        // The last figure of the expiry is missing, and what says that it is the last.
        fs::write(&journal.named, &whole[..whole.len() - 4]).unwrap();
        assert_eq!(journal.remembered(&id("one")).unwrap(), None);
        journal.remember(&[entry]).unwrap();
        let stamp = journal.remembered(&id("two")).unwrap().unwrap();
        assert_eq!((stamp.last.as_str(), stamp.expires_at), two.stamp());
    }

    #[test]
    fn a_full_list_takes_no_new_id_and_still_knows_the_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let first = journal
            .prepare(&wish(), None, Some(&id("one")), at(NOW))
            .unwrap();
        fs::write(&journal.named, vec![b'\n'; NAMED_BYTES_MAX as usize]).unwrap();
        let failure = journal
            .prepare(&wish(), None, Some(&id("two")), at(NOW))
            .unwrap_err();
        assert!(
            failure.message().contains("no more request ids"),
            "{failure}"
        );
        assert!(journal.read(&id("two")).unwrap().is_none());
        let again = journal
            .prepare(&wish(), None, Some(&id("one")), at(NOW))
            .unwrap();
        assert_eq!(again.command, first.command);
        let drawn = Command::start("CP-002".into(), None, None);
        assert_eq!(
            journal.prepare(&drawn, None, None, at(NOW)).unwrap().found,
            Found::New
        );
    }

    #[test]
    fn what_is_refused_for_a_wrong_clock_is_sent_once_more_and_found_under_the_first_id() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let first = journal
            .prepare(&wish(), None, Some(&id("order-1")), at(NOW))
            .unwrap();
        journal.settle(&first.command, refused()).unwrap();
        let told = Moment {
            own: NOW.plus_ms(50),
            central: NOW.plus_ms(2 * HOUR),
        };
        let second = journal.replace(&first.command, told).unwrap().unwrap();
        assert_eq!(second.found, Found::New);
        let (second_id, expires_at) = second.command.stamp();
        assert_ne!(second_id, "order-1");
        assert_eq!(expires_at, told.central.plus_ms(REQUEST_LIFE_MS_MAX).0);
        // Another process that was told the same of the first.
        let other = journal.replace(&first.command, told).unwrap().unwrap();
        assert_eq!(
            (other.found, &other.command),
            (Found::Named, &second.command)
        );
        // Once: what is refused again stays so.
        journal.settle(&second.command, refused()).unwrap();
        assert_eq!(journal.replace(&second.command, told).unwrap(), None);
        let repeat = |named: &str| {
            let later = at(NOW.plus_ms(60 * 24 * HOUR));
            journal
                .prepare(&wish(), None, Some(&id(named)), later)
                .unwrap()
        };
        for round in ["with its files", "without them"] {
            for named in ["order-1", second_id] {
                let again = repeat(named);
                assert_eq!(again.command, second.command, "{named}, {round}");
                assert_eq!(again.found, Found::Named, "{named}, {round}");
            }
            many_later(&journal, NOW.plus_ms(HOUR));
        }
        assert!(journal.read(&id("order-1")).unwrap().is_none());
    }

    #[test]
    fn what_was_wanted_long_ago_is_not_sent_again_when_central_says_that_it_has_expired() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let first = journal
            .prepare(&wish(), None, Some(&id("r-1")), at(NOW))
            .unwrap();
        for later in [REQUEST_LIFE_MS_MAX, -1, -HOUR] {
            let told = at(NOW.plus_ms(later));
            assert_eq!(
                journal.replace(&first.command, told).unwrap(),
                None,
                "{later}"
            );
        }
        // The same time after another boot, by a clock that nothing keeps alive.
        let mut entry = journal.read(&id("r-1")).unwrap().unwrap();
        entry.boot = "another".into();
        journal.put(&entry).unwrap();
        assert_eq!(journal.replace(&first.command, at(NOW)).unwrap(), None);
    }

    #[test]
    fn what_reached_nobody_may_have_been_sent_once_it_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let first = journal
            .prepare(&wish(), None, Some(&id("r-1")), at(NOW))
            .unwrap();
        journal.settle(&first.command, Outcome::unsent()).unwrap();
        assert_eq!(journal.unanswered(NOW, |_| true), None);
        journal
            .prepare(&wish(), None, Some(&id("r-1")), at(NOW))
            .unwrap();
        assert_eq!(journal.unanswered(NOW, |_| true), Some(first.command));
    }

    #[test]
    fn old_requests_go_and_open_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let open = journal.prepare(&wish(), None, None, at(NOW)).unwrap();
        for n in 0..ANSWERED_MAX + 20 {
            let other = Command::start(format!("CP-{n}"), None, None);
            let done = journal.prepare(&other, None, None, at(NOW)).unwrap();
            journal.settle(&done.command, accepted()).unwrap();
        }
        let entries = journal.entries();
        assert!(entries.len() <= ANSWERED_MAX + 2, "{}", entries.len());
        assert!(entries.iter().any(|e| e.command == open.command));
    }

    #[test]
    fn whoever_waits_for_the_lock_gives_up_with_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let held = journal.lock().unwrap();
        let failure = journal.prepare(&wish(), None, None, at(NOW)).unwrap_err();
        assert!(failure.hint().contains("nothing was sent"), "{failure}");
        drop(held);
        journal.prepare(&wish(), None, None, at(NOW)).unwrap();
    }

    #[test]
    fn operators_and_drivers_of_one_name_have_folders_of_their_own() {
        let driver = Who::Driver("olga".parse().unwrap());
        let operator = Who::Operator("olga".parse().unwrap());
        assert_ne!(driver.folder(), operator.folder());
    }
}
