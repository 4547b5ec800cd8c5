//! Loading what a shared cache lacks: of all processes that miss a key, one asks the origin, and the others wait for what it writes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::compute::concat;

use super::origin::Loaded;
use super::remote::{Kind, Lock, Put, Remote};
use super::{Cache, micros};
use crate::clock::{self, Stopwatch};
use crate::define::pipeline::OnBackendError;
use crate::failure::{Failure, FailureKind};

/// How long a lock is held without a sign of life; a dead process blocks nobody for longer.
const LEASE: Duration = Duration::from_secs(10);

/// How often a lock is kept for longer.
const RENEWAL: Duration = Duration::from_secs(3);

/// The first wait for a row that another process loads; each is twice as long as the one before.
const WAIT: Duration = Duration::from_millis(10);

/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// Who failed.
enum Trouble {
    Origin(Failure),
    Server(Failure),
}

impl Cache {
    /// Loads the rows of some keys in row form, and keeps them. Of all processes that miss a key, one asks the origin.
    pub(super) async fn fetch(&self, keys: &[Vec<u8>]) -> Result<Loaded, Failure> {
        let bypass = self.spec.on_backend_error == OnBackendError::Bypass;
        let Some(remote) = self.remote.as_ref().filter(|_| !(bypass && self.is_down())) else { return self.fetch_alone(keys).await };
        match (Fetch { cache: self, remote, keys, pieces: Pieces::default(), token: clock::new_id() }).run().await {
            Ok(loaded) => Ok(loaded),
            Err(Trouble::Origin(failure)) => Err(failure.during(format!("loading rows of the cache `{}`", self.name))),
            Err(Trouble::Server(failure)) => {
                let passes = bypass && failure.kind == FailureKind::Transient;
                let failure = self.server_failed(failure);
                if passes { self.fetch_alone(keys).await } else { Err(failure) }
            }
        }
    }
}

/// Rows that come from the server and from the origin, put together.
#[derive(Default)]
struct Pieces {
    batches: Vec<Vec<ArrayRef>>,
    rows: HashMap<Vec<u8>, usize>,
    count: usize,
    queries: u64,
}

impl Pieces {
    fn add(&mut self, columns: Vec<ArrayRef>, rows: impl Iterator<Item = (Vec<u8>, usize)>) {
        self.rows.extend(rows.map(|(key, row)| (key, self.count + row)));
        self.count += columns.first().map_or(0, |column| column.len());
        self.batches.push(columns);
    }

    fn columns(&self, cache: &Cache) -> Result<Vec<ArrayRef>, Failure> {
        let column = |place: usize| {
            let nothing = new_empty_array(&cache.schema.columns[place].ty.to_arrow());
            let arrays = self.batches.iter().map(|columns| columns[place].as_ref());
            let arrays: Vec<&dyn Array> = std::iter::once(nothing.as_ref()).chain(arrays).collect();
            concat(&arrays).map_err(|error| Failure::permanent("failed to put loaded rows together").cause(error))
        };
        (0..cache.schema.columns.len()).map(column).collect()
    }
}

/// One load of keys that processes share, numbered.
struct Fetch<'a> {
    cache: &'a Cache,
    remote: &'a Remote,
    /// In row form.
    keys: &'a [Vec<u8>],
    pieces: Pieces,
    /// Says whose locks its locks are.
    token: String,
}

