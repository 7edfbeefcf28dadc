//! Bad bytes: libFuzzer over the targets of `ev-fuzz`, on the stable toolchain. Coverage comes from
//! the compiler's own pass; an address sanitizer would need a nightly one, and there is no unsafe
//! code here for it to watch.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use ev_fuzz::{PACK_NAME, TARGETS, Target, corpus_dir, pack, seeds, target};
use ev_testkit::workspace_root;

/// Options of the machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long, over all targets.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
    /// Only this one.
    #[arg(long)]
    target: Option<String>,
    /// Processes at once, each on a target of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Renew the committed corpus: the smallest inputs that cover what was reached.
    #[arg(long)]
    keep: bool,
}

/// What `cargo fuzz` sets without a sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";
/// Longer inputs only repeat what shorter ones do; the borders' own bounds have tests.
const INPUT_BYTES_MAX: u32 = 8_192;
/// Of a committed input: a longer one mostly holds several short ones.
const KEPT_INPUT_BYTES_MAX: u32 = 1_024;
/// Of a committed corpus, for each target.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// One input may take so long: far beyond the slowest one.
const INPUT_SECONDS_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 2_048;

/// Looks for inputs that break a target.
///
/// # Errors
/// When one was found; its file and the way to replay it are printed before.
pub fn run(args: &Args) -> Result<()> {
    let targets: Vec<&Target> = match &args.target {
        None => TARGETS.iter().collect(),
        Some(name) => vec![target(name).with_context(|| {
            let known: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            format!("no target {name}; there are {}", known.join(", "))
        })?],
    };
    let work = workspace_root().join(".dev/fuzz");
    let engine = build(&work)?;
    let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let seconds = (args.minutes * 60 * u32::from(args.jobs) / count).max(1);
    let mut broken = Vec::new();
    for some in targets.chunks(usize::from(args.jobs)) {
        let mut running = Vec::new();
        for target in some {
            let search = Search::prepare(&work, &engine, target)?;
            let child = search.command(seconds).spawn().context("run the engine")?;
            running.push((search, child));
        }
        for (search, mut child) in running {
            let status = child.wait().context("wait for the engine")?;
            println!("{}", search.figures()?);
            if !status.success() {
                broken.push(search.target.name);
                println!("{}", search.how_to_replay()?);
            } else if args.keep {
                search.keep()?;
            }
        }
    }
    ensure!(broken.is_empty(), "broken: {}", broken.join(", "));
    Ok(())
}

fn build(work: &Path) -> Result<PathBuf> {
    let host = host()?;
    // With a target given, build scripts stay without coverage, whose runtime they do not have.
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--target", &host])
        .arg("--manifest-path")
        .arg(workspace_root().join("ops/fuzz/engine/Cargo.toml"))
        .arg("--target-dir")
        .arg(work.join("target"))
        .env("RUSTFLAGS", COVERAGE)
        .status()
        .context("run cargo")?;
    ensure!(
        status.success(),
        "the engine of ops/fuzz/engine cannot be built, see above; a C++ compiler is needed (g++)"
    );
    Ok(work.join("target").join(host).join("release/engine"))
}

fn host() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("ask rustc for its host")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc names its host")
}

/// The search on one target.
struct Search {
    target: &'static Target,
    engine: PathBuf,
    /// Found inputs, over all runs.
    corpus: PathBuf,
    artifacts: PathBuf,
    log: PathBuf,
}

impl Search {
    fn prepare(work: &Path, engine: &Path, target: &'static Target) -> Result<Self> {
        let corpus = work.join("corpus").join(target.name);
        let artifacts = work.join("broken").join(target.name);
        for dir in [&corpus, &artifacts] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        for (n, (_, bytes)) in seeds(target).context("read the corpus")?.iter().enumerate() {
            fs::write(corpus.join(format!("seed-{n}")), bytes).context("write a seed")?;
        }
        Ok(Self {
            target,
            engine: engine.into(),
            corpus,
            artifacts,
            log: work.join(format!("{}.log", target.name)),
        })
    }

    fn engine(&self) -> Command {
        let mut command = Command::new(&self.engine);
        command.env("EV_FUZZ_TARGET", self.target.name);
        command
    }

    fn command(&self, seconds: u32) -> Command {
        let mut command = self.engine();
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg(format!("-artifact_prefix={}/", self.artifacts.display()))
            .arg("-print_final_stats=1")
            .arg(&self.corpus)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match fs::File::create(&self.log) {
            Ok(log) => command.stderr(log),
            Err(_) => command.stderr(Stdio::inherit()),
        };
        command
    }

    /// One line about what was done.
    fn figures(&self) -> Result<String> {
        let log = fs::read(&self.log).context("read the engine's log")?;
        let log = String::from_utf8_lossy(&log);
        let stat = |name: &str| {
            log.lines()
                .find_map(|line| line.strip_prefix(&format!("stat::{name}:")))
                .unwrap_or("?")
                .trim()
                .to_owned()
        };
        let reached = log
            .lines()
            .rev()
            .find_map(|line| line.split_once(" cov: ")?.1.split_whitespace().next())
            .unwrap_or("?");
        Ok(format!(
            "{:10} {:>12} inputs, {:>7}/s, {:>6} edges reached, {:>4} MiB",
            self.target.name,
            stat("number_of_executed_units"),
            stat("average_exec_per_sec"),
            reached,
            stat("peak_rss_mb"),
        ))
    }

    fn how_to_replay(&self) -> Result<String> {
        let log = fs::read(&self.log).context("read the engine's log")?;
        let log = String::from_utf8_lossy(&log);
        let mut text: Vec<&str> = log
            .lines()
            .skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR:"))
            .take(8)
            .collect();
        if let Some(written) = log.lines().find(|line| line.contains("Test unit written")) {
            text.push(written);
        }
        Ok(format!(
            "{}\nto replay: EV_FUZZ_TARGET={} {} <file>\nonce mended: cp <file> {}/",
            text.join("\n"),
            self.target.name,
            self.engine.display(),
            corpus_dir(self.target).display(),
        ))
    }

    /// Writes the smallest inputs that cover what was reached into the committed corpus.
    fn keep(&self) -> Result<()> {
        let cover = self.corpus.with_extension("cover");
        if cover.exists() {
            fs::remove_dir_all(&cover).context("remove the last cover")?;
        }
        fs::create_dir_all(&cover).context("make a folder for a cover")?;
        let status = self
            .engine()
            .arg("-set_cover_merge=1")
            .arg(format!("-max_len={KEPT_INPUT_BYTES_MAX}"))
            .arg(&cover)
            .arg(&self.corpus)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("run the engine")?;
        if !status.success() {
            bail!("the corpus of {} cannot be merged", self.target.name);
        }
        let mut inputs = Vec::new();
        for entry in fs::read_dir(&cover).context("read the cover")? {
            inputs.push(fs::read(entry.context("read the cover")?.path())?);
        }
        inputs.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        let kept = corpus_dir(self.target);
        fs::create_dir_all(&kept).context("make the corpus")?;
        fs::write(kept.join(PACK_NAME), pack(&inputs, KEPT_BYTES_MAX)).context("write the corpus")
    }
}
