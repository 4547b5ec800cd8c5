//! Keyed rows that stages look up.
//!
//! A [`Cache`] belongs to one stage of kind `cache`. It is filled by a sink (`fill`), so that a filling has the splits, retries and
//! bad rows of any load, and becomes visible as a whole: lookups see the old rows until the last new one is there. `find` joins the keys of
//! a batch against it; what is missing is loaded from the `origin`, by one query for the misses of all batches (`flights`). `change` is
//! the sink by which other stages update or remove rows.
//!
//! Rows are in the memory of the process (`shelf`), or in Redis (`remote`), where processes share them: `shared` reads those, `fetch` loads what
//! they lack so that one process asks for all, and the memory is a level before them. `pace` holds a filling to a rate.
//!
//! Rows are kept in Arrow's row form (`rows`), which is compact, compares by bytes and turns back into columns without touching a value by
//! itself. Every entry has a `version`; the `shelf` lets no older one take the place of a newer one, whichever way it came.

mod change;
mod fetch;
mod fill;
mod find;
mod flights;
mod gathered;
mod origin;
mod pace;
mod remote;
mod rows;
mod shared;
mod shelf;
#[cfg(test)]
mod tests;
mod version;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use arrow::row::Rows;

use self::flights::Flights;
use self::pace::Pace;
use self::remote::{Begun, Remote};
use self::rows::RowForm;
use self::shelf::{Entry, Kept, Shelf};
use crate::clock::Stopwatch;
use crate::connectors::Sink;
use crate::connectors::redis::Server;
use crate::data::{Schema, Type};
use crate::define::pipeline::{Cache as Spec, CacheMode};
use crate::failure::Failure;
use crate::transform::Table;

pub use origin::Origin;
pub use remote::OWN;
pub use version::orders;

/// The cache of one stage.
pub struct Cache {
    name: String,
    spec: Spec,
    schema: Schema,
    /// Numbers of the columns that name a row.
    key: Vec<usize>,
    /// Number of the column that orders the changes of a row.
    version: Option<usize>,
    key_form: RowForm,
    row_form: RowForm,
    /// Where rows are kept that processes share. The memory is then a level before it.
    remote: Option<Remote>,
    /// Batches of changes that this process has made to what is shared. Held while what it changed leaves the memory, and while rows enter it.
    changes: RwLock<u64>,
    /// Until when the server is not asked, because it failed; in microseconds since the cache was made.
    down_until_us: AtomicU64,
    /// Where rows come from that are not there.
    origin: Option<Origin>,
    flights: Flights,
    /// Times count from here.
    watch: Stopwatch,
    /// What lookups see; nothing before the first filling is complete.
    current: RwLock<Option<Arc<Shelf>>>,
    filling: Mutex<Filling>,
}

/// The filling under way.
#[derive(Default)]
struct Filling {
    /// Of the newest one.
    epoch: u64,
    /// Its rows, when they are in memory.
    shelf: Option<Arc<Shelf>>,
    /// Its beginning on the server, and how many keys it has there.
    begun: Begun,
    keys: Arc<AtomicU64>,
    /// How fast it may be.
    pace: Option<Arc<Pace>>,
}

impl Cache {
    /// An empty cache of rows with these columns; `key` and `version` are numbers of columns. Fails when a column's type cannot be kept.
    pub fn new(
        name: &str,
        spec: &Spec,
        schema: &Schema,
        (key, version): (Vec<usize>, Option<usize>),
        (origin, server): (Option<Origin>, Option<Arc<Server>>),
    ) -> Result<Arc<Self>, Failure> {
        let columns = |places: &mut dyn Iterator<Item = usize>| places.map(|place| schema.columns[place].ty.to_arrow()).collect();
        let cache = Self {
            name: name.to_owned(),
            spec: spec.clone(),
            schema: schema.clone(),
            key_form: RowForm::new(columns(&mut key.iter().copied()))?,
            row_form: RowForm::new(columns(&mut (0..schema.columns.len())))?,
            remote: server.zip(spec.home.as_ref()).map(|(server, home)| {
                let oldest = spec.ttl.filter(|_| origin.is_none());
                Remote::new(server, &home.name, schema, &key, spec.filled).no_older_than(oldest)
            }),
            key,
            version,
            changes: RwLock::default(),
            down_until_us: AtomicU64::new(0),
            origin,
            flights: Flights::default(),
            watch: Stopwatch::start(),
            current: RwLock::default(),
            filling: Mutex::default(),
        };
        let at_once = if cache.remote.is_some() { spec.memory_ttl.is_some() } else { !spec.filled };
        if at_once {
            // Nothing to wait for: the first misses fill it.
            cache.show(cache.new_shelf());
        }
        Ok(Arc::new(cache))
    }

