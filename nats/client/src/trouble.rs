//! Why there is no connection: which piece is wrong, in words that somebody can act upon.

use std::fmt;

use async_nats::{ConnectError, ConnectErrorKind};

use crate::{
    Access, AccessError, Credential, LinkEvent, Tls, chain, look::speaks_no_tls, root_cause,
    shown_time,
};

/// With these the library begins what the peer has complained of.
const ALERT: &str = "received fatal alert";

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The credentials file.
    Credentials,
    /// Who may vouch for servers.
    Ca,
    /// The client's own certificate.
    ClientCertificate,
    /// The server, its address or what it shows.
    Server,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// With what.
    pub piece: Piece,
    /// What.
    pub what: String,
    /// What to do about it.
    pub fix: &'static str,
    /// It is so until somebody does that.
    pub is_lasting: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}

const NEW_CREDENTIAL: &str =
    "`central enrol list` shows which are good, `central enrol ROLE NAME --again` makes one";
const RIGHT_CA: &str = "take the ca.crt of this installation";
const RIGHT_ADDRESS: &str = "check the address, and that nats-server runs there";
const SHIPPED: &str = "start it with the shipped configuration, nats/conf";
const OWN_CERTIFICATE: &str =
    "give certificate and key from `central enrol certificate --client NAME`";

impl Trouble {
    fn new(piece: Piece, what: impl Into<String>, fix: &'static str) -> Self {
        let what = what.into();
        Self {
            piece,
            what,
            fix,
            is_lasting: true,
        }
    }

    /// Somebody may be starting it just now, or another one listens there for a while.
    fn passing(what: impl Into<String>, fix: &'static str) -> Self {
        Self {
            is_lasting: false,
            ..Self::new(Piece::Server, what, fix)
        }
    }

    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Self::passing(what, RIGHT_ADDRESS)
    }

    /// A server that says nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::unreachable("it does not answer")
    }

    pub(crate) fn in_the_clear() -> Self {
        let what = "the server speaks in the clear and not TLS";
        Self::new(Piece::Server, what, SHIPPED)
    }

    pub(crate) fn no_server() -> Self {
        Self::unreachable("what listens there is no NATS server")
    }

    pub(crate) fn unusable(what: impl Into<String>) -> Self {
        Self::new(Piece::Ca, what, RIGHT_CA)
    }
}

impl From<&AccessError> for Trouble {
    fn from(error: &AccessError) -> Self {
        let piece = error.piece();
        let fix = match piece {
            Piece::Credentials => NEW_CREDENTIAL,
            Piece::Ca => RIGHT_CA,
            Piece::ClientCertificate => OWN_CERTIFICATE,
            Piece::Server => RIGHT_ADDRESS,
        };
        Self::new(piece, chain(error), fix)
    }
}

impl AccessError {
    /// Which piece is wrong.
    #[must_use]
    pub fn piece(&self) -> Piece {
        match self {
            Self::Url(_) | Self::InTheClear(_) | Self::Mixed => Piece::Server,
            Self::File { key, .. } | Self::Pem { key, .. } => match *key {
                "ca" => Piece::Ca,
                _ => Piece::ClientCertificate,
            },
            Self::Half => Piece::ClientCertificate,
            Self::Credential(_) | Self::Whose { .. } => Piece::Credentials,
        }
    }
}

