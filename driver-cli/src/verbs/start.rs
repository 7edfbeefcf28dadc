//! `start`

use ev_contract::{
    units::Currency,
    v1::{ChargePointListing, DriverUpdate, SessionView, TariffRef},
};

use super::{
    Ctx, start_wish,
    wait::{Until, listing_of, wait},
};
use crate::{
    args::{LimitArgs, StartArgs, StartWait},
    desk::Desk,
    doc::ActionDoc,
    exit::Exit,
    failure::Failure,
    price,
    render::table,
    words,
};

pub(super) async fn start(ctx: &Ctx, args: StartArgs) -> Result<Exit, Failure> {
    let wish = start_wish(
        &args.place,
        args.connector,
        &args.limits,
        args.tariff.as_ref(),
    )?;
    let desk = ctx.driver_desk().await?;
    // A program asks `list` if it wants the price; people are told before they are bound, and
    // whoever waits sees an estimate of the cost.
    let listing = if ctx.output.is_json() && args.wait == StartWait::Accepted {
        None
    } else {
        ctx.query(async { Ok(listing_of(&desk, &args.place.cp_id).await) })
            .await?
    };
    // Whoever was told a price is bound to that one alone.
    let seen = listing
        .as_ref()
        .filter(|_| !ctx.output.is_json())
        .map(|cp| {
            tell_price(ctx, cp, &args.limits);
            TariffRef::from(&cp.tariff)
        });
    let named = args.repeat.request_id.as_ref();
    let update: DriverUpdate = ctx.carry_out(&desk, &wish, seen.as_ref(), named).await?;
    let until = match args.wait {
        StartWait::Accepted => None,
        StartWait::Charging => Some(Until::Charging),
        StartWait::Ended => Some(Until::Ended),
    };
    let (Some(until), Some(session)) = (until, update.session_id) else {
        tell_accepted(ctx, &desk, &update)?;
        let cannot_wait = until.is_some() && update.session_id.is_none();
        return Ok(if cannot_wait { Exit::Other } else { Exit::Ok });
    };
    ctx.output.message(&format!(
        "accepted: session {session} on {}",
        place_of(&update)
    ));
    let view = wait(ctx, &desk, session, until, listing.as_ref())
        .await
        .map_err(|failure| about_start(failure, &update))?;
    tell_outcome(ctx, &update, &view)
}

/// What came of a session that was waited for.
fn tell_outcome(ctx: &Ctx, update: &DriverUpdate, view: &SessionView) -> Result<Exit, Failure> {
    ctx.output
        .data(&ActionDoc::outcome(update, view), || table::session(view))?;
    match words::failure_of(view) {
        Some(failure) => {
            ctx.output.complaint(
                &format!("{} ({})", failure.message, failure.word),
                &failure.hint,
            );
            Ok(Exit::Refused)
        }
        None => Ok(Exit::Ok),
    }
}

fn tell_price(ctx: &Ctx, cp: &ChargePointListing, limits: &LimitArgs) {
    ctx.output
        .message(&format!("price: {}", price::in_words(&cp.tariff)));
    if let Some(limit) = limits.limit_cost {
        let terms = &cp.tariff.terms;
        let currency: Currency = limit.currency.unwrap_or(terms.currency);
        ctx.output
            .message(&price::cost_limit_in_words(terms, limit.amount, currency));
    }
}

fn tell_accepted(ctx: &Ctx, desk: &Desk, update: &DriverUpdate) -> Result<(), Failure> {
    let place = place_of(update);
    ctx.output.data(&ActionDoc::answer(update), || {
        let session = update
            .session_id
            .map_or_else(|| "without an id".to_owned(), |id| id.to_string());
        format!("{}  session {session}  on {place}", update.status)
    })?;
    match update.session_id {
        Some(_) if ctx.output.is_json() => {}
        Some(session) => {
            let line = |verb: &str| desk.invocation().line(&format!("{verb} {session}"));
            ctx.output.message(&format!(
                "  watch it: {}\n  stop it:  {}",
                line("watch"),
                line("stop")
            ));
        }
        None => ctx.output.message(
            "central is of an older version and gave no session id: this session cannot be \
             watched or stopped by its id; unplug to end it, or ask the operator",
        ),
    }
    Ok(())
}

/// `CP-001/1` where the connector is known.
pub(crate) fn place_of(update: &DriverUpdate) -> String {
    match update.connector {
        Some(connector) => format!("{}/{connector}", update.cp_id),
        None => update.cp_id.clone(),
    }
}

/// Whoever interrupts the waiting still gets the ids of the start.
fn about_start(failure: Failure, update: &DriverUpdate) -> Failure {
    match failure {
        Failure::Interrupted {
            message,
            hint,
            mut about,
        } => {
            about.request_id = Some(update.request_id.to_string());
            about.driver_id = Some(update.driver_id.to_string());
            about.cp_id = Some(update.cp_id.clone());
            about.connector = update.connector.map(|c| c.0.into());
            about.ts = Some(update.ts);
            Failure::Interrupted {
                message,
                hint,
                about,
            }
        }
        other => other,
    }
}
