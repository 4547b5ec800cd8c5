//! Checked definition → sealed plan.
//!
//! [`Plan::open`] draws the graph and touches nothing; [`Plan::seal`] asks the real systems and gives a plan that can run, or every problem
//! at once. The executor takes only a sealed plan.

mod appends;
mod build;
mod caches;
mod explain;
mod fit;
pub mod graph;
mod hash;
mod offline;
mod problems;
mod routes;
mod streams;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::cache::Cache;
use crate::connectors::{Connections, Description, Load, ReadRequest, Sink, Source, SourceTable, Target};
use crate::data::Schema;
use crate::define::pipeline::{Flow, Kind, Output, Pipeline, SinkSpec, SourceSpec, Stage, Step, WriteMode};
use crate::diagnostic::Diagnostic;
use crate::failure::Failure;
use crate::load::Document;
use crate::transform::Compiled;

pub use explain::{explain, explain_json};
pub use offline::check;

/// Marks a plan that has not been checked against the real systems.
#[derive(Clone, Copy, Debug)]
pub struct Open;

/// Marks a plan that has.
#[derive(Clone, Copy, Debug)]
pub struct Sealed;

/// A pipeline laid out as a DAG. `S` is [`Open`] or [`Sealed`].
pub struct Plan<S> {
    /// What was asked for.
    pub pipeline: Arc<Pipeline>,
    /// The text it was asked in, for diagnostics.
    pub document: Arc<Document>,
    /// The systems it uses.
    pub connections: Arc<Connections>,
    /// In the pipeline's order of stages; empty until sealed.
    pub stages: Vec<StagePlan>,
    /// Groups of stages that stream to each other and so run as one, in an order in which they may run.
    pub segments: Vec<Segment>,
    /// Changes when any stage would read or write other rows. 16 hexadecimal digits.
    pub hash: String,
    /// Worth knowing, but no reason not to run.
    pub warnings: Vec<Diagnostic>,
    state: PhantomData<S>,
}

/// Stages that are joined by data edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Numbers of stages, producers first.
    pub stages: Vec<usize>,
    /// Numbers of segments that must be done before.
    pub after: Vec<usize>,
}

/// One stage, with everything decided.
#[derive(Clone)]
pub struct StagePlan {
    /// What was asked for.
    pub stage: Arc<Stage>,
    /// Where rows come from.
    pub inputs: Vec<InputPlan>,
    /// What is done to them.
    pub transform: Arc<Compiled>,
    /// What comes out.
    pub schema: Schema,
    /// The columns that name a row of what comes out; empty when none do.
    pub key: Vec<String>,
    /// Of a stream of several tables: each of them. `schema` and `key` are then empty.
    pub tables: Vec<SourceTable>,
    /// Where rows go.
    pub outputs: Vec<OutputPlan>,
    /// Numbers of stages that read this one.
    pub consumers: Vec<usize>,
    /// Rows pass through undecoded.
    pub raw: bool,
    /// A hash over everything that decides which rows are written where.
    pub hash: String,
    /// The cache that it fills, when it is one.
    pub cache: Option<Arc<Cache>>,
    /// An earlier stage makes what this one reads: its columns are predicted, and asked for again when it starts.
    pub late: bool,
}

/// One input of a stage.
#[derive(Clone)]
pub struct InputPlan {
    /// The name that SQL uses.
    pub name: String,
    /// What is read, for people.
    pub label: String,
    /// The columns that the transform sees.
    pub schema: Schema,
    /// Where they come from.
    pub origin: Origin,
}

/// Where an input's rows come from.
#[derive(Clone)]
pub enum Origin {
    /// A system.
    Source(Box<SourcePlan>),
    /// Another stage, by its number.
    Stage(usize),
}

/// A system that is read.
#[derive(Clone)]
pub struct SourcePlan {
    /// The reader.
    pub source: Arc<dyn Source>,
    /// What it says of itself.
    pub description: Description,
    /// What is asked of it.
    pub request: ReadRequest,
}

/// One output of a stage.
#[derive(Clone)]
pub struct OutputPlan {
    /// What was asked for.
    pub output: Output,
    /// The writer.
    pub sink: Arc<dyn Sink>,
    /// What it says of the target.
    pub target: Target,
    /// Where rows go, for people: `warehouse.orders`.
    pub label: String,
}

