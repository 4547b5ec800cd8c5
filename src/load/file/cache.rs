//! What cache stages and lookups say.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{BatchSize, Input, Kind, Rejects, Retry, Splits, Step};
use crate::load::shape::{Amount, Columns, Duration, Names, OneOrMany, Size};

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
    /// The columns that name a row.
    #[schemars(required, extend("minItems" = 1, "examples" = [["id"], ["tenant", "id"]]))]
    pub key: Option<Vec<String>>,
    /// Where the rows come from that fill the cache: one input, or a list of inputs that a first `sql` step joins.
    #[schemars(required)]
    pub from: Option<OneOrMany<Input>>,
    /// What happens to the rows, step by step, before they are kept.
    pub transform: Option<Vec<Step>>,
    /// Where rows are kept besides.
    pub levels: Option<Levels>,
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
