//! The simulated charger as a thing of its own: outlets, cars, meters. Pure; time is an argument.
//!
//! Everything is integers and fixed steps, so that a charger whose agent was dead for an hour ends
//! up exactly where it would have been otherwise.

use std::collections::{BTreeMap, VecDeque};

use edge_core::hardware::{
    DeviceTx, HwCommand, HwFact, HwPhase, HwReading, HwVerdict, OriginKey, RunningTx, StartNumber,
};
use ev_contract::{
    connector::{Fault, FaultEffect},
    ids::{ConnectorId, CpId},
    limits::CURRENT_MA_MIN,
    time::UnixMs,
    units::{MilliAmp, MilliWatt, Mwh},
    v1::{ConnectorSpec, EndCode, EndReason, EndSource},
};
use serde::{Deserialize, Serialize};

use crate::config::SimulatorConfig;

/// One step of time at real strength. Short against everything that a car or a driver does.
pub const STEP_MS: u64 = 100;
/// Longest time that is made up for in one go: a charger that was off the map for longer has a
/// full car anyway.
const CATCH_UP_MS_MAX: u64 = 14 * 24 * 3_600_000;
/// Ended transactions that the charger repeats when its agent is back.
const PAST_MAX: usize = 8;
/// Milliwatt-milliseconds in a milliwatt-hour.
const MW_MS_PER_MWH: u64 = 3_600_000;

/// A charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plant {
    /// Wall time of this state.
    pub wall: UnixMs,
    /// Milliseconds that do not fill a step yet.
    owed_ms: u64,
    /// Counts transactions, for ever.
    tx_count: u64,
    /// Mains power; while it is off, real milliseconds until it is back.
    pub dark_ms: Option<u64>,
    /// What a charger that has come back must tell.
    booted: Option<String>,
    /// By number.
    pub outlets: BTreeMap<ConnectorId, Outlet>,
}

/// One connector of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlet {
    /// A car is plugged in.
    pub plugged: bool,
    /// What is in its battery.
    battery: Mwh,
    /// The car has paused by itself.
    pub car_pauses: bool,
    /// The cumulative register.
    pub register: Mwh,
    /// Milliwatt-milliseconds that are no milliwatt-hour yet.
    rest: u64,
    /// Counts resets of the register.
    pub meter_epoch: u32,
    /// Power in the last step.
    pub power: MilliWatt,
    /// The running transaction.
    pub tx: Option<PlantTx>,
    /// Ended ones, the latest last.
    past: VecDeque<PastTx>,
    /// The bound of the current.
    limit: Option<(MilliAmp, Option<u8>)>,
    /// It serves.
    in_service: bool,
    /// A fault that has not cleared.
    pub fault: Option<Fault>,
    /// When plug, service, fault and phase last changed.
    since: Since,
    /// What was last told of the energy.
    phase: Option<HwPhase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
