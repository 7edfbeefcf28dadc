//! The shell around a page: headers, the door, `/events`, the script and the style.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Form, Router,
    body::{Body, to_bytes},
    extract::{Query, Request, State, rejection::FormRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use ev_service::http::{Full, Limits};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;
use tokio::{net::TcpListener, time::timeout};

use super::{
    feed::Feed,
    guard::{self, Names, NotServed},
};
use crate::failure::Failure;

/// Most bytes of a form. The longest has a reason of a few sentences.
pub const FORM_BYTES_MAX: usize = 8 << 10;

/// Most connections at once: [`super::feed::LISTENERS_MAX`] that listen, and three times as many that
/// ask. Others wait until one of them ends; the system keeps them.
pub const CONNECTIONS_MAX: usize = 256;

/// How long a form may take to come.
pub const FORM_WITHIN: Duration = Duration::from_secs(10);

/// How long what was sent may stay unread before its connection is closed.
pub const READ_WITHIN: Duration = Duration::from_secs(30);

/// How long a connection may take to say what it asks for, and stay open without asking.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// How long answers that are under way may take when the server stops: as long as a request to
/// central is repeated at most by default.
const GRACE: Duration = Duration::from_secs(10);

const SCRIPT: &str = include_str!("assets/app.js");
const STYLE: &str = include_str!("assets/app.css");
const ICON: &str = include_str!("assets/icon.svg");

/// On every answer. `same-origin` and not `no-referrer`: with that a browser names no origin when it
/// sends a form, and the origin is what the door looks at. To other servers it says as little.
const HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    // Where somebody charges stays out of caches, and a page of an earlier run is of no use.
    ("cache-control", "no-store"),
];

/// What all pages of a server share.
#[derive(Debug, Clone)]
pub struct Shell {
    feed: Feed,
    names: Arc<Names>,
}

impl Shell {
    /// A shell around what `feed` shows, for browsers that reach it by `names`.
    #[must_use]
    pub fn new(feed: Feed, names: Names) -> Self {
        Self {
            feed,
            names: Arc::new(names),
        }
    }

    /// The page's own routes inside the shell.
    pub fn around(self, routes: Router) -> Router {
        let own = Router::new()
            .route("/events", get(events))
            .route("/app.js", get(|| asset("text/javascript", SCRIPT)))
            .route("/app.css", get(|| asset("text/css", STYLE)))
            .route("/icon.svg", get(|| asset("image/svg+xml", ICON)))
            .with_state(self.feed.clone());
        routes
            .merge(own)
            .fallback(|| async {
                (
                    StatusCode::NOT_FOUND,
                    "there is no such page here: / is the one\n",
                )
            })
            .layer(middleware::from_fn_with_state(self, door))
    }
}

/// Opens the port.
///
/// # Errors
/// When somebody else has it.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| Failure::File {
            doing: format!("listen on {addr}"),
            hint: match source.kind() {
                io::ErrorKind::AddrInUse => "another program has this port: choose one with --port",
                _ => "choose another with --port, or another address with --listen",
            }
            .to_owned(),
            source,
        })
}

/// Serves until `stop`, and lets what is under way come to its end.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    feed: Feed,
    stop: impl Future<Output = ()>,
) {
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        // Most of them are browsers that come back by themselves.
        full: Full::Waits,
        keep_alive: true,
        headers_within: HEADERS_WITHIN,
        read_within: READ_WITHIN,
        grace: GRACE,
    };
    let stop = async {
        stop.await;
        feed.stop();
    };
    ev_service::http::serve(limits, listener, routes, || {}, stop).await;
}

/// Lets in who asks for us by a name of ours, and writes from our own page alone.
async fn door(State(shell): State<Shell>, request: Request, next: Next) -> Response {
    let checked = check(&shell, request.method(), request.headers());
    let mut response = match checked {
        Ok(()) => match whole(request, FORM_WITHIN).await {
            Ok(request) => next.run(request).await,
            Err(answer) => *answer,
        },
        Err(why) => refuse(&why),
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .entry(HeaderName::from_static(name))
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The request with all of its body, which comes in time and is no longer than a form.
async fn whole(request: Request, within: Duration) -> Result<Request, Box<Response>> {
    let (head, body) = request.into_parts();
    let (status, text) = match timeout(within, to_bytes(body, FORM_BYTES_MAX)).await {
        Ok(Ok(bytes)) => return Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("nothing was done: a form has at most {FORM_BYTES_MAX} bytes\n"),
        ),
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            format!("nothing was done: the form did not come within {within:?}\n"),
        ),
    };
    Err(Box::new((status, text).into_response()))
}

