//! Keys of Redis that are copied as they are.

use std::time::Duration;

use crate::load::template::Rename;

/// The types of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// A string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
}

/// Keys to read.
#[derive(Clone, Debug)]
pub struct KeysSource {
    /// Connection name.
    pub connection: String,
    /// Patterns as Redis reads them. Those that begin with `!` take keys away; of the others one must match.
    pub patterns: Vec<String>,
    /// Only keys of these types; empty takes all.
    pub types: Vec<KeyType>,
    /// Only keys that live on at least this long.
    pub least_lifetime: Option<Duration>,
    /// Only keys that live on at most this long.
    pub most_lifetime: Option<Duration>,
    /// Whether keys that never expire are taken.
    pub unlimited: bool,
    /// Only keys that take at least so many bytes.
    pub least_bytes: Option<u64>,
    /// Only keys that take at most so many bytes.
    pub most_bytes: Option<u64>,
}

impl KeysSource {
    /// Every key of a connection.
    pub fn all(connection: &str) -> Self {
        Self {
            connection: connection.to_owned(),
            patterns: vec!["*".to_owned()],
            types: Vec::new(),
            least_lifetime: None,
            most_lifetime: None,
            unlimited: true,
            least_bytes: None,
            most_bytes: None,
        }
    }
}

/// What happens when the target has a key of that name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The run fails, unless the key holds the same value.
    Error,
    /// The target's key stays.
    Skip,
    /// The source's key takes its place.
    Replace,
}

/// How values are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyBy {
    /// As payloads where the target understands them, else by commands.
    Auto,
    /// As payloads of DUMP.
    Dump,
    /// By commands.
    Commands,
}

/// Where keys are copied to.
#[derive(Clone, Debug)]
pub struct KeysSink {
    /// Connection name.
    pub connection: String,
    /// New names; `None` keeps the old ones.
    pub rename: Option<Rename>,
    /// Keys that are there.
    pub conflict: Conflict,
    /// How values are carried.
    pub copy: CopyBy,
    /// Whether the target is to hold these keys only.
    pub only: bool,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::String, Self::List, Self::Set, Self::SortedSet, Self::Hash, Self::Stream];

    /// As the answer to `TYPE` says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
        }
    }
}

impl Conflict {
    /// The word for it in a pipeline.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Skip => "skip",
            Self::Replace => "replace",
        }
    }
}
