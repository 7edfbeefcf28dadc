//! Charge points by the thousand in one process, to load a hub with: the agent's own code, real
//! subjects, simulated chargers.
//!
//! - [`spec`]: what a swarm consists of
//! - [`cars`]: who comes to charge
//! - [`backlog`]: what was recorded while it was offline
//! - [`report`]: what it says of itself

pub mod backlog;
pub mod cars;
pub mod report;
pub mod spec;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use edge_core::Rates;
use ev_client::{Access, Credential, Term};
use ev_contract::ids::CpId;
use futures::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::{
    cars::CarCounts,
    report::{Kind, Report, Sources},
    spec::{Lines, Spec},
};
use crate::{
    Host,
    actor::Reach,
    clock::wall_now,
    config::ChargePointConfig,
    control::Reachable,
    store::{Place, Store},
    tally::{Seat, Tally},
    uplink::{Caller, Line},
};

/// Between two looks at how many are to begin, and whether anything waits.
const TICK: Duration = Duration::from_millis(20);
/// At the end, how long sessions at the cabinets may take to end and records to be sent.
const SETTLE: Duration = Duration::from_secs(20);
/// How long all charge points may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(15);
/// Open files beside connections and stores.
const FILES_SPARE: u64 = 256;
/// Of a store on the disk: the file and its log, and the charger's for a moment.
const FILES_PER_STORE: u64 = 2;
/// Charge points whose stores are filled at once.
const FILLED_AT_ONCE: usize = 4;

/// Runs a swarm until it has lasted as long as it should or `shutdown` says so, and what it says is
/// told to `say`. Returns the summary.
///
/// # Errors
/// When a credential or a folder cannot be used, or there are too few open files for it.
pub async fn run(
    spec: Spec,
    mut shutdown: watch::Receiver<bool>,
    mut say: impl FnMut(&Report),
) -> anyhow::Result<Report> {
    spec.check()?;
    let names = spec.names.all()?;
    let groups = groups(&spec.lines, &names)?;
    check_files(&spec, &groups)?;
    let configs = configs(&spec, &names, &groups);
    let backlog = fill(&spec, &configs).await?;
    let connectors = configs.len() * usize::from(spec.connectors);
    let (ended_to, ended) = mpsc::channel(connectors.max(1));
    let tally = Arc::new(Tally::new(configs.len(), ended_to));
    let (stop, stopped) = watch::channel(false);
    let mut fleet = Fleet {
        lines: Opened::new(&spec, &groups),
        spec: &spec,
        stopped,
        tally: Arc::clone(&tally),
        all: Vec::new(),
        tasks: Vec::new(),
    };
    let counts = Arc::new(CarCounts::default());
    let (close, closing) = watch::channel(false);
    let mut coming: Option<JoinHandle<()>> = None;
    let mut ended = Some(ended);
    let began = Instant::now();
    let mut drained_ms = None;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut says_at = began + spec.progress;
    let ends_at = spec.lasts.map(|lasts| began + lasts);
    let report = |kind, begun, drained_ms, settled| {
        let sources = Sources {
            count: spec.names.count,
            begun,
            since: began.elapsed(),
            tally: &tally,
            cars: &counts,
            backlog,
            drained_ms,
        };
        Report::new(kind, &sources, settled)
    };
    loop {
        tokio::select! {
            () = crate::stopped(&mut shutdown) => break,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        if ends_at.is_some_and(|at| now >= at) {
            break;
        }
        let due = due(&spec, now - began);
        while fleet.all.len() < due {
            fleet.begin_next(&configs).await?;
        }
        let has_all = fleet.all.len() == configs.len();
        if has_all && let Some(ended) = ended.take() {
            let all = Arc::new(fleet.all.clone());
            let counts = Arc::clone(&counts);
            coming = Some(tokio::spawn(cars::come_and_go(
                spec.cars,
                all,
                counts,
                ended,
                closing.clone(),
            )));
        }
        let totals = tally.totals();
        if backlog > 0
            && drained_ms.is_none()
            && totals.records_acknowledged >= backlog
            && totals.waiting == 0
        {
            drained_ms = Some(u64::try_from((now - began).as_millis()).unwrap_or(u64::MAX));
        }
        if now >= says_at {
            says_at = now + spec.progress;
            say(&report(Kind::Progress, fleet.all.len(), drained_ms, None));
        }
    }
    close.send_replace(true);
    let settled = timeout(SETTLE, settle(coming, &tally)).await.is_ok();
    let last = report(Kind::Summary, fleet.all.len(), drained_ms, Some(settled));
    stop.send_replace(true);
    fleet.end().await;
    Ok(last)
}

/// How many charge points have begun after so long.
fn due(spec: &Spec, passed: Duration) -> usize {
    let count = u64::from(spec.names.count);
    let due = spec.ramp_per_s.map_or(count, |per_s| {
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        (u64::from(per_s).saturating_mul(passed_ms) / 1_000 + 1).min(count)
    });
    usize::try_from(due).unwrap_or(usize::MAX)
}

/// Waits until no car is there and no record waits.
async fn settle(coming: Option<JoinHandle<()>>, tally: &Tally) {
    if let Some(coming) = coming
        && let Err(e) = coming.await
    {
        tracing::error!(error = %e, "the cars are gone");
    }
    let mut ticks = interval(TICK);
    while tally.totals().waiting > 0 {
        ticks.tick().await;
    }
}

/// A credential and the charge points that use it, as numbers.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    credentials: PathBuf,
    name: String,
    members: Vec<usize>,
}

