//! What central's core costs: time for each record to decide, write, read and apply it; bytes on the
//! wire and in memory; snapshots. Real decisions on a fleet that charges, without I/O.
//!
//! `cargo run --release -p central-core --example core_speed -- [CHARGE_POINTS] [SESSIONS] [ENDED]`:
//! a fleet of so many charge points with one connector each; so many of them have a session that
//! charges; and so many whole sessions, with all their records, before that.

use std::{error::Error, hint::black_box, time::Duration};

use central_core::{
    decide::{Ask, Command, Ctx, Incoming, Run, Settings, Wish, decide},
    frame::{Decoded, Decoder, Frame, FrameBuilder},
    keys::{Asker, EventId},
    state::{Log, State},
    tx::Overlay,
};
use ev_contract::{
    connector::Service,
    ids::{ConnectorId, CpId, DriverId, Epoch, ReplicaId, RequestId, SessionId, SiteId},
    time::{Now, UnixMs},
    units::{MilliAmp, MilliWatt, Mwh},
    v1::{
        ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, IdleFee, LimitsRequest,
        Origin, Reach, Reading, SyncRequest, TariffScope, TariffTerms, TimeQuality,
    },
    wire::{CENTRAL, Tag},
};
use uuid::Uuid;

/// As many records as a crowd puts into a frame.
const IN_FRAME: usize = 250;
const T0: UnixMs = UnixMs(1_760_000_000_000);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut sizes = std::env::args().skip(1).map(|arg| arg.parse::<usize>());
    let mut size = |otherwise| sizes.next().unwrap_or(Ok(otherwise));
    let (fleet, charging, ended) = (size(100_000)?, size(20_000)?, size(20_000)?);

    let mut world = World::new(fleet)?;
    let empty = world.state_bytes()?;
    world.round("charge points present themselves", fleet, World::present)?;
    let with_fleet = world.state_bytes()?;
    world.round("their connectors are reported", fleet, World::report)?;
    println!(
        "state: {} B a charge point that has presented itself, {} B with what it reports; {:.1} MiB",
        (with_fleet - empty) / fleet,
        (world.state_bytes()? - empty) / fleet,
        mib(world.state_bytes()? - empty)
    );

    let before = world.state_bytes()?;
    let written = world.written;
    let mut done = 0;
    while done < ended {
        let many = fleet.min(ended - done);
        done += many;
        for (what, step) in COURSE {
            world.round(what, many, *step)?;
        }
    }
    println!(
        "whole sessions: {} B of frames each, {} B of state each",
        (world.written - written).checked_div(done).unwrap_or(0),
        (world.state_bytes()? - before)
            .checked_div(done)
            .unwrap_or(0)
    );

    let before = world.state_bytes()?;
    let charging = charging.min(fleet);
    for (what, step) in COURSE.iter().take(CHARGING) {
        world.round(what, charging, *step)?;
    }
    println!(
        "sessions that charge: {} B of state each",
        (world.state_bytes()? - before)
            .checked_div(charging)
            .unwrap_or(0)
    );
    println!("state in all: {:.1} MiB", mib(world.state_bytes()? - empty));

    world.snapshot()?;
    let ledger = std::mem::take(&mut world.ledger);
    drop(world);
    replay(&ledger)
}

/// The records of a session, and how many of them one has that charges.
const COURSE: &[(&str, Step)] = &[
    ("start", World::start),
    ("taken", World::taken),
    ("charging", World::charging),
    ("checkpoint 1", World::checkpoint),
    ("checkpoint 2", World::checkpoint),
    ("checkpoint 3", World::checkpoint),
    ("stop", World::stop),
    ("ended", World::ended),
];
const CHARGING: usize = 6;

/// What a charge point of a number, or its driver, asks next.
type Step = fn(&mut World, usize) -> Outcome<Command>;

struct World {
    settings: Settings,
    now: UnixMs,
    by: ReplicaId,
    log: Log,
    builder: FrameBuilder,
    ledger: Vec<Vec<u8>>,
    written: usize,
    fleet: Vec<Cabinet>,
    drawn: u64,
}

