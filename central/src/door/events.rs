//! What nats-server says about connections, as of 2.15: JSON, of which only what is used here.

use std::sync::Arc;

use ev_contract::ids::CpId;
use ev_enrol::Role;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::{
    table::{Connection, Place},
    token::{Token, role_called},
};

/// Somebody connected, has ended, or was refused.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// Where.
    pub server: Server,
    /// Who.
    pub client: Client,
    /// Why it ended.
    #[serde(default)]
    pub reason: String,
    /// When it happened, by the server's clock.
    #[serde(default, deserialize_with = "time")]
    pub timestamp: Option<Timestamp>,
}

/// A server.
#[derive(Debug, Deserialize)]
pub struct Server {
    /// Another one after each start.
    #[serde(deserialize_with = "shared")]
    pub id: Arc<str>,
}

/// A client. Its `user` is not read: there stands what the client says in CONNECT, where it says
/// something. The token is what the server has verified, if it has let the client in.
#[derive(Debug, Deserialize)]
pub struct Client {
    /// Its number at the server.
    pub id: u64,
    /// What its account's token is called.
    #[serde(default)]
    pub name_tag: String,
    /// The token that was shown.
    #[serde(default)]
    pub jwt: String,
    /// From which address.
    #[serde(default)]
    pub host: String,
    /// Since when.
    #[serde(default, deserialize_with = "time")]
    pub start: Option<Timestamp>,
    /// What the client calls itself.
    #[serde(default)]
    pub name: String,
}

impl Event {
    /// Reads one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// Where the connection is.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            server: Arc::clone(&self.server.id),
            cid: self.client.id,
        }
    }

    /// The connection, if it has a credential that was let in.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        connection(
            self.place(),
            &self.client.name_tag,
            &self.client.jwt,
            self.client.start,
        )
    }

    /// The charge point whose connection it is, and the credential's public key.
    #[must_use]
    pub fn charge_point(&self) -> Option<(CpId, String)> {
        let token = Token::read(&self.client.jwt)?;
        let is_one = role(&self.client.name_tag, &token) == Some(Role::ChargePoint);
        let id = token.name.filter(|_| is_one)?.parse().ok()?;
        Some((id, token.key))
    }
}

/// What a server says of itself from time to time, or at its end.
#[derive(Debug, Deserialize)]
pub struct Sign {
    /// Which server.
    pub server: Server,
}

impl Sign {
    /// Reads one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}

/// A page of who is connected to a server.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// Which server.
    pub server: Server,
    /// Who.
    pub data: Listing,
}

/// Part of a listing.
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// How many there are.
    #[serde(default)]
    pub total: usize,
    /// These.
    #[serde(default)]
    pub connections: Vec<Listed>,
}

/// A connection in a listing.
#[derive(Debug, Deserialize)]
pub struct Listed {
    cid: u64,
    #[serde(default)]
    name_tag: String,
    #[serde(default)]
    jwt: String,
    #[serde(default, deserialize_with = "time")]
    start: Option<Timestamp>,
}

impl Page {
    /// Reads one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// The connections in it that have a credential.
    pub fn connections(&self) -> impl Iterator<Item = Connection> {
        self.data.connections.iter().filter_map(|listed| {
            let place = Place {
                server: Arc::clone(&self.server.id),
                cid: listed.cid,
            };
            connection(place, &listed.name_tag, &listed.jwt, listed.start)
        })
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(text.parse().ok())
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Arc::from)
}

fn connection(
    place: Place,
    account: &str,
    jwt: &str,
    since: Option<Timestamp>,
) -> Option<Connection> {
    let token = Token::read(jwt)?;
    Some(Connection {
        place,
        role: role(account, &token)?,
        key: token.key,
        since: since.unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// What somebody is that was let in. The account decides, whose name the operator has signed; the
/// token's word counts where the account has several roles.
#[must_use]
pub fn role(account: &str, token: &Token) -> Option<Role> {
    let of_account: Vec<Role> = Role::ALL
        .into_iter()
        .filter(|role| role.account().as_str() == account)
        .collect();
    let said = token.role.as_deref().and_then(role_called);
    said.filter(|role| of_account.contains(role))
        .or_else(|| of_account.first().copied())
}
