//! What the steps of a transform say.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Lookup;
use crate::load::shape::Entries;

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
    /// Adds columns of the row of a cache that has the same key.
    #[schemars(extend("examples" = [{"cache": "customers", "on": "customer_id", "add": ["segment", "country"]}]))]
    pub lookup: Option<Lookup>,
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
