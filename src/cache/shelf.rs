//! Rows in memory, by their key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache as Map;

/// What one entry takes besides its key and row, in bytes: counters, pointers and the map's own places.
const OVERHEAD_BYTES: usize = 160;

/// Rows in memory.
pub struct Shelf {
    rows: Map<Box<[u8]>, Arc<[u8]>>,
    bytes: AtomicU64,
}

impl Shelf {
    /// Keeps everything it is given.
    pub fn unbounded() -> Self {
        Self { rows: Map::builder().build(), bytes: AtomicU64::new(0) }
    }

    /// The row of a key.
    pub fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.rows.get(key)
    }

    /// Keeps a row; the last one of a key stays.
    pub fn put(&self, key: &[u8], row: &[u8]) {
        let before = self.rows.get(key).map_or(0, |old| size(key, &old));
        self.bytes.fetch_add(size(key, row).wrapping_sub(before), Ordering::Relaxed);
        self.rows.insert(key.into(), row.into());
    }

    /// Bytes of what it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many rows it holds.
    pub fn len(&self) -> u64 {
        self.rows.run_pending_tasks();
        self.rows.entry_count()
    }
}

fn size(key: &[u8], row: &[u8]) -> u64 {
    (key.len() + row.len() + OVERHEAD_BYTES) as u64
}
