//! Everything the journal keeps besides the events of runs: small records by kind and key. What they mean is said by [`super::schedule`].

use crate::failure::Failure;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// What sort of thing it is.
    pub kind: &'static str,
    /// Unique among its kind.
    pub key: String,
    /// Milliseconds since 1970-01-01 UTC, by which records of a kind are ordered and pruned.
    pub at_ms: i64,
    /// JSON, versioned by the journal's schema version.
    pub value: String,
}

/// One change of a record. Changes that come together are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Adds a record unless there is one of its kind and key.
    Add(Record),
    /// Adds a record, or replaces the one of its kind and key.
    Put(Record),
    /// Removes the record of a kind and key.
    Remove(&'static str, String),
}

/// One value from its stored text.
pub(super) fn parse<T: serde::de::DeserializeOwned>(record: (String, String)) -> Result<T, Failure> {
    let (key, value) = record;
    serde_json::from_str(&value)
        .map_err(|error| Failure::permanent(format!("the record `{}` in the journal cannot be read", key.escape_debug())).cause(error))
}

/// The text of a value.
pub(super) fn text(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::permanent("failed to write a record of the journal").cause(error))
}
