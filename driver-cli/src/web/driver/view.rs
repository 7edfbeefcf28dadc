//! The driver's page as HTML: values in, text out.

use ev_contract::{
    connector::{ConnectorState, Phase},
    time::UnixMs,
    v1::{ChargePointListing, ConnectorListing, ReceiptReply, SessionView, Status},
};
use maud::{Markup, html};

use super::{
    intents::{Intents, Key},
    shown::{Curve, Link, Session, Shown},
};
use crate::{
    doc::{Time, total_adjusted},
    price::{self, money},
    render::{
        format::{self, duration, harmless, kw, kwh, local},
        table,
    },
    web::{board::Part, feed::Feed, outcome, server},
    words,
};

/// The regions that hold what [`parts`] gives.
pub const REGIONS: [&str; 4] = ["link", "sessions", "charge-points", "history"];

/// Volts of a phase, for the power that a connector gives at most.
const PHASE_VOLT: u64 = 230;

/// What a session is drawn with.
const CURVE_WIDTH: u64 = 240;
const CURVE_HEIGHT: u64 = 60;

/// Everything on the page, in [`REGIONS`].
#[must_use]
pub fn parts(shown: &Shown, intents: &Intents, now: UnixMs) -> Vec<Part> {
    let mut parts = Vec::new();
    parts.extend(link(&shown.link));
    for session in shown.sessions.values() {
        parts.push(session_part(session, intents, now));
    }
    match &shown.ended {
        Some((session, _)) => parts.push(session_part(session, intents, now)),
        None if shown.sessions.is_empty() => parts.push(Part::new(
            "sessions",
            "no-session",
            "",
            html! { p #no-session data-order="" { "You have no open session." } },
        )),
        None => {}
    }
    match shown.listing.as_deref() {
        None => parts.push(note(
            "charge-points",
            "Asking central for the charge points.",
        )),
        Some([]) => parts.push(note(
            "charge-points",
            "There is no charge point: none is enrolled, and none has presented itself to central.",
        )),
        Some(listing) => {
            for cp in listing {
                for connector in &cp.connectors {
                    parts.push(connector_part(shown, intents, cp, connector, now));
                }
            }
        }
    }
    if shown.history.is_empty() {
        parts.push(Part::new(
            "history",
            "no-history",
            "",
            html! { tr #no-history data-order="" { td colspan="7" { "You have no sessions." } } },
        ));
    }
    parts.extend(shown.history.iter().map(history_part));
    parts
}

fn note(region: &'static str, text: &str) -> Part {
    let id = format!("{region}-note");
    let html = html! { p #(id) data-order="" { (text) } };
    Part::new(region, &id, "", html)
}

fn link(link: &Link) -> Option<Part> {
    let (who, what, why) = match link {
        Link::Up => return None,
        Link::Server(why) => ("server", "The NATS server cannot be reached", why),
        Link::Central(why) => ("central", "Central cannot be reached", why),
        Link::ShutOut(why) => ("shut-out", "The NATS server no longer lets you in", why),
    };
    let id = "link-down";
    let html = html! {
        div #(id) data-order="" data-link=(who) {
            p { strong { (what) } ": " (harmless(why)) "." }
            p {
                "What is shown is of before. An open session goes on at its charge point and is metered \
                 there; what you press waits for an answer or says that nothing was sent. "
                @if *link == Link::ShutOut(why.clone()) {
                    "Whoever runs the system makes new credentials with `central enrol`; start this \
                     page's server again with them."
                } @else {
                    "This page catches up by itself."
                }
            }
        }
    };
    Some(Part::new("link", id, "", html))
}

/// A time that the script counts from: what it says without is right when it was written.
fn so_long(since: UnixMs, now: UnixMs, suffix: &str) -> Markup {
    html! {
        span data-since=(since.0) data-suffix=(suffix) { (duration(now.ms_since(since))) (suffix) }
    }
}

fn place(view: &SessionView) -> String {
    format!("{}/{}", view.cp_id, view.connector)
}

/// What a session is in, in words: pending until the charge point has confirmed.
fn state_in_words(session: &Session) -> String {
    let view = session.view();
    let words = format::phase(view, session.seen.phase());
    if view.state == Phase::Preparing && view.status == Status::Accepted {
        return format!("pending: accepted, the charge point has not confirmed yet; {words}");
    }
    words
}

fn session_part(session: &Session, intents: &Intents, now: UnixMs) -> Part {
    let view = session.view();
    let phase = session.seen.phase();
    let ended = phase.is_ended();
    let id = format!("session-{}", view.session_id);
    let title = format!("{id}-title");
    let place = place(view);
    let state = state_in_words(session);
    let key = Key::Stop(view.session_id.to_string());
    let stopping = intents.is_asking(&key) || view.stopping || phase == Phase::Stopping;
    let energy = session.seen.energy();
    let cost = match price::estimate(session.tariff.as_ref(), view, energy) {
        Some(cost) if !ended => format!("about {}", money(cost, view.currency)),
        _ => money(view.cost, view.currency),
    };
    let pending = !ended && (view.status == Status::Accepted || stopping);
    let html = html! {
        article #(id) .card .session data-order="" data-state=(phase) data-pending=(pending)
            data-cp=(view.cp_id) data-connector=(view.connector) data-energy-mwh=(energy.0)
            data-say={ "Session on " (place) ": " (state) } aria-labelledby=(title)
        {
            h3 #(title) tabindex="-1" { "Session on " (place) " at " (view.site_id) }
            p .state { strong { (state) } }
            @if !view.reachable && !ended {
                p .note data-link="charge-point" {
                    "The charge point cannot be reached. The session goes on there and is metered there; \
                     a stop reaches it when it is back. This page catches up by itself."
                }
            }
            @if let Some(why) = &session.silent {
                p .note { "No news: " (harmless(why)) "; the session goes on, asking again." }
            }
            (curve(&session.curve, ended))
            dl {
                @if !ended {
                    dt { "Power" }
                    dd .power { (session.seen.power().map_or_else(|| "not known".to_owned(), kw)) }
                }
                dt { "Energy" } dd .energy { (kwh(energy)) }
                dt { @if ended { "Cost" } @else { "Cost so far" } } dd .cost { (cost) }
                dt { "Time" }
                dd .elapsed {
                    @match (view.started_at, view.energy_ended_at.or(view.ended_at)) {
                        (Some(from), Some(until)) => (duration(until.ms_since(from))),
                        (Some(from), None) if !ended => (so_long(from, now, "")),
                        (Some(_), None) => "not known yet",
                        (None, _) if energy.0 > 0 => "not known yet",
                        (None, _) => "no energy yet",
                    }
                }
                @if let Some(soc) = session.seen.soc_pct() {
                    dt { "Battery" } dd { (soc) " %" }
                }
                @if let (Some(at), false) = (session.value_at, ended) {
                    dt { "Last value" } dd .age { (so_long(at, now, " ago")) }
                }
                @if let Some(standing) = format::standing(view) {
                    dt { "Standing" } dd .standing { (standing) }
                }
                @if let Some(limits) = table::limits(view) {
                    dt { "Limits" } dd { (limits) }
                }
                @if ended {
                    dt { "Ended" } dd { (harmless(&words::how_it_ended(view))) }
                }
            }
            @if ended {
                @if let Some(failure) = words::failure_of(view).filter(|_| !view.stopping) {
                    p .failed { (harmless(&failure.message)) " (" (failure.word) ")" }
                    p .hint { "hint: " (failure.hint) }
                }
                (receipt_links(view))
            } @else if stopping {
                p .pending { "The stop waits until the charge point confirms it." }
            }
            @if !ended {
                button .stop type="submit" form="stop" name="session" value=(view.session_id)
                    aria-describedby=(title) aria-disabled=[stopping.then_some("true")]
                {
                    "End Charging Session"
                }
            }
        }
    };
    Part::new("sessions", &id, "", html)
}

/// Power over time. Its scale is said below it, in words.
fn curve(curve: &Curve, ended: bool) -> Markup {
    let points: Vec<_> = curve.points().collect();
    let (Some((first, _)), Some((last, power))) = (points.first(), points.last()) else {
        return html! {};
    };
    let span = last.ms_since(*first).max(1).unsigned_abs();
    let top = points.iter().map(|(_, p)| p.0).max().unwrap_or(0).max(1);
    let path: Vec<String> = points
        .iter()
        .map(|(at, p)| {
            let x = at.ms_since(*first).unsigned_abs() * CURVE_WIDTH / span;
            let y = CURVE_HEIGHT - p.0.saturating_mul(CURVE_HEIGHT) / top;
            format!("{x},{y}")
        })
        .collect();
    let words = format!(
        "Power over {}: {}at most {}",
        duration(last.ms_since(*first)),
        if ended {
            String::new()
        } else {
            format!("{} at the last value, ", kw(*power))
        },
        kw(ev_contract::units::MilliWatt(top))
    );
    html! {
        figure .curve {
            svg aria-hidden="true" preserveAspectRatio="none"
                viewBox=(format!("0 -1 {CURVE_WIDTH} {}", CURVE_HEIGHT + 2))
            {
                polyline points=(path.join(" ")) {}
            }
            figcaption .what { (words) }
        }
    }
}

/// Whether a driver may try to start here: also again, with the car that is still plugged in.
const fn may_start(state: ConnectorState) -> bool {
    matches!(
        state,
        ConnectorState::Available | ConnectorState::Plugged | ConnectorState::Finishing
    )
}

/// How far a connector is from being free, as far as a driver may know. Of others' sessions nothing
/// is told, so nothing is guessed.
fn until_free(state: ConnectorState, own: Option<&Session>, now: UnixMs) -> String {
    if let Some(session) = own {
        return match to_its_limit(session, now) {
            Some(left_ms) => format!(
                "in use by you, about {} min to its limit",
                left_ms / 60_000 + 1
            ),
            None => "in use by you, until you end it".to_owned(),
        };
    }
    match state {
        ConnectorState::Available => "now",
        ConnectorState::Plugged => "a car is plugged in: free for it now",
        ConnectorState::Preparing
        | ConnectorState::Charging
        | ConnectorState::SuspendedEv
        | ConnectorState::SuspendedEvse => "in use; its end is not known here",
        ConnectorState::Finishing => {
            "free for the car that is plugged in now, for others without it"
        }
        ConnectorState::Reserved => "kept for somebody",
        ConnectorState::Unavailable => "not before it is put back into service",
        ConnectorState::Faulted => "not before it is repaired",
        ConnectorState::Offline => "not known while it cannot be reached",
        ConnectorState::Unknown | ConnectorState::Unrecognised => "not known yet",
    }
    .to_owned()
}

/// Time until the driver's own session reaches a limit, at the power of the moment.
fn to_its_limit(session: &Session, now: UnixMs) -> Option<i64> {
    let view = session.view();
    let by_time = match (view.limits.time_s, view.started_at) {
        (Some(limit_s), Some(from)) => {
            Some((i64::from(limit_s) * 1_000 - now.ms_since(from)).max(0))
        }
        _ => None,
    };
    let by_energy = match (view.limits.energy_mwh, session.seen.power()) {
        (Some(limit), Some(power)) if power.0 > 0 => {
            let left = u128::from(limit.0.saturating_sub(session.seen.energy().0));
            i64::try_from(left * 3_600_000 / u128::from(power.0)).ok()
        }
        _ => None,
    };
    match (by_time, by_energy) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn connector_part(
    shown: &Shown,
    intents: &Intents,
    cp: &ChargePointListing,
    connector: &ConnectorListing,
    now: UnixMs,
) -> Part {
    let number = i64::from(connector.connector.0);
    let place = format!("{}/{number}", cp.cp_id);
    let id = format!("cp-{}-{number}", cp.cp_id);
    let title = format!("{id}-title");
    let own = shown.session_on(cp.cp_id.as_str(), Some(number));
    let state = connector.state;
    let words = format::connector(state);
    let may_start = may_start(state) && own.is_none();
    let free = may_start && state != ConnectorState::Finishing;
    let asking = intents.is_asking(&Key::Start(cp.cp_id.to_string(), Some(number)));
    let watt = u64::from(connector.max_ma.0) * u64::from(connector.phases) * PHASE_VOLT / 1_000;
    let order = format!("{}/{number:05}", cp.cp_id);
    let html = html! {
        article #(id) .card .connector data-order=(order) data-state=(state)
            data-place=(place) data-free=(if free { "yes" } else { "no" })
            data-text={ (place) " " (cp.site_id) " " (words) } aria-labelledby=(title)
        {
            h3 #(title) tabindex="-1" { (place) }
            button .favourite .needs-script type="button" data-favourite=(place)
                aria-pressed="false" aria-label={ "Favourite " (place) } { "★" }
            p .state {
                span .badge data-state=(state) { (words) }
                " " span .until { (until_free(state, own, now)) }
            }
            p .what {
                (cp.site_id) " · up to " (kw(ev_contract::units::MilliWatt(watt * 1_000)))
                " (" (connector.max_ma.0 / 1_000) " A x" (connector.phases) ")"
            }
            p .price { (price::in_words(&cp.tariff)) }
            @if asking {
                p .pending { "Asking central." }
            }
            @if let Some(session) = own {
                p { a href={ "#session-" (session.view().session_id) "-title" } { "Your session" } }
            } @else if may_start || asking {
                button .start type="submit" form="start" name="place"
                    value=(outcome::start_value(&place, &cp.tariff))
                    aria-describedby=(title) aria-disabled=[asking.then_some("true")]
                {
                    "Start Charging"
                }
            }
        }
    };
    Part::new("charge-points", &id, &order, html)
}

fn receipt_links(view: &SessionView) -> Markup {
    let href = format!("/receipt/{}", view.session_id);
    html! {
        @if view.receipt.is_some() {
            p .links {
                a href=(href) { "Receipt" }
                " " a href={ (href) ".json" } download { "JSON" }
                " " a href={ (href) ".txt" } download { "Text" }
            }
        }
    }
}

fn history_part(view: &SessionView) -> Part {
    let id = format!("past-{}", view.session_id);
    // Newest first: what counts down sorts up.
    let order = format!("{:020}", i64::MAX - view.accepted_at.0);
    let at = |time| local(time, &view.time_zone);
    let html = html! {
        tr #(id) data-order=(order) data-state=(view.state) {
            th scope="row" { (place(view)) }
            td { (at(view.started_at.unwrap_or(view.accepted_at))) }
            td { (view.ended_at.map(at).unwrap_or_default()) }
            td { (kwh(view.energy_mwh)) }
            td { (money(view.cost, view.currency)) }
            td { (harmless(&words::how_it_ended(view))) }
            td { (receipt_links(view)) }
        }
    };
    Part::new("history", &id, &order, html)
}

/// The whole page.
#[must_use]
pub fn page(feed: &Feed, driver: &str, now: UnixMs) -> Markup {
    let token = feed.look(|board| board.token().to_owned());
    let body = html! {
        body data-page="driver" {
            a .skip href="#charge-points-title" { "Skip to the charge points" }
            header {
                h1 { "Charging" }
                p { "You are " strong { (driver) } "." }
                noscript {
                    p { "As of " (Time(now)) ". " a href="/" { "Look again" } }
                }
            }
            main {
                (server::lost())
                div #link role="status" aria-live="polite" { (server::region(feed, "link")) }
                (outcome::regions(feed))
                section aria-labelledby="sessions-title" {
                    h2 #sessions-title tabindex="-1" { "Your session" }
                    form #stop method="post" action="/stop" data-live {
                        input type="hidden" name="token" value=(token);
                    }
                    div #sessions { (server::region(feed, "sessions")) }
                }
                section aria-labelledby="charge-points-title" {
                    h2 #charge-points-title tabindex="-1" { "Charge points" }
                    (start_form(&token))
                    (filters())
                    div #charge-points .grid data-filtered tabindex="-1" {
                        (server::region(feed, "charge-points"))
                    }
                }
                section aria-labelledby="history-title" {
                    h2 #history-title tabindex="-1" { "History" }
                    div .scrolls tabindex="0" role="region" aria-labelledby="history-title" {
                        table {
                            thead {
                                tr {
                                    th scope="col" { "Where" }
                                    th scope="col" { "Began" }
                                    th scope="col" { "Ended" }
                                    th scope="col" { "Energy" }
                                    th scope="col" { "Cost" }
                                    th scope="col" { "Why it ended" }
                                    th scope="col" { "Receipt" }
                                }
                            }
                            tbody #history { (server::region(feed, "history")) }
                        }
                    }
                }
            }
        }
    };
    server::document("Charging", &body)
}

