//! What operators do to the streams as a whole: `central init-ledger`, `verify`, `backup`, `restore`.
//!
//! A backup is what nats-server itself makes of a stream: sequences and times in it are those of the
//! stream, and the server that takes it back needs nothing else.

mod backup;
mod init;
mod manifest;
mod progress;
mod records;
mod restore;
mod s2;
mod tape;
mod verify;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use central_core::{verify::Report, whole::LedgerId};
use clap::{ArgGroup, Args};
use ev_client::{Access, Credential, Pauses};
use ev_contract::time::UnixMs;
use ev_service::EXIT_CONFIG;

use crate::Config;

/// Something is not as it should be.
const EXIT_PROBLEMS: u8 = 1;
/// It could not be looked at or done; perhaps later (`EX_TEMPFAIL` of sysexits.h).
const EXIT_FAILED: u8 = 75;
/// The server's slowest answer: a stream is copied from a slow disk.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Replay the ledger and hold digests, receipts and energy against it. Changes nothing.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  central verify --config /etc/ev/central.toml\n  central verify --from-backup /var/backups/ev/2026-11-24 --json",
    after_help = "Exit status: 0 in order, 1 problems found, 75 it could not be read, 78 bad configuration.",
    group = ArgGroup::new("of").required(true).args(["config", "from_backup"])
)]
pub struct VerifyArgs {
    /// The configuration file of a central: verifies what its nats-server has.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The folder of a backup: verifies that.
    #[arg(long, value_name = "DIR")]
    from_backup: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Copy ledger, receipts, audit and uptime of a running system into a new folder.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  central backup --config /etc/ev/central.toml --to /var/backups/ev/2026-11-24",
    after_help = "Exit status: 0 written and in order, 1 written and it holds problems, 75 not written, 78 bad configuration.\nNot in it: snapshots (central makes new ones), the keys of `central enrol` and what waits in their outbox, spools of charge points."
)]
pub struct BackupArgs {
    /// The configuration file of a central; its credential is used.
    #[arg(long)]
    config: PathBuf,
    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Make the streams of a backup in a nats-server that has none of them.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  central enrol maintainer mona\n  central restore --config /etc/ev/central.toml --credentials /etc/ev/keys/creds/maintainer/mona.creds --from /var/backups/ev/2026-11-24",
    after_help = "Stop every central before. Exit status: 0 restored and in order, 1 restored and it holds problems, 75 not restored, 78 bad configuration."
)]
pub struct RestoreArgs {
    /// The configuration file of a central: says where nats-server is, and how many copies of a stream
    /// there are to be.
    #[arg(long)]
    config: PathBuf,
    /// The credentials file of a maintainer, from `central enrol maintainer NAME`.
    #[arg(long)]
    credentials: PathBuf,
    /// The folder of the backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
}

/// Make the ledger of a new installation. The credential of its first central says for a day that this
/// is not needed.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  central init-ledger --config /etc/ev/central.toml",
    after_help = "Refuses where anything says that there was a ledger. Exit status: 0 made, or there already, 75 not made, 78 bad configuration."
)]
pub struct InitLedgerArgs {
    /// The configuration file of a central; its credential is used.
    #[arg(long)]
    config: PathBuf,
    /// Begin anew although this ledger was served, which is lost for good.
    #[arg(long, value_name = "LEDGER")]
    give_up: Option<LedgerId>,
}

/// Runs `central init-ledger`.
#[must_use]
pub fn init_ledger(args: &InitLedgerArgs) -> ExitCode {
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(error) => return bad_config(&error),
    };
    let made = block_on(async {
        let nats = connect(&config.access()?, "init-ledger").await?;
        init::run(&config, &nats, args.give_up).await
    });
    match made {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

/// Runs `central verify`.
#[must_use]
pub fn verify(args: &VerifyArgs) -> ExitCode {
    let config = match &args.config {
        Some(path) => match Config::read(path) {
            Ok(config) => Some(config),
            Err(error) => return bad_config(&error),
        },
        None => None,
    };
    finish(block_on(async {
        let (report, of) = match (&config, &args.from_backup) {
            (Some(config), _) => {
                let access = config.access()?;
                let nats = connect(&access, "verify").await?;
                let of = format!("the streams of {}", access.url);
                (verify::of_server(&nats, config).await?, of)
            }
            (None, Some(dir)) => {
                let manifest = manifest::Manifest::read(dir)?;
                let of = format!("the backup {}", dir.display());
                (verify::of_backup(&manifest, dir).await?, of)
            }
            (None, None) => anyhow::bail!("give --config or --from-backup"),
        };
        if args.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            verify::print(&report, &of);
        }
        Ok(report)
    }))
}

/// Runs `central backup`.
#[must_use]
pub fn backup(args: &BackupArgs) -> ExitCode {
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(error) => return bad_config(&error),
    };
    finish(block_on(async {
        let nats = connect(&config.access()?, "backup").await?;
        let manifest = backup::run(&nats, &args.to).await?;
        for copy in &manifest.streams {
            println!(
                "{}: {} messages, up to {}, {} bytes",
                copy.file, copy.messages, copy.last_seq, copy.bytes
            );
        }
        let report = verify::of_backup(&manifest, &args.to).await?;
        verify::print(&report, &format!("the backup {}", args.to.display()));
        Ok(report)
    }))
}

/// Runs `central restore`.
#[must_use]
pub fn restore(args: &RestoreArgs) -> ExitCode {
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(error) => return bad_config(&error),
    };
    finish(block_on(async {
        let access = Access {
            credentials: args.credentials.clone(),
            ..config.access()?
        };
        let maintainer = Credential::read(&access.credentials)?;
        access.check("maintainer", maintainer.name())?;
        let nats = connect(&access, "restore").await?;
        let manifest = restore::run(&nats, &args.from, config.stream_replicas).await?;
        for copy in &manifest.streams {
            println!(
                "{}: {} messages, up to {}",
                copy.name, copy.messages, copy.last_seq
            );
        }
        let report = verify::of_server(&nats, &config).await?;
        verify::print(&report, &format!("the streams of {}", access.url));
        Ok(report)
    }))
}

fn bad_config(error: &crate::ConfigError) -> ExitCode {
    eprintln!("central: {error}");
    ExitCode::from(EXIT_CONFIG)
}

fn finish(result: anyhow::Result<Report>) -> ExitCode {
    match result {
        Ok(report) if report.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_PROBLEMS),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("central: {error:#}");
    ExitCode::from(EXIT_FAILED)
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let result = runtime.block_on(work);
    // What still reads need not be waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn connect(access: &Access, what: &str) -> anyhow::Result<async_nats::Client> {
    let (options, _) = access.options(Pauses::default(), |event| async move {
        tracing::debug!(%event, "nats");
    })?;
    let connecting = options
        .name(format!("central {what}"))
        .request_timeout(Some(ANSWER_WAIT))
        .connect(access.servers()?);
    match connecting.await {
        Ok(nats) => Ok(nats),
        Err(error) => match access.why_not().await {
            Some(why) => anyhow::bail!("{why}"),
            None => Err(error).context("connecting to nats-server"),
        },
    }
}

fn wall() -> UnixMs {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixMs(now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX)))
}
