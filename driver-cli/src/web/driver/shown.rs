//! What the driver's page shows, as values: what central and the charge points have said last. No I/O
//! and no clock; [`super::view`] makes HTML of it.

use std::collections::{BTreeMap, VecDeque};

use ev_contract::{
    ids::SessionId,
    time::UnixMs,
    units::MilliWatt,
    v1::{ChargePointListing, SessionView, Tariff},
};

use crate::watch::Seen;

/// Most points of a power curve. It is drawn 240 wide; what is between two points is not seen.
pub const CURVE_POINTS_MAX: usize = 240;

/// Ended sessions that the page shows; `driver-cli history` has all.
pub const HISTORY_ROWS: u32 = 20;

/// How long the end of the last session stays where the session was.
pub const END_SHOWN_MS: i64 = 15 * 60_000;

/// Power over time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Curve {
    points: VecDeque<(UnixMs, MilliWatt)>,
    gap_ms: i64,
}

impl Curve {
    /// Adds a value. When there are too many, every other goes, and from then on they are taken
    /// half as often: the curve is of the whole session, however long.
    pub fn add(&mut self, at: UnixMs, power: MilliWatt) {
        if let Some((last, _)) = self.points.back()
            && at.ms_since(*last) < self.gap_ms.max(1)
        {
            return;
        }
        self.points.push_back((at, power));
        if self.points.len() > CURVE_POINTS_MAX {
            let (first, last) = (self.points.front(), self.points.back());
            let span_ms = match (first, last) {
                (Some((first, _)), Some((last, _))) => last.ms_since(*first),
                _ => 0,
            };
            self.gap_ms = span_ms / i64::try_from(CURVE_POINTS_MAX / 2).unwrap_or(i64::MAX);
            let mut nth = 0_usize;
            self.points.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
    }

    /// The points, oldest first.
    pub fn points(&self) -> impl Iterator<Item = (UnixMs, MilliWatt)> + '_ {
        self.points.iter().copied()
    }
}

/// A session of the driver.
#[derive(Debug, Clone)]
pub struct Session {
    /// How it stands.
    pub seen: Seen,
    /// When the newest value was measured, by this host's clock.
    pub value_at: Option<UnixMs>,
    /// Its power so far.
    pub curve: Curve,
    /// Its tariff, where the listing has the one that it has pinned.
    pub tariff: Option<Tariff>,
    /// Why nothing is heard of it.
    pub silent: Option<String>,
}

impl Session {
    /// What the ledger says.
    #[must_use]
    pub const fn view(&self) -> &SessionView {
        &self.seen.view
    }
}

/// Who cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// Everybody can be.
    #[default]
    Up,
    /// The NATS server cannot, and why.
    Server(String),
    /// Central does not answer, and why.
    Central(String),
    /// The server does not let us in any more, and why.
    ShutOut(String),
}

/// What the page shows.
#[derive(Debug, Default)]
pub struct Shown {
    /// The charge points, by id; none before central has told.
    pub listing: Option<Vec<ChargePointListing>>,
    /// Open sessions.
    pub sessions: BTreeMap<SessionId, Session>,
    /// The session that ended last while somebody looked, and when.
    pub ended: Option<(Session, UnixMs)>,
    /// Ended sessions, newest first.
    pub history: Vec<SessionView>,
    /// Who cannot be reached.
    pub link: Link,
}

impl Shown {
    /// Takes a listing.
    pub fn listed(&mut self, mut listing: Vec<ChargePointListing>) {
        listing.sort_by(|a, b| a.cp_id.cmp(&b.cp_id));
        for session in self.sessions.values_mut() {
            if session.tariff.is_none() {
                session.tariff = tariff_of(&listing, session.view());
            }
        }
        self.listing = Some(listing);
    }

    /// Takes news of an open session; `now` is this host's time.
    pub fn seen(&mut self, seen: Seen, now: UnixMs) {
        let id = seen.view.session_id;
        let value_at = seen.age_ms.map(|age_ms| now.plus_ms(-age_ms));
        let power = seen.power();
        let tariff = self
            .listing
            .as_deref()
            .and_then(|listing| tariff_of(listing, &seen.view));
        if !self.sessions.contains_key(&id) {
            // A new session takes the place of the last one's end.
            self.ended = None;
        }
        let session = self.sessions.entry(id).or_insert_with(|| Session {
            seen: seen.clone(),
            value_at,
            curve: Curve::default(),
            tariff: None,
            silent: None,
        });
        session.seen = seen;
        session.value_at = session.value_at.max(value_at);
        session.silent = None;
        if session.tariff.is_none() {
            session.tariff = tariff;
        }
        if let (Some(power), Some(at)) = (power, value_at) {
            session.curve.add(at, power);
        }
    }

