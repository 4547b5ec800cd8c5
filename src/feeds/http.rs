//! Requests: `GET /feeds/NAME`, in the protocol that it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::follow::Follower;
use super::form::{Form, Note};
use super::gate::Refused;
use super::hub::Hub;
use super::patient::Doors;
use super::place::{Asked, Begun};
use super::{poll, socket, stream};
use crate::failure::{Failure, FailureKind};
use crate::load::shape;

/// How long an answer waits for events when a request does not say, and at most.
const WAIT: Duration = Duration::from_secs(25);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Events of an answer when a request does not say, and at most.
const LIMIT: u64 = 1000;
const MOST: u64 = 100_000;

/// Answers until it is told to stop, and clients have heard of it.
pub(super) async fn serve(listener: TcpListener, hub: Arc<Hub>, stop: CancellationToken) {
    let router = Router::new().route("/feeds/{name}", get(feed).options(preflight)).with_state(hub);
    let _ = axum::serve(Doors(listener), router).with_graceful_shutdown(async move { stop.cancelled().await }).await;
}

type Parameters = Query<BTreeMap<String, String>>;
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

async fn preflight(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    hub.gate.allow(&headers, answer.headers_mut());
    answer
}

async fn feed(
    State(hub): State<Arc<Hub>>,
    Path(name): Path<String>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let mut answer = match answer(&hub, &name, &parameters, &headers, upgrade).await {
        Ok(answer) => answer,
        Err(wrong) => wrong.response(),
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    hub.gate.allow(&headers, answer.headers_mut());
    answer
}

/// Why there is no answer.
struct Wrong(StatusCode, String);

impl Wrong {
    fn asked(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    fn response(self) -> Response {
        let Self(status, message) = self;
        let mut answer = (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{message}\n")).into_response();
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

impl From<Refused> for Wrong {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token => Self(
                StatusCode::UNAUTHORIZED,
                "a token is needed: `Authorization: Bearer TOKEN`, or `?token=TOKEN` where headers cannot be set".to_owned(),
            ),
            Refused::Origin => Self(
                StatusCode::FORBIDDEN,
                "pages of this origin may not read; `feeds.origins` in haul.yaml names those that may".to_owned(),
            ),
            Refused::Host => Self(
                StatusCode::FORBIDDEN,
                "this machine is asked by a name that is not its own; set `feeds.tokens` in haul.yaml, or name the host in `feeds.origins`"
                    .to_owned(),
            ),
        }
    }
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        let help = failure.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
        let status =
            if failure.kind == FailureKind::Transient { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self(status, format!("{failure}{help}"))
    }
}

/// What a request wants to be answered with.
enum Protocol {
    Socket(Box<WebSocketUpgrade>),
    Stream(Form),
    Poll,
}

impl Protocol {
    fn of(parameters: &BTreeMap<String, String>, headers: &HeaderMap, upgrade: Upgrade) -> Result<Self, Wrong> {
        if let Ok(upgrade) = upgrade {
            return Ok(Self::Socket(Box::new(upgrade)));
        }
        let accepts =
            |kind: &str| headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains(kind));
        Ok(match parameters.get("as").map(String::as_str) {
            Some("sse") => Self::Stream(Form::Events),
            Some("ndjson") => Self::Stream(Form::Lines),
            Some("poll") => Self::Poll,
            Some(other) => return Err(Wrong::asked(format!("`as={other}` is none of `sse`, `ndjson` and `poll`"))),
            None if accepts("text/event-stream") => Self::Stream(Form::Events),
            None if accepts("application/x-ndjson") => Self::Stream(Form::Lines),
            None if accepts("application/json") => Self::Poll,
            None => Self::Stream(Form::Lines),
        })
    }
}

async fn answer(
    hub: &Arc<Hub>,
    name: &str,
    parameters: &BTreeMap<String, String>,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Wrong> {
    hub.gate.check(headers, parameters.get("token").map(String::as_str))?;
    let asked = asked(parameters, headers)?;
    let protocol = Protocol::of(parameters, headers, upgrade)?;
    let feed = hub.feed(name).await?;
    let feed = feed.ok_or_else(|| Wrong(StatusCode::NOT_FOUND, format!("there is no feed `{name}`, or nothing was written to it yet")))?;
    if asked == Asked::Snapshot && !feed.edges().borrow().settings.keyed {
        let message = format!("the feed `{name}` has no key, and so no newest row of each; ask for `from=start`, or write it with `key:`");
        return Err(Wrong::asked(message));
    }
    let (follower, begun, edges) = Follower::begin(feed, asked, hub.stop.clone()).await?;
    let start = Note::start(name, &begun, &edges);
    let keep_alive = hub.server().keep_alive;
    let mut answer = match protocol {
        Protocol::Socket(upgrade) => upgrade.on_upgrade(move |socket| socket::talk(socket, follower, start, keep_alive)),
        Protocol::Stream(form) => {
            let mut answer = Response::new(stream::body(follower, form, &start, keep_alive));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
            // A proxy that gathers answers would hold events back.
            answer.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
            answer
        }
        Protocol::Poll => {
            let (limit, wait) = (limit(parameters)?, wait(parameters)?);
            let text = poll::answer(follower, start, limit, wait).await?;
            ([(header::CONTENT_TYPE, "application/json")], Body::from(text)).into_response()
        }
    };
    say(answer.headers_mut(), &begun, edges.head, &edges.identity);
    Ok(answer)
}

/// Where a client is to begin. What it got last counts for more than the URL, which stays the same when it comes again.
fn asked(parameters: &BTreeMap<String, String>, headers: &HeaderMap) -> Result<Asked, Wrong> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|last| !last.is_empty());
    match last.or(parameters.get("from").map(String::as_str)) {
        None => Ok(Asked::Now),
        Some(text) => Asked::read(text).ok_or_else(|| {
            Wrong::asked(format!(
                "`{text}` is no place in a feed: write `start`, `now`, `snapshot`, or the number of the last event you have"
            ))
        }),
    }
}

fn limit(parameters: &BTreeMap<String, String>) -> Result<u64, Wrong> {
    let Some(text) = parameters.get("limit") else { return Ok(LIMIT) };
    let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| Wrong::asked(format!("`limit={text}` is no number from 1 to {MOST}")))
}

fn wait(parameters: &BTreeMap<String, String>) -> Result<Duration, Wrong> {
    let Some(text) = parameters.get("wait") else { return Ok(WAIT) };
    let wait = shape::Duration(text.clone()).read();
    let wait = wait.ok_or_else(|| Wrong::asked(format!("`wait={text}` is no length of time: write `25s`, or `0s` for none")))?;
    Ok(wait.min(LONGEST_WAIT))
}

/// Says where the answer really begins, for clients that look at headers.
fn say(headers: &mut HeaderMap, begun: &Begun, head: u64, identity: &str) {
    let lost = begun.lost.map_or_else(|| "unknown".to_owned(), |lost| lost.to_string());
    let said = [
        ("haul-feed-place", begun.place.text()),
        ("haul-feed-lost", lost),
        ("haul-feed-head", head.to_string()),
        ("haul-feed-identity", identity.to_owned()),
    ];
    for (name, value) in said {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
