//! What files say: the serde mirror of pipelines and project files, and the source of their JSON Schemas.
//!
//! Everything is optional here, because a file with problems is still read as far as it goes; what is required is said to the schema.
//! Doc comments become the descriptions an editor shows.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shape::{Duration, Entries, OneOrMany, Scalar, Size, families};

/// A haul pipeline: moves data between databases and files. The file's name is the pipeline's name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What the pipeline is for.
    pub description: Option<String>,
    /// Values given at run time with `--param name=value`, used in templates as `{{ params.name }}`.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,62}$"}))]
    pub params: Option<Entries<Param>>,
    /// The systems the stages name, merged over those of haul.yaml.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"}))]
    pub connections: Option<Entries<Connection>>,
    /// What a run may use at the same time.
    pub limits: Option<Limits>,
    /// Settings for every stage that does not have its own.
    pub defaults: Option<Defaults>,
    /// The stages by name. They run as soon as the stages they read or name in `after:` are done.
    #[schemars(required, extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"}, "minProperties" = 1))]
    pub stages: Option<Entries<Stage>>,
}

/// A haul project: what all files in the folder `pipelines/` beside this file share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Systems that every pipeline may name.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"}))]
    pub connections: Option<Entries<Connection>>,
    /// Settings for every stage of every pipeline that does not have its own.
    pub defaults: Option<Defaults>,
    /// What a run may use at the same time.
    pub limits: Option<Limits>,
    /// Where runs are recorded: `sqlite:` and a path beside this file, or `postgres://…`.
    #[schemars(extend("default" = "sqlite:.haul/state.db", "examples" = ["sqlite:.haul/state.db", "{{ env.HAUL_STATE_URL }}"]))]
    pub state: Option<String>,
}

/// A value that is given at run time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// What values it takes.
    #[serde(rename = "type")]
    #[schemars(required)]
    pub ty: Option<ParamType>,
    /// Used when the run gives no value. A param without a default is required.
    pub default: Option<Scalar>,
    /// What it is for.
    pub description: Option<String>,
    /// The only values it takes.
    #[schemars(extend("minItems" = 1))]
    pub allowed: Option<Vec<Scalar>>,
}

/// The type of a param.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Any text.
    Text,
    /// A whole number of 64 bits.
    Int,
    /// A decimal number, kept exactly.
    Number,
    /// `true` or `false`.
    Bool,
    /// `2020-01-31`.
    Date,
    /// `2020-01-31T04:05:06Z`.
    Timestamp,
}

/// A system to read from or write to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// Where it is: `postgres://user@host/database`, `sqlite:path`, `file:folder`, `s3://bucket/prefix`. Secrets come from `{{ env.NAME }}`
    /// or `{{ secret.file('path') }}`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["{{ env.SHOP_URL }}", "sqlite:warehouse.db", "file:data", "s3://bucket/prefix"]))]
    pub url: Option<String>,
    /// The most connections open to it at the same time.
    #[schemars(range(min = 1, max = 1000), extend("default" = 8))]
    pub max_connections: Option<u32>,
}

/// What a run may use at the same time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Stages that run at the same time.
    #[schemars(range(min = 1, max = 1000), extend("default" = 4))]
    pub stages: Option<usize>,
    /// Splits that are worked on at the same time, over all stages.
    #[schemars(range(min = 1, max = 1000), extend("default" = 8))]
    pub splits: Option<usize>,
    /// Bytes of rows on their way, over all stages.
    #[schemars(extend("default" = "256MiB"))]
    pub memory: Option<Size>,
    /// How long a run that is asked to stop may take to commit what it has begun.
    #[schemars(extend("default" = "30s"))]
    pub drain: Option<Duration>,
}

/// Settings for every stage that does not have its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// How often and how long failed work is tried again.
    pub retry: Option<Retry>,
    /// The longest one attempt may take.
    pub timeout: Option<Duration>,
    /// What proof of arrival a run gives.
    pub verify: Option<Verify>,
    /// How sources are cut into parts.
    pub splits: Option<Splits>,
    /// How many rows travel together.
    pub batch: Option<BatchSize>,
}

/// How often and how long failed work is tried again. Only failures that may pass by themselves are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries in all; 1 never tries again.
    #[schemars(range(min = 1, max = 1000), extend("default" = 5))]
    pub attempts: Option<u32>,
    /// The waits between tries.
    pub backoff: Option<Backoff>,
    /// No further try starts after this long.
    #[schemars(extend("default" = "1h"))]
    pub total: Option<Duration>,
}

/// The waits between tries.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The wait before the second try.
    #[schemars(extend("default" = "1s"))]
    pub initial: Option<Duration>,
    /// No wait is longer.
    #[schemars(extend("default" = "1m"))]
    pub max: Option<Duration>,
    /// Each wait is this many times the one before.
    #[schemars(range(min = 1, max = 100), extend("default" = 2))]
    pub factor: Option<f64>,
    /// Spreads each wait evenly between zero and its length, so that many tries do not come at once.
    #[schemars(extend("default" = true))]
    pub jitter: Option<bool>,
}

/// What proof of arrival a run gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// The rows in the target are read back and compared by digest.
    Digest,
    /// The rows in the target are counted.
    Count,
    /// Nothing beyond what each commit records.
    None,
}

/// How a source is cut into parts that are read at the same time and resumed one by one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// At most so many; 1 reads the source as a whole.
    #[schemars(range(min = 1, max = 10000), extend("default" = 64))]
    pub most: Option<usize>,
    /// A split is not smaller than this.
    #[schemars(extend("default" = "64MiB"))]
    pub bytes: Option<Size>,
    /// Splits of the stage that are worked on at the same time.
    #[schemars(range(min = 1, max = 1000), extend("default" = 4))]
    pub concurrency: Option<usize>,
}