    /// Nothing is heard of a session.
    pub fn silent(&mut self, id: SessionId, why: String) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.silent = Some(why);
        }
    }

    /// A session has ended.
    pub fn ended(&mut self, view: SessionView, now: UnixMs) {
        let Some(mut session) = self.sessions.remove(&view.session_id) else {
            return;
        };
        session.seen.view = view;
        session.silent = None;
        self.ended = Some((session, now));
    }

    /// Takes the newest of the driver's ended sessions. The last end may have been told by an update,
    /// which has neither its times nor its receipt.
    pub fn remembered(&mut self, history: Vec<SessionView>) {
        self.history = history
            .into_iter()
            .filter(|view| view.state.is_ended())
            .collect();
        if let Some((session, _)) = &mut self.ended {
            let id = session.seen.view.session_id;
            if let Some(view) = self.history.iter().find(|view| view.session_id == id) {
                session.seen.view = view.clone();
            }
        }
    }

    /// Takes the last end away when it is long ago. Whether it did.
    pub fn tick(&mut self, now: UnixMs) -> bool {
        let old = self
            .ended
            .as_ref()
            .is_some_and(|(_, at)| now.ms_since(*at) > END_SHOWN_MS);
        if old {
            self.ended = None;
        }
        old
    }

    /// The driver's open session on a connector.
    #[must_use]
    pub fn session_on(&self, cp_id: &str, connector: Option<i64>) -> Option<&Session> {
        self.sessions.values().find(|session| {
            let view = session.view();
            !view.state.is_ended()
                && view.cp_id.as_str() == cp_id
                && connector.is_none_or(|c| c == i64::from(view.connector.0))
        })
    }
}

fn tariff_of(listing: &[ChargePointListing], view: &SessionView) -> Option<Tariff> {
    listing
        .iter()
        .find(|cp| cp.cp_id == view.cp_id)
        .map(|cp| cp.tariff.clone())
        .filter(|t| t.tariff_id == view.tariff_id && t.version == view.tariff_version)
}

#[cfg(test)]
mod tests {
    use ev_contract::connector::Phase;

    use super::*;
    use crate::watch::Source;

    const NOW: UnixMs = UnixMs(1_700_000_100_000);

    fn seen(pos: u64, phase: Phase) -> Seen {
        Seen {
            source: Source::Status,
            view: crate::watch::tests::view(pos, phase),
            live: None,
            age_ms: Some(2_000),
        }
    }

    #[test]
    fn a_curve_of_a_long_night_stays_small_and_whole() {
        let mut curve = Curve::default();
        for n in 0..100_000 {
            curve.add(UnixMs(n * 1_000), MilliWatt(11_000_000));
        }
        let points: Vec<_> = curve.points().collect();
        assert!((CURVE_POINTS_MAX / 4..=CURVE_POINTS_MAX).contains(&points.len()));
        assert_eq!(points[0].0, UnixMs(0));
        assert!(points.last().unwrap().0.0 > 95_000_000);
        assert!(points.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn the_end_stays_where_the_session_was_until_it_is_old_or_another_begins() {
        let mut shown = Shown::default();
        shown.seen(seen(1, Phase::Charging), NOW);
        assert!(shown.session_on("CP-001", Some(1)).is_some());
        assert!(shown.session_on("CP-001", Some(2)).is_none());
        shown.ended(seen(2, Phase::Completed).view, NOW);
        assert!(shown.sessions.is_empty());
        assert!(!shown.tick(NOW.plus_ms(END_SHOWN_MS)));
        assert!(shown.ended.is_some());
        assert!(shown.tick(NOW.plus_ms(END_SHOWN_MS + 1)));
        shown.seen(seen(3, Phase::Charging), NOW);
        shown.ended(seen(4, Phase::Completed).view, NOW);
        shown.seen(seen(5, Phase::Preparing), NOW);
        assert!(shown.ended.is_none());
    }

    #[test]
    fn an_end_that_an_update_told_gets_its_times_later() {
        let mut shown = Shown::default();
        shown.seen(seen(1, Phase::Charging), NOW);
        shown.ended(seen(2, Phase::Completed).view, NOW);
        let mut known = seen(2, Phase::Completed).view;
        known.ended_at = Some(NOW);
        shown.remembered(vec![seen(1, Phase::Charging).view, known.clone()]);
        assert_eq!(shown.history, [known.clone()]);
        assert_eq!(shown.ended.unwrap().0.view(), &known);
    }

    #[test]
    fn the_age_of_a_value_counts_from_when_it_was_measured() {
        let mut shown = Shown::default();
        shown.seen(seen(1, Phase::Charging), NOW);
        let session = shown.sessions.values().next().unwrap();
        assert_eq!(session.value_at, Some(NOW.plus_ms(-2_000)));
    }
}
