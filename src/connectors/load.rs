//! Loads: what is known of the rows that one output of a stage is being written.

use crate::data::{Digest, Position, Schema};
use crate::define::pipeline::Verify;

/// The identity of one load: the rows of one output of one stage in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadKey {
    /// The pipeline's name.
    pub pipeline: String,
    /// The stage's name.
    pub stage: String,
    /// The place of the output in the stage's `to:` list, from 0.
    pub output: usize,
    /// The run, as named in the journal.
    pub run: String,
    /// A hash of everything that decides which rows are written where. A load of another hash is never continued.
    pub plan_hash: String,
}

/// What `claim` found.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Greater than that of any earlier claim on the same pipeline, stage and output. A commit under a smaller epoch is refused.
    pub epoch: u64,
    /// The load to go on with: the same run's, or an unfinished one of the same plan hash.
    pub found: Option<FoundLoad>,
    /// Rows that an unfinished load of *another* plan hash has already made visible in the target (append and upsert write in place). The
    /// executor refuses to start over them unless asked to with `--fresh`. 0 when nothing was left, and always 0 for sinks that stage.
    pub left_behind: u64,
    /// The run that left them, where the target knows.
    pub left_by: Option<String>,
}

/// A load that an earlier worker began.
#[derive(Clone, Debug)]
pub struct FoundLoad {
    /// The run that began it.
    pub run: String,
    /// What the executor asked to be kept with it at `prepare`.
    pub note: String,
    /// What has been committed: of whole splits, and of the beginnings of splits up to a position.
    pub marks: Vec<Mark>,
    /// Whether `publish` has been done.
    pub published: bool,
}

/// A load that is being written.
#[derive(Clone, Debug)]
pub struct Load {
    /// Whose it is.
    pub key: LoadKey,
    /// From the claim.
    pub epoch: u64,
    /// The incoming columns.
    pub schema: Schema,
    /// What proof the stage asks for. With [`Verify::Digest`] an upserting writer reads the split's rows back inside its transaction,
    /// compares them with what arrived, and commits only when they agree. Other modes leave it to the executor, which uses `read_back`.
    pub verify: Verify,
}

/// The record of what has been written of one split, committed in the same transaction as its rows. It counts from the split's beginning:
/// each checkpoint's mark takes the place of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The split's id.
    pub split: String,
    /// Rows that arrived at the sink.
    pub rows: u64,
    /// Their digest on the source side.
    pub digest: Digest,
    /// Rows refused on the way.
    pub rejects: u64,
    /// Where the split goes on; `None` when it is complete.
    pub position: Option<Position>,
}
