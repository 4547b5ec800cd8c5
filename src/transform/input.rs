//! A stream of chunks as a table of a query. Rejected rows and byte counts pass the query by and join its result again.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::spill_file::SpillFile;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, mpsc};

use super::query::Table;
use crate::data::{BatchStream, Chunk, Reject, Schema, normalize};
use crate::failure::Failure;

/// Chunks of rejects that may wait for the reader of the result.
const WAITING: usize = 16;

/// One input of a query. It can be read once; any number of times after [`Input::keep`], from a spill file, or when [`Input::hold`] holds it.
pub(super) struct Input {
    reader: Arc<Reader>,
}

struct Reader {
    columns: Schema,
    seen: SchemaRef,
    rows: Mutex<Option<Batches>>,
    runtime: Option<Arc<RuntimeEnv>>,
    held: OnceLock<Held>,
    keep: AtomicBool,
    kept: OnceCell<Arc<dyn SpillFile>>,
}

/// All rows of an input, and their share of the query's memory.
struct Held {
    batches: Vec<RecordBatch>,
    _memory: MemoryReservation,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("columns", &self.reader.columns).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl Input {
    /// A table to type a query against; it has no rows to give.
    pub(super) fn empty(table: &Table) -> Self {
        Self::of(table, None, None)
    }

    /// A table that gives the rows of a stream.
    pub(super) fn new(table: &Table, stream: BatchStream, aside: AsideSender, runtime: Arc<RuntimeEnv>) -> Self {
        Self::of(table, Some(arriving(table, stream, aside)), Some(runtime))
    }

    fn of(table: &Table, rows: Option<Batches>, runtime: Option<Arc<RuntimeEnv>>) -> Self {
        let reader = Reader {
            columns: table.schema.clone(),
            seen: table.seen().to_arrow(),
            rows: Mutex::new(rows),
            runtime,
            held: OnceLock::new(),
            keep: AtomicBool::new(false),
            kept: OnceCell::new(),
        };
        Self { reader: Arc::new(reader) }
    }

    /// Reads up to so many bytes ahead, and holds the rows in memory when that is all of them.
    pub(super) async fn hold(&self, bytes: usize) -> Result<()> {
        let Some(runtime) = &self.reader.runtime else { return Ok(()) };
        let memory = MemoryConsumer::new("small input").register(&runtime.memory_pool);
        let mut rows = self.reader.once();
        let mut batches = Vec::new();
        while let Some(batch) = rows.try_next().await? {
            let more = batch.get_array_memory_size();
            batches.push(batch);
            if memory.size() + more > bytes || memory.try_grow(more).is_err() {
                let all = futures::stream::iter(batches.into_iter().map(Ok)).chain(rows).boxed();
                *self.reader.rows.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
                return Ok(());
            }
        }
        let _ = self.reader.held.set(Held { batches, _memory: memory });
        Ok(())
    }

    /// Whether all rows are held in memory.
    pub(super) fn held(&self) -> bool {
        self.reader.held.get().is_some()
    }

    /// Says that the query reads the table more than once: its rows are then written to a spill file first.
    pub(super) fn keep(&self) {
        self.reader.keep.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl TableProvider for Input {
    fn schema(&self) -> SchemaRef {
        self.reader.seen.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(held) = self.reader.held.get() {
            return Ok(MemorySourceConfig::try_new_exec(
                std::slice::from_ref(&held.batches),
                self.reader.seen.clone(),
                projection.cloned(),
            )?);
        }
        let partition: Arc<dyn PartitionStream> = Arc::new(Partition(self.reader.clone()));
        let exec = StreamingTableExec::try_new(self.reader.seen.clone(), vec![partition], projection, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}

#[derive(Debug)]
struct Partition(Arc<Reader>);

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.0.seen
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = self.0.clone();
        let stream = if reader.keep.load(Ordering::Relaxed) {
            futures::stream::once(async move { reader.kept().await }).try_flatten().boxed()
        } else {
            reader.once()
        };
        Box::pin(RecordBatchStreamAdapter::new(self.0.seen.clone(), stream))
    }
}

type Batches = futures::stream::BoxStream<'static, Result<RecordBatch>>;

impl Reader {
    /// The rows of the input itself; a second call gives an error.
    fn once(&self) -> Batches {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| {
            let error = DataFusionError::Internal("an input of a query is read twice".to_owned());
            futures::stream::once(async { Err(error) }).boxed()
        })
    }

    /// The rows from the spill file, which the first call writes.
    async fn kept(self: Arc<Self>) -> Result<Batches> {
        let file = self.kept.get_or_try_init(|| self.write()).await?;
        let reader = StreamReader::try_new(BufReader::new(File::open(path(file)?)?), None)?;
        // The file must outlive the reader.
        let keeps = self.clone();
        let batches = reader.map(move |batch| {
            let _ = &keeps;
            batch.map_err(DataFusionError::from)
        });
        Ok(futures::stream::iter(batches).boxed())
    }

    async fn write(&self) -> Result<Arc<dyn SpillFile>> {
        let runtime = self.runtime.as_ref().ok_or_else(|| DataFusionError::Internal("an input has no runtime".to_owned()))?;
        let file = runtime.disk_manager.create_tmp_file("rows that a query reads more than once")?;
        let mut writer = StreamWriter::try_new(BufWriter::new(File::create(path(&file)?)?), &self.seen)?;
        let mut batches = self.once();
        while let Some(batch) = batches.try_next().await? {
            writer.write(&batch)?;
        }
        writer.finish()?;
        Ok(file)
    }
}

/// Cuts larger batches into pieces of about so many bytes. A piece is a copy: a slice would keep, and weigh as much as, the whole.
pub(super) fn cut(stream: BatchStream, bytes: usize) -> BatchStream {
    let pieces = move |chunk: Result<Chunk, Failure>| {
        let chunk = match chunk {
            Ok(chunk) if chunk.batch.get_array_memory_size() > bytes && chunk.batch.num_rows() > 1 => chunk,
            small_or_failed => return vec![small_or_failed],
        };
        let rows = chunk.batch.num_rows();
        let most = (rows * bytes.max(1) / chunk.batch.get_array_memory_size()).max(1);
        let mut aside = Some((chunk.rejects, chunk.bytes));
        let piece = |start: usize| {
            let (rejects, bytes) = aside.take().unwrap_or_default();
            let places = UInt64Array::from_iter_values(start as u64..rows.min(start + most) as u64);
            let batch =
                take_record_batch(&chunk.batch, &places).map_err(|error| Failure::permanent("failed to cut a batch").cause(error))?;
            Ok(Chunk { rejects, bytes, ..Chunk::of(batch) })
        };
        (0..rows).step_by(most).map(piece).collect()
    };
    stream.flat_map(move |chunk| futures::stream::iter(pieces(chunk))).boxed()
}

fn path(file: &Arc<dyn SpillFile>) -> Result<&Path> {
    file.path().ok_or_else(|| DataFusionError::Internal("a spill file has no path".to_owned()))
}

/// The rows of a stream, as the query sees them.
fn arriving(table: &Table, stream: BatchStream, aside: AsideSender) -> Batches {
    let (columns, seen, numbered) = (table.schema.clone(), table.seen().to_arrow(), table.numbered.is_some());
    let arrived = AtomicU64::new(0);
    let batches = stream.then(move |chunk| {
        let (columns, seen, aside) = (columns.clone(), seen.clone(), aside.clone());
        let first = arrived.fetch_add(chunk.as_ref().map_or(0, |chunk| chunk.batch.num_rows() as u64), Ordering::Relaxed);
        async move {
            let made = match chunk {
                Ok(chunk) => aside.pass(chunk).await.and_then(|batch| normalize(&batch, &columns)),
                Err(failure) => Err(failure),
            };
            match made {
                Ok(batch) if numbered => number(&batch, seen, first),
                Ok(batch) => Ok(batch),
                Err(failure) => Err(aside.fail(failure)),
            }
        }
    });
    batches.boxed()
}

fn number(batch: &RecordBatch, seen: SchemaRef, first: u64) -> Result<RecordBatch> {
    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(first..first + batch.num_rows() as u64));
    let columns = batch.columns().iter().cloned().chain([numbers]).collect();
    Ok(RecordBatch::try_new(seen, columns)?)
}

/// The way past a query: rejects, byte counts, and the failure of an input in its own words.
pub(super) struct Aside {
    sender: AsideSender,
    rejects: mpsc::Receiver<Vec<Reject>>,
}

/// An input's end of an [`Aside`].
#[derive(Clone)]
pub(super) struct AsideSender {
    rejects: mpsc::Sender<Vec<Reject>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

impl AsideSender {
    async fn pass(&self, chunk: Chunk) -> Result<RecordBatch, Failure> {
        self.shared.bytes.fetch_add(chunk.bytes, Ordering::Relaxed);
        if !chunk.rejects.is_empty() {
            // Nobody listens any more once the result is dropped, and then nothing is wanted.
            self.rejects.send(chunk.rejects).await.map_err(|_| Failure::cancelled())?;
        }
        Ok(chunk.batch)
    }

