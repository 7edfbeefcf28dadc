//! Where a process spends its time, seen by `perf`: a flame graph, and the share of each part.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// Samples a second: off the beat of timers.
const HERTZ: &str = "997";
/// Bytes of stack that are kept of each sample: tasks within tasks are deep.
const STACK: &str = "dwarf,16384";
const WIDTH: f64 = 1_200.0;
const ROW: f64 = 16.0;
/// What is narrower is not drawn.
const WIDTH_MIN: f64 = 0.5;
/// A letter of the font.
const LETTER: f64 = 6.5;

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
        let folded: String = stacks
            .iter()
            .map(|(stack, count)| format!("{} {count}\n", stack.join(";")))
            .collect();
        let shares = shares(&stacks);
        for (extension, text) in [
            ("folded", &folded),
            ("svg", &draw(&stacks)),
            ("txt", &shares),
        ] {
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

#[derive(Default)]
struct Node {
    count: u64,
    inside: BTreeMap<String, Node>,
}

/// A flame graph: the width of a function is its share of the time, what it calls stands on it.
fn draw(stacks: &BTreeMap<Vec<String>, u64>) -> String {
    let mut root = Node::default();
    for (stack, count) in stacks {
        root.count += count;
        let mut node = &mut root;
        for function in stack {
            node = node.inside.entry(function.clone()).or_default();
            node.count += count;
        }
    }
    let scale = WIDTH / root.count.max(1) as f64;
    let mut boxes = String::new();
    let depth = rows(&root, 0.0, 0, scale, &mut boxes);
    let height = (depth + 1) as f64 * ROW;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"monospace\" font-size=\"11\">\n\
         <g transform=\"matrix(1 0 0 -1 0 {height})\">\n{boxes}</g>\n</svg>\n"
    )
}

/// Draws what a function calls; how deep it went.
fn rows(node: &Node, left: f64, depth: usize, scale: f64, boxes: &mut String) -> usize {
    let mut deepest = depth;
    let mut left = left;
    for (name, inside) in &node.inside {
        let width = inside.count as f64 * scale;
        if width >= WIDTH_MIN {
            let bottom = depth as f64 * ROW;
            let letters = ((width - 4.0) / LETTER).max(0.0) as usize;
            let shown: String = if letters < 3 {
                String::new()
            } else {
                escaped(&name.chars().take(letters).collect::<String>())
            };
            // Of one writing to a string nothing can fail.
            let _ = writeln!(
                boxes,
                "<g><title>{} ({:.2} %)</title><rect x=\"{left:.1}\" y=\"{bottom:.1}\" \
                 width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                 <text transform=\"matrix(1 0 0 -1 {:.1} {:.1})\">{shown}</text></g>",
                escaped(name),
                width * 100.0 / WIDTH,
                ROW - 1.0,
                colour(name),
                left + 2.0,
                bottom + 4.0,
            );
            deepest = deepest.max(rows(inside, left, depth + 1, scale, boxes));
        }
        left += width;
    }
    deepest
}

/// Functions of one part have one colour.
fn colour(name: &str) -> &'static str {
    const COLOURS: [&str; 12] = [
        "#8dd3c7", "#80b1d3", "#fdb462", "#b3de69", "#d9d9d9", "#fb8072", "#ffed6f", "#bebada",
        "#fccde5", "#bc80bd", "#ccebc5", "#aaaaaa",
    ];
    part_of(name)
        .and_then(|part| PARTS.iter().position(|(name, _)| *name == part))
        .and_then(|at| COLOURS.get(at))
        .copied()
        .unwrap_or("#ffffb3")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
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
        let drawn = draw(&fold(SCRIPT));
        assert!(
            drawn.contains("async_nats::connection::write (100.00 %)"),
            "{drawn}"
        );
        assert!(drawn.contains("ring::aead::seal (50.00 %)"), "{drawn}");
    }
}
