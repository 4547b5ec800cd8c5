//! What there is to read in a system: the tables of a database, the files of a folder, the keys of a Redis.

use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use futures::TryStreamExt;

use crate::connectors::files::Root;
use crate::connectors::redis;
use crate::connectors::sql::{postgres::Server, sqlite::Database};
use crate::connectors::{ReadRequest, Source, SplitGoal};
use crate::define::pipeline::{Connection, Engine, KeysSource, SqlRead, SqlSource};
use crate::failure::Failure;

use super::text::Found;

/// Tables that people made: no catalogs, no parts of partitioned tables, nothing that haul keeps for itself.
const POSTGRES_TABLES: &str = "select n.nspname::text as schema, c.relname::text as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and c.relname !~ '^haul_(loads|marks|journal_.*)$' and c.relpersistence <> 't'";

/// Likewise.
const SQLITE_TABLES: &str = "select cast(name as text) as name from sqlite_schema
    where type = 'table' and substr(name, 1, 7) <> 'sqlite_' and name not in ('haul_loads', 'haul_marks')
        and substr(name, 1, 13) <> 'haul_journal_'";

/// How many folders below the root files are looked for.
const FOLDERS: usize = 2;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Discovered {
    /// In order of their names.
    pub(super) usable: Vec<Found>,
    /// Names that a pipeline has no way to write.
    pub(super) skipped: Vec<String>,
}

/// Asks a system what it has.
pub(super) async fn discover(connection: &Connection, base: &Path) -> Result<Discovered, Failure> {
    let query = |sql: &str| SqlSource { connection: connection.name.clone(), read: SqlRead::Query(sql.to_owned()), split_by: None };
    let found = match connection.engine {
        Some(Engine::Postgres) => tables(&Server::new(connection)?.source(&query(POSTGRES_TABLES))).await?,
        Some(Engine::Sqlite) => tables(&Database::new(connection, base)?.source(&query(SQLITE_TABLES))).await?,
        Some(Engine::File | Engine::S3) => {
            let files = Root::new(connection, base)?.list(FOLDERS).await?;
            files.into_iter().filter(|path| has_rows(path)).map(Found::File).collect()
        }
        Some(Engine::Redis) => {
            let keys = redis::Server::new(connection, base)?.keys(&KeysSource::all(&connection.name)).describe().await?.rows;
            if keys == Some(0) { Vec::new() } else { vec![Found::Keys] }
        }
        Some(Engine::Http) | None => Vec::new(),
    };
    let mut discovered = Discovered::default();
    for one in found {
        match unwritable(&one) {
            Some(name) => discovered.skipped.push(name),
            None => discovered.usable.push(one),
        }
    }
    discovered.usable.sort();
    Ok(discovered)
}

/// The rows of a catalog query, each the parts of a table's name.
async fn tables(source: &Arc<dyn Source>) -> Result<Vec<Found>, Failure> {
    let reading = source.open(ReadRequest::default()).await?;
    let splits = reading.splits(SplitGoal { most: 1, bytes: u64::MAX }).await?;
    let mut found = Vec::new();
    for split in &splits.splits {
        let mut chunks = reading.read(split, None).await?;
        while let Some(chunk) = chunks.try_next().await? {
            for row in 0..chunk.batch.num_rows() {
                let parts = chunk.batch.columns().iter().map(|column| column.as_string::<i32>().value(row).to_owned());
                found.push(Found::Table(parts.collect()));
            }
        }
    }
    Ok(found)
}

/// Whether a file's ending names a format that can be read.
fn has_rows(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let plain = [".gz", ".zst", ".zstd"].iter().find_map(|ending| path.strip_suffix(ending)).unwrap_or(&path);
    [".csv", ".tsv", ".ndjson", ".jsonl", ".parquet", ".pq"].iter().any(|ending| plain.ends_with(ending))
}

/// The name of something that the language has no way to write: a template's braces, or a quote.
fn unwritable(found: &Found) -> Option<String> {
    let (name, quotes) = match found {
        Found::Table(parts) => (parts.join("."), '"'),
        Found::File(path) => (path.clone(), '\0'),
        Found::Keys => return None,
    };
    let refused = name.contains("{{") || name.contains("{%") || name.contains("{#") || name.contains(quotes) || name.trim() != name;
    refused.then_some(name)
}
