//! What happens in a run, as data: drawn from a seed, written to a file, read back, made smaller.
//!
//! A script says what people, devices and misfortune do, and when. What each single message meets
//! on its way is drawn from the seed, at the rates that [`Action::Weather`] sets.

use serde::{Deserialize, Serialize};

use crate::dice::Dice;

/// In so many runs of a thousand a store is copied. The last of three lengths of keeping is needed, so that
/// it happens in a third of these.
const COPIED: u32 = 500;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Feeds every stream of chance.
    pub seed: u64,
    /// Central replicas.
    pub replicas: usize,
    /// Charge points.
    pub cabinets: usize,
    /// Connectors of each.
    pub connectors: u16,
    /// Drivers.
    pub drivers: usize,
    /// Open sessions that a driver may have.
    pub sessions_per_driver: usize,
    /// Most records in a frame: small ones, so that questions get into different frames.
    pub records_max: usize,
    /// How long refusals are kept, in milliseconds.
    pub keep_refusals_ms: i64,
    /// How long other answers and ended sessions are kept.
    pub keep_answers_ms: i64,
    /// Whether standing costs, so that sessions stand after energy has ended.
    pub idle_fee: bool,
    /// How far the clocks of central replicas may be off.
    pub skew_ms_max: i64,
    /// In order of time.
    pub actions: Vec<Timed>,
}

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

/// What people, devices and misfortune do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// A driver asks for a session, in several copies.
    Start {
        driver: usize,
        cabinet: usize,
        connector: u16,
        copies: u32,
        spread_ms: u64,
        life_ms: i64,
        by_operator: bool,
        energy_wh: Option<i64>,
    },
    /// A driver repeats an earlier request word for word, or its id with something else.
    Repeat {
        driver: usize,
        back: usize,
        reuse: bool,
    },
    /// A driver stops one of the sessions that it knows.
    Stop {
        driver: usize,
        back: usize,
        copies: u32,
    },
    /// A driver tries to stop somebody else's session.
    StopForeign { driver: usize, other: usize },
    /// A driver asks how things stand.
    Status { driver: usize, back: Option<usize> },
    /// An operator ends the session that a connector shows at the cabinet.
    OperatorEnd {
        cabinet: usize,
        connector: u16,
        write_off: bool,
    },
    /// An operator takes a connector out of service or puts it back.
    Service {
        cabinet: usize,
        connector: u16,
        serve: bool,
    },
    /// An operator blocks a driver or lets it go.
    Block { driver: usize, blocked: bool },
    /// A car comes or goes.
    Plug {
        cabinet: usize,
        connector: u16,
        plugged: bool,
    },
    /// Somebody starts at the cabinet.
    LocalStart { cabinet: usize, connector: u16 },
    /// Somebody stops at the cabinet.
    LocalStop { cabinet: usize, connector: u16 },
    /// The car pauses or goes on.
    Pause {
        cabinet: usize,
        connector: u16,
        paused: bool,
    },
    /// A fault that suspends, or ends the transaction, or clears.
    Fault {
        cabinet: usize,
        connector: u16,
        fault: Trouble,
    },
    /// The charger begins a transaction by itself.
    Spontaneous { cabinet: usize, connector: u16 },
    /// The charger boots; transactions end, registers may begin anew.
    ResetCharger { cabinet: usize, registers: bool },
    /// The agent does not hear the charger.
    LinkDown { cabinet: usize, for_ms: u64 },
    /// The agent dies at its next commits: before or after the disk has it.
    CrashCabinet {
        cabinet: usize,
        commits: u32,
        after: bool,
        for_ms: u64,
    },
    /// The disk takes nothing.
    DiskFull { cabinet: usize, for_ms: u64 },
    /// The disk is replaced by an empty one.
    NewDisk { cabinet: usize },
    /// The store is copied while it is in use, and a second agent begins with it at a cabinet of its own,
    /// until everything heals. Cars and people come to both.
    CopyStore { cabinet: usize },
    /// A cabinet loses its uplink.
    CutUplink { cabinet: usize, for_ms: u64 },
    /// A cabinet's wall clock is set.
    CabinetClock { cabinet: usize, by_ms: i64 },
    /// A replica dies and starts from the newest snapshot.
    CrashReplica { replica: usize, for_ms: u64 },
    /// A replica stands still and goes on with a stale view.
    Freeze { replica: usize, for_ms: u64 },
    /// A replica can neither read nor append nor answer.
    CutReplica { replica: usize, for_ms: u64 },
    /// A replica reads the ledger late.
    LagReplica {
        replica: usize,
        lag_ms: u64,
        for_ms: u64,
    },
    /// A replica's wall clock is set to be off by so much.
    ReplicaClock { replica: usize, off_ms: i64 },
    /// A replica writes a snapshot.
    Snapshot { replica: usize },
    /// The ledger takes nothing; what is sent is lost or lands afterwards.
    LedgerDown { for_ms: u64 },
    /// What messages and appends meet from here on.
    Weather(Weather),
}

