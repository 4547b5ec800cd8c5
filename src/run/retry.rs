//! When to try again. Pure: time and chance are given.

use std::time::Duration;

use crate::define::pipeline::Retry;
use crate::failure::{Failure, FailureKind};

/// How long to wait before the next try, or `None` when there is none.
///
/// `attempt` is the one that just failed, from 1; `elapsed` is the time since the first began; `chance` is in 0..1 and spreads the wait
/// evenly between nothing and its full length ("full jitter"), so that units that failed together do not come back together. A system that
/// says how long to wait is given that time, and a little more.
pub fn next_wait(retry: &Retry, failure: &Failure, attempt: u32, elapsed: Duration, chance: f64) -> Option<Duration> {
    if failure.kind != FailureKind::Transient || attempt >= retry.attempts {
        return None;
    }
    let grown = retry.initial.as_secs_f64() * retry.factor.powi(attempt.saturating_sub(1).min(64) as i32);
    let full = grown.min(retry.max.as_secs_f64());
    let wait = Duration::from_secs_f64(if retry.jitter { full * chance } else { full });
    let wait = failure.retry_after.map_or(wait, |asked| asked + wait.min(retry.initial));
    match retry.total {
        Some(total) if elapsed + wait > total => None,
        _ => Some(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            attempts: 4,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(3),
            factor: 2.0,
            jitter: false,
            total: Some(Duration::from_secs(10)),
        }
    }

    #[test]
    fn waits_grow_to_the_longest_and_end() {
        let failure = Failure::transient("connection reset");
        let wait = |attempt, elapsed| next_wait(&retry(), &failure, attempt, Duration::from_secs(elapsed), 0.5);
        assert_eq!(wait(1, 0), Some(Duration::from_secs(1)));
        assert_eq!(wait(2, 1), Some(Duration::from_secs(2)));
        assert_eq!(wait(3, 3), Some(Duration::from_secs(3)));
        assert_eq!(wait(4, 6), None, "attempts are used up");
        assert_eq!(wait(3, 8), None, "the total time is used up");
        let asked = Failure::transient("429").retry_after(Some(Duration::from_secs(4)));
        assert_eq!(next_wait(&retry(), &asked, 2, Duration::ZERO, 0.5), Some(Duration::from_secs(5)), "never before what was asked for");
        assert_eq!(next_wait(&retry(), &asked, 2, Duration::from_secs(6), 0.5), None, "nor beyond the total time");
        let jittered = Retry { jitter: true, ..retry() };
        assert_eq!(next_wait(&jittered, &failure, 2, Duration::ZERO, 0.25), Some(Duration::from_millis(500)));
    }

    #[test]
    fn only_transient_failures_come_back() {
        for failure in [Failure::permanent("x"), Failure::bad_rows("x"), Failure::cancelled(), Failure::new(FailureKind::Fenced, "x")] {
            assert_eq!(next_wait(&retry(), &failure, 1, Duration::ZERO, 0.5), None);
        }
    }
}
