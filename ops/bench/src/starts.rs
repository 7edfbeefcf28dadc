//! Starts of sessions, as load: every driver and every connector once a round.

use std::{
    collections::{BTreeMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail, ensure};
use ev_contract::{
    ids::SessionId,
    v1::{DriverUpdate, ErrorReply, StartRequest, Status},
    wire::{self, CENTRAL, CONTENT_TYPE, CONTENT_TYPE_JSON, Encoding, Tag},
};

use crate::{client::Shot, fleet::id_of, load::Outcome};

/// How far ahead a request ends: longer than a round, and within what central takes.
const LIFE_MS: i64 = 28_000;

/// Makes starts and keeps account of what became of them.
#[derive(Debug)]
pub struct Starts {
    charge_points: usize,
    connectors: u16,
    /// How requests are written.
    pub encoding: Encoding,
    rounds: usize,
    /// Places taken one after the other.
    used: usize,
    /// Size of an accepted reply, once there was one.
    reply_bytes: usize,
    /// Sessions accepted since the beginning.
    pub accepted: u64,
    /// Every session id that was seen.
    seen: HashSet<SessionId>,
    /// Some of them with their driver, to be asked for.
    pub samples: Vec<(String, SessionId)>,
}

/// What became of the starts of a round.
#[derive(Debug, Default)]
pub struct Tally {
    /// Accepted.
    pub accepted: u64,
    /// Refused, by code.
    pub refused: BTreeMap<String, u64>,
}

/// Each so many, a session is asked for afterwards.
const SAMPLE_EVERY: u64 = 1_000;

impl Starts {
    /// On so many charge points with so many connectors each.
    #[must_use]
    pub fn new(charge_points: usize, connectors: u16) -> Self {
        Self {
            charge_points,
            connectors,
            encoding: Encoding::MsgPack,
            rounds: 0,
            used: 0,
            reply_bytes: 0,
            accepted: 0,
            seen: HashSet::new(),
            samples: Vec::new(),
        }
    }

    /// There are so many charge points from here on.
    pub fn grow(&mut self, charge_points: usize) {
        self.charge_points = charge_points;
    }

    /// Places for sessions.
    #[must_use]
    pub fn places(&self) -> usize {
        self.charge_points * usize::from(self.connectors)
    }

    /// The nth driver.
    #[must_use]
    pub fn driver(n: usize) -> String {
        format!("d-{n:06}")
    }

    /// The next round's starts: each of another driver on another connector, neighbours on
    /// different charge points.
    ///
    /// # Errors
    /// When there are fewer places.
    pub fn round(&mut self, count: usize) -> Result<Vec<Shot>> {
        ensure!(
            count <= self.places(),
            "{count} starts are more than places"
        );
        self.rounds += 1;
        (0..count)
            .map(|n| {
                let connector = n / self.charge_points + 1;
                let request = self.name("r", n);
                self.shot(n, n % self.charge_points, connector, request)
            })
            .collect()
    }

    /// The same, all over the fleet however few they are, on each one's first connector.
    ///
    /// # Errors
    /// When there are fewer charge points.
    pub fn spread(&mut self, count: usize) -> Result<Vec<Shot>> {
        ensure!(
            count <= self.charge_points,
            "{count} starts are more than charge points"
        );
        self.rounds += 1;
        (0..count)
            .map(|n| {
                let charge_point = n * self.charge_points / count;
                self.shot(n, charge_point, 1, self.name("r", n))
            })
            .collect()
    }

    /// An id for a request of this round.
    #[must_use]
    pub fn name(&self, what: &str, n: usize) -> String {
        format!("{what}-{}-{n}", self.rounds)
    }

    /// Starts on places that were not taken before, until there are none.
    ///
    /// # Errors
    /// When there are none.
    pub fn next_places(&mut self, count: usize) -> Result<Vec<Shot>> {
        let from = self.used;
        self.used += count;
        ensure!(self.used <= self.places(), "all places are taken");
        (from..self.used)
            .map(|n| {
                let connector = n / self.charge_points + 1;
                self.shot(n, n % self.charge_points, connector, self.name("p", n))
            })
            .collect()
    }

    /// One start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn shot(
        &self,
        driver: usize,
        charge_point: usize,
        connector: usize,
        request_id: String,
    ) -> Result<Shot> {
        self.shot_at(&id_of(charge_point), driver, connector, request_id)
    }

    /// One start at whichever charge point.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn shot_at(
        &self,
        charge_point: &str,
        driver: usize,
        connector: usize,
        request_id: String,
    ) -> Result<Shot> {
        let message = StartRequest {
            tag: Tag::new(),
            to: CENTRAL.into(),
            request_id,
            expires_at: now_ms() + LIFE_MS,
            cp_id: charge_point.to_owned(),
            connector: Some(i64::try_from(connector)?),
            limits: None,
            tariff: None,
        };
        let driver = Self::driver(driver);
        let mut shot = Shot::new(
            format!("ev.v1.driver.{driver}.start"),
            wire::encode(&message, self.encoding)?,
        );
        if self.encoding == Encoding::Json {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(CONTENT_TYPE, CONTENT_TYPE_JSON);
            shot.headers = Some(headers);
        }
        Ok(shot)
    }

    /// The same questions for the echo: as long, from as many askers, with as long an answer.
    #[must_use]
    pub fn echo_of(&self, shots: &[Shot]) -> Vec<Shot> {
        let asker = |shot: &Shot| shot.subject.split('.').nth(3).unwrap_or("_").to_owned();
        shots
            .iter()
            .map(|shot| Shot {
                subject: format!("ev.v1.bench.{}.{}", asker(shot), self.reply_bytes).into(),
                ..shot.clone()
            })
            .collect()
    }

    /// Reads every answer: an accepted one has a session that nobody else got.
    ///
    /// # Errors
    /// When an answer cannot be read, or a session was given out twice.
    pub fn check(&mut self, outcome: &Outcome) -> Result<Tally> {
        let mut tally = Tally::default();
        for heard in &outcome.all {
            let bytes = &heard.bytes;
            if let Ok(error) = wire::decode::<ErrorReply>(bytes, self.encoding) {
                *tally.refused.entry(error.reason).or_default() += 1;
                continue;
            }
            let update: DriverUpdate = wire::decode(bytes, self.encoding)?;
            match (update.status, update.session_id) {
                (Status::Accepted, Some(session)) => {
                    ensure!(self.seen.insert(session), "{session} was given out twice");
                    tally.accepted += 1;
                    self.reply_bytes = bytes.len();
                    if (self.accepted + tally.accepted) % SAMPLE_EVERY == 1 {
                        self.samples.push((update.driver_id.to_string(), session));
                    }
                }
                (Status::Denied, None) => {
                    let reason = update.reason.unwrap_or_default();
                    *tally.refused.entry(reason).or_default() += 1;
                }
                _ => bail!("a start was answered with {update:?}"),
            }
        }
        self.accepted += tally.accepted;
        Ok(tally)
    }

    /// As [`Starts::check`], where all must be accepted.
    ///
    /// # Errors
    /// Also when one was refused or not answered.
    pub fn check_all(&mut self, outcome: &Outcome) -> Result<Tally> {
        let tally = self.check(outcome)?;
        ensure!(
            tally.refused.is_empty() && outcome.lost == 0,
            "of {} starts {} had no answer, and refused were {:?}",
            outcome.all.len() + outcome.lost,
            outcome.lost,
            tally.refused
        );
        Ok(tally)
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
