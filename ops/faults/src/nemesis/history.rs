//! What was seen, in the order in which it was seen. The judge has nothing else.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line of the history. Lines are in the order of real time: what is noted before a message
/// leaves stands above what is noted after its answer came.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the run began.
    pub t: u64,
    /// Milliseconds since 1970.
    pub unix: i64,
    #[serde(flatten)]
    pub event: Event,
}

/// Something that a user, or the one who breaks things, did or saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Event {
    Began {
        seed: u64,
        command: String,
        charge_points: Vec<Place>,
    },
    Stage {
        stage: Stage,
    },
    Asked {
        ask: u64,
        /// `driver.d-01` or `op.olga`, as in the subject.
        who: String,
        verb: String,
        body: Value,
    },
    Answered {
        ask: u64,
        body: Value,
    },
    Silence {
        ask: u64,
        why: String,
    },
    Update {
        driver: String,
        body: Value,
    },
    /// `edge-cp ctl`.
    Cabinet {
        call: u64,
        cp: String,
        args: Vec<String>,
    },
    CabinetSaid {
        call: u64,
        ok: bool,
        body: Value,
    },
    /// What `edge-cp ctl status --json` says of one charge point.
    Status {
        cp: String,
        body: Value,
    },
    FaultBegan {
        fault: u64,
        kind: String,
        target: String,
        detail: String,
    },
    FaultEnded {
        fault: u64,
        note: String,
    },
    Cdr {
        subject: String,
        body: Value,
    },
    Ready {
        central: usize,
        status: u16,
        body: String,
    },
    Note {
        text: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    pub cp: String,
    pub connectors: u64,
    pub unruly: bool,
    /// Its agent's clock is tampered with.
    pub clocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Users act and things break.
    Mess,
    /// Nothing breaks any more; users end what they have begun.
    Calm,
    /// Whatever was stopped should have stopped; cars go.
    Home,
    /// Everything should have ended. Users ask once more what they ever asked.
    Settle,
    /// Everything should have ended; what is left is read.
    Collect,
    /// Nothing more comes.
    Over,
}

/// Writes a history.
#[derive(Debug)]
pub struct History {
    began: Instant,
    file: Mutex<BufWriter<File>>,
    next: AtomicU64,
    loud: bool,
}

impl History {
    pub fn create(path: &Path, loud: bool) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("create the history {}", path.display()))?;
        Ok(Self {
            began: Instant::now(),
            file: Mutex::new(BufWriter::new(file)),
            next: AtomicU64::new(1),
            loud,
        })
    }

    /// A number for an ask, a call or a fault.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn note(&self, event: Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that times rise with the lines.
        let line = Line {
            t: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            unix: unix_ms(),
            event,
        };
        if self.loud {
            say(&line);
        }
        let written = serde_json::to_writer(&mut *file, &line)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"));
        if let Err(error) = written {
            eprintln!("the history cannot be written: {error}");
        }
    }

    pub fn flush(&self) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush().context("write the history")
    }
}

pub fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn say(line: &Line) {
    let text = match &line.event {
        Event::FaultBegan {
            fault,
            kind,
            target,
            detail,
        } => format!("#{fault} {kind} {target} {detail}"),
        Event::FaultEnded { fault, note } => format!("#{fault} over {note}"),
        Event::Stage { stage } => format!("== {stage:?}"),
        Event::Note { text } => text.clone(),
        Event::Began { .. }
        | Event::Asked { .. }
        | Event::Answered { .. }
        | Event::Silence { .. }
        | Event::Update { .. }
        | Event::Cabinet { .. }
        | Event::CabinetSaid { .. }
        | Event::Status { .. }
        | Event::Cdr { .. }
        | Event::Ready { .. } => return,
    };
    println!("{:>9.3}  {text}", line.t as f64 / 1_000.0);
}

pub fn read(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).with_context(|| format!("open the history {}", path.display()))?;
    BufReader::new(file)
        .lines()
        .enumerate()
        .map(|(n, line)| {
            let line = line.context("read the history")?;
            serde_json::from_str(&line).with_context(|| format!("line {} of the history", n + 1))
        })
        .collect()
}