fn start_form(token: &str) -> Markup {
    html! {
        form #start method="post" action="/start" data-live {
            input type="hidden" name="token" value=(token);
            // Enter in a field presses the form's first button. That must not be the start at
            // whichever charge point comes first.
            button type="submit" disabled hidden { "Choose a charge point" }
            details {
                summary { "Limits for the next session" }
                div .fields {
                    label for="limit-energy" { "Energy, kWh" }
                    input #limit-energy name="energy" inputmode="decimal" autocomplete="off";
                    label for="limit-cost" { "Cost" }
                    input #limit-cost name="cost" inputmode="decimal" autocomplete="off"
                        aria-describedby="limit-cost-note";
                    label for="limit-time" { "Time, minutes" }
                    input #limit-time name="time" inputmode="numeric" autocomplete="off";
                }
                p #limit-cost-note .what {
                    "Leave empty for no limit. Cost is in the charge point's currency, start fee and energy \
                     together."
                }
            }
        }
    }
}

fn filters() -> Markup {
    html! {
        div .filters .needs-script role="search" aria-label="Filter charge points" {
            label for="filter-text" { "Filter" }
            input #filter-text type="search" autocomplete="off" data-filter-text;
            label { input #filter-free type="checkbox" data-filter="free"; " free only" }
            label { input #filter-favourite type="checkbox" data-filter="favourite"; " favourites only" }
            p #filter-count role="status" aria-live="polite" {}
        }
    }
}

/// A receipt, to print.
#[must_use]
pub fn receipt(reply: &ReceiptReply) -> Markup {
    let r = &reply.receipt;
    let id = r.session_id;
    let body = html! {
        body data-page="receipt" {
            main .receipt {
                h1 { "Receipt " (harmless(&r.number)) }
                pre tabindex="0" { (table::receipt(reply)) }
                @if !reply.adjustments.is_empty() {
                    p { "Owed after all adjustments: " strong { (money(total_adjusted(reply), r.currency)) } }
                }
                p .links {
                    button .needs-script type="button" data-print { "Print" }
                    " " a href={ "/receipt/" (id) ".json" } download { "Save as JSON" }
                    " " a href={ "/receipt/" (id) ".txt" } download { "Save as text" }
                    " " a href="/" { "Back" }
                }
            }
        }
    };
    server::document(&format!("Receipt {}", r.number), &body)
}

/// A page that says what went wrong.
#[must_use]
pub fn failure(outcome: &outcome::Outcome) -> Markup {
    let body = html! {
        body data-page="failure" {
            main {
                h1 { "That did not work" }
                @for part in outcome.parts() { (maud::PreEscaped(part.html)) }
                p { a href="/" { "Back" } }
            }
        }
    };
    server::document("That did not work", &body)
}
