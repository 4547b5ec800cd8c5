//! The contract of a place that keeps events. Calls block; only the keeper's thread makes them.

use crate::failure::{Failure, FailureKind};

use super::event::Event;
use super::record::Change;

/// The version of the tables below, and of the events' JSON form. A store of a greater version is refused.
pub(super) const VERSION: i64 = 2;

/// A place that keeps events.
pub(super) trait Store: Send {
    /// Appends events with their places in their runs, all or none, durable when it returns. The same append may be sent again when
    /// the answer to a commit was lost. Gives a run of which another event has taken a place; then nothing is appended.
    fn append(&mut self, events: &[(i64, Event)]) -> Result<Option<String>, Failure>;

    /// The place of the next event of a run.
    fn next_place(&mut self, run: &str) -> Result<i64, Failure>;

    /// All events of a run, in order; without those of single splits when `summary` is set.
    fn events(&mut self, run: &str, summary: bool) -> Result<Vec<Event>, Failure>;

    /// Ids of runs, latest first, of one pipeline or of all.
    fn runs(&mut self, pipeline: Option<&str>, limit: u32) -> Result<Vec<String>, Failure>;

    /// Ids of runs that begin with a text, latest first, at most `limit`.
    fn runs_like(&mut self, prefix: &str, limit: u32) -> Result<Vec<String>, Failure>;

    /// Makes changes of records, all or none, durable when it returns. Answers for each whether it did something: an `Add` does nothing when
    /// the record is there.
    fn change(&mut self, changes: &[Change]) -> Result<Vec<bool>, Failure>;

    /// Keys and values of the records of a kind whose keys begin with a text, latest first.
    fn records(&mut self, kind: &str, prefix: &str, limit: u32) -> Result<Vec<(String, String)>, Failure>;

    /// Ids of runs that ended after a time, each with its last end, oldest end first.
    fn ended_since(&mut self, after_ms: i64) -> Result<Vec<(String, i64)>, Failure>;

    /// Forgets runs that began before a time, and all but the latest so many of each pipeline, but never its latest one; and records of the
    /// kinds in [`super::schedule::PRUNED`] from before it. Answers with the ids of the runs.
    fn prune(&mut self, before_ms: i64, runs: u32) -> Result<Vec<String>, Failure>;

    /// Takes the lock of a pipeline, or says who holds it. The death of the process releases it.
    fn lock(&mut self, pipeline: &str) -> Result<Lock, Failure>;

    /// Gives the lock of a pipeline back.
    fn unlock(&mut self, pipeline: &str);
}

/// What came of taking a lock.
pub(super) enum Lock {
    /// It is ours.
    Taken,
    /// Another process has it; who that is, for people, such as `process 4711 since 2026-01-31T04:05:06Z`.
    HeldBy(String),
}

/// One event from its stored text. `place` is named in the error.
pub(super) fn parse(run: &str, place: i64, text: &str) -> Result<Event, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::permanent(format!("event {place} of run {run} in the journal cannot be read")).help(MOVE_ASIDE).cause(error)
    })
}

/// The refusal of events whose places others have taken.
pub(super) fn overtaken(run: &str) -> Failure {
    Failure::new(FailureKind::Fenced, format!("another process has gone on with run {run} meanwhile, as the journal shows"))
}

/// The refusal of a journal that a newer program has written.
pub(super) fn too_new(what: &str, found: i64) -> Failure {
    Failure::permanent(format!("{what} was written by a newer haul: its version is {found}, this one knows {VERSION}"))
        .help("use the newer haul, or name another journal with `state:` in haul.yaml")
}

/// The way out when a journal is damaged.
pub(super) const MOVE_ASIDE: &str =
    "move the journal aside and run again: only history is lost, what was written is recorded in the targets themselves";
