//! A simulated charger behind the hardware port.
//!
//! Its state is the device's own and outlives the agent: it lies in a file beside the store, and
//! time in which the agent was dead is made up for when it is back, as if it had never been. Beside
//! a store in memory it lies in memory too.

pub mod physics;
pub mod unruly;

use std::{
    future::pending,
    io::{self, Write as _},
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use edge_core::hardware::{HwAnswer, HwCommand, HwFact};
use ev_contract::{
    codes::Code,
    connector::{Fault, FaultEffect},
    ids::{ConnectorId, CpId},
    units::Mwh,
};
use physics::{Plant, PlantSpec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use unruly::Unruly;

use crate::{
    clock::wall_now,
    hardware::{DriverPort, HwEvent},
};

/// Verbs that wait for the simulator.
const VERBS_MAX: usize = 64;
/// Real time between two looks at what is on its way from an unruly charger.
const TICK_UNRULY: Duration = Duration::from_millis(50);
/// After something was done to a charger, what follows at once is told so soon.
const TICK_SOON: Duration = Duration::from_millis(100);
/// The state is written at least this often while something happens, in milliseconds.
const SAVE_EVERY_MS: u64 = 1_000;
/// The file's size is a multiple of this: a block of nearly every file system.
const ROOM_BYTES: usize = 4_096;
/// Time between readings at real strength, in milliseconds; stronger simulations read more often,
/// down to the lower bound, so that energy limits are met closely.
const READING_MS_MAX: u64 = 1_000;
const READING_MS_MIN: u64 = 100;
/// A timer and the clock are not read in the same moment.
const READING_SLACK_MS: u64 = 10;

/// What can be done to a simulated charger and its cars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimVerb {
    /// A car comes.
    Plug {
        /// Where.
        connector: ConnectorId,
        /// With this state of charge instead of the configured one.
        soc_pct: Option<u8>,
    },
    /// The car goes.
    Unplug {
        /// Where.
        connector: ConnectorId,
    },
    /// The car pauses.
    Pause {
        /// Where.
        connector: ConnectorId,
    },
    /// The car goes on.
    Resume {
        /// Where.
        connector: ConnectorId,
    },
    /// The battery is at so many percent.
    Soc {
        /// Where.
        connector: ConnectorId,
        /// Percent.
        pct: u8,
    },
    /// A fault begins.
    Fault {
        /// Where.
        connector: ConnectorId,
        /// What it does.
        effect: FaultEffect,
        /// The device's word.
        raw: String,
    },
    /// The fault clears.
    Clear {
        /// Where.
        connector: ConnectorId,
    },
    /// The charger boots.
    Reset,
    /// The mains fail.
    PowerCut {
        /// For so many real seconds.
        seconds: u32,
        /// Transactions are lost, whatever the configuration says.
        lose: bool,
    },
    /// The wire between agent and charger.
    Link {
        /// It works.
        up: bool,
    },
    /// The register is turned to a value.
    MeterSet {
        /// Where.
        connector: ConnectorId,
        /// To which.
        register: Mwh,
    },
    /// The register is turned on, or back.
    MeterAdd {
        /// Where.
        connector: ConnectorId,
        /// By so many mWh.
        mwh: i64,
    },
    /// The charger misbehaves.
    Unruly {
        /// It does.
        on: bool,
    },
}

/// A question to the simulator.
#[derive(Debug)]
pub enum SimAsk {
    /// Do this.
    Do(SimVerb, oneshot::Sender<Result<(), Code>>),
    /// What is true of the outlets, by number.
    Truth(oneshot::Sender<serde_json::Value>),
}

/// A handle to a simulator.
#[derive(Debug, Clone)]
pub struct SimHandle(mpsc::Sender<SimAsk>);

impl SimHandle {
    /// Does something to it.
    ///
    /// # Errors
    /// A code when there is no such connector, or the simulator is gone.
    pub async fn act(&self, verb: SimVerb) -> Result<(), Code> {
        let (done, result) = oneshot::channel();
        let sent = self.0.send(SimAsk::Do(verb, done)).await;
        sent.map_err(|_| Code::ChargerOffline)?;
        result.await.unwrap_or(Err(Code::ChargerOffline))
    }

    /// What is true of the outlets, by number.
    pub async fn truth(&self) -> Option<serde_json::Value> {
        let (done, result) = oneshot::channel();
        self.0.send(SimAsk::Truth(done)).await.ok()?;
        result.await.ok()
    }
}

struct Simulator {
    spec: PlantSpec,
    plant: Plant,
    unruly: Unruly,
    link: bool,
    port: DriverPort,
    file: Option<PathBuf>,
    began: Instant,
    advanced: Instant,
    saved_ms: u64,
    read_ms: u64,
    /// Something was done to it since it was last looked at.
    was_touched: bool,
    told_save_failed: bool,
}

/// Where the charger's own state lies.
#[must_use]
pub fn state_file(state_dir: &Path, cp: &CpId) -> PathBuf {
    state_dir.join(format!("{cp}.charger.json"))
}

/// Begins the simulation as a task that ends with `shutdown` or when the agent's end of the port is
/// gone. Without a file it forgets everything with the process.
#[must_use]
pub fn spawn(
    spec: PlantSpec,
    file: Option<PathBuf>,
    port: DriverPort,
    mut shutdown: watch::Receiver<bool>,
) -> (SimHandle, tokio::task::JoinHandle<()>) {
    let plant = match &file {
        Some(file) => restore(&spec, file),
        None => Plant::new(&spec, wall_now()),
    };
    let unruly = Unruly::new(spec.settings.unruly, spec.settings.seed);
    let (asks, mut questions) = mpsc::channel(VERBS_MAX);
    let now = Instant::now();
    let mut sim = Simulator {
        spec,
        plant,
        unruly,
        link: true,
        port,
        file,
        began: now,
        advanced: now,
        saved_ms: 0,
        read_ms: 0,
        was_touched: false,
        told_save_failed: false,
    };
    let task = tokio::spawn(async move {
        sim.catch_up();
        sim.greet().await;
        let mut stopped = pin!(crate::stopped(&mut shutdown));
        let mut ticked = tokio::time::Instant::now();
        loop {
            let due = sim.pause().map(|pause| ticked + pause);
            let tick = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = &mut stopped => break,
                command = sim.port.commands.recv() => match command {
                    Some(command) => sim.command(&command).await,
                    None => break,
                },
                Some(ask) = questions.recv() => sim.ask(ask).await,
                () = tick => {
                    ticked = tokio::time::Instant::now();
                    sim.tick().await;
                }
            }
        }
        sim.advance();
        sim.save();
    });
    (SimHandle(asks), task)
}

