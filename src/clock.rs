//! The only place that reads time.

use std::time::Duration;

/// Now, in milliseconds since 1970-01-01 UTC.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Milliseconds since 1970 as RFC 3339 in UTC, to the second, such as `2026-01-31T04:05:06Z`. Times outside the years 1 to 9999 print as numbers.
pub fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A point on the monotonic clock, for measuring how long something took.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A new id that sorts by its time: a UUID of version 7.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Now, on the clock that tasks sleep by.
pub fn instant() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