struct Cabinet {
    cp: CpId,
    epoch: Epoch,
    driver: DriverId,
    next: u64,
    register: u64,
    session: Option<SessionId>,
}

/// Time spent on records.
#[derive(Default)]
struct Spent {
    decide: Duration,
    encode: Duration,
    apply: Duration,
    records: u32,
    bytes: usize,
}

impl World {
    fn new(fleet: usize) -> Outcome<Self> {
        let mut world = Self {
            settings: Settings::default(),
            now: T0,
            by: ReplicaId::new("central-1")?,
            log: Log::default(),
            builder: FrameBuilder::default(),
            ledger: Vec::new(),
            written: 0,
            fleet: Vec::new(),
            drawn: 0,
        };
        for n in 0..fleet {
            let epoch = world.uuid().to_string();
            world.fleet.push(Cabinet {
                cp: CpId::new(format!("CP-{n:06}"))?,
                epoch: Epoch::new(epoch)?,
                driver: DriverId::new(format!("driver-{n:06}"))?,
                next: 1,
                register: 1_000_000_000 + n as u64,
                session: None,
            });
        }
        let tariff = world.asked(
            Asker::Operator("olga".parse()?),
            Wish::SetTariff {
                tariff: "day".parse()?,
                scope: TariffScope::Default,
                terms: terms()?,
            },
        )?;
        world.commit(&[tariff], &mut Spent::default())?;
        Ok(world)
    }

    /// A UUIDv7 of this world's time, its rest without a pattern (splitmix64).
    fn uuid(&mut self) -> Uuid {
        let mut random = || {
            self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.drawn;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let ms = u128::from(self.now.0.unsigned_abs()) << 80;
        let rest = u128::from(random()) << 64 | u128::from(random());
        let rest = rest & 0x0fff_3fff_ffff_ffff_ffff;
        Uuid::from_u128(ms | 0x7000_8000_0000_0000_0000 | rest)
    }

    /// One record each of so many charge points, in frames.
    fn round(&mut self, what: &str, many: usize, step: Step) -> Outcome<()> {
        if many == 0 {
            return Ok(());
        }
        let mut spent = Spent::default();
        self.now = self.now.plus_ms(60_000);
        for from in (0..many).step_by(IN_FRAME) {
            self.now = self.now.plus_ms(3);
            let commands = (from..many.min(from + IN_FRAME))
                .map(|n| step(self, n))
                .collect::<Outcome<Vec<_>>>()?;
            self.commit(&commands, &mut spent)?;
        }
        spent.tell(what);
        Ok(())
    }

    fn commit(&mut self, commands: &[Command], spent: &mut Spent) -> Outcome<()> {
        let ids: Vec<_> = commands
            .iter()
            .map(|_| (EventId(self.uuid()), SessionId::from_uuid(self.uuid())))
            .collect();
        let began = worked()?;
        let mut overlay = Overlay::new(self.log.state());
        let mut records = Vec::new();
        for (command, (event, session)) in commands.iter().zip(&ids) {
            let ctx = Ctx {
                now: Now {
                    mono_ms: 0,
                    wall: self.now,
                },
                settings: &self.settings,
                event: *event,
                session: *session,
            };
            let record = decide(&overlay, ctx, command).record;
            let record = record.ok_or("nothing was decided")?;
            overlay.push(&record);
            records.push(record);
        }
        drop(overlay);
        let decided = worked()?;
        self.builder.begin(self.now);
        for record in records {
            self.builder.push(record)?;
        }
        let basis = self.log.state().basis();
        let (frame, bytes) = self.builder.finish(Uuid::nil(), self.by.clone(), basis);
        let encoded = worked()?;
        let applied = self.log.apply_frame(basis.seq + 1, frame, &bytes)?;
        let done = worked()?;
        spent.decide += decided - began;
        spent.encode += encoded - decided;
        spent.apply += done - encoded;
        if !applied.valid.iter().all(|valid| *valid) {
            return Err("a record is void".into());
        }
        for (command, (_, session)) in commands.iter().zip(ids) {
            if let Command::Request(_, Wish::Start { driver, .. }) = command {
                let n: usize = driver.as_str().trim_start_matches("driver-").parse()?;
                self.fleet[n].session = Some(session);
            }
        }
        spent.records += u32::try_from(commands.len())?;
        spent.bytes += bytes.len();
        self.written += bytes.len();
        self.ledger.push(bytes);
        Ok(())
    }

    fn asked(&mut self, asker: Asker, wish: Wish) -> Outcome<Command> {
        let expires_at = self.now.plus_ms(20_000);
        let content = wish.content(expires_at);
        let request = RequestId::new(self.uuid().to_string())?;
        let ask = Ask {
            asker,
            request,
            expires_at,
            content,
        };
        Ok(Command::Request(ask, wish))
    }

    fn present(&mut self, n: usize) -> Outcome<Command> {
        let cabinet = &self.fleet[n];
        let sync = SyncRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            cp_id: cabinet.cp.clone(),
            epoch: cabinet.epoch.clone(),
            site_id: SiteId::new(format!("site-{:04}", n / 20))?,
            time_zone: "Europe/Berlin".into(),
            version: "0.1.0".into(),
            connectors: vec![ConnectorSpec {
                connector: ConnectorId(1),
                max_ma: MilliAmp(32_000),
                phases: 3,
                volts: 230,
                plug: Some("type2".into()),
            }],
            sim_speed: 1,
            first: 1,
            next: 1,
            sessions: Vec::new(),
        };
        Ok(Command::Sync(cabinet.cp.clone(), sync))
    }

