//! Why there is no connection: which piece is wrong, in words that somebody can act upon.

use async_nats::{ConnectError, ConnectErrorKind};

use crate::{Access, AccessError, Credential, Tls, chain, look::speaks_no_tls, root_cause};

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
    /// What, in words.
    pub words: String,
}

impl Trouble {
    pub(crate) fn server(words: impl Into<String>) -> Self {
        Self {
            piece: Piece::Server,
            words: words.into(),
        }
    }

    pub(crate) fn ca(words: impl Into<String>) -> Self {
        Self {
            piece: Piece::Ca,
            words: words.into(),
        }
    }

    fn client(words: impl Into<String>) -> Self {
        Self {
            piece: Piece::ClientCertificate,
            words: words.into(),
        }
    }

    pub(crate) fn of(error: &AccessError) -> Self {
        Self {
            piece: error.piece(),
            words: chain(error),
        }
    }
}

impl AccessError {
    /// Which piece is wrong.
    #[must_use]
    pub fn piece(&self) -> Piece {
        match self {
            Self::Url(_) => Piece::Server,
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
            ConnectErrorKind::Authentication => Trouble {
                piece: Piece::Credentials,
                words: cause,
            },
            _ => self.tls.trouble(&cause),
        }
    }

    /// The server gives no reason. What can be seen from here is seen.
    pub(crate) fn refusal(&self, words: &str) -> Trouble {
        let why = match Credential::read(&self.credentials) {
            Err(e) => chain(&e),
            Ok(credential) => match credential.expired_at() {
                Some(at) => format!("it expired at {at}"),
                None => words.to_owned(),
            },
        };
        Trouble {
            piece: Piece::Credentials,
            words: format!(
                "NATS refuses {} ({why}); see `central enrol list`",
                self.credentials.display()
            ),
        }
    }
}

impl Tls {
    /// What the innermost cause of a failed handshake means.
    pub(crate) fn trouble(&self, cause: &str) -> Trouble {
        let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
        if cause.contains(ALERT) {
            return self.complaint(cause);
        }
        if has(&["UnknownIssuer", "BadSignature"]) {
            return Trouble::ca(format!(
                "the server's certificate is not signed by {}; take the ca.crt of this \
                 installation",
                self.ca.display()
            ));
        }
        Trouble::server(if has(&["not valid for name", "NotValidForName"]) {
            "the server's certificate does not name this address; `central enrol certificate \
             --host` makes one that does"
                .to_owned()
        } else if has(&["certificate expired", "Expired"]) {
            "the server's certificate has expired; `central enrol certificate` makes a new one"
                .to_owned()
        } else if speaks_no_tls(cause) {
            "the server does not speak TLS; it has not the shipped configuration".to_owned()
        } else {
            cause.to_owned()
        })
    }

    /// The server does not like what we showed, or that we showed nothing.
    fn complaint(&self, cause: &str) -> Trouble {
        let shown = self
            .identity
            .as_ref()
            .map(|(certificate, _)| certificate.display());
        match shown {
            Some(certificate) if cause.contains("CertificateExpired") => Trouble::client(format!(
                "the client's certificate {certificate} has expired; `central enrol certificate \
                 --client` makes a new one"
            )),
            Some(certificate)
                if cause.to_lowercase().contains("cert") || cause.contains("UnknownCA") =>
            {
                Trouble::client(format!(
                    "the server does not take the client's certificate {certificate} ({cause}); \
                     `central enrol certificate --client` makes one that it takes"
                ))
            }
            None if cause.to_lowercase().contains("cert") => Trouble::client(
                "the server asks for a client's certificate; give certificate and key",
            ),
            Some(_) | None => Trouble::server(cause),
        }
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
