//! Waiting for a session to get somewhere, with progress on stderr.

use std::{ops::ControlFlow, time::Duration};

use ev_contract::{
    connector::Phase,
    ids::{CpId, SessionId},
    v1::{ChargePointListing, SessionView},
};
use tokio::time::timeout;

use super::Ctx;
use crate::{
    desk::Desk,
    failure::{About, Failure},
    follow::{Followed, Patience, follow},
    render::progress::Progress,
    watch::News,
};

/// The price is good to know and nothing that a start should wait for.
const PRICE_PATIENCE: Duration = Duration::from_secs(2);

/// How far to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Energy flows, or it has ended.
    Charging,
    /// No more energy flows, by the charge point's word.
    Stopped,
    /// It has ended.
    Ended,
}

impl Until {
    fn is_reached(self, view: &SessionView) -> bool {
        match self {
            Self::Charging => {
                view.state == Phase::Charging
                    || (view.started_at.is_some() && !view.state.is_ended())
            }
            Self::Stopped => view.state == Phase::Idle || view.energy_ended_at.is_some(),
            // The watcher itself says when.
            Self::Ended => false,
        }
    }
}

/// Waits, however long it takes. The session is the driver's own and known to exist.
pub(super) async fn wait(
    ctx: &Ctx,
    desk: &Desk,
    session: SessionId,
    until: Until,
    listing: Option<&ChargePointListing>,
) -> Result<SessionView, Failure> {
    let driver = ctx.driver()?;
    let mut progress = Progress::new(ctx.output, listing.map(|cp| cp.tariff.clone()));
    let mut reached = None;
    let mut unwritten = None;
    let followed = ctx
        .unless_interrupted(
            follow(desk, &driver, session, Patience::Endless, |news| {
                if let Err(failure) = progress.show(news) {
                    unwritten = Some(failure);
                    return ControlFlow::Break(());
                }
                match news {
                    News::Seen(seen) if until.is_reached(&seen.view) => {
                        reached = Some(seen.view.clone());
                        ControlFlow::Break(())
                    }
                    News::Seen(_) | News::Silent { .. } | News::Foreign { .. } | News::Tick => {
                        ControlFlow::Continue(())
                    }
                }
            }),
            || left_running(desk, session),
        )
        .await?;
    progress.clear();
    if let Some(failure) = unwritten {
        return Err(failure);
    }
    match followed {
        Followed::Ended(view) => Ok(*view),
        Followed::Enough => reached.ok_or_else(|| Failure::Other {
            message: "watching ended without news".to_owned(),
            hint: "this is a defect of this program".to_owned(),
        }),
    }
}

/// What a person hears who stops watching.
pub(super) fn left_running(desk: &Desk, session: SessionId) -> Failure {
    let line = |verb: &str| desk.invocation().line(&format!("{verb} {session}"));
    Failure::Interrupted {
        message: format!("stopped watching; session {session} goes on"),
        hint: format!("stop it:  {}\n  watch it: {}", line("stop"), line("watch")),
        about: Box::new(About {
            session_id: Some(session.to_string()),
            ..About::default()
        }),
    }
}

/// The charge point's listing with its price, if central tells it soon.
pub(super) async fn listing_of(desk: &Desk, cp_id: &str) -> Option<ChargePointListing> {
    let cp = CpId::new(cp_id).ok()?;
    timeout(PRICE_PATIENCE, desk.charge_point(&cp))
        .await
        .ok()?
        .ok()?
}
