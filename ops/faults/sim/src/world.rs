//! The loop: lets a script happen, then lets everything heal and looks whether it comes to rest.

use central_core::{
    decide::{Ask, Wish},
    keys::Asker,
    state::Log,
};
use ev_contract::{
    ids::{ConnectorId, CpId, DriverId, OperatorId, RequestId, SessionId},
    units::{Amount, Currency},
    v1::{
        IdleFee, IdleFrom, LimitsRequest, Origin, PriceComponent, Reach, TariffScope, TariffTerms,
    },
};
use rust_decimal::Decimal;

use crate::{
    cabinet::{Cabinet, fixed},
    dice::Dice,
    judge::{Broken, Counts as Judged, Said},
    net::{Counts, Event, Net, Question, ToCabinet, ToReplica},
    replica::Replica,
    script::{Action, Script, Weather},
};

/// When faults have stopped, everything must have come to rest after so long: twice the longest
/// way of an append, the longest wait for a plug, some repeats.
const REST_WITHIN_MS: u64 = 1_200_000;
/// No run takes as long.
const KEPT_FOR_NEW_EPOCH_MS: i64 = 3_600_000;
/// So often the end is looked for.
const LOOK_EVERY_MS: u64 = 5_000;
/// So many in a thousand who were accepted ask at once how it stands.
const LOOKS_AT_ONCE: u32 = 500;
/// A run that needs more events than this goes round in circles.
const STEPS_MAX: u64 = 3_000_000;

/// What a run came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// What happened.
    pub net: Counts,
    /// What the judge counted.
    pub judged: Judged,
    /// Simulated milliseconds.
    pub time_ms: u64,
}

struct Driver {
    asker: Asker,
    asks: Vec<(Ask, Wish)>,
    sessions: Vec<SessionId>,
    dice: Dice,
}

struct World<'s> {
    script: &'s Script,
    net: Net,
    replicas: Vec<Replica>,
    cabinets: Vec<Cabinet>,
    drivers: Vec<Driver>,
    operator: Asker,
    requests: u64,
    dice: Dice,
    healing: bool,
}

/// Lets a script happen. `trace` tells people what happens.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(script: &Script, trace: bool) -> Result<Totals, Box<Broken>> {
    // A core that panics breaks a promise as well, and is told by its seed like any other.
    let played = std::panic::catch_unwind(|| play(script, trace));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Box::new(Broken {
            check: "no panic",
            what: text.unwrap_or("no text").to_owned(),
        }))
    })
}

fn play(script: &Script, trace: bool) -> Result<Totals, Box<Broken>> {
    let mut world = World::new(script, trace);
    world.play();
    match world.net.judge.broken.take() {
        Some(broken) => Err(Box::new(broken)),
        None => Ok(Totals {
            runs: 1,
            time_ms: world.net.t_ms,
            judged: world.net.judge.counts,
            net: world.net.counts,
        }),
    }
}

impl<'s> World<'s> {
    fn new(script: &'s Script, trace: bool) -> Self {
        let cps: Vec<CpId> = (0..2 * script.cabinets)
            .map(|n| fixed(&format!("CP-{}", n % script.cabinets)))
            .collect();
        let drivers = (0..script.drivers)
            .map(|n| Driver {
                asker: Asker::Driver(fixed(&format!("driver-{n}"))),
                asks: Vec::new(),
                sessions: Vec::new(),
                dice: Dice::new(script.seed, 400 + n as u64),
            })
            .collect();
        Self {
            script,
            replicas: (0..script.replicas)
                .map(|n| Replica::new(n, script))
                .collect(),
            // Those of the second half begin with a copy of another one's store, if at all.
            cabinets: cps
                .iter()
                .enumerate()
                .map(|(n, cp)| Cabinet::new(n, cp.clone(), script))
                .collect(),
            net: Net::new(script, cps, trace),
            drivers,
            operator: Asker::Operator(fixed::<OperatorId>("operator")),
            requests: 0,
            dice: Dice::new(script.seed, 3),
            healing: false,
        }
    }

