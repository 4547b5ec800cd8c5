//! Carries out the run of one tick, or of a pipeline that is kept going.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::logs::RunLog;
use super::status::Status;
use super::{Level, Voice};
use crate::clock;
use crate::define::pipeline::Overlap;
use crate::diagnostic::Severity;
use crate::failure::Failure;
use crate::journal::{Cause, Event, Journal, Lease, Outcome, Tick, What};
use crate::plan::{Plan, Refused, Sealed, StagePlan};
use crate::run::launch::{self, Facts, Found};
use crate::run::{self, Control};

/// The waits between tries to make a plan while the environment is in the way, in seconds.
const PLAN_WAITS: [u64; 4] = [1, 4, 15, 40];

/// A pipeline to run, and with what.
pub(super) struct Work {
    pub found: Found,
    pub overlap: Overlap,
    pub params: BTreeMap<String, String>,
    pub journal: Journal,
    pub control: Control,
    pub voice: Voice,
    pub status: Arc<Status>,
    pub logs: PathBuf,
}

/// What came of it.
pub(super) enum Came {
    /// Another process works on the pipeline.
    Held(String),
    /// The run is over.
    Over(Outcome),
}

/// Carries a tick out: goes on with its run when it was cut, else begins it. The tick names the run in the end.
pub(super) async fn carry_out(work: &Work, tick: &mut Tick) -> Result<Came, Failure> {
    let mut leases = Vec::new();
    match work.lease(&tick.run).await? {
        Ok(lease) => leases.push(lease),
        Err(holder) => return Ok(Came::Held(holder)),
    }
    let mut facts = work.facts(tick);
    if let Some(cut) = work.journal.find(&tick.run).await? {
        if let Some(outcome @ (Outcome::Done | Outcome::Failed | Outcome::Skipped)) = cut.outcome {
            return Ok(Came::Over(outcome));
        }
        if let Some((plan, facts)) = work.found.take_up(&cut, &BTreeMap::new()).await {
            return work.run(plan, &facts, true).await;
        }
        // The definition has changed since, or something is in its way: the tick gets another run.
        facts.run = clock::new_id();
        facts.started_at_ms = clock::now_ms();
        tick.run.clone_from(&facts.run);
        if work.overlap == Overlap::Allow {
            // Nobody else knows of it yet.
            leases.extend(work.lease(&tick.run).await?);
        }
        work.journal.settle(tick).await?;
    }
    work.begin(&facts).await
}

/// Goes on with the latest run of a pipeline that is kept going, when it was cut or failed and its plan is the same; else begins one.
pub(super) async fn carry_on(work: &Work) -> Result<Came, Failure> {
    let facts = Facts { trigger: "serve".to_owned(), ..Facts::new(work.params.clone()) };
    let _lease = match work.lease(&facts.run).await? {
        Ok(lease) => lease,
        Err(holder) => return Ok(Came::Held(holder)),
    };
    if let Some(cut) = work.journal.unfinished(&work.found.name, None).await? {
        let facts = Facts::of(&cut);
        match work.found.plan(&facts).await {
            Ok(plan) if plan.hash == cut.plan_hash => return work.run(plan, &facts, true).await,
            // It is too early to give the run up.
            Err(refused) if refused.environment && !cut.plan_hash.is_empty() => return Err(Failure::transient(said(&refused))),
            _ => {}
        }
    }
    work.begin(&facts).await
}

impl Work {
    async fn lease(&self, run: &str) -> Result<Result<Lease, String>, Failure> {
        self.journal.try_lease(&launch::alone(&self.found.name, self.overlap, run)).await
    }

    fn facts(&self, tick: &Tick) -> Facts {
        Facts {
            run: tick.run.clone(),
            trigger: if tick.entry.starts_with("after ") { "after" } else { "schedule" }.to_owned(),
            scheduled_ms: Some(tick.at_ms),
            interval_start_ms: Some(tick.interval_start_ms),
            ..Facts::new(self.params.clone())
        }
    }

    /// A run from its beginning.
    async fn begin(&self, facts: &Facts) -> Result<Came, Failure> {
        match self.plan(facts).await {
            Some(Ok(plan)) => self.run(plan, facts, false).await,
            Some(Err(refused)) => self.refused(facts, refused).await,
            None => Ok(Came::Over(Outcome::Interrupted)),
        }
    }