/// What a device can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Only told.
    Warning,
    /// Energy pauses.
    Suspends,
    /// The transaction ends.
    Ended,
    /// It clears.
    None,
}

/// Rates in a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Weather {
    /// Messages that are lost.
    pub drop: u32,
    /// Messages that come twice.
    pub twice: u32,
    /// Messages that come up to a minute late.
    pub late: u32,
    /// Appends that land while their acknowledgement is lost.
    pub ack_lost: u32,
    /// Appends that never land and are not refused either.
    pub append_lost: u32,
    /// Appends that are refused.
    pub append_refused: u32,
    /// Appends that land up to minutes late.
    pub append_late: u32,
    /// Appends that land a second time, up to minutes later.
    pub append_twice: u32,
    /// Facts and answers of chargers that are late, repeated or out of order.
    pub unruly: u32,
    /// Copies of receipts that fail.
    pub copy_fails: u32,
}

/// Which kinds of misfortune a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// All of it, each seed with its own emphasis.
    All,
    /// None: the plain course of things.
    Calm,
    /// Replicas that die, freeze, are cut off, and appends of every fate.
    Ledger,
    /// Cabinets that die, with full disks, cut uplinks and unruly chargers.
    Edge,
    /// Everything at rates at which hardly anything works.
    Storm,
}

/// How often things go wrong in one run, in a thousand of what happens.
struct Emphasis {
    replicas: u64,
    cabinets: u64,
    weather: u64,
    clocks: u64,
    disks: u64,
}

impl Emphasis {
    fn draw(mix: Mix, dice: &mut Dice) -> Self {
        let mut some = |most: u64| dice.below(most + 1);
        match mix {
            Mix::Calm => Self {
                replicas: 0,
                cabinets: 0,
                weather: 0,
                clocks: 0,
                disks: 0,
            },
            Mix::All => Self {
                replicas: some(80),
                cabinets: some(80),
                weather: some(60),
                clocks: some(20),
                disks: some(8) / 6,
            },
            Mix::Ledger => Self {
                replicas: 60 + some(80),
                cabinets: 0,
                weather: 40 + some(60),
                clocks: some(20),
                disks: 0,
            },
            Mix::Edge => Self {
                replicas: some(10),
                cabinets: 60 + some(100),
                weather: some(60),
                clocks: some(20),
                disks: some(3),
            },
            Mix::Storm => Self {
                replicas: 100,
                cabinets: 100,
                weather: 80,
                clocks: 30,
                disks: 3,
            },
        }
    }
}