    fn play(&mut self) {
        for replica in &mut self.replicas {
            replica.boot(&mut self.net);
        }
        for cabinet in &mut self.cabinets[..self.script.cabinets] {
            cabinet.boot(&mut self.net);
        }
        if self.script.idle_fee {
            self.set_tariff();
        }
        for (index, timed) in self.script.actions.iter().enumerate() {
            self.net.schedule(timed.at_ms, Event::Act(index));
        }
        let until = self.script.actions.last().map_or(0, |last| last.at_ms) + 30_000;
        self.go_until(until);
        if self.broken() {
            return;
        }
        self.heal();
        let deadline = self.net.t_ms + REST_WITHIN_MS;
        loop {
            let look = self.net.t_ms + LOOK_EVERY_MS;
            self.go_until(look);
            if self.broken() {
                return;
            }
            if self.at_rest() {
                break;
            }
            if self.net.t_ms >= deadline {
                self.not_at_rest();
                return;
            }
            self.push_on();
        }
        self.last_look();
    }

    fn broken(&self) -> bool {
        self.net.judge.broken.is_some()
    }

    fn go_until(&mut self, until_ms: u64) {
        loop {
            match self.net.next_at() {
                Some(at) if at <= until_ms => {}
                Some(_) | None => {
                    self.net.t_ms = self.net.t_ms.max(until_ms);
                    return;
                }
            }
            let Some(event) = self.net.pop() else {
                return;
            };
            self.step(event);
            if self.broken() {
                return;
            }
            if self.net.counts.steps > STEPS_MAX {
                self.net.judge.fail("comes to rest", "too many events");
                return;
            }
        }
    }

    fn step(&mut self, event: Event) {
        let net = &mut self.net;
        // What a frozen replica should see waits.
        let replica = match &event {
            Event::ReplicaTick { replica, life }
            | Event::Read { replica, life }
            | Event::Acked { replica, life, .. }
            | Event::AppendAgain { replica, life, .. } => Some((*replica, Some(*life))),
            Event::ToReplica { replica, life, .. } => Some((*replica, *life)),
            Event::Act(_)
            | Event::CabinetTick { .. }
            | Event::ToCabinet { .. }
            | Event::ToAsker { .. }
            | Event::Land { .. }
            | Event::Hardware { .. }
            | Event::ToCharger { .. }
            | Event::ReplicaUp(_)
            | Event::CabinetUp(_)
            | Event::LinkUp(_)
            | Event::UplinkUp(_)
            | Event::Thaw { .. } => None,
        };
        if let Some((index, life)) = replica {
            let r = &mut self.replicas[index];
            let same = life.is_none_or(|life| life == u32::MAX || life == r.life);
            if !r.up || !same {
                return;
            }
            if net.t_ms < r.frozen_until_ms {
                r.held.push(event);
                return;
            }
        }
        match event {
            Event::Act(index) => {
                let action = self.script.actions[index].action.clone();
                self.act(&action);
            }
            Event::ReplicaTick { replica, .. } => {
                net.counts.ticks += 1;
                self.replicas[replica].tick(net);
            }
            Event::CabinetTick { cabinet, life } => {
                let c = &mut self.cabinets[cabinet];
                if c.up && c.life == life {
                    net.counts.ticks += 1;
                    c.tick(net);
                }
            }
            Event::ToReplica {
                replica, message, ..
            } => {
                let r = &mut self.replicas[replica];
                if net.t_ms >= r.cut_until_ms {
                    r.message(net, *message);
                }
            }
            Event::ToCabinet { cabinet, message } => {
                // Both listen to the same subject.
                let twin = cabinet + self.script.cabinets;
                if let ToCabinet::Command { .. } = *message
                    && self.cabinets.get(twin).is_some_and(|twin| twin.up)
                {
                    self.cabinets[twin].message(net, (*message).clone());
                }
                self.cabinets[cabinet].message(net, *message);
            }
            Event::ToAsker { ask, said } => {
                net.note(|| format!("{} hears of {}: {said:?}", ask.asker.as_str(), ask.request));
                net.judge
                    .heard(&ask.asker, &ask.request, ask.content, &said);
                self.remember(&ask, &said);
            }
            Event::Land { frame, bytes, ack } => {
                net.note(|| {
                    let kinds: Vec<_> = frame.records.iter().map(|r| r.kind).collect();
                    format!("ledger: {} of {} {kinds:?}", frame.id, frame.by)
                });
                net.landed(frame, bytes, ack);
            }
            Event::Read { replica, .. } => self.replicas[replica].read(net),
            Event::Acked {
                replica,
                frame,
                pos,
                ..
            } => {
                if net.t_ms >= self.replicas[replica].cut_until_ms {
                    self.replicas[replica].acknowledged(net, frame, pos);
                }
            }
            Event::AppendAgain { replica, frame, .. } => self.replicas[replica].append(net, frame),
            Event::Hardware {
                cabinet,
                life,
                from,
            } => {
                let c = &mut self.cabinets[cabinet];
                if c.up && c.life == life {
                    c.hardware(net, *from);
                }
            }
            Event::ToCharger { cabinet, command } => {
                self.cabinets[cabinet].to_charger(net, *command);
            }
            Event::ReplicaUp(replica) => {
                if !self.replicas[replica].up {
                    self.replicas[replica].boot(net);
                }
            }
            Event::CabinetUp(cabinet) => {
                let is_twin = cabinet >= self.script.cabinets;
                if !(self.cabinets[cabinet].up || is_twin && self.healing) {
                    self.cabinets[cabinet].boot(net);
                }
            }
            Event::LinkUp(cabinet) => self.cabinets[cabinet].greet(net),
            Event::UplinkUp(cabinet) => self.cabinets[cabinet].uplink_up(net),
            Event::Thaw { replica, life } => {
                let r = &mut self.replicas[replica];
                if r.up && r.life == life && net.t_ms >= r.frozen_until_ms {
                    for event in std::mem::take(&mut r.held) {
                        net.schedule(net.t_ms, event);
                    }
                }
            }
        }
    }

