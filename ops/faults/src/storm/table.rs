//! What is printed, and what was violated.

use anyhow::{Result, bail};

use super::bystanders::Served;

#[derive(Debug, Default)]
pub struct Table {
    headed: bool,
    violations: Vec<String>,
}

impl Table {
    /// A row: what those who are no part of the storm got, and central's memory so far.
    pub fn phase(&mut self, name: &str, served: &Served, rss_mib: u64) {
        if !self.headed {
            self.headed = true;
            println!(
                "{:<46} {:>8} {:>7} {:>10} {:>8} {:>8} {:>8} {:>8}",
                "phase",
                "accepted",
                "refused",
                "unanswered",
                "p50 ms",
                "p99 ms",
                "max ms",
                "RSS MiB"
            );
        }
        println!(
            "{name:<46} {:>8} {:>7} {:>10} {:>8} {:>8} {:>8} {rss_mib:>8}",
            served.accepted,
            served.refused,
            served.unanswered,
            served.percentile(50).as_millis(),
            served.percentile(99).as_millis(),
            served.longest().as_millis(),
        );
    }

    /// A line below the row.
    pub fn say(&self, line: impl AsRef<str>) {
        println!("    {}", line.as_ref());
    }

    /// Something that must hold.
    pub fn must(&mut self, holds: bool, otherwise: &str) {
        if !holds && !self.violations.iter().any(|v| v == otherwise) {
            println!("    VIOLATION: {otherwise}");
            self.violations.push(otherwise.to_owned());
        }
    }

    /// The verdict.
    ///
    /// # Errors
    /// When anything did not hold.
    pub fn finish(self) -> Result<()> {
        if self.violations.is_empty() {
            println!("\nno violation");
            return Ok(());
        }
        bail!("violated:\n  {}", self.violations.join("\n  "))
    }
}
