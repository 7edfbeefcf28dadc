//! The wall as HTML: values in, text out.

use ev_contract::{
    connector::Service,
    time::UnixMs,
    v1::{ChargePointView, ConnectorView, EventRow, Reach, SessionView},
};
use maud::{Markup, html};

use super::shown::{Link, Standing, Wall, needs_attention};
use crate::{
    doc::Time,
    price::{self, money},
    render::{
        format::{self, harmless, kw, kwh, local},
        table,
    },
    web::{board::Part, feed::Feed, outcome, server},
    why,
};

/// The regions that hold what [`parts`] gives.
pub const REGIONS: [&str; 4] = ["link", "counts", "charge-points", "events"];

/// Everything on the wall, in [`REGIONS`].
#[must_use]
pub fn parts(wall: &Wall, token: &str, now: UnixMs) -> Vec<Part> {
    let mut parts: Vec<Part> = link(&wall.link).into_iter().collect();
    parts.push(counts(wall));
    for cp in wall.charge_points.iter().flat_map(|all| all.values()) {
        parts.push(card(wall, cp, token, now));
    }
    let names = |e: &EventRow| (e.at, e.kind, e.pos, e.cp_id.clone(), e.connector);
    for (at, row) in wall.events.iter().enumerate() {
        let nth = wall
            .events
            .range(..at)
            .filter(|other| names(other) == names(row));
        parts.push(event(row, nth.count()));
    }
    parts
}

fn link(link: &Link) -> Option<Part> {
    let (who, what, why) = match link {
        Link::Up => return None,
        Link::Server(why) => ("server", "The NATS server cannot be reached", why),
        Link::Central(why) => ("central", "Central cannot be reached", why),
    };
    let html = html! {
        div #link-down data-order="" data-link=(who) {
            p { strong { (what) } ": " (harmless(why)) "." }
            p {
                "What is shown is of before. Sessions go on at their charge points and are metered there. \
                 This wall catches up by itself."
            }
        }
    };
    Some(Part::new("link", "link-down", "", html))
}

fn counts(wall: &Wall) -> Part {
    let html = match &wall.charge_points {
        None => html! { p #counts-now data-order="" { "Asking central for the charge points." } },
        Some(all) => {
            let connectors = || {
                all.values()
                    .flat_map(|cp| cp.connectors.iter().map(move |c| Standing::of(cp, c)))
            };
            let attention = all.values().filter(|cp| needs_attention(cp)).count();
            html! {
                p #counts-now data-order="" {
                    strong { (all.len()) " charge points" } ": "
                    @for standing in Standing::ALL {
                        @let count = connectors().filter(|s| *s == standing).count();
                        @if count > 0 {
                            span .badge data-state=(standing.word()) { (count) " " (standing.words()) } " "
                        }
                    }
                    (attention) " need attention"
                }
            }
        }
    };
    Part::new("counts", "counts-now", "", html)
}

