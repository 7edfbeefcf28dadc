//! Watching a session: which news is new, when to ask, when it is over. No I/O and no clock: time
//! comes in milliseconds of any monotonic clock.
//!
//! Updates are numbered by ledger position and name the position before theirs. The status is the
//! truth that everything is measured against; updates and live values only make it arrive sooner.
//! An update can be lost, the last one too, so the status is also asked for when nothing is heard.

use ev_contract::{
    connector::Phase,
    ids::{CpId, DriverId, SessionId},
    time::UnixMs,
    v1::{DriverUpdate, Live, SessionView, UpdateType},
};

/// Nothing heard for so long: ask. Live values come every second or so while charging.
pub const SILENCE_MS: u64 = 5_000;

/// Live values heard, but nothing of the ledger for so long: ask all the same, since the update
/// that says "ended" or "stopping" may be the one that was lost.
pub const LEDGER_SILENCE_MS: u64 = 30_000;

/// Between two questions, whatever the reasons.
pub const POLL_GAP_MS: u64 = 500;

/// An update said "ended" and no status confirms it for so long: end with what the update said.
pub const END_WAIT_MS: u64 = 15_000;

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// An update of the session.
    Update(Box<DriverUpdate>),
    /// Live values.
    Live(Box<Live>),
    /// An answer to [`Effect::Poll`], with central's time.
    Status(Box<SessionView>, UnixMs),
    /// [`Effect::Poll`] got no answer.
    PollFailed(String),
    /// The connection to the server is lost (false) or back (true).
    Link(bool),
    /// The server has closed the connection and does not let us in again.
    Refused(String),
    /// Time has passed.
    Tick,
}

/// What a watcher does.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask for the status.
    Poll,
    /// Tell whoever watches.
    Tell(News),
    /// The session has ended, and this is how. The last effect ever.
    End(Box<SessionView>),
}

/// What whoever watches is told.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// How the session stands.
    Seen(Box<Seen>),
    /// Nothing can be heard of it; the session itself goes on.
    Silent {
        /// Why, as far as it is known.
        why: String,
    },
    /// Another charge point than the session's sends values of it: they are passed over. Told once.
    Foreign {
        /// Which.
        cp: CpId,
    },
    /// Time has passed: whoever shows ages shows them anew.
    Tick,
}

/// Where a piece of news comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Central's answer.
    Status,
    /// Central's update.
    Update,
    /// The charge point, live.
    Live,
}

/// How a session stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Where this piece of news comes from.
    pub source: Source,
    /// What the ledger says, updates applied.
    pub view: SessionView,
    /// The newest live values.
    pub live: Option<Live>,
    /// How old the values were on arrival.
    pub age_ms: Option<i64>,
}

impl Seen {
    /// How far it is, by the newest word. Live values speak only of what the charge point decides.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let of_the_charge_point = matches!(
            self.view.state,
            Phase::Preparing | Phase::Charging | Phase::SuspendedEv | Phase::SuspendedEvse
        );
        match &self.live {
            Some(live) if self.source == Source::Live && of_the_charge_point => live.phase,
            _ => self.view.state,
        }
    }

    /// Energy so far, by whoever knows of more.
    #[must_use]
    pub fn energy(&self) -> ev_contract::units::Mwh {
        let live = self.live.as_ref().map(|l| l.energy_mwh).unwrap_or_default();
        self.view.energy_mwh.max(live)
    }

    /// Power now, where it is known.
    #[must_use]
    pub fn power(&self) -> Option<ev_contract::units::MilliWatt> {
        match &self.live {
            Some(live) if self.source != Source::Status => live.power_mw,
            _ => self.view.power_mw,
        }
    }

    /// State of charge in percent, where it is known.
    #[must_use]
    pub fn soc_pct(&self) -> Option<u8> {
        let live = self.live.as_ref().and_then(|l| l.soc_pct);
        live.or(self.view.soc_pct)
    }
}

/// Watches one session.
#[derive(Debug)]
pub struct Watcher {
    driver: DriverId,
    session: SessionId,
    view: Option<SessionView>,
    live: Option<Live>,
    /// The highest position that any update named: the status must reach it.
    wanted: u64,
    heard_at_ms: u64,
    ledger_heard_at_ms: u64,
    polled_at_ms: Option<u64>,
    polling: bool,
    want_poll: bool,
    silent: bool,
    told_foreign: bool,
    end_heard_at_ms: Option<u64>,
    over: bool,
}

