//! What is served as a feed.

use std::time::Duration;

/// A feed to write.
#[derive(Clone, Debug)]
pub struct FeedSink {
    /// Its name, by which it is served.
    pub feed: String,
    /// The columns that name a row; without any, a feed only grows.
    pub key: Vec<String>,
    /// What is kept of it.
    pub keep: FeedKeep,
    /// What becomes of clients that do not keep up.
    pub slow: SlowClient,
    /// How long a client may lag behind before it does not keep up.
    pub slow_after: Duration,
}

/// What is kept of a feed. What goes beyond any of these goes, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedKeep {
    /// Events.
    pub rows: u64,
    /// Bytes of events.
    pub bytes: u64,
    /// How long.
    pub age: Duration,
}

/// What becomes of a client that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowClient {
    /// Its connection is ended; it goes on behind its last event when it comes again.
    Disconnect,
    /// It goes on with the newest event, and is told how many it did not get.
    Skip,
    /// It gets the last event of each key only, until it has caught up.
    LatestPerKey,
}

impl SlowClient {
    /// The word that pipelines use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::Skip => "skip",
            Self::LatestPerKey => "latest_per_key",
        }
    }
}
