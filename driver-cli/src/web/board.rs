//! What a page shows: parts of HTML by id, the changes of late, and from where a listener goes on.
//! No I/O and no clock.

use std::collections::{BTreeMap, VecDeque};

use maud::Markup;
use serde::Serialize;

/// Most changes that are remembered for listeners who come back. While charging there is one a
/// second or two: a laptop that slept for ten minutes catches up without a snapshot.
pub const REMEMBERED_MAX: usize = 1_024;

/// Most bytes that the remembered changes take together. A snapshot costs no more than this, so
/// that to remember more would save nothing.
pub const REMEMBERED_BYTES_MAX: usize = 4 << 20;

/// One element of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The element's id, and the only element with it.
    pub id: String,
    /// The id of the element that holds it.
    pub region: &'static str,
    /// Where in its region, as text; also in the element's `data-order`. ASCII.
    pub order: String,
    /// The element.
    pub html: String,
}

impl Part {
    /// An element of a region, at its place there.
    #[must_use]
    pub fn new(region: &'static str, id: &str, order: &str, html: Markup) -> Self {
        Self {
            id: id.to_owned(),
            region,
            order: order.to_owned(),
            html: html.into_string(),
        }
    }
}

/// What is sent to listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `<run>-<number>`, rising.
    pub id: String,
    /// Everything, or what has changed.
    pub kind: Kind,
    /// [`Body`] as JSON.
    pub data: String,
    number: u64,
}

impl Event {
    /// Its number in this run.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// What an event holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything: what is not in it is not on the page.
    Snapshot,
    /// What has changed.
    Change,
}

impl Kind {
    /// The event's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Change => "change",
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    put: Vec<&'a Part>,
    gone: &'a [String],
    /// For snapshots: what forms must carry in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

/// The parts of a page.
#[derive(Debug)]
pub struct Board {
    run: String,
    token: String,
    number: u64,
    parts: BTreeMap<(&'static str, String, String), Part>,
    remembered: VecDeque<Event>,
    remembered_bytes: usize,
    remembered_max: usize,
}

impl Board {
    /// An empty board. `run` tells this run of the server from others, `token` is what forms
    /// carry.
    #[must_use]
    pub fn new(run: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            run: run.into(),
            token: token.into(),
            number: 0,
            parts: BTreeMap::new(),
            remembered: VecDeque::new(),
            remembered_bytes: 0,
            remembered_max: REMEMBERED_MAX,
        }
    }

