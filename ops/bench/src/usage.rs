//! What a process has used, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// CPU and memory of a process, threads and all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time since it began, in seconds.
    pub cpu_s: f64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// The most that ever was resident.
    pub peak: u64,
}

impl Usage {
    /// Reads what a process has used.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("read what process {pid} has used"))?;
        // The name, in parentheses, may have spaces and parentheses in it.
        let (_, rest) = stat.rsplit_once(')').context("a stat has a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |nth: usize| -> Result<u64> {
            Ok(fields.get(nth).context("a stat has times")?.parse()?)
        };
        // The 14th and 15th of proc(5); the name is the 2nd.
        let ticks = ticks(11)? + ticks(12)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |key: &str| -> Option<u64> {
            let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
            rest.trim().strip_suffix(" kB")?.trim().parse().ok()
        };
        Ok(Self {
            cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            resident: kib("VmRSS:").unwrap_or(0) * 1_024,
            peak: kib("VmHWM:").unwrap_or(0) * 1_024,
        })
    }
}
