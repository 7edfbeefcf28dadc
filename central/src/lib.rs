//! Central's shell: NATS, the ledger's stream, HTTP, metrics. What is decided is decided in
//! `central-core`.
//!
//! - [`config`]: the configuration file
//! - [`border`], [`run`]: from bytes to questions
//! - [`admission`], [`held`]: how much of them
//! - [`archive`]: verifying, copying and bringing back the streams
//! - [`audit`]: who did what
//! - [`door`]: who is connected to nats-server
//! - [`engine`]: the loop that owns the state
//! - [`whole`]: which ledger is served, and whether it is the one that is there
//! - [`ledger`], [`snapshots`], [`receipts`]: the streams; [`reports`]: reading them for operators
//! - [`uptime`]: what is seen of connectors, written down
//! - [`orders`], [`calls`]: commands to charge points
//! - [`heard`]: heartbeats of charge points
//! - [`out`]: what leaves
//! - [`reload`]: another configuration while it runs
//! - [`http`], [`health`], [`metrics`]: for those who watch

pub mod admission;
pub mod archive;
pub mod audit;
pub mod border;
pub mod calls;
pub mod config;
pub mod door;
pub mod engine;
pub mod health;
pub mod heard;
pub mod held;
pub mod http;
pub mod ledger;
pub mod metrics;
pub mod orders;
pub mod out;
pub mod receipts;
pub mod reload;
pub mod reports;
pub mod run;
mod schedule;
pub mod snapshots;
mod subscriptions;
pub mod uptime;
pub mod whole;

use std::{
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use async_nats::jetstream;
use central_core::{
    state::{Alarm, Log},
    whole::Verdict,
};
use ev_client::{Access, LinkEvent, Pauses, Reminder, Rhythm, Terms, What};
use ev_contract::{ids::CpId, streams};
use ev_service::Manager;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

pub use crate::config::{Config, ConfigError};
use crate::{
    audit::Audit,
    door::Bridge,
    engine::{Beginning, Ended, Engine, Inputs, Outlets, Places},
    health::{Health, Stage},
    ledger::Extent,
    metrics::Metrics,
    out::Out,
    reload::Reloader,
    reports::Reports,
    whole::Marks,
};

/// Soon, since everybody waits for central; replicas do not come back in step.
const PAUSES: Pauses = Pauses {
    first_max: Duration::from_millis(100),
    min: Duration::from_millis(100),
    max: Duration::from_secs(2),
};
/// How often the servers' certificates are looked at: an alert that stands for days hears of a new
/// one within the hour, or with the next connection.
const RHYTHM: Rhythm = Rhythm {
    every: Duration::from_secs(3_600),
    spread: Duration::from_secs(2),
};
/// What waits in the client library for the connection; while it is down, whoever sends more waits.
/// Few, since what waits there can be large and can no longer be taken back.
const CLIENT_QUEUE: usize = 1_024;
/// A round trip takes milliseconds; a server that is gone is not waited for.
const LAST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// How often the service manager is told how this is; it sets its watchdog to many times that.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts to prepare streams while the server is not ready for them.
const PREPARE_AGAIN: Duration = Duration::from_millis(500);
/// Between two looks at a ledger that is not the one that was served, some of which read a snapshot.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What answers for nats-server's numbers, while there is one.
pub type HereBridge = Arc<Mutex<Option<Arc<Bridge>>>>;

/// Runs until a signal with the configuration of a file; the process's exit status.
#[must_use]
pub fn main(config: Config, path: &Path) -> ExitCode {
    ev_service::log("info,async_nats=warn");
    // The engine decides alone, and everything else hands it something or takes something from it:
    // on one thread that costs a place in a queue, between two a wake-up of the other, which takes
    // longer than a decision. What takes long for itself has threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        // Caught before anything else: uncaught it ends the process.
        let hang_ups = hang_ups().context("listening to SIGHUP")?;
        let (reloader, configs) = Reloader::new(path, config);
        tokio::spawn(async move {
            if let Err(error) = signalled().await {
                tracing::error!(%error, "signals cannot be listened to");
            }
            // Nobody listens when everything has ended.
            let _ = stop.send(true);
        });
        run(configs, Some((reloader, hang_ups)), stopped).await
    });
    // Tasks that wait for answers need not be waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "central ends");
            ExitCode::FAILURE
        }
    }
}

