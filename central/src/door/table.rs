//! Who is connected, by credential. Pure: events go in, connections to close come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use ev_enrol::Role;
use jiff::Timestamp;

use super::limits::ConnectionLimits;

/// Connections that are counted: three servers full of them. Those beyond are not watched.
const CONNECTIONS_MAX: usize = 65_536;
/// Ended connections that are remembered: what began them, or a page that shows them, may be read
/// later. As many as events wait.
const ENDED_MAX: usize = 16_384;
/// A connection that was asked to be closed so long ago and is still there is asked again.
const KICK_AGAIN: Duration = Duration::from_secs(2);
/// Connections of one credential that are looked at for one event: work per event has a bound, and
/// what is left over is looked at again.
const LOOK_MAX: usize = 64;
/// Credentials beyond their limit that are looked at again at once.
const OVER_LOOK_MAX: usize = 256;
/// A connection that so many sweeps in a row did not show is gone. Not one: a server may have been
/// too busy to answer in time.
const SWEEPS_MISSED: u32 = 2;

/// Where a connection is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The server's id, which is another after each start.
    pub server: Arc<str>,
    /// The connection's number there.
    pub cid: u64,
}

/// A connection, as far as it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Where it is.
    pub place: Place,
    /// The credential's public key.
    pub key: String,
    /// What its account and token say.
    pub role: Role,
    /// Since when.
    pub since: Timestamp,
}

#[derive(Debug)]
struct Known {
    key: String,
    since: Timestamp,
    seen_in: u32,
    kicked_at: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    role: Role,
    /// The newest last; every replica has them in the same order.
    connections: BTreeSet<(Timestamp, Place)>,
}

/// All connections.
#[derive(Debug)]
pub struct Table {
    limits: ConnectionLimits,
    connections: HashMap<Place, Known>,
    holders: HashMap<String, Holder>,
    /// Credentials with more than they may have.
    over: BTreeSet<String>,
    /// The last of them that was looked at, where more come behind it.
    looked_at: Option<String>,
    counts: BTreeMap<Role, usize>,
    sweep: u32,
    /// The last that ended, in order. A server gives no number twice.
    ended: VecDeque<Place>,
    has_ended: HashSet<Place>,
}