impl Fetch<'_> {
    /// Loads what nobody else loads, and waits for the rest; until every key is answered.
    async fn run(mut self) -> Result<Loaded, Trouble> {
        let watch = Stopwatch::start();
        let cache = self.cache;
        let names = cache.key_form.decode(self.keys.iter().map(Vec::as_slice)).map_err(Trouble::Origin)?;
        let names = self.remote.names(&names);
        let mut open: Vec<usize> = (0..self.keys.len()).collect();
        let mut wait = WAIT;
        loop {
            let held: Vec<Cow<'_, [u8]>> = open.iter().map(|key| self.remote.seen(&names[*key])).collect();
            let asked: Vec<&[u8]> = held.iter().map(AsRef::as_ref).collect();
            let locks = cache.in_time(self.remote.lock(&asked, &self.token, LEASE)).await.map_err(Trouble::Server)?;
            let (mut mine, mut answered, mut busy) = (Vec::new(), Vec::new(), Vec::new());
            for ((key, name), lock) in open.iter().zip(&asked).zip(locks) {
                match lock {
                    Lock::Taken(since_us) => mine.push(Held { key: *key, name, since_us }),
                    Lock::Answered => answered.push(*key),
                    Lock::Busy => busy.push(*key),
                }
            }
            if !mine.is_empty() {
                self.load(&mine).await?;
            }
            open = self.take(&names, &answered).await?;
            open.extend(busy);
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        let columns = self.pieces.columns(cache).map_err(Trouble::Origin)?;
        Ok(Loaded::new(columns, self.pieces.rows, self.pieces.queries, watch))
    }

    /// Takes what the server has of some keys by now; gives those back that it has no more.
    async fn take(&mut self, names: &[Vec<u8>], keys: &[usize]) -> Result<Vec<usize>, Trouble> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<&[u8]> = keys.iter().map(|key| names[*key].as_slice()).collect();
        let all: Vec<usize> = (0..self.cache.schema.columns.len()).collect();
        let found = self.cache.in_time(self.remote.read(&asked, &all)).await.map_err(Trouble::Server)?;
        let mut answered = vec![false; keys.len()];
        let fresh = found.rows.iter().enumerate().filter(|(_, meta)| meta.until_us >= found.now_us);
        let fresh: Vec<(Vec<u8>, usize)> = fresh.map(|(row, meta)| (self.keys[keys[meta.key]].clone(), row)).collect();
        for meta in found.rows.iter().chain(&found.nowhere).filter(|meta| meta.until_us >= found.now_us) {
            answered[meta.key] = true;
        }
        self.pieces.add(found.columns, fresh.into_iter());
        Ok(keys.iter().zip(answered).filter(|(_, answered)| !answered).map(|(key, _)| *key).collect())
    }

    /// Loads keys whose locks are held, writes what came, and gives the locks back.
    async fn load(&mut self, held: &[Held<'_>]) -> Result<(), Trouble> {
        let loaded = self.load_held(held).await;
        let left: Vec<&[u8]> = match &loaded {
            // A hash that was written has no lock any more.
            Ok(written) => held.iter().zip(written).filter(|(_, written)| !**written).map(|(held, _)| held.name).collect(),
            Err(_) => held.iter().map(|held| held.name).collect(),
        };
        let unlocked = self.cache.in_time(self.remote.unlock(&left, &self.token)).await;
        loaded?;
        unlocked.map_err(Trouble::Server)
    }

    /// Says of each key whether its hash was written.
    async fn load_held(&mut self, held: &[Held<'_>]) -> Result<Vec<bool>, Trouble> {
        let cache = self.cache;
        let Some(origin) = &cache.origin else { return Ok(vec![false; held.len()]) };
        let columns = cache.key_form.decode(held.iter().map(|held| self.keys[held.key].as_slice())).map_err(Trouble::Origin)?;
        let types = cache.key_types();
        let names: Vec<&[u8]> = held.iter().map(|held| held.name).collect();
        let batch = {
            let load = origin.rows(&columns, &types, &cache.schema);
            tokio::pin!(load);
            loop {
                tokio::select! {
                    batch = &mut load => break batch.map_err(Trouble::Origin)?,
                    // A lock that could not be kept costs a second query at the worst.
                    () = tokio::time::sleep(RENEWAL) => drop(cache.in_time(self.remote.lock(&names, &self.token, LEASE)).await),
                }
            }
        };
        self.pieces.queries += 1;
        let (_, found) = cache.keys_of(batch.columns()).map_err(Trouble::Origin)?;
        let row_of: HashMap<&[u8], usize> = found.iter().enumerate().map(|(row, key)| (key.data(), row)).collect();
        let versions = cache.stated_versions(&batch, cache.version).map_err(Trouble::Origin)?;
        let mut puts = Vec::with_capacity(held.len());
        let mut rows = Vec::with_capacity(held.len());
        for (at, held) in held.iter().enumerate() {
            let put = Put {
                name: held.name,
                kind: Kind::Nowhere,
                version: Some(0),
                since_us: Some(held.since_us),
                life_us: cache.spec.negative_ttl.map(micros),
                beyond_us: 0,
                row: 0,
            };
            match row_of.get(self.keys[held.key].as_slice()) {
                Some(row) => {
                    rows.push((self.keys[held.key].clone(), *row));
                    let version = versions.as_ref().map(|versions| versions[*row]);
                    let beyond_us = micros(cache.spec.stale_if_error);
                    puts.push((at, Put { kind: Kind::Row, version, life_us: cache.life_us(), beyond_us, row: *row, ..put }));
                }
                None if put.life_us.is_some() => puts.push((at, put)),
                None => {}
            }
        }
        let (places, puts): (Vec<usize>, Vec<Put<'_>>) = puts.into_iter().unzip();
        let answers = cache.in_time(self.remote.put(&puts, batch.columns())).await.map_err(Trouble::Server)?;
        let mut written = vec![false; held.len()];
        places.iter().zip(answers).for_each(|(at, answer)| written[*at] = answer.written);
        self.pieces.add(batch.columns().to_vec(), rows.into_iter());
        Ok(written)
    }
}

/// A key whose lock is held.
struct Held<'a> {
    key: usize,
    name: &'a [u8],
    /// When the lock was taken, by the clock of the key's node: before the origin was asked.
    since_us: u64,
}
