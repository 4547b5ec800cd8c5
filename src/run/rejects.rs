//! Bad rows of a stage: their budget, and the file they go to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::connectors::files::{RejectLog, RejectWriter};
use crate::data::Reject;
use crate::failure::Failure;

/// What a stage does with bad rows. Without a log, the first one fails it.
pub struct RejectBudget {
    log: Option<RejectLog>,
    at_most: u64,
    /// Rows refused by committed splits and by attempts under way.
    taken: AtomicU64,
}

/// The bad rows of one attempt. Dropping it without [`RejectSlip::commit`] gives their share of the budget back.
pub struct RejectSlip {
    budget: Arc<RejectBudget>,
    writer: Option<RejectWriter>,
    count: u64,
    committed: bool,
}

impl RejectBudget {
    /// A budget of which earlier attempts of the run have used some.
    pub fn new(log: Option<(RejectLog, u64)>, used: u64) -> Arc<Self> {
        let (log, at_most) = log.map_or((None, 0), |(log, at_most)| (Some(log), at_most));
        Arc::new(Self { log, at_most, taken: AtomicU64::new(used) })
    }

    /// For one attempt at one split, or at what is left of it after its first `before` rows: those that were refused there are kept.
    pub fn slip(self: &Arc<Self>, split: &str, before: u64) -> Result<RejectSlip, Failure> {
        let part = if before == 0 { split.to_owned() } else { format!("{split}_{before:020}") };
        let writer = self.log.as_ref().map(|log| log.writer(&part)).transpose()?;
        Ok(RejectSlip { budget: Arc::clone(self), writer, count: 0, committed: false })
    }

    /// Puts the parts together into the file the pipeline names, behind what is there when it `grows`.
    pub async fn publish(&self, grows: bool) -> Result<(), Failure> {
        match &self.log {
            Some(log) => log.publish(grows).await,
            None => Ok(()),
        }
    }
}

impl RejectSlip {
    /// Takes bad rows, or fails when there is no room for them.
    pub async fn take(&mut self, rejects: &[Reject]) -> Result<(), Failure> {
        let Some(first) = rejects.first() else { return Ok(()) };
        let Some(writer) = &mut self.writer else {
            return Err(Failure::bad_rows(format!("{}: {}", first.origin, first.reason))
                .help("correct the row, or let bad rows go to a file: `rejects: { to: { files: …, path: … }, at_most: … }`"));
        };
        let count = rejects.len() as u64;
        let taken = self.budget.taken.fetch_add(count, Ordering::Relaxed) + count;
        self.count += count;
        if taken > self.budget.at_most {
            let message = format!("more than {} bad rows; the last was {}: {}", self.budget.at_most, first.origin, first.reason);
            return Err(Failure::bad_rows(message).help("correct the rows, or raise `rejects.at_most`"));
        }
        writer.write(rejects).await
    }

    /// How many rows it took.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Keeps the rows. Repeating it for the same rows replaces what an earlier attempt kept.
    pub async fn commit(mut self) -> Result<(), Failure> {
        if let Some(writer) = self.writer.take() {
            writer.commit().await?;
        }
        self.committed = true;
        Ok(())
    }
}

impl Drop for RejectSlip {
    fn drop(&mut self) {
        if !self.committed {
            self.budget.taken.fetch_sub(self.count, Ordering::Relaxed);
        }
    }
}
