//! Counters that units add to and a renderer reads, without locks on the way of the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::journal::Event;

/// What a counter holds that is not known.
pub const UNKNOWN: u64 = u64::MAX;

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
    /// Commits of streams.
    pub commits: AtomicU64,
    /// When a stream committed last, in milliseconds since 1970; 0 before its first commit.
    pub committed_at_ms: AtomicU64,
    /// How far a stream is behind its source in milliseconds, as the source said last; [`UNKNOWN`] when it cannot tell.
    pub behind_ms: AtomicU64,
    /// How far in bytes; [`UNKNOWN`] when it cannot tell.
    pub behind_bytes: AtomicU64,
    /// Bytes of its log that the source keeps for a stream; [`UNKNOWN`] when it keeps none.
    pub kept_bytes: AtomicU64,
    /// Estimated rows; 0 when unknown.
    pub rows_expected: AtomicU64,
}

/// What one attempt adds to its stage's counters. Dropping it without [`Attempt::keep`] takes it back, so that rows of a failed attempt are
/// not counted twice.
#[derive(Debug)]
pub struct Attempt {
    stage: Arc<StageCounters>,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    bytes: AtomicU64,
    rejects: AtomicU64,
    kept: AtomicBool,
}

impl Attempt {
    /// Begins with nothing.
    pub fn new(stage: &Arc<StageCounters>) -> Arc<Self> {
        Arc::new(Self {
            stage: Arc::clone(stage),
            rows_in: AtomicU64::new(0),
            rows_out: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rejects: AtomicU64::new(0),
            kept: AtomicBool::new(false),
        })
    }

    /// Rows and bytes that came in.
    pub fn read(&self, rows: u64, bytes: u64) {
        add(&self.rows_in, &self.stage.rows_in, rows);
        add(&self.bytes, &self.stage.bytes, bytes);
    }

    /// Rows that went on to the outputs.
    pub fn wrote(&self, rows: u64) {
        add(&self.rows_out, &self.stage.rows_out, rows);
    }

    /// Rows that were refused.
    pub fn refused(&self, rows: u64) {
        add(&self.rejects, &self.stage.rejects, rows);
    }

    /// Rows that went on to an output, which has refused them.
    pub fn taken_back(&self, rows: u64) {
        self.refused(rows);
        for count in [&self.rows_out, &self.stage.rows_out] {
            count.fetch_sub(rows, Ordering::Relaxed);
        }
    }

    /// A part of what the attempt read is committed, and is not taken back any more.
    pub fn keep_part(&self, rows_in: u64, bytes: u64, rows_out: u64, rejects: u64) {
        for (own, count) in [(&self.rows_in, rows_in), (&self.bytes, bytes), (&self.rows_out, rows_out), (&self.rejects, rejects)] {
            own.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// The attempt is committed.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }
}

fn add(own: &AtomicU64, all: &AtomicU64, count: u64) {
    own.fetch_add(count, Ordering::Relaxed);
    all.fetch_add(count, Ordering::Relaxed);
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if *self.kept.get_mut() {
            return;
        }
        let stage = &self.stage;
        for (own, all) in [
            (&mut self.rows_in, &stage.rows_in),
            (&mut self.rows_out, &stage.rows_out),
            (&mut self.bytes, &stage.bytes),
            (&mut self.rejects, &stage.rejects),
        ] {
            all.fetch_sub(*own.get_mut(), Ordering::Relaxed);
        }
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