    // -- The script -------------------------------------------------------------------------------

    fn act(&mut self, action: &Action) {
        self.net.note(|| format!("-- {action:?}"));
        let now = self.net.t_ms;
        match *action {
            Action::Start {
                driver,
                cabinet,
                connector,
                copies,
                spread_ms,
                life_ms,
                by_operator,
                energy_wh,
            } => {
                let Asker::Driver(id) = self.drivers[driver].asker.clone() else {
                    return;
                };
                let wish = Wish::Start {
                    driver: id,
                    origin: if by_operator {
                        Origin::Operator
                    } else {
                        Origin::App
                    },
                    cp: self.net.cp(cabinet).clone(),
                    connector: Some(i64::from(connector)),
                    limits: LimitsRequest {
                        energy_wh,
                        ..LimitsRequest::default()
                    },
                    seen: None,
                    reach: Reach::Unknown,
                    json: false,
                };
                let asker = if by_operator {
                    self.operator.clone()
                } else {
                    self.drivers[driver].asker.clone()
                };
                let ask = self.new_ask(asker, &wish, life_ms);
                self.drivers[driver].asks.push((ask.clone(), wish.clone()));
                self.send(&ask, &wish, copies, spread_ms);
            }
            Action::Repeat {
                driver,
                back,
                reuse,
            } => {
                let asks = &self.drivers[driver].asks;
                let Some((mut ask, mut wish)) = asks.iter().rev().nth(back).cloned() else {
                    return;
                };
                if reuse {
                    wish = Wish::Stop {
                        session: SessionId::from_uuid(self.net.fresh_id()),
                    };
                    ask.content = wish.content(ask.expires_at);
                }
                self.send(&ask, &wish, 2, 500);
            }
            Action::Stop {
                driver,
                back,
                copies,
            } => {
                let d = &self.drivers[driver];
                let Some(session) = d.sessions.iter().rev().nth(back).copied() else {
                    return;
                };
                let wish = Wish::Stop { session };
                let ask = self.new_ask(self.drivers[driver].asker.clone(), &wish, 30_000);
                self.drivers[driver].asks.push((ask.clone(), wish.clone()));
                self.send(&ask, &wish, copies, 3_000);
            }
            Action::StopForeign { driver, other } => {
                let Some(session) = self.drivers[other].sessions.last().copied() else {
                    return;
                };
                let wish = Wish::Stop { session };
                let ask = self.new_ask(self.drivers[driver].asker.clone(), &wish, 30_000);
                self.send(&ask, &wish, 1, 1);
            }
            Action::Status { driver, back } => {
                let d = &mut self.drivers[driver];
                let session = match back {
                    None => None,
                    Some(back) => match d.sessions.iter().rev().nth(back) {
                        Some(session) => Some(*session),
                        None => return,
                    },
                };
                let Asker::Driver(id) = d.asker.clone() else {
                    return;
                };
                let question = Question::Query {
                    driver: id,
                    session,
                };
                self.net
                    .to_replica(&mut d.dice, None, &ToReplica::Ask(question));
            }
            Action::OperatorEnd {
                cabinet,
                connector,
                write_off,
            } => {
                let Some(session) = self.cabinets[cabinet].shown(ConnectorId(connector)) else {
                    return;
                };
                self.operator_end(session, write_off);
            }
            Action::Service {
                cabinet,
                connector,
                serve,
            } => {
                let wish = Wish::Service {
                    cp: self.net.cp(cabinet).clone(),
                    connector: Some(i64::from(connector)),
                    serve,
                };
                self.operate(&wish);
            }
            Action::Block { driver, blocked } => {
                let Asker::Driver(id) = self.drivers[driver].asker.clone() else {
                    return;
                };
                let wish = if blocked {
                    Wish::Block {
                        driver: id,
                        reason: "unpaid".into(),
                    }
                } else {
                    Wish::Unblock { driver: id }
                };
                self.operate(&wish);
            }
            Action::Plug {
                cabinet,
                connector,
                plugged,
            } => {
                for cabinet in [cabinet, cabinet + self.script.cabinets] {
                    self.at_charger(cabinet, |c, m| {
                        c.charger.plug(ConnectorId(connector), plugged, m)
                    });
                }
            }
            Action::LocalStart { cabinet, connector } => {
                for cabinet in [cabinet, cabinet + self.script.cabinets] {
                    self.cabinets[cabinet].local_start(&mut self.net, ConnectorId(connector));
                }
            }
            Action::LocalStop { cabinet, connector } => {
                self.cabinets[cabinet].local_stop(&mut self.net, ConnectorId(connector));
            }
            Action::Pause {
                cabinet,
                connector,
                paused,
            } => self.at_charger(cabinet, |c, m| {
                c.charger.pause(ConnectorId(connector), paused, m)
            }),
            Action::Fault {
                cabinet,
                connector,
                fault,
            } => self.at_charger(cabinet, |c, m| {
                c.charger.fault(ConnectorId(connector), fault, m)
            }),
            Action::Spontaneous { cabinet, connector } => self.at_charger(cabinet, |c, m| {
                c.charger.spontaneous(ConnectorId(connector), m)
            }),
            Action::ResetCharger { cabinet, registers } => {
                self.at_charger(cabinet, |c, m| c.charger.reset(registers, m));
            }
            Action::LinkDown { cabinet, for_ms } => {
                self.cabinets[cabinet].link_down(&mut self.net, for_ms);
            }
            Action::CrashCabinet {
                cabinet,
                commits,
                after,
                for_ms,
            } => {
                for cabinet in [cabinet, cabinet + self.script.cabinets] {
                    self.cabinets[cabinet].crash = Some((commits, after, for_ms));
                }
            }
            Action::DiskFull { cabinet, for_ms } => {
                self.cabinets[cabinet].disk_full_until_ms = now + for_ms;
            }
            Action::CopyStore { cabinet } => {
                let (originals, twins) = self.cabinets.split_at_mut(self.script.cabinets);
                // What is sent again under a new epoch must not be forgotten: `edge-cp new-epoch` refuses
                // a store that is too old.
                let is_kept = self.script.keep_answers_ms >= KEPT_FOR_NEW_EPOCH_MS;
                if is_kept && !twins[cabinet].copied {
                    originals[cabinet].copy_to(&mut twins[cabinet], &mut self.net);
                }
            }
            Action::NewDisk { cabinet } => self.cabinets[cabinet].new_disk(&mut self.net),
            Action::CutUplink { cabinet, for_ms } => {
                self.cabinets[cabinet].cut_until_ms = now + for_ms;
                self.net.schedule(now + for_ms, Event::UplinkUp(cabinet));
            }
            Action::CabinetClock { cabinet, by_ms } => {
                self.cabinets[cabinet].clock_set(by_ms);
            }
            Action::CrashReplica { replica, for_ms } => self.crash_replica(replica, for_ms),
            Action::Freeze { replica, for_ms } => {
                let r = &mut self.replicas[replica];
                if r.up {
                    self.net.counts.freezes += 1;
                    r.frozen_until_ms = now + for_ms;
                    let life = r.life;
                    self.net
                        .schedule(now + for_ms, Event::Thaw { replica, life });
                }
            }
            Action::CutReplica { replica, for_ms } => {
                self.replicas[replica].cut_until_ms = now + for_ms;
            }
            Action::LagReplica {
                replica,
                lag_ms,
                for_ms,
            } => self.net.lags[replica] = (lag_ms, now + for_ms),
            Action::ReplicaClock { replica, off_ms } => self.replicas[replica].off_ms = off_ms,
            Action::Snapshot { replica } => {
                let r = &mut self.replicas[replica];
                if r.up && now >= r.frozen_until_ms {
                    r.snapshot(&mut self.net);
                }
            }
            Action::LedgerDown { for_ms } => self.net.ledger_down_until_ms = now + for_ms,
            Action::Weather(weather) => self.net.weather = weather,
        }
    }

