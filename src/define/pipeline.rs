//! What a checked pipeline means: every default filled in, every name resolved, every value of its own type.
//!
//! `At` values are JSON pointers into the document, so that later ranks (plan, preflight) can still point at the place in the file.
//! Text that held templates is rendered when the pipeline was resolved for a run, and is as written when it was only validated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::data::Type;
use crate::secret::Secret;

/// A JSON pointer into the pipeline's document, such as `/stages/orders/from/table`.
pub type At = String;

/// One pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The file's name without its ending.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// In file order.
    pub params: Vec<Param>,
    /// Those of the file and of the project, by name.
    pub connections: BTreeMap<String, Connection>,
    /// In file order.
    pub stages: Vec<Stage>,
    /// What the run may use at the same time.
    pub limits: Limits,
    /// Paths in the pipeline are relative to this folder: the one that holds `haul.yaml` or `pipelines/`.
    pub base: PathBuf,
}

/// A value the pipeline asks for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// As written below `params:`.
    pub name: String,
    /// What texts it takes.
    pub ty: ParamType,
    /// In its text form; a param without one is required.
    pub default: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The texts allowed; empty allows all of the type.
    pub allowed: Vec<String>,
    /// Where it stands.
    pub at: At,
}

/// The types of params.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// Any text.
    Text,
    /// 64-bit signed integer.
    Int,
    /// Exact decimal number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `YYYY-MM-DD`.
    Date,
    /// RFC 3339.
    Timestamp,
}

/// A named system.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Which engine its URL names; `None` when the URL is only known at run time.
    pub engine: Option<Engine>,
    /// The URL, once resolved. It may hold a password.
    pub url: Secret<String>,
    /// Most connections open at the same time.
    pub max_connections: u32,
    /// Where it stands.
    pub at: At,
}

/// The engines a URL may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `postgres://`, `postgresql://`
    Postgres,
    /// `sqlite:`
    Sqlite,
    /// `file:`
    File,
    /// `s3://`
    S3,
}

/// One stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Stages that must be done before it starts, with the place of each word.
    pub after: Vec<(String, At)>,
    /// How often and how long it is tried.
    pub retry: Retry,
    /// The longest one attempt of a unit may take.
    pub timeout: Option<Duration>,
    /// What it does.
    pub kind: Kind,
    /// The rows that go through it.
    pub flow: Flow,
    /// For people.
    pub description: Option<String>,
    /// Where it stands.
    pub at: At,
}

/// What a stage does with its rows.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Bounded: reads its inputs to their end.
    Batch,
}

/// Where a stage's rows come from, what happens to them, and where they go: the same shape for every kind of stage.
#[derive(Clone, Debug)]
pub struct Flow {
    /// One input, or several when the first step is `sql`.
    pub from: Vec<Input>,
    /// In order.
    pub transform: Vec<Step>,
    /// Where rows go besides the stages that read this one; may be empty when a stage does.
    pub to: Vec<Output>,
    /// What proof the run gives.
    pub verify: Verify,
    /// Where bad rows go, and how many there may be; without it the first bad row fails the stage.
    pub rejects: Option<Rejects>,
    /// How the source is cut.
    pub splits: SplitPolicy,
    /// How large batches may grow.
    pub batch: crate::data::BatchLimit,
}

/// How a source is cut into splits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPolicy {
    /// At most so many splits; 1 reads the source as a whole.
    pub most: usize,
    /// A split is not smaller than this.
    pub bytes: u64,
    /// Splits of this stage that are worked on at the same time.
    pub concurrency: usize,
}

/// Bad rows.
#[derive(Clone, Debug)]
pub struct Rejects {
    /// Connection name of the files.
    pub connection: String,
    /// Path of the NDJSON file below the connection's root.
    pub path: String,
    /// More than this many fail the stage.
    pub at_most: u64,
    /// Where it stands.
    pub at: At,
}

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
    /// Files.
    Files(FilesSource),
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

/// A SQL expression or query in DataFusion's dialect, rendered and quoted, with the place it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expr {
    /// The SQL.
    pub sql: String,
    /// Where it stands.
    pub at: At,
}

