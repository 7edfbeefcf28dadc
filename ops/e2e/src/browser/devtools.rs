//! The browser as a process, and the DevTools protocol on its standard streams: no port, no driver
//! program between, and a browser whose test is gone reads the end of its input and ends by itself.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, time::timeout};

/// What a call may take. The longest is axe on the wall of a large fleet, some seconds.
const CALL_MAX: Duration = Duration::from_secs(60);
/// A browser that is told to end writes its profile first.
const END_MAX: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(10);
/// Of one tab. A page that says more is in a loop, and its beginning tells why.
const EVENTS_MAX: usize = 20_000;

/// What a run of tests needs of a browser: nothing that asks the network, a graphics card or the
/// person at the screen. The sandbox is off because root gets none, and all it would guard against
/// are our own pages.
const FLAGS: [&str; 14] = [
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-dev-shm-usage",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];
/// The protocol is spoken on descriptors 3 and 4.
const ON_STANDARD_STREAMS: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >&2"#;

/// Of all that a page reports, what tests ask for.
const KEPT: [&str; 4] = [
    "Runtime.consoleAPICalled",
    "Runtime.exceptionThrown",
    "Log.entryAdded",
    "Network.requestWillBeSent",
];

/// A browser. Dropping it ends it and removes its profile.
#[derive(Debug)]
pub(super) struct Devtools {
    child: Child,
    input: Mutex<Option<ChildStdin>>,
    heard: Arc<Mutex<Heard>>,
    dir: TempDir,
}

#[derive(Debug, Default)]
struct Heard {
    calls: u64,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    /// By session, which is a tab.
    events: HashMap<String, Vec<Value>>,
    has_ended: bool,
}

impl Devtools {
    /// Starts a browser with a profile of its own.
    ///
    /// # Errors
    /// When there is none; the message says how to get one.
    pub(super) fn start(is_visible: bool) -> Result<Self> {
        let dir = TempDir::with_prefix("ev-browser-").context("make a folder for a profile")?;
        let program = std::env::var_os("EV_CHROMIUM").unwrap_or_else(|| "chromium".into());
        let log = File::create(dir.path().join("log")).context("make the browser's log")?;
        let mut command = Command::new("sh");
        command
            .args(["-c", ON_STANDARD_STREAMS, "sh"])
            .arg(&program)
            .args(FLAGS)
            .arg(format!(
                "--user-data-dir={}",
                dir.path().join("profile").display()
            ));
        if !is_visible {
            command.arg("--headless=new");
        }
        let mut child = command
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start sh, which starts the browser")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the browser's output")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let listener = Arc::clone(&heard);
        thread::Builder::new()
            .name("devtools".into())
            .spawn(move || listen(output, &listener))
            .context("start the thread that listens to the browser")?;
        Ok(Self {
            child,
            input: Mutex::new(input),
            heard,
            dir,
        })
    }

    /// Calls a method of the protocol, in a tab or in the browser.
    ///
    /// # Errors
    /// When the browser refuses, has ended or does not answer.
    pub(super) async fn call(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value> {
        let (tell, told) = oneshot::channel();
        let mut call = json!({ "method": method, "params": params });
        if let Some(session) = session {
            call["sessionId"] = session.into();
        }
        {
            let mut heard = lock(&self.heard);
            if heard.has_ended {
                bail!("{method}: the browser has ended: {}", self.log());
            }
            heard.calls += 1;
            call["id"] = heard.calls.into();
            let id = heard.calls;
            heard.waiting.insert(id, tell);
        }
        self.say(&call)
            .with_context(|| format!("{method}: tell the browser; it wrote: {}", self.log()))?;
        let answer = timeout(CALL_MAX, told)
            .await
            .with_context(|| format!("{method}: no answer within {CALL_MAX:?}"))?
            .with_context(|| format!("{method}: the browser ended: {}", self.log()))?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => bail!("{method}: {}", answer["error"]["message"]),
        }
    }

    fn say(&self, call: &Value) -> Result<()> {
        let mut bytes = serde_json::to_vec(call)?;
        bytes.push(0);
        let mut input = lock(&self.input);
        let input = input.as_mut().context("its input is closed")?;
        input.write_all(&bytes)?;
        input.flush()?;
        Ok(())
    }

    /// What a tab has reported so far.
    pub(super) fn events(&self, session: &str) -> Vec<Value> {
        let heard = lock(&self.heard);
        heard.events.get(session).cloned().unwrap_or_default()
    }

    fn log(&self) -> String {
        let path: PathBuf = self.dir.path().join("log");
        std::fs::read_to_string(path).unwrap_or_else(|error| format!("(no log: {error})"))
    }
}

impl Drop for Devtools {
    fn drop(&mut self) {
        // The end of its input is the order to end.
        drop(lock(&self.input).take());
        let deadline = Instant::now() + END_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(END_POLL);
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!(
                "the browser (pid {}) does not end: {error}",
                self.child.id()
            );
        }
    }
}

/// Until the browser ends.
fn listen(output: ChildStdout, heard: &Mutex<Heard>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let is_end = !matches!(output.read_until(0, &mut bytes), Ok(read) if read > 0);
        let mut heard = lock(heard);
        if is_end {
            heard.has_ended = true;
            // Whoever waits is told by the drop.
            heard.waiting.clear();
            return;
        }
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(message) => heard.take(message),
            Err(error) => eprintln!("the browser said what is no JSON: {error}"),
        }
    }
}

impl Heard {
    fn take(&mut self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            if let Some(tell) = self.waiting.remove(&id) {
                // A caller that waits no longer is no fault.
                tell.send(message).ok();
            }
            return;
        }
        let (Some(session), Some(method)) =
            (message["sessionId"].as_str(), message["method"].as_str())
        else {
            return;
        };
        if KEPT.contains(&method) {
            let events = self.events.entry(session.to_owned()).or_default();
            if events.len() < EVENTS_MAX {
                events.push(message);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
