//! Fills a cache again while the other stages of its run are at work, every so often after the last filling.
//!
//! A filling goes through the same steps as the first one: claimed, read through one view, seen as a whole. One that fails leaves the rows before
//! in place; it is tried again as the stage's `retry` says, then at the next time. The run does not wait for fillings: it ends, and they
//! with it, when its other stages do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::recorder::Notes;
use super::stage::{RunContext, StageRun};
use super::{retry, unit};
use crate::clock::Stopwatch;
use crate::connectors::Views;
use crate::define::pipeline::Kind;
use crate::failure::Failure;
use crate::tasks;

/// The fillings of one cache after its first. They end when it is dropped.
pub struct Refresh {
    stage: String,
    fillings: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Refresh {
    /// Starts it for a stage that has been filled, when it asks for it.
    pub fn start(context: &Arc<RunContext>, number: usize, notes: Notes) -> Option<Self> {
        let stage = &context.plan.stages[number].stage;
        let Kind::Cache(cache) = &stage.kind else { return None };
        let every = cache.refresh?;
        let fillings = Arc::<AtomicU64>::default();
        let task = follow(Arc::clone(context), number, every, Arc::clone(&fillings), notes);
        Some(Self { stage: stage.name.clone(), fillings, _task: tasks::start(task) })
    }

    /// Ends it, and says whose it was and what came of it, when anything did.
    pub fn end(self) -> Option<(String, String)> {
        let times = match self.fillings.load(Ordering::Relaxed) {
            0 => return None,
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        Some((self.stage, format!("filled again {times} while the run lasted")))
    }
}

async fn follow(context: Arc<RunContext>, number: usize, every: Duration, fillings: Arc<AtomicU64>, notes: Notes) {
    let stage = Arc::clone(&context.plan.stages[number].stage);
    let mut failing = false;
    loop {
        sleep(every).await;
        // Of a series of failures, the first one and its end are worth knowing.
        match patiently(&context, number).await {
            Ok(()) => {
                fillings.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut failing) {
                    notes.say(&stage.name, "filled again after all".to_owned()).await;
                }
            }
            Err(failure) if !failing => {
                failing = true;
                notes.say(&stage.name, format!("could not be filled again, and keeps the rows before: {failure}")).await;
            }
            Err(_) => {}
        }
    }
}

/// Tries as often as the stage's policy says.
async fn patiently(context: &RunContext, number: usize) -> Result<(), Failure> {
    let stage = &context.plan.stages[number].stage;
    let watch = Stopwatch::start();
    for attempt in 1.. {
        let failure = match timeout(stage.timeout.unwrap_or(Duration::MAX), fill(context, number)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::transient("the attempt took longer than its timeout"),
        };
        match retry::next_wait(&stage.retry, &failure, attempt, watch.elapsed(), fastrand::f64()) {
            Some(wait) => sleep(wait).await,
            None => return Err(failure),
        }
    }
    Ok(())
}

/// One filling, with counters of its own: the stage's are those of the first.
async fn fill(context: &RunContext, number: usize) -> Result<(), Failure> {
    let stage = Arc::new(StageRun::begin(context, number, Arc::default(), &Views::shared()).await?);
    if stage.plan.by_split() {
        // A list of futures, because a closure over borrowed splits would not do in a task.
        let mut work = Vec::new();
        for split in stage.pending() {
            work.push(unit::split(&stage, &stage.splits[split]));
        }
        let mut work = stream::iter(work).buffer_unordered(stage.plan.flow().splits.concurrency.max(1));
        while let Some(done) = work.next().await {
            done?;
        }
    } else {
        unit::segment(&[(number, Arc::clone(&stage))], context.plan.pipeline.limits.memory, &context.spill).await?;
    }
    stage.finish().await.map(drop)
}
