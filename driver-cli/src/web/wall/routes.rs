//! The wall over HTTP.

use axum::{
    Form, Router,
    extract::{State, rejection::FormRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ev_contract::{
    v1::SessionEndRequest,
    wire::{CENTRAL, Tag},
};
use serde::Deserialize;

use super::{
    hub::{All, Wish, act},
    view,
};
use crate::{
    command::Command,
    desk::wall_now,
    doc::OpDoc,
    failure::Failure,
    web::{outcome::Outcome, server, task::Routed},
};

/// What the routes need.
pub type Page = Routed<Wish>;

/// The routes of the wall.
pub fn routes(page: Page) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/act", post(act_on))
        .route("/end", post(end))
        .with_state(page)
}

async fn index(State(page): State<Page>) -> Response {
    page.hub.look().await;
    view::page(&page.feed, page.desk.who().id(), wall_now()).into_response()
}

/// `enable/CP-001`, `disable/*`.
#[derive(Debug, Deserialize)]
struct Act {
    token: String,
    wish: String,
    #[serde(default)]
    sure: String,
}

fn meant(form: &Act) -> Result<Wish, Failure> {
    let nonsense = || Failure::usage("no charge point was chosen", "press the button of one");
    let (verb, cp) = form.wish.split_once('/').ok_or_else(nonsense)?;
    let all = match verb {
        "enable" => All::Enable,
        "disable" => All::Disable,
        _ => return Err(nonsense()),
    };
    match cp {
        "*" if form.sure == "yes" => Ok(Wish::All(all)),
        "*" => Err(Failure::usage(
            "all charge points are meant, and nobody said that this is sure",
            "tick `yes, all of them` and press again",
        )),
        cp => Ok(Wish::One(Box::new(act(all, cp.to_owned())))),
    }
}

async fn act_on(
    State(page): State<Page>,
    headers: HeaderMap,
    form: Result<Form<Act>, FormRejection>,
) -> Response {
    let form = match server::form(form, &page.feed, |form: &Act| &form.token) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    let pressed = match meant(&form) {
        Ok(wish) => page.hub.press(wish).await,
        Err(failure) => Err(failure),
    };
    answer(&page, &headers, pressed).await
}

#[derive(Debug, Deserialize)]
struct End {
    token: String,
    session: String,
    #[serde(default)]
    reason: String,
}

async fn end(
    State(page): State<Page>,
    headers: HeaderMap,
    form: Result<Form<End>, FormRejection>,
) -> Response {
    let form = match server::form(form, &page.feed, |form: &End| &form.token) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    let reason = form.reason.trim();
    let pressed = if reason.is_empty() {
        Err(Failure::usage(
            "a session is ended with a reason, which its driver reads",
            "write one and press again",
        ))
    } else {
        let wish = Command::SessionEnd(SessionEndRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            request_id: String::new(),
            expires_at: 0,
            session_id: form.session.clone(),
            reason: reason.to_owned(),
            write_off: false,
        });
        page.hub.press(Wish::One(Box::new(wish))).await
    };
    answer(&page, &headers, pressed).await
}

async fn answer(page: &Page, headers: &HeaderMap, pressed: Result<Outcome, Failure>) -> Response {
    match pressed {
        Ok(outcome) => outcome.answer(headers),
        Err(failure) => {
            let outcome = Outcome::failed(&failure, &OpDoc::failed(&failure, None));
            page.hub.show(outcome.clone()).await;
            outcome.answer(headers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(wish: &str, sure: &str) -> Result<Wish, Failure> {
        meant(&Act {
            token: String::new(),
            wish: wish.into(),
            sure: sure.into(),
        })
    }

    #[test]
    fn all_are_meant_only_by_who_is_sure() {
        assert_eq!(form("disable/*", "yes").unwrap(), Wish::All(All::Disable));
        assert_eq!(form("disable/*", "").unwrap_err().code(), "usage");
        assert_eq!(form("reset/CP-001", "yes").unwrap_err().code(), "usage");
        match form("enable/CP-001", "").unwrap() {
            Wish::One(wish) => assert_eq!(wish.in_words(), "enabling CP-001"),
            all @ Wish::All(_) => panic!("{all:?}"),
        }
    }
}
