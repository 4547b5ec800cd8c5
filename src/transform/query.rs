//! Steps that look at many rows: `sql`, and `dedupe` when it is out of memory, as DataFusion queries over streams, within a memory limit and with spill files.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DataFusionError, TableReference};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::{LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Visit, Visitor};
use futures::{StreamExt, TryStreamExt};

use super::input::{Aside, Input, cut};
use super::memory::HalfForSpilling;
use super::sql::{self, Aliases, Fault, Names, Words};
use super::{InputColumns, carried, expression, join, session, values};
use crate::data::{BatchLimit, BatchStream, Column, Schema, Type, normalize};
use crate::dialect::Dialect;
use crate::failure::{Failure, FailureKind};

/// Spill files that one sort merges at a time. A merge takes all the memory it is let, so that a sort further on would find none.
const FAN_IN: usize = 4;

/// A typed query.
#[derive(Clone, Debug)]
pub(super) struct Query {
    statement: ast::Statement,
    tables: Vec<Table>,
    /// The columns of its result.
    pub schema: Schema,
}

/// A table of a query: one input, under each of its names.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// What the query may call it.
    pub names: Vec<String>,
    /// Its columns.
    pub schema: Schema,
    /// Adds a column of this name that numbers the rows as they arrive.
    pub numbered: Option<String>,
}

impl Table {
    /// The columns as the query sees them.
    pub(super) fn seen(&self) -> Schema {
        let mut schema = self.schema.clone();
        schema.columns.extend(self.numbered.iter().map(|name| Column { nullable: false, ..Column::new(name, Type::UInt(64)) }));
        schema
    }
}

/// Types the query of a `sql` step. With one input, or after the first step, the rows so far are also called `input`.
pub(super) async fn sql(text: &str, inputs: &[InputColumns], also: &str) -> Result<Query, Fault> {
    let named = |input: &InputColumns| {
        let alias = (inputs.len() == 1 && input.name != also).then(|| also.to_owned());
        Table { names: std::iter::once(input.name.clone()).chain(alias).collect(), schema: input.schema.clone(), numbered: None }
    };
    let tables: Vec<Table> = inputs.iter().map(named).collect();
    let table_names = || tables.iter().flat_map(|table| table.names.iter().map(String::as_str));
    let columns = tables.iter().flat_map(|table| table.schema.columns.iter().map(|column| column.name.as_str()));
    let names = Names::new(columns.chain(table_names()));
    let attempt = async |aliases| {
        let (statement, words) = sql::query(text, &names, aliases)?;
        check_functions(&statement, &words)?;
        check_tables(&statement, &words, &tables)?;
        typed(statement, tables.clone(), &words).await
    };
    match attempt(Aliases::Win).await {
        Err(fault) if fault.code == "transform-column" => attempt(Aliases::Lose).await.map_err(|_| fault),
        outcome => outcome,
    }
}

/// The query that keeps the row that arrived first of each key, in the order of arrival. Rows are numbered as they arrive; NULLs count as
/// equal.
pub(super) async fn dedupe(key: &[&str], schema: &Schema) -> Result<Query, Fault> {
    let mut free = (0..).map(|number| format!("haul_{number}")).filter(|name| schema.find(name).is_none());
    let (Some(arrival), Some(place)) = (free.next(), free.next()) else { return Err(Fault::new("transform-column", "too many columns")) };
    let quoted = |names: &[&str]| {
        let quoted: Result<Vec<String>, String> = names.iter().map(|name| Dialect::DataFusion.ident(name)).collect();
        quoted.map(|names| names.join(", ")).map_err(|message| Fault::new("transform-column", message))
    };
    // Of a fault in the query below, the place would be one in a text that nobody wrote.
    let unbounded = |name: &&&str| schema.find(name).is_some_and(|(_, column)| column.ty == Type::Number);
    if let Some(name) = key.iter().find(unbounded) {
        return Err(expression::unbounded(name));
    }
    let all: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
    let (columns, key) = (quoted(&all)?, quoted(key)?);
    let text = format!(
        "select {columns} from (select *, row_number() over (partition by {key} order by {arrival}) as {place} from input) as input where {place} = 1 order by {arrival}"
    );
    let (statement, words) = sql::query(&text, &Names::default(), Aliases::Win)?;
    let table = Table { names: vec!["input".to_owned()], schema: schema.clone(), numbered: Some(arrival) };
    let mut query = typed(statement, vec![table], &words).await?;
    query.schema = schema.clone();
    Ok(query)
}

