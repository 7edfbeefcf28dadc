//! The one table of who may do what: accounts, what crosses between them, and roles.
//!
//! A credential carries a name and nothing else. The server puts it into the role's template, so
//! that a change here, pushed, changes what every credential of the role may do.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use ev_contract::{
    ids::{CpId, DriverId, InvalidId, OperatorId, ReplicaId, SiteId},
    limits::{EVT_BYTES_MAX, REQUEST_BYTES_MAX},
    streams::{self, SNAPSHOT_BUCKET},
    subjects::{
        AUDIT_ALL, AUDIT_ENROLMENTS, CDR_ALL, CP_COMMANDS, CP_EVENTS, CP_HEARTBEATS,
        CP_LIVE_VALUES, CP_SYNCS, DRIVER_REQUESTS, ENROLMENTS, LEDGER, OPERATOR_REQUESTS,
        UPTIME_ALL, WATCH,
    },
};
use serde::{Deserialize, Serialize};

/// A room of its own: nothing leaves or enters it but by [`CROSSINGS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Account {
    /// Central, and the only JetStream.
    Core,
    /// Charge points.
    Edge,
    /// Drivers.
    Drivers,
    /// Operators.
    Operators,
    /// Those who tell central and its audit of credentials. An account of its own, so that neither
    /// an answer nor the stream's acknowledgement can be aimed at anything of CORE.
    Registrars,
    /// The servers' own.
    Sys,
}

impl Account {
    /// All of them. The servers' own comes last: pushing it may end the connection that pushes.
    pub const ALL: [Self; 6] = [
        Self::Core,
        Self::Edge,
        Self::Drivers,
        Self::Operators,
        Self::Registrars,
        Self::Sys,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "CORE",
            Self::Edge => "EDGE",
            Self::Drivers => "DRIVERS",
            Self::Operators => "OPERATORS",
            Self::Registrars => "REGISTRARS",
            Self::Sys => "SYS",
        }
    }

    /// Connections that may be open at once. Together less than a server's `max_connections` of
    /// 40,000, so that whoever fills an account shuts out nobody of another.
    #[must_use]
    pub const fn connections_max(self) -> i64 {
        match self {
            // Six per central, and room for a replacement of every one of ten.
            Self::Core => 100,
            Self::Edge => 25_000,
            Self::Drivers => 12_000,
            Self::Operators => 500,
            Self::Registrars => 16,
            // A doorkeeper per central and its replacement, and some at enrolling.
            Self::Sys => 32,
        }
    }

    /// Leaf nodes that may be linked at once; they take places of `max_connections` too.
    #[must_use]
    pub const fn leaves_max(self) -> i64 {
        match self {
            Self::Edge => 300,
            _ => 0,
        }
    }

    /// Whether it has streams.
    #[must_use]
    pub const fn has_jetstream(self) -> bool {
        matches!(self, Self::Core)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How something crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A question goes to the owner, and one answer comes back: no subject of one account is
    /// reachable by a reply subject of the other.
    Service,
    /// What the owner publishes is heard in the other account.
    Stream,
}

/// What crosses between two accounts, under the same subject on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Crossing {
    /// Which subjects.
    pub subject: &'static str,
    /// How.
    pub kind: Kind,
    /// Who answers the questions, or publishes.
    pub owner: Account,
    /// Who asks, or listens.
    pub user: Account,
    /// Whether the owner is shown who asks, in a header. What goes into a stream is kept as it
    /// comes, so not there.
    pub share: bool,
}

/// Everything that crosses.
pub const CROSSINGS: [Crossing; 10] = [
    service(DRIVER_REQUESTS, Account::Core, Account::Drivers),
    service(OPERATOR_REQUESTS, Account::Core, Account::Operators),
    service(ENROLMENTS, Account::Core, Account::Registrars),
    Crossing {
        share: false,
        ..service(AUDIT_ENROLMENTS, Account::Core, Account::Registrars)
    },
    service(CP_SYNCS, Account::Core, Account::Edge),
    service(CP_EVENTS, Account::Core, Account::Edge),
    service(CP_COMMANDS, Account::Edge, Account::Core),
    stream(CP_HEARTBEATS, Account::Edge, Account::Core),
    stream(CP_LIVE_VALUES, Account::Edge, Account::Drivers),
    stream(WATCH, Account::Core, Account::Drivers),
];

