//! A charger as a physical thing: outlets, cars, meters. It knows what was truly delivered.

use std::collections::VecDeque;

use edge_core::hardware::{
    DeviceTx, HwCommand, HwFact, HwPhase, HwReading, HwVerdict, OriginKey, RunningTx, StartNumber,
};
use ev_contract::{
    connector::{Fault, FaultEffect},
    ids::ConnectorId,
    time::UnixMs,
    units::Mwh,
    v1::{EndCode, EndReason, EndSource},
};

use crate::{dice::Dice, script::Trouble};

/// Milliwatt-milliseconds in a milliwatt-hour.
const MW_MS_PER_MWH: u64 = 3_600_000;
/// Ended transactions that it tells again when its agent is back.
const PAST_MAX: usize = 64;
/// Below the 22 kW that the connectors are said to give.
const POWER_MW: u64 = 20_000_000;

/// A charger with its outlets, numbered from 1.
#[derive(Debug)]
pub struct Charger {
    name: String,
    /// Whose dice it throws.
    stream: u64,
    dice: Dice,
    txs: u64,
    /// By number, from 1.
    pub outlets: Vec<Outlet>,
}

/// One connector as a thing.
#[derive(Debug)]
pub struct Outlet {
    /// A car is there.
    pub plugged: bool,
    /// The car has paused.
    pub paused: bool,
    /// Everything that ever flowed, in mWh.
    pub delivered: u64,
    register: u64,
    meter_epoch: u32,
    rest: u64,
    seen_ms: u64,
    tx: Option<Tx>,
    past: VecDeque<(Tx, UnixMs, EndReason, HwReading)>,
    fault: Option<Fault>,
    in_service: bool,
    plug_at: UnixMs,
    fault_at: UnixMs,
    phase: Option<(HwPhase, UnixMs)>,
}

#[derive(Debug, Clone)]
struct Tx {
    name: DeviceTx,
    origin: OriginKey,
    number: Option<StartNumber>,
    at: UnixMs,
    start: HwReading,
}

/// The moment: true time, and what the host's wall clock shows.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Milliseconds since the run began.
    pub t_ms: u64,
    /// The host's wall clock.
    pub wall: UnixMs,
}

impl Charger {
    /// A new one.
    #[must_use]
    pub fn new(name: &str, connectors: u16, seed: u64, stream: u64) -> Self {
        let outlet = || Outlet {
            plugged: false,
            paused: false,
            delivered: 0,
            register: 1_000_000,
            meter_epoch: 1,
            rest: 0,
            seen_ms: 0,
            tx: None,
            past: VecDeque::new(),
            fault: None,
            in_service: true,
            plug_at: UnixMs(0),
            fault_at: UnixMs(0),
            phase: None,
        };
        Self {
            name: name.to_owned(),
            stream,
            dice: Dice::new(seed, stream),
            txs: 0,
            outlets: (0..connectors).map(|_| outlet()).collect(),
        }
    }

    fn outlet(&mut self, id: ConnectorId) -> Option<&mut Outlet> {
        self.outlets.get_mut(usize::from(id.0).checked_sub(1)?)
    }

    /// Whether a transaction truly runs.
    #[must_use]
    pub fn runs(&self, origin: &OriginKey) -> bool {
        self.outlets
            .iter()
            .any(|o| o.tx.as_ref().is_some_and(|tx| tx.origin == *origin))
    }

    /// The host's wall clock is set. From here on the driver of this charger translates what it has
    /// to tell by the clock as it is.
    pub fn clock_set(&mut self, by_ms: i64) {
        let shift = |at: &mut UnixMs| *at = at.plus_ms(by_ms);
        for o in &mut self.outlets {
            shift(&mut o.plug_at);
            shift(&mut o.fault_at);
            if let Some((_, at)) = &mut o.phase {
                shift(at);
            }
            for (tx, at, _, end) in &mut o.past {
                shift(&mut tx.at);
                shift(&mut tx.start.at);
                shift(at);
                shift(&mut end.at);
            }
            if let Some(tx) = &mut o.tx {
                shift(&mut tx.at);
                shift(&mut tx.start.at);
            }
        }
    }

