//! What breaks, when, and for how long: drawn from the seed, told as it happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use ev_contract::streams;
use ev_testkit::{Process, Role};
use tokio::{sync::watch, task::JoinSet};

use super::{
    chance::Chance,
    history::{Event, History},
    link::{Flow, Weather},
    system::System,
};

/// Faults at one time. More, and nothing but faults would be tested: nobody gets anything done.
const AT_ONCE_MAX: usize = 6;
/// Between the begins of two faults, at most.
const GAP_MS_MAX: u64 = 3_000;
/// After so long a while without faults, so that things get far enough to be broken.
const SPELL_MS: (u64, u64) = (15_000, 40_000);
const LULL_MS: (u64, u64) = (5_000, 12_000);
/// Where a server keeps its streams, and where that is while it is lost.
const STORE: &str = "jetstream";
const AWAY: &str = "jetstream-away";
/// What the judge looks for.
pub const SERVED: &str = "ready beside an empty store";
/// How long a process may take to end in order. Its own bound is 8 s.
const END_WITHIN: Duration = Duration::from_secs(20);
/// How often a process is killed while it starts, and after how long: within its reading of what it
/// had, its first connection, its catching up.
const FLAPS_MAX: u64 = 8;
const FLAP_MS: (u64, u64) = (5, 900);
/// A frozen or cut peer is given up after 15 s; some faults last longer than that.
const LONG_MS: u64 = 25_000;

/// A server is without its store for longer than replicas take to see it: they look every 2 s.
const LOST_MS: (u64, u64) = (10_000, 20_000);

/// A kind of fault: its name, how often it is drawn, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Cut,
    HoldUp,
    HoldDown,
    Stall,
    Delay,
    Throttle,
    Reset,
    KillServer,
    FreezeServer,
    KillAllServers,
    KillLeader,
    FreezeLeader,
    Rolling,
    Partition,
    KillCentral,
    FreezeCentral,
    RestartCentral,
    KillAgent,
    FreezeAgent,
    RestartAgent,
    KillCentrals,
    FreezeCentrals,
    FreezeMajority,
    RestartServer,
    Flap,
    KillEverything,
    FullAgent,
    FullServer,
    LostDisk,
    LostCdr,
    Clock,
}

pub const KINDS: [(Kind, &str, u32); 31] = [
    (Kind::Cut, "cut", 8),
    (Kind::HoldUp, "hold-up", 6),
    (Kind::HoldDown, "hold-down", 6),
    (Kind::Stall, "stall", 5),
    (Kind::Delay, "delay", 6),
    (Kind::Throttle, "throttle", 3),
    (Kind::Reset, "reset", 8),
    (Kind::KillServer, "kill-server", 4),
    (Kind::FreezeServer, "freeze-server", 3),
    (Kind::KillAllServers, "kill-all-servers", 2),
    (Kind::KillLeader, "kill-leader", 4),
    (Kind::FreezeLeader, "freeze-leader", 4),
    (Kind::Rolling, "rolling", 2),
    (Kind::Partition, "partition", 5),
    (Kind::KillCentral, "kill-central", 9),
    (Kind::FreezeCentral, "freeze-central", 8),
    (Kind::RestartCentral, "restart-central", 3),
    (Kind::KillAgent, "kill-agent", 10),
    (Kind::FreezeAgent, "freeze-agent", 5),
    (Kind::RestartAgent, "restart-agent", 3),
    (Kind::KillCentrals, "kill-centrals", 2),
    (Kind::FreezeCentrals, "freeze-centrals", 3),
    (Kind::FreezeMajority, "freeze-majority", 3),
    (Kind::RestartServer, "restart-server", 2),
    (Kind::Flap, "flap", 6),
    (Kind::KillEverything, "kill-everything", 1),
    (Kind::FullAgent, "full-agent", 4),
    (Kind::FullServer, "full-server", 2),
    (Kind::LostDisk, "lost-disk", 1),
    (Kind::LostCdr, "lost-cdr", 1),
    (Kind::Clock, "clock", 5),
];

/// Which kinds may happen, and how often.
#[derive(Debug, Clone)]
pub struct Mix(BTreeMap<Kind, u32>);

