//! One HTTP API: where it is, who asks, and the one way to ask for something.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, TRANSFER_ENCODING};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, Method, Request, Response, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use super::answer;
use super::guard::{Guard, Refused};
use crate::clock::Stopwatch;
use crate::connectors::tls;
use crate::define::pipeline::{Connection, HttpAuth};
use crate::failure::{Failure, FailureKind};

/// Redirects that one request follows.
const MOST_REDIRECTS: usize = 5;
/// Bytes of a refusal's body that are read.
const MOST_REFUSAL_BYTES: usize = 4096;
/// A server may be at work on a request that it has not answered for so many times the longest silence.
const AT_WORK: u32 = 10;
/// A shorter secret would hide half of every text.
const LEAST_SECRET: usize = 4;

/// One connection. Asks nothing until it is used.
pub struct Api {
    /// What paths are put behind.
    base: Url,
    client: Client,
    guard: Guard,
    /// For the base's own host only.
    credentials: HeaderMap,
    /// What must never show.
    secrets: Vec<String>,
    idle: Duration,
    allow_unmeasured: bool,
    permits: Arc<Semaphore>,
    most: usize,
    /// Keys of requests that were sent and not answered, and since when: the server may still be at work on them.
    unanswered: Mutex<HashMap<HeaderValue, Stopwatch>>,
    /// Since when it may be asked: what another process has sent, it sent before.
    since: Stopwatch,
}

/// What became of rows that were sent.
pub(super) enum Sent {
    /// The server has them.
    Taken,
    /// The server says that something is in their way, which may be an earlier try of them that it is still at work on: they must not come under
    /// another key.
    AtWork(Failure),
    /// The server refuses their content. Transient when that may pass.
    Refused(Failure),
}

/// An answer of a good status, whose body is still to be read. It holds one of the connection's places.
pub(super) struct Answer {
    response: Response,
    allow_unmeasured: bool,
    idle: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Api {
    /// Reads the connection. The failure is permanent and names the connection, never the URL, which may hold a secret.
    pub fn new(connection: &Connection) -> Result<Arc<Self>, Failure> {
        Self::read(connection).map(Arc::new).map_err(|failure| failure.during(format_args!("connection `{}`", connection.name)))
    }

    fn read(connection: &Connection) -> Result<Self, Failure> {
        let settings = &connection.http;
        let base = Url::parse(connection.url.reveal()).map_err(|error| Failure::permanent("the URL cannot be read").cause(error))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(Failure::permanent("the URL is not one of HTTP").help("write `https://host/path`"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(Failure::permanent("the URL holds a user or a password").help("write `auth: { user: …, password: … }` instead"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(Failure::permanent("the URL holds a query").help("write parameters below `query:` of the input"));
        }
        let guard = Guard::new(&base, settings.allow_private);
        tls::install_provider();
        let client = Client::builder()
            .user_agent(concat!("haul/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(settings.connect_timeout)
            .pool_max_idle_per_host(connection.max_connections as usize)
            // A proxy would look names up by itself, and reach what must not be reached.
            .no_proxy()
            .dns_resolver(Arc::new(guard.clone()))
            .build()
            .map_err(|error| Failure::permanent("HTTP cannot be set up").cause(error))?;
        let (credentials, secrets) = credentials(connection, &client, &base)?;
        let most = connection.max_connections as usize;
        let permits = Arc::new(Semaphore::new(most));
        let (idle, allow_unmeasured) = (settings.idle_timeout, settings.allow_unmeasured);
        let (unanswered, since) = (Mutex::default(), Stopwatch::start());
        Ok(Self { base, client, guard, credentials, secrets, idle, allow_unmeasured, permits, most, unanswered, since })
    }

    /// Which addresses may be asked.
    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The longest that an answer may send nothing.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// The headers that prove who asks, for the connection's own host.
    pub(super) fn credentials(&self) -> HeaderMap {
        self.credentials.clone()
    }

    /// The URL of a path with parameters.
    pub(super) fn url<'a>(&self, path: &str, query: impl Iterator<Item = (&'a str, &'a str)>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        let mut pairs = query.peekable();
        if pairs.peek().is_some() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        url
    }

    /// A URL that an answer names, from where it was given.
    pub(super) fn follow(&self, from: &Url, to: &str) -> Result<Url, Failure> {
        let url = from.join(to).map_err(|error| Failure::permanent("the answer names a URL that is none").cause(error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::permanent(format!("the answer names a URL of `{}:`, which is not followed", url.scheme())));
        }
        if from.scheme() == "https" && url.scheme() == "http" {
            return Err(Failure::permanent("the answer leads from https to http, where everybody on the way can read and change it"));
        }
        Ok(url)
    }

    /// Gets a URL, over redirects. Any answer but a good one is a failure of the right kind.
    pub(super) async fn get(&self, url: Url, headers: HeaderMap) -> Result<Answer, Failure> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Failure::cancelled())?;
        let mut url = url;
        for _ in 0..=MOST_REDIRECTS {
            let request = self.client.get(url.clone()).headers(headers.clone()).build();
            let request = request.map_err(|error| Failure::permanent("the request cannot be made").cause(error.without_url()))?;
            let response = self.send(request).await?;
            let status = response.status();
            if status.is_success() {
                let allow_unmeasured = self.allow_unmeasured;
                return Ok(Answer { response, allow_unmeasured, idle: self.idle, _permit: permit });
            }
            let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            match location.filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)) {
                Some(to) => url = self.follow(&url, to)?,
                None => return Err(self.refusal(&format!("GET {}", url.path()), response).await),
            }
        }
        Err(Failure::permanent(format!("GET {} was redirected more than {MOST_REDIRECTS} times", url.path()))
            .help("name the address it leads to in the connection's URL"))
    }

    /// Sends one request, with the credentials when it goes to the connection's own host.
    pub(super) async fn send(&self, request: Request) -> Result<Response, Failure> {
        self.ask(request).await.map_err(|(failure, _)| failure)
    }

    /// The same. A failure comes with whether the server may have the request.
    async fn ask(&self, mut request: Request) -> Result<Response, (Failure, bool)> {
        self.guard.check(request.url()).map_err(|failure| (failure, false))?;
        let what = format!("{} {}", request.method(), request.url().path());
        if request.url().origin() == self.base.origin() {
            for (name, value) in &self.credentials {
                request.headers_mut().insert(name, value.clone());
            }
        }
        match timeout(self.idle, self.client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let arrived = !error.is_connect();
                Err((unsent(error).during(what), arrived))
            }
            Err(_) => Err((Failure::transient(format!("{what}: no answer came within {:?}", self.idle)), true)),
        }
    }

