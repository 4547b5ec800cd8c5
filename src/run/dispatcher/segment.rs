//! Where one segment of the DAG stands.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::stage::StageRun;
use super::Step;
use crate::clock::Stopwatch;
use crate::failure::Failure;
use crate::journal::Outcome;

/// Where a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Active,
    Over(Outcome),
}

/// One segment, as the dispatcher sees it.
pub(super) struct Segment {
    pub(super) phase: Phase,
    /// Steps that may start, oldest first.
    pub(super) ready: VecDeque<Step>,
    /// Steps that tasks work on.
    pub(super) running: usize,
    /// Steps that wait for their next attempt.
    pub(super) resting: usize,
    /// A source's view is gone: once nothing runs any more, the segment begins again, after this wait.
    pub(super) begin_again: Option<Duration>,
    /// Splits that are not committed yet.
    pub(super) left: usize,
    pub(super) stages: Vec<(usize, Arc<StageRun>)>,
    pub(super) tries: HashMap<Step, Try>,
    pub(super) failure: Option<Failure>,
    pub(super) watch: Stopwatch,
}

/// How often a step was tried.
#[derive(Clone, Copy)]
pub(super) struct Try {
    pub(super) attempt: u32,
    pub(super) watch: Stopwatch,
}

impl Segment {
    /// One that nothing has happened to yet.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Waiting,
            ready: VecDeque::new(),
            running: 0,
            resting: 0,
            begin_again: None,
            left: 0,
            stages: Vec::new(),
            tries: HashMap::new(),
            failure: None,
            watch: Stopwatch::start(),
        }
    }

    /// Nothing runs, rests or is ready: it can only be over.
    pub(super) fn idle(&self) -> bool {
        self.running == 0 && self.resting == 0 && self.ready.is_empty()
    }
}
