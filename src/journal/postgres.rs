//! The journal in PostgreSQL, and locks as its advisory locks.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{Connection, Row};
use tokio::runtime::Handle;

use crate::clock::{self, Stopwatch};
use crate::failure::{Failure, FailureKind};

use super::event::{Event, SPLIT_FINISHED, What};
use super::record::Change;
use super::schedule::PRUNED;
use super::store::{Lock, Store, VERSION, parse, too_new};

/// Each entry brings the tables from the version of its index to the next one.
const MIGRATIONS: [&str; VERSION as usize] = [
    "
    create table haul_journal_runs (run text primary key, pipeline text not null, started_ms bigint not null);
    create index haul_journal_runs_pipeline on haul_journal_runs (pipeline, started_ms);
    create table haul_journal_events (
        run text not null, place bigint not null, at_ms bigint not null, kind text not null, event text not null,
        primary key (run, place)
    );
",
    "
    create table haul_journal_records (
        kind text not null, key text collate \"C\" not null, at_ms bigint not null, value text not null, primary key (kind, key)
    );
    create index haul_journal_records_at on haul_journal_records (kind, at_ms);
    create index haul_journal_events_ended on haul_journal_events (at_ms) where kind = 'run_finished';
",
];

const ADD: &str = "insert into haul_journal_records values ($1, $2, $3, $4) on conflict do nothing";
const PUT: &str = "insert into haul_journal_records values ($1, $2, $3, $4)
    on conflict (kind, key) do update set at_ms = excluded.at_ms, value = excluded.value";

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);

/// How long locks may take to come back after a lost connection: the server may not have noticed the loss yet.
const RELOCK: Duration = Duration::from_secs(10);

/// The journal in PostgreSQL. One connection, which also holds the locks.
pub(super) struct PostgresStore {
    options: PgConnectOptions,
    runtime: Handle,
    connection: PgConnection,
    /// The server's process behind `connection`.
    backend: i32,
    /// Whether `connection` is lost, and the locks with it.
    broken: bool,
    locks: Vec<String>,
    /// Locks that other processes have taken while there was no connection. As long as somebody here believes to have one, nothing is done.
    lost: Vec<String>,
}

impl PostgresStore {
    /// Reads a URL. TLS is verified for hosts other than this machine unless the URL says otherwise.
    pub(super) fn options(url: &str) -> Result<PgConnectOptions, Failure> {
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            // The library's own text may quote the URL, password and all.
            Failure::permanent("the journal's PostgreSQL URL cannot be read")
                .help("it looks like `postgres://user:password@host:5432/database`")
        })?;
        let near = options.get_socket().is_some() || ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&options.get_host());
        let options = if near || url.contains("sslmode=") { options } else { options.ssl_mode(PgSslMode::VerifyFull) };
        Ok(options.application_name(&format!("haul {}", std::process::id())).options([("tcp_keepalives_idle", "30")]))
    }

    /// Connects, and brings the tables up to date.
    pub(super) fn open(options: PgConnectOptions, runtime: Handle) -> Result<Self, Failure> {
        let (mut connection, backend) = runtime.block_on(connect(&options))?;
        let found = runtime.block_on(migrate(&mut connection)).map_err(|error| refused(&options, error))?;
        if found > VERSION {
            return Err(too_new(&format!("the journal in {}", place(&options)), found));
        }
        Ok(Self { options, runtime, connection, backend, broken: false, locks: Vec::new(), lost: Vec::new() })
    }

    /// Does `work`; when the connection turns out to be lost, on a new one, once. The work must be one that may be done twice.
    fn with<T>(&mut self, work: impl AsyncFn(&mut PgConnection) -> sqlx::Result<T>) -> Result<T, Failure> {
        self.fence()?;
        if !self.broken {
            let first = self.runtime.block_on(Box::pin(work(&mut self.connection)));
            self.broken = first.as_ref().is_err_and(is_lost);
            if !self.broken {
                return first.map_err(|error| refused(&self.options, error));
            }
        }
        self.reconnect()?;
        self.fence()?;
        let second = self.runtime.block_on(Box::pin(work(&mut self.connection)));
        self.broken = second.as_ref().is_err_and(is_lost);
        second.map_err(|error| refused(&self.options, error))
    }

    /// Connects again and takes the locks again. Another process may have taken some meanwhile.
    fn reconnect(&mut self) -> Result<(), Failure> {
        let runtime = self.runtime.clone();
        let (mut connection, backend) = runtime.block_on(connect(&self.options))?;
        let (mut kept, mut lost) = (Vec::new(), Vec::new());
        let waited = Stopwatch::start();
        for pipeline in &self.locks {
            let taken = runtime.block_on(relock(&mut connection, pipeline, self.backend, waited));
            let taken = taken.map_err(|error| refused(&self.options, error))?;
            if taken { &mut kept } else { &mut lost }.push(pipeline.clone());
        }
        // Not before, so that the next request begins anew when this was cut short.
        (self.connection, self.backend, self.broken, self.locks) = (connection, backend, false, kept);
        self.lost.extend(lost);
        Ok(())
    }

    /// Whoever has lost a lock is over, and must not learn of it from the answer to one request alone.
    fn fence(&self) -> Result<(), Failure> {
        let Some(pipeline) = self.lost.first() else { return Ok(()) };
        let message = format!("the connection to the journal was lost, and another process has taken over the lease of `{pipeline}`");
        Err(Failure::new(FailureKind::Fenced, message))
    }
}