    /// Whether rows with these columns fit it.
    pub fn takes(&self, schema: &Schema) -> bool {
        let same = |(a, b): (&crate::data::Column, &crate::data::Column)| a.name == b.name && a.ty == b.ty;
        self.schema.columns.len() == schema.columns.len() && self.schema.columns.iter().zip(&schema.columns).all(same)
    }

    /// What `lookup` steps see of it.
    pub fn table(self: &Arc<Self>) -> Table {
        let key = self.key.iter().map(|place| self.schema.columns[*place].clone()).collect();
        Table { key, schema: self.schema.clone(), rows: Arc::new(find::Finder(Arc::clone(self))) }
    }

    /// Writes to it. `version` names the column of the rows that holds their version, when that is not the cache's own name for it.
    pub fn sink(self: &Arc<Self>, mode: CacheMode, version: Option<String>) -> Arc<dyn Sink> {
        match mode {
            CacheMode::Fill => Arc::new(fill::Fill(Arc::clone(self))),
            CacheMode::Update | CacheMode::Invalidate => Arc::new(change::Change::new(Arc::clone(self), mode, version)),
        }
    }

    /// Whether lookups can be answered.
    pub fn is_warm(&self) -> bool {
        self.remote.is_some() || self.shelf().is_some()
    }

    fn shelf(&self) -> Option<Arc<Shelf>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets lookups see another shelf.
    fn show(&self, shelf: Shelf) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shelf));
    }

    fn new_shelf(&self) -> Shelf {
        if self.origin.is_some() || self.remote.is_some() {
            Shelf::bounded(self.now_us(), self.spec.memory_bytes)
        } else {
            Shelf::unbounded(self.now_us())
        }
    }

    /// The filling under way. What holds it may change rows that a filling also has; see [`Cache::change`].
    fn filling(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the cache was made.
    fn now_us(&self) -> u64 {
        micros(self.watch.elapsed())
    }

    /// Until when a row is served that was true at a time. In a full cache a row has no end of its own: the whole is as old as its filling.
    fn until_us(&self, since_us: u64) -> u64 {
        match self.spec.ttl {
            Some(ttl) if self.origin.is_some() => {
                let ttl = ttl.mul_f64(1.0 - self.spec.jitter * fastrand::f64());
                // Before a server, the memory keeps nothing for longer than it may.
                since_us.saturating_add(micros(self.spec.memory_ttl.map_or(ttl, |most| most.min(ttl))))
            }
            _ => u64::MAX,
        }
    }

    /// The types of the key's columns.
    fn key_types(&self) -> Vec<Type> {
        self.key.iter().map(|place| self.schema.columns[*place].ty.clone()).collect()
    }

    /// The versions of some rows: those of their column, else the time at which they were read.
    fn versions(&self, batch: &RecordBatch, column: Option<usize>, read_us: u64) -> Result<Vec<u64>, Failure> {
        Ok(self.stated_versions(batch, column)?.unwrap_or_else(|| vec![read_us; batch.num_rows()]))
    }

    /// The versions of some rows, when a column holds them.
    fn stated_versions(&self, batch: &RecordBatch, column: Option<usize>) -> Result<Option<Vec<u64>>, Failure> {
        column.map(|column| version::of_column(batch.column(column))).transpose()
    }

    /// The keys of some rows, as columns and in row form.
    fn keys_of(&self, columns: &[ArrayRef]) -> Result<(Vec<ArrayRef>, Rows), Failure> {
        let keys: Vec<ArrayRef> = self.key.iter().map(|place| Arc::clone(&columns[*place])).collect();
        let rows = self.key_form.encode(&keys)?;
        Ok((keys, rows))
    }

    /// Changes rows for lookups, and for those that will see the filling under way: which was read before, and knows nothing of the change.
    fn change(&self, changes: impl Iterator<Item = (Vec<u8>, Kept, u64)>) {
        // A filling cannot become visible between the two.
        let filling = self.filling();
        let shelves: Vec<Arc<Shelf>> = self.shelf().into_iter().chain(filling.shelf.clone()).collect();
        let since_us = self.now_us();
        for (key, kept, version) in changes {
            let entry = Entry { kept, version, since_us, until_us: self.until_us(since_us) };
            for shelf in &shelves {
                shelf.put(&key, entry.clone());
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
