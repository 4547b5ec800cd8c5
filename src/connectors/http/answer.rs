//! What an answer's status means for a run.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::clock;
use crate::failure::{Failure, FailureKind};

/// Letters of a refusal's body that are shown.
const SHOWN: usize = 200;

/// The failure that a status stands for. `what` is the request, such as `GET /orders`; `said` is the beginning of the body.
pub(super) fn refused(what: &str, status: StatusCode, headers: &HeaderMap, said: &str) -> Failure {
    let said = excerpt(said);
    let message = if said.is_empty() { format!("{what} was answered {status}") } else { format!("{what} was answered {status}: {said}") };
    let failure = Failure::new(kind(status), message);
    let failure = match help(status) {
        Some(help) => failure.help(help),
        None => failure,
    };
    // An earlier try of the same request may still be worked on, which passes as well.
    let may_pass = failure.kind == FailureKind::Transient || status == StatusCode::CONFLICT;
    let wait = may_pass.then(|| retry_after(headers, clock::now_ms())).flatten();
    failure.retry_after(wait)
}

/// Only what may pass by itself is worth another try.
fn kind(status: StatusCode) -> FailureKind {
    match status.as_u16() {
        // Not implemented, the version of HTTP, a login to the network: the same request will meet the same answer.
        501 | 505 | 511 => FailureKind::Permanent,
        // Timeout, too early, too many requests.
        408 | 425 | 429 | 500..=599 => FailureKind::Transient,
        _ => FailureKind::Permanent,
    }
}

fn help(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        300..=399 => "name the new address in the connection's URL",
        401 | 407 => "check `auth` and `headers` of the connection",
        403 => "check the rights of the connection's `auth`",
        404 | 410 => "check the path and the connection's URL",
        405 => "check `method` and the path",
        413 => "write smaller batches",
        415 => "check `body`: the server takes another media type",
        _ => return None,
    })
}

/// How long the server wants to be left alone: whole seconds, or a date.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::from_millis(until.as_millisecond().saturating_sub(now_ms).max(0).unsigned_abs()))
}

/// The beginning of a text on one line.
fn excerpt(text: &str) -> String {
    let line = text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN { line } else { line.chars().take(SHOWN - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_transient() {
        for status in [408, 425, 429, 500, 502, 503, 504, 520, 529] {
            assert_eq!(kind(StatusCode::from_u16(status).expect("a status")), FailureKind::Transient, "{status}");
        }
        for status in [301, 304, 400, 401, 403, 404, 409, 413, 422, 501, 505] {
            assert_eq!(kind(StatusCode::from_u16(status).expect("a status")), FailureKind::Permanent, "{status}");
        }
    }

    #[test]
    fn a_server_may_say_when_to_come_back() {
        let wait = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a value"))]);
            retry_after(&headers, 1_445_412_420_000)
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:20:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_body_is_shown_on_one_line() {
        let headers = HeaderMap::new();
        let failure = refused("GET /a", StatusCode::NOT_FOUND, &headers, "{\n  \"error\":\t\"no such thing\"\n}");
        assert_eq!(failure.message, "GET /a was answered 404 Not Found: { \"error\": \"no such thing\" }");
        assert!(refused("GET /a", StatusCode::BAD_GATEWAY, &headers, &"x".repeat(9999)).message.chars().count() < 300);
    }
}
