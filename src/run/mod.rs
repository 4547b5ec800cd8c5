//! Runs a sealed plan.
//!
//! One dispatcher owns the state of the run; everything else is a task that answers with one message. A segment of the DAG goes through
//! `begin` (claim its outputs, open its sources), `work` (its splits, or the whole of it), and `finish` (prove and publish); each of these
//! steps is retried by itself. Nothing here knows an engine.

mod dispatcher;
mod edge;
mod finish;
mod follow;
pub mod launch;
mod output;
pub mod progress;
mod recorder;
mod refresh;
mod rejects;
mod replay;
mod retry;
mod stage;
mod unit;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::progress::{Progress, StageCounters};
use self::recorder::Recorder;
use self::stage::RunContext;
use crate::connectors::LoadKey;
use crate::failure::Failure;
use crate::journal::{Journal, Outcome, OutputReport};
use crate::plan::{Origin, Plan, Sealed};

/// Events that may wait for a slow reader.
const EVENT_QUEUE: usize = 1024;

/// What a run is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The run's id.
    pub run: String,
    /// When it began, in milliseconds since 1970: what `run.started_at` is rendered from, in every process that works on it.
    pub started_at_ms: i64,
    /// Whether an earlier process began it.
    pub resumed: bool,
    /// Stages that an earlier process brought to their end.
    pub done: BTreeSet<String>,
    /// Abandon unfinished loads and start over.
    pub fresh: bool,
    /// Only these stages, and those that stream with them; `None` runs all.
    pub only: Option<BTreeSet<String>>,
    /// End streams as soon as they have handed on everything that their sources held.
    pub until_caught_up: bool,
    /// For the journal, in their text form.
    pub params: BTreeMap<String, String>,
    /// What started it.
    pub trigger: String,
    /// The moment it was to run at, in milliseconds since 1970.
    pub scheduled_ms: Option<i64>,
    /// Where the data interval begins that ends with it.
    pub interval_start_ms: Option<i64>,
}

/// How a run is stopped.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Start nothing new; commit what has begun, within the pipeline's drain limit.
    pub drain: CancellationToken,
    /// Stop at once.
    pub abort: CancellationToken,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// All stages done, one failed, or interrupted.
    pub outcome: Outcome,
}

/// Starts a run. The events of `Progress` must be read to their end; the handle gives the report.
pub fn start(
    plan: Plan<Sealed>,
    journal: Arc<Journal>,
    options: Options,
    control: Control,
) -> (Progress, JoinHandle<Result<Report, Failure>>) {
    let counters: Vec<(String, Arc<StageCounters>)> =
        plan.stages.iter().map(|stage| (stage.stage.name.clone(), Arc::new(StageCounters::default()))).collect();
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let recorder = Recorder::start(journal, options.run.clone(), sender);
    let context = Arc::new(RunContext {
        spill: plan.pipeline.base.join(".haul").join("tmp").join(&options.run),
        run: options.run.clone(),
        fresh: options.fresh,
        done: options.done.clone(),
        abandoned: Mutex::default(),
        until_caught_up: options.until_caught_up,
        drain: CancellationToken::new(),
        plan,
    });
    let stages = counters.iter().map(|(_, counters)| Arc::clone(counters)).collect();
    let handle = tokio::spawn(dispatcher::run(context, stages, recorder, options, control));
    (Progress { stages: counters, events }, handle)
}

/// Removes what the streams of a pipeline keep in the systems they follow, and their positions. Gives each stage and what was removed.
pub async fn forget(plan: Plan<Sealed>) -> Result<Vec<(String, String)>, Failure> {
    let mut removed = Vec::new();
    for stage in plan.stages.iter().filter(|stage| stage.streams()) {
        let name = &stage.stage.name;
        for input in &stage.inputs {
            if let Origin::Source(from) = &input.origin {
                let gone = from.source.forget().await.map_err(|failure| failure.during(format!("removing what {name} keeps")))?;
                removed.extend(gone.into_iter().map(|what| (name.clone(), what)));
            }
        }
        for (place, output) in stage.outputs.iter().enumerate() {
            let pipeline = plan.pipeline.name.clone();
            let key = LoadKey { pipeline, stage: name.clone(), output: place, run: String::new(), plan_hash: stage.hash.clone() };
            output.sink.abandon(&key).await.map_err(|failure| failure.during(format!("removing the position of {name}")))?;
            removed.push((name.clone(), format!("the position in {}", output.label)));
        }
    }
    Ok(removed)
}

/// Compares every output of a pipeline with its sources as they are now. `run` names the run whose rows the targets hold.
pub async fn verify_again(plan: Plan<Sealed>, run: String) -> Result<Vec<(String, OutputReport)>, Failure> {
    let spill = plan.pipeline.base.join(".haul").join("tmp").join("verify");
    let context = RunContext {
        plan,
        run,
        fresh: false,
        done: BTreeSet::new(),
        abandoned: Mutex::default(),
        spill,
        until_caught_up: false,
        drain: CancellationToken::new(),
    };
    let mut reports = Vec::new();
    for number in context.plan.segments.iter().flat_map(|segment| &segment.stages).copied() {
        replay::warm(&context, number).await?;
    }
    for (number, stage) in context.plan.stages.iter().enumerate() {
        for (place, output) in stage.outputs.iter().enumerate() {
            let report = replay::compare(&context, number, place).await;
            let report = report.map_err(|failure| failure.during(format!("comparing {}", output.label)))?;
            reports.push((stage.stage.name.clone(), report));
        }
    }
    Ok(reports)
}