struct Since {
    plug: UnixMs,
    service: UnixMs,
    fault: UnixMs,
    phase: UnixMs,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlantTx {
    /// The charger's name for it.
    pub device_tx: DeviceTx,
    origin: OriginKey,
    start_number: Option<StartNumber>,
    at: UnixMs,
    start: HwReading,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PastTx {
    tx: PlantTx,
    at: UnixMs,
    reason: EndReason,
    end: HwReading,
}

/// What a charger is made of.
#[derive(Debug, Clone)]
pub struct PlantSpec {
    /// Whose it is, for the meters' numbers.
    pub cp: CpId,
    /// By number.
    pub connectors: Vec<ConnectorSpec>,
    /// Its cars and habits.
    pub settings: SimulatorConfig,
    /// How many times as strong as a real one it is already made: it is computed in steps that are so
    /// much shorter, and its meters are read so much more often.
    pub speed: u32,
}

/// Names for transactions: sensible or not.
pub trait Names {
    /// The charger's name for its `n`-th transaction; `last` is the name of the one before.
    fn name(&mut self, n: u64, last: Option<&DeviceTx>) -> DeviceTx;
    /// Whether the register starts at zero after a reset.
    fn meter_resets(&mut self) -> bool;
}

/// What a well-behaved charger does.
#[derive(Debug)]
pub struct PlainNames;

impl Names for PlainNames {
    fn name(&mut self, n: u64, _: Option<&DeviceTx>) -> DeviceTx {
        DeviceTx(format!("tx-{n}"))
    }
    fn meter_resets(&mut self) -> bool {
        false
    }
}

impl Outlet {
    fn new(spec: &PlantSpec) -> Self {
        Self {
            plugged: false,
            battery: Mwh(0),
            car_pauses: false,
            register: Mwh(spec.settings.register_mwh),
            rest: 0,
            meter_epoch: 1,
            power: MilliWatt(0),
            tx: None,
            past: VecDeque::new(),
            limit: None,
            in_service: true,
            fault: None,
            since: Since::default(),
            phase: None,
        }
    }

    /// State of charge of the car, in percent.
    #[must_use]
    pub fn soc_pct(&self, settings: &SimulatorConfig) -> Option<u8> {
        let capacity = settings.battery_wh * 1_000;
        self.plugged
            .then(|| u8::try_from((self.battery.0 * 100 / capacity).min(100)).unwrap_or(100))
    }

    fn suspended_by_fault(&self) -> bool {
        self.fault
            .as_ref()
            .is_some_and(|f| f.effect != FaultEffect::Warning)
    }
}

impl Plant {
    /// A new charger.
    #[must_use]
    pub fn new(spec: &PlantSpec, wall: UnixMs) -> Self {
        let mut plant = Self {
            wall,
            owed_ms: 0,
            tx_count: 0,
            dark_ms: None,
            booted: None,
            outlets: BTreeMap::new(),
        };
        plant.fit(spec);
        plant
    }

    /// Adds outlets that have come into the configuration.
    pub fn fit(&mut self, spec: &PlantSpec) {
        for connector in &spec.connectors {
            self.outlets
                .entry(connector.connector)
                .or_insert_with(|| Outlet::new(spec));
        }
    }

    /// Whether anything happens by itself.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.dark_ms.is_some() || self.outlets.values().any(|o| o.tx.is_some())
    }

    /// Lets so much real time pass. Facts carry the wall times at which they happened.
    pub fn advance(&mut self, spec: &PlantSpec, real_ms: u64) -> Vec<HwFact> {
        let mut facts = Vec::new();
        let real_ms = real_ms.min(CATCH_UP_MS_MAX);
        let end = self.wall.plus_ms(i64::try_from(real_ms).unwrap_or(0));
        let mut left = real_ms;
        if let Some(dark) = self.dark_ms {
            let passed = dark.min(left);
            left -= passed;
            self.wall = self.wall.plus_ms(i64::try_from(passed).unwrap_or(0));
            self.dark_ms = Some(dark - passed).filter(|d| *d > 0);
            if self.dark_ms.is_some() {
                self.wall = end;
                return facts;
            }
            self.booted = Some("PowerUp".into());
        }
        if !self.is_busy() {
            self.wall = end;
            return facts;
        }
        // So much energy flows in a step, however strong it is.
        let step_ms = (STEP_MS / u64::from(spec.speed.max(1))).max(1);
        self.owed_ms += left;
        while self.owed_ms >= step_ms {
            self.owed_ms -= step_ms;
            let back = i64::try_from(self.owed_ms).unwrap_or(0);
            self.wall = end.plus_ms(-back);
            self.step(spec, step_ms, &mut facts);
        }
        self.wall = end;
        facts
    }

    fn step(&mut self, spec: &PlantSpec, step_ms: u64, facts: &mut Vec<HwFact>) {
        for connector in &spec.connectors {
            let wall = self.wall;
            let Some(outlet) = self.outlets.get_mut(&connector.connector) else {
                continue;
            };
            if outlet.tx.is_none() {
                outlet.power = MilliWatt(0);
                continue;
            }
            let (power, phase) = draw(outlet, connector, &spec.settings);
            outlet.power = power;
            let flow = outlet.rest + power.0 * step_ms;
            let energy = Mwh(flow / MW_MS_PER_MWH);
            outlet.rest = flow % MW_MS_PER_MWH;
            outlet.register = outlet.register.saturating_add(energy);
            outlet.battery = outlet.battery.saturating_add(energy);
            let full = outlet.battery.0 >= spec.settings.battery_wh * 1_000;
            if full && spec.settings.stop_when_full {
                let reason = EndReason {
                    raw: Some("battery full".into()),
                    ..EndReason::new(EndCode::EvStopped, EndSource::Vehicle)
                };
                facts.extend(end_tx(spec, connector.connector, outlet, wall, reason));
            } else if outlet.phase != Some(phase) {
                outlet.phase = Some(phase);
                outlet.since.phase = wall;
                facts.push(phase_fact(spec, connector.connector, outlet, wall, phase));
            }
        }
    }

    /// Carries out a command. Nothing at all answers while the power is off.
    pub fn command(
        &mut self,
        spec: &PlantSpec,
        names: &mut dyn Names,
        command: &HwCommand,
    ) -> (HwVerdict, Option<String>, Vec<HwFact>) {
        let no = |raw: &str| (HwVerdict::Rejected, Some(raw.to_owned()), Vec::new());
        let wall = self.wall;
        match command {
            HwCommand::Start {
                connector,
                start_number,
                limit_ma,
            } => {
                let Some(outlet) = self.outlets.get_mut(connector) else {
                    return no("no such connector");
                };
                // A repeated start is the same start, also when it is over.
                let known = outlet
                    .past
                    .iter()
                    .any(|p| p.tx.start_number == Some(*start_number));
                if known {
                    return (HwVerdict::Accepted, None, Vec::new());
                }
                if let Some(tx) = &mut outlet.tx {
                    return match tx.start_number {
                        Some(number) if number == *start_number => {
                            let facts = tx_facts(*connector, tx);
                            (HwVerdict::Accepted, None, facts)
                        }
                        // One that began by itself is adopted.
                        None => {
                            tx.start_number = Some(*start_number);
                            (HwVerdict::Accepted, None, Vec::new())
                        }
                        Some(_) => no("busy"),
                    };
                }
                if !outlet.plugged {
                    return no("no cable");
                }
                if outlet.suspended_by_fault() {
                    return no("faulted");
                }
                if !outlet.in_service {
                    return no("unavailable");
                }
                if let Some(limit) = limit_ma {
                    outlet.limit = Some((*limit, outlet.limit.and_then(|l| l.1)));
                }
                let facts = self.begin_tx(spec, names, *connector, Some(*start_number));
                (HwVerdict::Accepted, None, facts)
            }
            HwCommand::Stop {
                connector,
                start_number,
                device_tx,
            } => {
                let Some(outlet) = self.outlets.get_mut(connector) else {
                    return (HwVerdict::Unknown, None, Vec::new());
                };
                let is_it =
                    outlet
                        .tx
                        .as_ref()
                        .is_some_and(|tx| match (start_number, tx.start_number) {
                            (Some(asked), Some(own)) => *asked == own,
                            _ => device_tx.as_ref() == Some(&tx.device_tx),
                        });
                if !is_it {
                    return (HwVerdict::Unknown, None, Vec::new());
                }
                let reason = EndReason {
                    raw: Some("Remote".into()),
                    ..EndReason::new(EndCode::Other, EndSource::ChargePoint)
                };
                let facts = end_tx(spec, *connector, outlet, wall, reason);
                (HwVerdict::Accepted, None, facts)
            }
            HwCommand::SetLimit {
                connector,
                max_ma,
                phases,
            } => match self.outlets.get_mut(connector) {
                None => no("no such connector"),
                Some(outlet) => {
                    outlet.limit = Some((*max_ma, *phases));
                    (HwVerdict::Accepted, None, Vec::new())
                }
            },
            HwCommand::Unlock { connector } => match self.outlets.get_mut(connector) {
                None => no("no such connector"),
                Some(outlet) => {
                    let reason = EndReason::new(EndCode::Unlock, EndSource::Charger);
                    let facts = end_tx(spec, *connector, outlet, wall, reason);
                    (HwVerdict::Accepted, Some("Unlocked".into()), facts)
                }
            },
            HwCommand::SetService {
                connector,
                in_service,
            } => match self.outlets.get_mut(connector) {
                None => no("no such connector"),
                Some(outlet) => {
                    // The agent enforces it; the charger just knows.
                    outlet.in_service = *in_service;
                    (HwVerdict::Accepted, None, Vec::new())
                }
            },
            HwCommand::Reset => {
                let facts = self.reset(spec, names, "RemoteReset");
                (HwVerdict::Accepted, None, facts)
            }
        }
    }

    /// Boots. Transactions end, and the register begins anew where the meter is of that kind.
    pub fn reset(&mut self, spec: &PlantSpec, names: &mut dyn Names, raw: &str) -> Vec<HwFact> {
        let wall = self.wall;
        let mut facts = Vec::new();
        for (&connector, outlet) in &mut self.outlets {
            let reason = EndReason {
                raw: Some(raw.into()),
                ..EndReason::new(EndCode::Reset, EndSource::Charger)
            };
            facts.extend(end_tx(spec, connector, outlet, wall, reason));
        }
        let meters_reset = names.meter_resets();
        facts.push(HwFact::Booted {
            at: wall,
            raw: Some(raw.into()),
            running: Some(Vec::new()),
        });
        if meters_reset {
            for (&connector, outlet) in &mut self.outlets {
                outlet.register = Mwh(0);
                outlet.meter_epoch += 1;
                facts.push(HwFact::Reading {
                    connector,
                    reading: reading(spec, connector, outlet, wall),
                });
            }
        }
        facts
    }

    /// The mains fail for so long. What happens to transactions shows when they are back.
    pub fn power_cut(&mut self, spec: &PlantSpec, real_ms: u64, lose: bool) {
        let wall = self.wall;
        self.dark_ms = Some(real_ms.max(1));
        for (&connector, outlet) in &mut self.outlets {
            outlet.power = MilliWatt(0);
            if lose || !spec.settings.resume_after_power_cut {
                let reason = EndReason::new(EndCode::PowerLoss, EndSource::Charger);
                end_tx(spec, connector, outlet, wall, reason);
            }
        }
    }

    /// A car with the configured state of charge comes, or goes.
    pub fn plug(
        &mut self,
        spec: &PlantSpec,
        names: &mut dyn Names,
        connector: ConnectorId,
        plugged: bool,
    ) -> Vec<HwFact> {
        let wall = self.wall;
        let dark = self.dark_ms.is_some();
        let Some(outlet) = self.outlets.get_mut(&connector) else {
            return Vec::new();
        };
        if outlet.plugged == plugged {
            return Vec::new();
        }
        let mut facts = Vec::new();
        if plugged {
            let capacity = spec.settings.battery_wh * 1_000;
            outlet.battery = Mwh(capacity / 100 * u64::from(spec.settings.soc_pct));
            outlet.car_pauses = false;
        } else {
            let reason = EndReason::new(EndCode::EvUnplugged, EndSource::Vehicle);
            facts.extend(end_tx(spec, connector, outlet, wall, reason));
        }
        outlet.plugged = plugged;
        outlet.since.plug = wall;
        facts.push(HwFact::Plug {
            at: wall,
            connector,
            plugged,
        });
        let may_begin = outlet.in_service && !outlet.suspended_by_fault();
        if plugged && spec.settings.free_vending && may_begin && !dark {
            facts.extend(self.begin_tx(spec, names, connector, None));
        }
        facts
    }

    /// A fault begins, or clears.
    pub fn fault(
        &mut self,
        spec: &PlantSpec,
        connector: ConnectorId,
        fault: Option<Fault>,
    ) -> Vec<HwFact> {
        let wall = self.wall;
        let Some(outlet) = self.outlets.get_mut(&connector) else {
            return Vec::new();
        };
        let mut facts = Vec::new();
        outlet.fault.clone_from(&fault);
        outlet.since.fault = wall;
        facts.push(HwFact::Fault {
            at: wall,
            connector,
            fault: fault.clone(),
        });
        if let Some(fault) = fault.filter(|f| f.effect == FaultEffect::Ended) {
            let reason = EndReason {
                raw: Some(fault.raw),
                ..EndReason::new(EndCode::Fault, EndSource::Charger)
            };
            facts.extend(end_tx(spec, connector, outlet, wall, reason));
        }
        facts
    }

    /// The car's battery is at so many percent.
    pub fn set_soc(&mut self, spec: &PlantSpec, connector: ConnectorId, pct: u8) {
        if let Some(outlet) = self.outlets.get_mut(&connector) {
            let capacity = spec.settings.battery_wh * 1_000;
            outlet.battery = Mwh(capacity * u64::from(pct.min(100)) / 100);
        }
    }

    /// What the charger tells an agent that has just come: everything that is, and the last
    /// transactions, since their ends may have been missed.
    pub fn snapshot(&mut self, spec: &PlantSpec) -> Vec<HwFact> {
        let wall = self.wall;
        let running = self.running();
        let mut facts = vec![HwFact::Link {
            at: wall,
            up: true,
            running: Some(running.clone()),
        }];
        if let Some(raw) = self.booted.take() {
            facts.push(HwFact::Booted {
                at: wall,
                raw: Some(raw),
                running: Some(running),
            });
        }
        for (&connector, outlet) in &self.outlets {
            facts.push(HwFact::Plug {
                at: outlet.since.plug,
                connector,
                plugged: outlet.plugged,
            });
            facts.push(HwFact::Service {
                at: outlet.since.service,
                connector,
                in_service: true,
            });
            facts.push(HwFact::Fault {
                at: outlet.since.fault,
                connector,
                fault: outlet.fault.clone(),
            });
            for past in &outlet.past {
                facts.extend(tx_facts(connector, &past.tx));
                facts.push(ended_fact(connector, past));
            }
            if let Some(tx) = &outlet.tx {
                facts.extend(tx_facts(connector, tx));
                if let Some(phase) = outlet.phase {
                    facts.push(HwFact::Phase {
                        at: outlet.since.phase,
                        connector,
                        device_tx: Some(tx.device_tx.clone()),
                        phase,
                        // What the register was then is not kept, and what it is comes below.
                        reading: None,
                    });
                }
            }
            facts.push(HwFact::Reading {
                connector,
                reading: reading(spec, connector, outlet, wall),
            });
        }
        facts
    }

    /// The transactions that run.
    #[must_use]
    pub fn running(&self) -> Vec<RunningTx> {
        self.outlets
            .iter()
            .filter_map(|(&connector, outlet)| {
                outlet.tx.as_ref().map(|tx| RunningTx {
                    connector,
                    device_tx: tx.device_tx.clone(),
                    origin: Some(tx.origin.clone()),
                })
            })
            .collect()
    }

    /// The meters of running transactions, or all.
    #[must_use]
    pub fn readings(&self, spec: &PlantSpec, all: bool) -> Vec<HwFact> {
        self.outlets
            .iter()
            .filter(|(_, outlet)| all || outlet.tx.is_some())
            .map(|(&connector, outlet)| HwFact::Reading {
                connector,
                reading: reading(spec, connector, outlet, self.wall),
            })
            .collect()
    }

    fn begin_tx(
        &mut self,
        spec: &PlantSpec,
        names: &mut dyn Names,
        connector: ConnectorId,
        start_number: Option<StartNumber>,
    ) -> Vec<HwFact> {
        let wall = self.wall;
        self.tx_count += 1;
        let n = self.tx_count;
        let Some(outlet) = self.outlets.get_mut(&connector) else {
            return Vec::new();
        };
        let last = outlet.past.back().map(|p| p.tx.device_tx.clone());
        let tx = PlantTx {
            device_tx: names.name(n, last.as_ref()),
            origin: OriginKey(format!("{connector}-{n}-{}", wall.0)),
            start_number,
            at: wall,
            start: reading(spec, connector, outlet, wall),
        };
        let mut facts = tx_facts(connector, &tx);
        outlet.tx = Some(tx);
        if let Some(spec_of) = spec.connectors.iter().find(|c| c.connector == connector) {
            let (power, phase) = draw(outlet, spec_of, &spec.settings);
            outlet.power = power;
            outlet.phase = Some(phase);
            outlet.since.phase = wall;
            facts.push(phase_fact(spec, connector, outlet, wall, phase));
        }
        facts
    }
}

/// How much power flows and why not more.
fn draw(
    outlet: &Outlet,
    connector: &ConnectorSpec,
    settings: &SimulatorConfig,
) -> (MilliWatt, HwPhase) {
    let capacity = settings.battery_wh * 1_000;
    let (limit_ma, limit_phases) = outlet.limit.unwrap_or((connector.max_ma, None));
    let ma = limit_ma.min(connector.max_ma);
    if outlet.suspended_by_fault() || ma.0 < CURRENT_MA_MIN {
        return (MilliWatt(0), HwPhase::SuspendedEvse);
    }
    if outlet.car_pauses || outlet.battery.0 >= capacity {
        return (MilliWatt(0), HwPhase::SuspendedEv);
    }
    let phases = limit_phases.map_or(connector.phases, |p| p.clamp(1, connector.phases));
    let offered = u64::from(ma.0) * u64::from(connector.volts) * u64::from(phases);
    let taken = curve(outlet.battery.0, capacity, settings.car_power_w * 1_000);
    (MilliWatt(offered.min(taken)), HwPhase::Charging)
}

/// What a car takes: all up to 80 %, then falling in a line to a tenth at the end.
fn curve(battery: u64, capacity: u64, most: u64) -> u64 {
    let permille = battery * 1_000 / capacity.max(1);
    match permille {
        0..=800 => most,
        801..=999 => most / 10 + most * 9 / 10 * (1_000 - permille) / 200,
        _ => most / 10,
    }
}

fn reading(spec: &PlantSpec, connector: ConnectorId, outlet: &Outlet, at: UnixMs) -> HwReading {
    let of = spec.connectors.iter().find(|c| c.connector == connector);
    let (volts, phases) = of.map_or((230, 1), |c| (u64::from(c.volts), u64::from(c.phases)));
    let each = outlet.power.0 / (volts * phases).max(1);
    HwReading {
        at,
        register_mwh: outlet.register,
        meter_id: format!("{}-{connector}", spec.cp),
        meter_epoch: outlet.meter_epoch,
        power_mw: Some(outlet.power),
        current_ma: vec![
            MilliAmp(u32::try_from(each).unwrap_or(u32::MAX));
            usize::try_from(phases).unwrap_or(1)
        ],
        soc_pct: outlet.soc_pct(&spec.settings),
        signed: None,
    }
}

fn tx_facts(connector: ConnectorId, tx: &PlantTx) -> Vec<HwFact> {
    vec![HwFact::TxStarted {
        at: tx.at,
        connector,
        device_tx: tx.device_tx.clone(),
        origin: tx.origin.clone(),
        start_number: tx.start_number,
        reading: tx.start.clone(),
    }]
}

fn phase_fact(
    spec: &PlantSpec,
    connector: ConnectorId,
    outlet: &Outlet,
    at: UnixMs,
    phase: HwPhase,
) -> HwFact {
    HwFact::Phase {
        at,
        connector,
        device_tx: outlet.tx.as_ref().map(|tx| tx.device_tx.clone()),
        phase,
        reading: Some(reading(spec, connector, outlet, at)),
    }
}

fn ended_fact(connector: ConnectorId, past: &PastTx) -> HwFact {
    HwFact::TxEnded {
        at: past.at,
        connector,
        device_tx: past.tx.device_tx.clone(),
        origin: Some(past.tx.origin.clone()),
        start_number: past.tx.start_number,
        reason: past.reason.clone(),
        reading: Some(past.end.clone()),
    }
}

fn end_tx(
    spec: &PlantSpec,
    connector: ConnectorId,
    outlet: &mut Outlet,
    wall: UnixMs,
    reason: EndReason,
) -> Vec<HwFact> {
    let Some(tx) = outlet.tx.take() else {
        return Vec::new();
    };
    outlet.power = MilliWatt(0);
    outlet.phase = None;
    let past = PastTx {
        tx,
        at: wall,
        reason,
        end: reading(spec, connector, outlet, wall),
    };
    let fact = ended_fact(connector, &past);
    outlet.past.push_back(past);
    if outlet.past.len() > PAST_MAX {
        outlet.past.pop_front();
    }
    vec![fact]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(settings: SimulatorConfig) -> PlantSpec {
        PlantSpec {
            cp: CpId::new("CP-001").unwrap(),
            connectors: vec![ConnectorSpec {
                connector: ConnectorId(1),
                max_ma: MilliAmp(16_000),
                phases: 3,
                volts: 230,
                plug: None,
            }],
            settings,
            speed: 1,
        }
    }

    const ONE: ConnectorId = ConnectorId(1);
    const START: HwCommand = HwCommand::Start {
        connector: ONE,
        start_number: StartNumber(7),
        limit_ma: None,
    };

    fn charging(spec: &PlantSpec) -> Plant {
        let mut plant = Plant::new(spec, UnixMs(1_000_000));
        plant.plug(spec, &mut PlainNames, ONE, true);
        let (verdict, ..) = plant.command(spec, &mut PlainNames, &START);
        assert_eq!(verdict, HwVerdict::Accepted);
        plant
    }

    fn delivered(plant: &Plant, spec: &PlantSpec) -> u64 {
        plant.outlets[&ONE].register.0 - spec.settings.register_mwh
    }

    #[test]
    fn an_agent_that_comes_is_shown_each_register_with_its_own_time() {
        let spec = spec(SimulatorConfig::default());
        let mut plant = charging(&spec);
        plant.advance(&spec, 60_000);
        let now = plant.wall;
        let readings: Vec<_> = plant
            .snapshot(&spec)
            .into_iter()
            .filter_map(|fact| match fact {
                HwFact::Reading { reading, .. } => Some(reading),
                HwFact::Phase { reading, .. } => reading,
                _ => None,
            })
            .collect();
        assert!(!readings.is_empty());
        assert!(readings.iter().all(|r| r.at == now), "{readings:?}");
    }

    #[test]
    fn an_hour_of_eleven_kilowatts_is_eleven_kilowatt_hours_to_the_milliwatt_hour() {
        let spec = spec(SimulatorConfig::default());
        let mut plant = charging(&spec);
        plant.advance(&spec, 3_600_000);
        assert_eq!(delivered(&plant, &spec), 11_000_000);
    }

    #[test]
    fn time_in_one_piece_or_in_many_comes_to_the_same() {
        let spec = spec(SimulatorConfig::default());
        let mut at_once = charging(&spec);
        let mut in_pieces = at_once.clone();
        at_once.advance(&spec, 1_234_567);
        let mut left = 1_234_567;
        while left > 0 {
            let piece = left.min(37 + left % 911);
            in_pieces.advance(&spec, piece);
            left -= piece;
            // As a restart does it.
            let json = serde_json::to_string(&in_pieces).unwrap();
            in_pieces = serde_json::from_str(&json).unwrap();
        }
        assert_eq!(at_once, in_pieces);
    }

    #[test]
    fn a_car_takes_less_from_eighty_percent_on_and_stops_when_full() {
        let settings = SimulatorConfig {
            battery_wh: 10_000,
            ..SimulatorConfig::default()
        };
        let spec = spec(settings);
        let mut plant = charging(&spec);
        let mut last = MilliWatt(11_000_000);
        for minute in 0..600 {
            let facts = plant.advance(&spec, 60_000);
            let outlet = &plant.outlets[&ONE];
            let permille = outlet.battery.0 * 1_000 / 10_000_000;
            assert!(outlet.power <= last, "minute {minute}");
            last = outlet.power;
            if permille < 800 && outlet.tx.is_some() {
                assert_eq!(outlet.power, MilliWatt(11_000_000));
            }
            if outlet.tx.is_none() {
                let ended = facts.iter().any(|f| {
                    matches!(f, HwFact::TxEnded { reason, .. } if reason.code == EndCode::EvStopped)
                });
                assert!(ended);
                assert!((7_999_000..8_001_000).contains(&delivered(&plant, &spec)));
                return;
            }
        }
        panic!("the car was never full");
    }

    #[test]
    fn limits_are_obeyed_and_below_six_amperes_it_pauses() {
        let spec = spec(SimulatorConfig::default());
        for (ma, phases, milliwatt) in [
            (10_000, None, 6_900_000),
            (16_000, Some(1), 3_680_000),
            (32_000, None, 11_000_000),
            (6_000, Some(1), 1_380_000),
            (5_999, None, 0),
            (0, None, 0),
        ] {
            let mut plant = charging(&spec);
            let limit = HwCommand::SetLimit {
                connector: ONE,
                max_ma: MilliAmp(ma),
                phases,
            };
            plant.command(&spec, &mut PlainNames, &limit);
            let facts = plant.advance(&spec, 1_000);
            assert_eq!(plant.outlets[&ONE].power, MilliWatt(milliwatt), "{ma} mA");
            let pauses = facts.iter().any(|f| {
                matches!(
                    f,
                    HwFact::Phase {
                        phase: HwPhase::SuspendedEvse,
                        ..
                    }
                )
            });
            assert_eq!(pauses, milliwatt == 0, "{ma} mA");
        }
    }

    #[test]
    fn a_repeated_start_is_the_same_and_another_is_refused() {
        let spec = spec(SimulatorConfig::default());
        let mut plant = charging(&spec);
        let (verdict, _, facts) = plant.command(&spec, &mut PlainNames, &START);
        assert_eq!(verdict, HwVerdict::Accepted);
        assert!(
            matches!(&facts[..], [HwFact::TxStarted { device_tx, .. }] if device_tx.0 == "tx-1")
        );
        let other = HwCommand::Start {
            connector: ONE,
            start_number: StartNumber(8),
            limit_ma: None,
        };
        let (verdict, ..) = plant.command(&spec, &mut PlainNames, &other);
        assert_eq!(verdict, HwVerdict::Rejected);
        let stop = HwCommand::Stop {
            connector: ONE,
            start_number: Some(StartNumber(7)),
            device_tx: None,
        };
        let (verdict, ..) = plant.command(&spec, &mut PlainNames, &stop);
        assert_eq!(verdict, HwVerdict::Accepted);
        let (verdict, ..) = plant.command(&spec, &mut PlainNames, &stop);
        assert_eq!(verdict, HwVerdict::Unknown);
        let (verdict, _, facts) = plant.command(&spec, &mut PlainNames, &START);
        assert_eq!((verdict, facts.len()), (HwVerdict::Accepted, 0));
        assert!(
            plant.outlets[&ONE].tx.is_none(),
            "a late copy starts nothing"
        );
    }

    #[test]
    fn no_energy_flows_in_the_dark_and_what_was_is_told_when_the_light_is_back() {
        for lose in [false, true] {
            let spec = spec(SimulatorConfig::default());
            let mut plant = charging(&spec);
            plant.advance(&spec, 10_000);
            let before = delivered(&plant, &spec);
            plant.power_cut(&spec, 5_000, lose);
            plant.advance(&spec, 4_000);
            assert_eq!(delivered(&plant, &spec), before);
            plant.advance(&spec, 11_000);
            let facts = plant.snapshot(&spec);
            let booted = facts
                .iter()
                .any(|f| matches!(f, HwFact::Booted { raw: Some(raw), .. } if raw == "PowerUp"));
            assert!(booted);
            let lost = facts.iter().any(|f| {
                matches!(f, HwFact::TxEnded { reason, .. } if reason.code == EndCode::PowerLoss)
            });
            assert_eq!(lost, lose);
            assert_eq!(delivered(&plant, &spec) > before, !lose);
        }
    }

    #[test]
    fn a_new_car_comes_with_the_configured_charge() {
        let spec = spec(SimulatorConfig::default());
        let mut plant = charging(&spec);
        plant.advance(&spec, 100_000);
        plant.plug(&spec, &mut PlainNames, ONE, false);
        assert_eq!(plant.outlets[&ONE].soc_pct(&spec.settings), None);
        plant.plug(&spec, &mut PlainNames, ONE, true);
        assert_eq!(plant.outlets[&ONE].soc_pct(&spec.settings), Some(20));
    }
}
