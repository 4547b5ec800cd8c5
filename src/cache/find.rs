//! Lookups: the keys of a batch against the levels of the cache, and against its origin where that is asked for what is missing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::ArrayRef;
use async_trait::async_trait;
use futures::{StreamExt, stream};

use super::flights::{Flights, Joined, Outcome};
use super::gathered::{Gathered, Place};
use super::remote::Remote;
use super::rows::Distinct;
use super::shelf::{Kept, Shelf};
use super::{Cache, micros};
use crate::define::pipeline::OnBackendError;
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
        let shelf = if cache.remote.is_some() { cache.shelf() } else { Some(cache.warm_shelf()?) };
        let rows = cache.key_form.encode(keys)?;
        let distinct = Distinct::of(keys, &rows);
        let names: Vec<&[u8]> = distinct.firsts.iter().map(|first| rows.row(*first).data()).collect();
        Tally::add(&tally.keys, names.len() as u64);
        let gathered = Gathered::new(cache, columns, names.len());
        let mut search = Search { cache, missing: (0..names.len()).collect(), names, stale: HashMap::new(), gathered, tally };
        if let Some(shelf) = shelf {
            search.shelf(&shelf)?;
        }
        if let Some(remote) = &cache.remote
            && !search.missing.is_empty()
        {
            search.server(remote).await?;
        }
        Tally::add(&tally.misses, search.missing.len() as u64);
        if cache.origin.is_some() && !search.missing.is_empty() {
            search.load().await?;
        }
        search.gathered.looked(&distinct)
    }
}

/// A row past its time, to be served when nothing better is to be had.
enum Stale {
    /// In row form.
    Row(Arc<[u8]>),
    /// Among what was gathered.
    Place(Place),
}

/// One lookup under way. Keys are numbered.
struct Search<'a> {
    cache: &'a Arc<Cache>,
    /// The keys in row form.
    names: Vec<&'a [u8]>,
    /// Neither found nor known to be nowhere, so far.
    missing: Vec<usize>,
    /// What may be served of missing keys when it comes to that.
    stale: HashMap<usize, Stale>,
    gathered: Gathered<'a>,
    tally: &'a Tally,
}

impl Cache {
    /// What lookups see of a cache that is in memory alone, or why they cannot.
    fn warm_shelf(&self) -> Result<Arc<Shelf>, Failure> {
        let shelf = self.shelf().ok_or_else(|| {
            Failure::permanent(format!("the cache `{}` has not been filled", self.name))
                .help("let its stage run too: `--only` leaves it out unless it is named")
        })?;
        match self.spec.ttl {
            Some(ttl) if self.origin.is_none() && self.now_us() > shelf.since_us.saturating_add(micros(ttl)) => {
                Err(Failure::permanent(format!("the rows of the cache `{}` are older than its `ttl` of {ttl:?}", self.name))
                    .help("`refresh` it, give it a longer `ttl`, or `load:` what is missing"))
            }
            _ => Ok(shelf),
        }
    }
}

