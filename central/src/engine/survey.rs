//! A look at all sessions and charge points, for metrics. In steps, so that a large fleet holds up
//! no answer; a small one is seen in one step.

use std::time::{Duration, Instant};

use central_core::{
    overdue,
    state::State,
    view::{self, Heard},
};
use ev_contract::ids::{CpId, Epoch, SessionId};

use super::{Engine, wall};
use crate::{
    heard::Hearing,
    metrics::fleet::{Sighting, Survey},
};

/// Sessions, spools or charge points of one step: about a millisecond.
const STEP_MAX: usize = 500;
/// From one step to the next, so that looking takes a fiftieth of a core at most: with 100,000
/// charge points a look takes half a minute.
const STEP_EVERY: Duration = Duration::from_millis(50);
/// From the end of one look to the beginning of the next.
const PAUSE: Duration = Duration::from_secs(1);

/// How far a look is.
#[derive(Debug)]
enum Next {
    Sessions { after: Option<SessionId> },
    Spools { after: Option<(CpId, Epoch)> },
    ChargePoints { after: Option<CpId> },
}

/// The look that is under way, if one is.
#[derive(Debug)]
pub(super) struct Surveying {
    under_way: Option<(Survey, Next)>,
    stepped_at: Option<Instant>,
    ended_at: Option<Instant>,
}

impl Surveying {
    pub(super) const fn new() -> Self {
        Self {
            under_way: None,
            stepped_at: None,
            ended_at: None,
        }
    }
}

impl Engine {
    /// One step, if one is due.
    pub(super) fn survey(&mut self) {
        let due = |at: Option<Instant>, pause| at.is_none_or(|at| at.elapsed() >= pause);
        // While the ledger is read, sessions and charge points are missing, and would be shown so.
        if !self.serving() || !due(self.surveying.stepped_at, STEP_EVERY) {
            return;
        }
        let (mut survey, mut next) = match self.surveying.under_way.take() {
            Some(under_way) => under_way,
            None if due(self.surveying.ended_at, PAUSE) => (
                Survey::new(wall(), self.config.charge_point_series_max),
                Next::Sessions { after: None },
            ),
            None => return,
        };
        self.surveying.stepped_at = Some(Instant::now());
        let mut left = STEP_MAX;
        while left > 0 {
            match step(self.log.state(), &self.heard, &mut survey, next, &mut left) {
                Some(further) => next = further,
                None => {
                    self.metrics.surveyed(survey);
                    self.surveying.ended_at = Some(Instant::now());
                    return;
                }
            }
        }
        self.surveying.under_way = Some((survey, next));
    }
}

/// Looks at up to `left` of one kind; what comes next, or nothing at the end.
fn step(
    state: &State,
    heard: &Hearing,
    survey: &mut Survey,
    next: Next,
    left: &mut usize,
) -> Option<Next> {
    match next {
        Next::Sessions { after } => {
            let mut last = None;
            for entry in state.open_sessions_after(after).take(*left) {
                let session = &entry.value;
                last = Some(session.id);
                *left -= 1;
                if let Some(since) = overdue::since(session) {
                    let age_ms = survey.at().ms_since(since).max(0);
                    let is_stuck = age_ms > overdue::bound_ms(session);
                    survey.session(session.phase(), age_ms, is_stuck);
                }
            }
            Some(if *left == 0 {
                Next::Sessions {
                    after: last.or(after),
                }
            } else {
                Next::Spools { after: None }
            })
        }
        Next::Spools { after } => {
            let mut last = None;
            for ((cp, epoch), spool) in state.spools_after(after.as_ref()).take(*left) {
                last = Some((cp.clone(), epoch.clone()));
                *left -= 1;
                let keeps_no_more = spool.keeps_no_more(survey.at());
                survey.spool(
                    cp,
                    [spool.quarantined, spool.missing, spool.anomalies],
                    keeps_no_more,
                );
            }
            Some(if *left == 0 {
                Next::Spools {
                    after: last.or(after),
                }
            } else {
                Next::ChargePoints { after: None }
            })
        }
        Next::ChargePoints { after } => {
            let mut last = None;
            for (id, cp) in state.charge_points_after(after.as_ref()).take(*left) {
                last = Some(id.clone());
                *left -= 1;
                let reach = heard.reach(id);
                let connectors = cp
                    .connectors
                    .iter()
                    .map(|spec| {
                        let at = (id.clone(), spec.connector);
                        let is_open = state
                            .connector(&at)
                            .is_some_and(|entry| !entry.value.open.is_empty());
                        let is = view::connector_state(state, &at, reach);
                        (spec.connector, is, is_open)
                    })
                    .collect();
                survey.charge_point(&Sighting {
                    cp: id,
                    site: &cp.site,
                    version: &cp.version,
                    reach,
                    last: heard.last(id),
                    started_at: heard.started_at(id),
                    has_two_agents: heard.has_two_agents(id),
                    connectors,
                });
            }
            (*left == 0).then(|| Next::ChargePoints {
                after: last.or(after),
            })
        }
    }
}

