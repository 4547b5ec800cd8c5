//! The `lookup` step: columns added from keyed rows that somebody else keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch, not};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;

use super::builder::{Builder, joined, problem};
use super::compile::Segment;
use super::sql::{Fault, Names};
use super::values::{self, Misfit};
use crate::data::{Chunk, Column, Schema, Type};
use crate::define::pipeline::{self, At, Missing};
use crate::failure::Failure;
use crate::journal::LookupReport;

/// Keys that are named when they are not there and must be.
const NAMED: usize = 10;

/// Finds rows by their keys.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// Looks up as many keys as the columns of `keys` have rows; these are the table's key columns in its order and types. A key that holds a
    /// NULL is never found. `columns` are numbers of the table's columns.
    async fn find(&self, keys: &[ArrayRef], columns: &[usize], tally: &Tally) -> Result<Looked, Failure>;
}

/// What a lookup found.
#[derive(Debug)]
pub struct Looked {
    /// The wanted columns, one value for each key, NULL where the key was not found.
    pub columns: Vec<ArrayRef>,
    /// Whether each key was found; never NULL.
    pub found: BooleanArray,
}

/// What a `lookup` step can look into.
#[derive(Clone)]
pub struct Table {
    /// The columns of its key, in order.
    pub key: Vec<Column>,
    /// All of its columns.
    pub schema: Schema,
    /// The rows.
    pub rows: Arc<dyn Lookup>,
}

/// Tables by the names that `lookup` steps use.
pub type Tables = BTreeMap<String, Table>;

/// What one step's lookups came to so far. A key counts once a batch. See [`LookupReport`] for what each count means.
#[derive(Debug, Default)]
pub struct Tally {
    /// Keys that were looked up.
    pub keys: AtomicU64,
    /// Keys whose row was in the cache.
    pub hits: AtomicU64,
    /// Hits in the memory of the process.
    pub memory_hits: AtomicU64,
    /// Keys that the cache did not have.
    pub misses: AtomicU64,
    /// Keys that the cache knew to have no row.
    pub negative_hits: AtomicU64,
    /// Misses that waited for somebody else's load.
    pub coalesced: AtomicU64,
    /// Keys that were served from a row past its time.
    pub stale_served: AtomicU64,
    /// Keys that went to the origin because the cache's server failed.
    pub bypassed: AtomicU64,
    /// Queries for missing keys.
    pub loads: AtomicU64,
    /// Milliseconds spent in them.
    pub load_ms: AtomicU64,
    /// The greatest age of a row that was served, in milliseconds.
    pub oldest_ms: AtomicU64,
}

impl Tally {
    /// Adds to one of the counts.
    pub fn add(count: &AtomicU64, more: u64) {
        count.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, report: &mut LookupReport) {
        for (count, sum) in [
            (&self.keys, &mut report.keys),
            (&self.hits, &mut report.hits),
            (&self.memory_hits, &mut report.memory_hits),
            (&self.misses, &mut report.misses),
            (&self.negative_hits, &mut report.negative_hits),
            (&self.coalesced, &mut report.coalesced),
            (&self.stale_served, &mut report.stale_served),
            (&self.bypassed, &mut report.bypassed),
            (&self.loads, &mut report.loads),
            (&self.load_ms, &mut report.load_ms),
        ] {
            *sum += count.load(Ordering::Relaxed);
        }
        report.oldest_ms = report.oldest_ms.max(self.oldest_ms.load(Ordering::Relaxed));
    }
}

/// A compiled step.
#[derive(Clone)]
pub(super) struct LookupStep {
    pub cache: String,
    /// For each column of the key, the column that holds it.
    pub on: Vec<usize>,
    /// For each added column, its number in the table.
    pub add: Vec<usize>,
    pub missing: Missing,
    /// The columns after the step.
    pub after: SchemaRef,
    pub table: Table,
    pub tally: Arc<Tally>,
}

impl fmt::Debug for LookupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupStep").field("cache", &self.cache).field("on", &self.on).field("add", &self.add).finish_non_exhaustive()
    }
}

/// Whether values of one type can be looked up among keys of another without changing what they mean.
pub fn comparable(column: &Type, key: &Type) -> bool {
    let integer = |ty: &Type| matches!(ty, Type::Int(_) | Type::UInt(_));
    let text = |ty: &Type| matches!(ty, Type::Text | Type::Enum(_));
    column == key || (integer(column) && integer(key)) || (text(column) && text(key))
}

