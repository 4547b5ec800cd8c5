//! What processes share of a cache: reading it, with a level of memory before it, and doing without it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::row::Rows;
use tokio::time::timeout;

use super::remote::{Found, Remote};
use super::shelf::{Entry, Kept, Shelf};
use super::{Cache, micros};
use crate::define::pipeline::OnBackendError;
use crate::failure::{Failure, FailureKind};

/// How long a lookup that can do without the server waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a server that failed is not asked again by lookups that can do without it.
const DOWN: Duration = Duration::from_secs(1);

/// What the server has of some keys, numbered as they were asked for.
pub struct Shared {
    /// The wanted columns.
    pub columns: Vec<ArrayRef>,
    /// Keys in their time, and their rows among the columns.
    pub fresh: Vec<(usize, usize)>,
    /// Keys past their time that may be served when nothing better is to be had.
    pub stale: Vec<(usize, usize)>,
    /// Keys that are known to have no row.
    pub nowhere: Vec<usize>,
    /// The greatest age of a fresh row, in microseconds.
    pub oldest_us: u64,
}

impl Cache {
    /// Reads some keys in row form from the server, and keeps what it has in memory where there is such a level.
    pub(super) async fn shared(&self, remote: &Remote, keys: &[&[u8]], columns: &[usize]) -> Result<Shared, Failure> {
        if self.is_down() {
            return Err(Failure::transient(format!("the server of the cache `{}` failed a moment ago", self.name)));
        }
        let names = remote.names(&self.key_form.decode(keys.iter().copied())?);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let shelf = self.shelf();
        // A row in memory is a whole one.
        let all: Vec<usize> = (0..self.schema.columns.len()).collect();
        let read = if shelf.is_some() { &all } else { columns };
        let changes = *self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let found = self.in_time(remote.read(&names, read)).await.map_err(|failure| self.server_failed(failure))?;
        let beyond_us = micros(self.spec.stale_if_error);
        let mut shared = Shared {
            columns: Vec::new(),
            fresh: Vec::with_capacity(found.rows.len()),
            stale: Vec::new(),
            nowhere: Vec::new(),
            oldest_us: 0,
        };
        for (row, meta) in found.rows.iter().enumerate() {
            if meta.until_us >= found.now_us {
                shared.oldest_us = shared.oldest_us.max(found.now_us.saturating_sub(meta.since_us));
                shared.fresh.push((meta.key, row));
            } else if beyond_us > 0 && meta.until_us.saturating_add(beyond_us) >= found.now_us {
                shared.stale.push((meta.key, row));
            }
        }
        shared.nowhere.extend(found.nowhere.iter().filter(|meta| meta.until_us >= found.now_us).map(|meta| meta.key));
        shared.columns = match shelf {
            None => found.columns,
            Some(shelf) => {
                self.keep_shared(&shelf, keys, &found, changes)?;
                columns.iter().map(|column| Arc::clone(&found.columns[*column])).collect()
            }
        };
        Ok(shared)
    }

    /// Keeps what the server has in memory. Never for a time of its own: for what is left of the server's, and no longer than the memory may.
    /// `changes` is how many this process had made before it asked: what it has changed meanwhile may have been read before.
    fn keep_shared(&self, shelf: &Shelf, keys: &[&[u8]], found: &Found, changes: u64) -> Result<(), Failure> {
        let rows = self.row_form.encode(&found.columns)?;
        let made = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        if *made != changes {
            return Ok(());
        }
        let now_us = self.now_us();
        let most_us = self.spec.memory_ttl.map_or(0, micros);
        let rows = found.rows.iter().enumerate().map(|(row, meta)| (meta, Kept::Row(rows.row(row).data().into())));
        let nowhere = found.nowhere.iter().map(|meta| (meta, Kept::Nowhere));
        for (meta, kept) in rows.chain(nowhere).filter(|(meta, _)| meta.until_us >= found.now_us) {
            let entry = Entry {
                kept,
                version: meta.version,
                since_us: now_us.saturating_sub(found.now_us.saturating_sub(meta.since_us)),
                until_us: now_us.saturating_add((meta.until_us - found.now_us).min(most_us)),
            };
            shelf.put(keys[meta.key], entry);
        }
        Ok(())
    }

    /// Forgets keys in row form that this process has changed on the server: the next lookup asks it.
    pub(super) fn forget(&self, keys: &Rows) {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        *changes += 1;
        if let Some(shelf) = self.shelf() {
            keys.iter().for_each(|key| shelf.remove(key.data()));
        }
    }

    /// A lookup that can do without the server does not wait for it as long as one that cannot.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        if self.spec.on_backend_error == OnBackendError::Fail {
            return answer.await;
        }
        let late = || Failure::transient(format!("the server of the cache `{}` did not answer within {PATIENCE:?}", self.name));
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(late()))
    }

    pub(super) fn is_down(&self) -> bool {
        self.now_us() < self.down_until_us.load(Ordering::Relaxed)
    }

    /// Remembers that the server failed, where lookups can do without it: it is not asked by every batch.
    pub(super) fn server_failed(&self, failure: Failure) -> Failure {
        if failure.kind == FailureKind::Transient && self.spec.on_backend_error != OnBackendError::Fail {
            self.down_until_us.store(self.now_us().saturating_add(micros(DOWN)), Ordering::Relaxed);
        }
        failure.during(format!("looking into the cache `{}`", self.name))
    }

    /// How long a row of the server is served, in microseconds: each a little shorter than the longest, as the jitter says. The rows of a cache
    /// that loads nothing have no end of their own.
    pub(super) fn life_us(&self) -> Option<u64> {
        let ttl = self.spec.ttl.filter(|_| self.origin.is_some())?;
        Some(micros(ttl.mul_f64(1.0 - self.spec.jitter * fastrand::f64())).max(1))
    }
}