fn restore(spec: &PlantSpec, file: &Path) -> Plant {
    let read = std::fs::read(file)
        .map_err(|e| (e.kind() == io::ErrorKind::NotFound, e.to_string()))
        .and_then(|bytes| {
            serde_json::from_slice::<Plant>(&bytes).map_err(|e| (false, e.to_string()))
        });
    match read {
        Ok(mut plant) => {
            plant.fit(spec);
            plant
        }
        Err((is_new, why)) => {
            if !is_new {
                tracing::error!(file = %file.display(), error = why, "the simulated charger's state cannot be read; it begins anew");
            }
            Plant::new(spec, wall_now())
        }
    }
}

impl Simulator {
    fn mono_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long it may be left alone: for ever, when nothing happens by itself.
    fn pause(&self) -> Option<Duration> {
        if self.unruly.is_on() || self.unruly.has_waiting() {
            return Some(TICK_UNRULY);
        }
        if !self.plant.is_busy() {
            return None;
        }
        let soon = self.was_touched || self.plant.dark_ms.is_some();
        let cadence = Duration::from_millis(self.reading_ms());
        Some(if soon {
            cadence.min(TICK_SOON)
        } else {
            cadence
        })
    }

    /// Between two readings, in milliseconds.
    fn reading_ms(&self) -> u64 {
        (READING_MS_MAX / u64::from(self.spec.speed.max(1))).max(READING_MS_MIN)
    }

    /// Lives through the time in which nobody was here. What happened is told with the greeting.
    fn catch_up(&mut self) {
        let gone = wall_now().ms_since(self.plant.wall);
        self.plant
            .advance(&self.spec, u64::try_from(gone).unwrap_or(0));
        // A wall clock that was set back must not make the charger live in the future.
        self.plant.wall = wall_now();
        self.save();
    }

    /// Physics up to this moment, by the monotonic clock; facts of what happened.
    fn advance(&mut self) -> Vec<HwFact> {
        let elapsed = self.advanced.elapsed();
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.advanced += Duration::from_millis(ms);
        let was_dark = self.plant.dark_ms.is_some();
        let mut facts = self.plant.advance(&self.spec, ms);
        self.plant.wall = wall_now();
        if was_dark && self.plant.dark_ms.is_none() && self.link {
            facts = self.plant.snapshot(&self.spec);
        }
        facts
    }

