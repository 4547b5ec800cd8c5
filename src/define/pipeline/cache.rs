//! What cache stages mean.

use std::time::Duration;

use super::At;
use crate::dialect::Dialect;
use crate::load::template::KeyTemplate;

/// Keyed rows that other stages look up.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The columns that name a row, each with its place.
    pub key: Vec<(String, At)>,
    /// Where rows are kept that processes share; `None` keeps them in memory.
    pub home: Option<CacheHome>,
    /// What lookups do while that cannot be reached.
    pub on_backend_error: OnBackendError,
    /// With a home: whether rows are also kept in memory, and for how long at the most.
    pub memory_ttl: Option<Duration>,
    /// How rows are loaded that are looked for and not there; `None` when the cache holds everything.
    pub load: Option<CacheLoad>,
    /// Whether `from:` fills it.
    pub filled: bool,
    /// How long rows are served; `None` without end.
    pub ttl: Option<Duration>,
    /// The share by which a row's time may be shorter, from 0 to 1.
    pub jitter: f64,
    /// How long a key is known to have no row.
    pub negative_ttl: Option<Duration>,
    /// How long after its time a row is served when its load fails.
    pub stale_if_error: Duration,
    /// The column that orders the changes of a row, with its place.
    pub version: Option<(String, At)>,
    /// Most bytes of keys and rows in the memory of this process.
    pub memory_bytes: u64,
    /// How long after a filling the next one begins, while the run lasts.
    pub refresh: Option<Duration>,
    /// The most rows that a filling keeps in a second.
    pub rate: Option<u64>,
    /// A filling with fewer rows does not replace the one before.
    pub min_rows: Option<Amount>,
}

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many.
    Rows(u64),
    /// This share of the rows that there were before, between 0 and 1.
    Share(f64),
}

/// Where the rows of a cache are kept that processes share.
#[derive(Clone, Debug)]
pub struct CacheHome {
    /// Connection name.
    pub connection: String,
    /// The name of a row's hash, in which each column of the key stands once.
    pub name: KeyTemplate,
    /// Where it stands.
    pub at: At,
}

/// What lookups do while the server of a cache cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBackendError {
    /// They fail.
    Fail,
    /// They load what is missing.
    Bypass,
    /// They serve what the memory still has, within `stale_if_error` past its time.
    Stale,
}

/// Loads the rows of keys that a cache does not have.
#[derive(Clone, Debug)]
pub struct CacheLoad {
    /// Connection name.
    pub connection: String,
    /// A query in the engine's own SQL, rendered and quoted, in which [`CacheLoad::KEYS`] stands where keys go.
    pub query: String,
    /// What keys are written in.
    pub dialect: Dialect,
    /// Most keys in one query.
    pub batch: usize,
    /// How long a query waits for more keys.
    pub linger: Duration,
    /// Where it stands.
    pub at: At,
}

impl CacheLoad {
    /// Stands for the keys in a rendered query. A character that Unicode leaves to private use, quoted by the template as any literal is.
    pub const KEYS: &str = "'\u{E000}'";

    /// The query for some keys, given as SQL.
    pub fn query_for(&self, keys: &str) -> String {
        self.query.replace(Self::KEYS, keys)
    }
}
