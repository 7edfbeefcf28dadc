//! What was asked, on disk before it is sent.
//!
//! One file a request: `<state dir>/<driver>/requests/<request id>.json` (operators:
//! `op.<operator>`). A file is written beside its place, synced, renamed, and its folder synced, so
//! that after a crash there is all of it or none. A request without an outcome may have taken
//! effect; repeating it as it stands is safe for ever, since central answers a known id with its
//! first answer.
//!
//! Calls block on the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ev_contract::{ids::RequestId, limits::REQUEST_LIFE_MS_MAX, time::UnixMs};
use serde::{Deserialize, Serialize};

use crate::{command::Command, failure::Failure, identity::Who};

/// Settled requests that are kept. They only serve a person who asks again for an answer.
const KEPT_MAX: usize = 100;

/// Longest time that a request is kept: central forgets refusals after an hour and the others
/// after 30 days.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Version of the files.
const VERSION: u32 = 1;

/// The requests of one identity.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

/// A request as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    /// When it was first written.
    pub created_at: UnixMs,
    /// The request.
    #[serde(flatten)]
    pub command: Command,
    /// What came of it; none while that is not known.
    #[serde(default)]
    pub outcome: Option<Outcome>,
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

impl Journal {
    /// The journal of `who` under the state folder. Touches nothing.
    #[must_use]
    pub fn new(state_dir: &Path, who: &Who) -> Self {
        Self {
            folder: state_dir.join(who.folder()).join("requests"),
        }
    }

    /// Makes a wish ready to be sent: with its id and expiry, and on disk. A wish that names a
    /// stored id gets the stored request; one that equals an unanswered, unexpired request gets
    /// that one; any other gets `fresh` as its id.
    ///
    /// # Errors
    /// When the id belongs to another wish, or the disk refuses: then nothing may be sent.
    pub fn prepare(
        &self,
        wish: &Command,
        named: Option<&RequestId>,
        fresh: &RequestId,
        now: UnixMs,
    ) -> Result<Prepared, Failure> {
        if let Some(named) = named {
            if let Some(entry) = self.read(named)? {
                return if entry.command.same_wish(wish) {
                    Ok(Prepared {
                        command: entry.command,
                        found: Found::Named,
                    })
                } else {
                    Err(Failure::usage(
                        format!(
                            "request id {named} was used for {}, which is something else",
                            entry.command.in_words()
                        ),
                        "repeat that command as it was, or leave --request-id out for a new wish",
                    ))
                };
            }
        } else if let Some(entry) = self
            .entries()
            .into_iter()
            .filter(|e| e.outcome.is_none() && e.command.stamp().1 > now.0)
            .find(|e| e.command.same_wish(wish))
        {
            return Ok(Prepared {
                command: entry.command,
                found: Found::Unanswered,
            });
        }
        let id = named.unwrap_or(fresh);
        let command = wish
            .clone()
            .stamped(id.as_str(), now.plus_ms(REQUEST_LIFE_MS_MAX).0);
        self.write(&Entry {
            version: VERSION,
            created_at: now,
            command: command.clone(),
            outcome: None,
        })
        .map_err(|source| self.disk("write the request down before sending it", source))?;
        self.prune(now);
        Ok(Prepared {
            command,
            found: Found::New,
        })
    }

    /// Notes what came of a request.
    ///
    /// # Errors
    /// When the disk refuses. The request itself is unharmed: a repeat gets the same answer.
    pub fn settle(&self, command: &Command, outcome: Outcome) -> Result<(), Failure> {
        let id = RequestId::new(command.stamp().0)
            .map_err(|e| Failure::usage(e.to_string(), "use the request id that was printed"))?;
        let Some(mut entry) = self.read(&id)? else {
            return Ok(());
        };
        entry.outcome = Some(outcome);
        self.write(&entry)
            .map_err(|source| self.disk("note the answer", source))
    }

