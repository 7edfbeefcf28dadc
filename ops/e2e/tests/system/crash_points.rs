//! A whole session for each crash point of central and of the agent: the process is killed exactly
//! there, started again, and every promise is kept. A point that is never reached fails the test.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ev_contract::{
    connector::Phase,
    streams,
    v1::{
        DriverUpdate, ErrorReply, IdleFee, IdleFrom, PriceComponent, Receipt, Status, StopRequest,
    },
    wire::{CENTRAL, Tag},
};
use ev_crash::{AGENT, LAST_WORDS, Point, VARIABLE};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions, now_ms};
use ev_testkit::{PATIENCE, Process, wait_for};
use serde_json::json;
use uuid::Uuid;

use crate::{ended_right, metered};

/// How many hits of a point that everything passes are tried, each in a session of its own. The
/// first ones come while the process begins, the later ones in the session.
const HITS_OF_COMMON: u32 = 4;
/// How long a point that comes by the clock, such as a snapshot, may take after the session.
const REACHED_WITHIN: Duration = Duration::from_secs(20);
/// Between being killed and being seen dead.
const DIES_WITHIN: Duration = Duration::from_millis(500);

/// Only points whose names begin so. Not the variable of the processes, which would inherit it.
const ONLY: &str = "EV_CRASH_POINTS";

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
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut site = Site::start(&layout).await?;
    let mut never = Vec::new();
    // With an idle fee the end of energy is not the end of the session.
    let mut terms = crate::terms("0.50", "1.00").with(PriceComponent::Idle, "0.10".parse()?);
    terms.idle = Some(IdleFee {
        grace_s: 0,
        cap: "9.00".parse()?,
        from: IdleFrom::default(),
        after_fault: false,
    });
    let tariff = json!({"tariff_id": "std", "scope": "default", "terms": terms});
    let operator = site.driver("observer").await?;
    operator.operate("tariff_set", tariff).await?;
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
                eprintln!("{point}:{hit} in {:?}", begun.elapsed());
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
            "prepared/ledger" | "prepared/cdr" | "prepared/audit" | "prepared/snapshots" => {
                let js = site.maintainer().await?;
                js.delete_stream(streams::LEDGER.name).await?;
                js.delete_stream(streams::CDR.name).await?;
                js.delete_stream(streams::AUDIT.name).await?;
                js.delete_stream(streams::UPTIME.name).await?;
                js.delete_object_store(streams::SNAPSHOT_BUCKET).await?;
                // As if it had never served: its credential is that of the first central.
                let marker = site.nats.keys().creds_dir();
                std::fs::remove_file(marker.join("central/central-1.ledger.json"))?;
                // It presents itself again when it starts, else once a minute.
                site.agent.restart()?;
            }
            point if self.victim == Victim::Central && point.ends_with("/sync") => {
                // A sync is only recorded when it says something new, such as another epoch.
                site.agent.kill9()?;
                std::fs::remove_dir_all(site.edge_dir())?;
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
            self.revive(site).await?;
        }
    }

    /// Starts the victim again, until it can be asked.
    async fn revive(&mut self, site: &mut Site) -> Result<()> {
        let process = self.victim.of(site);
        let last_words = format!("{LAST_WORDS}{}:{}\n", self.point, self.hit);
        ensure!(
            !self.died && process.log().contains(&last_words),
            "{} ended at another place",
            process.name()
        );
        self.died = true;
        process.set_env(VARIABLE, None);
        process.restart()?;
        match self.victim {
            Victim::Central => Ok(()),
            Victim::Agent => {
                wait_for("the agent listens", PATIENCE, async || {
                    site.ctl(&["status"]).await.map(drop)
                })
                .await
            }
        }
    }

    /// Waits for a point that comes by the clock. Questions make frames, and frames make snapshots.
    async fn linger(&mut self, site: &mut Site, driver: &Driver) -> Result<()> {
        if self.died || self.hit > 1 {
            return Ok(());
        }
        let asking = async {
            loop {
                // Its answer may be what does not come.
                let _ = driver.open().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(REACHED_WITHIN) => Ok(()),
            () = asking => Ok(()),
            () = self.victim.killed(site) => self.revive(site).await,
        }
    }

    async fn session(&mut self, site: &mut Site) -> Result<()> {
        self.step(site, "serves", async |site| {
            // Whether the charge point is there, central asks when it must know.
            site.ready(0).await
        })
        .await?;
        if self.point == "create/one"
            || self.point.starts_with("prepared/")
            || self.point.ends_with("/sync")
        {
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
        if self.point == "live/one" {
            self.linger(site, &driver).await?;
        }
        let stop = StopRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id: Uuid::new_v4().to_string(),
            expires_at: now_ms() + 28_000,
            session_id: session.clone(),
        };
        self.step(site, "stop", async |_| stopped(&driver, &stop).await)
            .await?;
        self.step(site, "energy ends", async |site| {
            wait_for("it stands or has ended", PATIENCE, async || {
                let state = driver.session(&session).await?.state;
                ensure!(state == Phase::Idle || state.is_ended(), "{state}");
                Ok(())
            })
            .await?;
            unplug(site).await
        })
        .await?;
        let receipt = self
            .step(site, "end", async |site| {
                promises(site, &driver, &session, before, &start, &stop).await
            })
            .await?;
        self.linger(site, &driver).await?;
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

/// Takes the car away, which ends what stands there.
async fn unplug(site: &Site) -> Result<()> {
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
