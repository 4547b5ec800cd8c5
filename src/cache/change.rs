//! Changes that other stages make to a cache: rows that are updated or removed after the stage's other outputs are committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use super::remote::{Kind, Put, Remote};
use super::shelf::Kept;
use super::{Cache, micros, orders};
use crate::connectors::{Claim, Committed, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Grade, Mapped, Schema};
use crate::define::pipeline::CacheMode;
use crate::failure::Failure;

/// Splits that may be written at the same time: as many as anybody could ask for.
const WRITERS: usize = 1024;

/// Bytes of changes that wait for the commit of a split.
const MOST_BYTES: usize = 256 << 20;

/// The sink that updates rows of a cache, or removes them.
pub struct Change {
    cache: Arc<Cache>,
    mode: CacheMode,
    version: Option<String>,
    epoch: AtomicU64,
}

/// Where the cache's columns stand in the rows that come.
struct Places {
    /// Each of the cache's columns; only those of the key are there when rows are removed.
    columns: BTreeMap<usize, usize>,
    version: Option<usize>,
}

impl Change {
    /// `version` names the column of the rows that holds their version, when that is not the cache's own name for it.
    pub fn new(cache: Arc<Cache>, mode: CacheMode, version: Option<String>) -> Self {
        Self { cache, mode, version, epoch: AtomicU64::new(0) }
    }

    fn places(&self, incoming: &Schema) -> Result<Places, Vec<TargetProblem>> {
        let cache = &self.cache;
        let mut problems = Vec::new();
        let mut columns = BTreeMap::new();
        for (number, column) in cache.schema.columns.iter().enumerate() {
            if self.mode == CacheMode::Invalidate && !cache.key.contains(&number) {
                continue;
            }
            match incoming.find(&column.name) {
                Some((place, found)) if found.ty == column.ty => {
                    columns.insert(number, place);
                }
                Some((_, found)) => {
                    let message = format!("`{}` is {}, and {} in the cache `{}`", column.name, found.ty, column.ty, cache.name);
                    problems.push(problem(
                        "cache-columns",
                        message,
                        format!("put a step before it: `- cast: {{ {}: \"{}\" }}`", column.name, column.ty),
                    ));
                }
                None => {
                    let message = format!("the rows have no column `{}`, which the cache `{}` has", column.name, cache.name);
                    problems.push(problem(
                        "cache-columns",
                        message,
                        "add it to the rows; or write `mode: invalidate`, which needs the key alone",
                    ));
                }
            }
        }
        let wanted = cache.version.map(|version| self.version.as_ref().unwrap_or(&cache.schema.columns[version].name));
        let version = wanted.and_then(|name| match incoming.find(name) {
            Some((place, column)) if orders(&column.ty) => Some(place),
            Some((_, column)) => {
                let message = format!("`{name}` is {}, which no version is", column.ty);
                problems.push(problem("cache-version", message, "a version is a whole number, a date or a timestamp"));
                None
            }
            None => {
                let message = format!("the rows have no column `{name}`, and the cache `{}` compares versions", cache.name);
                problems.push(problem("cache-version", message, "name the column that holds the version: `version: …`"));
                None
            }
        });
        if problems.is_empty() { Ok(Places { columns, version }) } else { Err(problems) }
    }
}

fn problem(code: &'static str, message: String, help: impl Into<String>) -> TargetProblem {
    TargetProblem { code, field: "cache", message, help: help.into() }
}

#[async_trait]
impl Sink for Change {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let places = match self.places(incoming) {
            Ok(places) => places,
            Err(problems) => return Ok(Err(problems)),
        };
        let what = if self.mode == CacheMode::Update { "kept" } else { "removed by" };
        let mapped = |(place, column): (usize, &crate::data::Column)| {
            let used = places.columns.values().any(|used| *used == place) || places.version == Some(place);
            Mapped {
                name: column.name.clone(),
                native: if used { what } else { "not used" }.to_owned(),
                grade: Grade::Exact,
                reason: String::new(),
            }
        };
        Ok(Ok(Target {
            columns: incoming.columns.iter().enumerate().map(mapped).collect(),
            ddl: Vec::new(),
            exists: true,
            wire: None,
            writers: WRITERS,
            checkpoints: true,
            whole: false,
            guarantee: "after the other outputs are committed, and again when in doubt; what is older never replaces what is newer"
                .to_owned(),
            reads_as: incoming.clone(),
            tables: Vec::new(),
        }))
    }

    async fn claim(&self, _: &LoadKey) -> Result<Claim, Failure> {
        // Changes keep no marks: making one twice changes nothing.
        Ok(Claim { epoch: self.epoch.fetch_add(1, Ordering::Relaxed) + 1, ..Claim::default() })
    }

    async fn prepare(&self, _: &Load, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn writer(&self, load: &Load, _: &str, _: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let places = self.places(&load.schema).map_err(|problems| Failure::permanent(problems[0].message.clone()))?;
        Ok(Box::new(Changer { cache: Arc::clone(&self.cache), mode: self.mode, places, waiting: Vec::new(), bytes: 0 }))
    }

    async fn publish(&self, _: &Load) -> Result<(), Failure> {
        Ok(())
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("a cache is read by key only"))
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, _: &LoadKey) -> Result<(), Failure> {
        Ok(())
    }
}