    /// Energy flows up to here.
    fn flow(&mut self, m: Moment) {
        for o in &mut self.outlets {
            let ms = m.t_ms.saturating_sub(o.seen_ms);
            o.seen_ms = m.t_ms;
            let suspended = o
                .fault
                .as_ref()
                .is_some_and(|f| f.effect != FaultEffect::Warning);
            if o.tx.is_some() && !o.paused && !suspended {
                let flow = o.rest + POWER_MW * ms;
                let energy = flow / MW_MS_PER_MWH;
                o.rest = flow % MW_MS_PER_MWH;
                o.register += energy;
                o.delivered += energy;
            }
        }
    }

    fn reading(&self, id: ConnectorId, wall: UnixMs) -> Option<HwReading> {
        let o = self.outlets.get(usize::from(id.0).checked_sub(1)?)?;
        Some(HwReading {
            at: wall,
            register_mwh: Mwh(o.register),
            meter_id: format!("{}-{id}", self.name),
            meter_epoch: o.meter_epoch,
            power_mw: None,
            current_ma: Vec::new(),
            soc_pct: None,
            signed: None,
        })
    }

    /// Begins a transaction; `number` when it was asked for.
    fn begin(&mut self, id: ConnectorId, number: Option<StartNumber>, m: Moment) -> Vec<HwFact> {
        self.txs += 1;
        let n = self.txs;
        // Another box with the same name, beside a copied store, has keys of its own.
        let origin = OriginKey(format!("{}/{}/{n}", self.name, self.stream));
        // Devices give themselves names that are no help.
        let odd = self.dice.below(5);
        let Some(start) = self.reading(id, m.wall) else {
            return Vec::new();
        };
        let Some(o) = self.outlet(id) else {
            return Vec::new();
        };
        let last = o.past.back().map(|(tx, ..)| tx.name.clone());
        let name = match (odd, last) {
            (0, _) => DeviceTx("0".into()),
            (1, _) => DeviceTx(format!("-{n}")),
            (2, Some(last)) => last,
            _ => DeviceTx(format!("tx-{n}")),
        };
        let tx = Tx {
            name,
            origin,
            number,
            at: m.wall,
            start,
        };
        let fact = started(id, &tx);
        o.tx = Some(tx);
        o.phase = None;
        let mut facts = vec![fact];
        facts.extend(self.phase(id, m));
        facts
    }

    /// Ends the transaction of an outlet, if it has one.
    fn end(&mut self, id: ConnectorId, reason: EndReason, m: Moment) -> Vec<HwFact> {
        let Some(end) = self.reading(id, m.wall) else {
            return Vec::new();
        };
        let Some(o) = self.outlet(id) else {
            return Vec::new();
        };
        let Some(tx) = o.tx.take() else {
            return Vec::new();
        };
        let fact = ended(id, &tx, m.wall, &reason, &end);
        o.past.push_back((tx, m.wall, reason, end));
        if o.past.len() > PAST_MAX {
            o.past.pop_front();
        }
        vec![fact]
    }

    /// Tells the phase of an outlet when it has changed.
    fn phase(&mut self, id: ConnectorId, m: Moment) -> Option<HwFact> {
        let reading = self.reading(id, m.wall);
        let o = self.outlet(id)?;
        let tx = o.tx.as_ref()?;
        let suspended = o
            .fault
            .as_ref()
            .is_some_and(|f| f.effect != FaultEffect::Warning);
        let phase = if suspended {
            HwPhase::SuspendedEvse
        } else if o.paused {
            HwPhase::SuspendedEv
        } else {
            HwPhase::Charging
        };
        if o.phase.is_some_and(|(last, _)| last == phase) {
            return None;
        }
        let fact = HwFact::Phase {
            at: m.wall,
            connector: id,
            device_tx: Some(tx.name.clone()),
            phase,
            reading,
        };
        o.phase = Some((phase, m.wall));
        Some(fact)
    }