    fn crash_replica(&mut self, replica: usize, for_ms: u64) {
        let r = &mut self.replicas[replica];
        if r.up {
            self.net.counts.replica_crashes += 1;
            r.up = false;
            r.held.clear();
            self.net
                .schedule(self.net.t_ms + for_ms.max(1), Event::ReplicaUp(replica));
        }
    }

    fn at_charger(
        &mut self,
        cabinet: usize,
        act: impl FnOnce(&mut Cabinet, crate::charger::Moment) -> Vec<edge_core::hardware::HwFact>,
    ) {
        let c = &mut self.cabinets[cabinet];
        let moment = c.moment(&self.net);
        let facts = act(c, moment);
        c.facts(&mut self.net, facts);
    }

    fn new_ask(&mut self, asker: Asker, wish: &Wish, life_ms: i64) -> Ask {
        self.requests += 1;
        // Phones whose clocks are off stop too, and nothing says so but the expiry.
        let skew_ms = match self.requests % 5 {
            0 if wish.is_stop() => -2 * 3_600_000,
            1 if wish.is_stop() => 2 * 3_600_000,
            _ => 0,
        };
        let expires_at = self.net.wall().plus_ms(life_ms + skew_ms);
        Ask {
            asker,
            request: fixed::<RequestId>(&format!("r-{}", self.requests)),
            expires_at,
            content: wish.content(expires_at),
        }
    }

