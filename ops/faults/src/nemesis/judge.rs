//! The judge. It reads a history and knows nothing but what stands there: what users asked and
//! heard, what the CDR stream and the meters say. It shares no code with what it judges, not even
//! the contract's types.
//!
//! Lines are in the order of real time. What was asked below a line was asked after it; so an
//! answer that is older than what somebody had already heard is a lie, and a session that was seen
//! open later was open before.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    faults::SERVED,
    history::{Event, Line, Place, Stage},
};

/// Between a clock's reading here and central's, on one machine: the time that a message waits.
const CLOCK_MS: i64 = 100;
/// Open sessions that a driver may have, as configured for the run.
const SESSIONS_PER_DRIVER: usize = 2;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub text: String,
    /// Ids by which the lines about it are found.
    pub about: Vec<String>,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    pub table: Vec<(String, String)>,
}

#[derive(Debug)]
struct Ask<'a> {
    line: usize,
    unix: i64,
    who: &'a str,
    verb: &'a str,
    body: &'a Value,
    answer: Option<Answer<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Answer<'a> {
    line: usize,
    unix: i64,
    body: &'a Value,
}

/// Somebody saw a session.
#[derive(Debug)]
struct Sighting<'a> {
    asked: usize,
    answered: usize,
    view: &'a Value,
}

/// What is known of a session.
#[derive(Debug, Default)]
struct Known<'a> {
    driver: Option<&'a str>,
    place: Option<(&'a str, u64)>,
    /// The wishes that it was the answer to.
    wishes: BTreeSet<(&'a str, &'a str)>,
    /// It cannot have begun above this line.
    begun_from: usize,
    /// Somebody had its id at this line.
    known_at: Option<usize>,
    /// It was open at this line, and at all between `known_at` and here.
    open_at: Option<usize>,
    /// It had ended at this line.
    ended_at: Option<usize>,
    written_off: bool,
    receipts: Vec<&'a Value>,
    adjustments: Vec<&'a Value>,
}

/// All attempts at one request id with one content.
#[derive(Debug)]
struct Wish<'a> {
    who: &'a str,
    id: &'a str,
    asks: Vec<&'a Ask<'a>>,
}

impl<'a> Wish<'a> {
    fn first(&self) -> &'a Ask<'a> {
        self.asks[0]
    }

    fn definite(&self) -> impl Iterator<Item = Answer<'a>> + '_ {
        self.asks
            .iter()
            .filter_map(|ask| ask.answer)
            .filter(|answer| answer.body["status"] != "unknown")
    }
}

#[derive(Debug)]
struct Judge<'a> {
    lines: &'a [Line],
    places: &'a [Place],
    asks: &'a [Ask<'a>],
    wishes: Vec<Wish<'a>>,
    sightings: BTreeMap<&'a str, Vec<Sighting<'a>>>,
    sessions: BTreeMap<&'a str, Known<'a>>,
    out: Vec<Violation>,
}

/// Judges a whole history.
pub fn judge(lines: &[Line]) -> Verdict {
    let asks = asks_of(lines);
    let places: &[Place] = lines
        .iter()
        .find_map(|line| match &line.event {
            Event::Began { charge_points, .. } => Some(charge_points.as_slice()),
            _ => None,
        })
        .unwrap_or_default();
    let mut judge = Judge {
        lines,
        places,
        asks: &asks,
        wishes: wishes_of(&asks),
        sightings: BTreeMap::new(),
        sessions: BTreeMap::new(),
        out: Vec::new(),
    };
    judge.learn_sessions();
    judge.same_request_same_answer();
    judge.accepted_once();
    judge.no_stale_view();
    judge.ended_is_for_good();
    judge.every_no_is_true();
    judge.listings_are_whole();
    judge.one_at_a_time();
    judge.stop_stops();
    judge.ended_in_time();
    judge.everything_ended_once();
    judge.receipts_are_in_order();
    judge.metered_is_billed();
    judge.all_is_quiet();
    let table = judge.table();
    Verdict {
        violations: judge.out,
        table,
    }
}

fn asks_of(lines: &[Line]) -> Vec<Ask<'_>> {
    let mut asks: BTreeMap<u64, Ask<'_>> = BTreeMap::new();
    for (n, line) in lines.iter().enumerate() {
        match &line.event {
            Event::Asked {
                ask,
                who,
                verb,
                body,
            } => {
                let asked = Ask {
                    line: n,
                    unix: line.unix,
                    who,
                    verb,
                    body,
                    answer: None,
                };
                asks.insert(*ask, asked);
            }
            Event::Answered { ask, body } => {
                if let Some(asked) = asks.get_mut(ask) {
                    asked.answer = Some(Answer {
                        line: n,
                        unix: line.unix,
                        body,
                    });
                }
            }
            _ => {}
        }
    }
    let mut asks: Vec<_> = asks.into_values().collect();
    asks.sort_by_key(|ask| ask.line);
    asks
}