const fn service(subject: &'static str, owner: Account, user: Account) -> Crossing {
    Crossing {
        subject,
        kind: Kind::Service,
        owner,
        user,
        // For central's audit.
        share: matches!(owner, Account::Core),
    }
}

const fn stream(subject: &'static str, owner: Account, user: Account) -> Crossing {
    Crossing {
        subject,
        kind: Kind::Stream,
        owner,
        user,
        share: false,
    }
}

/// What somebody is. Each has a signing key of its own, which can sign nothing else.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A replica of central.
    Central,
    /// A charge point's agent.
    ChargePoint,
    /// A driver.
    Driver,
    /// An operator.
    Operator,
    /// Somebody who repairs streams by hand: whoever holds it can destroy the ledger.
    Maintainer,
    /// Puts accounts in force on running servers; used by `central enrol` itself.
    Enrol,
    /// Hears who connects, and closes connections: central's second pair of eyes.
    Doorkeeper,
    /// Tells central and its audit of credentials; used by `central enrol` itself.
    Registrar,
    /// A nats-server at a site, which carries what its charge points say and hear.
    Leaf,
    /// A program that is many charge points at once, to load a hub that is there to be tested. No
    /// installation has a key for it until [`crate::Realm::begin_load`] makes one.
    Load,
}

/// What a role may do. `{{name()}}` stands for the credential's name, `{{tag(cp)}}` for each charge
/// point that it was enrolled for.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Where it may publish.
    pub publish: Vec<String>,
    /// Where it may listen.
    pub subscribe: Vec<String>,
    /// It may answer each question that reaches it, once.
    pub answers: bool,
    /// Largest message in bytes.
    pub payload_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: u32,
    /// How its bearers may connect, as the server calls it.
    pub connects_as: &'static [&'static str],
}

/// Charge points of one leaf node, or of one load credential. It names each of them, and comes to central in a
/// header of whatever they ask: with the longest ids it stays below the 8 KiB that central reads.
pub const CARRIED_MAX: usize = 64;

/// The bearer's name, as the server's templates have it.
const NAME: &str = "{{name()}}";
/// The kind of tag that names a charge point behind a leaf node or of a load. In lower case, as the server looks
/// for it.
pub(crate) const CP_TAG: &str = "cp";
/// The charge points that a credential of a leaf or a load is for, as the server's templates have them.
const CARRIED: &str = "{{tag(cp)}}";
/// As programs connect that are beside the servers.
const CLIENT: &[&str] = &["STANDARD"];
/// As agents and people connect, from wherever they are: also over WebSocket, where the hub has that.
const FROM_AFAR: &[&str] = &["STANDARD", "WEBSOCKET"];
/// As a leaf node connects.
const LEAFNODE: &[&str] = &["LEAFNODE"];
/// Of a leaf: those of its charge points, and the server's own.
const LEAF_SUBSCRIPTIONS_MAX: u32 = 1_100;
/// Of a load: the commands of each of its charge points, and its own inbox.
const LOAD_SUBSCRIPTIONS_MAX: u32 = 80;
/// Subscriptions of an agent.
const AGENT_SUBSCRIPTIONS_MAX: u32 = 16;
/// Room for headers, and for what is beyond a bound by little: central answers that with a code,
/// while the server just closes the connection.
const PAYLOAD_SLACK: usize = 64 * 1024;
/// The server's own `max_payload`.
const PAYLOAD_SERVER_MAX: usize = 1024 * 1024;

