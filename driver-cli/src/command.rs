//! Requests that change something: each is written down before it is sent, and repeated as it is.

use ev_contract::{
    v1::{
        CpActRequest, CpSiteRequest, DriverBlockRequest, LimitsRequest, OpStartRequest,
        SessionAdjustRequest, SessionEndRequest, StartRequest, StopRequest, TariffRef,
        TariffRmRequest, TariffSetRequest,
    },
    wire::{self, EncodeError, Encoding, Tag},
};
use serde::{Deserialize, Serialize};

use crate::failure::About;

/// A request that changes something, in the very form in which it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", content = "request", rename_all = "snake_case")]
pub enum Command {
    /// A driver starts a session.
    Start(StartRequest),
    /// A driver stops a session.
    Stop(StopRequest),
    /// An operator enables.
    CpEnable(CpActRequest),
    /// An operator disables.
    CpDisable(CpActRequest),
    /// An operator unlocks.
    CpUnlock(CpActRequest),
    /// `op cp site`
    CpSite(CpSiteRequest),
    /// An operator resets.
    CpReset(CpActRequest),
    /// An operator starts for a driver.
    SessionStart(OpStartRequest),
    /// An operator ends a session.
    SessionEnd(SessionEndRequest),
    /// An operator corrects a receipt.
    SessionAdjust(SessionAdjustRequest),
    /// An operator blocks a driver.
    DriverBlock(DriverBlockRequest),
    /// An operator lets a driver back in.
    DriverUnblock(DriverBlockRequest),
    /// An operator sets prices.
    TariffSet(TariffSetRequest),
    /// An operator takes prices back.
    TariffRm(TariffRmRequest),
}

impl Command {
    /// A start, not stamped yet.
    #[must_use]
    pub fn start(cp_id: String, connector: Option<i64>, limits: Option<LimitsRequest>) -> Self {
        Self::Start(StartRequest {
            tag: Tag::new(),
            to: wire::CENTRAL.to_owned(),
            request_id: String::new(),
            expires_at: 0,
            cp_id,
            connector,
            limits,
            tariff: None,
        })
    }

    /// The price that a start names.
    #[must_use]
    pub const fn price(&self) -> Option<&TariffRef> {
        match self {
            Self::Start(r) => r.tariff.as_ref(),
            Self::SessionStart(r) => r.tariff.as_ref(),
            _ => None,
        }
    }

    /// The same wish; a start at this price, where it names none.
    #[must_use]
    pub fn priced(mut self, seen: Option<&TariffRef>) -> Self {
        match &mut self {
            Self::Start(StartRequest { tariff, .. })
            | Self::SessionStart(OpStartRequest { tariff, .. }) => {
                *tariff = tariff.take().or_else(|| seen.cloned());
            }
            _ => {}
        }
        self
    }

    /// A stop, not stamped yet.
    #[must_use]
    pub fn stop(session_id: String) -> Self {
        Self::Stop(StopRequest {
            tag: Tag::new(),
            to: wire::CENTRAL.to_owned(),
            request_id: String::new(),
            expires_at: 0,
            session_id,
        })
    }