    fn fail(&self, failure: Failure) -> DataFusionError {
        let said = failure.to_string();
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        DataFusionError::Execution(said)
    }
}

impl Shared {
    fn chunk(&self, batch: RecordBatch, rejects: Vec<Reject>) -> Chunk {
        Chunk { rejects, bytes: self.bytes.swap(0, Ordering::Relaxed), ..Chunk::of(batch) }
    }
}

impl Aside {
    pub(super) fn new() -> Self {
        let (sender, rejects) = mpsc::channel(WAITING);
        Self { sender: AsideSender { rejects: sender, shared: Arc::default() }, rejects }
    }

    pub(super) fn sender(&self) -> AsideSender {
        self.sender.clone()
    }

    /// Joins what passed the query by with its result. Rejects are handed on at once, so that nothing piles up behind a blocking query.
    pub(super) fn join(
        self,
        result: impl Stream<Item = Result<RecordBatch, Failure>> + Send + Unpin + 'static,
        empty: RecordBatch,
    ) -> BatchStream {
        let shared = self.sender.shared.clone();
        let state = (result, self.rejects, shared, false);
        let joined = futures::stream::unfold(state, move |(mut result, mut rejects, shared, done)| {
            let empty = empty.clone();
            async move {
                if done {
                    return None;
                }
                tokio::select! {
                    biased;
                    Some(refused) = rejects.recv() => {
                        let chunk = shared.chunk(empty, refused);
                        Some((Ok(chunk), (result, rejects, shared, false)))
                    }
                    batch = result.next() => match batch {
                        Some(Ok(batch)) => {
                            let chunk = shared.chunk(batch, Vec::new());
                            Some((Ok(chunk), (result, rejects, shared, false)))
                        }
                        Some(Err(failure)) => {
                            let first = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                            Some((Err(first.unwrap_or(failure)), (result, rejects, shared, true)))
                        }
                        None => {
                            let mut last = Vec::new();
                            while let Ok(refused) = rejects.try_recv() {
                                last.extend(refused);
                            }
                            let bytes = shared.bytes.load(Ordering::Relaxed);
                            let chunk = (!last.is_empty() || bytes > 0).then(|| shared.chunk(empty, last));
                            chunk.map(|chunk| (Ok(chunk), (result, rejects, shared, true)))
                        }
                    },
                }
            }
        });
        joined.boxed()
    }
}
