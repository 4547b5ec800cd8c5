//! What inputs say.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{HttpInput, RedisInput};
use crate::load::shape::{Duration, Entries, NameOrNames, Scalar, families};

families! {
    /// Where rows come from. The first key names the family and the connection.
    pub enum Input {
        /// Reads a table or query of the SQL database behind this connection.
        Sql("sql", SqlInput),
        /// Reads files below this connection's folder or bucket.
        Files("files", FilesInput),
        /// Reads rows out of the keys of the Redis server behind this connection.
        Redis("redis", RedisInput),
        /// Reads the answers of the HTTP API behind this connection.
        Http("http", HttpInput),
        /// Makes up this many rows.
        Generate("generate", GenerateInput),
        /// Reads the rows of this stage.
        Stage("stage", StageInput),
    }
}

/// Reads a table or query of a SQL database.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlInput {
    /// The connection to read from.
    #[schemars(required)]
    pub sql: Option<String>,
    /// The table or view: `orders` or `public.orders`.
    #[schemars(extend("minLength" = 1))]
    pub table: Option<String>,
    /// Only these columns of the table, in this order.
    #[schemars(extend("minItems" = 1))]
    pub columns: Option<Vec<String>>,
    /// Only the rows of the table for which this holds, in the database's own SQL.
    #[serde(rename = "where")]
    #[schemars(extend("minLength" = 1, "examples" = ["placed_at >= {{ params.since }}"]))]
    pub filter: Option<String>,
    /// A query in the database's own SQL, instead of a table.
    #[schemars(extend("minLength" = 1))]
    pub query: Option<String>,
    /// In a stream: the table whose changes are followed, from the database's own log, or several tables, whose transactions stay whole.
    /// PostgreSQL only.
    #[schemars(extend("examples" = ["public.orders", ["public.orders", "public.customers"]]))]
    pub changes: Option<NameOrNames>,
    /// In a stream: the column that grows with every change of a row, such as `updated_at` or a serial number.
    #[schemars(extend("minLength" = 1, "examples" = ["updated_at"]))]
    pub cursor: Option<String>,
    /// In a stream: the columns that tell rows with the same cursor apart. By default the table's key.
    #[schemars(extend("minItems" = 1))]
    pub key: Option<Vec<String>>,
    /// In a stream: how long to wait before asking for new rows again.
    #[schemars(extend("default" = "5s"))]
    pub every: Option<Duration>,
    /// In a stream: rows whose cursor is a younger time than this are left for later, so that open transactions can commit.
    #[schemars(extend("default" = "0s", "examples" = ["2s"]))]
    pub lag: Option<Duration>,
    /// The column to cut splits by. By default the database's own best way is taken.
    #[schemars(extend("minLength" = 1))]
    pub split_by: Option<String>,
    /// The name that `sql` steps use for these rows. By default the table's name.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// Reads files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesInput {
    /// The connection whose folder or bucket the path is below.
    #[schemars(required)]
    pub files: Option<String>,
    /// A path, or a glob such as `orders-*.csv.gz`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["orders.csv", "orders-*.csv.gz", "**/*.parquet"]))]
    pub path: Option<String>,
    /// The files' format. By default their ending tells.
    pub format: Option<Format>,
    /// How the files are compressed. By default their ending tells.
    pub compression: Option<InputCompression>,
    /// How the CSV is written.
    pub csv: Option<CsvInput>,
    /// Declared column types; the others are inferred. `int64`, `decimal(12,2)`, `date`, …
    pub columns: Option<Entries<String>>,
    /// How many rows are looked at to infer types, over all files.
    #[schemars(range(min = 1, max = 1000000000), extend("default" = 10000))]
    pub sample: Option<usize>,
    /// The name that `sql` steps use for these rows. By default that of a single file up to its first point (`airlines` of
    /// `airlines.csv.gz`), and `input` for a glob.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// Makes rows up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateInput {
    /// How many rows: a number, or a template that gives one.
    #[schemars(required, with = "crate::load::shape::Count")]
    pub generate: Option<Scalar>,
    /// Each column's SQL expression over the row number `i`, which counts from 0.
    #[schemars(required, extend("minProperties" = 1, "examples" = [{"id": "i", "name": "'user-' || i"}]))]
    pub columns: Option<Entries<String>>,
    /// The name that `sql` steps use for these rows. By default `input`.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// Reads the rows of another stage of the same run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageInput {
    /// The stage to read.
    #[schemars(required)]
    pub stage: Option<String>,
    /// The name that `sql` steps use for these rows. By default the stage's name.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// File formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma separated values and its dialects.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

/// How files to read are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputCompression {
    /// Not at all.
    None,
    /// gzip, `.gz`.
    Gzip,
    /// Zstandard, `.zst`.
    Zstd,
}

/// How the CSV to read is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvInput {
    /// The character between values.
    #[schemars(extend("pattern" = "^[\\x00-\\x7F]$", "default" = ",", "examples" = [",", ";", "\t", "|"]))]
    pub delimiter: Option<String>,
    /// The character around values; empty when nothing is quoted.
    #[schemars(extend("pattern" = "^[\\x00-\\x7F]?$", "default" = "\""))]
    pub quote: Option<String>,
    /// The character before a quote inside of a value. By default quotes are doubled.
    #[schemars(extend("pattern" = "^[\\x00-\\x7F]$", "examples" = ["\\"]))]
    pub escape: Option<String>,
    /// Whether the first line names the columns; without it they are `column_1`, `column_2`, ….
    #[schemars(extend("default" = true))]
    pub header: Option<bool>,
    /// Unquoted texts that mean NULL.
    #[schemars(extend("default" = [""]))]
    pub null: Option<Vec<String>>,
    /// The character encoding, a label of the WHATWG standard.
    #[schemars(extend("default" = "utf-8", "examples" = ["utf-8", "windows-1252", "shift_jis"]))]
    pub encoding: Option<String>,
}
