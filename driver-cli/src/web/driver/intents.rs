//! What the driver wants, each wish once: however often a button is pressed, and from how many
//! tabs, it is the same wish until it has come to its end. No I/O and no clock.

use std::collections::{HashMap, HashSet, VecDeque};

use ev_contract::{
    ids::{ConnectorId, CpId, RequestId, SessionId},
    limits::{CLOCK_TOLERANCE_MS, REQUEST_LIFE_MS_MAX},
    time::UnixMs,
};

use crate::{command::Command, web::outcome::Outcome};

/// Most wishes that are remembered. A driver has a few sessions at once; each is a start and a stop.
pub const INTENTS_MAX: usize = 64;

/// Sessions of which it is remembered that they have ended, against answers that are older.
const ENDED_MAX: usize = 64;

/// An outcome that is not known after so long never will be: central decides no request that is older.
/// Its session is among the open ones, or there is none.
const UNKNOWN_MS_MAX: i64 = REQUEST_LIFE_MS_MAX + CLOCK_TOLERANCE_MS;

/// What a wish is about: it, and not the limits that come with it, tells two wishes apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A session on this connector.
    Start(String, Option<i64>),
    /// The end of this session.
    Stop(String),
}

impl Key {
    /// The key of a driver's command; none for others.
    #[must_use]
    pub fn of(command: &Command) -> Option<Self> {
        match command {
            Command::Start(request) => Some(Self::Start(request.cp_id.clone(), request.connector)),
            Command::Stop(request) => Some(Self::Stop(request.session_id.clone())),
            _ => None,
        }
    }
}

/// What to do about a press.
#[derive(Debug)]
pub enum Press {
    /// Send this, under this request id if there is one: the first press of the wish, or a repeat
    /// of one whose outcome is not known.
    Send(Box<Command>, Option<RequestId>),
    /// The first press is under way: its outcome is this one's, too.
    Wait,
    /// The first press has been answered, and what it began goes on.
    Answered(Outcome),
    /// There are [`INTENTS_MAX`] wishes, none of which has ended.
    Full,
}

#[derive(Debug)]
struct Intent {
    wish: Command,
    request_id: Option<RequestId>,
    stage: Stage,
    /// Its place among everything that was pressed and answered.
    nth: u64,
    /// When it was pressed first.
    at: UnixMs,
}