impl Store for PostgresStore {
    fn append(&mut self, events: &[(i64, Event)]) -> Result<Option<String>, Failure> {
        let rows = Rows::of(events)?;
        self.with(async |connection| {
            let mut transaction = connection.begin().await?;
            let insert = "insert into haul_journal_runs select * from unnest($1::text[], $2::text[], $3::bigint[]) on conflict do nothing";
            let query = sqlx::query(insert).bind(&rows.new_runs).bind(&rows.pipelines).bind(&rows.started_ms);
            query.execute(&mut *transaction).await?;
            let insert = "insert into haul_journal_events
                select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[]) on conflict do nothing";
            let query = sqlx::query(insert).bind(&rows.runs).bind(&rows.places).bind(&rows.at_ms).bind(&rows.kinds).bind(&rows.texts);
            if query.execute(&mut *transaction).await?.rows_affected() < rows.runs.len() as u64 {
                // They are there when the answer to their commit was lost; others in their places are another process's.
                let others = "select run from unnest($1::text[], $2::bigint[], $3::text[]) as own (run, place, event)
                    join haul_journal_events as there using (run, place) where there.event <> own.event limit 1";
                let query = sqlx::query_scalar(others).bind(&rows.runs).bind(&rows.places).bind(&rows.texts);
                if let Some(run) = query.fetch_optional(&mut *transaction).await? {
                    return Ok(Some(run));
                }
            }
            transaction.commit().await?;
            Ok(None)
        })
    }

    fn next_place(&mut self, run: &str) -> Result<i64, Failure> {
        let sql = "select coalesce(max(place) + 1, 0) from haul_journal_events where run = $1";
        self.with(async |connection| sqlx::query_scalar(sql).bind(run).fetch_one(connection).await)
    }

    fn events(&mut self, run: &str, summary: bool) -> Result<Vec<Event>, Failure> {
        let sql = "select place, event from haul_journal_events where run = $1 and (kind <> $2 or not $3) order by place";
        let rows: Vec<(i64, String)> =
            self.with(async |connection| sqlx::query_as(sql).bind(run).bind(SPLIT_FINISHED).bind(summary).fetch_all(connection).await)?;
        rows.iter().map(|(place, text)| parse(run, *place, text)).collect()
    }

    fn runs(&mut self, pipeline: Option<&str>, limit: u32) -> Result<Vec<String>, Failure> {
        let sql = "select run from haul_journal_runs where $1 is null or pipeline = $1 order by started_ms desc, run desc limit $2";
        self.with(async |connection| sqlx::query_scalar(sql).bind(pipeline).bind(i64::from(limit)).fetch_all(connection).await)
    }

    fn runs_like(&mut self, prefix: &str, limit: u32) -> Result<Vec<String>, Failure> {
        let sql = "select run from haul_journal_runs where starts_with(run, $1) order by started_ms desc, run desc limit $2";
        self.with(async |connection| sqlx::query_scalar(sql).bind(prefix).bind(i64::from(limit)).fetch_all(connection).await)
    }

    fn change(&mut self, changes: &[Change]) -> Result<Vec<bool>, Failure> {
        self.with(async |connection| {
            let mut transaction = connection.begin().await?;
            let mut done = Vec::with_capacity(changes.len());
            for change in changes {
                let (sql, record) = match change {
                    Change::Add(record) => (ADD, record),
                    Change::Put(record) => (PUT, record),
                    Change::Remove(kind, key) => {
                        let remove = sqlx::query("delete from haul_journal_records where kind = $1 and key = $2").bind(*kind).bind(key);
                        done.push(remove.execute(&mut *transaction).await?.rows_affected() > 0);
                        continue;
                    }
                };
                let write = sqlx::query(sql).bind(record.kind).bind(&record.key).bind(record.at_ms).bind(&record.value);
                done.push(write.execute(&mut *transaction).await?.rows_affected() > 0);
            }
            transaction.commit().await?;
            Ok(done)
        })
    }

    fn records(&mut self, kind: &str, prefix: &str, limit: u32) -> Result<Vec<(String, String)>, Failure> {
        let sql =
            "select key, value from haul_journal_records where kind = $1 and starts_with(key, $2) order by at_ms desc, key desc limit $3";
        self.with(async |connection| sqlx::query_as(sql).bind(kind).bind(prefix).bind(i64::from(limit)).fetch_all(connection).await)
    }

    fn ended_since(&mut self, after_ms: i64) -> Result<Vec<(String, i64)>, Failure> {
        let sql = "select run, max(at_ms) from haul_journal_events where kind = 'run_finished' and at_ms > $1 group by run order by 2, 1";
        self.with(async |connection| sqlx::query_as(sql).bind(after_ms).fetch_all(connection).await)
    }

    fn prune(&mut self, before_ms: i64, runs: u32) -> Result<Vec<String>, Failure> {
        self.with(async |connection| {
            let mut transaction = connection.begin().await?;
            let sql = "select run from (
                    select run, started_ms, row_number() over (partition by pipeline order by started_ms desc, run desc) as place
                    from haul_journal_runs) as placed
                where place > 1 and (started_ms < $1 or place > $2)";
            let ids: Vec<String> = sqlx::query_scalar(sql).bind(before_ms).bind(i64::from(runs)).fetch_all(&mut *transaction).await?;
            for sql in ["delete from haul_journal_events where run = any($1)", "delete from haul_journal_runs where run = any($1)"] {
                sqlx::query(sql).bind(&ids).execute(&mut *transaction).await?;
            }
            let records = "delete from haul_journal_records where kind = any($1) and at_ms < $2";
            sqlx::query(records).bind(&PRUNED[..]).bind(before_ms).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(ids)
        })
    }

    fn lock(&mut self, pipeline: &str) -> Result<Lock, Failure> {
        let taken = self.with(async |connection| {
            if try_lock(connection, pipeline).await? { Ok(Lock::Taken) } else { holder(connection, pipeline).await.map(Lock::HeldBy) }
        })?;
        if matches!(taken, Lock::Taken) {
            self.locks.push(pipeline.to_owned());
        }
        Ok(taken)
    }

    fn unlock(&mut self, pipeline: &str) {
        self.locks.retain(|held| held != pipeline);
        if self.lost.iter().any(|lost| lost == pipeline) {
            self.lost.retain(|lost| lost != pipeline);
            return;
        }
        let sql = "select pg_advisory_unlock(hashtextextended('haul pipeline ' || $1, 0))";
        // A failure means that the connection is gone, and the lock with it.
        let _ = self.runtime.block_on(sqlx::query(sql).bind(pipeline).execute(&mut self.connection));
    }
}