/// Why a plan could not be sealed.
#[derive(Debug)]
pub struct Refused {
    /// Every problem, in file order.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether all of them are of the environment (unreachable, refused), none of the definition.
    pub environment: bool,
}

impl OutputPlan {
    /// A load goes on: a target that lacks what the incoming columns need gets it.
    pub async fn evolve(&self, load: &Load) -> Result<(), Failure> {
        if !self.target.is_altered() {
            return Ok(());
        }
        self.sink.evolve(load).await.map_err(|failure| failure.during(format!("altering {}", self.label)))
    }

    /// Whether it adds rows to a table that may hold others.
    pub fn appends(&self) -> bool {
        matches!(&self.output.sink, SinkSpec::Sql(sink) if sink.mode == WriteMode::Append)
    }

    /// Whether it writes to a cache.
    pub fn changes_cache(&self) -> bool {
        matches!(self.output.sink, SinkSpec::Cache(_))
    }

    /// Whether nothing that it writes can be read back, and so nothing be verified.
    pub fn keeps_nothing(&self) -> bool {
        matches!(self.output.sink, SinkSpec::Discard | SinkSpec::Cache(_) | SinkSpec::Http(_) | SinkSpec::Feed(_))
    }
}

impl StagePlan {
    /// Whether it never ends by itself.
    pub fn streams(&self) -> bool {
        matches!(self.stage.kind, Kind::Stream { .. })
    }

    /// The rows that go through it, as asked for.
    pub fn flow(&self) -> &Flow {
        &self.stage.flow
    }

    /// Whether its splits can be worked on one by one: one source, a transform that looks at a row at a time, outputs that commit by split,
    /// and no stage that listens.
    pub fn by_split(&self) -> bool {
        self.consumers.is_empty()
            && self.inputs.len() == 1
            && matches!(self.inputs[0].origin, Origin::Source(_))
            && self.transform.rowwise()
            && self.outputs.iter().all(|output| !output.target.whole)
    }
}

impl Plan<Open> {
    /// Draws the graph of a resolved pipeline. Fails on orders that no run can keep.
    pub fn open(pipeline: Pipeline, document: Arc<Document>, warnings: Vec<Diagnostic>) -> Result<Self, Vec<Diagnostic>> {
        let segments = segments(&pipeline, &document)?;
        Ok(Self {
            connections: Arc::new(Connections::new(&pipeline)),
            pipeline: Arc::new(pipeline),
            document,
            stages: Vec::new(),
            segments,
            hash: String::new(),
            warnings,
            state: PhantomData,
        })
    }

    /// Asks the real systems about tables, columns, types, keys and privileges, compiles every transform against real columns, and decides
    /// routes. Reads and writes no rows.
    pub async fn seal(self) -> Result<Plan<Sealed>, Refused> {
        let (stages, found) = build::stages(&self).await?;
        let hash = hash::hash(stages.iter().map(|stage| stage.hash.as_str()));
        Ok(Plan {
            pipeline: self.pipeline,
            document: self.document,
            connections: self.connections,
            stages,
            segments: self.segments,
            hash,
            warnings: self.warnings.into_iter().chain(found).collect(),
            state: PhantomData,
        })
    }
}

impl Plan<Sealed> {
    /// Whether any stage writes a feed.
    pub fn has_feeds(&self) -> bool {
        self.stages.iter().flat_map(|stage| &stage.outputs).any(|output| matches!(output.output.sink, SinkSpec::Feed(_)))
    }

    /// Plans a stage again that reads what an earlier stage of this run has made by now.
    pub async fn refresh(&self, number: usize) -> Result<StagePlan, Refused> {
        build::refresh(self, number).await
    }
}

/// The edges between a pipeline's stages, as pairs of numbers.
pub struct Edges {
    /// A producer and a stage that reads it.
    pub data: Vec<(usize, usize)>,
    /// A stage and one that waits for it, with the place of the word.
    pub order: Vec<(usize, usize, String)>,
}

