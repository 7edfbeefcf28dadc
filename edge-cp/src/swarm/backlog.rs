//! What a charge point has in its spool after it was offline for long: days of sessions at its
//! cabinet, lived through by the real core and the simulated charger in virtual time.

use std::{collections::VecDeque, mem};

use edge_core::{
    ChargePoint, Draw, Identity, Input, LocalStart, ReplyTo, Row, Stored,
    hardware::{HwAnswer, HwCommand, HwFact},
};
use ev_contract::{
    ids::{BootId, ConnectorId, SessionId},
    time::{Now, UnixMs},
};
use rand::Rng;

use crate::{
    config::ChargePointConfig,
    sim::physics::{PlainNames, Plant, PlantSpec},
    store::{Store, StoreError},
};

/// One step of virtual time: the pace of checkpoints.
const MINUTE_MS: u64 = 60_000;
/// A car stays for so many minutes and leaves one empty: with 32 connectors a day of it is some
/// 100,000 records.
const VISIT_MINUTES: u64 = 5;
/// So much of it shows how many records a minute brings.
const SAMPLE_MINUTES: u64 = 60;
/// Rows of one transaction.
const ROWS_MAX: usize = 10_000;

/// Fills a store that has never had a record with at least so many. Returns how many; none when it
/// has had some already.
///
/// # Errors
/// When it cannot be written.
pub async fn fill(
    store: &Store,
    stored: Stored,
    config: &ChargePointConfig,
    records: u64,
    now: UnixMs,
) -> Result<u64, StoreError> {
    if stored.next > 1 {
        return Ok(0);
    }
    let took_ms = estimate_ms(config, stored.clone(), records, now);
    let mut past = Past::new(config, stored, now.plus_ms(-took_ms));
    let mut goes_on = true;
    while goes_on {
        goes_on = past.live(records);
        if past.rows.len() >= ROWS_MAX || !goes_on {
            let rows = mem::take(&mut past.rows);
            store.commit(rows).await.map_err(|(_, e)| e)?;
            past.core.stored();
        }
    }
    Ok(past.core.spool().depth())
}

/// How long ago it has to have begun to be over by now, from what a few hours bring.
fn estimate_ms(config: &ChargePointConfig, stored: Stored, records: u64, now: UnixMs) -> i64 {
    let mut sample = Past::new(config, stored, now);
    for _ in 0..SAMPLE_MINUTES {
        sample.live(u64::MAX);
    }
    let each = sample.core.spool().depth().max(1);
    // A tenth more, and the last visits.
    let minutes = records * SAMPLE_MINUTES / each * 11 / 10 + 2 * VISIT_MINUTES;
    i64::try_from(minutes * MINUTE_MS).unwrap_or(0)
}

struct Past {
    core: ChargePoint,
    plant: Plant,
    spec: PlantSpec,
    began: UnixMs,
    mono_ms: u64,
    rows: Vec<Row>,
}

impl Past {
    fn new(config: &ChargePointConfig, stored: Stored, began: UnixMs) -> Self {
        let identity = Identity {
            cp_id: config.id.clone(),
            connectors: config.connectors.clone(),
            free_vending: false,
        };
        let spec = PlantSpec {
            cp: config.id.clone(),
            connectors: config.connectors.clone(),
            settings: config.simulator.clone(),
            speed: 1,
        };
        let now = Now {
            mono_ms: 0,
            wall: began,
        };
        let mut plant = Plant::new(&spec, began);
        let greeting = plant.snapshot(&spec);
        let mut past = Self {
            core: ChargePoint::boot(identity, stored, BootId::from_number(0), now),
            plant,
            spec,
            began,
            mono_ms: 0,
            rows: Vec::new(),
        };
        past.facts(greeting);
        past
    }

