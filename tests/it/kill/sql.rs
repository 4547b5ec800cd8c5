//! The SQL sinks.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::rows::{COUNT, Mode, PAYLOAD_SQL, Rows, gather, source};
use super::{PIPELINE, Target, torture};
use crate::support::{Project, postgres};

#[test]
fn sqlite_append() {
    sqlite(Mode::Append);
}

#[test]
fn sqlite_replace() {
    sqlite(Mode::Replace);
}

#[test]
fn sqlite_upsert() {
    sqlite(Mode::Upsert);
}

#[test]
fn postgres_append() {
    in_postgres(Mode::Append, "");
}

#[test]
fn postgres_replace() {
    in_postgres(Mode::Replace, "");
}

#[test]
fn postgres_upsert() {
    in_postgres(Mode::Upsert, "");
}

/// With a step in between, rows are decoded, and written by the typed writer.
#[test]
fn postgres_append_typed() {
    in_postgres(Mode::Append, "    transform:\n      - set: { payload: \"payload || ''\" }\n");
}

fn sqlite(mode: Mode) {
    let project = Project::new();
    let target = Sqlite { path: project.path("target.db"), mode };
    sqlite_source(&project);
    project.file(&format!("pipelines/{PIPELINE}.yaml"), pipeline("sqlite:source.db", "items", "sqlite:target.db", "items", mode, ""));
    torture(&project, &target);
}

fn in_postgres(mode: Mode, transform: &str) {
    let (from, to) = (postgres_source(), postgres().fresh_database());
    let project = Project::new();
    project.file(&format!("pipelines/{PIPELINE}.yaml"), pipeline(&from, "public.items", &to, "public.items", mode, transform));
    torture(&project, &Postgres { url: to, mode });
}

/// A database with the rows of the source, by its URL.
pub fn postgres_source() -> String {
    let url = postgres().fresh_database();
    postgres().sql(
        &url,
        &format!(
            "create table items (id bigint primary key, payload text not null);
             insert into items select id, {PAYLOAD_SQL} from generate_series(1, {COUNT}) id"
        ),
    );
    postgres().sql(&url, "vacuum analyze items");
    url
}

/// A SQLite file with the rows of the source.
pub fn sqlite_source(project: &Project) {
    let mut source_db = Connection::open(project.path("source.db")).expect("a new database");
    // Only with a write-ahead log can splits share a snapshot, and only then are there several.
    source_db.pragma_update(None, "journal_mode", "wal").expect("a write-ahead log");
    let transaction = source_db.transaction().expect("a transaction");
    transaction.execute_batch("create table items (id integer primary key, payload text not null)").expect("a table");
    fill(&transaction, source());
    transaction.commit().expect("a commit");
}