/// Who connects with which credential.
fn groups(lines: &Lines, names: &[CpId]) -> anyhow::Result<Vec<Group>> {
    match lines {
        Lines::Own(folder) => names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let credentials = folder.join(format!("{name}.creds"));
                let read = Credential::read(&credentials)
                    .context("`edge-cp swarm … --names | central enrol charge-point --from - --missing` makes what is missing")?;
                read.check(&credentials, "charge-point", name.as_str())?;
                Ok(Group {
                    credentials,
                    name: name.to_string(),
                    members: vec![n],
                })
            })
            .collect(),
        Lines::Shared(folder) => shared_groups(folder, names),
    }
}

fn shared_groups(folder: &Path, names: &[CpId]) -> anyhow::Result<Vec<Group>> {
    let shown = folder.display();
    let mut left: BTreeMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), n))
        .collect();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {shown}"))? {
        let path = entry.with_context(|| format!("read {shown}"))?.path();
        if path.extension().is_some_and(|ext| ext == "creds") {
            files.push(path);
        }
    }
    files.sort_unstable();
    let mut groups = Vec::new();
    for credentials in files {
        let read = Credential::read(&credentials)?;
        if read.role() != Some("load") {
            continue;
        }
        let members: Vec<usize> = read
            .charge_points()
            .iter()
            .filter_map(|cp| left.remove(cp.as_str()))
            .collect();
        if !members.is_empty() {
            groups.push(Group {
                credentials,
                name: read.name().to_owned(),
                members,
            });
        }
    }
    if let Some(missing) = left.keys().next() {
        bail!(
            "{} charge points, {missing} for one, are in no load credential in {shown}: \
             `edge-cp swarm … --names | central enrol load NAME --from -` makes them, on a hub that \
             is there to be tested",
            left.len()
        );
    }
    Ok(groups)
}

/// Whether there may be so many open files, raising the limit as far as it goes.
fn check_files(spec: &Spec, groups: &[Group]) -> anyhow::Result<()> {
    let stores = spec.state_dir.as_ref().map_or(0, |_| FILES_PER_STORE);
    let lines = u64::try_from(groups.len()).unwrap_or(u64::MAX);
    let needed = lines + stores * u64::from(spec.names.count) + FILES_SPARE;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= needed {
        return Ok(());
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        most >= needed,
        "{needed} files would be open at once and {most} may be (`ulimit -Hn`): leave --state-dir \
         out, share connections, or begin fewer charge points"
    );
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(needed),
            maximum: limit.maximum,
        },
    )
    .context("raise the limit of open files")
}

fn configs(spec: &Spec, names: &[CpId], groups: &[Group]) -> Vec<Arc<ChargePointConfig>> {
    let mut credentials = vec![PathBuf::new(); names.len()];
    for group in groups {
        for &n in &group.members {
            credentials[n].clone_from(&group.credentials);
        }
    }
    let (connectors, simulator) = (spec.connector_specs(), spec.strong_simulator());
    names
        .iter()
        .zip(credentials)
        .map(|(id, credentials)| {
            Arc::new(ChargePointConfig {
                id: id.clone(),
                site: spec.site.clone(),
                time_zone: spec.time_zone.clone(),
                connectors: connectors.clone(),
                credentials,
                simulator: simulator.clone(),
            })
        })
        .collect()
}

