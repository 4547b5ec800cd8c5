//! What happens to rows.

use super::At;
use crate::data::Type;
use crate::secret::Secret;

/// A SQL expression or query in DataFusion's dialect, rendered and quoted, with the place it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expr {
    /// The SQL.
    pub sql: String,
    /// The text as it stands in the file, when the SQL holds what a secret file or the environment said.
    pub written: Option<String>,
    /// Where it stands.
    pub at: At,
}

impl Expr {
    /// What of it may be shown.
    pub fn shown(&self) -> &str {
        self.written.as_ref().unwrap_or(&self.sql)
    }
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
    /// Adds columns from a cache.
    Lookup(Lookup),
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

/// Columns added from a cache by its key.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The cache stage.
    pub cache: String,
    /// A column of the cache's key (`None`: its only one), the column that holds it, and the place.
    pub on: Vec<(Option<String>, String, At)>,
    /// A column of the cache, the name it gets, and the place.
    pub add: Vec<(String, String, At)>,
    /// What happens to a row whose key the cache does not have.
    pub missing: Missing,
    /// Where it stands.
    pub at: At,
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