impl Role {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Central,
        Self::ChargePoint,
        Self::Driver,
        Self::Operator,
        Self::Maintainer,
        Self::Enrol,
        Self::Doorkeeper,
        Self::Registrar,
        Self::Leaf,
        Self::Load,
    ];

    /// Whether every installation has a key for it from the start.
    #[must_use]
    pub const fn is_standing(self) -> bool {
        !matches!(self, Self::Load)
    }

    /// Its name on the command line and in file names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::ChargePoint => "charge-point",
            Self::Driver => "driver",
            Self::Operator => "operator",
            Self::Maintainer => "maintainer",
            Self::Enrol => "enrol",
            Self::Doorkeeper => "doorkeeper",
            Self::Registrar => "registrar",
            Self::Leaf => "leaf",
            Self::Load => "load",
        }
    }

    /// Where its bearers are.
    #[must_use]
    pub const fn account(self) -> Account {
        match self {
            Self::Central | Self::Maintainer => Account::Core,
            Self::ChargePoint | Self::Leaf | Self::Load => Account::Edge,
            Self::Driver => Account::Drivers,
            Self::Operator => Account::Operators,
            Self::Registrar => Account::Registrars,
            Self::Enrol | Self::Doorkeeper => Account::Sys,
        }
    }

    /// For how long a credential is good unless somebody says otherwise: as long as it would be a
    /// burden to replace it, and as short as what it could do asks for.
    #[must_use]
    pub const fn days(self) -> u32 {
        match self {
            Self::Central
            | Self::ChargePoint
            | Self::Enrol
            | Self::Doorkeeper
            | Self::Registrar
            | Self::Leaf => 365,
            Self::Driver => 90,
            Self::Operator => 30,
            Self::Load => 7,
            Self::Maintainer => 1,
        }
    }

    /// Refuses what is no name for this role. A name becomes a token of subjects, so a wildcard or
    /// a dot in one would be everybody's credential.
    ///
    /// # Errors
    /// [`InvalidId`].
    pub fn check_name(self, name: &str) -> Result<(), InvalidId> {
        match self {
            Self::Central | Self::Doorkeeper => ReplicaId::from_str(name).map(drop),
            Self::ChargePoint => CpId::from_str(name).map(drop),
            Self::Leaf => SiteId::from_str(name).map(drop),
            Self::Driver => DriverId::from_str(name).map(drop),
            Self::Operator | Self::Maintainer | Self::Enrol | Self::Registrar | Self::Load => {
                OperatorId::from_str(name).map(drop)
            }
        }
    }

    /// What it may do.
    #[must_use]
    pub fn grants(self) -> Grants {
        let inbox = format!("{}.>", ev_client::inbox_prefix(NAME));
        match self {
            Self::Central => Grants {
                publish: central_publishes(),
                subscribe: vec![
                    DRIVER_REQUESTS.into(),
                    OPERATOR_REQUESTS.into(),
                    CP_SYNCS.into(),
                    CP_EVENTS.into(),
                    CP_HEARTBEATS.into(),
                    ENROLMENTS.into(),
                    inbox,
                ],
                answers: false,
                payload_max: PAYLOAD_SERVER_MAX,
                subscriptions_max: 1_000,
                connects_as: CLIENT,
            },
            Self::ChargePoint => Grants {
                publish: vec![
                    own(CP_EVENTS, 0),
                    own(CP_SYNCS, 0),
                    own(CP_HEARTBEATS, 0),
                    own(CP_LIVE_VALUES, 0),
                ],
                subscribe: vec![own(CP_COMMANDS, 0), inbox],
                answers: true,
                payload_max: EVT_BYTES_MAX + PAYLOAD_SLACK,
                subscriptions_max: AGENT_SUBSCRIPTIONS_MAX,
                connects_as: FROM_AFAR,
            },
            // What its charge points may do together, and no more: whoever holds it can be each of
            // them. Live values are not carried: drivers listen for theirs from whichever charge
            // point, and a hub tells a leaf of such a wish only where the leaf may speak for all.
            Self::Leaf => Grants {
                publish: vec![
                    with(CARRIED, CP_EVENTS, 0),
                    with(CARRIED, CP_SYNCS, 0),
                    with(CARRIED, CP_HEARTBEATS, 0),
                    // Answers to commands. The leaf itself sends only what it may at all times, and
                    // lets each charge point answer what that was asked.
                    "_R_.>".into(),
                ],
                subscribe: vec![
                    with(CARRIED, CP_COMMANDS, 0),
                    format!("{}.>", ev_client::inbox_prefix(CARRIED)),
                ],
                answers: false,
                payload_max: EVT_BYTES_MAX + PAYLOAD_SLACK,
                subscriptions_max: LEAF_SUBSCRIPTIONS_MAX,
                connects_as: LEAFNODE,
            },
            // What its charge points may do together, over one connection of a client.
            Self::Load => Grants {
                publish: vec![
                    with(CARRIED, CP_EVENTS, 0),
                    with(CARRIED, CP_SYNCS, 0),
                    with(CARRIED, CP_HEARTBEATS, 0),
                    with(CARRIED, CP_LIVE_VALUES, 0),
                ],
                subscribe: vec![with(CARRIED, CP_COMMANDS, 0), inbox],
                answers: true,
                payload_max: EVT_BYTES_MAX + PAYLOAD_SLACK,
                subscriptions_max: LOAD_SUBSCRIPTIONS_MAX,
                connects_as: CLIENT,
            },
            Self::Driver => Grants {
                publish: vec![own(DRIVER_REQUESTS, 0)],
                subscribe: vec![own(WATCH, 0), own(CP_LIVE_VALUES, 1), inbox],
                answers: false,
                payload_max: REQUEST_BYTES_MAX + PAYLOAD_SLACK,
                subscriptions_max: 64,
                connects_as: FROM_AFAR,
            },
            Self::Operator => Grants {
                publish: vec![own(OPERATOR_REQUESTS, 0)],
                subscribe: vec![inbox],
                answers: false,
                payload_max: REQUEST_BYTES_MAX + PAYLOAD_SLACK,
                subscriptions_max: 64,
                connects_as: FROM_AFAR,
            },
            Self::Maintainer => Grants {
                publish: vec![
                    "$JS.API.>".into(),
                    "$JS.ACK.>".into(),
                    "$JS.FC.>".into(),
                    // Copies of streams, out and in.
                    "$JS.SNAPSHOT.>".into(),
                ],
                subscribe: vec![inbox],
                answers: false,
                payload_max: PAYLOAD_SERVER_MAX,
                subscriptions_max: 64,
                connects_as: CLIENT,
            },
            Self::Registrar => Grants {
                publish: vec![own(ENROLMENTS, 0), AUDIT_ENROLMENTS.into()],
                subscribe: vec![inbox],
                answers: false,
                payload_max: REQUEST_BYTES_MAX + PAYLOAD_SLACK,
                subscriptions_max: 8,
                connects_as: CLIENT,
            },
            Self::Enrol => Grants {
                publish: vec![
                    "$SYS.REQ.CLAIMS.UPDATE".into(),
                    "$SYS.REQ.ACCOUNT.*.INFO".into(),
                    "$SYS.REQ.SERVER.PING".into(),
                ],
                subscribe: vec![inbox],
                answers: false,
                payload_max: PAYLOAD_SERVER_MAX,
                subscriptions_max: 8,
                connects_as: CLIENT,
            },
            Self::Doorkeeper => Grants {
                publish: vec![
                    "$SYS.REQ.SERVER.*.KICK".into(),
                    // Who is connected, of one server or, with PING, of all.
                    "$SYS.REQ.SERVER.*.CONNZ".into(),
                    // What all servers say of themselves and of their streams, for Prometheus.
                    "$SYS.REQ.SERVER.PING.VARZ".into(),
                    "$SYS.REQ.SERVER.PING.JSZ".into(),
                    // Accounts as the servers go by them: whose signature counts, who is revoked.
                    "$SYS.REQ.CLAIMS.LIST".into(),
                    "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP".into(),
                ],
                subscribe: vec![
                    "$SYS.ACCOUNT.*.CONNECT".into(),
                    "$SYS.ACCOUNT.*.DISCONNECT".into(),
                    "$SYS.SERVER.*.CLIENT.AUTH.ERR".into(),
                    // Which servers there are.
                    "$SYS.SERVER.*.STATSZ".into(),
                    "$SYS.SERVER.*.SHUTDOWN".into(),
                    inbox,
                ],
                answers: false,
                payload_max: REQUEST_BYTES_MAX,
                subscriptions_max: 16,
                connects_as: CLIENT,
            },
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What central sends. Of the JetStream API only what it needs: its streams can be made, read and
/// added to, and neither deleted nor emptied nor changed, so that a stolen credential cannot
/// rewrite history. Snapshots are no history: old ones are removed.
fn central_publishes() -> Vec<String> {
    let bucket = format!("OBJ_{SNAPSHOT_BUCKET}");
    let mut subjects: Vec<String> = [
        WATCH,
        CP_COMMANDS,
        LEDGER,
        CDR_ALL,
        AUDIT_ALL,
        UPTIME_ALL,
        // Answers to whoever asked through a service import.
        "_R_.>",
        "$JS.API.INFO",
        "$JS.FC.>",
    ]
    .map(str::to_owned)
    .into();
    let (ledger, cdr, audit) = (streams::LEDGER.name, streams::CDR.name, streams::AUDIT.name);
    let uptime = streams::UPTIME.name;
    for stream in [ledger, cdr, audit, uptime, bucket.as_str()] {
        subjects.extend([
            format!("$JS.API.STREAM.CREATE.{stream}"),
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.INFO.{stream}.*"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
        ]);
    }
    // What can be read can be copied: `central backup`.
    for stream in [ledger, cdr, audit, uptime] {
        subjects.extend([
            format!("$JS.API.STREAM.SNAPSHOT.{stream}"),
            format!("$JS.SNAPSHOT.ACK.{stream}.>"),
        ]);
    }
    subjects.extend([
        format!("$JS.API.CONSUMER.MSG.NEXT.{audit}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{cdr}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{uptime}.*"),
        format!("$JS.API.DIRECT.GET.{bucket}"),
        format!("$JS.API.DIRECT.GET.{bucket}.>"),
        format!("$JS.API.STREAM.PURGE.{bucket}"),
        format!("$O.{SNAPSHOT_BUCKET}.>"),
    ]);
    subjects
}

/// A pattern of the contract with the bearer's name in place of the nth `*`.
fn own(pattern: &str, nth: usize) -> String {
    with(NAME, pattern, nth)
}

/// A pattern of the contract with something in place of the nth `*`.
fn with(what: &str, pattern: &str, nth: usize) -> String {
    let mut stars = 0;
    let tokens: Vec<&str> = pattern
        .split('.')
        .map(|token| {
            let is_star = token == "*";
            stars += usize::from(is_star);
            if is_star && stars == nth + 1 {
                what
            } else {
                token
            }
        })
        .collect();
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_be_more_than_one_token_is_refused_for_every_role() {
        for role in Role::ALL {
            for name in [
                "",
                "*",
                ">",
                "a.b",
                "a b",
                "a\t",
                "a\n",
                "ä",
                "{{name()}}",
                "a*",
                "a/b",
                "../a",
            ] {
                assert!(role.check_name(name).is_err(), "{role} took {name:?}");
            }
            assert!(role.check_name(&"a".repeat(65)).is_err());
            assert!(role.check_name("CP-001_x").is_ok());
        }
    }

    #[test]
    fn the_accounts_connections_fit_into_one_server() {
        let all: i64 = Account::ALL
            .iter()
            .map(|a| a.connections_max() + a.leaves_max())
            .sum();
        assert!(all < 40_000, "{all}");
    }

    #[test]
    fn a_name_stands_where_the_bearer_is_named() {
        assert_eq!(own(CP_COMMANDS, 0), "ev.v1.cp.{{name()}}.cmd.*");
        assert_eq!(own(CP_LIVE_VALUES, 1), "ev.v1.cp.*.live.{{name()}}.*");
    }
}
