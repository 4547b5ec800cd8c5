//! Opening the file, and what SQLite's errors mean for a run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection as Sqlite, ErrorCode, InterruptHandle, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::poll::SqlitePoll;
use super::sink::SqliteSink;
use super::source::SqliteSource;
use super::tables::SqliteTables;
use crate::connectors::{Sink, Source, TargetProblem};
use crate::data::Schema;
use crate::define::pipeline::{Connection, PollSource, SqlSink, SqlSource};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// How long a statement waits for another process's lock before it gives up, to be tried again by the run's own policy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The page cache of one connection, in KiB.
const CACHE_KIB: i64 = 16 * 1024;

/// Bytes of rows that may wait in memory for their turn to be written, over all writers of a database.
const WAITING: usize = 32 << 20;

/// Device and number of a file; `None` when it does not exist.
type FileIdentity = Option<(u64, u64)>;

/// One SQLite file. Opens it only when a source or sink is used.
pub struct Database {
    name: String,
    path: PathBuf,
    max_connections: usize,
    /// Held while this process writes to the file, so that its own writers wait in turn instead of polling SQLite's lock.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// Room for rows that wait for their turn, in bytes.
    room: Arc<Semaphore>,
    /// The writer that is not in use. Closing the last connection would copy the whole write-ahead log into the file.
    idle: Mutex<Option<(FileIdentity, Sqlite)>>,
}