impl Mix {
    /// `kill-central=3,cut` takes those alone; `all` or nothing takes all; `-clock` leaves out.
    pub fn parse(text: &str) -> Result<Self> {
        let mut mix = BTreeMap::new();
        let words: Vec<&str> = text.split(',').filter(|w| !w.is_empty()).collect();
        let from_all = words.is_empty() || words.iter().any(|w| *w == "all" || w.starts_with('-'));
        if from_all {
            mix.extend(KINDS.iter().map(|(kind, _, weight)| (*kind, *weight)));
        }
        for word in words.iter().filter(|w| **w != "all") {
            let (name, weight) = match word.split_once('=') {
                Some((name, weight)) => (
                    name,
                    Some(
                        weight
                            .parse()
                            .with_context(|| format!("the weight in {word}"))?,
                    ),
                ),
                None => (*word, None),
            };
            let left_out = name.strip_prefix('-');
            let name = left_out.unwrap_or(name);
            let Some((kind, _, usual)) = KINDS.iter().find(|(_, n, _)| *n == name) else {
                let names: Vec<&str> = KINDS.iter().map(|(_, n, _)| *n).collect();
                bail!("no fault is called {name}; there are {}", names.join(", "));
            };
            if left_out.is_some() {
                mix.remove(kind);
            } else {
                mix.insert(*kind, weight.unwrap_or(*usual));
            }
        }
        Ok(Self(mix))
    }

    /// Leaves out what this system cannot suffer; says what that is.
    pub fn fit(&mut self, system: &System) -> Vec<&'static str> {
        let cluster = system.plan.servers > 1;
        let clocked = system.members.values().any(|m| m.clock.is_some());
        let disks = system.plan.mounts;
        let mut left_out = Vec::new();
        self.0.retain(|kind, _| {
            let possible = match kind {
                Kind::KillLeader
                | Kind::FreezeLeader
                | Kind::FreezeMajority
                | Kind::Rolling
                | Kind::Partition => cluster,
                Kind::FullAgent | Kind::FullServer => disks,
                // In a cluster the others have it all; and a store that comes back after they went on
                // without it is another fault.
                Kind::LostDisk => !cluster,
                Kind::Clock => clocked,
                Kind::Cut
                | Kind::HoldUp
                | Kind::HoldDown
                | Kind::Stall
                | Kind::Delay
                | Kind::Throttle
                | Kind::Reset
                | Kind::KillServer
                | Kind::FreezeServer
                | Kind::KillAllServers
                | Kind::KillCentral
                | Kind::FreezeCentral
                | Kind::RestartCentral
                | Kind::KillAgent
                | Kind::FreezeAgent
                | Kind::RestartAgent
                | Kind::KillCentrals
                | Kind::FreezeCentrals
                | Kind::RestartServer
                | Kind::Flap
                | Kind::LostCdr
                | Kind::KillEverything => true,
            };
            if !possible {
                left_out.push(name_of(*kind));
            }
            possible
        });
        left_out
    }

    fn draw(&self, chance: &mut Chance) -> Option<Kind> {
        let kinds: Vec<Kind> = self.0.keys().copied().collect();
        let weights: Vec<u32> = self.0.values().copied().collect();
        kinds.get(chance.weighted(&weights)).copied()
    }
}

fn name_of(kind: Kind) -> &'static str {
    KINDS
        .iter()
        .find(|(k, _, _)| *k == kind)
        .map_or("?", |(_, name, _)| name)
}

/// A fault that is about to happen.
#[derive(Debug, Clone)]
struct Fault {
    number: u64,
    kind: Kind,
    /// Processes or lines, none of which suffers another fault at the same time.
    targets: Vec<String>,
    ms: u64,
    /// Something that the kind needs: milliseconds, bytes, seconds.
    amount: i64,
}

