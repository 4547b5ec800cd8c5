//! Seals a plan: asks the systems, compiles transforms, decides routes. All problems at once, each pointing into the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fit::fit;
use super::problems::Problems;
use super::routes::{describes_itself, native_engine, output_key, passes_raw, writes};
use super::{Edges, InputPlan, Open, Origin, OutputPlan, Plan, Refused, Sealed, SourcePlan, StagePlan, graph};
use crate::cache::Cache;
use crate::connectors::{Description, ReadRequest, SourceTable, Unusable};
use crate::data::{Grade, Schema};
use crate::define::pipeline::{Flow, Input, Kind, Output, Pipeline, SinkSpec, SourceSpec, SqlSink, Stage, WriteMode};
use crate::diagnostic::Diagnostic;
use crate::load::Document;
use crate::transform::{self, Compiled, InputColumns};

/// Everything planned so far, by stage number.
pub(super) struct Builder<'a> {
    pub pipeline: &'a Pipeline,
    pub connections: &'a Arc<crate::connectors::Connections>,
    pub numbers: BTreeMap<&'a str, usize>,
    edges: Vec<(usize, usize)>,
    consumers: Vec<Vec<usize>>,
    pub planned: Vec<Option<StagePlan>>,
    pub problems: Problems<'a>,
}

/// The stages, and what is worth knowing of them.
pub(super) async fn stages(plan: &Plan<Open>) -> Result<(Vec<StagePlan>, Vec<Diagnostic>), Refused> {
    let mut builder = Builder::new(&plan.pipeline, &plan.connections, &plan.document);
    for segment in order(plan) {
        let stage = builder.stage(segment, false).await;
        builder.planned[segment] = stage;
    }
    builder.appends_in_turn(plan);
    if builder.problems.diagnostics.is_empty() && builder.planned.iter().all(Option::is_some) {
        Ok((builder.planned.into_iter().flatten().collect(), builder.problems.warnings))
    } else {
        Err(builder.problems.refused())
    }
}

pub(super) async fn refresh(plan: &Plan<Sealed>, number: usize) -> Result<StagePlan, Refused> {
    let mut builder = Builder::new(&plan.pipeline, &plan.connections, &plan.document);
    builder.planned = plan.stages.iter().cloned().map(Some).collect();
    match builder.stage(number, true).await {
        Some(stage) if builder.problems.diagnostics.is_empty() => Ok(stage),
        _ => Err(builder.problems.refused()),
    }
}

/// Stage numbers, producers and awaited stages first.
fn order(plan: &Plan<Open>) -> Vec<usize> {
    let edges = Edges::of(&plan.pipeline).all();
    // `Plan::open` refused cycles.
    graph::order(plan.pipeline.stages.len(), &edges).unwrap_or_default()
}

/// What comes to the outputs of a stage.
#[derive(Clone, Copy)]
struct Comes<'a> {
    key: &'a [String],
    schema: &'a Schema,
    tables: &'a [SourceTable],
}

/// Gives a table the key of the rows that come for it, where it names none itself.
fn keyed(sink: &mut SqlSink, key: &[String]) {
    if sink.primary_key.is_none() && !key.is_empty() {
        sink.primary_key = Some(key.to_vec());
    }
    if let WriteMode::Upsert { key: own } = &mut sink.mode
        && own.is_empty()
    {
        *own = key.to_vec();
    }
}

async fn compiled(inputs: &[InputPlan], flow: &Flow, at: &str, tables: &transform::Tables) -> Result<Compiled, Vec<transform::Problem>> {
    let steps = &flow.transform;
    let columns: Vec<InputColumns> =
        inputs.iter().map(|input| InputColumns { name: input.name.clone(), schema: input.schema.clone() }).collect();
    match (inputs, columns.as_slice(), flow.from.as_slice()) {
        ([InputPlan { origin: Origin::Source(from), .. }], [rows], [Input { source: SourceSpec::Changes(_), .. }]) => {
            transform::compile_changes(rows, &from.description.key, steps, tables, &format!("{at}/transform")).await
        }
        ([InputPlan { origin: Origin::Source(from), .. }], ..) => transform::compile(&columns, steps, from.source.dialect(), tables).await,
        _ => transform::compile(&columns, steps, None, tables).await,
    }
}

