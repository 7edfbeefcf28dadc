//! What is due when: one moment per key, taken in order of time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Keys, each with the moment at which it is due.
#[derive(Debug)]
pub struct Schedule<K> {
    due: BTreeMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self {
            due: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone> Schedule<K> {
    /// Sets when a key is due, whether or not it was set before.
    pub fn set(&mut self, key: K, at: Instant) {
        self.remove(&key);
        self.queue.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
    }

    /// Takes the key that is due first, if any is.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.queue.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keys_come_when_they_are_due_and_once() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set("later", now + Duration::from_secs(1));
        schedule.set("second", now);
        schedule.set("first", now - Duration::from_secs(1));
        schedule.set("moved", now);
        schedule.set("moved", now + Duration::from_secs(5));
        schedule.set("gone", now);
        schedule.remove(&"gone");
        assert_eq!(schedule.pop_due(now), Some("first"));
        assert_eq!(schedule.pop_due(now), Some("second"));
        assert_eq!(schedule.pop_due(now), None);
        assert_eq!(
            schedule.pop_due(now + Duration::from_secs(9)),
            Some("later")
        );
        assert_eq!(
            schedule.pop_due(now + Duration::from_secs(9)),
            Some("moved")
        );
        assert_eq!(schedule.pop_due(now + Duration::from_secs(9)), None);
    }
}
