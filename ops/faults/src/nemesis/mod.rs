//! Real processes under a nemesis.
//!
//! [`system`] starts nats-server, replicas of central and agents, with a [`link`] that can be bad
//! on every line between them. [`users`] act at random; [`faults`] breaks things. Whatever anybody
//! saw goes into a [`history`], and [`judge`] says afterwards whether it keeps the promises.

mod caller;
mod chance;
mod faults;
mod history;
mod judge;
mod link;
mod older;
mod system;
mod users;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use ev_testkit::{Role, wrong_clock_library};
use futures::{StreamExt, future::join_all};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use self::{
    caller::{Caller, Tongue},
    faults::Mix,
    history::{Event, History, Line, Place, Stage},
    judge::Verdict,
    system::{Plan, System},
    users::{Driver, Operator, Town},
};

const CHARGE_POINTS: usize = 10;
const DRIVERS: usize = 20;
const DRIVER_GROUPS: usize = 4;
const CENTRALS: usize = 2;
/// Violations that are shown with all lines about them, and how many lines of each.
const SHOWN_MAX: usize = 5;
const SHOWN_LINES_MAX: usize = 120;

/// How a run is made.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ops/dev faults run --minutes 5 --seed 7
  ops/dev faults run --minutes 5 --seed 7 --cluster
  ops/dev faults run --minutes 2 --mix kill-central=5,reset,hold-down
  ops/dev faults run --mix -clock,-full-server")]
pub struct RunArgs {
    /// For how long things break
    #[arg(long, value_name = "M", default_value_t = 3.0)]
    minutes: f64,
    /// What everything is drawn from; another one each time when left out
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Three servers with three copies of each stream, instead of one
    #[arg(long)]
    cluster: bool,
    /// Which faults, with weights; a minus leaves one out
    #[arg(
        long,
        value_name = "KIND[=WEIGHT],...",
        default_value = "",
        allow_hyphen_values = true
    )]
    mix: String,
    /// How many times faster than real the chargers run
    #[arg(long, value_name = "X", default_value_t = 60)]
    sim_speed: u32,
    /// Seconds after the last fault within which every session must have ended
    #[arg(long, value_name = "S", default_value_t = 120)]
    end_within: u64,
    /// Where history, logs and data go; a folder under the system's temporary one when left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Which history is judged.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// The file
    history: PathBuf,
}

/// Which scenes are played.
#[derive(Debug, Args)]
pub struct OlderCopyArgs {
    /// Only these, by number
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    scenes: Vec<usize>,
}

/// Replaces the server's store by an older copy.
pub fn older_copy(args: &OlderCopyArgs) -> Result<ExitCode> {
    until_a_signal(older::play(&args.scenes))
}

/// Judges the history in a file.
pub fn judge_file(args: &JudgeArgs) -> Result<ExitCode> {
    let lines = history::read(&args.history)?;
    Ok(pronounce(&lines, &judge::judge(&lines)))
}

/// Makes a run and judges it.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    ensure!(
        args.minutes > 0.0 && args.minutes <= 24.0 * 60.0,
        "--minutes: give more than 0 and at most 1440"
    );
    let mounts = in_a_mount_namespace()?;
    until_a_signal(play(args, mounts))
}