/// Has every column that only its own engine understands read in its text form. False when there is none.
fn as_text(input: &mut InputPlan) -> bool {
    let Origin::Source(from) = &mut input.origin else { return false };
    let names = input.schema.take_as_text(|_, _| true);
    let any = !names.is_empty();
    from.request.as_text.extend(names);
    any
}

impl<'a> Builder<'a> {
    fn new(pipeline: &'a Pipeline, connections: &'a Arc<crate::connectors::Connections>, document: &'a Document) -> Self {
        let edges = Edges::of(pipeline);
        let mut consumers = vec![Vec::new(); pipeline.stages.len()];
        for &(from, to) in &edges.data {
            consumers[from].push(to);
        }
        Self {
            pipeline,
            connections,
            numbers: pipeline.stages.iter().enumerate().map(|(number, stage)| (stage.name.as_str(), number)).collect(),
            edges: edges.all(),
            consumers,
            planned: vec![None; pipeline.stages.len()],
            problems: Problems { document, diagnostics: Vec::new(), definition: false, warnings: Vec::new() },
        }
    }

    /// Plans one stage; `None` when something is in the way, which is then among the problems.
    async fn stage(&mut self, number: usize, fresh: bool) -> Option<StagePlan> {
        let stage: &Stage = &self.pipeline.stages[number];
        let flow = &stage.flow;
        let mut late = false;
        let mut inputs = Vec::with_capacity(flow.from.len());
        for input in &flow.from {
            let (input, predicted) = self.input(number, input, &flow.to, fresh).await?;
            late |= predicted;
            inputs.push(input);
        }
        let transform = self.compile(&mut inputs, flow, &stage.at).await?;
        let schema = transform.schema().clone();
        let key = output_key(&inputs, flow, &transform);
        let tables = self.tables_of(&inputs, flow).await?;
        let cache = match &stage.kind {
            Kind::Cache(spec) => Some(self.cache(number, spec, &schema).await?),
            Kind::Batch | Kind::Stream { .. } => None,
        };
        let mut outputs = Vec::with_capacity(flow.to.len());
        for output in &flow.to {
            outputs.push(self.output(number, output, Comes { key: &key, schema: &schema, tables: &tables }, cache.as_ref()).await);
        }
        let outputs: Vec<OutputPlan> = outputs.into_iter().collect::<Option<_>>()?;
        fit(&mut self.problems, &mut inputs, &outputs, &schema).await?;
        let consumers = self.consumers[number].clone();
        let streams = matches!(stage.kind, Kind::Stream { .. });
        if streams && !self.can_stream(stage, &transform, &outputs) {
            return None;
        }
        self.partial_rows(&inputs, stage).await?;
        let raw = !streams && consumers.is_empty() && passes_raw(&inputs, &transform, &outputs);
        let hash = self.hash(stage, &inputs, &schema);
        Some(StagePlan {
            stage: Arc::new(stage.clone()),
            inputs,
            transform: Arc::new(transform),
            schema,
            key,
            tables,
            outputs,
            consumers,
            raw,
            hash,
            cache,
            late,
        })
    }