fn hang_ups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

async fn signalled() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Runs until `stop` is set, then drains. What can change of the configuration is followed; `reloads`
/// is who changes it, and at which signal.
///
/// # Errors
/// When it cannot serve: no port, no connection, streams that cannot be used.
pub async fn run(
    configs: watch::Receiver<Config>,
    reloads: Option<(Reloader, Signal)>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let config = configs.borrow().clone();
    let metrics = Arc::new(Metrics::new().context("registering metrics")?);
    metrics.build(config.replica.as_str());
    let (health, watched) = watch::channel(Health::starting());
    let bridge = HereBridge::default();
    let listener = TcpListener::bind(config.http_addr)
        .await
        .with_context(|| format!("binding HTTP to {}", config.http_addr))?;
    let bound = listener.local_addr().context("the bound address")?;
    tracing::info!(replica = %config.replica, http = %bound, nats = config.nats_url, "central begins");
    let serving = tokio::spawn(http::serve(
        listener,
        Arc::clone(&metrics),
        Arc::clone(&bridge),
        watched.clone(),
        stop.clone(),
    ));
    let told = tokio::spawn(tell(watched.clone(), reloads, stop.clone()));
    let outcome = loop {
        let once = serve(
            configs.clone(),
            stop.clone(),
            Arc::clone(&metrics),
            &bridge,
            health.clone(),
            watched.clone(),
        );
        match once.await {
            // Its disk may come back: as after a start, what is there then is held against what was.
            Ok(Ended::LedgerLost) => {}
            Ok(Ended::Stopped) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    serving.abort();
    told.abort();
    outcome
}

/// Tells the service manager how this replica is, until it is to stop, and reads the configuration anew
/// when it says so.
async fn tell(
    health: watch::Receiver<Health>,
    mut reloads: Option<(Reloader, Signal)>,
    mut stop: watch::Receiver<bool>,
) {
    let mut manager = Manager::from_env();
    let mut about_config = None;
    loop {
        let now = health.borrow().clone();
        let why_not = now.not_ready();
        let mut status = why_not.clone().unwrap_or_else(|| "answers".into());
        if let Some(about_config) = &about_config {
            status = format!("{status}; {about_config}");
        }
        manager.tell(why_not.is_none(), now.is_alive(), &status);
        let hung_up = async {
            match &mut reloads {
                Some((reloader, signal)) => {
                    signal.recv().await;
                    reloader
                }
                None => std::future::pending().await,
            }
        };
        let pause = tokio::time::sleep(TELL_EVERY);
        tokio::select! {
            () = pause => {}
            reloader = hung_up => about_config = manager.reloads(|| reloader.reload()).status(),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    manager.stopping();
}

async fn serve(
    configs: watch::Receiver<Config>,
    mut stop: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    bridge: &HereBridge,
    health: watch::Sender<Health>,
    watched: watch::Receiver<Health>,
) -> anyhow::Result<Ended> {
    let config = configs.borrow().clone();
    let terms = Terms::new(config.access()?, RHYTHM);
    let links = Links::connect(&config, &metrics, &terms.connected()).await?;
    // Ends with this function, however that returns.
    let mut reminding = JoinSet::new();
    reminding.spawn(remind(terms, config.door_access()?, Arc::clone(&metrics)));
    let client = links.main.clone();
    let outward = [&links.answers, &links.outward].map(|link| jetstream::new(link.clone()));
    let js = jetstream::new(client.clone());
    let mut last = None;
    let (places, beginning, answers) = loop {
        let pause = tokio::select! {
            prepared = prepare(&config, &links, &js) => match prepared {
                Ok(prepared) => break prepared,
                Err(error) => not_yet(&error, &config, &links, &metrics, &health, &mut last),
            },
            _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
        };
        tokio::time::sleep(pause).await;
    };
    let from = beginning.log.state().basis().seq + 1;
    let (entries_to, entries) = mpsc::channel(ledger::READ_AHEAD);
    let reader = tokio::spawn(ledger::read(
        client.clone(),
        places.ledger.clone(),
        from,
        beginning.target,
        entries_to,
    ));
    let (out, sending) = Out::start(
        links.answers.clone(),
        links.outward.clone(),
        Arc::clone(&metrics),
    );
    let (audit, auditing) = Audit::start(
        js.clone(),
        places.audit.clone(),
        Reports::new(places.cdr.clone(), places.uptime.clone()),
        config.replica.clone(),
        out.clone(),
        Arc::clone(&metrics),
    );
    let (seen, writing) = uptime::start(js.clone());
    let (left_to, left) = mpsc::channel(door::LEFT_MAX);
    let mut watching =
        watch_the_door(&config, configs.clone(), &audit, &metrics, bridge, left_to).await?;
    let (questions, heartbeats, subscribed) = subscriptions::start(
        links,
        configs.clone(),
        out.clone(),
        audit.clone(),
        Arc::clone(&metrics),
        watched,
    );
    let engine = Engine::new(
        config,
        places,
        Outlets { out, audit, seen },
        metrics,
        health,
        beginning,
    );
    let ended = engine
        .run(Inputs {
            questions,
            heartbeats,
            left,
            entries,
            answers,
            configs,
            stop,
        })
        .await;
    reader.abort();
    subscribed.abort();
    // It holds the audit open.
    watching.shutdown().await;
    // Replies that the engine gave at the end are still on their way, some to the audit first.
    let left = async {
        let _ = auditing.await;
        let _ = futures::future::join_all(sending).await;
        let _ = writing.await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), left).await;
    // Sent is not read: what the server has not read when this end closes with something unread is
    // lost. It answers after it has read what came before.
    let read = async {
        tokio::join!(
            outward[0].query_account(),
            outward[1].query_account(),
            js.query_account()
        )
    };
    let _ = tokio::time::timeout(LAST_ROUND_TRIP, read).await;
    Ok(ended)
}

/// Shows why the ledger cannot be read yet, and says it once; how long to wait before the next look.
fn not_yet(
    error: &anyhow::Error,
    config: &Config,
    links: &Links,
    metrics: &Metrics,
    health: &watch::Sender<Health>,
    last: &mut Option<String>,
) -> Duration {
    let connected = links.main.connection_state() == async_nats::connection::State::Connected;
    metrics.connected(connected);
    let alarm = error.downcast_ref::<Alarm>();
    let why = match alarm {
        Some(alarm) => {
            metrics.alarm(Some(alarm));
            whole::words(alarm, config)
        }
        None if !connected => "not connected to nats-server".to_owned(),
        None => format!("{error:#}"),
    };
    if last.as_ref() != Some(&why) {
        match alarm {
            Some(_) => tracing::error!(why, "ledger alarm: this replica does not answer"),
            None => tracing::warn!(why, "not ready; trying again"),
        }
        *last = Some(why.clone());
    }
    health.send_modify(|h| {
        h.turned_at = std::time::Instant::now();
        h.stage = match alarm {
            Some(_) => Stage::Alarmed(why),
            None => Stage::Waiting(why),
        };
    });
    if alarm.is_some() {
        LOOK_AGAIN
    } else {
        PREPARE_AGAIN
    }
}

/// Shows when what this replica connects with ends, and says so in time.
async fn remind(mut terms: Terms, door: Option<Access>, metrics: Arc<Metrics>) {
    let mut reminder = Reminder::default();
    loop {
        let mut read = terms.next().await;
        // It connects to the same servers, and differs in its credential alone.
        let of_door = door.iter().flat_map(Access::terms);
        read.extend(of_door.filter(|term| term.what == What::Credentials));
        metrics.expires(&read);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_s = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        for warning in reminder.due(&read, now_s) {
            tracing::warn!("{warning}");
        }
    }
}

/// Watches who connects, where there is a credential for it.
async fn watch_the_door(
    config: &Config,
    configs: watch::Receiver<Config>,
    audit: &Audit,
    metrics: &Arc<Metrics>,
    bridge: &HereBridge,
    left: mpsc::Sender<CpId>,
) -> anyhow::Result<JoinSet<()>> {
    let Some(access) = config.door_access()? else {
        tracing::warn!(
            "nobody watches who connects to nats-server: give doorkeeper_credentials, which \
             `central enrol doorkeeper {}` writes",
            config.replica
        );
        return Ok(JoinSet::new());
    };
    let (tasks, here) = door::start(
        &access,
        config.replica.as_str(),
        configs,
        audit.clone(),
        Arc::clone(metrics),
        left,
    )
    .await?;
    *bridge.lock().unwrap_or_else(PoisonError::into_inner) = Some(here);
    Ok(tasks)
}

/// Messages that the client library keeps for the task that takes them; it drops what is beyond.
/// Their sizes are not counted there, so that these numbers bound memory: by the server's
/// `max_payload` in the worst case, by the contract's sizes in the usual one.
mod untaken {
    /// The ledger. The server sends it only so far ahead.
    pub const MAIN: usize = 65_536;
    /// Nothing is asked for by it but, at the end, whether all was read.
    pub const ANSWERS: usize = 16;
    /// Answers of charge points, and of those all that can be asked at once.
    pub const OUTWARD: usize = 8_192;
    /// Requests of up to 16 KiB.
    pub const REQUESTS: usize = 2_048;
    /// Runs of records of up to 256 KiB. The agents of those beyond ask again after five seconds.
    pub const RECORDS: usize = 1_024;
    /// Syncs and heartbeats of some hundred bytes: all charge points of a server at once.
    pub const PRESENCE: usize = 8_192;
}

/// The connections. One per kind of question, since a connection is what a flood fills first, and
/// what the server closes when it is not read fast enough: the ledger must not wait behind anybody's
/// requests, and nobody's requests behind another kind. The server takes what comes by one
/// connection in turn: a frame would wait for all the answers that the one before it gave rise to,
/// if they went by the same, and an answer for the commands beside it.
#[derive(Debug, Clone)]
struct Links {
    /// The ledger, and all that is kept in streams.
    main: async_nats::Client,
    /// Answers.
    answers: async_nats::Client,
    /// Updates and commands.
    outward: async_nats::Client,
    /// Requests of drivers and operators.
    requests: async_nats::Client,
    /// Spool records.
    records: async_nats::Client,
    /// Syncs and heartbeats.
    presence: async_nats::Client,
}

impl Links {
    async fn connect(
        config: &Config,
        metrics: &Arc<Metrics>,
        connected: &Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let named = |kind: &str| format!("central {}{kind}", config.replica);
        let link = |name, untaken| connect(config, metrics, connected, name, untaken);
        Ok(Self {
            main: link(named(""), untaken::MAIN).await?,
            answers: link(named(" answers"), untaken::ANSWERS).await?,
            outward: link(named(" outward"), untaken::OUTWARD).await?,
            requests: link(named(" requests"), untaken::REQUESTS).await?,
            records: link(named(" records"), untaken::RECORDS).await?,
            presence: link(named(" presence"), untaken::PRESENCE).await?,
        })
    }
}

async fn connect(
    config: &Config,
    metrics: &Arc<Metrics>,
    connected: &Arc<Notify>,
    name: String,
    untaken: usize,
) -> anyhow::Result<async_nats::Client> {
    let access = config.access()?;
    let (metrics, connected) = (Arc::clone(metrics), Arc::clone(connected));
    let called = name.clone();
    let (options, _) = access.options(PAUSES, move |event| {
        let (metrics, link) = (Arc::clone(&metrics), called.clone());
        let connected = Arc::clone(&connected);
        async move {
            match event {
                LinkEvent::Up => {
                    tracing::info!(link, "connected to nats-server");
                    connected.notify_one();
                }
                LinkEvent::Down => tracing::warn!(link, "nats-server is out of reach"),
                LinkEvent::Denied(_) | LinkEvent::Refused(_) => {
                    tracing::error!(link, "{event}");
                }
                LinkEvent::Failed(_) => tracing::warn!(link, "{event}"),
                LinkEvent::Slow => {
                    // Counted and not logged: in a storm there is one for each message.
                    metrics.ignored("came_too_fast");
                }
                LinkEvent::Other(words) => tracing::debug!(link, words, "nats"),
            }
        }
    })?;
    options
        .name(name)
        .retry_on_initial_connect()
        .client_capacity(CLIENT_QUEUE)
        .subscription_capacity(untaken)
        .connect(access.servers()?)
        .await
        .context("connecting to nats-server")
}

/// Streams, snapshot, and how far the ledger goes. In a world that is not the one that was served nothing
/// is made.
///
/// # Errors
/// An [`Alarm`] where it is not; else when the server does not answer.
async fn prepare(
    config: &Config,
    links: &Links,
    js: &jetstream::Context,
) -> anyhow::Result<(Places, Beginning, mpsc::Receiver<calls::Heard>)> {
    let mut found = whole::look(config, js).await?;
    if found.evidence.judge() == Verdict::Begin {
        let replica = config.replica.clone();
        let id = ledger::begin(js, config.stream_replicas, replica, None).await?;
        tracing::info!(ledger = %id, "the first ledger of this installation is made");
        found = whole::look(config, js).await?;
    }
    let (marker, snapshot) = match found.evidence.judge() {
        Verdict::Serve { marker, snapshot } => (marker, snapshot),
        Verdict::Stop(alarm) => return Err(alarm.into()),
        Verdict::Begin => anyhow::bail!("the server does not show yet what it has taken"),
    };
    let ledger = found.ledger.context("the ledger's stream")?;
    let extent = Extent::of(ledger.cached_info());
    let marks = Marks::of(config);
    if found.evidence.marker != Some(marker) {
        marks.write(&marker)?;
        tracing::info!(ledger = %marker.ledger, marker = %marks.path().display(), "served for the first time");
    }
    let mut anew = Vec::new();
    // What a ledger has that was just made is its first frame. Snapshots are in no backup.
    if extent.last > 1 {
        for name in whole::OTHERS {
            if name != streams::SNAPSHOTS && ledger::find(js, name).await?.is_none() {
                anew.push(name);
            }
        }
    }
    let cdr = ledger::ensure(js, &streams::CDR, config.stream_replicas).await?;
    ev_crash::reach("prepared", "cdr");
    let uptime = ledger::ensure(js, &streams::UPTIME, config.stream_replicas).await?;
    let audit = audit::ensure(js, config.stream_replicas).await?;
    ev_crash::reach("prepared", "audit");
    let bucket = snapshots::bucket(js, config.stream_replicas).await?;
    ev_crash::reach("prepared", "snapshots");
    let log = match found.snapshot.filter(|_| snapshot) {
        Some(state) => {
            tracing::info!(seq = state.basis().seq, "going on from a snapshot");
            Log::from_snapshot(state)
        }
        None => Log::default(),
    };
    let before = format!("{} before it was started", config.replica);
    let log = log.vouched_by(marker.basis(), before);
    let (inbox, answers) = calls::listen(&links.outward)
        .await
        .context("listening to charge points' answers")?;
    let places = Places {
        client: links.main.clone(),
        outward: [&links.answers, &links.outward].map(Clone::clone),
        intake: [&links.requests, &links.records, &links.presence].map(Clone::clone),
        js: js.clone(),
        ledger,
        cdr,
        uptime,
        audit,
        snapshots: bucket,
        inbox,
    };
    Ok((
        places,
        Beginning {
            log,
            target: extent.last,
            marker,
            anew,
        },
        answers,
    ))
}