impl Edges {
    /// Reads the edges off a checked pipeline; names that do not exist were reported by the check and are passed over.
    pub fn of(pipeline: &Pipeline) -> Self {
        let numbers: BTreeMap<&str, usize> =
            pipeline.stages.iter().enumerate().map(|(number, stage)| (stage.name.as_str(), number)).collect();
        let mut edges = Self { data: Vec::new(), order: Vec::new() };
        for (number, stage) in pipeline.stages.iter().enumerate() {
            for input in &stage.flow.from {
                if let SourceSpec::Stage(name) = &input.source
                    && let Some(&from) = numbers.get(name.as_str())
                {
                    edges.data.push((from, number));
                }
            }
            for step in &stage.flow.transform {
                if let Step::Lookup(lookup) = step
                    && let Some(&from) = numbers.get(lookup.cache.as_str())
                {
                    edges.order.push((from, number, format!("{}/cache", lookup.at)));
                }
            }
            for output in &stage.flow.to {
                if let SinkSpec::Cache(sink) = &output.sink
                    && let Some(&from) = numbers.get(sink.cache.as_str())
                    && from != number
                {
                    edges.order.push((from, number, format!("{}/cache", output.at)));
                }
            }
            for (name, at) in &stage.after {
                if let Some(&from) = numbers.get(name.as_str()) {
                    edges.order.push((from, number, at.clone()));
                }
            }
        }
        edges
    }

    /// Both kinds together.
    pub fn all(&self) -> Vec<(usize, usize)> {
        self.data.iter().copied().chain(self.order.iter().map(|(from, to, _)| (*from, *to))).collect()
    }
}

/// Groups stages into segments. A stage cannot wait for one that it streams with, directly or around a corner.
fn segments(pipeline: &Pipeline, document: &Document) -> Result<Vec<Segment>, Vec<Diagnostic>> {
    let edges = Edges::of(pipeline);
    let count = pipeline.stages.len();
    let name = |number: usize| &pipeline.stages[number].name;
    let order = graph::order(count, &edges.all()).map_err(|cycle| {
        let names: Vec<String> = cycle.iter().map(|&number| format!("`{}`", name(number))).collect();
        vec![Diagnostic::error("stage-cycle", format!("these stages wait for each other: {}", names.join(" → ")))]
    })?;
    let groups = graph::groups(count, &edges.data);
    let mut group_of = vec![0; count];
    for (group, stages) in groups.iter().enumerate() {
        for &stage in stages {
            group_of[stage] = group;
        }
    }
    let mut problems = Vec::new();
    let mut between = Vec::new();
    for (from, to, at) in &edges.order {
        if edges.data.contains(&(*from, *to)) {
            continue; // Reading a stage already waits for it.
        }
        if group_of[*from] == group_of[*to] {
            let message =
                format!("`{}` cannot wait for `{}`: both are part of one stream of rows, and run at the same time", name(*to), name(*from));
            problems.push(
                Diagnostic::error("order-inside-stream", message)
                    .label(&document.source, document.value_span(at), "waits here")
                    .help(format!("let `{}` read a table or file that the other stage wrote, instead of the stage itself", name(*to))),
            );
        } else {
            between.push((group_of[*from], group_of[*to]));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let sequence = graph::order(groups.len(), &between).map_err(|cycle| {
        let names: Vec<String> = cycle.iter().map(|&group| format!("`{}`", name(groups[group][0]))).collect();
        vec![
            Diagnostic::error("order-inside-stream", format!("the streams around these stages wait for each other: {}", names.join(" → ")))
                .help("stages joined by `from: { stage: … }` run at the same time; break the circle by reading a table or file instead"),
        ]
    })?;
    let mut place = vec![0; groups.len()];
    for (at, &group) in sequence.iter().enumerate() {
        place[group] = at;
    }
    Ok(sequence
        .iter()
        .map(|&group| {
            let mut stages = groups[group].clone();
            stages.sort_by_key(|stage| order.iter().position(|other| other == stage));
            let mut after: Vec<usize> = between.iter().filter(|(_, to)| *to == group).map(|(from, _)| place[*from]).collect();
            after.sort_unstable();
            after.dedup();
            Segment { stages, after }
        })
        .collect())
}