impl Database {
    /// Reads the connection's URL: `sqlite:path`, `sqlite://path` or `sqlite:///absolute/path`; relative paths start at `base`. Fails for
    /// other URLs, and for `:memory:`, which would end with the first connection.
    pub fn new(connection: &Connection, base: &Path) -> Result<Arc<Self>, Failure> {
        let name = &connection.name;
        let url = connection.url.reveal();
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| {
            Failure::permanent(format!("the URL of connection `{name}` is no SQLite URL")).help("write `sqlite:path/to/file.db`")
        })?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() {
            return Err(Failure::permanent(format!("the URL of connection `{name}` names no file")).help("write `sqlite:path/to/file.db`"));
        }
        if path.contains(":memory:") || path.contains("mode=memory") {
            return Err(Failure::permanent(format!("connection `{name}` asks for a database in memory"))
                .help("a database in memory belongs to one connection and ends with it, and a run uses several: name a file"));
        }
        if path.contains(['?', '\0']) {
            return Err(Failure::permanent(format!("the URL of connection `{name}` has options, and SQLite URLs take none here"))
                .help("write `sqlite:path/to/file.db`"));
        }
        Ok(Arc::new(Self {
            name: name.clone(),
            path: base.join(path),
            max_connections: connection.max_connections.max(1) as usize,
            writing: Arc::default(),
            room: Arc::new(Semaphore::new(WAITING)),
            idle: Mutex::default(),
        }))
    }

    /// A table, view or query of this file.
    pub fn source(self: &Arc<Self>, source: &SqlSource) -> Arc<dyn Source> {
        Arc::new(SqliteSource::new(self.clone(), source.clone()))
    }

    /// A table, view or query of this file to follow.
    pub fn poll(self: &Arc<Self>, source: &PollSource) -> Arc<dyn Source> {
        Arc::new(SqlitePoll { database: self.clone(), spec: source.clone() })
    }

    /// A table of this file.
    pub fn sink(self: &Arc<Self>, sink: &SqlSink) -> Arc<dyn Sink> {
        Arc::new(SqliteSink::new(self.clone(), Arc::new(sink.clone())))
    }

    /// Tables of this file that are written together, each with the columns that come for it.
    pub fn tables(self: &Arc<Self>, tables: Vec<(SqlSink, Schema)>) -> Arc<dyn Sink> {
        Arc::new(SqliteTables::new(self.clone(), tables))
    }

    pub(in crate::connectors) fn path(&self) -> &Path {
        &self.path
    }

    /// Most readers of one view of the file.
    pub(super) fn readers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.max_connections.min(cores).min(8)
    }

    /// Room in memory for rows that wait for their turn; `None` when the other rows leave too little.
    pub(super) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// Waits for the turn to write within this process.
    pub(in crate::connectors) async fn turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.writing.clone().lock_owned().await
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Why the file cannot be written, when that shows without writing.
    pub(super) fn unwritable(&self) -> Option<TargetProblem> {
        let read_only = |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().readonly());
        // Missing folders are made with the file; the nearest one that is there must let that happen.
        let folder = self.folder().ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let (message, help) = if read_only(&self.path) || read_only(folder) {
            (format!("{} cannot be written", self.path.display()), "give this user the right to write the file and its folder")
        } else {
            return None;
        };
        Some(TargetProblem { code: "target-read-only", field: "", message, help: help.to_owned() })
    }

    /// A connection that changes nothing. It opens the file for writing all the same when it may, because a journal that a killed process
    /// left behind must be rolled back before anybody can read.
    pub(in crate::connectors) fn open_reader(&self) -> Result<Sqlite, Failure> {
        if !self.path.exists() {
            return Err(Failure::permanent(format!("there is no database file at {}", self.path.display()))
                .help(format!("check the URL of connection `{}`", self.name)));
        }
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "query_only", true).map_err(|error| self.failure(error))?;
        Ok(connection)
    }

    /// The connection that wrote last, or a new one.
    pub(in crate::connectors) fn writer(&self) -> Result<Sqlite, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A file that was removed or replaced would be written where nobody looks.
        match idle {
            Some((identity, connection)) if identity == self.identity() => Ok(connection),
            _ => self.open_writer(),
        }
    }

    /// Keeps a writer for the next one who writes.
    pub(in crate::connectors) fn keep(&self, connection: Sqlite) {
        if connection.is_autocommit() {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.identity(), connection));
        }
    }

    #[cfg(unix)]
    fn identity(&self) -> FileIdentity {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    #[cfg(not(unix))]
    fn identity(&self) -> FileIdentity {
        None
    }

    /// A connection that writes. A file that does not exist yet is created, with a write-ahead log, so that readers and the writer do not
    /// wait for each other; the journal mode of an existing file is its owner's business.
    pub(in crate::connectors) fn open_writer(&self) -> Result<Sqlite, Failure> {
        std::fs::create_dir_all(self.folder())
            .map_err(|error| Failure::permanent(format!("failed to create the folder {}", self.folder().display())).cause(error))?;
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let setup = || {
            let pages: i64 = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0))?;
            let version: i64 = connection.pragma_query_value(None, "schema_version", |row| row.get(0))?;
            if pages == 0 && version == 0 {
                connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
            }
            // References are the rules of a table as much as its other constraints are.
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "synchronous", "full")
        };
        setup().map_err(|error| self.failure(error))?;
        Ok(connection)
    }

    fn open(&self, flags: OpenFlags) -> Result<Sqlite, Failure> {
        let setup = || {
            let connection = Sqlite::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            Ok(connection)
        };
        setup().map_err(|error| self.failure(error))
    }

    /// What an error means for the run, and what to do about it.
    pub(in crate::connectors) fn failure(&self, error: rusqlite::Error) -> Failure {
        let file = self.path.display();
        let Some(code) = error.sqlite_error_code() else {
            let failure = Failure::permanent(format!("SQLite refused a statement on {file}"));
            return match error {
                // The whole statement is left out: it is long, and the pipeline's own texts may stand in it.
                rusqlite::Error::SqlInputError { msg, .. } => failure.cause(msg),
                error => failure.cause(error),
            };
        };
        let (kind, message, help) = match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => (
                FailureKind::Transient,
                format!("{file} is locked by another connection"),
                "wait for the other process to finish its transaction, or stop it",
            ),
            ErrorCode::SchemaChanged => {
                (FailureKind::Transient, format!("the tables of {file} changed while they were used"), "run again when nobody alters them")
            }
            ErrorCode::OperationInterrupted => (FailureKind::Cancelled, "stopped on request".to_owned(), ""),
            ErrorCode::DiskFull => (
                FailureKind::Permanent,
                format!("there is no room left to write {file}"),
                "free space on its disk; the run then goes on where it stopped",
            ),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                (FailureKind::Permanent, format!("{file} cannot be written"), "give this user the right to write the file and its folder")
            }
            ErrorCode::CannotOpen => (
                FailureKind::Permanent,
                format!("{file} cannot be opened"),
                "check that its folder exists and that this user may read and write it",
            ),
            ErrorCode::SystemIoFailure => {
                (FailureKind::Permanent, format!("the disk failed under {file}"), "check the disk and the file system, then run again")
            }
            ErrorCode::DatabaseCorrupt => (
                FailureKind::Permanent,
                format!("{file} is damaged"),
                "restore it from a backup, or save what can be read with `sqlite3 FILE .recover`",
            ),
            ErrorCode::NotADatabase => {
                (FailureKind::Permanent, format!("{file} is no SQLite database, or an encrypted one"), "check the connection's URL")
            }
            ErrorCode::OutOfMemory => (FailureKind::Transient, format!("no memory was left to work on {file}"), "lower `limits.memory`"),
            ErrorCode::TooBig => (
                FailureKind::BadRows,
                "a value or row is larger than SQLite's limit of 1,000,000,000 bytes".to_owned(),
                "leave the column out, or cut its values",
            ),
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch => {
                (FailureKind::BadRows, format!("a row breaks a rule of a table in {file}"), "")
            }
            _ => (FailureKind::Permanent, format!("SQLite refused a statement on {file}"), ""),
        };
        let failure = Failure::new(kind, message);
        let failure = if help.is_empty() { failure } else { failure.help(help) };
        if kind == FailureKind::Cancelled { failure } else { failure.cause(error) }
    }
}

