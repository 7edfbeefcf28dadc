//! The command line's side of the control socket.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::control::Request;

/// An agent that answers at all answers within this.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no good answer, with the exit code that says so.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody listens.
    #[error("no agent listens on {0}: {1}; start one with `edge-cp run`, or give --socket")]
    Unreachable(String, std::io::Error),
    /// The agent did not answer.
    #[error("the agent did not answer in time; whether it acted is unknown: look at `ctl status`")]
    NoAnswer,
    /// It refused.
    #[error("{message}; {hint}")]
    Refused {
        /// What.
        message: String,
        /// What to do.
        hint: String,
        /// The whole answer.
        answer: Value,
    },
}

impl CtlError {
    /// The exit code, the same as in the drivers' program.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 5,
            Self::NoAnswer => 6,
            Self::Unreachable(..) => 7,
        }
    }
}

/// Asks an agent.
///
/// # Errors
/// [`CtlError`], each with its exit code.
pub async fn ask(socket: &Path, request: &Request) -> Result<Value, CtlError> {
    let unreachable = |e| CtlError::Unreachable(socket.display().to_string(), e);
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request).map_err(|e| unreachable(e.into()))?;
    line.push(b'\n');
    write.write_all(&line).await.map_err(unreachable)?;
    let mut answer = String::new();
    let mut read = BufReader::new(read);
    match timeout(PATIENCE, read.read_line(&mut answer)).await {
        Ok(Ok(n)) if n > 0 => {}
        Ok(Ok(_) | Err(_)) | Err(_) => return Err(CtlError::NoAnswer),
    }
    let answer: Value = serde_json::from_str(&answer).map_err(|_| CtlError::NoAnswer)?;
    if answer["ok"] == true {
        return Ok(answer["data"].clone());
    }
    let text = |key: &str| answer["error"][key].as_str().unwrap_or("?").to_owned();
    Err(CtlError::Refused {
        message: text("message"),
        hint: text("hint"),
        answer,
    })
}

/// A status for people.
#[must_use]
pub fn table(status: &Value) -> String {
    let mut lines = vec![format!(
        "{:<14} {:>4} {:<15} {:<4} {:<36} {:>14} {:>9} {:>5}  {}",
        "charge point", "conn", "state", "plug", "session", "register kWh", "kW", "soc", "notes"
    )];
    for cp in status["charge_points"].as_array().into_iter().flatten() {
        let mut notes = Vec::new();
        notes.push(
            if cp["uplink"] == true {
                "uplink"
            } else {
                "no uplink"
            }
            .to_owned(),
        );
        if let Some(depth) = cp["spool_depth"].as_u64().filter(|d| *d > 0) {
            notes.push(format!("{depth} records wait"));
        }
        let health = cp["health"].as_array().into_iter().flatten();
        notes.extend(health.filter_map(Value::as_str).map(str::to_owned));
        for c in cp["connectors"].as_array().into_iter().flatten() {
            let milli = |key: &str, digits: usize| {
                c[key]
                    .as_u64()
                    .map_or_else(|| "-".to_owned(), |v| thousandths(v / 1_000, digits))
            };
            let word = |key: &str| c[key].as_str().unwrap_or("-").to_owned();
            lines.push(format!(
                "{:<14} {:>4} {:<15} {:<4} {:<36} {:>14} {:>9} {:>5}  {}",
                cp["id"].as_str().unwrap_or("?"),
                c["id"],
                word("state"),
                if c["plugged"] == true { "in" } else { "out" },
                word("session_id"),
                milli("register_mwh", 3),
                milli("power_mw", 3),
                c["soc_pct"]
                    .as_u64()
                    .map_or_else(|| "-".to_owned(), |p| format!("{p} %")),
                notes.join(", "),
            ));
        }
        if cp["connectors"].as_array().is_none_or(Vec::is_empty) {
            lines.push(format!(
                "{:<14} {}",
                cp["id"].as_str().unwrap_or("?"),
                notes.join(", ")
            ));
        }
        let ends: Vec<_> = cp["access"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|term| {
                let until_s = term["expires_at"].as_i64().unwrap_or_default() / 1_000;
                let what = term["what"].as_str().unwrap_or("?").replace('_', " ");
                format!("{what} until {}", ev_client::shown_time(until_s))
            })
            .collect();
        if !ends.is_empty() {
            lines.push(format!("{:<14} {}", "", ends.join(", ")));
        }
    }
    lines.join("\n")
}

/// A whole number of thousandths with its decimal point, without passing through a float.
fn thousandths(value: u64, digits: usize) -> String {
    format!("{}.{:0digits$}", value / 1_000, value % 1_000)
}
