//! Events → the state of a run. Pure: the same events give the same state, whoever stored them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::event::{Cause, Event, LookupReport, Outcome, OutputReport, What};

/// Everything the journal knows of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunState {
    /// Its id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The hash of the plan it ran.
    pub plan_hash: String,
    /// Params in their text form; a secret one as `***`.
    pub params: BTreeMap<String, String>,
    /// What started it.
    pub trigger: String,
    /// The moment it was to run at, in milliseconds since 1970.
    pub scheduled_ms: Option<i64>,
    /// Where the data interval that ends with that moment begins.
    pub interval_start_ms: Option<i64>,
    /// The version of haul that ran it last.
    pub version: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub started_ms: i64,
    /// The last event's time, in milliseconds since 1970-01-01 UTC.
    pub last_ms: i64,
    /// How often it was taken up again.
    pub resumes: u32,
    /// How it ended; `None` while it runs, and for good when its process was killed.
    pub outcome: Option<Outcome>,
    /// Whether it had ended as failed before it was taken up again.
    #[serde(skip)]
    pub failed_before: bool,
    /// Time worked on it over all processes, in milliseconds; a killed process counts up to its last event.
    pub elapsed_ms: u64,
    /// In plan order.
    pub stages: Vec<StageState>,
    /// In the order they came.
    pub notes: Vec<RunNote>,
    /// Why it came to no stage.
    pub refused: Option<Cause>,
}

/// One stage of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageState {
    /// Its name.
    pub stage: String,
    /// Milliseconds since 1970-01-01 UTC; `None` when it has not started.
    pub started_ms: Option<i64>,
    /// How it ended; `None` while it has not.
    pub outcome: Option<Outcome>,
    /// Whether a process has brought it to its end, proof included. Nothing that comes later takes that back.
    #[serde(skip)]
    pub done: bool,
    /// Splits in all; 0 until known.
    pub splits: u64,
    /// Committed splits, in the order they finished.
    pub splits_done: Vec<SplitState>,
    /// Failed attempts, in the order they came.
    pub attempts_failed: Vec<AttemptState>,
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that went out.
    pub rows_out: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Rows that were refused.
    pub rejects: u64,
    /// From its start to its end, in milliseconds, in the process that ended it.
    pub elapsed_ms: u64,
    /// What was written where, and what was proved of it.
    pub outputs: Vec<OutputReport>,
    /// What its lookups came to, one for each cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<LookupReport>,
    /// Why it failed or was skipped.
    pub failure: Option<Cause>,
}

/// A committed split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitState {
    /// Its id.
    pub split: String,
    /// What it covers.
    pub label: String,
    /// Rows that were written.
    pub rows: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Rows that were refused.
    pub rejects: u64,
    /// The attempt that committed it, from 1.
    pub attempt: u32,
    /// From its start to its commit, in milliseconds.
    pub elapsed_ms: u64,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptState {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// The split's id; `all` when the stage is one unit.
    pub split: String,
    /// From 1.
    pub attempt: u32,
    /// Why.
    pub failure: Cause,
    /// How long the next attempt waited, in milliseconds; `None` when there was none.
    pub retry_in_ms: Option<u64>,
}

/// Something worth knowing that is no failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunNote {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// The stage, when it concerns one.
    pub stage: Option<String>,
    /// One sentence.
    pub text: String,
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunSummary {
    /// The run's id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// What started it.
    pub trigger: String,
    /// The moment it was to run at, in milliseconds since 1970.
    pub scheduled_ms: Option<i64>,
    /// How it ended; `None` while it runs, and for good when its process was killed.
    pub outcome: Option<Outcome>,
    /// Milliseconds since 1970-01-01 UTC.
    pub started_ms: i64,
    /// Time worked on it over all processes, in milliseconds.
    pub elapsed_ms: u64,
    /// How often it was taken up again.
    pub resumes: u32,
    /// Stages in all.
    pub stages: usize,
    /// Stages that are done.
    pub stages_done: usize,
    /// Rows that went out of the stages that ended.
    pub rows: u64,
    /// The first stage that failed, and why.
    pub failure: Option<(String, Cause)>,
}

/// The state that the events of one run, in order, leave it in. `None` without events.
pub fn fold(events: &[Event]) -> Option<RunState> {
    let first = events.first()?;
    let mut state = RunState { run: first.run.clone(), started_ms: first.at_ms, ..RunState::default() };
    let mut clock = Worked { total_ms: 0, since_ms: first.at_ms };
    for event in events {
        state.apply(event, &mut clock);
    }
    state.elapsed_ms = clock.total_ms + if state.outcome.is_none() { clock.running(state.last_ms) } else { 0 };
    Some(state)
}

/// Time worked on a run by the processes so far, and when the present one began.
struct Worked {
    total_ms: u64,
    since_ms: i64,
}

impl Worked {
    fn running(&self, now_ms: i64) -> u64 {
        u64::try_from(now_ms - self.since_ms).unwrap_or(0)
    }
}

impl RunState {
    /// The state of a stage. Events may name one that `RunStarted` did not; it is then kept at the end.
    fn stage(&mut self, name: &str) -> &mut StageState {
        let place = self.stages.iter().position(|stage| stage.stage == name).unwrap_or_else(|| {
            self.stages.push(StageState { stage: name.to_owned(), ..StageState::default() });
            self.stages.len() - 1
        });
        &mut self.stages[place]
    }

