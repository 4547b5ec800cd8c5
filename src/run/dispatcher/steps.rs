//! What the tasks of a segment do.

use std::sync::Arc;

use super::super::follow;
use super::super::progress::StageCounters;
use super::super::stage::{RunContext, StageRun};
use super::super::unit::{self, Done};
use crate::connectors::Views;
use crate::failure::Failure;
use crate::journal::OutputReport;

/// Claims, opens and cuts every stage of a segment.
pub(super) async fn begin(
    context: &RunContext,
    members: &[usize],
    counters: Vec<Arc<StageCounters>>,
) -> Result<Vec<(usize, Arc<StageRun>)>, Failure> {
    let mut stages = Vec::with_capacity(members.len());
    // They read at the same time.
    let views = Views::shared();
    for (&number, counters) in members.iter().zip(counters) {
        stages.push((number, Arc::new(StageRun::begin(context, number, counters, &views).await?)));
    }
    Ok(stages)
}

/// Works on one split of the only stage, or on the whole segment.
pub(super) async fn work(context: &RunContext, stages: &[(usize, Arc<StageRun>)], split: usize) -> Result<Vec<Done>, Failure> {
    match stages {
        [(_, stage)] if stage.plan.streams() => Ok(vec![follow::follow(context, stage).await?]),
        [(_, stage)] if stage.plan.by_split() => {
            let Some(split) = stage.splits.get(split) else { return Err(Failure::permanent("a split is missing from its list")) };
            Ok(vec![unit::split(stage, split).await?])
        }
        _ => unit::segment(stages, context.plan.pipeline.limits.memory, &context.spill).await,
    }
}

/// Proves and publishes.
pub(super) async fn finish(stages: &[(usize, Arc<StageRun>)]) -> Result<Vec<Vec<OutputReport>>, Failure> {
    let mut reports = Vec::with_capacity(stages.len());
    for (_, stage) in stages {
        reports.push(stage.finish().await?);
    }
    Ok(reports)
}