    /// What forms carry.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Makes these regions hold these parts and no others. The event that tells of what has
    /// changed; none where nothing has.
    pub fn set(&mut self, regions: &[&'static str], parts: Vec<Part>) -> Option<Event> {
        let mut before: BTreeMap<String, (&'static str, String)> = self
            .parts
            .values()
            .filter(|part| regions.contains(&part.region))
            .map(|part| (part.id.clone(), (part.region, part.order.clone())))
            .collect();
        let mut put = Vec::new();
        for part in parts {
            let key = (part.region, part.order.clone(), part.id.clone());
            match before.remove(&part.id) {
                Some((region, order)) if (region, &order) == (part.region, &part.order) => {}
                Some((region, order)) => {
                    self.parts.remove(&(region, order, part.id.clone()));
                }
                None => {}
            }
            if self.parts.get(&key) != Some(&part) {
                self.parts.insert(key.clone(), part);
                put.push(key);
            }
        }
        let gone: Vec<String> = before.keys().cloned().collect();
        for (id, (region, order)) in before {
            self.parts.remove(&(region, order, id));
        }
        if put.is_empty() && gone.is_empty() {
            return None;
        }
        self.number += 1;
        let body = Body {
            put: put.iter().filter_map(|key| self.parts.get(key)).collect(),
            gone: &gone,
            token: None,
        };
        let event = self.event(Kind::Change, &body);
        self.remember(event.clone());
        Some(event)
    }

    /// What a listener needs who has seen everything up to the event `last`: a snapshot where that
    /// is not known, of another run, or too long ago.
    #[must_use]
    pub fn since(&self, last: Option<&str>) -> Vec<Event> {
        let number = last
            .and_then(|id| id.strip_prefix(self.run.as_str()))
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|number| number.parse::<u64>().ok())
            .filter(|number| *number <= self.number);
        match number {
            Some(number) if number == self.number => Vec::new(),
            Some(number) if self.remembers_from().is_some_and(|from| from <= number + 1) => self
                .remembered
                .iter()
                .filter(|event| event.number > number)
                .cloned()
                .collect(),
            _ => vec![self.snapshot()],
        }
    }

    /// The id of a listener who has seen everything.
    #[must_use]
    pub fn last_id(&self) -> String {
        format!("{}-{}", self.run, self.number)
    }

    /// Everything in a region, in order.
    #[must_use]
    pub fn html(&self, region: &str) -> String {
        self.parts
            .values()
            .filter(|part| part.region == region)
            .map(|part| part.html.as_str())
            .collect()
    }

    fn snapshot(&self) -> Event {
        let body = Body {
            put: self.parts.values().collect(),
            gone: &[],
            token: Some(&self.token),
        };
        self.event(Kind::Snapshot, &body)
    }

    fn event(&self, kind: Kind, body: &Body<'_>) -> Event {
        Event {
            id: self.last_id(),
            kind,
            // Text and lists of text: it cannot fail.
            data: serde_json::to_string(body).unwrap_or_default(),
            number: self.number,
        }
    }

    fn remembers_from(&self) -> Option<u64> {
        self.remembered.front().map(|event| event.number)
    }

    fn remember(&mut self, event: Event) {
        self.remembered_bytes += event.data.len();
        self.remembered.push_back(event);
        while self.remembered.len() > self.remembered_max
            || self.remembered_bytes > REMEMBERED_BYTES_MAX
        {
            let Some(oldest) = self.remembered.pop_front() else {
                break;
            };
            self.remembered_bytes -= oldest.data.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: &str, html: &str) -> Part {
        Part {
            id: id.into(),
            region: "list",
            order: id.into(),
            html: html.into(),
        }
    }

    fn board() -> Board {
        Board::new("r1", "t")
    }

    fn ids(events: &[Event]) -> Vec<(&str, Kind)> {
        events.iter().map(|e| (e.id.as_str(), e.kind)).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let mut board = board();
        let first = board.set(&["list"], vec![part("a", "1"), part("b", "1")]);
        assert_eq!(first.unwrap().id, "r1-1");
        assert_eq!(
            board.set(&["list"], vec![part("a", "1"), part("b", "1")]),
            None
        );
        let change = board.set(&["list"], vec![part("a", "2")]).unwrap();
        let told: serde_json::Value = serde_json::from_str(&change.data).unwrap();
        assert_eq!(told["put"].as_array().unwrap().len(), 1);
        assert_eq!(told["put"][0]["html"], "2");
        assert_eq!(told["gone"], serde_json::json!(["b"]));
        assert_eq!(board.html("list"), "2");
    }

    #[test]
    fn a_part_that_moves_is_there_once() {
        let mut board = board();
        board.set(&["list"], vec![part("a", "1"), part("b", "2")]);
        let moved = Part {
            order: "z".into(),
            ..part("a", "1")
        };
        let change = board.set(&["list"], vec![moved, part("b", "2")]).unwrap();
        assert!(change.data.contains("\"gone\":[]"), "{}", change.data);
        assert_eq!(board.html("list"), "21");
    }

    #[test]
    fn another_region_is_left_alone() {
        let mut board = board();
        board.set(&["list"], vec![part("a", "1")]);
        assert_eq!(board.set(&["other"], Vec::new()), None);
        assert_eq!(board.html("list"), "1");
    }

    #[test]
    fn a_listener_goes_on_where_it_was() {
        let mut board = board();
        for n in 1..=3 {
            board.set(&["list"], vec![part("a", &n.to_string())]);
        }
        let after_one = board.since(Some("r1-1"));
        assert_eq!(
            ids(&after_one),
            [("r1-2", Kind::Change), ("r1-3", Kind::Change)]
        );
        assert!(board.since(Some("r1-3")).is_empty());
    }

    #[test]
    fn a_new_a_foreign_and_a_late_listener_get_a_snapshot() {
        let mut board = Board {
            remembered_max: 2,
            ..board()
        };
        for n in 1..=5 {
            board.set(&["list"], vec![part("a", &n.to_string())]);
        }
        for last in [
            None,
            Some("r0-4"),
            Some("r1-2"),
            Some("r1-99"),
            Some("r1"),
            Some("nonsense"),
        ] {
            let events = board.since(last);
            assert_eq!(ids(&events), [("r1-5", Kind::Snapshot)], "{last:?}");
            assert!(events[0].data.contains("\"token\":\"t\""));
        }
        // The oldest that is remembered is the fourth.
        assert_eq!(
            ids(&board.since(Some("r1-3"))),
            [("r1-4", Kind::Change), ("r1-5", Kind::Change)]
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let mut board = board();
        let large = "x".repeat(REMEMBERED_BYTES_MAX / 3);
        for n in 0..10 {
            board.set(&["list"], vec![part("a", &format!("{n}{large}"))]);
        }
        assert!(board.remembered_bytes <= REMEMBERED_BYTES_MAX);
        assert_eq!(board.remembered.len(), 2);
    }
}