fn card(wall: &Wall, cp: &ChargePointView, token: &str, now: UnixMs) -> Part {
    let id = format!("cp-{}", cp.cp_id);
    let title = format!("{id}-title");
    let order = cp.cp_id.to_string();
    let standings: Vec<_> = cp.connectors.iter().map(|c| Standing::of(cp, c)).collect();
    let worst = standings.iter().max().copied().unwrap_or(Standing::Unknown);
    let words: Vec<_> = standings.iter().map(|s| s.words()).collect();
    let attention = needs_attention(cp);
    let out = cp.out_of_service || cp.connectors.iter().any(|c| c.service == Service::Out);
    let sessions: Vec<&SessionView> = cp
        .connectors
        .iter()
        .flat_map(|c| &c.sessions)
        .filter_map(|id| wall.sessions.get(id))
        .collect();
    let drivers: Vec<_> = sessions
        .iter()
        .filter_map(|s| s.driver_id.as_ref().map(ToString::to_string))
        .collect();
    let html = html! {
        article #(id) .card .connector data-order=(order) data-state=(worst.word())
            data-attention=(if attention { "yes" } else { "no" })
            data-charging=(if standings.contains(&Standing::Charging) { "yes" } else { "no" })
            data-text={ (cp.cp_id) " " (cp.site_id) " " (words.join(" ")) " " (drivers.join(" ")) }
            aria-labelledby=(title)
        {
            h3 #(title) tabindex="-1" { (cp.cp_id) }
            @for (connector, standing) in cp.connectors.iter().zip(&standings) {
                (connector_line(wall, cp, connector, *standing))
            }
            @if cp.connectors.is_empty() {
                p .state { span .badge data-state="unknown" { "never seen" } }
            }
            p .what {
                (cp.site_id) " · " (price::in_words(&cp.tariff))
                @if let Some(version) = &cp.version { " · version " (harmless(version)) }
            }
            @for why in why::refuses(cp, now).iter().filter(|_| attention) {
                p .note { (harmless(&why.text)) br; span .hint { "what to do: " (harmless(&why.hint)) } }
            }
            @if !cp.health.is_empty() {
                p .note { "the agent complains: " (harmless(&cp.health.join(", "))) }
            }
            @for session in sessions {
                (end_form(session, token))
            }
            // Not alike: under a finger that presses twice, one must not turn into the other.
            @if out {
                button .put-back type="submit" form="act" name="wish" value={ "enable/" (cp.cp_id) }
                    aria-describedby=(title) { "Put back into service" }
            } @else {
                button .take-out type="submit" form="act" name="wish" value={ "disable/" (cp.cp_id) }
                    aria-describedby=(title) { "Take out of service" }
            }
        }
    };
    Part::new("charge-points", &id, &order, html)
}

fn connector_line(
    wall: &Wall,
    cp: &ChargePointView,
    connector: &ConnectorView,
    standing: Standing,
) -> Markup {
    let since = cp
        .link_since
        .filter(|_| cp.link == Reach::Offline)
        .map(|at| format!(" since {}", local(at, &cp.time_zone)))
        .unwrap_or_default();
    html! {
        p .state {
            "/" (connector.connector) " "
            span .badge data-state=(standing.word()) { (standing.words()) (since) }
            @if connector.service == Service::Out && standing != Standing::OutOfService {
                " out of service for new sessions"
            }
            @if !connector.service_confirmed { " not confirmed yet" }
            @for id in &connector.sessions {
                @if let Some(s) = wall.sessions.get(id) {
                    br;
                    (format::phase(s, s.state)) " "
                    strong { (s.power_mw.or(connector.power_mw).map(kw).unwrap_or_default()) }
                    " " (kwh(s.energy_mwh)) " " (money(s.cost, s.currency))
                    @if let Some(driver) = &s.driver_id { " · " (driver) }
                }
            }
        }
    }
}

fn end_form(session: &SessionView, token: &str) -> Markup {
    let id = session.session_id;
    let field = format!("reason-{id}");
    html! {
        details {
            summary { "End the session on /" (session.connector) }
            form method="post" action="/end" data-live {
                input type="hidden" name="token" value=(token);
                label for=(field) { "Reason" }
                input #(field) name="reason" required maxlength="200" autocomplete="off";
                button .stop type="submit" name="session" value=(id) { "End this session" }
            }
        }
    }
}

/// An event, the `nth` of those that differ in nothing that names them.
fn event(event: &EventRow, nth: usize) -> Part {
    let what = event
        .pos
        .map(|pos| pos.to_string())
        .or_else(|| event.cp_id.as_ref().map(ToString::to_string))
        .unwrap_or_default();
    let connector = event.connector.map_or(0, |connector| connector.0);
    let id = format!(
        "event-{}-{}-{what}-{connector}-{nth}",
        event.at.0, event.kind
    );
    // Newest first: what counts down sorts up.
    let order = format!(
        "{:020}-{:020}-{connector:05}-{nth:03}",
        i64::MAX - event.at.0,
        u64::MAX - event.pos.unwrap_or(0)
    );
    let html = html! {
        li #(id) data-order=(order) data-kind=(event.kind) { (table::event_line(event)) }
    };
    Part::new("events", &id, &order, html)
}

