//! Everything that can go wrong, as people and programs are told.

use std::io;

use ev_contract::{
    codes::{Code, Problem},
    time::UnixMs,
    v1::Tariff,
};

use crate::exit::Exit;

/// What a failure is about, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// The request.
    pub request_id: Option<String>,
    /// The driver.
    pub driver_id: Option<String>,
    /// The charge point.
    pub cp_id: Option<String>,
    /// The connector.
    pub connector: Option<i64>,
    /// The session.
    pub session_id: Option<String>,
    /// Central's time in the answer.
    pub ts: Option<UnixMs>,
    /// The price that applies, where another one was named.
    pub tariff: Option<Box<Tariff>>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line cannot be used as it is.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// This program looked and found nothing.
    #[error("{message}")]
    NotFound {
        /// What is not there.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// Central said no.
    #[error("{}", .0.problem)]
    Refused(Box<Refusal>),
    /// Something was sent and no answer came that settles it.
    #[error("{message}")]
    Unknown {
        /// What is not known.
        message: String,
        /// How to find out.
        hint: String,
        /// What it is about.
        about: Box<About>,
    },
    /// Nobody is there, and nothing was sent.
    #[error("{message}")]
    Unreachable {
        /// Who is not there.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// The server does not let this identity do it.
    #[error("{message}")]
    NotPermitted {
        /// What is not permitted.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// A file on this machine.
    #[error("cannot {doing}: {source}")]
    File {
        /// What was tried.
        doing: String,
        /// What to do next.
        hint: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Anything else.
    #[error("{message}")]
    Other {
        /// What happened.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// Ctrl-C.
    #[error("{message}")]
    Interrupted {
        /// How things stand.
        message: String,
        /// What to do next.
        hint: String,
        /// What it is about.
        about: Box<About>,
    },
    /// The reader of our output has gone: no failure for anybody.
    #[error("nobody reads the output")]
    BrokenPipe,
}

/// A refusal and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Code, sentence, hint.
    pub problem: Problem,
    /// The word in `reason`, where it says more than the code.
    pub reason: String,
    /// What it is about.
    pub about: About,
}

impl Failure {
    /// A refusal.
    #[must_use]
    pub fn refused(problem: Problem, about: About) -> Self {
        let reason = problem.code.as_str().to_owned();
        Self::Refused(Box::new(Refusal {
            problem,
            reason,
            about,
        }))
    }

    /// The same, for an operator: central's hints name verbs of drivers.
    #[must_use]
    pub fn for_operators(mut self) -> Self {
        if let Self::Refused(refusal) = &mut self {
            let problem = &mut refusal.problem;
            match problem.code {
                Code::UnknownChargePoint => {
                    "`op cp ls` shows the charge points".clone_into(&mut problem.hint);
                }
                Code::SessionNotFound => {
                    problem.message = problem.message.replacen(
                        "you have no session",
                        "central knows no session",
                        1,
                    );
                    "`op session ls --all` shows those that it knows, `op export` has older ones"
                        .clone_into(&mut problem.hint);
                }
                _ => {}
            }
        }
        self
    }

    /// A usage error.
    #[must_use]
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// How the program ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::NotFound { .. } => Exit::NotFound,
            Self::Refused(refusal) => Exit::of(refusal.problem.code),
            Self::Unknown { .. } => Exit::Unknown,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::NotPermitted { .. } => Exit::NotAllowed,
            Self::File { .. } | Self::Other { .. } => Exit::Other,
            Self::Interrupted { .. } => Exit::Interrupted,
            Self::BrokenPipe => Exit::Ok,
        }
    }

    /// How the wish stands, in one word.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Refused(refusal) if refusal.problem.code.undecided() => "unknown",
            Self::Refused(_) | Self::NotPermitted { .. } | Self::NotFound { .. } => "denied",
            Self::Unknown { .. } | Self::Interrupted { .. } => "unknown",
            Self::Usage { .. }
            | Self::Unreachable { .. }
            | Self::File { .. }
            | Self::Other { .. }
            | Self::BrokenPipe => "error",
        }
    }

    /// A stable word for it.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Usage { .. } => "usage",
            Self::NotFound { .. } => "session_not_found",
            Self::Refused(refusal) => refusal.problem.code.as_str(),
            Self::Unknown { .. } => "outcome_unknown",
            Self::Unreachable { .. } => "unreachable",
            Self::NotPermitted { .. } => "not_allowed",
            Self::File { .. } => "file",
            Self::Other { .. } => "other",
            Self::Interrupted { .. } => "interrupted",
            Self::BrokenPipe => "broken_pipe",
        }
    }

    /// The word in `reason`.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.reason,
            other => other.code(),
        }
    }

    /// What happened, in a sentence.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.problem.message.clone(),
            other => other.to_string(),
        }
    }

    /// The message as people read it: of a refusal with its word.
    #[must_use]
    pub fn complaint(&self) -> String {
        match self {
            Self::Refused(refusal) => format!("{} ({})", self.message(), refusal.reason),
            _ => self.message(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.problem.hint,
            Self::Usage { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::Unknown { hint, .. }
            | Self::Unreachable { hint, .. }
            | Self::NotPermitted { hint, .. }
            | Self::File { hint, .. }
            | Self::Other { hint, .. }
            | Self::Interrupted { hint, .. } => hint,
            Self::BrokenPipe => "",
        }
    }

    /// Whether the same command may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.problem.retryable,
            Self::Unknown { .. } | Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Usage { .. }
            | Self::NotFound { .. }
            | Self::NotPermitted { .. }
            | Self::File { .. }
            | Self::Other { .. }
            | Self::BrokenPipe => false,
        }
    }

    /// What it is about, as far as it is known.
    #[must_use]
    pub fn about(&self) -> About {
        match self {
            Self::Refused(refusal) => refusal.about.clone(),
            Self::Unknown { about, .. } | Self::Interrupted { about, .. } => (**about).clone(),
            Self::Usage { .. }
            | Self::NotFound { .. }
            | Self::Unreachable { .. }
            | Self::NotPermitted { .. }
            | Self::File { .. }
            | Self::Other { .. }
            | Self::BrokenPipe => About::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_pointed_at_operators_verbs() {
        for (code, about) in [
            (Code::UnknownChargePoint, "CP-009"),
            (Code::SessionNotFound, "0190a0b0"),
        ] {
            let failure = Failure::refused(code.about(about), About::default()).for_operators();
            let Failure::Refused(refusal) = failure else {
                panic!("{failure:?}");
            };
            let Problem { message, hint, .. } = refusal.problem;
            assert!(hint.starts_with("`op "), "{hint}");
            assert!(
                message.contains(about) && !message.contains("you "),
                "{message}"
            );
        }
    }
}
