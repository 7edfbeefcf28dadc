use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process, prlimit, waitid,
};
use tempfile::TempDir;

use crate::programs::{our_program, wrong_clock_env, wrong_clock_library};
use crate::wait::wait_for;

/// Lines of a log that a failed test shows: enough for a panic with its
/// backtrace, and a screenful per process.
const LOG_TAIL_LINES: usize = 80;

static HUSHED: AtomicBool = AtomicBool::new(false);

/// The logs of processes whose handles are dropped from here on are not shown: for a program that
/// is not a test and has said that all is well.
pub fn hush() {
    HUSHED.store(true, Ordering::Relaxed);
}

/// What to run, and how.
#[derive(Debug)]
pub struct ProcessBuilder {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: Option<PathBuf>,
}

/// A child process whose output goes to a file, and which can be signalled,
/// awaited and run again. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    spec: ProcessBuilder,
    child: Child,
    // Keeps the folder of the log alive where that is a temporary one.
    dir: Option<TempDir>,
    log: PathBuf,
}

impl ProcessBuilder {
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Its output goes to this file, which stays when the handle is dropped; its tail is then not
    /// shown.
    #[must_use]
    pub fn log_to(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(self) -> Result<Process> {
        let (dir, log) = match &self.log {
            Some(file) => (None, file.clone()),
            None => {
                let dir = TempDir::with_prefix("ev-test-").context("make a folder for a log")?;
                let log = dir.path().join(format!("{}.log", self.name));
                (Some(dir), log)
            }
        };
        let child = self.run(&log)?;
        Ok(Process {
            spec: self,
            child,
            dir,
            log,
        })
    }

    /// For whoever wants its output, or to hear of its end at once.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    fn run(&self, log: &Path) -> Result<Child> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open log {}", log.display()))?;
        let both = file.try_clone().context("share the log")?;
        self.command()
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(both)
            .spawn()
            .with_context(|| format!("start {} ({})", self.name, self.program.display()))
    }
}

impl Process {
    /// One of our own programs, as the last build left it.
    ///
    /// # Errors
    /// When it is not built; the message has the line that builds it.
    pub fn ours(program: &str) -> Result<ProcessBuilder> {
        Ok(Self::program(program, our_program(program)?))
    }

    /// Any program. `name` is what logs and errors call it.
    #[must_use]
    pub fn program(name: impl Into<String>, program: impl Into<PathBuf>) -> ProcessBuilder {
        ProcessBuilder {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: None,
        }
    }

    /// Starts one of our own programs with these arguments.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    pub fn spawn(
        program: &str,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Process> {
        Self::ours(program)?.args(args).spawn()
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far, both streams together, over all runs.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it has ended, for those who cannot reap it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            // One that has been reaped is no child any more.
            .is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }

    /// Sets a variable for the next run, or removes it.
    pub fn set_env(&mut self, key: &str, value: Option<&str>) {
        self.spec.env.retain(|(k, _)| k != key);
        if let Some(value) = value {
            self.spec.env.push((key.into(), value.into()));
        }
    }

    /// Gives the next run a wall clock whose offset stands in a file: see [`wrong_clock_env`].
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn set_clock_by(&mut self, file: &Path) -> Result<()> {
        let library = wrong_clock_library()
            .context("a wrong clock needs Debian's package libfaketime: install it")?;
        for (key, value) in wrong_clock_env(&library, file) {
            self.set_env(key, value.to_str());
        }
        Ok(())
    }

    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and gone when this returns: what a power cut looks like to the
    /// process. Killing a dead one does nothing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        // On a child that has been reaped this does nothing, so a foreign
        // process that got the same pid is safe.
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .with_context(|| format!("kill {}", self.spec.name))?;
        Ok(())
    }

    /// SIGSTOP: it freezes, its connections stay open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> Result<()> {
        let pid = self.signal(Signal::STOP)?;
        // It may still run for a moment. What it has done is left to be waited for again.
        let seen = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), seen)
            .with_context(|| format!("wait until {} stands still", self.spec.name))?;
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        Ok(())
    }

    /// From here on it may have so many files open, sockets among them.
    ///
    /// # Errors
    /// When it has ended, or the system refuses.
    pub fn limit_files(&mut self, most: u64) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a process id")?;
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        prlimit(Some(pid), Resource::Nofile, limit).context("limit the files of a process")?;
        Ok(())
    }

    /// SIGHUP: asks it to read its files anew.
    ///
    /// # Errors
    /// When it does not run.
    pub fn hang_up(&mut self) -> Result<()> {
        self.signal(Signal::HUP)?;
        Ok(())
    }

    /// SIGTERM: asks it to end in order; a frozen one is thawed to hear it.
    /// [`Process::wait`] tells when it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        // One that is quick has ended by now.
        let thawed = self.signal(Signal::CONT);
        if self.is_running() {
            thawed?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself or by a signal.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub async fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let Self { spec, child, .. } = self;
        let what = format!("{} (pid {}) has ended", spec.name, child.id());
        wait_for(&what, timeout, async || {
            child.try_wait()?.ok_or_else(|| anyhow!("it still runs"))
        })
        .await
    }

    /// Waits until `text` stands in its log.
    ///
    /// # Errors
    /// When `timeout` passes first, or at once when the process has ended
    /// without writing it.
    pub async fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let what = format!("{} logs {text:?}", self.spec.name);
        let ended = wait_for(&what, timeout, async || {
            // Asked first: what it wrote just before its end counts.
            let ended = !self.is_running();
            if self.log().contains(text) {
                Ok(false)
            } else if ended {
                Ok(true)
            } else {
                bail!("it is not there")
            }
        })
        .await?;
        ensure!(!ended, "{} ended before it logged {text:?}", self.spec.name);
        Ok(())
    }

    /// Runs the same program with the same arguments again; the log goes on in
    /// the same file. One that still runs is killed first.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9()?;
        self.child = self.spec.run(&self.log)?;
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<Pid> {
        // A pid that has been reaped may belong to somebody else.
        ensure!(self.is_running(), "{} does not run", self.spec.name);
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .with_context(|| format!("{} has no valid pid", self.spec.name))?;
        kill_process(pid, signal)
            .with_context(|| format!("send {signal:?} to {}", self.spec.name))?;
        Ok(pid)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let skipped = lines.len().saturating_sub(LOG_TAIL_LINES);
        let mut tail = format!(
            "--- log of {} (pid {}, {skipped} earlier lines left out) ---\n",
            self.spec.name,
            self.child.id()
        );
        for line in &lines[skipped..] {
            tail.push_str(line);
            tail.push('\n');
        }
        tail
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => format!("had ended: {status}"),
            _ => String::from("was still running"),
        };
        if let Err(error) = self.kill9() {
            eprintln!("{error:#}");
        }
        if self.dir.is_none() || HUSHED.load(Ordering::Relaxed) {
            return;
        }
        // A test that returns an error does not panic, so panicking or not
        // says nothing; the test runner hides this for tests that pass.
        eprintln!("{}--- {} {ended} ---", self.log_tail(), self.spec.name);
    }
}