    /// The plan. What the environment keeps from being planned is tried again for a minute: nobody is there to do it. `None` when asked to stop.
    async fn plan(&self, facts: &Facts) -> Option<Result<Plan<Sealed>, Refused>> {
        let mut waits = PLAN_WAITS.into_iter();
        loop {
            let refused = tokio::select! {
                plan = self.found.plan(facts) => match plan {
                    Ok(plan) => return Some(Ok(plan)),
                    Err(refused) => refused,
                },
                () = self.control.drain.cancelled() => return None,
            };
            let Some(wait) = waits.next().filter(|_| refused.environment) else { return Some(Err(refused)) };
            let message = format!("its plan cannot be made yet, next try after {wait} s: {}", said(&refused));
            self.voice.of(Level::Warn, &self.found.name, Some(&facts.run), message);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(wait)) => {}
                () = self.control.drain.cancelled() => return None,
            }
        }
    }

    async fn run(&self, plan: Plan<Sealed>, facts: &Facts, resumed: bool) -> Result<Came, Failure> {
        let verb = if resumed { "goes on with" } else { "starts" };
        self.voice.of(Level::Info, &self.found.name, Some(&facts.run), format!("{verb} run {}", facts.run));
        let mut log = RunLog::open(&self.logs, &self.found.name, &facts.run);
        let heed = (self.overlap == Overlap::CancelRunning).then(|| launch::heed(&self.journal, &facts.run, &self.control.drain));
        let streams: Vec<bool> = plan.stages.iter().map(StagePlan::streams).collect();
        let (mut progress, handle) = run::start(plan, Arc::new(self.journal.clone()), facts.options(resumed), self.control.clone());
        let streams = progress.stages.iter().zip(streams).filter(|(_, streams)| *streams).map(|(stage, _)| stage.clone());
        let _seen = self.status.follow(&self.found.name, streams.collect());
        while let Some(event) = progress.events.recv().await {
            log.write(&event);
            self.status.note(&self.found.name, &event);
            self.tell(&event);
        }
        drop(heed);
        let report = handle.await.map_err(|error| Failure::permanent(format!("the run broke down: {error}")))??;
        Ok(Came::Over(report.outcome))
    }

    /// A run whose plan cannot be made fails like any other, so that it is seen.
    async fn refused(&self, facts: &Facts, refused: Refused) -> Result<Came, Failure> {
        let message = format!("its plan cannot be made: {}", said(&refused));
        self.voice.line(Level::Error, &message, Some(&self.found.name), Some(&facts.run), refused.diagnostics.clone());
        let started = What::RunStarted {
            pipeline: self.found.name.clone(),
            plan_hash: String::new(),
            params: facts.params.clone(),
            trigger: facts.trigger.clone(),
            scheduled_ms: facts.scheduled_ms,
            interval_start_ms: facts.interval_start_ms,
            resumed: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stages: Vec::new(),
        };
        let kind = if refused.environment { "transient" } else { "permanent" }.to_owned();
        let help = refused.diagnostics.first().and_then(|first| first.help.first().cloned());
        let cause = Cause { kind, message: said(&refused), help };
        let ended = What::RunFinished { outcome: Outcome::Failed, elapsed_ms: 0, refused: Some(cause) };
        let mut log = RunLog::open(&self.logs, &self.found.name, &facts.run);
        for (at_ms, what) in [(facts.started_at_ms, started), (clock::now_ms(), ended)] {
            let event = Event { at_ms, run: facts.run.clone(), what };
            self.journal.record(&event).await?;
            log.write(&event);
            self.status.note(&self.found.name, &event);
        }
        Ok(Came::Over(Outcome::Failed))
    }

    /// Says what is worth a line while a run goes.
    fn tell(&self, event: &Event) {
        let (level, message) = match &event.what {
            What::AttemptFailed { stage, attempt, failure, .. } => {
                (Level::Warn, format!("{stage}: attempt {attempt} failed: {}", failure.message))
            }
            What::StageFinished { stage, outcome: Outcome::Failed, failure: Some(cause), .. } => {
                (Level::Error, format!("{stage} failed: {}", cause.message))
            }
            _ => return,
        };
        self.voice.of(level, &self.found.name, Some(&event.run), message);
    }
}

/// What is in the way of a plan, on one line.
fn said(refused: &Refused) -> String {
    let errors = refused.diagnostics.iter().filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
}
