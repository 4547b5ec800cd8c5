//! Lookups: the keys of a batch against the cache, and against its origin where that is asked for what is missing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, BooleanArray, new_null_array};
use arrow::compute::interleave;
use async_trait::async_trait;
use futures::{StreamExt, stream};

use super::flights::{Flights, Joined, Outcome};
use super::origin::Loaded;
use super::rows::Distinct;
use super::shelf::{Kept, Shelf};
use super::{Cache, micros};
use crate::failure::{Failure, FailureKind};
use crate::transform::{Looked, Lookup, Tally};

/// Loads that one batch waits for at the same time.
const LOADS: usize = 4;

/// Looks into a cache.
pub struct Finder(pub Arc<Cache>);

#[async_trait]
impl Lookup for Finder {
    async fn find(&self, keys: &[ArrayRef], columns: &[usize], tally: &Tally) -> Result<Looked, Failure> {
        let cache = &self.0;
        let shelf = cache.warm_shelf()?;
        let rows = cache.key_form.encode(keys)?;
        let distinct = Distinct::of(keys, &rows);
        let names: Vec<&[u8]> = distinct.firsts.iter().map(|first| rows.row(*first).data()).collect();
        let mut gathered = Gathered::new(cache, columns, names.len());
        let Shelved { found, missing, stale } = cache.shelved(&shelf, &names, tally);
        gathered.rows(found.iter().map(|(key, row)| (*key, &**row)))?;
        Tally::add(&tally.keys, names.len() as u64);
        Tally::add(&tally.misses, missing.len() as u64);
        if cache.origin.is_some() && !missing.is_empty() {
            self.load(&names, &missing, &stale, &mut gathered, tally).await?;
        }
        gathered.looked(&distinct)
    }
}

/// What a shelf knows of some keys, given by their numbers.
struct Shelved {
    found: Vec<(usize, Arc<[u8]>)>,
    /// Neither found nor known to be nowhere.
    missing: Vec<usize>,
    /// Rows of missing keys that may be served when nothing better is to be had.
    stale: HashMap<usize, Arc<[u8]>>,
}

impl Cache {
    /// What lookups see, or why they cannot.
    fn warm_shelf(&self) -> Result<Arc<Shelf>, Failure> {
        let shelf = self.shelf().ok_or_else(|| {
            Failure::permanent(format!("the cache `{}` has not been filled", self.name))
                .help("let its stage run too: `--only` leaves it out unless it is named")
        })?;
        match self.spec.ttl {
            Some(ttl) if self.origin.is_none() && self.now_us() > shelf.since_us.saturating_add(micros(ttl)) => {
                Err(Failure::permanent(format!("the rows of the cache `{}` are older than its `ttl` of {ttl:?}", self.name))
                    .help("give it a longer `ttl`, or `load:` what is missing"))
            }
            _ => Ok(shelf),
        }
    }

    fn shelved(&self, shelf: &Shelf, names: &[&[u8]], tally: &Tally) -> Shelved {
        let now_us = self.now_us();
        let mut shelved = Shelved { found: Vec::with_capacity(names.len()), missing: Vec::new(), stale: HashMap::new() };
        let (mut nowhere, mut oldest_us) = (0, 0);
        for (key, name) in names.iter().enumerate() {
            match shelf.get(name) {
                Some(entry) if entry.until_us >= now_us => match entry.kept {
                    Kept::Row(row) => {
                        oldest_us = oldest_us.max(now_us.saturating_sub(entry.since_us));
                        shelved.found.push((key, row));
                    }
                    Kept::Nowhere => nowhere += 1,
                    Kept::Gone => shelved.missing.push(key),
                },
                Some(entry) => {
                    let last_us = entry.until_us.saturating_add(micros(self.spec.stale_if_error));
                    if let Kept::Row(row) = entry.kept
                        && last_us >= now_us
                        && !self.spec.stale_if_error.is_zero()
                    {
                        shelved.stale.insert(key, row);
                    }
                    shelved.missing.push(key);
                }
                None => shelved.missing.push(key),
            }
        }
        Tally::add(&tally.hits, shelved.found.len() as u64);
        Tally::add(&tally.memory_hits, shelved.found.len() as u64);
        Tally::add(&tally.negative_hits, nowhere);
        tally.oldest_ms.fetch_max(oldest_us / 1000, Ordering::Relaxed);
        shelved
    }
}

