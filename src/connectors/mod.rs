//! The open set of systems that haul reads and writes: the contract here, one folder a system, one explicit list.
//!
//! A connector is built from checked words only and does nothing until one of its `async` methods is called. Sources know nothing of
//! sinks, sinks nothing of sources; what they share crosses as [`crate::data`]. No connector decides about retries, resumption or
//! order: it answers with a [`Failure`] whose kind lets the executor decide.

use std::sync::Arc;

use arrow::array::BinaryArray;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;

use crate::data::{BatchLimit, BatchStream, Lag, Mapped, Position, RawChunk, RawStream, Reject, Schema, WireFormat};
use crate::dialect::Dialect;
use crate::failure::Failure;

pub use compare::{Compared, Rows};
pub use load::{Claim, FoundLoad, Load, LoadKey, Mark};
pub use registry::{Connections, Unusable};
pub use request::{Views, requested};

mod ahead;
mod compare;
pub mod discard;
pub mod feed;
pub mod files;
pub mod generate;
pub mod http;
mod load;
pub mod redis;
mod refused;
mod registry;
mod request;
pub mod sql;
mod text;
pub mod tls;

/// What a source says of itself before anything is read.
#[derive(Clone, Debug)]
pub struct Description {
    /// The columns a read gives when nothing is projected away.
    pub schema: Schema,
    /// The columns of the primary key, or of a unique key without NULLs; empty when there is none.
    pub key: Vec<String>,
    /// Estimated rows, when the source can tell cheaply.
    pub rows: Option<u64>,
    /// Estimated bytes, when the source can tell cheaply.
    pub bytes: Option<u64>,
    /// The wire format the source could hand on undecoded for all of `schema`'s columns.
    pub wire: Option<WireFormat>,
    /// What to know before trusting a resumed or concurrent read, one line, for the plan. Example: `one exported snapshot`.
    pub consistency: String,
}

/// One table of a stream of several.
#[derive(Clone, Debug)]
pub struct SourceTable {
    /// For people: `public.orders`.
    pub label: String,
    /// Its columns.
    pub schema: Schema,
    /// The columns that name its rows.
    pub key: Vec<String>,
}

/// What a stage wants of a source. The default wants everything.
#[derive(Clone, Debug, Default)]
pub struct ReadRequest {
    /// Only these columns, in this order. `None` reads all of the description's columns.
    pub columns: Option<Vec<String>>,
    /// Only rows for which this condition holds, in the source's own SQL (made by push-down; already quoted).
    pub filter: Option<String>,
    /// Columns of a native type that the target cannot take: read in their text form, as [`crate::data::Type::Text`].
    pub as_text: Vec<String>,
    /// Columns of the engine's own types are wanted in a form that every version of the engine understands; see [`Sink::portable`].
    pub portable: bool,
    /// How large batches may grow.
    pub limit: BatchLimit,
    /// Views to read through, where others read beside it.
    pub views: Views,
}

/// One part of a source that can be read apart from the others, on any worker, in any order.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Split {
    /// Stable within a load, short, safe in a file name: `0000`, `0001`, …, or `all`.
    pub id: String,
    /// What it covers, in the connector's own JSON form (a block range, a key range, a file with its size and mtime).
    pub range: serde_json::Value,
    /// What it covers, for people: `blocks 0..4096`, `id 1..50000`, `orders-01.csv.gz`.
    pub label: String,
    /// Estimated rows, when known.
    pub rows: Option<u64>,
}

/// How a source may be cut.
#[derive(Clone, Copy, Debug)]
pub struct SplitGoal {
    /// At most this many splits; 1 asks for a single split with the id `all`.
    pub most: usize,
    /// Splits should not be smaller than this many bytes.
    pub bytes: u64,
}

/// Splits of a source, and what they depend on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Splits {
    /// Together they cover every row exactly once.
    pub splits: Vec<Split>,
    /// Changes with the source, when the splits mean the same rows only while it does not: a resumed load never mixes rows of two states.
    pub fingerprint: Option<String>,
}

impl Splits {
    /// Of a source that cannot be cut: all of it, named by what people call it.
    pub fn whole(label: String) -> Self {
        Self { splits: vec![Split { id: "all".to_owned(), range: serde_json::Value::Null, label, rows: None }], fingerprint: None }
    }
}

/// A place to read from. Cheap to make; holds no connection until it is used.
#[async_trait]
pub trait Source: Send + Sync {
    /// Columns, key, estimates. Fails with a permanent failure when the thing to read is missing or refused.
    async fn describe(&self) -> Result<Description, Failure>;

    /// Of a stream of several tables: each of them, in the order by which its batches name them ([`crate::data::change::table`]). Its description
    /// then has no columns.
    async fn tables(&self) -> Result<Vec<SourceTable>, Failure> {
        Ok(Vec::new())
    }

    /// Of the changes of a table: columns whose values an update may leave out where it leaves them as they are.
    async fn unsent(&self) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    /// Begins one consistent view of the source for a stage, or joins that of those beside it ([`ReadRequest::views`]): the same state for every
    /// split read through it, where the engine can.
    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure>;

