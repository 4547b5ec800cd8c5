//! The one loop that owns the state of a run.

mod ends;
mod rest;
mod segment;
mod steps;
mod tell;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use self::segment::{Phase, Segment, Try};
use super::progress::StageCounters;
use super::recorder::Recorder;
use super::refresh::Refresh;
use super::stage::{RunContext, StageRun, WHOLE};
use super::unit::Done;
use super::{Control, Options, Report, retry};
use crate::clock::{self, Stopwatch};
use crate::failure::Failure;
use crate::journal::{Cause, Outcome, OutputReport, What};
use crate::tasks;

/// What a task is asked to do for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Claim, open, cut.
    Begin,
    /// One split of its only stage, by number; or all of it.
    Work(usize),
    /// Prove and publish, and wait until the journal has it.
    Finish,
}

/// What a task answers.
enum Answer {
    Begun(Vec<(usize, Arc<StageRun>)>),
    Worked(Vec<Done>),
    Finished(Vec<Vec<OutputReport>>),
    Told,
}

struct Dispatcher {
    context: Arc<RunContext>,
    counters: Vec<Arc<StageCounters>>,
    recorder: Recorder,
    segments: Vec<Segment>,
    /// Segments whose turn has come and that are not over: only they can have steps.
    open: BTreeSet<usize>,
    /// Segments that wait for one that did not come through, and which.
    doomed: BTreeMap<usize, usize>,
    tasks: JoinSet<Result<Answer, Failure>>,
    owners: HashMap<Id, (usize, Step)>,
    /// Steps that wait, and until when.
    resting: Vec<(Instant, usize, Step)>,
    /// Caches that are filled again. The run does not wait for them.
    refreshes: Vec<Refresh>,
    watch: Stopwatch,
}

pub(super) async fn run(
    context: Arc<RunContext>,
    counters: Vec<Arc<StageCounters>>,
    recorder: Recorder,
    options: Options,
    control: Control,
) -> Result<Report, Failure> {
    let segments = Segment::all(&context.plan.segments);
    let mut dispatcher = Dispatcher {
        counters,
        recorder,
        open: (0..segments.len()).filter(|&number| segments[number].waits_for == 0).collect(),
        doomed: BTreeMap::new(),
        segments,
        tasks: JoinSet::new(),
        owners: HashMap::new(),
        resting: Vec::new(),
        refreshes: Vec::new(),
        watch: Stopwatch::start(),
        context,
    };
    dispatcher.announce(&options).await;
    dispatcher.leave_out(&options).await;
    dispatcher.turn(&control).await;
    let spill = dispatcher.context.spill.clone();
    let _ = std::fs::remove_dir(&spill); // Empty: spill files have no names by now.
    dispatcher.close().await
}

impl Dispatcher {
    /// Ends the segments that `--only` does not name before they begin.
    async fn leave_out(&mut self, options: &Options) {
        let Some(only) = &options.only else { return };
        for number in 0..self.segments.len() {
            let named = self.members(number).iter().any(|&stage| only.contains(&self.context.plan.stages[stage].stage.name));
            if !named {
                self.tell_end(number, &[], Outcome::Skipped, None).await;
                // A segment that was left out holds nobody up.
                self.over(number, Outcome::Done);
                self.let_go_on(number);
            }
        }
    }

    fn members(&self, segment: usize) -> Vec<usize> {
        self.context.plan.segments[segment].stages.clone()
    }

