//! The journal in a SQLite file, and locks as files beside it.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use crate::clock;
use crate::failure::Failure;

use super::event::{Event, SPLIT_FINISHED, What};
use super::record::{Change, Record};
use super::schedule::PRUNED;
use super::store::{Lock, MOVE_ASIDE, Store, VERSION, parse, too_new};

/// Each entry brings the tables from the version of its index to the next one.
const MIGRATIONS: [&str; VERSION as usize] = [
    "
    create table haul_journal_runs (run text primary key, pipeline text not null, started_ms integer not null) without rowid;
    create index haul_journal_runs_pipeline on haul_journal_runs (pipeline, started_ms);
    create table haul_journal_events (
        run text not null, place integer not null, at_ms integer not null, kind text not null, event text not null,
        primary key (run, place)
    ) without rowid;
",
    "
    create table haul_journal_records (
        kind text not null, key text not null, at_ms integer not null, value text not null, primary key (kind, key)
    ) without rowid;
    create index haul_journal_records_at on haul_journal_records (kind, at_ms);
    create index haul_journal_events_ended on haul_journal_events (at_ms) where kind = 'run_finished';
",
];

/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(20);

/// The journal in a SQLite file.
pub(super) struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    locks: HashMap<String, File>,
}

impl SqliteStore {
    /// Opens or creates the file and its folder, and brings its tables up to date.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        create_folder(path)?;
        let connection = Connection::open(path).map_err(|error| refused(path, error))?;
        let mut store = Self { connection, path: path.to_owned(), locks: HashMap::new() };
        store.migrate().map_err(|error| error.unwrap_or_else(|error| refused(path, error)))?;
        Ok(store)
    }

    fn migrate(&mut self) -> Result<(), Result<Failure, rusqlite::Error>> {
        let connection = &mut self.connection;
        connection.busy_timeout(BUSY).map_err(Err)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(Err)?;
        connection.pragma_update(None, "synchronous", "full").map_err(Err)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Err)?;
        transaction
            .execute_batch("create table if not exists haul_journal_migrations (version integer primary key, applied_ms integer not null)")
            .map_err(Err)?;
        let found: i64 =
            transaction.query_row("select coalesce(max(version), 0) from haul_journal_migrations", [], |row| row.get(0)).map_err(Err)?;
        if found > VERSION {
            return Err(Ok(too_new(&format!("the journal {}", self.path.display()), found)));
        }
        for version in found..VERSION {
            transaction.execute_batch(MIGRATIONS[version as usize]).map_err(Err)?;
            transaction
                .execute("insert into haul_journal_migrations values (?1, ?2)", params![version + 1, clock::now_ms()])
                .map_err(Err)?;
        }
        transaction.commit().map_err(Err)
    }

    /// Gives a run of which another event has taken a place; then nothing is written.
    fn write(&mut self, events: &[(i64, Event)]) -> rusqlite::Result<Option<String>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut run = transaction.prepare_cached("insert into haul_journal_runs values (?1, ?2, ?3) on conflict do nothing")?;
            let mut insert =
                transaction.prepare_cached("insert into haul_journal_events values (?1, ?2, ?3, ?4, ?5) on conflict do nothing")?;
            for (place, event) in events {
                if let What::RunStarted { pipeline, .. } = &event.what {
                    run.execute(params![event.run, pipeline, event.at_ms])?;
                }
                let text = serde_json::to_string(event).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                if insert.execute(params![event.run, place, event.at_ms, event.what.kind(), text])? == 0 {
                    let there = "select event from haul_journal_events where run = ?1 and place = ?2";
                    let there: String = transaction.prepare_cached(there)?.query_row(params![event.run, place], |row| row.get(0))?;
                    if there != text {
                        return Ok(Some(event.run.clone()));
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(None)
    }

    fn ids(&self, sql: &str, of: &str, limit: u32) -> Result<Vec<String>, Failure> {
        let read =
            || self.connection.prepare_cached(sql)?.query_map(params![of, limit], |row| row.get(0))?.collect::<rusqlite::Result<_>>();
        read().map_err(|error| refused(&self.path, error))
    }

    /// The lock's file, beside the journal. What cannot stand in a file's name is written as `%` and its code point, so that no two
    /// pipelines share a file.
    fn lock_path(&self, pipeline: &str) -> PathBuf {
        let written = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c.to_string() } else { format!("%{:x}", u32::from(c)) };
        let mut file = self.path.as_os_str().to_owned();
        file.push(format!("-{}.lock", pipeline.chars().map(written).collect::<String>()));
        PathBuf::from(file)
    }
}

