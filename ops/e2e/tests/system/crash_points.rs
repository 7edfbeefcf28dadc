//! A whole session for each crash point of central and of the agent: the process is killed exactly
//! there, started again, and every promise is kept. A point that is never reached fails the test.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use ev_contract::{
    connector::Phase,
    streams,
    v1::{DriverUpdate, ErrorReply, Receipt, Status, StopRequest},
    wire::{CENTRAL, Tag},
};
use ev_crash::{AGENT, LAST_WORDS, Point, VARIABLE};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions, now_ms};
use ev_testkit::{PATIENCE, Process, wait_for};
use uuid::Uuid;

use crate::{ended_right, metered};

/// How many hits of a point that everything passes are tried, each in a session of its own. The
/// first ones come while the process begins, the later ones in the session.
const HITS_OF_COMMON: u32 = 4;
/// How long a point that comes by the clock, such as a snapshot, may take after the session.
const REACHED_WITHIN: Duration = Duration::from_secs(20);
/// Between being killed and being seen dead.
const DIES_WITHIN: Duration = Duration::from_millis(500);

const CP: &str = "CP-001";

#[tokio::test(flavor = "multi_thread")]
async fn central_is_killed_at_each_of_its_points() -> Result<()> {
    at_each_point(Victim::Central, ev_crash::CENTRAL).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_at_each_of_its_points() -> Result<()> {
    at_each_point(Victim::Agent, AGENT).await
}

async fn at_each_point(victim: Victim, points: &[Point]) -> Result<()> {
    let layout = Layout {
        charge_points: 1,
        crash_points: true,
        // The least that is allowed, so that each session has its snapshot.
        central_extra: "snapshot_every = 10".into(),
        ..Layout::small(Charger::Orderly)
    };
    let only = std::env::var(VARIABLE).unwrap_or_default();
    let mut site = Site::start(&layout).await?;
    let mut never = Vec::new();
    for point in points {
        for kind in point.kinds {
            let point = format!("{}/{kind}", point.name);
            if !point.starts_with(&only) {
                continue;
            }
            let hits = if *kind == "one" { HITS_OF_COMMON } else { 1 };
            for hit in 1..=hits {
                let mut run = Run::new(victim, &point, hit);
                let begun = Instant::now();
                run.arm(&mut site).await?;
                run.session(&mut site)
                    .await
                    .with_context(|| format!("killed at {point}:{hit}"))?;
                eprintln!("{point}:{hit} {} {:?}", run.died, begun.elapsed());
                if !run.died {
                    if hit == 1 {
                        never.push(point);
                    }
                    break;
                }
            }
        }
    }
    ensure!(never.is_empty(), "never reached: {}", never.join(", "));
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Central,
    Agent,
}

impl Victim {
    fn of(self, site: &mut Site) -> &mut Process {
        match self {
            Self::Central => &mut site.centrals[0],
            Self::Agent => &mut site.agent,
        }
    }

    fn has_ended(self, site: &Site) -> bool {
        match self {
            Self::Central => site.centrals[0].has_ended(),
            Self::Agent => site.agent.has_ended(),
        }
    }

    async fn killed(self, site: &Site) {
        while !self.has_ended(site) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One session, in which a process dies once.
struct Run {
    victim: Victim,
    point: String,
    hit: u32,
    died: bool,
}

impl Run {
    fn new(victim: Victim, point: &str, hit: u32) -> Self {
        Self {
            victim,
            point: point.into(),
            hit,
            died: false,
        }
    }

    /// Starts the process so that it will die at the point.
    async fn arm(&self, site: &mut Site) -> Result<()> {
        let process = self.victim.of(site);
        process.kill9()?;
        process.set_env(VARIABLE, Some(&format!("{}:{}", self.point, self.hit)));
        match self.point.as_str() {
            // What is made once must not be there.
            "create/one" => std::fs::remove_dir_all(site.edge_dir())?,
            "prepared/ledger" | "prepared/cdr" | "prepared/snapshots" => {
                let js = jetstream::new(site.nats.connect().await?);
                js.delete_stream(streams::LEDGER.name).await?;
                js.delete_stream(streams::CDR.name).await?;
                js.delete_object_store(streams::SNAPSHOT_BUCKET).await?;
                // It presents itself again when it starts, else once a minute.
                site.agent.restart()?;
            }
            _ => {}
        }
        self.victim.of(site).restart()
    }

    /// Does something that can be repeated, and once more if the process died meanwhile.
    async fn step<T>(
        &mut self,
        site: &mut Site,
        what: &str,
        step: impl AsyncFn(&Site) -> Result<T>,
    ) -> Result<T> {
        loop {
            let outcome = tokio::select! {
                result = step(site) => Some(result),
                () = self.victim.killed(site) => None,
            };
            match outcome {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => {
                    let killed = self.victim.killed(site);
                    if tokio::time::timeout(DIES_WITHIN, killed).await.is_err() {
                        return Err(error).with_context(|| what.to_owned());
                    }
                }
                None => {}
            }
            self.revive(site)?;
        }
    }

    fn revive(&mut self, site: &mut Site) -> Result<()> {
        let process = self.victim.of(site);
        let last_words = format!("{LAST_WORDS}{}:{}\n", self.point, self.hit);
        ensure!(
            !self.died && process.log().contains(&last_words),
            "{} ended at another place",
            process.name()
        );
        self.died = true;
        process.set_env(VARIABLE, None);
        process.restart()
    }

    async fn session(&mut self, site: &mut Site) -> Result<()> {
        self.step(site, "serves", async |site| {
            site.ready(0).await?;
            site.charge_points_online(1).await
        })
        .await?;
        if self.point == "create/one" || self.point.starts_with("prepared/") {
            // A start that is accepted under the epoch of a store that is gone waits for somebody
            // to write it off: the old store may have taken it.
            self.step(site, "present itself", async |site| {
                wait_for("central has answered a sync", PATIENCE, async || {
                    let status = site.ctl(&["status"]).await?;
                    let synced = &status["charge_points"][0]["clock_synced"];
                    ensure!(synced == true, "{status}");
                    Ok(())
                })
                .await
            })
            .await?;
        }
        let driver = site.driver(&format!("driver-{}", Uuid::new_v4())).await?;
        self.step(site, "plug in", async |site| {
            wait_for("a car is plugged in", PATIENCE, async || {
                if site.connector(CP, 1).await?["plugged"] != true {
                    site.ctl(&["plug", CP]).await?;
                }
                Ok(())
            })
            .await
        })
        .await?;
        let before = self.step(site, "read the meter", register).await?;
        let start = StartOptions {
            expires_at: now_ms() + 28_000,
            ..StartOptions::default()
        };
        let session = self
            .step(site, "start", async |_| accepted(&driver, &start).await)
            .await?;
        self.step(site, "charge", async |site| {
            driver.wait_phase(&session, Phase::Charging).await?;
            metered(site, CP, before, 2_000).await
        })
        .await?;
        self.step(site, "pause", async |site| {
            control(site, &["fault", CP, "--effect", "suspends"]).await?;
            driver.wait_phase(&session, Phase::SuspendedEvse).await
        })
        .await?;
        self.step(site, "go on", async |site| {
            control(site, &["clear", CP]).await?;
            driver.wait_phase(&session, Phase::Charging).await
        })
        .await?;
        let stop = StopRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: Uuid::new_v4().to_string(),
            expires_at: now_ms() + 28_000,
            session_id: session.clone(),
        };
        self.step(site, "stop", async |_| stopped(&driver, &stop).await)
            .await?;
        let receipt = self
            .step(site, "end", async |site| {
                promises(site, &driver, &session, before, &start, &stop).await
            })
            .await?;
        if !self.died && self.hit == 1 {
            // What comes by the clock. Questions make frames, and frames make snapshots.
            let asking = async {
                loop {
                    // Its answer may be what does not come.
                    let _ = driver.open().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(REACHED_WITHIN) => {}
                () = asking => {}
                () = self.victim.killed(site) => self.revive(site)?,
            }
        }
        self.step(site, "unplug", async |site| {
            wait_for("the connector is free", PATIENCE, async || {
                let connector = site.connector(CP, 1).await?;
                if connector["plugged"] == true {
                    site.ctl(&["unplug", CP]).await?;
                    bail!("the car is there");
                }
                ensure!(connector["session_id"].is_null(), "{connector}");
                Ok(())
            })
            .await
        })
        .await?;
        let again = self
            .step(site, "look again", async |site| {
                site.ready(0).await?;
                promises(site, &driver, &session, before, &start, &stop).await
            })
            .await?;
        ensure!(again == receipt, "the receipt has changed");
        Ok(())
    }
}

/// What must hold of an ended session, and goes on to hold.
async fn promises(
    site: &Site,
    driver: &Driver,
    session: &str,
    before: u64,
    start: &StartOptions,
    stop: &StopRequest,
) -> Result<Receipt> {
    let receipt = ended_right(site, driver, session, before, CP).await?;
    ensure!(
        accepted(driver, start).await? == session,
        "the same start got another session"
    );
    stopped(driver, stop).await?;
    let history = driver.history().await?;
    ensure!(history.len() == 1, "{} sessions", history.len());
    ensure!(driver.open().await?.is_empty(), "a session is open");
    let (_, adjustments) = site.cdrs().await?;
    ensure!(adjustments.is_empty(), "{adjustments:?}");
    ensure!(
        site.metric(0, "ev_ledger_alarm").await? == 0.0,
        "central has an alarm"
    );
    Ok(receipt)
}

async fn register(site: &Site) -> Result<u64> {
    wait_for("the meter is read", PATIENCE, async || {
        site.register(CP).await
    })
    .await
}

/// Tells the charger something, also while the agent begins.
async fn control(site: &Site, args: &[&str]) -> Result<()> {
    wait_for("the agent takes it", PATIENCE, async || {
        site.ctl(args).await.map(|_| ())
    })
    .await
}

async fn accepted(driver: &Driver, options: &StartOptions) -> Result<String> {
    let update = driver.start_with(CP, options).await?;
    ensure!(update.status == Status::Accepted, "{update:?}");
    let session = update.session_id.context("a session")?;
    Ok(session.to_string())
}

async fn stopped(driver: &Driver, stop: &StopRequest) -> Result<()> {
    let subject = format!("ev.v1.driver.{}.stop", driver.id);
    let answer: Result<DriverUpdate, ErrorReply> = driver.ask(&subject, stop).await?;
    let update = answer.map_err(|e| anyhow::anyhow!("{}", e.error))?;
    ensure!(update.status == Status::Accepted, "{update:?}");
    Ok(())
}