async fn typed(statement: ast::Statement, tables: Vec<Table>, words: &Words) -> Result<Query, Fault> {
    let context = session::running(Arc::new(RuntimeEnv::default()), usize::MAX, usize::MAX);
    for table in &tables {
        let input = Arc::new(Input::empty(table));
        for name in &table.names {
            context.register_table(quoted_table(name), input.clone()).map_err(|error| fault(&error, words))?;
        }
    }
    let state = context.state();
    let plan = state.statement_to_plan(Statement::Statement(Box::new(statement.clone()))).await.map_err(|error| fault(&error, words))?;
    carried::check(&plan, words)?;
    let plan = state.optimize(&plan).map_err(|error| fault(&error, words))?;
    state.create_physical_plan(&plan).await.map_err(|error| fault(&error, words))?;
    let plan = carried::agreed(plan).map_err(|error| fault(&error, words))?;
    let schema = columns(plan.schema(), &tables)?;
    Ok(Query { statement, tables, schema })
}

/// A table's name, case kept.
fn quoted_table(name: &str) -> TableReference {
    TableReference::bare(name.to_owned())
}

/// The columns of a result. What DataFusion carries along from an input keeps its logical type, and its native one while that is the
/// same type.
fn columns(schema: &DFSchema, tables: &[Table]) -> Result<Schema, Fault> {
    let mut result = Schema::from_arrow(schema.as_arrow()).map_err(|message| Fault::new("transform-type", message))?;
    let mut seen = std::collections::BTreeSet::new();
    for column in &mut result.columns {
        if !seen.insert(column.name.clone()) {
            let fault = Fault::new("transform-column", format!("the query gives two columns named `{}`", column.name));
            return Err(fault.help("give one of them another name with `as`"));
        }
        let known = |table: &Table| table.schema.columns.iter().any(|known| known.ty == column.ty && known.native == column.native);
        if !tables.iter().any(known) {
            column.native = None;
        }
    }
    Ok(result)
}

/// Turns a planning error into a fault at the word it is about.
fn fault(error: &DataFusionError, words: &Words) -> Fault {
    use datafusion::common::SchemaError;
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let names = Names::new(valid_fields.iter().map(|field| field.name.as_str()));
                let all: Vec<String> = valid_fields.iter().map(|field| format!("`{}`", field.name)).collect();
                Fault::new("transform-column", format!("unknown column `{}`", field.name))
                    .span(words.column(field.relation.as_ref().map(TableReference::table), &field.name))
                    .help(names.suggest(&field.name).unwrap_or_else(|| format!("the columns are {}", all.join(", "))))
            }
            SchemaError::AmbiguousReference { field } => {
                Fault::new("transform-ambiguous", format!("column `{}` stands in more than one table", field.name))
                    .span(words.column(field.relation.as_ref().map(TableReference::table), &field.name))
                    .help("write the table's name and a dot before it")
            }
            other => Fault::new("transform-column", other.to_string()),
        },
        _ => Fault::new("transform-type", session::words(error)),
    }
}

