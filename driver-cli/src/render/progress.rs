//! How a session goes, while it goes: one line that is redrawn on a terminal, a line now and then
//! elsewhere. On stderr, unless the progress is itself what was asked for.

use std::time::Duration;

use ev_contract::{connector::Phase, units::Mwh, v1::Tariff};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::{
    format::{duration, harmless, kw, kwh, phase, standing},
    output::Output,
};
use crate::{
    doc::foreign,
    failure::Failure,
    price::{estimate, money},
    watch::{News, Seen},
};

/// Elsewhere than on a terminal, values are repeated no more often than this: a log is read later.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// The same while no energy flows: a sign of life.
const PLAIN_EVERY_AT_REST: Duration = Duration::from_secs(60);

/// Shows the news of a session.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    tariff: Option<Tariff>,
    line: Option<ProgressBar>,
    seen: Option<(Seen, Instant)>,
    /// What was last written as a line of its own.
    written: Option<(Phase, bool, Instant)>,
    silent: Option<String>,
    to_stdout: bool,
}

impl Progress {
    /// Shows news on stderr; with the session's tariff also an estimate of the cost.
    #[must_use]
    pub fn new(output: Output, tariff: Option<Tariff>) -> Self {
        let line = output.stderr_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            output,
            tariff,
            line,
            seen: None,
            written: None,
            silent: None,
            to_stdout: false,
        }
    }

    /// Shows news as plain lines on stdout.
    #[must_use]
    pub fn lines(output: Output, tariff: Option<Tariff>) -> Self {
        Self {
            output,
            tariff,
            line: None,
            seen: None,
            written: None,
            silent: None,
            to_stdout: true,
        }
    }

    /// Shows one piece of news.
    ///
    /// # Errors
    /// When stdout is what it writes to and cannot.
    pub fn show(&mut self, news: &News) -> Result<(), Failure> {
        match news {
            News::Seen(seen) => {
                let now = Instant::now();
                self.silent = None;
                let key = (seen.phase(), seen.view.stopping);
                let changed = self.written.is_none_or(|(p, s, _)| (p, s) != key);
                let every = match seen.phase() {
                    Phase::Charging => PLAIN_EVERY,
                    _ => PLAIN_EVERY_AT_REST,
                };
                let due = self
                    .written
                    .is_none_or(|(_, _, at)| now.duration_since(at) >= every);
                self.seen = Some(((**seen).clone(), now));
                if changed || (due && self.line.is_none()) {
                    self.written = Some((key.0, key.1, now));
                    let text = self.text();
                    if let Some(line) = &self.line {
                        line.set_message(text.clone());
                    }
                    self.print(&text)?;
                }
            }
            News::Silent { why } => {
                self.silent = Some(why.clone());
                if self.line.is_none() {
                    self.print(&format!(
                        "no news: {why}; the session goes on, asking again"
                    ))?;
                }
            }
            News::Foreign { cp } => self.output.message(&foreign(cp)),
            News::Tick => {}
        }
        if let Some(line) = &self.line {
            line.set_message(self.text());
            line.tick();
        }
        Ok(())
    }

    /// Prints a line without disturbing the one that is redrawn.
    fn print(&self, text: &str) -> Result<(), Failure> {
        match &self.line {
            Some(line) => line.suspend(|| self.output.message(text)),
            None if self.to_stdout => return self.output.text(&harmless(text)),
            None => self.output.message(text),
        }
        Ok(())
    }

    /// Takes the redrawn line away.
    pub fn clear(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }

    fn text(&self) -> String {
        let Some((seen, at)) = &self.seen else {
            return "waiting for news".to_owned();
        };
        let since_ms = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
        let mut text = line(seen, self.tariff.as_ref(), since_ms);
        if let Some(why) = &self.silent {
            text.push_str(&format!("  [no news: {why}]"));
        }
        text
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A session in one line, `since_ms` after the news came.
#[must_use]
pub fn line(seen: &Seen, tariff: Option<&Tariff>, since_ms: i64) -> String {
    let view = &seen.view;
    let now = seen.phase();
    let mut parts = vec![phase(view, now)];
    if now == Phase::Charging {
        parts.extend(seen.power().map(kw));
    }
    if now != Phase::Preparing || seen.energy() > Mwh(0) {
        parts.push(kwh(seen.energy()));
        parts.push(match estimate(tariff, view, seen.energy()) {
            Some(cost) => format!("about {}", money(cost, view.currency)),
            None => money(view.cost, view.currency),
        });
    }
    parts.extend(seen.soc_pct().map(|soc| format!("battery {soc} %")));
    parts.extend(standing(view));
    if let Some(age_ms) = seen.age_ms.filter(|_| !now.is_ended()) {
        let age_ms = age_ms.saturating_add(since_ms);
        parts.push(format!("{} ago", duration(age_ms)));
    }
    if !view.reachable && !now.is_ended() && now != Phase::Preparing {
        parts.push("the charge point cannot be reached".to_owned());
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Source, tests::view};

    #[test]
    fn a_line_has_power_energy_cost_battery_and_age() {
        let seen = Seen {
            source: Source::Status,
            view: view(1, Phase::Charging),
            live: None,
            age_ms: Some(2_000),
        };
        assert_eq!(
            line(&seen, None, 1_000),
            "charging  11.0 kW  1.234 kWh  0.00 EUR  battery 56 %  3 s ago"
        );
    }
}
