//! What feeds say, and how they are served.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::load::shape::{Duration, NameOrNames, Size};

/// Serves rows over HTTP: as server-sent events, lines, WebSocket messages or answers that wait, each with a number to go on from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedOutput {
    /// The feed's name: it is served at `/feeds/NAME`.
    #[schemars(required, extend("pattern" = "^[A-Za-z_][A-Za-z0-9_-]{0,62}$", "examples" = ["orders"]))]
    pub feed: Option<String>,
    /// The columns that name a row: one, or a list of them. With a key, new clients can begin with the newest row of each.
    #[schemars(extend("examples" = ["id", ["region", "id"]]))]
    pub key: Option<NameOrNames>,
    /// What is kept for clients that come back. What goes beyond any of these goes, oldest first.
    pub keep: Option<FeedKeep>,
    /// What becomes of a client that does not keep up.
    #[schemars(extend("default" = "disconnect"))]
    pub slow: Option<SlowClient>,
    /// How long a client that had caught up may lag behind before it does not keep up.
    #[schemars(extend("default" = "30s"))]
    pub slow_after: Option<Duration>,
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
}

/// What is kept of a feed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedKeep {
    /// So many events.
    #[schemars(range(min = 1, max = 1000000000000u64), extend("default" = 1000000))]
    pub rows: Option<u64>,
    /// So many bytes of events.
    #[schemars(extend("default" = "1GiB"))]
    pub bytes: Option<Size>,
    /// Events that are no older.
    #[schemars(extend("default" = "7d"))]
    pub age: Option<Duration>,
}

/// What becomes of a client that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlowClient {
    /// Its connection is ended; when it comes again, it goes on behind its last event.
    Disconnect,
    /// It goes on with the newest event, and is told how many it did not get.
    Skip,
    /// It gets the last event of each key only, until it has caught up.
    LatestPerKey,
}

/// How feeds are served.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Feeds {
    /// The address and port on which `haul run` and `haul serve` answer while there are feeds.
    #[schemars(extend("default" = "127.0.0.1:9465", "examples" = ["127.0.0.1:9465", "0.0.0.0:9465", "[::1]:9465"]))]
    pub listen: Option<String>,
    /// Who knows one of these tokens may read; without any, everybody who reaches the address. Secrets come from `{{ env.NAME }}` or
    /// `{{ secret.file('path') }}`.
    #[schemars(extend("minItems" = 1, "examples" = [["{{ env.FEED_TOKEN }}"]]))]
    pub tokens: Option<Vec<String>>,
    /// Origins of web pages that may read, or `*` for all. By default none may but those of the address itself.
    #[schemars(extend("minItems" = 1, "examples" = [["https://shop.example.com"]]))]
    pub origins: Option<Vec<String>>,
    /// How often a connection without events shows that it lives.
    #[schemars(extend("default" = "15s"))]
    pub keep_alive: Option<Duration>,
}