/// Changes that wait for the commit.
struct Changer {
    cache: Arc<Cache>,
    mode: CacheMode,
    places: Places,
    waiting: Vec<RecordBatch>,
    bytes: usize,
}

impl Changer {
    /// Makes the changes that wait. A row without a version counts from now: what the database holds was committed before.
    async fn apply(&mut self) -> Result<(), Failure> {
        for batch in std::mem::take(&mut self.waiting) {
            match &self.cache.remote {
                Some(remote) => self.change_shared(remote, &batch).await?,
                None => self.change_memory(&batch)?,
            }
        }
        self.bytes = 0;
        Ok(())
    }

    /// The columns of the key of some rows, and whether a row has a whole key.
    fn keys(&self, batch: &RecordBatch) -> (Vec<ArrayRef>, impl Fn(&usize) -> bool) {
        let key = |number: &usize| Arc::clone(batch.column(self.places.columns[number]));
        let keys: Vec<ArrayRef> = self.cache.key.iter().map(key).collect();
        let columns = keys.clone();
        (keys, move |row| columns.iter().all(|column| column.is_valid(*row)))
    }

    /// The cache's columns of some rows; only those of the key when rows are removed.
    fn columns(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.places.columns.values().map(|place| Arc::clone(batch.column(*place))).collect()
    }

    fn change_memory(&self, batch: &RecordBatch) -> Result<(), Failure> {
        let cache = &self.cache;
        let versions = cache.versions(batch, self.places.version, cache.now_us())?;
        let (keys, whole) = self.keys(batch);
        let names = cache.key_form.encode(&keys)?;
        let rows = match self.mode {
            CacheMode::Invalidate => None,
            CacheMode::Fill | CacheMode::Update => Some(cache.row_form.encode(&self.columns(batch))?),
        };
        let kept = |row: usize| rows.as_ref().map_or(Kept::Gone, |rows| Kept::Row(rows.row(row).data().into()));
        let rows = (0..batch.num_rows()).filter(whole);
        cache.change(rows.map(|row| (names.row(row).data().to_vec(), kept(row), versions[row])));
        Ok(())
    }

    /// Changes the rows that processes share. A row without a version counts from when the server writes it.
    async fn change_shared(&self, remote: &Remote, batch: &RecordBatch) -> Result<(), Failure> {
        let cache = &self.cache;
        let (keys, whole) = self.keys(batch);
        let names = remote.names(&keys);
        let versions = cache.stated_versions(batch, self.places.version)?;
        let (kind, columns) = match self.mode {
            CacheMode::Invalidate => (Kind::Gone, Vec::new()),
            CacheMode::Fill | CacheMode::Update => (Kind::Row, self.columns(batch)),
        };
        let put = |row: usize| Put {
            name: &names[row],
            kind,
            version: versions.as_ref().map(|versions| versions[row]),
            since_us: None,
            life_us: cache.life_us(),
            beyond_us: micros(cache.spec.stale_if_error),
            row,
        };
        let puts: Vec<Put<'_>> = (0..batch.num_rows()).filter(whole).map(put).collect();
        let changed = remote.change(&puts, &columns).await;
        // Also after a failure: some of them may have been made.
        cache.forget(&cache.key_form.encode(&keys)?);
        changed
    }
}

#[async_trait]
impl Writer for Changer {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        self.bytes += batch.get_array_memory_size();
        if self.bytes > MOST_BYTES {
            let message = format!("more than {MOST_BYTES} bytes of changes of the cache `{}` wait for one commit", self.cache.name);
            return Err(Failure::permanent(message).help("cut the source into smaller `splits`, or change the cache in a stage of its own"));
        }
        self.waiting.push(batch);
        Ok(())
    }

    async fn checkpoint(&mut self, _: Mark) -> Result<Committed, Failure> {
        self.apply().await?;
        Ok(Committed::default())
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        self.apply().await?;
        Ok(Committed { rows: mark.rows, bytes: 0 })
    }
}