    async fn greet(&mut self) {
        if self.link && self.plant.dark_ms.is_none() {
            let facts = self.plant.snapshot(&self.spec);
            self.tell(facts).await;
        }
    }

    async fn tick(&mut self) {
        let facts = self.advance();
        let now = self.mono_ms();
        let cadence = self.reading_ms();
        self.was_touched = false;
        let mut all = facts;
        if !all.is_empty() {
            self.save();
        }
        if now.saturating_sub(self.read_ms) + READING_SLACK_MS >= cadence {
            self.read_ms = now;
            all.extend(self.plant.readings(&self.spec, false));
        }
        if self.unruly.spurious_boot() {
            all.push(HwFact::Booted {
                at: self.plant.wall,
                raw: Some("Unknown".into()),
                running: Some(self.plant.running()),
            });
        }
        self.tell(all).await;
        if self.plant.is_busy() && now.saturating_sub(self.saved_ms) >= SAVE_EVERY_MS {
            self.save();
        }
    }

    async fn command(&mut self, command: &HwCommand) {
        let mut facts = self.advance();
        self.was_touched = true;
        if !self.link || self.plant.dark_ms.is_some() {
            return;
        }
        let (verdict, raw, caused) = self.plant.command(&self.spec, &mut self.unruly, command);
        facts.extend(caused);
        // The device must not forget what it is about to tell.
        self.save();
        let answer = HwEvent::Answer(HwAnswer {
            command: command.clone(),
            verdict,
            raw,
        });
        let now = self.mono_ms();
        self.unruly.push(answer, now);
        self.tell(facts).await;
    }

    async fn ask(&mut self, ask: SimAsk) {
        match ask {
            SimAsk::Truth(done) => {
                let facts = self.advance();
                let _ = done.send(self.truth());
                self.tell(facts).await;
            }
            SimAsk::Do(verb, done) => {
                let mut facts = self.advance();
                self.was_touched = true;
                let result = self.act(verb);
                self.save();
                let outcome = result.map(|caused| facts.extend(caused));
                self.tell(facts).await;
                let _ = done.send(outcome);
            }
        }
    }

    fn act(&mut self, verb: SimVerb) -> Result<Vec<HwFact>, Code> {
        let known = |connector: ConnectorId| {
            if self.plant.outlets.contains_key(&connector) {
                Ok(connector)
            } else {
                Err(Code::UnknownConnector)
            }
        };
        let facts = match verb {
            SimVerb::Plug { connector, soc_pct } => {
                known(connector)?;
                let facts = self
                    .plant
                    .plug(&self.spec, &mut self.unruly, connector, true);
                if let Some(pct) = soc_pct {
                    self.plant.set_soc(&self.spec, connector, pct);
                }
                facts
            }
            SimVerb::Unplug { connector } => {
                known(connector)?;
                self.plant
                    .plug(&self.spec, &mut self.unruly, connector, false)
            }
            SimVerb::Pause { connector } | SimVerb::Resume { connector } => {
                known(connector)?;
                if let Some(outlet) = self.plant.outlets.get_mut(&connector) {
                    outlet.car_pauses = matches!(verb, SimVerb::Pause { .. });
                }
                Vec::new()
            }
            SimVerb::Soc { connector, pct } => {
                known(connector)?;
                self.plant.set_soc(&self.spec, connector, pct);
                Vec::new()
            }
            SimVerb::Fault {
                connector,
                effect,
                raw,
            } => {
                known(connector)?;
                self.plant
                    .fault(&self.spec, connector, Some(Fault { effect, raw }))
            }
            SimVerb::Clear { connector } => {
                known(connector)?;
                self.plant.fault(&self.spec, connector, None)
            }
            SimVerb::Reset => self.plant.reset(&self.spec, &mut self.unruly, "LocalReset"),
            SimVerb::PowerCut { seconds, lose } => {
                self.plant
                    .power_cut(&self.spec, u64::from(seconds) * 1_000, lose);
                vec![self.link_fact(false)]
            }
            SimVerb::Link { up } => {
                let was = std::mem::replace(&mut self.link, up);
                match (was, up) {
                    (true, false) => vec![self.link_fact(false)],
                    (false, true) if self.plant.dark_ms.is_none() => {
                        self.plant.snapshot(&self.spec)
                    }
                    (false, true) | (true, true) | (false, false) => Vec::new(),
                }
            }
            SimVerb::MeterSet {
                connector,
                register,
            } => {
                known(connector)?;
                if let Some(outlet) = self.plant.outlets.get_mut(&connector) {
                    outlet.register = register;
                }
                self.plant.readings(&self.spec, true)
            }
            SimVerb::MeterAdd { connector, mwh } => {
                known(connector)?;
                if let Some(outlet) = self.plant.outlets.get_mut(&connector) {
                    outlet.register = Mwh(outlet.register.0.saturating_add_signed(mwh));
                }
                self.plant.readings(&self.spec, true)
            }
            SimVerb::Unruly { on } => {
                self.unruly.set(on);
                Vec::new()
            }
        };
        Ok(facts)
    }

