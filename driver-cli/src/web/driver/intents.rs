//! What the driver wants, each wish once: however often a button is pressed, and from how many
//! tabs, it is the same wish until it has come to its end. No I/O and no clock.

use std::collections::HashMap;

use ev_contract::ids::RequestId;

use crate::{command::Command, web::outcome::Outcome};

/// Most wishes that are remembered. A driver has a few sessions at once; each is a start and a stop.
pub const INTENTS_MAX: usize = 64;

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
    nth: u64,
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
    count: u64,
}

impl Intents {
    /// Takes a press.
    pub fn press(&mut self, key: &Key, wish: &Command) -> Press {
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

    /// What came of it. A refusal ends the wish: the next press is another one.
    pub fn answered(&mut self, key: &Key, outcome: &Outcome) {
        if outcome.done || outcome.unknown {
            if let Some(intent) = self.intents.get_mut(key) {
                intent.stage = if outcome.done {
                    Stage::Done(outcome.clone())
                } else {
                    Stage::Unknown
                };
            }
        } else {
            self.intents.remove(key);
        }
    }

    /// A session has ended, and with it the wishes for its beginning and its end.
    pub fn ended(&mut self, session: &str) {
        self.intents.retain(|key, intent| {
            let begins = matches!(&intent.stage, Stage::Done(outcome) if outcome.session_id.as_deref() == Some(session));
            !begins && !matches!(key, Key::Stop(stopped) if stopped == session)
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

    fn start(cp: &str) -> (Key, Command) {
        let wish = Command::start(cp.into(), Some(1), None);
        (Key::of(&wish).unwrap(), wish)
    }

    fn accepted(session: &str) -> Outcome {
        Outcome::done("accepted", String::new(), Some(session.into()), &())
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
        assert!(matches!(intents.press(&key, &wish), Press::Send(_, None)));
        let with_limit = Command::start(
            "CP-001".into(),
            Some(1),
            Some(ev_contract::v1::LimitsRequest {
                energy_wh: Some(1),
                ..Default::default()
            }),
        );
        assert_eq!(Key::of(&with_limit), Some(key.clone()));
        assert!(matches!(intents.press(&key, &with_limit), Press::Wait));
        intents.answered(&key, &accepted("s-1"));
        match intents.press(&key, &wish) {
            Press::Answered(outcome) => assert_eq!(outcome.session_id.as_deref(), Some("s-1")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn after_the_session_has_ended_a_press_is_a_new_wish() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish);
        intents.answered(&key, &accepted("s-1"));
        let stop = Command::stop("s-1".into());
        let stop_key = Key::of(&stop).unwrap();
        intents.press(&stop_key, &stop);
        intents.ended("s-2");
        assert!(matches!(intents.press(&key, &wish), Press::Answered(_)));
        intents.ended("s-1");
        assert!(matches!(intents.press(&key, &wish), Press::Send(_, None)));
        assert!(!intents.is_asking(&stop_key));
    }

    #[test]
    fn what_is_not_known_is_asked_again_as_it_was() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish);
        let id: RequestId = "r-1".parse().unwrap();
        intents.sent_as(&key, id.clone());
        intents.answered(&key, &unknown());
        let other = Command::start(
            "CP-001".into(),
            Some(1),
            Some(ev_contract::v1::LimitsRequest::default()),
        );
        match intents.press(&key, &other) {
            Press::Send(sent, named) => {
                assert_eq!((*sent, named), (wish.clone(), Some(id)));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(intents.press(&key, &wish), Press::Wait));
    }

    #[test]
    fn a_refusal_ends_the_wish() {
        let mut intents = Intents::default();
        let (key, wish) = start("CP-001");
        intents.press(&key, &wish);
        intents.answered(&key, &refused());
        assert!(matches!(intents.press(&key, &wish), Press::Send(_, None)));
    }

    #[test]
    fn there_are_only_so_many() {
        let mut intents = Intents::default();
        for n in 0..INTENTS_MAX {
            let (key, wish) = start(&format!("CP-{n}"));
            assert!(matches!(intents.press(&key, &wish), Press::Send(..)));
        }
        let (key, wish) = start("CP-new");
        assert!(matches!(intents.press(&key, &wish), Press::Full));
        let (first, first_wish) = start("CP-0");
        intents.answered(&first, &accepted("s-0"));
        assert!(matches!(intents.press(&key, &wish), Press::Send(..)));
        assert!(matches!(intents.press(&first, &first_wish), Press::Full));
    }
}
