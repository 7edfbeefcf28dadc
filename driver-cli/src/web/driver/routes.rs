//! The driver's page over HTTP.

use axum::{
    Form, Router,
    extract::{Path, State, rejection::FormRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ev_contract::ids::SessionId;
use serde::Deserialize;

use super::view;
use crate::{
    args::LimitArgs,
    command::Command,
    desk::wall_now,
    doc::{ActionDoc, ReceiptDoc},
    failure::Failure,
    quantity::{NotAQuantity, Place, TariffVersion},
    render::table,
    verbs::start_wish,
    web::{outcome::Outcome, server, task::Routed},
};

/// What the routes need.
pub type Page = Routed<Command>;

/// The routes of the page.
pub fn routes(page: Page) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/start", post(start))
        .route("/stop", post(stop))
        .route("/receipt/{name}", get(receipt))
        .with_state(page)
}

async fn index(State(page): State<Page>) -> Response {
    page.hub.look().await;
    view::page(&page.feed, page.desk.who().id(), wall_now()).into_response()
}

/// A wish to start, as its form sends it. Empty fields are none.
#[derive(Debug, Deserialize)]
struct Start {
    token: String,
    place: String,
    #[serde(default)]
    energy: String,
    #[serde(default)]
    cost: String,
    #[serde(default)]
    time: String,
}

async fn start(
    State(page): State<Page>,
    headers: HeaderMap,
    form: Result<Form<Start>, FormRejection>,
) -> Response {
    let form = match server::form(form, &page.feed, |form: &Start| &form.token) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    press(&page, &headers, start_command(&form)).await
}

/// A wish to stop, as its form sends it.
#[derive(Debug, Deserialize)]
struct Stop {
    token: String,
    session: String,
}

async fn stop(
    State(page): State<Page>,
    headers: HeaderMap,
    form: Result<Form<Stop>, FormRejection>,
) -> Response {
    let form = match server::form(form, &page.feed, |form: &Stop| &form.token) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    press(&page, &headers, Ok(Command::stop(form.session))).await
}

async fn press(page: &Page, headers: &HeaderMap, wish: Result<Command, Failure>) -> Response {
    let pressed = match wish {
        Ok(wish) => page.hub.press(wish).await,
        Err(failure) => {
            let outcome = failed(&failure);
            page.hub.show(outcome.clone()).await;
            Ok(outcome)
        }
    };
    pressed
        .unwrap_or_else(|failure| failed(&failure))
        .answer(headers)
}

fn failed(failure: &Failure) -> Outcome {
    Outcome::failed(failure, &ActionDoc::failed(failure))
}

fn start_command(form: &Start) -> Result<Command, Failure> {
    // A button says the price that stands beside it.
    let (place, price) = match form.place.trim().split_once(' ') {
        Some((place, price)) => (place, read::<TariffVersion>(price, "")?),
        None => (form.place.as_str(), None),
    };
    let place: Place = read(place, "")?
        .ok_or_else(|| Failure::usage("no charge point was chosen", "press the button of one"))?;
    let limits = LimitArgs {
        limit_energy: read(&form.energy, "kWh")?,
        limit_time: read(&form.time, "m")?,
        limit_cost: read(&form.cost, "")?,
    };
    start_wish(&place, None, &limits, price.as_ref())
}

/// A field; without a unit it is in `unit`. Whoever writes a comma means a point.
fn read<T: std::str::FromStr<Err = NotAQuantity>>(
    text: &str,
    unit: &str,
) -> Result<Option<T>, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_digit() || b",.-".contains(&b));
    let mut text = match text.matches(',').count() {
        1 if !text.contains('.') => text.replace(',', "."),
        _ => text.to_owned(),
    };
    if plain {
        text.push_str(unit);
    }
    text.parse()
        .map(Some)
        .map_err(|e: NotAQuantity| Failure::usage(e.to_string(), "correct it and press again"))
}

async fn receipt(State(page): State<Page>, Path(name): Path<String>) -> Response {
    let (session, kind) = match name.rsplit_once('.') {
        Some((session, "json")) => (session, "json"),
        Some((session, "txt")) => (session, "txt"),
        _ => (name.as_str(), "html"),
    };
    let asked = match SessionId::parse(session) {
        Ok(id) => page.desk.receipt(id).await,
        Err(_) => Err(Failure::NotFound {
            message: "that is no session id".to_owned(),
            hint: "the page's history has the links".to_owned(),
        }),
    };
    let reply = match asked {
        Ok(reply) => reply,
        Err(failure) => {
            let outcome = failed(&failure);
            let status = outcome.status();
            return (status, view::failure(&outcome)).into_response();
        }
    };
    let save = |kind: &str| {
        let name = format!("attachment; filename=\"receipt-{session}.{kind}\"");
        (header::CONTENT_DISPOSITION, name)
    };
    match kind {
        "json" => ([save(kind)], axum::Json(ReceiptDoc::from(&reply))).into_response(),
        "txt" => ([save(kind)], table::receipt(&reply) + "\n").into_response(),
        _ => view::receipt(&reply).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(energy: &str, cost: &str, time: &str) -> Result<Command, Failure> {
        start_command(&Start {
            token: String::new(),
            place: "CP-001/2 base@3".into(),
            energy: energy.into(),
            cost: cost.into(),
            time: time.into(),
        })
    }

    #[test]
    fn fields_mean_what_the_command_line_means() {
        let Ok(Command::Start(wish)) = form("7,5", "10 EUR", "90") else {
            panic!("no start");
        };
        assert_eq!((wish.cp_id.as_str(), wish.connector), ("CP-001", Some(2)));
        let price = wish.tariff.unwrap();
        assert_eq!((price.tariff_id.as_str(), price.version), ("base", 3));
        let limits = wish.limits.unwrap();
        assert_eq!(limits.energy_wh, Some(7_500));
        assert_eq!(limits.time_s, Some(5_400));
        assert_eq!(limits.cost.as_deref(), Some("10"));
        assert_eq!(limits.currency.as_deref(), Some("EUR"));
        let Ok(Command::Start(wish)) = form("800 Wh", "", "1h 30m") else {
            panic!("no start");
        };
        let limits = wish.limits.unwrap();
        assert_eq!((limits.energy_wh, limits.time_s), (Some(800), Some(5_400)));
    }

    #[test]
    fn empty_fields_are_no_limits_and_nonsense_is_told() {
        let Ok(Command::Start(wish)) = form(" ", "", "") else {
            panic!("no start");
        };
        assert_eq!(wish.limits, None);
        assert_eq!(form("lots", "", "").unwrap_err().code(), "usage");
    }
}
