//! Reads a stage's rows again, without writing any: what `haul verify` compares a target with.

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;

use super::stage::{RunContext, WHOLE};
use super::unit;
use super::verify::{self, Sides};
use crate::connectors::{Load, LoadKey, Mark, Views};
use crate::data::{BatchStream, Digest};
use crate::define::pipeline::{SinkSpec, SqlSink, Verify, WriteMode};
use crate::failure::Failure;
use crate::journal::{OutputReport, Verdict};
use crate::plan::{Origin, OutputPlan, Plan, Sealed};

/// The rows of a stage as its sources have them now, through every transform on the way.
pub async fn rows(plan: &Plan<Sealed>, number: usize, spill: &PathBuf) -> Result<BatchStream, Failure> {
    within(plan, number, spill, &Views::shared()).await
}

fn within<'a>(plan: &'a Plan<Sealed>, number: usize, spill: &'a PathBuf, views: &'a Views) -> BoxFuture<'a, Result<BatchStream, Failure>> {
    Box::pin(async move {
        let stage = &plan.stages[number];
        let mut streams = Vec::with_capacity(stage.inputs.len());
        for input in &stage.inputs {
            streams.push(match &input.origin {
                Origin::Source(from) => verify::all_rows(from.source.open(from.request.within(views)).await?),
                Origin::Stage(producer) => within(plan, *producer, spill, views).await?,
            });
        }
        if stage.transform.rowwise() && streams.len() == 1 {
            return Ok(unit::applied(Arc::clone(&stage.transform), streams.remove(0)));
        }
        stage.transform.run(streams, plan.pipeline.limits.memory, stage.flow().batch, spill)
    })
}

/// Fills the cache of a stage, when it is one that this process has to fill before anything can be looked up in it.
pub async fn warm(context: &RunContext, number: usize) -> Result<(), Failure> {
    let stage = &context.plan.stages[number];
    let (Some(cache), [output]) = (&stage.cache, &stage.outputs[..]) else { return Ok(()) };
    if cache.is_warm() {
        return Ok(());
    }
    let key = load_key(context, number, 0);
    let claim = output.sink.claim(&key).await?;
    let load = Load { key, epoch: claim.epoch, schema: stage.schema.clone(), verify: Verify::None };
    output.sink.prepare(&load, "").await?;
    let mut writer = output.sink.writer(&load, WHOLE, None).await?;
    let mut found = rows(&context.plan, number, &context.spill).await?;
    let mut written = Digest::default();
    while let Some(chunk) = found.next().await {
        let batch = chunk?.batch;
        written.rows += batch.num_rows() as u64;
        writer.write(batch).await?;
    }
    writer.commit(Mark { split: WHOLE.to_owned(), rows: written.rows, digest: written, rejects: 0, position: None }).await?;
    output.sink.publish(&load).await
}

fn load_key(context: &RunContext, number: usize, place: usize) -> LoadKey {
    let stage = &context.plan.stages[number];
    LoadKey {
        pipeline: context.plan.pipeline.name.clone(),
        stage: stage.stage.name.clone(),
        output: place,
        run: context.run.clone(),
        plan_hash: stage.hash.clone(),
    }
}

/// Compares one output with the stage's rows as its sources have them now, down to the keys that differ.
pub async fn compare(context: &RunContext, number: usize, place: usize) -> Result<OutputReport, Failure> {
    let stage = &context.plan.stages[number];
    let output = &stage.outputs[place];
    // What a stream reads has no end that could be compared.
    if stage.streams() || matches!(output.output.sink, SinkSpec::Discard | SinkSpec::Cache(_) | SinkSpec::Http(_) | SinkSpec::Feed(_)) {
        return Ok(OutputReport { target: output.label.clone(), rows: 0, verdict: Verdict::NotChecked });
    }
    let load = Load { key: load_key(context, number, place), epoch: 0, schema: stage.schema.clone(), verify: Verify::Digest };
    let held = verify::held(output, &load);
    let limit = stage.flow().batch;
    if let Some(compared) = output.sink.compare(&load, &verify::SourceRows(stage)).await? {
        return Ok(report(output, verify::verdict(compared, Verify::Digest)));
    }
    let found = verify::digest(output.sink.read_back(&held, limit).await?).await?;
    let extra_allowed = holds_other_rows(output);
    if !extra_allowed && verify::digest(rows(&context.plan, number, &context.spill).await?).await? == found {
        return Ok(report(output, Verdict::Identical { rows: found.rows, digest: found.to_string() }));
    }
    let sides = Sides { schema: &stage.schema, key: row_key(output, &stage.key), extra_allowed };
    let left = async || rows(&context.plan, number, &context.spill).await;
    let right = async || output.sink.read_back(&held, limit).await;
    Ok(report(output, sides.compare(found.rows, left, right).await?))
}

fn report(output: &OutputPlan, verdict: Verdict) -> OutputReport {
    let rows = match &verdict {
        Verdict::Identical { rows, .. } | Verdict::Counted { rows } => *rows,
        Verdict::Different { found_rows, .. } => *found_rows,
        Verdict::NotChecked => 0,
    };
    OutputReport { target: output.label.clone(), rows, verdict }
}

/// A table that is appended to or upserted into, and a keyspace, may hold rows that the pipeline knows nothing of.
fn holds_other_rows(output: &OutputPlan) -> bool {
    match &output.output.sink {
        SinkSpec::Sql(sink) => sink.mode != WriteMode::Replace,
        SinkSpec::Tables(_) | SinkSpec::Redis(_) => true,
        SinkSpec::Files(_) | SinkSpec::Cache(_) | SinkSpec::RedisKeys(_) | SinkSpec::Http(_) | SinkSpec::Feed(_) | SinkSpec::Discard => {
            false
        }
    }
}

/// The columns that name a row of a target. Where rows are only added, others may have the same key, so that no column does.
fn row_key<'a>(output: &'a OutputPlan, key: &'a [String]) -> &'a [String] {
    match &output.output.sink {
        SinkSpec::Sql(SqlSink { mode: WriteMode::Append, .. }) => &[],
        SinkSpec::Sql(SqlSink { mode: WriteMode::Upsert { key }, .. }) => key,
        _ => key,
    }
}