/// Events as the columns of the two tables.
#[derive(Default)]
struct Rows<'a> {
    new_runs: Vec<&'a str>,
    pipelines: Vec<&'a str>,
    started_ms: Vec<i64>,
    runs: Vec<&'a str>,
    places: Vec<i64>,
    at_ms: Vec<i64>,
    kinds: Vec<&'static str>,
    texts: Vec<String>,
}

impl<'a> Rows<'a> {
    fn of(events: &'a [(i64, Event)]) -> Result<Self, Failure> {
        let mut rows = Self::default();
        for (place, event) in events {
            if let What::RunStarted { pipeline, .. } = &event.what {
                rows.new_runs.push(&event.run);
                rows.pipelines.push(pipeline);
                rows.started_ms.push(event.at_ms);
            }
            rows.runs.push(&event.run);
            rows.places.push(*place);
            rows.at_ms.push(event.at_ms);
            rows.kinds.push(event.what.kind());
            rows.texts.push(serde_json::to_string(event).map_err(|error| Failure::permanent("failed to write an event").cause(error))?);
        }
        Ok(rows)
    }
}

async fn connect(options: &PgConnectOptions) -> Result<(PgConnection, i32), Failure> {
    let work = async {
        let mut connection = PgConnection::connect_with(options).await?;
        let backend = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
        Ok((connection, backend))
    };
    match tokio::time::timeout(CONNECT, work).await {
        Ok(result) => result.map_err(|error| refused(options, error)),
        Err(_) => Err(Failure::transient(format!("the journal in {} did not answer within {} s", place(options), CONNECT.as_secs()))),
    }
}