    fn fact(&mut self, n: usize, fact: impl FnOnce(&Cabinet, Reading) -> EdgeFact) -> Command {
        let now = self.now;
        let cabinet = &mut self.fleet[n];
        cabinet.register += 100_000;
        let reading = Reading {
            at: now,
            quality: TimeQuality::Synced,
            register_mwh: Mwh(cabinet.register),
            meter_id: format!("meter-{n:06}"),
            meter_epoch: 1,
            power_mw: Some(MilliWatt(11_000_000 + n as u64)),
            current_ma: Vec::new(),
            soc_pct: Some(55),
            signed: None,
        };
        let record = EdgeRecord {
            seq: cabinet.next,
            at: now,
            quality: TimeQuality::Synced,
            fact: fact(cabinet, reading),
        };
        cabinet.next += 1;
        Command::Intake(Run {
            cp: cabinet.cp.clone(),
            epoch: cabinet.epoch.clone(),
            first: 1,
            from: record.seq,
            records: vec![Incoming {
                raw: bytes::Bytes::new(),
                record: Ok(record),
            }],
        })
    }

    fn report(&mut self, n: usize) -> Outcome<Command> {
        Ok(self.fact(n, |_, _| EdgeFact::Connector {
            connector: ConnectorId(1),
            plugged: false,
            service: Service::In,
            service_revision: 0,
            fault: None,
            charger_online: true,
            ended_since_plug: false,
        }))
    }

    fn start(&mut self, n: usize) -> Outcome<Command> {
        let (driver, cp) = (self.fleet[n].driver.clone(), self.fleet[n].cp.clone());
        let wish = Wish::Start {
            driver: driver.clone(),
            origin: Origin::App,
            cp,
            connector: None,
            limits: LimitsRequest::default(),
            reach: Reach::Online,
            json: false,
        };
        self.asked(Asker::Driver(driver), wish)
    }

    fn session(&self, n: usize) -> Outcome<SessionId> {
        self.fleet[n].session.ok_or_else(|| "no session".into())
    }

    fn taken(&mut self, n: usize) -> Outcome<Command> {
        let session_id = self.session(n)?;
        Ok(self.fact(n, |_, _| EdgeFact::Accepted {
            session_id,
            connector: ConnectorId(1),
        }))
    }

    fn charging(&mut self, n: usize) -> Outcome<Command> {
        let session_id = self.session(n)?;
        Ok(self.fact(n, |_, reading| EdgeFact::Started {
            session_id,
            device_tx: format!("tx-{session_id}"),
            reading,
        }))
    }

    fn checkpoint(&mut self, n: usize) -> Outcome<Command> {
        let session_id = self.session(n)?;
        Ok(self.fact(n, |_, reading| EdgeFact::Checkpoint {
            session_id,
            reading,
        }))
    }