impl Script {
    /// Draws a run.
    #[must_use]
    pub fn draw(seed: u64, mix: Mix) -> Self {
        let mut dice = Dice::new(seed, 1);
        let mut script = Self {
            seed,
            replicas: dice.between(1, 3) as usize,
            cabinets: dice.between(1, 3) as usize,
            connectors: dice.between(1, 2) as u16,
            drivers: dice.between(2, 5) as usize,
            sessions_per_driver: dice.between(1, 2) as usize,
            records_max: [1, 2, 4, 64][dice.index(4)],
            keep_refusals_ms: [20_000, 60_000, 3_600_000][dice.index(3)],
            keep_answers_ms: 0,
            idle_fee: dice.chance(400),
            skew_ms_max: [0, 1_000, 15_000][dice.index(3)],
            actions: Vec::new(),
        };
        script.keep_answers_ms = script.keep_refusals_ms * [1, 3][dice.index(2)];
        let emphasis = Emphasis::draw(mix, &mut dice);
        if emphasis.clocks == 0 {
            script.skew_ms_max = 0;
        }
        let until = dice.between(240_000, 600_000);
        let pace = dice.between(600, 2_400);
        let mut at_ms = 3_000;
        if mix != Mix::Calm {
            let weather = Action::Weather(draw_weather(&mut dice, mix));
            script.actions.push(Timed {
                at_ms: 0,
                action: weather,
            });
        }
        let copied = match mix {
            Mix::Calm | Mix::Ledger => None,
            Mix::All | Mix::Edge | Mix::Storm => dice.chance(COPIED).then(|| Timed {
                at_ms: dice.below(until),
                action: Action::CopyStore {
                    cabinet: dice.index(script.cabinets),
                },
            }),
        };
        while at_ms < until {
            let action = script.draw_action(&mut dice, &emphasis, mix);
            script.actions.push(Timed { at_ms, action });
            // Things come in bursts: races need neighbours.
            at_ms += if dice.chance(400) {
                dice.below(60)
            } else {
                dice.below(2 * pace)
            };
        }
        if let Some(copied) = copied {
            let after = script.actions.partition_point(|a| a.at_ms <= copied.at_ms);
            script.actions.insert(after, copied);
        }
        script
    }

    fn draw_action(&self, dice: &mut Dice, emphasis: &Emphasis, mix: Mix) -> Action {
        let kind = dice.below(1_000);
        let mut edge = emphasis.replicas;
        if kind < edge {
            return self.draw_replica_fault(dice);
        }
        edge += emphasis.cabinets;
        if kind < edge {
            return self.draw_cabinet_fault(dice);
        }
        edge += emphasis.weather;
        if kind < edge {
            return Action::Weather(draw_weather(dice, mix));
        }
        edge += emphasis.clocks;
        if kind < edge {
            return self.draw_clock_fault(dice);
        }
        edge += emphasis.disks;
        if kind < edge {
            let cabinet = dice.index(self.cabinets);
            return Action::NewDisk { cabinet };
        }
        self.draw_deed(dice)
    }

    fn draw_deed(&self, dice: &mut Dice) -> Action {
        let driver = dice.index(self.drivers);
        let cabinet = dice.index(self.cabinets);
        let connector = dice.between(1, u64::from(self.connectors)) as u16;
        match dice.below(100) {
            0..=27 => Action::Start {
                driver,
                cabinet,
                connector,
                copies: if dice.chance(400) {
                    dice.between(2, 4) as u32
                } else {
                    1
                },
                spread_ms: [5, 50, 2_000, 40_000][dice.index(4)],
                life_ms: [30_000, 30_000, 8_000, 1_500][dice.index(4)],
                by_operator: dice.chance(80),
                energy_wh: dice.chance(200).then(|| dice.between(20, 1_500) as i64),
            },
            28..=33 => Action::Repeat {
                driver,
                back: dice.index(6),
                reuse: dice.chance(150),
            },
            34..=46 => Action::Stop {
                driver,
                back: dice.index(3),
                copies: if dice.chance(300) { 3 } else { 1 },
            },
            47..=48 => Action::StopForeign {
                driver,
                other: dice.index(self.drivers),
            },
            49..=60 => Action::Status {
                driver,
                back: dice.chance(500).then(|| dice.index(3)),
            },
            61..=62 => Action::OperatorEnd {
                cabinet,
                connector,
                write_off: dice.chance(300),
            },
            63 => Action::Service {
                cabinet,
                connector,
                serve: dice.chance(650),
            },
            64 => Action::Block {
                driver,
                blocked: dice.chance(400),
            },
            65..=84 => Action::Plug {
                cabinet,
                connector,
                plugged: dice.chance(650),
            },
            85..=87 => Action::LocalStart { cabinet, connector },
            88..=89 => Action::LocalStop { cabinet, connector },
            90..=92 => Action::Pause {
                cabinet,
                connector,
                paused: dice.chance(500),
            },
            93..=95 => Action::Fault {
                cabinet,
                connector,
                fault: [
                    Trouble::Warning,
                    Trouble::Suspends,
                    Trouble::Ended,
                    Trouble::None,
                    Trouble::None,
                ][dice.index(5)],
            },
            96..=97 => Action::Spontaneous { cabinet, connector },
            _ => Action::ResetCharger {
                cabinet,
                registers: dice.chance(500),
            },
        }
    }

