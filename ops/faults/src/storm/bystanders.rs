//! Drivers who are no part of the storm: each starts a session, stops it, waits for its end, and
//! begins again.

use std::time::{Duration, Instant};

use anyhow::Result;
use ev_contract::v1::{DriverUpdate, Status};
use ev_e2e::{Driver, StartOptions};
use ev_testkit::{NatsServer, Role};
use futures::future::try_join_all;
use tokio::sync::watch;
use uuid::Uuid;

/// Between two questions about a session, as an app would.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After a refusal: an offline charge point stays that for a while.
const AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// What they got.
#[derive(Debug, Default)]
pub struct Served {
    /// Starts.
    pub accepted: usize,
    /// Starts.
    pub refused: usize,
    /// Requests of any kind.
    pub unanswered: usize,
    /// Of starts that were answered, repeats included.
    took: Vec<Duration>,
}

impl Served {
    /// So many percent of the answers came within this.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        let at = took.len() * percent / 100;
        took.get(at.min(took.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    /// All of them did.
    pub fn longest(&self) -> Duration {
        self.took.iter().max().copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.took.extend(other.took);
    }
}

pub struct Bystanders {
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<Result<Served>>,
}

impl Bystanders {
    /// Begins with so many drivers on charge points of their own. They have a thread of their own:
    /// what the load program itself is busy with is no delay of theirs.
    pub fn start(server: &NatsServer, count: usize, charge_points: usize) -> Self {
        let (keys, url) = (server.keys().clone(), server.url());
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(async {
                    let drivers = (0..count).map(async |n| {
                        let id = format!("bystander-{n}");
                        let driver = Driver::connect(&keys, &url, Role::Driver, &id).await?;
                        let cp = format!("CP-{:03}", 1 + n * charge_points / count);
                        anyhow::Ok(charge(driver, cp, stopped.clone()).await)
                    });
                    let mut all = Served::default();
                    for served in try_join_all(drivers).await? {
                        all.add(served);
                    }
                    Ok(all)
                })
        });
        Self { stop, thread }
    }

    /// Lets each finish what it has begun.
    pub async fn stop(self) -> Result<Served> {
        // They listen until they end.
        let _ = self.stop.send(true);
        tokio::task::spawn_blocking(move || self.thread.join())
            .await?
            .map_err(|_| anyhow::anyhow!("the drivers' thread panicked"))?
    }
}

async fn charge(driver: Driver, cp: String, stopped: watch::Receiver<bool>) -> Served {
    let mut served = Served::default();
    while !*stopped.borrow() {
        let asked = Instant::now();
        let answer = driver.start_with(&cp, &StartOptions::default()).await;
        match answer {
            Ok(DriverUpdate {
                status: Status::Accepted,
                session_id: Some(session),
                ..
            }) => {
                served.took.push(asked.elapsed());
                served.accepted += 1;
                if let Err(error) = stop(&driver, &session.to_string()).await {
                    eprintln!("{}: {error:#}", driver.id);
                    served.unanswered += 1;
                }
            }
            Ok(_) => {
                served.took.push(asked.elapsed());
                served.refused += 1;
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
            Err(error) => {
                eprintln!("{}: {error:#}", driver.id);
                served.unanswered += 1;
            }
        }
    }
    served
}

async fn stop(driver: &Driver, session: &str) -> Result<()> {
    driver
        .stop_with(session, &Uuid::new_v4().to_string())
        .await?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if driver.session(session).await?.state.is_ended() {
            return Ok(());
        }
    }
}