    /// The verb in the subject.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::CpEnable(_) => "cp_enable",
            Self::CpDisable(_) => "cp_disable",
            Self::CpSite(_) => "cp_site",
            Self::CpUnlock(_) => "cp_unlock",
            Self::CpReset(_) => "cp_reset",
            Self::SessionStart(_) => "session_start",
            Self::SessionEnd(_) => "session_end",
            Self::SessionAdjust(_) => "session_adjust",
            Self::DriverBlock(_) => "driver_block",
            Self::DriverUnblock(_) => "driver_unblock",
            Self::TariffSet(_) => "tariff_set",
            Self::TariffRm(_) => "tariff_rm",
        }
    }

    /// The request's id and expiry.
    #[must_use]
    pub fn stamp(&self) -> (&str, i64) {
        match self {
            Self::Start(r) => (&r.request_id, r.expires_at),
            Self::Stop(r) => (&r.request_id, r.expires_at),
            Self::CpEnable(r) | Self::CpDisable(r) | Self::CpUnlock(r) | Self::CpReset(r) => {
                (&r.request_id, r.expires_at)
            }
            Self::CpSite(r) => (&r.request_id, r.expires_at),
            Self::SessionStart(r) => (&r.request_id, r.expires_at),
            Self::SessionEnd(r) => (&r.request_id, r.expires_at),
            Self::SessionAdjust(r) => (&r.request_id, r.expires_at),
            Self::DriverBlock(r) | Self::DriverUnblock(r) => (&r.request_id, r.expires_at),
            Self::TariffSet(r) => (&r.request_id, r.expires_at),
            Self::TariffRm(r) => (&r.request_id, r.expires_at),
        }
    }

    /// The same wish under this id and expiry.
    #[must_use]
    pub fn stamped(mut self, id: &str, expiry: i64) -> Self {
        let (request_id, expires_at) = match &mut self {
            Self::Start(r) => (&mut r.request_id, &mut r.expires_at),
            Self::Stop(r) => (&mut r.request_id, &mut r.expires_at),
            Self::CpEnable(r) | Self::CpDisable(r) | Self::CpUnlock(r) | Self::CpReset(r) => {
                (&mut r.request_id, &mut r.expires_at)
            }
            Self::CpSite(r) => (&mut r.request_id, &mut r.expires_at),
            Self::SessionStart(r) => (&mut r.request_id, &mut r.expires_at),
            Self::SessionEnd(r) => (&mut r.request_id, &mut r.expires_at),
            Self::SessionAdjust(r) => (&mut r.request_id, &mut r.expires_at),
            Self::DriverBlock(r) | Self::DriverUnblock(r) => (&mut r.request_id, &mut r.expires_at),
            Self::TariffSet(r) => (&mut r.request_id, &mut r.expires_at),
            Self::TariffRm(r) => (&mut r.request_id, &mut r.expires_at),
        };
        id.clone_into(request_id);
        *expires_at = expiry;
        self
    }

    /// The same wish at whatever price.
    #[must_use]
    pub fn unpriced(mut self) -> Self {
        match &mut self {
            Self::Start(StartRequest { tariff, .. })
            | Self::SessionStart(OpStartRequest { tariff, .. }) => *tariff = None,
            _ => {}
        }
        self
    }

    /// Whether both ask for the same thing, whatever their ids and expiries.
    #[must_use]
    pub fn same_wish(&self, other: &Self) -> bool {
        self.clone().stamped("", 0) == other.clone().stamped("", 0)
    }

    /// Whether this request is one for that wish: where the wish names no price, at whatever price.
    #[must_use]
    pub fn is_for(&self, wish: &Self) -> bool {
        self.same_wish(&wish.clone().priced(self.price()))
    }

    /// The bytes on the wire: a function of the request alone, so that a repeat is the same to
    /// the byte.
    ///
    /// # Errors
    /// Never for a request of the contract.
    pub fn bytes(&self) -> Result<Vec<u8>, EncodeError> {
        const PACK: Encoding = Encoding::MsgPack;
        match self {
            Self::Start(r) => wire::encode(r, PACK),
            Self::Stop(r) => wire::encode(r, PACK),
            Self::CpEnable(r) | Self::CpDisable(r) | Self::CpUnlock(r) | Self::CpReset(r) => {
                wire::encode(r, PACK)
            }
            Self::CpSite(r) => wire::encode(r, PACK),
            Self::SessionStart(r) => wire::encode(r, PACK),
            Self::SessionEnd(r) => wire::encode(r, PACK),
            Self::SessionAdjust(r) => wire::encode(r, PACK),
            Self::DriverBlock(r) | Self::DriverUnblock(r) => wire::encode(r, PACK),
            Self::TariffSet(r) => wire::encode(r, PACK),
            Self::TariffRm(r) => wire::encode(r, PACK),
        }
    }

    /// What it is about, for whoever reports on it.
    #[must_use]
    pub fn about(&self) -> About {
        let (driver_id, cp_id, connector, session_id) = match self {
            Self::Start(r) => (None, Some(&r.cp_id), r.connector, None),
            Self::Stop(r) => (None, None, None, Some(&r.session_id)),
            Self::CpEnable(r) | Self::CpDisable(r) | Self::CpUnlock(r) | Self::CpReset(r) => {
                (None, Some(&r.cp_id), r.connector, None)
            }
            Self::CpSite(r) => (None, Some(&r.cp_id), None, None),
            Self::SessionStart(r) => (Some(&r.driver_id), Some(&r.cp_id), r.connector, None),
            Self::SessionEnd(r) => (None, None, None, Some(&r.session_id)),
            Self::SessionAdjust(r) => (None, None, None, Some(&r.session_id)),
            Self::DriverBlock(r) | Self::DriverUnblock(r) => (Some(&r.driver_id), None, None, None),
            Self::TariffSet(_) | Self::TariffRm(_) => (None, None, None, None),
        };
        About {
            request_id: Some(self.stamp().0.to_owned()),
            driver_id: driver_id.cloned(),
            cp_id: cp_id.cloned(),
            connector,
            session_id: session_id.cloned(),
            ts: None,
            tariff: None,
        }
    }

    /// What the wish is, in words: `the start on CP-001/1`.
    #[must_use]
    pub fn in_words(&self) -> String {
        fn place(cp_id: &str, connector: Option<i64>) -> String {
            connector.map_or_else(|| cp_id.to_owned(), |n| format!("{cp_id}/{n}"))
        }
        match self {
            Self::Start(r) => format!("the start on {}", place(&r.cp_id, r.connector)),
            Self::Stop(r) => format!("the stop of session {}", r.session_id),
            Self::CpEnable(r) => format!("enabling {}", place(&r.cp_id, r.connector)),
            Self::CpDisable(r) => format!("disabling {}", place(&r.cp_id, r.connector)),
            Self::CpUnlock(r) => format!("unlocking {}", place(&r.cp_id, r.connector)),
            Self::CpSite(r) => format!("placing {} at site {}", r.cp_id, r.site_id),
            Self::CpReset(r) => format!("resetting {}", place(&r.cp_id, r.connector)),
            Self::SessionStart(r) => format!(
                "the start on {} for {}",
                place(&r.cp_id, r.connector),
                r.driver_id
            ),
            Self::SessionEnd(r) => format!("the end of session {}", r.session_id),
            Self::SessionAdjust(r) => format!("the adjustment of session {}", r.session_id),
            Self::DriverBlock(r) => format!("blocking driver {}", r.driver_id),
            Self::DriverUnblock(r) => format!("unblocking driver {}", r.driver_id),
            Self::TariffSet(r) => format!("setting tariff {}", r.tariff_id),
            Self::TariffRm(r) => format!("taking back the tariff of {}", r.scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_changes_neither_the_wish_nor_anything_else() {
        let wish = Command::start("CP-001".into(), Some(1), None);
        let stamped = wish.clone().stamped("r-1", 77);
        assert_eq!(stamped.stamp(), ("r-1", 77));
        assert!(stamped.same_wish(&wish));
        assert!(!stamped.same_wish(&Command::start("CP-001".into(), Some(2), None)));
        assert!(!stamped.same_wish(&Command::stop("CP-001".into())));
    }

    #[test]
    fn a_price_that_was_named_counts_and_one_that_was_only_seen_does_not() {
        let price = |version| TariffRef {
            tariff_id: "day".into(),
            version,
        };
        let wish = Command::start("CP-001".into(), Some(1), None);
        let sent = wish.clone().priced(Some(&price(1))).stamped("r-1", 77);
        assert!(sent.is_for(&wish));
        assert!(sent.is_for(&wish.clone().priced(Some(&price(1)))));
        let other = wish.clone().priced(Some(&price(2)));
        assert!(!sent.is_for(&other));
        assert!(!wish.is_for(&other));
        // What was named stays.
        assert_eq!(other.priced(Some(&price(3))).price(), Some(&price(2)));
    }

    #[test]
    fn what_was_written_down_becomes_the_same_bytes() {
        let command = Command::start(
            "CP-001".into(),
            None,
            Some(LimitsRequest {
                energy_wh: Some(20_000),
                cost: Some("10.50".into()),
                ..LimitsRequest::default()
            }),
        )
        .stamped("r-1", 77);
        let text = serde_json::to_string(&command).unwrap();
        let read: Command = serde_json::from_str(&text).unwrap();
        assert_eq!(read.bytes().unwrap(), command.bytes().unwrap());
    }
}