    /// Removes what a stream of this source keeps in its system, and says what that was. Its position is worth nothing after that.
    async fn forget(&self) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    /// The dialect of [`ReadRequest::filter`], when the source can filter.
    fn dialect(&self) -> Option<Dialect> {
        None
    }
}

/// One consistent view of a source. Dropping the last handle ends it.
#[async_trait]
pub trait Reading: Send + Sync {
    /// The columns of every batch: the request applied to the description.
    fn schema(&self) -> &Schema;

    /// Cuts the view into splits. A resumed load does not call it: it reads the splits that were recorded at its start.
    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure>;

    /// The value that [`Splits::fingerprint`] would have now; `None` when recorded splits stay valid whatever happens.
    async fn fingerprint(&self) -> Result<Option<String>, Failure>;

    /// Reads one split, in batches within the request's limit: all of it, or what follows a position that an earlier read of the same split
    /// gave. A source that gives no positions is never handed one.
    async fn read(&self, split: &Split, from: Option<&Position>) -> Result<BatchStream, Failure>;

    /// Whether a stream can say that it has handed on everything there was; see [`crate::data::Lag::caught_up`].
    fn catches_up(&self) -> bool {
        true
    }

    /// How far the stream is behind by now, where the source knows that without handing rows on: its target may take its time.
    fn lag(&self) -> Option<Lag> {
        None
    }

    /// Says that everything up to a position is committed and will never be asked for again. Only streams call it, after each commit.
    async fn acknowledge(&self, position: &Position) -> Result<(), Failure> {
        let _ = position;
        Ok(())
    }

    /// Reads rows again, as they are by now and in their portable form: those whose key column has these values. Rows that are gone are left
    /// out. Only called by sinks that compare by themselves, for sources whose rows they take.
    async fn again(&self, keys: &BinaryArray) -> Result<BatchStream, Failure> {
        let _ = keys;
        Err(Failure::permanent("this source cannot read single rows again"))
    }

    /// Reads one split undecoded. Only called when the description offered a wire format and the sink took it.
    async fn read_raw(&self, split: &Split) -> Result<RawStream, Failure> {
        let _ = split;
        Err(Failure::permanent("this source has no raw form"))
    }
}

/// What a sink says of the target before anything is written.
#[derive(Clone, Debug)]
pub struct Target {
    /// What each incoming column becomes, in order.
    pub columns: Vec<Mapped>,
    /// The statements that `prepare` would run, in order; empty when nothing changes.
    pub ddl: Vec<String>,
    /// Whether the target exists already.
    pub exists: bool,
    /// The wire format the sink takes undecoded for these columns.
    pub wire: Option<WireFormat>,
    /// The most splits that may be written at the same time; 1 for a single file.
    pub writers: usize,
    /// The load must be written by one writer as the single split `all` (a single file); otherwise splits commit one by one.
    pub whole: bool,
    /// Whether a writer can commit a part of a split and go on ([`Writer::checkpoint`]).
    pub checkpoints: bool,
    /// The delivery guarantee, one line, for the plan: `effectively once: rows and mark in one transaction`.
    pub guarantee: String,
    /// The columns as a source on the same target would describe them: what a stage that reads the target later can count on.
    pub reads_as: Schema,
    /// Of a stream of several tables: what each of them becomes. The target itself then has no columns.
    pub tables: Vec<Target>,
}

impl Target {
    /// Whether the target is there, and lacks what the incoming columns need.
    pub fn is_altered(&self) -> bool {
        self.exists && (!self.ddl.is_empty() || self.tables.iter().any(Self::is_altered))
    }

    /// What is known of several tables that are written together.
    pub fn of_tables(tables: Vec<Self>) -> Self {
        Self {
            columns: Vec::new(),
            ddl: Vec::new(),
            exists: tables.iter().all(|table| table.exists),
            wire: None,
            writers: 1,
            whole: false,
            checkpoints: true,
            guarantee: tables.first().map(|first| first.guarantee.clone()).unwrap_or_default(),
            reads_as: Schema { columns: Vec::new() },
            tables,
        }
    }
}

/// A problem with a target that is known before the run. `field` names the key of the output it points at (`table`, `key`, `mode`, …).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetProblem {
    /// A stable diagnostic code, such as `target-missing`.
    pub code: &'static str,
    /// The key below the output that the diagnostic points at; empty for the output itself.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

/// A place to write to. Cheap to make; holds no connection until it is used.
///
/// The order of calls for one load is `claim`, then (when nothing was found, or the load starts again) `prepare`, then any number of
/// writers, concurrently up to [`Target::writers`], then `read_staged` when the load is verified before it is seen, then `publish`.
/// Any call may be the last one (the process is killed): the next worker's `claim` finds what was committed and nothing else.
#[async_trait]
pub trait Sink: Send + Sync {
    /// What the incoming columns become, against the target as it is now. Every problem at once.
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure>;