    fn apply(&mut self, event: &Event, clock: &mut Worked) {
        let at_ms = event.at_ms;
        match &event.what {
            What::RunStarted { pipeline, plan_hash, params, trigger, scheduled_ms, interval_start_ms, resumed, version, stages } => {
                if *resumed {
                    self.resumes += 1;
                    if self.outcome.is_none() {
                        clock.total_ms += clock.running(self.last_ms);
                    }
                }
                self.failed_before |= self.outcome == Some(Outcome::Failed);
                clock.since_ms = at_ms;
                self.pipeline.clone_from(pipeline);
                self.plan_hash.clone_from(plan_hash);
                self.params.clone_from(params);
                self.trigger.clone_from(trigger);
                self.scheduled_ms = *scheduled_ms;
                self.interval_start_ms = *interval_start_ms;
                self.refused = None;
                self.version.clone_from(version);
                self.take_up(stages);
            }
            What::StageStarted { stage, splits, splits_done, .. } => {
                let stage = self.stage(stage);
                stage.started_ms = stage.started_ms.or(Some(at_ms));
                stage.splits = *splits;
                if *splits_done == 0 {
                    // The load began again from nothing: what an earlier process committed no longer counts.
                    stage.splits_done.clear();
                }
            }
            What::SplitFinished { stage, split, label, rows, bytes, rejects, attempt, elapsed_ms } => {
                self.stage(stage).commit(SplitState {
                    split: split.clone(),
                    label: label.clone(),
                    rows: *rows,
                    bytes: *bytes,
                    rejects: *rejects,
                    attempt: *attempt,
                    elapsed_ms: *elapsed_ms,
                });
            }
            What::AttemptFailed { stage, split, attempt, failure, retry_in_ms } => self.stage(stage).attempts_failed.push(AttemptState {
                at_ms,
                split: split.clone(),
                attempt: *attempt,
                failure: failure.clone(),
                retry_in_ms: *retry_in_ms,
            }),
            What::Note { stage, text } => self.notes.push(RunNote { at_ms, stage: stage.clone(), text: text.clone() }),
            // Left out or cut short later, a stage is as done as it was; only a failure is worth knowing.
            What::StageFinished { stage, outcome, failure, .. } if *outcome != Outcome::Done && self.stage(stage).done => {
                if *outcome == Outcome::Failed {
                    let stage = self.stage(stage);
                    stage.outcome = Some(*outcome);
                    stage.failure.clone_from(failure);
                }
            }
            What::StageFinished { stage, outcome, rows_in, rows_out, bytes, rejects, elapsed_ms, outputs, lookups, failure } => {
                let stage = self.stage(stage);
                stage.done = *outcome == Outcome::Done;
                stage.outcome = Some(*outcome);
                stage.rows_in = *rows_in;
                stage.rows_out = *rows_out;
                stage.bytes = *bytes;
                stage.rejects = *rejects;
                stage.elapsed_ms = *elapsed_ms;
                stage.outputs.clone_from(outputs);
                stage.lookups.clone_from(lookups);
                stage.failure.clone_from(failure);
            }
            What::RunFinished { outcome, elapsed_ms, refused } => {
                self.outcome = Some(*outcome);
                self.refused.clone_from(refused);
                clock.total_ms += elapsed_ms;
            }
        }
        self.last_ms = at_ms;
    }

    /// A new process works on the run: what is done stays done, everything else is open again. Stages come in the plan's order.
    fn take_up(&mut self, names: &[String]) {
        self.outcome = None;
        for stage in &mut self.stages {
            stage.failure = None;
            if stage.done {
                stage.outcome = Some(Outcome::Done);
            } else {
                stage.outcome = None;
                stage.outputs.clear();
            }
        }
        for name in names {
            self.stage(name);
        }
    }

    /// Whether a new process may go on with it: it was killed, stopped, or failed.
    pub fn can_go_on(&self) -> bool {
        matches!(self.outcome, None | Some(Outcome::Failed | Outcome::Interrupted))
    }

    /// Whether it may have written anything. Only the end of a run makes sure that the journal has all of its beginnings.
    pub fn may_have_written(&self) -> bool {
        self.outcome != Some(Outcome::Failed) || self.stages.iter().any(|stage| stage.started_ms.is_some())
    }

    /// The first stage that failed, and why; `plan` when it came to none.
    pub fn failure(&self) -> Option<(&str, &Cause)> {
        if let Some(refused) = &self.refused {
            return Some(("plan", refused));
        }
        let failed = self.stages.iter().find(|stage| stage.outcome == Some(Outcome::Failed))?;
        Some((&failed.stage, failed.failure.as_ref()?))
    }

    /// Its line of history.
    pub fn summary(&self) -> RunSummary {
        RunSummary {
            run: self.run.clone(),
            pipeline: self.pipeline.clone(),
            trigger: self.trigger.clone(),
            scheduled_ms: self.scheduled_ms,
            outcome: self.outcome,
            started_ms: self.started_ms,
            elapsed_ms: self.elapsed_ms,
            resumes: self.resumes,
            stages: self.stages.len(),
            stages_done: self.stages.iter().filter(|stage| stage.outcome == Some(Outcome::Done)).count(),
            rows: self.stages.iter().map(|stage| stage.rows_out).sum(),
            failure: self.failure().map(|(stage, cause)| (stage.to_owned(), cause.clone())),
        }
    }
}

impl StageState {
    /// Adds a committed split; one that commits again (its event came twice over a kill) replaces itself. Until the stage ends, its
    /// sums are those of its splits.
    fn commit(&mut self, done: SplitState) {
        self.splits_done.retain(|known| known.split != done.split);
        self.splits_done.push(done);
        self.rows_out = self.splits_done.iter().map(|split| split.rows).sum();
        self.bytes = self.splits_done.iter().map(|split| split.bytes).sum();
        self.rejects = self.splits_done.iter().map(|split| split.rejects).sum();
    }
}

#[cfg(test)]
mod tests;
