//! What cache stages and lookups say.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{BatchSize, Input, Kind, Rejects, Retry, Splits, Step};
use crate::load::shape::{Amount, Columns, Duration, Names, OneOrMany, Share, Size};

/// A cache: keyed rows that other stages look up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheStage {
    /// What the stage does: `cache`.
    #[schemars(required)]
    pub kind: Option<Kind>,
    /// What the cache is for.
    pub description: Option<String>,
    /// Stages that must be done before this one starts. A stage that is read in `from:` need not be named.
    pub after: Option<Vec<String>>,
    /// Where rows are kept that processes share. Without it they are in the memory of the process.
    #[serde(rename = "in")]
    pub home: Option<CacheHome>,
    /// The columns that name a row.
    #[schemars(required, extend("minItems" = 1, "examples" = [["id"], ["tenant", "id"]]))]
    pub key: Option<Vec<String>>,
    /// Where the rows come from that fill the cache before anybody looks: one input, or a list of inputs that a first `sql` step joins.
    pub from: Option<OneOrMany<Input>>,
    /// What happens to the rows, step by step, before they are kept.
    pub transform: Option<Vec<Step>>,
    /// How a row that is looked for and not there is loaded. Without it, what the cache does not have is nowhere.
    pub load: Option<Load>,
    /// Whether misses are loaded. By default they are when there is `load`.
    pub mode: Option<CacheStageMode>,
    /// How long rows are served.
    pub ttl: Option<Ttl>,
    /// How long a key is known to have no row, after `load` did not find one. By default it is not remembered.
    #[schemars(extend("examples" = ["30s"]))]
    pub negative_ttl: Option<Duration>,
    /// How long after its time a row is still served when `load` fails.
    #[schemars(extend("examples" = ["1h"]))]
    pub stale_if_error: Option<Duration>,
    /// A column that grows with every change of a row: a counter, or the time of the change. An older row never replaces a newer one. By
    /// default the time counts at which a row was read.
    #[schemars(extend("minLength" = 1, "examples" = ["updated_at"]))]
    pub version: Option<String>,
    /// What lookups do while the server of `in` cannot be reached.
    #[schemars(extend("default" = "fail"))]
    pub on_backend_error: Option<OnBackendError>,
    /// Where rows are kept besides.
    pub levels: Option<Levels>,
    /// Reads everything again every so often, while other stages of the run are at work.
    pub refresh: Option<Refresh>,
    /// The most rows that a filling keeps in a second, so that what it reads can do other work besides. By default as fast as can be.
    #[schemars(range(min = 1), extend("examples" = [20000]))]
    pub rate: Option<u64>,
    /// Fewer rows than this do not replace those that are there: a number, or a share of the last filling.
    #[schemars(extend("examples" = ["90%", 1000]))]
    pub min_rows: Option<Amount>,
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

/// Reads what fills a cache again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    /// How long after a filling ended the next one begins.
    #[schemars(required, extend("examples" = ["10m"]))]
    pub every: Option<Duration>,
}

/// Loads the rows of keys that the cache does not have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The connection to the SQL database.
    #[schemars(required)]
    pub sql: Option<String>,
    /// A query in the database's own SQL for the rows of some keys: `{{ keys }}` stands for them.
    #[schemars(required, extend("minLength" = 1, "examples" = ["select * from customers where id in ({{ keys }})", "select * from prices where (tenant, id) in ({{ keys }})"]))]
    pub query: Option<String>,
    /// At most so many keys in one query.
    #[schemars(range(min = 1, max = 10000), extend("default" = 500))]
    pub batch: Option<usize>,
    /// How long a query waits for the misses of other batches, to ask for them together.
    #[schemars(extend("default" = "0ms", "examples" = ["5ms"]))]
    pub linger: Option<Duration>,
}

/// Whether misses are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheStageMode {
    /// What the cache does not have is loaded.
    LookAside,
    /// The cache holds everything: what it does not have is nowhere.
    Full,
}

/// How long rows are served.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ttl {
    /// The longest time. By default 10 minutes for rows that can be loaded again, and without end for the others.
    #[schemars(extend("examples" = ["10m"]))]
    pub base: Option<Duration>,
    /// Each row's time is shorter by up to this share, so that rows that came together do not go together.
    #[schemars(extend("default" = "0%", "examples" = ["10%"]))]
    pub jitter: Option<Share>,
}

/// Writes to a cache of the same pipeline, after the stage's other outputs are committed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheOutput {
    /// The cache stage.
    #[schemars(required)]
    pub cache: Option<String>,
    /// What the rows do to those of the same key.
    #[schemars(extend("default" = "update"))]
    pub mode: Option<CacheOutputMode>,
    /// The column that holds the rows' version, when the cache has versions. By default the one of the cache's name for it.
    #[schemars(extend("minLength" = 1))]
    pub version: Option<String>,
}

/// What rows do to those of the same key in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheOutputMode {
    /// They take their place.
    Update,
    /// They remove them.
    Invalidate,
}

/// The levels of a cache.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// Rows in the memory of this process.
    pub memory: Option<MemoryLevel>,
}

/// Rows in the memory of this process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryLevel {
    /// At most so many bytes of keys and rows.
    #[schemars(extend("default" = "256MiB"))]
    pub max: Option<Size>,
    /// With `in`: the longest a row is served from this memory before the server is asked again. A change that another process makes is seen
    /// after this time at the latest.
    #[schemars(extend("default" = "10s", "examples" = ["30s"]))]
    pub ttl: Option<Duration>,
}

/// Where the rows of a cache are kept that processes share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheHome {
    /// The connection to the Redis server or cluster.
    #[schemars(required)]
    pub redis: Option<String>,
    /// The name of a row's hash, in which each column of the key stands once.
    #[schemars(required, extend("minLength" = 1, "examples" = ["customer:{{ id }}", "price:{{ tenant }}:{{ id }}"]))]
    pub key: Option<String>,
    /// The form of a row.
    #[serde(rename = "as")]
    #[schemars(extend("default" = "hash"))]
    pub form: Option<CacheForm>,
}

/// The form of a row in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheForm {
    /// A hash with a field for each column, and one more that says how old it is.
    Hash,
}

/// What lookups do while the server of a cache cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBackendError {
    /// They fail, and the stage is tried again as its `retry` says.
    Fail,
    /// They load what is missing as if the cache did not have it.
    Bypass,
    /// They serve what `levels: memory` still has, for `stale_if_error` past its time, and fail for what it has not.
    Stale,
}

/// Adds columns of the row of a cache that has the same key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// The cache stage to look into.
    #[schemars(required)]
    pub cache: Option<String>,
    /// The columns that hold the key: one, or each of the key's columns with the one that holds it: `{ tenant: tenant, id: customer_id }`.
    #[schemars(required, extend("examples" = ["customer_id", {"tenant": "tenant", "id": "customer_id"}]))]
    pub on: Option<Columns>,
    /// The columns of the cache to add, under their own names or under new ones: `{ customer_name: name }`.
    #[schemars(required, extend("examples" = [["segment", "country"], {"customer_name": "name"}]))]
    pub add: Option<Names>,
    /// What happens to a row whose key the cache does not have.
    #[schemars(extend("default" = "null"))]
    pub missing: Option<Missing>,
}

/// What happens to a row whose key a cache does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The added columns are NULL.
    Null,
    /// It is a bad row.
    Reject,
    /// It is left out.
    Drop,
    /// The stage fails.
    Fail,
}
