//! `[connections]` of `central.toml`: how many connections one credential may have open.

use ev_enrol::Role;
use serde::Deserialize;

/// Connections of one credential over all servers; the newest beyond are closed.
///
/// nats-server counts by account alone, so that one credential could take all places of a kind.
/// Each number has room for those that are gone and that a server has not missed yet: it needs up
/// to 15 s (`ping_interval` and `ping_max`), and an agent on a bad line comes back sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionLimits {
    /// Of a driver. An app has one, a shell that watches another; a fleet under one id shares one.
    pub driver: usize,
    /// Of an operator: some terminals and tools.
    pub operator: usize,
    /// Of a charge point. Its agent has one.
    pub charge_point: usize,
    /// Of a replica of central. It has five; twice as many are those of before a cut line.
    pub central: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            driver: 8,
            operator: 8,
            charge_point: 4,
            central: 15,
        }
    }
}

impl ConnectionLimits {
    /// With their keys, to be checked and documented.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, usize); 4] {
        [
            ("connections.driver", self.driver),
            ("connections.operator", self.operator),
            ("connections.charge_point", self.charge_point),
            ("connections.central", self.central),
        ]
    }

    /// How many a credential of this role may have; none where nothing is closed: the newest would
    /// be, and so a thief's few could keep out who comes to revoke them. Their account has a limit.
    #[must_use]
    pub const fn of(&self, role: Role) -> Option<usize> {
        match role {
            Role::Driver => Some(self.driver),
            Role::Operator => Some(self.operator),
            Role::ChargePoint => Some(self.charge_point),
            Role::Central => Some(self.central),
            Role::Maintainer
            | Role::Enrol
            | Role::Doorkeeper
            | Role::Registrar
            | Role::Leaf
            | Role::Load => None,
        }
    }
}
