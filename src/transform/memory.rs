//! How the operators of a query share its memory.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Operators that can spill share one half evenly; the rest is for those that cannot, first come, first served. DataFusion's own fair pool
/// lets spilling operators take everything, and then fails a sort that needs a little to merge its spill files.
#[derive(Debug)]
pub(super) struct HalfForSpilling {
    bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

impl HalfForSpilling {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for HalfForSpilling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl MemoryPool for HalfForSpilling {
    fn name(&self) -> &str {
        "half for spilling"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.state().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            let mut state = self.state();
            state.spillers = state.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let mut state = self.state();
        if reservation.consumer().can_spill() {
            state.spillable += additional;
        } else {
            state.unspillable += additional;
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state();
        if reservation.consumer().can_spill() {
            state.spillable = state.spillable.saturating_sub(shrink);
        } else {
            state.unspillable = state.unspillable.saturating_sub(shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state();
        let refused = |available: usize| {
            let name = reservation.consumer().name();
            resources_datafusion_err!("{name} wants {additional} bytes more, and {available} are free")
        };
        if reservation.consumer().can_spill() {
            let share = (self.bytes / 2).min(self.bytes.saturating_sub(state.unspillable)) / state.spillers.max(1);
            if reservation.size() + additional > share {
                return Err(refused(share.saturating_sub(reservation.size())));
            }
            state.spillable += additional;
        } else {
            let available = self.bytes.saturating_sub(state.spillable + state.unspillable);
            if additional > available {
                return Err(refused(available));
            }
            state.unspillable += additional;
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        let state = self.state();
        state.spillable + state.unspillable
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}