/// Whatever runs is dropped at a signal, and every process with it.
fn until_a_signal(play: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    runtime.block_on(async {
        tokio::select! {
            code = play => code,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
            () = terminated() => Ok(ExitCode::from(143)),
        }
    })
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Root may mount. In a mount namespace of its own whatever is mounted goes with this process,
/// however it ends; so the program begins once more inside of one.
fn in_a_mount_namespace() -> Result<bool> {
    use std::os::unix::process::CommandExt;
    const INSIDE: &str = "EV_FAULTS_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: no file systems can be mounted, so no disk gets full");
        return Ok(false);
    }
    let works = std::process::Command::new("unshare")
        .args(["--mount", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        println!("`unshare --mount` does not work here, so no disk gets full");
        return Ok(false);
    }
    let error = std::process::Command::new("unshare")
        .args(["--mount", "--"])
        .arg(std::env::current_exe().context("find this program")?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("run unshare")
}

/// Ten of them: every second one unruly, every third one with two connectors.
fn charge_points(faketime: bool) -> Vec<Place> {
    (1..=CHARGE_POINTS)
        .map(|n| Place {
            cp: format!("CP-{n:03}"),
            connectors: if n.is_multiple_of(3) { 2 } else { 1 },
            unruly: n.is_multiple_of(2),
            clocked: faketime && n > 6,
        })
        .collect()
}

async fn play(args: &RunArgs, mounts: bool) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut mix = Mix::parse(&args.mix)?;
    let faketime = wrong_clock_library();
    if faketime.is_none() {
        println!("libfaketime is not installed, so no clock is wrong");
    }
    let (temporary, dir) = folder(args.out.as_deref(), seed)?;
    let file = dir.join("history.jsonl");
    let history = Arc::new(History::create(&file, true)?);
    let command = format!(
        "ops/dev faults run --minutes {} --seed {seed}{}{}",
        args.minutes,
        if args.cluster { " --cluster" } else { "" },
        if args.mix.is_empty() {
            String::new()
        } else {
            format!(" --mix {}", args.mix)
        },
    );
    println!("{command}\nhistory and logs: {}", dir.display());
    let plan = Plan {
        dir: dir.clone(),
        servers: if args.cluster { 3 } else { 1 },
        centrals: CENTRALS,
        charge_points: charge_points(faketime.is_some()),
        driver_groups: DRIVER_GROUPS,
        sim_speed: args.sim_speed,
        mounts,
        faketime,
        snapshot_every: 500,
    };
    history.note(Event::Began {
        seed,
        command: command.clone(),
        charge_points: plan.charge_points.clone(),
    });
    let system = Arc::new(System::start(plan).await?);
    let left_out = mix.fit(&system);
    if !left_out.is_empty() {
        println!("not possible here: {}", left_out.join(", "));
    }
    let town = Arc::new(Town::new(system.clone(), history.clone()));
    act(args, seed, mix, &town).await?;
    history.flush()?;
    let disks: Vec<PathBuf> = system
        .members
        .values()
        .filter_map(|member| member.disk.clone())
        .collect();
    drop(town);
    drop(system);
    let lines = history::read(&file)?;
    let verdict = judge::judge(&lines);
    let code = pronounce(&lines, &verdict);
    if code == ExitCode::SUCCESS {
        if let Some(mut temporary) = temporary {
            for disk in disks {
                // What stays mounted goes with the namespace; its folder then stays.
                let _ = std::process::Command::new("umount").arg(disk).status();
            }
            temporary.disable_cleanup(false);
        }
    } else {
        println!(
            "again: {command}\njudge again: faults judge {}",
            file.display()
        );
    }
    Ok(code)
}

/// A folder that stays is made for whoever looks for the reason; nothing stays of a good run
/// unless it was asked for.
fn folder(out: Option<&Path>, seed: u64) -> Result<(Option<tempfile::TempDir>, PathBuf)> {
    match out {
        Some(out) => {
            std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
            let dir = out
                .canonicalize()
                .with_context(|| format!("find {}", out.display()))?;
            ensure!(
                dir.read_dir()?.next().is_none(),
                "{} is not empty",
                dir.display()
            );
            Ok((None, dir))
        }
        None => {
            let dir = tempfile::Builder::new()
                .prefix(&format!("ev-nemesis-{seed}-"))
                .disable_cleanup(true)
                .tempdir()
                .context("make a folder for the run")?;
            let path = dir.path().to_owned();
            Ok((Some(dir), path))
        }
    }
}

