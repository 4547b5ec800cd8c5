//! The tables of a feed's file, and where it lies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection as Sqlite, OptionalExtension, Result, params};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::connectors::LoadKey;
use crate::connectors::sql::sqlite::Database;
use crate::define::pipeline::{Connection, FeedSink, SlowClient};
use crate::failure::Failure;
use crate::secret::Secret;

/// The version of the tables.
pub(super) const FORMAT: i64 = 1;

/// `feed` is one row: the number that the next event gets, and the bytes that all events before it had. `blocks` holds events, each a line,
/// numbered on from `first`; `written` counts the bytes of all events up to its end. `newest` holds the last event of each key, by its number.
const CREATE: &str = "
    create table if not exists feed (
        one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, id TEXT NOT NULL, next INTEGER NOT NULL,
        written INTEGER NOT NULL, settings TEXT NOT NULL, owner TEXT NOT NULL);
    create table if not exists blocks (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, at_ms INTEGER NOT NULL, written INTEGER NOT NULL, lines BLOB NOT NULL);
    create table if not exists newest (
        id INTEGER PRIMARY KEY, \"key\" BLOB NOT NULL UNIQUE, gone INTEGER NOT NULL, line BLOB NOT NULL);
    create index if not exists newest_gone on newest (id) where gone = 1;";

/// What those who serve a feed need to know of it; kept with it, so that it is served while its pipeline does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What becomes of clients that do not keep up.
    pub slow: SlowClient,
    /// How long a client may lag behind, in milliseconds.
    pub slow_after_ms: u64,
    /// Whether its rows have keys, so that there is a newest one of each.
    pub keyed: bool,
}

impl Settings {
    pub(super) fn of(spec: &FeedSink) -> Self {
        let slow_after_ms = u64::try_from(spec.slow_after.as_millis()).unwrap_or(u64::MAX);
        Self { slow: spec.slow, slow_after_ms, keyed: !spec.key.is_empty() }
    }

    /// How long a client may lag behind.
    pub fn slow_after(&self) -> Duration {
        Duration::from_millis(self.slow_after_ms)
    }
}

/// Where the feeds of the project in `base` lie.
pub fn folder(base: &Path) -> PathBuf {
    base.join(".haul").join("feeds")
}

/// The file of a feed.
pub fn path(base: &Path, feed: &str) -> PathBuf {
    folder(base).join(format!("{feed}.db"))
}

/// The file of a feed, as a database that is written.
pub(super) fn database(base: &Path, feed: &str) -> Result<Arc<Database>, Failure> {
    let url = format!("sqlite:{}", Path::new(".haul").join("feeds").join(format!("{feed}.db")).display());
    let connection = Connection {
        name: format!("feed {feed}"),
        engine: None,
        url: Secret::new(url),
        max_connections: 1,
        http: Default::default(),
        at: String::new(),
    };
    Database::new(&connection, base)
}

/// Creates the tables where they are missing. A new feed begins with the number 1.
pub(super) fn create(connection: &Sqlite) -> Result<()> {
    connection.execute_batch(CREATE)?;
    connection.execute("insert or ignore into feed values (1, ?, ?, 1, 0, '', '')", params![FORMAT, clock::new_id()])?;
    Ok(())
}

/// Whose feed it is; empty when it is nobody's.
pub(super) fn owner(connection: &Sqlite) -> Result<String> {
    connection.query_row("select owner from feed", [], |row| row.get(0)).optional().map(Option::unwrap_or_default)
}

/// Makes it the feed of an output of a stage, or nobody's.
pub(super) fn set_owner(connection: &Sqlite, owner: &str) -> Result<()> {
    connection.execute("update feed set owner = ?", [owner]).map(drop)
}

/// Keeps what those need to know who serve it.
pub(super) fn set_settings(connection: &Sqlite, settings: &Settings) -> Result<()> {
    let text = serde_json::to_string(settings).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute("update feed set settings = ?", [text]).map(drop)
}

/// The name of an output of a stage.
pub(super) fn owner_of(key: &LoadKey) -> String {
    format!("stage `{}` of pipeline `{}`", key.stage, key.pipeline)
}
