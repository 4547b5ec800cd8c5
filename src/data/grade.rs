//! How faithfully a column's values are kept by a target type.

use std::fmt;

/// The grade of one column's mapping. The order is from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// The same values and the same meaning. A value that the target has no form for at all (an infinite date in Parquet) is refused as a
    /// bad row, and never changed.
    Exact,
    /// Every value survives and reads back equal, in a wider or looser type.
    Widened,
    /// Some values would change: an error until the pipeline says that it is wanted.
    Lossy,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exact => "exact",
            Self::Widened => "widened",
            Self::Lossy => "lossy",
        })
    }
}

/// What becomes of one column in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The column's name in the target, unquoted.
    pub name: String,
    /// The target's own type, as its DDL says it.
    pub native: String,
    /// How faithfully values are kept.
    pub grade: Grade,
    /// Why the grade is not exact; empty when it is.
    pub reason: String,
}
