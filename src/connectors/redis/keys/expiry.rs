//! When keys expire, as each server can tell it.

use redis::Value as Reply;

use super::pieces::words;
use crate::connectors::redis::reply::{integer, items};
use crate::connectors::redis::{Command, Replies, Server};
use crate::failure::Failure;

/// Two instants of expiry that are this close are the same: what a relative expiry may be late.
const TOLERANCE_MS: u64 = 1000;

/// How a server tells when a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The instant itself: `PEXPIRETIME`, since 7.0.
    Instant,
    /// How long it lives on: `PTTL`, added to the server's own time.
    Remaining,
}

impl Expiry {
    /// Tries which of the two a server knows and allows.
    pub(super) async fn of(server: &Server) -> Result<Self, Failure> {
        let reply = server.call(&[Command::new("PEXPIRETIME").key(b"haul:{probe}")]).await?.pop().unwrap_or_default();
        Ok(if matches!(reply, Reply::Int(_)) { Self::Instant } else { Self::Remaining })
    }

    /// Asks it of a key.
    pub(super) fn ask(self, key: &[u8]) -> Command {
        Command::new(if self == Self::Instant { "PEXPIRETIME" } else { "PTTL" }).key(key)
    }

    /// Asks the server's own time after the keys, where remaining times are added to it.
    pub(super) fn clock(self) -> Option<Command> {
        (self == Self::Remaining).then(|| Command::new("TIME"))
    }

    /// Takes the answer of the clock off the replies: milliseconds since 1970 to add.
    pub(super) fn now(self, replies: &mut Replies) -> Result<i64, Failure> {
        if self == Self::Instant {
            return Ok(0);
        }
        let time = words(items(replies.pop().unwrap_or_default())?)?;
        let part = |at: usize| time.get(at).and_then(|word| std::str::from_utf8(word).ok()?.parse::<i64>().ok());
        match (part(0), part(1)) {
            (Some(seconds), Some(micros)) => Ok(seconds * 1000 + micros / 1000),
            _ => Err(Failure::permanent("the answer to TIME cannot be read")),
        }
    }
}

/// How long a key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Until this time, in milliseconds since 1970; `None` for ever.
    Until(Option<i64>),
    /// It is not there any more, though its value may have been told a moment before.
    Over,
}

/// Reads the answer to [`Expiry::ask`].
pub(super) fn life(reply: Reply, now: i64) -> Result<Life, Failure> {
    Ok(match integer(reply)? {
        -2 => Life::Over,
        time => Life::Until((time >= 0).then(|| now + time)),
    })
}

/// Whether a key lives as long as it should.
pub(super) fn same(wanted: Option<i64>, found: Life) -> bool {
    match (wanted, found) {
        (None, Life::Until(None)) => true,
        (Some(wanted), Life::Until(Some(found))) => wanted.abs_diff(found) <= TOLERANCE_MS,
        _ => false,
    }
}
