//! What happens to a connection, in words that somebody can act upon.

use std::fmt;

use async_nats::{ClientError, Event, ServerError};

/// What the library says of a connection that could not be made.
const FAILED: [&str; 5] = [
    "IO error",
    "TLS error",
    "DNS error",
    "timed out",
    "failed signing nonce",
];

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected, for the first time or again.
    Up,
    /// Not connected; it is tried again.
    Down,
    /// The server denied one publish or subscription. The library shows it nowhere else: a request
    /// times out, a subscription stays silent.
    Denied(Denied),
    /// The server does not take this credential: unknown, revoked, expired, or over a limit.
    Refused(String),
    /// A connection cannot be made, and why.
    Failed(String),
    /// A message had to be dropped since it was not read in time.
    Slow,
    /// Anything else that the server or the library says.
    Other(String),
}

/// What was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What was tried.
    pub operation: Operation,
    /// On which subject.
    pub subject: String,
}

/// What one does with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Sending.
    Publish,
    /// Listening.
    Subscribe,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish to",
            Self::Subscribe => "subscribe to",
        })
    }
}

impl fmt::Display for LinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("connected to NATS"),
            Self::Down => f.write_str("NATS is out of reach"),
            Self::Denied(denied) => write!(
                f,
                "this credential may not {} {}",
                denied.operation, denied.subject
            ),
            Self::Refused(why) => f.write_str(why),
            Self::Failed(why) => write!(f, "cannot connect to NATS: {why}"),
            Self::Slow => f.write_str("messages came faster than they were read"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl LinkEvent {
    /// What an event of the library means; `None` for what this side does itself.
    #[must_use]
    pub fn read(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Connected => Self::Up,
            Event::Disconnected => Self::Down,
            Event::SlowConsumer(_) => Self::Slow,
            Event::ServerError(ServerError::AuthorizationViolation) => {
                Self::Refused("authorization violation".into())
            }
            Event::ServerError(ServerError::Other(words)) => Self::of_server(words),
            Event::ServerError(other) => Self::Other(other.to_string()),
            Event::ClientError(ClientError::Other(words)) => Self::of_client(words),
            Event::ClientError(error) => Self::Other(error.to_string()),
            Event::LameDuckMode => Self::Other("the server is about to shut down".into()),
            Event::Draining | Event::Closed => return None,
        })
    }

    /// The server's words, as of nats-server 2.15: `Permissions Violation for Publish to "x"`,
    /// `Permissions Violation for Subscription to "x"`, `User Authentication Revoked`, …
    fn of_server(words: &str) -> Self {
        let lower = words.to_lowercase();
        if let Some((_, rest)) = lower.split_once("permissions violation for ") {
            let operation = if rest.starts_with("publish") {
                Operation::Publish
            } else {
                Operation::Subscribe
            };
            let subject = words.split('"').nth(1).unwrap_or("an unnamed subject");
            return Self::Denied(Denied {
                operation,
                subject: subject.to_owned(),
            });
        }
        if lower.contains("authentication") || lower.contains("authorization") {
            return Self::Refused(words.to_owned());
        }
        Self::Other(words.to_owned())
    }

    pub(crate) fn of_client(words: &str) -> Self {
        let lower = words.to_lowercase();
        if lower.contains("authorization violation") || lower.contains("authentication") {
            Self::Refused(words.to_owned())
        } else if FAILED.contains(&words) {
            Self::Failed(words.to_owned())
        } else {
            Self::Other(words.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> LinkEvent {
        LinkEvent::read(&Event::ServerError(ServerError::Other(words.into()))).unwrap()
    }

    #[test]
    fn a_denial_names_what_was_tried_and_where() {
        assert_eq!(
            of("Permissions Violation for Publish to \"ev.v1.driver.bob.start\"").to_string(),
            "this credential may not publish to ev.v1.driver.bob.start"
        );
        assert_eq!(
            of("Permissions Violation for Subscription to \"_INBOX.>\" using queue \"q\"")
                .to_string(),
            "this credential may not subscribe to _INBOX.>"
        );
    }

    #[test]
    fn a_refused_credential_is_told_from_a_denied_subject() {
        assert!(matches!(
            of("User Authentication Revoked"),
            LinkEvent::Refused(_)
        ));
        assert!(matches!(
            of("User Authentication Expired"),
            LinkEvent::Refused(_)
        ));
        assert!(matches!(of("Stale Connection"), LinkEvent::Other(_)));
    }
}
