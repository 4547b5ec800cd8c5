//! What the dispatcher tells the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::Options;
use super::super::stage::StageRun;
use super::super::unit::Done;
use super::{Dispatcher, Step};
use crate::clock;
use crate::failure::Failure;
use crate::journal::{Cause, LookupReport, Outcome, OutputReport, What};

/// How a stage ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) rejects: u64,
    pub(super) outputs: Vec<OutputReport>,
    pub(super) lookups: Vec<LookupReport>,
    pub(super) failure: Option<Cause>,
}

impl Ended {
    /// Everything arrived.
    pub(super) fn done(stage: &StageRun, outputs: Vec<OutputReport>) -> Self {
        Self { outcome: Outcome::Done, rejects: stage.rejected(), outputs, lookups: stage.plan.transform.lookups(), failure: None }
    }
}

impl Dispatcher {
    pub(super) async fn announce(&self, options: &Options) {
        let what = What::RunStarted {
            pipeline: self.context.plan.pipeline.name.clone(),
            plan_hash: self.context.plan.hash.clone(),
            params: options.params.clone(),
            trigger: options.trigger.clone(),
            scheduled_ms: options.scheduled_ms,
            interval_start_ms: options.interval_start_ms,
            resumed: options.resumed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stages: self.context.plan.stages.iter().map(|stage| stage.stage.name.clone()).collect(),
        };
        let at_ms = if options.resumed { clock::now_ms() } else { options.started_at_ms };
        self.recorder.record_at(at_ms, what).await;
    }

    pub(super) async fn started(&self, stage: &StageRun) {
        let what = What::StageStarted {
            stage: stage.plan.stage.name.clone(),
            splits: stage.splits.len() as u64,
            splits_done: stage.counters.splits_done.load(Ordering::Relaxed),
            rows: stage.rows_estimated(),
        };
        self.recorder.record(what).await;
        for note in &stage.notes {
            self.recorder.record(What::Note { stage: Some(stage.plan.stage.name.clone()), text: note.clone() }).await;
        }
    }

    pub(super) async fn worked(&self, number: usize, step: Step, done: &[Done]) {
        let segment = &self.segments[number];
        let Step::Work(split) = step else { return };
        let tried = segment.tries.get(&step);
        for ((_, stage), done) in segment.stages.iter().zip(done) {
            stage.counters.splits_done.fetch_add(1, Ordering::Relaxed);
            let Some(split) = stage.splits.get(split) else { continue };
            let what = What::SplitFinished {
                stage: stage.plan.stage.name.clone(),
                split: split.id.clone(),
                label: split.label.clone(),
                rows: done.rows,
                bytes: done.bytes,
                rejects: done.rejects,
                attempt: tried.map_or(1, |tried| tried.attempt),
                elapsed_ms: tried.map_or(0, |tried| millis(tried.watch.elapsed())),
            };
            self.recorder.record(what).await;
        }
    }

    /// Every stage of a segment that did not come through; `begun` are those that had begun.
    pub(super) async fn tell_end(&self, number: usize, begun: &[(usize, Arc<StageRun>)], outcome: Outcome, failure: Option<Failure>) {
        let cause = failure.as_ref().map(Cause::from);
        for place in self.members(number) {
            let rejects = self.counters[place].rejects.load(Ordering::Relaxed);
            let stage = begun.iter().find(|(other, _)| *other == place);
            let lookups = stage.map(|(_, stage)| stage.plan.transform.lookups()).unwrap_or_default();
            self.report(number, place, Ended { outcome, rejects, outputs: Vec::new(), lookups, failure: cause.clone() }).await;
        }
    }

    pub(super) async fn report(&self, number: usize, place: usize, ended: Ended) {
        let Ended { outcome, rejects, outputs, lookups, failure } = ended;
        let counters = &self.counters[place];
        let what = What::StageFinished {
            stage: self.context.plan.stages[place].stage.name.clone(),
            outcome,
            rows_in: counters.rows_in.load(Ordering::Relaxed),
            rows_out: counters.rows_out.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            rejects,
            elapsed_ms: millis(self.segments[number].watch.elapsed()),
            outputs,
            lookups,
            failure,
        };
        self.recorder.record(what).await;
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