/// Records from before. Returns how many lie in all stores.
async fn fill(spec: &Spec, configs: &[Arc<ChargePointConfig>]) -> anyhow::Result<u64> {
    let Some(dir) = &spec.state_dir else {
        return Ok(0);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    if spec.backlog == 0 {
        return Ok(0);
    }
    let mut all = 0;
    for some in configs.chunks(FILLED_AT_ONCE) {
        let filled = some.iter().map(async |config| {
            let place = Place::File(Store::path(dir, &config.id));
            let (store, stored) = Store::open_at(&place).await?;
            let had = stored.next - stored.first;
            let now = wall_now();
            let filled = backlog::fill(&store, stored, config, spec.backlog, now).await?;
            store.close().await;
            anyhow::Ok(had + filled)
        });
        for one in join_all(filled).await {
            all += one.context("fill a store")?;
        }
    }
    Ok(all)
}

/// Connections that are shared, made when the first of their charge points begins.
struct Opened {
    /// By a charge point's number.
    of: Vec<usize>,
    shared: Vec<Shared>,
}

struct Shared {
    access: Access,
    name: String,
    open: Option<(Line, Arc<Vec<Term>>)>,
}

impl Opened {
    fn new(spec: &Spec, groups: &[Group]) -> Self {
        let Lines::Shared(_) = spec.lines else {
            return Self {
                of: Vec::new(),
                shared: Vec::new(),
            };
        };
        let count = groups.iter().map(|g| g.members.len()).sum();
        let mut of = vec![0; count];
        for (g, group) in groups.iter().enumerate() {
            for &n in &group.members {
                of[n] = g;
            }
        }
        let shared = groups
            .iter()
            .map(|group| Shared {
                access: access(spec, &group.credentials),
                name: group.name.clone(),
                open: None,
            })
            .collect();
        Self { of, shared }
    }
}

fn access(spec: &Spec, credentials: &Path) -> Access {
    Access {
        url: spec.nats_url.clone(),
        credentials: credentials.to_owned(),
        tls: spec.tls.clone(),
    }
}

struct Fleet<'s> {
    spec: &'s Spec,
    lines: Opened,
    stopped: watch::Receiver<bool>,
    tally: Arc<Tally>,
    all: Vec<Reachable>,
    tasks: Vec<JoinHandle<()>>,
}

impl Fleet<'_> {
    async fn begin_next(&mut self, configs: &[Arc<ChargePointConfig>]) -> anyhow::Result<()> {
        let number = self.all.len();
        let Some(config) = configs.get(number) else {
            return Ok(());
        };
        let reach = self.reach(number, config).await?;
        let host = Host {
            state_dir: self.spec.state_dir.as_deref(),
            speed: self.spec.speed,
            rates: Rates::ORDINARY,
            shutdown: &self.stopped,
        };
        let seat = Seat::new(Arc::clone(&self.tally), number);
        let (reachable, tasks) = host.begin(Arc::clone(config), reach, Some(seat));
        self.all.push(reachable);
        self.tasks.extend(tasks);
        Ok(())
    }

    async fn reach(&mut self, number: usize, config: &ChargePointConfig) -> anyhow::Result<Reach> {
        let source = |n: usize| {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            self.spec.sources.map(|all| IpAddr::V4(all.nth(n)))
        };
        let Some(&group) = self.lines.of.get(number) else {
            return Ok(Reach::Own {
                access: access(self.spec, &config.credentials),
                source: source(number),
            });
        };
        let source = source(group);
        let shared = &mut self.lines.shared[group];
        let (line, terms) = match &shared.open {
            Some(open) => open.clone(),
            None => {
                let caller = Caller {
                    name: shared.name.clone(),
                    source,
                    ping_every: Duration::from_secs(Rates::ORDINARY.ping_s.into()),
                };
                let line = Line::connect(&shared.access, caller, Arc::new(Notify::new())).await?;
                let open = (line, Arc::new(shared.access.terms()));
                shared.open.insert(open).clone()
            }
        };
        Ok(Reach::Shared { line, terms })
    }

    async fn end(self) {
        let ended = timeout(GOODBYE, async {
            join_all(self.tasks).await;
            let lines = self.lines.shared.iter().filter_map(|s| s.open.as_ref());
            join_all(lines.map(|(line, _)| line.close(GOODBYE))).await;
        });
        if ended.await.is_err() {
            tracing::warn!("not every charge point ended in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_begins_so_many_a_second_and_no_more_than_there_are() {
        let mut spec = spec::tests::spec();
        spec.names.count = 100;
        let after = |spec: &Spec, ms| due(spec, Duration::from_millis(ms));
        assert_eq!(after(&spec, 0), 100);
        spec.ramp_per_s = Some(50);
        assert_eq!(
            [0, 100, 1_000, 5_000].map(|ms| after(&spec, ms)),
            [1, 6, 51, 100]
        );
    }
}
