//! Rounds of starts in a crowd, with those of the floors between them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ev_contract::{
    v1::{StatusReply, StatusRequest},
    wire::{self, CENTRAL, Encoding, Tag},
};

use super::Sizes;
use crate::{
    client::Shot,
    floor,
    hub::{Hub, Part},
    load::{Closed, closed},
    report::Figure,
    starts::Starts,
    usage::Usage,
};

/// Rounds one at a time end with their count, and at last before the requests expire that were made
/// at their beginning.
const ALONE_TIME: Duration = Duration::from_secs(10);
/// Starts before the first round, not measured.
const WARM_UP_STARTS: usize = 200;
/// In which `/proc` counts.
const TICK_S: f64 = 0.01;
/// Nothing but heartbeats, before each round.
const HEARTBEATS_TIME: Duration = Duration::from_secs(2);
/// Appends of frames one at a time, in a round.
const FRAMES_TIME: Duration = Duration::from_millis(1_500);
/// Appends ready to be sent in a round of the floor: more than any server takes in that time.
const APPENDS_MAX: usize = 400_000;

/// One at a time.
pub const ONE: Closed = Closed {
    in_flight: 1,
    warm_up: Duration::ZERO,
    time: ALONE_TIME,
    pause: Duration::ZERO,
};

/// What rounds of starts came to, each value of one round.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Core requests answered per second.
    pub echo: Vec<f64>,
    /// Appends of single messages acknowledged per second.
    pub append: Vec<f64>,
    /// Frames acknowledged per second, one at a time.
    pub frames: Vec<f64>,
    /// Records in one of central's frames.
    pub frame_records: Vec<f64>,
    /// Its size in bytes.
    pub frame_bytes: Vec<f64>,
    /// Starts accepted per second.
    pub starts: Vec<f64>,
    /// Time to accepted in microseconds.
    pub p50: Vec<f64>,
    /// The same.
    pub p99: Vec<f64>,
    /// Starts per CPU-second of central, with everything that it does meanwhile.
    pub per_cpu_s: Vec<f64>,
    /// The same without what heartbeats take of it while nothing else comes.
    pub per_cpu_s_net: Vec<f64>,
    /// Cores that heartbeats take of central.
    pub heartbeats: Vec<f64>,
    /// Cores used by each part while starts were measured.
    pub cores: Vec<(Part, Vec<f64>)>,
    /// Size of a lone record's frame.
    pub record_bytes: usize,
}

impl Rounds {
    /// What the frame floor allows: so many frames, full as central's were.
    #[must_use]
    pub fn allowed(&self) -> Vec<f64> {
        self.frames
            .iter()
            .zip(&self.frame_records)
            .map(|(frames, records)| frames * records)
            .collect()
    }