impl Store for SqliteStore {
    fn append(&mut self, events: &[(i64, Event)]) -> Result<Option<String>, Failure> {
        self.write(events).map_err(|error| refused(&self.path, error))
    }

    fn next_place(&mut self, run: &str) -> Result<i64, Failure> {
        let sql = "select max(place) + 1 from haul_journal_events where run = ?1";
        let found = self.connection.query_row(sql, [run], |row| row.get::<_, Option<i64>>(0)).optional();
        Ok(found.map_err(|error| refused(&self.path, error))?.flatten().unwrap_or(0))
    }

    fn events(&mut self, run: &str, summary: bool) -> Result<Vec<Event>, Failure> {
        let sql = "select place, event from haul_journal_events where run = ?1 and (kind <> ?2 or not ?3) order by place";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![run, SPLIT_FINISHED, summary], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, String)>>>()
        };
        let rows = read().map_err(|error| refused(&self.path, error))?;
        rows.iter().map(|(place, text)| parse(run, *place, text)).collect()
    }

    fn runs(&mut self, pipeline: Option<&str>, limit: u32) -> Result<Vec<String>, Failure> {
        match pipeline {
            Some(pipeline) => {
                let sql = "select run from haul_journal_runs where pipeline = ?1 order by started_ms desc, run desc limit ?2";
                self.ids(sql, pipeline, limit)
            }
            None => self.ids("select run from haul_journal_runs where ?1 = '' order by started_ms desc, run desc limit ?2", "", limit),
        }
    }

    fn runs_like(&mut self, prefix: &str, limit: u32) -> Result<Vec<String>, Failure> {
        let sql = "select run from haul_journal_runs where substr(run, 1, length(?1)) = ?1 order by started_ms desc, run desc limit ?2";
        self.ids(sql, prefix, limit)
    }

    fn change(&mut self, changes: &[Change]) -> Result<Vec<bool>, Failure> {
        let mut work = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = changes.iter().map(|change| make(&transaction, change)).collect::<rusqlite::Result<Vec<bool>>>()?;
            transaction.commit()?;
            Ok(done)
        };
        work().map_err(|error| refused(&self.path, error))
    }

    fn records(&mut self, kind: &str, prefix: &str, limit: u32) -> Result<Vec<(String, String)>, Failure> {
        // A range of keys instead of a function of them, so that the index is used.
        let sql = "select key, value from haul_journal_records where kind = ?1 and key >= ?2 and key < ?2 || char(1114111)
            order by at_ms desc, key desc limit ?3";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![kind, prefix, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| refused(&self.path, error))
    }

    fn ended_since(&mut self, after_ms: i64) -> Result<Vec<(String, i64)>, Failure> {
        let sql = "select run, max(at_ms) from haul_journal_events where kind = 'run_finished' and at_ms > ?1 group by run order by 2, 1";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map([after_ms], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, i64)>>>()
        };
        read().map_err(|error| refused(&self.path, error))
    }

    fn prune(&mut self, before_ms: i64, runs: u32) -> Result<Vec<String>, Failure> {
        let mut work = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "select run from (
                    select run, started_ms, row_number() over (partition by pipeline order by started_ms desc, run desc) as place
                    from haul_journal_runs)
                where place > 1 and (started_ms < ?1 or place > ?2)";
            let ids: Vec<String> =
                transaction.prepare(sql)?.query_map(params![before_ms, runs], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            for id in &ids {
                transaction.prepare_cached("delete from haul_journal_events where run = ?1")?.execute([id])?;
                transaction.prepare_cached("delete from haul_journal_runs where run = ?1")?.execute([id])?;
            }
            for kind in PRUNED {
                transaction.execute("delete from haul_journal_records where kind = ?1 and at_ms < ?2", params![kind, before_ms])?;
            }
            transaction.commit()?;
            Ok(ids)
        };
        work().map_err(|error| refused(&self.path, error))
    }

    fn lock(&mut self, pipeline: &str) -> Result<Lock, Failure> {
        let path = self.lock_path(pipeline);
        let failed = |error| Failure::permanent(format!("failed to lock {}", path.display())).cause(error);
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let (mut file, locked) = loop {
            let file = open().map_err(failed)?;
            let locked = file.try_lock();
            // Whoever had it may have removed it since it was opened, and somebody else have a new one.
            if locked.is_err() || is_at(&file, &path) {
                break (file, locked);
            }
        };
        match locked {
            Ok(()) => {
                // Written only for the process that comes second, so that its error can name this one.
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                write!(file, "process {} since {}", std::process::id(), clock::rfc3339(clock::now_ms())).map_err(failed)?;
                self.locks.insert(pipeline.to_owned(), file);
                Ok(Lock::Taken)
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.is_empty();
                Ok(Lock::HeldBy(if known { holder } else { "another process".to_owned() }))
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    fn unlock(&mut self, pipeline: &str) {
        // While it is locked nobody else removes it, so that this is the file that was locked.
        let _ = std::fs::remove_file(self.lock_path(pipeline));
        self.locks.remove(pipeline);
    }
}

/// Whether a file is the one of this path: it may have been removed since it was opened.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(std::fs::metadata(path)).is_some_and(|there| identity(file.metadata()) == Some(there))
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Makes one change, and says whether it did something.
fn make(transaction: &rusqlite::Transaction<'_>, change: &Change) -> rusqlite::Result<bool> {
    let write =
        |sql: &str, record: &Record| transaction.prepare_cached(sql)?.execute(params![record.kind, record.key, record.at_ms, record.value]);
    let rows = match change {
        Change::Add(record) => write("insert into haul_journal_records values (?1, ?2, ?3, ?4) on conflict do nothing", record)?,
        Change::Put(record) => write(
            "insert into haul_journal_records values (?1, ?2, ?3, ?4)
                on conflict do update set at_ms = excluded.at_ms, value = excluded.value",
            record,
        )?,
        Change::Remove(kind, key) => {
            transaction.prepare_cached("delete from haul_journal_records where kind = ?1 and key = ?2")?.execute(params![kind, key])?
        }
    };
    Ok(rows > 0)
}

/// Creates the journal's folder. A folder that is made here keeps itself out of git.
fn create_folder(path: &Path) -> Result<(), Failure> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) else { return Ok(()) };
    let made = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(".gitignore"), "*\n"));
    made.map_err(|error| {
        Failure::permanent(format!("failed to create the journal's folder {}", folder.display()))
            .help("make the project's folder writable, or name another journal with `state:` in haul.yaml")
            .cause(error)
    })
}

/// What an error of SQLite means for the run, and the way out.
fn refused(path: &Path, error: rusqlite::Error) -> Failure {
    let path = path.display();
    let (busy, help) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (true, "another process writes to the journal for long: try again"),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (false, MOVE_ASIDE),
        Some(ErrorCode::DiskFull) => (false, "make room on the disk that holds the journal"),
        _ => (false, "make the journal's file and folder writable, or name another journal with `state:` in haul.yaml"),
    };
    let message = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => format!("the journal {path} is damaged"),
        _ => format!("failed to use the journal {path}"),
    };
    if busy { Failure::transient(message) } else { Failure::permanent(message) }.help(help).cause(error)
}
