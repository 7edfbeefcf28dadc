//! What this replica hears of charge points.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use central_core::view::{Beat, Heard};
use ev_contract::{
    codes::Code,
    ids::{BootId, CpId, Epoch},
    limits::OFFLINE_AFTER_MS,
    time::UnixMs,
    v1::{Heartbeat, Reach},
};

/// An agent says for how many whole seconds it has run, and its words take a moment: below this the
/// beginning is the same.
const SAME_START_MS: i64 = 5_000;
const OFFLINE_AFTER: Duration = Duration::from_millis(OFFLINE_AFTER_MS);
/// Charge points that are remembered at once; who else calls is not heard. Five servers full of
/// them, at some 400 bytes each.
const EARS_MAX: usize = 131_072;
/// Between two looks for charge points that can be forgotten, when there are so many.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Words for versions that are kept for those who say the same.
const VERSIONS_MAX: usize = 1_024;

#[derive(Debug)]
struct Ear {
    beat: Option<Beat>,
    heard_at: Instant,
    wall: UnixMs,
    /// When its agent began.
    started_at: Option<UnixMs>,
    /// The start of its agent that spoke last.
    boot: Option<BootId>,
    /// The one that spoke before, and when it last spoke again after it was replaced.
    before: Option<Box<(BootId, Option<Instant>)>>,
    /// Since when it is in reach.
    since: UnixMs,
    /// When it was last out of reach and came back.
    cut: Option<Box<(UnixMs, UnixMs)>>,
    /// What was last told of it: online or not.
    told: Option<bool>,
}

impl Ear {
    /// Of one that is heard for the first time.
    fn new(now: Instant, wall: UnixMs) -> Self {
        Self {
            beat: None,
            heard_at: now,
            wall,
            started_at: None,
            boot: None,
            before: None,
            since: wall,
            cut: None,
            told: None,
        }
    }

    /// Which start of its agent speaks. A restart replaces one by another; two that speak by turns are two
    /// agents.
    fn hears_boot(&mut self, boot: BootId, now: Instant) {
        let Some(last) = self.boot.replace(boot).filter(|last| *last != boot) else {
            return;
        };
        let again = match self.before.take() {
            Some(before) if before.0 == boot => Some(now),
            Some(before) => before.1,
            None => None,
        };
        self.before = Some(Box::new((last, again)));
    }

    /// It is heard again. Says whether it was out of reach before.
    fn hears_again(&mut self, now: Instant, wall: UnixMs) -> bool {
        let was_away = now - self.heard_at > OFFLINE_AFTER;
        if was_away {
            self.cut = Some(Box::new((self.wall, wall)));
            self.since = wall;
        }
        self.heard_at = now;
        self.wall = wall;
        was_away
    }
}

/// Whether this replica hears as it should. What it does not hear while its own connection is down,
/// or while it stands still, says nothing about charge points.
#[derive(Debug)]
pub struct Listening {
    since: Option<Instant>,
    looked: Instant,
}

/// The longest time between two looks of a replica that does not stand still.
const STILL_MAX: Duration = Duration::from_secs(5);
/// After this replica has begun to hear, charge points come back to the same server, some later than
/// others: an agent notices after 15 s at most, tries every 7 s and is heard every 5 s.
pub const SETTLE: Duration = Duration::from_secs(30);

impl Listening {
    /// Not yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            since: None,
            looked: Instant::now(),
        }
    }

    /// Looks whether it hears.
    pub fn look(&mut self, hears: bool) {
        let now = Instant::now();
        if !hears || now - self.looked > STILL_MAX {
            self.since = None;
        }
        self.looked = now;
        if hears && self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Whether it hears at all.
    #[must_use]
    pub const fn hears(&self) -> bool {
        self.since.is_some()
    }

    /// Whether silence means something.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > SETTLE)
    }
}

impl Default for Listening {
    fn default() -> Self {
        Self::new()
    }
}

/// All that was heard.
#[derive(Debug)]
pub struct Hearing {
    since: Instant,
    /// In boxes: a table has room that nobody is in.
    ears: HashMap<CpId, Box<Ear>>,
    versions: HashSet<Arc<str>>,
    /// When an agent spoke last that says itself that another one is obeyed as this charge point.
    others: HashMap<CpId, (Instant, UnixMs)>,
    swept_at: Option<Instant>,
}