/// One stage, cut into many small splits.
pub fn pipeline(from: &str, read: &str, to: &str, write: &str, mode: Mode, transform: &str) -> String {
    let key = if mode == Mode::Upsert { ", key: [id]" } else { "" };
    format!(
        "connections:
  from: {{ url: \"{from}\" }}
  to: {{ url: \"{to}\" }}
stages:
  copy:
    kind: batch
    from: {{ sql: from, table: {read} }}
{transform}    to: {{ sql: to, table: {write}, mode: {}{key} }}
    splits: {{ most: 64, bytes: 16KiB, concurrency: 3 }}
",
        mode.word()
    )
}

fn fill(database: &Connection, rows: impl IntoIterator<Item = (i64, String)>) {
    let mut insert = database.prepare("insert into items values (?1, ?2)").expect("an insert");
    for (id, payload) in rows {
        insert.execute((id, payload)).expect("a row");
    }
}

/// A table of a SQLite file.
pub struct Sqlite {
    pub path: PathBuf,
    pub mode: Mode,
}

impl Sqlite {
    pub fn rows(&self) -> Result<Rows, String> {
        let read = || -> rusqlite::Result<Rows> {
            let database = Connection::open(&self.path)?;
            database.busy_timeout(Duration::from_secs(5))?;
            let mut query = database.prepare("select id, payload from items")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<Vec<_>, _>>()?;
            Ok(gather(rows))
        };
        read().map_err(|error| format!("the target cannot be read: {error}"))
    }
}

impl Target for Sqlite {
    fn reset(&self) {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{ending}", self.path.display()));
        }
        let mut database = Connection::open(&self.path).expect("a new database");
        let transaction = database.transaction().expect("a transaction");
        // No unique key where rows are only added: a row that is written twice must show.
        let key = if self.mode == Mode::Upsert { " primary key" } else { "" };
        transaction.execute_batch(&format!("create table items (id integer{key}, payload text not null)")).expect("a table");
        transaction.execute_batch("create view seen as select * from items").expect("a view");
        fill(&transaction, self.mode.before());
        transaction.commit().expect("a commit");
    }

    fn after_kill(&self, recorded: u64) -> Result<(), String> {
        self.mode.check_after_kill(&self.rows()?, recorded)
    }

    fn at_end(&self) -> Result<(), String> {
        self.mode.check_at_end(&self.rows()?)?;
        let database = Connection::open(&self.path).map_err(|error| error.to_string())?;
        let ask = |sql: &str| database.query_row(sql, [], |row| row.get::<_, String>(0)).map_err(|error| error.to_string());
        let objects =
            ask("select group_concat(name, ' ') from (select name from sqlite_schema where name not like 'sqlite_%' order by name)")?;
        let check = ask("pragma integrity_check")?;
        let seen = ask("select cast(count(*) as text) from seen")?;
        only_own("SQLite", &objects, "items seen")?;
        let expected = self.mode.after().len().to_string();
        if check == "ok" && seen == expected {
            Ok(())
        } else {
            Err(format!("integrity: {check}; the view shows {seen} rows of {expected}"))
        }
    }
}

/// A table of a PostgreSQL database.
pub struct Postgres {
    pub url: String,
    pub mode: Mode,
}

impl Postgres {
    fn ask(&self, sql: &str) -> String {
        postgres().sql(&self.url, sql)
    }

    pub fn rows(&self) -> Rows {
        let text = self.ask("select id, payload from items");
        let rows = text.lines().map(|line| line.split_once('|').expect("two columns"));
        gather(rows.map(|(id, payload)| (id.parse().expect("a number"), payload.to_owned())))
    }
}

impl Target for Postgres {
    fn reset(&self) {
        let key = if self.mode == Mode::Upsert { " primary key" } else { "" };
        let kept = "insert into items select id, 'there before' from generate_series(-100, -1) id";
        let older = format!("insert into items select id, 'to be replaced' from generate_series(1, {COUNT}, 2) id");
        self.ask(&format!(
            "set client_min_messages = warning; drop schema if exists haul cascade; drop schema public cascade; create schema public;
             create table items (id bigint{key}, payload text not null); create view seen as select * from items; {kept};
             {}",
            if self.mode == Mode::Upsert { older.as_str() } else { "" }
        ));
    }

    fn after_kill(&self, recorded: u64) -> Result<(), String> {
        self.mode.check_after_kill(&self.rows(), recorded)
    }

    fn at_end(&self) -> Result<(), String> {
        self.mode.check_at_end(&self.rows())?;
        let objects = self.ask(
            "select string_agg(format('%s', oid::regclass), ' ' order by oid::regclass::text) from pg_class
             where relkind in ('r', 'p', 'v', 'm', 'S', 'f') and relnamespace not in (select oid from pg_namespace where nspname ~ '^(pg_|information_schema)')",
        );
        only_own("PostgreSQL", &objects, "items seen")?;
        let seen = self.ask("select count(*) from seen");
        let expected = self.mode.after().len().to_string();
        if seen != expected {
            return Err(format!("the view shows {seen} rows of {expected}"));
        }
        self.no_sessions()
    }
}

impl Postgres {
    /// The server notices a killed client when it next talks to it: a moment is allowed, no more.
    fn no_sessions(&self) -> Result<(), String> {
        let others = "select coalesce(string_agg(format('%s: %s: %s', pid, state, left(query, 60)), '; '), '') from pg_stat_activity
                      where datname = current_database() and pid <> pg_backend_pid()";
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.ask(others);
            if found.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("sessions are left: {found}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let prepared = self.ask("select count(*) from pg_prepared_xacts");
        if prepared == "0" { Ok(()) } else { Err(format!("{prepared} prepared transactions are left")) }
    }
}

/// Beside `expected`, only the tables in which haul keeps its marks may be there.
fn only_own(engine: &str, objects: &str, expected: &str) -> Result<(), String> {
    let strange: Vec<&str> =
        objects.split(' ').filter(|name| !expected.split(' ').any(|other| other == *name) && !is_marks(name)).collect();
    if strange.is_empty() { Ok(()) } else { Err(format!("{engine} holds what nobody asked for: {}", strange.join(", "))) }
}

fn is_marks(name: &str) -> bool {
    ["haul_loads", "haul_marks"].contains(&name)
}
