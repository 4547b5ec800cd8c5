//! What a sink compares by itself, where the data is.

use arrow::array::BinaryArray;
use async_trait::async_trait;

use crate::data::{BatchStream, Digest};
use crate::failure::Failure;

/// The rows that a target should hold, for [`super::Sink::compare`].
#[async_trait]
pub trait Rows: Send + Sync {
    /// All of them, from the beginning.
    async fn all(&self) -> Result<BatchStream, Failure>;

    /// Some of them as they are by now; see [`super::Reading::again`].
    async fn again(&self, keys: &BinaryArray) -> Result<BatchStream, Failure>;
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The rows that should be there.
    pub digest: Digest,
    /// Those that are, and others that should not be.
    pub found_rows: u64,
    /// The first differences, each with its key; empty when there is none.
    pub differences: Vec<String>,
}
