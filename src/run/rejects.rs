//! Bad rows of a stage: their budget, and the file they go to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::connectors::Mark;
use crate::connectors::files::{RejectLog, RejectWriter};
use crate::data::Reject;
use crate::failure::Failure;

/// What a stage does with bad rows. Without a log, the first one fails it.
pub struct RejectBudget {
    log: Option<RejectLog>,
    at_most: u64,
    /// Rows refused by committed splits and by attempts under way.
    taken: AtomicU64,
    /// Of these, the rows that each split has used up for good: an attempt that meets them again uses up nothing.
    kept: Mutex<BTreeMap<String, u64>>,
}

/// The bad rows of one attempt. Dropping it without [`RejectSlip::commit`] gives their share of the budget back.
pub struct RejectSlip {
    budget: Arc<RejectBudget>,
    split: String,
    /// The name under which its rows are kept aside.
    part: String,
    writer: Option<RejectWriter>,
    count: u64,
    /// Rows that it may take without using anything up: earlier attempts have.
    free: u64,
    committed: bool,
}

impl RejectBudget {
    /// A budget of which what is committed of each split has used some.
    pub fn new(log: Option<(RejectLog, u64)>, kept: BTreeMap<String, u64>) -> Arc<Self> {
        let (log, at_most) = log.map_or((None, 0), |(log, at_most)| (Some(log), at_most));
        Arc::new(Self { log, at_most, taken: AtomicU64::new(kept.values().sum()), kept: Mutex::new(kept) })
    }

    /// For one attempt at one split, or at what is left of it behind a mark: the rows that were refused there are kept.
    pub fn slip(self: &Arc<Self>, split: &str, from: Option<&Mark>) -> RejectSlip {
        let part = part(split, counted(from));
        let writer = self.log.as_ref().map(|log| log.writer(&part, split));
        let before = from.map_or(0, |mark| mark.rejects);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(split).copied().unwrap_or(0);
        let free = kept.saturating_sub(before);
        RejectSlip { budget: Arc::clone(self), split: split.to_owned(), part, writer, count: 0, free, committed: false }
    }

    /// Begins where an earlier worker on a stream has stopped: rows that it kept without committing their marks are dropped, those whose marks are
    /// committed go to the file.
    pub async fn take_up(&self, split: &str, from: Option<&Mark>, outputs: usize) -> Result<(), Failure> {
        let Some(log) = &self.log else { return Ok(()) };
        let part = part(split, counted(from));
        log.writer(&part, split).commit().await?;
        for output in 0..outputs {
            log.writer(&of_output(&part, output), split).commit().await?;
        }
        log.publish(true).await
    }

    /// Puts the parts together into the file the pipeline names, behind what is there when it `grows`.
    pub async fn publish(&self, grows: bool) -> Result<(), Failure> {
        match &self.log {
            Some(log) => log.publish(grows).await,
            None => Ok(()),
        }
    }
}

/// How many rows of a split are accounted for.
fn counted(mark: Option<&Mark>) -> u64 {
    mark.map_or(0, |mark| mark.rows + mark.rejects)
}

/// The name of what is kept aside of a split behind its first `before` rows.
fn part(split: &str, before: u64) -> String {
    if before == 0 { split.to_owned() } else { format!("{split}_{before:020}") }
}

/// The same of what one output refused.
fn of_output(part: &str, output: usize) -> String {
    format!("{part}_{output}")
}

impl RejectSlip {
    /// Takes bad rows, or fails when there is no room for them.
    pub async fn take(&mut self, rejects: &[Reject]) -> Result<(), Failure> {
        self.charge(rejects)?;
        match &mut self.writer {
            Some(writer) => writer.write(rejects).await,
            None => Ok(()),
        }
    }

    /// Takes and keeps the rows that one output refused. Repeating it for the same rows replaces what an earlier attempt kept.
    pub async fn refused(&mut self, output: usize, rejects: &[Reject]) -> Result<(), Failure> {
        self.charge(rejects)?;
        let Some(log) = &self.budget.log else { return Ok(()) };
        let mut writer = log.writer(&of_output(&self.part, output), &self.split);
        writer.write(rejects).await?;
        writer.commit().await
    }

    fn charge(&mut self, rejects: &[Reject]) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (rejects.first(), rejects.last()) else { return Ok(()) };
        if self.budget.log.is_none() {
            return Err(Failure::bad_rows(format!("{}: {}", first.origin, first.reason))
                .help("correct the row, or let bad rows go to a file: `rejects: { to: { files: …, path: … }, at_most: … }`"));
        }
        let used = self.used();
        self.count += rejects.len() as u64;
        let more = self.used() - used;
        let taken = self.budget.taken.fetch_add(more, Ordering::Relaxed) + more;
        if taken > self.budget.at_most {
            let message = format!("more than {} bad rows; the last was {}: {}", self.budget.at_most, last.origin, last.reason);
            return Err(Failure::bad_rows(message).help("correct the rows, or raise `rejects.at_most`"));
        }
        Ok(())
    }

    /// How much of the budget it has used up.
    fn used(&self) -> u64 {
        self.count.saturating_sub(self.free)
    }

    /// How many rows it took.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Keeps the rows that were taken. Repeating it for the same rows replaces what an earlier attempt kept.
    pub async fn keep(&mut self) -> Result<(), Failure> {
        match self.writer.take() {
            Some(writer) => writer.commit().await,
            None => Ok(()),
        }
    }

    /// The marks that count these rows are committed.
    pub fn commit(mut self) {
        self.committed = true;
        let mut kept = self.budget.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept.entry(self.split.clone()).or_insert(0) += self.used();
    }
}

impl Drop for RejectSlip {
    fn drop(&mut self) {
        if !self.committed {
            self.budget.taken.fetch_sub(self.used(), Ordering::Relaxed);
        }
    }
}
