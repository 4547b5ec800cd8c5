//! Who may read: tokens, and the origins of web pages.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};

use crate::define::FeedServer;

/// What pages may ask for, and see of the answer.
const MAY_SEND: &str = "authorization, last-event-id, cache-control";
const MAY_SEE: &str = "haul-feed-place, haul-feed-lost, haul-feed-head, haul-feed-identity";

/// Decides about requests.
pub(super) struct Gate {
    /// The hashes of the tokens: comparing these takes the same time whatever is guessed.
    tokens: Vec<[u8; 32]>,
    origins: Vec<String>,
    loopback: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No token, or a wrong one.
    Token,
    /// A web page of another origin.
    Origin,
    /// A name of this machine that nobody gave it: a web page may have made it up to reach what only this machine may.
    Host,
}

impl Gate {
    pub(super) fn new(server: &FeedServer) -> Self {
        let tokens = server.tokens.iter().map(|token| hash(token.reveal())).collect();
        Self { tokens, origins: server.origins.clone(), loopback: server.listen.ip().is_loopback() }
    }

    /// Whether a request may read; `token` is that of its query.
    pub(super) fn check(&self, headers: &HeaderMap, token: Option<&str>) -> Result<(), Refused> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        let origin = text(header::ORIGIN);
        let own = origin.and_then(|origin| origin.split_once("://")).is_some_and(|(_, named)| named == host);
        if origin.is_some_and(|origin| !own && !self.knows(origin)) {
            return Err(Refused::Origin);
        }
        if self.tokens.is_empty() {
            let known = !self.loopback
                || is_local(host)
                || self.origins.iter().any(|origin| origin == "*" || origin.ends_with(&format!("://{host}")));
            return if known { Ok(()) } else { Err(Refused::Host) };
        }
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let given = hash(bearer.or(token).unwrap_or_default());
        // Every token is compared in full, so that the time tells nothing.
        let found = self.tokens.iter().fold(0, |found, known| {
            let differs = known.iter().zip(&given).fold(0, |differs, (a, b)| differs | (a ^ b));
            found | u8::from(differs == 0)
        });
        if found == 1 { Ok(()) } else { Err(Refused::Token) }
    }

    fn knows(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(origin))
    }

    /// What tells a browser that a page may read the answer.
    pub(super) fn allow(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let Some(origin) = asked.get(header::ORIGIN) else { return };
        answer.insert(header::VARY, HeaderValue::from_static("origin"));
        if origin.to_str().is_ok_and(|origin| self.knows(origin)) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(MAY_SEND));
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(MAY_SEE));
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a host is an address, or a name that means this machine everywhere.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.is_empty()
        || name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn check(server: &FeedServer, headers: &[(&str, &str)], token: Option<&str>, expected: Result<(), Refused>) {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value")));
        let headers: HeaderMap = headers.collect();
        assert_eq!(Gate::new(server).check(&headers, token), expected, "{headers:?}");
    }

    #[test]
    fn only_those_may_read_who_should() {
        let open = FeedServer::default();
        check(&open, &[("host", "127.0.0.1:9465")], None, Ok(()));
        check(&open, &[("host", "[::1]:9465")], None, Ok(()));
        check(&open, &[("host", "localhost:9465"), ("origin", "http://localhost:9465")], None, Ok(()));
        check(&open, &[("host", "rebound.example:9465")], None, Err(Refused::Host));
        check(&open, &[("host", "127.0.0.1:9465"), ("origin", "https://shop.example")], None, Err(Refused::Origin));
        let pages = FeedServer { origins: vec!["https://shop.example".to_owned()], ..FeedServer::default() };
        check(&pages, &[("host", "127.0.0.1:9465"), ("origin", "https://shop.example")], None, Ok(()));
        check(&pages, &[("host", "shop.example")], None, Ok(()));
        check(&pages, &[("host", "127.0.0.1:9465"), ("origin", "https://other.example")], None, Err(Refused::Origin));
        let tokens = ["one", "two"].map(|token| Secret::new(token.to_owned())).to_vec();
        let closed = FeedServer { tokens, ..FeedServer::default() };
        check(&closed, &[("host", "feeds.example")], None, Err(Refused::Token));
        check(&closed, &[("host", "feeds.example")], Some("two"), Ok(()));
        check(&closed, &[("authorization", "Bearer one")], None, Ok(()));
        check(&closed, &[("authorization", "bearer  one")], None, Ok(()));
        check(&closed, &[("authorization", "Bearer tw")], Some("two"), Err(Refused::Token));
        check(&closed, &[("authorization", "Basic one")], None, Err(Refused::Token));
    }
}