impl Table {
    /// An empty one.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            connections: HashMap::new(),
            holders: HashMap::new(),
            over: BTreeSet::new(),
            looked_at: None,
            counts: Role::ALL.iter().map(|role| (*role, 0)).collect(),
            sweep: 0,
            ended: VecDeque::new(),
            has_ended: HashSet::new(),
        }
    }

    /// Other limits. Who has too many by them is among the [`overdue`](Self::overdue).
    pub fn limit(&mut self, limits: ConnectionLimits) {
        self.limits = limits;
        let has_too_many = |holder: &Holder| {
            let limit = limits.of(holder.role).unwrap_or(usize::MAX);
            holder.connections.len() > limit
        };
        self.over = self
            .holders
            .iter()
            .filter(|(_, holder)| has_too_many(holder))
            .map(|(key, _)| key.clone())
            .collect();
    }

    /// Forgets everything: what happened meanwhile was not heard.
    pub fn clear(&mut self) {
        *self = Self {
            sweep: self.sweep,
            ..Self::new(self.limits)
        };
    }

    /// Somebody has connected, or was seen. Returns the connections of the same credential that
    /// are to be closed.
    pub fn connected(&mut self, connection: Connection, now: Instant) -> Vec<Place> {
        let Connection {
            place,
            key,
            role,
            since,
        } = connection;
        if let Some(known) = self.connections.get_mut(&place) {
            known.seen_in = self.sweep;
            return Vec::new();
        }
        if self.has_ended.contains(&place) || self.connections.len() >= CONNECTIONS_MAX {
            return Vec::new();
        }
        let holder = self.holders.entry(key.clone()).or_insert_with(|| Holder {
            role,
            connections: BTreeSet::new(),
        });
        holder.connections.insert((since, place.clone()));
        *self.counts.entry(holder.role).or_default() += 1;
        self.connections.insert(
            place,
            Known {
                key: key.clone(),
                since,
                seen_in: self.sweep,
                kicked_at: None,
            },
        );
        self.judge(&key, now)
    }

    /// A connection has ended.
    pub fn ended(&mut self, place: &Place) {
        if self.has_ended.insert(place.clone()) {
            self.ended.push_back(place.clone());
        }
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.has_ended.remove(&oldest);
        }
        self.remove(place);
    }

    /// Whether somebody is connected with a credential.
    pub fn is_here(&self, key: &str) -> bool {
        self.holders.contains_key(key)
    }

    /// A server has ended, and all that was there.
    pub fn server_ended(&mut self, server: &str) {
        let there: Vec<Place> = self
            .connections
            .keys()
            .filter(|place| *place.server == *server)
            .cloned()
            .collect();
        for place in there {
            self.remove(&place);
        }
    }

    /// All that is there will be shown now.
    pub fn sweep_begins(&mut self) {
        self.sweep = self.sweep.wrapping_add(1);
    }

    /// All that is there was shown.
    pub fn sweep_ends(&mut self) {
        let sweep = self.sweep;
        let gone: Vec<Place> = self
            .connections
            .iter()
            .filter(|(_, known)| sweep.wrapping_sub(known.seen_in) >= SWEEPS_MISSED)
            .map(|(place, _)| place.clone())
            .collect();
        for place in gone {
            self.remove(&place);
        }
    }

    /// What is still to be closed, since nobody has closed it when it was asked for.
    pub fn overdue(&mut self, now: Instant) -> Vec<Place> {
        let last = self.looked_at.take().unwrap_or_default();
        let after = (Bound::Excluded(&*last), Bound::Unbounded);
        let keys: Vec<String> = self
            .over
            .range::<str, _>(after)
            .take(OVER_LOOK_MAX)
            .cloned()
            .collect();
        // From the beginning again, where this was the end.
        self.looked_at = keys.get(OVER_LOOK_MAX - 1).cloned();
        keys.iter().flat_map(|key| self.judge(key, now)).collect()
    }

    /// How many there are of each role.
    pub fn counts(&self) -> impl Iterator<Item = (Role, usize)> {
        self.counts.iter().map(|(role, count)| (*role, *count))
    }

    /// The connection of a role that is the oldest. Every replica that counts all names the same one.
    pub fn first(&self, role: Role) -> Option<&Place> {
        self.holders
            .values()
            .filter(|holder| holder.role == role)
            .filter_map(|holder| holder.connections.first())
            .min()
            .map(|(_, place)| place)
    }

    /// The newest beyond the limit that were not asked to be closed just now.
    fn judge(&mut self, key: &str, now: Instant) -> Vec<Place> {
        let Some(holder) = self.holders.get(key) else {
            return Vec::new();
        };
        let limit = self.limits.of(holder.role).unwrap_or(usize::MAX);
        let beyond = holder.connections.len().saturating_sub(limit);
        if beyond == 0 {
            return Vec::new();
        }
        self.over.insert(key.to_owned());
        let mut due = Vec::new();
        for (_, place) in holder.connections.iter().rev().take(beyond.min(LOOK_MAX)) {
            if let Some(known) = self.connections.get_mut(place)
                && known.kicked_at.is_none_or(|at| now - at >= KICK_AGAIN)
            {
                known.kicked_at = Some(now);
                due.push(place.clone());
            }
        }
        due
    }

    fn remove(&mut self, place: &Place) {
        let Some(known) = self.connections.remove(place) else {
            return;
        };
        let Some(holder) = self.holders.get_mut(&known.key) else {
            return;
        };
        holder.connections.remove(&(known.since, place.clone()));
        if let Some(count) = self.counts.get_mut(&holder.role) {
            *count = count.saturating_sub(1);
        }
        let limit = self.limits.of(holder.role).unwrap_or(usize::MAX);
        if holder.connections.len() <= limit {
            self.over.remove(&known.key);
        }
        if holder.connections.is_empty() {
            self.holders.remove(&known.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(ConnectionLimits {
            driver: 3,
            ..ConnectionLimits::default()
        })
    }

    fn place(cid: u64) -> Place {
        Place {
            server: "S1".into(),
            cid,
        }
    }

    /// Connections are as old as their numbers say.
    fn of(key: &str, cid: u64) -> Connection {
        Connection {
            place: place(cid),
            key: key.into(),
            role: Role::Driver,
            since: Timestamp::from_second(i64::try_from(cid).unwrap()).unwrap(),
        }
    }

    fn drivers(table: &Table) -> usize {
        table
            .counts()
            .find_map(|(role, count)| (role == Role::Driver).then_some(count))
            .unwrap()
    }

    fn cids(places: &[Place]) -> Vec<u64> {
        places.iter().map(|place| place.cid).collect()
    }

    #[test]
    fn the_newest_beyond_the_limit_are_closed_and_nobody_elses() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 1..=3 {
            assert!(table.connected(of("alice", cid), now).is_empty());
            assert!(table.connected(of("bob", 100 + cid), now).is_empty());
        }
        assert_eq!(cids(&table.connected(of("alice", 4), now)), [4]);
        // Heard of late, and the oldest: it stays, and the newest goes.
        assert_eq!(cids(&table.connected(of("alice", 0), now)), [3]);
        assert_eq!(drivers(&table), 8);
    }

    #[test]
    fn other_limits_count_for_those_who_are_there() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 1..=3 {
            assert!(table.connected(of("alice", cid), now).is_empty());
        }
        let limits = |driver| ConnectionLimits {
            driver,
            ..ConnectionLimits::default()
        };
        table.limit(limits(1));
        assert_eq!(cids(&table.overdue(now)), [3, 2]);
        table.limit(limits(4));
        assert!(table.overdue(now + KICK_AGAIN).is_empty());
        assert!(table.connected(of("alice", 4), now).is_empty());
    }

    #[test]
    fn the_first_of_a_role_is_the_oldest_whoever_was_heard_of_first() {
        let (mut table, now) = (table(), Instant::now());
        let door = |key: &str, cid| Connection {
            role: Role::Doorkeeper,
            ..of(key, cid)
        };
        table.connected(of("alice", 1), now);
        assert_eq!(table.first(Role::Doorkeeper), None);
        table.connected(door("b", 7), now);
        table.connected(door("a", 9), now);
        table.connected(door("a", 5), now);
        assert_eq!(table.first(Role::Doorkeeper), Some(&place(5)));
        table.ended(&place(5));
        assert_eq!(table.first(Role::Doorkeeper), Some(&place(7)));
    }

    #[test]
    fn what_was_closed_makes_room() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 1..=4 {
            table.connected(of("alice", cid), now);
        }
        table.ended(&place(4));
        table.ended(&place(1));
        assert!(table.connected(of("alice", 5), now).is_empty());
        assert_eq!(cids(&table.connected(of("alice", 6), now)), [6]);
        assert_eq!(drivers(&table), 4);
    }

    #[test]
    fn a_connection_that_stays_is_asked_to_be_closed_again_and_not_at_once() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 1..=4 {
            table.connected(of("alice", cid), now);
        }
        assert!(table.overdue(now + KICK_AGAIN / 2).is_empty());
        assert_eq!(cids(&table.overdue(now + KICK_AGAIN)), [4]);
        table.ended(&place(2));
        assert!(table.overdue(now + 3 * KICK_AGAIN).is_empty());
    }

    #[test]
    fn a_server_that_ended_takes_its_connections_with_it() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 1..=3 {
            table.connected(of("alice", cid), now);
        }
        let mut elsewhere = of("alice", 9);
        elsewhere.place.server = "S2".into();
        assert_eq!(table.connected(elsewhere, now).len(), 1);
        table.server_ended("S1");
        assert_eq!(drivers(&table), 1);
        assert!(table.overdue(now + 2 * KICK_AGAIN).is_empty());
    }

    #[test]
    fn a_sweep_shows_what_was_missed_and_two_forget_what_is_gone() {
        let (mut table, now) = (table(), Instant::now());
        table.connected(of("alice", 1), now);
        table.connected(of("alice", 2), now);
        assert!(table.is_here("alice") && !table.is_here("bob"));
        table.sweep_begins();
        table.connected(of("alice", 2), now);
        table.connected(of("alice", 3), now);
        table.sweep_ends();
        assert_eq!(drivers(&table), 3, "one that a sweep missed is not gone");
        table.sweep_begins();
        table.connected(of("alice", 2), now);
        // Ended while the page was on its way.
        table.ended(&place(3));
        table.connected(of("alice", 3), now);
        table.sweep_ends();
        assert_eq!(drivers(&table), 1);
    }

    #[test]
    fn an_end_that_is_read_before_the_beginning_leaves_nobody_behind() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 0..2 * u64::try_from(ENDED_MAX).unwrap() {
            table.ended(&place(cid));
            table.connected(of("alice", cid), now);
        }
        assert_eq!(drivers(&table), 0);
        assert_eq!(
            (table.ended.len(), table.has_ended.len()),
            (ENDED_MAX, ENDED_MAX)
        );
    }

    #[test]
    fn work_for_one_event_has_a_bound_and_all_are_closed_in_the_end() {
        let (mut table, now) = (table(), Instant::now());
        let mut asked = 0;
        for cid in 1..=1_000 {
            let due = table.connected(of("alice", cid), now);
            assert!(due.len() <= LOOK_MAX);
            for place in &due {
                table.ended(place);
            }
            asked += due.len();
        }
        assert_eq!((asked, drivers(&table)), (997, 3));
    }

    #[test]
    fn those_who_repair_and_watch_are_counted_and_not_closed() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 1..=50 {
            let mona = Connection {
                role: Role::Maintainer,
                ..of("mona", cid)
            };
            assert!(table.connected(mona, now).is_empty());
        }
    }

    #[test]
    fn memory_has_a_bound() {
        let (mut table, now) = (table(), Instant::now());
        for cid in 0..u64::try_from(CONNECTIONS_MAX).unwrap() + 10 {
            table.connected(of(&format!("d-{cid}"), cid), now);
        }
        assert_eq!(drivers(&table), CONNECTIONS_MAX);
        table.clear();
        assert_eq!(drivers(&table), 0);
    }
}