fn check_tables(statement: &ast::Statement, words: &Words, tables: &[Table]) -> Result<(), Fault> {
    let statement = Statement::Statement(Box::new(statement.clone()));
    let found = session::planning().resolve_table_references(&statement).map_err(|error| fault(&error, words))?;
    let known: Vec<&str> = tables.iter().flat_map(|table| table.names.iter().map(String::as_str)).collect();
    for reference in &found {
        if reference.schema().is_some() || !known.contains(&reference.table()) {
            let help = Names::new(known.iter().copied()).suggest(reference.table());
            let all = || format!("the tables are {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
            return Err(Fault::new("transform-table", format!("unknown table `{reference}`"))
                .span(words.table(reference.table()))
                .help(help.unwrap_or_else(all)));
        }
    }
    let is_read = |table: &&Table| found.iter().any(|reference| table.names.iter().any(|name| name == reference.table()));
    match tables.iter().find(|table| !is_read(table)) {
        Some(unread) => Err(Fault::new("transform-table", format!("the input `{}` is not read by the query", unread.names[0]))
            .help("use it in the query, or remove the input")),
        None => Ok(()),
    }
}

/// Every function must be known, and give the same value again when a stage is tried again.
fn check_functions(statement: &ast::Statement, words: &Words) -> Result<(), Fault> {
    struct Functions<'a>(&'a Words);
    impl Visitor for Functions<'_> {
        type Break = Fault;

        fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Fault> {
            let ast::Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
            let name = function.name.to_string().to_lowercase();
            let state = session::planning();
            let known = [state.aggregate_functions().contains_key(&name), state.window_functions().contains_key(&name)];
            match state.scalar_functions().get(&name) {
                Some(known) if known.signature().volatility != Volatility::Immutable => {
                    ControlFlow::Break(expression::unrepeatable(&name).span(expression::place_of(function, self.0)))
                }
                None if known == [false, false] => {
                    ControlFlow::Break(expression::unknown_function(&name).span(expression::place_of(function, self.0)))
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match statement.visit(&mut Functions(words)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(fault) => Err(fault),
    }
}

/// What the queries of one transform share: its memory and its spill files.
pub(super) fn runtime(memory_bytes: u64, spill: &Path) -> Result<Arc<RuntimeEnv>, Failure> {
    let memory = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
    std::fs::create_dir_all(spill)
        .map_err(|error| Failure::permanent(format!("failed to make the spill folder {}", spill.display())).cause(error))?;
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(HalfForSpilling::new(memory)))
        .with_temp_file_path(spill)
        .with_max_spill_merge_fan_in(FAN_IN)
        .build_arc()
        .map_err(|error| failure(error, memory_bytes))
}

impl Query {
    /// Streams the result of the query over its inputs. What the inputs rejected is handed on as it comes.
    pub(super) fn run(&self, inputs: Vec<BatchStream>, memory_bytes: u64, limit: BatchLimit, runtime: Arc<RuntimeEnv>) -> BatchStream {
        let memory = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
        let context = session::running(runtime, memory, limit.rows);
        let aside = Aside::new();
        let input = |(table, stream)| Input::new(table, cut(stream, memory / session::PIECES), aside.sender(), context.runtime_env());
        let inputs: Vec<Arc<Input>> = self.tables.iter().zip(inputs).map(input).map(Arc::new).collect();
        let query = self.clone();
        let started = async move { query.start(&inputs, context, memory).await };
        let schema = self.schema.clone();
        let empty = arrow::record_batch::RecordBatch::new_empty(schema.to_arrow());
        let batches = futures::stream::once(started).try_flatten().map(move |batch| {
            let batch = normalize(&batch.map_err(|error| failure(error, memory_bytes))?, &schema)?;
            let checked = batch.columns().iter().try_for_each(values::in_range);
            checked.map(|()| batch).map_err(|reason| Failure::bad_rows(format!("the query failed on a value: {reason}")))
        });
        aside.join(batches.boxed(), empty)
    }

    async fn start(
        self,
        inputs: &[Arc<Input>],
        context: SessionContext,
        memory: usize,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        join::hold_small(inputs, memory).await?;
        for (table, input) in self.tables.iter().zip(inputs) {
            for name in &table.names {
                context.register_table(quoted_table(name), input.clone())?;
            }
        }
        let state = context.state();
        let plan = state.statement_to_plan(Statement::Statement(Box::new(self.statement))).await?;
        let plan = state.optimize(&plan)?;
        for (table, input) in self.tables.iter().zip(inputs) {
            if !input.held() && scans(&plan, &table.names) > 1 {
                input.keep();
            }
        }
        let physical = join::plan(state, &plan, inputs).await?;
        datafusion::physical_plan::execute_stream(physical, context.task_ctx())
    }
}

/// How often a plan reads a table.
fn scans(plan: &LogicalPlan, names: &[String]) -> usize {
    let mut count = 0;
    let walked = plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan
            && names.iter().any(|name| name == scan.table_name.table())
        {
            count += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // A plan that cannot be walked is read as one that reads twice, which is always right.
    walked.map_or(2, |_| count)
}

fn failure(error: DataFusionError, memory_bytes: u64) -> Failure {
    let said = session::words(&error);
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            Failure::permanent(format!("the query needs more than the {memory_bytes} bytes it may use: {said}"))
                .help("raise `limits: memory`, or let the query hold less at a time")
        }
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => {
            Failure::new(FailureKind::BadRows, format!("the query failed on a value: {said}"))
                .help("cast or filter in a step before it: there, a bad row is rejected by itself")
        }
        DataFusionError::IoError(_) => Failure::permanent(format!("the query failed to spill: {said}")).cause(error),
        _ => Failure::permanent(format!("the query failed: {said}")),
    }
}