    /// Carries out a command.
    pub fn command(
        &mut self,
        command: &HwCommand,
        m: Moment,
    ) -> (HwVerdict, Option<String>, Vec<HwFact>) {
        self.flow(m);
        let no = |why: &str| (HwVerdict::Rejected, Some(why.to_owned()), Vec::new());
        let yes = |facts| (HwVerdict::Accepted, None, facts);
        match command {
            HwCommand::Start {
                connector,
                start_number,
                ..
            } => {
                let Some(o) = self.outlet(*connector) else {
                    return no("no such connector");
                };
                let over = o
                    .past
                    .iter()
                    .any(|(tx, ..)| tx.number == Some(*start_number));
                if over {
                    return yes(Vec::new());
                }
                if let Some(tx) = &mut o.tx {
                    return match tx.number {
                        Some(number) if number == *start_number => {
                            let fact = started(*connector, tx);
                            yes(vec![fact])
                        }
                        None => {
                            tx.number = Some(*start_number);
                            yes(Vec::new())
                        }
                        Some(_) => no("busy"),
                    };
                }
                let broken = o
                    .fault
                    .as_ref()
                    .is_some_and(|f| f.effect != FaultEffect::Warning);
                if !o.plugged || broken || !o.in_service {
                    return no("not ready");
                }
                let facts = self.begin(*connector, Some(*start_number), m);
                yes(facts)
            }
            HwCommand::Stop {
                connector,
                start_number,
                device_tx,
            } => {
                let Some(o) = self.outlet(*connector) else {
                    return (HwVerdict::Unknown, None, Vec::new());
                };
                let it =
                    o.tx.as_ref()
                        .is_some_and(|tx| match (start_number, tx.number) {
                            (Some(asked), Some(own)) => *asked == own,
                            _ => device_tx.as_ref() == Some(&tx.name),
                        });
                if !it {
                    return (HwVerdict::Unknown, None, Vec::new());
                }
                let reason = EndReason::new(EndCode::Other, EndSource::ChargePoint);
                let facts = self.end(*connector, reason, m);
                yes(facts)
            }
            HwCommand::SetService {
                connector,
                in_service,
            } => {
                if let Some(o) = self.outlet(*connector) {
                    o.in_service = *in_service;
                }
                yes(Vec::new())
            }
            HwCommand::SetLimit { .. } => yes(Vec::new()),
            HwCommand::Unlock { connector } => {
                let reason = EndReason::new(EndCode::Unlock, EndSource::Charger);
                let facts = self.end(*connector, reason, m);
                yes(facts)
            }
            HwCommand::Reset => {
                let facts = self.reset(false, m);
                yes(facts)
            }
        }
    }

    /// A car comes or goes.
    pub fn plug(&mut self, id: ConnectorId, plugged: bool, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        let Some(o) = self.outlet(id) else {
            return Vec::new();
        };
        if o.plugged == plugged {
            return Vec::new();
        }
        o.plugged = plugged;
        o.paused = false;
        o.plug_at = m.wall;
        let mut facts = Vec::new();
        if !plugged {
            let reason = EndReason::new(EndCode::EvUnplugged, EndSource::Vehicle);
            facts.extend(self.end(id, reason, m));
        }
        facts.push(HwFact::Plug {
            at: m.wall,
            connector: id,
            plugged,
        });
        facts
    }

    /// The car pauses or goes on.
    pub fn pause(&mut self, id: ConnectorId, paused: bool, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        if let Some(o) = self.outlet(id) {
            o.paused = paused && o.plugged;
        }
        self.phase(id, m).into_iter().collect()
    }

    /// A fault begins or clears.
    pub fn fault(&mut self, id: ConnectorId, trouble: Trouble, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        let effect = match trouble {
            Trouble::Warning => Some(FaultEffect::Warning),
            Trouble::Suspends => Some(FaultEffect::Suspends),
            Trouble::Ended => Some(FaultEffect::Ended),
            Trouble::None => None,
        };
        let fault = effect.map(|effect| Fault {
            effect,
            raw: "E1".into(),
        });
        let Some(o) = self.outlet(id) else {
            return Vec::new();
        };
        o.fault.clone_from(&fault);
        o.fault_at = m.wall;
        let mut facts = vec![HwFact::Fault {
            at: m.wall,
            connector: id,
            fault,
        }];
        if effect == Some(FaultEffect::Ended) {
            let reason = EndReason::new(EndCode::Fault, EndSource::Charger);
            facts.extend(self.end(id, reason, m));
        }
        facts.extend(self.phase(id, m));
        facts
    }

    /// A transaction begins by itself, as in devices that know a card.
    pub fn spontaneous(&mut self, id: ConnectorId, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        let may = self
            .outlet(id)
            .is_some_and(|o| o.plugged && o.tx.is_none() && o.fault.is_none() && o.in_service);
        if may {
            self.begin(id, None, m)
        } else {
            Vec::new()
        }
    }

