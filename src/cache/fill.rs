//! Filling a cache: a load whose target is the cache, seen as a whole once it is published.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use super::pace::Pace;
use super::remote::{Begun, Kind, Put, Remote};
use super::shelf::{Entry, Kept, Shelf};
use super::{Cache, Filling, micros};
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
            tables: Vec::new(),
        }))
    }

    /// The filling begins here, before anything is read: a change that is made from now on goes into it as well, and is newer than what it reads.
    async fn claim(&self, _: &LoadKey) -> Result<Claim, Failure> {
        let cache = &self.0;
        let begun = match &cache.remote {
            Some(remote) => Some(remote.begin().await?),
            None => None,
        };
        let mut filling = cache.filling();
        let epoch = begun.map_or(filling.epoch + 1, |begun| begun.generation);
        *filling = Filling {
            epoch,
            shelf: begun.is_none().then(|| Arc::new(cache.new_shelf())),
            begun: begun.unwrap_or_default(),
            keys: Arc::default(),
            pace: cache.spec.rate.map(|rate| Arc::new(Pace::new(rate))),
        };
        // Neither memory nor what a cut filling left on the server is gone on with: it is as of another time.
        Ok(Claim { epoch, ..Claim::default() })
    }

    async fn prepare(&self, load: &Load, _: &str) -> Result<(), Failure> {
        check(self.0.filling().epoch, load)
    }

    async fn writer(&self, load: &Load, _: &str, _: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let filling = self.0.filling();
        check(filling.epoch, load)?;
        let place = match (&filling.shelf, &self.0.remote) {
            (Some(shelf), _) => Filled::Memory(Arc::clone(shelf)),
            (None, Some(_)) => Filled::Server(filling.begun, Arc::clone(&filling.keys)),
            (None, None) => return Err(Failure::permanent("a cache is written before its filling began")),
        };
        Ok(Box::new(Filler { cache: Arc::clone(&self.0), place, pace: filling.pace.clone() }))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        if let Some(remote) = &self.0.remote {
            return self.0.publish_shared(remote, load).await;
        }
        let mut filling = self.0.filling();
        check(filling.epoch, load)?;
        let Some(shelf) = filling.shelf.take() else { return Ok(()) };
        self.0.enough(shelf.rows(), self.0.shelf().map_or(0, |before| before.rows()))?;
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
    if epoch == load.epoch { Ok(()) } else { Err(fenced()) }
}

fn fenced() -> Failure {
    Failure::new(FailureKind::Fenced, "a newer filling of the cache has begun")
}

impl Cache {
    /// Lets a filling of the server be seen, and sweeps older ones away.
    async fn publish_shared(&self, remote: &Remote, load: &Load) -> Result<(), Failure> {
        let (begun, rows) = {
            let filling = self.filling();
            check(filling.epoch, load)?;
            (filling.begun, filling.keys.load(Ordering::Relaxed))
        };
        self.enough(rows, remote.rows().await?)?;
        if !remote.show(begun, rows).await? {
            return Err(fenced());
        }
        if self.shelf().is_some() {
            self.show(self.new_shelf());
        }
        // Nobody sees what is swept away; what is left of it goes with the next filling.
        drop(remote.sweep().await);
        Ok(())
    }

    /// Whether a filling has rows enough to replace the one before.
    fn enough(&self, rows: u64, before: u64) -> Result<(), Failure> {
        let least = match self.spec.min_rows {
            None => 0,
            Some(Amount::Rows(rows)) => rows,
            Some(Amount::Share(share)) => (before as f64 * share).ceil() as u64,
        };
        if rows >= least {
            return Ok(());
        }
        Err(Failure::permanent(format!("the cache `{}` was filled with {rows} rows, and `min_rows` asks for {least}", self.name))
            .help("look at what fills it; the rows before stay in place"))
    }
}

/// Where a filling goes.
enum Filled {
    Memory(Arc<Shelf>),
    /// To the server, where its keys are counted.
    Server(Begun, Arc<AtomicU64>),
}

struct Filler {
    cache: Arc<Cache>,
    place: Filled,
    pace: Option<Arc<Pace>>,
}

#[async_trait]
impl Writer for Filler {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let burst = self.pace.as_ref().map_or(usize::MAX, |pace| pace.burst());
        let mut at = 0;
        while at < batch.num_rows() {
            let part = batch.slice(at, burst.min(batch.num_rows() - at));
            at += part.num_rows();
            if let Some(pace) = &self.pace {
                pace.wait(part.num_rows()).await;
            }
            match &self.place {
                Filled::Memory(shelf) => self.cache.fill_memory(shelf, &part)?,
                Filled::Server(begun, keys) => self.cache.fill_server(*begun, keys, &part).await?,
            }
        }
        Ok(())
    }

    async fn commit(self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        Ok(Committed { rows: mark.rows, bytes: 0 })
    }
}

impl Cache {
    fn fill_memory(&self, shelf: &Shelf, batch: &RecordBatch) -> Result<(), Failure> {
        let (keys, names) = self.keys_of(batch.columns())?;
        let rows = self.row_form.encode(batch.columns())?;
        // What the filling reads was true when it began, for all it knows.
        let since_us = shelf.since_us;
        let versions = self.versions(batch, self.version, since_us)?;
        for (at, (key, row)) in names.iter().zip(rows.iter()).enumerate() {
            // A key that holds a NULL could never be found.
            if keys.iter().all(|column| column.is_valid(at)) {
                let kept = Kept::Row(row.data().into());
                shelf.put(key.data(), Entry { kept, version: versions[at], since_us, until_us: self.until_us(self.now_us()) });
            }
        }
        let most = self.spec.memory_bytes;
        if self.origin.is_none() && shelf.bytes() > most {
            let message = format!("the cache `{}` needs more than the {most} bytes it may use", self.name);
            return Err(Failure::permanent(message).help("raise `levels: { memory: { max: … } }`, or keep fewer rows or columns"));
        }
        Ok(())
    }

    async fn fill_server(&self, begun: Begun, count: &AtomicU64, batch: &RecordBatch) -> Result<(), Failure> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let (keys, _) = self.keys_of(batch.columns())?;
        let names: Vec<Vec<u8>> = remote.names(&keys).iter().map(|name| remote.named(name, begun.generation).into_owned()).collect();
        let versions = self.stated_versions(batch, self.version)?;
        let put = |row: usize| Put {
            name: &names[row],
            kind: Kind::Row,
            version: versions.as_ref().map(|versions| versions[row]),
            since_us: Some(begun.since_us),
            life_us: self.life_us(),
            beyond_us: micros(self.spec.stale_if_error),
            row,
        };
        let puts: Vec<Put<'_>> = (0..batch.num_rows()).filter(|row| keys.iter().all(|column| column.is_valid(*row))).map(put).collect();
        // Which of the keys were written before the server failed is not known, and they are counted: the filling begins again.
        let written = remote.put(&puts, batch.columns()).await.map_err(Failure::view_lost)?;
        count.fetch_add(written.iter().filter(|written| written.first).count() as u64, Ordering::Relaxed);
        Ok(())
    }
}