impl Hearing {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            ears: HashMap::new(),
            versions: HashSet::new(),
            others: HashMap::new(),
            swept_at: None,
        }
    }

    /// A heartbeat came. Says whether the charge point was out of reach before. `texts` has its id
    /// and its epoch where they are in memory already: there are as many as charge points.
    pub fn heartbeat<'t>(
        &mut self,
        heartbeat: Heartbeat,
        wall: UnixMs,
        texts: impl FnOnce(&CpId) -> Option<(&'t CpId, &'t Epoch)>,
    ) -> bool {
        let now = Instant::now();
        let in_use = Code::IdentityInUse.as_str();
        if heartbeat.health.iter().any(|code| code == in_use) {
            self.hear_other(heartbeat.cp_id, now, wall);
            return false;
        }
        if !self.has_room_for(&heartbeat.cp_id, now) {
            return false;
        }
        let version = self.version(heartbeat.version);
        let uptime_ms = i64::try_from(heartbeat.uptime_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let started_at = wall.plus_ms(uptime_ms.saturating_neg());
        let shared = |known: Option<(&'t CpId, &'t Epoch)>| {
            let known = known.filter(|(_, epoch)| **epoch == heartbeat.epoch);
            known.map_or_else(|| heartbeat.epoch.clone(), |(_, epoch)| epoch.clone())
        };
        let (was_away, epoch, ear) = match self.ears.entry(heartbeat.cp_id) {
            Entry::Occupied(there) => {
                let epoch = match &there.get().beat {
                    Some(last) if last.epoch == heartbeat.epoch => last.epoch.clone(),
                    Some(_) | None => shared(texts(there.key())),
                };
                let ear = there.into_mut();
                (ear.hears_again(now, wall), epoch, ear)
            }
            Entry::Vacant(room) => {
                let known = texts(room.key());
                let id = known.map_or_else(|| room.key().clone(), |(id, _)| id.clone());
                let ear = self.ears.entry(id);
                let ear = ear.or_insert_with(|| Box::new(Ear::new(now, wall)));
                (true, shared(known), ear)
            }
        };
        ear.hears_boot(heartbeat.boot, now);
        ear.started_at = ear
            .started_at
            .filter(|at| at.ms_since(started_at).abs() <= SAME_START_MS)
            .or(Some(started_at));
        ear.beat = Some(Beat {
            epoch,
            version,
            clock_offset_ms: heartbeat.clock_offset_ms,
            spool_depth: heartbeat.spool_depth,
            health: heartbeat.health.into(),
            access_expires_at: heartbeat.access_expires_at,
            connectors: heartbeat.connectors.into(),
        });
        was_away
    }

    /// What is not obeyed is no sign of the charge point's life.
    fn hear_other(&mut self, cp: CpId, now: Instant, wall: UnixMs) {
        if self.others.len() >= EARS_MAX {
            self.others.retain(|_, (at, _)| now - *at <= OFFLINE_AFTER);
        }
        if self.others.len() < EARS_MAX {
            self.others.insert(cp, (now, wall));
        }
    }

    fn version(&mut self, text: String) -> Arc<str> {
        if let Some(same) = self.versions.get(text.as_str()) {
            return Arc::clone(same);
        }
        if self.versions.len() >= VERSIONS_MAX {
            self.versions.clear();
        }
        let text: Arc<str> = text.into();
        self.versions.insert(Arc::clone(&text));
        text
    }

    /// A charge point answered something.
    pub fn sign_of_life(&mut self, cp: &CpId, wall: UnixMs) {
        let now = Instant::now();
        if !self.has_room_for(cp, now) {
            return;
        }
        match self.ears.get_mut(cp) {
            Some(ear) => {
                ear.hears_again(now, wall);
            }
            None => {
                self.ears.insert(cp.clone(), Box::new(Ear::new(now, wall)));
            }
        }
    }

    /// Whose reach is otherwise than was last told, and since when. `listening` says whether silence
    /// means something; `new` whether one that is heard for the first time was out of reach before.
    pub fn news(&mut self, listening: bool, new: bool) -> Vec<(CpId, Reach, UnixMs)> {
        let mut news = Vec::new();
        for (cp, ear) in &mut self.ears {
            let online = ear.heard_at.elapsed() <= OFFLINE_AFTER;
            if !online && !listening {
                continue;
            }
            let told = ear.told.replace(online);
            if told == Some(online) || (told.is_none() && !new) {
                continue;
            }
            news.push(if online {
                (cp.clone(), Reach::Online, ear.since)
            } else {
                (cp.clone(), Reach::Offline, ear.wall)
            });
        }
        news
    }

    /// One that is out of reach says as much by being unknown, so it can be forgotten.
    fn has_room_for(&mut self, cp: &CpId, now: Instant) -> bool {
        if self.ears.len() < EARS_MAX || self.ears.contains_key(cp) {
            return true;
        }
        if self.swept_at.is_none_or(|at| now - at >= SWEEP_EVERY) {
            self.swept_at = Some(now);
            self.ears
                .retain(|_, ear| now - ear.heard_at <= OFFLINE_AFTER);
        }
        self.ears.len() < EARS_MAX
    }

    /// For how long a charge point has not been heard.
    #[must_use]
    pub fn silence(&self, cp: &CpId) -> Duration {
        self.ears
            .get(cp)
            .map_or_else(|| self.since.elapsed(), |ear| ear.heard_at.elapsed())
    }

    /// When the agent of a charge point began, within some seconds.
    #[must_use]
    pub fn started_at(&self, cp: &CpId) -> Option<UnixMs> {
        self.ears.get(cp)?.started_at
    }

    /// Whether a charge point has two agents: two starts speak by turns, or one says that it is not
    /// obeyed.
    #[must_use]
    pub fn has_two_agents(&self, cp: &CpId) -> bool {
        let lately = |at: Instant| at.elapsed() < OFFLINE_AFTER;
        let by_turns = self.ears.get(cp).and_then(|ear| ear.before.as_ref()?.1);
        by_turns.is_some_and(lately) || self.others.get(cp).is_some_and(|(at, _)| lately(*at))
    }
}