    /// Boots.
    pub fn reset(&mut self, registers: bool, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        let mut facts = Vec::new();
        let ids: Vec<_> = self.ids().collect();
        for id in &ids {
            let reason = EndReason::new(EndCode::Reset, EndSource::Charger);
            facts.extend(self.end(*id, reason, m));
        }
        facts.push(HwFact::Booted {
            at: m.wall,
            raw: Some("Watchdog".into()),
            running: Some(Vec::new()),
        });
        if registers {
            for id in ids {
                if let Some(o) = self.outlet(id) {
                    o.register = 0;
                    o.meter_epoch += 1;
                }
                facts.extend(self.read(id, m));
            }
        }
        facts
    }

    fn ids(&self) -> impl Iterator<Item = ConnectorId> + use<> {
        (1..=self.outlets.len()).filter_map(|n| u16::try_from(n).ok().map(ConnectorId))
    }

    fn read(&self, connector: ConnectorId, m: Moment) -> Option<HwFact> {
        self.reading(connector, m.wall)
            .map(|reading| HwFact::Reading { connector, reading })
    }

    /// Reads the meters of what runs.
    pub fn readings(&mut self, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        self.ids()
            .filter(|id| self.outlets[usize::from(id.0) - 1].tx.is_some())
            .filter_map(|id| self.read(id, m))
            .collect()
    }

    /// What it tells an agent that has just come: everything that is, and what was.
    pub fn greeting(&mut self, m: Moment) -> Vec<HwFact> {
        self.flow(m);
        let running: Vec<RunningTx> = self
            .ids()
            .zip(&self.outlets)
            .filter_map(|(connector, o)| {
                o.tx.as_ref().map(|tx| RunningTx {
                    connector,
                    device_tx: tx.name.clone(),
                    origin: Some(tx.origin.clone()),
                })
            })
            .collect();
        let mut facts = vec![HwFact::Link {
            at: m.wall,
            up: true,
            running: Some(running),
        }];
        for (id, o) in self.ids().zip(&self.outlets) {
            facts.push(HwFact::Plug {
                at: o.plug_at,
                connector: id,
                plugged: o.plugged,
            });
            facts.push(HwFact::Fault {
                at: o.fault_at,
                connector: id,
                fault: o.fault.clone(),
            });
            for (tx, at, reason, end) in &o.past {
                facts.push(started(id, tx));
                facts.push(ended(id, tx, *at, reason, end));
            }
            if let Some(tx) = &o.tx {
                facts.push(started(id, tx));
            }
            facts.extend(self.read(id, m));
        }
        facts
    }
}

fn started(connector: ConnectorId, tx: &Tx) -> HwFact {
    HwFact::TxStarted {
        at: tx.at,
        connector,
        device_tx: tx.name.clone(),
        origin: tx.origin.clone(),
        start_number: tx.number,
        reading: tx.start.clone(),
    }
}

fn ended(
    connector: ConnectorId,
    tx: &Tx,
    at: UnixMs,
    reason: &EndReason,
    end: &HwReading,
) -> HwFact {
    HwFact::TxEnded {
        at,
        connector,
        device_tx: tx.name.clone(),
        origin: Some(tx.origin.clone()),
        start_number: tx.number,
        reason: reason.clone(),
        reading: Some(end.clone()),
    }
}

/// The same fact, its times translated by a clock that was set by so much.
pub fn shift(fact: &mut HwFact, by_ms: i64) {
    let shift = |at: &mut UnixMs| *at = at.plus_ms(by_ms);
    match fact {
        HwFact::Link { at, .. }
        | HwFact::Booted { at, .. }
        | HwFact::Plug { at, .. }
        | HwFact::Fault { at, .. }
        | HwFact::Service { at, .. } => shift(at),
        HwFact::TxStarted { at, reading, .. } => {
            shift(at);
            shift(&mut reading.at);
        }
        HwFact::Reading { reading, .. } => shift(&mut reading.at),
        HwFact::Phase { at, reading, .. } | HwFact::TxEnded { at, reading, .. } => {
            shift(at);
            if let Some(reading) = reading {
                shift(&mut reading.at);
            }
        }
    }
}
