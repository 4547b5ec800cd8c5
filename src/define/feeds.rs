//! Feeds: what outputs say of them, and how a project serves them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::conform;
use super::pipeline::{FeedKeep, FeedSink, SlowClient};
use super::reader::{Mode, Reader};
use super::resolve::{Given, context};
use super::stages::positive;
use super::steps::names;
use crate::diagnostic::Diagnostic;
use crate::load::{Project, file, shape};
use crate::secret::Secret;

/// Events that are kept when an output does not say.
const KEEP_ROWS: u64 = 1_000_000;
/// Bytes of events that are kept when an output does not say.
const KEEP_BYTES: u64 = 1 << 30;
/// How long events are kept when an output does not say.
const KEEP_AGE: Duration = Duration::from_secs(7 * 86_400);
/// How long a client may lag behind when an output does not say.
const SLOW_AFTER: Duration = Duration::from_secs(30);
/// Where feeds are served when a project does not say.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);
/// How often a connection shows that it lives when a project does not say. Proxies cut connections that are silent for half a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How a project serves its feeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedServer {
    /// The address and port.
    pub listen: SocketAddr,
    /// Any of them lets a client read; everybody may when there is none.
    pub tokens: Vec<Secret<String>>,
    /// Origins of web pages that may read; `*` stands for all.
    pub origins: Vec<String>,
    /// How often a connection without events shows that it lives.
    pub keep_alive: Duration,
}

/// Reads an output.
pub fn output(reader: &mut Reader<'_>, at: &str, said: &file::FeedOutput) -> Option<FeedSink> {
    let feed = said.feed.clone()?;
    let key = names(reader, &format!("{at}/key"), said.key.as_ref().map(|key| key.0.as_slice()).unwrap_or_default());
    let keep = said.keep.as_ref();
    positive(reader, &format!("{at}/keep/age"), keep.and_then(|keep| keep.age.as_ref()));
    positive(reader, &format!("{at}/slow_after"), said.slow_after.as_ref());
    let bytes = keep.and_then(|keep| keep.bytes.as_ref()).and_then(shape::Size::read).unwrap_or(KEEP_BYTES);
    if bytes == 0 {
        reader.error(
            "out-of-range",
            &format!("{at}/keep/bytes"),
            "a feed that keeps nothing cannot be gone on with",
            "write a larger size",
        );
    }
    let slow = match said.slow {
        None | Some(file::SlowClient::Disconnect) => SlowClient::Disconnect,
        Some(file::SlowClient::Skip) => SlowClient::Skip,
        Some(file::SlowClient::LatestPerKey) => SlowClient::LatestPerKey,
    };
    if slow == SlowClient::LatestPerKey && key.is_empty() && !reader.broken(&format!("{at}/key")) {
        let message = "`latest_per_key` needs to know which column is the key";
        reader.error("feed-key", &format!("{at}/slow"), message, "add `key:`, or write `slow: disconnect`");
    }
    let length = |said: Option<&shape::Duration>, usual| said.and_then(shape::Duration::read).unwrap_or(usual);
    Some(FeedSink {
        feed,
        key: key.into_iter().map(|(name, _)| name).collect(),
        keep: FeedKeep {
            rows: keep.and_then(|keep| keep.rows).unwrap_or(KEEP_ROWS),
            bytes,
            age: length(keep.and_then(|keep| keep.age.as_ref()), KEEP_AGE),
        },
        slow,
        slow_after: length(said.slow_after.as_ref(), SLOW_AFTER),
    })
}

impl Default for FeedServer {
    fn default() -> Self {
        Self { listen: LISTEN, tokens: Vec::new(), origins: Vec::new(), keep_alive: KEEP_ALIVE }
    }
}

/// Checks `feeds:` of a project file.
pub(super) fn check(reader: &mut Reader<'_>, said: Option<&file::Feeds>) {
    let server = said.and_then(|said| read(reader, said));
    if server.is_some_and(|server| server.tokens.is_empty() && !server.listen.ip().is_loopback()) {
        let message = "everybody who reaches this address can read the feeds";
        let problem = reader.document.at_value(Diagnostic::warning("feeds-open", message), "/feeds/listen", "");
        reader.problems.push(problem.help("add `tokens:`, or listen on 127.0.0.1 behind something that has a login"));
    }
}

/// How a project serves its feeds, its templates rendered.
pub fn feed_server(project: &Project, env: &dyn Fn(&str) -> Option<String>) -> Result<FeedServer, Vec<Diagnostic>> {
    let Some(document) = &project.document else { return Ok(FeedServer::default()) };
    let said: file::Project = serde_json::from_value(conform::project().conform(document).value).unwrap_or_default();
    let Some(said) = said.feeds else { return Ok(FeedServer::default()) };
    let mut names = Reader::of_project(document, &[], Mode::Check);
    let _ = read(&mut names, &said);
    let given = Given { params: BTreeMap::new(), env, run: None };
    let env: Vec<String> = names.env.into_iter().collect();
    let context = context("", project, &given, &env, BTreeMap::new());
    let mut reader = Reader::of_project(document, &[], Mode::Render(&context));
    read(&mut reader, &said).ok_or(reader.problems)
}

/// `None` when something is wrong, which has been reported.
fn read(reader: &mut Reader<'_>, said: &file::Feeds) -> Option<FeedServer> {
    let before = reader.problems.len();
    let usual = FeedServer::default();
    positive(reader, "/feeds/keep_alive", said.keep_alive.as_ref());
    let listen = match said.listen.as_ref() {
        None => usual.listen,
        Some(text) => text.parse().unwrap_or_else(|_| {
            let help = "write both: `127.0.0.1:9465`, or `0.0.0.0:9465` for all networks of the machine";
            reader.error("feeds-listen", "/feeds/listen", format!("`{text}` is no address with a port"), help);
            usual.listen
        }),
    };
    let mut tokens = Vec::new();
    for (place, token) in said.tokens.iter().flatten().enumerate() {
        let at = format!("/feeds/tokens/{place}");
        let token = reader.text(&at, token)?;
        if token.is_empty() {
            reader.error("empty", &at, "an empty token would let everybody read", "give it a value, or remove it");
        }
        tokens.push(Secret::new(token));
    }
    for (place, origin) in said.origins.iter().flatten().enumerate() {
        let known = ["https://", "http://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
        if origin != "*" && known.is_none_or(|host| host.is_empty() || host.contains('/')) {
            let message = format!("`{origin}` is not the origin of a web page");
            reader.error(
                "feeds-origin",
                &format!("/feeds/origins/{place}"),
                message,
                "write `https://shop.example.com`, without a path, or `*`",
            );
        }
    }
    let keep_alive = said.keep_alive.as_ref().and_then(shape::Duration::read).unwrap_or(usual.keep_alive);
    let origins = said.origins.clone().unwrap_or_default();
    (reader.problems.len() == before).then_some(FeedServer { listen, tokens, origins, keep_alive })
}