    /// Several copies of a request, to whichever replicas the server picks.
    fn send(&mut self, ask: &Ask, wish: &Wish, copies: u32, spread_ms: u64) {
        for copy in 0..copies {
            let at = if copy == 0 {
                0
            } else {
                self.dice.below(spread_ms + 1)
            };
            let replica = self.dice.index(self.replicas.len());
            let lost = self.dice.chance(self.net.weather.drop);
            if !lost || self.healing {
                self.net.schedule(
                    self.net.t_ms + 1 + at,
                    Event::ToReplica {
                        replica,
                        life: None,
                        message: Box::new(ToReplica::Ask(Question::Request(
                            ask.clone(),
                            wish.clone(),
                        ))),
                    },
                );
            }
        }
    }

    fn operate(&mut self, wish: &Wish) {
        let ask = self.new_ask(self.operator.clone(), wish, 30_000);
        self.send(&ask, wish, 1, 1);
    }

    fn operator_end(&mut self, session: SessionId, write_off: bool) {
        let wish = Wish::End {
            session,
            reason: "asked by phone".into(),
            write_off,
        };
        self.operate(&wish);
    }

    fn set_tariff(&mut self) {
        let amount = |cents: i64| Amount(Decimal::new(cents, 2));
        let wish = Wish::SetTariff {
            tariff: fixed("day"),
            scope: TariffScope::Default,
            from: None,
            terms: TariffTerms {
                idle: Some(IdleFee {
                    grace_s: 10,
                    cap: amount(30),
                    from: IdleFrom::WithoutPowerS(30),
                    after_fault: false,
                }),
                ..TariffTerms::free(Currency::EUR)
            }
            .with(PriceComponent::Energy, amount(49))
            .with(PriceComponent::StartFee, amount(100))
            .with(PriceComponent::Idle, amount(10))
            .taxed("VAT", amount(1900)),
        };
        self.operate(&wish);
    }