    /// Starts what may start, waits for something to happen, takes it in; until everything is over.
    async fn turn(&mut self, control: &Control) {
        let mut deadline: Option<Instant> = None;
        loop {
            self.advance().await;
            if self.tasks.is_empty() && (self.draining() || self.resting.is_empty()) {
                break;
            }
            let wake = self.resting.iter().map(|(until, ..)| *until).min();
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id() => self.take(joined).await,
                () = sleep_until(wake), if wake.is_some() => self.wake(),
                () = control.drain.cancelled(), if !self.draining() => {
                    deadline = Some(clock::instant() + self.context.plan.pipeline.limits.drain);
                    self.drain();
                }
                () = control.abort.cancelled() => self.abort().await,
                () = sleep_until(deadline), if deadline.is_some() => self.abort().await,
            }
            if self.recorder.broken() && !self.draining() {
                self.drain();
            }
        }
        for number in 0..self.segments.len() {
            if !matches!(self.segments[number].phase, Phase::Over(_)) {
                self.end(number, Outcome::Interrupted, None).await;
            }
        }
    }

    /// Starts nothing more. What is under way hears of it from here and not from who asked, so that an end on request is known as one.
    fn drain(&mut self) {
        self.context.drain.cancel();
        self.rest_no_more();
    }

    fn draining(&self) -> bool {
        self.context.drain.is_cancelled()
    }

    async fn abort(&mut self) {
        self.drain();
        self.tasks.shutdown().await;
    }

    /// Opens segments whose turn has come, skips those that wait for a failed one, and fills the free slots.
    async fn advance(&mut self) {
        while let Some((number, other)) = self.doomed.pop_first() {
            if self.segments[number].phase == Phase::Waiting {
                let name = self.context.plan.stages[self.context.plan.segments[other].stages[0]].stage.name.clone();
                self.end(number, Outcome::Skipped, Some(Failure::permanent(format!("stage {name} is not done")))).await;
            }
        }
        for &number in &self.open {
            let segment = &mut self.segments[number];
            if segment.phase == Phase::Waiting {
                segment.phase = Phase::Active;
                segment.ready.push_back(Step::Begin);
            }
        }
        if self.draining() {
            return;
        }
        let limits = self.context.plan.pipeline.limits.clone();
        // Streams hold their place for ever, and so take none from the stages that end.
        let bounded = |number: usize| !self.endless(number);
        let mut active = self.open.iter().filter(|&&number| self.segments[number].running > 0 && bounded(number)).count();
        let mut working = self.owners.values().filter(|(number, step)| matches!(step, Step::Work(_)) && bounded(*number)).count();
        for number in self.open.clone() {
            while let Some(&step) = self.segments[number].ready.front() {
                let segment = &self.segments[number];
                let new = segment.running == 0;
                let most = segment.stages.first().map_or(1, |(_, stage)| stage.plan.flow().splits.concurrency);
                let counts = !self.endless(number);
                let full = (new && active >= limits.stages && counts) || segment.running >= most.max(1);
                if full || (matches!(step, Step::Work(_)) && working >= limits.splits && counts) {
                    break;
                }
                self.segments[number].ready.pop_front();
                active += usize::from(new && counts);
                working += usize::from(matches!(step, Step::Work(_)) && counts);
                self.launch(number, step);
            }
        }
    }

    /// Whether a segment is a stream.
    fn endless(&self, number: usize) -> bool {
        self.context.plan.segments[number].stages.iter().any(|&stage| self.context.plan.stages[stage].streams())
    }

    fn launch(&mut self, number: usize, step: Step) {
        let segment = &mut self.segments[number];
        segment.running += 1;
        if step == Step::Begin && segment.tries.is_empty() {
            segment.watch = Stopwatch::start();
        }
        let commits: u64 =
            self.context.plan.segments[number].stages.iter().map(|&stage| self.counters[stage].commits.load(Ordering::Relaxed)).sum();
        let tried = segment.tries.entry(step).or_insert_with(|| Try { attempt: 0, watch: Stopwatch::start(), commits });
        if tried.commits != commits {
            // A stream that has committed since its last failure has got over it.
            *tried = Try { attempt: 0, watch: Stopwatch::start(), commits };
        }
        tried.attempt += 1;
        let context = Arc::clone(&self.context);
        let members = context.plan.segments[number].stages.clone();
        let timeout = members.iter().filter_map(|&stage| context.plan.stages[stage].stage.timeout).min();
        let counters: Vec<Arc<StageCounters>> = members.iter().map(|&stage| Arc::clone(&self.counters[stage])).collect();
        let stages = segment.stages.clone();
        let task = async move {
            match step {
                Step::Begin => steps::begin(&context, &members, counters).await.map(Answer::Begun),
                Step::Work(split) => steps::work(&context, &stages, split).await.map(Answer::Worked),
                Step::Finish => steps::finish(&stages).await.map(Answer::Finished),
            }
        };
        let handle = self.tasks.spawn(async move {
            match timeout {
                None => task.await,
                Some(limit) => tokio::time::timeout(limit, task)
                    .await
                    .unwrap_or_else(|_| Err(Failure::transient(format!("the attempt took longer than its timeout of {limit:?}")))),
            }
        });
        self.owners.insert(handle.id(), (number, step));
    }

    async fn take(&mut self, joined: Result<(Id, Result<Answer, Failure>), JoinError>) {
        let (id, result) = match joined {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(tasks::ended(error))),
        };
        let Some((number, step)) = self.owners.remove(&id) else { return };
        self.segments[number].running -= 1;
        match result {
            Ok(answer) => self.succeeded(number, step, answer).await,
            Err(failure) => self.failed(number, step, failure).await,
        }
        self.begin_again(number);
        let segment = &self.segments[number];
        if segment.failure.is_some() && segment.running == 0 && !matches!(segment.phase, Phase::Over(_)) {
            let failure = self.segments[number].failure.take();
            self.end(number, Outcome::Failed, failure).await;
        }
    }

    async fn succeeded(&mut self, number: usize, step: Step, answer: Answer) {
        match answer {
            Answer::Begun(stages) => {
                for (_, stage) in &stages {
                    self.started(stage).await;
                }
                let pending: Vec<usize> = match stages.as_slice() {
                    [(_, only)] => only.pending(),
                    // A segment is one unit, and is done when no stage lacks anything.
                    several => {
                        let done = |stage: &StageRun| stage.loads.is_empty() || stage.is_done(WHOLE);
                        if several.iter().all(|(_, stage)| done(stage)) { Vec::new() } else { vec![0] }
                    }
                };
                let segment = &mut self.segments[number];
                segment.stages = stages;
                segment.left = pending.len();
                segment.ready.extend(pending.into_iter().map(Step::Work));
                self.finish_when_ready(number);
            }
            Answer::Worked(done) => {
                self.worked(number, step, &done).await;
                // Progress: views that were lost before it do not count against the next one.
                self.segments[number].tries.remove(&Step::Begin);
                self.segments[number].left -= 1;
                self.finish_when_ready(number);
            }
            Answer::Finished(reports) => self.done(number, reports).await,
            Answer::Told => self.let_go_on(number),
        }
    }

    fn finish_when_ready(&mut self, number: usize) {
        let segment = &mut self.segments[number];
        if segment.left == 0 && segment.failure.is_none() && segment.idle() {
            segment.ready.push_back(Step::Finish);
        }
    }

    async fn failed(&mut self, number: usize, step: Step, failure: Failure) {
        if self.draining() && failure.kind == crate::failure::FailureKind::Cancelled {
            return;
        }
        let stage = &self.context.plan.stages[self.context.plan.segments[number].stages[0]].stage;
        let Some(tried) = self.segments[number].tries.get(&step).copied() else { return };
        let given_up = self.segments[number].failure.is_some() || self.draining();
        let wait =
            if given_up { None } else { retry::next_wait(&stage.retry, &failure, tried.attempt, tried.watch.elapsed(), fastrand::f64()) };
        let split = match step {
            Step::Work(split) => {
                self.segments[number].stages.first().and_then(|(_, stage)| stage.splits.get(split)).map(|split| split.id.clone())
            }
            Step::Begin | Step::Finish => None,
        };
        let what = What::AttemptFailed {
            stage: stage.name.clone(),
            split: split.unwrap_or_else(|| WHOLE.to_owned()),
            attempt: tried.attempt,
            failure: Cause::from(&failure),
            retry_in_ms: wait.map(tell::millis),
        };
        self.recorder.record(what).await;
        let again = step != Step::Begin && (failure.view_lost || self.segments[number].begin_again.is_some());
        match wait {
            Some(wait) if again => {
                self.forget_waiting(number);
                self.segments[number].begin_again.get_or_insert(wait);
            }
            Some(wait) => self.rest(number, step, wait),
            None => {
                // Splits under way may still commit: a rerun has less to do.
                self.forget_waiting(number);
                self.segments[number].failure.get_or_insert(failure);
            }
        }
    }

    async fn close(mut self) -> Result<Report, Failure> {
        for (stage, text) in std::mem::take(&mut self.refreshes).into_iter().filter_map(Refresh::end) {
            self.recorder.record(What::Note { stage: Some(stage), text }).await;
        }
        let has = |outcome| self.segments.iter().any(|segment| segment.phase == Phase::Over(outcome));
        let outcome = if has(Outcome::Failed) {
            Outcome::Failed
        } else if has(Outcome::Interrupted) {
            Outcome::Interrupted
        } else {
            Outcome::Done
        };
        self.recorder.record(What::RunFinished { outcome, elapsed_ms: tell::millis(self.watch.elapsed()), refused: None }).await;
        self.recorder.finish().await?;
        Ok(Report { outcome })
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