/// How many rows travel together.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchSize {
    /// At most so many rows.
    #[schemars(range(min = 1, max = 1000000), extend("default" = 16384))]
    pub rows: Option<usize>,
    /// At most so many bytes, a single larger row apart.
    #[schemars(extend("default" = "4MiB"))]
    pub bytes: Option<Size>,
}

/// The kind of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bounded: reads its inputs to their end, in parts that can be resumed and verified.
    Batch,
    /// Unbounded: follows a source of changes. Not in this version.
    Stream,
    /// Keyed data kept warm for other stages. Not in this version.
    Cache,
}

/// A bounded stage: reads its inputs to their end, transforms the rows, and writes them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchStage {
    /// What the stage does: `batch`.
    #[schemars(required)]
    pub kind: Option<Kind>,
    /// What the stage is for.
    pub description: Option<String>,
    /// Stages that must be done before this one starts. A stage that is read in `from:` need not be named.
    pub after: Option<Vec<String>>,
    /// Where rows come from: one input, or a list of inputs that a first `sql` step joins.
    #[schemars(required)]
    pub from: Option<OneOrMany<Input>>,
    /// What happens to the rows, step by step.
    pub transform: Option<Vec<Step>>,
    /// Where rows go: one output or a list of them. It may be left out when another stage reads this one.
    pub to: Option<OneOrMany<Output>>,
    /// What proof of arrival the run gives.
    pub verify: Option<Verify>,
    /// Where bad rows go. Without it the first bad row fails the stage.
    pub rejects: Option<Rejects>,
    /// How the source is cut into parts.
    pub splits: Option<Splits>,
    /// How many rows travel together.
    pub batch: Option<BatchSize>,
    /// How often and how long failed work is tried again.
    pub retry: Option<Retry>,
    /// The longest one attempt may take.
    #[schemars(extend("examples" = ["30m"]))]
    pub timeout: Option<Duration>,
}

/// One stage of a pipeline.
#[derive(Debug)]
pub enum Stage {
    /// The stage is bounded.
    Batch(Box<BatchStage>),
    /// The stage is of a kind that is not in this version, or of none.
    Other(Option<Kind>),
}

families! {
    /// Where rows come from. The first key names the family and the connection.
    pub enum Input {
        /// Reads a table or query of the SQL database behind this connection.
        Sql("sql", SqlInput),
        /// Reads files below this connection's folder or bucket.
        Files("files", FilesInput),
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
    /// The name that `sql` steps use for these rows. By default `input`.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// Makes rows up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateInput {
    /// How many rows: a number, or a template that gives one.
    #[schemars(required, with = "super::shape::Count")]
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

/// One step of a transform: exactly one of these keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Step {
    /// Keeps the rows for which this SQL condition is true.
    #[schemars(extend("minLength" = 1, "examples" = ["status <> 'test'"]))]
    pub filter: Option<String>,
    /// Keeps these columns, in this order.
    #[schemars(extend("minItems" = 1))]
    pub select: Option<Vec<String>>,
    /// Drops these columns.
    #[schemars(extend("minItems" = 1))]
    pub drop: Option<Vec<String>>,
    /// Renames columns: `old: new`.
    #[schemars(extend("minProperties" = 1))]
    pub rename: Option<Entries<String>>,
    /// Adds or replaces columns, each by a SQL expression over the columns as they were before.
    #[schemars(extend("minProperties" = 1, "examples" = [{"total_cents": "cast(total * 100 as bigint)"}]))]
    pub set: Option<Entries<String>>,
    /// Casts columns to types. A value that does not fit is a bad row.
    #[schemars(extend("minProperties" = 1, "examples" = [{"total": "decimal(12,2)"}]))]
    pub cast: Option<Entries<String>>,
    /// Hides values.
    #[schemars(extend("minProperties" = 1))]
    pub mask: Option<Entries<Mask>>,
    /// Keeps the first row of each key.
    #[schemars(extend("minItems" = 1))]
    pub dedupe: Option<Vec<String>>,
    /// A SQL query over the inputs by their names, or over `input`, the rows so far.
    #[schemars(extend("minLength" = 1, "examples" = ["select * from orders join customers using (customer_id)"]))]
    pub sql: Option<String>,
}

/// How a value is hidden.
#[derive(Debug)]
pub enum Mask {
    /// Replaced by a salted SHA-256, as hexadecimal digits.
    Hash(String),
    /// Replaced by a text.
    Redact(String),
    /// Replaced by NULL.
    Null,
    /// Said wrongly; the schema has reported it.
    Unclear,
}

families! {
    /// Where rows go. The first key names the family and the connection.
    pub enum Output {
        /// Writes to a table of the SQL database behind this connection.
        Sql("sql", SqlOutput),
        /// Writes files below this connection's folder or bucket.
        Files("files", FilesOutput),
        /// Counts the rows and drops them. The text says why.
        Discard("discard", DiscardOutput),
    }
}

/// Writes to a table of a SQL database.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlOutput {
    /// The connection to write to.
    #[schemars(required)]
    pub sql: Option<String>,
    /// The table: `orders` or `public.orders`.
    #[schemars(required, extend("minLength" = 1))]
    pub table: Option<String>,
    /// How rows meet what is there.
    #[schemars(extend("default" = "append"))]
    pub mode: Option<SqlMode>,
    /// The columns by which `upsert` finds the row to replace.
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
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
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
