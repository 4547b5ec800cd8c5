//! What outputs say, and where bad rows go.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{CacheOutput, FeedOutput, Format, HttpOutput, RedisOutput};
use crate::load::shape::{Duration, Size, families};

/// How files to write are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputCompression {
    /// Not at all.
    None,
    /// gzip, `.gz`.
    Gzip,
    /// Zstandard, `.zst`.
    Zstd,
    /// Snappy, inside of Parquet only.
    Snappy,
}

/// How the CSV is to be written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvOutput {
    /// The character between values.
    #[schemars(extend("pattern" = "^[\\x00-\\x7F]$", "default" = ",", "examples" = [",", ";", "\t", "|"]))]
    pub delimiter: Option<String>,
    /// The character around values that need it.
    #[schemars(extend("pattern" = "^[\\x00-\\x7F]$", "default" = "\""))]
    pub quote: Option<String>,
    /// Whether the first line names the columns.
    #[schemars(extend("default" = true))]
    pub header: Option<bool>,
    /// The unquoted text that stands for NULL.
    #[schemars(extend("default" = ""))]
    pub null: Option<String>,
}

families! {
    /// Where rows go. The first key names the family and the connection.
    pub enum Output {
        /// Writes to a table of the SQL database behind this connection.
        Sql("sql", SqlOutput),
        /// Writes files below this connection's folder or bucket.
        Files("files", FilesOutput),
        /// Writes rows into keys of the Redis server behind this connection.
        Redis("redis", RedisOutput),
        /// Sends rows to the HTTP API behind this connection.
        Http("http", HttpOutput),
        /// Serves rows over HTTP as a feed of this name.
        Feed("feed", FeedOutput),
        /// Counts the rows and drops them. The text says why.
        Discard("discard", DiscardOutput),
        /// Writes to this cache of the same pipeline.
        Cache("cache", CacheOutput),
    }
}

/// Writes to a table of a SQL database.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlOutput {
    /// The connection to write to.
    #[schemars(required)]
    pub sql: Option<String>,
    /// The table: `orders` or `public.orders`. Of the `changes` of tables: in it `{{ table }}` stands for the name of each table, without its
    /// schema; by default each has the name that it has in `changes`.
    #[schemars(extend("minLength" = 1, "examples" = ["public.orders", "copies.{{ table }}"]))]
    pub table: Option<String>,
    /// How rows meet what is there.
    #[schemars(extend("default" = "append"))]
    pub mode: Option<SqlMode>,
    /// The columns by which `upsert` finds the row to replace. Of the `changes` of tables, by default the key of each table.
    #[schemars(extend("minItems" = 1))]
    pub key: Option<Vec<String>>,
    /// What may be done to the table's shape.
    #[schemars(extend("default" = "create"))]
    pub schema: Option<SchemaMode>,
    /// The primary key of a table that is created. By default the upsert key, else the source's.
    #[schemars(extend("minItems" = 1))]
    pub primary_key: Option<Vec<String>>,
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
}

/// How rows meet what is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SqlMode {
    /// Rows are added.
    Append,
    /// The table holds exactly the new rows once the load is published, and exactly the old ones until then.
    Replace,
    /// A row replaces the row of the same key, or is added.
    Upsert,
}

/// What may be done to a table's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaMode {
    /// Creates the table when it is missing; what exists must fit.
    Create,
    /// Creates the table when it is missing, and adds missing columns.
    Evolve,
    /// The table and its columns must exist.
    Require,
}

/// Writes files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesOutput {
    /// The connection whose folder or bucket the path is below.
    #[schemars(required)]
    pub files: Option<String>,
    /// A file, or a folder of parts when it ends in `/`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["orders.parquet", "orders/"]))]
    pub path: Option<String>,
    /// The format. By default the file's ending tells.
    pub format: Option<Format>,
    /// How the files are compressed. By default the ending tells; inside of Parquet `zstd`.
    pub compression: Option<OutputCompression>,
    /// How the CSV is to be written.
    pub csv: Option<CsvOutput>,
    /// How rows meet what is there.
    #[schemars(extend("default" = "replace"))]
    pub mode: Option<FilesMode>,
    /// In a stream: when a part is whole and seen, and the next one begins.
    #[schemars(extend("examples" = [{ "rows": 100000, "every": "1m" }]))]
    pub roll: Option<Roll>,
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
}

/// When a part of a stream's files is whole. Whichever comes first ends it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// It has so many rows.
    #[schemars(range(min = 1, max = 1000000000000u64), extend("default" = 1000000))]
    pub rows: Option<u64>,
    /// It has about so many bytes, as they lie in the file.
    #[schemars(extend("default" = "128MiB"))]
    pub bytes: Option<Size>,
    /// Its first row has waited so long.
    #[schemars(extend("default" = "5m"))]
    pub every: Option<Duration>,
}

/// How rows meet the files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilesMode {
    /// The new files replace the old ones in one step.
    Replace,
    /// New parts are added to a folder.
    Append,
}

/// Counts the rows and drops them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiscardOutput {
    /// Why the rows are dropped, for whoever reads the file.
    #[schemars(required)]
    pub discard: Option<String>,
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
}

/// Where bad rows go, and how many there may be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejects {
    /// The NDJSON file they go to.
    #[schemars(required)]
    pub to: Option<RejectsFile>,
    /// More bad rows than this fail the stage.
    #[schemars(required, range(min = 0, max = 1000000000000u64))]
    pub at_most: Option<u64>,
}

/// The NDJSON file that bad rows go to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectsFile {
    /// The connection whose folder or bucket the path is below.
    #[schemars(required)]
    pub files: Option<String>,
    /// The file's path.
    #[schemars(required, extend("minLength" = 1, "examples" = ["orders-{{ run.id }}.ndjson"]))]
    pub path: Option<String>,
}