impl Access {
    /// What a failed connection means.
    #[must_use]
    pub fn trouble(&self, error: &ConnectError) -> Trouble {
        let cause = root_cause(error);
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation => self.refusal(&cause),
            ConnectErrorKind::Authentication => {
                Trouble::new(Piece::Credentials, cause, NEW_CREDENTIAL)
            }
            _ if cause.contains("connections exceeded") => Trouble::passing(
                format!("the server has as many connections as it takes of this kind ({cause})"),
                "close others, or try again later",
            ),
            _ => self.tls.trouble(&cause),
        }
    }

    /// Whether somebody has to mend what made an attempt fail, in the library's words: it passes
    /// neither by itself nor by waiting.
    pub(crate) fn needs_somebody(&self, words: &str) -> bool {
        matches!(LinkEvent::of_client(words), LinkEvent::Refused(_))
            // Its own files.
            || words.starts_with("TLS error")
            || words.contains("failed signing nonce")
            || self.tls.trouble(words).is_lasting
    }

    /// The server gives no reason. What can be seen from here is seen.
    pub(crate) fn refusal(&self, words: &str) -> Trouble {
        let path = self.credentials.display();
        let what = match Credential::read(&self.credentials) {
            Err(e) => chain(&e),
            Ok(credential) => match credential.expired_at() {
                Some(at) => format!("NATS refuses {path}: it expired at {at}"),
                None => format!(
                    "NATS refuses {path} ({words}): it is revoked or replaced, or another \
                     installation's"
                ),
            },
        };
        Trouble::new(Piece::Credentials, what, NEW_CREDENTIAL)
    }
}

impl Tls {
    /// What the innermost cause of a failed handshake means.
    pub(crate) fn trouble(&self, cause: &str) -> Trouble {
        let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
        if cause.contains(ALERT) {
            self.complaint(cause)
        } else if has(&["UnknownIssuer", "BadSignature"]) {
            let ca = self.ca.display();
            let what = format!("the server's certificate is not signed by {ca}");
            Trouble::new(Piece::Ca, what, RIGHT_CA)
        } else if has(&["not valid for name", "NotValidForName"]) {
            Trouble::new(
                Piece::Server,
                "the server's certificate does not name this address",
                "`central enrol certificate --host` makes one that does",
            )
        } else if has(&["not valid yet", "NotValidYet"]) {
            Trouble::new(
                Piece::Server,
                format!(
                    "the server's certificate is not valid yet, by this clock, which says {}",
                    shown_time(jiff::Timestamp::now().as_second())
                ),
                "set the clock; if it is right, the one where the certificate was made was not",
            )
        } else if has(&["certificate expired", "Expired"]) {
            Trouble::new(
                Piece::Server,
                format!(
                    "the server's certificate has expired, by this clock, which says {}",
                    shown_time(jiff::Timestamp::now().as_second())
                ),
                "if that is the time, `central enrol certificate --host` makes a new one; if not, set \
                 the clock",
            )
        } else if speaks_no_tls(cause) {
            Trouble::passing("the server does not speak TLS", SHIPPED)
        } else {
            Trouble::unreachable(cause)
        }
    }

    /// The server does not like what we showed, or that we showed nothing.
    fn complaint(&self, cause: &str) -> Trouble {
        let about_us = cause.to_lowercase().contains("cert") || cause.contains("UnknownCA");
        let what = match &self.identity {
            _ if !about_us => return Trouble::unreachable(cause),
            None => "the server asks for a client's certificate".to_owned(),
            Some((certificate, _)) if cause.contains("CertificateExpired") => {
                format!(
                    "the client's certificate {} has expired",
                    certificate.display()
                )
            }
            Some((certificate, _)) => format!(
                "the server does not take the client's certificate {} ({cause})",
                certificate.display()
            ),
        };
        Trouble::new(Piece::ClientCertificate, what, OWN_CERTIFICATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_complains_of_is_not_what_is_wrong_with_the_server() {
        let with = |identity: Option<&str>| Tls {
            ca: "ca.crt".into(),
            identity: identity.map(|name| (name.into(), "client.key".into())),
        };
        for (identity, cause, piece) in [
            (
                None,
                "received fatal alert: CertificateRequired",
                Piece::ClientCertificate,
            ),
            (
                Some("c.crt"),
                "received fatal alert: CertificateExpired",
                Piece::ClientCertificate,
            ),
            (
                Some("c.crt"),
                "received fatal alert: UnknownCA",
                Piece::ClientCertificate,
            ),
            (
                None,
                "received fatal alert: HandshakeFailure",
                Piece::Server,
            ),
            (None, "invalid peer certificate: UnknownIssuer", Piece::Ca),
            (
                None,
                "invalid peer certificate: certificate expired",
                Piece::Server,
            ),
        ] {
            assert_eq!(with(identity).trouble(cause).piece, piece, "{cause}");
        }
    }
}
