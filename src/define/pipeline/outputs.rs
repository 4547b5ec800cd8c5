//! What stages write.

use std::time::Duration;

use super::{At, Compression, FeedSink, FileFormat, HttpSink, KeysSink, RedisRowsSink};

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
    /// Tables of one SQL database, one for each table of a stream of several, in their order.
    Tables(Vec<SqlSink>),
    /// Files.
    Files(FilesSink),
    /// Keys of a Redis server.
    Redis(RedisRowsSink),
    /// A Redis server that keys are copied to.
    RedisKeys(Box<KeysSink>),
    /// An HTTP API that rows are sent to.
    Http(Box<HttpSink>),
    /// A feed that is served over HTTP.
    Feed(FeedSink),
    /// Nowhere: rows are counted and dropped.
    Discard,
    /// A cache of the same pipeline.
    Cache(CacheSink),
}

/// A cache to write.
#[derive(Clone, Debug)]
pub struct CacheSink {
    /// The cache stage.
    pub cache: String,
    /// How rows meet what is there.
    pub mode: CacheMode,
    /// The column that holds the rows' version; by default the one that the cache names.
    pub version: Option<String>,
}

/// How rows meet what a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// The cache holds exactly the new rows once all are there, and exactly the old ones until then.
    Fill,
    /// Rows take the place of those of the same key.
    Update,
    /// Rows of the same key are removed.
    Invalidate,
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
    /// Of a stream: when a part is whole, and the next begins.
    pub roll: Option<Roll>,
}

/// When a part of a stream's files is whole. Whichever comes first ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// It has so many rows.
    pub rows: u64,
    /// It has about so many bytes, as they lie in the file.
    pub bytes: u64,
    /// Its first row has waited so long.
    pub every: Duration,
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
