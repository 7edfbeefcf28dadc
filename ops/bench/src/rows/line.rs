//! What the line of an agent carries in a day: idle, charging, watched, ordinary and metered.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use ev_enrol::Role;
use ev_testkit::{Process, TcpProxy, Traffic};

use super::{
    Sizes,
    agents::{agent_toml, begin, charge},
};
use crate::{
    hub::{Hub, Layout},
    report::{Figure, Target},
};

const ROW: &str = "line";
const DAY_S: f64 = 24.0 * 3_600.0;
/// A packet's own bytes: IPv4 and TCP with its usual option. As many for the packet that confirms it.
const HEADER_BYTES: f64 = 2.0 * 52.0;

/// What is done meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Idle,
    Charging,
    Watched,
}

struct One {
    line: &'static str,
    doing: Doing,
    proxy: TcpProxy,
    before: Traffic,
    _agent: Process,
}

/// Bytes of each, counted on their way; all at the same time.
pub async fn line(sizes: &Sizes) -> Result<Vec<Figure>> {
    let mut hub = Hub::start(&Layout::default()).await?;
    let kinds = ["ordinary", "metered"]
        .into_iter()
        .flat_map(|line| [Doing::Idle, Doing::Charging, Doing::Watched].map(|doing| (line, doing)));
    let kinds: Vec<_> = kinds.collect();
    let names: Vec<String> = (1..=kinds.len()).map(|n| format!("CP-{n:03}")).collect();
    let credentials = hub.enrol(Role::ChargePoint, &names)?;
    let mut watching = Vec::new();
    let mut all = Vec::new();
    for (n, ((line, doing), cp)) in kinds.into_iter().zip(&names).enumerate() {
        let dir = hub.dir().join(cp);
        fs::create_dir(&dir).context("make a folder for an agent")?;
        let proxy = TcpProxy::start(hub.servers.url()).await?;
        let more = format!("line = \"{line}\"\n");
        let config = agent_toml(&hub, (cp, &credentials), &proxy.url(), &more, &dir)?;
        let agent = begin(&config, &dir).await?;
        if doing == Doing::Watched {
            watching.push(hub.watch(cp).await?);
        }
        if doing != Doing::Idle {
            charge(&mut hub, cp, n, &dir).await?;
        }
        all.push(One {
            line,
            doing,
            before: proxy.traffic(),
            proxy,
            _agent: agent,
        });
    }
    for one in &mut all {
        one.before = one.proxy.traffic();
    }
    tokio::time::sleep(sizes.line_time).await;
    let mut figures = Vec::new();
    let mut metered = [Used::default(); 3];
    for one in &all {
        let used = Used::between(one.before, one.proxy.traffic(), sizes.line_time);
        if one.line == "metered" {
            metered[one.doing as usize] = used;
        }
        let what = match one.doing {
            Doing::Idle => "idle",
            Doing::Charging => "charging, nobody watches",
            Doing::Watched => "charging, watched",
        };
        let what = format!("{}, {what}: a day", one.line);
        figures.push(Figure::new(ROW, what, "kB", &[used.bytes / 1e3]));
    }
    // Two sessions of four hours a day, of which one is watched for an hour.
    let [idle, charging, watched] = metered;
    let month = |of: fn(&Used) -> f64| {
        let day = of(&idle) * 16.0 + of(&charging) * 7.0 + of(&watched);
        day / 24.0 * 30.0 / 1e6
    };
    figures.push(
        Figure::new(
            ROW,
            "metered, two sessions of four hours a day: 30 days",
            "MB",
            &[month(|used| used.bytes)],
        )
        .target(Target::AtMost(100.0)),
    );
    figures.push(Figure::new(
        ROW,
        "the same with the headers of its packets, and of those that confirm them",
        "MB",
        &[month(|used| used.with_headers)],
    ));
    Ok(figures)
}

/// In a day.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    bytes: f64,
    with_headers: f64,
}

impl Used {
    fn between(before: Traffic, after: Traffic, time: Duration) -> Self {
        let days = time.as_secs_f64() / DAY_S;
        let bytes = (after.bytes - before.bytes) as f64;
        let pieces = (after.pieces - before.pieces) as f64;
        Self {
            bytes: bytes / days,
            with_headers: (bytes + pieces * HEADER_BYTES) / days,
        }
    }
}
