//! Counters that units add to and a renderer reads, without locks on the way of the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::journal::Event;

/// The counters of one stage since its start in this process, splits committed earlier included in `splits_done` only.
#[derive(Debug, Default)]
pub struct StageCounters {
    /// Rows read.
    pub rows_in: AtomicU64,
    /// Rows handed to the outputs.
    pub rows_out: AtomicU64,
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Rows refused.
    pub rejects: AtomicU64,
    /// Attempts beyond the first.
    pub retries: AtomicU64,
    /// Splits committed.
    pub splits_done: AtomicU64,
    /// Splits in all; 0 until known.
    pub splits: AtomicU64,
    /// Estimated rows; 0 when unknown.
    pub rows_expected: AtomicU64,
}

impl StageCounters {
    /// Adds what a batch brought.
    pub fn read(&self, rows: u64, bytes: u64) {
        self.rows_in.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a run tells while it goes: counters to look at, and events in the order they were journalled.
#[derive(Debug)]
pub struct Progress {
    /// A stage's name and its counters, in plan order.
    pub stages: Vec<(String, Arc<StageCounters>)>,
    /// Every event, after the journal has it. The queue is bounded; a run waits for a reader that is slow.
    pub events: mpsc::Receiver<Event>,
}