/// Breaks things until told to stop, and mends all that it broke.
pub async fn break_things(
    system: Arc<System>,
    history: Arc<History>,
    mix: Mix,
    seed: u64,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut chance = Chance::new(seed, "nemesis");
    let mut busy: BTreeSet<String> = BTreeSet::new();
    let mut tasks: JoinSet<Fault> = JoinSet::new();
    let mut spell = tokio::time::Instant::now() + draw_ms(&mut chance, SPELL_MS);
    while !*stop.borrow() {
        wait(chance.duration_ms(100, GAP_MS_MAX), &stop).await;
        if tokio::time::Instant::now() >= spell {
            wait(chance.between(LULL_MS.0, LULL_MS.1), &stop).await;
            spell = tokio::time::Instant::now() + draw_ms(&mut chance, SPELL_MS);
        }
        while let Some(done) = tasks.try_join_next() {
            release(&mut busy, done);
        }
        while tasks.len() >= AT_ONCE_MAX {
            if let Some(done) = tasks.join_next().await {
                release(&mut busy, done);
            }
        }
        if *stop.borrow() {
            break;
        }
        let Some(kind) = mix.draw(&mut chance) else {
            wait(1_000, &stop).await;
            continue;
        };
        if kind == Kind::KillEverything {
            // Something always suffers, and then it could never be.
            while let Some(done) = tasks.join_next().await {
                release(&mut busy, done);
            }
        }
        let Some(fault) = plan(&system, &history, kind, &mut chance).await else {
            continue;
        };
        if fault.targets.iter().any(|t| busy.contains(t)) {
            continue;
        }
        busy.extend(fault.targets.iter().cloned());
        tasks.spawn(suffer(system.clone(), history.clone(), fault, stop.clone()));
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a fault")?;
    }
    mend(&system, &history).await
}

fn draw_ms(chance: &mut Chance, (low, high): (u64, u64)) -> Duration {
    Duration::from_millis(chance.between(low, high))
}

fn release(busy: &mut BTreeSet<String>, done: Result<Fault, tokio::task::JoinError>) {
    if let Ok(fault) = done {
        for target in fault.targets {
            busy.remove(&target);
        }
    }
}

/// Draws where and for how long.
async fn plan(
    system: &System,
    history: &History,
    kind: Kind,
    chance: &mut Chance,
) -> Option<Fault> {
    let servers = system.server_names();
    let centrals = system.central_names();
    let agents = system.agent_names();
    let any = |chance: &mut Chance, names: &[String]| chance.pick(names).cloned();
    let mut amount = 0;
    let targets = match kind {
        Kind::Cut
        | Kind::HoldUp
        | Kind::HoldDown
        | Kind::Stall
        | Kind::Delay
        | Kind::Throttle
        | Kind::Reset => {
            amount = match kind {
                Kind::Delay => i64::try_from(chance.duration_ms(10, 1_500)).unwrap_or(0),
                Kind::Throttle => i64::try_from(chance.duration_ms(2_000, 60_000)).unwrap_or(0),
                _ => 0,
            };
            let lines: Vec<String> = system.links.keys().cloned().collect();
            let line = any(chance, &lines)?;
            // Half of the time all lines of one client, which it cannot go around.
            let (client, _) = line.split_once('>')?;
            if chance.percent(50) {
                let own = |l: &&String| l.split_once('>').is_some_and(|(from, _)| from == client);
                lines.iter().filter(own).cloned().collect()
            } else {
                vec![line]
            }
        }
        Kind::KillServer | Kind::FreezeServer | Kind::RestartServer | Kind::LostDisk => {
            vec![any(chance, &servers)?]
        }
        Kind::FreezeMajority => {
            let spared = chance.below(servers.len());
            let majority = servers.iter().enumerate().filter(|(n, _)| *n != spared);
            majority.map(|(_, name)| name.clone()).collect()
        }
        Kind::KillCentrals | Kind::FreezeCentrals => centrals,
        Kind::Flap => {
            amount = i64::try_from(chance.between(2, FLAPS_MAX)).unwrap_or(0);
            let all: Vec<String> = system.members.keys().cloned().collect();
            vec![any(chance, &all)?]
        }
        Kind::KillAllServers | Kind::Rolling => servers,
        Kind::KillLeader | Kind::FreezeLeader => vec![system.ledger_leader().await.ok()?],
        Kind::Partition => {
            let server = any(chance, &servers)?;
            system
                .links
                .keys()
                .filter(|l| {
                    l.split_once('>').is_some_and(|(from, to)| {
                        from.starts_with("nats") && (from == server || to == server)
                    })
                })
                .cloned()
                .collect()
        }
        Kind::KillCentral | Kind::FreezeCentral | Kind::RestartCentral => {
            vec![any(chance, &centrals)?]
        }
        Kind::KillAgent | Kind::FreezeAgent | Kind::RestartAgent => vec![any(chance, &agents)?],
        Kind::KillEverything => {
            let mut all: Vec<String> = system.members.keys().cloned().collect();
            // The order in which they come back.
            for n in (1..all.len()).rev() {
                all.swap(n, chance.below(n + 1));
            }
            all
        }
        Kind::FullAgent | Kind::FullServer => {
            // Whether it is killed meanwhile.
            amount = i64::from(chance.percent(40));
            let names = if kind == Kind::FullAgent {
                &agents
            } else {
                &servers
            };
            vec![any(chance, names)?]
        }
        Kind::LostCdr => vec![streams::CDR.name.to_owned()],
        Kind::Clock => {
            amount = i64::try_from(chance.between(1, 12 * 3600)).unwrap_or(0);
            if chance.percent(50) {
                amount = -amount;
            }
            let clocked: Vec<String> = system
                .members
                .values()
                .filter(|m| m.clock.is_some())
                .map(|m| m.name.clone())
                .collect();
            // By a name of its own: a clock may be wrong while its process is killed.
            vec![format!("clock of {}", any(chance, &clocked)?)]
        }
    };
    let ms = match kind {
        Kind::Reset => 0,
        Kind::KillServer
        | Kind::KillLeader
        | Kind::KillAllServers
        | Kind::KillCentrals
        | Kind::KillEverything => chance.duration_ms(0, 8_000),
        Kind::Flap => chance.between(FLAP_MS.0, FLAP_MS.1),
        Kind::Clock => chance.duration_ms(5_000, 60_000),
        Kind::FullServer => chance.duration_ms(2_000, 12_000),
        Kind::LostDisk => chance.between(LOST_MS.0, LOST_MS.1),
        _ => chance.duration_ms(150, LONG_MS),
    };
    Some(Fault {
        number: history.number(),
        kind,
        targets,
        ms,
        amount,
    })
}

