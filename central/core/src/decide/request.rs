//! What all requests have in common: answered once, whatever the answer.

use std::sync::Arc;

use ev_contract::{
    codes::Code,
    ids::{CpId, DriverId, RequestId, SessionId, SiteId, TariffId},
    limits::{CLOCK_TOLERANCE_MS, REQUEST_LIFE_MS_MAX},
    time::UnixMs,
    units::Amount,
    v1::{LimitsRequest, Origin, Reach, Tariff, TariffScope, TariffTerms},
};
use serde::Serialize;

use super::{Ctx, operate, session};
use crate::{
    frame::{Kind, Write},
    keys::Asker,
    model::{Answer, Request},
    state::State,
    tx::Tx,
};

/// Who asks, under which id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who, by the authenticated subject.
    pub asker: Asker,
    /// Under which id.
    pub request: RequestId,
    /// Until when it may be decided, unless it is a stop; see [`Wish::is_stop`].
    pub expires_at: UnixMs,
    /// Of the content; see [`Wish::content`].
    pub content: [u8; 16],
}

/// A one-off act at a charge point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Act {
    /// Release the plug.
    Unlock,
    /// Boot the charger.
    Reset,
}

/// A version of a tariff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenPrice {
    /// Which tariff.
    pub tariff: TariffId,
    /// Which version.
    pub version: u32,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Wish {
    /// Start a session.
    Start {
        /// For whom.
        driver: DriverId,
        /// By whom: app or operator.
        origin: Origin,
        /// Where.
        cp: CpId,
        /// On which connector, as it was given.
        connector: Option<i64>,
        /// When to end by itself.
        limits: LimitsRequest,
        /// The price that the asker has seen; at another one nothing starts.
        seen: Option<SeenPrice>,
        /// What the shell has just seen of the charge point. No part of the content.
        #[serde(skip)]
        reach: Reach,
        /// Whether it was asked for in JSON: then its updates come in JSON. No part of the content.
        #[serde(skip)]
        json: bool,
    },
    /// A driver stops a session.
    Stop {
        /// Which.
        session: SessionId,
    },
    /// An operator ends a session.
    End {
        /// Which.
        session: SessionId,
        /// Why, in words.
        reason: String,
        /// Without the charge point's word.
        write_off: bool,
    },
    /// An operator corrects a receipt.
    Adjust {
        /// Of which session.
        session: SessionId,
        /// By how much.
        amount: Amount,
        /// Why, in words.
        reason: String,
    },
    /// Into service or out of it.
    Service {
        /// Where.
        cp: CpId,
        /// Which connector; all when none.
        connector: Option<i64>,
        /// Into or out.
        serve: bool,
    },
    /// A charge point stands at a site.
    Site {
        /// Which.
        cp: CpId,
        /// Where.
        site: SiteId,
        /// The site's IANA time zone; as before when none.
        time_zone: Option<String>,
    },
    /// A one-off act, passed on to the charge point.
    Act {
        /// Where.
        cp: CpId,
        /// Which connector.
        connector: Option<i64>,
        /// What.
        act: Act,
    },
    /// Keep a driver from starting.
    Block {
        /// Whom.
        driver: DriverId,
        /// Why, in words.
        reason: String,
    },
    /// Let a driver start again.
    Unblock {
        /// Whom.
        driver: DriverId,
    },
    /// A new version of a tariff.
    SetTariff {
        /// Its name.
        tariff: TariffId,
        /// Where it applies.
        scope: TariffScope,
        /// From when; at once when none.
        from: Option<UnixMs>,
        /// The prices.
        terms: TariffTerms,
    },
    /// Nothing of its own for a scope any more.
    RemoveTariff {
        /// Which.
        scope: TariffScope,
        /// Only what is scheduled.
        scheduled_only: bool,
    },
}

impl Wish {
    /// Whether it stops a session and does nothing else. That is never too late, and done twice it is
    /// done once: so no clock refuses it, neither the asker's nor central's.
    #[must_use]
    pub const fn is_stop(&self) -> bool {
        matches!(
            self,
            Self::Stop { .. }
                | Self::End {
                    write_off: false,
                    ..
                }
        )
    }

    /// A digest of what is wanted and until when: the same id with another one is another request.
    #[must_use]
    pub fn content(&self, expires_at: UnixMs) -> [u8; 16] {
        let mut content = [0; 16];
        // Encoding plain data into memory does not fail; if it ever did, all contents would look
        // alike and the first answer would stand, which is safe.
        let bytes = rmp_serde::to_vec(&(self, expires_at)).unwrap_or_default();
        content.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        content
    }
}

/// What the state knows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<'s> {
    /// It was answered.
    Answered(&'s Answer),
    /// The id was used for something else.
    Reused,
}

/// Looks a request up in the applied state.
#[must_use]
pub fn known<'s>(state: &'s State, ask: &Ask) -> Option<Known<'s>> {
    state.request_of(&ask.asker, &ask.request).map(|entry| {
        if entry.value.content == ask.content {
            Known::Answered(&entry.value.answer)
        } else {
            Known::Reused
        }
    })
}

