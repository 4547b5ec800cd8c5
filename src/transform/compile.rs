//! What becomes of a transform's steps: segments that run on batches where they stand, and segments that are queries over streams.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;

use super::builder::{Builder, problem};
use super::changes::Changes;
use super::dedupe::Dedupe;
use super::lookup::{LookupStep, Tables};
use super::query::{self, Query};
use super::rows::Rows;
use super::sql::{self, Aliases, Names};
use super::{InputColumns, Problem, Pushed, expression};
use crate::data::{BatchLimit, BatchStream, Chunk, Schema};
use crate::define::pipeline::{Expr, Step};
use crate::dialect::Dialect;
use crate::failure::Failure;
use crate::journal::LookupReport;

/// Steps that were typed against real columns.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub(super) segments: Vec<Segment>,
    pub(super) schema: Schema,
    pub(super) pushed: Pushed,
    pub(super) lines: Vec<String>,
    /// The rows are changes of a table.
    pub(super) changes: Option<Changes>,
    /// What the key of that table is called behind the steps.
    pub(super) key: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Segment {
    /// Steps that look at one row at a time.
    Rows(Rows),
    /// A step that looks at one row at a time, and waits for rows of a cache.
    Lookup(Arc<LookupStep>),
    /// Leaves out rows whose key has come before.
    Dedupe(Box<Dedupe>),
    /// A step that looks at many rows.
    Query(Box<Query>),
}

/// Parses an expression of a `filter`, `set` or generated column, without knowing any column.
pub fn check_expression(expr: &Expr) -> Result<(), Box<Problem>> {
    expression::check_syntax(&expr.sql).map_err(|fault| problem(fault, &expr.at).into())
}

/// Parses the query of a `sql` step, without knowing any table.
pub fn check_query(expr: &Expr) -> Result<(), Box<Problem>> {
    sql::query(&expr.sql, &Names::default(), Aliases::Win).map(drop).map_err(|fault| problem(fault, &expr.at).into())
}

/// Types steps against the columns of their inputs. `push` is the dialect of the only input when that can filter and project by itself; what
/// it is given is not done again; `tables` are what `lookup` steps may look into. Reports every problem of every step.
pub async fn compile(inputs: &[InputColumns], steps: &[Step], push: Option<Dialect>, tables: &Tables) -> Result<Compiled, Vec<Problem>> {
    let mut builder = Builder::new(inputs, push.filter(|_| inputs.len() == 1));
    builder.tables = tables.clone();
    for step in steps {
        builder.step(step).await;
    }
    builder.finish()
}

/// Types steps that look at one row at a time; for sources that compute their columns.
pub(crate) fn compile_rows(schema: &Schema, name: &str, steps: &[Step]) -> Result<Compiled, Vec<Problem>> {
    let mut builder = Builder::new(&[InputColumns { name: name.to_owned(), schema: schema.clone() }], None);
    steps.iter().for_each(|step| builder.row_step(step));
    builder.finish()
}

impl Compiled {
    /// The columns that come out.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Whether every step looks at one row at a time, so that splits can be transformed apart.
    pub fn rowwise(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Rows(_) | Segment::Lookup(_)))
    }

    /// Whether nothing is left to do after push-down: what comes in goes out as it is.
    pub fn is_identity(&self) -> bool {
        self.segments.is_empty()
    }

    /// What the source does instead.
    pub fn pushed(&self) -> &Pushed {
        &self.pushed
    }

    /// What the lookups came to so far, one report for each cache, in the order of the steps.
    pub fn lookups(&self) -> Vec<LookupReport> {
        let mut reports: Vec<LookupReport> = Vec::new();
        for segment in &self.segments {
            let Segment::Lookup(lookup) = segment else { continue };
            match reports.iter_mut().find(|report| report.cache == lookup.cache) {
                Some(report) => lookup.tally.add_to(report),
                None => {
                    let mut report = LookupReport { cache: lookup.cache.clone(), ..LookupReport::default() };
                    lookup.tally.add_to(&mut report);
                    reports.push(report);
                }
            }
        }
        reports
    }

    /// What the key of a table whose changes go through the steps is called behind them.
    pub fn key(&self) -> &[String] {
        &self.key
    }

    /// One line a step, for the plan.
    pub fn describe(&self) -> Vec<String> {
        self.lines.clone()
    }

    /// Transforms one batch. Only for a transform that is [`Compiled::rowwise`]; may be called from many splits at the same time.
    pub async fn apply(&self, chunk: Chunk) -> Result<Chunk, Failure> {
        match &self.changes {
            Some(changes) if chunk.batch.num_rows() > 0 => {
                let (rows, all) = changes.split(chunk)?;
                changes.join(self.steps(rows).await?, &all)
            }
            Some(_) => Ok(chunk),
            None => self.steps(chunk).await,
        }
    }

    async fn steps(&self, mut chunk: Chunk) -> Result<Chunk, Failure> {
        for segment in &self.segments {
            chunk = match segment {
                Segment::Rows(rows) => rows.apply(chunk)?,
                Segment::Lookup(lookup) => lookup.apply(chunk).await?,
                Segment::Dedupe(_) | Segment::Query(_) => {
                    return Err(Failure::permanent("a transform with a `sql` or `dedupe` step cannot run on one batch"));
                }
            };
        }
        Ok(chunk)
    }

    /// Streams every row of the inputs through the steps, within `memory_bytes`; what does not fit goes to files below `spill`, which are
    /// gone when the stream is. Rows that the inputs had rejected are handed on.
    pub fn run(&self, inputs: Vec<BatchStream>, memory_bytes: u64, limit: BatchLimit, spill: &Path) -> Result<BatchStream, Failure> {
        let mut streams = inputs;
        // Queries that follow one another hold their memory at the same time, and share it.
        let queries = self.segments.iter().any(|segment| matches!(segment, Segment::Dedupe(_) | Segment::Query(_)));
        let runtime = if queries { Some(query::runtime(memory_bytes, spill)?) } else { None };
        for segment in &self.segments {
            let stream = match (segment, &runtime) {
                (Segment::Query(query), Some(runtime)) => query.run(streams, memory_bytes, limit, Arc::clone(runtime)),
                (Segment::Dedupe(dedupe), Some(runtime)) => {
                    let stream = streams.pop().ok_or_else(|| Failure::permanent("a transform has no input"))?;
                    dedupe.run(stream, memory_bytes, limit, Arc::clone(runtime))
                }
                (Segment::Rows(rows), _) => {
                    let stream = streams.pop().ok_or_else(|| Failure::permanent("a transform has no input"))?;
                    let rows = rows.clone();
                    stream.map(move |chunk| chunk.and_then(|chunk| rows.apply(chunk))).boxed()
                }
                (Segment::Lookup(lookup), _) => {
                    let stream = streams.pop().ok_or_else(|| Failure::permanent("a transform has no input"))?;
                    let lookup = Arc::clone(lookup);
                    let looked = move |chunk: Result<Chunk, Failure>| {
                        let lookup = Arc::clone(&lookup);
                        async move { lookup.apply(chunk?).await }
                    };
                    stream.then(looked).boxed()
                }
                (Segment::Dedupe(_) | Segment::Query(_), None) => return Err(Failure::permanent("a query has no memory to run in")),
            };
            streams = vec![stream];
        }
        streams.pop().ok_or_else(|| Failure::permanent("a transform has no input"))
    }
}