fn wishes_of<'a>(asks: &'a [Ask<'a>]) -> Vec<Wish<'a>> {
    let mut by_content: BTreeMap<(&str, &str, &str, String), Wish<'_>> = BTreeMap::new();
    for ask in asks {
        let Some(id) = ask.body["request_id"].as_str() else {
            continue;
        };
        by_content
            .entry((ask.who, id, ask.verb, ask.body.to_string()))
            .or_insert_with(|| Wish {
                who: ask.who,
                id,
                asks: Vec::new(),
            })
            .asks
            .push(ask);
    }
    by_content.into_values().collect()
}

fn driver_of(who: &str) -> Option<&str> {
    who.strip_prefix("driver.")
}

fn is_over(state: &Value) -> bool {
    matches!(state.as_str(), Some("completed" | "failed"))
}

/// An answer without what may differ from one time to the next.
fn essence(answer: &Value) -> [&Value; 6] {
    [
        &answer["status"],
        &answer["reason"],
        &answer["session_id"],
        &answer["cp_id"],
        &answer["connector"],
        &answer["error"]["code"],
    ]
}

impl<'a> Judge<'a> {
    fn blame(&mut self, rule: &'static str, text: String, about: &[&str]) {
        let about = about.iter().map(|a| (*a).to_owned()).collect();
        self.out.push(Violation { rule, text, about });
    }

    fn stage_line(&self, wanted: Stage) -> usize {
        self.lines
            .iter()
            .position(|line| matches!(&line.event, Event::Stage { stage } if *stage == wanted))
            .unwrap_or(self.lines.len())
    }

    fn cdrs(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.lines.iter().filter_map(|line| match &line.event {
            Event::Cdr { subject, body } => Some((subject.as_str(), body)),
            _ => None,
        })
    }

    fn learn_sessions(&mut self) {
        let lines = self.lines;
        let mut local_calls: BTreeMap<u64, usize> = BTreeMap::new();
        for (n, line) in lines.iter().enumerate() {
            match &line.event {
                Event::Cabinet { call, args, .. } if args.first().is_some_and(|a| a == "start") => {
                    local_calls.insert(*call, n);
                }
                Event::CabinetSaid { call, ok, body } if *ok => {
                    let Some(begun) = local_calls.get(call) else {
                        continue;
                    };
                    if let Some(id) = body["session_id"].as_str() {
                        let known = self.sessions.entry(id).or_default();
                        known.begun_from = *begun;
                        known.known_at.get_or_insert(n);
                        known.place = body["cp_id"].as_str().zip(body["connector"].as_u64());
                    }
                }
                _ => {}
            }
        }
        for wish in &self.wishes {
            let first = wish.first();
            if !matches!(first.verb, "start" | "session_start") {
                continue;
            }
            for answer in wish.definite().filter(|a| a.body["status"] == "accepted") {
                let Some(id) = answer.body["session_id"].as_str() else {
                    continue;
                };
                let known = self.sessions.entry(id).or_default();
                known.wishes.insert((wish.who, wish.id));
                known.begun_from = first.line;
                known.known_at = Some(known.known_at.map_or(answer.line, |at| at.min(answer.line)));
                known.driver = driver_of(wish.who).or(first.body["driver_id"].as_str());
                if let Some(cp) = first.body["cp_id"].as_str() {
                    let connector = first.body["connector"].as_u64().unwrap_or(1);
                    known.place = Some((cp, connector));
                }
            }
        }
        for ask in self.asks {
            let Some(answer) = ask.answer else { continue };
            for view in answer.body["sessions"].as_array().into_iter().flatten() {
                let Some(id) = view["session_id"].as_str() else {
                    continue;
                };
                self.sightings.entry(id).or_default().push(Sighting {
                    asked: ask.line,
                    answered: answer.line,
                    view,
                });
                let known = self.sessions.entry(id).or_default();
                known.driver = known.driver.or(view["driver_id"].as_str());
                known.place = known
                    .place
                    .or(view["cp_id"].as_str().zip(view["connector"].as_u64()));
                known.known_at = Some(known.known_at.map_or(answer.line, |at| at.min(answer.line)));
                if is_over(&view["state"]) {
                    known.ended(answer.line);
                } else {
                    known.open_at = Some(known.open_at.map_or(ask.line, |at| at.max(ask.line)));
                }
            }
            if let Some(id) = answer.body["receipt"]["session_id"].as_str() {
                self.sessions.entry(id).or_default().ended(answer.line);
            }
        }
        for (n, line) in lines.iter().enumerate() {
            if let Event::Update { body, .. } = &line.event
                && let Some(id) = body["session_id"].as_str()
            {
                let known = self.sessions.entry(id).or_default();
                known.known_at = Some(known.known_at.map_or(n, |at| at.min(n)));
                if is_over(&body["status"]) {
                    known.ended(n);
                }
            }
        }
        for (subject, body) in self.cdrs() {
            let Some(id) = body["session_id"].as_str() else {
                continue;
            };
            let known = self.sessions.entry(id).or_default();
            if subject.split('.').count() == 4 {
                known.receipts.push(body);
                known.driver = known.driver.or(body["driver_id"].as_str());
                known.place = body["cp_id"].as_str().zip(body["connector"].as_u64());
                known.written_off |= has_flag(body, "written_off");
            } else {
                known.adjustments.push(body);
            }
        }
    }

    /// Promise 2.
    fn same_request_same_answer(&mut self) {
        let mut blames = Vec::new();
        let mut deciders: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for wish in &self.wishes {
            let mut answers = wish.definite();
            let Some(first) = answers.next() else {
                let text = format!("{} {} was never answered", wish.who, wish.id);
                blames.push(("every wish is settled", text, wish.id));
                continue;
            };
            for other in answers {
                if essence(first.body) != essence(other.body) {
                    let text = format!(
                        "{} {}: lines {} and {} differ: {} / {}",
                        wish.who, wish.id, first.line, other.line, first.body, other.body
                    );
                    blames.push(("the same request gets the same answer", text, wish.id));
                    break;
                }
            }
            if first.body["reason"] != "request_id_reused" {
                *deciders.entry((wish.who, wish.id)).or_default() += 1;
            }
        }
        for ((who, id), count) in deciders {
            if count > 1 {
                let text = format!("{who} {id}: {count} contents were answered under one id");
                blames.push(("a request id has one content", text, id));
            }
        }
        for (rule, text, id) in blames {
            self.blame(rule, text, &[id]);
        }
    }

    /// Promises 1 and 3: an accepted wish is one session, and a session is one wish.
    fn accepted_once(&mut self) {
        let mut blames = Vec::new();
        for wish in &self.wishes {
            let first = wish.first();
            for answer in wish.definite().filter(|a| a.body["status"] == "accepted") {
                if matches!(first.verb, "start" | "session_start")
                    && answer.body["session_id"].as_str().is_none_or(str::is_empty)
                {
                    let text = format!("{} {}: {}", wish.who, wish.id, answer.body);
                    blames.push(("accepted carries the session id", text, vec![wish.id]));
                }
            }
            let expires = first.body["expires_at"].as_i64().unwrap_or(i64::MAX);
            let answered = wish.definite().next();
            if let Some(answer) = answered
                && answer.body["status"] == "accepted"
                && first.unix.saturating_sub(CLOCK_MS) > expires
            {
                let text = format!("{} {} was accepted when it had expired", wish.who, wish.id);
                blames.push(("what has expired does nothing", text, vec![wish.id]));
            }
        }
        for (id, known) in &self.sessions {
            if known.wishes.len() > 1 {
                let text = format!("session {id} answers {:?}", known.wishes);
                blames.push(("a session answers one wish", text, vec![*id]));
            }
        }
        for (rule, text, about) in blames {
            self.blame(rule, text, &about);
        }
    }

    /// Promise 11, first half: nobody hears something older than what was heard before he asked.
    fn no_stale_view(&mut self) {
        let mut heard: BTreeMap<&str, Vec<(usize, u64)>> = BTreeMap::new();
        for (n, line) in self.lines.iter().enumerate() {
            if let Event::Update { body, .. } = &line.event
                && let (Some(id), Some(pos)) = (body["session_id"].as_str(), body["pos"].as_u64())
            {
                heard.entry(id).or_default().push((n, pos));
            }
        }
        let mut blames = Vec::new();
        for (id, sightings) in &self.sightings {
            let mut known = heard.remove(id).unwrap_or_default();
            known.extend(
                sightings
                    .iter()
                    .filter_map(|s| Some((s.answered, s.view["pos"].as_u64()?))),
            );
            known.sort_unstable();
            let mut best = 0;
            for entry in &mut known {
                best = best.max(entry.1);
                entry.1 = best;
            }
            for sighting in sightings {
                let before = known.partition_point(|(line, _)| *line < sighting.asked);
                let least = before.checked_sub(1).map_or(0, |at| known[at].1);
                let pos = sighting.view["pos"].as_u64().unwrap_or(0);
                if pos < least {
                    let text = format!(
                        "session {id}: line {} shows position {pos}, and {least} was heard before it was asked",
                        sighting.answered
                    );
                    blames.push((text, *id));
                    break;
                }
            }
        }
        for (text, id) in blames {
            self.blame("no answer is older than what was heard before", text, &[id]);
        }
    }

    /// Promise 4.
    fn ended_is_for_good(&mut self) {
        let fields = [
            "state",
            "status",
            "energy_mwh",
            "cost",
            "ended_at",
            "reason",
            "receipt",
            "driver_id",
            "cp_id",
            "connector",
        ];
        let mut blames = Vec::new();
        for (id, sightings) in &self.sightings {
            let Some(known) = self.sessions.get(id) else {
                continue;
            };
            let mut last: Option<&Sighting<'_>> = None;
            for sighting in sightings {
                if !is_over(&sighting.view["state"]) {
                    if known.ended_at.is_some_and(|at| at < sighting.asked) {
                        let text = format!(
                            "session {id} had ended and is open again in line {}",
                            sighting.answered
                        );
                        blames.push((text, *id));
                        break;
                    }
                    continue;
                }
                if let Some(last) = last {
                    let changed = fields
                        .iter()
                        .find(|field| last.view[**field] != sighting.view[**field]);
                    if let Some(field) = changed {
                        let text = format!(
                            "session {id} had ended, and its {field} is {} in line {} and {} in line {}",
                            last.view[*field],
                            last.answered,
                            sighting.view[*field],
                            sighting.answered
                        );
                        blames.push((text, *id));
                        break;
                    }
                }
                last = Some(sighting);
            }
        }
        for (text, id) in blames {
            self.blame("an ended session never changes", text, &[id]);
        }
    }

    /// Sessions that may have been open at some moment between two lines.
    fn perhaps_open(&self, from: usize, to: usize) -> impl Iterator<Item = (&'a str, &Known<'a>)> {
        self.sessions.iter().filter_map(move |(id, known)| {
            let gone = known.ended_at.is_some_and(|at| at < from) && !known.written_off;
            (known.begun_from <= to && !gone).then_some((*id, known))
        })
    }

    fn op_asked(&self, verb: &str, key: &str, value: &str, before: usize) -> bool {
        self.asks
            .iter()
            .any(|ask| ask.verb == verb && ask.body[key] == value && ask.line < before)
    }

    fn cabinet_did(&self, verb: &str, cp: &str, before: usize) -> bool {
        self.lines[..before].iter().any(|line| {
            matches!(&line.event, Event::Cabinet { cp: at, args, .. }
                if at == cp && args.first().is_some_and(|a| a == verb))
        })
    }

    /// Promise 11, second half, and promise 6.
    fn every_no_is_true(&mut self) {
        let mut blames: Vec<(&'static str, String, Vec<&str>)> = Vec::new();
        for wish in &self.wishes {
            let first = wish.first();
            let Some(answer) = wish.definite().next() else {
                continue;
            };
            let why = self.untrue(wish, first, answer);
            if let Some(why) = why {
                let text = format!(
                    "{} {} {}: {why} (lines {} to {})",
                    wish.who, first.verb, first.body, first.line, answer.line
                );
                let mut about = vec![wish.id];
                about.extend(first.body["session_id"].as_str());
                blames.push(("an answer is true", text, about));
            }
        }
        for ask in self.asks {
            let Some(answer) = ask.answer else { continue };
            if answer.body.get("unreadable").is_some() {
                blames.push(("an answer can be read", answer.body.to_string(), vec![]));
            }
            if ask.body["request_id"].is_string() {
                continue;
            }
            let Some(id) = ask.body["session_id"].as_str() else {
                continue;
            };
            let known = self.sessions.get(id);
            let own = known.is_some_and(|k| k.driver.is_some() && k.driver == driver_of(ask.who));
            let reason = answer.body["reason"].as_str();
            let refused = answer.body["type"] == "error";
            let lie = match reason.filter(|_| refused) {
                Some("session_not_found") => {
                    own && known.is_some_and(|k| k.known_at.is_some_and(|at| at < ask.line))
                }
                Some("receipt_not_ready") => {
                    known.is_some_and(|k| k.ended_at.is_some_and(|at| at < ask.line))
                }
                Some("outcome_unknown" | "not_ready" | "overloaded") => false,
                Some(_) => true,
                None => !own,
            };
            if lie {
                let text = format!(
                    "{} {} {id}: answered {} (lines {} to {})",
                    ask.who,
                    ask.verb,
                    reason.unwrap_or("as if it were his own"),
                    ask.line,
                    answer.line
                );
                blames.push(("an answer is true", text, vec![id]));
            }
        }
        for (rule, text, about) in blames {
            self.blame(rule, text, &about);
        }
    }

    fn untrue(&self, wish: &Wish<'_>, first: &Ask<'_>, answer: Answer<'_>) -> Option<String> {
        let (from, to) = (first.line, answer.line);
        let body = first.body;
        let driver = driver_of(wish.who).or(body["driver_id"].as_str());
        let session = body["session_id"]
            .as_str()
            .and_then(|id| self.sessions.get(id));
        let own = wish.who.starts_with("op.")
            || session.is_some_and(|s| s.driver.is_some() && s.driver == driver);
        if answer.body["status"] == "accepted" {
            let late = session.is_some_and(|s| s.ended_at.is_some_and(|at| at < from));
            return match first.verb {
                "stop" if !own => Some("somebody else's session was stopped".into()),
                "stop" | "session_end" if late => {
                    Some("accepted, and the session had ended before".into())
                }
                _ => None,
            };
        }
        let cp = body["cp_id"].as_str().unwrap_or_default();
        let connector = body["connector"].as_u64().unwrap_or(1);
        let here = |k: &Known<'_>| k.place == Some((cp, connector));
        let code = answer.body["reason"].as_str().unwrap_or_default();
        let lie = match code {
            "occupied" => !self.perhaps_open(from, to).any(|(_, k)| here(k)),
            "occupied_by_you" => !self
                .perhaps_open(from, to)
                .any(|(_, k)| here(k) && k.driver == driver),
            "limit_reached" => {
                let open = self
                    .perhaps_open(from, to)
                    .filter(|(_, k)| k.driver == driver);
                open.count() < SESSIONS_PER_DRIVER
            }
            "driver_blocked" => {
                !self.op_asked("driver_block", "driver_id", driver.unwrap_or_default(), to)
            }
            "out_of_service" => !self.op_asked("cp_disable", "cp_id", cp, to),
            "faulted" => !self.cabinet_did("fault", cp, to),
            "session_not_found" => {
                own && session.is_some_and(|s| s.known_at.is_some_and(|at| at < from))
            }
            "session_ended" => session.is_some_and(|s| s.open_at.is_some_and(|at| at > to)),
            "session_open" => session.is_some_and(|s| s.ended_at.is_some_and(|at| at < from)),
            "expired" => {
                let expires = body["expires_at"].as_i64().unwrap_or(0);
                answer.unix < expires - CLOCK_MS
            }
            // True or not depends on more than anybody can see.
            "late" if first.verb.starts_with("cp_") => false,
            "request_id_reused"
            | "charge_point_offline"
            | "charger_offline"
            | "no_answer"
            | "clock_unsure"
            | "storage_failed"
            | "limit_below_fee"
            | "rejected_by_charger"
            | "amount_invalid"
            | "occupied_locally" => false,
            // Everything that was asked was well formed and about what exists.
            _ => true,
        };
        lie.then(|| format!("answered {code}"))
    }

    /// Promise 11: no empty list from a stale view.
    fn listings_are_whole(&mut self) {
        let mut blames = Vec::new();
        for ask in self.asks {
            let (Some(answer), Some(driver)) = (ask.answer, driver_of(ask.who)) else {
                continue;
            };
            let shown: BTreeSet<&str> = match ask.verb {
                "status" if ask.body["session_id"].is_null() => ids_in(&answer.body["sessions"]),
                "history" if ask.body["before"].is_null() && answer.body["next"].is_null() => {
                    ids_in(&answer.body["sessions"])
                }
                "list" => answer.body["charge_points"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .flat_map(|cp| ids_in(&cp["connectors"]))
                    .collect(),
                _ => continue,
            };
            if answer.body["type"] == "error" {
                continue;
            }
            for (id, known) in &self.sessions {
                let was_known = known.known_at.is_some_and(|at| at < ask.line);
                let still_open = known.open_at.is_some_and(|at| at > answer.line);
                let due = known.driver == Some(driver)
                    && was_known
                    && (ask.verb == "history" || still_open);
                if due && !shown.contains(id) {
                    let text = format!(
                        "{} {}: session {id} is missing in line {}",
                        ask.who, ask.verb, answer.line
                    );
                    blames.push((text, *id));
                }
            }
        }
        for (text, id) in blames {
            self.blame("a listing is whole", text, &[id]);
        }
    }

    /// Promise 3: what a listing shows, it shows of one moment.
    fn one_at_a_time(&mut self) {
        let mut blames = Vec::new();
        for ask in self.asks {
            let Some(answer) = ask.answer else { continue };
            let mut of_driver: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            let mut at_place: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
            for view in answer.body["sessions"].as_array().into_iter().flatten() {
                // What begins at the cabinet asks nobody. What was stopped may have been given up
                // as unreachable, and then no longer counts.
                if is_over(&view["state"]) || view["origin"] != "app" {
                    continue;
                }
                let Some(id) = view["session_id"].as_str() else {
                    continue;
                };
                if let Some(driver) = view["driver_id"].as_str()
                    && view["state"] != "stopping"
                    && view["stopping"] != true
                {
                    of_driver.entry(driver).or_default().push(id);
                }
                if let Some(place) = view["cp_id"].as_str().zip(view["connector"].as_u64()) {
                    at_place.entry(place).or_default().push(id);
                }
            }
            for (driver, ids) in of_driver {
                if ids.len() > SESSIONS_PER_DRIVER {
                    let text = format!("line {}: {driver} has {} sessions", answer.line, ids.len());
                    blames.push(("one driver has so many sessions", text, ids));
                }
            }
            for ((cp, connector), ids) in at_place {
                if ids.len() > 1 {
                    let text = format!(
                        "line {}: {cp}/{connector} has {} sessions",
                        answer.line,
                        ids.len()
                    );
                    blames.push(("one connector has one session", text, ids));
                }
            }
        }
        for (rule, text, about) in blames {
            self.blame(rule, text, &about);
        }
    }

    /// The last listing of all open sessions before a stage: when it was asked, and what it showed.
    fn last_open(&self, stage: Stage) -> Option<(usize, &'a [Value])> {
        let until = self.stage_line(stage);
        let came = until < self.lines.len();
        self.asks.iter().rev().filter(|_| came).find_map(|ask| {
            let answer = ask.answer.filter(|answer| answer.line < until)?;
            let views = answer.body["sessions"].as_array()?;
            let all = ask.verb == "session_ls" && ask.body["all"] != true;
            all.then_some((ask.line, views.as_slice()))
        })
    }

    /// Within the bound after the last fault.
    fn ended_in_time(&mut self) {
        let Some((_, views)) = self.last_open(Stage::Settle) else {
            return;
        };
        for view in views {
            let id = view["session_id"].as_str().unwrap_or_default();
            let text = format!("session {id} was {} when the time was over", view["state"]);
            self.blame("every session ends in time", text, &[id]);
        }
    }

    /// Promise 6: when everything works again, and before any car goes, what was stopped takes no
    /// more energy.
    fn stop_stops(&mut self) {
        let Some((asked, views)) = self.last_open(Stage::Home) else {
            return;
        };
        let mut blames = Vec::new();
        for wish in &self.wishes {
            let accepted = wish
                .definite()
                .any(|a| a.body["status"] == "accepted" && a.line < asked);
            if !accepted || wish.first().verb != "stop" {
                continue;
            }
            let Some(id) = wish.first().body["session_id"].as_str() else {
                continue;
            };
            let open = views.iter().find(|view| view["session_id"] == id);
            if let Some(view) = open.filter(|view| view["state"] != "idle") {
                let text = format!(
                    "{} {} was accepted, and session {id} is {}",
                    wish.who, wish.id, view["state"]
                );
                blames.push((text, vec![id, wish.id]));
            }
        }
        for (text, about) in blames {
            self.blame("stop stops", text, &about);
        }
    }

    /// Promises 1, 3 and 4, at the end.
    fn everything_ended_once(&mut self) {
        let collected = self.stage_line(Stage::Collect);
        let mut blames = Vec::new();
        for (id, known) in &self.sessions {
            if known.receipts.len() != 1 {
                let text = format!("session {id} has {} receipts", known.receipts.len());
                blames.push(("every session gets one receipt", text, *id));
                continue;
            }
            let receipt = known.receipts[0];
            let late: Vec<&Sighting<'_>> = self
                .sightings
                .get(id)
                .into_iter()
                .flatten()
                .filter(|s| s.asked > collected)
                .collect();
            if late.is_empty() {
                let text = format!("session {id} is in nobody's listing at the end");
                blames.push(("no session is lost", text, *id));
            }
            if let Some(open) = late.iter().find(|s| !is_over(&s.view["state"])) {
                let text = format!("session {id} is {} at the end", open.view["state"]);
                blames.push(("every session ends", text, *id));
            }
            if let Some(last) = late.last()
                && (last.view["energy_mwh"] != receipt["energy_mwh"]
                    || last.view["receipt"] != receipt["number"]
                    || last.view["driver_id"] != receipt["driver_id"])
            {
                let text = format!("session {id} and its receipt do not say the same: {receipt}");
                blames.push(("the receipt is of its session", text, *id));
            }
            let origin = receipt["origin"].as_str().unwrap_or_default();
            if matches!(origin, "app" | "operator") && known.wishes.is_empty() {
                let text = format!("session {id} has a receipt and nobody asked for it");
                blames.push(("no session without a wish", text, *id));
            }
            let spans = receipt["meters"].as_array().into_iter().flatten();
            let counted: i64 = spans.map(|s| int(&s["to_mwh"]) - int(&s["from_mwh"])).sum();
            if counted != int(&receipt["energy_mwh"]) {
                let text = format!("session {id}: the spans are {counted} mWh: {receipt}");
                blames.push(("a receipt adds up", text, *id));
            }
        }
        for ask in self.asks {
            let Some(answer) = ask.answer else { continue };
            let receipt = &answer.body["receipt"];
            let Some(id) = receipt["session_id"].as_str() else {
                continue;
            };
            let copy = self.sessions.get(id).and_then(|k| k.receipts.first());
            if copy.is_some_and(|copy| *copy != receipt) {
                let text = format!(
                    "session {id}: line {} is not what the stream has",
                    answer.line
                );
                blames.push(("a receipt never changes", text, id));
            }
        }
        for (rule, text, id) in blames {
            self.blame(rule, text, &[id]);
        }
    }

    /// Numbers without holes, and no energy sold twice.
    fn receipts_are_in_order(&mut self) {
        let mut numbers: BTreeMap<(&str, u64), Vec<u64>> = BTreeMap::new();
        // By charge point, connector and meter epoch: from, to, whose.
        type Span<'a> = (i64, i64, &'a str);
        let mut spans: BTreeMap<(&str, u64, u64), Vec<Span<'_>>> = BTreeMap::new();
        for (id, known) in &self.sessions {
            for receipt in &known.receipts {
                let cp = receipt["cp_id"].as_str().unwrap_or_default();
                let connector = receipt["connector"].as_u64().unwrap_or(0);
                let number = receipt["number"].as_str().unwrap_or_default();
                let count: Option<u64> = number.rsplit('-').next().and_then(|n| n.parse().ok());
                numbers.entry((cp, connector)).or_default().extend(count);
                for span in receipt["meters"].as_array().into_iter().flatten() {
                    let epoch = span["meter_epoch"].as_u64().unwrap_or(0);
                    spans.entry((cp, connector, epoch)).or_default().push((
                        int(&span["from_mwh"]),
                        int(&span["to_mwh"]),
                        id,
                    ));
                }
            }
        }
        for ((cp, connector), mut all) in numbers {
            all.sort_unstable();
            if all.iter().zip(1..).any(|(number, count)| *number != count) {
                let text = format!("{cp}/{connector} has receipts number {all:?}");
                self.blame("receipts are numbered without holes", text, &[]);
            }
        }
        for ((cp, connector, epoch), mut all) in spans {
            all.sort_unstable();
            for pair in all.windows(2) {
                let [(_, to, one), (from, _, other)] = pair else {
                    continue;
                };
                if from < to {
                    let text = format!(
                        "{cp}/{connector}, meter epoch {epoch}: {one} ends at {to} mWh, {other} begins at {from}"
                    );
                    self.blame("no two sessions at one time", text, &[one, other]);
                }
            }
        }
    }

    fn statuses(&self) -> impl Iterator<Item = (usize, &'a str, &'a Value)> + use<'a> {
        self.lines
            .iter()
            .enumerate()
            .filter_map(|(n, line)| match &line.event {
                Event::Status { cp, body } => Some((n, cp.as_str(), body)),
                _ => None,
            })
    }

    /// Per connector: how far the meter went, what receipts and adjustments say.
    fn energy(&self) -> BTreeMap<(&'a str, u64), Energy> {
        let mut all: BTreeMap<(&str, u64), Energy> = BTreeMap::new();
        for (_, cp, body) in self.statuses() {
            for connector in body["connectors"].as_array().into_iter().flatten() {
                let Some(register) = connector["register_mwh"].as_i64() else {
                    continue;
                };
                let n = connector["id"].as_u64().unwrap_or(0);
                let epoch = connector["meter_epoch"].as_u64().unwrap_or(0);
                let energy = all.entry((cp, n)).or_insert(Energy {
                    first: register,
                    epoch,
                    ..Energy::default()
                });
                energy.last = register;
                energy.was_reset |= energy.epoch != epoch;
            }
        }
        for known in self.sessions.values() {
            let Some(place) = known.place else { continue };
            let energy = all.entry(place).or_default();
            energy.receipts += known
                .receipts
                .iter()
                .map(|r| int(&r["energy_mwh"]))
                .sum::<i64>();
            energy.adjustments += known
                .adjustments
                .iter()
                .map(|a| int(&a["energy_mwh"]))
                .sum::<i64>();
        }
        all
    }

    /// Promise 5.
    fn metered_is_billed(&mut self) {
        for ((cp, connector), energy) in self.energy() {
            if energy.was_reset {
                let text = format!("{cp}/{connector}: the meter was reset, which nobody asked for");
                self.blame("metered is billed", text, &[]);
            }
            let billed = energy.receipts + energy.adjustments;
            if energy.metered() != billed {
                let text = format!(
                    "{cp}/{connector}: metered {} mWh, receipts {} and adjustments {} make {billed}: {} too {}",
                    energy.metered(),
                    energy.receipts,
                    energy.adjustments,
                    (energy.metered() - billed).abs(),
                    if energy.metered() > billed {
                        "few"
                    } else {
                        "many"
                    },
                );
                let ids: Vec<&str> = self
                    .sessions
                    .iter()
                    .filter(|(_, k)| k.place == Some((cp, connector)))
                    .map(|(id, _)| *id)
                    .collect();
                let around = self.gaps(cp, connector);
                self.blame("metered is billed", format!("{text}\n{around}"), &ids[..0]);
            }
        }
    }

    /// The receipts of a connector along its register, to see where something is missing.
    fn gaps(&self, cp: &str, connector: u64) -> String {
        let mut rows: Vec<(i64, i64, String)> = Vec::new();
        for (id, known) in &self.sessions {
            if known.place != Some((cp, connector)) {
                continue;
            }
            for receipt in &known.receipts {
                let adjusted: i64 = known
                    .adjustments
                    .iter()
                    .map(|a| int(&a["energy_mwh"]))
                    .sum();
                for span in receipt["meters"].as_array().into_iter().flatten() {
                    rows.push((
                        int(&span["from_mwh"]),
                        int(&span["to_mwh"]),
                        format!(
                            "{id} {} {} adjusted by {adjusted} {}",
                            receipt["number"], receipt["end"], receipt["flags"]
                        ),
                    ));
                }
            }
        }
        rows.sort();
        let mut last = rows.first().map_or(0, |r| r.0);
        let mut text = String::new();
        for (from, to, what) in rows {
            if from != last {
                text.push_str(&format!("    ---- {} mWh of nobody\n", from - last));
            }
            text.push_str(&format!("    {from} to {to}: {what}\n"));
            last = to;
        }
        text.push_str(&format!("    the last receipt ends at {last}"));
        text
    }

    /// Promise 7, and that nobody complains at the end.
    fn all_is_quiet(&mut self) {
        let collected = self.stage_line(Stage::Collect);
        let mut last: BTreeMap<&str, &Value> = BTreeMap::new();
        for (n, cp, body) in self.statuses() {
            if n > collected {
                last.insert(cp, body);
            }
        }
        for place in self.places {
            let Some(body) = last.get(place.cp.as_str()) else {
                let text = format!("{} does not answer at the end", place.cp);
                self.blame("the cabinet works", text, &[]);
                continue;
            };
            if body["spool_depth"] != 0 {
                let text = format!("{}: {} records wait", place.cp, body["spool_depth"]);
                self.blame("spools are empty at the end", text, &[]);
            }
            for connector in body["connectors"].as_array().into_iter().flatten() {
                if let Some(id) = connector["session_id"].as_str() {
                    let text = format!("{}: session {id} is still there", place.cp);
                    self.blame("every session ends", text, &[id]);
                }
            }
        }
        for line in self.lines {
            if let Event::FaultEnded { fault, note } = &line.event
                && note.contains(SERVED)
            {
                let text = format!("#{fault}: {note}");
                self.blame("nobody is answered from an empty world", text, &[]);
            }
        }
        let mut ready: BTreeMap<usize, (u16, &str)> = BTreeMap::new();
        for line in &self.lines[collected.min(self.lines.len())..] {
            if let Event::Ready {
                central,
                status,
                body,
            } = &line.event
            {
                ready.insert(*central, (*status, body));
            }
        }
        for (central, (status, body)) in ready {
            if status != 200 {
                let text = format!("central-{} is not ready at the end: {body}", central + 1);
                self.blame("every replica serves", text, &[]);
            }
        }
    }

    fn table(&self) -> Vec<(String, String)> {
        let mut table: Vec<(String, String)> = Vec::new();
        let mut row = |name: &str, value: String| table.push((name.into(), value));
        let calm = self.stage_line(Stage::Calm);
        let answered = self.asks.iter().filter(|a| a.answer.is_some()).count();
        row("questions asked", self.asks.len().to_string());
        row("  answered", answered.to_string());
        row("  not in time", (self.asks.len() - answered).to_string());
        row("wishes", self.wishes.len().to_string());
        let unknown = self
            .wishes
            .iter()
            .filter(|w| w.first().line < calm && !w.definite().any(|a| a.line < calm));
        row(
            "  outcome unknown when the faults ended",
            unknown.count().to_string(),
        );
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for wish in &self.wishes {
            let first = wish.first();
            let outcome = match wish.definite().next() {
                None => "never answered".into(),
                Some(a) if a.body["status"] == "accepted" => "accepted".into(),
                Some(a) => a.body["reason"].as_str().unwrap_or("?").to_owned(),
            };
            if matches!(first.verb, "start" | "session_start" | "stop") {
                *outcomes
                    .entry(format!("{} {outcome}", first.verb))
                    .or_default() += 1;
            }
        }
        for (outcome, count) in outcomes {
            row(&format!("  {outcome}"), count.to_string());
        }
        let local = self
            .sessions
            .values()
            .filter(|k| k.wishes.is_empty())
            .count();
        let ended = self
            .sessions
            .values()
            .filter(|k| k.ended_at.is_some())
            .count();
        row(
            "sessions accepted",
            (self.sessions.len() - local).to_string(),
        );
        row("sessions begun at the cabinet", local.to_string());
        row("sessions ended", ended.to_string());
        let receipts: usize = self.sessions.values().map(|k| k.receipts.len()).sum();
        let adjustments: Vec<&&Value> = self
            .sessions
            .values()
            .flat_map(|k| &k.adjustments)
            .collect();
        let of_energy = adjustments.iter().filter(|a| int(&a["energy_mwh"]) != 0);
        row("receipts", receipts.to_string());
        row("adjustments", adjustments.len().to_string());
        row("  of energy", of_energy.count().to_string());
        let energy = self.energy();
        let sum = |of: &dyn Fn(&Energy) -> i64| energy.values().map(of).sum::<i64>();
        row("energy metered, mWh", sum(&Energy::metered).to_string());
        row("energy on receipts, mWh", sum(&|e| e.receipts).to_string());
        row(
            "energy of adjustments, mWh",
            sum(&|e| e.adjustments).to_string(),
        );
        let updates = self
            .lines
            .iter()
            .filter(|l| matches!(l.event, Event::Update { .. }));
        row("updates heard", updates.count().to_string());
        if let (Some(calm), Some(settle)) = (
            self.lines.get(calm),
            self.lines.get(self.stage_line(Stage::Settle)),
        ) {
            let s = (settle.t - calm.t) as f64 / 1_000.0;
            row(
                "seconds from the last fault to the last end",
                format!("{s:.1}"),
            );
        }
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        for line in self.lines {
            if let Event::FaultBegan { kind, .. } = &line.event {
                *faults.entry(kind).or_default() += 1;
            }
        }
        row("faults", faults.values().sum::<usize>().to_string());
        for (kind, count) in faults {
            row(&format!("  {kind}"), count.to_string());
        }
        table
    }
}

impl Known<'_> {
    fn ended(&mut self, line: usize) {
        self.ended_at = Some(self.ended_at.map_or(line, |at| at.min(line)));
    }
}