impl Default for Hearing {
    fn default() -> Self {
        Self::new()
    }
}

impl Heard for Hearing {
    fn reach(&self, cp: &CpId) -> Reach {
        if self.silence(cp) <= OFFLINE_AFTER {
            if self.ears.contains_key(cp) {
                Reach::Online
            } else {
                Reach::Unknown
            }
        } else {
            Reach::Offline
        }
    }

    fn last(&self, cp: &CpId) -> Option<(&Beat, UnixMs)> {
        let ear = self.ears.get(cp)?;
        ear.beat.as_ref().map(|beat| (beat, ear.wall))
    }

    fn heard_at(&self, cp: &CpId) -> Option<UnixMs> {
        self.ears.get(cp).map(|ear| ear.wall)
    }

    fn other_at(&self, cp: &CpId) -> Option<UnixMs> {
        self.others.get(cp).map(|(_, wall)| *wall)
    }

    fn since(&self, cp: &CpId) -> Option<UnixMs> {
        let ear = self.ears.get(cp)?;
        Some(match self.reach(cp) {
            Reach::Online => ear.since,
            Reach::Offline | Reach::Unknown | Reach::Unrecognised => ear.wall,
        })
    }

    fn cut(&self, cp: &CpId) -> Option<(UnixMs, UnixMs)> {
        self.ears.get(cp)?.cut.as_deref().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixMs = UnixMs(1_700_000_000_000);

    fn heartbeat(epoch: &str) -> Heartbeat {
        serde_json::from_value(serde_json::json!({
            "type": "hb",
            "v": 1,
            "to": "central",
            "cp_id": "CP-001",
            "epoch": epoch,
            "boot": "0000000000000001",
            "version": "1.0.0",
            "ts": 0,
            "uptime_s": 60,
            "spool_depth": 0,
            "connectors": [],
        }))
        .unwrap()
    }

    fn epoch_of(hearing: &Hearing, cp: &CpId) -> Epoch {
        hearing.last(cp).unwrap().0.epoch.clone()
    }

    #[test]
    fn what_is_in_memory_already_is_not_kept_twice() {
        let (cp, epoch): (CpId, Epoch) = ("CP-001".parse().unwrap(), "e-1".parse().unwrap());
        let mut hearing = Hearing::new();
        assert!(hearing.heartbeat(heartbeat("e-1"), AT, |_| Some((&cp, &epoch))));
        let is_shared = |kept: &str, given: &str| kept.as_ptr() == given.as_ptr();
        let (id, _) = hearing.ears.get_key_value(&cp).unwrap();
        assert!(is_shared(id.as_str(), cp.as_str()));
        assert!(is_shared(epoch_of(&hearing, &cp).as_str(), epoch.as_str()));
        // Nobody is asked again, and what is kept stays.
        assert!(!hearing.heartbeat(heartbeat("e-1"), AT, |_| unreachable!()));
        assert!(is_shared(epoch_of(&hearing, &cp).as_str(), epoch.as_str()));
        // Another epoch than is known is its own.
        assert!(!hearing.heartbeat(heartbeat("e-2"), AT, |_| Some((&cp, &epoch))));
        assert_eq!(epoch_of(&hearing, &cp).as_str(), "e-2");
    }

    #[test]
    fn a_restart_is_no_second_agent_and_two_that_speak_by_turns_are_two() {
        let cp: CpId = "CP-001".parse().unwrap();
        let mut hearing = Hearing::new();
        let mut says = |boot: u64, health: &[&str]| {
            let beat = Heartbeat {
                boot: BootId::from_number(boot),
                health: health.iter().map(|&code| code.to_owned()).collect(),
                ..heartbeat("e-1")
            };
            hearing.heartbeat(beat, AT, |_| None);
            hearing.has_two_agents(&cp)
        };
        assert!(!says(1, &[]));
        assert!(!says(2, &[]), "it was started anew");
        assert!(!says(2, &[]));
        assert!(!says(3, &[]), "and again");
        assert!(says(2, &[]), "one that was replaced speaks again");
    }

    #[test]
    fn an_agent_that_is_not_obeyed_is_no_sign_of_life_and_counts_as_a_second_one() {
        let cp: CpId = "CP-001".parse().unwrap();
        let mut hearing = Hearing::new();
        let other = Heartbeat {
            health: vec!["identity_in_use".into()],
            ..heartbeat("e-1")
        };
        hearing.heartbeat(other, AT, |_| None);
        assert!(hearing.last(&cp).is_none());
        assert_eq!(hearing.reach(&cp), Reach::Unknown);
        assert!(hearing.has_two_agents(&cp));
        assert_eq!(hearing.other_at(&cp), Some(AT));
    }
}
