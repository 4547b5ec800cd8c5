//! Places in a stream or list, and what a server says of a stream.

use redis::Value;
use serde::{Deserialize, Serialize};

use crate::connectors::redis::reply::{integer, items, text};
use crate::data::Position;
use crate::failure::Failure;

/// Version of positions.
const VERSION: u32 = 1;

/// A place in what is followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    v: u32,
    /// Entries or items up to and including the last one.
    pub count: u64,
    /// The id of the last entry of a stream.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
}

impl Place {
    /// A place behind so many entries or items.
    pub(super) fn new(count: u64, id: String) -> Self {
        Self { v: VERSION, count, id }
    }

    pub(super) fn read(position: &Position) -> Result<Self, Failure> {
        let odd = || Failure::permanent("the position of the stream is none of a key of Redis").help("`--fresh` begins it anew");
        let place: Self = serde_json::from_str(&position.0).map_err(|error| odd().cause(error))?;
        if place.v == VERSION { Ok(place) } else { Err(odd()) }
    }

    pub(super) fn position(&self) -> Result<Position, Failure> {
        let text = serde_json::to_string(self).map_err(|error| Failure::permanent("failed to write a position down").cause(error))?;
        Ok(Position(text))
    }
}

/// What a server says of a stream.
pub(super) struct Said {
    /// How many entries are gone.
    pub removed: u64,
    /// The id of the first one that is there.
    pub first: Option<String>,
}

impl Said {
    pub(super) fn read(reply: Value) -> Result<Self, Failure> {
        let (mut added, mut length, mut first) = (0, 0, None);
        let mut fields = items(reply)?.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match text(name)?.as_str() {
                "entries-added" => added = integer(value)?.unsigned_abs(),
                "length" => length = integer(value)?.unsigned_abs(),
                "first-entry" => first = items(value)?.into_iter().next().map(text).transpose()?,
                _ => {}
            }
        }
        Ok(Self { removed: added.saturating_sub(length), first })
    }
}

/// The parts of an id: milliseconds, and a number within them.
pub(super) fn number_of(id: &str) -> (u64, u64) {
    let (ms, number) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), number.parse().unwrap_or(0))
}

/// The first id that may come behind another.
pub(in crate::connectors::redis) fn behind(id: &str) -> String {
    let (ms, number) = number_of(id);
    number.checked_add(1).map_or_else(|| format!("{}-0", ms.saturating_add(1)), |number| format!("{ms}-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_of_two_parts() {
        assert_eq!(behind("5-1"), "5-2");
        assert_eq!(behind("0-0"), "0-1");
        assert_eq!(behind(&format!("5-{}", u64::MAX)), "6-0");
        assert!(number_of("5-10") > number_of("5-9") && number_of("10-0") > number_of("9-99"));
    }
}