/// The play: mess, calm, and reading what is left.
async fn act(args: &RunArgs, seed: u64, mix: Mix, town: &Arc<Town>) -> Result<()> {
    let (system, history) = (&town.system, &town.history);
    for cp in system.agent_names() {
        town.look(&cp).await.context("a cabinet answers")?;
    }
    let mut background = JoinSet::new();
    let mut drivers = Vec::new();
    for n in 0..DRIVERS {
        let id = format!("d-{n:02}");
        let url = system.url_of(&system::drivers(n % DRIVER_GROUPS + 1));
        let tongue = if n % 2 == 0 {
            Tongue::MsgPack
        } else {
            Tongue::Json
        };
        let caller = Caller::connect(
            &system.keys,
            &url,
            format!("driver.{id}"),
            tongue,
            history.clone(),
        )
        .await?;
        background.spawn(caller.clone().listen(id.clone()));
        drivers.push(Driver::new(id, caller, town.clone(), seed));
    }
    let ids = drivers.iter().map(|d| d.id.clone()).collect();
    let url = system.url_of("operators");
    let caller = Caller::connect(
        &system.keys,
        &url,
        "op.olga".into(),
        Tongue::Json,
        history.clone(),
    )
    .await?;
    let operator = Operator::new(caller, town.clone(), ids, seed);
    operator.wait_for_charge_points().await?;

    history.note(Event::Stage { stage: Stage::Mess });
    let (stop, stopped) = watch::channel(false);
    let living: Vec<_> = drivers
        .into_iter()
        .map(|driver| tokio::spawn(driver.live(stopped.clone())))
        .collect();
    let operating = tokio::spawn(operator.live(stopped.clone()));
    let passing = tokio::spawn(users::passers_by(town.clone(), seed, stopped.clone()));
    let reading = tokio::spawn(users::meter_reader(town.clone(), stopped.clone()));
    let breaking = tokio::spawn(faults::break_things(
        system.clone(),
        history.clone(),
        mix,
        seed,
        stopped.clone(),
    ));
    tokio::time::sleep(Duration::from_secs_f64(args.minutes * 60.0)).await;
    stop.send_replace(true);
    breaking.await.context("the nemesis")??;
    passing.await.context("the passers-by")?;
    reading.await.context("the meter reader")?;
    let mut operator = operating.await.context("the operator")?;
    let mut drivers = Vec::new();
    for driver in living {
        drivers.push(driver.await.context("a driver")?);
    }

    history.note(Event::Stage { stage: Stage::Calm });
    calm(args, town, &mut drivers, &mut operator).await;
    history.note(Event::Stage {
        stage: Stage::Collect,
    });
    join_all(drivers.iter_mut().map(Driver::collect)).await;
    operator.collect().await;
    for cp in system.agent_names() {
        town.look(&cp).await;
    }
    for central in 0..system.plan.centrals {
        if let Ok((status, body)) = system.readyz(central).await {
            history.note(Event::Ready {
                central,
                status,
                body,
            });
        }
    }
    read_cdrs(town).await?;
    history.note(Event::Stage { stage: Stage::Over });
    background.shutdown().await;
    Ok(())
}

/// What users do when everything works again. Whatever does not come about in time is left for
/// the judge to find.
async fn calm(args: &RunArgs, town: &Arc<Town>, drivers: &mut [Driver], operator: &mut Operator) {
    let (system, history) = (&town.system, &town.history);
    let deadline = Instant::now() + Duration::from_secs(args.end_within);
    let note = |text: String| history.note(Event::Note { text });
    for n in 1..=system.plan.servers {
        if let Err(error) = system.wait_server(n).await {
            note(format!("{error:#}"));
        }
    }
    for central in 0..system.plan.centrals {
        if let Err(error) = system.wait_ready(central).await {
            note(format!("{error:#}"));
        }
    }
    for cp in system.agent_names() {
        if let Err(error) = system.wait_agent(&cp).await {
            note(format!("{error:#}"));
        }
    }
    note("everything runs again".into());
    users::repair(town).await;
    join_all(drivers.iter_mut().map(Driver::stop_most)).await;
    operator.wait_for_stops(deadline).await;
    history.note(Event::Stage { stage: Stage::Home });
    users::go_home(town).await;
    wait_until_ended(deadline, town, operator).await;
    history.note(Event::Stage {
        stage: Stage::Settle,
    });
    operator.settle().await;
    join_all(drivers.iter_mut().map(Driver::settle)).await;
    note("every wish is settled".into());
    // A start that had no answer yet may have been accepted only here.
    users::go_home(town).await;
    let deadline = Instant::now() + Duration::from_secs(args.end_within);
    wait_until_ended(deadline, town, operator).await;
}