    /// Takes the load over: bumps the epoch, so that commits of older workers are refused from here on, and reports what was committed.
    /// Leaves data as it is.
    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure>;

    /// Starts the load from nothing: creates, evolves or stages the target, discards what an earlier unfinished load had staged, and keeps
    /// `note` beside the load.
    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure>;

    /// Adds what the load's columns need to a target that is there, for a stream that goes on.
    async fn evolve(&self, load: &Load) -> Result<(), Failure> {
        let _ = load;
        Ok(())
    }

    /// A writer for one split, or for what is left of it after `from`: its mark, when a checkpoint has committed its beginning.
    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure>;

    /// Makes the load visible where it is not yet (swap, rename), and finishes the target (indexes, analyze). Idempotent.
    async fn publish(&self, load: &Load) -> Result<(), Failure>;

    /// Reads back the rows of the load as the incoming columns: the staged rows before `publish` when the mode stages, otherwise the target's.
    /// A value that no longer fits its incoming type is a permanent failure that names column and value.
    async fn read_back(&self, load: &Load, limit: BatchLimit) -> Result<BatchStream, Failure>;

    /// Reads back undecoded; only called when the wire format was agreed on.
    async fn read_back_raw(&self, load: &Load) -> Result<RawStream, Failure> {
        let _ = load;
        Err(Failure::permanent("this sink has no raw form"))
    }

    /// How many rows `read_back` would give. An engine that can count them does not read them.
    async fn count(&self, load: &Load) -> Result<u64, Failure> {
        let mut rows = self.read_back(load, BatchLimit::default()).await?;
        let mut count = 0;
        while let Some(chunk) = rows.next().await {
            count += chunk?.batch.num_rows() as u64;
        }
        Ok(count)
    }

    /// Whether columns of the engine's own types must come in their portable form: this target does not understand the source's other one.
    async fn portable(&self, incoming: &Schema) -> Result<bool, Failure> {
        let _ = incoming;
        Ok(false)
    }

    /// Bytes that the target has room for; `None` when it knows no limit.
    async fn room(&self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    /// Compares the target with its rows where the data is; with [`crate::define::pipeline::Verify::Count`] they are only looked for. `None`: the executor does it.
    async fn compare(&self, load: &Load, rows: &dyn Rows) -> Result<Option<Compared>, Failure> {
        let _ = (load, rows);
        Ok(None)
    }

    /// Whether `read_back` gives exactly the load's rows before `publish` (staged), or the whole target after it.
    fn staged(&self) -> bool;

    /// Removes what an abandoned load left staged; used by `--fresh`. Rows that were already visible stay.
    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure>;
}

/// Writes one split. Dropping a writer leaves no trace of what it took since its last checkpoint.
#[async_trait]
pub trait Writer: Send {
    /// Takes a batch of the load's columns. May buffer.
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure>;

    /// Takes rows in the agreed wire format.
    async fn write_raw(&mut self, chunk: RawChunk) -> Result<(), Failure> {
        let _ = chunk;
        Err(Failure::permanent("this sink has no raw form"))
    }

    /// Called before the first row of a stream, whose commits are small: what came since the last one is kept, so that rows which the target
    /// refuses can be found and given by [`Writer::refused`]. Without it, and in targets that do not have it, such a row fails the write.
    fn give_back(&mut self) {}

    /// Sends what is buffered to the target, and gives the rows that the target has refused since the last call. Called right before each
    /// checkpoint and each commit, whose mark does not count them.
    async fn refused(&mut self) -> Result<Vec<Reject>, Failure> {
        Ok(Vec::new())
    }

    /// Bytes of the file that the next commit makes whole, about; `None` where that does not matter.
    fn written_bytes(&self) -> Option<u64> {
        None
    }

    /// Commits the rows taken since the last checkpoint together with a mark that holds a position, and goes on. Only called when
    /// [`Target::checkpoints`] says so. The answer means what that of `commit` does. When the target's mark of the split is not the one that
    /// the writer went on from, an attempt that was thought lost has moved it: nothing is written, and the failure is transient with
    /// [`Failure::view_lost`], so that the load is claimed and its marks are read again.
    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        let _ = mark;
        Err(Failure::permanent("this sink commits whole splits only"))
    }

    /// Commits rows and mark together. Idempotent: a split that is marked already is left as it is. When the answer to the commit is
    /// lost, the writer reconnects and reads the mark before it answers. A newer epoch gives [`crate::failure::FailureKind::Fenced`].
    async fn commit(self: Box<Self>, mark: Mark) -> Result<Committed, Failure>;
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows in the target because of this split; less than arrived when an upsert's keys repeated.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// The failure of reading back tables that were written together.
pub fn no_common_rows() -> Failure {
    Failure::permanent("the rows of several tables have no columns in common, and are not read back")
}

/// The failure of a writer whose split has another mark in the target than the one it went on from.
pub fn moved_on(split: &str) -> Failure {
    Failure::transient(format!("an attempt that was thought lost has moved split {split} on")).view_lost()
}
