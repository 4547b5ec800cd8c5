//! Rows in the keys of a Redis server.

use std::time::Duration;

use crate::data::Type;
use crate::load::template::KeyTemplate;

/// What the keys of haul's own records on a server begin with. No source gives them, and no output writes them.
pub const RESERVED: &str = "haul:{";

/// How keys hold rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowShape {
    /// A hash is a row, its fields the columns.
    Hash,
    /// A string that holds a JSON object is a row, its members the columns.
    Json,
    /// A string is a row with the column `value`.
    String,
    /// An item of a list is a row with the columns `index` and `value`.
    List,
    /// A member of a set is a row with the column `member`.
    Set,
    /// A member of a sorted set is a row with the columns `member` and `score`.
    SortedSet,
    /// An entry of a stream is a row with the column `entry_id` and its fields.
    Stream,
}

/// What becomes of keys that match a pattern and hold another type than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherTypes {
    /// They are bad rows.
    Reject,
    /// They are passed over.
    Skip,
}

/// Keys to read rows from.
#[derive(Clone, Debug)]
pub struct RedisRows {
    /// Connection name.
    pub connection: String,
    /// How keys hold rows.
    pub shape: RowShape,
    /// Which keys.
    pub key: KeyTemplate,
    /// Declared columns, in file order; empty when a sample finds them all.
    pub columns: Vec<(String, Type)>,
    /// Rows looked at to find the columns that are not declared; 0 reads the declared ones only.
    pub sample: usize,
    /// The column that tells when a key expires.
    pub ttl: Option<String>,
    /// What becomes of keys of other types.
    pub other_types: OtherTypes,
}

/// One key whose rows a stream takes as they come: a stream, or a list.
#[derive(Clone, Debug)]
pub struct RedisFollow {
    /// Which key, and its columns. The key has no column.
    pub rows: RedisRows,
    /// What the stream calls its own on the server: small letters, digits and `_`.
    pub name: String,
}

/// How rows meet what a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMode {
    /// The key holds the row, and nothing else.
    Replace,
    /// The row's fields or members join those that are there.
    Merge,
    /// Rows are added to the end.
    Append,
}

/// How long written keys live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyTtl {
    /// Replaced keys for ever; others as long as they did.
    Unsaid,
    /// So long after they are written.
    After(Duration),
    /// Until the time in this column, which is not stored; for ever where it is NULL.
    Column(String),
}

/// Keys to write rows into.
#[derive(Clone, Debug)]
pub struct RedisRowsSink {
    /// Connection name.
    pub connection: String,
    /// How keys hold rows.
    pub shape: RowShape,
    /// The key of a row.
    pub key: KeyTemplate,
    /// How rows meet what is there.
    pub mode: RowMode,
    /// How long keys live.
    pub ttl: KeyTtl,
    /// About how many entries a stream keeps.
    pub maxlen: Option<u64>,
    /// The rows are changes of a table, which also move and go away.
    pub changes: bool,
}

impl RowShape {
    /// Every shape, in the order in which a pipeline's reference lists them.
    pub const ALL: [Self; 7] = [Self::Hash, Self::Json, Self::String, Self::List, Self::Set, Self::SortedSet, Self::Stream];

    /// Its key in a pipeline.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Json => "json",
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "sorted_set",
            Self::Stream => "stream",
        }
    }

    /// The columns that every row has besides those of its key, as they are read.
    pub fn fixed(self) -> &'static [&'static str] {
        match self {
            Self::Hash | Self::Json => &[],
            Self::String => &["value"],
            Self::List => &["index", "value"],
            Self::Set => &["member"],
            Self::SortedSet => &["member", "score"],
            Self::Stream => &["entry_id"],
        }
    }

    /// Whether rows have columns of their own names.
    pub fn named(self) -> bool {
        matches!(self, Self::Hash | Self::Json | Self::Stream)
    }

    /// Whether a key holds one row, so that two rows with the same key are the same row.
    pub fn one_row(self) -> bool {
        matches!(self, Self::Hash | Self::Json | Self::String)
    }
}

impl RowMode {
    /// The word for it in a pipeline.
    pub fn word(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Merge => "merge",
            Self::Append => "append",
        }
    }
}