    fn stop(&mut self, n: usize) -> Outcome<Command> {
        let session = self.session(n)?;
        let driver = self.fleet[n].driver.clone();
        self.asked(Asker::Driver(driver), Wish::Stop { session })
    }

    fn ended(&mut self, n: usize) -> Outcome<Command> {
        let session_id = self.session(n)?;
        Ok(self.fact(n, |_, reading| EdgeFact::Ended {
            session_id,
            completed: true,
            reason: EndReason::new(EndCode::Driver, EndSource::Driver),
            reading: Some(reading),
        }))
    }

    /// What the state takes, but for what this program itself has: resident memory without the
    /// ledger, which is kept here to be replayed.
    fn state_bytes(&self) -> Outcome<usize> {
        Ok(resident()?.saturating_sub(self.written))
    }

    fn snapshot(&self) -> Outcome<()> {
        let began = worked()?;
        let frozen = self.log.state().freeze();
        let froze = worked()? - began;
        let began = worked()?;
        let bytes = frozen.encode();
        let encoded = worked()? - began;
        let began = worked()?;
        let state = State::decode(&bytes)?;
        let decoded = worked()? - began;
        if state != *self.log.state() {
            return Err("a snapshot is another state".into());
        }
        println!(
            "snapshot: {:.1} MiB; frozen in {:.1} ms, written in {:.0} ms, read in {:.0} ms",
            mib(bytes.len()),
            froze.as_secs_f64() * 1e3,
            encoded.as_secs_f64() * 1e3,
            decoded.as_secs_f64() * 1e3
        );
        Ok(())
    }
}

impl Spent {
    fn tell(&self, what: &str) {
        let each = |spent: Duration| (spent / self.records.max(1)).as_nanos();
        println!(
            "{what:34} {:8} records: decide {:5} ns, encode {:5} ns, apply {:5} ns; {:4} B",
            self.records,
            each(self.decide),
            each(self.encode),
            each(self.apply),
            self.bytes / self.records.max(1) as usize
        );
    }
}

/// Decodes all, then applies all; then does both for each in turn, as a replay does.
fn replay(ledger: &[Vec<u8>]) -> Outcome<()> {
    let mut decoder = Decoder::default();
    let mut records = 0_u32;
    let began = worked()?;
    for bytes in ledger {
        let frame = frame(&mut decoder, bytes)?;
        records += u32::try_from(frame.records.len())?;
        black_box(frame);
    }
    let decoding = worked()? - began;
    let mut log = Log::default();
    let began = worked()?;
    for (pos, bytes) in (1..).zip(ledger) {
        let frame = frame(&mut decoder, bytes)?;
        black_box(log.apply_frame(pos, frame, bytes)?);
    }
    let both = worked()? - began;
    println!(
        "replay: {records} records; decode {} ns, decode and apply {} ns a record: {:.0} records/s",
        (decoding / records).as_nanos(),
        (both / records).as_nanos(),
        f64::from(records) / both.as_secs_f64()
    );
    Ok(())
}

fn frame(decoder: &mut Decoder, bytes: &[u8]) -> Outcome<Box<Frame>> {
    match decoder.decode(bytes)? {
        Decoded::Frame(frame) => Ok(frame),
        Decoded::Junk => Err("it is no frame".into()),
    }
}

fn terms() -> Outcome<TariffTerms> {
    Ok(TariffTerms {
        currency: "EUR".parse()?,
        price_per_kwh: "0.49".parse()?,
        start_fee: "1.00".parse()?,
        idle: Some(IdleFee {
            price_per_minute: "0.10".parse()?,
            grace_s: 600,
            cap: "12".parse()?,
        }),
        vat_percent: "19".parse()?,
    })
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The time that this thread has worked: others on the machine do not count.
fn worked() -> Outcome<Duration> {
    let at = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    let (s, ns) = (u64::try_from(at.tv_sec())?, u32::try_from(at.tv_nsec())?);
    Ok(Duration::new(s, ns))
}

/// Resident memory of this process, in bytes.
fn resident() -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no resident memory is told")?.parse::<usize>()? * 1024)
}
