//! A credentials file: who somebody is, signed, and the key that proves it.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt, path::Path};

use nkeys::KeyPair;
use serde::Deserialize;

use crate::AccessError;

/// The permission bits that let everybody on the machine read a file.
const READABLE_BY_OTHERS: u32 = 0o007;

/// What the credential of an installation's first central carries: when it was issued there was no
/// ledger.
pub const FIRST_LEDGER_TAG: &str = "ledger:first";
/// For how long after that the first ledger may be made without another word, in seconds: an
/// installation that takes longer says so with `central init-ledger`.
pub const FIRST_LEDGER_S: i64 = 24 * 3_600;

/// A credential. Its key is never shown.
pub struct Credential {
    name: String,
    role: Option<String>,
    charge_points: Vec<String>,
    /// When it was issued, if it is the one that may make the first ledger.
    first_ledger_at_s: Option<i64>,
    expires_at_s: Option<i64>,
    jwt: String,
    key: KeyPair,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Why a credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It cannot be read.
    #[error("cannot read the credentials file {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Others on the machine could use it as well.
    #[error(
        "the credentials file {path} has mode {mode:03o}; everybody may use it: chmod 600 {path}"
    )]
    Open {
        /// Which file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// It is none.
    #[error("{path} is no credentials file: {why}; `central enrol` writes one")]
    Parse {
        /// Which file.
        path: String,
        /// What is missing or wrong.
        why: &'static str,
    },
}

#[derive(Deserialize)]
struct Claims {
    name: String,
    exp: Option<i64>,
    #[serde(default)]
    iat: i64,
    #[serde(default)]
    nats: User,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    tags: Vec<String>,
}

impl Credential {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let shown = path.display().to_string();
        let failed = |source| CredentialError::Read {
            path: shown.clone(),
            source,
        };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & READABLE_BY_OTHERS != 0 {
            return Err(CredentialError::Open { path: shown, mode });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|why| CredentialError::Parse { path: shown, why })
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let jwt = block(text, "NATS USER JWT").ok_or("it has no user JWT")?;
        let seed = block(text, "USER NKEY SEED").ok_or("it has no user key")?;
        let claims = jwt.split('.').nth(1).ok_or("its JWT has no claims")?;
        let claims = data_encoding::BASE64URL_NOPAD
            .decode(claims.as_bytes())
            .map_err(|_| "its JWT is not base64")?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| "its JWT names nobody")?;
        let role = claims
            .nats
            .tags
            .iter()
            .find_map(|tag| tag.strip_prefix("role:"))
            .map(str::to_owned);
        let charge_points = claims
            .nats
            .tags
            .iter()
            .filter_map(|tag| tag.strip_prefix("cp:"))
            .map(str::to_owned)
            .collect();
        let first_ledger_at_s = claims
            .nats
            .tags
            .iter()
            .any(|tag| tag == FIRST_LEDGER_TAG)
            .then_some(claims.iat);
        Ok(Self {
            name: claims.name,
            role,
            charge_points,
            first_ledger_at_s,
            expires_at_s: claims.exp,
            jwt: jwt.to_owned(),
            key: KeyPair::from_seed(seed).map_err(|_| "its key is none")?,
        })
    }

    /// Whose it is: the id in the subjects that it may use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was enrolled as, for messages to people. The server goes by the signature alone.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// The charge points that it names, where it is for several.
    #[must_use]
    pub fn charge_points(&self) -> &[String] {
        &self.charge_points
    }

    /// Whether its bearer may make the first ledger of an installation at `now_s`, in seconds since 1970.
    #[must_use]
    pub fn may_begin_ledger(&self, now_s: i64) -> bool {
        self.first_ledger_at_s
            .is_some_and(|at_s| now_s.abs_diff(at_s) <= FIRST_LEDGER_S.unsigned_abs())
    }

    /// When it ends, in seconds since 1970.
    #[must_use]
    pub fn expires_at_s(&self) -> Option<i64> {
        self.expires_at_s
    }

    /// Since when it is good for nothing, by this machine's clock.
    #[must_use]
    pub fn expired_at(&self) -> Option<jiff::Timestamp> {
        let at = jiff::Timestamp::from_second(self.expires_at_s?).ok()?;
        (at <= jiff::Timestamp::now()).then_some(at)
    }

    /// Whether it is `name`'s in a role.
    ///
    /// # Errors
    /// [`AccessError::Whose`].
    pub fn check(&self, path: &Path, role: &'static str, name: &str) -> Result<(), AccessError> {
        // One that other tools have made has no role in it.
        if self.name == name && self.role.as_deref().is_none_or(|own| own == role) {
            return Ok(());
        }
        let own_role = self.role.as_deref().unwrap_or("somebody called");
        Err(AccessError::Whose {
            path: path.display().to_string(),
            is: format!("{own_role} {}", self.name),
            role,
            name: name.to_owned(),
        })
    }

    /// Its public key.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }

    /// The only inboxes that it may listen on.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        inbox_prefix(&self.name)
    }

    /// What the server wants to see: that the bearer has the key.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn answer(&self, nonce: &[u8]) -> Result<async_nats::Auth, async_nats::AuthError> {
        let mut auth = async_nats::Auth::new();
        auth.jwt = Some(self.jwt.clone());
        auth.signature = Some(self.key.sign(nonce).map_err(async_nats::AuthError::new)?);
        Ok(auth)
    }
}

