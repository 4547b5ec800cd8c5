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
use crate::plan::OutputPlan;

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
    /// What of the split is here, rows that the target itself refused not counted.
    written: Digest,
}

impl Route<'_> {
    /// Brings everything to the target, and takes what that refuses to the other bad rows. Gives the number of those.
    async fn settle(&mut self, slip: &mut RejectSlip) -> Result<u64, Failure> {
        let rejects = self.writer.refused().await.map_err(|failure| failure.during(format!("writing {}", self.label)))?;
        slip.refused(self.load.load.key.output, &rejects).await?;
        Ok(rejects.len() as u64)
    }

    /// What is committed with everything that came `since` the last mark but for what was refused.
    fn mark(&self, split: &str, since: Digest, refused: u64, rejects: u64, position: Option<Position>) -> Mark {
        let mut digest = self.written + since;
        digest.rows = digest.rows.saturating_sub(refused);
        Mark { split: split.to_owned(), rows: digest.rows, digest, rejects, position }
    }
}

/// What came since the last commit.
struct Since {
    watch: Stopwatch,
    digest: Digest,
    came: u64,
    /// Rows that were refused before they came to an output.
    rejects: u64,
    bytes: u64,
    weight: usize,
}

impl Since {
    fn now() -> Self {
        Self { watch: Stopwatch::start(), digest: Digest::default(), came: 0, rejects: 0, bytes: 0, weight: 0 }
    }
}

impl<'a> Output<'a> {
    /// Opens a writer for each output that lacks the split, or the rest of it.
    pub async fn open(stage: &'a StageRun, attempt: &'a Attempt, split: &str) -> Result<Self, Failure> {
        let mut lacking: Vec<(&OutputPlan, &LoadRun)> =
            stage.plan.outputs.iter().zip(&stage.loads).filter(|(_, load)| !load.has(split)).collect();
        // A cache must not show what its database does not hold yet: it is committed last.
        lacking.sort_by_key(|(output, _)| output.changes_cache());
        let before = lacking.last().and_then(|(_, load)| load.marked(split));
        let written = before.as_ref().map(|mark| mark.digest).unwrap_or_default();
        let mut writers = Vec::with_capacity(lacking.len());
        for (output, load) in lacking {
            let writer = output.sink.writer(&load.load, split, load.marked(split).as_ref()).await;
            let mut writer = writer.map_err(|failure| failure.during(format!("writing {}", output.label)))?;
            if stage.plan.streams() {
                writer.give_back();
            }
            writers.push(Route { load, label: output.label.as_str(), writer, written });
        }
        let checkpoints = matches!(stage.plan.outputs.as_slice(), [only] if only.target.checkpoints);
        let slip = stage.rejects.slip(split, before.as_ref());
        Ok(Self { stage, attempt, split: split.to_owned(), writers, checkpoints, slip, before, since: Since::now(), bytes: 0 })
    }

    /// Leaves of the bad rows that an earlier worker kept only those it had committed.
    pub async fn take_up_rejects(&mut self) -> Result<(), Failure> {
        self.stage.rejects.take_up(&self.split, self.before.as_ref(), self.stage.plan.outputs.len()).await
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
                self.since.rejects += rejects.len() as u64;
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
    pub fn waiting(&self) -> (u64, u64) {
        let file = self.writers.iter().find_map(|route| route.writer.written_bytes());
        (self.since.came + self.slip.count(), file.unwrap_or(self.since.weight as u64))
    }

    fn is_due(&self) -> bool {
        let limit = self.stage.plan.flow().batch;
        let full = self.since.came >= (limit.rows * BATCHES_PER_CHECKPOINT) as u64
            || self.since.weight >= limit.bytes * BATCHES_PER_CHECKPOINT
            || self.since.watch.elapsed() >= LONGEST_BETWEEN_CHECKPOINTS;
        self.checkpoints && full
    }

    /// Commits what was written up to a position, and goes on. Bad rows are kept first, as in [`Output::commit`].
    pub async fn checkpoint(&mut self, position: Position) -> Result<(), Failure> {
        let since = std::mem::replace(&mut self.since, Since::now());
        let before = self.before.take().map_or(0, |mark| mark.rejects);
        self.slip.keep().await?;
        for route in &mut self.writers {
            let refused = route.settle(&mut self.slip).await?;
            let mark = route.mark(&self.split, since.digest, refused, before + self.slip.count(), Some(position.clone()));
            let committed = route.writer.checkpoint(mark.clone()).await;
            let committed = committed.map_err(|failure| failure.during(format!("committing {}", route.label)))?;
            self.stage.written_bytes.fetch_add(committed.bytes, Ordering::Relaxed);
            route.written = mark.digest;
            route.load.mark(mark.clone());
            self.before = Some(mark);
        }
        let rejects = self.slip.count();
        let slip = self.stage.rejects.slip(&self.split, self.before.as_ref());
        std::mem::replace(&mut self.slip, slip).commit();
        if rejects > 0 && self.stage.plan.streams() {
            self.stage.rejects.publish(true).await?;
        }
        let taken_back = (rejects - since.rejects).min(since.digest.rows);
        self.attempt.taken_back(taken_back);
        self.attempt.keep_part(since.came, since.bytes, since.digest.rows - taken_back, since.rejects + taken_back);
        Ok(())
    }

    /// What came so far, for a stream that ends although its split does not.
    pub fn done(&self) -> Done {
        let (rows, rejects) = self.before.as_ref().map_or((0, 0), |mark| (mark.rows, mark.rejects));
        Done { rows, bytes: self.bytes, rejects }
    }

    /// Bad rows are kept first: a crash in between leaves a part that the next attempt replaces. Outputs commit one after the other, each as
    /// soon as all is there, so that none waits for another's open transaction; after a crash in between, the next attempt writes only those
    /// that lack the split.
    pub async fn commit(mut self) -> Result<Done, Failure> {
        let before = self.before.as_ref().map_or(0, |mark| mark.rejects);
        self.slip.keep().await?;
        let mut done = Done { bytes: self.bytes, ..Done::default() };
        for mut route in self.writers {
            let refused = route.settle(&mut self.slip).await?;
            let mark = route.mark(&self.split, self.since.digest, refused, before + self.slip.count(), None);
            let Route { load, label, writer, .. } = route;
            let committed = writer.commit(mark.clone()).await.map_err(|failure| failure.during(format!("committing {label}")))?;
            self.stage.written_bytes.fetch_add(committed.bytes, Ordering::Relaxed);
            (done.rows, done.rejects) = (mark.rows, mark.rejects);
            load.mark(mark);
        }
        self.attempt.taken_back((self.slip.count() - self.since.rejects).min(self.since.digest.rows));
        self.slip.commit();
        self.attempt.keep();
        Ok(done)
    }
}