    fn remember(&mut self, ask: &Ask, said: &Said) {
        let Said::Answer(central_core::model::Answer::Started { session, .. }) = said else {
            return;
        };
        for driver in &mut self.drivers {
            let asked = driver
                .asks
                .iter()
                .any(|(own, _)| own.request == ask.request);
            if asked && !driver.sessions.contains(session) {
                driver.sessions.push(*session);
                // Who has just been accepted looks at once, and may meet a replica that lags.
                if let Asker::Driver(id) = &driver.asker
                    && driver.dice.chance(LOOKS_AT_ONCE)
                {
                    let question = Question::Query {
                        driver: id.clone(),
                        session: Some(*session),
                    };
                    self.net
                        .to_replica(&mut driver.dice, None, &ToReplica::Ask(question));
                }
            }
        }
    }

    // -- The end ----------------------------------------------------------------------------------

    /// Faults stop; cars go home.
    fn heal(&mut self) {
        self.net.note(|| "-- everything heals".to_owned());
        self.healing = true;
        let now = self.net.t_ms;
        self.net.weather = Weather::default();
        self.net.ledger_down_until_ms = now;
        for replica in 0..self.replicas.len() {
            let r = &mut self.replicas[replica];
            r.cut_until_ms = now;
            r.off_ms = 0;
            self.net.lags[replica] = (0, 0);
            r.frozen_until_ms = now;
            let life = r.life;
            self.net.schedule(now, Event::Thaw { replica, life });
            self.net.schedule(now, Event::ReplicaUp(replica));
        }
        let (originals, twins) = self.cabinets.split_at_mut(self.script.cabinets);
        for (c, twin) in originals.iter_mut().zip(twins) {
            // An operator looks which is the right one: it is the first.
            if c.copied {
                twin.switch_off();
                c.new_epoch(&mut self.net);
            }
        }
        for cabinet in 0..self.script.cabinets {
            let c = &mut self.cabinets[cabinet];
            c.crash = None;
            c.cut_until_ms = now;
            c.link_down_until_ms = now;
            c.disk_full_until_ms = now;
            self.net.schedule(now, Event::CabinetUp(cabinet));
            self.net.schedule(now + 1, Event::UplinkUp(cabinet));
            self.net.schedule(now + 1, Event::LinkUp(cabinet));
            for n in 1..=self.script.connectors {
                self.at_charger(cabinet, |c, m| {
                    c.charger
                        .fault(ConnectorId(n), crate::script::Trouble::None, m)
                });
                self.at_charger(cabinet, |c, m| c.charger.plug(ConnectorId(n), false, m));
            }
            self.net.schedule(now + 3_000, Event::LinkUp(cabinet));
        }
    }

    /// What only people can end: sessions whose disk is gone.
    fn push_on(&mut self) {
        let lost: Vec<SessionId> = self
            .net
            .judge
            .open()
            .filter(|s| {
                let cabinet = self.net.cabinet_of(&s.cp);
                cabinet.is_some_and(|c| !self.cabinets[c].is_current(&s.epoch))
            })
            .map(|s| s.id)
            .collect();
        for session in lost {
            self.operator_end(session, true);
        }
    }

    fn at_rest(&self) -> bool {
        self.net.judge.open().next().is_none()
            && self.originals().iter().all(Cabinet::is_idle)
            && self.replicas.iter().all(Replica::is_idle)
    }

    fn originals(&self) -> &[Cabinet] {
        &self.cabinets[..self.script.cabinets]
    }

    /// What two agents with one identity had is in the ledger, kept aside there, or on a disk.
    fn nothing_silently_gone(&mut self) {
        for (who, cabinet) in self.cabinets.iter().enumerate() {
            let first = &self.cabinets[who % self.script.cabinets];
            if !cabinet.copied || first.lost_disk {
                continue;
            }
            let on_disk: Vec<SessionId> = cabinet.spooled_sessions().collect();
            let gone = self
                .net
                .judge
                .unknown_of(who)
                .find(|id| !on_disk.contains(id));
            if let Some(id) = gone {
                let what = format!("{id}, that began at {} ({who})", self.net.cp(who));
                self.net.judge.fail("nothing is silently gone", what);
                return;
            }
        }
    }

