//! Where the rows of one attempt go: a writer for each output, the bad rows, and the marks of what is committed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use futures::future;
use tokio::sync::mpsc;

use super::progress::Attempt;
use super::rejects::RejectSlip;
use super::stage::{LoadRun, StageRun};
use super::unit::Done;
use crate::clock::Stopwatch;
use crate::connectors::{Mark, Writer};
use crate::data::{Chunk, Digest, Lag, Position, RawChunk, Reject, RowHasher};
use crate::define::pipeline::Verify;
use crate::failure::Failure;

/// Batches between two checkpoints of a batch stage, by their largest size: what a crash may cost, and how rare commits are.
const BATCHES_PER_CHECKPOINT: usize = 16;

/// The longest time between two checkpoints of a batch stage whose rows come slowly.
const LONGEST_BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(30);

/// What goes from the task that reads to the one that writes.
pub enum Piece {
    /// Rows that went through the transform.
    Rows {
        /// The good ones.
        batch: RecordBatch,
        /// Their digest, or only their count when nobody will compare it.
        digest: Digest,
        /// The bad ones.
        rejects: Vec<Reject>,
        /// Where a read goes on after them.
        position: Option<Position>,
        /// How far a stream is behind with them.
        lag: Option<Lag>,
        /// How many rows came in for them.
        came: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Rows in the agreed wire format.
    Raw(RawChunk),
}

impl Piece {
    /// The digest is only worth its time when somebody will compare it.
    pub fn of(stage: &StageRun, hasher: &mut RowHasher, chunk: Chunk, came: u64) -> Self {
        let digest = if stage.plan.flow().verify == Verify::Digest {
            hasher.digest(&chunk.batch)
        } else {
            Digest { rows: chunk.batch.num_rows() as u64, sum: 0 }
        };
        Self::Rows {
            batch: chunk.batch,
            digest,
            rejects: chunk.rejects,
            position: chunk.position,
            lag: chunk.lag,
            came,
            bytes: chunk.bytes,
        }
    }
}

/// The writers of one attempt, one for each output that lacks the split.
pub struct Output<'a> {
    stage: &'a StageRun,
    attempt: &'a Attempt,
    split: String,
    writers: Vec<Route<'a>>,
    /// Whether the attempt commits by itself as it goes: one output, which can.
    checkpoints: bool,
    slip: RejectSlip,
    /// What is committed of the split.
    before: Option<Mark>,
    since: Since,
    /// Bytes that came in all.
    bytes: u64,
}

/// The way to one output.
struct Route<'a> {
    load: &'a LoadRun,
    label: &'a str,
    writer: Box<dyn Writer>,
    /// Rows that the target itself refused in this attempt.
    refused: u64,
}

impl Route<'_> {
    /// The mark of this output: without the rows that it refused.
    fn mark(&self, mark: &Mark) -> Mark {
        let rows = mark.rows.saturating_sub(self.refused);
        Mark { rows, digest: Digest { rows, ..mark.digest }, ..mark.clone() }
    }
}

/// What came since the last commit.
struct Since {
    watch: Stopwatch,
    digest: Digest,
    came: u64,
    bytes: u64,
    weight: usize,
}

impl Since {
    fn now() -> Self {
        Self { watch: Stopwatch::start(), digest: Digest::default(), came: 0, bytes: 0, weight: 0 }
    }
}

impl<'a> Output<'a> {
    /// Opens a writer for each output that lacks the split, or the rest of it.
    pub async fn open(stage: &'a StageRun, attempt: &'a Attempt, split: &str) -> Result<Self, Failure> {
        let mut writers = Vec::new();
        let mut before = None;
        for (output, load) in stage.plan.outputs.iter().zip(&stage.loads) {
            if !load.has(split) {
                before = load.marked(split);
                let writer = output.sink.writer(&load.load, split, before.as_ref()).await;
                let writer = writer.map_err(|failure| failure.during(format!("writing {}", output.label)))?;
                writers.push(Route { load, label: output.label.as_str(), writer, refused: 0 });
            }
        }
        // A cache must not show what its database does not hold yet: it is committed last.
        writers.sort_by_key(|route| stage.plan.outputs.get(route.load.load.key.output).is_some_and(|output| output.changes_cache()));
        let checkpoints = matches!(stage.plan.outputs.as_slice(), [only] if only.target.checkpoints);
        let slip = stage.rejects.slip(split, before.as_ref().map_or(0, |mark| mark.rows + mark.rejects))?;
        Ok(Self { stage, attempt, split: split.to_owned(), writers, checkpoints, slip, before, since: Since::now(), bytes: 0 })
    }

    /// Where the read goes on, when a beginning of the split is committed.
    pub fn goes_on_from(&self) -> Option<Position> {
        self.before.as_ref()?.position.clone()
    }

    /// Writes everything that comes, with checkpoints on the way.
    pub async fn take(&mut self, mut pieces: mpsc::Receiver<Piece>) -> Result<(), Failure> {
        while let Some(piece) = pieces.recv().await {
            if let Some(position) = self.write(piece).await?
                && self.is_due()
            {
                self.checkpoint(position).await?;
            }
        }
        Ok(())
    }