/// Where answers to somebody's own questions arrive. Within an account nobody else may listen
/// there, which the library's common `_INBOX.` would allow.
#[must_use]
pub fn inbox_prefix(name: &str) -> String {
    format!("_INBOX_{name}")
}

/// What stands between the two lines of dashes that name `what`.
fn block<'t>(text: &'t str, what: &str) -> Option<&'t str> {
    let mut lines = text.lines().map(str::trim);
    let begin = format!("-----BEGIN {what}-----");
    lines.find(|line| *line == begin)?;
    let content = lines.next()?;
    let end = lines.next()?;
    (end.starts_with("---") && end.ends_with(&format!("END {what}------"))).then_some(content)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn file(claims: &str) -> String {
        let claims = data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes());
        let seed = KeyPair::new_user().seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\nh.{claims}.s\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_credential_says_whose_it_is_and_where_its_answers_arrive() {
        let claims = r#"{"name":"CP-001","exp":9,"nats":{"tags":["role:charge-point"]}}"#;
        let credential = Credential::parse(&file(claims)).expect("a credential");
        assert_eq!(credential.name(), "CP-001");
        assert_eq!(credential.role(), Some("charge-point"));
        assert_eq!(credential.expires_at_s(), Some(9));
        assert_eq!(credential.inbox_prefix(), "_INBOX_CP-001");
        assert!(!format!("{credential:?}").contains("seed"));
    }

    #[test]
    fn the_first_central_may_make_the_ledger_for_a_day() {
        let claims =
            r#"{"name":"central-1","iat":1000000,"nats":{"tags":["role:central","ledger:first"]}}"#;
        let first = Credential::parse(&file(claims)).expect("a credential");
        for (now_s, may) in [
            (1_000_000, true),
            (1_086_400, true),
            (1_086_401, false),
            // A clock that is a little behind is none that has no idea.
            (999_000, true),
            (0, false),
        ] {
            assert_eq!(first.may_begin_ledger(now_s), may, "{now_s}");
        }
        let next = claims.replace(",\"ledger:first\"", "");
        let next = Credential::parse(&file(&next)).expect("a credential");
        assert!(!next.may_begin_ledger(1_000_000));
    }

    #[test]
    fn what_is_no_credential_is_refused_with_a_reason() {
        let good = file(r#"{"name":"alice"}"#);
        for (text, why) in [
            (String::new(), "user JWT"),
            (good.replace("BEGIN USER NKEY", "BEGIN"), "user key"),
            (good.replace("\nh.", "\nh"), "not base64"),
            (file("{}"), "names nobody"),
            (good.replace("\nSU", "\nXX"), "key is none"),
        ] {
            let refused = Credential::parse(&text).expect_err("it was taken");
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("alice.creds");
        fs::write(&path, file(r#"{"name":"alice"}"#)).expect("written");
        for (mode, is_taken) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(Credential::read(&path).is_ok(), is_taken, "{mode:o}");
        }
    }
}