    fn not_at_rest(&mut self) {
        let open: Vec<String> = self
            .net
            .judge
            .open()
            .map(|s| format!("{} {:?} stop {:?}", s.id, s.stage, s.stop))
            .collect();
        let cabinets: Vec<String> = self.cabinets.iter().map(Cabinet::describe).collect();
        let idle: Vec<bool> = self.replicas.iter().map(Replica::is_idle).collect();
        let what = format!("open: {open:#?}; cabinets: {cabinets:#?}; replicas idle: {idle:?}");
        self.net.judge.fail("comes to rest", what);
    }

    /// Everything is quiet: nothing may be missing.
    fn last_look(&mut self) {
        let asked = self.ask_in_calm();
        // Late copies of frames and facts are still on their way; they must change nothing.
        let until = self.net.t_ms + 300_000;
        self.go_until(until);
        if self.broken() {
            return;
        }
        for ask in asked {
            if !self.net.judge.has_told(&ask.asker, &ask.request) {
                let what = format!("{} of {}", ask.request, ask.asker.as_str());
                self.net.judge.fail("every request is answered", what);
            }
        }
        self.energy();
        self.nothing_silently_gone();
        self.same_state();
        if self.net.judge.uncopied() > 0 {
            self.net
                .judge
                .fail("one receipt", "a receipt is not in the CDR stream");
        }
    }

    /// While nothing goes wrong, each driver asks for something that is refused: it must hear so.
    fn ask_in_calm(&mut self) -> Vec<Ask> {
        let askers: Vec<Asker> = self.drivers.iter().map(|d| d.asker.clone()).collect();
        askers
            .into_iter()
            .map(|asker| {
                let wish = Wish::Stop {
                    session: SessionId::from_uuid(self.net.fresh_id()),
                };
                let ask = self.new_ask(asker, &wish, 30_000);
                self.send(&ask, &wish, 1, 1);
                ask
            })
            .collect()
    }

    fn energy(&mut self) {
        for (index, cabinet) in self.cabinets[..self.script.cabinets].iter().enumerate() {
            let cp = self.net.cp(index).clone();
            for (outlet, n) in cabinet.charger.outlets.iter().zip(1u16..) {
                let metered = i64::try_from(outlet.delivered).unwrap_or(i64::MAX);
                self.net.counts.delivered_mwh += outlet.delivered;
                let (billed, told) = self.net.judge.billed(&cp, ConnectorId(n));
                if billed != metered
                    && !cabinet.lost_disk
                    && !cabinet.copied
                    && !self.net.judge.set_aside(&cp)
                {
                    let what =
                        format!("{cp}/{n} metered {metered} mWh, billed {billed} mWh: {told:#?}");
                    self.net.judge.fail("no energy is lost", what);
                }
            }
        }
    }

    /// Replicas that have applied the same have the same state, and so has one that reads it all
    /// from the first byte on.
    fn same_state(&mut self) {
        let mut log = Log::default();
        let mut pos = 1;
        while let Some((_, bytes)) = self.net.entry(pos) {
            if let Err(alarm) = log.apply(pos, &bytes) {
                self.net.judge.fail("no false alarm", alarm.to_string());
                return;
            }
            pos += 1;
        }
        for replica in &self.replicas {
            if let Some(what) = self.net.judge.missing(replica.log.state()) {
                let what = format!("replica {} no longer has {what}", replica.index);
                self.net.judge.fail("forgetting", what);
            }
            if replica.log.state() != log.state() {
                let what = format!(
                    "replica {} at {} differs from a full replay to {}",
                    replica.index,
                    replica.log.state().basis().seq,
                    log.state().basis().seq
                );
                self.net.judge.fail("same log, same state", what);
            }
        }
    }
}

impl Driver {
    #[expect(dead_code, reason = "for people who look into a run")]
    fn id(&self) -> Option<&DriverId> {
        crate::replica::driver_of(&self.asker)
    }
}

impl Totals {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.time_ms += other.time_ms;
        self.net.add(&other.net);
        self.judged.add(&other.judged);
    }
}
