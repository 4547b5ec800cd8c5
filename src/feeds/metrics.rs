//! What is counted of a feed.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::define::pipeline::SlowClient;

/// Counts of one feed since the start, and its clients.
#[derive(Default)]
pub(super) struct Counts {
    /// Where each client is. One that is gone leaves an empty place until somebody looks.
    clients: Mutex<Vec<Weak<AtomicU64>>>,
    events: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    slow: [AtomicU64; 3],
}

const SLOW: [SlowClient; 3] = [SlowClient::Disconnect, SlowClient::Skip, SlowClient::LatestPerKey];

impl Counts {
    /// A client has come.
    pub(super) fn join(&self, place: &Arc<AtomicU64>) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(place));
    }

    /// How many clients there are.
    pub(super) fn clients(&self) -> usize {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.strong_count() > 0);
        clients.len()
    }

    /// Events were handed to a client.
    pub(super) fn sent(&self, events: u64, bytes: usize) {
        self.events.fetch_add(events, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A client did not get events.
    pub(super) fn lost(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    /// A client did not keep up.
    pub(super) fn slow(&self, what: SlowClient) {
        self.slow[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How far the client is behind that is furthest.
    fn lag(&self, head: u64) -> u64 {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let places = clients.iter().filter_map(|client| Some(client.upgrade()?.load(Ordering::Relaxed)));
        head.saturating_sub(places.min().unwrap_or(head))
    }
}

/// Feeds with the numbers of their newest events, in the text format of Prometheus.
pub(super) fn render(feeds: &[(&str, &Counts, u64)]) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Counts, u64) -> u64| {
        let _ = writeln!(out, "# HELP haul_feed_{name} {help}\n# TYPE haul_feed_{name} {kind}");
        for (feed, counts, head) in feeds {
            let _ = writeln!(out, "haul_feed_{name}{{feed=\"{feed}\"}} {}", value(counts, *head));
        }
    };
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    family("head", "gauge", "The number of a feed's newest event.", &|_, head| head);
    family("clients", "gauge", "Clients of a feed.", &|counts, _| counts.clients() as u64);
    family("lag_events", "gauge", "How far the client is behind that is furthest.", &|counts, head| counts.lag(head));
    family("events_total", "counter", "Events that were sent to clients.", &|counts, _| of(&counts.events));
    family("bytes_total", "counter", "Bytes of them.", &|counts, _| of(&counts.bytes));
    family("lost_events_total", "counter", "Events that clients did not get and were told of.", &|counts, _| of(&counts.lost));
    let _ = writeln!(out, "# HELP haul_feed_slow_total Clients that did not keep up.\n# TYPE haul_feed_slow_total counter");
    for (feed, counts, _) in feeds {
        for (what, count) in SLOW.iter().zip(&counts.slow) {
            let _ = writeln!(out, "haul_feed_slow_total{{feed=\"{feed}\",became=\"{}\"}} {}", what.word(), of(count));
        }
    }
    out
}
