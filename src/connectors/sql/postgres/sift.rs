//! Finds the rows of a stream that the target refuses: what came since the last commit is written again in parts, each behind a savepoint,
//! and what is refused is cut in halves until the rows at fault stand alone. The rest commits with the mark as it would have without them.
//!
//! Several tables that are written together are not sifted: without a row of one, the others would say what was never so.

use arrow::record_batch::RecordBatch;

use super::copying::{Copy, lost};
use super::encode::{Encoder, prepared};
use super::error::failure;
use super::open::Open;
use super::session::Session;
use super::tuples::{HEADER, TRAILER};
use super::writer::PgWriter;
use crate::connectors::refused::{Halves, reject, tied};
use crate::data::{Reject, change};
use crate::define::pipeline::WriteMode;
use crate::failure::{Failure, FailureKind};

/// Most bytes that are kept of what came since the last commit. A transaction that is larger than this is written, but not sifted.
const MOST_KEPT: usize = 32 << 20;

/// Has constraints looked at now that otherwise wait for the commit.
pub(super) const AT_ONCE: &str = "set constraints all immediate";

/// What came since the last commit.
#[derive(Default)]
pub(super) struct Kept {
    batches: Vec<RecordBatch>,
    bytes: usize,
    /// Why some of it was refused, of which then nothing is in the target.
    refused: Option<Failure>,
}

impl Kept {
    /// Keeps a batch. True when there is nothing else to do with it, since it is written when all of it is sifted. Fails when a refused row is among
    /// more than can be kept.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Result<bool, Failure> {
        self.bytes += batch.get_array_memory_size();
        if self.complete() {
            self.batches.push(batch.clone());
            return Ok(self.refused.is_some());
        }
        self.batches.clear();
        self.refused.take().map_or(Ok(false), Err)
    }

    fn complete(&self) -> bool {
        self.bytes <= MOST_KEPT
    }
}

impl PgWriter {
    /// Makes nothing of a refusal by the rows' own fault, when they are kept and will be sifted.
    pub(super) fn or_kept(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match (result, &mut self.kept) {
            (Err(failure), Some(kept)) if failure.kind == FailureKind::BadRows && kept.complete() => {
                self.open = None;
                kept.refused = Some(failure);
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// Writes what was refused as a whole in parts, and gives the rows that are at fault.
    pub(super) async fn sift(&mut self) -> Result<Vec<Reject>, Failure> {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.refused.is_some()) else { return Ok(Vec::new()) };
        let batches = std::mem::take(kept).batches;
        let mut open = self.enter(batches.first().is_some_and(change::is_changes)).await?;
        let mut refused = Vec::new();
        if open.done.is_none() {
            let mut session = open.rested()?;
            session.run("begin").await?;
            open.into.insert(0, self.find(&mut session, 0, open.changes).await?);
            let mut rows = 0;
            for batch in &batches {
                rows += self.sift_batch(&mut session, &open, batch, &mut refused).await?;
            }
            open.arrived = Some(rows);
            open.state = Copy::Resting(session);
        }
        self.open = Some(open);
        Ok(refused)
    }

    async fn sift_batch(&self, session: &mut Session, open: &Open, batch: &RecordBatch, refused: &mut Vec<Reject>) -> Result<u64, Failure> {
        let spec = &self.first().spec;
        let key = match &spec.mode {
            WriteMode::Upsert { key } => key.as_slice(),
            _ => spec.primary_key.as_deref().unwrap_or_default(),
        };
        let mut rows = 0;
        let mut halves = Halves::of(batch.num_rows());
        while let Some(part) = halves.next() {
            session.run("savepoint haul_part").await?;
            match self.put_part(session, open, &batch.slice(part.start, part.len())).await {
                Ok(put) => {
                    session.run("release savepoint haul_part").await?;
                    rows += put;
                }
                Err(failure) if failure.kind == FailureKind::BadRows => {
                    session.run("rollback to savepoint haul_part; release savepoint haul_part").await?;
                    if !halves.cut(&part, tied(batch)) {
                        refused.extend(part.map(|row| reject(&self.load.schema, key, batch, row, &failure)));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(rows)
    }

    /// Writes some rows as if they were all.
    async fn put_part(&self, session: &mut Session, open: &Open, batch: &RecordBatch) -> Result<u64, Failure> {
        let Some(place) = open.into.get(&0) else { return Err(lost()) };
        let arrays = prepared(batch, &place.columns);
        let mut text = HEADER.to_vec();
        Encoder::new(batch, &arrays, &place.columns)?.fill(&mut text, usize::MAX)?;
        text.extend_from_slice(TRAILER);
        let (mut incoming, copy) = self.copy_into(session, place, 0, change::is_changes(batch)).await?;
        let mut sink = session.raw().copy_in_raw(&copy).await.map_err(failure)?;
        sink.send(&text[..]).await.map_err(failure)?;
        let mut rows = sink.finish().await.map_err(failure)?;
        if let Some(incoming) = &mut incoming {
            incoming.came.look(batch)?;
            rows = open.merge_one(session, place, incoming, rows).await?;
            session.run(format!("drop table {}", incoming.rows)).await?;
        }
        session.run(AT_ONCE).await?;
        Ok(rows)
    }
}
