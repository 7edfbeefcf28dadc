//! Where a process spends its time, seen by `perf`: a flame graph, and the share of each part.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use inferno::flamegraph::{
    self,
    color::{MultiPalette, Palette},
};

/// Samples a second: off the beat of timers.
const HERTZ: &str = "997";
/// Bytes of stack that are kept of each sample: tasks within tasks are deep.
const STACK: &str = "dwarf,16384";
/// What is narrower, in percent of all, is not drawn.
const NARROWEST_PERCENT: f64 = 0.3;

/// The parts of central, by the beginning of a function's name. The first function from the inside
/// that is of a part counts for it.
const PARTS: [(&str, &[&str]); 12] = [
    (
        "TLS",
        &["rustls::", "ring::", "ring_core", "tokio_rustls::"],
    ),
    ("NATS client", &["async_nats::"]),
    (
        "reading and writing messages",
        &[
            "rmp_serde::",
            "rmp::",
            "serde_json::",
            "ev_contract::wire",
            "rmpv::",
        ],
    ),
    (
        "border and subscriptions",
        &["central::border", "central::subscriptions"],
    ),
    (
        "admission and memory held",
        &["central::admission", "central::held"],
    ),
    (
        "core: decide, apply",
        &[
            "central_core::",
            "im::",
            "hashbrown::",
            "alloc::collections::btree",
        ],
    ),
    (
        "engine",
        &["central::engine", "central::ledger", "central::run"],
    ),
    (
        "answers and commands on their way",
        &[
            "central::out",
            "central::orders",
            "central::calls",
            "central::schedule",
        ],
    ),
    (
        "metrics and logs",
        &["prometheus::", "tracing", "central::metrics"],
    ),
    ("central, the rest", &["central::"]),
    ("runtime", &["tokio::", "mio::", "futures"]),
    ("kernel", &["[k]"]),
];

/// A recording under way.
#[derive(Debug)]
pub struct Recording {
    perf: std::process::Child,
    file: std::path::PathBuf,
}

impl Recording {
    /// Records a process for so long, into a folder.
    ///
    /// # Errors
    /// When there is no `perf`, or it may not.
    pub fn start(pid: u32, time: Duration, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let file = dir.join("central.perf");
        let perf = Command::new("perf")
            .args(["record", "--quiet", "-F", HERTZ, "--call-graph", STACK])
            .arg("--output")
            .arg(&file)
            .args(["--pid", &pid.to_string(), "--", "sleep"])
            .arg(format!("{:.1}", time.as_secs_f64()))
            .stdin(Stdio::null())
            .spawn()
            .context("start perf (Debian: linux-perf)")?;
        Ok(Self { perf, file })
    }

    /// Waits for its end and writes `central.folded`, `central.svg` and `central.txt` beside it;
    /// returns the last: the share of each part.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub fn finish(mut self) -> Result<String> {
        let status = self.perf.wait().context("wait for perf")?;
        ensure!(status.success(), "perf ended with {status}");
        let script = output(
            Command::new("perf")
                .args(["script", "--no-inline", "--fields", "ip,sym", "--input"])
                .arg(&self.file),
        )?;
        let stacks = fold(&String::from_utf8_lossy(&script.stdout));
        ensure!(!stacks.is_empty(), "perf has seen nothing");
        let folded = folded(&stacks);
        let shares = shares(&stacks);
        let drawn = draw(&folded)?;
        for (extension, text) in [("folded", &folded), ("svg", &drawn), ("txt", &shares)] {
            let path = self.file.with_extension(extension);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        fs::remove_file(&self.file).context("remove what perf recorded")?;
        Ok(shares)
    }
}

fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().context("run perf")?;
    ensure!(
        output.status.success(),
        "perf ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Equal stacks together, from the outside in.
fn fold(script: &str) -> BTreeMap<Vec<String>, u64> {
    let mut stacks = BTreeMap::new();
    let mut stack: Vec<String> = Vec::new();
    for line in script.lines().chain([""]) {
        match line.trim().split_once(' ') {
            Some((address, symbol)) => stack.push(named(address, symbol)),
            None if stack.is_empty() => {}
            None => {
                stack.reverse();
                *stacks.entry(std::mem::take(&mut stack)).or_default() += 1;
            }
        }
    }
    stacks
}

/// The same as tools for flame graphs read it.
fn folded(stacks: &BTreeMap<Vec<String>, u64>) -> String {
    stacks
        .iter()
        .map(|(stack, count)| format!("{} {count}\n", stack.join(";")))
        .collect()
}

/// A function's name without what the compiler adds to tell its copies apart.
fn named(address: &str, symbol: &str) -> String {
    let symbol = symbol.split("+0x").next().unwrap_or(symbol).trim();
    let symbol = match symbol.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => symbol,
    };
    // The kernel's half of the address space.
    let is_kernel = address.len() == 16 && address.starts_with("ffff");
    let mark = if is_kernel { "[k] " } else { "" };
    format!("{mark}{}", symbol.replace(';', ","))
}

/// How much of the time was spent in each part.
fn shares(stacks: &BTreeMap<Vec<String>, u64>) -> String {
    let all: u64 = stacks.values().sum();
    let mut by_part: BTreeMap<&str, u64> = BTreeMap::new();
    for (stack, count) in stacks {
        let part = stack.iter().rev().find_map(|function| part_of(function));
        *by_part.entry(part.unwrap_or("the rest")).or_default() += count;
    }
    let mut sorted: Vec<_> = by_part.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let memory: u64 = stacks
        .iter()
        .filter(|(stack, _)| stack.last().is_some_and(|f| moves_memory(f)))
        .map(|(_, count)| count)
        .sum();
    sorted.push(("of all this: allocating, freeing and copying", memory));
    sorted
        .into_iter()
        .map(|(part, count)| format!("{:5.1} %  {part}\n", count as f64 * 100.0 / all as f64))
        .collect()
}

/// Whether a function is the allocator's or moves bytes.
fn moves_memory(function: &str) -> bool {
    ["malloc", "free", "calloc", "realloc", "memcpy", "memmove"]
        .iter()
        .any(|name| function.contains(name))
}

fn part_of(function: &str) -> Option<&'static str> {
    // `<T as some::Trait>::method` is where T is.
    let name = function.trim_start_matches(['<', '&']);
    PARTS
        .iter()
        .find(|(_, begins)| begins.iter().any(|begin| name.starts_with(begin)))
        .map(|(part, _)| *part)
}

/// A flame graph: the width of a function is its share of the time, what it calls stands on it.
fn draw(folded: &str) -> Result<String> {
    let mut options = flamegraph::Options::default();
    options.title = "central under a crowd of starts".to_owned();
    options.count_name = "samples".to_owned();
    options.min_width = NARROWEST_PERCENT;
    options.no_javascript = true;
    options.colors = Palette::Multi(MultiPalette::Rust);
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, folded.lines(), &mut svg).context("draw a flame graph")?;
    String::from_utf8(svg).context("read a flame graph")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\n    55d0 ring::aead::seal::h0123456789abcdef+0x1c\n    \
        55d1 async_nats::connection::write+0x7\n\nffffffff81000000 do_syscall_64+0x1\n    \
        55d1 async_nats::connection::write+0x9\n\n";

    #[test]
    fn a_stack_counts_for_the_part_that_it_is_inside_of() {
        let stacks = fold(SCRIPT);
        assert_eq!(stacks.len(), 2, "{stacks:?}");
        let shares = shares(&stacks);
        assert!(shares.contains("50.0 %  TLS\n"), "{shares}");
        assert!(shares.contains("50.0 %  kernel\n"), "{shares}");
    }

    #[test]
    fn every_function_of_a_flame_graph_is_as_wide_as_its_share() {
        let drawn = draw(&folded(&fold(SCRIPT))).unwrap();
        let write = "async_nats::connection::write (2 samples, 100.00%)";
        assert!(drawn.contains(write), "{drawn}");
        assert!(
            drawn.contains("ring::aead::seal (1 samples, 50.00%)"),
            "{drawn}"
        );
    }
}