/// Applies what is missing, and gives the version that was found when that is too new, else ours.
async fn migrate(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let mut transaction = connection.begin().await?;
    // Two programs that start at once do this one after the other.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('haul journal migration', 0))").execute(&mut *transaction).await?;
    sqlx::query("create table if not exists haul_journal_migrations (version bigint primary key, applied_ms bigint not null)")
        .execute(&mut *transaction)
        .await?;
    let found: i64 =
        sqlx::query_scalar("select coalesce(max(version), 0) from haul_journal_migrations").fetch_one(&mut *transaction).await?;
    for version in found..VERSION {
        sqlx::raw_sql(MIGRATIONS[version as usize]).execute(&mut *transaction).await?;
        let applied = sqlx::query("insert into haul_journal_migrations values ($1, $2)").bind(version + 1).bind(clock::now_ms());
        applied.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(found.max(VERSION))
}

async fn try_lock(connection: &mut PgConnection, pipeline: &str) -> sqlx::Result<bool> {
    let sql = "select pg_try_advisory_lock(hashtextextended('haul pipeline ' || $1, 0))";
    sqlx::query_scalar(sql).bind(pipeline).fetch_one(connection).await
}

/// Takes a lock that the lost connection of the server's process `old` held, ending that process when it still lives.
async fn relock(connection: &mut PgConnection, pipeline: &str, old: i32, waited: Stopwatch) -> sqlx::Result<bool> {
    loop {
        if try_lock(connection, pipeline).await? {
            return Ok(true);
        }
        if waited.elapsed() > RELOCK {
            return Ok(false);
        }
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and application_name = current_setting('application_name')";
        sqlx::query(end).bind(old).execute(&mut *connection).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Who holds a pipeline's lock, for people.
async fn holder(connection: &mut PgConnection, pipeline: &str) -> sqlx::Result<String> {
    let sql = "select a.application_name, coalesce(host(a.client_addr), 'the server''s own machine'),
            (extract(epoch from a.backend_start) * 1000)::bigint
        from pg_locks l join pg_stat_activity a using (pid), hashtextextended('haul pipeline ' || $1, 0) as key
        where l.locktype = 'advisory' and l.granted and l.objsubid = 1
            and (l.classid::bigint << 32 | l.objid::bigint) = key
            and l.database = (select oid from pg_database where datname = current_database())";
    let found = sqlx::query(sql).bind(pipeline).fetch_optional(connection).await?;
    Ok(match found {
        Some(row) => {
            let (name, host, since): (String, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let process = name.strip_prefix("haul ").map_or(name.clone(), |pid| format!("process {pid}"));
            format!("{process} on {host} since {}", clock::rfc3339(since))
        }
        None => "another process".to_owned(),
    })
}

/// Whether a statement failed because its connection is gone, so that a new one may do it.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // Class 57P: the server ended the session (shutdown, crash, an administrator).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

/// Host, port and database, without user or password.
fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    format!("postgres://{}:{}/{database}", options.get_host(), options.get_port())
}

/// What an error of PostgreSQL means for the run, and the way out.
fn refused(options: &PgConnectOptions, error: sqlx::Error) -> Failure {
    let message = format!("failed to use the journal in {}", place(options));
    let failure = if is_lost(&error) { Failure::transient(message) } else { Failure::permanent(message) };
    failure.help("check the address and the privileges, or name another journal with `state:` in haul.yaml").cause(error)
}
