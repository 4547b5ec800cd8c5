//! Where one segment of the DAG stands.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::stage::StageRun;
use super::Step;
use crate::clock::Stopwatch;
use crate::failure::Failure;
use crate::journal::Outcome;
use crate::plan;

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
    /// How many of those that must be done before are not.
    pub(super) waits_for: usize,
    /// Those that wait for it.
    pub(super) followers: Vec<usize>,
    /// Steps that may start, oldest first.
    pub(super) ready: VecDeque<Step>,
    /// Steps that tasks work on.
    pub(super) running: usize,
    /// Steps that wait for their next attempt.
    pub(super) resting: usize,
    /// A source's view is gone, or commits of a target: once nothing runs any more, the segment begins again, after this wait.
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
    /// What its stream had committed before the last attempt.
    pub(super) commits: u64,
}

impl Segment {
    /// The segments of a plan, before anything has happened to them.
    pub(super) fn all(planned: &[plan::Segment]) -> Vec<Self> {
        let mut segments: Vec<Self> = planned.iter().map(|planned| Self::new(planned.after.len())).collect();
        for (number, planned) in planned.iter().enumerate() {
            for &other in &planned.after {
                segments[other].followers.push(number);
            }
        }
        segments
    }

    fn new(waits_for: usize) -> Self {
        Self {
            phase: Phase::Waiting,
            waits_for,
            followers: Vec::new(),
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