#[cfg(test)]
mod tests {

    use central_core::{
        frame::{Frame, Kind, Record, Write},
        keys::EventId,
        model::{ChargePoint, Spool},
        state::Log,
    };
    use ev_contract::{
        ids::BootId,
        time::UnixMs,
        v1::{Boot, Reach},
    };
    use uuid::Uuid;

    use super::*;
    use crate::metrics::Metrics;

    /// A ledger of so many charge points, each with a spool that has one record in quarantine.
    fn log(charge_points: usize) -> Log {
        let mut log = Log::default();
        let records = (0..charge_points).map(|n| {
            let id: CpId = format!("CP-{n:05}").parse().unwrap();
            let epoch: Epoch = "e1".parse().unwrap();
            let cp = ChargePoint {
                site: "SITE-A".parse().unwrap(),
                time_zone: "Europe/Berlin".into(),
                connectors: std::sync::Arc::default(),
                version: "1.0.0".into(),
                epoch: epoch.clone(),
                boot: Boot {
                    id: BootId::from_number(1),
                    count: 1,
                    after: None,
                },
                other: None,
            };
            let spool = Spool {
                quarantined: 1,
                kept_bytes: if n % 2 == 0 { Spool::KEPT_BYTES_MAX } else { 0 },
                ..Spool::default()
            };
            let writes = vec![
                Write::ChargePoint(id.clone(), cp.into()),
                Write::Spool(id, epoch, spool),
            ];
            Record {
                id: EventId(Uuid::now_v7()),
                kind: Kind::Synced,
                expects: writes.iter().map(|w| (w.key(), None)).collect(),
                writes,
                evidence: Vec::new(),
            }
        });
        let frame = Frame {
            id: Uuid::now_v7(),
            by: "central-1".parse().unwrap(),
            basis: log.state().basis(),
            at: UnixMs(0),
            records: records.collect(),
        };
        let applied = log.apply_frame(1, Box::new(frame), b"");
        assert!(applied.unwrap().valid.iter().all(|valid| *valid));
        log
    }

    /// Sees all in steps of so many; how many steps it took.
    fn look(log: &Log, step_max: usize) -> (String, usize) {
        let mut survey = Survey::new(UnixMs(0), 10);
        let mut next = Next::Sessions { after: None };
        for steps in 1..10_000 {
            let mut left = step_max;
            while left > 0 {
                match step(log.state(), &Hearing::new(), &mut survey, next, &mut left) {
                    Some(further) => next = further,
                    None => {
                        let metrics = Metrics::new().unwrap();
                        metrics.surveyed(survey);
                        return (metrics.expose().unwrap(), steps);
                    }
                }
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn each_is_seen_once_however_large_the_steps() {
        let log = log(1_003);
        for (step_max, steps) in [(5_000, 1), (500, 5), (1_003, 3), (1, 2_007)] {
            let (page, took) = look(&log, step_max);
            assert_eq!(took, steps, "steps of {step_max}");
            for line in [
                format!("ev_charge_points{{reach=\"{}\"}} 1003", Reach::Unknown),
                "ev_spool_records_total{what=\"quarantined\"} 1003".into(),
                "ev_charge_point_series_omitted 993".into(),
                "ev_spools_evidence_used_up 502".into(),
            ] {
                assert!(
                    page.lines().any(|l| l == line),
                    "{line} in steps of {step_max}"
                );
            }
        }
    }
}
