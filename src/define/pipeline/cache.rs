//! What cache stages mean.

use super::At;

/// Keyed rows that other stages look up.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The columns that name a row, each with its place.
    pub key: Vec<(String, At)>,
    /// Most bytes of keys and rows in the memory of this process.
    pub memory_bytes: u64,
    /// A filling with fewer rows does not replace the one before.
    pub min_rows: Option<Amount>,
}

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many.
    Rows(u64),
    /// This share of the rows that there were before, between 0 and 1.
    Share(f64),
}
