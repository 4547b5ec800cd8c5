//! What stages read.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{At, Expr, HttpSource, KeysSource, RedisFollow, RedisRows};
use crate::data::Type;

/// One input of a stage.
#[derive(Clone, Debug)]
pub struct Input {
    /// The name that `sql:` steps use for it: `as:`, else the stage's or table's own name, else `input`.
    pub name: String,
    /// What is read.
    pub source: SourceSpec,
    /// Where it stands.
    pub at: At,
}

/// What is read.
#[derive(Clone, Debug)]
pub enum SourceSpec {
    /// A table or query of a SQL database.
    Sql(SqlSource),
    /// A table or query of a SQL database that is asked for new rows again and again.
    Poll(PollSource),
    /// The changes of tables, from the database's own log.
    Changes(ChangesSource),
    /// Files.
    Files(FilesSource),
    /// Rows in the keys of a Redis server.
    Redis(RedisRows),
    /// One key of a Redis server, whose rows are taken as they come.
    RedisFollow(RedisFollow),
    /// Messages of a Redis server as they are published. The template names the channels, and the shape is that of a string or of JSON.
    RedisChannel(RedisRows),
    /// Keys of a Redis server, as they are.
    RedisKeys(KeysSource),
    /// The answers of an HTTP API.
    Http(HttpSource),
    /// Rows made up from expressions.
    Generate(GenerateSource),
    /// The rows of another stage of the same run.
    Stage(String),
}

/// A table or query of a SQL database.
#[derive(Clone, Debug)]
pub struct SqlSource {
    /// Connection name.
    pub connection: String,
    /// What to read.
    pub read: SqlRead,
    /// A column to cut splits by; by default the connector chooses.
    pub split_by: Option<String>,
}

/// A table or query that a stream follows by asking again and again for what lies behind the last row.
#[derive(Clone, Debug)]
pub struct PollSource {
    /// What is asked.
    pub sql: SqlSource,
    /// The column that grows with every change of a row.
    pub cursor: String,
    /// Columns that tell rows of the same cursor apart; empty means the table's own key.
    pub key: Vec<String>,
    /// The wait between two questions when the last one was answered in full.
    pub every: Duration,
    /// Rows whose cursor is a younger time than this are left for later, so that transactions that are still open can commit.
    pub lag: Duration,
}

/// What to read of a SQL database.
#[derive(Clone, Debug)]
pub enum SqlRead {
    /// A table or view: an optional schema and a name, unquoted.
    Table {
        /// `public.orders` is `[public, orders]`.
        name: Vec<String>,
        /// Only these columns, in this order; empty means all.
        columns: Vec<String>,
        /// Only rows for which this holds, in the engine's own SQL, rendered and quoted.
        filter: Option<String>,
    },
    /// A query in the engine's own SQL, rendered and quoted.
    Query(String),
}

/// Tables whose changes a stream follows, in the order of their transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesSource {
    /// Connection name.
    pub connection: String,
    /// At least one; `public.orders` is `[public, orders]`.
    pub tables: Vec<Vec<String>>,
    /// What the stream calls its own in the database: small letters, digits and `_`.
    pub slot: String,
}

/// Files to read.
#[derive(Clone, Debug)]
pub struct FilesSource {
    /// Connection name.
    pub connection: String,
    /// A path or glob below the connection's root.
    pub path: String,
    /// Their format.
    pub format: FileFormat,
    /// How they are compressed; `None` goes by the file's ending.
    pub compression: Option<Compression>,
    /// Declared columns; others are inferred.
    pub columns: BTreeMap<String, Type>,
    /// Rows looked at to infer types, over all files.
    pub sample: usize,
}

/// File formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Comma separated values and its dialects.
    Csv(CsvDialect),
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvDialect {
    /// One ASCII character.
    pub delimiter: u8,
    /// One ASCII character; `None` when nothing is quoted.
    pub quote: Option<u8>,
    /// The character that escapes a quote; `None` when quotes are doubled.
    pub escape: Option<u8>,
    /// Whether the first line names the columns; without it they are `column_1`, `column_2`, ….
    pub header: bool,
    /// Unquoted texts that mean NULL. By default only the empty text.
    pub null: Vec<String>,
    /// A label of the WHATWG encoding standard, such as `utf-8` or `windows-1252`.
    pub encoding: String,
}

/// Compressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Snappy, inside of Parquet only.
    Snappy,
}

/// Rows made up from expressions.
#[derive(Clone, Debug)]
pub struct GenerateSource {
    /// How many.
    pub rows: u64,
    /// Each column's expression over the row number `i`, which counts from 0, in file order.
    pub columns: Vec<(String, Expr)>,
}
