//! What central's core costs by itself, without a server: time for each record to decide, write,
//! read and apply it; bytes on the wire and in memory; snapshots. In processor time of one thread.

use std::{hint::black_box, time::Duration};

use anyhow::{Result, bail, ensure};
use central_core::{
    frame::{Decoded, Decoder, Frame},
    state::{Log, State},
};

use super::Sizes;
use crate::{
    report::Figure,
    starts::now_ms,
    usage::Usage,
    world::{Spent, Step, World, worked},
};

const ROW: &str = "core";
/// Of the fleet, so many have a session that charges; and as many whole sessions were before.
const CHARGING_OF: usize = 5;
/// A session as short as those of the row `sessions`.
const COURSE: [(&str, Step); 8] = [
    ("start", Step::Start),
    ("taken", Step::Taken),
    ("charging", Step::Charging),
    ("checkpoint 1", Step::Checkpoint),
    ("checkpoint 2", Step::Checkpoint),
    ("checkpoint 3", Step::Checkpoint),
    ("stop", Step::Stop),
    ("ended", Step::End),
];
/// How many of these one has that charges.
const UNTIL_CHARGING: usize = 6;
/// Its time passes in minutes, of which none is to lie ahead.
const BEGAN_MS_AGO: i64 = 3_600_000;

/// A fleet that presents itself, whole sessions, sessions that charge; then all of it read again.
pub fn core(sizes: &Sizes) -> Result<Vec<Figure>> {
    let fleet = sizes.core_fleet;
    let charging = fleet / CHARGING_OF;
    let mut made = Made::new(fleet)?;
    let mut figures = Vec::new();
    let empty = made.state_bytes()?;
    figures.extend(made.step("presents itself", Step::Present, fleet)?);
    let presented = made.state_bytes()?;
    figures.extend(made.step("reports its connector", Step::Report, fleet)?);
    let reported = made.state_bytes()?;
    made.sum = Spent::default();
    for (what, step) in COURSE {
        figures.extend(made.step(what, step, charging)?);
    }
    let (ended, sessions) = (made.state_bytes()?, made.sum);
    for (what, step) in COURSE.iter().take(UNTIL_CHARGING) {
        made.step(what, *step, charging)?;
    }
    let whole = made.state_bytes()?;
    let memory = |what: &str, after: f64, before: f64, count: usize| {
        let each = (after - before).max(0.0) / count as f64;
        Figure::new(ROW, format!("memory of {what}"), "B", &[each])
    };
    let mean = |what: &str, spent: Duration| {
        let ns = spent.as_nanos() as f64 / sessions.records as f64;
        Figure::new(ROW, format!("a record of a session: {what}"), "ns", &[ns])
    };
    figures.extend([
        mean("decide", sessions.decide),
        mean("encode", sessions.encode),
        mean("apply", sessions.apply),
        Figure::new(
            ROW,
            "a whole session with three checkpoints, all its records",
            "B",
            &[sessions.bytes as f64 / charging as f64],
        ),
        memory(
            "a charge point that presented itself",
            presented,
            empty,
            fleet,
        ),
        memory(
            "one that reports its connector as well",
            reported,
            empty,
            fleet,
        ),
        memory("an ended session", ended, reported, charging),
        memory("a session that charges", whole, ended, charging),
        Figure::new(
            ROW,
            format!("memory of the state: {fleet} charge points, {charging} charge"),
            "MiB",
            &[mib(whole - empty)],
        ),
    ]);
    figures.extend(snapshot(made.world.state())?);
    let ledger = made.ledger;
    drop(made.world);
    figures.extend(replay(&ledger)?);
    Ok(figures)
}

/// What was made so far.
struct Made {
    world: World,
    ledger: Vec<Vec<u8>>,
    sum: Spent,
    written: usize,
}

impl Made {
    fn new(fleet: usize) -> Result<Self> {
        let mut world = World::new(fleet, ev_contract::time::UnixMs(now_ms() - BEGAN_MS_AGO))?;
        let mut sum = Spent::default();
        let ledger = vec![world.tariff(&mut sum)?];
        Ok(Self {
            world,
            ledger,
            written: sum.bytes,
            sum,
        })
    }

    /// One record each of so many charge points.
    fn step(&mut self, what: &str, step: Step, many: usize) -> Result<[Figure; 2]> {
        let mut spent = Spent::default();
        self.ledger
            .extend(self.world.round(step, many, &mut spent)?);
        self.written += spent.bytes;
        self.sum.decide += spent.decide;
        self.sum.encode += spent.encode;
        self.sum.apply += spent.apply;
        self.sum.records += spent.records;
        self.sum.bytes += spent.bytes;
        let each = |sum: f64| sum / spent.records as f64;
        let ns = (spent.decide + spent.encode + spent.apply).as_nanos() as f64;
        Ok([
            Figure::new(
                ROW,
                format!("{what}: decide, encode and apply"),
                "ns",
                &[each(ns)],
            ),
            Figure::new(
                ROW,
                format!("{what}: in a frame"),
                "B",
                &[each(spent.bytes as f64)],
            ),
        ])
    }

    /// What the state takes, but for what this program itself has: resident memory without the
    /// ledger, which is kept here to be read again.
    fn state_bytes(&self) -> Result<f64> {
        let resident = Usage::of(std::process::id())?.resident as f64;
        Ok(resident - self.written as f64)
    }
}

fn snapshot(state: &State) -> Result<[Figure; 4]> {
    let began = worked();
    let frozen = state.freeze();
    let froze = worked();
    let bytes = frozen.encode();
    let encoded = worked();
    let read = State::decode(&bytes)?;
    let decoded = worked();
    ensure!(read == *state, "a snapshot is another state");
    let ms = |what: &str, from: Duration, to: Duration| {
        let ms = to.saturating_sub(from).as_secs_f64() * 1e3;
        Figure::new(ROW, format!("a snapshot is {what}"), "ms", &[ms])
    };
    Ok([
        Figure::new(ROW, "a snapshot", "MiB", &[mib(bytes.len() as f64)]),
        ms("frozen", began, froze),
        ms("encoded", froze, encoded),
        ms("decoded", encoded, decoded),
    ])
}

/// Decodes all; then decodes and applies each in turn, as a replay does.
fn replay(ledger: &[Vec<u8>]) -> Result<[Figure; 3]> {
    let mut decoder = Decoder::default();
    let mut records = 0;
    let began = worked();
    for bytes in ledger {
        let frame = frame(&mut decoder, bytes)?;
        records += frame.records.len();
        black_box(frame);
    }
    let decoded = worked();
    let mut log = Log::default();
    for (pos, bytes) in (1..).zip(ledger) {
        let frame = frame(&mut decoder, bytes)?;
        black_box(log.apply_frame(pos, frame, bytes)?);
    }
    let done = worked();
    let each = |spent: Duration| spent.as_nanos() as f64 / records as f64;
    let (decode, both) = (
        each(decoded.saturating_sub(began)),
        each(done.saturating_sub(decoded)),
    );
    Ok([
        Figure::new(ROW, "replay: decode a record", "ns", &[decode]),
        Figure::new(ROW, "replay: decode and apply a record", "ns", &[both]),
        Figure::new(ROW, "replay on one core", "records/s", &[1e9 / both]),
    ])
}

fn frame(decoder: &mut Decoder, bytes: &[u8]) -> Result<Box<Frame>> {
    match decoder.decode(bytes)? {
        Decoded::Frame(frame) => Ok(frame),
        Decoded::Junk => bail!("it is no frame"),
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / 1_048_576.0
}