    fn link_fact(&self, up: bool) -> HwFact {
        HwFact::Link {
            at: self.plant.wall,
            up,
            running: None,
        }
    }

    /// Sends what has arrived. A broken wire carries nothing but the driver's own word that it is
    /// broken.
    async fn tell(&mut self, facts: Vec<HwFact>) {
        let now = self.mono_ms();
        let silent = !self.link || self.plant.dark_ms.is_some();
        for fact in facts {
            match fact {
                HwFact::Link { .. } => {
                    // The driver's word, not the device's: never garbled.
                    if self.port.events.send(HwEvent::Fact(fact)).await.is_err() {
                        return;
                    }
                }
                HwFact::Booted { .. }
                | HwFact::Plug { .. }
                | HwFact::TxStarted { .. }
                | HwFact::Reading { .. }
                | HwFact::Phase { .. }
                | HwFact::TxEnded { .. }
                | HwFact::Fault { .. }
                | HwFact::Service { .. } => {
                    if !silent {
                        self.unruly.push(HwEvent::Fact(fact), now);
                    }
                }
            }
        }
        for event in self.unruly.arrived(now) {
            if silent {
                continue;
            }
            if self.port.events.send(event).await.is_err() {
                return;
            }
        }
    }

    fn truth(&self) -> serde_json::Value {
        let outlets: serde_json::Map<String, serde_json::Value> = self
            .plant
            .outlets
            .iter()
            .map(|(connector, o)| {
                let outlet = json!({
                    "plugged": o.plugged,
                    "register_mwh": o.register.0,
                    "meter_epoch": o.meter_epoch,
                    "power_mw": o.power.0,
                    "soc_pct": o.soc_pct(&self.spec.settings),
                    "device_tx": o.tx.as_ref().map(|tx| tx.device_tx.0.clone()),
                    "car_pauses": o.car_pauses,
                    "unruly": self.unruly.is_on(),
                    "link": self.link,
                    "power": self.plant.dark_ms.is_none(),
                });
                (connector.to_string(), outlet)
            })
            .collect();
        outlets.into()
    }

    fn save(&mut self) {
        self.saved_ms = self.mono_ms();
        let Some(file) = &self.file else {
            return;
        };
        let written = serde_json::to_vec(&self.plant)
            .map_err(io::Error::other)
            .and_then(|bytes| put_in_place(file, bytes));
        match written {
            Ok(()) => self.told_save_failed = false,
            // A real charger has its own memory: nothing but the simulation suffers.
            Err(e) if !self.told_save_failed => {
                self.told_save_failed = true;
                tracing::warn!(file = %file.display(), error = %e, "the simulated charger's state cannot be written");
            }
            Err(_) => {}
        }
    }
}

/// Replaces what a file holds, whole or not at all. What it held before is kept beside it, padded,
/// as room for the next time: a real charger does not forget because the agent's disk is full.
fn put_in_place(file: &Path, mut bytes: Vec<u8>) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    // Blanks after a JSON value are part of no value.
    bytes.resize(bytes.len().next_multiple_of(ROOM_BYTES), b' ');
    let fresh = file.with_extension("json.new");
    let mut room = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&fresh)?;
    room.write_all(&bytes)?;
    room.set_len(bytes.len() as u64)?;
    drop(room);
    match renameat_with(CWD, &fresh, CWD, file, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        // The first time, or a file system that cannot exchange.
        Err(_) => std::fs::rename(&fresh, file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_replaced_in_room_that_it_has_already() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("CP-001.charger.json");
        for n in 0..3_u64 {
            put_in_place(&file, serde_json::to_vec(&vec![n; 5]).unwrap()).unwrap();
            let held: Vec<u64> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            assert_eq!(held, [n; 5]);
            assert_eq!(std::fs::metadata(&file).unwrap().len(), ROOM_BYTES as u64);
        }
        let spare = std::fs::metadata(file.with_extension("json.new")).unwrap();
        assert_eq!(spare.len(), ROOM_BYTES as u64);
    }
}