    fn draw_replica_fault(&self, dice: &mut Dice) -> Action {
        let replica = dice.index(self.replicas);
        match dice.below(100) {
            0..=24 => Action::CrashReplica {
                replica,
                for_ms: [10, 1_000, 20_000][dice.index(3)],
            },
            25..=49 => Action::Freeze {
                replica,
                for_ms: [500, 5_000, 90_000][dice.index(3)],
            },
            50..=69 => Action::CutReplica {
                replica,
                for_ms: [500, 5_000, 60_000][dice.index(3)],
            },
            70..=84 => Action::LagReplica {
                replica,
                lag_ms: [20, 300, 5_000][dice.index(3)],
                for_ms: 30_000,
            },
            85..=93 => Action::Snapshot { replica },
            _ => Action::LedgerDown {
                for_ms: [500, 6_000, 30_000][dice.index(3)],
            },
        }
    }

    fn draw_cabinet_fault(&self, dice: &mut Dice) -> Action {
        let cabinet = dice.index(self.cabinets);
        match dice.below(100) {
            0..=39 => Action::CrashCabinet {
                cabinet,
                commits: dice.below(4) as u32,
                after: dice.chance(500),
                for_ms: [5, 2_000, 40_000][dice.index(3)],
            },
            40..=74 => Action::CutUplink {
                cabinet,
                for_ms: [800, 20_000, 120_000][dice.index(3)],
            },
            75..=89 => Action::LinkDown {
                cabinet,
                for_ms: [800, 9_000, 60_000][dice.index(3)],
            },
            _ => Action::DiskFull {
                cabinet,
                for_ms: [1_000, 30_000][dice.index(2)],
            },
        }
    }

    fn draw_clock_fault(&self, dice: &mut Dice) -> Action {
        let hours = [30_000, 3_600_000, 90_000_000][dice.index(3)];
        if dice.chance(500) {
            let by = dice.below(hours) as i64;
            Action::CabinetClock {
                cabinet: dice.index(self.cabinets),
                by_ms: if dice.chance(500) { by } else { -by },
            }
        } else {
            let most = if dice.chance(300) {
                hours
            } else {
                self.skew_ms_max.unsigned_abs()
            };
            Action::ReplicaClock {
                replica: dice.index(self.replicas),
                off_ms: dice.below(2 * most + 1) as i64 - most as i64,
            }
        }
    }
}

fn draw_weather(dice: &mut Dice, mix: Mix) -> Weather {
    if mix == Mix::Calm || (mix != Mix::Storm && dice.chance(350)) {
        return Weather::default();
    }
    let heavy = if mix == Mix::Storm { 3 } else { 1 };
    let mut rate = |most: u64| {
        if dice.chance(400) {
            0
        } else {
            (dice.below(most) * heavy) as u32
        }
    };
    let mut weather = Weather {
        drop: rate(150),
        twice: rate(150),
        late: rate(60),
        ack_lost: rate(150),
        append_lost: rate(150),
        append_refused: rate(100),
        append_late: rate(120),
        append_twice: rate(150),
        unruly: rate(300),
        copy_fails: rate(200),
    };
    match mix {
        Mix::All | Mix::Calm | Mix::Storm => {}
        Mix::Ledger => weather.unruly = 0,
        Mix::Edge => {
            weather.ack_lost = 0;
            weather.append_lost = 0;
            weather.append_refused = 0;
            weather.append_late = 0;
            weather.append_twice = 0;
        }
    }
    weather
}
