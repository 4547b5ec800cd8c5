//! Stages that write to one table: an append is proved by what came into the table since it began.

use std::collections::BTreeSet;

use super::build::Builder;
use super::routes::writes_table;
use super::{Open, Plan, graph};
use crate::define::pipeline::{Kind, Output, SinkSpec, SqlSink, Stage, Verify, WriteMode};
use crate::diagnostic::Diagnostic;

impl Builder<'_> {
    /// Rows that another stage writes into the same table meanwhile would be in its way.
    pub(super) fn appends_in_turn(&mut self, plan: &Plan<Open>) {
        let edges: Vec<(usize, usize)> = plan
            .segments
            .iter()
            .enumerate()
            .flat_map(|(number, segment)| segment.after.iter().map(move |&other| (other, number)))
            .collect();
        let segment_of = |stage: usize| plan.segments.iter().position(|segment| segment.stages.contains(&stage));
        let before = |stage: usize| segment_of(stage).map(|segment| graph::ancestors(segment, &edges)).unwrap_or_default();
        let in_turn = |one: usize, other: usize| {
            let follows = |one: BTreeSet<usize>, other: usize| segment_of(other).is_some_and(|segment| one.contains(&segment));
            follows(before(one), other) || follows(before(other), one)
        };
        // A stream ends without a proof.
        let proved = |stage: &Stage| matches!(stage.kind, Kind::Batch) && stage.flow.verify != Verify::None;
        let stages = &self.pipeline.stages;
        for (number, stage) in stages.iter().enumerate().filter(|(_, stage)| proved(stage)) {
            for output in &stage.flow.to {
                let SinkSpec::Sql(sink @ SqlSink { mode: WriteMode::Append, .. }) = &output.sink else { continue };
                let same = |other: &SqlSink| writes_table(self.pipeline, other, &sink.connection, &sink.table);
                let writes = |output: &Output| match &output.sink {
                    SinkSpec::Sql(other) => same(other),
                    SinkSpec::Tables(tables) => tables.iter().any(same),
                    _ => false,
                };
                let appends =
                    |output: &Output| matches!(&output.sink, SinkSpec::Sql(other) if other.mode == WriteMode::Append && same(other));
                let others = stages.iter().enumerate().filter(|(other, beside)| *other != number && beside.flow.to.iter().any(writes));
                for (other, beside) in others {
                    // Of two of a kind, the second one is told to wait.
                    let told = other > number && proved(beside) && beside.flow.to.iter().any(appends);
                    if told || in_turn(number, other) {
                        continue;
                    }
                    let message = format!(
                        "`{}` appends to `{}`, which `{}` writes to at the same time: neither waits for the other",
                        stage.name,
                        sink.table.join("."),
                        beside.name
                    );
                    let streams = matches!(beside.kind, Kind::Stream { .. });
                    let (first, second) = if streams { (&stage.name, &beside.name) } else { (&beside.name, &stage.name) };
                    let help = format!("add `after: [{first}]` to `{second}`, or `verify: none` to `{}`", stage.name);
                    self.problems.definition(&format!("{}/table", output.at), Diagnostic::error("unordered-append", message).help(help));
                }
            }
        }
    }
}