/// Until no session is open, nothing waits at a cabinet, and every receipt is copied.
async fn wait_until_ended(deadline: Instant, town: &Arc<Town>, operator: &Operator) {
    let (system, history) = (&town.system, &town.history);
    let mut last = String::new();
    while Instant::now() < deadline {
        let open = operator.open().await;
        let mut waiting = 0;
        for cp in system.agent_names() {
            let body = town.look(&cp).await.unwrap_or_default();
            let sessions = body["connectors"].as_array().into_iter().flatten();
            waiting += sessions.filter(|c| !c["session_id"].is_null()).count();
            waiting += usize::from(body["spool_depth"] != 0);
        }
        if open == Some(0) && waiting == 0 && cdrs_are_complete(town).await {
            return;
        }
        let text = format!("{open:?} sessions are open, {waiting} things wait at cabinets");
        if text != last {
            history.note(Event::Note { text: text.clone() });
            last = text;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// No replica has receipts that it could not copy yet.
async fn cdrs_are_complete(town: &Town) -> bool {
    for central in 0..town.system.plan.centrals {
        let Ok(page) = town.system.metrics(central).await else {
            return false;
        };
        let waiting = page
            .lines()
            .filter(|line| line.starts_with("ev_receipts_waiting "))
            .any(|line| !line.ends_with(" 0"));
        if waiting {
            return false;
        }
    }
    true
}

async fn read_cdrs(town: &Town) -> Result<()> {
    let client = town
        .system
        .keys
        .connect(&town.system.direct_url(), Role::Maintainer, "mona")
        .await
        .context("connect for the receipts")?;
    let js = async_nats::jetstream::new(client);
    let mut stream = js.get_stream("EV_CDR").await.context("find the receipts")?;
    let count = stream.info().await?.state.messages;
    let consumer = stream
        .create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default())
        .await
        .context("read the receipts")?;
    let mut messages = consumer
        .messages()
        .await?
        .take(usize::try_from(count).unwrap_or(usize::MAX));
    while let Some(message) = messages.next().await {
        let message = message.map_err(|e| anyhow::anyhow!("reading the receipts: {e}"))?;
        town.history.note(Event::Cdr {
            subject: message.subject.to_string(),
            body: rmp_serde::from_slice(&message.payload).context("a receipt can be read")?,
        });
    }
    Ok(())
}

/// The table, and everything about what was broken.
fn pronounce(lines: &[Line], verdict: &Verdict) -> ExitCode {
    let width = verdict.table.iter().map(|(name, _)| name.len()).max();
    println!();
    for (name, value) in &verdict.table {
        println!("{name:<w$}  {value:>14}", w = width.unwrap_or(0));
    }
    println!();
    if verdict.violations.is_empty() {
        println!("every promise was kept");
        return ExitCode::SUCCESS;
    }
    for violation in verdict.violations.iter().take(SHOWN_MAX) {
        println!("BROKEN: {}: {}", violation.rule, violation.text);
        for line in judge::lines_about(lines, &violation.about, SHOWN_LINES_MAX) {
            println!("  {line}");
        }
    }
    for violation in verdict.violations.iter().skip(SHOWN_MAX) {
        println!("BROKEN: {}: {}", violation.rule, violation.text);
    }
    println!("{} promises broken", verdict.violations.len());
    ExitCode::FAILURE
}