#[derive(Debug, Default)]
struct Energy {
    first: i64,
    last: i64,
    epoch: u64,
    was_reset: bool,
    receipts: i64,
    adjustments: i64,
}

impl Energy {
    fn metered(&self) -> i64 {
        self.last - self.first
    }
}

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn has_flag(receipt: &Value, flag: &str) -> bool {
    receipt["flags"]
        .as_array()
        .is_some_and(|flags| flags.iter().any(|f| f == flag))
}

fn ids_in(rows: &Value) -> BTreeSet<&str> {
    rows.as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["session_id"].as_str())
        .collect()
}

/// All lines in which one of these ids stands, in short.
pub fn lines_about(lines: &[Line], about: &[String], most: usize) -> Vec<String> {
    lines
        .iter()
        .enumerate()
        .filter_map(|(n, line)| {
            let text = serde_json::to_string(&line.event).ok()?;
            about.iter().any(|id| text.contains(id.as_str())).then(|| {
                let short: String = text.chars().take(600).collect();
                format!("{n:>7} {:>9.3}  {short}", line.t as f64 / 1_000.0)
            })
        })
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SESSION: &str = "0199c8f1-7a00-7abc-8def-0123456789ab";

    /// What people see of one good session.
    fn good() -> Vec<Event> {
        let place = Place {
            cp: "CP-001".into(),
            connectors: 1,
            unruly: false,
            clocked: false,
        };
        let view = |state: &str, pos: u64| {
            let receipt = (state == "completed").then_some("CP-001-1-000001");
            let energy = if receipt.is_some() { 700 } else { 300 };
            json!({"sessions": [{
                "session_id": SESSION, "driver_id": "d", "cp_id": "CP-001", "connector": 1,
                "state": state, "pos": pos, "energy_mwh": energy, "receipt": receipt,
            }]})
        };
        vec![
            Event::Began {
                seed: 1,
                command: String::new(),
                charge_points: vec![place],
            },
            status(1_000, 0),
            Event::Stage { stage: Stage::Mess },
            asked(1, "start", wish("r-1")),
            answered(1, accepted()),
            asked(2, "status", json!({})),
            answered(2, view("charging", 5)),
            asked(3, "start", wish("r-2")),
            answered(3, json!({"status": "denied", "reason": "occupied"})),
            Event::Stage { stage: Stage::Calm },
            asked(4, "start", wish("r-1")),
            answered(4, accepted()),
            asked(5, "status", json!({"session_id": SESSION})),
            answered(5, view("completed", 9)),
            Event::Stage {
                stage: Stage::Collect,
            },
            asked(6, "history", json!({})),
            answered(6, view("completed", 9)),
            status(1_700, 0),
            ready(200),
            cdr(),
            Event::Stage { stage: Stage::Over },
        ]
    }

    fn wish(id: &str) -> Value {
        json!({"request_id": id, "expires_at": 9_000_000, "cp_id": "CP-001", "connector": 1})
    }

    fn accepted() -> Value {
        json!({"status": "accepted", "session_id": SESSION, "cp_id": "CP-001", "connector": 1})
    }

    fn asked(ask: u64, verb: &str, body: Value) -> Event {
        Event::Asked {
            ask,
            who: "driver.d".into(),
            verb: verb.into(),
            body,
        }
    }

    fn answered(ask: u64, body: Value) -> Event {
        Event::Answered { ask, body }
    }

    fn status(register: i64, spool_depth: u64) -> Event {
        Event::Status {
            cp: "CP-001".into(),
            body: json!({"spool_depth": spool_depth, "connectors": [
                {"id": 1, "register_mwh": register, "meter_epoch": 1, "session_id": null},
            ]}),
        }
    }

    fn ready(status: u16) -> Event {
        Event::Ready {
            central: 0,
            status,
            body: String::new(),
        }
    }

    /// A listing of sessions by id and connector.
    fn open(sessions: &[(&str, u64)]) -> Value {
        let views: Vec<Value> = sessions
            .iter()
            .map(|(id, connector)| {
                json!({
                    "session_id": id, "driver_id": "d", "cp_id": "CP-001", "connector": connector,
                    "origin": "app", "state": "charging", "stopping": false, "pos": 5,
                })
            })
            .collect();
        json!({ "sessions": views })
    }

    fn cdr() -> Event {
        Event::Cdr {
            subject: format!("ev.v1.cdr.{SESSION}"),
            body: json!({
                "session_id": SESSION, "driver_id": "d", "cp_id": "CP-001", "connector": 1,
                "number": "CP-001-1-000001", "origin": "app", "energy_mwh": 700, "flags": [],
                "meters": [{"meter_epoch": 1, "from_mwh": 1_000, "to_mwh": 1_700}],
            }),
        }
    }

    fn rules(events: Vec<Event>) -> BTreeSet<&'static str> {
        let lines: Vec<Line> = events
            .into_iter()
            .zip(0..)
            .map(|(event, t)| Line {
                t,
                unix: i64::try_from(t).unwrap_or(0),
                event,
            })
            .collect();
        judge(&lines).violations.iter().map(|v| v.rule).collect()
    }

    fn changed(change: impl FnOnce(&mut Vec<Event>)) -> BTreeSet<&'static str> {
        let mut events = good();
        change(&mut events);
        rules(events)
    }

    #[test]
    fn a_good_history_breaks_nothing() {
        assert_eq!(rules(good()), BTreeSet::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        type Change = fn(&mut Vec<Event>);
        let cases: [(&str, Change); 21] = [
            ("every session gets one receipt", |e| {
                e.remove(19);
            }),
            ("every session gets one receipt", |e| e.insert(19, cdr())),
            ("no session is lost", |e| {
                e[16] = answered(6, json!({"sessions": []}));
            }),
            ("a listing is whole", |e| {
                e[16] = answered(6, json!({"sessions": []}));
            }),
            ("a listing is whole", |e| {
                // Seen open by a question that is asked after this answer.
                e.insert(5, asked(9, "status", json!({})));
                e.insert(6, answered(9, json!({"sessions": []})));
            }),
            ("metered is billed", |e| e[17] = status(1_701, 0)),
            ("spools are empty at the end", |e| e[17] = status(1_700, 3)),
            ("every replica serves", |e| e[18] = ready(503)),
            ("nobody is answered from an empty world", |e| {
                let note = format!("failed: {SERVED}: [1]");
                e.insert(8, Event::FaultEnded { fault: 1, note });
            }),
            ("the same request gets the same answer", |e| {
                e[11] = answered(4, json!({"status": "denied", "reason": "occupied"}));
            }),
            ("every wish is settled", |e| {
                e[8] = answered(3, json!({"status": "unknown", "reason": "not_ready"}));
            }),
            ("no answer is older than what was heard before", |e| {
                if let Event::Answered { body, .. } = &mut e[16] {
                    body["sessions"][0]["pos"] = 8.into();
                }
            }),
            ("an ended session never changes", |e| {
                if let Event::Answered { body, .. } = &mut e[16] {
                    body["sessions"][0]["energy_mwh"] = 701.into();
                }
            }),
            // Free the whole time: asked before anything had begun.
            ("an answer is true", |e| {
                e.swap(3, 7);
                e.swap(4, 8);
            }),
            ("an answer is true", |e| {
                e[13] = answered(5, json!({"type": "error", "reason": "session_not_found"}));
            }),
            ("a session answers one wish", |e| {
                e[8] = answered(3, accepted())
            }),
            ("accepted carries the session id", |e| {
                e[8] = answered(3, json!({"status": "accepted"}));
            }),
            ("one driver has so many sessions", |e| {
                e[6] = answered(2, open(&[("a", 1), ("b", 2), ("c", 3)]));
            }),
            ("one connector has one session", |e| {
                e[6] = answered(2, open(&[("a", 1), ("b", 1)]));
            }),
            ("stop stops", |e| {
                let stop = json!({"request_id": "s-1", "session_id": SESSION});
                let lines = [
                    asked(7, "stop", stop),
                    answered(7, json!({"status": "accepted"})),
                    asked(8, "session_ls", json!({})),
                    answered(8, open(&[(SESSION, 1)])),
                    Event::Stage { stage: Stage::Home },
                ];
                e.splice(10..10, lines);
            }),
            ("every session ends in time", |e| {
                let lines = [
                    asked(8, "session_ls", json!({})),
                    answered(8, open(&[(SESSION, 1)])),
                    Event::Stage {
                        stage: Stage::Settle,
                    },
                ];
                e.splice(10..10, lines);
            }),
        ];
        for (rule, change) in cases {
            let found = changed(change);
            assert!(found.contains(rule), "{rule} was not found, but {found:?}");
        }
    }
}