    /// The newest request without an outcome that has not expired and that `pick` likes.
    #[must_use]
    pub fn unanswered(&self, now: UnixMs, pick: impl Fn(&Command) -> bool) -> Option<Command> {
        self.entries()
            .into_iter()
            .filter(|e| e.outcome.is_none() && e.command.stamp().1 > now.0)
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
                hint: "move the file away; then look at `status` before you ask again".to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidData, e),
            })
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        self.make_folder()?;
        let id = entry.command.stamp().0;
        let bytes = serde_json::to_vec_pretty(entry)?;
        // The process id keeps two programs apart that repeat the same request at once.
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
    /// that may still be repeated by itself. A file that does not go is no reason to stop.
    fn prune(&self, now: UnixMs) {
        let kept_ms = i64::try_from(KEPT_FOR.as_millis()).unwrap_or(i64::MAX);
        let mut kept = 0_usize;
        for entry in self.entries() {
            let (id, expires_at) = entry.command.stamp();
            if entry.outcome.is_none() && expires_at > now.0 {
                continue;
            }
            kept += 1;
            if kept > KEPT_MAX || now.ms_since(entry.created_at) > kept_ms {
                let _ = fs::remove_file(self.path(id));
            }
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

    fn disk(&self, doing: &str, source: io::Error) -> Failure {
        Failure::File {
            doing: format!("{doing} ({})", self.folder.display()),
            hint: "make the folder writable or name another with --state-dir; nothing was sent"
                .to_owned(),
            source,
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    fn journal(folder: &tempfile::TempDir) -> Journal {
        Journal::new(folder.path(), &Who::Driver("alice".parse().unwrap()))
    }

    fn id(text: &str) -> RequestId {
        text.parse().unwrap()
    }

    fn wish() -> Command {
        Command::start("CP-001".into(), Some(1), None)
    }

    fn accepted() -> Outcome {
        Outcome {
            status: "accepted".into(),
            reason: None,
            session_id: None,
        }
    }

    #[test]
    fn a_crash_between_writing_and_sending_leaves_a_request_that_is_repeated_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let before = journal(&folder)
            .prepare(&wish(), None, &id("r-1"), NOW)
            .unwrap();
        assert_eq!(before.found, Found::New);
        // Another process, ten seconds later.
        let after = journal(&folder)
            .prepare(&wish(), None, &id("r-2"), NOW.plus_ms(10_000))
            .unwrap();
        assert_eq!(after.found, Found::Unanswered);
        assert_eq!(
            after.command.bytes().unwrap(),
            before.command.bytes().unwrap()
        );
        let named = journal(&folder)
            .prepare(&wish(), Some(&id("r-1")), &id("r-3"), NOW.plus_ms(90_000))
            .unwrap();
        assert_eq!(named.found, Found::Named);
        assert_eq!(named.command, before.command);
    }

    #[test]
    fn an_answered_or_expired_request_is_not_repeated_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let first = journal.prepare(&wish(), None, &id("r-1"), NOW).unwrap();
        journal.settle(&first.command, accepted()).unwrap();
        let second = journal.prepare(&wish(), None, &id("r-2"), NOW).unwrap();
        assert_eq!(
            (second.found, second.command.stamp().0),
            (Found::New, "r-2")
        );
        let later = NOW.plus_ms(REQUEST_LIFE_MS_MAX);
        let third = journal.prepare(&wish(), None, &id("r-3"), later).unwrap();
        assert_eq!((third.found, third.command.stamp().0), (Found::New, "r-3"));
    }

    #[test]
    fn another_wish_is_a_new_request() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal.prepare(&wish(), None, &id("r-1"), NOW).unwrap();
        let other = Command::start("CP-002".into(), None, None);
        let prepared = journal.prepare(&other, None, &id("r-2"), NOW).unwrap();
        assert_eq!(prepared.found, Found::New);
    }

    #[test]
    fn a_stored_id_with_another_wish_is_refused_here() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal.prepare(&wish(), None, &id("r-1"), NOW).unwrap();
        let other = Command::start("CP-002".into(), None, None);
        let failure = journal
            .prepare(&other, Some(&id("r-1")), &id("r-2"), NOW)
            .unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.message().contains("CP-001/1"), "{failure}");
    }

    #[test]
    fn a_torn_draft_is_no_request() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        journal.prepare(&wish(), None, &id("r-1"), NOW).unwrap();
        fs::write(journal.folder.join(".r-9.1.tmp"), b"{\"verb\":\"sta").unwrap();
        fs::write(journal.folder.join("r-8.json"), b"{\"verb\":\"sta").unwrap();
        assert_eq!(journal.entries().len(), 1);
        assert!(
            journal
                .prepare(&wish(), Some(&id("r-8")), &id("r-2"), NOW)
                .is_err()
        );
    }

    #[test]
    fn old_requests_go_and_open_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder);
        let open = journal.prepare(&wish(), None, &id("open"), NOW).unwrap();
        for n in 0..KEPT_MAX + 20 {
            let other = Command::start(format!("CP-{n}"), None, None);
            let done = journal
                .prepare(&other, None, &id(&format!("r-{n}")), NOW)
                .unwrap();
            journal.settle(&done.command, accepted()).unwrap();
        }
        let entries = journal.entries();
        assert!(entries.len() <= KEPT_MAX + 2, "{}", entries.len());
        assert!(entries.iter().any(|e| e.command == open.command));
    }

    #[test]
    fn operators_and_drivers_of_one_name_have_folders_of_their_own() {
        let driver = Who::Driver("olga".parse().unwrap());
        let operator = Who::Operator("olga".parse().unwrap());
        assert_ne!(driver.folder(), operator.folder());
    }
}
