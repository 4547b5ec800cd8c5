//! Where rows come from that a cache does not have: a query for some keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use futures::StreamExt;

use super::Cache;
use super::shelf::{Entry, Kept};
use crate::clock::Stopwatch;
use crate::connectors::{Connections, ReadRequest, Source, SplitGoal, Unusable};
use crate::data::text::Printer;
use crate::data::{Schema, Type, normalize};
use crate::define::pipeline::{CacheLoad, SourceSpec, SqlRead, SqlSource};
use crate::dialect::Dialect;
use crate::failure::Failure;

/// A query for the rows of some keys.
pub struct Origin {
    spec: CacheLoad,
    connections: Arc<Connections>,
}

/// The rows that a query gave.
pub struct Loaded {
    /// The cache's columns.
    pub columns: Vec<ArrayRef>,
    /// The row of each key that has one.
    pub rows: HashMap<Vec<u8>, usize>,
    /// How many queries there were: none when somebody else had asked meanwhile.
    pub queries: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Whether somebody has counted it.
    counted: AtomicBool,
}

impl Loaded {
    /// Nobody has counted it.
    pub(super) fn new(columns: Vec<ArrayRef>, rows: HashMap<Vec<u8>, usize>, queries: u64, watch: Stopwatch) -> Self {
        let took_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { columns, rows, queries, took_ms, counted: AtomicBool::new(false) }
    }

    /// True for the first who asks: a load that several waited for counts once.
    pub fn count(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }
}

impl Origin {
    /// Asks nothing yet.
    pub fn new(spec: &CacheLoad, connections: &Arc<Connections>) -> Self {
        Self { spec: spec.clone(), connections: Arc::clone(connections) }
    }

    /// The columns of the query's rows. `key_columns` is how many columns a key has.
    pub async fn describe(&self, key_columns: usize) -> Result<Schema, Failure> {
        let nothing = vec!["NULL".to_owned(); key_columns];
        let mut schema = self.source(&tuples(&self.spec, [nothing].into_iter()))?.describe().await?.schema;
        schema.take_as_text(|_, _| true);
        Ok(schema)
    }

    /// Whether keys of a type can be written into the query.
    pub fn takes(ty: &Type) -> bool {
        matches!(ty, Type::Bool | Type::Int(_) | Type::UInt(_) | Type::Decimal(..) | Type::Text | Type::Enum(_) | Type::Uuid | Type::Date)
    }

    fn source(&self, keys: &str) -> Result<Arc<dyn Source>, Failure> {
        let read = SqlRead::Query(self.spec.query_for(keys));
        let spec = SqlSource { connection: self.spec.connection.clone(), read, split_by: None };
        self.connections.source(&SourceSpec::Sql(spec)).map_err(|unusable| match unusable {
            Unusable::Failure(failure) => failure,
            Unusable::Expressions(_) => Failure::permanent("a query for missing keys has no expressions"),
        })
    }

    /// The rows of some keys, given as columns, with the columns of `schema`.
    pub(super) async fn rows(&self, keys: &[ArrayRef], types: &[Type], schema: &Schema) -> Result<RecordBatch, Failure> {
        let source = self.source(&tuples(&self.spec, literals(keys, types, self.spec.dialect)?.into_iter()))?;
        let mut described = source.describe().await?.schema;
        let request = ReadRequest {
            columns: Some(schema.columns.iter().map(|column| column.name.clone()).collect()),
            as_text: described.take_as_text(|_, _| true),
            ..ReadRequest::default()
        };
        let reading = source.open(request).await?;
        let mut batches = Vec::new();
        for split in reading.splits(SplitGoal { most: 1, bytes: u64::MAX }).await?.splits {
            let mut chunks = reading.read(&split, None).await?;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                if let Some(reject) = chunk.rejects.first() {
                    return Err(Failure::bad_rows(format!("{}: {}", reject.origin, reject.reason)));
                }
                batches.push(normalize(&chunk.batch, schema)?);
            }
        }
        let failed = |error| Failure::permanent("failed to put loaded rows together").cause(error);
        concat_batches(&schema.to_arrow(), &batches).map_err(failed)
    }
}