impl Builder {
    /// Types a `lookup` step.
    pub(super) fn lookup(&mut self, step: &pipeline::Lookup) {
        self.push = None;
        // A table that is not there has a problem of its own, which is reported where it stands.
        let Some(table) = self.tables.get(&step.cache).cloned() else {
            self.lost = true;
            return;
        };
        let on: Vec<Option<usize>> = table.key.iter().map(|key| self.holder(step, &table, key)).collect();
        for (key, _, at) in step.on.iter().filter_map(|(key, column, at)| key.as_ref().map(|key| (key, column, at))) {
            if !table.key.iter().any(|column| column.name == *key) {
                let fault = Fault::new("lookup-key", format!("`{key}` is no column of the key of the cache `{}`", step.cache));
                self.problems.push(problem(fault.help(format!("its key is {}", key_names(&table))), at));
            }
        }
        let held = step.on.iter().map(|(key, column, _)| key.as_ref().map_or_else(|| column.clone(), |key| format!("{key} = {column}")));
        let mut add = Vec::new();
        let mut added = Vec::new();
        for (name, new, at) in &step.add {
            let Some(place) = self.column_of(step, &table, name, at) else { continue };
            let mut column = Column { name: new.clone(), ..table.schema.columns[place].clone() };
            column.nullable |= step.missing == Missing::Null;
            added.push(format!("{new} ({})", column.ty));
            if self.schema.find(new).is_some() {
                let fault = Fault::new("transform-column", format!("there is a column `{new}` already"));
                self.problems.push(problem(fault.help(format!("add it under another name: `add: {{ new_name: {name} }}`")), at));
            }
            add.push(place);
            self.schema.columns.push(column);
        }
        let missing = match step.missing {
            Missing::Null => "null",
            Missing::Reject => "reject",
            Missing::Drop => "drop",
            Missing::Fail => "fail",
        };
        let line = format!("lookup: {} by {} adds {}; missing: {missing}", step.cache, joined(held), joined(added.iter()));
        self.lines.push(line);
        let Some(on) = on.into_iter().collect::<Option<Vec<usize>>>() else { return };
        self.segments.push(Segment::Lookup(Arc::new(LookupStep {
            cache: step.cache.clone(),
            on,
            add,
            missing: step.missing,
            after: self.schema.to_arrow(),
            table,
            tally: Arc::default(),
        })));
    }

    /// The column that holds one column of the key.
    fn holder(&mut self, step: &pipeline::Lookup, table: &Table, key: &Column) -> Option<usize> {
        let only = table.key.len() == 1;
        let named = step.on.iter().find(|(name, ..)| name.as_ref().map_or(only, |name| *name == key.name));
        let Some((_, name, at)) = named else {
            let fault = Fault::new("lookup-key", format!("the lookup does not say which column holds `{}` of the key", key.name));
            let on: Vec<String> = table.key.iter().map(|key| format!("{}: …", key.name)).collect();
            self.problems.push(problem(fault.help(format!("write `on: {{ {} }}`", on.join(", "))), &format!("{}/on", step.at)));
            return None;
        };
        let place = self.find(name, at)?;
        let column = &self.schema.columns[place];
        if !comparable(&column.ty, &key.ty) {
            let message = format!("`{name}` is {}, and `{}` of the cache `{}` is {}", column.ty, key.name, step.cache, key.ty);
            let fault = Fault::new("lookup-key", message).help(format!("put a step before it: `- cast: {{ {name}: \"{}\" }}`", key.ty));
            self.problems.push(problem(fault, at));
            return None;
        }
        Some(place)
    }

    /// The number of a column of the table.
    fn column_of(&mut self, step: &pipeline::Lookup, table: &Table, name: &str, at: &At) -> Option<usize> {
        let names = Names::new(table.schema.columns.iter().map(|column| column.name.as_str()));
        if let Ok(Some(spelling)) = names.spelling(name) {
            return table.schema.find(spelling).map(|(place, _)| place);
        }
        let all = || format!("its columns are {}", joined(table.schema.columns.iter().map(|column| format!("`{}`", column.name))));
        let fault = Fault::new("transform-column", format!("the cache `{}` has no column `{name}`", step.cache));
        self.problems.push(problem(fault.help(names.suggest(name).unwrap_or_else(all)), at));
        self.unknown.insert(name.to_owned());
        None
    }
}