impl Finder {
    /// Gets missing rows from the origin, or from the past when the origin fails and the pipeline allows it.
    async fn load(
        &self,
        names: &[&[u8]],
        missing: &[usize],
        stale: &HashMap<usize, Arc<[u8]>>,
        gathered: &mut Gathered<'_>,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let Some(spec) = &self.0.spec.load else { return Ok(()) };
        let keys: Vec<Vec<u8>> = missing.iter().map(|key| names[*key].to_vec()).collect();
        let Joined { flights, of_key, came, coalesced } = Flights::join(&self.0, &keys, spec.batch, spec.linger);
        Tally::add(&tally.coalesced, coalesced);
        let came: Vec<(usize, Arc<[u8]>)> = came
            .into_iter()
            .filter_map(|(place, kept)| if let Kept::Row(row) = kept { Some((missing[place], row)) } else { None })
            .collect();
        gathered.rows(came.iter().map(|(key, row)| (*key, &**row)))?;
        let landed = flights.into_iter().map(|flight| async move { (flight.id, flight.outcome.await) });
        let outcomes: Vec<(u64, Outcome)> = stream::iter(landed).buffer_unordered(LOADS).collect().await;
        let mut failed = Vec::new();
        for (id, outcome) in &outcomes {
            match &**outcome {
                Ok(loaded) => {
                    if loaded.count() {
                        Tally::add(&tally.loads, 1);
                        Tally::add(&tally.load_ms, loaded.took_ms);
                    }
                    gathered.loaded(loaded, missing, &keys);
                }
                Err(failure) => failed.push((*id, failure)),
            }
        }
        let Some((_, failure)) = failed.first() else { return Ok(()) };
        let unanswered =
            missing.iter().zip(&of_key).filter(|(_, load)| failed.iter().any(|(id, _)| Some(*id) == **load)).map(|(key, _)| *key);
        if failure.kind == FailureKind::Cancelled || unanswered.clone().any(|key| !stale.contains_key(&key)) {
            // Others wait for the same failure: each gets its own.
            let again = Failure::new(failure.kind, failure.to_string());
            return Err(failure.help.iter().fold(again, |again, help| again.help(help.clone())));
        }
        Tally::add(&tally.stale_served, unanswered.clone().count() as u64);
        gathered.rows(unanswered.filter_map(|key| stale.get(&key).map(|row| (key, &**row))))
    }
}

/// Columns that were found, in parts, and in which part each key stands.
struct Gathered<'a> {
    cache: &'a Cache,
    columns: &'a [usize],
    /// The first part is one row of NULLs, for the keys that are nowhere.
    parts: Vec<Vec<ArrayRef>>,
    /// Part and row of each distinct key.
    places: Vec<(usize, usize)>,
}

impl<'a> Gathered<'a> {
    fn new(cache: &'a Cache, columns: &'a [usize], keys: usize) -> Self {
        let nothing = columns.iter().map(|column| new_null_array(&cache.schema.columns[*column].ty.to_arrow(), 1)).collect();
        Self { cache, columns, parts: vec![nothing], places: vec![(0, 0); keys] }
    }

    /// Takes keys with their rows in row form.
    fn rows<'r>(&mut self, rows: impl Iterator<Item = (usize, &'r [u8])> + Clone) -> Result<(), Failure> {
        let decoded = self.cache.row_form.decode(rows.clone().map(|(_, row)| row))?;
        let part = self.parts.len();
        for (row, (key, _)) in rows.enumerate() {
            self.places[key] = (part, row);
        }
        self.parts.push(self.columns.iter().map(|column| Arc::clone(&decoded[*column])).collect());
        Ok(())
    }

    /// Takes the rows of a load.
    fn loaded(&mut self, loaded: &Loaded, missing: &[usize], names: &[Vec<u8>]) {
        let part = self.parts.len();
        for (key, name) in missing.iter().zip(names) {
            if let Some(row) = loaded.rows.get(name) {
                self.places[*key] = (part, *row);
            }
        }
        self.parts.push(self.columns.iter().map(|column| Arc::clone(&loaded.columns[*column])).collect());
    }

    /// One row for each row of the batch.
    fn looked(self, distinct: &Distinct) -> Result<Looked, Failure> {
        let places: Vec<(usize, usize)> = distinct.of_row.iter().map(|key| key.map_or((0, 0), |key| self.places[key as usize])).collect();
        let column = |number: usize| {
            let parts: Vec<&dyn Array> = self.parts.iter().map(|part| part[number].as_ref()).collect();
            interleave(&parts, &places)
        };
        let columns = (0..self.columns.len()).map(column).collect::<Result<_, _>>();
        let columns = columns.map_err(|error| Failure::permanent("failed to put looked up columns together").cause(error))?;
        Ok(Looked { columns, found: BooleanArray::from_iter(places.iter().map(|(part, _)| Some(*part > 0))) })
    }
}
