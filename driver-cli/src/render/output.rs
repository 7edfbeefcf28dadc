//! Where output goes: data to stdout, everything else to stderr.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use super::format::harmless;
use crate::failure::Failure;

/// The two streams and what they are.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    colour: bool,
    stderr_is_terminal: bool,
}

impl Output {
    /// Looks at the streams and at `NO_COLOR`.
    #[must_use]
    pub fn new(json: bool) -> Self {
        let stderr_is_terminal = io::stderr().is_terminal();
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            colour: stderr_is_terminal && !no_color && !dumb,
            stderr_is_terminal,
        }
    }

    /// Whether data is JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether somebody looks at stderr.
    #[must_use]
    pub const fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    /// Data: the document, or the text for people.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn data(&self, doc: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            self.document(doc)
        } else {
            self.text(&text())
        }
    }

    /// A document, on one line.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn document(&self, doc: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(doc).map_err(|e| Failure::Other {
            message: format!("cannot write the document: {e}"),
            hint: "this is a defect of this program".to_owned(),
        })?;
        write_line(io::stdout().lock(), &line)
    }

    /// Text for people, on stdout.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        write_line(io::stdout().lock(), text.trim_end_matches('\n'))
    }

    /// A message, on stderr. One that nobody reads is lost and does no harm.
    pub fn message(&self, text: &str) {
        let _ = write_line(io::stderr().lock(), &harmless(text));
    }

    /// An error for people, on stderr.
    pub fn error(&self, failure: &Failure) {
        match failure {
            Failure::BrokenPipe => return,
            // Who presses Ctrl-C has made no mistake.
            Failure::Interrupted { message, hint, .. } => {
                self.message(message);
                if !hint.is_empty() {
                    self.message(&format!("  {hint}"));
                }
                return;
            }
            _ => {}
        }
        self.complaint(&failure.complaint(), failure.hint());
    }

    /// What went wrong and what to do next.
    pub fn complaint(&self, message: &str, hint: &str) {
        let (on, off) = if self.colour {
            ("\u{1b}[1;31m", "\u{1b}[0m")
        } else {
            ("", "")
        };
        let mut text = format!("{on}error:{off} {}", harmless(message));
        if !hint.is_empty() {
            text.push_str(&format!("\n  hint: {}", harmless(hint)));
        }
        let _ = write_line(io::stderr().lock(), &text);
    }
}

/// Like `println!`, which panics when the reader has gone.
fn write_line(mut stream: impl Write, text: &str) -> Result<(), Failure> {
    writeln!(stream, "{text}")
        .and_then(|()| stream.flush())
        .map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::File {
                doing: "write the output".to_owned(),
                hint: "check where the output goes; what was asked for has been done".to_owned(),
                source,
            },
        })
}