fn key_names(table: &Table) -> String {
    joined(table.key.iter().map(|key| format!("`{}`", key.name)))
}

impl LookupStep {
    /// Adds the columns to one batch.
    pub(super) async fn apply(&self, chunk: Chunk) -> Result<Chunk, Failure> {
        let Chunk { batch, mut rejects, bytes, position, lag } = chunk;
        if batch.num_rows() == 0 {
            return Ok(Chunk { batch: RecordBatch::new_empty(self.after.clone()), rejects, bytes, position, lag });
        }
        let Looked { columns, found } = self.table.rows.find(&self.keys(&batch)?, &self.add, &self.tally).await?;
        let missing = found.len() - found.true_count();
        if missing > 0 && matches!(self.missing, Missing::Reject | Missing::Fail) {
            let absent = filtered(&batch, &not(&found).map_err(failed)?)?;
            if self.missing == Missing::Fail {
                return Err(self.absent(&absent)?);
            }
            for row in 0..missing {
                let misfit = Misfit::new(self.names(&batch), format!("the cache `{}` has no row of this key", self.cache));
                rejects.push(values::reject(&absent.slice(row, 1), misfit));
            }
        }
        let columns = batch.columns().iter().cloned().chain(columns).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = match self.missing {
            Missing::Reject | Missing::Drop if missing > 0 => {
                // The added columns may promise no NULL, which only holds for the rows that stay.
                let loose: Vec<_> = self.after.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
                let loose = Arc::new(arrow::datatypes::Schema::new(loose));
                let all = RecordBatch::try_new_with_options(loose, columns, &options).map_err(failed)?;
                let kept = filtered(&all, &found)?;
                let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
                RecordBatch::try_new_with_options(self.after.clone(), kept.columns().to_vec(), &options).map_err(failed)?
            }
            _ => RecordBatch::try_new_with_options(self.after.clone(), columns, &options).map_err(failed)?,
        };
        Ok(Chunk { batch, rejects, bytes, position, lag })
    }

    /// The key of every row in the table's own types. A number that the key's type cannot hold becomes NULL: no row has that key.
    fn keys(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, Failure> {
        let lenient = CastOptions { safe: true, ..CastOptions::default() };
        let key = |(place, key): (&usize, &Column)| cast_with_options(batch.column(*place), &key.ty.to_arrow(), &lenient);
        self.on.iter().zip(&self.table.key).map(key).collect::<Result<_, _>>().map_err(failed)
    }

    /// The failure of rows whose keys are not there: each key once, the first of them by name.
    fn absent(&self, rows: &RecordBatch) -> Result<Failure, Failure> {
        let options = FormatOptions::default().with_null("NULL");
        let columns = self.on.iter().map(|place| ArrayFormatter::try_new(rows.column(*place), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let key = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(", ");
        let keys: BTreeSet<String> = (0..rows.num_rows()).map(key).collect();
        let mut named: Vec<&str> = keys.iter().take(NAMED).map(String::as_str).collect();
        let more = format!("and {} more", keys.len().saturating_sub(NAMED));
        if keys.len() > NAMED {
            named.push(&more);
        }
        let (count, cache, names, list) = (keys.len(), &self.cache, self.names(rows), named.join("; "));
        let what = if count == 1 { "key" } else { "keys" };
        Ok(Failure::bad_rows(format!("the cache `{cache}` has no row of {count} {what} of a batch, by `{names}`: {list}"))
            .help("add the rows to what fills the cache, or write `missing: null`, `drop` or `reject`"))
    }

    fn names(&self, batch: &RecordBatch) -> String {
        let schema = batch.schema();
        self.on.iter().map(|place| schema.field(*place).name().as_str()).collect::<Vec<_>>().join("`, `")
    }
}

fn filtered(batch: &RecordBatch, kept: &BooleanArray) -> Result<RecordBatch, Failure> {
    filter_record_batch(batch, kept).map_err(failed)
}

fn failed(error: arrow::error::ArrowError) -> Failure {
    Failure::permanent("failed to put the columns of a lookup beside a batch").cause(error)
}
