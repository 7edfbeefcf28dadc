//! What a credential's token says, and whether it is worth anything. The server tells only that it
//! refused; why is found out here, from the token and the accounts that the servers go by.

use std::{collections::HashMap, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use ev_contract::ids::OperatorId;
use ev_enrol::Role;
use nkeys::KeyPair;
use serde::Deserialize;

/// Longest token that is read. Ours have some 500 bytes, and the server takes a CONNECT of 4 KiB.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest token of an account that is read. Each revocation has 80 bytes: ten thousand.
const ACCOUNT_BYTES_MAX: usize = 1024 * 1024;
/// What the server says of a connection that somebody had it close.
pub const KICKED: &str = "Kicked";
/// In an account's revocations: everybody.
const EVERYBODY: &str = "*";

/// A user's token, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it says it is, where that can be a name.
    pub name: Option<String>,
    /// The credential's public key.
    pub key: String,
    /// Who has signed it.
    pub issuer: String,
    /// What it was enrolled as.
    pub role: Option<String>,
    issued_at_s: i64,
    expires_at_s: Option<i64>,
}

#[derive(Deserialize)]
struct Claims<N> {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    iat: i64,
    exp: Option<i64>,
    nats: N,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct AccountClaims {
    #[serde(default)]
    signing_keys: Vec<SigningKey>,
    #[serde(default)]
    revocations: HashMap<String, i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SigningKey {
    Scoped { key: String, role: String },
    Other(serde::de::IgnoredAny),
}

fn claims<N: serde::de::DeserializeOwned>(text: &str, bytes_max: usize) -> Option<Claims<N>> {
    if text.len() > bytes_max {
        return None;
    }
    let claims = text.split('.').nth(1)?;
    let bytes = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Token {
    /// Reads a token and does not judge it: for those that the server has let in.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let claims: Claims<User> = claims(text, TOKEN_BYTES_MAX)?;
        let role = claims
            .nats
            .tags
            .iter()
            .find_map(|t| t.strip_prefix("role:"));
        Some(Self {
            role: role.map(str::to_owned),
            name: OperatorId::from_str(&claims.name)
                .ok()
                .map(|n| n.to_string()),
            key: claims.sub,
            issuer: claims.iss,
            issued_at_s: claims.iat,
            expires_at_s: claims.exp,
        })
    }

    /// Whether its issuer's key has signed it.
    fn is_signed(&self, text: &str) -> bool {
        let verified = || {
            let (signed, signature) = text.rsplit_once('.')?;
            let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
            let issuer = KeyPair::from_public_key(&self.issuer).ok()?;
            issuer.verify(signed.as_bytes(), &signature).ok()
        };
        verified().is_some()
    }
}

/// The accounts that the servers go by: whose signature makes which role, and who is revoked.
#[derive(Debug, Default)]
pub struct Accounts {
    /// The account and the role of each signing key.
    signers: HashMap<String, (String, Role)>,
    /// Of each account, until when a key's tokens were issued that are void.
    revocations: HashMap<String, HashMap<String, i64>>,
}

impl Accounts {
    /// Takes an account's token, as a server gave it.
    pub fn take(&mut self, account: &str, text: &str) -> bool {
        let Some(claims) = claims::<AccountClaims>(text, ACCOUNT_BYTES_MAX) else {
            return false;
        };
        self.signers.retain(|_, (of, _)| of != account);
        for key in claims.nats.signing_keys {
            if let SigningKey::Scoped { key, role } = key
                && let Some(role) = role_called(&role)
            {
                self.signers.insert(key, (account.to_owned(), role));
            }
        }
        self.revocations
            .insert(account.to_owned(), claims.nats.revocations);
        true
    }

    fn is_revoked(&self, account: &str, token: &Token) -> bool {
        let Some(revocations) = self.revocations.get(account) else {
            return false;
        };
        [token.key.as_str(), EVERYBODY]
            .iter()
            .filter_map(|key| revocations.get(*key))
            .any(|until| *until >= token.issued_at_s)
    }
}

/// The role of a name.
#[must_use]
pub fn role_called(name: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|role| role.as_str() == name)
}

/// Why the server has refused somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There was no token.
    Nothing,
    /// What was shown is no token.
    Unreadable,
    /// It was not signed by whom it names: forged, or altered.
    Signature,
    /// Nobody here has signed it.
    Stranger,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
    /// It is good; whoever showed it has not shown its key.
    Key,
}

impl Refusal {
    /// For metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing | Self::Unreadable | Self::Stranger => "unknown",
            Self::Signature | Self::Key => "signature",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "no credential was shown",
            Self::Unreadable => "what was shown is no credential",
            Self::Signature => "the credential's signature is wrong",
            Self::Stranger => {
                "nobody here has signed the credential, or with a key that was replaced"
            }
            Self::Expired => "the credential has expired",
            Self::Revoked => "the credential was revoked",
            Self::Key => "the credential was shown without its key",
        }
    }

    /// Whether accounts that have changed meanwhile would say something else.
    #[must_use]
    pub const fn may_change(self) -> bool {
        matches!(self, Self::Stranger | Self::Key)
    }
}

/// A refusal, and whose token it was: with a role only if somebody here has signed it.
pub type Judged = (Refusal, Option<(Token, Option<Role>)>);

/// Why a token was refused.
#[must_use]
pub fn judge(text: &str, accounts: &Accounts, now_s: i64) -> Judged {
    if text.is_empty() {
        return (Refusal::Nothing, None);
    }
    let Some(token) = Token::read(text) else {
        return (Refusal::Unreadable, None);
    };
    if !token.is_signed(text) {
        return (Refusal::Signature, Some((token, None)));
    }
    let Some((account, role)) = accounts.signers.get(&token.issuer) else {
        return (Refusal::Stranger, Some((token, None)));
    };
    let refusal = if token.expires_at_s.is_some_and(|at| at <= now_s) {
        Refusal::Expired
    } else if accounts.is_revoked(account, &token) {
        Refusal::Revoked
    } else {
        Refusal::Key
    };
    (refusal, Some((token, Some(*role))))
}

/// Why the server has closed a connection, in its words, as a label, and whether it is written
/// down: not what happens to everybody on a bad line.
#[must_use]
pub fn closing(words: &str) -> (&'static str, bool) {
    match words {
        "Credentials Revoked" | "Missing Account" => ("revoked", true),
        "Authentication Expired" => ("expired", true),
        KICKED => ("kicked", true),
        "Maximum Account Connections Exceeded"
        | "Maximum Connections Exceeded"
        | "Maximum Subscriptions Exceeded"
        | "Maximum Message Payload Exceeded" => ("limit", true),
        "Maximum Control Line Exceeded"
        | "Protocol Violation"
        | "Bad Client Protocol Version"
        | "Parse Error"
        | "Message Header Violation"
        | "Authentication Failure" => ("violation", true),
        "Slow Consumer (Pending Bytes)" | "Slow Consumer (Write Deadline)" => ("slow", false),
        "Stale Connection" => ("stale", false),
        "Client Closed" | "Read Error" | "Write Error" => ("left", false),
        "Server Shutdown" => ("server_ended", false),
        _ => ("other", false),
    }
}