/// `1, 2` or `(1, 'a'), (2, 'b')`. SQLite compares several columns with a list of rows only when `values` stands before it.
fn tuples(spec: &CacheLoad, keys: impl Iterator<Item = Vec<String>>) -> String {
    let mut several = false;
    let tuple = |key: Vec<String>| match &key[..] {
        [only] => only.clone(),
        columns => {
            several = true;
            format!("({})", columns.join(", "))
        }
    };
    let tuples = keys.map(tuple).collect::<Vec<_>>().join(", ");
    if several && spec.dialect == Dialect::Sqlite { format!("values {tuples}") } else { tuples }
}

/// Every key as literals of the dialect.
fn literals(keys: &[ArrayRef], types: &[Type], dialect: Dialect) -> Result<Vec<Vec<String>>, Failure> {
    let printers: Vec<Printer<'_>> = keys.iter().zip(types).map(|(array, ty)| Printer::new(array, ty)).collect();
    let literal = |printer: &Printer<'_>, ty: &Type, row: usize| {
        let mut text = Vec::new();
        printer.print(row, &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        match ty {
            Type::Bool => Ok(dialect.bool(text == "true").to_owned()),
            Type::Int(_) | Type::UInt(_) | Type::Decimal(..) => Ok(text),
            Type::Date => Ok(dialect.date(&text)),
            _ => dialect.text(&text),
        }
    };
    let rows = keys.first().map_or(0, |column| column.len());
    let key = |row: usize| printers.iter().zip(types).map(|(printer, ty)| literal(printer, ty, row)).collect::<Result<Vec<_>, _>>();
    (0..rows).map(key).collect::<Result<_, String>>().map_err(Failure::bad_rows)
}

impl Cache {
    /// Loads the rows of some keys in row form, and keeps them in memory.
    pub(super) async fn fetch_alone(&self, keys: &[Vec<u8>]) -> Result<Loaded, Failure> {
        let origin = self.origin.as_ref().ok_or_else(|| Failure::permanent(format!("the cache `{}` loads nothing", self.name)))?;
        let watch = Stopwatch::start();
        let began_us = self.now_us();
        let types = self.key_types();
        let columns = self.key_form.decode(keys.iter().map(Vec::as_slice))?;
        let batch = origin.rows(&columns, &types, &self.schema).await;
        let batch = batch.map_err(|failure| failure.during(format!("loading rows of the cache `{}`", self.name)))?;
        let rows = self.keep(keys, &batch, began_us)?;
        Ok(Loaded::new(batch.columns().to_vec(), rows, 1, watch))
    }

    /// Keeps what a load gave for the keys that it asked for, and that it gave nothing for the others. Says which row is whose.
    pub(super) fn keep(&self, keys: &[Vec<u8>], batch: &RecordBatch, began_us: u64) -> Result<HashMap<Vec<u8>, usize>, Failure> {
        let (_, names) = self.keys_of(batch.columns())?;
        let values = self.row_form.encode(batch.columns())?;
        // While the server of a cache cannot be reached, nobody compares with what it has.
        let versions = self.versions(batch, self.version, if self.remote.is_some() { 0 } else { began_us })?;
        let asked: std::collections::HashSet<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut rows = HashMap::with_capacity(batch.num_rows());
        // A column that calls different keys equal may give rows of keys that nobody asked for.
        for (row, name) in names.iter().enumerate().filter(|(_, name)| asked.contains(name.data())) {
            rows.insert(name.data().to_vec(), row);
        }
        let Some(shelf) = self.shelf() else { return Ok(rows) };
        for key in keys {
            let (kept, version, until_us) = match rows.get(key) {
                Some(row) => (Kept::Row(values.row(*row).data().into()), versions[*row], self.until_us(began_us)),
                None => match self.spec.negative_ttl {
                    Some(ttl) => (Kept::Nowhere, 0, began_us.saturating_add(super::micros(ttl))),
                    None => continue,
                },
            };
            shelf.put(key, Entry { kept, version, since_us: began_us, until_us });
        }
        Ok(rows)
    }
}