/// What deciding a request came to.
pub(super) enum Verdict {
    /// A record of this kind.
    Record(Kind),
    /// The state, or the frame that is being filled, has its answer.
    Known,
    /// It may have been answered and forgotten.
    Forgotten,
}

/// A refusal under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: Code,
    pub what: String,
    pub session: Option<SessionId>,
    pub tariff: Option<Arc<Tariff>>,
}

impl Refusal {
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            session: None,
            tariff: None,
        }
    }

    pub fn with(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }
}

pub(super) fn decide(tx: &mut Tx<'_, '_>, ctx: Ctx<'_>, ask: &Ask, wish: &Wish) -> Verdict {
    if tx.request(&ask.asker, &ask.request).is_some() {
        return Verdict::Known;
    }
    let horizon = tx.horizon();
    let now = ctx.now.wall;
    let latest = now.plus_ms(REQUEST_LIFE_MS_MAX + CLOCK_TOLERANCE_MS);
    let mut expires_at = ask.expires_at;
    let outcome = if wish.is_stop() {
        // Only how long the answer is kept follows from it. Forgotten, the same bytes may be decided
        // anew: what they stop by then was to be stopped.
        let earliest = now.max(horizon.plus_ms(1));
        expires_at = expires_at.clamp(earliest, earliest.plus_ms(REQUEST_LIFE_MS_MAX));
        wanted(tx, ctx, ask, wish)
    } else if expires_at <= horizon {
        return Verdict::Forgotten;
    } else if ask.expires_at < now {
        Err(Refusal::new(
            Code::Expired,
            format!("by {} ms", now.ms_since(ask.expires_at)),
        ))
    } else if ask.expires_at > latest {
        Err(Refusal::new(
            Code::ExpiryTooFar,
            format!("{} s", ask.expires_at.ms_since(now) / 1000),
        ))
    } else {
        wanted(tx, ctx, ask, wish)
    };
    let (kind, answer) = match outcome {
        Ok(done) => done,
        Err(refusal) => (
            Kind::Refused,
            Answer::Refused {
                code: refusal.code,
                what: refusal.what,
                session: refusal.session,
                tariff: refusal.tariff,
                cp: match wish {
                    Wish::Start { cp, .. }
                    | Wish::Service { cp, .. }
                    | Wish::Site { cp, .. }
                    | Wish::Act { cp, .. } => cp.to_string(),
                    Wish::Stop { .. }
                    | Wish::End { .. }
                    | Wish::Adjust { .. }
                    | Wish::Block { .. }
                    | Wish::Unblock { .. }
                    | Wish::SetTariff { .. }
                    | Wish::RemoveTariff { .. } => String::new(),
                },
            },
        ),
    };
    tx.put(Write::Request(
        ask.asker.clone(),
        ask.request.clone(),
        Arc::new(Request {
            content: ask.content,
            // Its own, however far: forgotten before, the same bytes could be decided anew.
            expires_at,
            answer,
        }),
    ));
    Verdict::Record(kind)
}

fn wanted(
    tx: &mut Tx<'_, '_>,
    ctx: Ctx<'_>,
    ask: &Ask,
    wish: &Wish,
) -> Result<(Kind, Answer), Refusal> {
    match wish {
        Wish::Start {
            driver,
            origin,
            cp,
            connector,
            limits,
            seen,
            reach,
            json,
        } => session::start(
            tx,
            ctx,
            ask,
            &session::Start {
                driver,
                origin: *origin,
                cp,
                connector: *connector,
                limits,
                seen: seen.as_ref(),
                reach: *reach,
                json: *json,
            },
        ),
        Wish::Stop { session } => session::stop(tx, ctx, &ask.asker, *session),
        Wish::End {
            session,
            reason,
            write_off,
        } => session::end(tx, ctx, *session, reason, *write_off),
        Wish::Adjust {
            session,
            amount,
            reason,
        } => operate::adjust(tx, ctx, &ask.asker, *session, *amount, reason),
        Wish::Service {
            cp,
            connector,
            serve,
        } => operate::service(tx, cp, *connector, *serve),
        Wish::Site {
            cp,
            site,
            time_zone,
        } => operate::site(tx, ctx, cp, site, time_zone.as_deref()),
        Wish::Act { cp, connector, act } => operate::act(tx, cp, *connector, *act),
        Wish::Block { driver, reason } => operate::block(tx, driver, Some(reason)),
        Wish::Unblock { driver } => operate::block(tx, driver, None),
        Wish::SetTariff {
            tariff,
            scope,
            from,
            terms,
        } => operate::set_tariff(tx, ctx, tariff, scope, *from, terms),
        Wish::RemoveTariff {
            scope,
            scheduled_only,
        } => operate::remove_tariff(tx, ctx, scope, *scheduled_only),
    }
}
