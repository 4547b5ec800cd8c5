//! Loads under way: whoever misses a key that is being loaded waits for it, and the misses of several batches go into one query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Notify;

use super::Cache;
use super::origin::Loaded;
use super::shelf::Kept;
use crate::failure::Failure;

/// What a load came to, for everybody who waits for it.
pub type Outcome = Arc<Result<Loaded, Failure>>;

/// One load. Whoever waits for it drives it; when all of them go away it rests until the next one comes.
#[derive(Clone)]
pub struct Flight {
    /// Tells loads apart.
    pub id: u64,
    /// Its end.
    pub outcome: Shared<BoxFuture<'static, Outcome>>,
}

/// Every load under way.
#[derive(Default)]
pub struct Flights {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    of_key: HashMap<Vec<u8>, Flight>,
    /// The load that takes more keys.
    gathering: Option<Gathering>,
    last_id: u64,
}

struct Gathering {
    flight: Flight,
    keys: Arc<Mutex<Vec<Vec<u8>>>>,
    full: Arc<Notify>,
}

/// The loads that some keys wait for.
pub struct Joined {
    /// Each load once.
    pub flights: Vec<Flight>,
    /// The load of each key; `None` for a key that came meanwhile.
    pub of_key: Vec<Option<u64>>,
    /// What came meanwhile, by the place of its key.
    pub came: Vec<(usize, Kept)>,
    /// How many of the keys were under way for somebody else.
    pub coalesced: u64,
}

impl Flights {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds or begins a load for each key: at most `batch` keys a load, which waits up to `linger` for more of them.
    pub fn join(cache: &Arc<Cache>, keys: &[Vec<u8>], batch: usize, linger: Duration) -> Joined {
        let mut joined = Joined { flights: Vec::new(), of_key: Vec::with_capacity(keys.len()), came: Vec::new(), coalesced: 0 };
        let shelf = cache.shelf();
        let now_us = cache.now_us();
        let mut state = cache.flights.state();
        for (place, key) in keys.iter().enumerate() {
            let flight = match state.of_key.get(key) {
                Some(flight) => {
                    joined.coalesced += 1;
                    flight.clone()
                }
                None => {
                    // A load that landed since the key was missed has kept it before it left the list.
                    let came = shelf.as_ref().and_then(|shelf| shelf.get(key)).filter(|entry| entry.until_us >= now_us);
                    if let Some(entry) = came.filter(|entry| !matches!(entry.kept, Kept::Gone)) {
                        joined.coalesced += 1;
                        joined.of_key.push(None);
                        joined.came.push((place, entry.kept));
                        continue;
                    }
                    state.add(cache, key, batch, linger)
                }
            };
            joined.of_key.push(Some(flight.id));
            if joined.flights.iter().all(|known| known.id != flight.id) {
                joined.flights.push(flight);
            }
        }
        joined
    }

    /// Takes the keys of a load that begins now.
    fn close(&self, id: u64, keys: &Mutex<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
        let mut state = self.state();
        if state.gathering.as_ref().is_some_and(|gathering| gathering.flight.id == id) {
            state.gathering = None;
        }
        std::mem::take(&mut *keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on, a key that is not kept is loaded again.
    fn landed(&self, keys: &[Vec<u8>]) {
        let mut state = self.state();
        for key in keys {
            state.of_key.remove(key);
        }
    }
}

impl State {
    fn add(&mut self, cache: &Arc<Cache>, key: &[u8], batch: usize, linger: Duration) -> Flight {
        let gathering = match self.gathering.take() {
            Some(gathering) => gathering,
            None => self.begin(cache, linger),
        };
        let count = {
            let mut keys = gathering.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.push(key.to_vec());
            keys.len()
        };
        let flight = gathering.flight.clone();
        self.of_key.insert(key.to_vec(), flight.clone());
        if count < batch {
            self.gathering = Some(gathering);
        } else {
            gathering.full.notify_one();
        }
        flight
    }

    fn begin(&mut self, cache: &Arc<Cache>, linger: Duration) -> Gathering {
        self.last_id += 1;
        let (id, keys, full) = (self.last_id, Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::new(Notify::new()));
        let load = {
            let (cache, keys, full) = (Arc::clone(cache), Arc::clone(&keys), Arc::clone(&full));
            async move {
                if !linger.is_zero() {
                    // Over when there are keys enough, or nobody else came in time.
                    let _ = tokio::time::timeout(linger, full.notified()).await;
                }
                let keys = cache.flights.close(id, &keys);
                let outcome = cache.fetch(&keys).await;
                cache.flights.landed(&keys);
                Arc::new(outcome)
            }
        };
        Gathering { flight: Flight { id, outcome: load.boxed().shared() }, keys, full }
    }
}
