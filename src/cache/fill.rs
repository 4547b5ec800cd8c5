//! Filling a cache: a load whose target is the cache, seen as a whole once it is published.

use std::sync::{Arc, PoisonError};

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use super::Cache;
use super::shelf::{Entry, Kept, Shelf};
use crate::connectors::{Claim, Committed, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Grade, Mapped, Schema};
use crate::define::pipeline::Amount;
use crate::failure::{Failure, FailureKind};

/// Splits that may be written at the same time: as many as anybody could ask for.
const WRITERS: usize = 1024;

/// The sink that fills a cache.
pub struct Fill(pub Arc<Cache>);

#[async_trait]
impl Sink for Fill {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let kept = |name: &String| Mapped { name: name.clone(), native: "kept".to_owned(), grade: Grade::Exact, reason: String::new() };
        Ok(Ok(Target {
            columns: incoming.columns.iter().map(|column| kept(&column.name)).collect(),
            ddl: Vec::new(),
            exists: true,
            wire: None,
            writers: WRITERS,
            checkpoints: false,
            whole: false,
            guarantee: "lookups wait until all rows are there; a later filling replaces them in one step".to_owned(),
            reads_as: incoming.clone(),
        }))
    }

    async fn claim(&self, _: &LoadKey) -> Result<Claim, Failure> {
        let mut filling = self.0.filling();
        filling.epoch += 1;
        // Memory does not outlive its process: there is never a load to go on with.
        Ok(Claim { epoch: filling.epoch, found: None, left_behind: 0 })
    }

    async fn prepare(&self, load: &Load, _: &str) -> Result<(), Failure> {
        let mut filling = self.0.filling();
        check(filling.epoch, load)?;
        filling.shelf = Some(Arc::new(self.0.new_shelf()));
        Ok(())
    }

    async fn writer(&self, load: &Load, _: &str, _: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let filling = self.0.filling();
        check(filling.epoch, load)?;
        let shelf = filling.shelf.clone().ok_or_else(|| Failure::permanent("a cache is written before its filling began"))?;
        Ok(Box::new(Filler { cache: Arc::clone(&self.0), shelf }))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        let mut filling = self.0.filling();
        check(filling.epoch, load)?;
        let Some(shelf) = filling.shelf.take() else { return Ok(()) };
        self.0.enough(shelf.rows())?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Some(shelf);
        Ok(())
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("a cache is read by key only"))
    }

    fn staged(&self) -> bool {
        true
    }

    async fn abandon(&self, _: &LoadKey) -> Result<(), Failure> {
        self.0.filling().shelf = None;
        Ok(())
    }
}

fn check(epoch: u64, load: &Load) -> Result<(), Failure> {
    if epoch == load.epoch { Ok(()) } else { Err(Failure::new(FailureKind::Fenced, "a newer filling of the cache has begun")) }
}

impl Cache {
    /// Whether a filling has rows enough to replace the one before.
    fn enough(&self, rows: u64) -> Result<(), Failure> {
        let least = match self.spec.min_rows {
            None => 0,
            Some(Amount::Rows(rows)) => rows,
            Some(Amount::Share(share)) => self.shelf().map_or(0, |before| (before.rows() as f64 * share).ceil() as u64),
        };
        if rows >= least {
            return Ok(());
        }
        Err(Failure::permanent(format!("the cache `{}` was filled with {rows} rows, and `min_rows` asks for {least}", self.name))
            .help("look at what fills it; the rows before stay in place"))
    }
}

struct Filler {
    cache: Arc<Cache>,
    shelf: Arc<Shelf>,
}

#[async_trait]
impl Writer for Filler {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let cache = &self.cache;
        let (keys, names) = cache.keys_of(batch.columns())?;
        let rows = cache.row_form.encode(batch.columns())?;
        // What the filling reads was true when it began, for all it knows.
        let since_us = self.shelf.since_us;
        let versions = cache.versions(&batch, cache.version, since_us)?;
        for (at, (key, row)) in names.iter().zip(rows.iter()).enumerate() {
            // A key that holds a NULL could never be found.
            if keys.iter().all(|column| column.is_valid(at)) {
                let kept = Kept::Row(row.data().into());
                self.shelf.put(key.data(), Entry { kept, version: versions[at], since_us, until_us: cache.until_us(cache.now_us()) });
            }
        }
        let most = cache.spec.memory_bytes;
        if cache.origin.is_none() && self.shelf.bytes() > most {
            let message = format!("the cache `{}` needs more than the {most} bytes it may use", cache.name);
            return Err(Failure::permanent(message).help("raise `levels: { memory: { max: … } }`, or keep fewer rows or columns"));
        }
        Ok(())
    }

    async fn commit(self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        Ok(Committed { rows: mark.rows, bytes: 0 })
    }
}
