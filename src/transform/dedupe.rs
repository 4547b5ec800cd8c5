//! `dedupe`: of each key the row that arrived first, in the order of arrival.
//!
//! Rows stream through while the keys seen so far fit into a share of the transform's memory. From then on rows with a key that was seen are
//! left out as before, and the others go through a query that sorts, with spill files, and gives them in the order of arrival as well.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::row::{RowConverter, SortField};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, stream};

use super::query::{self, Query};
use super::sql::Fault;
use crate::data::{BatchLimit, BatchStream, Chunk, Schema};
use crate::failure::Failure;

/// Keys seen may take this part of a transform's memory; the query that takes over needs the rest.
const SHARE: usize = 4;
/// What a key takes beside its own bytes: its place in the set, which is at most half empty, and what the allocator adds.
const KEY_BYTES: usize = 56;

/// A typed `dedupe` step.
#[derive(Clone, Debug)]
pub(super) struct Dedupe {
    /// The places of the key's columns.
    key: Vec<usize>,
    /// Does the same for as many keys as the disk holds.
    sorted: Query,
}

/// The keys that were seen, in a form in which equal keys are equal bytes. NULLs are equal.
struct Seen {
    converter: RowConverter,
    keys: HashSet<Box<[u8]>>,
    bytes: usize,
    most: usize,
    memory: MemoryReservation,
}

/// Where a stream stands.
enum State {
    /// Rows pass as they come.
    Passing(BatchStream, Seen),
    /// The keys fill their share.
    Sorted(BatchStream),
}

impl Dedupe {
    /// Types the step; `key` are places of the schema's columns.
    pub(super) async fn new(key: Vec<usize>, schema: &Schema) -> Result<Self, Fault> {
        let names: Vec<&str> = key.iter().map(|place| schema.columns[*place].name.as_str()).collect();
        Ok(Self { sorted: query::dedupe(&names, schema).await?, key })
    }

    /// Streams what is kept. What the input rejected is handed on as it comes.
    pub(super) fn run(&self, input: BatchStream, memory_bytes: u64, limit: BatchLimit, runtime: Arc<RuntimeEnv>) -> BatchStream {
        let dedupe = self.clone();
        let begin = async move {
            let seen = dedupe.nothing_seen(memory_bytes, &runtime)?;
            let state = State::Passing(input, seen);
            Ok(stream::try_unfold(state, move |state| {
                let (dedupe, runtime) = (dedupe.clone(), Arc::clone(&runtime));
                async move { dedupe.next(state, memory_bytes, limit, runtime).await }
            }))
        };
        futures::TryStreamExt::try_flatten(stream::once(begin)).boxed()
    }

    fn nothing_seen(&self, memory_bytes: u64, runtime: &Arc<RuntimeEnv>) -> Result<Seen, Failure> {
        let schema = self.sorted.schema.to_arrow();
        let fields = self.key.iter().map(|place| SortField::new(schema.field(*place).data_type().clone())).collect();
        let converter =
            RowConverter::new(fields).map_err(|error| Failure::permanent("the key of `dedupe` cannot be compared").cause(error))?;
        let memory = MemoryConsumer::new("dedupe").register(&runtime.memory_pool);
        let most = usize::try_from(memory_bytes).unwrap_or(usize::MAX) / SHARE;
        Ok(Seen { converter, keys: HashSet::new(), bytes: 0, most, memory })
    }

    async fn next(
        &self,
        state: State,
        memory_bytes: u64,
        limit: BatchLimit,
        runtime: Arc<RuntimeEnv>,
    ) -> Result<Option<(Chunk, State)>, Failure> {
        let mut rest = match state {
            State::Sorted(rest) => rest,
            State::Passing(mut input, mut seen) => {
                if seen.has_room() {
                    let Some(chunk) = input.next().await.transpose()? else { return Ok(None) };
                    let chunk = seen.firsts(chunk, &self.key, true)?;
                    return Ok(Some((chunk, State::Passing(input, seen))));
                }
                let key = self.key.clone();
                let unseen = input.map(move |chunk| seen.firsts(chunk?, &key, false)).boxed();
                self.sorted.run(vec![unseen], memory_bytes, limit, runtime)
            }
        };
        Ok(rest.next().await.transpose()?.map(|chunk| (chunk, State::Sorted(rest))))
    }
}

impl Seen {
    fn has_room(&mut self) -> bool {
        self.bytes <= self.most && self.memory.try_resize(self.bytes).is_ok()
    }

    /// Leaves out the rows whose key was seen; with `remember`, the others' keys are seen from now on.
    fn firsts(&mut self, chunk: Chunk, key: &[usize], remember: bool) -> Result<Chunk, Failure> {
        let failed = |error| Failure::permanent("the keys of `dedupe` cannot be compared").cause(error);
        let columns: Vec<_> = key.iter().map(|place| chunk.batch.column(*place).clone()).collect();
        let rows = self.converter.convert_columns(&columns).map_err(failed)?;
        let mut is_first = |key: &[u8]| {
            let first = !self.keys.contains(key);
            if first && remember {
                self.keys.insert(key.into());
                self.bytes += key.len() + KEY_BYTES;
            }
            first
        };
        let keep: BooleanArray = rows.iter().map(|row| Some(is_first(row.as_ref()))).collect();
        let batch = filter_record_batch(&chunk.batch, &keep).map_err(failed)?;
        // A read cannot go on behind this row: the keys that were seen are known to this process alone.
        Ok(Chunk { batch, position: None, ..chunk })
    }
}
