//! What came of a wish, for people and for programs.

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use ev_contract::v1::Tariff;
use maud::{Markup, html};
use serde::Serialize;
use serde_json::value::RawValue;

use super::board::Part;
use crate::{
    exit::Exit,
    failure::{About, Failure},
    quantity::TariffVersion,
    render::format::harmless,
};

/// What came of a wish.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The sentence.
    pub message: String,
    /// What to do next; empty where nothing needs to be done.
    pub hint: String,
    /// A stable word.
    pub code: String,
    /// Whether it was done.
    pub done: bool,
    /// Whether what came of it is not known: the same wish is asked again as it stands.
    pub unknown: bool,
    /// The session, where there is one.
    pub session_id: Option<String>,
    /// What the button says that starts at the price which applies now, where that is what a start
    /// was refused for.
    at_new_price: Option<String>,
    status: StatusCode,
    document: Box<RawValue>,
}

impl Outcome {
    /// It was done. `document` is what the command line writes with `--json`.
    #[must_use]
    pub fn done(
        code: &str,
        message: String,
        session_id: Option<String>,
        document: &impl Serialize,
    ) -> Self {
        Self {
            message,
            hint: String::new(),
            code: code.to_owned(),
            done: true,
            unknown: false,
            session_id,
            at_new_price: None,
            status: StatusCode::OK,
            document: raw(document),
        }
    }

    /// It was not, in the words of the command line.
    #[must_use]
    pub fn failed(failure: &Failure, document: &impl Serialize) -> Self {
        Self {
            message: failure.complaint(),
            hint: failure.hint().to_owned(),
            code: failure.code().to_owned(),
            done: false,
            unknown: failure.exit() == Exit::Unknown,
            session_id: failure.about().session_id,
            at_new_price: at_new_price(&failure.about()),
            status: match failure.exit() {
                Exit::Ok => StatusCode::OK,
                Exit::Usage => StatusCode::BAD_REQUEST,
                Exit::NotFound => StatusCode::NOT_FOUND,
                Exit::NotAllowed => StatusCode::FORBIDDEN,
                Exit::Refused => StatusCode::CONFLICT,
                Exit::Unknown => StatusCode::GATEWAY_TIMEOUT,
                Exit::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
                Exit::Other | Exit::Interrupted => StatusCode::INTERNAL_SERVER_ERROR,
            },
            document: raw(document),
        }
    }

    /// As HTTP says it.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer: the document for scripts, for a plain form the page, which shows the outcome.
    #[must_use]
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let wants_json = headers
            .get(header::ACCEPT)
            .is_some_and(|accept| accept.as_bytes().starts_with(b"application/json"));
        if wants_json {
            (self.status, Json(&self.document)).into_response()
        } else {
            Redirect::to("/").into_response()
        }
    }

    /// The parts that show it, in the regions [`SHOWN_IN`]: what was done is said when there is time
    /// for it, what was not at once.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let (region, id) = if self.done {
            ("outcome", "outcome-latest")
        } else {
            ("problem", "problem-latest")
        };
        vec![Part {
            id: id.to_owned(),
            region,
            order: String::new(),
            html: self.markup(id).into_string(),
        }]
    }

    fn markup(&self, id: &str) -> Markup {
        html! {
            div #(id) data-order="" data-code=(self.code) {
                p {
                    @if !self.done { strong { "error: " } }
                    (harmless(&self.message))
                }
                @if !self.hint.is_empty() {
                    p .hint { "hint: " (harmless(&self.hint)) }
                }
                @if let Some(value) = &self.at_new_price {
                    button .start type="submit" form="start" name="place" value=(value) {
                        "Start at this price"
                    }
                }
            }
        }
    }
}

/// What the button of a connector says: where to start, and the price that stands beside it.
#[must_use]
pub fn start_value(place: &str, tariff: &Tariff) -> String {
    format!("{place} {}", TariffVersion(tariff.into()))
}

fn at_new_price(about: &About) -> Option<String> {
    let (cp_id, tariff) = (about.cp_id.as_ref()?, about.tariff.as_ref()?);
    let place = match about.connector {
        Some(connector) => format!("{cp_id}/{connector}"),
        None => cp_id.clone(),
    };
    Some(start_value(&place, tariff))
}

/// The regions that show outcomes.
pub const SHOWN_IN: [&str; 2] = ["outcome", "problem"];

/// Where outcomes are shown: always there, so that a screen reader hears of changes.
#[must_use]
pub fn regions(feed: &super::feed::Feed) -> Markup {
    html! {
        div #outcome role="status" aria-live="polite" { (super::server::region(feed, "outcome")) }
        div #problem role="alert" aria-live="assertive" { (super::server::region(feed, "problem")) }
    }
}

fn raw(document: &impl Serialize) -> Box<RawValue> {
    // Documents of the command line are maps with text keys: they can be written.
    serde_json::value::to_raw_value(document).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use ev_contract::{
        codes::Code,
        units::Currency,
        v1::{PriceComponent, TariffTerms},
    };

    use super::*;

    #[test]
    fn a_changed_price_has_a_button_that_starts_at_it() {
        let about = |tariff| About {
            cp_id: Some("CP-001".into()),
            connector: Some(2),
            tariff,
            ..About::default()
        };
        let shown = |about| {
            let failure = Failure::refused(Code::PriceChanged.about("CP-001"), about);
            Outcome::failed(&failure, &()).parts()[0].html.clone()
        };
        let new = Tariff {
            tariff_id: "day".parse().unwrap(),
            version: 4,
            terms: TariffTerms::free(Currency::EUR)
                .with(PriceComponent::Energy, "0.59".parse().unwrap()),
        };
        let html = shown(about(Some(Box::new(new))));
        assert!(html.contains(r#"form="start""#), "{html}");
        assert!(html.contains(r#"value="CP-001/2 day@4""#), "{html}");
        assert!(!shown(about(None)).contains("button"));
    }
}