    /// A minute. Cars come until there are so many records, and all have left before it is over:
    /// `false` then.
    fn live(&mut self, records: u64) -> bool {
        let minute = self.mono_ms / MINUTE_MS;
        let has_enough = self.core.spool().depth() >= records;
        let connectors: Vec<ConnectorId> = self.plant.outlets.keys().copied().collect();
        let mut is_over = has_enough;
        for connector in connectors {
            // Spread, so that the records of a minute are as many as those of the next.
            let at = (minute + u64::from(connector.0)) % (VISIT_MINUTES + 1);
            let is_plugged = self
                .plant
                .outlets
                .get(&connector)
                .is_some_and(|o| o.plugged);
            is_over &= !is_plugged;
            if at == 0 && is_plugged {
                self.feed(Input::LocalStop {
                    connector,
                    reply_to: ReplyTo(0),
                });
                self.plug(connector, false);
            } else if at == 1 && !is_plugged && !has_enough {
                self.plug(connector, true);
                let start = LocalStart {
                    connector,
                    token: None,
                    free: false,
                };
                self.feed(Input::LocalStart {
                    start,
                    reply_to: ReplyTo(0),
                });
            }
        }
        self.mono_ms += MINUTE_MS;
        let mut facts = self.plant.advance(&self.spec, MINUTE_MS);
        facts.extend(self.plant.readings(&self.spec, false));
        self.facts(facts);
        !is_over
    }

    fn plug(&mut self, connector: ConnectorId, plugged: bool) {
        let facts = self
            .plant
            .plug(&self.spec, &mut PlainNames, connector, plugged);
        self.facts(facts);
    }

    fn facts(&mut self, facts: Vec<HwFact>) {
        for fact in facts {
            self.feed(Input::Fact(fact));
        }
    }

    /// An input and all that the charger makes of what follows from it.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for command in self.handle(input) {
                let (verdict, raw, facts) =
                    self.plant.command(&self.spec, &mut PlainNames, &command);
                inputs.push_back(Input::Answer(HwAnswer {
                    command,
                    verdict,
                    raw,
                }));
                inputs.extend(facts.into_iter().map(Input::Fact));
            }
        }
    }

    fn handle(&mut self, input: Input) -> Vec<HwCommand> {
        let now = Now {
            mono_ms: self.mono_ms,
            wall: self.began.plus_ms(i64::try_from(self.mono_ms).unwrap_or(0)),
        };
        let draw = Draw {
            session_id: SessionId::from_uuid(uuid::Uuid::now_v7()),
            start_number: rand::rng().random_range(1..=0x7fff_ffff),
            random: rand::rng().random(),
        };
        let effects = self.core.handle(input, now, draw);
        self.rows.extend(effects.rows);
        effects.hardware
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ev_contract::v1::EdgeFact;

    use super::*;
    use crate::config::Config;

    #[test]
    fn sessions_follow_one_another_and_all_have_ended() {
        let text = "nats_url = \"nats://127.0.0.1:4222\"\ncredentials = \"/c\"\nca = \"/ca\"\n\
             state_dir = \"/s\"\n[[charge_point]]\nid = \"CP-1\"\nsite = \"S\"\n\
             time_zone = \"Europe/Berlin\"\n[[charge_point.connector]]\nid = 1\n\
             max_current_ma = 16000\nphases = 3\n[[charge_point.connector]]\nid = 2\n\
             max_current_ma = 16000\nphases = 3\n";
        let config = Config::parse(text, Path::new("edge.toml")).unwrap();
        let (_, stored) = Store::in_memory().unwrap();
        let mut past = Past::new(&config.charge_points[0], stored, UnixMs(1_700_000_000_000));
        while past.live(500) {}
        let records: Vec<_> = past
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Append(record) => Some(record),
                _ => None,
            })
            .collect();
        assert!((500..600).contains(&records.len()), "{}", records.len());
        assert!(
            records
                .iter()
                .zip(1..)
                .all(|(record, seq)| record.seq == seq)
        );
        assert!(records.windows(2).all(|two| two[0].at <= two[1].at));
        let count = |is: fn(&EdgeFact) -> bool| records.iter().filter(|r| is(&r.fact)).count();
        let opened = count(|f| matches!(f, EdgeFact::OpenedAtEdge { .. }));
        let ended = count(|f| matches!(f, EdgeFact::Ended { .. }));
        let checkpoints = count(|f| matches!(f, EdgeFact::Checkpoint { .. }));
        assert_eq!(opened, ended);
        assert!(
            opened > 20 && checkpoints > 2 * opened,
            "{opened} {checkpoints}"
        );
    }
}