    /// What each part used.
    pub fn cores(&self, row: &'static str) -> impl Iterator<Item = Figure> + use<'_> {
        self.cores.iter().map(move |(part, rounds)| {
            let what = format!("cores used by {}", part.as_str());
            Figure::new(row, what, "cores", rounds)
        })
    }
}

/// What each part holds in memory.
///
/// # Errors
/// When a process is gone.
pub fn memory(row: &'static str, hub: &Hub) -> Result<Vec<Figure>> {
    let figure = |(part, usage): &(Part, Usage)| {
        let what = format!("resident memory of {}", part.as_str());
        Figure::new(row, what, "MiB", &[usage.resident as f64 / 1_048_576.0])
    };
    Ok(Hub::usages(&hub.all_pids())?.iter().map(figure).collect())
}

/// Some starts one at a time, whose sessions have ended when this returns; the size of a lone
/// record's frame in bytes.
///
/// # Errors
/// When one is not accepted.
pub async fn warm_up(hub: &mut Hub, starts: &mut Starts, sizes: &Sizes) -> Result<usize> {
    let count = WARM_UP_STARTS.min(sizes.alone).min(starts.places());
    let shots = starts.round(count)?;
    let before = floor::ledger(hub).await?;
    let outcome = closed(&mut hub.drivers, &shots, ONE, || {}).await?;
    let bytes = floor::ledger(hub).await?.mean_since(before);
    starts.check_all(&outcome)?;
    hub.fleet.free(starts.accepted).await?;
    Ok(bytes)
}

/// Rounds of starts and of all floors in turn. `sizes` say how many in flight, and how long.
///
/// # Errors
/// When a start is not accepted, or a part fails.
pub async fn rounds(
    row: &str,
    hub: &mut Hub,
    starts: &mut Starts,
    sizes: &Sizes,
) -> Result<Rounds> {
    floor::stream(hub).await?;
    let how = Closed {
        in_flight: sizes.crowd,
        warm_up: sizes.warm_up,
        time: sizes.round_time,
        pause: Duration::ZERO,
    };
    let frames_one_at_a_time = Closed {
        in_flight: 1,
        warm_up: Duration::ZERO,
        time: FRAMES_TIME.min(sizes.round_time),
        pause: Duration::ZERO,
    };
    let mut rounds = Rounds {
        cores: Part::ALL.map(|part| (part, Vec::new())).into(),
        record_bytes: warm_up(hub, starts, sizes).await?,
        ..Rounds::default()
    };
    for round in 1..=sizes.rounds {
        let heartbeats = central_cores(hub, HEARTBEATS_TIME.min(sizes.round_time)).await?;
        let shots = starts.round(starts.places())?;
        let echoes = starts.echo_of(&shots);
        let echo = closed(&mut hub.drivers, &echoes, how, || {}).await?;
        let append = floor::appends(&mut hub.core, rounds.record_bytes, APPENDS_MAX, how).await?;
        floor::purge(hub).await?;

        let before = frames(hub).await?;
        let mut edges: Vec<Vec<(Part, Usage)>> = Vec::new();
        let pids = hub.all_pids();
        let start = closed(&mut hub.drivers, &shots, how, || {
            edges.extend(Hub::usages(&pids).ok());
        })
        .await?;
        let after = frames(hub).await?;
        let tally = starts.check_all(&start)?;
        let freeing = Instant::now();
        hub.fleet.free(starts.accepted).await?;
        let freed_s = freeing.elapsed().as_secs_f64();

        let count = (after.frames - before.frames).max(1.0);
        let frame_records = (after.records - before.records) / count;
        let frame_bytes = (after.bytes - before.bytes) / count;
        let frame = floor::appends(
            &mut hub.core,
            frame_bytes as usize,
            APPENDS_MAX,
            frames_one_at_a_time,
        )
        .await?;
        floor::purge(hub).await?;

        rounds.heartbeats.push(heartbeats);
        rounds.echo.push(echo.per_second());
        rounds.append.push(append.per_second());
        rounds.frames.push(frame.per_second());
        rounds.frame_records.push(frame_records);
        rounds.frame_bytes.push(frame_bytes);
        rounds.starts.push(start.per_second());
        rounds.p50.push(start.percentile_us(50.0));
        rounds.p99.push(start.percentile_us(99.0));
        let [from, to] = <[_; 2]>::try_from(edges)
            .ok()
            .context("a window has two edges")?;
        for (((part, from), (_, to)), (_, cores)) in from.iter().zip(&to).zip(&mut rounds.cores) {
            let cpu_s = to.cpu_s - from.cpu_s;
            cores.push(cpu_s / start.window.as_secs_f64());
            if *part == Part::Central {
                let net_s = cpu_s - heartbeats * start.window.as_secs_f64();
                rounds
                    .per_cpu_s
                    .push(start.answers as f64 / cpu_s.max(TICK_S));
                rounds
                    .per_cpu_s_net
                    .push(start.answers as f64 / net_s.max(TICK_S));
            }
        }
        eprintln!(
            "bench: {row} {round}: {:.0} starts/s over {:.1} s in frames of {frame_records:.0} \
             records and {frame_bytes:.0} B; echo {:.0}/s, appends {:.0}/s, such frames {:.0}/s; \
             {} sessions ended again in {freed_s:.1} s",
            start.per_second(),
            start.window.as_secs_f64(),
            echo.per_second(),
            append.per_second(),
            frame.per_second(),
            tally.accepted,
        );
    }
    sample(hub, starts).await?;
    Ok(rounds)
}

/// What central uses while nothing but heartbeats comes.
///
/// # Errors
/// When it is gone.
pub async fn central_cores(hub: &Hub, time: Duration) -> Result<f64> {
    let used = || -> Result<f64> {
        let usages = Hub::usages(&hub.all_pids())?;
        let central = usages.iter().filter(|(part, _)| *part == Part::Central);
        Ok(central.map(|(_, usage)| usage.cpu_s).sum())
    };
    let (before, at) = (used()?, Instant::now());
    tokio::time::sleep(time).await;
    Ok((used()? - before) / at.elapsed().as_secs_f64())
}

/// Central's frames so far.
#[derive(Debug, Clone, Copy)]
struct Frames {
    frames: f64,
    records: f64,
    bytes: f64,
}

async fn frames(hub: &Hub) -> Result<Frames> {
    let [frames, records, bytes] = hub
        .metrics([
            "ev_ledger_frame_records_count",
            "ev_ledger_frame_records_sum",
            "ev_ledger_frame_bytes_sum",
        ])
        .await?;
    Ok(Frames {
        frames,
        records,
        bytes,
    })
}

/// Some of the sessions are asked for: what was accepted is there.
///
/// # Errors
/// When one is not.
pub async fn sample(hub: &mut Hub, starts: &Starts) -> Result<()> {
    for (driver, session) in &starts.samples {
        let request = StatusRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            session_id: Some(session.to_string()),
        };
        let shot = Shot::new(
            format!("ev.v1.driver.{driver}.status"),
            wire::encode(&request, Encoding::MsgPack)?,
        );
        let answer = hub.drivers.ask(shot).await?;
        let reply: StatusReply = wire::decode(&answer.payload, Encoding::MsgPack)
            .with_context(|| format!("the status of {session}, which was accepted"))?;
        let is_there = reply.sessions.iter().any(|s| s.session_id == *session);
        ensure!(is_there, "{session} was accepted and is not there");
    }
    Ok(())
}