fn check(shell: &Shell, method: &Method, headers: &HeaderMap) -> Result<(), NotServed> {
    let host = text(headers, header::HOST);
    shell.names.check(host)?;
    if method == Method::GET || method == Method::HEAD {
        // Another page may lead here, and may not have us ask central for its pictures.
        let leads_here = text(headers, FETCH_DEST) == Some("document");
        return if guard::is_foreign(text(headers, FETCH_SITE)) && !leads_here {
            Err(NotServed::Origin)
        } else {
            Ok(())
        };
    }
    guard::may_write(
        host,
        text(headers, header::ORIGIN),
        text(headers, FETCH_SITE),
    )
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| {
        // What is no text is no name and no origin of ours.
        value.to_str().unwrap_or("?")
    })
}

/// A form that was read and carries this run's token; else the answer that says why not.
///
/// # Errors
/// The answer.
pub fn form<T>(
    form: Result<Form<T>, FormRejection>,
    feed: &Feed,
    token: impl FnOnce(&T) -> &str,
) -> Result<T, Box<Response>> {
    let form = match form {
        Ok(Form(form)) => form,
        Err(rejection) => return Err(Box::new(unreadable(&rejection))),
    };
    match feed.look(|board| guard::check_token(token(&form), board.token())) {
        Ok(()) => Ok(form),
        Err(why) => Err(Box::new(refuse(&why))),
    }
}

fn unreadable(rejection: &FormRejection) -> Response {
    let status = rejection.status();
    let text = format!("nothing was done: {rejection}; load the page anew and press again\n");
    (status, text).into_response()
}

/// Says why a request is not served.
fn refuse(why: &NotServed) -> Response {
    let status = match why {
        NotServed::Host(_) => StatusCode::MISDIRECTED_REQUEST,
        NotServed::Origin | NotServed::Token => StatusCode::FORBIDDEN,
    };
    (status, format!("{why}\n")).into_response()
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let kind = match kind {
        "image/svg+xml" => kind.to_owned(),
        _ => format!("{kind}; charset=utf-8"),
    };
    ([(header::CONTENT_TYPE, kind)], text)
}

#[derive(Debug, Deserialize)]
struct From {
    /// As `Last-Event-ID`, for a listener that opens its stream anew by itself.
    last: Option<String>,
}

async fn events(
    State(feed): State<Feed>,
    headers: HeaderMap,
    Query(from): Query<From>,
) -> Response {
    let by_header = text(&headers, HeaderName::from_static("last-event-id"));
    match feed.listen(by_header.or(from.last.as_deref())) {
        Ok(stream) => stream.into_response(),
        Err(full) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "10")],
            format!("{full}: close a tab; the page works without, load it anew to see changes\n"),
        )
            .into_response(),
    }
}

/// A whole document.
#[must_use]
pub fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/app.css";
                script src="/app.js" defer {}
            }
            (body)
        }
    }
}

/// A region of the board, as it stands.
#[must_use]
pub fn region(feed: &Feed, region: &str) -> PreEscaped<String> {
    PreEscaped(feed.look(|board| board.html(region)))
}

/// What a page says while its own server is away; the script shows it, since nobody else can.
#[must_use]
pub fn lost() -> Markup {
    html! {
        div role="status" aria-live="polite" {
            p #lost hidden {
                strong { "This page's own server cannot be reached." }
                " What is shown is of before. A session goes on at its charge point. This page \
                 catches up by itself when the server is back."
            }
        }
        p #local role="alert" hidden {}
        p #said .visually-hidden role="status" aria-live="polite" {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_form_that_does_not_come_is_not_waited_for() {
        let (_never, body) = futures::channel::mpsc::unbounded::<Result<Vec<u8>, io::Error>>();
        let request = Request::new(Body::from_stream(body));
        let refused = whole(request, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
        let request = Request::new(Body::from(vec![b'a'; FORM_BYTES_MAX + 1]));
        let refused = whole(request, SOON).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