async fn suffer(
    system: Arc<System>,
    history: Arc<History>,
    fault: Fault,
    stop: watch::Receiver<bool>,
) -> Fault {
    let detail = match fault.kind {
        Kind::Delay => format!("by {} ms for {} ms", fault.amount, fault.ms),
        Kind::Throttle => format!("to {} B/s for {} ms", fault.amount, fault.ms),
        Kind::Clock => format!("by {} s for {} ms", fault.amount, fault.ms),
        Kind::FullAgent | Kind::FullServer if fault.amount == 1 => {
            format!("for {} ms, killed and started meanwhile", fault.ms)
        }
        Kind::Flap => format!("{} times, each after at most {} ms", fault.amount, fault.ms),
        _ => format!("for {} ms", fault.ms),
    };
    history.note(Event::FaultBegan {
        fault: fault.number,
        kind: name_of(fault.kind).into(),
        target: fault.targets.join(" "),
        detail,
    });
    let note = match carry_out(&system, &fault, &stop).await {
        Ok(note) => note,
        Err(error) => format!("failed: {error:#}"),
    };
    history.note(Event::FaultEnded {
        fault: fault.number,
        note,
    });
    fault
}

async fn carry_out(system: &System, fault: &Fault, stop: &watch::Receiver<bool>) -> Result<String> {
    let whole = |up, down| Weather {
        up,
        down,
        open: true,
    };
    let amount = fault.amount.unsigned_abs();
    let weather = match fault.kind {
        Kind::Cut => Some(Weather::CUT),
        Kind::HoldUp => Some(whole(Flow::Hold, Flow::Pass)),
        Kind::HoldDown => Some(whole(Flow::Pass, Flow::Hold)),
        Kind::Stall => Some(whole(Flow::Hold, Flow::Hold)),
        // The number decides between a break and silence.
        Kind::Partition if fault.number.is_multiple_of(2) => Some(Weather::CUT),
        Kind::Partition => Some(whole(Flow::Hold, Flow::Hold)),
        Kind::Delay => {
            let flow = Flow::Delay { ms: amount };
            Some(whole(flow, flow))
        }
        Kind::Throttle => {
            let flow = Flow::Throttle {
                bytes_per_s: amount,
            };
            Some(whole(flow, flow))
        }
        _ => None,
    };
    if let Some(weather) = weather {
        set_all(system, &fault.targets, weather);
        wait(fault.ms, stop).await;
        set_all(system, &fault.targets, Weather::FAIR);
        return Ok(String::new());
    }
    match fault.kind {
        Kind::Reset => {
            for line in &fault.targets {
                if let Some(link) = system.links.get(line) {
                    link.reset();
                }
            }
        }
        Kind::KillServer
        | Kind::KillLeader
        | Kind::KillCentral
        | Kind::KillAgent
        | Kind::KillAllServers
        | Kind::KillCentrals
        | Kind::KillEverything => {
            for name in &fault.targets {
                system.member(name)?.process.lock().await.kill9()?;
            }
            wait(fault.ms, stop).await;
            for name in &fault.targets {
                system.member(name)?.process.lock().await.restart()?;
            }
        }
        Kind::FreezeServer
        | Kind::FreezeLeader
        | Kind::FreezeMajority
        | Kind::FreezeCentral
        | Kind::FreezeCentrals
        | Kind::FreezeAgent => {
            for name in &fault.targets {
                system.member(name)?.process.lock().await.pause()?;
            }
            wait(fault.ms, stop).await;
            for name in &fault.targets {
                system.member(name)?.process.lock().await.resume()?;
            }
        }
        Kind::Flap => {
            for name in &fault.targets {
                let process = &system.member(name)?.process;
                for n in 0..amount {
                    // Sooner each time, so that it dies in each part of its start.
                    wait(fault.ms * (amount - n) / amount, stop).await;
                    let mut process = process.lock().await;
                    process.kill9()?;
                    process.restart()?;
                }
            }
        }
        Kind::RestartServer | Kind::RestartCentral | Kind::RestartAgent => {
            for name in &fault.targets {
                restart_in_order(&mut *system.member(name)?.process.lock().await).await?;
            }
        }
        Kind::Rolling => {
            for (n, name) in fault.targets.iter().enumerate() {
                restart_in_order(&mut *system.member(name)?.process.lock().await).await?;
                system.wait_server(n + 1).await?;
            }
        }
        Kind::FullAgent | Kind::FullServer => {
            let name = fault.targets.first().context("a target")?;
            let member = system.member(name)?;
            let disk = member.disk.as_ref().context("no disk of its own")?;
            let filled = fill(disk)?;
            if amount == 0 {
                wait(fault.ms, stop).await;
            } else {
                wait(fault.ms / 2, stop).await;
                // What starts finds no room; it may also end at once.
                member.process.lock().await.restart()?;
                wait(fault.ms / 2, stop).await;
            }
            free(disk)?;
            let mut note = format!("{filled} bytes of filling removed");
            if fault.kind == Kind::FullServer {
                // A server that ran out of space switches JetStream off for good.
                restart_in_order(&mut *member.process.lock().await).await?;
                note.push_str(", restarted");
            } else {
                let mut process = member.process.lock().await;
                if !process.is_running() {
                    process.restart()?;
                    note.push_str(", it had ended, started");
                }
                drop(process);
                // The charger's own memory lies on the same disk, which in a real cabinet it
                // does not: its state is written again before anything else happens to it.
                for _ in 0..10 {
                    if system.ctl(name, &["link", "up", name]).await.0 {
                        break;
                    }
                }
            }
            return Ok(note);
        }
        Kind::LostDisk => {
            let name = fault.targets.first().context("a target")?;
            lose_the_store(system, name, fault.ms, stop).await?;
        }
        Kind::LostCdr => {
            let url = system.direct_url();
            let nats = system.keys.connect(&url, Role::Maintainer, "mona").await?;
            jetstream::new(nats)
                .delete_stream(streams::CDR.name)
                .await?;
        }
        Kind::Clock => {
            let name = fault
                .targets
                .first()
                .and_then(|t| t.strip_prefix("clock of "));
            let member = system.member(name.context("a target")?)?;
            let file = member.clock.as_ref().context("no clock of its own")?;
            set_clock(file, fault.amount)?;
            wait(fault.ms, stop).await;
            set_clock(file, 0)?;
        }
        _ => bail!("nothing is done for it"),
    }
    Ok(String::new())
}