impl Watcher {
    /// Begins to watch. Subscribe first; the first effect is a question.
    #[must_use]
    pub const fn new(driver: DriverId, session: SessionId, now_ms: u64) -> Self {
        Self {
            driver,
            session,
            view: None,
            live: None,
            wanted: 0,
            heard_at_ms: now_ms,
            ledger_heard_at_ms: now_ms,
            polled_at_ms: None,
            polling: false,
            want_poll: true,
            silent: false,
            told_foreign: false,
            end_heard_at_ms: None,
            over: false,
        }
    }

    /// What the ledger says, as far as it was heard.
    #[must_use]
    pub const fn view(&self) -> Option<&SessionView> {
        self.view.as_ref()
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Effect> {
        if self.over {
            return Vec::new();
        }
        let mut effects = Vec::new();
        match input {
            Input::Update(update) => self.update(&update, now_ms, &mut effects),
            Input::Live(live) => self.live(*live, now_ms, &mut effects),
            Input::Status(view, ts) => self.status(*view, ts, now_ms, &mut effects),
            Input::PollFailed(why) => {
                self.polling = false;
                self.fall_silent(why, &mut effects);
            }
            Input::Link(true) => self.want_poll = true,
            Input::Link(false) => {
                self.fall_silent("the connection is lost".to_owned(), &mut effects);
            }
            Input::Refused(why) => {
                // The answer to a question that cannot be asked ends the watch.
                self.want_poll = true;
                self.fall_silent(why, &mut effects);
            }
            Input::Tick => self.tick(now_ms, &mut effects),
        }
        let gap_over = self
            .polled_at_ms
            .is_none_or(|at| now_ms.saturating_sub(at) >= POLL_GAP_MS);
        if self.want_poll && !self.polling && gap_over && !self.over {
            self.want_poll = false;
            self.polling = true;
            self.polled_at_ms = Some(now_ms);
            effects.push(Effect::Poll);
        }
        effects
    }

    fn update(&mut self, update: &DriverUpdate, now_ms: u64, effects: &mut Vec<Effect>) {
        let for_us = update
            .to
            .as_deref()
            .is_none_or(|to| to == self.driver.as_str())
            && update.driver_id == self.driver
            && update.session_id.is_none_or(|id| id == self.session);
        if !for_us {
            return;
        }
        // A kind of a newer peer, or an update of an older one without a number: something has
        // happened, and only the status can say what.
        let (UpdateType::Update, Some(pos)) = (update.kind, update.pos) else {
            self.want_poll = true;
            return;
        };
        let Some(view) = &mut self.view else {
            self.wanted = self.wanted.max(pos);
            self.want_poll = true;
            return;
        };
        if pos <= view.pos {
            return;
        }
        if update.prev != Some(view.pos) {
            self.wanted = self.wanted.max(pos);
            self.want_poll = true;
        }
        apply(update, pos, view);
        // When energy began is in no update, and time and costs are reckoned from it.
        self.want_poll |= view.started_at.is_none() && has_energy(view.state);
        if view.state.is_ended() {
            // The update carries no receipt number and no end time: the status has the last word.
            self.end_heard_at_ms.get_or_insert(now_ms);
            self.want_poll = true;
        }
        self.ledger_heard_at_ms = now_ms;
        self.hear(now_ms);
        self.tell(Source::Update, None, effects);
    }

    fn live(&mut self, live: Live, now_ms: u64, effects: &mut Vec<Effect>) {
        let for_us = live.to == self.driver.as_str() && live.session_id == self.session;
        let older = self.live.as_ref().is_some_and(|l| live.ts <= l.ts);
        // Every charge point can send values for every driver. Whose word counts the ledger says:
        // until it is known, nobody's does.
        let Some(view) = self.view.as_ref().filter(|v| !v.state.is_ended()) else {
            return;
        };
        if !for_us {
            return;
        }
        if live.cp_id != view.cp_id {
            if !self.told_foreign {
                self.told_foreign = true;
                effects.push(Effect::Tell(News::Foreign { cp: live.cp_id }));
            }
            return;
        }
        if older {
            return;
        }
        self.hear(now_ms);
        let before = self.live.as_ref().map(|l| l.phase);
        let by_ledger = self.view.as_ref().map(|v| v.state);
        if before != Some(live.phase) && by_ledger != Some(live.phase) {
            self.want_poll = true;
        }
        self.live = Some(live);
        self.tell(Source::Live, Some(0), effects);
    }

    fn status(&mut self, view: SessionView, ts: UnixMs, now_ms: u64, effects: &mut Vec<Effect>) {
        self.polling = false;
        if view.session_id != self.session {
            return;
        }
        self.ledger_heard_at_ms = now_ms;
        let was_silent = self.silent;
        self.hear(now_ms);
        if self.view.as_ref().is_some_and(|known| view.pos < known.pos) {
            // Asked before the newest update was sent. What that said stands.
            self.want_poll = true;
            return;
        }
        if view.pos < self.wanted {
            self.want_poll = true;
        }
        let same = self.view.as_ref() == Some(&view);
        let ended = view.state.is_ended();
        let age_ms = view.last_value_at.map(|at| ts.ms_since(at).max(0));
        self.view = Some(view.clone());
        // After silence, that nothing has changed is news.
        if !same || was_silent {
            self.tell(Source::Status, age_ms, effects);
        }
        if ended {
            self.over = true;
            effects.push(Effect::End(Box::new(view)));
        }
    }

    fn tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        if now_ms.saturating_sub(self.heard_at_ms) >= SILENCE_MS
            || now_ms.saturating_sub(self.ledger_heard_at_ms) >= LEDGER_SILENCE_MS
        {
            let asked_lately = self
                .polled_at_ms
                .is_some_and(|at| now_ms.saturating_sub(at) < SILENCE_MS);
            self.want_poll |= !asked_lately;
        }
        let overdue = self
            .end_heard_at_ms
            .is_some_and(|at| now_ms.saturating_sub(at) >= END_WAIT_MS);
        match &self.view {
            Some(view) if overdue => {
                self.over = true;
                effects.push(Effect::End(Box::new(view.clone())));
            }
            _ => effects.push(Effect::Tell(News::Tick)),
        }
    }