/// The whole wall.
#[must_use]
pub fn page(feed: &Feed, operator: &str, now: UnixMs) -> Markup {
    let token = feed.look(|board| board.token().to_owned());
    let body = html! {
        body .wall data-page="wall" {
            a .skip href="#charge-points-title" { "Skip to the charge points" }
            header {
                h1 { "Charge points" }
                p { "You are the operator " strong { (operator) } ". What you do is in the audit." }
                noscript { p { "As of " (Time(now)) ". " a href="/" { "Look again" } } }
            }
            main {
                (server::lost())
                div #link role="status" aria-live="polite" { (server::region(feed, "link")) }
                (outcome::regions(feed))
                div #counts { (server::region(feed, "counts")) }
                form #act method="post" action="/act" data-live {
                    input type="hidden" name="token" value=(token);
                    button type="submit" disabled hidden { "Choose a charge point" }
                }
                details {
                    summary { "All charge points" }
                    form method="post" action="/act" data-live data-resets {
                        input type="hidden" name="token" value=(token);
                        p {
                            label { input type="checkbox" name="sure" value="yes" required; " yes, all of them" }
                        }
                        button type="submit" name="wish" value="disable/*" { "Take all out of service" }
                        " "
                        button type="submit" name="wish" value="enable/*" { "Put all back into service" }
                    }
                }
                section aria-labelledby="charge-points-title" {
                    h2 #charge-points-title tabindex="-1" { "Wall" }
                    div .filters .needs-script role="search" aria-label="Filter charge points" {
                        label for="filter-text" { "Filter" }
                        input #filter-text type="search" autocomplete="off" data-filter-text;
                        label { input #filter-attention type="checkbox" data-filter="attention"; " needs attention" }
                        label { input #filter-charging type="checkbox" data-filter="charging"; " charging" }
                        p #filter-count role="status" aria-live="polite" {}
                    }
                    div #charge-points .grid data-filtered tabindex="-1" {
                        (server::region(feed, "charge-points"))
                    }
                }
                section aria-labelledby="events-title" {
                    h2 #events-title { "What happens" }
                    div .scrolls tabindex="0" role="region" aria-labelledby="events-title" {
                        ul #events .events { (server::region(feed, "events")) }
                    }
                }
            }
        }
    };
    server::document("Charge points", &body)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ev_contract::{ids::ConnectorId, v1::EventKind};

    use super::*;
    use crate::web::board::Board;

    fn row(connector: u16) -> EventRow {
        EventRow {
            at: UnixMs(1_700_000_000_000),
            kind: EventKind::Offline,
            pos: Some(7),
            cp_id: Some("CP-001".parse().unwrap()),
            connector: Some(ConnectorId(connector)),
            session_id: None,
            driver_id: None,
            operator_id: None,
            code: None,
            detail: None,
        }
    }

    #[test]
    fn what_one_record_did_to_many_is_shown_for_each_and_told_once() {
        let mut wall = Wall::default();
        // Rows that differ in nothing but what is said of them, too.
        let detailed = EventRow {
            detail: Some("again".into()),
            ..row(2)
        };
        wall.happened([row(1), row(2), detailed]);
        let events = || parts(&wall, "token", UnixMs(1_700_000_001_000));
        let ids: HashSet<_> = events()
            .into_iter()
            .filter(|part| part.region == "events")
            .map(|part| part.id)
            .collect();
        assert_eq!(ids.len(), 3);
        let mut board = Board::new("run", "token");
        assert!(board.set(&REGIONS, events()).is_some());
        assert!(board.set(&REGIONS, events()).is_none());
    }
}