    /// Hands a piece to every writer. Gives its position.
    pub async fn write(&mut self, piece: Piece) -> Result<Option<Position>, Failure> {
        let during = |label: &str, failure: Failure| failure.during(format!("writing {label}"));
        match piece {
            Piece::Rows { batch, digest, rejects, position, came, bytes, .. } => {
                self.slip.take(&rejects).await?;
                self.attempt.refused(rejects.len() as u64);
                self.took(digest, came, bytes, batch.get_array_memory_size());
                if batch.num_rows() > 0 {
                    let writes = self.writers.iter_mut().map(|Route { label, writer, .. }| {
                        let batch = batch.clone();
                        async move { writer.write(batch).await.map_err(|failure| during(label, failure)) }
                    });
                    future::try_join_all(writes).await?;
                }
                Ok(position)
            }
            Piece::Raw(chunk) => {
                self.took(chunk.digest, chunk.rows, chunk.bytes.len() as u64, chunk.bytes.len());
                let writes = self.writers.iter_mut().map(|Route { label, writer, .. }| {
                    let chunk = chunk.clone();
                    async move { writer.write_raw(chunk).await.map_err(|failure| during(label, failure)) }
                });
                future::try_join_all(writes).await?;
                Ok(None)
            }
        }
    }

    fn took(&mut self, digest: Digest, came: u64, bytes: u64, weight: usize) {
        self.attempt.wrote(digest.rows);
        self.since.digest += digest;
        self.since.came += came;
        self.since.bytes += bytes;
        self.bytes += bytes;
        self.since.weight += weight;
    }

    /// Rows and their weight in bytes since the last commit.
    pub fn waiting(&self) -> (u64, usize) {
        (self.since.came + self.slip.count(), self.since.weight)
    }

    fn is_due(&self) -> bool {
        let limit = self.stage.plan.flow().batch;
        let full = self.since.came >= (limit.rows * BATCHES_PER_CHECKPOINT) as u64
            || self.since.weight >= limit.bytes * BATCHES_PER_CHECKPOINT
            || self.since.watch.elapsed() >= LONGEST_BETWEEN_CHECKPOINTS;
        self.checkpoints && full
    }

    /// Takes what the targets refused to the other bad rows.
    async fn settle(&mut self) -> Result<(), Failure> {
        for Route { label, writer, refused, .. } in &mut self.writers {
            let rejects = writer.refused().await.map_err(|failure| failure.during(format!("writing {label}")))?;
            self.slip.take(&rejects).await?;
            self.attempt.refused(rejects.len() as u64);
            *refused += rejects.len() as u64;
        }
        Ok(())
    }

    /// What the split's mark says after this commit.
    fn mark(&self, position: Option<Position>) -> Mark {
        let (digest, rejects) = self.before.as_ref().map_or((Digest::default(), 0), |mark| (mark.digest, mark.rejects));
        let digest = digest + self.since.digest;
        Mark { split: self.split.clone(), rows: digest.rows, digest, rejects: rejects + self.slip.count(), position }
    }

    /// Commits what was written up to a position, and goes on. Bad rows are kept first, as in [`Output::commit`].
    pub async fn checkpoint(&mut self, position: Position) -> Result<(), Failure> {
        self.settle().await?;
        let mark = self.mark(Some(position));
        let rejects = self.slip.count();
        let slip = std::mem::replace(&mut self.slip, self.stage.rejects.slip(&self.split, mark.rows + mark.rejects)?);
        slip.commit().await?;
        for route in &mut self.writers {
            let mark = route.mark(&mark);
            let committed = route.writer.checkpoint(mark.clone()).await;
            let committed = committed.map_err(|failure| failure.during(format!("committing {}", route.label)))?;
            self.stage.written_bytes.fetch_add(committed.bytes, Ordering::Relaxed);
            route.load.mark(mark);
        }
        let since = std::mem::replace(&mut self.since, Since::now());
        if rejects > 0 && self.stage.plan.streams() {
            self.stage.rejects.publish(true).await?;
        }
        self.attempt.keep_part(since.came, since.bytes, since.digest.rows, rejects);
        self.before = Some(mark);
        Ok(())
    }

    /// What came so far, for a stream that ends although its split does not.
    pub fn done(&self) -> Done {
        let (rows, rejects) = self.before.as_ref().map_or((0, 0), |mark| (mark.rows, mark.rejects));
        Done { rows, bytes: self.bytes, rejects }
    }

    /// Bad rows are kept first: a crash in between leaves a part that the next attempt replaces. Outputs commit one after the other; after a
    /// crash in between, the next attempt writes only those that lack the split.
    pub async fn commit(mut self) -> Result<Done, Failure> {
        self.settle().await?;
        let mark = self.mark(None);
        self.slip.commit().await?;
        for route in self.writers {
            let mark = route.mark(&mark);
            let committed = route.writer.commit(mark.clone()).await;
            let committed = committed.map_err(|failure| failure.during(format!("committing {}", route.label)))?;
            self.stage.written_bytes.fetch_add(committed.bytes, Ordering::Relaxed);
            route.load.mark(mark);
        }
        self.attempt.keep();
        Ok(Done { rows: mark.rows, bytes: self.bytes, rejects: mark.rejects })
    }
}