/// Runs a server without its store for a while, and then with it again. Nobody may be ready meanwhile.
async fn lose_the_store(
    system: &System,
    name: &str,
    ms: u64,
    stop: &watch::Receiver<bool>,
) -> Result<()> {
    let process = &system.member(name)?.process;
    let folder = system.plan.dir.join(name);
    process.lock().await.kill9()?;
    std::fs::rename(folder.join(STORE), folder.join(AWAY)).context("move the store away")?;
    process.lock().await.restart()?;
    wait(ms, stop).await;
    let mut ready = Vec::new();
    // A run that ends may not have given them the time.
    if !*stop.borrow() {
        for central in 0..system.plan.centrals {
            if let Ok((200, _)) = system.readyz(central).await {
                ready.push(central + 1);
            }
        }
    }
    find_the_store(&mut *process.lock().await, &folder)?;
    if !ready.is_empty() {
        bail!("{SERVED}: {ready:?}");
    }
    Ok(())
}

/// Brings a store back, if it is away.
fn find_the_store(process: &mut Process, folder: &Path) -> Result<()> {
    if !folder.join(AWAY).exists() {
        return Ok(());
    }
    process.kill9()?;
    match std::fs::remove_dir_all(folder.join(STORE)) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).context("remove the empty store");
        }
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(folder.join(AWAY), folder.join(STORE)).context("move the store back")?;
    process.restart()
}

