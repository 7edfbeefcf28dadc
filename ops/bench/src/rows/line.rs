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
/// A packet's own bytes: IPv4 and TCP with its usual option. As many for the packet that confirms it,
/// though some are confirmed by an answer.
const HEADER_BYTES: f64 = 2.0 * 52.0;

/// What is done meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Idle,
    Charging,
    Watched,
}

/// How an agent is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Ordinary,
    Metered,
    /// Metered, over WebSocket.
    WebSocket,
}

impl Line {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Metered => "metered",
            Self::WebSocket => "metered, wss",
        }
    }

    const fn more(self) -> &'static str {
        match self {
            Self::Ordinary => "",
            Self::Metered | Self::WebSocket => "line = \"metered\"\n",
        }
    }
}

struct One {
    line: Line,
    doing: Doing,
    proxy: TcpProxy,
    before: Traffic,
    _agent: Process,
}

/// Bytes of each, counted on their way; all at the same time.
pub async fn line(sizes: &Sizes) -> Result<Vec<Figure>> {
    const LINES: [Line; 3] = [Line::Ordinary, Line::Metered, Line::WebSocket];
    const DOINGS: [Doing; 3] = [Doing::Idle, Doing::Charging, Doing::Watched];
    let mut hub = Hub::start(&Layout {
        websocket: true,
        ..Layout::default()
    })
    .await?;
    let kinds: Vec<_> = LINES
        .into_iter()
        .flat_map(|line| DOINGS.map(|doing| (line, doing)))
        .collect();
    let names: Vec<String> = (1..=kinds.len()).map(|n| format!("CP-{n:03}")).collect();
    let credentials = hub.enrol(Role::ChargePoint, &names)?;
    let mut watching = Vec::new();
    let mut all = Vec::new();
    for (n, ((line, doing), cp)) in kinds.into_iter().zip(&names).enumerate() {
        let dir = hub.dir().join(cp);
        fs::create_dir(&dir).context("make a folder for an agent")?;
        let (scheme, target) = match line {
            Line::Ordinary | Line::Metered => ("nats", hub.servers.url()),
            Line::WebSocket => ("wss", hub.servers.websocket_url()?),
        };
        let (_, target) = target.split_once("://").context("an address")?;
        let proxy = TcpProxy::start(target).await?;
        let url = format!("{scheme}://{}", proxy.addr());
        let config = agent_toml(&hub, (cp, &credentials), &url, line.more(), &dir)?;
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
    let used: Vec<Used> = all
        .iter()
        .map(|one| Used::between(one.before, one.proxy.traffic(), sizes.line_time))
        .collect();
    let mut figures = Vec::new();
    for (one, used) in all.iter().zip(&used) {
        let doing = match one.doing {
            Doing::Idle => "idle",
            Doing::Charging => "charging, nobody watches",
            Doing::Watched => "charging, watched",
        };
        for (what, bytes) in [("", used.bytes), (", with headers", used.with_headers)] {
            let what = format!("{}, {doing}: a day{what}", one.line.as_str());
            figures.push(Figure::new(ROW, what, "kB", &[bytes / 1e3]));
        }
    }
    for (line, used) in LINES.iter().zip(used.chunks(DOINGS.len())) {
        let [idle, charging, watched] = used else {
            continue;
        };
        // Two sessions of four hours a day, of which one is watched for an hour.
        let month = |of: fn(&Used) -> f64| {
            let day = (of(idle) * 16.0 + of(charging) * 7.0 + of(watched)) / 24.0;
            day * 30.0 / 1e6
        };
        let what = format!(
            "{}, two sessions of four hours a day: 30 days",
            line.as_str()
        );
        let bytes = Figure::new(ROW, what.clone(), "MB", &[month(|used| used.bytes)]);
        let what = format!("{what}, with headers");
        let all = Figure::new(ROW, what, "MB", &[month(|used| used.with_headers)]);
        let target = Target::AtMost(100.0);
        figures.extend(match line {
            Line::Ordinary => [bytes, all],
            Line::Metered => [bytes.target(target), all],
            Line::WebSocket => [bytes, all.target(target)],
        });
    }
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