    /// An input, and whether its columns are predicted from what an earlier stage will write.
    async fn input(&mut self, number: usize, input: &Input, outputs: &[Output], fresh: bool) -> Option<(InputPlan, bool)> {
        if let SourceSpec::Stage(name) = &input.source {
            let from = *self.numbers.get(name.as_str())?;
            let schema = self.planned[from].as_ref()?.schema.clone();
            return Some((
                InputPlan { name: input.name.clone(), label: format!("stage {name}"), schema, origin: Origin::Stage(from) },
                false,
            ));
        }
        let source = match self.connections.source(&input.source) {
            Ok(source) => source,
            Err(Unusable::Failure(failure)) => {
                self.problems.failure(&input.at, "source-unusable", &failure);
                return None;
            }
            Err(Unusable::Expressions(problems)) => {
                self.problems.transform(&input.at, problems);
                return None;
            }
        };
        let several = matches!(&input.source, SourceSpec::Changes(changes) if changes.tables.len() > 1);
        let predicted = if fresh { None } else { self.predicted(number, input)?.filter(|_| !several) };
        let late = predicted.is_some();
        let description = match predicted {
            Some(schema) => Ok(Description {
                schema,
                key: Vec::new(),
                rows: None,
                bytes: None,
                wire: None,
                consistency: "described when the stage starts: an earlier stage writes it".to_owned(),
            }),
            None => source.describe().await,
        };
        match description {
            Ok(description) => {
                let mut schema = description.schema.clone();
                let as_text = schema.take_as_text(|column, engine| {
                    !self.consumers[number].is_empty()
                        || outputs.iter().any(|output| native_engine(self.pipeline, output) != Some(engine))
                        || transform::computes(&self.pipeline.stages[number].flow.transform, &column.name)
                });
                let request = ReadRequest { limit: self.limit(number), as_text, ..ReadRequest::default() };
                let label = input.source.label();
                let origin = Origin::Source(Box::new(SourcePlan { source, description, request }));
                Some((InputPlan { name: input.name.clone(), label, schema, origin }, late))
            }
            Err(failure) => {
                self.problems.failure(&input.at, "source-unreadable", &failure);
                None
            }
        }
    }

    /// How large the batches of a stage may grow: what it asks for, or less where all splits at once would pass the memory limit. A batch is
    /// held up to four times: while it is built, twice in the queue, and while it is written.
    fn limit(&self, number: usize) -> crate::data::BatchLimit {
        let flow = &self.pipeline.stages[number].flow;
        let limits = &self.pipeline.limits;
        let share = limits.memory / (4 * limits.splits.max(1) as u64);
        crate::data::BatchLimit {
            rows: flow.batch.rows,
            bytes: flow.batch.bytes.min(usize::try_from(share).unwrap_or(usize::MAX)).max(64 << 10),
        }
    }

    /// The columns of a table or file that another stage of the pipeline writes. Reading it without waiting for that stage is a problem.
    fn predicted(&mut self, number: usize, input: &Input) -> Option<Option<Schema>> {
        // Most stages read what no other writes: only for the few that do is it worth asking what comes before what.
        let mut before = None;
        let mut found = None;
        for (other, stage) in self.pipeline.stages.iter().enumerate() {
            let Some(place) = stage.flow.to.iter().position(|output| writes(self.pipeline, &output.sink, &input.source)) else { continue };
            let before = before.get_or_insert_with(|| graph::ancestors(number, &self.edges));
            if before.contains(&other) && describes_itself(&input.source) {
                found = None;
            } else if before.contains(&other) {
                // A planned stage without outputs here failed to plan, and said why.
                found = Some(self.planned[other].as_ref()?.outputs.get(place)?.target.reads_as.clone());
            } else if other != number && !self.changes_cache_of(other, number) {
                let diagnostic =
                    Diagnostic::error("unordered-read", format!("this reads what stage `{}` writes, but does not wait for it", stage.name))
                        .help(format!("add `after: [{}]` to `{}`", stage.name, self.pipeline.stages[number].name));
                self.problems.definition(&input.at, diagnostic);
                return None;
            }
        }
        Some(found)
    }