impl Intent {
    /// The session that it has begun, or is to end.
    fn session(&self) -> Option<SessionId> {
        match (&self.wish, &self.stage) {
            (Command::Stop(request), _) => SessionId::parse(&request.session_id).ok(),
            (_, Stage::Done(outcome)) => outcome
                .session_id
                .as_deref()
                .and_then(|id| SessionId::parse(id).ok()),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Stage {
    Asking,
    Unknown,
    Done(Outcome),
}

/// All wishes that have not come to their end.
#[derive(Debug, Default)]
pub struct Intents {
    intents: HashMap<Key, Intent>,
    ended: VecDeque<SessionId>,
    count: u64,
}

/// A moment among presses and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

impl Intents {
    /// Takes a press.
    pub fn press(&mut self, key: &Key, wish: &Command, now: UnixMs) -> Press {
        self.intents.retain(|_, intent| {
            !matches!(intent.stage, Stage::Unknown) || now.ms_since(intent.at) <= UNKNOWN_MS_MAX
        });
        if let Some(intent) = self.intents.get_mut(key) {
            return match &intent.stage {
                Stage::Asking => Press::Wait,
                Stage::Done(outcome) => Press::Answered(outcome.clone()),
                Stage::Unknown => {
                    intent.stage = Stage::Asking;
                    Press::Send(Box::new(intent.wish.clone()), intent.request_id.clone())
                }
            };
        }
        if self.intents.len() >= INTENTS_MAX && !self.forget_oldest() {
            return Press::Full;
        }
        self.count += 1;
        self.intents.insert(
            key.clone(),
            Intent {
                wish: wish.clone(),
                request_id: None,
                stage: Stage::Asking,
                nth: self.count,
                at: now,
            },
        );
        Press::Send(Box::new(wish.clone()), None)
    }

    /// Under which id a wish is sent.
    pub fn sent_as(&mut self, key: &Key, request_id: RequestId) {
        if let Some(intent) = self.intents.get_mut(key) {
            intent.request_id = Some(request_id);
        }
    }

    /// What came of it. A refusal ends the wish: the next press is another one. So does the end of
    /// the session, which may be heard of before the answer.
    pub fn answered(&mut self, key: &Key, outcome: &Outcome) {
        self.count += 1;
        let Some(intent) = self.intents.get_mut(key) else {
            return;
        };
        intent.nth = self.count;
        intent.stage = if outcome.unknown {
            Stage::Unknown
        } else {
            Stage::Done(outcome.clone())
        };
        let is_over = intent.session().is_some_and(|id| self.ended.contains(&id));
        let is_refused = !outcome.done && !outcome.unknown;
        if is_over || is_refused {
            self.intents.remove(key);
        }
    }

    /// A session has ended at a place, and with it the wishes for its beginning and its end. So has a
    /// wish to start there whose outcome is not known: it was this session's, or is refused.
    pub fn ended(&mut self, session: SessionId, cp: &CpId, connector: ConnectorId) {
        if !self.has_ended(session) {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back(session);
        }
        let is_here = |key: &Key| match key {
            Key::Start(at, nth) => {
                at == cp.as_str() && nth.is_none_or(|nth| nth == i64::from(connector.0))
            }
            Key::Stop(_) => false,
        };
        self.intents.retain(|key, intent| {
            let is_unknown = matches!(intent.stage, Stage::Unknown);
            let is_over = intent.session() == Some(session) || (is_unknown && is_here(key));
            !is_over
        });
    }

    /// Whether a session is remembered to have ended.
    #[must_use]
    pub fn has_ended(&self, session: SessionId) -> bool {
        self.ended.contains(&session)
    }

    /// Now.
    #[must_use]
    pub const fn moment(&self) -> Moment {
        Moment(self.count)
    }

    /// Central was asked at that moment, and these are the driver's open sessions. What was answered
    /// before then stands only while its session is among them: its end may be heard of in no
    /// other way.
    pub fn open(&mut self, asked: Moment, open: &HashSet<SessionId>) {
        self.intents.retain(|_, intent| {
            let is_older = intent.nth <= asked.0 && !matches!(intent.stage, Stage::Asking);
            !is_older || intent.session().is_none_or(|id| open.contains(&id))
        });
    }

    /// Whether a press would not be the first.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.intents.contains_key(key)
    }

    /// Whether a wish is under way.
    #[must_use]
    pub fn is_asking(&self, key: &Key) -> bool {
        self.intents
            .get(key)
            .is_some_and(|intent| matches!(intent.stage, Stage::Asking))
    }

    fn forget_oldest(&mut self) -> bool {
        let oldest = self
            .intents
            .iter()
            .filter(|(_, intent)| matches!(intent.stage, Stage::Done(_)))
            .min_by_key(|(_, intent)| intent.nth)
            .map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.intents.remove(&key).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doc::ActionDoc, failure::Failure};

    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    fn end(intents: &mut Intents, session: SessionId) {
        intents.ended(session, &"CP-001".parse().unwrap(), ConnectorId(1));
    }

    fn start(cp: &str) -> (Key, Command) {
        let wish = Command::start(cp.into(), Some(1), None);
        (Key::of(&wish).unwrap(), wish)
    }

    fn session(n: u128) -> SessionId {
        SessionId::parse(&uuid::Uuid::from_u128(n).to_string()).unwrap()
    }

    fn accepted(session: SessionId) -> Outcome {
        Outcome::done("accepted", String::new(), Some(session.to_string()), &())
    }

    fn failed(failure: &Failure) -> Outcome {
        Outcome::failed(failure, &ActionDoc::failed(failure))
    }

    fn unknown() -> Outcome {
        failed(&Failure::Unknown {
            message: String::new(),
            hint: String::new(),
            about: Box::default(),
        })
    }

    fn refused() -> Outcome {
        failed(&Failure::refused(
            ev_contract::codes::Code::Occupied.about("CP-001"),
            crate::failure::About::default(),
        ))
    }

    #[test]
    fn a_second_press_is_answered_by_the_first() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        assert!(matches!(
            intents.press(&key, &wish, NOW),
            Press::Send(_, None)
        ));
        let with_limit = Command::start(
            "CP-001".into(),
            Some(1),
            Some(ev_contract::v1::LimitsRequest {
                energy_wh: Some(1),
                ..Default::default()
            }),
        );
        assert_eq!(Key::of(&with_limit), Some(key.clone()));
        assert!(matches!(intents.press(&key, &with_limit, NOW), Press::Wait));
        intents.answered(&key, &accepted(session(1)));
        match intents.press(&key, &wish, NOW) {
            Press::Answered(outcome) => {
                assert_eq!(outcome.session_id, Some(session(1).to_string()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn after_the_session_has_ended_a_press_is_a_new_wish() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish, NOW);
        intents.answered(&key, &accepted(session(1)));
        let stop = Command::stop(session(1).to_string());
        let stop_key = Key::of(&stop).unwrap();
        intents.press(&stop_key, &stop, NOW);
        end(&mut intents, session(2));
        assert!(matches!(
            intents.press(&key, &wish, NOW),
            Press::Answered(_)
        ));
        end(&mut intents, session(1));
        assert!(matches!(
            intents.press(&key, &wish, NOW),
            Press::Send(_, None)
        ));
        assert!(!intents.is_asking(&stop_key));
    }

    #[test]
    fn an_answer_after_the_end_of_its_session_leaves_no_wish() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish, NOW);
        end(&mut intents, session(1));
        assert!(matches!(intents.press(&key, &wish, NOW), Press::Wait));
        intents.answered(&key, &accepted(session(1)));
        assert!(matches!(
            intents.press(&key, &wish, NOW),
            Press::Send(_, None)
        ));
    }

    #[test]
    fn what_was_answered_stands_while_central_says_that_its_session_is_open() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        let stop = Command::stop(session(1).to_string());
        let stop_key = Key::of(&stop).unwrap();
        let before = intents.moment();
        intents.press(&key, &wish, NOW);
        intents.answered(&key, &accepted(session(1)));
        intents.press(&stop_key, &stop, NOW);
        intents.answered(&stop_key, &unknown());
        let after = intents.moment();
        let none = HashSet::new();
        // Central was asked before it had heard of the start.
        intents.open(before, &none);
        intents.open(after, &HashSet::from([session(1)]));
        assert!(intents.knows(&key) && intents.knows(&stop_key));
        intents.open(after, &none);
        assert!(!intents.knows(&key) && !intents.knows(&stop_key));
        assert!(matches!(
            intents.press(&key, &wish, NOW),
            Press::Send(_, None)
        ));
        // What is under way has an answer of its own.
        intents.open(intents.moment(), &none);
        assert!(intents.is_asking(&key));
    }

    #[test]
    fn what_stays_unknown_ends_with_the_session_that_was_there() {
        let mut intents = Intents::default();
        let (here, wish) = start("CP-001");
        let (elsewhere, other) = start("CP-002");
        for (key, wish) in [(&here, &wish), (&elsewhere, &other)] {
            intents.press(key, wish, NOW);
            intents.answered(key, &unknown());
        }
        end(&mut intents, session(1));
        assert!(!intents.knows(&here) && intents.knows(&elsewhere));
    }

    #[test]
    fn what_stays_unknown_is_a_new_wish_when_central_no_longer_decides_it() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish, NOW);
        intents.sent_as(&key, "r-1".parse().unwrap());
        intents.answered(&key, &unknown());
        let last = NOW.plus_ms(UNKNOWN_MS_MAX);
        let again = intents.press(&key, &wish, last);
        assert!(matches!(again, Press::Send(_, Some(_))), "{again:?}");
        intents.answered(&key, &unknown());
        let anew = intents.press(&key, &wish, last.plus_ms(1));
        assert!(matches!(anew, Press::Send(_, None)), "{anew:?}");
    }

    #[test]
    fn only_so_many_ends_are_remembered() {
        let mut intents = Intents::default();
        for n in 0..=ENDED_MAX as u128 {
            end(&mut intents, session(n));
            end(&mut intents, session(n));
        }
        assert!(!intents.has_ended(session(0)));
        assert!(intents.has_ended(session(1)) && intents.has_ended(session(ENDED_MAX as u128)));
    }

    #[test]
    fn what_is_not_known_is_asked_again_as_it_was() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish, NOW);
        let id: RequestId = "r-1".parse().unwrap();
        intents.sent_as(&key, id.clone());
        intents.answered(&key, &unknown());
        let other = Command::start(
            "CP-001".into(),
            Some(1),
            Some(ev_contract::v1::LimitsRequest::default()),
        );
        match intents.press(&key, &other, NOW) {
            Press::Send(sent, named) => {
                assert_eq!((*sent, named), (wish.clone(), Some(id)));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(intents.press(&key, &wish, NOW), Press::Wait));
    }

    #[test]
    fn a_refusal_ends_the_wish() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish, NOW);
        intents.answered(&key, &refused());
        assert!(matches!(
            intents.press(&key, &wish, NOW),
            Press::Send(_, None)
        ));
    }

    #[test]
    fn there_are_only_so_many() {
        let mut intents = Intents::default();
        for n in 0..INTENTS_MAX {
            let (key, wish) = start(&format!("CP-{n}"));
            assert!(matches!(intents.press(&key, &wish, NOW), Press::Send(..)));
        }
        let (key, wish) = start("CP-new");
        assert!(matches!(intents.press(&key, &wish, NOW), Press::Full));
        let (first, first_wish) = start("CP-0");
        intents.answered(&first, &accepted(session(0)));
        assert!(matches!(intents.press(&key, &wish, NOW), Press::Send(..)));
        assert!(matches!(
            intents.press(&first, &first_wish, NOW),
            Press::Full
        ));
    }
}
