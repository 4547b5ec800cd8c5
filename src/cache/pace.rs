//! How fast a filling may be, so that what it reads and what it writes can do other work besides.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::clock;

/// A rate that several writers keep together.
pub struct Pace {
    per_second: u64,
    /// When the next row may go.
    next: Mutex<Instant>,
}

impl Pace {
    /// So many rows a second.
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), next: Mutex::new(clock::instant()) }
    }

    /// The most rows that go at once: a tenth of a second's.
    pub fn burst(&self) -> usize {
        usize::try_from(self.per_second / 10).unwrap_or(usize::MAX).max(1)
    }

    /// Waits until so many rows may go.
    pub async fn wait(&self, rows: usize) {
        sleep_until(self.reserve(rows, clock::instant())).await;
    }

    /// When so many rows may go for somebody who asks now. Time that nobody used is not saved up.
    fn reserve(&self, rows: usize, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*next).max(now);
        *next = from + Duration::from_secs_f64(rows as f64 / self.per_second as f64);
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_unused_time_is_not_saved_up() {
        let pace = Pace::new(1000);
        let began = clock::instant() + Duration::from_secs(1);
        let after = |seconds: f64| began + Duration::from_secs_f64(seconds);
        assert_eq!(pace.burst(), 100);
        let times: Vec<Instant> = (0..3).map(|_| pace.reserve(100, began)).collect();
        assert_eq!(times, [after(0.0), after(0.1), after(0.2)]);
        assert_eq!([pace.reserve(500, after(60.0)), pace.reserve(1, after(60.1))], [after(60.0), after(60.5)]);
    }
}