    const fn hear(&mut self, now_ms: u64) {
        self.heard_at_ms = now_ms;
        self.silent = false;
    }

    fn fall_silent(&mut self, why: String, effects: &mut Vec<Effect>) {
        if !self.silent {
            self.silent = true;
            effects.push(Effect::Tell(News::Silent { why }));
        }
    }

    fn tell(&self, source: Source, age_ms: Option<i64>, effects: &mut Vec<Effect>) {
        if let Some(view) = &self.view {
            effects.push(Effect::Tell(News::Seen(Box::new(Seen {
                source,
                view: view.clone(),
                live: self.live.clone(),
                age_ms,
            }))));
        }
    }
}

/// Whether energy has begun to flow, and may flow again.
const fn has_energy(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Charging | Phase::SuspendedEv | Phase::SuspendedEvse
    )
}

/// What an update says goes into the view; what it leaves out stays.
fn apply(update: &DriverUpdate, pos: u64, view: &mut SessionView) {
    view.pos = pos;
    view.status = update.status;
    view.stopping = update.stopping;
    view.state = match (update.phase, update.status) {
        (Some(phase), _) => phase,
        (None, ev_contract::v1::Status::Completed) => Phase::Completed,
        (None, ev_contract::v1::Status::Failed) => Phase::Failed,
        (None, _) => view.state,
    };
    if let Some(energy) = update.energy_mwh {
        view.energy_mwh = energy;
    }
    if let Some(cost) = update.cost {
        view.cost = cost;
    }
    if let Some(currency) = update.currency {
        view.currency = currency;
    }
    view.standing_costs_from = update.standing_costs_from;
    view.soc_pct = update.soc_pct.or(view.soc_pct);
    view.reason.clone_from(&update.reason);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ev_contract::{
        ids::ConnectorId,
        units::{Amount, Currency, MilliWatt, Mwh},
        v1::{Limits, Origin, Status},
        wire::Tag,
    };

    const SESSION: &str = "0190a0b0-1111-7222-8333-444455556666";

    pub(crate) fn view(pos: u64, state: Phase) -> SessionView {
        SessionView {
            session_id: SESSION.parse().unwrap(),
            driver_id: Some("alice".parse().unwrap()),
            cp_id: "CP-001".parse().unwrap(),
            connector: ConnectorId(1),
            site_id: "depot".parse().unwrap(),
            time_zone: "Europe/Berlin".into(),
            state,
            status: match state {
                Phase::Completed => Status::Completed,
                Phase::Failed => Status::Failed,
                Phase::Preparing => Status::Accepted,
                _ => Status::InProgress,
            },
            origin: Origin::App,
            stopping: false,
            reachable: true,
            energy_mwh: Mwh(1_234_567),
            cost: Amount::ZERO,
            currency: Currency::EUR,
            standing_costs_from: None,
            tariff_id: "base".parse().unwrap(),
            tariff_version: 1,
            limits: Limits::default(),
            accepted_at: UnixMs(1_700_000_000_000),
            started_at: Some(UnixMs(1_700_000_010_000)),
            energy_ended_at: None,
            ended_at: None,
            last_value_at: Some(UnixMs(1_700_000_060_000)),
            power_mw: Some(MilliWatt(11_000_000)),
            soc_pct: Some(56),
            reason: None,
            end: None,
            receipt: None,
            waits: None,
            pos,
        }
    }

    fn update(pos: u64, prev: u64, phase: Phase) -> Input {
        Input::Update(Box::new(DriverUpdate {
            kind: UpdateType::Update,
            to: Some("alice".into()),
            request_id: "r-1".parse().unwrap(),
            driver_id: "alice".parse().unwrap(),
            cp_id: "CP-001".into(),
            status: view(0, phase).status,
            reason: None,
            session_id: Some(SESSION.parse().unwrap()),
            ts: UnixMs(0),
            connector: None,
            error: None,
            tariff: None,
            phase: Some(phase),
            stopping: false,
            energy_mwh: None,
            cost: None,
            currency: None,
            standing_costs_from: None,
            soc_pct: None,
            pos: Some(pos),
            prev: Some(prev),
        }))
    }

    fn live(ts: i64, phase: Phase) -> Input {
        Input::Live(Box::new(Live {
            tag: Tag::new(),
            to: "alice".into(),
            session_id: SESSION.parse().unwrap(),
            cp_id: "CP-001".parse().unwrap(),
            connector: ConnectorId(1),
            ts: UnixMs(ts),
            phase,
            energy_mwh: Mwh(2_000_000),
            power_mw: Some(MilliWatt(7_400_000)),
            soc_pct: None,
        }))
    }

    fn status(pos: u64, state: Phase) -> Input {
        Input::Status(Box::new(view(pos, state)), UnixMs(1_700_000_062_000))
    }

    /// A watcher that has its first status, at position 10, at time 0.
    fn watching(state: Phase) -> Watcher {
        let mut w = Watcher::new("alice".parse().unwrap(), SESSION.parse().unwrap(), 0);
        assert_eq!(words(&w.step(Input::Tick, 0)), ["tick", "poll"]);
        let told = words(&w.step(status(10, state), 0));
        assert_eq!(told, [format!("status {state}")]);
        w
    }

    fn words(effects: &[Effect]) -> Vec<String> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Poll => "poll".to_owned(),
                Effect::Tell(News::Tick) => "tick".to_owned(),
                Effect::Tell(News::Silent { .. }) => "silent".to_owned(),
                Effect::Tell(News::Foreign { cp }) => format!("foreign {cp}"),
                Effect::Tell(News::Seen(seen)) => {
                    let source = match seen.source {
                        Source::Status => "status",
                        Source::Update => "update",
                        Source::Live => "live",
                    };
                    format!("{source} {}", seen.phase())
                }
                Effect::End(view) => format!("end {}", view.state),
            })
            .collect()
    }

    #[test]
    fn when_energy_began_is_asked_for() {
        let mut w = Watcher::new("alice".parse().unwrap(), SESSION.parse().unwrap(), 0);
        w.step(Input::Tick, 0);
        let mut early = view(10, Phase::Preparing);
        early.started_at = None;
        w.step(Input::Status(Box::new(early), UnixMs(0)), 0);
        assert_eq!(
            words(&w.step(update(12, 10, Phase::Charging), 1_000)),
            ["update charging", "poll"]
        );
        w.step(status(12, Phase::Charging), 1_100);
        assert_eq!(
            words(&w.step(update(13, 12, Phase::SuspendedEv), 2_000)),
            ["update suspended_ev"]
        );
    }

    #[test]
    fn updates_in_order_need_no_question() {
        let mut w = watching(Phase::Preparing);
        assert_eq!(
            words(&w.step(update(12, 10, Phase::Charging), 1_000)),
            ["update charging"]
        );
        assert_eq!(
            words(&w.step(update(15, 12, Phase::SuspendedEv), 2_000)),
            ["update suspended_ev"]
        );
    }

    #[test]
    fn a_hole_is_shown_and_asked_about() {
        let mut w = watching(Phase::Preparing);
        assert_eq!(
            words(&w.step(update(15, 12, Phase::SuspendedEv), 1_000)),
            ["update suspended_ev", "poll"]
        );
        // The answer was decided before the update: the update stands, and the question again.
        assert_eq!(words(&w.step(status(12, Phase::Charging), 1_100)), [""; 0]);
        assert_eq!(words(&w.step(Input::Tick, 2_000)), ["tick", "poll"]);
        let after = words(&w.step(status(15, Phase::SuspendedEv), 2_100));
        assert!(after.iter().all(|w| w.starts_with("status")), "{after:?}");
    }

    #[test]
    fn a_replayed_or_foreign_update_changes_nothing() {
        let mut w = watching(Phase::Charging);
        assert!(w.step(update(10, 8, Phase::Preparing), 1_000).is_empty());
        assert!(w.step(update(9, 8, Phase::Preparing), 1_000).is_empty());
        let Input::Update(mut to_bob) = update(20, 10, Phase::Completed) else {
            unreachable!()
        };
        to_bob.to = Some("bob".into());
        assert!(w.step(Input::Update(to_bob.clone()), 1_000).is_empty());
        to_bob.to = None;
        to_bob.session_id = Some("0190a0b0-9999-7222-8333-444455556666".parse().unwrap());
        assert!(w.step(Input::Update(to_bob), 1_000).is_empty());
        assert_eq!(w.view().map(|v| v.state), Some(Phase::Charging));
    }

    #[test]
    fn an_update_of_an_older_peer_makes_it_ask() {
        let mut w = watching(Phase::Preparing);
        let older: DriverUpdate = serde_json::from_str(
            r#"{"request_id":"r-1","driver_id":"alice","cp_id":"CP-001","status":"in_progress","ts":1}"#,
        )
        .unwrap();
        assert_eq!(
            words(&w.step(Input::Update(Box::new(older)), 1_000)),
            ["poll"]
        );
    }

    #[test]
    fn updates_before_the_first_status_are_not_lost() {
        let mut w = Watcher::new("alice".parse().unwrap(), SESSION.parse().unwrap(), 0);
        assert_eq!(words(&w.step(Input::Tick, 0)), ["tick", "poll"]);
        assert!(w.step(update(12, 10, Phase::Charging), 10).is_empty());
        // This status was decided before that update.
        assert_eq!(
            words(&w.step(status(10, Phase::Preparing), 20)),
            ["status preparing"]
        );
        assert_eq!(words(&w.step(Input::Tick, 1_000)), ["tick", "poll"]);
        assert_eq!(
            words(&w.step(status(12, Phase::Charging), 1_010)),
            ["status charging"]
        );
        assert_eq!(words(&w.step(Input::Tick, 2_000)), ["tick"]);
    }

    #[test]
    fn silence_makes_it_ask_again_and_again() {
        let mut w = watching(Phase::SuspendedEv);
        assert_eq!(words(&w.step(Input::Tick, SILENCE_MS - 1)), ["tick"]);
        assert_eq!(words(&w.step(Input::Tick, SILENCE_MS)), ["tick", "poll"]);
        let failed = w.step(Input::PollFailed("no answer".into()), SILENCE_MS + 10);
        assert_eq!(words(&failed), ["silent"]);
        assert_eq!(
            words(&w.step(Input::Tick, 2 * SILENCE_MS)),
            ["tick", "poll"]
        );
        // Said once, not every five seconds.
        assert!(
            w.step(Input::PollFailed("no answer".into()), 2 * SILENCE_MS + 10)
                .is_empty()
        );
        assert_eq!(
            words(&w.step(status(10, Phase::SuspendedEv), 2 * SILENCE_MS + 20)),
            ["status suspended_ev"]
        );
        assert!(
            w.step(status(10, Phase::SuspendedEv), 2 * SILENCE_MS + 30)
                .is_empty()
        );
        let failed = w.step(Input::PollFailed("no answer".into()), 3 * SILENCE_MS);
        assert_eq!(words(&failed), ["silent"]);
    }

    #[test]
    fn a_lost_last_update_is_found_although_live_values_were_heard() {
        let mut w = watching(Phase::Charging);
        let mut asked = false;
        let mut now = 0;
        while now < LEDGER_SILENCE_MS + 1_000 {
            now += 1_000;
            let heard = w.step(live(i64::try_from(now).unwrap(), Phase::Charging), now);
            assert_eq!(words(&heard), ["live charging"]);
            asked |= words(&w.step(Input::Tick, now)).contains(&"poll".to_owned());
        }
        assert!(asked);
        assert_eq!(
            words(&w.step(status(20, Phase::Completed), now)),
            ["status completed", "end completed"]
        );
    }

    #[test]
    fn old_and_foreign_live_values_are_passed_over() {
        let mut w = watching(Phase::Charging);
        assert_eq!(
            words(&w.step(live(5, Phase::Charging), 1)),
            ["live charging"]
        );
        assert!(w.step(live(5, Phase::Charging), 2).is_empty());
        assert!(w.step(live(4, Phase::Charging), 3).is_empty());
        let Input::Live(mut foreign) = live(9, Phase::Charging) else {
            unreachable!()
        };
        foreign.to = "bob".into();
        assert!(w.step(Input::Live(foreign), 4).is_empty());
    }

    #[test]
    fn values_of_another_charge_point_are_passed_over_and_told_once() {
        let forged = |ts| {
            let Input::Live(mut live) = live(ts, Phase::SuspendedEv) else {
                unreachable!()
            };
            live.cp_id = "CP-666".parse().unwrap();
            live.energy_mwh = Mwh(u64::MAX / 2);
            Input::Live(live)
        };
        let mut w = Watcher::new("alice".parse().unwrap(), SESSION.parse().unwrap(), 0);
        // Where the session is must be known first.
        assert_eq!(words(&w.step(forged(1), 0)), ["poll"]);
        w.step(status(10, Phase::Charging), 0);
        assert_eq!(words(&w.step(forged(i64::MAX), 1)), ["foreign CP-666"]);
        assert!(w.step(forged(i64::MAX), 2).is_empty());
        // Nor do they keep out what is true.
        let effects = w.step(live(5, Phase::Charging), 3);
        assert_eq!(words(&effects), ["live charging"]);
        let Some(Effect::Tell(News::Seen(seen))) = effects.first() else {
            panic!("{effects:?}")
        };
        assert_eq!(seen.energy(), Mwh(2_000_000));
    }

    #[test]
    fn a_refused_connection_is_told_and_asked_about() {
        let mut w = watching(Phase::Charging);
        let effects = w.step(Input::Refused("revoked".into()), 1_000);
        assert_eq!(words(&effects), ["silent", "poll"]);
        assert!(w.step(Input::Link(false), 1_001).is_empty());
    }

    #[test]
    fn a_live_phase_that_the_ledger_does_not_know_yet_makes_it_ask_once() {
        let mut w = watching(Phase::Preparing);
        assert_eq!(
            words(&w.step(live(1, Phase::Charging), 1_000)),
            ["live charging", "poll"]
        );
        assert_eq!(
            words(&w.step(live(2, Phase::Charging), 2_000)),
            ["live charging"]
        );
    }

    #[test]
    fn it_is_over_when_the_status_says_so_or_the_update_stays_unconfirmed() {
        let mut w = watching(Phase::Charging);
        assert_eq!(
            words(&w.step(update(20, 10, Phase::Completed), 1_000)),
            ["update completed", "poll"]
        );
        let ended = words(&w.step(status(20, Phase::Completed), 1_010));
        assert_eq!(ended.last().map(String::as_str), Some("end completed"));
        assert!(w.step(Input::Tick, 99_000).is_empty());

        let mut w = watching(Phase::Charging);
        w.step(update(20, 10, Phase::Failed), 1_000);
        w.step(Input::PollFailed("no answer".into()), 2_000);
        assert_eq!(
            words(&w.step(Input::Tick, 1_000 + END_WAIT_MS)),
            ["end failed"]
        );
    }

    #[test]
    fn energy_never_falls_back_to_what_the_ledger_knew() {
        let mut w = watching(Phase::Charging);
        let effects = w.step(live(1, Phase::Charging), 10);
        let Some(Effect::Tell(News::Seen(seen))) = effects.first() else {
            panic!("{effects:?}")
        };
        assert_eq!(seen.energy(), Mwh(2_000_000));
        assert_eq!(seen.power(), Some(MilliWatt(7_400_000)));
        let effects = w.step(update(12, 10, Phase::SuspendedEv), 20);
        let Some(Effect::Tell(News::Seen(seen))) = effects.first() else {
            panic!("{effects:?}")
        };
        assert_eq!(seen.energy(), Mwh(2_000_000));
    }
}
