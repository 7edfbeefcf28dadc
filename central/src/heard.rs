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
    limits::{HEARTBEAT_MS, HEARTBEAT_MS_MAX, believed_beat_ms, longest_beat_ms, offline_after_ms},
    time::UnixMs,
    v1::{Heartbeat, Reach},
};

/// An agent says for how many whole seconds it has run, and its words take a moment: below this the
/// beginning is the same.
const SAME_START_MS: i64 = 5_000;
/// Of one that has not been heard since this replica began nothing is known until one that beats as
/// slowly as may be had its turn.
const FIRST_BEAT_MAX: Duration = Duration::from_millis(longest_beat_ms(HEARTBEAT_MS_MAX) + 1_000);
/// One whose connection has ended may be on its way back: as long as one that beats as usual may be
/// silent.
const LEFT_MAX: Duration = Duration::from_millis(offline_after_ms(HEARTBEAT_MS));
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
    /// The time between two of its heartbeats, as it announced that.
    beat_ms: u64,
    /// When a server closed the last connection of it, if nothing was heard since.
    left_at: Option<Instant>,
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
            beat_ms: HEARTBEAT_MS,
            left_at: None,
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
        let was_away = self.is_away(now);
        if was_away {
            self.cut = Some(Box::new((self.wall, wall)));
            self.since = wall;
        }
        self.heard_at = now;
        self.left_at = None;
        self.wall = wall;
        was_away
    }

    /// How long it may be silent.
    const fn patience(&self) -> Duration {
        Duration::from_millis(offline_after_ms(self.beat_ms))
    }

    /// It has been silent for too long, or has left and not come back.
    fn is_away(&self, now: Instant) -> bool {
        now - self.heard_at > self.patience() || self.left_at.is_some_and(|at| now - at > LEFT_MAX)
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
/// others: an agent notices after 15 s at most, tries every 7 s and is heard every 5 s. One that is
/// heard less often is waited for as much longer.
const SETTLE: Duration = Duration::from_secs(30);

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

    /// Whether the silence of a charge point means something that beats so often.
    #[must_use]
    pub fn settled(&self, beat_ms: u64) -> bool {
        let longer_ms = longest_beat_ms(beat_ms) - longest_beat_ms(HEARTBEAT_MS);
        let settle = SETTLE + Duration::from_millis(longer_ms);
        self.since.is_some_and(|since| since.elapsed() > settle)
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
        ear.beat_ms = believed_beat_ms(u64::from(heartbeat.every_s) * 1_000);
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
            self.others.retain(|_, (at, _)| now - *at <= FIRST_BEAT_MAX);
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

    /// A server has closed the last connection of a charge point.
    pub fn left(&mut self, cp: &CpId) {
        if let Some(ear) = self.ears.get_mut(cp) {
            ear.left_at.get_or_insert_with(Instant::now);
        }
    }

    /// The time between two heartbeats of a charge point; of one that was not heard the longest.
    #[must_use]
    pub fn beat_ms(&self, cp: &CpId) -> u64 {
        self.ears
            .get(cp)
            .map_or(HEARTBEAT_MS_MAX, |ear| ear.beat_ms)
    }

    /// Whose reach is otherwise than was last told, and since when. `listening` says whether silence
    /// means something, and whether one that is heard for the first time was out of reach before.
    pub fn news(&mut self, listening: &Listening) -> Vec<(CpId, Reach, UnixMs)> {
        let now = Instant::now();
        let mut news = Vec::new();
        for (cp, ear) in &mut self.ears {
            let online = !ear.is_away(now);
            let settled = listening.settled(ear.beat_ms);
            if !online && !settled {
                continue;
            }
            let told = ear.told.replace(online);
            if told == Some(online) || (told.is_none() && !settled) {
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
            self.ears.retain(|_, ear| !ear.is_away(now));
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

    fn patience(&self, cp: &CpId) -> Duration {
        self.ears
            .get(cp)
            .map_or(FIRST_BEAT_MAX, |ear| ear.patience())
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
        let patience = self.patience(cp);
        let lately = |at: Instant| at.elapsed() < patience;
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
        match self.ears.get(cp) {
            Some(ear) if !ear.is_away(Instant::now()) => Reach::Online,
            None if self.since.elapsed() <= FIRST_BEAT_MAX => Reach::Unknown,
            Some(_) | None => Reach::Offline,
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

    #[test]
    fn each_may_be_silent_for_as_long_as_it_announced_and_for_no_longer_than_may_be() {
        for (every_s, patience_s) in [(0, 16), (5, 16), (30, 91), (60, 181), (u32::MAX, 181)] {
            let cp: CpId = "CP-001".parse().unwrap();
            let mut hearing = Hearing::new();
            let beat = Heartbeat {
                every_s,
                ..heartbeat("e-1")
            };
            hearing.heartbeat(beat, AT, |_| None);
            assert_eq!(hearing.reach(&cp), Reach::Online);
            let ear = hearing.ears.get_mut(&cp).unwrap();
            let patience = Duration::from_secs(patience_s);
            let heard_at = ear.heard_at;
            assert!(!ear.is_away(heard_at + patience), "{every_s}");
            assert!(ear.is_away(heard_at + patience + Duration::from_millis(1)));
        }
    }

    #[test]
    fn one_that_has_left_is_missed_before_its_next_heartbeat_and_one_that_is_back_is_not() {
        let cp: CpId = "CP-001".parse().unwrap();
        let mut hearing = Hearing::new();
        let beat = || Heartbeat {
            every_s: 60,
            ..heartbeat("e-1")
        };
        hearing.heartbeat(beat(), AT, |_| None);
        hearing.left(&cp);
        let left_at = hearing.ears[&cp].left_at.unwrap();
        // Told again, it has not left later.
        hearing.left(&cp);
        assert_eq!(hearing.ears[&cp].left_at, Some(left_at));
        assert!(!hearing.ears[&cp].is_away(left_at + LEFT_MAX));
        assert!(hearing.ears[&cp].is_away(left_at + LEFT_MAX + Duration::from_millis(1)));
        hearing.heartbeat(beat(), AT, |_| None);
        assert!(!hearing.ears[&cp].is_away(left_at + 2 * LEFT_MAX));
        hearing.left(&"CP-002".parse().unwrap());
        assert_eq!(hearing.ears.len(), 1, "who was never heard is not made");
    }

    #[test]
    fn a_replica_that_has_just_begun_calls_nobody_offline_who_may_only_be_slow() {
        let cp: CpId = "CP-001".parse().unwrap();
        let mut hearing = Hearing::new();
        let now = Instant::now();
        let Some(began) = now.checked_sub(Duration::from_secs(60)) else {
            return;
        };
        hearing.since = began;
        assert_eq!(hearing.reach(&cp), Reach::Unknown);
        let listening = Listening {
            since: Some(began),
            looked: now,
        };
        assert!(listening.settled(HEARTBEAT_MS));
        assert!(!listening.settled(HEARTBEAT_MS_MAX));
        assert!(!listening.settled(hearing.beat_ms(&cp)));
    }
}