    /// Compiles the transform, and asks of a single source what was pushed down to it. What a query cannot do with types that only their own
    /// engine understands it may do with their texts.
    async fn compile(&mut self, inputs: &mut [InputPlan], flow: &Flow, at: &str) -> Option<Compiled> {
        let tables = self.tables(&flow.transform)?;
        let compiled = match compiled(inputs, flow, at, &tables).await {
            Err(_) if inputs.iter_mut().map(as_text).filter(|changed| *changed).count() > 0 => compiled(inputs, flow, at, &tables).await,
            compiled => compiled,
        };
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(problems) => {
                self.problems.transform(at, problems);
                return None;
            }
        };
        if let [InputPlan { origin: Origin::Source(from), .. }] = inputs {
            let request = &mut from.request;
            request.columns = compiled.pushed().columns.clone();
            request.filter = compiled.pushed().filter.clone();
            if let Some(columns) = &request.columns {
                request.as_text.retain(|name| columns.contains(name));
            }
        }
        Some(compiled)
    }

    /// The tables of a stream that follows several.
    async fn tables_of(&mut self, inputs: &[InputPlan], flow: &Flow) -> Option<Vec<SourceTable>> {
        let ([InputPlan { origin: Origin::Source(from), .. }], [input]) = (inputs, flow.from.as_slice()) else { return Some(Vec::new()) };
        match from.source.tables().await {
            Ok(tables) => Some(tables),
            Err(failure) => {
                self.problems.failure(&input.at, "source-unreadable", &failure);
                None
            }
        }
    }

    async fn output(&mut self, number: usize, output: &Output, comes: Comes<'_>, own: Option<&Arc<Cache>>) -> Option<OutputPlan> {
        let Comes { key, schema, tables } = comes;
        let mut spec = output.sink.clone();
        match &mut spec {
            SinkSpec::Sql(sink) => keyed(sink, key),
            SinkSpec::Tables(sinks) => sinks.iter_mut().zip(tables).for_each(|(sink, table)| keyed(sink, &table.key)),
            _ => {}
        }
        let sink = match &spec {
            // A cache that could not be planned has been reported.
            SinkSpec::Cache(sink) => Ok(self.cache_of(sink, own)?.sink(sink.mode, sink.version.clone())),
            SinkSpec::Tables(sinks) => {
                let schemas = tables.iter().map(|table| table.schema.clone());
                self.connections.tables(sinks.iter().cloned().zip(schemas).collect())
            }
            other => self.connections.sink(other),
        };
        let sink = match sink {
            Ok(sink) => sink,
            Err(failure) => {
                self.problems.failure(&output.at, "target-unusable", &failure);
                return None;
            }
        };
        let target = match sink.plan(schema).await {
            Ok(Ok(target)) => target,
            Ok(Err(problems)) => {
                for problem in problems {
                    let at = if problem.field.is_empty() { output.at.clone() } else { format!("{}/{}", output.at, problem.field) };
                    self.problems.definition(&at, Diagnostic::error(problem.code, problem.message).help(problem.help));
                }
                return None;
            }
            Err(failure) => {
                self.problems.failure(&output.at, "target-unusable", &failure);
                return None;
            }
        };
        self.lossy(number, output, schema, &target);
        for (table, target) in tables.iter().zip(&target.tables) {
            self.lossy(number, output, &table.schema, target);
        }
        let label = spec.label();
        Some(OutputPlan { output: Output { sink: spec, ..output.clone() }, sink, target, label })
    }

    /// A lossy mapping is an error until the pipeline says that it is wanted; and what it says must exist.
    fn lossy(&mut self, number: usize, output: &Output, schema: &Schema, target: &crate::connectors::Target) {
        let allowed = |name: &str| output.allow_lossy.iter().any(|(allowed, _)| allowed == name);
        for (column, mapped) in schema.columns.iter().zip(&target.columns) {
            if mapped.grade == Grade::Lossy && !allowed(&column.name) {
                let stage = &self.pipeline.stages[number].name;
                let message =
                    format!("`{}` of `{stage}` would lose values: {} → {}: {}", column.name, column.ty, mapped.native, mapped.reason);
                let help = format!("cast the column in `transform`, or say that it is wanted: `allow_lossy: [{}]`", column.name);
                self.problems.definition(&output.at, Diagnostic::error("lossy-column", message).help(help));
            }
        }
        for (name, at) in &output.allow_lossy {
            if schema.find(name).is_none() && target.tables.is_empty() {
                let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
                let diagnostic =
                    Diagnostic::error("unknown-column", format!("`allow_lossy` names `{name}`, which the stage does not write"))
                        .help(format!("the columns are {}", names.join(", ")));
                self.problems.definition(at, diagnostic);
            }
        }
    }
}