async fn restart_in_order(process: &mut Process) -> Result<()> {
    // One that has died by itself is only begun again.
    if process.is_running() {
        process.terminate()?;
        let deadline = tokio::time::Instant::now() + END_WITHIN;
        while process.is_running() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if process.is_running() {
            process.restart()?;
            bail!("did not end in order within {} s", END_WITHIN.as_secs());
        }
    }
    process.restart()
}

fn set_all(system: &System, lines: &[String], weather: Weather) {
    for line in lines {
        if let Some(link) = system.links.get(line) {
            link.set(weather);
        }
    }
}

fn filler(disk: &Path) -> PathBuf {
    disk.join("filling")
}

/// Writes until nothing more fits.
fn fill(disk: &Path) -> Result<u64> {
    let mut file = File::create(filler(disk)).context("create the filling")?;
    let mut filled = 0;
    let mut piece = 256 * 1024;
    let zeros = vec![0; piece];
    while piece > 0 {
        match file.write(&zeros[..piece]) {
            Ok(count) => filled += count as u64,
            Err(e) if e.kind() == ErrorKind::StorageFull => piece /= 8,
            Err(e) => return Err(e).context("fill a disk"),
        }
    }
    Ok(filled)
}

fn free(disk: &Path) -> Result<()> {
    std::fs::remove_file(filler(disk)).context("remove the filling")
}

fn set_clock(file: &Path, offset_s: i64) -> Result<()> {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, format!("{offset_s:+}\n")).context("write a clock's offset")?;
    std::fs::rename(&fresh, file).context("set a clock")
}

/// Everything works again, whatever was going on.
pub async fn mend(system: &System, history: &History) -> Result<()> {
    for link in system.links.values() {
        link.set(Weather::FAIR);
    }
    for member in system.members.values() {
        if let Some(disk) = &member.disk {
            // Nearly always it is gone already.
            let _ = free(disk);
        }
        if let Some(clock) = &member.clock {
            set_clock(clock, 0)?;
        }
        let mut process = member.process.lock().await;
        find_the_store(&mut process, &system.plan.dir.join(&member.name))?;
        if process.is_running() {
            process.resume()?;
        } else {
            history.note(Event::Note {
                text: format!("{} had ended by itself", member.name),
            });
            process.restart()?;
        }
    }
    Ok(())
}

async fn wait(ms: u64, stop: &watch::Receiver<bool>) {
    let mut stop = stop.clone();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_all_some_or_all_but_some() {
        let of = |text: &str| Mix::parse(text).expect("a mix").0;
        assert_eq!(of("").len(), KINDS.len());
        assert_eq!(of("-clock").len(), KINDS.len() - 1);
        assert_eq!(
            of("cut=9,reset"),
            BTreeMap::from([(Kind::Cut, 9), (Kind::Reset, 8)])
        );
        assert!(Mix::parse("rain").is_err());
    }
}