/// Interrupts what a connection is doing when the future or stream that waits for it is dropped.
#[derive(Clone)]
pub(in crate::connectors) struct Interrupt(Arc<Mutex<Option<InterruptHandle>>>);

impl Interrupt {
    pub(super) fn new(connection: &Sqlite) -> Self {
        Self(Arc::new(Mutex::new(Some(connection.get_interrupt_handle()))))
    }

    /// The work is done: from here on the connection may be used for something else, and is left alone.
    pub(super) fn disarm(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Interrupts the work, unless it is done.
    pub(super) fn fire(&self) {
        if let Some(handle) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            handle.interrupt();
        }
    }

    /// Whether the work was interrupted, or is done.
    pub(super) fn fired(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// Fires an interrupt when it is dropped.
pub(super) struct OnDrop(pub(super) Interrupt);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fire();
    }
}

/// Runs blocking work on a connection on a thread of its own, and gives the connection back. Dropping the future interrupts the work;
/// work of many statements looks at [`Interrupt::fired`] between them.
pub(in crate::connectors) async fn blocking<T: Send + 'static>(
    mut connection: Sqlite,
    work: impl FnOnce(&mut Sqlite, &Interrupt) -> Result<T, Failure> + Send + 'static,
) -> Result<(Sqlite, T), Failure> {
    let interrupt = Interrupt::new(&connection);
    let _guard = OnDrop(interrupt.clone());
    tasks::blocking(move || {
        let result = work(&mut connection, &interrupt);
        interrupt.disarm();
        result.map(|result| (connection, result))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn database(folder: &Path) -> Arc<Database> {
        let url = Secret::new("sqlite:full.db".to_owned());
        let connection =
            Connection { name: "shop".to_owned(), engine: None, url, max_connections: 1, http: Default::default(), at: String::new() };
        Database::new(&connection, folder).expect("a file's URL")
    }

    fn refusal(database: &Database, connection: &Sqlite, sql: &str) -> Failure {
        database.failure(connection.execute_batch(sql).expect_err(sql))
    }

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = database(folder.path());
        let connection = database.open_writer().expect("a connection");
        connection.execute_batch("create table t (id integer primary key, x)").expect("a table");

        let other = database.open_writer().expect("another connection");
        other.execute_batch("begin immediate").expect("the lock");
        connection.busy_timeout(Duration::ZERO).expect("no patience");
        let busy = refusal(&database, &connection, "insert into t values (1, 1)");
        assert_eq!(busy.kind, FailureKind::Transient, "{busy}");
        other.execute_batch("rollback").expect("the lock is free");

        connection.pragma_update(None, "max_page_count", 4).expect("a full disk");
        let full = refusal(&database, &connection, "insert into t values (1, zeroblob(100000))");
        assert_eq!(full.kind, FailureKind::Permanent);
        assert!(full.message.contains("no room left") && full.help.is_some(), "{full}");

        let reader = database.open_reader().expect("a reader");
        let read_only = refusal(&database, &reader, "insert into t values (1, 1)");
        assert_eq!(read_only.kind, FailureKind::Permanent, "{read_only}");
        assert_eq!(refusal(&database, &connection, "insert into t values ('x', 1)").kind, FailureKind::BadRows);
        let wrong = refusal(&database, &connection, "select nothing_of_that_name from t where 'a secret' = ''");
        assert!(wrong.to_string().contains("nothing_of_that_name") && !wrong.to_string().contains("secret"), "{wrong}");
    }

    #[test]
    fn a_new_file_has_a_log_and_the_mode_of_an_old_one_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = database(folder.path());
        let mode =
            |connection: &Sqlite| connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).expect("a mode");
        assert_eq!(mode(&database.open_writer().expect("a connection")), "wal");
        let connection = database.open_writer().expect("a connection");
        connection.execute_batch("create table t (x); pragma journal_mode = delete;").expect("another mode");
        assert_eq!(mode(&database.open_writer().expect("a connection")), "delete");
        assert_eq!(connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).expect("a level"), 2);
    }
}
