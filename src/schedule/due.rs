//! Which ticks are due.

use super::tick;
use crate::define::pipeline::{CatchUp, When};

/// How late a tick may be started and still count as started on time rather than missed.
pub const GRACE_MS: i64 = 60_000;

/// The most missed ticks that are counted one by one.
const MOST_COUNTED: u64 = 10_000;

/// What is due of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Ticks to start, oldest first, in milliseconds since 1970.
    pub start: Vec<i64>,
    /// Ticks that went by and are not made up for.
    pub missed: Option<Missed>,
}

/// Ticks that went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The first of them, in milliseconds since 1970.
    pub first_ms: i64,
    /// The last of them.
    pub last_ms: i64,
    /// How many there are; very many are not counted to their end.
    pub count: u64,
}

/// What is due of a schedule at a time, when everything up to `decided_ms` has been decided. Ticks within `GRACE_MS` are all started;
/// of older ones the newest within the catch-up's window are, up to its bound, and `latest` makes up for none when a tick on time does it.
/// Times are those of ticks: whoever delays starts takes the delay off `now_ms` first.
pub fn due(when: &When, catch_up: CatchUp, decided_ms: i64, now_ms: i64) -> Due {
    let on_time_from = decided_ms.max(now_ms.saturating_sub(GRACE_MS));
    let on_time = forward(when, on_time_from, now_ms);
    let late_until = on_time_from.saturating_add(1);
    let most = if catch_up.most == 1 && !on_time.is_empty() { 0 } else { catch_up.most };
    let window_ms = i64::try_from(catch_up.window.as_millis()).unwrap_or(i64::MAX);
    let oldest_ms = decided_ms.max(now_ms.saturating_sub(window_ms));
    let mut start: Vec<i64> = backward(when, late_until, oldest_ms).take(most).collect();
    let missed_until = start.last().copied().unwrap_or(late_until);
    start.reverse();
    start.extend(on_time);
    Due { start, missed: missed(when, decided_ms, missed_until) }
}

/// The ticks after a time and not after another.
fn forward(when: &When, after_ms: i64, until_ms: i64) -> Vec<i64> {
    std::iter::successors(tick::next(when, after_ms), |last| tick::next(when, *last)).take_while(|tick| *tick <= until_ms).collect()
}

/// The ticks before a time and after another, newest first.
fn backward(when: &When, before_ms: i64, after_ms: i64) -> impl Iterator<Item = i64> {
    std::iter::successors(tick::previous(when, before_ms), |last| tick::previous(when, *last)).take_while(move |tick| *tick > after_ms)
}

/// The ticks after a time and before another.
fn missed(when: &When, after_ms: i64, before_ms: i64) -> Option<Missed> {
    let first_ms = tick::next(when, after_ms).filter(|tick| *tick < before_ms)?;
    let last_ms = tick::previous(when, before_ms)?;
    let counted = backward(when, before_ms, after_ms).take(MOST_COUNTED as usize).count() as u64;
    Some(Missed { first_ms, last_ms, count: counted })
}