    /// Sends a body under its key, under which another process may have sent it before. Redirects are not followed: it would go to a place that
    /// nobody named.
    pub(super) async fn post(
        &self,
        method: Method,
        url: Url,
        (key, sent_before): (&HeaderValue, bool),
        headers: HeaderMap,
        body: Body,
    ) -> Result<Sent, Failure> {
        let _permit = self.permits.acquire().await.map_err(|_| Failure::cancelled())?;
        let what = format!("{method} {}", url.path());
        let removes = method == Method::DELETE;
        let request = self.client.request(method, url).header("idempotency-key", key).headers(headers).body(body).build();
        let request = request.map_err(|error| Failure::permanent("the request cannot be made").cause(error.without_url()))?;
        // Before it is sent, since whoever waits for the answer may be stopped.
        let before = self.unanswered().insert(key.clone(), Stopwatch::start());
        let answer = self.ask(request).await;
        let unanswered = match answer.as_ref().map(|response| response.status().as_u16()) {
            Ok(409) | Err((_, false)) => before,
            // A gateway that did not wait for the server.
            Ok(502 | 504) | Err((_, true)) => Some(Stopwatch::start()),
            Ok(_) => None,
        };
        match unanswered {
            Some(since) => self.unanswered().insert(key.clone(), since),
            None => self.unanswered().remove(key),
        };
        let mut response = answer.map_err(|(failure, _)| failure)?;
        let status = response.status();
        if !status.is_success() {
            let failure = self.refusal(&what, response).await;
            return Ok(match status.as_u16() {
                404 | 410 if removes => Sent::Taken,
                400 | 413 | 422 => Sent::Refused(failure),
                409 => {
                    let failure = Failure { kind: FailureKind::Transient, ..failure };
                    let earlier = unanswered.into_iter().chain(sent_before.then_some(self.since));
                    match earlier.map(Stopwatch::elapsed).min() {
                        Some(ago) if ago < self.idle * AT_WORK => Sent::AtWork(failure),
                        // The server knows of an earlier try that nobody here does.
                        _ if failure.retry_after.is_some() => return Err(failure),
                        // The content, which may pass.
                        _ => Sent::Refused(failure),
                    }
                }
                _ => return Err(failure),
            });
        }
        // What the server says is not wanted; a short answer is read so that the connection can be used again.
        let mut read = 0;
        while read < MOST_REFUSAL_BYTES
            && let Ok(Ok(Some(bytes))) = timeout(self.idle, response.chunk()).await
        {
            read += bytes.len();
        }
        Ok(Sent::Taken)
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<HeaderValue, Stopwatch>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that may be under way at the same time.
    pub(super) fn most_requests(&self) -> usize {
        self.most
    }

    /// The failure of an answer with a bad status.
    pub(super) async fn refusal(&self, what: &str, mut response: Response) -> Failure {
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut said = Vec::new();
        while said.len() < MOST_REFUSAL_BYTES
            && let Ok(Ok(Some(bytes))) = timeout(self.idle, response.chunk()).await
        {
            said.extend_from_slice(&bytes);
        }
        said.truncate(MOST_REFUSAL_BYTES);
        answer::refused(what, status, &headers, &self.without_secrets(&String::from_utf8_lossy(&said)))
    }

    /// A text of the server that may repeat what it was sent.
    fn without_secrets(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

impl Answer {
    /// Its headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Whether it says its length or its end. The others end with their connection, and a cut looks the same.
    pub(super) fn is_measured(&self) -> bool {
        let headers = self.response.headers();
        self.response.version() >= Version::HTTP_2 || headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
    }

    /// Whether rows may be read one by one out of an answer that does not say so.
    pub(super) fn may_be_read(&self) -> Result<(), Failure> {
        if self.is_measured() || self.allow_unmeasured {
            return Ok(());
        }
        Err(Failure::permanent("the answer says neither its length nor its end, so that one which was cut would look whole")
            .help("let the server send `Content-Length` or chunks, or compress; or set `allow_unmeasured: true` on the connection"))
    }

    /// Where it came from, in the end.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// The next piece of the body; `None` at its end. An end that comes too early is a failure, and so is silence.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(Failure::transient("the answer was cut short").cause(error.without_url())),
            Err(_) => Err(Failure::transient(format!("the answer fell silent for {:?}", self.idle))),
        }
    }
}

/// The headers that prove who asks, and the texts in them that must not show.
fn credentials(connection: &Connection, client: &Client, base: &Url) -> Result<(HeaderMap, Vec<String>), Failure> {
    let settings = &connection.http;
    let mut headers = HeaderMap::new();
    let mut secrets = Vec::new();
    let mut add = |name: HeaderName, value: String| {
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| Failure::permanent(format!("the value of the header `{name}` holds a line end or another control character")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    for (name, value) in &settings.headers {
        let known = HeaderName::try_from(name).map_err(|_| Failure::permanent(format!("`{name}` is no name of a header")))?;
        add(known, value.reveal().clone())?;
        secrets.push(value.reveal().clone());
    }
    match &settings.auth {
        Some(HttpAuth::Bearer(token)) => {
            add(AUTHORIZATION, format!("Bearer {}", token.reveal()))?;
            secrets.push(token.reveal().clone());
        }
        Some(HttpAuth::Basic(user, password)) => {
            let request = client.get(base.clone()).basic_auth(user, Some(password.reveal())).build();
            let header = request.ok().and_then(|request| Some(request.headers().get(AUTHORIZATION)?.to_str().ok()?.to_owned()));
            let header = header.ok_or_else(|| Failure::permanent("user and password cannot be sent"))?;
            secrets.extend([header.trim_start_matches("Basic ").to_owned(), password.reveal().clone()]);
            add(AUTHORIZATION, header)?;
        }
        None => {}
    }
    secrets.retain(|secret| secret.len() >= LEAST_SECRET);
    Ok((headers, secrets))
}

/// What the client says when a request did not get through. Its own text may show the URL.
fn unsent(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    let mut texts = String::new();
    while let Some(found) = cause {
        if let Some(refused) = found.downcast_ref::<Refused>() {
            return refused.failure();
        }
        texts.push_str(&found.to_string());
        cause = found.source();
    }
    // The resolver's errors have no kind of their own; a name that does not exist will not exist in a second either.
    if ["Name or service not known", "No address associated", "nodename nor"].iter().any(|part| texts.contains(part)) {
        return Failure::permanent("the host name is not known").help("check the host in the connection's URL").cause(error);
    }
    if texts.contains("certificate") {
        return Failure::permanent("no TLS connection that can be trusted")
            .help("the server's certificate must be signed by an authority that this machine trusts")
            .cause(error);
    }
    if error.is_timeout() {
        return Failure::transient("no connection came about in time").cause(error);
    }
    if error.is_connect() {
        return Failure::transient("no server answers there").help("check host and port in the connection's URL").cause(error);
    }
    Failure::transient("the connection was lost").cause(error)
}
