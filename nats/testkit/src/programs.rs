use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use ev_client::{SERVER_MIN, Version};

const BUILD_LINE: &str = "cargo build --workspace --bins";
const CRASH_BUILD_LINE: &str = "ops/dev test --only tests -- -p ev-e2e killed_at";

/// The folder of the workspace's `Cargo.toml`.
#[must_use]
pub fn workspace_root() -> &'static Path {
    // nats/testkit lies two levels below the root.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Path of one of our own programs: in `EV_BIN_DIR` if set, else beside the
/// running test, where cargo puts the binaries of the same profile.
///
/// # Errors
/// When it has not been built; the message has the line that builds it.
pub fn our_program(name: &str) -> Result<PathBuf> {
    existing(name, &program_dir()?, BUILD_LINE)
}

/// The library that shows a process another time: where Debian's package libfaketime puts the one for
/// programs with threads.
#[must_use]
pub fn wrong_clock_library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let mut found: Vec<PathBuf> = folders
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.into_iter().next()
}

/// What makes a process read its wall clock's offset from a file, such as `+7200` in seconds, again
/// once a second. The monotonic clock of a host never jumps.
#[must_use]
pub fn wrong_clock_env(library: &Path, file: &Path) -> [(&'static str, PathBuf); 5] {
    [
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_owned()),
        ("FAKETIME_CACHE_DURATION", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ]
}

/// Path of one of our own programs in a build with crash points: in `EV_CRASH_BIN_DIR` if set, else
/// in the folder `crash` beside the ordinary ones.
///
/// # Errors
/// When it has not been built; the message says who builds it.
pub fn crash_program(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("EV_CRASH_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => program_dir()?.join("crash"),
    };
    existing(name, &dir, CRASH_BUILD_LINE)
}

fn program_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("EV_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    // target/debug/deps/some_test-0123456789abcdef
    let test = env::current_exe().context("find the running test's own path")?;
    let dir = test
        .parent()
        .and_then(Path::parent)
        .context("the running test lies in no target folder")?;
    Ok(dir.to_owned())
}

fn existing(name: &str, dir: &Path, build_line: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "program {name} is not at {}; build it: {build_line}",
        path.display()
    );
    Ok(path)
}

/// Path of a nats-server that is new enough: `NATS_SERVER`, else
/// `.dev/bin/nats-server` under the workspace root, else the one on `PATH`.
///
/// # Errors
/// When there is none, or only older ones; the message says how to get one.
pub fn nats_server_program() -> Result<&'static Path> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let found = find_nats_server()?;
    Ok(FOUND.get_or_init(|| found))
}

fn find_nats_server() -> Result<PathBuf> {
    if let Some(named) = env::var_os("NATS_SERVER") {
        let named = PathBuf::from(named);
        check_version(&named).context("NATS_SERVER names a program that cannot be used")?;
        return Ok(named);
    }
    let fetched = workspace_root().join(".dev/bin/nats-server");
    if fetched.is_file() {
        check_version(&fetched).context("run `ops/dev setup` again")?;
        return Ok(fetched);
    }
    let on_path = PathBuf::from("nats-server");
    check_version(&on_path).context("no usable nats-server found; run `ops/dev setup`")?;
    Ok(on_path)
}

fn check_version(program: &Path) -> Result<()> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("run {} --version", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `nats-server: v2.15.1`
    let version = text
        .trim()
        .rsplit_once('v')
        .and_then(|(_, version)| Version::parse(version))
        .with_context(|| format!("{} --version said {:?}", program.display(), text.trim()))?;
    ensure!(
        version >= SERVER_MIN,
        "{} is {}, and {SERVER_MIN} or newer is needed",
        program.display(),
        text.trim()
    );
    Ok(())
}