/// One step of a transform.
#[derive(Clone, Debug)]
pub enum Step {
    /// Keeps rows for which the condition is true.
    Filter(Expr),
    /// Keeps these columns, in this order.
    Select(Vec<(String, At)>),
    /// Drops these columns.
    Drop(Vec<(String, At)>),
    /// Old name, new name, place.
    Rename(Vec<(String, String, At)>),
    /// Adds or replaces columns; all see the columns as they were before the step.
    Set(Vec<(String, Expr)>),
    /// Casts columns; a value that does not fit is a bad row.
    Cast(Vec<(String, Type, At)>),
    /// Hides values.
    Mask(Vec<(String, Mask, At)>),
    /// Keeps the first row of each key.
    Dedupe {
        /// The key's columns.
        key: Vec<String>,
        /// Where it stands.
        at: At,
    },
    /// A query over the inputs (as the first step) or over `input`, the rows so far.
    Sql(Expr),
}

/// How a value is hidden.
#[derive(Clone, Debug)]
pub enum Mask {
    /// SHA-256 over salt and text form, as 64 hexadecimal digits. NULL stays NULL.
    Hash {
        /// Mixed in before the value.
        salt: Secret<String>,
    },
    /// Every value becomes this text. NULL stays NULL.
    Redact(String),
    /// Every value becomes NULL.
    Null,
}

/// One output of a stage.
#[derive(Clone, Debug)]
pub struct Output {
    /// Where rows go.
    pub sink: SinkSpec,
    /// Columns whose lossy mapping is wanted.
    pub allow_lossy: Vec<(String, At)>,
    /// Where it stands.
    pub at: At,
}

/// Where rows go.
#[derive(Clone, Debug)]
pub enum SinkSpec {
    /// A table of a SQL database.
    Sql(SqlSink),
    /// Files.
    Files(FilesSink),
    /// Nowhere: rows are counted and dropped.
    Discard,
}

/// A table of a SQL database.
#[derive(Clone, Debug)]
pub struct SqlSink {
    /// Connection name.
    pub connection: String,
    /// `public.orders` is `[public, orders]`.
    pub table: Vec<String>,
    /// How rows meet what is there.
    pub mode: WriteMode,
    /// What may be done to the table's shape.
    pub schema: SchemaMode,
    /// The primary key to create; defaults to the upsert key, else the source's.
    pub primary_key: Option<Vec<String>>,
}

/// Files to write.
#[derive(Clone, Debug)]
pub struct FilesSink {
    /// Connection name.
    pub connection: String,
    /// Below the connection's root. A path that ends in `/` is a folder of parts, one a split; otherwise one file.
    pub path: String,
    /// Their format.
    pub format: FileFormat,
    /// How they are compressed. In Parquet, how its pages are.
    pub compression: Compression,
    /// `Replace` (default) or `Append` (new parts in a folder).
    pub mode: WriteMode,
}

/// How often and how long something is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Tries in all; 1 never retries.
    pub attempts: u32,
    /// Wait before the second try.
    pub initial: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// Each wait is this many times the one before.
    pub factor: f64,
    /// Waits are spread evenly between zero and their length.
    pub jitter: bool,
    /// No further try starts after this long.
    pub total: Option<Duration>,
}

/// What a run may use at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Stages.
    pub stages: usize,
    /// Splits over all stages.
    pub splits: usize,
    /// Bytes of batches in flight, over all stages.
    pub memory: u64,
    /// How long a stopping run may take to commit what it has begun.
    pub drain: Duration,
}

/// How rows meet what is already in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Rows are added to what is there.
    Append,
    /// The target holds exactly the new rows once the load is published; until then, exactly the old ones.
    Replace,
    /// Rows replace the row of the same key, or are added. Within a load the last row of a key wins.
    Upsert {
        /// The key's columns.
        key: Vec<String>,
    },
}

/// What a sink may do to the target's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SchemaMode {
    /// Create what is missing; what exists must fit.
    #[default]
    Create,
    /// Create what is missing, and add missing columns.
    Evolve,
    /// Everything must exist already.
    Require,
}

/// What proof of arrival a stage asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verify {
    /// Nothing beyond the marks.
    None,
    /// The rows in the target are counted.
    Count,
    /// The rows in the target are read back and their digest is compared.
    #[default]
    Digest,
}