impl Search<'_> {
    /// Takes what the memory has.
    fn shelf(&mut self, shelf: &Shelf) -> Result<(), Failure> {
        let now_us = self.cache.now_us();
        let stale_us = micros(self.cache.spec.stale_if_error);
        let (mut found, mut nowhere, mut oldest_us) = (Vec::with_capacity(self.names.len()), 0, 0);
        let mut missing = Vec::new();
        for (key, name) in self.names.iter().enumerate() {
            match shelf.get(name) {
                Some(entry) if entry.until_us >= now_us => match entry.kept {
                    Kept::Row(row) => {
                        oldest_us = oldest_us.max(now_us.saturating_sub(entry.since_us));
                        found.push((key, row));
                    }
                    Kept::Nowhere => nowhere += 1,
                    Kept::Gone => missing.push(key),
                },
                Some(entry) => {
                    if let Kept::Row(row) = entry.kept
                        && stale_us > 0
                        && entry.until_us.saturating_add(stale_us) >= now_us
                    {
                        self.stale.insert(key, Stale::Row(row));
                    }
                    missing.push(key);
                }
                None => missing.push(key),
            }
        }
        self.missing = missing;
        Tally::add(&self.tally.hits, found.len() as u64);
        Tally::add(&self.tally.memory_hits, found.len() as u64);
        Tally::add(&self.tally.negative_hits, nowhere);
        self.tally.oldest_ms.fetch_max(oldest_us / 1000, Ordering::Relaxed);
        self.gathered.rows(found.iter().map(|(key, row)| (*key, &**row)))
    }

    /// Takes what the server has of the missing keys. While it cannot be reached, does what the pipeline says.
    async fn server(&mut self, remote: &Remote) -> Result<(), Failure> {
        let asked: Vec<&[u8]> = self.missing.iter().map(|key| self.names[*key]).collect();
        let shared = match self.cache.shared(remote, &asked, self.gathered.columns).await {
            Ok(shared) => shared,
            Err(failure) => return self.without_server(failure),
        };
        let part = self.gathered.part(shared.columns);
        let missing = std::mem::take(&mut self.missing);
        self.gathered.place(shared.fresh.iter().map(|(place, row)| (missing[*place], (part, *row))));
        self.stale.extend(shared.stale.iter().map(|(place, row)| (missing[*place], Stale::Place((part, *row)))));
        Tally::add(&self.tally.hits, shared.fresh.len() as u64);
        Tally::add(&self.tally.negative_hits, shared.nowhere.len() as u64);
        self.tally.oldest_ms.fetch_max(shared.oldest_us / 1000, Ordering::Relaxed);
        let mut answered = vec![false; missing.len()];
        let places = shared.fresh.iter().map(|(place, _)| place).chain(&shared.nowhere);
        places.for_each(|place| answered[*place] = true);
        self.missing = missing.into_iter().zip(answered).filter(|(_, answered)| !answered).map(|(key, _)| key).collect();
        Ok(())
    }

    fn without_server(&mut self, failure: Failure) -> Result<(), Failure> {
        match self.cache.spec.on_backend_error {
            _ if failure.kind != FailureKind::Transient => Err(failure),
            OnBackendError::Bypass => {
                Tally::add(&self.tally.bypassed, self.missing.len() as u64);
                Ok(())
            }
            OnBackendError::Stale if self.missing.iter().all(|key| self.stale.contains_key(key)) => {
                let missing = std::mem::take(&mut self.missing);
                self.serve_stale(&missing)
            }
            OnBackendError::Fail | OnBackendError::Stale => Err(failure),
        }
    }

    /// Serves these keys from the past.
    fn serve_stale(&mut self, keys: &[usize]) -> Result<(), Failure> {
        Tally::add(&self.tally.stale_served, keys.len() as u64);
        let mut rows = Vec::new();
        for key in keys {
            match self.stale.get(key) {
                Some(Stale::Row(row)) => rows.push((*key, Arc::clone(row))),
                Some(Stale::Place(place)) => self.gathered.place([(*key, *place)]),
                None => {}
            }
        }
        self.gathered.rows(rows.iter().map(|(key, row)| (*key, &**row)))
    }

    /// Gets missing rows from the origin, or from the past when the origin fails and the pipeline allows it.
    async fn load(&mut self) -> Result<(), Failure> {
        let Some(spec) = &self.cache.spec.load else { return Ok(()) };
        let keys: Vec<Vec<u8>> = self.missing.iter().map(|key| self.names[*key].to_vec()).collect();
        let Joined { flights, of_key, came, coalesced } = Flights::join(self.cache, &keys, spec.batch, spec.linger);
        Tally::add(&self.tally.coalesced, coalesced);
        let came: Vec<(usize, Arc<[u8]>)> = came
            .into_iter()
            .filter_map(|(place, kept)| if let Kept::Row(row) = kept { Some((self.missing[place], row)) } else { None })
            .collect();
        self.gathered.rows(came.iter().map(|(key, row)| (*key, &**row)))?;
        let landed = flights.into_iter().map(|flight| async move { (flight.id, flight.outcome.await) });
        let outcomes: Vec<(u64, Outcome)> = stream::iter(landed).buffer_unordered(LOADS).collect().await;
        let mut failed = Vec::new();
        for (id, outcome) in &outcomes {
            match &**outcome {
                Ok(loaded) => {
                    if loaded.count() {
                        Tally::add(&self.tally.loads, loaded.queries);
                        Tally::add(&self.tally.load_ms, loaded.took_ms);
                    }
                    let part = self.gathered.part(self.gathered.wanted(&loaded.columns));
                    let rows = self.missing.iter().zip(&keys).filter_map(|(key, name)| Some((*key, (part, *loaded.rows.get(name)?))));
                    self.gathered.place(rows);
                }
                Err(failure) => failed.push((*id, failure)),
            }
        }
        let Some((_, failure)) = failed.first() else { return Ok(()) };
        let of_failed = |load: &Option<u64>| failed.iter().any(|(id, _)| Some(*id) == *load);
        let unanswered: Vec<usize> = self.missing.iter().zip(&of_key).filter(|(_, load)| of_failed(load)).map(|(key, _)| *key).collect();
        if failure.kind == FailureKind::Cancelled || unanswered.iter().any(|key| !self.stale.contains_key(key)) {
            // Others wait for the same failure: each gets its own.
            let again = Failure::new(failure.kind, failure.to_string());
            return Err(failure.help.iter().fold(again, |again, help| again.help(help.clone())));
        }
        self.serve_stale(&unanswered)
    }
}
