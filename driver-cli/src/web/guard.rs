//! Who may load a page and who may press its buttons: decided from headers alone.
//!
//! A page on loopback can be reached by every other page that the same browser has open. A foreign
//! page may send a form here (refused by [`may_write`] and by the token), and a foreign name may be
//! made to point here (refused by [`Names`]); neither can read an answer.

use std::net::{IpAddr, SocketAddr};

/// By which names browsers may reach this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    names: Vec<String>,
    addresses: Addresses,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Addresses {
    /// Loopback only.
    Loopback,
    /// This one and loopback.
    One(IpAddr),
    /// It listens on all of them. A name can be made to point anywhere; an address is itself.
    All,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// Its `Host` is none of ours.
    #[error(
        "this server is not known as `{0}`: load it by the address that it printed, or start it with \
         --name for that name"
    )]
    Host(String),
    /// It comes from another page.
    #[error(
        "nothing was done: this request comes from another page than this server's; load the page \
         anew and press there"
    )]
    Origin,
    /// Its form was not made by this run of the server.
    #[error(
        "nothing was done: this form is of an earlier run of the page's server; load the page anew \
         and press again"
    )]
    Token,
}

impl Names {
    /// The names of a server that listens on `addr` and is also known as `names`.
    #[must_use]
    pub fn new(addr: SocketAddr, names: &[String]) -> Self {
        let ip = addr.ip();
        Self {
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            addresses: if ip.is_unspecified() {
                Addresses::All
            } else if ip.is_loopback() {
                Addresses::Loopback
            } else {
                Addresses::One(ip)
            },
        }
    }

    /// Whether a request with this `Host` means us. Its port is not looked at: through a tunnel it
    /// is another one.
    ///
    /// # Errors
    /// [`NotServed::Host`].
    pub fn check(&self, host: Option<&str>) -> Result<(), NotServed> {
        let host = host.unwrap_or_default();
        let name = without_port(host).to_ascii_lowercase();
        let known = match name.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => {
                ip.is_loopback()
                    || match self.addresses {
                        Addresses::Loopback => false,
                        Addresses::One(own) => ip == own,
                        Addresses::All => true,
                    }
            }
            Err(_) => name == "localhost" || self.names.contains(&name),
        };
        if known {
            Ok(())
        } else {
            Err(NotServed::Host(host.to_owned()))
        }
    }
}

/// Whether a request that changes something comes from our own page: what the browser says of its
/// source must be there, and all that it says must agree.
///
/// # Errors
/// [`NotServed::Origin`].
pub fn may_write(
    host: Option<&str>,
    origin: Option<&str>,
    fetch_site: Option<&str>,
) -> Result<(), NotServed> {
    let by_origin = origin.map(|origin| {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|a| host.is_some_and(|host| a.eq_ignore_ascii_case(host)))
    });
    let by_site = fetch_site.map(|site| site == "same-origin");
    match (by_origin, by_site) {
        (None, None) | (Some(false), _) | (_, Some(false)) => Err(NotServed::Origin),
        (Some(true) | None, Some(true) | None) => Ok(()),
    }
}

/// Whether a listener may be another page's: those would take the seats of ours.
#[must_use]
pub fn is_foreign(fetch_site: Option<&str>) -> bool {
    fetch_site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

/// Whether a form carries this run's token. Takes as long for a wrong one as for a right one.
///
/// # Errors
/// [`NotServed::Token`].
pub fn check_token(given: &str, token: &str) -> Result<(), NotServed> {
    let differ = given
        .bytes()
        .zip(token.bytes())
        .fold(given.len() ^ token.len(), |differ, (a, b)| {
            differ | usize::from(a ^ b)
        });
    if differ == 0 {
        Ok(())
    } else {
        Err(NotServed::Token)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(addr: &str) -> Names {
        Names::new(addr.parse().unwrap(), &["Wall.example".to_owned()])
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_not_served() {
        let loopback = names("127.0.0.1:8100");
        for own in [
            "localhost:8100",
            "LOCALHOST",
            "127.0.0.1:8100",
            "127.0.0.1",
            "[::1]:8100",
            "wall.example:8100",
            "localhost:9999",
        ] {
            assert_eq!(loopback.check(Some(own)), Ok(()), "{own}");
        }
        for foreign in [
            "evil.example:8100",
            "localhost.evil.example",
            "10.0.0.7:8100",
            "127.0.0.1.evil.example",
            "",
            "localhost:80@evil.example",
        ] {
            assert!(loopback.check(Some(foreign)).is_err(), "{foreign}");
        }
        assert!(loopback.check(None).is_err());
    }

    #[test]
    fn who_listens_on_an_address_is_known_by_it() {
        assert_eq!(names("10.0.0.7:80").check(Some("10.0.0.7")), Ok(()));
        assert!(names("10.0.0.7:80").check(Some("10.0.0.8")).is_err());
        assert_eq!(names("0.0.0.0:80").check(Some("10.0.0.8:80")), Ok(()));
        assert!(names("0.0.0.0:80").check(Some("evil.example")).is_err());
    }

    #[test]
    fn only_our_own_page_writes() {
        let host = Some("localhost:8100");
        let same = Some("http://localhost:8100");
        for (origin, site) in [
            (same, Some("same-origin")),
            (same, None),
            (None, Some("same-origin")),
        ] {
            assert_eq!(may_write(host, origin, site), Ok(()), "{origin:?} {site:?}");
        }
        for (origin, site) in [
            (None, None),
            (Some("http://evil.example"), None),
            (Some("http://evil.example"), Some("same-origin")),
            (Some("http://localhost:8000"), Some("same-site")),
            (Some("http://localhost:8000"), None),
            (Some("null"), None),
            (Some("null"), Some("same-origin")),
            (same, Some("cross-site")),
            (same, Some("none")),
        ] {
            assert!(
                may_write(host, origin, site).is_err(),
                "{origin:?} {site:?}"
            );
        }
        assert!(may_write(None, same, None).is_err());
    }

    #[test]
    fn only_this_runs_token_will_do() {
        assert_eq!(check_token("abc", "abc"), Ok(()));
        for wrong in ["", "ab", "abd", "abcd"] {
            assert!(check_token(wrong, "abc").is_err(), "{wrong}");
        }
    }
}
